//! Making a plan.
//!
//! Growth first fills what existing leases were granted, then borrows once, at the best few of the offers. Shrinking takes
//! what is called back first, then the dearest and farthest. Ceilings bound all of it and are named where they stop it.

use crate::document::{Borrow, Candidate, PLAN_VERSION, Part, Plan, Role, Switchover};
use pumasi_judge::Verdict;
use pumasi_terms::offer::{Offer, Requirement};
use pumasi_terms::service::{Service, ServiceSpec};
use pumasi_terms::{
    CloudName, Digest, Epoch, JourneyId, LeaseId, Money, PlanId, Ppm, ReservationId, Resources, Standby, WallMs,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Candidates held at one time.
pub const CANDIDATES_MAX: usize = 3;
/// A shared peak shall not freeze every lender: a hold lasts seconds.
pub const HOLD_TTL_MS: u64 = 5_000;
pub const LEASE_TTL_MS: u64 = 15_000;
/// A lease shorter than this cannot be renewed in time.
pub const LEASE_TTL_MS_MIN: u64 = 2_000;
pub const ANSWER_TIMEOUT_MS: u64 = 800;
/// Ramp of a new part: two fifths of its fair share, growing by a fifth every 100 ms while it is healthy. Slower ramps keep
/// users waiting at home while there is room away.
pub const SHARE_START: Ppm = Ppm(400_000);
pub const SHARE_STEP: Ppm = Ppm(200_000);
pub const SHARE_STEP_MS: u64 = 100;

/// A lease as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentPart {
    pub lease: LeaseId,
    pub cloud: CloudName,
    /// Wanted there by the plan before.
    pub instances: u32,
    /// The most that the lease grants.
    pub granted: u32,
    pub price_per_instance_hour: Money,
    /// Last measured between the daemons, us.
    pub rtt_us: u64,
    /// Called back by its lender, or lost: it only shrinks.
    pub recalled: bool,
    /// Of a standby: it is kept when it does not serve.
    pub standby: Option<KeptPart>,
}

/// What a standby's lease says beyond its room, and how it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptPart {
    pub agreed: Standby,
    /// In percent of the price in use.
    pub percent: u32,
    /// It has everything that it needs.
    pub complete: bool,
}

impl CurrentPart {
    /// What it costs an hour once it is as the plan says.
    pub(crate) fn cost(&self, planned: &Part) -> u64 {
        let in_use = |n: u32| self.price_per_instance_hour.0.saturating_mul(u64::from(n));
        match (self.standby, planned.role, planned.instances) {
            (None, _, instances) => in_use(instances),
            // Given back.
            (Some(_), Role::Serving, 0) => 0,
            (Some(kept), _, instances) => {
                let running = Standby { warm: instances.max(kept.agreed.warm), ..kept.agreed };
                kept_rent(self.price_per_instance_hour, Some(kept.percent), self.granted, running)
            }
        }
    }
}

/// What a journey has used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// New journeys of this service in the last hour, without this one.
    pub moves_last_hour: u32,
    /// Whether this plan begins a journey.
    pub new_journey: bool,
}

/// The plan before this one in the same journey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    pub id: PlanId,
    pub number: u64,
}

/// The caller's randomness, spent only as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    pub plan: PlanId,
    pub journey: JourneyId,
    /// For each candidate.
    pub holds: Vec<(ReservationId, LeaseId)>,
}

/// Everything a plan rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanInput {
    pub service: Service,
    /// The cloud that plans: it does not borrow from itself.
    pub home: CloudName,
    pub verdict: Verdict,
    pub epoch: Epoch,
    pub parts: Vec<CurrentPart>,
    /// Standing offers, with the round trip to each, us.
    pub offers: Vec<(Offer, u64)>,
    pub spent: Spent,
    pub parent: Option<Parent>,
    pub ids: Ids,
    pub application: Digest,
    /// Size of the application as it is sent.
    pub bundle_bytes: u64,
    /// Size of all datasets as they are sent.
    pub dataset_bytes: u64,
    /// Files and directories of both.
    pub files: u64,
    /// Clouds that failed lately, with what happened.
    pub excluded: Vec<(CloudName, String)>,
    pub now: WallMs,
}

