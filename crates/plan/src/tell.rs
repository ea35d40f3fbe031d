//! A plan in words, and what sets it apart from another.

use crate::document::{Part, Plan, Role};
use pumasi_judge::Cause;
use std::fmt::Write;

/// The plan for people, a line a decision.
pub fn describe(plan: &Plan) -> String {
    let mut out = String::new();
    // Writing into a String does not fail.
    let _ = writeln!(out, "plan {} for {}", plan.number, plan.service);
    let v = &plan.verdict;
    let _ = match v.cause {
        Cause::Continuity => writeln!(out, "  so that it is kept ready elsewhere"),
        cause => writeln!(out, "  {}: {} elsewhere wanted", because(cause), instances(v.borrowed_wanted)),
    };
    for reason in &v.reasons {
        let _ = writeln!(out, "    {}", reason.text);
    }
    for part in &plan.parts {
        let _ = match (part.role, part.instances) {
            (Role::Standby, _) => writeln!(out, "  kept ready at {}", part.cloud),
            (_, 0) => writeln!(out, "  what {} lends is given back", part.cloud),
            (_, n) => writeln!(out, "  {} at {}", instances(n), part.cloud),
        };
    }
    if let Some(borrow) = &plan.borrow {
        let need = &borrow.requirement;
        let (n, cpu, mib) = (need.instances, need.resources.cpu_millis, need.resources.memory_mib);
        let _ = match need.standby {
            Some(standby) => writeln!(
                out,
                "  keep ready elsewhere: room for {n} of {cpu} cpu_millis and {mib} MiB, {} of them running",
                standby.warm
            ),
            None => {
                writeln!(out, "  borrow {n} more (at least {}) of {cpu} cpu_millis and {mib} MiB", need.instances_min)
            }
        };
        for (rank, c) in borrow.candidates.iter().enumerate() {
            let _ = writeln!(out, "    {}. {}: {}", rank + 1, c.cloud, c.why);
        }
    }
    let _ = writeln!(out, "  costs at most {} an hour, sends at most {} bytes", plan.cost_per_hour_max, plan.bytes_max);
    out
}

fn instances(n: u32) -> String {
    if n == 1 { "1 instance".to_owned() } else { format!("{n} instances") }
}

fn because(cause: Cause) -> &'static str {
    match cause {
        Cause::Overload => "because there is more load than the own cloud serves in time",
        Cause::Recovery => "because the load has fallen",
        Cause::Recall => "because a lender calls its capacity back",
        Cause::Request => "because somebody asked for it",
        Cause::Continuity => "because it is to be kept ready elsewhere",
        Cause::Rehearsal => "to see whether borrowing would work",
    }
}

fn size(part: &Part) -> String {
    if part.role == Role::Standby { "kept ready".to_owned() } else { part.instances.to_string() }
}

/// What changes from one plan to another, a sentence each; ids, numbers and dates apart.
pub fn diff(old: &Plan, new: &Plan) -> Vec<String> {
    let mut out = Vec::new();
    let mut differs = |what: &str, a: String, b: String| {
        if a != b {
            out.push(format!("{what}: {a} -> {b}"));
        }
    };
    differs("service", old.service.to_string(), new.service.to_string());
    differs("epoch", old.epoch.to_string(), new.epoch.to_string());
    differs("cause", format!("{:?}", old.verdict.cause), format!("{:?}", new.verdict.cause));
    differs("wanted", old.verdict.borrowed_wanted.to_string(), new.verdict.borrowed_wanted.to_string());
    differs("mode", format!("{:?}", old.mode), format!("{:?}", new.mode));
    differs("application", old.application.to_string(), new.application.to_string());
    differs("datasets", format!("{:?}", old.datasets), format!("{:?}", new.datasets));
    differs("route", format!("{:?}", old.route), format!("{:?}", new.route));
    differs("cost an hour at most", old.cost_per_hour_max.to_string(), new.cost_per_hour_max.to_string());
    differs("bytes at most", old.bytes_max.to_string(), new.bytes_max.to_string());
    let borrow = |p: &Plan| match &p.borrow {
        None => "nothing".to_owned(),
        Some(b) => {
            let clouds: Vec<&str> = b.candidates.iter().map(|c| c.cloud.as_str()).collect();
            let what = if b.requirement.standby.is_some() { " as a standby" } else { "" };
            format!("{} of {}{what}", b.requirement.instances, clouds.join(", "))
        }
    };
    differs("borrow", borrow(old), borrow(new));
    for part in &new.parts {
        let before = old.parts.iter().find(|p| p.lease == part.lease);
        let a = before.map_or("none".to_owned(), size);
        differs(&format!("instances at {} ({})", part.cloud, part.lease), a, size(part));
    }
    for gone in old.parts.iter().filter(|p| !new.parts.iter().any(|n| n.lease == p.lease)) {
        differs(&format!("instances at {} ({})", gone.cloud, gone.lease), size(gone), "none".to_owned());
    }
    out
}
