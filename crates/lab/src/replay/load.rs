//! A recorded load: how many requests came in each second or minute.
//!
//! Enters: the text of a CSV file. Leaves: counts at one step, as runs without a break. Always holds: time only rises, nothing
//! is negative, every fault names file and line.

use jiff::civil::DateTime;
use std::path::{Path, PathBuf};

/// Steps that may be missing inside a run; they are filled in between their neighbours.
const GAP_STEPS_MAX: i64 = 10;
const BYTES_MAX: u64 = 1 << 30;
/// A fifth of a second more than a day has seconds, a thousand times over.
const STEPS_MAX: usize = 90_000_000;
const STEP_S_MAX: i64 = 3_600;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("{}: {problem}", .file.display())]
    File { file: PathBuf, problem: String },
    #[error("{}:{line}: {problem}", .file.display())]
    Line { file: PathBuf, line: usize, problem: String },
}

/// Counts without a break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// As the file writes its first time; empty where it has none.
    pub label: String,
    pub counts: Vec<u64>,
}

/// What the counts of a load are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Requests in each step, so many of which come at once.
    Requests { bunch: u64 },
    /// Clients at the end of each step, who wait for their answer, think for so long on average, and ask again.
    Clients { think_ms: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    pub kind: Kind,
    pub step_s: u64,
    pub runs: Vec<Run>,
    /// Steps that were missing and filled in.
    pub filled: u64,
}

impl Load {
    pub fn requests(&self) -> u64 {
        self.runs.iter().flat_map(|r| &r.counts).sum()
    }
    pub fn is_of_requests(&self) -> bool {
        matches!(self.kind, Kind::Requests { .. })
    }
    pub fn steps(&self) -> usize {
        self.runs.iter().map(|r| r.counts.len()).sum()
    }
}

/// What a row says, and where it stands.
struct Row<'a> {
    line: usize,
    time: Option<(i64, &'a str)>,
    count: u64,
}

/// Reads a file. `only`: rows whose time begins with one of these; empty takes all. `step_s`: of a file without times.
pub fn read(file: &Path, only: &[String], step_s: u64) -> Result<Load, LoadError> {
    let fault = |problem: String| LoadError::File { file: file.to_owned(), problem };
    let size = std::fs::metadata(file).map_err(|e| fault(format!("cannot be read: {e}")))?.len();
    if size > BYTES_MAX {
        return Err(fault(format!("has {size} bytes, {BYTES_MAX} are read at most: cut it")));
    }
    let text = std::fs::read(file).map_err(|e| fault(format!("cannot be read: {e}")))?;
    let text = String::from_utf8(text).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        LoadError::Line { file: file.to_owned(), line, problem: "is no UTF-8 text; a CSV file is wanted".into() }
    })?;
    parse(&text, file, only, step_s)
}

/// The same, of a text.
pub fn parse(text: &str, file: &Path, only: &[String], step_s: u64) -> Result<Load, LoadError> {
    let at = |line: usize, problem: String| LoadError::Line { file: file.to_owned(), line, problem };
    let whole = |problem: &str| LoadError::File { file: file.to_owned(), problem: problem.to_owned() };
    let lines = || text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())).filter(|(_, l)| !l.is_empty());
    let (_, first) = lines().find(|(_, l)| !l.starts_with('#')).ok_or_else(|| whole("is empty"))?;
    let separator = [',', ';', '\t'].into_iter().find(|s| first.contains(*s)).unwrap_or(',');
    let columns = Columns::of(first, separator);
    let mut rows: Vec<Row<'_>> = Vec::new();
    for (line, text) in lines().filter(|(_, l)| !l.starts_with('#')).skip(usize::from(columns.head)) {
        let row = columns.row(line, text, separator).map_err(|problem| at(line, problem))?;
        if let (Some((now, _)), Some((before, _))) = (row.time, rows.last().and_then(|r| r.time))
            && now <= before
        {
            return Err(at(line, "its time is not later than the one before: sort the file by time".into()));
        }
        if rows.len() >= STEPS_MAX {
            return Err(at(line, format!("more than {STEPS_MAX} rows")));
        }
        rows.push(row);
    }
    if rows.len() < 2 {
        return Err(whole("has fewer than two rows of counts"));
    }
    let step = match columns.time {
        None => i64::try_from(step_s).unwrap_or(60),
        Some(_) => {
            let times: Vec<i64> = rows.iter().filter_map(|r| r.time.map(|t| t.0)).collect();
            times.windows(2).map(|w| w[1] - w[0]).min().unwrap_or(60)
        }
    };
    if !(1..=STEP_S_MAX).contains(&step) {
        return Err(whole(&format!("has a row every {step} s; a second to an hour makes sense")));
    }
    if let Some((row, time)) =
        rows.iter().find_map(|r| r.time.filter(|t| (t.0 - first_time(&rows)) % step != 0).map(|t| (r, t.1)))
    {
        return Err(at(row.line, format!("{time} does not fit steps of {step} s, counted from the first row")));
    }
    runs(&rows, step, only)
        .and_then(|load| match load.steps() {
            0 => Err(format!("has no row whose time begins with {}", only.join(" or "))),
            _ => Ok(load),
        })
        .map_err(|problem| whole(&problem))
}

