//! The book in memory, over a real store.

use super::*;
use pumasi_lease::document::{KIND, Lease};
use pumasi_lease::record::Usage;
use pumasi_lease::{LentState, ledger};
use pumasi_store::Options;
use pumasi_store::sim::{Hooks, MemoryDisk};
use pumasi_terms::offer::Requirement;
use pumasi_terms::service::Platform;
use pumasi_terms::*;
use std::sync::Arc;

fn at(ms: u64) -> Now {
    Now { boot: BootMs(ms), wall: WallMs(1_000_000) }
}

fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

fn id(n: u128) -> LeaseId {
    LeaseId::from_entropy(n)
}

fn lent(borrower: &str, n: u128) -> LentLease {
    let service = ServiceName::parse("shop").unwrap();
    let requirement = Requirement {
        service: service.clone(),
        platform: Platform::default(),
        resources: Resources { cpu_millis: 100, memory_mib: 64 },
        instances: 3,
        instances_min: 1,
        storage_bytes: 10,
        price_per_instance_hour_max: Money(9),
        egress: Vec::new(),
        standby: None,
    };
    let lease = Lease {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        id: id(n),
        serial: Serial(1),
        pact: PactId::from_entropy(1),
        pact_serial: Serial(1),
        reservation: ReservationId::from_entropy(n),
        borrower: cloud(borrower),
        lender: cloud("lender"),
        service,
        epoch: Epoch(3),
        requirement,
        instances: 3,
        price_per_instance_hour: Money(1),
        ttl_ms: 10_000,
        recall_notice_ms: 5_000,
        application: Digest([1; 32]),
        datasets: Vec::new(),
        hosts: Vec::new(),
        created_at: WallMs(1),
        standby_percent: None,
    };
    LentLease {
        lease,
        state: LentState::Active,
        expires_at: BootMs(10_000),
        instances_wanted: 3,
        usage: Usage::default(),
        since: WallMs(1),
        epoch: Epoch(3),
        kept_since: None,
        silence: None,
    }
}

fn renewal(n: u128, epoch: u64, instances: u32) -> Renewal {
    Renewal { lease: id(n), epoch: Epoch(epoch), instances, behind_ms: None }
}

struct Lender {
    store: Store,
    lents: Arc<Lents>,
    _disk: MemoryDisk,
}

impl Lender {
    fn new(leases: &[LentLease]) -> Self {
        let disk = MemoryDisk::new("lender");
        let store = Store::open_inline(&disk, WallMs(1), 7, Options::default(), Hooks::default()).unwrap();
        let lender = Self { store, lents: Arc::default(), _disk: disk };
        let leases = leases.to_vec();
        lender.write(move |tx, _| {
            leases.iter().try_for_each(|l| tx.put(LENT, l.id().as_str(), l, Expect::Any).map(drop))?;
            Ok(())
        });
        lender
    }

    fn write<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Tx<'_>, &Lents) -> Result<T, TxError> + Send + 'static,
    ) -> T {
        let lents = Arc::clone(&self.lents);
        match self.store.transact_blocking(move |tx| f(tx, &lents)) {
            Ok(done) => done,
            Err(e) => panic!("{}", Problem::from(e)),
        }
    }

    fn renew(&self, who: &str, renewals: &[Renewal], ms: u64) -> bool {
        let (who, renewals) = (cloud(who), renewals.to_vec());
        self.write(move |tx, lents| lents.renew(tx, &who, &renewals, at(ms)))
    }

    /// As this book has it, a new one from the store, and a transaction: all three must agree.
    fn book(&self) -> Book {
        let followed = self.lents.with(&self.store, |s| s.book().clone()).unwrap();
        let anew = Stand::of_store(&self.store).unwrap().book;
        let within = self.write(|tx, lents| lents.book(tx, Book::clone));
        let listed = self.write(|tx, _| Ok(Stand::of_tx(tx)?.book));
        assert_eq!(followed, anew);
        assert_eq!((&followed, &followed), (&within, &listed));
        followed
    }

    fn lease(&self, n: u128) -> LentLease {
        LentLease::clone(self.book().lease(&id(n)).unwrap())
    }

    fn revision_of(&self, n: u128) -> Revision {
        self.store.get::<LentLease>(LENT, id(n).as_str()).unwrap().unwrap().revision
    }
}

