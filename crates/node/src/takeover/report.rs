//! What a cloud says when it is asked about one that is silent: whether it heard it, and what it could take over from it.
//!
//! Enters: a question of a voter. Leaves: a signed attestation where there is one to give, a report of room and copies.
//! Always holds: it is as of now, and binds nobody; version 1, and told: what a later version adds is passed over.

use super::room;
use crate::{Node, clock, lender};
use pumasi_api::Problem;
use pumasi_lease::LentLease;
use pumasi_ownership::command::ATTESTATION_KIND;
use pumasi_ownership::recover::{GivesWay, Report};
use pumasi_terms::{CloudName, Position, Resources, Serial, ServiceId};
use pumasi_trust::SignedDocument;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `POST /v1/pacts/{id}/silence`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskSilence {
    /// The voting that this is about.
    pub since: Serial,
    pub cloud: CloudName,
    pub nonce: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Silence {
    /// Whether it is a voter, and the cloud was silent for long enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<SignedDocument>,
    #[serde(default)]
    pub free: Resources,
    #[serde(default)]
    pub whole: Resources,
    #[serde(default)]
    pub stopped: bool,
    /// What it keeps of the cloud's services, ready to be taken over.
    #[serde(default)]
    pub copies: BTreeMap<ServiceId, Position>,
    /// What would make room, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gives_way: Vec<GivesWay>,
}

impl Silence {
    pub fn report(&self) -> Report {
        Report {
            free: self.free,
            whole: Some(self.whole),
            stopped: self.stopped,
            copies: self.copies.clone(),
            gives_way: self.gives_way.clone(),
        }
    }
}

/// As of now.
pub fn silence(node: &Node, asked: &AskSilence) -> Result<Silence, Problem> {
    let attestation = node.voting.attest(&asked.cloud, asked.nonce, clock::boot());
    // Voters verify it with the keys of that serial.
    let serial = node.voting.state().map_or(Serial(0), |s| s.voting.serial);
    let sign = |said| {
        let payload = serde_json::to_vec(&said).map_err(|e| Problem::ours(e.to_string()))?;
        SignedDocument::sign_new(&payload, ATTESTATION_KIND, node.name(), serial, &node.identity.key)
            .map_err(|e| Problem::ours(e.to_string()))
    };
    let attestation = attestation.map(sign).transpose()?;
    let (seats, reserved) = seats(node, &asked.cloud)?;
    let services = node.services()?;
    // What is kept ready for that cloud is what its services would be taken over with.
    let used = lender::home_use(node, &services).plus(lender::lent_use(node)?).minus(reserved);
    let whole = node.config.physical();
    let free = whole.minus(used);
    Ok(Silence {
        attestation,
        free,
        whole,
        stopped: node.automation_stopped() || node.may_act().is_err(),
        copies: seats,
        gives_way: room::report(node, &asked.cloud, used.minus(whole))?,
    })
}

/// Services of a cloud that could be taken over here, with their copies' positions, and the room that is kept for them. Also those that it
/// was given by the register and has not taken: they are kept here for the owner before it.
fn seats(node: &Node, of: &CloudName) -> Result<(BTreeMap<ServiceId, Position>, Resources), Problem> {
    let (mut seats, mut reserved) = (BTreeMap::new(), Resources::default());
    let (lents, state) = (lender::lents(node)?, node.voting.state());
    let owns = |id: &ServiceId| state.as_ref().is_some_and(|s| s.services.get(id).is_some_and(|o| &o.owner == of));
    for lent in lents.iter().filter(|l| l.standby().is_some() && l.usable()) {
        let (seat, own) = (seat(node, lent), &lent.lease.borrower == of);
        if !own && !seat.as_ref().is_some_and(|(id, _)| owns(id)) {
            continue;
        }
        reserved = reserved.plus(lent.lease.requirement.resources.times(lent.lease.instances));
        seats.extend(seat);
    }
    Ok((seats, reserved))
}

fn seat(node: &Node, lent: &LentLease) -> Option<(ServiceId, Position)> {
    let (dossier, _) = lender::heir::kept(node, lent).ok()?;
    let held = node.copies.positions_of(lent.id());
    let least = dossier.service.spec.datasets.iter().map(|set| held.get(&set.name).copied().unwrap_or_default()).min();
    Some((dossier.id, least.unwrap_or_default()))
}
