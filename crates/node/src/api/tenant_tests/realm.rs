//! Services whose users sign in: what is refused, what is added, who looks after users.

use super::*;

fn gated(host: &str, bundle: Digest) -> Value {
    let mut service = service("gated", host, bundle);
    service["spec"]["identity"] = json!({"gate": "required"});
    service
}

#[tokio::test]
async fn users_sign_in_over_https_alone_and_are_a_dataset() {
    let rig = Rig::new().await;
    let bundle = rig.upload("acme", "an application").await;
    let refused = rig.ask("acme", "PUT", "/v1/services/gated", gated("gated.example", bundle)).await;
    assert_eq!(refused.0, 422, "{refused:?}");
    assert!(refused.1.contains("spec.identity") && refused.1.contains("gateway.listen_tls"), "{refused:?}");
    let taken = rig.ask("acme", "PUT", "/v1/services/gated", gated("gated.localhost", bundle)).await;
    assert_eq!(taken.0, 200, "{taken:?}");
    let record = rig.record("gated").unwrap();
    let names: Vec<&str> = record.document.spec.datasets.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["notes", "pumasi-realm"]);
    assert_eq!(record.owner_of(&"pumasi-realm".parse().unwrap()), record.realm_owner());
    // What was shown is what is taken: nothing changes.
    let again: Value = serde_json::from_str(&rig.get("acme", "/v1/services/gated").await.1).unwrap();
    let same = rig.ask("acme", "PUT", "/v1/services/gated", again["service"].clone()).await;
    assert_eq!(same.0, 200, "{same:?}");
    assert_eq!(rig.record("gated").unwrap().generation, record.generation);
    let mut other = gated("gated.localhost", bundle);
    other["spec"]["datasets"] = json!([{"name": "pumasi-other", "kind": "files"}]);
    let refused = rig.ask("acme", "PUT", "/v1/services/gated", other).await;
    assert!(refused.0 == 422 && refused.1.contains("are Pumasi's own"), "{refused:?}");
}

#[tokio::test]
async fn users_are_looked_after_by_their_customer_and_not_by_viewers() {
    let rig = Rig::new().await;
    rig.victim().await;
    let (status, text) = rig.get("acme", "/v1/services/victim/users").await;
    assert!(status == 409 && text.contains("no `identity`"), "{status} {text}");
    let bundle = rig.upload("acme", "an application").await;
    assert_eq!(rig.ask("acme", "PUT", "/v1/services/gated", gated("gated.localhost", bundle)).await.0, 200);
    for who in ["acme", "operator"] {
        let (status, text) = rig.get(who, "/v1/services/gated/users").await;
        assert!(status == 503 && text.contains("sign"), "{who}: {status} {text}");
    }
    for (who, status) in [("acme-viewer", 403), ("eve", 404), ("eve-viewer", 403)] {
        assert_eq!(rig.get(who, "/v1/services/gated/users").await.0, status, "{who}");
    }
    let (status, text) = rig.get("acme", "/v1/services/gated/users/a%20b").await;
    assert!(status == 400 && text.contains("login"), "{status} {text}");
}
