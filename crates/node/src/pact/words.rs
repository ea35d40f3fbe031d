//! What waits for an operator's word: newcomers that other members invited, and members from which the others would part.
//!
//! Enters: proposals of members, the operator's word. Leaves: whether this cloud signs.
//! Always holds: without a person's word this cloud signs no newcomer that it did not invite itself (unless its configuration
//! says so) and no dismissal; the list is bounded, and nobody pushes out what another member asked.

use super::propose::{Step, propose};
use super::{may_sign, one_at_a_time, own_bytes, refused, view};
use crate::config::Admit;
use crate::node::{Note, TxError};
use crate::object::PACT;
use crate::pact::adopt::{Basis, take_over, tell};
use crate::{Node, clock};
use pumasi_api::message::{PactProposal, Word};
use pumasi_api::{Fault, Principal, Problem};
use pumasi_pact::{Change, PactError};
use pumasi_store::{Expect, Tx};
use pumasi_terms::pact::Pact;
use pumasi_terms::{CloudName, WallMs};
use serde::{Deserialize, Serialize};

const ASKED: &str = "asked";
/// A dismissal that this cloud's operator wants and the others have not all agreed to.
const WISH: &str = "dismissing";
/// Proposals of one member that may wait; its oldest goes first.
const ASKED_MAX: usize = 8;
/// A word is good for so long.
const WORD_MS: i64 = 30 * 24 * 3_600_000;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct AskedList {
    version: u32,
    asked: Vec<PactProposal>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Wish {
    version: u32,
    cloud: CloudName,
    why: String,
    by: String,
    since: WallMs,
    waits_for: String,
}

/// The same change under another serial is the same question; another entry of the newcomer is another one.
fn id_of(change: &Change, new: &Pact) -> String {
    let text = match change {
        Change::Admitted { cloud, .. } => {
            format!("admit {cloud} {}", serde_json::to_string(&new.member(cloud)).unwrap_or_default())
        }
        Change::Dismissed { cloud } => format!("dismiss {cloud}"),
        Change::Left { cloud } | Change::Updated { cloud } => format!("other {cloud}"),
        Change::Voting => "voting".into(),
    };
    let digest = own_bytes(text.as_bytes()).to_string();
    digest.trim_start_matches("blake3:").chars().take(12).collect()
}

/// What keeps this cloud from signing, if anything does. It is written down for the operator.
pub(super) fn word_on(
    tx: &mut Tx<'_>,
    node: (&CloudName, Admit),
    from: &CloudName,
    change: &Change,
    new: &Pact,
    why: &str,
) -> Result<Option<Problem>, TxError> {
    let (own, admit) = node;
    let (what, cloud) = match change {
        Change::Admitted { cloud, sponsors } if admit == Admit::Ask && !sponsors.contains(own) => ("admission", cloud),
        Change::Dismissed { cloud } => ("dismissal", cloud),
        _ => return Ok(None),
    };
    let now = clock::wall();
    let mut list = tx.get::<AskedList>(PACT, ASKED)?.map(|s| s.body).unwrap_or_default();
    list.asked.retain(|a| now.0.saturating_sub(a.since.0) < WORD_MS);
    let id = id_of(change, new);
    let text = format!("{what} of {cloud}");
    match list.asked.iter().find(|a| a.id == id).map(|a| a.word) {
        Some(Word::Agreed) => return Ok(None),
        Some(Word::Refused) => {
            return Ok(Some(Problem::new(
                403,
                "refused",
                Fault::Input,
                format!("the operator of {own} refuses the {text}"),
            )));
        }
        Some(Word::Waiting) => {}
        None => {
            while list.asked.iter().filter(|a| &a.by == from).count() >= ASKED_MAX {
                let oldest = list.asked.iter().position(|a| &a.by == from).unwrap_or(0);
                list.asked.remove(oldest);
            }
            let lends = new.member(cloud).map(|m| m.terms.lends);
            let (why, word) = (why.chars().take(500).collect(), Word::Waiting);
            let asked = PactProposal {
                id: id.clone(),
                what: text.clone(),
                cloud: cloud.clone(),
                by: from.clone(),
                why,
                lends,
                since: now,
                word,
            };
            list.asked.push(asked);
            list.version = 1;
            tx.put(PACT, ASKED, &list, Expect::Any)?;
            let note = Note::new("pact_word_asked", "cloud", cloud).because(format!("{from} proposes the {text}"));
            let note = note.because(format!("`pumasi pact approve {id}` or `pumasi pact refuse {id}`"));
            tx.journal(note.entry(&Principal::Peer(from.clone()).to_string(), now))?;
        }
    }
    Ok(Some(refused(PactError::NeedsOperator(format!("{text} ({own}: `pumasi pact approve {id}`)")))))
}

/// Words about clouds that came or went are spent.
pub(super) fn spent(tx: &mut Tx<'_>, pact: &Pact) -> Result<(), TxError> {
    let Some(list) = tx.get::<AskedList>(PACT, ASKED)?.map(|s| s.body) else { return Ok(()) };
    let open = |a: &PactProposal| a.what.starts_with("admission") != pact.member(&a.cloud).is_some();
    let asked: Vec<_> = list.asked.iter().filter(|a| open(a)).cloned().collect();
    if asked.len() != list.asked.len() {
        tx.put(PACT, ASKED, &AskedList { version: 1, asked }, Expect::Any)?;
    }
    Ok(())
}

/// For the operator: what waits here, and what this cloud waits for.
pub fn proposals(node: &Node) -> Result<Vec<PactProposal>, Problem> {
    let problem = |e: pumasi_store::StoreError| crate::node::store_problem(&e);
    let list = node.store.get::<AskedList>(PACT, ASKED).map_err(problem)?.map(|s| s.body).unwrap_or_default();
    let wish = node.store.get::<Wish>(PACT, WISH).map_err(problem)?.map(|s| s.body);
    let own = wish.map(|w| PactProposal {
        id: "own".into(),
        what: format!("dismissal of {}; {}", w.cloud, w.waits_for),
        cloud: w.cloud,
        by: node.name().clone(),
        why: w.why,
        lends: None,
        since: w.since,
        word: Word::Agreed,
    });
    Ok(list.asked.into_iter().chain(own).collect())
}

pub async fn say(node: &Node, who: &Principal, id: String, agreed: bool, why: String) -> Result<PactProposal, Problem> {
    let actor = who.to_string();
    node.transact(move |tx| {
        let mut list = tx.get::<AskedList>(PACT, ASKED)?.map(|s| s.body).unwrap_or_default();
        let Some(asked) = list.asked.iter_mut().find(|a| a.id == id) else {
            return Err(Problem::not_found("proposal of the pact", &id).into());
        };
        asked.word = if agreed { Word::Agreed } else { Word::Refused };
        let said = asked.clone();
        tx.put(PACT, ASKED, &list, Expect::Any)?;
        let action = if agreed { "pact_word_given" } else { "pact_word_refused" };
        let note = Note::new(action, "cloud", &said.cloud).because(said.what.clone());
        let note = if why.is_empty() { note } else { note.because(why) };
        tx.journal(note.entry(&actor, clock::wall()))?;
        Ok(said)
    })
    .await
}

/// The others part from a member. Done where all of them agree at once; otherwise their operators are asked, and this daemon
/// asks again until they have said so. What this answers is for the operator.
pub async fn dismiss(node: &Node, who: &Principal, cloud: CloudName, why: String) -> Result<String, Problem> {
    may_sign(node)?;
    if &cloud == node.name() {
        return Err(Problem::bad_request("a cloud does not dismiss itself: `pumasi pact leave`"));
    }
    if view(node)?.pact.member(&cloud).is_none() {
        return Err(Problem::not_found("member", &cloud));
    }
    let wish = Wish {
        version: 1,
        cloud: cloud.clone(),
        why: why.clone(),
        by: who.to_string(),
        since: clock::wall(),
        waits_for: String::new(),
    };
    let actor = who.to_string();
    let kept = wish.clone();
    node.transact(move |tx| {
        tx.put(PACT, WISH, &kept, Expect::Any)?;
        let note = Note::new("dismissal_asked", "cloud", &kept.cloud).because(kept.why.clone());
        tx.journal(note.entry(&actor, clock::wall()))?;
        Ok(())
    })
    .await?;
    ask_all(node, wish).await
}

async fn ask_all(node: &Node, wish: Wish) -> Result<String, Problem> {
    let _one = one_at_a_time(node).await?;
    let before = view(node)?;
    let Some(gone) = before.pact.member(&wish.cloud).cloned() else {
        drop_wish(node).await?;
        return Ok(format!("{} is no member any more", wish.cloud));
    };
    match propose(node, &Principal::Daemon, Step::Dismiss(wish.cloud.clone(), wish.why.clone())).await {
        Ok(full) => {
            take_over(node, &Principal::Daemon, full.clone(), Basis::Ours).await?;
            drop_wish(node).await?;
            tell(node, &full).await?;
            // It hears why nobody answers it any more, where it can be reached; nothing depends on that.
            if let Ok(client) = super::notices::pinned_client(node, &gone) {
                let body = crate::wire::Signed { document: full };
                let _ = client.put::<crate::wire::Signed>("/v1/pact/current", &body).await;
            }
            Ok(format!("{} is dismissed", wish.cloud))
        }
        Err(p) if p.code == "needs_operator" => {
            let waits_for = p.detail.clone();
            node.transact(move |tx| {
                tx.put(PACT, WISH, &Wish { waits_for, ..wish }, Expect::Any)?;
                Ok(())
            })
            .await?;
            Ok(format!("asked; {}; this daemon asks again by itself", p.detail))
        }
        Err(p) if p.code == "refused" => {
            drop_wish(node).await?;
            Err(p)
        }
        Err(p) => Err(p),
    }
}

async fn drop_wish(node: &Node) -> Result<(), Problem> {
    node.transact(|tx| Ok(tx.delete(PACT, WISH, Expect::Any).map(drop)?)).await
}

/// Seldom: what was asked and not answered is asked again.
pub async fn go_on(node: &Node) -> Result<(), Problem> {
    super::notices::bid_farewell(node).await?;
    let wish = node.store.get::<Wish>(PACT, WISH).map_err(|e| crate::node::store_problem(&e))?;
    let Some(wish) = wish.map(|s| s.body) else { return Ok(()) };
    if node.pact().is_none() || clock::wall().0.saturating_sub(wish.since.0) > WORD_MS {
        return drop_wish(node).await;
    }
    ask_all(node, wish).await.map(drop)
}

/// Everything of the words is forgotten with the pact.
pub(super) fn forget_words(tx: &mut Tx<'_>) -> Result<(), TxError> {
    for name in [ASKED, WISH] {
        tx.delete(PACT, name, Expect::Any)?;
    }
    Ok(())
}
