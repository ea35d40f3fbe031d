//! A handover of a service that the pact's voters look after: they commit it before the heir signs.
//!
//! Enters: a move that is at its commit, or is to be cancelled there; the register. Leaves: `Transfer` or `Cancel`, and what became of it.
//! Always holds: this cloud writes again only after the register has a cancel, which no transfer of before can overtake; an outcome that
//! is not known is asked about by reading the register, and decides nothing.

use super::answered_positions;
use crate::object::{SERVICE, ServiceRecord};
use crate::{Node, voting};
use pumasi_journey::moving::Move;
use pumasi_ownership::{Command, refusal};
use pumasi_terms::Epoch;

pub(super) enum Committed {
    /// The voters do not look after this service.
    NotAsked,
    Yes,
    No {
        why: String,
        fatal: bool,
    },
}

pub(super) enum Fate {
    /// This cloud owns it, and no transfer of before is taken any more.
    Here,
    Heirs,
    Unknown(String),
}

enum Stand {
    Unregistered,
    Ours { epoch: Epoch, attempt: u32 },
    Heirs,
    Unknown(String),
}

fn stand(node: &Node, m: &Move) -> Stand {
    let service = match node.item::<ServiceRecord>(SERVICE, m.service.as_str()) {
        Ok(Some(service)) => service,
        Ok(None) => return Stand::Unknown(format!("the record of {} is not here", m.service)),
        Err(e) => return Stand::Unknown(e.to_string()),
    };
    if !service.registered || !node.voting.is_on() {
        return Stand::Unregistered;
    }
    let Some(state) = node.voting.state() else {
        return Stand::Unknown("the register of the pact is not known here yet".into());
    };
    match state.services.get(&service.id) {
        None => Stand::Unregistered,
        Some(owned) if &owned.owner == node.name() && owned.epoch == service.epoch => {
            Stand::Ours { epoch: owned.epoch, attempt: owned.attempt }
        }
        Some(owned) if owned.owner == m.to && owned.epoch == service.epoch.next() => Stand::Heirs,
        Some(owned) => {
            Stand::Unknown(format!("the register names {} at epoch {} as its owner", owned.owner, owned.epoch))
        }
    }
}

pub(super) async fn commit(node: &Node, m: &Move) -> Committed {
    let (epoch, attempt) = match stand(node, m) {
        Stand::Unregistered => return Committed::NotAsked,
        Stand::Heirs => return Committed::Yes,
        Stand::Unknown(why) => return Committed::No { why, fatal: false },
        Stand::Ours { epoch, attempt } => (epoch, attempt),
    };
    let positions = m.lease.as_ref().map(|lease| answered_positions(node, lease)).unwrap_or_default();
    let command =
        Command::Transfer { service: m.id.clone(), epoch, to: m.to.clone(), id: m.wish.clone(), attempt, positions };
    match voting::propose(node, command).await {
        Err(e) => Committed::No { why: e.to_string(), fatal: false },
        Ok(told) => match (refusal(&told), stand(node, m)) {
            (_, Stand::Heirs) => Committed::Yes,
            // Another try may be under way still: the machine cancels, and that ends it.
            (Some(why), _) => Committed::No { why: why.to_string(), fatal: true },
            (None, _) => Committed::No { why: "the register has not named the heir yet".into(), fatal: false },
        },
    }
}

pub(super) async fn cancel(node: &Node, m: &Move) -> Fate {
    let (epoch, attempt) = match stand(node, m) {
        Stand::Unregistered => return Fate::Here,
        Stand::Heirs => return Fate::Heirs,
        Stand::Unknown(why) => return Fate::Unknown(why),
        Stand::Ours { epoch, attempt } => (epoch, attempt),
    };
    let (service, id) = (m.id.clone(), m.wish.clone());
    match voting::propose(node, Command::Cancel { service, epoch, id, attempt }).await {
        Err(e) => Fate::Unknown(e.to_string()),
        Ok(told) => match (refusal(&told), stand(node, m)) {
            (_, Stand::Heirs) => Fate::Heirs,
            (Some(why), _) => Fate::Unknown(why.to_string()),
            (None, _) => Fate::Here,
        },
    }
}
