//! Whatever enters the log: owners, epochs, ends, and the right to write.

#![allow(clippy::unwrap_used)] // a test helper fails loudly

mod kit;

use kit::*;
use proptest::prelude::*;
use pumasi_ownership::command::{How, Progress};
use pumasi_ownership::liveness::{Holder, Sights, may_write};
use pumasi_ownership::state::{Cause, Class, Health, Mode, Phase, Standing};
use pumasi_ownership::*;
use pumasi_terms::{BootMs, CloudName, Epoch, MoveId, ServiceId};
use std::collections::{BTreeMap, BTreeSet};

const CLOUDS: [&str; 4] = ["a", "b", "c", "d"];

/// One step, mostly one that fits the state; `n` and `m` choose what it does not say.
#[derive(Debug, Clone)]
struct Op {
    kind: u8,
    by: u8,
    cloud: u8,
    service: u8,
    n: u8,
    off: u8,
}

fn ops(max: usize) -> impl Strategy<Value = Vec<Op>> {
    let op = (0u8..17, 0u8..4, 0u8..4, 0u8..5, any::<u8>(), 0u8..12);
    prop::collection::vec(
        op.prop_map(|(kind, by, cloud, service, n, off)| Op { kind, by, cloud, service, n, off }),
        1..max,
    )
}

fn name(n: u8) -> &'static str {
    CLOUDS[usize::from(n % 4)]
}

/// By whom, and what. `off` 0 and 1 make it stale or of a stranger.
fn entry(r: &Register, op: &Op) -> Entry {
    let id = service(u128::from(op.service));
    let known = r.state.services.get(&id);
    let epoch = Epoch(known.map_or(1, |o| o.epoch.0) + u64::from(op.off == 0));
    let owner = known.map_or(name(op.by).to_owned(), |o| o.owner.to_string());
    let by = if op.off == 1 { name(op.by).to_owned() } else { owner };
    let subject = cloud(name(op.cloud));
    let run = r.state.clouds.get(&subject).map_or(1, |c| c.run);
    let attempt = u32::from(op.n % 4);
    let item = || taken(op.service.into(), epoch.0, name(op.n), u32::from(op.n % 2), 1 + u32::from(op.n % 3));
    let voter = "b".to_owned();
    let (by, command) = match op.kind {
        0 | 1 => {
            let service_name = if op.off == 1 { "one".to_owned() } else { format!("s{}", op.service) };
            let standbys: Vec<_> =
                CLOUDS.into_iter().filter(|c| *c != by && op.n & 1 == 0 || *c == "b").filter(|c| *c != by).collect();
            let mut agreed = agreed(&service_name, Class::Early, op.n.into(), (1, 3), &standbys);
            agreed.mode = if op.n & 2 == 0 { Mode::Async } else { Mode::Sync };
            (by, Command::Protect { service: id, epoch, agreed: Box::new(agreed) })
        }
        2 => (by, Command::Unprotect { service: id, epoch }),
        3 => (by, Command::InSync { service: id, epoch, set: [subject].into(), after: None }),
        4..=6 => {
            let plan: Vec<_> = (0..5u8)
                .map(|s| {
                    taken(
                        s.into(),
                        r.state.services.get(&service(s.into())).map_or(1, |o| o.epoch.0),
                        name(op.n.wrapping_add(s)),
                        1,
                        1,
                    )
                })
                .collect();
            let voters: &[&str] = if op.n.is_multiple_of(5) { &["b"] } else { &["b", "c", "a"] };
            let seq = r.state.clouds.get(&subject).map_or(0, |c| c.seq.saturating_sub(u64::from(op.off == 0)));
            let known = r.state.clouds.contains_key(&subject);
            let lost = known.then(|| r.lost_at(seq, subject.as_str(), voters, plan));
            (voter, lost.map_or(Command::Join { cloud: subject, run: 1 }, |lost| Command::Lost(Box::new(lost))))
        }
        7 => (subject.to_string(), Command::Rejoin { cloud: subject, run: run + 1 - u64::from(op.off == 0) }),
        8 => (by, Command::Yield { service: id, epoch, why: "slow".into() }),
        9 => (voter, Command::Relieve { item: item() }),
        10 | 11 => (
            by,
            Command::Transfer {
                service: id,
                epoch,
                to: subject,
                id: MoveId::from_entropy(1),
                attempt,
                positions: BTreeMap::new(),
            },
        ),
        12 => (by, Command::Cancel { service: id, epoch, id: MoveId::from_entropy(1), attempt }),
        13 => (
            by,
            Command::Serving { items: vec![Progress { service: id, epoch, how: How::Full, base: BTreeMap::new() }] },
        ),
        14 => {
            let rev = r.state.recovery.get(&subject).map_or(0, |x| x.at_rev);
            (name(op.by).to_owned(), Command::Approve { cloud: subject, lost_rev: rev })
        }
        15 => {
            let rev = r.state.recovery.get(&subject).map_or(0, |x| x.at_rev);
            (voter, Command::Recover { cloud: subject, lost_rev: rev, items: vec![item()] })
        }
        _ => {
            let seq = r.state.clouds.get(&subject).map_or(1, |c| c.seq + 1);
            let renewals = vec![r.renewal(subject.as_str(), run, seq)];
            (voter, Command::Renew { elapsed_ms: u64::from(op.n) * 100, renewals })
        }
    };
    Entry::new(cloud(&by), command)
}

