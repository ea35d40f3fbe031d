//! SPIFFE identities: `spiffe://<cloud>/<role>` (SPIFFE-ID, 2).
//!
//! The trust domain is a cloud's name, hence narrower than the standard: one lower-case DNS label.

use pumasi_terms::CloudName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

const BYTES_MAX: usize = 2048;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("SPIFFE id {value:?}: {problem}")]
pub struct BadSpiffeId {
    pub value: String,
    pub problem: &'static str,
}

/// What a holder does in its cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Daemon,
    Gateway,
    Operator,
}

impl Role {
    pub fn path(self) -> &'static str {
        match self {
            Role::Daemon => "/daemon",
            Role::Gateway => "/gateway",
            Role::Operator => "/operator",
        }
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: CloudName,
    /// Empty, or '/' and segments.
    path: String,
}

impl SpiffeId {
    pub fn new(cloud: &CloudName, role: Role) -> Self {
        Self { trust_domain: cloud.clone(), path: role.path().to_owned() }
    }
    pub fn daemon(cloud: &CloudName) -> Self {
        Self::new(cloud, Role::Daemon)
    }
    pub fn gateway(cloud: &CloudName) -> Self {
        Self::new(cloud, Role::Gateway)
    }
    pub fn operator(cloud: &CloudName) -> Self {
        Self::new(cloud, Role::Operator)
    }
    /// The id of the trust domain itself, which its roots carry.
    pub fn of_domain(cloud: &CloudName) -> Self {
        Self { trust_domain: cloud.clone(), path: String::new() }
    }

    pub fn parse(value: &str) -> Result<Self, BadSpiffeId> {
        let bad = |problem| BadSpiffeId { value: value.chars().take(80).collect(), problem };
        if value.len() > BYTES_MAX {
            return Err(bad("is longer than 2048 bytes"));
        }
        let rest = value.strip_prefix("spiffe://").ok_or_else(|| bad("must begin with 'spiffe://'"))?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain =
            CloudName::parse(domain).map_err(|_| bad("the trust domain must be a cloud name (a DNS label)"))?;
        for segment in path.split('/').skip(1) {
            if segment.is_empty() || segment == "." || segment == ".." {
                return Err(bad("a path segment may not be empty, '.' or '..'"));
            }
            if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
                return Err(bad("a path may hold only letters, digits, '-', '_' and '.'"));
            }
        }
        Ok(Self { trust_domain, path: path.to_owned() })
    }

    pub fn trust_domain(&self) -> &CloudName {
        &self.trust_domain
    }
    pub fn path(&self) -> &str {
        &self.path
    }
    pub fn role(&self) -> Option<Role> {
        [Role::Daemon, Role::Gateway, Role::Operator].into_iter().find(|r| r.path() == self.path)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}
impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl std::str::FromStr for SpiffeId {
    type Err = BadSpiffeId;
    fn from_str(s: &str) -> Result<Self, BadSpiffeId> {
        Self::parse(s)
    }
}
impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_follow_the_standard() {
        let id = SpiffeId::parse("spiffe://city-a/daemon").unwrap();
        assert_eq!(id.role(), Some(Role::Daemon));
        assert_eq!(id.to_string(), "spiffe://city-a/daemon");
        assert_eq!(SpiffeId::parse("spiffe://city-a").unwrap().path(), "");
        assert_eq!(SpiffeId::parse("spiffe://city-a/x/y_1.z").unwrap().role(), None);
        for bad in [
            "",
            "spiffe://",
            "spiffe:///daemon",
            "SPIFFE://city-a/daemon",
            "https://city-a/daemon",
            "spiffe://city-a/",
            "spiffe://city-a/daemon/",
            "spiffe://city-a//daemon",
            "spiffe://city-a/./daemon",
            "spiffe://city-a/../daemon",
            "spiffe://City-A/daemon",
            "spiffe://city-a:8443/daemon",
            "spiffe://user@city-a/daemon",
            "spiffe://city-a/daemon?x=1",
            "spiffe://city-a/daemon#f",
            "spiffe://city-a/d%61emon",
            "spiffe://city.a/daemon",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad:?} passed");
        }
        assert!(SpiffeId::parse(&format!("spiffe://city-a/{}", "a".repeat(2048))).is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_passes_round_trips(s in "(spiffe://)?[a-z/.%:-]{0,40}\\PC{0,4}") {
            if let Ok(id) = SpiffeId::parse(&s) {
                prop_assert_eq!(id.to_string(), s);
            }
        }
    }
}
