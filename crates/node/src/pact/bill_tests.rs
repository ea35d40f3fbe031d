//! A borrower that reports nothing: the lender's daemon signs no such bill.

use super::tests::{Cloud, founded, operator};
use super::*;
use crate::lender;
use crate::object::{DISPUTE, LENT, SETTLEMENT};
use pumasi_lease::message::ReservationRequest;
use pumasi_lease::{LentLease, Usage, meter};
use pumasi_terms::{LeaseId, ReservationId};

/// A lease that city-b rented from city-a, over and metered here.
fn ended(a: &Cloud, b: &Cloud, n: u128, instance_ms: u64) -> LentLease {
    let value = serde_json::json!({
        "lease": {
            "apiVersion": "pumasi/v1", "kind": "Lease", "id": LeaseId::from_entropy(n), "serial": 1,
            "pact": a.pact().unwrap().pact.id, "pact_serial": 2, "reservation": ReservationId::from_entropy(n),
            "borrower": b.name(), "lender": a.name(), "service": "wiki", "epoch": 1,
            "requirement": {
                "service": "wiki", "platform": { "os": "linux", "arch": "x86_64", "runtimes": [] },
                "resources": { "cpu_millis": 250, "memory_mib": 128 }, "instances": 1, "instances_min": 1,
                "storage_bytes": 0, "price_per_instance_hour_max": 1_000_000
            },
            "instances": 1, "price_per_instance_hour": 1_000_000, "ttl_ms": 10_000, "recall_notice_ms": 5_000,
            "application": pumasi_trust::digest(b"app"), "datasets": [], "created_at": 1
        },
        "state": { "state": "ended", "why": "release", "at": 5 },
        "expires_at": 1, "instances_wanted": 0,
        "usage": { "instance_ms": instance_ms, "requests": 10, "bytes_out": 10 }, "since": 1
    });
    serde_json::from_value(value).unwrap()
}

/// As the borrower's daemon asks, with its own reading.
fn bill(b: &Cloud, lent: &LentLease, instance_ms: u64) -> SignedDocument {
    let said = meter::settlement(&lent.lease, lent.usage, Usage { instance_ms, ..lent.usage }, clock::wall());
    let bytes = serde_json::to_vec(&said).unwrap();
    SignedDocument::sign_new(&bytes, "settlement", b.name(), Serial(1), &b.identity.key).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_that_differs_waits_for_a_person_and_stops_further_leases() {
    let a = founded().await;
    let b = Cloud::start("city-b").await;
    join(&b, &operator(), &a.invites(&b).await, Terms::default()).await.unwrap();
    let (honest, crashed, cheat) = (ended(&a, &b, 1, 60_000), ended(&a, &b, 3, 600_000), ended(&a, &b, 2, 3_600_000));
    let kept = [honest.clone(), crashed.clone(), cheat.clone()];
    a.transact(move |tx| {
        for lent in &kept {
            tx.put(LENT, lent.id().as_str(), lent, Expect::Any)?;
        }
        Ok(())
    })
    .await
    .unwrap();
    let settle = |lent: &LentLease, ms| lender::settle(&a, b.name().clone(), lent.id().clone(), bill(&b, lent, ms));
    // Within the tolerance nobody is asked.
    assert!(settle(&honest, 59_500).await.unwrap().signed_by(a.name()));
    // A little is missing: a person is told, and the neighbour is helped on.
    assert_eq!(settle(&crashed, 500_000).await.unwrap_err().code, "settlement_open");
    let requirement = cheat.lease.requirement.clone();
    let request = ReservationRequest { id: ReservationId::from_entropy(9), requirement, ttl_ms: 4_000 };
    let reserve = || lender::reserve(&a, b.name().clone(), request.clone());
    assert!(reserve().await.err().is_none_or(|p| p.code != "settlement_open"));
    // Nothing was used, says the borrower: no signature, however often it asks.
    for _ in 0..3 {
        let refused = settle(&cheat, 0).await.unwrap_err();
        assert_eq!((refused.status, refused.code.as_str()), (409, "settlement_open"), "{refused}");
    }
    let open = lender::open_settlements(&a).unwrap();
    let open: Vec<_> = open.iter().filter(|o| &o.lease == cheat.id()).collect();
    assert_eq!((open.len(), open[0].lender_instance_ms, open[0].borrower_instance_ms), (1, 3_600_000, 0));
    assert!(a.get::<SignedDocument>(SETTLEMENT, cheat.id().as_str()).unwrap().is_none());
    // It gets nothing more here.
    assert_eq!(reserve().await.unwrap_err().code, "settlement_open");
    lender::dispute_settlement(&a, &operator(), cheat.id().clone(), "they report nothing".into()).await.unwrap();
    assert_eq!(reserve().await.unwrap_err().code, "settlement_open");
    // A person accepts the lesser reading: now it is signed, and the borrower gets that when it asks again.
    lender::accept_settlement(&a, &operator(), cheat.id().clone(), String::new()).await.unwrap();
    assert!(settle(&cheat, 0).await.unwrap().signed_by(a.name()));
    assert_eq!(a.store.list_raw(DISPUTE).unwrap().len(), 1);
    let after = reserve().await;
    assert!(after.as_ref().err().is_none_or(|p| p.code != "settlement_open"), "{after:?}");
}
