//! The shim's side of what people run in the instance.
//!
//! Enters: knocks at the instance's `sessions` socket. Leaves: keepers, which have the commands; the ends of their streams, to whoever
//! knocked.
//! Always holds: at most [`SESSIONS_MAX`] at a time, none before the application has begun; each ends when whoever knocked is gone or the
//! run of the application is over, and is over when its keeper is and its control group is empty.

use super::super::cgroup::Place;
use super::super::exec::{Event, OWN_PROGRAM, SAY_KILL, STAGE, send};
use super::super::handles;
use super::super::launch::{Plan, session_plan};
use super::super::layout::Layout;
use super::super::session::{self, REQUEST_BYTES_MAX, Reply, Request, SESSIONS_MAX, Visit};
use super::running::in_pid_namespace_of;
use crate::{Exit, TerminalSize};
use nix::pty::{Winsize, openpty};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

const REQUEST_MS_MAX: u64 = 5_000;
/// From the start of a keeper to the command's first instruction.
const BEGIN_MS_MAX: u64 = 10_000;
/// For a keeper that was told to end everything.
const END_MS_MAX: u64 = 2_500;
/// For the kernel to take away what was killed.
const GROUP_MS_MAX: u64 = 1_000;

/// What a command is started from: the run of the application that goes on now.
struct Ground {
    dir: PathBuf,
    plan: Plan,
    cgroup: Option<Place>,
    /// Whose namespaces it has; none without.
    init: Option<u32>,
}

pub(super) struct Sessions {
    ground: watch::Sender<Option<Arc<Ground>>>,
    places: Arc<Semaphore>,
}

impl Sessions {
    pub(super) fn listen(layout: &Layout) -> Result<Self, String> {
        let path = layout.sessions();
        let failed = |e: io::Error| format!("open {}: {e}", path.display());
        let listener = pumasi_door::listen(&path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        let (ground, seen) = watch::channel(None);
        let places = Arc::new(Semaphore::new(SESSIONS_MAX));
        tokio::spawn(answer_all(listener, seen, places.clone()));
        Ok(Self { ground, places })
    }

    /// The application runs: from now on commands may.
    pub(super) fn begin(&self, layout: &Layout, plan: Plan, cgroup: Option<Place>, init: Option<u32>) {
        let init = init.filter(|_| plan.view.is_some());
        self.ground.send_replace(Some(Arc::new(Ground { dir: layout.dir.clone(), plan, cgroup, init })));
    }

    /// Every command ends, and none begins.
    pub(super) fn close(&self) {
        self.ground.send_replace(None);
    }

    /// Returns when those that were closed are gone; each of them is bounded.
    pub(super) async fn gone(&self) {
        let all = u32::try_from(SESSIONS_MAX).unwrap_or(u32::MAX);
        drop(self.places.acquire_many(all).await);
    }
}

async fn answer_all(listener: UnixListener, ground: watch::Receiver<Option<Arc<Ground>>>, places: Arc<Semaphore>) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let Ok((knock, _)) = listener.accept().await else {
            // No handle is free at the moment.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            let why = format!("{SESSIONS_MAX} commands run in it already, which is as many as may at once");
            // Whoever knocked reads it, or has gone.
            let _ = refuse(&knock, why);
            continue;
        };
        let (ground, name) = (ground.clone(), NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
        tokio::spawn(async move {
            attend(knock, ground, &name).await;
            drop(place);
        });
    }
}

/// Short enough for an empty socket.
fn refuse(knock: &UnixStream, why: String) -> io::Result<()> {
    handles::send(knock, &[])?;
    let mut line = Vec::new();
    send(&mut line, &Reply::Refused { why })?;
    knock.try_write(&line).map(drop)
}

async fn attend(knock: UnixStream, mut ground: watch::Receiver<Option<Arc<Ground>>>, name: &str) {
    let mut knock = knock;
    let asked = tokio::time::timeout(Duration::from_millis(REQUEST_MS_MAX), read_request(&mut knock)).await;
    let request = match asked {
        Ok(Ok(request)) => request,
        Ok(Err(why)) => return drop(refuse(&knock, why)),
        Err(_) => return,
    };
    let Some(here) = ground.borrow_and_update().clone() else {
        return drop(refuse(&knock, "its application does not run at the moment; try again once it does".into()));
    };
    let begun = tokio::select! {
        begun = tokio::time::timeout(Duration::from_millis(BEGIN_MS_MAX), Visitor::begin(&here, &request, name)) => begun,
        _ = ground.changed() => Ok(Err("its application has just ended; try again".into())),
    };
    let begun = begun.unwrap_or_else(|_| Err("it did not begin in time: does the instance stand still?".into()));
    let (mut visitor, ends) = match begun {
        Ok(begun) => begun,
        Err(why) => {
            end_group(&here, name).await;
            return drop(refuse(&knock, why));
        }
    };
    let given = handles::send(&knock, &ends);
    drop(ends);
    let (mut reader, mut writer) = knock.into_split();
    let exit = match given {
        Ok(()) => tokio::select! {
            exit = visitor.ends() => exit,
            () = hangs_up(&mut reader) => None,
            _ = ground.changed() => None,
        },
        Err(_) => None,
    };
    visitor.end().await;
    end_group(&here, name).await;
    let mut line = Vec::new();
    if send(&mut line, &Reply::Ended(exit)).is_ok() {
        let _ = writer.write_all(&line).await;
    }
}

