//! The cell of a process that handles a tenant's bytes.
//!
//! Enters: a process that this program started with a line to its parent as standard input. Leaves: the same process, with the tenant's
//! ids, a root directory that holds the tenant's things and nothing else, an empty network namespace, no capabilities, few system calls.
//! Always holds: no byte of a tenant is looked at before all of that is in force; what could not be put in force ends the process.
//!
//! Where the daemon is not root there are no ids and no view to change: the process is then apart, and bounded, and no more.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, dup2_stdin, pivot_root, setgroups, setresgid, setresuid, setsid};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
const LINE_BYTES_MAX: usize = 64 << 10;
const FILES_MAX: u64 = 256;
/// Where the new root is put together: any directory that every host has; the old one is out of sight afterwards.
const ROOTS: [&str; 3] = ["/run", "/tmp", "/mnt"];
/// What libraries look for: randomness, and which boot this is.
const FILES: [&str; 2] = ["/dev/urandom", "/proc/sys/kernel/random/boot_id"];

/// From the daemon, before anything else is said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub version: u32,
    /// None: those of the daemon.
    pub ids: Option<(u32, u32)>,
    /// None: the daemon's view.
    pub view: Option<Vec<(PathBuf, PathBuf)>>,
    /// Directories of the view that are empty in it, by the paths that they have there.
    #[serde(default)]
    pub hidden: Vec<PathBuf>,
    pub memory_bytes_max: u64,
    pub file_bytes_max: u64,
}

impl Cell {
    pub(crate) fn new(memory_bytes_max: u64, file_bytes_max: u64) -> Self {
        Self { version: VERSION, ids: None, view: None, hidden: Vec::new(), memory_bytes_max, file_bytes_max }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    Ready,
    Failed { why: String },
}

/// Goes into the cell that the parent describes, and gives the line to it. Call it first, from the only thread.
pub fn enter() -> Result<UnixStream, String> {
    let mut line = take_line()?;
    let cell: Cell = serde_json::from_slice(&read_line(&mut line)?).map_err(|e| format!("the cell: {e}"))?;
    let said = match close(&cell) {
        Ok(()) => Said::Ready,
        Err(ref why) => Said::Failed { why: why.clone() },
    };
    let mut text = serde_json::to_vec(&said).map_err(|e| e.to_string())?;
    text.push(b'\n');
    line.write_all(&text).map_err(|e| format!("the line: {e}"))?;
    match said {
        Said::Ready => Ok(line),
        Said::Failed { why } => Err(why),
    }
}

fn take_line() -> Result<UnixStream, String> {
    let fd = io::stdin().as_fd().try_clone_to_owned().map_err(|e| format!("the line: {e}"))?;
    let null = File::open("/dev/null").map_err(|e| format!("/dev/null: {e}"))?;
    dup2_stdin(&null).map_err(|e| format!("the line: {e}"))?;
    Ok(UnixStream::from(fd))
}

/// Byte by byte: what follows the line is not for us.
fn read_line(from: &mut impl Read) -> Result<Vec<u8>, String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LINE_BYTES_MAX {
        from.read_exact(&mut byte).map_err(|e| format!("the cell: {e}"))?;
        if byte[0] == b'\n' {
            return Ok(line);
        }
        line.push(byte[0]);
    }
    Err("the cell: its description is too long".into())
}

fn err(doing: impl std::fmt::Display) -> impl FnOnce(nix::errno::Errno) -> String {
    move |e| format!("{doing}: {}", e.desc())
}

fn close(cell: &Cell) -> Result<(), String> {
    if cell.version != VERSION {
        return Err(format!("a cell of version {} was asked for, this program makes version {VERSION}", cell.version));
    }
    close_strays().map_err(|e| format!("close what was inherited: {e}"))?;
    setsid().map_err(err("own session"))?;
    umask(Mode::from_bits_truncate(0o077));
    if let Some(view) = &cell.view {
        leave_all_but(view, &cell.hidden)?;
    }
    for (what, most) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, FILES_MAX),
        (Resource::RLIMIT_DATA, cell.memory_bytes_max),
        (Resource::RLIMIT_FSIZE, cell.file_bytes_max),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
    ] {
        setrlimit(what, most, most).map_err(err(format!("limit {what:?}")))?;
    }
    if let Some((uid, gid)) = cell.ids {
        caps::clear(None, caps::CapSet::Bounding).map_err(|e| format!("drop capabilities: {e}"))?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setgroups(&[]).map_err(err("clear groups"))?;
        setresgid(gid, gid, gid).map_err(err("change gid"))?;
        setresuid(uid, uid, uid).map_err(err("change uid"))?;
        if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
            return Err("the change of uid could be undone".into());
        }
    }
    // After the change of ids, which would undo it: it does not outlive the daemon, whatever became of it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(err("end with the daemon"))?;
    prctl::set_no_new_privs().map_err(err("no_new_privs"))?;
    calls::allow_few()
}

