//! Notices: this cloud's own, told to all until they know; those of others, taken into force when they are seen.
//!
//! Always holds: an own notice is in the store before it is told; whoever left goes on telling those that did not hear it.

use super::adopt::{forget, used_up};
use super::{PactView, connect, load, may_sign, ours, own_bytes, refused, state, stored, view};
use crate::node::Note;
use crate::object::{ONLY, PACT};
use crate::wire::Notices;
use crate::{Node, clock};
use futures_util::future::join_all;
use pumasi_api::{Client, Principal, Problem};
use pumasi_pact::{NOTICE_KIND, NOTICES_MAX, Notice, PactError, PactState};
use pumasi_store::Expect;
use pumasi_terms::pact::{Member, Pact};
use pumasi_terms::{CloudName, WallMs};
use pumasi_trust::{Bundle, SignedDocument, client_config_pinned};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The leave of this cloud, and whom it is still to be told.
pub(super) const FAREWELL: &str = "farewell";
/// Nobody is told of a leave for longer than this.
const FAREWELL_MS: i64 = 30 * 24 * 3_600_000;
const TRIES: u32 = 4;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Farewell {
    version: u32,
    notice: SignedDocument,
    at: WallMs,
    /// As the pact named them: this cloud trusts them no more, but finds them by these.
    untold: Vec<Member>,
}

/// The state of the promise at which it is made goes into it, so it is made anew where that has moved.
fn make(node: &Node, state: &PactState, entry: Option<Member>) -> Result<SignedDocument, Problem> {
    let (serial, notice) = state.next_notice(node.name(), entry, clock::wall()).map_err(refused)?;
    let authority = node.identity.authority.lock();
    let notice = notice.vouched(|purpose, bytes| authority.vouch(purpose, bytes)).map_err(ours)?;
    let payload = notice.payload().map_err(refused)?;
    SignedDocument::sign_new(&payload, NOTICE_KIND, node.name(), serial, &node.identity.key).map_err(ours)
}

/// Changes this cloud's own entry by its own signature, and tells the others. Those that are silent fetch it later.
pub(super) async fn give(node: &Node, who: &Principal, entry: Member) -> Result<(), Problem> {
    may_sign(node)?;
    let mut last = None;
    for _ in 0..TRIES {
        let before = stored(node)?;
        let document = make(node, &before, Some(entry.clone()))?;
        let actor = who.to_string();
        let kept = node
            .transact(move |tx| {
                let state = state(tx)?;
                if state != before {
                    return Ok(None);
                }
                let Some((notice, after)) = state.take_notice(&document).map_err(refused)? else { return Ok(None) };
                tx.put(PACT, ONLY, &after, Expect::Any)?;
                tx.journal(told(&notice, &state).entry(&actor, clock::wall()))?;
                Ok(Some(document))
            })
            .await?;
        if let Some(document) = kept {
            load(node)?;
            spread(node, &document).await;
            return Ok(());
        }
        last = Some(super::overtaken("the pact changed at the same time; try again"));
    }
    Err(last.unwrap_or_else(super::no_pact))
}

fn told(notice: &Notice, before: &PactState) -> Note {
    let was = before.current().and_then(|c| c.pact.member(&notice.cloud));
    let mut note = Note::new("pact_notice", "cloud", &notice.cloud).caused_by(&notice.pact);
    match (&notice.entry, was) {
        (None, _) => note.reasons.push(format!("{} leaves the pact", notice.cloud)),
        (Some(is), Some(was)) => {
            for (what, same) in [
                ("its addresses", (&was.api_address, &was.gateway_address) == (&is.api_address, &is.gateway_address)),
                ("its roots", was.bundle == is.bundle),
                ("its document key: the one before counts for nothing any more", was.document_key == is.document_key),
                ("what it lends", was.terms == is.terms),
            ] {
                if !same {
                    note.reasons.push(format!("{} changes {what}", notice.cloud));
                }
            }
        }
        _ => {}
    }
    note
}

/// To every member that can be reached now.
async fn spread(node: &Node, document: &SignedDocument) {
    let Ok(view) = view(node) else { return };
    let body = &Notices { notices: vec![document.clone()] };
    let others = super::propose::others(node, &view.pact);
    let send = |member: Member| async move {
        let client = node.peers.clients.of(node, &member.cloud)?;
        client.put::<serde_json::Value>("/v1/pact/notices", body).await.map_err(|e| Problem::unavailable(e.to_string()))
    };
    for answer in join_all(others.into_iter().map(send)).await {
        if let Err(e) = answer {
            tracing::info!(error = %e, "a member was not told of this cloud's notice; it fetches it after its next heartbeat");
        }
    }
}

