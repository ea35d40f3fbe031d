//! Route: who serves a request, and how the access is switched over and back.
//!
//! Enters: what the store says about services, instances and leases. Leaves: one complete, numbered [`table::RouteTable`] for the gateway.
//! Always holds: no route leads to an instance without an active lease or local right; shares add up; a table replaces an older one only.

pub mod build;
pub mod keep;
pub mod keys;
pub mod share;
pub mod table;
pub mod tenure;

pub use build::{
    LentInput, PartInput, PartState, RouteInput, ServiceInput, build, build_told, table_differs, without_doubles,
};
pub use keys::{Keys, Pair, ServiceKeys};
pub use share::{Ramp, fair, next_weight};
pub use table::RouteTable;
pub use tenure::Tenure;
