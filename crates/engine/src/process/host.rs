//! What the driver does on the host, call by call. Blocking.

use super::cgroup::{Place, Tree};
use super::layout::{Desired, Layout, Record, Status, VERSION, delete_tree, make_dir, write_json};
use super::processes::{self, end_all, processes_by_uid, signal_all, usage_of};
use super::slots::{self, Slots};
use super::{ProcessConfig, data, helper, launch, logs, ranges, shim, trial};
use crate::rules::{Here, Start, on_start};
use crate::{
    Access, Capabilities, EngineError, InstanceSpec, InstanceState, InstanceStatus, Isolation, Remains, Secrets,
    Trouble,
};
use pumasi_terms::InstanceId;
use pumasi_terms::service::Platform;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For a shim to say that it is up.
const ANSWER_MS_MAX: u64 = 10_000;
/// For all shims of one owner to exchange their layers.
const RENEW_MS_MAX: u64 = 5_000;
const LOCK_FILE: &str = "engine.lock";
/// Directories being made and being deleted.
const NEW: &str = ".new-";
const GONE: &str = ".gone-";

#[derive(Debug)]
pub(super) struct Host {
    config: ProcessConfig,
    pub(super) root: PathBuf,
    isolation: Isolation,
    runtimes: Vec<String>,
    /// What instances may not see, canonical.
    hide: Vec<PathBuf>,
    tree: Option<Tree>,
    slots: Slots,
    /// Uids of our range that processes had before us; most likely none.
    foreign_uids: BTreeSet<u32>,
    /// One change at a time; also keeps our shims, to be reaped when they end before us.
    shims: Mutex<Vec<Child>>,
    helpers_started: AtomicU64,
    _lock: File,
}

pub(super) struct Known {
    pub layout: Layout,
    pub record: Record,
}

/// Of an engine's control groups; `root` is canonical.
pub(super) fn kernel_name(root: &Path) -> String {
    format!("pumasi_{:016x}", slots::hash(root))
}

impl Host {
    pub(super) fn open(config: ProcessConfig) -> Result<Self, EngineError> {
        fs::create_dir_all(&config.root_dir).map_err(EngineError::at("create", &config.root_dir))?;
        let root = config.root_dir.canonicalize().map_err(EngineError::at("resolve", &config.root_dir))?;
        // Instances without a mount namespace reach their own directory through it.
        make_dir(&root, 0o711)?;
        let lock = lock_root(&root)?;
        let given = if nix::unistd::geteuid().is_root() { ranges::given() } else { Vec::new() };
        let slots = Slots::open(&root, config.uid_base, &given)?;
        let name = kernel_name(&root);

        let mut hide = vec![root.clone()];
        hide.extend(config.hide.iter().map(|dir| dir.canonicalize().unwrap_or_else(|_| dir.clone())));
        check_view(&config.view, &hide)?;
        let found = trial::ask(&config.executable, &root, slots.base(), &config.view, &hide)?;
        let mut isolation = found.isolation;
        if let Some(whose) = ranges::conflict(slots.base(), &given) {
            isolation.uids_of_others = true;
            isolation.why.push(format!("{whose}, so that others could become an instance"));
        }
        for why in &isolation.why {
            tracing::info!(%why, "instances cannot be isolated fully here");
        }
        let is_root = nix::unistd::geteuid().is_root();
        let tree = if is_root { Tree::open(&name) } else { None };
        isolation.cgroup = tree.as_ref().map(|t| t.version);
        isolation.egress = isolation.network;
        isolation.freezer = tree.as_ref().is_some_and(Tree::can_freeze);
        let mut host = Self {
            runtimes: found.runtimes,
            hide,
            slots,
            shims: Mutex::new(Vec::new()),
            helpers_started: AtomicU64::new(0),
            foreign_uids: BTreeSet::new(),
            _lock: lock,
            config,
            root,
            isolation,
            tree,
        };
        tracing::info!(by = host.freeze_by().as_str(), "instances can be frozen");
        host.sweep()?;
        if host.isolation.own_uid {
            helper::end_strays(&host.slots);
            host.foreign_uids = processes_by_uid(host.slots.range()).into_keys().collect();
        }
        Ok(host)
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        let platform = Platform {
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
            runtimes: self.runtimes.clone(),
        };
        Capabilities { platforms: vec![platform], isolation: self.isolation.clone(), freeze: Some(self.freeze_by()) }
    }

