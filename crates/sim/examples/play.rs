//! Plays seeds: `play FIRST LAST [MUTANT]`. The full command is `pumasi lab sim`.

use pumasi_sim::mutant::Mutant;
use pumasi_sim::{Setup, play};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (first, last): (u64, u64) = (args[0].parse()?, args[1].parse()?);
    let mutant = args.get(2).and_then(|m| Mutant::by_name(m));
    let began = std::time::Instant::now();
    let mut virtual_ms = 0;
    for seed in first..=last {
        let outcome = play(&Setup { mutant, ..Setup::random(seed) })?;
        virtual_ms += outcome.virtual_ms;
        println!(
            "seed {seed}: {} broken, {} ms, {} messages, {} leases, {} journeys, {} lives, {} answered, {} by rented, {} lines, print {:x}",
            outcome.broken.len(),
            outcome.virtual_ms,
            outcome.messages,
            outcome.leases,
            outcome.journeys,
            outcome.lives,
            outcome.completed,
            outcome.rented,
            outcome.story.told(),
            outcome.story.fingerprint()
        );
        if !outcome.broken.is_empty() {
            if first == last {
                println!("{}", outcome.story.text());
            }
            for b in &outcome.broken {
                println!("BROKEN {b:?}");
            }
        }
    }
    let real = began.elapsed().as_millis() as u64;
    println!("{virtual_ms} virtual ms in {real} ms: {} x", virtual_ms / real.max(1));
    Ok(())
}
