//! A request of a user: whose service it is, what it may do, and what the user takes home from the answer.

use crate::access::Asked;
use crate::admission::Want;
use crate::answer;
use crate::body::AnswerBody;
use crate::clock;
use crate::forward::{self, Done, Task};
use crate::gate::{Pass, Turn};
use crate::gateway::{Gateway, Worker};
use crate::identity::{self, Goes, Identity};
use crate::io::Rtt;
use crate::link::Link;
use crate::table::{Service, Target};
use crate::{alias, choose, entrance, front, headers, position, upgrade};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use ipnet::IpNet;
use pumasi_terms::method;
use pumasi_terms::service::RouteMode;
use pumasi_terms::{Position, Protocol};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What all requests of one connection have in common.
#[derive(Debug)]
pub struct Client {
    address: IpAddr,
    field: HeaderValue,
    pub scheme: &'static str,
    pub rtt: Arc<Rtt>,
    pub link: Arc<Link>,
    /// The connection became a tunnel: what it carries is not HTTP any more.
    pub tunnelled: Arc<AtomicBool>,
    /// A proxy that the operator trusts: each of its requests may be another user's.
    is_front: bool,
    /// The host of the request before, and the `Forwarded` field for it.
    forwarded: Mutex<Option<(HeaderValue, HeaderValue)>>,
}

impl Client {
    pub fn new(address: IpAddr, scheme: &'static str, rtt: Arc<Rtt>, link: Arc<Link>, is_front: bool) -> Arc<Self> {
        let (tunnelled, forwarded) = (Arc::default(), Mutex::default());
        Arc::new(Self { address, field: field_of(address), scheme, rtt, link, tunnelled, is_front, forwarded })
    }

    /// The user whom a trusted proxy speaks for; how far that user is, the proxy's connection does not tell.
    fn behind(&self, fields: &HeaderMap, trusted: &[IpNet]) -> Arc<Self> {
        let (address, scheme) = front::user(fields, trusted);
        let address = address.unwrap_or(self.address);
        Arc::new(Self {
            address,
            field: field_of(address),
            scheme: scheme.unwrap_or(self.scheme),
            rtt: Arc::default(),
            link: self.link.clone(),
            tunnelled: self.tunnelled.clone(),
            is_front: false,
            forwarded: Mutex::default(),
        })
    }

    fn forwarded(&self, host: &HeaderValue) -> Option<HeaderValue> {
        let mut last = self.forwarded.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, value)) if known == host => Some(value.clone()),
            _ => {
                let value = headers::forwarded(self.address, self.scheme, host)?;
                *last = Some((host.clone(), value.clone()));
                Some(value)
            }
        }
    }
}

fn field_of(address: IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

/// The host that a request is for, from its target or its Host field, as it was written.
pub fn host_of(request: &Request<Incoming>) -> Result<HeaderValue, &'static str> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let field = named.next();
    if named.next().is_some() {
        return Err("more than one Host field");
    }
    match (request.uri().authority(), field) {
        (Some(authority), _) => {
            if authority.as_str().contains('@') {
                return Err("the target names a user");
            }
            HeaderValue::from_str(authority.as_str()).map_err(|_| "the target's host is malformed")
        }
        (None, Some(field)) => Ok(field.clone()),
        (None, None) => Err("no Host field"),
    }
}

/// Without the port.
pub fn name_of(host: &str) -> Option<&str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) => return None,
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    (!name.is_empty() && name.len() <= 253).then_some(name)
}

/// Of the gateway; an application may know more.
const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

fn bad(detail: &str) -> Box<Response<AnswerBody>> {
    Box::new(answer::problem(StatusCode::BAD_REQUEST, "bad-request", detail))
}

