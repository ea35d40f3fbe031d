//! Notices: what a member changes of its own membership by its own signature alone.
//!
//! Enters: signed notices, the pact they speak of. Leaves: the pact as it is in force.
//!
//! Always holds:
//! - A notice takes only from what its own member gives to others, or says where and by which keys it is found. It never
//!   raises what others owe, and touches nobody else's entry.
//! - It counts for the pacts up to the serial that its member had signed or promised, and for no later one: whatever the
//!   member signs afterwards already says what it wishes. So an old notice cannot come back.
//! - A document key or a bundle changes only with the word of the cloud's authority, by a root that was known before.

use crate::change::SERIAL_JUMP_MAX;
use crate::entry::{PactError, bundle, check_form};
use pumasi_terms::pact::{Member, Pact, Terms};
use pumasi_terms::{API_VERSION, CloudName, PactId, Serial, WallMs};
use pumasi_trust::{PublicKey, SignedDocument};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Kind of a notice's signed document. Its serial rises with each notice of a member.
pub const NOTICE_KIND: &str = "notice";
/// `kind` of the payload.
const DOCUMENT_KIND: &str = "Notice";
/// What the authority vouches for.
const PURPOSE: &str = "pact notice v1";
/// Notices of clouds that are gone are kept for members that were away, as many as these in all.
pub const NOTICES_MAX: usize = 128;
/// A notice may count for so many serials ahead: as far as its member may have promised.
const AHEAD_MAX: u64 = SERIAL_JUMP_MAX;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    pub pact: PactId,
    /// The newest serial that it counts for.
    pub through: Serial,
    pub cloud: CloudName,
    /// When its member meant it; the others apply it when they see it.
    pub effect_at: WallMs,
    /// The member's own entry from now on. None: it leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Member>,
    /// The authority's word for the entry's document key and bundle, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

impl Notice {
    pub fn new(pact: &Pact, through: Serial, cloud: &CloudName, entry: Option<Member>, at: WallMs) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: DOCUMENT_KIND.to_owned(),
            pact: pact.id.clone(),
            through,
            cloud: cloud.clone(),
            effect_at: at,
            entry,
            authority: None,
        }
    }

    /// With the authority's word, as `vouch(purpose, bytes)` gives it.
    pub fn vouched<E>(mut self, vouch: impl FnOnce(&str, &[u8]) -> Result<String, E>) -> Result<Self, E> {
        if let Some(entry) = &self.entry {
            self.authority = Some(vouch(PURPOSE, &vouched_bytes(&self.pact, entry))?);
        }
        Ok(self)
    }

    pub fn payload(&self) -> Result<Vec<u8>, PactError> {
        serde_json::to_vec(self).map_err(|e| PactError::Unreadable(e.to_string()))
    }
}

/// Each part with its length, so that none runs into the next.
fn vouched_bytes(pact: &PactId, entry: &Member) -> Vec<u8> {
    [pact.as_str(), entry.cloud.as_str(), &entry.document_key, &entry.bundle]
        .iter()
        .flat_map(|part| [&(part.len() as u64).to_le_bytes(), part.as_bytes()].concat())
        .collect()
}

/// The content of a notice whose signature nobody has verified yet.
pub fn read_notice(document: &SignedDocument) -> Result<Notice, PactError> {
    let notice: Notice =
        serde_json::from_slice(document.unverified_payload()).map_err(|e| PactError::Unreadable(e.to_string()))?;
    if notice.api_version != API_VERSION {
        return Err(PactError::Version(notice.api_version.chars().take(40).collect()));
    }
    if notice.kind != DOCUMENT_KIND {
        return Err(PactError::Unreadable(format!("kind must be {DOCUMENT_KIND}")));
    }
    if notice.entry.as_ref().is_some_and(|e| e.cloud != notice.cloud) {
        return Err(PactError::Unsigned(notice.entry.map_or(notice.cloud, |e| e.cloud)));
    }
    Ok(notice)
}

/// The pact as it is in force: as signed by all, with what its members have said since.
pub(crate) fn in_force(signed: &Pact, notices: &[SignedDocument]) -> Pact {
    let mut pact = signed.clone();
    for notice in notices.iter().filter_map(|d| read_notice(d).ok()) {
        if notice.pact != pact.id || notice.through < pact.serial {
            continue;
        }
        match notice.entry {
            Some(entry) => pact.members.iter_mut().filter(|m| m.cloud == entry.cloud).for_each(|m| *m = entry.clone()),
            None => pact.members.retain(|m| m.cloud != notice.cloud),
        }
    }
    pact
}

