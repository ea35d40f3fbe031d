//! Time and facts move the journey: plans are adopted, grants are chosen among, shares grow, parts end.

use crate::event::{end, enter, give_back};
use crate::record::{JOURNEY_VERSION, Journey, Outcome, Part, PartState, Phase, Seeking, Told, Try, TryState};
use crate::rehearsal::{self, Rehearsal};
use crate::standby;
use pumasi_judge::Cause;
use pumasi_plan::{Borrow, Plan, Role};
use pumasi_terms::service::AutomationMode;
use pumasi_terms::{BootMs, JourneyId, LeaseId, Now, Ppm};
use std::collections::BTreeMap;

/// A lender that has a whole lease signed and complete, and yet no instance ready, is given up after this.
const START_TIMEOUT_MS: u64 = 60_000;
/// Of a recall's notice, this part is kept for draining and emptying.
const RECALL_MARGIN_PERCENT: u64 = 50;

/// What is observed and stands in no document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub home_ready: u32,
    pub parts: BTreeMap<LeaseId, PartFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartFacts {
    /// The gateway sends it nothing more and waits for nothing from it.
    pub drained: bool,
    /// It answers requests without errors.
    pub healthy: bool,
}

/// A new journey for its first plan. `seats`: standbys that the plan lets help.
pub fn open(id: JourneyId, plan: &Plan, seats: Vec<Part>, now: Now) -> (Journey, Vec<Told>) {
    let mut journey = Journey {
        version: JOURNEY_VERSION,
        id,
        service: plan.service.clone(),
        cause: plan.verdict.cause,
        epoch: plan.epoch,
        opened_at: now.wall,
        phase: Phase::Waiting,
        plan: plan.id.clone(),
        plan_number: plan.number,
        seeking: None,
        parts: Vec::new(),
        failed: Vec::new(),
        failed_until: Default::default(),
        helped_by: Default::default(),
        away: Default::default(),
        rehearsal: None,
    };
    standby::receive(&mut journey, seats);
    let mut told = vec![Told::journey(&journey, "journey_opened", format!("{:?}", plan.verdict.cause).to_lowercase())];
    if plan.mode == AutomationMode::Automatic {
        let (running, more) = adopt(&journey, plan, now);
        journey = running;
        told.extend(more);
    }
    (journey, told)
}

/// A journey that finds out whether borrowing would work, by this path of the service.
pub fn rehearse(id: JourneyId, plan: &Plan, path: String, now: Now) -> (Journey, Vec<Told>) {
    let (journey, told) = open(id, plan, Vec::new(), now);
    (Journey { rehearsal: Some(Rehearsal::of(path)), ..journey }, told)
}

/// Puts a plan into force: its search begins, its parts become what it says.
pub fn adopt(journey: &Journey, plan: &Plan, now: Now) -> (Journey, Vec<Told>) {
    let mut next = journey.clone();
    let mut told = vec![];
    next.phase = Phase::Running;
    if next.is_rehearsal() && plan.verdict.cause != Cause::Rehearsal {
        // What it rented is kept, and serves from now on.
        next.cause = plan.verdict.cause;
        next.rehearsal = None;
    }
    next.plan = plan.id.clone();
    next.plan_number = plan.number;
    // What the last plan still sought is let go: this one says what is wanted now.
    if let Some(seeking) = &mut next.seeking {
        seeking.tries.iter_mut().for_each(|t| let_go(t, now));
    }
    for wanted in &plan.parts {
        let Some(part) = next.part_mut(&wanted.lease) else { continue };
        if wanted.role == Role::Standby {
            standby::rest(part, reason(plan), now, &mut told);
        } else if wanted.instances == 0 && part.recalled.is_some() && part.state != PartState::Kept {
            // It serves until another does, or its notice is nearly over: `part` below ends it then.
            continue;
        } else if wanted.instances == 0 {
            end(&mut next, &wanted.lease, reason(plan), now, &mut told);
        } else if part.wanted != wanted.instances && part.is_hopeful() {
            let why = format!(
                "{} instances at {} instead of {}: {}",
                wanted.instances,
                part.lender,
                part.wanted,
                reason(plan)
            );
            part.wanted = wanted.instances.min(part.granted);
            told.push(Told::lease(part, "resized", why));
            standby::rouse(part, now);
        }
    }
    if let Some(borrow) = &plan.borrow {
        let fresh = borrow.candidates.iter().map(|c| Try { candidate: c.clone(), state: TryState::Asking });
        let leftovers = next.seeking.take().map(|s| s.tries).unwrap_or_default();
        let leftovers = leftovers.into_iter().filter(|t| matches!(t.state, TryState::LettingGo { .. }));
        next.seeking =
            Some(Seeking { plan: plan.id.clone(), begun_at: now.boot, tries: fresh.chain(leftovers).collect() });
    }
    told.push(Told::journey(&next, "plan_adopted", format!("plan {} of this journey: {}", plan.number, reason(plan))));
    (next, told)
}

