//! The two stages between a shim and an application. What a person runs in an instance comes by the second of them as well ([`session`]).
//!
//! *Init* is the first process of the instance's pid namespace: it makes the view, starts the application, forwards signals, reaps, and
//! takes everything along when it ends. *App* gives up every right, then becomes the application.
//! Always holds: no application runs without its limits; when the shim or init dies by whatever signal, so does all below.

use super::launch::{Plan, find_program};
use super::{handles, rights, seccomp, session, trial, view};
use crate::Exit;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, dup2_stdin, fchown, getppid, setsid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Which stage `instance-exec` is; without it, init.
pub(super) const STAGE: &str = "PUMASI_STAGE";
pub(super) const OWN_PROGRAM: &str = "/proc/self/exe";

const FILES_MAX: u64 = 4_096;
/// Of the highest: when the whole host is short of memory, applications go before what keeps them.
const OOM_SCORE: &str = "500";

/// What init says to the shim, and app to init; one line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// From now on the death of the parent is noticed: send the plan.
    Hello,
    /// `for_good`: another try would fail in the same way.
    Failed {
        why: String,
        for_good: bool,
    },
    /// It stands before its first instruction, and begins when it is told to.
    Prepared,
    Started,
    Exited(Exit),
}

pub(super) const SAY_GO: &str = "go\n";
pub(super) const SAY_TERM: &str = "term\n";
pub(super) const SAY_KILL: &str = "kill\n";

pub(super) fn send<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Entry of `instance-exec --dir DIR`; only shims call it.
pub fn instance_exec_main(dir: &Path) -> ExitCode {
    let stage = std::env::var(STAGE).unwrap_or_default();
    let done = match stage.as_str() {
        "trial" => trial::answer(),
        "app" => app(),
        session::STAGE => session::keep(dir),
        _ => init(dir),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("instance-exec: {why}");
            ExitCode::from(70)
        }
    }
}

/// Standard input is the line to the parent; the application gets an empty one instead.
pub(super) fn take_control() -> Result<UnixStream, String> {
    let fd = io::stdin().as_fd().try_clone_to_owned().map_err(|e| format!("control: {e}"))?;
    let null = File::open("/dev/null").map_err(|e| format!("/dev/null: {e}"))?;
    dup2_stdin(&null).map_err(|e| format!("control: {e}"))?;
    Ok(UnixStream::from(fd))
}

fn init(dir: &Path) -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("parent-death signal: {e}"))?;
    let mut control = take_control()?;
    // A shim that died before the line above cannot answer this.
    send(&mut control, &Event::Hello).map_err(|e| format!("control: {e}"))?;
    let mut orders = BufReader::new(control.try_clone().map_err(|e| format!("control: {e}"))?);
    let plan: Plan = read_plan(&mut orders)?;
    let confined = plan.view.is_some();

    let started = Outside::open(&plan).and_then(|outside| {
        prepare(&plan)?;
        start_app(dir, &plan, &outside, None, &mut |prepared| match send(&mut control, &prepared) {
            Ok(()) => is_told_to_go(&mut orders),
            Err(_) => false,
        })
    });
    let app = match started {
        Ok(Some(app)) => app,
        // In a pid namespace the application's stage goes with its init.
        Ok(None) => return Ok(()),
        Err((why, for_good)) => {
            let _ = send(&mut control, &Event::Failed { why, for_good });
            return Ok(());
        }
    };
    send(&mut control, &Event::Started).map_err(|e| format!("control: {e}"))?;

    let stopping = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stopping);
    std::thread::spawn(move || {
        obey(&mut orders, app, &seen);
        leave_nothing(app, confined);
        std::process::exit(0);
    });
    reap(app, &mut control, &stopping);
    leave_nothing(app, confined);
    Ok(())
}

pub(super) fn read_plan<T: DeserializeOwned>(from: &mut impl BufRead) -> Result<T, String> {
    let mut line = String::new();
    from.read_line(&mut line).map_err(|e| format!("plan: {e}"))?;
    serde_json::from_str(&line).map_err(|e| format!("plan: {e}"))
}

/// What of the host init needs after it has left its root, opened before.
pub(super) struct Outside {
    cgroup: Vec<File>,
    oom_score: File,
}

impl Outside {
    pub(super) fn open(plan: &Plan) -> Result<Self, (String, bool)> {
        let open = |path: &Path| {
            File::options().write(true).open(path).map_err(|e| (format!("open {}: {e}", path.display()), false))
        };
        let cgroup = plan.cgroup_entrances.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
        Ok(Self { cgroup, oom_score: open(Path::new("/proc/self/oom_score_adj"))? })
    }

