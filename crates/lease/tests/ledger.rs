//! The lender's ledger under every order of acts: it never oversells, and what ended stays ended.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use pumasi_lease::document::{KIND, Lease};
use pumasi_lease::ledger::{self, Capacity};
use pumasi_lease::message::{Emptiness, Renewal, ReservationGrant, ReservationRequest};
use pumasi_lease::record::{EndedBy, Hold, LentLease, LentState};
use pumasi_lease::{Book, Code, Transition, choose};
use pumasi_plan::Candidate;
use pumasi_terms::offer::Requirement;
use pumasi_terms::pact::Terms;
use pumasi_terms::service::Platform;
use pumasi_terms::*;

fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

fn capacity() -> Capacity {
    Capacity {
        terms: Terms {
            lends: Resources { cpu_millis: 2_000, memory_mib: 2_048 },
            storage_bytes: 1 << 30,
            share_per_borrower_percent: 75,
            holds_per_borrower: 3,
            price_per_cpu_hour: Money(100_000),
            recall_notice_ms: 5_000,
            hold_ttl_ms_max: 10_000,
            lease_ttl_ms_max: 30_000,
            borrowers: Vec::new(),
            gives_way: Default::default(),
        },
        physical: Resources { cpu_millis: 4_000, memory_mib: 4_096 },
        home_use: Resources { cpu_millis: 2_200, memory_mib: 512 },
        platforms: vec![Platform { runtimes: vec!["python3".into()], ..Platform::default() }],
        storage_free_bytes: 1 << 31,
        egress: vec!["203.0.113.0/24:443".parse().unwrap(), "0.0.0.0/0:5432".parse().unwrap()],
        own_addresses: vec!["203.0.113.9".parse().unwrap()],
        gives_way: Resources::default(),
        standby_percent: None,
    }
}

fn need(instances: u32, instances_min: u32) -> Requirement {
    Requirement {
        service: ServiceName::parse("shop").unwrap(),
        platform: Platform::default(),
        resources: Resources { cpu_millis: 250, memory_mib: 128 },
        instances,
        instances_min,
        storage_bytes: 1 << 20,
        price_per_instance_hour_max: Money(25_000),
        egress: Vec::new(),
        standby: None,
    }
}

fn request(n: u128, need: Requirement) -> ReservationRequest {
    ReservationRequest { id: ReservationId::from_entropy(n), requirement: need, ttl_ms: 4_000 }
}

fn document(hold: &Hold, n: u128) -> Lease {
    Lease {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        id: LeaseId::from_entropy(n),
        serial: Serial(1),
        pact: PactId::from_entropy(1),
        pact_serial: Serial(1),
        reservation: hold.id.clone(),
        borrower: hold.borrower.clone(),
        lender: cloud("lender"),
        service: hold.requirement.service.clone(),
        epoch: Epoch(3),
        requirement: hold.requirement.clone(),
        instances: hold.instances,
        price_per_instance_hour: hold.price_per_instance_hour,
        ttl_ms: 10_000,
        recall_notice_ms: 5_000,
        application: Digest([1; 32]),
        datasets: Vec::new(),
        hosts: Vec::new(),
        created_at: WallMs(1),
        standby_percent: None,
    }
}

fn at(ms: u64) -> Now {
    Now { boot: BootMs(ms), wall: WallMs(1_000_000) }.plus(0)
}

fn lent(book: &mut Book, n: u128, now: Now) -> LentLease {
    let hold = ledger::reserve(book, &capacity(), &cloud("a"), &request(n, need(2, 1)), now).unwrap();
    book.apply(Transition::Hold(Box::new(hold.clone())));
    let lent = ledger::confirm(book, &capacity(), &document(&hold, n), now).unwrap();
    book.apply(Transition::Lease(Box::new(lent.clone())));
    lent
}

fn code<T: std::fmt::Debug>(result: Result<T, pumasi_lease::Refused>) -> Code {
    result.unwrap_err().code
}

