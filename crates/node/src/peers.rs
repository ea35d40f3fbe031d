//! Heartbeats: one batch a second to each member carries renewals there and offers, lease states and news back.
//!
//! Always holds: a lease's time is counted from when the renewal was sent; nothing here decides, it reports to the journeys; a
//! member's number about this cloud's store counts only with a receipt that this cloud gave it.

use crate::node::Locked;
use crate::quiet::{IDLE_MS, Rests};
use crate::takeover::game_day;
use crate::wire::PROTOCOL;
use crate::{Node, borrower, clock, pact, register};
use pumasi_journey::{Event, Journey, PartState, renewals};
use pumasi_lease::message::{Heartbeat, HeartbeatAnswer, Receipt, Renewal};
use pumasi_store::COUNT_MAX;
use pumasi_terms::offer::Offer;
use pumasi_terms::pact::Member;
use pumasi_terms::{BootMs, CloudName, LeaseId, Revision};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Round trips remembered for a member.
const RTTS: usize = 16;
/// While something is starting or stopping there, it is asked so often.
const EAGER_MS: u64 = 100;
/// Another trouble with a member that is in trouble already is told only so often.
const TROUBLE_MS: u64 = 5_000;
/// One that was not heard yet may be starting as this daemon is: it has so long before it is told.
const FIRST_MS: u64 = 5_000;
/// A member that says again what it cannot prove is told of only so often.
const CLAIM_MS: u64 = 3_600_000;
/// A member's pact is asked for only so often.
const ASK_MS: u64 = 900;
/// Hexadecimal digits of a receipt's proof.
const MAC_HEX: usize = 64;
/// An offer older than this is no offer.
const OFFER_MS_MAX: u64 = 10_000;

#[derive(Debug, Default)]
pub struct Peers {
    pub clients: pact::Clients,
    seen: Locked<BTreeMap<CloudName, Seen>>,
}

#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub heard_at: Option<BootMs>,
    rtts_us: VecDeque<u64>,
    /// Of its store, as it said last.
    pub incarnation: Option<u64>,
    /// What it knows of this cloud's store was compared with it, since this start.
    pub compared: bool,
    pub trouble: Option<String>,
    /// Since when it has not answered.
    failing_since: Option<BootMs>,
    /// The trouble that the journal told last.
    told: Option<(String, BootMs)>,
    pub offer: Option<Offer>,
    /// The newest that it gave to be brought back.
    pub receipt: Option<Receipt>,
    /// When a claim of its about this cloud's store was told last.
    claimed_at: Option<BootMs>,
    /// When it was asked for its pact last.
    asked_at: Option<BootMs>,
    pub place: Option<pumasi_api::message::Place>,
    /// Leases that it keeps for this cloud and that may stand in a journey which cannot be read.
    kept: BTreeMap<LeaseId, Kept>,
}

/// A lease that this cloud goes on renewing without its journey.
#[derive(Debug, Clone)]
pub struct Kept {
    pub renewal: Renewal,
    /// By this cloud's boot clock, as the last renewal made it.
    pub expires_at: BootMs,
}

impl Seen {
    /// The least of the last ones: what the network takes, without the daemon's own work.
    pub fn rtt_us(&self) -> Option<u64> {
        self.rtts_us.iter().min().copied()
    }
}

impl Peers {
    /// Keeps a member's receipt for how far its store is, and gives back the newest one.
    pub fn saw(&self, cloud: &CloudName, receipt: Option<Receipt>) -> Option<Receipt> {
        let mut seen = self.seen.lock();
        let peer = seen.entry(cloud.clone()).or_default();
        let at = |r: &Receipt| (r.incarnation, r.revision);
        let fits = |r: &Receipt| r.mac.len() == MAC_HEX && r.incarnation.max(r.revision) <= COUNT_MAX;
        if let Some(receipt) = receipt.filter(fits)
            && peer.receipt.as_ref().is_none_or(|kept| at(kept) <= at(&receipt))
        {
            peer.receipt = Some(receipt);
        }
        peer.receipt.clone()
    }

    /// A member that always shows another pact is not asked at each beat.
    fn may_ask_pact(&self, cloud: &CloudName, now: BootMs) -> bool {
        let mut seen = self.seen.lock();
        let peer = seen.entry(cloud.clone()).or_default();
        let may = peer.asked_at.is_none_or(|at| now.since(at) >= ASK_MS);
        if may {
            peer.asked_at = Some(now);
        }
        may
    }

    /// Whether an unproven claim of this member is news.
    fn claimed(&self, cloud: &CloudName, now: BootMs) -> bool {
        let mut seen = self.seen.lock();
        let peer = seen.entry(cloud.clone()).or_default();
        let news = peer.claimed_at.is_none_or(|at| now.since(at) >= CLAIM_MS);
        if news {
            peer.claimed_at = Some(now);
        }
        news
    }

