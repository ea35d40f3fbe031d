//! Three voters by hand: their disks write when the test says so, their messages arrive at once.

use super::super::group::tests::{cloud, group};
use super::*;
use crate::voting::keep;
use pumasi_quorum::{Driver, Settings};
use pumasi_terms::Resources;

struct Rig {
    voters: Vec<Voter>,
    now: u64,
    /// Numbers that wait for the disk, a voter each.
    writing: Vec<Vec<u64>>,
    /// Disks that stand still.
    stalled: Vec<bool>,
    forwarded: Vec<(usize, CloudName, u64)>,
}

fn voter(at: usize) -> Voter {
    let g = group(at, 3, if at == 1 { 2 } else { 1 });
    let kept = g.beginning().unwrap();
    let timers = crate::voting::consensus_timers(g.timers());
    let settings = Settings { id: g.own_id(), run: 1, seed: at as u64, timers, round_trip_ms: 2 };
    let driver = Driver::start(settings, &kept, BootMs(0)).unwrap();
    let state = keep::state_of(&kept, register::rules()).unwrap();
    Voter::new(g, driver, state, None)
}

impl Rig {
    fn new() -> Self {
        let three = || vec![Vec::new(), Vec::new(), Vec::new()];
        Self {
            voters: (0..3).map(voter).collect(),
            now: 0,
            writing: three(),
            stalled: vec![false; 3],
            forwarded: Vec::new(),
        }
    }

    /// So many ms of everybody.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += 1;
            for at in 0..3 {
                let mut effects = Vec::new();
                if !self.stalled[at] {
                    for number in std::mem::take(&mut self.writing[at]) {
                        effects.extend(self.voters[at].written(number));
                    }
                }
                effects.extend(self.voters[at].pump(BootMs(self.now)).unwrap());
                let from = self.voters[at].group.own_id();
                for effect in effects {
                    match effect {
                        Effect::Send { to, message } => {
                            let to = (0..3).find(|i| cloud(*i) == to).unwrap();
                            self.voters[to].message(from, &message);
                        }
                        Effect::Write { number, .. } => self.writing[at].push(number),
                        Effect::Forward { to, renewal } => self.forwarded.push((at, to, renewal.seq)),
                        Effect::Fetch { .. } | Effect::Show { .. } => {}
                    }
                }
            }
        }
    }

    fn leader(&mut self) -> usize {
        self.run(2_000);
        (0..3).find(|at| self.voters[*at].leads()).unwrap()
    }

    fn propose(&mut self, at: usize, by: usize, command: Command) -> oneshot::Receiver<Outcome> {
        let (reply, answer) = oneshot::channel();
        self.voters[at].propose(&cloud(by), command, reply);
        answer
    }

    fn seq(&self, at: usize, of: usize) -> Option<u64> {
        Some(self.voters[at].state.as_ref()?.clouds.get(&cloud(of))?.seq)
    }
}

fn renewal(of: usize, seq: u64) -> Renewal {
    let (free, health) = (Resources::default(), Default::default());
    Renewal { cloud: cloud(of), run: 1, seq, ttl_ms: 2_200, free, health }
}

#[test]
fn nothing_is_answered_or_shown_before_it_is_on_disk() {
    let mut rig = Rig::new();
    let leader = rig.leader();
    rig.stalled = vec![true; 3];
    let mut answer = rig.propose(leader, 0, Command::Join { cloud: cloud(0), run: 1 });
    rig.run(200);
    assert!(answer.try_recv().is_err(), "no disk has it");
    assert_eq!(rig.seq(leader, 0), None);
    rig.stalled = vec![false; 3];
    rig.run(50);
    assert!(matches!(answer.try_recv(), Ok(Outcome::Done { told, .. }) if told.len() == 1));
    assert_eq!(rig.seq(leader, 0), Some(0));
    let follower = (leader + 1) % 3;
    let mut refused = rig.propose(follower, 0, Command::Join { cloud: cloud(0), run: 2 });
    assert_eq!(refused.try_recv().unwrap(), Outcome::NotLeader(Some(cloud(leader))));
}

#[test]
fn a_renewal_is_in_the_register_once_and_late_ones_are_passed_on() {
    let mut rig = Rig::new();
    let leader = rig.leader();
    let _join = rig.propose(leader, 0, Command::Join { cloud: cloud(0), run: 1 });
    rig.run(100);
    let all = |rig: &mut Rig, seq| (0..3).for_each(|at| rig.voters[at].renewal(renewal(0, seq), BootMs(rig.now)));
    all(&mut rig, 1);
    rig.run(300);
    assert_eq!((rig.seq(0, 0), rig.seq(1, 0), rig.seq(2, 0)), (Some(1), Some(1), Some(1)));
    assert_eq!(rig.forwarded, [], "the leader had it itself");
    let before = rig.voters[leader].status().unwrap().last;
    all(&mut rig, 1);
    rig.run(500);
    assert_eq!(rig.voters[leader].status().unwrap().last, before, "the same again is nothing new");
    // One that came to a follower only.
    let follower = (leader + 1) % 3;
    rig.voters[follower].renewal(renewal(0, 2), BootMs(rig.now));
    rig.run(600);
    assert!(!rig.forwarded.is_empty() && rig.forwarded.iter().all(|f| *f == (follower, cloud(leader), 2)));
    assert!(rig.forwarded.len() <= 4, "not at every tick: {:?}", rig.forwarded);
    // Its sender goes on renewing, faster than the patience lasts.
    rig.forwarded.clear();
    for seq in 3..8 {
        rig.voters[follower].renewal(renewal(0, seq), BootMs(rig.now));
        rig.run(150);
    }
    assert!(rig.forwarded.iter().any(|f| f.2 > 2), "{:?}", rig.forwarded);
    assert!(rig.forwarded.len() <= 5, "not at every tick: {:?}", rig.forwarded);
}

#[test]
fn a_proposal_whose_place_another_took_is_told_so() {
    let mut rig = Rig::new();
    let leader = rig.leader();
    // Its disk stands still: it leads no longer, and what it was asked goes nowhere.
    rig.stalled[leader] = true;
    let mut lost = rig.propose(leader, 0, Command::Join { cloud: cloud(0), run: 7 });
    // Nobody hears it any more.
    let mut two: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    rig.run(3_000);
    rig.stalled[leader] = false;
    rig.run(3_000);
    two.push(leader);
    let told = lost.try_recv();
    // Either its append got through before the stall was seen, or it was overtaken; never silence.
    assert!(matches!(told, Ok(Outcome::Lost | Outcome::Done { .. } | Outcome::Unknown)), "{told:?}");
    let joined: Vec<_> = two.iter().map(|at| rig.seq(*at, 0).is_some()).collect();
    let done = matches!(told, Ok(Outcome::Done { .. }));
    assert_eq!(joined, [done; 3], "what was told is so everywhere");
}
