//! Loads that are made, not recorded: kinds that autoscalers are fooled by.

use super::load::{Kind, Load, Run};

/// Mean of the loads that scatter, requests a second.
const SCATTERED_PER_S: f64 = 77.0;
const HOUR_S: u64 = 3_600;

/// One kind, and what it is.
#[derive(Debug, Clone, Copy)]
pub struct Synthetic {
    pub name: &'static str,
    pub about: &'static str,
    make: fn() -> Load,
}

pub const ALL: [Synthetic; 11] = [
    of("steady", "80 requests a second for two hours", || requests(1, 2 * HOUR_S, |_| 80.0)),
    of("bunches-4", "about 77 requests a second for six hours, four at once", || requests(4, 6 * HOUR_S, tide)),
    of("bunches-10", "the same, ten at once", || requests(10, 6 * HOUR_S, tide)),
    of("bunches-30", "the same, thirty at once", || requests(30, 6 * HOUR_S, tide)),
    of("on-off", "a minute of 40 requests a second, a minute of 400, for two hours", || {
        requests(1, 2 * HOUR_S, |s| if s / 60 % 2 == 0 { 40.0 } else { 400.0 })
    }),
    of("sawtooth", "from 40 to 400 requests a second in five minutes, then down at once, for two hours", || {
        requests(1, 2 * HOUR_S, |s| 40.0 + (s % 300) as f64 * 1.2)
    }),
    of("clients-64", "64 clients that ask again at once, for ten minutes", || clients(0, |s| inside(s, 4, 64))),
    of("clients-200", "200 of them", || clients(0, |s| inside(s, 4, 200))),
    of("clients-1000", "1,000 of them", || clients(0, |s| inside(s, 4, 1_000))),
    of("users", "40, then 400 users who think half a second, for ten minutes", || clients(500, |s| inside(s, 40, 400))),
    of("joining", "clients join over five minutes until there are 200, and stay", || {
        clients(0, |s| (s.saturating_sub(120) * 200 / 300).clamp(1, 200))
    }),
];

const fn of(name: &'static str, about: &'static str, make: fn() -> Load) -> Synthetic {
    Synthetic { name, about, make }
}

pub fn named(name: &str) -> Option<Load> {
    ALL.iter().find(|s| s.name == name).map(|s| (s.make)())
}

/// Up and down by a third within two hours.
fn tide(s: u64) -> f64 {
    SCATTERED_PER_S * (1.0 + (s as f64 / (2 * HOUR_S) as f64 * std::f64::consts::TAU).sin() / 3.0)
}

/// Two minutes before, ten of it, a quarter of an hour after.
fn inside(s: u64, calm: u64, many: u64) -> u64 {
    if (120..720).contains(&s) { many } else { calm }
}

fn load(kind: Kind, counts: Vec<u64>) -> Load {
    Load { kind, step_s: 1, runs: vec![Run { label: String::new(), counts }], filled: 0 }
}

fn requests(bunch: u64, seconds: u64, rate: impl Fn(u64) -> f64) -> Load {
    load(Kind::Requests { bunch }, (0..seconds).map(|s| rate(s).round() as u64).collect())
}

fn clients(think_ms: u64, count: impl Fn(u64) -> u64) -> Load {
    load(Kind::Clients { think_ms }, (0..1_620).map(count).collect())
}