    pub(super) fn tree(&self) -> Option<&Tree> {
        self.tree.as_ref()
    }

    pub(super) fn owner_gid(&self, owner: &str) -> Result<Option<u32>, EngineError> {
        if self.isolation.own_uid { self.slots.gid_of(owner) } else { Ok(None) }
    }

    pub(super) fn inherit_group(&self, from: &str, to: &str) -> Result<(), EngineError> {
        if self.isolation.own_uid { self.slots.inherit(from, to) } else { Ok(()) }
    }

    pub(super) fn executable(&self) -> &Path {
        &self.config.executable
    }

    pub(super) fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    /// Uid and gid for whoever handles the owner's bytes; none where there are no ids to give.
    pub(super) fn helper_ids(&self, owner: &str) -> Result<Option<(u32, u32)>, EngineError> {
        if !self.isolation.own_uid {
            return Ok(None);
        }
        let _change = self.change();
        let owners = self.known()?.into_iter().map(|k| k.record.spec.owner).collect();
        let busy = || processes_by_uid(self.slots.helpers()).into_keys().collect();
        Ok(Some((self.slots.helper_uid(owner, busy)?, self.slots.gid_for(owner, &owners)?)))
    }

    /// A new group for a helper, where there are groups. Those of helpers that have ended go.
    pub(super) fn helper_group(&self, memory_bytes: u64) -> Result<Option<Place>, EngineError> {
        let Some(tree) = &self.tree else { return Ok(None) };
        let _change = self.change();
        tree.remove_ended_helpers();
        let number = self.helpers_started.fetch_add(1, Ordering::Relaxed);
        tree.helper(&number.to_string(), memory_bytes).map(Some)
    }

    pub(super) fn change(&self) -> MutexGuard<'_, Vec<Child>> {
        // Nothing in it can be half changed.
        self.shims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every instance that can be read; the others are logged and stay for a person to look at.
    pub(super) fn known(&self) -> Result<Vec<Known>, EngineError> {
        let mut known = Vec::new();
        for id in self.ids()? {
            let layout = Layout::of(&self.root, &id);
            match layout.read_record() {
                Ok(Some(record)) => known.push(Known { layout, record }),
                Ok(None) => {}
                Err(e) => tracing::warn!(instance = %id, error = %e, "an instance cannot be read"),
            }
        }
        Ok(known)
    }

    fn ids(&self) -> Result<Vec<InstanceId>, EngineError> {
        let mut ids: Vec<InstanceId> = self.entries()?.into_iter().filter_map(|n| InstanceId::parse(n).ok()).collect();
        ids.sort();
        Ok(ids)
    }

