//! The instance's own view of the host: namespaces, and mounts that show its things and hide everybody else's.

use super::launch::{Bind, View};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const NONE: Option<&str> = None;

fn err(doing: impl std::fmt::Display) -> impl FnOnce(nix::errno::Errno) -> String {
    move |e| format!("{doing}: {}", e.desc())
}

/// The namespaces besides the pid namespace, in which the caller must already be the first process.
pub(super) fn leave_host(host_name: &str) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS).map_err(err("unshare"))?;
    nix::unistd::sethostname(host_name).map_err(err("set the host name"))?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(err("make mounts private"))
}

fn hold(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_PATH)
        .open(path)
        .map_err(|e| format!("open {}: {e}", path.display()))
}

/// Reaches what `hold` has open, also after something else was mounted over its path.
fn held(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn bind(from: &File, to: &Path, flags: MsFlags) -> Result<(), String> {
    let what = format!("mount {}", to.display());
    mount(Some(&held(from)), to, NONE, MsFlags::MS_BIND, NONE).map_err(err(&what))?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | flags;
    mount(NONE, to, NONE, flags, NONE).map_err(err(&what))
}

fn cover(at: &Path, options: &str) -> Result<(), String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options)).map_err(err(format!("cover {}", at.display())))
}

/// Mounts the view. Sources are opened before anything is covered, because they may lie below what is.
pub(super) fn mount_view(view: &View) -> Result<(), String> {
    let sources: Vec<(&Bind, File)> =
        view.binds.iter().map(|b| Ok((b, hold(&b.from)?))).collect::<Result<_, String>>()?;
    let tmp = hold(&view.tmp)?;

    // Deepest last: a covered parent would take its children's mount points away, and hides them anyway.
    let mut hide: Vec<&PathBuf> = view.hide.iter().filter(|p| p.is_dir()).collect();
    hide.sort();
    let mut covered: Vec<&Path> = Vec::new();
    for dir in hide {
        if !covered.iter().any(|c| dir.starts_with(c)) {
            cover(dir, "size=4k,nr_inodes=2,mode=0700")?;
            covered.push(dir);
        }
    }
    for dir in ["/tmp", "/var/tmp"].map(Path::new) {
        if dir.is_dir() {
            bind(&tmp, dir, MsFlags::empty())?;
        }
    }
    if Path::new("/dev/shm").is_dir() {
        cover(Path::new("/dev/shm"), "size=64m,mode=1777")?;
    }

    // Also hides the sockets of the host's own daemons.
    cover(Path::new("/run"), "size=64k,mode=0755")?;
    for (part, source) in sources {
        fs::create_dir_all(&part.to).map_err(|e| format!("create {}: {e}", part.to.display()))?;
        bind(&source, &part.to, if part.read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() })?;
    }
    mount(NONE, "/run", NONE, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV, NONE)
        .map_err(err("close /run"))?;

    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE).map_err(err("mount /proc"))
}

/// For the probe: whether such mounts are allowed at all.
pub(super) fn try_mounts() -> Result<(), String> {
    cover(Path::new("/run"), "size=64k,mode=0755")
}
