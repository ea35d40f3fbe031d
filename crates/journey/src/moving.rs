//! A planned handover at its source: the customer asks that its service live at another cloud from now on.
//!
//! Enters: the wish, what is observed, what the heir answered, now. Leaves: the next record, what to tell, the one act to do.
//! Always holds: unsafe requests are held only between `Holding` and the end, and no longer than agreed before the heir was asked to
//! commit; once it was asked, only its own word (committed, or cancelled) ends the hold, since it may have committed; everything before
//! that can be undone, nothing after it. Where instances can be frozen, they are from `Freezing` until the hold ends, and the heir is
//! asked to commit only while nothing but this record can let them go on.

use crate::record::Told;
use pumasi_terms::{BootMs, CloudName, LeaseId, MoveId, Now, ServiceId, ServiceName, WallMs};
use serde::{Deserialize, Serialize};

pub const MOVE_VERSION: u32 = 1;
/// Unsafe requests wait no longer than this before the heir is asked to commit.
pub const HOLD_MS_MAX: u64 = 2_000;
/// Requests that only read, and were let in before, have so long until the instances stand still all the same.
pub const READS_MS_MAX: u64 = 200;
/// A copy that is further behind is not worth holding anybody for.
pub const BEHIND_MS_MAX: u64 = 500;
/// The standby is there after so long, or the move is given up.
pub const PLACE_MS_MAX: u64 = 1_800_000;
/// A hold that came to nothing is tried again after this, so often.
const AGAIN_MS: u64 = 1_000;
pub const TRIES_MAX: u32 = 5;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Move {
    pub version: u32,
    pub wish: MoveId,
    pub id: ServiceId,
    pub service: ServiceName,
    pub to: CloudName,
    pub asked_by: String,
    pub asked_at: WallMs,
    pub step: Step,
    /// When this step began.
    pub since: BootMs,
    /// The standby that becomes the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// Since when unsafe requests wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_at: Option<BootMs>,
    pub tries: u32,
    /// The instances here stand still.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
    /// What stands in the way now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// How long unsafe requests waited in the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    /// The heir gets application, data and dossier, as a standby.
    Placing,
    /// The heir is asked to make everything ready.
    Preparing,
    /// The heir is told that they will wait, so that what comes in there waits there.
    Alerting,
    /// Unsafe requests wait; those in flight end.
    Holding,
    /// Requests that only read wait as well; the instances are made to stand still.
    Freezing,
    /// What they wrote is sent.
    Catching,
    /// The heir is asked to sign: it may have done so.
    Committing,
    /// It has signed, and opens.
    Opening,
    /// It serves; this cloud is an entrance that forwards.
    Fronted {
        at: WallMs,
    },
    /// The heir is asked not to sign any more: it may have done so.
    Cancelling {
        why: String,
    },
    Cancelled {
        at: WallMs,
        why: String,
    },
}

/// What is observed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// The heir's standby: complete, kept, and told everything.
    pub standby: Option<LeaseId>,
    pub behind_ms: Option<u64>,
    /// The gateway holds unsafe requests, and none is in flight.
    pub drained: bool,
    /// The engine here can make instances stand still.
    pub can_freeze: bool,
    /// All of them do.
    pub still: bool,
    /// And they go on by this record's word alone, not after some time.
    pub sealed: bool,
    /// Every copy at the heir is as of when they were held, or later.
    pub caught: bool,
}

/// What the heir answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Prepared,
    Alerted,
    /// `fatal`: asking again cannot help.
    Refused {
        why: String,
        fatal: bool,
    },
    Committed,
    /// It has not signed, and will not.
    NotCommitted,
    Opened,
}

/// The one thing to be asked of the heir now. Each is idempotent there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    Prepare,
    Alert,
    Commit,
    Open,
    Cancel,
}

impl Move {
    pub fn new(
        wish: MoveId,
        (id, service): (ServiceId, ServiceName),
        to: CloudName,
        asked_by: String,
        now: Now,
    ) -> Self {
        Self {
            version: MOVE_VERSION,
            wish,
            id,
            service,
            to,
            asked_by,
            asked_at: now.wall,
            step: Step::Placing,
            since: now.boot,
            lease: None,
            held_at: None,
            tries: 0,
            frozen: false,
            trouble: None,
            pause_ms: None,
        }
    }

