//! The borrower's end of a part: drain, stop, return, erase, settle.
//!
//! Level-triggered: [`advance`] is asked with the facts as they are and answers with the state and the acts that are due now;
//! the same acts are due again until a fact changes, so whoever executes them does so idempotently.
//! Always holds: the lender is asked to erase only after the part was drained and what belongs home was fetched, or the
//! bound of each of these has passed and the journal says so; every step is bounded, so it always ends.

use pumasi_lease::message::Emptiness;
use pumasi_terms::{BootMs, Now};
use serde::{Deserialize, Serialize};

/// Bounds of the steps, ms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Then what is still in flight is cut off, and told.
    pub drain_ms: u64,
    /// Then the lender is left to stop the rest by itself.
    pub stop_ms: u64,
    /// Then what has not come home is given up, and told.
    pub return_ms: u64,
    /// Then the part is closed as unproven.
    pub erase_ms: u64,
    /// For the signatures of the settlement.
    pub settle_ms: u64,
    /// For a lender that was lost: the settlement and the proof are still taken from it for so long.
    pub settle_late_ms: u64,
    /// A lender that has been silent for so long past the lease's end is lost.
    pub lost_ms: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            drain_ms: 10_000,
            stop_ms: 15_000,
            return_ms: 60_000,
            erase_ms: 60_000,
            settle_ms: 60_000,
            settle_late_ms: 3_600_000,
            lost_ms: 10_000,
        }
    }
}

/// What is known of the part now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// No request to it is in flight, and the table with it draining is in force.
    pub drained: bool,
    /// Instances that the lender still runs, as it last said.
    pub lender_instances: u32,
    /// Logs and all else that belongs home are here.
    pub returned: bool,
    /// The lender's proof, as it last gave it.
    pub emptiness: Option<Emptiness>,
    /// Both signatures are on the settlement.
    pub settled: bool,
    pub lender_reachable: bool,
    /// How long the lender has not answered, ms; 0 while it does.
    pub lender_gone_for_ms: u64,
    /// The lease has run out by this cloud's own clock.
    pub lease_expired: bool,
}

/// Where the release of a part is. Begin with [`ReleaseState::begin`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseState {
    pub step: Step,
    /// Since when it is in this step.
    pub since: BootMs,
    /// Whether the lender was proven empty of it.
    pub proof: Proof,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Nobody new is sent there.
    Draining,
    /// Its instances stop.
    Stopping,
    /// Logs and all that belongs home is fetched.
    Returning,
    /// The lender erases and proves it.
    Erasing,
    /// Both sides sign what was used.
    Settling,
    Done,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    #[default]
    Awaited,
    Proven,
    /// The lender was lost, or did not get empty in time.
    Unproven,
}

/// What is due now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// The route table has the part draining: nobody new.
    RouteDraining,
    /// The route table is without the part.
    RouteGone,
    /// Ask the lender for 0 instances.
    StopInstances,
    FetchBelongings,
    /// Give the lease back: the lender empties itself and proves it.
    Erase,
    Settle,
    /// A line for the journal; once, at the transition. The first word stays.
    Note(String),
    /// The part may be forgotten.
    Close(Proof),
}

impl ReleaseState {
    pub fn begin(now: Now) -> Self {
        Self { step: Step::Draining, since: now.boot, proof: Proof::Awaited }
    }
}

/// The next state, and the acts due in it.
pub fn advance(state: &ReleaseState, facts: &Facts, bounds: &Bounds, now: Now) -> (ReleaseState, Vec<Act>) {
    let mut state = state.clone();
    let mut notes = Vec::new();
    // A clock that went back is another boot: the step's bound begins anew.
    state.since = state.since.min(now.boot);
    while let Some((step, note)) = next(&mut state, facts, bounds, now) {
        state = ReleaseState { step, since: now.boot, ..state };
        notes.extend(note.map(Act::Note));
    }
    let due = match state.step {
        Step::Draining => vec![Act::RouteDraining],
        Step::Stopping => vec![Act::RouteGone, Act::StopInstances],
        Step::Returning => vec![Act::RouteGone, Act::FetchBelongings],
        Step::Erasing => vec![Act::RouteGone, Act::Erase],
        // Until it is proven the lender is told again to erase, should it come back.
        Step::Settling if state.proof != Proof::Proven => vec![Act::RouteGone, Act::Erase, Act::Settle],
        Step::Settling => vec![Act::RouteGone, Act::Settle],
        Step::Done => vec![Act::RouteGone, Act::Close(state.proof)],
    };
    notes.extend(due);
    (state, notes)
}

