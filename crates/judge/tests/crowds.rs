//! Clients that wait for their answers: a standing queue is overload, whoever waits in it, and a slow application is none.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod world;

use pumasi_judge::{Cause, Refusal};
use world::{Weather, World};

const SEEDS: std::ops::Range<u64> = 1..6;

/// Instances of 25, 100 and 400 a second, with four places each.
const WORK_MS: [f64; 3] = [160.0, 40.0, 10.0];

fn crowd(clients: usize, think_ms: f64, work_ms: f64) -> Weather {
    Weather { arrivals_per_second: 0.0, clients, think_ms, work_ms, ..Weather::default() }
}

/// When the promise was first broken in a second, after `from_ms`.
fn broken_at(world: &mut World, weather: &Weather, for_ms: u64) -> u64 {
    for _ in 0..for_ms / 100 {
        world.tick(weather);
        if world.seen.as_ref().is_some_and(|s| s.queue_delay_p95_us > 50_000) {
            return world.now_ms();
        }
    }
    panic!("the promise was kept")
}

/// Told within a second of the broken promise, and not before.
fn told_in_time(world: &mut World, weather: &Weather, about: &str) {
    assert!(world.told.is_empty(), "{about}: {:?}", world.verdicts());
    let broken = broken_at(world, weather, 60_000);
    world.run(1_500, weather);
    let verdicts = world.verdicts();
    let Some((at_ms, verdict)) = verdicts.first() else { panic!("{about}: nothing told {:?}", world.seen) };
    assert_eq!(verdict.cause, Cause::Overload);
    assert!(*at_ms <= broken + 1_000, "{about}: {} ms", at_ms - broken);
    let told: Vec<_> = world.told.iter().map(|t| (t.at_ms, &t.what)).collect();
    assert!(world.refusals().is_empty(), "{about}, broken at {broken} ms: {told:?}");
}

#[test]
fn a_fixed_number_of_clients_is_told_within_a_second() {
    for seed in SEEDS {
        for work_ms in WORK_MS {
            for clients in [64, 200, 1_000] {
                let about = format!("seed {seed}, {clients} clients, {work_ms} ms");
                let mut world = World::new(seed);
                world.run(10_000, &crowd(1, 0.0, work_ms));
                told_in_time(&mut world, &crowd(clients, 0.0, work_ms), &about);
            }
        }
    }
}

#[test]
fn users_who_think_are_told_within_a_second() {
    for seed in SEEDS {
        for (clients, work_ms) in [(180, 40.0), (400, 10.0), (60, 160.0)] {
            let about = format!("seed {seed}, {clients} users, {work_ms} ms");
            let mut world = World::new(seed);
            world.run(10_000, &crowd(clients / 6, 500.0, work_ms));
            told_in_time(&mut world, &crowd(clients, 500.0, work_ms), &about);
        }
    }
}

#[test]
fn clients_that_join_one_by_one_are_told_in_time() {
    for seed in SEEDS {
        for (think_ms, per_s, work_ms) in [(0.0, 6, 40.0), (0.0, 20, 10.0), (500.0, 10, 40.0)] {
            let about = format!("seed {seed}, {per_s} more a second, {work_ms} ms");
            let mut world = World::new(seed);
            world.run(10_000, &crowd(1, think_ms, work_ms));
            let mut broken = None;
            for s in 1..60 {
                for _ in 0..10 {
                    world.tick(&crowd(1 + s * per_s, think_ms, work_ms));
                    if world.told.is_empty() {
                        let late = world.seen.as_ref().is_some_and(|s| s.queue_delay_p95_us > 50_000);
                        broken = if late { broken.or(Some(world.now_ms())) } else { None };
                    }
                }
            }
            let (at_ms, _) = world.verdicts()[0];
            let held = at_ms - broken.unwrap();
            // Ten more thinking users a second make two more requests of a hundred: chance hides that for longer.
            let limit_ms = if think_ms > 0.0 { 8_000 } else { 2_000 };
            assert!(held <= limit_ms, "{about}: {held} ms");
        }
    }
}

#[test]
fn the_steps_meet_the_promise_and_stay() {
    for seed in SEEDS {
        for (clients, think_ms, work_ms) in [(64, 0.0, 10.0), (24, 0.0, 40.0), (180, 500.0, 40.0), (400, 500.0, 10.0)] {
            let about = format!("seed {seed}, {clients} clients, {work_ms} ms");
            let mut world = World::new(seed);
            world.run(5_000, &crowd(1, think_ms, work_ms));
            let weather = crowd(clients, think_ms, work_ms);
            world.run(30_000, &weather);
            let settled = world.verdicts().len();
            let mut broken = 0;
            for _ in 0..600 {
                world.tick(&weather);
                broken += u32::from(world.seen.as_ref().is_some_and(|s| s.queue_delay_p95_us > 50_000));
            }
            assert!(broken <= 60, "{about}: {broken} of 600 looks, {:?}", world.verdicts());
            assert!(world.verdicts().len() <= settled + 2, "{about}: {:?}", world.verdicts());
            // Never more than twice what everybody at once would need.
            let most = world.verdicts().iter().map(|v| v.1.borrowed_wanted).max().unwrap();
            assert!(f64::from(most + 1) <= clients as f64 / 4.0 * 1.5, "{about}: {most}");
            world.run(60_000, &crowd(1, think_ms, work_ms));
            assert_eq!(world.borrowed, 0, "{about}: {:?}", world.verdicts().last());
        }
    }
}

#[test]
fn clients_whose_promise_is_kept_order_nothing() {
    for seed in SEEDS {
        for work_ms in WORK_MS {
            // All at their places; or thinking, with four fifths of what home can do.
            for weather in [crowd(4, 0.0, work_ms), crowd((1_600.0 / work_ms) as usize, 500.0 - work_ms, work_ms)] {
                let mut world = World::new(seed);
                world.run(300_000, &weather);
                assert!(
                    world.told.is_empty(),
                    "seed {seed}, {work_ms} ms, {}: {:?}",
                    weather.clients,
                    world.verdicts()
                );
            }
        }
    }
}

#[test]
fn a_slow_application_is_not_a_full_one() {
    for seed in SEEDS {
        for work_ms in [40.0, 10.0] {
            // As many as keep the promise, whether they think or not.
            for (clients, think_ms) in [(5, 0.0), ((1_400.0 / work_ms) as usize, 500.0 - work_ms)] {
                let about = format!("seed {seed}, {clients} clients, {work_ms} ms");
                let mut world = World::new(seed);
                world.run(30_000, &crowd(clients, think_ms, work_ms));
                world.run(30_000, &crowd(clients, think_ms, work_ms * 8.0));
                assert!(world.verdicts().is_empty(), "{about}: {:?}", world.verdicts());
                assert_eq!(world.refusals(), [Refusal::ApplicationFault], "{about}");
            }
        }
    }
}