#[test]
fn a_hold_grants_what_there_is() {
    let (mut book, cap) = (Book::default(), capacity());
    // 1800 cpu_millis are lendable (physical less home use), 1500 of them to one borrower.
    let hold = ledger::reserve(&book, &cap, &cloud("a"), &request(1, need(10, 1)), at(0)).unwrap();
    assert_eq!(hold.instances, 6);
    assert_eq!(hold.price_per_instance_hour, Money(25_000));
    assert_eq!(hold.expires_at, BootMs(4_000));
    book.apply(Transition::Hold(Box::new(hold.clone())));
    assert_eq!(ledger::reserve(&book, &cap, &cloud("a"), &request(1, need(10, 1)), at(100)).unwrap(), hold);
    assert_eq!(code(ledger::reserve(&book, &cap, &cloud("b"), &request(1, need(10, 1)), at(0))), Code::IdConflict);
    assert_eq!(code(ledger::reserve(&book, &cap, &cloud("a"), &request(2, need(1, 1)), at(0))), Code::ShareQuota);
    assert_eq!(ledger::reserve(&book, &cap, &cloud("b"), &request(3, need(4, 1)), at(0)).unwrap().instances, 1);
    let refused = ledger::reserve(&book, &cap, &cloud("b"), &request(3, need(4, 2)), at(0)).unwrap_err();
    assert_eq!((refused.code, refused.retry_after_ms), (Code::NoRoom, Some(4_000)));
    // The hold runs out, the room is free again, the id is not.
    assert_eq!(ledger::reserve(&book, &cap, &cloud("b"), &request(3, need(4, 2)), at(4_000)).unwrap().instances, 4);
    assert_eq!(code(ledger::reserve(&book, &cap, &cloud("a"), &request(1, need(10, 1)), at(4_000))), Code::HoldExpired);
}

#[test]
fn terms_bound_who_may_have_what() {
    let (book, mut cap) = (Book::default(), capacity());
    let ask = |cap: &Capacity, need| ledger::reserve(&Book::default(), cap, &cloud("a"), &request(1, need), at(0));
    assert_eq!(code(ask(&cap, Requirement { price_per_instance_hour_max: Money(24_999), ..need(1, 1) })), Code::Price);
    let ruby = Platform { runtimes: vec!["ruby".into()], ..Platform::default() };
    assert_eq!(code(ask(&cap, Requirement { platform: ruby, ..need(1, 1) })), Code::Platform);
    assert_eq!(code(ask(&cap, Requirement { storage_bytes: 1 << 31, ..need(1, 1) })), Code::NoStorage);
    assert_eq!(code(ask(&cap, Requirement { resources: Resources::default(), ..need(1, 1) })), Code::BadRequest);
    assert_eq!(code(ask(&cap, need(1, 2))), Code::BadRequest);
    cap.terms.borrowers = vec![cloud("b")];
    assert_eq!(code(ask(&cap, need(1, 1))), Code::NotABorrower);
    assert_eq!(ledger::offer(&book, &cap, &cloud("a"), &cloud("l"), at(0)).free, Resources::default());
    assert_eq!(
        ledger::offer(&book, &cap, &cloud("b"), &cloud("l"), at(0)).free,
        Resources { cpu_millis: 1_500, memory_mib: 1_536 }
    );
}

#[test]
fn holds_of_one_borrower_are_counted() {
    let (mut book, cap) = (Book::default(), capacity());
    for n in 0..3 {
        let hold = ledger::reserve(&book, &cap, &cloud("a"), &request(n, need(1, 1)), at(0)).unwrap();
        book.apply(Transition::Hold(Box::new(hold)));
    }
    assert_eq!(code(ledger::reserve(&book, &cap, &cloud("a"), &request(9, need(1, 1)), at(0))), Code::HoldsQuota);
    assert!(ledger::reserve(&book, &cap, &cloud("b"), &request(9, need(1, 1)), at(0)).is_ok());
}

