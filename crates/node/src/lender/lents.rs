//! The lender's book as stored: the records of leases, the renewals over them, and both decoded in memory.
//!
//! A heartbeat renews many leases and is written as one row for its borrower: of each lease what renewals change, and the revision
//! of the lease's record that it was decided over. A record that was written since has taken its renewal in, and is alone.
//!
//! Always holds: whoever writes a lease's record read it here, with its renewal; what is decided in a transaction is decided over
//! what that transaction sees.

use crate::clock;
use crate::node::{TxError, store_problem};
use crate::object::{HOLD, LENT, LENT_RENEWAL};
use pumasi_api::Problem;
use pumasi_lease::message::Renewal;
use pumasi_lease::record::Renewed;
use pumasi_lease::{Book, Hold, LentLease, Transition, ledger};
use pumasi_store::{Expect, Store, StoreError, Tx, Unreadable};
use pumasi_terms::{BootMs, CloudName, Epoch, LeaseId, Now, ReservationId, Revision, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Of the row.
const VERSION: u32 = 1;
/// Renewals in one row, so that it stays below the store's bound; leases beyond are written one by one.
const RENEWALS_MAX: usize = 8_192;
/// A renewal that comes so late is told to the gateway at once: it ends routes by its own clock.
const LATE_MS: u64 = 2_000;
const KINDS: [&str; 3] = [HOLD, LENT, LENT_RENEWAL];

/// Kind `lent_renewal`, by borrower.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    version: u32,
    leases: BTreeMap<LeaseId, Entry>,
}

/// Revision of the record, end, instances wanted, newest epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry(Revision, BootMs, u32, Epoch);

impl Entry {
    fn new(base: Revision, renewed: Renewed) -> Self {
        Self(base, renewed.expires_at, renewed.instances_wanted, renewed.epoch)
    }
    fn renewed(self) -> Renewed {
        Renewed { expires_at: self.1, instances_wanted: self.2, epoch: self.3 }
    }
}

/// The book at one revision of the store.
#[derive(Debug, Clone, Default)]
pub struct Stand {
    /// Up to which it has each of `KINDS`.
    at: [Revision; 3],
    book: Book,
    records: BTreeMap<LeaseId, Revision>,
    rows: BTreeMap<CloudName, BTreeMap<LeaseId, Entry>>,
    /// Objects that cannot be read, by kind and name. They bind something, and nobody knows what.
    unreadable: BTreeMap<(&'static str, String), Unreadable>,
}

/// What a heartbeat's renewals come to.
#[derive(Debug, Default)]
struct Decided {
    row: Option<Row>,
    /// They do not fit into the row.
    whole: Vec<LentLease>,
    /// Something else than ends changed, or an end was near.
    news: bool,
}

impl Stand {
    pub fn book(&self) -> &Book {
        &self.book
    }

    fn of_store(store: &Store) -> Result<Self, StoreError> {
        let mut stand = Self::default();
        let holds = store.listing::<Hold>(HOLD)?;
        let lents = store.listing::<LentLease>(LENT)?;
        let rows = store.listing::<Row>(LENT_RENEWAL)?;
        stand.at = [holds.revision, lents.revision, rows.revision];
        holds.items.into_iter().for_each(|h| stand.book.apply(Transition::Hold(Box::new(h.body))));
        lents.items.into_iter().for_each(|l| stand.put(l.revision, l.body));
        rows.items.into_iter().for_each(|r| stand.take_row(&r.name, r.updated_at, r.body));
        [holds.unreadable, lents.unreadable, rows.unreadable].into_iter().flatten().for_each(|u| stand.set_aside(u));
        Ok(stand)
    }

    fn set_aside(&mut self, unreadable: Unreadable) {
        if let Some(kind) = KINDS.iter().find(|k| **k == unreadable.kind) {
            if *kind == LENT_RENEWAL {
                self.renew_unread(&unreadable.name);
            }
            self.unreadable.insert((kind, unreadable.name.clone()), unreadable);
        }
    }

    /// The renewals of a borrower cannot be read. The latest there can be is from now: no lease of it ends before that one would.
    fn renew_unread(&mut self, borrower: &str) {
        let Ok(borrower) = CloudName::parse(borrower) else { return };
        let now = clock::boot();
        let late = |l: &LentLease| Renewed { expires_at: l.expires_at.max(now.after(l.lease.ttl_ms)), ..l.renewed() };
        let usable = self.book.leases_of(&borrower).filter(|l| l.usable());
        let all: Vec<_> = usable.map(|l| (l.id().clone(), late(l))).collect();
        all.into_iter().for_each(|(id, renewed)| self.book.renew(&id, renewed));
    }