/// Its future is moved whole for each request, so it is made here and nowhere wrapped.
pub async fn serve(
    worker: Arc<Worker>,
    client: Arc<Client>,
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let _busy = client.link.busy();
    worker.gateway.meter.stir();
    let client = match client.is_front {
        true => client.behind(request.headers(), &worker.gateway.config.trusted_proxies),
        false => client,
    };
    let asked = worker.gateway.access.as_ref().map(|_| Asked::new(client.address, &request, clock::boot_us()));
    let answer = match enter(&worker, &client, &mut request) {
        Err(answer) => *answer,
        Ok(Target::Service(service)) => {
            let from = From {
                address: client.address,
                rtt_us: client.rtt.us(),
                via: Via::Users,
                scheme: client.scheme,
                link: &client.link,
            };
            serve_service(&worker, &service, from, request).await.0
        }
        // Boxed, so that the usual way stays small.
        Ok(Target::Alias(lease)) => Box::pin(alias::serve(&worker, &lease, &client, request)).await,
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        client.tunnelled.store(true, Ordering::Relaxed);
    }
    if let (Some(access), Some(asked)) = (&worker.gateway.access, asked) {
        let served_by = answer.headers().get(answer::SERVED_BY).and_then(|v| v.to_str().ok());
        access.answered(&asked, answer.status().as_u16(), served_by, clock::boot_us());
    }
    Ok(answer)
}

/// Methods and targets that no application of a gateway is asked for.
fn refused_by_method(request: &mut Request<Incoming>) -> Result<(), Box<Response<AnswerBody>>> {
    let method = request.method();
    if *method == Method::GET || *method == Method::POST {
        // The two that nearly all are, at once.
    } else if *method == Method::CONNECT {
        let detail = "this is not a forward proxy";
        return Err(Box::new(answer::problem(StatusCode::METHOD_NOT_ALLOWED, "connect", detail)));
    } else if *method == Method::TRACE {
        // It would show what gateways add (RFC 9110, 9.3.8).
        let mut answer = answer::problem(StatusCode::METHOD_NOT_ALLOWED, "trace", "requests are not sent back");
        answer.headers_mut().insert(header::ALLOW, ALLOWED);
        return Err(Box::new(answer));
    } else if *method == Method::OPTIONS {
        let hops =
            request.headers().get(header::MAX_FORWARDS).and_then(|v| v.to_str().ok()?.trim().parse::<u32>().ok());
        if hops == Some(0) || request.uri().path() == "*" {
            // Asked of the gateway itself (RFC 9110, 7.6.2 and 9.3.7).
            let mut answer = Response::new(AnswerBody::Empty);
            *answer.status_mut() = StatusCode::NO_CONTENT;
            answer.headers_mut().insert(header::ALLOW, ALLOWED);
            return Err(Box::new(answer));
        }
        if let Some(hops) = hops {
            request.headers_mut().insert(header::MAX_FORWARDS, HeaderValue::from(hops - 1));
        }
    }
    let uri = request.uri();
    if (uri.authority().is_some() && uri.scheme().is_none()) || uri.path() == "*" {
        return Err(bad("the target is no path"));
    }
    Ok(())
}

/// What the request is for, its fields made ready; or the answer that it has no business here.
fn enter(
    worker: &Worker,
    client: &Client,
    request: &mut Request<Incoming>,
) -> Result<Target, Box<Response<AnswerBody>>> {
    let host = host_of(request).map_err(bad)?;
    let is_strange = |(at, coding): (usize, &[u8])| at > 0 || !coding.eq_ignore_ascii_case(b"chunked");
    if headers::tokens(request.headers(), &header::TRANSFER_ENCODING).enumerate().any(is_strange) {
        // One that we take off would be missing at the application, and nobody may chunk twice (RFC 9112, 6.1).
        let detail = "no transfer coding but chunked, once, is understood";
        return Err(Box::new(answer::problem(StatusCode::NOT_IMPLEMENTED, "transfer-coding", detail)));
    }
    refused_by_method(request)?;
    let target = {
        let name = host.to_str().ok().and_then(name_of).ok_or_else(|| bad("the Host field is malformed"))?;
        let live = worker.gateway.tables.live();
        let upper = name.bytes().any(|b| b.is_ascii_uppercase());
        if upper { live.host(&name.to_ascii_lowercase()).cloned() } else { live.host(name).cloned() }
    };
    let target = target.ok_or_else(|| Box::new(nobodys(worker)))?;
    let http2 = request.version() == Version::HTTP_2;
    let by_target = request.uri().authority().is_some();
    let fields = request.headers_mut();
    if http2 {
        headers::join_cookies(fields);
    }
    if by_target {
        fields.insert(header::HOST, host.clone());
    }
    let underscored = matches!(&target, Target::Service(service) if service.route.underscored_fields);
    headers::strip_forged(fields, underscored);
    // For what is put on below, at once.
    fields.reserve(8);
    fields.append(header::VIA, worker.gateway.via.clone());
    let forwarded = client.forwarded(&host);
    headers::put_forwarded(fields, &client.field, client.scheme, Some(host), forwarded);
    headers::set_trace(fields);
    Ok(target)
}

