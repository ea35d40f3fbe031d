//! The shim: a small process per instance that outlives the daemon.
//!
//! Enters: `spec.json`, `desired.json`. Leaves: `status.json`, logs. Holds `shim.lock` while it lives.
//! Always holds: it ends only when the application is gone, and the application ends when it does.

mod begin;
mod health;
mod output;
mod running;
mod sessions;
mod still;
mod ticks;

use super::exec::{Event, OWN_PROGRAM, SAY_TERM};
use super::launch;
use super::layout::{Desired, Layout, Record, Status, boot_now_ms, make_private, wall_now, write_json};
use super::logs::LogWriter;
use super::net::{INSIDE, Net};
use super::view;
use crate::rules::BackOff;
use crate::{Exit, InstanceState, Secrets, Trouble};
use health::{Finding, Health};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use pumasi_door::Place;
use running::{Running, choose_address, hand_over, start_init};
use sessions::Sessions;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use still::{Turn, turn};
use ticks::Ticks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};

/// That it writes too much is told so often.
const REST_TOLD_MS: u64 = 60_000;
/// From the start of a stage to its first word.
const STAGE_MS_MAX: u64 = 10_000;
/// `desired.json` is read so often even if nobody wakes the shim.
const LOOK_MS: u64 = 1_000;

/// A freeze that was begun is looked after so often until nothing runs any more.
const FREEZING_LOOK_MS: u64 = 1;

/// Escaped as JSON; more than any service may have.
const SECRETS_BYTES_MAX: u64 = 16 << 20;

/// What the driver reads on the shim's standard output before it lets go of it.
pub(super) const UP: &str = "up";

/// Entry of `shim --dir DIR`. Blocks until the instance has been stopped.
pub fn shim_main(dir: &Path) -> ExitCode {
    without_huge_pages();
    close_inherited();
    umask(Mode::from_bits_truncate(0o022));
    // Fails only for a group leader, which is detached enough.
    let _ = nix::unistd::setsid();
    let secrets = match take_secrets(std::io::stdin().lock()) {
        Ok(secrets) => secrets,
        Err(e) => return fail(e),
    };
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
    let ticks = Ticks::begin();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(e),
    };
    let done = runtime.block_on(async {
        Shim::open(layout, record, secrets, ticks)?.run().await;
        Ok::<(), String>(())
    });
    drop(lock);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(e),
    }
}

/// Begins anew without huge pages, of which each would be most of what a keeper has: those that it has by now it would keep. Whatever it
/// starts goes without as well; the application gets them back before it begins.
fn without_huge_pages() {
    if prctl::get_thp_disable() != Ok(false) || prctl::set_thp_disable(true).is_err() {
        return;
    }
    // Where it cannot begin anew it goes on, and only costs more.
    if prctl::get_thp_disable() == Ok(true) {
        let mut words = std::env::args_os();
        let name = words.next().unwrap_or_default();
        let _ = std::process::Command::new(OWN_PROGRAM).arg0(name).args(words).exec();
    }
}

fn fail(why: impl std::fmt::Display) -> ExitCode {
    println!("{why}");
    eprintln!("shim: {why}");
    ExitCode::FAILURE
}

/// What the driver writes to a new shim's standard input: one document, then the end. It is empty where there are none.
pub(super) fn hand_secrets(to: &mut impl Write, secrets: &Secrets) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(secrets.expose())?;
    to.write_all(&bytes)
}

fn take_secrets(from: impl Read) -> Result<Secrets, String> {
    let mut bytes = Vec::new();
    from.take(SECRETS_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| format!("standard input: {e}"))?;
    if bytes.is_empty() {
        return Ok(Secrets::default());
    }
    // The error's own text would quote what was read.
    serde_json::from_slice(&bytes).map(Secrets::new).map_err(|_| "the secrets did not come whole".to_owned())
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
    /// In this process's memory only: one that was killed gets them again from the daemon that revives it.
    secrets: Secrets,
    status: Status,
    wake: pipe::Receiver,
    log: LogWriter,
    sessions: Sessions,
    ticks: Ticks,
    back_off: BackOff,
    /// Made at the first start, and the same for every later one.
    net: Option<Net>,
    /// The application was told to stand still.
    held: bool,
    rest_told_at: Instant,
    /// The last that could be read.
    wish: Desired,
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
    /// It is to stand still, and this host can only end it.
    Held,
    /// It was prepared, and nobody let it begin.
    Unwanted,
}

