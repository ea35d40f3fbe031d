//! Who has no certificate, at the port for members: it costs us nothing, learns nothing, and takes nobody's place.

use super::stage::{HOME, Stage};
use super::wire::tls;
use crate::report::{Promise, Report};
use anyhow::Context;
use pumasi_api::message::CloudStatus;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Whom they call.
const AT: &str = "city-b";
const IDLE: usize = 2_000;
const BODIES: usize = 600;
const BODY_BYTES: usize = 480 << 10;
const WATCHED: Duration = Duration::from_secs(8);
const GROWTH_MIB_MAX: u64 = 160;

pub async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    stage.story.chapter("Strangers at the port for members");
    let peer = stage.cluster.place(AT)?.peer_listen;
    let before = rss_mib(stage)?;
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(peer)).await {
            idle.push(stream);
        }
    }
    stage.story.tell("stranger", "idle", format!("{} connections that say nothing", idle.len()));
    watch(stage, report, "2,000 idle strangers", before).await?;
    drop(idle);

    let mut bodies = tokio::task::JoinSet::new();
    for _ in 0..BODIES {
        bodies.spawn(unfinished(peer));
    }
    stage.story.tell("stranger", "bodies", format!("{BODIES} requests whose bodies never end"));
    watch(stage, report, "600 unfinished bodies", before).await?;
    bodies.shutdown().await;

    let token = std::fs::read_to_string(stage.data(AT).join("operator.token")).context("the operator's token")?;
    let answers = [
        ("the operator's token", get(peer, "/v1/tokens", Some(token.trim())).await),
        ("metrics", get(peer, "/metrics", None).await),
        ("the console", get(peer, "/console/", None).await),
        ("the API's description", get(peer, "/openapi.json", None).await),
    ];
    for (name, answer) in answers {
        let shut = !answer.as_ref().is_some_and(|a| a.starts_with("HTTP/1.1 2"));
        let line = answer.unwrap_or_else(|| "no answer".into()).lines().next().unwrap_or_default().to_owned();
        report.promise(Promise::holds(&format!("stranger: {name} at the port for members"), shut, line, "refused"));
    }
    Ok(())
}

/// Members must go on hearing each other, and the daemon stay small, while `what` lasts.
async fn watch(stage: &Stage, report: &mut Report, what: &str, before_mib: u64) -> anyhow::Result<()> {
    let (mut oldest_ms, mut largest_mib) = (0, before_mib);
    let begun = Instant::now();
    while begun.elapsed() < WATCHED {
        let status: CloudStatus = stage.cluster.client(HOME)?.get("/v1/cloud").await?;
        let heard = status.members.iter().filter(|m| m.cloud.as_str() == AT).filter_map(|m| m.heard_ms_ago).max();
        oldest_ms = oldest_ms.max(heard.unwrap_or(u64::MAX));
        largest_mib = largest_mib.max(rss_mib(stage)?);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let grown = largest_mib.saturating_sub(before_mib);
    report.figure(
        what,
        format!("{grown} MiB more, heartbeats at most {oldest_ms} ms old"),
        format!("{before_mib} MiB before"),
    );
    // A lease of this scenario lives 4 s without a renewal.
    report.promise(Promise::holds(
        &format!("stranger: members are heard beside {what}"),
        oldest_ms < 4_000,
        format!("{oldest_ms} ms"),
        "< 4000 ms",
    ));
    report.promise(Promise::holds(
        &format!("stranger: memory beside {what}"),
        grown <= GROWTH_MIB_MAX,
        format!("{grown} MiB"),
        format!("<= {GROWTH_MIB_MAX} MiB"),
    ));
    Ok(())
}

fn rss_mib(stage: &Stage) -> anyhow::Result<u64> {
    let pid = stage.cluster.supervisor.pid(AT).context("the daemon runs")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? >> 10)
}

/// Promises a body, sends most of it, and holds on.
async fn unfinished(peer: SocketAddr) {
    let Some(mut stream) = tls(peer, None).await else { return };
    let head = format!(
        "PUT /v1/pact/current HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        BODY_BYTES + 1
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&vec![b' '; BODY_BYTES]).await;
    let _ = stream.flush().await;
    std::future::pending::<()>().await;
}

/// The answer to a request without a certificate; none: it was not even answered.
async fn get(peer: SocketAddr, path: &str, token: Option<&str>) -> Option<String> {
    let ask = async {
        let mut stream = tls(peer, None).await?;
        let bearer = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{bearer}Connection: close\r\n\r\n").as_bytes())
            .await
            .ok()?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        Some(String::from_utf8_lossy(&answer).into_owned()).filter(|a| !a.is_empty())
    };
    tokio::time::timeout(Duration::from_secs(5), ask).await.ok().flatten()
}
