//! The keeper of a session: goes into the instance, starts the command, and takes everything along when it ends.
//!
//! Always holds: it is bound to the shim's life before anything else happens, and the command to the keeper's.

use super::super::exec::{Event, Outside, leave_nothing, obey, read_plan, reap, send, start_app, take_control};
use super::super::handles;
use super::super::launch::Plan;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{dup2_stderr, dup2_stdout};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// The namespaces besides the pid namespace, in which the shim has put the keeper already.
const NAMESPACES: [(&str, CloneFlags); 4] = [
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    // Last: after it the host's /proc is out of reach.
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Handed from the shim to the keeper.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in super::super) struct Visit {
    pub plan: Plan,
    /// Whose namespaces it goes into, as the host numbers it. None: there are none.
    pub init: Option<u32>,
}

pub(in super::super) fn keep(dir: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("control: {e}");
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("parent-death signal: {e}"))?;
    let mut control = take_control()?;
    // A shim that died before the line above cannot answer this.
    send(&mut control, &Event::Hello).map_err(failed)?;
    let input = handles::receive(&control).map_err(failed)?.into_iter().next();
    let mut orders = BufReader::new(control.try_clone().map_err(failed)?);
    let Visit { plan, init } = read_plan(&mut orders)?;

    let started = Outside::open(&plan).and_then(|outside| {
        init.map_or(Ok(()), enter).map_err(|e| (e, false))?;
        // Who leaves its parent comes to the keeper, and ends with it.
        prctl::set_child_subreaper(true).map_err(|e| (format!("subreaper: {e}"), false))?;
        start_app(dir, &plan, &outside, input, &mut |_| false)
    });
    let command = match started {
        Ok(Some(command)) => command,
        Ok(None) => return Ok(()),
        Err((why, for_good)) => {
            let _ = send(&mut control, &Event::Failed { why, for_good });
            return Ok(());
        }
    };
    // Its output ends with the last that writes to it, which is not the keeper.
    let let_go = File::options().write(true).open("/dev/null");
    let let_go = let_go.and_then(|null| Ok(dup2_stdout(&null).and_then(|()| dup2_stderr(&null))?));
    let_go.map_err(|e| format!("/dev/null: {e}"))?;
    send(&mut control, &Event::Started).map_err(failed)?;
    std::thread::spawn(move || {
        obey(&mut orders, command, &AtomicBool::new(false));
        leave_nothing(command, false);
        std::process::exit(0);
    });
    // Not told to stop gently: what it leaves behind is not waited for.
    reap(command, &mut control, &AtomicBool::new(false));
    leave_nothing(command, false);
    Ok(())
}

/// Where an instance has ended meanwhile, there is nothing left to go into.
fn enter(init: u32) -> Result<(), String> {
    let gone = |name: &'static str| move |e: std::io::Error| format!("enter the instance ({name}): {e}");
    let mut spaces = Vec::new();
    for (name, flag) in NAMESPACES {
        spaces.push((name, flag, File::open(format!("/proc/{init}/ns/{name}")).map_err(gone(name))?));
    }
    for (name, flag, space) in spaces {
        setns(&space, flag).map_err(|e| gone(name)(e.into()))?;
    }
    Ok(())
}
