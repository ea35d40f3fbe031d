//! One request to a backend and back: a place, the hand-over, and what to do when it fails.
//!
//! Always holds: a request whose sending began is sent again only if its method is safe and nothing of a body was used;
//! a request that was surely not executed may go elsewhere whatever its method; an unsafe one that broke in between is
//! answered as unknown.

use crate::admission::{Admission, Destination, Failure, Permit, Refusal, Want};
use crate::answer;
use crate::body::{AnswerBody, RequestBody, Source, Verdict};
use crate::gateway::Worker;
use crate::headers;
use crate::plain::RequestHead;
use crate::tunnel::{self, TunnelSlot};
use crate::upstream::SendFault;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pumasi_terms::{Epoch, ServiceName};
use std::sync::Arc;

/// How often one request is handed over at most.
const ATTEMPTS_MAX: u32 = 6;
/// How often a request is sent again after it broke at a backend.
const REPLAYS_MAX: u32 = 2;
/// A kept connection that was idle for longer is not used where a broken one cannot be retried, ms.
const FRESH_MS: u64 = 1_000;
/// The body of a request that only reads is kept up to so much: a peer that is full, or an instance that fails, is not the end of it.
const KEPT_BYTES_MAX: u64 = 64 << 10;

/// What is asked of the application, apart from where.
pub struct Task<'a> {
    pub service: &'a ServiceName,
    pub epoch: Epoch,
    pub admission: &'a Arc<Admission>,
    pub want: Want,
    pub answer_timeout_ms: u64,
    pub body_bytes_max: u64,
    pub user_rtt_us: Option<u32>,
    /// The place that the request comes from is a peer's gateway: it is told what it may retry.
    pub for_peer: bool,
    /// It may find a place elsewhere, so that there is nothing to tell the user yet.
    pub refuse_when_full: bool,
    /// It may change something: its method is not safe, or the service says that this path writes all the same.
    pub writes: bool,
    /// Whether the answer to a request that writes may still be released.
    pub still_ours: &'a (dyn Fn() -> bool + Sync),
    /// A user of an alias whose request goes home: the peer link is told so.
    pub homeward: bool,
}

/// The answer, and whether an instance of this cloud gave it.
pub struct Done {
    pub answer: Response<AnswerBody>,
    pub from_home: bool,
    pub from_backend: bool,
}

impl Done {
    fn ours(answer: Response<AnswerBody>) -> Self {
        Self { answer, from_home: false, from_backend: false }
    }
}

/// The length it announces is beyond what the service takes.
struct TooLarge;

/// A request taken apart, so that it can be put together once more.
struct Outgoing {
    method: Method,
    uri: Uri,
    fields: HeaderMap,
    body: Option<RequestBody>,
    verdict: Option<Arc<Verdict>>,
    upgrade: Option<(HeaderValue, OnUpgrade)>,
    safe: bool,
    /// Safe, without a body or with one that is kept: may be sent again after it was sent.
    replayable: bool,
    kept: Option<Bytes>,
    replays: u32,
}

impl Outgoing {
    fn take(mut request: Request<Incoming>, task: &Task<'_>, idle_ms: u64) -> Result<Self, TooLarge> {
        let too_long = |length: &HeaderValue| {
            length.to_str().ok().and_then(|l| l.parse::<u64>().ok()).is_some_and(|l| l > task.body_bytes_max)
        };
        if request.headers().get(CONTENT_LENGTH).is_some_and(too_long) {
            return Err(TooLarge);
        }
        let upgrade = wants_upgrade(&request).map(|to| (to, hyper::upgrade::on(&mut request)));
        let (parts, incoming) = request.into_parts();
        let safe = !task.writes && upgrade.is_none();
        let empty = hyper::body::Body::is_end_stream(&incoming);
        let (body, verdict) = if empty || upgrade.is_some() {
            (RequestBody::Empty, None)
        } else {
            let (body, verdict) = RequestBody::stream(incoming, task.body_bytes_max, idle_ms);
            (body, Some(verdict))
        };
        let mut fields = parts.headers;
        headers::strip_hop_by_hop(&mut fields);
        fields.remove(http::header::EXPECT);
        let uri = match parts.uri.authority() {
            None => parts.uri,
            Some(_) => parts.uri.path_and_query().map_or(Uri::from_static("/"), |pq| Uri::from(pq.clone())),
        };
        let replayable = safe && empty;
        // A peer's gateway knows better where else to send it.
        let replays = if task.refuse_when_full { 0 } else { REPLAYS_MAX };
        Ok(Self {
            method: parts.method,
            uri,
            fields,
            body: Some(body),
            verdict,
            upgrade,
            safe,
            replayable,
            kept: None,
            replays,
        })
    }

