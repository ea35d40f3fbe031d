//! Keeps services ready elsewhere, as their customers wish, and lets what is kept help under load.
//!
//! Enters: wishes, what there is. Leaves: plans of a journey of its own, which lasts as long as a standby is wanted.
//! Always holds: a standby stands in one journey at a time: its keeper, or the one that it helps; it moves between them in one transaction.

use super::{CurrentPart, Next, begin, input, may_change, tell};
use crate::node::{Locked, Note, TxError};
use crate::object::{JOURNEY, PLAN, PlanRecord, PlanState, ServiceRecord};
use crate::{Node, clock, moves, register};
use pumasi_api::Problem;
use pumasi_journey::record::Phase;
use pumasi_journey::{Journey, Part, PartState, standby};
use pumasi_judge::standbys::Standbys;
use pumasi_judge::{Cause, Verdict};
use pumasi_plan::{KeptPart, NoPlan, Plan, compare, keep_ready};
use pumasi_store::{Expect, Tx};
use pumasi_terms::service::AutomationMode;
use pumasi_terms::{BootMs, CloudName, Continuity, LeaseId, Now, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A search that came to nothing is begun again after so long.
const RETRY_MS: u64 = 5_000;
/// A plan that is only seen is made anew after so long.
const OBSERVED_MS: u64 = 3_600_000;

/// Services that wait before they are looked after again.
#[derive(Debug, Default)]
pub struct Keeping(Locked<BTreeMap<ServiceName, BootMs>>);

impl Keeping {
    fn waits(&self, service: &ServiceName, now: BootMs) -> bool {
        let mut all = self.0.lock();
        all.retain(|_, until| now < *until);
        all.contains_key(service)
    }
    fn wait(&self, service: &ServiceName, until: BootMs) {
        self.0.lock().insert(service.clone(), until);
    }
}

/// What a part promises as a standby, for plans.
pub(super) fn kept_part(part: &Part) -> Option<KeptPart> {
    let percent = part.standby_percent.unwrap_or(0);
    part.standby.map(|agreed| KeptPart { agreed, percent, complete: part.is_complete() })
}

/// Standbys that could help now: their copies are followed, and their clouds are heard.
pub(super) fn able<'a>(open: &'a [Arc<Journey>], service: &'a ServiceName) -> impl Iterator<Item = &'a Part> {
    let now = clock::boot();
    let keepers = open.iter().filter(move |j| j.is_continuity() && &j.service == service);
    let able = move |p: &&Part| p.state == PartState::Kept && p.recalled.is_none() && p.expires_at > now;
    keepers.flat_map(|j| &j.parts).filter(able)
}

/// Compares wishes with what there is. Called at every look.
pub async fn keep(node: &Node) -> Result<(), Problem> {
    let open = node.open_journeys()?;
    let mut done = Ok(());
    for service in node.services()?.iter().filter(|s| !s.deleting) {
        let own: Vec<&Arc<Journey>> = open.iter().filter(|j| &j.service == service.name()).collect();
        let none = wish(node, service).wanted() == 0 && !own.iter().any(|j| j.is_continuity());
        if none || node.keeping.waits(service.name(), clock::boot()) {
            continue;
        }
        let kept = look_after(node, service, &own).await;
        if kept.is_err() {
            node.keeping.wait(service.name(), clock::boot().after(RETRY_MS));
        }
        done = done.and(kept);
    }
    done
}

async fn look_after(node: &Node, service: &ServiceRecord, own: &[&Arc<Journey>]) -> Result<(), Problem> {
    let keeper = own.iter().find(|j| j.is_continuity()).map(|j| Journey::clone(j));
    if keeper.as_ref().is_some_and(|j| j.phase == Phase::Waiting || j.seeking.is_some()) {
        return Ok(());
    }
    let standbys = own.iter().flat_map(|j| &j.parts).filter(|p| p.is_hopeful() && p.standby.is_some());
    if is_being_taken(node, service, standbys.clone())? {
        return Ok(());
    }
    if let Some(keeper) = &keeper {
        let there: BTreeSet<&LeaseId> = standbys.clone().map(|p| &p.lease).collect();
        let lost: BTreeSet<LeaseId> = keeper.away.iter().filter(|l| !there.contains(l)).cloned().collect();
        if !lost.is_empty() {
            return super::stepped(node, &keeper.id, move |j, _, _| (standby::without(j, &lost), Vec::new())).await;
        }
    }
    let parts: Vec<CurrentPart> = standbys.map(|p| super::current(node, p)).collect();
    let there = compare(&wish(node, service), &parts);
    // What helps now goes once it has helped.
    let goes = there.go.iter().any(|lease| keeper.as_ref().is_some_and(|j| j.part(lease).is_some()));
    if (there.missing == 0 && !goes) || may_change(node).is_err() {
        return Ok(());
    }
    plan_for(node, service, keeper, parts, there).await
}

/// Whether another cloud is its owner by now and has not made what it keeps here its own yet. Until its lease says so nothing is given
/// back anywhere: it may be the last copy, and where that one cannot take it, another one may have to.
fn is_being_taken<'a>(
    node: &Node,
    service: &ServiceRecord,
    mut standbys: impl Iterator<Item = &'a Part>,
) -> Result<bool, Problem> {
    if register::is_ours(node, service) {
        return Ok(false);
    }
    let tenure = register::tenure(node, service)?;
    // Who owns it later had it from somebody else, by a lease that is not this cloud's: no word of it would ever come here.
    let follows_us = service.registered && tenure.epoch.0 == service.epoch.0.saturating_add(1);
    Ok(follows_us && standbys.any(|p| p.lender == tenure.owner))
}

