//! What happens in one run: loads and faults, drawn from the seed.

use crate::net::Weather;
use crate::traffic::{Load, Phase};
use pumasi_node::object::{KINDS, MOVE, SERVICE, TENURE};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Faults end by then; afterwards everything must come back.
pub const HEALED_MS: u64 = 22_000;
/// Of the kinds of the store, those among which seeds have always drawn.
const KINDS_FIRST: usize = 16;
/// A service is kept ready for so long that it is back with its first owner by then: a loss, a probation, a move.
const KEPT_MS: u64 = 95_000;
const STRIKES_SALT: u64 = 0x0073_7472_696b_0001;

#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// kill -9 of a daemon, and its start after so long.
    Crash {
        cloud: usize,
        down_ms: u64,
    },
    /// It dies right after so many more commits.
    Fuse {
        cloud: usize,
        commits: u32,
        down_ms: u64,
    },
    PowerCut {
        cloud: usize,
        down_ms: u64,
    },
    Gateway {
        cloud: usize,
    },
    /// One way, or both.
    Cut {
        from: usize,
        to: usize,
        both: bool,
        for_ms: u64,
    },
    /// Every lease of this lender is called back.
    Recall {
        cloud: usize,
    },
    /// One instance's shim is killed.
    Shim {
        cloud: usize,
    },
    /// The operator stops all automation, and starts it again.
    Automation {
        cloud: usize,
        for_ms: u64,
    },
    /// The operator cancels what runs.
    Cancel {
        cloud: usize,
    },
    /// The operator wants to see whether borrowing would work.
    Rehearse {
        cloud: usize,
    },
    /// Its customer wants the service kept ready at so many clouds, and some time later no longer.
    Keep {
        cloud: usize,
        standbys: u32,
        warm: u32,
        for_ms: u64,
    },
    /// The customer moves the first cloud's service there, from wherever it is.
    Move {
        to: usize,
    },
    /// And changes its mind.
    CancelMove,
    /// It dies right after its next commit that writes this kind.
    FuseOn {
        cloud: usize,
        kind: &'static str,
        down_ms: u64,
    },
    /// The next handover that is to be signed is so late.
    LateHandover {
        late_ms: u64,
    },
    /// Reads of its store fail: of one kind or of all, so many, and no longer than this.
    Unread {
        cloud: usize,
        kind: Option<&'static str>,
        reads: u32,
        for_ms: u64,
    },
    /// Its daemon is started again over a record that it cannot read, and later once more over the mended one.
    Garble {
        cloud: usize,
        kind: &'static str,
        for_ms: u64,
    },
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Script {
    pub loads: Vec<(usize, Load)>,
    pub weather: Weather,
    pub faults: Vec<(u64, Fault)>,
    /// One-way delays between clouds, ms.
    pub delays_ms: Vec<(usize, usize, u64)>,
    /// Clock drift of each host, parts in a million.
    pub drifts_ppm: Vec<i64>,
    /// Every run ends its faults and its campaign by then.
    pub healed_ms: u64,
    /// The load asks for the same all the time: whatever ends before is healed ends for another reason.
    pub steady: bool,
    /// All clouds vote from the beginning.
    pub votes: bool,
    /// And the first cloud's service is kept in step.
    pub in_step: bool,
}

