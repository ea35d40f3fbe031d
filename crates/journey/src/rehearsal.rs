//! A rehearsal: the whole journey for one instance, without users. Where it is ready it is asked once, and given back.
//!
//! Always holds: no user is sent there; it ends in bounded time; a plan for another cause makes a real journey of it, which then keeps what
//! was rented.

use crate::event::{bounded, end};
use crate::record::{Journey, Part, PartState, Told};
use pumasi_terms::{LeaseId, Now};
use serde::{Deserialize, Serialize};

/// A ready instance that gave no answer is given back after this.
pub const ANSWER_MS_MAX: u64 = 20_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rehearsal {
    /// Asked for there by GET.
    pub path: String,
    #[serde(default)]
    pub answer: Option<Answer>,
    /// Why there is no answer yet.
    #[serde(default)]
    pub trouble: Option<String>,
    /// From when it was asked for until the rented instance answered.
    #[serde(default)]
    pub took_ms: Option<u64>,
}

/// What a rented instance answered, by way of its cloud's gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    pub status: u16,
    pub body_bytes: u64,
    pub took_ms: u64,
}

impl Answer {
    /// As a readiness probe has it: 200 to 399.
    pub fn is_good(&self) -> bool {
        (200..400).contains(&self.status)
    }
}

impl Rehearsal {
    pub fn of(path: String) -> Self {
        Self { path, answer: None, trouble: None, took_ms: None }
    }
}

/// Whether this part is to be asked now.
pub(crate) fn asks(journey: &Journey, part: &Part) -> bool {
    let waits = journey.rehearsal.as_ref().is_some_and(|r| r.answer.is_none());
    waits && part.state == PartState::Serving
}

/// What came of asking: an answer ends the rehearsal, why there is none is kept.
pub(crate) fn asked(
    journey: &mut Journey,
    lease: &LeaseId,
    answer: Result<Answer, String>,
    now: Now,
    told: &mut Vec<Told>,
) {
    let Some(part) = journey.part(lease).cloned().filter(|part| asks(journey, part)) else { return };
    let opened_at = journey.opened_at;
    let Some(rehearsal) = &mut journey.rehearsal else { return };
    match answer {
        Err(why) => rehearsal.trouble = Some(bounded(&why)),
        Ok(answer) => {
            let (path, lender) = (&rehearsal.path, &part.lender);
            let word = if answer.is_good() { "" } else { ", which is no good answer" };
            let text = format!(
                "GET {path} at {lender}: {} with {} bytes in {} ms{word}",
                answer.status, answer.body_bytes, answer.took_ms
            );
            let bytes_out = answer.body_bytes;
            rehearsal.answer = Some(answer);
            rehearsal.trouble = None;
            rehearsal.took_ms = Some(now.wall.since(opened_at));
            // The gateway meters what users ask for; this one is counted here, so that both ledgers have it.
            if let Some(part) = journey.part_mut(lease) {
                part.usage = part.usage.plus(0, 1, bytes_out);
            }
            told.push(Told::lease(&part, "rehearsal_answered", text));
            end(journey, lease, "the rehearsal is over".into(), now, told);
        }
    }
}

/// A ready instance was asked for long enough.
pub(crate) fn give_up(journey: &mut Journey, lease: &LeaseId, now: Now, told: &mut Vec<Told>) {
    let Some(part) = journey.part(lease).cloned().filter(|part| asks(journey, part)) else { return };
    if now.boot.since(part.since) < ANSWER_MS_MAX {
        return;
    }
    let trouble = journey.rehearsal.as_ref().and_then(|r| r.trouble.clone());
    let trouble = trouble.unwrap_or_else(|| "it was not asked in time".to_owned());
    let text = format!("no answer from {} in {ANSWER_MS_MAX} ms: {trouble}", part.lender);
    told.push(Told::lease(&part, "rehearsal_unanswered", &text));
    end(journey, lease, text, now, told);
}
