//! What is read often, kept decoded: the objects of a kind are read once and then follow the committed changes.
//!
//! Always holds: a view shows a committed state at least as new as the last transaction whose answer its reader has seen.

use crate::Kind;
use crate::error::{StoreError, during};
use crate::numbers::bound;
use crate::standing::Head;
use crate::store::{Listing, Store};
use crate::tx::{Tx, Unreadable};
use crate::watch::Change;
use pumasi_terms::Revision;
use serde::de::DeserializeOwned;
use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// The objects of a kind, decoded, in order of name, and those that cannot be: these are there too, whatever they say.
#[derive(Debug)]
pub struct Items<T> {
    readable: Arc<Vec<Arc<T>>>,
    unreadable: Arc<Vec<Unreadable>>,
}

impl<T> Items<T> {
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// Whether an object of this name is there and cannot be read.
    pub fn hides(&self, name: &str) -> bool {
        self.unreadable.iter().any(|u| u.name == name)
    }
}

impl<T> Clone for Items<T> {
    fn clone(&self) -> Self {
        Self { readable: Arc::clone(&self.readable), unreadable: Arc::clone(&self.unreadable) }
    }
}

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self { readable: Arc::default(), unreadable: Arc::default() }
    }
}

impl<T> Deref for Items<T> {
    type Target = [Arc<T>];
    fn deref(&self) -> &[Arc<T>] {
        &self.readable
    }
}

/// One kind as one type.
struct View<T> {
    /// Every committed change up to here is in it.
    position: Option<Revision>,
    objects: BTreeMap<String, Arc<T>>,
    unreadable: BTreeMap<String, Unreadable>,
    items: Items<T>,
}

impl<T: DeserializeOwned> View<T> {
    fn refresh(&mut self, store: &Store, kind: Kind) -> Result<(), StoreError> {
        let news = self.position.and_then(|p| store.changes_after(p));
        let Some((changes, position)) = news else { return self.list(store, kind) };
        let mut changed = false;
        for change in changes.iter().filter(|c| c.kind == kind) {
            changed = true;
            self.objects.remove(&change.name);
            self.unreadable.remove(&change.name);
            match change.decode() {
                Ok(Some(body)) => drop(self.objects.insert(change.name.clone(), Arc::new(body))),
                Ok(None) => {}
                Err(e) => {
                    let unreadable = change.unreadable(&e, store.now());
                    self.unreadable.insert(change.name.clone(), unreadable);
                }
            }
        }
        self.position = Some(position);
        if changed {
            self.show();
        }
        Ok(())
    }

    fn list(&mut self, store: &Store, kind: Kind) -> Result<(), StoreError> {
        let Listing { revision, items, unreadable } = store.listing::<T>(kind)?;
        self.position = Some(revision);
        self.objects = items.into_iter().map(|o| (o.name, Arc::new(o.body))).collect();
        self.unreadable = unreadable.into_iter().map(|u| (u.name.clone(), u)).collect();
        self.show();
        Ok(())
    }

    fn show(&mut self) {
        self.items = Items {
            readable: Arc::new(self.objects.values().cloned().collect()),
            unreadable: Arc::new(self.unreadable.values().cloned().collect()),
        };
    }

    fn one(&self, name: &str) -> Result<Option<Arc<T>>, StoreError> {
        match self.unreadable.get(name) {
            Some(unreadable) => Err(unreadable.clone().into()),
            None => Ok(self.objects.get(name).cloned()),
        }
    }
}

/// The views of a store. There are as many as kinds and types that its owner reads so.
#[derive(Default)]
pub(crate) struct Views(Mutex<BTreeMap<(Kind, TypeId), Arc<dyn Any + Send + Sync>>>);

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Views")
    }
}

impl Views {
    fn of<T: Send + Sync + 'static>(&self, kind: Kind) -> Option<Arc<Mutex<View<T>>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let view = all.entry((kind, TypeId::of::<T>())).or_insert_with(|| {
            Arc::new(Mutex::new(View::<T> {
                position: None,
                objects: BTreeMap::new(),
                unreadable: BTreeMap::new(),
                items: Items::default(),
            }))
        });
        Arc::clone(view).downcast().ok()
    }
}

impl Store {
    /// `list` for what is read often: an object is decoded once a change. In order of name.
    pub fn items<T: DeserializeOwned + Send + Sync + 'static>(&self, kind: Kind) -> Result<Items<T>, StoreError> {
        self.viewed(kind, None, |view: &View<T>| view.items.clone())
    }

    /// One of the `items`; an error where it is there and cannot be read.
    pub fn item<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        kind: Kind,
        name: &str,
    ) -> Result<Option<Arc<T>>, StoreError> {
        self.viewed(kind, Some(name), |view: &View<T>| view.one(name))?
    }

    fn viewed<T: DeserializeOwned + Send + Sync + 'static, R>(
        &self,
        kind: Kind,
        name: Option<&str>,
        read: impl FnOnce(&View<T>) -> R,
    ) -> Result<R, StoreError> {
        self.hooks().read(kind, name)?;
        let Some(view) = self.views().of::<T>(kind) else { return Err(StoreError::Closed) };
        let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
        let refreshed = view.refresh(self, kind);
        if refreshed.is_err() {
            // Half a refresh is none: the next one lists anew.
            view.position = None;
        }
        refreshed.map(|()| read(&view))
    }

    /// The committed changes after a revision, and the revision up to which these are all; `None` where they are not kept
    /// in memory any more: list again.
    pub fn changes_after(&self, after: Revision) -> Option<(Vec<Arc<Change>>, Revision)> {
        self.hub().after(after)
    }
}

