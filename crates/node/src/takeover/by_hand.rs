//! A person takes over what is kept ready here for a cloud that is gone, where nobody votes on it: a pact of two cannot tell a dead
//! partner from a cut link, and a person can.
//!
//! Enters: an operator's word that nothing of the other cloud runs, what that cloud answers. Leaves: services of this cloud's own, each
//! with a signed word under an epoch far above the other's.
//! Always holds: never where the pact votes, never while the other cloud's daemon or gateway answers; each service is taken in one
//! transaction, and what cannot be taken stays a standby.

use crate::lender::{self, heir};
use crate::node::Note;
use crate::object::ServiceRecord;
use crate::{Node, clock};
use pumasi_api::message::{TakeOver, TakenOver};
use pumasi_api::{CallError, Problem};
use pumasi_engine::InstanceState;
use pumasi_lease::LentLease;
use pumasi_lease::takeover::{KIND, SIGNED_AS, Takeover};
use pumasi_terms::pact::Member;
use pumasi_terms::{API_VERSION, CloudName, FieldError, Serial, WallMs};
use pumasi_trust::{ExpectPeer, SignedDocument, SpiffeId, client_config_anonymous};
use rustls::pki_types::ServerName;
use std::time::Duration;

/// Nothing was heard, so often, so far apart, each time for so long.
const ASKED: u32 = 3;
const APART: Duration = Duration::from_millis(500);
const WITHIN: Duration = Duration::from_secs(1);
/// A process that began so lately has not heard everybody yet, ms.
const YOUNG_MS: u64 = 60_000;

/// Everything that is kept ready here for that cloud, or one service of it.
pub async fn take_over(node: &Node, who: &str, asked: TakeOver) -> Result<Vec<TakenOver>, Problem> {
    let view = lender::pact(node)?;
    let lost = view.pact.member(&asked.lost).filter(|m| &m.cloud != node.name());
    let lost = lost.cloned().ok_or_else(|| Problem::not_found("other member", &asked.lost))?;
    if !asked.fenced {
        let problem = format!("nothing is taken over before somebody says that nothing of {} runs", lost.cloud);
        return Err(Problem::fields(
            "no word about the other cloud",
            vec![FieldError { field: "fenced".into(), problem }],
        ));
    }
    node.may_act().map_err(Problem::unavailable)?;
    if node.voting.is_on() {
        let text = format!("the pact's voters say who owns its services, and whether {} is lost", lost.cloud);
        return Err(Problem::conflict(format!("{text}; pumasi pact show tells how it stands")));
    }
    let mut seats: Vec<_> = lender::lents(node)?;
    seats.retain(|l| l.lease.borrower == lost.cloud && l.standby().is_some() && l.usable());
    seats.retain(|l| asked.service.as_ref().is_none_or(|s| s == &l.lease.service));
    if seats.is_empty() {
        return Err(Problem::conflict(format!("nothing of {} that was asked for is kept ready here", lost.cloud)));
    }
    is_silent(node, &lost).await?;
    let mut done = Vec::new();
    for lent in seats {
        let taken = one(node, who, &lent, &asked).await;
        let service = lent.lease.service.clone();
        done.push(match taken {
            Ok(said) => TakenOver { service, epoch: Some(said.epoch), problem: String::new() },
            Err(e) => TakenOver { service, epoch: None, problem: e.to_string() },
        });
    }
    node.wake.notify_one();
    Ok(done)
}

/// Its daemon and its gateway, as users and partners would reach them.
async fn is_silent(node: &Node, lost: &Member) -> Result<(), Problem> {
    let answers = |what: &str| {
        let text = format!("{what} of {} answers: it lives, and two clouds would own its services", lost.cloud);
        Err(Problem::conflict(format!("{text}; stop it, or let them be moved (pumasi move)")))
    };
    for n in 0..ASKED {
        if n > 0 {
            tokio::time::sleep(APART).await;
        }
        let client = node.peers.clients.of(node, &lost.cloud).map_err(|e| Problem::ours(e.to_string()))?;
        let said: Result<serde_json::Value, CallError> = client.with_timeout(WITHIN).get("/v1/pact").await;
        if said.as_ref().map_or_else(|e| e.problem().is_some(), |_| true) {
            return answers("the daemon");
        }
        if tokio::time::timeout(WITHIN, greets(node, lost)).await.unwrap_or(false) {
            return answers("the gateway");
        }
    }
    Ok(())
}

/// Whether somebody speaks TLS where its gateway was: that a connection opens says nothing, a proxy in front may live.
async fn greets(node: &Node, lost: &Member) -> bool {
    let expect = ExpectPeer::Exactly(SpiffeId::gateway(&lost.cloud));
    let tls = client_config_anonymous(node.identity.trust.clone(), expect, &[b"http/1.1"]);
    let (Ok(tls), Ok(name)) = (tls, ServerName::try_from("gateway.invalid")) else { return false };
    let Ok(stream) = tokio::net::TcpStream::connect(&lost.gateway_address).await else { return false };
    match tokio_rustls::TlsConnector::from(tls).connect(name, stream).await {
        Ok(_) => true,
        // It answered, only not as its gateway would.
        Err(e) => e.kind() == std::io::ErrorKind::InvalidData,
    }
}

