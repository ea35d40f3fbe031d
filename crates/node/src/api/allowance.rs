//! What a request may cost while it is received: bytes of its body, bounded by caller and by door, and the time it takes.

use super::body::ApiError;
use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http_body_util::BodyExt;
use pumasi_api::{Fault, Problem};
use pumasi_terms::CloudName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

const MIB: usize = 1 << 20;
/// What a stranger may send at all, unless it proves an invitation first.
pub const STRANGER_BODY_BYTES_MAX: usize = 16 << 10;

/// How a body must arrive.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// So long whatever it sends.
    pub grace: Duration,
    /// Then on average at least so much.
    pub bytes_per_second: u64,
    /// Between two pieces.
    pub still: Duration,
}

pub const STRANGERS_PACE: Pace =
    Pace { grace: Duration::from_secs(5), bytes_per_second: 32 << 10, still: Duration::from_secs(5) };
/// A member's link may be narrow, and stand still for a moment.
pub const PACE: Pace =
    Pace { grace: Duration::from_secs(20), bytes_per_second: 2 << 10, still: Duration::from_secs(20) };

/// Bodies that are in memory at once: what one caller may have, and all of a kind.
#[derive(Debug, Clone)]
pub struct Pot {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// The pots of a daemon's doors.
#[derive(Debug)]
pub struct Pots {
    strangers: Arc<Semaphore>,
    members: Arc<Semaphore>,
    people: Arc<Semaphore>,
    by_member: Mutex<BTreeMap<CloudName, Arc<Semaphore>>>,
}

const STRANGER_BYTES: usize = MIB;
const STRANGERS_BYTES: usize = 4 * MIB;
/// The longest body that a member sends, and small ones beside it.
const MEMBER_BYTES: usize = 288 * MIB;
const MEMBERS_BYTES: usize = 640 * MIB;
const PEOPLE_BYTES: usize = 256 * MIB;

impl Default for Pots {
    fn default() -> Self {
        let pot = |bytes| Arc::new(Semaphore::new(bytes));
        Self {
            strangers: pot(STRANGERS_BYTES),
            members: pot(MEMBERS_BYTES),
            people: pot(PEOPLE_BYTES),
            by_member: Mutex::default(),
        }
    }
}

impl Pots {
    /// For one connection of a stranger.
    pub fn stranger(&self) -> Pot {
        Pot { own: Arc::new(Semaphore::new(STRANGER_BYTES)), all: self.strangers.clone() }
    }
    /// For all connections of a member together.
    pub fn member(&self, cloud: &CloudName) -> Pot {
        let mut pots = self.by_member.lock().unwrap_or_else(PoisonError::into_inner);
        // Members that have left are nobody's; what they still hold, they hold.
        if pots.len() > 256 {
            pots.retain(|_, pot| Arc::strong_count(pot) > 1);
        }
        let own = pots.entry(cloud.clone()).or_insert_with(|| Arc::new(Semaphore::new(MEMBER_BYTES))).clone();
        Pot { own, all: self.members.clone() }
    }
    pub fn people(&self) -> Pot {
        Pot { own: self.people.clone(), all: Arc::new(Semaphore::new(PEOPLE_BYTES)) }
    }
}

/// Of one request. What it took it holds until the request has been answered.
#[derive(Debug)]
pub struct Allowance {
    pot: Pot,
    pace: Pace,
    held: Mutex<Vec<OwnedSemaphorePermit>>,
}

impl Allowance {
    pub fn new(pot: Pot, pace: Pace) -> Arc<Self> {
        Arc::new(Self { pot, pace, held: Mutex::default() })
    }

    fn take(&self, bytes: usize) -> Result<(), Problem> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let pots = [(&self.pot.own, "you have"), (&self.pot.all, "all callers have")];
        for (pot, who) in pots {
            let Ok(permit) = pot.clone().try_acquire_many_owned(bytes) else {
                let text = format!("{who} as many bytes on their way here as this daemon keeps at once; try again");
                return Err(Problem {
                    retry_after_ms: Some(1_000),
                    ..Problem::new(503, "too_much_at_once", Fault::Input, text)
                });
            };
            self.held.lock().unwrap_or_else(PoisonError::into_inner).push(permit);
        }
        Ok(())
    }
}

/// The longest body of this request; the endpoint's, or less for a stranger.
#[derive(Debug, Clone, Copy)]
pub struct BodyMax(pub usize);

