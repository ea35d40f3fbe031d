//! What is kept of a service that was moved: listed, kept for its time, erased only where it is proven that another cloud serves.

use super::*;
use crate::former;
use crate::object::{MOVE, TENURE};
use pumasi_journey::moving::{Move, Step};
use pumasi_lease::handover::{Handover, KIND, SIGNED_AS};
use pumasi_terms::{API_VERSION, CloudName, LeaseId, MoveId, Serial};
use pumasi_trust::SignedDocument;

async fn moved(rig: &Rig, step: Step) {
    let record = rig.record("victim").unwrap();
    let (to, wish) = (CloudName::parse("city-b").unwrap(), MoveId::from_entropy(1));
    let said = Handover {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        wish: wish.clone(),
        id: record.id.clone(),
        service: record.name().clone(),
        from: rig.node.name().clone(),
        from_epoch: record.epoch,
        to: to.clone(),
        epoch: record.epoch.next(),
        lease: LeaseId::from_entropy(1),
        dossier: Digest([1; 32]),
        positions: Default::default(),
        asked_by: "acme".into(),
        created_at: WallMs(0),
    };
    let payload = serde_json::to_vec(&said).unwrap();
    let key = &rig.node.identity.key;
    let signed = SignedDocument::sign_new(&payload, SIGNED_AS, rig.node.name(), Serial(2), key).unwrap();
    let now = clock::now();
    let over = Move { step, ..Move::new(wish, (record.id.clone(), record.name().clone()), to, "acme".into(), now) };
    let put = rig.node.transact(move |tx| {
        tx.put(TENURE, record.id.as_str(), &signed, Expect::Any)?;
        tx.put(MOVE, record.name().as_str(), &over, Expect::Any)?;
        Ok(())
    });
    put.await.unwrap();
}

#[tokio::test]
async fn data_of_the_moved_are_kept_for_their_time_and_then_erased() {
    let rig = Rig::new().await;
    rig.victim().await;
    let dir = tenancy::service_dir(&rig.node, &rig.record("victim").unwrap());
    for part in ["data/notes", "before/epoch-1/notes"] {
        std::fs::create_dir_all(dir.join(part)).unwrap();
        std::fs::write(dir.join(part).join("kept"), "data").unwrap();
    }
    let all_there = || dir.join("data/notes/kept").exists() && dir.join("before/epoch-1/notes/kept").exists();
    let id = rig.record("victim").unwrap().id;
    let path = format!("/v1/retired/{id}");
    let erase = |who| rig.ask(who, "DELETE", &path, Value::Null);
    // It was never moved, or that is not over: whoever asks.
    former::erase_due(&rig.node).await.unwrap();
    assert_eq!(erase("acme").await.0, 404);
    moved(&rig, Step::Opening).await;
    former::erase_due(&rig.node).await.unwrap();
    assert_eq!(erase("acme").await.0, 404);
    assert!(all_there());
    // It is: for a day it is kept, and its owner sees that.
    moved(&rig, Step::Fronted { at: clock::wall() }).await;
    former::erase_due(&rig.node).await.unwrap();
    assert!(all_there());
    let (status, listed) = rig.get("acme", "/v1/retired").await;
    assert!(status == 200 && listed.contains(id.as_str()) && listed.contains("\"bytes\""), "{listed}");
    assert!(!rig.get("eve", "/v1/retired").await.1.contains(id.as_str()));
    assert_eq!(erase("eve").await.0, 404);
    assert!(all_there());
    moved(&rig, Step::Fronted { at: WallMs(clock::wall().0 - 24 * 3_600_000 - 1) }).await;
    // What cannot be read proves nothing.
    let word = rig.node.get::<SignedDocument>(TENURE, id.as_str()).unwrap().unwrap();
    let torn = id.clone();
    rig.node
        .transact(move |tx| Ok(tx.put(TENURE, torn.as_str(), &json!({"no": "document"}), Expect::Any).map(|_| ())?))
        .await
        .unwrap();
    assert!(former::erase_due(&rig.node).await.is_err());
    assert!(all_there());
    let whole = id.clone();
    rig.node.transact(move |tx| Ok(tx.put(TENURE, whole.as_str(), &word, Expect::Any).map(|_| ())?)).await.unwrap();
    former::erase_due(&rig.node).await.unwrap();
    assert!(!dir.join("data").exists() && !dir.join("before").exists() && dir.exists());
    let (_, events) = rig.get("acme", "/v1/events?subject=victim").await;
    assert_eq!(events.matches("former_data_erased").count(), 2, "{events}");
    assert!(!rig.get("acme", "/v1/retired").await.1.contains(id.as_str()));
}

#[tokio::test]
async fn its_owner_need_not_wait_for_the_end_of_the_retention() {
    let rig = Rig::new().await;
    rig.victim().await;
    let dir = tenancy::service_dir(&rig.node, &rig.record("victim").unwrap());
    std::fs::create_dir_all(dir.join("data/notes")).unwrap();
    std::fs::write(dir.join("data/notes/kept"), "data").unwrap();
    moved(&rig, Step::Fronted { at: clock::wall() }).await;
    let id = rig.record("victim").unwrap().id;
    let erased = rig.ask("acme", "DELETE", &format!("/v1/retired/{id}"), Value::Null).await;
    assert_eq!(erased.0, 200, "{}", erased.1);
    assert!(!dir.join("data").exists());
}
