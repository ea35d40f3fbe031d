//! A request of another cloud's gateway: for a lease that we serve, homeward for a service that we own, or from a cloud that is
//! an entrance of one ([`entrance`]).
//!
//! Always holds: only a gateway that the table names gets here; it reaches only leases of its own cloud, or services of
//! ours that it holds a lease of or is an entrance of; nothing is passed on to a third cloud.

use crate::admission::{By, Want};
use crate::answer;
use crate::body::AnswerBody;
use crate::entrance;
use crate::forward::{self, Task};
use crate::gateway::Worker;
use crate::headers;
use crate::link::Link;
use crate::public::{self, From, Via};
use crate::upgrade;
use http::header::{HOST, HeaderName, VIA};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use pumasi_terms::method;
use pumasi_terms::service::RouteMode;
use pumasi_terms::{CloudName, Epoch, LeaseId, ServiceName};
use pumasi_trust::SpiffeId;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Between gateways: the position that the answer to a write gave out, `generation.as_of_ms`.
pub const POSITION: HeaderName = HeaderName::from_static("pumasi-position");

pub async fn serve(
    worker: Arc<Worker>,
    link: Arc<Link>,
    peer: Arc<SpiffeId>,
    mut request: Request<Incoming>,
) -> Response<AnswerBody> {
    let _busy = link.busy();
    worker.gateway.meter.stir();
    // Over HTTP/2 the host is in the target.
    if request.version() == Version::HTTP_2
        && let Ok(host) = public::host_of(&request)
    {
        request.headers_mut().insert(HOST, host);
    }
    // The connection may be older than the table in force.
    if !worker.gateway.peers.allows(&peer) {
        return answer::refused(StatusCode::FORBIDDEN, "not-a-member");
    }
    let text = |name: HeaderName| request.headers().get(name).and_then(|v| v.to_str().ok());
    if text(answer::HOP) != Some("1") {
        return answer::refused(StatusCode::LOOP_DETECTED, "hops");
    }
    if !speaks_our(text(answer::PROTOCOL)) {
        return answer::refused(StatusCode::BAD_REQUEST, "protocol");
    }
    let lease = text(answer::LEASE).and_then(|l| LeaseId::parse(l).ok());
    let service = text(answer::SERVICE).and_then(|s| ServiceName::parse(s).ok());
    let epoch = text(answer::EPOCH).and_then(|e| e.parse::<u64>().ok());
    let (Some(service), Some(epoch)) = (service, epoch) else {
        return answer::refused(StatusCode::BAD_REQUEST, "malformed");
    };
    if text(answer::ENTRANCE) == Some("1") {
        let what = (&service, Epoch(epoch));
        return entrance::receive(&worker, &link, peer.trust_domain(), what, request).await;
    }
    let Some(lease) = lease else { return answer::refused(StatusCode::BAD_REQUEST, "malformed") };
    if request.headers().contains_key(answer::HOMEWARD) {
        return homeward(&worker, &link, peer.trust_domain(), &lease, &service, epoch, request).await;
    }
    serve_lease(&worker, &link, peer.trust_domain(), &lease, &service, epoch, request).await
}

/// What a request says on its way to another cloud's gateway.
pub fn set_hop(fields: &mut HeaderMap, by: &By, service: &ServiceName, epoch: Epoch) {
    let text = |t: &str| HeaderValue::from_str(t).unwrap_or(HeaderValue::from_static(""));
    let one = HeaderValue::from_static("1");
    let (lease, kind, epoch) = match by {
        By::Lease(lease) => (Some(lease), None, epoch),
        By::Homeward(lease) => (Some(lease), Some(answer::HOMEWARD), epoch),
        // A request that waited for a place while the table changed goes by the later one.
        By::Entrance(owned_at) => (None, Some(answer::ENTRANCE), *owned_at),
    };
    if let Some(lease) = lease {
        fields.insert(answer::LEASE, text(lease.as_str()));
    }
    if let Some(kind) = kind {
        fields.insert(kind, one.clone());
    }
    fields.insert(answer::SERVICE, text(service.as_str()));
    fields.insert(answer::EPOCH, HeaderValue::from(epoch.0));
    fields.insert(answer::HOP, one);
    fields.insert(answer::PROTOCOL, HeaderValue::from(answer::PROTOCOL_VERSION));
}

/// Clouds do not upgrade on one day: neighbouring versions understand each other. One that names none speaks the first.
fn speaks_our(version: Option<&str>) -> bool {
    let version = version.map_or(Ok(1), str::parse::<u32>);
    version.is_ok_and(|v| v > 0 && v.abs_diff(answer::PROTOCOL_VERSION) <= 1)
}

