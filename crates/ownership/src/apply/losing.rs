//! A cloud is lost, and what becomes of its services.

use super::{Done, Step};
use crate::command::Lost;
use crate::rules::Mutant;
use crate::state::{Cause, End, Item, LOSSES_MAX, Loss, Phase, Recovering, Standing};
use crate::told::{Code, Told, no};
use pumasi_terms::{CloudName, ServiceId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A cloud that is lost again within this has twice the probation.
const RELAPSE_MS: u64 = 3_600_000;
const PROBATION_MS_MAX: u64 = 600_000;

impl Step<'_> {
    /// Two things make a cloud lost: its last renewal in log order is the one that was waited for, and a majority of voters heard nothing.
    pub(super) fn lost(&mut self, lost: &Lost) -> Done {
        self.voter("a loss")?;
        let name = &lost.cloud;
        let Some(cloud) = self.state.clouds.get(name) else {
            return no(Code::UnknownCloud, format!("{name} is not known here"));
        };
        if !matches!(cloud.standing, Standing::Alive | Standing::Returning { .. }) || cloud.run != lost.run {
            return no(
                Code::OtherRun,
                format!(
                    "{name} under run {} is not alive; the register says run {}, {:?}",
                    lost.run, cloud.run, cloud.standing
                ),
            );
        }
        if cloud.seq != lost.seen_seq && !self.rules.has(Mutant::LostWithoutSeq) {
            let text = format!("{name} renewed after {}: its last renewal is {}", lost.seen_seq, cloud.seq);
            return no(Code::NotTheLast, text);
        }
        let silence = self.state.voting.timers.silence_ms(cloud.ttl_ms);
        if !self.rules.has(Mutant::AttestationsNotCounted) {
            self.attested(lost, silence)?;
        }
        self.lose(name, &lost.plan);
        Ok(())
    }

    fn attested(&self, lost: &Lost, silence_ms: u64) -> Done {
        let (mut voters, mut why) = (BTreeSet::new(), Vec::new());
        for document in &lost.attestations {
            match self.rules.verify.attested(self.state, document) {
                Err(e) => why.push(e),
                Ok((voter, says)) => {
                    let about = (&says.pact, &says.cloud, says.run, says.seq, says.nonce);
                    if about != (&self.state.pact, &lost.cloud, lost.run, lost.seen_seq, lost.nonce)
                        || says.version != 1
                    {
                        why.push(format!("{voter} attests something else"));
                    } else if says.silent_ms < silence_ms {
                        why.push(format!("{voter} heard it {} ms ago, {silence_ms} ms are needed", says.silent_ms));
                    } else if voter != lost.cloud && self.state.is_voter(&voter) {
                        voters.insert(voter);
                    }
                }
            }
        }
        if self.state.voting.is_majority(voters.len()) {
            return Ok(());
        }
        let (have, of) = (voters.len(), self.state.voting.voters.len());
        no(
            Code::NotSilent,
            format!(
                "{have} of {of} voters attest that {} is silent, a majority is needed; {}",
                lost.cloud,
                why.join("; ")
            ),
        )
    }

    fn lose(&mut self, name: &CloudName, plan: &[Item]) {
        let asked = !self.state.within_pace();
        let (at_rev, now) = (self.index, self.state.elapsed_ms);
        let timers = &self.state.voting.timers;
        if let Some(cloud) = self.state.clouds.get_mut(name) {
            let relapsed = cloud.lost_at_ms.is_some_and(|at| now.saturating_sub(at) < RELAPSE_MS);
            let base = timers.probation_ms(cloud.ttl_ms);
            let most = PROBATION_MS_MAX.max(base);
            cloud.probation_ms = if relapsed { cloud.probation_ms.saturating_mul(2).clamp(base, most) } else { base };
            (cloud.standing, cloud.lost_at_ms) = (Standing::Lost { at_rev }, Some(now));
        }
        self.state.losses.push_back(Loss { cloud: name.clone(), at_ms: now });
        while self.state.losses.len() > LOSSES_MAX {
            self.state.losses.pop_front();
        }
        self.told.push(Told::Stands { cloud: name.clone(), standing: Standing::Lost { at_rev } });
        let waits = if asked { plan.to_vec() } else { Vec::new() };
        self.state.recovery.insert(name.clone(), Recovering { at_rev, asked, approved: BTreeSet::new(), plan: waits });
        if asked {
            let (automatic, window) = (self.state.voting.automatic(), self.state.voting.pace.window_ms / 1_000);
            let why = format!(
                "more than {automatic} of the pact's clouds were lost within {window} s: operators of a majority approve, or nothing moves"
            );
            self.told.push(Told::Asked { cloud: name.clone(), why });
        } else {
            self.carry_out(name, plan);
        }
        self.queue(name, plan);
    }

    /// Everything that the cloud still owns waits: what was to be taken first, then in the plan's order; what the plan does not know comes last.
    fn queue(&mut self, name: &CloudName, plan: &[Item]) {
        let planned: BTreeMap<&ServiceId, usize> =
            plan.iter().enumerate().map(|(i, item)| (&item.service, i)).collect();
        let mut own: Vec<_> = self
            .state
            .owned_by(name)
            .map(|(id, o)| {
                let place = match planned.get(id).and_then(|i| plan.get(*i)).map(|item| &item.end) {
                    Some(End::Waiting { place }) => *place,
                    Some(End::Taken { .. }) => 0,
                    None => u32::MAX,
                };
                (place, o.agreed.class, Reverse(o.agreed.priority), id.clone())
            })
            .collect();
        own.sort();
        for (place, (.., id)) in (1..).zip(own) {
            if let Some(owned) = self.state.services.get_mut(&id) {
                owned.phase = Phase::Waiting { place };
                self.told.push(Told::Waiting { service: id, owner: name.clone(), place });
            }
        }
    }

    /// What does not hold any more is told, and the rest is done.
    fn carry_out(&mut self, from: &CloudName, plan: &[Item]) {
        for item in plan.iter().filter(|item| matches!(item.end, End::Taken { .. })) {
            if let Err(refused) = self.take_over(from, item, Cause::Disaster) {
                self.told.push(Told::Refused(refused));
            }
        }
    }

    /// Only of the loss that was meant, and only what that cloud owns still.
    fn recovering(&self, name: &CloudName, lost_rev: u64) -> Result<&Recovering, crate::told::Refused> {
        match self.state.recovery.get(name) {
            Some(recovering) if recovering.at_rev == lost_rev => Ok(recovering),
            _ => no(
                Code::OtherRun,
                format!("{name} is not recovered from since entry {lost_rev}: it returned, or was lost another time"),
            ),
        }
    }

    pub(super) fn approve(&mut self, name: &CloudName, lost_rev: u64) -> Done {
        self.voter("an approval")?;
        if !self.recovering(name, lost_rev)?.asked {
            return no(
                Code::NotAsked,
                format!("nothing waits for an approval: the takeover from {name} was carried out"),
            );
        }
        let (by, voting) = (self.entry.by.clone(), &self.state.voting);
        let Some(recovering) = self.state.recovery.get_mut(name) else { return Ok(()) };
        recovering.approved.insert(by.clone());
        let votes = recovering.approved.iter().filter(|c| *c != name && voting.voters.contains_key(*c)).count();
        let carried_out = voting.is_majority(votes);
        self.told.push(Told::Approved { cloud: name.clone(), by, carried_out });
        if carried_out {
            recovering.asked = false;
            let plan = std::mem::take(&mut recovering.plan);
            self.carry_out(name, &plan);
        }
        Ok(())
    }

    pub(super) fn recover(&mut self, name: &CloudName, lost_rev: u64, items: &[Item]) -> Done {
        self.voter("a takeover")?;
        if self.recovering(name, lost_rev)?.asked {
            return no(Code::NotAsked, format!("the takeover from {name} waits for operators of a majority"));
        }
        self.carry_out(name, items);
        Ok(())
    }
}
