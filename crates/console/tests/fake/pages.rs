//! What one page alone asks for: the pact, tokens, the bill, generations, logs, manifests.

use super::{Shared, id, list, problem};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pumasi_api::console::{ManifestFault, ManifestRead};
use serde_json::{Value, json};

const CLOUDS: [&str; 5] = ["busan", "fukuoka", "gwangju", "jeju", "seoul"];
const DAY_MS: i64 = 86_400_000;

/// An hour of `notes` and `tickets` until now: calm, a campaign forty minutes ago, calm.
pub fn history(s: &Shared) -> Value {
    let now = s.now();
    let points = |most: i64, delay: i64, lent: bool| -> Vec<Value> {
        let one = |back: i64| {
            let at = (now / 5_000 - back) * 5_000;
            let is_busy = (400..520).contains(&back);
            let rate = if is_busy { most * 3 } else { most } + (back * 37 % 11) * 1_000;
            let away = if lent && is_busy { rate / 2 } else { 0 };
            json!({"at": at, "arrivals_mps": rate, "shed_mps": if is_busy && back > 500 { 40_000 } else { 0 }, "failed_mps": 0,
                "queue_delay_p95_us": if is_busy { delay * 4 } else { delay }, "served_by": {"seoul": rate - away, "busan": away}})
        };
        (1..720).rev().map(one).collect()
    };
    let services = match s.empty {
        true => json!({}),
        false => json!({"notes": points(300_000, 24_000, true), "tickets": points(60_000, 12_000, false)}),
    };
    json!({"at": now, "every_ms": 5_000, "services": services})
}

pub fn pact(s: &Shared) -> Value {
    let terms = |lends: u64, borrowers: Value| {
        json!({"lends": {"cpu_millis": lends, "memory_mib": lends * 2}, "storage_bytes": 68_719_476_736_u64, "share_per_borrower_percent": 60, "holds_per_borrower": 4,
            "price_per_cpu_hour": 50_000, "recall_notice_ms": 30_000, "hold_ttl_ms_max": 5_000, "lease_ttl_ms_max": 15_000, "borrowers": borrowers})
    };
    let member = |cloud: &&str| {
        let witness = *cloud == "gwangju";
        let lends = if witness { 0 } else { 4_000 };
        json!({"cloud": cloud, "api_address": format!("{cloud}.example:7443"), "gateway_address": format!("{cloud}.example:7444"), "bundle": "{}", "document_key": "{}",
            "terms": terms(lends, if *cloud == "jeju" { json!(["seoul"]) } else { json!([]) }), "role": if witness { "witness" } else { "cloud" }})
    };
    // The lost one has not signed the newest serial.
    let signature = |cloud: &&str| {
        let header = json!({"alg": "ES256", "kid": "k", "typ": "pumasi-pact", "iss": cloud, "serial": 9});
        json!({"protected": URL_SAFE_NO_PAD.encode(header.to_string()), "signature": "AA"})
    };
    let signatures: Vec<Value> = CLOUDS.iter().filter(|c| **c != "gwangju").map(signature).collect();
    let stood = |cloud: &&str| {
        let votes = matches!(*cloud, "seoul" | "busan" | "gwangju");
        json!({"cloud": cloud, "votes": votes, "witness": *cloud == "gwangju", "run": 4,
            "standing": if *cloud == "gwangju" { "lost" } else { "alive" }, "ailing": *cloud == "jeju"})
    };
    let pact = json!({"apiVersion": "pumasi/v1", "kind": "Pact", "id": id("pact", '7'), "serial": 9, "created_at": s.wall - 3 * DAY_MS, "currency": "KRW",
        "members": CLOUDS.iter().map(member).collect::<Vec<_>>()});
    let proposals = json!([{"id": "prop-1", "what": "admission of daegu", "cloud": "daegu", "by": "busan", "why": "a second site", "lends": {"cpu_millis": 2000, "memory_mib": 4096},
        "since": s.wall - 60_000, "word": "waiting"}]);
    json!({"pact": pact, "signed": {"payload": "", "signatures": signatures}, "proposals": if s.agreed.lock().unwrap().is_empty() { proposals } else { json!([]) },
        "vote": {"votes": true, "remarks": ["gwangju was called lost 48 s ago"], "leader": "busan", "part": "votes", "since": 3, "profile": "lan", "ttl_ms": 3_000, "term": 12, "revision": 812,
            "right_ms": 2_400, "clouds": CLOUDS.iter().map(stood).collect::<Vec<_>>(),
            "services": [{"service": "notes", "owner": "seoul", "epoch": 4, "phase": "serving", "standbys": ["busan", "fukuoka"], "sync": true, "in_step": ["busan"]},
                {"service": "tickets", "owner": "seoul", "epoch": 2, "phase": "waiting", "detail": "no room", "standbys": []}]}})
}

pub fn rehearsal(query: &str) -> Value {
    json!({"lose": query.trim_start_matches("lose="), "noticed_ms": 4_200, "asks": false, "silent": ["gwangju"], "services": [
        {"service": "notes", "class": "guaranteed", "priority": 200, "outcome": "full", "heir": "busan", "instances": 4, "of": 4, "rto_ms": 900, "rpo": "nothing", "why": "", "mend": "", "falls_short": false},
        {"service": "tickets", "class": "early", "priority": 100, "outcome": "impossible", "instances": 0, "of": 3, "rpo": "all of it", "why": "nobody keeps it ready", "mend": "add continuity.clouds", "falls_short": true}]})
}

pub fn game_days(s: &Shared) -> Vec<Value> {
    vec![json!({"service": "notes", "every_ms": 7 * DAY_MS, "next_at": s.wall + 2 * DAY_MS, "step": null,
        "last": {"began_at": s.wall - 5 * DAY_MS, "passed": true, "why": "", "heir": "busan", "taken_ms": 1_100, "answered_ms": 1_900, "back_ms": 41_000}})]
}

