//! Routes of what cannot be read now: they stay as they were last known.
//!
//! Enters: a new table that lacks them, the table before, names. Leaves: the new table with their old routes.
//! Always holds: nothing is added that the table before did not have; no host stands twice; instants of another boot count for nothing.

use crate::table::{HomeBackend, LeaseBackend, LeaseRoute, RouteTable, ServiceRoute};
use pumasi_terms::{BootMs, Epoch, LeaseId, ServiceName};
use std::collections::{BTreeMap, BTreeSet};

/// What could not be read, with the ready instances of each by the engine's word.
#[derive(Debug, Clone, Default)]
pub struct Aside {
    pub services: BTreeMap<ServiceName, Vec<HomeBackend>>,
    pub leases: BTreeMap<LeaseId, AsideLease>,
    /// A journey is among it. Known are the leases of those that can be read: a lease of no readable journey may be its.
    pub journeys: Option<BTreeSet<LeaseId>>,
    /// Leases of no readable journey that are renewed all the same, and until when they may be used.
    pub renewed: BTreeMap<LeaseId, BootMs>,
}

#[derive(Debug, Clone, Default)]
pub struct AsideLease {
    pub instances: Vec<HomeBackend>,
    /// Where the lease's own record can be read: its end and epoch.
    pub end: Option<(BootMs, Epoch)>,
}

impl Aside {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.leases.is_empty() && self.journeys.is_none()
    }
}

/// Puts the last known routes of `aside` into `table`.
pub fn keep(table: &mut RouteTable, last: &RouteTable, aside: &Aside) {
    let same_boot = last.boot_id == table.boot_id;
    let mut taken: BTreeSet<String> = all_hosts(table).collect();
    for (name, home) in &aside.services {
        let Some(old) = last.services.get(name).filter(|_| !table.services.contains_key(name)) else { continue };
        let mut route = ServiceRoute { home: home.clone(), ..old.clone() };
        if !same_boot {
            route.leases.clear();
        }
        route.hosts.retain(|h| taken.insert(h.to_ascii_lowercase()));
        table.services.insert(name.clone(), route);
    }
    if !same_boot {
        return;
    }
    for (id, lease) in &aside.leases {
        let Some(old) = last.leases.get(id).filter(|_| !table.leases.contains_key(id)) else { continue };
        let (expires_at, epoch) = lease.end.unwrap_or((old.expires_at, old.epoch));
        let mut route = LeaseRoute { instances: lease.instances.clone(), expires_at, epoch, ..old.clone() };
        route.aliases.retain(|h| taken.insert(h.to_ascii_lowercase()));
        table.leases.insert(id.clone(), route);
    }
    let Some(known) = &aside.journeys else { return };
    for (name, route) in &mut table.services {
        let old = last.services.get(name).into_iter().flat_map(|s| &s.leases);
        let lost = old.filter(|l| !known.contains(&l.lease) && !route.leases.iter().any(|n| n.lease == l.lease));
        let until = |l: &LeaseBackend| aside.renewed.get(&l.lease).map_or(l.usable_until, |at| l.usable_until.max(*at));
        let lost: Vec<_> = lost.map(|l| LeaseBackend { usable_until: until(l), ..l.clone() }).collect();
        route.leases.extend(lost);
        route.leases.sort_by(|a, b| (&a.lease, &a.cloud).cmp(&(&b.lease, &b.cloud)));
    }
}

