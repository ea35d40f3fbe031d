//! Tables as they are built: no route without a right.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use pumasi_lease::document::{KIND, Lease};
use pumasi_lease::record::{EndedBy, LentLease, LentState, Usage};
use pumasi_route::table::{Admission, HomeBackend, PeerLink, Role, Writes};
use pumasi_route::*;
use pumasi_terms::offer::Requirement;
use pumasi_terms::service::{Application, BundleRef, Platform, Service, ServiceSpec};
use pumasi_terms::*;

fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

fn service(name: &str) -> Service {
    Service {
        api_version: API_VERSION.into(),
        kind: "Service".into(),
        metadata: Metadata::new(ServiceName::parse(name).unwrap()),
        spec: ServiceSpec {
            hosts: vec![format!("{name}.example")],
            application: Application {
                bundle: BundleRef::Digest(Digest([1; 32])),
                command: vec!["serve".into()],
                env: Default::default(),
                secrets: Default::default(),
                platform: Platform::default(),
                resources: Resources { cpu_millis: 250, memory_mib: 128 },
                protocol: Default::default(),
                readiness: Default::default(),
                liveness: None,
                stop_grace_ms: 1_000,
                egress: Vec::new(),
            },
            instances: Default::default(),
            datasets: Vec::new(),
            objective: Default::default(),
            routing: Default::default(),
            borrowing: Default::default(),
            priority: 100,
            tls: None,
            identity: None,
            continuity: Default::default(),
            recovery_class: Default::default(),
        },
    }
}

fn instance(n: u128, draining: bool) -> HomeBackend {
    HomeBackend {
        instance: InstanceId::from_entropy(n),
        address: "127.0.0.1:9000".parse().unwrap(),
        door: None,
        protocol: Default::default(),
        generation: 1,
        draining,
    }
}

fn part(n: u128, name: &str, instances_ready: u32, state: PartState, usable_until: u64) -> PartInput {
    PartInput {
        lease: LeaseId::from_entropy(n),
        cloud: cloud(name),
        instances_ready,
        state,
        weight: Ppm(300_000),
        usable_until: BootMs(usable_until),
        alias: None,
        datasets: Vec::new(),
        ticket_key: None,
    }
}

fn lent(n: u128, state: LentState, expires_at: u64) -> LentInput {
    let requirement = Requirement {
        service: ServiceName::parse("wiki").unwrap(),
        platform: Platform::default(),
        resources: Resources { cpu_millis: 250, memory_mib: 128 },
        instances: 1,
        instances_min: 1,
        storage_bytes: 0,
        price_per_instance_hour_max: Money(1),
        egress: Vec::new(),
        standby: None,
    };
    let lease = Lease {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        id: LeaseId::from_entropy(n),
        serial: Serial(1),
        pact: PactId::from_entropy(1),
        pact_serial: Serial(1),
        reservation: ReservationId::from_entropy(n),
        borrower: cloud("b"),
        lender: cloud("a"),
        service: requirement.service.clone(),
        epoch: Epoch(2),
        requirement,
        instances: 1,
        price_per_instance_hour: Money(1),
        ttl_ms: 10_000,
        recall_notice_ms: 5_000,
        application: Digest([1; 32]),
        datasets: Vec::new(),
        hosts: Vec::new(),
        created_at: WallMs(0),
        standby_percent: None,
    };
    LentInput {
        protocol: Default::default(),
        lent: LentLease {
            lease,
            state,
            expires_at: BootMs(expires_at),
            instances_wanted: 1,
            usage: Usage::default(),
            since: WallMs(0),
            epoch: Epoch(3),
            kept_since: None,
            silence: None,
        },
        instances: vec![instance(50 + n, false)],
        hosts: vec!["wiki.example".into()],
        aliases: Vec::new(),
        home_only: Vec::new(),
        safe_methods: Vec::new(),
        admission: Admission::default(),
        ticket_key: None,
    }
}

