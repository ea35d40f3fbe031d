//! Scenarios that promise times.

mod moving;
mod overload;
mod standby;
