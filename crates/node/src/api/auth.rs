//! Who calls, and whether the table of endpoints lets them.

use super::allowance::{BodyMax, STRANGER_BODY_BYTES_MAX};
use super::body::ApiError;
use super::rates::Rates;
use crate::{Node, clock, object, tenancy};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pumasi_api::client::INVITATION_FIELD;
use pumasi_api::{Fault, Principal, Problem};
use pumasi_terms::{Digest, TokenId, WallMs};
use pumasi_trust::{Role as SpiffeRole, SpiffeId, constant_time_eq};
use std::sync::Arc;

/// What the listener knows of the connection.
#[derive(Debug, Clone)]
pub enum Connection {
    /// At the peer port: whom its certificate named, if it showed one.
    Peer(Option<SpiffeId>),
    /// At people's socket, or theirs with TLS: who calls, if the kernel told and the configuration knows.
    User(Option<Principal>),
    Monitor,
}

impl Connection {
    pub fn of_peer(id: Option<SpiffeId>) -> Self {
        Self::Peer(id)
    }
    pub fn of_user(user: Option<Principal>) -> Self {
        Self::User(user)
    }
    pub fn of_monitor() -> Self {
        Self::Monitor
    }
}

/// What the router's guard stands on.
#[derive(Debug, Clone)]
pub struct Guard {
    pub node: Arc<Node>,
    pub rates: Arc<Rates>,
}

pub fn digest_of_secret(secret: &str) -> Digest {
    Digest(*blake3::hash(secret.as_bytes()).as_bytes())
}

/// Who calls, and the token that says so: what lasts longer than one answer looks again whether it still does.
#[derive(Debug, Clone)]
pub struct Caller {
    pub who: Principal,
    token: Option<TokenId>,
}

impl Caller {
    /// Refused once the token has expired or is revoked, or the customer is deleted.
    pub fn check(&self, node: &Node) -> Result<(), Problem> {
        let refuse = |text: String| Err(Problem::new(401, "unauthenticated", Fault::Input, text));
        if let Some(id) = &self.token {
            let token = node.item::<object::TokenRecord>(object::TOKEN, id.as_str())?;
            if !token.is_some_and(|t| is_good(&t, clock::wall()) && object::principal_of(&t) == self.who) {
                return refuse(format!("{id} was revoked or has expired"));
            }
        }
        match &self.who {
            Principal::Person { customer: Some(customer), .. } if !tenancy::is_known(node, customer)? => {
                refuse(format!("customer {customer} was deleted"))
            }
            _ => Ok(()),
        }
    }
}

fn is_good(token: &object::TokenRecord, now: WallMs) -> bool {
    token.expires_at.is_none_or(|end| now < end)
}

/// An error where the tokens cannot be read: nobody is told that a good token is none.
fn caller(node: &Node, request: &Request) -> Result<Option<Caller>, Problem> {
    let untokened = |who| Caller { who, token: None };
    let user = match request.extensions().get::<Connection>() {
        Some(Connection::Peer(Some(id))) => {
            let member = id.role() == Some(SpiffeRole::Daemon)
                && node.pact().is_some_and(|v| v.pact.member(id.trust_domain()).is_some());
            return Ok(member.then(|| untokened(Principal::Peer(id.trust_domain().clone()))));
        }
        // No token counts among clouds: a stolen one must be worth nothing out there.
        None | Some(Connection::Peer(None) | Connection::Monitor) => return Ok(None),
        Some(Connection::User(user)) => user.clone().map(untokened),
    };
    // Whoever shows a token is who the token says, and nobody if it says nothing.
    let Some(authorization) = request.headers().get(header::AUTHORIZATION) else { return Ok(user) };
    let Some(token) = authorization.to_str().ok().and_then(|v| v.strip_prefix("Bearer ")) else { return Ok(None) };
    let digest = digest_of_secret(token.trim());
    let now = clock::wall();
    let tokens = node.items::<object::TokenRecord>(object::TOKEN)?;
    let known = tokens.iter().find(|t| constant_time_eq(&t.secret_digest.0, &digest.0) && is_good(t, now));
    Ok(known.map(|t| Caller { who: object::principal_of(t), token: Some(t.id.clone()) }))
}

