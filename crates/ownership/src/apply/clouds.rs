//! Members, their runs, and their renewals.

use super::{Done, Step};
use crate::command::{ELAPSED_MS_MAX, Renewal};
use crate::state::{CLOUDS_MAX, Cloud, Health, Standing, Voting};
use crate::told::{Code, Told, no};
use pumasi_terms::{CloudName, Resources};

impl Step<'_> {
    pub(super) fn voter(&self, what: &str) -> Done {
        let by = &self.entry.by;
        if self.state.is_voter(by) { Ok(()) } else { no(Code::NotYours, format!("{what} is for voters; {by} is none")) }
    }

    fn member(&self, cloud: &CloudName) -> Done {
        if &self.entry.by != cloud {
            return no(
                Code::NotYours,
                format!("{cloud} says itself under which run it is alive, not {}", self.entry.by),
            );
        }
        if !self.state.voting.members.contains_key(cloud) {
            return no(Code::UnknownCloud, format!("{cloud} is no member of serial {}", self.state.voting.serial));
        }
        Ok(())
    }

    pub(super) fn join(&mut self, cloud: &CloudName, run: u64) -> Done {
        self.member(cloud)?;
        if let Some(known) = self.state.clouds.get(cloud) {
            return no(
                Code::OtherRun,
                format!("{cloud} is known under run {}: it rejoins with a higher one", known.run),
            );
        }
        if self.state.clouds.len() >= CLOUDS_MAX {
            return no(Code::Full, format!("the pact has had {CLOUDS_MAX} clouds, and remembers no more"));
        }
        let timers = &self.state.voting.timers;
        let new = Cloud {
            run,
            seq: 0,
            ttl_ms: timers.ttl_ms,
            standing: Standing::Alive,
            free: Resources::default(),
            health: Health::Well,
            probation_ms: timers.probation_ms,
            lost_at_ms: None,
        };
        self.state.clouds.insert(cloud.clone(), new);
        self.told.push(Told::Stands { cloud: cloud.clone(), standing: Standing::Alive });
        Ok(())
    }

    /// A cloud that is alive and only has a new process stays alive; one that was lost is on probation.
    pub(super) fn rejoin(&mut self, cloud: &CloudName, run: u64) -> Done {
        self.member(cloud)?;
        let elapsed = self.state.elapsed_ms;
        let Some(known) = self.state.clouds.get_mut(cloud) else {
            return no(Code::UnknownCloud, format!("{cloud} is not known yet: it joins first"));
        };
        if run <= known.run {
            return no(
                Code::OtherRun,
                format!("{cloud} asks for run {run}, {} is known: it takes a higher one", known.run),
            );
        }
        if known.standing != Standing::Alive {
            known.standing = Standing::Returning { since_ms: elapsed, seen_ms: elapsed };
        }
        // The ttl stays: whoever waits for this run waits no less than for the one before.
        (known.run, known.seq, known.free) = (run, 0, Resources::default());
        self.told.push(Told::Stands { cloud: cloud.clone(), standing: known.standing });
        // What it owns still is its own again, and whatever was planned for it is void.
        self.state.recovery.remove(cloud);
        Ok(())
    }

    /// What is not taken (an older run, a lost cloud) is not told: its sender sees it in the register, and it comes several times a second.
    pub(super) fn renew(&mut self, elapsed_ms: u64, renewals: &[Renewal]) -> Done {
        self.voter("a batch of renewals")?;
        self.state.elapsed_ms = self.state.elapsed_ms.saturating_add(elapsed_ms.min(ELAPSED_MS_MAX));
        let (now, timers) = (self.state.elapsed_ms, &self.state.voting.timers);
        for renewal in renewals {
            let Some(cloud) = self.state.clouds.get_mut(&renewal.cloud) else { continue };
            let fits = (timers.ttl_ms..=timers.ttl_ms_max).contains(&renewal.ttl_ms);
            if renewal.run != cloud.run || renewal.seq <= cloud.seq || !fits {
                continue;
            }
            if let Standing::Lost { .. } | Standing::Left = cloud.standing {
                continue;
            }
            if let Standing::Returning { since_ms, seen_ms } = cloud.standing {
                let broken = now.saturating_sub(seen_ms) > cloud.ttl_ms;
                let since_ms = if broken { now } else { since_ms };
                let over = now.saturating_sub(since_ms) >= cloud.probation_ms.max(timers.probation_ms(renewal.ttl_ms));
                cloud.standing = if over { Standing::Alive } else { Standing::Returning { since_ms, seen_ms: now } };
                if over {
                    self.told.push(Told::Stands { cloud: renewal.cloud.clone(), standing: Standing::Alive });
                }
            }
            (cloud.seq, cloud.ttl_ms) = (renewal.seq, renewal.ttl_ms);
            (cloud.free, cloud.health) = (renewal.free, renewal.health);
        }
        Ok(())
    }

    /// A newer serial. A member that leaves owns nothing, or is lost and keeps its record until it owns nothing.
    pub(super) fn pact(&mut self, voting: &Voting) -> Done {
        self.voter("the pact's serial")?;
        let state = &mut *self.state;
        if voting.serial <= state.voting.serial {
            return no(
                Code::OlderSerial,
                format!("serial {} is not above {}, which is in force", voting.serial, state.voting.serial),
            );
        }
        if let Err(e) = voting.check() {
            return no(Code::Unfit, format!("serial {} of the pact cannot vote: {e}", voting.serial));
        }
        let leaves = |cloud: &CloudName| !voting.members.contains_key(cloud);
        let lost =
            |cloud: &CloudName| state.clouds.get(cloud).is_some_and(|c| matches!(c.standing, Standing::Lost { .. }));
        let owns = |(_, owned): &(_, &crate::state::Owned)| {
            let witness = voting.members.get(&owned.owner) == Some(&crate::state::Role::Witness);
            (leaves(&owned.owner) || witness) && !lost(&owned.owner)
        };
        if let Some((id, owned)) = state.services.iter().find(owns) {
            let text = format!(
                "serial {} has no place for {}, which owns {} ({id}): move it or end its protection first",
                voting.serial, owned.owner, owned.agreed.name
            );
            return no(Code::OwnsStill, text);
        }
        let owners: std::collections::BTreeSet<_> = state.services.values().map(|o| o.owner.clone()).collect();
        for (name, cloud) in &mut state.clouds {
            if leaves(name) && cloud.standing != Standing::Left && !owners.contains(name) {
                cloud.standing = Standing::Left;
                state.recovery.remove(name);
                self.told.push(Told::Stands { cloud: name.clone(), standing: Standing::Left });
            }
        }
        state.voting = voting.clone();
        self.told.push(Told::Pact { serial: voting.serial });
        Ok(())
    }
}
