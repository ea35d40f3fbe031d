//! An instance's directory: the only thing that daemon, shim and a later daemon share.
//!
//! Always holds: files are replaced whole, each carries a version, and whether a shim lives is told by a lock that the kernel drops
//! with it, never by a pid.

use super::cgroup::Place;
use crate::{EngineError, Exit, InstanceSpec, InstanceState, Isolation, Limits, Trouble};
use pumasi_terms::{InstanceId, WallMs};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) const VERSION: u32 = 1;
/// Larger files of ours are damaged.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What the driver decided about an instance; written before the first process of it exists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub version: u32,
    pub spec: InstanceSpec,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub cgroup: Option<Place>,
    pub isolation: Isolation,
    /// Directories of the host that the instance must not even see.
    pub hide: Vec<PathBuf>,
    /// Directories and files of the host that it sees besides the system's own.
    #[serde(default)]
    pub view: Vec<PathBuf>,
    pub log_bytes_max: u64,
    #[serde(default)]
    pub limits: Limits,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Desired {
    pub version: u32,
    pub run: bool,
    /// Why it is to stand still, for as long as this is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Rises whenever the data that it sees through layers have changed.
    #[serde(default)]
    pub layers: u64,
    /// That every process of it is to stand still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Order>,
    /// It is not to begin: only to be ready for that, and to end then, by the boot clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared_until_ms: Option<u64>,
}

impl Desired {
    pub(super) fn running() -> Self {
        Self { version: VERSION, run: true, held: None, layers: 0, freeze: None, prepared_until_ms: None }
    }
    pub(super) fn prepared(until_ms: u64) -> Self {
        Self { prepared_until_ms: Some(until_ms), ..Self::running() }
    }
}

/// A freeze, as the driver orders it and the shim confirms it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    pub name: String,
    /// By the boot clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// What the shim says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    pub version: u32,
    pub state: InstanceState,
    pub address: Option<SocketAddr>,
    /// Of an instance with a network of its own.
    #[serde(default)]
    pub door: Option<PathBuf>,
    pub pid: Option<u32>,
    pub started_at: Option<WallMs>,
    pub restarts: u32,
    /// Of this generation, at any time.
    #[serde(default)]
    pub was_ready: bool,
    pub last_exit: Option<Exit>,
    /// Why it was last not ready; none once it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// The number of [`Desired`] that its layers are as new as.
    #[serde(default)]
    pub layers: u64,
    /// No process of it runs, by this order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Order>,
    /// The last freeze whose bound was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lapsed: Option<String>,
}

impl Status {
    pub(super) fn fresh() -> Self {
        Self {
            version: VERSION,
            state: InstanceState::Starting,
            address: None,
            door: None,
            pid: None,
            started_at: None,
            restarts: 0,
            was_ready: false,
            last_exit: None,
            trouble: None,
            layers: 0,
            frozen: None,
            lapsed: None,
        }
    }
}

/// The paths below one instance's directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub dir: PathBuf,
}

impl Layout {
    pub(super) fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
    pub(super) fn of(root: &Path, id: &InstanceId) -> Self {
        Self::new(root.join(id.as_str()))
    }
    pub(super) fn record(&self) -> PathBuf {
        self.dir.join("spec.json")
    }
    pub(super) fn desired(&self) -> PathBuf {
        self.dir.join("desired.json")
    }
    pub(super) fn status(&self) -> PathBuf {
        self.dir.join("status.json")
    }
    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join("shim.lock")
    }
    pub(super) fn pid(&self) -> PathBuf {
        self.dir.join("shim.pid")
    }
    /// A FIFO: one byte wakes the shim, which then reads `desired.json`.
    pub(super) fn wake(&self) -> PathBuf {
        self.dir.join("wake")
    }
    /// The way into the instance's network.
    pub(super) fn door(&self) -> PathBuf {
        self.dir.join("door")
    }
    /// Where the daemon asks for a command of a person to be run in it.
    pub(super) fn sessions(&self) -> PathBuf {
        self.dir.join("sessions")
    }
    /// HOME of an instance that has no view of its own.
    pub(super) fn private(&self) -> PathBuf {
        self.dir.join("private")
    }
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("logs").join("app.log")
    }
    pub(super) fn old_log(&self) -> PathBuf {
        self.dir.join("logs").join("app.log.1")
    }
    pub(super) fn shim_log(&self) -> PathBuf {
        self.dir.join("logs").join("shim.log")
    }

    pub(super) fn read_record(&self) -> Result<Option<Record>, EngineError> {
        read_versioned(&self.record())
    }
    pub(super) fn read_desired(&self) -> Result<Desired, EngineError> {
        Ok(read_versioned(&self.desired())?.unwrap_or_else(Desired::running))
    }
    pub(super) fn read_status(&self) -> Result<Option<Status>, EngineError> {
        read_versioned(&self.status())
    }
    /// Whether it is frozen stays as it is: one that stands still is stopped as it stands. So does that it never began.
    pub(super) fn want(&self, run: bool) -> Result<(), EngineError> {
        let before = self.read_desired().ok();
        let prepared_until_ms = before.as_ref().and_then(|d| d.prepared_until_ms).filter(|_| !run);
        let freeze = before.and_then(|d| d.freeze);
        write_json(&self.desired(), &Desired { run, freeze, prepared_until_ms, ..Desired::running() }, true)
    }

    /// Whether a shim holds this directory.
    pub(super) fn is_held(&self) -> Result<bool, EngineError> {
        let path = self.lock();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(EngineError::at("open", &path)(e)),
        };
        // Shared, so that two who ask at once do not take each other for a shim.
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(e)) => Err(EngineError::at("lock", &path)(e)),
        }
    }

    /// The shim's own hold, for its whole life. One who merely asks holds it for microseconds: hence the short, bounded retry.
    pub(super) fn hold(&self) -> Result<Option<File>, EngineError> {
        let path = self.lock();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(EngineError::at("open", &path))?;
        for _ in 0..50 {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(2)),
                Err(TryLockError::Error(e)) => return Err(EngineError::at("lock", &path)(e)),
            }
        }
        Ok(None)
    }

    /// Tells the shim to look at `desired.json` now; without a shim there is nobody to tell.
    pub(super) fn wake_shim(&self) {
        let fifo = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(self.wake());
        if let Ok(mut fifo) = fifo {
            // A full pipe wakes it as well.
            let _ = fifo.write_all(b"!");
        }
    }
}

