//! As much of gRPC and of protocol buffers as a handful of etcd's calls need.

use anyhow::{Context, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;

pub type GrpcBody = UnsyncBoxBody<Bytes, Infallible>;

/// Wire type 2: a length and so many bytes.
pub fn bytes_field(to: &mut Vec<u8>, number: u8, value: &[u8]) {
    to.push(number << 3 | 2);
    varint(to, value.len() as u64);
    to.extend_from_slice(value);
}

/// Wire type 0.
pub fn int_field(to: &mut Vec<u8>, number: u8, value: u64) {
    to.push(number << 3);
    varint(to, value);
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    to.push(value.to_le_bytes()[0]);
}

/// One message in its frame: not compressed, its length, its bytes.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// One connection; calls share it.
#[derive(Clone)]
pub struct Channel {
    authority: SocketAddr,
    send: SendRequest<GrpcBody>,
}

impl Channel {
    pub async fn connect(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = tokio::net::TcpStream::connect(to).await.with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true)?;
        let (send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { authority: to, send })
    }

    pub async fn call(&self, path: &str, body: GrpcBody) -> anyhow::Result<Incoming> {
        let request = hyper::Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)?;
        let mut send = self.send.clone();
        send.ready().await?;
        let answer = send.send_request(request).await?;
        ensure!(answer.status() == 200, "{path}: {}", answer.status());
        check(path, answer.headers().get("grpc-status"))?;
        Ok(answer.into_body())
    }

    /// One message there, one back.
    pub async fn unary(&self, path: &str, message: &[u8]) -> anyhow::Result<()> {
        let body = self.call(path, Full::new(framed(message)).boxed_unsync()).await?;
        ensure!(!body.is_end_stream(), "{path}: an empty answer");
        let whole = body.collect().await?;
        let status = whole.trailers().and_then(|t| t.get("grpc-status")).cloned();
        ensure!(status.is_some(), "{path}: an answer without a status");
        check(path, status.as_ref())
    }
}

fn check(path: &str, status: Option<&hyper::header::HeaderValue>) -> anyhow::Result<()> {
    ensure!(status.is_none_or(|s| s == "0"), "{path}: status {status:?}");
    Ok(())
}
