//! Messages of a pact's voters: one, or where the input begins with a zero, several with their lengths before them.
//!
//! What is taken is written again as it came. A voter that hears it goes on, or stops voting and can be built anew from its disk;
//! what it then says itself can be read.

use super::transfer::pieces;
use pumasi_node::voting::wire::{Batch, Followed};
use pumasi_quorum::{Driver, Kept, Memory, Message, RaftId, Settings, Storage, Timers};
use pumasi_terms::BootMs;

fn id(number: u64) -> RaftId {
    RaftId::new(number).expect("not 0")
}

/// One of three, in its first term.
fn voter() -> (Driver, Memory) {
    let voters = [2, 3, u64::MAX].map(id).into();
    let kept = Kept::first(id(2), voters, b"state".to_vec()).expect("three voters");
    let settings = Settings { id: id(2), run: 1, seed: 1, timers: Timers::LAN, round_trip_ms: 1 };
    let driver = Driver::start(settings, &kept, BootMs(0)).expect("a first start");
    let mut disk = Memory::default();
    disk.begin(kept).expect("memory");
    (driver, disk)
}

/// A batch of words about the vote, or what the register became: the first byte says which. What was read means the same after it was
/// written and read again.
pub fn vote_words(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    if which % 2 == 0 {
        if let Ok(batch) = Batch::decode(bytes) {
            assert_eq!(Batch::decode(&batch.encode()).as_ref(), Ok(&batch));
            let _ = batch.renewals().count();
        }
    } else if let Ok(followed) = Followed::decode(bytes) {
        assert_eq!(Followed::decode(&followed.encode()).as_ref(), Ok(&followed));
    }
}

pub fn voter_message(input: &[u8]) {
    let messages = if input.first() == Some(&0) { pieces(input) } else { vec![input] };
    let (mut driver, mut disk) = voter();
    for (n, bytes) in (1..).zip(messages) {
        let Ok(message) = Message::decode(bytes) else { continue };
        let written = message.encode().expect("what was read can be written");
        assert_eq!(
            Message::decode(&written).as_ref(),
            Ok(&message),
            "it means something else when it was written and read"
        );
        let _ = driver.receive(message.from, &written);
        let _ = driver.tick(BootMs(30 * n));
        let out = driver.take();
        assert!(out.messages.iter().all(|m| Message::decode(&m.bytes).is_ok()), "it says what nobody can read");
        if let Some(work) = out.work {
            disk.write(&work.persist).expect("memory");
            disk.sync().expect("it fits onto what is kept");
            let _ = driver.persisted(work.number);
        }
        if driver.status().is_err() {
            let kept = disk.load().expect("memory").expect("it began");
            driver.rebuild(&kept, BootMs(30 * n)).expect("what is kept is whole");
        }
    }
}
