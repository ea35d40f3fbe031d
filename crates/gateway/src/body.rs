//! Bodies on their way through: counted, bounded in size and in standstill, never buffered whole.
//!
//! Always holds: what a body holds at an instance is let go when one side does nothing, whether or not anybody asks the body
//! for more: over HTTP/2 nobody does while the user's window is shut.

use crate::headers;
use crate::link::{Busy, Link, Taken, TooMany, UNSENT_BYTES};
use crate::permit::Stream;
use crate::plain;
use crate::upload::Verdict;
use crate::upstream::Loan;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// Why a body was broken off.
#[derive(Debug, thiserror::Error)]
pub enum BodyFault {
    #[error("the sender broke off: {0}")]
    Sender(#[from] hyper::Error),
    #[error("the instance broke off: {0}")]
    Instance(String),
    #[error("the body is longer than the service takes")]
    TooLong,
    #[error("the body stood still for too long")]
    Idle,
}

/// How long one side of a body may do nothing.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// A user.
    pub stall_ms: u64,
    /// Bytes per second.
    pub rate_min: u32,
    /// An instance.
    pub idle_ms: u64,
    /// Bodies under way of one address.
    pub streams_max: u32,
}

impl Pace {
    /// For a user who was handed `handed` bytes, `last` of them at once, and may not have taken them yet.
    pub fn user_ms(&self, handed: u64, last: u64) -> u64 {
        let owed = handed.min(last.saturating_add(u64::from(UNSENT_BYTES)));
        self.stall_ms.saturating_add(owed.saturating_mul(1_000) / u64::from(self.rate_min.max(1)))
    }
}

/// An answer's body on its way to the user.
#[derive(Debug)]
pub enum AnswerBody {
    Empty,
    Full(Option<Bytes>),
    Stream(Arc<Flow>),
}

/// Where the body of an answer comes from.
#[derive(Debug)]
pub enum Source {
    /// By hyper, over a connection that is kept, or not.
    Incoming(Incoming, Option<Loan>),
    Plain(plain::Body),
}

/// How much of it is there.
#[derive(Debug)]
pub enum Came {
    /// All of it came with the head.
    Whole(Bytes),
    Going(Going),
}

impl Source {
    /// A connection that is not needed any more goes back.
    pub fn came(self) -> Came {
        match self {
            Self::Incoming(inner, loan) if inner.is_end_stream() => {
                if let Some(loan) = loan {
                    loan.give_back();
                }
                Came::Whole(Bytes::new())
            }
            Self::Incoming(inner, loan) => Came::Going(Going(Inner::Incoming(inner), loan)),
            Self::Plain(plain::Body::Whole(bytes)) => Came::Whole(bytes),
            Self::Plain(plain::Body::Rest(rest)) => Came::Going(Going(Inner::Plain(rest), None)),
        }
    }
}

/// A body of which some is still to come.
#[derive(Debug)]
pub struct Going(Inner, Option<Loan>);

/// A body of no more is there in a moment, as a rule.
const SHORT_BYTES: u64 = 64 << 10;

impl Going {
    pub fn is_short(&self) -> bool {
        self.0.size_hint().exact().is_some_and(|length| length <= SHORT_BYTES)
    }
}

#[derive(Debug)]
enum Inner {
    Incoming(Incoming),
    Plain(Box<plain::Rest>),
}

impl Inner {
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(inner) => inner.size_hint(),
            Self::Plain(rest) => rest.length().map_or(SizeHint::new(), SizeHint::with_exact),
        }
    }
}

/// Everything that a body holds.
#[derive(Debug)]
struct Live {
    inner: Inner,
    stream: Stream,
    loan: Option<Loan>,
    room: Option<Taken>,
    _busy: Busy,
}

#[derive(Debug)]
struct State {
    /// None: it is over.
    live: Option<Live>,
    broken: bool,
    /// The user has something to take; otherwise the instance has something to send.
    waits_for_user: bool,
    moved: bool,
    /// To the user, in all and last.
    handed_bytes: u64,
    last_bytes: u64,
    /// When it was last seen to have moved; 0: not looked at yet.
    since_ms: u64,
    /// Its address's room for it is not taken yet.
    owes_room: bool,
}

/// The body of an answer that goes on.
#[derive(Debug)]
pub struct Flow {
    state: Mutex<State>,
    link: Arc<Link>,
    /// Of the request's body: as long as it goes on, both are halves of a conversation.
    request: Option<Arc<Verdict>>,
}

