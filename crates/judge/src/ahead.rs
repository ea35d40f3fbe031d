//! Growth ordered before it is needed, and what is given back later, where starting takes long.
//!
//! Below [`Policy::ahead_from_ms`](crate::Policy) nothing here does anything: reacting is quick enough.

use crate::forecast::Forecast;
use crate::judge::{Case, at_least, per_second, reason, seconds};
use crate::size::Load;
use crate::{Judgement, Reason};

/// A start that took longer than this was trouble, not starting, ms.
const START_MS_MAX: u64 = 120_000;
/// Between two orders that look ahead: this part of the start.
const ORDERS_PER_START: u64 = 10;
/// Expected arrivals above this part of what there will be are ordered for, percent; one more for each so much more start. Every order
/// is late by its start: where that is short, room until it serves costs little, and where it is long, what is ordered is ordered with room.
const ORDER_PERCENT: u64 = 56;
const ORDER_STEP_MS: u64 = 3_000;
/// How full what is ordered may run, percent, and one more for each so much more start: a fuller fleet keeps the promise on average and
/// breaks it in some seconds.
const TARGET_PERCENT: u64 = 50;
const TARGET_PERCENT_MAX: u64 = 56;
/// ... and where some are given back late.
const TIGHT_PERCENT: u64 = 56;
const TIGHT_PERCENT_MAX: u64 = 62;
const STEP_MS: u64 = 5_000;
/// The same where arrivals scatter: half full, as who counts requests would have it.
const SCATTERED_ORDER_PERCENT: u64 = 65;
const SCATTERED_TARGET_PERCENT: u64 = 52;
const SCATTERED_TIGHT_PERCENT: u64 = 60;
/// Fewer must have been enough for so many times the start longer.
const GIVE_BACK_STARTS: u64 = 5;
/// No more are ordered than answer so many times the highest second seen: growth is carried on no further.
const HIGHEST_TIMES: u64 = 2;

