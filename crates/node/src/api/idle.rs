//! Whether anything happens on a connection.

use super::allowance::Allowance;
use axum::body::{Body, Bytes};
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// Requests that are not answered to their last byte, and since when there are none.
#[derive(Debug)]
pub struct Activity(Mutex<(usize, Instant)>);

impl Activity {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((0, Instant::now()))))
    }

    fn read<T>(&self, f: impl FnOnce(&mut (usize, Instant)) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns once nothing was asked for so long.
    pub async fn idle_for(&self, so_long: Duration) {
        loop {
            let due = match self.read(|state| *state) {
                (0, since) if since.elapsed() >= so_long => return,
                (0, since) => since + so_long,
                _ => Instant::now() + so_long,
            };
            tokio::time::sleep_until(due).await;
        }
    }
}

/// A request in flight, with what it holds.
#[derive(Debug)]
pub struct Answering {
    activity: Arc<Activity>,
    _allowance: Arc<Allowance>,
}

impl Answering {
    pub fn new(activity: &Arc<Activity>, allowance: Arc<Allowance>) -> Self {
        activity.read(|state| state.0 += 1);
        Self { activity: activity.clone(), _allowance: allowance }
    }

    pub fn until_sent(self, answer: Response) -> Response {
        answer.map(|body| Body::new(Sent { body, _answering: self }))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.activity.read(|state| *state = (state.0.saturating_sub(1), Instant::now()));
    }
}

struct Sent {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::super::allowance::{Allowance, PACE, Pots};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_in_flight_is_no_idleness() {
        let (activity, begun) = (Activity::new(), Instant::now());
        let answering = Answering::new(&activity, Allowance::new(Pots::default().people(), PACE));
        let answer = answering.until_sent(Response::new(Body::from("x")));
        let (waits, so_long) = (activity.clone(), Duration::from_secs(5));
        let idle = tokio::spawn(async move { waits.idle_for(so_long).await });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!idle.is_finished());
        drop(answer);
        idle.await.unwrap();
        assert!((65..=70).contains(&begun.elapsed().as_secs()));
    }
}
