//! The gateway beside HAProxy and Envoy: one worker each, 64 kept connections, 20-byte answers from the same backend.
//!
//! Enters: the number of pairs. Leaves: requests per CPU-second of each process, the ratio of the pairs, p99 of each.
//! Always holds: all sides run for the whole race and are loaded in turn, by one load generator, over one backend; with two or
//! more processors the proxies have one for themselves, and with root a network namespace, so that the machine's packet filter
//! (which may cost more than a proxy) is not measured along. Ours forwards, traces, admits and meters as it does at work; HAProxy runs
//! without a log and without fields of its own.

mod network;
mod sides;
mod world;

use crate::row::{Row, median};
use anyhow::Context;
use std::time::Duration;
use world::World;

pub use sides::{Side, envoy, gateway_process, install, ours};

const CONNECTIONS: usize = 64;
const WARM_UP: Duration = Duration::from_millis(500);
const RUN: Duration = Duration::from_secs(3);
/// On a busy machine a turn goes on until the process had so much of it, within bounds.
const CPU_S_MIN: f64 = 1.0;
const RUNS_MAX: u32 = 8;

/// What one side did in one turn.
#[derive(Debug, Clone, Copy)]
struct Turn {
    per_cpu_s: f64,
    per_s: f64,
    p99_us: f64,
}

pub fn race(pairs: u32) -> anyhow::Result<Vec<Row>> {
    sides::install()?;
    let _network = network::own()?;
    let dir = tempfile::tempdir().context("making a directory for the race")?;
    let mut world = World::new()?;
    let (sides, _processors) = sides::start(dir.path(), world.backend()?)?;
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); sides.len()];
    for pair in 0..pairs.max(1) {
        for (side, turns) in sides.iter().zip(&mut turns) {
            let turn = turn(&mut world, side).with_context(|| format!("loading {}", side.name))?;
            eprintln!(
                "   {}: {:.0} a CPU-second, {:.0} a second, p99 {:.2} ms (pair {})",
                side.name,
                turn.per_cpu_s,
                turn.per_s,
                turn.p99_us / 1e3,
                pair + 1
            );
            turns.push(turn);
        }
    }
    let middle = |turns: &[Turn], of: fn(&Turn) -> f64| median(turns.iter().map(of).collect());
    let ours = &turns[0];
    let rows = sides.iter().zip(&turns).skip(1).map(|(side, theirs)| {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(o, t)| o.per_cpu_s / t.per_cpu_s).collect();
        let (low, high) = ratios.iter().fold((f64::MAX, 0.0f64), |(l, h), &r| (l.min(r), h.max(r)));
        Row {
            what: "gateway, requests per CPU-second".into(),
            ours: thousands(middle(ours, |t| t.per_cpu_s)),
            rival: side.name.clone(),
            theirs: thousands(middle(theirs, |t| t.per_cpu_s)),
            ratio: median(ratios),
            note: format!(
                "pairs {low:.2} to {high:.2}; p99 {:.2} ms beside {:.2} ms; {} a second beside {}; {CONNECTIONS} connections",
                middle(ours, |t| t.p99_us) / 1e3,
                middle(theirs, |t| t.p99_us) / 1e3,
                thousands(middle(ours, |t| t.per_s)),
                thousands(middle(theirs, |t| t.per_s)),
            ),
        }
    });
    Ok(rows.collect())
}

fn turn(world: &mut World, side: &Side) -> anyhow::Result<Turn> {
    let mut load = world.load(side.address, CONNECTIONS)?;
    world.run(&mut load, WARM_UP)?;
    load.forget();
    let before = side.cpu_s()?;
    let (mut wall, mut cpu_s) = (Duration::ZERO, 0.0);
    for _ in 0..RUNS_MAX {
        wall += world.run(&mut load, RUN)?;
        cpu_s = side.cpu_s()? - before;
        if cpu_s >= CPU_S_MIN {
            break;
        }
    }
    let answered = load.latencies_us.len() as f64;
    anyhow::ensure!(answered > 0.0 && cpu_s > 0.0, "no request was answered");
    let per_s = answered / wall.as_secs_f64();
    let p99_us = f64::from(load.percentile_us(99));
    world.drop_load(load)?;
    Ok(Turn { per_cpu_s: answered / cpu_s, per_s, p99_us })
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([7.0, 1_000.4, 28_412.0, 1_234_567.0].map(super::thousands), ["7", "1,000", "28,412", "1,234,567"]);
    }
}
