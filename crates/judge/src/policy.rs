//! What a judge goes by: the service's promise and bounds, and where it stands now.

use pumasi_terms::service::ServiceSpec;
use serde::{Deserialize, Serialize};

/// Bounds of a judgement. [`Policy::of`] takes them from the service; the rest are the judge's own habits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The promise: p95 of the wait for a place, ms.
    pub queue_delay_p95_ms: u64,
    /// The promise: p95 of wait and application together, ms; 0: none.
    pub answer_p95_ms: u64,
    /// Instances beyond the least at home, there and borrowed, at most.
    pub instances_max: u32,
    /// Overload is believed after so long, ms.
    pub sustain_ms: u64,
    /// Measured waits without which nothing is judged.
    pub samples_min: u64,
    /// Instances are ordered so that they run at this part of their capacity, percent.
    pub target_percent: u64,
    /// Instances are given back where the rest runs at most at this part of its capacity, percent.
    pub calm_percent: u64,
    /// ... for so long, ms. Doubled each time a shrink had to be taken back soon.
    pub calm_ms: u64,
    /// Instances are given back more slowly (three times `calm_ms`) where the rest runs at most at this part, percent: below
    /// what overloads, above what a service may run at all the time.
    pub tight_percent: u64,
    /// Between a growth that serves (or came to nothing) and the next one, ms.
    pub settle_ms: u64,
    /// Between any change and a shrink, ms.
    pub hold_ms: u64,
    /// A service fails where this part of its answers does, percent.
    pub failing_percent: u64,
    /// Borrowing is no relief where less than this part of the load may leave home, percent.
    pub relief_percent_min: u64,
    /// A median round trip above this is far, us.
    pub distance_rtt_us: u64,
    /// From a verdict until what was borrowed serves, ms; assumed until it was measured.
    pub start_ms: u64,
    /// Where starting takes longer than this, the judge looks ahead and gives back more slowly, ms: below it, reacting is enough.
    pub ahead_from_ms: u64,
}

impl Policy {
    pub fn of(service: &ServiceSpec) -> Self {
        Self {
            queue_delay_p95_ms: service.objective.queue_delay_p95_ms,
            answer_p95_ms: service.objective.answer_p95_ms,
            instances_max: service.borrowing.instances_max.saturating_add(service.instances.home.spare_max()),
            ..Self::default()
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            queue_delay_p95_ms: 50,
            answer_p95_ms: 0,
            instances_max: 8,
            sustain_ms: 400,
            samples_min: 8,
            target_percent: 72,
            calm_percent: 62,
            calm_ms: 3_000,
            tight_percent: 88,
            settle_ms: 2_500,
            hold_ms: 3_000,
            failing_percent: 25,
            relief_percent_min: 15,
            distance_rtt_us: 150_000,
            start_ms: 2_000,
            ahead_from_ms: 4_000,
        }
    }
}

/// Where the service stands, as the store says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Situation {
    pub home_instances_ready: u32,
    /// Of these, beyond the least at home: they come before anything is borrowed, and go after it.
    pub home_instances_spare: u32,
    /// Started at home and not ready yet.
    pub home_instances_coming: u32,
    /// How many more could be started at home.
    pub home_instances_room: u32,
    /// Serving away, without those that drain.
    pub borrowed_instances_ready: u32,
    /// Ordered and not serving yet: held, leased, sent, starting. They are not ordered twice.
    pub borrowed_instances_coming: u32,
    /// Rises with each release of the application: what was learned of the one before is void.
    pub application_generation: u64,
}

impl Situation {
    /// Ready at home whatever the load is.
    pub fn least(&self) -> u32 {
        self.home_instances_ready.saturating_sub(self.home_instances_spare)
    }
    /// What came for the load, and is ready.
    pub fn beyond_ready(&self) -> u32 {
        self.home_instances_spare.saturating_add(self.borrowed_instances_ready)
    }
    pub fn coming(&self) -> u32 {
        self.home_instances_coming.saturating_add(self.borrowed_instances_coming)
    }
    /// What came for the load, or will: at home beyond the least there, and borrowed.
    pub fn beyond(&self) -> u32 {
        self.beyond_ready().saturating_add(self.coming())
    }
    /// Of what the load may have, at most so many at home.
    pub fn home_room(&self) -> u32 {
        self.home_instances_spare.saturating_add(self.home_instances_coming).saturating_add(self.home_instances_room)
    }
    pub fn ready(&self) -> u32 {
        self.home_instances_ready.saturating_add(self.borrowed_instances_ready)
    }
}