#[test]
fn a_lease_rests_on_its_hold() {
    let (mut book, cap) = (Book::default(), capacity());
    let hold = ledger::reserve(&book, &cap, &cloud("a"), &request(1, need(2, 1)), at(0)).unwrap();
    let lease = document(&hold, 1);
    assert_eq!(code(ledger::confirm(&book, &cap, &lease, at(0))), Code::NoHold);
    book.apply(Transition::Hold(Box::new(hold)));
    assert_eq!(code(ledger::confirm(&book, &cap, &lease, at(4_000))), Code::HoldExpired);
    let wrong = |change: fn(&mut Lease)| {
        let mut other = lease.clone();
        change(&mut other);
        code(ledger::confirm(&book, &cap, &other, at(1)))
    };
    assert_eq!(wrong(|l| l.instances += 1), Code::Mismatch);
    assert_eq!(wrong(|l| l.price_per_instance_hour = Money(1)), Code::Mismatch);
    assert_eq!(wrong(|l| l.requirement.instances = 9), Code::Mismatch);
    assert_eq!(wrong(|l| l.ttl_ms = 30_001), Code::Mismatch);
    assert_eq!(wrong(|l| l.recall_notice_ms = 600_000), Code::Mismatch);
    assert_eq!(wrong(|l| l.borrower = cloud("b")), Code::NotYours);
    assert_eq!(wrong(|l| l.kind = "Gift".into()), Code::BadRequest);
    let lent = ledger::confirm(&book, &cap, &lease, at(1)).unwrap();
    book.apply(Transition::Lease(Box::new(lent.clone())));
    assert!(book.holds.is_empty());
    assert_eq!(ledger::confirm(&book, &cap, &lease, at(5)).unwrap(), lent);
    assert_eq!(
        code(ledger::confirm(&book, &cap, &Lease { id: LeaseId::from_entropy(2), ..lease.clone() }, at(5))),
        Code::NoHold
    );
    // A newer serial brings a new application; it cannot bring more room.
    let newer = Lease { serial: Serial(2), application: Digest([2; 32]), ..lease.clone() };
    book.apply(Transition::Lease(Box::new(ledger::confirm(&book, &cap, &newer, at(6)).unwrap())));
    assert_eq!(code(ledger::confirm(&book, &cap, &lease, at(7))), Code::OlderSerial);
    assert_eq!(
        code(ledger::confirm(&book, &cap, &Lease { serial: Serial(3), instances: 3, ..newer }, at(7))),
        Code::Mismatch
    );
}

#[test]
fn a_lease_lives_by_renewal_and_ends_once() {
    let mut book = Book::default();
    let first = lent(&mut book, 1, at(0));
    let renewal = Renewal { lease: first.id().clone(), epoch: Epoch(3), instances: 9, behind_ms: None };
    let second = ledger::renew(&first, &renewal, at(9_000)).unwrap();
    assert_eq!((second.expires_at, second.instances_wanted), (BootMs(19_000), 2));
    assert_eq!(code(ledger::renew(&first, &renewal, at(10_000))), Code::LeaseEnded);
    assert_eq!(code(ledger::renew(&first, &Renewal { epoch: Epoch(2), ..renewal.clone() }, at(1))), Code::OlderEpoch);
    // A newer epoch is remembered.
    let third = ledger::renew(&second, &Renewal { epoch: Epoch(4), ..renewal.clone() }, at(9_500)).unwrap();
    assert_eq!(code(ledger::renew(&third, &renewal, at(9_600))), Code::OlderEpoch);

    let recalled = ledger::recall(&second, "own users", at(10_000)).unwrap();
    assert_eq!(ledger::renew(&recalled, &renewal, at(14_999)).unwrap().expires_at, BootMs(15_000));
    assert_eq!(ledger::recall(&recalled, "again", at(14_000)).unwrap(), recalled);
    book.apply(Transition::Lease(Box::new(recalled)));
    assert!(ledger::expire(&book, at(14_999)).is_empty());
    let over = ledger::expire(&book, at(15_000));
    let Transition::Lease(ending) = &over[0] else { panic!("{over:?}") };
    assert_eq!(ending.state, LentState::Ending { why: EndedBy::Recall });
    assert!(ending.binds());
    assert_eq!(
        code(ledger::ended(ending, &Emptiness { files: 1, ..Emptiness::default() }, at(16_000))),
        Code::NotEmpty
    );
    assert_eq!(code(ledger::settle(ending, at(16_000))), Code::NotEnded);
    let ended = ledger::ended(ending, &Emptiness::default(), at(16_000)).unwrap();
    assert_eq!(ledger::ended(&ended, &Emptiness { files: 1, ..Emptiness::default() }, at(17_000)).unwrap(), ended);
    assert_eq!(code(ledger::renew(&ended, &Renewal { epoch: Epoch(9), ..renewal }, at(16_001))), Code::LeaseEnded);
    let settled = ledger::settle(&ended, at(18_000)).unwrap();
    assert_eq!(ledger::release(&settled, at(19_000)), settled);
    assert!(!settled.binds());
}

