//! Pumasi's own policy: the senses, the judge and the planner of the product, window by window as in production.
//!
//! Enters: what each tick served. Leaves: instances at home and borrowed. Always holds: the judge sees nothing that a gateway
//! does not meter.

use super::Setting;
use super::arrivals::{TICK_MS, TICKS_PER_S};
use super::plant::{Fleet, Served};
use anyhow::Context;
use pumasi_judge::{Judgement, Memory, Policy, Situation, Verdict, judge};
use pumasi_plan::{CurrentPart, Ids, PlanInput, Spent, plan};
use pumasi_sense::{BackendKey, BackendMeter, METER_VERSION, MeterWindow, Sense, ServiceMeter, Settings};
use pumasi_terms::offer::Offer;
use pumasi_terms::service::{
    Application, Borrowing, BundleRef, HomeInstances, Instances, Platform, Service, ServiceSpec,
};
use pumasi_terms::{
    API_VERSION, BootMs, CloudName, Digest, Epoch, InstanceId, JourneyId, LeaseId, Metadata, Money, Now, PlanId,
    ReservationId, Resources, ServiceName, WallMs,
};
use std::collections::BTreeMap;

/// Requests that an instance works on at a time.
pub const PLACES: u64 = 4;
/// Ceilings of the customer, out of the way: the race is between policies.
const BORROWED_MAX: u32 = 100_000;
/// Half a second, as long as an observation.
const QUIET_TICKS: usize = 5;
/// So long after somebody waited, each window is given to the senses by itself.
const BUSY_TICKS: u64 = 20;
const USER_RTT_US: u64 = 20_000;

#[derive(Debug, Clone)]
struct Part {
    now: CurrentPart,
    fleet: Fleet,
}

#[derive(Debug)]
pub struct Ours {
    rate_mps: u64,
    home: u32,
    start_ticks: u64,
    at: CloudName,
    policy: Policy,
    service: Service,
    offers: Vec<(Offer, u64)>,
    sense: Sense,
    memory: Memory,
    parts: Vec<Part>,
    ids: u128,
    leases: u64,
    /// Ticks in which nothing waited, not given to the senses yet.
    quiet: Vec<(u64, Served)>,
    busy_until: u64,
}

impl Ours {
    pub fn new(setting: &Setting, start_s: u64) -> anyhow::Result<Self> {
        let service = service(setting.home)?;
        let policy = Policy { start_ms: start_s * 1_000, ..Policy::of(&service.spec) };
        let lenders = ["city-b", "city-c", "city-d"].into_iter().zip([5_000, 20_000, 60_000]);
        let offers = lenders.map(|(name, rtt_us)| Ok((offer(name)?, rtt_us))).collect::<anyhow::Result<_>>()?;
        Ok(Self {
            rate_mps: setting.instance_mps,
            home: setting.home,
            start_ticks: start_s * TICKS_PER_S,
            at: CloudName::parse("city-a")?,
            policy,
            service,
            offers,
            sense: Sense::new(Settings::default()),
            memory: Memory::default(),
            parts: Vec::new(),
            ids: 0,
            leases: 0,
            quiet: Vec::new(),
            busy_until: 0,
        })
    }

    fn borrowed_ready(&self) -> u32 {
        self.parts.iter().map(|p| p.fleet.ready).sum()
    }
    pub fn ready(&mut self, tick: u64) -> u32 {
        self.parts.iter_mut().for_each(|p| p.fleet.advance(tick));
        self.home + self.borrowed_ready()
    }
    pub fn held(&self) -> u32 {
        self.home + self.parts.iter().map(|p| p.fleet.all()).sum::<u32>()
    }
    pub fn scale_ups(&self) -> u64 {
        self.leases
    }

