//! Where a cloud says that it is. It is shown; nothing is decided by it, measured round trips are what counts.

use serde::{Deserialize, Serialize};

/// Where a cloud is, for the map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// As people know it.
    pub city: String,
    /// Degrees, north positive.
    pub latitude: f64,
    /// Degrees, east positive.
    pub longitude: f64,
}
impl Eq for Place {}
