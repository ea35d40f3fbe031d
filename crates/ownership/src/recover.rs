//! Who takes over what, from a cloud that is lost.
//!
//! Enters: the register, what each cloud reports of itself, which cloud is (or would be) lost. Leaves: an end for each of its services, with
//! its reason; the plan of them that the log carries. The same function rehearses.
//!
//! Always holds: the same input gives the same plan; no cloud gets more than it reported free, or than it frees first; within a class the
//! higher priority is served first; a synchronous service goes only where every acknowledged write is; every service of the lost cloud ends
//! in exactly one way. Guaranteed services come first at full size, early ones at least and grow then, deferred ones take what is left after
//! their time.

mod place;
mod tell;

use crate::state::{Class, End, Item, Mode, Owned, Phase, State, Takeover};
use place::Board;
use pumasi_terms::{CloudName, Epoch, Position, Resources, ServiceId, ServiceName};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Services of a report that are looked at.
const GIVING_MAX: usize = 64;

/// Copies that are no further than this behind the freshest are as good, where a better size is at stake: what shipping keeps to.
const AS_FRESH_MS: u64 = 50;

/// What a cloud says of itself, while the wait goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub free: Resources,
    /// All that it has, were it empty.
    pub whole: Option<Resources>,
    /// Its operator has stopped automation there.
    pub stopped: bool,
    /// What it has of each service. A stateless one needs nothing of it.
    pub copies: BTreeMap<ServiceId, Position>,
    /// What gives way there by its terms, when it is asked to.
    pub gives_way: Vec<GivesWay>,
}

/// Room that a lower service gives up, by that cloud's own ordinary plans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivesWay {
    pub what: ServiceName,
    /// It is a lease that this cloud has, and is called back; none: an instance of that cloud's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rented_to: Option<CloudName>,
    pub room: Resources,
    /// At most.
    pub in_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// `deferred_after_ms` has passed since the loss.
    pub deferred: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    pub lost: CloudName,
    /// In the order in which they are served.
    pub items: Vec<Verdict>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub service: ServiceId,
    pub name: ServiceName,
    pub epoch: Epoch,
    pub class: Class,
    pub priority: u32,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Full {
        to: CloudName,
        instances: u32,
    },
    /// `grows`: what gives way for more, and when; then it has `grows_to`.
    Degraded {
        to: CloudName,
        have: u32,
        want: u32,
        grows: Vec<GivesWay>,
        grows_to: u32,
    },
    Waiting {
        place: u32,
        why: Wait,
    },
    Impossible {
        why: String,
        mend: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// So much is missing at the cloud that lacks the least.
    Room { at: CloudName, needs: Resources },
    /// Deferred services wait for their time.
    NotYet,
    /// Its customer wants to be asked, or wants nothing done.
    Automation(Takeover),
}

/// One service on its way through the stages.
pub(crate) struct Case<'a> {
    id: &'a ServiceId,
    owned: &'a Owned,
    /// Clouds by index, the best first.
    heirs: Vec<usize>,
    /// So many of them, from the first, are as fresh as the first.
    as_fresh: usize,
    at: Option<usize>,
    have: u32,
    grows: Vec<GivesWay>,
    grows_to: u32,
    waits: Option<Wait>,
}

impl Case<'_> {
    fn unit(&self) -> Resources {
        self.owned.agreed.unit
    }
    fn class(&self) -> Class {
        self.owned.agreed.class
    }
    /// What was promised nothing moves nobody that was.
    fn may_move_for(&self, other: &Self) -> bool {
        other.class() != Class::Deferred || self.class() == Class::Deferred
    }
    /// Below this it is not worth taking.
    fn least(&self) -> u32 {
        if self.class() == Class::Guaranteed { self.owned.agreed.full } else { self.owned.agreed.least }
    }
}

pub fn recover(state: &State, reports: &BTreeMap<CloudName, Report>, lost: &CloudName, policy: Policy) -> Recovery {
    from_owner(state, reports, lost, policy, |_| true)
}

/// The same for those services alone that their owner, which lives, has given up by `Yield`. Their time has come, whatever their class.
pub fn relieve(state: &State, reports: &BTreeMap<CloudName, Report>, owner: &CloudName) -> Recovery {
    from_owner(state, reports, owner, Policy { deferred: true }, |owned| owned.phase == Phase::Yielded)
}

