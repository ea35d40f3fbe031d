//! An owner's instances stand still: the driver's half of it, and by what an application is stopped.
//!
//! Enters: the name of a freeze, its bound. Leaves: applications of which no process runs, as their shims say.
//! Always holds: what stands still is known by the freeze's name, so that one that ran in between is never taken for one that stood
//! still all the time; the bound is kept by the shim, which outlives the daemon; what is frozen can be killed, and then writes nothing.

use super::cgroup::Place;
use super::host::{Host, Known};
use super::layout::{Desired, Layout, Order, Record, Status, boot_now_ms, write_json};
use super::processes::{children, descendants, processes_of, signal_all, signal_all_with};
use crate::{EngineError, Freeze, FreezeBy};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// For all shims of one owner to have their applications stand still. A process that waits for its disk ends that first.
const FREEZE_MS_MAX: u64 = 1_000;

/// So many looks in vain mean that a process waits for its child.
const LOOKS_OF_A_BIRTH: u32 = 4;

/// What makes one application stand still.
pub(super) struct Brake {
    way: Way,
    /// Whom the last look found, for signals: who was born meanwhile is not in it.
    seen: Option<BTreeSet<u32>>,
    looks: u32,
}

enum Way {
    Group(Place),
    Signals { layout: Layout, record: Box<Record>, init: Option<u32> },
}

impl Brake {
    pub(super) fn of(layout: &Layout, record: &Record, init: Option<u32>) -> Self {
        let way = match record.cgroup.clone().filter(Place::can_freeze) {
            Some(place) => Way::Group(place),
            None => Way::Signals { layout: layout.clone(), record: Box::new(record.clone()), init },
        };
        Self { way, seen: None, looks: 0 }
    }

    fn processes(layout: &Layout, record: &Record, init: Option<u32>) -> BTreeSet<u32> {
        let mut all = processes_of(layout, record);
        all.extend(init.map(descendants).unwrap_or_default());
        all
    }

    pub(super) fn set(&mut self, on: bool) -> io::Result<()> {
        (self.seen, self.looks) = (None, 0);
        match &self.way {
            Way::Group(place) => place.freeze(on),
            Way::Signals { layout, record, init } => {
                let signal = if on { Signal::SIGSTOP } else { Signal::SIGCONT };
                signal_all_with(&Self::processes(layout, record, *init), signal);
                Ok(())
            }
        }
    }

    /// Whether no process of it runs; by signals whoever does is told again.
    pub(super) fn is_still(&mut self) -> bool {
        match &self.way {
            Way::Group(place) => place.is_frozen(),
            Way::Signals { layout, record, init } => {
                let all = Self::processes(layout, record, *init);
                let running: BTreeSet<u32> = all.iter().copied().filter(|pid| runs(*pid)).collect();
                self.looks = self.looks.wrapping_add(1);
                if self.looks.is_multiple_of(LOOKS_OF_A_BIRTH) {
                    // Who gives birth by vfork waits, beyond any signal, for a child that was stopped before it became a program.
                    let born = running.iter().flat_map(|pid| children(*pid)).filter(|c| all.contains(c) && !runs(*c));
                    signal_all_with(&born.collect(), Signal::SIGCONT);
                } else {
                    signal_all_with(&running, Signal::SIGSTOP);
                }
                let same = self.seen.as_ref() == Some(&all);
                self.seen = Some(all);
                same && running.is_empty()
            }
        }
    }

    /// While it stands still: it does nothing more.
    pub(super) fn kill(&self) {
        match &self.way {
            Way::Group(place) => {
                place.kill();
                signal_all(&place.processes());
            }
            Way::Signals { layout, record, init } => signal_all(&Self::processes(layout, record, *init)),
        }
    }
}

/// Whether any thread of it does: one that is in a system call of its disk is stopped after that.
fn runs(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let state = |path: std::path::PathBuf| {
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        // The name, in brackets, may hold anything.
        stat.rsplit(')').next()?.split_whitespace().next()?.chars().next()
    };
    tasks.filter_map(|t| state(t.path())).any(|s| !matches!(s, 'T' | 't' | 'Z' | 'X'))
}

impl Host {
    pub(super) fn freeze_by(&self) -> FreezeBy {
        self.tree().and_then(super::cgroup::Tree::freezer).unwrap_or(FreezeBy::Signals)
    }

    /// Returns when every shim has said so.
    pub(super) fn freeze(&self, owner: &str, freeze: &Freeze) -> Result<(), EngineError> {
        let until = freeze.at_most_ms.map(|ms| boot_now_ms().saturating_add(ms));
        let mut asked = Vec::new();
        {
            let _change = self.change();
            for known in self.known()?.into_iter().filter(|k| k.record.spec.owner == owner) {
                let desired = known.layout.read_desired()?;
                if !desired.run {
                    still_after_its_end(&known)?;
                    continue;
                }
                let bound = match &desired.freeze {
                    // The bound counts from the first call, and does not come back once it was lifted.
                    Some(old) if old.name == freeze.name && until.is_some() => old.until_ms,
                    _ => until,
                };
                let order = Order { name: freeze.name.clone(), until_ms: bound };
                if desired.freeze.as_ref() != Some(&order) {
                    let desired = Desired { freeze: Some(order.clone()), ..desired };
                    // Not durable: whoever loses power loses what is frozen as well.
                    write_json(&known.layout.desired(), &desired, false)?;
                }
                known.layout.wake_shim();
                asked.push((known, order));
            }
        }
        let end = Instant::now() + Duration::from_millis(FREEZE_MS_MAX);
        asked.iter().try_for_each(|(known, order)| stands_still(known, order, end))
    }

