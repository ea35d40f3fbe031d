//! Proposing a step: compared with all, promised, signed by all. Nothing is in force yet.
//!
//! Always holds: a promise is stored before its signature is made, and a serial is used up only when every member answers.

use super::{CALL, PROPOSAL, Proposal, Shown, SignAnswer, call_failed, held, ours, overtaken, refused, state, view};
use crate::node::Note;
use crate::object::{INVITATION, ONLY, PACT};
use crate::wire::AskSignature;
use crate::{Node, clock};
use futures_util::future::join_all;
use pumasi_api::{Fault, Principal, Problem};
use pumasi_pact::{Adopted, Invitations, KIND, PactError, PactState, Promise, SERIAL_JUMP_MAX};
use pumasi_store::Expect;
use pumasi_terms::pact::{Member, Pact, Voting};
use pumasi_terms::{CloudName, Serial, WallMs};
use pumasi_trust::{SignedDocument, digest};
use std::time::Duration;

/// Proposals of one wish, each above the one that overtook the last.
pub(super) const TRIES: u32 = 4;

pub(super) const BACKOFF_MS_MAX: u64 = 400;

/// The one thing that a proposal changes.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Admit(Box<Member>),
    /// With the operator's reason.
    Dismiss(CloudName, String),
    Update(Box<Member>),
    /// None: the pact votes no more.
    Vote(Option<Box<Voting>>),
}

impl Step {
    fn pact(&self, held: &Adopted, serial: Serial, now: WallMs) -> Result<Pact, PactError> {
        let (pact, parent) = (&held.pact, held.digest());
        match self {
            Self::Admit(member) => pumasi_pact::admit(pact, parent, serial, (**member).clone(), now),
            Self::Dismiss(cloud, _) => pumasi_pact::dismiss(pact, parent, serial, cloud, now),
            Self::Update(member) => pumasi_pact::update_member(pact, parent, serial, (**member).clone(), now),
            Self::Vote(voting) => pumasi_pact::vote(pact, parent, serial, voting.as_deref().cloned(), now),
        }
    }
    /// Who is not asked.
    fn without(&self) -> Option<&CloudName> {
        match self {
            Self::Dismiss(cloud, _) => Some(cloud),
            _ => None,
        }
    }
    fn why(&self) -> &str {
        match self {
            Self::Dismiss(_, why) => why,
            _ => "",
        }
    }
    fn text(&self) -> String {
        match self {
            Self::Admit(member) => format!("{} asks to enter by an invitation", member.cloud),
            Self::Dismiss(cloud, _) => format!("the others part from {cloud}"),
            Self::Update(member) => format!("{} changes its entry", member.cloud),
            Self::Vote(voting) => super::vote::in_words(voting.as_deref()),
        }
    }
}

/// An invitation that this proposal answers.
#[derive(Clone)]
pub(super) struct Redeem {
    pub secret: Vec<u8>,
    pub cloud: CloudName,
    pub kid: String,
}