fn from_owner(
    state: &State,
    reports: &BTreeMap<CloudName, Report>,
    owner: &CloudName,
    policy: Policy,
    wanted: impl Fn(&Owned) -> bool,
) -> Recovery {
    let mut board = Board::new(state, reports, owner);
    let mut cases: Vec<_> = state
        .owned_by(owner)
        .filter(|(_, owned)| wanted(owned))
        .map(|(id, owned)| {
            let (heirs, as_fresh) = board.heirs(id, owned);
            Case { id, owned, heirs, as_fresh, at: None, have: 0, grows: Vec::new(), grows_to: 0, waits: None }
        })
        .collect();
    cases.sort_by_key(|c| (c.class(), Reverse(c.owned.agreed.priority), c.id));
    for case in &mut cases {
        let asked = case.owned.agreed.takeover;
        if asked != Takeover::Automatic {
            case.waits = Some(Wait::Automation(asked));
        } else if case.class() == Class::Deferred && !policy.deferred {
            case.waits = Some(Wait::NotYet);
        }
    }
    stage(&mut cases, &mut board, Class::Guaranteed);
    stage(&mut cases, &mut board, Class::Early);
    grow(&mut cases, &mut board, Class::Early);
    mend(&mut cases, &mut board, Class::Guaranteed);
    mend(&mut cases, &mut board, Class::Early);
    // What gives way does so for those that were promised something, before what was promised nothing takes room.
    give_way(&mut cases, &mut board);
    stage(&mut cases, &mut board, Class::Deferred);
    grow(&mut cases, &mut board, Class::Deferred);
    mend(&mut cases, &mut board, Class::Deferred);
    Recovery { lost: owner.clone(), items: tell::verdicts(&cases, &board) }
}

