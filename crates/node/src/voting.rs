//! The vote of a pact on who owns its services: consensus, the register that follows from it, this cloud's renewals.
//!
//! Enters: the pact in force, messages and renewals of members, commands. Leaves: the register as this cloud has applied it, until when
//! this cloud may write for what the register protects, what became of a command.
//!
//! Always holds:
//! - A cloud that was restored takes no part, and renews nothing, until its store was accepted; then it votes under another number.
//! - What is shown is on disk here (at voters), or committed at the voter that told it (at the others). A restart does not take it back.
//! - A right to write belongs to one process: what a process before renewed gives this one nothing.
//! - Nothing in here stops the daemon: a vote that cannot go on says so, and is begun anew from the store.
//!
//! `voter` decides and waits for nothing; `seat` does what it says, with `writer` for the disk and `lanes` for the others; `renew` keeps
//! this cloud alive in the register; `follow` reads along where this cloud has no vote.

mod ask;
mod follow;
pub mod group;
mod keep;
mod lanes;
mod register;
mod renew;
mod seat;
mod shown;
mod voter;
pub mod wire;
mod writer;

pub use ask::{command, followed, propose, receive, snapshot};
pub use shown::{OwnedUp, Part, Status, StoodUp, why_not};

use crate::node::{Locked, TxError};
use crate::{Node, clock};
use group::Group;
use pumasi_api::Problem;
use pumasi_ownership::liveness::{Hearing, Holder, Sights};
use pumasi_ownership::state::Standing;
use pumasi_ownership::timers::{Measured, Timers};
use pumasi_ownership::{Attestation, Command, Renewal, State};
use pumasi_quorum::RaftId;
use pumasi_terms::{BootMs, CloudName, Digest};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use voter::Outcome;
use wire::{Batch, Followed};

/// Calls that wait for the voter; what comes when there is no room counts as lost.
const INBOX_MAX: usize = 1_024;
const INBOX_BYTES_MAX: usize = 16 << 20;
/// A vote that went on for so long does not fail at its beginning.
const LASTED: Duration = Duration::from_secs(60);
/// Users are sent to a cloud that was silent for less, whatever the pact's times are.
const SILENT_MS_MIN: u64 = 500;
/// Where the pact says of no vote. Another pact is heard of at once.
const NO_VOTE_MS: u64 = 5_000;
/// Between two tries of a proposal.
const RETRY_MS: u64 = 20;

/// The times of consensus among those of a pact.
pub fn consensus_timers(t: &Timers) -> pumasi_quorum::Timers {
    pumasi_quorum::Timers {
        tick_ms: t.tick_ms,
        heartbeat_ms: t.heartbeat_ms,
        election_min_ms: t.election_ms_min,
        election_max_ms: t.election_ms_max,
    }
}

/// What a voter is asked or told by other tasks.
#[derive(Debug)]
enum Event {
    Batch {
        from: CloudName,
        id: RaftId,
        batch: Batch,
        renewals: Vec<Renewal>,
        /// Of what may wait at once; given back when it was looked at.
        _room: OwnedSemaphorePermit,
    },
    Renewal(Renewal),
    Propose {
        by: CloudName,
        command: Command,
        reply: oneshot::Sender<Outcome>,
    },
    Follow {
        after: Option<u64>,
        reply: oneshot::Sender<Followed>,
    },
    Snapshot {
        digest: Digest,
        reply: oneshot::Sender<Option<Arc<[u8]>>>,
    },
}

#[derive(Debug, Default)]
struct Inner {
    /// None: the pact does not vote.
    group: Option<Arc<Group>>,
    state: Option<Arc<State>>,
    holder: Option<Holder>,
    sights: Option<Sights>,
    hearing: Option<Hearing>,
    inbox: Option<mpsc::Sender<Event>>,
    seat: Option<shown::Seat>,
    /// Why this cloud takes no part, or not wholly.
    trouble: Option<String>,
    gateway_at: Option<BootMs>,
    measured: Measured,
}

/// The handle of everybody.
#[derive(Debug)]
pub struct Voting {
    inner: Locked<Inner>,
    /// The revision of the register.
    changed: watch::Sender<u64>,
    /// The pact in force changed.
    pact: watch::Sender<u64>,
    pub(crate) lanes: lanes::Measures,
    /// Bytes that may wait for the voter.
    room: Arc<Semaphore>,
}

