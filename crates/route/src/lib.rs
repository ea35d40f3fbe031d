//! Route: who serves a request, and how the access is switched over and back.
//!
//! Enters: what the store says about services, instances and leases. Leaves: one complete, numbered [`table::RouteTable`] for the gateway.
//! Always holds: no route leads to an instance without an active lease or local right; shares add up; a table replaces an older one only.

pub mod table;

pub use table::RouteTable;
