//! Acts on a lease, as its borrower, another member, and a borrower that was superseded.

use super::bill_tests::ended;
use super::tests::{Cloud, founded, operator};
use super::*;
use crate::api::{Connection, router};
use crate::lender;
use crate::object::LENT;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use pumasi_api::client::EPOCH_FIELD;
use pumasi_api::{Door, ENDPOINTS, Endpoint, Role};
use pumasi_lease::{LentLease, LentState};
use pumasi_terms::{BootMs, Epoch};
use tower::ServiceExt;

async fn ask(a: &Cloud, caller: &CloudName, e: &Endpoint, lent: &LentLease, epoch: Option<&str>) -> (u16, String) {
    let path = e.path.replace("{id}", lent.id().as_str()).replace("{name}", "notes");
    let mut request = Request::builder().method(e.method.as_str()).uri(path).header("content-type", "application/json");
    if let Some(epoch) = epoch {
        request = request.header(EPOCH_FIELD, epoch);
    }
    let mut request = request.body(Body::from("{}")).unwrap();
    request.extensions_mut().insert(Connection::of_peer(Some(SpiffeId::daemon(caller))));
    let answer = router(a.node.clone(), Door::Members, Router::new()).oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice::<Problem>(&body).map(|p| p.code).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_act_on_a_lease_is_asked_who_and_at_which_epoch() {
    let a = founded().await;
    let (b, c) = (Cloud::start("city-b").await, Cloud::start("city-c").await);
    for other in [&b, &c] {
        join(other, &operator(), &a.invites(other).await, Terms::default()).await.unwrap();
    }
    let lent = LentLease {
        state: LentState::Active,
        expires_at: BootMs(u64::MAX / 2),
        epoch: Epoch(5),
        ..ended(&a, &b, 1, 60_000)
    };
    let kept = lent.clone();
    a.transact(move |tx| Ok(tx.put(LENT, kept.id().as_str(), &kept, Expect::Any).map(drop)?)).await.unwrap();
    let acts: Vec<&Endpoint> =
        ENDPOINTS.iter().filter(|e| e.path.starts_with("/v1/leases/{id}/") && e.roles.contains(&Role::Peer)).collect();
    assert!(acts.len() >= 8, "{acts:?}");
    for e in &acts {
        let name = format!("{} {}", e.method.as_str(), e.path);
        for (caller, epoch, status, code) in [
            (c.name(), Some("5"), 403, "not_yours"),
            (b.name(), Some("4"), 409, "older_epoch"),
            // A daemon that names none acts under the epoch that was signed.
            (b.name(), None, 409, "older_epoch"),
            (b.name(), Some("five"), 400, "bad_request"),
        ] {
            let (found, why) = ask(&a, caller, e, &lent, epoch).await;
            assert_eq!((found, why.as_str()), (status, code), "{name} by {caller} at {epoch:?}");
        }
    }
    let still = lender::lent(&a, lent.id()).unwrap().unwrap();
    assert_eq!(still.state, LentState::Active, "somebody superseded ended it");
    // Whoever owns the service now may.
    let release = acts.iter().find(|e| e.path.ends_with("/release")).unwrap();
    assert_eq!(ask(&a, b.name(), release, &lent, Some("5")).await.0, 200);
}
