//! What the clouds that keep a service ready are told of it, signed by this one.
//!
//! Always holds: it is made from the store, and from a digest of the service's keys, so that the same state gives the same bytes; it goes to standbys only.

use super::acts::{client_on, lease_of, signed_lease};
use crate::object::{SERVICE, ServiceRecord};
use crate::{Node, keys, wire};
use pumasi_api::{CallError, Problem};
use pumasi_journey::{Event, Journey, Part};
use pumasi_lease::dossier::{Dossier, KIND, SIGNED_AS, Seat};
use pumasi_terms::{API_VERSION, Digest, Serial, ServiceName};
use pumasi_trust::SignedDocument;
use std::sync::Arc;

/// All clouds that keep it ready, or help it meanwhile, in order.
fn seats(open: &[Arc<Journey>], service: &ServiceName) -> Vec<Seat> {
    let kept = |p: &&Part| p.standby.is_some() && p.is_hopeful() && p.is_complete();
    let own = open.iter().filter(|j| &j.service == service).flat_map(|j| &j.parts).filter(kept);
    let mut seats: Vec<Seat> = own.map(|p| Seat { cloud: p.lender.clone(), lease: p.lease.clone() }).collect();
    seats.sort_by(|a, b| (&a.cloud, &a.lease).cmp(&(&b.cloud, &b.lease)));
    seats
}

fn bytes(node: &Node, service: &ServiceRecord, open: &[Arc<Journey>]) -> Result<Vec<u8>, Problem> {
    let dossier = Dossier {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        owner: node.name().clone(),
        epoch: service.epoch,
        id: service.id.clone(),
        customer: service.customer.clone(),
        service: service.document.clone(),
        generation: service.generation,
        seats: seats(open, service.name()),
        entrances: service.entrances.clone(),
        keys: keys::package(node, service)?.map(|packed| packed.digest),
    };
    serde_json::to_vec(&dossier).map_err(|e| Problem::ours(e.to_string()))
}

/// Of what the seats must know now; none where it cannot be made.
pub fn digest(node: &Node, service: &ServiceRecord, open: &[Arc<Journey>]) -> Option<Digest> {
    bytes(node, service, open).ok().map(|bytes| pumasi_transfer::digest_of(&bytes))
}

pub(super) async fn send(node: &Node, journey: &Journey, part: &Part, wanted: Digest) -> Result<Vec<Event>, Problem> {
    let service = node
        .get::<ServiceRecord>(SERVICE, journey.service.as_str())?
        .ok_or_else(|| Problem::not_found("service", &journey.service))?;
    // Read before what it stands for, so that of two that are under way at a time the newer has the higher serial.
    let serial = Serial(node.store.revision().0);
    let bytes = bytes(node, &service, &node.open_journeys()?)?;
    if pumasi_transfer::digest_of(&bytes) != wanted {
        return Err(Problem::conflict("it has changed meanwhile; that one is sent"));
    }
    let document = SignedDocument::sign_new(&bytes, SIGNED_AS, node.name(), serial, &node.identity.key)
        .map_err(|e| Problem::ours(e.to_string()))?;
    let path = format!("/v1/leases/{}/dossier", part.lease);
    let client = client_on(node, journey, part)?;
    let failed = |e: CallError| Problem::unavailable(e.to_string());
    let mut sealed = None;
    if let Some(packed) = keys::package(node, &service)? {
        let key = client.get(&format!("/v1/leases/{}/sealing-key", part.lease)).await.map_err(failed)?;
        let lease = signed_lease(node, &part.lease)?.map_or_else(|| lease_of(node, journey, part), Ok)?;
        sealed = Some(keys::seal(&packed, &lease, &wanted, &key)?);
    }
    let sent: Result<(), CallError> = client.put(&path, &wire::Inform { document, keys: sealed }).await;
    sent.map_err(failed)?;
    Ok(vec![Event::Informed { lease: part.lease.clone(), dossier: wanted }])
}
