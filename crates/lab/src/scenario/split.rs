//! Split: links between three clouds of a voting pact break in every way in which they can, while users write at every entrance.
//!
//! A service of registers is owned by one cloud and kept ready by the others. Whatever breaks, two clouds never acknowledge for it at one
//! time; the part that is cut off refuses before the other one goes on; a cloud that the others can hear keeps what it has; and when the
//! links are back, every entrance answers. `--full` plays each case on a stage of its own; without it three of them follow each other on one.

mod cases;

use super::voted::faults::Ongoing;
use super::voted::judge::{Evidence, FOLLOWED, Findings, Struck, goods};
use super::voted::users::{Asked, Became, Users};
use super::voted::watch::Watch;
use super::voted::{CLOUDS, Manner, SLACK, Stage};
use crate::machine::{CpuTicks, Validity, ValidityBounds};
use crate::report::{Promise, Report};
use crate::run::{Options, WrongUsage};
use crate::story::Story;
use anyhow::ensure;
use cases::{ALL, Breaks, Case, End, Home, SHORT};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const SERVICE: &str = "registers";
const BEFORE: Duration = Duration::from_secs(2);
/// Once somebody took over, and once the links are back.
const AFTER: Duration = Duration::from_secs(2);
/// Where nobody should take over: beyond every time of the pact.
const STILL: Duration = Duration::from_secs(6);
const HEALED_MS: f64 = 10_000.0;
/// An owner that the others can hear goes on; an election may stand between, and a busy machine.
const GAP_MS: f64 = 2_000.0;

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let manner = Manner::of(options)?;
    let cases: Vec<&Case> = chosen(options)?;
    let mut report = Report::new("split");
    let began = CpuTicks::now();
    let mut set: Option<(Stage, &'static str)> = None;
    for case in cases {
        let (stage, owner) = match set.take().filter(|_| !options.full) {
            Some(stage) => stage,
            None => begin(options, &manner, story, case).await?,
        };
        story.chapter(&format!("{}: {}", case.name, case.about));
        let owner = one(&mut report, &stage, case, owner).await?;
        set = Some((stage, owner));
    }
    let busy = CpuTicks::now().busy_since(began);
    let validity = Validity { machine_cpu_busy: busy, ..Validity::default() };
    report.validity("the whole run", &validity, &ValidityBounds::default());
    Ok(report)
}

fn chosen(options: &Options) -> anyhow::Result<Vec<&'static Case>> {
    let wanted = |case: &&Case| match &options.only {
        Some(only) => case.name.starts_with(only.as_str()),
        None => options.full || SHORT.contains(&case.name),
    };
    let found: Vec<&Case> = ALL.iter().filter(wanted).collect();
    let names = || ALL.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
    ensure!(!found.is_empty(), WrongUsage(format!("split has no such case; there are {}", names())));
    Ok(found)
}

/// A stage, and which cloud owns the service there.
async fn begin(
    options: &Options,
    manner: &Manner,
    story: &Story,
    case: &Case,
) -> anyhow::Result<(Stage, &'static str)> {
    story.chapter("Three clouds found a pact, vote, and keep a service ready");
    let stage = Stage::set(options, manner, story).await?;
    let leader = stage.leader().await?;
    let owner = match case.home {
        Home::Any => CLOUDS[0],
        Home::Leader => leader,
        Home::Follower => CLOUDS.into_iter().find(|c| *c != leader).unwrap_or(CLOUDS[0]),
    };
    stage.protect(SERVICE, owner).await?;
    story.tell("lab", "stage", format!("{leader} leads, {owner} owns {SERVICE}"));
    Ok((stage, owner))
}

/// When the fault of a case was there, by the users' clock, and what came of it.
struct Played {
    at: u64,
    until: u64,
    healed_ms: Option<f64>,
    takeovers: usize,
}