/// What is wanted of others: nothing by a cloud that owns the service no more; and whoever owns it is no standby of its own. Where it is to
/// move it must be ready first.
fn wish(node: &Node, service: &ServiceRecord) -> Continuity {
    if !register::is_ours(node, service) {
        return Continuity::default();
    }
    let mut wish = service.document.spec.continuity.beside(node.name());
    if let Some(to) = moves::heading_for(node, service)
        && wish.rank(&to).is_none_or(|rank| rank as u32 >= wish.wanted() || wish.clouds.is_empty())
    {
        wish = with_heir(wish, to);
    }
    wish
}

/// One more than what is wanted anyway: what is kept elsewhere stays until the move is over.
fn with_heir(wish: Continuity, heir: CloudName) -> Continuity {
    let standbys = Some(wish.wanted().saturating_add(1));
    let mut clouds = wish.clouds.clone();
    clouds.retain(|c| c != &heir);
    clouds.insert(0, heir);
    Continuity { clouds, standbys, ..wish }
}

async fn plan_for(
    node: &Node,
    service: &ServiceRecord,
    keeper: Option<Journey>,
    parts: Vec<CurrentPart>,
    there: Standbys,
) -> Result<(), Problem> {
    let (name, now) = (service.name(), clock::boot());
    if node.pact().is_none() {
        let why = "this cloud is in no pact: there is nobody who could keep it ready";
        return not_kept(node, service, &there, vec![why.to_owned()]).await;
    }
    let mode = service.document.spec.borrowing.mode;
    let gives_back = there.missing == 0;
    if !gives_back && has_its_word(node, name, mode)? {
        return Ok(());
    }
    let verdict = Verdict {
        service: name.clone(),
        cause: Cause::Continuity,
        at: clock::wall(),
        borrowed_wanted: 0,
        reasons: there.reasons.clone(),
    };
    let all = node.journeys()?;
    let own: Vec<&Journey> = all.iter().map(|j| &**j).filter(|j| &j.service == name && j.is_continuity()).collect();
    let mut input = input(node, service, verdict, keeper.as_ref(), &own, parts).await?;
    input.service.spec.continuity = wish(node, service);
    // Nobody else will do for a move that was asked for: it is asked again as soon as it may have come back.
    let heading_for = moves::heading_for(node, service);
    input.excluded.retain(|(cloud, _)| Some(cloud) != heading_for.as_ref());
    match keep_ready(&input) {
        Ok(made) => {
            node.keeping.wait(name, now.after(RETRY_MS));
            let mode = if gives_back { AutomationMode::Automatic } else { mode };
            let next = keeper.map_or(Next::Open, |journey| Next::GoesOn(Box::new(journey)));
            begin(node, service, made, mode, next).await
        }
        Err(NoPlan { reasons }) => not_kept(node, service, &there, reasons.into_iter().map(|r| r.text).collect()).await,
    }
}

/// Whether a plan of this kind waits for a person, or was made to be seen only.
fn has_its_word(node: &Node, service: &ServiceName, mode: AutomationMode) -> Result<bool, Problem> {
    let now = clock::wall();
    let plans = node.items::<PlanRecord>(PLAN)?;
    let mut own = plans.iter().filter(|p| &p.plan.service == service && p.plan.verdict.cause == Cause::Continuity);
    Ok(own.any(|p| match p.state {
        PlanState::Waiting => true,
        PlanState::Observed | PlanState::Refused => {
            mode != AutomationMode::Automatic && now.since(p.plan.created_at) < OBSERVED_MS
        }
        PlanState::Adopted => false,
    }))
}

