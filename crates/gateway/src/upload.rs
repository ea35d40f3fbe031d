//! Bodies of users on their way to a backend.
//!
//! Enters: a body as it arrives. Leaves: the same, in memory where it is short; a word on what happened to it for those who
//! wait for the answer ([`Verdict`]). Always holds: a body is bounded in size and in memory; its user keeps a least rate, or it
//! breaks off; an instance is not asked before it has something to read.

use crate::body::BodyFault;
use crate::headers;
use crate::link::{Link, Taken, TooMany};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::Sleep;

/// So much is waited for before the instance is asked.
const AHEAD_BYTES: u64 = 64 << 10;
/// One that does not say how long it is may be half of a conversation: it is passed on when nothing came for so long.
const HUSH: Duration = Duration::from_millis(500);
/// Where conversations are what there is: what belongs together arrives together.
const HUSH_CONVERSING: Duration = Duration::from_millis(10);

/// How fast a user must send.
#[derive(Debug, Clone, Copy)]
pub struct Least {
    pub stall_ms: u64,
    pub rate_bytes_per_s: u32,
    /// Once the answer is under way: between two pieces.
    pub idle_ms: u64,
    /// The application may converse (HTTP/2): a body that says no length is passed on soon, and may pause as if it were answered.
    pub converses: bool,
    /// Trailers are passed on: nothing is told in header fields that a trailer could say otherwise.
    pub trailers: bool,
}

/// What happened to a request's body, seen from outside of the connection that sends it.
#[derive(Debug, Default)]
pub struct Verdict {
    fault: AtomicU8,
    moved: AtomicBool,
    complete: AtomicBool,
    answered: AtomicBool,
    /// The user has to send, and all that came was passed on.
    awaited: AtomicBool,
    /// Some of the answer was passed on.
    answer_moved: AtomicBool,
    hushed: AtomicBool,
    completed: Notify,
}

impl Verdict {
    const TOO_LONG: u8 = 1;
    const CLIENT: u8 = 2;
    const IDLE: u8 = 3;
    pub fn too_long(&self) -> bool {
        self.fault.load(Ordering::Relaxed) == Self::TOO_LONG
    }
    /// Whether some of it was sent since this was last asked.
    pub fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::Relaxed)
    }
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }
    /// Some of the answer reached its user: whoever only listens takes part.
    pub fn answer_moved(&self) {
        self.answer_moved.store(true, Ordering::Relaxed);
    }
    /// The client, not the backend, is why the request broke.
    pub fn clients_fault(&self) -> bool {
        self.fault.load(Ordering::Relaxed) != 0
    }
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }
    /// Until the user has sent all of it.
    pub async fn completed(&self) {
        while !self.is_complete() {
            self.completed.notified().await;
        }
    }
    /// The head of the answer is there: what still comes is half of a conversation.
    pub fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }
    /// The user stood still when it was passed on.
    pub fn is_hushed(&self) -> bool {
        self.hushed.load(Ordering::Relaxed)
    }
    fn complete(&self) {
        self.complete.store(true, Ordering::Release);
        self.completed.notify_one();
    }
}

/// A request's body on its way to a backend.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    /// Whole, so that it can be sent again.
    Kept(Option<Bytes>),
    Stream(Box<Upload>),
}

#[derive(Debug)]
pub struct Upload {
    /// Arrived, and not passed on.
    ahead: VecDeque<Frame<Bytes>>,
    ahead_bytes: u64,
    inner: Incoming,
    over: bool,
    /// That the service still takes.
    left: u64,
    received: u64,
    least: Least,
    /// Time in which the user was waited for.
    waited: Duration,
    pending_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    verdict: Arc<Verdict>,
    room: Option<Taken>,
}

impl Upload {
    pub fn new(inner: Incoming, bytes_max: u64, least: Least) -> (Box<Self>, Arc<Verdict>) {
        let verdict = Arc::new(Verdict::default());
        let upload = Self {
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            inner,
            over: false,
            left: bytes_max,
            received: 0,
            least,
            waited: Duration::ZERO,
            pending_since: None,
            timer: None,
            verdict: verdict.clone(),
            room: None,
        };
        (Box::new(upload), verdict)
    }

