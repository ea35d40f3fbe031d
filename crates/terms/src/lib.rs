//! The words of Pumasi as types: identifiers, instants, units, and the documents that people write.
//!
//! Enters: text written by people or sent by peers. Leaves: validated values.
//! Always holds: no clock, no randomness, no I/O; a value that exists is valid; every document names its version.
//! Vocabulary: ITU-T Y.3511/Y.3516 and GICTF.

pub mod class;
pub mod continuity;
pub mod document;
pub mod egress;
pub mod faults;
pub mod identity;
pub mod ids;
pub mod instant;
pub mod manifest;
pub mod method;
pub mod offer;
pub mod pact;
pub mod place;
pub mod position;
pub mod protocol;
pub mod reach;
pub mod service;
pub mod sync;
pub mod template;
pub mod tls;
pub mod told;
pub mod units;

pub use continuity::{Continuity, Standby};
pub use document::{API_VERSION, Document, FieldError, Metadata, Validate};
pub use egress::EgressRule;
pub use ids::*;
pub use instant::{BootMs, Now, WallMs};
pub use place::Place;
pub use position::{Generation, Position};
pub use protocol::Protocol;
pub use units::{Epoch, Money, Ppm, Resources, Revision, Serial};