/// Refuses what the table does not allow; puts the principal into the request.
pub async fn authorise(State(guard): State<Guard>, path: MatchedPath, mut request: Request, next: Next) -> Response {
    let node = &guard.node;
    let Some(endpoint) = pumasi_api::endpoint::find(request.method().as_str(), path.as_str()) else {
        // HEAD on a GET endpoint is the same act without its body.
        let head = request.method() == axum::http::Method::HEAD
            && pumasi_api::endpoint::find("GET", path.as_str()).is_some_and(|e| e.roles.is_empty());
        if head {
            return next.run(request).await;
        }
        return ApiError(Problem::new(
            405,
            "wrong_method",
            Fault::Input,
            "this endpoint has no such method; see /openapi.json",
        ))
        .into_response();
    };
    if matches!(request.extensions().get::<Connection>(), Some(Connection::Monitor)) && !is_asked_by_address(&request) {
        let text = "ask for metrics by the address that is listened on, as http://127.0.0.1:PORT/metrics";
        return ApiError(Problem::new(421, "other_host", Fault::Input, text)).into_response();
    }
    let showed_a_token = request.headers().contains_key(header::AUTHORIZATION);
    let caller = match caller(node, &request) {
        Ok(caller) => caller,
        Err(e) if endpoint.roles.is_empty() => {
            tracing::debug!(error = %e, "who asks is not known, and need not be");
            None
        }
        Err(e) => return ApiError(e).into_response(),
    };
    let among_clouds = matches!(request.extensions().get::<Connection>(), Some(Connection::Peer(_)));
    let stranger = || Caller { who: Principal::Stranger, token: None };
    let caller = match caller {
        Some(caller) => caller,
        // Whoever brings an invitation proves itself by the secret in the body.
        None if among_clouds && endpoint.roles.contains(&pumasi_api::Role::Invited) => stranger(),
        None if endpoint.roles.is_empty() => stranger(),
        None => {
            let problem = Problem::new(
                401,
                "unauthenticated",
                Fault::Input,
                match (among_clouds, showed_a_token) {
                    (true, _) => "this port serves members of the pact: show a certificate that it names",
                    (false, true) => "this token is not known here: it was revoked, has expired, or is another cloud's",
                    (false, false) => {
                        "send a token (Authorization: Bearer ...), or call as a user that api.users names"
                    }
                },
            );
            let mut answer = ApiError(problem).into_response();
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return answer;
        }
    };
    let principal = caller.who.clone();
    if !endpoint.roles.is_empty() && !principal.role().is_some_and(|r| endpoint.roles.contains(&r)) {
        let text = format!("{principal} may not: {}", endpoint.summary.to_lowercase());
        return ApiError(Problem::forbidden(text)).into_response();
    }
    let mut body_max = endpoint.body_bytes_max;
    if among_clouds {
        let member = match &principal {
            Principal::Peer(cloud) => Some(cloud),
            _ => None,
        };
        if member.is_none() && !crate::pact::is_invited(node, request.headers().get(INVITATION_FIELD)) {
            body_max = body_max.min(STRANGER_BODY_BYTES_MAX);
        }
        if let Err(problem) = guard.rates.spend(member, endpoint, clock::boot()) {
            return ApiError(problem).into_response();
        }
    }
    request.extensions_mut().insert(BodyMax(body_max));
    request.extensions_mut().insert(principal);
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// A page elsewhere that lets its own name point here (DNS rebinding) asks by that name.
fn is_asked_by_address(request: &Request) -> bool {
    let host = request.headers().get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let Ok(authority) = host.parse::<axum::http::uri::Authority>() else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Carries the trace id (W3C Trace Context) through the log, or begins one.
pub async fn trace(State(_): State<Arc<Node>>, request: Request, next: Next) -> Response {
    use tracing::Instrument;
    let given = request.headers().get("traceparent").and_then(|v| v.to_str().ok()).and_then(|v| v.split('-').nth(1));
    let id = given.filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).map(str::to_owned);
    let id = id.unwrap_or_else(|| format!("{:032x}", clock::entropy()));
    let span = tracing::info_span!("request", method = %request.method(), path = %request.uri().path(), trace_id = %id);
    let mut answer = crate::trace::within(id.clone(), next.run(request).instrument(span)).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        answer.headers_mut().insert("pumasi-trace-id", value);
    }
    answer
}
