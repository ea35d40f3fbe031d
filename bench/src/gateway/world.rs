//! Users and the backend, in one thread over one epoll, so that they cost next to nothing beside the proxy between them.
//!
//! Always holds: a user has one request under way and sends the next when its answer is whole; an answer that is not the
//! backend's is an error.

use anyhow::Context;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const BODY: &[u8] = b"hello, twenty bytes!";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\ncontent-type: text/plain\r\n\r\nhello, twenty bytes!";
const REQUEST: &[u8] = b"GET /x HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
const LISTENER: u64 = 0;
/// Users and the backend's connections are told apart by the lowest bit.
const USER: u64 = 1;
const BUFFER_BYTES: usize = 8 << 10;
const EVENTS_MAX: usize = 256;
/// Without an answer for so long the proxy is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(5);

struct User {
    stream: TcpStream,
    sent: Instant,
    held: usize,
    buffer: Vec<u8>,
}

pub struct Load {
    users: Vec<User>,
    pub latencies_us: Vec<u32>,
}

impl Load {
    pub fn forget(&mut self) {
        self.latencies_us.clear();
    }

    pub fn percentile_us(&mut self, percent: usize) -> u32 {
        self.latencies_us.sort_unstable();
        let last = self.latencies_us.len().saturating_sub(1);
        self.latencies_us.get((self.latencies_us.len() * percent / 100).min(last)).copied().unwrap_or(0)
    }
}

pub struct World {
    epoll: Epoll,
    listener: TcpListener,
    served: Vec<Option<TcpStream>>,
}

fn watch<F: std::os::fd::AsFd>(epoll: &Epoll, file: F, data: u64) -> anyhow::Result<()> {
    epoll.add(file, EpollEvent::new(EpollFlags::EPOLLIN, data)).context("watching a connection")
}

impl World {
    pub fn new() -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("making an epoll")?;
        let listener = TcpListener::bind("127.0.0.1:0").context("binding the backend")?;
        listener.set_nonblocking(true)?;
        watch(&epoll, &listener, LISTENER)?;
        Ok(Self { epoll, listener, served: Vec::new() })
    }

    pub fn backend(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    pub fn load(&mut self, to: SocketAddr, connections: usize) -> anyhow::Result<Load> {
        let mut users = Vec::with_capacity(connections);
        for at in 0..connections {
            let mut stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            watch(&self.epoll, &stream, (at as u64) << 1 | USER)?;
            stream.write_all(REQUEST).context("sending the first request")?;
            users.push(User { stream, sent: Instant::now(), held: 0, buffer: vec![0; BUFFER_BYTES] });
        }
        Ok(Load { users, latencies_us: Vec::with_capacity(1 << 20) })
    }

    /// Serves and asks for so long; returns how long it was.
    pub fn run(&mut self, load: &mut Load, length: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let mut last_answer = began;
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        loop {
            let ready = self.epoll.wait(&mut events, EpollTimeout::from(100u8)).context("waiting for events")?;
            let answers = load.latencies_us.len();
            for event in &events[..ready] {
                match event.data() {
                    LISTENER => self.accept()?,
                    data if data & USER == USER => {
                        let user = load.users.get_mut((data >> 1) as usize);
                        if let Some(us) = user.map_or(Ok(None), User::proceed)? {
                            load.latencies_us.push(us);
                        }
                    }
                    data => self.serve((data >> 1) as usize - 1),
                }
            }
            let now = Instant::now();
            if load.latencies_us.len() > answers {
                last_answer = now;
            }
            anyhow::ensure!(now - last_answer < SILENCE_MAX, "no answer for {} s", SILENCE_MAX.as_secs());
            if now - began >= length {
                return Ok(now - began);
            }
        }
    }

    /// Ends the users' connections. The proxies' connections to the backend stay as the proxies like.
    pub fn drop_load(&mut self, load: Load) -> anyhow::Result<()> {
        for user in &load.users {
            self.epoll.delete(&user.stream).context("leaving a connection")?;
        }
        Ok(())
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    let at = self.served.iter().position(Option::is_none).unwrap_or(self.served.len());
                    watch(&self.epoll, &stream, (at as u64 + 1) << 1)?;
                    if at == self.served.len() {
                        self.served.push(None);
                    }
                    self.served[at] = Some(stream);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e).context("accepting a connection of a proxy"),
            }
        }
    }

    /// A proxy's request is small and comes in one piece: one answer for each that is read.
    fn serve(&mut self, at: usize) {
        let Some(place) = self.served.get_mut(at) else { return };
        let Some(stream) = place else { return };
        let mut buffer = [0u8; BUFFER_BYTES];
        let over = match stream.read(&mut buffer) {
            Ok(0) => true,
            Ok(n) => buffer[..n].ends_with(b"\r\n\r\n") && stream.write_all(ANSWER).is_err(),
            Err(e) => e.kind() != ErrorKind::WouldBlock,
        };
        if over {
            // Closing takes it out of the epoll too.
            *place = None;
        }
    }
}

impl User {
    /// Reads; when the answer is whole, tells how long it took and asks again.
    fn proceed(&mut self) -> anyhow::Result<Option<u32>> {
        match self.stream.read(&mut self.buffer[self.held..]) {
            Ok(0) => anyhow::bail!("the proxy closed a connection"),
            Ok(n) => self.held += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e).context("reading an answer"),
        }
        let held = &self.buffer[..self.held];
        if !held.ends_with(BODY) {
            anyhow::ensure!(self.held < BUFFER_BYTES, "an answer that does not end");
            return Ok(None);
        }
        anyhow::ensure!(
            held.starts_with(b"HTTP/1.1 200"),
            "the proxy answered {}",
            String::from_utf8_lossy(&held[..held.len().min(60)])
        );
        let us = u32::try_from(self.sent.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.held = 0;
        self.sent = Instant::now();
        self.stream.write_all(REQUEST).context("sending a request")?;
        Ok(Some(us))
    }
}
