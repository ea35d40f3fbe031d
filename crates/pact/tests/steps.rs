//! A federation of real keys, step by step: what members sign, what they refuse, and what always holds.

#![allow(clippy::unwrap_used)] // a test helper fails loudly

use proptest::prelude::*;
use pumasi_pact::*;
use pumasi_terms::pact::{Member, Pact, Role, Terms};
use pumasi_terms::{CloudName, Digest, PactId, Serial, WallMs};
use pumasi_trust::{Authority, DocumentKey, SignedDocument, SpiffeId, VerifyError};
use std::sync::OnceLock;

const NOW: WallMs = WallMs(1_800_000_000_000);

fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

struct Kit {
    cloud: CloudName,
    key: DocumentKey,
    authority: Authority,
    next_bundle: String,
    member: Member,
}

fn kit(name: &str) -> Kit {
    let dir = tempfile::tempdir().unwrap();
    let mut authority = Authority::create(dir.path(), &cloud(name), NOW).unwrap();
    let key = DocumentKey::generate().unwrap();
    let member = Member {
        cloud: cloud(name),
        api_address: format!("{name}.example:7001"),
        gateway_address: format!("{name}.example:7002"),
        bundle: authority.bundle().unwrap().to_json(),
        document_key: key.public_jwk(),
        terms: Terms::default(),
        role: Role::Cloud,
    };
    authority.prepare(NOW).unwrap();
    let next_bundle = authority.bundle().unwrap().to_json();
    Kit { cloud: cloud(name), key, authority, next_bundle, member }
}

fn kits() -> &'static [Kit] {
    static KITS: OnceLock<Vec<Kit>> = OnceLock::new();
    KITS.get_or_init(|| ["city-a", "city-b", "city-c", "city-d", "city-e"].map(kit).into())
}

/// Newcomers are signed by themselves.
fn auto() -> Policy {
    Policy { admit: true, ..Policy::default() }
}

fn sign(pact: &Pact, by: &Kit) -> SignedDocument {
    SignedDocument::sign_new(&payload(pact).unwrap(), KIND, &by.cloud, pact.serial, &by.key).unwrap()
}

/// Every member with its state; those outside have none.
struct World {
    states: Vec<Option<PactState>>,
}

impl World {
    fn founded() -> Self {
        let a = &kits()[0];
        let pact = found(PactId::from_entropy(1), a.member.clone(), "EUR", NOW).unwrap();
        let state = PactState::default().adopt(sign(&pact, a), &a.cloud, a.key.public()).unwrap();
        let mut states: Vec<_> = kits().iter().map(|_| None).collect();
        states[0] = Some(state);
        Self { states }
    }
    fn of(count: usize) -> Self {
        let mut world = Self::founded();
        for newcomer in 1..count {
            world.admit(0, newcomer).unwrap();
        }
        world
    }
    fn state(&self, i: usize) -> &PactState {
        self.states[i].as_ref().unwrap()
    }
    fn held(&self, i: usize) -> &Adopted {
        self.state(i).current().unwrap()
    }
    fn members(&self) -> Vec<usize> {
        (0..self.states.len()).filter(|i| self.states[*i].is_some()).collect()
    }

    /// Lets all members consider, sign and adopt `document`, which the proposer has promised.
    fn carry(&mut self, mut document: SignedDocument, policy: &Policy) -> Result<Change, PactError> {
        let mut change = None;
        let new = read(document.unverified_payload()).unwrap();
        for i in self.members() {
            let kit = &kits()[i];
            if new.member(&kit.cloud).is_none() {
                continue;
            }
            let (found, promised) = self.state(i).consider(&document, &kit.cloud, policy)?;
            self.states[i] = Some(promised);
            change = Some(found);
            if !document.signed_by(&kit.cloud) {
                document = document.countersign(&kit.cloud, &kit.key).unwrap();
            }
        }
        for (i, kit) in kits().iter().enumerate() {
            let (was, is) = (self.states[i].clone(), new.member(&kit.cloud).is_some());
            if was.is_none() && !is {
                continue;
            }
            let after = was.unwrap_or_default().adopt(document.clone(), &kit.cloud, kit.key.public())?;
            self.states[i] = is.then_some(after);
        }
        Ok(change.unwrap())
    }

