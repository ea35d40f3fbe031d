//! Entries and snapshots as version 1 wrote them: a log of then must keep being read.

#![allow(clippy::unwrap_used)] // a test helper fails loudly

mod kit;

use kit::*;
use pumasi_ownership::command::{Command, How, Progress};
use pumasi_ownership::state::{Base, Class, Health, Mode};
use pumasi_ownership::*;
use pumasi_terms::{Digest, Epoch, Generation, MoveId, Position};
use std::collections::BTreeMap;

const ENTRIES: &str = include_str!("golden/entries-v1.jsonl");
const STATE: &str = include_str!("golden/state-v1.json");

/// One of each kind, in an order in which most of them have an effect.
fn entries() -> Vec<Entry> {
    let mut r = Register::new(&["a", "b", "c"]);
    // Of version 1 whatever they say: what `sync` says is of version 2 today.
    let by = |name: &str, command| Entry { version: 1, by: cloud(name), command };
    let id = || service(1);
    let at = Position::new(Generation::of(Epoch(2), 3), 77);
    let base = BTreeMap::from([("main".parse().unwrap(), Base { position: at, digest: Digest([1; 32]) })]);
    let shop = Agreed { mode: Mode::Sync, ..agreed("shop", Class::Guaranteed, 100, (1, 2), &["b", "c"]) };
    r.protects("a", 1, &shop);
    let mut list: Vec<_> = ["a", "b", "c"].map(|n| by(n, Command::Join { cloud: cloud(n), run: 1 })).into();
    let renewals = ["a", "b", "c"].map(|n| Renewal { health: Health::Well, ..r.renewal(n, 1, 1) }).to_vec();
    let (move_id, epoch) = (MoveId::from_entropy(3), Epoch(2));
    list.extend([
        by("a", Command::Renew { elapsed_ms: 50, renewals }),
        by("a", Command::Protect { service: id(), epoch: Epoch(1), agreed: Box::new(shop) }),
        by("a", Command::InSync { service: id(), epoch: Epoch(1), set: [cloud("b")].into(), after: None }),
        by("a", Command::Key { service: id(), epoch: Epoch(1), cloud: cloud("a"), thumbprint: "abc-_9".into() }),
        by("b", Command::Lost(Box::new(r.lost("a", &["b", "c"], vec![taken(1, 1, "b", 2, 2), waits(2, 1, 1)])))),
        by("b", Command::Approve { cloud: cloud("a"), lost_rev: 8 }),
        by("b", Command::Recover { cloud: cloud("a"), lost_rev: 8, items: vec![waits(1, 1, 1)] }),
        by("a", Command::Rejoin { cloud: cloud("a"), run: 2 }),
        by(
            "b",
            Command::Serving {
                items: vec![Progress { service: id(), epoch, how: How::Degraded { have: 1, want: 2 }, base }],
            },
        ),
        by("b", Command::Cancel { service: id(), epoch, id: move_id.clone(), attempt: 0 }),
        by(
            "b",
            Command::Transfer {
                service: id(),
                epoch,
                to: cloud("c"),
                id: move_id,
                attempt: 1,
                positions: BTreeMap::from([("main".parse().unwrap(), at)]),
            },
        ),
        by("c", Command::Yield { service: id(), epoch: Epoch(3), why: "its disk stalls".into() }),
        by("b", Command::Relieve { item: taken(1, 3, "b", 0, 2) }),
        by("c", Command::Unprotect { service: service(9), epoch: Epoch(1) }),
        by(
            "b",
            Command::Pact {
                voting: Box::new(Voting { serial: r.state.voting.serial.next(), ..r.state.voting.clone() }),
            },
        ),
    ]);
    list
}

fn start() -> State {
    State::new(pumasi_terms::PactId::from_entropy(1), voting(&["a", "b", "c"], timers::Profile::Default.timers()))
        .unwrap()
}

#[test]
fn entries_of_version_1_are_read_and_written_as_they_were() {
    let lines: Vec<_> = ENTRIES.lines().collect();
    let list = entries();
    assert_eq!(lines.len(), list.len());
    for (line, entry) in lines.iter().zip(&list) {
        assert_eq!(&Entry::from_bytes(line.as_bytes()).unwrap(), entry);
        assert_eq!(&String::from_utf8(entry.to_bytes().unwrap()).unwrap(), line);
    }
}

#[test]
fn they_lead_to_the_snapshot_of_version_1() {
    let state = (1..)
        .zip(ENTRIES.lines())
        .fold(start(), |state, (index, line)| apply_bytes(state, index, line.as_bytes(), rules()).unwrap().0);
    let read = State::from_json(STATE.trim().as_bytes()).unwrap();
    assert_eq!(read, state);
    assert_eq!(String::from_utf8(read.to_json().unwrap()).unwrap(), STATE.trim());
    assert_eq!(state.services[&service(1)].owner, cloud("c"), "taken by b, handed to c, and b was not in its set");
}

#[test]
fn what_is_not_understood_whole_is_not_taken() {
    let (entry, state) = (ENTRIES.lines().next().unwrap(), STATE.trim());
    for (what, text) in [("entry", entry), ("state", state)] {
        let mut grown: serde_json::Value = serde_json::from_str(text).unwrap();
        grown["of_a_later_version"] = serde_json::json!(1);
        let grown = serde_json::to_vec(&grown).unwrap();
        let why = if what == "entry" {
            Entry::from_bytes(&grown).unwrap_err().to_string()
        } else {
            State::from_json(&grown).unwrap_err().to_string()
        };
        assert!(why.contains("of_a_later_version"), "{why}");
    }
    let newer = state.replacen("\"version\":1", "\"version\":2", 1);
    assert!(State::from_json(newer.as_bytes()).unwrap_err().to_string().contains("upgrade"));
}

/// A snapshot that says what cannot be is not believed.
#[test]
fn a_snapshot_is_checked() {
    let wrong = |change: &dyn Fn(&mut State)| {
        let mut state = State::from_json(STATE.trim().as_bytes()).unwrap();
        change(&mut state);
        State::from_json(&state.to_json().unwrap()).unwrap_err().to_string()
    };
    let owned = |s: &State| s.services[&service(1)].clone();
    assert!(
        wrong(&|s| {
            s.services.insert(service(7), owned(s));
        })
        .contains("name or host")
    );
    assert!(
        wrong(&|s| {
            s.ended.insert(service(1), Epoch(1));
        })
        .contains("ended")
    );
    assert!(
        wrong(&|s| {
            s.clouds.remove(&cloud("c"));
        })
        .contains("owner")
    );
    assert!(
        wrong(&|s| {
            s.services.get_mut(&service(1)).unwrap().epoch = Epoch(0);
        })
        .contains("epoch")
    );
    assert!(
        wrong(&|s| {
            s.voting.voters.remove(&cloud("c"));
        })
        .contains("witness")
    );
    assert!(
        wrong(&|s| {
            s.voting.timers.renew_ms = 2_000;
        })
        .contains("I1")
    );
}

/// Writes the files anew: for a new version, and never to make a test pass.
#[test]
#[ignore = "writes the golden files"]
fn write() {
    let list = entries();
    let lines: Vec<_> = list.iter().map(|e| String::from_utf8(e.to_bytes().unwrap()).unwrap()).collect();
    let state = (1..).zip(&list).fold(start(), |state, (index, entry)| apply(state, index, entry, rules()).0);
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    #[allow(clippy::disallowed_methods)] // a tool
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text + "\n").unwrap();
    write("entries-v1.jsonl", lines.join("\n"));
    write("state-v1.json", String::from_utf8(state.to_json().unwrap()).unwrap());
}