/// Whether this notice may change `held`, the pact in force. `known`: the newest serial of its member's notices so far.
pub(crate) fn check(held: &Pact, document: &SignedDocument, known: Option<Serial>) -> Result<Notice, PactError> {
    let notice = read_notice(document)?;
    if notice.pact != held.id {
        return Err(PactError::OtherPact { held: held.id.clone(), found: notice.pact });
    }
    if let Some(known) = known.filter(|known| document.serial() <= *known) {
        return Err(PactError::NotNewer { held: known, offered: document.serial() });
    }
    if notice.through < held.serial {
        return Err(PactError::NotNewer { held: held.serial, offered: notice.through });
    }
    if notice.through.0 - held.serial.0 > AHEAD_MAX {
        return Err(PactError::SerialTaken { offered: notice.through, next: held.serial });
    }
    let was = held.member(&notice.cloud).ok_or_else(|| PactError::NoMember(notice.cloud.clone()))?;
    let entry = notice.entry.as_ref();
    // A leave is signed with the key that is known; another one may come with a key that the authority vouches for.
    let jwk = entry.map_or(&was.document_key, |e| &e.document_key);
    let key = PublicKey::from_jwk(jwk).map_err(|source| PactError::Key { cloud: was.cloud.clone(), source })?;
    let keys = BTreeMap::from([(was.cloud.clone(), key)]);
    document.verify(NOTICE_KIND, &keys, &BTreeSet::from([was.cloud.clone()]))?;
    if let Some(entry) = entry {
        one_sided(was, entry)?;
        let known_before = bundle(was)?;
        if was.document_key != entry.document_key || was.bundle != entry.bundle {
            let word = notice.authority.as_deref().unwrap_or_default();
            if !known_before.vouched(PURPOSE, &vouched_bytes(&held.id, entry), word) {
                return Err(PactError::NoAuthority(was.cloud.clone()));
            }
        }
        known_before
            .update(bundle(entry)?)
            .map_err(|source| PactError::BundleGoesBack { cloud: was.cloud.clone(), source })?;
        let mut after = held.clone();
        after.members.iter_mut().filter(|m| m.cloud == entry.cloud).for_each(|m| *m = entry.clone());
        check_form(&after)?;
    }
    Ok(notice)
}

/// What a member may change of its entry without asking anybody: less to others, or where and by which keys it is found.
pub fn one_sided(was: &Member, is: &Member) -> Result<(), PactError> {
    let (old, new) = (&was.terms, &is.terms);
    let more = |what: &str| Err(PactError::NeedsAll(was.cloud.clone(), what.to_owned()));
    let Terms {
        lends,
        storage_bytes,
        share_per_borrower_percent,
        holds_per_borrower,
        price_per_cpu_hour,
        recall_notice_ms,
        hold_ttl_ms_max,
        lease_ttl_ms_max,
        borrowers,
        // Whom it makes room for is its own affair: it may call back what it lent in any case.
        gives_way: _,
    } = new;
    if was.role != is.role {
        return more("another role");
    }
    if lends.cpu_millis > old.lends.cpu_millis || lends.memory_mib > old.lends.memory_mib {
        return more("lending more");
    }
    if *storage_bytes > old.storage_bytes {
        return more("more storage");
    }
    if *share_per_borrower_percent > old.share_per_borrower_percent || *holds_per_borrower > old.holds_per_borrower {
        return more("more for one borrower");
    }
    if *price_per_cpu_hour != old.price_per_cpu_hour {
        return more("another price");
    }
    // Shorter notice takes away what borrowers plan with; a longer one binds its member alone.
    if *recall_notice_ms < old.recall_notice_ms {
        return more("a shorter notice of recall");
    }
    if *hold_ttl_ms_max > old.hold_ttl_ms_max || *lease_ttl_ms_max > old.lease_ttl_ms_max {
        return more("longer holds or leases");
    }
    // An empty list is everybody.
    let narrower = match (old.borrowers.is_empty(), borrowers.is_empty()) {
        (true, _) => true,
        (false, true) => false,
        (false, false) => borrowers.iter().all(|b| old.borrowers.contains(b)),
    };
    if !narrower {
        return more("more borrowers");
    }
    if was == is {
        return Err(PactError::ManyChanges("nothing changed".to_owned()));
    }
    Ok(())
}