    fn admit(&mut self, inviter: usize, newcomer: usize) -> Result<Change, PactError> {
        let held = self.held(inviter);
        let entry = kits()[newcomer].member.clone();
        let pact = admit(&held.pact, held.digest(), self.state(inviter).next_serial(), entry, NOW)?;
        let document = sign(&pact, &kits()[inviter]);
        let document = document.countersign(&kits()[newcomer].cloud, &kits()[newcomer].key).unwrap();
        self.carry(document, &auto())
    }
    fn dismiss(&mut self, proposer: usize, who: usize, policy: &Policy) -> Result<Change, PactError> {
        let held = self.held(proposer);
        let serial = self.state(proposer).next_serial();
        let pact = dismiss(&held.pact, held.digest(), serial, &kits()[who].cloud, NOW)?;
        self.carry(sign(&pact, &kits()[proposer]), policy)
    }
    fn update(&mut self, who: usize, change: impl FnOnce(&mut Member)) -> Result<Change, PactError> {
        let held = self.held(who);
        let mut entry = held.pact.member(&kits()[who].cloud).unwrap().clone();
        change(&mut entry);
        let pact = update_member(&held.pact, held.digest(), self.state(who).next_serial(), entry, NOW)?;
        self.carry(sign(&pact, &kits()[who]), &auto())
    }
}

/// The proposal of member `by`, with anything at all changed, and what member 1 says to it.
fn proposed(world: &World, by: usize, bend: impl FnOnce(&mut Pact)) -> Result<Change, PactError> {
    let held = world.held(by);
    let mut pact = held.pact.clone();
    pact.serial = world.state(by).next_serial();
    pact.parent = Some(held.digest());
    bend(&mut pact);
    let bytes = serde_json::to_vec(&pact).unwrap();
    let document = SignedDocument::sign_new(&bytes, KIND, &kits()[by].cloud, pact.serial, &kits()[by].key).unwrap();
    let own = &kits()[1].cloud;
    world.state(1).consider(&document, own, &auto()).map(|(change, _)| change)
}

#[test]
fn clouds_enter_change_and_leave() {
    let mut world = World::of(3);
    assert_eq!(world.held(2).pact.serial, Serial(3));
    let clouds: Vec<_> = world.held(1).pact.members.iter().map(|m| m.cloud.as_str().to_owned()).collect();
    assert_eq!(clouds, ["city-a", "city-b", "city-c"]);
    let b = kits()[1].cloud.clone();
    assert_eq!(world.update(1, |m| m.terms.recall_notice_ms = 7_000).unwrap(), Change::Updated { cloud: b.clone() });
    let bundle = kits()[1].next_bundle.clone();
    assert_eq!(world.update(1, |m| m.bundle = bundle).unwrap(), Change::Updated { cloud: b.clone() });
    // The leaver proposes and signs its own leave: no operator is asked.
    assert_eq!(world.dismiss(1, 1, &auto()).unwrap(), Change::Left { cloud: b.clone() });
    assert!(world.held(0).pact.member(&b).is_none());
    // It may come back later.
    world.admit(2, 1).unwrap();
    assert_eq!(world.members(), [0, 1, 2]);

    let trust = trust_store(&world.held(0).pact).unwrap();
    assert!(trust.allows(&SpiffeId::daemon(&b)) && trust.allows(&SpiffeId::gateway(&b)));
    assert!(!trust.allows(&SpiffeId::operator(&b)) && !trust.allows(&SpiffeId::daemon(&kits()[3].cloud)));
    assert_eq!(trust.bundles().len(), 3);
}