    /// A preference only, inherited by what is started next: its own limit ends it before the host is short of memory.
    fn score(&self, score: &str) {
        let _ = (&self.oom_score).write_all(score.as_bytes());
    }
}

fn prepare(plan: &Plan) -> Result<(), (String, bool)> {
    match &plan.view {
        Some(v) => view::leave_host(&plan.host_name).and_then(|()| view::mount_view(v)).map_err(|e| (e, false)),
        // Orphans of the application come to init instead of escaping to the host's init.
        None => prctl::set_child_subreaper(true).map_err(|e| (format!("subreaper: {e}"), false)),
    }
}

/// Whether one that stands before its first instruction begins; else it is to end.
fn is_told_to_go(orders: &mut impl BufRead) -> bool {
    let mut line = String::new();
    orders.read_line(&mut line).is_ok() && line == SAY_GO
}

/// `input`: its standard input, if it is to have one. `waits`: told of one that stands before its first instruction, says whether it
/// begins. None: it does not.
pub(super) fn start_app(
    dir: &Path,
    plan: &Plan,
    outside: &Outside,
    input: Option<OwnedFd>,
    waits: &mut dyn FnMut(Event) -> bool,
) -> Result<Option<Pid>, (String, bool)> {
    let soon = |e: io::Error| (format!("start the application: {e}"), false);
    let (mut ours, theirs) = UnixStream::pair().map_err(soon)?;
    outside.score(OOM_SCORE);
    let child = Command::new(OWN_PROGRAM)
        .arg0("pumasi")
        .args(["instance-exec", "--dir"])
        .arg(dir)
        .env_clear()
        .env(STAGE, "app")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .map_err(soon);
    outside.score("0");
    let mut child = child?;
    // It waits for the plan: nothing of the application happens outside of its limits.
    for mut entrance in &outside.cgroup {
        write!(entrance, "{}", child.id()).map_err(soon)?;
    }
    if plan.view.is_some() && plan.capabilities {
        rights::keep_only_signals().map_err(|e| (e, false))?;
    }
    handles::send(&ours, input.as_slice()).map_err(soon)?;
    drop(input);
    send(&mut ours, plan).map_err(soon)?;
    // Its end closes when it has become the application.
    let mut failed = Err(("the application's stage ended without a word".to_owned(), false));
    let mut say = ours.try_clone().map_err(soon)?;
    for line in BufReader::new(ours).lines() {
        match line.ok().and_then(|l| serde_json::from_str(&l).ok()) {
            Some(Event::Hello) => failed = Ok(()),
            Some(Event::Prepared) => {
                if !waits(Event::Prepared) {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Ok(None);
                }
                // One that ended meanwhile is found by what it does not say.
                let _ = say.write_all(SAY_GO.as_bytes());
            }
            Some(Event::Failed { why, for_good }) => failed = Err((why, for_good)),
            _ => {}
        }
    }
    failed?;
    i32::try_from(child.id()).map(|id| Some(Pid::from_raw(id))).map_err(|e| (e.to_string(), false))
}

/// Returns when everything is to end: told so, or the shim is gone.
pub(super) fn obey(orders: &mut impl BufRead, app: Pid, stopping: &AtomicBool) {
    let mut line = String::new();
    loop {
        line.clear();
        match orders.read_line(&mut line) {
            Ok(n) if n > 0 && line == SAY_TERM => {
                stopping.store(true, Ordering::SeqCst);
                // To the whole group: what a script started must hear it too.
                let _ = kill(Pid::from_raw(-app.as_raw()), Signal::SIGTERM);
            }
            _ => return,
        }
    }
}

/// Returns when the application ended; while stopping, when everything it left behind has ended as well.
pub(super) fn reap(app: Pid, control: &mut UnixStream, stopping: &AtomicBool) {
    loop {
        let ended = match waitpid(None::<Pid>, None) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, Exit { code: Some(code), ..Exit::default() }),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit { signal: Some(signal as i32), ..Exit::default() }),
            Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
        };
        if ended.0 == app {
            let _ = send(control, &Event::Exited(ended.1));
            if !stopping.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// In a pid namespace the kernel kills the rest as soon as init ends. Without one: the group, then every descendant, which as orphans
/// are init's own children.
pub(super) fn leave_nothing(app: Pid, confined: bool) {
    if confined {
        return;
    }
    let until = Instant::now() + Duration::from_secs(2);
    let _ = kill(Pid::from_raw(-app.as_raw()), Signal::SIGKILL);
    loop {
        let me = std::process::id();
        // Children are listed by the thread that made or adopted them.
        let tasks = fs::read_dir(format!("/proc/{me}/task")).into_iter().flatten().flatten();
        let children: Vec<i32> = tasks
            .filter_map(|t| fs::read_to_string(t.path().join("children")).ok())
            .flat_map(|c| c.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>())
            .collect();
        for pid in &children {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(*pid), None);
        }
        if children.is_empty() || Instant::now() > until {
            return;
        }
    }
}