/// Nobody here has this host name; or it is not known yet who has which.
fn nobodys(worker: &Worker) -> Response<AnswerBody> {
    if worker.gateway.tables.live().revision == 0 {
        return answer::unavailable("starting", "this gateway is starting and knows no service yet; try again");
    }
    let detail = "no service here has this host name";
    answer::problem(StatusCode::MISDIRECTED_REQUEST, "unknown-host", detail)
}

/// A number for the user, so that it stays where it is.
fn user(service: &Service, fields: &HeaderMap, address: IpAddr) -> u64 {
    let named = service.route.user_cookie.as_deref().and_then(|name| headers::cookies(fields, name).next());
    match (named, address) {
        (Some(value), _) => choose::hash(value),
        (None, IpAddr::V4(ip)) => choose::hash(&ip.octets()),
        // A household has a /64 of its own, and its hosts change address within it.
        (None, IpAddr::V6(ip)) => choose::hash(&ip.octets()[..8]),
    }
}

/// How a request came to this cloud. What another one sends is served by instances here and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Users,
    /// A lender's gateway, for a user of an alias there: it tells the user how far the writing went.
    Alias,
    /// A cloud that is an entrance only.
    Entrance,
}

/// Where a request for a service of this cloud comes from.
pub struct From<'a> {
    pub address: IpAddr,
    pub rtt_us: Option<u32>,
    pub via: Via,
    pub scheme: &'static str,
    /// The connection that it came by.
    pub link: &'a Arc<Link>,
}

/// A pass, unless it goes on to the owner, and the service as a later table has it.
type Entered = (Option<Pass>, Option<Arc<Service>>);

/// Past the gate: at once, or when the service is held no longer, and then by the table of that moment.
async fn let_in(worker: &Worker, service: &Arc<Service>) -> Result<Entered, Box<Response<AnswerBody>>> {
    let mut later: Option<Arc<Service>> = None;
    let (reason, detail) = loop {
        let now = later.as_ref().unwrap_or(service);
        let epoch = now.route.epoch;
        let turn = match now.route.role.is_owner() {
            true => now.gate.enter(epoch),
            false if now.gate.is_held(epoch) => Turn::Wait,
            false => return Ok((None, later)),
        };
        let shut = match turn {
            Turn::In(pass) => return Ok((Some(pass), later)),
            Turn::Shut => true,
            // Boxed, so that the usual way stays small.
            Turn::Wait if Box::pin(now.gate.wait(epoch, true)).await => false,
            Turn::Wait => break HELD,
            Turn::Unkept => break UNKEPT,
        };
        let live = worker.gateway.tables.live();
        let found = live.services.get(&service.name);
        match found {
            // Only if no table came in between.
            Some(found) if !(shut && Arc::ptr_eq(found, now)) => later = Some(found.clone()),
            _ => break ("not-writable", "this cloud may not write for the service now"),
        }
    };
    service.admission.arrived(true);
    service.admission.count_error();
    Err(Box::new(answer::unavailable(reason, detail)))
}

const UNKEPT: (&str, &str) = (
    "no-standby",
    "no other cloud has what would be written, and the service is not written without; send the request again",
);
const HELD: (&str, &str) = ("held", "the service is being handed over; send the request again");

/// One that only reads, once the instances do not stand still any more: the service as the table has it then.
async fn let_read(worker: &Worker, service: &Arc<Service>) -> Result<Option<Arc<Service>>, Box<Response<AnswerBody>>> {
    let mut later: Option<Arc<Service>> = None;
    loop {
        let now = later.as_ref().unwrap_or(service);
        let epoch = now.route.epoch;
        if !now.gate.holds_reads(epoch) {
            return Ok(later);
        }
        if !now.gate.wait(epoch, false).await {
            break;
        }
        let live = worker.gateway.tables.live();
        match live.services.get(&service.name) {
            Some(found) => later = Some(found.clone()),
            None => break,
        }
    }
    service.admission.arrived(false);
    service.admission.count_error();
    let (reason, detail) = HELD;
    Err(Box::new(answer::unavailable(reason, detail)))
}

