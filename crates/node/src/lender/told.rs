//! What of holds stands in the journal. They are many and last seconds: a borrower that asks for thousands must not push out of the
//! journal what operators did.

use crate::node::{Locked, Note, TxError};
use pumasi_store::Tx;
use pumasi_terms::{BootMs, CloudName, Now};
use std::collections::BTreeMap;

const WINDOW_MS: u64 = 60_000;
/// Of each borrower so many are told one by one in a window, and of the others their number.
const TOLD_MAX: u32 = 20;
const BORROWERS_MAX: usize = 1_024;

#[derive(Debug)]
struct Window {
    since: BootMs,
    told: u32,
    untold: u64,
}

#[derive(Debug, Default)]
pub struct Told(Locked<BTreeMap<CloudName, Window>>);

impl Told {
    /// Whether this one is told, and how many of the windows before were not.
    fn next(&self, borrower: &CloudName, now: BootMs) -> (bool, Option<u64>) {
        let mut windows = self.0.lock();
        if windows.len() > BORROWERS_MAX {
            windows.retain(|_, w| now.since(w.since) < WINDOW_MS);
        }
        let window = windows.entry(borrower.clone()).or_insert(Window { since: now, told: 0, untold: 0 });
        let mut before = None;
        if now.since(window.since) >= WINDOW_MS {
            before = Some(window.untold).filter(|n| *n > 0);
            *window = Window { since: now, told: 0, untold: 0 };
        }
        let tell = window.told < TOLD_MAX;
        if tell {
            window.told += 1
        } else {
            window.untold += 1
        }
        (tell, before)
    }

    pub fn journal(
        &self,
        tx: &mut Tx<'_>,
        borrower: &CloudName,
        note: Note,
        actor: &str,
        now: Now,
    ) -> Result<(), TxError> {
        let (tell, before) = self.next(borrower, now.boot);
        if let Some(untold) = before {
            let text = format!("{untold} more acts on holds of {borrower} are not told one by one");
            tx.journal(Note::new("holds_untold", "cloud", borrower).because(text).entry("daemon", now.wall))?;
        }
        if tell {
            tx.journal(note.entry(actor, now.wall))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_store::{Entry, JournalFilter, Store};
    use pumasi_terms::WallMs;

    #[tokio::test]
    async fn fifteen_thousand_holds_leave_what_operators_did_in_the_journal() {
        let dir = tempfile();
        let store = Store::open(dir.join("pumasi.sqlite"), WallMs(1), 7).unwrap();
        let stopped = Entry { action: "automation_stopped".into(), subject_kind: "cloud".into(), ..Entry::default() };
        store.transact(move |tx| tx.journal(stopped)).await.unwrap();
        let (told, city) = (Told::default(), CloudName::parse("city-b").unwrap());
        // 15,000 holds, each granted and let go, in 15 s; and one more a minute later.
        store
            .transact(move |tx| {
                for n in 0..30_001u64 {
                    let ms = if n == 30_000 { 80_000 } else { n / 2 };
                    let now = Now { boot: BootMs(ms), wall: WallMs(ms as i64) };
                    told.journal(tx, &city, Note::new("hold_granted", "reservation", n), "cloud city-b", now)?;
                }
                Ok::<_, TxError>(())
            })
            .await
            .unwrap();
        store.retain(1_000, "daemon").await.unwrap();
        let rows = store.journal_page(0, 100_000, &JournalFilter::default()).unwrap();
        assert!(rows.iter().any(|r| r.entry.action == "automation_stopped"), "{} rows", rows.len());
        assert_eq!(rows.iter().filter(|r| r.entry.action == "hold_granted").count(), TOLD_MAX as usize + 1);
        let untold = rows.iter().find(|r| r.entry.action == "holds_untold").unwrap();
        assert!(untold.entry.reasons[0].starts_with("29980 more"), "{untold:?}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    fn tempfile() -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("pumasi-told-{:032x}", crate::clock::entropy()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}
