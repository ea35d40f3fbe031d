//! The one registry of identifiers. Names are chosen by people, ids are made by machines.
//!
//! Both are checked when they are made or parsed, so that they are safe in a path, a header, a log line or a cgroup name.

use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// Why a name or an id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?}: {problem}")]
pub struct BadId {
    pub kind: &'static str,
    pub value: String,
    pub problem: &'static str,
}

/// A DNS label (RFC 1035, 2.3.1, lower case): what people call a thing.
fn check_name(kind: &'static str, value: &str) -> Result<(), BadId> {
    let bad = |problem| Err(BadId { kind, value: value.chars().take(80).collect(), problem });
    if value.is_empty() || value.len() > 63 {
        return bad("must have 1 to 63 characters");
    }
    if !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return bad("may hold only a-z, 0-9 and '-'");
    }
    if value.starts_with('-') || value.ends_with('-') {
        return bad("may not begin or end with '-'");
    }
    Ok(())
}

fn check_id(kind: &'static str, prefix: &str, value: &str) -> Result<(), BadId> {
    let bad = |problem| Err(BadId { kind, value: value.chars().take(80).collect(), problem });
    let Some(rest) = value.strip_prefix(prefix).and_then(|r| r.strip_prefix('-')) else {
        return bad("has the wrong prefix");
    };
    if rest.is_empty() || rest.len() > 48 || !rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return bad("must be its prefix, '-', and 1 to 48 of a-z and 0-9");
    }
    Ok(())
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, schemars::JsonSchema)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            pub fn parse(value: impl Into<String>) -> Result<Self, BadId> {
                let value = value.into();
                #[allow(clippy::redundant_closure_call)]
                ($check)(value.as_str())?;
                Ok(Self(value))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = BadId;
            fn from_str(s: &str) -> Result<Self, BadId> {
                Self::parse(s)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::parse(String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        text_type!($(#[$doc])* $name, $kind, |v: &str| check_name($kind, v));
    };
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        text_type!($(#[$doc])* $name, $kind, |v: &str| check_id($kind, $prefix, v));
        impl $name {
            /// `entropy` is the caller's randomness: pure code has none of its own.
            pub fn from_entropy(entropy: u128) -> Self {
                Self(format!("{}-{:032x}", $prefix, entropy))
            }
        }
    };
}

name_type!(
    /// A cloud (CSP). It is also the SPIFFE trust domain of that cloud.
    CloudName, "cloud name");
name_type!(
    /// A service, unique within the cloud that owns it.
    ServiceName, "service name");
name_type!(
    /// A dataset, unique within its service.
    DatasetName, "dataset name");
name_type!(
    /// Who holds a token: a person or a program.
    PrincipalName, "principal name");
name_type!(
    /// A customer (CSC): the tenant that owns services, hosts, bundles, data and logs.
    CustomerName, "customer name");

name_type!(
    /// A secret of a customer, that its services name.
    SecretName, "secret name");

impl CustomerName {
    /// Who owns what was made before customers were told apart, and what an operator makes for nobody in particular.
    pub fn default_customer() -> Self {
        Self("default".to_owned())
    }
}

impl DatasetName {
    /// In which the users of a service go along ([`crate::identity`]).
    pub fn realm() -> Self {
        Self(crate::identity::DATASET.to_owned())
    }
    pub fn is_realm(&self) -> bool {
        self.0 == crate::identity::DATASET
    }
}

id_type!(PactId, "pact id", "pact");
id_type!(
    /// A provisional hold of a lender's capacity.
    ReservationId, "reservation id", "hold");
id_type!(
    /// An agreed, time-bounded, renewable use of another's resources.
    LeaseId, "lease id", "lease");
id_type!(PlanId, "plan id", "plan");
id_type!(
    /// One journey of one service: sense to release.
    JourneyId, "journey id", "jrn");
id_type!(
    /// A service, for good: made at its birth. Its name may be given to another one after its end, its id never.
    ServiceId, "service id", "svc");
id_type!(
    /// One wish that a service live at another cloud.
    MoveId, "move id", "mov");
id_type!(InstanceId, "instance id", "inst");
id_type!(TokenId, "token id", "tok");

/// A BLAKE3 digest, written `blake3:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("blake3:")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl std::str::FromStr for Digest {
    type Err = BadId;
    fn from_str(s: &str) -> Result<Self, BadId> {
        let bad = || BadId {
            kind: "digest",
            value: s.chars().take(80).collect(),
            problem: "must be 'blake3:' and 64 lower-case hex digits",
        };
        let hex = s.strip_prefix("blake3:").ok_or_else(bad)?;
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(bad());
        }
        let mut out = [0u8; 32];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(out))
    }
}
impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}
impl schemars::JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^blake3:[0-9a-f]{64}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        assert!(CloudName::parse("city-a").is_ok());
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "../x", &"a".repeat(64)] {
            assert!(CloudName::parse(bad).is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn ids_carry_their_kind() {
        let lease = LeaseId::from_entropy(7);
        assert_eq!(LeaseId::parse(lease.as_str()), Ok(lease.clone()));
        assert!(PlanId::parse(lease.as_str()).is_err());
    }

    #[test]
    fn digests_round_trip() {
        let digest = Digest([0xab; 32]);
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!("blake3:AB".parse::<Digest>().is_err());
    }
}
