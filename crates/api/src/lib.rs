//! The public API: one for customers, operators and peers. What the daemon, the CLI, the console and other clouds share.
//!
//! Enters: requests over HTTP. Leaves: JSON, or a [`Problem`] (RFC 9457).
//! Always holds: every endpoint stands in [`endpoint::ENDPOINTS`] with the roles that may call it; what is not there cannot be called.

pub mod client;
pub mod console;
pub mod endpoint;
pub mod exec;
pub mod game_day;
mod lost;
pub mod message;
pub mod problem;
pub mod role;
mod socket;
mod way;

pub use client::{CallError, Client};
pub use endpoint::{Door, ENDPOINTS, Endpoint, Method};
pub use problem::{Fault, Problem};
pub use role::{Principal, Role};
pub use way::Way;
