//! Judge: observations and policy become a verdict with its reasons.
//!
//! Enters: [`pumasi_sense::Observation`], [`Policy`], what was judged before ([`Memory`]), now. Leaves: a [`Judgement`].
//! Always holds: no clock, no I/O; a verdict names every measure it rests on; what cannot help is refused with its reason.

mod ahead;
mod calm;
pub mod forecast;
mod judge;
mod memory;
pub mod policy;
mod recovery;
mod scatter;
pub mod size;
mod slow;
pub mod standbys;
mod standing;
pub mod verdict;

pub use judge::judge;
pub use memory::Memory;
pub use policy::{Policy, Situation};
pub use standbys::{Seat, Standbys, standbys};
pub use verdict::{Cause, Judgement, Reason, Refusal, Verdict};
