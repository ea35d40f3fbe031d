//! Making the next pact, and reading one: form, not consent.

use crate::DOCUMENT_KIND;
use pumasi_ownership::Voting as Register;
use pumasi_ownership::state::BadVoting;
use pumasi_terms::pact::{Member, Pact, Voting};
use pumasi_terms::{API_VERSION, CloudName, Digest, FieldError, PactId, Serial, Validate, WallMs};
use pumasi_trust::{Bundle, BundleError, KeyError, PublicKey, VerifyError};
use std::collections::{BTreeMap, BTreeSet};

/// Why a pact is refused.
#[derive(Debug, thiserror::Error)]
pub enum PactError {
    #[error("the pact is not of a form that this program reads: {0}")]
    Unreadable(String),
    #[error("the pact is of version {0:?}, this program reads {API_VERSION}: use a newer program")]
    Version(String),
    #[error("{}: {}", .0.first().map_or("pact", |f| f.field.as_str()), .0.first().map_or("is wrong", |f| f.problem.as_str()))]
    Fields(Vec<FieldError>),
    #[error("the bundle of {cloud}: {source}")]
    Bundle { cloud: CloudName, source: BundleError },
    #[error("the document key of {cloud}: {source}")]
    Key { cloud: CloudName, source: KeyError },
    #[error("{0} and {1} name the same document key; each cloud has its own")]
    SharedKey(CloudName, CloudName),
    #[error("{0} is a member already; names are not given twice")]
    NameTaken(CloudName),
    #[error("{0} is no member of the pact")]
    NoMember(CloudName),
    #[error("the last member cannot leave; a pact of nobody is none")]
    LastMember,
    #[error(transparent)]
    Document(#[from] VerifyError),
    #[error("the document says serial {signed}, its content {written}")]
    SerialMismatch { signed: Serial, written: Serial },
    #[error("{found} is another pact than ours, {held}")]
    OtherPact { held: PactId, found: PactId },
    #[error("serial {offered} is not above {held}, which is held")]
    NotNewer { held: Serial, offered: Serial },
    #[error("serial {offered} is promised to another proposal, or too far ahead: propose again with {next}")]
    SerialTaken { offered: Serial, next: Serial },
    #[error("the proposal does not follow from the pact that is held (serial {held}): fetch the newer one first")]
    OtherParent { held: Serial },
    #[error("the proposal is dated before the pact that it follows")]
    GoesBack,
    #[error("one step may change one thing: {0}")]
    ManyChanges(String),
    #[error("the currency may not change while leases are priced in it")]
    Currency,
    #[error("{0} is changed without its own signature")]
    Unsigned(CloudName),
    #[error("no member speaks for the newcomer {0}: the signature of the one that invited it is missing")]
    NoSponsor(CloudName),
    #[error("the bundle of {cloud} goes back: {source}")]
    BundleGoesBack { cloud: CloudName, source: BundleError },
    #[error("{0}: an operator must agree to this (`pumasi pact approve`)")]
    NeedsOperator(String),
    #[error("{0}: {1} needs every member's signature; one's own signature is enough for less")]
    NeedsAll(CloudName, String),
    #[error("another document key or bundle of {0} needs the word of its authority, by a root that is known")]
    NoAuthority(CloudName),
    #[error("the pact does not name this cloud, {0}")]
    NotOurs(CloudName),
    #[error("the pact's entry for this cloud is not the one that was sent")]
    OurEntryDiffers,
    #[error("the pact is not that of the invitation: {0}")]
    NotInvited(&'static str),
    #[error("the pact cannot vote so: {0}")]
    Voting(#[from] BadVoting),
    #[error("voting that goes on keeps the serial with which it began; voting that begins names its own")]
    VotingSince,
}

/// The members' document keys. A pact that was `read` has them all.
pub(crate) fn keys(pact: &Pact) -> Result<BTreeMap<CloudName, PublicKey>, PactError> {
    pact.members
        .iter()
        .map(|m| match PublicKey::from_jwk(&m.document_key) {
            Ok(key) => Ok((m.cloud.clone(), key)),
            Err(source) => Err(PactError::Key { cloud: m.cloud.clone(), source }),
        })
        .collect()
}

pub(crate) fn bundle(member: &Member) -> Result<Bundle, PactError> {
    let checked = Bundle::from_json(&member.bundle).and_then(|b| b.check_domain(&member.cloud).map(|()| b));
    checked.map_err(|source| PactError::Bundle { cloud: member.cloud.clone(), source })
}

/// Everything about a pact that can be judged without knowing another.
pub(crate) fn check_form(pact: &Pact) -> Result<(), PactError> {
    if pact.api_version != API_VERSION {
        return Err(PactError::Version(pact.api_version.chars().take(40).collect()));
    }
    if pact.kind != DOCUMENT_KIND {
        return Err(PactError::Unreadable(format!("kind must be {DOCUMENT_KIND}")));
    }
    let mut faults = Vec::new();
    pact.validate("", &mut faults);
    if !faults.is_empty() {
        return Err(PactError::Fields(faults));
    }
    if pact.serial == Serial(0) || pact.parent.is_none() != (pact.serial == Serial(1)) {
        return Err(PactError::Unreadable("the first pact has serial 1 and no parent, all others a parent".to_owned()));
    }
    pact.members.iter().try_for_each(|m| bundle(m).map(drop))?;
    let mut seen: BTreeMap<PublicKey, CloudName> = BTreeMap::new();
    for (cloud, key) in keys(pact)? {
        if let Some(other) = seen.insert(key, cloud.clone()) {
            return Err(PactError::SharedKey(other, cloud));
        }
    }
    Ok(())
}

/// The bytes to be signed. They are made once, by the proposer; everyone else keeps them as they came.
pub fn payload(pact: &Pact) -> Result<Vec<u8>, PactError> {
    check_form(pact)?;
    serde_json::to_vec(pact).map_err(|e| PactError::Unreadable(e.to_string()))
}

/// A pact out of its bytes, of good form.
pub fn read(payload: &[u8]) -> Result<Pact, PactError> {
    #[derive(serde::Deserialize)]
    struct Head {
        #[serde(rename = "apiVersion")]
        api_version: String,
    }
    // A newer version is told apart from a wrong document.
    let head: Head = serde_json::from_slice(payload).map_err(|e| PactError::Unreadable(e.to_string()))?;
    if head.api_version != API_VERSION {
        return Err(PactError::Version(head.api_version.chars().take(40).collect()));
    }
    let pact: Pact = serde_json::from_slice(payload).map_err(|e| PactError::Unreadable(e.to_string()))?;
    check_form(&pact)?;
    Ok(pact)
}

/// The first pact, of one member.
pub fn found(id: PactId, member: Member, currency: &str, now: WallMs) -> Result<Pact, PactError> {
    let pact = Pact {
        api_version: API_VERSION.to_owned(),
        kind: DOCUMENT_KIND.to_owned(),
        id,
        serial: Serial(1),
        parent: None,
        created_at: now,
        currency: currency.to_owned(),
        members: vec![member],
        voting: None,
    };
    check_form(&pact).map(|()| pact)
}

/// The next pact: `parent` is the digest of the held document, `serial` is `PactState::next_serial`.
fn next(pact: &Pact, parent: Digest, serial: Serial, now: WallMs, members: Vec<Member>) -> Result<Pact, PactError> {
    if serial <= pact.serial {
        return Err(PactError::NotNewer { held: pact.serial, offered: serial });
    }
    let next = Pact {
        serial,
        parent: Some(parent),
        // Members' clocks differ; a pact is never dated before its parent.
        created_at: now.max(pact.created_at),
        members,
        ..pact.clone()
    };
    check_form(&next).map(|()| next)
}

/// With one member more, at the end.
pub fn admit(pact: &Pact, parent: Digest, serial: Serial, newcomer: Member, now: WallMs) -> Result<Pact, PactError> {
    if pact.member(&newcomer.cloud).is_some() {
        return Err(PactError::NameTaken(newcomer.cloud));
    }
    let mut members = pact.members.clone();
    members.push(newcomer);
    next(pact, parent, serial, now, members)
}

/// With one member less: it leaves, or the others part from it.
pub fn dismiss(pact: &Pact, parent: Digest, serial: Serial, cloud: &CloudName, now: WallMs) -> Result<Pact, PactError> {
    if pact.member(cloud).is_none() {
        return Err(PactError::NoMember(cloud.clone()));
    }
    if pact.members.len() == 1 {
        return Err(PactError::LastMember);
    }
    let members = pact.members.iter().filter(|m| &m.cloud != cloud).cloned().collect();
    next(pact, parent, serial, now, members)
}

/// With one member's own entry changed: its terms, addresses, bundle or document key.
pub fn update_member(
    pact: &Pact,
    parent: Digest,
    serial: Serial,
    entry: Member,
    now: WallMs,
) -> Result<Pact, PactError> {
    let Some(at) = pact.members.iter().position(|m| m.cloud == entry.cloud) else {
        return Err(PactError::NoMember(entry.cloud));
    };
    let mut members = pact.members.clone();
    members[at] = entry;
    next(pact, parent, serial, now, members)
}

/// With other voters or times, or none: then the pact does not vote any more. Voting that goes on has the `since` that it had.
pub fn vote(
    pact: &Pact,
    parent: Digest,
    serial: Serial,
    voting: Option<Voting>,
    now: WallMs,
) -> Result<Pact, PactError> {
    let since = pact.voting.as_ref().map_or(serial, |v| v.since);
    let mut new = next(&Pact { voting: None, ..pact.clone() }, parent, serial, now, pact.members.clone())?;
    new.voting = voting.map(|v| Voting { since, ..v });
    check_form(&new)?;
    check_voting(&new)?;
    Ok(new)
}

/// Voters are asked for here: later one of them may leave, and counts as down until others are named.
pub(crate) fn check_voting(pact: &Pact) -> Result<(), PactError> {
    let Some(voting) = &pact.voting else { return Ok(()) };
    if let Some(stranger) = voting.voters.iter().find(|v| pact.member(v).is_none()) {
        return Err(PactError::NoMember(stranger.clone()));
    }
    Ok(Register::of(pact, Digest([0; 32])).map_or(Ok(()), |register| register.check())?)
}

pub(crate) fn clouds(pact: &Pact) -> BTreeSet<CloudName> {
    pact.members.iter().map(|m| m.cloud.clone()).collect()
}
