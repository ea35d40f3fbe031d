//! `tickets`: `GET /seat/<n>?n=<nonce>` works and answers with a check value over the request and the work's result.

use super::http::{Answer, App, Asked};
use super::work::{chain, mac};
use crate::load::{Planned, Workload};
use bytes::Bytes;
use http::{Method, StatusCode};
use rand::Rng;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};

#[derive(Debug)]
pub struct Tickets {
    iterations: u32,
    instance: String,
}

#[derive(Serialize, Deserialize)]
struct Seat {
    seat: u32,
    /// The process that answered.
    instance: String,
    work: String,
    mac: String,
}

pub(super) fn instance() -> String {
    format!("p{}", std::process::id())
}

impl Tickets {
    pub fn new(iterations: u32) -> Self {
        Self { iterations, instance: instance() }
    }

    pub(super) fn sell(&self, asked: &Asked, iterations: u32) -> Answer {
        if asked.method != Method::GET {
            return Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET");
        }
        let Some(seat) = asked.path().strip_prefix("/seat/").and_then(|n| n.parse::<u32>().ok()) else {
            return Answer::text(StatusCode::NOT_FOUND, "ask for /seat/<number>?n=<nonce>");
        };
        let digest = chain(asked.target.as_bytes(), iterations);
        let mut work = String::with_capacity(64);
        digest.iter().for_each(|b| work.push_str(&format!("{b:02x}")));
        let mac = mac(&[asked.target.as_bytes(), self.instance.as_bytes(), work.as_bytes()]);
        match serde_json::to_vec(&Seat { seat, instance: self.instance.clone(), work, mac }) {
            Ok(body) => Answer { status: StatusCode::OK, content_type: "application/json", body: body.into() },
            Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

impl App for Tickets {
    fn answer(&self, asked: &Asked) -> Option<Answer> {
        Some(self.sell(asked, self.iterations))
    }
}

/// Users who buy seats. An answer to another request, or one damaged on its way, is found out.
#[derive(Debug, Clone, Default)]
pub struct TicketsWorkload;

impl Workload for TicketsWorkload {
    fn plan(&self, _user: u32, rng: &mut SmallRng) -> Planned {
        Planned::get(format!("/seat/{}?n={:016x}", rng.random_range(0..50_000u32), rng.random::<u64>()))
    }

    fn check(&self, planned: &Planned, status: StatusCode, body: &Bytes) -> Result<(), String> {
        if status != StatusCode::OK {
            return Err(format!("status {status}"));
        }
        let seat: Seat = serde_json::from_slice(body).map_err(|e| format!("not a seat: {e}"))?;
        let wanted = mac(&[planned.target.as_bytes(), seat.instance.as_bytes(), seat.work.as_bytes()]);
        if !planned.target.starts_with(&format!("/seat/{}?", seat.seat)) || seat.mac != wanted {
            return Err(format!("the answer of seat {} does not belong to {}", seat.seat, planned.target));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn the_checker_tells_right_from_wrong() {
        let (app, load) = (Tickets::new(3), TicketsWorkload);
        let mut rng = SmallRng::seed_from_u64(1);
        let (one, two) = (load.plan(1, &mut rng), load.plan(1, &mut rng));
        let ask = |p: &Planned| Asked {
            method: Method::GET,
            target: p.target.clone(),
            body: Bytes::new(),
            user_fields: Vec::new(),
        };
        let answer = app.answer(&ask(&one)).unwrap();
        assert_eq!(load.check(&one, answer.status, &answer.body), Ok(()));
        assert!(load.check(&two, answer.status, &answer.body).is_err(), "another request's answer");
        let mut damaged = answer.body.to_vec();
        let at = damaged.iter().position(|&b| b == b'k').unwrap() + 6;
        damaged[at] = if damaged[at] == b'0' { b'1' } else { b'0' };
        assert!(load.check(&one, answer.status, &damaged.into()).is_err(), "a changed digit");
        assert!(load.check(&one, StatusCode::NOT_FOUND, &answer.body).is_err());
    }
}