    /// Written only where it differs.
    pub(super) fn thaw(&self, owner: &str) -> Result<(), EngineError> {
        let _change = self.change();
        for known in self.known()?.into_iter().filter(|k| k.record.spec.owner == owner) {
            let desired = known.layout.read_desired()?;
            if desired.freeze.is_some() && desired.run {
                write_json(&known.layout.desired(), &Desired { freeze: None, ..desired }, false)?;
                known.layout.wake_shim();
            }
        }
        Ok(())
    }
}

/// One that was asked to stop may write until it is gone.
fn still_after_its_end(known: &Known) -> Result<(), EngineError> {
    if known.layout.is_held()? || !processes_of(&known.layout, &known.record).is_empty() {
        let what = "it is stopping".into();
        return Err(EngineError::Stirs { id: known.record.spec.id.clone(), what });
    }
    Ok(())
}

fn stands_still(known: &Known, order: &Order, end: Instant) -> Result<(), EngineError> {
    let id = &known.record.spec.id;
    loop {
        // In this order: a shim writes its last status before it lets go.
        let held = known.layout.is_held()?;
        let said = known.layout.read_status()?.unwrap_or_else(Status::fresh);
        if said.lapsed.as_ref() == Some(&order.name) {
            return Err(EngineError::Thawed { id: id.clone(), name: order.name.clone() });
        }
        if held && said.frozen.as_ref() == Some(order) {
            return Ok(());
        }
        if !held {
            // Its shim was killed, and everything with it.
            return still_after_its_end(known);
        }
        if Instant::now() > end {
            let what = format!("its shim has not said so for {FREEZE_MS_MAX} ms");
            return Err(EngineError::Stirs { id: id.clone(), what });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::Place;
    use super::*;
    use crate::{CgroupVersion, InstanceSpec, Isolation, Limits, Secrets};
    use pumasi_terms::service::Probe;
    use pumasi_terms::{InstanceId, Resources};
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};

    fn record(cgroup: Option<Place>) -> Record {
        let spec = InstanceSpec {
            id: InstanceId::from_entropy(1),
            owner: "service-a".into(),
            generation: 1,
            bundle_dir: "/bundle".into(),
            command: vec!["app".into()],
            env: Default::default(),
            resources: Resources { cpu_millis: 100, memory_mib: 64 },
            protocol: Default::default(),
            readiness: Probe::default(),
            liveness: None,
            stop_grace_ms: 0,
            egress: Vec::new(),
            data: Default::default(),
            listen_ip: "127.0.0.1".parse().unwrap(),
            lent: false,
            secrets: Secrets::default(),
        };
        Record {
            version: 1,
            spec,
            uid: None,
            gid: None,
            cgroup,
            isolation: Isolation::default(),
            hide: Vec::new(),
            view: Vec::new(),
            log_bytes_max: 0,
            limits: Limits::default(),
        }
    }

    /// An init whose application makes a process for each line that it writes.
    fn writer(file: &Path, procs: &Path) -> Child {
        // It is in its group before any other process of it is born.
        let script = "echo $$ > $PROCS; sh -c 'while :; do sh -c \"echo x >> $FILE\"; done'; true";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).env("FILE", file).env("PROCS", procs);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// After a failed assertion nothing is left, frozen or not.
    struct Cleared(Brake);

    impl Drop for Cleared {
        fn drop(&mut self) {
            self.0.kill();
            let _ = self.0.set(false);
        }
    }

    fn lines(file: &Path) -> usize {
        fs::read(file).unwrap_or_default().len() / 2
    }

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}: not in 20 s");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn holds_and_lets_go(brake: &mut Brake, file: &Path) {
        until("it writes", || lines(file) > 5);
        for _ in 0..10 {
            brake.set(true).unwrap();
            until("it stands still", || brake.is_still());
            let before = lines(file);
            std::thread::sleep(Duration::from_millis(30));
            assert_eq!(lines(file), before, "it writes while it stands still");
            brake.set(false).unwrap();
            until("it goes on", || lines(file) > before);
            assert!(!brake.is_still());
        }
        brake.set(true).unwrap();
        until("it stands still", || brake.is_still());
        brake.kill();
    }

    #[test]
    fn by_signals_no_child_that_is_born_meanwhile_escapes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lines");
        let mut init = writer(&file, Path::new("/dev/null"));
        let mut brake = Cleared(Brake::of(&Layout::new(dir.path()), &record(None), Some(init.id())));
        holds_and_lets_go(&mut brake.0, &file);
        let _ = init.kill();
        init.wait().unwrap();
    }

    #[test]
    fn by_the_freezer_of_v1_it_dies_once_it_is_let_go() {
        let at = PathBuf::from("/sys/fs/cgroup/freezer").join(format!("pumasi_test_{}", std::process::id()));
        if fs::create_dir_all(at.join("app")).is_err() || !at.join("app/freezer.state").exists() {
            return eprintln!("no freezer of v1 here that this user may use");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lines");
        let place = Place { version: CgroupVersion::V1, dirs: [("freezer".to_owned(), at.clone())].into() };
        let mut init = writer(&file, &at.join("app/cgroup.procs"));
        let mut brake = Cleared(Brake::of(&Layout::new(dir.path()), &record(Some(place.clone())), None));
        holds_and_lets_go(&mut brake.0, &file);
        place.let_die();
        init.wait().unwrap();
        until("all of it ends", || place.remove().is_ok());
    }
}
