//! What members say to each other about the vote, version 1.
//!
//! Enters: bytes of `POST /v1/pacts/{id}/messages` and of `GET /v1/pacts/{id}/register`. Leaves: the same, read; or a refusal.
//! Always holds: a version that is not known is refused by its number, and everything inside has a version of its own (messages of
//! consensus, entries of the register); what is read is no larger than the endpoint lets in.

use pumasi_ownership::{Renewal, Told};
use pumasi_terms::{CloudName, Serial};
use serde::{Deserialize, Serialize};

pub const VERSION: u16 = 1;
/// Of one call; one message is never larger than `pumasi_quorum`'s own bound.
pub const BATCH_BYTES_MAX: usize = 448 << 10;
pub const BATCH_MESSAGES_MAX: usize = 256;
/// Of one answer about the register.
pub const ENTRIES_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error(
        "words about the vote of version {0}; this daemon speaks {VERSION}: the older of both sides is to be upgraded"
    )]
    Version(u16),
    #[error("words about the vote that cannot be read: {0}; the sender is at fault")]
    Unreadable(String),
}

/// One call to one member: what there was to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// With which serial the voting began that this is about.
    pub since: Serial,
    /// Of the sender's store: with its name it tells under which number it votes.
    pub incarnation: u64,
    /// Of consensus, as it wrote them.
    pub messages: Vec<Vec<u8>>,
    /// Renewals as JSON: the sender's own, and those of others that it heard and does not see applied.
    pub renewals: Vec<Vec<u8>>,
}

impl Batch {
    pub fn renewals(&self) -> impl Iterator<Item = Renewal> {
        self.renewals.iter().filter_map(|r| serde_json::from_slice(r).ok())
    }
}

/// The answer to a batch, JSON: told, so that fields may come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// As of its register; none: it has none yet.
    #[serde(default)]
    pub revision: u64,
    #[serde(default)]
    pub leader: Option<CloudName>,
    #[serde(default)]
    pub incarnation: u64,
    /// Run and number of the caller's last renewal that is applied and on disk here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed: Option<(u64, u64)>,
}

/// What the register became after a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    pub since: Serial,
    /// Index and bytes, in order, the first ones after what was asked for.
    pub entries: Vec<(u64, Vec<u8>)>,
    /// The log does not reach back so far: the whole register, by its digest.
    pub snapshot: Option<[u8; 32]>,
}

fn with_version(body: &impl Serialize) -> Vec<u8> {
    let mut bytes = VERSION.to_be_bytes().to_vec();
    // Plain lists and numbers in memory are always written.
    bytes.extend(postcard::to_allocvec(body).unwrap_or_default());
    bytes
}

fn of_version<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let Some((version, body)) = bytes.split_first_chunk::<2>() else {
        return Err(WireError::Unreadable("too short".into()));
    };
    match u16::from_be_bytes(*version) {
        VERSION => {}
        other => return Err(WireError::Version(other)),
    }
    match postcard::take_from_bytes(body) {
        Ok((read, [])) => Ok(read),
        Ok(_) => Err(WireError::Unreadable("it goes on after its end".into())),
        Err(e) => Err(WireError::Unreadable(e.to_string())),
    }
}

impl Batch {
    pub fn encode(&self) -> Vec<u8> {
        with_version(self)
    }
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        of_version(bytes)
    }
}

impl Followed {
    pub fn encode(&self) -> Vec<u8> {
        with_version(self)
    }
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        of_version(bytes)
    }
}

/// `POST /v1/pacts/{id}/commands`, JSON: on behalf of the cloud that calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskCommand {
    pub since: Serial,
    pub command: pumasi_ownership::Command,
}

/// ... and what became of it, once it was applied there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub index: u64,
    pub told: Vec<Told>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_read_as_it_was_written_and_nothing_else_is() {
        let batch = Batch {
            since: Serial(7),
            incarnation: 2,
            messages: vec![vec![1, 2, 3], Vec::new()],
            renewals: vec![b"{}".to_vec()],
        };
        let bytes = batch.encode();
        // Pinned: voters of two versions read each other.
        assert_eq!(hex::encode(&bytes), "000107020203010203000102".to_owned() + "7b7d");
        assert_eq!(Batch::decode(&bytes).unwrap(), batch);
        assert_eq!(batch.renewals().count(), 0);
        for wrong in [&[][..], &[0], &[0, 1], &bytes[..bytes.len() - 1], &[bytes.as_slice(), &[0]].concat()] {
            assert!(matches!(Batch::decode(wrong), Err(WireError::Unreadable(_))), "{wrong:?}");
        }
        assert_eq!(Batch::decode(&[0, 2, 0]), Err(WireError::Version(2)));
        // A list that says that it is endless takes no memory.
        assert!(Batch::decode(&[0, 1, 7, 2, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }

    #[test]
    fn what_the_register_became_is_read_as_it_was_written() {
        let followed = Followed { since: Serial(3), entries: vec![(300, b"{}".to_vec())], snapshot: Some([9; 32]) };
        assert_eq!(Followed::decode(&followed.encode()).unwrap(), followed);
        let heard: Heard = serde_json::from_str(r#"{"revision":3,"of_a_later_version":true}"#).unwrap();
        assert_eq!(heard.revision, 3);
    }
}