/// CLOCK_BOOTTIME, which goes on during suspend, as the daemon's clock does.
pub(super) fn boot_now_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    // The call cannot fail on a kernel that has the clock (2.6.39 and later).
    now.map_or(0, |t| {
        u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000 + u64::try_from(t.tv_nsec()).unwrap_or(0) / 1_000_000
    })
}

pub(super) fn wall_now() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// `None` if there is no such file.
pub(super) fn read_small(path: &Path) -> Result<Option<String>, EngineError> {
    match fs::metadata(path) {
        Ok(m) if m.len() > FILE_BYTES_MAX => {
            Err(EngineError::Damaged { path: path.into(), problem: format!("larger than {FILE_BYTES_MAX} bytes") })
        }
        Ok(_) => match fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(EngineError::at("read", path)(e)),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(EngineError::at("read", path)(e)),
    }
}

pub(super) fn read_versioned<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, EngineError> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let Some(text) = read_small(path)? else { return Ok(None) };
    let damaged = |e: serde_json::Error| EngineError::Damaged { path: path.into(), problem: e.to_string() };
    let head: Head = serde_json::from_str(&text).map_err(damaged)?;
    if head.version > VERSION {
        return Err(EngineError::Format { path: path.into(), found: head.version, known: VERSION });
    }
    serde_json::from_str(&text).map(Some).map_err(damaged)
}

/// Replaces the file whole. `durable` also survives the loss of power; statuses need not, they die with the processes.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T, durable: bool) -> Result<(), EngineError> {
    let text = serde_json::to_vec(value)
        .map_err(|e| EngineError::Damaged { path: path.into(), problem: format!("cannot be written: {e}") })?;
    let mut next = path.as_os_str().to_owned();
    next.push(".new");
    let next = PathBuf::from(next);
    let put = || -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&next)?;
        file.write_all(&text)?;
        if durable {
            file.sync_data()?;
        }
        fs::rename(&next, path)?;
        if durable && let Some(parent) = path.parent() {
            File::open(parent)?.sync_data()?;
        }
        Ok(())
    };
    put().map_err(EngineError::at("write", path))
}

pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), EngineError> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(EngineError::at("create", path)(e)),
        _ => {}
    }
    // Not at creation: the umask must not decide it.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(EngineError::at("set the mode of", path))
}

/// The directory that an application without a view of its own may fill; its own uid owns it. The application could have put a link
/// in place of anything in it, so each step goes by a handle to the directory above.
pub(super) fn make_private(layout: &Layout, uid: Option<u32>, gid: Option<u32>) -> Result<(), EngineError> {
    use nix::sys::stat::{Mode, fchmod, mkdirat};
    use nix::unistd::{Gid, Uid, fchown};
    let home = layout.private();
    let make = || -> io::Result<()> {
        let mut above = File::open(&layout.dir)?;
        for name in ["private", "tmp"] {
            match mkdirat(&above, name, Mode::S_IRWXU) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(e) => return Err(e.into()),
            }
            let flags = nix::libc::O_NOFOLLOW | nix::libc::O_DIRECTORY;
            let by_handle = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&above)));
            let dir = OpenOptions::new().read(true).custom_flags(flags).open(by_handle.join(name))?;
            fchown(&dir, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?;
            fchmod(&dir, Mode::S_IRWXU)?;
            above = dir;
        }
        Ok(())
    };
    make().map_err(EngineError::at("make", &home))
}

/// Gone already is as good.
pub(super) fn delete_tree(path: &Path) -> Result<(), EngineError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(EngineError::at("delete", path)(e)),
        _ => Ok(()),
    }
}
