//! Messages to others, kept with the transition that caused them until the far side has answered.
//!
//! Bounded per destination and in attempts; what was given up stays visible as a dead letter until somebody decides.

use crate::error::{StoreError, during};
use crate::numbers::{bound, from_sql};
use crate::tx::Tx;
use pumasi_terms::WallMs;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;

/// Waiting messages for one destination.
pub const OUTBOX_PENDING_MAX: u64 = 10_000;
/// Dead letters kept; the oldest go first.
pub const OUTBOX_DEAD_MAX: u64 = 10_000;
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const ERROR_BYTES_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxMessage {
    pub destination: String,
    pub kind: String,
    pub body: Value,
    /// The far side answers a repetition like the first time. A second message with it is not queued.
    pub idempotency_key: String,
}

/// A message as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxItem {
    pub id: u64,
    pub message: OutboxMessage,
    pub created_at: WallMs,
    pub attempts: u32,
    pub next_attempt_at: WallMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

const COLUMNS: &str = "id, destination, kind, body, idempotency_key, created_at, attempts, next_attempt_at, last_error";

fn item(row: &Row<'_>) -> rusqlite::Result<Result<OutboxItem, StoreError>> {
    let id = from_sql(row.get(0)?);
    let body = match serde_json::from_str(row.get_ref(3)?.as_str()?) {
        Ok(body) => body,
        Err(e) => return Ok(Err(StoreError::Decode { what: format!("outbox message {id}"), detail: e.to_string() })),
    };
    let message = OutboxMessage { destination: row.get(1)?, kind: row.get(2)?, body, idempotency_key: row.get(4)? };
    Ok(Ok(OutboxItem {
        id,
        message,
        created_at: WallMs(row.get(5)?),
        attempts: row.get(6)?,
        next_attempt_at: WallMs(row.get(7)?),
        last_error: row.get(8)?,
    }))
}

impl Tx<'_> {
    /// Queues a message; its id. One with the same destination and key that still waits is kept instead.
    pub fn enqueue(&mut self, message: OutboxMessage) -> Result<u64, StoreError> {
        let done = self.queue(message);
        self.whole(done)
    }

    fn queue(&mut self, message: OutboxMessage) -> Result<u64, StoreError> {
        let doing = during("queueing a message");
        let what = format!("message {} to {}", message.kind, message.destination);
        let body = serde_json::to_string(&message.body)
            .map_err(|e| StoreError::Encode { what: what.clone(), detail: e.to_string() })?;
        let bytes = body.len() + message.destination.len() + message.kind.len() + message.idempotency_key.len();
        if bytes > MESSAGE_BYTES_MAX {
            return Err(StoreError::TooLarge { what, bytes, max_bytes: MESSAGE_BYTES_MAX });
        }
        let there = self
            .conn
            .prepare_cached("SELECT id FROM outbox WHERE destination = ?1 AND idempotency_key = ?2")
            .and_then(|mut s| {
                s.query_row(params![message.destination, message.idempotency_key], |r| r.get::<_, i64>(0)).optional()
            })
            .map_err(&doing)?;
        if let Some(id) = there {
            return Ok(from_sql(id));
        }
        if self.depth(&message.destination, 1)? > OUTBOX_PENDING_MAX {
            self.depth(&message.destination, -1)?;
            return Err(StoreError::OutboxFull { destination: message.destination, max: OUTBOX_PENDING_MAX });
        }
        self.conn
            .prepare_cached(
                "INSERT INTO outbox (destination, kind, idempotency_key, body, created_at, attempts, next_attempt_at,
                 dead) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?5, 0)",
            )
            .and_then(|mut s| {
                s.execute(params![message.destination, message.kind, message.idempotency_key, body, self.now.0])
            })
            .map_err(&doing)?;
        self.work.bytes += bytes;
        self.work.outbox_grew = true;
        Ok(from_sql(self.conn.last_insert_rowid()))
    }

    fn depth(&self, destination: &str, by: i64) -> Result<u64, StoreError> {
        self.conn
            .prepare_cached(
                "INSERT INTO outbox_depth (destination, pending) VALUES (?1, ?2)
                 ON CONFLICT (destination) DO UPDATE SET pending = pending + ?2 RETURNING pending",
            )
            .and_then(|mut s| s.query_row(params![destination, by], |r| r.get::<_, i64>(0)))
            .map(from_sql)
            .map_err(during("counting waiting messages"))
    }

    /// The far side has answered: forget the message. `false` where it was gone already.
    pub fn outbox_done(&mut self, id: u64) -> Result<bool, StoreError> {
        self.outbox_remove(id)
    }

    /// Gives up a waiting message or a dead letter. `false` where it was gone already.
    pub fn outbox_discard(&mut self, id: u64) -> Result<bool, StoreError> {
        self.outbox_remove(id)
    }

    fn outbox_remove(&mut self, id: u64) -> Result<bool, StoreError> {
        let done = self.remove_message(id);
        self.whole(done)
    }

    fn remove_message(&mut self, id: u64) -> Result<bool, StoreError> {
        let gone: Option<(String, bool)> = self
            .conn
            .prepare_cached("DELETE FROM outbox WHERE id = ?1 RETURNING destination, dead")
            .and_then(|mut s| s.query_row([bound(id)], |r| Ok((r.get(0)?, r.get(1)?))).optional())
            .map_err(during("removing a message"))?;
        let Some((destination, dead)) = gone else { return Ok(false) };
        if !dead {
            self.leave(&destination)?;
        }
        Ok(true)
    }

    fn leave(&self, destination: &str) -> Result<(), StoreError> {
        if self.depth(destination, -1)? == 0 {
            self.conn
                .prepare_cached("DELETE FROM outbox_depth WHERE destination = ?1")
                .and_then(|mut s| s.execute([destination]))
                .map_err(during("counting waiting messages"))?;
        }
        Ok(())
    }

    /// An attempt failed. `true` where that was the last one and the message is a dead letter now.
    pub fn outbox_failed(&mut self, id: u64, error: &str, next_attempt_at: WallMs) -> Result<bool, StoreError> {
        let done = self.fail(id, error, next_attempt_at);
        self.whole(done)
    }

    fn fail(&mut self, id: u64, error: &str, next_attempt_at: WallMs) -> Result<bool, StoreError> {
        let doing = during("recording a failed attempt");
        let mut end = error.len().min(ERROR_BYTES_MAX);
        while !error.is_char_boundary(end) {
            end -= 1;
        }
        let now: Option<(String, bool)> = self
            .conn
            .prepare_cached(
                "UPDATE outbox SET attempts = attempts + 1, last_error = ?2, next_attempt_at = ?3,
                 dead = attempts + 1 >= ?4 WHERE id = ?1 AND dead = 0 RETURNING destination, dead",
            )
            .and_then(|mut s| {
                s.query_row(params![bound(id), &error[..end], next_attempt_at.0, self.attempts_max], |r| {
                    Ok((r.get(0)?, r.get(1)?))
                })
                .optional()
            })
            .map_err(&doing)?;
        let Some((destination, dead)) = now else { return Ok(false) };
        if dead {
            self.leave(&destination)?;
            tracing::warn!(id, %destination, error = &error[..end], "message given up; it is a dead letter now");
            self.conn
                .prepare_cached(
                    "DELETE FROM outbox WHERE dead = 1 AND id <=
                     (SELECT id FROM outbox WHERE dead = 1 ORDER BY id DESC LIMIT 1 OFFSET ?1)",
                )
                .and_then(|mut s| s.execute([bound(OUTBOX_DEAD_MAX)]))
                .map_err(&doing)?;
        }
        Ok(dead)
    }

    /// Gives a dead letter a new set of attempts. `false` where there is none of that id.
    pub fn outbox_retry(&mut self, id: u64) -> Result<bool, StoreError> {
        let done = self.revive(id);
        self.whole(done)
    }

    fn revive(&mut self, id: u64) -> Result<bool, StoreError> {
        let again: Option<String> = self
            .conn
            .prepare_cached(
                "UPDATE outbox SET dead = 0, attempts = 0, next_attempt_at = ?2 WHERE id = ?1 AND dead = 1
                 RETURNING destination",
            )
            .and_then(|mut s| s.query_row(params![bound(id), self.now.0], |r| r.get(0)).optional())
            .map_err(during("reviving a dead letter"))?;
        let Some(destination) = again else { return Ok(false) };
        self.depth(&destination, 1)?;
        self.work.outbox_grew = true;
        Ok(true)
    }
}

