//! What is to be done now: derived from the stored journey, so that a crash loses nothing and a repetition does no harm.

use crate::record::{Journey, Part, PartState, Phase, TryState};
use crate::rehearsal;
use pumasi_lease::message::Renewal;
use pumasi_plan::Candidate;
use pumasi_terms::{CloudName, Digest, LeaseId, ReservationId};

/// An act on a peer. At most one of each runs at a time; every one is idempotent at the far side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    Reserve {
        cloud: CloudName,
        reservation: ReservationId,
    },
    LetGo {
        cloud: CloudName,
        reservation: ReservationId,
    },
    Sign {
        lease: LeaseId,
    },
    /// Application and first copies, up to this generation.
    Send {
        lease: LeaseId,
        generation: u64,
    },
    /// What its seat must know to go on without its home.
    Inform {
        lease: LeaseId,
        dossier: Digest,
    },
    /// One request, for a rehearsal.
    Ask {
        lease: LeaseId,
    },
    /// Logs and whatever else belongs home.
    Return {
        lease: LeaseId,
    },
    Release {
        lease: LeaseId,
    },
    Settle {
        lease: LeaseId,
    },
}

/// Acts for this journey now. `generation` is that of the service's application, `dossier` what its seats must know now.
pub fn acts(journey: &Journey, generation: u64, dossier: Option<Digest>) -> Vec<Act> {
    let mut acts = Vec::new();
    if journey.phase != Phase::Running {
        return acts;
    }
    for t in journey.seeking.iter().flat_map(|s| &s.tries) {
        let Candidate { cloud, reservation, .. } = t.candidate.clone();
        match t.state {
            TryState::Asking => acts.push(Act::Reserve { cloud, reservation }),
            TryState::LettingGo { .. } => acts.push(Act::LetGo { cloud, reservation }),
            _ => {}
        }
    }
    for part in &journey.parts {
        let lease = part.lease.clone();
        if let Some(dossier) = dossier.filter(|d| informs(part) && part.dossier != Some(*d)) {
            acts.push(Act::Inform { lease: lease.clone(), dossier });
        }
        match &part.state {
            PartState::Signing => acts.push(Act::Sign { lease }),
            state if is_sent_to(state) && part.generation_sent < generation => {
                acts.push(Act::Send { lease, generation });
            }
            PartState::Serving if rehearsal::asks(journey, part) => acts.push(Act::Ask { lease }),
            PartState::Ending { release, .. } => acts.extend(ending(part, release)),
            _ => {}
        }
    }
    acts
}

fn is_sent_to(state: &PartState) -> bool {
    use PartState::{Kept, Resting, Sending, Serving, Starting};
    matches!(state, Sending | Starting | Serving | Resting | Kept)
}

/// Only who keeps it ready learns everything about it.
fn informs(part: &Part) -> bool {
    part.standby.is_some() && is_sent_to(&part.state)
}

fn ending(part: &Part, release: &pumasi_release::ReleaseState) -> Option<Act> {
    use pumasi_release::Step;
    let lease = part.lease.clone();
    match release.step {
        Step::Draining | Step::Stopping | Step::Done => None,
        Step::Returning => Some(Act::Return { lease }),
        Step::Erasing => Some(Act::Release { lease }),
        Step::Settling => Some(Act::Settle { lease }),
    }
}

/// Leases of this journey to be renewed at a lender, for its next heartbeat.
pub fn renewals(journey: &Journey, lender: &CloudName) -> Vec<Renewal> {
    journey
        .parts
        .iter()
        .filter(|p| &p.lender == lender && p.is_leased())
        .map(|p| Renewal { lease: p.lease.clone(), epoch: journey.epoch, instances: wanted_there(p), behind_ms: None })
        .collect()
}

/// Instances that the lender shall run. While it drains they stay; afterwards none.
fn wanted_there(part: &Part) -> u32 {
    use pumasi_release::Step;
    match &part.state {
        PartState::Ending { release, .. } if release.step != Step::Draining => 0,
        PartState::Ending { .. } => part.ready.min(part.granted),
        // Those that answer still are not stopped under their users.
        PartState::Resting => part.ready.max(part.warm()).min(part.granted),
        _ => part.wanted.max(part.warm()).min(part.granted),
    }
}
