//! What a soak counts, and the report at its end.

use super::flat::{Bound, Trend, trend};
use super::rest::{Account, Sizes};
use super::script::{Kind, Load, Phase};
use super::strike::Struck;
use super::watch::{Life, Reading, Role, Watch};
use super::world::{JOURNAL_ROWS_MAX, World};
use super::{End, SoakOptions};
use crate::example::notes::export;
use crate::follow::Seen;
use crate::load::{Outcome, Run, Stats};
use crate::report::{Promise, Report};
use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Memory at rest may stand so far above where it stood, and what an allocator keeps of a connection for each that was open at one
/// time and had not been before.
const RSS: Bound = Bound { percent: 30, plus: 12 << 10 };
const CONNECTION_KIB: u64 = 32;
const HANDLES: Bound = Bound { percent: 10, plus: 8 };
const DISK: Bound = Bound { percent: 50, plus: 32 << 20 };
/// Before a fault and after its repair: what was under way when it struck, and what comes in its wake.
const WAKE_BEFORE: Duration = Duration::from_secs(9);
const WAKE_AFTER: Duration = Duration::from_secs(5);
/// Outside of every fault's wake so many requests in a thousand may fail. Those that ran out of their time are told and not judged:
/// where other work takes the machine, overload lets some.
const FAILED_PER_MILLE: u64 = 1;
const WINDOW: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Counts {
    phase: String,
    phases: u32,
    fault: Option<Kind>,
    all: BTreeMap<String, Stats>,
    outside: BTreeMap<String, Stats>,
    loads: BTreeMap<&'static str, u32>,
    struck: BTreeMap<Kind, u32>,
    missed: u32,
    worst_repair: Option<(Duration, String)>,
    worst_return: Duration,
    rests: u32,
    account: Account,
    audited: u64,
    unknown_found: u64,
    sizes: BTreeMap<String, Vec<Sizes>>,
    restore: Vec<Option<Duration>>,
    verdicts: Vec<Duration>,
    switchovers: Vec<Duration>,
    samples: Vec<String>,
    /// Users who went away before their answer came, since the last rest.
    gave_up: u64,
    cpu_busy: Vec<f64>,
}

