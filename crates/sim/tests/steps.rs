//! Fail every step of the journey, on the simulator's drivers in virtual time and on real ones.

use pumasi_sim::steps::{Fault, STEPS, Verdict, cases, play};

#[test]
fn census() {
    for recall in [false, true] {
        let t = std::time::Instant::now();
        let played = play(recall, None).unwrap();
        eprintln!("{recall} {:?} virtual {} ms, real {:?}", played.end, played.ms, t.elapsed());
        eprintln!("{:?}", played.broken);
        for (step, n) in STEPS.iter().zip(&played.counts) {
            eprintln!("{n:4} {}", step.name);
        }
        let _ = (Fault::Fails, Verdict::Same, cases().count());
    }
}