    fn entries(&self) -> Result<Vec<String>, EngineError> {
        let entries = fs::read_dir(&self.root).map_err(EngineError::at("list", &self.root))?;
        Ok(entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
    }

    /// What a crash between two lines can leave: it belongs to no instance, so nobody will ask for its removal.
    fn sweep(&self) -> Result<(), EngineError> {
        for name in self.entries()? {
            if name.starts_with(NEW) || name.starts_with(GONE) {
                delete_tree(&self.root.join(name))?;
            }
        }
        let ids: BTreeSet<String> = self.ids()?.into_iter().map(|id| id.to_string()).collect();
        if let Some(tree) = &self.tree {
            for name in tree.all_names().difference(&ids) {
                let place = tree.place(name);
                place.kill();
                end_all(&|| place.all_processes());
                if let Err(e) = place.remove() {
                    tracing::warn!(error = %e, "a cgroup without an instance stays");
                }
            }
        }
        self.close_if_empty()
    }

    /// Groups of instances that are gone, and of engines that were killed: whatever made them is not there to take them away.
    fn remove_empty_groups(&self) -> Result<(), EngineError> {
        let Some(tree) = &self.tree else { return Ok(()) };
        let ids: BTreeSet<String> = self.ids()?.into_iter().map(|id| id.to_string()).collect();
        for name in tree.names().difference(&ids) {
            // Fails while a process is in it, which `remains` tells.
            let _ = tree.place(name).remove();
        }
        tree.remove_ended_helpers();
        tree.remove_strangers();
        Ok(())
    }

    fn close_if_empty(&self) -> Result<(), EngineError> {
        if self.ids()?.is_empty()
            && let Some(tree) = &self.tree
        {
            tree.close_if_empty();
        }
        Ok(())
    }

    /// What this host cannot do for it, or must not.
    pub(super) fn can_isolate(&self, spec: &InstanceSpec) -> Result<(), EngineError> {
        if spec.data.values().any(|m| m.access == Access::Layered) && !self.isolation.layers {
            let problem = "this host makes no layers over data".into();
            return Err(EngineError::Spec { id: spec.id.clone(), problem });
        }
        let missing = self.isolation.missing_for_lending();
        if spec.lent && !missing.is_empty() && !self.config.lend_without_isolation {
            return Err(EngineError::NotIsolated { id: spec.id.clone(), missing: missing.join(", ") });
        }
        Ok(())
    }

    pub(super) fn start(&self, spec: InstanceSpec) -> Result<(), EngineError> {
        self.can_isolate(&spec)?;
        let mut shims = self.change();
        let layout = Layout::of(&self.root, &spec.id);
        let old = layout.read_record()?.map(|record| Known { layout: layout.clone(), record });
        let here = match &old {
            Some(old) => {
                let (run, held) = (layout.read_desired()?.run, layout.is_held()?);
                let alive = held || spec.generation > old.record.spec.generation && !processes_of(old).is_empty();
                Some(Here { spec: &old.record.spec, run, held, alive })
            }
            None => None,
        };
        let secrets = spec.secrets.clone();
        let known = match (on_start(&spec, here.as_ref())?, old) {
            (Start::Keep, Some(old)) => return self.begin(&old),
            (Start::Keep, None) => return Ok(()),
            (Start::StopOlder, Some(old)) => {
                self.ask_to_stop(&old)?;
                return Err(EngineError::Replacing { id: spec.id, older: old.record.spec.generation });
            }
            (Start::Revive, Some(mut old)) => {
                // The operator's lists, and what the host can do, may be others by now.
                self.check(&spec)?;
                let (isolation, hide, view) = (self.isolation.clone(), self.hide.clone(), self.config.view.clone());
                let record = Record { isolation, hide, view, ..old.record.clone() };
                // One that was prepared only begins, now that it is started.
                let desired = layout.read_desired()?;
                if desired.prepared_until_ms.is_some() {
                    write_json(&layout.desired(), &Desired { prepared_until_ms: None, ..desired }, true)?;
                }
                if old.record != record {
                    write_json(&layout.record(), &record, true)?;
                    old.record = record;
                }
                old
            }
            (_, None) => {
                self.check(&spec)?;
                let record = self.new_record(spec, None)?;
                let known = Known { layout, record };
                self.create(&known.layout, &known.record, &Desired::running())?;
                self.give_data(&known)?;
                return self.launch(&known, &secrets, &mut shims);
            }
            (_, Some(old)) => {
                self.check(&spec)?;
                let record = self.new_record(spec, Some(&old.record))?;
                // The wish before the record: in the other order a crash between them would take the new generation for an ended one.
                layout.want(true)?;
                write_json(&layout.record(), &record, true)?;
                let status = Status { address: layout.read_status()?.and_then(|s| s.address), ..Status::fresh() };
                write_json(&layout.status(), &status, false)?;
                Known { layout, record }
            }
        };
        self.bring_up(&known, &secrets, &mut shims)
    }

    fn check(&self, spec: &InstanceSpec) -> Result<(), EngineError> {
        self.check_but_data(spec)?;
        launch::check_data(spec).map_err(|problem| EngineError::Spec { id: spec.id.clone(), problem })
    }

    /// Its data come when it begins.
    pub(super) fn check_but_data(&self, spec: &InstanceSpec) -> Result<(), EngineError> {
        let allowed = launch::check(spec).and_then(|()| self.config.egress.check(spec));
        allowed.map_err(|problem| EngineError::Spec { id: spec.id.clone(), problem })
    }

    pub(super) fn new_record(&self, spec: InstanceSpec, old: Option<&Record>) -> Result<Record, EngineError> {
        let known = self.known()?;
        let (mut uid, mut gid) = (None, None);
        if self.isolation.own_uid {
            let mut taken: BTreeSet<u32> = known.iter().filter_map(|k| k.record.uid).collect();
            taken.extend(&self.foreign_uids);
            uid = match old.and_then(|o| o.uid) {
                Some(uid) => Some(uid),
                None => Some(self.slots.take_uid(&taken)?),
            };
            let owners = known.iter().map(|k| k.record.spec.owner.clone()).collect();
            gid = Some(self.slots.gid_for(&spec.owner, &owners)?);
        }
        Ok(Record {
            version: VERSION,
            uid,
            gid,
            cgroup: self.tree.as_ref().map(|t| t.place(spec.id.as_str())),
            isolation: self.isolation.clone(),
            hide: self.hide.clone(),
            view: self.config.view.clone(),
            log_bytes_max: self.config.log_bytes_max,
            limits: self.config.limits,
            spec,
        })
    }

    /// The directory appears whole or not at all.
    pub(super) fn create(&self, layout: &Layout, record: &Record, desired: &Desired) -> Result<(), EngineError> {
        let new = Layout::new(self.root.join(format!("{NEW}{}", record.spec.id)));
        delete_tree(&new.dir)?;
        make_dir(&new.dir, 0o711)?;
        make_dir(&new.dir.join("logs"), 0o700)?;
        write_json(&new.desired(), desired, false)?;
        write_json(&new.record(), record, true)?;
        fs::rename(&new.dir, &layout.dir).map_err(EngineError::at("create", &layout.dir))
    }

    /// Everything here may be done twice.
    fn bring_up(&self, known: &Known, secrets: &Secrets, shims: &mut Vec<Child>) -> Result<(), EngineError> {
        let record = &known.record;
        let id = &record.spec.id;
        kill_as_one(known);
        if !end_all(&|| processes_of(known)).is_empty() {
            let problem = "processes of an earlier run do not end".into();
            return Err(EngineError::Shim { id: id.clone(), problem });
        }
        self.give_data(known)?;
        self.launch(known, secrets, shims)
    }

    pub(super) fn give_data(&self, known: &Known) -> Result<(), EngineError> {
        let Some(gid) = known.record.gid else { return Ok(()) };
        known.record.spec.data.values().try_for_each(|mount| data::give(mount, gid))
    }

    pub(super) fn launch(&self, known: &Known, secrets: &Secrets, shims: &mut Vec<Child>) -> Result<(), EngineError> {
        let Known { layout, record } = known;
        let (child, said) = self.spawn_shim(layout, secrets)?;
        shims.push(child);
        if said.trim() == shim::UP {
            Ok(())
        } else {
            let problem = if said.trim().is_empty() { "it said nothing".to_owned() } else { said.trim().to_owned() };
            Err(EngineError::Shim { id: record.spec.id.clone(), problem })
        }
    }

    fn spawn_shim(&self, layout: &Layout, secrets: &Secrets) -> Result<(Child, String), EngineError> {
        let err = |e| EngineError::at("start a shim for", &layout.dir)(e);
        let (ours, theirs) = UnixStream::pair().map_err(err)?;
        ours.set_read_timeout(Some(Duration::from_millis(ANSWER_MS_MAX))).map_err(err)?;
        let log = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(layout.shim_log());
        let (mut hands, takes) = UnixStream::pair().map_err(err)?;
        hands.set_write_timeout(Some(Duration::from_millis(ANSWER_MS_MAX))).map_err(err)?;
        let child = Command::new(&self.config.executable)
            .args(["shim", "--dir"])
            .arg(&layout.dir)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(takes)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(log.map_err(err)?)
            .spawn()
            .map_err(err)?;
        // One that ended early says why itself; it needs none of this.
        let _ = shim::hand_secrets(&mut hands, secrets);
        drop(hands);
        let mut said = String::new();
        let read = BufReader::new(ours).read_line(&mut said);
        if let Err(e) = read {
            said = format!("no word within {ANSWER_MS_MAX} ms ({e})");
        }
        Ok((child, said))
    }

    pub(super) fn list(&self) -> Result<Vec<InstanceStatus>, EngineError> {
        {
            let mut shims = self.change();
            shims.retain_mut(|shim| matches!(shim.try_wait(), Ok(None)));
            self.remove_empty_groups()?;
        }
        let mut all = Vec::new();
        for known in self.known()? {
            match self.status_of(&known) {
                Ok(status) => all.push(status),
                Err(e) => {
                    tracing::warn!(instance = %known.record.spec.id, error = %e, "an instance's status cannot be read")
                }
            }
        }
        Ok(all)
    }

    fn status_of(&self, known: &Known) -> Result<InstanceStatus, EngineError> {
        let Known { layout, record } = known;
        // In this order: a shim writes its last status before it lets go.
        let held = layout.is_held()?;
        let desired = layout.read_desired()?;
        let said = layout.read_status()?.unwrap_or_else(Status::fresh);
        let stopping = || InstanceState::Unready { why: "stopping".into() };
        let state = match (held, desired.run, said.state) {
            (true, false, InstanceState::Unready { why }) => InstanceState::Unready { why },
            (true, false, _) => stopping(),
            (true, true, state) => state,
            (false, _, state @ InstanceState::Stopped { .. }) => state,
            (false, true, _) => {
                InstanceState::Failed { why: "its shim is gone: killed, or the host was restarted".into() }
            }
            (false, false, _) if processes_of(known).is_empty() => InstanceState::Stopped { exit: said.last_exit },
            (false, false, _) => stopping(),
        };
        let last_line = said.trouble.as_ref().map(|t| t.last_line.clone()).unwrap_or_default();
        let trouble = match &state {
            _ if !desired.run => None,
            InstanceState::Failed { why } | InstanceState::BackingOff { why, .. } | InstanceState::Unready { why } => {
                Some(Trouble { why: why.clone(), last_line })
            }
            InstanceState::Starting => said.trouble,
            InstanceState::Ready | InstanceState::Stopped { .. } => None,
        };
        let pid = said.pid.filter(|_| held);
        let usage = match (&record.cgroup, pid) {
            (Some(place), _) => place.usage(),
            (None, Some(pid)) => usage_of(pid),
            (None, None) => super::cgroup::Usage::default(),
        };
        Ok(InstanceStatus {
            id: record.spec.id.clone(),
            owner: record.spec.owner.clone(),
            generation: record.spec.generation,
            address: said.address.filter(|_| held),
            door: said.door.filter(|_| held),
            protocol: record.spec.protocol,
            frozen: held && said.frozen.is_some(),
            prepared: desired.prepared_until_ms.is_some(),
            pid,
            started_at: said.started_at,
            restarts: said.restarts,
            was_ready: said.was_ready,
            last_exit: said.last_exit,
            cpu_used_us: usage.cpu_us,
            memory_bytes: usage.memory_bytes,
            memory_max_bytes: launch::memory_max_bytes(&record.spec),
            state,
            trouble,
        })
    }

    pub(super) fn stop(&self, id: &InstanceId) -> Result<(), EngineError> {
        let _change = self.change();
        let layout = Layout::of(&self.root, id);
        match layout.read_record()? {
            Some(record) => self.ask_to_stop(&Known { layout, record }),
            None => Ok(()),
        }
    }

    fn ask_to_stop(&self, known: &Known) -> Result<(), EngineError> {
        if known.layout.read_desired()?.run {
            known.layout.want(false)?;
        }
        known.layout.wake_shim();
        if !known.layout.is_held()? {
            // Without a shim there is nobody to be graceful.
            kill_as_one(known);
            signal_all(&processes_of(known));
        }
        Ok(())
    }

    /// Written only where it differs; a shim that is gone finds it when it is revived.
    pub(super) fn hold(&self, owner: &str, why: Option<&str>) -> Result<(), EngineError> {
        let _change = self.change();
        for known in self.known()?.into_iter().filter(|k| k.record.spec.owner == owner) {
            let desired = known.layout.read_desired()?;
            if desired.run && desired.held.as_deref() != why {
                let desired = Desired { held: why.map(str::to_owned), ..desired };
                // Not durable: the disk may be full, and whoever asked asks again.
                write_json(&known.layout.desired(), &desired, false)?;
                known.layout.wake_shim();
            }
        }
        Ok(())
    }

    /// Instances that are not running now see what is there when they start.
    pub(super) fn renew_layers(&self, owner: &str) -> Result<(), EngineError> {
        let mut asked = Vec::new();
        {
            let _change = self.change();
            for known in self.known()?.into_iter().filter(|k| k.record.spec.owner == owner) {
                let desired = known.layout.read_desired()?;
                if launch::layers(&known.record).is_empty() || !desired.run || !known.layout.is_held()? {
                    continue;
                }
                let layers = desired.layers + 1;
                write_json(&known.layout.desired(), &Desired { layers, ..desired }, false)?;
                known.layout.wake_shim();
                asked.push((known, layers));
            }
        }
        let until = Instant::now() + Duration::from_millis(RENEW_MS_MAX);
        for (Known { layout, record }, layers) in asked {
            loop {
                let said = layout.read_status()?.unwrap_or_else(Status::fresh);
                let runs = said.pid.is_some() || said.state == InstanceState::Starting;
                if said.layers == layers || !runs || !layout.is_held()? {
                    break;
                }
                if Instant::now() > until {
                    let problem = format!("it has not renewed its data for {RENEW_MS_MAX} ms");
                    return Err(EngineError::Shim { id: record.spec.id, problem });
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    pub(super) fn remove(&self, id: &InstanceId) -> Result<(), EngineError> {
        let mut shims = self.change();
        let layout = Layout::of(&self.root, id);
        let running = |what: &str| EngineError::Running { id: id.clone(), what: what.into() };
        // A damaged record must not keep its instance here for ever.
        let record = layout.read_record().or_else(|e| match e {
            EngineError::Damaged { .. } => Ok(None),
            e => Err(e),
        })?;
        if layout.is_held()? {
            return Err(running(if layout.read_desired()?.run { "nobody asked it to stop" } else { "it is stopping" }));
        }
        let mut place = self.tree.as_ref().map(|t| t.place(id.as_str()));
        if let Some(record) = record {
            if layout.read_desired()?.run {
                return Err(running("nobody asked it to stop"));
            }
            place = record.cgroup.clone().or(place);
            let known = Known { layout: layout.clone(), record };
            kill_as_one(&known);
            if !end_all(&|| processes_of(&known)).is_empty() {
                return Err(running("killed processes are not gone yet"));
            }
        }
        if let Some(place) = place {
            // The shim has let go of its lock and may still be on its way out.
            end_all(&|| place.all_processes());
            place.remove()?;
        }
        shims.retain_mut(|shim| matches!(shim.try_wait(), Ok(None)));
        // Last: until here the directory tells whose the rest is.
        let gone = self.root.join(format!("{GONE}{id}"));
        delete_tree(&gone)?;
        match fs::rename(&layout.dir, &gone) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(EngineError::at("remove", &layout.dir)(e)),
            _ => {}
        }
        delete_tree(&gone)?;
        self.close_if_empty()
    }

    pub(super) fn logs(&self, id: &InstanceId, tail_bytes: usize) -> Result<Vec<u8>, EngineError> {
        let layout = Layout::of(&self.root, id);
        match layout.read_record()? {
            Some(_) => logs::tail(&layout, tail_bytes),
            None => Err(EngineError::Unknown { id: id.clone() }),
        }
    }

    /// Where an instance is into which its own people may go: not one that runs for another cloud.
    pub(super) fn of_this_cloud(&self, id: &InstanceId) -> Result<Layout, EngineError> {
        let layout = Layout::of(&self.root, id);
        match layout.read_record()? {
            Some(record) if record.spec.lent => {
                let why = "it runs for another cloud: only its own people may go into it, at their cloud".into();
                Err(EngineError::Session { id: id.clone(), why })
            }
            Some(_) => Ok(layout),
            None => Err(EngineError::Unknown { id: id.clone() }),
        }
    }

    pub(super) fn remains(&self, owner: Option<&str>) -> Result<Remains, EngineError> {
        let _change = self.change();
        let mut left = Remains::default();
        let mut owned_by_others: BTreeSet<String> = BTreeSet::new();
        let mut others_uids: BTreeSet<u32> = BTreeSet::new();
        let mut counted: BTreeSet<u32> = BTreeSet::new();
        for known in self.known()? {
            let id = known.record.spec.id.to_string();
            if owner.is_some_and(|o| o != known.record.spec.owner) {
                others_uids.extend(known.record.uid);
                owned_by_others.insert(id);
                continue;
            }
            if known.layout.is_held()? {
                left.processes += 1;
                left.name(format!("shim of {id}"));
            }
            for pid in processes_of(&known) {
                left.processes += 1;
                left.name(format!("process {pid} of {id}"));
                counted.insert(pid);
            }
        }
        for name in self.entries()? {
            let ours = name.starts_with("inst-") || name.starts_with(NEW) || name.starts_with(GONE);
            if ours && !owned_by_others.contains(&name) {
                left.directories += 1;
                left.name(format!("directory {name}"));
            }
        }
        for name in self.tree.as_ref().map(Tree::names).unwrap_or_default() {
            if !owned_by_others.contains(&name) {
                left.cgroups += 1;
                left.name(format!("cgroup {name}"));
            }
        }
        if self.isolation.own_uid {
            if let Some(uid) = owner.map_or(Ok(None), |o| self.slots.helper_uid_of(o))? {
                for pid in processes_by_uid(uid..uid.saturating_add(1)).into_values().flatten() {
                    left.helpers += 1;
                    left.name(format!("data helper {pid}"));
                }
            }
            for (uid, pids) in processes_by_uid(self.slots.range()) {
                for pid in pids.difference(&counted).filter(|_| !others_uids.contains(&uid)) {
                    left.processes += 1;
                    left.name(format!("process {pid} of uid {uid}"));
                }
            }
        }
        Ok(left)
    }
}

/// A mistake in it must not be taken for a host that cannot make views: instances would then run without one.
fn check_view(view: &[PathBuf], hide: &[PathBuf]) -> Result<(), EngineError> {
    for path in view {
        let fault = |why: String| EngineError::View { path: path.clone(), why };
        let real = path.canonicalize().map_err(|e| fault(e.to_string()))?;
        if let Some(dir) = hide.iter().find(|dir| real.starts_with(dir) || path.starts_with(dir)) {
            return Err(fault(format!("it lies in the daemon's {}, which no instance may see", dir.display())));
        }
    }
    Ok(())
}

fn processes_of(known: &Known) -> BTreeSet<u32> {
    processes::processes_of(&known.layout, &known.record)
}

/// Of a swarm that multiplies, before the rest is looked for one by one.
fn kill_as_one(known: &Known) {
    if let Some(place) = &known.record.cgroup {
        place.kill();
        place.let_die();
    }
}

/// Whether a daemon works below this directory now.
pub fn is_in_use(root: &Path) -> bool {
    let lock = OpenOptions::new().write(true).open(root.join(LOCK_FILE));
    lock.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

fn lock_root(root: &Path) -> Result<File, EngineError> {
    let path = root.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(EngineError::at("open", &path))?;
    // A killed daemon's lock lives on for the instant in which a child of it has been forked and executes nothing yet.
    for _ in 0..100 {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::Error(e)) => return Err(EngineError::at("lock", &path)(e)),
        }
    }
    Err(EngineError::InUse { root: root.into() })
}
