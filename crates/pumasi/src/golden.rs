//! Help texts and tables against `tests/golden`; `PUMASI_GOLDEN=write` writes them anew.

use crate::args::{Cli, Kind};
use clap::CommandFactory;
use pumasi_terms::WallMs;
use serde_json::{Value, json};
use std::path::PathBuf;

fn check(name: &str, found: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("PUMASI_GOLDEN").is_some_and(|v| v == "write") {
        std::fs::write(&path, found).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == found,
        "{} differs; if that is meant: PUMASI_GOLDEN=write\n--- kept\n{kept}\n--- found\n{found}",
        path.display()
    );
}

#[test]
fn every_command_explains_itself() {
    fn walk(command: &mut clap::Command, path: &str, all: &mut String) {
        let long = command.clone().term_width(100).render_help().to_string();
        all.push_str(&format!(
            "===== {path}\n{}\n\n",
            long.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
        ));
        let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
        for name in names {
            let sub = command.find_subcommand_mut(&name).unwrap();
            assert!(sub.get_after_help().is_some(), "{path} {name} has no example");
            walk(sub, &format!("{path} {name}"), all);
        }
    }
    let mut command = Cli::command();
    command.build();
    let mut all = String::new();
    walk(&mut command, "pumasi", &mut all);
    check("help.txt", &all);
    Cli::command().debug_assert();
}

#[test]
fn the_page_about_cloud_toml_is_what_its_types_say() {
    check("../../../../docs/configuration.md", &pumasi_node::config_page());
}

const NOW: i64 = 1_767_225_600_000;

pub fn service() -> Value {
    json!({
        "service": {
            "apiVersion": "pumasi/v1", "kind": "Service", "metadata": {"name": "notes", "revision": 7},
            "spec": {"hosts": ["notes.example"], "application": {"bundle": format!("blake3:{}", "ab".repeat(32)), "command": ["./notes"]}},
        },
        "status": {
            "phase": "borrowing", "why": "p95 queue delay 180 ms > 50 ms for 0.8 s", "home_ready": 2, "home_wanted": 2,
            "borrowed_ready": 1, "borrowed_wanted": 3, "generation": 4, "deleting": false,
        },
    })
}

