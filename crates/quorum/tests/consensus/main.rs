//! Voters over a network and disks of virtual time: what must always hold, and how long it takes.
//!
//! Every run follows from its seed alone. `PUMASI_QUORUM_SEEDS=500 cargo test -p pumasi-quorum --test consensus -- --nocapture`
//! plays more of them than the short form.

#![allow(clippy::unwrap_used, clippy::expect_used)]

/// How many of something a run plays: `short`, unless a person says otherwise.
#[allow(clippy::disallowed_methods)]
fn times(name: &str, short: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(short)
}

mod elections;
mod faults;
mod members;
mod net;
mod safety;
mod snapshots;