/// Serves a request for a service of this cloud; with the position that the answer to one that writes gave out.
pub async fn serve_service(
    worker: &Arc<Worker>,
    service: &Arc<Service>,
    from: From<'_>,
    request: Request<Incoming>,
) -> (Response<AnswerBody>, Option<Position>) {
    // Safe methods write too where the service says so.
    let writes = !method::is_safe_or(request.method().as_str(), &service.route.safe_methods)
        || upgrade::is_asked_for(&request)
        || headers::under_prefix(request.uri().path(), &service.route.home_only);
    if service.gate.waits(true) && upgrade::is_asked_for(&request) {
        return (no_upgrade(service), None);
    }
    let (mut pass, mut later) = (None, None);
    if writes {
        match let_in(worker, service).await {
            Ok(entered) => (pass, later) = entered,
            Err(answer) => return (*answer, None),
        }
    } else if service.gate.holds_reads(service.route.epoch) {
        // Boxed, so that the usual way stays small.
        match Box::pin(let_read(worker, service)).await {
            Ok(found) => later = found,
            Err(answer) => return (*answer, None),
        }
    }
    let service = later.as_ref().unwrap_or(service);
    if !service.route.role.is_owner() {
        let answer = match from.via {
            Via::Alias | Via::Entrance => entrance::moved(worker, service),
            // Boxed, so that the usual way stays small.
            Via::Users => match &service.route.absent {
                Some(why) if why.may_read() && !writes => {
                    Box::pin(entrance::try_to_read(worker, service, why, from, request)).await
                }
                Some(why) => {
                    service.admission.arrived(writes);
                    service.admission.count_error();
                    answer::absent(why)
                }
                None => Box::pin(entrance::send(worker, service, from, writes, request)).await,
            },
        };
        return (answer, None);
    }
    serve_here(worker, service, from, (writes, pass), request).await
}

/// What goes over an upgraded connection cannot be kept from leaving before it is in another cloud.
fn no_upgrade(service: &Service) -> Response<AnswerBody> {
    service.admission.arrived(true);
    service.admission.count_error();
    let detail = "the service's data are kept in step with another cloud, and what is said over an upgraded connection would not wait for it";
    answer::problem(StatusCode::NOT_IMPLEMENTED, "no-upgrade", detail)
}

/// How far the user has seen, by cookie or by what is remembered of the last write.
fn seen(gateway: &Gateway, service: &Service, fields: &HeaderMap) -> Option<Position> {
    let (positions, name) = (&gateway.positions, service.name.as_str());
    let by_cookie = headers::cookies(fields, position::COOKIE).next().and_then(|_| {
        let furthest = |key: &position::Key| key.furthest(name, headers::cookies(fields, position::COOKIE));
        // Also what was signed before the service had a key of its own.
        let ring = gateway.keys.live();
        let keys = ring.positions(&service.name).iter().chain(&service.position_key).chain([positions.own()]);
        let found = keys.filter_map(furthest).max();
        let count = if found.is_some() { &gateway.positions_read } else { &gateway.positions_not_read };
        count.fetch_add(1, Ordering::Relaxed);
        found
    });
    let authorization = fields.get(header::AUTHORIZATION);
    let by_memory = authorization.and_then(|a| positions.recall(name, a.as_bytes(), clock::boot_ms().0));
    by_cookie.max(by_memory)
}

