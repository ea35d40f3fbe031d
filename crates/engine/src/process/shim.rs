//! The shim: a small process per instance that outlives the daemon.
//!
//! Enters: `spec.json`, `desired.json`. Leaves: `status.json`, logs. Holds `shim.lock` while it lives.
//! Always holds: it ends only when the application is gone, and the application ends when it does.

use super::exec::{Event, OWN_PROGRAM, SAY_KILL, SAY_TERM, send};
use super::launch::{self, Plan};
use super::layout::{Layout, Record, Status, make_dir, wall_now, write_json};
use super::logs::LogWriter;
use super::probe;
use crate::address::{free_address, is_free};
use crate::rules::BackOff;
use crate::{Exit, InstanceState};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, umask};
use pumasi_terms::service::Probe;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::net::{UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf};
use tokio::time::Instant;

/// A fast start is noticed fast; a slow one is asked for less often.
const FIRST_PROBE_MS: u64 = 5;
const FAST_START_MS: u64 = 200;
const STARTING_PROBE_MS_MAX: u64 = 50;
/// From the start of a stage to its first word.
const STAGE_MS_MAX: u64 = 10_000;
/// `desired.json` is read so often even if nobody wakes the shim.
const LOOK_MS: u64 = 1_000;
/// What is still in the pipe when the application is gone.
const LAST_WORDS_BYTES_MAX: usize = 1 << 20;

/// What the driver reads on the shim's standard output before it lets go of it.
pub(super) const UP: &str = "up";

/// Entry of `shim --dir DIR`. Blocks until the instance has been stopped.
pub fn shim_main(dir: &Path) -> ExitCode {
    close_inherited();
    umask(Mode::from_bits_truncate(0o022));
    // Fails only for a group leader, which is detached enough.
    let _ = nix::unistd::setsid();
    let layout = Layout::new(dir);
    let lock = match layout.hold() {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            println!("{UP}");
            return ExitCode::SUCCESS;
        }
        Err(e) => return fail(e),
    };
    let record = match layout.read_record() {
        Ok(Some(record)) => record,
        Ok(None) => return fail(format!("{} is missing", layout.record().display())),
        Err(e) => return fail(e),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(e),
    };
    let done = runtime.block_on(async {
        Shim::open(layout, record)?.run().await;
        Ok::<(), String>(())
    });
    drop(lock);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(e),
    }
}

fn fail(why: impl std::fmt::Display) -> ExitCode {
    println!("{why}");
    eprintln!("shim: {why}");
    ExitCode::FAILURE
}

/// Called before anything of our own is open.
fn close_inherited() {
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        let _ = nix::unistd::close(fd);
    }
}

struct Shim {
    layout: Layout,
    record: Record,
    status: Status,
    wake: pipe::Receiver,
    log: LogWriter,
    back_off: BackOff,
}

/// A running application, or one on its way.
struct Running {
    init: tokio::process::Child,
    output: pipe::Receiver,
    say: OwnedWriteHalf,
    hear: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    address: SocketAddr,
    since: Instant,
    memory_kills_before: u64,
}

enum End {
    /// By itself, or because its liveness probe failed.
    Ended {
        exit: Option<Exit>,
        why: String,
    },
    Asked {
        exit: Option<Exit>,
    },
    Hopeless {
        why: String,
    },
}

/// What the probes have found so far.
struct Health {
    began: Instant,
    was_ready: bool,
    readiness_failures: u32,
    liveness_failures: u32,
    readiness_at: Instant,
    readiness_step_ms: u64,
    liveness_at: Instant,
}