/// Whoever started the daemon may have left it descriptors that are handed on.
fn close_strays() -> io::Result<()> {
    let open = fs::read_dir("/proc/self/fd")?.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let open: Vec<i32> = open.collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // What this program opened itself is closed when a program is executed; what came through an execution is not.
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|l| i32::from_str_radix(l.strip_prefix("flags:")?.trim(), 8).ok());
        let inherited = flags.is_some_and(|flags| flags & nix::libc::O_CLOEXEC == 0);
        if inherited {
            nix::unistd::close(fd).map_err(io::Error::from)?;
        }
    }
    Ok(())
}

const NONE: Option<&str> = None;

fn leave_all_but(view: &[(PathBuf, PathBuf)], hidden: &[PathBuf]) -> Result<(), String> {
    let files = FILES.iter().map(|f| (PathBuf::from(f), PathBuf::from(f))).filter(|(f, _)| f.exists());
    let files: Vec<(PathBuf, PathBuf)> = files.collect();
    let away = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET;
    unshare(away).map_err(err("unshare"))?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(err("make mounts private"))?;
    // Held only now: what is held in the old namespace cannot be mounted in the new one.
    let mut sources = Vec::new();
    for (from, to) in view.iter().chain(&files) {
        sources.push((hold(from)?, to));
    }
    let root = ROOTS.iter().map(Path::new).find(|d| d.is_dir()).ok_or("there is none of /run, /tmp and /mnt")?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), root, Some("tmpfs"), plain, Some("size=64k,nr_inodes=64,mode=0755"))
        .map_err(err("make a root"))?;
    for (source, to) in sources {
        place(&source, &root.join(to.strip_prefix("/").unwrap_or(to)))?;
    }
    for path in hidden {
        let at = root.join(path.strip_prefix("/").unwrap_or(path));
        mount(Some("tmpfs"), &at, Some("tmpfs"), plain | MsFlags::MS_RDONLY, Some("size=4k,nr_inodes=1,mode=0755"))
            .map_err(err(format!("hide {}", path.display())))?;
    }
    chdir(root).map_err(err("enter the root"))?;
    pivot_root(".", ".").map_err(err("change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(err("leave the old root"))?;
    chdir("/").map_err(err("enter the root"))?;
    mount(NONE, "/", NONE, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | plain, NONE).map_err(err("close the root"))
}

/// The last step may be in a directory that a tenant writes.
fn hold(path: &Path) -> Result<File, String> {
    let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|e| format!("open {}: {e}", path.display()))?;
    match file.metadata() {
        Ok(meta) if meta.is_symlink() => Err(format!("{} is a link", path.display())),
        Ok(_) => Ok(file),
        Err(e) => Err(format!("look at {}: {e}", path.display())),
    }
}

fn place(source: &File, at: &Path) -> Result<(), String> {
    let io = |e: io::Error| format!("prepare {}: {e}", at.display());
    let dir = source.metadata().map_err(io)?.is_dir();
    if dir {
        fs::create_dir_all(at).map_err(io)?;
    } else {
        at.parent().map_or(Ok(()), fs::create_dir_all).map_err(io)?;
        File::create(at).map_err(io)?;
    }
    let from = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    let doing = || format!("mount {}", at.display());
    mount(Some(&from), at, NONE, MsFlags::MS_BIND, NONE).map_err(err(doing()))?;
    // A device file must stay one.
    let more = if dir { MsFlags::MS_NODEV } else { MsFlags::MS_RDONLY };
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | more;
    mount(NONE, at, NONE, flags, NONE).map_err(err(doing()))
}

