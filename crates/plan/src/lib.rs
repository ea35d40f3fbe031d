//! Plan: a verdict, intent and offers become an immutable, numbered document that leaves no choice to whoever executes it.
//!
//! Enters: a verdict, the service, its ceilings, the offers of the pact's members. Leaves: a [`Plan`], or the reasons why there is none.
//! Always holds: the same input gives the same plan; its parent is the plan before it; every plan passes its own lint.

pub mod document;
pub mod lint;
pub mod make;
pub mod standby;
pub mod tell;

pub use document::{Borrow, Candidate, Part, Plan, Role};
pub use lint::{Fault, lint};
pub use make::{CurrentPart, Ids, KeptPart, NoPlan, Obstacle, Parent, PlanInput, Spent, plan};
pub use standby::{compare, keep_ready};
pub use tell::{describe, diff};
