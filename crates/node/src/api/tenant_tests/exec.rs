//! Who may run what where.

use super::*;
use pumasi_engine::{InstanceState, InstanceStatus};
use pumasi_terms::InstanceId;

/// An instance of the victim's, and one that runs for another cloud.
fn instances(rig: &Rig) -> (String, String) {
    let made = |number, owner: String| InstanceStatus {
        id: InstanceId::from_entropy(number),
        owner,
        generation: 1,
        state: InstanceState::Ready,
        frozen: false,
        prepared: false,
        trouble: None,
        address: None,
        door: None,
        protocol: Default::default(),
        pid: Some(1),
        started_at: None,
        restarts: 0,
        was_ready: false,
        last_exit: None,
        cpu_used_us: 0,
        memory_bytes: 0,
        memory_max_bytes: 0,
    };
    let (own, lent) = (made(76, rig.record("victim").unwrap().owner()), made(77, LEASE_ID.to_owned()));
    let ids = (own.id.to_string(), lent.id.to_string());
    rig.node.instances.set(vec![own, lent]);
    ids
}

#[tokio::test]
async fn a_command_runs_in_ones_own_instances_only() {
    let rig = Rig::new().await;
    rig.victim().await;
    let (own, lent) = instances(&rig);
    let path = "/v1/services/victim/exec";
    let ask = |instance: &str| json!({"command": ["env"], "instance": instance});
    for (who, instance, status, word) in [
        ("eve", own.as_str(), 404, "no service"),
        ("eve", &lent, 404, "no service"),
        ("eve-viewer", &own, 403, "may not"),
        ("acme-viewer", &own, 403, "may not"),
        ("acme", &lent, 404, "no instance"),
        ("acme", "inst-00000000000000000000000000000099", 404, "no instance"),
        ("operator", &lent, 403, "another cloud"),
        // Allowed, and by nothing but an upgrade.
        ("acme", &own, 426, "Upgrade"),
        ("operator", &own, 426, "Upgrade"),
    ] {
        let (found, text) = rig.ask(who, "POST", path, ask(instance)).await;
        assert_eq!(found, status, "{who} {instance}: {text}");
        assert!(text.contains(word), "{who} {instance}: {text}");
        assert!(!(who == "acme" && text.contains("lease")), "what runs for others is told: {text}");
    }
    for (wrong, status) in [
        (json!({"command": []}), 400),
        (json!({"command": [""]}), 400),
        (json!({"command": ["a\u{0}b"]}), 400),
        (json!({"command": ["x".repeat(40_000)]}), 400),
        (json!({"command": ["env"], "env": {"A": "b"}}), 422),
        (json!({"command": ["env"], "terminal": {"columns": -1, "rows": 1}}), 422),
    ] {
        assert_eq!(rig.ask("acme", "POST", path, wrong.clone()).await.0, status, "{wrong}");
    }
    let (_, events) = rig.get("operator", "/v1/events?after=0&limit=1000").await;
    assert!(!events.contains("exec_begun"), "nothing of this was begun: {events}");
}
