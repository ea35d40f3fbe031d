//! An answer of a service that is kept in step waits here until the copies have what it tells of.
//!
//! Enters: an answer's head, whose application has done its part. Leaves: it goes on, or what is answered in its place. Always holds: the
//! instant is taken after the head is there; the [rule](crate::commit) is asked with the table, the right and the copies of each moment;
//! nobody waits longer than the service says. The place at the instance is not held meanwhile: others work, and what they write goes with
//! the next batch.

use crate::answer;
use crate::body::AnswerBody;
use crate::clock::boot_ms;
use crate::commit::Fate;
use crate::gateway::Worker;
use crate::table::Service;
use http::{Response, StatusCode};
use pumasi_terms::{BootMs, Position};
use std::time::Duration;
use tokio::time::Instant;

/// Why it may not leave, and what is told instead.
type Instead = Box<Response<AnswerBody>>;

/// Whether an answer of this kind has to wait, as the table in force says.
pub fn waits(service: &Service, writes: bool) -> bool {
    service.gate.waits(writes)
}

/// # Errors
/// What is answered instead.
pub async fn when_kept(worker: &Worker, service: &Service, writes: bool) -> Result<(), Instead> {
    let generation = service.route.position_generation.unwrap_or_default();
    let at = Position::token(generation, boot_ms().0);
    let wait_ms = service.gate.wait_ms();
    match until_kept(worker, service, at, wait_ms).await {
        Fate::Leaves => Ok(()),
        Fate::Waits if writes => {
            service.admission.count_error();
            let detail = format!(
                "no other cloud confirmed within {wait_ms} ms that it has what was written; whether it took effect is not known"
            );
            Err(Box::new(answer::unknown_outcome(StatusCode::GATEWAY_TIMEOUT, &detail)))
        }
        Fate::Waits => {
            let detail = "no other cloud has what would be shown yet; ask again";
            Err(Box::new(answer::unavailable("not-committed", detail)))
        }
        Fate::Gone if writes => {
            let detail =
                "this cloud lost the right to write before the answer was out; whether it took effect is not known";
            Err(Box::new(answer::unknown_outcome(StatusCode::SERVICE_UNAVAILABLE, detail)))
        }
        Fate::Gone => {
            let detail = "this cloud may not speak for the service now; ask again";
            Err(Box::new(answer::unavailable("not-writable", detail)))
        }
    }
}

async fn until_kept(worker: &Worker, service: &Service, at: Position, wait_ms: u64) -> Fate {
    let (tables, until) = (&worker.gateway.tables, Instant::now() + Duration::from_millis(wait_ms));
    let mut told = false;
    loop {
        let moved = tables.moved();
        let mut moved = std::pin::pin!(moved);
        moved.as_mut().enable();
        match service.gate.fate(service.route.epoch, at, &tables.in_step()) {
            Fate::Waits if Instant::now() < until => {}
            fate => return fate,
        }
        if !told {
            worker.gateway.wanted.want(&service.name, BootMs(at.as_of_ms));
            told = true;
        }
        let _ = tokio::time::timeout_at(until, moved).await;
    }
}
