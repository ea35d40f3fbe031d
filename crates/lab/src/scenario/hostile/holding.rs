//! Users who take places and give nothing back: bytes that stop, bodies that drip, answers that nobody reads.
//!
//! Ordinary users of the same service must not notice, and what only waits must not look like overload.

use super::resources::{beside, ordinary};
use super::stage::{HOME, Stage, VICTIM};
use crate::report::{Promise, Report};
use anyhow::ensure;
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Not the address of the ordinary users: one address has a share of its own.
const FROM: Ipv4Addr = Ipv4Addr::new(127, 66, 6, 6);
/// 2,000 connections a second: more would measure who gets the processors that attackers and gateway share here.
const KNOCKERS: usize = 32;
const KNOCK_EVERY: Duration = Duration::from_millis(16);
const MANY: usize = 1_000;
const HELD: usize = 60;
/// For all of them to be there.
const SETTLE: Duration = Duration::from_millis(2_500);
/// The instance does its own part of what was asked, within a fifth of a processor: that is over once it answers in time again.
const BUSY_MAX: Duration = Duration::from_secs(20);
const IN_TIME: u32 = 3;
/// An ordinary answer takes 25 ms of a fifth of a processor.
const USERS_P99_MS: f64 = 250.0;

#[derive(Debug, Clone, Copy)]
enum Hold {
    OneByteAndGone,
    HalfHeads,
    Uploads,
    Streams,
    LongPolls,
    Unread,
    ZeroWindow,
}

const ALL: [(Hold, &str); 7] = [
    (Hold::OneByteAndGone, "one byte and gone, again and again"),
    (Hold::HalfHeads, "1,000 half heads"),
    (Hold::Uploads, "60 uploads that send one byte"),
    (Hold::Streams, "60 event streams"),
    (Hold::LongPolls, "60 long polls"),
    (Hold::Unread, "60 large answers that nobody reads"),
    (Hold::ZeroWindow, "60 answers over one connection of HTTP/2 without a window"),
];

pub async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    stage.story.chapter("Users who hold on to what they get");
    let (at, host) = (stage.cluster.place(HOME)?.users, format!("{VICTIM}.{HOME}.example"));
    let before = stage.verdicts(VICTIM);
    for (hold, name) in ALL {
        let count = Arc::new(AtomicUsize::new(0));
        let mut held = hold.begin(at, &host, &count);
        tokio::time::sleep(SETTLE).await;
        let busy = until_in_time(at, &host).await;
        let mut seen = beside(stage).await?;
        seen.count_failed(busy.failed);
        held.shutdown().await;
        let count = count.load(Ordering::Relaxed);
        let there = format!("{count} of at least {} began", hold.least());
        // An attack that did not take place proves nothing.
        ensure!(count >= hold.least(), "{name}: only {count} could be begun");
        stage.story.tell("users", "hold on", format!("{name}: {there}; {seen:?}"));
        let (p99_ms, failed) = (seen.neighbour_p99_ms, seen.neighbour_failed.values().sum::<u64>());
        report.figure(&format!("beside {name}"), format!("p99 {p99_ms:.1} ms, {failed} failed"), there.clone());
        report.figure(
            &format!("busy with {name}"),
            format!("{:.1} s", busy.lasted.as_secs_f64()),
            "until answers came in time",
        );
        report.promise(seen.none_failed(&format!("{name}: ordinary requests that failed")));
        report.promise(Promise::within_ms(&format!("{name}: ordinary p99"), Some(p99_ms), USERS_P99_MS));
    }
    let verdicts = stage.verdicts(VICTIM) - before;
    report.promise(Promise::none("users who hold on: verdicts of overload", verdicts as u64));
    Ok(())
}

struct Busy {
    lasted: Duration,
    failed: Vec<String>,
}

/// Ordinary requests, until some in a row were answered in time. None may fail meanwhile.
async fn until_in_time(at: SocketAddr, host: &str) -> Busy {
    let (begun, mut in_time, mut failed) = (Instant::now(), 0, Vec::new());
    while in_time < IN_TIME && begun.elapsed() < BUSY_MAX {
        let asked = Instant::now();
        failed.extend(ordinary(at, host).await.err());
        in_time = if asked.elapsed().as_secs_f64() * 1e3 <= USERS_P99_MS { in_time + 1 } else { 0 };
    }
    Busy { lasted: begun.elapsed(), failed }
}

type Count = Arc<AtomicUsize>;

impl Hold {
    fn begin(self, at: SocketAddr, host: &str, count: &Count) -> JoinSet<()> {
        let mut all = JoinSet::new();
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let upload = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\nx");
        let says = match self {
            Hold::OneByteAndGone => {
                (0..KNOCKERS).for_each(|_| drop(all.spawn(knock(at, Arc::clone(count)))));
                return all;
            }
            Hold::ZeroWindow => {
                all.spawn(without_window(at, host.to_owned(), Arc::clone(count)));
                return all;
            }
            Hold::HalfHeads => "GET / HTTP/1.1\r\nHo".to_owned(),
            Hold::Uploads => upload,
            Hold::Streams => get("/stream"),
            Hold::LongPolls => get("/poll"),
            Hold::Unread => get("/large"),
        };
        (0..self.least()).for_each(|_| drop(all.spawn(says_and_waits(at, says.clone(), Arc::clone(count)))));
        all
    }

    fn least(self) -> usize {
        match self {
            Hold::OneByteAndGone | Hold::HalfHeads => MANY,
            _ => HELD,
        }
    }
}

async fn says_and_waits(at: SocketAddr, says: String, count: Count) {
    let Some(mut stream) = connect(at).await else { return };
    if stream.write_all(says.as_bytes()).await.is_ok() {
        count.fetch_add(1, Ordering::Relaxed);
    }
    std::future::pending().await
}

async fn connect(at: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind((FROM, 0).into()).ok()?;
    tokio::time::timeout(Duration::from_secs(5), socket.connect(at)).await.ok()?.ok()
}

async fn knock(at: SocketAddr, count: Count) {
    loop {
        if let Some(mut stream) = connect(at).await {
            count.fetch_add(usize::from(stream.write_all(b"P").await.is_ok()), Ordering::Relaxed);
        }
        tokio::time::sleep(KNOCK_EVERY).await;
    }
}

async fn without_window(at: SocketAddr, host: String, count: Count) {
    let Some(stream) = connect(at).await else { return };
    let shaken = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await;
    let Ok((sender, connection)) = shaken else { return };
    let mut driven = JoinSet::new();
    driven.spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..HELD {
        let Ok(request) = http::Request::get(format!("http://{host}/large")).body(Empty::<Bytes>::new()) else {
            continue;
        };
        if let Ok(answer) = sender.clone().send_request(request).await {
            count.fetch_add(usize::from(answer.status().is_success()), Ordering::Relaxed);
            answers.push(answer);
        }
    }
    std::future::pending().await
}
