//! Releases at both ends, in the plain order and in every other.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use pumasi_lease::message::Emptiness;
use pumasi_release::lender;
use pumasi_release::*;
use pumasi_terms::{BootMs, Now, WallMs};

fn at(ms: u64) -> Now {
    Now { boot: BootMs(ms), wall: WallMs(0) }
}

fn empty() -> Option<Emptiness> {
    Some(Emptiness::default())
}

fn notes(acts: &[Act]) -> Vec<String> {
    let note = |a: &Act| match a {
        Act::Note(text) => text.split(':').next().map(str::to_owned),
        _ => None,
    };
    acts.iter().filter_map(note).collect()
}

fn steps(facts: &[Facts], each_ms: u64) -> (Vec<Step>, Vec<String>, ReleaseState) {
    let bounds = Bounds::default();
    let mut state = ReleaseState::begin(at(0));
    let (mut steps, mut told) = (Vec::new(), Vec::new());
    for (n, facts) in facts.iter().enumerate() {
        let (next, acts) = advance(&state, facts, &bounds, at((n as u64 + 1) * each_ms));
        told.extend(notes(&acts));
        steps.push(next.step);
        state = next;
    }
    (steps, told, state)
}

#[test]
fn the_plain_way() {
    let base = Facts { lender_instances: 2, lender_reachable: true, ..Facts::default() };
    let drained = Facts { drained: true, ..base.clone() };
    let stopped = Facts { lender_instances: 0, ..drained.clone() };
    let returned = Facts { returned: true, ..stopped.clone() };
    let left = Facts { emptiness: Some(Emptiness { files: 3, ..Emptiness::default() }), ..returned.clone() };
    let proven = Facts { emptiness: empty(), ..returned.clone() };
    let settled = Facts { settled: true, ..proven.clone() };
    let (steps, told, state) = steps(&[base, drained, stopped, returned, left, proven, settled], 100);
    use Step::*;
    assert_eq!(steps, [Draining, Stopping, Returning, Erasing, Erasing, Settling, Done]);
    assert_eq!((told, state.proof), (Vec::<String>::new(), Proof::Proven));
}

#[test]
fn a_lost_lender_is_closed_as_unproven_and_still_listened_to() {
    let gone = Facts {
        drained: true,
        lender_instances: 2,
        lender_gone_for_ms: 20_000,
        lease_expired: true,
        ..Facts::default()
    };
    let (steps, told, state) = steps(std::slice::from_ref(&gone), 100);
    assert_eq!((steps, told), (vec![Step::Settling], vec!["lender_lost".to_owned()]));
    assert_eq!(state.proof, Proof::Unproven);
    let back =
        Facts { lender_reachable: true, lender_gone_for_ms: 0, emptiness: empty(), settled: true, ..gone.clone() };
    let (later, acts) = advance(&state, &back, &Bounds::default(), at(500_000));
    assert_eq!((later.step, later.proof), (Step::Done, Proof::Proven));
    assert_eq!(notes(&acts), ["proof_late"]);
    let (never, acts) = advance(&state, &gone, &Bounds::default(), at(3_700_000));
    assert_eq!((never.step, never.proof), (Step::Done, Proof::Unproven));
    assert_eq!(notes(&acts), ["settle_given_up"]);
    assert!(acts.contains(&Act::Close(Proof::Unproven)));
}

#[test]
fn an_unreachable_lender_is_waited_for_while_the_lease_lives() {
    let away = Facts { drained: true, lender_instances: 2, lender_gone_for_ms: 20_000, ..Facts::default() };
    let (steps, told, _) = steps(&[away.clone(), away], 100);
    assert_eq!((steps, told), (vec![Step::Stopping, Step::Stopping], Vec::new()));
}

#[test]
fn each_bound_is_told() {
    let stuck = Facts { lender_instances: 1, lender_reachable: true, ..Facts::default() };
    let all = vec![stuck; 400];
    let (steps, told, state) = steps(&all, 10_000);
    assert_eq!(told, ["drain_cut", "stop_late", "return_incomplete", "erase_unproven", "settle_given_up"]);
    assert_eq!((steps.last(), state.proof), (Some(&Step::Done), Proof::Unproven));
}

