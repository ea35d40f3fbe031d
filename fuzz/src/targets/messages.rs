//! JSON between clouds, from people, from the gateway, and back from the store: `name`, a line's end, the document.
//!
//! A document that reads is given to the decision that it is for: no number in it may make that panic, nor sell what was
//! not offered.

use super::json;
use pumasi_api::message as people;
use pumasi_journey::Journey;
use pumasi_lease::document::Settlement;
use pumasi_lease::message::{Emptiness, Heartbeat, HeartbeatAnswer, ReservationGrant, ReservationRequest};
use pumasi_lease::{Book, Capacity, Hold, Lease, LentLease, Transition, Usage, ledger, meter};
use pumasi_node::{object, wire};
use pumasi_plan::Plan;
use pumasi_sense::{MeterWindow, Sense, Settings};
use pumasi_terms::pact::Terms;
use pumasi_terms::service::{Platform, Service};
use pumasi_terms::{BootMs, CloudName, Now, Resources, Validate, WallMs};

const NOW: Now = Now { boot: BootMs(1_000_000), wall: WallMs(1_800_000_000_000) };

fn capacity() -> Capacity {
    let all = Resources { cpu_millis: 4_000, memory_mib: 4_096 };
    Capacity {
        terms: Terms { lends: all, ..Terms::default() },
        physical: all,
        home_use: Resources::default(),
        gives_way: Resources::default(),
        platforms: vec![Platform::default()],
        storage_free_bytes: 8 << 30,
        egress: vec!["0.0.0.0/0:*".parse().expect("a rule")],
        own_addresses: Vec::new(),
        standby_percent: None,
    }
}

