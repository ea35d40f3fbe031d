//! The story of a run, told as it happens: when, where, what, and why.
//!
//! Enters: events from anywhere, any thread. Leaves: one line each at once, and the list for the report.
//! Always holds: events are in the order of their telling; the list is bounded, the lines are not held back by it.

use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const EVENTS_MAX: usize = 20_000;
const PLACE_WIDTH: usize = 10;
const WHAT_WIDTH: usize = 11;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    pub at_ms: u64,
    /// The cloud, or "lab".
    pub place: String,
    pub what: String,
    /// What happened and its reasons, for people.
    pub text: String,
}

struct State {
    out: Box<dyn Write + Send>,
    colour: bool,
    events: Vec<Event>,
    dropped: u64,
    marks: BTreeMap<String, Duration>,
}

/// A handle; clones tell the same story.
#[derive(Clone)]
pub struct Story {
    started: Instant,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Story {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Story").field("events", &self.lock().events.len()).finish_non_exhaustive()
    }
}

/// Control characters of a peer or a user must not reach a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(2000).collect()
}

impl Story {
    pub fn to_stdout() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self::to(Box::new(std::io::stdout()), colour)
    }

    pub fn to(out: Box<dyn Write + Send>, colour: bool) -> Self {
        let state = State { out, colour, events: Vec::new(), dropped: 0, marks: BTreeMap::new() };
        Self { started: Instant::now(), state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the story began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// Tells that something happened now.
    pub fn tell(&self, place: &str, what: &str, text: impl AsRef<str>) {
        self.tell_at(self.elapsed(), place, what, text);
    }

    /// Tells of something that happened at `at`, as when an event names its own time.
    pub fn tell_at(&self, at: Duration, place: &str, what: &str, text: impl AsRef<str>) {
        let (place, what, text) = (printable(place), printable(what), printable(text.as_ref()));
        let mut state = self.lock();
        let (dim, bold, plain) = if state.colour { ("\x1b[2m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        let seconds = at.as_secs_f64();
        // A closed pipe must not end a run that has processes to stop.
        let _ = writeln!(
            state.out,
            "{dim}{seconds:>9.3}{plain}  {place:<PLACE_WIDTH$}  {bold}{what:<WHAT_WIDTH$}{plain}  {text}"
        );
        let _ = state.out.flush();
        if state.events.len() < EVENTS_MAX {
            let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
            state.events.push(Event { at_ms, place, what, text });
        } else {
            state.dropped += 1;
        }
    }

    /// A heading before a part of the scenario.
    pub fn chapter(&self, title: &str) {
        let mut state = self.lock();
        let (bold, plain) = if state.colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(state.out, "\n{bold}{}{plain}", printable(title));
    }

    /// Lines that were laid out already, as a table.
    pub fn block(&self, text: &str) {
        let mut state = self.lock();
        let _ = writeln!(state.out, "\n{text}\n");
    }

    /// Remembers now under a name; the first time stands.
    pub fn mark(&self, name: &str) -> Duration {
        let now = self.elapsed();
        *self.lock().marks.entry(name.to_owned()).or_insert(now)
    }

    pub fn marked(&self, name: &str) -> Option<Duration> {
        self.lock().marks.get(name).copied()
    }

    /// From one mark to another; `None` unless both are there, in that order.
    pub fn between(&self, from: &str, to: &str) -> Option<Duration> {
        self.marked(to)?.checked_sub(self.marked(from)?)
    }

    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// Events that were told and not kept.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);
    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_event_is_a_line_and_stays_in_the_list() {
        let page = Page::default();
        let story = Story::to(Box::new(page.clone()), false);
        story.mark("jump");
        story.tell("seoul", "verdict", "overload: p95 queue delay 180 ms > 50 ms\x1b[31m\nfor 0.8 s");
        story.mark("verdict");
        story.mark("jump");
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("seoul") && text.contains("verdict") && !text.contains('\x1b'), "{text}");
        assert_eq!(story.events().len(), 1);
        assert!(story.between("jump", "verdict").is_some() && story.between("verdict", "none").is_none());
    }
}
