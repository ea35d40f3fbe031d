//! This cloud's renewals: that it lives, until when, and what room it has.
//!
//! Enters: the register, the gateway's answers, the store's disk. Leaves: renewals to all voters, and `Join` and `Rejoin` before them.
//! Always holds: a renewal leaves only after bytes went to the disk of the store and the gateway answered lately; its time counts from
//! before that; a run is this process's own, since its own command began it.

use super::Event;
use super::lanes::{Lanes, Word};
use crate::{Node, clock, lender, routes, witness, world};
use pumasi_ownership::liveness::Holder;
use pumasi_ownership::state::{Health, Standing};
use pumasi_ownership::{Command, State, Told};
use pumasi_terms::{BootMs, Resources};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A gateway that did not answer for so long serves nobody.
const GATEWAY_MS_MAX: u64 = 2_000;
/// Before another try to join.
const JOIN_MS: u64 = 200;
/// The room that is free is counted so often.
const ROOM_MS: u64 = 1_000;
/// The ttl follows what was measured so often; rises at once, falls not before so long.
const TTL_MS: u64 = 30_000;
const PROBES: usize = 128;

/// Of the process that renews.
#[derive(Debug, Default)]
struct Renewing {
    probes_ms: VecDeque<u64>,
    room: Option<(BootMs, Resources)>,
    ttl: Option<(BootMs, u64)>,
}

/// While this cloud is in this group.
pub async fn run(node: Arc<Node>, key: String, lanes: Arc<Lanes>) {
    let mut renewing = Renewing::default();
    loop {
        let Some(group) = node.voting.group().filter(|g| g.key() == key) else { return };
        let began = Instant::now();
        let pause_ms = match node.voting.state().filter(|s| !is_alive(&node, s)) {
            // Who would not renew is not alive: it would be lost again and again, and each time counts for the pace.
            Some(_) if !gateway_lives(&node, clock::boot()) => JOIN_MS,
            Some(state) => match join(&node, &state).await {
                true => 0,
                false => JOIN_MS,
            },
            None => {
                renewing.once(&node, &lanes).await;
                group.timers().renew_ms
            }
        };
        tokio::time::sleep_until(began + Duration::from_millis(pause_ms)).await;
    }
}

/// Whether the register knows this process.
fn is_alive(node: &Node, state: &State) -> bool {
    let known = state.clouds.get(node.name());
    let lives = |k: &&pumasi_ownership::state::Cloud| {
        matches!(k.standing, Standing::Alive | Standing::Returning { .. }) && node.voting.run() == Some(k.run)
    };
    known.is_some_and(|k| lives(&k))
}

/// A new process, or one that was lost: under a run that no process of this cloud ever had.
async fn join(node: &Node, state: &State) -> bool {
    let cloud = node.name().clone();
    let before = state.clouds.get(&cloud).map(|c| c.run);
    let run = before.unwrap_or(0).max(node.voting.run().unwrap_or(0)).saturating_add(1);
    let command = match before {
        None => Command::Join { cloud: cloud.clone(), run },
        Some(_) => Command::Rejoin { cloud: cloud.clone(), run },
    };
    let began = match super::propose(node, command).await {
        Ok(told) => told.iter().any(|t| matches!(t, Told::Stands { cloud: c, .. } if c == &cloud)),
        Err(e) => {
            tracing::debug!(error = %e, "this cloud has not joined the register; tried again");
            false
        }
    };
    if began {
        node.voting.inner.lock().holder = Some(Holder::new(cloud, run));
    }
    began
}

impl Renewing {
    async fn once(&mut self, node: &Arc<Node>, lanes: &Lanes) {
        let now = clock::boot();
        let Some(group) = node.voting.group() else { return };
        if node.voting.run().is_none() || !gateway_lives(node, now) || node.may_act().is_err() {
            return;
        }
        let path = node.dir("store").join("probe");
        let began = Instant::now();
        match world::blocking(move || world::probe(&path)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return tracing::warn!(error = %e, "no renewal: the store's disk does not take a write"),
            Err(e) => return tracing::warn!(error = %e, "no renewal: the store's disk was not tried"),
        }
        self.probed(node, u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        let ttl_ms = self.ttl_ms(node, now);
        let room = (self.room(node, now), health(node));
        let before = node.voting.right_until();
        let renewal = {
            let mut inner = node.voting.inner.lock();
            let Some(holder) = &mut inner.holder else { return };
            holder.send(now, ttl_ms, group.timers(), room)
        };
        // An end that comes nearer is told to the gateway before anybody else can count by it.
        if node.voting.right_until() < before && !routes::told_right(node).await {
            return tracing::warn!("no renewal: the gateway was not told that this cloud's right ends earlier");
        }
        if group.is_voter() {
            node.voting.tell_voter(Event::Renewal(renewal.clone()));
        }
        for voter in group.others() {
            lanes.say(voter, Word::Renewal(renewal.clone()));
        }
    }

    fn probed(&mut self, node: &Node, ms: u64) {
        self.probes_ms.push_back(ms);
        if self.probes_ms.len() > PROBES {
            self.probes_ms.pop_front();
        }
        let mut sorted: Vec<u64> = self.probes_ms.iter().copied().collect();
        sorted.sort_unstable();
        let at = (sorted.len() * 99 / 100).saturating_sub(1);
        node.voting.measure_fsync(sorted.get(at).copied().unwrap_or(0));
    }

    /// Long enough for the network and the disk as they are found; raising it needs nobody's leave.
    fn ttl_ms(&mut self, node: &Node, now: BootMs) -> u64 {
        let Some(group) = node.voting.group() else { return 0 };
        let timers = group.timers();
        // A witness's binds nobody.
        let needed = match group.is_witness() {
            true => timers.ttl_ms,
            false => timers.ttl_needed(node.voting.measured()).unwrap_or(timers.ttl_ms_max),
        };
        match self.ttl {
            Some((since, held)) if needed < held && now.since(since) < TTL_MS => held,
            Some((_, held)) if needed == held => {
                self.ttl = Some((now, held));
                held
            }
            _ => {
                self.ttl = Some((now, needed));
                needed
            }
        }
    }

    fn room(&mut self, node: &Node, now: BootMs) -> Resources {
        match self.room {
            Some((at, room)) if now.since(at) < ROOM_MS => room,
            _ => {
                let room = free(node);
                self.room = Some((now, room));
                room
            }
        }
    }
}

/// What neither this cloud's services nor leases take.
fn free(node: &Node) -> Resources {
    let all = node.config.physical();
    let (Ok(services), Ok(lent)) = (node.services(), lender::lent_use(node)) else { return Resources::default() };
    let home = lender::home_use(node, &services);
    Resources {
        cpu_millis: all.cpu_millis.saturating_sub(home.cpu_millis).saturating_sub(lent.cpu_millis),
        memory_mib: all.memory_mib.saturating_sub(home.memory_mib).saturating_sub(lent.memory_mib),
    }
}

fn health(node: &Node) -> Health {
    if node.health.problem().is_none() { Health::Well } else { Health::Ailing }
}

/// A witness owns nothing that a gateway would have to serve.
fn gateway_lives(node: &Node, now: BootMs) -> bool {
    if witness::is(&node.config) {
        return true;
    }
    let answered = node.voting.inner.lock().gateway_at;
    answered.is_some_and(|at| now.since(at) <= GATEWAY_MS_MAX)
}