impl Shim {
    fn open(layout: Layout, record: Record) -> Result<Self, String> {
        let wake = layout.wake();
        match nix::unistd::mkfifo(&wake, Mode::from_bits_truncate(0o600)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(e) => return Err(format!("create {}: {e}", wake.display())),
        }
        // Open for writing too, so that it never ends.
        let wake = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(&wake)
            .map_err(|e| format!("open {}: {e}", wake.display()))?;
        let log = LogWriter::open(&layout, record.log_bytes_max).map_err(|e| e.to_string())?;
        fs::write(layout.pid(), std::process::id().to_string()).map_err(|e| format!("write shim.pid: {e}"))?;
        // The port and the count of a shim that was killed go on.
        let before = layout.read_status().ok().flatten();
        let mut status = Status::fresh();
        if let Some(before) = before {
            (status.address, status.restarts) = (before.address, before.restarts);
        }
        Ok(Self { layout, record, status, wake, log, back_off: BackOff::new() })
    }

    async fn run(&mut self) {
        self.say(InstanceState::Starting);
        println!("{UP}");
        // The driver has gone on; nobody reads this pipe any more.
        if let Ok(null) = File::options().write(true).open("/dev/null") {
            let _ = nix::unistd::dup2_stdout(&null);
        }
        loop {
            if !self.wanted() {
                return self.say(InstanceState::Stopped { exit: self.status.last_exit });
            }
            let end = match self.launch().await {
                Ok(mut running) => {
                    let end = self.attend(&mut running).await;
                    self.clear_away(&mut running).await;
                    self.judge(end, &running)
                }
                Err(why) => End::Ended { exit: None, why },
            };
            self.status.pid = None;
            match end {
                End::Asked { exit } => {
                    self.status.last_exit = exit;
                    return self.say(InstanceState::Stopped { exit });
                }
                End::Hopeless { why } => {
                    self.log.note(&why);
                    self.say(InstanceState::Failed { why });
                    while self.wanted() {
                        self.woken(LOOK_MS).await;
                    }
                }
                End::Ended { exit, why } => {
                    self.log.note(&format!("{why}; next start in {} ms", self.back_off.peek_ms()));
                    self.status.last_exit = exit;
                    self.status.restarts += 1;
                    self.say(InstanceState::BackingOff { restarts: self.status.restarts, why });
                    self.rest().await;
                }
            }
        }
    }

    /// What cannot be read is not believed to be a wish to stop.
    fn wanted(&self) -> bool {
        self.layout.read_desired().map_or_else(
            |e| {
                eprintln!("shim: {e}");
                true
            },
            |d| d.run,
        )
    }

    /// A full disk must not end a running application: what could not be written is written on the next change.
    fn say(&mut self, state: InstanceState) {
        self.status.state = state;
        if let Err(e) = write_json(&self.layout.status(), &self.status, false) {
            eprintln!("shim: {e}");
        }
    }

    /// Until woken, or for so long.
    async fn woken(&mut self, ms: u64) {
        let mut bytes = [0u8; 64];
        let _ = tokio::time::timeout(Duration::from_millis(ms), self.wake.read(&mut bytes)).await;
    }

