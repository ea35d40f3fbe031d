//! The race in words: what was raced over, the table, what it comes to, and how each figure was made.

use super::arrivals::Arrivals;
use super::hindsight::{Sight, family};
use super::hpa::{KUBELET_S, METRICS_S, SYNC_S};
use super::kpa;
use super::load::{Kind, Load};
use super::race::{CLAIRVOYANT, DELAYED, Entry, HINDSIGHT, HPA, KEDA, KPA, OURS, Race, TUNED};
use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::{Value, json};
use std::fmt::Write;

const CHART_WIDTH: usize = 72;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What is the same for all, a sentence each.
pub fn rules(race: &Race) -> Vec<String> {
    let s = &race.setting;
    let rate = s.instance_mps as f64 / 1_000.0;
    let fine = match (race.kind, race.step_s) {
        (Kind::Clients { think_ms }, _) => {
            format!("each client asks again after its answer (or refusal) and {think_ms} ms of thought on average")
        }
        (Kind::Requests { bunch }, step_s) => {
            let rate = match step_s {
                1 => "arrivals within a second are a Poisson stream of its rate".to_owned(),
                n => format!(
                    "between the middles of two steps of {n} s the rate is a straight line; arrivals are a Poisson stream of it"
                ),
            };
            if bunch > 1 { format!("{rate}, {bunch} at once") } else { rate }
        }
    };
    let mut rules = vec![
        format!("load: {fine} (seed {}), the same for every policy", s.seed),
        format!(
            "instances: {rate}/s each; {} are always there; what is ordered serves after the start delay and costs from its order",
            s.home
        ),
        format!("loss: one queue in front of all; who waited {} ms is lost", s.wait_max_ms),
        format!("violated: seconds in which something was lost or the p95 wait was above {} ms", s.objective_ms),
        format!(
            "{OURS}: the product's senses, judge and planner; it is told the start delay and learned the capacity beforehand"
        ),
        format!(
            "{HPA}: looks each 15 s, CPU target {} %, tolerance 10 %, scale-up +100 % or +4 in 15 s, scale-down window 300 s",
            s.hpa_target_percent
        ),
        format!(
            "{KEDA}: the same rules over requests a second, polled each 30 s, target {} % of an instance",
            s.hpa_target_percent
        ),
        format!(
            "{DELAYED}: {HPA} with what feeds it: the kubelet looks each {KUBELET_S} s, metrics-server asks it each {METRICS_S} s, the controller looks each {SYNC_S} s"
        ),
        format!(
            "{KPA}: Knative's autoscaler over what is inside: windows of {} and {} s, {} % of an instance's places, panic at {} % of what is ready, in which nothing goes",
            kpa::STABLE_S,
            kpa::PANIC_S,
            kpa::TARGET_PERCENT,
            kpa::PANIC_PERCENT
        ),
    ];
    let of_hindsight = [
        format!(
            "{TUNED}: of {} look-ahead policies that count what came in 1 to 30 s, and of those that order nothing in ten minutes of steady load at 80 %, the one that lost least on this very load within {} % of {HPA}'s instance-hours",
            family(Sight::Counts).len(),
            s.hours_percent
        ),
        format!(
            "{HINDSIGHT}: the same of {} that see the rate without chance, each second as it begins",
            family(Sight::Rate).len(),
        ),
        format!(
            "{CLAIRVOYANT}: knows every arrival beforehand and orders exactly enough for each half second, in time"
        ),
    ];
    let raced = |policy: &str| race.entries.iter().any(|e| e.policy == policy);
    rules.extend(
        [TUNED, HINDSIGHT, CLAIRVOYANT].into_iter().zip(of_hindsight).filter(|(p, _)| raced(p)).map(|(_, r)| r),
    );
    rules
}

/// Highest rate of each column, as a line of bars.
pub fn chart(load: &Load) -> String {
    let rates: Vec<u64> = load.runs.iter().flat_map(|r| r.counts.iter().copied()).collect();
    let most = rates.iter().copied().max().unwrap_or(0);
    let per = rates.len().div_ceil(CHART_WIDTH).max(1);
    let bar = |highest: u64| BARS[(highest * 7).checked_div(most).map_or(0, |n| n.min(7) as usize)];
    rates.chunks(per).map(|c| bar(c.iter().copied().max().unwrap_or(0))).collect()
}

