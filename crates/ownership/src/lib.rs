//! Who owns each service of a pact that votes, at which epoch, which of its clouds are alive, and who takes over from one that is lost.
//!
//! Enters: entries of a log that all voters agree on (another crate keeps it), instants of this cloud's boot clock, what clouds report of
//! themselves. Leaves: the next state with what to tell, how long this cloud may write, from when on another one may be called lost, plans of
//! recovery. No I/O, no clock, no randomness. `pumasi-node` drives it where a pact votes.
//!
//! Always holds:
//! - A service has one owner at each point of the log, and its epoch rises with each change of it.
//! - A cloud's right to write is over, by its own clock, before the log can call it lost ([`liveness`] has the argument).
//! - A transfer and its cancel exclude each other: whichever comes first in the log holds.
//! - A service whose protection ended does not come back.

pub mod access;
pub mod apply;
pub mod command;
pub mod in_sync;
pub mod liveness;
pub mod recover;
pub mod room;
pub mod rules;
pub mod state;
pub mod timers;
pub mod told;
mod voting;

pub use apply::{apply, apply_bytes};
pub use command::{Attestation, BadEntry, Command, Entry, Lost, Renewal};
pub use in_sync::Keeper;
pub use recover::{Recovery, recover};
pub use rules::{Mutant, Rules, Signatures, Verify};
pub use state::{Agreed, Item, Owned, State, Voting};
pub use told::{Code, Refused, Told, refusal};
