//! The fault matrix: each fault befalls a cloud that owns a service and leads the pact's vote, one that owns a service, and, seen from a
//! service that another cloud owns, a voter that has nothing to do with it.
//!
//! Each run is a stage of its own with two services: one is owned by the cloud that is struck, the other by one that is not. Times are from
//! the fault to the first acknowledged write after the interruption that the surviving copy has, at whichever entrance; and the longest time
//! without one.
//!
//! What is impossible with processes and TCP relays on one kernel is said in `faults`.

mod table;

use super::voted::faults::Fault;
use super::voted::judge::{Evidence, Findings, Goods, Struck, goods};
use super::voted::users::Users;
use super::voted::watch::Watch;
use super::voted::{CLOUDS, Manner, SLACK, Stage};
use crate::machine::{CpuTicks, Validity, ValidityBounds};
use crate::report::{Promise, Report};
use crate::run::{Options, WrongUsage};
use crate::story::Story;
use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::time::Duration;
use table::{Cell, Column};

const RUNS_MAX: u32 = 100;
const BEFORE: Duration = Duration::from_secs(2);
/// From the fault on, watched at least so long.
const WATCHED: Duration = Duration::from_secs(8);
const TOOK: Duration = Duration::from_secs(30);
const AFTER: Duration = Duration::from_secs(1);

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let manner = Manner::of(options)?;
    let rows = rows(options)?;
    ensure!(
        (1..=RUNS_MAX).contains(&options.runs),
        WrongUsage(format!("--runs is 1 to {RUNS_MAX}, not {}", options.runs))
    );
    let began = CpuTicks::now();
    let mut cells: BTreeMap<(Fault, Column), Cell> = BTreeMap::new();
    for row in &rows {
        for run in 0..options.runs {
            for leads in [false, true] {
                story.chapter(&format!(
                    "{}, run {}, {}",
                    row.name(),
                    run + 1,
                    if leads { "the leader" } else { "a follower" }
                ));
                for (column, measured) in one(options, &manner, story, *row, leads).await? {
                    story.tell("matrix", row.name(), format!("{}: {measured}", column.name()));
                    cells.entry((*row, column)).or_default().add(measured);
                }
            }
        }
    }
    let mut report = Report::new("matrix");
    let busy = CpuTicks::now().busy_since(began);
    let validity = Validity { machine_cpu_busy: busy, ..Validity::default() };
    report.validity("the whole run", &validity, &ValidityBounds::default());
    story.block(&table::text(&cells));
    for ((row, column), cell) in &cells {
        cell.tell(&mut report, row.name(), column.name());
    }
    Ok(report)
}

fn rows(options: &Options) -> anyhow::Result<Vec<Fault>> {
    let Some(wanted) = &options.rows else { return Ok(Fault::ALL.to_vec()) };
    let named = |name: &str| {
        let found = Fault::ALL.into_iter().find(|f| f.name() == name);
        let known = || Fault::ALL.map(Fault::name).join(", ");
        found.with_context(|| WrongUsage(format!("--rows {name:?}: there is no such fault; there are {}", known())))
    };
    wanted.split(',').map(|name| named(name.trim())).collect()
}

