//! Lease: the use of another's resources, agreed, bounded in time, metered on both sides.
//!
//! Enters: requests of borrowers, the terms of the pact, the lender's records, now. Leaves: decisions and new records.
//! Always holds: live holds and active leases never exceed what was offered; a lease that is not renewed ends by itself on both sides.

mod authority;
mod book;
pub mod choose;
pub mod document;
pub mod dossier;
pub mod handover;
pub mod ledger;
pub mod message;
pub mod meter;
pub mod reclaim;
pub mod record;
pub mod refused;
pub mod takeover;

pub use authority::authority;
pub use book::{Book, Bound, Transition};
pub use choose::choose;
pub use document::Lease;
pub use ledger::Capacity;
pub use record::{Hold, LentLease, LentState, Renewed, Usage};
pub use refused::{Code, Refused};
