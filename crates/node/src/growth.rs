//! Own room before rented room: instances at home beyond the least that a service has there.
//!
//! Enters: what verdicts want beyond that least, what the cloud has left. Leaves: how many of them run at home; the rest is to be
//! borrowed.
//! Always holds: never more than the service says, nor beyond what the cloud has beside its other services and what it lent; what is
//! rented goes back before own instances end; a new daemon counts what runs.

use crate::node::{Locked, Note};
use crate::object::ServiceRecord;
use crate::{Node, lender};
use pumasi_api::Problem;
use pumasi_engine::InstanceState;
use pumasi_judge::Verdict;
use pumasi_terms::service::HomeInstances;
use std::collections::BTreeMap;

/// Instances beyond the least, by owner.
#[derive(Debug, Default)]
pub struct Growth(Locked<BTreeMap<String, u32>>);

/// What a verdict wants beyond the least at home, shared out: at home, and borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shares {
    home: u32,
    borrowed: u32,
}

/// `grown`: at home now; `room`: how many more the cloud has room for; `rented`: borrowed now.
fn share(beyond: u32, home: HomeInstances, grown: u32, room: u32, rented: u32, growing: bool) -> Shares {
    let at_home = match growing {
        // What is rented already serves: it is not exchanged while the load rises.
        true => beyond.min(grown.saturating_add(room)).min(beyond.saturating_sub(rented).max(grown)),
        false => beyond.min(grown),
    };
    let home = at_home.min(home.spare_max());
    Shares { home, borrowed: beyond.saturating_sub(home) }
}

/// Instances beyond the least that are to run at home.
pub fn grown(node: &Node, service: &ServiceRecord) -> u32 {
    let home = service.document.spec.instances.home;
    if home.spare_max() == 0 {
        return 0;
    }
    let running = || {
        let owner = service.owner();
        let runs = |s: &InstanceState| !matches!(s, InstanceState::Stopped { .. } | InstanceState::Failed { .. });
        let instances = node.instances.lock();
        let count = instances
            .iter()
            .filter(|i| i.owner == owner && i.generation == service.generation && runs(&i.state))
            .count();
        u32::try_from(count).unwrap_or(u32::MAX).saturating_sub(home.min)
    };
    let mut all = node.growth.0.lock();
    (*all.entry(service.owner()).or_insert_with(running)).min(home.spare_max())
}

/// How many more instances the cloud has room for.
pub fn room(node: &Node, service: &ServiceRecord) -> Result<u32, Problem> {
    let home = service.document.spec.instances.home;
    let more = home.spare_max().saturating_sub(grown(node, service));
    // What stands back for others does not grow.
    if more == 0 || node.takeover.room.stands_back(&service.owner()) {
        return Ok(0);
    }
    let used = lender::home_use(node, &node.services()?).plus(lender::lent_use(node)?);
    let left = node.config.physical().minus(used);
    Ok(more.min(service.document.spec.application.resources.count_in(left)))
}

/// Lets as many as there is room for run at home, and leaves in the verdict what is to be borrowed; true: the home's share changed.
pub async fn take(
    node: &Node,
    service: &ServiceRecord,
    verdict: &mut Verdict,
    rented: u32,
    growing: bool,
) -> Result<bool, Problem> {
    let home = service.document.spec.instances.home;
    let (had, room) = (grown(node, service), room(node, service)?);
    let shares = share(verdict.borrowed_wanted, home, had, room, rented, growing);
    verdict.borrowed_wanted = shares.borrowed;
    if shares.home == had {
        return Ok(false);
    }
    node.growth.0.lock().insert(service.owner(), shares.home);
    let action = if shares.home > had { "home_grown" } else { "home_shrunk" };
    let mut note =
        Note::new(action, "service", service.name()).caused_by(format!("{:?}", verdict.cause).to_lowercase());
    let count = home.min.saturating_add(shares.home);
    note.reasons = std::iter::once(format!("{count} instances at home, {} before", home.min.saturating_add(had)))
        .chain(verdict.reasons.iter().map(|r| r.text.clone()))
        .collect();
    note.data = serde_json::json!({ "home_wanted": count, "borrowed_wanted": shares.borrowed });
    node.note("daemon", note).await;
    node.wake.notify_one();
    Ok(true)
}

/// Of owners that are gone nothing is kept.
pub fn keep(node: &Node, is_known: impl Fn(&str) -> bool) {
    node.growth.0.lock().retain(|owner, _| is_known(owner));
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: HomeInstances = HomeInstances { min: 1, max: 4 };

    fn shared(beyond: u32, grown: u32, room: u32, rented: u32, growing: bool) -> (u32, u32) {
        let shares = share(beyond, HOME, grown, room, rented, growing);
        (shares.home, shares.borrowed)
    }

    #[test]
    fn own_room_comes_before_rented_room_and_goes_after_it() {
        assert_eq!(shared(2, 0, 9, 0, true), (2, 0));
        assert_eq!(shared(5, 0, 9, 0, true), (3, 2), "no more than the service says");
        assert_eq!(shared(5, 0, 1, 0, true), (1, 4), "nor than there is room for");
        assert_eq!(shared(5, 1, 0, 4, true), (1, 4));
        // Room came free while it rented: what serves stays.
        assert_eq!(shared(6, 1, 9, 4, true), (2, 4));
        assert_eq!(shared(3, 3, 0, 2, false), (3, 0));
        assert_eq!(shared(4, 1, 9, 4, false), (1, 3), "nothing is started where load falls");
        assert_eq!(shared(1, 3, 0, 0, false), (1, 0));
        assert_eq!(shared(0, 3, 0, 0, false), (0, 0));
        assert_eq!(share(3, HomeInstances::fixed(2), 0, 9, 0, true), Shares { home: 0, borrowed: 3 });
    }
}
