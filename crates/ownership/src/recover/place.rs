//! Room at the clouds that are left, and who of them may have what.
//!
//! Always holds: what is taken was free; what is moved fits where it goes.

use super::{Case, GIVING_MAX, GivesWay, Report, is_as_fresh, rank};
use crate::state::{Owned, State};
use pumasi_terms::{CloudName, Resources, ServiceId};
use std::cmp::Reverse;
use std::collections::BTreeMap;

pub(super) struct Board<'a> {
    pub(super) clouds: Vec<Room<'a>>,
}

pub(super) struct Room<'a> {
    pub(super) name: &'a CloudName,
    report: Option<&'a Report>,
    pub(super) free: Resources,
    /// What may still give way, the soonest first, and then as that cloud would have it.
    giving: Vec<&'a GivesWay>,
}

impl<'a> Board<'a> {
    /// Whoever may become an owner. Whoever sent no report has the room of its last renewal, and no copy.
    pub(super) fn new(state: &'a State, reports: &'a BTreeMap<CloudName, Report>, lost: &CloudName) -> Self {
        let fit = state.clouds.iter().filter(|(name, _)| *name != lost && state.may_take(name));
        let clouds = fit.map(|(name, cloud)| {
            let report = reports.get(name);
            let free = report.map_or(cloud.free, |r| r.free);
            let mut giving: Vec<_> = report.iter().flat_map(|r| r.gives_way.iter().take(GIVING_MAX)).collect();
            giving.sort_by_key(|g| g.in_ms);
            Room { name, report, free, giving }
        });
        Self { clouds: clouds.collect() }
    }

    /// The best first, and how many of them have a copy as fresh as the first.
    pub(super) fn heirs(&self, id: &ServiceId, owned: &Owned) -> (Vec<usize>, usize) {
        let rooms = self.clouds.iter().enumerate();
        let mut heirs: Vec<_> =
            rooms.filter_map(|(i, room)| rank(owned, id, room.name, room.report).map(|rank| (rank, i))).collect();
        heirs.sort();
        let freshest = heirs.first().map(|((at, _), _)| at.0).unwrap_or_default();
        let as_fresh = heirs.iter().take_while(|((at, _), _)| is_as_fresh(at.0, freshest)).count();
        (heirs.into_iter().map(|(_, i)| i).collect(), as_fresh)
    }

    pub(super) fn free(&self, cloud: usize) -> Resources {
        self.clouds.get(cloud).map_or(Resources::default(), |room| room.free)
    }
    /// Whether it could never be there, as far as is known.
    pub(super) fn never(&self, cloud: usize, need: Resources) -> bool {
        let whole = self.clouds.get(cloud).and_then(|room| room.report).and_then(|r| r.whole);
        whole.is_some_and(|whole| !need.fits_in(whole))
    }
    pub(super) fn take(&mut self, cloud: usize, need: Resources) {
        if let Some(room) = self.clouds.get_mut(cloud) {
            room.free = room.free.minus(need);
        }
    }
    pub(super) fn put_back(&mut self, cloud: usize, freed: Resources) {
        if let Some(room) = self.clouds.get_mut(cloud) {
            room.free = room.free.plus(freed);
        }
    }

    /// One that was placed before goes elsewhere, so that of this one `at_least` fit: that by which most of `want` do, the smallest of those, to
    /// the best of its other heirs. Leaves where, and how many.
    pub(super) fn relocate(
        &mut self,
        cases: &mut [Case<'_>],
        wanted: usize,
        want: u32,
        at_least: u32,
    ) -> Option<(usize, u32)> {
        let one = cases.get(wanted)?;
        let (mut most, mut best) = ((0, Reverse(u64::MAX)), None);
        for (i, case) in cases.iter().enumerate() {
            let Some(at) = case.at.filter(|at| one.heirs.contains(at) && case.may_move_for(one)) else { continue };
            let size = case.unit().times(case.have);
            let count = one.unit().count_in(self.free(at).plus(size)).min(want);
            let rank = (count, Reverse(u64::from(size.cpu_millis) + u64::from(size.memory_mib)));
            if count < at_least || rank <= most {
                continue;
            }
            if let Some(to) = case.heirs.iter().copied().find(|to| *to != at && size.fits_in(self.free(*to))) {
                (most, best) = (rank, Some((i, at, to)));
            }
        }
        let (moved, at, to) = best?;
        let case = cases.get_mut(moved)?;
        let size = case.unit().times(case.have);
        case.at = Some(to);
        self.put_back(at, size);
        self.take(to, size);
        Some((at, most.0))
    }

    /// The smallest one at `at` by whose going elsewhere, to a copy as fresh, this one gains.
    pub(super) fn make_room(&mut self, cases: &mut [Case<'_>], grows: usize, at: usize) {
        let Some(one) = cases.get(grows) else { return };
        let unit = one.unit();
        let goes = |(i, case): (usize, &Case<'_>)| {
            let size = case.unit().times(case.have);
            if case.at != Some(at) || i == grows || !case.may_move_for(one) || !unit.fits_in(self.free(at).plus(size)) {
                return None;
            }
            let mut fresh = case.heirs.iter().copied().take(case.as_fresh);
            let to = fresh.find(|to| *to != at && size.fits_in(self.free(*to)))?;
            Some((u64::from(size.cpu_millis) + u64::from(size.memory_mib), i, to))
        };
        let Some((_, moved, to)) = cases.iter().enumerate().filter_map(goes).min() else { return };
        if let Some(case) = cases.get_mut(moved) {
            let size = case.unit().times(case.have);
            case.at = Some(to);
            self.put_back(at, size);
            self.take(to, size);
        }
    }

    /// Free room with all that may still give way.
    pub(super) fn with_giving(&self, cloud: usize) -> Resources {
        let Some(room) = self.clouds.get(cloud) else { return Resources::default() };
        room.giving.iter().fold(room.free, |sum, g| sum.plus(g.room))
    }

    /// The soonest of them until `need` is there; what they free beyond it is free then.
    pub(super) fn give(&mut self, cloud: usize, need: Resources) -> Vec<GivesWay> {
        let Some(room) = self.clouds.get_mut(cloud) else { return Vec::new() };
        let mut given = Vec::new();
        while !need.fits_in(room.free) && !room.giving.is_empty() {
            let next = room.giving.remove(0);
            room.free = room.free.plus(next.room);
            given.push(next.clone());
        }
        room.free = room.free.minus(need);
        given
    }
}
