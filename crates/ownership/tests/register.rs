//! What the register does with each command.

#![allow(clippy::unwrap_used)] // a test helper fails loudly

mod kit;

use kit::*;
use pumasi_ownership::command::{ATTESTATION_KIND, BadEntry, ENTRY_VERSION, How, Progress};
use pumasi_ownership::state::{Class, Mode, Phase, Standing};
use pumasi_ownership::*;
use pumasi_terms::{Epoch, MoveId, Serial};
use pumasi_trust::{DocumentKey, SignedDocument};
use std::collections::BTreeMap;

fn shop() -> Agreed {
    agreed("shop", Class::Guaranteed, 100, (1, 2), &["b", "c"])
}

fn with_shop() -> Register {
    let mut r = Register::new(&["a", "b", "c", "d"]);
    r.protects("a", 1, &shop());
    assert_eq!(r.owner(1), ("a".into(), 1));
    r
}

fn transfer(epoch: u64, to: &str, attempt: u32) -> Command {
    let (service, id) = (service(1), MoveId::from_entropy(attempt.into()));
    Command::Transfer { service, epoch: Epoch(epoch), to: cloud(to), id, attempt, positions: BTreeMap::new() }
}

fn cancel(epoch: u64, attempt: u32) -> Command {
    Command::Cancel { service: service(1), epoch: Epoch(epoch), id: MoveId::from_entropy(attempt.into()), attempt }
}

#[test]
fn a_lost_clouds_services_go_to_whom_the_plan_says_and_the_rest_waits_for_it() {
    let mut r = with_shop();
    r.protects("a", 2, &agreed("wiki", Class::Deferred, 1, (1, 1), &["b"]));
    r.protects("a", 3, &agreed("late", Class::Early, 1, (1, 1), &["b"]));
    let lost = r.lost("a", &["b", "c"], vec![taken(1, 1, "b", 2, 2), waits(2, 1, 1)]);
    r.does("b", Command::Lost(Box::new(lost)));
    assert_eq!((r.refused(), r.owner(1), r.owner(2)), (None, ("b".into(), 2), ("a".into(), 1)));
    assert_eq!(r.state.services[&service(1)].phase, Phase::Taken { have: 2, want: 2 });
    assert_eq!(r.state.services[&service(2)].phase, Phase::Waiting { place: 1 });
    assert_eq!(
        r.state.services[&service(3)].phase,
        Phase::Waiting { place: 2 },
        "what the plan did not know is behind"
    );
    // It is late to renew, and comes back on probation to what it owns still.
    r.renews("a", 1, 2);
    assert!(matches!(r.state.clouds[&cloud("a")].standing, Standing::Lost { .. }));
    let rev = r.state.recovery[&cloud("a")].at_rev;
    r.does("a", Command::Rejoin { cloud: cloud("a"), run: 2 });
    assert!(matches!(r.state.clouds[&cloud("a")].standing, Standing::Returning { .. }));
    // Nobody takes it from there any more.
    r.does("b", Command::Recover { cloud: cloud("a"), lost_rev: rev, items: vec![taken(2, 1, "b", 1, 1)] });
    assert_eq!((r.refused(), r.owner(2)), (Some(Code::OtherRun), ("a".into(), 1)));
    let progress = Progress { service: service(2), epoch: Epoch(1), how: How::Full, base: BTreeMap::new() };
    r.does("a", Command::Serving { items: vec![progress] });
    assert_eq!(r.state.services[&service(2)].phase, Phase::Serving);
}

#[test]
fn what_waited_is_taken_later_and_only_from_the_lost_cloud() {
    let mut r = with_shop();
    r.protects("d", 2, &agreed("wiki", Class::Deferred, 1, (1, 1), &["b"]));
    let lost = r.lost("a", &["b", "c"], vec![waits(1, 1, 1), taken(2, 1, "b", 1, 1)]);
    r.does("b", Command::Lost(Box::new(lost)));
    assert_eq!(
        (r.refused(), r.owner(2)),
        (Some(Code::OtherEpoch), ("d".into(), 1)),
        "a plan takes nothing from who lives"
    );
    let rev = r.state.recovery[&cloud("a")].at_rev;
    r.does("b", Command::Recover { cloud: cloud("a"), lost_rev: rev, items: vec![taken(1, 1, "c", 1, 2)] });
    assert_eq!((r.refused(), r.owner(1)), (None, ("c".into(), 2)));
}