    async fn rest(&mut self) {
        let until = Instant::now() + Duration::from_millis(self.back_off.take_ms());
        while self.wanted() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.woken(u64::try_from(left.as_millis()).unwrap_or(LOOK_MS).clamp(1, LOOK_MS)).await;
        }
    }

    async fn launch(&mut self) -> Result<Running, String> {
        let address = choose_address(self.record.spec.listen_ip, self.status.address)?;
        self.status.address = Some(address);
        self.status.started_at = Some(wall_now());
        self.say(InstanceState::Starting);
        self.make_private()?;
        let plan = launch::plan(&self.record, &self.layout, address)?;
        let mut memory_kills_before = 0;
        if let Some(place) = &self.record.cgroup {
            place.prepare(self.record.spec.resources, plan.memory_max_bytes).map_err(|e| e.to_string())?;
            memory_kills_before = place.memory_kills();
        }
        let mut running = start_init(&self.layout, &plan, address, memory_kills_before)?;
        let said = tokio::time::timeout(Duration::from_millis(STAGE_MS_MAX), hand_over(&mut running, &plan)).await;
        match said {
            Ok(Ok(())) => Ok(running),
            Ok(Err(why)) => {
                self.clear_away(&mut running).await;
                Err(why)
            }
            Err(_) => {
                self.clear_away(&mut running).await;
                Err(format!("the instance's init said nothing for {STAGE_MS_MAX} ms"))
            }
        }
    }

    /// The directory that the application may fill; its own uid owns it.
    fn make_private(&self) -> Result<(), String> {
        let home = self.layout.private();
        for dir in [home.clone(), home.join("tmp")] {
            // Only a new one: in an existing one the application could have put a link.
            if dir.symlink_metadata().is_ok() {
                continue;
            }
            make_dir(&dir, 0o700).map_err(|e| e.to_string())?;
            std::os::unix::fs::lchown(&dir, self.record.uid, self.record.gid)
                .map_err(|e| format!("give {} to the instance: {e}", dir.display()))?;
        }
        Ok(())
    }

    /// While the application runs: output, probes, wishes.
    async fn attend(&mut self, running: &mut Running) -> End {
        let mut chunk = vec![0u8; 16 << 10];
        let mut woken = [0u8; 64];
        let now = Instant::now();
        let mut health = Health {
            began: now,
            was_ready: false,
            readiness_failures: 0,
            liveness_failures: 0,
            readiness_at: now + Duration::from_millis(FIRST_PROBE_MS),
            readiness_step_ms: FIRST_PROBE_MS,
            liveness_at: now,
        };
        let mut look_at = now + Duration::from_millis(LOOK_MS);
        let mut kill_at: Option<Instant> = None;
        let mut exit = None;
        let mut output_open = true;
        // In flight at most one each; they never hold up the rest.
        let (readiness, liveness) = (self.record.spec.readiness.clone(), self.record.spec.liveness.clone());
        let mut asking = tokio::task::JoinSet::new();
        let (mut readiness_asked, mut liveness_asked) = (false, false);
        loop {
            let stopping = kill_at.is_some();
            tokio::select! {
                read = running.output.read(&mut chunk), if output_open => match read {
                    Ok(0) | Err(_) => output_open = false,
                    Ok(n) => { let _ = self.log.write(&chunk[..n]); }
                },
                heard = running.hear.next_line() => match heard.ok().flatten().and_then(|l| serde_json::from_str(&l).ok()) {
                    Some(Event::Started) => {
                        self.status.pid = application_pid(running.init.id());
                        self.say(InstanceState::Starting);
                    }
                    Some(Event::Exited(e)) => exit = Some(e),
                    Some(Event::Failed { why, for_good: true }) => return End::Hopeless { why },
                    Some(Event::Failed { why, for_good: false }) => return End::Ended { exit: None, why },
                    Some(Event::Hello) => {}
                    None if stopping => return End::Asked { exit },
                    None => {
                        let why = exit.map_or_else(|| "its init was killed".to_owned(), |e| e.to_string());
                        return End::Ended { exit, why };
                    }
                },
                _ = self.wake.read(&mut woken) => look_at = Instant::now(),
                () = tokio::time::sleep_until(look_at) => {
                    look_at = Instant::now() + Duration::from_millis(LOOK_MS);
                    if !stopping && !self.wanted() {
                        let grace = Duration::from_millis(self.record.spec.stop_grace_ms);
                        kill_at = Some(Instant::now() + grace);
                        let _ = running.say.write_all(SAY_TERM.as_bytes()).await;
                        self.say(InstanceState::Unready { why: "stopping".into() });
                    }
                }
                () = tokio::time::sleep_until(kill_at.unwrap_or(look_at)), if stopping => {
                    self.log.note(&format!("still there {} ms after SIGTERM: killed", self.record.spec.stop_grace_ms));
                    return End::Asked { exit };
                }
                () = tokio::time::sleep_until(health.readiness_at), if !stopping && !readiness_asked => {
                    readiness_asked = true;
                    let (probe, address) = (readiness.clone(), running.address);
                    asking.spawn(async move { (true, probe::ask(address, &probe).await) });
                }
                () = tokio::time::sleep_until(health.liveness_at),
                    if !stopping && !liveness_asked && health.was_ready && liveness.is_some() => {
                    if let Some(probe) = liveness.clone() {
                        liveness_asked = true;
                        let address = running.address;
                        asking.spawn(async move { (false, probe::ask(address, &probe).await) });
                    }
                }
                Some(answer) = asking.join_next() => match answer {
                    Ok((true, answer)) => {
                        readiness_asked = false;
                        if !stopping {
                            self.take_readiness(&mut health, &readiness, answer);
                        }
                    }
                    Ok((false, answer)) => {
                        liveness_asked = false;
                        if let Some(why) = take_liveness(&mut health, liveness.as_ref(), answer) && !stopping {
                            return End::Ended { exit: None, why };
                        }
                    }
                    Err(_) => (readiness_asked, liveness_asked) = (false, false),
                },
            }
            if self.status.state == InstanceState::Ready {
                self.back_off.was_well_for(u64::try_from(running.since.elapsed().as_millis()).unwrap_or(u64::MAX));
            }
        }
    }

    fn take_readiness(&mut self, health: &mut Health, probe: &Probe, answer: Result<(), String>) {
        let answer = match answer {
            // Another one's server on the port that this application wanted.
            Ok(()) if !health.was_ready && !self.listens_itself() => Err("another process answers on its port".into()),
            other => other,
        };
        match answer {
            Ok(()) => {
                health.readiness_failures = 0;
                if !health.was_ready {
                    health.was_ready = true;
                    health.liveness_at = Instant::now();
                }
                if self.status.state != InstanceState::Ready {
                    self.say(InstanceState::Ready);
                }
            }
            Err(why) => {
                health.readiness_failures = health.readiness_failures.saturating_add(1);
                if health.was_ready && health.readiness_failures >= probe.failures {
                    let state = InstanceState::Unready { why };
                    if self.status.state != state {
                        self.say(state);
                    }
                }
            }
        }
        let step_ms = if health.was_ready {
            probe.interval_ms.max(1)
        } else {
            if health.began.elapsed() > Duration::from_millis(FAST_START_MS) {
                health.readiness_step_ms = (health.readiness_step_ms * 3 / 2).min(STARTING_PROBE_MS_MAX);
            }
            health.readiness_step_ms.min(probe.interval_ms.max(1))
        };
        health.readiness_at = Instant::now() + Duration::from_millis(step_ms);
    }

    /// Whether the socket that answers is of the instance's own uid; true where it has none.
    fn listens_itself(&self) -> bool {
        match (self.record.uid, self.status.address) {
            (Some(uid), Some(address)) => listener_uid(address).is_none_or(|found| found == uid),
            _ => true,
        }
    }

    /// Ends whatever is left of this run and keeps its last words.
    async fn clear_away(&mut self, running: &mut Running) {
        let _ = running.say.write_all(SAY_KILL.as_bytes()).await;
        if tokio::time::timeout(Duration::from_millis(2_500), running.init.wait()).await.is_err() {
            let _ = running.init.start_kill();
            let _ = running.init.wait().await;
        }
        let mut chunk = vec![0u8; 16 << 10];
        let mut left = LAST_WORDS_BYTES_MAX;
        while let Ok(n) = running.output.try_read(&mut chunk) {
            if n == 0 || left < n {
                break;
            }
            left -= n;
            let _ = self.log.write(&chunk[..n]);
        }
    }

    /// A kill for lack of memory is told by the cgroup's counter, not by the signal.
    fn judge(&self, end: End, running: &Running) -> End {
        let kills = self.record.cgroup.as_ref().map_or(0, super::cgroup::Place::memory_kills);
        match end {
            End::Ended { exit: Some(mut exit), .. } if kills > running.memory_kills_before && exit.code != Some(0) => {
                exit.out_of_memory = true;
                End::Ended { exit: Some(exit), why: exit.to_string() }
            }
            other => other,
        }
    }
}

