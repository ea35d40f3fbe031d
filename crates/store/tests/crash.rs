//! `kill -9` at any moment: what was acknowledged is there, and the rest is whole or absent.
//!
//! The test starts itself as the victim, which says on its standard output what it was promised.

#![allow(clippy::unwrap_used)]

mod common;

use common::{block_on, entry, open, path};
use pumasi_store::{Entry, Expect, Options, OutboxMessage, Standing, Store, StoreError};
use pumasi_terms::{Revision, WallMs};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const VICTIM: &str = "PUMASI_STORE_CRASH_VICTIM";
const ROUNDS: u64 = 8;
const WRITERS: u64 = 8;

/// Writes until it is killed. Not a test of its own: without the variable it has nothing to do.
#[test]
fn victim() {
    let Ok(path) = std::env::var(VICTIM) else { return };
    let options = Options { anchor_interval_ms: 5, log_changes_max: 50, ..Options::default() };
    let entropy = u128::from(std::process::id());
    let store = Store::open_with(path, WallMs(1), entropy, options).unwrap();
    let start = store.revision().0;
    block_on(async {
        let tasks: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in start.. {
                        let name = format!("w{writer}");
                        let key = name.clone();
                        let written = store.transact(move |tx| {
                            tx.journal(Entry { data: json!({ "n": n }), subject: key.clone(), ..entry("written") })?;
                            tx.enqueue(OutboxMessage {
                                destination: key.clone(),
                                kind: "written".into(),
                                body: json!(n),
                                idempotency_key: n.to_string(),
                            })?;
                            let stale: Vec<_> = (n % 7 == 0).then_some("gone").into_iter().collect();
                            for name in stale {
                                tx.delete("note", name, Expect::Any)?;
                                tx.put("note", name, &n, Expect::Any)?;
                            }
                            tx.put("note", &key, &n, Expect::Any)
                        });
                        let revision: Revision = written.await.map_err(|e: StoreError| e.to_string()).unwrap();
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "\nacked {name} {n} {revision}").unwrap();
                        out.flush().unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir));
    let mut highest = Revision(0);
    let mut acked: BTreeMap<String, (u64, Revision)> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["victim", "--exact", "--nocapture", "--test-threads=1"])
            .env(VICTIM, path(&dir))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // After another number of answers each round, so that it dies in other places.
        let enough = 20 + round * 37;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        let mut read = |line: String| {
            let words: Vec<_> = line.split(' ').collect();
            if let ["acked", name, n, revision] = words[..]
                && let (Ok(n), Ok(revision)) = (n.parse(), revision.parse().map(Revision))
            {
                acked.insert(name.to_owned(), (n, revision));
                highest = highest.max(revision);
                return 1;
            }
            0
        };
        for line in lines.by_ref() {
            seen += read(line.unwrap());
            if seen >= enough {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still managed to say counts too; a torn last line does not.
        for line in lines.map_while(Result::ok) {
            seen += read(line);
        }
        assert!(seen >= enough, "the victim died by itself after {seen} answers");

        let store = open(&dir);
        assert_eq!(store.standing(), Standing::Current);
        let head = store.verify_journal().unwrap();
        assert!(store.revision() >= highest);
        let page = |writer: &str| {
            let filter = pumasi_store::JournalFilter { subject: Some(writer.into()), ..Default::default() };
            store.journal_page(0, usize::MAX, &filter).unwrap()
        };
        let due = store.outbox_due(WallMs(i64::MAX), usize::MAX).unwrap();
        let mut rows_total = 0;
        for (writer, (n, revision)) in &acked {
            let note = store.get::<u64>("note", writer).unwrap().unwrap();
            assert!(note.body >= *n && note.revision >= *revision, "{writer}: {n} was lost");
            let rows = page(writer);
            assert_eq!(rows.last().unwrap().entry.data, json!({ "n": note.body }), "row and object commit together");
            let sent: Vec<_> = due.iter().filter(|i| &i.message.destination == writer).collect();
            assert_eq!(sent.len(), rows.len(), "message and row commit together");
            rows_total += rows.len();
        }
        if acked.len() as u64 == WRITERS {
            assert_eq!(rows_total as u64, head.seq);
        }
        let check = rusqlite::Connection::open(path(&dir)).unwrap();
        let found: String = check.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
        assert_eq!(found, "ok");
    }
}