#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn phase(&self, number: u32, text: &str) {
        let mut counts = self.lock();
        counts.phase = format!("phase {number} {text}");
        counts.phases += 1;
    }

    pub fn fault(&self, kind: Option<Kind>) {
        self.lock().fault = kind;
    }

    pub fn struck(&self, hit: &Struck) {
        let mut counts = self.lock();
        *counts.struck.entry(hit.kind).or_default() += 1;
        if counts.worst_repair.as_ref().is_none_or(|(worst, _)| hit.repair > *worst) {
            counts.worst_repair = Some((hit.repair, format!("{}: {}", hit.kind.text(), hit.what)));
        }
    }

    pub fn missed(&self) {
        self.lock().missed += 1;
    }

    pub fn returned(&self, took: Duration) {
        let mut counts = self.lock();
        counts.rests += 1;
        counts.worst_return = counts.worst_return.max(took);
    }

    pub fn account(&self) -> Account {
        self.lock().account.clone()
    }

    pub fn set_account(&self, account: Account) {
        self.lock().account = account;
    }

    /// Whether users went away since the last rest: their requests are counted by one side only.
    pub fn gave_up(&self) -> bool {
        self.lock().gave_up > 0
    }

    pub fn forget_those_who_gave_up(&self) {
        self.lock().gave_up = 0;
    }

    pub fn sizes(&self, cloud: &str, sizes: Sizes) {
        self.lock().sizes.entry(cloud.to_owned()).or_default().push(sizes);
    }

    /// For the line of progress.
    pub fn line(&self) -> String {
        let counts = self.lock();
        let (right, offered) = counts.all.values().fold((0, 0), |(r, o), s| (r + s.right(), o + s.offered()));
        let faults: u32 = counts.struck.values().sum();
        let fault = counts.fault.map_or(String::new(), |k| format!(" | {}", k.text()));
        format!("{}{fault} | {right} of {offered} answered | {faults} faults", counts.phase)
    }

    /// Takes a phase's answers; what was answered wrongly, in words.
    pub fn users(
        &self,
        world: &World,
        name: &str,
        phase: &Phase,
        begun: Duration,
        run: &Run,
        hits: &[Struck],
    ) -> Vec<String> {
        let felt = |at: Duration| hits.iter().any(|h| at + WAKE_BEFORE >= h.at && at <= h.repaired + WAKE_AFTER);
        let all = run.all();
        let outside = run.stats(|r| !felt(begun + Duration::from_micros(r.intended_us)));
        let summary = all.summary();
        world.story.tell(
            name,
            "served",
            format!("{} asked: {:?}, p95 {:.0} ms", summary.offered, summary.outcomes, summary.p95_ms),
        );
        for sample in run.samples.iter().take(3) {
            world.story.tell(name, "sample", sample);
        }
        let mut counts = self.lock();
        counts.all.entry(name.to_owned()).or_default().merge(&all);
        counts.outside.entry(name.to_owned()).or_default().merge(&outside);
        counts.gave_up += all.count(Outcome::TimedOut) + all.count(Outcome::Broken);
        counts.cpu_busy.push(run.validity.machine_cpu_busy);
        if outside.failures() > outside.count(Outcome::TimedOut) && counts.samples.len() < 12 {
            counts.samples.extend(
                run.samples
                    .iter()
                    .filter(|s| !s.contains(": TimedOut:"))
                    .take(3)
                    .map(|s| format!("phase {} {name}: {s}", phase.number)),
            );
        }
        *counts.loads.entry(phase.load.name()).or_default() += 1;
        if let (Load::Campaign { .. }, true) = (phase.load, hits.is_empty()) {
            let after = |action: &str| first(world, name, action, begun).map(|s| s.at.saturating_sub(begun));
            counts.verdicts.extend(after("verdict"));
            counts.switchovers.extend(after("switchover"));
            let good = |w: &Stats| w.shed() == 0 && w.failures() == 0;
            counts.restore.push(run.restored_after(Duration::ZERO, phase.lasts, WINDOW, good));
        }
        let wrong = all.count(Outcome::Wrong);
        if wrong == 0 {
            return Vec::new();
        }
        let told = run.samples.iter().filter(|s| s.contains("Wrong")).cloned();
        std::iter::once(format!("{wrong} answers")).chain(told).collect()
    }

    /// Every acknowledged write is looked for at home.
    pub async fn notes(&self, world: &World) -> anyhow::Result<()> {
        let tenant = world.tenants.first().context("there is no service")?;
        let place = world.cluster.place(tenant.home)?;
        let export = export(place.users, &tenant.host).await.context("reading every note back")?;
        let audit = world.notes.audit(&export);
        ensure!(
            audit.is_clean(),
            "acknowledged writes: {} lost {:?}, {} doubled, {} altered",
            audit.lost.len(),
            audit.lost.iter().take(5).collect::<Vec<_>>(),
            audit.doubled.len(),
            audit.altered.len()
        );
        let mut counts = self.lock();
        counts.audited = audit.acknowledged;
        counts.unknown_found = audit.unknown_found;
        Ok(())
    }

    pub fn report(&self, world: &World, options: &SoakOptions, watch: &Watch, end: &End) -> Report {
        let counts = self.lock();
        let mut report = Report::new("soak");
        let minutes = world.story.elapsed().as_secs_f64() / 60.0;
        report.figure("seed", options.seed.to_string(), options.again());
        report.figure("time", format!("{minutes:.1} min"), format!("{} phases, {} rests", counts.phases, counts.rests));
        for (name, stats) in &counts.all {
            let by = Outcome::ALL.into_iter().map(|o| (o, stats.count(o))).filter(|(_, n)| *n > 0);
            let by: Vec<String> = by.map(|(o, n)| format!("{n} {o:?}").to_lowercase()).collect();
            report.figure(&format!("requests of {name}"), stats.offered().to_string(), by.join(", "));
            report.figure(
                &format!("availability of {name}"),
                format!("{:.2} %", 100.0 * (1.0 - stats.failures() as f64 / stats.offered().max(1) as f64)),
                format!(
                    "not failed, of what was asked; {:.2} % answered, the rest shed in overload",
                    100.0 * stats.served_share()
                ),
            );
        }
        let loads: Vec<String> = counts.loads.iter().map(|(l, n)| format!("{l} {n}")).collect();
        report.figure("loads", counts.phases.to_string(), loads.join(", "));
        let struck: u32 = counts.struck.values().sum();
        report.figure("faults", struck.to_string(), format!("{} found nothing to strike", counts.missed));
        for (kind, n) in &counts.struck {
            report.figure(&format!("  {}", kind.text()), n.to_string(), "");
        }
        let (verdicts, switched, signed) = journal(world);
        report.figure("verdicts", verdicts.to_string(), format!("{signed} leases signed, {switched} switchovers"));
        let account = &counts.account;
        report.figure(
            "leases audited",
            account.leases.to_string(),
            format!(
                "{} agreed, {} disputed and {} unproven after faults",
                account.settled, account.disputed, account.unproven
            ),
        );
        report.figure(
            "acknowledged writes",
            counts.audited.to_string(),
            format!("all looked for at home; {} unknown ones found there", counts.unknown_found),
        );
        times(&mut report, &counts);
        let seen = watch.seen();
        let bound: Vec<String> = seen.bound_most.iter().map(|(c, p)| format!("{c} {p} %")).collect();
        report.figure(
            "looks at ledgers",
            seen.ledgers.to_string(),
            format!("most bound of what is lent: {}; most open {}", bound.join(", "), seen.open_most),
        );
        lives(&mut report, seen.lives.values());
        drop(seen);
        sizes(&mut report, &counts.sizes);
        let busy = counts.cpu_busy.iter().sum::<f64>() / counts.cpu_busy.len().max(1) as f64;
        report.figure("machine busy", format!("{:.0} %", busy * 100.0), "mean over the phases");
        for sample in &counts.samples {
            report.figure("failed outside faults", "", sample);
        }
        let broken = match end {
            End::Broken(broken) => format!("{broken:#}"),
            End::Interrupted => "none; interrupted".into(),
            End::Done => "none".into(),
        };
        report.promise(Promise::holds("no oracle was broken", !matches!(end, End::Broken(_)), broken, "none"));
        for (name, stats) in &counts.outside {
            let late = stats.count(Outcome::TimedOut);
            let (failed, of) = (stats.failures() - late, stats.offered());
            report.promise(Promise::holds(
                &format!("requests of {name} that failed outside faults"),
                failed * 1_000 <= of * FAILED_PER_MILLE,
                format!("{failed} of {of}, and {late} too late"),
                format!("<= {FAILED_PER_MILLE} in 1000"),
            ));
        }
        if matches!(end, End::Done) {
            report.promise(Promise::holds(
                "everything came back at each rest",
                counts.rests > 0,
                format!("{} rests", counts.rests),
                ">= 1",
            ));
        }
        report
    }
}

