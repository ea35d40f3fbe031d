//! Certificates that are read again while everybody is served.
//!
//! Enters: SIGHUP, an operator's word, a look every half minute. Leaves: what is shown from now on, a line each for people.
//! Always holds: what was in force stays so until what replaces it reads whole and fits; nothing ends for it.

use crate::{Node, gateway};
use pumasi_api::Problem;
use pumasi_api::message::ReloadDone;

/// Reads all of them again. What the operator's configuration says beside certificates holds from the next start on.
pub async fn all(node: &Node) -> Result<ReloadDone, Problem> {
    let mut done = ReloadDone::default();
    if let Some(own) = node.people_certificate.get() {
        let changed = own.reload().map_err(|e| Problem::conflict(format!("{e}; the one from before is shown")))?;
        if changed { &mut done.changed } else { &mut done.same }.push(format!("api.certificate: {own}"));
    }
    node.identity.renew().map_err(Problem::ours)?;
    look(node);
    if let Some(why) = node.gateway_down.get() {
        // It reads them when it starts.
        done.same.push(format!("the gateway is down and reads them when it comes up: {why}"));
        return Ok(done);
    }
    let read = node.gateway.reload_identity().await;
    let read = read.map_err(|e| Problem::conflict(format!("{e}; those from before are shown")))?;
    let of_gateway = |line: String| format!("gateway.tls_certificate: {line}");
    done.changed.extend(read.changed.into_iter().map(of_gateway));
    done.same.extend(read.same.into_iter().map(of_gateway));
    Ok(done)
}

/// At SIGHUP, where nobody waits for an answer.
pub async fn at_signal(node: &Node) {
    match all(node).await {
        Ok(done) => tracing::info!(changed = ?done.changed, same = ?done.same, "certificates were read again"),
        Err(e) => tracing::warn!(error = %e, "certificates were not read again"),
    }
}

/// Whether those that are, or would be, shown are in order; and people's own where its files changed. The gateway looks after its own.
pub fn look(node: &Node) {
    if let Some(own) = node.people_certificate.get() {
        match own.reload_if_changed() {
            Ok(false) => {}
            Ok(true) => tracing::info!(certificate = %own, "the certificate of the API has changed and was read again"),
            Err(e) => {
                tracing::warn!(error = %e, "the certificate of the API has changed and is of no use; the one from before is shown")
            }
        }
    }
    let found = node.config.wrong_certificates().into_iter().next();
    let trouble = found.map(|(field, why)| format!("{field}: {why}"));
    let before = std::mem::replace(&mut *node.certificate_trouble.lock(), trouble.clone());
    match trouble {
        Some(why) if before.as_ref() != Some(&why) => tracing::error!(%why, "a certificate is of no use to users"),
        None if before.is_some() => tracing::info!("certificates are in order again"),
        _ => {}
    }
}

/// What people who use this cloud do not get, a reason each.
pub fn degraded(node: &Node) -> Vec<String> {
    let certificate = node.certificate_trouble.get();
    gateway::trouble(node).into_iter().chain(certificate).chain(node.health.problem()).collect()
}
