//! Why instances are not ready: who is told, where, and how often.

use super::*;

impl Rig {
    /// Looks of the daemon, 100 ms of its applications apart.
    async fn looks(&self, times: u32) {
        for _ in 0..times {
            self.node.gateway_status.set(Some(self.gate.status().await.unwrap()));
            serve::look(&self.node).await;
            self.engine.advance(100);
        }
    }

    async fn why(&self, who: &str) -> String {
        let (status, text) = self.get(who, "/v1/services/victim").await;
        assert_eq!(status, 200, "{text}");
        let view: Value = serde_json::from_str(&text).unwrap();
        view["status"]["why"].as_str().unwrap().to_owned()
    }

    /// Nothing stands against it; its journey is open still, or over by now.
    async fn is_well(&self) -> bool {
        matches!(self.why("acme").await.as_str(), "" | JOURNEY_ID)
    }

    async fn told(&self, who: &str, action: &str) -> Vec<String> {
        let (_, text) = self.get(who, "/v1/events?subject=victim&limit=1000").await;
        let events: Value = serde_json::from_str(&text).unwrap();
        let of = |e: &&Value| e["action"] == action;
        events["items"].as_array().unwrap().iter().filter(of).map(|e| e["reasons"].to_string()).collect()
    }
}

#[tokio::test]
async fn a_refused_start_is_told_once_and_tried_ever_less_often() {
    let rig = Rig::new().await;
    rig.engine.refuse("${BUNDLE}/server", Some("${TEMPDIR} is not known here"));
    rig.victim().await;
    rig.looks(30).await;
    let why = "${TEMPDIR} is not known here; correct the service's application";
    let told = rig.why("acme").await;
    assert!(told.starts_with(&format!("generation 1: {why} (failed ")), "{told}");
    assert_eq!(rig.told("acme", "instances_not_ready").await, [json!([why]).to_string()]);
    assert!(rig.engine.starts() <= 3, "{} starts in an instant", rig.engine.starts());
    // What was wrong is mended: a changed application does not wait for the pause to end.
    rig.engine.refuse("${BUNDLE}/server", None);
    let digest = rig.record("victim").unwrap().bundle();
    let mut changed = service("victim", "victim.example", digest);
    changed["spec"]["application"]["env"]["A"] = json!("b");
    assert_eq!(rig.ask("acme", "PUT", "/v1/services/victim", changed).await.0, 200);
    rig.looks(3).await;
    assert!(rig.is_well().await, "{}", rig.why("acme").await);
}

#[tokio::test]
async fn an_end_reaches_everybody_and_the_last_line_only_who_may_read_the_log() {
    let rig = Rig::new().await;
    let exit = pumasi_engine::Exit { code: Some(7), ..Default::default() };
    let ends = Some(pumasi_engine::SimExit { after_ms: 10, exit });
    rig.engine.teach("${BUNDLE}/server", pumasi_engine::SimApp { ends, ready_after_ms: 50, ..Default::default() });
    rig.victim().await;
    rig.looks(40).await;
    let line = "generation 1: exited with code 7; its last line: exited with code 7 at ";
    for who in ["acme", "operator"] {
        assert!(rig.why(who).await.starts_with(line), "{who}: {}", rig.why(who).await);
        let told = rig.told(who, "instances_not_ready").await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(r#"["exited with code 7","its last line: exited with code 7 at "#), "{told:?}");
    }
    let viewer = rig.why("acme-viewer").await;
    assert!(viewer.starts_with("generation 1: exited with code 7 (failed ") && !viewer.contains("line"), "{viewer}");
    assert_eq!(rig.told("acme-viewer", "instances_not_ready").await, [r#"["exited with code 7"]"#]);
    assert!(rig.told("eve", "instances_not_ready").await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_prepared_is_a_reason_too() {
    let rig = Rig::new().await;
    rig.victim().await;
    let record = rig.record("victim").unwrap();
    let data = home::data_dir(&rig.node, &record, &"notes".parse().unwrap());
    std::fs::create_dir_all(data.parent().unwrap()).unwrap();
    std::fs::write(&data, "in the way").unwrap();
    rig.looks(5).await;
    assert!(rig.why("acme").await.starts_with("generation 1: the directory of dataset notes could not be made: "));
    assert_eq!(rig.told("acme", "instances_not_ready").await.len(), 1);
    std::fs::remove_file(&data).unwrap();
    // It is tried again after a pause.
    let begun = std::time::Instant::now();
    while !rig.is_well().await && begun.elapsed().as_secs() < 20 {
        rig.looks(1).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(rig.is_well().await, "{}", rig.why("acme").await);
}

#[tokio::test]
async fn a_program_that_the_bundle_lacks_is_told_when_the_service_is_applied() {
    let rig = Rig::new().await;
    let digest = rig.upload("acme", "acme's application").await;
    for (command, problem) in [
        ("bin/server", "is not in the bundle"),
        ("./server", "is not an executable file"),
        ("../server", "leads out of the bundle"),
        ("", "is empty"),
    ] {
        let mut asked = service("other", "other.example", digest);
        asked["spec"]["application"]["command"] = json!([command]);
        let (status, text) = rig.ask("acme", "PUT", "/v1/services/other", asked).await;
        assert_eq!(status, 422, "{command}: {text}");
        assert!(text.contains("spec.application.command[0]") && text.contains(problem), "{command}: {text}");
    }
}

#[tokio::test]
async fn a_dead_instance_that_another_version_made_is_replaced_and_not_tried_for_ever() {
    use pumasi_engine::{Engine, InstanceSpec, InstanceState};
    let rig = Rig::new().await;
    rig.victim().await;
    let record = rig.record("victim").unwrap();
    let id = pumasi_terms::InstanceId::from_entropy(5);
    let old = InstanceSpec {
        id: id.clone(),
        owner: record.owner(),
        generation: record.generation,
        bundle_dir: "/bundle".into(),
        command: vec!["as it was".into()],
        env: Default::default(),
        resources: pumasi_terms::Resources { cpu_millis: 250, memory_mib: 128 },
        protocol: Default::default(),
        readiness: Default::default(),
        liveness: None,
        stop_grace_ms: 1,
        egress: Vec::new(),
        data: Default::default(),
        listen_ip: "127.0.0.1".parse().unwrap(),
        lent: false,
        secrets: Default::default(),
    };
    rig.engine.start(old).await.unwrap();
    rig.looks(2).await;
    assert_eq!(rig.node.instances.get().len(), 1, "what runs stays");
    assert!(rig.engine.kill_shim(&id));
    rig.looks(10).await;
    let now = rig.node.instances.get();
    assert!(now.len() == 1 && now[0].id != id && now[0].state == InstanceState::Ready, "{now:?}");
    assert!(rig.is_well().await, "{}", rig.why("acme").await);
}
