//! Who has no vote reads along: the same entries, applied by the same function.
//!
//! Enters: answers of one voter after the other. Leaves: the register. Always holds: it is never older than what was shown before; what
//! one voter tells is believed as far as a voter is.

use super::group::Group;
use super::register::{self, Stop};
use super::seat::{self, Parts};
use super::wire::Followed;
use crate::{Node, clock};
use pumasi_api::Problem;
use pumasi_ownership::{State, apply_bytes};
use pumasi_terms::{CloudName, Digest};
use std::sync::Arc;
use std::time::Duration;

/// A voter answers within a second if there is no news.
const ASK: Duration = Duration::from_secs(3);
/// After a voter that did not answer, or has nothing to tell.
const PAUSE_MS: u64 = 200;
/// News of so long comes together.
const REST_MS: u64 = 50;

pub async fn along(node: &Arc<Node>, group: &Arc<Group>, parts: Parts) -> Result<(), Problem> {
    let (mut stopping, mut pact) = (node.stopping.clone(), node.voting.pact.subscribe());
    let mut turn = 0;
    loop {
        let voters: Vec<CloudName> = group.others().cloned().collect();
        let pause_ms = tokio::select! {
            biased;
            _ = stopping.changed() => break,
            _ = pact.changed() => break,
            asked = once(node, group, voters.get(turn % voters.len().max(1))) => match asked? {
                true => group.timers().renew_ms.min(REST_MS),
                false => {
                    turn += 1;
                    PAUSE_MS
                }
            },
        };
        tokio::select! {
            biased;
            _ = stopping.changed() => break,
            _ = pact.changed() => break,
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
        }
    }
    drop(parts);
    Ok(())
}

/// Whether this voter is to be asked again.
async fn once(node: &Node, group: &Group, voter: Option<&CloudName>) -> Result<bool, Problem> {
    let Some(voter) = voter else { return Ok(false) };
    let Ok(client) = node.peers.clients.of(node, voter) else { return Ok(false) };
    let state = node.voting.state();
    let after = state.as_ref().map_or_else(String::new, |s| format!("&after={}", s.revision));
    let path = format!("/v1/pacts/{}/register?since={}{after}", group.pact, group.since);
    let bytes = match client.with_timeout(ASK).bytes(&path).await {
        Ok(bytes) => bytes,
        Err(e) => {
            tracing::debug!(%voter, error = %e, "the register was not read along; another voter is asked");
            return Ok(false);
        }
    };
    let followed = match Followed::decode(&bytes) {
        Ok(followed) if followed.since == group.since => followed,
        other => {
            tracing::warn!(%voter, answer = ?other.err(), "what it tells of the register is not believed; another voter is asked");
            return Ok(false);
        }
    };
    if let Some(digest) = followed.snapshot {
        return Ok(take_snapshot(node, voter, Digest(digest)).await);
    }
    match state {
        Some(state) => apply(node, state, &followed).map_err(|e| Problem::ours(e.to_string())).map(|()| true),
        // Nothing is known to which it could be added: another one sends the whole.
        None => Ok(false),
    }
}

async fn take_snapshot(node: &Node, voter: &CloudName, digest: Digest) -> bool {
    let Some(bytes) = seat::fetch(node, voter, digest).await else { return false };
    if pumasi_quorum::storage::digest_of(&bytes) != digest {
        return false;
    }
    match State::from_json(&bytes) {
        Ok(state) => {
            node.voting.show(&Arc::new(state), clock::boot());
            node.wake.notify_one();
            true
        }
        Err(e) => {
            tracing::warn!(%voter, error = %e, "its snapshot of the register is not believed; another voter is asked");
            false
        }
    }
}

fn apply(node: &Node, state: Arc<State>, followed: &Followed) -> Result<(), Stop> {
    let (mut state, mut told) = (Arc::unwrap_or_clone(state), Vec::new());
    for (index, entry) in &followed.entries {
        let more;
        (state, more) = apply_bytes(state, *index, entry, register::rules()).map_err(|e| Stop::Newer(e.to_string()))?;
        told.extend(more);
    }
    if !followed.entries.is_empty() {
        seat::show(node, &Arc::new(state), &told);
    }
    Ok(())
}
