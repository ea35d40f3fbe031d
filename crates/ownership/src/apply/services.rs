//! What owners say of their services.

use super::{Done, Step};
use crate::command::{How, Progress};
use crate::rules::Mutant;
use crate::state::{Agreed, LIVES_MAX, Mode, Owned, Phase, SERVICES_MAX, Standing, State};
use crate::told::{Code, Refused, Told, no};
use pumasi_terms::{CloudName, Epoch, ServiceId};
use std::collections::{BTreeMap, BTreeSet};

/// The service at this epoch, or what is so instead.
pub(super) fn at_epoch<'a>(
    state: &'a mut State,
    service: &ServiceId,
    epoch: Epoch,
    what: &str,
) -> Result<&'a mut Owned, Refused> {
    let Some(owned) = state.services.get_mut(service) else {
        return match state.ended.get(service) {
            Some(last) => no(Code::Ended, format!("{what} of {service}: its protection ended under epoch {last}")),
            None => no(Code::UnknownService, format!("{what} of {service}: no cloud protects it here")),
        };
    };
    if owned.epoch != epoch {
        let text = format!(
            "{what} of {} under epoch {epoch}: {} owns it under epoch {}",
            owned.agreed.name, owned.owner, owned.epoch
        );
        return no(Code::OtherEpoch, text);
    }
    Ok(owned)
}