    fn take_row(&mut self, borrower: &str, updated_at: WallMs, row: Row) {
        if let Err(e) = self.put_row(borrower, row) {
            let (kind, name) = (LENT_RENEWAL.to_owned(), borrower.to_owned());
            self.set_aside(Unreadable { kind, name, updated_at, why: e.to_string() });
        }
    }

    /// Those that cannot be read, by name.
    pub fn unreadable(&self) -> impl Iterator<Item = &Unreadable> {
        self.unreadable.values()
    }

    /// Whether a lease is there whose record cannot be read.
    pub fn hides(&self, lease: &str) -> bool {
        self.unreadable.contains_key(&(LENT, lease.to_owned()))
    }

    /// Leases whose records cannot be read.
    pub fn hidden(&self) -> Vec<LeaseId> {
        let names = self.unreadable.keys().filter(|(kind, _)| *kind == LENT);
        names.filter_map(|(_, name)| LeaseId::parse(name.clone()).ok()).collect()
    }

    /// Why the record of a lease cannot be read.
    pub fn unread(&self, lease: &LeaseId) -> Option<Unreadable> {
        self.unreadable.get(&(LENT, lease.as_str().to_owned())).cloned()
    }

    /// Whether it is unknown how many instances a borrower wants: its renewals cannot be read.
    pub fn wish_unknown(&self, borrower: &CloudName) -> bool {
        self.unreadable.contains_key(&(LENT_RENEWAL, borrower.as_str().to_owned()))
    }

    /// Why the room that is left cannot be told: nothing more is lent then. A hold that is older than any may become binds nothing.
    pub fn unclear(&self, hold_ttl_ms_max: u64, now: Now) -> Option<&Unreadable> {
        let binds = |u: &&Unreadable| match u.kind.as_str() {
            HOLD => now.wall.since(u.updated_at) < hold_ttl_ms_max,
            kind => kind == LENT,
        };
        self.unreadable.values().find(binds)
    }

    /// As a transaction sees it.
    pub fn of_tx(tx: &Tx<'_>) -> Result<Self, StoreError> {
        let mut stand = Self { at: [tx.revision(); 3], ..Self::default() };
        let (holds, lents, rows) = (tx.list::<Hold>(HOLD)?, tx.list::<LentLease>(LENT)?, tx.list::<Row>(LENT_RENEWAL)?);
        holds.items.into_iter().for_each(|h| stand.book.apply(Transition::Hold(Box::new(h.body))));
        lents.items.into_iter().for_each(|l| stand.put(l.revision, l.body));
        rows.items.into_iter().for_each(|r| stand.take_row(&r.name, r.updated_at, r.body));
        [holds.unreadable, lents.unreadable, rows.unreadable].into_iter().flatten().for_each(|u| stand.set_aside(u));
        Ok(stand)
    }

    fn put(&mut self, revision: Revision, lent: LentLease) {
        let id = lent.id().clone();
        let entry = self.rows.get(&lent.lease.borrower).and_then(|row| row.get(&id)).filter(|e| e.0 == revision);
        let lent = match entry {
            Some(entry) => lent.with(entry.renewed()),
            None => lent,
        };
        self.records.insert(id, revision);
        self.book.put(lent);
    }

    fn put_row(&mut self, borrower: &str, row: Row) -> Result<(), StoreError> {
        let bad = |detail: String| StoreError::Decode { what: format!("{LENT_RENEWAL}/{borrower}"), detail };
        if row.version != VERSION {
            return Err(bad(format!("version {} is not known; this program reads {VERSION}", row.version)));
        }
        let borrower = CloudName::parse(borrower).map_err(|e| bad(e.to_string()))?;
        for (id, entry) in &row.leases {
            if self.records.get(id) == Some(&entry.0) {
                self.book.renew(id, entry.renewed());
            }
        }
        self.rows.insert(borrower, row.leases);
        Ok(())
    }

    /// One object of one of the kinds is this now, or gone.
    fn take(&mut self, kind: &'static str, name: &str, object: Object) -> Result<(), StoreError> {
        let bad = |e: pumasi_terms::BadId| StoreError::Decode { what: format!("{kind}/{name}"), detail: e.to_string() };
        self.unreadable.remove(&(kind, name.to_owned()));
        match object {
            Object::Unreadable(unreadable) => {
                self.forget(kind, name).map_err(bad)?;
                self.set_aside(unreadable);
            }
            Object::Hold(hold) => self.book.apply(Transition::Hold(Box::new(hold))),
            Object::Lent(revision, lent) => self.put(revision, *lent),
            Object::Row(at, row) => self.take_row(name, at, row),
            Object::Gone => self.forget(kind, name).map_err(bad)?,
        }
        Ok(())
    }

