//! How far the generation in force has come at home, and why not farther.
//!
//! Enters: what is wanted, what the engine says of the instances, what was refused, which of them the gateway sends requests to.
//! Leaves: one word, the numbers behind it and a reason.
//! Always holds: a generation that has nothing to show but failures is told as failing, whatever an older one still serves.

use crate::fleet::Desired;
use pumasi_api::message::{OlderGeneration, Rollout, RolloutState};
use pumasi_engine::{InstanceState, InstanceStatus, Trouble};
use pumasi_terms::{InstanceId, WallMs};

/// One that has not been ready for so long after its start is failing, though nothing of it ended.
const PATIENCE_MS: u64 = 10_000;

/// A start that was refused before anything ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub why: String,
    pub tries: u32,
}

/// `routed`: whether the gateway sends requests to an instance. `words`: what may be told of a trouble.
pub fn of(
    want: &Desired,
    actual: &[InstanceStatus],
    refused: Option<&Refused>,
    routed: impl Fn(&InstanceId) -> bool,
    words: impl Fn(&Trouble) -> String,
    now: WallMs,
) -> Rollout {
    let own: Vec<&InstanceStatus> = actual.iter().filter(|i| i.owner == want.owner).collect();
    let serves = |i: &&&InstanceStatus| i.state == InstanceState::Ready && routed(&i.id);
    let (current, older): (Vec<_>, Vec<_>) = own.into_iter().partition(|i| i.generation == want.generation);
    let ready = current.iter().filter(serves).count() as u32;
    let failing: Vec<&&InstanceStatus> = current.iter().filter(|i| fails(i, now)).collect();
    let is_left = older.iter().any(|i| !matches!(i.state, InstanceState::Stopped { .. }));
    let newest = older.iter().filter(serves).map(|i| i.generation).max();
    let older = newest.map(|generation| OlderGeneration {
        generation,
        ready: older.iter().filter(serves).filter(|i| i.generation == generation).count() as u32,
    });
    let tries = current.iter().map(|i| i.restarts).max().unwrap_or(0).max(refused.map_or(0, |r| r.tries));
    let why = match refused {
        Some(refused) => refused.why.clone(),
        None => {
            let troubled = failing.iter().copied().chain(&current).find_map(|i| i.trouble.as_ref());
            troubled.map(words).unwrap_or_default()
        }
    };
    let state = match () {
        () if ready >= want.count && !is_left => RolloutState::Done,
        () if refused.is_some() || !failing.is_empty() => RolloutState::Failing,
        () => RolloutState::Progressing,
    };
    Rollout { state, generation: want.generation, ready, wanted: want.count, older, tries, why }
}

fn fails(i: &InstanceStatus, now: WallMs) -> bool {
    match &i.state {
        InstanceState::Ready | InstanceState::Stopped { .. } => false,
        InstanceState::BackingOff { .. } | InstanceState::Failed { .. } => true,
        InstanceState::Starting | InstanceState::Unready { .. } => {
            i.restarts > 0 && i.trouble.is_some() || i.started_at.is_some_and(|at| now.since(at) >= PATIENCE_MS)
        }
    }
}