fn samples(kind: Kind) -> Value {
    let id = |prefix: &str, digit: &str| format!("{prefix}-{}", digit.repeat(32));
    match kind {
        Kind::Services => json!([service()]),
        Kind::Instances => json!([
            {"id": id("inst", "1"), "lease": null, "service": "notes", "cloud": "seoul", "state": "ready", "why": "", "address": "127.0.0.1:4000",
             "generation": 4, "restarts": 0, "cpu_used_us": 3_200_000, "memory_bytes": 41_943_040},
            {"id": id("inst", "2"), "lease": id("lease", "7"), "service": "maps", "cloud": "busan", "state": "failed", "why": "exit status 1",
             "address": null, "generation": 1, "restarts": 5, "cpu_used_us": 90, "memory_bytes": 0},
        ]),
        Kind::Journeys => json!([
            {"id": id("jrn", "3"), "service": "notes", "cause": "overload", "phase": {"phase": "running"}, "opened_at": NOW - 4_000, "plan_number": 1, "parts": [],
             "why": "p95 queue delay 180 ms > 50 ms for 0.8 s"},
        ]),
        Kind::Plans => json!([
            {"plan": {"id": id("plan", "4"), "number": 2, "service": "notes", "mode": "ask", "cost_per_hour_max": 150_000, "created_at": NOW - 61_000,
              "borrow": {"requirement": {"instances": 3}},
              "verdict": {"cause": "overload", "reasons": [{"measure": "queue_delay_p95", "text": "p95 queue delay 180 ms > 50 ms for 0.8 s"}]}},
             "state": "waiting"},
        ]),
        Kind::Leases => json!([
            {"id": id("lease", "5"), "side": "rented", "borrower": "seoul", "lender": "busan", "service": "notes", "state": "active",
             "instances_granted": 3, "instances_wanted": 3, "instances_ready": 1, "price_per_instance_hour": 12_500, "expires_in_ms": 21_000,
             "instance_ms": 60_000, "requests": 1234, "since": NOW - 90_000, "why": "overload"},
        ]),
        Kind::Continuity => json!([
            {"service": "notes", "owner": "seoul", "cloud": "busan", "lease": id("lease", "5"), "state": "kept", "ready": 1, "room": 2,
             "serves_in_ms": 0, "loss_ms": 12, "kept_ms": 2_592_000_000_u64, "why": ""},
            {"service": "maps", "owner": "seoul", "cloud": null, "lease": null, "state": "missing", "ready": 0, "room": 0,
             "serves_in_ms": null, "loss_ms": null, "kept_ms": null, "why": "no cloud keeps it ready yet"},
            {"service": "shop", "owner": "jeju", "cloud": "seoul", "lease": id("lease", "6"), "state": "silent", "ready": 0, "room": 1,
             "serves_in_ms": 420, "loss_ms": 0, "kept_ms": 3_600_000, "why": "jeju is not heard for 41 s"},
        ]),
        Kind::Offers => json!([
            {"cloud": "busan", "at": NOW - 900, "free": {"cpu_millis": 3500, "memory_mib": 4096}, "storage_free_bytes": 8_589_934_592_u64,
             "price_per_cpu_hour": 50_000, "platforms": [{"os": "linux", "arch": "x86_64", "runtimes": ["python3"]}],
             "recall_notice_ms": 5_000, "lease_ttl_ms_max": 30_000},
        ]),
        Kind::Members => json!([
            {"cloud": "busan", "heard_ms_ago": 400, "rtt_us": 5_200, "trouble": null, "lends": {"cpu_millis": 4000, "memory_mib": 8192},
             "free": {"cpu_millis": 3500, "memory_mib": 4096}, "place": {"city": "Busan", "latitude": 35.18, "longitude": 129.08}},
            {"cloud": "jeju", "heard_ms_ago": null, "rtt_us": null, "trouble": "connection refused", "lends": {"cpu_millis": 1000, "memory_mib": 512},
             "free": null, "place": null},
        ]),
        Kind::Events => json!([
            {"seq": 12, "at": NOW, "actor": "daemon", "action": "lease.signed", "subject_kind": "lease", "subject": id("lease", "5"),
             "cause": "overload", "reasons": ["best of 3", "5.2 ms away"], "trace_id": null, "data": {}},
        ]),
        Kind::Tokens => json!([
            {"id": id("tok", "6"), "name": "ci", "role": "customer", "customer": "acme", "created_at": NOW - 7_200_000, "expires_at": NOW + 86_400_000},
            {"id": id("tok", "7"), "name": "wall", "role": "viewer", "created_at": NOW - 1_000, "expires_at": null},
        ]),
        Kind::Customers => json!([
            {"name": "default", "grant": {}, "services": ["notes"], "tokens": 1, "used": {"cpu_millis": 250, "memory_mib": 128}},
            {"name": "acme", "grant": {"hosts": ["*.acme.example"], "services_max": 5, "resources_max": {"cpu_millis": 4000, "memory_mib": 0}},
             "services": [], "tokens": 2, "used": {"cpu_millis": 0, "memory_mib": 0}},
        ]),
        Kind::Divergences => json!([
            {"service": "notes", "id": id("svc", "8"), "customer": "acme", "epoch": 3, "set_aside_at": NOW - 3_600_000, "bytes": 81_920, "files": 2,
             "only_here": 17, "summary": "data: 15 rows here only, 2 differ, 40 in the surviving data only"},
            {"service": "shop", "id": id("svc", "9"), "customer": "default", "epoch": 1, "set_aside_at": NOW - 5_000, "bytes": 0, "files": 0,
             "summary": "not compared yet: the surviving data are not here"},
        ]),
        Kind::Settlements => json!([
            {"lease": id("lease", "5"), "service": "notes", "side": "rented", "with": "busan", "state": "settled", "at": NOW, "instance_ms": 5_400_000,
             "reserved_instance_ms": 0, "requests": 1234, "price_per_instance_hour": 12_500, "amount": 18_750, "readings_agree": true},
            {"lease": id("lease", "6"), "service": null, "side": "lent", "with": "jeju", "state": "open", "at": NOW, "instance_ms": 60_000,
             "reserved_instance_ms": 7_200_000, "requests": 0, "price_per_instance_hour": null, "amount": 100, "readings_agree": null, "why": "no"},
        ]),
        Kind::Retired => json!([
            {"id": id("svc", "8"), "name": "notes", "customer": "acme", "retired_at": NOW - 3_600_000, "erase_after": NOW + 86_400_000},
        ]),
    }
}

#[test]
fn tables_stay_as_they_are() {
    let mut all = String::new();
    for kind in <Kind as clap::ValueEnum>::value_variants() {
        let items = samples(*kind);
        let items = items.as_array().unwrap();
        let scene = crate::kinds::Scene { now: WallMs(NOW), currency: "EUR".into(), wide: false };
        let table = crate::kinds::table(*kind, items, &scene).unwrap();
        all.push_str(&format!("===== {}\n{}{}\n", kind.plural(), table.render(false), crate::get::names(*kind, items)));
    }
    let traffic = serde_json::from_value(json!({"at": NOW, "services": {"notes": {
        "arrivals_mps": 812_000, "completed_mps": 790_000, "shed_mps": 22_000, "queue_delay_p95_us": 180_000, "app_time_p95_us": 9_400,
        "user_rtt_p50_us": 21_000, "in_flight": 14, "limit": 16, "objective_queue_delay_p95_us": 50_000, "served_by": {"seoul": 500_000, "busan": 290_000},
    }}}))
    .unwrap();
    all.push_str(&format!("===== top\n{}", crate::top::table(&traffic).render(false)));
    check("tables.txt", &all);
}

#[test]
fn an_outline_tells_units() {
    let plan = &samples(Kind::Plans)[0];
    let mut out = String::new();
    crate::describe::outline(&mut out, plan, 0);
    check("describe-plan.txt", &out);
}