/// Due messages: oldest first within a destination, destinations in turn, so that one of them cannot crowd out the rest.
pub(crate) fn due(conn: &Connection, now: WallMs, limit: usize) -> Result<Vec<OutboxItem>, StoreError> {
    let doing = during("reading due messages");
    let mut destinations = conn.prepare_cached("SELECT destination FROM outbox_depth").map_err(&doing)?;
    let destinations: Vec<String> =
        destinations.query_map([], |r| r.get(0)).and_then(Iterator::collect).map_err(&doing)?;
    let sql = format!(
        "SELECT {COLUMNS} FROM outbox INDEXED BY outbox_waiting
         WHERE dead = 0 AND destination = ?1 AND next_attempt_at <= ?2 ORDER BY id LIMIT ?3"
    );
    let mut statement = conn.prepare_cached(&sql).map_err(&doing)?;
    let mut queues: Vec<VecDeque<OutboxItem>> = Vec::new();
    for destination in destinations {
        let rows = statement
            .query_map(params![destination, now.0, i64::try_from(limit).unwrap_or(i64::MAX)], item)
            .map_err(&doing)?;
        queues.push(rows.map(|row| row.map_err(&doing)?).collect::<Result<_, _>>()?);
    }
    let mut out = Vec::new();
    while out.len() < limit && queues.iter().any(|q| !q.is_empty()) {
        out.extend(queues.iter_mut().filter_map(VecDeque::pop_front).take(limit - out.len()));
    }
    Ok(out)
}

pub(crate) fn next_due(conn: &Connection) -> Result<Option<WallMs>, StoreError> {
    conn.prepare_cached("SELECT min(next_attempt_at) FROM outbox WHERE dead = 0")
        .and_then(|mut s| s.query_row([], |r| r.get::<_, Option<i64>>(0)))
        .map(|at| at.map(WallMs))
        .map_err(during("reading the next due message"))
}

pub(crate) fn dead(conn: &Connection, limit: usize) -> Result<Vec<OutboxItem>, StoreError> {
    let doing = during("reading dead letters");
    let sql = format!("SELECT {COLUMNS} FROM outbox WHERE dead = 1 ORDER BY id LIMIT ?1");
    let mut statement = conn.prepare_cached(&sql).map_err(&doing)?;
    let rows = statement.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], item).map_err(&doing)?;
    rows.map(|row| row.map_err(&doing)?).collect()
}
