//! Fail every step: one table of a journey's steps, one fault a run, and the end compared with that of a run without a fault.
//!
//! Enters: a step of the table and a fault. Leaves: whether everything ended as without it, or was refused with a reason.
//! Always holds: the daemons run the product's code, on the simulator's drivers in virtual time or on files and processes in real time.
//!
//! Read `table` first; `stage` plays a journey, `trap` does the fault, `end` compares.

mod end;
mod real;
mod stage;
pub mod table;
mod trap;

pub use end::{End, Verdict};
pub use real::{Programs, play_real};
pub use stage::{Drivers, Played, There, cases, play, play_slow, play_with_bug};
pub use table::{At, Fault, Play, STEPS, Side, Step, uncovered};
pub use trap::{Bug, Call, Trap, TrappedEngine, TrappedPort};
