//! Notices: what a member may say of itself alone, and that nothing else comes through.

#![allow(clippy::unwrap_used)] // a test helper fails loudly

use pumasi_pact::*;
use pumasi_terms::pact::{Member, Pact, Role, Terms};
use pumasi_terms::{CloudName, Money, PactId, Resources, Serial, WallMs};
use pumasi_trust::{Authority, DocumentKey, SignedDocument};
use tempfile::TempDir;

const NOW: WallMs = WallMs(1_800_000_000_000);

struct Kit {
    cloud: CloudName,
    key: DocumentKey,
    authority: Authority,
    _dir: TempDir,
}

impl Kit {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cloud = CloudName::parse(name).unwrap();
        let authority = Authority::create(dir.path(), &cloud, NOW).unwrap();
        Self { cloud, key: DocumentKey::generate().unwrap(), authority, _dir: dir }
    }
    fn member(&self) -> Member {
        Member {
            cloud: self.cloud.clone(),
            api_address: format!("{}.example:7001", self.cloud),
            gateway_address: format!("{}.example:7002", self.cloud),
            bundle: self.authority.bundle().unwrap().to_json(),
            document_key: self.key.public_jwk(),
            terms: Terms { lends: Resources { cpu_millis: 4_000, memory_mib: 4_096 }, ..Terms::default() },
            role: Role::Cloud,
        }
    }
    fn sign(&self, notice: &Notice, serial: Serial) -> SignedDocument {
        SignedDocument::sign_new(&notice.payload().unwrap(), NOTICE_KIND, &self.cloud, serial, &self.key).unwrap()
    }
    /// As a daemon makes it.
    fn notice(&self, state: &PactState, entry: Option<Member>, at: i64) -> SignedDocument {
        let (serial, notice) = state.next_notice(&self.cloud, entry, WallMs(NOW.0 + at)).unwrap();
        self.sign(&notice.vouched(|purpose, bytes| self.authority.vouch(purpose, bytes)).unwrap(), serial)
    }
}

/// Three members, and what each of them holds.
struct World {
    kits: Vec<Kit>,
    states: Vec<PactState>,
}

fn signed(pact: &Pact, by: &[&Kit]) -> SignedDocument {
    let bytes = payload(pact).unwrap();
    let first = SignedDocument::sign_new(&bytes, KIND, &by[0].cloud, pact.serial, &by[0].key).unwrap();
    by[1..].iter().fold(first, |d, kit| d.countersign(&kit.cloud, &kit.key).unwrap())
}

impl World {
    fn new() -> Self {
        let kits: Vec<Kit> = ["city-a", "city-b", "city-c"].map(Kit::new).into();
        let mut pact = found(PactId::from_entropy(1), kits[0].member(), "EUR", NOW).unwrap();
        let mut document = signed(&pact, &[&kits[0]]);
        for (i, kit) in kits.iter().enumerate().skip(1) {
            pact = admit(&pact, document.digest(), Serial(i as u64 + 1), kit.member(), NOW).unwrap();
            document = signed(&pact, &kits[..=i].iter().collect::<Vec<_>>());
        }
        let adopt = |k: &Kit| PactState::default().adopt(document.clone(), &k.cloud, k.key.public()).unwrap();
        let states = kits.iter().map(adopt).collect();
        Self { kits, states }
    }
    fn entry(&self, i: usize) -> Member {
        self.states[i].current().unwrap().pact.member(&self.kits[i].cloud).unwrap().clone()
    }
    fn takes(&mut self, i: usize, notice: &SignedDocument) {
        self.states[i] = self.states[i].take_notice(notice).unwrap().unwrap().1;
    }
    fn members(&self, i: usize) -> Vec<&str> {
        self.states[i].current().unwrap().pact.members.iter().map(|m| m.cloud.as_str()).collect()
    }
    /// The next pact as member `by` proposes it, with everybody's verdict and signature but those who are away.
    fn next(&mut self, by: usize, away: &[usize], bend: impl FnOnce(&mut Pact)) -> Result<SignedDocument, PactError> {
        let held = self.states[by].current().unwrap().clone();
        let mut pact = held.pact.clone();
        (pact.serial, pact.parent) = (self.states[by].next_serial(), Some(held.digest()));
        bend(&mut pact);
        let mut document = signed(&pact, &[&self.kits[by]]);
        for (i, kit) in self.kits.iter().enumerate().filter(|(i, _)| !away.contains(i)) {
            if pact.member(&kit.cloud).is_none() {
                continue;
            }
            self.states[i] = self.states[i].consider(&document, &kit.cloud, &Policy::approved())?.1;
            if i != by {
                document = document.countersign(&kit.cloud, &kit.key).unwrap();
            }
        }
        Ok(document)
    }
    fn adopts(&mut self, i: usize, document: &SignedDocument) {
        let kit = &self.kits[i];
        self.states[i] = self.states[i].adopt(document.clone(), &kit.cloud, kit.key.public()).unwrap();
    }
}

