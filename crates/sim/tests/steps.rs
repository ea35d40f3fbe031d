//! Fail every step of the journey: on the simulator's drivers in virtual time; on files and processes in real time it is unfinished.

#![allow(clippy::unwrap_used)]

use pumasi_sim::steps::{End, Fault, Played, Programs, STEPS, Verdict, cases, play, play_real, uncovered};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Worlds beside each other: one for each core in virtual time; in real time they mostly wait.
const VIRTUAL: usize = 2;
const REAL: usize = 18;

/// A failing case is played alone, with its story, by `STEP='send chunks' FAULT=Twice cargo test -p pumasi-sim --test steps -- virtual`.
fn chosen(step: &str, fault: Fault) -> bool {
    let fits = |name: &str, value: String| std::env::var(name).map_or(true, |wanted| wanted == value);
    fits("STEP", step.to_owned()) && fits("FAULT", format!("{fault:?}"))
}

type Play<'a> = dyn Fn(bool, Option<(usize, Fault)>) -> anyhow::Result<Played> + Sync + 'a;

fn plain(play: &Play<'_>, recall: bool) -> End {
    let Played { end, broken, counts, fired, story, .. } = play(recall, None).unwrap();
    assert!(broken.is_empty() && fired.is_none(), "{broken:?}");
    assert_eq!(end.beside(&end, false), Verdict::Same, "{end:?}\n{}", story.text());
    for (step, count) in STEPS.iter().zip(counts).filter(|(s, _)| recall || !s.recall) {
        assert!(count > 0, "{:?} does not happen in the journey without a fault: the table is wrong", step.name);
    }
    end
}

fn fail_each(play: &Play<'_>, todo: &[(usize, Fault)], at_once: usize) {
    let ends = std::thread::scope(|scope| {
        let both = [scope.spawn(|| plain(play, false)), scope.spawn(|| plain(play, true))];
        both.map(|e| e.join().unwrap())
    });
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let verdicts = Mutex::new(BTreeMap::<&str, usize>::new());
    let one = |at: usize, fault: Fault| {
        let step = &STEPS[at];
        let case = format!("{:?} {fault:?}", step.name);
        let played = match play(step.recall, Some((at, fault))) {
            Ok(played) => played,
            Err(e) => return wrong.lock().unwrap().push(format!("{case}: not played: {e:#}")),
        };
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
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some((at, fault)) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    one(*at, *fault);
                }
            });
        }
    });
    let (mut wrong, verdicts) = (wrong.into_inner().unwrap(), verdicts.into_inner().unwrap());
    eprintln!("{} cases: {verdicts:?}", todo.len());
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {} cases went wrong:\n{}", wrong.len(), todo.len(), wrong.join("\n"));
}

fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is not built: cargo build -p pumasi-sim --examples", path.display());
    path
}

fn fail_each_for_real(todo: &[(usize, Fault)]) {
    let programs = Programs { host: example("pumasi-sim-host"), app: example("pumasi-sim-app") };
    let worlds = AtomicU32::new(0);
    fail_each(&|recall, fault| play_real(&programs, worlds.fetch_add(1, Ordering::Relaxed), recall, fault), todo, REAL);
}

#[test]
fn every_message_and_every_act_of_a_journey_stands_in_the_table() {
    assert_eq!(uncovered(), Vec::<String>::new());
}

#[test]
fn virtual_every_fault_at_every_step_ends_as_without_it_or_is_refused_with_a_reason() {
    let todo: Vec<_> = cases().filter(|(at, fault)| chosen(STEPS[*at].name, *fault)).collect();
    fail_each(&play, &todo, VIRTUAL);
}

/// Not proven yet: the clouds come up on real drivers, but the journey without a fault does not come to its end there.
#[test]
#[ignore = "unfinished: the journey on real drivers does not end yet"]
fn real_the_worst_fault_at_every_step_ends_as_without_it_or_is_refused_with_a_reason() {
    let worst = STEPS.iter().enumerate().map(|(at, step)| (at, step.worst()));
    let todo: Vec<_> = worst.filter(|(at, fault)| chosen(STEPS[*at].name, *fault)).collect();
    fail_each_for_real(&todo);
}

#[test]
#[ignore = "unfinished as the one above; then it takes minutes"]
fn real_every_fault_at_every_step_ends_as_without_it_or_is_refused_with_a_reason() {
    let todo: Vec<_> = cases().filter(|(at, fault)| chosen(STEPS[*at].name, *fault)).collect();
    fail_each_for_real(&todo);
}
