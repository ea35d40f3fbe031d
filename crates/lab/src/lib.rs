//! The lab: several clouds on one machine, real processes, real sockets, real load.
//!
//! Enters: a scenario. Leaves: a live story, a table of figures, and a verdict on each promise.
//! Always holds: nothing that it started outlives it; a run that the machine itself spoiled is called invalid, never kept or broken.

pub mod bundle;
pub mod check;
pub mod cities;
pub mod cluster;
pub mod crowd;
pub mod example;
pub mod follow;
pub mod load;
pub mod look;
pub mod machine;
pub mod process;
pub mod relay;
pub mod replay;
pub mod report;
pub mod run;
pub mod scenario;
pub mod soak;
pub mod story;
pub mod topology;

pub use run::{WrongUsage, run};
