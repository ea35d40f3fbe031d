//! A planned handover: whatever the heir answers and whenever somebody changes his mind, there is one owner, and nobody waits for ever.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use pumasi_journey::moving::{
    Answer, Ask, HOLD_MS_MAX, Move, Sight, Step, TRIES_MAX, abandon, after_reboot, answered, cancel, tick,
};
use pumasi_terms::*;

fn at(ms: u64) -> Now {
    Now { boot: BootMs(1_000_000 + ms), wall: WallMs(ms as i64) }
}

fn begun() -> Move {
    let name = |n: &str| CloudName::parse(n).unwrap();
    let service = (ServiceId::from_entropy(1), ServiceName::parse("notes").unwrap());
    Move::new(MoveId::from_entropy(1), service, name("city-b"), "root".into(), at(0))
}

fn ready() -> Sight {
    Sight {
        standby: Some(LeaseId::from_entropy(1)),
        behind_ms: Some(12),
        drained: true,
        caught: true,
        ..Sight::default()
    }
}

fn actions(told: &[pumasi_journey::Told]) -> Vec<&'static str> {
    told.iter().map(|t| t.action).collect()
}

#[test]
fn the_usual_way() {
    let far = Sight { behind_ms: Some(60_000), ..ready() };
    assert_eq!(tick(&begun(), &far, at(10)).0.step, Step::Placing, "nobody is held for a copy that is far behind");
    let m = tick(&begun(), &ready(), at(20)).0;
    assert_eq!((m.ask(), m.holds()), (Some(Ask::Prepare), false));
    let m = answered(&m, Answer::Prepared, at(25)).0;
    assert_eq!((m.ask(), m.holds()), (Some(Ask::Alert), false));
    let m = answered(&m, Answer::Alerted, at(30)).0;
    assert_eq!((&m.step, m.holds(), m.ask()), (&Step::Holding, true, None));
    let m = tick(&m, &Sight { drained: false, ..ready() }, at(40)).0;
    assert_eq!(m.step, Step::Holding, "requests are in flight");
    let m = tick(&m, &Sight { caught: false, ..ready() }, at(50)).0;
    let m = tick(&m, &Sight { caught: false, ..ready() }, at(60)).0;
    assert_eq!(m.step, Step::Catching);
    let m = tick(&m, &ready(), at(70)).0;
    assert_eq!(m.ask(), Some(Ask::Commit));
    let (m, told) = answered(&m, Answer::Committed, at(90));
    assert_eq!((m.ask(), m.opens(), actions(&told)), (Some(Ask::Open), true, vec!["tenure_given"]));
    let (m, told) = answered(&m, Answer::Opened, at(180));
    assert_eq!((m.is_open(), m.pause_ms, actions(&told)), (false, Some(150), vec!["moved"]));
}

#[test]
fn a_hold_that_comes_to_nothing_is_let_go_and_tried_again_a_few_times() {
    let mut m = begun();
    let mut ms = 0;
    for n in 1..=TRIES_MAX {
        ms += 2_000;
        m = tick(&m, &ready(), at(ms)).0;
        m = answered(&answered(&m, Answer::Prepared, at(ms)).0, Answer::Alerted, at(ms)).0;
        m = tick(&m, &Sight { drained: false, ..ready() }, at(ms + HOLD_MS_MAX - 1)).0;
        assert!(m.holds());
        ms += HOLD_MS_MAX;
        m = tick(&m, &Sight { drained: false, ..ready() }, at(ms)).0;
        assert!(!m.holds(), "try {n}");
    }
    assert!(matches!(m.step, Step::Cancelled { .. }));
}