fn all_hosts(table: &RouteTable) -> impl Iterator<Item = String> + '_ {
    let services = table.services.values().flat_map(|s| &s.hosts);
    services.chain(table.leases.values().flat_map(|l| &l.aliases)).map(|h| h.to_ascii_lowercase())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::table::{Admission, Role, TABLE_VERSION, Writes};
    use pumasi_terms::{CloudName, InstanceId, Ppm, service::RouteMode};

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).unwrap()
    }

    fn backend(n: u128) -> HomeBackend {
        let address = "127.0.0.1:9000".parse().unwrap();
        let instance = InstanceId::from_entropy(n);
        HomeBackend { instance, address, door: None, protocol: Default::default(), generation: 1, draining: false }
    }

    fn away(n: u128) -> LeaseBackend {
        LeaseBackend {
            lease: LeaseId::from_entropy(n),
            cloud: CloudName::parse("city-b").unwrap(),
            instances: 1,
            weight: Ppm(1),
            draining: false,
            usable_until: BootMs(5_000),
            alias: None,
            datasets: Vec::new(),
            ticket_key: None,
        }
    }

    fn route(hosts: &[&str], leases: Vec<LeaseBackend>) -> ServiceRoute {
        ServiceRoute {
            hosts: hosts.iter().map(ToString::to_string).collect(),
            epoch: Epoch(1),
            writes: Writes::Unbound,
            role: Role::Owner,
            absent: None,
            entrances: Default::default(),
            mode: RouteMode::Proxy,
            home_only: Vec::new(),
            safe_methods: Vec::new(),
            user_cookie: None,
            protocol: Default::default(),
            underscored_fields: false,
            home: vec![backend(1)],
            leases,
            home_weight: Ppm(1),
            admission: Admission::default(),
            position_generation: None,
            in_step: None,
            identity: None,
            position_key: None,
        }
    }

    fn table(services: &[(&str, ServiceRoute)]) -> RouteTable {
        RouteTable {
            version: TABLE_VERSION,
            cloud: CloudName::parse("city-a").unwrap(),
            boot_id: "boot".into(),
            revision: 1,
            services: services.iter().map(|(n, r)| (name(n), r.clone())).collect(),
            leases: BTreeMap::new(),
            peers: BTreeMap::new(),
        }
    }

    #[test]
    fn what_cannot_be_read_keeps_its_route_with_the_instances_that_are_ready_and_claims_no_host_of_others() {
        let last =
            table(&[("a", route(&["a.example", "Both.example"], vec![away(7)])), ("gone", route(&["g"], vec![]))]);
        let new = table(&[("b", route(&["both.example"], vec![]))]);
        let mut aside = Aside { services: BTreeMap::from([(name("a"), vec![backend(2)])]), ..Aside::default() };
        let mut kept = new.clone();
        keep(&mut kept, &last, &aside);
        let a = &kept.services[&name("a")];
        assert_eq!(
            (a.hosts.as_slice(), &a.home, a.leases.len()),
            (&["a.example".to_owned()][..], &vec![backend(2)], 1)
        );
        assert!(kept.services.len() == 2, "what is gone on record stays gone");
        // Another boot's instants are void, and what the last table did not have is made up by nobody.
        let mut rebooted = RouteTable { boot_id: "next".into(), ..new.clone() };
        aside.services.insert(name("c"), vec![backend(3)]);
        keep(&mut rebooted, &last, &aside);
        assert!(rebooted.services[&name("a")].leases.is_empty() && !rebooted.services.contains_key(&name("c")));
    }

    #[test]
    fn leases_of_a_journey_that_cannot_be_read_serve_until_their_last_known_end_or_as_long_as_they_are_renewed() {
        let last = table(&[("a", route(&["a"], vec![away(1), away(2), away(3)]))]);
        let mut new = table(&[("a", route(&["a"], vec![away(1)]))]);
        let known = BTreeSet::from([LeaseId::from_entropy(1), LeaseId::from_entropy(3)]);
        let renewed = BTreeMap::from([(LeaseId::from_entropy(2), BootMs(9_000))]);
        keep(&mut new, &last, &Aside { journeys: Some(known), renewed, ..Aside::default() });
        let ends: BTreeMap<_, _> =
            new.services[&name("a")].leases.iter().map(|l| (l.lease.clone(), l.usable_until.0)).collect();
        // The third is over by a journey that can be read.
        assert_eq!(ends, BTreeMap::from([(LeaseId::from_entropy(1), 5_000), (LeaseId::from_entropy(2), 9_000)]));
    }
}
