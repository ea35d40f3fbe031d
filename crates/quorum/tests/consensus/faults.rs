//! What a peer may say, and what it must not achieve.

use crate::net::{CALM, World};
use pumasi_quorum::message::{Body, Stamp};
use pumasi_quorum::{Message, ProposeError, RaftId, ReceiveError, Received, Role, Storage, Timers};
use pumasi_terms::BootMs;

fn begun() -> (World, RaftId, RaftId) {
    let mut world = World::new(3, 1, Timers::DEFAULT, CALM);
    world.run_until(5_000, |w| w.leader().is_some()).unwrap();
    world.run_busy(1_000, 25);
    let leader = world.leader().unwrap();
    let follower = world.ids().into_iter().find(|id| *id != leader).unwrap();
    (world, leader, follower)
}

fn message(world: &World, from: RaftId, to: RaftId, body: Body) -> Message {
    Message { from, to, stamp: Stamp { run: 99, seq: 1 }, term: world.status(to).term, body }
}

/// etcd "tocommit out of range": a leader confirms what this voter's disk has lost.
#[test]
fn a_panic_of_raft_is_this_groups_and_nobody_elses() {
    let (mut world, leader, follower) = begun();
    let beyond = message(&world, leader, follower, Body::Heartbeat { commit: 1 << 40 }).encode().unwrap();
    let driver = world.nodes.get_mut(&follower).unwrap().driver.as_mut().unwrap();
    let Err(ReceiveError::Fault(fault)) = driver.receive(leader, &beyond) else { panic!("no fault") };
    assert_eq!((fault.during, fault.sender), ("a heartbeat", Some(leader)));
    let told = fault.to_string();
    assert!(told.contains(&leader.to_string()) && told.contains("out of range"), "{told}");
    // It says so, does nothing, and wants nothing done.
    assert_eq!(driver.tick(BootMs(1 << 40)), Err(fault.clone()));
    assert_eq!(driver.propose(b"x".to_vec()), Err(ProposeError::Fault(fault.clone())));
    assert_eq!(driver.status(), Err(&fault));
    assert_eq!(driver.take(), Default::default());
    // Built anew from its disk it goes on: here the message was wrong, not the disk. A late word of before counts for nothing.
    let now = BootMs(world.now);
    let node = world.nodes.get_mut(&follower).unwrap();
    node.disk_settles();
    let kept = node.disk.load().unwrap().unwrap();
    let driver = node.driver.as_mut().unwrap();
    driver.rebuild(&kept, now).unwrap();
    driver.persisted(1).unwrap();
    world.all_agree_within(5_000);
}

#[test]
fn what_is_not_the_senders_own_is_refused() {
    let (mut world, leader, follower) = begun();
    let heartbeat = message(&world, leader, follower, Body::Heartbeat { commit: 1 });
    let other = world.ids().into_iter().find(|id| ![leader, follower].contains(id)).unwrap();
    let driver = world.nodes.get_mut(&follower).unwrap().driver.as_mut().unwrap();
    let forged = driver.receive(other, &heartbeat.encode().unwrap());
    assert_eq!(forged, Err(ReceiveError::Forged { from: other, said: leader }));
    let astray = Message { to: other, ..heartbeat.clone() };
    let astray = driver.receive(leader, &astray.encode().unwrap());
    assert_eq!(astray, Err(ReceiveError::NotForUs { from: leader, to: other }));
    assert_eq!(driver.receive(leader, &heartbeat.encode().unwrap()), Ok(Received::Taken));
    // Found by the property test: one absurd term, and nobody could be elected ever again.
    let term = heartbeat.term + (1 << 32) + 1;
    let leap = driver.receive(leader, &Message { term, ..heartbeat.clone() }.encode().unwrap());
    assert_eq!(leap, Err(ReceiveError::Leap { from: leader, term, ours: heartbeat.term }));
    let append = Body::Append { index: 1, log_term: 1, commit: 1, entries: Vec::new() };
    let append = Message { body: append, ..heartbeat }.encode().unwrap();
    assert_eq!(driver.receive(leader, &append), Ok(Received::Taken));
    assert_eq!(driver.receive(leader, &append), Ok(Received::Overtaken), "the same one twice");
}

#[test]
fn a_follower_says_whom_to_ask() {
    let (mut world, leader, follower) = begun();
    let mut propose = |id, command: &[u8]| {
        let driver = world.nodes.get_mut(&id).unwrap().driver.as_mut().unwrap();
        driver.propose(command.to_vec())
    };
    assert_eq!(propose(follower, b"x"), Err(ProposeError::NotLeader { leader: Some(leader) }));
    assert_eq!(propose(leader, b""), Err(ProposeError::Size { bytes: 0 }));
    let large = vec![0; (256 << 10) + 1];
    assert_eq!(propose(leader, &large), Err(ProposeError::Size { bytes: large.len() }));
    propose(leader, &large[1..]).unwrap();
    // What waits for a majority is bounded.
    let mut busy = false;
    for _ in 0..40 {
        busy |= propose(leader, &large[1..]) == Err(ProposeError::Busy);
    }
    assert!(busy);
    world.pump(leader);
    world.all_agree_within(10_000);
}

/// Nothing leaves a follower or a candidate before what it rests on is on disk.
#[test]
fn a_promise_leaves_after_it_is_kept() {
    let (mut world, leader, follower) = begun();
    world.run(200);
    world.stall(follower, true);
    let said = |world: &World| world.status(leader).peers[&follower].matched;
    let before = said(&world);
    for _ in 0..5 {
        world.propose().unwrap();
        world.run(40);
    }
    assert_eq!(said(&world), before, "it confirmed what is not on disk");
    assert_eq!(world.status(leader).role, Role::Leader);
    world.stall(follower, false);
    world.run(200);
    assert!(said(&world) > before);
}

/// raft-rs #557: an answer that was overtaken sends a leader back to what its follower has long had.
#[test]
fn an_overtaken_answer_moves_nobody_back() {
    // Where the leader begins again for the follower after it has heard: that it lacks something, then the old answer.
    let begins_at = |old_stamp: Stamp| {
        let (mut world, leader, follower) = begun();
        world.run(300);
        let (term, matched) = (world.status(leader).term, world.status(leader).peers[&follower].matched);
        assert_eq!(matched, world.status(leader).last);
        let lacks = |index, hint, stamp| {
            let body = Body::AppendRefused { index, commit: 1, hint, hint_term: 1 };
            Message { from: follower, to: leader, stamp, term, body }.encode().unwrap()
        };
        let driver = world.nodes.get_mut(&leader).unwrap().driver.as_mut().unwrap();
        driver.propose(b"x".to_vec()).unwrap();
        driver.receive(follower, &lacks(matched + 1, matched, Stamp { run: 50, seq: 2 })).unwrap();
        driver.take();
        let received = driver.receive(follower, &lacks(matched, 1, old_stamp)).unwrap();
        let from = |bytes: &[u8]| match Message::decode(bytes).unwrap().body {
            Body::Append { index, .. } => Some(index),
            _ => None,
        };
        let sent = driver.take().messages;
        let least = sent.iter().filter(|m| m.to == follower).filter_map(|m| from(&m.bytes)).min();
        (received, least.is_some_and(|index| index < matched))
    };
    assert_eq!(begins_at(Stamp { run: 50, seq: 1 }), (Received::Overtaken, false));
    // The same answer, had nobody counted: this is why somebody does. Once `raft` knows better, this line fails.
    assert_eq!(begins_at(Stamp { run: 50, seq: 3 }), (Received::Taken, true));
}
