//! What this host can isolate, found out by doing it: in a process that is thrown away, with a view as instances have it.

use super::exec::{self, send};
use super::launch::{self, View, find_program};
use super::{net, rights, seccomp, view};
use crate::{EngineError, Isolation};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const ANSWER_MS_MAX: u64 = 10_000;
const RUNTIMES: [&str; 10] = ["bash", "bun", "deno", "dotnet", "java", "node", "perl", "php", "python3", "ruby"];

/// To the process that tries, on its standard input.
#[derive(Debug, Serialize, Deserialize)]
struct Wish {
    uid: u32,
    view: View,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Found {
    pub isolation: Isolation,
    /// As an instance finds them; a link that leads out of its view is none.
    pub runtimes: Vec<String>,
}

pub(super) fn ask(
    executable: &Path,
    root: &Path,
    uid: u32,
    more: &[PathBuf],
    hide: &[PathBuf],
) -> Result<Found, EngineError> {
    let err = |e| EngineError::host(format!("try what this host can isolate, by {}", executable.display()))(e);
    let (mut ours, theirs) = UnixStream::pair().map_err(err)?;
    ours.set_read_timeout(Some(Duration::from_millis(ANSWER_MS_MAX))).map_err(err)?;
    let theirs = OwnedFd::from(theirs);
    let mut child = Command::new(executable)
        .args(["instance-exec", "--dir"])
        .arg(root)
        .env_clear()
        .env(exec::STAGE, "trial")
        .current_dir("/")
        .stdin(Stdio::from(theirs.try_clone().map_err(err)?))
        .stdout(Stdio::from(theirs))
        .stderr(Stdio::null())
        .spawn()
        .map_err(err)?;
    let wish = Wish { uid, view: launch::empty_view(more, hide, uid) };
    let mut line = String::new();
    let read = send(&mut ours, &wish).and_then(|()| BufReader::new(ours).read_line(&mut line));
    let _ = child.kill();
    let _ = child.wait();
    read.map_err(err)?;
    serde_json::from_str(&line).map_err(|e| err(io::Error::other(format!("it answered {line:?}: {e}"))))
}

/// The stage `trial` of `instance-exec`.
pub(super) fn answer() -> Result<(), String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|e| format!("wish: {e}"))?;
    let wish: Wish = serde_json::from_str(&line).map_err(|e| format!("wish: {e}"))?;
    let mut isolation = Isolation::default();
    let mut runtimes = Vec::new();
    let mut tell = |part: &str, tried: Result<(), String>| match tried {
        Ok(()) => true,
        Err(why) => {
            isolation.why.push(format!("{part}: {why}"));
            false
        }
    };
    let (mut namespaces, mut network, mut capabilities, mut own_uid) = (false, false, false, false);
    let mut layers = false;
    if geteuid().is_root() {
        layers = tell("layers over copies", view::layer::try_it());
        namespaces = tell("namespaces", enter_view(&wish.view));
        layers &= namespaces;
        network = namespaces && tell("network", net::try_it());
        runtimes = RUNTIMES.into_iter().filter(|r| find_program(r, launch::PATH).is_ok()).map(str::to_owned).collect();
        capabilities = tell("capabilities", rights::forbid_all());
        own_uid = tell("own uid", rights::become_user(wish.uid, wish.uid));
    } else {
        runtimes.extend(RUNTIMES.into_iter().filter(|r| find_program(r, launch::PATH).is_ok()).map(str::to_owned));
        tell("own uid", Err("the daemon does not run as root".into()));
    }
    let no_new_privs = prctl::set_no_new_privs().map_err(|e| e.desc().to_owned());
    let seccomp = tell("seccomp", no_new_privs.and_then(|()| seccomp::apply()));
    isolation = Isolation { namespaces, network, capabilities, own_uid, seccomp, layers, ..isolation };
    send(&mut io::stdout(), &Found { isolation, runtimes }).map_err(|e| e.to_string())
}

fn enter_view(view: &View) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWPID).map_err(|e| format!("unshare: {}", e.desc()))?;
    view::leave_host(&view.host_name)?;
    view::mount_view(view)
}
