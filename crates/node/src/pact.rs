//! The pact of this cloud: founding, inviting, joining and changing it with the signatures of all others; leaving it, lending less
//! and moving by a notice of its own; parting from a member by the others' operators.
//!
//! Enters: an operator's wish, an invitation, proposals and complete pacts of other members. Leaves: signatures, the next pact,
//! and the trust that follows from it.
//!
//! Always holds: a promise is in the store before its signature leaves; a pact is in the store before it takes effect; every step
//! is one step from the pact that this cloud holds. A proposal that does not find all signatures changes nothing: it is told,
//! and overtaken by the next.
//!
//! How a cloud enters: it sends the invitation's secret with its entry (`POST admissions`), and gets the next pact with the
//! inviter's signature alone. It checks that, signs, and brings it back (`PUT current`). The inviter now asks all other members
//! (`POST signatures`), who do not sign without the newcomer; it adopts the complete pact, answers with it and tells everybody.
//! Whoever could not be told fetches it after the next heartbeat.

mod adopt;
mod enter;
mod leave;
mod notices;
mod propose;
mod sign;
mod vote;
mod words;

pub use adopt::bring;
pub use enter::{admit, invite, is_invited, join};
pub use leave::leave;
pub use notices::{take, untold};
pub use sign::sign;
pub use vote::vote;
pub use words::{dismiss, go_on, proposals, say};

use crate::node::{Locked, Note, TxError, store_problem};
use crate::object::{ONLY, PACT};
use crate::{Node, clock};
use adopt::{Basis, take_over, take_over_if_newer, tell};
use propose::{Step, propose};
use pumasi_api::client::CallError;
use pumasi_api::message::PactProposal;
use pumasi_api::{Client, Fault, Principal, Problem};
use pumasi_pact::{Adopted, KIND, PactError, PactState};
use pumasi_store::{Expect, Tx};
use pumasi_terms::pact::{Member, Pact, Terms};
use pumasi_terms::{BootMs, CloudName, Digest, PactId, Serial, Validate};
use pumasi_trust::{ExpectPeer, PublicKey, SignedDocument, SpiffeId, client_config_anonymous};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One call to one member.
const CALL: Duration = Duration::from_secs(5);

/// A call whose answer needs calls to all other members: comparing pacts, or collecting and telling.
const LONG_CALL: Duration = Duration::from_secs(15);

/// The step that this cloud proposes now.
const PROPOSAL: &str = "proposal";

/// What this cloud has signed as a newcomer.
const JOINING: &str = "joining";

/// The pact in force.
#[derive(Debug, Clone)]
pub struct PactView {
    pub pact: Pact,
    pub signed: SignedDocument,
    /// Document keys of the members.
    pub keys: BTreeMap<CloudName, PublicKey>,
    /// What members said since all signed: in `pact` it is taken in.
    pub notices: Vec<SignedDocument>,
    /// Of all this: members compare it.
    pub digest: Digest,
}

impl PactView {
    pub fn of(state: &PactState) -> Result<Option<Self>, Problem> {
        let Some(adopted) = state.current() else { return Ok(None) };
        let key = |m: &Member| match PublicKey::from_jwk(&m.document_key) {
            Ok(key) => Ok((m.cloud.clone(), key)),
            Err(e) => Err(Problem::ours(format!("document key of {} in the stored pact: {e}", m.cloud))),
        };
        let keys = adopted.pact.members.iter().map(key).collect::<Result<_, _>>()?;
        let digest = notices::digest_of(state).unwrap_or_else(|| adopted.digest());
        let (pact, signed, notices) = (adopted.pact.clone(), adopted.document.clone(), notices::counting(state));
        Ok(Some(Self { pact, signed, keys, notices, digest }))
    }
}

/// `GET /v1/pact`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shown {
    /// As it is in force.
    pub pact: Pact,
    pub signed: SignedDocument,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<SignedDocument>,
    /// What waits for an operator's word; people see it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proposals: Vec<PactProposal>,
    /// How its vote stands; people see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vote: Option<crate::voting::Status>,
}

/// Answer to `POST /v1/pact/signatures`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum SignAnswer {
    Signed {
        document: SignedDocument,
    },
    /// The serial is promised to another proposal.
    Taken {
        next: Serial,
    },
    /// The proposal does not follow from the pact that is held here.
    Behind {
        held: Serial,
    },
}