impl Script {
    /// A campaign at the first cloud; sometimes one at the second too.
    pub fn random(seed: u64, clouds: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x7363_7269_7074);
        let mut script = Self { healed_ms: HEALED_MS, ..Self::default() };
        for a in 0..clouds {
            script.drifts_ppm.push(rng.random_range(-100..=100));
            for b in a + 1..clouds {
                script.delays_ms.push((a, b, rng.random_range(1..=40)));
            }
        }
        script.loads.push((0, campaign(&mut rng)));
        if rng.random_bool(0.3) {
            script.loads.push((1, campaign(&mut rng)));
        }
        if rng.random_bool(0.5) {
            script.weather = Weather {
                lost: rng.random_range(0..=300),
                doubled: rng.random_range(0..=500),
                late: rng.random_range(0..=800),
                late_ms_max: rng.random_range(10..=2_000),
            };
        }
        for _ in 0..[0, 1, 1, 2, 2, 3, 4, 6][rng.random_range(0..8)] {
            let at_ms = rng.random_range(1_500..16_000);
            script.faults.push((at_ms, fault(&mut rng, clouds)));
        }
        script.faults.extend(of_the_store(seed, clouds));
        script.faults.extend(rehearsal(seed));
        script.faults.extend(standby(seed, clouds));
        script.faults.sort_by_key(|(at, _)| *at);
        script
    }

    /// The first cloud's service is moved, at least twice, and something dies on the way.
    pub fn moving(seed: u64, clouds: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x006d_6f76_6564);
        let mut script = Self::random(seed, clouds);
        let mut at_ms = rng.random_range(300..2_500);
        while at_ms < 15_000 {
            script.faults.push((at_ms, Fault::Move { to: rng.random_range(0..clouds) }));
            let strike_ms = at_ms + rng.random_range(0..4_000);
            let cloud = rng.random_range(0..clouds);
            match rng.random_range(0..8) {
                0 => script.faults.push((strike_ms, Fault::CancelMove)),
                1 | 2 => {
                    let fuse =
                        Fault::Fuse { cloud, commits: rng.random_range(1..=20), down_ms: rng.random_range(0..4_000) };
                    script.faults.push((strike_ms, fuse));
                }
                3 => script.faults.push((strike_ms, Fault::Gateway { cloud })),
                4 => {
                    let to = (cloud + rng.random_range(1..clouds)) % clouds;
                    let cut = Fault::Cut {
                        from: cloud,
                        to,
                        both: rng.random_bool(0.5),
                        for_ms: rng.random_range(200..5_500),
                    };
                    script.faults.push((strike_ms, cut));
                }
                _ => {}
            }
            at_ms += rng.random_range(3_000..7_000);
        }
        script.faults.extend(at_the_handover(seed, &script.faults));
        script.faults.sort_by_key(|(at, _)| *at);
        script
    }

    /// All clouds vote, the others keep the first one's service ready, and that cloud is away for longer than they wait, or for less.
    pub fn losing(seed: u64, clouds: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x006c_6f73_7400);
        let mut script = Self { healed_ms: HEALED_MS, votes: true, ..Self::default() };
        for a in 0..clouds {
            script.drifts_ppm.push(rng.random_range(-100..=100));
            for b in a + 1..clouds {
                script.delays_ms.push((a, b, rng.random_range(1..=20)));
            }
        }
        script
            .loads
            .push((0, Load(vec![Phase { from_ms: 0, per_second: rng.random_range(5..=20) as f64, home_only: 0.5 }])));
        let standbys = (clouds - 1) as u32;
        script.faults.push((0, Fault::Keep { cloud: 0, standbys, warm: 0, for_ms: KEPT_MS }));
        let at_ms = rng.random_range(6_000..9_000);
        let for_ms = if rng.random_bool(0.7) { rng.random_range(4_000..11_000) } else { rng.random_range(300..2_000) };
        match rng.random_range(0..6) {
            0 | 1 => script.faults.push((at_ms, Fault::Crash { cloud: 0, down_ms: for_ms })),
            2 => script.faults.push((at_ms, Fault::PowerCut { cloud: 0, down_ms: for_ms })),
            // From everybody, heard by nobody, or hearing nobody.
            kind => {
                for other in 1..clouds {
                    let (from, to) = if kind == 5 { (other, 0) } else { (0, other) };
                    script.faults.push((at_ms, Fault::Cut { from, to, both: kind == 3, for_ms }));
                }
            }
        }
        // And somebody stumbles meanwhile, for less than the others wait.
        for _ in 0..rng.random_range(0..3) {
            let (cloud, at_ms) = (rng.random_range(0..clouds), at_ms + rng.random_range(0..6_000));
            let stumble = match rng.random_range(0..3) {
                0 => Fault::Crash { cloud, down_ms: rng.random_range(0..1_200) },
                1 => Fault::Gateway { cloud },
                _ => Fault::Fuse { cloud, commits: rng.random_range(1..=40), down_ms: rng.random_range(0..1_200) },
            };
            script.faults.push((at_ms, stumble));
        }
        script.faults.sort_by_key(|(at, _)| *at);
        // Drawn apart, so that a seed keeps its faults.
        script.in_step = StdRng::seed_from_u64(seed ^ 0x0073_796e_6300).random_bool(0.5);
        script
    }

    /// Whether the first cloud's service has data, and what is acknowledged is looked for at the end.
    pub fn moves(&self) -> bool {
        self.votes || self.faults.iter().any(|(_, f)| matches!(f, Fault::Move { .. }))
    }

    /// That data, as a manifest has it.
    pub fn data(&self) -> Option<&'static str> {
        let kept =
            if self.in_step { "name: ledger, kind: sqlite, file: ledger.db" } else { "name: notes, kind: files" };
        self.moves().then_some(kept)
    }

    /// Steady load on one cloud, and nothing else.
    pub fn steady(per_second: f64, for_ms: u64) -> Self {
        let load = Load(vec![
            Phase { from_ms: 0, per_second, home_only: 0.1 },
            Phase { from_ms: for_ms, per_second: 1.0, home_only: 0.1 },
        ]);
        Self { loads: vec![(0, load)], healed_ms: for_ms, steady: true, ..Self::default() }
    }
}

