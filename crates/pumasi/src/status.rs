//! `pumasi status`, `doctor`, `ping`: this cloud at a glance, what is wrong with it and what to do, how far a member is.

use crate::failure::{Exit, Failure};
use crate::output::{self, Cell, Format, Table, Tone, paint};
use crate::session::{Session, wall_now};
use crate::units::{bytes, duration_ms, duration_us, money, resources};
use pumasi_api::CallError;
use pumasi_api::message::{CloudStatus, GatewayState, LeaseView, List, MemberStatus, Pong, ServiceView};
use pumasi_terms::offer::Offer;
use pumasi_terms::{CloudName, Money};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// A member that was not heard for so long is told as silent; heartbeats come each second.
const SILENT_MS: u64 = 5_000;
/// Clocks that differ by more make answers look late; by more than the second, certificates look invalid.
const CLOCK_WARN_MS: i64 = 5_000;
const CLOCK_BAD_MS: i64 = 60_000;
/// Less room than this on the disk is told, bytes.
const DISK_WARN_BYTES: u64 = 2 << 30;

struct Seen {
    cloud: CloudStatus,
    services: Vec<ServiceView>,
    leases: Vec<LeaseView>,
}

async fn seen(session: &Session) -> Result<Seen, Failure> {
    Ok(Seen {
        cloud: session.client.get("/v1/cloud").await?,
        services: session.client.get::<List<ServiceView>>("/v1/services").await?.items,
        leases: session.client.get::<List<LeaseView>>("/v1/leases").await?.items,
    })
}

pub async fn status(session: &Session) -> Result<(), Failure> {
    let seen = seen(session).await?;
    match session.global.output {
        Format::Table => output::print(&page(session, &seen)),
        Format::Name => output::print(&format!("cloud/{}\n", seen.cloud.name)),
        form => {
            let wrong: Vec<String> = wrong(&seen);
            let all = json!({ "cloud": seen.cloud, "services": seen.services, "leases": seen.leases, "wrong": wrong });
            output::print(&if form == Format::Json { output::json(&all)? } else { output::yaml(&all)? })
        }
    }
}

fn page(session: &Session, seen: &Seen) -> String {
    let cloud = &seen.cloud;
    let mut out = String::new();
    let mut line = |label: &str, text: String| {
        let label = paint(&format!("{label:<10}"), Tone::Head, session.colours);
        out.push_str(&format!("{label} {}\n", output::line(&text)));
    };
    let city = cloud.place.as_ref().map(|p| format!(", {}", p.city)).unwrap_or_default();
    let automation = if cloud.automation.stopped { "automation stopped" } else { "automation on" };
    line("cloud", format!("{}{city}; version {}, store {}, {automation}", cloud.name, cloud.version, cloud.standing));
    let gateway = match cloud.gateway {
        GatewayState::Serving => "serving",
        GatewayState::Starting => "starting",
        GatewayState::Unreachable => "does not answer",
        GatewayState::None => "none: this cloud is a witness",
    };
    line("gateway", gateway.to_owned());
    line(
        "capacity",
        format!(
            "{}; at home {}, lent {}",
            resources(cloud.capacity),
            resources(cloud.used_home),
            resources(cloud.lent)
        ),
    );
    line("isolation", cloud.isolation.clone());
    let mut phases: BTreeMap<&str, usize> = BTreeMap::new();
    seen.services.iter().for_each(|s| *phases.entry(&s.status.phase).or_default() += 1);
    let phases = phases.iter().map(|(phase, n)| format!("{n} {phase}")).collect::<Vec<_>>().join(", ");
    line("services", if phases.is_empty() { "none".into() } else { phases });
    line("rents", leased(seen, "rented", cloud));
    line("lends", leased(seen, "lent", cloud));
    let members = cloud.members.iter().map(member).collect::<Vec<_>>().join("; ");
    line("members", if members.is_empty() { "none: this cloud is in no pact, or alone in it".into() } else { members });
    match wrong(seen).as_slice() {
        [] => line("wrong", "nothing".into()),
        all => all.iter().for_each(|text| line("wrong", text.clone())),
    }
    out
}

fn leased(seen: &Seen, side: &str, cloud: &CloudStatus) -> String {
    let own: Vec<&LeaseView> = seen.leases.iter().filter(|l| l.side == side && l.expires_in_ms > 0).collect();
    if own.is_empty() {
        return "nothing".into();
    }
    let instances: u32 = own.iter().map(|l| l.instances_ready).sum();
    let hour = own.iter().map(|l| l.price_per_instance_hour.0.saturating_mul(l.instances_granted.into()));
    let hour = Money(hour.fold(0, u64::saturating_add));
    format!("{instances} instances in {} leases, at most {} {} an hour", own.len(), money(hour), cloud.currency())
}

