//! What users of a service are told while nobody may answer for it.
//!
//! Enters: the register, a service. Leaves: why nobody serves it, with its place in the queue and what it waits for; nothing where its owner
//! is to answer. Always holds: of a cloud that has returned and owns it still, nothing is said: it resumes at once.

use crate::state::{Class, Owned, Phase, Standing, State, Takeover};
use pumasi_terms::{CloudName, Resources, ServiceId};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its owner is lost, and no cloud that is left has taken it.
    Waiting,
    /// Beyond the pace: operators of a majority approve first.
    Approval,
    /// Its customer lets nobody take it over unasked.
    Automation,
    /// Its owner has stopped writing for it.
    Yielded,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absence {
    pub why: Why,
    pub class: Class,
    /// In the queue of what its owner left behind, from 1; and how many wait there.
    pub place: Option<(u32, u32)>,
    /// One sentence without the service's name.
    pub text: String,
}

/// None: its owner is to answer, or it is not known here.
pub fn absence(state: &State, service: &ServiceId) -> Option<Absence> {
    let owned = state.services.get(service)?;
    let of = |why, place, text| Some(Absence { why, class: owned.agreed.class, place, text });
    let is_lost = state.clouds.get(&owned.owner).is_some_and(|c| matches!(c.standing, Standing::Lost { .. }));
    match owned.phase {
        Phase::Yielded => {
            let text =
                format!("its owner {} has stopped writing for it, and no other cloud has taken it yet", owned.owner);
            of(Why::Yielded, None, text)
        }
        _ if !is_lost => None,
        _ => {
            let place = place(state, owned);
            let lead = lead(owned, place);
            if let Some(recovering) = state.recovery.get(&owned.owner).filter(|r| r.asked) {
                let (have, need) = (recovering.approved.len(), state.voting.voters.len() / 2 + 1);
                let text = format!("{lead}, waits for operators' approval ({have} of {need} clouds have agreed)");
                return of(Why::Approval, place, text);
            }
            match owned.agreed.takeover {
                Takeover::Automatic => {
                    let least = amount(owned.agreed.unit.times(owned.agreed.least));
                    let text = format!("{lead}, waits for {least} of room at a cloud that keeps it ready");
                    of(Why::Waiting, place, text)
                }
                Takeover::Ask | Takeover::Observe => {
                    let text = format!("{lead}, waits for a person: its customer lets no cloud take it over unasked");
                    of(Why::Automation, place, text)
                }
            }
        }
    }
}

fn place(state: &State, owned: &Owned) -> Option<(u32, u32)> {
    let Phase::Waiting { place } = owned.phase else { return None };
    let waits = |o: &&Owned| matches!(o.phase, Phase::Waiting { .. });
    let of = state.services.values().filter(|o| o.owner == owned.owner).filter(waits).count();
    // Places are given once, and those before may have been taken since.
    let before = |o: &&Owned| matches!(o.phase, Phase::Waiting { place: p } if p < place);
    let ahead = state.services.values().filter(|o| o.owner == owned.owner).filter(before).count();
    Some((u32::try_from(ahead).ok()?.saturating_add(1), u32::try_from(of).ok()?))
}

fn lead(owned: &Owned, place: Option<(u32, u32)>) -> String {
    let class = match owned.agreed.class {
        Class::Guaranteed => "guaranteed",
        Class::Early => "early",
        Class::Deferred => "deferred",
    };
    let lost = format!("its owner {} is lost; class {class}", owned.owner);
    place.map_or_else(|| lost.clone(), |(place, of)| format!("{lost}, place {place} of {of}"))
}

fn amount(needs: Resources) -> String {
    let cpu = match (needs.cpu_millis / 1_000, needs.cpu_millis % 1_000) {
        (whole, 0) => format!("{whole} CPU"),
        (whole, rest) => format!("{} CPU", format!("{whole}.{rest:03}").trim_end_matches('0')),
    };
    match (needs.cpu_millis, needs.memory_mib) {
        (_, 0) => cpu,
        (0, mib) => format!("{mib} MiB"),
        (_, mib) => format!("{cpu} and {mib} MiB"),
    }
}

impl Why {
    /// For programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Approval => "approval",
            Self::Automation => "automation",
            Self::Yielded => "yielded",
        }
    }
}

/// Where users may come in: whoever owns it, and all that keep it ready.
pub fn entrances<'a>(state: &'a State, service: &ServiceId) -> impl Iterator<Item = &'a CloudName> {
    let owned = state.services.get(service);
    owned.into_iter().flat_map(|o| o.agreed.standbys.iter().map(|s| &s.cloud).chain([&o.owner]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_told_as_people_say_them() {
        let of = |cpu_millis, memory_mib| amount(Resources { cpu_millis, memory_mib });
        assert_eq!(
            [of(2_000, 0), of(1_500, 512), of(0, 64), of(50, 0)],
            ["2 CPU", "1.5 CPU and 512 MiB", "64 MiB", "0.05 CPU"]
        );
    }
}
