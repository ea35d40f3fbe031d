//! What a customer puts into its own datasets to reach others' files by way of whoever copies them.

use super::stage::{ATTACKER, HOME, LENDERS, Stage, Told, VICTIM};
use crate::report::{Promise, Report};
use anyhow::{Context, ensure};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The shipper looks several times a second; a second or two would do.
const LOOK: Duration = Duration::from_secs(6);

pub async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    stage.story.chapter("Links, holes and pipes in a dataset that is being copied");
    let mark = stage.mark.clone().into_bytes();
    let victim = Stage::holding(&stage.data(HOME).join("services"), &mark);
    let database = victim.iter().find(|p| p.ends_with("db.sqlite") || p.ends_with("db.sqlite-wal"));
    let database = database.context("the victim's database is on disk")?.with_file_name("db.sqlite");
    let store = stage.data(HOME).join("store/pumasi.sqlite");
    let trust = stage.data(HOME).join("trust");
    let authority = std::fs::read(trust.join("authority.json")).context("reading the authority, to know it again")?;
    let authority = authority[..authority.len().min(200)].to_vec();

    stage.ask(ATTACKER, "own-database").await?;
    let crowd = stage.crowd()?;
    stage.rented().await?;
    for (name, target) in [("another customer's database", &database), ("the daemon's own store", &store)] {
        stage.ask(ATTACKER, &format!("link-database?to={}", target.display())).await?;
        tokio::time::sleep(LOOK).await;
        let got = away(stage, &mark).first().map(|p| format!("it is in {}", p.display()));
        stage.judge(report, "files", &format!("a link to {name}"), &held(got));
    }
    stage.ask(ATTACKER, "own-database").await?;

    let seconds = LOOK.as_secs();
    stage.ask(ATTACKER, &format!("flap?to={}&seconds={seconds}", trust.display())).await?;
    let begun = Instant::now();
    let mut got = None;
    while begun.elapsed() < LOOK + Duration::from_secs(2) && got.is_none() {
        got = away(stage, &authority).first().map(|p| format!("the authority's key is in {}", p.display()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.judge(report, "files", "a directory that is exchanged for a link all the time", &held(got));

    let before = stage.cluster.supervisor.pid(HOME);
    stage.ask(ATTACKER, "truncate-shm?seconds=4").await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let alive = stage.cluster.supervisor.pid(HOME) == before && stage.cluster.supervisor.exit_status(HOME).is_none();
    let got = (!alive).then(|| "the daemon is gone".to_owned());
    stage.judge(report, "files", "its database's shared memory cut away under the reader", &held(got));

    stage.ask(ATTACKER, "odd").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    stage.ask(ATTACKER, "even").await?;
    let told = stage.ask(VICTIM, "own-database?text=still-here").await;
    let served = told.is_ok() && stage.daemons_that_died().is_empty();
    report.promise(Promise::holds(
        "files: pipes, holes of 1 TiB, links to /proc",
        served,
        "the neighbour serves on",
        "no harm",
    ));
    stage.alone_again(crowd).await?;
    let left: Vec<String> = LENDERS.iter().flat_map(|l| stage.cluster.remains(l)).collect();
    ensure!(left.is_empty(), "something foreign is left: {}", left.join(", "));
    Ok(())
}

fn held(got: Option<String>) -> Told {
    Told { got, how: "nothing of it arrived".into(), at: String::new() }
}

/// Files at lenders that hold these bytes.
fn away(stage: &Stage, needle: &[u8]) -> Vec<PathBuf> {
    LENDERS.iter().flat_map(|l| Stage::holding(&stage.data(l).join("leases"), needle)).collect()
}
