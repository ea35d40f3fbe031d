//! A plan that keeps a service ready elsewhere, as its customer wishes.
//!
//! One search at a time: a cloud that is found becomes a seat, and the next look plans for what is still missing.

use crate::document::{Part, Plan, Role};
use crate::make::{CurrentPart, NoPlan, PlanInput, Search, document, kept_rent, new_borrow, obstacle};
use pumasi_judge::standbys::{Seat, Standbys, standbys};
use pumasi_terms::{CloudName, Continuity};

/// What the customer wishes and what there is, compared. Leases that are no standbys are no part of it.
pub fn compare(wish: &Continuity, parts: &[CurrentPart]) -> Standbys {
    let seat = |p: &CurrentPart| {
        let kept = p.standby?;
        Some(Seat {
            lease: p.lease.clone(),
            cloud: p.cloud.clone(),
            agreed: kept.agreed,
            complete: kept.complete,
            recalled: p.recalled,
        })
    };
    standbys(wish, &parts.iter().filter_map(seat).collect::<Vec<_>>())
}

/// Makes the plan, or says what stands in the way.
///
/// # Errors
/// `no_change` where everything is as wished; what keeps a missing standby from being found.
pub fn keep_ready(input: &PlanInput) -> Result<Plan, NoPlan> {
    let there = compare(&input.service.spec.continuity, &input.parts);
    let role = |p: &CurrentPart| if there.go.contains(&p.lease) { Role::Serving } else { Role::Standby };
    let part = |p: &CurrentPart| Part { lease: p.lease.clone(), cloud: p.cloud.clone(), role: role(p), instances: 0 };
    let parts: Vec<Part> = input.parts.iter().map(part).collect();
    let mut reasons = Vec::new();
    let borrow = if there.missing > 0 { search(input, &parts, &there, &mut reasons) } else { None };
    if borrow.is_none() && there.go.is_empty() {
        if reasons.is_empty() {
            reasons.push(obstacle("no_change", "everything is kept ready as it is wished".into()));
        }
        return Err(NoPlan { reasons });
    }
    Ok(document(input, parts, borrow))
}

fn search(
    input: &PlanInput,
    parts: &[Part],
    there: &Standbys,
    reasons: &mut Vec<crate::Obstacle>,
) -> Option<crate::Borrow> {
    let spec = &input.service.spec;
    let (wish, standby) = (&spec.continuity, spec.continuity.standby());
    // Room for what runs at home without load.
    let instances = spec.instances.home.min.max(wish.warm).max(1);
    let paid: u64 = input.parts.iter().filter_map(|p| Some((p, p.standby?))).fold(0, |sum, (p, kept)| {
        let rent = kept_rent(p.price_per_instance_hour, Some(kept.percent), p.granted, kept.agreed);
        sum.saturating_add(rent)
    });
    let money_left = spec.borrowing.money_per_hour_max.0.saturating_sub(paid);
    let search = Search { instances, instances_min: instances, standby: Some(standby), money_left };
    // A second copy at one cloud keeps nothing safer.
    let taken = |cloud: &CloudName| input.parts.iter().any(|p| &p.cloud == cloud && there.stay.contains(&p.lease));
    let mut asked = input.clone();
    asked.offers.retain(|(offer, _)| !taken(&offer.cloud));
    new_borrow(&asked, search, parts, reasons)
}
