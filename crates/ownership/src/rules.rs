//! What applying needs beside state and entry: how attestations are verified; in tests, which fault is planted.
//!
//! Always holds: every voter verifies with the keys that the state itself names, so that all come to the same answer.

use crate::command::{ATTESTATION_KIND, Attestation};
use crate::state::State;
use pumasi_terms::CloudName;
use pumasi_trust::{PublicKey, SignedDocument};
use std::collections::BTreeMap;
use std::fmt;

/// Tells whose word an attestation is, and what it says; or why it counts for nothing.
pub trait Verify {
    fn attested(&self, state: &State, document: &SignedDocument) -> Result<(CloudName, Attestation), String>;
}

/// By the signature of one voter, with the key that the pact in force names.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signatures;

impl Verify for Signatures {
    fn attested(&self, state: &State, document: &SignedDocument) -> Result<(CloudName, Attestation), String> {
        let signers = document.signers();
        let (Some(voter), 1) = (signers.first(), signers.len()) else {
            return Err(format!("an attestation has one signature, this one {}", signers.len()));
        };
        if document.serial() != state.voting.serial {
            return Err(format!(
                "{voter} attests under serial {} of the pact, {} is in force",
                document.serial(),
                state.voting.serial
            ));
        }
        let jwk = state.voting.voters.get(voter).ok_or_else(|| format!("{voter} is no voter"))?;
        let key = PublicKey::from_jwk(jwk).map_err(|e| format!("the key of {voter}: {e}"))?;
        let keys = BTreeMap::from([(voter.clone(), key)]);
        let verified = document.verify(ATTESTATION_KIND, &keys, &signers).map_err(|e| e.to_string())?;
        let says: Attestation =
            serde_json::from_slice(&verified.payload).map_err(|e| format!("the attestation of {voter}: {e}"))?;
        Ok((voter.clone(), says))
    }
}

/// A fault that a test plants, to see that what must find it does. Nothing but tests makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// The taker waits half of the ttl.
    TakerWaitsTooShort,
    /// `Lost` is taken although a renewal came after the one that was waited for.
    LostWithoutSeq,
    /// The holder's right begins with the answer.
    HolderCountsFromAnswer,
    /// A lowered ttl binds the holder from the answer on, and not from the sending.
    LoweredTtlCountsFromAnswer,
    /// The taker waits as long as its own ttl.
    TakerUsesItsOwnTtl,
    /// A `Lost` is taken on one voter's word, or on none.
    AttestationsNotCounted,
    /// A `Transfer` is taken after its `Cancel`.
    CancelForgotten,
    /// A `Transfer` of an older epoch is taken.
    EpochNotCompared,
    /// An `InSync` is taken that was asked of another set.
    SetsNotCounted,
    /// The owner waits for a cloud no longer as soon as it asks that it leave the set.
    ShrinksBeforeCommitted,
    /// A cloud is asked into the set before the gateway waits for it.
    JoinsUnwaitedFor,
}

#[derive(Clone, Copy)]
pub struct Rules<'a> {
    pub verify: &'a dyn Verify,
    pub(crate) planted: Option<Mutant>,
}

impl<'a> Rules<'a> {
    pub fn new(verify: &'a dyn Verify) -> Self {
        Self { verify, planted: None }
    }
    #[doc(hidden)]
    pub fn planted(self, planted: Option<Mutant>) -> Self {
        Self { planted, ..self }
    }
    pub(crate) fn has(&self, mutant: Mutant) -> bool {
        self.planted == Some(mutant)
    }
}

impl fmt::Debug for Rules<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("planted", &self.planted).finish_non_exhaustive()
    }
}
