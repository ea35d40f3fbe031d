//! What a member's daemon checks before it signs somebody else's proposal by itself.

use crate::adopt::{Adopted, continuing_keys, open};
use crate::entry::{PactError, bundle, check_voting, clouds};
use pumasi_terms::pact::Pact;
use pumasi_terms::{CloudName, Serial};
use pumasi_trust::SignedDocument;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A serial may pass over the proposals that failed, but nobody may use up the numbers.
pub const SERIAL_JUMP_MAX: u64 = 64;

/// The one thing that a step changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Change {
    Admitted {
        cloud: CloudName,
        /// Members whose signature it had when it was considered: whoever invited it is among them.
        sponsors: BTreeSet<CloudName>,
    },
    /// It said so itself.
    Left { cloud: CloudName },
    /// The others part from it.
    Dismissed { cloud: CloudName },
    /// It changed its own entry.
    Updated { cloud: CloudName },
    /// Other voters or times, or the end of voting.
    Voting,
}

/// What an operator lets the daemon sign without asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Newcomers that any member invites. An invitation of one's own is one's own word.
    pub admit: bool,
    /// Dismissals of members that did not sign their own leave.
    pub dismiss: bool,
    pub members_max: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { admit: false, dismiss: false, members_max: 64 }
    }
}

impl Policy {
    /// All that is valid: the operator was asked and agreed.
    pub fn approved() -> Self {
        Self { admit: true, dismiss: true, members_max: 64 }
    }
}

/// A proposal that follows from the held pact: its form, its place in the chain, one change, and the signatures that this
/// change needs before anyone else's. `own` is the cloud that asks.
pub fn check_successor(
    held: &Adopted,
    proposal: &SignedDocument,
    own: &CloudName,
    policy: &Policy,
) -> Result<Change, PactError> {
    let old = &held.pact;
    let new = open(proposal)?;
    if new.id != old.id {
        return Err(PactError::OtherPact { held: old.id.clone(), found: new.id });
    }
    if new.serial <= old.serial {
        return Err(PactError::NotNewer { held: old.serial, offered: new.serial });
    }
    if new.serial.0 - old.serial.0 > SERIAL_JUMP_MAX {
        return Err(PactError::SerialTaken { offered: new.serial, next: old.serial.next() });
    }
    if new.parent != Some(held.digest()) {
        return Err(PactError::OtherParent { held: old.serial });
    }
    if new.created_at < old.created_at {
        return Err(PactError::GoesBack);
    }
    if new.currency != old.currency {
        return Err(PactError::Currency);
    }
    // Whoever has signed so far did so truly; continuing members with the key of the old pact.
    let keys = continuing_keys(Some(old), &new)?;
    let signers = proposal.verify(crate::KIND, &keys, &BTreeSet::new())?.signers;
    let change = one_change(old, &new, &signers)?;
    if new.members.len() > policy.members_max && new.members.len() > old.members.len() {
        return Err(PactError::NeedsOperator(format!("a pact of more than {} members", policy.members_max)));
    }
    match &change {
        Change::Admitted { cloud, .. } if !policy.admit => {
            Err(PactError::NeedsOperator(format!("admission of {cloud}")))
        }
        // It does not concern our signature: a pact that does not name us needs none of ours.
        Change::Dismissed { cloud } if cloud == own => Err(PactError::NotOurs(own.clone())),
        Change::Dismissed { cloud } if !policy.dismiss => {
            Err(PactError::NeedsOperator(format!("dismissal of {cloud}")))
        }
        _ => Ok(change),
    }
}

fn one_change(old: &Pact, new: &Pact, signers: &BTreeSet<CloudName>) -> Result<Change, PactError> {
    let (before, after) = (clouds(old), clouds(new));
    let entered: Vec<_> = after.difference(&before).collect();
    let left: Vec<_> = before.difference(&after).collect();
    let stayed = |pact: &Pact| -> Vec<_> {
        pact.members.iter().filter(|m| before.contains(&m.cloud) && after.contains(&m.cloud)).cloned().collect()
    };
    let (was, is) = (stayed(old), stayed(new));
    if was.iter().map(|m| &m.cloud).ne(is.iter().map(|m| &m.cloud)) {
        return Err(PactError::ManyChanges("the order of the members changed".to_owned()));
    }
    let changed: Vec<_> = was.iter().zip(&is).filter(|(a, b)| a != b).collect();
    if old.voting != new.voting {
        if !(entered.is_empty() && left.is_empty() && changed.is_empty()) {
            return Err(PactError::ManyChanges("members and the voting changed at once".to_owned()));
        }
        let since = old.voting.as_ref().map_or(new.serial, |v| v.since);
        if new.voting.as_ref().is_some_and(|v| v.since != since) {
            return Err(PactError::VotingSince);
        }
        check_voting(new)?;
        return Ok(Change::Voting);
    }
    match (entered.as_slice(), left.as_slice(), changed.as_slice()) {
        ([cloud], [], []) => {
            if new.members.last().map(|m| &m.cloud) != Some(*cloud) {
                return Err(PactError::ManyChanges("a newcomer stands at the end".to_owned()));
            }
            if !signers.contains(*cloud) {
                return Err(PactError::Unsigned((*cloud).clone()));
            }
            let sponsors: BTreeSet<_> = signers.intersection(&before).cloned().collect();
            if sponsors.is_empty() {
                return Err(PactError::NoSponsor((*cloud).clone()));
            }
            Ok(Change::Admitted { cloud: (*cloud).clone(), sponsors })
        }
        ([], [cloud], []) if signers.contains(*cloud) => Ok(Change::Left { cloud: (*cloud).clone() }),
        ([], [cloud], []) => Ok(Change::Dismissed { cloud: (*cloud).clone() }),
        ([], [], [(a, b)]) => {
            if !signers.contains(&a.cloud) {
                return Err(PactError::Unsigned(a.cloud.clone()));
            }
            bundle(a)?
                .update(bundle(b)?)
                .map_err(|source| PactError::BundleGoesBack { cloud: a.cloud.clone(), source })?;
            Ok(Change::Updated { cloud: a.cloud.clone() })
        }
        ([], [], []) => Err(PactError::ManyChanges("nothing changed".to_owned())),
        _ => {
            let names = |list: &[&CloudName]| list.iter().map(|c| c.to_string()).collect::<Vec<_>>().join(", ");
            let changed = changed.iter().map(|(a, _)| &a.cloud).collect::<Vec<_>>();
            let (entered, left, changed) = (names(&entered), names(&left), names(&changed));
            Err(PactError::ManyChanges(format!("entered: [{entered}], left: [{left}], changed: [{changed}]")))
        }
    }
}

/// Used by the state: whether `offered` may be promised.
pub(crate) fn serial_is_free(held: Serial, promised: Option<Serial>, offered: Serial) -> Result<(), PactError> {
    let floor = promised.map_or(held, |p| p.max(held));
    if offered > floor && offered.0 - held.0 <= SERIAL_JUMP_MAX {
        return Ok(());
    }
    Err(PactError::SerialTaken { offered, next: floor.next() })
}