prop_compose! {
    fn any_facts()(
        drained in any::<bool>(), lender_instances in 0u32..2, returned in any::<bool>(), files in prop::option::of(0u64..2),
        settled in any::<bool>(), lender_reachable in any::<bool>(), gone in 0u64..20_000, lease_expired in any::<bool>(),
    ) -> Facts {
        Facts {
            drained, lender_instances, returned, settled, lender_reachable, lease_expired,
            emptiness: files.map(|files| Emptiness { files, ..Emptiness::default() }),
            lender_gone_for_ms: if lender_reachable { 0 } else { gone },
        }
    }
}

proptest! {
    #[test]
    fn whatever_the_order_of_facts(rounds in prop::collection::vec((any_facts(), 0u64..30_000), 1..200)) {
        let bounds = Bounds::default();
        let mut state = ReleaseState::begin(at(0));
        let (mut ms, mut drained, mut fetched, mut proven) = (0, false, false, false);
        for (facts, wait) in &rounds {
            ms += wait;
            let (next, acts) = advance(&state, facts, &bounds, at(ms));
            prop_assert!(next.step >= state.step, "never back");
            let told = notes(&acts);
            let has = |what: &str| told.iter().any(|t| t == what);
            drained |= facts.drained || has("drain_cut") || has("drain_expired");
            fetched |= facts.returned || has("return_incomplete") || has("lender_lost");
            proven |= facts.emptiness == empty();
            if acts.contains(&Act::Erase) {
                prop_assert!(drained && fetched, "erased too early");
            }
            if acts.contains(&Act::StopInstances) || acts.contains(&Act::RouteGone) {
                prop_assert!(drained, "cut too early");
            }
            prop_assert!(next.proof != Proof::Proven || proven);
            let closes = acts.iter().any(|a| matches!(a, Act::Close(_)));
            prop_assert_eq!(closes, next.step == Step::Done);
            let text = serde_json::to_string(&next).unwrap();
            prop_assert_eq!(&serde_json::from_str::<ReleaseState>(&text).unwrap(), &next);
            state = next;
        }
        // Whatever is so in the end, it ends.
        let (facts, _) = rounds.last().unwrap();
        for _ in 0..8 {
            ms += bounds.settle_late_ms;
            state = advance(&state, facts, &bounds, at(ms)).0;
        }
        prop_assert_eq!(state.step, Step::Done);
        prop_assert!(state.proof != Proof::Awaited);
    }

    #[test]
    fn a_lender_empties_itself_in_order(
        mut left in (0u64..3, 0u64..3, 0u64..3, 0u64..3, 0u64..3, 0u64..3).prop_map(|(routes, in_flight, processes, files, keys, holds)| Left {
            routes, in_flight, processes, files, bytes: files * 10, keys, holds,
        }),
        works in prop::collection::vec((any::<bool>(), 0u64..4_000), 1..60),
        turns_up in 0usize..60,
    ) {
        let bounds = EmptyingBounds::default();
        let mut state = Emptying::begin(at(0));
        let mut ms = 0;
        let rest = std::iter::repeat_n((true, 1_000), 60);
        for (n, (works, wait)) in works.iter().copied().chain(rest).enumerate() {
            ms += wait;
            if n == turns_up { left.processes += 1; }
            let (next, acts) = lender::advance(&state, &left, &bounds, at(ms));
            prop_assert!(acts.contains(&EmptyingAct::RoutesOff));
            for act in &acts {
                match act {
                    EmptyingAct::Stop { .. } => prop_assert!(left.in_flight == 0 || ms >= bounds.drain_ms || state.step != EmptyingStep::Routes),
                    EmptyingAct::EraseData => prop_assert_eq!(left.processes, 0),
                    EmptyingAct::EraseKeys => prop_assert_eq!((left.processes, left.files), (0, 0)),
                    EmptyingAct::Prove(proof) => prop_assert!(proof.is_empty() && left.processes == 0 && left.keys == 0),
                    _ => {}
                }
            }
            if works {
                if acts.contains(&EmptyingAct::RoutesOff) { left.routes = 0; }
                if acts.iter().any(|a| matches!(a, EmptyingAct::Stop { .. })) { left.processes = 0; left.in_flight = 0; }
                if acts.contains(&EmptyingAct::EraseData) { (left.files, left.bytes, left.holds) = (0, 0, 0); }
                if acts.contains(&EmptyingAct::EraseKeys) { left.keys = 0; }
            }
            state = next;
        }
        prop_assert_eq!(state.step, EmptyingStep::Proven);
    }
}
