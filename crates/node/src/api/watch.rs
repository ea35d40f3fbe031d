//! Watching: changes of objects as server-sent events, and the journal in pages.

use super::auth::Caller;
use super::body::{Answer, ApiError};
use super::params::Query;
use crate::node::LAST_LINE;
use crate::object::PlanRecord;
use crate::tenancy::{self, Estate, Subjects};
use crate::{Node, object, trouble};
use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures_util::Stream;
use pumasi_api::message::{Change, Event, List};
use pumasi_api::{Principal, Problem};
use pumasi_journey::Journey;
use pumasi_store::{JournalFilter, JournalRow, Op, WatchError};
use pumasi_terms::Revision;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// What people may watch. Holds, tokens and invitations stay inside.
const WATCHABLE: &[&str] =
    &[object::SERVICE, object::JOURNEY, object::PLAN, object::LENT, object::SETTLEMENT, object::CLOUD];
const EVENTS_MAX: usize = 1_000;
/// So long a stream may go on after its caller's token is revoked, if nothing changes meanwhile.
const CHECK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watching {
    kind: Option<String>,
    /// From after this revision; absent: from now.
    after: Option<u64>,
}

/// What of the changes one principal is told.
struct Watcher {
    node: Arc<Node>,
    caller: Caller,
    /// What it was shown and is still there, by kind and name: whose it was cannot be asked any more when it is gone.
    seen: BTreeSet<(String, String)>,
}

impl Watcher {
    fn new(node: Arc<Node>, caller: Caller) -> Result<Self, Problem> {
        let estate = Estate::of(&node, &caller.who)?;
        let services = node.services()?;
        let own = services.iter().filter(|s| estate.record(s)).map(|s| (object::SERVICE, s.name().to_string()));
        let (plans, journeys) = (node.items::<PlanRecord>(object::PLAN)?, node.journeys()?);
        let plans = plans.iter().filter(|p| estate.plan(p)).map(|p| (object::PLAN, p.plan.id.to_string()));
        let journeys = journeys.iter().filter(|j| estate.journey(j)).map(|j| (object::JOURNEY, j.id.to_string()));
        let seen = own.chain(plans).chain(journeys).map(|(kind, name)| (kind.to_owned(), name)).collect();
        drop(estate);
        Ok(Self { node, caller, seen })
    }

    /// The change as this principal may see it; `None`: it is not its business.
    fn told(&mut self, change: &pumasi_store::Change) -> Result<Option<Change>, Problem> {
        self.caller.check(&self.node)?;
        let estate = Estate::of(&self.node, &self.caller.who)?;
        let key = (change.kind.clone(), change.name.clone());
        let tell =
            |body| Change { revision: change.revision, kind: change.kind.clone(), name: change.name.clone(), body };
        let body: Option<serde_json::Value> = match change.op {
            Op::Put => change.body.as_ref().and_then(|b| serde_json::from_str(b.get()).ok()),
            Op::Delete => {
                let was_shown = self.seen.remove(&key);
                return Ok((estate.is_operator() || was_shown).then(|| tell(None)));
            }
        };
        let Some(mut body) = body else { return Ok(estate.is_operator().then(|| tell(None))) };
        let shown = match change.kind.as_str() {
            object::SERVICE => self.service(&estate, &mut body),
            object::PLAN => PlanRecord::deserialize(&body).is_ok_and(|p| estate.plan(&p)),
            object::JOURNEY => Journey::deserialize(&body).is_ok_and(|j| estate.journey(&j)),
            object::CLOUD => true,
            _ => false,
        };
        if !shown && !estate.is_operator() {
            return Ok(None);
        }
        if shown && !estate.is_operator() && change.kind != object::CLOUD {
            self.seen.insert(key);
        }
        Ok(Some(tell(Some(body))))
    }

    /// Whether it is theirs; the values of its environment are taken out where they are not to be shown.
    fn service(&self, estate: &Estate, body: &mut serde_json::Value) -> bool {
        let record = object::ServiceRecord::deserialize(&*body).ok();
        let (theirs, values) = match &record {
            Some(record) => (estate.record(record), estate.shows_values(&self.caller.who, record, true)),
            None => (false, false),
        };
        if let (false, Some(env)) = (values, body.pointer_mut("/document/spec/application/env"))
            && let Some(env) = env.as_object_mut()
        {
            env.values_mut().for_each(|v| *v = tenancy::NOT_SHOWN.into());
        }
        theirs
    }
}

pub async fn watch(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<Watching>,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, ApiError> {
    if let Some(kind) = &query.kind
        && !WATCHABLE.contains(&kind.as_str())
    {
        return Err(Problem::bad_request(format!("kind {kind:?}: one of {}", WATCHABLE.join(", "))).into());
    }
    let after = query.after.map_or(node.store.revision(), Revision);
    let watch = node.store.watch(query.kind.as_deref(), after);
    let watcher = Watcher::new(node.clone(), caller)?;
    let stream = futures_util::stream::unfold(
        (watch, node.stopping.clone(), watcher, false),
        |(mut watch, mut stopping, mut watcher, ended)| async move {
            if ended {
                return None;
            }
            let mut check = tokio::time::interval_at(tokio::time::Instant::now() + CHECK_EVERY, CHECK_EVERY);
            loop {
                let next = tokio::select! {
                    biased;
                    _ = stopping.changed() => return None,
                    _ = check.tick() => match watcher.caller.check(&watcher.node) {
                        Ok(()) => continue,
                        Err(problem) => return Some((Ok(broken(&problem)), (watch, stopping, watcher, true))),
                    },
                    next = watch.next() => next,
                };
                match next {
                    Ok(change) if !WATCHABLE.contains(&change.kind.as_str()) => continue,
                    Ok(change) => {
                        let told = match watcher.told(&change) {
                            Ok(None) => continue,
                            Ok(Some(told)) => told,
                            Err(problem) => return Some((Ok(broken(&problem)), (watch, stopping, watcher, true))),
                        };
                        let event = SseEvent::default().id(told.revision.to_string());
                        let event =
                            event.json_data(&told).unwrap_or_else(|_| SseEvent::default().comment("unreadable"));
                        return Some((Ok(event), (watch, stopping, watcher, false)));
                    }
                    Err(WatchError::Closed) => return None,
                    Err(e) => {
                        // The watcher lists again and starts from there.
                        let problem = Problem::new(410, "list_again", pumasi_api::Fault::Input, e.to_string());
                        return Some((Ok(broken(&problem)), (watch, stopping, watcher, true)));
                    }
                }
            }
        },
    );
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))))
}