fn reason(plan: &Plan) -> String {
    plan.verdict.reasons.iter().map(|r| r.text.as_str()).collect::<Vec<_>>().join("; ")
}

/// Gives everything back, in order.
pub fn cancel(journey: &Journey, why: &str, now: Now) -> (Journey, Vec<Told>) {
    let mut next = journey.clone();
    let mut told = vec![Told::journey(journey, "journey_cancelled", why)];
    if let Some(seeking) = &mut next.seeking {
        seeking.tries.iter_mut().for_each(|t| let_go(t, now));
    }
    if next.phase == Phase::Waiting {
        next.phase = Phase::Closed { at: now.wall, outcome: Outcome::NotBegun, why: why.to_owned() };
        return (next, told);
    }
    let keeps = next.is_continuity();
    let leases: Vec<LeaseId> = next.parts.iter().map(|p| p.lease.clone()).collect();
    for lease in leases {
        match next.part_mut(&lease) {
            // It only helped: it is kept for as long as the customer wants it.
            Some(part) if part.standby.is_some() && !keeps => standby::rest(part, why.to_owned(), now, &mut told),
            _ => end(&mut next, &lease, why.to_owned(), now, &mut told),
        }
    }
    (next, told)
}

/// Boot times of before a reboot are void: leases have run out as far as this side can tell, and waits begin anew.
#[must_use]
pub fn after_reboot(journey: &Journey, now: Now) -> Journey {
    let mut next = journey.clone();
    if let Some(seeking) = &mut next.seeking {
        seeking.begun_at = BootMs(0);
        for t in &mut seeking.tries {
            if let TryState::LettingGo { until } = &mut t.state {
                *until = now.boot;
            }
        }
    }
    next.failed_until.clear();
    for part in &mut next.parts {
        part.expires_at = BootMs(0);
        part.heard_at = BootMs(0);
        part.lose_sight(part.granted, part.ttl_ms.saturating_mul(2));
        part.since = now.boot;
        part.stepped_at = now.boot;
        part.ready = 0;
        part.recalled = None;
        part.unsure_until = None;
        if let PartState::Ending { release, .. } = &mut part.state {
            release.since = now.boot;
        }
    }
    next
}

fn let_go(t: &mut Try, now: Now) {
    let until = match &t.state {
        // It may have been granted without our knowing: it is told so until the longest hold there is has run out.
        TryState::Asking => now.boot.after(60_000),
        TryState::Granted { grant } => now.boot.after(grant.expires_in_ms),
        _ => return,
    };
    t.state = TryState::LettingGo { until };
}

/// Moves what time and facts move. Called at every look, and after every event.
pub fn tick(journey: &Journey, plan: &Plan, facts: &Facts, now: Now) -> (Journey, Vec<Told>) {
    let mut next = journey.clone();
    let mut told = Vec::new();
    if next.phase != Phase::Running {
        return (next, told);
    }
    seek(&mut next, plan, now, &mut told);
    standby::forget(&mut next, now);
    let leases: Vec<LeaseId> = next.parts.iter().map(|p| p.lease.clone()).collect();
    for lease in &leases {
        part(&mut next, plan, facts, lease, now, &mut told);
    }
    close(&mut next, now, &mut told);
    (next, told)
}

