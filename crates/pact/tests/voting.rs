//! What a pact says of voting: who may be named, what stays as it was, and what one step may change.

#![allow(clippy::unwrap_used)] // a test helper fails loudly

use pumasi_ownership::timers::Profile;
use pumasi_ownership::{State, Voting as Register};
use pumasi_pact::*;
use pumasi_terms::pact::{Member, Pact, Role, Terms, Voting, VotingPace};
use pumasi_terms::{CloudName, Digest, PactId, Resources, Serial, WallMs};
use pumasi_trust::{Authority, DocumentKey, SignedDocument};
use std::collections::BTreeMap;

const NOW: WallMs = WallMs(1_800_000_000_000);

fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

struct Kit {
    key: DocumentKey,
    member: Member,
}

fn kit(name: &str) -> Kit {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path(), &cloud(name), NOW).unwrap();
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
    Kit { key, member }
}

struct World {
    kits: Vec<Kit>,
    held: Adopted,
}

/// `count` members, as all have signed.
fn world(count: usize) -> World {
    let kits: Vec<Kit> = ["city-a", "city-b", "city-c", "city-d"][..count].iter().map(|n| kit(n)).collect();
    let mut pact = found(PactId::from_entropy(1), kits[0].member.clone(), "EUR", NOW).unwrap();
    pact.members = kits.iter().map(|k| k.member.clone()).collect();
    let held = Adopted::restore(sign(&kits, &pact)).unwrap();
    World { kits, held }
}

fn sign(kits: &[Kit], pact: &Pact) -> SignedDocument {
    let bytes = payload(pact).unwrap();
    let first = &kits[0];
    let document = SignedDocument::sign_new(&bytes, KIND, &first.member.cloud, pact.serial, &first.key).unwrap();
    kits[1..].iter().fold(document, |d, k| d.countersign(&k.member.cloud, &k.key).unwrap())
}

fn voting(voters: &[&str]) -> Voting {
    Voting {
        since: Serial(99),
        voters: voters.iter().map(|v| cloud(v)).collect(),
        incarnations: BTreeMap::new(),
        timers: (&Profile::Default.timers()).into(),
        pace: VotingPace { window_ms: 600_000, automatic: None },
    }
}

fn voted(world: &World, voting: Option<Voting>) -> Result<Pact, PactError> {
    let pact = &world.held.pact;
    vote(pact, world.held.digest(), pact.serial.next(), voting, NOW)
}

fn considered(world: &World, pact: &Pact) -> Result<Change, PactError> {
    check_successor(&world.held, &sign(&world.kits, pact), &cloud("city-b"), &Policy::default())
}

#[test]
fn pacts_of_before_have_the_same_bytes() {
    let pact = &world(2).held.pact;
    let text = String::from_utf8(payload(pact).unwrap()).unwrap();
    assert!(!text.contains("voting") && !text.contains("role"), "{text}");
}

#[test]
fn two_voters_and_even_numbers_are_refused_with_the_reason() {
    let world = world(4);
    let why = |voters: &[&str]| voted(&world, Some(voting(voters))).unwrap_err().to_string();
    assert!(why(&["city-a", "city-b"]).contains("2 voters cannot tell a dead partner from a cut link; add a witness"));
    assert!(why(&["city-a", "city-b", "city-c", "city-d"]).contains("3, 5 or 7 voters, not 4"));
    assert!(why(&["city-a", "city-b", "city-x"]).contains("city-x"));
    assert!(why(&["city-a", "city-a", "city-b"]).contains("each once"));
    let mut hasty = voting(&["city-a", "city-b", "city-c"]);
    hasty.timers.renew_ms = 900;
    let told = voted(&world, Some(hasty)).unwrap_err().to_string();
    assert!(told.contains("I1") && told.contains("900") && told.contains("2200"), "{told}");
}

#[test]
fn all_voters_begin_from_the_same_bytes() {
    let world = world(3);
    let pact = voted(&world, Some(voting(&["city-c", "city-a", "city-b"]))).unwrap();
    assert_eq!(pact.voting.as_ref().unwrap().since, pact.serial, "voting that begins names its own serial");
    assert_eq!(considered(&world, &pact).unwrap(), Change::Voting);
    let document = sign(&world.kits, &pact);
    let first = |document: &SignedDocument| {
        let read = read(document.unverified_payload()).unwrap();
        let register = Register::of(&read, document.digest()).unwrap();
        State::new(read.id.clone(), register).unwrap().to_json().unwrap()
    };
    assert_eq!(first(&document), first(&document.clone()));
    // Another order of signatures is the same pact.
    let other = world.kits[1..].iter().rev().fold(
        SignedDocument::sign_new(&payload(&pact).unwrap(), KIND, &cloud("city-a"), pact.serial, &world.kits[0].key)
            .unwrap(),
        |d, k| d.countersign(&k.member.cloud, &k.key).unwrap(),
    );
    assert_eq!(first(&document), first(&other));
}

#[test]
fn one_step_changes_the_voting_and_nothing_else() {
    let mut world = world(4);
    let pact = voted(&world, Some(voting(&["city-a", "city-b", "city-c"]))).unwrap();
    let mut both = pact.clone();
    both.members[0].terms.recall_notice_ms = 9_000;
    assert!(matches!(considered(&world, &both), Err(PactError::ManyChanges(_))));
    let began = pact.serial;
    world.held = Adopted::restore(sign(&world.kits, &pact)).unwrap();
    // It goes on under its own beginning.
    let next = voted(&world, Some(voting(&["city-a", "city-b", "city-d"]))).unwrap();
    assert_eq!(next.voting.as_ref().unwrap().since, began);
    assert_eq!(considered(&world, &next).unwrap(), Change::Voting);
    let mut anew = next.clone();
    anew.voting.as_mut().unwrap().since = next.serial;
    assert!(matches!(considered(&world, &anew), Err(PactError::VotingSince)));
    // A voter that leaves is named on, and counts as down.
    let left = dismiss(&world.held.pact, world.held.digest(), next.serial, &cloud("city-c"), NOW).unwrap();
    assert_eq!(left.voting, world.held.pact.voting);
    let stopped = voted(&world, None).unwrap();
    assert_eq!((considered(&world, &stopped).unwrap(), &stopped.voting), (Change::Voting, &None));
}

#[test]
fn a_witness_lends_nothing_and_its_role_is_no_word_of_its_own() {
    let world = world(3);
    let was = world.held.pact.members[2].clone();
    let witness = Member { role: Role::Witness, ..was.clone() };
    assert!(matches!(one_sided(&was, &witness), Err(PactError::NeedsAll(..))));
    let mut pact = world.held.pact.clone();
    pact.members[2] = witness;
    assert!(payload(&pact).is_ok());
    pact.members[2].terms.lends = Resources { cpu_millis: 1, memory_mib: 0 };
    assert!(payload(&pact).unwrap_err().to_string().contains("a witness lends nothing"));
    assert_eq!(Register::of(&pact, Digest([0; 32])), None);
}
