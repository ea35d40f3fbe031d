//! An operator gives up on a heir that may have signed and cannot be asked any more: the service is this cloud's again.
//!
//! Enters: an operator's word that the heir does not serve, whether the heir answers. Leaves: this cloud's signature under an epoch far
//! above the handover's, and the end of the move.
//! Always holds: never while the heir answers; never before it was asked to commit (a cancel does then) nor after it served; the record
//! of the move, the service's epoch and the signed word change in one transaction.

use super::{ask_path, client, of, put};
use crate::node::Note;
use crate::object::{MOVE, RECLAIM, SERVICE, ServiceRecord};
use crate::wire::HandoverState;
use crate::{Node, clock, register};
use pumasi_api::message::AbandonMove;
use pumasi_api::{CallError, Problem};
use pumasi_journey::moving::{self, Move};
use pumasi_lease::reclaim::{KIND, Reclaim, SIGNED_AS};
use pumasi_store::Expect;
use pumasi_terms::{API_VERSION, FieldError, Serial};
use pumasi_trust::SignedDocument;
use std::time::Duration;

/// Nothing was heard, so often, so far apart.
const ASKED: u32 = 3;
const APART: Duration = Duration::from_millis(500);

/// What the heir says of the lease that it was to own the service by.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Nothing,
    /// It lives, and its store knows no such lease.
    Unknown,
    Something(String),
}

fn may(m: &Move, heard: &Heard) -> Result<(), Problem> {
    if !m.is_beyond_recall() {
        let text =
            format!("the move of {} is at {:?}: nobody else can own it yet, or somebody does", m.service, m.step);
        return Err(Problem::conflict(format!("{text}; `pumasi move cancel` ends one that is under way")));
    }
    match heard {
        Heard::Nothing | Heard::Unknown => Ok(()),
        Heard::Something(said) => Err(Problem::conflict(format!(
            "{} answers ({said}): the move ends by its word, wait for it or ask its operator",
            m.to
        ))),
    }
}

async fn ask(node: &Node, m: &Move) -> Result<Heard, Problem> {
    let Some(path) = ask_path(m) else { return Ok(Heard::Nothing) };
    for n in 0..ASKED {
        if n > 0 {
            tokio::time::sleep(APART).await;
        }
        let said: Result<HandoverState, CallError> = client(node, m)?.get(&path).await;
        match said {
            Ok(state) if state.open => return Ok(Heard::Something("it serves".into())),
            Ok(state) => return Ok(Heard::Something(state.why)),
            Err(e) => match e.problem() {
                Some(p) if p.status == 404 => return Ok(Heard::Unknown),
                Some(p) => return Ok(Heard::Something(p.to_string())),
                None => {}
            },
        }
    }
    Ok(Heard::Nothing)
}

/// The service is served here again, at an epoch that no heir has.
pub async fn abandon(node: &Node, who: &str, service: &ServiceRecord, asked: AbandonMove) -> Result<Move, Problem> {
    let name = service.name().clone();
    let m = of(node, &name)?.filter(|m| m.id == service.id).ok_or_else(|| Problem::not_found("move of", &name))?;
    if asked.heir != m.to {
        let fault = FieldError { field: "heir".into(), problem: format!("{name} is being moved to {}", m.to) };
        return Err(Problem::fields("this move is not abandoned", vec![fault]));
    }
    node.may_act().map_err(Problem::unavailable)?;
    if service.registered && node.voting.is_on() {
        let text = format!(
            "the pact's voters look after {name}: if {} is lost, they see it and another cloud takes over",
            m.to
        );
        return Err(Problem::conflict(format!("{text}; pumasi pact show tells how it stands")));
    }
    may(&m, &Heard::Nothing)?;
    let owner = register::tenure(node, service)?.owner;
    if &owner != node.name() && owner != m.to {
        return Err(Problem::conflict(format!("{name} is served by {owner} by now")));
    }
    may(&m, &ask(node, &m).await?)?;
    let said = Reclaim {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        wish: m.wish.clone(),
        id: service.id.clone(),
        service: name.clone(),
        owner: node.name().clone(),
        from_epoch: service.epoch,
        heir: m.to.clone(),
        epoch: Reclaim::epoch_after(service.epoch),
        asked_by: who.to_owned(),
        why: asked.why,
        created_at: clock::wall(),
    };
    let payload = serde_json::to_vec(&said).map_err(|e| Problem::ours(e.to_string()))?;
    let signed = SignedDocument::sign_new(&payload, SIGNED_AS, node.name(), Serial(said.epoch.0), &node.identity.key)
        .map_err(|e| Problem::ours(e.to_string()))?;
    tracing::error!(service = %name, heir = %said.heir, epoch = %said.epoch, %who, why = %said.why,
        "a move is abandoned after its heir may have signed: if it serves all the same, there are two owners until it hears of this");
    let who = who.to_owned();
    node.transact(move |tx| {
        let now = clock::now();
        let changed = || Problem::conflict(format!("the move of {name} went on meanwhile; look again"));
        let stored = tx.get::<Move>(MOVE, name.as_str())?.filter(|s| s.body.wish == said.wish).ok_or_else(changed)?;
        let (next, told) = moving::abandon(&stored.body, &said.why, now).ok_or_else(changed)?;
        let record = tx.get::<ServiceRecord>(SERVICE, name.as_str())?;
        let record = record.filter(|r| r.body.id == said.id && r.body.epoch == said.from_epoch).ok_or_else(changed)?;
        let mut again = ServiceRecord { epoch: said.epoch, ..record.body };
        // What comes in at the heir, once it hears of this, is served here.
        again.entrances.insert(said.heir.clone());
        tx.put(SERVICE, name.as_str(), &again, Expect::Revision(record.revision))?;
        tx.put(RECLAIM, said.id.as_str(), &signed, Expect::Any)?;
        let text = format!(
            "{} owns it again at epoch {}: {who} answers for it that {} does not serve ({})",
            said.owner, said.epoch, said.heir, said.why
        );
        let note = Note::new("tenure_reclaimed", "service", &name).caused_by(&said.wish).because(text);
        tx.journal(note.entry(&who, now.wall))?;
        put(tx, &next, told, now)?;
        Ok(next)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_journey::moving::Step;
    use pumasi_terms::{BootMs, CloudName, MoveId, Now, ServiceId, ServiceName, WallMs};

    fn at(step: Step) -> Move {
        let service = (ServiceId::from_entropy(1), ServiceName::parse("notes").unwrap());
        let to = CloudName::parse("city-b").unwrap();
        let now = Now { boot: BootMs(1), wall: WallMs(1) };
        Move { step, ..Move::new(MoveId::from_entropy(1), service, to, "root".into(), now) }
    }

    #[test]
    fn a_heir_that_answers_is_never_given_up_on() {
        for step in [Step::Committing, Step::Opening, Step::Cancelling { why: String::new() }] {
            assert!(may(&at(step.clone()), &Heard::Nothing).is_ok());
            assert!(may(&at(step.clone()), &Heard::Unknown).is_ok(), "its store is another one");
            let refused = may(&at(step), &Heard::Something("it opens".into())).unwrap_err();
            assert!(refused.to_string().contains("city-b answers (it opens)"), "{refused}");
        }
    }

    #[test]
    fn before_and_after_it_there_is_nothing_to_abandon() {
        let fronted = Step::Fronted { at: WallMs(1) };
        for step in
            [Step::Placing, Step::Preparing, Step::Alerting, Step::Holding, Step::Freezing, Step::Catching, fronted]
        {
            assert!(may(&at(step), &Heard::Nothing).is_err());
        }
    }
}
