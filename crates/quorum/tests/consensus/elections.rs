//! How long a pact is without a leader, and that nothing but a majority's absence keeps it so.

use crate::net::{CALM, LOOPBACK, Weather, World};
use pumasi_quorum::{Role, Timers};

struct Figures(Vec<u64>);

impl Figures {
    fn at(&self, percent: usize) -> u64 {
        self.0[(self.0.len() - 1) * percent / 100]
    }
}

/// Kills the leader so many times; ms from the kill to a new leader, and to the first command that it has applied.
fn kills(voters: usize, timers: Timers, weather: Weather, times: u64) -> (Figures, Figures) {
    let mut world = World::new(voters, 11, timers, weather);
    let (mut leader, mut first) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let settle = 2_000 + world.random.below(100);
        world.run_until(20_000, |w| w.leader().is_some()).unwrap();
        world.run_busy(settle, 25);
        let (killed, term, at) = (world.leader().unwrap(), *world.leaders.keys().next_back().unwrap(), world.now);
        world.crash(killed);
        leader.push(world.run_until(20_000, |w| w.leaders.keys().next_back() > Some(&term)).expect("a new leader"));
        let place = loop {
            match world.propose() {
                Some(place) => break place,
                None => world.run(1),
            }
        };
        world.run_until(20_000, |w| w.applied_at.contains_key(&place.index)).expect("it applies commands");
        first.push(world.now - at);
        world.start(killed);
    }
    leader.sort_unstable();
    first.sort_unstable();
    (Figures(leader), Figures(first))
}

#[test]
fn a_killed_leader_is_replaced_in_time() {
    let times = crate::times("PUMASI_QUORUM_KILLS", 40);
    let wan_30 = CALM;
    let rows = [
        ("default, loopback", Timers::DEFAULT, LOOPBACK, 900),
        ("default, 30 ms", Timers::DEFAULT, wan_30, 1_000),
        ("lan, loopback", Timers::LAN, LOOPBACK, 130),
    ];
    for voters in [3, 5] {
        for (name, timers, weather, most) in rows {
            let (leader, first) = kills(voters, timers, weather, times);
            println!(
                "{voters} voters, {name}: new leader p50 {} p99 {} max {} ms; first command applied p50 {} p99 {} max {} ms",
                leader.at(50),
                leader.at(99),
                leader.at(100),
                first.at(50),
                first.at(99),
                first.at(100)
            );
            assert!(leader.at(100) <= most, "{name}: {} ms", leader.at(100));
        }
    }
}

/// Two pairs that do not hear each other, and one that hears all (openraft #2080, etcd #8334).
#[test]
fn over_a_bridge_a_leader_is_found_in_three_elections() {
    for seed in 0..10 {
        let mut world = World::new(5, seed, Timers::DEFAULT, CALM);
        world.run_until(5_000, |w| w.leader().is_some()).unwrap();
        world.run_busy(1_000, 25);
        let ids = world.ids();
        let leader = world.leader().unwrap();
        // Each seed has the leader at another place of the bridge.
        let turn = (0..5).find(|n| ids[(*n + seed as usize) % 5] == leader).unwrap();
        let at = |n: usize| ids[(turn + n) % 5];
        for (a, b) in [(0, 3), (0, 4), (1, 3), (1, 4)] {
            world.cut(at(a), at(b));
        }
        let (terms, commands) = (world.leaders.len(), world.committed.len());
        world.run_busy(10_000, 25);
        let (elections, done) = (world.leaders.len() - terms, world.committed.len() - commands);
        assert!(elections <= 3, "seed {seed}: {elections} elections");
        assert!(done > 250, "seed {seed}: {done} commands in 10 s");
    }
}

/// A leader that is not heard, or hears nothing, is replaced; one that nobody needs to hear disturbs nobody.
#[test]
fn one_way_cuts_end_no_progress() {
    for (seed, (deaf, mute)) in [(true, false), (false, true)].into_iter().enumerate() {
        let mut world = World::new(3, 20 + seed as u64, Timers::DEFAULT, CALM);
        world.run_until(5_000, |w| w.leader().is_some()).unwrap();
        let leader = world.leader().unwrap();
        for other in world.ids().into_iter().filter(|id| *id != leader) {
            if deaf {
                world.cuts.insert((other, leader));
            }
            if mute {
                world.cuts.insert((leader, other));
            }
        }
        world.run(4_000);
        let before = world.committed.len();
        world.run_busy(2_000, 25);
        assert!(world.committed.len() > before + 40, "deaf {deaf}, mute {mute}");
        assert_ne!(world.leader(), Some(leader));
    }
    // A follower that hears nothing asks for votes in vain, and raises nobody's term.
    let mut world = World::new(3, 22, Timers::DEFAULT, CALM);
    world.run_until(5_000, |w| w.leader().is_some()).unwrap();
    let (leader, term) = (world.leader().unwrap(), *world.leaders.keys().next_back().unwrap());
    let deaf = world.ids().into_iter().find(|id| *id != leader).unwrap();
    world.ids().into_iter().for_each(|id| world.cuts.extend([(id, deaf)]));
    world.run_busy(10_000, 50);
    world.heal();
    world.run_busy(2_000, 50);
    assert_eq!((world.leader(), *world.leaders.keys().next_back().unwrap()), (Some(leader), term));
}

/// etcd #13527: a leader kept its lead with a disk that wrote nothing.
#[test]
fn a_leader_whose_disk_stalls_leads_no_longer() {
    for (timers, weather) in [(Timers::DEFAULT, CALM), (Timers::LAN, LOOPBACK)] {
        let mut world = World::new(3, 5, timers, weather);
        world.run_until(5_000, |w| w.leader().is_some()).unwrap();
        world.run_busy(1_000, 25);
        let leader = world.leader().unwrap();
        world.stall(leader, true);
        world.propose().unwrap();
        let within = timers.election_min_ms + timers.tick_ms;
        let took = world.run_until(within, |w| w.status(leader).role != Role::Leader);
        assert!(took.is_some(), "it still leads after {within} ms");
        let next = world.run_until(2 * timers.election_max_ms, |w| w.leader().is_some_and(|l| l != leader)).unwrap();
        println!("stalled disk: leads no longer after {} ms, the next leads {next} ms later", took.unwrap());
        let before = world.committed.len();
        world.run_busy(2_000, 25);
        assert!(world.committed.len() > before + 40, "the others go on");
        assert_ne!(world.leader(), Some(leader));
        world.stall(leader, false);
        world.all_agree_within(5_000);
    }
}

/// A process that stood still does not take its own absence for the leader's.
#[test]
fn whoever_wakes_up_elects_nobody() {
    let mut world = World::new(3, 6, Timers::DEFAULT, CALM);
    world.run_until(5_000, |w| w.leader().is_some()).unwrap();
    let (leader, term) = (world.leader().unwrap(), *world.leaders.keys().next_back().unwrap());
    let follower = world.ids().into_iter().find(|id| *id != leader).unwrap();
    for _ in 0..5 {
        world.pause(follower, true);
        world.run_busy(10_000, 50);
        world.pause(follower, false);
        world.run_busy(1_000, 50);
    }
    assert_eq!(*world.leaders.keys().next_back().unwrap(), term);
    assert_eq!(world.status(follower).campaigns, 0);
}
