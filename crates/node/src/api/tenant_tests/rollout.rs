//! Deployments: all or none, what ran before, back to it, everything anew; and whose business they are.

use super::*;
use pumasi_engine::{Exit, SimApp, SimExit};

impl Rig {
    async fn view(&self, who: &str, name: &str) -> Value {
        let (status, text) = self.get(who, &format!("/v1/services/{name}")).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn looks_until(&self, name: &str, done: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..400 {
            self.node.gateway_status.set(Some(self.gate.status().await.unwrap()));
            serve::look(&self.node).await;
            let view = self.view("acme", name).await;
            if done(&view["status"]) {
                return view["status"].clone();
            }
            self.engine.advance(100);
        }
        panic!("never so: {}", self.view("acme", name).await);
    }

    async fn generations(&self, who: &str) -> Vec<Value> {
        let (status, text) = self.get(who, "/v1/services/victim/generations").await;
        assert_eq!(status, 200, "{text}");
        let list: Value = serde_json::from_str(&text).unwrap();
        list["items"].as_array().unwrap().clone()
    }
}

fn is_done(status: &Value) -> bool {
    status["rollout"]["state"] == "done"
}

#[tokio::test]
async fn a_generation_that_only_fails_is_told_beside_the_one_that_serves_and_undone() {
    let rig = Rig::new().await;
    let digest = rig.victim().await;
    rig.looks_until("victim", is_done).await;
    let exit = Exit { code: Some(3), ..Default::default() };
    let ends = Some(SimExit { after_ms: 10, exit });
    rig.engine.teach("${BUNDLE}/broken", SimApp { ends, ready_after_ms: 60_000, ..Default::default() });
    let mut broken = service("victim", "victim.example", digest);
    broken["spec"]["application"]["command"] = json!(["${BUNDLE}/broken"]);
    assert_eq!(rig.ask("acme", "PUT", "/v1/services/victim", broken).await.0, 200);
    let status = rig.looks_until("victim", |s| s["rollout"]["tries"].as_u64() >= Some(3)).await;
    assert_eq!((&status["phase"], &status["rollout"]["state"]), (&json!("failing"), &json!("failing")), "{status}");
    assert_eq!(status["rollout"]["older"], json!({"generation": 1, "ready": 1}), "{status}");
    let why = status["why"].as_str().unwrap();
    assert!(why.contains("exited with code 3") && why.contains("generation 1 goes on serving"), "{why}");
    let (_, events) = rig.get("acme", "/v1/events?subject=victim&limit=1000").await;
    assert!(events.contains("instance_ended"), "{events}");
    // Back: the application as it was, and everything else as it is.
    let undone = rig.ask("acme", "POST", "/v1/services/victim/undo", json!({"why": "it is broken"})).await;
    assert_eq!(undone.0, 200, "{}", undone.1);
    let status = rig.looks_until("victim", is_done).await;
    assert_eq!((&status["generation"], &status["phase"]), (&json!(3), &json!("serving")), "{status}");
    let told: Vec<(u64, String)> = rig
        .generations("acme")
        .await
        .iter()
        .map(|g| (g["generation"].as_u64().unwrap(), g["why"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(
        told,
        [
            (3, "back to generation 1: it is broken".to_owned()),
            (2, "a manifest was applied".to_owned()),
            (1, "a manifest was applied".to_owned())
        ]
    );
    // Data do not go back with an application.
    let mut other = service("victim", "victim.example", digest);
    other["spec"]["datasets"] = json!([]);
    other["spec"]["application"]["env"] = json!({});
    assert_eq!(rig.ask("acme", "PUT", "/v1/services/victim", other).await.0, 200);
    let refused = rig.ask("acme", "POST", "/v1/services/victim/undo", json!({"to": 3})).await;
    assert!(refused.0 == 409 && refused.1.contains("datasets"), "{refused:?}");
    let refused = rig.ask("acme", "POST", "/v1/services/victim/undo", json!({"to": 77})).await;
    assert!(refused.0 == 409 && refused.1.contains("rollout history"), "{refused:?}");
}

#[tokio::test]
async fn bundles_of_earlier_generations_are_kept_and_gone_with_the_service() {
    let rig = Rig::new().await;
    let first = rig.victim().await;
    let second = rig.upload("acme", "another application of acme").await;
    assert_eq!(rig.ask("acme", "PUT", "/v1/services/victim", service("victim", "victim.example", second)).await.0, 200);
    let kept = crate::generations::bundles(&rig.node, &"acme".parse().unwrap()).unwrap().unwrap();
    assert!(kept.contains(&first) && kept.contains(&second), "{kept:?}");
    let id = rig.record("victim").unwrap().id;
    rig.close_journey().await;
    rig.end("acme", "victim").await;
    let left: Option<Value> = rig.node.get(crate::object::GENERATION, id.as_str()).unwrap();
    assert_eq!(left, None);
}

#[tokio::test]
async fn a_restart_exchanges_every_instance_and_a_scale_keeps_them() {
    let rig = Rig::new().await;
    rig.victim().await;
    rig.looks_until("victim", is_done).await;
    let ids = || rig.node.instances.get().iter().map(|i| i.id.clone()).collect::<Vec<_>>();
    let before = ids();
    let restarted = rig.ask("acme", "POST", "/v1/services/victim/restart", json!({"why": "it leaks"})).await;
    assert_eq!(restarted.0, 200, "{}", restarted.1);
    let status = rig.looks_until("victim", is_done).await;
    assert_eq!(status["generation"], 2);
    assert!(ids().iter().any(|id| !before.contains(id)), "{:?}", ids());
    let scaled = rig.ask("acme", "POST", "/v1/services/victim/scale", json!({"min": 3})).await;
    assert_eq!(scaled.0, 200, "{}", scaled.1);
    let status = rig.looks_until("victim", is_done).await;
    assert_eq!((&status["generation"], &status["home_ready"]), (&json!(2), &json!(3)), "{status}");
    for wrong in [json!({"min": 0}), json!({"min": 5, "max": 2}), json!({"min": 1_000_000})] {
        let refused = rig.ask("acme", "POST", "/v1/services/victim/scale", wrong.clone()).await;
        assert!(refused.0 == 422 && refused.1.contains("spec.instances.home"), "{wrong}: {refused:?}");
    }
    assert_eq!(rig.generations("acme").await[0]["why"], "every instance is exchanged: it leaks");
}

#[tokio::test]
async fn several_services_are_changed_all_or_none() {
    let rig = Rig::new().await;
    let digest = rig.victim().await;
    let two = |host: &str| json!({"services": [service("one", "one.example", digest), service("two", host, digest)]});
    // The host of the second one is taken.
    let refused = rig.ask("acme", "PUT", "/v1/services", two("victim.example")).await;
    assert!(refused.0 == 409 && refused.1.contains("service two: "), "{refused:?}");
    assert!(rig.record("one").is_none(), "the first one was stored all the same");
    // Both want the same one, which only the transaction can see.
    let refused = rig.ask("acme", "PUT", "/v1/services", two("one.example")).await;
    assert!(refused.0 == 409 && rig.record("one").is_none(), "{refused:?}");
    let twice = json!({"services": [service("one", "one.example", digest), service("one", "b.example", digest)]});
    assert_eq!(rig.ask("acme", "PUT", "/v1/services", twice).await.0, 400);
    let done = rig.ask("acme", "PUT", "/v1/services", two("two.example")).await;
    assert_eq!(done.0, 200, "{}", done.1);
    assert!(rig.record("one").is_some() && rig.record("two").is_some());
}

#[tokio::test]
async fn deployments_are_their_owners_business() {
    let rig = Rig::new().await;
    let digest = rig.victim().await;
    let acts = [("undo", json!({})), ("restart", json!({"why": "x"})), ("scale", json!({"min": 9}))];
    for (act, body) in acts {
        let path = format!("/v1/services/victim/{act}");
        for (who, status) in [("eve", 404), ("eve-viewer", 403), ("acme-viewer", 403)] {
            let asked = rig.ask(who, "POST", &path, body.clone()).await;
            assert_eq!(asked.0, status, "{who} {act}: {}", asked.1);
        }
    }
    for eve in ["eve", "eve-viewer"] {
        assert_eq!(rig.get(eve, "/v1/services/victim/generations").await.0, 404);
    }
    // What was hidden stays hidden in the history.
    for (who, shown) in [("acme", true), ("acme-viewer", false), ("operator", true)] {
        let told = Value::Array(rig.generations(who).await).to_string();
        assert_eq!(told.contains(SECRET), shown, "{who}: {told}");
    }
    let theft = json!({"services": [service("victim", "eve.example", digest)]});
    let refused = rig.ask("eve", "PUT", "/v1/services", theft).await;
    assert!(matches!(refused.0, 404 | 409) && !refused.1.contains("acme"), "{refused:?}");
    assert_eq!(rig.record("victim").unwrap().generation, 1);
}
