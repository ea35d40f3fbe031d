//! Those that wait for a place, in two classes.
//!
//! Enters: requests that found none. Leaves: who is served next, and who gives way.
//! Always holds: what is less important is served after everything else, and gives way to it when the queue is full; each class in the
//! order in which it came.

use crate::permit::Permit;
use crate::slot::Want;
use std::collections::VecDeque;
use tokio::sync::oneshot;

/// How far a class is searched for a request that may use a given place.
const SCAN_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) id: u64,
    pub(crate) want: Want,
    pub(crate) tx: oneshot::Sender<Permit>,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    upper: VecDeque<Waiter>,
    lower: VecDeque<Waiter>,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.upper.len() + self.lower.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.upper.is_empty() && self.lower.is_empty()
    }

    /// Whether somebody waits who is served before `want`, for a place that it might take.
    pub(crate) fn is_before(&self, want: &Want) -> bool {
        let same = |class: &VecDeque<Waiter>| class.iter().take(SCAN_MAX).any(|w| w.want.home_only == want.home_only);
        same(&self.upper) || (want.less_important && same(&self.lower))
    }

    /// Lets it wait; false: the queue is full, and it is the one to go. Who gives way to it learns of it by the loss of its sender.
    pub(crate) fn push(&mut self, waiter: Waiter, max: usize) -> bool {
        if self.len() >= max && (waiter.want.less_important || self.lower.pop_back().is_none()) {
            return false;
        }
        let class = if waiter.want.less_important { &mut self.lower } else { &mut self.upper };
        class.push_back(waiter);
        true
    }

    pub(crate) fn remove(&mut self, id: u64) {
        for class in [&mut self.upper, &mut self.lower] {
            if let Some(at) = class.iter().position(|w| w.id == id) {
                class.remove(at);
                return;
            }
        }
    }

    /// Offers places: `grant` gives one for what is wanted, or says whether any is left for others. Permits whose receivers are gone
    /// come back.
    pub(crate) fn pump(&mut self, mut grant: impl FnMut(&Want) -> Result<Permit, Left>, undone: &mut Vec<Permit>) {
        for class in [&mut self.upper, &mut self.lower] {
            let mut at = 0;
            while at < class.len().min(SCAN_MAX) {
                if class[at].tx.is_closed() {
                    class.remove(at);
                    continue;
                }
                match grant(&class[at].want) {
                    Ok(permit) => {
                        if let Some(waiter) = class.remove(at)
                            && let Err(permit) = waiter.tx.send(permit)
                        {
                            undone.push(permit);
                        }
                    }
                    Err(Left::Some) => at += 1,
                    Err(Left::None) => return,
                }
            }
        }
    }
}

/// Where no place was given: whether there is one at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Some,
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(id: u64, less_important: bool) -> (Waiter, oneshot::Receiver<Permit>) {
        let (tx, rx) = oneshot::channel();
        (Waiter { id, want: Want { less_important, ..Want::default() }, tx }, rx)
    }

    #[test]
    fn who_matters_less_gives_way_and_is_asked_last() {
        let mut queue = Queue::default();
        let mut held = Vec::new();
        let mut push = |queue: &mut Queue, id, lower| {
            let (waiter, rx) = waiter(id, lower);
            held.push((id, rx));
            queue.push(waiter, 3)
        };
        assert!(push(&mut queue, 1, true) && push(&mut queue, 2, true) && push(&mut queue, 3, false));
        assert!(!push(&mut queue, 4, true), "it is full");
        assert!(push(&mut queue, 5, false), "2 gives way");
        assert!(push(&mut queue, 6, false), "1 gives way");
        assert!(!push(&mut queue, 7, false), "nobody is left who would");
        let waits =
            |rx: &mut oneshot::Receiver<Permit>| matches!(rx.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        let waiting: Vec<u64> = held.iter_mut().filter_map(|(id, rx)| waits(rx).then_some(*id)).collect();
        assert_eq!(waiting, [3, 5, 6]);
        assert!(queue.is_before(&Want::default()));
        queue.remove(3);
        queue.remove(5);
        queue.remove(6);
        assert!(queue.is_empty() && !queue.is_before(&Want { less_important: true, ..Want::default() }));
        // One that matters less does not hold up one that matters more.
        let (lower, _rx) = waiter(8, true);
        assert!(queue.push(lower, 3) && !queue.is_before(&Want::default()));
        assert!(queue.is_before(&Want { less_important: true, ..Want::default() }));
    }
}