fn next(state: &mut ReleaseState, facts: &Facts, bounds: &Bounds, now: Now) -> Option<(Step, Option<String>)> {
    let spent_ms = now.boot.since(state.since);
    let lost = !facts.lender_reachable && facts.lease_expired && facts.lender_gone_for_ms >= bounds.lost_ms;
    let empty = facts.emptiness.as_ref().is_some_and(Emptiness::is_empty);
    let gone = |what: &str| {
        format!(
            "lender_lost: the lender has been silent for {} ms past the lease's end; {what}",
            facts.lender_gone_for_ms
        )
    };
    match state.step {
        Step::Draining if facts.drained => Some((Step::Stopping, None)),
        // Past the lease's end the lender serves nothing: what was in flight is over.
        Step::Draining if facts.lease_expired => {
            Some((Step::Stopping, Some("drain_expired: the lease ran out while requests were in flight".to_owned())))
        }
        Step::Draining if spent_ms >= bounds.drain_ms => {
            let text = format!("drain_cut: requests were still in flight after {spent_ms} ms; they are cut off");
            Some((Step::Stopping, Some(text)))
        }
        Step::Stopping if facts.lender_instances == 0 && facts.lender_reachable => Some((Step::Returning, None)),
        Step::Stopping if lost => Some((Step::Settling, Some(gone("what belongs home and was not fetched is lost"))))
            .inspect(|_| state.proof = Proof::Unproven),
        Step::Stopping if spent_ms >= bounds.stop_ms => {
            let text = format!(
                "stop_late: {} instances still ran after {spent_ms} ms; the lender ends them",
                facts.lender_instances
            );
            Some((Step::Returning, Some(text)))
        }
        Step::Returning if facts.returned => Some((Step::Erasing, None)),
        Step::Returning if lost => Some((Step::Settling, Some(gone("what belongs home and was not fetched is lost"))))
            .inspect(|_| state.proof = Proof::Unproven),
        Step::Returning if spent_ms >= bounds.return_ms => {
            let text =
                format!("return_incomplete: not all that belongs home came within {spent_ms} ms; it is given up");
            Some((Step::Erasing, Some(text)))
        }
        Step::Erasing if empty => {
            state.proof = Proof::Proven;
            Some((Step::Settling, None))
        }
        Step::Erasing if lost => {
            Some((Step::Settling, Some(gone("it is closed as unproven")))).inspect(|_| state.proof = Proof::Unproven)
        }
        Step::Erasing if spent_ms >= bounds.erase_ms => {
            state.proof = Proof::Unproven;
            let left = facts.emptiness.as_ref().map_or("it gave no proof".to_owned(), |e| {
                let Emptiness { processes, routes, files, bytes, keys, holds } = e;
                format!("{processes} processes, {routes} routes, {files} files ({bytes} bytes), {keys} keys, {holds} holds are left")
            });
            Some((Step::Settling, Some(format!("erase_unproven: after {spent_ms} ms {left}"))))
        }
        Step::Settling => {
            let note = if empty && state.proof == Proof::Unproven {
                Some("proof_late: the lender has proven it empty after all".to_owned())
            } else {
                None
            };
            if empty {
                state.proof = Proof::Proven;
            }
            let bound_ms = if state.proof == Proof::Proven { bounds.settle_ms } else { bounds.settle_late_ms };
            if facts.settled && state.proof == Proof::Proven {
                return Some((Step::Done, note));
            }
            if spent_ms >= bound_ms {
                let what =
                    if facts.settled { "it was not proven empty" } else { "the lender has not signed the settlement" };
                return Some((Step::Done, Some(format!("settle_given_up: after {spent_ms} ms {what}"))));
            }
            note.map(|n| (Step::Settling, Some(n)))
        }
        _ => None,
    }
}