#[test]
fn a_loss_needs_the_last_renewal_and_a_majority_that_heard_nothing() {
    let mut r = with_shop();
    let plan = vec![taken(1, 1, "b", 2, 2)];
    let old = r.lost("a", &["b", "c"], plan.clone());
    r.renews("a", 1, 2);
    let refusal = |r: &mut Register, lost| {
        r.does("b", Command::Lost(Box::new(lost)));
        assert_eq!(r.owner(1), ("a".into(), 1));
        r.refused()
    };
    assert_eq!(refusal(&mut r, old), Some(Code::NotTheLast));
    let one = r.lost("a", &["b"], plan.clone());
    assert_eq!(refusal(&mut r, one), Some(Code::NotSilent));
    let twice = r.lost("a", &["b", "b"], plan.clone());
    assert_eq!(refusal(&mut r, twice), Some(Code::NotSilent));
    let stranger = r.lost("a", &["b", "d"], plan.clone());
    assert_eq!(refusal(&mut r, stranger), Some(Code::NotSilent), "d has no vote");
    let itself = r.lost("a", &["b", "a"], plan.clone());
    assert_eq!(refusal(&mut r, itself), Some(Code::NotSilent));
    let mut other = r.lost("a", &["b", "c"], plan.clone());
    other.nonce = 6;
    assert_eq!(refusal(&mut r, other), Some(Code::NotSilent), "an answer to another question");
    let mut run = r.lost("a", &["b", "c"], plan.clone());
    run.run = 2;
    assert_eq!(refusal(&mut r, run), Some(Code::OtherRun));
    let good = r.lost("a", &["b", "c"], plan);
    r.does("d", Command::Lost(Box::new(good.clone())));
    assert_eq!(r.refused(), Some(Code::NotYours), "a member without a vote proposes none");
    r.does("b", Command::Lost(Box::new(good)));
    assert_eq!((r.refused(), r.owner(1)), (None, ("b".into(), 2)));
}

#[test]
fn attestations_are_verified_with_the_keys_of_the_pact() {
    let keys: BTreeMap<&str, DocumentKey> =
        ["a", "b", "c"].into_iter().map(|n| (n, DocumentKey::generate().unwrap())).collect();
    let mut r = with_shop();
    for (name, key) in &keys {
        r.state.voting.voters.insert(cloud(name), key.public_jwk());
    }
    let mut lost = r.lost("a", &["b", "c"], vec![taken(1, 1, "b", 2, 2)]);
    let says = lost.attestations[0].unverified_payload().to_vec();
    let sign = |name: &str, by: &str, kind: &str, serial: u64| {
        SignedDocument::sign_new(&says, kind, &cloud(name), Serial(serial), &keys[by]).unwrap()
    };
    let b = sign("b", "b", ATTESTATION_KIND, 1);
    let code = |documents: Vec<SignedDocument>, r: &Register, lost: &mut Lost| {
        lost.attestations = documents;
        let entry = Entry::new(cloud("b"), Command::Lost(Box::new(lost.clone())));
        let (_, told) = apply(r.state.clone(), r.state.revision + 1, &entry, Rules::new(&Signatures));
        told.iter().find_map(|t| if let Told::Refused(r) = t { Some((r.code, r.text.clone())) } else { None })
    };
    let forged = code(vec![b.clone(), sign("c", "b", ATTESTATION_KIND, 1)], &r, &mut lost).unwrap();
    assert_eq!(forged.0, Code::NotSilent);
    assert!(forged.1.contains('c') && forged.1.contains("key"), "{}", forged.1);
    for (kind, serial) in [("lease", 1), (ATTESTATION_KIND, 2)] {
        assert_eq!(code(vec![b.clone(), sign("c", "c", kind, serial)], &r, &mut lost).unwrap().0, Code::NotSilent);
    }
    assert_eq!(code(vec![b.clone(), sign("c", "c", ATTESTATION_KIND, 1)], &r, &mut lost), None);
}

