//! Why instances do not get ready here, and when a start that was refused is tried again.
//!
//! Enters: refusals of starts, what the engine says of instances. Leaves: one reason for each owner, for whoever shows it; news for the
//! journal: each reason, and each time that an instance ended by itself.
//! Always holds: nothing fails without a reason that its owner can read; the same reason is written down once until its owner was
//! without it for [`QUIET_MS`], and one that ends again and again is written down ever more seldom; a refused start is tried again after a pause that grows to [`PAUSE_MS_MAX`], and at once where what is
//! to run has changed.

use crate::node::{Locked, Note};
use crate::object::owner_of_lease;
use crate::rollout::Refused;
use crate::{Node, clock, lender};
use pumasi_api::{Principal, Problem, Role};
use pumasi_engine::{InstanceStatus, Trouble};
use pumasi_journey::Part;
use pumasi_terms::{BootMs, InstanceId, LeaseId};
use std::collections::{BTreeMap, BTreeSet};

const PAUSE_MS: u64 = 100;
const PAUSE_MS_MAX: u64 = 30_000;
/// An owner that was without a reason for so long is told of it anew.
const QUIET_MS: u64 = 60_000;
/// Reasons of one owner that are remembered as told.
const TOLD_MAX: usize = 32;
/// Of a line that another cloud told.
const LINE_CHARS_MAX: usize = 300;

#[derive(Debug, Default)]
pub struct Troubles {
    owners: Locked<BTreeMap<String, Of>>,
    /// Of rented instances, by lease.
    lines: Locked<BTreeMap<LeaseId, String>>,
    /// How often each instance had ended by itself when it was looked at last; none before the first look.
    ended: Locked<Option<BTreeMap<InstanceId, u32>>>,
}

/// What is known of one owner.
#[derive(Debug, Default)]
struct Of {
    refusal: Option<Refusal>,
    /// When a reason was last the case.
    told: BTreeMap<String, BootMs>,
}

#[derive(Debug)]
struct Refusal {
    why: String,
    generation: u64,
    tries: u32,
    pause_ms: u64,
    again_at: BootMs,
}

impl Troubles {
    /// Nothing of this generation could be started.
    pub fn refused(&self, owner: &str, generation: u64, why: String, now: BootMs) {
        let mut all = self.owners.lock();
        let refusal = &mut all.entry(owner.to_owned()).or_default().refusal;
        let before = refusal.as_ref().filter(|r| r.generation == generation);
        if before.is_none_or(|r| r.why != why) {
            tracing::warn!(%owner, generation, %why, "its instances are not started; tried again");
        }
        let pause_ms = before.map_or(PAUSE_MS, |r| (r.pause_ms * 2).min(PAUSE_MS_MAX));
        let tries = before.map_or(0, |r| r.tries).saturating_add(1);
        *refusal = Some(Refusal { why, generation, tries, pause_ms, again_at: now.after(pause_ms) });
    }

    /// What is to run was started, or is there.
    pub fn accepted(&self, owner: &str) {
        if let Some(of) = self.owners.lock().get_mut(owner) {
            of.refusal = None;
        }
    }

    /// Of this generation.
    pub fn refused_start(&self, owner: &str, generation: u64) -> Option<Refused> {
        let all = self.owners.lock();
        let refusal = all.get(owner)?.refusal.as_ref().filter(|r| r.generation == generation)?;
        Some(Refused { why: refusal.why.clone(), tries: refusal.tries })
    }

    pub fn may_start(&self, owner: &str, generation: u64, now: BootMs) -> bool {
        let all = self.owners.lock();
        let refusal = all.get(owner).and_then(|of| of.refusal.as_ref());
        refusal.is_none_or(|r| r.generation != generation || now >= r.again_at)
    }

