//! Everything the lender has promised, with what that binds for each borrower.
//!
//! Always holds: the sums are those of the leases that are in the book; only its own methods change a lease.

use crate::record::{Hold, LentLease, Renewed};
use pumasi_terms::offer::Requirement;
use pumasi_terms::{CloudName, LeaseId, Now, ReservationId, Resources};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything the lender has promised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    pub holds: BTreeMap<ReservationId, Hold>,
    leases: BTreeMap<LeaseId, Arc<LentLease>>,
    accounts: BTreeMap<CloudName, Account>,
}

/// The leases of one borrower, and what those that bind come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Account {
    leases: BTreeSet<LeaseId>,
    bound: Sum,
}

/// Wide enough that it never saturates, so that what was added can be taken off again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    cpu_millis: u64,
    memory_mib: u64,
    storage_bytes: u128,
}

impl Sum {
    fn of(need: &Requirement, instances: u32) -> Self {
        let all = need.resources.times(instances);
        Self {
            cpu_millis: all.cpu_millis.into(),
            memory_mib: all.memory_mib.into(),
            storage_bytes: need.storage_bytes.into(),
        }
    }
    fn of_lease(lent: &LentLease) -> Self {
        if lent.binds() { Self::of(&lent.lease.requirement, lent.lease.instances) } else { Self::default() }
    }
    fn plus(self, more: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis + more.cpu_millis,
            memory_mib: self.memory_mib + more.memory_mib,
            storage_bytes: self.storage_bytes + more.storage_bytes,
        }
    }
    fn minus(self, less: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis - less.cpu_millis,
            memory_mib: self.memory_mib - less.memory_mib,
            storage_bytes: self.storage_bytes - less.storage_bytes,
        }
    }
}

/// What binds resources, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bound {
    pub resources: Resources,
    pub storage_bytes: u64,
}

impl From<Sum> for Bound {
    fn from(sum: Sum) -> Self {
        let at_most = |v: u64| u32::try_from(v).unwrap_or(u32::MAX);
        Self {
            resources: Resources { cpu_millis: at_most(sum.cpu_millis), memory_mib: at_most(sum.memory_mib) },
            storage_bytes: u64::try_from(sum.storage_bytes).unwrap_or(u64::MAX),
        }
    }
}

/// One change of the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    Hold(Box<Hold>),
    /// The hold expired or was let go.
    DropHold(ReservationId),
    /// The lease is this now; its hold, if any, is consumed.
    Lease(Box<LentLease>),
}

impl Book {
    pub fn lease(&self, id: &LeaseId) -> Option<&Arc<LentLease>> {
        self.leases.get(id)
    }

    /// In order of id.
    pub fn leases(&self) -> impl Iterator<Item = &Arc<LentLease>> {
        self.leases.values()
    }

    /// Those of one borrower, in order of id.
    pub fn leases_of(&self, borrower: &CloudName) -> impl Iterator<Item = &Arc<LentLease>> {
        self.accounts.get(borrower).into_iter().flat_map(|a| &a.leases).filter_map(|id| self.leases.get(id))
    }

    /// Bound by live holds and binding leases; of one borrower, or of all.
    pub fn bound(&self, borrower: Option<&CloudName>, now: Now) -> Bound {
        let of = |who: &CloudName| borrower.is_none_or(|b| b == who);
        let holds = self.live_holds(now).filter(|h| of(&h.borrower)).map(|h| Sum::of(&h.requirement, h.instances));
        let leases = self.accounts.iter().filter(|(who, _)| of(who)).map(|(_, a)| a.bound);
        holds.chain(leases).fold(Sum::default(), Sum::plus).into()
    }

    pub fn live_holds(&self, now: Now) -> impl Iterator<Item = &Hold> {
        self.holds.values().filter(move |h| h.expires_at > now.boot)
    }

    /// Writes a decision down. A new lease consumes its hold.
    pub fn apply(&mut self, transition: Transition) {
        match transition {
            Transition::Hold(hold) => {
                self.holds.insert(hold.id.clone(), *hold);
            }
            Transition::DropHold(id) => {
                self.holds.remove(&id);
            }
            Transition::Lease(lent) => {
                self.holds.remove(&lent.lease.reservation);
                self.put(*lent);
            }
        }
    }

    /// The lease is this now.
    pub fn put(&mut self, lent: LentLease) {
        let id = lent.id().clone();
        self.remove(&id);
        let account = self.accounts.entry(lent.lease.borrower.clone()).or_default();
        account.leases.insert(id.clone());
        account.bound = account.bound.plus(Sum::of_lease(&lent));
        self.leases.insert(id, Arc::new(lent));
    }

    /// Forgets a lease.
    pub fn remove(&mut self, id: &LeaseId) {
        let Some(gone) = self.leases.remove(id) else { return };
        let Some(account) = self.accounts.get_mut(&gone.lease.borrower) else { return };
        account.leases.remove(id);
        account.bound = account.bound.minus(Sum::of_lease(&gone));
        if account.leases.is_empty() {
            self.accounts.remove(&gone.lease.borrower);
        }
    }

    /// Writes a renewal down: what it changes binds nothing.
    pub fn renew(&mut self, id: &LeaseId, renewed: Renewed) {
        if let Some(lent) = self.leases.get_mut(id) {
            Arc::make_mut(lent).set(renewed);
        }
    }
}
