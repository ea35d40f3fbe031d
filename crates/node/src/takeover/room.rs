//! Room for what was taken over: what stands back for it by this cloud's terms, and what it waits for.
//!
//! Enters: this cloud's services, what it lent, its terms. Leaves: how many instances of each service may run now, leases that are called
//! back, entries of the journal, lines for people.
//! Always holds:
//! - It follows from what is there at each look and nothing of it is stored: what stood back comes again once those it made room for are
//!   gone.
//! - A service that was taken over starts what there is room for, and at least what the plan of its recovery promised; nothing of it that
//!   runs is stopped for want of room.
//! - A plan of recovery that this cloud reports for and what it does then are counted by one function (`ownership::room`).

use crate::node::{Locked, Note};
use crate::object::ServiceRecord;
use crate::{Node, clock, home, lender, register, routes};
use pumasi_api::{Principal, Problem};
use pumasi_engine::InstanceState;
use pumasi_lease::{LentLease, LentState};
use pumasi_ownership::recover::GivesWay;
use pumasi_ownership::room::{self, Guest, Own, Rented, Way};
use pumasi_ownership::state::{Class, Phase, Standing};
use pumasi_terms::pact::GiveWay;
use pumasi_terms::service::RecoveryClass;
use pumasi_terms::{CloudName, LeaseId, Resources, ServiceName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// After its bounds an instance has ended, and this cloud has seen it.
const STOPPED_MS: u64 = 1_000;
/// A lease that ended is emptied within this.
const EMPTIED_MS: u64 = 10_000;

#[derive(Debug, Default)]
pub struct Room(Locked<Option<Stand>>);

/// As it was found at the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stand {
    /// Deferred services that make room, by owner of instances.
    back: BTreeMap<String, Back>,
    /// Services that were taken over, by owner of instances.
    guests: BTreeMap<String, Seat>,
    /// Leases that are called back.
    leases: BTreeMap<LeaseId, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Back {
    service: ServiceName,
    may: u32,
    of: u32,
    whom: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seat {
    service: ServiceName,
    /// Instances that may run now, that it will have once what gives way has gone, and that it should have.
    now: u32,
    soon: u32,
    of: u32,
    in_ms: u64,
    /// What it waits for.
    ways: Vec<String>,
}

impl Room {
    /// Of `all` instances that a service would have: those that may run now.
    pub fn at_most(&self, owner: &str, all: u32) -> u32 {
        let stand = self.0.lock();
        let Some(stand) = &*stand else { return all };
        let back = stand.back.get(owner).map_or(all, |b| b.may);
        all.min(back).min(stand.guests.get(owner).map_or(all, |seat| if seat.now < seat.of { seat.now } else { all }))
    }

    /// Of `all`: those that are its own, also where it waits for room.
    pub fn claims(&self, owner: &str, all: u32) -> u32 {
        let stand = self.0.lock();
        let Some(stand) = &*stand else { return all };
        let back = stand.back.get(owner).map_or(all, |b| b.may);
        match stand.guests.get(owner) {
            // Also before it may run at all, while its data are being made this cloud's own.
            Some(seat) if seat.soon < seat.of || all < seat.of => seat.soon,
            _ => all.min(back),
        }
    }

    pub fn stands_back(&self, owner: &str) -> bool {
        self.0.lock().as_ref().is_some_and(|s| s.back.contains_key(owner))
    }

    /// For people: why a service has fewer instances than it should.
    pub fn why(&self, owner: &str) -> Option<String> {
        let stand = self.0.lock();
        let stand = stand.as_ref()?;
        let back = stand.back.get(owner).map(Back::in_words);
        back.or_else(|| stand.guests.get(owner).filter(|seat| seat.now < seat.of).map(Seat::in_words))
    }

    pub(super) fn remarks(&self) -> Vec<String> {
        let stand = self.0.lock();
        let Some(stand) = &*stand else { return Vec::new() };
        let waits = stand.guests.values().filter(|seat| seat.now < seat.of);
        let waits = waits.map(|seat| format!("{} {}", seat.service, seat.in_words()));
        stand.back.values().map(|b| format!("{} {}", b.service, b.in_words())).chain(waits).collect()
    }
}

impl Back {
    fn in_words(&self) -> String {
        format!("stands back for {}: {} of {} instances run", self.whom, self.may, self.of)
    }
}

impl Seat {
    fn in_words(&self) -> String {
        let (now, of) = (self.now, self.of);
        if self.soon <= now {
            return format!("has room for {now} of {of} instances here, and nothing more gives way");
        }
        let ways = self.ways.join(", ");
        let soon = self.soon;
        format!("has room for {now} of {of} instances now, for {soon} in {} s: {ways}", self.in_ms.div_ceil(1_000))
    }
}

/// What gives way, in words.
fn in_words(gives: &GivesWay) -> String {
    match &gives.rented_to {
        Some(to) => format!("{to} gives back what it rents for {}", gives.what),
        None => format!("{} stands back", gives.what),
    }
}

/// The same of many, each once.
pub(super) fn list(ways: &[GivesWay]) -> Vec<String> {
    let mut counted: Vec<(String, u32)> = Vec::new();
    for words in ways.iter().map(in_words) {
        match counted.iter_mut().find(|(known, _)| known == &words) {
            Some((_, n)) => *n += 1,
            None => counted.push((words, 1)),
        }
    }
    counted.into_iter().map(|(words, n)| if n > 1 { format!("{words} with {n} instances") } else { words }).collect()
}

/// Whether it was taken over from a cloud that could not go on with it.
fn is_guest(service: &ServiceRecord) -> bool {
    service.rescued_from.is_some() && service.document.spec.recovery_class != RecoveryClass::Deferred
}

fn gives_way(node: &Node) -> GiveWay {
    let own = node.pact().and_then(|v| v.pact.member(node.name()).map(|m| m.terms.gives_way));
    own.unwrap_or_default()
}

/// This cloud's deferred services, `count` instances of each.
fn own_deferred(
    node: &Node,
    services: &[Arc<ServiceRecord>],
    count: impl Fn(&ServiceRecord) -> u32,
) -> Vec<(String, Own)> {
    let gives = |s: &&Arc<ServiceRecord>| {
        s.document.spec.recovery_class == RecoveryClass::Deferred && register::is_ours(node, s) && !s.deleting
    };
    let own = |s: &Arc<ServiceRecord>| {
        let app = &s.document.spec.application;
        let own = Own {
            service: s.name().clone(),
            priority: s.document.spec.priority,
            unit: app.resources,
            count: count(s),
            in_ms: routes::DRAIN_MS_MAX.saturating_add(app.stop_grace_ms).saturating_add(STOPPED_MS),
        };
        (s.owner(), own)
    };
    services.iter().filter(gives).map(own).collect()
}

/// Leases that bind room here, and no standbys.
fn rented(node: &Node, lents: &[Arc<LentLease>], lost: Option<&CloudName>) -> Vec<Rented> {
    let (now, state) = (clock::now(), node.voting.state());
    let is_lost = |borrower: &CloudName| {
        let stands = state.as_ref().and_then(|s| s.clouds.get(borrower)).map(|c| c.standing);
        lost == Some(borrower) || matches!(stands, Some(Standing::Lost { .. }))
    };
    let binds = lents.iter().filter(|l| l.binds() && l.standby().is_none());
    let rented = binds.map(|l| {
        let (lease, borrower) = (l.id().clone(), l.lease.borrower.clone());
        let (goes, in_ms) = match &l.state {
            LentState::Active if is_lost(&borrower) => (true, l.expires_in_ms(now)),
            LentState::Active => (false, l.lease.recall_notice_ms),
            LentState::Recalled { deadline, .. } => (true, deadline.since(now.boot)),
            _ => (true, 0),
        };
        let room = l.lease.requirement.resources.times(l.lease.instances);
        let in_ms = in_ms.saturating_add(EMPTIED_MS);
        Rented { lease, service: l.lease.service.clone(), borrower, room, in_ms, goes }
    });
    rented.collect()
}

/// What would give way here, were this cloud lost; `short`: what is promised beyond what there is.
pub(super) fn report(node: &Node, lost: &CloudName, short: Resources) -> Result<Vec<GivesWay>, Problem> {
    let (services, lents) = (node.services()?, lender::lents(node)?);
    let own = own_deferred(node, &services, |s| home::wanted(node, s).count);
    let own: Vec<Own> = own.into_iter().map(|(_, own)| own).collect();
    let ways = room::ways(gives_way(node), &own, &rented(node, &lents, Some(lost)));
    Ok(room::beyond(ways, short).into_iter().map(|way| way.gives).collect())
}

/// The part of what its own services have that a standby may count on.
pub fn for_standbys(node: &Node, services: &[Arc<ServiceRecord>]) -> Resources {
    if !gives_way(node).own_deferred() {
        return Resources::default();
    }
    let own = own_deferred(node, services, |s| home::wanted(node, s).count);
    own.iter().fold(Resources::default(), |sum, (_, own)| sum.plus(own.unit.times(own.count)))
}

/// At each look, before anything is started or stopped.
pub async fn reconcile(node: &Node, services: &[Arc<ServiceRecord>]) -> Result<(), Problem> {
    let before = node.takeover.room.0.lock().clone();
    let stays = before.is_some() && (node.automation_stopped() || node.may_act().is_err());
    let guests: Vec<&Arc<ServiceRecord>> = services.iter().filter(|s| is_guest(s) && occupies(node, s)).collect();
    if stays || (guests.is_empty() && before.as_ref().is_some_and(|b| *b == Stand::default())) {
        return Ok(());
    }
    let stand = if guests.is_empty() { Stand::default() } else { settle(node, services, &guests)? };
    if before.as_ref() == Some(&stand) {
        return Ok(());
    }
    node.takeover.room.0.set(Some(stand.clone()));
    if let Some(before) = before {
        tell(node, &before, &stand).await;
    }
    for (lease, why) in &stand.leases {
        match lender::recall(node, &Principal::Daemon, lease.clone(), why.clone()).await {
            Ok(_) => {}
            Err(e) => tracing::warn!(%lease, error = %e, "a lease was not called back to make room; tried again"),
        }
    }
    Ok(())
}

/// Whether it has room here: it is this cloud's, or something of it runs still.
fn occupies(node: &Node, service: &ServiceRecord) -> bool {
    !service.deleting && (size(node, service) > 0 || running(node, service) > 0)
}

/// Instances that it should have here: also while its data are being made this cloud's own, so that its room is there by then.
fn size(node: &Node, service: &ServiceRecord) -> u32 {
    match &service.taking {
        Some(_) if register::is_ours(node, service) => service.document.spec.instances.home.min,
        _ => home::all(node, service),
    }
}

fn running(node: &Node, service: &ServiceRecord) -> u32 {
    let owner = service.owner();
    let runs = |s: &InstanceState| !matches!(s, InstanceState::Stopped { .. });
    let count = node.instances.lock().iter().filter(|i| i.owner == owner && !i.prepared && runs(&i.state)).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn unit(service: &ServiceRecord) -> Resources {
    service.document.spec.application.resources
}

/// Instances that the plan of its recovery promised, whatever there is room for by now.
fn promised(node: &Node, service: &ServiceRecord) -> u32 {
    // What a person took over by hand runs as it is; others make room for it all the same.
    if !service.registered {
        return size(node, service);
    }
    let state = node.voting.state();
    let owned = state.as_ref().and_then(|s| s.services.get(&service.id)).filter(|o| o.epoch == service.epoch);
    match owned.map(|o| (o.phase, o.agreed.full)) {
        Some((Phase::Taken { have, .. } | Phase::Degraded { have, .. }, _)) => have,
        Some((Phase::Serving, full)) => full,
        // A cloud that has not heard of the register yet stops nothing.
        _ => running(node, service),
    }
}

fn settle(node: &Node, services: &[Arc<ServiceRecord>], guests: &[&Arc<ServiceRecord>]) -> Result<Stand, Problem> {
    let lents = lender::lents(node)?;
    let is_one = |s: &Arc<ServiceRecord>| guests.iter().any(|g| g.id == s.id);
    let others = services.iter().filter(|s| !is_one(s));
    let used = others.map(|s| unit(s).times(home::all(node, s))).fold(lender::lent_use(node)?, Resources::plus);
    let whole = node.config.physical();
    let own = own_deferred(node, services, |s| home::all(node, s));
    let named: Vec<Own> = own.iter().map(|(_, own)| own.clone()).collect();
    let ways = room::ways(gives_way(node), &named, &rented(node, &lents, None));
    let ways = room::beyond(ways, used.minus(whole));
    let seats: Vec<Guest> = guests.iter().map(|s| guest(node, s)).collect();
    let settled = room::settle(whole.minus(used), &seats, &ways);
    let mut stand = Stand::default();
    let given: Vec<(&Way, usize)> = settled.given.iter().filter_map(|(w, g)| Some((ways.get(*w)?, *g))).collect();
    for (way, g) in &given {
        let Some(whom) = guests.get(*g).map(|s| whom(s)) else { continue };
        match &way.lease {
            Some(lease) if !way.goes => {
                drop(stand.leases.insert(lease.clone(), format!("its room is needed for {whom}")))
            }
            Some(_) => {}
            None => {
                let Some((owner, own)) = own.iter().find(|(_, o)| o.service == way.gives.what) else { continue };
                let new = || Back { service: own.service.clone(), may: own.count, of: own.count, whom: whom.clone() };
                let back = stand.back.entry(owner.clone()).or_insert_with(new);
                back.may = back.may.saturating_sub(1);
            }
        }
    }
    let mut free = free_now(node, services, guests, &stand)?;
    for (i, service) in guests.iter().enumerate() {
        let of = size(node, service);
        let soon = settled.counts.get(i).copied().unwrap_or(0).max(promised(node, service)).min(of);
        let fits = unit(service).count_in(free);
        let now = soon.min(fits).max(promised(node, service).min(of)).max(running(node, service).min(of));
        free = free.minus(unit(service).times(now));
        let gives: Vec<GivesWay> = given.iter().filter(|(_, g)| *g == i).map(|(w, _)| w.gives.clone()).collect();
        let in_ms = if now < soon { gives.iter().map(|g| g.in_ms).max().unwrap_or(0) } else { 0 };
        let ways = if now < soon { list(&gives) } else { Vec::new() };
        let seat = Seat { service: service.name().clone(), now, soon: soon.max(now), of, in_ms, ways };
        stand.guests.insert(service.owner(), seat);
    }
    Ok(stand)
}

fn guest(node: &Node, service: &ServiceRecord) -> Guest {
    let spec = &service.document.spec;
    Guest {
        id: service.id.clone(),
        class: Class::from(spec.recovery_class),
        priority: spec.priority,
        unit: unit(service),
        full: size(node, service),
        least: 1,
    }
}

fn whom(service: &ServiceRecord) -> String {
    let from = service.rescued_from.as_ref().map(|from| format!(" of {from}")).unwrap_or_default();
    let class = super::judge::class_name(service.document.spec.recovery_class.into());
    format!("{}{from} ({class})", service.name())
}

/// Room that nothing has at this moment but the guests themselves.
fn free_now(
    node: &Node,
    services: &[Arc<ServiceRecord>],
    guests: &[&Arc<ServiceRecord>],
    stand: &Stand,
) -> Result<Resources, Problem> {
    let others = services.iter().filter(|s| !guests.iter().any(|g| g.id == s.id));
    let has = |s: &Arc<ServiceRecord>| {
        let may = stand.back.get(&s.owner()).map_or_else(|| home::all(node, s), |b| b.may);
        unit(s).times(may.max(running(node, s)))
    };
    Ok(node.config.physical().minus(others.map(has).fold(lender::lent_use(node)?, Resources::plus)))
}

/// What is another way than before.
async fn tell(node: &Node, before: &Stand, now: &Stand) {
    for (owner, back) in &now.back {
        let was = before.back.get(owner).map(|b| b.may);
        if was != Some(back.may) {
            let why = format!("{}, by this cloud's terms", back.in_words());
            node.note("daemon", Note::new("stood_back", "service", &back.service).because(why)).await;
        }
    }
    for (owner, back) in before.back.iter().filter(|(owner, _)| !now.back.contains_key(*owner)) {
        tracing::info!(%owner, "a service that stood back has its room again");
        let why = format!("{} has left: all {} instances may run again", back.whom, back.of);
        node.note("daemon", Note::new("room_returned", "service", &back.service).because(why)).await;
    }
    for (owner, seat) in &now.guests {
        let was = before.guests.get(owner).map(|s| (s.now, s.soon));
        let waited = was.is_some_and(|(now, _)| now < seat.of);
        let (action, why) = match seat.now < seat.of {
            true if was != Some((seat.now, seat.soon)) => ("room_awaited", seat.in_words()),
            false if waited => ("room_made", format!("all {} instances may run", seat.of)),
            _ => continue,
        };
        node.note("daemon", Note::new(action, "service", &seat.service).because(why)).await;
    }
}