#[test]
fn once_it_was_asked_to_commit_only_the_heirs_word_counts() {
    let mut m = tick(&begun(), &ready(), at(10)).0;
    m = answered(&answered(&m, Answer::Prepared, at(10)).0, Answer::Alerted, at(10)).0;
    m = tick(&m, &ready(), at(20)).0;
    m = tick(&m, &ready(), at(20)).0;
    assert_eq!(m.step, Step::Committing);
    let lost = answered(&m, Answer::Refused { why: "no answer".into(), fatal: false }, at(30)).0;
    assert_eq!(tick(&lost, &Sight::default(), at(9_000_000)).0.step, Step::Committing, "no time ends it");
    let cancelling = cancel(&m, "I think again", at(40)).unwrap().0;
    assert_eq!((cancelling.ask(), cancelling.holds()), (Some(Ask::Cancel), true));
    assert!(matches!(answered(&cancelling, Answer::NotCommitted, at(50)).0.step, Step::Cancelled { .. }));
    let too_late = answered(&cancelling, Answer::Committed, at(50)).0;
    assert_eq!((&too_late.step, cancel(&too_late, "no", at(60))), (&Step::Opening, None));
    let refused = answered(&m, Answer::Refused { why: "no such lease".into(), fatal: true }, at(30)).0;
    assert_eq!(refused.ask(), Some(Ask::Cancel), "an earlier answer may have been lost");
}

#[test]
fn a_heir_is_given_up_on_only_once_it_may_own_it_and_before_it_serves() {
    let m = tick(&begun(), &ready(), at(10)).0;
    assert_eq!(abandon(&m, "no", at(20)), None);
    assert_eq!(abandon(&frozen(10), "no", at(20)), None);
    let m = tick(&frozen(10), &still(), at(30)).0;
    let opens = answered(&m, Answer::Committed, at(40)).0;
    let back = cancel(&m, "not today", at(40)).unwrap().0;
    for stuck in [&m, &opens, &back] {
        let (over, told) = abandon(stuck, "its disk is gone", at(50)).unwrap();
        assert!(matches!(&over.step, Step::Cancelled { why, .. } if why.contains("its disk is gone")));
        assert_eq!(
            (over.holds(), over.freezes(), actions(&told)),
            (false, false, vec!["move_abandoned", "move_cancelled"])
        );
        assert_eq!(abandon(&over, "again", at(60)), None);
    }
    assert_eq!(abandon(&answered(&opens, Answer::Opened, at(60)).0, "no", at(70)), None);
}

/// Where instances can be frozen.
fn still() -> Sight {
    Sight { can_freeze: true, still: true, sealed: true, ..ready() }
}

fn frozen(ms: u64) -> Move {
    let m = tick(&begun(), &ready(), at(ms)).0;
    let m = answered(&answered(&m, Answer::Prepared, at(ms)).0, Answer::Alerted, at(ms)).0;
    let m = tick(&m, &still(), at(ms)).0;
    assert_eq!((&m.step, m.freezes(), m.frozen), (&Step::Freezing, true, false));
    tick(&m, &still(), at(ms)).0
}

#[test]
fn where_instances_can_be_frozen_nobody_is_asked_to_commit_before_they_are_for_good() {
    let m = tick(&begun(), &ready(), at(10)).0;
    let m = answered(&answered(&m, Answer::Prepared, at(10)).0, Answer::Alerted, at(10)).0;
    assert!(m.holds() && !m.freezes(), "those that only read go on while those that write end");
    let m = tick(&m, &still(), at(20)).0;
    assert_eq!((&m.step, m.freezes()), (&Step::Freezing, true));
    let m = tick(&m, &Sight { still: false, ..still() }, at(30)).0;
    assert_eq!(m.step, Step::Freezing);
    let m = tick(&m, &still(), at(40)).0;
    assert_eq!((&m.step, m.freezes()), (&Step::Catching, true));
    // By its bound it would go on by itself: what is caught may be old by then.
    let m = tick(&m, &Sight { sealed: false, ..still() }, at(50)).0;
    assert_eq!(m.step, Step::Catching);
    let late = tick(&m, &Sight { sealed: false, ..still() }, at(10 + HOLD_MS_MAX)).0;
    assert_eq!((&late.step, late.freezes(), late.frozen), (&Step::Placing, false, false), "it is let go");
    assert_ne!(late.freeze_name(), m.freeze_name(), "it ran in between");
    let m = tick(&m, &still(), at(60)).0;
    assert_eq!((m.ask(), m.freezes()), (Some(Ask::Commit), true));
    // No time, and no reboot, lets it write before the heir has said what it did.
    assert!(tick(&m, &Sight::default(), at(9_000_000)).0.freezes());
    assert!(after_reboot(&m, at(0)).freezes());
    let opens = answered(&m, Answer::Committed, at(70)).0;
    assert!(opens.freezes() && !answered(&opens, Answer::Opened, at(90)).0.freezes());
    let back = cancel(&m, "I think again", at(70)).unwrap().0;
    assert!(back.freezes());
    assert!(!answered(&back, Answer::NotCommitted, at(80)).0.freezes());
    assert!(!after_reboot(&frozen(10), at(0)).freezes());
    assert!(!cancel(&frozen(10), "no", at(20)).unwrap().0.freezes());
}

