//! The instance's own view of the host: namespaces, and a root of its own.
//!
//! Enters: a plan's view. Leaves: this process with a root that holds the host's programs, read-only, and the instance's own things.
//! Always holds: what is not named here is not there. Nothing of the old root can be reached, nothing below the daemon's directories is
//! seen but what was bound on purpose, and what can be written is memory of the instance or its own data, never a copy of another cloud's.

mod dev;
mod etc;
pub(super) mod late;
pub(super) mod layer;
mod scratch;

use super::launch::{Bind, View};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

const NONE: Option<&str> = None;
/// The new root is built here, before it becomes `/`; in our own mount namespace, so the host's stays as it is.
const ROOT: &str = "/run";
const ROOT_OPTIONS: &str = "size=8m,nr_inodes=1024,mode=0755";
/// Programs and libraries: links where the host has links.
const SYSTEM: [&str; 8] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec"];
/// An empty directory and an empty file that nobody can change, to be put over others.
const EMPTY_DIR: &str = "run/pumasi/.nothing/dir";
const EMPTY_FILE: &str = "run/pumasi/.nothing/file";

/// Of memory that an instance writes to as files.
const BYTES_PER_INODE: u64 = 4_096;
const INODES_MIN: u64 = 1_024;
const INODES_MAX: u64 = 65_536;

/// Told to whoever may read /proc: the host's memory, keys, timers, symbols, and what its hardware is.
const PROC_MASKED: [&str; 20] = [
    "acpi",
    "asound",
    "bus",
    "config.gz",
    "driver",
    "fs",
    "irq",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "latency_stats",
    "modules",
    "sched_debug",
    "scsi",
    "slabinfo",
    "sysrq-trigger",
    "sysvipc",
    "timer_list",
];

fn err(doing: impl std::fmt::Display) -> impl FnOnce(nix::errno::Errno) -> String {
    move |e| format!("{doing}: {}", e.desc())
}

fn io_err(doing: impl std::fmt::Display) -> impl FnOnce(io::Error) -> String {
    move |e| format!("{doing}: {e}")
}

/// The namespaces besides the pid namespace, in which the caller must already be the first process.
pub(super) fn leave_host(host_name: &str) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS).map_err(err("unshare"))?;
    nix::unistd::sethostname(host_name).map_err(err("set the host name"))?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(err("make mounts private"))
}

/// Where a path of the new root is while it is being built.
fn new_root(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    Path::new(ROOT).join(path.strip_prefix("/").unwrap_or(path))
}

fn hold(path: &Path, more_flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH | more_flags).open(path)
}

/// Reaches what `hold` has open, also after something else was mounted over its path.
fn held(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Something of the host, opened before the new root covers its path.
struct Source {
    file: File,
    from: PathBuf,
    to: PathBuf,
    flags: MsFlags,
}

impl Source {
    fn open(from: &Path, to: &Path, flags: MsFlags, open_flags: i32) -> Result<Self, String> {
        let file = hold(from, open_flags).map_err(io_err(format!("open {}", from.display())))?;
        Ok(Self { file, from: from.into(), to: to.into(), flags })
    }

    /// A link in place of the directory would show the instance what the link's owner chose.
    fn own(bind: &Bind) -> Result<Self, String> {
        let mut flags = MsFlags::empty();
        if bind.read_only {
            flags |= MsFlags::MS_RDONLY;
        }
        if bind.no_exec {
            flags |= MsFlags::MS_NOEXEC;
        }
        Self::open(&bind.from, &bind.to, flags, nix::libc::O_NOFOLLOW | nix::libc::O_DIRECTORY)
    }

    fn mount(&self) -> Result<(), String> {
        let to = new_root(&self.to);
        let what = format!("mount {}", self.to.display());
        let is_dir = self.file.metadata().map_err(io_err(&what))?.is_dir();
        make_point(&to, is_dir).map_err(io_err(&what))?;
        bind(&self.file, &to, self.flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV)
    }
}

fn make_point(at: &Path, is_dir: bool) -> io::Result<()> {
    if at.symlink_metadata().is_ok() {
        return Ok(());
    }
    if is_dir {
        return fs::create_dir_all(at);
    }
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(at).map(drop)
}

fn bind(from: &File, to: &Path, flags: MsFlags) -> Result<(), String> {
    let what = format!("mount {}", to.display());
    mount(Some(&held(from)), to, NONE, MsFlags::MS_BIND, NONE).map_err(err(&what))?;
    mount(NONE, to, NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, NONE).map_err(err(&what))
}

/// Without flags of its own: those of the mount that `from` lies on.
fn bind_as_is(from: &Path, to: &Path) -> Result<(), String> {
    mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE).map_err(err(format!("mount {}", to.display())))
}

/// Makes the view. The paths of the host are opened first, because the new root is built over one of its directories.
pub(super) fn mount_view(view: &View) -> Result<(), String> {
    // What is made here is to be read by another user.
    umask(Mode::from_bits_truncate(0o022));
    let own = view.binds.iter().map(Source::own).collect::<Result<Vec<_>, _>>()?;
    let layers = view.layers.iter().map(layer::open).collect::<Result<Vec<_>, _>>()?;
    let system = system_sources()?;
    let etc = etc::Etc::read(view)?;
    let more = with_mounts_below(&view.more)?;
    let devices = dev::hold_devices()?;

    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), ROOT, Some("tmpfs"), flags, Some(ROOT_OPTIONS)).map_err(err("mount the new root"))?;
    make_nothing().map_err(io_err("make the new root"))?;
    system.mount()?;
    etc.write()?;
    dev::make(&devices)?;
    scratch::make(view)?;
    more.iter().try_for_each(Source::mount)?;
    hide(&view.hide, system.binds.iter().chain(&more))?;
    own.iter().try_for_each(Source::mount)?;
    let made = view.points.iter().try_for_each(|point| make_point(&new_root(point), true));
    made.map_err(io_err("make the new root"))?;
    layers.iter().zip(&view.layers).try_for_each(|(lower, layer)| layer::mount_first(lower, layer))?;
    mount_proc()?;
    enter()
}

