//! HTTP/1.1 to an instance of this cloud, for requests without a body: spoken by the task that serves the user, so that no
//! other task and no channel stand between the two connections. Requests with bodies, upgrades and peers go by `upstream`.
//!
//! Enters: the head of a request. Leaves: the head of its answer, and the body as it arrives.
//! Always holds: a connection serves one request at a time, and another one only after exactly one whole answer was read and
//! nothing behind it; an answer whose end is not certain is an error; heads are bounded.

use crate::chunks::{Chunks, Piece};
use crate::headers::tokens;
use crate::timer::LazyTimer;
use crate::upstream::Pool;
use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version};
use http_body::Frame;
use hyper::ext::ReasonPhrase;
use pumasi_door::Place;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const HEAD_BYTES_MAX: usize = 256 << 10;
const FIELDS_MAX: usize = 100;
const READ_BYTES: usize = 8 << 10;
const READ_BYTES_MAX: usize = 128 << 10;

/// What is sent.
#[derive(Debug)]
pub struct RequestHead<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    /// Left empty once there is an answer: a later one is read into the same memory.
    pub fields: &'a mut HeaderMap,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Fault {
    /// Nothing of the request was sent.
    Unsent(String),
    /// It was sent, in whole or in part.
    Broken(String),
    Timeout,
}

/// How the end of a body is found.
#[derive(Debug)]
enum Framing {
    Length(u64),
    Chunked(Chunks),
    /// It ends with the connection.
    Close,
}

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// All of it came with the head; its connection is in the pool again.
    Whole(Bytes),
    Rest(Box<Rest>),
}

#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    arrived: BytesMut,
    outgoing: Vec<u8>,
    /// Empty, for the fields of the next answer.
    spare: HeaderMap,
    read_bytes: usize,
    timer: LazyTimer,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Box<Self> {
        Box::new(Self {
            stream,
            arrived: BytesMut::new(),
            outgoing: Vec::new(),
            spare: HeaderMap::new(),
            read_bytes: READ_BYTES,
            timer: LazyTimer::default(),
        })
    }

    /// Whether it may take a request: nothing has arrived that nobody asked for, nor its end.
    pub fn is_quiet(&self) -> bool {
        // Told by the runtime's notes of the last events; the system is asked only where they say that there is something.
        match self.stream.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => true,
            Poll::Ready(_) => {
                matches!(self.stream.try_read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
            }
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn exchange(
        mut self: Box<Self>,
        request: &mut RequestHead<'_>,
        timeout: Duration,
        home: (&Arc<Pool>, &Place),
    ) -> Result<Response<Body>, Fault> {
        self.outgoing.clear();
        write_head(&mut self.outgoing, request);
        let deadline = Instant::now() + timeout;
        let mut sent = 0;
        let head = poll_fn(|cx| self.poll_head(cx, request.method, &mut sent, deadline)).await?;
        self.spare = std::mem::take(request.fields);
        self.spare.clear();
        let all_sent = sent == self.outgoing.len();
        let AnswerHead { mut parts, framing, keep_alive } = head;
        let reusable = keep_alive && all_sent;
        let body = match framing {
            None => Some(Bytes::new()),
            Some(Framing::Length(length)) if length <= self.arrived.len() as u64 => {
                Some(self.arrived.split_to(usize::try_from(length).unwrap_or(usize::MAX)).freeze())
            }
            Some(Framing::Chunked(mut chunks)) => match gather(&mut chunks, &mut self.arrived) {
                Ok(Gathered::Whole(bytes)) => Some(bytes),
                Ok(Gathered::Part(ready)) => {
                    return Ok(self.rest(parts, Framing::Chunked(chunks), ready, reusable, home));
                }
                Err(problem) => return Err(Fault::Broken(problem.into())),
            },
            Some(framing) => return Ok(self.rest(parts, framing, VecDeque::new(), reusable, home)),
        };
        if reusable && self.arrived.is_empty() {
            home.0.keep_plain(home.1, self);
        }
        parts.version = Version::HTTP_11;
        Ok(Response::from_parts(parts, Body::Whole(body.unwrap_or_default())))
    }

    fn rest(
        self: Box<Self>,
        mut parts: Parts,
        framing: Framing,
        ready: VecDeque<Frame<Bytes>>,
        reusable: bool,
        home: (&Arc<Pool>, &Place),
    ) -> Response<Body> {
        let (pool, place) = (home.0.clone(), home.1.clone());
        let rest = Rest { ready, connection: Some(self), framing, reusable, pool, place };
        parts.version = Version::HTTP_11;
        Response::from_parts(parts, Body::Rest(Box::new(rest)))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        sent: &mut usize,
        deadline: Instant,
    ) -> Poll<Result<AnswerHead, Fault>> {
        while *sent < self.outgoing.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outgoing[*sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Fault::Broken("it takes no more bytes".into()))),
                Poll::Ready(Ok(n)) => *sent += n,
                Poll::Ready(Err(e)) if *sent == 0 => return Poll::Ready(Err(Fault::Unsent(e.to_string()))),
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Fault::Broken(e.to_string()))),
                Poll::Pending => break,
            }
        }
        while let Poll::Ready(read) = self.poll_fill_head(cx) {
            let told = match read {
                Ok(0) => Err("it closed the connection before its answer was complete".to_owned()),
                Ok(_) => read_head(&mut self.arrived, method, &mut self.spare),
                Err(e) => Err(e.to_string()),
            };
            match told {
                Ok(None) => {}
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Err(problem) => return Poll::Ready(Err(Fault::Broken(problem))),
            }
        }
        if self.timer.expired(cx, deadline) { Poll::Ready(Err(Fault::Timeout)) } else { Poll::Pending }
    }

    /// As `poll_fill`, by way of the stack, which is in the cache: most answers are small, and an idle connection holds little.
    fn poll_fill_head(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let mut place = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut read = ReadBuf::uninit(&mut place);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        self.arrived.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Reads what is there into `arrived`; 0: the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.arrived.reserve(self.read_bytes);
        std::pin::pin!(self.stream.read_buf(&mut self.arrived)).poll(cx)
    }
}

