//! Which clouds have every acknowledged write of a service: how its owner changes that set.
//!
//! Enters: the register's set, what the gateway waits for, how far the copies are. Leaves: for whom the gateway has to wait, and the next
//! command for the register. Pure.
//!
//! Always holds: the gateway is told to wait for whoever is in the register's set, and for whoever a command that may still take effect would
//! put in. So a cloud enters the set only after everything that was acknowledged without it is in its copy, and nothing is acknowledged
//! without it before its leaving is committed.
//!
//! What an owner does not know any more it takes for asked: a new process waits for all standbys until a command of its own is committed. Of
//! two commands that were asked of one set, the register takes one ([`InSync`](crate::Command::InSync)'s `after`).

use crate::rules::Mutant;
use crate::state::{Owned, STANDBYS_MAX};
use pumasi_terms::{BootMs, CloudName, Epoch};
use std::collections::{BTreeMap, BTreeSet};

/// A cloud that left the set is not asked in again before this, ms.
const REST_MS: u64 = 2_000;

/// What is known of one standby's copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copy {
    /// It holds everything of before this instant, by this cloud's clock, under its present ownership.
    pub as_of: Option<BootMs>,
    /// Its cloud is not alive, or it is so far behind that answers would wait for it in vain.
    pub silent: bool,
}

/// What is asked of the register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub after: u64,
    pub set: BTreeSet<CloudName>,
}

/// For whom the gateway has to wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waits {
    pub clouds: BTreeSet<CloudName>,
    /// Nobody is in the set and nobody can come into it: with nobody to wait for, answers may leave.
    pub alone: bool,
}

/// An owner's knowledge of one service's set, under one ownership, in one process.
#[derive(Debug, Clone)]
pub struct Keeper {
    epoch: Epoch,
    count: u64,
    committed: BTreeSet<CloudName>,
    /// Whom commands of this process about the set as it is now would put in. They are void once it has changed.
    asked: BTreeSet<CloudName>,
    /// Whom commands of a process before may put in; some of them until one of this process was accepted: it cannot have seen a later set.
    inherited: Option<BTreeSet<CloudName>>,
    /// Those that are being taken in, and since when the gateway waits for them.
    joining: BTreeMap<CloudName, Option<BootMs>>,
    rests: BTreeMap<CloudName, BootMs>,
    planted: Option<Mutant>,
}

impl Keeper {
    /// Of a process that begins, or an ownership.
    pub fn begin(owned: &Owned) -> Self {
        let others = owned.agreed.standbys.iter().map(|s| s.cloud.clone()).filter(|c| c != &owned.owner);
        Self {
            epoch: owned.epoch,
            count: owned.sync_count,
            committed: owned.in_sync.clone(),
            asked: BTreeSet::new(),
            inherited: Some(others.take(STANDBYS_MAX).collect()),
            joining: BTreeMap::new(),
            rests: BTreeMap::new(),
            planted: None,
        }
    }

    #[doc(hidden)]
    #[must_use]
    pub fn planted(self, planted: Option<Mutant>) -> Self {
        Self { planted, ..self }
    }

    /// Whether it is of this ownership.
    pub fn is_of(&self, owned: &Owned) -> bool {
        self.epoch == owned.epoch
    }

    pub fn committed(&self) -> &BTreeSet<CloudName> {
        &self.committed
    }

    /// As the register is now, as far as this cloud has applied it.
    pub fn heard(&mut self, owned: &Owned) {
        let is_older = owned.sync_count < self.count;
        if !self.is_of(owned) || is_older {
            return;
        }
        if owned.sync_count > self.count {
            self.asked.clear();
        }
        (self.count, self.committed) = (owned.sync_count, owned.in_sync.clone());
        let stands = |c: &CloudName| c != &owned.owner && owned.agreed.standby(c).is_some();
        self.joining.retain(|c, _| stands(c) && !owned.in_sync.contains(c));
    }

    pub fn waits(&self) -> Waits {
        let inherited = self.inherited.iter().flatten();
        let all = self.committed.iter().chain(&self.asked).chain(self.joining.keys()).chain(inherited);
        let clouds: BTreeSet<CloudName> = all.cloned().collect();
        let alone = clouds.is_empty() && self.inherited.is_none();
        Waits { clouds, alone }
    }

    /// What the gateway's table in force waits for, since this instant at the latest.
    pub fn in_force(&mut self, clouds: &BTreeSet<CloudName>, now: BootMs) {
        for (cloud, since) in &mut self.joining {
            match clouds.contains(cloud) {
                // What was acknowledged within the present millisecond is not in a copy of it.
                true => _ = since.get_or_insert(now.after(1)),
                false => *since = None,
            }
        }
    }

    /// What to ask now. Whoever asks it says so first ([`asks`](Self::asks)). `alone`: the set may become empty.
    pub fn wish(&mut self, copies: &BTreeMap<CloudName, Copy>, alone: bool, now: BootMs) -> Option<Ask> {
        let of = |c: &CloudName| copies.get(c).copied().unwrap_or(Copy { as_of: None, silent: true });
        self.take_in(copies, now);
        let loud: BTreeSet<CloudName> = self.committed.iter().filter(|c| !of(c).silent).cloned().collect();
        let has_come = |(c, since): (&CloudName, &Option<BootMs>)| {
            let unwaited = self.planted == Some(Mutant::JoinsUnwaitedFor);
            since.is_some_and(|since| of(c).as_of.is_some_and(|at| at >= since)) || unwaited
        };
        let come = self.joining.iter().filter(|(c, since)| has_come((c, since))).map(|(c, _)| c.clone());
        let mut set: BTreeSet<CloudName> = loud.iter().cloned().chain(come).collect();
        if set.is_empty() && !alone {
            // Whoever was in step last has everything still: it may take over, and nothing is acknowledged meanwhile.
            set = self.committed.clone();
        }
        // One that leads to nothing new makes those void that are under way.
        let unsure = self.inherited.is_some() || !self.asked.is_subset(&self.committed);
        (set != self.committed || unsure).then_some(Ask { after: self.count, set })
    }

    /// Those whose copies are fresh are waited for first.
    fn take_in(&mut self, copies: &BTreeMap<CloudName, Copy>, now: BootMs) {
        self.rests.retain(|_, until| now < *until);
        for (cloud, copy) in copies {
            if self.committed.contains(cloud) {
                if copy.silent {
                    self.rests.insert(cloud.clone(), now.after(REST_MS));
                }
            } else if copy.silent || copy.as_of.is_none() {
                self.joining.remove(cloud);
            } else if !self.rests.contains_key(cloud) && self.joining.len() < STANDBYS_MAX {
                self.joining.entry(cloud.clone()).or_default();
            }
        }
    }

    /// It is on its way from now on, and may take effect whatever its answer is, until the set has changed.
    pub fn asks(&mut self, ask: &Ask) {
        if self.planted == Some(Mutant::ShrinksBeforeCommitted) {
            self.committed = ask.set.clone();
        }
        if ask.after == self.count {
            self.asked.extend(ask.set.iter().cloned());
        }
    }

    /// The register took it: what was asked of that set, or of one before, takes effect no more.
    pub fn taken(&mut self) {
        self.inherited = None;
    }
}
