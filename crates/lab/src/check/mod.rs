//! Checkers: what a scenario's users saw, held against what a service promises.
//!
//! Enters: histories of operations. Leaves: whether a promise was kept, and where it was not.
//! Always holds: pure; a search is bounded, and one that gave up says so instead of "kept".

pub mod linear;
pub mod owners;
pub mod tenures;