#[test]
fn a_silent_member_keeps_nobody_from_leaving_or_lending_less() {
    let mut world = World::new();
    // City-b says nothing at all during all of this.
    let mut less = world.entry(2);
    less.terms.lends = Resources { cpu_millis: 0, memory_mib: 0 };
    less.terms.borrowers = vec![world.kits[0].cloud.clone()];
    let lowered = world.kits[2].notice(&world.states[2], Some(less.clone()), 1);
    world.takes(2, &lowered);
    world.takes(0, &lowered);
    assert_eq!(world.states[0].current().unwrap().pact.member(&less.cloud), Some(&less));
    assert!(world.states[0].take_notice(&lowered).unwrap().is_none(), "told twice");
    let left = world.kits[2].notice(&world.states[2], None, 2);
    world.takes(0, &left);
    assert_eq!(world.members(0), ["city-a", "city-b"]);
    assert_eq!(world.members(1), ["city-a", "city-b", "city-c"]);
    // It catches up from anybody, by what the leaver signed.
    world.takes(1, &left);
    assert_eq!(world.members(1), ["city-a", "city-b"]);
    // And the next pact is of the two that are left.
    let next = world.next(1, &[2], |p| p.members[1].terms.recall_notice_ms = 9_000).unwrap();
    assert_eq!(next.signers().len(), 2);
    world.adopts(0, &next);
    assert_eq!(world.members(0), ["city-a", "city-b"]);
    // What is kept is read again as it was.
    let text = serde_json::to_string(&world.states[0]).unwrap();
    assert_eq!(serde_json::from_str::<PactState>(&text).unwrap(), world.states[0]);
}

#[test]
fn the_next_pact_takes_notices_in_and_old_ones_do_not_come_back() {
    let mut world = World::new();
    let mut less = world.entry(2);
    less.terms.lends.cpu_millis = 1_000;
    let lowered = world.kits[2].notice(&world.states[2], Some(less), 1);
    let old_leave = world.kits[2].notice(&world.states[2], None, 0);
    world.takes(2, &lowered);
    world.takes(0, &lowered);
    // City-b has not seen it: to it the proposal changes two things, and it signs nothing.
    let refused = world.next(0, &[2], |p| p.members[0].terms.recall_notice_ms = 9_000);
    assert!(matches!(refused, Err(PactError::ManyChanges(_))), "{refused:?}");
    world.takes(1, &lowered);
    let next = world.next(0, &[], |p| p.members[0].terms.recall_notice_ms = 8_000).unwrap();
    (0..3).for_each(|i| world.adopts(i, &next));
    assert_eq!(world.states[1].current().unwrap().pact.members[2].terms.lends.cpu_millis, 1_000);
    // It raises again what it lends, with everybody: the old notices are over.
    let next = world.next(2, &[], |p| p.members[2].terms.lends.cpu_millis = 3_000).unwrap();
    (0..3).for_each(|i| world.adopts(i, &next));
    for old in [&lowered, &old_leave] {
        let refused = world.states[1].take_notice(old);
        assert!(!matches!(refused, Ok(Some(_))), "{refused:?}");
    }
    assert_eq!(world.states[1].current().unwrap().pact.members[2].terms.lends.cpu_millis, 3_000);
}

