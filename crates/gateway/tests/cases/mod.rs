//! What a gateway must do with what users and instances may send, as a list of cases: played against ours in `cargo test`, and
//! beside HAProxy and nginx by the example `cases` (docs/gateway-cases.md).
//!
//! Always holds: a case says what must hold for any intermediary by RFC 9110 and 9112, or what its name says; what counts is what the
//! instance read and what the users got, not how it was refused.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod bodies;
mod fields;
mod heads;
mod instance;
mod paths;
mod upgrades;

pub use instance::{Conduct, Instance, Seen};

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// One piece of what users send: by whom, and the bytes. `{}` in a text of a case is nothing special.
pub type Step = (usize, &'static [u8]);

pub struct Case {
    pub subject: &'static str,
    pub name: &'static str,
    pub steps: Vec<(usize, Vec<u8>)>,
    pub instance: Conduct,
    pub holds: fn(&Outcome) -> bool,
    /// Why ours does otherwise.
    pub ours_fails: Option<&'static str>,
    /// How long nothing may come before it is over.
    pub quiet: Duration,
}

const QUIET: Duration = Duration::from_millis(150);
const ANSWER_MAX: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(25);

impl Case {
    /// One user who sends these bytes to an ordinary instance.
    pub fn new(name: &'static str, bytes: impl AsRef<[u8]>, holds: fn(&Outcome) -> bool) -> Self {
        let steps = vec![(0, bytes.as_ref().to_vec())];
        Self { subject: "", name, steps, instance: Conduct::Ordinary, holds, ours_fails: None, quiet: QUIET }
    }
    pub fn then(mut self, user: usize, bytes: impl AsRef<[u8]>) -> Self {
        self.steps.push((user, bytes.as_ref().to_vec()));
        self
    }
    pub fn before(mut self, instance: Conduct) -> Self {
        self.instance = instance;
        self
    }
    pub fn ours_fails(mut self, why: &'static str) -> Self {
        self.ours_fails = Some(why);
        self
    }
    pub fn quiet(mut self, quiet: Duration) -> Self {
        self.quiet = quiet;
        self
    }
}

pub fn all() -> Vec<Case> {
    let lists = [
        ("heads", heads::list()),
        ("lengths and chunks", bodies::list()),
        ("answers", answers::list()),
        ("upgrades and expectations", upgrades::list()),
        ("fields", fields::list()),
        ("paths under a rule", paths::list()),
    ];
    let name = |(subject, list): (&'static str, Vec<Case>)| list.into_iter().map(move |c| Case { subject, ..c });
    lists.into_iter().flat_map(name).collect()
}

/// What a user got.
#[derive(Debug, Default, Clone)]
pub struct Got {
    pub bytes: Vec<u8>,
    pub closed: bool,
}

#[derive(Debug)]
pub struct Outcome {
    pub users: Vec<Got>,
    pub seen: Seen,
    /// How this proxy shows that its rule for `/admin` took hold: a text in the answer.
    pub rule: &'static str,
}

impl Outcome {
    fn text(&self, user: usize) -> String {
        String::from_utf8_lossy(&self.users[user].bytes).into_owned()
    }
    /// Of all final answers of a user, as far as they stand at the beginning of a line.
    pub fn statuses(&self, user: usize) -> Vec<u16> {
        let text = self.text(user);
        let starts = text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
        starts.filter(|s| *s >= 200 || *s == 101).collect()
    }
    pub fn status(&self) -> u16 {
        self.statuses(0).first().copied().unwrap_or(0)
    }
    /// The instance read nothing, and the user was told so or cut off.
    pub fn refused(&self) -> bool {
        let told = self.status() >= 400 || (self.users[0].bytes.is_empty() && self.users[0].closed);
        self.seen.requests.is_empty() && !self.seen.garbage && told
    }
    /// The instance read so many requests, all of them well formed, and the first user got as many answers of it.
    pub fn passed(&self, count: usize) -> bool {
        self.read(count) && self.statuses(0) == vec![200; count]
    }
    pub fn read(&self, count: usize) -> bool {
        self.seen.requests.len() == count && !self.seen.garbage
    }
    /// Nothing that stands in a body or behind a refusal was taken for a request.
    pub fn unsmuggled(&self) -> bool {
        !self.seen.garbage && self.seen.requests.iter().all(|r| !r.target().contains("smuggled"))
    }
    /// Refused, or passed on as the one request that it is.
    pub fn one_or_refused(&self) -> bool {
        self.refused() || (self.read(1) && self.unsmuggled())
    }
    /// In the heads that the instance read, in lower case.
    pub fn head_has(&self, text: &str) -> bool {
        self.seen.requests.iter().any(|r| r.head.to_ascii_lowercase().contains(text))
    }
    pub fn body_is(&self, body: &str) -> bool {
        self.seen.requests.first().is_some_and(|r| r.body == body.as_bytes())
    }
    pub fn user_has(&self, user: usize, text: &str) -> bool {
        self.text(user).to_ascii_lowercase().contains(text)
    }
    pub fn ruled(&self) -> bool {
        self.user_has(0, self.rule) || self.refused()
    }
}

/// Plays one case against what listens at `proxy`, with `instance` behind it.
pub fn play(case: &Case, proxy: SocketAddr, instance: &Instance, rule: &'static str) -> Outcome {
    instance.begin(case.instance);
    let count = case.steps.iter().map(|(user, _)| user + 1).max().unwrap_or(1);
    let mut users: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    let mut got = vec![Got::default(); count];
    for (at, (user, bytes)) in case.steps.iter().enumerate() {
        let stream = users[*user].get_or_insert_with(|| {
            let stream = TcpStream::connect(proxy).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        });
        // Whoever is refused may be cut off before all is written.
        let _ = stream.write_all(bytes);
        if at + 1 < case.steps.len() {
            listen(stream, &mut got[*user], PAUSE, PAUSE * 8);
        }
    }
    for (user, stream) in users.iter_mut().enumerate() {
        let Some(stream) = stream else { continue };
        let first = if got[user].bytes.is_empty() { ANSWER_MAX } else { case.quiet };
        listen(stream, &mut got[user], case.quiet, first.max(case.quiet));
    }
    Outcome { users: got, seen: instance.end(), rule }
}

/// Until nothing has come for `quiet`, or until the end; the first byte may take `first`.
fn listen(stream: &mut TcpStream, got: &mut Got, quiet: Duration, first: Duration) {
    let mut buffer = [0u8; 64 << 10];
    let mut until = Instant::now() + first;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
        let _ = stream.set_read_timeout(Some(left));
        match stream.read(&mut buffer) {
            Ok(0) => return got.closed = true,
            Ok(n) => {
                got.bytes.extend_from_slice(&buffer[..n]);
                until = Instant::now() + quiet;
            }
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => return,
            Err(_) => return got.closed = true,
        }
    }
}

/// A request without a body: what stands behind the first line is given.
pub fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")
}

/// A request with a body as it is given.
pub fn post(fields: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n{body}")
}
