//! Numbers that only rise, and their bounds.
//!
//! Enters: incarnations, revisions and rows. Leaves: what SQLite keeps of them.
//! Always holds: a number above [`COUNT_MAX`] is never written, and a store that an older version let one into still opens.

use crate::error::StoreError;
use crate::standing::{Head, RestoredWhy};
use rusqlite::{Connection, TransactionBehavior, params};

/// No count of ours gets there in a hundred years at a million a second; every reader of JSON keeps it exact.
pub const COUNT_MAX: u64 = 1 << 53;

/// For what is written: a number that does not fit is an error, never another number.
pub(crate) fn to_sql(n: u64) -> rusqlite::Result<i64> {
    i64::try_from(n).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

/// For what is only compared with: nothing stored lies above.
pub(crate) fn bound(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(crate) fn from_sql(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// The number after this one, while there is one.
pub(crate) fn next(what: &'static str, n: u64) -> Result<u64, StoreError> {
    match n.checked_add(1) {
        Some(next) if next <= COUNT_MAX => Ok(next),
        _ => Err(StoreError::Exhausted { what, value: n }),
    }
}

/// An older version believed a member's number and took it over. The objects that were written since get the revisions after the
/// last true one; the change log begins anew, so that watches read everything again.
pub(crate) fn mend(conn: &mut Connection, head: &mut Head) -> Result<(), rusqlite::Error> {
    let lie = |why: &RestoredWhy| matches!(why, RestoredWhy::PeerAhead { incarnation, revision } if (*incarnation).max(revision.0) > COUNT_MAX);
    if head.revision.max(head.incarnation) <= COUNT_MAX && !head.restored.as_ref().is_some_and(lie) {
        return Ok(());
    }
    let (revision, incarnation) = (head.revision, head.incarnation);
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if head.revision > COUNT_MAX {
        head.revision = renumber(&tx)?;
        head.log_floor = head.revision;
    }
    if head.incarnation > COUNT_MAX {
        head.incarnation = 1;
    }
    head.restored = head.restored.take().filter(|why| !lie(why));
    head.save(&tx).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    tx.commit()?;
    tracing::warn!(
        revision,
        incarnation,
        now_revision = head.revision,
        now_incarnation = head.incarnation,
        "this store carried numbers that a member had made up; it has true ones again"
    );
    Ok(())
}

/// The newest revision, after every object has a true one.
fn renumber(tx: &Connection) -> rusqlite::Result<u64> {
    let max = to_sql(COUNT_MAX)?;
    let newest = "SELECT max(coalesce((SELECT max(revision) FROM objects WHERE revision <= ?1), 0),
                  coalesce((SELECT max(revision) FROM changes WHERE revision <= ?1), 0),
                  coalesce((SELECT log_floor FROM store WHERE one = 1 AND log_floor <= ?1), 0))";
    let mut revision: i64 = tx.query_row(newest, [max], |r| r.get(0))?;
    let mut absurd = tx.prepare("SELECT id FROM objects WHERE revision > ?1 ORDER BY revision, id")?;
    let ids = absurd.query_map([max], |r| r.get::<_, i64>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    for id in ids {
        revision += 1;
        tx.execute("UPDATE objects SET revision = ?1 WHERE id = ?2", params![revision, id])?;
    }
    tx.execute("DELETE FROM changes", [])?;
    // Above everything that was given out, a deletion that left no row with it.
    Ok(from_sql(revision + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_before_they_wrap_or_become_others() {
        assert_eq!(next("revision", 7).unwrap(), 8);
        for n in [COUNT_MAX, u64::MAX] {
            assert!(matches!(next("revision", n), Err(StoreError::Exhausted { .. })), "{n}");
        }
        assert!(to_sql(u64::MAX).is_err() && to_sql(1 << 63).is_err());
        assert_eq!((bound(u64::MAX), to_sql(COUNT_MAX).unwrap()), (i64::MAX, 1 << 53));
    }
}
