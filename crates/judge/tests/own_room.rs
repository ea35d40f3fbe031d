//! Own room before rented room: the same judgement lets the home grow and shrink, and what must stay at home is helped by it.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod world;

use pumasi_judge::Refusal;
use world::{Weather, World};

const SEEDS: std::ops::Range<u64> = 1..8;

fn world(seed: u64, spare_max: u32) -> World {
    let mut world = World::new(seed);
    world.spare_max = spare_max;
    world.policy.instances_max += spare_max;
    world
}

#[test]
fn the_home_grows_before_anything_is_borrowed_and_shrinks_last() {
    for seed in SEEDS {
        let mut world = world(seed, 3);
        world.run(10_000, &Weather::default());
        assert!(world.told.is_empty(), "seed {seed}: {:?}", world.verdicts());
        // An instance does 100 a second: three are enough, and all of them are at home.
        world.run(20_000, &Weather { arrivals_per_second: 200.0, ..Weather::default() });
        assert!((1..=3).contains(&world.spare) && world.borrowed == 0, "seed {seed}: {:?}", world.verdicts());
        world.run(20_000, &Weather { arrivals_per_second: 500.0, ..Weather::default() });
        assert!(world.spare == 3 && world.borrowed >= 2, "seed {seed}: {:?}", world.verdicts());
        world.run(40_000, &Weather { arrivals_per_second: 200.0, ..Weather::default() });
        assert!(world.spare >= 1 && world.borrowed == 0, "seed {seed}: {:?}", world.verdicts());
        world.run(60_000, &Weather { arrivals_per_second: 40.0, ..Weather::default() });
        assert_eq!((world.spare, world.borrowed), (0, 0), "seed {seed}: {:?}", world.verdicts());
        assert!(world.refusals().is_empty(), "seed {seed}: {:?}", world.refusals());
    }
}

#[test]
fn a_load_that_must_stay_is_served_by_a_larger_home_and_never_borrows() {
    for seed in SEEDS {
        let mut world = world(seed, 2);
        let writes = Weather { arrivals_per_second: 180.0, home_only: 1.0, ..Weather::default() };
        world.run(5_000, &Weather { arrivals_per_second: 60.0, home_only: 1.0, ..Weather::default() });
        world.run(30_000, &writes);
        assert!(world.spare >= 1 && world.borrowed == 0, "seed {seed}: {:?}", world.verdicts());
        let told: Vec<_> = world.told.iter().map(|t| (t.at_ms, &t.what)).collect();
        assert!(world.refusals().is_empty(), "seed {seed}: {told:?}");
        // When the home is as large as it may be, more writes are told as what nobody else can answer.
        world.run(30_000, &Weather { arrivals_per_second: 500.0, ..writes });
        assert_eq!((world.spare, world.borrowed), (2, 0), "seed {seed}: {:?}", world.verdicts());
        assert_eq!(world.refusals(), [Refusal::HomeBound], "seed {seed}");
    }
}
