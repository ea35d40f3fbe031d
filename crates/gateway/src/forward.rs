//! One request to a backend and back: a place, the hand-over, and what to do when it fails.
//!
//! Always holds: a request whose sending began is sent again only if its method is safe and nothing of a body was used;
//! a request that was surely not executed may go elsewhere whatever its method; an unsafe one that broke in between is
//! answered as unknown.

use crate::admission::{Admission, By, Destination, Failure, Permit, Refusal, Want};
use crate::answer;
use crate::body::{AnswerBody, BodyFault, Came, Source};
use crate::gate::Pass;
use crate::gateway::Worker;
use crate::headers;
use crate::link::Link;
use crate::peer;
use crate::permit::TooManyStreams;
use crate::plain::RequestHead;
use crate::release;
use crate::table::Service;
use crate::tunnel::{self, Ends, TunnelSlot};
use crate::upgrade;
use crate::upload::{Least, NotThere, RequestBody, Upload, Verdict};
use crate::upstream::{Kept, SendFault};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pumasi_terms::{Epoch, Protocol, ServiceName};
use std::sync::Arc;
use std::time::Duration;

/// How often one request is handed over at most.
const ATTEMPTS_MAX: u32 = 6;
/// How often a request is sent again after it broke at a backend: one that kills instances kills two.
const REPLAYS_MAX: u32 = 1;
/// A kept connection that was idle for longer is not used where a broken one cannot be retried, ms.
const FRESH_MS: u64 = 1_000;
/// A place is held for so long while its user still sends the body.
const UPLOAD_HELD: Duration = Duration::from_millis(500);

/// What is asked of the application, apart from where.
pub struct Task<'a> {
    pub service: &'a ServiceName,
    /// Of the service: on the way to a peer it must get through.
    pub protocol: Protocol,
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
    /// Of one that writes here: it counts as under way.
    pub pass: Option<Pass>,
    /// Whether the answer to a request that writes may still be released.
    pub still_ours: &'a (dyn Fn() -> bool + Sync),
    /// The service, at its owner: whose answers may have to wait for copies.
    pub kept: Option<&'a Service>,
    /// Who its user is was told in header fields.
    pub gated: bool,
    /// The connection that it came by.
    pub link: &'a Arc<Link>,
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
    /// A backend broke off before it answered.
    broke: bool,
}

impl Outgoing {
    fn take(mut request: Request<Incoming>, task: &Task<'_>, least: Least) -> Result<Self, TooLarge> {
        let too_long = |length: &HeaderValue| {
            length.to_str().ok().and_then(|l| l.parse::<u64>().ok()).is_some_and(|l| l > task.body_bytes_max)
        };
        if request.headers().get(CONTENT_LENGTH).is_some_and(too_long) {
            return Err(TooLarge);
        }
        // HTTP/2 has no upgrades: who asks such a service for one is answered as if it had not asked.
        let wished = if task.protocol.is_http1() { upgrade::wants(&request) } else { None };
        let upgrade = wished.map(|to| (to, hyper::upgrade::on(&mut request)));
        let (parts, incoming) = request.into_parts();
        let safe = !task.writes && upgrade.is_none();
        let empty = hyper::body::Body::is_end_stream(&incoming);
        let (body, verdict) = if empty || upgrade.is_some() {
            (RequestBody::Empty, None)
        } else {
            let (upload, verdict) = Upload::new(incoming, task.body_bytes_max, least);
            (RequestBody::Stream(upload), Some(verdict))
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
            broke: false,
        })
    }

    fn put_together(&mut self, task: &Task<'_>, permit: &Permit) -> Option<Request<RequestBody>> {
        let spoken = spoken_to(task, permit.destination());
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
        if let Some((to, _)) = self.upgrade.as_ref().filter(|_| spoken.is_http1()) {
            fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(UPGRADE, to.clone());
        }
        if let Destination::Peer { by, .. } = &**permit.destination() {
            peer::set_hop(fields, by, task.service, task.epoch);
        }
        if spoken == Protocol::H2c {
            name_in_target(&mut request);
        }
        Some(request)
    }

    /// Keeps a body that came whole, of a request that only reads: a peer that is full, or an instance that fails, is not its end.
    fn keep(&mut self) {
        if self.safe
            && let Some(RequestBody::Stream(upload)) = &mut self.body
            && let Some(whole) = upload.take_whole()
        {
            (self.kept, self.body, self.replayable) = (Some(whole), None, true);
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
            if let Some(host) = parts.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok()) {
                parts.headers.insert(HOST, host);
            }
            (self.fields, self.body) = (parts.headers, Some(body));
        }
    }
}

