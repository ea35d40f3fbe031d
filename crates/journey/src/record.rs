//! The journey as it is stored, format version 1.

use crate::rehearsal::Rehearsal;
use pumasi_judge::Cause;
use pumasi_lease::Usage;
use pumasi_lease::message::ReservationGrant;
use pumasi_plan::{Borrow, Candidate, Plan};
use pumasi_release::ReleaseState;
use pumasi_terms::{
    BootMs, CloudName, Digest, Epoch, JourneyId, LeaseId, Money, Now, PlanId, Ppm, ReservationId, ServiceName, Standby,
    WallMs,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub const JOURNEY_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Journey {
    pub version: u32,
    pub id: JourneyId,
    pub service: ServiceName,
    pub cause: Cause,
    pub epoch: Epoch,
    pub opened_at: WallMs,
    pub phase: Phase,
    /// The plan in force, or the one that waits.
    pub plan: PlanId,
    pub plan_number: u64,
    /// The search for a lender, while the plan in force asks for one.
    pub seeking: Option<Seeking>,
    pub parts: Vec<Part>,
    /// Lenders that failed in this journey: not asked again by it.
    pub failed: Vec<CloudName>,
    /// Of those that failed, until when a journey that lasts does not ask them again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed_until: BTreeMap<CloudName, BootMs>,
    /// Standbys that helped it, and are kept again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub helped_by: BTreeSet<LeaseId>,
    /// Standbys that it keeps and that help another journey of the service now.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub away: BTreeSet<LeaseId>,
    /// It only finds out whether borrowing would work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<Rehearsal>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// The first plan waits for a person.
    Waiting,
    Running,
    Closed {
        at: WallMs,
        outcome: Outcome,
        why: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything came back and was settled.
    Returned,
    /// No lender could help, or the plan was refused.
    NotBegun,
    /// Over, but some lender could not prove that nothing is left.
    Unproven,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Seeking {
    pub plan: PlanId,
    pub begun_at: BootMs,
    pub tries: Vec<Try>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Try {
    pub candidate: Candidate,
    pub state: TryState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum TryState {
    Asking,
    Granted {
        grant: ReservationGrant,
    },
    Refused {
        why: String,
    },
    /// Not needed: the lender is told until it has answered, or its hold has run out anyway.
    LettingGo {
        until: BootMs,
    },
    Over,
    Chosen,
}

/// One lease within the journey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Part {
    pub lease: LeaseId,
    pub lender: CloudName,
    pub reservation: ReservationId,
    pub plan: PlanId,
    pub granted: u32,
    pub wanted: u32,
    pub price_per_instance_hour: Money,
    pub ttl_ms: u64,
    pub recall_notice_ms: u64,
    pub state: PartState,
    pub since: BootMs,
    /// By this cloud's clock, from when the last renewal that was answered had been sent.
    pub expires_at: BootMs,
    pub heard_at: BootMs,
    pub ready: u32,
    /// Generation of the application that is complete there.
    pub generation_sent: u64,
    /// Its share of new users, relative to the home's.
    pub weight: Ppm,
    pub stepped_at: BootMs,
    /// Given up while it was being signed: until its hold has run out there, a signature under way may still make it a lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsure_until: Option<BootMs>,
    /// Called back: gone by then.
    pub recalled: Option<BootMs>,
    pub trouble: Option<String>,
    /// Reasons of the lender for instances that are not ready, each of which is told once.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub troubles_told: BTreeSet<String>,
    /// As metered here.
    pub usage: Usage,
    /// Instance time for which nothing was heard of the lease, because of a link or of this daemon: our own reading may lack it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unmetered_ms: u64,
    /// Silences for which all granted instances were taken to run, together.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub blind_ms: u64,
    /// As the lender says.
    pub lender_usage: Usage,
    /// What its lease promises as a standby, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Standby>,
    /// In percent of the price in use, while it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_percent: Option<u32>,
    /// The dossier that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dossier: Option<Digest>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum PartState {
    Signing,
    /// Application and first copies are on their way.
    Sending,
    Starting,
    Serving,
    /// A standby that served: requests in flight end, and it is kept again.
    Resting,
    /// A standby: complete, kept fresh, no user is sent there.
    Kept,
    Ending {
        why: String,
        release: ReleaseState,
    },
    Ended {
        why: String,
        proven: bool,
        settled: bool,
    },
}

/// What a lender needs to hear of it and to stop its instances. Longer nobody pays for an answer that is lost.
const STOPPING_MS: u64 = 1_500;

impl Part {
    /// What `instances` used in the last `span_ms` is known to the lender only.
    pub fn lose_sight(&mut self, instances: u32, span_ms: u64) {
        let lost_ms = u64::from(instances).saturating_mul(span_ms);
        self.unmetered_ms = self.unmetered_ms.saturating_add(lost_ms);
    }
    /// Whether the lender should go on holding it.
    pub fn is_leased(&self) -> bool {
        !matches!(self.state, PartState::Signing | PartState::Ended { .. })
    }
    /// Whether it serves or is kept, or will be.
    pub fn is_hopeful(&self) -> bool {
        !matches!(self.state, PartState::Ending { .. } | PartState::Ended { .. })
    }
    /// Instances that the lender runs for it, served or not.
    pub fn warm(&self) -> u32 {
        self.standby.map_or(0, |s| s.warm.min(self.granted))
    }
    /// A standby to which everything was sent.
    pub fn is_complete(&self) -> bool {
        self.generation_sent > 0
    }
    /// Signed in what may become a lease: everything of it is to come.
    pub(crate) fn new(candidate: &Candidate, grant: &ReservationGrant, plan: &Plan, borrow: &Borrow, now: Now) -> Self {
        let standby = borrow.requirement.standby;
        Self {
            lease: candidate.lease.clone(),
            lender: candidate.cloud.clone(),
            reservation: candidate.reservation.clone(),
            plan: plan.id.clone(),
            granted: grant.instances,
            wanted: if standby.is_some() { 0 } else { grant.instances },
            price_per_instance_hour: grant.price_per_instance_hour,
            ttl_ms: borrow.lease_ttl_ms.min(grant.lease_ttl_ms_max),
            recall_notice_ms: grant.recall_notice_ms,
            state: PartState::Signing,
            since: now.boot,
            expires_at: now.boot.after(grant.expires_in_ms),
            heard_at: now.boot,
            ready: 0,
            generation_sent: 0,
            weight: Ppm(0),
            stepped_at: now.boot,
            unsure_until: None,
            recalled: None,
            trouble: None,
            troubles_told: BTreeSet::new(),
            usage: Usage::default(),
            unmetered_ms: 0,
            blind_ms: 0,
            lender_usage: Usage::default(),
            standby,
            standby_percent: grant.standby_percent.filter(|_| standby.is_some()),
            dossier: None,
        }
    }
    pub fn is_over(&self) -> bool {
        matches!(self.state, PartState::Ended { .. })
    }
    /// Instances that are metered as used: what was last heard of, but none for long after the lender was told to stop them,
    /// however late its answer comes, and none after the lease's time by our own clock.
    pub fn in_use(&self, now: BootMs) -> u32 {
        use pumasi_release::Step;
        let given_back = match &self.state {
            PartState::Ending { release, .. } => match release.step {
                Step::Draining => false,
                Step::Stopping => now.since(release.since) >= STOPPING_MS,
                _ => true,
            },
            _ => false,
        };
        if given_back || self.expires_at <= now { 0 } else { self.ready }
    }
}

impl Journey {
    pub fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Closed { .. })
    }
    pub fn part(&self, lease: &LeaseId) -> Option<&Part> {
        self.parts.iter().find(|p| &p.lease == lease)
    }
    pub(crate) fn part_mut(&mut self, lease: &LeaseId) -> Option<&mut Part> {
        self.parts.iter_mut().find(|p| &p.lease == lease)
    }
    /// Whether what it rents serves nobody.
    pub fn is_rehearsal(&self) -> bool {
        self.cause == Cause::Rehearsal
    }
    /// Whether it keeps standbys: it lasts as long as they are wanted, beside whatever else the service needs.
    pub fn is_continuity(&self) -> bool {
        self.cause == Cause::Continuity
    }
    /// Ready instances that are to stay.
    pub fn serving(&self) -> u32 {
        if self.is_rehearsal() {
            return 0;
        }
        let stays = |p: &&Part| p.state == PartState::Serving && p.recalled.is_none();
        self.parts.iter().filter(stays).map(|p| p.ready.min(p.wanted)).sum()
    }
    /// Instances asked for or on their way, not serving yet.
    pub fn coming(&self) -> u32 {
        if self.is_rehearsal() || self.is_continuity() {
            return 0;
        }
        let parts: u32 = self
            .parts
            .iter()
            .filter(|p| p.is_hopeful() && p.recalled.is_none())
            .map(|p| if p.state == PartState::Serving { p.wanted.saturating_sub(p.ready) } else { p.wanted })
            .sum();
        let sought = self.seeking.as_ref().map_or(0, |s| s.tries.iter().filter_map(Try::hoped).max().unwrap_or(0));
        parts + sought
    }
}

impl Try {
    fn hoped(&self) -> Option<u32> {
        match &self.state {
            TryState::Asking => Some(1),
            TryState::Granted { grant } => Some(grant.instances),
            _ => None,
        }
    }
}

/// Something worth a line in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub action: &'static str,
    /// `journey`, `lease` or `reservation`.
    pub subject_kind: &'static str,
    pub subject: String,
    pub reasons: Vec<String>,
    /// The end of an application's log.
    pub last_line: String,
}

impl Told {
    pub(crate) fn journey(journey: &Journey, action: &'static str, why: impl Into<String>) -> Self {
        Self {
            action,
            subject_kind: "journey",
            subject: journey.id.to_string(),
            reasons: vec![why.into()],
            last_line: String::new(),
        }
    }
    pub(crate) fn lease(part: &Part, action: &'static str, why: impl Into<String>) -> Self {
        Self {
            action,
            subject_kind: "lease",
            subject: part.lease.to_string(),
            reasons: vec![why.into()],
            last_line: String::new(),
        }
    }
}
