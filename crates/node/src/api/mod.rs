//! The public API's server: one router for people and peers, made from the table of endpoints.

pub(crate) mod allowance;
#[cfg(test)]
mod attacks;
mod auth;
mod bill;
mod body;
mod certificate;
mod cloud;
mod console;
mod continuity;
mod customers;
mod divergences;
mod exec;
mod idle;
mod journeys;
mod listen;
mod logs;
mod moving;
mod on_lease;
mod openapi;
mod pact;
mod params;
mod peers;
mod places;
mod quarantine;
mod rates;
mod realm;
mod rollout;
mod secrets;
mod service_view;
mod services;
#[cfg(test)]
mod tenant_tests;
mod tokens;
mod users;
mod voting;
mod watch;

pub use auth::{Caller, Connection, digest_of_secret};
pub use body::ApiError;
pub use certificate::{OwnCertificate, people_tls_config};
pub(crate) use exec::EXECS_MAX;
pub use listen::{Listening, members, monitors, people, people_tls};
pub use peers::Released;
pub use tokens::bootstrap as bootstrap_operator_token;
pub use users::Users;

use crate::Node;
use axum::handler::Handler;
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Router, middleware};
use pumasi_api::{Door, ENDPOINTS, Fault, Method, Problem};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Collects handlers; every one must stand in the table, and the table must be served whole.
struct Table {
    door: Door,
    router: Router<Arc<Node>>,
    served: BTreeSet<(Method, &'static str)>,
}

impl Table {
    fn on<H, T>(mut self, method: Method, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Node>>,
        T: 'static,
    {
        let filter = match method {
            Method::Get => axum::routing::MethodFilter::GET,
            Method::Put => axum::routing::MethodFilter::PUT,
            Method::Post => axum::routing::MethodFilter::POST,
            Method::Delete => axum::routing::MethodFilter::DELETE,
        };
        self.served.insert((method, path));
        if pumasi_api::endpoint::find(method.as_str(), path).is_some_and(|e| e.is_served_at(self.door)) {
            self.router = self.router.route(path, on(filter, handler));
        }
        self
    }
}

fn table(door: Door) -> Table {
    use Method::{Delete, Get, Post, Put};
    Table { door, router: Router::new(), served: BTreeSet::new() }
        .on(Get, "/healthz", cloud::healthz)
        .on(Get, "/readyz", cloud::readyz)
        .on(Get, "/openapi.json", openapi::document)
        .on(Get, "/metrics", cloud::metrics)
        .on(Get, "/v1/cloud", cloud::status)
        .on(Get, "/v1/traffic", cloud::traffic)
        .on(Get, "/v1/traffic/history", console::history)
        .on(Get, "/v1/whoami", console::who_am_i)
        .on(Post, "/v1/manifests/read", console::read_manifest)
        .on(Get, "/v1/watch", watch::watch)
        .on(Get, "/v1/events", watch::events)
        .on(Post, "/v1/automation", cloud::automation)
        .on(Post, "/v1/stop", cloud::stop)
        .on(Post, "/v1/reload", cloud::read_again)
        .on(Post, "/v1/backup", cloud::backup)
        .on(Post, "/v1/standing", cloud::accept_standing)
        .on(Get, "/v1/quarantine", quarantine::list)
        .on(Post, "/v1/quarantine/{entry}/restore", quarantine::restore)
        .on(Delete, "/v1/quarantine/{entry}", quarantine::empty)
        .on(Get, "/v1/tokens", tokens::list)
        .on(Post, "/v1/tokens", tokens::create)
        .on(Delete, "/v1/tokens/{id}", tokens::revoke)
        .on(Get, "/v1/customers", customers::list)
        .on(Put, "/v1/customers/{name}", customers::put)
        .on(Delete, "/v1/customers/{name}", customers::delete)
        .on(Get, "/v1/divergences", divergences::list)
        .on(Get, "/v1/services/{name}/divergences/{epoch}/archive", divergences::download)
        .on(Post, "/v1/services/{name}/divergences/{epoch}/discard", divergences::discard)
        .on(Get, "/v1/secrets", secrets::list)
        .on(Put, "/v1/secrets/{name}", secrets::set)
        .on(Delete, "/v1/secrets/{name}", secrets::delete)
        .on(Get, "/v1/retired", customers::retired)
        .on(Delete, "/v1/retired/{id}", customers::erase)
        .on(Get, "/v1/services", services::list)
        .on(Put, "/v1/services", rollout::apply)
        .on(Get, "/v1/services/{name}", services::get)
        .on(Put, "/v1/services/{name}", services::put)
        .on(Post, "/v1/services/{name}/check", services::check_only)
        .on(Get, "/v1/services/{name}/generations", rollout::generations)
        .on(Post, "/v1/services/{name}/undo", rollout::undo)
        .on(Post, "/v1/services/{name}/restart", rollout::restart)
        .on(Post, "/v1/services/{name}/scale", rollout::scale)
        .on(Post, "/v1/services/{name}/rehearsals", journeys::rehearse)
        .on(Get, "/v1/services/{name}/move", moving::get)
        .on(Post, "/v1/services/{name}/move", moving::begin)
        .on(Post, "/v1/services/{name}/move/cancel", moving::cancel)
        .on(Post, "/v1/services/{name}/move/abandon", moving::abandon)
        .on(Delete, "/v1/services/{name}", services::delete)
        .on(Get, "/v1/services/{name}/logs", logs::logs)
        .on(Get, "/v1/services/{name}/users", realm::list)
        .on(Get, "/v1/services/{name}/users/{login}", realm::get)
        .on(Post, "/v1/services/{name}/users/{login}", realm::change)
        .on(Delete, "/v1/services/{name}/users/{login}", realm::delete)
        .on(Post, "/v1/services/{name}/invitations", realm::invite)
        .on(Post, "/v1/services/{name}/exec", exec::exec)
        .on(Post, "/v1/bundles/missing", services::bundle_missing)
        .on(Post, "/v1/bundles/chunks", services::bundle_chunks)
        .on(Post, "/v1/bundles", services::bundle_complete)
        .on(Get, "/v1/instances", services::instances)
        .on(Get, "/v1/journeys", journeys::list)
        .on(Get, "/v1/journeys/{id}", journeys::get)
        .on(Post, "/v1/journeys/{id}/cancel", journeys::cancel)
        .on(Get, "/v1/plans", journeys::plans)
        .on(Get, "/v1/plans/{id}", journeys::plan)
        .on(Post, "/v1/plans/{id}/approve", journeys::approve)
        .on(Post, "/v1/plans/{id}/refuse", journeys::refuse)
        .on(Get, "/v1/leases", journeys::leases)
        .on(Get, "/v1/leases/{id}", journeys::lease)
        .on(Post, "/v1/leases/{id}/recall", peers::recall)
        .on(Get, "/v1/bill", bill::bill)
        .on(Post, "/v1/members/{name}/ping", cloud::ping)
        .on(Get, "/v1/settlements", peers::settlements)
        .on(Post, "/v1/settlements/{id}/accept", peers::accept_settlement)
        .on(Post, "/v1/settlements/{id}/dispute", peers::dispute_settlement)
        .on(Get, "/v1/continuity", continuity::list)
        .on(Get, "/v1/offers", journeys::offers)
        .on(Get, "/v1/pact", pact::show)
        .on(Post, "/v1/pact", pact::found)
        .on(Post, "/v1/pact/invitations", pact::invite)
        .on(Post, "/v1/pact/join", pact::join)
        .on(Post, "/v1/pact/leave", pact::leave)
        .on(Post, "/v1/pact/dismissals", pact::dismiss)
        .on(Post, "/v1/pact/proposals/{id}/approve", pact::approve)
        .on(Post, "/v1/pact/proposals/{id}/refuse", pact::refuse)
        .on(Put, "/v1/pact/terms", pact::terms)
        .on(Put, "/v1/pact/voting", pact::vote)
        .on(Get, "/v1/pact/rehearsal", pact::rehearse)
        .on(Post, "/v1/pact/recoveries/{cloud}", pact::recover)
        .on(Post, "/v1/pact/takeovers", pact::take_over)
        .on(Get, "/v1/pact/game-days", pact::game_days)
        .on(Put, "/v1/pact/game-days/{service}", pact::game_day)
        .on(Post, "/v1/pact/admissions", pact::admit)
        .on(Post, "/v1/pact/signatures", pact::sign)
        .on(Put, "/v1/pact/current", pact::bring)
        .on(Put, "/v1/pact/notices", pact::notices)
        .on(Post, "/v1/pacts/{id}/messages", voting::messages)
        .on(Post, "/v1/pacts/{id}/commands", voting::commands)
        .on(Post, "/v1/pacts/{id}/silence", voting::silence)
        .on(Get, "/v1/pacts/{id}/register", voting::register)
        .on(Get, "/v1/pacts/{id}/snapshot/{digest}", voting::snapshot)
        .on(Post, "/v1/heartbeat", peers::heartbeat)
        .on(Post, "/v1/reservations", peers::reserve)
        .on(Delete, "/v1/reservations/{id}", peers::let_go)
        .on(Post, "/v1/leases", peers::sign)
        .on(Post, "/v1/leases/{id}/chunks/missing", peers::missing)
        .on(Post, "/v1/leases/{id}/chunks", peers::chunks)
        .on(Get, "/v1/leases/{id}/sealing-key", peers::sealing_key)
        .on(Put, "/v1/leases/{id}/application", peers::application)
        .on(Put, "/v1/leases/{id}/dossier", peers::dossier)
        .on(Post, "/v1/leases/{id}/handover/prepare", peers::prepare_handover)
        .on(Post, "/v1/leases/{id}/handover/hold", peers::hold_at_heir)
        .on(Put, "/v1/leases/{id}/handover", peers::handover)
        .on(Post, "/v1/leases/{id}/handover/cancel", peers::cancel_handover)
        .on(Get, "/v1/leases/{id}/handover", peers::handover_state)
        .on(Put, "/v1/leases/{id}/datasets/{name}", peers::dataset)
        .on(Post, "/v1/leases/{id}/datasets/{name}/batches", peers::batch)
        .on(Get, "/v1/leases/{id}/logs", peers::logs)
        .on(Post, "/v1/leases/{id}/release", peers::release)
        .on(Post, "/v1/leases/{id}/settlement", peers::settle)
}

/// Everything that the daemon serves at a door. `extra` is mounted beside it without authorisation: the console's files.
pub fn router(node: Arc<Node>, door: Door, extra: Router<Arc<Node>>) -> Router {
    let table = table(door);
    let guard = auth::Guard { rates: Arc::new(rates::Rates::of(&node.config.limits)), node: node.clone() };
    debug_assert!(ENDPOINTS.iter().all(|e| table.served.contains(&(e.method, e.path))));
    table
        .router
        .route_layer(middleware::from_fn_with_state(guard, auth::authorise))
        .merge(extra)
        .fallback(no_such)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(node.clone(), auth::trace))
        .with_state(node)
}

async fn no_such(uri: axum::http::Uri) -> Response {
    ApiError(Problem::not_found("endpoint", uri.path().chars().take(200).collect::<String>())).into_response()
}

async fn wrong_method() -> Response {
    ApiError(Problem::new(405, "wrong_method", Fault::Input, "this endpoint has no such method; see /openapi.json"))
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_served_whole_and_nothing_else_is() {
        let served = table(Door::People).served;
        let listed: BTreeSet<_> = ENDPOINTS.iter().map(|e| (e.method, e.path)).collect();
        assert_eq!(served, listed);
    }
}
