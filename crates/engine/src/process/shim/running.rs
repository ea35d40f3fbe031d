//! A run of the application: its init started, bound to the shim's life, and cleared away.
//!
//! Enters: the plan. Leaves: a [`Running`] whose every process ends with it.

use super::super::exec::{Event, OWN_PROGRAM, SAY_GO, SAY_KILL, send};
use super::super::freeze::Brake;
use super::super::launch::Plan;
use super::super::layout::{Layout, Record};
use super::super::net::Net;
use super::super::throttle::Throttle;
use super::output::Output;
use crate::address::{free_address, is_free};
use nix::sched::{CloneFlags, setns, unshare};
use pumasi_door::Place;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::net::{UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf};
use tokio::time::Instant;

/// For an init that was told to end everything.
const END_MS_MAX: u64 = 2_500;

/// A running application, or one on its way.
pub(super) struct Running {
    pub init: tokio::process::Child,
    pub output: Output,
    pub say: OwnedWriteHalf,
    pub hear: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    pub place: Place,
    pub since: Instant,
    pub memory_kills_before: u64,
    pub throttle: Throttle,
    /// It begins when it is told to.
    pub prepared: bool,
    pub plan: Plan,
}

impl Running {
    /// Ends every process of this run.
    pub(super) async fn end(&mut self) {
        if self.throttle.is_ordered() {
            self.throttle.kill();
        }
        self.throttle.let_go();
        let _ = self.say.write_all(SAY_KILL.as_bytes()).await;
        if tokio::time::timeout(Duration::from_millis(END_MS_MAX), self.init.wait()).await.is_err() {
            let _ = self.init.start_kill();
            let _ = self.init.wait().await;
        }
    }

    pub(super) async fn go(&mut self) -> io::Result<()> {
        self.say.write_all(SAY_GO.as_bytes()).await
    }

    /// Init's only child so far, as the host numbers it.
    pub(super) fn application_pid(&self) -> Option<u32> {
        let init = self.init.id()?;
        let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }
}

pub(super) fn start_init(
    record: &Record,
    layout: &Layout,
    plan: &Plan,
    net: Option<&Net>,
    place: Place,
    memory_kills_before: u64,
) -> Result<Running, String> {
    let err = |doing: &'static str| move |e: io::Error| format!("{doing}: {e}");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(err("control"))?;
    ours.set_nonblocking(true).map_err(err("control"))?;
    let ours = UnixStream::from_std(ours).map_err(err("control"))?;
    let (reader, writer) = io::pipe().map_err(err("log pipe"))?;
    let output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(err("log pipe"))?;

    let mut command = std::process::Command::new(OWN_PROGRAM);
    command
        .arg0("pumasi")
        .args(["instance-exec", "--dir"])
        .arg(&layout.dir)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(writer.try_clone().map_err(err("log pipe"))?)
        .stderr(writer);
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let init = match net {
        Some(net) => in_network(net, || in_new_pid_namespace(|| command.spawn())),
        None if plan.view.is_some() => in_new_pid_namespace(|| command.spawn()),
        None => command.spawn(),
    };
    let init = init.map_err(err("start the instance's init"))?;
    drop(command);
    let (hear, say) = ours.into_split();
    let brake = Brake::of(layout, record, init.id());
    Ok(Running {
        init,
        output: Output::new(output, record.limits.log),
        say,
        hear: BufReader::new(hear).lines(),
        place,
        since: Instant::now(),
        memory_kills_before,
        throttle: Throttle::new(record.cgroup.clone(), brake, record.limits.disk_write),
        prepared: plan.prepared,
        plan: plan.clone(),
    })
}

/// Children made by `make` are first in a new pid namespace; afterwards the caller is as before.
fn in_new_pid_namespace<T>(make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = File::open("/proc/self/ns/pid")?;
    unshare(CloneFlags::CLONE_NEWPID)?;
    let made = make();
    setns(&own, CloneFlags::CLONE_NEWPID)?;
    made
}

/// Children made by `make` are in the pid namespace of `init`, as the host numbers it; afterwards the caller is as before.
pub(super) fn in_pid_namespace_of<T>(init: u32, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = File::open("/proc/self/ns/pid")?;
    setns(&File::open(format!("/proc/{init}/ns/pid"))?, CloneFlags::CLONE_NEWPID)?;
    let made = make();
    setns(&own, CloneFlags::CLONE_NEWPID)?;
    made
}

/// Children made by `make` are in the instance's network; afterwards the caller is as before.
fn in_network<T>(net: &Net, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = File::open("/proc/thread-self/ns/net")?;
    setns(net.space(), CloneFlags::CLONE_NEWNET)?;
    let made = make();
    setns(&own, CloneFlags::CLONE_NEWNET)?;
    made
}

/// The plan is sent only when init is bound to this process's life.
pub(super) async fn hand_over(running: &mut Running, plan: &Plan) -> Result<(), String> {
    let line = running.hear.next_line().await.map_err(|e| format!("control: {e}"))?;
    match line.as_deref().map(serde_json::from_str) {
        Some(Ok(Event::Hello)) => {}
        _ => return Err("the instance's init ended before it began".into()),
    }
    let mut bytes = Vec::new();
    send(&mut bytes, plan).map_err(|e| format!("plan: {e}"))?;
    running.say.write_all(&bytes).await.map_err(|e| format!("control: {e}"))
}

/// The earlier port if it is still free, else any.
pub(super) fn choose_address(ip: IpAddr, earlier: Option<SocketAddr>) -> Result<SocketAddr, String> {
    match earlier.filter(|e| e.ip() == ip && is_free(*e)) {
        Some(earlier) => Ok(earlier),
        None => free_address(ip).map_err(|e| format!("find a free port on {ip}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_port_is_kept_while_it_is_free() {
        let ip: IpAddr = "127.0.0.1".parse().unwrap();
        let first = choose_address(ip, None).unwrap();
        assert_eq!(choose_address(ip, Some(first)).unwrap(), first);
        let _taken = TcpListener::bind(first).unwrap();
        assert_ne!(choose_address(ip, Some(first)).unwrap(), first);
    }
}