/// What stood in the way: a name that stays and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Obstacle {
    /// `no_change`, `no_standby`, `moves_ceiling`, `instances_ceiling`, `money_ceiling`, `bytes_ceiling`, `dataset_ceiling`,
    /// `no_candidate`, `no_ids`, or `not_allowed`, `platform`, `egress`, `no_room`, `price`, `failed_lately` of one cloud.
    pub what: String,
    pub text: String,
}

/// There is no plan, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("no plan: {}", list(.reasons))]
pub struct NoPlan {
    pub reasons: Vec<Obstacle>,
}

fn list(reasons: &[Obstacle]) -> String {
    reasons.iter().map(|r| r.text.as_str()).collect::<Vec<_>>().join("; ")
}

pub(crate) fn obstacle(what: &str, text: String) -> Obstacle {
    Obstacle { what: what.to_owned(), text }
}

/// Makes the plan, or says what stands in the way.
pub fn plan(input: &PlanInput) -> Result<Plan, NoPlan> {
    let spec = &input.service.spec;
    let ceiling = spec.borrowing.instances_max;
    let mut reasons = Vec::new();
    let mut wanted = input.verdict.borrowed_wanted;
    if wanted > ceiling {
        reasons.push(obstacle("instances_ceiling", format!("{wanted} instances are wanted, {ceiling} are allowed")));
        wanted = ceiling;
    }
    let mut parts: Vec<Part> = input.parts.iter().map(as_is).collect();
    let keeps = |p: &CurrentPart| !p.recalled;
    // What is called back goes, whatever is wanted.
    parts.iter_mut().zip(&input.parts).filter(|(_, now)| !keeps(now)).for_each(|(p, _)| p.instances = 0);
    let mut rent = Rent::of(input, &parts);
    let have: u32 = parts.iter().map(|p| p.instances).fold(0, u32::saturating_add);
    let mut borrow = None;
    if wanted < have {
        shrink(&mut parts, &input.parts, have - wanted);
    } else if wanted > have {
        let missing = grow_parts(&mut parts, input, wanted - have, &mut rent, &mut reasons);
        if missing > 0 {
            borrow = help(input, missing, &parts, rent.left(), &mut reasons);
        }
    }
    let changed = parts.iter().zip(&input.parts).any(|(p, now)| p.instances != now.instances);
    if !changed && borrow.is_none() {
        if reasons.is_empty() {
            let text = format!("{wanted} borrowed instances are wanted and there are {have}");
            reasons.push(obstacle("no_change", text));
        }
        return Err(NoPlan { reasons });
    }
    parts.iter_mut().zip(&input.parts).for_each(|(p, now)| p.role = role(now, p.instances));
    Ok(document(input, parts, borrow))
}

/// What does not serve goes back, except a standby: that is kept.
fn role(now: &CurrentPart, instances: u32) -> Role {
    if now.standby.is_some() && instances == 0 { Role::Standby } else { Role::Serving }
}

pub(crate) fn document(input: &PlanInput, parts: Vec<Part>, borrow: Option<Borrow>) -> Plan {
    let spec = &input.service.spec;
    let sends = borrow.is_some();
    // Who the users are goes only where they may have to be served without this cloud.
    let kept = borrow.as_ref().is_none_or(|b| b.requirement.standby.is_some());
    let cost = Rent::of(input, &parts).used.saturating_add(borrow.as_ref().map_or(0, dearest));
    Plan {
        version: PLAN_VERSION,
        id: input.ids.plan.clone(),
        journey: input.ids.journey.clone(),
        number: input.parent.as_ref().map_or(1, |p| p.number.saturating_add(1)),
        parent: input.parent.as_ref().map(|p| p.id.clone()),
        service: input.service.metadata.name.clone(),
        epoch: input.epoch,
        created_at: input.now,
        verdict: input.verdict.clone(),
        mode: spec.borrowing.mode,
        borrow,
        parts,
        application: input.application,
        datasets: spec.datasets.iter().map(|d| &d.name).filter(|name| kept || !name.is_realm()).cloned().collect(),
        route: Switchover { mode: spec.routing.mode, start: SHARE_START, step: SHARE_STEP, step_ms: SHARE_STEP_MS },
        cost_per_hour_max: Money(cost),
        bytes_max: if sends { sent_bytes(input) } else { 0 },
    }
}