#[test]
fn a_dismissal_needs_an_operator_and_everyone_else() {
    let mut world = World::of(3);
    let refused = world.dismiss(0, 2, &auto());
    assert!(matches!(refused, Err(PactError::NeedsOperator(_))), "{refused:?}");
    let change = world.dismiss(0, 2, &Policy::approved()).unwrap();
    assert_eq!(change, Change::Dismissed { cloud: kits()[2].cloud.clone() });
    assert_eq!(world.members(), [0, 1]);
}

#[test]
fn one_member_alone_cannot_send_the_others_home() {
    let world = World::of(3);
    let (a, b) = (&kits()[0], &kits()[1]);
    let held = world.held(0);
    let mut coup = held.pact.clone();
    coup.members.truncate(1);
    coup.serial = held.pact.serial.next();
    coup.parent = Some(held.digest());
    let adopted = world.state(1).adopt(sign(&coup, a), &b.cloud, b.key.public());
    assert!(matches!(adopted, Err(PactError::NotOurs(_))), "{adopted:?}");
    // Nor by a parent that we have never seen.
    coup.members.push(kits()[2].member.clone());
    coup.parent = Some(Digest([9; 32]));
    let adopted = world.state(1).adopt(sign(&coup, a), &b.cloud, b.key.public());
    assert!(matches!(adopted, Err(PactError::OtherParent { .. })), "{adopted:?}");
    // And the true dismissal needs the third one's signature.
    let pact = dismiss(&held.pact, held.digest(), held.pact.serial.next(), &b.cloud, NOW).unwrap();
    let adopted = world.state(1).adopt(sign(&pact, a), &b.cloud, b.key.public());
    assert!(matches!(adopted, Err(PactError::Document(VerifyError::MissingSigner(_)))), "{adopted:?}");
}

#[test]
fn an_incomplete_or_foreign_pact_is_not_adopted() {
    let mut world = World::of(2);
    let (a, b) = (&kits()[0], &kits()[1]);
    let held = world.held(0).clone();
    let mut entry = a.member.clone();
    entry.terms.recall_notice_ms = 1;
    let pact = update_member(&held.pact, held.digest(), Serial(3), entry, NOW).unwrap();
    let half = sign(&pact, a);
    let adopted = world.state(0).adopt(half.clone(), &a.cloud, a.key.public());
    assert!(matches!(adopted, Err(PactError::Document(VerifyError::MissingSigner(_)))));
    let full = half.countersign(&b.cloud, &b.key).unwrap();
    world.states[0] = Some(world.state(0).adopt(full.clone(), &a.cloud, a.key.public()).unwrap());
    let again = world.state(0).adopt(full.clone(), &a.cloud, a.key.public());
    assert!(matches!(again, Err(PactError::NotNewer { .. })));
    let back = world.state(0).adopt(held.document.clone(), &a.cloud, a.key.public());
    assert!(matches!(back, Err(PactError::NotNewer { .. })));
    // A whole pact of others, in which somebody made us a member with a key of their own.
    let mallory = DocumentKey::generate().unwrap();
    let mut false_b = b.member.clone();
    false_b.document_key = mallory.public_jwk();
    let pact = found(PactId::from_entropy(2), false_b, "EUR", NOW).unwrap();
    let document = SignedDocument::sign_new(&payload(&pact).unwrap(), KIND, &b.cloud, Serial(1), &mallory).unwrap();
    let adopted = PactState::default().adopt(document, &b.cloud, b.key.public());
    assert!(matches!(adopted, Err(PactError::Document(VerifyError::WrongKey { .. }))), "{adopted:?}");
    let other = found(PactId::from_entropy(2), b.member.clone(), "EUR", NOW).unwrap();
    let adopted = world.state(1).adopt(sign(&other, b), &b.cloud, b.key.public());
    assert!(matches!(adopted, Err(PactError::OtherPact { .. })));
}

