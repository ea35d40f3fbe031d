//! Uids and gids that this host has already given to others.
//!
//! Whoever has a range in /etc/subuid can become every uid in it, and so an instance; and an instance with the uid of an account could
//! reach that account's files.

use super::slots::IDS_PER_ENGINE;
use std::fs;
use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    ids: Range<u64>,
    /// Whose, by which file.
    whose: String,
}

impl Given {
    #[cfg(test)]
    pub(super) fn subordinate(name: &str, first: u32, count: u32) -> Self {
        let first = u64::from(first);
        Self { ids: first..first + u64::from(count), whose: format!("{name}'s by /etc/subuid") }
    }
}

/// What cannot be read gives nothing: many hosts lack these files.
pub(super) fn given() -> Vec<Given> {
    let mut all = Vec::new();
    for (file, read) in [
        ("/etc/subuid", subordinate as fn(&str, &str) -> Option<Given>),
        ("/etc/subgid", subordinate),
        ("/etc/passwd", account),
        ("/etc/group", account),
    ] {
        let text = fs::read_to_string(file).unwrap_or_default();
        all.extend(text.lines().filter_map(|line| read(file, line)));
    }
    all
}

/// `name:first:count`
fn subordinate(file: &str, line: &str) -> Option<Given> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let (first, count): (u64, u64) = (fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?);
    Some(Given { ids: first..first.saturating_add(count), whose: format!("{name}'s by {file}") })
}

/// `name:x:id:...`
fn account(file: &str, line: &str) -> Option<Given> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let id: u64 = fields.nth(1)?.trim().parse().ok()?;
    Some(Given { ids: id..id + 1, whose: format!("{name}'s by {file}") })
}

/// Who else has some of an engine's range that begins at `base`.
pub(super) fn conflict(base: u32, given: &[Given]) -> Option<String> {
    let own = u64::from(base)..u64::from(base) + u64::from(IDS_PER_ENGINE);
    let other = given.iter().find(|g| g.ids.start < own.end && own.start < g.ids.end)?;
    let (first, last) = (other.ids.start, other.ids.end - 1);
    Some(format!("uids {} to {}: {first} to {last} are {}", own.start, own.end - 1, other.whose))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_users_containers_and_accounts_are_seen() {
        let given: Vec<Given> =
            ["alice:100000:65536", "bob:165536:65536", "# comment", "eve:x:y", "last:4294967295:10"]
                .iter()
                .filter_map(|line| subordinate("/etc/subuid", line))
                .chain(account("/etc/passwd", "svc:x:300500:300500::/:/bin/sh"))
                .collect();
        assert_eq!(given.len(), 4);
        // The range that was the first default lies in what Debian gives to its second user.
        assert!(conflict(200_000, &given).unwrap().contains("bob's by /etc/subuid"));
        assert!(conflict(99_000, &given).unwrap().contains("alice"));
        assert!(conflict(98_976, &given).is_none(), "ends one before");
        assert!(conflict(231_071, &given).unwrap().contains("bob"));
        assert!(conflict(231_072, &given).is_none(), "begins one after");
        assert!(conflict(300_000, &given).unwrap().contains("svc"));
        assert!(conflict(u32::MAX, &given).is_some());
    }
}
