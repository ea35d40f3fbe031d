//! A planned move end to end: real daemons, gateways and load, there and back, as `pumasi lab play move` plays it.

mod played;

/// Every run must be correct. A promise about time that one run broke, or of which a busy machine let it say nothing, is played for again.
const RUNS_MAX: u32 = 2;

#[test]
fn services_move_there_and_back_and_nobody_notices() {
    for run in 1..=RUNS_MAX {
        let played = played::lab(&["play", "move"]);
        let (story, report, promises) = (&played.story, &played.report, played.promises());
        let broken = played.wrong();
        assert!(broken.is_empty(), "run {run}: {broken:#?}\n{story}\n{report}");
        assert!(promises.len() > 15, "the scenario judged nothing:\n{report}");
        match played.code {
            Some(0) => return,
            Some(3) => eprintln!("run {run}: the machine was the bottleneck; {}", played.parsed["invalid_because"]),
            Some(1) => eprintln!("run {run}: a time was not kept\n{story}\n{report}"),
            other => panic!("run {run}: exit {other:?}\n{story}\n{report}"),
        }
    }
    eprintln!("correct in every run; not every time was kept, or the machine was too busy for a word about it");
}
