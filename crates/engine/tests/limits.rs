//! An instance that uses up whatever it can: logs, processes, memory, disk. It hurts itself; its shim and its neighbours go on. All of it
//! needs root and control groups; without them the tests say so and pass.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{App, At, ProcessRig, Rig, get, is_root, ready, shell, status, wait};
use pumasi_engine::*;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// `None`, and said so, where this host does not limit.
async fn rig(change: impl FnOnce(&mut ProcessConfig)) -> Option<ProcessRig> {
    if !is_root() {
        println!("not tried: this needs root");
        return None;
    }
    let rig = ProcessRig::with(change).await;
    let isolation = rig.engine().capabilities().isolation;
    if isolation.cgroup.is_none() || !isolation.freezer {
        println!("not tried: no control groups or no freezer here: {isolation:?}");
        return None;
    }
    Some(rig)
}

async fn started(rig: &ProcessRig, spec: &InstanceSpec) -> At {
    rig.engine().start(spec.clone()).await.unwrap();
    At::of(&ready(rig, &spec.id).await)
}

/// A script that goes on after the request for it was answered.
fn behind(address: At, script: &str) {
    shell(address, &format!("( {script} ) </dev/null >/dev/null 2>&1 &"));
}

fn number(path: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse().ok()).unwrap()
}

fn cpu_ms(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}

/// Times of answers to a neighbour's users, in ms: median and 99th percentile.
fn answers(address: At) -> (f64, f64) {
    let mut took: Vec<f64> = (0..300)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(get(address, "/").unwrap(), "well");
            std::thread::sleep(Duration::from_millis(2));
            begun.elapsed().as_secs_f64() * 1e3 - 2.0
        })
        .collect();
    took.sort_by(f64::total_cmp);
    (took[150], took[296])
}

fn groups_of(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap()
}

async fn log(rig: &ProcessRig, spec: &InstanceSpec) -> String {
    pumasi_engine::stamp::plain(&String::from_utf8_lossy(&rig.engine().logs(&spec.id, 8 << 20).await.unwrap()))
}

