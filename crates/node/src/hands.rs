//! The daemon's hold on helpers: whoever reads or writes a tenant's files is another process, which may reach those files and nothing else.
//!
//! Enters: requests about one dataset or one lease. Leaves: replies, to be checked like a peer's.
//! Always holds: one request of a helper is under way at a time; a helper that ends, whatever of, is told and started again after a rest
//! that grows; one that is over is gone before anybody erases what it worked on.

use crate::world;
use pumasi_engine::{EngineError, Helper, HelperSpec, ProcessEngine};
use pumasi_transfer::aside::AsidePlace;
use pumasi_transfer::helper::{FarPlace, HomePlace, Refusal, Reply, Request, Work, head_of, lengths};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::Instant;

const REST_MS: u64 = 200;
const REST_MS_MAX: u64 = 30_000;
/// One that lived so long did not end of what it was started with.
const LIVED_MS: u64 = 60_000;
/// A copy of a million files is built in minutes.
const ANSWER_MS_MAX: u64 = 900_000;
const GONE_MS_MAX: u64 = 5_000;
/// Of opening what is there.
const OPENED_MS_MAX: u64 = 30_000;
/// Questions of one helper: more datasets than a service has.
const WAITING_MAX: usize = 32;
/// Of an answer that has no body to speak of.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// What a million files take: some 700 bytes each while a tree is compared with the one before.
pub const MEMORY_BYTES_MAX: u64 = 2 << 30;

/// Where helpers work.
#[derive(Debug, Clone, Default)]
pub enum Hands {
    /// In this process: for simulators, whose datasets are nobody's.
    #[default]
    Here,
    /// In a process of their own each.
    Apart(ProcessEngine),
}

impl Hands {
    /// Gives the owner's group its right to what its instances made in `dir`.
    pub async fn give(&self, owner: &str, dir: &Path) -> Result<(), EngineError> {
        match self {
            Self::Here => Ok(()),
            Self::Apart(engine) => engine.give(owner, dir).await,
        }
    }
}

/// What a helper is for, by the daemon's paths.
#[derive(Debug)]
pub enum Place {
    Home(HomePlace),
    Far(FarPlace),
    Aside(AsidePlace),
}

#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It ended, or could not be started.
    #[error("{0}")]
    Ended(String),
    #[error("{0}")]
    Resting(String),
}

impl Trouble {
    fn not_needed() -> Self {
        Self::Ended("its helper is not needed any more".into())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    None,
    Busy,
    /// It waits for a question; how often it was started by now.
    Idle(u64),
}

#[derive(Debug)]
pub struct Hand {
    hands: Hands,
    spec: HelperSpec,
    place: Place,
    state: Mutex<State>,
    places: Semaphore,
    over: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    running: Option<Running>,
    begun: Option<Instant>,
    /// Of ends in a row.
    ends: u32,
    not_before: Option<Instant>,
    starts: u64,
    /// Of the process that runs, or ran last.
    pid: Option<u32>,
}

#[derive(Debug)]
enum Running {
    Here(Box<Work>),
    Apart(Box<Helper>),
}

impl Hand {
    pub fn new(hands: Hands, spec: HelperSpec, place: Place) -> Arc<Self> {
        Arc::new(Self {
            hands,
            spec,
            place,
            state: Mutex::default(),
            places: Semaphore::new(WAITING_MAX),
            over: watch::channel(false).0,
        })
    }

    pub fn spec(&self) -> &HelperSpec {
        &self.spec
    }

    /// How it is, without waiting for what it does. Notices one that ended by itself.
    pub fn life(&self) -> Result<Life, Trouble> {
        let Ok(mut state) = self.state.try_lock() else { return Ok(Life::Busy) };
        if let Some(Running::Apart(helper)) = &mut state.running
            && let Ok(Some(status)) = helper.child.try_wait()
        {
            return Err(state.fell(&format!("the data helper of {} ended: {status}", self.spec.owner)));
        }
        Ok(state.running.as_ref().map_or(Life::None, |_| Life::Idle(state.starts)))
    }

    pub async fn ask(&self, request: Request, body: Vec<u8>) -> Result<(Reply, Vec<u8>), Trouble> {
        // What waits holds its body.
        let Ok(_place) = self.places.try_acquire() else {
            return Err(Trouble::Resting(format!("{WAITING_MAX} questions wait for its data helper already")));
        };
        let mut state = self.state.lock().await;
        let mut over = self.over.subscribe();
        if *over.borrow() {
            return Err(Trouble::not_needed());
        }
        if state.running.is_none() {
            tokio::select! {
                biased;
                _ = over.wait_for(|over| *over) => return Err(Trouble::not_needed()),
                started = self.start(&mut state) => started?,
            }
        }
        // Taken out: if nobody waits for the answer any more, the line would be out of step.
        let Some(running) = state.running.take() else { return Err(Trouble::Ended("it did not start".into())) };
        let answered = tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => return Err(Trouble::not_needed()),
            answered = running.ask(request, body) => answered,
        };
        match answered {
            Ok((running, reply, body)) => {
                state.running = Some(running);
                match reply {
                    Reply::Refused(refusal) => Err(refusal.into()),
                    reply => Ok((reply, body)),
                }
            }
            Err(why) => Err(state.fell(&format!("the data helper of {} ended: {why}", self.spec.owner))),
        }
    }