    fn forget(&mut self, kind: &str, name: &str) -> Result<(), pumasi_terms::BadId> {
        match kind {
            HOLD => self.book.apply(Transition::DropHold(ReservationId::parse(name)?)),
            LENT => {
                let id = LeaseId::parse(name)?;
                self.records.remove(&id);
                self.book.remove(&id);
            }
            _ => drop(self.rows.remove(&CloudName::parse(name)?)),
        }
        Ok(())
    }

    /// Takes in what was committed since.
    fn follow(&mut self, store: &Store) -> Result<(), StoreError> {
        let Some((changes, head)) = store.changes_after(self.at.into_iter().min().unwrap_or_default()) else {
            *self = Self::of_store(store)?;
            return Ok(());
        };
        for change in changes {
            let Some(kind) = KINDS.iter().position(|k| *k == change.kind) else { continue };
            if change.revision <= self.at[kind] {
                continue;
            }
            let decoded = match KINDS[kind] {
                HOLD => change.decode().map(|o| o.map_or(Object::Gone, Object::Hold)),
                LENT => change.decode().map(|o| o.map_or(Object::Gone, |l| Object::Lent(change.revision, l))),
                _ => change.decode().map(|o| o.map_or(Object::Gone, |row| Object::Row(store.now(), row))),
            };
            let object = decoded.unwrap_or_else(|e| Object::Unreadable(change.unreadable(&e, store.now())));
            self.take(KINDS[kind], &change.name, object)?;
        }
        self.at = [head; 3];
        Ok(())
    }

    /// Decides on renewals of one borrower. The rest of its row stays, without what its records have taken in.
    fn renew(&self, borrower: &CloudName, renewals: &[Renewal], now: Now) -> Decided {
        let mut decided = Decided::default();
        let old = self.rows.get(borrower);
        let counts = |id: &LeaseId, e: &Entry| self.counts(id, e);
        let mut leases: BTreeMap<LeaseId, Entry> =
            old.into_iter().flatten().filter(|(id, e)| counts(id, e)).map(|(id, e)| (id.clone(), *e)).collect();
        for renewal in renewals {
            let Some((lent, base)) = self.book.lease(&renewal.lease).zip(self.records.get(&renewal.lease)) else {
                continue;
            };
            if &lent.lease.borrower != borrower {
                continue;
            }
            // The same lease may stand in one heartbeat twice.
            let before = leases.get(&renewal.lease).map_or(lent.renewed(), |e| e.renewed());
            let renewed = match before == lent.renewed() {
                true => ledger::renewed(lent, renewal, now),
                false => ledger::renewed(&LentLease::with(LentLease::clone(lent), before), renewal, now),
            };
            let Ok(renewed) = renewed else { continue };
            if renewed == before {
                continue;
            }
            decided.news |= (renewed.instances_wanted, renewed.epoch) != (before.instances_wanted, before.epoch)
                || before.expires_at.since(now.boot) < LATE_MS;
            if leases.len() < RENEWALS_MAX || leases.contains_key(&renewal.lease) {
                leases.insert(renewal.lease.clone(), Entry::new(*base, renewed));
            } else {
                decided.whole.push(LentLease::with(LentLease::clone(lent), renewed));
            }
        }
        decided.row = (old != Some(&leases)).then_some(Row { version: VERSION, leases });
        decided
    }

    /// Whether an entry says anything. One of a lease whose record cannot be read does: it is the end that its borrower relies on.
    fn counts(&self, id: &LeaseId, entry: &Entry) -> bool {
        let newest = self.records.get(id) == Some(&entry.0);
        self.hides(id.as_str()) || (newest && self.book.lease(id).is_some_and(|l| l.usable()))
    }

    /// Borrowers whose row says nothing any more.
    pub fn spent(&self) -> Vec<CloudName> {
        let says = |(id, e): (&LeaseId, &Entry)| self.counts(id, e);
        self.rows.iter().filter(|(_, row)| !row.iter().any(says)).map(|(who, _)| who.clone()).collect()
    }
}

enum Object {
    Hold(Hold),
    Lent(Revision, Box<LentLease>),
    Row(WallMs, Row),
    Gone,
    Unreadable(Unreadable),
}

/// The book in memory. It follows the store and is never ahead of it.
#[derive(Debug, Default)]
pub struct Lents(RwLock<Option<Stand>>);

impl Lents {
    fn read(&self) -> RwLockReadGuard<'_, Option<Stand>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was committed.
    fn follow(&self, store: &Store) -> Result<(), StoreError> {
        let head = store.revision();
        if self.read().as_ref().is_some_and(|s| s.at.iter().all(|at| *at >= head)) {
            return Ok(());
        }
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let followed = match held.as_mut() {
            Some(stand) => stand.follow(store),
            None => Stand::of_store(store).map(|stand| *held = Some(stand)),
        };
        if followed.is_err() {
            // Half of it may have been taken in.
            *held = None;
        }
        followed
    }

