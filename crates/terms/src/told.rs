//! How to read what another cloud tells, whose version may be a neighbour's.
//!
//! What is *told* (offers, readings, states) is taken as far as it is understood; what is *asked* must be understood whole, or it is
//! refused by name. So these are for fields of answers and never for what somebody is to act on.
//! Enters: any JSON. Leaves: what of it can be read. Always holds: what cannot be read never makes the message around it unreadable.

use crate::Resources;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// `None` where it cannot be read.
pub fn readable<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Option<T>, D::Error> {
    let told = Option::<serde_json::Value>::deserialize(from)?;
    Ok(told.and_then(|value| serde_json::from_value(value).ok()))
}

/// Without those that cannot be read.
pub fn readable_each<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Vec<T>, D::Error> {
    let told = Vec::<serde_json::Value>::deserialize(from)?;
    Ok(told.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
}

/// Free room, of kinds that this version knows. A manifest's resources are strict, so that a misspelt field is told.
pub fn resources<'de, D: Deserializer<'de>>(from: D) -> Result<Resources, D::Error> {
    #[derive(Deserialize)]
    struct Known {
        cpu_millis: u32,
        memory_mib: u32,
    }
    let Known { cpu_millis, memory_mib } = Known::deserialize(from)?;
    Ok(Resources { cpu_millis, memory_mib })
}
