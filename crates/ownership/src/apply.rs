//! The register's one transition: state and entry in, state and what to tell out.
//!
//! Always holds: total and deterministic, no clock; an entry at or below the state's revision changes nothing, so that a log may be
//! replayed; every command about a service compares its epoch, every one about a cloud its run (and `Lost` its last renewal); a refusal changes
//! nothing but the revision.

mod clouds;
mod losing;
mod owners;
mod services;

use crate::command::{BadEntry, Command, Entry};
use crate::rules::Rules;
use crate::state::State;
use crate::told::{Code, Refused, Told};

/// One entry. The state goes in and comes out, so that nothing is copied.
#[must_use]
pub fn apply(mut state: State, index: u64, entry: &Entry, rules: Rules<'_>) -> (State, Vec<Told>) {
    if index <= state.revision {
        return (state, Vec::new());
    }
    state.revision = index;
    let mut told = Vec::new();
    let done = match entry.command.bounds() {
        Err(e) => Err(Refused { code: Code::Bounds, text: e.to_string() }),
        Ok(()) => Step { state: &mut state, index, entry, rules, told: &mut told }.take(),
    };
    told.extend(done.err().map(Told::Refused));
    (state, told)
}

/// An entry as the log carries it. What nobody can read is passed over by everybody; an entry of a newer version must not be, so that the state
/// goes nowhere: its reader keeps what it has stored, and stops.
pub fn apply_bytes(state: State, index: u64, bytes: &[u8], rules: Rules<'_>) -> Result<(State, Vec<Told>), BadEntry> {
    match Entry::from_bytes(bytes) {
        Ok(entry) => Ok(apply(state, index, &entry, rules)),
        Err(e @ BadEntry::Newer(_)) => Err(e),
        Err(_) if index <= state.revision => Ok((state, Vec::new())),
        Err(e) => {
            let refused = Refused { code: Code::Unreadable, text: format!("entry {index}: {e}; it has no effect") };
            Ok((State { revision: index, ..state }, vec![Told::Refused(refused)]))
        }
    }
}

/// One entry on its way.
struct Step<'a> {
    state: &'a mut State,
    index: u64,
    entry: &'a Entry,
    rules: Rules<'a>,
    told: &'a mut Vec<Told>,
}

type Done = Result<(), Refused>;

impl Step<'_> {
    fn take(&mut self) -> Done {
        match &self.entry.command {
            Command::Renew { elapsed_ms, renewals } => self.renew(*elapsed_ms, renewals),
            Command::Join { cloud, run } => self.join(cloud, *run),
            Command::Rejoin { cloud, run } => self.rejoin(cloud, *run),
            Command::Pact { voting } => self.pact(voting),
            Command::Protect { service, epoch, agreed } => self.protect(service, *epoch, agreed),
            Command::Unprotect { service, epoch } => self.unprotect(service, *epoch),
            Command::InSync { service, epoch, set, after } => self.in_sync((service, *epoch), set, *after),
            Command::Yield { service, epoch, why } => self.yielded(service, *epoch, why),
            Command::Serving { items } => self.serving(items),
            Command::Key { service, epoch, cloud, thumbprint } => self.key(service, *epoch, cloud, thumbprint),
            Command::Lost(lost) => self.lost(lost),
            Command::Approve { cloud, lost_rev } => self.approve(cloud, *lost_rev),
            Command::Recover { cloud, lost_rev, items } => self.recover(cloud, *lost_rev, items),
            Command::Relieve { item } => self.relieve(item),
            Command::Transfer { service, epoch, to, id, attempt, .. } => {
                self.transfer((service, *epoch), to, id, *attempt)
            }
            Command::Cancel { service, epoch, id, attempt } => self.cancel(service, *epoch, id, *attempt),
        }
    }
}