/// Keeps the promise, then signs. The same wish on the same pact gives the same bytes.
pub(super) async fn promise(
    node: &Node,
    who: &Principal,
    step: Step,
    redeem: Option<Redeem>,
) -> Result<SignedDocument, Problem> {
    // Whoever comes by an invitation is nobody yet; the journal says who it wants to be.
    let actor = match (who, &redeem) {
        (Principal::Stranger, Some(redeem)) => format!("{} (by invitation)", redeem.cloud),
        _ => who.to_string(),
    };
    let now = clock::wall();
    let (payload, serial) = node
        .transact(move |tx| {
            if let Some(r) = redeem {
                let mut open = tx.get::<Invitations>(INVITATION, ONLY)?.map(|s| s.body).unwrap_or_default();
                let bound = open.redeem(&r.secret, &r.cloud, &r.kid, now);
                bound.map_err(|e| Problem::new(403, "bad_invitation", Fault::Input, e.to_string()))?;
                tx.put(INVITATION, ONLY, &open, Expect::Any)?;
            }
            let state = state(tx)?;
            let held = held(&state)?;
            let old = tx.get::<Proposal>(PACT, PROPOSAL)?.map(|s| s.body);
            if let Some(old) = old.as_ref().filter(|o| o.at_least.is_none())
                && let Some(serial) = again(&state, held, old, &step)
            {
                return Ok((old.payload.clone(), serial));
            }
            let mut serial = state.next_serial().max(old.and_then(|o| o.at_least).unwrap_or_default());
            if let Step::Admit(member) = &step {
                serial = serial.max(state.floor_of(&member.cloud).next());
            }
            // Newcomers alone must not use up the serials that members need.
            if matches!(step, Step::Admit(_)) && serial.0 - held.pact.serial.0 > SERIAL_JUMP_MAX / 2 {
                let text = "too many proposals failed since the last change; change a member's terms first";
                return Err(Problem::conflict(text).into());
            }
            let pact = step.pact(held, serial, now).map_err(refused)?;
            let payload = String::from_utf8(pumasi_pact::payload(&pact).map_err(refused)?).map_err(ours)?;
            let promised = state.promise_own(serial, digest(payload.as_bytes())).map_err(refused)?;
            tx.put(PACT, ONLY, &promised, Expect::Any)?;
            let proposal = Proposal { payload: payload.clone(), at_least: None, complete: None };
            tx.put(PACT, PROPOSAL, &proposal, Expect::Any)?;
            let note = Note::new("pact_proposed", "pact", &pact.id).because(step.text());
            tx.journal(note.because(format!("serial {serial}")).entry(&actor, now))?;
            Ok((payload, serial))
        })
        .await?;
    SignedDocument::sign_new(payload.as_bytes(), KIND, node.name(), serial, &node.identity.key).map_err(ours)
}

/// The serial of an earlier proposal that says the same and is still promised.
pub(super) fn again(state: &PactState, held: &Adopted, old: &Proposal, step: &Step) -> Option<Serial> {
    let pact = pumasi_pact::read(old.payload.as_bytes()).ok()?;
    let promise = Promise { serial: pact.serial, digest: digest(old.payload.as_bytes()) };
    let same = state.promise() == Some(promise) && step.pact(held, pact.serial, pact.created_at).ok()? == pact;
    same.then_some(pact.serial)
}