impl Step<'_> {
    /// The same, if who asks is the owner.
    pub(super) fn own(&mut self, service: &ServiceId, epoch: Epoch, what: &str) -> Result<&mut Owned, Refused> {
        let by = &self.entry.by;
        let owned = at_epoch(self.state, service, epoch, what)?;
        if &owned.owner != by {
            return no(
                Code::NotYours,
                format!("{what} of {} is for {}, its owner, not for {by}", owned.agreed.name, owned.owner),
            );
        }
        Ok(owned)
    }

    pub(super) fn protect(&mut self, service: &ServiceId, epoch: Epoch, agreed: &Agreed) -> Done {
        let by = self.entry.by.clone();
        let known = self.state.services.contains_key(service);
        if known {
            self.own(service, epoch, "a change of what is agreed")?;
        } else {
            self.newcomer(service, &by)?;
        }
        self.unique(service, agreed)?;
        if let Some(standby) = agreed.standbys.iter().find(|s| self.state.is_witness(&s.cloud) || s.cloud == by) {
            let text =
                format!("{}: {} cannot be its standby, it is its owner or a witness", agreed.name, standby.cloud);
            return no(Code::NotAStandby, text);
        }
        let index = self.index;
        let owned = self.state.services.entry(service.clone()).or_insert_with(|| Owned {
            owner: by.clone(),
            epoch,
            since_rev: index,
            phase: Phase::Serving,
            agreed: agreed.clone(),
            in_sync: BTreeSet::new(),
            sync_count: 0,
            base: BTreeMap::new(),
            keys: BTreeMap::new(),
            attempt: 0,
        });
        // Under another lease it has another copy, which may lack what was acknowledged.
        let same = |c: &CloudName| {
            let lease = |a: &Agreed| a.standby(c).map(|s| s.lease.clone());
            lease(agreed).is_some() && lease(agreed) == lease(&owned.agreed)
        };
        let stays = owned.agreed.standbys.iter().all(|s| same(&s.cloud));
        let in_sync = owned.in_sync.iter().filter(|c| agreed.mode == Mode::Sync && same(c)).cloned().collect();
        if agreed.mode == Mode::Sync && (!stays || in_sync != owned.in_sync || owned.agreed.mode != Mode::Sync) {
            owned.sync_count += 1;
        }
        (owned.in_sync, owned.agreed) = (in_sync, agreed.clone());
        owned.keys.retain(|c, _| c == &by || agreed.standby(c).is_some());
        self.told.push(Told::Protected { service: service.clone(), owner: by, epoch });
        Ok(())
    }

    fn newcomer(&self, service: &ServiceId, by: &CloudName) -> Done {
        let state = &*self.state;
        if let Some(epoch) = state.ended.get(service) {
            return no(
                Code::Ended,
                format!("the protection of {service} ended under epoch {epoch}, and an id is not used again"),
            );
        }
        if state.services.len() >= SERVICES_MAX || state.services.len() + state.ended.len() >= LIVES_MAX {
            let text = format!("the pact protects at most {SERVICES_MAX} services, and {LIVES_MAX} in all its life");
            return no(Code::Full, text);
        }
        let alive =
            state.clouds.get(by).is_some_and(|c| matches!(c.standing, Standing::Alive | Standing::Returning { .. }));
        if !alive || state.is_witness(by) || !state.voting.members.contains_key(by) {
            return no(Code::NotYours, format!("{by} owns nothing here: it is a witness, no member, or not alive"));
        }
        Ok(())
    }

    /// Name and hosts travel with a service, so that nobody else in the pact may have them.
    fn unique(&self, service: &ServiceId, agreed: &Agreed) -> Done {
        for (id, other) in self.state.services.iter().filter(|(id, _)| *id != service) {
            if other.agreed.name == agreed.name {
                let text = format!(
                    "the name {} is taken: {} owns {id} of that name; choose another one",
                    agreed.name, other.owner
                );
                return no(Code::NameTaken, text);
            }
            if let Some(host) = agreed.hosts.intersection(&other.agreed.hosts).next() {
                let text = format!(
                    "the host {host} of {} is taken: {} owns {} ({id}) with it; take it from one of them",
                    agreed.name, other.owner, other.agreed.name
                );
                return no(Code::HostTaken, text);
            }
        }
        Ok(())
    }

    pub(super) fn unprotect(&mut self, service: &ServiceId, epoch: Epoch) -> Done {
        self.own(service, epoch, "an end of protection")?;
        self.state.services.remove(service);
        self.state.ended.insert(service.clone(), epoch);
        self.told.push(Told::Unprotected { service: service.clone(), epoch });
        Ok(())
    }

    pub(super) fn in_sync(
        &mut self,
        (service, epoch): (&ServiceId, Epoch),
        set: &BTreeSet<CloudName>,
        after: Option<u64>,
    ) -> Done {
        let uncounted = self.rules.has(Mutant::SetsNotCounted);
        let owned = self.own(service, epoch, "a set of synchronous standbys")?;
        if owned.agreed.mode != Mode::Sync {
            return no(
                Code::Unfit,
                format!("{} is not kept in step: its agreement does not say sync", owned.agreed.name),
            );
        }
        if let Some(cloud) = set.iter().find(|c| owned.agreed.standby(c).is_none()) {
            return no(Code::NotAStandby, format!("{cloud} is no standby of {}", owned.agreed.name));
        }
        if let Some(after) = after {
            if after != owned.sync_count && !uncounted {
                let text = format!(
                    "the set of {} was changed {} times, not {after}: it was asked of one that is not so any more",
                    owned.agreed.name, owned.sync_count
                );
                return no(Code::OtherSet, text);
            }
            owned.sync_count += 1;
        }
        owned.in_sync = set.clone();
        self.told.push(Told::InSync { service: service.clone(), epoch });
        Ok(())
    }

    pub(super) fn yielded(&mut self, service: &ServiceId, epoch: Epoch, why: &str) -> Done {
        self.own(service, epoch, "a yield")?.phase = Phase::Yielded;
        self.told.push(Told::Yielded { service: service.clone(), epoch, why: why.to_owned() });
        Ok(())
    }

    pub(super) fn serving(&mut self, items: &[Progress]) -> Done {
        for item in items {
            match self.own(&item.service, item.epoch, "progress") {
                Err(refused) => self.told.push(Told::Refused(refused)),
                Ok(owned) => {
                    owned.phase = match item.how {
                        How::Full => Phase::Serving,
                        How::Degraded { have, want } => Phase::Degraded { have, want },
                    };
                    owned.base.extend(item.base.iter().map(|(name, base)| (name.clone(), *base)));
                    self.told.push(Told::Progress { service: item.service.clone(), epoch: item.epoch });
                }
            }
        }
        Ok(())
    }

    pub(super) fn key(&mut self, service: &ServiceId, epoch: Epoch, cloud: &CloudName, thumbprint: &str) -> Done {
        if &self.entry.by != cloud {
            return no(Code::NotYours, format!("{cloud} registers its own key, {} cannot", self.entry.by));
        }
        let owned = at_epoch(self.state, service, epoch, "a key")?;
        if &owned.owner != cloud && owned.agreed.standby(cloud).is_none() {
            return no(Code::NotAStandby, format!("{cloud} neither owns {} nor is its standby", owned.agreed.name));
        }
        owned.keys.insert(cloud.clone(), thumbprint.to_owned());
        self.told.push(Told::Key { service: service.clone(), cloud: cloud.clone() });
        Ok(())
    }
}
