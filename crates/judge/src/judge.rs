//! The judgement itself.
//!
//! Overload is told by time *and* weight: waits above the promise for [`Policy::sustain_ms`], a queue that does not drain,
//! and arrivals so far above what the instances can do that chance does not explain it (five standard deviations of a
//! Poisson stream). Steady load at four fifths has long waits now and then, but never that.
//! An application that got slow is told from one that is asked too much by what it completed before: overload does not
//! lower what is completed.

use crate::calm::enough_for;
use crate::memory::{Hot, Memory, READINGS_MAX};
use crate::policy::{Policy, Situation};
use crate::size::Load;
use crate::{Cause, Judgement, Reason, Refusal, Verdict};
use pumasi_sense::{BackendKey, Observation};
use pumasi_terms::{BootMs, Now};

/// Part of the known capacity above which arrivals count as evidence, percent.
const EVIDENCE_PERCENT: u64 = 90;
/// Standard deviations that chance does not reach.
const EVIDENCE_SIGMAS: u64 = 5;
/// Arrivals below which there is no evidence.
const EVIDENCE_ARRIVALS: u64 = 15;
/// After so long what is completed is believed, whatever was learned, ms.
const BELIEVE_COMPLETIONS_MS: u64 = 2_000;
/// The queue drains if it is below this part of its recent height, percent.
const DRAINING_PERCENT: u64 = 90;
const READINGS_MS: u64 = 300;
/// A refusal is forgotten when nothing has been wrong for so long, ms.
const WELL_MS: u64 = 5_000;
/// A fault that is not urgent is told after so long, ms.
const TELL_MS: u64 = 1_000;
/// A growth so soon after a shrink says that the shrink was wrong, ms.
const REGRET_MS: u64 = 30_000;
const CAUTION_MAX: u32 = 4;
const CAUTION_FADES_MS: u64 = 180_000;
/// What was completed while pressed is remembered for so long, ms.
const HOT_FADES_MS: u64 = 10_000;
/// Smoothing of the load that a shrink is measured by, ms.
const LOAD_SMOOTH_MS: u64 = 2_000;
const HANDLED_AGES_MS: u64 = 600_000;

/// Judges one service. The same arguments give the same answer.
pub fn judge(
    memory: &Memory,
    seen: &Observation,
    policy: &Policy,
    situation: &Situation,
    now: Now,
) -> (Memory, Judgement) {
    let mut memory = memory.clone();
    // A clock that went back is another boot; another application is another application.
    if memory.last_at.is_some_and(|last| seen.at < last) || memory.generation != situation.application_generation {
        memory = Memory { generation: situation.application_generation, ..Memory::default() };
    }
    if memory.last_at == Some(seen.at) {
        return (memory, Judgement::Steady);
    }
    let dt_ms = memory.last_at.map_or(seen.span_ms, |last| seen.at.since(last)).min(1_000);
    memory.last_at = Some(seen.at);
    let judgement = Case { m: &mut memory, seen, policy, situation, now, dt_ms }.judge();
    (memory, judgement)
}

pub(crate) struct Case<'a> {
    pub(crate) m: &'a mut Memory,
    pub(crate) seen: &'a Observation,
    pub(crate) policy: &'a Policy,
    pub(crate) situation: &'a Situation,
    now: Now,
    dt_ms: u64,
}

pub(crate) fn per_second(mps: u64) -> String {
    format!("{}.{}/s", mps / 1_000, mps % 1_000 / 100)
}

fn ms(us: u64) -> String {
    if us < 10_000 { format!("{}.{} ms", us / 1_000, us % 1_000 / 100) } else { format!("{} ms", us / 1_000) }
}

pub(crate) fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

pub(crate) fn reason(measure: &str, text: String) -> Reason {
    Reason { measure: measure.to_owned(), text }
}

/// `a` of `b` in percent, at least `percent`?
pub(crate) fn at_least(a: u64, b: u64, percent: u64) -> bool {
    u128::from(a) * 100 >= u128::from(b) * u128::from(percent)
}