async fn not_kept(
    node: &Node,
    service: &ServiceRecord,
    there: &Standbys,
    obstacles: Vec<String>,
) -> Result<(), Problem> {
    node.keeping.wait(service.name(), clock::boot().after(RETRY_MS));
    let mut note = Note::new("no_standby", "service", service.name()).caused_by("continuity");
    note.reasons = there.reasons.iter().map(|r| r.text.clone()).chain(obstacles.clone()).collect();
    node.acts.tell_once(node, service.name(), &obstacles.join("; "), note).await;
    Ok(())
}

/// Standbys that this plan lets help are taken from their keeper.
pub(super) fn take(tx: &mut Tx<'_>, has: &[Part], plan: &Plan) -> Result<Vec<Part>, TxError> {
    let named = plan.parts.iter().filter(|p| p.instances > 0 && !has.iter().any(|h| h.lease == p.lease));
    let leases: Vec<&LeaseId> = named.map(|p| &p.lease).collect();
    let mut taken = Vec::new();
    if leases.is_empty() || plan.verdict.cause == Cause::Continuity {
        return Ok(taken);
    }
    for stored in tx.list::<Journey>(JOURNEY)? {
        let mut keeper = stored.body.clone();
        if !keeper.is_open() || !keeper.is_continuity() || keeper.service != plan.service {
            continue;
        }
        for lease in &leases {
            let Some((rest, part)) = standby::take(&keeper, lease) else { continue };
            keeper = rest;
            taken.push(part);
        }
        if keeper != stored.body {
            tx.put(JOURNEY, &stored.name, &keeper, Expect::Revision(stored.revision))?;
        }
    }
    Ok(taken)
}

/// What helped and is kept again goes back to its keeper; without one nobody wants it any more.
pub(super) async fn give_back(node: &Node, journey: &Journey) -> Result<(), Problem> {
    let rested = standby::rested(journey);
    if rested.is_empty() {
        return Ok(());
    }
    let id = journey.id.clone();
    node.transact(move |tx| rested.iter().try_for_each(|lease| move_back(tx, &id, lease, clock::now()))).await
}

fn move_back(tx: &mut Tx<'_>, id: &pumasi_terms::JourneyId, lease: &LeaseId, now: Now) -> Result<(), TxError> {
    let Some(helped) = tx.get::<Journey>(JOURNEY, id.as_str())? else { return Ok(()) };
    let keeps = |j: &Journey| j.is_open() && j.is_continuity() && j.service == helped.body.service;
    let keeper = tx.list::<Journey>(JOURNEY)?.into_iter().find(|j| keeps(&j.body));
    let Some(keeper) = keeper else {
        let (next, told) = standby::dismiss(&helped.body, lease, now);
        tx.put(JOURNEY, &helped.name, &next, Expect::Revision(helped.revision))?;
        return tell(tx, id, told, now);
    };
    if let Some((rest, kept)) = standby::give_back(&helped.body, &keeper.body, lease) {
        tx.put(JOURNEY, &helped.name, &rest, Expect::Revision(helped.revision))?;
        tx.put(JOURNEY, &keeper.name, &kept, Expect::Revision(keeper.revision))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_judge::standbys::{Seat, standbys};

    #[test]
    fn a_heir_is_wanted_beside_those_that_keep_it_already() {
        let cloud = |name: &str| CloudName::parse(name).unwrap();
        let kept = |at: &str| Seat {
            lease: LeaseId::from_entropy(1),
            cloud: cloud(at),
            agreed: Continuity::default().standby(),
            complete: true,
            recalled: false,
        };
        for said in [None, Some(1)] {
            let wish = Continuity { clouds: vec![cloud("city-c")], standbys: said, ..Continuity::default() };
            let wanted = with_heir(wish, cloud("city-a"));
            assert_eq!(standbys(&wanted, &[kept("city-c")]).missing, 1, "{said:?}");
            assert_eq!(wanted.rank(&cloud("city-a")), Some(0));
        }
        let none = with_heir(Continuity::default(), cloud("city-a"));
        assert_eq!(standbys(&none, &[]).missing, 1);
    }
}
