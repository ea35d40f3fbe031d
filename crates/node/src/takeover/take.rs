//! What the register gives to this cloud becomes its own: the heir's side of a takeover.
//!
//! Enters: services that the register says are this cloud's, the standbys that are here. Leaves: their records, which promotion and
//! instances follow from.
//! Always holds: a service is entered at the epoch of the register and no other, in the transaction that ends the standby's lease; what
//! this cloud had of it from an earlier time, and never handed on, is set aside for good; what it has given up it does not enter before
//! the register says that it is not given up any more.

use crate::lender::{self, heir};
use crate::node::Note;
use crate::object::ServiceRecord;
use crate::{Node, clock, voting};
use pumasi_api::Problem;
use pumasi_ownership::command::{How, Progress, WHY_CHARS_MAX};
use pumasi_ownership::state::{Cause, Phase, Standing};
use pumasi_ownership::{Command, Owned, State, refusal};
use pumasi_terms::{BootMs, CloudName, ServiceId};
use std::collections::BTreeMap;

/// A handover is completed by both clouds' signatures; if the former owner does not ask for so long, or is lost, the register is enough.
const SIGNED_WITHIN_MS: u64 = 3_000;
/// A service that cannot be taken for so long is given up, where somebody else could have it.
const GIVEN_UP_AFTER_MS: u64 = 10_000;
/// One that was given up, and that nobody has taken, is tried again.
const AGAIN_MS: u64 = 60_000;

/// A takeover that does not come off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    pub why: String,
    since: BootMs,
    given_up_at: Option<BootMs>,
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Try,
    GiveUp,
    /// It was given up.
    Wait,
    /// The register is told that it is not given up any more.
    TakeBack,
}

/// By the register's entry, and what came of the tries so far.
fn next(own: &CloudName, owned: &Owned, stuck: Option<&Stuck>, now: BootMs) -> Next {
    let yielded = owned.phase == Phase::Yielded;
    let Some(stuck) = stuck else { return if yielded { Next::TakeBack } else { Next::Try } };
    match stuck.given_up_at {
        Some(at) if yielded => {
            if now.since(at) >= AGAIN_MS {
                Next::TakeBack
            } else {
                Next::Wait
            }
        }
        // Said, and not seen here yet.
        Some(_) => Next::Wait,
        None if yielded => Next::TakeBack,
        None => {
            let others = owned.agreed.standbys.iter().any(|s| &s.cloud != own);
            if others && now.since(stuck.since) >= GIVEN_UP_AFTER_MS { Next::GiveUp } else { Next::Try }
        }
    }
}

pub(super) async fn reconcile(node: &Node) {
    let Some(state) = node.voting.state() else { return };
    if node.may_act().is_err() {
        return;
    }
    let services = match node.services() {
        Ok(services) => services,
        Err(e) => {
            return tracing::warn!(error = %e, "what the register gives to this cloud was not looked at; tried again");
        }
    };
    let given = state.owned_by(node.name()).filter(|(id, owned)| {
        services.iter().find(|s| &s.id == *id).is_none_or(|s: &std::sync::Arc<ServiceRecord>| s.epoch < owned.epoch)
    });
    for (id, owned) in given {
        if !is_due(node, &state, id) {
            continue;
        }
        let stuck = node.takeover.stuck.lock().get(id).cloned();
        match next(node.name(), owned, stuck.as_ref(), clock::boot()) {
            Next::Wait => {}
            Next::Try => attempt(node, &state, id, owned, stuck).await,
            Next::GiveUp => give_up(node, id, owned, stuck).await,
            Next::TakeBack => take_back(node, id, owned).await,
        }
    }
    let own = |id: &ServiceId| state.services.get(id).is_some_and(|o| &o.owner == node.name());
    node.takeover.stuck.lock().retain(|id, _| own(id));
    node.takeover.awaited.lock().retain(|id, _| own(id));
}

async fn attempt(node: &Node, state: &State, id: &ServiceId, owned: &Owned, stuck: Option<Stuck>) {
    let taken = take(node, state, id, owned).await;
    let mut all = node.takeover.stuck.lock();
    let Err(e) = taken else { return drop(all.remove(id)) };
    let why = e.to_string();
    if stuck.as_ref().is_none_or(|s| s.why != why) {
        tracing::error!(service = %owned.agreed.name, error = %e, "this cloud is to take over a service and cannot; tried again");
    }
    let since = stuck.filter(|s| s.given_up_at.is_none()).map_or_else(clock::boot, |s| s.since);
    all.insert(id.clone(), Stuck { why, since, given_up_at: None });
}

/// Another standby may have what this one lacks.
async fn give_up(node: &Node, id: &ServiceId, owned: &Owned, stuck: Option<Stuck>) {
    let Some(stuck) = stuck else { return };
    let why: String = stuck.why.chars().take(WHY_CHARS_MAX).collect();
    let command = Command::Yield { service: id.clone(), epoch: owned.epoch, why };
    let told = voting::propose(node, command).await;
    let refused = told.as_ref().map_or_else(|e| Some(e.to_string()), |told| refusal(told).map(ToString::to_string));
    if let Some(why) = refused {
        return tracing::warn!(service = %owned.agreed.name, %why, "a service that cannot be taken over here was not given up; tried again");
    }
    let note = Note::new("takeover_given_up", "service", &owned.agreed.name)
        .because(format!("{}; another standby may have it", stuck.why));
    node.note("daemon", note).await;
    node.takeover.stuck.lock().insert(id.clone(), Stuck { given_up_at: Some(clock::boot()), ..stuck });
}

