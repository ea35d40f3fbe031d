//! A standby at its lender: silence, reboots, set clocks and recalls end nothing that may be the last copy; a release and its promise do.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use pumasi_lease::document::{KIND, Lease};
use pumasi_lease::ledger::{self, Capacity};
use pumasi_lease::message::{Renewal, ReservationRequest};
use pumasi_lease::record::{EndedBy, LentLease, LentState};
use pumasi_lease::{Book, Code, Transition, meter};
use pumasi_terms::offer::Requirement;
use pumasi_terms::pact::Terms;
use pumasi_terms::service::Platform;
use pumasi_terms::*;

const TTL_MS: u64 = 10_000;
const RETAIN_MS: u64 = 100 * 3_600_000;

fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

fn capacity(standby_percent: Option<u32>) -> Capacity {
    Capacity {
        terms: Terms { lends: Resources { cpu_millis: 2_000, memory_mib: 2_048 }, ..Terms::default() },
        physical: Resources { cpu_millis: 4_000, memory_mib: 4_096 },
        gives_way: Resources::default(),
        home_use: Resources::default(),
        platforms: vec![Platform::default()],
        storage_free_bytes: 1 << 40,
        egress: Vec::new(),
        own_addresses: Vec::new(),
        standby_percent,
    }
}

fn request(standby: Standby) -> ReservationRequest {
    let requirement = Requirement {
        service: ServiceName::parse("shop").unwrap(),
        platform: Platform::default(),
        resources: Resources { cpu_millis: 250, memory_mib: 128 },
        instances: 3,
        instances_min: 3,
        storage_bytes: 1 << 20,
        price_per_instance_hour_max: Money(25_000),
        egress: Vec::new(),
        standby: Some(standby),
    };
    ReservationRequest { id: ReservationId::from_entropy(1), requirement, ttl_ms: 4_000 }
}

fn at(ms: u64) -> Now {
    Now { boot: BootMs(ms), wall: WallMs(1_000_000 + ms as i64) }
}

/// A book with one standby: room for three, one of them running.
fn kept() -> Book {
    let (mut book, capacity) = (Book::default(), capacity(Some(20)));
    let standby = Standby { warm: 1, retain_ms: RETAIN_MS };
    let hold = ledger::reserve(&book, &capacity, &cloud("a"), &request(standby), at(0)).unwrap();
    assert_eq!(hold.standby_percent, Some(20));
    book.apply(Transition::Hold(Box::new(hold.clone())));
    let lease = Lease {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        id: LeaseId::from_entropy(1),
        serial: Serial(1),
        pact: PactId::from_entropy(1),
        pact_serial: Serial(1),
        reservation: hold.id.clone(),
        borrower: hold.borrower.clone(),
        lender: cloud("lender"),
        service: hold.requirement.service.clone(),
        epoch: Epoch(1),
        requirement: hold.requirement.clone(),
        instances: hold.instances,
        price_per_instance_hour: hold.price_per_instance_hour,
        standby_percent: hold.standby_percent,
        ttl_ms: TTL_MS,
        recall_notice_ms: Terms::default().recall_notice_ms,
        application: Digest([1; 32]),
        datasets: Vec::new(),
        hosts: Vec::new(),
        created_at: WallMs(1_000_000),
    };
    let other = Lease { standby_percent: Some(19), ..lease.clone() };
    assert_eq!(ledger::confirm(&book, &capacity, &other, at(0)).unwrap_err().code, Code::Mismatch);
    let lent = ledger::confirm(&book, &capacity, &lease, at(0)).unwrap();
    book.apply(Transition::Lease(Box::new(lent)));
    book
}

fn only(book: &Book) -> LentLease {
    LentLease::clone(book.leases().next().unwrap())
}

/// As the lender looks after its book.
fn look(book: &mut Book, now: Now) {
    for transition in ledger::expire(book, now) {
        book.apply(transition);
    }
}

fn renew(book: &mut Book, instances: u32, now: Now) -> Result<(), Code> {
    let lent = only(book);
    let renewal = Renewal { lease: lent.id().clone(), epoch: Epoch(1), instances, behind_ms: None };
    let renewed = ledger::renew(&lent, &renewal, now).map_err(|e| e.code)?;
    book.put(renewed);
    Ok(())
}

#[test]
fn silence_ends_it_only_after_what_was_promised() {
    let mut book = kept();
    renew(&mut book, 3, at(1_000)).unwrap();
    look(&mut book, at(1_000 + TTL_MS));
    let silent = only(&book);
    assert_eq!((&silent.state, silent.instances_wanted), (&LentState::Active, 1), "what is warm stays");
    let since = silent.silence.clone().unwrap().since;
    assert_eq!(since, at(1_000).wall, "when the renewal was sent, about");
    for hours in 1..100 {
        look(&mut book, at(hours * 3_600_000));
    }
    assert!(only(&book).usable());
    assert_eq!(only(&book).silence.unwrap().since, since);
    look(&mut book, at(1_000 + TTL_MS + RETAIN_MS));
    assert_eq!(only(&book).state, LentState::Ending { why: EndedBy::Retention });
}

#[test]
fn who_is_heard_again_goes_on_where_it_was() {
    let mut book = kept();
    look(&mut book, at(50_000));
    assert!(only(&book).silence.is_some());
    renew(&mut book, 2, at(60_000)).unwrap();
    look(&mut book, at(60_001));
    let heard = only(&book);
    assert_eq!((heard.silence, heard.instances_wanted, heard.expires_at), (None, 2, BootMs(70_000)));
}