/// What was ever so, to compare with what is.
#[derive(Default)]
struct Past {
    owners: BTreeMap<(ServiceId, Epoch), CloudName>,
    cancelled: BTreeMap<(ServiceId, Epoch), u32>,
}

fn holds(before: &State, after: &State, entry: &Entry, told: &[Told], past: &mut Past) -> Result<(), TestCaseError> {
    after.check().map_err(|e| TestCaseError::fail(e.to_string()))?;
    if let (Command::Lost(lost), true) = (&entry.command, told.iter().any(|t| matches!(t, Told::Stands { .. }))) {
        let voters =
            lost.attestations.iter().flat_map(|a| a.signers()).filter(|v| *v != lost.cloud && before.is_voter(v));
        prop_assert!(before.voting.is_majority(voters.collect::<BTreeSet<_>>().len()), "lost on the word of few");
        prop_assert_eq!(before.clouds[&lost.cloud].seq, lost.seen_seq);
    }
    if let Command::Transfer { service, epoch, .. } = &entry.command {
        let moved = told.iter().any(|t| matches!(t, Told::Owner { .. }));
        prop_assert!(!moved || before.services[service].epoch == *epoch, "transferred under another epoch");
    }
    for (id, was) in &before.services {
        let Some(is) = after.services.get(id) else {
            let ended = after.ended.contains_key(id) && entry.by == was.owner;
            prop_assert!(ended && matches!(entry.command, Command::Unprotect { .. }), "{} vanished", id);
            continue;
        };
        prop_assert!(is.epoch >= was.epoch && (is.owner == was.owner) == (is.epoch == was.epoch), "{id}");
        if is.owner != was.owner {
            let lost = matches!(after.clouds[&was.owner].standing, Standing::Lost { .. });
            let handed = matches!(entry.command, Command::Transfer { .. }) && entry.by == was.owner;
            prop_assert!(lost || handed || was.phase == Phase::Yielded, "{id} was taken from {}", was.owner);
            prop_assert!(before.may_take(&is.owner) && was.agreed.standby(&is.owner).is_some());
            prop_assert!(handed || was.may_live_at(&is.owner), "it lacks acknowledged writes");
        }
    }
    prop_assert!(
        before.ended.keys().all(|id| after.ended.contains_key(id) && !after.services.contains_key(id)),
        "it came back"
    );
    for (id, owned) in &after.services {
        let first = past.owners.entry((id.clone(), owned.epoch)).or_insert_with(|| owned.owner.clone());
        prop_assert_eq!(&*first, &owned.owner, "two owners of one epoch");
    }
    for t in told {
        match (t, &entry.command) {
            (Told::Cancelled { service, epoch, .. }, Command::Cancel { attempt, .. }) => {
                let most = past.cancelled.entry((service.clone(), *epoch)).or_default();
                *most = (*most).max(attempt + 1);
            }
            (Told::Owner { service, epoch, cause: Cause::Handover, .. }, Command::Transfer { attempt, .. }) => {
                let cancelled = past.cancelled.get(&(service.clone(), Epoch(epoch.0 - 1)));
                prop_assert!(cancelled.is_none_or(|n| attempt >= n), "transferred after its cancel");
            }
            _ => {}
        }
    }
    let whole = !matches!(
        entry.command,
        Command::Renew { .. } | Command::Lost(_) | Command::Recover { .. } | Command::Approve { .. }
    );
    if whole && matches!(told, [Told::Refused(_)]) {
        prop_assert_eq!(&State { revision: after.revision, ..before.clone() }, after, "a refusal changed something");
    }
    Ok(())
}

