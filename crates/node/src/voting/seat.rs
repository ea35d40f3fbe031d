//! A voter's place: does what `voter` says, tick by tick.
//!
//! Always holds: ticks wait for neither disk nor network; a transaction is begun only after the one before it was; whatever breaks here ends
//! this seat, after which it is taken anew from the store.

use super::group::Group;
use super::lanes::{Lanes, Word};
use super::shown::Seat;
use super::voter::{Broken, Effect, Voter};
use super::writer::{Job, Wrote};
use super::{Event, INBOX_MAX, consensus_timers, keep, register, renew, writer};
use crate::node::{Note, TxError};
use crate::{Node, clock, world};
use pumasi_api::Problem;
use pumasi_ownership::{State, Told};
use pumasi_quorum::{Driver, Kept, Settings};
use pumasi_terms::{CloudName, Digest};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// As `/readyz` names it.
pub const WHAT: &str = "the vote of the pact";
/// Events between two looks at what is due.
const TOGETHER_MAX: usize = 256;
/// For the bytes of a snapshot.
const FETCH: Duration = Duration::from_secs(60);
/// What people are shown is looked at so often.
const SHOW_MS: u64 = 250;

/// Tasks of this cloud's part in a vote; they end with it.
pub struct Parts {
    pub lanes: Arc<Lanes>,
    tasks: Vec<JoinHandle<()>>,
}

