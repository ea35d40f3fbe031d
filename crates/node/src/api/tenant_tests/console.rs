//! What a console asks: who looks, the last hour, what is wrong with a manifest.

use super::*;
use pumasi_api::console::{ManifestRead, TrafficHistory, WhoAmI};

fn read<T: serde::de::DeserializeOwned>((status, text): Asked) -> T {
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn everybody_is_told_who_they_are_and_nobody_else() {
    let rig = Rig::new().await;
    for (who, role, customer) in [
        ("operator", Role::Operator, None),
        ("acme", Role::Customer, Some("acme")),
        ("eve-viewer", Role::Viewer, Some("evil")),
    ] {
        let told: WhoAmI = read(rig.get(who, "/v1/whoami").await);
        let customer = customer.map(|c| c.parse().unwrap());
        assert_eq!(told, WhoAmI { name: who.parse().unwrap(), role, customer });
    }
    assert_eq!(rig.get("nobody", "/v1/whoami").await.0, 401);
}

#[tokio::test]
async fn the_last_hour_is_its_owners_and_no_later_service_of_the_name_has_it() {
    let rig = Rig::new().await;
    rig.victim().await;
    for who in ["acme", "acme-viewer", "operator"] {
        for path in ["/v1/traffic/history", "/v1/traffic/history?service=victim"] {
            let told: TrafficHistory = read(rig.get(who, path).await);
            let rates: Vec<u64> = told.services.values().flatten().map(|p| p.arrivals_mps).collect();
            assert_eq!(rates, [VICTIMS_RATE], "{who} {path}");
        }
    }
    let other: TrafficHistory = read(rig.get("operator", "/v1/traffic/history?service=other").await);
    assert!(other.services.is_empty());
    assert!(read::<TrafficHistory>(rig.get("eve", "/v1/traffic/history").await).services.is_empty());
    // The record of a later service of the name has another id.
    let renewed = rig.node.transact(|tx| {
        let mut record = tx.get::<ServiceRecord>(SERVICE, "victim")?.unwrap().body;
        record.id = pumasi_terms::ServiceId::from_entropy(clock::entropy());
        record.customer = "evil".parse().unwrap();
        tx.put(SERVICE, "victim", &record, Expect::Any)?;
        Ok(())
    });
    renewed.await.unwrap();
    let hers: TrafficHistory = read(rig.get("eve", "/v1/traffic/history").await);
    assert!(hers.services.values().all(Vec::is_empty), "{hers:?}");
}

#[tokio::test]
async fn a_manifest_is_read_as_the_command_line_reads_it() {
    let rig = Rig::new().await;
    let good = "apiVersion: pumasi/v1\nkind: Service\nmetadata: { name: hello }\nspec:\n  hosts: [hello.example]\n  application: { bundle: app, command: [\"${BUNDLE}/run\"] }\n";
    let ask = |text: String| json!({ "text": text });
    let told: ManifestRead = read(rig.ask("acme", "POST", "/v1/manifests/read", ask(good.to_owned())).await);
    assert_eq!(told.services.iter().map(|s| s.metadata.name.as_str()).collect::<Vec<_>>(), ["hello"]);
    assert!(told.faults.is_empty() && !told.more);
    let wrong = good.replace("hosts", "hsots").replace("command: [", "command: [1, ");
    let told: ManifestRead = read(rig.ask("operator", "POST", "/v1/manifests/read", ask(wrong)).await);
    assert!(told.services.is_empty());
    let at: Vec<(u64, &str)> = told.faults.iter().map(|f| (f.line, f.field.as_str())).collect();
    assert!(at.contains(&(5, "spec.hsots")), "every fault with its line and field: {:?}", told.faults);
    let many = format!("{good}---\n").repeat(2) + &(0..99).map(|n| format!("f{n}: 1\n")).collect::<String>();
    let told: ManifestRead = read(rig.ask("acme", "POST", "/v1/manifests/read", ask(many)).await);
    assert!(told.more && told.faults.len() == pumasi_terms::faults::FAULTS_MAX, "{}", told.faults.len());
    assert_eq!(rig.ask("acme-viewer", "POST", "/v1/manifests/read", ask(good.to_owned())).await.0, 403);
}

#[tokio::test]
async fn a_rented_lease_is_told_since_it_was_signed_and_not_since_its_journey() {
    let rig = Rig::new().await;
    rig.victim().await;
    let opened = rig.node.get::<Journey>(JOURNEY, JOURNEY_ID).unwrap().unwrap().opened_at;
    let path = format!("/v1/leases/{LEASE_ID}");
    let before: pumasi_api::message::LeaseView = read(rig.get("acme", &path).await);
    assert_eq!(before.since, opened);
    let asked: Value =
        serde_json::from_str(include_str!("../../../../lease/tests/golden/reservation-v1.json")).unwrap();
    let lease: pumasi_lease::document::Lease = serde_json::from_value(json!({
        "apiVersion": "pumasi/v1", "kind": "Lease", "id": LEASE_ID, "serial": 1, "pact": "pact-1", "pact_serial": 1,
        "reservation": "hold-1", "borrower": "city-a", "lender": "city-b", "service": "victim", "epoch": 1,
        "requirement": asked["requirement"], "instances": 1, "price_per_instance_hour": 1, "ttl_ms": 15_000,
        "recall_notice_ms": 1_000, "application": Digest([1; 32]), "datasets": [], "created_at": opened.0 + 4_242,
    }))
    .unwrap();
    let (payload, key) = (serde_json::to_vec(&lease).unwrap(), &rig.node.identity.key);
    let signed =
        pumasi_trust::SignedDocument::sign_new(&payload, "lease", rig.node.name(), pumasi_terms::Serial(1), key)
            .unwrap();
    let put = rig
        .node
        .transact(move |tx| Ok(tx.put(crate::object::SIGNED_LEASE, LEASE_ID, &signed, Expect::Absent).map(|_| ())?));
    put.await.unwrap();
    let after: pumasi_api::message::LeaseView = read(rig.get("acme", &path).await);
    assert_eq!(after.since, opened.after(4_242));
}
