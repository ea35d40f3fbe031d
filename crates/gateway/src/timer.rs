//! Timers for waits that nearly always end early.
//!
//! Always holds: a deadline is never missed by more than the clock's grain. A timer that is asked for a later deadline is not
//! set anew but runs on, and is set again when it goes off too early: once a deadline's length instead of once a request.

use std::pin::Pin;
use std::task::Context;
use std::time::Instant;
use tokio::time::Sleep as TokioSleep;

#[derive(Debug, Default)]
pub struct LazyTimer(Option<Pin<Box<TokioSleep>>>);

impl LazyTimer {
    /// Whether `deadline` is over; if not, the task is woken when it is.
    pub fn expired(&mut self, cx: &mut Context<'_>, deadline: Instant) -> bool {
        let deadline = tokio::time::Instant::from_std(deadline);
        let timer = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= deadline {
                return true;
            }
            timer.as_mut().reset(deadline);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    async fn wait(timer: &mut LazyTimer, length: Duration) -> Duration {
        let began = Instant::now();
        poll_fn(|cx| if timer.expired(cx, began + length) { Poll::Ready(()) } else { Poll::Pending }).await;
        began.elapsed()
    }

    #[tokio::test]
    async fn a_deadline_may_move_both_ways() {
        let mut timer = LazyTimer::default();
        for ms in [20, 60, 5, 30] {
            let length = Duration::from_millis(ms);
            // Asked and then not needed, as for a request that was answered.
            poll_fn(|cx| Poll::Ready(timer.expired(cx, Instant::now() + length / 2))).await;
            assert!(wait(&mut timer, length).await >= length);
        }
        let long = Instant::now() + Duration::from_secs(3_600);
        assert!(!poll_fn(|cx| Poll::Ready(timer.expired(cx, long))).await);
        assert!(
            wait(&mut timer, Duration::from_millis(5)).await < Duration::from_secs(600),
            "it was set to the earlier one"
        );
    }
}