pub fn tokens(s: &Shared) -> Vec<Value> {
    let token = |digit: char, name: &str, role: &str, customer: Option<&str>, expires: Option<i64>| json!({"id": id("tok", digit), "name": name, "role": role, "customer": customer, "created_at": s.wall - 9 * DAY_MS, "expires_at": expires.map(|days| s.wall + days * DAY_MS)});
    let mut all =
        vec![token('1', "min-jun", "operator", None, None), token('2', "wall", "viewer", Some("default"), Some(21))];
    all.extend(s.made.lock().unwrap().iter().cloned());
    all.retain(|t| !s.revoked.lock().unwrap().iter().any(|gone| t["id"] == gone.as_str()));
    all
}

pub fn make_token(s: &Shared, wish: &Value) -> Value {
    let made = json!({"id": id("tok", '3'), "name": wish["name"], "role": wish["role"], "customer": wish["customer"], "created_at": s.now(), "expires_at": null});
    s.made.lock().unwrap().push(made.clone());
    let mut told = made;
    told["secret"] = json!("the-secret-that-is-told-once");
    told
}

pub fn bill(s: &Shared, query: &str) -> Value {
    let line = |digit: char, side: &str, with: &str, state: &str, agree: Value, amount: u64| {
        json!({"lease": id("lease", digit), "service": "notes", "side": side, "with": with, "state": state, "at": s.wall - 4_000_000, "instance_ms": 912_000, "reserved_instance_ms": 0, "requests": 11_414,
            "price_per_instance_hour": 25_000, "amount": amount, "readings_agree": agree, "why": ""})
    };
    let lines = match query.contains("month=") || s.empty {
        true => vec![],
        false => vec![
            line('a', "rented", "busan", "running", Value::Null, 6_300),
            line('7', "rented", "fukuoka", "settled", json!(true), 12_250_000),
            line('8', "rented", "busan", "settled", json!(false), 322_000),
            line('9', "lent", "jeju", "open", Value::Null, 88_000),
        ],
    };
    let (to_pay, open) = if lines.is_empty() { (0, 0) } else { (12_572_000, 6_300) };
    json!({"cloud": "seoul", "currency": "KRW", "from": 0, "before": s.wall + 1, "to_pay": to_pay, "to_get": 0, "unsigned_to_pay": open, "unsigned_to_get": if open > 0 { 88_000 } else { 0 }, "left_out": 0, "lines": lines})
}

pub fn settlements(s: &Shared) -> Vec<Value> {
    vec![
        json!({"lease": id("lease", '9'), "service": "tiles", "borrower": "jeju", "lender": "seoul", "lender_instance_ms": 912_000, "borrower_instance_ms": 640_000, "amount": 88_000,
        "since": s.wall - 7_200_000, "disputed": null}),
    ]
}

pub fn generations(service: &Value, s: &Shared) -> Vec<Value> {
    let one = |n: u64, current: bool, why: &str| json!({"generation": n, "current": current, "at": s.wall - (9 - i64::try_from(n).unwrap()) * DAY_MS, "by": "min-jun", "why": why, "service": service});
    vec![one(4, true, ""), one(3, false, "back to generation 1: slow"), one(1, false, "")]
}

/// Two instances here and a rented one; a line more with each look.
pub fn logs(s: &Shared) -> String {
    let stamp = |ms: i64| pumasi_terms::WallMs(ms).to_string();
    let mut text = String::new();
    for (instance, cloud, words) in [
        ('1', "seoul", "GET /count 200"),
        ('2', "seoul", "GET /note/7 200"),
        (
            '9',
            "busan",
            "a long line that a phone must break somewhere: GET /a/very/long/path/that/has/no/blank/in/it?and=a&query=too 200",
        ),
    ] {
        text += &format!("== {} at {cloud}\n", id("inst", instance));
        for n in (0..20).rev() {
            text += &format!("{} {words}\n", stamp(s.now() - n * 700));
        }
        text += "  and what belongs to it\n";
    }
    text
}

/// By the daemon's own reader.
pub fn read_manifest(sent: &Value) -> Value {
    let read = match pumasi_terms::manifest::services("", sent["text"].as_str().unwrap()) {
        Ok(services) => ManifestRead { services, ..ManifestRead::default() },
        Err(wrong) => {
            let fault = |f: pumasi_terms::faults::Fault| ManifestFault {
                line: f.line,
                column: f.column,
                field: f.field,
                problem: f.problem,
            };
            ManifestRead { faults: wrong.faults.into_iter().map(fault).collect(), ..ManifestRead::default() }
        }
    };
    serde_json::to_value(read).unwrap()
}

/// One that asks for the host of another is refused, with the field.
pub fn check(sent: &Value) -> Response {
    let hosts = sent["service"]["spec"]["hosts"].to_string();
    if !hosts.contains("taken.example") {
        return ([(header::CONTENT_TYPE, "application/json")], json!({"state": "yes", "why": []}).to_string())
            .into_response();
    }
    let body = json!({"code": "invalid", "status": 422, "detail": "not valid", "fault": "input", "retry": false,
        "fields": [{"field": "spec.hosts[0]", "problem": "taken.example belongs to another service"}]});
    (StatusCode::UNPROCESSABLE_ENTITY, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string())
        .into_response()
}

/// Of what only some may: refused as the daemon does it.
pub fn may_not(name: &str, summary: &str) -> Response {
    problem(403, &format!("{name} may not: {summary}"))
}

pub fn items(all: Vec<Value>) -> Value {
    list(all)
}