/// What stands against borrowing whatever the load is: not that others have no room now, nor what failed lately.
pub fn lendable(input: &PlanInput) -> Result<(), NoPlan> {
    let mut asked = input.clone();
    asked.parts.clear();
    asked.excluded.clear();
    asked.spent = Spent::default();
    asked.verdict.borrowed_wanted = 1;
    for (offer, _) in &mut asked.offers {
        offer.free = Resources { cpu_millis: u32::MAX, memory_mib: u32::MAX };
    }
    plan(&asked).map(|_| ())
}

fn as_is(now: &CurrentPart) -> Part {
    let role = role(now, now.instances);
    Part { lease: now.lease.clone(), cloud: now.cloud.clone(), role, instances: now.instances }
}

fn sent_bytes(input: &PlanInput) -> u64 {
    input.bundle_bytes.saturating_add(input.dataset_bytes)
}

/// What the dearest outcome of a borrow costs an hour.
pub(crate) fn dearest(borrow: &Borrow) -> u64 {
    let need = &borrow.requirement;
    let cost = |c: &Candidate| match need.standby {
        Some(standby) => kept_rent(c.price_per_instance_hour, c.standby_percent, need.instances, standby),
        None => c.price_per_instance_hour.0.saturating_mul(u64::from(need.instances)),
    };
    borrow.candidates.iter().map(cost).max().unwrap_or(0)
}

/// Of a standby at rest, an hour.
pub(crate) fn kept_rent(price: Money, percent: Option<u32>, instances: u32, standby: Standby) -> u64 {
    let kept = price.percent(percent.unwrap_or(0)).0.saturating_mul(u64::from(instances));
    kept.saturating_add(price.0.saturating_mul(u64::from(standby.warm)))
}

/// Rent an hour against its ceiling.
struct Rent {
    used: u64,
    ceiling: u64,
}

impl Rent {
    fn of(input: &PlanInput, parts: &[Part]) -> Self {
        let cost = |(p, now): (&Part, &CurrentPart)| now.cost(p);
        let used = parts.iter().zip(&input.parts).map(cost).fold(0, u64::saturating_add);
        Self { used, ceiling: input.service.spec.borrowing.money_per_hour_max.0 }
    }
    fn left(&self) -> u64 {
        self.ceiling.saturating_sub(self.used)
    }
    /// How many instances at that price are within it.
    fn count(&self, price: Money) -> u32 {
        self.left().checked_div(price.0).map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX))
    }
}

/// Dearest and farthest first.
fn shrink(parts: &mut [Part], now: &[CurrentPart], mut surplus: u32) {
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse((now[*i].price_per_instance_hour, now[*i].rtt_us, now[*i].lease.clone())));
    for i in order {
        let less = parts[i].instances.min(surplus);
        parts[i].instances -= less;
        surplus -= less;
    }
}

/// Fills the leases there are, cheapest and nearest first; returns what is still missing.
fn grow_parts(
    parts: &mut [Part],
    input: &PlanInput,
    mut missing: u32,
    rent: &mut Rent,
    reasons: &mut Vec<Obstacle>,
) -> u32 {
    let now = &input.parts;
    // A standby serves once it has everything, and not where it failed to lately.
    let failed = |p: &CurrentPart| input.excluded.iter().any(|(cloud, _)| cloud == &p.cloud);
    let able = |p: &CurrentPart| !p.recalled && p.standby.is_none_or(|s| s.complete && (p.instances > 0 || !failed(p)));
    let mut order: Vec<usize> = (0..parts.len()).filter(|i| able(&now[*i])).collect();
    order.sort_by_key(|i| (now[*i].price_per_instance_hour, now[*i].rtt_us, now[*i].lease.clone()));
    for i in order {
        let room = now[i].granted.saturating_sub(parts[i].instances).min(missing);
        let more = room.min(rent.count(now[i].price_per_instance_hour));
        if more < room {
            reasons.push(money_obstacle(rent.ceiling, &now[i].cloud));
        }
        parts[i].instances += more;
        rent.used = rent.used.saturating_add(now[i].price_per_instance_hour.0.saturating_mul(u64::from(more)));
        missing -= more;
    }
    missing
}