    /// What the gateway would have metered in so many ticks.
    fn meter(&self, out: &Served, ticks: u64) -> ServiceMeter {
        let ready = u64::from(self.home + self.borrowed_ready());
        let work_us = PLACES * 1_000_000_000 / self.rate_mps.max(1);
        let limit = ready * PLACES;
        let busy = (out.served * work_us / (ticks * TICK_MS * 1_000)).min(limit);
        let in_flight = if out.saturated { limit } else { busy };
        let mut meter = ServiceMeter {
            arrivals: out.arrived,
            admitted: out.served,
            shed: out.lost,
            completed: out.served,
            queued: out.queued,
            in_flight,
            limit,
            ..ServiceMeter::default()
        };
        out.waits.iter().for_each(|(ms, n)| meter.queue_delay.record_many(ms * 1_000, *n));
        meter.app_time.record_many(work_us, out.served);
        meter.user_rtt.record_many(USER_RTT_US, out.served);
        let home = (0..self.home).map(|i| (BackendKey::Home(InstanceId::from_entropy(u128::from(i))), 1));
        let away = self.parts.iter().filter(|p| p.fleet.ready > 0);
        let away =
            away.map(|p| (BackendKey::Lease(p.now.cloud.clone(), p.now.lease.clone()), u64::from(p.fleet.ready)));
        let mut before = 0;
        for (key, n) in home.chain(away) {
            let share = |all: u64| all * (before + n) / ready.max(1) - all * before / ready.max(1);
            let backend = BackendMeter {
                completed: share(out.served),
                in_flight: share(in_flight),
                limit: n * PLACES,
                saturated: out.saturated,
                ..BackendMeter::default()
            };
            before += n;
            meter.backends.insert(key, backend);
        }
        meter
    }

    /// Where nothing waits, the senses get five windows as one: what they tell is the same, five times as seldom.
    pub fn see(&mut self, tick: u64, out: Served) -> anyhow::Result<()> {
        if out.queued > 0 || out.lost > 0 {
            self.busy_until = tick + BUSY_TICKS;
        }
        let quiet = tick >= self.busy_until;
        self.quiet.push((tick, out));
        if !quiet {
            return std::mem::take(&mut self.quiet).into_iter().try_for_each(|(then, out)| self.look(then, 1, &out));
        }
        if self.quiet.len() < QUIET_TICKS {
            return Ok(());
        }
        let mut all = Served::default();
        for (_, out) in self.quiet.drain(..) {
            (all.arrived, all.served) = (all.arrived + out.arrived, all.served + out.served);
            all.waits.extend(out.waits);
        }
        self.look(tick, QUIET_TICKS as u64, &all)
    }

    fn look(&mut self, tick: u64, ticks: u64, out: &Served) -> anyhow::Result<()> {
        let at = BootMs((tick + 1) * TICK_MS);
        let now = Now { boot: at, wall: WallMs(i64::try_from(at.0)?) };
        let name = self.service.metadata.name.clone();
        let window = MeterWindow {
            version: METER_VERSION,
            gateway_run: 1,
            seq: tick + 1,
            at,
            span_ms: ticks * TICK_MS,
            table_revision: 1,
            services: BTreeMap::from([(name.clone(), self.meter(out, ticks))]),
            leases: BTreeMap::new(),
        };
        self.sense.ingest(&window)?;
        let seen = self.sense.observe(&name, now).context("the senses say nothing of the service")?;
        let situation = Situation {
            home_instances_ready: self.home,
            borrowed_instances_ready: self.borrowed_ready(),
            borrowed_instances_coming: self.parts.iter().map(|p| p.fleet.coming()).sum(),
            application_generation: 1,
            ..Situation::default()
        };
        let (memory, judgement) = judge(&self.memory, &seen, &self.policy, &situation, now);
        self.memory = memory;
        if let Judgement::Change(verdict) = judgement {
            self.execute(tick, verdict, now);
        }
        Ok(())
    }

    fn id(&mut self) -> u128 {
        self.ids += 1;
        self.ids
    }

