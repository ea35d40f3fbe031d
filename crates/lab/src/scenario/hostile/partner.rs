//! A member of the pact that lies: as a caller, and as the one who is called. Its keys are good; its word is not.

use super::stage::{HOME, Stage};
use super::wire::{body_of, call, daemon_of};
use crate::report::{Promise, Report};
use anyhow::{Context, ensure};
use pumasi_api::message::{CloudStatus, Event, List};
use pumasi_trust::{SharedIdentity, Svid, server_config_public};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Who lies.
const LIAR: &str = "city-c";
const HOLDS: usize = 3_000;
const LIES_FOR: Duration = Duration::from_secs(4);

pub async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    stage.story.chapter("A member that floods, lies and redirects");
    let svid = daemon_of(&stage.data(LIAR).join("trust"), LIAR)?;
    let own = daemon_of(&stage.data(HOME).join("trust"), HOME)?;
    flood(stage, report, &svid).await?;

    // What it would answer in truth, to be turned into lies.
    let honest = stage.cluster.place(LIAR)?.peer_listen;
    let beat = json!({"protocol": 1, "pact_serial": 1, "incarnation": 0, "revision": 0, "renew": []}).to_string();
    let answer = call(honest, Some(&own), "POST", "/v1/heartbeat", &beat).await.context("an honest heartbeat")?;
    let truth: Value =
        serde_json::from_str(body_of(&answer)).with_context(|| format!("a heartbeat's answer: {answer}"))?;
    stage.let_die(LIAR).await?;

    let trap = Trap::open().await?;
    for (name, lie) in lies(&truth, trap.address) {
        let liar = Liar::open(honest, &svid, lie).await?;
        tokio::time::sleep(LIES_FOR).await;
        let status: CloudStatus = stage.cluster.client(HOME)?.get("/v1/cloud").await?;
        let ready = stage.cluster.client(HOME)?.text("/readyz").await;
        let others = status
            .members
            .iter()
            .filter(|m| m.cloud.as_str() != LIAR)
            .all(|m| m.heard_ms_ago.is_some_and(|ms| ms < 4_000));
        let trouble = status.members.iter().find(|m| m.cloud.as_str() == LIAR).and_then(|m| m.trouble.clone());
        let kept = ready.is_ok() && status.standing == "current" && others && liar.asked() > 0;
        let told = format!(
            "{} answers; {}; {}",
            liar.asked(),
            status.standing,
            trouble.unwrap_or_else(|| "no trouble".into())
        );
        stage.story.tell(LIAR, if kept { "held" } else { "BROKEN" }, format!("{name}: {told}"));
        report.promise(Promise::holds(&format!("partner: {name}"), kept, told, "ready, the others are heard"));
        liar.close().await;
    }
    report.promise(Promise::none("partner: redirects that were followed", trap.caught()));
    stage.restart(LIAR).await?;
    let begun = Instant::now();
    loop {
        let status: CloudStatus = stage.cluster.client(HOME)?.get("/v1/cloud").await?;
        let heard = |m: &pumasi_api::message::MemberStatus| {
            m.cloud.as_str() == LIAR && m.trouble.is_none() && m.heard_ms_ago.is_some()
        };
        if status.members.iter().any(heard) {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "{LIAR} is not heard again after it stopped lying");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Holds by the thousand: neither the places nor the journal of the lender are washed away.
async fn flood(stage: &Stage, report: &mut Report, svid: &Svid) -> anyhow::Result<()> {
    let peer = stage.cluster.place(HOME)?.peer_listen;
    let before: List<Event> = stage.cluster.client(HOME)?.get("/v1/events?limit=1000").await?;
    let (mut asked, mut refused) = (0u64, 0u64);
    let begun = Instant::now();
    let mut at_once = tokio::task::JoinSet::new();
    for _ in 0..HOLDS {
        if begun.elapsed() > Duration::from_secs(15) {
            break;
        }
        let body = json!({
            "id": format!("res-{:032x}", rand::random::<u128>()), "ttl_ms": 100,
            "requirement": {"service": "x", "resources": {"cpu_millis": 1, "memory_mib": 1}, "instances": 1, "platform": {"runtimes": []},
                            "storage_bytes": 0, "lease_ttl_ms": 4000},
        });
        let svid = svid.clone();
        at_once.spawn(async move { call(peer, Some(&svid), "POST", "/v1/reservations", &body.to_string()).await });
        if at_once.len() >= 32
            && let Some(done) = at_once.join_next().await
        {
            asked += 1;
            refused += u64::from(done.ok().flatten().is_some_and(|a| a.starts_with("HTTP/1.1 4")));
        }
    }
    at_once.shutdown().await;
    let after: List<Event> = stage.cluster.client(HOME)?.get("/v1/events?limit=1000").await?;
    let first = before.items.first().map(|e| e.seq);
    let kept = first.is_none_or(|seq| after.items.first().is_some_and(|e| e.seq <= seq.max(after.items.len() as u64)));
    let rows = after.items.last().map_or(0, |e| e.seq).saturating_sub(before.items.last().map_or(0, |e| e.seq));
    let told =
        format!("{asked} asked in {:.1} s, {refused} refused, {rows} journal rows", begun.elapsed().as_secs_f64());
    stage.story.tell(LIAR, "flood", &told);
    report.promise(Promise::holds(
        "partner: a flood of holds does not wash the journal",
        kept && rows < 600,
        told,
        "< 600 rows",
    ));
    Ok(())
}

/// What the member says instead of the truth.
#[derive(Debug, Clone)]
enum Lie {
    Answer(String),
    Redirect(u16, String),
}

fn lies(truth: &Value, trap: SocketAddr) -> Vec<(&'static str, Lie)> {
    let with = |changes: &[(&str, Value)]| {
        let mut lie = truth.clone();
        for (key, value) in changes {
            lie[*key] = value.clone();
        }
        Lie::Answer(lie.to_string())
    };
    vec![
        ("a revision of the future", with(&[("seen_revision", json!(9_000_000_000_000u64))])),
        (
            "the largest revision there is",
            with(&[("seen_revision", json!(i64::MAX)), ("seen_incarnation", json!(i64::MAX))]),
        ),
        ("numbers beyond 63 bits", with(&[("seen_revision", json!(u64::MAX)), ("seen_incarnation", json!(u64::MAX))])),
        (
            "another one's incarnation and pact",
            with(&[("seen_incarnation", json!(77)), ("pact_serial", json!(99_999_999u64))]),
        ),
        ("no answer that reads", Lie::Answer("[[[[".repeat(10_000))),
        ("a redirect to plain HTTP on this host", Lie::Redirect(307, format!("http://{trap}/latest/meta-data/iam"))),
        ("a redirect that keeps the method", Lie::Redirect(308, format!("https://{trap}/v1/tokens"))),
    ]
}

/// Answers every request over TLS with the same lie.
struct Liar {
    asked: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Liar {
    async fn open(at: SocketAddr, svid: &Svid, lie: Lie) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(at).await.with_context(|| format!("taking {at} over"))?;
        let config = server_config_public(SharedIdentity::new(svid)?, &[b"http/1.1"])?;
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, lie, count) = (acceptor.clone(), lie.clone(), count.clone());
                connections.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut bytes = vec![0u8; 64 << 10];
                    // Requests here are short and arrive in one piece or two; one answer, then the connection ends.
                    while !ends(&bytes_read(&mut stream, &mut bytes).await) {}
                    count.fetch_add(1, Ordering::Relaxed);
                    let answer = match lie {
                        Lie::Answer(body) => format!(
                            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                            body.len()
                        ),
                        Lie::Redirect(status, to) => {
                            format!("HTTP/1.1 {status} Elsewhere\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                        }
                    };
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Ok(Self { asked, task })
    }

    /// Its port is free afterwards.
    async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn bytes_read(stream: &mut (impl AsyncReadExt + Unpin), into: &mut [u8]) -> Vec<u8> {
    let read = tokio::time::timeout(Duration::from_millis(300), stream.read(into)).await;
    read.ok().and_then(Result::ok).map(|n| into[..n].to_vec()).unwrap_or_default()
}

/// Nothing more came for a moment, or the body's end did.
fn ends(piece: &[u8]) -> bool {
    piece.is_empty() || piece.ends_with(b"}") || piece.ends_with(b"\r\n\r\n")
}

/// Counts who comes to where redirects lead.
struct Trap {
    address: SocketAddr,
    caught: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Trap {
    async fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let caught = Arc::new(AtomicU64::new(0));
        let count = caught.clone();
        let task = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self { address, caught, task })
    }

    fn caught(&self) -> u64 {
        self.caught.load(Ordering::Relaxed)
    }
}
