//! What a soak does, from its seed alone: phases of load, each with faults at random times.
//!
//! Enters: a seed. Leaves: phases without end, the same for the same seed. Always holds: faults come from a shuffled deck, so that
//! each kind comes before any comes twice; every few phases are followed by a rest, in which everything must come back.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::time::Duration;

/// Phases of load before a rest.
const BUSY_PHASES: u32 = 4;
const FAULTS_MAX: u32 = 3;

/// How much users ask, against what one instance at home can answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "load")]
pub enum Load {
    /// Nearly nothing; everything rented goes back.
    Rest,
    /// Four fifths.
    Steady,
    /// At once, and for the whole phase.
    Campaign { times: f64 },
    /// Up evenly, and down again.
    Ramp { times: f64 },
    /// Short bursts over a steady load.
    Spikes { times: f64 },
}

impl Load {
    pub fn name(self) -> &'static str {
        match self {
            Load::Rest => "rest",
            Load::Steady => "steady",
            Load::Campaign { .. } => "campaign",
            Load::Ramp { .. } => "ramp",
            Load::Spikes { .. } => "spikes",
        }
    }

    pub fn text(self) -> String {
        match self {
            Load::Rest | Load::Steady => self.name().into(),
            Load::Campaign { times } | Load::Ramp { times } | Load::Spikes { times } => {
                format!("{} x{times:.1}", self.name())
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    KillDaemon,
    KillGateway,
    KillShim,
    KillInstance,
    PauseDaemon,
    PauseGateway,
    PauseInstance,
    Partition,
    OneWay,
    CutOff,
    Slow,
    Narrow,
    Lossy,
    Recall,
    StopAutomation,
    NewGeneration,
    BreakTransfer,
    Cancel,
}

impl Kind {
    pub const ALL: [Kind; 18] = [
        Kind::KillDaemon,
        Kind::KillGateway,
        Kind::KillShim,
        Kind::KillInstance,
        Kind::PauseDaemon,
        Kind::PauseGateway,
        Kind::PauseInstance,
        Kind::Partition,
        Kind::OneWay,
        Kind::CutOff,
        Kind::Slow,
        Kind::Narrow,
        Kind::Lossy,
        Kind::Recall,
        Kind::StopAutomation,
        Kind::NewGeneration,
        Kind::BreakTransfer,
        Kind::Cancel,
    ];

    pub fn text(self) -> &'static str {
        match self {
            Kind::KillDaemon => "kill -9 of a daemon",
            Kind::KillGateway => "kill -9 of a gateway",
            Kind::KillShim => "kill -9 of a shim",
            Kind::KillInstance => "kill -9 of an instance",
            Kind::PauseDaemon => "a daemon stands still",
            Kind::PauseGateway => "a gateway stands still",
            Kind::PauseInstance => "an instance stands still",
            Kind::Partition => "a link is cut",
            Kind::OneWay => "a link is cut one way",
            Kind::CutOff => "a cloud is cut off",
            Kind::Slow => "a link is slow",
            Kind::Narrow => "a link is narrow",
            Kind::Lossy => "a link breaks again and again",
            Kind::Recall => "a lender recalls",
            Kind::StopAutomation => "automation is stopped",
            Kind::NewGeneration => "a new application",
            Kind::BreakTransfer => "a transfer breaks off",
            Kind::Cancel => "a journey is cancelled",
        }
    }

    /// Whether it only means something while something is rented.
    pub fn needs_lease(self) -> bool {
        matches!(self, Kind::Recall | Kind::Cancel)
    }
}

/// A fault as the script has it; what exactly it meets is chosen when it strikes, by `pick`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fault {
    pub kind: Kind,
    /// After the beginning of the phase.
    pub at: Duration,
    pub lasts: Duration,
    pub pick: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    pub number: u32,
    pub load: Load,
    pub lasts: Duration,
    /// Part of the requests that write, 0 to 1.
    pub writes: f64,
    /// In the order in which they strike.
    pub faults: Vec<Fault>,
    pub seed: u64,
}

impl Phase {
    pub fn is_rest(&self) -> bool {
        self.load == Load::Rest
    }
}