pub(super) async fn back_off(attempt: u32) {
    if attempt > 0 {
        // Two who propose at the same time must not do so again.
        let ms = u64::try_from(clock::entropy() % u128::from(BACKOFF_MS_MAX)).unwrap_or(BACKOFF_MS_MAX);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

pub(super) fn others(node: &Node, pact: &Pact) -> Vec<Member> {
    pact.members.iter().filter(|m| &m.cloud != node.name()).cloned().collect()
}

/// Before a serial is used up: every member answers, and nobody has a newer pact.
pub(super) async fn compare(node: &Node, without: Option<&CloudName>) -> Result<(), Problem> {
    let view = view(node)?;
    let ask = |member: Member| async move {
        let client =
            node.peers.clients.of(node, &member.cloud).map_err(|e| (member.cloud.clone(), e))?.with_timeout(CALL);
        let failed = |e| call_failed(&member.cloud, "comparing the pact, which every member must sign", e);
        client.get::<Shown>("/v1/pact").await.map_err(|e| (member.cloud.clone(), failed(e)))
    };
    let answers = join_all(others(node, &view.pact).into_iter().filter(|m| Some(&m.cloud) != without).map(ask)).await;
    let mut silent = Vec::new();
    for answer in answers {
        match answer {
            Ok(shown) if shown.signed.serial() > view.pact.serial || shown.notices != view.notices => {
                super::learn(node, shown).await?;
            }
            Ok(_) => {}
            Err(silence) => silent.push(silence),
        }
    }
    // One that left does not answer; the others have told so by now.
    let now = node.pact();
    let member = |cloud: &CloudName| now.as_ref().is_some_and(|v| v.pact.member(cloud).is_some());
    silent.into_iter().find(|(cloud, _)| member(cloud)).map_or(Ok(()), |(_, problem)| Err(problem))
}

pub(super) enum Stop {
    Overtaken { next: Serial, why: String },
    Failed(Problem),
}

/// Asks every member that has not signed yet.
pub(super) async fn collect(node: &Node, document: &SignedDocument, why: &str) -> Result<SignedDocument, Stop> {
    let pact = pumasi_pact::read(document.unverified_payload()).map_err(|e| Stop::Failed(refused(e)))?;
    let ask = |member: Member| async move {
        let client = node.peers.clients.of(node, &member.cloud)?.with_timeout(CALL);
        let notices = node.pact().map(|v| v.notices.clone()).unwrap_or_default();
        let body = AskSignature { document: document.clone(), notices, why: why.to_owned() };
        let answer = client.post::<SignAnswer>("/v1/pact/signatures", &body).await;
        answer.map(|a| (member.cloud.clone(), a)).map_err(|e| call_failed(&member.cloud, "signing the next pact", e))
    };
    let missing = others(node, &pact).into_iter().filter(|m| !document.signed_by(&m.cloud));
    let (mut full, mut stop) = (document.clone(), None);
    for answer in join_all(missing.map(ask)).await {
        match answer.map_err(Stop::Failed)? {
            (cloud, SignAnswer::Signed { document: theirs }) => {
                let merged = full.merge(&theirs).ok().filter(|d| d.signed_by(&cloud));
                let text = || format!("signing the next pact: {cloud} signed something else");
                full = merged.ok_or_else(|| Stop::Failed(Problem::new(502, "peer_garbled", Fault::Peer, text())))?;
            }
            (cloud, SignAnswer::Taken { next }) => {
                stop = Some(Stop::Overtaken {
                    next,
                    why: format!("{cloud} has promised that serial to another proposal"),
                });
            }
            (cloud, SignAnswer::Behind { held }) => {
                stop = Some(Stop::Overtaken { next: held.next(), why: format!("{cloud} holds serial {held}") });
            }
        }
    }
    stop.map_or(Ok(full), Err)
}

/// The next proposal goes above; a member cannot make us run out of serials by this.
pub(super) async fn step_aside(node: &Node, next: Serial) -> Result<(), Problem> {
    node.transact(move |tx| {
        let ceiling = held(&state(tx)?)?.pact.serial.0 + SERIAL_JUMP_MAX / 2;
        if let Some(proposal) = tx.get::<Proposal>(PACT, PROPOSAL)? {
            let at_least = Some(Serial(next.0.min(ceiling)));
            tx.put(PACT, PROPOSAL, &Proposal { at_least, ..proposal.body }, Expect::Any)?;
        }
        Ok(())
    })
    .await
}

pub(super) async fn abandoned(node: &Node, document: &SignedDocument, why: &str) {
    let subject = format!("serial {}", document.serial());
    node.note("daemon", Note::new("pact_not_changed", "pact", subject).because(why)).await;
}

/// Signed by all, adopted by nobody.
pub(super) async fn propose(node: &Node, who: &Principal, step: Step) -> Result<SignedDocument, Problem> {
    let mut last = String::new();
    for attempt in 0..TRIES {
        back_off(attempt).await;
        compare(node, step.without()).await?;
        let document = promise(node, who, step.clone(), None).await?;
        match collect(node, &document, step.why()).await {
            Ok(full) => return Ok(full),
            Err(Stop::Failed(problem)) => {
                if problem.code != "needs_operator" {
                    abandoned(node, &document, &problem.detail).await;
                }
                return Err(problem);
            }
            Err(Stop::Overtaken { next, why }) => {
                abandoned(node, &document, &why).await;
                step_aside(node, next).await?;
                last = why;
            }
        }
    }
    Err(overtaken(format!("others changed the pact at the same time ({last}); try again")))
}
