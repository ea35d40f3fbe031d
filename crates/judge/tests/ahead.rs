//! The judge where starting takes long: it orders before it is needed, and steady load is left alone all the same.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod world;

use proptest::prelude::*;
use pumasi_judge::forecast::Trend;
use pumasi_judge::{Cause, Policy};
use pumasi_terms::BootMs;
use world::{Lcg, Weather, World};

/// Starting takes half a minute, and the judge knows what an instance does.
fn slow_to_start(seed: u64, calm: &Weather) -> World {
    let mut world = World::new(seed);
    world.delivery_ms = 30_000;
    world.run(10_000, calm);
    // Long enough to learn the capacity, too short to order.
    world.burst(150, calm);
    world.run(20_000, calm);
    world.policy = Policy { start_ms: 30_000, ..Policy::default() };
    assert!(world.verdicts().is_empty(), "{:?}", world.verdicts());
    world
}

fn at(load: f64) -> Weather {
    Weather { work_ms: 10.0, arrivals_per_second: 400.0 * load, ..Weather::default() }
}

#[test]
fn growth_is_ordered_for_before_it_is_needed() {
    for seed in 1..5 {
        let mut world = slow_to_start(seed, &at(0.3));
        let begun = world.now_ms();
        // From three tenths of the home's capacity to half as much again as it has, within two minutes.
        for step in 0..240 {
            world.run(500, &at(0.3 + f64::from(step) * 0.0055));
        }
        let verdicts = world.verdicts();
        let (first_ms, first) = &verdicts[0];
        // Capacity is reached 63 s after growth began, and starting takes 30 s.
        assert!(first_ms - begun < 33_000, "seed {seed}: {}", first_ms - begun);
        assert_eq!(first.cause, Cause::Overload);
        let forecast = &first.reasons.iter().find(|r| r.measure == "forecast").unwrap().text;
        assert!(forecast.contains("grow by") && forecast.contains("are expected"), "{forecast}");
        assert!(verdicts.windows(2).all(|w| w[0].1.borrowed_wanted < w[1].1.borrowed_wanted), "{verdicts:?}");
        assert_eq!(world.lost, 0, "seed {seed}: {verdicts:?}");
    }
}

#[test]
fn steady_four_fifths_are_left_alone_however_long_starting_takes() {
    for seed in 1..5 {
        for (work_ms, start_ms) in [(10.0, 30_000), (160.0, 30_000), (40.0, 60_000), (40.0, 5_000)] {
            let calm = Weather { work_ms, arrivals_per_second: 0.8 * 4_000.0 / work_ms, ..Weather::default() };
            let mut world = World::new(seed);
            world.delivery_ms = start_ms;
            world.policy = Policy { start_ms, ..Policy::default() };
            world.run(600_000, &calm);
            let told: Vec<_> = world.told.iter().map(|t| (t.at_ms, &t.what)).collect();
            assert!(told.is_empty(), "seed {seed}, {work_ms} ms, start {start_ms} ms: {told:?}");
        }
    }
}

#[test]
fn a_sawtooth_does_not_flap_where_starting_takes_long() {
    for seed in 1..4 {
        let mut world = slow_to_start(seed, &at(0.3));
        for _ in 0..30 {
            world.run(8_000, &at(2.0));
            world.run(8_000, &at(0.4));
        }
        assert!(world.verdicts().len() <= 8, "seed {seed}: {:?}", world.verdicts());
    }
}

#[test]
fn what_was_borrowed_is_given_back_in_the_end() {
    let mut world = slow_to_start(1, &at(0.3));
    world.run(60_000, &at(2.5));
    assert!(world.borrowed >= 2, "{}", world.borrowed);
    world.run(1_800_000, &at(0.3));
    assert_eq!(world.borrowed, 0, "{:?}", world.verdicts());
}