fn too_large(max: usize) -> ApiError {
    ApiError(Problem::new(
        413,
        "too_large",
        Fault::Input,
        format!("the body is longer than the {max} bytes that are read here"),
    ))
}

fn too_slow() -> ApiError {
    ApiError(Problem {
        retry: true,
        ..Problem::new(408, "too_slow", Fault::Input, "the body came too slowly; send it again")
    })
}

/// The whole body, within its bounds.
pub async fn receive(request: Request) -> Result<Bytes, ApiError> {
    let max = request.extensions().get::<BodyMax>().map_or(0, |m| m.0);
    let allowance = request.extensions().get::<Arc<Allowance>>().cloned();
    let told = request.headers().get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|bytes| bytes > max) {
        return Err(too_large(max));
    }
    collect(request.into_body(), max, allowance.as_deref()).await
}

async fn collect(mut body: Body, max: usize, allowance: Option<&Allowance>) -> Result<Bytes, ApiError> {
    let (begun, pace) = (Instant::now(), allowance.map_or(PACE, |a| a.pace));
    let mut first: Option<Bytes> = None;
    let mut bytes: Vec<u8> = Vec::new();
    let mut length = 0usize;
    loop {
        let due = begun + pace.grace + Duration::from_millis(length as u64 * 1_000 / pace.bytes_per_second.max(1));
        let until = due.min(Instant::now() + pace.still);
        let frame = match tokio::time::timeout_at(until, body.frame()).await {
            Err(_) => return Err(too_slow()),
            Ok(None) => break,
            Ok(Some(Err(e))) => return Err(ApiError(Problem::bad_request(format!("the body broke off: {e}")))),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > max {
            return Err(too_large(max));
        }
        if let Some(allowance) = allowance {
            allowance.take(data.len())?;
        }
        // Most bodies are one piece, which needs no copy.
        match first.take() {
            None if bytes.is_empty() => first = Some(data),
            None => bytes.extend_from_slice(&data),
            Some(before) => {
                bytes.reserve(before.len() + data.len());
                bytes.extend_from_slice(&before);
                bytes.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(pieces: usize, bytes: usize, pause: Duration) -> Body {
        let piece = move |n: usize| async move {
            (n < pieces).then_some(())?;
            tokio::time::sleep(pause).await;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(vec![7; bytes])), n + 1))
        };
        Body::from_stream(futures_util::stream::unfold(0, piece))
    }

    fn code(result: Result<Bytes, ApiError>) -> String {
        result.map_or_else(|e| e.0.code, |b| b.len().to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_bounded_in_bytes_and_time() {
        let now = Duration::ZERO;
        assert_eq!(code(collect(body(3, 10, now), 30, None).await), "30");
        assert_eq!(code(collect(body(3, 10, now), 29, None).await), "too_large");
        assert_eq!(code(collect(body(2, 10, Duration::from_secs(21)), 99, None).await), "too_slow");
        // Steady and slow: one byte a second is no way to hold a place.
        let slow =
            tokio::time::timeout(Duration::from_secs(60), collect(body(9_999, 1, Duration::from_secs(1)), 9_999, None));
        assert_eq!(code(slow.await.unwrap()), "too_slow");
    }

    #[tokio::test]
    async fn strangers_share_a_pot_and_members_have_their_own() {
        let (pots, city) = (Pots::default(), CloudName::parse("city-b").unwrap());
        let fill = |pot: Pot, bytes| async move {
            let allowance = Allowance::new(pot, STRANGERS_PACE);
            (code(collect(body(1, bytes, Duration::ZERO), usize::MAX, Some(&allowance)).await), allowance)
        };
        let mut held = Vec::new();
        for _ in 0..STRANGERS_BYTES / STRANGER_BYTES {
            held.push(fill(pots.stranger(), STRANGER_BYTES).await);
        }
        assert!(held.iter().all(|(code, _)| code == &STRANGER_BYTES.to_string()));
        assert_eq!(fill(pots.stranger(), 1).await.0, "too_much_at_once");
        assert_eq!(fill(pots.member(&city), MIB).await.0, MIB.to_string());
        held.clear();
        assert_eq!(fill(pots.stranger(), 1).await.0, "1", "what was answered is given back");
        assert_eq!(fill(pots.stranger(), STRANGER_BYTES + 1).await.0, "too_much_at_once");
    }
}
