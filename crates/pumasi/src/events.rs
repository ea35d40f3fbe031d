//! `pumasi events`, `watch`: what happened, and what happens.

use crate::args::Kind;
use crate::failure::{Exit, Failure};
use crate::kinds::{event, table};
use crate::output::{self, Format, Tone, note, paint};
use crate::retry::Backoff;
use crate::session::Session;
use pumasi_api::CallError;
use pumasi_api::message::{Change, List};
use pumasi_terms::{Revision, ServiceName};
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(1_000);
/// At something that is to go.
const LOOK: Duration = Duration::from_millis(250);
/// Events in one answer, and answers for one listing.
const PAGE: u32 = 1_000;
const PAGES_MAX: u32 = 100;

/// Escapes one value of a query (RFC 3986, 2.3).
pub fn query(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(b)),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

fn path(subject: Option<&str>, limit: u32, after: Option<u64>) -> String {
    let mut path = format!("/v1/events?limit={limit}");
    if let Some(subject) = subject {
        path.push_str(&format!("&subject={}", query(subject)));
    }
    if let Some(after) = after {
        path.push_str(&format!("&after={after}"));
    }
    path
}

/// The last `limit` events, oldest first.
pub async fn recent(session: &Session, subject: Option<&str>, limit: u32) -> Result<List<Value>, Failure> {
    if subject.is_none() {
        return Ok(session.client.get(&path(None, limit, None)).await?);
    }
    // The daemon pages forwards: the last ones of a subject are behind all its pages.
    let mut kept = VecDeque::new();
    let mut after = 0;
    for _ in 0..PAGES_MAX {
        let page: List<Value> = session.client.get(&path(subject, PAGE, Some(after))).await?;
        let (revision, full) = (page.revision, page.items.len() >= PAGE as usize);
        after = page.items.iter().map(seq).max().unwrap_or(after).max(after);
        kept.extend(page.items);
        kept.drain(..kept.len().saturating_sub(limit as usize));
        if !full {
            return Ok(List { revision, items: kept.into() });
        }
    }
    note(&format!("only the first {} events were read; see --follow or a smaller subject", PAGES_MAX * PAGE));
    Ok(List { revision: Default::default(), items: kept.into() })
}

fn seq(item: &Value) -> u64 {
    item.get("seq").and_then(Value::as_u64).unwrap_or(0)
}

pub async fn events(session: &Session, subject: Option<&str>, limit: u32, follow: bool) -> Result<(), Failure> {
    let list = recent(session, subject, limit).await?;
    if !follow {
        if list.items.is_empty() && session.global.output == Format::Table {
            note("no events");
            return Ok(());
        }
        let names = || crate::get::names(Kind::Events, &list.items);
        let scene = session.scene(Kind::Events).await;
        return session.show(&list, names, || table(Kind::Events, &list.items, &scene));
    }
    let mut last = 0;
    let mut items = list.items;
    let mut lost = Backoff::default();
    loop {
        for item in &items {
            last = last.max(seq(item));
            print_event(session, item)?;
        }
        tokio::time::sleep(lost.wait_or(POLL)).await;
        items = match session.client.get::<List<Value>>(&path(subject, PAGE, Some(last))).await {
            Ok(list) => {
                lost = Backoff::default();
                list.items
            }
            Err(error) if error.is_unreachable() => {
                lost.next(error.into())?;
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
    }
}

fn print_event(session: &Session, item: &Value) -> Result<(), Failure> {
    let line = match session.global.output {
        Format::Json => format!("{}\n", output::escaped(item.to_string())),
        Format::Yaml => format!("---\n{}", output::yaml(item)?),
        Format::Name => format!("event/{}\n", seq(item)),
        Format::Table => {
            let cells = event(item)?;
            let shown = cells.iter().skip(1).filter(|c| c.text != "-");
            let line = shown.map(|c| paint(&c.text, c.tone, session.colours)).collect::<Vec<_>>().join("  ");
            format!("{line}\n")
        }
    };
    output::print(&line)
}

pub async fn watch(session: &Session, kind: Option<Kind>, count: Option<u64>) -> Result<(), Failure> {
    let mut from: Option<Revision> = None;
    let mut left = count.unwrap_or(u64::MAX);
    let mut lost = Backoff::default();
    while left > 0 {
        let mut path = "/v1/watch?".to_owned();
        if let Some(kind) = kind {
            path.push_str(&format!("kind={}&", kind.watched()));
        }
        if let Some(from) = from {
            path.push_str(&format!("after={from}"));
        }
        let mut stopped = Ok(());
        let mut seen = 0u32;
        let ended = session
            .client
            .watch(path.trim_end_matches(['?', '&']), |change| {
                seen += 1;
                from = Some(change.revision);
                stopped = print_change(session, &change);
                left = left.saturating_sub(1);
                stopped.is_ok() && left > 0
            })
            .await;
        stopped?;
        if seen > 0 {
            lost = Backoff::default();
        }
        match ended {
            Ok(()) if left == 0 => break,
            Ok(()) => {
                let (url, problem) = (session.client.base().to_owned(), "the daemon ended the stream".into());
                lost.next(CallError::Unreachable { url, problem }.into())?;
            }
            Err(error) if error.is_unreachable() => lost.next(error.into())?,
            // The daemon no longer keeps what lies between: begin anew, and say so.
            Err(error) if error.problem().is_some_and(|p| p.status == 410) && from.is_some() => {
                note("changes were missed while the connection was lost; going on from now");
                from = None;
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(lost.wait_or(POLL)).await;
    }
    Ok(())
}

fn print_change(session: &Session, change: &Change) -> Result<(), Failure> {
    let line = match session.global.output {
        Format::Json => {
            serde_json::to_string(change).map_err(|e| Failure::failed(format!("writing JSON: {e}")))? + "\n"
        }
        Format::Yaml => format!("---\n{}", output::yaml(change)?),
        Format::Name => format!("{}/{}\n", change.kind, change.name),
        Format::Table => {
            let (what, tone) = match &change.body {
                None => ("deleted".to_owned(), Tone::Faint),
                Some(body) => {
                    let paths = ["status.phase", "state", "stage", "phase", "status.state"];
                    let state = crate::kinds::text(body, &paths);
                    let cell = crate::kinds::state_cell(if state.is_empty() { "changed" } else { &state });
                    (cell.text, cell.tone)
                }
            };
            let why = change.body.as_ref().map(|b| crate::kinds::text(b, &["status.why", "why"])).unwrap_or_default();
            let why = crate::output::Cell::from(why).text;
            let line = format!(
                "{:>8}  {}/{}  {}  {why}",
                change.revision.0,
                change.kind,
                change.name,
                paint(&what, tone, session.colours)
            );
            format!("{}\n", line.trim_end())
        }
    };
    output::print(&line)
}

/// Until it is gone, at most `timeout_ms`.
pub async fn wait_gone(session: &Session, service: &ServiceName, timeout_ms: u64) -> Result<(), Failure> {
    let gone = async {
        loop {
            match session.client.get::<Value>(&format!("/v1/services/{service}")).await {
                Err(error) if error.problem().is_some_and(|p| p.status == 404) => return Ok(()),
                Err(error) if !error.is_unreachable() => return Err(Failure::from(error)),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_millis(timeout_ms), gone).await.unwrap_or_else(|_| {
        Err(Failure::new(
            Exit::Failed,
            format!("service {service} was still there after {}", crate::units::duration_ms(timeout_ms)),
        )
        .hint("the removal goes on; `pumasi describe service` says what it waits for"))
    })
}