    fn put_together(&mut self, task: &Task<'_>, permit: &Permit) -> Option<Request<RequestBody>> {
        let body = match &self.kept {
            Some(bytes) => RequestBody::Kept(Some(bytes.clone())),
            None if self.replayable => RequestBody::Empty,
            None => self.body.take()?,
        };
        let fields = if self.replayable || self.upgrade.is_some() {
            self.fields.clone()
        } else {
            std::mem::take(&mut self.fields)
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = fields;
        let fields = request.headers_mut();
        if let Some((to, _)) = &self.upgrade {
            fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(UPGRADE, to.clone());
        }
        if let Destination::Peer { lease, .. } = &**permit.destination() {
            let text = |t: &str| HeaderValue::from_str(t).unwrap_or(HeaderValue::from_static(""));
            fields.insert(answer::LEASE, text(lease.as_str()));
            fields.insert(answer::SERVICE, text(task.service.as_str()));
            fields.insert(answer::EPOCH, HeaderValue::from(task.epoch.0));
            fields.insert(answer::HOP, HeaderValue::from_static("1"));
            fields.insert(answer::PROTOCOL, HeaderValue::from(answer::PROTOCOL_VERSION));
            if task.homeward {
                fields.insert(answer::HOMEWARD, HeaderValue::from_static("1"));
            }
        }
        Some(request)
    }

    /// Keeps a short body of a request that only reads. `false`: its sender broke off.
    async fn keep(&mut self) -> bool {
        let length = self.fields.get(CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
        if !self.safe || self.replayable || length.is_none_or(|l| l > KEPT_BYTES_MAX) {
            return true;
        }
        let Some(body) = self.body.take() else { return true };
        match body.collect().await {
            Ok(whole) => {
                (self.kept, self.replayable) = (Some(whole.to_bytes()), true);
                true
            }
            Err(_) => false,
        }
    }

    /// What is sent is its head and nothing more.
    fn is_bare(&self) -> bool {
        self.upgrade.is_none() && matches!(self.body, Some(RequestBody::Empty))
    }

    /// It was not sent after all.
    fn take_back(&mut self, request: Option<Box<Request<RequestBody>>>) {
        if let Some(request) = request
            && !self.replayable
        {
            let (mut parts, body) = request.into_parts();
            headers::strip_ours(&mut parts.headers);
            (self.fields, self.body) = (parts.headers, Some(body));
        }
    }
}

fn wants_upgrade(request: &Request<Incoming>) -> Option<HeaderValue> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let asked = request.headers().get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok());
    if !asked.flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    // h2c by Upgrade is obsolete, and would carry HTTP past us.
    request.headers().get(UPGRADE).filter(|v| !v.as_bytes().to_ascii_lowercase().starts_with(b"h2c")).cloned()
}

/// Whether it asks to become something else than HTTP.
pub fn is_upgrade(request: &Request<Incoming>) -> bool {
    request.headers().contains_key(UPGRADE) && wants_upgrade(request).is_some()
}

