//! Watching: changes of objects as server-sent events, and the journal in pages.

use super::body::{Answer, ApiError};
use super::params::Query;
use crate::{Node, object};
use axum::extract::State;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures_util::Stream;
use pumasi_api::Problem;
use pumasi_api::message::{Change, Event, List};
use pumasi_store::{JournalFilter, JournalRow, Op, WatchError};
use pumasi_terms::Revision;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// What people may watch. Holds, tokens and invitations stay inside.
const WATCHABLE: &[&str] =
    &[object::SERVICE, object::JOURNEY, object::PLAN, object::LENT, object::SETTLEMENT, object::CLOUD];
const EVENTS_MAX: usize = 1_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watching {
    kind: Option<String>,
    /// From after this revision; absent: from now.
    after: Option<u64>,
}

pub async fn watch(
    State(node): State<Arc<Node>>,
    Query(query): Query<Watching>,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, ApiError> {
    if let Some(kind) = &query.kind
        && !WATCHABLE.contains(&kind.as_str())
    {
        return Err(Problem::bad_request(format!("kind {kind:?}: one of {}", WATCHABLE.join(", "))).into());
    }
    let after = query.after.map_or(node.store.revision(), Revision);
    let watch = node.store.watch(query.kind.as_deref(), after);
    let stream = futures_util::stream::unfold(
        (watch, node.stopping.clone(), false),
        |(mut watch, mut stopping, ended)| async move {
            if ended {
                return None;
            }
            loop {
                let next = tokio::select! {
                    biased;
                    next = watch.next() => next,
                    _ = stopping.changed() => return None,
                };
                match next {
                    Ok(change) if !WATCHABLE.contains(&change.kind.as_str()) => continue,
                    Ok(change) => {
                        let body = match change.op {
                            Op::Put => change.body.as_ref().and_then(|b| serde_json::from_str(b.get()).ok()),
                            Op::Delete => None,
                        };
                        let told = Change {
                            revision: change.revision,
                            kind: change.kind.clone(),
                            name: change.name.clone(),
                            body,
                        };
                        let event = SseEvent::default().id(told.revision.to_string());
                        let event =
                            event.json_data(&told).unwrap_or_else(|_| SseEvent::default().comment("unreadable"));
                        return Some((Ok(event), (watch, stopping, false)));
                    }
                    Err(WatchError::Closed) => return None,
                    Err(e) => {
                        // The watcher lists again and starts from there.
                        let problem = Problem::new(410, "list_again", pumasi_api::Fault::Input, e.to_string());
                        let event = SseEvent::default().event("problem");
                        let event =
                            event.json_data(&problem).unwrap_or_else(|_| SseEvent::default().comment("list again"));
                        return Some((Ok(event), (watch, stopping, true)));
                    }
                }
            }
        },
    );
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paging {
    /// After this sequence number; absent: the latest.
    after: Option<u64>,
    limit: Option<usize>,
    kind: Option<String>,
    subject: Option<String>,
}

/// The last rows that fit: a filter may pass over many.
fn latest(node: &Node, limit: usize, filter: &JournalFilter) -> Result<Vec<JournalRow>, ApiError> {
    let head = node.store.journal_head().seq;
    let mut span = limit as u64;
    loop {
        let after = head.saturating_sub(span);
        let mut rows = node.store.journal_page(after, EVENTS_MAX.max(limit), filter)?;
        // More than a page fits into the span only where the span is short of rows anyway: go on from the last one read.
        while rows.len() >= EVENTS_MAX {
            let Some(last) = rows.last().map(|r| r.seq) else { break };
            let more = node.store.journal_page(last, EVENTS_MAX, filter)?;
            let done = more.len() < EVENTS_MAX;
            rows.extend(more);
            rows.drain(..rows.len().saturating_sub(limit));
            if done {
                break;
            }
        }
        if rows.len() >= limit || after == 0 {
            rows.drain(..rows.len().saturating_sub(limit));
            return Ok(rows);
        }
        span = span.saturating_mul(8);
    }
}

pub async fn events(State(node): State<Arc<Node>>, Query(page): Query<Paging>) -> Answer<List<Event>> {
    let limit = page.limit.unwrap_or(100).clamp(1, EVENTS_MAX);
    let after = page.after.unwrap_or(0);
    let filter = JournalFilter { subject_kind: page.kind, subject: page.subject, ..JournalFilter::default() };
    let rows = match page.after {
        Some(_) => node.store.journal_page(after, limit, &filter)?,
        None => latest(&node, limit, &filter)?,
    };
    let items = rows
        .into_iter()
        .map(|row| Event {
            seq: row.seq,
            at: row.entry.at,
            actor: row.entry.actor,
            action: row.entry.action,
            subject_kind: row.entry.subject_kind,
            subject: row.entry.subject,
            cause: row.entry.cause,
            reasons: row.entry.reasons,
            trace_id: row.entry.trace_id,
            data: row.entry.data,
        })
        .collect();
    Ok(axum::Json(List { revision: node.store.revision(), items }))
}
