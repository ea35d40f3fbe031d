//! Whether this store is the newest of its line, and the row that says where it stands.

use crate::error::{StoreError, during};
use crate::numbers::{self, COUNT_MAX, from_sql, to_sql};
use pumasi_terms::{Revision, WallMs};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Where a store stood at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorPoint {
    pub revision: Revision,
    pub journal_seq: u64,
    /// Lower-case hex of the journal's link.
    pub journal_link: String,
}

/// Who this store is. Incarnation and revision are what peers remember.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    pub store_id: String,
    /// Rises each time a restored store is accepted.
    pub incarnation: u64,
    pub anchor: AnchorPoint,
}

/// Whether the store may be believed to be the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "standing")]
pub enum Standing {
    Current,
    /// Something newer was seen: act on no other organisation before `accept_restored`.
    Restored {
        why: RestoredWhy,
    },
}

/// How it came out that the store may be old.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum RestoredWhy {
    /// It was restored from a backup.
    Backup { taken_at: WallMs },
    /// The anchor file remembers a later state.
    AnchorAhead { incarnation: u64, revision: Revision, journal_seq: u64 },
    /// The anchor file remembers another journal.
    AnchorDiffers { journal_seq: u64 },
    /// The anchor file belongs to another store.
    AnchorForeign { store_id: String },
    /// The database has content but its anchor file is gone.
    AnchorMissing,
    /// The anchor file cannot be read.
    AnchorUnreadable { detail: String },
    /// A peer brought back a receipt that this cloud once gave over a later state.
    PeerAhead { incarnation: u64, revision: Revision },
}

impl RestoredWhy {
    /// The latest state known to have existed: nothing at or below it may be given out again. What no store can have had
    /// is not known of any.
    pub(crate) fn seen(&self) -> (u64, u64) {
        match self {
            Self::AnchorAhead { incarnation, revision, .. } | Self::PeerAhead { incarnation, revision }
                if (*incarnation).max(revision.0) < COUNT_MAX =>
            {
                (*incarnation, revision.0)
            }
            _ => (0, 0),
        }
    }
}

impl fmt::Display for RestoredWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup { taken_at } => write!(f, "it comes from a backup taken at {taken_at}"),
            Self::AnchorAhead { incarnation, revision, journal_seq } => write!(
                f,
                "its anchor file remembers incarnation {incarnation}, revision {revision}, journal row {journal_seq}"
            ),
            Self::AnchorDiffers { journal_seq } => {
                write!(f, "its anchor file remembers another journal at row {journal_seq}")
            }
            Self::AnchorForeign { store_id } => write!(f, "the anchor file beside it belongs to {store_id}"),
            Self::AnchorMissing => f.write_str("its anchor file is missing"),
            Self::AnchorUnreadable { detail } => write!(f, "its anchor file cannot be read: {detail}"),
            Self::PeerAhead { incarnation, revision } => {
                write!(f, "a member holds this cloud's own receipt for incarnation {incarnation}, revision {revision}")
            }
        }
    }
}

/// The store's one row. The writer changes a copy and publishes it after the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub store_id: Arc<str>,
    pub incarnation: u64,
    pub revision: u64,
    pub log_floor: u64,
    pub journal_seq: u64,
    pub journal_link: [u8; 32],
    pub base_seq: u64,
    pub base_link: [u8; 32],
    pub segment_seq: u64,
    pub restored: Option<RestoredWhy>,
}

impl Head {
    pub fn first(store_id: &str) -> Self {
        let genesis = *blake3::Hasher::new_derive_key("pumasi journal genesis v1")
            .update(store_id.as_bytes())
            .finalize()
            .as_bytes();
        Self {
            store_id: store_id.into(),
            incarnation: 1,
            revision: 0,
            log_floor: 0,
            journal_seq: 0,
            journal_link: genesis,
            base_seq: 0,
            base_link: genesis,
            segment_seq: 0,
            restored: None,
        }
    }

