//! HTTP/2 without TLS on both sides of a gateway: a user whose bodies are written piece by piece, and an instance that answers
//! as they come.

use super::HOST;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A body as it is written.
pub struct Written(mpsc::Receiver<Frame<Bytes>>);

impl Body for Written {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.poll_recv(cx).map(|f| f.map(Ok))
    }
}

/// Writes one. It ends when this is dropped.
pub struct Pen(mpsc::Sender<Frame<Bytes>>);

impl Pen {
    pub fn new() -> (Self, Written) {
        let (tx, rx) = mpsc::channel(4);
        (Self(tx), Written(rx))
    }
    /// False: nobody reads on.
    pub async fn write(&self, data: impl Into<Bytes>) -> bool {
        self.0.send(Frame::data(data.into())).await.is_ok()
    }
    async fn trailers(&self, fields: HeaderMap) {
        let _ = self.0.send(Frame::trailers(fields)).await;
    }
}

/// What one call came to.
#[derive(Debug)]
pub struct Called {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: String,
    pub trailers: HeaderMap,
}

#[derive(Clone)]
pub struct User(SendRequest<Written>);

impl User {
    pub async fn open(gateway: SocketAddr) -> Self {
        let stream = TcpStream::connect(gateway).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = shaken.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }
    pub async fn begin(&mut self, path: &str, body: Written) -> Response<Incoming> {
        let request = Request::post(format!("http://{HOST}{path}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header("cookie", "session=a")
            .body(body)
            .unwrap();
        self.0.send_request(request).await.unwrap()
    }
    pub async fn call(&mut self, path: &str, body: &'static str) -> Called {
        let (pen, written) = Pen::new();
        assert!(pen.write(body).await);
        drop(pen);
        ended(self.begin(path, written).await).await
    }
}

pub async fn ended(answer: Response<Incoming>) -> Called {
    let (head, body) = answer.into_parts();
    let whole = body.collect().await.unwrap();
    let trailers = whole.trailers().cloned().unwrap_or_default();
    let body = String::from_utf8_lossy(&whole.to_bytes()).into_owned();
    Called { status: head.status.as_u16(), fields: head.headers, body, trailers }
}

/// The next piece of an answer.
pub async fn piece(answer: &mut Response<Incoming>) -> Option<String> {
    let frame = answer.body_mut().frame().await?.unwrap();
    Some(String::from_utf8_lossy(&frame.into_data().ok()?).into_owned())
}

/// Speaks HTTP/2 and nothing else.
pub struct Instance {
    pub address: SocketAddr,
    pub connections: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Instance {
    /// `streams_max`: requests that it takes at one time on one connection.
    pub async fn start(name: &'static str, streams_max: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicU32::new(0));
        let count = connections.clone();
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.max_concurrent_streams(streams_max);
                let service = service_fn(move |request| async move { Ok::<_, Infallible>(serve(name, request).await) });
                serving.spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, connections, task }
    }
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::SeqCst)
    }
}

/// `/echo`: each piece as it comes. `/collect`: all pieces at the end. `/count`: ten pieces. `/flood`: without end.
/// `/late`: no head before the body is there. Anything else: the head as it was seen.
async fn serve(name: &'static str, request: Request<Incoming>) -> Response<Written> {
    let (pen, written) = Pen::new();
    let (head, mut body) = request.into_parts();
    if head.uri.path() == "/late" {
        while let Some(Ok(_)) = body.frame().await {}
    }
    tokio::spawn(async move {
        let mut all = Vec::new();
        match head.uri.path() {
            "/count" => {
                for i in 0..10 {
                    pen.write(format!("{i} ")).await;
                }
            }
            "/flood" => while pen.write(vec![b'x'; 16 << 10]).await {},
            path => {
                while let Some(Ok(frame)) = body.frame().await {
                    let Ok(data) = frame.into_data() else { continue };
                    if path == "/echo" {
                        pen.write(data).await;
                    } else {
                        all.extend_from_slice(&data);
                    }
                }
                if path != "/echo" && path != "/collect" {
                    pen.write(format!("{} {} {:?}\n{:?}\n", head.method, head.uri, head.version, head.headers)).await;
                }
                pen.write(all).await;
            }
        }
        let text = HeaderValue::from_static;
        let mut trailers = HeaderMap::new();
        for (field, value) in [("grpc-status", "0"), ("pumasi-refused", "forged"), ("x-app", "own")] {
            trailers.insert(field, text(value));
        }
        pen.trailers(trailers).await;
    });
    Response::builder().header("x-backend", name).header("content-type", "application/grpc").body(written).unwrap()
}