fn first(world: &World, service: &str, action: &str, since: Duration) -> Option<Seen> {
    let about = |s: &Seen| s.event.subject == service || s.event.cause.as_deref() == Some(service);
    let fits = |s: &Seen| s.event.action == action && s.at >= since && about(s);
    world.chronicle.all().into_iter().filter(fits).min_by_key(|s| s.at)
}

fn journal(world: &World) -> (usize, usize, usize) {
    let all = world.chronicle.all();
    let count = |action: &str| all.iter().filter(|s| s.event.action == action).count();
    (count("verdict"), count("switchover"), count("lease_signed"))
}

fn times(report: &mut Report, counts: &Counts) {
    let seconds = |d: Option<&Duration>| d.map_or("none".to_owned(), |d| format!("{:.1} s", d.as_secs_f64()));
    report.figure(
        "worst verdict",
        seconds(counts.verdicts.iter().max()),
        "after the start of a campaign without faults",
    );
    report.figure("worst switchover", seconds(counts.switchovers.iter().max()), "first of a campaign without faults");
    let never = counts.restore.iter().filter(|r| r.is_none()).count();
    let worst = counts.restore.iter().flatten().max();
    report.figure(
        "worst restore",
        seconds(worst),
        format!("until nothing was shed; {never} of {} campaigns asked for more than there is", counts.restore.len()),
    );
    let (took, what) = counts.worst_repair.clone().unwrap_or_default();
    report.figure("worst repair", format!("{:.1} s", took.as_secs_f64()), what);
    report.figure(
        "worst return",
        format!("{:.1} s", counts.worst_return.as_secs_f64()),
        "until nothing foreign was left, of a rest's load",
    );
}

