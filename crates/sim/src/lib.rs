//! The simulator: several clouds in one thread, in virtual time, from one seed.
//!
//! Enters: a seed. Leaves: what happened, as a story, and which of the things that must always hold did not.
//! Always holds: the daemons run the product's own code, from the API's router to the store's schema; only time, entropy, the network,
//! the gateway's sockets and the instances are made up; the same seed gives the same story.
//!
//! Read `world` first: it brings up clouds and plays a `script` of load and faults on them, while `oracle` watches.

pub mod cloud;
pub mod engine;
pub mod gateway;
mod ledger;
mod liar;
pub mod life;
pub mod mutant;
pub mod net;
pub mod oracle;
pub mod script;
pub mod steps;
pub mod story;
pub mod traffic;
pub mod voting;
pub mod world;

pub use world::{Outcome, Setup, play};
