//! A service whose dataset's disk takes no write, or whose data cannot be made this cloud's own, is given up to a standby: it alone, and
//! not its cloud.
//!
//! Enters: the datasets of this cloud's services, a small write into each. Leaves: `Yield` where none was taken for a while, and the word
//! that it is not given up any more where the disk writes again before anybody took it.
//! Always holds: one write a dataset is under way, in a thread of its own, so that a disk that hangs holds up nothing else; nothing is
//! given up that nobody else could take; what the application sees of its directory does not change.

use super::game_day;
use crate::node::{Locked, Note};
use crate::object::ServiceRecord;
use crate::{Node, clock, home, register, voting};
use nix::fcntl::OFlag;
use pumasi_api::Problem;
use pumasi_ownership::command::{How, Progress, WHY_CHARS_MAX};
use pumasi_ownership::state::Phase;
use pumasi_ownership::{Command, Owned, State, refusal};
use pumasi_terms::{BootMs, DatasetName, ServiceId, ServiceName};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const LOOK_MS: u64 = 1_000;
/// A dataset that took no write for so long is not waited for.
const STALLED_MS: u64 = 5_000;
/// One that takes them again for so long is trusted again.
const WELL_MS: u64 = 5_000;

/// So long it is tried to make what was kept the service's own.
const PROMOTED_MS: u64 = 10_000;

type Key = (ServiceId, DatasetName);

#[derive(Debug, Clone, Default)]
pub struct Probes(Arc<Locked<BTreeMap<Key, Probe>>>, Arc<Locked<BTreeMap<ServiceName, Failing>>>);

/// Since when, and the last reason.
type Failing = (BootMs, String);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Probe {
    /// A write is under way since.
    begun: Option<BootMs>,
    /// Writes fail since, the last one for this reason.
    fails: Option<(BootMs, String)>,
    /// Writes succeed since.
    well: Option<BootMs>,
}

impl Probe {
    fn begins(&mut self, now: BootMs) {
        self.begun = Some(now);
    }

    fn ended(&mut self, result: Result<(), String>, now: BootMs) {
        let begun = self.begun.take().unwrap_or(now);
        match result {
            Ok(()) => {
                self.fails = None;
                self.well.get_or_insert(now);
            }
            Err(why) => {
                let since = self.fails.take().map_or(begun, |(since, _)| since);
                (self.fails, self.well) = (Some((since, why)), None);
            }
        }
    }

    /// For how long it has taken no write, and why.
    fn stalled(&self, now: BootMs) -> Option<(u64, String)> {
        let failed = self.fails.as_ref().map(|(since, why)| (now.since(*since), why.clone()));
        let hangs = self.begun.map(|since| (now.since(since), "a write of a few bytes does not return".to_owned()));
        failed.into_iter().chain(hangs).max_by_key(|(ms, _)| *ms).filter(|(ms, _)| *ms > 0)
    }

