//! The ways in which a service gets another owner. There are three, and all end in `hand`.

use super::services::at_epoch;
use super::{Done, Step};
use crate::rules::Mutant;
use crate::state::{Cause, EPOCH_MAX, End, Item, MOVED_MAX, Moved, Phase};
use crate::told::{Code, Told, no};
use pumasi_terms::{CloudName, Epoch, MoveId, ServiceId};

impl Step<'_> {
    /// The one place where an owner changes. Whoever calls it has made sure that the former owner may write no more.
    fn hand(&mut self, service: &ServiceId, to: &CloudName, phase: Phase, cause: Cause) {
        let Some(owned) = self.state.services.get_mut(service) else { return };
        let from = std::mem::replace(&mut owned.owner, to.clone());
        owned.epoch = owned.epoch.next();
        owned.since_rev = self.index;
        owned.phase = phase;
        owned.attempt = 0;
        owned.base.clear();
        // The others of the set have every acknowledged write still; the new owner acknowledges nothing that they lack.
        owned.in_sync.remove(to);
        let epoch = owned.epoch;
        self.state.moved.push_back(Moved {
            at_rev: self.index,
            service: service.clone(),
            from: from.clone(),
            to: to.clone(),
            epoch,
            cause,
        });
        while self.state.moved.len() > MOVED_MAX {
            self.state.moved.pop_front();
        }
        self.told.push(Told::Owner { service: service.clone(), from, to: to.clone(), epoch, cause });
    }

    fn fit(&self, service: &ServiceId, to: &CloudName, sync: bool) -> Done {
        let Some(owned) = self.state.services.get(service) else {
            return no(Code::UnknownService, format!("{service} is not protected here"));
        };
        let name = &owned.agreed.name;
        if to == &owned.owner || owned.agreed.standby(to).is_none() {
            return no(Code::NotAStandby, format!("{to} cannot take {name}: it is no standby of it"));
        }
        if sync && !owned.may_live_at(to) {
            return no(
                Code::NotInSync,
                format!("{to} cannot take {name}: it is not in the committed set that has every acknowledged write"),
            );
        }
        if !self.state.may_take(to) {
            return no(
                Code::NotAlive,
                format!("{to} cannot take {name}: it is lost, ailing, on probation or a witness"),
            );
        }
        if owned.epoch >= EPOCH_MAX {
            return no(Code::Full, format!("{name} has had {EPOCH_MAX} owners; it needs a new id"));
        }
        Ok(())
    }

    /// From a cloud whose right is over: it is lost, or it yielded this service.
    pub(super) fn take_over(&mut self, from: &CloudName, item: &Item, cause: Cause) -> Done {
        let End::Taken { to, have, want } = &item.end else {
            return no(Code::Unfit, format!("the plan lets {} wait, and nothing is to be done", item.service));
        };
        self.fit(&item.service, to, true)?;
        let owned = at_epoch(self.state, &item.service, item.epoch, "a takeover")?;
        if &owned.owner != from {
            return no(
                Code::OtherEpoch,
                format!("{} is not owned by {from} any more; the plan has to be made anew", owned.agreed.name),
            );
        }
        if have > want || *want > owned.agreed.full || *want == 0 {
            let text = format!(
                "the plan has {have} of {want} instances of {}, {} are agreed",
                owned.agreed.name, owned.agreed.full
            );
            return no(Code::Unfit, text);
        }
        self.hand(&item.service, to, Phase::Taken { have: *have, want: *want }, cause);
        Ok(())
    }

    pub(super) fn relieve(&mut self, item: &Item) -> Done {
        self.voter("a takeover")?;
        let owned = at_epoch(self.state, &item.service, item.epoch, "a takeover")?;
        if owned.phase != Phase::Yielded {
            return no(
                Code::OtherRun,
                format!("{} has not yielded {}: it may be writing", owned.owner, owned.agreed.name),
            );
        }
        let from = owned.owner.clone();
        self.take_over(&from, item, Cause::Failure)
    }

    pub(super) fn transfer(
        &mut self,
        (service, epoch): (&ServiceId, Epoch),
        to: &CloudName,
        id: &MoveId,
        attempt: u32,
    ) -> Done {
        let epoch = match self.state.services.get(service) {
            Some(owned) if self.rules.has(Mutant::EpochNotCompared) => owned.epoch,
            _ => epoch,
        };
        let forgetful = self.rules.has(Mutant::CancelForgotten);
        let owned = self.own(service, epoch, "a transfer")?;
        if attempt < owned.attempt && !forgetful {
            let text =
                format!("the transfer {id} of {} to {to} was cancelled: {} keeps it", owned.agreed.name, owned.owner);
            return no(Code::Cancelled, text);
        }
        let full = owned.agreed.full;
        self.fit(service, to, false)?;
        self.hand(service, to, Phase::Taken { have: 0, want: full }, Cause::Handover);
        Ok(())
    }

    /// After this no transfer of this epoch that is numbered so, or lower, is taken: the owner may write again.
    pub(super) fn cancel(&mut self, service: &ServiceId, epoch: Epoch, id: &MoveId, attempt: u32) -> Done {
        let owned = self.own(service, epoch, "a cancel")?;
        owned.attempt = owned.attempt.max(attempt.saturating_add(1));
        self.told.push(Told::Cancelled { service: service.clone(), epoch, id: id.clone() });
        Ok(())
    }
}