struct System {
    binds: Vec<Source>,
    links: Vec<(PathBuf, PathBuf)>,
}

fn system_sources() -> Result<System, String> {
    let mut system = System { binds: Vec::new(), links: Vec::new() };
    let mut tops = Vec::new();
    for path in SYSTEM.map(|name| Path::new("/").join(name)) {
        match path.symlink_metadata() {
            Ok(meta) if meta.is_symlink() => {
                let target = path.read_link().map_err(io_err(format!("read {}", path.display())))?;
                system.links.push((path, target));
            }
            Ok(meta) if meta.is_dir() => tops.push(path),
            _ => {}
        }
    }
    system.binds = with_mounts_below(&tops)?;
    Ok(system)
}

/// A bind takes one mount: what is mounted below (a second disk at /usr/local) comes separately, so that it is read-only as well.
fn with_mounts_below(tops: &[PathBuf]) -> Result<Vec<Source>, String> {
    let mounts = fs::read("/proc/self/mountinfo").map_err(io_err("read /proc/self/mountinfo"))?;
    let points = mount_points(&mounts);
    let mut sources = Vec::new();
    for top in tops {
        sources.push(Source::open(top, top, MsFlags::MS_RDONLY, 0)?);
        for point in points.iter().filter(|p| *p != top && p.starts_with(top)) {
            // One that cannot be opened now would not be seen by the instance either.
            if let Ok(source) = Source::open(point, point, MsFlags::MS_RDONLY, nix::libc::O_NOFOLLOW) {
                sources.push(source);
            }
        }
    }
    Ok(sources)
}

/// The fifth field, in which the kernel writes blanks and backslashes as octal numbers.
fn mount_points(mountinfo: &[u8]) -> Vec<PathBuf> {
    let field = |line: &[u8]| line.split(|b| *b == b' ').nth(4).map(unescape);
    let mut points: Vec<PathBuf> = mountinfo.split(|b| *b == b'\n').filter_map(field).collect();
    points.sort();
    points.dedup();
    points
}

fn unescape(text: &[u8]) -> PathBuf {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|t| u8::from_str_radix(std::str::from_utf8(t).ok()?, 8).ok());
        match octal.filter(|_| *first == b'\\') {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

impl System {
    fn mount(&self) -> Result<(), String> {
        for (link, target) in &self.links {
            symlink(target, new_root(link)).map_err(io_err(format!("link {}", link.display())))?;
        }
        self.binds.iter().try_for_each(Source::mount)
    }
}

fn make_nothing() -> io::Result<()> {
    for dir in ["proc", "tmp", "var", "run/pumasi", EMPTY_DIR] {
        fs::create_dir_all(new_root(dir))?;
    }
    symlink("/tmp", new_root("var/tmp"))?;
    symlink("/run", new_root("var/run"))?;
    File::create(new_root(EMPTY_FILE)).map(drop)
}

/// The daemon's directories may lie in what is shown, below /usr or /opt. Elsewhere there is nothing of the host to hide.
fn hide<'a>(dirs: &[PathBuf], shown: impl Iterator<Item = &'a Source> + Clone) -> Result<(), String> {
    for dir in dirs {
        if let Some(source) = shown.clone().find(|s| s.from.starts_with(dir)) {
            return Err(format!(
                "{} lies in the daemon's {}, which no instance may see",
                source.from.display(),
                dir.display()
            ));
        }
        let at = new_root(dir);
        if shown.clone().any(|s| dir.starts_with(&s.from)) && at.is_dir() {
            bind_as_is(&new_root(EMPTY_DIR), &at)?;
        }
    }
    Ok(())
}

fn mount_proc() -> Result<(), String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let at = new_root("proc");
    mount(Some("proc"), &at, Some("proc"), flags, Some("hidepid=2")).map_err(err("mount /proc"))?;
    let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(NONE, &at, NONE, flags, NONE).map_err(err("close /proc"))?;
    for name in PROC_MASKED {
        let at = at.join(name);
        if let Ok(meta) = at.symlink_metadata() {
            let empty = if meta.is_dir() { EMPTY_DIR } else { EMPTY_FILE };
            bind_as_is(&new_root(empty), &at)?;
        }
    }
    Ok(())
}

/// The new root becomes `/`, read-only; the old one is gone with everything mounted in it.
fn enter() -> Result<(), String> {
    std::env::set_current_dir(ROOT).map_err(io_err("enter the new root"))?;
    nix::unistd::pivot_root(".", ".").map_err(err("change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(err("let go of the host's root"))?;
    std::env::set_current_dir("/").map_err(io_err("enter the new root"))?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(NONE, "/", NONE, flags, NONE).map_err(err("close the new root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        let text =
            b"24 1 8:1 / / rw - ext4 /dev/sda rw\n25 24 8:2 / /usr/a\\040b\\134c rw shared:1 - ext4 /dev/sdb rw\n";
        assert_eq!(mount_points(text), [PathBuf::from("/"), PathBuf::from("/usr/a b\\c")]);
        assert_eq!(unescape(b"a\\04"), PathBuf::from("a\\04"));
    }
}
