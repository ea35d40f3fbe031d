//! The one rule of who may act on a lease that is lent here.
//!
//! Enters: the lease, who asks, the epoch under which he acts. Leaves: yes, or the refusal.
//! Always holds: every act is asked about, whatever it does; an epoch that was seen makes all older ones void.

use crate::record::LentLease;
use crate::refused::{Code, Refused};
use pumasi_terms::{CloudName, Epoch};

/// Whether `caller` may act. An act that names no epoch, as those of older daemons, is one under the epoch of the lease as it was signed.
///
/// # Errors
/// `not_yours` for another cloud, `older_epoch` for one that was superseded.
pub fn authority(lent: &LentLease, caller: &CloudName, epoch: Option<Epoch>) -> Result<(), Refused> {
    if &lent.lease.borrower != caller {
        return Err(Refused::no(Code::NotYours, format!("{} belongs to another cloud", lent.id())));
    }
    not_older(lent, epoch.unwrap_or(lent.lease.epoch))
}

pub(crate) fn not_older(lent: &LentLease, epoch: Epoch) -> Result<(), Refused> {
    let seen = lent.epoch.max(lent.lease.epoch);
    if epoch < seen {
        let text = format!("epoch {epoch} of {} is older than {seen}, which was seen", lent.lease.service);
        return Err(Refused::no(Code::OlderEpoch, text));
    }
    Ok(())
}
