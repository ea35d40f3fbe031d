//! The borrower's choice among the grants that came in time: a rule, not a judgement.

use crate::message::ReservationGrant;
use pumasi_plan::Candidate;
use pumasi_terms::offer::Requirement;

/// Why a grant is no use, in words for the journal; None if it is sound. A lender that grants what was not asked is not believed.
pub fn unsound(need: &Requirement, candidate: &Candidate, grant: &ReservationGrant) -> Option<String> {
    let (cloud, price) = (&candidate.cloud, grant.price_per_instance_hour);
    if grant.id != candidate.reservation {
        return Some(format!("{cloud} answered for {}, not for {}", grant.id, candidate.reservation));
    }
    if grant.instances > need.instances {
        return Some(format!("{cloud} granted {} instances, {} were asked for", grant.instances, need.instances));
    }
    if grant.instances < need.instances_min.max(1) {
        return Some(format!("{cloud} granted {} instances, {} are of use", grant.instances, need.instances_min));
    }
    if price > candidate.price_per_instance_hour || price > need.price_per_instance_hour_max {
        return Some(format!(
            "{cloud} asks {price} an instance-hour, it had offered {}",
            candidate.price_per_instance_hour
        ));
    }
    if grant.expires_in_ms == 0 || grant.lease_ttl_ms_max == 0 {
        return Some(format!("{cloud} granted no time"));
    }
    None
}

/// The candidate to confirm: of the sound grants the largest, then the best rank (lowest score, then the plan's order).
/// All the others are let go.
pub fn choose<'a>(need: &Requirement, grants: &'a [(Candidate, Option<ReservationGrant>)]) -> Option<&'a Candidate> {
    grants
        .iter()
        .enumerate()
        .filter_map(|(rank, (candidate, grant))| Some((rank, candidate, grant.as_ref()?)))
        .filter(|(_, candidate, grant)| unsound(need, candidate, grant).is_none())
        .min_by_key(|(rank, candidate, grant)| (std::cmp::Reverse(grant.instances), candidate.score, *rank))
        .map(|(_, candidate, _)| candidate)
}
