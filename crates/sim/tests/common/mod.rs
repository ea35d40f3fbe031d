//! What the tests of the table share: they play the journeys without a fault and each case, and compare the ends.

#![allow(dead_code, clippy::unwrap_used)]

use pumasi_sim::steps::{Fault, Play, Played, STEPS, Verdict, cases};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub type Case = (usize, Fault);
pub type Player<'a> = dyn Fn(Play, Option<Case>) -> anyhow::Result<Played> + Sync + 'a;

/// `STEP` and `FAULT` choose one row, one fault, or one case.
fn chosen(step: &str, fault: Fault) -> bool {
    let fits = |name: &str, value: String| std::env::var(name).map_or(true, |wanted| wanted == value);
    fits("STEP", step.to_owned()) && fits("FAULT", format!("{fault:?}"))
}

pub fn every_case() -> Vec<Case> {
    cases().filter(|(at, fault)| chosen(STEPS[*at].name, *fault)).collect()
}

pub fn step(name: &str) -> usize {
    STEPS.iter().position(|s| s.name == name).unwrap_or_else(|| panic!("no step {name:?}"))
}

/// What is wrong with the journeys without a fault, which the others are measured by.
pub fn plainly_wrong(played: &Played, what: Play, of: &[Case]) -> Vec<String> {
    let Played { end, broken, counts, fired, .. } = played;
    let mut wrong: Vec<String> = broken.iter().map(|b| format!("oracle {}: {}", b.oracle, b.what)).collect();
    wrong.extend(fired.clone());
    match end.beside(end, false) {
        Verdict::Same => {}
        other => wrong.push(format!("{other:?}: {end:?}")),
    }
    let steps =
        STEPS.iter().zip(counts).enumerate().filter(|(at, (s, _))| s.play == what && of.iter().any(|c| c.0 == *at));
    let missing = steps.filter(|(_, (_, count))| **count == 0);
    wrong.extend(missing.map(|(_, (s, _))| format!("{:?} does not happen: the table is wrong", s.name)));
    wrong
}

/// Plays the journeys without a fault and each case, `at_once` beside each other, and answers how often each verdict was given.
pub fn fail_each(play: &Player<'_>, todo: &[Case], at_once: usize) -> BTreeMap<&'static str, usize> {
    assert!(!todo.is_empty(), "no such case");
    let plain = Play::ALL.into_iter().filter(|what| todo.iter().any(|(at, _)| STEPS[*at].play == *what));
    let runs: Vec<(Play, Option<Case>)> =
        plain.map(|p| (p, None)).chain(todo.iter().map(|c| (STEPS[c.0].play, Some(*c)))).collect();
    let (next, played) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(runs.len()) {
            scope.spawn(|| {
                while let Some((what, case)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = play(*what, *case);
                    played.lock().unwrap().push((*what, *case, result));
                }
            });
        }
    });
    let (took, played) = (begun.elapsed(), played.into_inner().unwrap());
    let mut ends = BTreeMap::new();
    let mut wrong = Vec::new();
    for (what, _, result) in played.iter().filter(|(_, case, _)| case.is_none()) {
        let name = format!("{what:?} without a fault");
        match result {
            Err(e) => wrong.push(format!("{name}: not played: {e:#}")),
            Ok(played) => {
                let faults = plainly_wrong(played, *what, todo);
                if !faults.is_empty() {
                    wrong.push(format!("{name}:\n    {}\n{}", faults.join("\n    "), played.story.text()));
                }
                ends.insert(*what, played.end.clone());
            }
        }
    }
    let mut verdicts = BTreeMap::new();
    let mut slowest = (0, String::new());
    for (what, case, result) in &played {
        let (Some((at, fault)), Some(plain)) = (case, ends.get(what)) else { continue };
        let case = format!("{:?} {fault:?}", STEPS[*at].name);
        let played = match result {
            Ok(played) => played,
            Err(e) => {
                wrong.push(format!("{case}: not played: {e:#}"));
                continue;
            }
        };
        if played.ms > slowest.0 {
            slowest = (played.ms, format!("{case}, its story: {}", keep_story("slowest", played)));
        }
        let mut faults: Vec<String> =
            played.broken.iter().map(|b| format!("oracle {}: {}", b.oracle, b.what)).collect();
        if played.fired.is_none() {
            faults.push("the fault never struck".into());
        }
        let verdict = match played.end.beside(plain, fault.kills()) {
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
        *verdicts.entry(verdict).or_default() += 1;
        if !faults.is_empty() {
            wrong.push(format!("{case}:\n    {}\n    its story: {}", faults.join("\n    "), keep_story(&case, played)));
        }
    }
    eprintln!("{} cases in {took:.1?}: {verdicts:?}; the longest took {} ms: {}", todo.len(), slowest.0, slowest.1);
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {} went wrong:\n{}", wrong.len(), runs.len(), wrong.join("\n"));
    verdicts
}

fn keep_story(case: &str, played: &Played) -> String {
    let name: String = case.chars().filter(|c| *c != '"').map(|c| if c == ' ' { '-' } else { c }).collect();
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.txt"));
    std::fs::write(&path, played.story.text()).unwrap();
    path.display().to_string()
}
