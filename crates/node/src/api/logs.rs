//! What the instances of a service wrote, here and where they are rented.
//!
//! Enters: whose log, since when. Leaves: text, a head line (`== INSTANCE at CLOUD`) above the lines of each instance.
//! Always holds: it is bounded, whatever was written; what could not be read is told in its place.

use super::body::ApiError;
use super::params::{Path, Query};
use super::services::theirs;
use crate::tenancy::Estate;
use crate::{Node, borrower, home};
use axum::Extension;
use axum::extract::State;
use pumasi_api::Principal;
use pumasi_engine::stamp;
use pumasi_terms::{InstanceId, ServiceName, WallMs};
use serde::Deserialize;
use std::sync::Arc;

/// Of this cloud's instances, and of each lender's.
const BYTES_MAX: usize = 1 << 20;
/// Of all together.
const ALL_BYTES_MAX: usize = 8 << 20;
const HEAD: &str = "== ";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Only lines of this instant (Unix time, ms) and later.
    since_ms: Option<i64>,
    /// Only of this instance.
    instance: Option<InstanceId>,
}

pub async fn logs(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Query(asked): Query<Asked>,
) -> Result<String, ApiError> {
    let record = theirs(&node, &who, &name)?.body;
    let estate = Estate::of(&node, &who)?;
    let mut text = home::logs_of(&node, &record.owner(), BYTES_MAX).await;
    let journeys = node.journeys()?;
    for part in journeys.iter().filter(|j| j.service == name && estate.journey(j)).flat_map(|j| &j.parts) {
        if text.len() >= ALL_BYTES_MAX {
            break;
        }
        if !part.is_over() {
            let told = match node.peers.clients.of(&node, &part.lender) {
                Ok(client) => client.text(&format!("/v1/leases/{}/logs", part.lease)).await.map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            };
            let told = told.unwrap_or_else(|e| format!("== {} at {}\n(not read: {e})\n", part.lease, part.lender));
            text.extend(told.chars().take(BYTES_MAX));
        } else if let Ok(kept) = std::fs::read_to_string(borrower::returned_log(&node, &record, &part.lease)) {
            text.extend(kept.chars().take(BYTES_MAX));
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(only(&text, &asked))
}

/// The lines that were asked for. A line without a time is of the time of the one above it.
fn only(text: &str, asked: &Asked) -> String {
    let since = asked.since_ms.map(|ms| stamp::of(WallMs(ms)));
    let (mut wanted, mut late, mut out) = (true, since.is_none(), String::new());
    for line in text.split_inclusive('\n') {
        if let Some(head) = line.strip_prefix(HEAD) {
            wanted = asked.instance.as_ref().is_none_or(|id| head.split(' ').next() == Some(id.as_str()));
            late = since.is_none();
        } else if let (Some(since), Some(at)) = (&since, stamp::split(line).0) {
            late = at >= since.as_str();
        }
        if wanted && (late || line.starts_with(HEAD) || line.starts_with("(not read:")) {
            out.push_str(line);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_or_of_another_instance_is_left_out() {
        let (one, two) = (InstanceId::from_entropy(1), InstanceId::from_entropy(2));
        let at = |ms| stamp::of(WallMs(ms));
        let text = format!(
            "== {one} at a\n{} old\n  of old\n{} new\n  of new\n== {two} at b\nno time\n{} late\n",
            at(1_000),
            at(2_000),
            at(3_000)
        );
        assert_eq!(only(&text, &Asked::default()), text);
        let since = only(&text, &Asked { since_ms: Some(2_000), instance: None });
        assert_eq!(since, format!("== {one} at a\n{} new\n  of new\n== {two} at b\n{} late\n", at(2_000), at(3_000)));
        let second = only(&text, &Asked { since_ms: None, instance: Some(two.clone()) });
        assert_eq!(second, format!("== {two} at b\nno time\n{} late\n", at(3_000)));
        let failed = format!("== {one} at a\n(not read: it is gone)\n");
        assert_eq!(only(&failed, &Asked { since_ms: Some(5), instance: None }), failed);
    }
}
