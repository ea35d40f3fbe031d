//! The pact of this cloud: founding, inviting, joining, changing and leaving it, with the signatures of all others.
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

use crate::node::{Locked, Note, TxError};
use crate::object::{INVITATION, JOURNEY, LENT, ONLY, PACT};
use crate::wire::{AskAdmission, Signed};
use crate::{Node, clock};
use futures_util::future::join_all;
use pumasi_api::client::CallError;
use pumasi_api::message::Invited;
use pumasi_api::{Client, Fault, Principal, Problem};
use pumasi_journey::Journey;
use pumasi_lease::LentLease;
use pumasi_pact::{
    Adopted, Change, Invitation, Invitations, KIND, PactError, PactState, Policy, Promise, SERIAL_JUMP_MAX,
};
use pumasi_store::{Expect, Tx};
use pumasi_terms::pact::{Member, Pact, Terms};
use pumasi_terms::{CloudName, Digest, PactId, Serial, Validate, WallMs};
use pumasi_trust::{
    ExpectPeer, PublicKey, Secret, SignedDocument, SpiffeId, client_config_anonymous, client_config_pinned, digest,
    random_bytes,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// One call to one member.
const CALL: Duration = Duration::from_secs(5);
/// A call whose answer needs calls to all other members: comparing pacts, or collecting and telling.
const LONG_CALL: Duration = Duration::from_secs(15);
/// Proposals of one wish, each above the one that overtook the last.
const TRIES: u32 = 4;
const BACKOFF_MS_MAX: u64 = 400;
const INVITATION_TTL_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// The step that this cloud proposes now.
const PROPOSAL: &str = "proposal";
/// What this cloud has signed as a newcomer.
const JOINING: &str = "joining";
/// For which cloud each open invitation was made.
const INVITED: &str = "clouds";

/// The pact in force.
#[derive(Debug, Clone)]
pub struct PactView {
    pub pact: Pact,
    pub signed: SignedDocument,
    /// Document keys of the members.
    pub keys: BTreeMap<CloudName, PublicKey>,
}

impl PactView {
    pub fn of(adopted: &Adopted) -> Result<Self, Problem> {
        let key = |m: &Member| match PublicKey::from_jwk(&m.document_key) {
            Ok(key) => Ok((m.cloud.clone(), key)),
            Err(e) => Err(Problem::ours(format!("document key of {} in the stored pact: {e}", m.cloud))),
        };
        let keys = adopted.pact.members.iter().map(key).collect::<Result<_, _>>()?;
        Ok(Self { pact: adopted.pact.clone(), signed: adopted.document.clone(), keys })
    }
}

/// `GET /v1/pact`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shown {
    pub pact: Pact,
    pub signed: SignedDocument,
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
    /// Own leave, signed by all, not known to anybody yet. No other step may be signed beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    complete: Option<SignedDocument>,
}

