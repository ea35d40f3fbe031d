//! Scenarios that promise times.

mod by_hand;
mod moving;
mod overload;
mod standby;
