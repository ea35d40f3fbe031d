//! All faults of what a person wrote, found at once and told in a person's words.
//!
//! Enters: a text as a tree with its places ([`tree`]), and a way to read the text into a type. Leaves: every fault with its place, its
//! field, what was found and what is wanted.
//! Always holds: the type's own reading decides what is wrong. It is read again and again, each time without what was found wrong
//! before, so that one fault does not hide the next; a text that reads without a fault never comes here.

mod made_up;
mod part;
mod stop;
pub mod tree;
mod walk;
pub mod words;
pub mod yaml;

pub use walk::{Problem, Trouble, Walk, Wanted};
pub use words::Language;

use std::collections::BTreeSet;
use std::fmt;

/// The most that is told of one text. Whoever has more of them mends these first.
pub const FAULTS_MAX: usize = 32;

/// One step into a text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// `spec.datasets[0].name`.
pub fn field(path: &[Step]) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Index(i) => out.push_str(&format!("[{i}]")),
            Step::Key(key) if out.is_empty() => out.push_str(&words::short(key)),
            Step::Key(key) => out.push_str(&format!(".{}", words::short(key))),
        }
    }
    out
}

/// One wrong place. Lines and columns begin at 1; 0: it has no place in the text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub line: u64,
    pub column: u64,
    /// Empty: the text as a whole.
    pub field: String,
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.is_empty() {
            true => f.write_str(&self.problem),
            false => write!(f, "{}: {}", self.field, self.problem),
        }
    }
}

/// What came of reading a text again and again.
#[derive(Debug)]
pub struct Found<T> {
    /// What it says where its faults are left out; where something had to be made up, it is in `touched`.
    pub value: Option<T>,
    pub troubles: Vec<Trouble>,
    /// What was left out or made up: nothing can be said about it beyond its own fault.
    pub touched: BTreeSet<Vec<Step>>,
}

/// Reads until nothing wrong is left. `read` reads the text into its type through [`Walk::read`]; whether it could is all that it says.
pub fn find<T>(read: impl Fn(&Walk) -> Option<T>) -> Found<T> {
    let mut walk = Walk::default();
    let mut found = Found { value: None, troubles: Vec::new(), touched: BTreeSet::new() };
    // Each round leaves out or makes up one more thing, and not each of them is a fault of its own.
    for _ in 0..4 * FAULTS_MAX {
        if let Some(value) = read(&walk) {
            found.value = Some(value);
            break;
        }
        let Some(trouble) = walk.take() else { break };
        let going_on = walk.go_on_without(&trouble);
        if trouble.is_told(&walk) && found.troubles.len() <= FAULTS_MAX {
            found.troubles.push(trouble);
        }
        if !going_on || found.troubles.len() > FAULTS_MAX {
            break;
        }
    }
    found.touched = walk.touched();
    found
}
