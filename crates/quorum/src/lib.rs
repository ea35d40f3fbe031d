//! The consensus of a pact's voters: a log of commands that a majority has on disk, over `raft` 0.7 (decision record 0070).
//!
//! Enters: commands (bytes that are not looked into), messages of other voters, the time, what has reached the disk. Leaves: messages,
//! what must be kept in one transaction, commands that are committed, in order. There is no clock, no socket, no disk and no
//! randomness in it: one seed and one order of calls give the same bytes.
//!
//! Always holds:
//! - At most one leader a term, and every voter's committed commands are a beginning of the same list (tests/safety.rs).
//! - What needs to be on disk before it is said leaves only after [`Driver::persisted`].
//! - Ticks wait for nothing: a leader whose disk stalls steps down within an election timeout.
//! - No bytes from outside panic; a panic of `raft` stops this group's vote and nothing else, and says whose message it was.
//! - A store that was restored or lost votes under another number ([`RaftId::of`]).
//!
//! ```text
//! receive, tick, propose -> take -> send messages
//!                                -> one transaction: persist + apply -> persisted -> take -> ...
//! ```

mod bounded;
pub mod conf;
mod convert;
mod core;
mod drain;
mod driver;
mod fault;
mod id;
pub mod link;
mod log;
pub mod message;
pub mod storage;
mod timers;
mod work;

pub use conf::{BadVoters, Change, Conf, check_voters};
pub use core::{Peer, Role, Settings, Status};
pub use driver::{Driver, Place, ProposeError, ReceiveError, Received, SnapshotError, StartError};
pub use fault::Fault;
pub use id::RaftId;
pub use message::{Message, MessageError};
pub use storage::{Kept, Memory, Persist, Snapshot, Storage};
pub use timers::{BadTimers, Timers};
pub use work::{Apply, Fetch, Outgoing, Output, Work};
