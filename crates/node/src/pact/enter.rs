//! Entering: the invitation, the newcomer's side, and the inviter's answer.

use super::adopt::{Basis, take_over};
use super::propose::{Redeem, Step, TRIES, back_off, compare, promise};
use super::{
    JOINING, Joining, LONG_CALL, call_failed, check_terms, connect, may_sign, no_pact, none_held, one_at_a_time, ours,
    own_member, refused, state, stored, view,
};
use crate::node::{Note, store_problem};
use crate::object::{INVITATION, ONLY, PACT};
use crate::wire::{AskAdmission, Signed};
use crate::{Node, clock};
use pumasi_api::message::Invited;
use pumasi_api::{Client, Fault, Principal, Problem};
use pumasi_pact::{Invitation, InvitationError, Invitations, PactError};
use pumasi_store::Expect;
use pumasi_terms::pact::{Member, Terms};
use pumasi_terms::{CloudName, Digest, WallMs};
use pumasi_trust::{PublicKey, Secret, SignedDocument, client_config_pinned, digest, random_bytes};
use serde::{Deserialize, Serialize};

pub(super) const INVITATION_TTL_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// For which cloud each open invitation was made.
pub(super) const INVITED: &str = "clouds";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct InvitedClouds {
    open: Vec<InvitedCloud>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct InvitedCloud {
    secret: Digest,
    cloud: CloudName,
    expires_at: WallMs,
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

/// Whether a caller that shows no certificate proves an open invitation before its body is read.
pub fn is_invited(node: &Node, proof: Option<&http::HeaderValue>) -> bool {
    let secret = proof.and_then(|v| hex::decode(v.as_bytes()).ok()).filter(|secret| secret.len() == 32);
    let Some(named) = secret.map(|secret| digest(&secret)) else { return false };
    let now = clock::wall();
    let open = node.store.get::<InvitedClouds>(INVITATION, INVITED).ok().flatten();
    open.is_some_and(|i| i.body.open.iter().any(|i| i.secret == named && now < i.expires_at))
}

/// As a newcomer: asks the inviter, signs, and brings the signature. May be repeated with the same invitation.
pub async fn join(node: &Node, who: &Principal, token: &str, terms: Terms) -> Result<(), Problem> {
    may_sign(node)?;
    check_terms(&terms)?;
    none_held(&stored(node)?)?;
    let bad = |e: InvitationError| Problem::bad_request(format!("invitation: {e}"));
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
    let client = client.with_invitation(&hex::encode(invitation.secret.expose()));
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

pub(super) async fn enter(
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
    match take_over(node, who, answer.document, Basis::Told).await {
        // The inviter told it on another way meanwhile, and the members have gone on from there.
        Err(p) if p.code == "pact_newer" => Ok(()),
        result => result,
    }
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
    let stored_open = node.store.get::<Invitations>(INVITATION, ONLY).map_err(|e| store_problem(&e))?;
    let mut open = stored_open.map(|s| s.body).unwrap_or_default();
    let now = clock::wall();
    open.redeem(&probe.secret, &probe.cloud, &probe.kid, now).map_err(|e| forbidden(e.to_string()))?;
    let invited = node.store.get::<InvitedClouds>(INVITATION, INVITED).map_err(|e| store_problem(&e))?;
    let named = digest(&probe.secret);
    if !invited.is_some_and(|i| i.body.open.iter().any(|i| i.secret == named && i.cloud == probe.cloud)) {
        return Err(forbidden(format!("the invitation was not made for {}", probe.cloud)));
    }
    let _one = one_at_a_time(node).await?;
    // Entered by an earlier try whose answer was lost: until it knows, it cannot answer `compare`.
    if let Some(known) = member_already(node, &member.cloud, &redeem.kid)? {
        return Ok(known);
    }
    compare(node, None).await?;
    if let Some(known) = member_already(node, &member.cloud, &redeem.kid)? {
        return Ok(known);
    }
    promise(node, &Principal::Stranger, Step::Admit(Box::new(member)), Some(redeem)).await
}

/// The pact in force where it names this newcomer, with the key that it shows.
fn member_already(node: &Node, cloud: &CloudName, kid: &str) -> Result<Option<SignedDocument>, Problem> {
    let view = view(node)?;
    if view.pact.member(cloud).is_none() {
        return Ok(None);
    }
    match view.keys.get(cloud) {
        Some(key) if key.kid() == kid => Ok(Some(view.signed.clone())),
        _ => Err(refused(PactError::NameTaken(cloud.clone()))),
    }
}