/// Nobody has relieved this cloud of it, or a process before this one gave it up: it is tried again, after the register was told.
async fn take_back(node: &Node, id: &ServiceId, owned: &Owned) {
    let how = How::Degraded { have: 0, want: owned.agreed.full };
    let items = vec![Progress { service: id.clone(), epoch: owned.epoch, how, base: BTreeMap::new() }];
    match voting::propose(node, Command::Serving { items }).await {
        Ok(_) => drop(node.takeover.stuck.lock().remove(id)),
        Err(e) => {
            tracing::warn!(service = %owned.agreed.name, error = %e, "a service that was given up was not taken back; tried again");
        }
    }
}

fn is_due(node: &Node, state: &State, id: &ServiceId) -> bool {
    let Some(moved) = state.last_move(id).filter(|m| m.cause == Cause::Handover) else { return true };
    let now = clock::boot();
    let since = *node.takeover.awaited.lock().entry(id.clone()).or_insert(now);
    let is_lost = state.clouds.get(&moved.from).is_none_or(|c| !matches!(c.standing, Standing::Alive));
    is_lost || now.since(since) >= SIGNED_WITHIN_MS
}

async fn take(node: &Node, state: &State, id: &ServiceId, owned: &Owned) -> Result<(), Problem> {
    let name = &owned.agreed.name;
    let seat = owned.agreed.standby(node.name());
    let seat = seat
        .ok_or_else(|| Problem::ours(format!("the register gives {name} to this cloud, which is no standby of it")))?;
    let lent = lender::lent(node, &seat.lease)?;
    let lent =
        lent.ok_or_else(|| Problem::ours(format!("{}, which kept {name} ready here, is not known", seat.lease)))?;
    let moved = state.last_move(id);
    let from = moved.map_or_else(|| lent.lease.borrower.clone(), |m| m.from.clone());
    let why = match moved.map(|m| m.cause) {
        Some(Cause::Failure) => format!("{from} has stopped writing for it"),
        Some(Cause::Handover) => format!("{from} hands it over"),
        Some(Cause::Disaster) | None => format!("the pact's voters agree that {from} is lost"),
    };
    let entry = heir::Entry {
        id: id.clone(),
        service: name.clone(),
        from,
        to: node.name().clone(),
        epoch: owned.epoch,
        lease: seat.lease.clone(),
        registered: true,
        rescued: moved.is_none_or(|m| m.cause != Cause::Handover),
    };
    let note = Note::new("tenure_taken", "service", name)
        .because(format!("{why}: this cloud owns it at epoch {}", owned.epoch));
    heir::enter(node, &lent, entry, note, None).await?;
    node.moves.opens_here(name);
    node.wake.notify_one();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_ownership::state::{Agreed, Class, Mode, StandbyAt, Takeover};
    use pumasi_terms::{Digest, Epoch, LeaseId, Resources, ServiceName};

    fn cloud(name: &str) -> CloudName {
        CloudName::parse(name).unwrap()
    }

    fn owned(phase: Phase, standbys: &[&str]) -> Owned {
        let standby = |name: &&str| StandbyAt { cloud: cloud(name), lease: LeaseId::from_entropy(1), warm: 0 };
        let agreed = Agreed {
            name: ServiceName::parse("notes").unwrap(),
            hosts: Default::default(),
            class: Class::Guaranteed,
            priority: 1,
            unit: Resources { cpu_millis: 1, memory_mib: 1 },
            full: 2,
            least: 1,
            mode: Mode::Async,
            standbys: standbys.iter().map(standby).collect(),
            agreement: Digest([0; 32]),
            takeover: Takeover::Automatic,
        };
        Owned {
            owner: cloud("city-b"),
            epoch: Epoch(2),
            since_rev: 1,
            phase,
            agreed,
            in_sync: Default::default(),
            sync_count: 0,
            base: Default::default(),
            keys: Default::default(),
            attempt: 0,
        }
    }

    #[test]
    fn what_cannot_be_taken_is_given_up_once_and_taken_back_by_the_register_alone() {
        let (b, taken, given) = (cloud("city-b"), Phase::Taken { have: 1, want: 2 }, Phase::Yielded);
        let stuck = |given_up: Option<u64>| Stuck {
            why: "no room".into(),
            since: BootMs(0),
            given_up_at: given_up.map(BootMs),
        };
        let both = ["city-b", "city-c"];
        for (phase, standbys, stuck, now, is) in [
            (taken, &both[..], None, 0, Next::Try),
            (taken, &both[..], Some(stuck(None)), GIVEN_UP_AFTER_MS - 1, Next::Try),
            (taken, &both[..], Some(stuck(None)), GIVEN_UP_AFTER_MS, Next::GiveUp),
            (taken, &both[..1], Some(stuck(None)), GIVEN_UP_AFTER_MS, Next::Try),
            (given, &both[..], Some(stuck(Some(100))), 100 + AGAIN_MS - 1, Next::Wait),
            (given, &both[..], Some(stuck(Some(100))), 100 + AGAIN_MS, Next::TakeBack),
            // Said, and not yet seen here: somebody may own it by now.
            (taken, &both[..], Some(stuck(Some(100))), 200, Next::Wait),
            // By a process before this one, or before what went wrong was known here.
            (given, &both[..], None, 0, Next::TakeBack),
        ] {
            assert_eq!(next(&b, &owned(phase, standbys), stuck.as_ref(), BootMs(now)), is, "{phase:?} {now}");
        }
    }
}