/// Without it, a cloud in no pact would take over any old pact that it once signed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Joining {
    pact: PactId,
    digest: Digest,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct InvitedClouds {
    open: Vec<InvitedCloud>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct InvitedCloud {
    secret: Digest,
    cloud: CloudName,
    expires_at: WallMs,
}

/// Clients of members' daemons, kept so that connections are used again.
#[derive(Debug, Default)]
pub struct Clients {
    open: Locked<BTreeMap<(CloudName, String), Client>>,
    /// This cloud proposes one step at a time.
    proposing: tokio::sync::Mutex<()>,
    settling: Locked<()>,
}

impl Clients {
    pub fn of(&self, node: &Node, cloud: &CloudName) -> Result<Client, Problem> {
        let view = view(node)?;
        let member = view.pact.member(cloud).ok_or_else(|| Problem::not_found("member", cloud))?;
        let at = (cloud.clone(), member.api_address.clone());
        if let Some(client) = self.open.lock().get(&at) {
            return Ok(client.clone());
        }
        let client = client_of(node, member)?;
        Ok(self.open.lock().entry(at).or_insert(client).clone())
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
    let tls = node.identity.client_tls(&member.cloud).map_err(Problem::ours)?;
    connect(node, &member.cloud, &member.api_address, tls)
}

/// To the daemon of a member that may not know this cloud's root, or not any more.
fn anonymous_client(node: &Node, member: &Member) -> Result<Client, Problem> {
    let expect = ExpectPeer::Exactly(SpiffeId::daemon(&member.cloud));
    let tls = client_config_anonymous(node.identity.trust.clone(), expect, &[b"h2", b"http/1.1"]);
    connect(node, &member.cloud, &member.api_address, (*tls.map_err(ours)?).clone())
}

fn connect(node: &Node, cloud: &CloudName, address: &str, tls: rustls::ClientConfig) -> Result<Client, Problem> {
    Client::with_tls(&format!("https://{address}"), tls, node.config.peer.source_ip, CALL)
        .map_err(|e| call_failed(cloud, "connecting", e))
}

fn ours(e: impl std::fmt::Display) -> Problem {
    Problem::ours(e.to_string())
}

pub fn no_pact() -> Problem {
    let text = "this cloud is in no pact; found one (`pumasi pact found`) or join one by an invitation";
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
        PactError::Document(_) | PactError::Unsigned(_) | PactError::NoSponsor(_) => {
            Problem::new(403, "bad_signature", Fault::Peer, text)
        }
        PactError::NeedsOperator(_) => Problem::new(403, "needs_operator", Fault::Input, text),
        PactError::NotOurs(_) | PactError::NotInvited(_) | PactError::OurEntryDiffers => {
            Problem::new(403, "not_ours", Fault::Peer, text)
        }
        PactError::NotNewer { .. } => Problem::new(409, "pact_newer", Fault::Peer, text),
        PactError::SerialTaken { .. } | PactError::OtherParent { .. } => overtaken(text),
        PactError::NameTaken(_) | PactError::LastMember | PactError::ManyChanges(_) | PactError::Currency => {
            Problem::conflict(text)
        }
        _ => Problem::new(422, "bad_pact", Fault::Input, text),
    }
}

fn overtaken(why: impl Into<String>) -> Problem {
    Problem { retry: true, ..Problem::new(409, "overtaken", Fault::Peer, why) }
}

/// A store that may be old may have forgotten a promise.
fn may_sign(node: &Node) -> Result<(), Problem> {
    let advice = "compare it with the peers, then `pumasi standing accept`";
    node.may_act().map_err(|why| Problem::conflict(format!("this cloud signs nothing now: {why}; {advice}")))
}

fn view(node: &Node) -> Result<Arc<PactView>, Problem> {
    node.pact().ok_or_else(no_pact)
}

fn stored(node: &Node) -> Result<PactState, Problem> {
    let state = node.store.get::<PactState>(PACT, ONLY).map_err(|e| crate::node::store_problem(&e))?;
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
    let view = stored(node)?.current().map(PactView::of).transpose()?.map(Arc::new);
    node.identity.adopt(view.clone()).map_err(Problem::ours)?;
    node.peers.clients.keep(view.as_ref().map(|v| &v.pact));
    drop(settling);
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

/// The one thing that a proposal changes.
#[derive(Debug, Clone)]
enum Step {
    Admit(Box<Member>),
    Leave(CloudName),
    Update(Box<Member>),
}

impl Step {
    fn pact(&self, held: &Adopted, serial: Serial, now: WallMs) -> Result<Pact, PactError> {
        let (pact, parent) = (&held.pact, held.digest());
        match self {
            Self::Admit(member) => pumasi_pact::admit(pact, parent, serial, (**member).clone(), now),
            Self::Leave(cloud) => pumasi_pact::dismiss(pact, parent, serial, cloud, now),
            Self::Update(member) => pumasi_pact::update_member(pact, parent, serial, (**member).clone(), now),
        }
    }
    fn text(&self) -> String {
        match self {
            Self::Admit(member) => format!("{} asks to enter by an invitation", member.cloud),
            Self::Leave(cloud) => format!("{cloud} leaves"),
            Self::Update(member) => format!("{} changes its entry", member.cloud),
        }
    }
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

/// A token for one cloud. It is told once; the store keeps its digest.
pub async fn invite(node: &Node, who: &Principal, cloud: CloudName, ttl_ms: u64) -> Result<Invited, Problem> {
    may_sign(node)?;
    let view = view(node)?;
    if view.pact.member(&cloud).is_some() {
        return Err(Problem::conflict(format!("{cloud} is a member already")));
    }
    if !(1_000..=INVITATION_TTL_MS_MAX).contains(&ttl_ms) {
        return Err(Problem::bad_request(format!("ttl_ms: 1000 to {INVITATION_TTL_MS_MAX}")));
    }
    let now = clock::wall();
    let invitation = Invitation {
        pact: view.pact.id.clone(),
        inviter: node.name().clone(),
        api_address: node.config.api_address(),
        root: node.identity.authority.lock().fingerprint().map_err(ours)?,
        secret: Secret::new(random_bytes::<32>().map_err(ours)?),
        expires_at: now.after(ttl_ms),
    };
    let token = invitation.to_token().expose().clone();
    let (actor, expires_at) = (who.to_string(), invitation.expires_at);
    node.transact(move |tx| {
        let mut open = tx.get::<Invitations>(INVITATION, ONLY)?.map(|s| s.body).unwrap_or_default();
        open.add(&invitation, now).map_err(|e| Problem::conflict(e.to_string()))?;
        let mut clouds = tx.get::<InvitedClouds>(INVITATION, INVITED)?.map(|s| s.body).unwrap_or_default();
        clouds.open.retain(|i| now < i.expires_at);
        let secret = digest(invitation.secret.expose());
        clouds.open.push(InvitedCloud { secret, cloud: cloud.clone(), expires_at });
        tx.put(INVITATION, ONLY, &open, Expect::Any)?;
        tx.put(INVITATION, INVITED, &clouds, Expect::Any)?;
        let note = Note::new("cloud_invited", "cloud", &cloud).because(format!("until {expires_at}"));
        tx.journal(note.caused_by(&invitation.pact).entry(&actor, now))?;
        Ok(())
    })
    .await?;
    Ok(Invited { invitation: token, expires_at })
}

/// As a newcomer: asks the inviter, signs, and brings the signature. May be repeated with the same invitation.
pub async fn join(node: &Node, who: &Principal, token: &str, terms: Terms) -> Result<(), Problem> {
    may_sign(node)?;
    check_terms(&terms)?;
    none_held(&stored(node)?)?;
    let bad = |e: pumasi_pact::InvitationError| Problem::bad_request(format!("invitation: {e}"));
    let invitation = Invitation::parse(token).map_err(bad)?;
    invitation.check_time(clock::wall()).map_err(bad)?;
    if &invitation.inviter == node.name() {
        return Err(Problem::bad_request("invitation: it is this cloud's own; give it to another one's operator"));
    }
    let member = own_member(node, terms)?;
    let _one = one_at_a_time(node).await?;
    let inviter = &invitation.inviter;
    let tls = client_config_pinned(inviter, invitation.root, &[b"h2", b"http/1.1"]).map_err(ours)?;
    let client = connect(node, inviter, &invitation.api_address, (*tls).clone())?.with_timeout(LONG_CALL);
    let mut last = None;
    for attempt in 0..TRIES {
        back_off(attempt).await;
        match enter(node, who, &client, &invitation, &member).await {
            Err(p) if p.code == "overtaken" => last = Some(p),
            result => return result,
        }
    }
    Err(last.unwrap_or_else(no_pact))
}

async fn enter(
    node: &Node,
    who: &Principal,
    client: &Client,
    invitation: &Invitation,
    member: &Member,
) -> Result<(), Problem> {
    let (own, key) = (node.name(), &node.identity.key);
    let failed = |what: &'static str| move |e| call_failed(&invitation.inviter, what, e);
    let ask = AskAdmission { secret: hex::encode(invitation.secret.expose()), member: member.clone() };
    let answer: Signed = client.post("/v1/pact/admissions", &ask).await.map_err(failed("asking for admission"))?;
    let offered = pumasi_pact::read(answer.document.unverified_payload()).map_err(refused)?;
    // Signed by us: an earlier try went through and its answer was lost. Otherwise it must be what we sent.
    let signed = answer.document.signed_by(own);
    let entry = offered.member(own).filter(|_| signed).unwrap_or(member);
    pumasi_pact::check_invited(&answer.document, invitation, entry).map_err(refused)?;
    if signed {
        return take_over(node, who, answer.document, Basis::Invited).await;
    }
    let joining = Joining { pact: offered.id.clone(), digest: answer.document.digest() };
    let actor = who.to_string();
    node.transact(move |tx| {
        none_held(&state(tx)?)?;
        tx.put(PACT, JOINING, &joining, Expect::Any)?;
        let text = format!("serial {} as a newcomer", offered.serial);
        tx.journal(Note::new("pact_signed", "pact", &offered.id).because(text).entry(&actor, clock::wall()))?;
        Ok(())
    })
    .await?;
    let document = answer.document.countersign(own, key).map_err(ours)?;
    let answer: Signed =
        client.put("/v1/pact/current", &Signed { document }).await.map_err(failed("bringing the signed pact"))?;
    take_over(node, who, answer.document, Basis::Told).await
}

/// The inviter's answer to a newcomer: the next pact with this cloud's signature alone.
pub async fn admit(node: &Node, secret: &str, member: Member) -> Result<SignedDocument, Problem> {
    may_sign(node)?;
    let forbidden = |e: String| Problem::new(403, "bad_invitation", Fault::Input, e);
    let key = PublicKey::from_jwk(&member.document_key);
    let kid = key.map_err(|e| Problem::bad_request(format!("member.document_key: {e}")))?.kid().to_owned();
    let redeem = Redeem { secret: hex::decode(secret).unwrap_or_default(), cloud: member.cloud.clone(), kid };
    let probe = redeem.clone();
    // Checked before anybody else is troubled; recorded together with the promise.
    let stored_open = node.store.get::<Invitations>(INVITATION, ONLY).map_err(|e| crate::node::store_problem(&e))?;
    let mut open = stored_open.map(|s| s.body).unwrap_or_default();
    let now = clock::wall();
    open.redeem(&probe.secret, &probe.cloud, &probe.kid, now).map_err(|e| forbidden(e.to_string()))?;
    let invited = node.store.get::<InvitedClouds>(INVITATION, INVITED).map_err(|e| crate::node::store_problem(&e))?;
    let named = digest(&probe.secret);
    if !invited.is_some_and(|i| i.body.open.iter().any(|i| i.secret == named && i.cloud == probe.cloud)) {
        return Err(forbidden(format!("the invitation was not made for {}", probe.cloud)));
    }
    let _one = one_at_a_time(node).await?;
    compare(node).await?;
    let current = view(node)?;
    if let Some(entry) = current.pact.member(&member.cloud) {
        let same = PublicKey::from_jwk(&entry.document_key).is_ok_and(|k| k.kid() == probe.kid);
        return if same { Ok(current.signed.clone()) } else { Err(refused(PactError::NameTaken(member.cloud))) };
    }
    promise(node, &Principal::Stranger, Step::Admit(Box::new(member)), Some(redeem)).await
}

#[derive(Clone)]
struct Redeem {
    secret: Vec<u8>,
    cloud: CloudName,
    kid: String,
}

/// Keeps the promise, then signs. The same wish on the same pact gives the same bytes.
async fn promise(node: &Node, who: &Principal, step: Step, redeem: Option<Redeem>) -> Result<SignedDocument, Problem> {
    let actor = who.to_string();
    let now = clock::wall();
    let (payload, serial) = node
        .transact(move |tx| {
            if let Some(r) = redeem {
                let mut open = tx.get::<Invitations>(INVITATION, ONLY)?.map(|s| s.body).unwrap_or_default();
                let bound = open.redeem(&r.secret, &r.cloud, &r.kid, now);
                bound.map_err(|e| Problem::new(403, "bad_invitation", Fault::Input, e.to_string()))?;
                tx.put(INVITATION, ONLY, &open, Expect::Any)?;
            }
            let state = state(tx)?;
            let held = held(&state)?;
            let old = tx.get::<Proposal>(PACT, PROPOSAL)?.map(|s| s.body);
            if let Some(old) = old.as_ref().filter(|o| o.at_least.is_none())
                && let Some(serial) = again(&state, held, old, &step)
            {
                return Ok((old.payload.clone(), serial));
            }
            let serial = state.next_serial().max(old.and_then(|o| o.at_least).unwrap_or_default());
            // Newcomers alone must not use up the serials that members need.
            if matches!(step, Step::Admit(_)) && serial.0 - held.pact.serial.0 > SERIAL_JUMP_MAX / 2 {
                let text = "too many proposals failed since the last change; change a member's terms first";
                return Err(Problem::conflict(text).into());
            }
            let pact = step.pact(held, serial, now).map_err(refused)?;
            let payload = String::from_utf8(pumasi_pact::payload(&pact).map_err(refused)?).map_err(ours)?;
            let promised = state.promise_own(serial, digest(payload.as_bytes())).map_err(refused)?;
            tx.put(PACT, ONLY, &promised, Expect::Any)?;
            let proposal = Proposal { payload: payload.clone(), at_least: None, complete: None };
            tx.put(PACT, PROPOSAL, &proposal, Expect::Any)?;
            let note = Note::new("pact_proposed", "pact", &pact.id).because(step.text());
            tx.journal(note.because(format!("serial {serial}")).entry(&actor, now))?;
            Ok((payload, serial))
        })
        .await?;
    SignedDocument::sign_new(payload.as_bytes(), KIND, node.name(), serial, &node.identity.key).map_err(ours)
}

/// The serial of an earlier proposal that says the same and is still promised.
fn again(state: &PactState, held: &Adopted, old: &Proposal, step: &Step) -> Option<Serial> {
    let pact = pumasi_pact::read(old.payload.as_bytes()).ok()?;
    let promise = Promise { serial: pact.serial, digest: digest(old.payload.as_bytes()) };
    let same = state.promise() == Some(promise) && step.pact(held, pact.serial, pact.created_at).ok()? == pact;
    same.then_some(pact.serial)
}

async fn back_off(attempt: u32) {
    if attempt > 0 {
        // Two who propose at the same time must not do so again.
        let ms = u64::try_from(clock::entropy() % u128::from(BACKOFF_MS_MAX)).unwrap_or(BACKOFF_MS_MAX);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

fn others(node: &Node, pact: &Pact) -> Vec<Member> {
    pact.members.iter().filter(|m| &m.cloud != node.name()).cloned().collect()
}

/// Before a serial is used up: every member answers, and nobody has a newer pact.
async fn compare(node: &Node) -> Result<(), Problem> {
    let view = view(node)?;
    let ask = |member: Member| async move {
        let client = node.peers.clients.of(node, &member.cloud)?.with_timeout(CALL);
        let failed = |e| call_failed(&member.cloud, "comparing the pact, which every member must sign", e);
        client.get::<Shown>("/v1/pact").await.map_err(failed)
    };
    let answers = join_all(others(node, &view.pact).into_iter().map(ask)).await;
    for answer in answers {
        let shown = answer?;
        if shown.signed.serial() > view.pact.serial {
            take_over_if_newer(node, shown.signed).await?;
        }
    }
    Ok(())
}

async fn take_over_if_newer(node: &Node, document: SignedDocument) -> Result<(), Problem> {
    match take_over(node, &Principal::Daemon, document, Basis::Told).await {
        Err(p) if p.code == "pact_newer" => Ok(()),
        result => result,
    }
}

enum Stop {
    Overtaken { next: Serial, why: String },
    Failed(Problem),
}

/// Asks every member that has not signed yet.
async fn collect(node: &Node, document: &SignedDocument) -> Result<SignedDocument, Stop> {
    let pact = pumasi_pact::read(document.unverified_payload()).map_err(|e| Stop::Failed(refused(e)))?;
    let ask = |member: Member| async move {
        let client = node.peers.clients.of(node, &member.cloud)?.with_timeout(CALL);
        let body = Signed { document: document.clone() };
        let answer = client.post::<SignAnswer>("/v1/pact/signatures", &body).await;
        answer.map(|a| (member.cloud.clone(), a)).map_err(|e| call_failed(&member.cloud, "signing the next pact", e))
    };
    let missing = others(node, &pact).into_iter().filter(|m| !document.signed_by(&m.cloud));
    let (mut full, mut stop) = (document.clone(), None);
    for answer in join_all(missing.map(ask)).await {
        match answer.map_err(Stop::Failed)? {
            (cloud, SignAnswer::Signed { document: theirs }) => {
                let merged = full.merge(&theirs).ok().filter(|d| d.signed_by(&cloud));
                let text = || format!("signing the next pact: {cloud} signed something else");
                full = merged.ok_or_else(|| Stop::Failed(Problem::new(502, "peer_garbled", Fault::Peer, text())))?;
            }
            (cloud, SignAnswer::Taken { next }) => {
                stop = Some(Stop::Overtaken {
                    next,
                    why: format!("{cloud} has promised that serial to another proposal"),
                });
            }
            (cloud, SignAnswer::Behind { held }) => {
                stop = Some(Stop::Overtaken { next: held.next(), why: format!("{cloud} holds serial {held}") });
            }
        }
    }
    stop.map_or(Ok(full), Err)
}

/// The next proposal goes above; a member cannot make us run out of serials by this.
async fn step_aside(node: &Node, next: Serial) -> Result<(), Problem> {
    node.transact(move |tx| {
        let ceiling = held(&state(tx)?)?.pact.serial.0 + SERIAL_JUMP_MAX / 2;
        if let Some(proposal) = tx.get::<Proposal>(PACT, PROPOSAL)? {
            let at_least = Some(Serial(next.0.min(ceiling)));
            tx.put(PACT, PROPOSAL, &Proposal { at_least, ..proposal.body }, Expect::Any)?;
        }
        Ok(())
    })
    .await
}

async fn abandoned(node: &Node, document: &SignedDocument, why: &str) {
    let subject = format!("serial {}", document.serial());
    node.note("daemon", Note::new("pact_not_changed", "pact", subject).because(why)).await;
}

/// Signed by all, adopted by nobody.
async fn propose(node: &Node, who: &Principal, step: Step) -> Result<SignedDocument, Problem> {
    let mut last = String::new();
    for attempt in 0..TRIES {
        back_off(attempt).await;
        compare(node).await?;
        let document = promise(node, who, step.clone(), None).await?;
        match collect(node, &document).await {
            Ok(full) => return Ok(full),
            Err(Stop::Failed(problem)) => {
                abandoned(node, &document, &problem.detail).await;
                return Err(problem);
            }
            Err(Stop::Overtaken { next, why }) => {
                abandoned(node, &document, &why).await;
                step_aside(node, next).await?;
                last = why;
            }
        }
    }
    Err(overtaken(format!("others changed the pact at the same time ({last}); try again")))
}

/// Why a complete pact is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Basis {
    /// It is the step that this cloud proposed.
    Ours,
    /// Somebody brought it.
    Told,
    /// The operator's invitation led to it.
    Invited,
}

/// What changed, in words.
fn difference(old: Option<&Pact>, new: &Pact) -> Vec<String> {
    let Some(old) = old else { return vec![format!("entered a pact of {} members", new.members.len())] };
    let mut told: Vec<String> = Vec::new();
    for member in &new.members {
        match old.member(&member.cloud) {
            None => told.push(format!("{} entered", member.cloud)),
            Some(was) if was != member => told.push(format!("{} changed its entry", member.cloud)),
            Some(_) => {}
        }
    }
    told.extend(old.members.iter().filter(|m| new.member(&m.cloud).is_none()).map(|m| format!("{} left", m.cloud)));
    told
}

/// Into the store, then into effect. A pact that does not name this cloud any more ends its membership.
async fn take_over(node: &Node, who: &Principal, document: SignedDocument, basis: Basis) -> Result<(), Problem> {
    let (own, key, actor) = (node.name().clone(), node.identity.key.public().clone(), who.to_string());
    let changed = node
        .transact(move |tx| {
            let state = state(tx)?;
            let digest = document.digest();
            if state.current().is_some_and(|c| c.digest() == digest) {
                return Ok(false);
            }
            if basis == Basis::Ours {
                still_ours(&state, &document)?;
            }
            if state.current().is_none() && basis != Basis::Invited {
                let joining = tx.get::<Joining>(PACT, JOINING)?;
                if joining.is_none_or(|j| j.body.digest != digest) {
                    return Err(
                        Problem::forbidden("this cloud is in no pact and has not asked to enter this one").into()
                    );
                }
            }
            let after = state.adopt(document, &own, &key).map_err(refused)?;
            let pact = &held(&after)?.pact;
            let mut note = Note::new("pact_changed", "pact", &pact.id).because(format!("serial {}", pact.serial));
            note.reasons.extend(difference(state.current().map(|c| &c.pact), pact));
            if pact.member(&own).is_some() {
                tx.put(PACT, ONLY, &after, Expect::Any)?;
                let proposal = tx.get::<Proposal>(PACT, PROPOSAL)?;
                let serial = proposal.and_then(|p| pumasi_pact::read(p.body.payload.as_bytes()).ok()).map(|p| p.serial);
                if serial.is_some_and(|s| s <= pact.serial) {
                    tx.delete(PACT, PROPOSAL, Expect::Any)?;
                }
                tx.delete(PACT, JOINING, Expect::Any)?;
                let gone =
                    state.current().iter().flat_map(|c| &c.pact.members).filter(|m| pact.member(&m.cloud).is_none());
                used_up(tx, &gone.map(|m| m.cloud.clone()).collect())?;
            } else {
                forget(tx)?;
            }
            tx.journal(note.entry(&actor, clock::wall()))?;
            Ok(true)
        })
        .await?;
    if changed { load(node) } else { Ok(()) }
}

/// Nobody overtook the proposal between its promise and its last signature.
fn still_ours(state: &PactState, document: &SignedDocument) -> Result<(), Problem> {
    let promised = state.promise().is_some_and(|p| p.digest == document.digest());
    let pact = pumasi_pact::read(document.unverified_payload()).map_err(refused)?;
    if promised && pact.parent == Some(held(state)?.digest()) {
        return Ok(());
    }
    Err(overtaken("another change of the pact came first; try again"))
}

/// A member's invitation lets it fetch the pact again until it ends; whoever left needs a new one.
fn used_up(tx: &mut Tx<'_>, gone: &BTreeSet<CloudName>) -> Result<(), TxError> {
    if let Some(open) = tx.get::<Invitations>(INVITATION, ONLY)?.filter(|_| !gone.is_empty()) {
        let mut open = open.body;
        gone.iter().for_each(|cloud| open.finish(cloud));
        tx.put(INVITATION, ONLY, &open, Expect::Any)?;
    }
    Ok(())
}

fn forget(tx: &mut Tx<'_>) -> Result<(), TxError> {
    for (kind, name) in [(PACT, ONLY), (PACT, PROPOSAL), (PACT, JOINING), (INVITATION, ONLY), (INVITATION, INVITED)] {
        tx.delete(kind, name, Expect::Any)?;
    }
    Ok(())
}

/// Brings a complete pact to all others that it names. Those who know it now.
async fn tell(node: &Node, document: &SignedDocument) -> Result<BTreeSet<CloudName>, Problem> {
    let pact = pumasi_pact::read(document.unverified_payload()).map_err(refused)?;
    let bring = |member: Member| async move {
        let body = Signed { document: document.clone() };
        let answer = match anonymous_client(node, &member) {
            Ok(client) => client.put::<Signed>("/v1/pact/current", &body).await.map(|_| ()),
            Err(problem) => Err(CallError::Refused(problem)),
        };
        match answer {
            Ok(()) => Ok(member.cloud),
            // It has gone on from there already.
            Err(CallError::Refused(p)) if p.code == "pact_newer" => Ok(member.cloud),
            Err(e) => Err(format!("{}: {e}", member.cloud)),
        }
    };
    let mut told = BTreeSet::new();
    let mut note = Note::new("pact_not_told", "pact", &pact.id).because("fetched after the next heartbeat");
    for answer in join_all(others(node, &pact).into_iter().map(bring)).await {
        match answer {
            Ok(cloud) => drop(told.insert(cloud)),
            Err(why) => note.reasons.push(why),
        }
    }
    if note.reasons.len() > 1 {
        node.note("daemon", note).await;
    }
    Ok(told)
}

/// A member asks for this cloud's signature under its proposal.
pub async fn sign(node: &Node, from: &CloudName, document: SignedDocument) -> Result<SignAnswer, Problem> {
    may_sign(node)?;
    if !document.signed_by(from) {
        return Err(Problem::new(403, "bad_signature", Fault::Peer, format!("{from} has not signed its own proposal")));
    }
    let first = consider(node, from, document.clone()).await?;
    // Its parent may be a pact that we signed and were not told of.
    if let SignAnswer::Behind { held } = first
        && document.serial() > held
        && catch_up(node, from).await.is_ok()
    {
        return consider(node, from, document).await;
    }
    Ok(first)
}

async fn consider(node: &Node, from: &CloudName, document: SignedDocument) -> Result<SignAnswer, Problem> {
    let (own, actor) = (node.name().clone(), Principal::Peer(from.clone()).to_string());
    let asked = document.clone();
    let refusal = node
        .transact(move |tx| {
            let state = state(tx)?;
            let current = held(&state)?;
            if current.digest() == asked.digest() {
                return Ok(Some(SignAnswer::Signed { document: current.document.clone() }));
            }
            let proposal = tx.get::<Proposal>(PACT, PROPOSAL)?;
            let leaves = |p: &Proposal| p.complete.as_ref().is_some_and(|d| d.digest() != asked.digest());
            if proposal.is_some_and(|p| leaves(&p.body)) {
                return Err(overtaken(format!("{own} is leaving; propose again when it has left")).into());
            }
            let (change, promised) = match state.consider(&asked, &own, &Policy::default()) {
                Ok(fine) => fine,
                Err(PactError::SerialTaken { next, .. }) => return Ok(Some(SignAnswer::Taken { next })),
                Err(PactError::OtherParent { held } | PactError::NotNewer { held, .. }) => {
                    return Ok(Some(SignAnswer::Behind { held }));
                }
                Err(e) => return Err(refused(e).into()),
            };
            if promised != state {
                tx.put(PACT, ONLY, &promised, Expect::Any)?;
                let note = Note::new("pact_signed", "pact", &current.pact.id).because(in_words(&change));
                tx.journal(note.because(format!("serial {}", asked.serial())).entry(&actor, clock::wall()))?;
            }
            Ok(None)
        })
        .await?;
    if let Some(refusal) = refusal {
        return Ok(refusal);
    }
    if document.signed_by(node.name()) {
        return Ok(SignAnswer::Signed { document });
    }
    let document = document.countersign(node.name(), &node.identity.key).map_err(ours)?;
    Ok(SignAnswer::Signed { document })
}

fn in_words(change: &Change) -> String {
    match change {
        Change::Admitted { cloud, sponsors } => {
            let sponsors: Vec<&str> = sponsors.iter().map(CloudName::as_str).collect();
            format!("{cloud} enters, invited by {}", sponsors.join(", "))
        }
        Change::Left { cloud } => format!("{cloud} leaves"),
        Change::Dismissed { cloud } => format!("the others part from {cloud}"),
        Change::Updated { cloud } => format!("{cloud} changes its entry"),
    }
}

/// A complete pact, or this cloud's own proposal with the newcomer's signature, which it then completes.
pub async fn bring(node: &Node, document: SignedDocument) -> Result<SignedDocument, Problem> {
    let state = stored(node)?;
    let who = Principal::Daemon;
    let Some(current) = state.current() else {
        take_over(node, &who, document.clone(), Basis::Told).await?;
        return Ok(document);
    };
    if current.digest() == document.digest() {
        return Ok(current.document.clone());
    }
    let proposed = node.store.get::<Proposal>(PACT, PROPOSAL).map_err(|e| crate::node::store_problem(&e))?;
    let is_ours = |p: &Proposal| p.complete.is_none() && digest(p.payload.as_bytes()) == document.digest();
    if !proposed.is_some_and(|p| is_ours(&p.body)) {
        take_over(node, &who, document.clone(), Basis::Told).await?;
        return Ok(document);
    }
    may_sign(node)?;
    let _one = one_at_a_time(node).await?;
    // While waiting, the same newcomer may have gone through.
    let state = stored(node)?;
    if let Some(same) = state.current().filter(|c| c.digest() == document.digest()) {
        return Ok(same.document.clone());
    }
    still_ours(&state, &document)?;
    pumasi_pact::check_successor(held(&state)?, &document, node.name(), &Policy::default()).map_err(refused)?;
    let full = match collect(node, &document).await {
        Ok(full) => full,
        Err(Stop::Failed(problem)) => {
            abandoned(node, &document, &problem.detail).await;
            return Err(problem);
        }
        Err(Stop::Overtaken { next, why }) => {
            abandoned(node, &document, &why).await;
            step_aside(node, next).await?;
            return Err(overtaken(format!("{why}; ask for admission again")));
        }
    };
    take_over(node, &who, full.clone(), Basis::Ours).await?;
    tell(node, &full).await?;
    Ok(full)
}

/// A member has a newer pact than this cloud.
pub async fn catch_up(node: &Node, peer: &CloudName) -> Result<(), Problem> {
    let client = node.peers.clients.of(node, peer)?.with_timeout(CALL);
    let shown: Shown = client.get("/v1/pact").await.map_err(|e| call_failed(peer, "fetching its pact", e))?;
    take_over_if_newer(node, shown.signed).await
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
    if view.pact.member(node.name()) == Some(&entry) { Ok(()) } else { update(node, who, entry).await }
}

/// Tells the others where this cloud is and which roots it has now. True where that was news.
pub async fn refresh_own_entry(node: &Node) -> Result<bool, Problem> {
    let Some(view) = node.pact() else { return Ok(false) };
    let Some(known) = view.pact.member(node.name()) else { return Ok(false) };
    let entry = own_member(node, known.terms.clone())?;
    if &entry == known {
        return Ok(false);
    }
    if entry.document_key != known.document_key {
        let text = "the pact knows this cloud by another document key: restore trust/document.key, or ask the others to part \
                    from this cloud and enter again";
        return Err(Problem::conflict(text));
    }
    update(node, &Principal::Daemon, entry).await.map(|()| true)
}

/// Nothing of others' runs here, and nothing of ours there.
fn nothing_open(node: &Node) -> Result<(), Problem> {
    let problem = |e: pumasi_store::StoreError| crate::node::store_problem(&e);
    let lent = node.store.list::<LentLease>(LENT).map_err(problem)?;
    let journeys = node.store.list::<Journey>(JOURNEY).map_err(problem)?;
    let lent = lent.iter().filter(|l| l.body.binds()).map(|l| format!("{} (lent)", l.body.id()));
    let open = journeys.iter().filter(|j| j.body.is_open());
    let rented = open.flat_map(|j| &j.body.parts).filter(|p| !p.is_over()).map(|p| format!("{} (rented)", p.lease));
    let all: Vec<String> = lent.chain(rented).collect();
    if all.is_empty() {
        return Ok(());
    }
    let text = format!("leases are open: {}; recall or cancel them, then leave", all.join(", "));
    Err(Problem::new(409, "leases_open", Fault::Input, text))
}

/// With the signatures of all others; the last member just goes.
pub async fn leave(node: &Node, who: &Principal, why: String) -> Result<(), Problem> {
    may_sign(node)?;
    nothing_open(node)?;
    let _one = one_at_a_time(node).await?;
    let view = view(node)?;
    let wish = Note::new("leave_asked", "pact", &view.pact.id);
    node.note(&who.to_string(), if why.is_empty() { wish } else { wish.because(why) }).await;
    if view.pact.members.len() == 1 {
        let (actor, id) = (who.to_string(), view.pact.id.clone());
        node.transact(move |tx| {
            if held(&state(tx)?)?.pact.members.len() > 1 {
                return Err(overtaken("another cloud has just entered; try again").into());
            }
            forget(tx)?;
            tx.journal(
                Note::new("pact_ended", "pact", &id).because("its last member left").entry(&actor, clock::wall()),
            )?;
            Ok(())
        })
        .await?;
        return load(node);
    }
    let document = match leave_begun(node)? {
        Some(document) => document,
        None => {
            let full = propose(node, who, Step::Leave(node.name().clone())).await?;
            keep_leave(node, full.clone()).await?;
            full
        }
    };
    // Whoever has left can tell nobody: one of the others must know it first.
    if tell(node, &document).await?.is_empty() {
        let text = "all have signed, but none could be told; repeat the command to go on from there";
        return Err(Problem::new(503, "peer_unreachable", Fault::Peer, text));
    }
    take_over(node, who, document, Basis::Ours).await
}

/// A leave that all have signed and that still follows from the pact held.
fn leave_begun(node: &Node) -> Result<Option<SignedDocument>, Problem> {
    let proposal = node.store.get::<Proposal>(PACT, PROPOSAL).map_err(|e| crate::node::store_problem(&e))?;
    let complete = proposal.and_then(|p| p.body.complete);
    let state = stored(node)?;
    Ok(complete.filter(|d| still_ours(&state, d).is_ok()))
}

async fn keep_leave(node: &Node, document: SignedDocument) -> Result<(), Problem> {
    let (own, key) = (node.name().clone(), node.identity.key.public().clone());
    node.transact(move |tx| {
        let state = state(tx)?;
        still_ours(&state, &document)?;
        state.adopt(document.clone(), &own, &key).map_err(refused)?;
        let proposal = tx.get::<Proposal>(PACT, PROPOSAL)?.ok_or_else(no_pact)?;
        tx.put(PACT, PROPOSAL, &Proposal { complete: Some(document), ..proposal.body }, Expect::Any)?;
        Ok(())
    })
    .await
}
