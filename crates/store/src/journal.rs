//! What happened and why: append-only rows under a chain of links.
//!
//! A row's digest covers its fields as stored. A link covers the link before it and the digests of one committed batch.
//! Personal payloads are kept apart and enter a row only as a digest keyed by a salt that is erased with them.

use crate::error::{StoreError, during};
use crate::numbers::{bound, from_sql, to_sql};
use crate::standing::Head;
use crate::tx::Tx;
use pumasi_terms::WallMs;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const ENTRY_BYTES_MAX: usize = 256 << 10;
/// Rows after which a segment is sealed by itself.
const SEGMENT_ROWS: u64 = 10_000;
/// Retention drops whole segments: what is kept has so many at least, or a short retention would never be reached.
const SEGMENTS_KEPT: u64 = 8;
const SEGMENT_ROWS_MIN: u64 = 100;

/// One thing that happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub at: WallMs,
    pub actor: String,
    pub action: String,
    pub subject_kind: String,
    pub subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    #[serde(default)]
    pub reasons: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(default)]
    pub data: Value,
    /// What tells of a person; it can be erased later without breaking the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<Value>,
}

/// An entry as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRow {
    pub seq: u64,
    #[serde(flatten)]
    pub entry: Entry,
    /// There was a personal payload and it is gone.
    #[serde(default)]
    pub personal_erased: bool,
}

/// The end of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalHead {
    pub seq: u64,
    /// Lower-case hex.
    pub link: String,
}

/// Which rows a page shows. Empty: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalFilter {
    pub subject_kind: Option<String>,
    pub subject: Option<String>,
    pub action: Option<String>,
    /// Personal payloads are left out unless this is set.
    pub with_personal: bool,
}

/// What retention has dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    pub segments_dropped: u64,
    pub rows_dropped: u64,
}

/// The first row that is not what was sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal is broken at row {seq}: {problem}")]
pub struct BrokenAt {
    pub seq: u64,
    pub problem: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Broken(#[from] BrokenAt),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A row's columns as text and bytes: what is hashed is what is stored.
#[derive(Debug)]
struct Columns {
    seq: u64,
    at: i64,
    actor: String,
    action: String,
    subject_kind: String,
    subject: String,
    cause: Option<String>,
    reasons: String,
    trace_id: Option<String>,
    data: String,
    personal_digest: Option<[u8; 32]>,
}

const COLUMNS: &str = "j.seq, j.at, j.actor, j.action, j.subject_kind, j.subject, j.cause, j.reasons, j.trace_id, j.data, j.personal_digest";

impl Columns {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: from_sql(row.get(0)?),
            at: row.get(1)?,
            actor: row.get(2)?,
            action: row.get(3)?,
            subject_kind: row.get(4)?,
            subject: row.get(5)?,
            cause: row.get(6)?,
            reasons: row.get(7)?,
            trace_id: row.get(8)?,
            data: row.get(9)?,
            personal_digest: row.get(10)?,
        })
    }

    /// Version 1: every field with its length before it, so that no two rows have the same bytes.
    fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("pumasi journal row v1");
        hasher.update(&self.seq.to_le_bytes()).update(&self.at.to_le_bytes());
        let mut field = |bytes: Option<&[u8]>| match bytes {
            None => {
                hasher.update(&[0]);
            }
            Some(bytes) => {
                hasher.update(&[1]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
            }
        };
        field(Some(self.actor.as_bytes()));
        field(Some(self.action.as_bytes()));
        field(Some(self.subject_kind.as_bytes()));
        field(Some(self.subject.as_bytes()));
        field(self.cause.as_deref().map(str::as_bytes));
        field(Some(self.reasons.as_bytes()));
        field(self.trace_id.as_deref().map(str::as_bytes));
        field(Some(self.data.as_bytes()));
        field(self.personal_digest.as_ref().map(<[u8; 32]>::as_slice));
        *hasher.finalize().as_bytes()
    }

    fn into_row(self, personal: Option<&str>) -> Result<JournalRow, StoreError> {
        let bad = |e: serde_json::Error| StoreError::Decode {
            what: format!("journal row {}", self.seq),
            detail: e.to_string(),
        };
        let entry = Entry {
            at: WallMs(self.at),
            reasons: serde_json::from_str(&self.reasons).map_err(bad)?,
            data: serde_json::from_str(&self.data).map_err(bad)?,
            personal: personal.map(serde_json::from_str).transpose().map_err(bad)?,
            actor: self.actor,
            action: self.action,
            subject_kind: self.subject_kind,
            subject: self.subject,
            cause: self.cause,
            trace_id: self.trace_id,
        };
        Ok(JournalRow { seq: self.seq, entry, personal_erased: false })
    }
}

