//! Whether a cloud has a certificate for a host: asked before a service is moved there.
//!
//! Enters: what the operator, the customer and the service's owner put where the certificates of a cloud are. Leaves: the hosts for which
//! none of them is of use now, and a sentence about it for whoever wants to move.

use crate::keys;
use crate::object::ServiceRecord;
use crate::wire::HandoverState;
use crate::{Node, clock, lender};
use pumasi_api::{CallError, Problem};
use pumasi_journey::Part;
use pumasi_lease::LentLease;
use pumasi_lease::dossier::Dossier;
use pumasi_terms::CloudName;
use pumasi_trust::check_certificate;
use std::time::Duration;

/// For the heir's word: somebody waits for a dry run.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// Hosts of a service that is kept ready here for which this cloud has no certificate that users would accept.
pub fn missing(node: &Node, lent: &LentLease) -> Result<Vec<String>, Problem> {
    let Some(dossier) = lender::dossier::of(node, lent.id())? else { return Ok(lent.lease.hosts.clone()) };
    let own = own_pem(node, lent, &dossier)?;
    Ok(without(node, &dossier, own.as_ref()))
}

/// The same for an entrance, which opens no package: what came sealed is for whoever owns the service.
pub fn missing_at_entrance(node: &Node, dossier: &Dossier) -> Result<Vec<String>, Problem> {
    let own = match &dossier.service.spec.tls {
        Some(tls) => keys::pem(node, &dossier.customer, &tls.secret)?,
        None => None,
    };
    Ok(without(node, dossier, own.as_ref()))
}

fn without(node: &Node, dossier: &Dossier, own: Option<&String>) -> Vec<String> {
    let listeners = match node.config.gateway.listen_tls.is_empty() {
        true => None,
        false => node.config.gateway.tls_certificate.as_ref().and_then(|path| std::fs::read_to_string(path).ok()),
    };
    let shown = |host: &&String| {
        // What the service has of its own is shown, also where the listener's would be better.
        let pem = own.filter(|_| listeners.is_some()).or(listeners.as_ref());
        pem.is_some_and(|pem| check_certificate(pem, &[host.as_str()], clock::wall()).is_ok())
    };
    dossier.service.spec.hosts.iter().filter(|h| !shown(h)).cloned().collect()
}

fn own_pem(node: &Node, lent: &LentLease, dossier: &Dossier) -> Result<Option<String>, Problem> {
    let Some(tls) = &dossier.service.spec.tls else { return Ok(None) };
    let came = keys::kept(node, lent, dossier.keys)?.and_then(|package| package.tls);
    match came {
        Some(pem) => Ok(Some(pem)),
        None => keys::pem(node, &dossier.customer, &tls.secret),
    }
}

/// What becomes of HTTPS, for whoever wants to move; `kept`: where it is ready at the heir already.
pub async fn told(node: &Node, service: &ServiceRecord, to: &CloudName, kept: Option<&Part>) -> String {
    let lead = format!("its host names lead here until DNS names {to}");
    match (asked(node, service, to, kept).await, &service.document.spec.tls) {
        (Some(none), _) if none.is_empty() => format!("{lead}; {to} has a certificate for each of them"),
        (Some(some), _) => {
            format!("{lead}; {to} has no certificate for {}: one is put there by a person", some.join(", "))
        }
        (None, Some(tls)) if tls.travels => {
            format!("{lead}; the certificate in secret {} goes along, sealed", tls.secret)
        }
        (None, _) => format!("{lead}; certificates for them are put there by a person"),
    }
}

async fn asked(node: &Node, service: &ServiceRecord, to: &CloudName, kept: Option<&Part>) -> Option<Vec<String>> {
    let lease = &kept?.lease;
    let client = node.peers.clients.of(node, to).ok()?.with_timeout(ASK_TIMEOUT).at_epoch(service.epoch);
    let state: Result<HandoverState, CallError> = client.get(&format!("/v1/leases/{lease}/handover")).await;
    state.ok()?.uncertified
}