#[test]
fn a_heartbeat_is_one_row_and_leaves_the_records_alone() {
    let lender = Lender::new(&[lent("a", 1), lent("a", 2), lent("b", 3)]);
    let before = lender.revision_of(1);
    assert!(lender.lents.with(&lender.store, |_| ()).is_ok());
    let head = lender.store.revision();
    let beat = [renewal(1, 3, 3), renewal(2, 4, 1), renewal(3, 3, 3), renewal(9, 3, 3)];
    assert!(lender.renew("a", &beat, 1_000), "another number of instances is news");
    assert_eq!(lender.store.revision(), Revision(head.0 + 1));
    assert_eq!(lender.revision_of(1), before);
    let [one, two, foreign] = [1, 2, 3].map(|n| lender.lease(n));
    assert_eq!((one.expires_at, one.instances_wanted, one.epoch), (BootMs(11_000), 3, Epoch(3)));
    assert_eq!((two.expires_at, two.instances_wanted, two.epoch), (BootMs(11_000), 1, Epoch(4)));
    assert_eq!(foreign, lent("b", 3), "a lease of another borrower");
    // An older epoch than a renewal told is refused, also within one heartbeat; a later end alone is no news.
    assert!(!lender.renew("a", &[renewal(1, 5, 3), renewal(2, 3, 3)], 2_000) || lender.lease(1).epoch == Epoch(5));
    assert_eq!(lender.lease(2).expires_at, BootMs(11_000));
    lender.renew("a", &[renewal(1, 6, 2), renewal(1, 5, 3)], 3_000);
    assert_eq!((lender.lease(1).epoch, lender.lease(1).instances_wanted), (Epoch(6), 2));
    assert!(!lender.renew("a", &[renewal(1, 6, 2)], 4_000));
    // The same moment once more changes nothing.
    let head = lender.store.revision();
    assert!(!lender.renew("a", &[renewal(1, 6, 2)], 4_000) && lender.store.revision() == head);
    // One that comes when the end is near is told at once.
    assert!(lender.renew("a", &[renewal(1, 6, 2)], 13_000));
}

#[test]
fn whoever_writes_a_record_takes_its_renewal_in_and_no_older_one_comes_back() {
    let lender = Lender::new(&[lent("a", 1), lent("a", 2)]);
    lender.renew("a", &[renewal(1, 5, 2), renewal(2, 5, 2)], 4_000);
    // Metered use, written beside: the renewal is kept.
    lender.write(|tx, lents| {
        let lent = lents.lease(tx, &id(1))?.unwrap();
        let usage = lent.usage.plus(7, 0, 0);
        Ok(tx.put(LENT, id(1).as_str(), &LentLease { usage, ..lent }, Expect::Any).map(drop)?)
    });
    let metered = lender.lease(1);
    assert_eq!((metered.expires_at, metered.epoch, metered.usage.instance_ms), (BootMs(14_000), Epoch(5), 7));
    // A recall shortens it: the row's later end must not come back.
    lender.write(|tx, lents| {
        let lent = lents.lease(tx, &id(1))?.unwrap();
        let recalled = ledger::recall(&lent, "x", at(5_000)).unwrap();
        Ok(tx.put(LENT, id(1).as_str(), &recalled, Expect::Any).map(drop)?)
    });
    assert_eq!(lender.lease(1).expires_at, BootMs(10_000));
    lender.renew("a", &[renewal(1, 5, 2), renewal(2, 5, 2)], 6_000);
    assert_eq!((lender.lease(1).expires_at, lender.lease(2).expires_at), (BootMs(10_000), BootMs(16_000)));
    // In one transaction: a renewal over a record that the same transaction wrote, and one that it undoes.
    lender.write(|tx, lents| {
        let lent = lents.lease(tx, &id(2))?.unwrap();
        tx.put(LENT, id(2).as_str(), &ledger::release(&lent, at(7_000)), Expect::Any)?;
        assert!(!lents.renew(tx, &cloud("a"), &[renewal(2, 9, 3)], at(8_000))?);
        Ok(())
    });
    let ending = lender.lease(2);
    assert!(!ending.usable() && ending.instances_wanted == 0 && ending.epoch == Epoch(5));
}

#[test]
fn a_row_that_says_nothing_any_more_is_spent() {
    let lender = Lender::new(&[lent("a", 1), lent("b", 2)]);
    lender.renew("a", &[renewal(1, 3, 3)], 1_000);
    lender.renew("b", &[renewal(2, 3, 3)], 1_000);
    let spent = |l: &Lender| l.lents.with(&l.store, Stand::spent).unwrap();
    assert!(spent(&lender).is_empty());
    lender.write(|tx, lents| {
        let over = lents.within(tx, |_, _| true, |s| ledger::after_reboot(s.book(), at(5)))?;
        for transition in over {
            let Transition::Lease(lent) = transition else { continue };
            tx.put(LENT, lent.id().as_str(), &*lent, Expect::Any)?;
        }
        Ok(())
    });
    assert!(lender.book().leases().all(|l| !l.usable()));
    assert_eq!(spent(&lender), [cloud("a"), cloud("b")]);
    lender.write(|tx, _| Ok(tx.delete(LENT_RENEWAL, "a", Expect::Any).map(drop)?));
    assert_eq!(spent(&lender), [cloud("b")]);
    lender.book();
}

