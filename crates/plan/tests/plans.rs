//! Plans as they are made, refused, linted and told.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use pumasi_judge::{Cause, Verdict};
use pumasi_plan::*;
use pumasi_terms::offer::Offer;
use pumasi_terms::service::{Application, Borrowing, BundleRef, Platform, Service, ServiceSpec};
use pumasi_terms::*;

fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

fn offer(name: &str, cpu_millis: u32, price: u64) -> Offer {
    Offer {
        cloud: cloud(name),
        at: WallMs(0),
        free: Resources { cpu_millis, memory_mib: 65_536 },
        storage_free_bytes: 8 << 30,
        price_per_cpu_hour: Money(price),
        platforms: vec![Platform::default()],
        recall_notice_ms: 5_000,
        lease_ttl_ms_max: 10_000,
        egress: Vec::new(),
        standby_percent: None,
        standby_free: None,
    }
}

fn service() -> Service {
    Service {
        api_version: API_VERSION.into(),
        kind: "Service".into(),
        metadata: Metadata::new(ServiceName::parse("shop").unwrap()),
        spec: ServiceSpec {
            hosts: vec!["shop.example".into()],
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
            borrowing: Borrowing { money_per_hour_max: Money(1_000_000), ..Borrowing::default() },
            priority: 100,
            tls: None,
            identity: None,
            continuity: Default::default(),
            recovery_class: Default::default(),
        },
    }
}

fn input(wanted: u32) -> PlanInput {
    PlanInput {
        service: service(),
        home: cloud("a"),
        verdict: Verdict {
            service: ServiceName::parse("shop").unwrap(),
            cause: Cause::Overload,
            at: WallMs(1),
            borrowed_wanted: wanted,
            reasons: Vec::new(),
        },
        epoch: Epoch(1),
        parts: Vec::new(),
        offers: vec![
            (offer("b", 2_000, 100_000), 20_000),
            (offer("c", 2_000, 100_000), 5_000),
            (offer("d", 500, 100_000), 1_000),
            (offer("e", 2_000, 400_000), 1_000),
        ],
        spent: Spent { moves_last_hour: 0, new_journey: true },
        parent: None,
        ids: Ids {
            plan: PlanId::from_entropy(1),
            journey: JourneyId::from_entropy(1),
            holds: (0..3).map(|n| (ReservationId::from_entropy(n), LeaseId::from_entropy(n))).collect(),
        },
        application: Digest([1; 32]),
        bundle_bytes: 10 << 20,
        dataset_bytes: 0,
        files: 0,
        excluded: Vec::new(),
        now: WallMs(5),
    }
}

fn part(n: u128, name: &str, instances: u32, granted: u32, price: u64, rtt_us: u64) -> CurrentPart {
    CurrentPart {
        lease: LeaseId::from_entropy(100 + n),
        cloud: cloud(name),
        instances,
        granted,
        price_per_instance_hour: Money(price),
        rtt_us,
        recalled: false,
        standby: None,
    }
}

fn faults(plan: &Plan, input: &PlanInput) -> Vec<Fault> {
    lint(plan, &input.service, &input.home, &input.parts, input.parent.as_ref())
}

fn made(input: &PlanInput) -> Plan {
    let plan = plan(input).unwrap();
    assert_eq!(faults(&plan, input), []);
    plan
}

fn obstacles(input: &PlanInput) -> Vec<String> {
    plan(input).unwrap_err().reasons.into_iter().map(|r| r.what).collect()
}

fn clouds(plan: &Plan) -> Vec<String> {
    plan.borrow.iter().flat_map(|b| &b.candidates).map(|c| c.cloud.to_string()).collect()
}

fn sizes(plan: &Plan) -> Vec<u32> {
    plan.parts.iter().map(|p| p.instances).collect()
}

#[test]
fn the_best_three_are_asked_for_the_same() {
    let input = input(4);
    let plan = made(&input);
    // c is nearer than b; e is dear; d has room for two only.
    assert_eq!(clouds(&plan), ["c", "b", "e"]);
    let borrow = plan.borrow.as_ref().unwrap();
    assert_eq!(borrow.requirement.instances, 4);
    assert_eq!(borrow.lease_ttl_ms, 10_000);
    assert_eq!(plan.cost_per_hour_max, Money(400_000));
    assert_eq!(plan, made(&input), "the same input gives the same plan");
    let text = describe(&plan);
    assert!(text.contains("borrow 4 more") && text.contains("1. c:"), "{text}");
}

#[test]
fn what_cannot_or_may_not_lend_is_left_out() {
    let mut input = input(2);
    input.service.spec.borrowing.clouds = vec![cloud("b"), cloud("d"), cloud("e")];
    input.excluded = vec![(cloud("b"), "it broke off".into())];
    input.offers[3].0.platforms.clear();
    input.offers[2].0.free = Resources::default();
    assert_eq!(obstacles(&input), ["failed_lately", "not_allowed", "no_room", "platform", "no_candidate"]);
    input.offers[2].0.free = Resources { cpu_millis: 250, memory_mib: 128 };
    assert_eq!(clouds(&made(&input)), ["d"]);
    input.offers[2].0.cloud = input.home.clone();
    assert!(plan(&input).is_err(), "a cloud does not borrow from itself");
}

