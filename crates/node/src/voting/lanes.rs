//! Words to the other members about the vote: a lane a member, with its own connections.
//!
//! Enters: messages and renewals. Leaves: calls that carry as many as there are; how long the way is.
//! Always holds: who puts a word in never waits, and what there is no room for counts as lost; a call that is too old is given up, and a
//! connection that answers nothing for long is given up with it; two calls of a lane are under way at most.

use super::group::Group;
use super::wire::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, Batch, Heard};
use crate::node::Locked;
use crate::{Node, clock, pact, world};
use pumasi_api::Client;
use pumasi_ownership::Renewal;
use pumasi_terms::{BootMs, CloudName};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Words that wait for one member.
const QUEUE_MAX: usize = 1_024;
/// Calls to one member that are under way.
const CALLS_MAX: usize = 2;
/// A new connection is given so long, and twice as long where calls were in vain: it takes three round trips.
const CONNECT_MS: u64 = 1_000;
/// A call on one that answered, whatever the way.
const PATIENCE_MS_MAX: u64 = 2_000;
/// Calls that were given up make the next ones more patient, up to so many.
const IN_VAIN_MAX: u32 = 4;
/// Without an answer for so long, a connection is given up.
const SILENT_MS: u64 = 500;
/// Then a member is called over a new connection: it must show again who it is.
const CLIENT_LIFE_MS: u64 = 3_600_000;
/// Round trips that are remembered of a member.
const RTTS: usize = 64;

#[derive(Debug)]
pub enum Word {
    Message(Vec<u8>),
    Renewal(Renewal),
    /// Under which number this cloud votes, which every batch tells.
    Hello,
}

/// How long the way to each member is, as calls found it last.
#[derive(Debug, Default)]
pub struct Measures {
    ways: Locked<BTreeMap<CloudName, Way>>,
}

#[derive(Debug, Default)]
struct Way {
    rtts_ms: VecDeque<u64>,
    bytes: u64,
    calls: u64,
}

impl Measures {
    fn took(&self, cloud: &CloudName, ms: u64) {
        let mut ways = self.ways.lock();
        let way = ways.entry(cloud.clone()).or_default();
        way.rtts_ms.push_back(ms);
        if way.rtts_ms.len() > RTTS {
            way.rtts_ms.pop_front();
        }
    }

    fn sent(&self, cloud: &CloudName, bytes: usize) {
        let mut ways = self.ways.lock();
        let way = ways.entry(cloud.clone()).or_default();
        (way.bytes, way.calls) = (way.bytes + bytes as u64, way.calls + 1);
    }

    fn keep(&self, group: &Group) {
        self.ways.lock().retain(|cloud, _| group.members.contains(cloud));
    }

    /// Bytes and calls since the start.
    pub fn totals(&self) -> (u64, u64) {
        self.ways.lock().values().fold((0, 0), |(b, c), w| (b + w.bytes, c + w.calls))
    }

    /// Of the slowest member that is heard; with so few samples the one but slowest stands for the hundredth.
    pub fn rtt_p99_ms(&self) -> u64 {
        self.ways.lock().values().filter_map(|w| nth_slowest(&w.rtts_ms, 1)).max().unwrap_or(0)
    }

    /// The middle one, of the slowest member.
    pub fn rtt_ms(&self) -> u64 {
        self.ways.lock().values().filter_map(|w| nth_slowest(&w.rtts_ms, w.rtts_ms.len() / 2)).max().unwrap_or(0)
    }

    fn rtt_of(&self, cloud: &CloudName) -> u64 {
        let ways = self.ways.lock();
        ways.get(cloud).and_then(|w| nth_slowest(&w.rtts_ms, w.rtts_ms.len() / 2)).unwrap_or(0)
    }
}

/// From the slowest on, from 0.
fn nth_slowest(times: &VecDeque<u64>, n: usize) -> Option<u64> {
    let mut sorted: Vec<u64> = times.iter().copied().collect();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    sorted.get(n.min(sorted.len().saturating_sub(1))).copied()
}

/// Of one group, while this cloud is in it.
#[derive(Debug)]
pub struct Lanes {
    node: Arc<Node>,
    lanes: Locked<BTreeMap<CloudName, Lane>>,
}

#[derive(Debug)]
struct Lane {
    words: mpsc::Sender<Word>,
    task: JoinHandle<()>,
}

impl Lanes {
    pub fn new(node: &Arc<Node>) -> Arc<Self> {
        Arc::new(Self { node: node.clone(), lanes: Locked::default() })
    }

    /// It may be lost.
    pub fn say(&self, to: &CloudName, word: Word) {
        let Some(group) = self.node.voting.group().filter(|g| g.members.contains(to) && &g.me != to) else { return };
        let mut lanes = self.lanes.lock();
        if lanes.len() > group.members.len() {
            lanes.retain(|cloud, lane| {
                let stays = group.members.contains(cloud);
                if !stays {
                    lane.task.abort();
                }
                stays
            });
            self.node.voting.lanes.keep(&group);
        }
        let lane = lanes.entry(to.clone()).or_insert_with(|| {
            let (words, queue) = mpsc::channel(QUEUE_MAX);
            Lane { words, task: world::spawn(run(self.node.clone(), to.clone(), queue)) }
        });
        let _ = lane.words.try_send(word);
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.lanes.lock().values().for_each(|lane| lane.task.abort());
    }
}

/// The connections of a lane, used in turn.
#[derive(Debug, Default)]
struct Pool {
    clients: [Option<Open>; CALLS_MAX],
    turn: usize,
}

#[derive(Debug, Clone)]
struct Open {
    client: Client,
    address: String,
    since: BootMs,
    answered: Arc<Locked<Option<BootMs>>>,
}