/// Own proposal. It stays the same while it is wanted, since every new one uses up a serial.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Proposal {
    /// The pact's bytes: JSON.
    payload: String,
    /// It was overtaken: the next one has at least this serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_least: Option<Serial>,
    /// Of versions before notices: a leave that all had signed.
    #[serde(default, skip_serializing)]
    #[allow(dead_code, reason = "read and passed over")]
    complete: Option<serde_json::Value>,
}

/// Without it, a cloud in no pact would take over any old pact that it once signed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Joining {
    pact: PactId,
    digest: Digest,
}

/// Then a member is called over a new connection: it must show again who it is, by a certificate that is in time.
const CLIENT_LIFE_MS: u64 = 6 * 3_600_000;

/// Clients of members' daemons, kept so that connections are used again.
#[derive(Debug, Default)]
pub struct Clients {
    open: Locked<BTreeMap<(CloudName, String), (BootMs, Client)>>,
    /// This cloud proposes one step at a time.
    proposing: tokio::sync::Mutex<()>,
    settling: Locked<()>,
}

impl Clients {
    pub fn of(&self, node: &Node, cloud: &CloudName) -> Result<Client, Problem> {
        let view = view(node)?;
        let member = view.pact.member(cloud).ok_or_else(|| Problem::not_found("member", cloud))?;
        let at = (cloud.clone(), member.api_address.clone());
        let now = clock::boot();
        if let Some((since, client)) = self.open.lock().get(&at)
            && now.since(*since) < CLIENT_LIFE_MS
        {
            return Ok(client.clone());
        }
        let client = client_of(node, member)?;
        self.open.lock().insert(at, (now, client.clone()));
        Ok(client)
    }

    /// Forgets those that the pact does not name any more.
    fn keep(&self, pact: Option<&Pact>) {
        let stays = |(cloud, address): &(CloudName, String)| {
            pact.and_then(|p| p.member(cloud)).is_some_and(|m| &m.api_address == address)
        };
        self.open.lock().retain(|at, _| stays(at));
    }
}

/// To the daemon of a member, which sees this cloud's certificate.
pub fn client_of(node: &Node, member: &Member) -> Result<Client, Problem> {
    if let Some(wire) = &node.wire {
        return Ok(wire.client(node.name(), &member.cloud, true).with_timeout(CALL));
    }
    let tls = node.identity.client_tls(&member.cloud).map_err(Problem::ours)?;
    connect(node, &member.cloud, &member.api_address, tls)
}

/// To the daemon of a member that may not know this cloud's root, or not any more.
fn anonymous_client(node: &Node, member: &Member) -> Result<Client, Problem> {
    let expect = ExpectPeer::Exactly(SpiffeId::daemon(&member.cloud));
    let tls = client_config_anonymous(node.identity.trust.clone(), expect, &[b"h2", b"http/1.1"]);
    connect(node, &member.cloud, &member.api_address, (*tls.map_err(ours)?).clone())
}

/// To a daemon that knows only by a secret, or not at all, who calls.
fn connect(node: &Node, cloud: &CloudName, address: &str, tls: rustls::ClientConfig) -> Result<Client, Problem> {
    if let Some(wire) = &node.wire {
        return Ok(wire.client(node.name(), cloud, false).with_timeout(CALL));
    }
    Client::with_tls(&format!("https://{address}"), tls, node.config.way_to_others(), CALL)
        .map_err(|e| call_failed(cloud, "connecting", e))
}

fn own_bytes(bytes: &[u8]) -> Digest {
    pumasi_trust::digest(bytes)
}

fn ours(e: impl std::fmt::Display) -> Problem {
    Problem::ours(e.to_string())
}

pub fn no_pact() -> Problem {
    let text = "this cloud is in no pact; found one (`pumasi pact init`) or join one by an invitation";
    Problem::new(404, "no_pact", Fault::Input, text)
}

fn call_failed(cloud: &CloudName, what: &str, e: CallError) -> Problem {
    match e {
        CallError::Refused(p) => {
            let status = if matches!(p.status, 403 | 409 | 410 | 422 | 503) { p.status } else { 502 };
            let detail = format!("{what}: {cloud} refused: {}", p.detail);
            Problem { status, fault: Fault::Peer, detail, trace_id: None, ..p }
        }
        CallError::Unreachable { .. } => Problem::new(
            503,
            "peer_unreachable",
            Fault::Peer,
            format!("{what}: {cloud} does not answer ({e}); try again"),
        ),
        CallError::Garbled { .. } => Problem::new(502, "peer_garbled", Fault::Peer, format!("{what}: {cloud}: {e}")),
    }
}