#[test]
fn a_transfer_and_its_cancel_exclude_each_other() {
    let mut r = with_shop();
    r.does("a", cancel(1, 3));
    assert_eq!(r.refused(), None);
    r.does("a", transfer(1, "b", 3));
    assert_eq!((r.refused(), r.owner(1)), (Some(Code::Cancelled), ("a".into(), 1)));
    r.does("a", transfer(1, "b", 2));
    assert_eq!(r.refused(), Some(Code::Cancelled), "an older attempt is over too");
    r.does("c", transfer(1, "c", 4));
    assert_eq!(r.refused(), Some(Code::NotYours));
    r.does("a", transfer(1, "d", 4));
    assert_eq!(r.refused(), Some(Code::NotAStandby));
    r.does("a", transfer(1, "b", 4));
    assert_eq!((r.refused(), r.owner(1)), (None, ("b".into(), 2)));
    r.does("a", cancel(1, 4));
    assert_eq!((r.refused(), r.owner(1)), (Some(Code::OtherEpoch), ("b".into(), 2)));
    assert_eq!(r.state.moved.len(), 1);
}

#[test]
fn a_synchronous_service_goes_only_where_every_acknowledged_write_is() {
    let mut r = with_shop();
    r.protects("a", 1, &Agreed { mode: Mode::Sync, ..shop() });
    let set = |names: &[&str]| Command::InSync {
        service: service(1),
        epoch: Epoch(1),
        set: names.iter().map(|n| cloud(n)).collect(),
        after: None,
    };
    r.does("a", set(&["d"]));
    assert_eq!(r.refused(), Some(Code::NotAStandby));
    r.does("a", set(&["c"]));
    let lost = r.lost("a", &["b", "c"], vec![taken(1, 1, "b", 2, 2)]);
    r.does("b", Command::Lost(Box::new(lost)));
    assert_eq!((r.refused(), r.owner(1)), (Some(Code::NotInSync), ("a".into(), 1)));
    let rev = r.state.recovery[&cloud("a")].at_rev;
    r.does("b", Command::Recover { cloud: cloud("a"), lost_rev: rev, items: vec![taken(1, 1, "c", 2, 2)] });
    assert_eq!((r.refused(), r.owner(1)), (None, ("c".into(), 2)));
    assert!(r.state.services[&service(1)].in_sync.is_empty(), "the new owner is no standby of itself");
}

#[test]
fn names_and_hosts_are_unique_and_what_ended_stays_ended() {
    let mut r = with_shop();
    r.protects("b", 2, &agreed("shop", Class::Early, 1, (1, 1), &[]));
    assert_eq!(r.refused(), Some(Code::NameTaken));
    let text = format!("{:?}", r.told);
    assert!(text.contains("a owns"), "{text}");
    let mut other = agreed("store", Class::Early, 1, (1, 1), &[]);
    other.hosts.insert("shop.example".into());
    r.protects("b", 2, &other);
    assert_eq!(r.refused(), Some(Code::HostTaken));
    r.does("b", Command::Unprotect { service: service(1), epoch: Epoch(1) });
    assert_eq!(r.refused(), Some(Code::NotYours));
    r.does("a", Command::Unprotect { service: service(1), epoch: Epoch(1) });
    assert_eq!(r.refused(), None);
    r.protects("a", 1, &shop());
    assert_eq!(r.refused(), Some(Code::Ended));
    r.protects("b", 2, &other);
    assert_eq!(r.refused(), None, "the host is free again");
}