#[test]
fn whoever_left_enters_again_only_above_its_leave() {
    let mut world = World::new();
    // It had promised a proposal of serial 6, which failed: its leave counts so far.
    let promised = world.states[2].promise_own(Serial(6), world.states[2].current().unwrap().digest()).unwrap();
    let left = world.kits[2].notice(&promised, None, 1);
    world.takes(0, &left);
    world.takes(1, &left);
    assert_eq!(world.states[0].floor_of(&world.kits[2].cloud), Serial(6));
    let held = world.states[0].current().unwrap().clone();
    let again = |serial| admit(&held.pact, held.digest(), Serial(serial), world.kits[2].member(), NOW).unwrap();
    let verdict = |serial| {
        let document = signed(&again(serial), &[&world.kits[0], &world.kits[2]]);
        world.states[1].consider(&document, &world.kits[1].cloud, &Policy::approved()).map(|(change, _)| change)
    };
    assert!(matches!(verdict(4), Err(PactError::SerialTaken { next: Serial(7), .. })), "{:?}", verdict(4));
    assert!(matches!(verdict(7), Ok(Change::Admitted { .. })));
    let document = signed(&again(7), &[&world.kits[0], &world.kits[1], &world.kits[2]]);
    world.adopts(0, &document);
    assert_eq!(world.members(0), ["city-a", "city-b", "city-c"], "nobody sends it home with its old leave");
}

#[test]
fn a_document_key_is_revoked_by_the_authority_and_the_new_key() {
    let mut world = World::new();
    let old = std::mem::replace(&mut world.kits[2].key, DocumentKey::generate().unwrap());
    let mut entry = world.entry(2);
    entry.document_key = world.kits[2].key.public_jwk();
    let rotated = world.kits[2].notice(&world.states[2], Some(entry.clone()), 1);
    (0..3).for_each(|i| world.takes(i, &rotated));
    // The thief of the old key says nothing that counts any more.
    let thief = Kit { key: old, ..Kit::new("city-c") };
    let leave = thief.notice(&world.states[2], None, 9);
    assert!(matches!(world.states[0].take_notice(&leave), Err(PactError::Document(_))));
    // And the next pact is signed with the new one.
    let next = world.next(2, &[], |p| p.members[2].terms.price_per_cpu_hour = Money(1)).unwrap();
    (0..3).for_each(|i| world.adopts(i, &next));
    assert_eq!(world.states[0].current().unwrap().pact.members[2].document_key, entry.document_key);
}

