//! A standby in its journeys: kept, let help, kept again; never given back because it is silent or slow.
#![allow(clippy::unwrap_used)]

use pumasi_journey::record::{Outcome, Phase};
use pumasi_journey::{
    Act, Event, Facts, Journey, Part, PartFacts, PartState, acts, adopt, apply, cancel, open, renewals, standby, step,
    tick,
};
use pumasi_judge::{Cause, Verdict};
use pumasi_lease::message::{LeaseStatus, ReservationGrant};
use pumasi_lease::{LentState, Usage};
use pumasi_plan::document::{Borrow, Candidate, PLAN_VERSION, Part as PlanPart, Plan, Role, Switchover};
use pumasi_terms::offer::Requirement;
use pumasi_terms::service::{AutomationMode, Platform, RouteMode};
use pumasi_terms::*;

const WARM: u32 = 1;

fn at(ms: u64) -> Now {
    Now { boot: BootMs(1_000_000 + ms), wall: WallMs(1_000_000 + ms as i64) }
}
fn service() -> ServiceName {
    ServiceName::parse("notes").unwrap()
}
fn keeper_cloud() -> CloudName {
    CloudName::parse("city-c").unwrap()
}
fn lease() -> LeaseId {
    LeaseId::from_entropy(1)
}

fn plan(n: u128, journey: u128, cause: Cause, borrow: Option<Borrow>, parts: Vec<PlanPart>) -> Plan {
    Plan {
        version: PLAN_VERSION,
        id: PlanId::from_entropy(n),
        journey: JourneyId::from_entropy(journey),
        number: 1,
        parent: None,
        service: service(),
        epoch: Epoch(1),
        created_at: WallMs(0),
        verdict: Verdict { service: service(), cause, at: WallMs(0), borrowed_wanted: 0, reasons: Vec::new() },
        mode: AutomationMode::Automatic,
        borrow,
        parts,
        application: Digest([1; 32]),
        datasets: Vec::new(),
        route: Switchover { mode: RouteMode::Proxy, start: Ppm(400_000), step: Ppm(200_000), step_ms: 100 },
        cost_per_hour_max: Money(0),
        bytes_max: 0,
    }
}

fn search() -> Borrow {
    Borrow {
        requirement: Requirement {
            service: service(),
            platform: Platform::default(),
            resources: Resources { cpu_millis: 100, memory_mib: 64 },
            instances: 2,
            instances_min: 2,
            storage_bytes: 1 << 20,
            price_per_instance_hour_max: Money(20_000),
            egress: Vec::new(),
            standby: Some(Standby { warm: WARM, retain_ms: 3_600_000 }),
        },
        candidates: vec![Candidate {
            cloud: keeper_cloud(),
            reservation: ReservationId::from_entropy(1),
            lease: lease(),
            price_per_instance_hour: Money(10_000),
            standby_percent: Some(20),
            rtt_us: 5_000,
            score: 1,
            why: "near".into(),
        }],
        hold_ttl_ms: 5_000,
        lease_ttl_ms: 4_000,
        answer_timeout_ms: 800,
    }
}

fn part(role: Role, instances: u32) -> PlanPart {
    PlanPart { lease: lease(), cloud: keeper_cloud(), role, instances }
}

fn heard(ready: u32, ms: u64) -> Event {
    let status = LeaseStatus {
        lease: lease(),
        state: Some(LentState::Active),
        expires_in_ms: 4_000,
        recall_in_ms: None,
        instances_ready: ready,
        instances_starting: 0,
        trouble: None,
        last_line: String::new(),
        generation: 1,
        usage: Usage::default(),
        standby: true,
    };
    Event::Heard { status, sent_at: at(ms).boot }
}

fn facts(drained: bool) -> Facts {
    let parts = [(lease(), PartFacts { drained, healthy: true })].into();
    Facts { home_ready: 1, parts }
}

fn granted() -> Event {
    let grant = ReservationGrant {
        id: ReservationId::from_entropy(1),
        instances: 2,
        price_per_instance_hour: Money(10_000),
        expires_in_ms: 5_000,
        lease_ttl_ms_max: 4_000,
        recall_notice_ms: 5_000,
        standby_percent: Some(20),
        estimated_start_ms: 500,
    };
    Event::Granted { reservation: grant.id.clone(), grant }
}

