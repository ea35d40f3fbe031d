//! One service's requests within one tick: they arrive, find a place, are worked on and answered.
//!
//! Always holds: a request that writes is let in by the product's own rules ([`Right`](pumasi_gateway::right::Right)), and its
//! answer leaves only if they still hold; it is executed by an instance of the owner, at most once.

use super::{
    ANSWER_BYTES, Committing, Entered, Left, PLACES, Place, QUEUE_MAX, SET_ASIDE_MS, SimGateway, Totals, WAIT_MAX_MS,
    WORK_MS, Waiting, Working, Write, waits_ms,
};
use crate::mutant::Mutant;
use crate::traffic::Load;
use pumasi_gateway::Wanted;
use pumasi_gateway::commit::{self, Fate};
use pumasi_gateway::right::Turn;
use pumasi_route::table::{Role, ServiceRoute};
use pumasi_sense::meter::BackendKey;
use pumasi_terms::{BootMs, CloudName, Epoch, InstanceId, LeaseId, Position, ServiceName};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

/// A planted bug waits no longer for copies.
const IMPATIENT_MS: u64 = 300;

pub(super) struct Street<'a> {
    pub gateway: &'a SimGateway,
    pub name: &'a ServiceName,
    pub route: Option<&'a ServiceRoute>,
    pub ready: &'a [InstanceId],
    pub place: &'a mut Place,
    pub rng: &'a mut StdRng,
    pub totals: &'a mut Totals,
    /// Requests that write, counted over the gateway's lives.
    pub written: &'a mut u64,
    /// How far those are that answers wait for, and where that is said.
    pub copies: &'a BTreeMap<LeaseId, Position>,
    pub wanted: &'a Wanted,
    pub now_ms: f64,
}

/// What became of a request that asked for a place.
enum Given {
    Place,
    /// It waits.
    Full,
    /// It was not executed, and will not be.
    Refused,
}

