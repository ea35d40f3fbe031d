//! The lender's emptying of a lease that has ended: routes off, drain, stop, erase data, erase keys, prove.
//!
//! Level-triggered like the borrower's side. Always holds: nothing is erased while a process of the lease runs; keys outlast
//! the data they open; it is proven only when a count of everything is 0, and a step whose work came undone is done again.

use pumasi_lease::message::Emptiness;
use pumasi_terms::{BootMs, Now};
use serde::{Deserialize, Serialize};

/// Bounds, ms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmptyingBounds {
    /// For what is in flight; then its processes are stopped all the same.
    pub drain_ms: u64,
    /// From the polite signal to the other.
    pub stop_ms: u64,
    /// A step that takes longer is told, again after each such time.
    pub tell_ms: u64,
}

impl Default for EmptyingBounds {
    fn default() -> Self {
        Self { drain_ms: 5_000, stop_ms: 5_000, tell_ms: 30_000 }
    }
}

/// What is left of the lease here, counted now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// Routes of it in the table that the gateway has in force.
    pub routes: u64,
    /// Requests in flight to its instances.
    pub in_flight: u64,
    pub processes: u64,
    pub files: u64,
    pub bytes: u64,
    pub keys: u64,
    pub holds: u64,
}

impl Left {
    pub fn emptiness(&self) -> Emptiness {
        let Self { routes, in_flight: _, processes, files, bytes, keys, holds } = *self;
        Emptiness { processes, routes, files, bytes, keys, holds }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmptyingStep {
    Routes,
    Processes,
    Data,
    Keys,
    Proven,
}

/// How far the emptying is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emptying {
    pub step: EmptyingStep,
    pub since: BootMs,
    /// When it was last told that the step takes long.
    pub told: BootMs,
}

/// What is due now at the lender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptyingAct {
    /// The route table is without the lease: nobody new, what is in flight ends.
    RoutesOff,
    /// Ends its processes; `kill` after the polite signal had its time.
    Stop {
        kill: bool,
    },
    /// Files, copies, logs that the borrower had its time to fetch, partial transfers, holds.
    EraseData,
    EraseKeys,
    /// Everything counts 0: the lease may be closed with this proof.
    Prove(Emptiness),
    /// A line for the journal.
    Note(String),
}

impl Emptying {
    pub fn begin(now: Now) -> Self {
        Self { step: EmptyingStep::Routes, since: now.boot, told: now.boot }
    }
}

/// The next state, and the acts due in it.
pub fn advance(state: &Emptying, left: &Left, bounds: &EmptyingBounds, now: Now) -> (Emptying, Vec<EmptyingAct>) {
    use EmptyingStep::{Data, Keys, Processes, Proven, Routes};
    let mut state = state.clone();
    state.since = state.since.min(now.boot);
    state.told = state.told.min(now.boot);
    let data = left.files.max(left.bytes).max(left.holds);
    let spent_ms = now.boot.since(state.since);
    // A process or a file that turned up again sends it back; routes alone do not hold up the rest, only the proof.
    let step = match state.step {
        Routes if (left.routes > 0 || left.in_flight > 0) && spent_ms < bounds.drain_ms => Routes,
        _ if left.processes > 0 => Processes,
        _ if data > 0 => Data,
        _ if left.keys > 0 => Keys,
        _ if left.routes > 0 => Routes,
        _ => Proven,
    };
    let mut acts = Vec::new();
    if step != state.step {
        if state.step == Routes && left.in_flight > 0 {
            let text = format!(
                "drain_cut: {} requests were still in flight after {spent_ms} ms; they are cut off",
                left.in_flight
            );
            acts.push(EmptyingAct::Note(text));
        }
        state = Emptying { step, since: now.boot, told: now.boot };
    } else if step != Proven && now.boot.since(state.told) >= bounds.tell_ms {
        state.told = now.boot;
        let Left { routes, in_flight, processes, files, bytes, keys, holds } = left;
        acts.push(EmptyingAct::Note(format!(
            "emptying_late: {step:?} for {spent_ms} ms: {routes} routes, {in_flight} requests, {processes} processes, \
             {files} files ({bytes} bytes), {keys} keys, {holds} holds are left"
        )));
    }
    // The route stays off through every step.
    acts.push(EmptyingAct::RoutesOff);
    match step {
        Routes => {}
        Processes => acts.push(EmptyingAct::Stop { kill: now.boot.since(state.since) >= bounds.stop_ms }),
        Data => acts.push(EmptyingAct::EraseData),
        Keys => acts.push(EmptyingAct::EraseKeys),
        Proven => acts.push(EmptyingAct::Prove(left.emptiness())),
    }
    (state, acts)
}
