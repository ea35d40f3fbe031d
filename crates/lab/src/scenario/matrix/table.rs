//! The matrix's cells, added up over runs, and the table of them.

use super::Measured;
use crate::scenario::voted::faults::Fault;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    Owner,
    OwnerAndLeader,
    OtherVoter,
}

impl Column {
    pub fn name(self) -> &'static str {
        match self {
            Column::Owner => "owner",
            Column::OwnerAndLeader => "owner and leader",
            Column::OtherVoter => "other voter",
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Cell {
    agains_ms: Vec<f64>,
    gaps_ms: Vec<f64>,
    pub refused: u64,
    pub unknown: u64,
    pub lost: u64,
    pub lost_beyond: u64,
    pub not_linear: u64,
    /// The most that acknowledged at one time.
    pub owners_at_once: u64,
    pub takeovers: u64,
    pub false_takeovers: u64,
    /// Runs in which no good answer came.
    pub never: u64,
    pub not_healed: u64,
}

impl Cell {
    pub fn add(&mut self, measured: Measured) {
        let found = &measured.found;
        match measured.goods.again_ms {
            Some(ms) => self.agains_ms.push(ms),
            None => self.never += 1,
        }
        self.gaps_ms.push(measured.goods.gap_ms);
        self.refused += found.refused;
        self.unknown += found.unknown;
        self.lost += found.lost;
        self.lost_beyond += found.lost_beyond.len() as u64;
        self.not_linear += u64::from(found.not_linear.is_some());
        let two = !found.overlaps.is_empty() || measured.contradictions > 0;
        self.owners_at_once = self.owners_at_once.max(1 + u64::from(two));
        self.takeovers += measured.takeovers as u64;
        self.false_takeovers += measured.false_takeovers as u64;
        self.not_healed += u64::from(!measured.healed);
    }

    pub fn runs(&self) -> usize {
        self.gaps_ms.len()
    }

    pub fn again(&self) -> String {
        told(&self.agains_ms)
    }

    pub fn gap(&self) -> String {
        told(&self.gaps_ms)
    }
}

/// Middle and greatest.
fn told(ms: &[f64]) -> String {
    let mut sorted = ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(middle), Some(most)) => format!("{middle:.0}/{most:.0} ms"),
        _ => "never".into(),
    }
}

pub fn text(cells: &BTreeMap<(Fault, Column), Cell>) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header([
        "fault",
        "befalls",
        "runs",
        "good again p50/max",
        "gap p50/max",
        "refused",
        "unknown",
        "lost",
        "owners at once",
        "takeovers",
        "false",
    ]);
    for ((row, column), cell) in cells {
        table.add_row([
            row.name().to_owned(),
            column.name().to_owned(),
            cell.runs().to_string(),
            cell.again(),
            cell.gap(),
            cell.refused.to_string(),
            cell.unknown.to_string(),
            cell.lost.to_string(),
            cell.owners_at_once.to_string(),
            cell.takeovers.to_string(),
            cell.false_takeovers.to_string(),
        ]);
    }
    format!(
        "{table}\n\nNot played, since links are TCP relays and all clouds are processes of one kernel: lost and late packets below TCP, stepped and drifting clocks, a full or stalled disk of one cloud, a paused machine."
    )
}