fn take_liveness(health: &mut Health, probe: Option<&Probe>, answer: Result<(), String>) -> Option<String> {
    let probe = probe?;
    health.liveness_at = Instant::now() + Duration::from_millis(probe.interval_ms.max(1));
    match answer {
        Ok(()) => {
            health.liveness_failures = 0;
            None
        }
        Err(why) => {
            health.liveness_failures = health.liveness_failures.saturating_add(1);
            (health.liveness_failures >= probe.failures).then(|| format!("not alive: {why}"))
        }
    }
}

fn start_init(layout: &Layout, plan: &Plan, address: SocketAddr, memory_kills_before: u64) -> Result<Running, String> {
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
    let init = if plan.view.is_some() { in_new_pid_namespace(|| command.spawn()) } else { command.spawn() };
    let init = init.map_err(err("start the instance's init"))?;
    drop(command);
    let (hear, say) = ours.into_split();
    Ok(Running {
        init,
        output,
        say,
        hear: BufReader::new(hear).lines(),
        address,
        since: Instant::now(),
        memory_kills_before,
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

/// The plan is sent only when init is bound to this process's life.
async fn hand_over(running: &mut Running, plan: &Plan) -> Result<(), String> {
    let line = running.hear.next_line().await.map_err(|e| format!("control: {e}"))?;
    match line.as_deref().map(serde_json::from_str) {
        Some(Ok(Event::Hello)) => {}
        _ => return Err("the instance's init ended before it began".into()),
    }
    let mut bytes = Vec::new();
    send(&mut bytes, plan).map_err(|e| format!("plan: {e}"))?;
    running.say.write_all(&bytes).await.map_err(|e| format!("control: {e}"))
}

/// Init's only child so far, as the host numbers it.
fn application_pid(init: Option<u32>) -> Option<u32> {
    let init = init?;
    let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// The earlier port if it is still free, else any.
fn choose_address(ip: IpAddr, earlier: Option<SocketAddr>) -> Result<SocketAddr, String> {
    match earlier.filter(|e| e.ip() == ip && is_free(*e)) {
        Some(earlier) => Ok(earlier),
        None => free_address(ip).map_err(|e| format!("find a free port on {ip}: {e}")),
    }
}

/// The uid of the socket that listens there, by /proc/net/tcp; a listener on all addresses counts.
fn listener_uid(address: SocketAddr) -> Option<u32> {
    let port = format!(":{:04X}", address.port());
    let mut any = None;
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(file).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(state), Some(uid)) = (fields.get(1), fields.get(3), fields.get(7)) else { continue };
            if *state == "0A" && local.ends_with(&port) {
                let uid = uid.parse().ok();
                if local.strip_suffix(&port) == Some(hex_ip(address.ip()).as_str()) {
                    return uid;
                }
                any = any.or(uid);
            }
        }
    }
    any
}

/// As the kernel prints it: 32-bit words in the order of the host.
fn hex_ip(ip: IpAddr) -> String {
    let words = |bytes: &[u8]| {
        bytes
            .chunks_exact(4)
            .map(|w| format!("{:08X}", u32::from_ne_bytes([w[0], w[1], w[2], w[3]])))
            .collect::<String>()
    };
    match ip {
        IpAddr::V4(v4) => words(&v4.octets()),
        IpAddr::V6(v6) => words(&v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_owner_of_a_listener_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uid = listener_uid(listener.local_addr().unwrap());
        assert_eq!(uid, Some(nix::unistd::geteuid().as_raw()));
    }

    #[test]
    fn a_port_is_kept_while_it_is_free() {
        let ip: IpAddr = "127.0.0.1".parse().unwrap();
        let first = choose_address(ip, None).unwrap();
        assert_eq!(choose_address(ip, Some(first)).unwrap(), first);
        let _taken = TcpListener::bind(first).unwrap();
        assert_ne!(choose_address(ip, Some(first)).unwrap(), first);
    }
}
