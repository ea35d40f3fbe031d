//! What voters say and keep, as version 1 said it: one line a form, its name and its bytes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use pumasi_quorum::message::{Body, Entry, HardState, Kind, SnapshotMeta, Stamp};
use pumasi_quorum::{Change, Conf, Message, MessageError, RaftId};
use pumasi_terms::Digest;
use std::collections::BTreeSet;

fn id(n: u64) -> RaftId {
    RaftId::new(n).unwrap()
}

fn ids(numbers: &[u64]) -> BTreeSet<RaftId> {
    numbers.iter().map(|n| id(*n)).collect()
}

fn conf() -> Conf {
    Conf { voters: ids(&[1, 2, 300]), learners: ids(&[4]), outgoing: ids(&[1, 2, 5]), learners_next: ids(&[5]) }
}

fn bodies() -> Vec<(&'static str, Body)> {
    let entries = vec![
        Entry { term: 5, kind: Kind::Empty },
        Entry { term: 6, kind: Kind::Command(b"a command".to_vec()) },
        Entry { term: 6, kind: Kind::Change(Change::Learn(id(4))) },
        Entry { term: 7, kind: Kind::Change(Change::Enter { add: ids(&[4]), remove: ids(&[1, 2]) }) },
    ];
    let digest = Digest([0xab; 32]);
    let meta = SnapshotMeta { index: 70_000, term: 6, conf: conf(), digest, bytes: 80_000 };
    vec![
        ("append", Body::Append { index: 1_000, log_term: 5, commit: 998, entries }),
        ("appended", Body::Appended { index: 1_004, commit: 998 }),
        ("append_refused", Body::AppendRefused { index: 1_000, commit: 2, hint: 900, hint_term: 4 }),
        ("ask_for_votes", Body::Vote { pre: true, index: 9, log_term: 2, commit: 8, commit_term: 2 }),
        ("vote", Body::Vote { pre: false, index: 9, log_term: 2, commit: 8, commit_term: 2 }),
        ("voted", Body::Voted { pre: false, granted: true, commit: 0, commit_term: 0 }),
        ("not_voted", Body::Voted { pre: true, granted: false, commit: 8, commit_term: 2 }),
        ("heartbeat", Body::Heartbeat { commit: 1_004 }),
        ("heartbeat_answer", Body::HeartbeatAnswer { commit: 1_004 }),
        ("snapshot", Body::Snapshot(meta)),
    ]
}

fn message(body: Body) -> Message {
    Message { from: id(u64::MAX), to: id(2), stamp: Stamp { run: 3, seq: 1_000 }, term: 7, body }
}

#[test]
fn messages_of_version_1() {
    let mut written = String::new();
    for (name, body) in bodies() {
        let bytes = message(body.clone()).encode().unwrap();
        assert_eq!(Message::decode(&bytes).unwrap(), message(body));
        written.push_str(&format!("{name} {}\n", hex::encode(bytes)));
    }
    assert_eq!(written, include_str!("golden/messages-v1.txt"));
}

#[test]
fn what_is_kept_of_version_1() {
    let mut written = format!("conf {}\n", hex::encode(conf().stored().unwrap()));
    assert_eq!(Conf::from_stored(&conf().stored().unwrap()).unwrap(), conf());
    let changes = [
        Change::Learn(id(4)),
        Change::Forget(id(4)),
        Change::Enter { add: ids(&[4]), remove: ids(&[1]) },
        Change::Leave,
    ];
    let kinds = [Kind::Empty, Kind::Command(b"a command".to_vec())].into_iter().chain(changes.map(Kind::Change));
    for kind in kinds {
        let (number, data) = kind.stored().unwrap();
        assert_eq!(Kind::from_stored(number, &data).unwrap(), kind);
        written.push_str(&format!("entry {number} {}\n", hex::encode(data)));
    }
    assert_eq!(written, include_str!("golden/kept-v1.txt"));
    // Its fields are columns.
    assert_eq!(HardState::default(), HardState { term: 0, vote: None, commit: 0 });
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let why = |message: &Message| Message::decode(&message.encode().unwrap()).unwrap_err().to_string();
    let heartbeat = message(Body::Heartbeat { commit: 1 });
    assert!(why(&Message { term: 0, ..heartbeat.clone() }).contains("term 0"));
    assert!(why(&Message { to: heartbeat.from, ..heartbeat.clone() }).contains("to itself"));
    assert!(why(&message(Body::Heartbeat { commit: 1 << 63 })).contains("no log reaches"));
    let falling = [6, 5].map(|term| Entry { term, kind: Kind::Empty }).to_vec();
    let append = |entries| message(Body::Append { index: 1, log_term: 1, commit: 1, entries });
    assert!(why(&append(falling)).contains("do not rise"));
    let later = vec![Entry { term: 8, kind: Kind::Empty }];
    assert!(why(&append(later)).contains("do not rise"), "an entry of a term after the sender's");
    let many = vec![Entry { term: 7, kind: Kind::Empty }; 1_025];
    assert!(Message::decode(&append(many).encode().unwrap()).is_err());
    let large = vec![Entry { term: 7, kind: Kind::Command(vec![0; (256 << 10) + 1]) }];
    assert!(Message::decode(&append(large).encode().unwrap()).is_err());
    let nobody = Conf { learners: ids(&[1]), ..Conf::default() };
    assert!(Conf::from_stored(&nobody.stored().unwrap()).is_err());
    let mut bytes = heartbeat.encode().unwrap();
    assert_eq!(Message::decode(&[]), Err(MessageError::Empty));
    bytes.push(0);
    assert!(Message::decode(&bytes).unwrap_err().to_string().contains("follows its end"));
    bytes[0] = 2;
    assert_eq!(Message::decode(&bytes), Err(MessageError::Version { found: 2 }));
    assert!(matches!(Message::decode(&vec![1; 400 << 10]), Err(MessageError::TooLarge { .. })));
}