/// The journey that keeps it, up to where it is kept with its warm instance, at 3 s.
fn kept() -> (Journey, Plan) {
    let plan = plan(1, 1, Cause::Continuity, Some(search()), Vec::new());
    let (mut j, _) = open(plan.journey.clone(), &plan, Vec::new(), at(0));
    let events = [
        granted(),
        Event::Signed { lease: lease() },
        Event::Sent { lease: lease(), generation: 1 },
        heard(WARM, 3_000),
    ];
    for (n, event) in events.into_iter().enumerate() {
        let now = at(n as u64 * 1_000);
        j = apply(&j, &plan, event, now).0;
        j = tick(&j, &plan, &facts(false), now).0;
    }
    assert_eq!(state(&j), PartState::Kept);
    (j, plan)
}

fn only(j: &Journey) -> Part {
    j.part(&lease()).unwrap().clone()
}
fn state(j: &Journey) -> PartState {
    only(j).state
}

#[test]
fn what_is_kept_runs_warm_and_serves_nobody() {
    let (j, plan) = kept();
    assert_eq!(renewals(&j, &keeper_cloud())[0].instances, WARM);
    assert_eq!((only(&j).weight, j.serving(), j.coming()), (Ppm(0), 0, 0));
    let dossier = Digest([7; 32]);
    assert_eq!(acts(&j, 1, Some(dossier)), [Act::Inform { lease: lease(), dossier }]);
    let informed = apply(&j, &plan, Event::Informed { lease: lease(), dossier }, at(3_100)).0;
    assert!(acts(&informed, 1, Some(dossier)).is_empty());
    assert_eq!(acts(&informed, 2, Some(dossier)), [Act::Send { lease: lease(), generation: 2 }]);
}

#[test]
fn neither_silence_nor_a_reboot_gives_it_back() {
    let (mut j, plan) = kept();
    for hours in 1..50 {
        j = tick(&j, &plan, &facts(false), at(hours * 3_600_000)).0;
    }
    assert_eq!(state(&j), PartState::Kept);
    let rebooted = Now { boot: BootMs(10), wall: WallMs(9_000_000) };
    let after = step::after_reboot(&j, rebooted);
    assert_eq!(state(&tick(&after, &plan, &facts(false), rebooted).0), PartState::Kept);
}

#[test]
fn what_its_lender_has_no_more_is_over() {
    let (j, plan) = kept();
    let Event::Heard { status, sent_at } = heard(0, 4_000) else { unreachable!() };
    let gone = Event::Heard { status: LeaseStatus { state: None, ..status }, sent_at };
    assert!(matches!(state(&apply(&j, &plan, gone, at(4_100)).0), PartState::Ending { .. }));
}

/// The load's journey, helped by the standby, and its keeper.
fn helped(instances: u32) -> (Journey, Plan, Journey) {
    let (keeper, _) = kept();
    let overload = plan(2, 2, Cause::Overload, None, vec![part(Role::Serving, instances)]);
    let (keeper, seat) = standby::take(&keeper, &lease()).unwrap();
    let (j, _) = open(overload.journey.clone(), &overload, vec![seat], at(3_500));
    (j, overload, keeper)
}

#[test]
fn a_warm_standby_helps_at_the_next_look() {
    let (j, plan, keeper) = helped(2);
    let j = tick(&j, &plan, &facts(false), at(3_510)).0;
    assert_eq!(state(&j), PartState::Serving);
    assert!(only(&j).weight > Ppm(0));
    assert_eq!(renewals(&j, &keeper_cloud())[0].instances, 2, "more are started there");
    // Its keeper goes on, though it has nothing now.
    let going_on = tick(&keeper, &kept().1, &facts(false), at(60_000)).0;
    assert!(going_on.is_open());
}