#[test]
fn a_document_key_changes_with_the_signature_of_the_old_one() {
    let mut world = World::of(2);
    let fresh = DocumentKey::generate().unwrap();
    world.update(1, |m| m.document_key = fresh.public_jwk()).unwrap();
    // From now on the old key is nobody's.
    let by_old_key = world.update(1, |m| m.terms.recall_notice_ms = 9);
    assert!(matches!(by_old_key, Err(PactError::Document(VerifyError::WrongKey { .. }))), "{by_old_key:?}");
}

#[test]
fn two_proposals_of_one_serial_are_not_both_signed() {
    let mut world = World::of(3);
    let held = world.held(0).clone();
    let change = |i: usize, ms: u64, serial: Serial| {
        let mut entry = kits()[i].member.clone();
        entry.terms.recall_notice_ms = ms;
        sign(&update_member(&held.pact, held.digest(), serial, entry, NOW).unwrap(), &kits()[i])
    };
    let (one, two) = (change(0, 1, Serial(4)), change(1, 2, Serial(4)));
    let third = kits()[2].cloud.clone();
    let (_, promised) = world.state(2).consider(&one, &third, &auto()).unwrap();
    // The promise survives the process.
    let promised: PactState = serde_json::from_str(&serde_json::to_string(&promised).unwrap()).unwrap();
    assert!(promised.consider(&one, &third, &auto()).is_ok(), "asked again");
    let refused = promised.consider(&two, &third, &auto());
    assert!(matches!(refused, Err(PactError::SerialTaken { next: Serial(5), .. })), "{refused:?}");
    // The other one is proposed again above it, and overtakes the one that failed.
    let two = change(1, 2, Serial(5));
    world.states[2] = Some(promised);
    world.carry(two, &auto()).unwrap();
    assert_eq!(world.held(2).pact.serial, Serial(5));
    // Too late, and too far ahead.
    assert!(matches!(proposed(&world, 0, |p| p.serial = Serial(4)), Err(PactError::NotNewer { .. })));
    let ahead = proposed(&world, 0, |p| {
        p.serial = Serial(5 + SERIAL_JUMP_MAX + 1);
        p.members[0].terms.recall_notice_ms = 3;
    });
    assert!(matches!(ahead, Err(PactError::SerialTaken { .. })), "{ahead:?}");
}

#[test]
fn a_proposal_changes_one_thing_that_is_its_proposers_to_change() {
    let world = World::of(3);
    let stranger = kits()[3].member.clone();
    assert!(proposed(&world, 0, |p| p.members[0].terms.recall_notice_ms = 1).is_ok());
    let is = |result: Result<Change, PactError>, wanted: &str| {
        let found = format!("{:?}", result.unwrap_err());
        assert!(found.starts_with(wanted), "{found}, expected {wanted}");
    };
    is(proposed(&world, 0, |_| ()), "ManyChanges");
    is(proposed(&world, 0, |p| p.members[2].terms.recall_notice_ms = 1), "Unsigned");
    is(proposed(&world, 0, |p| p.members[1].api_address = "evil.example:1".into()), "Unsigned");
    is(proposed(&world, 0, |p| p.members.swap(0, 2)), "ManyChanges");
    is(
        proposed(&world, 0, |p| {
            p.members[0].terms.recall_notice_ms = 1;
            p.members[2].terms.recall_notice_ms = 1;
        }),
        "ManyChanges",
    );
    is(proposed(&world, 0, |p| p.members.push(stranger.clone())), "Unsigned");
    is(proposed(&world, 0, |p| drop(std::mem::replace(&mut p.members[2], stranger.clone()))), "ManyChanges");
    is(proposed(&world, 0, |p| p.members.push(p.members[2].clone())), "Fields");
    is(
        proposed(&world, 0, |p| {
            let mut twin = stranger.clone();
            twin.document_key = p.members[2].document_key.clone();
            p.members.push(twin);
        }),
        "SharedKey",
    );
    is(proposed(&world, 0, |p| p.members.truncate(2)), "NeedsOperator");
    is(proposed(&world, 0, |p| drop(p.members.remove(1))), "NotOurs");
    is(proposed(&world, 0, |p| p.members.clear()), "Fields");
    is(proposed(&world, 0, |p| p.currency = "USD".into()), "Currency");
    is(proposed(&world, 0, |p| p.id = PactId::from_entropy(9)), "OtherPact");
    is(proposed(&world, 0, |p| p.parent = Some(Digest([0; 32]))), "OtherParent");
    is(proposed(&world, 0, |p| p.parent = None), "Unreadable");
    is(proposed(&world, 0, |p| p.created_at = WallMs(NOW.0 - 1)), "GoesBack");
    is(proposed(&world, 0, |p| p.api_version = "pumasi/v2".into()), "Version");
    is(proposed(&world, 0, |p| p.kind = "Lease".into()), "Unreadable");
    is(proposed(&world, 0, |p| p.members[0].bundle = kits()[3].member.bundle.clone()), "Bundle");
    is(proposed(&world, 0, |p| p.members[0].document_key = "{}".into()), "Key");
    is(proposed(&world, 0, |p| p.members[0].terms.share_per_borrower_percent = 0), "Fields");
}

