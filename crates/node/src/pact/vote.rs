//! Who votes on the ownership of services: proposed by one operator, signed by all members.
//!
//! Always holds: voters are told with the incarnation that each one's store has, which each checks before it signs: all first voters
//! begin under the same numbers.

use super::adopt::{Basis, take_over, tell};
use super::propose::{Step, propose};
use super::{may_sign, one_at_a_time, refused, view};
use crate::{Node, voting};
use pumasi_api::message::Vote;
use pumasi_api::{Fault, Principal, Problem};
use pumasi_ownership::state::Pace;
use pumasi_ownership::timers::{Profile, Timers};
use pumasi_pact::PactError;
use pumasi_terms::CloudName;
use pumasi_terms::pact::{Pact, Voting};
use std::collections::BTreeMap;

pub(super) fn in_words(voting: Option<&Voting>) -> String {
    match voting {
        None => "the pact votes on ownership no more".into(),
        Some(v) => {
            let voters: Vec<&str> = v.voters.iter().map(CloudName::as_str).collect();
            format!("{} vote on ownership, ttl {} ms", voters.join(", "), v.timers.ttl_ms)
        }
    }
}

/// Services whose owner the register alone knows.
pub(super) fn protected(node: &Node) -> usize {
    node.voting.state().map_or(0, |s| s.services.len())
}

/// What the rules of the pact do not know: the times of consensus, this cloud's store, and what the register holds.
pub(super) fn fits(new: &Pact, own: &CloudName, incarnation: u64, protected: usize) -> Result<(), Problem> {
    let unfit = |text: String| Problem::new(409, "bad_voting", Fault::Input, text);
    let Some(v) = &new.voting else {
        return match protected {
            0 => Ok(()),
            n => Err(unfit(format!(
                "the register protects {n} services, and nobody would know who owns them: end their protection first"
            ))),
        };
    };
    voting::consensus_timers(&Timers::from(&v.timers)).check().map_err(|e| unfit(e.to_string()))?;
    let begins = v.since == new.serial && v.voters.contains(own);
    if begins && v.incarnation(own) != incarnation {
        let said = v.incarnation(own);
        return Err(unfit(format!(
            "the store of {own} has incarnation {incarnation}, the proposal says {said}; propose again after the next heartbeat"
        )));
    }
    Ok(())
}

/// The operator names voters and times; or nobody, and the voting ends.
pub async fn vote(node: &Node, who: &Principal, wish: Vote) -> Result<(), Problem> {
    may_sign(node)?;
    let view = view(node)?;
    if wish.voters.is_empty() != wish.stop {
        return Err(Problem::bad_request("name the voters, or say that the voting stops"));
    }
    if wish.stop {
        fits(&Pact { voting: None, ..view.pact.clone() }, node.name(), 0, protected(node))?;
    }
    let wanted = if wish.stop { None } else { Some(Box::new(wanted(node, &view.pact, wish)?)) };
    if view.pact.voting.as_ref() == wanted.as_deref() {
        return Ok(());
    }
    let _one = one_at_a_time(node).await?;
    let full = propose(node, who, Step::Vote(wanted)).await?;
    take_over(node, who, full.clone(), Basis::Ours).await?;
    tell(node, &full).await.map(drop)
}

fn wanted(node: &Node, pact: &Pact, wish: Vote) -> Result<Voting, Problem> {
    let profile = wish.profile.map(|p| p.parse::<Profile>()).transpose().map_err(Problem::bad_request)?;
    let (now, before) = (pact.serial.next(), pact.voting.as_ref());
    let timers = match (profile, before) {
        (None, Some(v)) => v.timers.clone(),
        (profile, _) => (&profile.unwrap_or(Profile::Default).timers()).into(),
    };
    let mut incarnations = BTreeMap::new();
    for voter in &wish.voters {
        if pact.member(voter).is_none() {
            return Err(refused(PactError::NoMember(voter.clone())));
        }
        let incarnation = match voter == node.name() {
            true => Some(node.store.identity().incarnation),
            false => node.peers.of(voter).incarnation,
        };
        let Some(incarnation) = incarnation else {
            return Err(Problem::unavailable(format!("{voter} has not answered yet; try again when it does")));
        };
        incarnations.insert(voter.clone(), incarnation);
    }
    incarnations.retain(|_, n| *n != 1);
    let pace = before.map_or_else(|| Pace::default().into(), |v| v.pace.clone());
    let since = before.map_or(now, |v| v.since);
    Ok(Voting { since, voters: wish.voters, incarnations, timers, pace })
}
