//! No bytes from outside panic, and none that are taken change their meaning.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use pumasi_quorum::message::{Body, Entry, Kind, NUMBER_MAX, SnapshotMeta, Stamp};
use pumasi_quorum::*;
use pumasi_terms::{BootMs, Digest};
use std::collections::BTreeSet;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..8u64, Just(NUMBER_MAX), any::<u64>()]
}

fn id() -> impl Strategy<Value = RaftId> {
    prop_oneof![1..6u64, 1..=u64::MAX].prop_map(|n| RaftId::new(n).unwrap())
}

fn set() -> impl Strategy<Value = BTreeSet<RaftId>> {
    btree_set(id(), 0..5)
}

fn conf() -> impl Strategy<Value = Conf> {
    (set(), set(), set(), set()).prop_map(|(voters, learners, outgoing, learners_next)| Conf {
        voters,
        learners,
        outgoing,
        learners_next,
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    let change = prop_oneof![
        id().prop_map(Change::Learn),
        id().prop_map(Change::Forget),
        (set(), set()).prop_map(|(add, remove)| Change::Enter { add, remove }),
        Just(Change::Leave)
    ];
    let kind =
        prop_oneof![Just(Kind::Empty), vec(any::<u8>(), 1..40).prop_map(Kind::Command), change.prop_map(Kind::Change)];
    (number(), kind).prop_map(|(term, kind)| Entry { term, kind })
}

fn body() -> impl Strategy<Value = Body> {
    let n = number;
    let meta = (n(), n(), conf(), any::<[u8; 32]>(), n());
    prop_oneof![
        (n(), n(), n(), vec(entry(), 0..6)).prop_map(|(index, log_term, commit, entries)| Body::Append {
            index,
            log_term,
            commit,
            entries
        }),
        (n(), n()).prop_map(|(index, commit)| Body::Appended { index, commit }),
        (n(), n(), n(), n()).prop_map(|(index, commit, hint, hint_term)| Body::AppendRefused {
            index,
            commit,
            hint,
            hint_term
        }),
        (any::<bool>(), n(), n(), n(), n()).prop_map(|(pre, index, log_term, commit, commit_term)| Body::Vote {
            pre,
            index,
            log_term,
            commit,
            commit_term
        }),
        (any::<bool>(), any::<bool>(), n(), n()).prop_map(|(pre, granted, commit, commit_term)| Body::Voted {
            pre,
            granted,
            commit,
            commit_term
        }),
        n().prop_map(|commit| Body::Heartbeat { commit }),
        n().prop_map(|commit| Body::HeartbeatAnswer { commit }),
        meta.prop_map(|(index, term, conf, digest, bytes)| {
            Body::Snapshot(SnapshotMeta { index, term, conf, digest: Digest(digest), bytes })
        }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    (id(), id(), number(), number(), number(), body()).prop_map(|(from, to, run, seq, term, body)| Message {
        from,
        to,
        stamp: Stamp { run, seq },
        term,
        body,
    })
}

fn voter() -> (Driver, Kept) {
    let id = |n| RaftId::new(n).unwrap();
    let kept = Kept::first(id(1), [1, 2, 3].map(id).into(), b"state".to_vec()).unwrap();
    let settings = Settings { id: id(1), run: 1, seed: 1, timers: Timers::LAN, round_trip_ms: 1 };
    (Driver::start(settings, &kept, BootMs(0)).unwrap(), kept)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_message_or_a_reason(bytes in vec(any::<u8>(), 0..300)) {
        for version in [None, Some(1)] {
            let bytes: Vec<u8> = version.into_iter().chain(bytes.iter().copied()).collect();
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode().unwrap()).unwrap(), message);
            }
        }
    }

    /// A voter that hears them takes them, drops them, or stops voting: it does not end.
    #[test]
    fn any_messages_leave_the_daemon_alive(messages in vec(message(), 1..12), ticks in 0..40u64) {
        let (mut driver, kept) = voter();
        let mut disk = Memory::default();
        disk.begin(kept).unwrap();
        for (n, message) in (0..).zip(messages) {
            // By its sender, to us.
            let to = RaftId::new(1).unwrap();
            let from = if message.from == to { message.to } else { message.from };
            let Ok(bytes) = (Message { from, to, ..message }).encode() else { continue };
            if driver.receive(from, &bytes).is_err() && driver.status().is_err() {
                driver.rebuild(&disk.load().unwrap().unwrap(), BootMs(n)).expect("what is kept is whole");
            }
            let _ = driver.tick(BootMs(n * ticks));
            let out = driver.take();
            if let Some(work) = out.work {
                disk.write(&work.persist).unwrap();
                disk.sync().expect("it fits onto what is kept");
                let _ = driver.persisted(work.number);
            }
            prop_assert!(out.messages.iter().all(|m| Message::decode(&m.bytes).is_ok()));
        }
    }
}
