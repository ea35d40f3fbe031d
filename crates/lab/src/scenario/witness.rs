//! Witness: two clouds alone cannot tell a dead partner from a cut link. A third one votes, and has no gateway, no instance and no room.
//!
//! City A owns a service that city B keeps ready. City A is killed: city B and the witness agree on that, and city B goes on.

use super::disaster::{Stage, holds, ms};
use super::overload::{TIMING, bundle, service, worth_telling};
use crate::cluster::{CloudPlan, Cluster};
use crate::example::Kind;
use crate::report::{Promise, Report};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use pumasi_api::message::{CloudStatus, GatewayState};
use pumasi_terms::continuity::Continuity;
use pumasi_terms::service::RecoveryClass;
use pumasi_terms::{CloudName, Resources};
use std::time::{Duration, Instant};

const LOST: &str = "city-a";
const HEIR: &str = "city-b";
const WITNESS: &str = "city-w";
const KEPT: &str = "notes";
const SLACK: Duration = Duration::from_secs(90);
/// Longer than any of the pact's times: what a witness does is not of its first moments.
const WHILE: Duration = Duration::from_secs(5);
/// `default` times: silence of 2.2 s, the commit, one start.
const NOTICED_MS: f64 = 5_000.0;

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let mut report = Report::new("witness");
    story.chapter("Two clouds found a pact with a witness, and vote");
    let mut cluster = Cluster::start(&options.executable, &plans(), TIMING).await?;
    let chronicle = super::followed(&mut cluster, options, story, worth_telling)?;
    let stage = Stage { cluster, story: story.clone(), chronicle };
    stage.cluster.operate(LOST, &["pact", "vote", "--voters", &[LOST, HEIR, WITNESS].join(",")], None).await?;
    for cloud in [LOST, HEIR] {
        stage.until("every cloud has a right to write", SLACK, || stage.has_right(cloud)).await?;
    }
    let dir = bundle(&stage.cluster, &options.executable, options.bundle_mib).await?;
    let mut made = service(Kind::Notes, KEPT, &dir, 1)?;
    made.spec.continuity = Continuity { clouds: vec![CloudName::parse(HEIR)?], ..Continuity::default() };
    made.spec.recovery_class = RecoveryClass::Guaranteed;
    stage.cluster.apply(LOST, &made).await?;
    stage.until("the pact looks after it", SLACK, || stage.is_protected(KEPT, 1)).await?;
    tokio::time::sleep(WHILE).await;
    judge_witness(&stage, &mut report, &made).await?;

    story.chapter("City A is lost");
    let writers = stage.writers(&[KEPT]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let lost_at = stage.destroy(LOST)?;
    stage.until("city B answers writers", SLACK, || stage.answers(KEPT)).await?;
    let took = lost_at.elapsed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (_, writer) in writers {
        let (tally, there) = (writer.end().await?, stage.texts(KEPT).await?);
        let lost = tally.written.iter().filter(|w| w.at.0 > lost_at && !there.contains(&w.text)).count();
        report.promise(Promise::none("writes lost that were acknowledged after the loss", lost as u64));
    }
    let entry = stage.entry(KEPT).await?;
    let owner = entry["owner"].as_str().unwrap_or_default().to_owned();
    report.figure("from the loss to the first acknowledged write", ms(took), format!("owner {owner}"));
    report.promise(holds("city B owns it, by its word and the witness's", owner == HEIR, owner));
    report.promise(Promise::within_ms("city B goes on with it", Some(took.as_secs_f64() * 1e3), NOTICED_MS));

    story.chapter("City A is back");
    let back = Instant::now();
    stage.cluster.start_daemon(LOST)?;
    stage.cluster.wait_up(LOST).await?;
    stage.until("city A has its service again", Duration::from_secs(180), || stage.is_back(KEPT)).await?;
    report.figure("from its start to its service", ms(back.elapsed()), "probation, and a move");
    Ok(report)
}

fn plans() -> Vec<CloudPlan> {
    let mut plans = three_clouds();
    if let Some(last) = plans.last_mut() {
        *last = CloudPlan { name: WITNESS, lends: Resources::default(), witness: true, ..last.clone() };
    }
    plans
}

async fn judge_witness(
    stage: &Stage,
    report: &mut Report,
    made: &pumasi_terms::service::Service,
) -> anyhow::Result<()> {
    let client = stage.cluster.client(WITNESS)?;
    let ready = client.text("/readyz").await.map_or_else(|e| e.to_string(), |text| text.trim().to_owned());
    report.promise(holds("a witness without a gateway is ready", ready.starts_with("ready"), ready));
    let status: CloudStatus = client.get("/v1/cloud").await?;
    let none = status.gateway == GatewayState::None;
    report.promise(holds("it has no gateway", none, format!("{:?}", status.gateway)));
    let users = stage.cluster.place(WITNESS)?.users;
    let open = tokio::net::TcpStream::connect(users).await.is_ok();
    report.promise(holds("nobody listens for its users", !open, format!("{users}")));
    let path = stage.cluster.dir(WITNESS).join("service.yaml");
    std::fs::write(&path, serde_json::to_string_pretty(made)?)?;
    let applied = stage.cluster.operate(WITNESS, &["apply", "-f", &path.display().to_string()], None).await;
    let said = applied.err().map(|e| format!("{e:#}")).unwrap_or_default();
    report.promise(holds("it takes no service, and says why", said.contains("is a witness"), said));
    let shown = stage.cluster.operate(LOST, &["pact", "show", "-o", "json"], None).await?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let clouds = shown["vote"]["clouds"].as_array().cloned().unwrap_or_default();
    let it = clouds.into_iter().find(|c| c["cloud"] == WITNESS).unwrap_or_default();
    let told = it["witness"] == true && it["standing"] == "alive" && it["votes"] == true;
    report.promise(holds("the pact shows a witness that is alive and votes", told, it.to_string()));
    let processes = stage.cluster.supervisor.belonging();
    let dir = stage.cluster.dir(WITNESS).display().to_string();
    let its = processes.into_iter().filter(|p| p.command.contains(&dir)).count();
    report.promise(holds("its daemon is all that runs of it", its == 1, format!("{its} processes")));
    Ok(())
}