    /// Waits for all of the body, for as much of it as is held, or for the end of the user's patience. A user who has to be
    /// waited for takes `room`, of which an address has `streams_max`.
    pub async fn come(&mut self, link: &Link, streams_max: u32) -> Result<(), NotThere> {
        let told = self.inner.size_hint().exact().is_some();
        let pause = if self.least.converses { HUSH_CONVERSING } else { HUSH };
        let mut hush: Option<Pin<Box<Sleep>>> = None;
        let mut seen = 0;
        let outcome = poll_fn(|cx| {
            while !self.over && self.ahead_bytes < AHEAD_BYTES {
                match self.poll_inner(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        self.ahead_bytes += frame.data_ref().map_or(0, |d| d.len() as u64);
                        self.ahead.push_back(frame);
                    }
                    Poll::Ready(Some(Err(fault))) => return Poll::Ready(Err(NotThere::Broken(fault))),
                    Poll::Ready(None) => {}
                    Poll::Pending => {
                        if self.room.is_none() {
                            self.room = link.take_stream(streams_max).map_err(|TooMany| NotThere::TooMany)?;
                        }
                        if told {
                            return Poll::Pending;
                        }
                        let hush = hush.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
                        if seen != self.received {
                            seen = self.received;
                            hush.as_mut().reset(tokio::time::Instant::now() + pause);
                        }
                        std::task::ready!(hush.as_mut().poll(cx));
                        self.verdict.hushed.store(true, Ordering::Relaxed);
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            Poll::Ready(Ok(()))
        });
        outcome.await?;
        if self.over {
            (self.room, self.timer) = (None, None);
        }
        Ok(())
    }

    /// All of it, if it has come and has no trailers.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        if !self.over || !self.ahead.iter().all(Frame::is_data) {
            return None;
        }
        let mut parts = self.ahead.drain(..).filter_map(|f| f.into_data().ok());
        let first = parts.next().unwrap_or_default();
        let mut rest = parts.peekable();
        if rest.peek().is_none() {
            return Some(first);
        }
        Some(std::iter::once(first).chain(rest).flatten().collect())
    }

    /// What it holds is one of its instance's streams, and it may pause as long as the answer may.
    fn is_conversation(&self) -> bool {
        self.verdict.answered.load(Ordering::Relaxed) || (self.least.converses && self.verdict.is_hushed())
    }

    /// How long the user may be waited for from now on.
    fn patience(&self) -> Duration {
        if self.is_conversation() {
            return Duration::from_millis(self.least.idle_ms);
        }
        let stall = Duration::from_millis(self.least.stall_ms);
        let earned_ms = self.received.saturating_mul(1_000) / u64::from(self.least.rate_bytes_per_s.max(1));
        (stall + Duration::from_millis(earned_ms)).saturating_sub(self.waited).min(stall)
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        self.verdict.awaited.store(polled.is_pending(), Ordering::Relaxed);
        if polled.is_ready()
            && let Some(since) = self.pending_since.take()
        {
            self.waited += since.elapsed();
        }
        match polled {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(fields) = frame.trailers_mut() {
                    match self.least.trailers {
                        true => headers::strip_trailers(fields),
                        false => fields.clear(),
                    }
                }
                let length = frame.data_ref().map_or(0, |d| d.len() as u64);
                if length > self.left {
                    self.verdict.fault.store(Verdict::TOO_LONG, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(BodyFault::TooLong)));
                }
                self.left -= length;
                self.received += length;
                self.verdict.moved.store(true, Ordering::Relaxed);
                if self.inner.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => {
                self.verdict.fault.store(Verdict::CLIENT, Ordering::Relaxed);
                Poll::Ready(Some(Err(e.into())))
            }
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                if self.pending_since.is_none() {
                    self.pending_since = Some(Instant::now());
                    let until = tokio::time::Instant::now() + self.patience();
                    match &mut self.timer {
                        Some(timer) => timer.as_mut().reset(until),
                        None => self.timer = Some(Box::pin(tokio::time::sleep_until(until))),
                    }
                }
                let mut late = self.timer.as_mut().is_some_and(|t| t.as_mut().poll(cx).is_ready());
                if late && self.is_conversation() {
                    if self.verdict.answer_moved.swap(false, Ordering::Relaxed) {
                        self.pending_since = Some(Instant::now());
                    }
                    // Asked of the clock again: it may have been set before the answer was there.
                    let since = self.pending_since.map_or(Duration::ZERO, |s| s.elapsed());
                    let left = self.patience().saturating_sub(since);
                    late = left.is_zero();
                    if !late && let Some(timer) = &mut self.timer {
                        timer.as_mut().reset(tokio::time::Instant::now() + left);
                        late = timer.as_mut().poll(cx).is_ready();
                    }
                }
                if !late {
                    return Poll::Pending;
                }
                self.verdict.fault.store(Verdict::IDLE, Ordering::Relaxed);
                Poll::Ready(Some(Err(BodyFault::Idle)))
            }
        }
    }

    fn end(&mut self) {
        self.over = true;
        self.room = None;
        self.verdict.complete();
    }
}

/// Why a body did not come.
#[derive(Debug)]
pub enum NotThere {
    Broken(BodyFault),
    /// The address sends as many as it may.
    TooMany,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let upload = match self.get_mut() {
            Self::Stream(upload) => upload,
            Self::Kept(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Empty => return Poll::Ready(None),
        };
        match upload.ahead.pop_front() {
            Some(frame) => {
                upload.ahead_bytes -= frame.data_ref().map_or(0, |d| d.len() as u64);
                Poll::Ready(Some(Ok(frame)))
            }
            None => upload.poll_inner(cx),
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Kept(bytes) => bytes.is_none(),
            Self::Stream(upload) => upload.over && upload.ahead.is_empty(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Kept(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            // Trailers need chunks.
            Self::Stream(upload) if upload.ahead.iter().any(Frame::is_trailers) => SizeHint::new(),
            Self::Stream(upload) if upload.over => SizeHint::with_exact(upload.ahead_bytes),
            Self::Stream(upload) => match upload.inner.size_hint().exact() {
                Some(rest) => SizeHint::with_exact(upload.ahead_bytes + rest),
                None => SizeHint::new(),
            },
        }
    }
}
