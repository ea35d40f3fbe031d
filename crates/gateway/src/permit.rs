//! A request's right to be at a backend, from the hand-over to the end of its answer.
//!
//! Always holds: a place is held while the instance works: from the hand-over of a request that is there to the head of its
//! answer. A body that a user still sends and a body that a user still takes hold none; they are streams, bounded by
//! themselves, and what they do to times is not measured. What is held comes back exactly once.

use crate::admission::{Admission, Destination};
use crate::clock::boot_us;
use crate::gate::Pass;
use crate::slot::{Failure, Slot};
use pumasi_sense::meter::ServiceMeter;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Place,
    /// The user still sends the body.
    Upload,
    Nothing,
}

/// A place at one backend. Dropping it gives the place back.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    slot: u32,
    home: bool,
    destination: Arc<Destination>,
    entered_with: u32,
    since_us: u64,
    /// How long the instance worked, where its answer waits for something else since.
    worked_us: Option<u64>,
    holds: Holds,
}

/// No more streams fit beside those that an instance has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyStreams;

impl Permit {
    pub(crate) fn new(admission: Arc<Admission>, slot: &Slot, now_us: u64) -> Self {
        Self {
            admission,
            slot: slot.id,
            home: slot.spec.is_home(),
            destination: slot.spec.destination.clone(),
            entered_with: slot.entered_with(),
            since_us: now_us,
            worked_us: None,
            holds: Holds::Place,
        }
    }

    pub fn destination(&self) -> &Arc<Destination> {
        &self.destination
    }
    pub fn slot(&self) -> u32 {
        self.slot
    }
    pub fn is_home(&self) -> bool {
        self.home
    }
    /// Whether the table does not have its backend any more.
    pub fn is_gone(&self) -> bool {
        self.admission.lock().slots.iter().any(|slot| slot.id == self.slot && slot.gone)
    }

    /// What is held goes back to `slot`; true: nothing can be told from how long it took.
    fn give_back(&mut self, slot: &mut Slot) -> bool {
        slot.health.probing = false;
        match std::mem::replace(&mut self.holds, Holds::Nothing) {
            Holds::Place => slot.leave(self.since_us),
            Holds::Upload => {
                slot.streams = slot.streams.saturating_sub(1);
                true
            }
            Holds::Nothing => true,
        }
    }

    fn answer(&mut self, slot: &mut Slot, meter: &mut ServiceMeter, now_us: u64, status: u16, rtt_us: Option<u32>) {
        let failed = status >= 500;
        let worked_us = self.worked_us.take();
        let app_us = worked_us.unwrap_or_else(|| now_us.saturating_sub(self.since_us));
        let waited = self.give_back(slot) && worked_us.is_none();
        meter.completed += 1;
        meter.failed += u64::from(failed);
        if !waited {
            meter.app_time.record(app_us);
        }
        if let Some(rtt) = rtt_us {
            meter.user_rtt.record(u64::from(rtt));
        }
        slot.answered(now_us, self.entered_with, app_us, failed, waited);
    }

    /// The answer is there, `bytes` of body with its head.
    pub fn answered(mut self, status: u16, user_rtt_us: Option<u32>, bytes: u64) {
        let admission = self.admission.clone();
        admission.change(self.slot, |slot, meter, now| {
            self.answer(slot, meter, now, status, user_rtt_us);
            slot.meter.bytes_out += bytes;
        });
    }

    /// The head of the answer is there, and its body goes on. At most `max` do so for each of the backend's instances.
    pub fn streams(mut self, status: u16, user_rtt_us: Option<u32>, max: u32) -> Result<Stream, TooManyStreams> {
        let mut taken = false;
        let admission = self.admission.clone();
        admission.change(self.slot, |slot, meter, now| {
            self.answer(slot, meter, now, status, user_rtt_us);
            taken = slot.take_stream(max);
        });
        if taken { Ok(self.stream(false)) } else { Err(TooManyStreams) }
    }

    /// The request became an upgraded connection.
    pub fn into_tunnel(mut self, user_rtt_us: Option<u32>) -> Stream {
        let admission = self.admission.clone();
        admission.change(self.slot, |slot, meter, now| {
            self.answer(slot, meter, now, 101, user_rtt_us);
            slot.tunnels += 1;
        });
        self.stream(true)
    }

