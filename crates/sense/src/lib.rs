//! Sense: meter readings become dated observations. It decides nothing.
//!
//! Enters: [`MeterWindow`]s that a gateway closed. Leaves: an [`Observation`] a service, over the last windows.
//! Always holds: user network, queue and application time stay apart; no clock is read; the same windows give the same observation.

pub mod histogram;
pub mod meter;
pub mod observation;
pub mod sense;

pub use histogram::Histogram;
pub use meter::{BackendKey, BackendMeter, MeterWindow, ServiceMeter};
pub use observation::{BackendObservation, Observation};
pub use sense::{Ingested, METER_VERSION, Sense, SenseError, Settings};