    pub fn load(conn: &Connection) -> Result<Option<Self>, StoreError> {
        let sql = "SELECT store_id, incarnation, revision, log_floor, journal_seq, journal_link, base_seq, base_link,
                   segment_seq, restored FROM store WHERE one = 1";
        let row = conn
            .prepare_cached(sql)
            .and_then(|mut s| {
                s.query_row([], |r| {
                    let head = Self {
                        store_id: r.get::<_, String>(0)?.into(),
                        incarnation: from_sql(r.get(1)?),
                        revision: from_sql(r.get(2)?),
                        log_floor: from_sql(r.get(3)?),
                        journal_seq: from_sql(r.get(4)?),
                        journal_link: r.get(5)?,
                        base_seq: from_sql(r.get(6)?),
                        base_link: r.get(7)?,
                        segment_seq: from_sql(r.get(8)?),
                        restored: None,
                    };
                    Ok((head, r.get::<_, Option<String>>(9)?))
                })
                .optional()
            })
            .map_err(during("reading the store's head"))?;
        let Some((mut head, restored)) = row else { return Ok(None) };
        if let Some(text) = restored {
            let why = serde_json::from_str(&text);
            head.restored = Some(why.unwrap_or_else(|e| RestoredWhy::AnchorUnreadable { detail: e.to_string() }));
        }
        Ok(Some(head))
    }

    pub fn insert(&self, conn: &Connection, now: WallMs) -> Result<(), StoreError> {
        conn.execute(
            "INSERT INTO store (one, store_id, incarnation, created_at, revision, log_floor, journal_seq, journal_link,
             base_seq, base_link, segment_seq) VALUES (1, ?1, 1, ?2, 0, 0, 0, ?3, 0, ?3, 0)",
            params![&*self.store_id, now.0, self.journal_link],
        )
        .map(drop)
        .map_err(during("creating the store's head"))
    }

    pub fn save(&self, conn: &Connection) -> Result<(), StoreError> {
        let restored = match &self.restored {
            Some(why) => Some(
                serde_json::to_string(why)
                    .map_err(|e| StoreError::Encode { what: "the store's standing".into(), detail: e.to_string() })?,
            ),
            None => None,
        };
        let sql = "UPDATE store SET incarnation = ?1, revision = ?2, log_floor = ?3, journal_seq = ?4,
                   journal_link = ?5, base_seq = ?6, base_link = ?7, segment_seq = ?8, restored = ?9 WHERE one = 1";
        conn.prepare_cached(sql)
            .and_then(|mut s| {
                s.execute(params![
                    to_sql(self.incarnation)?,
                    to_sql(self.revision)?,
                    to_sql(self.log_floor)?,
                    to_sql(self.journal_seq)?,
                    self.journal_link,
                    to_sql(self.base_seq)?,
                    self.base_link,
                    to_sql(self.segment_seq)?,
                    restored
                ])
            })
            .map(drop)
            .map_err(during("writing the store's head"))
    }

    pub fn standing(&self) -> Standing {
        match &self.restored {
            None => Standing::Current,
            Some(why) => Standing::Restored { why: why.clone() },
        }
    }

    pub fn identity(&self) -> StoreIdentity {
        StoreIdentity {
            store_id: self.store_id.to_string(),
            incarnation: self.incarnation,
            anchor: AnchorPoint {
                revision: Revision(self.revision),
                journal_seq: self.journal_seq,
                journal_link: hex::encode(self.journal_link),
            },
        }
    }

    /// Whether a receipt of ours is news that says that this store is old.
    pub fn is_behind(&self, incarnation: u64, revision: Revision) -> bool {
        if incarnation.max(revision.0) >= COUNT_MAX {
            return false;
        }
        let known = self.restored.as_ref().map_or((0, 0), RestoredWhy::seen);
        (incarnation, revision.0) > (self.incarnation, self.revision).max(known)
    }

    /// From now on the store is suspect; what is known to have been given out is not given out again.
    pub fn mark_restored(&mut self, why: RestoredWhy) {
        self.revision = self.revision.max(why.seen().1);
        // The first finding tells most; a later one only adds what must not be reused.
        if self.restored.is_none() || why.seen() > self.restored.as_ref().map_or((0, 0), RestoredWhy::seen) {
            self.restored = Some(why);
        }
    }

    pub fn accept(&mut self, above: Revision) -> Result<(), StoreError> {
        let seen = self.restored.as_ref().map_or((0, 0), RestoredWhy::seen);
        let incarnation = numbers::next("incarnation", self.incarnation.max(seen.0))?;
        let revision = self.revision.max(seen.1).max(above.0);
        numbers::next("revision", revision)?;
        self.restored = None;
        (self.incarnation, self.revision) = (incarnation, revision);
        Ok(())
    }
}