fn smooth(old: u64, new: u64, dt_ms: u64) -> u64 {
    let weight = dt_ms.min(LOAD_SMOOTH_MS);
    let sum = u128::from(old) * u128::from(LOAD_SMOOTH_MS - weight) + u128::from(new) * u128::from(weight);
    u64::try_from(sum / u128::from(LOAD_SMOOTH_MS)).unwrap_or(u64::MAX)
}

/// Whether a difference from so many expected events (both in thousandths) is one that chance makes.
fn by_chance(difference: u64, events: u64, sigmas: u64) -> bool {
    u128::from(difference).pow(2) < u128::from(sigmas.pow(2) * 1_000) * u128::from(events)
}

enum Slow {
    No,
    /// It looks so, and more must be seen.
    Perhaps,
    Yes(Vec<Reason>),
}

/// How long it has held; None if it does not.
fn held(since: &mut Option<BootMs>, holds: bool, at: BootMs) -> Option<u64> {
    if !holds {
        *since = None;
        return None;
    }
    Some(at.since(*since.get_or_insert(at)))
}

impl Case<'_> {
    fn judge(&mut self) -> Judgement {
        let seen = self.seen;
        self.note_instances();
        self.note_queue();
        self.note_load();
        self.note_trend();
        if seen.capacity_per_instance_mps.is_some() {
            self.m.capacity_mps = seen.capacity_per_instance_mps;
        }
        let failing = self.failing();
        let failing_ms = held(&mut self.m.failing_since, failing.is_some(), seen.at);
        let pressed = self.pressed();
        self.note_pressure(pressed);
        self.learn_handled(pressed || failing.is_some());

        if let (Some(mut reasons), Some(held_ms)) = (failing, failing_ms) {
            (self.m.calm, self.m.tight) = (None, None);
            if held_ms < self.policy.sustain_ms {
                return Judgement::Steady;
            }
            reasons.push(reason(
                "sustained",
                format!("for {}; more of a failing application fails as well", seconds(held_ms)),
            ));
            return self.refuse(Refusal::ApplicationFault, reasons);
        }
        if self.situation.borrowed() > self.policy.instances_max && self.ago(self.m.shrunk_at) >= self.policy.settle_ms
        {
            let text = format!("{} borrowed, {} are allowed", self.situation.borrowed(), self.policy.instances_max);
            self.m.shrunk_at = Some(seen.at);
            return self.change(Cause::Request, self.policy.instances_max, vec![reason("instances_max", text)]);
        }
        if self.m.hot.is_some() {
            (self.m.calm, self.m.tight) = (None, None);
            self.m.well_since = None;
            self.m.slow_since = None;
            self.m.far_since = None;
            return match self.overload() {
                Judgement::Steady if self.m.told.is_none() => self.ahead().unwrap_or(Judgement::Steady),
                told => told,
            };
        }
        if let Some(refused) = self.slow_or_far() {
            return refused;
        }
        if let Some(growth) = self.ahead() {
            return growth;
        }
        self.recovery()
    }

    pub(crate) fn ago(&self, at: Option<BootMs>) -> u64 {
        at.map_or(u64::MAX, |at| self.seen.at.since(at))
    }

    fn home_completed_mps(&self) -> u64 {
        let home = |(key, b): (&BackendKey, &pumasi_sense::BackendObservation)| {
            matches!(key, BackendKey::Home(_)).then_some(b.completed_mps)
        };
        self.seen.backends.iter().filter_map(home).fold(0, u64::saturating_add)
    }

    fn note_instances(&mut self) {
        let ready = (self.situation.home_instances_ready, self.situation.borrowed_instances_ready);
        if ready != self.m.ready {
            if ready.1 > self.m.ready.1 {
                self.m.fruitless = 0;
                self.note_start();
            }
            self.m.ready = ready;
            self.m.ready_at = self.seen.at;
        }
        if self.m.caution > 0 && self.seen.at.since(self.m.caution_at) >= CAUTION_FADES_MS {
            self.m.caution -= 1;
            self.m.caution_at = self.seen.at;
        }
    }

    fn note_queue(&mut self) {
        let at = self.seen.at;
        self.m.queued.retain(|(then, _)| at.since(*then) <= READINGS_MS);
        if self.m.queued.len() >= READINGS_MAX {
            self.m.queued.remove(0);
        }
        self.m.queued.push((at, self.seen.queued));
    }

    fn note_load(&mut self) {
        let now = (self.seen.arrivals_mps, self.seen.arrivals_home_only_mps.min(self.seen.arrivals_mps));
        let dt_ms = self.dt_ms;
        self.m.load = Some(self.m.load.map_or(now, |old| (smooth(old.0, now.0, dt_ms), smooth(old.1, now.1, dt_ms))));
    }

    fn draining(&self) -> bool {
        let height = self.m.queued.iter().map(|(_, q)| *q).max().unwrap_or(0);
        !at_least(self.seen.queued, height, DRAINING_PERCENT)
    }

    fn over_objective(&self) -> bool {
        self.seen.queue_delay_p95_us > self.policy.queue_delay_p95_ms.saturating_mul(1_000) || self.seen.shed_mps > 0
    }

    /// The backends, not something else, are what is waited for.
    fn saturated(&self) -> bool {
        let all: Vec<u64> = self.seen.backends.values().map(|b| u64::from(b.saturated_percent)).collect();
        let mean = all.iter().sum::<u64>() / (all.len() as u64).max(1);
        mean >= 50 || at_least(self.seen.in_flight, self.seen.limit, 90)
    }

    fn pressed(&self) -> bool {
        let seen = self.seen;
        let shed = seen.shed_mps.saturating_mul(seen.span_ms) / 1_000_000;
        // Who waits still has not been measured, and is evidence all the same.
        let enough =
            seen.queue_delay_samples.saturating_add(shed).saturating_add(seen.queued) >= self.policy.samples_min;
        let waiting = seen.queued > 0 || seen.shed_mps > 0;
        self.over_objective() && enough && waiting && self.saturated()
    }

    /// Capacity of one instance by what is completed now; meaningful while saturated.
    fn completed_each_mps(&self) -> u64 {
        self.seen.completed_mps / u64::from(self.situation.ready().max(1))
    }

    fn note_pressure(&mut self, pressed: bool) {
        let (at, seen, dt_ms) = (self.seen.at, self.seen, self.dt_ms);
        if !pressed {
            let drained = seen.queued == 0 && seen.shed_mps == 0;
            if let Some(hot) = &mut self.m.hot {
                hot.idle_ms += dt_ms;
                if drained || hot.idle_ms > 250 {
                    self.m.hot = None;
                }
            }
            return;
        }
        let fresh = self.m.hot.is_none();
        let reference_mps = self.m.handled_mps.max(self.m.capacity_mps.unwrap_or(0));
        let each = self.completed_each_mps();
        let ready = u64::from(self.situation.ready().max(1));
        let (home, done_home) = (u64::from(self.situation.home_instances_ready), self.home_completed_mps());
        let hot = self.m.hot.get_or_insert_with(|| Hot { since: at, reference_mps, ..Hot::default() });
        hot.idle_ms = 0;
        let known = match self.m.capacity_mps {
            Some(learned) if at.since(hot.since) < BELIEVE_COMPLETIONS_MS => learned,
            _ => each,
        };
        let span_ms = if fresh { seen.span_ms } else { dt_ms };
        let during = |mps: u64| mps.saturating_mul(span_ms) / 1_000;
        let came = during(seen.arrivals_mps);
        let could = during(known.saturating_mul(ready)) / 100 * EVIDENCE_PERCENT;
        let fade = |sum: &mut u64, more: u64| {
            let lost = u128::from(*sum) * u128::from(span_ms.min(HOT_FADES_MS)) / u128::from(HOT_FADES_MS);
            *sum = (*sum - u64::try_from(lost).unwrap_or(*sum)).saturating_add(more);
        };
        fade(&mut hot.came, came);
        fade(&mut hot.done, during(seen.completed_mps));
        fade(&mut hot.done_home, during(done_home));
        fade(&mut hot.before, during(hot.reference_mps.saturating_mul(ready)));
        fade(&mut hot.before_home, during(hot.reference_mps.saturating_mul(home)));
        let excess = hot.excess.saturating_add(came).saturating_sub(could);
        // Evidence that has run dry begins anew.
        (hot.arrivals, hot.excess) = if excess == 0 { (0, 0) } else { (hot.arrivals.saturating_add(came), excess) };
    }

    /// What a home instance answers while nothing waits: the measure of an application that gets slow later.
    fn learn_handled(&mut self, trouble: bool) {
        let (seen, home) = (self.seen, self.situation.home_instances_ready);
        let settled = seen.at.since(self.m.ready_at) > 1_000;
        if trouble || home == 0 || !settled || self.over_objective() {
            self.m.home_mps = None;
            return;
        }
        let rate = self.home_completed_mps() / u64::from(home);
        // It grows from below: a first window of chance must not count as seconds.
        let smoothed = smooth(self.m.home_mps.unwrap_or(rate.min(self.m.handled_mps)), rate, self.dt_ms);
        self.m.home_mps = Some(smoothed);
        let aged = self.m.handled_mps - self.m.handled_mps.saturating_mul(self.dt_ms) / HANDLED_AGES_MS;
        self.m.handled_mps = aged.max(smoothed);
    }

    /// Whether answers fail so much that nothing else matters.
    fn failing(&self) -> Option<Vec<Reason>> {
        let seen = self.seen;
        let (mut failed, mut answered) = (0u64, 0u64);
        if self.situation.borrowed_instances_ready == 0 {
            failed = seen.failed_mps.saturating_add(seen.errors_mps);
            answered = seen.completed_mps.max(seen.failed_mps).saturating_add(seen.errors_mps);
        } else {
            // A borrowed part that fails is the route's trouble, not the application's.
            for (key, b) in &seen.backends {
                if matches!(key, BackendKey::Home(_)) {
                    failed = failed.saturating_add(b.failed_mps);
                    answered = answered.saturating_add(b.completed_mps.max(b.failed_mps));
                }
            }
        }
        let count = failed.saturating_mul(seen.span_ms) / 1_000_000;
        if count < 5 || !at_least(failed, answered, self.policy.failing_percent) {
            return None;
        }
        let percent = u128::from(failed) * 100 / u128::from(answered.max(1));
        let text = format!("{percent} % of answers fail ({} of {})", per_second(failed), per_second(answered));
        Some(vec![reason("failing_share", text)])
    }

    fn pressure_reasons(&self, hot: &Hot) -> Vec<Reason> {
        let seen = self.seen;
        let held = seconds(seen.at.since(hot.since).max(seen.span_ms));
        let mut reasons = Vec::new();
        if seen.queue_delay_p95_us > self.policy.queue_delay_p95_ms.saturating_mul(1_000) {
            let (p95, promised) = (ms(seen.queue_delay_p95_us), self.policy.queue_delay_p95_ms);
            reasons.push(reason("queue_delay_p95", format!("p95 queue delay {p95} > {promised} ms for {held}")));
        }
        if seen.shed_mps > 0 {
            reasons.push(reason("shed_rate", format!("{} are shed at admission", per_second(seen.shed_mps))));
        }
        let text =
            format!("{} arrive, {} are completed", per_second(seen.arrivals_mps), per_second(seen.completed_mps));
        reasons.push(reason("arrivals", text));
        reasons
    }

    fn overload(&mut self) -> Judgement {
        let Some(hot) = self.m.hot.clone() else { return Judgement::Steady };
        let (seen, policy, situation) = (self.seen, self.policy, *self.situation);
        let hot_ms = seen.at.since(hot.since);
        // The span still holds calm windows while the arrivals rise: the size would come out too small.
        let rising = !at_least(hot.last_arrivals_mps.saturating_mul(108) / 100, seen.arrivals_mps, 100);
        if let Some(hot) = &mut self.m.hot {
            hot.last_arrivals_mps = seen.arrivals_mps;
        }
        let more_comes = at_least(seen.arrivals_mps, seen.completed_mps, 102);
        if hot_ms < policy.sustain_ms || self.draining() || !more_comes {
            return Judgement::Steady;
        }
        match self.application_is_slow(&hot, hot_ms) {
            Slow::No => {}
            Slow::Perhaps => return Judgement::Steady,
            Slow::Yes(reasons) => return self.refuse(Refusal::ApplicationFault, reasons),
        }
        let few = hot.arrivals / 1_000 < EVIDENCE_ARRIVALS || by_chance(hot.excess, hot.arrivals, EVIDENCE_SIGMAS);
        if few || (rising && hot_ms < policy.sustain_ms + 300) {
            return Judgement::Steady;
        }
        let each = self.completed_each_mps();
        let capacity_mps = match self.m.capacity_mps {
            Some(learned) => learned.clamp(each.saturating_mul(7) / 10, each.saturating_mul(13) / 10),
            None => each,
        };
        let load = Load {
            arrivals_mps: seen.arrivals_mps,
            home_only_mps: seen.arrivals_home_only_mps.min(seen.arrivals_mps),
            capacity_mps: capacity_mps.max(1),
            home_instances: situation.home_instances_ready,
        };
        let mut reasons = self.pressure_reasons(&hot);
        if let Some(why) = self.home_bound(&load) {
            reasons.push(why);
            return self.refuse(Refusal::HomeBound, reasons);
        }
        self.m.told = None;
        self.grow(&load, reasons)
    }

    /// What was answered before is not answered now, and not because more is asked.
    fn application_is_slow(&self, hot: &Hot, hot_ms: u64) -> Slow {
        let (seen, situation) = (self.seen, self.situation);
        let mut reasons = self.pressure_reasons(hot);
        if situation.home_instances_ready == 0 {
            reasons.push(reason("home_instances", "no instance is ready at home".to_owned()));
            return Slow::Yes(reasons);
        }
        let known_load = at_least(hot.before, hot.came, 91) || by_chance(hot.came - hot.before, hot.before, 3);
        let stuck = hot.done == 0 && hot.reference_mps > 0;
        // A lender's instances may be slower by right: where there are some, the home's are judged alone.
        let (expected, done, percent) = match situation.borrowed_instances_ready {
            0 => (hot.before.min(hot.came), hot.done, 85),
            _ => (hot.before_home, hot.done_home, 60),
        };
        if !stuck && (!known_load || at_least(done, expected, percent)) {
            return Slow::No;
        }
        if by_chance(expected.saturating_sub(done), expected, EVIDENCE_SIGMAS) && hot_ms < HOT_FADES_MS {
            return Slow::Perhaps;
        }
        let text = format!(
            "the load is none that it had not answered before ({} an instance), but it answers less: it got slow",
            per_second(hot.reference_mps)
        );
        reasons.push(reason("completed", text));
        if let Some(calm) = seen.app_time_calm_us {
            let text = format!("an answer takes {}, {} when it was calm", ms(seen.app_time_p50_us), ms(calm));
            reasons.push(reason("app_time_p50", text));
        }
        Slow::Yes(reasons)
    }

    pub(crate) fn home_bound(&self, load: &Load) -> Option<Reason> {
        let percent = u128::from(load.home_only_mps) * 100 / u128::from(load.arrivals_mps.max(1));
        let share = format!("{percent} % of the load ({}) must go home", per_second(load.home_only_mps));
        if !at_least(load.may_leave_mps(), load.arrivals_mps, self.policy.relief_percent_min) {
            return Some(reason("home_only_share", format!("{share}: moving the rest is no relief")));
        }
        if !load.home_keeps_up() {
            let home = per_second(load.capacity_mps.saturating_mul(u64::from(load.home_instances)));
            return Some(reason("home_only_share", format!("{share}, home can do {home}: it would stay overloaded")));
        }
        None
    }

    fn grow(&mut self, load: &Load, mut reasons: Vec<Reason>) -> Judgement {
        let (seen, policy, situation) = (self.seen, self.policy, *self.situation);
        // What is coming has not served yet; what came last has not taken its share yet; what failed may fail again.
        let patience_ms = policy.settle_ms << self.m.fruitless.saturating_sub(1).min(3);
        let settling = situation.borrowed_instances_ready > 0 && seen.at.since(self.m.ready_at) < policy.settle_ms;
        if situation.borrowed_instances_coming > 0 || self.ago(self.m.grown_at) < patience_ms || settling {
            return Judgement::Steady;
        }
        let current = situation.borrowed();
        let wanted = load.borrowed(self.target_percent()).max(current.saturating_add(1)).min(policy.instances_max);
        if wanted <= current {
            return Judgement::Steady;
        }
        let rtt = ms(seen.user_rtt_p50_us);
        if seen.user_rtt_p50_us < policy.distance_rtt_us {
            reasons.push(reason("user_rtt", format!("median user round trip {rtt}: not distance")));
        }
        let text = format!("an instance completes {} when saturated", per_second(load.capacity_mps));
        reasons.push(reason("capacity_per_instance", text));
        let bound = if wanted == policy.instances_max { " (the most allowed)" } else { "" };
        let text = format!(
            "{} may leave home; at {} % of capacity that needs {wanted} borrowed{bound}",
            per_second(load.may_leave_mps()),
            self.target_percent()
        );
        reasons.push(reason("need", text));
        self.grown(wanted, reasons)
    }

    pub(crate) fn grown(&mut self, wanted: u32, reasons: Vec<Reason>) -> Judgement {
        let at = self.seen.at;
        if self.ago(self.m.shrunk_at) < REGRET_MS.max(2 * self.long_ms()) {
            self.m.caution = (self.m.caution + 1).min(CAUTION_MAX);
            self.m.caution_at = at;
        }
        if self.situation.borrowed_instances_coming == 0 {
            self.m.asked_at = Some(at);
        }
        self.m.fruitless = self.m.fruitless.saturating_add(1);
        self.m.grown_at = Some(at);
        self.change(Cause::Overload, wanted, reasons)
    }

    /// Trouble without waiting: told, never acted upon.
    fn slow_or_far(&mut self) -> Option<Judgement> {
        let (seen, policy, situation) = (self.seen, self.policy, *self.situation);
        let answers = seen.completed_mps.saturating_mul(seen.span_ms) / 1_000_000;
        let calm_us = seen.app_time_calm_us.unwrap_or(u64::MAX);
        let times = |n: u64| seen.app_time_p50_us >= calm_us.saturating_mul(n);
        let late = policy.answer_p95_ms > 0
            && seen.queue_delay_p95_us.saturating_add(seen.app_time_p95_us)
                > policy.answer_p95_ms.saturating_mul(1_000);
        let usual = self.m.handled_mps.saturating_mul(u64::from(situation.ready().max(1)));
        let slow = answers >= 5
            && !self.over_objective()
            && at_least(usual, seen.arrivals_mps, 91)
            && ((late && times(3)) || (times(8) && seen.app_time_p50_us >= 100_000));
        let slow_ms = held(&mut self.m.slow_since, slow, seen.at);
        let far = seen.user_rtt_p50_us > policy.distance_rtt_us && answers >= 5 && !self.over_objective();
        let far_ms = held(&mut self.m.far_since, far, seen.at);
        if let Some(well_ms) = held(&mut self.m.well_since, !slow && !far, seen.at)
            && well_ms >= WELL_MS
        {
            self.m.told = None;
        }
        if slow_ms.is_some_and(|t| t >= TELL_MS) {
            let (took, calm) = (ms(seen.app_time_p50_us), ms(calm_us));
            let text = format!(
                "an answer takes {took}, {calm} when it was calm, and nothing waits: more instances do not help"
            );
            return Some(self.refuse(Refusal::ApplicationFault, vec![reason("app_time_p50", text)]));
        }
        if far_ms.is_some_and(|t| t >= TELL_MS) {
            let rtt = format!("median user round trip {} > {}", ms(seen.user_rtt_p50_us), ms(policy.distance_rtt_us));
            let queue = format!("p95 queue delay {}: the servers are not slow", ms(seen.queue_delay_p95_us));
            return Some(
                self.refuse(Refusal::Distance, vec![reason("user_rtt", rtt), reason("queue_delay_p95", queue)]),
            );
        }
        None
    }

    /// Borrowed instances that would do at the smoothed load; None where nothing is known of capacity.
    /// An instance runs at `percent` of its capacity at most, or at `handled_mps` where it was seen to do more.
    fn enough(&self, percent: u64, handled_mps: u64) -> Option<u32> {
        let (arrivals_mps, home_only_mps) = self.m.load?;
        let capacity = u128::from(self.m.capacity_mps.filter(|c| *c > 0)?) * u128::from(percent) / 100;
        let capacity_mps = u64::try_from(capacity).unwrap_or(u64::MAX).max(handled_mps).max(1);
        let home_instances = self.situation.home_instances_ready;
        Some(Load { arrivals_mps, home_only_mps, capacity_mps, home_instances }.borrowed(100))
    }

    /// Without a known capacity, as in a daemon that lost its memory, the places that are busy say how many instances are enough; at most
    /// half is given back by that alone.
    fn enough_by_places(&self, percent: u64) -> u32 {
        let (seen, current) = (self.seen, self.situation.borrowed());
        let home = self.situation.home_instances_ready;
        let places_each = seen.limit / u64::from(home + current).max(1);
        if seen.queued > 0 || places_each == 0 {
            return current;
        }
        // Little's law; the mean answer takes longer than the median one.
        let busy_milli = u128::from(seen.arrivals_mps) * u128::from(seen.app_time_p50_us) * 3 / 2 / 1_000_000;
        let instances = busy_milli.div_ceil(u128::from(places_each) * 10 * u128::from(percent.max(1)));
        u32::try_from(instances).unwrap_or(u32::MAX).saturating_sub(home).clamp(current / 2, current)
    }

    fn recovery(&mut self) -> Judgement {
        let (seen, policy, current) = (self.seen, self.policy, self.situation.borrowed());
        if current == 0 || self.over_objective() || self.situation.home_instances_ready == 0 || self.m.trend.grows() {
            (self.m.calm, self.m.tight) = (None, None);
            return Judgement::Steady;
        }
        let (calm_ms, slow_ms) = self.patience_ms();
        let (calm_percent, tight_percent) = self.give_back_percents();
        let (calm, tight) = (self.enough(calm_percent, 0), self.enough(tight_percent, self.m.handled_mps / 100 * 105));
        let tight = tight.unwrap_or_else(|| self.enough_by_places(tight_percent));
        let calm = calm.unwrap_or(current);
        let fewer = enough_for(&mut self.m.calm, calm, current, calm_ms, seen.at).map(|n| (n, calm_percent, calm_ms));
        let slower =
            enough_for(&mut self.m.tight, tight, current, slow_ms, seen.at).map(|n| (n, tight_percent, slow_ms));
        let changed = self.ago(self.m.grown_at).min(self.ago(self.m.shrunk_at)).min(seen.at.since(self.m.ready_at));
        let Some((wanted, percent, held_ms)) = fewer.or(slower).filter(|_| changed >= policy.hold_ms) else {
            return Judgement::Steady;
        };
        let arrivals_mps = self.m.load.map_or(seen.arrivals_mps, |l| l.0);
        let mut reasons = vec![reason("arrivals", format!("{} arrive", per_second(arrivals_mps)))];
        if let Some(capacity) = self.m.capacity_mps {
            let text = format!("an instance completes {} when saturated", per_second(capacity));
            reasons.push(reason("capacity_per_instance", text));
        }
        let text = format!(
            "{wanted} borrowed instead of {current} would have run at {percent} % at most for {}",
            seconds(held_ms)
        );
        reasons.push(reason("need", text));
        (self.m.calm, self.m.tight) = (None, None);
        self.m.shrunk_at = Some(seen.at);
        self.change(Cause::Recovery, wanted, reasons)
    }

    pub(crate) fn change(&self, cause: Cause, borrowed_wanted: u32, reasons: Vec<Reason>) -> Judgement {
        let service = self.seen.service.clone();
        let borrowed_wanted = borrowed_wanted.min(self.policy.instances_max);
        Judgement::Change(Verdict { service, cause, at: self.now.wall, borrowed_wanted, reasons })
    }

    /// Told once, until it is over or another.
    fn refuse(&mut self, refusal: Refusal, reasons: Vec<Reason>) -> Judgement {
        self.m.well_since = None;
        if self.m.told.replace(refusal) == Some(refusal) {
            return Judgement::Steady;
        }
        Judgement::Refused { refusal, at: self.now.wall, reasons }
    }
}
