//! Who calls, and whether the table of endpoints lets them.

use super::body::ApiError;
use crate::{Node, clock, object};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pumasi_api::{Fault, Principal, Problem};
use pumasi_terms::Digest;
use pumasi_trust::{Role as SpiffeRole, SpiffeId, constant_time_eq};
use std::sync::Arc;

/// What the listener knows of the connection.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    pub tls: bool,
    pub peer: Option<SpiffeId>,
}

pub fn digest_of_secret(secret: &str) -> Digest {
    Digest(*blake3::hash(secret.as_bytes()).as_bytes())
}

/// An error where the tokens cannot be read: nobody is told that a good token is none.
fn principal(node: &Node, request: &Request) -> Result<Option<Principal>, Problem> {
    let connection = request.extensions().get::<Connection>().cloned().unwrap_or_default();
    if let Some(id) = connection.peer {
        let member = id.role() == Some(SpiffeRole::Daemon)
            && node.pact().is_some_and(|v| v.pact.member(id.trust_domain()).is_some());
        return Ok(member.then(|| Principal::Peer(id.trust_domain().clone())));
    }
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let Some(token) = authorization.and_then(|v| v.strip_prefix("Bearer ")) else { return Ok(None) };
    let digest = digest_of_secret(token.trim());
    let now = clock::wall();
    let tokens = node.items::<object::TokenRecord>(object::TOKEN)?;
    let known = tokens
        .iter()
        .find(|t| constant_time_eq(&t.secret_digest.0, &digest.0) && t.expires_at.is_none_or(|end| now < end));
    Ok(known.map(|t| Principal::Person { name: t.name.clone(), role: t.role }))
}

/// Refuses what the table does not allow; puts the principal into the request.
pub async fn authorise(State(node): State<Arc<Node>>, path: MatchedPath, mut request: Request, next: Next) -> Response {
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
    let principal = match principal(&node, &request) {
        Ok(principal) => principal,
        Err(e) if endpoint.roles.is_empty() => {
            tracing::debug!(error = %e, "who asks is not known, and need not be");
            None
        }
        Err(e) => return ApiError(e).into_response(),
    };
    let tls = request.extensions().get::<Connection>().is_some_and(|c| c.tls);
    let principal = match principal {
        Some(principal) => principal,
        // Whoever brings an invitation proves itself by the secret in the body, over TLS only.
        None if tls && endpoint.roles.contains(&pumasi_api::Role::Invited) => Principal::Stranger,
        None if endpoint.roles.is_empty() => Principal::Stranger,
        None => {
            let problem = Problem::new(
                401,
                "unauthenticated",
                Fault::Input,
                "send a token (Authorization: Bearer ...) or, as a cloud, the certificate of a member",
            );
            let mut answer = ApiError(problem).into_response();
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return answer;
        }
    };
    if !endpoint.roles.is_empty() && !principal.role().is_some_and(|r| endpoint.roles.contains(&r)) {
        let text = format!("{principal} may not: {}", endpoint.summary.to_lowercase());
        return ApiError(Problem::forbidden(text)).into_response();
    }
    request.extensions_mut().insert(principal);
    next.run(request).await
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