/// For people: "generation 3: exited with code 1 (tried 4 times); generation 2 goes on serving".
pub fn words(rollout: &Rollout) -> String {
    let Rollout { generation, ready, wanted, .. } = rollout;
    let mut text = match rollout.state {
        RolloutState::Done => return String::new(),
        RolloutState::Progressing => format!("generation {generation}: {ready} of {wanted} instances are ready"),
        RolloutState::Failing if rollout.why.is_empty() => {
            format!("generation {generation}: not ready {} s after its start", PATIENCE_MS / 1_000)
        }
        RolloutState::Failing => format!("generation {generation}: {}", rollout.why),
    };
    if rollout.state == RolloutState::Progressing && !rollout.why.is_empty() {
        text.push_str(&format!("; {}", rollout.why));
    }
    if rollout.tries > 0 {
        let times = if rollout.tries == 1 { "once".to_owned() } else { format!("{} times", rollout.tries) };
        text.push_str(&format!(" (failed {times})"));
    }
    if let Some(older) = &rollout.older {
        text.push_str(&format!("; generation {} goes on serving", older.generation));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: u128, generation: u64, state: InstanceState, restarts: u32, trouble: &str) -> InstanceStatus {
        InstanceStatus {
            trouble: (!trouble.is_empty()).then(|| Trouble::new(trouble)),
            started_at: Some(WallMs(0)),
            restarts,
            ..crate::fleet::tests::status(id, generation, state)
        }
    }

    fn seen(generation: u64, actual: &[InstanceStatus], refused: Option<&Refused>, now: i64) -> Rollout {
        let want = Desired { owner: "service-x".into(), count: 2, generation };
        of(&want, actual, refused, |_| true, |t| t.why.clone(), WallMs(now))
    }

    #[test]
    fn done_is_everything_of_it_and_nothing_of_another() {
        let ready = |id, generation| status(id, generation, InstanceState::Ready, 0, "");
        assert_eq!(seen(1, &[ready(1, 1), ready(2, 1)], None, 5).state, RolloutState::Done);
        let half = seen(2, &[ready(1, 2), ready(2, 1)], None, 5);
        assert_eq!((half.state, half.ready), (RolloutState::Progressing, 1));
        assert_eq!(words(&half), "generation 2: 1 of 2 instances are ready; generation 1 goes on serving");
        // An old one that answers the last of its requests is left still, though it serves nobody anew.
        let want = Desired { owner: "service-x".into(), count: 1, generation: 2 };
        let routed = |id: &InstanceId| *id == InstanceId::from_entropy(1);
        let drains = of(&want, &[ready(1, 2), ready(2, 1)], None, routed, |t| t.why.clone(), WallMs(5));
        assert_eq!((drains.state, drains.ready, drains.older), (RolloutState::Progressing, 1, None));
        // Ready, and not in the gateway's table yet.
        let want = Desired { owner: "service-x".into(), count: 1, generation: 1 };
        let unrouted = of(&want, &[ready(1, 1)], None, |_| false, |t| t.why.clone(), WallMs(5));
        assert_eq!(unrouted.state, RolloutState::Progressing);
    }

    #[test]
    fn what_only_fails_is_failing_beside_an_old_one_that_serves() {
        let off = InstanceState::BackingOff { restarts: 3, why: "exited with code 1".into() };
        let old = status(1, 1, InstanceState::Ready, 0, "");
        let told = seen(2, &[old, status(2, 2, off, 3, "exited with code 1")], None, 5);
        assert_eq!(told.state, RolloutState::Failing);
        assert_eq!(words(&told), "generation 2: exited with code 1 (failed 3 times); generation 1 goes on serving");
    }

    #[test]
    fn one_that_starts_again_is_failing_still_and_one_that_starts_at_all_is_not() {
        let again = status(1, 1, InstanceState::Starting, 4, "exited with code 1");
        assert_eq!(seen(1, &[again], None, 5).state, RolloutState::Failing);
        let first = status(1, 1, InstanceState::Starting, 0, "");
        assert_eq!(seen(1, std::slice::from_ref(&first), None, 9_999).state, RolloutState::Progressing);
        assert_eq!(seen(1, &[first], None, 10_000).state, RolloutState::Failing);
    }

    #[test]
    fn a_refused_start_is_failing() {
        let refused = |tries| Refused { why: "no such program".into(), tries };
        assert_eq!(words(&seen(1, &[], Some(&refused(1)), 5)), "generation 1: no such program (failed once)");
        let told = seen(1, &[], Some(&refused(2)), 5);
        assert_eq!((told.state, told.tries), (RolloutState::Failing, 2));
        assert_eq!(words(&told), "generation 1: no such program (failed 2 times)");
    }
}