fn input(home: Vec<HomeBackend>, parts: Vec<PartInput>, lent: Vec<LentInput>) -> RouteInput {
    let peer = || PeerLink { gateway_address: "127.0.0.1:1".into(), bundle: "{}".into() };
    RouteInput {
        cloud: cloud("a"),
        boot_id: "boot".into(),
        revision: 7,
        now: Now { boot: BootMs(1_000), wall: WallMs(0) },
        services: vec![ServiceInput {
            service: service("shop"),
            epoch: Epoch(1),
            writes: Writes::Unbound,
            role: Role::Owner,
            absent: None,
            entrances: Default::default(),
            home,
            parts,
            admission: Admission::default(),
            position_generation: None,
            in_step: None,
            identity: None,
            position_key: None,
        }],
        guests: Vec::new(),
        lent,
        members: [(cloud("b"), peer()), (cloud("c"), peer())].into(),
    }
}

#[test]
fn only_usable_parts_are_routed_to() {
    use PartState::{Draining, Serving};
    let parts = vec![
        part(5, "c", 2, Draining, 2_000),
        part(1, "b", 3, Serving, 2_000),
        part(2, "b", 3, Serving, 1_000),
        part(3, "b", 0, Serving, 2_000),
        part(4, "stranger", 3, Serving, 2_000),
    ];
    let table = build(&input(vec![instance(2, true), instance(1, false)], parts, Vec::new()));
    let route = table.services.values().next().unwrap();
    let told: Vec<(u32, u32, bool)> = route.leases.iter().map(|l| (l.instances, l.weight.0, l.draining)).collect();
    assert_eq!(told, [(3, 300_000, false), (2, 0, true)]);
    assert_eq!(route.home_weight, Ppm::WHOLE);
    assert_eq!((route.home.len(), table.revision), (2, 7));
}

#[test]
fn an_entrance_serves_nobody_and_only_members_are_entrances() {
    let mut input = input(vec![instance(1, false)], vec![part(1, "b", 3, PartState::Serving, 2_000)], Vec::new());
    input.services[0].entrances = [cloud("b"), cloud("stranger")].into();
    let route = build(&input).services.into_values().next().unwrap();
    assert_eq!((route.entrances, route.home.len(), route.leases.len()), ([cloud("b")].into(), 1, 1));
    input.services[0].role = Role::Front { owner: cloud("b") };
    let route = build(&input).services.into_values().next().unwrap();
    assert_eq!((route.home.len(), route.leases.len(), route.home_weight.0), (0, 0, 0));
}

#[test]
fn only_usable_leases_are_served() {
    let states = [
        LentState::Active,
        LentState::Recalled { deadline: BootMs(2_000), why: "x".into() },
        LentState::Ending { why: EndedBy::Release },
        LentState::Ended { why: EndedBy::Release, at: WallMs(0) },
        LentState::Settled { at: WallMs(0) },
    ];
    let mut all: Vec<LentInput> = states.into_iter().zip(0u128..).map(|(s, n)| lent(n, s, 2_000)).collect();
    all.push(lent(9, LentState::Active, 1_000));
    let table = build(&input(Vec::new(), Vec::new(), all));
    assert_eq!(table.leases.keys().cloned().collect::<Vec<_>>(), [LeaseId::from_entropy(0), LeaseId::from_entropy(1)]);
    assert!(table.leases.values().all(|l| l.epoch == Epoch(3) && l.expires_at == BootMs(2_000)));
}

#[test]
fn the_revision_alone_is_no_difference() {
    let one = build(&input(vec![instance(1, false)], Vec::new(), Vec::new()));
    let mut two = RouteTable { revision: 99, ..one.clone() };
    assert!(!table_differs(&one, &two));
    two.services.values_mut().for_each(|s| s.home[0].draining = true);
    assert!(table_differs(&one, &two));
}