    async fn start(&self, state: &mut State) -> Result<(), Trouble> {
        if let Some(until) = state.not_before.filter(|t| *t > Instant::now()) {
            let ms = until.saturating_duration_since(Instant::now()).as_millis();
            return Err(Trouble::Resting(format!("its data helper is started again in {ms} ms")));
        }
        let (running, confined, gid) = match &self.hands {
            Hands::Here => {
                for (dir, _) in &self.spec.rooms {
                    std::fs::create_dir_all(dir).map_err(|e| state.fell(&format!("making {}: {e}", dir.display())))?;
                }
                (Running::Here(Box::default()), false, None)
            }
            Hands::Apart(engine) => match engine.helper(self.spec.clone()).await {
                Ok(helper) => {
                    let (confined, gid) = (helper.confined, helper.gid);
                    state.pid = helper.child.id();
                    (Running::Apart(Box::new(helper)), confined, gid)
                }
                Err(e) => return Err(state.fell(&e.to_string())),
            },
        };
        state.begun = Some(Instant::now());
        let open = self.place.opening(&self.spec, confined, gid);
        match running.ask(open, Vec::new()).await {
            Ok((running, Reply::Done, _)) => {
                state.running = Some(running);
                state.starts += 1;
                Ok(())
            }
            Ok((_, Reply::Refused(refusal), _)) => Err(state.fell(&refusal.detail)),
            Ok(_) => Err(state.fell("its helper does not speak our language")),
            Err(why) => Err(state.fell(&format!("the data helper of {} ended: {why}", self.spec.owner))),
        }
    }

    /// After this no process of it is left.
    pub async fn end(&self) {
        self.over.send_replace(true);
        let mut state = self.state.lock().await;
        if let Some(Running::Apart(mut helper)) = state.running.take()
            && let Err(e) = helper.child.kill().await
        {
            tracing::debug!(error = %e, "a helper was gone already");
        }
        // One that was busy was killed when its question was dropped, and is waited for here.
        let Some(pid) = state.pid.take() else { return };
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
        };
        let until = Instant::now() + Duration::from_millis(GONE_MS_MAX);
        while runs() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl State {
    fn fell(&mut self, why: &str) -> Trouble {
        let lived = self.begun.take().is_some_and(|b| b.elapsed() > Duration::from_millis(LIVED_MS));
        self.ends = if lived { 1 } else { self.ends.saturating_add(1) };
        let rest_ms = REST_MS.saturating_mul(1 << self.ends.min(16)).min(REST_MS_MAX);
        self.running = None;
        self.not_before = Some(Instant::now() + Duration::from_millis(rest_ms));
        Trouble::Ended(format!("{why}; it is started again in {rest_ms} ms"))
    }
}

impl Running {
    /// `Err`: it is of no use any more, and why.
    async fn ask(self, request: Request, body: Vec<u8>) -> Result<(Self, Reply, Vec<u8>), String> {
        match self {
            Self::Here(mut work) => world::blocking(move || {
                let (reply, body) = work.answer(request, &body);
                (Self::Here(work), reply, body)
            })
            .await
            .map_err(|e| e.to_string()),
            Self::Apart(mut helper) => {
                let opens = matches!(
                    request,
                    Request::Hold { .. } | Request::OpenHome(_) | Request::OpenFar(_) | Request::OpenAside(_)
                );
                let limit = Duration::from_millis(if opens { OPENED_MS_MAX } else { ANSWER_MS_MAX });
                let answered = tokio::time::timeout(limit, exchange(&mut helper, &request, &body)).await;
                match answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok((reply, body)) => Ok((Self::Apart(helper), reply, body)),
                    Err(e) => Err(how_it_ended(*helper, &e).await),
                }
            }
        }
    }
}

async fn exchange(helper: &mut Helper, request: &Request, body: &[u8]) -> io::Result<(Reply, Vec<u8>)> {
    let line = &mut helper.line;
    line.write_all(&head_of(request, body)?).await?;
    line.write_all(body).await?;
    let mut before = [0; 8];
    line.read_exact(&mut before).await?;
    let (head_len, body_len) = lengths(&before)?;
    let carries = matches!(
        request,
        Request::Look { .. } | Request::Base { .. } | Request::Pack | Request::Piece | Request::Missing
    );
    // A list of what is missing is no longer than the manifest that it is about.
    let most = if *request == Request::Missing { body.len() } else { usize::MAX };
    if body_len > if carries { most } else { SMALL_BYTES_MAX } {
        return Err(io::Error::other("it says more than it was asked"));
    }
    let mut head = vec![0; head_len];
    line.read_exact(&mut head).await?;
    let reply = serde_json::from_slice(&head)?;
    let mut body = vec![0; body_len];
    line.read_exact(&mut body).await?;
    Ok((reply, body))
}

async fn how_it_ended(mut helper: Helper, e: &io::Error) -> String {
    // It closes the line a moment before it can be waited for.
    match tokio::time::timeout(Duration::from_millis(500), helper.child.wait()).await {
        Ok(Ok(status)) => status.to_string(),
        _ => {
            let _ = helper.child.kill().await;
            format!("{e}; it was killed")
        }
    }
}

impl Place {
    fn opening(&self, spec: &HelperSpec, confined: bool, gid: Option<u32>) -> Request {
        match self {
            Self::Home(place) => Request::OpenHome(HomePlace {
                dir: spec.seen(confined, &place.dir),
                scratch: spec.seen(confined, &place.scratch),
                ..place.clone()
            }),
            Self::Aside(place) => Request::OpenAside(AsidePlace {
                aside: spec.seen(confined, &place.aside),
                beside: place.beside.as_ref().map(|dir| spec.seen(confined, dir)),
                ..place.clone()
            }),
            Self::Far(place) => Request::OpenFar(FarPlace {
                work: spec.seen(confined, &place.work),
                data: spec.seen(confined, &place.data),
                access: gid.map_or(place.access, pumasi_transfer::Access::Group),
                ..place.clone()
            }),
        }
    }
}
