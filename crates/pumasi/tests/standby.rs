//! A standby end to end: real daemons, everything of its home killed, its own daemon too, load, as `pumasi lab play standby` plays it.

mod played;

/// Every run must be correct. A promise about time that one run broke, or of which a busy machine let it say nothing, is played for again.
const RUNS_MAX: u32 = 2;

#[test]
fn a_standby_outlives_its_home_and_helps_under_load() {
    for run in 1..=RUNS_MAX {
        let played = played::lab(&["play", "standby"]);
        let (story, report, promises) = (&played.story, &played.report, played.promises());
        let broken = played.wrong();
        assert!(broken.is_empty(), "run {run}: {broken:#?}\n{story}\n{report}");
        assert!(promises.len() > 10, "the scenario judged nothing:\n{report}");
        match played.code {
            Some(0) => return,
            Some(3) => eprintln!("run {run}: the machine was the bottleneck; {}", played.parsed["invalid_because"]),
            Some(1) if run < RUNS_MAX => eprintln!("run {run}: a time was not kept\n{story}\n{report}"),
            other => panic!("run {run}: exit {other:?}\n{story}\n{report}"),
        }
    }
    eprintln!("correct in every run; the machine was too busy for a word about time");
}