fn next_link(before: &[u8; 32], first_seq: u64, digests: &[[u8; 32]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("pumasi journal link v1");
    hasher.update(before).update(&first_seq.to_le_bytes()).update(&(digests.len() as u64).to_le_bytes());
    digests.iter().for_each(|d| {
        hasher.update(d);
    });
    *hasher.finalize().as_bytes()
}

fn personal_digest(salt: &[u8; 32], payload: &str) -> [u8; 32] {
    *blake3::keyed_hash(salt, payload.as_bytes()).as_bytes()
}

impl Tx<'_> {
    /// Appends a row; its number. It is sealed with the batch that it commits in.
    pub fn journal(&mut self, entry: Entry) -> Result<u64, StoreError> {
        let done = self.append(entry);
        self.whole(done)
    }

    fn append(&mut self, entry: Entry) -> Result<u64, StoreError> {
        let doing = during("writing the journal");
        let what = || format!("journal entry {} of {}/{}", entry.action, entry.subject_kind, entry.subject);
        let encode = |e: serde_json::Error| StoreError::Encode { what: what(), detail: e.to_string() };
        let reasons = serde_json::to_string(&entry.reasons).map_err(encode)?;
        let data = serde_json::to_string(&entry.data).map_err(encode)?;
        let personal = entry.personal.as_ref().map(serde_json::to_string).transpose().map_err(encode)?;
        let texts = [&entry.actor, &entry.action, &entry.subject_kind, &entry.subject, &reasons, &data];
        let options = [&entry.cause, &entry.trace_id, &personal];
        let bytes = texts.iter().map(|t| t.len()).sum::<usize>()
            + options.iter().filter_map(|o| o.as_ref().map(String::len)).sum::<usize>();
        if bytes > ENTRY_BYTES_MAX {
            return Err(StoreError::TooLarge { what: what(), bytes, max_bytes: ENTRY_BYTES_MAX });
        }
        let seq = self.work.head.journal_seq + 1;
        let payload = personal.map(|payload| {
            let mut salt = blake3::Hasher::new_keyed(self.salt_key);
            salt.update(&self.work.head.incarnation.to_le_bytes()).update(&seq.to_le_bytes());
            (*salt.finalize().as_bytes(), payload)
        });
        let columns = Columns {
            seq,
            at: entry.at.0,
            actor: entry.actor,
            action: entry.action,
            subject_kind: entry.subject_kind,
            subject: entry.subject,
            cause: entry.cause,
            reasons,
            trace_id: entry.trace_id,
            data,
            personal_digest: payload.as_ref().map(|(salt, text)| personal_digest(salt, text)),
        };
        self.conn
            .prepare_cached(
                "INSERT INTO journal (seq, at, actor, action, subject_kind, subject, cause, reasons, trace_id, data,
                 personal_digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )
            .and_then(|mut s| {
                s.execute(params![
                    to_sql(seq)?,
                    columns.at,
                    columns.actor,
                    columns.action,
                    columns.subject_kind,
                    columns.subject,
                    columns.cause,
                    columns.reasons,
                    columns.trace_id,
                    columns.data,
                    columns.personal_digest
                ])
            })
            .map_err(&doing)?;
        if let Some((salt, text)) = payload {
            self.conn
                .prepare_cached("INSERT INTO journal_personal (seq, salt, payload) VALUES (?1, ?2, ?3)")
                .and_then(|mut s| s.execute(params![to_sql(seq)?, salt, text]))
                .map_err(&doing)?;
        }
        self.work.head.journal_seq = seq;
        self.work.row_digests.push(columns.digest());
        self.work.bytes += bytes;
        Ok(seq)
    }

    /// Erases a row's personal payload and its salt. `false` where there is none (any more).
    pub fn erase_personal(&mut self, seq: u64) -> Result<bool, StoreError> {
        let done = self.erase(seq);
        self.whole(done)
    }

    fn erase(&mut self, seq: u64) -> Result<bool, StoreError> {
        let erased = self
            .overwriting(|conn| conn.execute("DELETE FROM journal_personal WHERE seq = ?1", [to_sql(seq)?]))
            .map_err(during("erasing a personal payload"))?
            > 0;
        self.work.erased |= erased;
        Ok(erased)
    }

    /// SQLite fills what `f` deletes with zeros.
    fn overwriting<T>(&self, f: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let set = |on: bool| self.conn.pragma_update_and_check(None, "secure_delete", on, |_| Ok(()));
        set(true)?;
        let out = f(self.conn);
        set(false)?;
        out
    }

    /// The last row under a link; those of this batch get theirs when it commits.
    fn linked_seq(&self) -> u64 {
        self.work.head.journal_seq - self.work.row_digests.len() as u64
    }

    /// Ends the running segment at the last link. `false` where it has no rows.
    pub fn seal_segment(&mut self) -> Result<bool, StoreError> {
        let linked = self.linked_seq();
        seal_segment(self.conn, &mut self.work.head, linked, self.now)
    }

    /// Drops the oldest whole segments while at least `rows_max` rows remain; the last link dropped stays as the anchor.
    pub fn retain(&mut self, rows_max: u64, actor: &str) -> Result<Retained, StoreError> {
        if self.linked_seq().saturating_sub(self.work.head.segment_seq)
            >= (rows_max / SEGMENTS_KEPT).max(SEGMENT_ROWS_MIN)
        {
            self.seal_segment()?;
        }
        let done = self.drop_old(rows_max, actor);
        self.whole(done)
    }

    fn drop_old(&mut self, rows_max: u64, actor: &str) -> Result<Retained, StoreError> {
        let doing = during("dropping old journal segments");
        let mut out = Retained::default();
        loop {
            let oldest: Option<(i64, [u8; 32])> = self
                .conn
                .prepare_cached("SELECT last_seq, link FROM journal_segments ORDER BY last_seq LIMIT 1")
                .and_then(|mut s| s.query_row([], |r| Ok((r.get(0)?, r.get(1)?))).optional())
                .map_err(&doing)?;
            let Some((last, link)) = oldest else { break };
            if self.work.head.journal_seq.saturating_sub(from_sql(last)) < rows_max {
                break;
            }
            self.overwriting(|conn| {
                for table in ["journal_personal WHERE seq", "journal WHERE seq"] {
                    conn.execute(&format!("DELETE FROM {table} <= ?1"), [last])?;
                }
                conn.execute("DELETE FROM journal_links WHERE last_seq <= ?1", [last])?;
                conn.execute("DELETE FROM journal_segments WHERE last_seq <= ?1", [last])
            })
            .map_err(&doing)?;
            out.segments_dropped += 1;
            out.rows_dropped += from_sql(last) - self.work.head.base_seq;
            self.work.head.base_seq = from_sql(last);
            self.work.head.base_link = link;
            self.work.erased = true;
        }
        if out.segments_dropped > 0 {
            let base = self.work.head.base_seq;
            let link = hex::encode(self.work.head.base_link);
            self.journal(Entry {
                at: self.now,
                actor: actor.into(),
                action: "journal.retained".into(),
                subject_kind: "journal".into(),
                subject: self.work.head.store_id.to_string(),
                reasons: vec![format!("{} rows up to {base} were dropped, {rows_max} are kept", out.rows_dropped)],
                data: serde_json::json!({ "base_seq": base, "base_link": link }),
                ..Entry::default()
            })?;
        }
        Ok(out)
    }
}