fn campaign(rng: &mut StdRng) -> Load {
    let home_only = rng.random_range(0..=20) as f64 / 100.0;
    let quiet = rng.random_range(5..=40) as f64;
    let begin_ms = rng.random_range(1_000..4_000);
    let end_ms = begin_ms + rng.random_range(3_000..12_000);
    let mut phases = vec![Phase { from_ms: 0, per_second: quiet, home_only }];
    phases.push(Phase { from_ms: begin_ms, per_second: rng.random_range(100..=300) as f64, home_only });
    if rng.random_bool(0.3) {
        let middle_ms = (begin_ms + end_ms) / 2;
        phases.push(Phase { from_ms: middle_ms, per_second: rng.random_range(20..=400) as f64, home_only });
    }
    phases.push(Phase { from_ms: end_ms, per_second: quiet.min(20.0), home_only });
    Load(phases)
}

/// Drawn apart, so that a seed keeps its other faults.
fn of_the_store(seed: u64, clouds: usize) -> Option<(u64, Fault)> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x0073_746f_7265);
    let (cloud, at_ms, for_ms) =
        (rng.random_range(0..clouds), rng.random_range(1_500..16_000), rng.random_range(100..2_000));
    // Kinds that came later would give a seed another one.
    let kind = KINDS[rng.random_range(0..KINDS_FIRST)];
    let fault = match rng.random_range(0..8) {
        0 => Fault::Unread { cloud, kind: None, reads: u32::MAX, for_ms },
        1 => Fault::Unread { cloud, kind: Some(kind), reads: u32::MAX, for_ms },
        2 => Fault::Unread { cloud, kind: Some(kind), reads: 1, for_ms },
        3 => Fault::Garble { cloud, kind, for_ms },
        _ => return None,
    };
    Some((at_ms, fault))
}

/// Drawn apart as well: before, within or after the campaign.
fn rehearsal(seed: u64) -> Option<(u64, Fault)> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x7265_6865_6172);
    let at_ms = rng.random_range(200..16_000);
    rng.random_bool(0.15).then_some((at_ms, Fault::Rehearse { cloud: 0 }))
}

/// And so is this: what is kept goes through everything else.
fn standby(seed: u64, clouds: usize) -> Option<(u64, Fault)> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x6b65_6570);
    let (at_ms, for_ms) = (rng.random_range(200..8_000), rng.random_range(3_000..16_000));
    let standbys = rng.random_range(1..clouds.max(2)) as u32;
    let warm = rng.random_range(0..=1);
    rng.random_bool(0.3).then_some((at_ms, Fault::Keep { cloud: 0, standbys, warm, for_ms }))
}

/// Where it hurts most: the heir dies of what it has just written down, or the customer changes its mind while the word is on its
/// way. Drawn apart.
fn at_the_handover(seed: u64, faults: &[(u64, Fault)]) -> Vec<(u64, Fault)> {
    let mut rng = StdRng::seed_from_u64(seed ^ STRIKES_SALT);
    let mut all = Vec::new();
    if !rng.random_bool(0.4) {
        return all;
    }
    for (at_ms, fault) in faults {
        let Fault::Move { to } = fault else { continue };
        match rng.random_range(0..4) {
            0 | 1 => {
                let kind = [TENURE, SERVICE, MOVE][rng.random_range(0..3)];
                let down_ms = rng.random_range(0..5_000);
                all.push((*at_ms, Fault::FuseOn { cloud: *to, kind, down_ms }));
            }
            // Later than its sender waits for it.
            2 => {
                all.push((*at_ms, Fault::LateHandover { late_ms: rng.random_range(5_500..8_000) }));
                all.push((at_ms + rng.random_range(500..5_000), Fault::CancelMove));
            }
            _ => {}
        }
    }
    all
}

fn fault(rng: &mut StdRng, clouds: usize) -> Fault {
    let cloud = rng.random_range(0..clouds);
    let down_ms = [0, 50, 300, 1_000, 4_000][rng.random_range(0..5)];
    match rng.random_range(0..12) {
        0 | 1 => Fault::Crash { cloud, down_ms },
        2..=5 => Fault::Fuse { cloud, commits: rng.random_range(1..=60), down_ms },
        6 => Fault::PowerCut { cloud, down_ms },
        7 => Fault::Gateway { cloud },
        8 | 9 => {
            let to = (cloud + rng.random_range(1..clouds)) % clouds;
            Fault::Cut { from: cloud, to, both: rng.random_bool(0.5), for_ms: rng.random_range(200..5_500) }
        }
        10 if rng.random_bool(0.5) => Fault::Shim { cloud },
        10 => Fault::Recall { cloud: rng.random_range(1..clouds) },
        _ if rng.random_bool(0.5) => Fault::Cancel { cloud: 0 },
        _ => Fault::Automation { cloud, for_ms: rng.random_range(200..3_000) },
    }
}