    /// Why not all is well with an owner's instances: a refused start before what those that run have to say, new ones before old ones.
    pub fn of(&self, owner: &str, instances: &[InstanceStatus]) -> Option<Trouble> {
        if let Some(refusal) = self.owners.lock().get(owner).and_then(|of| of.refusal.as_ref()) {
            return Some(Trouble::new(refusal.why.clone()));
        }
        let own = instances.iter().filter(|i| i.owner == owner && i.trouble.is_some());
        own.max_by_key(|i| i.generation).and_then(|i| i.trouble.clone())
    }

    /// The end of what rented instances said, as their lender told it last; none where they are well.
    pub fn lender_says(&self, lease: &LeaseId, last_line: &str) {
        let mut lines = self.lines.lock();
        match last_line.is_empty() {
            true => drop(lines.remove(lease)),
            false => drop(lines.insert(lease.clone(), last_line.chars().take(LINE_CHARS_MAX).collect())),
        }
    }

    /// Why not all is well with rented instances.
    pub fn of_part(&self, part: &Part) -> Option<Trouble> {
        let last_line = self.lines.lock().get(&part.lease).cloned().unwrap_or_default();
        part.trouble.clone().map(|why| Trouble { why, last_line })
    }

    /// Whether this reason is to be written down.
    fn is_news(&self, owner: &str, why: &str, now: BootMs) -> bool {
        let mut all = self.owners.lock();
        let told = &mut all.entry(owner.to_owned()).or_default().told;
        told.retain(|_, at| now.since(*at) < QUIET_MS);
        if told.len() >= TOLD_MAX && !told.contains_key(why) {
            return false;
        }
        told.insert(why.to_owned(), now).is_none()
    }

    /// Instances that ended since the last look and are to be written down. Of what ran before this daemon nothing is new.
    fn newly_ended<'a>(&self, instances: &'a [InstanceStatus]) -> Vec<&'a InstanceStatus> {
        let now = instances.iter().map(|i| (i.id.clone(), i.restarts)).collect();
        let Some(before) = self.ended.lock().replace(now) else { return Vec::new() };
        let told = |i: &&InstanceStatus| {
            let last = before.get(&i.id).copied().unwrap_or(0);
            (last.saturating_add(1)..=i.restarts).take(64).any(|n| n <= 3 || n.is_power_of_two())
        };
        instances.iter().filter(told).collect()
    }

    /// Of owners and leases that are gone nothing is kept.
    fn keep(&self, owners: &BTreeMap<String, Note>, rented: &BTreeSet<LeaseId>) {
        self.owners.lock().retain(|owner, _| owners.contains_key(owner));
        self.lines.lock().retain(|lease, _| rented.contains(lease));
    }
}

/// Who is told what applications wrote to their logs.
pub fn reads_logs(who: &Principal) -> bool {
    matches!(who.role(), Some(Role::Operator | Role::Customer))
}

/// For people who may read the logs, with the application's last line; for the others without.
pub fn words(trouble: &Trouble, with_line: bool) -> String {
    match with_line && !trouble.last_line.is_empty() {
        true => format!("{}; its last line: {}", trouble.why, trouble.last_line),
        false => trouble.why.clone(),
    }
}

/// Writes down what is new.
pub async fn tell(node: &Node) -> Result<(), Problem> {
    let mut owners = BTreeMap::new();
    for service in node.services()?.iter() {
        owners.insert(service.owner(), Note::new("instances_not_ready", "service", service.name()));
        owners.insert(service.realm_owner(), Note::new("sign_in_not_ready", "service", service.name()));
    }
    for lent in lender::lents(node)?.iter().filter(|l| l.binds()) {
        let note = Note::new("instances_not_ready", "lease", lent.id()).caused_by(&lent.lease.service);
        owners.insert(owner_of_lease(lent.id()), note);
    }
    let journeys = node.open_journeys()?;
    let rented = journeys.iter().flat_map(|j| &j.parts).filter(|p| !p.is_over()).map(|p| p.lease.clone()).collect();
    node.troubles.keep(&owners, &rented);
    let (instances, now) = (node.instances.get(), clock::boot());
    for i in node.troubles.newly_ended(&instances) {
        let Some(note) = owners.get(&i.owner) else { continue };
        node.note("daemon", ended(i, note)).await;
    }
    for (owner, note) in owners {
        let Some(trouble) = node.troubles.of(&owner, &instances) else { continue };
        if node.troubles.is_news(&owner, &trouble.why, now) {
            node.note("daemon", Note { last_line: trouble.last_line, ..note.because(trouble.why) }).await;
        }
    }
    Ok(())
}

