//! The policy race: this product's judge and planner in virtual time over a recorded load, beside what others would do.
//!
//! Enters: a load (a file or a made one), a setting. Leaves: for each policy and start delay what was lost, for how long the objective was
//! violated, and what it cost. Always holds: every policy meets the same requests, the same queue and the same start delay.

pub mod arrivals;
pub mod clients;
pub mod hindsight;
pub mod hpa;
pub mod kpa;
pub mod load;
pub mod ours;
pub mod plant;
pub mod race;
pub mod synthetic;
pub mod table;
#[cfg(test)]
mod tests;

pub use race::{Entry, Race, Setting, race};