async fn one(node: &Node, who: &str, lent: &LentLease, asked: &TakeOver) -> Result<Takeover, Problem> {
    let (dossier, _) = heir::kept(node, lent)?;
    let said = Takeover {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        id: dossier.id.clone(),
        service: lent.lease.service.clone(),
        from: lent.lease.borrower.clone(),
        from_epoch: dossier.epoch,
        to: node.name().clone(),
        epoch: Takeover::epoch_after(dossier.epoch),
        lease: lent.id().clone(),
        asked_by: who.to_owned(),
        why: asked.why.clone(),
        created_at: clock::wall(),
    };
    let payload = serde_json::to_vec(&said).map_err(|e| Problem::ours(e.to_string()))?;
    let signed = SignedDocument::sign_new(&payload, SIGNED_AS, node.name(), Serial(said.epoch.0), &node.identity.key)
        .map_err(|e| Problem::ours(e.to_string()))?;
    let entry = heir::Entry {
        id: said.id.clone(),
        service: said.service.clone(),
        from: said.from.clone(),
        to: said.to.clone(),
        epoch: said.epoch,
        lease: said.lease.clone(),
        registered: false,
        rescued: true,
    };
    let note = Note::new("tenure_taken", "service", &said.service).because(in_words(&said));
    heir::enter(node, lent, entry, note, Some(signed)).await?;
    tracing::error!(service = %said.service, from = %said.from, epoch = %said.epoch, %who, why = %said.why,
        "a service is taken over by hand: if its former cloud serves all the same, there are two owners until it hears of this");
    node.moves.opens_here(&said.service);
    Ok(said)
}

/// For the journals of both.
pub fn in_words(said: &Takeover) -> String {
    format!(
        "{} owns it at epoch {}: {} answers for it that nothing of {} runs ({})",
        said.to, said.epoch, said.asked_by, said.from, said.why
    )
}

/// Whether the former owner gives way to somebody who says so. One that serves its users was not gone, whoever signs that it was: a
/// member that lies gets nothing by it, and one that is mistaken is told by its partner's operator.
pub fn may_be_believed(agreed: bool, served_all_along: bool) -> Result<(), &'static str> {
    match (agreed, served_all_along) {
        (false, _) => Err("no standby there was agreed with it"),
        (true, true) => Err("this cloud serves it"),
        (true, false) => Ok(()),
    }
}

/// Whether this cloud served it before this process heard of anything. What it started itself a moment ago, because the other cloud was
/// not heard in time, is no proof that it was never gone.
pub fn served_all_along(node: &Node, service: &ServiceRecord) -> bool {
    let owner = service.owner();
    let began = node.takeover.since.get().unwrap_or_else(clock::boot);
    let age_ms = clock::boot().since(began);
    let began = WallMs(clock::wall().0.saturating_sub_unsigned(age_ms));
    let instances = node.instances.lock();
    let mut ready = instances.iter().filter(|i| i.owner == owner && i.state == InstanceState::Ready);
    ready.any(|i| is_from_before(i.started_at, began, age_ms))
}

fn is_from_before(started_at: Option<WallMs>, began: WallMs, age_ms: u64) -> bool {
    age_ms >= YOUNG_MS || started_at.is_none_or(|at| at < began)
}

/// Told once of each member that says so: it says it again with every heartbeat, and may sign as many of them as it likes.
pub async fn refused(node: &Node, said: &Takeover, why: &'static str) {
    let first = node.takeover.disbelieved.lock().insert((said.id.clone(), said.to.clone()));
    if !first {
        return;
    }
    let text = format!(
        "{} says that it took {} over by hand: {why}, so it is not believed; two clouds take requests for it until one of both operators ends that",
        said.to, said.service
    );
    tracing::error!(service = %said.service, epoch = %said.epoch, "{text}");
    node.note("daemon", Note::new("takeover_disbelieved", "service", &said.service).because(text)).await;
}

/// Whether the former owner agreed that the service may live there: by the lease that both signed.
pub fn was_agreed(node: &Node, said: &Takeover) -> Result<bool, Problem> {
    let signed = node.item::<SignedDocument>(crate::object::SIGNED_LEASE, said.lease.as_str())?;
    let Some(signed) = signed else { return Ok(false) };
    let lease: pumasi_lease::Lease = serde_json::from_slice(signed.unverified_payload())
        .map_err(|e| Problem::ours(format!("a signed lease: {e}")))?;
    let parties: (&CloudName, &CloudName) = (&lease.lender, &lease.borrower);
    Ok(parties == (&said.to, node.name()) && lease.service == said.service && lease.requirement.standby.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloud_that_serves_gives_way_to_nobodys_word() {
        assert!(may_be_believed(true, false).is_ok());
        for (agreed, serves) in [(true, true), (false, false), (false, true)] {
            assert!(may_be_believed(agreed, serves).is_err(), "{agreed} {serves}");
        }
        let served = |started: Option<i64>, age_ms| is_from_before(started.map(WallMs), WallMs(1_000), age_ms);
        assert!(served(Some(999), 5), "the process before this one served");
        assert!(served(None, 5), "nobody knows");
        assert!(!served(Some(1_200), 5_500), "its partner was not heard in time");
        assert!(served(Some(1_200), YOUNG_MS), "it is too late to hear of it");
    }
}