fn city(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

fn check_sold(book: &Book, capacity: &Capacity, now: Now) {
    let bound = book.bound(None, now);
    assert!(bound.resources.fits_in(capacity.lendable()), "oversold: {bound:?}");
    assert!(bound.storage_bytes <= capacity.terms.storage_bytes, "oversold: {bound:?}");
}

fn reserve(request: &ReservationRequest) {
    let (capacity, borrower, mut book) = (capacity(), city("city-a"), Book::default());
    let Ok(hold) = ledger::reserve(&book, &capacity, &borrower, request, NOW) else { return };
    let _ = ledger::grant(&hold, &capacity.terms, 0, NOW);
    assert!(hold.expires_at <= NOW.boot.after(capacity.terms.hold_ttl_ms_max));
    let public =
        |to: &std::net::SocketAddr| pumasi_terms::egress::reach(to.ip()) == pumasi_terms::egress::Reach::Public;
    assert!(hold.requirement.egress.iter().all(public), "no rule opens these: {:?}", hold.requirement.egress);
    assert_eq!(ledger::reserve(&book, &capacity, &borrower, request, NOW).as_ref(), Ok(&hold));
    book.apply(Transition::Hold(Box::new(hold)));
    check_sold(&book, &capacity, NOW);
    let _ = ledger::expire(&book, NOW.plus(u64::MAX));
}

/// A lease that the borrower wrote, over a hold that fits it.
fn confirm(lease: &Lease) {
    let capacity = capacity();
    let mut book = Book::default();
    let request =
        ReservationRequest { id: lease.reservation.clone(), requirement: lease.requirement.clone(), ttl_ms: 5_000 };
    if let Ok(hold) = ledger::reserve(&book, &capacity, &lease.borrower, &request, NOW) {
        book.apply(Transition::Hold(Box::new(hold)));
    }
    let Ok(lent) = ledger::confirm(&book, &capacity, lease, NOW) else { return };
    live(&lent);
    book.apply(Transition::Lease(Box::new(lent)));
    check_sold(&book, &capacity, NOW);
    // The same again is the same.
    assert!(ledger::confirm(&book, &capacity, lease, NOW).is_ok());
}

/// Everything that may happen to a lease.
fn live(lent: &LentLease) {
    let late = NOW.plus(u64::MAX);
    for now in [NOW, late] {
        let _ = (lent.expires_in_ms(now), lent.recall_in_ms(now), lent.binds(), lent.usable());
        let _ = ledger::recall(lent, "why", now);
        let released = ledger::release(lent, now);
        let _ = ledger::ended(&released, &Emptiness::default(), now).map(|e| ledger::settle(&e, now));
    }
    let mut book = Book::default();
    book.apply(Transition::Lease(Box::new(lent.clone())));
    let _ = (book.bound(None, NOW), ledger::expire(&book, late), ledger::after_reboot(&book, NOW));
    let _ = ledger::rent_per_hour(&book);
    let used = Usage { instance_ms: u64::MAX, requests: u64::MAX, bytes_out: u64::MAX, reserved_instance_ms: 0 };
    for usage in [Usage::default(), used, lent.usage] {
        let one = meter::settlement(&lent.lease, lent.usage, usage, NOW.wall);
        let other = meter::settlement(&lent.lease, usage, lent.usage, NOW.wall);
        assert_eq!((one.agreed, one.amount), (other.agreed, other.amount), "the two sides do not settle alike");
        let _ = lent.usage.ran(u32::MAX, u64::MAX).plus(1, 1, 1);
    }
}

fn metered(window: &MeterWindow) {
    let mut sense = Sense::new(Settings::default());
    if sense.ingest(window).is_err() {
        return;
    }
    let next = MeterWindow { seq: window.seq.saturating_add(1), at: window.at.after(100), ..window.clone() };
    let _ = sense.ingest(&next);
    let names: Vec<_> = sense.services().cloned().collect();
    for name in &names {
        let _ = sense.observe(name, Now { boot: window.at, wall: NOW.wall });
        let _ = sense.observe(name, Now { boot: next.at, wall: NOW.wall });
    }
}

fn validated(what: &impl Validate) {
    what.validate("", &mut Vec::new());
}

pub fn message(input: &[u8]) {
    read(input);
}

/// Whether it is a message.
fn read(input: &[u8]) -> bool {
    let Some(end) = input.iter().position(|&b| b == b'\n') else { return false };
    let (name, body) = (&input[..end], &input[end + 1..]);
    match name {
        b"heartbeat" => json::<Heartbeat>(body).is_some(),
        b"heartbeat_answer" => json::<HeartbeatAnswer>(body).is_some_and(|answer| {
            if let Some(offer) = &answer.offer {
                let _ = offer.price_per_instance_hour(Resources { cpu_millis: u32::MAX, memory_mib: 1 });
                let _ = offer.can_run(&Platform::default());
            }
            true
        }),
        b"reservation" => json::<ReservationRequest>(body).inspect(reserve).is_some(),
        b"grant" => json::<ReservationGrant>(body).is_some(),
        b"signed" => json::<wire::Signed>(body).is_some(),
        b"application" => json::<wire::SendApplication>(body).is_some_and(|sent| {
            validated(&sent.application);
            true
        }),
        b"tree" => json::<wire::SendTree>(body).is_some(),
        b"copy" => json::<wire::CopyState>(body).is_some(),
        b"admission" => json::<wire::AskAdmission>(body).inspect(|a| validated(&a.member.terms)).is_some(),
        b"emptiness" => json::<Emptiness>(body).is_some(),
        b"usage" => json::<Usage>(body).is_some(),
        b"lease" => json::<Lease>(body).inspect(confirm).is_some(),
        b"settlement" => json::<Settlement>(body).is_some(),
        b"terms" => json::<Terms>(body).inspect(validated).is_some(),
        b"service" => json::<Service>(body).inspect(|s| validated(&s.spec)).is_some(),
        b"automation" => json::<people::Automation>(body).is_some(),
        b"found" => json::<people::FoundPact>(body).is_some(),
        b"invite" => json::<people::Invite>(body).is_some(),
        b"join" => json::<people::Join>(body).is_some(),
        b"token" => json::<people::NewToken>(body).is_some(),
        b"problem" => json::<pumasi_api::Problem>(body).map(|p| p.to_string()).is_some(),
        b"journey" => json::<Journey>(body).is_some_and(|journey| {
            let _ = pumasi_journey::acts(&journey, 1, None);
            let _ = pumasi_journey::renewals(&journey, &city("city-b"));
            let _ = (journey.serving(), journey.coming());
            let (cancelled, _) = pumasi_journey::cancel(&journey, "why", NOW);
            let _ = pumasi_journey::acts(&cancelled, 1, None);
            true
        }),
        b"plan" => json::<Plan>(body).map(|p| (pumasi_plan::describe(&p), pumasi_plan::diff(&p, &p))).is_some(),
        b"lent" => json::<LentLease>(body).inspect(live).is_some(),
        b"hold" => json::<Hold>(body).is_some(),
        b"window" => json::<MeterWindow>(body).inspect(metered).is_some(),
        b"record" => json::<object::ServiceRecord>(body).map(|r| (r.owner(), r.bundle())).is_some(),
        b"ask_command" => json::<pumasi_node::voting::wire::AskCommand>(body).is_some(),
        b"ask_silence" => json::<pumasi_node::takeover::report::AskSilence>(body).is_some(),
        b"change" => json::<people::Change>(body).is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_message_of_the_corpus_is_one() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/message");
        for item in std::fs::read_dir(dir).unwrap() {
            let path = item.unwrap().path();
            assert!(super::read(&std::fs::read(&path).unwrap()), "{}", path.display());
        }
    }
}
