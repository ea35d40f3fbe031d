//! What a race comes to: one line of the table.

use comfy_table::{Table, presets::ASCII_MARKDOWN};

#[derive(Debug, Clone)]
pub struct Row {
    /// What is raced, with its unit: `gateway, requests per CPU-second`.
    pub what: String,
    /// Ours, as told: `28,400`.
    pub ours: String,
    /// The other's name and figure: `HAProxy 2.6`, `27,100`.
    pub rival: String,
    pub theirs: String,
    /// Ours to theirs, the median of the pairs.
    pub ratio: f64,
    /// What else a reader must know: p99 of both, bytes in each direction, spread.
    pub note: String,
}

pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(["race", "pumasi", "rival", "rival's", "ratio", "note"]);
    for r in rows {
        table.add_row([&r.what, &r.ours, &r.rival, &r.theirs, &format!("{:.2}", r.ratio), &r.note]);
    }
    table
}

/// The middle of an odd number of values, the mean of the two in the middle of an even one; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}