fn history(ops: &[Op], planted: Option<Mutant>) -> Result<(), TestCaseError> {
    let rules = || rules().planted(planted);
    let mut r = Register::new(&CLOUDS);
    let mut other = r.state.clone();
    let mut past = Past::default();
    for op in ops {
        let (entry, before) = (entry(&r, op), r.state.clone());
        let bytes = entry.to_bytes().unwrap();
        let index = before.revision + 1;
        let (after, told) = apply(before.clone(), index, &entry, rules());
        holds(&before, &after, &entry, &told, &mut past)?;
        // Another voter, which reads the bytes, and took its state from a snapshot.
        let (same, same_told) =
            apply_bytes(State::from_json(&other.to_json().unwrap()).unwrap(), index, &bytes, rules()).unwrap();
        prop_assert_eq!((&same, &same_told), (&after, &told));
        let (again, nothing) = apply_bytes(same, index, &bytes, rules()).unwrap();
        prop_assert_eq!((&again, nothing.len()), (&after, 0));
        (other, r.state) = (again, after);
    }
    Ok(())
}

/// What the histories are worth: each planted fault breaks one of them.
#[test]
fn histories_find_what_is_planted() {
    let planted =
        [Mutant::LostWithoutSeq, Mutant::AttestationsNotCounted, Mutant::CancelForgotten, Mutant::EpochNotCompared];
    for mutant in planted {
        let config = ProptestConfig {
            cases: 3_000,
            failure_persistence: None,
            max_shrink_iters: 0,
            ..ProptestConfig::default()
        };
        let mut runner = proptest::test_runner::TestRunner::new_with_rng(
            config,
            proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
        );
        let found = runner.run(&ops(60), |ops| history(&ops, Some(mutant)));
        assert!(found.is_err(), "{mutant:?} was not found");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_rules_and_is_the_same_for_everybody(ops in ops(60)) {
        history(&ops, None)?;
    }

    #[test]
    fn whatever_bytes_come_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..300) {
        let r = Register::new(&CLOUDS);
        let _ = apply_bytes(r.state.clone(), r.state.revision + 1, &bytes, rules());
        let whole = Entry::new(cloud("a"), Command::Unprotect { service: service(1), epoch: Epoch(1) }).to_bytes().unwrap();
        let part = &whole[..cut.min(whole.len())];
        let applied = apply_bytes(r.state.clone(), r.state.revision + 1, part, rules());
        prop_assert!(applied.is_ok());
    }

    /// Renewals of any ttl, sent, seen, lost, applied late and out of order, answered late: the right is over before anybody may call it lost.
    /// Both clocks are the same here; drift is the model's affair.
    #[test]
    fn the_right_is_over_before_it_is_ripe(steps in prop::collection::vec((0u64..900, 2_200u64..8_000, 0u8..5, any::<prop::sample::Index>()), 1..400)) {
        let mut r = Register::new(&CLOUDS);
        let mut holder = Holder::new(cloud("a"), 1);
        let (mut now, mut sent) = (BootMs(0), Vec::<Renewal>::new());
        // Its first, which the kit sent, is nobody's right.
        holder.send(now, 2_200, &r.state.voting.timers, (room(1, 1), Health::Well));
        let mut sights = Sights::start(&r.state, now);
        for (ms, ttl_ms, what, which) in steps {
            now = now.after(ms % 300);
            match what {
                0 | 1 => sent.push(holder.send(now, ttl_ms, &r.state.voting.timers, (room(1, 1), Health::Well))),
                2 if !sent.is_empty() => { let s = which.get(&sent); sights.saw(&s.cloud, s.run, s.seq, now); }
                3 if !sent.is_empty() => {
                    let renewal = which.get(&sent).clone();
                    r.does("b", Command::Renew { elapsed_ms: 0, renewals: vec![renewal] });
                    sights.applied(&r.state, now);
                }
                _ => holder.answered(1, r.state.clouds[&cloud("a")].seq, now),
            }
            if let (Some(until), Some(ripe)) = (holder.right_until(), sights.ripe_at(&r.state, &cloud("b"), &cloud("a"))) {
                prop_assert!(until < ripe, "it may write until {until:?}, and is lost from {ripe:?}");
            }
        }
    }
}

