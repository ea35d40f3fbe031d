//! Lists and bytes from outside, bounded before memory is taken for them.

use crate::id::RaftId;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

struct List<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let announced = seq.size_hint().unwrap_or(0);
        if announced > MAX {
            return Err(A::Error::invalid_length(announced, &self));
        }
        // What is announced costs nothing yet: it grows with what comes.
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            if items.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// For `deserialize_with`: a list of at most `MAX`.
pub(crate) fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>, const MAX: usize>(d: D) -> Result<Vec<T>, D::Error> {
    d.deserialize_seq(List::<T, MAX>(PhantomData))
}

/// For `with`: a set of at most [`crate::conf::NODES_MAX`] voters, in rising order and in no other.
pub(crate) mod ids {
    use super::*;
    use crate::conf::NODES_MAX;

    pub(crate) fn serialize<S: Serializer>(ids: &BTreeSet<RaftId>, s: S) -> Result<S::Ok, S::Error> {
        let mut seq = s.serialize_seq(Some(ids.len()))?;
        ids.iter().try_for_each(|id| seq.serialize_element(id))?;
        seq.end()
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeSet<RaftId>, D::Error> {
        let ids = list::<RaftId, D, NODES_MAX>(d)?;
        if !ids.is_sorted_by(|a, b| a < b) {
            return Err(D::Error::custom("raft ids must rise, each standing once"));
        }
        Ok(ids.into_iter().collect())
    }
}

/// For `with`: bytes, at most `MAX`.
pub(crate) mod bytes {
    use super::*;
    use crate::message::COMMAND_BYTES_MAX;

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "1 to {COMMAND_BYTES_MAX} bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            match bytes.len() {
                1..=COMMAND_BYTES_MAX => Ok(bytes.to_vec()),
                other => Err(E::invalid_length(other, &self)),
            }
        }
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        d.deserialize_bytes(Bytes)
    }
}