/// The last event of a stream that cannot go on.
fn broken(problem: &Problem) -> SseEvent {
    let event = SseEvent::default().event("problem");
    event.json_data(problem).unwrap_or_else(|_| SseEvent::default().comment("list again"))
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

/// Which end of what was asked for is told, where not all of it fits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Oldest,
    Newest,
}

fn fit(rows: &mut Vec<JournalRow>, limit: usize, end: End) {
    match end {
        End::Oldest => rows.truncate(limit),
        End::Newest => drop(rows.drain(..rows.len().saturating_sub(limit))),
    }
}

/// Rows after `after` that pass.
fn rows_after(
    node: &Node,
    after: u64,
    (limit, end): (usize, End),
    filter: &JournalFilter,
    shown: &Option<Subjects>,
) -> Result<Vec<JournalRow>, ApiError> {
    let (mut rows, mut at) = (Vec::new(), after);
    loop {
        let page = node.store.journal_page(at, EVENTS_MAX, filter)?;
        let full = page.len() >= EVENTS_MAX;
        at = page.last().map_or(at, |r| r.seq);
        rows.extend(page.into_iter().filter(|r| shown.as_ref().is_none_or(|s| s.shows(r.seq, &r.entry))));
        let enough = end == End::Oldest && rows.len() >= limit;
        fit(&mut rows, limit, end);
        if !full || enough {
            return Ok(rows);
        }
    }
}

/// The last rows that fit: a filter may pass over many.
fn latest(node: &Node, limit: usize, filter: &JournalFilter) -> Result<Vec<JournalRow>, ApiError> {
    let head = node.store.journal_head().seq;
    let mut span = limit as u64;
    loop {
        let after = head.saturating_sub(span);
        let rows = rows_after(node, after, (limit, End::Newest), filter, &None)?;
        if rows.len() >= limit || after == 0 {
            return Ok(rows);
        }
        span = span.saturating_mul(8);
    }
}

/// What the journal says of one customer's things: each of them is looked up by the index, since most rows are about others.
fn rows_of(
    node: &Node,
    after: u64,
    fitting: (usize, End),
    page: &Paging,
    subjects: Subjects,
    with_personal: bool,
) -> Result<Vec<JournalRow>, ApiError> {
    let wanted = |asked: &Option<String>, found: &str| asked.as_deref().is_none_or(|a| a == found);
    let each: Vec<(String, String)> = subjects
        .each()
        .filter(|(kind, subject)| wanted(&page.kind, kind) && wanted(&page.subject, subject))
        .map(|(kind, subject)| (kind.to_owned(), subject.to_owned()))
        .collect();
    let shown = Some(subjects);
    let mut rows = Vec::new();
    for (kind, subject) in each {
        let filter = JournalFilter {
            subject_kind: Some(kind),
            subject: Some(subject),
            with_personal,
            ..JournalFilter::default()
        };
        rows.extend(rows_after(node, after, fitting, &filter, &shown)?);
    }
    rows.sort_by_key(|r| r.seq);
    fit(&mut rows, fitting.0, fitting.1);
    Ok(rows)
}

pub async fn events(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Query(page): Query<Paging>,
) -> Answer<List<Event>> {
    let limit = page.limit.unwrap_or(100).clamp(1, EVENTS_MAX);
    let (after, end) = page.after.map_or((0, End::Newest), |after| (after, End::Oldest));
    let with_personal = trouble::reads_logs(&who);
    let rows = match Estate::of(&node, &who)?.subjects() {
        Some(subjects) => rows_of(&node, after, (limit, end), &page, subjects, with_personal)?,
        None => {
            let filter = JournalFilter {
                subject_kind: page.kind,
                subject: page.subject,
                with_personal,
                ..JournalFilter::default()
            };
            match end {
                End::Oldest => rows_after(&node, after, (limit, end), &filter, &None)?,
                End::Newest => latest(&node, limit, &filter)?,
            }
        }
    };
    let items = rows
        .into_iter()
        .map(|row| Event {
            reasons: reasons(&row.entry),
            seq: row.seq,
            at: row.entry.at,
            actor: row.entry.actor,
            action: row.entry.action,
            subject_kind: row.entry.subject_kind,
            subject: row.entry.subject,
            cause: row.entry.cause,
            trace_id: row.entry.trace_id,
            data: row.entry.data,
        })
        .collect();
    Ok(axum::Json(List { revision: node.store.revision(), items }))
}

/// The application's last line among them, where it is shown.
fn reasons(entry: &pumasi_store::Entry) -> Vec<String> {
    let line = entry.personal.as_ref().and_then(|p| p.get(LAST_LINE)?.as_str());
    entry.reasons.iter().cloned().chain(line.map(|line| format!("its last line: {line}"))).collect()
}
