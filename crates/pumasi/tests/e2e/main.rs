//! Whole scenarios on real processes, as `pumasi lab` plays them.
//!
//! Those in `alone` promise times: nothing else is played meanwhile. Those in `beside` are about correctness, whatever the machine does
//! besides: as many are played at once as the test harness has threads. The names sort so that those of `alone` come first.

#![allow(clippy::expect_used, clippy::panic)] // a test that cannot begin fails loudly

mod alone;
mod beside;
mod played;
