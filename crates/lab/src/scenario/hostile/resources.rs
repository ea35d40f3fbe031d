//! What an application uses up: disk, inodes, log, memory, processes. Its neighbours and the store must not notice.

use super::stage::{ATTACKER, DATASET_BYTES_MAX, HOME, Stage, VICTIM};
use crate::load::{self, Planned};
use crate::report::{Promise, Report};
use anyhow::Context;
use pumasi_api::message::Automation;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const MEASURED: Duration = Duration::from_secs(4);
const ANSWERED: Duration = Duration::from_secs(12);
/// A neighbour with a fifth of a processor answers in some ten milliseconds; under attack it may wait for the other one.
const NEIGHBOUR_P99_MS: f64 = 250.0;
const COMMIT_P99_MS: f64 = 250.0;

/// Beside an attack: what a neighbour's users and the operator see.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) neighbour_p99_ms: f64,
    /// How often each status, or each way to fail, was the answer.
    pub(super) neighbour_failed: BTreeMap<String, u64>,
    commit_p99_ms: f64,
}

/// One request of an ordinary user; an error says how it failed.
pub(super) async fn ordinary(users: SocketAddr, host: &str) -> Result<(), String> {
    match load::ask(users, host, &Planned::get("/".into())).await {
        Ok((status, _)) if status.is_success() => Ok(()),
        Ok((status, body)) => {
            Err(format!("{status} {}", String::from_utf8_lossy(&body).chars().take(160).collect::<String>()))
        }
        Err(e) => Err(format!("{e:#}")),
    }
}

impl Beside {
    pub(super) fn count_failed(&mut self, failed: Vec<String>) {
        failed.into_iter().for_each(|how| *self.neighbour_failed.entry(how).or_default() += 1);
    }
    /// No request failed; what is measured says how those did that failed.
    pub(super) fn none_failed(&self, name: &str) -> Promise {
        let failed = &self.neighbour_failed;
        let how = failed.iter().map(|(how, n)| format!("{n} x {how}")).collect::<Vec<_>>().join("; ");
        let measured = if failed.is_empty() { "0".to_owned() } else { how };
        Promise::holds(name, failed.is_empty(), measured, "0")
    }
}

pub async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    stage.story.chapter("An application uses up what it can get");
    let calm = beside(stage).await?;
    report.figure("neighbour p99, calm", format!("{:.1} ms", calm.neighbour_p99_ms), "of one request after another");
    report.figure("commit p99, calm", format!("{:.1} ms", calm.commit_p99_ms), "an operator's act through the API");
    let seconds = MEASURED.as_secs() + 1;
    let attacks = [
        ("disk", format!("fill?set=FILES&bytes={}", 8 * DATASET_BYTES_MAX)),
        ("inodes", "inodes?set=FILES&files=2000000".to_owned()),
        ("log", format!("log?seconds={seconds}")),
        ("memory", "memory".to_owned()),
        ("processes", format!("forks?most=5000&seconds={seconds}")),
    ];
    for (name, attack) in attacks {
        let before = bytes_below(&stage.data(HOME));
        let attacker = async {
            // It may be stopped for it, and then it answers nothing.
            let told = tokio::time::timeout(ANSWERED, stage.ask(ATTACKER, &attack)).await;
            told.ok().and_then(Result::ok)
        };
        let (told, seen) = tokio::join!(attacker, beside(stage));
        let seen = seen?;
        let grown = bytes_below(&stage.data(HOME)).saturating_sub(before);
        let told = told.map_or_else(|| "it was stopped".to_owned(), |t| t.got.unwrap_or(t.how));
        stage.story.tell("lab", name, format!("{told}; {seen:?}; {} MiB more on disk", grown >> 20));
        report.figure(
            &format!("beside a flood of {name}"),
            format!("neighbour p99 {:.1} ms, commit p99 {:.1} ms", seen.neighbour_p99_ms, seen.commit_p99_ms),
            format!("{told}; {} MiB more on disk", grown >> 20).chars().take(120).collect::<String>(),
        );
        // A fast disk takes the burst before anybody has looked.
        let burst = pumasi_engine::Limits::default().disk_write.burst_bytes;
        let bound = DATASET_BYTES_MAX + burst;
        report.promise(Promise::holds(
            &format!("{name}: disk stays bounded"),
            grown <= bound,
            format!("{} MiB", grown >> 20),
            "its dataset and a burst of writes",
        ));
        report.promise(seen.none_failed(&format!("{name}: neighbour's requests that failed")));
        report.promise(Promise::within_ms(
            &format!("{name}: neighbour p99"),
            Some(seen.neighbour_p99_ms),
            NEIGHBOUR_P99_MS,
        ));
        report.promise(Promise::within_ms(&format!("{name}: commit p99"), Some(seen.commit_p99_ms), COMMIT_P99_MS));
        // One that stands still cannot make room itself: its operator does.
        for path in named(&stage.data(HOME), &["filler", "many"]) {
            // Out of its way first: it may still be writing there.
            let aside = path.with_extension("gone");
            std::fs::rename(&path, &aside)?;
            if aside.is_dir() { std::fs::remove_dir_all(&aside)? } else { std::fs::remove_file(&aside)? }
        }
        let goes_on = stage.ask(ATTACKER, "tidy").await;
        let told = goes_on.as_ref().map_or_else(ToString::to_string, |t| t.how.clone());
        report.promise(Promise::holds(&format!("{name}: it goes on afterwards"), goes_on.is_ok(), told, "it answers"));
    }
    Ok(())
}

fn named(root: &Path, names: &[&str]) -> Vec<std::path::PathBuf> {
    let (mut found, mut ahead) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let wanted = entry.file_name().to_str().is_some_and(|n| names.contains(&n));
            match entry.file_type() {
                _ if wanted => found.push(entry.path()),
                Ok(kind) if kind.is_dir() => ahead.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

pub(super) async fn beside(stage: &Stage) -> anyhow::Result<Beside> {
    let (users, host) = (stage.cluster.place(HOME)?.users, format!("{VICTIM}.{HOME}.example"));
    let client = stage.cluster.client(HOME)?;
    let begun = Instant::now();
    let (mut answers, mut commits, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    let mut stopped = false;
    while begun.elapsed() < MEASURED {
        let asked = Instant::now();
        failed.extend(ordinary(users, &host).await.err());
        answers.push(asked.elapsed());
        stopped = !stopped;
        let asked = Instant::now();
        let why = "measured beside an attack".to_owned();
        let _: serde_json::Value =
            client.post("/v1/automation", &Automation { stopped, why }).await.context("an operator's act")?;
        commits.push(asked.elapsed());
    }
    let _: serde_json::Value =
        client.post("/v1/automation", &Automation { stopped: false, why: String::new() }).await.context("resuming")?;
    let p99 = |times: &mut Vec<Duration>| {
        times.sort();
        times.get((times.len() * 99 / 100).min(times.len().saturating_sub(1))).map_or(0.0, |t| t.as_secs_f64() * 1e3)
    };
    let mut seen = Beside {
        neighbour_p99_ms: p99(&mut answers),
        neighbour_failed: BTreeMap::new(),
        commit_p99_ms: p99(&mut commits),
    };
    seen.count_failed(failed);
    Ok(seen)
}

/// Allocated on disk, as `du` counts.
fn bytes_below(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut sum, mut ahead) = (0, vec![root.to_owned()]);
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            sum += meta.blocks() * 512;
            if meta.is_dir() {
                ahead.push(entry.path());
            }
        }
    }
    sum
}