fn too_large() -> Response<AnswerBody> {
    answer::problem(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the body is longer than the service takes")
}

/// What to do after one attempt.
enum Next {
    Answer(Response<Source>, Permit),
    /// To another backend, or to the same one later; with what was wrong, should there be no other.
    Elsewhere(Response<AnswerBody>),
    /// Once more, at home alone.
    Home(Response<AnswerBody>),
    End(Response<AnswerBody>),
}

pub async fn forward(worker: &Arc<Worker>, task: Task<'_>, request: Request<Incoming>) -> Done {
    let limits = &worker.gateway.config.limits;
    let mut out = match Outgoing::take(request, &task, limits.body_idle_ms) {
        Ok(out) => out,
        Err(TooLarge) => return Done::ours(too_large()),
    };
    // Boxed, so that the usual way stays small.
    if matches!(out.body, Some(RequestBody::Stream(_))) && !Box::pin(out.keep()).await {
        return Done::ours(answer::problem(StatusCode::BAD_REQUEST, "body", "the body broke off"));
    }
    let mut want = task.want;
    let mut last = None;
    for _ in 0..ATTEMPTS_MAX {
        let permit = match task.admission.acquire(want).await {
            Ok(permit) => permit,
            Err(refusal) => return Done::ours(no_place(&task, refusal, last)),
        };
        if !out.safe && !(task.still_ours)() {
            return Done::ours(answer::unavailable("not-writable", "this cloud may not write for the service now"));
        }
        want.avoid = Some(permit.slot());
        match attempt(worker, &task, &mut out, permit).await {
            Next::Answer(answer, permit) => return finish(worker, &task, out, answer, permit),
            Next::End(answer) => return Done::ours(answer),
            Next::Elsewhere(answer) => last = Some(answer),
            Next::Home(answer) => {
                last = Some(answer);
                want.home_only = true;
            }
        }
    }
    task.admission.count_error();
    Done::ours(last.unwrap_or_else(|| answer::problem(StatusCode::BAD_GATEWAY, "backend", "no backend answered")))
}

async fn attempt(worker: &Arc<Worker>, task: &Task<'_>, out: &mut Outgoing, mut permit: Permit) -> Next {
    let destination = permit.destination().clone();
    let age_max_ms = if out.replayable { u64::MAX } else { FRESH_MS };
    let sent = match &*destination {
        Destination::Instance(place) if out.is_bare() => {
            let head = RequestHead { method: &out.method, uri: &out.uri, fields: &mut out.fields };
            let sent = worker.pool.send_plain(place, head, age_max_ms, task.answer_timeout_ms).await;
            sent.map(|answer| answer.map(Source::Plain))
        }
        _ => {
            let Some(request) = out.put_together(task, &permit) else {
                let detail = "the body cannot be sent again";
                return Next::End(answer::problem(StatusCode::BAD_GATEWAY, "backend", detail));
            };
            // Boxed, so that the usual way stays small.
            Box::pin(send(worker, task, out, &destination, request, age_max_ms)).await
        }
    };
    match sent {
        Ok(answer) => match peers_word(task, out, &destination, &answer, &mut permit) {
            None if stumbled(task, out, &destination, &answer) => {
                out.replays -= 1;
                permit.answered(answer.status().as_u16(), None);
                Next::Home(answer::problem(StatusCode::BAD_GATEWAY, "backend", "the rented instance failed"))
            }
            None => Next::Answer(answer, permit),
            Some(next) => next,
        },
        Err(SendFault::Connect(problem, unsent)) => {
            tracing::debug!(service = %task.service, ?destination, problem, "backend does not take connections");
            permit.failed(Failure::Connect);
            out.take_back(unsent);
            task.admission.count_retry();
            Next::Elsewhere(answer::unavailable("backend", "no instance takes connections at the moment"))
        }
        Err(SendFault::Full(unsent)) => {
            tracing::debug!(service = %task.service, ?destination, "the instance has too many connections to take");
            permit.failed(Failure::Full);
            out.take_back(unsent);
            task.admission.count_retry();
            Next::Elsewhere(answer::unavailable("backend", "no instance takes connections at the moment"))
        }
        Err(SendFault::Broken(problem)) => {
            if out.verdict.as_ref().is_some_and(|v| v.too_long()) {
                return Next::End(too_large());
            }
            if out.verdict.as_ref().is_some_and(|v| v.clients_fault()) {
                return Next::End(answer::problem(StatusCode::BAD_REQUEST, "body", "the body broke off"));
            }
            tracing::debug!(service = %task.service, ?destination, problem, "backend broke off");
            permit.failed(Failure::Broken);
            broken(task, out, StatusCode::BAD_GATEWAY, "the instance broke off before it answered")
        }
        Err(SendFault::Timeout) => {
            permit.failed(Failure::Broken);
            let detail = "the instance did not answer in time";
            // Once more would only add to the load of what is slow.
            Next::End(lost(task, out, StatusCode::GATEWAY_TIMEOUT, detail))
        }
    }
}

/// By hyper: what has a body, asks for an upgrade, or goes to a peer.
async fn send(
    worker: &Arc<Worker>,
    task: &Task<'_>,
    out: &Outgoing,
    destination: &Destination,
    request: Request<RequestBody>,
    age_max_ms: u64,
) -> Result<Response<Source>, SendFault> {
    if out.upgrade.is_some() {
        let answer = worker.pool.send_upgrade(destination, request, task.answer_timeout_ms).await?;
        return Ok(answer.map(|body| Source::Incoming(body, None)));
    }
    let verdict = out.verdict.as_deref();
    let (answer, loan) = worker.pool.send(destination, request, age_max_ms, task.answer_timeout_ms, verdict).await?;
    Ok(answer.map(|body| Source::Incoming(body, Some(loan))))
}

/// What a peer's gateway says instead of an answer of the application.
fn peers_word(
    task: &Task<'_>,
    out: &mut Outgoing,
    destination: &Destination,
    answer: &Response<Source>,
    permit: &mut Permit,
) -> Option<Next> {
    if !matches!(destination, Destination::Peer { .. }) {
        return None;
    }
    if let Some(why) = answer.headers().get(answer::REFUSED) {
        let busy = why.as_bytes() == b"full";
        tracing::debug!(service = %task.service, ?destination, ?why, "the peer refused");
        permit.failed(if busy { Failure::Busy } else { Failure::Refused });
        if out.replayable || out.upgrade.is_some() {
            task.admission.count_retry();
            return Some(Next::Elsewhere(answer::unavailable("peer", "the peer's gateway refused the request")));
        }
        task.admission.count_error();
        return Some(Next::End(answer::unavailable("peer", "the peer's gateway refused the request; send it again")));
    }
    if answer.headers().contains_key(answer::FAILED) {
        permit.failed(Failure::Broken);
        return Some(broken(task, out, StatusCode::BAD_GATEWAY, "the instance at the peer broke off"));
    }
    None
}

/// An application may stumble over its copy where it does not over the original: a reader of SQLite that is held up while a
/// commit comes in sees a torn index and may not repair it. Home has the original, and asking it is safe.
fn stumbled(task: &Task<'_>, out: &Outgoing, destination: &Destination, answer: &Response<Source>) -> bool {
    let rented = matches!(destination, Destination::Peer { .. }) && !task.homeward && !task.for_peer;
    let again = out.replayable && out.replays > 0;
    rented && again && answer.status() == StatusCode::INTERNAL_SERVER_ERROR && task.admission.may_retry()
}

/// It was sent and has no answer.
fn broken(task: &Task<'_>, out: &mut Outgoing, status: StatusCode, detail: &str) -> Next {
    if out.replayable && out.replays > 0 && task.admission.may_retry() {
        out.replays -= 1;
        return Next::Elsewhere(answer::problem(status, "backend", detail));
    }
    Next::End(lost(task, out, status, detail))
}

fn lost(task: &Task<'_>, out: &Outgoing, status: StatusCode, detail: &str) -> Response<AnswerBody> {
    let mut answer = if out.safe {
        answer::problem(status, "backend", detail)
    } else {
        answer::unknown_outcome(status, &format!("{detail}; whether the request took effect is not known"))
    };
    if task.for_peer {
        answer.headers_mut().insert(answer::FAILED, HeaderValue::from_static("backend"));
    }
    answer
}

fn no_place(task: &Task<'_>, refusal: Refusal, last: Option<Response<AnswerBody>>) -> Response<AnswerBody> {
    if task.refuse_when_full {
        let why = if refusal == Refusal::NoBackend { "no-instance" } else { "full" };
        return answer::refused(StatusCode::SERVICE_UNAVAILABLE, why);
    }
    match refusal {
        Refusal::QueueFull | Refusal::WaitedTooLong => answer::shed(),
        Refusal::NoBackend => last
            .unwrap_or_else(|| answer::unavailable("no-backend", "no instance of the service is ready at the moment")),
    }
}

fn finish(worker: &Arc<Worker>, task: &Task<'_>, out: Outgoing, answer: Response<Source>, mut permit: Permit) -> Done {
    let limits = &worker.gateway.config.limits;
    let (mut parts, source) = answer.into_parts();
    permit.answered(parts.status.as_u16(), task.user_rtt_us);
    let from_home = permit.is_home();
    if !out.safe && !(task.still_ours)() {
        let detail =
            "this cloud lost the right to write before the answer was out; whether it took effect is not known";
        return Done::ours(answer::unknown_outcome(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let Some((_, user)) = out.upgrade else {
            return Done::ours(answer::problem(StatusCode::BAD_GATEWAY, "backend", "an upgrade nobody asked for"));
        };
        let Some(slot) = TunnelSlot::take(&worker.gateway.tunnels, limits.tunnels_max) else {
            return Done::ours(answer::unavailable("tunnels", "too many upgraded connections at the moment"));
        };
        let mut answer = Response::from_parts(parts, ());
        let backend = hyper::upgrade::on(&mut answer);
        tunnel::spawn(user, backend, permit, slot, limits.tunnel_idle_ms);
        headers::strip_ours(answer.headers_mut());
        return Done { answer: answer.map(|()| AnswerBody::Empty), from_home, from_backend: true };
    }
    headers::strip_hop_by_hop(&mut parts.headers);
    if !task.homeward {
        headers::strip_ours(&mut parts.headers);
    }
    if !task.for_peer {
        let by = match &**permit.destination() {
            Destination::Peer { cloud, .. } => HeaderValue::from_str(cloud.as_str()).ok(),
            Destination::Instance(_) => Some(worker.gateway.served_by.clone()),
        };
        if let Some(by) = by {
            parts.headers.insert(answer::SERVED_BY, by);
        }
    }
    parts.version = Version::HTTP_11;
    if matches!(parts.status, StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT) {
        // There is no body whose length it could be, and it may not contradict the empty one.
        parts.headers.remove(CONTENT_LENGTH);
    }
    let body = AnswerBody::new(source, permit, limits.body_idle_ms);
    Done { answer: Response::from_parts(parts, body), from_home, from_backend: true }
}
