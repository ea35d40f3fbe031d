//! Bodies on their way through: counted, bounded in size and in standstill; none is buffered whole but short ones of requests that read.

use crate::admission::Permit;
use crate::plain;
use crate::upstream::Loan;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

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

/// Breaks a body that stands still. Costs nothing while frames are ready.
#[derive(Debug)]
struct Standstill {
    after: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Standstill {
    fn new(after_ms: u64) -> Self {
        Self { after: Duration::from_millis(after_ms), timer: None, armed: false }
    }
    fn moved(&mut self) {
        self.armed = false;
    }
    fn expired(&mut self, cx: &mut Context<'_>) -> bool {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.after)));
        if !self.armed {
            timer.as_mut().reset(Instant::now() + self.after);
            self.armed = true;
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

/// What happened to a request's body, seen from outside of the connection that sends it.
#[derive(Debug, Default)]
pub struct Verdict(AtomicU8, AtomicBool);

impl Verdict {
    const TOO_LONG: u8 = 1;
    const CLIENT: u8 = 2;
    const IDLE: u8 = 3;
    pub fn too_long(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::TOO_LONG
    }
    /// Whether some of it was sent since this was last asked.
    pub fn take_moved(&self) -> bool {
        self.1.swap(false, Ordering::Relaxed)
    }
    /// The client, not the backend, is why the request broke.
    pub fn clients_fault(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

/// A request's body on its way to a backend.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    /// Whole, so that it can be sent again.
    Kept(Option<Bytes>),
    Stream(Box<RequestStream>),
}

#[derive(Debug)]
pub struct RequestStream {
    inner: Incoming,
    left: u64,
    standstill: Standstill,
    verdict: Arc<Verdict>,
}

impl RequestBody {
    pub fn stream(inner: Incoming, bytes_max: u64, idle_ms: u64) -> (Self, Arc<Verdict>) {
        let verdict = Arc::new(Verdict::default());
        let stream =
            RequestStream { inner, left: bytes_max, standstill: Standstill::new(idle_ms), verdict: verdict.clone() };
        (Self::Stream(Box::new(stream)), verdict)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let s = match self.get_mut() {
            Self::Stream(s) => s,
            Self::Kept(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Empty => return Poll::Ready(None),
        };
        match Pin::new(&mut s.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                s.standstill.moved();
                let length = frame.data_ref().map_or(0, |d| d.len() as u64);
                if length > s.left {
                    s.verdict.0.store(Verdict::TOO_LONG, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(BodyFault::TooLong)));
                }
                s.left -= length;
                s.verdict.1.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => {
                s.verdict.0.store(Verdict::CLIENT, Ordering::Relaxed);
                Poll::Ready(Some(Err(e.into())))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if s.standstill.expired(cx) => {
                s.verdict.0.store(Verdict::IDLE, Ordering::Relaxed);
                Poll::Ready(Some(Err(BodyFault::Idle)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Kept(bytes) => bytes.is_none(),
            Self::Stream(s) => s.inner.is_end_stream(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Kept(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(s) => s.inner.size_hint(),
        }
    }
}

/// An answer's body on its way to the user. Its place and its connection go back when it ends or is dropped.
#[derive(Debug)]
pub enum AnswerBody {
    Empty,
    Full(Option<Bytes>),
    Stream(Box<AnswerStream>),
}

/// Where the body of an answer comes from.
#[derive(Debug)]
pub enum Source {
    /// By hyper, over a connection that is kept, or not.
    Incoming(Incoming, Option<Loan>),
    Plain(plain::Body),
}

#[derive(Debug)]
enum Inner {
    Incoming(Incoming),
    Plain(Box<plain::Rest>),
}

#[derive(Debug)]
pub struct AnswerStream {
    inner: Inner,
    permit: Option<Permit>,
    loan: Option<Loan>,
    standstill: Standstill,
}

impl AnswerStream {
    fn is_over(&self) -> bool {
        match &self.inner {
            Inner::Incoming(inner) => inner.is_end_stream(),
            Inner::Plain(rest) => rest.is_over(),
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match &mut self.inner {
            Inner::Incoming(inner) => Pin::new(inner).poll_frame(cx).map(|f| f.map(|r| r.map_err(BodyFault::from))),
            Inner::Plain(rest) => rest.poll_frame(cx).map(|f| f.map(|r| r.map_err(BodyFault::Instance))),
        }
    }

    fn drop_connection(&mut self) {
        self.loan = None;
        if let Inner::Plain(rest) = &mut self.inner {
            rest.drop_connection();
        }
    }

    fn ended(&mut self) {
        self.permit = None;
        if let Some(loan) = self.loan.take() {
            loan.give_back();
        }
    }
}

impl AnswerBody {
    pub fn full(bytes: Bytes) -> Self {
        Self::Full(Some(bytes))
    }

    pub fn new(source: Source, mut permit: Permit, idle_ms: u64) -> Self {
        match source {
            Source::Incoming(inner, Some(loan)) if inner.is_end_stream() => {
                drop(permit);
                loan.give_back();
                Self::Empty
            }
            Source::Incoming(inner, loan) => Self::carry(Inner::Incoming(inner), permit, loan, idle_ms),
            Source::Plain(plain::Body::Rest(rest)) => Self::carry(Inner::Plain(rest), permit, None, idle_ms),
            Source::Plain(plain::Body::Whole(bytes)) => {
                permit.add_bytes(bytes.len() as u64);
                if bytes.is_empty() { Self::Empty } else { Self::full(bytes) }
            }
        }
    }

    fn carry(inner: Inner, permit: Permit, loan: Option<Loan>, idle_ms: u64) -> Self {
        let standstill = Standstill::new(idle_ms);
        Self::Stream(Box::new(AnswerStream { inner, permit: Some(permit), loan, standstill }))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let s = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Full(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(s) => s,
        };
        match s.poll_inner(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                s.standstill.moved();
                if let (Some(permit), Some(data)) = (&mut s.permit, frame.data_ref()) {
                    permit.add_bytes(data.len() as u64);
                }
                if s.is_over() {
                    s.ended();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => {
                if let Some(mut permit) = s.permit.take() {
                    permit.failed(crate::admission::Failure::Broken);
                }
                s.drop_connection();
                Poll::Ready(Some(Err(e)))
            }
            Poll::Ready(None) => {
                s.ended();
                Poll::Ready(None)
            }
            Poll::Pending if s.standstill.expired(cx) => {
                s.permit = None;
                s.drop_connection();
                Poll::Ready(Some(Err(BodyFault::Idle)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Stream(s) => s.is_over(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(s) => match &s.inner {
                Inner::Incoming(inner) => inner.size_hint(),
                Inner::Plain(rest) => rest.length().map_or(SizeHint::new(), SizeHint::with_exact),
            },
        }
    }
}