    fn stream(&self, tunnel: bool) -> Stream {
        Stream { admission: self.admission.clone(), slot: self.slot, tunnel, bytes_out: 0, pass: None }
    }

    /// The user is not done with sending the body: the place is given back, and a stream's room is taken.
    pub fn lapse(&mut self, max: u32) -> Result<(), TooManyStreams> {
        let mut taken = false;
        let admission = self.admission.clone();
        admission.change(self.slot, |slot, _, _| {
            self.give_back(slot);
            taken = slot.take_stream(max);
        });
        if taken {
            self.holds = Holds::Upload;
            return Ok(());
        }
        Err(TooManyStreams)
    }

    /// The head of the answer is there, and waits for what has nothing to do with the instance: the place is given back, and a stream's room
    /// is taken.
    pub fn worked(&mut self, max: u32) -> Result<(), TooManyStreams> {
        let mut taken = false;
        let admission = self.admission.clone();
        admission.change(self.slot, |slot, _, now| {
            let work_us = now.saturating_sub(self.since_us);
            self.worked_us = (!self.give_back(slot)).then_some(work_us);
            taken = slot.take_stream(max);
        });
        if taken {
            self.holds = Holds::Upload;
            return Ok(());
        }
        Err(TooManyStreams)
    }

    /// All of the body is there now: the instance works. It does so whether or not a place is free; others wait the longer.
    pub fn resume(&mut self) {
        if self.holds != Holds::Upload {
            return;
        }
        let admission = self.admission.clone();
        admission.change(self.slot, |slot, _, now| {
            self.give_back(slot);
            slot.enter(now);
            (self.holds, self.since_us, self.entered_with) = (Holds::Place, now, slot.entered_with());
        });
    }

    /// The backend did not do its part.
    pub fn failed(self, failure: Failure) {
        let now = boot_us();
        let mut inner = self.admission.lock();
        if failure == Failure::Broken {
            inner.meter.failed += 1;
        }
        if let Some(slot) = inner.slots.iter_mut().find(|s| s.id == self.slot) {
            slot.meter.failed += u64::from(matches!(failure, Failure::Connect | Failure::Broken));
            match failure {
                Failure::Connect | Failure::Refused => slot.set_aside(now),
                // One that answers others is alive, and was given more than it takes.
                Failure::Full if slot.answers(now) => slot.limiter.overrun(now, self.entered_with),
                Failure::Full => {
                    slot.meter.failed += 1;
                    slot.set_aside(now);
                }
                Failure::Broken | Failure::Busy => {}
            }
        }
        drop(inner);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.holds != Holds::Nothing {
            let admission = self.admission.clone();
            admission.change(self.slot, |slot, _, _| {
                self.give_back(slot);
            });
        }
    }
}

/// The body of an answer on its way to the user, or an upgraded connection, counted at its backend until it is dropped.
#[derive(Debug)]
pub struct Stream {
    admission: Arc<Admission>,
    slot: u32,
    tunnel: bool,
    bytes_out: u64,
    pass: Option<Pass>,
}

impl Stream {
    /// Of a request that may write: it is under way as long as this is.
    pub fn carry(&mut self, pass: Option<Pass>) {
        self.pass = pass;
    }

    /// Returns when an upgraded connection has to end; never, where it was opened for a cloud that writes elsewhere.
    pub async fn over(&self) {
        match &self.pass {
            Some(pass) => pass.over().await,
            None => std::future::pending().await,
        }
    }

    /// What was sent of it, told at its end.
    pub fn add_bytes(&mut self, bytes: u64) {
        self.bytes_out += bytes;
    }

    /// The instance broke it off.
    pub fn failed(self) {
        let mut inner = self.admission.lock();
        inner.meter.failed += 1;
        if let Some(slot) = inner.slots.iter_mut().find(|s| s.id == self.slot) {
            slot.meter.failed += 1;
        }
        drop(inner);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.admission.change(self.slot, |slot, _, _| {
            slot.meter.bytes_out += self.bytes_out;
            let count = if self.tunnel { &mut slot.tunnels } else { &mut slot.streams };
            *count = count.saturating_sub(1);
        });
    }
}