    pub fn is_open(&self) -> bool {
        !matches!(self.step, Step::Fronted { .. } | Step::Cancelled { .. })
    }
    /// Whether unsafe requests wait.
    pub fn holds(&self) -> bool {
        use Step::{Cancelling, Catching, Committing, Freezing, Holding, Opening};
        matches!(self.step, Holding | Freezing | Catching | Committing | Opening | Cancelling { .. })
    }
    /// Whether the instances here are to stand still, and those that only read wait.
    pub fn freezes(&self) -> bool {
        self.step == Step::Freezing || (self.frozen && self.holds())
    }
    /// Of this try: what ran in between stands still by another name.
    pub fn freeze_name(&self) -> String {
        format!("{}-{}", self.wish, self.tries)
    }
    /// Whether the heir owns it already, and does not serve yet.
    pub fn opens(&self) -> bool {
        self.step == Step::Opening
    }
    /// Whether the heir may own it, and nobody serves it.
    pub fn is_beyond_recall(&self) -> bool {
        matches!(self.step, Step::Committing | Step::Opening | Step::Cancelling { .. })
    }
    pub fn ask(&self) -> Option<Ask> {
        match self.step {
            Step::Preparing => Some(Ask::Prepare),
            Step::Alerting => Some(Ask::Alert),
            Step::Committing => Some(Ask::Commit),
            Step::Opening => Some(Ask::Open),
            Step::Cancelling { .. } => Some(Ask::Cancel),
            _ => None,
        }
    }

    fn enter(&mut self, step: Step, now: Now) {
        self.step = step;
        self.since = now.boot;
        self.trouble = None;
    }

    fn tell(&self, action: &'static str, why: String) -> Told {
        Told {
            action,
            subject_kind: "service",
            subject: self.service.to_string(),
            reasons: vec![why],
            last_line: String::new(),
        }
    }
}

/// What time and sight bring about.
pub fn tick(old: &Move, sight: &Sight, now: Now) -> (Move, Vec<Told>) {
    let (mut next, mut told) = (old.clone(), Vec::new());
    match &old.step {
        Step::Placing => place(&mut next, sight, now, &mut told),
        Step::Holding if sight.drained && sight.can_freeze => next.enter(Step::Freezing, now),
        Step::Holding if sight.drained => next.enter(Step::Catching, now),
        Step::Freezing if sight.still => {
            next.frozen = true;
            next.enter(Step::Catching, now);
        }
        // Told everything: what the customer changed before requests waited goes along.
        Step::Catching if sight.caught && sight.standby.is_some() && (sight.sealed || !old.frozen) => {
            next.enter(Step::Committing, now);
            told.push(next.tell("move_committing", format!("everything that was written is at {}", next.to)));
        }
        Step::Holding | Step::Freezing | Step::Catching => {
            let held_ms = old.held_at.map_or(HOLD_MS_MAX, |at| now.boot.since(at));
            if held_ms >= HOLD_MS_MAX {
                let what = match old.step {
                    Step::Holding => "requests in flight did not end",
                    Step::Freezing => "the instances did not stand still",
                    _ => "the last of the data was not there",
                };
                let_go(&mut next, format!("{what} in {HOLD_MS_MAX} ms"), now, &mut told);
            }
        }
        _ => {}
    }
    (next, told)
}

fn place(next: &mut Move, sight: &Sight, now: Now, told: &mut Vec<Told>) {
    let waited = next.tries > 0 && now.boot.since(next.since) < AGAIN_MS;
    match &sight.standby {
        Some(lease) if sight.behind_ms.is_some_and(|ms| ms <= BEHIND_MS_MAX) && !waited => {
            next.lease = Some(lease.clone());
            next.enter(Step::Preparing, now);
            told.push(
                next.tell("move_prepared", format!("{} has application, data and dossier under {lease}", next.to)),
            );
        }
        _ if now.boot.since(next.since) >= PLACE_MS_MAX => {
            let why = format!("{} was not ready in {} s", next.to, PLACE_MS_MAX / 1_000);
            cancelled(next, why, now, told);
        }
        _ => {}
    }
}

/// Before the heir was asked to commit: users go on here, and it is tried again a few times.
fn let_go(next: &mut Move, why: String, now: Now, told: &mut Vec<Told>) {
    (next.held_at, next.frozen) = (None, false);
    // The next try may find another standby there.
    next.lease = None;
    next.tries += 1;
    if next.tries >= TRIES_MAX {
        return cancelled(next, why, now, told);
    }
    told.push(next.tell("move_put_off", format!("{why}; tried again")));
    next.enter(Step::Placing, now);
    next.trouble = Some(why);
}