#[derive(Debug)]
pub struct Script {
    rng: SmallRng,
    next: u32,
    deck: Vec<Kind>,
}

impl Script {
    pub fn new(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), next: 0, deck: Vec::new() }
    }

    /// The next phase; the first is a rest, which warms everything up.
    pub fn phase(&mut self) -> Phase {
        let number = self.next;
        self.next += 1;
        if number.is_multiple_of(BUSY_PHASES + 1) {
            return self.rest(number);
        }
        let times = self.rng.random_range(2.0..=6.0);
        // Campaigns are what the product is for.
        let load = match self.rng.random_range(0..10) {
            0..5 => Load::Campaign { times },
            5..7 => Load::Ramp { times },
            7..9 => Load::Spikes { times },
            _ => Load::Steady,
        };
        let lasts = Duration::from_millis(self.rng.random_range(15_000..=30_000));
        let writes = *[0.02, 0.05, 0.05, 0.1, 0.2, 0.5].get(self.rng.random_range(0..6)).unwrap_or(&0.05);
        let faults = (0..self.rng.random_range(0..=FAULTS_MAX)).map(|_| self.fault(lasts)).collect();
        let mut phase = Phase { number, load, lasts, writes, faults, seed: self.rng.random() };
        phase.faults.sort_by_key(|f| f.at);
        phase
    }

    fn rest(&mut self, number: u32) -> Phase {
        let lasts = Duration::from_secs(8);
        Phase { number, load: Load::Rest, lasts, writes: 0.05, faults: Vec::new(), seed: self.rng.random() }
    }

    /// A rest after the last phase, whatever its number.
    pub fn last(&mut self) -> Phase {
        let number = self.next;
        self.next += 1;
        self.rest(number)
    }

    fn fault(&mut self, within: Duration) -> Fault {
        if self.deck.is_empty() {
            self.deck = Kind::ALL.to_vec();
            self.deck.shuffle(&mut self.rng);
        }
        let kind = self.deck.pop().unwrap_or(Kind::KillDaemon);
        // What needs a lease comes when there may be one.
        let earliest = if kind.needs_lease() { 0.4 } else { 0.05 };
        let at = within.mul_f64(self.rng.random_range(earliest..0.7));
        let lasts = Duration::from_millis(match kind {
            // Shorter and longer than a lease that is not renewed.
            Kind::PauseDaemon | Kind::Partition | Kind::OneWay | Kind::CutOff => self.rng.random_range(300..=10_000),
            Kind::PauseGateway | Kind::PauseInstance => self.rng.random_range(200..=4_000),
            Kind::Slow | Kind::Narrow | Kind::Lossy => self.rng.random_range(2_000..=10_000),
            Kind::StopAutomation => self.rng.random_range(1_000..=8_000),
            _ => 0,
        });
        Fault { kind, at, lasts, pick: self.rng.random() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn phases(seed: u64, count: u32) -> Vec<Phase> {
        let mut script = Script::new(seed);
        (0..count).map(|_| script.phase()).collect()
    }

    #[test]
    fn the_same_seed_is_the_same_soak() {
        assert_eq!(phases(7, 50), phases(7, 50));
        assert_ne!(phases(7, 50), phases(8, 50));
    }

    #[test]
    fn every_fault_comes_and_every_few_phases_rest() {
        let phases = phases(1, 60);
        let kinds: BTreeSet<Kind> = phases.iter().flat_map(|p| &p.faults).map(|f| f.kind).collect();
        assert_eq!(kinds, Kind::ALL.into_iter().collect());
        let loads: BTreeSet<&str> = phases.iter().map(|p| p.load.name()).collect();
        assert_eq!(loads.len(), 5);
        assert!(phases.windows(BUSY_PHASES as usize + 1).all(|w| w.iter().any(Phase::is_rest)));
        assert!(phases.iter().filter(|p| p.is_rest()).all(|p| p.faults.is_empty()));
        assert!(phases.iter().flat_map(|p| p.faults.iter().map(|f| f.at < p.lasts)).all(|within| within));
    }
}