#[test]
fn a_newcomer_needs_a_member_to_speak_for_it_and_a_bundle_never_goes_back() {
    let mut world = World::of(2);
    let (newcomer, held) = (&kits()[2], world.held(0).clone());
    let pact = admit(&held.pact, held.digest(), Serial(3), newcomer.member.clone(), NOW).unwrap();
    let alone = sign(&pact, newcomer);
    let own = kits()[1].cloud.clone();
    let judged = world.state(1).consider(&alone, &own, &auto());
    assert!(matches!(judged, Err(PactError::NoSponsor(_))), "{judged:?}");
    let sponsored = alone.countersign(&kits()[0].cloud, &kits()[0].key).unwrap();
    let closed = Policy::default();
    assert!(matches!(world.state(1).consider(&sponsored, &own, &closed), Err(PactError::NeedsOperator(_))));
    let full = Policy { members_max: 2, ..auto() };
    assert!(matches!(world.state(1).consider(&sponsored, &own, &full), Err(PactError::NeedsOperator(_))));
    assert!(world.state(1).consider(&sponsored, &own, &auto()).is_ok());
    // The outer serial must be that of the content.
    let bytes = payload(&pact).unwrap();
    let a = &kits()[0];
    let lie = SignedDocument::sign_new(&bytes, KIND, &a.cloud, Serial(30), &a.key).unwrap();
    let lie = world.state(1).consider(&lie, &own, &auto());
    assert!(matches!(lie, Err(PactError::SerialMismatch { .. })));

    let (older, newer) = (kits()[0].member.bundle.clone(), kits()[0].next_bundle.clone());
    world.update(0, |m| m.bundle = newer).unwrap();
    let back = world.update(0, |m| m.bundle = older);
    assert!(matches!(back, Err(PactError::BundleGoesBack { .. })), "{back:?}");
}

