//! Voters come and go, one joint change at a time, under load.

use crate::net::{CALM, World, id_of};
use pumasi_quorum::{Driver, Kept, RaftId, StartError, Storage, Timers};
use pumasi_terms::BootMs;
use std::collections::BTreeSet;

fn begun(voters: usize, seed: u64) -> World {
    let mut world = World::new(voters, seed, Timers::DEFAULT, CALM);
    world.run_until(5_000, |w| w.leader().is_some()).unwrap();
    world.run_busy(500, 25);
    world
}

fn join(world: &mut World, cloud: &str, incarnation: u64) -> RaftId {
    let id = id_of(cloud, incarnation);
    world.add(id, Kept::joining(id));
    id
}

fn aim(world: &mut World, voters: &BTreeSet<RaftId>) {
    for node in world.nodes.values_mut() {
        if let Some(driver) = &mut node.driver {
            driver.aim(voters.clone()).unwrap();
        }
    }
}

fn is_reached(world: &World, voters: &BTreeSet<RaftId>) -> bool {
    let conf = |id: &RaftId| world.nodes[id].driver.as_ref().unwrap().status().unwrap().conf.clone();
    voters.iter().all(|id| conf(id).voters == *voters && !conf(id).is_joint() && conf(id).learners.is_empty())
}

fn reach(world: &mut World, voters: &BTreeSet<RaftId>) -> u64 {
    aim(world, voters);
    let begun = world.now;
    for _ in 0..1_000 {
        if is_reached(world, voters) {
            return world.now - begun;
        }
        world.run_busy(50, 25);
    }
    let status: Vec<_> = world.ids().into_iter().map(|id| world.status(id)).collect();
    panic!("not reached: {status:#?}");
}

#[test]
fn three_become_five_and_three_again_without_the_leader() {
    let mut world = begun(3, 1);
    let three: BTreeSet<RaftId> = world.ids().into_iter().collect();
    let new = [join(&mut world, "city-x", 1), join(&mut world, "city-y", 1)];
    let five: BTreeSet<RaftId> = three.iter().copied().chain(new).collect();
    let took = reach(&mut world, &five);
    println!("3 to 5 voters under load: {took} ms");
    let leader = world.leader().unwrap();
    let other = three.iter().find(|id| **id != leader).unwrap();
    let rest: BTreeSet<RaftId> = five.iter().copied().filter(|id| *id != leader && id != other).collect();
    let took = reach(&mut world, &rest);
    println!("5 to 3 voters, the leader and another one go: {took} ms");
    let before = world.committed.len();
    world.run(2_000);
    world.run_busy(1_000, 25);
    assert!(world.committed.len() > before + 20, "the three go on");
    assert!(rest.contains(&world.leader().unwrap()));
}

/// etcd #3504, #10254: a voter whose disk went back to an older state voted twice.
#[test]
fn a_restored_store_votes_under_a_new_number_only() {
    let mut world = begun(3, 2);
    let old = world.ids().into_iter().find(|id| Some(*id) != world.leader()).unwrap();
    let backup = world.nodes[&old].disk.load().unwrap();
    world.run_busy(2_000, 25);
    world.crash(old);
    world.nodes.get_mut(&old).unwrap().disk.restore(backup.clone());
    // The store counts another incarnation, so its number is another one.
    let new = id_of("city-restored", 2);
    let refused = Driver::start(world.settings(new, 9), &backup.unwrap(), BootMs(world.now)).unwrap_err();
    assert_eq!(refused, StartError::OtherVoter { kept: old, now: new });
    assert!(refused.to_string().contains("could vote twice"));
    world.nodes.remove(&old);
    let two: BTreeSet<RaftId> = world.ids().into_iter().collect();
    world.add(new, Kept::joining(new));
    let voters: BTreeSet<RaftId> = two.into_iter().chain([new]).collect();
    let took = reach(&mut world, &voters);
    println!("a restored voter is exchanged for its new number: {took} ms");
    world.all_agree_within(3_000);
}

#[test]
fn a_change_that_its_leader_does_not_live_to_end_is_ended_by_the_next() {
    for after_ms in [5, 20, 40, 60, 80, 100, 120, 150, 200, 300] {
        let mut world = begun(3, 30 + after_ms);
        let new = [join(&mut world, "city-x", 1), join(&mut world, "city-y", 1)];
        let five: BTreeSet<RaftId> = world.ids().into_iter().collect();
        assert!(new.iter().all(|id| five.contains(id)));
        aim(&mut world, &five);
        world.run_busy(after_ms, 5);
        let leader = world.leader().unwrap();
        world.crash(leader);
        world.run_busy(3_000, 25);
        world.start(leader);
        reach(&mut world, &five);
        world.all_agree_within(5_000);
    }
}

#[test]
fn even_numbers_of_voters_are_refused() {
    let mut world = begun(3, 3);
    let leader = world.leader().unwrap();
    let two: BTreeSet<RaftId> = world.ids().into_iter().take(2).collect();
    let why = world.nodes.get_mut(&leader).unwrap().driver.as_mut().unwrap().aim(two).unwrap_err();
    assert!(why.to_string().contains("2 is an even number"), "{why}");
}