impl Tx<'_> {
    /// Kind and name of every change after `after` as this transaction sees it, its own and its batch's with them; `None` where
    /// the log does not reach back so far.
    pub fn changed_after(&self, after: Revision) -> Result<Option<Vec<(String, String)>>, StoreError> {
        if after.0 == self.work.head.revision {
            return Ok(Some(Vec::new()));
        }
        if after.0 < self.work.head.log_floor || after.0 > self.work.head.revision {
            return Ok(None);
        }
        let doing = during("reading the change log");
        let mut statement = self
            .conn
            .prepare_cached("SELECT kind, name FROM changes WHERE revision > ?1 ORDER BY revision")
            .map_err(&doing)?;
        let rows = statement.query_map([bound(after.0)], |r| Ok((r.get(0)?, r.get(1)?))).map_err(&doing)?;
        rows.collect::<rusqlite::Result<_>>().map(Some).map_err(&doing)
    }

    /// The newest revision that this transaction sees.
    pub fn revision(&self) -> Revision {
        let Head { revision, .. } = self.work.head;
        Revision(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Expect;
    use pumasi_terms::WallMs;

    fn names(store: &Store) -> Vec<u64> {
        store.items::<u64>("thing").unwrap().iter().map(|n| **n).collect()
    }

    fn write(store: &Store, f: impl FnOnce(&mut Tx<'_>) -> Result<(), StoreError> + Send + 'static) {
        store.transact_blocking(f).unwrap();
    }

    #[test]
    fn a_view_follows_every_change_and_decodes_what_did_not_change_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sqlite");
        let store = Store::open(&path, WallMs(1), 7).unwrap();
        assert!(names(&store).is_empty());
        write(&store, |tx| {
            tx.put("thing", "b", &2, Expect::Any)?;
            tx.put("thing", "a", &1, Expect::Any)?;
            tx.put("other", "c", &"text", Expect::Any).map(drop)
        });
        assert_eq!(names(&store), [1, 2]);
        let one = |name| store.item::<u64>("thing", name).unwrap().map(|n| *n);
        assert_eq!((one("a"), one("b"), one("c")), (Some(1), Some(2), None));
        let before = store.items::<u64>("thing").unwrap();
        write(&store, |tx| {
            tx.put("thing", "b", &5, Expect::Any)?;
            tx.put("thing", "b", &3, Expect::Any).map(drop)
        });
        let after = store.items::<u64>("thing").unwrap();
        assert!(Arc::ptr_eq(&before[0], &after[0]) && *after[1] == 3 && *before[1] == 2);
        // What was undone was never there.
        let undone: Result<(), StoreError> = store.transact_blocking(|tx| {
            tx.put("thing", "z", &9, Expect::Any)?;
            Err(StoreError::Closed)
        });
        assert!(undone.is_err() && Arc::ptr_eq(&after.readable, &store.items::<u64>("thing").unwrap().readable));
        write(&store, |tx| tx.delete("thing", "a", Expect::Any).map(drop));
        assert_eq!(names(&store), [3]);
        // More than is kept in memory: the view lists again.
        for _ in 0..50 {
            write(&store, |tx| (0..100).try_for_each(|n| tx.put("noise", "n", &n, Expect::Any).map(drop)));
        }
        write(&store, |tx| tx.put("thing", "d", &4, Expect::Any).map(drop));
        assert_eq!(names(&store), [3, 4]);
        write(&store, |tx| tx.put("thing", "bad", "text", Expect::Any).map(drop));
        // One that cannot be read is told by name, followed and listed, and the others are there.
        let hidden = || (store.items::<u64>("thing").unwrap().hides("bad"), store.item::<u64>("thing", "bad").is_err());
        assert_eq!((names(&store), hidden()), (vec![3, 4], (true, true)));
        let listed = store.list::<u64>("thing").unwrap();
        assert_eq!((listed.len(), listed.unreadable[0].name.as_str()), (2, "bad"));
        assert!(store.exists("thing", "bad").unwrap() && !store.exists("thing", "good").unwrap());
        write(&store, |tx| tx.put("thing", "bad", &7, Expect::Any).map(drop));
        assert_eq!((names(&store), hidden()), (vec![3, 7, 4], (false, false)));
        write(&store, |tx| tx.delete("thing", "bad", Expect::Any).map(drop));
        assert_eq!(names(&store), [3, 4]);
        store.close();
    }

    #[test]
    fn a_transaction_knows_what_changed_after_a_revision() {
        let dir = tempfile::tempdir().unwrap();
        let options = crate::Options { log_changes_max: 4, ..crate::Options::default() };
        let store = Store::open_with(dir.path().join("s.sqlite"), WallMs(1), 7, options).unwrap();
        write(&store, |tx| tx.put("thing", "a", &1, Expect::Any).map(drop));
        let seen = store.revision();
        write(&store, |tx| tx.put("thing", "b", &2, Expect::Any).map(drop));
        write(&store, move |tx| {
            let of = |name: &str| ("thing".to_owned(), name.to_owned());
            assert_eq!(tx.changed_after(seen)?, Some(vec![of("b")]));
            tx.delete("thing", "a", Expect::Any)?;
            assert_eq!(tx.changed_after(seen)?, Some(vec![of("b"), of("a")]));
            assert_eq!(tx.changed_after(tx.revision())?, Some(vec![]));
            Ok(())
        });
        for n in 0..5 {
            write(&store, move |tx| tx.put("noise", "n", &n, Expect::Any).map(drop));
        }
        write(&store, move |tx| {
            assert_eq!(tx.changed_after(seen)?, None);
            Ok(())
        });
        store.close();
    }
}