#[test]
fn the_row_is_as_it_was_first_stored() {
    let row = r#"{"version":1,"leases":{"lease-00000000000000000000000000000001":[1,14000,2,5]}}"#;
    let lender = Lender::new(&[lent("a", 1)]);
    lender.renew("a", &[renewal(1, 5, 2)], 4_000);
    let stored = lender.store.get::<Row>(LENT_RENEWAL, "a").unwrap().unwrap().body;
    assert_eq!(serde_json::to_string(&stored).unwrap(), row);
    // Of another version it is set aside by name. None of its borrower's leases ends before the latest renewal there can be would let it.
    lender.write(|tx, _| {
        tx.put(LENT_RENEWAL, "a", &serde_json::json!({"version": 2, "leases": {}}), Expect::Any)?;
        Ok(())
    });
    let latest = crate::clock::boot().after(9_000);
    let aside = move |s: &Stand| {
        let told = s.unreadable().map(|u| (u.name.clone(), u.why.contains("version 2"))).collect::<Vec<_>>();
        (told, s.wish_unknown(&cloud("a")), s.book().lease(&id(1)).is_some_and(|l| l.expires_at > latest))
    };
    let hidden = (vec![("a".to_owned(), true)], true, true);
    assert_eq!(lender.lents.with(&lender.store, aside).unwrap(), hidden);
    assert_eq!(aside(&Stand::of_store(&lender.store).unwrap()), hidden);
    assert_eq!(lender.write(move |tx, _| Ok(aside(&Stand::of_tx(tx)?))), hidden);
    // The borrower's next heartbeat writes it anew, also after the end that the lease's own record knows.
    let anew = Lender { store: lender.store.clone(), lents: Arc::default(), _disk: lender._disk.clone() };
    anew.lents.with(&anew.store, |_| ()).unwrap();
    anew.renew("a", &[renewal(1, 5, 2)], 60_000);
    assert_eq!(anew.lents.with(&anew.store, aside).unwrap(), (Vec::new(), false, true));
}

#[test]
fn a_lease_that_cannot_be_read_is_set_aside_by_name_and_the_others_are_in_the_book() {
    let lender = Lender::new(&[lent("a", 1), lent("a", 2)]);
    lender.book();
    lender.write(|tx, _| {
        tx.put(LENT, id(2).as_str(), &serde_json::json!({"of": "another version"}), Expect::Any)?;
        Ok(())
    });
    let seen =
        |s: &Stand| (s.hides(id(2).as_str()), s.hidden(), s.book().leases().count(), s.unclear(1, at(1)).is_some());
    let hidden = (true, vec![id(2)], 1, true);
    assert_eq!(lender.lents.with(&lender.store, seen).unwrap(), hidden);
    assert_eq!(seen(&Stand::of_store(&lender.store).unwrap()), hidden);
    assert!(
        lender
            .store
            .transact_blocking({
                let lents = lender.lents.clone();
                move |tx| lents.lease(tx, &id(2))
            })
            .is_err()
    );
    lender.write(|tx, _| Ok(tx.put(LENT, id(2).as_str(), &lent("a", 2), Expect::Any).map(drop)?));
    assert_eq!(lender.lents.with(&lender.store, seen).unwrap(), (false, Vec::new(), 2, false));
    lender.book();
}

#[test]
fn a_lease_that_cannot_be_read_keeps_the_renewal_that_its_borrower_relies_on() {
    let lender = Lender::new(&[lent("a", 1), lent("a", 2)]);
    lender.renew("a", &[renewal(1, 3, 3), renewal(2, 3, 3)], 2_000);
    assert_eq!(lender.lease(2).expires_at, BootMs(12_000));
    // As a rollback leaves it: the record itself is not written, so that its revision stays.
    lender._disk.tamper("UPDATE objects SET body = '[' || body || ']' WHERE kind = 'lent' AND name LIKE '%2'").unwrap();
    let anew = Lender { store: lender.store.clone(), lents: Arc::default(), _disk: lender._disk.clone() };
    assert_eq!(anew.lents.with(&anew.store, Stand::hidden).unwrap(), [id(2)]);
    anew.renew("a", &[renewal(1, 3, 3)], 3_000);
    assert!(anew.lents.with(&anew.store, Stand::spent).unwrap().is_empty());
    anew._disk.tamper("UPDATE objects SET body = substr(body, 2, length(body) - 2) WHERE body LIKE '[%'").unwrap();
    let mended = Lender { store: anew.store.clone(), lents: Arc::default(), _disk: anew._disk.clone() };
    assert_eq!(mended.lease(2).expires_at, BootMs(12_000), "it would end before its borrower thinks");
}

#[test]
fn a_row_within_its_bounds_fits_into_the_store() {
    let entry = Entry(Revision(u64::MAX), BootMs(u64::MAX), u32::MAX, Epoch(u64::MAX));
    let leases = (0..RENEWALS_MAX as u128).map(|n| (id(u128::MAX - n), entry)).collect();
    let text = serde_json::to_string(&Row { version: VERSION, leases }).unwrap();
    assert!(text.len() <= pumasi_store::BODY_BYTES_MAX, "{}", text.len());
}