enum Gathered {
    Whole(Bytes),
    Part(VecDeque<Frame<Bytes>>),
}

/// What arrived of a chunked body with its head: most are short, and all there.
fn gather(chunks: &mut Chunks, arrived: &mut BytesMut) -> Result<Gathered, &'static str> {
    let mut ready = VecDeque::new();
    loop {
        match chunks.next(arrived)? {
            Piece::Data(data) => ready.push_back(Frame::data(data)),
            Piece::Trailers(fields) => ready.push_back(Frame::trailers(fields)),
            Piece::More => return Ok(Gathered::Part(ready)),
            Piece::Over if ready.iter().any(Frame::is_trailers) => return Ok(Gathered::Part(ready)),
            Piece::Over => break,
        }
    }
    let mut parts = ready.into_iter().filter_map(|frame| frame.into_data().ok());
    let first = parts.next().unwrap_or_default();
    let Some(second) = parts.next() else { return Ok(Gathered::Whole(first)) };
    let mut all = BytesMut::from(first);
    [second].into_iter().chain(parts).for_each(|part| all.extend_from_slice(&part));
    Ok(Gathered::Whole(all.freeze()))
}

fn write_head(out: &mut Vec<u8>, request: &RequestHead<'_>) {
    let RequestHead { method, uri, fields } = request;
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(uri.path_and_query().map_or("/", |pq| pq.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in fields.iter() {
        // There is no body: nothing may claim one.
        if *name == TRANSFER_ENCODING || (*name == CONTENT_LENGTH && value.as_bytes() != b"0") {
            continue;
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

#[derive(Debug)]
pub struct AnswerHead {
    parts: Parts,
    /// None: there is no body.
    framing: Option<Framing>,
    keep_alive: bool,
}

impl AnswerHead {
    /// For the fuzz targets.
    pub fn told(self) -> (StatusCode, HeaderMap, String, bool) {
        (self.parts.status, self.parts.headers, format!("{:?}", self.framing), self.keep_alive)
    }
}

/// Takes the head of the answer off what arrived, and those of interim answers (1xx) before it; None: it is not complete.
pub fn read_head(arrived: &mut BytesMut, method: &Method, spare: &mut HeaderMap) -> Result<Option<AnswerHead>, String> {
    loop {
        let mut raw = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let length = match parser.parse_response_with_uninit_headers(&mut head, arrived, &mut raw) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
            Ok(httparse::Status::Partial) if arrived.len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(_) => return Err("the head of its answer is too long".into()),
            Err(e) => return Err(format!("its answer does not read: {e}")),
        };
        let status = head.code.and_then(|c| StatusCode::from_u16(c).ok()).ok_or("its status does not read")?;
        let version_11 = head.version == Some(1);
        let reason = head.reason.filter(|r| !r.is_empty() && Some(*r) != status.canonical_reason());
        let reason = reason.and_then(|r| ReasonPhrase::try_from(r.as_bytes()).ok());
        let base = arrived.as_ptr() as usize;
        let mut places = Vec::with_capacity(head.headers.len());
        for field in head.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "a field has a bad name")?;
            let from = field.value.as_ptr() as usize - base;
            places.push((name, from, from + field.value.len()));
        }
        let text = arrived.split_to(length).freeze();
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            if arrived.is_empty() {
                return Ok(None);
            }
            continue;
        }
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = status;
        parts.headers = std::mem::take(spare);
        // The user's side keeps the map for its next request, which is given more fields than it has.
        parts.headers.reserve(places.len().max(16));
        for (name, from, to) in places {
            let value = HeaderValue::from_maybe_shared(text.slice(from..to)).map_err(|_| "a field has a bad value")?;
            parts.headers.append(name, value);
        }
        if let Some(reason) = reason {
            parts.extensions.insert(reason);
        }
        let mut keep_alive = keeps_alive(&parts.headers, version_11);
        let framing = framing(&mut parts, method, version_11, &mut keep_alive)?;
        return Ok(Some(AnswerHead { parts, framing, keep_alive }));
    }
}

fn has_token(fields: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(fields, name).any(|t| t.eq_ignore_ascii_case(token.as_bytes()))
}

fn keeps_alive(fields: &HeaderMap, version_11: bool) -> bool {
    if !fields.contains_key(CONNECTION) {
        return version_11;
    }
    !has_token(fields, &CONNECTION, "close") && (version_11 || has_token(fields, &CONNECTION, "keep-alive"))
}

/// Whether the body is chunked; false: it is as it is. Any other coding was not asked for, and cannot be passed on.
pub fn is_chunked(fields: &HeaderMap) -> Result<bool, String> {
    let mut codings = tokens(fields, &TRANSFER_ENCODING);
    match (codings.next(), codings.next()) {
        (Some(one), None) if one.eq_ignore_ascii_case(b"chunked") => Ok(true),
        (Some(one), None) if one.eq_ignore_ascii_case(b"identity") => Ok(false),
        (None, _) => Ok(false),
        _ => Err("a transfer coding that nobody asked for".into()),
    }
}

/// Where the body ends (RFC 9112, 6.3).
fn framing(
    parts: &mut Parts,
    method: &Method,
    version_11: bool,
    keep_alive: &mut bool,
) -> Result<Option<Framing>, String> {
    let status = parts.status;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        *keep_alive = false;
        return Ok(None);
    }
    if *method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        // Some send it all the same, and later than the head: it would be the next user's answer.
        let said = |value: &HeaderValue| value.as_bytes() != b"0";
        if parts.headers.contains_key(TRANSFER_ENCODING) || parts.headers.get(CONTENT_LENGTH).is_some_and(said) {
            *keep_alive = false;
        }
        return Ok(None);
    }
    if parts.headers.contains_key(TRANSFER_ENCODING) {
        if !version_11 {
            return Err("a transfer coding in an answer of HTTP/1.0".into());
        }
        let chunked = is_chunked(&parts.headers)?;
        if parts.headers.remove(CONTENT_LENGTH).is_some() {
            // Someone on the way may have seen another end: nothing more comes over this connection.
            *keep_alive = false;
        }
        return Ok(Some(if chunked { Framing::Chunked(Chunks::new()) } else { Framing::Close }));
    }
    let (mut length, mut said_by) = (None, 0);
    for value in parts.headers.get_all(CONTENT_LENGTH) {
        for text in value.to_str().unwrap_or_default().split(',') {
            let text = text.trim();
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let said = text.parse::<u64>().ok().filter(|_| digits).ok_or("its length does not read")?;
            if length.is_some_and(|l| l != said) {
                return Err("its answer has two lengths".into());
            }
            length = Some(said);
            said_by += 1;
        }
    }
    if let (Some(length), 2..) = (length, said_by) {
        // Said once, so that nobody further on reads it otherwise.
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(Some(length.map_or(Framing::Close, Framing::Length)))
}

