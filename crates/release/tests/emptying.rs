//! The lender's emptying under every order of events.

use proptest::prelude::*;
use pumasi_release::lender;
use pumasi_release::*;
use pumasi_terms::{BootMs, Now, WallMs};

fn at(ms: u64) -> Now {
    Now { boot: BootMs(ms), wall: WallMs(0) }
}

proptest! {
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
