//! Two realms that went apart become one again.
//!
//! Enters: what two clouds know of the users. Leaves: what both know together. Always holds: it does not matter in which order, how often
//! or in which groups realms are put together (a join); who was deleted or disabled on one side is so on both; a passkey or app password
//! that was taken away is gone; counters only rise; new users of both sides stay. Where two chose the same login, [`Realm::renames`] says
//! who gets another one. Sessions and invitations are not in it: those of the side that did not go on end.

use crate::login::LOGIN_BYTES_MAX;
use crate::{Login, login};
use std::collections::{BTreeMap, BTreeSet};

/// When a row was last changed: by ownership first, since clocks of two clouds are two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Changed {
    pub epoch: u64,
    pub at_ms: u64,
}

/// Of two, the one that was changed later; of two that changed together, the same one in any order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Latest<T> {
    pub changed: Changed,
    pub value: T,
}

impl<T: Ord> Latest<T> {
    fn join(&mut self, other: Self) {
        if other > *self {
            *self = other;
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// What it says of itself, and what its operator says of it.
    pub profile: Latest<Profile>,
    pub disabled: bool,
    /// Which of its passwords counts; its number rises with each.
    pub password_no: u64,
    pub created_at_ms: u64,
    pub signed_in_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Profile {
    pub login: Login,
    pub name: String,
    pub email: String,
    pub groups: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passkey {
    pub rp_id: String,
    /// A COSE_Key: never another one under the same id.
    pub key: Vec<u8>,
    pub name: Latest<String>,
    pub counter: u32,
    pub created_at_ms: u64,
    pub used_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPassword {
    pub name: String,
    pub created_at_ms: u64,
    pub used_at_ms: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Realm {
    /// By subject.
    pub users: BTreeMap<String, User>,
    /// By subject and the credential's id: two users may have claimed one id, on two sides ([`Realm::contested`]).
    pub passkeys: BTreeMap<(String, Vec<u8>), Passkey>,
    /// By subject and digest.
    pub app_passwords: BTreeMap<(String, String), AppPassword>,
    pub gone: Gone,
}

/// What ended, and never comes back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gone {
    pub users: BTreeSet<String>,
    pub passkeys: BTreeSet<Vec<u8>>,
    pub app_passwords: BTreeSet<String>,
}

fn join<K: Ord, V>(mine: &mut BTreeMap<K, V>, other: BTreeMap<K, V>, both: impl Fn(&mut V, V)) {
    for (key, value) in other {
        match mine.get_mut(&key) {
            Some(known) => both(known, value),
            None => {
                mine.insert(key, value);
            }
        }
    }
}

/// What both know together.
pub fn merge(mut mine: Realm, other: Realm) -> Realm {
    join(&mut mine.users, other.users, |a, b| {
        a.profile.join(b.profile);
        a.disabled |= b.disabled;
        a.password_no = a.password_no.max(b.password_no);
        a.created_at_ms = a.created_at_ms.min(b.created_at_ms);
        a.signed_in_at_ms = a.signed_in_at_ms.max(b.signed_in_at_ms);
    });
    join(&mut mine.passkeys, other.passkeys, |a, b| {
        // One id has one key; where somebody made two, all agree on one of them.
        if (&b.rp_id, &b.key) > (&a.rp_id, &a.key) {
            (a.rp_id, a.key) = (b.rp_id, b.key);
        }
        a.name.join(b.name);
        a.counter = a.counter.max(b.counter);
        a.created_at_ms = a.created_at_ms.min(b.created_at_ms);
        a.used_at_ms = a.used_at_ms.max(b.used_at_ms);
    });
    join(&mut mine.app_passwords, other.app_passwords, |a, b| {
        if b.name > a.name {
            a.name = b.name;
        }
        a.created_at_ms = a.created_at_ms.min(b.created_at_ms);
        a.used_at_ms = a.used_at_ms.max(b.used_at_ms);
    });
    mine.gone.users.extend(other.gone.users);
    mine.gone.passkeys.extend(other.gone.passkeys);
    mine.gone.app_passwords.extend(other.gone.app_passwords);
    mine.bury();
    mine
}

impl Realm {
    /// Takes out what has ended.
    fn bury(&mut self) {
        let Self { users, passkeys, app_passwords, gone } = self;
        users.retain(|subject, _| !gone.users.contains(subject));
        passkeys.retain(|(subject, id), _| !gone.passkeys.contains(id) && !gone.users.contains(subject));
        app_passwords
            .retain(|(subject, digest), _| !gone.app_passwords.contains(digest) && !gone.users.contains(subject));
    }

    /// Passkeys whose id another user claimed earlier: they are not stored.
    pub fn contested(&self) -> BTreeSet<(String, Vec<u8>)> {
        let mut first: BTreeMap<&Vec<u8>, (u64, &String)> = BTreeMap::new();
        for ((subject, id), key) in &self.passkeys {
            let claim = (key.created_at_ms, subject);
            first.entry(id).and_modify(|c| *c = claim.min(*c)).or_insert(claim);
        }
        let late = |(subject, id): &&(String, Vec<u8>)| first.get(id).is_some_and(|(_, owner)| *owner != subject);
        self.passkeys.keys().filter(late).cloned().collect()
    }

    /// Who gets another login, since an earlier user has it: by subject. To be stored as a change like any other, by who goes on.
    pub fn renames(&self) -> BTreeMap<String, Login> {
        let mut order: Vec<(&String, &User)> = self.users.iter().collect();
        order.sort_by_key(|(subject, user)| (user.created_at_ms, *subject));
        let mut taken: BTreeSet<&Login> = BTreeSet::new();
        let mut late = Vec::new();
        for (subject, user) in order {
            if !taken.insert(&user.profile.value.login) {
                late.push((subject, &user.profile.value.login));
            }
        }
        let mut taken: BTreeSet<Login> = taken.into_iter().cloned().collect();
        let mut renames = BTreeMap::new();
        for (subject, login) in late {
            let free = (2u64..).find_map(|n| login_with(login, n).ok().filter(|l| !taken.contains(l)));
            if let Some(free) = free {
                taken.insert(free.clone());
                renames.insert(subject.clone(), free);
            }
        }
        renames
    }
}

/// `minjun-2`, shortened where it would be too long.
fn login_with(login: &Login, n: u64) -> Result<Login, login::LoginError> {
    let tail = format!("-{n}");
    let mut stem = login.as_str();
    while stem.len() + tail.len() > LOGIN_BYTES_MAX {
        let mut chars = stem.chars();
        chars.next_back();
        stem = chars.as_str();
    }
    Login::parse(&format!("{stem}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, btree_set};
    use proptest::prelude::*;

    /// Few names, so that sides often speak of the same.
    fn subject() -> impl Strategy<Value = String> {
        "[a-d]"
    }

    fn latest<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Latest<T>> {
        (0u64..3, 0u64..3, value).prop_map(|(epoch, at_ms, value)| Latest { changed: Changed { epoch, at_ms }, value })
    }

    fn user() -> impl Strategy<Value = User> {
        let profile = ("[xy]", "[mn]").prop_map(|(login, name)| Profile {
            login: Login::parse(&login).unwrap(),
            name,
            email: String::new(),
            groups: Vec::new(),
        });
        (latest(profile), any::<bool>(), 0u64..3, 0u64..3, 0u64..3).prop_map(
            |(profile, disabled, password_no, created_at_ms, signed_in_at_ms)| User {
                profile,
                disabled,
                password_no,
                created_at_ms,
                signed_in_at_ms,
            },
        )
    }

    fn passkey() -> impl Strategy<Value = Passkey> {
        (latest("[pq]"), 0u32..5, 0u64..3, 0u64..3).prop_map(|(name, counter, created_at_ms, used_at_ms)| Passkey {
            rp_id: "docs.example".into(),
            key: vec![1],
            name,
            counter,
            created_at_ms,
            used_at_ms,
        })
    }

    fn app() -> impl Strategy<Value = AppPassword> {
        ("[pq]", 0u64..3, 0u64..3).prop_map(|(name, created_at_ms, used_at_ms)| AppPassword {
            name,
            created_at_ms,
            used_at_ms,
        })
    }

    prop_compose! {
        fn realm()(
            users in btree_map(subject(), user(), 0..4),
            passkeys in btree_map((subject(), prop::collection::vec(0u8..4, 1)), passkey(), 0..4),
            app_passwords in btree_map((subject(), "[g-j]"), app(), 0..4),
            gone_users in btree_set(subject(), 0..2),
            gone_passkeys in btree_set(prop::collection::vec(0u8..4, 1), 0..2),
            gone_apps in btree_set("[g-j]", 0..2),
        ) -> Realm {
            let gone = Gone { users: gone_users, passkeys: gone_passkeys, app_passwords: gone_apps };
            let mut realm = Realm { users, passkeys, app_passwords, gone };
            realm.bury();
            realm
        }
    }

    proptest! {
        #[test]
        fn order_groups_and_repetition_do_not_matter(a in realm(), b in realm(), c in realm()) {
            let ab = merge(a.clone(), b.clone());
            prop_assert_eq!(&ab, &merge(b.clone(), a.clone()));
            prop_assert_eq!(merge(ab.clone(), c.clone()), merge(a.clone(), merge(b.clone(), c)));
            prop_assert_eq!(merge(a.clone(), a.clone()), a.clone());
            prop_assert_eq!(merge(ab.clone(), a), ab);
        }

        #[test]
        fn ends_win_and_what_is_new_stays(a in realm(), b in realm()) {
            let both = merge(a.clone(), b.clone());
            for side in [&a, &b] {
                for gone in &side.gone.users {
                    prop_assert!(!both.users.contains_key(gone));
                    prop_assert!(both.passkeys.keys().all(|(subject, _)| subject != gone));
                    prop_assert!(both.app_passwords.keys().all(|(subject, _)| subject != gone));
                }
                for (subject, user) in &side.users {
                    match both.users.get(subject) {
                        None => prop_assert!(both.gone.users.contains(subject)),
                        Some(now) => {
                            prop_assert!(now.disabled || !user.disabled);
                            prop_assert!(now.password_no >= user.password_no);
                            prop_assert!(now.profile.changed >= user.profile.changed);
                        }
                    }
                }
                for (id, key) in &side.passkeys {
                    if let Some(now) = both.passkeys.get(id) {
                        prop_assert!(now.counter >= key.counter);
                    }
                }
                for digest in &side.gone.app_passwords {
                    prop_assert!(both.app_passwords.keys().all(|(_, d)| d != digest));
                }
            }
        }

        #[test]
        fn a_passkey_has_one_owner(a in realm(), b in realm()) {
            let both = merge(a, b);
            let contested = both.contested();
            let kept: Vec<&Vec<u8>> = both.passkeys.keys().filter(|k| !contested.contains(*k)).map(|(_, id)| id).collect();
            let ids: BTreeSet<&Vec<u8>> = both.passkeys.keys().map(|(_, id)| id).collect();
            prop_assert_eq!(kept.len(), ids.len());
        }

        #[test]
        fn no_two_keep_one_login_and_the_earliest_keeps_it(a in realm(), b in realm()) {
            let both = merge(a, b);
            let renames = both.renames();
            let logins: BTreeSet<&Login> =
                both.users.iter().map(|(s, u)| renames.get(s).unwrap_or(&u.profile.value.login)).collect();
            prop_assert_eq!(logins.len(), both.users.len());
            for subject in renames.keys() {
                let late = &both.users[subject];
                let earlier = |(s, u): (&String, &User)| {
                    u.profile.value.login == late.profile.value.login && !renames.contains_key(s)
                        && (u.created_at_ms, s) < (late.created_at_ms, subject)
                };
                prop_assert!(both.users.iter().any(earlier));
            }
        }
    }

    #[test]
    fn another_login_fits() {
        let of = |text: &str| login_with(&Login::parse(text).unwrap(), 12).unwrap().to_string();
        assert_eq!(of("minjun"), "minjun-12");
        assert_eq!(of(&"a".repeat(64)), format!("{}-12", "a".repeat(61)));
        assert_eq!(of(&"가".repeat(21)), format!("{}-12", "가".repeat(20)));
    }
}
