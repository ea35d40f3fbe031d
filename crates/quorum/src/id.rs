//! Under which number a cloud votes.
//!
//! Enters: a pact, a cloud, the incarnation of its store. Leaves: a number that no other store of any cloud has.
//! Always holds: a store that was restored or lost has another incarnation, so it cannot vote under the number that already voted.

use pumasi_terms::{CloudName, PactId};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The first eight bytes of BLAKE3 over pact, cloud and incarnation; never 0, which the protocol uses for "nobody".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RaftId(u64);

impl RaftId {
    pub fn of(pact: &PactId, cloud: &CloudName, incarnation: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        // Ids and names hold no zero byte, so that what is hashed can be read in one way only.
        for part in [b"pumasi-quorum".as_slice(), pact.as_str().as_bytes(), cloud.as_str().as_bytes()] {
            hasher.update(part).update(&[0]);
        }
        hasher.update(&incarnation.to_be_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_be_bytes(first).max(1))
    }

    /// None for 0.
    pub fn new(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for RaftId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(d)?).ok_or_else(|| serde::de::Error::custom("0 is nobody's raft id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_store_is_another_voter() {
        let pact = PactId::from_entropy(7);
        let city = |name: &str| CloudName::parse(name).unwrap();
        let id = RaftId::of(&pact, &city("city-a"), 1);
        assert_eq!(id, RaftId::of(&pact, &city("city-a"), 1));
        assert_ne!(id, RaftId::of(&pact, &city("city-a"), 2), "a restored store votes under another number");
        assert_ne!(id, RaftId::of(&pact, &city("city-b"), 1));
        assert_ne!(id, RaftId::of(&PactId::from_entropy(8), &city("city-a"), 1));
        // Pinned: voters of two versions must know each other.
        assert_eq!(id.to_string(), "e65ddc6a5d640d53");
    }
}
