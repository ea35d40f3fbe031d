//! The story of a run: who sent what when, who died, what was decided. Bounded; the last part is what a person reads.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

const LINES_MAX: usize = 20_000;

#[derive(Debug, Clone)]
pub struct Line {
    pub at_ms: u64,
    pub who: String,
    pub what: String,
}

#[derive(Debug, Default)]
pub struct Story {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: VecDeque<Line>,
    /// Over every line there ever was, so that two runs can be compared.
    hash: DefaultHasher,
    told: u64,
}

impl Story {
    pub fn tell(&self, at_ms: u64, who: impl Into<String>, what: impl Into<String>) {
        let line = Line { at_ms, who: who.into(), what: what.into() };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (line.at_ms, &line.who, &line.what).hash(&mut inner.hash);
        inner.told += 1;
        if inner.lines.len() == LINES_MAX {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line);
    }

    pub fn fingerprint(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).hash.finish()
    }

    pub fn told(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).told
    }

    /// For people: a line an event, those in a row that say the same folded into one.
    pub fn text(&self) -> String {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        if inner.told > inner.lines.len() as u64 {
            text.push_str(&format!("... {} lines before\n", inner.told - inner.lines.len() as u64));
        }
        let mut again = 0u32;
        let mut last: Option<&Line> = None;
        for line in &inner.lines {
            if last.is_some_and(|l| l.who == line.who && l.what == line.what) {
                again += 1;
                continue;
            }
            if again > 0 {
                text.push_str(&format!("{:>10}   (the same {again} times more)\n", ""));
                again = 0;
            }
            text.push_str(&format!(
                "{:>8}.{:03}  {:<8} {}\n",
                line.at_ms / 1000,
                line.at_ms % 1000,
                line.who,
                line.what
            ));
            last = Some(line);
        }
        text
    }
}
