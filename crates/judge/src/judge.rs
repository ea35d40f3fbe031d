//! The judgement itself.
//!
//! Overload is told by time *and* weight: waits above the promise for [`Policy::sustain_ms`], a queue that does not drain,
//! and either arrivals so far above what the instances can do that chance does not explain it (five standard deviations of a
//! Poisson stream), or a queue that stands as no steady load makes it ([`crate::standing`]): clients that wait for their
//! answers never send more than is answered. Steady load at four fifths has long waits now and then, but never that.
//! An application that got slow is told from one that is asked too much by what it completed before: overload does not
//! lower what is completed.

use crate::memory::{Answers, Hot, Memory};
use crate::policy::{Policy, Situation};
use crate::size::{Crowd, Load};
use crate::slow::Slow;
use crate::{Cause, Judgement, Reason, Refusal, Verdict};
use pumasi_sense::{BackendKey, Observation};
use pumasi_terms::{BootMs, Now};

/// Part of the known capacity above which arrivals count as evidence, percent.
const EVIDENCE_PERCENT: u64 = 90;
/// Standard deviations that chance does not reach.
pub(crate) const EVIDENCE_SIGMAS: u64 = 5;
/// The same as improbability: 5² / 2.
const EVIDENCE_NATS: f64 = 12.5;
/// Arrivals below which there is no evidence.
const EVIDENCE_ARRIVALS: u64 = 15;
/// After so long what is completed is believed, whatever was learned, ms.
const BELIEVE_COMPLETIONS_MS: u64 = 2_000;
/// An instance that got ready has its share of the load after so long, ms.
const RAMP_MS: u64 = 1_000;
/// A queue stands if chance brings it about once in e^13 looks: of a steady load, less than once in weeks.
const STANDING_NATS: f64 = 13.0;
/// More comes than goes from this part of what is completed on, percent.
const MORE_COMES_PERCENT: u64 = 102;
/// Where less than this must go home, the rest is worth helping even if what stays is too much, percent.
const HOME_BOUND_PERCENT: u128 = 50;
/// A growth so soon after a shrink says that the shrink was wrong, ms.
const REGRET_MS: u64 = 30_000;
const CAUTION_MAX: u32 = 4;
const CAUTION_FADES_MS: u64 = 180_000;
/// Smoothing of the load that a shrink is measured by, ms.
const LOAD_SMOOTH_MS: u64 = 2_000;
/// ... and at most so many times longer where arrivals scatter.
const SCATTER_SMOOTH_MAX: f64 = 30.0;
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