    fn is_well(&self, now: BootMs) -> bool {
        self.fails.is_none() && self.well.is_some_and(|since| now.since(since) >= WELL_MS)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    Nothing,
    GiveUp(String),
    TakeBack,
}

/// Of one service, by what is known of its datasets; `others`: somebody could have it.
fn next(yielded: bool, probes: &[(DatasetName, Probe)], others: bool, now: BootMs) -> Next {
    if yielded {
        return if probes.iter().all(|(_, p)| p.is_well(now)) { Next::TakeBack } else { Next::Nothing };
    }
    let worst = probes.iter().filter_map(|(set, p)| Some((p.stalled(now)?, set))).max_by_key(|((ms, _), _)| *ms);
    match worst {
        Some(((ms, why), set)) if ms >= STALLED_MS && others => {
            Next::GiveUp(format!("dataset {set} has taken no write for {} s: {why}", ms / 1_000))
        }
        _ => Next::Nothing,
    }
}

pub async fn run(node: Arc<Node>) {
    let mut stopping = node.stopping.clone();
    loop {
        tokio::select! {
            biased;
            _ = stopping.changed() => return,
            () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => {}
        }
        look(&node).await;
    }
}

async fn look(node: &Arc<Node>) {
    let (Ok(services), Some(state)) = (node.services(), node.voting.state()) else { return };
    let probes = node.takeover.probes.clone();
    let mut known = Vec::new();
    for service in services.iter().filter(|s| is_looked_at(node, s)) {
        let Some(owned) = state.services.get(&service.id).filter(|o| is_this(node, service, o)) else { continue };
        if service.taking.is_some() {
            if let Some(why) = unpromoted(&probes, service, owned, &state) {
                give_up(node, service, owned, why).await;
            }
            continue;
        }
        // What is let go on purpose is not taken back for being well.
        if game_day::is_under_way(node, &service.id) {
            continue;
        }
        let sets = service.document.spec.datasets.iter().map(|set| {
            let key = (service.id.clone(), set.name.clone());
            known.push(key.clone());
            begin(&probes, &key, home::data_dir(node, service, &set.name));
            (set.name.clone(), probes.0.lock().get(&key).cloned().unwrap_or_default())
        });
        let sets: Vec<_> = sets.collect();
        match next(owned.phase == Phase::Yielded, &sets, could_go(&state, owned), clock::boot()) {
            Next::Nothing => {}
            Next::GiveUp(why) => give_up(node, service, owned, why).await,
            Next::TakeBack => take_back(node, service, owned).await,
        }
    }
    probes.0.lock().retain(|key, _| known.contains(key));
}

fn is_looked_at(node: &Node, service: &ServiceRecord) -> bool {
    service.registered && !service.deleting && register::is_ours(node, service)
}

fn is_this(node: &Node, service: &ServiceRecord, owned: &Owned) -> bool {
    &owned.owner == node.name() && owned.epoch == service.epoch
}

/// Why it is given up before it was ever served here.
fn unpromoted(probes: &Probes, service: &ServiceRecord, owned: &Owned, state: &State) -> Option<String> {
    let (since, why) = probes.1.lock().get(service.name()).cloned()?;
    let late = clock::boot().since(since) >= PROMOTED_MS && owned.phase != Phase::Yielded;
    (late && could_go(state, owned)).then(|| format!("its data cannot be made this cloud's own: {why}"))
}

/// Whether anybody could take it now, by itself.
fn could_go(state: &State, owned: &Owned) -> bool {
    let automatic = owned.agreed.takeover == pumasi_ownership::state::Takeover::Automatic;
    automatic && owned.agreed.standbys.iter().any(|s| state.may_take(&s.cloud) && owned.may_live_at(&s.cloud))
}

/// In a thread of its own, and not where one is under way.
fn begin(probes: &Probes, key: &Key, dir: PathBuf) {
    {
        let mut all = probes.0.lock();
        let probe = all.entry(key.clone()).or_default();
        if probe.begun.is_some() {
            return;
        }
        probe.begins(clock::boot());
    }
    let (ended, of) = (probes.clone(), key.clone());
    let written = std::thread::Builder::new().name("dataset probe".into()).spawn(move || {
        let result = write(&dir);
        if let Some(probe) = ended.0.lock().get_mut(&of) {
            probe.ended(result, clock::boot());
        }
    });
    if written.is_err()
        && let Some(probe) = probes.0.lock().get_mut(key)
    {
        // That this process may have no more threads says nothing of the disk.
        probe.begun = None;
    }
}

/// A few bytes through to the disk, in a file without a name.
fn write(dir: &Path) -> Result<(), String> {
    use std::os::unix::fs::FileExt;
    let nameless = OFlag::O_TMPFILE.bits();
    let opened = std::fs::OpenOptions::new().write(true).mode(0o600).custom_flags(nameless).open(dir);
    let file = match opened {
        Ok(file) => file,
        // It is not there yet, or its file system knows no such files: nothing is known of it.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::IsADirectory) => {
            return Ok(());
        }
        Err(e) => return Err(e.to_string()),
    };
    file.write_all_at(&[0x70; 64], 0).and_then(|()| file.sync_data()).map_err(|e| e.to_string())
}

async fn give_up(node: &Node, service: &ServiceRecord, owned: &Owned, why: String) {
    if node.may_act().is_err() || node.automation_stopped() {
        return;
    }
    let command = Command::Yield {
        service: service.id.clone(),
        epoch: owned.epoch,
        why: why.chars().take(WHY_CHARS_MAX).collect(),
    };
    if let Some(refused) = refused(voting::propose(node, command).await) {
        return tracing::warn!(service = %service.name(), why = %refused, "a service whose dataset takes no write was not given up; tried again");
    }
    tracing::error!(service = %service.name(), %why, "this cloud gives the service up to a standby: its dataset's disk takes no write");
    let note = Note::new("tenure_given_up", "service", service.name()).because(why);
    node.note("daemon", note.because("a standby may have it; this cloud keeps its other services")).await;
}

