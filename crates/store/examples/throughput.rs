//! Durable transactions a second with many writers. `cargo run --release -p pumasi-store --example throughput -- <directory>`

use pumasi_store::{Entry, Expect, OutboxMessage, Store, StoreError};
use pumasi_terms::{Revision, WallMs};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("name an empty directory on the disk to measure")?;
    for (writers, watches) in [(1_u64, 0), (64, 0), (64, 1_000)] {
        let path = std::path::Path::new(&dir).join(format!("throughput-{writers}-{watches}.sqlite"));
        let store = Store::open(&path, WallMs(0), u128::from(std::process::id()))?;
        let seen = Arc::new(AtomicU64::new(0));
        for _ in 0..watches {
            let (mut watch, seen) = (store.watch(Some("note"), Revision(0)), Arc::clone(&seen));
            tokio::spawn(async move {
                while watch.next().await.is_ok() {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let begun = Instant::now();
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut waits_us = Vec::new();
                    for n in 0_u64.. {
                        if begun.elapsed() >= RUN {
                            break;
                        }
                        let at = Instant::now();
                        store.transact(move |tx| write(tx, writer, n)).await?;
                        waits_us.push(at.elapsed().as_micros());
                    }
                    Ok::<_, StoreError>(waits_us)
                })
            })
            .collect();
        let mut waits_us = Vec::new();
        for task in tasks {
            waits_us.extend(task.await??);
        }
        let seconds = begun.elapsed().as_secs_f64();
        waits_us.sort_unstable();
        let at = |part: f64| waits_us.get((waits_us.len() as f64 * part) as usize).copied().unwrap_or(0);
        println!(
            "{writers} writers, {watches} watches: {:.0} transactions/s, p50 {} us, p99 {} us, {:.0} changes seen/s",
            waits_us.len() as f64 / seconds,
            at(0.5),
            at(0.99),
            seen.load(Ordering::Relaxed) as f64 / seconds
        );
        let begun = Instant::now();
        let head = store.verify_journal()?;
        println!("  {} journal rows verified in {} ms", head.seq, begun.elapsed().as_millis());
        store.close();
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

/// What a usual transition does: an object, a row in the journal, a message sent and one answered.
fn write(tx: &mut pumasi_store::Tx<'_>, writer: u64, n: u64) -> Result<(), StoreError> {
    tx.put("note", &format!("{writer}-{}", n % 100), &n, Expect::Any)?;
    tx.journal(Entry { action: "written".into(), subject: writer.to_string(), ..Entry::default() })?;
    let id = tx.enqueue(OutboxMessage {
        destination: format!("city-{}", writer % 8),
        kind: "written".into(),
        body: n.into(),
        idempotency_key: format!("{writer}-{n}"),
    })?;
    tx.outbox_done(id).map(drop)
}