fn money_obstacle(ceiling: u64, cloud: &CloudName) -> Obstacle {
    let text = format!("another instance at {cloud} would cost more than {} an hour in all", Money(ceiling));
    obstacle("money_ceiling", text)
}

/// A search for one more lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search {
    pub instances: u32,
    pub instances_min: u32,
    /// It is to be kept, not to serve.
    pub standby: Option<Standby>,
    pub money_left: u64,
}

fn help(
    input: &PlanInput,
    missing: u32,
    parts: &[Part],
    money_left: u64,
    reasons: &mut Vec<Obstacle>,
) -> Option<Borrow> {
    let before = reasons.len();
    let borrowing = &input.service.spec.borrowing;
    if input.spent.new_journey && input.spent.moves_last_hour >= borrowing.moves_per_hour_max {
        let text = format!("{} journeys began in the last hour, the most allowed", input.spent.moves_last_hour);
        reasons.push(obstacle("moves_ceiling", text));
    }
    if reasons.len() > before {
        return None;
    }
    let search = Search { instances: missing, instances_min: 1, standby: None, money_left };
    new_borrow(input, search, parts, reasons)
}

pub(crate) fn new_borrow(
    input: &PlanInput,
    search: Search,
    parts: &[Part],
    reasons: &mut Vec<Obstacle>,
) -> Option<Borrow> {
    let spec = &input.service.spec;
    let borrowing = &spec.borrowing;
    let missing = search.instances;
    let bytes = sent_bytes(input);
    if bytes > borrowing.bytes_max {
        let text = format!("{bytes} bytes would be sent, {} are allowed", borrowing.bytes_max);
        reasons.push(obstacle("bytes_ceiling", text));
        return None;
    }
    let resources = spec.application.resources;
    let mut ranked: Vec<(u64, &Offer, u64, u32, Money, String)> = Vec::new();
    for (offer, rtt_us) in &input.offers {
        match weigh(input, parts, offer, *rtt_us, &search) {
            Ok((score, instances, price, why)) => ranked.push((score, offer, *rtt_us, instances, price, why)),
            Err(obstacle) => reasons.push(obstacle),
        }
    }
    // The name breaks ties, so that the same offers give the same plan.
    ranked.sort_by(|a, b| (a.0, &a.1.cloud).cmp(&(b.0, &b.1.cloud)));
    let mut named = BTreeSet::new();
    ranked.retain(|r| named.insert(r.1.cloud.clone()));
    ranked.truncate(CANDIDATES_MAX.min(input.ids.holds.len()));
    if ranked.is_empty() {
        let what = if input.ids.holds.is_empty() { "no_ids" } else { "no_candidate" };
        let text = format!("no member can lend {missing} instances now");
        reasons.push(obstacle(what, text));
        return None;
    }
    // All candidates are asked for the same, so the dearest bounds the number.
    let price_max = ranked.iter().map(|r| r.4).max().unwrap_or_default();
    // ... and the least patient lender bounds the lease.
    let lease_ttl_ms = ranked.iter().map(|r| r.1.lease_ttl_ms_max).fold(LEASE_TTL_MS, u64::min);
    let rent = Rent { used: 0, ceiling: search.money_left };
    let instances = match search.standby {
        Some(_) => missing,
        None => missing.min(rent.count(price_max)).max(1),
    };
    let candidates = ranked
        .into_iter()
        .zip(&input.ids.holds)
        .map(|((score, offer, rtt_us, _, price, why), (reservation, lease))| Candidate {
            cloud: offer.cloud.clone(),
            reservation: reservation.clone(),
            lease: lease.clone(),
            price_per_instance_hour: price,
            standby_percent: search.standby.and(offer.standby_percent),
            rtt_us,
            score,
            why,
        })
        .collect();
    let requirement = Requirement {
        service: input.service.metadata.name.clone(),
        platform: spec.application.platform.clone(),
        resources,
        instances,
        instances_min: search.instances_min,
        storage_bytes: storage_bytes(sent_bytes(input), input.files),
        price_per_instance_hour_max: price_max,
        egress: spec.application.destinations(),
        standby: search.standby,
    };
    Some(Borrow {
        requirement,
        candidates,
        hold_ttl_ms: HOLD_TTL_MS,
        lease_ttl_ms,
        answer_timeout_ms: ANSWER_TIMEOUT_MS,
    })
}

