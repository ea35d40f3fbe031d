//! How each service ends, and why.

use super::place::Board;
use super::{Case, Outcome, Verdict, Wait};
use crate::state::Mode;
use pumasi_terms::Resources;

pub(super) fn verdicts(cases: &[Case<'_>], board: &Board<'_>) -> Vec<Verdict> {
    let mut place = 0;
    let verdict = |case: &Case<'_>| {
        let full = case.owned.agreed.full;
        let outcome = match (case.at.and_then(|at| board.clouds.get(at)), &case.waits) {
            (Some(room), _) if case.have >= full => Outcome::Full { to: room.name.clone(), instances: full },
            (Some(room), _) => {
                let (have, grows) = (case.have, case.grows.clone());
                Outcome::Degraded { to: room.name.clone(), have, want: full, grows, grows_to: case.grows_to.max(have) }
            }
            (None, waits) => match (no_heir(case, board), waits, nearest(case, board)) {
                (Some((why, mend)), ..) => Outcome::Impossible { why, mend },
                (None, Some(why), _) => waiting(&mut place, why.clone()),
                (None, None, Some(why)) => waiting(&mut place, why),
                (None, None, None) => Outcome::Impossible {
                    why: "no cloud that is left may hold it".into(),
                    mend: "agree on another standby".into(),
                },
            },
        };
        Verdict {
            service: case.id.clone(),
            name: case.owned.agreed.name.clone(),
            epoch: case.owned.epoch,
            class: case.class(),
            priority: case.owned.agreed.priority,
            outcome,
        }
    };
    cases.iter().map(verdict).collect()
}

fn waiting(place: &mut u32, why: Wait) -> Outcome {
    *place = place.saturating_add(1);
    Outcome::Waiting { place: *place, why }
}

/// Why it can live nowhere, whatever room there were; and the cheapest thing that would mend it.
fn no_heir(case: &Case<'_>, board: &Board<'_>) -> Option<(String, String)> {
    let agreed = &case.owned.agreed;
    let name = &agreed.name;
    if agreed.standbys.is_empty() {
        return Some((format!("{name} has no standby"), "agree on one in the service's continuity".into()));
    }
    if !case.heirs.is_empty() {
        let least = case.unit().times(agreed.least);
        let none = case.heirs.iter().all(|c| board.never(*c, least));
        return none.then(|| {
            let clouds = list(case.heirs.iter().filter_map(|c| board.clouds.get(*c)).map(|room| room.name.as_str()));
            let Resources { cpu_millis, memory_mib } = least;
            let why = format!(
                "{} instances of {name} ({cpu_millis} mCPU, {memory_mib} MiB) fit into none of {clouds}, were it empty",
                agreed.least
            );
            (why, "make its least smaller, or agree on a larger standby".into())
        });
    }
    let left: Vec<_> =
        agreed.standbys.iter().filter(|s| board.clouds.iter().any(|room| room.name == &s.cloud)).collect();
    if left.is_empty() {
        let clouds = list(agreed.standbys.iter().map(|s| s.cloud.as_str()));
        let why = format!("no standby of {name} may take it: {clouds} lost, ailing, on probation or a witness");
        return Some((why, "bring one of them back, or wait until its probation is over".into()));
    }
    let clouds = list(left.iter().map(|s| s.cloud.as_str()));
    let synced = left.iter().any(|s| case.owned.in_sync.contains(&s.cloud));
    if agreed.mode == Mode::Sync && !synced {
        let why =
            format!("{name} is synchronous, and none of {clouds} is in the set that has every acknowledged write");
        return Some((why, "bring its owner, or a cloud of that set, back".into()));
    }
    let why = format!("{clouds} told of no copy of {name}, or stopped automation");
    Some((why, "let a standby report its copy, or start its automation again".into()))
}

/// What is missing, at the heir that lacks the least of it.
fn nearest(case: &Case<'_>, board: &Board<'_>) -> Option<Wait> {
    let need = case.unit().times(case.owned.agreed.least);
    let lacks = |c: &usize| need.minus(board.free(*c));
    let at = case.heirs.iter().min_by_key(|c| u64::from(lacks(c).cpu_millis) + u64::from(lacks(c).memory_mib))?;
    Some(Wait::Room { at: board.clouds.get(*at)?.name.clone(), needs: lacks(at) })
}

fn list<'a>(clouds: impl Iterator<Item = &'a str>) -> String {
    clouds.collect::<Vec<_>>().join(", ")
}
