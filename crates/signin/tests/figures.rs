//! What a sign-in process does in a second of one core, over loopback:
//! `cargo test --release -p pumasi-signin --test figures -- --ignored --nocapture`.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::authenticator::Authenticator;
use harness::{HOST, Process, digest, settings};
use serde_json::json;

const PASSWORD: &str = "correct horse battery";
/// Of `/proc/PID/stat` (`_SC_CLK_TCK` on every Linux that Rust runs on).
const TICKS_PER_SECOND: f64 = 100.0;

#[test]
fn child() {
    harness::child();
}

fn cpu_seconds(process: &Process) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.child.id())).unwrap();
    let after = stat.rsplit_once(") ").unwrap().1;
    let ticks: f64 = after.split(' ').skip(11).take(2).map(|n| n.parse::<f64>().unwrap()).sum();
    ticks / TICKS_PER_SECOND
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a quiet machine, and says figures instead of judging them"]
async fn figures() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), &settings()).await;
    let mut browser = process.browser();
    browser.sign_up("minjun", PASSWORD).await;
    let secret = browser.session().unwrap().to_owned();
    let report = |what: &str, n: u32, cpu: f64, wall: std::time::Duration| {
        let (per_cpu, each_ms) = (f64::from(n) / cpu, wall.as_secs_f64() * 1e3 / f64::from(n));
        println!("{what:28} {per_cpu:>9.0} a CPU-second, {each_ms:>7.3} ms each, one after the other");
    };
    let check = json!({"by": "session", "digest": digest(&secret)});
    let (begun, cpu) = (std::time::Instant::now(), cpu_seconds(&process));
    for _ in 0..10_000 {
        process.gate(check.clone()).await;
    }
    report("who a session is", 10_000, cpu_seconds(&process) - cpu, begun.elapsed());

    browser.get("sign-in?again=1").await;
    let (begun, cpu) = (std::time::Instant::now(), cpu_seconds(&process));
    for _ in 0..100 {
        browser.get("sign-in?again=1").await;
        let form = [("login", "minjun"), ("password", PASSWORD)];
        assert_eq!(browser.post("sign-in", &form).await.status, 303);
    }
    report("sign-in by password", 100, cpu_seconds(&process) - cpu, begun.elapsed());

    browser.get("account").await;
    let mut device = Authenticator::new(-7, HOST, "https://docs.example");
    let (_, begun) = browser.post_json("passkey/add/begin", json!({})).await;
    let proof = device.create(&begun["options"]);
    assert_eq!(browser.post_json("passkey/add/finish", proof).await.0, 200);
    let (begun, cpu) = (std::time::Instant::now(), cpu_seconds(&process));
    for _ in 0..1_000 {
        browser.get("sign-in?again=1").await;
        let (_, options) = browser.post_json("passkey/sign-in/begin", json!({})).await;
        let said = browser.post_json("passkey/sign-in/finish", device.get(&options["options"])).await;
        assert_eq!(said.0, 200);
    }
    report("sign-in by passkey", 1_000, cpu_seconds(&process) - cpu, begun.elapsed());
    println!("resident at most: {} KiB", process.memory_kib());
}