/// The rules of the pact as an answer to whoever broke them.
fn refused(e: PactError) -> Problem {
    let text = e.to_string();
    match e {
        PactError::Fields(fields) => Problem::fields("the pact would not be valid", fields),
        PactError::Document(_) | PactError::Unsigned(_) | PactError::NoSponsor(_) | PactError::NoAuthority(_) => {
            Problem::new(403, "bad_signature", Fault::Peer, text)
        }
        PactError::NeedsOperator(_) => Problem::new(403, "needs_operator", Fault::Input, text),
        PactError::NotOurs(_) | PactError::NotInvited(_) | PactError::OurEntryDiffers => {
            Problem::new(403, "not_ours", Fault::Peer, text)
        }
        PactError::NotNewer { .. } => Problem::new(409, "pact_newer", Fault::Peer, text),
        PactError::SerialTaken { .. } | PactError::OtherParent { .. } => overtaken(text),
        PactError::NeedsAll(..)
        | PactError::NameTaken(_)
        | PactError::LastMember
        | PactError::Voting(_)
        | PactError::VotingSince
        | PactError::ManyChanges(_)
        | PactError::Currency => Problem::conflict(text),
        _ => Problem::new(422, "bad_pact", Fault::Input, text),
    }
}

fn overtaken(why: impl Into<String>) -> Problem {
    Problem { retry: true, ..Problem::new(409, "overtaken", Fault::Peer, why) }
}

/// A store that may be old may have forgotten a promise.
fn may_sign(node: &Node) -> Result<(), Problem> {
    let advice = "compare it with the peers, then `pumasi accept-restored`";
    node.may_act().map_err(|why| Problem::conflict(format!("this cloud signs nothing now: {why}; {advice}")))
}

fn view(node: &Node) -> Result<Arc<PactView>, Problem> {
    node.pact().ok_or_else(no_pact)
}

fn stored(node: &Node) -> Result<PactState, Problem> {
    let state = node.store.get::<PactState>(PACT, ONLY).map_err(|e| store_problem(&e))?;
    Ok(state.map(|s| s.body).unwrap_or_default())
}

fn state(tx: &Tx<'_>) -> Result<PactState, TxError> {
    Ok(tx.get::<PactState>(PACT, ONLY)?.map(|s| s.body).unwrap_or_default())
}

fn held(state: &PactState) -> Result<&Adopted, Problem> {
    state.current().ok_or_else(no_pact)
}

/// At the start: what was adopted takes effect.
pub fn load(node: &Node) -> Result<(), Problem> {
    // Read under the lock, so that the last one to come here sets the newest.
    let settling = node.peers.clients.settling.lock();
    let view = PactView::of(&stored(node)?)?.map(Arc::new);
    node.identity.adopt(view.clone()).map_err(Problem::ours)?;
    node.peers.clients.keep(view.as_ref().map(|v| &v.pact));
    drop(settling);
    node.voting.look_again();
    node.wake.notify_one();
    Ok(())
}

/// This cloud's entry as its configuration, its authority and its key say now.
pub fn own_member(node: &Node, terms: Terms) -> Result<Member, Problem> {
    for (field, address) in [("peer", node.config.api_address()), ("gateway", node.config.gateway_address())] {
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        let key = if field == "peer" { "peer.advertise" } else { "gateway.peer_advertise" };
        if address.ends_with(":0") || matches!(host, "0.0.0.0" | "[::]") {
            return Err(Problem::conflict(format!(
                "other clouds cannot call {address}: set {key} in the configuration"
            )));
        }
    }
    Ok(Member {
        cloud: node.name().clone(),
        api_address: node.config.api_address(),
        gateway_address: node.config.gateway_address(),
        bundle: node.identity.bundle().map_err(Problem::ours)?.to_json(),
        document_key: node.identity.key.public_jwk(),
        terms,
        role: node.config.pact.role,
    })
}

fn check_terms(terms: &Terms) -> Result<(), Problem> {
    let mut faults = Vec::new();
    terms.validate("terms", &mut faults);
    if faults.is_empty() { Ok(()) } else { Err(Problem::fields("the terms are not valid", faults)) }
}