/// What an entry takes of a disk, whatever is in it.
const FILE_BYTES: u64 = 4 << 10;

/// Copies grow, are unpacked beside what was sent, and an update needs room for what it changes: three times the bytes, and half again
/// as many entries.
pub fn storage_bytes(sent_bytes: u64, files: u64) -> u64 {
    let entries = files.saturating_add(files / 2).saturating_mul(FILE_BYTES);
    sent_bytes.saturating_mul(3).saturating_add(entries).saturating_add(64 << 20)
}

/// Score of an offer, lower is better: price (1 a millionth an instance-hour), round trip (1 a microsecond), and instances
/// that it cannot give (100000 each); or what speaks against it.
fn weigh(
    input: &PlanInput,
    parts: &[Part],
    offer: &Offer,
    rtt_us: u64,
    search: &Search,
) -> Result<(u64, u32, Money, String), Obstacle> {
    let (spec, cloud): (&ServiceSpec, _) = (&input.service.spec, &offer.cloud);
    let missing = search.instances;
    let allowed = &spec.borrowing.clouds;
    if cloud == &input.home || (!allowed.is_empty() && !allowed.contains(cloud)) {
        return Err(obstacle("not_allowed", format!("{cloud} is not a cloud that this service may be lent by")));
    }
    if let Some((_, why)) = input.excluded.iter().find(|(c, _)| c == cloud) {
        return Err(obstacle("failed_lately", format!("{cloud} failed lately: {why}")));
    }
    if input.parts.iter().any(|p| p.recalled && &p.cloud == cloud) {
        return Err(obstacle("failed_lately", format!("{cloud} calls its capacity back")));
    }
    let need = &spec.application.platform;
    if !offer.can_run(need) {
        let text = format!("{cloud} does not run {need}");
        return Err(obstacle("platform", text));
    }
    if let Err(why) = offer.may_call(&spec.application.destinations()) {
        return Err(obstacle("egress", format!("{cloud} does not let instances call what this service calls: {why}")));
    }
    let wish = &spec.continuity;
    if search.standby.is_some() && (offer.standby_percent.is_none() || wish.rank(cloud).is_none()) {
        let why = if wish.rank(cloud).is_none() {
            "is not among continuity.clouds"
        } else {
            "keeps nothing ready for others"
        };
        return Err(obstacle("no_standby", format!("{cloud} {why}")));
    }
    let one: Resources = spec.application.resources;
    let free = offer.free_for(search.standby);
    let room = one.count_in(free).min(missing);
    let storage = storage_bytes(sent_bytes(input), input.files);
    if offer.lease_ttl_ms_max < LEASE_TTL_MS_MIN {
        return Err(obstacle("no_room", format!("{cloud} lends for {} ms only", offer.lease_ttl_ms_max)));
    }
    if room < search.instances_min {
        let text = format!("{cloud} has no room: {} cpu_millis and {} MiB are free", free.cpu_millis, free.memory_mib);
        return Err(obstacle("no_room", text));
    }
    if offer.storage_free_bytes < storage {
        let text = format!(
            "{cloud} has no room: {} bytes of storage are free, {storage} are needed",
            offer.storage_free_bytes
        );
        return Err(obstacle("no_room", text));
    }
    let price = offer.price_per_instance_hour(one);
    let least = match search.standby {
        Some(standby) => kept_rent(price, offer.standby_percent, missing, standby),
        None => price.0,
    };
    if least > search.money_left {
        return Err(money_obstacle(spec.borrowing.money_per_hour_max.0, cloud));
    }
    let short = u64::from(missing - room);
    // A second lease at one lender would be a second copy of the same there.
    let twice = if parts.iter().any(|p| &p.cloud == cloud && p.instances > 0) { 50_000 } else { 0 };
    // The customer's order comes first.
    let order = search.standby.and(wish.rank(cloud)).map_or(0, |rank| rank as u64 * 1_000_000_000);
    let score = [rtt_us, short.saturating_mul(100_000), twice, order].into_iter().fold(price.0, u64::saturating_add);
    let (ms, tenth) = (rtt_us / 1_000, rtt_us % 1_000 / 100);
    let why = format!("{price} an instance-hour, {ms}.{tenth} ms away, room for {room} of {missing}");
    Ok((score, room, price, why))
}