/// One run of one row: what the service of the struck cloud met, and what that of another one.
async fn one(
    options: &Options,
    manner: &Manner,
    story: &Story,
    fault: Fault,
    leads: bool,
) -> anyhow::Result<Vec<(Column, Measured)>> {
    let stage = Stage::set(options, manner, story).await?;
    let leader = stage.leader().await?;
    let struck = CLOUDS.into_iter().find(|c| (*c == leader) == leads).context("nobody to strike")?;
    let spared = CLOUDS.into_iter().rev().find(|c| *c != struck).context("nobody to spare")?;
    for (name, owner) in [("struck", struck), ("spared", spared)] {
        stage.protect(name, owner).await?;
    }
    let leader = stage.leader().await?;
    let (watch, at_struck, at_spared) =
        (Watch::begin(&stage)?, Users::begin(&stage, "struck")?, Users::begin(&stage, "spared")?);
    tokio::time::sleep(BEFORE).await;
    let since = stage.story.elapsed();
    let ongoing = stage.strike(struck, fault).await?;
    let began = tokio::time::Instant::from_std(ongoing.since);
    if fault.may_be_lost() {
        let taken = || async { Ok(stage.takeovers("struck", since) > 0) };
        // Some faults are over before anybody is lost, or bring nobody to that.
        let _ = stage.until("it is taken over", TOOK, taken).await;
    }
    tokio::time::sleep_until(began + WATCHED).await;
    let until = tokio::time::Instant::now();
    stage.end(struck, ongoing).await?;
    let whole =
        || async { Ok(stage.is_answered_at("struck", struck).await? && stage.is_answered_at("spared", struck).await?) };
    let healed = stage.until("the struck cloud's entrance answers", SLACK / 3, whole).await.is_ok();
    tokio::time::sleep(AFTER).await;
    let column = if struck == leader { Column::OwnerAndLeader } else { Column::Owner };
    let span = Span { struck, at: began.into_std(), until: until.into_std(), since, healed };
    let mut all = vec![(column, measure(&stage, &watch, at_struck, &span, fault.may_be_lost()).await?)];
    all.push((Column::OtherVoter, measure(&stage, &watch, at_spared, &span, false).await?));
    Ok(all)
}

struct Span {
    struck: &'static str,
    at: std::time::Instant,
    until: std::time::Instant,
    since: Duration,
    healed: bool,
}

/// What one service's users met.
#[derive(Debug, Clone)]
pub struct Measured {
    pub goods: Goods,
    pub found: Findings,
    pub contradictions: usize,
    pub takeovers: usize,
    /// Those that nothing justifies.
    pub false_takeovers: usize,
    pub healed: bool,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let again = self.goods.again_ms.map_or("never".to_owned(), |ms| format!("{ms:.0} ms"));
        write!(
            f,
            "good answers after {again}, longest gap {:.0} ms, {} acknowledged, {} refused, {} unknown, {} lost, {} takeovers",
            self.goods.gap_ms,
            self.found.acknowledged,
            self.found.refused,
            self.found.unknown,
            self.found.lost,
            self.takeovers
        )
    }
}

async fn measure(
    stage: &Stage,
    watch: &Watch,
    users: Users,
    span: &Span,
    may_be_taken: bool,
) -> anyhow::Result<Measured> {
    let (name, at, until) = (users.name.clone(), users.at(span.at), users.at(span.until));
    let asked = users.end().await?;
    let (surviving, known) = (stage.surviving(&name).await?, watch.known());
    let struck = [Struck { cloud: span.struck.to_owned(), at, until }];
    let owners = known.owners(&name);
    let may_lose = stage.manner.may_lose();
    let found =
        Evidence { asked: &asked, owners: &owners, surviving: &surviving, struck: &struck, may_lose }.findings();
    let takeovers = stage.takeovers(&name, span.since);
    Ok(Measured {
        goods: goods(&asked, at, until, &surviving),
        found,
        contradictions: known.contradictions.len(),
        takeovers,
        false_takeovers: if may_be_taken { takeovers.saturating_sub(1) } else { takeovers },
        healed: span.healed,
    })
}

impl Cell {
    fn tell(&self, report: &mut Report, row: &str, column: &str) {
        let name = |text: &str| format!("{row}, {column}: {text}");
        report.figure(
            &name("good answers again"),
            self.again(),
            format!("{} runs; longest gap {}", self.runs(), self.gap()),
        );
        report.figure(
            &name("refused, unknown, lost"),
            format!("{}, {}, {}", self.refused, self.unknown, self.lost),
            "all runs",
        );
        report.promise(Promise::holds(
            &name("owners at one time"),
            self.owners_at_once <= 1,
            self.owners_at_once.to_string(),
            "1",
        ));
        report.promise(Promise::none(&name("acknowledged writes lost that no loss explains"), self.lost_beyond));
        report.promise(Promise::none(&name("registers that are not linearizable"), self.not_linear));
        report.promise(Promise::none(&name("false takeovers"), self.false_takeovers));
        report.promise(Promise::none(&name("runs without a good answer"), self.never).about_time());
        report.promise(Promise::none(&name("runs whose entrance did not come back"), self.not_healed).about_time());
    }
}
