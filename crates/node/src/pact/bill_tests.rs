//! A borrower that reports nothing: the lender's daemon signs no such bill.

use super::tests::{Cloud, founded, operator};
use super::*;
use crate::lender;
use crate::object::{DISPUTE, LENT, SETTLEMENT};
use pumasi_lease::message::ReservationRequest;
use pumasi_lease::record::EndedBy;
use pumasi_lease::{LentLease, LentState, Usage, meter};
use pumasi_terms::{LeaseId, ReservationId, WallMs};

/// A lease that city-b rented from city-a, over and metered here.
pub(super) fn ended(a: &Cloud, b: &Cloud, n: u128, instance_ms: u64) -> LentLease {
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
        "state": { "state": "ended", "why": "release", "at": clock::wall() },
        "expires_at": 1, "instances_wanted": 0,
        "usage": { "instance_ms": instance_ms, "requests": 10, "bytes_out": 10 }, "since": 1
    });
    serde_json::from_value(value).unwrap()
}

/// As the lender has it now.
fn as_kept(a: &Cloud, lent: &LentLease) -> std::sync::Arc<LentLease> {
    lender::lent(a, lent.id()).unwrap().unwrap()
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
    let settle = |lent: &LentLease, ms| lender::settle(&a, b.name().clone(), as_kept(&a, lent), bill(&b, lent, ms));
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
    assert_eq!((open.len(), open[0].lender_instance_ms, open[0].borrower_instance_ms), (1, 3_600_000, Some(0)));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrower_that_proposes_nothing_gets_no_more_than_one_that_underreports() {
    let a = founded().await;
    let b = Cloud::start("city-b").await;
    join(&b, &operator(), &a.invites(&b).await, Terms::default()).await.unwrap();
    let long_ago = LentState::Ended { why: EndedBy::Release, at: WallMs(5) };
    let silent = |n| LentLease { state: long_ago.clone(), ..ended(&a, &b, n, 2_000_000) };
    let (first, second) = (silent(1), silent(2));
    let fresh = ended(&a, &b, 3, 9_000_000);
    let requirement = first.lease.requirement.clone();
    let request = ReservationRequest { id: ReservationId::from_entropy(9), requirement, ttl_ms: 4_000 };
    let put = |lent: &LentLease| {
        let lent = lent.clone();
        a.transact(move |tx| Ok(tx.put(LENT, lent.id().as_str(), &lent, Expect::Any).map(drop)?))
    };
    let refused = || async {
        let asked = lender::reserve(&a, b.name().clone(), request.clone()).await;
        asked.err().filter(|p| p.code == "settlement_open").map(|p| p.detail)
    };
    // One that has just ended, and less than an instance-hour, stand in nobody's way.
    put(&first).await.unwrap();
    put(&fresh).await.unwrap();
    assert_eq!(refused().await, None);
    put(&second).await.unwrap();
    let why = refused().await.unwrap();
    assert!(why.contains("4000000 ms") && why.contains("propose the settlement"), "{why}");
    let open = lender::open_settlements(&a).unwrap();
    let told: Vec<_> = open.iter().map(|o| (&o.lease, o.lender_instance_ms, o.borrower_instance_ms)).collect();
    assert_eq!(told, [(first.id(), 2_000_000, None), (second.id(), 2_000_000, None)]);
    // A person writes one off, and not one that is not late.
    lender::accept_settlement(&a, &operator(), second.id().clone(), "they lost their store".into()).await.unwrap();
    assert_eq!(refused().await, None);
    let early = lender::accept_settlement(&a, &operator(), fresh.id().clone(), String::new()).await.unwrap_err();
    assert_eq!(early.status, 404, "{early}");
    // What comes later for a lease that was written off is taken, whatever it is; and a late one as any other.
    for (lent, ms) in [(&second, 100), (&first, 1_990_000)] {
        let signed = lender::settle(&a, b.name().clone(), as_kept(&a, lent), bill(&b, lent, ms)).await.unwrap();
        assert!(signed.signed_by(a.name()));
    }
    assert!(lender::open_settlements(&a).unwrap().is_empty());
    // A proposal over another reading than this side's is not accepted by mistake.
    let old = bill(&b, &fresh, 0);
    assert_eq!(
        lender::settle(&a, b.name().clone(), as_kept(&a, &fresh), old).await.unwrap_err().code,
        "settlement_open"
    );
    put(&LentLease { usage: Usage { instance_ms: 9_000_001, ..fresh.usage }, ..fresh.clone() }).await.unwrap();
    let moved = lender::accept_settlement(&a, &operator(), fresh.id().clone(), String::new()).await.unwrap_err();
    assert_eq!(moved.status, 409, "{moved}");
    assert!(a.get::<SignedDocument>(SETTLEMENT, fresh.id().as_str()).unwrap().is_none());
}
