//! Whether a service could be lent is known when it is applied, and told to its owner.

use super::*;
use crate::object::{CLOUD, CloudRecord, ONLY};

async fn lending(rig: &Rig) -> (String, String) {
    let (_, text) = rig.get("acme", "/v1/services/victim").await;
    let view: Value = serde_json::from_str(&text).unwrap();
    let of = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    (of(&view["status"]["lending"]["state"]), of(&view["status"]["why"]))
}

async fn told(rig: &Rig, action: &str) -> usize {
    let (_, text) = rig.get("acme", "/v1/events?subject=victim&limit=1000").await;
    let events: Value = serde_json::from_str(&text).unwrap();
    events["items"].as_array().unwrap().iter().filter(|e| e["action"] == action).count()
}

#[tokio::test]
async fn what_a_copy_could_not_hold_is_told_before_there_is_a_lease() {
    let rig = Rig::new().await;
    let digest = rig.victim().await;
    // In no pact there is nobody to ask; that is no fault of the service.
    assert_eq!(lending(&rig).await.0, "unknown");
    let data = home::data_dir(&rig.node, &rig.record("victim").unwrap(), &"notes".parse().unwrap());
    std::fs::create_dir_all(data.join("inbox")).unwrap();
    std::fs::File::create(data.join("inbox/large")).unwrap().set_len(5 << 30).unwrap();
    let again = || rig.ask("acme", "PUT", "/v1/services/victim", service("victim", "victim.example", digest));
    for _ in 0..3 {
        assert_eq!(again().await.0, 200);
        let (state, why) = lending(&rig).await;
        assert_eq!(state, "no");
        assert!(why.contains("cannot be lent: dataset notes: it holds more than 4294967296 bytes"), "{why}");
        assert!(!why.contains(data.to_str().unwrap()), "where it lies is the operator's: {why}");
    }
    assert_eq!(told(&rig, "cannot_be_lent").await, 1);
    std::fs::remove_file(data.join("inbox/large")).unwrap();
    assert_eq!(again().await.0, 200);
    assert_eq!(lending(&rig).await.0, "unknown");
}

#[tokio::test]
async fn a_dry_run_says_what_applying_would_and_changes_nothing() {
    let rig = Rig::new().await;
    let digest = Digest([9; 32]);
    let ask = |service: Value, files: u64| {
        let body = json!({"service": service, "bundle_bytes": 1_000_000, "bundle_files": files});
        rig.ask("acme", "POST", "/v1/services/other/check", body)
    };
    let wanted = || service("other", "other.example", digest);
    let (status, text) = ask(wanted(), 10).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("unknown") && text.contains("in no pact"), "{text}");
    // Many small files are no obstacle.
    let (_, text) = ask(wanted(), 1_000_000).await;
    assert!(text.contains("unknown"), "{text}");
    let mut alone = wanted();
    alone["spec"]["borrowing"] = json!({"instances_max": 0});
    assert!(ask(alone, 150_000).await.1.contains("unasked"));
    // What would be refused is refused.
    let mut wrong = wanted();
    wrong["spec"]["application"]["command"] = json!(["${BUNDLE}/server", "${NOBODY}"]);
    let (status, text) = ask(wrong, 1).await;
    assert!(status == 422 && text.contains("spec.application.command[1]"), "{status} {text}");
    let mut needs = wanted();
    needs["spec"]["application"]["platform"] = json!({"runtimes": ["java"]});
    assert_eq!(ask(needs, 1).await.0, 422);
    assert!(rig.record("other").is_none());
    // Nor does it tell of what is somebody else's.
    rig.victim().await;
    let body = json!({"service": service("victim", "victim.example", digest), "bundle_bytes": 1, "bundle_files": 1});
    let (status, text) = rig.ask("eve", "POST", "/v1/services/victim/check", body).await;
    assert!(status == 409 && text.contains("taken"), "{status} {text}");
}

#[tokio::test]
async fn a_rehearsal_that_cannot_be_is_refused_with_the_reason() {
    let rig = Rig::new().await;
    rig.victim().await;
    let ask = |wish: Value| rig.ask("acme", "POST", "/v1/services/victim/rehearsals", wish);
    for (wish, status, word) in [
        (json!({"cause": "flood"}), 422, "overload"),
        (json!({"cause": "overload", "speed": 1}), 422, "speed"),
        (json!({"cause": "overload", "path": "x"}), 422, "path"),
        (json!({"cause": "overload", "path": "/a b"}), 422, "path"),
        (json!({"cause": "overload", "path": format!("/{}", "x".repeat(3_000))}), 422, "path"),
        (json!({"cause": "overload", "at": "city-a"}), 422, "this cloud"),
        (json!({"cause": "overload", "at": "city-z"}), 422, "no member"),
        (json!({"cause": "overload"}), 409, JOURNEY_ID),
    ] {
        let (found, text) = ask(wish.clone()).await;
        assert_eq!(found, status, "{wish}: {text}");
        assert!(text.contains(word), "{wish}: {text}");
    }
    rig.close_journey().await;
    let automation = |stopped: bool| {
        let change = rig.node.transact(move |tx| {
            let automation = pumasi_api::message::Automation { stopped, why: "audit".into() };
            let record = CloudRecord { automation, boot_id: "boot".into(), boot_count: 1 };
            Ok(tx.put(CLOUD, ONLY, &record, Expect::Any).map(drop)?)
        });
        async { change.await.unwrap() }
    };
    for (stopped, word) in [(true, "audit"), (false, "in no pact")] {
        automation(stopped).await;
        let (status, text) = ask(json!({"cause": "overload"})).await;
        assert!(status == 409 && text.contains(word), "{status} {text}");
    }
}