fn seal_segment(conn: &Connection, head: &mut Head, last: u64, now: WallMs) -> Result<bool, StoreError> {
    if last <= head.segment_seq {
        return Ok(false);
    }
    conn.prepare_cached("INSERT INTO journal_segments (last_seq, first_seq, sealed_at, link) VALUES (?1, ?2, ?3, ?4)")
        .and_then(|mut s| s.execute(params![to_sql(last)?, to_sql(head.segment_seq + 1)?, now.0, head.journal_link]))
        .map_err(during("sealing a journal segment"))?;
    head.segment_seq = last;
    Ok(true)
}

/// Puts the batch's rows under a link, before the commit.
pub(crate) fn seal_batch(
    conn: &Connection,
    head: &mut Head,
    digests: &[[u8; 32]],
    now: WallMs,
) -> Result<(), StoreError> {
    if digests.is_empty() {
        return Ok(());
    }
    let first = head.journal_seq + 1 - digests.len() as u64;
    head.journal_link = next_link(&head.journal_link, first, digests);
    conn.prepare_cached("INSERT INTO journal_links (last_seq, first_seq, sealed_at, link) VALUES (?1, ?2, ?3, ?4)")
        .and_then(|mut s| s.execute(params![to_sql(head.journal_seq)?, to_sql(first)?, now.0, head.journal_link]))
        .map_err(during("sealing the journal"))?;
    if head.journal_seq - head.segment_seq >= SEGMENT_ROWS {
        let last = head.journal_seq;
        seal_segment(conn, head, last, now)?;
    }
    Ok(())
}

