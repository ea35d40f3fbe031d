//! The end of a scenario: figures, promises, and one verdict.
//!
//! Enters: measured values and what was promised of them. Leaves: a table for people, JSON for machines, an exit code.
//! Always holds: a broken promise of correctness is broken whatever the machine did; a promise about time, broken on a machine
//! that was itself the bottleneck, makes the run invalid instead.

use crate::machine::{Validity, ValidityBounds};
use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// Holds on any machine, however slow.
    Correctness,
    /// Means nothing where the machine was the bottleneck.
    Time,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Promise {
    pub name: String,
    pub about: About,
    pub kept: bool,
    pub measured: String,
    pub bound: String,
}

impl Promise {
    /// Something that must be so; `measured` says how it was.
    pub fn holds(name: &str, kept: bool, measured: impl Into<String>, bound: impl Into<String>) -> Self {
        Self { name: name.into(), about: About::Correctness, kept, measured: measured.into(), bound: bound.into() }
    }

    /// A count that must be zero.
    pub fn none(name: &str, count: u64) -> Self {
        Self::holds(name, count == 0, count.to_string(), "0")
    }

    /// A time of at most `bound_ms`; `None`: it never came.
    pub fn within_ms(name: &str, measured_ms: Option<f64>, bound_ms: f64) -> Self {
        let measured = measured_ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms:.0} ms"));
        let kept = measured_ms.is_some_and(|ms| ms <= bound_ms);
        Self { name: name.into(), about: About::Time, kept, measured, bound: format!("<= {bound_ms:.0} ms") }
    }

    /// The same promise, as one about time.
    #[must_use]
    pub fn about_time(self) -> Self {
        Self { about: About::Time, ..self }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    pub name: String,
    pub value: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Kept,
    Broken,
    /// The machine was the bottleneck; run it again where there is room.
    Invalid,
}

impl Verdict {
    /// 0, 1 and 3; 2 is left to wrong usage.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Kept => 0,
            Verdict::Broken => 1,
            Verdict::Invalid => 3,
        }
    }
}

/// Format version of the JSON.
const VERSION: u32 = 1;

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    version: u32,
    pub scenario: String,
    pub figures: Vec<Figure>,
    pub promises: Vec<Promise>,
    pub validity: Vec<(String, Validity)>,
    /// Why times of this run mean nothing; empty: they do.
    pub invalid_because: Vec<String>,
}

impl Report {
    pub fn new(scenario: &str) -> Self {
        Self {
            version: VERSION,
            scenario: scenario.into(),
            figures: Vec::new(),
            promises: Vec::new(),
            validity: Vec::new(),
            invalid_because: Vec::new(),
        }
    }

    pub fn figure(&mut self, name: &str, value: impl Into<String>, note: impl Into<String>) {
        self.figures.push(Figure { name: name.into(), value: value.into(), note: note.into() });
    }

    pub fn promise(&mut self, promise: Promise) {
        self.promises.push(promise);
    }

    /// Judges a load run's own validity; `of` names the run.
    pub fn validity(&mut self, of: &str, validity: &Validity, bounds: &ValidityBounds) {
        let problems = validity.problems(bounds);
        self.invalid_because.extend(problems.into_iter().map(|p| format!("{of}: {p}")));
        self.validity.push((of.into(), validity.clone()));
    }

    pub fn verdict(&self) -> Verdict {
        let broken = |about| self.promises.iter().any(|p| !p.kept && p.about == about);
        match (broken(About::Correctness), self.invalid_because.is_empty(), broken(About::Time)) {
            (true, _, _) | (false, true, true) => Verdict::Broken,
            (false, false, _) => Verdict::Invalid,
            (false, true, false) => Verdict::Kept,
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.insert("verdict".into(), serde_json::json!(self.verdict()));
        }
        value
    }

    /// What the end of a scenario prints.
    pub fn to_text(&self) -> String {
        let mut figures = table(["figure", "value", "note"]);
        for f in &self.figures {
            figures.add_row([Cell::new(&f.name), right(&f.value), Cell::new(&f.note)]);
        }
        for (of, v) in &self.validity {
            let value = format!("{:.0} %", 100.0 * v.machine_cpu_busy);
            let note =
                format!("{of}: send lag p99 {:.1} ms, generator {:.2} cores", v.send_lag_p99_ms, v.generator_cores);
            figures.add_row([Cell::new("machine busy"), right(&value), Cell::new(note)]);
        }
        let mut promises = table(["promise", "measured", "bound", ""]);
        for p in &self.promises {
            let verdict = match (p.kept, p.about, self.invalid_because.is_empty()) {
                (true, _, _) => "kept",
                (false, About::Time, false) => "no word",
                (false, _, _) => "BROKEN",
            };
            promises.add_row([Cell::new(&p.name), right(&p.measured), right(&p.bound), Cell::new(verdict)]);
        }
        let end = match self.verdict() {
            Verdict::Kept => format!("{}: every promise was kept.", self.scenario),
            Verdict::Broken => {
                let broken: Vec<_> = self.promises.iter().filter(|p| !p.kept).map(|p| p.name.as_str()).collect();
                format!("{}: BROKEN: {}.", self.scenario, broken.join("; "))
            }
            Verdict::Invalid => format!(
                "{}: INVALID, the machine was the bottleneck: {}. Run it where there is more room.",
                self.scenario,
                self.invalid_because.join("; ")
            ),
        };
        format!("{figures}\n\n{promises}\n\n{end}\n")
    }
}

fn right(text: &str) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(head);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> Validity {
        Validity { machine_cpu_busy: 1.0, ..Validity::default() }
    }

    #[test]
    fn the_verdict_weighs_promises_and_machine() {
        let bounds = ValidityBounds::default();
        let with = |promises: &[Promise], validity: &Validity| {
            let mut report = Report::new("overload");
            report.validity("load", validity, &bounds);
            promises.iter().for_each(|p| report.promise(p.clone()));
            report.verdict()
        };
        let (late, lost) = (Promise::within_ms("verdict", Some(1500.0), 1000.0), Promise::none("lost writes", 3));
        let fine = Promise::within_ms("verdict", Some(700.0), 1000.0);
        let idle = Validity::default();
        assert_eq!(with(std::slice::from_ref(&fine), &idle), Verdict::Kept);
        assert_eq!(with(std::slice::from_ref(&late), &idle), Verdict::Broken);
        assert_eq!(with(std::slice::from_ref(&late), &busy()), Verdict::Invalid);
        assert_eq!(with(&[fine], &busy()), Verdict::Invalid, "kept by luck is no proof");
        assert_eq!(with(&[late, lost], &busy()), Verdict::Broken);
        assert!(!Promise::within_ms("never came", None, 1.0).kept);
        assert_eq!([Verdict::Kept, Verdict::Broken, Verdict::Invalid].map(Verdict::exit_code), [0, 1, 3]);
    }

    #[test]
    fn text_and_json_tell_the_same() {
        let mut report = Report::new("overload");
        report.figure("shed", "12", "before relief");
        report.promise(Promise::none("lost writes", 3));
        let text = report.to_text();
        assert!(text.contains("BROKEN: lost writes") && text.contains("before relief"), "{text}");
        let json = report.to_json();
        assert_eq!((json["verdict"].as_str(), json["version"].as_u64()), (Some("broken"), Some(1)));
    }
}