proptest! {
    /// Whatever is lost, the instances stand still from before the heir is asked until its last word.
    #[test]
    fn what_may_be_another_clouds_is_not_written(acts in prop::collection::vec((0u8..10, any::<[bool; 4]>(), 0u64..1_000), 1..80)) {
        let (mut m, mut ms) = (begun(), 0);
        for (act, [drained, still, sealed, caught], span) in acts {
            ms += span;
            match (act, m.ask()) {
                (0, _) => if let Some((next, _)) = cancel(&m, "no", at(ms)) { m = next },
                (1, _) => m = after_reboot(&m, at(ms)),
                (2..=5, _) | (_, None) => {
                    let sight = Sight { drained, still, sealed, caught, can_freeze: true, ..ready() };
                    m = tick(&m, &sight, at(ms)).0;
                }
                (_, Some(ask)) => {
                    let answer = match ask {
                        Ask::Prepare => Answer::Prepared,
                        Ask::Alert => Answer::Alerted,
                        Ask::Commit => Answer::Committed,
                        Ask::Open => Answer::Opened,
                        Ask::Cancel if sealed => Answer::NotCommitted,
                        Ask::Cancel => Answer::Committed,
                    };
                    m = answered(&m, answer, at(ms)).0;
                }
            }
            let asked = matches!(m.step, Step::Committing | Step::Opening | Step::Cancelling { .. });
            prop_assert!(!asked || m.freezes(), "{:?}", m);
            prop_assert!(!m.freezes() || m.holds(), "{:?}", m);
            if !m.is_open() {
                m = begun();
                m.since = at(ms).boot;
            }
        }
    }

    /// The heir signs at most once, whatever is lost; the source never lets go of the hold before it knows.
    #[test]
    fn whatever_is_lost_there_is_one_owner(acts in prop::collection::vec((0u8..8, any::<bool>(), 0u64..3_000), 1..80)) {
        let (mut m, mut ms, mut committed, mut refuses) = (begun(), 0, false, false);
        for (act, lost, span) in acts {
            ms += span;
            match act {
                0 => if let Some((next, _)) = cancel(&m, "no", at(ms)) { m = next },
                1 | 2 => m = tick(&m, &Sight { drained: lost, caught: lost, ..ready() }, at(ms)).0,
                _ => {
                    let answer = match m.ask() {
                        Some(Ask::Prepare) => Answer::Prepared,
                        Some(Ask::Alert) => Answer::Alerted,
                        Some(Ask::Commit) if refuses => Answer::Refused { why: "cancelled".into(), fatal: true },
                        Some(Ask::Commit) => { committed = true; Answer::Committed }
                        Some(Ask::Cancel) if committed => Answer::Committed,
                        Some(Ask::Cancel) => { refuses = true; Answer::NotCommitted }
                        Some(Ask::Open) => Answer::Opened,
                        None => { m = tick(&m, &ready(), at(ms)).0; continue }
                    };
                    let heard = if lost { Answer::Refused { why: "no answer".into(), fatal: false } } else { answer };
                    m = answered(&m, heard, at(ms)).0;
                }
            }
            prop_assert!(!committed || m.holds() || matches!(m.step, Step::Fronted { .. }), "two may write: {:?}", m.step);
            let given = matches!(m.step, Step::Opening | Step::Fronted { .. });
            prop_assert!(committed || !given, "{:?}", m.step);
            prop_assert!(!(committed && refuses));
            // A new wish for the next one.
            if matches!(m.step, Step::Cancelled { .. }) {
                prop_assert!(!committed);
                (m, refuses) = (begun(), false);
                m.since = at(ms).boot;
            }
        }
    }
}