fn trends(life: &Life) -> [(&'static str, Option<Trend>); 2] {
    let of = |pick: fn(&Reading) -> u64| life.rests.iter().map(pick).collect::<Vec<u64>>();
    let peaks = trend(&of(|r| r.handles_most), HANDLES).map_or(0, |t| t.last.saturating_sub(t.first));
    let rss = Bound { plus: RSS.plus + CONNECTION_KIB * peaks, ..RSS };
    [("KiB of memory", trend(&of(|r| r.rss_kib), rss)), ("handles", trend(&of(|r| r.handles), HANDLES))]
}

/// Processes and directories that did not stay flat.
pub fn grown(watch: &Watch, tally: &Tally) -> Vec<String> {
    let mut grown = Vec::new();
    for life in watch.seen().lives.values() {
        for (what, trend) in trends(life) {
            if let Some(t) = trend.filter(|t| t.rose) {
                grown.push(format!(
                    "{} of {}, process {}: {what} {} to {} over {} rests",
                    life.role.name(),
                    life.cloud,
                    life.pid,
                    t.first,
                    t.last,
                    t.readings
                ));
            }
        }
    }
    for (cloud, sizes) in &tally.lock().sizes {
        let of = |pick: fn(&Sizes) -> u64| sizes.iter().map(pick).collect::<Vec<u64>>();
        for (what, trend) in
            [("directories", trend(&of(|s| s.other_bytes), DISK)), ("store", trend(&of(|s| s.store_bytes), DISK))]
        {
            if let Some(t) = trend.filter(|t| t.rose) {
                grown.push(format!("{what} of {cloud}: {} to {} bytes over {} rests", t.first, t.last, t.readings));
            }
        }
    }
    grown
}

fn lives<'a>(report: &mut Report, lives: impl Iterator<Item = &'a Life>) {
    let mut longest: BTreeMap<(String, Role), &Life> = BTreeMap::new();
    let mut count: BTreeMap<(String, Role), u32> = BTreeMap::new();
    for life in lives {
        let key = (life.cloud.clone(), life.role);
        *count.entry(key.clone()).or_default() += 1;
        let entry = longest.entry(key).or_insert(life);
        if life.rests.len() > entry.rests.len() {
            *entry = life;
        }
    }
    for ((cloud, role), life) in longest {
        let (first, last) =
            (life.rests.first().copied().unwrap_or_default(), life.rests.last().copied().unwrap_or_default());
        let more = count.get(&(cloud.clone(), role)).copied().unwrap_or(1);
        report.figure(
            &format!("{} of {cloud}", role.name()),
            format!("{} -> {} KiB", first.rss_kib, last.rss_kib),
            format!(
                "handles {} -> {}, threads {} -> {}; most {} KiB, {} handles; {} rests, the longest of {more}",
                first.handles,
                last.handles,
                first.threads,
                last.threads,
                life.most.rss_kib,
                life.most.handles,
                life.rests.len()
            ),
        );
    }
}

fn sizes(report: &mut Report, sizes: &BTreeMap<String, Vec<Sizes>>) {
    for (cloud, of) in sizes {
        let (Some(first), Some(last)) = (of.first(), of.last()) else { continue };
        let objects: Vec<String> = last.objects.iter().map(|(k, n)| format!("{k} {n}")).collect();
        report.figure(
            &format!("store of {cloud}"),
            format!("{} -> {} KiB", first.store_bytes >> 10, last.store_bytes >> 10),
            format!(
                "log {} KiB; journal {} -> {} rows, at most {} ({JOURNAL_ROWS_MAX} kept); {}",
                last.wal_bytes >> 10,
                first.journal_rows,
                last.journal_rows,
                of.iter().map(|s| s.journal_rows).max().unwrap_or(0),
                objects.join(", ")
            ),
        );
        report.figure(
            &format!("directories of {cloud}"),
            format!("{} -> {} KiB", first.other_bytes >> 10, last.other_bytes >> 10),
            "without data of services",
        );
    }
}
