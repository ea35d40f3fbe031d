//! An application that got slow, and users that are far: trouble that more instances do not mend.
//!
//! Enters: what was answered before and is now, round trips. Leaves: a refusal with its reasons, or none. Always holds: chance is
//! no fault; an instance that has just come is not measured.

use crate::judge::{Case, EVIDENCE_SIGMAS, at_least, held, ms, per_second, reason};
use crate::memory::{Answers, HOT_FADES_MS, Hot};
use crate::{Judgement, Reason, Refusal};

/// Clients that wait for their answers are judged by so much of the time in which nothing else was seen, ms.
const SETTLED_MS: u64 = 200;
/// More comes than goes from this part of what is completed on, over the whole time in which it was pressed.
const SLOW_MORE_COMES_PERCENT: u64 = 105;
/// A fault that is not urgent is told after so long, ms.
const TELL_MS: u64 = 1_000;
/// A refusal is forgotten when nothing has been wrong for so long, ms.
const WELL_MS: u64 = 5_000;

/// Whether a difference from so many expected events (both in thousandths) is one that chance makes.
fn by_chance(difference: u64, events: u64, sigmas: u64) -> bool {
    (difference as f64).powi(2) < (sigmas.pow(2) * 1_000) as f64 * events as f64
}

pub(crate) enum Slow {
    No,
    /// It looks so, and more must be seen.
    Perhaps,
    Yes(Vec<Reason>),
}

impl Case<'_> {
    /// What was answered before is not answered now, and not because more is asked.
    pub(crate) fn application_is_slow(&self, hot: &Hot, hot_ms: u64) -> Slow {
        let (seen, situation) = (self.seen, self.situation);
        let mut reasons = self.pressure_reasons(hot);
        if situation.home_instances_ready == 0 {
            reasons.push(reason("home_instances", "no instance is ready at home".to_owned()));
            return Slow::Yes(reasons);
        }
        let settled = hot_ms >= seen.span_ms.saturating_add(SETTLED_MS);
        let mut sums = if settled { hot.settled } else { hot.answers };
        // Who waits for his answer does not come until he has it: that as much is answered as comes says nothing then, and only what
        // was answered for long counts.
        let more_comes = at_least(sums.came, sums.done, SLOW_MORE_COMES_PERCENT);
        if !more_comes {
            if !settled && hot.handled_mps > 0 {
                return Slow::Perhaps;
            }
            (sums.before, sums.before_home) = (hot.handled_of(sums.before), hot.handled_of(sums.before_home));
        }
        let Answers { came, done, done_home, before, before_home } = sums;
        let known_load = at_least(before, came, 91) || by_chance(came - before, before, 3);
        let stuck = done == 0 && before > 0;
        // A lender's instances may be slower by right: where there are some, the home's are judged alone.
        let (expected, done, percent) = match situation.borrowed_instances_ready {
            0 => (if more_comes { before.min(came) } else { before }, done, 85),
            _ => (before_home, done_home, 60),
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

    /// Trouble without waiting: told, never acted upon.
    pub(crate) fn slow_or_far(&mut self) -> Option<Judgement> {
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
            self.m.told.clear();
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
}