#[test]
fn a_reboot_forfeits() {
    let mut book = Book::default();
    lent(&mut book, 1, at(500_000));
    let hold = ledger::reserve(&book, &capacity(), &cloud("b"), &request(2, need(1, 1)), at(500_000)).unwrap();
    book.apply(Transition::Hold(Box::new(hold)));
    // The new clock is behind every stored instant: by time alone nothing would end for minutes.
    ledger::after_reboot(&book, at(10)).into_iter().for_each(|t| book.apply(t));
    assert!(book.holds.is_empty());
    assert!(book.leases().all(|l| l.state == LentState::Ending { why: EndedBy::Expiry }));
}

#[test]
fn the_choice_follows_the_rule() {
    let candidate = |name: &str, n: u128, score| Candidate {
        cloud: cloud(name),
        reservation: ReservationId::from_entropy(n),
        lease: LeaseId::from_entropy(n),
        price_per_instance_hour: Money(25_000),
        rtt_us: 1,
        score,
        why: String::new(),
        standby_percent: None,
    };
    let grant = |n: u128, instances, price| ReservationGrant {
        id: ReservationId::from_entropy(n),
        instances,
        price_per_instance_hour: Money(price),
        expires_in_ms: 5_000,
        lease_ttl_ms_max: 10_000,
        recall_notice_ms: 5_000,
        estimated_start_ms: 100,
        standby_percent: None,
    };
    let need = need(3, 1);
    let pick = |grants: &[(Candidate, Option<ReservationGrant>)]| choose(&need, grants).map(|c| c.cloud.to_string());
    let (b, c, d) = (candidate("b", 1, 10), candidate("c", 2, 20), candidate("d", 3, 30));
    let full = |n| Some(grant(n, 3, 25_000));
    assert_eq!(pick(&[(b.clone(), full(1)), (c.clone(), full(2))]), Some("b".into()));
    assert_eq!(pick(&[(c.clone(), full(2)), (b.clone(), full(1))]), Some("b".into()));
    assert_eq!(pick(&[(b.clone(), None), (c.clone(), full(2)), (d.clone(), full(3))]), Some("c".into()));
    assert_eq!(pick(&[(b.clone(), Some(grant(1, 2, 25_000))), (c.clone(), full(2))]), Some("c".into()));
    // Liars: more than asked for, dearer than offered, another's hold.
    assert_eq!(pick(&[(b.clone(), Some(grant(1, 4, 25_000)))]), None);
    assert_eq!(pick(&[(b.clone(), Some(grant(1, 3, 25_001)))]), None);
    assert_eq!(pick(&[(b, Some(grant(2, 3, 25_000)))]), None);
    assert_eq!(pick(&[]), None);
}

