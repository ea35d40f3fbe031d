//! An entrance: a cloud whose users come in here, while another one owns the service.
//!
//! Enters: users' requests for a service at whose front this cloud stands; at the owner, what such a cloud sends. Leaves: the
//! owner's answers, or that the service has moved. Always holds: whatever its method, a request is served by instances of the
//! owner alone, one hop from where it came in; who is not named in the owner's table gets no further; nothing is sent twice
//! that may write.

use crate::admission::Want;
use crate::answer;
use crate::body::AnswerBody;
use crate::forward::{self, Task};
use crate::gateway::Worker;
use crate::headers;
use crate::link::Link;
use crate::peer;
use crate::public::{self, From, Via};
use crate::table::Service;
use http::header::VIA;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use pumasi_route::table::{Absent, Role};
use pumasi_terms::{CloudName, Epoch, ServiceName};
use std::sync::Arc;
use std::time::Duration;

/// How often one that waits for the owner's answer looks whether the owner is still there.
const LOOK_MS: u64 = 250;
/// Whoever only reads waits so long for an owner that is not heard: the user tries the next entrance then.
const TRY_MS_MAX: u64 = 300;
/// Longer than this nobody waits for an owner that is silent.
const SILENT_MS_MAX: u64 = 1_000;
/// A former owner ends what it has begun within this.
const ENDS_MS_MAX: u64 = 30_000;

/// A user's request, to the owner.
pub async fn send(
    worker: &Arc<Worker>,
    service: &Service,
    from: From<'_>,
    writes: bool,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let bounds = &service.route.admission;
    let less_important = headers::is_less_important(request.uri().path(), request.headers(), &bounds.less_important);
    let task = Task {
        service: &service.name,
        protocol: service.route.protocol,
        epoch: service.route.epoch,
        admission: &service.admission,
        want: Want { less_important, ..Want::default() },
        answer_timeout_ms: bounds.answer_timeout_ms,
        body_bytes_max: bounds.body_bytes_max,
        user_rtt_us: from.rtt_us,
        for_peer: false,
        refuse_when_full: false,
        writes,
        pass: None,
        // Should the service come here while it waits for a place: it did not pass the gate.
        still_ours: &|| false,
        kept: None,
        gated: false,
        link: from.link,
    };
    // Boxed: both are large, and few requests come this way.
    let mut forwarded = Box::pin(forward::forward(worker, task, request));
    tokio::select! {
        biased;
        done = &mut forwarded => done.answer,
        () = given_up(worker, service) => {
            service.admission.count_error();
            no_answer(service, writes)
        }
    }
}

/// From an owner that is not heard: its gateway may be well, and answers at once then.
pub async fn try_to_read(
    worker: &Arc<Worker>,
    service: &Service,
    why: &Absent,
    from: From<'_>,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let asked = send(worker, service, from, false, request);
    match tokio::time::timeout(Duration::from_millis(TRY_MS_MAX), asked).await {
        Ok(answer) => answer,
        Err(_) => {
            service.admission.count_error();
            answer::absent(why)
        }
    }
}

/// Returns when nobody waits for the owner any more: for a moment after it was called silent or lost, and for as long as instances drain
/// after the service moved, since the former owner ends what it has begun.
async fn given_up(worker: &Worker, service: &Service) {
    let (mut absent_ms, mut moved_ms) = (0u64, 0u64);
    loop {
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        let live = worker.gateway.tables.live();
        let now = live.services.get(&service.name).map(|s| &s.route);
        let is_absent = now.is_none_or(|r| r.absent.is_some());
        let is_same = now.is_some_and(|r| r.role == service.route.role && r.epoch == service.route.epoch);
        // Also where another cloud has taken it from an owner that was silent.
        absent_ms = if is_absent || (absent_ms > 0 && !is_same) { absent_ms + LOOK_MS } else { 0 };
        moved_ms = if is_same { 0 } else { moved_ms + LOOK_MS };
        if absent_ms >= SILENT_MS_MAX || moved_ms >= ENDS_MS_MAX {
            return;
        }
    }
}

/// Its connection is given up with it.
fn no_answer(service: &Service, writes: bool) -> Response<AnswerBody> {
    let owner = match &service.route.role {
        Role::Front { owner } => owner.as_str(),
        Role::Owner => "this cloud",
    };
    let detail = format!("{owner}, which owned the service, does not answer any more");
    match writes {
        true => {
            let detail = format!("{detail}; whether the request took effect is not known");
            answer::unknown_outcome(StatusCode::GATEWAY_TIMEOUT, &detail)
        }
        false => answer::unavailable("silent", &detail),
    }
}

/// A request that came in at another cloud, at the owner.
pub async fn receive(
    worker: &Arc<Worker>,
    link: &Arc<Link>,
    peer: &CloudName,
    (service, epoch): (&ServiceName, Epoch),
    mut request: Request<Incoming>,
) -> Response<AnswerBody> {
    let live = worker.gateway.tables.live();
    let Some(service) = live.services.get(service) else {
        return answer::refused(StatusCode::GONE, "no-such-service");
    };
    if !service.route.entrances.contains(peer) {
        return answer::refused(StatusCode::FORBIDDEN, "not-an-entrance");
    }
    if service.route.epoch != epoch || !service.route.role.is_owner() {
        return moved(worker, service);
    }
    let fields = request.headers_mut();
    let (address, scheme) = peer::user_of(fields);
    headers::strip_forged(fields, service.route.underscored_fields);
    fields.append(VIA, worker.gateway.via.clone());
    peer::mark_told(fields, address, scheme, peer);
    let from = From { address, rtt_us: None, via: Via::Entrance, scheme, link };
    public::serve_service(worker, service, from, request).await.0
}

/// To another cloud's gateway: not served here, and who owns the service as far as is known here.
pub fn moved(worker: &Worker, service: &Service) -> Response<AnswerBody> {
    let owner = match &service.route.role {
        Role::Front { owner } => owner,
        Role::Owner => &worker.gateway.config.cloud,
    };
    let mut answer = answer::refused(StatusCode::CONFLICT, "moved");
    if let Ok(value) = HeaderValue::try_from(format!("{owner} {}", service.route.epoch.0)) {
        answer.headers_mut().insert(answer::MOVED, value);
    }
    answer
}