/// Plays one case; who owns the service afterwards.
async fn one(report: &mut Report, stage: &Stage, case: &Case, owner: &'static str) -> anyhow::Result<&'static str> {
    let (watch, users) = (Watch::begin(stage)?, Users::begin(stage, SERVICE)?);
    tokio::time::sleep(BEFORE).await;
    let since = stage.story.elapsed();
    let (at, struck, ongoing) = breaks(stage, case, owner, &users).await?;
    match case.end {
        End::Taken => {
            let other = || async {
                let owners = watch.known().owners(SERVICE);
                Ok(owners.values().next_back().is_some_and(|o| o != owner))
            };
            // That it never comes is for the judge to say.
            let _ = stage.until("another cloud owns it", SLACK / 3, other).await;
            tokio::time::sleep(AFTER).await;
        }
        End::Stays => tokio::time::sleep(STILL).await,
        End::Either => {}
    }
    let healed = Instant::now();
    match ongoing {
        Some(ongoing) => stage.end(struck, ongoing).await?,
        None => stage.cluster.wan.heal_all(),
    }
    let until = users.now();
    let answered = stage.until("every entrance answers", SLACK / 3, || every_entrance(stage)).await;
    let healed_ms = answered.is_ok().then(|| healed.elapsed().as_secs_f64() * 1e3);
    tokio::time::sleep(AFTER).await;
    let takeovers = stage.takeovers(SERVICE, since);
    let asked = users.end().await?;
    let surviving = stage.surviving(SERVICE).await?;
    let now = stage.owner(SERVICE).await?;
    let known = watch.known();
    let played = Played { at, until, healed_ms, takeovers };
    let marks = [Struck { cloud: struck.to_owned(), at, until }];
    let owners = known.owners(SERVICE);
    let may_lose = stage.manner.may_lose();
    let found = Evidence { asked: &asked, owners: &owners, surviving: &surviving, struck: &marks, may_lose }.findings();
    let contradictions: Vec<String> = known.contradictions.into_iter().collect();
    judge_always(report, case, &found, &contradictions, stage.manner.may_lose());
    judge_case(report, case, owner, &played, (&asked, &surviving));
    Ok(now)
}

/// Breaks it; who is cut off, and what has to be ended again.
async fn breaks(
    stage: &Stage,
    case: &Case,
    owner: &'static str,
    users: &Users,
) -> anyhow::Result<(u64, &'static str, Option<Ongoing>)> {
    let leader = stage.leader().await?;
    let other = |not: &[&str]| CLOUDS.into_iter().rev().find(|c| !not.contains(c)).unwrap_or(owner);
    let (struck, fault) = match case.breaks {
        Breaks::Owner(fault) => (owner, fault),
        Breaks::Other(fault) => (other(&[owner]), fault),
        Breaks::Leader(fault) if leader == owner => (other(&[owner]), fault),
        Breaks::Leader(fault) => (leader, fault),
        Breaks::Bridge => {
            // To whoever leads, where that is another one: the owner then hears of the log by nobody.
            let far = if leader == owner { other(&[owner]) } else { leader };
            stage.cluster.wan.partition(owner, far)?;
            stage.story.tell(owner, "bridge", format!("cut off from {far}; {} sees both", other(&[owner, far])));
            return Ok((users.now(), far, None));
        }
    };
    let ongoing = stage.strike(struck, fault).await?;
    Ok((users.at(ongoing.since), struck, Some(ongoing)))
}

async fn every_entrance(stage: &Stage) -> anyhow::Result<bool> {
    for cloud in CLOUDS {
        if !stage.is_answered_at(SERVICE, cloud).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn so(what: &[String]) -> String {
    if what.is_empty() { "none".into() } else { what.join("; ") }
}

/// What holds whatever breaks.
fn judge_always(report: &mut Report, case: &Case, found: &Findings, contradictions: &[String], may_lose: bool) {
    let name = |text: &str| format!("{}: {text}", case.name);
    report.promise(Promise::holds(
        &name("no two clouds acknowledge at one time"),
        found.overlaps.is_empty(),
        so(&found.overlaps),
        "none",
    ));
    report.promise(Promise::holds(
        &name("every cloud names the same owner of an epoch"),
        contradictions.is_empty(),
        so(contradictions),
        "none",
    ));
    let bound = if may_lose { format!("within {FOLLOWED:?} before a loss") } else { "nothing is lost".into() };
    let lost = match found.lost_beyond.is_empty() {
        true => format!("{} of {} lost", found.lost, found.acknowledged),
        false => so(&found.lost_beyond),
    };
    report.promise(Promise::holds(&name("acknowledged writes are kept"), found.lost_beyond.is_empty(), lost, bound));
    let told =
        found.not_linear.clone().unwrap_or_else(|| format!("{} writes, {} reads", found.acknowledged, found.reads));
    report.promise(Promise::holds(
        &name("registers are linearizable"),
        found.not_linear.is_none(),
        told,
        "so they are",
    ));
    report.figure(
        &name("acknowledged, refused, unknown"),
        format!("{}, {}, {}", found.acknowledged, found.refused, found.unknown),
        if found.lost > 0 {
            format!("{} lost, the oldest {} ms before the fault", found.lost, found.oldest_lost_ms)
        } else {
            String::new()
        },
    );
}

/// What the case itself is about.
fn judge_case(
    report: &mut Report,
    case: &Case,
    owner: &str,
    played: &Played,
    (asked, surviving): (&[Asked], &BTreeSet<u64>),
) {
    let name = |text: &str| format!("{}: {text}", case.name);
    let gap = goods(asked, played.at, played.until, surviving).gap_ms;
    report.figure(&name("longest time without a write that lasts"), format!("{gap:.0} ms"), "at no entrance");
    match case.end {
        End::Taken => {
            report.promise(Promise::holds(
                &name("the others take over, once"),
                played.takeovers == 1,
                played.takeovers.to_string(),
                "1",
            ));
            if case.refuses {
                judge_refusal(report, case, owner, played, asked);
            }
        }
        End::Stays => {
            report.promise(Promise::none(&name("takeovers of a cloud that the others hear"), played.takeovers as u64));
            report.promise(Promise::within_ms(&name("its owner goes on"), Some(gap), GAP_MS));
        }
        End::Either => report.promise(Promise::holds(
            &name("it moves once at the most"),
            played.takeovers <= 1,
            played.takeovers.to_string(),
            "<= 1",
        )),
    }
    report.promise(Promise::within_ms(&name("every entrance answers again"), played.healed_ms, HEALED_MS));
}

/// The part that is cut off says no, and why, before the other part says yes.
fn judge_refusal(report: &mut Report, case: &Case, owner: &str, played: &Played, asked: &[Asked]) {
    let refusal = asked.iter().filter(|a| a.entrance == owner && a.called >= played.at).find_map(|a| match &a.became {
        Became::Refused { status: 503, reason } => Some((a.answered, reason.clone())),
        _ => None,
    });
    let first = asked
        .iter()
        .filter(|a| a.called >= played.at && a.is_write())
        .filter_map(|a| match &a.became {
            Became::Done { by } if by != owner => Some(a.answered),
            _ => None,
        })
        .min();
    let since = |at: u64| (at - played.at) / 1000;
    let (kept, told) = match (&refusal, first) {
        (Some((no, why)), Some(yes)) => {
            (*no <= yes, format!("503 {why} after {} ms, the others' first after {} ms", since(*no), since(yes)))
        }
        (Some((no, why)), None) => (true, format!("503 {why} after {} ms, the others' first never", since(*no))),
        (None, _) => (false, "it never refused".into()),
    };
    report.promise(Promise::holds(
        &format!("{}: the part that is cut off refuses before the other goes on", case.name),
        kept,
        told,
        "refuses first",
    ));
}
