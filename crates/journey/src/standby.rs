//! Standbys within a journey: kept ready while nobody is sent there, help under load, kept again.
//!
//! Always holds: what a standby has is not given back because it is silent, slow or not needed, but by a plan that says so, by its lender's
//! recall, or because its lender has it no more; no user is sent to one that is kept.

use crate::event::{end, enter};
use crate::record::{Journey, Part, PartState, Told};
use pumasi_terms::{LeaseId, Now, Ppm};
use std::collections::BTreeSet;

/// Requests in flight are waited for so long.
const DRAIN_MS_MAX: u64 = 30_000;
/// What was answered last is still to be metered.
const METERED_MS: u64 = 500;
/// A lender that failed is not asked again for so long.
const FAILED_MS: u64 = 60_000;
/// Leases that ended and are still shown.
const ENDED_MAX: usize = 16;
/// Help that is not there after so long is looked for elsewhere.
const START_TIMEOUT_MS: u64 = 60_000;

/// It shall help: users are sent there as soon as something is ready.
pub(crate) fn rouse(part: &mut Part, now: Now) {
    if part.standby.is_some() && part.wanted > 0 && matches!(part.state, PartState::Kept | PartState::Resting) {
        enter(part, PartState::Starting, now);
    }
}

/// It shall serve no longer.
pub(crate) fn rest(part: &mut Part, why: String, now: Now, told: &mut Vec<Told>) {
    part.wanted = 0;
    if !matches!(part.state, PartState::Starting | PartState::Serving) || !part.is_complete() {
        return;
    }
    part.weight = Ppm(0);
    told.push(Told::lease(part, "switchback", format!("no new requests go to {}, which is kept: {why}", part.lender)));
    enter(part, PartState::Resting, now);
}

/// What time and silence bring a complete standby to. True: nothing else is to be done about it now.
pub(crate) fn tick(part: &mut Part, drained: bool, now: Now, told: &mut Vec<Told>) -> bool {
    let expired = now.boot >= part.expires_at;
    let lasted_ms = now.boot.since(part.since);
    match &part.state {
        PartState::Starting | PartState::Serving if expired => {
            rest(part, "it could not be renewed".into(), now, told);
            true
        }
        PartState::Starting if part.ready == 0 && lasted_ms >= START_TIMEOUT_MS => {
            let trouble = part.trouble.clone().unwrap_or_else(|| "no reason told".into());
            rest(part, format!("no instance got ready in {START_TIMEOUT_MS} ms: {trouble}"), now, told);
            true
        }
        PartState::Resting if (drained && lasted_ms >= METERED_MS) || lasted_ms >= DRAIN_MS_MAX || expired => {
            enter(part, PartState::Kept, now);
            true
        }
        _ => false,
    }
}

/// Another journey of the service is to be helped by a standby that this one keeps.
pub fn take(keeper: &Journey, lease: &LeaseId) -> Option<(Journey, Part)> {
    let part = keeper.part(lease).filter(|p| p.state == PartState::Kept && p.recalled.is_none())?.clone();
    let mut keeper = keeper.clone();
    keeper.parts.retain(|p| &p.lease != lease);
    keeper.away.insert(lease.clone());
    Some((keeper, part))
}

pub fn receive(helped: &mut Journey, seats: Vec<Part>) {
    helped.helped_by.extend(seats.iter().map(|p| p.lease.clone()));
    helped.parts.extend(seats);
}

/// It goes back to its keeper, once it is kept again.
pub fn give_back(helped: &Journey, keeper: &Journey, lease: &LeaseId) -> Option<(Journey, Journey)> {
    let part = helped.part(lease).filter(|p| p.state == PartState::Kept)?.clone();
    let (mut keeper, mut helped) = (keeper.clone(), helped.clone());
    helped.parts.retain(|p| &p.lease != lease);
    keeper.away.remove(lease);
    keeper.parts.push(part);
    Some((helped, keeper))
}

/// Some of those that help others were lost there, and do not come back.
pub fn without(keeper: &Journey, lost: &BTreeSet<LeaseId>) -> Journey {
    let away = keeper.away.difference(lost).cloned().collect();
    Journey { away, ..keeper.clone() }
}

/// Nobody keeps it any more.
pub fn dismiss(helped: &Journey, lease: &LeaseId, now: Now) -> (Journey, Vec<Told>) {
    let (mut next, mut told) = (helped.clone(), Vec::new());
    end(&mut next, lease, "no standby is wanted any more".into(), now, &mut told);
    (next, told)
}

/// A journey that lasts asks a lender that failed again after a while, and does not remember every lease that it had.
pub(crate) fn forget(journey: &mut Journey, now: Now) {
    if !journey.is_continuity() {
        return;
    }
    for cloud in journey.failed.clone() {
        let until = *journey.failed_until.entry(cloud.clone()).or_insert(now.boot.after(FAILED_MS));
        if until <= now.boot {
            journey.failed.retain(|c| c != &cloud);
            journey.failed_until.remove(&cloud);
        }
    }
    let over = journey.parts.iter().filter(|p| p.is_over()).count();
    let mut surplus = over.saturating_sub(ENDED_MAX);
    journey.parts.retain(|p| {
        let goes = surplus > 0 && p.is_over();
        surplus -= usize::from(goes);
        !goes
    });
}

/// Standbys that help no longer and are to go back to their keeper.
pub fn rested(journey: &Journey) -> Vec<LeaseId> {
    if journey.is_continuity() {
        return Vec::new();
    }
    journey.parts.iter().filter(|p| p.state == PartState::Kept).map(|p| p.lease.clone()).collect()
}