/// How `ours` stands beside another: times fewer lost, part of its instance-hours.
fn beside(ours: &Entry, other: &Entry) -> (Option<f64>, f64) {
    let fewer = (ours.lost > 0).then(|| other.lost as f64 / ours.lost as f64);
    (fewer, ours.instance_seconds as f64 / (other.instance_seconds as f64).max(1.0))
}

pub fn text(race: &Race, load: &Load) -> String {
    let mut out = String::new();
    let highest = load.runs.iter().flat_map(|r| &r.counts).max().copied().unwrap_or(0);
    // Writing into a String does not fail.
    let how_much = match race.kind {
        Kind::Requests { .. } => {
            format!("{} requests, at most {:.0}/s", load.requests(), highest as f64 / race.step_s as f64)
        }
        Kind::Clients { .. } => format!("at most {highest} clients"),
    };
    let _ = writeln!(
        out,
        "{} steps of {} s in {} without a break, {how_much}",
        race.steps,
        race.step_s,
        if race.runs == 1 { "one run".to_owned() } else { format!("{} runs, each", race.runs) },
    );
    if race.filled_steps > 0 {
        let _ = writeln!(out, "{} steps were missing and filled in between their neighbours", race.filled_steps);
    }
    let _ = writeln!(out, "{}\n", chart(load));
    let head = ["start", "policy", "lost", "lost share", "violated", "instance-hours", "scale-ups", "peak"];
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(head);
    for e in &race.entries {
        let cells = [
            e.lost.to_string(),
            format!("{:.3} %", e.lost_percent()),
            format!("{} s", e.violated_s),
            format!("{:.1}", e.instance_hours()),
            e.scale_ups.to_string(),
            e.peak.to_string(),
        ];
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let mut row = vec![right(format!("{} s", e.start_s)), Cell::new(&e.policy)];
        row.extend(cells.map(right));
        table.add_row(row);
    }
    let _ = writeln!(out, "{table}\n");
    for start_s in &race.setting.starts_s {
        let of = |policy: &str| race.entries.iter().find(|e| e.policy == policy && e.start_s == *start_s);
        let (Some(ours), Some(hpa)) = (of(OURS), of(HPA)) else { continue };
        let (fewer, hours) = beside(ours, hpa);
        let fewer = match fewer {
            Some(times) => format!("{times:.1} times fewer lost than {HPA}"),
            None => format!("nothing lost ({HPA}: {})", hpa.lost),
        };
        let _ = write!(out, "start {start_s} s: {fewer}, at {hours:.2} of its instance-hours");
        for best in [of(TUNED), of(HINDSIGHT)].into_iter().flatten() {
            let _ = write!(out, "; {} lost {}", best.policy, best.lost);
            if best.lost > 0 {
                let _ = write!(out, ", {:.2} times that is ours", ours.lost as f64 / best.lost as f64);
            }
            if let Some(t) = best.tuning {
                let _ = write!(
                    out,
                    " (instances {} % full, rate over {} s, growth carried on for {} starts, kept for {} s)",
                    t.target_percent, t.over_s, t.carry, t.hold_s
                );
            }
        }
        out.push('\n');
    }
    out.push('\n');
    for rule in rules(race) {
        let _ = writeln!(out, "  {rule}");
    }
    out
}

pub fn to_json(race: &Race) -> Value {
    let mut value = json!(race);
    if let Some(entries) = value.get_mut("entries").and_then(Value::as_array_mut) {
        for (json, e) in entries.iter_mut().zip(&race.entries) {
            json["lost_percent"] = json!(e.lost_percent());
            json["instance_hours"] = json!(e.instance_hours());
        }
    }
    value["rules"] = json!(rules(race));
    value
}

/// Seconds of load that a race goes through, for whoever shows its progress.
pub fn seconds(race_starts: usize, load: &Load) -> u64 {
    load.runs.iter().map(|r| Arrivals::new(&r.counts, load.step_s, 0).seconds()).sum::<u64>() * race_starts as u64
}
