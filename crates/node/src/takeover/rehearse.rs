//! What would happen if a cloud were lost now.
//!
//! Enters: the register, what each cloud says now. Leaves: an end for each of the cloud's services, with times and what would mend it.
//! Always holds: it is the plan that a real loss would be answered with, made by the same function from the same reports; nothing changes.

use super::{judge, room};
use crate::Node;
use pumasi_api::Problem;
use pumasi_api::message::{RehearsalView, RehearsedService};
use pumasi_ownership::State;
use pumasi_ownership::recover::{Outcome, Policy, Verdict, Wait, recover};
use pumasi_ownership::state::{Class, Mode};
use pumasi_terms::CloudName;
use std::sync::Arc;

pub async fn rehearse(node: &Arc<Node>, lose: &CloudName) -> Result<RehearsalView, Problem> {
    let not = |text: &str| Problem::conflict(format!("nothing can be rehearsed: {text}"));
    if !node.voting.is_on() {
        let why = node.pact().map(|v| crate::voting::why_not(&v.pact));
        return Err(not(&why.unwrap_or_else(|| "this cloud is in no pact".into())));
    }
    let state = node.voting.state().ok_or_else(|| not("this cloud has not heard of the register yet"))?;
    let known = state.clouds.get(lose).ok_or_else(|| Problem::not_found("cloud in the register", lose))?;
    let reports = judge::reports(node, lose).await;
    let silent: Vec<CloudName> = state
        .clouds
        .keys()
        .filter(|c| *c != lose && !reports.contains_key(*c) && !state.is_witness(c))
        .cloned()
        .collect();
    let plan = recover(&state, &reports, lose, Policy { deferred: false });
    let noticed_ms = state.voting.timers.wait_ms(known.ttl_ms);
    let services = plan.items.iter().map(|v| service(node, &state, v, noticed_ms)).collect();
    Ok(RehearsalView { lose: lose.clone(), noticed_ms, asks: !state.within_pace(), silent, services })
}

fn service(node: &Node, state: &State, v: &Verdict, noticed_ms: u64) -> RehearsedService {
    let owned = state.services.get(&v.service);
    let has_data = owned.is_some_and(|o| o.agreed.mode != Mode::Stateless);
    let mut told = RehearsedService {
        service: v.name.clone(),
        class: judge::class_name(v.class).to_owned(),
        priority: v.priority,
        outcome: String::new(),
        heir: None,
        instances: 0,
        of: owned.map_or(0, |o| o.agreed.full),
        grows_to: None,
        grows_in_ms: None,
        rto_ms: None,
        // As far as copies are followed: what is lost is what was not sent yet.
        rpo: if has_data { "what was not sent yet (asynchronous copies)" } else { "nothing: it has no data" }
            .to_owned(),
        why: String::new(),
        mend: String::new(),
        falls_short: falls_short(v),
    };
    let start_ms = node.starts.of(&format!("service-{}", v.service));
    let heir = |told: &mut RehearsedService, to: &CloudName, instances: u32| {
        (told.heir, told.instances) = (Some(to.clone()), instances);
        told.rto_ms = start_ms.map(|start| noticed_ms.saturating_add(start));
    };
    match &v.outcome {
        Outcome::Full { to, instances } => {
            told.outcome = "full".into();
            heir(&mut told, to, *instances);
        }
        Outcome::Degraded { to, have, want, grows, grows_to } => {
            told.outcome = "degraded".into();
            heir(&mut told, to, *have);
            told.why = format!("{have} of {want} at once");
            if let Some(in_ms) = grows.iter().map(|g| g.in_ms).max() {
                (told.grows_to, told.grows_in_ms) = (Some(*grows_to), Some(in_ms));
                if *have == 0 {
                    told.rto_ms = told.rto_ms.map(|rto| rto.saturating_add(in_ms));
                }
                let ways = room::list(grows).join(", ");
                told.why.push_str(&format!(", {grows_to} in {} s at most: {ways}", in_ms.div_ceil(1_000)));
            }
        }
        Outcome::Waiting { place, why } => {
            told.outcome = "waiting".into();
            told.why = format!("place {place}: {}", waits(why));
        }
        Outcome::Impossible { why, mend } => {
            told.outcome = "impossible".into();
            (told.why, told.mend) = (why.clone(), mend.clone());
        }
    }
    told
}

/// What a customer wants to be asked about is no promise that is broken.
fn falls_short(v: &Verdict) -> bool {
    match (&v.outcome, v.class) {
        (_, Class::Deferred) | (Outcome::Full { .. } | Outcome::Waiting { why: Wait::Automation(_), .. }, _) => false,
        // Later is not smaller: when, is told.
        (Outcome::Degraded { want, grows_to, .. }, class) => class == Class::Guaranteed && grows_to < want,
        (Outcome::Waiting { .. } | Outcome::Impossible { .. }, _) => true,
    }
}

fn waits(why: &Wait) -> String {
    match why {
        Wait::Room { at, needs } => {
            format!("waits for {} mCPU and {} MiB at {at}, which lacks the least", needs.cpu_millis, needs.memory_mib)
        }
        Wait::NotYet => format!("a deferred service waits {} s first", judge::DEFERRED_AFTER_MS / 1_000),
        Wait::Automation(mode) => format!("its customer chose {mode:?}: a person decides").to_lowercase(),
    }
}