/// Nobody has taken it yet.
async fn take_back(node: &Node, service: &ServiceRecord, owned: &Owned) {
    let how = How::Degraded { have: 0, want: owned.agreed.full };
    let items = vec![Progress { service: service.id.clone(), epoch: owned.epoch, how, base: BTreeMap::new() }];
    match refused(voting::propose(node, Command::Serving { items }).await) {
        None => {
            let note = Note::new("tenure_taken_back", "service", service.name())
                .because("nobody has taken it, and its datasets take writes again");
            node.note("daemon", note).await;
        }
        Some(why) => tracing::warn!(service = %service.name(), %why, "a service that was given up was not taken back"),
    }
}

fn refused(told: Result<Vec<pumasi_ownership::Told>, pumasi_api::Problem>) -> Option<String> {
    told.map_or_else(|e| Some(e.to_string()), |told| refusal(&told).map(ToString::to_string))
}

impl Probes {
    /// What came of a try to make what was kept for a service its own.
    pub fn promoted(&self, service: &ServiceName, done: Result<(), &Problem>) {
        let mut all = self.1.lock();
        match done {
            Ok(()) => drop(all.remove(service)),
            Err(e) => {
                let since = all.remove(service).map_or_else(clock::boot, |(since, _)| since);
                all.insert(service.clone(), (since, e.to_string()));
            }
        }
    }

    pub(super) fn remarks(&self) -> Vec<String> {
        let now = clock::boot();
        let bad = |((_, set), p): (&Key, &Probe)| {
            let (ms, why) = p.stalled(now).filter(|(ms, _)| *ms >= STALLED_MS)?;
            Some(format!("dataset {set} of a service of this cloud has taken no write for {} s: {why}", ms / 1_000))
        };
        self.0.lock().iter().filter_map(bad).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(probe: Probe) -> Vec<(DatasetName, Probe)> {
        vec![(DatasetName::parse("db").unwrap(), probe)]
    }

    #[test]
    fn one_that_hangs_or_fails_for_long_is_given_up_where_somebody_could_have_it() {
        let mut probe = Probe::default();
        probe.begins(BootMs(1_000));
        let of = |p: &Probe, yielded, others, now| next(yielded, &sets(p.clone()), others, BootMs(now));
        assert_eq!(of(&probe, false, true, 5_999), Next::Nothing);
        assert!(matches!(of(&probe, false, true, 6_000), Next::GiveUp(why) if why.contains("does not return")));
        assert_eq!(of(&probe, false, false, 60_000), Next::Nothing, "nobody could have it");
        probe.ended(Err("No space left on device".into()), BootMs(2_000));
        probe.begins(BootMs(5_900));
        probe.ended(Err("No space left on device".into()), BootMs(5_901));
        assert!(matches!(of(&probe, false, true, 6_000), Next::GiveUp(why) if why.contains("No space left")));
    }

    #[test]
    fn one_that_writes_again_for_a_while_is_taken_back() {
        let mut probe = Probe::default();
        let of = |p: &Probe, now| next(true, &sets(p.clone()), true, BootMs(now));
        assert_eq!(of(&probe, 60_000), Next::Nothing, "nothing is known of it");
        probe.begins(BootMs(1_000));
        probe.ended(Err("full".into()), BootMs(1_000));
        assert_eq!(of(&probe, 60_000), Next::Nothing);
        probe.begins(BootMs(2_000));
        probe.ended(Ok(()), BootMs(2_001));
        assert_eq!([of(&probe, 7_000), of(&probe, 7_001)], [Next::Nothing, Next::TakeBack]);
        assert_eq!(next(false, &sets(probe), true, BootMs(90_000)), Next::Nothing);
    }

    #[test]
    fn a_write_leaves_nothing_in_the_directory() {
        let dir = std::env::temp_dir().join(format!("pumasi-probe-{:032x}", clock::entropy()));
        std::fs::create_dir_all(&dir).unwrap();
        write(&dir).unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        std::fs::remove_dir(&dir).unwrap();
        assert_eq!(write(&dir), Ok(()), "nothing is known of one that is not there");
    }
}