impl Street<'_> {
    pub fn pass(&mut self, load: &Load, until_ms: f64) {
        self.commit();
        self.call_in();
        while self.now_ms < until_ms {
            let per_second = load.at(self.now_ms as u64).map_or(0.0, |p| p.per_second);
            // At a change of phase the next arrival is drawn anew: the stream has no memory.
            if self.place.next_ms < self.now_ms || self.place.per_second != per_second {
                self.place.per_second = per_second;
                self.place.next_ms = self.now_ms + self.exponential(1_000.0 / per_second.max(0.001));
            }
            let first = (0..self.place.working.len())
                .min_by(|a, b| self.place.working[*a].done_ms.total_cmp(&self.place.working[*b].done_ms));
            let done_ms = first.map_or(f64::INFINITY, |k| self.place.working[k].done_ms);
            let at_ms = done_ms.min(self.place.next_ms).min(until_ms);
            if !self.place.waiting.is_empty() {
                self.place.saturated_ms += at_ms - self.now_ms;
            }
            self.now_ms = at_ms;
            if at_ms >= until_ms {
                break;
            }
            match first {
                Some(k) if done_ms <= self.place.next_ms => self.finish(k),
                _ => {
                    let home_only = load.at(at_ms as u64).map_or(0.0, |p| p.home_only);
                    let writes = self.rng.random_bool(home_only.clamp(0.0, 1.0));
                    self.arrive(writes);
                    self.place.next_ms = at_ms + self.exponential(1_000.0 / per_second.max(0.001));
                }
            }
        }
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.rng.random::<f64>()).ln()
    }

    fn boot(&self) -> BootMs {
        self.gateway.clock.now().boot
    }

    fn arrive(&mut self, writes: bool) {
        self.totals.arrivals += 1;
        self.place.meter.arrivals += 1;
        self.place.meter.arrivals_home_only += u64::from(writes);
        if writes && self.route.is_some() {
            return self.let_in(self.now_ms);
        }
        self.admit(Waiting { arrived_ms: self.now_ms, writes, epoch: None });
    }

    /// Past the gate, or not.
    fn let_in(&mut self, arrived_ms: f64) {
        let (now, epoch) = (self.boot(), self.route.map(|r| r.epoch));
        let turn = match (self.place.right.turn(now), self.gateway.mutant) {
            (Some(Turn::Wait), Some(Mutant::Heedless)) => Some(Turn::In),
            (Some(Turn::Wait), Some(Mutant::Unhold)) if self.hold_is_over(now) => Some(Turn::In),
            (turn, _) => turn,
        };
        match turn {
            Some(Turn::In) => self.admit(Waiting { arrived_ms, writes: true, epoch }),
            None => self.admit(Waiting { arrived_ms, writes: true, epoch: None }),
            Some(Turn::Wait) if !self.hold_is_over(now) && self.place.right.begin_to_wait(true) => {
                self.place.held.push_back(arrived_ms);
            }
            Some(Turn::Wait | Turn::Shut | Turn::Unkept) => self.refuse(true),
        }
    }

    fn hold_is_over(&self, now: BootMs) -> bool {
        self.route.is_some_and(|r| self.place.right.wait_left_ms(r.epoch, true, now) == Some(0))
    }

    fn refuse(&mut self, is_error: bool) {
        match is_error {
            true => self.place.meter.errors += 1,
            false => self.place.meter.shed += 1,
        }
        self.totals.shed += 1;
    }

    fn admit(&mut self, one: Waiting) {
        let full = self.place.waiting.len() >= QUEUE_MAX;
        let given = if self.place.waiting.is_empty() { self.give(&one) } else { Given::Full };
        match given {
            Given::Place => {}
            Given::Full if !full => self.place.waiting.push_back(one),
            Given::Full | Given::Refused => {
                self.leave(&one);
                self.refuse(matches!(given, Given::Refused));
            }
        }
    }

    fn leave(&mut self, one: &Waiting) {
        if one.epoch.is_some() {
            self.place.right.leave();
        }
    }

    /// Hands a request to a backend with a free place; by weight where there are several.
    fn give(&mut self, one: &Waiting) -> Given {
        let Some(route) = self.route else { return Given::Full };
        if route.absent.as_ref().is_some_and(|why| one.writes || !why.may_read()) {
            return Given::Refused;
        }
        if let Role::Front { owner } = &route.role {
            return self.send_on(one, owner, route.epoch);
        }
        let boot = self.boot();
        if one.writes && !one.epoch.is_some_and(|e| self.place.right.may_write(e, boot)) {
            return Given::Refused;
        }
        let mut open: Vec<(u64, BackendKey, InstanceId)> = Vec::new();
        for h in route.home.iter().filter(|h| !h.draining && self.ready.contains(&h.instance)) {
            let key = BackendKey::Home(h.instance.clone());
            if self.place.busy(&key) < PLACES {
                open.push((u64::from(route.home_weight.0).max(1), key, h.instance.clone()));
            }
        }
        if !one.writes {
            for l in route.leases.iter().filter(|l| !l.draining && boot < l.usable_until && l.instances > 0) {
                let key = BackendKey::Lease(l.cloud.clone(), l.lease.clone());
                let aside = self.place.set_aside.get(&l.lease).is_some_and(|t| *t as f64 > self.now_ms);
                if aside || self.place.busy(&key) >= PLACES * l.instances as usize {
                    continue;
                }
                if let Some(instance) = self.ask(&l.cloud, &l.lease, route.epoch) {
                    open.push((u64::from(l.weight.0).max(1), key, instance));
                }
            }
        }
        let total: u64 = open.iter().map(|(w, ..)| w).sum();
        if total == 0 {
            return Given::Full;
        }
        let mut at = self.rng.random_range(0..total);
        let chosen = open.iter().position(|(w, ..)| {
            let here = at < *w;
            at = at.saturating_sub(*w);
            here
        });
        let Some(chosen) = chosen else { return Given::Full };
        // Places that were asked for and not taken.
        for (k, (_, key, instance)) in open.iter().enumerate() {
            if let (BackendKey::Lease(cloud, lease), true) = (key, k != chosen) {
                self.peer(cloud, |p| p.gave_back(lease, instance, false));
            }
        }
        let (_, key, instance) = open.swap_remove(chosen);
        if let BackendKey::Home(i) = &key {
            self.gateway.witness.home(&self.gateway.cloud, self.name, i);
        }
        self.work(one, key, instance, None);
        Given::Place
    }

    fn work(&mut self, one: &Waiting, key: BackendKey, instance: InstanceId, entered: Option<Entered>) {
        self.place.meter.admitted += 1;
        self.place.meter.queue_delay.record(((self.now_ms - one.arrived_ms) * 1_000.0) as u64);
        let mut work_ms = self.exponential(WORK_MS);
        if let BackendKey::Lease(cloud, _) | BackendKey::Front(cloud) = &key {
            work_ms += 2.0 * self.gateway.net.delay_ms(&self.gateway.cloud, cloud) as f64;
        }
        self.totals.rented += u64::from(matches!(key, BackendKey::Lease(..)));
        let epoch = entered.as_ref().map(|e| e.epoch).or(one.epoch);
        let write = epoch.filter(|_| one.writes).map(|epoch| {
            *self.written += 1;
            Write { id: format!("{}-{}", self.gateway.cloud, self.written), epoch }
        });
        let done_ms = self.now_ms + work_ms;
        self.place.working.push(Working { done_ms, began_ms: self.now_ms, key, instance, write, entered });
    }

    /// To the owner's gateway: it has the same gate, and answers whether there is a place.
    fn send_on(&mut self, one: &Waiting, owner: &CloudName, epoch: Epoch) -> Given {
        let reaches = self.gateway.reaches(owner);
        let Some(peer) = self.gateway.peer_of(owner).filter(|_| reaches) else { return Given::Refused };
        match peer.enter(&self.gateway.cloud, self.name, epoch, one.writes) {
            Ok(Some(entered)) => {
                let instance = entered.instance.clone();
                self.work(one, BackendKey::Front(owner.clone()), instance, Some(entered));
                Given::Place
            }
            Ok(None) => Given::Full,
            Err(_) => Given::Refused,
        }
    }

    fn peer(&self, cloud: &CloudName, f: impl FnOnce(&SimGateway)) {
        if let Some(peer) = self.gateway.peer_of(cloud) {
            f(&peer);
        }
    }

    /// Whether the other side takes one more; a refusal sets it aside for a while.
    fn ask(&mut self, cloud: &CloudName, lease: &LeaseId, epoch: Epoch) -> Option<InstanceId> {
        let peer = self.gateway.peer_of(cloud)?;
        let taken = if self.gateway.reaches(cloud) { peer.take(lease, Some(epoch)) } else { Err("unreachable") };
        match taken {
            Ok(instance) => Some(instance),
            Err("no place") => None,
            Err(_) => {
                self.place.meter.retries += 1;
                self.place.set_aside.insert(lease.clone(), self.now_ms as u64 + SET_ASIDE_MS);
                None
            }
        }
    }

    fn finish(&mut self, k: usize) {
        let done = self.place.working.swap_remove(k);
        let well = self.is_answered(&done);
        let backend = self.place.backends.entry(done.key.clone()).or_default();
        if well {
            backend.completed += 1;
            backend.bytes_out += ANSWER_BYTES;
            self.place.meter.completed += 1;
            self.totals.completed += 1;
            self.place.meter.app_time.record(((self.now_ms - done.began_ms) * 1_000.0) as u64);
            self.place.meter.user_rtt.record(20_000);
        } else {
            backend.failed += 1;
            self.place.meter.errors += 1;
            self.totals.lost += 1;
        }
        self.call_in();
    }

    fn is_answered(&mut self, done: &Working) -> bool {
        let cloud = &self.gateway.cloud;
        match &done.key {
            BackendKey::Home(i) => {
                let well = self.ready.contains(i);
                let Some(write) = &done.write else { return well };
                let executed = well && self.gateway.execute(self.name, i, write);
                if executed && self.waits(write) {
                    return true;
                }
                let released = executed && self.place.right.may_write(write.epoch, self.gateway.clock.now().boot);
                self.place.right.leave();
                if released {
                    self.gateway.witness.acknowledged(cloud, self.name, write);
                }
                released
            }
            BackendKey::Front(owner) => {
                let (Some(peer), Some(entered)) = (self.gateway.peer_of(owner), &done.entered) else { return false };
                let left = peer.left(cloud, self.name, entered, done.write.as_ref());
                if left == Left::Later {
                    return self.gateway.reaches(owner);
                }
                let heard = left == Left::Out && self.gateway.reaches(owner);
                if let Some(write) = done.write.as_ref().filter(|_| heard) {
                    self.gateway.witness.acknowledged(owner, self.name, write);
                }
                heard
            }
            BackendKey::Lease(cloud, lease) => {
                let reaches = self.gateway.reaches(cloud);
                self.peer(cloud, |p| p.gave_back(lease, &done.instance, reaches));
                reaches
            }
        }
    }

    /// Whether the answer to a write that was executed here has to wait for copies.
    fn waits(&mut self, write: &Write) -> bool {
        let wait_ms = self.route.and_then(|r| waits_ms(r, self.gateway.mutant));
        let (Some(route), Some(wait_ms)) = (self.route, wait_ms) else { return false };
        let since = self.boot();
        let at = Position::token(route.position_generation.unwrap_or_default(), since.0);
        self.wanted.want(self.name, BootMs(at.as_of_ms));
        self.place.committing.push(Committing { write: write.clone(), at, since, wait_ms, front: None });
        true
    }

    /// Answers leave that the copies allow; those that waited too long are of an unknown outcome.
    pub fn commit(&mut self) {
        let now = self.boot();
        for one in std::mem::take(&mut self.place.committing) {
            let impatient = self.gateway.mutant == Some(Mutant::Unforgiving) && now.since(one.since) > IMPATIENT_MS;
            let fate = match commit::fate(&self.place.right, one.write.epoch, one.at, self.copies, now) {
                Fate::Waits if impatient => Fate::Leaves,
                Fate::Waits if now.since(one.since) > one.wait_ms => Fate::Gone,
                fate => fate,
            };
            let hears = one.front.as_ref().is_none_or(|front| self.gateway.reaches(front));
            match fate {
                Fate::Waits => {
                    self.place.committing.push(one);
                    continue;
                }
                Fate::Leaves if hears => {
                    self.gateway.witness.acknowledged(&self.gateway.cloud, self.name, &one.write);
                }
                Fate::Leaves | Fate::Gone => {}
            }
            self.place.right.leave();
        }
    }

    /// Those who wait: held ones go on or are refused, too long ones are refused, the next that fits a free place goes in.
    fn call_in(&mut self) {
        let now = self.boot();
        let held = self.route.is_some_and(|r| self.place.right.is_held(r.epoch)) && !self.hold_is_over(now);
        if !held {
            for arrived_ms in std::mem::take(&mut self.place.held) {
                self.place.right.end_to_wait(true);
                self.let_in(arrived_ms);
            }
        }
        let since_ms = self.now_ms - WAIT_MAX_MS;
        while let Some(at) = self.place.waiting.iter().position(|w| w.arrived_ms < since_ms) {
            if let Some(one) = self.place.waiting.remove(at) {
                self.leave(&one);
            }
            self.refuse(false);
        }
        for writes in [false, true] {
            while let Some(at) = self.place.waiting.iter().position(|w| w.writes == writes) {
                let Some(one) = self.place.waiting.get(at).copied() else { break };
                match self.give(&one) {
                    Given::Place => drop(self.place.waiting.remove(at)),
                    Given::Full => break,
                    Given::Refused => {
                        self.place.waiting.remove(at);
                        self.leave(&one);
                        self.refuse(true);
                    }
                }
            }
        }
    }
}
