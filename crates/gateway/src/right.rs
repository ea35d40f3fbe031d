//! The rules by which one service's requests that may write are let in: open, shut, or held while the service is handed over.
//!
//! Enters: the table's entry of the service, what the daemon last said of this cloud's tenure, the instant. Leaves: for each such
//! request whether it goes in, waits or is refused. Always holds: nothing writes for a bound service but within the right last
//! told, at its epoch; a hold ends by the daemon's word alone, tenure or table (after its time those that wait are refused, and
//! nobody is let in).
//!
//! Pure: no clock, no sockets. The gateway's [`gate`](crate::gate) and the simulator's gateway both decide by it.

use pumasi_route::table::{InStep, ServiceRoute, Writes};
use pumasi_route::tenure::Tenure;
use pumasi_terms::{BootMs, Epoch, ServiceName};

/// The longest that a hold has requests wait, from the message that began it, ms.
pub const HOLD_MS_MAX: u64 = 2_000;
/// Those that only read wait longer, from the same message: nothing of theirs can be executed twice, and where a daemon dies on the way
/// this is the difference between a slow answer and none.
pub const READS_HOLD_MS_MAX: u64 = 5_000;
/// So many wait at one service. Their bodies stay with their users: none is read before.
pub const WAITING_MAX: u32 = 512;
/// So many of those that only read: there are more of them, and they have no bodies.
pub const READS_WAITING_MAX: u32 = 2_048;

/// What the table in force says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub owner: bool,
    pub writes: Writes,
    pub epoch: Epoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hold {
    epoch: Epoch,
    since: BootMs,
    until: BootMs,
    reads: bool,
}

impl Hold {
    fn ends(self, writes: bool) -> BootMs {
        if writes { self.until } else { self.since.after(READS_HOLD_MS_MAX) }
    }
}

/// What becomes of a request that may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is counted as inside until [`Right::leave`].
    In,
    /// The service is held.
    Wait,
    /// No right to write.
    Shut,
    /// What would be acknowledged has to be in another cloud, and none is in step.
    Unkept,
}

/// What the daemon is told of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldNow {
    pub until: BootMs,
    pub inside: u32,
    pub waiting: u32,
}

/// The right to write for one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Right {
    /// None: the table does not have the service, or not any more.
    pub(crate) entry: Option<Entry>,
    /// What its answers wait for; see [`commit`](crate::commit).
    pub(crate) in_step: Option<InStep>,
    /// As the tenure has them.
    until: BootMs,
    owned_at: Option<Epoch>,
    hold: Option<Hold>,
    inside: u32,
    waiting: u32,
    reads_waiting: u32,
}

impl Right {
    /// Puts a table's entry and the tenure in force. A hold that is told again does not grow longer.
    pub fn set(&mut self, name: &ServiceName, route: Option<&ServiceRoute>, tenure: Option<&Tenure>, now: BootMs) {
        let entry = |r: &ServiceRoute| Entry { owner: r.role.is_owner(), writes: r.writes, epoch: r.epoch };
        self.entry = route.map(entry);
        self.in_step = route.filter(|r| r.role.is_owner()).and_then(|r| r.in_step.clone());
        self.until = tenure.and_then(|t| t.until(name)).unwrap_or_default();
        self.owned_at = tenure.and_then(|t| t.epochs.get(name).copied());
        let before = self.hold;
        self.hold = tenure.and_then(|t| t.held.get(name)).map(|held| {
            let since = before.filter(|hold| hold.epoch == held.epoch).map_or(now, |hold| hold.since);
            let until = held.until.min(since.after(HOLD_MS_MAX));
            Hold { epoch: held.epoch, since, until, reads: held.reads }
        });
    }

    /// Whether those that wait, or have a connection open, must look again. The end of the right alone, where it only grew, is
    /// no reason.
    pub fn differs(&self, before: &Self) -> bool {
        (self.entry, self.owned_at, self.hold) != (before.entry, before.owned_at, before.hold)
            || self.until < before.until
    }

