//! What would become of this cloud's services if it were lost, asked day by day without anybody's wish.
//!
//! Enters: the register, the plan that a loss would be answered with. Leaves: the last such plan, for people and monitors; an entry of
//! the journal where a promise would not be kept, and where it would be again.
//! Always holds: nothing but what is told follows from it; a plan that could not be made is no good news: the age of the last one is told.

use super::rehearse;
use crate::node::{Locked, Note};
use crate::{Node, clock};
use pumasi_api::message::{RehearsalView, RehearsedService};
use pumasi_ownership::State;
use pumasi_terms::{BootMs, CloudName, Epoch, ServiceId, WallMs};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where everything is as promised.
const DAY_MS: u64 = 86_400_000;
/// Where something is not, so that what was mended is seen.
const AGAIN_MS: u64 = 300_000;
/// After a change of what is protected, and of who could take over.
const SETTLED_MS: u64 = 10_000;

/// Which services are protected, under which epoch, by whom: what a plan was made of.
type Basis = BTreeMap<ServiceId, (Epoch, Vec<CloudName>)>;

#[derive(Debug, Clone)]
pub struct Rehearsed {
    pub at: WallMs,
    pub view: RehearsalView,
    boot: BootMs,
    basis: Basis,
}

impl Rehearsed {
    /// What would not be kept.
    pub fn short(&self) -> impl Iterator<Item = &RehearsedService> {
        self.view.services.iter().filter(|s| s.falls_short)
    }
}

#[derive(Debug, Default)]
pub struct Last {
    last: Locked<Option<Rehearsed>>,
    /// Another basis than that of the last one, since when.
    changed: Locked<Option<(Basis, BootMs)>>,
}

impl Last {
    pub fn get(&self) -> Option<Rehearsed> {
        self.last.lock().clone()
    }

    /// A line for each promise that would not be kept.
    pub(super) fn remarks(&self) -> Vec<String> {
        self.last
            .lock()
            .as_ref()
            .map(|last| last.short().map(|s| in_words(&last.view.lose, s)).collect())
            .unwrap_or_default()
    }
}

fn in_words(lost: &CloudName, s: &RehearsedService) -> String {
    let mend = if s.mend.is_empty() { String::new() } else { format!("; {}", s.mend) };
    format!("if {lost} were lost, {} ({}) would be {}: {}{mend}", s.service, s.class, s.outcome, s.why)
}

fn basis(state: &State, own: &CloudName) -> Basis {
    let of = |standbys: &[pumasi_ownership::state::StandbyAt]| standbys.iter().map(|s| s.cloud.clone()).collect();
    state.owned_by(own).map(|(id, o)| (id.clone(), (o.epoch, of(&o.agreed.standbys)))).collect()
}

/// Whether it is time; `changed_at`: since when the basis has been the one that it is, where the last plan had another.
fn is_due(last: Option<&Rehearsed>, changed_at: Option<BootMs>, now: BootMs) -> bool {
    let settled = changed_at.is_some_and(|at| now.since(at) >= SETTLED_MS);
    let every_ms = |last: &Rehearsed| if last.short().next().is_some() { AGAIN_MS } else { DAY_MS };
    settled || last.is_some_and(|last| now.since(last.boot) >= every_ms(last))
}

pub(super) async fn reconcile(node: &Arc<Node>) {
    let Some(state) = node.voting.state() else { return };
    // One without a right is not asked after: the others are about to carry out what would be rehearsed.
    if node.voting.right_until().is_none() || node.may_act().is_err() {
        return;
    }
    let (rehearsed, now) = (&node.takeover.rehearsed, clock::boot());
    let (last, basis) = (rehearsed.get(), basis(&state, node.name()));
    let before = last.as_ref().map(|l| &l.basis);
    let changed_at = {
        let mut changed = rehearsed.changed.lock();
        match (before == Some(&basis) || (before.is_none() && basis.is_empty()), &*changed) {
            (true, _) => *changed = None,
            (false, Some((to, _))) if to == &basis => {}
            (false, _) => *changed = Some((basis.clone(), now)),
        }
        changed.as_ref().map(|(_, since)| *since)
    };
    if !is_due(last.as_ref(), changed_at, now) {
        return;
    }
    match rehearse::rehearse(node, node.name()).await {
        Ok(view) => {
            let new = Rehearsed { at: clock::wall(), view, boot: now, basis };
            tell(node, last.as_ref(), &new).await;
            *rehearsed.last.lock() = Some(new);
        }
        Err(e) => tracing::warn!(error = %e, "what a loss of this cloud would do was not rehearsed; tried again"),
    }
}

/// Each service whose fate another one is than before.
async fn tell(node: &Node, last: Option<&Rehearsed>, new: &Rehearsed) {
    let was_short = |s: &RehearsedService| last.is_some_and(|l| l.short().any(|b| b.service == s.service));
    for s in &new.view.services {
        let note = match (was_short(s), s.falls_short) {
            (false, true) => Note::new("rehearsal_failed", "service", &s.service).because(in_words(&new.view.lose, s)),
            (true, false) => Note::new("rehearsal_passed", "service", &s.service)
                .because(format!("if {} were lost, it would go on as promised", new.view.lose)),
            _ => continue,
        };
        node.note("daemon", note).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_terms::ServiceName;

    fn made(at: u64, falls_short: bool) -> Rehearsed {
        let service = RehearsedService {
            service: ServiceName::parse("notes").unwrap(),
            class: "guaranteed".into(),
            priority: 1,
            outcome: "impossible".into(),
            heir: None,
            instances: 0,
            of: 2,
            grows_to: None,
            grows_in_ms: None,
            rto_ms: None,
            rpo: String::new(),
            why: "notes has no standby".into(),
            mend: "agree on one".into(),
            falls_short,
        };
        let lose = CloudName::parse("city-a").unwrap();
        let view = RehearsalView { lose, noticed_ms: 1, asks: false, silent: Vec::new(), services: vec![service] };
        Rehearsed { at: WallMs(0), view, boot: BootMs(at), basis: Basis::new() }
    }

    #[test]
    fn it_is_due_daily_sooner_where_something_falls_short_and_after_a_change_that_lasts() {
        let due = |last: Option<&Rehearsed>, changed: Option<u64>, now| is_due(last, changed.map(BootMs), BootMs(now));
        assert!(!due(None, None, DAY_MS), "nothing is protected");
        let (fits, short) = (made(0, false), made(0, true));
        assert_eq!([DAY_MS - 1, DAY_MS].map(|now| due(Some(&fits), None, now)), [false, true]);
        assert_eq!([AGAIN_MS - 1, AGAIN_MS].map(|now| due(Some(&short), None, now)), [false, true]);
        assert_eq!([SETTLED_MS - 1, SETTLED_MS].map(|now| due(None, Some(0), now)), [false, true]);
        assert!(due(Some(&fits), Some(5), 5 + SETTLED_MS));
    }

    #[test]
    fn a_remark_names_the_service_the_reason_and_what_would_mend_it() {
        let last = Last::default();
        assert!(last.remarks().is_empty());
        *last.last.lock() = Some(made(0, true));
        assert_eq!(
            last.remarks(),
            ["if city-a were lost, notes (guaranteed) would be impossible: notes has no standby; agree on one"]
        );
    }
}