fn member(m: &MemberStatus) -> String {
    let rtt = m.rtt_us.map(|us| format!(", {} away", duration_us(us))).unwrap_or_default();
    match m.heard_ms_ago {
        Some(ms) => format!("{} heard {} ago{rtt}", m.cloud, duration_ms(ms)),
        None => format!("{} not heard yet", m.cloud),
    }
}

/// A line each.
fn wrong(seen: &Seen) -> Vec<String> {
    let cloud = &seen.cloud;
    let mut told: Vec<String> = cloud.degraded.clone();
    told.extend(cloud.troubles.iter().filter(|text| !cloud.degraded.contains(text)).cloned());
    // A daemon of before does not say why.
    if cloud.gateway == GatewayState::Unreachable && cloud.degraded.is_empty() {
        told.push("the gateway does not answer: nobody is served".into());
    }
    if cloud.standing != "current" {
        told.push(format!("the store is {}: nothing is done with other clouds", cloud.standing));
    }
    if cloud.automation.stopped {
        told.push(format!("automation is stopped: {}", cloud.automation.why));
    }
    for s in &seen.services {
        if matches!(s.status.phase.as_str(), "failing" | "degraded") || s.status.rollout.as_ref().is_some_and(fails) {
            told.push(format!("service {}: {}: {}", s.service.metadata.name, s.status.phase, s.status.why));
        }
    }
    for m in cloud.members.iter().filter(|m| m.heard_ms_ago.is_none_or(|ms| ms > SILENT_MS)) {
        told.push(format!("{}: {}", m.cloud, m.trouble.as_deref().unwrap_or("it is silent")));
    }
    told
}

fn fails(rollout: &pumasi_api::message::Rollout) -> bool {
    rollout.state == pumasi_api::message::RolloutState::Failing
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Well,
    Note,
    Bad,
}

#[derive(Debug, Clone, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do; empty where all is well.
    mend: String,
}

fn finding(check: &'static str, verdict: Verdict, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { check, verdict, found: found.into(), mend: mend.into() }
}

pub async fn doctor(session: &Session) -> Result<(), Failure> {
    let findings = match seen(session).await {
        Ok(seen) => {
            let offers = session.client.get::<List<Offer>>("/v1/offers").await.map(|l| l.items).unwrap_or_default();
            let ready = session.client.text("/readyz").await;
            examine(&seen, &offers, &ready)
        }
        Err(failure) => vec![finding(
            "daemon",
            Verdict::Bad,
            failure.message.clone(),
            failure.hint.clone().unwrap_or_else(|| "start it: `pumasi serve`".into()),
        )],
    };
    let names = || findings.iter().map(|f| format!("check/{}\n", f.check)).collect();
    session.show(&findings, names, || {
        let mut table = Table::new(&["CHECK", "IS", "FOUND", "DO"]);
        for f in &findings {
            let (word, tone) = match f.verdict {
                Verdict::Well => ("well", Tone::Good),
                Verdict::Note => ("note", Tone::Busy),
                Verdict::Bad => ("bad", Tone::Bad),
            };
            table.row(vec![f.check.into(), Cell::toned(word, tone), f.found.as_str().into(), f.mend.as_str().into()]);
        }
        Ok(table)
    })?;
    let bad = findings.iter().filter(|f| f.verdict == Verdict::Bad).count();
    match bad {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Failed, "1 check is bad")),
        n => Err(Failure::new(Exit::Failed, format!("{n} checks are bad"))),
    }
}