pub(crate) fn page(
    conn: &Connection,
    after_seq: u64,
    limit: usize,
    filter: &JournalFilter,
) -> Result<Vec<JournalRow>, StoreError> {
    let doing = during("reading the journal");
    let mut sql =
        format!("SELECT {COLUMNS}, p.payload FROM journal j LEFT JOIN journal_personal p USING (seq) WHERE j.seq > ?");
    let after = bound(after_seq);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut values: Vec<&dyn ToSql> = vec![&after];
    for (column, wanted) in
        [("subject_kind", &filter.subject_kind), ("subject", &filter.subject), ("action", &filter.action)]
    {
        if let Some(wanted) = wanted {
            sql.push_str(&format!(" AND j.{column} = ?"));
            values.push(wanted);
        }
    }
    sql.push_str(" ORDER BY j.seq LIMIT ?");
    values.push(&limit);
    let mut statement = conn.prepare_cached(&sql).map_err(&doing)?;
    let rows = statement
        .query_map(values.as_slice(), |r| Ok((Columns::read(r)?, r.get::<_, Option<String>>(11)?)))
        .map_err(&doing)?;
    let mut out = Vec::new();
    for row in rows {
        let (columns, payload) = row.map_err(&doing)?;
        let erased = columns.personal_digest.is_some() && payload.is_none();
        let mut row = columns.into_row(payload.as_deref().filter(|_| filter.with_personal))?;
        row.personal_erased = erased;
        out.push(row);
    }
    Ok(out)
}

/// Recomputes the whole chain from the base that retention left.
pub(crate) fn verify(conn: &Connection) -> Result<JournalHead, VerifyError> {
    let doing = during("verifying the journal");
    let head = Head::load(conn)?.ok_or(StoreError::Closed)?;
    let mut links =
        conn.prepare("SELECT first_seq, last_seq, link FROM journal_links ORDER BY last_seq").map_err(&doing)?;
    let sql = format!(
        "SELECT {COLUMNS}, p.salt, p.payload FROM journal j LEFT JOIN journal_personal p USING (seq) ORDER BY j.seq"
    );
    let mut rows = conn.prepare(&sql).map_err(&doing)?;
    let mut rows = rows.query([]).map_err(&doing)?;
    let mut links = links.query([]).map_err(&doing)?;
    let (mut seq, mut link) = (head.base_seq, head.base_link);
    let mut digests = Vec::new();
    let broken = |seq, problem| Err(VerifyError::Broken(BrokenAt { seq, problem }));
    while let Some(sealed) = links.next().map_err(&doing)? {
        let (first, last): (i64, i64) = (sealed.get(0).map_err(&doing)?, sealed.get(1).map_err(&doing)?);
        let stored: [u8; 32] = sealed.get(2).map_err(&doing)?;
        let (first, last) = (from_sql(first), from_sql(last));
        if first != seq + 1 || last < first {
            return broken(seq + 1, "its link is missing");
        }
        digests.clear();
        while seq < last {
            let Some(row) = rows.next().map_err(&doing)? else { return broken(seq + 1, "the row is missing") };
            let columns = Columns::read(row).map_err(&doing)?;
            seq += 1;
            if columns.seq != seq {
                return broken(seq, "the row is missing");
            }
            let salt: Option<[u8; 32]> = row.get(11).map_err(&doing)?;
            let payload: Option<String> = row.get(12).map_err(&doing)?;
            if let (Some(salt), Some(payload)) = (salt, payload)
                && Some(personal_digest(&salt, &payload)) != columns.personal_digest
            {
                return broken(seq, "its personal payload was changed");
            }
            digests.push(columns.digest());
        }
        link = next_link(&link, first, &digests);
        if link != stored {
            return broken(first, "this row or one sealed with it was changed");
        }
    }
    if rows.next().map_err(&doing)?.is_some() {
        return broken(seq + 1, "the row was never sealed");
    }
    if seq != head.journal_seq || link != head.journal_link {
        return broken(seq + 1, "the chain ends before the head");
    }
    Ok(JournalHead { seq, link: hex::encode(link) })
}