#[test]
fn beyond_the_pace_nothing_moves_until_operators_of_a_majority_say_so() {
    let mut r = with_shop();
    r.protects("b", 2, &agreed("wiki", Class::Early, 1, (1, 1), &["c"]));
    let first = r.lost("d", &["b", "c"], vec![]);
    r.does("b", Command::Lost(Box::new(first)));
    let lost = r.lost("a", &["b", "c"], vec![taken(1, 1, "c", 2, 2)]);
    r.does("b", Command::Lost(Box::new(lost)));
    assert!(r.told.iter().any(|t| matches!(t, Told::Asked { .. })));
    assert_eq!(r.owner(1), ("a".into(), 1));
    let rev = r.state.recovery[&cloud("a")].at_rev;
    let approve = |cloud_rev| Command::Approve { cloud: cloud("a"), lost_rev: cloud_rev };
    r.does("b", approve(rev + 1));
    assert_eq!(r.refused(), Some(Code::OtherRun));
    r.does("b", approve(rev));
    r.does("b", approve(rev));
    r.does("a", approve(rev));
    assert_eq!(r.owner(1), ("a".into(), 1), "one operator, and the lost one's, are no majority");
    r.does("c", approve(rev));
    assert_eq!(r.owner(1), ("c".into(), 2));
    r.does("c", approve(rev));
    assert_eq!(r.refused(), Some(Code::NotAsked));
}

#[test]
fn the_pace_counts_time_in_which_there_was_a_leader() {
    let mut r = with_shop();
    let first = r.lost("d", &["b", "c"], vec![]);
    r.does("b", Command::Lost(Box::new(first)));
    assert!(!r.state.within_pace());
    for n in 0..600 {
        // A leader that claims an hour gets a second.
        r.renews_after("b", 1, n + 2, 3_600_000);
    }
    assert!(!r.state.within_pace());
    r.renews_after("b", 1, 602, 1_000);
    assert!(r.state.within_pace());
}

#[test]
fn who_returned_takes_nothing_before_its_probation_is_over_and_twice_as_long_after_a_relapse() {
    let mut r = with_shop();
    let probation = |r: &mut Register, run: u64, breaks: bool| {
        let lost = r.lost("d", &["b", "c"], vec![]);
        r.does("b", Command::Lost(Box::new(lost)));
        r.does("d", Command::Rejoin { cloud: cloud("d"), run });
        let from = r.state.elapsed_ms;
        for seq in 1.. {
            let pause = if breaks && seq == 10 { 3 } else { 0 };
            (0..pause).for_each(|_| r.renews_after("b", 1, 0, 1_000));
            r.renews_after("d", run, seq, 1_000);
            if r.state.may_take(&cloud("d")) {
                return r.state.elapsed_ms - from;
            }
        }
        unreachable!()
    };
    assert_eq!(probation(&mut r, 2, false), 30_000);
    assert_eq!(probation(&mut r, 3, false), 60_000);
    let broken = probation(&mut r, 4, true);
    assert_eq!(broken, 120_000 + 13_000, "a gap longer than the ttl begins it anew");
}

#[test]
fn a_yielded_service_alone_moves_and_a_member_leaves_with_nothing_in_its_hands() {
    let mut r = with_shop();
    let relieve = || Command::Relieve { item: taken(1, 1, "b", 2, 2) };
    r.does("b", relieve());
    assert_eq!(r.refused(), Some(Code::OtherRun), "its owner lives and did not yield it");
    let next = |r: &Register, names: &[&str]| {
        let voting = Voting { serial: r.state.voting.serial.next(), ..voting(names, r.state.voting.timers.clone()) };
        Command::Pact { voting: Box::new(voting) }
    };
    let without = next(&r, &["b", "c", "d"]);
    r.does("b", without.clone());
    assert_eq!(r.refused(), Some(Code::OwnsStill));
    r.does("a", Command::Yield { service: service(1), epoch: Epoch(1), why: "the disk stalls".into() });
    r.does("b", relieve());
    assert_eq!((r.refused(), r.owner(1)), (None, ("b".into(), 2)));
    r.does("b", without.clone());
    assert_eq!((r.refused(), r.state.clouds[&cloud("a")].standing), (None, Standing::Left));
    r.does("b", without);
    assert_eq!(r.refused(), Some(Code::OlderSerial));
    let two = next(&r, &["b", "c"]);
    r.does("b", two);
    assert!(format!("{:?}", r.told).contains("add a witness"), "{:?}", r.told);
    r.does("a", Command::Rejoin { cloud: cloud("a"), run: 9 });
    assert_eq!(r.refused(), Some(Code::UnknownCloud));
}

