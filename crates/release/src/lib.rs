//! Release: drain, return what belongs home, prove that nothing is left behind, settle.
//!
//! Enters: what is known of a part that shall end, now. Leaves: the next acts, in an order that loses no request and no data.
//! Always holds: nothing is erased before it is drained; nothing is forgotten before it is proven empty or its lender is known to be gone.

pub mod borrower;
pub mod lender;

pub use borrower::{Act, Bounds, Facts, Proof, ReleaseState, Step, advance};
pub use lender::{Emptying, EmptyingAct, EmptyingBounds, EmptyingStep, Left};