impl Case<'_> {
    /// From a verdict until what was borrowed serves.
    pub(crate) fn start_ms(&self) -> u64 {
        self.m.start_ms.unwrap_or(self.policy.start_ms)
    }

    /// How much longer starting takes than reacting can bridge.
    pub(crate) fn long_ms(&self) -> u64 {
        self.start_ms().saturating_sub(self.policy.ahead_from_ms)
    }

    pub(crate) fn note_start(&mut self) {
        if let Some(asked) = self.m.asked_at.take() {
            let took = self.seen.at.since(asked).min(START_MS_MAX);
            self.m.start_ms = Some(self.m.start_ms.map_or(took, |old| (old + took) / 2));
        }
    }

    pub(crate) fn note_trend(&mut self) {
        if self.long_ms() == 0 {
            self.m.trend.clear();
        } else {
            self.m.trend.scatters(self.m.scatter.index());
            self.m.trend.read(self.seen.at, self.seen.span_ms, self.seen.arrivals_mps);
        }
    }

    /// Whether arrivals come in bunches: no growth is seen in them then, and room is kept instead.
    pub(crate) fn scattered(&self) -> bool {
        self.m.scatter.index() > 1.0
    }

    /// Where starting takes long, room is kept for what cannot be foreseen.
    pub(crate) fn target_percent(&self) -> u64 {
        match self.long_ms() {
            0 => self.policy.target_percent,
            _ if self.scattered() => SCATTERED_TARGET_PERCENT,
            long_ms => (TARGET_PERCENT + long_ms / STEP_MS).min(TARGET_PERCENT_MAX),
        }
    }

    /// How long fewer instances must have been enough: with room to spare, and just so.
    pub(crate) fn patience_ms(&self) -> (u64, u64) {
        let start_ms = if self.long_ms() == 0 { 0 } else { self.start_ms() };
        let calm_ms = self.policy.calm_ms.saturating_add(start_ms.saturating_mul(GIVE_BACK_STARTS));
        (calm_ms << self.m.caution, calm_ms.saturating_mul(3) << self.m.caution)
    }

    /// How full what stays may be, for a give-back soon and for a late one.
    pub(crate) fn give_back_percents(&self) -> (u64, u64) {
        let less = self.policy.target_percent - self.target_percent().min(self.policy.target_percent);
        let tight = match self.long_ms() {
            0 => self.policy.tight_percent,
            _ if self.scattered() => SCATTERED_TIGHT_PERCENT,
            long_ms => (TIGHT_PERCENT + long_ms / STEP_MS).min(TIGHT_PERCENT_MAX),
        };
        (self.policy.calm_percent.saturating_sub(less), tight.max(self.target_percent()))
    }

    /// Orders what will be needed once it has started.
    pub(crate) fn ahead(&mut self) -> Option<Judgement> {
        let start_ms = self.start_ms();
        if self.long_ms() == 0 {
            return None;
        }
        let again_ms = self.policy.settle_ms.max(start_ms / ORDERS_PER_START);
        let capacity_mps = self.m.capacity_mps.filter(|c| *c > 0)?.max(self.m.handled_mps);
        let ahead_ms = start_ms.saturating_add(again_ms);
        let forecast = self.m.trend.forecast(ahead_ms)?;
        if self.ago(self.m.grown_at) < again_ms || self.situation.home_instances_ready == 0 {
            return None;
        }
        let all = u64::from(self.situation.least().saturating_add(self.situation.beyond()));
        let will_serve_mps = capacity_mps.saturating_mul(all);
        // A load that is as it was asks for nothing, whatever is believed of the capacity; one that scatters asks for room.
        let load_mps = self.m.load.map_or(forecast.level_mps, |l| l.0);
        let forecast = match forecast.growth_mps2 {
            0 if self.scattered() => Forecast { level_mps: load_mps, expected_mps: load_mps, ..forecast },
            0 if !forecast.risen => return None,
            _ => forecast,
        };
        let (certain_mps, order_percent) = match forecast.growth_mps2 {
            0 if self.scattered() => (load_mps, SCATTERED_ORDER_PERCENT),
            0 => (forecast.level_low_mps, ORDER_PERCENT + self.long_ms() / ORDER_STEP_MS),
            _ => (forecast.expected_mps, ORDER_PERCENT + self.long_ms() / ORDER_STEP_MS),
        };
        if !at_least(certain_mps, will_serve_mps, order_percent.min(100)) {
            return None;
        }
        let home_only = u128::from(self.seen.arrivals_home_only_mps) * u128::from(forecast.expected_mps);
        let load = Load {
            arrivals_mps: forecast.expected_mps,
            home_only_mps: u64::try_from(home_only / u128::from(self.seen.arrivals_mps.max(1)))
                .unwrap_or(u64::MAX)
                .min(forecast.expected_mps),
            capacity_mps,
            home_instances: self.situation.least(),
            home_room: self.situation.home_room(),
        };
        let explained = self.m.trend.highest_mps().max(self.seen.arrivals_mps).saturating_mul(HIGHEST_TIMES);
        let most = Load { arrivals_mps: explained, ..load }.beyond(100);
        let wanted = load.beyond(self.target_percent()).min(most).min(self.policy.instances_max);
        if wanted <= self.situation.beyond() || self.home_bound(&load).is_some() {
            return None;
        }
        let reasons = self.foreseen(&forecast, ahead_ms, will_serve_mps, capacity_mps, wanted);
        (self.m.calm, self.m.tight) = (None, None);
        Some(self.grown(wanted, reasons))
    }

    fn foreseen(
        &self,
        forecast: &Forecast,
        ahead_ms: u64,
        will_serve_mps: u64,
        capacity_mps: u64,
        wanted: u32,
    ) -> Vec<Reason> {
        let arrive = per_second(forecast.level_mps);
        let serve = per_second(will_serve_mps);
        let text = match forecast.growth_mps2 {
            0 => format!("{arrive} arrive, {serve} can be served by what serves or is coming"),
            growth => format!(
                "{arrive} arrive and grow by {} each second; in {} {} are expected, {serve} can be served by then",
                per_second(growth),
                seconds(ahead_ms),
                per_second(forecast.expected_mps)
            ),
        };
        let start = format!("what is borrowed serves after {}", seconds(self.start_ms()));
        let capacity = format!("an instance completes {} when saturated", per_second(capacity_mps));
        let bound = if wanted == self.policy.instances_max { " (the most allowed)" } else { "" };
        let need = format!("at {} % of capacity that needs {}{bound}", self.target_percent(), self.so_many(wanted));
        [("forecast", text), ("start", start), ("capacity_per_instance", capacity), ("need", need)]
            .map(|(measure, text)| reason(measure, text))
            .into()
    }
}
