//! What every plan must be, checked apart from its making: before it is executed, and when a person hands one in.

use crate::document::{PLAN_VERSION, Plan, Role};
use crate::make::{CANDIDATES_MAX, CurrentPart, Parent, dearest};
use pumasi_terms::service::Service;
use pumasi_terms::{CloudName, FieldError, Ppm};

/// One fault of a plan: the field and what is wrong.
pub type Fault = FieldError;

/// Every fault of the plan; empty: it may be executed.
pub fn lint(
    plan: &Plan,
    service: &Service,
    home: &CloudName,
    parts: &[CurrentPart],
    parent: Option<&Parent>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |field: &str, problem: String| faults.push(Fault { field: field.to_owned(), problem });
    let spec = &service.spec;
    if plan.version != PLAN_VERSION {
        fault("version", format!("is {}, {PLAN_VERSION} is read here", plan.version));
    }
    if plan.service != service.metadata.name || plan.verdict.service != service.metadata.name {
        fault("service", format!("is {}, the service is {}", plan.service, service.metadata.name));
    }
    match parent {
        Some(p) if plan.parent.as_ref() != Some(&p.id) => {
            fault("parent", format!("is not {}, the plan before it", p.id))
        }
        Some(p) if plan.number != p.number.saturating_add(1) => {
            fault("number", format!("is {}, the plan before it is {}", plan.number, p.number))
        }
        None if plan.parent.is_some() || plan.number != 1 => {
            fault("parent", "the first plan of a journey has none and is number 1".to_owned())
        }
        _ => {}
    }
    if plan.parent.as_ref() == Some(&plan.id) {
        fault("parent", "is the plan itself".to_owned());
    }
    if plan.mode != spec.borrowing.mode {
        fault("mode", format!("is {:?}, the service says {:?}", plan.mode, spec.borrowing.mode));
    }
    if plan.datasets.iter().any(|d| !spec.datasets.iter().any(|known| &known.name == d)) {
        fault("datasets", "names a dataset that the service has not".to_owned());
    }

    let mut cost = 0u64;
    for (i, part) in plan.parts.iter().enumerate() {
        let at = format!("parts[{i}]");
        if plan.parts[..i].iter().any(|p| p.lease == part.lease) {
            fault(&at, format!("{} is named twice", part.lease));
        }
        let Some(now) = parts.iter().find(|p| p.lease == part.lease && p.cloud == part.cloud) else {
            fault(&at, format!("there is no lease {} at {}", part.lease, part.cloud));
            continue;
        };
        if part.instances > now.granted {
            fault(&at, format!("{} instances, the lease grants {}", part.instances, now.granted));
        }
        if now.recalled && part.instances > 0 {
            fault(&at, format!("{} is called back", part.lease));
        }
        if part.role == Role::Standby && (now.standby.is_none() || part.instances > 0) {
            fault(&at, format!("{} is no standby, or one that serves: it cannot be kept ready", part.lease));
        }
        cost = cost.saturating_add(now.cost(part));
    }
    for missing in parts.iter().filter(|now| !plan.parts.iter().any(|p| p.lease == now.lease)) {
        fault("parts", format!("says nothing of {}", missing.lease));
    }
    let mut instances: u32 = plan.parts.iter().map(|p| p.instances).fold(0, u32::saturating_add);

    if let Some(borrow) = &plan.borrow {
        let need = &borrow.requirement;
        let n = borrow.candidates.len();
        if n == 0 || n > CANDIDATES_MAX {
            fault("borrow.candidates", format!("are {n}; 1 to {CANDIDATES_MAX} are asked"));
        }
        for (i, c) in borrow.candidates.iter().enumerate() {
            let at = format!("borrow.candidates[{i}]");
            let earlier = &borrow.candidates[..i];
            if earlier.iter().any(|e| e.cloud == c.cloud || e.reservation == c.reservation || e.lease == c.lease) {
                fault(&at, format!("{} or an id of it is named twice", c.cloud));
            }
            if earlier.last().is_some_and(|e| e.score > c.score) {
                fault(&at, "is ranked below a worse one".to_owned());
            }
            let allowed = spec.borrowing.clouds.is_empty() || spec.borrowing.clouds.contains(&c.cloud);
            if &c.cloud == home || !allowed {
                fault(&at, format!("{} may not hold this service", c.cloud));
            }
            if c.price_per_instance_hour > need.price_per_instance_hour_max {
                fault(&at, "costs more than the requirement pays".to_owned());
            }
            if plan.parts.iter().any(|p| p.lease == c.lease) {
                fault(&at, format!("{} exists already", c.lease));
            }
        }
        if need.instances == 0 || need.instances_min == 0 || need.instances_min > need.instances {
            fault("borrow.requirement", "instances_min must be 1 to instances".to_owned());
        }
        if need.service != plan.service || need.resources != spec.application.resources {
            fault("borrow.requirement", "is not what the service needs".to_owned());
        }
        if borrow.hold_ttl_ms <= borrow.answer_timeout_ms || borrow.lease_ttl_ms == 0 || borrow.answer_timeout_ms == 0 {
            fault("borrow", "a hold must outlive the wait for answers, and a lease must last".to_owned());
        }
        if plan.bytes_max > spec.borrowing.bytes_max {
            fault("bytes_max", format!("is {}, {} are allowed", plan.bytes_max, spec.borrowing.bytes_max));
        }
        match need.standby {
            None => instances = instances.saturating_add(need.instances),
            Some(wanted) if wanted != spec.continuity.standby() => {
                fault("borrow.requirement", "is not the standby that the service wants".to_owned())
            }
            Some(_) => {}
        }
        cost = cost.saturating_add(dearest(borrow));
    }
    // An old surplus that only shrinks is no fault of the plan.
    let grows = plan.borrow.is_some()
        || plan.parts.iter().any(|p| parts.iter().any(|now| now.lease == p.lease && p.instances > now.instances));
    if grows && instances > spec.borrowing.instances_max {
        fault("parts", format!("{instances} instances in all, {} are allowed", spec.borrowing.instances_max));
    }
    if grows && cost > spec.borrowing.money_per_hour_max.0 {
        let allowed = spec.borrowing.money_per_hour_max;
        fault("cost_per_hour_max", format!("the plan may cost {}, {allowed} are allowed", pumasi_terms::Money(cost)));
    }
    if plan.cost_per_hour_max.0 < cost {
        fault("cost_per_hour_max", format!("is {}, it may cost {}", plan.cost_per_hour_max, pumasi_terms::Money(cost)));
    }
    let route = &plan.route;
    let whole = |p: Ppm| (1..=Ppm::WHOLE.0).contains(&p.0);
    if !whole(route.start) || !whole(route.step) || !(10..=60_000).contains(&route.step_ms) {
        fault("route", "start and step are above 0 and at most a whole, step_ms is 10 to 60000".to_owned());
    }
    if route.mode != spec.routing.mode {
        fault("route.mode", format!("is {:?}, the service says {:?}", route.mode, spec.routing.mode));
    }
    faults
}
