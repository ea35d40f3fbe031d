//! The pact: who the members of a federation are, and on which terms they lend.
//!
//! Enters: pact documents from peers, wishes of operators, the wall clock as an argument. Leaves: the next pact to be
//! signed, a verdict on somebody else's proposal, the trust that follows from an adopted pact. No I/O, no clock, no
//! randomness.
//!
//! Always holds:
//! - A pact counts once *every member it names* has signed its bytes. A cloud that leaves need not sign.
//! - Serials only rise. A member signs at most one document for each serial, so two complete pacts of one serial cannot
//!   be. A proposal that found no full set of signatures is overtaken by one of a higher serial on the same parent.
//! - One step changes one thing: one cloud enters, one leaves, one changes its own entry, or the voting changes.
//!   Nobody's entry is changed without that member's own signature, made with the key that the pact before named for it.
//! - Leaving, lending less, and one's own address, root or key need one's own signature only: a `Notice`. The pact in
//!   force is the one that all signed with the notices since; the next one takes them in.
//! - Names of members are unique, and so are their document keys.
//! - Whoever was away verifies each step with the keys of the step before it. Without its own signature a cloud never
//!   takes over a pact that names it.
//!
//! How a step goes: `found`, `admit`, `dismiss`, `update_member` or `vote` make the next `Pact`; its proposer signs `payload` of it;
//! every other member asks `PactState::consider`, which promises its serial, and signs; the proposer collects; everyone
//! calls `PactState::adopt`.

mod adopt;
mod change;
mod entry;
mod invitation;
mod notice;
mod state;

pub use adopt::{Adopted, adopt, check_invited, trust_store};
pub use change::{Change, Policy, SERIAL_JUMP_MAX, check_successor};
pub use entry::{PactError, admit, dismiss, found, payload, read, update_member, vote};
pub use invitation::{INVITATIONS_MAX, Invitation, InvitationError, Invitations, TOKEN_PREFIX};
pub use notice::{NOTICE_KIND, NOTICES_MAX, Notice, one_sided, read_notice};
pub use state::{PactState, Promise};

/// Kind of a pact's signed document.
pub const KIND: &str = "pact";
/// `kind` of the payload.
pub const DOCUMENT_KIND: &str = "Pact";