/// The system calls that reading and writing files, SQLite and memory need. Everything else answers EPERM: no sockets, no processes,
/// no programs, no mounts, no signals to others.
mod calls {
    use nix::libc;
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        TargetArch,
    };
    use std::collections::BTreeMap;

    const ALLOWED: &[libc::c_long] = &[
        libc::SYS_brk,
        libc::SYS_clock_getres,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_close,
        libc::SYS_copy_file_range,
        libc::SYS_dup,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_fadvise64,
        libc::SYS_fallocate,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_fdatasync,
        libc::SYS_flock,
        libc::SYS_fstat,
        libc::SYS_fstatfs,
        libc::SYS_fsync,
        libc::SYS_ftruncate,
        libc::SYS_futex,
        libc::SYS_getcwd,
        libc::SYS_getdents64,
        libc::SYS_getegid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getpid,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_getuid,
        // Second names of a copy's files. Nothing but the tenant's own directories is there to be named.
        libc::SYS_linkat,
        libc::SYS_lseek,
        libc::SYS_madvise,
        libc::SYS_mkdirat,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_nanosleep,
        libc::SYS_newfstatat,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_ppoll,
        libc::SYS_pread64,
        libc::SYS_preadv,
        libc::SYS_pwrite64,
        libc::SYS_pwritev,
        libc::SYS_read,
        libc::SYS_readlinkat,
        libc::SYS_readv,
        libc::SYS_recvfrom,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_yield,
        libc::SYS_sendto,
        libc::SYS_shutdown,
        libc::SYS_sigaltstack,
        libc::SYS_statx,
        libc::SYS_symlinkat,
        libc::SYS_sync_file_range,
        // Of a copy with many changed files, at one go.
        libc::SYS_syncfs,
        libc::SYS_umask,
        libc::SYS_unlinkat,
        libc::SYS_utimensat,
        libc::SYS_write,
        libc::SYS_writev,
    ];
    #[cfg(target_arch = "x86_64")]
    const ALLOWED_HERE: &[libc::c_long] = &[
        libc::SYS_access,
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_getdents,
        libc::SYS_lchown,
        libc::SYS_lstat,
        libc::SYS_mkdir,
        libc::SYS_open,
        libc::SYS_poll,
        libc::SYS_readlink,
        libc::SYS_rename,
        libc::SYS_rmdir,
        libc::SYS_stat,
        libc::SYS_symlink,
        libc::SYS_time,
        libc::SYS_unlink,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const ALLOWED_HERE: &[libc::c_long] = &[];

    /// Of fcntl: flags and locks. Not the owner of a descriptor, to whom the kernel sends the signal that its holder chooses.
    const FCNTL: &[libc::c_int] = &[
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_GETLK,
        libc::F_SETLK,
        libc::F_SETLKW,
        libc::F_OFD_GETLK,
        libc::F_OFD_SETLK,
        libc::F_OFD_SETLKW,
    ];

    fn program() -> Result<BpfProgram, String> {
        let fault = |e: seccompiler::BackendError| format!("seccomp: {e}");
        let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(fault)?;
        let mut rules: BTreeMap<i64, Vec<_>> = ALLOWED.iter().chain(ALLOWED_HERE).map(|c| (*c, Vec::new())).collect();
        for command in FCNTL {
            let is =
                SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(command.unsigned_abs()));
            let rule = is.and_then(|is| SeccompRule::new(vec![is])).map_err(fault)?;
            rules.entry(libc::SYS_fcntl).or_default().push(rule);
        }
        let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        SeccompFilter::new(rules, refused, SeccompAction::Allow, arch).and_then(BpfProgram::try_from).map_err(fault)
    }

    pub(super) fn allow_few() -> Result<(), String> {
        seccompiler::apply_filter(&program()?).map_err(|e| format!("seccomp: {e}"))
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn the_filter_compiles_and_leaves_out_what_leads_away() {
            use super::*;
            assert!(program().unwrap().len() < 4_096);
            for call in [
                libc::SYS_socket,
                libc::SYS_connect,
                libc::SYS_sendmsg,
                libc::SYS_recvmsg,
                libc::SYS_execve,
                libc::SYS_clone,
                libc::SYS_ptrace,
                libc::SYS_mount,
                libc::SYS_kill,
                libc::SYS_mknodat,
                libc::SYS_ioctl,
            ] {
                assert!(!ALLOWED.contains(&call) && !ALLOWED_HERE.contains(&call), "{call}");
            }
        }
    }
}
