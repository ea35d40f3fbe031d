//! The process table, as /proc shows it, and which of it belongs to one run of the lab.

use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A process of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    pub pid: u32,
    pub parent: u32,
    /// Arguments, blank-separated.
    pub command: String,
    /// Ticks since boot; with the pid it names one process for good.
    pub(super) started: u64,
}

impl Found {
    /// Tells it from a later process with the same number.
    pub fn key(&self) -> u64 {
        self.started
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub pid: u32,
    pub state: char,
    pub parent: u32,
    pub group: i32,
    pub terminal: i32,
    pub started: u64,
}

impl Row {
    fn parse(stat: &str) -> Option<Self> {
        let pid = stat.split_once(' ')?.0.parse().ok()?;
        // The name, in parentheses, may hold anything.
        let rest = stat.get(stat.rfind(')')? + 1..)?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Some(Self {
            pid,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            terminal: fields.get(4)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

pub(super) fn all() -> BTreeMap<u32, Row> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str().and_then(|n| n.parse::<u32>().ok()));
    pids.filter_map(Row::of).map(|row| (row.pid, row)).collect()
}

fn ancestors(rows: &BTreeMap<u32, Row>, of: u32) -> BTreeSet<u32> {
    let mut up = BTreeSet::from([of]);
    let mut at = of;
    while let Some(row) = rows.get(&at) {
        at = row.parent;
        if !up.insert(at) {
            break;
        }
    }
    up
}

/// How a run's processes are known.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    /// `NAME=value` in the environment of all that it starts.
    pub environment: String,
    /// Canonical.
    pub dir: PathBuf,
}

impl Mark {
    /// Living processes of the run, whoever is their parent by now. Never this process or one above it.
    pub fn find(&self) -> Vec<Found> {
        let rows = all();
        let me = std::process::id();
        let above = ancestors(&rows, me);
        let mut ours = BTreeSet::new();
        for row in rows.values().filter(|r| !above.contains(&r.pid) && !r.is_dead()) {
            let below_me = ancestors(&rows, row.pid).contains(&me);
            if self.is_marked(row, below_me) {
                ours.insert(row.pid);
            }
        }
        let living = rows.values().filter(|r| !above.contains(&r.pid) && !r.is_dead());
        let found = living.filter(|r| ancestors(&rows, r.pid).iter().any(|p| ours.contains(p)));
        found.map(|r| Found { pid: r.pid, parent: r.parent, command: command_of(r.pid), started: r.started }).collect()
    }

    fn is_marked(&self, row: &Row, below_me: bool) -> bool {
        let proc = PathBuf::from(format!("/proc/{}", row.pid));
        let marked = |environ: Vec<u8>| environ.split(|&b| b == 0).any(|e| e == self.environment.as_bytes());
        let inside = |link: &str| fs::read_link(proc.join(link)).is_ok_and(|path| path.starts_with(&self.dir));
        fs::read(proc.join("environ")).is_ok_and(marked)
            || inside("exe")
            // A person's shell may well stand in the directory.
            || ((below_me || row.terminal == 0) && inside("cwd"))
            || (below_me && self.is_named_by(&proc))
    }

    fn is_named_by(&self, proc: &Path) -> bool {
        let dir = self.dir.to_string_lossy();
        fs::read(proc.join("cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(dir.as_ref()))
    }
}

fn command_of(pid: u32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = raw.split(|&b| b == 0).filter(|w| !w.is_empty()).map(String::from_utf8_lossy);
    words.collect::<Vec<_>>().join(" ").chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_is_read() {
        let tail = "S 7 42 42 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 12345 1000 10";
        let row = Row::parse(&format!("99 (a) b) (c) {tail}")).unwrap();
        assert_eq!((row.pid, row.state, row.parent, row.group, row.started), (99, 'S', 7, 42, 12345));
        assert!(Row::parse("").is_none() && Row::parse("1 (x").is_none());
        assert!(all().contains_key(&std::process::id()));
    }
}