#[test]
fn a_reboot_keeps_it_and_counts_on() {
    let mut book = kept();
    look(&mut book, at(20_000));
    look(&mut book, at(20_000 + 90 * 3_600_000));
    for _ in 0..3 {
        for transition in ledger::after_reboot(&book, at(5)) {
            book.apply(transition);
        }
        look(&mut book, at(10));
        assert!(only(&book).usable());
    }
    look(&mut book, at(5 + 9 * 3_600_000));
    assert!(only(&book).usable());
    look(&mut book, at(6 + 10 * 3_600_000));
    assert_eq!(only(&book).state, LentState::Ending { why: EndedBy::Retention });
}

#[test]
fn a_wall_clock_that_is_set_forward_ends_nothing() {
    let mut book = kept();
    look(&mut book, at(20_000));
    for ms in [20_001, 20_002, 4_000_000] {
        look(&mut book, Now { boot: BootMs(ms), wall: WallMs(1 << 50) });
    }
    assert!(only(&book).usable());
}

#[test]
fn a_recall_stops_what_runs_and_keeps_what_is_kept() {
    let mut book = kept();
    let recalled = ledger::recall(&only(&book), "room is needed", at(1_000)).unwrap();
    book.put(recalled);
    look(&mut book, at(7_000));
    let stopped = only(&book);
    assert!(stopped.usable() && stopped.instances_wanted == 0, "{stopped:?}");
    assert_eq!(renew(&mut book, 1, at(7_001)), Err(Code::LeaseEnded), "nothing runs there any more");
    let released = ledger::release(&only(&book), at(8_000));
    assert_eq!(released.state, LentState::Ending { why: EndedBy::Release });
}

#[test]
fn room_is_paid_from_the_signing_to_the_end() {
    let mut book = kept();
    look(&mut book, at(50_000));
    assert_eq!(only(&book).used(at(60_000)).reserved_instance_ms, 180_000, "also in silence");
    let ended = ledger::release(&only(&book), at(3_600_000));
    assert_eq!(ended.usage.reserved_instance_ms, 3 * 3_600_000);
    assert_eq!(ended.used(at(9_000_000)), ended.usage, "and no longer");
    // Three instances for an hour, at a fifth of 12,500.
    let settlement = meter::settlement(&ended.lease, ended.usage, ended.usage, WallMs(0));
    assert_eq!((settlement.agreed, settlement.amount), (true, Money(7_500)));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let ask = |percent, standby| {
        ledger::reserve(&Book::default(), &capacity(percent), &cloud("a"), &request(standby), at(0)).unwrap_err().code
    };
    let good = Standby { warm: 1, retain_ms: RETAIN_MS };
    assert_eq!(ask(None, good), Code::NoStandby);
    assert_eq!(ask(Some(20), Standby { warm: 4, ..good }), Code::BadRequest);
    assert_eq!(ask(Some(20), Standby { retain_ms: 0, ..good }), Code::BadRequest);
    assert_eq!(ask(Some(20), Standby { retain_ms: u64::MAX, ..good }), Code::BadRequest);
}

proptest! {
    /// Whatever time, reboots, renewals and recalls do: it binds until it was released, or has been silent for as long as was promised.
    #[test]
    fn only_a_release_or_its_promise_ends_it(acts in prop::collection::vec((0u8..5, 0u64..20 * 3_600_000), 1..120)) {
        let mut book = kept();
        let (mut now_ms, mut silent_ms) = (0u64, 0u64);
        for (act, ms) in acts {
            match act {
                0 => {
                    for transition in ledger::after_reboot(&book, at(0)) {
                        book.apply(transition);
                    }
                    now_ms = 0;
                }
                1 => {
                    if renew(&mut book, 2, at(now_ms)).is_ok() {
                        silent_ms = 0;
                    }
                }
                2 if ms % 7 == 0 => {
                    if let Ok(recalled) = ledger::recall(&only(&book), "x", at(now_ms)) {
                        book.put(recalled);
                    }
                }
                _ => {
                    now_ms += ms;
                    silent_ms += ms;
                }
            }
            look(&mut book, at(now_ms));
            match only(&book).state {
                LentState::Active | LentState::Recalled { .. } => prop_assert!(only(&book).binds()),
                LentState::Ending { why } => {
                    prop_assert_eq!(why, EndedBy::Retention);
                    prop_assert!(silent_ms >= RETAIN_MS, "ended after {silent_ms} ms of silence");
                    return Ok(());
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}

#[test]
fn what_makes_way_is_room_for_a_standby_of_which_nothing_runs_and_for_nobody_else() {
    let all = Resources { cpu_millis: 4_000, memory_mib: 4_096 };
    let full = Capacity { home_use: all, gives_way: all, ..capacity(Some(20)) };
    let book = Book::default();
    let offered = ledger::offer(&book, &full, &cloud("a"), &cloud("b"), at(0));
    assert_eq!((offered.free, offered.standby_free), (Resources::default(), Some(full.terms.lends)));
    let idle = Standby { warm: 0, retain_ms: RETAIN_MS };
    let of = |standby| ledger::reserve(&book, &full, &cloud("a"), &request(standby), at(0));
    assert_eq!(of(idle).unwrap().instances, 3);
    assert_eq!(of(Standby { warm: 1, ..idle }).unwrap_err().code, Code::NoRoom);
    // Where nothing makes way nothing is said of it.
    let plain = ledger::offer(&book, &capacity(Some(20)), &cloud("a"), &cloud("b"), at(0));
    assert_eq!(plain.standby_free, None);
}