/// Pure: what was seen, judged.
fn examine(seen: &Seen, offers: &[Offer], ready: &Result<String, CallError>) -> Vec<Finding> {
    use Verdict::{Bad, Note, Well};
    let cloud = &seen.cloud;
    let ours = env!("CARGO_PKG_VERSION");
    let mut all = vec![match cloud.version == ours {
        true => finding("daemon", Well, format!("{} answers, version {ours}", cloud.name), ""),
        false => finding(
            "daemon",
            Note,
            format!("{} is version {}, this command {ours}", cloud.name, cloud.version),
            "use the command of the daemon's version",
        ),
    }];
    all.push(match ready {
        Ok(_) => finding("ready", Well, "it may be sent work", ""),
        Err(e) => finding("ready", Bad, output::line(&readiness(e)), "mend what it names; it looks again by itself"),
    });
    all.push(match cloud.standing.as_str() {
        "current" => finding("store", Well, "current", ""),
        other => finding("store", Bad, other, "compare with the members, then `pumasi accept-restored`"),
    });
    all.push(match cloud.gateway {
        GatewayState::Serving => finding("gateway", Well, "serving", ""),
        GatewayState::Starting => finding("gateway", Note, "it has no table yet", "wait a moment"),
        GatewayState::None => finding("gateway", Well, "none: this cloud is a witness", ""),
        GatewayState::Unreachable => {
            let why = cloud.degraded.first().map_or("it does not answer", String::as_str);
            finding("gateway", Bad, why, "mend what it names: it is tried again; its log is DATA/gateway/gateway.log")
        }
    });
    all.push(match cloud.isolation.as_str() {
        "complete" => finding("isolation", Well, "complete: this cloud can lend", ""),
        missing => finding(
            "isolation",
            Note,
            [&[missing.to_owned()], cloud.isolation_why.as_slice()].concat().join("; "),
            "run the daemon as root with cgroups; without it this cloud lends nothing",
        ),
    });
    if let Some(free) = cloud.disk_free_bytes {
        all.push(match free < DISK_WARN_BYTES {
            true => finding("disk", Note, format!("{} free", bytes(free)), "make room in the data directory"),
            false => finding("disk", Well, format!("{} free", bytes(free)), ""),
        });
    }
    all.push(match cloud.automation.stopped {
        true => finding("automation", Note, format!("stopped: {}", cloud.automation.why), "`pumasi resume-automation`"),
        false => finding("automation", Well, "on", ""),
    });
    all.extend(cloud.members.iter().map(member_finding));
    all.extend(clocks(cloud, offers));
    for text in cloud.degraded.iter().chain(&cloud.troubles) {
        all.push(finding("trouble", Bad, text.as_str(), "`pumasi events` tells since when"));
    }
    for s in seen.services.iter().filter(|s| s.status.phase == "failing") {
        let name = &s.service.metadata.name;
        let mend = format!("`pumasi logs {name}`, then `pumasi rollout undo {name}`");
        all.push(finding("service", Bad, format!("{name}: {}", s.status.why), mend));
    }
    all
}

fn readiness(error: &CallError) -> String {
    match error.problem() {
        Some(problem) => problem.detail.clone(),
        None => error.to_string(),
    }
}

fn member_finding(m: &MemberStatus) -> Finding {
    match m.heard_ms_ago {
        Some(ms) if ms <= SILENT_MS => finding("member", Verdict::Well, member(m), ""),
        _ => finding(
            "member",
            Verdict::Bad,
            format!("{}: {}", member(m), m.trouble.as_deref().unwrap_or("no reason is known")),
            format!("`pumasi ping {}`; ask its operator", m.cloud),
        ),
    }
}

/// An offer carries its maker's time, and is no older than a heartbeat where its maker is heard.
fn clocks(cloud: &CloudStatus, offers: &[Offer]) -> Vec<Finding> {
    let now = wall_now().0;
    let heard =
        |c: &CloudName| cloud.members.iter().any(|m| &m.cloud == c && m.heard_ms_ago.is_some_and(|ms| ms <= SILENT_MS));
    let judged = offers.iter().filter(|o| heard(&o.cloud)).map(|o| {
        let off_ms = o.at.0.saturating_sub(now);
        let size = off_ms.unsigned_abs();
        let found = format!("{} is {} {}", o.cloud, duration_ms(size), if off_ms > 0 { "ahead" } else { "behind" });
        match i64::try_from(size).unwrap_or(i64::MAX) {
            CLOCK_BAD_MS.. => finding("clock", Verdict::Bad, found, "set both clocks by NTP: certificates are refused"),
            CLOCK_WARN_MS.. => finding("clock", Verdict::Note, found, "set both clocks by NTP"),
            _ => finding("clock", Verdict::Well, format!("{} agrees within {}", o.cloud, duration_ms(size)), ""),
        }
    });
    judged.collect()
}

pub async fn ping(session: &Session, cloud: &CloudName, count: u32) -> Result<(), Failure> {
    let mut took = Vec::new();
    for n in 0..count {
        if n > 0 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let pong: Pong = session.client.post(&format!("/v1/members/{cloud}/ping"), &json!({})).await?;
        took.push(pong.rtt_us);
        match session.global.output {
            Format::Json => output::print(&(json!(pong).to_string() + "\n"))?,
            Format::Yaml => output::print(&format!("---\n{}", output::yaml(&pong)?))?,
            Format::Name => {}
            Format::Table => output::print(&format!("{cloud} answered after {}\n", duration_us(pong.rtt_us)))?,
        }
    }
    took.sort_unstable();
    if let (Some(least), Some(most)) = (took.first(), took.last()) {
        output::note(&format!("{count} of {count} answered, {} to {}", duration_us(*least), duration_us(*most)));
    }
    Ok(())
}
