//! How the vote stands, for people, metrics and the log.
//!
//! Enters: the group, the register, what the voter knows of itself. Leaves: a page of it. Always holds: observation only; nothing decides by it.

use super::group::Group;
use super::{Inner, Voting};
use pumasi_ownership::access::absence;
use pumasi_ownership::state::{Health, Mode, Phase, Standing};
use pumasi_ownership::timers::Profile;
use pumasi_ownership::{Owned, State};
use pumasi_terms::pact::Pact;
use pumasi_terms::{BootMs, CloudName, Epoch, Serial, ServiceId, ServiceName};
use serde::{Deserialize, Serialize};

/// What this cloud's voter knew of itself last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seat {
    pub leader: Option<CloudName>,
    pub leads: bool,
    pub term: u64,
    pub applied: u64,
    pub last: u64,
    pub stalled: bool,
    pub campaigns: u64,
    pub transactions: u64,
}

/// One cloud in the register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoodUp {
    pub cloud: CloudName,
    pub votes: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub witness: bool,
    /// `alive`, `lost`, `returning`, `left`, or `unknown`: it has not joined.
    pub standing: String,
    #[serde(default)]
    pub run: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ailing: bool,
}

/// One service in the register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedUp {
    pub service: ServiceName,
    pub owner: CloudName,
    pub epoch: Epoch,
    /// `serving`, `taken`, `degraded`, `waiting` or `yielded`.
    pub phase: String,
    /// The numbers that go with it, in words; empty where there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Where it could live on, the best first.
    #[serde(default)]
    pub standbys: Vec<CloudName>,
    /// It loses no acknowledged write: only a cloud of `in_step` may take it over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sync: bool,
    /// Clouds beside its owner that have every acknowledged write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_step: Vec<CloudName>,
}

/// What this cloud does in the vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Leads,
    Votes,
    /// Reads along.
    Follows,
    None,
}

/// `GET /v1/pact`, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub votes: bool,
    /// Why not, or what is not as it should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<CloudName>,
    pub part: Part,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Serial>,
    /// `default`, `lan`, `far`, or none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[serde(default)]
    pub ttl_ms: u64,
    #[serde(default)]
    pub term: u64,
    #[serde(default)]
    pub revision: u64,
    /// How long this cloud may still write for what the register protects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clouds: Vec<StoodUp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<OwnedUp>,
    /// Elections that this voter began, and transactions that it wrote, since the start.
    #[serde(default)]
    pub campaigns: u64,
    #[serde(default)]
    pub transactions: u64,
}

/// What keeps a pact that does not vote from moving services by itself.
pub fn why_not(pact: &Pact) -> String {
    match pact.members.len() {
        0 | 1 => "no automatic takeover: one cloud has nobody to take over".into(),
        2 => "no automatic takeover: 2 voters cannot tell a dead partner from a cut link; add a witness. A person can take over by hand (pumasi pact takeover)".into(),
        _ => "no automatic takeover: the pact does not vote; name 3 or 5 voters (pumasi pact vote)".into(),
    }
}

fn clouds(group: &Group, state: Option<&State>) -> Vec<StoodUp> {
    let of = |cloud: &CloudName| {
        let known = state.and_then(|s| s.clouds.get(cloud));
        let standing = match known.map(|k| k.standing) {
            None => "unknown",
            Some(Standing::Alive) => "alive",
            Some(Standing::Lost { .. }) => "lost",
            Some(Standing::Returning { .. }) => "returning",
            Some(Standing::Left) => "left",
        };
        StoodUp {
            cloud: cloud.clone(),
            votes: group.named().contains(cloud),
            witness: group.voting.members.get(cloud) == Some(&pumasi_ownership::state::Role::Witness),
            standing: standing.into(),
            run: known.map_or(0, |k| k.run),
            ailing: known.is_some_and(|k| k.health == Health::Ailing),
        }
    };
    group.voting.members.keys().map(of).collect()
}

fn services(state: &State) -> Vec<OwnedUp> {
    let told = |(id, owned): (&ServiceId, &Owned)| {
        let (phase, detail) = match owned.phase {
            Phase::Serving => ("serving", String::new()),
            Phase::Taken { have, want } => ("taken", format!("{have} of {want} instances at first")),
            Phase::Degraded { have, want } => ("degraded", format!("{have} of {want} instances")),
            Phase::Waiting { place: u32::MAX } => ("waiting", "nobody can take it".into()),
            Phase::Waiting { place } => ("waiting", format!("place {place}")),
            Phase::Yielded => ("yielded", "its owner has stopped writing".into()),
        };
        // What its users are told at every entrance.
        let detail = absence(state, id).map_or(detail, |absence| absence.text);
        OwnedUp {
            service: owned.agreed.name.clone(),
            owner: owned.owner.clone(),
            epoch: owned.epoch,
            phase: phase.into(),
            detail,
            standbys: owned.agreed.standbys.iter().map(|s| s.cloud.clone()).collect(),
            sync: owned.agreed.mode == Mode::Sync,
            in_step: owned.in_sync.iter().cloned().collect(),
        }
    };
    let mut all: Vec<OwnedUp> = state.services.iter().map(told).collect();
    all.sort_by(|a, b| a.service.cmp(&b.service));
    all
}

fn remarks(inner: &Inner, group: &Group) -> Vec<String> {
    let mut remarks: Vec<String> = inner.trouble.iter().cloned().collect();
    let gone = group.named().iter().filter(|v| !group.members.contains(*v));
    remarks.extend(gone.map(|v| format!("{v} votes and is no member any more: name other voters (pumasi pact vote)")));
    match &inner.state {
        None => remarks.push("this cloud has not heard of the register yet".into()),
        Some(state) if state.voting.serial != group.voting.serial => remarks.push(format!(
            "the register is of serial {}, the pact of {}: whoever leads says so to the others",
            state.voting.serial, group.voting.serial
        )),
        Some(_) => {}
    }
    if group.timers().ttl_needed(inner.measured).is_err_and(|_| inner.measured.rtt_p99_ms > 0) {
        remarks.push("the network between the voters, or this disk, is too slow for the pact's times".into());
    }
    remarks
}

impl Voting {
    pub fn status(&self, pact: &Pact, now: BootMs) -> Status {
        let right = self.right_until();
        let inner = self.inner.lock();
        let seat = inner.seat.clone().unwrap_or_default();
        let none = Status {
            votes: false,
            remarks: vec![why_not(pact)],
            leader: None,
            part: Part::None,
            since: None,
            profile: None,
            ttl_ms: 0,
            term: 0,
            revision: 0,
            right_ms: None,
            clouds: Vec::new(),
            services: Vec::new(),
            campaigns: 0,
            transactions: 0,
        };
        let Some(group) = &inner.group else { return none };
        let part = match (&inner.inbox, &inner.state) {
            (Some(_), _) if seat.leads => Part::Leads,
            (Some(_), _) => Part::Votes,
            (None, Some(_)) => Part::Follows,
            (None, None) => Part::None,
        };
        Status {
            votes: true,
            remarks: remarks(&inner, group),
            leader: seat.leader,
            part,
            since: Some(group.since),
            profile: Profile::of(group.timers()).map(|p| p.as_str().to_owned()),
            ttl_ms: group.timers().ttl_ms,
            term: seat.term,
            revision: inner.state.as_ref().map_or(0, |s| s.revision),
            right_ms: right.map(|until| until.since(now)),
            clouds: clouds(group, inner.state.as_deref()),
            services: inner.state.as_deref().map(services).unwrap_or_default(),
            campaigns: seat.campaigns,
            transactions: seat.transactions,
        }
    }
}
