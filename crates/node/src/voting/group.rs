//! The group that votes, as the signed pact says, seen from this cloud.
//!
//! Enters: the pact in force, the incarnation of this cloud's store, incarnations that others told of theirs. Leaves: who votes under which
//! number, and what the first voters begin from. Pure.
//! Always holds: the same signed bytes give the same first snapshot at every voter; a voter whose store was restored has another number.

use crate::pact::PactView;
use pumasi_api::Problem;
use pumasi_ownership::timers::Timers;
use pumasi_ownership::{State, Voting};
use pumasi_quorum::{Conf, Kept, RaftId};
use pumasi_terms::pact::{Pact, Role};
use pumasi_terms::{CloudName, PactId, Serial};
use std::collections::{BTreeMap, BTreeSet};

/// Incarnations of one cloud that are tried to tell whose a number is.
const INCARNATIONS_MAX: u64 = 1_024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub pact: PactId,
    /// With which serial this voting began.
    pub since: Serial,
    pub me: CloudName,
    pub incarnation: u64,
    /// The signed pact, without what members said since.
    signed: Pact,
    pub voting: Voting,
    /// Whom the pact in force names now: others are not called.
    pub members: BTreeSet<CloudName>,
}

impl Group {
    /// None: the pact does not vote.
    pub fn of(view: &PactView, me: &CloudName, incarnation: u64) -> Result<Option<Self>, Problem> {
        let signed = pumasi_pact::read(view.signed.unverified_payload())
            .map_err(|e| Problem::ours(format!("the stored pact: {e}")))?;
        let Some(voting) = Voting::of(&signed, view.signed.digest()) else { return Ok(None) };
        let Some(since) = signed.voting.as_ref().map(|v| v.since) else { return Ok(None) };
        let members = view.pact.members.iter().map(|m| m.cloud.clone()).collect();
        Ok(Some(Self { pact: signed.id.clone(), since, me: me.clone(), incarnation, signed, voting, members }))
    }

    /// What the store keeps it under. A voting that began later is another one.
    pub fn key(&self) -> String {
        format!("{}@{}", self.pact, self.since)
    }

    pub fn timers(&self) -> &Timers {
        &self.voting.timers
    }

    pub fn is_voter(&self) -> bool {
        self.named().contains(&self.me)
    }

    pub fn is_witness(&self) -> bool {
        self.signed.member(&self.me).is_some_and(|m| m.role == Role::Witness)
    }

    /// Those that the pact names, also those that have left since.
    pub fn named(&self) -> &[CloudName] {
        self.signed.voting.as_ref().map_or(&[], |v| &v.voters)
    }

    /// Other voters that can be called.
    pub fn others(&self) -> impl Iterator<Item = &CloudName> {
        self.named().iter().filter(|c| **c != self.me && self.members.contains(*c))
    }

    fn said(&self, cloud: &CloudName) -> u64 {
        self.signed.voting.as_ref().map_or(1, |v| v.incarnation(cloud))
    }

    pub fn id(&self, cloud: &CloudName, incarnation: u64) -> RaftId {
        RaftId::of(&self.pact, cloud, incarnation)
    }

    pub fn own_id(&self) -> RaftId {
        self.id(&self.me, self.incarnation)
    }

    /// What this cloud begins with where its store keeps nothing of this voting: with the first voters, or with nothing.
    pub fn beginning(&self) -> Result<Kept, Problem> {
        let first = self.signed.serial == self.since && self.said(&self.me) == self.incarnation && self.is_voter();
        if !first {
            return Ok(Kept::joining(self.own_id()));
        }
        let ours = |e: String| Problem::ours(format!("the first register of the pact: {e}"));
        let state = State::new(self.pact.clone(), self.voting.clone()).map_err(|e| ours(e.to_string()))?;
        let bytes = state.to_json().map_err(|e| ours(e.to_string()))?;
        let ids = self.named().iter().map(|c| self.id(c, self.said(c))).collect();
        Kept::first(self.own_id(), ids, bytes).map_err(|e| ours(e.to_string()))
    }

    /// Who shall vote, by what the voters told of their stores; of whom nothing is heard the number that counts now stays.
    pub fn target(&self, heard: &BTreeMap<CloudName, u64>, conf: &Conf) -> BTreeSet<RaftId> {
        let of = |cloud: &CloudName| {
            let said = self.said(cloud);
            if cloud == &self.me {
                return self.own_id();
            }
            if let Some(incarnation) = heard.get(cloud) {
                return self.id(cloud, (*incarnation).max(said));
            }
            let ids = (said..said.saturating_add(INCARNATIONS_MAX)).rev().map(|n| self.id(cloud, n));
            ids.into_iter().find(|id| conf.has(*id)).unwrap_or_else(|| self.id(cloud, said))
        };
        self.named().iter().map(of).collect()
    }

