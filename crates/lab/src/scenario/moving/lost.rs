//! The heir is lost right after it signed: an operator gives up on it, the service is served where it was, and whatever comes back of the
//! heir does not own it any more.

use super::{Diaries, HOME, MOVE_TIMEOUT, THERE, data, go, rank};
use crate::cluster::Cluster;
use crate::example::diary;
use crate::report::{Promise, Report};
use crate::story::Story;
use anyhow::{Context, bail, ensure};
use pumasi_api::message::{MoveService, ServiceView};
use pumasi_journey::moving::{Move, Step};
use pumasi_terms::CloudName;
use std::path::Path;
use std::time::{Duration, Instant};

const NAME: &str = "diary";
const PATH: &str = "/v1/services/diary/move";
/// Between signature and opening there is little time to die in.
const TRIES: u32 = 8;
const UP_TIMEOUT: Duration = Duration::from_secs(30);
/// So long it is looked at whether the heir owns anything.
const WATCHED: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(20);

pub async fn play(cluster: &Cluster, story: &Story, report: &mut Report) -> anyhow::Result<()> {
    let store = cluster.dir(THERE).join("data/store");
    let (old, signed) = (cluster.dir(THERE).join("store-old"), cluster.dir(THERE).join("store-signed"));
    // As a backup would have it: the daemon has closed it.
    cluster.supervisor.stop(THERE, Duration::from_secs(10)).await?;
    copy(&store, &old)?;
    cluster.supervisor.restart(THERE)?;
    cluster.wait_up(THERE).await?;
    sign_and_die(cluster, story).await?;
    for found in cluster.supervisor.find(&[&cluster.dir(THERE).display().to_string()]) {
        let _ = cluster.supervisor.kill9_pid(found.pid);
    }
    copy(&store, &signed)?;
    std::fs::remove_dir_all(&store)?;
    story.tell(THERE, "lost", "its processes are killed, and its store is gone");

    let gone = ["move", "abandon", NAME, "--heir-is-gone"];
    let wrong = cluster.operate(HOME, &[&gone[..], &["city-c", "--why", "a mistake"]].concat(), None).await;
    report.promise(refused("a move is not abandoned for another cloud than its heir", wrong));
    let done = cluster.operate(HOME, &[&gone[..], &[THERE, "--why", "its disk is gone"]].concat(), None).await?;
    story.tell(HOME, "abandoned", done.trim());
    let before = written(cluster).await?;
    let begun = Instant::now();
    while written(cluster).await? <= before {
        ensure!(begun.elapsed() < MOVE_TIMEOUT, "{NAME} is not served at {HOME}");
        tokio::time::sleep(LOOK).await;
    }
    report.figure("served again after", format!("{} ms", begun.elapsed().as_millis()), "once its heir was abandoned");

    for (found, title) in [(&signed, "with its signature"), (&old, "as it was long before")] {
        let _ = std::fs::remove_dir_all(&store);
        copy(found, &store)?;
        cluster.supervisor.restart(THERE)?;
        let told = watch(cluster).await.with_context(|| title.to_owned())?;
        story.tell(THERE, "is back", format!("{title}: {told:?}"));
        let told = told.err().unwrap_or_else(|| "it does not".into());
        let title = format!("the heir, back {title}, serves as owner");
        report.promise(Promise::holds(&title, told == "it does not", told, "it does not"));
        cluster.supervisor.kill9(THERE)?;
        cluster.supervisor.wait_exit(THERE, UP_TIMEOUT).await?;
    }
    let after = written(cluster).await?;
    report.promise(Promise::holds(
        "its lines go on where it was",
        after > before,
        format!("{before}, {after}"),
        "more",
    ));
    Ok(())
}

fn refused(title: &str, said: anyhow::Result<String>) -> Promise {
    let told = said.map_or_else(|e| e.to_string().lines().next().unwrap_or_default().to_owned(), |_| "it was".into());
    Promise::holds(title, told != "it was", told, "refused")
}

/// The heir's daemon is killed when it has signed and does not serve yet.
async fn sign_and_die(cluster: &Cluster, story: &Story) -> anyhow::Result<()> {
    let client = cluster.client(HOME)?;
    for _ in 0..TRIES {
        let asked = MoveService { to: CloudName::parse(THERE)?, dry_run: false };
        client.post::<serde_json::Value>(PATH, &asked).await.context("asking for the move")?;
        let begun = Instant::now();
        while rank(&client.get::<Move>(PATH).await?.step) < 5 {
            ensure!(begun.elapsed() < MOVE_TIMEOUT, "the move does not come to its signatures");
        }
        cluster.supervisor.kill9(THERE)?;
        tokio::time::sleep(WATCHED / 8).await;
        let seen: Move = client.get(PATH).await?;
        if seen.step == Step::Opening {
            story.tell(THERE, "kill -9", "its daemon, after it signed and before it served");
            return Ok(());
        }
        cluster.supervisor.restart(THERE)?;
        cluster.wait_up(THERE).await?;
        ensure!(matches!(seen.step, Step::Fronted { .. }), "neither signed nor over: {seen:?}");
        go(cluster, NAME, THERE, HOME).await?;
    }
    bail!("in {TRIES} tries the heir never died between signature and opening")
}

/// What an heir that is back does, once it has had the time to hear of it.
async fn watch(cluster: &Cluster) -> anyhow::Result<Result<String, String>> {
    let client = cluster.client(THERE)?;
    let path = format!("/v1/services/{NAME}");
    let begun = Instant::now();
    let mut quiet_since: Option<Instant> = None;
    loop {
        let seen = client.get::<ServiceView>(&path).await;
        let serves = match &seen {
            Ok(view) => view.status.phase != "moved" || view.status.home_ready > 0,
            Err(e) if e.problem().is_some_and(|p| p.status == 404) => false,
            Err(_) => true,
        };
        quiet_since = if serves { None } else { quiet_since.or(Some(Instant::now())) };
        if quiet_since.is_some_and(|since| since.elapsed() > WATCHED) {
            let after = begun.elapsed().saturating_sub(WATCHED).as_millis();
            return Ok(Ok(format!("it knows so {after} ms after its start")));
        }
        if begun.elapsed() > UP_TIMEOUT {
            return Ok(Err(format!("{:?}", seen.map(|v| v.status).map_err(|e| e.to_string()))));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The number of its last line at home.
async fn written(cluster: &Cluster) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(data(cluster, HOME, NAME).await?.join(diary::FILE))?;
    Diaries::whole(&text).map_err(|e| anyhow::anyhow!(e))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