#[test]
fn an_entry_counts_once_and_one_that_nobody_can_read_counts_for_nobody() {
    let mut r = with_shop();
    let before = r.state.clone();
    let entry = Entry::new(cloud("a"), transfer(1, "b", 0));
    let bytes = entry.to_bytes().unwrap();
    let (again, told) = apply(before.clone(), before.revision, &entry, rules());
    assert_eq!((again, told), (before.clone(), vec![]), "its index was applied already");
    let (after, _) = apply_bytes(before.clone(), before.revision + 1, &bytes, rules()).unwrap();
    assert_eq!(after.services[&service(1)].owner, cloud("b"));
    let (passed, told) = apply_bytes(before.clone(), before.revision + 1, b"{\"version\":1,\"by\":", rules()).unwrap();
    assert!(matches!(&told[..], [Told::Refused(r)] if r.code == Code::Unreadable));
    assert_eq!(State { revision: before.revision, ..passed }, before);
    let newer = format!(r#"{{"version":{},"by":"a","command":{{"wild":1}}}}"#, ENTRY_VERSION + 1);
    let why = apply_bytes(before.clone(), before.revision + 1, newer.as_bytes(), rules()).unwrap_err();
    assert_eq!(why, BadEntry::Newer(ENTRY_VERSION + 1), "its reader stops, and has not passed it over");
    r.does("a", Command::Rejoin { cloud: cloud("a"), run: 1 });
    assert_eq!(r.refused(), Some(Code::OtherRun));
}

#[test]
fn a_set_that_was_changed_since_takes_no_delayed_command_and_another_copy_is_in_no_set() {
    let mut r = with_shop();
    let sync = Agreed { mode: Mode::Sync, ..shop() };
    r.protects("a", 1, &sync);
    let owned = |r: &Register| r.state.services[&service(1)].clone();
    let set = |names: &[&str], after: u64| Command::InSync {
        service: service(1),
        epoch: Epoch(1),
        set: names.iter().map(|n| cloud(n)).collect(),
        after: Some(after),
    };
    let first = owned(&r).sync_count;
    r.does("a", set(&["b", "c"], first));
    assert_eq!((r.refused(), owned(&r).sync_count), (None, first + 1));
    r.does("a", set(&[], first));
    assert_eq!((r.refused(), owned(&r).in_sync.len()), (Some(Code::OtherSet), 2));
    // Under another lease it has another copy.
    let mut other = sync.clone();
    other.standbys[0].lease = pumasi_terms::LeaseId::from_entropy(9);
    r.protects("a", 1, &other);
    assert_eq!((owned(&r).in_sync, owned(&r).sync_count), ([cloud("c")].into(), first + 2));
    r.protects("a", 1, &shop());
    assert!(owned(&r).in_sync.is_empty());
}

#[test]
fn what_says_nothing_of_being_in_step_keeps_the_version_that_it_had() {
    let version = |command| Entry::new(cloud("a"), command).version;
    let protect =
        |mode| Command::Protect { service: service(1), epoch: Epoch(1), agreed: Box::new(Agreed { mode, ..shop() }) };
    let set = |after| Command::InSync { service: service(1), epoch: Epoch(1), set: Default::default(), after };
    assert_eq!([version(protect(Mode::Async)), version(set(None))], [1, 1]);
    assert_eq!([version(protect(Mode::Sync)), version(set(Some(0)))], [2, 2]);
    let bytes = Entry::new(cloud("a"), set(Some(7))).to_bytes().unwrap();
    let text = r#"{"version":2,"by":"a","command":{"in_sync":{"service":"svc-00000000000000000000000000000001","epoch":1,"set":[],"after":7}}}"#;
    assert_eq!((String::from_utf8(bytes).unwrap().as_str(), Entry::from_bytes(text.as_bytes()).is_ok()), (text, true));
}