async fn serve_lease(
    worker: &Arc<Worker>,
    link: &Arc<Link>,
    peer: &CloudName,
    lease: &LeaseId,
    service: &ServiceName,
    epoch: u64,
    mut request: Request<Incoming>,
) -> Response<AnswerBody> {
    let live = worker.gateway.tables.live();
    let Some(here) = live.leases.get(lease) else { return answer::refused(StatusCode::GONE, "no-such-lease") };
    if here.route.borrower != *peer || here.route.service != *service {
        return answer::refused(StatusCode::FORBIDDEN, "not-your-lease");
    }
    if here.expired() {
        return answer::refused(StatusCode::GONE, "expired");
    }
    if here.route.epoch.0 != epoch {
        return answer::refused(StatusCode::CONFLICT, "epoch");
    }
    let home_only = headers::under_prefix(request.uri().path(), &here.route.home_only);
    let safe = method::is_safe_or(request.method().as_str(), &here.route.safe_methods);
    if home_only || !safe || upgrade::is_asked_for(&request) {
        return answer::refused(StatusCode::FORBIDDEN, "home-only");
    }
    let bounds = &here.route.admission;
    let less_important = headers::is_less_important(request.uri().path(), request.headers(), &bounds.less_important);
    headers::strip_ours(request.headers_mut());
    request.headers_mut().append(VIA, worker.gateway.via.clone());
    let task = Task {
        service,
        protocol: here.route.protocol,
        epoch: here.route.epoch,
        admission: &here.admission,
        want: Want { hasty: true, less_important, ..Want::default() },
        answer_timeout_ms: bounds.answer_timeout_ms,
        body_bytes_max: bounds.body_bytes_max,
        user_rtt_us: None,
        for_peer: true,
        refuse_when_full: true,
        writes: false,
        pass: None,
        still_ours: &|| true,
        kept: None,
        gated: false,
        link,
    };
    forward::forward(worker, task, request).await.answer
}

async fn homeward(
    worker: &Arc<Worker>,
    link: &Arc<Link>,
    peer: &CloudName,
    lease: &LeaseId,
    service: &ServiceName,
    epoch: u64,
    mut request: Request<Incoming>,
) -> Response<AnswerBody> {
    let live = worker.gateway.tables.live();
    let Some(service) = live.services.get(service) else {
        return answer::refused(StatusCode::GONE, "no-such-service");
    };
    if !service.route.leases.iter().any(|l| l.lease == *lease && l.cloud == *peer) {
        return answer::refused(StatusCode::FORBIDDEN, "not-your-lease");
    }
    if service.route.epoch.0 != epoch {
        return answer::refused(StatusCode::CONFLICT, "epoch");
    }
    // Only an alias has users of its own to send home; in `proxy` mode all of them come to us.
    if service.route.mode != RouteMode::Redirect {
        return answer::refused(StatusCode::FORBIDDEN, "not-redirected");
    }
    let fields = request.headers_mut();
    let (address, _) = user_of(fields);
    headers::strip_forged(fields, service.route.underscored_fields);
    mark_told(fields, address, "https", peer);
    let from = From { address, rtt_us: None, via: Via::Alias, scheme: "https", link };
    let (mut answer, given) = public::serve_service(worker, service, from, request).await;
    if let Some(at) = given
        && let Ok(value) = HeaderValue::try_from(at.to_string())
    {
        answer.headers_mut().insert(POSITION, value);
    }
    answer
}

/// Whom the peer's gateway serves, and how its user came there.
pub fn user_of(fields: &HeaderMap) -> (IpAddr, &'static str) {
    let address = headers::forwarded_for(fields).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let is_plain = fields.get(headers::FORWARDED_PROTO).is_some_and(|scheme| scheme.as_bytes() == b"http");
    (address, if is_plain { "http" } else { "https" })
}

/// The user's address is the peer's word: one address and no list, and whose word it is.
pub fn mark_told(fields: &mut HeaderMap, address: IpAddr, scheme: &'static str, peer: &CloudName) {
    let host = fields.get(HOST).cloned();
    let forwarded = host.as_ref().and_then(|host| headers::forwarded_by(address, scheme, host, Some(peer.as_str())));
    let client = HeaderValue::try_from(address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
    headers::put_forwarded(fields, &client, scheme, host, forwarded);
}

#[cfg(test)]
mod tests {
    use super::speaks_our;
    use crate::answer::PROTOCOL_VERSION;

    #[test]
    fn neighbouring_versions_are_let_in() {
        let said = |v: u32| speaks_our(Some(&v.to_string()));
        assert!(said(PROTOCOL_VERSION) && said(PROTOCOL_VERSION + 1));
        assert!(!said(PROTOCOL_VERSION + 2) && !said(0) && !speaks_our(Some("x")) && !speaks_our(Some("")));
        assert_eq!(speaks_our(None), said(1), "one that names none speaks version 1");
    }
}