#[test]
fn a_newcomer_checks_the_invitation_before_it_signs() {
    let world = World::of(2);
    let (a, c) = (&kits()[0], &kits()[2]);
    let held = world.held(0);
    let invitation = Invitation {
        pact: held.pact.id.clone(),
        inviter: a.cloud.clone(),
        api_address: a.member.api_address.clone(),
        root: a.authority.fingerprint().unwrap(),
        secret: pumasi_trust::Secret::new([1; 32]),
        expires_at: NOW,
    };
    let pact = admit(&held.pact, held.digest(), Serial(3), c.member.clone(), NOW).unwrap();
    let document = sign(&pact, a);
    assert_eq!(check_invited(&document, &invitation, &c.member).unwrap(), pact);
    let mut other = invitation.clone();
    other.root = kits()[1].authority.fingerprint().unwrap();
    assert!(matches!(check_invited(&document, &other, &c.member), Err(PactError::NotInvited(_))));
    other = invitation.clone();
    other.pact = PactId::from_entropy(5);
    assert!(matches!(check_invited(&document, &other, &c.member), Err(PactError::NotInvited(_))));
    let mut sent = c.member.clone();
    sent.terms.recall_notice_ms = 1;
    assert!(matches!(check_invited(&document, &invitation, &sent), Err(PactError::OurEntryDiffers)));
    let by_another = sign(&pact, &kits()[1]);
    assert!(check_invited(&by_another, &invitation, &c.member).is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Admit(usize, usize),
    Leave(usize),
    Dismiss(usize, usize),
    Update(usize, u64),
    /// A proposal that is promised by all and then lost.
    Lost(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let i = 0..5usize;
    prop_oneof![
        3 => (i.clone(), i.clone()).prop_map(|(a, b)| Step::Admit(a, b)),
        1 => i.clone().prop_map(Step::Leave),
        1 => (i.clone(), i.clone()).prop_map(|(a, b)| Step::Dismiss(a, b)),
        2 => (i.clone(), 0..1000u64).prop_map(|(a, b)| Step::Update(a, b)),
        1 => i.prop_map(Step::Lost),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_serials_rise_and_members_agree(steps in proptest::collection::vec(step(), 1..14)) {
        let mut world = World::founded();
        let mut last = Serial(1);
        for step in steps {
            let members = world.members();
            let pick = |i: usize| members[i % members.len()];
            let before = members.len();
            let held: Vec<_> = members.iter().map(|i| world.held(*i).clone()).collect();
            let done = match step {
                Step::Admit(by, who) => world.admit(pick(by), who).map(|_| before + 1),
                Step::Leave(who) => world.dismiss(pick(who), pick(who), &auto()).map(|_| before - 1),
                Step::Dismiss(by, who) => world.dismiss(pick(by), pick(who), &Policy::approved()).map(|_| before - 1),
                Step::Update(who, ms) => world.update(pick(who), |m| {
                    m.terms.recall_notice_ms = if m.terms.recall_notice_ms == ms { ms + 1 } else { ms };
                }).map(|_| before),
                Step::Lost(by) => {
                    for i in &members {
                        let lost = Digest([by as u8; 32]);
                        let serial = world.state(*i).next_serial();
                        let promised = world.state(*i).promise_own(serial, lost).unwrap();
                        world.states[*i] = Some(promised);
                    }
                    Err(PactError::LastMember)
                }
            };
            let now = world.members();
            match done {
                Ok(count) => {
                    prop_assert_eq!(now.len(), count);
                    let serial = world.held(now[0]).pact.serial;
                    prop_assert!(serial > last);
                    last = serial;
                }
                // A refused step changed nothing.
                Err(_) => prop_assert_eq!(now.iter().map(|i| world.held(*i).clone()).collect::<Vec<_>>(), held),
            }
            for i in &now {
                let pact = &world.held(*i).pact;
                prop_assert_eq!(pact, &world.held(now[0]).pact);
                prop_assert!(pact.member(&kits()[*i].cloud).is_some());
                prop_assert_eq!(pact.members.len(), now.len());
            }
        }
    }

    #[test]
    fn one_bent_byte_of_a_proposal_is_refused(at in 0..10_000usize, bit in 0..7u8) {
        let world = World::of(2);
        let held = world.held(0);
        let mut entry = kits()[0].member.clone();
        entry.terms.recall_notice_ms = 1;
        let pact = update_member(&held.pact, held.digest(), Serial(3), entry, NOW).unwrap();
        let document = sign(&pact, &kits()[0]);
        let mut json = document.to_json().into_bytes();
        let at = at % json.len();
        json[at] ^= 1 << bit;
        if let Ok(bent) = SignedDocument::from_json(&String::from_utf8_lossy(&json)) {
            let judged = world.state(1).consider(&bent, &kits()[1].cloud, &auto());
            prop_assert!(judged.is_err() || bent == document);
        }
    }

    #[test]
    fn reading_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).is_err());
        let _ = serde_json::from_slice::<PactState>(&bytes);
    }
}