fn first_time(rows: &[Row<'_>]) -> i64 {
    rows.first().and_then(|r| r.time).map_or(0, |t| t.0)
}

fn runs(rows: &[Row<'_>], step: i64, only: &[String]) -> Result<Load, String> {
    let kind = Kind::Requests { bunch: 1 };
    let mut load = Load { kind, step_s: step.unsigned_abs(), runs: Vec::new(), filled: 0 };
    if !only.is_empty() && rows.iter().all(|r| r.time.is_none()) {
        return Err("has no times: rows cannot be chosen by them".into());
    }
    let mut last: Option<(i64, u64)> = None;
    for (i, row) in rows.iter().enumerate() {
        let (time, label) = row.time.unwrap_or((i as i64 * step, ""));
        if !only.is_empty() && !only.iter().any(|o| label.starts_with(o.as_str())) {
            last = None;
            continue;
        }
        let missing = last.map(|(then, _)| (time - then) / step - 1);
        match (missing, last) {
            (Some(n), Some((_, before))) if n <= GAP_STEPS_MAX => {
                let Some(run) = load.runs.last_mut() else { continue };
                for k in 1..=n {
                    let between = i128::from(before)
                        + (i128::from(row.count) - i128::from(before)) * i128::from(k) / i128::from(n + 1);
                    run.counts.push(u64::try_from(between).unwrap_or(0));
                    load.filled += 1;
                }
                run.counts.push(row.count);
            }
            _ => load.runs.push(Run { label: label.to_owned(), counts: vec![row.count] }),
        }
        last = Some((time, row.count));
    }
    Ok(load)
}

/// Which column is what.
struct Columns {
    head: bool,
    time: Option<usize>,
    count: usize,
    width: usize,
}

impl Columns {
    fn of(first: &str, separator: char) -> Self {
        let cells: Vec<&str> = first.split(separator).map(clean).collect();
        let head = cells.last().is_some_and(|c| c.parse::<f64>().is_err()) && cells.iter().all(|c| moment(c).is_none());
        let named =
            |names: &[&str]| cells.iter().position(|c| head && names.contains(&c.to_ascii_lowercase().as_str()));
        let width = cells.len();
        let time = named(&["time", "period", "timestamp", "date", "datetime", "minute", "second", "t", "ts"]);
        let count = named(&["count", "requests", "req", "arrivals", "value", "hits", "n"]);
        match width {
            1 => Self { head, time: None, count: 0, width },
            _ => {
                let count = count.unwrap_or_else(|| if time == Some(width - 1) { 0 } else { width - 1 });
                Self { head, time: Some(time.unwrap_or(usize::from(count == 0))), count, width }
            }
        }
    }

    fn row<'a>(&self, line: usize, text: &'a str, separator: char) -> Result<Row<'a>, String> {
        let cells: Vec<&str> = text.split(separator).map(clean).collect();
        if cells.len() != self.width {
            return Err(format!("{} columns, {} before it", cells.len(), self.width));
        }
        let cell = cells[self.count];
        let count: f64 = cell.parse().map_err(|_| format!("{cell:?} is not a number of requests"))?;
        if !count.is_finite() || !(0.0..=1e12).contains(&count) {
            return Err(format!("{cell} requests cannot be: 0 to 10^12 can"));
        }
        let time = match self.time {
            None => None,
            Some(i) => {
                let cell = cells[i];
                let seconds = moment(cell).ok_or_else(|| {
                    format!("{cell:?} is not a time; write 2026-11-05 18:30:00, with a T if you like, or seconds")
                })?;
                Some((seconds, cell))
            }
        };
        Ok(Row { line, time, count: count.round() as u64 })
    }
}

fn clean(cell: &str) -> &str {
    cell.trim().trim_matches('"').trim_start_matches('\u{feff}')
}

/// Seconds since some beginning: a date with a time, or seconds themselves.
fn moment(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return (seconds.abs() < 1e15).then_some(seconds.round() as i64);
    }
    let bare = text.strip_suffix('Z').unwrap_or(text);
    let civil: DateTime = bare.parse().or_else(|_| format!("{bare}:00").parse()).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}
