//! Whatever fails in whatever order: one leader a term, one list of commands, and it goes on once a majority is back.

use crate::net::{CALM, LOOPBACK, Weather, World};
use pumasi_quorum::Timers;

/// One thing that happens to somebody.
fn mischief(world: &mut World) {
    let ids = world.ids();
    let any = |world: &mut World| ids[world.random.below(ids.len() as u64) as usize];
    let (a, b) = (any(world), any(world));
    let up = world.nodes[&a].driver.is_some();
    match world.random.below(12) {
        0 | 1 if up => world.crash(a),
        0..=3 if !up => world.start(a),
        2 => {
            if let Some(leader) = world.leader() {
                world.crash(leader);
            }
        }
        3 => world.cuts.extend([(a, b)]),
        4 => world.cut(a, b),
        5 | 6 => world.cuts.clear(),
        7 if up => {
            let paused = !world.nodes[&a].paused;
            world.pause(a, paused);
        }
        8 if up => {
            let stalled = !world.nodes[&a].stalled;
            world.stall(a, stalled);
        }
        9 => world.weather.loss_percent = world.random.below(30),
        10 => world.weather.reorder_percent = world.random.below(40),
        _ => world.weather.twice_percent = world.random.below(20),
    }
}

/// So many s of mischief, then peace. Returns what tells one run from another.
fn story(voters: usize, seed: u64, timers: Timers, weather: Weather, seconds: u64) -> World {
    let mut world = World::new(voters, seed, timers, weather);
    let end = world.now + seconds * 1_000;
    while world.now < end {
        mischief(&mut world);
        let rest = 20 + world.random.below(400);
        world.run_busy(rest, 25);
    }
    world.heal();
    world.all_agree_within(10_000);
    world
}

#[test]
fn every_story_ends_in_one_list() {
    let (mut terms, mut commands, mut overtaken, mut seconds) = (0, 0, 0, 0);
    for seed in 0..crate::times("PUMASI_QUORUM_SEEDS", 30) {
        let voters = [3, 5, 1, 3, 5, 7][(seed % 6) as usize];
        let (timers, weather) = if seed % 2 == 0 { (Timers::DEFAULT, CALM) } else { (Timers::LAN, LOOPBACK) };
        let world = story(voters, seed, timers, weather, 30);
        terms += world.leaders.len();
        commands += world.committed.len();
        overtaken += world.nodes.values().map(|n| n.driver.as_ref().unwrap().overtaken()).sum::<u64>();
        seconds += 30;
    }
    println!(
        "{seconds} s of mischief: {terms} terms with a leader, {commands} commands, {overtaken} messages overtaken"
    );
    assert!(terms > 100 && commands > 1_000 && overtaken > 100, "the mischief does not reach what it should");
}

#[test]
fn one_seed_is_one_story_to_the_byte() {
    let trace = |seed| story(5, seed, Timers::DEFAULT, CALM, 20).trace();
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

#[test]
fn one_voter_alone_goes_on_after_each_crash() {
    let mut world = World::new(1, 3, Timers::DEFAULT, CALM);
    for _ in 0..20 {
        world.run(1_500);
        world.run_busy(500, 10);
        world.crash(world.ids()[0]);
        world.start(world.ids()[0]);
    }
    world.all_agree_within(3_000);
    assert!(world.committed.len() > 500);
}