    /// Plans, and does what the plan says: the first candidate grants all, its instances serve after the start delay.
    fn execute(&mut self, tick: u64, verdict: Verdict, now: Now) {
        let new_journey = self.parts.is_empty();
        let holds =
            (0..3).map(|_| (ReservationId::from_entropy(self.id()), LeaseId::from_entropy(self.id()))).collect();
        let input = PlanInput {
            service: self.service.clone(),
            home: self.at.clone(),
            verdict,
            epoch: Epoch(1),
            parts: self.parts.iter().map(|p| p.now.clone()).collect(),
            offers: self.offers.clone(),
            spent: Spent { moves_last_hour: 0, new_journey },
            parent: None,
            ids: Ids { plan: PlanId::from_entropy(self.id()), journey: JourneyId::from_entropy(1), holds },
            application: Digest([1; 32]),
            bundle_bytes: 1 << 20,
            dataset_bytes: 0,
            files: 0,
            excluded: Vec::new(),
            now: now.wall,
        };
        let Ok(made) = plan(&input) else { return };
        let ready_at = tick + 1 + self.start_ticks;
        let mut grew = false;
        for wanted in &made.parts {
            let Some(part) = self.parts.iter_mut().find(|p| p.now.lease == wanted.lease) else { continue };
            let have = part.fleet.all();
            part.fleet.order(wanted.instances.saturating_sub(have), ready_at);
            part.fleet.give_back(have.saturating_sub(wanted.instances));
            part.now.instances = wanted.instances;
            grew |= wanted.instances > have;
        }
        self.parts.retain(|p| p.now.instances > 0);
        if let Some(borrow) = &made.borrow
            && let Some(best) = borrow.candidates.first()
        {
            let n = borrow.requirement.instances;
            let mut fleet = Fleet::default();
            fleet.order(n, ready_at);
            let now = CurrentPart {
                lease: best.lease.clone(),
                cloud: best.cloud.clone(),
                instances: n,
                granted: n,
                price_per_instance_hour: best.price_per_instance_hour,
                rtt_us: best.rtt_us,
                recalled: false,
                standby: None,
            };
            self.parts.push(Part { now, fleet });
            grew = true;
        }
        self.leases += u64::from(grew);
    }
}

fn service(home: u32) -> anyhow::Result<Service> {
    let borrowing = Borrowing {
        instances_max: BORROWED_MAX,
        money_per_hour_max: Money(u64::MAX),
        moves_per_hour_max: u32::MAX,
        ..Borrowing::default()
    };
    Ok(Service {
        api_version: API_VERSION.into(),
        kind: "Service".into(),
        metadata: Metadata::new(ServiceName::parse("replayed")?),
        spec: ServiceSpec {
            hosts: vec!["replayed.example".into()],
            application: Application {
                bundle: BundleRef::Digest(Digest([1; 32])),
                command: vec!["serve".into()],
                env: BTreeMap::new(),
                secrets: BTreeMap::new(),
                platform: Platform::default(),
                resources: Resources { cpu_millis: 1, memory_mib: 1 },
                protocol: Default::default(),
                readiness: Default::default(),
                liveness: None,
                stop_grace_ms: 1_000,
                egress: Vec::new(),
            },
            instances: Instances { home: HomeInstances::fixed(home) },
            datasets: Vec::new(),
            objective: Default::default(),
            routing: Default::default(),
            borrowing,
            priority: 100,
            tls: None,
            identity: None,
            continuity: Default::default(),
            recovery_class: Default::default(),
        },
    })
}

/// A lender with room for everything.
fn offer(name: &str) -> anyhow::Result<Offer> {
    Ok(Offer {
        cloud: CloudName::parse(name)?,
        at: WallMs(0),
        free: Resources { cpu_millis: BORROWED_MAX * 2, memory_mib: BORROWED_MAX * 2 },
        standby_free: None,
        storage_free_bytes: 1 << 40,
        price_per_cpu_hour: Money(50_000),
        standby_percent: None,
        platforms: vec![Platform::default()],
        recall_notice_ms: 5_000,
        lease_ttl_ms_max: 15_000,
        egress: Vec::new(),
    })
}