/// That an instance ended by itself, about the same subject as `note`.
fn ended(i: &InstanceStatus, note: &Note) -> Note {
    let how = i.last_exit.map_or_else(|| "it ended".to_owned(), |exit| exit.to_string());
    let times = if i.restarts == 1 { "once".to_owned() } else { format!("{} times", i.restarts) };
    let reason = format!("{how}; instance {} of generation {}, ended {times}", i.id, i.generation);
    let last_line = i.trouble.as_ref().map(|t| t.last_line.clone()).unwrap_or_default();
    let about = Note::new("instance_ended", note.subject_kind, &note.subject);
    Note { last_line, cause: note.cause.clone(), ..about.because(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_start_rests_longer_each_time_and_a_new_generation_not_at_all() {
        let (all, mut now, mut tries) = (Troubles::default(), BootMs(1_000), 0u32);
        while now < BootMs(61_000) {
            if all.may_start("a", 1, now) {
                tries += 1;
                all.refused("a", 1, "no such name".into(), now);
            }
            now = now.after(100);
        }
        assert!((8..=12).contains(&tries), "{tries} tries in a minute");
        assert_eq!(all.refused_start("a", 1).map(|r| r.tries), Some(tries));
        assert_eq!(all.refused_start("a", 2), None);
        assert!(all.may_start("a", 2, now) && all.may_start("b", 1, now));
        assert_eq!(all.of("a", &[]).unwrap().why, "no such name");
        all.accepted("a");
        assert!(all.may_start("a", 1, now));
        assert_eq!(all.of("a", &[]), None);
    }

    #[test]
    fn each_end_is_told_at_first_and_then_ever_more_seldom() {
        let all = Troubles::default();
        let at = |restarts| {
            let mut i = crate::fleet::tests::status(1, 1, pumasi_engine::InstanceState::Starting);
            i.restarts = restarts;
            [i]
        };
        // It had ended before this daemon looked.
        assert!(all.newly_ended(&at(5)).is_empty());
        let told: Vec<u32> = (6..=200).filter(|n| !all.newly_ended(&at(*n)).is_empty()).collect();
        assert_eq!(told, [8, 16, 32, 64, 128]);
        let all = Troubles::default();
        assert!(all.newly_ended(&[]).is_empty());
        let told: Vec<u32> = (1..=9).filter(|n| !all.newly_ended(&at(*n)).is_empty()).collect();
        assert_eq!(told, [1, 2, 3, 4, 8]);
        // Several between two looks.
        assert_eq!(all.newly_ended(&at(40)).len(), 1);
    }

    #[test]
    fn a_reason_is_news_once_until_it_was_away() {
        let all = Troubles::default();
        let at = |s: u64| BootMs(s * 1_000);
        assert!(all.is_news("a", "exited with code 1", at(1)));
        // Two that take turns are two entries, however long they do.
        for s in 2..600 {
            let why = if s % 2 == 0 { "GET / answered 503" } else { "exited with code 1" };
            assert_eq!(all.is_news("a", why, at(s)), s == 2, "{s}");
        }
        assert!(all.is_news("b", "exited with code 1", at(600)));
        assert!(all.is_news("a", "exited with code 1", at(700)));
        let news = (0..1_000).filter(|n| all.is_news("c", &n.to_string(), at(700))).count();
        assert_eq!(news, TOLD_MAX);
    }
}