#[test]
fn who_may_write_is_asked_of_register_seal_and_clock() {
    use pumasi_ownership::liveness::Fenced;
    let mut r = Register::new(&CLOUDS);
    r.protects("a", 1, &agreed("shop", Class::Early, 1, (1, 1), &["b"]));
    let mut holder = Holder::new(cloud("a"), 1);
    let (id, timers) = (service(1), r.state.voting.timers.clone());
    let ask = |r: &Register, h: &Holder, sealed, ms| may_write(&r.state, (&id, Epoch(1)), h, sealed, BootMs(ms));
    holder.send(BootMs(1_000), 2_200, &timers, (room(1, 1), Health::Well));
    assert_eq!(ask(&r, &holder, false, 1_000), Err(Fenced::None));
    holder.answered(1, 1, BootMs(1_500));
    assert_eq!(ask(&r, &holder, false, 3_094), Ok(()));
    assert_eq!(ask(&r, &holder, false, 3_096), Err(Fenced::Over { over_ms: 1 }));
    assert_eq!(ask(&r, &holder, true, 1_600), Err(Fenced::Sealed));
    // Raising is free, lowering binds at once.
    holder.send(BootMs(1_600), 5_000, &timers, (room(1, 1), Health::Well));
    assert_eq!(holder.right_until(), Some(BootMs(3_095)));
    holder.answered(1, 2, BootMs(1_700));
    assert_eq!(holder.right_until(), Some(BootMs(6_493)), "the margin grew with it: {}", timers.margin_ms(5_000));
    holder.send(BootMs(1_800), 2_200, &timers, (room(1, 1), Health::Well));
    assert_eq!(holder.right_until(), Some(BootMs(3_895)));
    // An answer of another run, or to what was never sent, is none.
    holder.answered(2, 3, BootMs(1_900));
    holder.answered(1, 9, BootMs(1_900));
    assert_eq!(holder.right_until(), Some(BootMs(3_895)));
    assert_eq!(ask(&r, &Holder::new(cloud("a"), 2), false, 0), Err(Fenced::Lost(cloud("a"))));
    assert!(matches!(ask(&r, &Holder::new(cloud("b"), 1), false, 0), Err(Fenced::NotOwner(..))));
    r.does("a", Command::Yield { service: id.clone(), epoch: Epoch(1), why: "x".into() });
    assert_eq!(ask(&r, &holder, false, 1_900), Err(Fenced::Sealed));
}

#[test]
fn many_unanswered_renewals_are_bounded_and_never_lengthen_the_right() {
    let timers = state::Voting::clone(&Register::new(&CLOUDS).state.voting).timers;
    let mut holder = Holder::new(cloud("a"), 1);
    for n in 0..1_000u64 {
        let ttl_ms = if n == 3 { 2_200 } else { 9_000 };
        holder.send(BootMs(n), ttl_ms, &timers, (room(1, 1), Health::Well));
    }
    holder.answered(1, 1, BootMs(1_000));
    assert_eq!(
        holder.right_until(),
        Some(BootMs(3 + 2_200 - timers.margin_ms(2_200))),
        "the lowered one binds though it is forgotten"
    );
    let text = format!("{holder:?}");
    assert!(text.matches("until").count() <= liveness::OPEN_MAX);
    holder.answered(1, 1_000, BootMs(1_100));
    assert_eq!(holder.right_until(), Some(BootMs(999 + 9_000 - timers.margin_ms(9_000))));
}

#[test]
fn a_voter_that_started_has_seen_and_heard_nobody() {
    use pumasi_ownership::liveness::Hearing;
    let r = Register::new(&CLOUDS);
    let (me, a, timers) = (cloud("b"), cloud("a"), &r.state.voting.timers);
    let start = BootMs(50_000);
    let sights = Sights::start(&r.state, start);
    assert_eq!(sights.ripe_at(&r.state, &me, &a), Some(start.after(timers.wait_ms(2_200))));
    assert_eq!(sights.suspects(&r.state, start.after(1_099)).count(), 0);
    assert_eq!(sights.suspects(&r.state, start.after(1_100)).count(), 4);
    let mut hearing = Hearing::start(start);
    assert_eq!(hearing.attest(&r.state, &a, 7, start.after(1_099)), None);
    let says = hearing.attest(&r.state, &a, 7, start.after(1_100)).unwrap();
    assert_eq!((says.silent_ms, says.seq, says.run, says.nonce), (1_100, 1, 1, 7));
    hearing.heard(&r.state, &a, start.after(1_000));
    hearing.heard(&r.state, &cloud("stranger"), start);
    assert_eq!(hearing.attest(&r.state, &a, 7, start.after(2_099)), None);
    assert!(!format!("{hearing:?}").contains("stranger"));
}