    /// Whether what began at `epoch` may write, or let go of an answer, now.
    pub fn may_write(&self, epoch: Epoch, now: BootMs) -> bool {
        self.entry.is_some_and(|entry| {
            let in_time = || self.owned_at == Some(epoch) && now < self.until;
            entry.owner && entry.epoch == epoch && (entry.writes == Writes::Unbound || in_time())
        })
    }

    /// The hold that what began at `epoch` is under.
    fn hold(&self, epoch: Epoch) -> Option<Hold> {
        self.hold.filter(|hold| hold.epoch == epoch && self.entry.is_some_and(|entry| entry.epoch == epoch))
    }

    pub fn is_held(&self, epoch: Epoch) -> bool {
        self.hold(epoch).is_some()
    }

    /// Whether one that only reads has to wait.
    pub fn holds_reads(&self, epoch: Epoch) -> bool {
        self.hold(epoch).is_some_and(|hold| hold.reads)
    }

    /// Whether any may have to.
    pub fn may_hold_reads(&self) -> bool {
        self.hold.is_some_and(|hold| hold.reads)
    }

    /// What becomes of a request by the entry in force. None: this cloud is no owner, and sends it on to the one that is.
    pub fn turn(&mut self, now: BootMs) -> Option<Turn> {
        let entry = self.entry?;
        match entry.owner {
            true => Some(self.enter(entry.epoch, now)),
            false => self.is_held(entry.epoch).then_some(Turn::Wait),
        }
    }

    /// At the owner.
    pub fn enter(&mut self, epoch: Epoch, now: BootMs) -> Turn {
        if self.is_held(epoch) {
            return Turn::Wait;
        }
        if !self.may_write(epoch, now) {
            return Turn::Shut;
        }
        if self.in_step.as_ref().is_some_and(|in_step| !in_step.is_open()) {
            return Turn::Unkept;
        }
        self.inside += 1;
        Turn::In
    }

    /// One that went in is over, to the last byte of its answer.
    pub fn leave(&mut self) {
        self.inside = self.inside.saturating_sub(1);
    }

    /// How long one that waits may go on waiting, ms; None: it need not any more.
    pub fn wait_left_ms(&self, epoch: Epoch, writes: bool, now: BootMs) -> Option<u64> {
        let hold = self.hold(epoch).filter(|hold| writes || hold.reads)?;
        Some(hold.ends(writes).since(now))
    }

    fn waiting(&mut self, writes: bool) -> (&mut u32, u32) {
        if writes { (&mut self.waiting, WAITING_MAX) } else { (&mut self.reads_waiting, READS_WAITING_MAX) }
    }

    /// One more waits; false: as many as may do so already.
    pub fn begin_to_wait(&mut self, writes: bool) -> bool {
        let (waiting, most) = self.waiting(writes);
        let has_room = *waiting < most;
        *waiting += u32::from(has_room);
        has_room
    }

    pub fn end_to_wait(&mut self, writes: bool) {
        let (waiting, _) = self.waiting(writes);
        *waiting = waiting.saturating_sub(1);
    }

    /// Whether a connection that was opened at `epoch` has to end: the right is over, or the service is held. One of an unbound
    /// service that merely left the table ends by itself.
    pub fn is_over(&self, epoch: Epoch, bound: bool, now: BootMs) -> bool {
        let left_alone = self.entry.is_none() && !bound;
        self.is_held(epoch) || !(left_alone || self.may_write(epoch, now))
    }

    /// Until the right ends by itself, ms; None: it does not.
    pub fn right_left_ms(&self, now: BootMs) -> Option<u64> {
        self.is_bound().then(|| self.until.since(now))
    }

    pub fn is_bound(&self) -> bool {
        self.entry.is_some_and(|entry| entry.writes == Writes::Bound)
    }

