//! Journey: one journey of one service, from its first plan to the last proof that nothing is left. It composes the stages.
//!
//! Enters: plans that were adopted, events (answers of peers, news of leases), facts, now. Leaves: a new journey, what to tell, acts to do.
//! Always holds: acts follow from the stored journey alone, so that after a crash they are found again; every step ends in bounded time;
//! a part that was asked for is let go, or lived to its proven end.

pub mod act;
pub mod event;
pub mod moving;
pub mod record;
pub mod rehearsal;
pub mod standby;
pub mod step;

pub use act::{Act, acts, renewals};
pub use event::{Event, apply};
pub use record::{Journey, Part, PartState, Phase, Seeking, Told, Try, TryState};
pub use rehearsal::{Answer, Rehearsal};
pub use step::{Facts, PartFacts, adopt, cancel, open, tick};
