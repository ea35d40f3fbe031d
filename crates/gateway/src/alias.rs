//! `redirect` mode: sending a user from the service's own host to its alias at a lender, and serving the alias there.
//!
//! Always holds: only top-level navigations are redirected, never with an `Authorization` field; what must be served at
//! home goes there through the peer link, one hop.

use crate::admission::Want;
use crate::answer;
use crate::body::AnswerBody;
use crate::forward::{self, Task};
use crate::gateway::Worker;
use crate::peer::POSITION;
use crate::public::{Client, set_position};
use crate::table::{LeaseHere, Service};
use crate::{headers, position, ticket, upgrade};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use pumasi_terms::Position;
use pumasi_terms::method;
use std::sync::Arc;

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// A person goes to a page, as against a page that fetches a part of itself.
pub fn is_navigation(request: &Request<Incoming>) -> bool {
    let fields = request.headers();
    if request.method() != Method::GET || fields.contains_key(header::AUTHORIZATION) {
        return false;
    }
    let text = |name: HeaderName| fields.get(name).and_then(|v| v.to_str().ok());
    match text(SEC_FETCH_MODE) {
        Some(mode) => mode == "navigate" && text(SEC_FETCH_DEST).is_none_or(|d| d == "document"),
        None => text(header::ACCEPT).is_some_and(|a| a.contains("text/html")),
    }
}

fn to(status: StatusCode, location: &str) -> Option<Response<AnswerBody>> {
    let mut answer = Response::new(AnswerBody::Empty);
    *answer.status_mut() = status;
    let fields = answer.headers_mut();
    fields.insert(header::LOCATION, HeaderValue::try_from(location).ok()?);
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Some(answer)
}

fn path_of<B>(request: &Request<B>) -> &str {
    request.uri().path_and_query().map_or("/", |pq| pq.as_str())
}

/// The redirect to the alias of the lease that would serve this user; None where it is to be served by proxy.
pub fn redirect(
    service: &Service,
    want: Want,
    scheme: &str,
    request: &Request<Incoming>,
) -> Option<Response<AnswerBody>> {
    if want.home_only || !is_navigation(request) {
        return None;
    }
    let chosen = service.admission.would_lease(&want)?;
    let lease = service.route.leases.iter().find(|l| l.lease == chosen)?;
    let (alias, key) = (lease.alias.as_ref()?, lease.ticket_key.as_ref()?);
    let cookies = joined_cookies(request.headers())?;
    let path = path_of(request);
    let sealed = ticket::seal(key, &lease.lease, path, &cookies, want.position)?;
    to(StatusCode::TEMPORARY_REDIRECT, &format!("{scheme}://{alias}{}", ticket::attach(path, &sealed)))
}

fn joined_cookies(fields: &HeaderMap) -> Option<String> {
    let parts: Option<Vec<&str>> =
        fields.get_all(header::COOKIE).iter().map(|v| std::str::from_utf8(v.as_bytes()).ok()).collect();
    Some(parts?.join("; "))
}