impl Default for Voting {
    fn default() -> Self {
        let (changed, pact) = (watch::Sender::new(0), watch::Sender::new(0));
        Self {
            inner: Locked::default(),
            changed,
            pact,
            lanes: lanes::Measures::default(),
            room: Arc::new(Semaphore::new(INBOX_BYTES_MAX)),
        }
    }
}

impl Voting {
    /// Whether the pact in force votes. The register may not be known yet all the same.
    pub fn is_on(&self) -> bool {
        self.inner.lock().group.is_some()
    }

    /// The register as this cloud has applied it; None: the pact does not vote, or this cloud has yet to hear of it ([`Voting::is_on`]).
    pub fn state(&self) -> Option<Arc<State>> {
        self.inner.lock().state.clone()
    }

    /// The revision of the register, which rises with every renewal too.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Until when this cloud may write for services that the register protects. None: no right (yet).
    pub fn right_until(&self) -> Option<BootMs> {
        let inner = self.inner.lock();
        let holder = inner.holder.as_ref()?;
        let group = inner.group.as_ref()?;
        let known = inner.state.as_ref()?.clouds.get(&group.me)?;
        // Of another run, or lost: whatever was renewed counts for nothing any more.
        let counts =
            known.run == holder.run() && matches!(known.standing, Standing::Alive | Standing::Returning { .. });
        holder.right_until().filter(|_| counts)
    }

    /// Under which this process is alive in the register.
    pub fn run(&self) -> Option<u64> {
        self.inner.lock().holder.as_ref().map(Holder::run)
    }

