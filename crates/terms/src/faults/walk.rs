//! One reading of a text: what it leaves out, what it makes up, and the first thing that went wrong in it.

use super::part::Part;
use super::{FAULTS_MAX, Step};
use crate::faults::stop::Stop;
use serde::Deserialize;
use serde::de::Deserializer;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// What a type wants at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// It looks for itself.
    Anything,
    /// By what it calls itself, as `socket address`.
    Text(String),
    Whole {
        least: i128,
        most: i128,
    },
    Number,
    Truth,
    List,
    /// Keys that people choose.
    Map,
    Mapping {
        name: &'static str,
        fields: &'static [&'static str],
    },
    Choice(&'static [&'static str]),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Of another kind than is wanted.
    Kind,
    Missing(&'static str),
    /// A key beside these.
    Unknown(&'static [&'static str]),
    /// A word beside these.
    Variant(&'static [&'static str]),
    /// In the type's own words.
    Said(String),
    /// Nothing of the kind could be made up.
    NotMadeUp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub path: Vec<Step>,
    pub wanted: Wanted,
    pub problem: Problem,
}

impl Trouble {
    /// A field that is missing counts as that field's.
    pub(super) fn at(&self) -> Vec<Step> {
        let mut path = self.path.clone();
        if let Problem::Missing(field) = &self.problem {
            path.push(Step::Key((*field).to_owned()));
        }
        path
    }

    /// What was made up is nobody's fault, and what is missing because it was left out has been told.
    pub(super) fn is_told(&self, walk: &Walk) -> bool {
        match self.problem {
            Problem::NotMadeUp => false,
            Problem::Missing(_) => !walk.without.contains(&self.at()),
            _ => true,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Walk {
    /// Left out.
    pub(super) without: BTreeSet<Vec<Step>>,
    /// Missing, and made up.
    pub(super) made_up: BTreeSet<Vec<Step>>,
    first: RefCell<Option<Trouble>>,
}

impl Walk {
    /// Reads by `T`'s own reading; the first thing that goes wrong is kept.
    pub fn read<'de, T: Deserialize<'de>, D: Deserializer<'de>>(&self, from: D) -> Result<T, D::Error> {
        let part = Part { inner: from, walk: self, path: Vec::new() };
        T::deserialize(part).inspect_err(|e| self.note_said(&[], e))
    }

    /// What was noted first is the cause of everything after it.
    pub(super) fn note(&self, path: &[Step], wanted: &Wanted, problem: Problem) {
        let mut first = self.first.borrow_mut();
        if first.is_none() {
            *first = Some(Trouble { path: path.to_vec(), wanted: wanted.clone(), problem });
        }
    }

    pub(super) fn note_said(&self, path: &[Step], error: &impl std::fmt::Display) {
        self.note(path, &Wanted::Anything, Problem::Said(said(&error.to_string())));
    }

    pub(super) fn note_stop(&self, path: &[Step], wanted: &Wanted, stop: &Stop) {
        let problem = match stop {
            Stop::Kind => Problem::Kind,
            Stop::Missing(field) => Problem::Missing(field),
            Stop::Unknown(known) => Problem::Unknown(known),
            Stop::Variant(known) => Problem::Variant(known),
            Stop::Said(problem) => Problem::Said(said(problem)),
        };
        self.note(path, wanted, problem);
    }

    pub(super) fn take(&self) -> Option<Trouble> {
        self.first.borrow_mut().take()
    }

    /// Whether there is something to leave out or to make up, after which the text can be read on.
    pub(super) fn go_on_without(&mut self, trouble: &Trouble) -> bool {
        match trouble.problem {
            Problem::Missing(_) => {
                // Where its name was made up for nothing, all that it belongs to goes.
                self.made_up.insert(trouble.at()) || self.leave_out(trouble.path.clone())
            }
            Problem::NotMadeUp => {
                let parent = trouble.path.split_last().map(|(_, parent)| parent.to_vec());
                parent.is_some_and(|parent| self.leave_out(parent))
            }
            _ => self.leave_out(trouble.path.clone()),
        }
    }

    fn leave_out(&mut self, path: Vec<Step>) -> bool {
        !path.is_empty() && self.without.len() < 4 * FAULTS_MAX && self.without.insert(path)
    }

    pub(super) fn touched(&self) -> BTreeSet<Vec<Step>> {
        self.without.union(&self.made_up).cloned().collect()
    }
}

/// A sentence of a type: its first line, and no place, which is told already.
fn said(text: &str) -> String {
    let line = text.lines().next().unwrap_or("unreadable");
    let line = match line.rfind(" at line ") {
        Some(at) if line[at..].contains(", column ") => &line[..at],
        _ => line,
    };
    line.chars().take(400).collect()
}