/// Notices that somebody brought: their own signatures prove them. The first refusal, where nothing of it was news.
pub async fn take(node: &Node, who: &Principal, documents: Vec<SignedDocument>) -> Result<(), Problem> {
    let (own, actor) = (node.name().clone(), who.to_string());
    let (changed, refusal) = node
        .transact(move |tx| {
            let (mut state, mut changed, mut refusal) = (state(tx)?, false, None);
            for document in documents.iter().take(NOTICES_MAX) {
                let taken = match pumasi_pact::read_notice(document) {
                    // Own word of an earlier time: this cloud is here again.
                    Ok(notice) if notice.cloud == own && notice.entry.is_none() => continue,
                    _ => state.take_notice(document),
                };
                match taken {
                    Ok(Some((notice, after))) => {
                        tx.journal(told(&notice, &state).entry(&actor, clock::wall()))?;
                        if notice.entry.is_none() {
                            used_up(tx, &BTreeSet::from([notice.cloud]))?;
                        }
                        (state, changed) = (after, true);
                    }
                    Ok(None) | Err(PactError::NotNewer { .. }) => {}
                    Err(e) => refusal = refusal.or(Some(e)),
                }
            }
            if changed {
                tx.put(PACT, ONLY, &state, Expect::Any)?;
            }
            Ok((changed, refusal))
        })
        .await?;
    if changed {
        return load(node);
    }
    refusal.map_or(Ok(()), |e| Err(refused(e)))
}

/// Out of the pact by its own word. Nobody is asked; who could not be told is told later.
pub(super) async fn part(node: &Node, who: &Principal, view: &PactView) -> Result<(), Problem> {
    let untold = super::propose::others(node, &view.pact);
    for _ in 0..TRIES {
        let before = stored(node)?;
        let notice = make(node, &before, None)?;
        let farewell = Farewell { version: 1, notice, at: clock::wall(), untold: untold.clone() };
        let (actor, id) = (who.to_string(), view.pact.id.clone());
        let gone = node
            .transact(move |tx| {
                if state(tx)? != before {
                    return Ok(false);
                }
                forget(tx)?;
                tx.put(PACT, FAREWELL, &farewell, Expect::Any)?;
                tx.journal(
                    Note::new("pact_left", "pact", &id).because("by its own word").entry(&actor, clock::wall()),
                )?;
                Ok(true)
            })
            .await?;
        if gone {
            load(node)?;
            bid_farewell(node).await?;
            return Ok(());
        }
    }
    Err(super::overtaken("the pact changed at the same time; try again"))
}

/// Tells those that did not hear yet that this cloud has left.
pub(super) async fn bid_farewell(node: &Node) -> Result<(), Problem> {
    let stored = node.store.get::<Farewell>(PACT, FAREWELL).map_err(|e| crate::node::store_problem(&e))?;
    let Some(farewell) = stored.map(|s| s.body) else { return Ok(()) };
    let body = &Notices { notices: vec![farewell.notice.clone()] };
    let send = |member: Member| async move {
        let answer = match pinned_client(node, &member) {
            Ok(client) => client.put::<serde_json::Value>("/v1/pact/notices", body).await.map(drop),
            Err(problem) => Err(pumasi_api::CallError::Refused(problem)),
        };
        // A refusal is an answer: it knows, or is in that pact no more.
        let heard = answer.as_ref().err().is_none_or(|e| e.problem().is_some_and(|p| !p.retry && p.status < 500));
        (!heard).then_some(member)
    };
    let untold: Vec<Member> = join_all(farewell.untold.iter().cloned().map(send)).await.into_iter().flatten().collect();
    let over = clock::wall().0.saturating_sub(farewell.at.0) > FAREWELL_MS;
    node.transact(move |tx| {
        if untold.is_empty() || over {
            tx.delete(PACT, FAREWELL, Expect::Any)?;
        } else if untold.len() != farewell.untold.len() {
            tx.put(PACT, FAREWELL, &Farewell { untold, ..farewell }, Expect::Any)?;
        }
        Ok(())
    })
    .await
}

/// To a daemon that this cloud trusts no more, or that trusts this cloud no more, by the roots that the pact named.
pub(super) fn pinned_client(node: &Node, member: &Member) -> Result<Client, Problem> {
    let root = Bundle::from_json(&member.bundle).ok().and_then(|b| b.fingerprints().first().copied());
    let root = root.ok_or_else(|| Problem::ours(format!("the bundle of {} holds no root", member.cloud)))?;
    let tls = client_config_pinned(&member.cloud, root, &[b"h2", b"http/1.1"]).map_err(ours)?;
    connect(node, &member.cloud, &member.api_address, (*tls).clone())
}

/// What members compare in heartbeats: the signed pact and the notices that count for it.
pub(super) fn digest_of(state: &PactState) -> Option<pumasi_terms::Digest> {
    let current = state.current()?;
    let mut parts = BTreeSet::new();
    for document in counting(state) {
        parts.insert(document.digest().to_string());
    }
    let text = [current.digest().to_string()].into_iter().chain(parts).collect::<Vec<_>>().join(" ");
    Some(own_bytes(text.as_bytes()))
}

/// Those that count for the pact held.
pub(super) fn counting(state: &PactState) -> Vec<SignedDocument> {
    let held: Option<&Pact> = state.current().map(|c| &c.pact);
    let counts = |d: &&SignedDocument| {
        let notice = pumasi_pact::read_notice(d);
        notice.is_ok_and(|n| held.is_some_and(|p| p.id == n.pact && p.serial <= n.through))
    };
    state.notices().iter().filter(counts).cloned().collect()
}

/// Who of these is not told yet; for people.
pub fn untold(node: &Node) -> Vec<CloudName> {
    let stored = node.store.get::<Farewell>(PACT, FAREWELL).ok().flatten();
    stored.map(|s| s.body.untold.into_iter().map(|m| m.cloud).collect()).unwrap_or_default()
}