impl Shim {
    fn open(layout: Layout, record: Record, secrets: Secrets, ticks: Ticks) -> Result<Self, String> {
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
        let sessions = Sessions::listen(&layout)?;
        fs::write(layout.pid(), std::process::id().to_string()).map_err(|e| format!("write shim.pid: {e}"))?;
        // The port and the count of a shim that was killed go on.
        let before = layout.read_status().ok().flatten();
        let mut status = Status::fresh();
        if let Some(before) = before {
            (status.address, status.restarts) = (before.address, before.restarts);
            (status.lapsed, status.was_ready) = (before.lapsed, before.was_ready);
        }
        let wish = Desired::running();
        Ok(Self {
            layout,
            record,
            secrets,
            status,
            wake,
            log,
            sessions,
            ticks,
            back_off: BackOff::new(),
            net: None,
            held: false,
            rest_told_at: Instant::now(),
            wish,
        })
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
            if let Some(again_ms) = self.stand_still(None) {
                self.woken(again_ms).await;
                continue;
            }
            if let Some(why) = self.wish.held.clone() {
                self.tell(InstanceState::Unready { why });
                self.woken(LOOK_MS).await;
                continue;
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
                End::Held => {}
                End::Unwanted => {
                    let why = "it was prepared, and nobody started it in time";
                    self.log.note(why);
                    return self.say(InstanceState::Failed { why: why.into() });
                }
                End::Hopeless { why } => {
                    self.log.note(&why);
                    self.say(InstanceState::Failed { why });
                    while self.wanted() {
                        let again_ms = self.stand_still(None).unwrap_or(LOOK_MS);
                        self.woken(again_ms).await;
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

    /// What cannot be read is not believed to be a wish to stop, or to go on.
    fn desired(&mut self) -> Desired {
        match self.layout.read_desired() {
            Ok(desired) => self.wish = desired,
            Err(e) => eprintln!("shim: {e}"),
        }
        self.wish.clone()
    }

    fn wanted(&mut self) -> bool {
        self.desired().run
    }

    /// A full disk must not end a running application: what could not be written is written on the next change.
    fn say(&mut self, state: InstanceState) {
        let why = match &state {
            InstanceState::Ready | InstanceState::Stopped { .. } => None,
            InstanceState::Starting => self.status.trouble.take().map(|t| t.why),
            InstanceState::Unready { why } | InstanceState::BackingOff { why, .. } | InstanceState::Failed { why } => {
                Some(why.clone())
            }
        };
        self.status.was_ready |= state == InstanceState::Ready;
        self.status.trouble = why.map(|why| Trouble { why, last_line: self.log.last_line() });
        self.status.state = state;
        self.write_status();
    }

    fn write_status(&self) {
        if let Err(e) = write_json(&self.layout.status(), &self.status, false) {
            eprintln!("shim: {e}");
        }
    }

    /// Carries out what is wished of a freeze. While one is in force: when to look again, ms.
    fn stand_still(&mut self, running: Option<&mut Running>) -> Option<u64> {
        let now_ms = boot_now_ms();
        match turn(self.wish.freeze.as_ref(), self.status.lapsed.as_deref(), now_ms) {
            Turn::Frozen(order) => {
                let is_still = running.is_none_or(|r| {
                    r.throttle.order(true);
                    r.throttle.is_still()
                });
                if is_still && self.status.frozen.as_ref() != Some(&order) {
                    self.status.frozen = Some(order.clone());
                    self.write_status();
                }
                let left_ms = order.until_ms.map_or(LOOK_MS, |until| until.saturating_sub(now_ms).max(1));
                Some(if is_still { left_ms.min(LOOK_MS) } else { FREEZING_LOOK_MS })
            }
            Turn::Lapsed(order) => {
                self.log.note("it was frozen, and nobody said more in time: it goes on");
                (self.status.lapsed, self.status.frozen) = (Some(order.name), None);
                self.write_status();
                self.go_on(running)
            }
            Turn::Free => self.go_on(running),
        }
    }

    /// What is believed of it is said before it does anything.
    fn go_on(&mut self, running: Option<&mut Running>) -> Option<u64> {
        if self.status.frozen.take().is_some() {
            self.write_status();
        }
        if let Some(r) = running.filter(|r| r.throttle.is_ordered()) {
            r.throttle.order(false);
        }
        None
    }

    /// Until woken, or for so long.
    async fn woken(&mut self, ms: u64) {
        let mut bytes = [0u8; 64];
        let _ = tokio::time::timeout(Duration::from_millis(ms), self.wake.read(&mut bytes)).await;
    }

    async fn rest(&mut self) {
        let until = Instant::now() + Duration::from_millis(self.back_off.take_ms());
        while self.wanted() {
            // One that rests is as still as one that is frozen; whether it may start is asked before it does.
            self.stand_still(None);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.woken(u64::try_from(left.as_millis()).unwrap_or(LOOK_MS).clamp(1, LOOK_MS)).await;
        }
    }

    async fn launch(&mut self) -> Result<Running, String> {
        let place = self.choose_place()?;
        // The view is made after this was read: what changes from now on is asked for again.
        self.status.layers = self.wish.layers;
        self.status.address = Some(place.address);
        self.status.door = place.door.as_deref().map(Path::to_owned);
        self.status.started_at = Some(wall_now());
        self.say(InstanceState::Starting);
        let prepared = self.wish.prepared_until_ms.is_some();
        let mut plan = launch::plan(&self.record, &self.layout, place.address, prepared)?;
        for (key, value) in self.secrets.expose() {
            // Not what the engine fills in: probes and mounts rely on that.
            plan.env.entry(key.clone()).or_insert_with(|| value.clone());
        }
        if plan.view.is_none() {
            make_private(&self.layout, self.record.uid, self.record.gid).map_err(|e| e.to_string())?;
        }
        let mut memory_kills_before = 0;
        if let Some(place) = &self.record.cgroup {
            let resources = self.record.spec.resources;
            place.prepare(resources, plan.memory_max_bytes, plan.tasks_max).map_err(|e| e.to_string())?;
            place.keep().map_err(|e| e.to_string())?;
            memory_kills_before = place.memory_kills();
        }
        let mut running = start_init(&self.record, &self.layout, &plan, self.net.as_ref(), place, memory_kills_before)?;
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

    /// Its own network, where the host can make one; else a port of the host.
    fn choose_place(&mut self) -> Result<Place, String> {
        if !self.record.isolation.network {
            let address = choose_address(self.record.spec.listen_ip, self.status.address)?;
            return Ok(Place::new(address, None));
        }
        let door = self.layout.door();
        if self.net.is_none() {
            self.net = Some(Net::make(&door, &launch::egress(&self.record.spec)?)?);
        }
        Ok(Place::new(INSIDE, Some(&door)))
    }

    /// While the application runs: output, probes, wishes.
    async fn attend(&mut self, running: &mut Running) -> End {
        let spec = &self.record.spec;
        let ticks = self.ticks;
        let mut health = Health::new(running.place.clone(), self.record.uid, spec, ticks);
        let mut woken = [0u8; 64];
        let mut look_at = ticks.after(Instant::now(), LOOK_MS);
        let mut kill_at: Option<Instant> = None;
        let (mut exit, mut started) = (None, false);
        let mut waits = running.prepared;
        loop {
            let stopping = kill_at.is_some();
            tokio::select! {
                () = running.output.pass(&mut self.log) => {}
                heard = running.hear.next_line() => match heard.ok().flatten().and_then(|l| serde_json::from_str(&l).ok()) {
                    Some(Event::Prepared) => {
                        self.status.pid = running.application_pid();
                        look_at = Instant::now();
                        self.say(InstanceState::Starting);
                    }
                    Some(Event::Started) => {
                        self.status.pid = running.application_pid();
                        // Its data may have changed while its view was made.
                        (started, look_at) = (true, Instant::now());
                        // Nobody of this cloud goes into what runs for another.
                        if !self.record.spec.lent {
                            let (plan, cgroup) = (running.plan.clone(), self.record.cgroup.clone());
                            self.sessions.begin(&self.layout, plan, cgroup, running.init.id());
                        }
                        self.say(InstanceState::Starting);
                    }
                    Some(Event::Exited(e)) => exit = Some(e),
                    Some(Event::Failed { .. }) if stopping => return End::Asked { exit },
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
                () = sleep_until(look_at) => {
                    look_at = ticks.after(Instant::now(), LOOK_MS);
                    let desired = self.desired();
                    if !stopping && desired.run {
                        if let Some(end) = self.hold(running, desired.held) {
                            return end;
                        }
                        let was_frozen = running.throttle.is_ordered();
                        if let Some(again_ms) = self.stand_still(Some(&mut *running)) {
                            if !started && !running.throttle.can_hold() {
                                // By signals only who is there can be stopped.
                                return End::Held;
                            }
                            look_at = Instant::now() + Duration::from_millis(again_ms);
                            continue;
                        }
                        if was_frozen {
                            health.forget();
                        }
                        match self.turn_of_prepared(&mut waits, running).await {
                            Ok(false) => {}
                            Ok(true) => {
                                health = Health::new(running.place.clone(), self.record.uid, &self.record.spec, ticks);
                            }
                            Err(end) => return end,
                        }
                        if started && desired.layers != self.status.layers {
                            // One that goes on showing older data must not serve.
                            if let Err(why) = self.renew_layers(running, desired.layers) {
                                return End::Ended { exit: None, why };
                            }
                        }
                    } else if !stopping && running.throttle.is_ordered() {
                        self.log.note("it is ended as it stands, frozen");
                        return End::Asked { exit: Some(Exit { signal: Some(9), ..Exit::default() }) };
                    } else if !stopping {
                        running.throttle.let_go();
                        let grace = Duration::from_millis(self.record.spec.stop_grace_ms);
                        kill_at = Some(Instant::now() + grace);
                        let _ = running.say.write_all(SAY_TERM.as_bytes()).await;
                        self.say(InstanceState::Unready { why: "stopping".into() });
                    }
                }
                () = sleep_until(kill_at.unwrap_or(look_at)), if stopping => {
                    self.log.note(&format!("still there {} ms after SIGTERM: killed", self.record.spec.stop_grace_ms));
                    return End::Asked { exit };
                }
                rests = running.throttle.next(running.init.id()), if !stopping => if rests && Instant::now() >= self.rest_told_at {
                    self.rest_told_at = Instant::now() + Duration::from_millis(REST_TOLD_MS);
                    let rate = self.record.limits.disk_write.bytes_per_s;
                    self.log.note(&format!("more than {rate} bytes a second are written to disk: it stands still for moments"));
                },
                found = health.next(), if !stopping && !waits && !running.throttle.stands_still() => match found {
                    Finding::Ready => self.tell(InstanceState::Ready),
                    Finding::Unready { why } => self.tell(InstanceState::Unready { why }),
                    Finding::Dead { why } => return End::Ended { exit: None, why },
                },
            }
            if self.status.state == InstanceState::Ready {
                self.back_off.was_well_for(u64::try_from(running.since.elapsed().as_millis()).unwrap_or(u64::MAX));
            }
        }
    }

    /// A few milliseconds, in which nothing else of this instance is looked at.
    fn renew_layers(&mut self, running: &Running, number: u64) -> Result<(), String> {
        let failed = |e: String| format!("its data were not renewed: {e}");
        let layers = launch::layers(&self.record);
        let init = running.init.id().ok_or_else(|| failed("its init is gone".into()))?;
        let namespace = File::open(format!("/proc/{init}/ns/mnt")).map_err(|e| failed(e.to_string()))?;
        let renewed = std::thread::spawn(move || view::layer::renew(&namespace, &layers)).join();
        renewed.unwrap_or_else(|_| Err("its thread ended".into())).map_err(failed)?;
        self.status.layers = number;
        self.say(self.status.state.clone());
        Ok(())
    }

    /// Lets the application stand still or go on, as wished.
    fn hold(&mut self, running: &mut Running, wish: Option<String>) -> Option<End> {
        let was_held = std::mem::replace(&mut self.held, wish.is_some());
        match wish {
            Some(why) => {
                if !was_held {
                    self.log.note(&format!("it stands still: {why}"));
                }
                if !running.throttle.can_hold() {
                    return Some(End::Held);
                }
                running.throttle.hold(true);
                self.tell(InstanceState::Unready { why });
            }
            None if was_held => {
                self.log.note("it goes on");
                running.throttle.hold(false);
                // Until a probe says better. That it stood still is no reason any more.
                self.status.trouble = None;
                self.tell(InstanceState::Starting);
            }
            None => {}
        }
        None
    }

    /// Only what is new is written.
    fn tell(&mut self, state: InstanceState) {
        let other_line = |t: &Trouble| t.last_line != self.log.last_line();
        if self.status.state != state || self.status.trouble.as_ref().is_some_and(other_line) {
            self.say(state);
        }
    }

    /// Ends whatever is left of this run and keeps its last words.
    async fn clear_away(&mut self, running: &mut Running) {
        self.sessions.close();
        running.end().await;
        self.sessions.gone().await;
        running.output.last_words(&mut self.log);
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