impl Parts {
    pub fn new(node: &Arc<Node>, group: &Arc<Group>) -> Self {
        let lanes = Lanes::new(node);
        let renews = world::spawn(renew::run(node.clone(), group.key(), lanes.clone()));
        Self { lanes, tasks: vec![renews] }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The writer's task, of which nothing is under way any more once it was ended.
struct Disk {
    jobs: mpsc::UnboundedSender<Job>,
    wrote: mpsc::UnboundedReceiver<Wrote>,
    task: JoinHandle<()>,
}

impl Disk {
    fn begin(node: &Arc<Node>, key: String) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let (done, wrote) = mpsc::unbounded_channel();
        Self { jobs, wrote, task: writer::begin(node, key, queue, done) }
    }

    /// What was handed to the store already is written before anything later.
    async fn end(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

type Fetched = (Digest, Option<Vec<u8>>);

struct Running {
    node: Arc<Node>,
    voter: Voter,
    disk: Disk,
    lanes: Arc<Lanes>,
    fetched: (mpsc::UnboundedSender<Fetched>, mpsc::UnboundedReceiver<Fetched>),
    inbox: mpsc::Receiver<Event>,
    shown: (Seat, Option<Instant>),
    transactions: u64,
}

fn broken(e: impl std::fmt::Display) -> Problem {
    Problem::ours(format!("{e}; this cloud's voter is begun anew from its store, the others go on"))
}

/// What the store keeps, or what one begins with. A row of the journal makes the store's revision rise: it numbers this run.
async fn begin(node: &Node, group: &Group, kept: Option<Kept>) -> Result<Kept, Problem> {
    let kept = kept.filter(|k| k.id == group.own_id());
    let (new, kept) = match kept {
        Some(kept) => (false, kept),
        None => (true, group.beginning()?),
    };
    let rows = if new { Some(keep::kept_out(&kept).map_err(broken)?) } else { None };
    let how = match (new, kept.applied) {
        (false, applied) => format!("from entry {applied} of its log"),
        (true, 0) => "with nothing: the leader sends the register".into(),
        (true, _) => "as one of the first voters".into(),
    };
    let (key, note) = (group.key(), Note::new("vote_begun", "pact", group.key()).because(how));
    let begun = node.store.transact(move |tx| {
        if let Some(rows) = rows {
            tx.raft_begin(&key, &rows)?;
        }
        tx.journal(note.entry("daemon", clock::wall()))?;
        Ok::<_, TxError>(())
    });
    begun.await.map_err(Problem::from)?;
    Ok(kept)
}

fn driver_of(node: &Node, group: &Group, kept: &Kept) -> Result<Driver, Problem> {
    let settings = Settings {
        id: group.own_id(),
        run: node.store.revision().0,
        // Half of the entropy is enough for a scatter of milliseconds.
        seed: u64::try_from(clock::entropy() >> 64).unwrap_or_default(),
        timers: consensus_timers(group.timers()),
        round_trip_ms: node.voting.lanes.rtt_ms(),
    };
    Driver::start(settings, kept, clock::boot()).map_err(broken)
}

/// Votes until the pact says otherwise, or something breaks.
pub async fn sit(node: &Arc<Node>, group: &Arc<Group>, kept: Option<Kept>, parts: Parts) -> Result<(), Problem> {
    let kept = begin(node, group, kept).await?;
    let state = keep::state_of(&kept, register::rules()).map_err(broken)?;
    let driver = driver_of(node, group, &kept)?;
    let snapshot = kept.snapshot.map(|s| (s.meta.digest, s.state.into()));
    let (sender, inbox) = mpsc::channel(INBOX_MAX);
    if let Some(state) = &state {
        node.voting.show(&Arc::new(state.clone()), clock::boot());
    }
    {
        let mut inner = node.voting.inner.lock();
        (inner.inbox, inner.trouble) = (Some(sender), None);
    }
    let mut running = Running {
        node: node.clone(),
        voter: Voter::new((**group).clone(), driver, state, snapshot),
        disk: Disk::begin(node, group.key()),
        lanes: parts.lanes.clone(),
        fetched: mpsc::unbounded_channel(),
        inbox,
        shown: Default::default(),
        transactions: 0,
    };
    let ended = running.go_on().await;
    {
        let mut inner = node.voting.inner.lock();
        (inner.inbox, inner.seat) = (None, None);
    }
    running.disk.end().await;
    drop(parts);
    ended
}

impl Running {
    async fn go_on(&mut self) -> Result<(), Problem> {
        let (mut stopping, mut pact) = (self.node.stopping.clone(), self.node.voting.pact.subscribe());
        let tick = Duration::from_millis(self.voter.group.timers().tick_ms);
        let mut next = Instant::now() + tick;
        loop {
            let mut effects = Vec::new();
            tokio::select! {
                biased;
                _ = stopping.changed() => return Ok(()),
                _ = pact.changed() => if !self.regroup()? { return Ok(()) },
                Some(wrote) = self.disk.wrote.recv() => effects = self.wrote(wrote)?,
                Some((digest, bytes)) = self.fetched.1.recv() => self.voter.fetched(digest, bytes),
                () = tokio::time::sleep_until(next) => {}
                Some(event) = self.inbox.recv() => self.take(event),
            }
            // What is there already is looked at together.
            for _ in 0..TOGETHER_MAX {
                match self.inbox.try_recv() {
                    Ok(event) => self.take(event),
                    Err(_) => break,
                }
            }
            if Instant::now() >= next {
                next = Instant::now() + tick;
                if !self.voter.takes_part() {
                    return Ok(());
                }
                // What a restored store has promised before is not known to it.
                self.node.may_act().map_err(Problem::conflict)?;
            }
            effects.extend(self.voter.pump(clock::boot()).map_err(told)?);
            effects.into_iter().for_each(|effect| self.carry_out(effect));
            self.tell();
        }
    }

    /// A newer serial of the same voting goes on here; another one, or other times, begin anew.
    fn regroup(&mut self) -> Result<bool, Problem> {
        let Some(group) = super::wanted(&self.node)? else { return Ok(false) };
        let old = &self.voter.group;
        if group.key() != old.key() || group.timers() != old.timers() || group.own_id() != old.own_id() {
            return Ok(false);
        }
        self.node.voting.enter(&Arc::new(group.clone()), clock::boot());
        self.voter.set_group(group);
        Ok(true)
    }

    fn wrote(&mut self, wrote: Wrote) -> Result<Vec<Effect>, Problem> {
        match wrote {
            Wrote::Done(number) => {
                self.transactions += 1;
                Ok(self.voter.written(number))
            }
            Wrote::Failed(e) => Err(broken(format!("what was decided could not be written: {e}"))),
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Batch { from, id, batch, renewals, .. } => {
                self.voter.tells(&from, batch.incarnation);
                batch.messages.iter().for_each(|m| self.voter.message(id, m));
                let now = clock::boot();
                renewals.into_iter().for_each(|r| self.voter.renewal(r, now));
            }
            Event::Renewal(renewal) => self.voter.renewal(renewal, clock::boot()),
            Event::Propose { by, command, reply } => self.voter.propose(&by, command, reply),
            Event::Follow { after, reply } => self.follow(after, reply),
            Event::Snapshot { digest, reply } => drop(reply.send(self.voter.snapshot(&digest))),
        }
    }

    fn follow(&mut self, after: Option<u64>, reply: oneshot::Sender<super::wire::Followed>) {
        let followed = match after.and_then(|after| self.voter.ring().after(after)) {
            Some(entries) => super::wire::Followed { entries, ..Default::default() },
            // None: nothing is known here yet, and whoever asks gets no answer.
            None => match self.voter.snapshot_now() {
                Some(digest) => super::wire::Followed { snapshot: Some(digest.0), ..Default::default() },
                None => return,
            },
        };
        let _ = reply.send(followed);
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.lanes.say(&to, Word::Message(message)),
            Effect::Forward { to, renewal } => self.lanes.say(&to, Word::Renewal(renewal)),
            // Without a writer the failure that ended it is on its way here.
            Effect::Write { number, writes, told } => drop(self.disk.jobs.send(Job { number, writes, told })),
            Effect::Fetch { from, digest } => {
                let (node, fetched) = (self.node.clone(), self.fetched.0.clone());
                world::spawn(async move {
                    let bytes = fetch(&node, &from, digest).await;
                    let _ = fetched.send((digest, bytes));
                });
            }
            Effect::Show { state, told } => show(&self.node, &state, &told),
        }
    }

    fn tell(&mut self) {
        let now = Instant::now();
        let Some(status) = self.voter.status() else { return };
        let leads = status.role == pumasi_quorum::Role::Leader;
        let leader = self.voter.leader();
        let (before, at) = &self.shown;
        let news = before.leader != leader || before.leads != leads || before.term != status.term;
        if !news && at.is_some_and(|at| now.duration_since(at) < Duration::from_millis(SHOW_MS)) {
            return;
        }
        // The group does not count this number yet, and nobody speaks to it: whoever leads hears of it by this.
        if !status.conf.has(self.voter.group.own_id()) {
            self.voter.group.others().for_each(|voter| self.lanes.say(voter, Word::Hello));
        }
        if leader.is_some() {
            self.node.health.saw(WHAT, Ok(()));
        }
        if news {
            tracing::info!(pact = %self.voter.group.pact, term = status.term, leader = ?leader, "the vote of the pact");
        }
        let seat = Seat {
            leader,
            leads,
            term: status.term,
            applied: status.applied,
            last: status.last,
            stalled: status.stalled,
            campaigns: status.campaigns,
            transactions: self.transactions,
        };
        self.voter.measured(self.node.voting.lanes.rtt_ms());
        self.node.voting.inner.lock().seat = Some(seat.clone());
        self.shown = (seat, Some(now));
    }
}

fn told(e: Broken) -> Problem {
    match e {
        Broken::Stopped(stop) => {
            Problem::ours(format!("{stop}; the register stands still here until then, the others go on"))
        }
        other => broken(other),
    }
}

/// The register is so now; who acts on owners looks again where one changed.
pub fn show(node: &Node, state: &Arc<State>, told: &[Told]) {
    node.voting.show(state, clock::boot());
    let acts = |t: &Told| !matches!(t, Told::Refused(_) | Told::InSync { .. } | Told::Progress { .. });
    if told.iter().any(acts) {
        node.wake.notify_one();
    }
}

pub async fn fetch(node: &Node, from: &CloudName, digest: Digest) -> Option<Vec<u8>> {
    let group = node.voting.group()?;
    let client = node.peers.clients.of(node, from).ok()?.with_timeout(FETCH);
    match client.bytes(&format!("/v1/pacts/{}/snapshot/{digest}", group.pact)).await {
        Ok(bytes) => Some(bytes.into()),
        Err(e) => {
            tracing::warn!(%from, error = %e, "a snapshot of the register was not fetched; tried again");
            None
        }
    }
}