pub(crate) fn ms(us: u64) -> String {
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

fn smooth(old: u64, new: u64, dt_ms: u64, over_ms: u64) -> u64 {
    let weight = dt_ms.min(over_ms);
    let sum = u128::from(old) * u128::from(over_ms - weight) + u128::from(new) * u128::from(weight);
    u64::try_from(sum / u128::from(over_ms.max(1))).unwrap_or(u64::MAX)
}

/// How long it has held; None if it does not.
pub(crate) fn held(since: &mut Option<BootMs>, holds: bool, at: BootMs) -> Option<u64> {
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
        self.note_scatter();
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
        if self.situation.beyond() > self.policy.instances_max && self.ago(self.m.shrunk_at) >= self.policy.settle_ms {
            let text = format!("{}, {} are allowed", self.so_many(self.situation.beyond()), self.policy.instances_max);
            self.m.shrunk_at = Some(seen.at);
            return self.change(Cause::Request, self.policy.instances_max, vec![reason("instances_max", text)]);
        }
        if let Some(since) = self.m.pressed_since() {
            // A bunch is pressure that passes, and comes again whatever is there.
            if !self.scattered() || seen.at.since(since) >= self.policy.sustain_ms {
                (self.m.calm, self.m.tight) = (None, None);
            }
            self.m.well_since = None;
            self.m.slow_since = None;
            self.m.far_since = None;
            return match self.overload() {
                Judgement::Steady if self.m.told.is_empty() => self.ahead().unwrap_or(Judgement::Steady),
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

    /// Instances beyond the least at home, in words.
    pub(crate) fn so_many(&self, count: u32) -> String {
        match self.situation.home_room() {
            0 => format!("{count} borrowed"),
            _ => format!("{count} beyond the least at home"),
        }
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
        let ready = (self.situation.least(), self.situation.beyond_ready());
        if ready != self.m.ready {
            if ready.1 > self.m.ready.1 {
                self.m.fruitless = 0;
                self.note_start();
            }
            self.m.ready = ready;
            self.m.ready_at = self.seen.at;
            if let Some(hot) = &mut self.m.hot {
                // What other instances answered measures none of these.
                (hot.answers, hot.settled) = (Answers::default(), Answers::default());
            }
        }
        if self.m.caution > 0 && self.seen.at.since(self.m.caution_at) >= CAUTION_FADES_MS {
            self.m.caution -= 1;
            self.m.caution_at = self.seen.at;
        }
    }

    fn note_queue(&mut self) {
        let seen = self.seen;
        self.m.queue.read(seen.at, seen.queued, seen.in_flight, seen.arrivals_mps);
    }

    fn note_load(&mut self) {
        let now = (self.seen.arrivals_mps, self.seen.arrivals_home_only_mps.min(self.seen.arrivals_mps));
        let dt_ms = self.dt_ms;
        // What scatters more is looked at for longer.
        let over_ms = (LOAD_SMOOTH_MS as f64 * self.m.scatter.index().min(SCATTER_SMOOTH_MAX)) as u64;
        let smoothed = |old: u64, now: u64| smooth(old, now, dt_ms, over_ms);
        self.m.load = Some(self.m.load.map_or(now, |old| (smoothed(old.0, now.0), smoothed(old.1, now.1))));
    }

    /// A pressed service is seen at an unusual time: how its arrivals scatter is known from before.
    fn note_scatter(&mut self) {
        let seen = self.seen;
        match self.m.hot {
            Some(_) => self.m.scatter.pause(),
            None => self.m.scatter.read(seen.at, seen.span_ms, seen.arrivals_mps),
        }
    }

    pub(crate) fn over_objective(&self) -> bool {
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
        let ramping = self.ramping();
        // Another time is another trouble: what brought nothing then may bring something now.
        if self.ago(self.m.pressed_at) >= self.policy.settle_ms {
            self.m.fruitless = 0;
        }
        self.m.pressed_at = Some(at);
        let handled_mps = self.m.handled_mps;
        let reference_mps = handled_mps.max(self.m.capacity_mps.unwrap_or(0));
        let each = self.completed_each_mps();
        let ready = u64::from(self.situation.ready().max(1));
        let (home, done_home) = (u64::from(self.situation.home_instances_ready), self.home_completed_mps());
        let hot = self.m.hot.get_or_insert_with(|| Hot { since: at, reference_mps, handled_mps, ..Hot::default() });
        hot.idle_ms = 0;
        let known = match self.m.capacity_mps {
            Some(learned) if at.since(hot.since) < BELIEVE_COMPLETIONS_MS => learned,
            _ => each,
        };
        let span_ms = if fresh { seen.span_ms } else { dt_ms };
        let during = |mps: u64| mps.saturating_mul(span_ms) / 1_000;
        let came = during(seen.arrivals_mps);
        let could = during(known.saturating_mul(ready)) / 100 * EVIDENCE_PERCENT;
        let answers = Answers {
            came,
            done: during(seen.completed_mps),
            done_home: during(done_home),
            before: during(hot.reference_mps.saturating_mul(ready)),
            before_home: during(hot.reference_mps.saturating_mul(home)),
        };
        if !ramping {
            hot.answers.add(&answers, span_ms);
        }
        if !ramping && at.since(hot.since) >= seen.span_ms {
            hot.settled.add(&answers, span_ms);
        }
        let excess = hot.excess.saturating_add(came).saturating_sub(could);
        // Evidence that has run dry begins anew.
        (hot.arrivals, hot.excess) = if excess == 0 { (0, 0) } else { (hot.arrivals.saturating_add(came), excess) };
    }

    /// Instances that just came have not taken their share yet.
    fn ramping(&self) -> bool {
        self.seen.at.since(self.m.ready_at) <= RAMP_MS
    }

    /// What a home instance answers while nothing waits: the measure of an application that gets slow later.
    fn learn_handled(&mut self, trouble: bool) {
        let home = self.situation.home_instances_ready;
        if trouble || home == 0 || self.ramping() || self.over_objective() {
            self.m.home_mps = None;
            return;
        }
        let rate = self.home_completed_mps() / u64::from(home);
        // It grows from below: a first window of chance must not count as seconds.
        let smoothed =
            smooth(self.m.home_mps.unwrap_or(rate.min(self.m.handled_mps)), rate, self.dt_ms, LOAD_SMOOTH_MS);
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

    pub(crate) fn pressure_reasons(&self, hot: &Hot) -> Vec<Reason> {
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
        if hot_ms < policy.sustain_ms || self.m.queue.draining() {
            return Judgement::Steady;
        }
        let more_comes = at_least(seen.arrivals_mps, seen.completed_mps, MORE_COMES_PERCENT);
        match self.application_is_slow(&hot, hot_ms) {
            Slow::No => {}
            Slow::Perhaps => return Judgement::Steady,
            Slow::Yes(reasons) => return self.refuse(Refusal::ApplicationFault, reasons),
        }
        let scatter = self.m.scatter.index();
        let few = hot.arrivals / 1_000 < EVIDENCE_ARRIVALS || hot.flood_nats() < EVIDENCE_NATS * scatter;
        let floods = more_comes && !few;
        let stands = self.m.queue.weight(hot.since, scatter) >= STANDING_NATS;
        if !(floods || stands) || (rising && hot_ms < policy.sustain_ms + 300) {
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
            home_instances: situation.least(),
            home_room: situation.home_room(),
        };
        let mut reasons = self.pressure_reasons(&hot);
        if let Some(why) = self.home_bound(&load) {
            reasons.push(why);
            return self.refuse(Refusal::HomeBound, reasons);
        }
        let (wanted, need) = if more_comes { self.need_of_arrivals(&load) } else { self.need_of_crowd(&load) };
        self.grow(&load, wanted, need, reasons)
    }

    fn need_of_arrivals(&self, load: &Load) -> (u32, String) {
        let percent = self.target_percent();
        let text =
            format!("{} may leave home; at {percent} % of capacity that needs", per_second(load.may_leave_mps()));
        (load.beyond(percent), text)
    }

    /// Who waits for his answer asks the sooner the more instances answer: what comes says nothing of what will come then, how
    /// many are inside does.
    fn need_of_crowd(&self, load: &Load) -> (u32, String) {
        let (seen, ready) = (self.seen, self.situation.ready().max(1));
        let crowd = Crowd {
            inside: seen.queued.saturating_add(seen.in_flight),
            places_each: seen.limit / u64::from(ready),
            capacity_mps: load.capacity_mps,
            wait_ms: self.policy.queue_delay_p95_ms,
        };
        let all = crowd.instances(ready);
        let text = format!(
            "{} are inside and come again as they are answered; within the promise an instance bears {}, which needs",
            crowd.inside,
            crowd.each()
        );
        (all.saturating_sub(self.situation.least()), text)
    }

    pub(crate) fn home_bound(&self, load: &Load) -> Option<Reason> {
        let percent = u128::from(load.home_only_mps) * 100 / u128::from(load.arrivals_mps.max(1));
        let share = format!("{percent} % of the load ({}) must go home", per_second(load.home_only_mps));
        // The home can grow, does, or just did.
        let at_home = self.situation;
        let grew = at_home.home_instances_spare > 0 && self.seen.at.since(self.m.ready_at) < self.policy.settle_ms;
        if at_home.home_instances_room > 0 || at_home.home_instances_coming > 0 || grew {
            return None;
        }
        if !at_least(load.may_leave_mps(), load.arrivals_mps, self.policy.relief_percent_min) {
            return Some(reason("home_only_share", format!("{share}: moving the rest is no relief")));
        }
        // What an instance completes right after others failed says little of what it can do; and where most may leave, most is helped.
        let capacity_mps = load.capacity_mps.max(self.m.handled_mps);
        if percent >= HOME_BOUND_PERCENT && !(Load { capacity_mps, ..*load }).home_keeps_up() {
            let home = per_second(capacity_mps.saturating_mul(u64::from(self.situation.home_instances_ready)));
            return Some(reason("home_only_share", format!("{share}, home can do {home}: it would stay overloaded")));
        }
        None
    }

    fn grow(&mut self, load: &Load, wanted: u32, need: String, mut reasons: Vec<Reason>) -> Judgement {
        let (seen, policy, situation) = (self.seen, self.policy, *self.situation);
        // What is coming has not served yet; what came last has not taken its share yet; what failed may fail again.
        let patience_ms = policy.settle_ms << self.m.fruitless.saturating_sub(1).min(3);
        let settling = situation.beyond_ready() > 0 && seen.at.since(self.m.ready_at) < policy.settle_ms;
        if situation.coming() > 0 || self.ago(self.m.grown_at) < patience_ms || settling {
            return Judgement::Steady;
        }
        let current = situation.beyond();
        let relieved = at_least(load.may_leave_mps(), load.arrivals_mps, policy.relief_percent_min);
        // Where hardly anything may leave, only the home can grow.
        let most = if relieved { policy.instances_max } else { situation.home_room().min(policy.instances_max) };
        let wanted = wanted.max(current.saturating_add(1)).min(most);
        if wanted <= current {
            return Judgement::Steady;
        }
        let rtt = ms(seen.user_rtt_p50_us);
        if seen.user_rtt_p50_us < policy.distance_rtt_us {
            reasons.push(reason("user_rtt", format!("users are near (median round trip {rtt})")));
        }
        let text = format!("an instance completes {} when saturated", per_second(load.capacity_mps));
        reasons.push(reason("capacity_per_instance", text));
        let bound = if wanted == policy.instances_max { " (the most allowed)" } else { "" };
        reasons.push(reason("need", format!("{need} {}{bound}", self.so_many(wanted))));
        self.grown(wanted, reasons)
    }

    pub(crate) fn grown(&mut self, wanted: u32, reasons: Vec<Reason>) -> Judgement {
        let at = self.seen.at;
        if self.ago(self.m.shrunk_at) < REGRET_MS.max(2 * self.long_ms()) {
            self.m.caution = (self.m.caution + 1).min(CAUTION_MAX);
            self.m.caution_at = at;
        }
        if self.situation.coming() == 0 {
            self.m.asked_at = Some(at);
        }
        self.m.fruitless = self.m.fruitless.saturating_add(1);
        self.m.grown_at = Some(at);
        self.m.told.clear();
        self.change(Cause::Overload, wanted, reasons)
    }

    pub(crate) fn change(&self, cause: Cause, borrowed_wanted: u32, reasons: Vec<Reason>) -> Judgement {
        let service = self.seen.service.clone();
        let borrowed_wanted = borrowed_wanted.min(self.policy.instances_max);
        Judgement::Change(Verdict { service, cause, at: self.now.wall, borrowed_wanted, reasons })
    }

    /// Each is told once, until nothing was wrong for a while or borrowing began.
    pub(crate) fn refuse(&mut self, refusal: Refusal, reasons: Vec<Reason>) -> Judgement {
        self.m.well_since = None;
        if !self.m.told.insert(refusal) {
            return Judgement::Steady;
        }
        Judgement::Refused { refusal, at: self.now.wall, reasons }
    }
}
