//! Applications that borrowing cannot help, for the judge.

use super::http::{Answer, App, Asked};
use super::tickets::Tickets;
use super::{Breakage, ExampleError};
use http::StatusCode;
use std::sync::atomic::{AtomicU64, Ordering};

/// `slow-one`: one request in so many is long, by work.
#[derive(Debug)]
pub struct SlowOne {
    tickets: Tickets,
    work: u32,
    slow_work: u32,
    every: u64,
    count: AtomicU64,
}

impl SlowOne {
    pub fn new(work: u32, slow_work: u32, every: u64) -> Self {
        Self { tickets: Tickets::new(work), work, slow_work, every, count: AtomicU64::new(0) }
    }
}

impl App for SlowOne {
    fn answer(&self, asked: &Asked) -> Option<Answer> {
        let nth = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let work = if nth.is_multiple_of(self.every) { self.slow_work } else { self.work };
        Some(self.tickets.sell(asked, work))
    }
}

/// `broken`: looks well to its health check and fails its users.
#[derive(Debug)]
pub struct Broken {
    tickets: Tickets,
    work: u32,
    breakage: Breakage,
    every: u64,
    count: AtomicU64,
}

impl Broken {
    pub fn new(work: u32, breakage: Breakage, every: u64) -> Result<Self, ExampleError> {
        match breakage {
            Breakage::AtStart => Err(ExampleError::Broken),
            _ => Ok(Self { tickets: Tickets::new(work), work, breakage, every, count: AtomicU64::new(0) }),
        }
    }
}

impl App for Broken {
    fn answer(&self, asked: &Asked) -> Option<Answer> {
        let nth = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if !nth.is_multiple_of(self.every) {
            return Some(self.tickets.sell(asked, self.work));
        }
        match self.breakage {
            Breakage::Exit => std::process::exit(1),
            Breakage::Hang => None,
            Breakage::Answer500 | Breakage::AtStart => {
                Some(Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "null pointer where a seat should be"))
            }
        }
    }
}
