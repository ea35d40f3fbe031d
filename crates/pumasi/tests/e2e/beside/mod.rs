//! Scenarios that promise nothing about time, or get no verdict on it here.

mod disaster;
mod faults;
mod foreign;
mod game_day;
mod hostile;
mod identity;
mod keys;
mod room;
mod soak;
mod split;
mod takeover;
mod witness;
mod yields;