#[test]
fn ceilings_stop_a_plan_and_are_named() {
    let with = |change: fn(&mut PlanInput)| {
        let mut input = input(4);
        change(&mut input);
        input
    };
    assert_eq!(obstacles(&with(|i| i.spent.moves_last_hour = 20)), ["moves_ceiling"]);
    assert_eq!(obstacles(&with(|i| i.service.spec.borrowing.bytes_max = 1)), ["bytes_ceiling"]);
    assert_eq!(obstacles(&with(|i| i.service.spec.borrowing.instances_max = 0)), ["instances_ceiling"]);
    let poor = with(|i| i.service.spec.borrowing.money_per_hour_max = Money(60_000));
    let plan = made(&poor);
    assert_eq!(plan.borrow.as_ref().unwrap().requirement.instances, 2, "as many as the money is enough for");
    assert!(plan.cost_per_hour_max <= Money(60_000));
    let broke = with(|i| i.service.spec.borrowing.money_per_hour_max = Money(20_000));
    assert!(obstacles(&broke).contains(&"money_ceiling".to_owned()));
    // A journey under way may go on when no new one may begin.
    let goes_on = with(|i| i.spent = Spent { moves_last_hour: 20, new_journey: false });
    assert!(made(&goes_on).borrow.is_some());
}

#[test]
fn growth_fills_leases_before_it_borrows() {
    let mut input = input(6);
    input.parts = vec![part(1, "b", 1, 3, 25_000, 9_000), part(2, "c", 1, 2, 20_000, 9_000)];
    input.parent = Some(Parent { id: PlanId::from_entropy(9), number: 4 });
    let plan = made(&input);
    assert_eq!((sizes(&plan), plan.number), (vec![3, 2], 5));
    assert_eq!(plan.borrow.as_ref().unwrap().requirement.instances, 1);
    input.verdict.borrowed_wanted = 3;
    let plan = made(&input);
    assert_eq!((sizes(&plan), plan.borrow, plan.bytes_max), (vec![1, 2], None, 0));
    input.verdict.borrowed_wanted = 2;
    assert_eq!(obstacles(&input), ["no_change"]);
}

#[test]
fn shrinking_takes_the_dearest_then_the_farthest() {
    let mut input = input(3);
    input.parts =
        vec![part(1, "b", 2, 3, 25_000, 9_000), part(2, "c", 2, 2, 25_000, 1_000), part(3, "d", 1, 2, 90_000, 1)];
    assert_eq!(sizes(&made(&input)), [1, 2, 0]);
    input.verdict.borrowed_wanted = 0;
    assert_eq!(sizes(&made(&input)), [0, 0, 0]);
}

#[test]
fn a_recalled_part_is_replaced_elsewhere() {
    let mut input = input(2);
    input.parts = vec![CurrentPart { recalled: true, ..part(1, "c", 2, 2, 25_000, 9_000) }];
    let plan = made(&input);
    assert_eq!(sizes(&plan), [0]);
    assert!(!clouds(&plan).contains(&"c".to_owned()), "{plan:?}");
    assert_eq!(plan.borrow.unwrap().requirement.instances, 2);
}

#[test]
fn the_lint_finds_what_a_hand_did() {
    let mut input = input(4);
    input.parts = vec![part(1, "b", 1, 1, 25_000, 9_000)];
    let good = made(&input);
    let wrong = |change: fn(&mut Plan)| {
        let mut plan = good.clone();
        change(&mut plan);
        faults(&plan, &input).into_iter().map(|f| f.field).collect::<Vec<_>>()
    };
    fn borrow(plan: &mut Plan) -> &mut Borrow {
        plan.borrow.as_mut().unwrap()
    }
    assert_eq!(wrong(|p| p.version = 2), ["version"]);
    assert_eq!(wrong(|p| p.number = 3), ["parent"]);
    assert_eq!(wrong(|p| p.parts[0].instances = 2), ["parts[0]", "cost_per_hour_max"]);
    assert_eq!(wrong(|p| p.parts.clear()), ["parts"]);
    assert_eq!(wrong(|p| borrow(p).requirement.instances = 9), ["parts", "cost_per_hour_max"]);
    assert_eq!(wrong(|p| p.bytes_max = u64::MAX), ["bytes_max"]);
    assert_eq!(wrong(|p| p.route.step = Ppm(0)), ["route"]);
    assert_eq!(wrong(|p| p.cost_per_hour_max = Money(1)), ["cost_per_hour_max"]);
    assert_eq!(
        wrong(|p| borrow(p).candidates[1].cloud = borrow(p).candidates[0].cloud.clone()),
        ["borrow.candidates[1]"]
    );
    assert_eq!(wrong(|p| borrow(p).candidates[0].cloud = CloudName::parse("a").unwrap()), ["borrow.candidates[0]"]);
    assert_eq!(wrong(|p| borrow(p).candidates.clear()), ["borrow.candidates"]);
    assert_eq!(diff(&good, &good), Vec::<String>::new());
    let other = Plan { parts: Vec::new(), borrow: None, ..good.clone() };
    assert_eq!(diff(&good, &other).len(), 2);
}