async fn read_request(knock: &mut UnixStream) -> Result<Request, String> {
    let mut line = String::new();
    BufReader::new(knock.take(REQUEST_BYTES_MAX))
        .read_line(&mut line)
        .await
        .map_err(|e| format!("the request: {e}"))?;
    Request::read(&line)
}

/// It says nothing more: whatever comes is its end.
async fn hangs_up(knock: &mut OwnedReadHalf) {
    let mut bytes = [0u8; 16];
    let _ = knock.read(&mut bytes).await;
}

/// Fails only where the kernel has not taken everything away yet.
async fn end_group(here: &Ground, name: &str) {
    let Some(place) = &here.cgroup else { return };
    let until = tokio::time::Instant::now() + Duration::from_millis(GROUP_MS_MAX);
    while !place.end_session(name) && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A keeper, with what it keeps.
struct Visitor {
    keeper: tokio::process::Child,
    hear: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    say: OwnedWriteHalf,
}

impl Visitor {
    /// Returns when the command stands in the instance; also the ends of its streams that are not its own.
    async fn begin(here: &Ground, request: &Request, name: &str) -> Result<(Self, Vec<OwnedFd>), String> {
        let failed = |e: io::Error| format!("start it: {e}");
        let entrances = match &here.cgroup {
            Some(place) => place.session(name).map_err(failed)?,
            None => Vec::new(),
        };
        let plan = session_plan(&here.plan, &request.command, request.kind(), entrances);
        let Streams { input, output, errors, ours } = Streams::make(request.terminal).map_err(failed)?;
        let (line, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        let mut command = std::process::Command::new(OWN_PROGRAM);
        command
            .arg0("pumasi")
            .args(["instance-exec", "--dir"])
            .arg(&here.dir)
            .env_clear()
            .env(STAGE, session::STAGE)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(output)
            .stderr(errors);
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        let keeper = match here.init {
            Some(init) => in_pid_namespace_of(init, || command.spawn()),
            None => command.spawn(),
        };
        let keeper = keeper.map_err(failed)?;
        // Our copies of what is the command's.
        drop(command);
        handles::send(&line, &[input]).map_err(failed)?;
        line.set_nonblocking(true).map_err(failed)?;
        let (hear, say) = UnixStream::from_std(line).map_err(failed)?.into_split();
        let mut visitor = Self { keeper, hear: BufReader::new(hear).lines(), say };
        match visitor.hand_over(&Visit { plan, init: here.init }).await {
            Ok(()) => Ok((visitor, ours)),
            Err(why) => {
                visitor.end().await;
                Err(why)
            }
        }
    }

    async fn hand_over(&mut self, visit: &Visit) -> Result<(), String> {
        let early = || "its keeper ended before it began".to_owned();
        // Bound to this process's life before it is told anything.
        match self.next().await {
            Some(Event::Hello) => {}
            _ => return Err(early()),
        }
        let mut line = Vec::new();
        send(&mut line, visit).map_err(|e| format!("plan: {e}"))?;
        self.say.write_all(&line).await.map_err(|e| format!("control: {e}"))?;
        match self.next().await {
            Some(Event::Started) => Ok(()),
            Some(Event::Failed { why, .. }) => Err(why),
            _ => Err(early()),
        }
    }

    async fn next(&mut self) -> Option<Event> {
        let line = self.hear.next_line().await.ok().flatten()?;
        serde_json::from_str(&line).ok()
    }

    /// How the command ended; none if its keeper did first.
    async fn ends(&mut self) -> Option<Exit> {
        loop {
            match self.next().await? {
                Event::Exited(exit) => return Some(exit),
                _ => continue,
            }
        }
    }

    async fn end(&mut self) {
        let _ = self.say.write_all(SAY_KILL.as_bytes()).await;
        if tokio::time::timeout(Duration::from_millis(END_MS_MAX), self.keeper.wait()).await.is_err() {
            let _ = self.keeper.start_kill();
            let _ = self.keeper.wait().await;
        }
    }
}

/// The command's ends, and ours.
struct Streams {
    input: OwnedFd,
    output: OwnedFd,
    errors: OwnedFd,
    ours: Vec<OwnedFd>,
}

impl Streams {
    fn make(terminal: Option<TerminalSize>) -> io::Result<Self> {
        if let Some(size) = terminal {
            let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
            let pair = openpty(&size, None)?;
            // Neither is handed on by accident to what else the shim starts.
            for end in [&pair.master, &pair.slave] {
                rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
            }
            let (output, errors) = (pair.slave.try_clone()?, pair.slave.try_clone()?);
            return Ok(Self { input: pair.slave, output, errors, ours: vec![pair.master] });
        }
        let (input, our_input) = io::pipe()?;
        let (our_output, output) = io::pipe()?;
        let (our_errors, errors) = io::pipe()?;
        let ours = vec![our_input.into(), our_output.into(), our_errors.into()];
        Ok(Self { input: input.into(), output: output.into(), errors: errors.into(), ours })
    }
}