#[test]
fn the_start_is_learned() {
    let mut world = World::new(2);
    world.delivery_ms = 30_000;
    world.run(10_000, &at(0.5));
    world.run(120_000, &at(2.5));
    let text = serde_json::to_value(&world.memory).unwrap();
    let learned = text["start_ms"].as_u64().unwrap();
    assert!((29_000..32_000).contains(&learned), "{learned}");
}

/// Readings of a Poisson stream, half a second each.
fn readings(seed: u64, count: u64, rate: impl Fn(f64) -> f64) -> Trend {
    let mut rng = Lcg::new(seed);
    let mut trend = Trend::default();
    let mut next = rng.exponential(1.0);
    let mut sum = 0.0;
    for i in 1..=count {
        let mut arrived = 0u64;
        sum += rate(i as f64 / 2.0) / 2.0;
        while next <= sum {
            arrived += 1;
            next += rng.exponential(1.0);
        }
        trend.read(BootMs(i * 500), 500, arrived * 2_000);
    }
    trend
}

/// Carried on by the whole slope of the shortest past that shows growth, this one forecast 2.016 times what came.
#[test]
fn the_growth_that_is_carried_on_leaves_chance_out() {
    let (rate, times) = (171.598_517_183_854_94, 4.993_871_658_630_999);
    let growth = rate * times / 20.0;
    let seen = readings(1_917_044_032_706_079_085, 120, |t| rate + growth * f64::max(t - 40.0, 0.0));
    let comes = (rate + growth * 50.0) * 1_000.0;
    let expected = seen.forecast(30_000).unwrap().expected_mps as f64;
    assert!(expected > 0.5 * comes && expected < 1.8 * comes, "{expected} are expected, {comes} come");
}

proptest! {
    #[test]
    fn steady_arrivals_are_expected_as_they_are(seed in any::<u64>(), rate in 5.0f64..2_000.0, ahead_ms in 0u64..120_000) {
        let seen = readings(seed, 120, |_| rate).forecast(ahead_ms).unwrap();
        prop_assert_eq!(seen.growth_mps2, 0);
        prop_assert_eq!(seen.expected_mps, seen.level_mps);
        prop_assert!(seen.level_low_mps <= seen.level_mps);
    }

    #[test]
    fn steady_growth_is_carried_on(seed in any::<u64>(), rate in 20.0f64..1_000.0, times in 2.0f64..6.0) {
        // It has grown for 20 s and goes on for 30 s.
        let growth = rate * times / 20.0;
        let seen = readings(seed, 120, |t| rate + growth * f64::max(t - 40.0, 0.0)).forecast(30_000).unwrap();
        let comes = (rate + growth * 50.0) * 1_000.0;
        prop_assert!((seen.expected_mps as f64) > 0.5 * comes && (seen.expected_mps as f64) < 2.0 * comes, "{seen:?}, {comes} comes");
    }

    #[test]
    fn whatever_is_read_is_borne(values in prop::collection::vec((0u64..5_000, 0u64..2_000, any::<u64>()), 0..300), ahead_ms in any::<u64>()) {
        let (mut trend, mut at) = (Trend::default(), 0u64);
        for (step, span, mps) in values {
            at += step;
            trend.read(BootMs(at), span, mps);
            let seen = trend.forecast(ahead_ms);
            prop_assert!(seen.is_none_or(|f| f.expected_mps >= f.level_mps || f.growth_mps2 == 0));
        }
        let text = serde_json::to_string(&trend).unwrap();
        prop_assert!(text.len() < 20_000);
        prop_assert_eq!(serde_json::from_str::<Trend>(&text).unwrap(), trend);
    }
}

#[test]
fn a_jump_is_no_growth_once_it_stands() {
    for seed in 1..40 {
        let trend = readings(seed, 100, |t| if t < 40.0 { 50.0 } else { 200.0 });
        let seen = trend.forecast(30_000).unwrap();
        assert!(seen.expected_mps < 260_000, "seed {seed}: {seen:?}");
    }
}