proptest! {
    #[test]
    fn no_route_without_a_right(
        parts in prop::collection::vec((0u128..4, 0usize..3, 0u32..3, any::<bool>(), 900u64..1_100), 0..6),
        leases in prop::collection::vec((0u128..4, 0u8..5, 900u64..1_100), 0..6),
    ) {
        let parts: Vec<PartInput> = parts.iter().map(|(n, who, ready, serves, until)| {
            part(*n, ["b", "c", "stranger"][*who], *ready, if *serves { PartState::Serving } else { PartState::Draining }, *until)
        }).collect();
        let leases: Vec<LentInput> = leases.iter().map(|(n, state, until)| {
            let why = EndedBy::Expiry;
            let state = match state {
                0 | 1 => LentState::Active,
                2 => LentState::Recalled { deadline: BootMs(*until), why: "x".into() },
                3 => LentState::Ending { why },
                _ => LentState::Settled { at: WallMs(0) },
            };
            lent(*n, state, *until)
        }).collect();
        let input = input(vec![instance(1, false)], parts, leases);
        let table = build(&input);
        prop_assert_eq!(&build(&input), &table);
        let text = serde_json::to_string(&table).unwrap();
        prop_assert_eq!(&serde_json::from_str::<RouteTable>(&text).unwrap(), &table);
        let now = input.now.boot;
        for route in table.services.values() {
            for l in &route.leases {
                let right = input.services[0].parts.iter().any(|p| p.lease == l.lease && p.cloud == l.cloud && p.usable_until > now);
                prop_assert!(right && table.peers.contains_key(&l.cloud) && l.usable_until > now);
                prop_assert!(!l.draining || l.weight == Ppm(0));
            }
            let ids: Vec<_> = route.leases.iter().map(|l| &l.lease).collect();
            prop_assert!(ids.windows(2).all(|w| w[0] < w[1]), "each once, in order");
        }
        for (id, l) in &table.leases {
            prop_assert!(l.expires_at > now);
            prop_assert!(input.lent.iter().any(|x| x.lent.id() == id && x.lent.usable() && x.lent.expires_at > now));
        }
    }
}

/// A partner's alias that is a host of an own service, of another partner, or in another writing: that entry goes, not the table.
#[test]
fn a_host_that_is_claimed_twice_costs_one_entry_and_own_services_win() {
    let with = |n: u128, aliases: &[&str]| {
        let mut lent = lent(n, LentState::Active, 9_000);
        lent.aliases = aliases.iter().map(|a| (*a).to_owned()).collect();
        lent
    };
    let lents =
        vec![with(1, &["SHOP.example", "a.wiki.example"]), with(2, &["a.Wiki.example", "b.example", "b.example"])];
    let (table, dropped) = build_told(&input(vec![instance(1, false)], Vec::new(), lents));
    assert_eq!(table.services.values().next().unwrap().hosts, ["shop.example"]);
    let aliases: Vec<_> = table.leases.values().map(|l| l.aliases.clone()).collect();
    assert_eq!(aliases, [vec!["a.wiki.example".to_owned()], vec!["b.example".to_owned(), "b.example".to_owned()]]);
    assert_eq!(dropped.len(), 2);
    assert!(dropped[0].contains("SHOP.example") && dropped[0].contains("service shop"), "{dropped:?}");
    assert!(table.leases.values().all(|l| !l.instances.is_empty()), "the lease itself stays");
}

/// What is kept ready here for others: their users may come in, and take nothing from what this cloud has of its own.
#[test]
fn guests_lead_to_their_owner_and_take_no_name_and_no_host_from_this_clouds_own() {
    let guest = |name: &str, hosts: &[&str]| {
        let mut made = input(Vec::new(), Vec::new(), Vec::new()).services.remove(0);
        made.service = service(name);
        made.service.spec.hosts = hosts.iter().map(|h| (*h).to_owned()).collect();
        ServiceInput { role: Role::Front { owner: cloud("b") }, epoch: Epoch(4), ..made }
    };
    let mut all = input(vec![instance(1, false)], Vec::new(), Vec::new());
    // Before `shop` in the alphabet, and with a host of it in another writing.
    all.guests = vec![guest("aaa", &["SHOP.example", "aaa.example"]), guest("shop", &["other.example"])];
    all.guests.push(guest("bbb", &["shop.example"]));
    let (table, dropped) = build_told(&all);
    let names: Vec<&str> = table.services.keys().map(|n| n.as_str()).collect();
    assert_eq!(names, ["aaa", "shop"]);
    let routes: Vec<_> = table.services.values().collect();
    assert_eq!((&routes[0].hosts[..], routes[0].epoch), (&["aaa.example".to_owned()][..], Epoch(4)));
    assert!(routes[1].role.is_owner() && routes[1].hosts == ["shop.example"] && routes[1].home.len() == 1);
    assert_eq!(dropped.len(), 3, "{dropped:?}");
    assert!(dropped.iter().any(|d| d.contains("has a service of that name")), "{dropped:?}");
}