fn cancelled(next: &mut Move, why: String, now: Now, told: &mut Vec<Told>) {
    (next.held_at, next.frozen) = (None, false);
    told.push(next.tell("move_cancelled", why.clone()));
    next.enter(Step::Cancelled { at: now.wall, why }, now);
}

/// What the heir answered. An answer that fits no longer changes nothing.
pub fn answered(old: &Move, answer: Answer, now: Now) -> (Move, Vec<Told>) {
    let (mut next, mut told) = (old.clone(), Vec::new());
    match (&old.step, answer) {
        (Step::Preparing, Answer::Prepared) => next.enter(Step::Alerting, now),
        (Step::Alerting, Answer::Alerted) => {
            next.enter(Step::Holding, now);
            next.held_at = Some(now.boot);
            told.push(next.tell("move_holding", "unsafe requests wait while the last of the data is sent".into()));
        }
        (Step::Preparing | Step::Alerting, Answer::Refused { why, fatal: true }) => {
            cancelled(&mut next, why, now, &mut told)
        }
        (Step::Committing | Step::Cancelling { .. }, Answer::Committed) => {
            next.enter(Step::Opening, now);
            told.push(next.tell("tenure_given", format!("{} owns it now", next.to)));
        }
        // It may have signed before an answer was lost: it is asked, until it says so or says that it will not.
        (Step::Committing, Answer::Refused { why, fatal: true }) => next.enter(Step::Cancelling { why }, now),
        (Step::Cancelling { why }, Answer::NotCommitted) => {
            let why = why.clone();
            cancelled(&mut next, why, now, &mut told);
        }
        (Step::Opening, Answer::Opened) => {
            next.pause_ms = next.held_at.map(|at| now.boot.since(at));
            let text = format!(
                "{} serves; unsafe requests waited {} ms; what comes here is forwarded",
                next.to,
                next.pause_ms.unwrap_or(0)
            );
            told.push(next.tell("moved", text));
            next.enter(Step::Fronted { at: now.wall }, now);
        }
        (_, Answer::Refused { why, .. }) => next.trouble = Some(why),
        _ => {}
    }
    (next, told)
}

/// The service is this cloud's again, by a later handover than this one: the heir has opened, whatever was heard of that.
pub fn superseded(old: &Move, now: Now) -> (Move, Vec<Told>) {
    let mut next = old.clone();
    next.held_at = None;
    next.enter(Step::Fronted { at: now.wall }, now);
    let told = next.tell("moved", format!("{} had it, and it was handed over to this cloud since", next.to));
    (next, vec![told])
}

/// Somebody changed his mind. Refused (none) once the heir owns it.
pub fn cancel(old: &Move, why: &str, now: Now) -> Option<(Move, Vec<Told>)> {
    let (mut next, mut told) = (old.clone(), Vec::new());
    match old.step {
        Step::Placing | Step::Preparing | Step::Alerting | Step::Holding | Step::Freezing | Step::Catching => {
            cancelled(&mut next, why.to_owned(), now, &mut told);
        }
        Step::Committing => next.enter(Step::Cancelling { why: why.to_owned() }, now),
        _ => return None,
    }
    Some((next, told))
}

/// A person answers for it that the heir does not serve, and that it will hear of a greater epoch before it does. Refused (none) before
/// it was asked to commit, and once it served.
pub fn abandon(old: &Move, why: &str, now: Now) -> Option<(Move, Vec<Told>)> {
    if !old.is_beyond_recall() {
        return None;
    }
    let (mut next, mut told) = (old.clone(), Vec::new());
    told.push(next.tell("move_abandoned", format!("{} may have signed, and does not serve: {why}", next.to)));
    cancelled(&mut next, format!("abandoned: {why}"), now, &mut told);
    Some((next, told))
}

/// After a reboot boot times are void. What waited in the gateway is gone with it, and so are the instances; a heir that was asked to
/// commit is asked on, and until it answers nothing is started here that may write.
#[must_use]
pub fn after_reboot(old: &Move, now: Now) -> Move {
    let step = match &old.step {
        Step::Preparing | Step::Alerting | Step::Holding | Step::Freezing | Step::Catching => Step::Placing,
        step => step.clone(),
    };
    let held_at = old
        .held_at
        .map(|_| now.boot)
        .filter(|_| matches!(step, Step::Committing | Step::Opening | Step::Cancelling { .. }));
    let frozen = old.frozen && held_at.is_some();
    let lease = old.lease.clone().filter(|_| step != Step::Placing);
    Move { step, held_at, frozen, lease, since: now.boot, ..old.clone() }
}