prop_compose! {
    fn any_input()(
        wanted in 0u32..12,
        max in 0u32..10,
        money in 0u64..400_000,
        moves in 0u32..30,
        parts in prop::collection::vec((0usize..5, 0u32..5, 0u32..5, 0u64..90_000, 0u64..50_000, any::<bool>()), 0..4),
        offers in prop::collection::vec((0usize..6, 0u32..3_000, 0u64..500_000, 0u64..90_000, 0u64..20_000), 0..7),
        ids in 0u128..4,
        number in prop::option::of(1u64..9),
        bundle in 0u64..6 << 30,
        allowed in prop::collection::vec(0usize..6, 0..3),
        excluded in prop::collection::vec(0usize..6, 0..2),
    ) -> PlanInput {
        let names = ["b", "c", "d", "e", "f", "a"];
        let mut input = input(wanted);
        input.service.spec.borrowing.instances_max = max;
        input.service.spec.borrowing.money_per_hour_max = Money(money);
        input.service.spec.borrowing.clouds = allowed.iter().map(|i| cloud(names[*i])).collect();
        input.excluded = excluded.iter().map(|i| (cloud(names[*i]), "x".into())).collect();
        input.spent.moves_last_hour = moves;
        input.parts = parts.iter().enumerate().map(|(n, (i, now, more, price, rtt, recalled))| CurrentPart {
            recalled: *recalled, ..part(n as u128, names[*i], *now, now + more, *price, *rtt)
        }).collect();
        input.offers = offers.iter().map(|(i, cpu, price, rtt, ttl)| (Offer { lease_ttl_ms_max: *ttl, ..offer(names[*i], *cpu, *price) }, *rtt)).collect();
        input.ids.holds = (0..ids).map(|n| (ReservationId::from_entropy(n), LeaseId::from_entropy(n))).collect();
        input.parent = number.map(|number| Parent { id: PlanId::from_entropy(7), number });
        input.bundle_bytes = bundle;
        input
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn every_plan_passes_its_lint(input in any_input()) {
        match plan(&input) {
            Ok(made) => {
                prop_assert_eq!(faults(&made, &input), []);
                prop_assert_eq!(&plan(&input).unwrap(), &made);
                let have: u32 = input.parts.iter().filter(|p| !p.recalled).map(|p| p.instances).sum();
                let kept: u32 = made.parts.iter().map(|p| p.instances).sum();
                let got = kept + made.borrow.as_ref().map_or(0, |b| b.requirement.instances);
                let wanted = input.verdict.borrowed_wanted.min(input.service.spec.borrowing.instances_max);
                prop_assert!(got <= wanted.max(have));
                if wanted <= have { prop_assert_eq!(got, wanted); }
                let text = serde_json::to_string(&made).unwrap();
                prop_assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), made.clone());
                prop_assert!(!describe(&made).is_empty());
            }
            Err(none) => prop_assert!(!none.reasons.is_empty()),
        }
    }
}

#[test]
fn whether_a_service_can_be_lent_does_not_hang_on_the_load_of_now() {
    let mut asked = input(0);
    // No room anywhere, failed lately, as many journeys as are allowed: it could be lent all the same.
    for (offer, _) in &mut asked.offers {
        offer.free = Resources { cpu_millis: 0, memory_mib: 0 };
        asked.excluded.push((offer.cloud.clone(), "failed".into()));
    }
    (asked.spent.moves_last_hour, asked.spent.new_journey) = (1_000, true);
    assert!(plan(&asked).is_err());
    make::lendable(&asked).unwrap();
    let what = |asked: &PlanInput| -> Vec<String> {
        make::lendable(asked).unwrap_err().reasons.into_iter().map(|r| r.what).collect()
    };
    let mut java = asked.clone();
    java.service.spec.application.platform.runtimes = vec!["java".into()];
    assert!(what(&java).contains(&"platform".to_owned()));
    let mut calls = asked.clone();
    calls.service.spec.application.egress = vec!["192.0.2.1:443".into()];
    assert!(what(&calls).contains(&"egress".to_owned()));
    let mut large = asked.clone();
    large.dataset_bytes = large.service.spec.borrowing.bytes_max + 1;
    assert_eq!(what(&large), ["bytes_ceiling"]);
    let mut dear = asked;
    dear.service.spec.borrowing.money_per_hour_max = Money(0);
    assert!(what(&dear).contains(&"money_ceiling".to_owned()));
}