/// As its owner.
async fn serve_here(
    worker: &Arc<Worker>,
    service: &Arc<Service>,
    from: From<'_>,
    (writes, pass): (bool, Option<Pass>),
    mut request: Request<Incoming>,
) -> (Response<AnswerBody>, Option<Position>) {
    let from_peer = from.via != Via::Users;
    let mut user_of_realm = None;
    if let Some(gate) = &service.identity {
        // Boxed, so that the usual way stays small.
        match Box::pin(identity::enter(worker, service, from.scheme, gate, &mut request)).await {
            Goes::Application(user) => user_of_realm = user,
            Goes::Pages => {
                return (Box::pin(show_page(worker, service, gate, from, (writes, pass), request)).await, None);
            }
            Goes::Answer(answer) => return (*answer, None),
        }
    }
    let gateway = &worker.gateway;
    let name = service.name.as_str();
    let class = &service.route.admission.less_important;
    let less_important = headers::is_less_important(request.uri().path(), request.headers(), class);
    // A rented copy may have what those in step lack.
    let only_committed = service.gate.waits(false);
    let mut want = Want { home_only: writes || from_peer || only_committed, less_important, ..Want::default() };
    let fields = request.headers_mut();
    let mut authorization = None;
    if service.route.position_generation.is_some() {
        authorization = fields.get(header::AUTHORIZATION).cloned();
        want.position = seen(gateway, service, fields);
    }
    headers::strip_cookie(fields, position::COOKIE);
    if !service.route.leases.is_empty() {
        want.user = match &user_of_realm {
            Some(user) => choose::hash(user.subject.as_bytes()),
            None => user(service, fields, from.address),
        };
    }
    if service.route.mode == RouteMode::Redirect
        && let Some(answer) = alias::redirect(service, want, from.scheme, &request)
    {
        service.admission.arrived(writes);
        return (answer, None);
    }
    // Asked of the table and the tenure of then.
    let still_ours = || service.gate.may_write(service.route.epoch);
    let task = Task {
        service: &service.name,
        protocol: service.route.protocol,
        epoch: service.route.epoch,
        admission: &service.admission,
        want,
        answer_timeout_ms: service.route.admission.answer_timeout_ms,
        body_bytes_max: service.route.admission.body_bytes_max,
        user_rtt_us: from.rtt_us,
        for_peer: from_peer,
        refuse_when_full: false,
        writes,
        pass,
        still_ours: &still_ours,
        kept: Some(&**service),
        gated: service.identity.is_some(),
        link: from.link,
    };
    let Done { mut answer, from_home, from_backend } = forward::forward(worker, task, request).await;
    let mut given = None;
    if let Some(generation) = service.route.position_generation
        && writes
        && from_home
        && from_backend
    {
        let at = Position::token(generation, clock::boot_ms().0);
        given = Some(at);
        if let Some(authorization) = authorization {
            gateway.positions.remember(name, authorization.as_bytes(), at, clock::boot_ms().0);
        }
        if from.via != Via::Alias {
            let ring = gateway.keys.live();
            let own = ring.positions(&service.name).first().or(service.position_key.as_ref());
            let key = own.unwrap_or(gateway.positions.own());
            set_position(&mut answer, &key.write(name, at), from.scheme);
        }
    }
    (answer, given)
}

/// A page of the service's sign-in process. Whatever it has stored is the owner's to store, as what the application does is.
async fn show_page(
    worker: &Arc<Worker>,
    service: &Arc<Service>,
    gate: &Identity,
    from: From<'_>,
    (writes, pass): (bool, Option<Pass>),
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let bounds = identity::bounds();
    let still_ours = || service.gate.may_write(service.route.epoch);
    let task = Task {
        service: &service.name,
        protocol: Protocol::Http1,
        epoch: service.route.epoch,
        admission: &gate.pages,
        want: Want { home_only: true, ..Want::default() },
        answer_timeout_ms: bounds.answer_timeout_ms,
        body_bytes_max: bounds.body_bytes_max,
        user_rtt_us: None,
        for_peer: from.via != Via::Users,
        refuse_when_full: false,
        writes,
        pass,
        still_ours: &still_ours,
        kept: None,
        gated: true,
        link: from.link,
    };
    forward::forward(worker, task, request).await.answer
}

/// Over TLS it stays there.
pub fn set_position(answer: &mut Response<AnswerBody>, value: &str, scheme: &str) {
    let secure = if scheme == "https" { "; Secure" } else { "" };
    let cookie = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax{secure}", position::COOKIE);
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        answer.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn hosts_lose_their_port() {
        assert_eq!(name_of("a.example:8080"), Some("a.example"));
        assert_eq!(name_of("a.example."), Some("a.example"));
        for bad in ["", ":80", "a:b", "a:80:x"] {
            assert_eq!(name_of(bad), None, "{bad}");
        }
    }
}