#[test]
fn crafted_notices_change_nothing() {
    let mut world = World::new();
    let (a, b, c) = (&world.kits[0], &world.kits[1], &world.kits[2]);
    let state = &world.states[2];
    let (serial, good) = state.next_notice(&c.cloud, None, NOW).unwrap();
    let entry = world.entry(2);
    let with = |bend: &dyn Fn(&mut Member)| {
        let mut entry = entry.clone();
        bend(&mut entry);
        c.notice(state, Some(entry), 1)
    };
    let bent = |by: &Kit, bend: &dyn Fn(&mut Notice)| {
        let mut notice = good.clone();
        bend(&mut notice);
        by.sign(&notice, serial)
    };
    let raw = |bend: &dyn Fn(&mut serde_json::Value)| {
        let mut value = serde_json::to_value(&good).unwrap();
        bend(&mut value);
        let bytes = serde_json::to_vec(&value).unwrap();
        SignedDocument::sign_new(&bytes, NOTICE_KIND, &c.cloud, serial, &c.key).unwrap()
    };
    let foreign = Kit::new("city-c");
    let other_kind = SignedDocument::sign_new(&good.payload().unwrap(), KIND, &c.cloud, serial, &c.key).unwrap();
    let countersigned = bent(c, &|_| {}).countersign(&a.cloud, &a.key).unwrap();
    let mut stolen = entry.clone();
    stolen.document_key = foreign.key.public_jwk();
    // Signed with the key that it names, vouched for by an authority that nobody knows, or by none.
    let (_, swap) = state.next_notice(&c.cloud, Some(stolen), NOW).unwrap();
    let unvouched = foreign.sign(&swap, serial);
    let vouched = foreign.sign(&swap.clone().vouched(|p, m| foreign.authority.vouch(p, m)).unwrap(), serial);
    let mut roots = entry.clone();
    roots.bundle = foreign.authority.bundle().unwrap().to_json();
    let (_, own_roots) = state.next_notice(&c.cloud, Some(roots), NOW).unwrap();
    let crafted: Vec<(&str, SignedDocument)> = vec![
        ("of another member", bent(b, &|_| {})),
        ("of a third member", bent(a, &|_| {})),
        ("for another pact", bent(c, &|n| n.pact = PactId::from_entropy(9))),
        ("over an older serial", bent(c, &|n| n.through = Serial(2))),
        ("that counts for ever", bent(c, &|n| n.through = Serial(u64::MAX))),
        ("that counts far ahead", bent(c, &|n| n.through = Serial(3 + SERIAL_JUMP_MAX + 1))),
        ("forged", foreign.sign(&good, serial)),
        ("of a cloud that is no member", {
            let stranger = Kit::new("city-x");
            stranger.sign(&Notice::new(&state.current().unwrap().pact, Serial(3), &stranger.cloud, None, NOW), serial)
        }),
        ("as a document of another kind", other_kind),
        ("with somebody's signature beside it", countersigned),
        ("raising what it lends", with(&|m| m.terms.lends.cpu_millis += 1)),
        ("raising its storage", with(&|m| m.terms.storage_bytes += 1)),
        ("another price, lower", with(&|m| m.terms.price_per_cpu_hour = Money(0))),
        ("another price, higher", with(&|m| m.terms.price_per_cpu_hour.0 += 1)),
        ("a shorter recall", with(&|m| m.terms.recall_notice_ms -= 1)),
        ("longer leases", with(&|m| m.terms.lease_ttl_ms_max += 1)),
        ("more holds", with(&|m| m.terms.holds_per_borrower += 1)),
        (
            "lending less and raising beside it",
            with(&|m| (m.terms.lends.memory_mib, m.terms.storage_bytes) = (0, u64::MAX)),
        ),
        ("of terms that cannot be", with(&|m| m.terms.share_per_borrower_percent = 0)),
        ("an address that is none", with(&|m| m.api_address = "nowhere".into())),
        ("that changes nothing", with(&|_| {})),
        ("another's entry", bent(c, &|n| n.entry = Some(a.member()))),
        ("another's document key", with(&|m| m.document_key = a.key.public_jwk())),
        ("a key without the authority", unvouched),
        ("a key with an unknown authority", vouched),
        ("roots without the authority", c.sign(&own_roots, serial)),
        (
            "a bundle that goes back",
            with(&|m| m.bundle = m.bundle.replace("\"spiffe_sequence\":1", "\"spiffe_sequence\":0")),
        ),
        ("of another version", raw(&|v| v["apiVersion"] = "pumasi/v2".into())),
        ("of another kind inside", raw(&|v| v["kind"] = "Pact".into())),
        ("with a field more", raw(&|v| v["and"] = true.into())),
    ];
    assert!(crafted.len() >= 17);
    for (what, document) in &crafted {
        let taken = world.states[0].take_notice(document);
        assert!(taken.is_err(), "a notice {what} was taken: {taken:?}");
    }
    // A true one, then those before it.
    let first = c.notice(
        state,
        Some({
            let mut e = entry.clone();
            e.terms.lends.cpu_millis = 500;
            e
        }),
        1,
    );
    let second = c.notice(
        state,
        Some({
            let mut e = entry.clone();
            e.terms.lends.cpu_millis = 400;
            e
        }),
        2,
    );
    world.takes(0, &second);
    assert!(matches!(world.states[0].take_notice(&first), Err(PactError::NotNewer { .. })));
    assert_eq!(world.states[0].current().unwrap().pact.members[2].terms.lends.cpu_millis, 400);
}

#[test]
fn borrowers_may_be_fewer_never_more() {
    let name = |n: &str| CloudName::parse(n).unwrap();
    let was = Member {
        terms: Terms { borrowers: vec![name("x"), name("y")], ..Terms::default() },
        role: Role::Cloud,
        ..Kit::new("city-c").member()
    };
    let is = |borrowers: &[&str]| {
        let mut is = was.clone();
        is.terms.borrowers = borrowers.iter().map(|b| name(b)).collect();
        one_sided(&was, &is).is_ok()
    };
    assert!(is(&["x"]) && is(&["y"]));
    assert!(!is(&["x", "z"]) && !is(&[]) && !is(&["x", "y"]));
}