/// Everything of one class, at the size that it must have. A guaranteed service that no cloud can hold whole lives where most of it fits, and its
/// new owner borrows the rest: at once, since what counts less would take the room otherwise.
fn stage(cases: &mut [Case<'_>], board: &mut Board<'_>, class: Class) {
    for i in 0..cases.len() {
        let Some(case) = cases.get(i).filter(|c| c.class() == class && c.waits.is_none()) else { continue };
        let want = case.least();
        let (unit, direct) = (case.unit(), fitting(case, board, want));
        let enough = if class == Class::Guaranteed { 1 } else { want };
        let found = match direct {
            Some((_, have)) if have >= want => direct,
            // By moving another one it must become more than it is without.
            _ => {
                let above = direct.map_or(0, |(_, have)| have).saturating_add(1).max(enough);
                board.relocate(cases, i, want, above).or(direct.filter(|(_, have)| *have >= enough))
            }
        };
        let Some((to, have)) = found else { continue };
        board.take(to, unit.times(have));
        if let Some(case) = cases.get_mut(i) {
            (case.at, case.have) = (Some(to), have);
        }
    }
}

/// The best heir that holds `want`, or the one that holds most.
fn fitting(case: &Case<'_>, board: &Board<'_>, want: u32) -> Option<(usize, u32)> {
    let fits = |c: usize| case.unit().count_in(board.free(c)).min(want);
    let most = case.heirs.iter().copied().enumerate().max_by_key(|(order, c)| (fits(*c), Reverse(*order)));
    most.map(|(_, c)| (c, fits(c))).filter(|(_, have)| *have > 0)
}

fn grow(cases: &mut [Case<'_>], board: &mut Board<'_>, class: Class) {
    cases.iter_mut().filter(|c| c.class() == class).for_each(|case| grow_one(case, board));
    spread(cases, board, class);
}

fn grow_one(case: &mut Case<'_>, board: &mut Board<'_>) {
    let Some(at) = case.at else { return };
    let more = case.unit().count_in(board.free(at)).min(case.owned.agreed.full.saturating_sub(case.have));
    board.take(at, case.unit().times(more));
    case.have = case.have.saturating_add(more);
}

/// Who is still too small goes where it finds more room, or another one makes room for it by going elsewhere; to copies that are as fresh.
fn spread(cases: &mut [Case<'_>], board: &mut Board<'_>, class: Class) {
    for i in 0..cases.len() {
        let Some(case) = cases.get(i).filter(|c| c.class() == class && c.have < c.owned.agreed.full) else { continue };
        let (unit, full) = (case.unit(), case.owned.agreed.full);
        let Some(at) = case.at else { continue };
        let size = unit.times(case.have);
        let fresh = case.heirs.iter().copied().take(case.as_fresh).filter(|c| *c != at);
        let best = fresh.map(|c| (unit.count_in(board.free(c)).min(full), c)).max_by_key(|(n, _)| *n);
        if let Some((_, to)) = best.filter(|(n, _)| *n > case.have) {
            board.put_back(at, size);
            board.take(to, size);
            if let Some(case) = cases.get_mut(i) {
                case.at = Some(to);
            }
        } else {
            board.make_room(cases, i, at);
        }
        if let Some(case) = cases.get_mut(i) {
            grow_one(case, board);
        }
    }
}

/// Whoever found no room, and would have it now that others moved if one that counts less in its class were not there, takes its place.
/// Nothing moves after this, so that it stays so.
fn mend(cases: &mut [Case<'_>], board: &mut Board<'_>, class: Class) {
    for i in 0..cases.len() {
        let Some(case) = cases.get(i).filter(|c| c.class() == class && c.at.is_none() && c.waits.is_none()) else {
            continue;
        };
        let (unit, want) = (case.unit(), case.least());
        let enough = if class == Class::Guaranteed { 1 } else { want };
        let fits = |room: Resources| unit.count_in(room).min(want);
        let direct = fitting(case, board, want).filter(|(_, have)| *have >= enough);
        let instead_of = |(j, low): (usize, &Case<'_>)| {
            let lower = low.class() == class && low.owned.agreed.priority < case.owned.agreed.priority;
            let at = low.at.filter(|at| lower && case.heirs.contains(at))?;
            let have = fits(board.free(at).plus(low.unit().times(low.have)));
            (have >= enough).then_some((Some(j), at, have))
        };
        let found = match direct {
            Some((to, have)) => Some((None, to, have)),
            None => cases.iter().enumerate().rev().find_map(instead_of),
        };
        let Some((behind, to, have)) = found else { continue };
        if let Some(low) = behind.and_then(|j| cases.get_mut(j)) {
            board.put_back(to, low.unit().times(low.have));
            (low.at, low.have) = (None, 0);
        }
        board.take(to, unit.times(have));
        if let Some(case) = cases.get_mut(i) {
            (case.at, case.have) = (Some(to), have);
        }
    }
    cases.iter_mut().filter(|c| c.class() == class).for_each(|case| grow_one(case, board));
}

/// Guaranteed and early services that lack something, in their order: what is freed first serves first.
fn give_way(cases: &mut [Case<'_>], board: &mut Board<'_>) {
    for case in cases.iter_mut().filter(|c| c.class() != Class::Deferred && c.waits.is_none()) {
        let full = case.owned.agreed.full;
        if case.have >= full {
            continue;
        }
        let (unit, least) = (case.unit(), case.owned.agreed.least);
        let lacks =
            |at: usize, board: &Board<'_>| unit.count_in(board.with_giving(at)).saturating_add(case.have).min(full);
        let at = case.at.or_else(|| case.heirs.iter().copied().find(|c| lacks(*c, board) >= least));
        let Some(at) = at.filter(|at| lacks(*at, board) > case.have) else { continue };
        let lacks_to = lacks(at, board);
        let want = lacks_to.saturating_sub(case.have);
        // Others may have gone elsewhere since: what is free now is not waited for.
        let direct = unit.count_in(board.free(at)).min(want);
        let enough = case.class() == Class::Guaranteed || case.have.saturating_add(direct) >= least;
        let at_once = if enough { direct } else { 0 };
        board.take(at, unit.times(at_once));
        case.at = Some(at);
        case.have = case.have.saturating_add(at_once);
        case.grows_to = lacks_to;
        case.grows = board.give(at, unit.times(want.saturating_sub(at_once)));
    }
}

impl Recovery {
    /// What the log carries: it says who takes what, and who waits in which place.
    pub fn plan(&self) -> Vec<Item> {
        let item = |v: &Verdict| {
            let end = match &v.outcome {
                Outcome::Full { to, instances } => End::Taken { to: to.clone(), have: *instances, want: *instances },
                Outcome::Degraded { to, have, want, .. } => End::Taken { to: to.clone(), have: *have, want: *want },
                Outcome::Waiting { place, .. } => End::Waiting { place: *place },
                Outcome::Impossible { .. } => End::Waiting { place: u32::MAX },
            };
            Item { service: v.service.clone(), epoch: v.epoch, end }
        };
        self.items.iter().map(item).collect()
    }
}

fn is_as_fresh(copy: Position, freshest: Position) -> bool {
    copy.generation == freshest.generation && freshest.as_of_ms.saturating_sub(copy.as_of_ms) <= AS_FRESH_MS
}

/// Whether this cloud may be the heir of this service, and how good it is: the freshest copy, then the agreement's order.
fn rank(
    owned: &Owned,
    id: &ServiceId,
    cloud: &CloudName,
    report: Option<&Report>,
) -> Option<(Reverse<Position>, usize)> {
    let order = owned.agreed.standbys.iter().position(|s| &s.cloud == cloud)?;
    if !owned.may_live_at(cloud) || report.is_some_and(|r| r.stopped) {
        return None;
    }
    let copy = report.and_then(|r| r.copies.get(id)).copied();
    match owned.agreed.mode {
        Mode::Stateless => Some((Reverse(Position::default()), order)),
        Mode::Async | Mode::Sync => copy.map(|at| (Reverse(at), order)),
    }
}