    /// Looks at the book as committed.
    pub fn with<T>(&self, store: &Store, look: impl FnOnce(&Stand) -> T) -> Result<T, Problem> {
        self.follow(store).map_err(|e| store_problem(&e))?;
        match self.read().as_ref() {
            Some(stand) => Ok(look(stand)),
            None => Err(Problem::unavailable("the lender's book was not read; try again")),
        }
    }

    /// Looks at the book as the transaction sees it. `matters`: kind and name of what `look` depends on.
    pub fn within<T>(
        &self,
        tx: &Tx<'_>,
        matters: impl Fn(&str, &str) -> bool,
        look: impl FnOnce(&Stand) -> T,
    ) -> Result<T, TxError> {
        let held = self.read();
        let Some(stand) = held.as_ref() else { return Ok(look(&Stand::of_tx(tx)?)) };
        let Some(changed) = tx.changed_after(stand.at.into_iter().min().unwrap_or_default())? else {
            drop(held);
            return Ok(look(&Stand::of_tx(tx)?));
        };
        let news: Vec<_> =
            changed.into_iter().filter_map(|(k, n)| Some((*KINDS.iter().find(|kind| **kind == k)?, n))).collect();
        if !news.iter().any(|(kind, name)| matters(kind, name)) {
            return Ok(look(stand));
        }
        let mut own = stand.clone();
        drop(held);
        for (kind, name) in news {
            let read = match kind {
                HOLD => tx.get(kind, &name).map(|o| o.map_or(Object::Gone, |o| Object::Hold(o.body))),
                LENT => tx.get(kind, &name).map(|o| o.map_or(Object::Gone, |o| Object::Lent(o.revision, o.body))),
                _ => tx.get(kind, &name).map(|o| o.map_or(Object::Gone, |o| Object::Row(o.updated_at, o.body))),
            };
            let object = match read {
                Err(StoreError::Decode { detail, .. }) => {
                    let (kind, name) = (kind.to_owned(), name.clone());
                    Object::Unreadable(Unreadable { kind, name, updated_at: tx.now(), why: detail })
                }
                other => other?,
            };
            own.take(kind, &name, object)?;
        }
        Ok(look(&own))
    }

    /// The whole book, as the transaction sees it.
    pub fn book<T>(&self, tx: &Tx<'_>, look: impl FnOnce(&Book) -> T) -> Result<T, TxError> {
        self.within(tx, |_, _| true, |stand| look(&stand.book))
    }

    /// One lease with its renewal, as the transaction sees it; an error where it is there and cannot be read.
    pub fn lease(&self, tx: &Tx<'_>, id: &LeaseId) -> Result<Option<LentLease>, TxError> {
        let hidden = self.within(tx, |kind, name| kind == LENT && name == id.as_str(), |s| s.unread(id))?;
        if let Some(unreadable) = hidden {
            return Err(StoreError::from(unreadable).into());
        }
        Ok(self.leases(tx, std::iter::once(id))?.remove(id))
    }

    /// Leases with their renewals, as the transaction sees them, without those that are not known.
    pub fn leases<'a>(
        &self,
        tx: &Tx<'_>,
        ids: impl Iterator<Item = &'a LeaseId>,
    ) -> Result<BTreeMap<LeaseId, LentLease>, TxError> {
        let ids: BTreeMap<&str, &LeaseId> = ids.map(|id| (id.as_str(), id)).collect();
        let matters = |kind: &str, name: &str| kind == LENT_RENEWAL || (kind == LENT && ids.contains_key(name));
        self.within(tx, matters, |stand| {
            let known = ids.values().filter_map(|id| stand.book.lease(id));
            known.map(|l| (l.id().clone(), LentLease::clone(l))).collect()
        })
    }

    /// Decides on the renewals of a heartbeat and writes them down; whether there is news beyond later ends.
    pub fn renew(
        &self,
        tx: &mut Tx<'_>,
        borrower: &CloudName,
        renewals: &[Renewal],
        now: Now,
    ) -> Result<bool, TxError> {
        let matters = |kind: &str, name: &str| kind == LENT || (kind == LENT_RENEWAL && name == borrower.as_str());
        let decided = self.within(tx, matters, |stand| stand.renew(borrower, renewals, now))?;
        for lent in &decided.whole {
            tx.put(LENT, lent.id().as_str(), lent, Expect::Any)?;
        }
        match &decided.row {
            Some(row) if row.leases.is_empty() => drop(tx.delete(LENT_RENEWAL, borrower.as_str(), Expect::Any)?),
            Some(row) => drop(tx.put(LENT_RENEWAL, borrower.as_str(), row, Expect::Any)?),
            None => {}
        }
        Ok(decided.news)
    }
}

#[cfg(test)]
mod tests;