    /// None: it is not held.
    pub fn held(&self) -> Option<HeldNow> {
        let hold = self.entry.and_then(|entry| self.hold(entry.epoch));
        hold.map(|hold| HeldNow { until: hold.until, inside: self.inside, waiting: self.waiting + self.reads_waiting })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: BootMs = BootMs(1_000);

    fn tenure(until: u64, epoch: u64, held_until: Option<u64>) -> Tenure {
        let held = held_until.map(|until| {
            (shop(), pumasi_route::tenure::Held { epoch: Epoch(epoch), until: BootMs(until), reads: false })
        });
        Tenure {
            version: 1,
            boot_id: String::new(),
            at: BootMs(0),
            until: Some(BootMs(until)),
            registered: Default::default(),
            epochs: [(shop(), Epoch(epoch))].into(),
            held: held.into_iter().collect(),
        }
    }

    fn shop() -> ServiceName {
        ServiceName::parse("shop").unwrap()
    }

    fn open(right: &mut Right, writes: Writes) {
        right.entry = Some(Entry { owner: true, writes, epoch: Epoch(2) });
    }

    /// A table's entry stays as it is.
    fn told(right: &mut Right, tenure: Option<&Tenure>, now: BootMs) {
        let entry = right.entry;
        right.set(&shop(), None, tenure, now);
        right.entry = entry;
    }

    #[test]
    fn a_bound_service_is_written_only_within_the_right_last_told() {
        let mut right = Right::default();
        assert!(!right.may_write(Epoch(2), NOW), "a service that no table has");
        open(&mut right, Writes::Unbound);
        assert!(right.may_write(Epoch(2), NOW) && !right.may_write(Epoch(1), NOW));
        open(&mut right, Writes::Bound);
        assert!(!right.may_write(Epoch(2), NOW), "nothing was said yet");
        let cases = [
            (Some(tenure(2_000, 2, None)), true),
            (Some(tenure(2_000, 1, None)), false),
            (Some(tenure(1_000, 2, None)), false),
            (Some(Tenure { until: None, ..tenure(2_000, 2, None) }), false),
            (None, false),
        ];
        for (word, may) in cases {
            told(&mut right, word.as_ref(), NOW);
            assert_eq!(right.may_write(Epoch(2), NOW), may, "{word:?}");
        }
    }

    #[test]
    fn a_registered_service_is_written_as_long_as_its_own_right_lasts() {
        let mut right = Right::default();
        open(&mut right, Writes::Bound);
        let word = |ends: u64| Tenure { registered: [(shop(), BootMs(ends))].into(), ..tenure(90_000, 2, None) };
        for (ends, may) in [(2_000, true), (1_000, false), (0, false)] {
            told(&mut right, Some(&word(ends)), NOW);
            assert_eq!(right.may_write(Epoch(2), NOW), may, "{ends}");
        }
    }

    #[test]
    fn passes_are_counted_and_a_hold_that_is_told_again_grows_no_longer() {
        let mut right = Right::default();
        open(&mut right, Writes::Bound);
        told(&mut right, Some(&tenure(61_000, 2, None)), NOW);
        assert_eq!(right.turn(NOW), Some(Turn::In));
        assert_eq!(right.held(), None);
        told(&mut right, Some(&tenure(61_000, 2, Some(61_000))), NOW);
        let first = right.held().unwrap();
        assert_eq!((first.inside, first.until), (1, NOW.after(HOLD_MS_MAX)));
        told(&mut right, Some(&tenure(61_000, 2, Some(91_000))), NOW.after(5));
        assert_eq!(right.held().unwrap().until, first.until);
        assert_eq!(right.turn(NOW), Some(Turn::Wait));
        // Its time is over: those that wait are refused, and still nobody is let in.
        let late = NOW.after(HOLD_MS_MAX);
        assert_eq!((right.wait_left_ms(Epoch(2), true, late), right.turn(late)), (Some(0), Some(Turn::Wait)));
        assert_eq!(right.wait_left_ms(Epoch(2), false, NOW), None, "nobody who reads waits for those who write");
        right.leave();
        assert_eq!(right.held().unwrap().inside, 0);
        // Another ownership is not what is handed over.
        assert!(right.is_held(Epoch(2)) && !right.is_held(Epoch(3)));
        right.entry = Some(Entry { owner: false, writes: Writes::Bound, epoch: Epoch(3) });
        assert!(right.held().is_none() && !right.is_held(Epoch(2)));
        assert_eq!(right.turn(NOW), None, "it goes to the owner");
    }
}
