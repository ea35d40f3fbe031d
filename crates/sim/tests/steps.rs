//! Fail every step of the journey, on the simulator's drivers in virtual time.

use pumasi_sim::steps::{End, Fault, Played, STEPS, Verdict, cases, play, uncovered};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A failing case says how to play it alone: `STEP='send chunks' FAULT=Twice cargo test -p pumasi-sim --test steps -- --nocapture`.
fn chosen(step: &str, fault: Fault) -> bool {
    let fits = |name: &str, value: String| std::env::var(name).map_or(true, |wanted| wanted == value);
    fits("STEP", step.to_owned()) && fits("FAULT", format!("{fault:?}"))
}

fn plain(recall: bool) -> End {
    let Played { end, broken, counts, fired, .. } = play(recall, None).unwrap();
    assert!(broken.is_empty() && fired.is_none(), "{broken:?}");
    assert_eq!(end.beside(&end, false), Verdict::Same, "{end:?}");
    assert!(!end.leases.is_empty() && end.leases.values().any(|l| l.served));
    for (step, count) in STEPS.iter().zip(counts).filter(|(s, _)| recall || !s.recall) {
        assert!(count > 0, "{:?} does not happen in the journey without a fault: the table is wrong", step.name);
    }
    end
}

#[test]
fn every_message_and_every_act_of_a_journey_stands_in_the_table() {
    assert_eq!(uncovered(), Vec::<String>::new());
}

#[test]
fn whatever_step_fails_once_the_journey_ends_as_without_it_or_is_refused_with_a_reason() {
    let ends = [plain(false), plain(true)];
    let todo: Vec<(usize, Fault)> = cases().filter(|(at, fault)| chosen(STEPS[*at].name, *fault)).collect();
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let verdicts = Mutex::new(BTreeMap::<&str, usize>::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((at, fault)) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let step = &STEPS[*at];
                    let case = format!("{:?} {fault:?}", step.name);
                    let played = play(step.recall, Some((*at, *fault))).unwrap();
                    let mut faults: Vec<String> =
                        played.broken.iter().map(|b| format!("oracle {}: {}", b.oracle, b.what)).collect();
                    if played.fired.is_none() {
                        faults.push("the fault never struck".into());
                    }
                    let verdict = match played.end.beside(&ends[usize::from(step.recall)], fault.kills()) {
                        Verdict::Same => "as without the fault",
                        Verdict::Reading(why) => {
                            eprintln!("{case}: {why:?}");
                            "as without the fault, a reading lost and told"
                        }
                        Verdict::Refused(why) => {
                            eprintln!("{case}: refused: {why:?}");
                            "refused with a reason"
                        }
                        Verdict::Broken(why) => {
                            faults.extend(why);
                            "broken"
                        }
                    };
                    *verdicts.lock().unwrap().entry(verdict).or_default() += 1;
                    if !faults.is_empty() {
                        let story = if todo.len() == 1 { played.story.text() } else { String::new() };
                        wrong.lock().unwrap().push(format!("{case}:\n    {}\n{story}", faults.join("\n    ")));
                    }
                }
            });
        }
    });
    let (mut wrong, verdicts) = (wrong.into_inner().unwrap(), verdicts.into_inner().unwrap());
    eprintln!("{} cases: {verdicts:?}", todo.len());
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {} cases went wrong:\n{}", wrong.len(), todo.len(), wrong.join("\n"));
}