#[derive(Debug, Clone)]
enum Act {
    Wait(u64),
    Reserve { who: u8, id: u8, instances: u32, cpu_millis: u32 },
    LetGo(u8),
    Confirm { id: u8, lease: u8, serial: u64 },
    Renew { lease: u8, epoch: u64, instances: u32 },
    Recall(u8),
    Release(u8),
    Ended { lease: u8, files: u64 },
    Settle(u8),
    Expire,
    Reboot,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (0u64..8_000).prop_map(Act::Wait),
        6 => (0u8..3, 0u8..12, 0u32..9, 0u32..1_200).prop_map(|(who, id, instances, cpu_millis)| Act::Reserve { who, id, instances, cpu_millis }),
        1 => (0u8..12).prop_map(Act::LetGo),
        6 => (0u8..12, 0u8..8, 1u64..3).prop_map(|(id, lease, serial)| Act::Confirm { id, lease, serial }),
        4 => (0u8..8, 2u64..5, 0u32..9).prop_map(|(lease, epoch, instances)| Act::Renew { lease, epoch, instances }),
        1 => (0u8..8).prop_map(Act::Recall),
        2 => (0u8..8).prop_map(Act::Release),
        2 => (0u8..8, 0u64..2).prop_map(|(lease, files)| Act::Ended { lease, files }),
        2 => (0u8..8).prop_map(Act::Settle),
        2 => Just(Act::Expire),
        1 => Just(Act::Reboot),
    ]
}

