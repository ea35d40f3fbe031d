//! Who is far behind takes a snapshot; who is not, does not.

use crate::net::{CALM, LOOPBACK, Weather, World};
use pumasi_quorum::Timers;

/// So many commands, many at once.
fn fill(world: &mut World, commands: u64) {
    let end = world.commands + commands;
    while world.commands < end {
        for _ in 0..50 {
            world.propose();
        }
        world.run(5);
    }
}

fn snapshots(world: &World) -> u64 {
    world.nodes.values().map(|n| n.snapshots_sent).sum()
}

/// raft-rs #557: overtaken answers made a leader send snapshots to voters that had everything.
#[test]
fn overtaking_makes_no_snapshots() {
    let weather = Weather { reorder_percent: 20, jitter_ms: 10, ..CALM };
    let mut world = World::new(3, 4, Timers::DEFAULT, weather);
    world.run_until(5_000, |w| w.leader().is_some()).unwrap();
    fill(&mut world, 10_000);
    world.run(2_000);
    let status = world.status(world.leader().unwrap());
    assert!(status.floor > 4_096, "the log was compacted: {}", status.floor);
    assert_eq!(snapshots(&world), 0);
    assert!(world.nodes.values().map(|n| n.driver.as_ref().unwrap().overtaken()).sum::<u64>() > 100);
    assert!(world.committed.len() >= 9_900);
}

#[test]
fn a_voter_that_was_away_for_long_takes_one_snapshot_also_over_a_bad_line() {
    let mut world = World::new(3, 9, Timers::LAN, LOOPBACK);
    world.run_until(5_000, |w| w.leader().is_some()).unwrap();
    let leader = world.leader().unwrap();
    let away = world.ids().into_iter().find(|id| *id != leader).unwrap();
    world.crash(away);
    // So long as it may come back, the log is kept for it, up to a bound.
    fill(&mut world, 12_000);
    assert_eq!(world.status(world.leader().unwrap()).floor, 1);
    fill(&mut world, 6_000);
    let status = world.status(world.leader().unwrap());
    assert!(status.floor > 1 && status.last - status.floor <= 16_384, "{} to {}", status.floor, status.last);
    world.weather.loss_percent = 40;
    world.start(away);
    world.run_busy(5_000, 25);
    world.weather.loss_percent = 0;
    world.all_agree_within(5_000);
    let sent = snapshots(&world);
    assert!((1..=20).contains(&sent), "{sent} snapshots were named");
    println!("a voter 18,000 commands behind over 40 % loss: {sent} messages that named a snapshot");
}