/// Chooses among the grants when all have answered or the time for answers is over.
fn seek(journey: &mut Journey, plan: &Plan, now: Now, told: &mut Vec<Told>) {
    let (Some(seeking), Some(borrow)) = (&mut journey.seeking, &plan.borrow) else {
        forget_search(journey, now);
        return;
    };
    let chosen = seeking.tries.iter().any(|t| t.state == TryState::Chosen);
    let asking = seeking.tries.iter().any(|t| t.state == TryState::Asking);
    let late = now.boot >= seeking.begun_at.after(borrow.answer_timeout_ms);
    if seeking.plan != plan.id || chosen || (asking && !late) {
        forget_search(journey, now);
        return;
    }
    for t in seeking.tries.iter_mut().filter(|t| t.state == TryState::Asking) {
        let why = format!("{} did not answer within {} ms", t.candidate.cloud, borrow.answer_timeout_ms);
        told.push(Told {
            action: "hold_too_late",
            subject_kind: "reservation",
            subject: t.candidate.reservation.to_string(),
            reasons: vec![why],
            last_line: String::new(),
        });
        let_go(t, now);
    }
    choose(journey, plan, borrow, now, told);
    forget_search(journey, now);
}

fn choose(journey: &mut Journey, plan: &Plan, borrow: &Borrow, now: Now, told: &mut Vec<Told>) {
    let Some(seeking) = &mut journey.seeking else { return };
    let grant = |t: &Try| match &t.state {
        TryState::Granted { grant } => Some(grant.clone()),
        _ => None,
    };
    let grants: Vec<_> = seeking.tries.iter().map(|t| (t.candidate.clone(), grant(t))).collect();
    let Some(best) = pumasi_lease::choose(&borrow.requirement, &grants) else { return };
    let (mut part, mut others) = (None, Vec::new());
    for t in &mut seeking.tries {
        match (&t.state, t.candidate.reservation == best.reservation) {
            (TryState::Granted { grant }, true) => {
                part = Some(Part::new(best, grant, plan, borrow, now));
                t.state = TryState::Chosen;
            }
            (state, _) => {
                if matches!(state, TryState::Granted { .. }) {
                    others.push(format!("{}: {}", t.candidate.cloud, t.candidate.why));
                }
                let_go(t, now);
            }
        }
    }
    if let Some(part) = part {
        let rather = if others.is_empty() { String::new() } else { format!("; rather than {}", others.join(", ")) };
        told.push(Told::lease(&part, "lender_chosen", format!("{}: {}{rather}", best.cloud, best.why)));
        journey.parts.push(part);
    }
}

/// A search ends when no try is open any more.
fn forget_search(journey: &mut Journey, now: Now) {
    let Some(seeking) = &mut journey.seeking else { return };
    for t in &mut seeking.tries {
        if matches!(t.state, TryState::LettingGo { until } if now.boot >= until) {
            t.state = TryState::Over;
        }
    }
    let open = |t: &Try| matches!(t.state, TryState::Asking | TryState::Granted { .. } | TryState::LettingGo { .. });
    if !seeking.tries.iter().any(open) {
        journey.seeking = None;
    }
}