#[tokio::test]
async fn shim_and_application_are_limited_apart() {
    let Some(rig) = rig(|_| {}).await else { return };
    let spec = rig.spec(1, App::Well);
    started(&rig, &spec).await;
    let app = status(&rig, &spec.id).await.unwrap().pid.unwrap() as i32;
    let (shim, app) = (groups_of(rig.shim_pid(&spec.id)), groups_of(app));
    for controller in ["memory", "pids", "cpu"] {
        let part = |text: &str| {
            let of = |l: &&str| {
                l.contains(&format!(":{controller}:")) || l.contains(":cpu,cpuacct:") || l.starts_with("0::")
            };
            text.lines().find(of).map(str::to_owned).unwrap_or_default()
        };
        assert!(part(&shim).ends_with("/keepers"), "{shim}");
        assert!(part(&app).ends_with("/app"), "{app}");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_flood_of_output_costs_the_host_little() {
    let Some(rig) = rig(|c| c.limits.log = Rate { bytes_per_s: MIB, burst_bytes: 2 * MIB }).await else { return };
    let spec = rig.spec(1, App::Well);
    let address = started(&rig, &spec).await;
    let shim = rig.shim_pid(&spec.id);
    let io = format!("/proc/{shim}/io");
    let (cpu, wrote, begun) = (cpu_ms(shim), number(&io, "wchar:"), Instant::now());
    let flood = std::thread::spawn(move || get(address, "/print?200000"));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let passed_s = begun.elapsed().as_secs_f64();
    let cpu_share = (cpu_ms(shim) - cpu) as f64 / 1e3 / passed_s;
    let wrote = number(&io, "wchar:") - wrote;
    println!(
        "flood of output: {:.2} MiB/s reach the disk, the shim uses {cpu_share:.3} of a core",
        wrote as f64 / MIB as f64 / passed_s
    );
    assert!((wrote as f64) < MIB as f64 * (2.0 + passed_s) * 1.1 + 65_536.0, "{wrote} bytes in {passed_s} s");
    assert!(cpu_share < 0.1, "{cpu_share}");
    assert_eq!(get(address, "/").unwrap(), "well", "it is slowed down, not stopped");
    let text = log(&rig, &spec).await;
    let told: Vec<&str> =
        text.lines().filter(|l| l.starts_with("[pumasi]") && l.contains("bytes were dropped")).collect();
    assert!(!told.is_empty() && told.len() < 20, "{told:?}");
    rig.end().await;
    drop(flood.join());
}

#[tokio::test]
async fn forged_lines_are_told_from_ours() {
    let Some(rig) = rig(|_| {}).await else { return };
    let mut spec = rig.spec(1, App::Well);
    let script = "printf '[pumasi] all is well\\n== inst-0 at city-a\\n'; exec ./app";
    spec.command = ["sh", "-c", &script.replace("./app", "${BUNDLE}/app")].map(str::to_owned).to_vec();
    started(&rig, &spec).await;
    let text = log(&rig, &spec).await;
    assert!(text.contains(" [pumasi] all is well\n == inst-0 at city-a\n"), "{text}");
    assert!(!text.lines().any(|l| l.starts_with("[pumasi] all is well") || l.starts_with("== ")), "{text}");
    rig.end().await;
}

#[tokio::test]
async fn a_fork_bomb_stays_in_its_group_and_ends_when_told() {
    let Some(rig) = rig(|_| {}).await else { return };
    let (mut bomb, mut neighbour) = (rig.spec(1, App::Well), rig.spec(2, App::Well));
    bomb.resources.cpu_millis = 500;
    bomb.stop_grace_ms = 500;
    neighbour.resources.cpu_millis = 500;
    let (bad, good) = (started(&rig, &bomb).await, started(&rig, &neighbour).await);
    let quiet = answers(good);
    let place = |id: &pumasi_terms::InstanceId| -> PathBuf {
        let record = std::fs::read(rig.instance_dir(id).join("spec.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let dirs = &record["cgroup"]["dirs"];
        PathBuf::from(dirs["pids"].as_str().or(dirs[""].as_str()).unwrap()).join("app")
    };
    // Threads and processes alike: each shell waits for two more.
    behind(bad, "f() { f | f & }; f; while true; do f; done");
    let begun = Instant::now();
    let peak = loop {
        let tasks =
            std::fs::read_to_string(place(&bomb.id).join("pids.current")).unwrap().trim().parse::<u32>().unwrap();
        if tasks > 400 || begun.elapsed() > Duration::from_secs(20) {
            break tasks;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!((100..=512).contains(&peak), "{peak}");
    let loud = answers(good);
    println!(
        "fork bomb of {peak}: a neighbour's p50/p99 {:.1}/{:.1} ms before, {:.1}/{:.1} ms meanwhile",
        quiet.0, quiet.1, loud.0, loud.1
    );
    assert!(loud.1 < quiet.1 + 1_000.0, "{loud:?}");
    let begun = Instant::now();
    rig.engine().stop(&bomb.id).await.unwrap();
    wait(&rig, &bomb.id, |s| matches!(s.state, InstanceState::Stopped { .. })).await;
    println!("the bomb was gone {} ms after the order", begun.elapsed().as_millis());
    rig.end().await;
}

#[tokio::test]
async fn memory_ends_the_application_and_not_its_shim_and_files_in_memory_count() {
    let Some(rig) = rig(|_| {}).await else { return };
    let mut spec = rig.spec(1, App::Well);
    spec.resources.memory_mib = 48;
    let address = started(&rig, &spec).await;
    let shim = rig.shim_pid(&spec.id);
    // So much fits beside the application, and not beside the files that fill half of its memory.
    let _ = get(address, "/alloc?36");
    assert_eq!(status(&rig, &spec.id).await.unwrap().restarts, 0);
    shell(address, "dd if=/dev/zero of=/dev/shm/x bs=1M count=60 2>/dev/null || true");
    let _ = get(address, "/alloc?36");
    wait(&rig, &spec.id, |s| s.restarts > 0).await;
    ready(&rig, &spec.id).await;
    let before = status(&rig, &spec.id).await.unwrap().restarts;
    let found = ready(&rig, &spec.id).await;
    let _ = get(At::of(&found), "/alloc?400");
    wait(&rig, &spec.id, |s| s.restarts > before).await;
    ready(&rig, &spec.id).await;
    let text = log(&rig, &spec).await;
    assert!(text.lines().any(|l| l.starts_with("[pumasi]") && l.contains("more memory than its limit")), "{text}");
    assert_eq!(rig.shim_pid(&spec.id), shim, "the shim outlives all of it");
    rig.end().await;
}

fn bytes_below(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.metadata().ok()).map(|m| if m.is_file() { m.blocks() * 512 } else { 0 }).sum()
}

#[tokio::test]
async fn writing_is_held_to_its_rate() {
    let rate = Rate { bytes_per_s: 16 * MIB, burst_bytes: 32 * MIB };
    let Some(rig) = rig(|c| c.limits.disk_write = rate).await else { return };
    let data = rig.dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let mut spec = rig.spec(1, App::Well);
    spec.data = [("SET".to_owned(), DataMount { path: data.clone(), access: Access::ReadWrite })].into();
    spec.resources.cpu_millis = 500;
    let address = started(&rig, &spec).await;
    // Children that end at once and one that goes on: both are counted.
    behind(
        address,
        "dd if=/dev/zero of=$DATA_SET/a bs=1M count=6000 & while true; do dd if=/dev/zero of=$DATA_SET/b bs=1M count=20 conv=notrunc; done",
    );
    let begun = Instant::now();
    let mut answered = 0;
    while begun.elapsed() < Duration::from_secs(8) {
        answered += u32::from(get(address, "/").is_ok_and(|b| b == "well"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let written = bytes_below(&data);
    let allowed = rate.burst_bytes + 8 * rate.bytes_per_s;
    println!(
        "{} MiB were written in 8 s; {} MiB are its share; {answered} answers meanwhile",
        written / MIB,
        allowed / MIB
    );
    assert!(written > rate.burst_bytes, "it does write: {written}");
    assert!(written < 3 * allowed, "{written} of {allowed}");
    assert!(answered > 2, "{answered}");
    assert!(log(&rig, &spec).await.contains("[pumasi] more than 16777216 bytes a second"), "it is told");
    rig.end().await;
}

#[tokio::test]
async fn what_is_held_stands_still_until_it_is_let_go_and_can_be_ended() {
    let Some(rig) = rig(|_| {}).await else { return };
    let (one, mut two) = (rig.spec(1, App::Well), rig.spec(2, App::Well));
    two.owner = "service-b".into();
    let address = started(&rig, &one).await;
    let other = started(&rig, &two).await;
    behind(address, "while true; do :; done");
    rig.engine().hold(&one.owner, Some("over its quota: 5 of 4 GiB")).await.unwrap();
    let held =
        |s: &InstanceStatus| matches!(&s.state, InstanceState::Unready { why } if why.contains("over its quota"));
    wait(&rig, &one.id, held).await;
    let used_us = || async { status(&rig, &one.id).await.unwrap().cpu_used_us };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = used_us().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(used_us().await - before < 20_000, "it stands still");
    assert_eq!(get(other, "/").unwrap(), "well", "another owner's goes on");
    assert_eq!(status(&rig, &one.id).await.unwrap().restarts, 0);

    rig.engine().hold(&one.owner, None).await.unwrap();
    ready(&rig, &one.id).await;
    assert_eq!(get(address, "/").unwrap(), "well");

    // Held, its shim killed: the application does not outlive it, and is held again when it is revived.
    rig.engine().hold(&one.owner, Some("over its quota")).await.unwrap();
    let pid = wait(&rig, &one.id, held).await.pid.unwrap();
    rig.kill_shim(&one.id).await;
    wait(&rig, &one.id, |s| matches!(s.state, InstanceState::Failed { .. })).await;
    let begun = Instant::now();
    while common::exists(i32::try_from(pid).unwrap()) {
        assert!(begun.elapsed() < Duration::from_secs(10), "a frozen application outlived its shim");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.engine().start(one.clone()).await.unwrap();
    wait(&rig, &one.id, held).await;
    // Ends although it is held.
    rig.end().await;
}

#[tokio::test]
async fn groups_of_engines_that_were_killed_go_when_another_looks() {
    let Some(rig) = rig(|_| {}).await else { return };
    let spec = rig.spec(1, App::Well);
    started(&rig, &spec).await;
    let record = std::fs::read(rig.instance_dir(&spec.id).join("spec.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let roots: Vec<PathBuf> = record["cgroup"]["dirs"]
        .as_object()
        .unwrap()
        .values()
        .map(|d| Path::new(d.as_str().unwrap()).parent().unwrap().parent().unwrap().to_owned())
        .collect();
    let dead: Vec<PathBuf> = roots.iter().map(|r| r.join("pumasi_00dead00beef0000")).collect();
    let others: Vec<PathBuf> = roots.iter().map(|r| r.join("pumasi_of_somebody_else")).collect();
    for dir in &dead {
        for part in ["app", "keepers"] {
            std::fs::create_dir_all(dir.join("inst-1").join(part)).unwrap();
        }
    }
    for dir in &others {
        std::fs::create_dir_all(dir).unwrap();
    }
    let begun = Instant::now();
    while dead.iter().any(|d| d.exists()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "empty groups stay");
        rig.engine().list().await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(status(&rig, &spec.id).await.unwrap().state, InstanceState::Ready);
    for dir in &others {
        std::fs::remove_dir(dir).unwrap();
    }
    rig.end().await;
}
