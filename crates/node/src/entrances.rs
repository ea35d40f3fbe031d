//! Users may come in at every cloud that keeps a service ready, and not at its owner's only.
//!
//! Enters: the register of the pact, the standbys that are here, who is heard. Leaves: entries of the route table by which this cloud is a
//! front for services of others; why nobody serves one now.
//! Always holds: an entry follows from the register and a standby's dossier, at each look, also after a restart; it leads to the owner, one
//! hop, or to nobody with the reason said; this cloud's own services come first.

use crate::lender::dossier::Kept;
use crate::object::ServiceRecord;
use crate::{Node, certificates, clock, lender, routes};
use pumasi_api::Problem;
use pumasi_lease::LentLease;
use pumasi_lease::dossier::Dossier;
use pumasi_ownership::access::{self, absence};
use pumasi_ownership::state::{Class, Owned};
use pumasi_route::build::ServiceInput;
use pumasi_route::table::{Absent, Role, RouteTable, Writes};
use pumasi_terms::service::RecoveryClass;
use pumasi_terms::{CloudName, ServiceId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Somebody may take it at any moment.
const SOON_S: u32 = 1;
/// It waits for people, or for room.
const LATER_S: u32 = 10;

/// Clouds that the pact's voters know as standbys of a service, or as its owner: each may be an entrance of it.
pub fn agreed(node: &Node, service: &ServiceRecord) -> BTreeSet<CloudName> {
    let state = node.voting.state().filter(|_| service.registered);
    state.map(|s| access::entrances(&s, &service.id).cloned().collect()).unwrap_or_default()
}

/// Why nobody serves it now; none: its owner is to answer.
pub fn absent(node: &Node, service: &ServiceId) -> Option<Absent> {
    let state = node.voting.state()?;
    let owned = state.services.get(service)?;
    if let Some(absence) = absence(&state, service) {
        let (place, of) = absence.place.unzip();
        return Some(Absent {
            reason: absence.why.as_str().into(),
            class: Some(class(absence.class)),
            place,
            of,
            detail: format!("nobody serves {} now: {}", owned.agreed.name, absence.text),
            retry_after_s: LATER_S,
        });
    }
    is_silent(node, &owned.owner).then(|| {
        let text = format!(
            "{}, which owns {}, is not heard; if it stays so, others take over",
            owned.owner, owned.agreed.name
        );
        now(Absent::SILENT, owned, text)
    })
}

fn now(reason: &str, owned: &Owned, detail: String) -> Absent {
    let class = Some(class(owned.agreed.class));
    Absent { reason: reason.into(), class, place: None, of: None, detail, retry_after_s: SOON_S }
}

fn is_silent(node: &Node, owner: &CloudName) -> bool {
    // Who has no vote sees renewals through others' eyes, and a voter that is slow is no silence of the owner.
    let silent = owner != node.name() && node.voting.is_silent(owner, clock::boot());
    silent && (node.voting.votes() || node.peers.of(owner).trouble.is_some())
}

fn class(class: Class) -> RecoveryClass {
    match class {
        Class::Guaranteed => RecoveryClass::Guaranteed,
        Class::Early => RecoveryClass::Early,
        Class::Deferred => RecoveryClass::Deferred,
    }
}

/// What is kept ready here of services that are no record of this cloud's, by id: the newest word of each.
pub fn kept(node: &Node, own: &[Arc<ServiceRecord>], lents: &[Arc<LentLease>]) -> BTreeMap<ServiceId, Arc<Kept>> {
    let mut kept: BTreeMap<ServiceId, Arc<Kept>> = BTreeMap::new();
    for lent in lents.iter().filter(|l| l.standby().is_some() && l.usable()) {
        // What cannot be read is left as it was, see `is_unknown`.
        let Ok(Some(found)) = lender::dossier::item(node, lent.id()) else { continue };
        let (id, epoch) = (&found.dossier.id, found.dossier.epoch);
        let is_newer = kept.get(id).is_none_or(|known| known.dossier.epoch < epoch);
        if is_newer && !own.iter().any(|s| &s.id == id) {
            kept.insert(id.clone(), found);
        }
    }
    kept
}

/// Whether for some of them this cloud cannot say whether it is an entrance: then it is what it was.
pub fn is_unknown(node: &Node) -> Result<bool, Problem> {
    Ok(node.voting.is_on() && (node.voting.state().is_none() || lender::dossier::some_are_unknown(node)?))
}

/// Entries for the route table.
pub fn guests(node: &Node, own: &[Arc<ServiceRecord>], lents: &[Arc<LentLease>]) -> Vec<ServiceInput> {
    let Some(state) = node.voting.state() else { return Vec::new() };
    let kept = kept(node, own, lents);
    let known = kept.iter().filter_map(|(id, kept)| Some((id, state.services.get(id)?, kept)));
    known.map(|(id, owned, kept)| guest(node, id, owned, &kept.dossier)).collect()
}

fn guest(node: &Node, id: &ServiceId, owned: &Owned, dossier: &Dossier) -> ServiceInput {
    let mut service = dossier.service.clone();
    // What the voters agreed on is nobody else's in the pact.
    service.spec.hosts = owned.agreed.hosts.iter().cloned().collect();
    let is_mine = &owned.owner == node.name();
    let absent = match is_mine {
        true => Some(now(
            "opening",
            owned,
            format!("{} has taken over {} and is starting it", node.name(), owned.agreed.name),
        )),
        false => absent(node, id),
    };
    ServiceInput {
        epoch: owned.epoch,
        writes: Writes::Bound,
        role: Role::Front { owner: owned.owner.clone() },
        absent,
        entrances: BTreeSet::new(),
        home: Vec::new(),
        parts: Vec::new(),
        admission: routes::admission(node, &service.spec),
        position_generation: None,
        identity: None,
        position_key: None,
        in_step: None,
        service,
    }
}

/// Fronts that the table before had and this one cannot judge.
pub fn as_before(table: &mut RouteTable, last: Option<&RouteTable>) {
    let mut taken: BTreeSet<String> =
        table.services.values().flat_map(|s| &s.hosts).map(|h| h.to_ascii_lowercase()).collect();
    for (name, route) in last.into_iter().flat_map(|t| &t.services) {
        if route.role.is_owner() || table.services.contains_key(name) {
            continue;
        }
        let mut route = route.clone();
        route.hosts.retain(|h| taken.insert(h.to_ascii_lowercase()));
        if !route.hosts.is_empty() {
            table.services.insert(name.clone(), route);
        }
    }
}

/// Whether there were any.
pub fn without_absences(table: &mut RouteTable) -> bool {
    let mut any = false;
    for route in table.services.values_mut() {
        any |= route.absent.take().is_some();
    }
    any
}

/// Hosts for which this cloud is an entrance by a standby, and has no certificate that users would accept; none: it takes no HTTPS, or is
/// no entrance.
pub fn uncertified(node: &Node, lent: &LentLease) -> Option<Vec<String>> {
    if node.config.gateway.listen_tls.is_empty() {
        return None;
    }
    let kept = lender::dossier::item(node, lent.id()).ok()??;
    node.voting.state()?.services.get(&kept.dossier.id)?;
    certificates::missing_at_entrance(node, &kept.dossier).ok().filter(|none| !none.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_route::table::TABLE_VERSION;
    use pumasi_terms::ServiceName;

    fn table(services: &[(&str, &[&str], bool)]) -> RouteTable {
        let route = |hosts: &[&str], owner: bool| {
            serde_json::from_value(serde_json::json!({
                "hosts": hosts, "epoch": 1, "writes": "bound", "mode": "proxy", "home_only": [], "user_cookie": null, "home": [],
                "leases": [], "home_weight": 0, "admission": {}, "position_generation": null,
                "role": if owner { serde_json::json!("owner") } else { serde_json::json!({"front": {"owner": "city-b"}}) },
                "absent": if owner { None } else { Some(serde_json::json!({"reason": "silent", "detail": "x", "retry_after_s": 1})) },
            }))
            .unwrap()
        };
        RouteTable {
            version: TABLE_VERSION,
            cloud: CloudName::parse("city-c").unwrap(),
            boot_id: "boot".into(),
            revision: 1,
            services: services.iter().map(|(n, h, o)| (ServiceName::parse(*n).unwrap(), route(h, *o))).collect(),
            leases: BTreeMap::new(),
            peers: BTreeMap::new(),
        }
    }

    #[test]
    fn while_the_register_is_not_known_fronts_stay_as_they_were_and_take_nothing_from_this_clouds_own() {
        let last = table(&[
            ("old", &["old.example"], true),
            ("guest", &["guest.example", "OWN.example"], false),
            ("own", &["x.example"], false),
        ]);
        let mut now = table(&[("own", &["own.example"], true)]);
        as_before(&mut now, Some(&last));
        let told: Vec<_> =
            now.services.iter().map(|(n, r)| (n.as_str(), r.hosts.join(" "), r.role.is_owner())).collect();
        assert_eq!(told, [("guest", "guest.example".to_owned(), false), ("own", "own.example".to_owned(), true)]);
        as_before(&mut now, None);
        assert_eq!(now.services.len(), 2);
        // For a gateway that knows of no absence.
        assert!(without_absences(&mut now) && !without_absences(&mut now));
        assert!(now.services.values().all(|r| r.absent.is_none()));
    }
}