fn part(journey: &mut Journey, plan: &Plan, facts: &Facts, lease: &LeaseId, now: Now, told: &mut Vec<Told>) {
    let home_ready = facts.home_ready;
    let observed = facts.parts.get(lease).cloned().unwrap_or_default();
    let replaced = replaced(journey, lease);
    let rehearsing = journey.is_rehearsal();
    let Some(p) = journey.part_mut(lease) else { return };
    let expired = now.boot >= p.expires_at;
    if p.standby.is_some() && p.is_complete() && standby::tick(p, observed.drained, now, told) {
        return;
    }
    match &p.state {
        PartState::Signing if expired => {
            give_back(journey, lease, "the hold ran out before the lease was signed".into(), now, told)
        }
        PartState::Kept | PartState::Resting if recall_is_due(p, false, now) => {
            give_back(journey, lease, "the lender calls it back".into(), now, told);
        }
        PartState::Sending | PartState::Starting | PartState::Serving if expired => {
            let why = if p.recalled.is_some() { "the recall's notice is over" } else { "it could not be renewed" };
            give_back(journey, lease, why.into(), now, told);
        }
        PartState::Sending | PartState::Starting | PartState::Serving if recall_is_due(p, replaced, now) => {
            give_back(journey, lease, "the lender calls it back".into(), now, told);
        }
        PartState::Starting if p.ready > 0 => {
            let why = format!("{} of {} instances are ready at {}", p.ready, p.wanted, p.lender);
            enter(p, PartState::Serving, now);
            if rehearsing {
                told.push(Told::lease(p, "rehearsal_ready", why));
                return;
            }
            p.weight = fair(p.ready, home_ready, plan.route.start);
            p.stepped_at = now.boot;
            told.push(Told::lease(p, "switchover", why));
        }
        PartState::Starting if now.boot.since(p.since) >= START_TIMEOUT_MS => {
            let why = format!(
                "no instance got ready in {START_TIMEOUT_MS} ms: {}",
                p.trouble.clone().unwrap_or_else(|| "no reason told".into())
            );
            give_back(journey, lease, why, now, told);
        }
        PartState::Serving if rehearsing => rehearsal::give_up(journey, lease, now, told),
        PartState::Serving => {
            let target = fair(p.ready, home_ready, Ppm::WHOLE);
            p.weight = pumasi_route::share::next_weight(&pumasi_route::share::Ramp {
                current: p.weight,
                fair: target,
                start: plan.route.start,
                step: plan.route.step,
                step_ms: plan.route.step_ms,
                since_last_step_ms: now.boot.since(p.stepped_at),
                healthy: observed.healthy,
            });
            if now.boot.since(p.stepped_at) >= plan.route.step_ms {
                p.stepped_at = now.boot;
            }
        }
        PartState::Ending { why, release } => {
            let facts = pumasi_release::Facts {
                drained: observed.drained,
                lender_instances: p.ready,
                lender_silent_ms: now.boot.since(p.heard_at),
                lease_expired: expired,
            };
            let stepped = pumasi_release::advance(release, &facts, now);
            if stepped.step == pumasi_release::Step::Done {
                let (proven, settled) = (stepped.proven(), stepped.heard.settled);
                let text = if proven {
                    "nothing of this service is left there"
                } else {
                    "its lender could not prove that nothing is left"
                };
                told.push(Told::lease(p, "lease_over", text));
                let why = why.clone();
                enter(p, PartState::Ended { why, proven, settled }, now);
            } else if &stepped != release {
                let why = why.clone();
                p.state = PartState::Ending { why, release: stepped };
            }
        }
        _ => {}
    }
}

/// A part's fair weight is its instances against the home's: both relative to the home's instances as a whole.
fn fair(ready: u32, home_ready: u32, of: Ppm) -> Ppm {
    let share = u64::from(ready) * u64::from(of.0) / u64::from(home_ready.max(1));
    Ppm(u32::try_from(share).unwrap_or(u32::MAX))
}

/// Another part serves what this one did.
fn replaced(journey: &Journey, lease: &LeaseId) -> bool {
    let wanted = journey.part(lease).map_or(0, |p| p.wanted);
    let others: u32 = journey
        .parts
        .iter()
        .filter(|p| &p.lease != lease && p.state == PartState::Serving && p.recalled.is_none())
        .map(|p| p.ready)
        .sum();
    others >= wanted
}

fn recall_is_due(part: &Part, replaced: bool, now: Now) -> bool {
    let margin = part.recall_notice_ms * RECALL_MARGIN_PERCENT / 100;
    part.recalled.is_some_and(|deadline: BootMs| replaced || now.boot.after(margin) >= deadline)
}

fn close(journey: &mut Journey, now: Now, told: &mut Vec<Told>) {
    if journey.seeking.is_some() || !journey.away.is_empty() || !journey.parts.iter().all(Part::is_over) {
        return;
    }
    // One that lasts remembers whom it asked in vain; without it the next look would ask them again at once.
    if journey.is_continuity() && !journey.failed.is_empty() {
        return;
    }
    let unproven = journey.parts.iter().any(|p| matches!(p.state, PartState::Ended { proven: false, .. }));
    let served = journey.parts.iter().any(|p| p.generation_sent > 0) || !journey.helped_by.is_empty();
    let (outcome, why) = match (unproven, served) {
        (true, _) => (Outcome::Unproven, "over; not every lender could prove that nothing is left"),
        (false, true) => (Outcome::Returned, "everything came back and nothing is left"),
        (false, false) => (Outcome::NotBegun, "no partner could help"),
    };
    journey.phase = Phase::Closed { at: now.wall, outcome, why: why.to_owned() };
    told.push(Told::journey(journey, "journey_closed", why));
}