async fn one_at_a_time(node: &Node) -> Result<tokio::sync::MutexGuard<'_, ()>, Problem> {
    let lock = node.peers.clients.proposing.lock();
    let busy = || Problem::unavailable("another change of the pact is under way; try again");
    tokio::time::timeout(CALL, lock).await.map_err(|_| busy())
}

pub async fn found(node: &Node, who: &Principal, currency: String, terms: Terms) -> Result<(), Problem> {
    may_sign(node)?;
    check_terms(&terms)?;
    let id = PactId::from_entropy(clock::entropy());
    let now = clock::wall();
    let pact = pumasi_pact::found(id, own_member(node, terms)?, &currency, now).map_err(refused)?;
    let payload = pumasi_pact::payload(&pact).map_err(refused)?;
    let (own, key) = (node.name(), &node.identity.key);
    let signed = SignedDocument::sign_new(&payload, KIND, own, pact.serial, key).map_err(ours)?;
    let first = PactState::default().adopt(signed, own, key.public()).map_err(refused)?;
    let actor = who.to_string();
    node.transact(move |tx| {
        none_held(&state(tx)?)?;
        tx.put(PACT, ONLY, &first, Expect::Any)?;
        tx.delete(PACT, JOINING, Expect::Any)?;
        let note = Note::new("pact_founded", "pact", &pact.id).because(format!("prices in {}", pact.currency));
        tx.journal(note.entry(&actor, now))?;
        Ok(())
    })
    .await?;
    load(node)
}

fn none_held(state: &PactState) -> Result<(), Problem> {
    match state.current() {
        None => Ok(()),
        Some(held) => Err(Problem::conflict(format!("this cloud is in {} already; leave it first", held.pact.id))),
    }
}

/// A member has a newer pact than this cloud.
pub async fn catch_up(node: &Node, peer: &CloudName) -> Result<(), Problem> {
    let client = node.peers.clients.of(node, peer)?.with_timeout(CALL);
    let shown: Shown = client.get("/v1/pact").await.map_err(|e| call_failed(peer, "fetching its pact", e))?;
    learn(node, shown).await
}

/// What a member shows: notices first, since the next pact may be signed with a key that one of them names; then those that
/// count for the next pact only.
async fn learn(node: &Node, shown: Shown) -> Result<(), Problem> {
    let bring = |notices: Vec<SignedDocument>| async move {
        match notices.is_empty() {
            true => Ok(()),
            false => take(node, &Principal::Daemon, notices).await,
        }
    };
    let early = bring(shown.notices.clone()).await;
    let newer = node.pact().is_none_or(|v| v.pact.serial < shown.signed.serial());
    if !newer {
        return early;
    }
    take_over_if_newer(node, shown.signed).await?;
    bring(shown.notices).await
}

async fn update(node: &Node, who: &Principal, entry: Member) -> Result<(), Problem> {
    may_sign(node)?;
    let _one = one_at_a_time(node).await?;
    let full = propose(node, who, Step::Update(Box::new(entry))).await?;
    take_over(node, who, full.clone(), Basis::Ours).await?;
    tell(node, &full).await.map(drop)
}

pub async fn set_terms(node: &Node, who: &Principal, terms: Terms) -> Result<(), Problem> {
    check_terms(&terms)?;
    let view = view(node)?;
    let entry = own_member(node, terms)?;
    match view.pact.member(node.name()) {
        Some(known) if known == &entry => Ok(()),
        Some(known) if pumasi_pact::one_sided(known, &entry).is_ok() => notices::give(node, who, entry).await,
        _ => update(node, who, entry).await,
    }
}

/// Tells the others where this cloud is and which roots and key it has now. True where that was news.
pub async fn refresh_own_entry(node: &Node) -> Result<bool, Problem> {
    let Some(view) = node.pact() else { return Ok(false) };
    let Some(known) = view.pact.member(node.name()) else { return Ok(false) };
    let entry = own_member(node, known.terms.clone())?;
    if &entry == known {
        return Ok(false);
    }
    // Its own word is enough for addresses, roots and keys: nobody silent keeps it from being found.
    notices::give(node, &Principal::Daemon, entry).await.map(|()| true)
}

#[cfg(test)]
mod act_tests;
#[cfg(test)]
mod bill_tests;
#[cfg(test)]
mod tests;
