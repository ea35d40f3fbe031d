//! The work on a tenant's bytes, as a helper does it that may be a process of its own.
//!
//! Enters: requests of one daemon over one line. Leaves: replies, and a tenant's files read or written.
//! Always holds: one thing is open for a helper's whole life (a dataset at home, or the copies of one lease); nothing beside it is
//! touched; a request is answered before the next is read. What it is that a helper may reach at all is not decided here.

mod far;
mod home;
mod words;

pub use far::unpacked;
pub use words::{
    BODY_BYTES_MAX, FarPlace, HomePlace, Refusal, Reply, Request, Set, VERSION, Why, digests_of, digests_to_bytes,
    head_of, lengths,
};

use crate::aside::Aside;
use std::io::{self, Read, Write};

/// One helper's work, wherever it runs.
#[derive(Debug, Default)]
pub struct Work {
    open: Option<Open>,
}

#[derive(Debug)]
enum Open {
    Home(Box<home::Home>),
    Far(Box<far::Far>),
    Aside(Box<Aside>),
}

impl Work {
    pub fn answer(&mut self, request: Request, body: &[u8]) -> (Reply, Vec<u8>) {
        self.decide(request, body).unwrap_or_else(|refusal| (Reply::Refused(refusal), Vec::new()))
    }

    fn decide(&mut self, request: Request, body: &[u8]) -> Result<(Reply, Vec<u8>), Refusal> {
        let version = |found: u32| match found {
            VERSION => Ok(()),
            _ => {
                let text = format!("version {found} was asked of a helper of version {VERSION}; start another");
                Err(Refusal::new(Why::Unasked, text))
            }
        };
        match (&mut self.open, request) {
            (None, Request::OpenHome(place)) => {
                version(place.version)?;
                self.open = Some(Open::Home(Box::new(home::Home::open(&place)?)));
                Ok((Reply::Done, Vec::new()))
            }
            (None, Request::OpenFar(place)) => {
                version(place.version)?;
                self.open = Some(Open::Far(Box::new(far::Far::open(place)?)));
                Ok((Reply::Done, Vec::new()))
            }
            (None, Request::OpenAside(place)) => {
                self.open = Some(Open::Aside(Box::new(Aside::open(place)?)));
                Ok((Reply::Done, Vec::new()))
            }
            (Some(Open::Aside(aside)), Request::Compare { set }) => aside.compare(&set),
            (Some(Open::Aside(aside)), Request::Archive { sets }) => aside.begin(&sets),
            (Some(Open::Aside(aside)), Request::Piece) => aside.piece(),
            (Some(Open::Home(home)), Request::Look { now_ms }) => home.look(now_ms),
            (Some(Open::Home(home)), Request::Base { now_ms }) => home.base(now_ms),
            (Some(Open::Home(home)), Request::Pack) => home.pack(body),
            (Some(Open::Home(home)), Request::Told { held }) => home.told(held),
            (Some(Open::Home(home)), Request::Digest) => home.digest(),
            (Some(Open::Home(home)), Request::Demote { base }) => home.demote(base, body),
            (Some(Open::Far(far)), Request::Missing) => far.missing(body),
            (Some(Open::Far(far)), Request::Receive) => far.receive(body),
            (Some(Open::Far(far)), Request::Unpack { digest }) => far.unpack(&digest),
            (Some(Open::Far(far)), Request::Put { set, to, digest }) => far.put(&set, &digest, to),
            (Some(Open::Far(far)), Request::Change { set }) => far.change(&set, body),
            (Some(Open::Far(far)), Request::Hold { sets }) => far.hold(&sets),
            (Some(Open::Far(far)), Request::Promote { set }) => far.promote(&set),
            (Some(Open::Far(far)), Request::Adopt { set, base }) => far.adopt(&set, base),
            (Some(Open::Far(far)), Request::CopyDigest { set }) => far.digest(&set),
            _ => Err(Refusal::new(Why::Unasked, "that does not fit what was opened")),
        }
    }
}

/// Answers until the other side closes the line.
pub fn serve(line: &mut (impl Read + Write)) -> io::Result<()> {
    let mut work = Work::default();
    while let Some((request, body)) = words::read::<Request>(line)? {
        let (reply, body) = work.answer(request, &body);
        words::write(line, &reply, &body)?;
    }
    Ok(())
}