    /// Whose number it is.
    pub fn cloud_of(&self, id: RaftId) -> Option<&CloudName> {
        let near = |n: u64| self.members.iter().find(move |c| self.id(c, n) == id);
        (1..=INCARNATIONS_MAX).find_map(near)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use pumasi_terms::pact::{Member, Terms, Voting as Says, VotingPace};
    use pumasi_terms::{Digest, WallMs};
    use std::sync::OnceLock;

    pub fn cloud(at: usize) -> CloudName {
        CloudName::parse(format!("city-{}", char::from(b'a' + u8::try_from(at).unwrap()))).unwrap()
    }

    fn keys() -> &'static [String] {
        static KEYS: OnceLock<Vec<String>> = OnceLock::new();
        KEYS.get_or_init(|| (0..4).map(|_| pumasi_trust::DocumentKey::generate().unwrap().public_jwk()).collect())
    }

    /// Of four members the first three vote, since serial 3.
    pub fn group(me: usize, serial: u64, incarnation: u64) -> Group {
        let member = |at: usize| Member {
            cloud: cloud(at),
            api_address: "a.example:1".into(),
            gateway_address: "a.example:2".into(),
            bundle: String::new(),
            document_key: keys()[at].clone(),
            terms: Terms::default(),
            role: Role::Cloud,
        };
        let says = Says {
            since: Serial(3),
            voters: (0..3).map(cloud).collect(),
            incarnations: BTreeMap::from([(cloud(1), 2)]),
            timers: (&pumasi_ownership::timers::Profile::Default.timers()).into(),
            pace: VotingPace { window_ms: 600_000, automatic: None },
        };
        let signed = Pact {
            api_version: pumasi_terms::API_VERSION.into(),
            kind: "Pact".into(),
            id: PactId::from_entropy(1),
            serial: Serial(serial),
            parent: None,
            created_at: WallMs(0),
            currency: "EUR".into(),
            members: (0..4).map(member).collect(),
            voting: Some(says),
        };
        let voting = Voting::of(&signed, Digest([1; 32])).unwrap();
        let members = (0..4).map(cloud).collect();
        Group { pact: signed.id.clone(), since: Serial(3), me: cloud(me), incarnation, signed, voting, members }
    }

    #[test]
    fn first_voters_begin_alike_and_everybody_else_with_nothing() {
        let first: Vec<Kept> = [(0, 1), (1, 2), (2, 1)].map(|(at, n)| group(at, 3, n).beginning().unwrap()).into();
        for kept in &first {
            assert_eq!((&kept.snapshot, kept.applied), (&first[0].snapshot, 1));
            assert!(kept.conf.voters.contains(&kept.id), "each is counted under its own number");
        }
        // Restored since it was named; named later; no voter.
        for (at, serial, incarnation) in [(1, 3, 3), (0, 4, 1), (3, 3, 1)] {
            assert_eq!(group(at, serial, incarnation).beginning().unwrap().applied, 0);
        }
        assert!(!group(3, 3, 1).is_voter());
    }

    #[test]
    fn a_voter_whose_store_was_restored_is_aimed_at_under_its_new_number() {
        let g = group(0, 3, 1);
        let old: BTreeSet<RaftId> = [g.id(&cloud(0), 1), g.id(&cloud(1), 2), g.id(&cloud(2), 1)].into();
        let conf = Conf::of(old.clone()).unwrap();
        assert_eq!(g.target(&BTreeMap::new(), &conf), old);
        let heard = BTreeMap::from([(cloud(2), 4), (cloud(1), 1)]);
        let new = g.id(&cloud(2), 4);
        let target: BTreeSet<RaftId> = [g.id(&cloud(0), 1), g.id(&cloud(1), 2), new].into();
        assert_eq!(g.target(&heard, &conf), target, "a word of an older store counts for nothing");
        // Another leader, which has not heard it yet, does not take it back.
        let moved = Conf::of(target.clone()).unwrap();
        assert_eq!(g.target(&BTreeMap::new(), &moved), target);
        assert_eq!(g.cloud_of(new), Some(&cloud(2)));
        assert_eq!(g.cloud_of(RaftId::new(5).unwrap()), None);
    }
}