#[test]
fn what_helped_drains_and_goes_back_to_its_keeper() {
    let (j, plan1, keeper) = helped(2);
    let j = tick(&j, &plan1, &facts(false), at(3_510)).0;
    let recovery = Plan { number: 2, ..plan(3, 2, Cause::Recovery, None, vec![part(Role::Standby, 0)]) };
    let j = adopt(&j, &recovery, at(5_000)).0;
    assert_eq!((state(&j), only(&j).weight), (PartState::Resting, Ppm(0)));
    assert_eq!(renewals(&j, &keeper_cloud())[0].instances, WARM, "those that answer still are not stopped");
    let early = tick(&j, &recovery, &facts(false), at(6_000)).0;
    assert_eq!(state(&early), PartState::Resting, "requests are in flight");
    let j = tick(&early, &recovery, &facts(true), at(6_000)).0;
    assert_eq!(standby::rested(&j), [lease()]);
    let (j, keeper) = standby::give_back(&j, &keeper, &lease()).unwrap();
    assert_eq!(state(&keeper), PartState::Kept);
    assert!(keeper.away.is_empty());
    let closed = tick(&j, &recovery, &facts(true), at(6_100)).0;
    assert!(matches!(closed.phase, Phase::Closed { outcome: Outcome::Returned, .. }), "{:?}", closed.phase);
}

#[test]
fn help_that_fails_or_is_cancelled_is_kept_all_the_same() {
    let (j, plan, _) = helped(2);
    let serving = tick(&j, &plan, &facts(false), at(3_510)).0;
    assert_eq!(state(&cancel(&serving, "an operator", at(4_000)).0), PartState::Resting);
    // Its lease is not renewed in time: users are sent there no more, and nothing is given back.
    let silent = tick(&serving, &plan, &facts(false), at(8_000)).0;
    assert_eq!((state(&silent), only(&silent).weight), (PartState::Resting, Ppm(0)));
    assert_eq!(state(&tick(&silent, &plan, &facts(false), at(8_100)).0), PartState::Kept);
    // Nothing gets ready there.
    let mut cold = apply(&j, &plan, heard(0, 3_500), at(3_500)).0;
    for s in 4..70 {
        cold = apply(&cold, &plan, heard(0, s * 1_000), at(s * 1_000)).0;
        cold = tick(&cold, &plan, &facts(false), at(s * 1_000)).0;
    }
    assert_eq!(state(&cold), PartState::Resting);
    let cold = tick(&cold, &plan, &facts(true), at(71_000)).0;
    assert_eq!(state(&cold), PartState::Kept);
}

#[test]
fn a_lender_that_failed_is_asked_again_after_a_while() {
    let plan = plan(1, 1, Cause::Continuity, Some(search()), Vec::new());
    let (j, _) = open(plan.journey.clone(), &plan, Vec::new(), at(0));
    let refused = Event::NotGranted { reservation: ReservationId::from_entropy(1), why: "no room".into() };
    let j = tick(&apply(&j, &plan, refused, at(10)).0, &plan, &facts(false), at(10)).0;
    assert_eq!(j.failed, [keeper_cloud()]);
    let j = tick(&j, &plan, &facts(false), at(59_000)).0;
    assert_eq!(j.failed, [keeper_cloud()]);
    assert!(tick(&j, &plan, &facts(false), at(61_000)).0.failed.is_empty());
}

#[test]
fn what_was_given_up_while_it_was_signed_is_not_unknown_there_before_its_hold_ran_out() {
    let plan = plan(1, 1, Cause::Continuity, Some(search()), Vec::new());
    let (j, _) = open(plan.journey.clone(), &plan, Vec::new(), at(0));
    let j = tick(&apply(&j, &plan, granted(), at(10)).0, &plan, &facts(false), at(10)).0;
    assert_eq!(state(&j), PartState::Signing);
    let hold_ends = only(&j).expires_at.since(at(0).boot);
    let mut j = cancel(&j, "an operator", at(20)).0;
    j = apply(&j, &plan, Event::Returned { lease: lease() }, at(30)).0;
    j = tick(&j, &plan, &facts(true), at(30)).0;
    // The signature may still be under way.
    let asked = |j: &Journey, ms| {
        tick(&apply(j, &plan, Event::Unknown { lease: lease() }, at(ms)).0, &plan, &facts(true), at(ms)).0
    };
    assert!(!only(&asked(&j, hold_ends - 1)).is_over());
    let j = asked(&j, hold_ends);
    assert!(matches!(state(&j), PartState::Ended { proven: true, .. }), "{:?}", state(&j));
}
