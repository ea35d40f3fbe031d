//! Every endpoint at every door, as everybody.

use super::auth::Connection;
use crate::ground::{GatewayProcess, Ground};
use crate::identity::Identity;
use crate::{Node, clock};
use axum::body::Body;
use axum::http::Request;
use pumasi_api::{Door, ENDPOINTS, Endpoint, Principal, Problem, Role};
use pumasi_engine::SimEngine;
use pumasi_store::Store;
use pumasi_terms::CloudName;
use pumasi_terms::pact::Terms;
use pumasi_trust::SpiffeId;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tower::ServiceExt;

struct Stage {
    node: Arc<Node>,
    dir: PathBuf,
    token: String,
    _stop: watch::Sender<bool>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn person(role: Role) -> Principal {
    Principal::person("somebody".parse().unwrap(), role, None)
}

async fn stage() -> Stage {
    let dir = std::env::temp_dir().join(format!("pumasi-doors-{:032x}", clock::entropy()));
    std::fs::create_dir_all(dir.join("store")).unwrap();
    let text = "version = 1\n[cloud]\nname = \"city-a\"\n[peer]\nlisten = \"127.0.0.1:1\"\n[gateway]\npeer_listen = \"127.0.0.1:2\"\n";
    let mut config = crate::Config::parse(text, std::iter::empty()).unwrap();
    config.cloud.data_dir = dir.clone();
    let (stop, stopping) = watch::channel(false);
    let ground = Ground {
        hands: Default::default(),
        store: Store::open(dir.join("store/pumasi.sqlite"), clock::wall(), clock::entropy()).unwrap(),
        engine: Arc::new(SimEngine::new()),
        gateway: Arc::new(GatewayProcess::new(&dir, PathBuf::from("/nonexistent"))),
        wire: None,
        signin: None,
    };
    let node = Node::new(config.clone(), Identity::load(&config).unwrap(), ground, 1, stopping);
    super::bootstrap_operator_token(&node).await.unwrap();
    crate::pact::found(&node, &person(Role::Operator), "EUR".into(), Terms::default()).await.unwrap();
    let token = std::fs::read_to_string(dir.join("operator.token")).unwrap().trim().to_owned();
    Stage { node, dir, token, _stop: stop }
}

/// Status, and the code of a problem.
async fn ask(
    stage: &Stage,
    door: Door,
    e: &Endpoint,
    who: Connection,
    fields: &[(&str, &str)],
) -> (u16, String, String) {
    let path = e.path.replace("{id}", "x").replace("{name}", "x");
    // A watch has no end; a wrong question has.
    let path = if path == "/v1/watch" { "/v1/watch?kind=token".to_owned() } else { path };
    let mut request = Request::builder().method(e.method.as_str()).uri(path).header("host", "127.0.0.1:1");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::from("[")).unwrap();
    request.extensions_mut().insert(who);
    let answer = super::router(stage.node.clone(), door, axum::Router::new()).oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let problem = serde_json::from_slice::<Problem>(&body).ok();
    (
        status,
        problem.as_ref().map(|p| p.code.clone()).unwrap_or_default(),
        problem.map(|p| p.detail).unwrap_or_default(),
    )
}

/// Not there at all: the door has no such endpoint.
fn is_absent((status, code, detail): &(u16, String, String)) -> bool {
    *status == 404 && detail.starts_with("there is no endpoint") || *status == 405 && code == "wrong_method"
}

#[tokio::test]
async fn every_endpoint_at_every_door_serves_whom_the_table_names() {
    let stage = stage().await;
    let bearer = format!("Bearer {}", stage.token);
    let stranger_id = SpiffeId::daemon(&CloudName::parse("city-x").unwrap());
    for e in ENDPOINTS {
        let name = format!("{} {}", e.method.as_str(), e.path);
        // People: by the socket's user, by token, as nobody.
        for (who, role, fields) in [
            (None, None, vec![]),
            (Some(person(Role::Viewer)), Some(Role::Viewer), vec![]),
            (Some(person(Role::Customer)), Some(Role::Customer), vec![]),
            (Some(person(Role::Operator)), Some(Role::Operator), vec![]),
            (None, Some(Role::Operator), vec![("authorization", bearer.as_str())]),
            // A token that is none makes nobody of whoever shows it.
            (Some(person(Role::Operator)), None, vec![("authorization", "Bearer wrong")]),
            (Some(person(Role::Operator)), None, vec![("authorization", "Basic b3A6b3A=")]),
        ] {
            // With the right to do so, these would be done.
            let allowed = e.roles.is_empty() || role.is_some_and(|r| e.roles.contains(&r));
            if allowed && matches!(e.path, "/v1/backup" | "/v1/standing" | "/metrics") {
                continue;
            }
            let answer = ask(&stage, Door::People, e, Connection::of_user(who), &fields).await;
            if !e.is_served_at(Door::People) {
                assert!(is_absent(&answer), "{name} for people: {answer:?}");
            } else if allowed {
                assert!(!matches!(answer.0, 401 | 403) && !is_absent(&answer), "{name} as {role:?}: {answer:?}");
            } else {
                assert_eq!(answer.0, if role.is_some() { 403 } else { 401 }, "{name} as {role:?}: {answer:?}");
            }
        }
        // The peer port: no certificate, one of no member, and an operator's token with neither.
        for (id, fields) in [
            (None, vec![]),
            (Some(stranger_id.clone()), vec![]),
            (Some(SpiffeId::gateway(stage.node.name())), vec![]),
            (None, vec![("authorization", bearer.as_str())]),
            (Some(stranger_id.clone()), vec![("authorization", bearer.as_str())]),
        ] {
            let answer = ask(&stage, Door::Members, e, Connection::of_peer(id), &fields).await;
            if !e.is_served_at(Door::Members) {
                assert!(is_absent(&answer), "{name} at the peer port: {answer:?}");
            } else if e.roles.contains(&Role::Invited) {
                assert!(answer.0 >= 400, "{name} for a stranger: {answer:?}");
            } else {
                assert_eq!(answer.0, 401, "{name} for a stranger: {answer:?}");
            }
        }
        // Metrics: nothing else, and not under another name.
        let answer =
            ask(&stage, Door::Monitors, e, Connection::of_monitor(), &[("authorization", bearer.as_str())]).await;
        if e.path != "/metrics" {
            assert!(is_absent(&answer), "{name} beside metrics: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_member_is_a_peer_at_the_peer_port_only() {
    let stage = stage().await;
    let me = SpiffeId::daemon(stage.node.name());
    for e in ENDPOINTS.iter().filter(|e| e.is_served_at(Door::Members)) {
        let answer = ask(&stage, Door::Members, e, Connection::of_peer(Some(me.clone())), &[]).await;
        assert!(!matches!(answer.0, 401), "{} {}: {answer:?}", e.method.as_str(), e.path);
    }
    for e in ENDPOINTS.iter().filter(|e| e.is_served_at(Door::People) && !e.roles.is_empty()) {
        let answer = ask(&stage, Door::People, e, Connection::of_peer(Some(me.clone())), &[]).await;
        assert!(
            matches!(answer.0, 401 | 403) || e.roles.contains(&Role::Peer),
            "{} {}: {answer:?}",
            e.method.as_str(),
            e.path
        );
    }
}
