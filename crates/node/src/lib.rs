//! Node: composes one cloud from the rooms of the journey.
//!
//! Enters: a configuration, requests of people and peers, meter windows, the state of instances. Leaves: acts on engine, gateway and peers.
//! Always holds: decisions are made by the pure crates; a transition and its journal entry commit in one transaction, and acts follow it;
//! reconcilers take no hints, read the store, and may be run twice or be cut off anywhere.

pub mod api;
pub mod borrower;
pub mod bundles;
pub mod clock;
pub mod config;
pub mod disk;
pub mod fleet;
pub mod gateway;
pub mod ground;
pub mod health;
pub mod home;
pub mod identity;
pub mod lender;
pub mod metrics;
pub mod node;
pub mod object;
pub mod pact;
pub mod peers;
pub mod quarantine;
pub mod routes;
pub mod sensing;
pub mod serve;
pub mod stray;
pub mod supervise;
pub mod trace;
mod uploads;
pub mod wire;
pub mod world;

pub use config::{Config, ConfigError, ConfigFault};
pub use node::Node;
pub use serve::{ServeError, serve};