fn app() -> Result<(), String> {
    let parent = getppid();
    let mut control = take_control()?;
    // First of all, before a reader could take more than it was asked for.
    if let Some(input) = handles::receive(&control).map_err(|e| format!("control: {e}"))?.into_iter().next() {
        dup2_stdin(&input).map_err(|e| format!("standard input: {e}"))?;
    }
    let mut orders = BufReader::new(control.try_clone().map_err(|e| format!("control: {e}"))?);
    let plan: Plan = read_plan(&mut orders)?;
    let ready = give_up_rights(&plan, &mut control, parent).and_then(|()| match plan.prepared {
        true => wait_for_go(&mut control, &mut orders),
        false => Ok(()),
    });
    drop(orders);
    let (why, for_good) = match ready {
        Ok(()) => (become_app(&plan), true),
        Err(why) => (why, false),
    };
    let _ = send(&mut control, &Event::Failed { why, for_good });
    Ok(())
}

/// As the application will be, but for its first instruction.
fn wait_for_go(control: &mut UnixStream, orders: &mut impl BufRead) -> Result<(), String> {
    send(control, &Event::Prepared).map_err(|e| format!("control: {e}"))?;
    if is_told_to_go(orders) { Ok(()) } else { Err("it was never told to begin".into()) }
}

fn give_up_rights(plan: &Plan, control: &mut UnixStream, parent: Pid) -> Result<(), String> {
    let err = |doing: &'static str| move |e: nix::errno::Errno| format!("{doing}: {}", e.desc());
    setsid().map_err(err("own session"))?;
    if plan.session == Some(session::Kind::Terminal) {
        rustix::process::ioctl_tiocsctty(io::stdin()).map_err(|e| format!("take the terminal: {e}"))?;
    }
    let limit = |what, most: u64| setrlimit(what, most, most).map_err(err("rlimit"));
    limit(Resource::RLIMIT_CORE, 0)?;
    limit(Resource::RLIMIT_FSIZE, plan.file_bytes_max)?;
    let (_, files) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).map_err(err("rlimit"))?;
    limit(Resource::RLIMIT_NOFILE, FILES_MAX.min(files))?;
    if plan.uid.is_some() {
        // Counted by uid: with the daemon's own uid it would count the daemon's processes.
        limit(Resource::RLIMIT_NPROC, u64::from(plan.tasks_max))?;
    }
    if plan.cgroup_entrances.is_empty() {
        limit(Resource::RLIMIT_DATA, plan.memory_max_bytes)?;
    }
    umask(Mode::from_bits_truncate(0o002));
    std::env::set_current_dir(&plan.cwd).map_err(|e| format!("enter {}: {e}", plan.cwd.display()))?;

    if let (Some(uid), Some(gid)) = (plan.uid, plan.gid) {
        // Programs open /dev/stdout by its name, and the pipe behind it would be root's.
        let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchown(io::stdout(), owner, group).map_err(err("give the output to the instance"))?;
        if plan.session.is_some() {
            fchown(io::stderr(), owner, group).map_err(err("give the output to the instance"))?;
            fchown(io::stdin(), owner, group).map_err(err("give the input to the instance"))?;
        }
        if plan.capabilities {
            rights::forbid_all()?;
        }
        rights::become_user(uid, gid)?;
    }
    // A change of uid takes it back, hence here; the line after it fails if init was gone before.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(err("parent-death signal"))?;
    send(control, &Event::Hello).map_err(|e| format!("control: {e}"))?;
    if getppid() != parent {
        return Err("init is gone".into());
    }
    // Its keepers go without huge pages and hand that on. A kernel that cannot never took them away.
    let _ = prctl::set_thp_disable(false);
    prctl::set_no_new_privs().map_err(err("no_new_privs"))?;
    if plan.seccomp {
        seccomp::apply()?;
    }
    Ok(())
}

/// Returns only if it could not.
fn become_app(plan: &Plan) -> String {
    let Some((name, arguments)) = plan.argv.split_first() else { return "command is empty".into() };
    let path = plan.env.get("PATH").map_or(super::launch::PATH, String::as_str);
    let program = match find_program(name, path) {
        Ok(program) => program,
        Err(why) => return format!("command[0]: {why}"),
    };
    let error = Command::new(&program).arg0(name).args(arguments).env_clear().envs(&plan.env).exec();
    format!("execute {}: {error}", program.display())
}