/// A body that is still arriving, with its connection, which goes back to the pool at the end.
#[derive(Debug)]
pub struct Rest {
    /// Came with the head.
    ready: VecDeque<Frame<Bytes>>,
    connection: Option<Box<Connection>>,
    framing: Framing,
    reusable: bool,
    pool: Arc<Pool>,
    place: Place,
}

impl Rest {
    pub fn length(&self) -> Option<u64> {
        if let Framing::Length(left) = self.framing { Some(left) } else { None }
    }

    /// All of it was handed out.
    pub fn is_over(&self) -> bool {
        self.ready.is_empty() && self.connection.is_none()
    }

    fn end(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.reusable
            && connection.arrived.is_empty()
        {
            self.pool.keep_plain(&self.place, connection);
        }
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        if let Some(frame) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let done = ready!(self.poll_piece(cx));
        match done {
            Ok(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            Ok(None) => {
                self.end();
                Poll::Ready(None)
            }
            Err(problem) => {
                self.connection = None;
                Poll::Ready(Some(Err(problem)))
            }
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, String>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(None)) };
            let arrived = &mut connection.arrived;
            match &mut self.framing {
                Framing::Length(0) => return Poll::Ready(Ok(None)),
                Framing::Length(left) if !arrived.is_empty() => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(arrived.len());
                    *left -= take as u64;
                    let data = arrived.split_to(take).freeze();
                    if *left == 0 {
                        self.end();
                    }
                    return Poll::Ready(Ok(Some(Frame::data(data))));
                }
                Framing::Chunked(chunks) => match chunks.next(arrived)? {
                    Piece::Data(data) => return Poll::Ready(Ok(Some(Frame::data(data)))),
                    Piece::Trailers(fields) => return Poll::Ready(Ok(Some(Frame::trailers(fields)))),
                    Piece::Over => return Poll::Ready(Ok(None)),
                    Piece::More => {}
                },
                Framing::Close if !arrived.is_empty() => {
                    return Poll::Ready(Ok(Some(Frame::data(arrived.split().freeze()))));
                }
                Framing::Length(_) | Framing::Close => {}
            }
            match ready!(connection.poll_fill(cx)).map_err(|e| e.to_string())? {
                0 if matches!(self.framing, Framing::Close) => {
                    self.reusable = false;
                    return Poll::Ready(Ok(None));
                }
                0 => return Poll::Ready(Err("the connection closed within the body".to_owned())),
                n if n >= connection.read_bytes => connection.read_bytes = (n * 2).min(READ_BYTES_MAX),
                _ => connection.read_bytes = READ_BYTES,
            }
        }
    }
}