impl Open {
    fn is_good(&self, address: &str, now: BootMs) -> bool {
        self.address == address && now.since(self.since) < CLIENT_LIFE_MS
    }
    fn heard_at(&self) -> BootMs {
        self.answered.get().unwrap_or(self.since)
    }
}

/// What the calls of a lane found.
#[derive(Debug, Default)]
struct Found {
    /// Connections that did not answer since then are given up.
    silent_since: Option<BootMs>,
    /// Calls that were given up, less those that were answered since: the way may have become longer.
    in_vain: u32,
}

impl Pool {
    fn next(&mut self, node: &Node, to: &CloudName) -> Option<Open> {
        let member = node.pact().and_then(|v| v.pact.member(to).cloned())?;
        let now = clock::boot();
        self.turn = (self.turn + 1) % CALLS_MAX;
        let slot = self.clients.get_mut(self.turn)?;
        if slot.as_ref().is_none_or(|open| !open.is_good(&member.api_address, now)) {
            let client = pact::client_of(node, &member).ok()?;
            let answered = Arc::default();
            *slot = Some(Open { client, address: member.api_address.clone(), since: now, answered });
        }
        slot.clone()
    }

    fn give_up(&mut self, silent: impl Fn(&Open) -> bool) {
        self.clients.iter_mut().filter(|c| c.as_ref().is_some_and(&silent)).for_each(|c| *c = None);
    }
}

async fn run(node: Arc<Node>, to: CloudName, mut queue: mpsc::Receiver<Word>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    let found = Arc::new(Locked::<Found>::default());
    let mut pool = Pool::default();
    let mut left: Option<Word> = None;
    loop {
        let first = match left.take() {
            Some(word) => word,
            None => match queue.recv().await {
                Some(word) => word,
                None => return,
            },
        };
        // While both calls are under way, more comes together.
        let Ok(permit) = calls.clone().acquire_owned().await else { return };
        let Some(group) = node.voting.group() else { return };
        let mut batch = Batch { since: group.since, incarnation: group.incarnation, ..Batch::default() };
        left = fill(&mut batch, first, &mut queue);
        if let Some(at) = found.lock().silent_since.take() {
            pool.give_up(|open| open.heard_at() <= at);
        }
        let Some(open) = pool.next(&node, &to) else { continue };
        let (node, to, found) = (node.clone(), to.clone(), found.clone());
        world::spawn(async move {
            call(&node, &to, &group, &batch, &open, &found).await;
            drop(permit);
        });
    }
}

/// As much as goes into one call; what does not is left for the next.
fn fill(batch: &mut Batch, first: Word, queue: &mut mpsc::Receiver<Word>) -> Option<Word> {
    let (mut bytes, mut next) = (0, Some(first));
    while let Some(word) = next.take() {
        let len = match &word {
            Word::Message(m) => m.len(),
            Word::Renewal(_) => 512,
            Word::Hello => 0,
        };
        let count = batch.messages.len() + batch.renewals.len();
        if count > 0 && (bytes + len > BATCH_BYTES_MAX || count >= BATCH_MESSAGES_MAX) {
            return Some(word);
        }
        bytes += len;
        match word {
            Word::Message(m) => batch.messages.push(m),
            Word::Renewal(r) => batch.renewals.extend(serde_json::to_vec(&r)),
            Word::Hello => {}
        }
        next = queue.try_recv().ok();
    }
    None
}

/// A call is given up after three heartbeats, or two round trips where that is longer.
fn patience_ms(node: &Node, to: &CloudName, group: &Group, (answered, in_vain): (bool, u32)) -> u64 {
    let three_ms = group.timers().heartbeat_ms * 3;
    match answered {
        true => (three_ms.max(2 * node.voting.lanes.rtt_of(to)) << in_vain.min(IN_VAIN_MAX))
            .min(PATIENCE_MS_MAX.max(three_ms)),
        false => three_ms.max(CONNECT_MS << in_vain.min(1)),
    }
}

async fn call(node: &Arc<Node>, to: &CloudName, group: &Group, batch: &Batch, open: &Open, found: &Locked<Found>) {
    let (began, is_warm) = (Instant::now(), open.answered.get().is_some());
    let patience_ms = patience_ms(node, to, group, (is_warm, found.lock().in_vain));
    let bytes = batch.encode();
    node.voting.lanes.sent(to, bytes.len());
    let client = open.client.with_timeout(Duration::from_millis(patience_ms));
    let path = format!("/v1/pacts/{}/messages", group.pact);
    let answer = client.send_bytes::<Heard>("POST", &path, bytes.into()).await;
    let now = clock::boot();
    match answer {
        Ok(heard) => {
            open.answered.set(Some(now));
            // Not forgotten at once: a way that became longer stays so, and what was measured before says otherwise for a while.
            {
                let mut found = found.lock();
                found.in_vain = found.in_vain.saturating_sub(1);
            }
            if is_warm {
                node.voting.lanes.took(to, u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
            }
            node.voting.hear_renewed(heard.renewed, now);
            node.voting.hear_leader(heard.leader);
        }
        // It answered, if not as one would like.
        Err(e) if !e.is_unreachable() => {
            open.answered.set(Some(now));
            tracing::debug!(%to, error = %e, "words about the vote were refused");
        }
        Err(e) => {
            tracing::debug!(%to, error = %e, "words about the vote are given up");
            let mut found = found.lock();
            found.in_vain = found.in_vain.saturating_add(1).min(IN_VAIN_MAX);
            if now.since(open.heard_at()) >= SILENT_MS {
                found.silent_since = Some(BootMs(now.0.saturating_sub(SILENT_MS)));
            }
        }
    }
}