    /// Clouds whose renewals are late: voters are asked what they heard.
    pub fn suspects(&self, now: BootMs) -> Vec<CloudName> {
        let inner = self.inner.lock();
        match (&inner.sights, &inner.state) {
            (Some(sights), Some(state)) => sights.suspects(state, now).cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// Whether a cloud is not heard, though it is not lost: this cloud itself hears its renewals where it votes, else by others.
    pub fn is_silent(&self, cloud: &CloudName, now: BootMs) -> bool {
        let inner = self.inner.lock();
        let (Some(sights), Some(state)) = (&inner.sights, &inner.state) else { return false };
        let ttl_ms = state.clouds.get(cloud).map_or(0, |c| c.ttl_ms);
        sights.silent_ms(state, cloud, now).is_some_and(|ms| ms >= (ttl_ms / 2).max(SILENT_MS_MIN))
    }

    /// Whether this cloud votes.
    pub fn votes(&self) -> bool {
        self.inner.lock().inbox.is_some()
    }

    /// From when on, by this cloud's clock, a cloud may be called lost.
    pub fn ripe_at(&self, cloud: &CloudName) -> Option<BootMs> {
        let inner = self.inner.lock();
        let (sights, state, group) = (inner.sights.as_ref()?, inner.state.as_ref()?, inner.group.as_ref()?);
        sights.ripe_at(state, &group.me, cloud)
    }

    /// This voter's word that it did not hear a cloud itself, where it was silent for long enough.
    pub fn attest(&self, cloud: &CloudName, nonce: u64, now: BootMs) -> Option<Attestation> {
        let inner = self.inner.lock();
        let (hearing, state, group) = (inner.hearing.as_ref()?, inner.state.as_ref()?, inner.group.as_ref()?);
        // Who does not listen has heard nobody.
        inner.inbox.as_ref().filter(|_| state.is_voter(&group.me))?;
        hearing.attest(state, cloud, nonce, now)
    }

    pub fn leader(&self) -> Option<CloudName> {
        self.inner.lock().seat.as_ref().and_then(|s| s.leader.clone())
    }

    /// As another voter told, for who has no vote.
    fn hear_leader(&self, leader: Option<CloudName>) {
        let mut inner = self.inner.lock();
        if inner.inbox.is_none() && leader.is_some() {
            inner.seat.get_or_insert_default().leader = leader;
        }
    }

    /// It does not lead, or does not answer.
    fn no_leader(&self, cloud: &CloudName) {
        let mut inner = self.inner.lock();
        if inner.inbox.is_none()
            && let Some(seat) = inner.seat.as_mut().filter(|s| s.leader.as_ref() == Some(cloud))
        {
            seat.leader = None;
        }
    }

    pub(crate) fn group(&self) -> Option<Arc<Group>> {
        self.inner.lock().group.clone()
    }

    /// For the task that looks after the gateway: it answered.
    pub(crate) fn gateway_answered(&self, now: BootMs) {
        self.inner.lock().gateway_at = Some(now);
    }

    /// The pact in force may be another one.
    pub(crate) fn look_again(&self) {
        self.pact.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// A newer serial of the same voting, or another voting, which begins with nothing.
    fn enter(&self, group: &Arc<Group>, now: BootMs) {
        let mut inner = self.inner.lock();
        let same = inner.group.as_ref().is_some_and(|g| g.key() == group.key());
        if !same {
            let gateway_at = inner.gateway_at;
            *inner = Inner { gateway_at, hearing: Some(Hearing::start(now)), ..Inner::default() };
        }
        inner.group = Some(group.clone());
        inner.trouble = None;
    }

    fn leave(&self) {
        let mut inner = self.inner.lock();
        let gateway_at = inner.gateway_at;
        *inner = Inner { gateway_at, ..Inner::default() };
    }

    /// What was applied. A renewal of this process that is in it was answered by that.
    fn show(&self, state: &Arc<State>, now: BootMs) {
        let mut inner = self.inner.lock();
        let Inner { state: shown, sights, holder, group, .. } = &mut *inner;
        // A store that fell behind what another voter told does not take it back.
        if shown.as_ref().is_some_and(|s| s.revision > state.revision) {
            return;
        }
        *shown = Some(state.clone());
        match sights {
            Some(sights) => sights.applied(state, now),
            None => *sights = Some(Sights::start(state, now)),
        }
        if let (Some(holder), Some(group)) = (holder, group)
            && let Some(known) = state.clouds.get(&group.me)
        {
            holder.answered(known.run, known.seq, now);
        }
        drop(inner);
        self.changed.send_replace(state.revision);
    }

    /// The last renewal of a cloud in the register, as it is on disk here.
    fn renewed(&self, cloud: &CloudName) -> Option<(u64, u64)> {
        let inner = self.inner.lock();
        inner.state.as_ref()?.clouds.get(cloud).map(|known| (known.run, known.seq))
    }

    /// A voter has this renewal of ours in its register: that it is in the log is a fact, whoever says it. Who does not see the leader hears of
    /// it by nothing else, while the others hear him and call nobody lost.
    fn hear_renewed(&self, renewed: Option<(u64, u64)>, now: BootMs) {
        let mut inner = self.inner.lock();
        if let (Some(holder), Some((run, seq))) = (&mut inner.holder, renewed) {
            holder.answered(run, seq, now);
        }
    }

    /// A renewal came from its cloud: nobody else makes a sight earlier than it was.
    fn saw(&self, renewal: &Renewal, now: BootMs) {
        let mut inner = self.inner.lock();
        let known = inner.state.as_ref().is_some_and(|s| s.clouds.contains_key(&renewal.cloud));
        if let Some(sights) = inner.sights.as_mut().filter(|_| known) {
            sights.saw(&renewal.cloud, renewal.run, renewal.seq, now);
        }
    }

    fn heard(&self, cloud: &CloudName, now: BootMs) {
        let mut inner = self.inner.lock();
        let Inner { hearing, state, .. } = &mut *inner;
        if let (Some(hearing), Some(state)) = (hearing, state) {
            hearing.heard(state, cloud, now);
        }
    }

    fn inbox(&self) -> Option<mpsc::Sender<Event>> {
        self.inner.lock().inbox.clone()
    }

    /// For this cloud's own voter, which may not be there.
    fn tell_voter(&self, event: Event) -> bool {
        self.inbox().is_some_and(|inbox| inbox.try_send(event).is_ok())
    }

    fn fail(&self, why: Option<String>) {
        self.inner.lock().trouble = why;
    }

    fn measure_fsync(&self, fsync_p99_ms: u64) {
        self.inner.lock().measured.fsync_p99_ms = fsync_p99_ms;
    }

    fn measured(&self) -> Measured {
        Measured { rtt_p99_ms: self.lanes.rtt_p99_ms(), ..self.inner.lock().measured }
    }
}

/// At the start, before anything is served: what this cloud has applied. A cloud without a vote hears it anew.
pub fn load(node: &Node) -> Result<(), Problem> {
    let Some(group) = wanted(node)? else { return Ok(()) };
    let group = Arc::new(group);
    node.voting.enter(&group, clock::boot());
    let failed = |e: keep::KeepError| Problem::ours(e.to_string());
    let Some(kept) = keep::load(&node.store, &group.key()).map_err(failed)? else { return Ok(()) };
    if let Some(state) = keep::state_of(&kept, register::rules()).map_err(failed)? {
        node.voting.show(&Arc::new(state), clock::boot());
    }
    Ok(())
}

/// The group of the pact in force; none: it does not vote.
fn wanted(node: &Node) -> Result<Option<Group>, Problem> {
    let Some(view) = node.pact() else { return Ok(None) };
    Group::of(&view, node.name(), node.store.identity().incarnation)
}

/// Keeps this cloud's part of the vote, as the pact in force says.
pub async fn run(node: Arc<Node>) {
    let (mut stopping, mut pact) = (node.stopping.clone(), node.voting.pact.subscribe());
    let mut failures = 0;
    while !*stopping.borrow() {
        pact.borrow_and_update();
        let began = Instant::now();
        let ended = once(&node).await;
        if *stopping.borrow() {
            return;
        }
        let why = ended.as_ref().err().map(ToString::to_string);
        node.health.saw(seat::WHAT, ended);
        let pause_ms = match why {
            None => {
                failures = 0;
                // Another part, or other times, are taken up at once; without a vote there is nothing to hurry for.
                if node.voting.is_on() && node.may_act().is_ok() { RETRY_MS } else { NO_VOTE_MS }
            }
            Some(why) => {
                node.voting.fail(Some(why.clone()));
                if failures == 0 || began.elapsed() > LASTED {
                    failures = 0;
                    node.note("daemon", crate::node::Note::new("vote_failed", "pact", node.name()).because(why)).await;
                }
                failures += 1;
                (500_u64 << failures.min(7)).min(60_000)
            }
        };
        tokio::select! {
            biased;
            _ = stopping.changed() => return,
            _ = pact.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
        }
    }
}

/// Until the pact says something else, or something fails.
async fn once(node: &Arc<Node>) -> Result<(), Problem> {
    let Some(group) = wanted(node)? else {
        node.voting.leave();
        return forget(node, None).await;
    };
    let group = Arc::new(group);
    node.voting.enter(&group, clock::boot());
    if let Err(why) = node.may_act() {
        // It may have voted for what it has forgotten.
        node.voting.fail(Some(format!("{why}; it neither votes nor renews before `pumasi accept-restored`")));
        return Ok(());
    }
    forget(node, Some(group.key())).await?;
    let parts = seat::Parts::new(node, &group);
    let kept = keep::load(&node.store, &group.key()).map_err(|e| Problem::ours(e.to_string()))?;
    let counted = kept.as_ref().is_some_and(|k| k.id == group.own_id() && k.conf.has(k.id));
    if kept.is_some() && !compared(node, &group).await {
        return Ok(());
    }
    match group.is_voter() || counted {
        true => seat::sit(node, &group, kept, parts).await,
        false => follow::along(node, &group, parts).await,
    }
}

/// Whoever has voted before waits until as many others as make a majority with it have told how far they know its store: one that was
/// put back with its whole machine does not find out by itself. False: the pact changed, or the daemon stops, or the store is old.
async fn compared(node: &Node, group: &Group) -> bool {
    let (mut stopping, mut pact) = (node.stopping.clone(), node.voting.pact.subscribe());
    let enough = group.named().len() / 2;
    loop {
        if node.may_act().is_err() {
            return false;
        }
        if group.others().filter(|c| node.peers.of(c).compared).count() >= enough.min(group.others().count()) {
            return true;
        }
        node.voting.fail(Some("this voter waits for a majority to tell how far they know its store".into()));
        tokio::select! {
            biased;
            _ = stopping.changed() => return false,
            _ = pact.changed() => return false,
            () = tokio::time::sleep(Duration::from_millis(RETRY_MS)) => {}
        }
    }
}

/// What the store keeps of votes that are over.
async fn forget(node: &Node, but: Option<String>) -> Result<(), Problem> {
    let kept = node.store.raft_pacts().map_err(|e| crate::node::store_problem(&e))?;
    let over: Vec<String> = kept.into_iter().filter(|k| Some(k) != but.as_ref()).collect();
    if over.is_empty() {
        return Ok(());
    }
    let forgotten = node.store.transact(move |tx| {
        for key in over {
            tx.raft_forget(&key)?;
            let note =
                crate::node::Note::new("vote_forgotten", "pact", key).because("the pact does not vote so any more");
            tx.journal(note.entry("daemon", clock::wall()))?;
        }
        Ok::<_, TxError>(())
    });
    forgotten.await.map_err(Problem::from)
}