/// A request to an alias of a lease that is served here.
pub async fn serve(
    worker: &Arc<Worker>,
    lease: &Arc<LeaseHere>,
    client: &Client,
    mut request: Request<Incoming>,
) -> Response<AnswerBody> {
    let scheme = client.scheme;
    if let Some((clean, text)) = ticket::detach(path_of(&request)) {
        return welcome(worker, lease, scheme, &clean, text);
    }
    if lease.expired() {
        return over(lease, scheme, &request);
    }
    let positions = worker.gateway.positions.own();
    let scope = lease.id.as_str();
    let seen = positions.furthest(scope, headers::cookies(request.headers(), position::COOKIE));
    headers::strip_cookie(request.headers_mut(), position::COOKIE);
    let behind = !lease.route.datasets.is_empty()
        && seen.is_some_and(|seen| worker.gateway.tables.position(&lease.id).is_none_or(|at| at < seen));
    let writes = !method::is_safe_or(request.method().as_str(), &lease.route.safe_methods)
        || headers::under_prefix(request.uri().path(), &lease.route.home_only);
    let home = behind || writes || upgrade::is_asked_for(&request);
    let bounds = &lease.route.admission;
    let less_important = headers::is_less_important(request.uri().path(), request.headers(), &bounds.less_important);
    let task = Task {
        service: &lease.route.service,
        protocol: lease.route.protocol,
        epoch: lease.route.epoch,
        admission: if home { &lease.homeward } else { &lease.admission },
        want: Want { less_important, ..Want::default() },
        answer_timeout_ms: bounds.answer_timeout_ms,
        body_bytes_max: bounds.body_bytes_max,
        user_rtt_us: client.rtt.us(),
        for_peer: false,
        refuse_when_full: false,
        writes,
        pass: None,
        still_ours: &|| true,
        kept: None,
        gated: false,
        link: &client.link,
    };
    let mut answer = forward::forward(worker, task, request).await.answer;
    if home {
        let fields = answer.headers_mut();
        let given = fields.get(POSITION).and_then(|v| v.to_str().ok()).and_then(parse_position);
        fields.remove(POSITION);
        if let Some(at) = given {
            set_position(&mut answer, &positions.write(scope, at), scheme);
        }
    }
    answer
}

pub fn parse_position(text: &str) -> Option<Position> {
    text.parse().ok()
}

/// A path that no browser takes for an address elsewhere: "//host" is one, and browsers read "\\" as "/".
pub fn on_this_host(path: &str) -> String {
    format!("/{}", path.trim_start_matches(['/', '\\']))
}

/// Takes a ticket in: the session's cookies move to this host, and the address is made clean.
fn welcome(worker: &Arc<Worker>, lease: &LeaseHere, scheme: &str, clean: &str, text: &str) -> Response<AnswerBody> {
    let clean = on_this_host(clean);
    let Some(mut answer) = to(StatusCode::SEE_OTHER, &clean) else {
        return answer::problem(StatusCode::BAD_REQUEST, "bad-request", "the address is malformed");
    };
    let key = lease.route.ticket_key.as_deref().unwrap_or_default();
    let Some(ticket) = ticket::open(key, &lease.id, &clean, text, &worker.gateway.spent) else {
        // An old or used ticket: the page is still there, the session is not.
        return answer;
    };
    let secure = if scheme == "https" { "; Secure" } else { "" };
    for pair in ticket.cookies.split(';').map(str::trim).filter(|p| p.contains('=')) {
        // A script's cookie and a session's look alike from here: both are kept from scripts.
        if let Ok(value) = HeaderValue::try_from(format!("{pair}; Path=/; HttpOnly; SameSite=Lax{secure}")) {
            answer.headers_mut().append(header::SET_COOKIE, value);
        }
    }
    if let Some(at) = ticket.position {
        set_position(&mut answer, &worker.gateway.positions.own().write(lease.id.as_str(), at), scheme);
    }
    answer
}

/// The lease has ended: people go back to the service's own host.
fn over(lease: &LeaseHere, scheme: &str, request: &Request<Incoming>) -> Response<AnswerBody> {
    let home = lease.route.hosts.first().filter(|_| is_navigation(request));
    home.and_then(|host| to(StatusCode::TEMPORARY_REDIRECT, &format!("{scheme}://{host}{}", path_of(request))))
        .unwrap_or_else(|| answer::problem(StatusCode::GONE, "expired", "this service is no longer served here"))
}

#[cfg(test)]
mod tests {
    use super::on_this_host;

    #[test]
    fn a_welcome_leads_nowhere_else() {
        for path in ["//evil.example/x", "/\\evil.example/x", "\\/evil.example/x", "///\\//evil.example/x"] {
            assert_eq!(on_this_host(path), "/evil.example/x", "{path}");
        }
        assert_eq!(on_this_host("/a//b?c=//d"), "/a//b?c=//d");
    }
}