/// What a backend of this service is spoken to in.
fn spoken_to(task: &Task<'_>, destination: &Destination) -> Protocol {
    match destination {
        Destination::Instance(_, protocol) => *protocol,
        Destination::Peer { .. } => task.protocol,
    }
}

/// HTTP/2 has the host in the target (RFC 9113, 8.3.1).
pub fn name_in_target(request: &mut Request<RequestBody>) {
    let host = request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let Some(host) = host else { return };
    let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(host).path_and_query(path).build();
    if let Ok(uri) = uri {
        *request.uri_mut() = uri;
        request.headers_mut().remove(HOST);
    }
}

fn too_large() -> Response<AnswerBody> {
    answer::problem(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the body is longer than the service takes")
}

/// An address, or an instance, has as many bodies under way as it may have.
fn too_many(status: StatusCode) -> Response<AnswerBody> {
    let mut answer = answer::problem(status, "streams", "too many bodies are under way at the moment");
    answer.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// The same, where something was asked of an instance already.
fn too_many_streams(out: &Outgoing) -> Response<AnswerBody> {
    if out.safe {
        return too_many(StatusCode::SERVICE_UNAVAILABLE);
    }
    let detail = "too many bodies are under way; whether the request took effect is not known";
    answer::unknown_outcome(StatusCode::SERVICE_UNAVAILABLE, detail)
}

fn not_there(out: &Outgoing, why: NotThere) -> Response<AnswerBody> {
    match why {
        NotThere::TooMany => too_many(StatusCode::TOO_MANY_REQUESTS),
        NotThere::Broken(_) if out.verdict.as_ref().is_some_and(|v| v.too_long()) => too_large(),
        NotThere::Broken(BodyFault::Idle) => {
            answer::problem(StatusCode::REQUEST_TIMEOUT, "body", "the body came too slowly")
        }
        NotThere::Broken(_) => answer::problem(StatusCode::BAD_REQUEST, "body", "the body broke off"),
    }
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

pub async fn forward(worker: &Arc<Worker>, mut task: Task<'_>, request: Request<Incoming>) -> Done {
    let pass = task.pass.take();
    let limits = &worker.gateway.config.limits;
    let least = Least {
        stall_ms: limits.stall_ms,
        rate_bytes_per_s: limits.rate_min_bytes_per_s,
        idle_ms: limits.body_idle_ms,
        converses: task.protocol == Protocol::H2c,
        trailers: !task.gated,
    };
    let mut out = match Outgoing::take(request, &task, least) {
        Ok(out) => out,
        Err(TooLarge) => return Done::ours(too_large()),
    };
    // Boxed, so that the usual way stays small.
    if let Some(RequestBody::Stream(upload)) = &mut out.body
        && let Err(why) = Box::pin(upload.come(task.link, limits.streams_per_address_max)).await
    {
        return Done::ours(not_there(&out, why));
    }
    out.keep();
    // What a user has not sent yet is no work that anybody waits for.
    task.admission.arrived(task.writes);
    let mut want = task.want;
    let mut last = None;
    for _ in 0..ATTEMPTS_MAX {
        let permit = match task.admission.acquire(want).await {
            Ok(permit) => permit,
            Err(refusal) => return Done::ours(no_place(&task, refusal, last)),
        };
        if !out.safe && permit.is_home() && !(task.still_ours)() {
            return Done::ours(answer::unavailable("not-writable", "this cloud may not write for the service now"));
        }
        want.avoid = Some(permit.slot());
        match attempt(worker, &task, &mut out, permit).await {
            Next::Answer(answer, permit) => {
                let permit = match kept(worker, &task, &out, permit, answer.status().as_u16()).await {
                    Ok(permit) => permit,
                    Err(instead) => return Done::ours(*instead),
                };
                return finish(worker, &task, out, answer, (permit, pass));
            }
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

/// Waits for copies where the service says so; what is answered instead, where it was in vain.
async fn kept(
    worker: &Arc<Worker>,
    task: &Task<'_>,
    out: &Outgoing,
    mut permit: Permit,
    status: u16,
) -> Result<Permit, Box<Response<AnswerBody>>> {
    let Some(service) = task.kept.filter(|s| permit.is_home() && release::waits(s, !out.safe)) else {
        return Ok(permit);
    };
    if permit.worked(worker.gateway.config.limits.streams_per_instance_max).is_err() {
        return Err(Box::new(too_many_streams(out)));
    }
    // Boxed, so that the usual way stays small.
    match Box::pin(release::when_kept(worker, service, !out.safe)).await {
        Ok(()) => Ok(permit),
        Err(instead) => {
            permit.answered(status, task.user_rtt_us, 0);
            Err(instead)
        }
    }
}

async fn attempt(worker: &Arc<Worker>, task: &Task<'_>, out: &mut Outgoing, mut permit: Permit) -> Next {
    let destination = permit.destination().clone();
    let kept = match (out.replayable, out.broke) {
        // A backend that died breaks its connections one after the other: a second one that was open is as bad.
        (_, true) => Kept::None,
        (true, false) => Kept::Any,
        (false, false) => Kept::IdleAtMost { ms: FRESH_MS },
    };
    let sent = match &*destination {
        Destination::Instance(place, Protocol::Http1) if out.is_bare() => {
            let head = RequestHead { method: &out.method, uri: &out.uri, fields: &mut out.fields };
            let sent = worker.pool.send_plain(place, head, kept, task.answer_timeout_ms).await;
            sent.map(|answer| answer.map(Source::Plain))
        }
        _ => {
            let Some(request) = out.put_together(task, &permit) else {
                let detail = "the body cannot be sent again";
                return Next::End(answer::problem(StatusCode::BAD_GATEWAY, "backend", detail));
            };
            // Boxed, so that the usual way stays small.
            match Box::pin(send(worker, task, out, &mut permit, request, kept)).await {
                Ok(sent) => sent,
                Err(TooManyStreams) => return Next::End(too_many_streams(out)),
            }
        }
    };
    match sent {
        Ok(answer) => match peers_word(task, out, &permit, &answer) {
            None if stumbled(task, out, &destination, &answer) => {
                out.replays -= 1;
                permit.answered(answer.status().as_u16(), None, 0);
                Next::Home(answer::problem(StatusCode::BAD_GATEWAY, "backend", "the rented instance failed"))
            }
            None => Next::Answer(answer, permit),
            Some((failure, next)) => {
                permit.failed(failure);
                next
            }
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

/// By hyper: what has a body, asks for an upgrade, or goes to a peer. While the user is not done with a body, the instance
/// does not work: the place is given back after a moment, and taken again with the last byte.
async fn send(
    worker: &Arc<Worker>,
    task: &Task<'_>,
    out: &Outgoing,
    permit: &mut Permit,
    request: Request<RequestBody>,
    kept: Kept,
) -> Result<Result<Response<Source>, SendFault>, TooManyStreams> {
    let destination = permit.destination().clone();
    let spoken = spoken_to(task, &destination);
    if out.upgrade.is_some() && spoken.is_http1() {
        let sent = worker.pool.send_upgrade(&destination, request, task.answer_timeout_ms).await;
        return Ok(sent.map(|answer| answer.map(|body| Source::Incoming(body, None))));
    }
    let verdict = out.verdict.as_deref();
    let sending = worker.pool.send((&destination, spoken), request, kept, task.answer_timeout_ms, verdict);
    let mut sending = std::pin::pin!(sending);
    let sent = match verdict.filter(|v| !v.is_complete()) {
        None => sending.await,
        Some(verdict) => {
            let held = if verdict.is_hushed() { Duration::ZERO } else { UPLOAD_HELD };
            let (mut lapsed, mut complete) = (false, false);
            let mut held = std::pin::pin!(tokio::time::sleep(held));
            loop {
                tokio::select! {
                    biased;
                    sent = &mut sending => break sent,
                    () = verdict.completed(), if !complete => {
                        complete = true;
                        permit.resume();
                    }
                    () = &mut held, if !lapsed && !complete => {
                        lapsed = true;
                        permit.lapse(worker.gateway.config.limits.streams_per_instance_max)?;
                    }
                }
            }
        }
    };
    Ok(sent.map(|(answer, loan)| answer.map(|body| Source::Incoming(body, Some(loan)))))
}

/// What a peer's gateway says instead of an answer of the application.
fn peers_word(
    task: &Task<'_>,
    out: &mut Outgoing,
    permit: &Permit,
    answer: &Response<Source>,
) -> Option<(Failure, Next)> {
    let destination = &**permit.destination();
    let Destination::Peer { by, .. } = destination else { return None };
    if let Some(why) = answer.headers().get(answer::REFUSED) {
        let busy = why.as_bytes() == b"full";
        tracing::debug!(service = %task.service, ?destination, ?why, "the peer refused");
        let failure = if busy { Failure::Busy } else { Failure::Refused };
        if matches!(by, By::Entrance(_)) || answer.headers().contains_key(answer::MOVED) {
            let detail = "the service has moved to another cloud; send the request again";
            let answer = answer::unavailable("moved", detail);
            if out.replayable && permit.is_gone() {
                // The table here has changed as well, and says who serves now.
                task.admission.count_retry();
                return Some((Failure::Busy, Next::Elsewhere(answer)));
            }
            // Asked again it would say the same.
            task.admission.count_error();
            return Some((Failure::Busy, Next::End(answer)));
        }
        if out.replayable || out.upgrade.is_some() {
            task.admission.count_retry();
            let answer = answer::unavailable("peer", "the peer's gateway refused the request");
            return Some((failure, Next::Elsewhere(answer)));
        }
        task.admission.count_error();
        let answer = answer::unavailable("peer", "the peer's gateway refused the request; send it again");
        return Some((failure, Next::End(answer)));
    }
    if answer.headers().contains_key(answer::FAILED) {
        let detail = "the instance at the peer broke off";
        let next = match by {
            By::Lease(_) | By::Homeward(_) => broken(task, out, StatusCode::BAD_GATEWAY, detail),
            // The owner has tried again already.
            By::Entrance(_) => Next::End(lost(task, out, StatusCode::BAD_GATEWAY, detail)),
        };
        return Some((Failure::Broken, next));
    }
    None
}

/// An application may stumble over its copy where it does not over the original: a reader of SQLite that is held up while a
/// commit comes in sees a torn index and may not repair it. Home has the original, and asking it is safe.
fn stumbled(task: &Task<'_>, out: &Outgoing, destination: &Destination, answer: &Response<Source>) -> bool {
    let rented = matches!(destination, Destination::Peer { by: By::Lease(_), .. }) && !task.for_peer;
    let again = out.replayable && out.replays > 0;
    rented && again && answer.status() == StatusCode::INTERNAL_SERVER_ERROR && task.admission.may_retry()
}

/// It was sent and has no answer.
fn broken(task: &Task<'_>, out: &mut Outgoing, status: StatusCode, detail: &str) -> Next {
    if out.replayable && out.replays > 0 && task.admission.may_retry() {
        out.replays -= 1;
        out.broke = true;
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
        Refusal::NoBackend => last.unwrap_or_else(|| {
            let detail = format!("{} is starting: none of its instances is ready yet; try again", task.service);
            answer::unavailable("no-backend", &detail)
        }),
    }
}

fn finish(
    worker: &Arc<Worker>,
    task: &Task<'_>,
    out: Outgoing,
    answer: Response<Source>,
    (permit, pass): (Permit, Option<Pass>),
) -> Done {
    let limits = &worker.gateway.config.limits;
    let (mut parts, source) = answer.into_parts();
    if let Some(verdict) = &out.verdict {
        verdict.answered();
    }
    let from_home = permit.is_home();
    let (status, rtt_us) = (parts.status.as_u16(), task.user_rtt_us);
    if !out.safe && from_home && !(task.still_ours)() {
        permit.answered(status, rtt_us, 0);
        let detail =
            "this cloud lost the right to write before the answer was out; whether it took effect is not known";
        return Done::ours(answer::unknown_outcome(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return switch(worker, task, out, Response::from_parts(parts, ()), (permit, pass));
    }
    set_told(worker, task, permit.destination(), &mut parts.headers);
    parts.version = Version::HTTP_11;
    if matches!(parts.status, StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT) {
        // There is no body whose length it could be, and it may not contradict the empty one.
        parts.headers.remove(CONTENT_LENGTH);
    }
    let body = match source.came() {
        Came::Whole(bytes) => {
            permit.answered(status, rtt_us, bytes.len() as u64);
            AnswerBody::full(bytes)
        }
        Came::Going(going) => {
            let room = if going.is_short() { Ok(None) } else { task.link.take_stream(limits.streams_per_address_max) };
            let Ok(room) = room else {
                permit.answered(status, rtt_us, 0);
                return Done::ours(too_many_streams(&out));
            };
            let Ok(mut stream) = permit.streams(status, rtt_us, limits.streams_per_instance_max) else {
                return Done::ours(too_many_streams(&out));
            };
            stream.carry(pass);
            let (body, flow) = AnswerBody::going(going, stream, room, task.link, out.verdict);
            worker.links.watch_body(&flow);
            body
        }
    };
    Done { answer: Response::from_parts(parts, body), from_home, from_backend: true }
}

/// What an answer tells of its way: whose instance gave it, and the word of the owner's gateway where that was asked.
fn set_told(worker: &Worker, task: &Task<'_>, destination: &Destination, fields: &mut HeaderMap) {
    headers::strip_hop_by_hop(fields);
    let by = match destination {
        Destination::Instance(..) => None,
        Destination::Peer { by, .. } => Some(by),
    };
    match by {
        Some(By::Entrance(_)) => headers::strip_ours_but(fields, &[answer::OUTCOME, answer::SHED]),
        Some(By::Homeward(_)) => {
            headers::strip_ours_but(fields, &[answer::OUTCOME, answer::SHED, peer::POSITION]);
        }
        Some(By::Lease(_)) | None => headers::strip_ours(fields),
    }
    if task.for_peer {
        return;
    }
    let served_by = match destination {
        Destination::Peer { cloud, .. } => HeaderValue::from_str(cloud.as_str()).ok(),
        Destination::Instance(..) => Some(worker.gateway.served_by.clone()),
    };
    if let Some(cloud) = served_by {
        fields.insert(answer::SERVED_BY, cloud);
    }
}

/// It is HTTP no longer.
fn switch(
    worker: &Arc<Worker>,
    task: &Task<'_>,
    out: Outgoing,
    mut answer: Response<()>,
    (permit, pass): (Permit, Option<Pass>),
) -> Done {
    let limits = &worker.gateway.config.limits;
    let (status, rtt_us, from_home) = (answer.status().as_u16(), task.user_rtt_us, permit.is_home());
    let asked = out.upgrade.filter(|(asked, _)| upgrade::became_what_was_asked(asked, answer.headers()));
    let Some((_, user)) = asked else {
        permit.answered(status, rtt_us, 0);
        return Done::ours(answer::problem(StatusCode::BAD_GATEWAY, "backend", "an upgrade nobody asked for"));
    };
    let slot = TunnelSlot::take(&worker.gateway.tunnels, limits.tunnels_max);
    let (Some(slot), Ok(room)) = (slot, task.link.take_stream(limits.streams_per_address_max)) else {
        permit.answered(status, rtt_us, 0);
        return Done::ours(answer::unavailable("tunnels", "too many upgraded connections at the moment"));
    };
    let backend = hyper::upgrade::on(&mut answer);
    let mut stream = permit.into_tunnel(rtt_us);
    stream.carry(pass);
    let ends = Ends { user, backend, websocket: upgrade::is_websocket(answer.headers()) };
    tunnel::spawn(ends, stream, (slot, room), limits.tunnel_idle_ms);
    headers::strip_ours(answer.headers_mut());
    Done { answer: answer.map(|()| AnswerBody::Empty), from_home, from_backend: true }
}