    fn compared(&self, cloud: &CloudName) {
        self.seen.lock().entry(cloud.clone()).or_default().compared = true;
    }

    pub fn of(&self, cloud: &CloudName) -> Seen {
        self.seen.lock().get(cloud).cloned().unwrap_or_default()
    }

    /// What is kept at a member, as its last answer had it.
    fn keep(&self, cloud: &CloudName, kept: BTreeMap<LeaseId, Kept>) {
        self.seen.lock().entry(cloud.clone()).or_default().kept = kept;
    }

    /// All that is kept without its journey, with the ends of these leases.
    pub fn kept(&self) -> BTreeMap<LeaseId, BootMs> {
        let seen = self.seen.lock();
        seen.values().flat_map(|s| &s.kept).map(|(id, kept)| (id.clone(), kept.expires_at)).collect()
    }

    /// Fresh offers with the measured round trip to each.
    pub fn offers(&self) -> Vec<(Offer, u64)> {
        let now = clock::boot();
        let seen = self.seen.lock();
        let fresh = |s: &&Seen| s.trouble.is_none() && s.heard_at.is_some_and(|at| now.since(at) < OFFER_MS_MAX);
        seen.values().filter(fresh).filter_map(|s| Some((s.offer.clone()?, s.rtt_us()?))).collect()
    }

    fn answered(&self, cloud: &CloudName, rtt_us: u64, answer: &HeartbeatAnswer) {
        let (offer, place) = (answer.offer.clone(), answer.place.clone());
        let mut seen = self.seen.lock();
        let peer = seen.entry(cloud.clone()).or_default();
        peer.heard_at = Some(clock::boot());
        peer.failing_since = None;
        peer.incarnation = Some(answer.incarnation);
        peer.trouble = None;
        peer.offer = offer;
        peer.place = place;
        peer.rtts_us.push_back(rtt_us);
        if peer.rtts_us.len() > RTTS {
            peer.rtts_us.pop_front();
        }
    }

    /// Whether it is worth a line in the journal: a member that fails after it answered, or for another reason than was told; not
    /// one that may be starting yet.
    fn failed(&self, cloud: &CloudName, trouble: String, now: BootMs) -> bool {
        let mut seen = self.seen.lock();
        let peer = seen.entry(cloud.clone()).or_default();
        let since = *peer.failing_since.get_or_insert(now);
        let starts = peer.heard_at.is_none() && now.since(since) < FIRST_MS;
        let first = peer.trouble.is_none();
        let other = |(text, at): &(String, BootMs)| *text != trouble && now.since(*at) >= TROUBLE_MS;
        let news = !starts && (first || peer.told.as_ref().is_none_or(other));
        if news {
            peer.told = Some((trouble.clone(), now));
        }
        peer.trouble = Some(trouble);
        news
    }
}