impl Flow {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks it off where one side did nothing for too long. False: it is over.
    pub fn look(&self, pace: &Pace, now_ms: u64) -> bool {
        let mut guard = self.lock();
        let s = &mut *guard;
        let Some(live) = &mut s.live else { return false };
        let mut too_many = false;
        if s.since_ms > 0 && std::mem::take(&mut s.owes_room) {
            match self.link.take_stream(pace.streams_max) {
                Ok(room) => live.room = room,
                Err(TooMany) => too_many = true,
            }
        }
        let heard = self.request.as_ref().is_some_and(|r| r.take_moved());
        if std::mem::take(&mut s.moved) || heard || s.since_ms == 0 {
            s.since_ms = now_ms;
        }
        let allowed_ms = if s.waits_for_user { pace.user_ms(s.handed_bytes, s.last_bytes) } else { pace.idle_ms };
        if !too_many && now_ms.saturating_sub(s.since_ms) <= allowed_ms {
            return true;
        }
        s.broken = true;
        let held = s.live.take();
        drop(guard);
        drop(held);
        self.link.give_up();
        false
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let mut guard = self.lock();
        let s = &mut *guard;
        let Some(live) = &mut s.live else {
            return Poll::Ready(s.broken.then_some(Err(BodyFault::Idle)));
        };
        let polled = match &mut live.inner {
            Inner::Incoming(inner) => Pin::new(inner).poll_frame(cx).map(|f| f.map(|r| r.map_err(BodyFault::from))),
            Inner::Plain(rest) => rest.poll_frame(cx).map(|f| f.map(|r| r.map_err(BodyFault::Instance))),
        };
        match polled {
            Poll::Ready(Some(Ok(mut frame))) => {
                (s.moved, s.waits_for_user) = (true, true);
                if let Some(request) = &self.request {
                    request.answer_moved();
                }
                if let Some(fields) = frame.trailers_mut() {
                    headers::strip_answer_trailers(fields);
                }
                if let Some(data) = frame.data_ref() {
                    s.last_bytes = data.len() as u64;
                    s.handed_bytes += s.last_bytes;
                    live.stream.add_bytes(s.last_bytes);
                }
                if live.is_over() {
                    end(s.live.take());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => {
                if let Some(live) = s.live.take() {
                    live.stream.failed();
                }
                s.broken = true;
                Poll::Ready(Some(Err(e)))
            }
            Poll::Ready(None) => {
                end(s.live.take());
                Poll::Ready(None)
            }
            Poll::Pending => {
                s.moved |= s.waits_for_user;
                s.waits_for_user = false;
                Poll::Pending
            }
        }
    }
}

/// It came whole: the next request may use its connection.
fn end(live: Option<Live>) {
    if let Some(loan) = live.and_then(|live| live.loan) {
        loan.give_back();
    }
}

impl Live {
    fn is_over(&self) -> bool {
        match &self.inner {
            Inner::Incoming(inner) => inner.is_end_stream(),
            Inner::Plain(rest) => rest.is_over(),
        }
    }
}

impl AnswerBody {
    pub fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(Some(bytes)) }
    }

    /// `room`: of its address; one that is short takes it only if it is still there later.
    pub fn going(
        body: Going,
        stream: Stream,
        room: Option<Taken>,
        link: &Arc<Link>,
        request: Option<Arc<Verdict>>,
    ) -> (Self, Arc<Flow>) {
        let short = body.is_short();
        let live = Live { inner: body.0, stream, loan: body.1, room, _busy: link.busy() };
        let state = State {
            live: Some(live),
            broken: false,
            // Nobody has asked for it yet.
            waits_for_user: true,
            moved: true,
            handed_bytes: 0,
            last_bytes: 0,
            since_ms: 0,
            owes_room: short,
        };
        let flow = Arc::new(Flow { state: Mutex::new(state), link: link.clone(), request });
        (Self::Stream(flow.clone()), flow)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(flow) => flow.poll_frame(cx),
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Stream(flow) => {
                let s = flow.lock();
                s.live.as_ref().map_or(!s.broken, Live::is_over)
            }
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(flow) => flow.lock().live.as_ref().map_or(SizeHint::new(), |live| live.inner.size_hint()),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // The worker's look may hold it for a moment longer; what it holds goes now.
        if let Self::Stream(flow) = self {
            let held = flow.lock().live.take();
            drop(held);
        }
    }
}