/// How far along a lease is; it may only rise.
fn stage(state: &LentState) -> u8 {
    match state {
        LentState::Active => 0,
        LentState::Recalled { .. } => 1,
        LentState::Ending { .. } => 2,
        LentState::Ended { .. } => 3,
        LentState::Settled { .. } => 4,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn it_never_oversells_and_never_revives(acts in prop::collection::vec(act(), 1..120)) {
        let cap = capacity();
        let mut book = Book::default();
        let mut now = at(1_000_000);
        for act in acts {
            let before = book.clone();
            let lease_of = |n: &u8| book.lease(&LeaseId::from_entropy(u128::from(*n))).map(|l| LentLease::clone(l));
            let changed: Vec<Transition> = match &act {
                Act::Wait(ms) => { now = now.plus(*ms); Vec::new() }
                Act::Reserve { who, id, instances, cpu_millis } => {
                    let mut need = need(*instances, 1);
                    need.resources.cpu_millis = *cpu_millis;
                    need.price_per_instance_hour_max = Money(u64::MAX);
                    let borrower = cloud(["a", "b", "c"][*who as usize]);
                    let request = request(u128::from(*id), need);
                    let first = ledger::reserve(&book, &cap, &borrower, &request, now);
                    if let Ok(hold) = &first {
                        let mut with = book.clone();
                        with.apply(Transition::Hold(Box::new(hold.clone())));
                        prop_assert_eq!(&ledger::reserve(&with, &cap, &borrower, &request, now).unwrap(), hold);
                    }
                    first.ok().map(|hold| Transition::Hold(Box::new(hold))).into_iter().collect()
                }
                Act::LetGo(id) => vec![Transition::DropHold(ReservationId::from_entropy(u128::from(*id)))],
                Act::Confirm { id, lease, serial } => {
                    let doc = book.holds.get(&ReservationId::from_entropy(u128::from(*id))).map(|h| Lease { serial: Serial(*serial), ..document(h, u128::from(*lease)) });
                    doc.and_then(|d| ledger::confirm(&book, &cap, &d, now).ok()).map(|l| Transition::Lease(Box::new(l))).into_iter().collect()
                }
                Act::Renew { lease, epoch, instances } => lease_of(lease)
                    .and_then(|l| ledger::renew(&l, &Renewal { lease: l.id().clone(), epoch: Epoch(*epoch), instances: *instances, behind_ms: None }, now).ok())
                    .map(|l| Transition::Lease(Box::new(l))).into_iter().collect(),
                Act::Recall(n) => lease_of(n).and_then(|l| ledger::recall(&l, "x", now).ok()).map(|l| Transition::Lease(Box::new(l))).into_iter().collect(),
                Act::Release(n) => lease_of(n).map(|l| Transition::Lease(Box::new(ledger::release(&l, now)))).into_iter().collect(),
                Act::Ended { lease, files } => lease_of(lease)
                    .and_then(|l| ledger::ended(&l, &Emptiness { files: *files, ..Emptiness::default() }, now).ok())
                    .map(|l| Transition::Lease(Box::new(l))).into_iter().collect(),
                Act::Settle(n) => lease_of(n).and_then(|l| ledger::settle(&l, now).ok()).map(|l| Transition::Lease(Box::new(l))).into_iter().collect(),
                Act::Expire => ledger::expire(&book, now),
                Act::Reboot => { let t = ledger::after_reboot(&book, now); now = at(1_000); t }
            };
            changed.into_iter().for_each(|t| book.apply(t));

            // The sums that the book keeps are those of what is in it.
            let mut anew = Book::default();
            anew.holds = book.holds.clone();
            book.leases().for_each(|l| anew.put(LentLease::clone(l)));
            prop_assert_eq!(&anew, &book);
            let bound = book.bound(None, now);
            prop_assert!(bound.resources.fits_in(cap.lendable()), "{act:?}: {bound:?}");
            prop_assert!(bound.storage_bytes <= cap.terms.storage_bytes);
            for who in ["a", "b", "c"] {
                prop_assert!(book.bound(Some(&cloud(who)), now).resources.fits_in(cap.share()));
                let open = book.live_holds(now).filter(|h| h.borrower == cloud(who)).count();
                prop_assert!(open <= cap.terms.holds_per_borrower as usize);
                let offered = ledger::offer(&book, &cap, &cloud(who), &cloud("l"), now).free;
                prop_assert!(bound.resources.plus(offered).fits_in(cap.lendable()));
            }
            for old in before.leases() {
                let new = book.lease(old.id()).unwrap();
                prop_assert!(stage(&new.state) >= stage(&old.state), "{act:?}: {old:?} -> {new:?}");
                prop_assert!(new.epoch >= old.epoch && new.lease.serial >= old.lease.serial);
                prop_assert!(new.instances_wanted <= new.lease.instances);
            }
        }
    }
}

#[test]
fn the_lender_alone_says_what_lent_instances_call() {
    let cap = capacity();
    let ask = |egress: &[&str]| {
        let egress = egress.iter().map(|to| to.parse().unwrap()).collect();
        let need = Requirement { egress, ..need(1, 1) };
        ledger::reserve(&Book::default(), &cap, &cloud("city-a"), &request(1, need), at(0))
    };
    let hold = ask(&["203.0.113.7:443"]).unwrap();
    assert_eq!(hold.requirement.egress, ["203.0.113.7:443".parse().unwrap()], "it stands in what is signed");
    // Not listed; private although a rule is as wide as the world; loopback; metadata; the lender itself.
    let refused = ["203.0.113.7:80", "10.0.0.5:5432", "127.0.0.1:5432", "169.254.169.254:5432", "203.0.113.9:443"];
    for to in refused {
        let no = ask(&["203.0.113.7:443", to]).unwrap_err();
        assert_eq!((no.code, no.retry_after_ms), (Code::Egress, None), "{to}: {no}");
        assert!(no.text.contains(to), "{no}");
    }
    let many: Vec<String> = (0..33).map(|i| format!("203.0.113.{}:443", i + 10)).collect();
    assert_eq!(ask(&many.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_err().code, Code::BadRequest);
    let shown = ledger::offer(&Book::default(), &cap, &cloud("city-a"), &cloud("city-b"), at(0));
    assert_eq!(shown.egress, cap.egress);

    // What a lease is confirmed with is what was held.
    let mut book = Book::default();
    book.holds.insert(hold.id.clone(), hold.clone());
    let mut lease = document(&hold, 1);
    lease.requirement.egress = vec!["10.0.0.5:5432".parse().unwrap()];
    assert_eq!(ledger::confirm(&book, &cap, &lease, at(0)).unwrap_err().code, Code::Mismatch);
}
