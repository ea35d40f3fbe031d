//! A network of the race's own, with nothing but a loopback and no packet filter.

use anyhow::Context;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::process::Command;

/// This thread is back in the machine's network when it goes.
pub struct Network(File);

impl Drop for Network {
    fn drop(&mut self) {
        let _ = setns(&self.0, CloneFlags::CLONE_NEWNET);
    }
}

/// For this thread and the processes that it starts from now on. None without root: told, since the figures differ.
pub fn own() -> anyhow::Result<Option<Network>> {
    let before = File::open("/proc/thread-self/ns/net").context("opening the network namespace")?;
    if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
        eprintln!("   no network namespace ({e}): the machine's packet filter is measured along");
        return Ok(None);
    }
    let network = Network(before);
    let done = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("running ip")?;
    anyhow::ensure!(done.success(), "the loopback of the race's network does not come up");
    Ok(Some(network))
}