/// Keeps one task a member, as the pact says.
pub async fn run(node: Arc<Node>) {
    let mut tasks: BTreeMap<CloudName, JoinHandle<()>> = BTreeMap::new();
    let (mut stopping, mut rests) = (node.stopping.clone(), Rests::new(&node));
    loop {
        let members: Vec<CloudName> = node
            .pact()
            .iter()
            .flat_map(|v| &v.pact.members)
            .map(|m| m.cloud.clone())
            .filter(|c| c != node.name())
            .collect();
        tasks.retain(|cloud, task| {
            let stays = members.contains(cloud) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for cloud in members {
            let of = node.clone();
            tasks.entry(cloud.clone()).or_insert_with(|| crate::world::spawn(beat(of, cloud)));
        }
        tokio::select! {
            biased;
            () = rests.rest(&node, node.config.timing.tick_ms.max(50), IDLE_MS) => {}
            _ = stopping.changed() => break,
        }
    }
    tasks.values().for_each(JoinHandle::abort);
}

async fn beat(node: Arc<Node>, cloud: CloudName) {
    let mut rests = Rests::new(&node);
    loop {
        let journeys = match node.open_journeys() {
            Ok(journeys) => journeys,
            Err(e) => {
                // Nothing is renewed that is not known, and nothing that is heard is compared with nothing: the lender gives a lease its
                // whole time to live before it is over.
                tracing::error!(%cloud, error = %e, "no heartbeat was sent: the journeys could not be read; tried again");
                tokio::time::sleep(Duration::from_millis(EAGER_MS)).await;
                continue;
            }
        };
        let eager =
            journeys.iter().flat_map(|j| &j.parts).any(|p| p.lender == cloud && is_moving(&p.state, p.ready, p.wanted));
        once(&node, &cloud, &journeys).await;
        let every_ms =
            if eager { EAGER_MS.min(node.config.timing.heartbeat_ms) } else { node.config.timing.heartbeat_ms };
        let begun = tokio::time::Instant::now();
        // A journey that has just begun must not wait for a whole heartbeat.
        while let Some(left) = Duration::from_millis(every_ms).checked_sub(begun.elapsed()).filter(|l| !l.is_zero()) {
            rests.rest_for(&node, EAGER_MS, left).await;
            let moving =
                |j: &Journey| j.parts.iter().any(|p| p.lender == cloud && is_moving(&p.state, p.ready, p.wanted));
            if !eager && node.open_journeys().is_ok_and(|all| all.iter().any(|j| moving(j))) {
                break;
            }
        }
    }
}

fn is_moving(state: &PartState, ready: u32, wanted: u32) -> bool {
    match state {
        PartState::Starting | PartState::Resting | PartState::Ending { .. } => true,
        PartState::Serving => ready != wanted,
        _ => false,
    }
}

async fn once(node: &Node, cloud: &CloudName, journeys: &[Arc<Journey>]) {
    let Some(member) = node.pact().and_then(|v| v.pact.member(cloud).cloned()) else { return };
    // A daemon whose tasks do not all run cannot keep what it rents in order: it lets the leases run out rather than hold them.
    let whole = node.health.whole().is_ok();
    let behind = node.datasets.behind_ms();
    let dated = |r: Renewal| Renewal { behind_ms: behind.get(&r.lease).copied(), ..r };
    let renew = journeys.iter().filter(|_| whole).flat_map(|j| renewals(j, cloud)).map(dated);
    let kept = node.peers.of(cloud).kept.into_values().filter(|_| whole).map(|k| k.renewal);
    let renew = renew.chain(kept).collect();
    let sent_at = clock::boot();
    let started = tokio::time::Instant::now();
    match call(node, &member, renew).await {
        Ok(answer) => {
            let rtt_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            // Before it counts as heard: whoever waits for its word must have it then.
            for told in &answer.handovers {
                if let Err(e) = register::learn(node, told.clone()).await {
                    tracing::warn!(%cloud, error = %e, "a handover that it tells of was not believed");
                }
            }
            node.peers.answered(cloud, rtt_us, &answer);
            heard(node, cloud, journeys, answer, sent_at).await;
        }
        Err(trouble) => {
            if node.peers.failed(cloud, trouble.clone(), clock::boot()) {
                node.note("daemon", crate::node::Note::new("member_unreachable", "cloud", cloud).because(trouble))
                    .await;
            }
        }
    }
}

async fn call(
    node: &Node,
    member: &Member,
    renew: Vec<pumasi_lease::message::Renewal>,
) -> Result<HeartbeatAnswer, String> {
    let identity = node.store.identity();
    let pact_serial = node.pact().map(|v| v.pact.serial).unwrap_or_default();
    let (incarnation, revision) = (identity.incarnation, node.store.revision().0);
    let receipt = Some(node.identity.receipt(&member.cloud, incarnation, revision));
    let pact_digest = node.pact().map(|v| v.digest);
    let fronts = register::fronts(node).map_err(|e| e.to_string())?;
    let (protocol, wants_back) = (PROTOCOL, game_day::wants_back(node, &member.cloud));
    let beat =
        Heartbeat { protocol, pact_serial, incarnation, revision, receipt, pact_digest, renew, fronts, wants_back };
    // Long enough for a slow link, short enough that three fit into a lease.
    let timeout = Duration::from_millis((node.config.timing.lease_ttl_ms / 4).clamp(500, 5_000));
    let client = node.peers.clients.of(node, &member.cloud).map_err(|e| e.to_string())?;
    client.with_timeout(timeout).post("/v1/heartbeat", &beat).await.map_err(|e| e.to_string())
}

async fn heard(node: &Node, cloud: &CloudName, journeys: &[Arc<Journey>], answer: HeartbeatAnswer, sent_at: BootMs) {
    let view = node.pact();
    let newer = answer.pact_serial > view.as_ref().map(|v| v.pact.serial).unwrap_or_default();
    let other = answer.pact_digest.is_some_and(|d| view.is_some_and(|v| v.digest != d));
    if (newer || other)
        && node.peers.may_ask_pact(cloud, clock::boot())
        && let Err(e) = pact::catch_up(node, cloud).await
    {
        tracing::warn!(%cloud, error = %e, "its newer pact was not taken over; tried again");
    }
    compare_store(node, cloud, &answer).await;
    let mut kept = BTreeMap::new();
    for status in answer.leases {
        // One that was over before this was asked, and lives there: a signature came late. It is treated like one that was forgotten.
        let concerns = |p: &pumasi_journey::Part| &p.lender == cloud && !(p.is_over() && p.since < sent_at);
        let of = journeys.iter().find(|j| j.part(&status.lease).is_some_and(concerns));
        match of {
            Some(journey) => {
                node.troubles.lender_says(&status.lease, &status.last_line);
                borrower::happened(node, &journey.id, Event::Heard { status, sent_at }).await
            }
            // A lease that this store does not know: it was forgotten (an old backup), and must not go on costing.
            None if status.state.as_ref().is_some_and(|s| matches!(s, pumasi_lease::LentState::Active)) => {
                if let Some(renewal) = borrower::disown(node, cloud, &status).await {
                    let expires_at = sent_at.after(status.expires_in_ms);
                    kept.insert(status.lease.clone(), Kept { renewal, expires_at });
                }
            }
            None => {}
        }
    }
    node.peers.keep(cloud, kept);
}

/// What the member has seen of this cloud's store: proven by a receipt of ours, or its own word, which stops nothing.
async fn compare_store(node: &Node, cloud: &CloudName, answer: &HeartbeatAnswer) {
    let proven = answer.receipt.as_ref().filter(|r| node.identity.gave(cloud, r));
    if let Some(receipt) = proven {
        match node.store.peer_saw(receipt.incarnation, Revision(receipt.revision)).await {
            Ok(pumasi_store::Standing::Restored { why }) => {
                tracing::error!(%why, "the store may be old: nothing is asked of or given to others until this is accepted")
            }
            Ok(_) => {}
            Err(e) => return tracing::warn!(error = %e, "the store's age was not compared"),
        }
    }
    node.peers.compared(cloud);
    let word = (answer.seen_incarnation, answer.seen_revision);
    let brought = answer.receipt.as_ref().map_or((0, 0), |r| (r.incarnation, r.revision));
    let here = (node.store.identity().incarnation, node.store.revision().0);
    let claim = word.max(brought);
    if claim > here
        && proven.is_none_or(|r| claim > (r.incarnation, r.revision))
        && node.peers.claimed(cloud, clock::boot())
    {
        let text = format!(
            "{cloud} says that it has seen incarnation {}, revision {} of this cloud's store, which is at {}, {}; it brings \
             no receipt of this cloud for that, so nothing follows from it: ask its operator",
            claim.0, claim.1, here.0, here.1
        );
        tracing::warn!(%cloud, claim = ?claim, "a member says of this cloud's store what it cannot prove");
        node.note("daemon", crate::node::Note::new("claim_unproven", "cloud", cloud).because(text)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_receipt_of_a_member_is_brought_back_and_nothing_that_is_none() {
        let peers = Peers::default();
        let cloud = CloudName::parse("city-b").unwrap();
        let receipt = |incarnation, revision| Receipt { incarnation, revision, mac: "0".repeat(MAC_HEX) };
        assert_eq!(peers.saw(&cloud, None), None);
        assert_eq!(peers.saw(&cloud, Some(receipt(2, 7))), Some(receipt(2, 7)));
        assert_eq!(peers.saw(&cloud, Some(receipt(1, 900))), Some(receipt(2, 7)));
        assert_eq!(peers.saw(&cloud, Some(receipt(1, u64::MAX))), Some(receipt(2, 7)));
        assert_eq!(peers.saw(&cloud, Some(receipt(u64::MAX, 1))), Some(receipt(2, 7)));
        let long = Receipt { mac: "0".repeat(1 << 20), ..receipt(3, 1) };
        assert_eq!(peers.saw(&cloud, Some(long)), Some(receipt(2, 7)), "nobody fills this memory");
        assert_eq!(peers.saw(&cloud, Some(receipt(3, 1))), Some(receipt(3, 1)));
    }

    #[test]
    fn a_member_that_was_not_heard_yet_has_some_seconds_to_come_up() {
        let peers = Peers::default();
        let cloud = CloudName::parse("city-b").unwrap();
        let failed = |ms| peers.failed(&cloud, "connection refused".to_owned(), BootMs(ms));
        assert!(!failed(1_000) && !failed(5_900));
        assert_eq!(peers.of(&cloud).trouble.as_deref(), Some("connection refused"), "whoever asks is told");
        assert!(failed(6_000) && !failed(7_000));
    }

    #[test]
    fn a_member_that_fails_for_another_reason_is_told_again_but_not_at_every_beat() {
        let peers = Peers::default();
        let cloud = CloudName::parse("city-b").unwrap();
        let failed = |text: &str, ms| peers.failed(&cloud, text.to_owned(), BootMs(ms));
        peers.seen.lock().entry(cloud.clone()).or_default().heard_at = Some(BootMs(0));
        assert!(failed("connection refused", 0));
        assert!(!failed("connection refused", 400) && !failed("unknown issuer", 800));
        assert!(failed("unknown issuer", 5_000), "the reason that lasts is in the journal");
        assert!(!failed("unknown issuer", 50_000) && failed("timed out", 50_400));
        assert_eq!(peers.of(&cloud).trouble.as_deref(), Some("timed out"));
    }
}
