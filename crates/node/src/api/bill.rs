//! What is owed and earned: settled leases as both clouds signed them, and those that run or wait, as this side metered them.
//!
//! Enters: signed leases and settlements of this cloud's store, leases that run. Leaves: a bill of one month, or of all time.
//! Always holds: what is signed is told by its signed amount; what is not signed yet is told as such, and no sum mixes the two.

use super::body::Answer;
use super::journeys;
use super::params::Query;
use crate::object::{SETTLEMENT, SIGNED_LEASE};
use crate::{Node, clock, lender};
use axum::Extension;
use axum::extract::State;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use pumasi_api::message::{Bill, BillLine, BillSide, BillState, LeaseView};
use pumasi_api::{Principal, Problem};
use pumasi_lease::document::{Lease, Settlement};
use pumasi_lease::meter;
use pumasi_terms::{CloudName, LeaseId, Money, WallMs};
use pumasi_trust::SignedDocument;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Lines of one bill; the newest are told.
const LINES_MAX: usize = 10_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// `2026-11` (UTC), or `all`; unsaid: this month.
    month: Option<String>,
}

/// From its first instant until before the first of the next one.
fn span(month: Option<&str>, now: WallMs) -> Result<(WallMs, WallMs), Problem> {
    let wrong = |m: &str| Problem::bad_request(format!("month {m:?}: write 2026-11, or all"));
    let first = match month {
        Some("all") => return Ok((WallMs(0), WallMs(i64::MAX))),
        Some(m) if m.len() == 7 => format!("{m}-01").parse::<Date>().map_err(|_| wrong(m))?,
        Some(m) => return Err(wrong(m)),
        None => {
            let now = jiff::Timestamp::from_millisecond(now.0).map_err(|e| Problem::ours(e.to_string()))?;
            now.to_zoned(TimeZone::UTC).date().first_of_month()
        }
    };
    let bad = || wrong(month.unwrap_or_default());
    let next = first.last_of_month().tomorrow().map_err(|_| bad())?;
    let at =
        |date: Date| date.to_zoned(TimeZone::UTC).map(|z| WallMs(z.timestamp().as_millisecond())).map_err(|_| bad());
    Ok((at(first)?, at(next)?))
}

/// What this cloud kept of its own: it was verified before it was stored.
fn kept<T: DeserializeOwned>(node: &Node, kind: &'static str) -> Result<BTreeMap<String, T>, Problem> {
    let stored = node.store.list::<SignedDocument>(kind).map_err(|e| crate::node::store_problem(&e))?;
    let read = |s: pumasi_store::Stored<SignedDocument>| {
        Some((s.name, serde_json::from_slice(s.body.unverified_payload()).ok()?))
    };
    Ok(stored.into_iter().filter_map(read).collect())
}

fn side(ours: &CloudName, borrower: &CloudName, lender: &CloudName) -> (BillSide, CloudName) {
    match borrower == ours {
        true => (BillSide::Rented, lender.clone()),
        false => (BillSide::Lent, borrower.clone()),
    }
}

fn settled(ours: &CloudName, lease: Option<&Lease>, said: &Settlement) -> BillLine {
    let (side, with) = side(ours, &said.borrower, &said.lender);
    let (own, other) = match side {
        BillSide::Rented => (said.borrower_usage, said.lender_usage),
        BillSide::Lent => (said.lender_usage, said.borrower_usage),
    };
    BillLine {
        lease: said.lease.clone(),
        service: lease.map(|l| l.service.clone()),
        side,
        with,
        state: BillState::Settled,
        at: said.created_at,
        instance_ms: own.instance_ms.min(other.instance_ms),
        reserved_instance_ms: own.reserved_instance_ms.min(other.reserved_instance_ms),
        requests: own.requests,
        price_per_instance_hour: lease.map(|l| l.price_per_instance_hour),
        amount: said.amount,
        readings_agree: lease.map(|l| meter::same_time(l.instances, &own, &other)),
        why: String::new(),
    }
}

/// A lease without a settlement: it runs, or its end is not signed yet.
fn unsettled(ours: &CloudName, lease: &LeaseView, state: BillState, why: String) -> BillLine {
    let (side, with) = side(ours, &lease.borrower, &lease.lender);
    BillLine {
        lease: lease.id.clone(),
        service: Some(lease.service.clone()),
        side,
        with,
        state,
        at: lease.since,
        instance_ms: lease.instance_ms,
        reserved_instance_ms: 0,
        requests: lease.requests,
        price_per_instance_hour: Some(lease.price_per_instance_hour),
        amount: lease.price_per_instance_hour.for_instance_ms(lease.instance_ms),
        readings_agree: None,
        why,
    }
}

fn lines(node: &Node, who: &Principal) -> Result<Vec<BillLine>, Problem> {
    let ours = node.name();
    let leases: BTreeMap<String, Lease> = kept(node, SIGNED_LEASE)?;
    let said: BTreeMap<String, Settlement> = kept(node, SETTLEMENT)?;
    let mut lines: Vec<BillLine> = said.iter().map(|(id, s)| settled(ours, leases.get(id), s)).collect();
    let open: BTreeMap<LeaseId, Option<String>> =
        lender::open_settlements(node)?.into_iter().map(|o| (o.lease, o.disputed)).collect();
    for lease in journeys::all(node, who)?.iter().filter(|l| !said.contains_key(l.id.as_str())) {
        lines.push(match open.get(&lease.id) {
            Some(disputed) => unsettled(ours, lease, BillState::Open, disputed.clone().unwrap_or_default()),
            // It left no trace of use, or was written off.
            None if lease.state == "settled" || lease.instance_ms == 0 && lease.expires_in_ms == 0 => continue,
            None => unsettled(ours, lease, BillState::Running, String::new()),
        });
    }
    lines.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.lease.cmp(&b.lease)));
    Ok(lines)
}

fn sum(lines: &[BillLine], side: BillSide, is_signed: bool) -> Money {
    let of = |l: &&BillLine| l.side == side && (l.state == BillState::Settled) == is_signed;
    Money(lines.iter().filter(of).map(|l| l.amount.0).fold(0, u64::saturating_add))
}

pub async fn bill(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Query(asked): Query<Asked>,
) -> Answer<Bill> {
    let (from, before) = span(asked.month.as_deref(), clock::wall())?;
    let mut lines = lines(&node, &who)?;
    lines.retain(|l| from <= l.at && l.at < before);
    let left_out = lines.len().saturating_sub(LINES_MAX) as u64;
    let currency = node.pact().map(|v| v.pact.currency.clone()).unwrap_or_default();
    let to_pay = sum(&lines, BillSide::Rented, true);
    let to_get = sum(&lines, BillSide::Lent, true);
    let (unsigned_to_pay, unsigned_to_get) = (sum(&lines, BillSide::Rented, false), sum(&lines, BillSide::Lent, false));
    lines.truncate(LINES_MAX);
    let cloud = node.name().clone();
    Ok(axum::Json(Bill {
        cloud,
        currency,
        from,
        before,
        to_pay,
        to_get,
        unsigned_to_pay,
        unsigned_to_get,
        left_out,
        lines,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_from_its_first_instant_until_before_the_next() {
        let now = WallMs(1_764_540_261_361);
        let told = |month: Option<&str>| span(month, now).map(|(a, b)| (a.to_string(), b.to_string())).ok();
        let november = Some(("2025-11-01T00:00:00.000Z".to_owned(), "2025-12-01T00:00:00.000Z".to_owned()));
        assert_eq!(told(None), november);
        assert_eq!(told(Some("2025-11")), november);
        assert_eq!(told(Some("2024-02")).unwrap().1, "2024-03-01T00:00:00.000Z");
        assert_eq!(told(Some("2025-12")).unwrap().1, "2026-01-01T00:00:00.000Z");
        assert_eq!(span(Some("all"), now).unwrap(), (WallMs(0), WallMs(i64::MAX)));
        for wrong in ["", "2025", "2025-13", "2025-00", "25-11", "2025-1x", "november", "9999-12", "-999-01"] {
            assert_eq!(told(Some(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_signed_and_what_is_not_are_never_one_sum() {
        let lease = LeaseView {
            id: LeaseId::from_entropy(1),
            side: "rented".into(),
            borrower: "a".parse().unwrap(),
            lender: "b".parse().unwrap(),
            service: "notes".parse().unwrap(),
            state: "serving".into(),
            instances_granted: 2,
            instances_wanted: 2,
            instances_ready: 2,
            price_per_instance_hour: Money(10_000),
            expires_in_ms: 5,
            instance_ms: 3_600_000,
            requests: 7,
            since: WallMs(5),
            why: String::new(),
        };
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let paid = unsettled(&a, &lease, BillState::Running, String::new());
        assert_eq!((paid.side, &paid.with, paid.amount), (BillSide::Rented, &b, Money(10_000)));
        let got = unsettled(&b, &lease, BillState::Settled, String::new());
        assert_eq!((got.side, &got.with), (BillSide::Lent, &a));
        let lines = [paid, got];
        assert_eq!(sum(&lines, BillSide::Rented, false), Money(10_000));
        assert_eq!(sum(&lines, BillSide::Rented, true), Money(0));
        assert_eq!(sum(&lines, BillSide::Lent, true), Money(10_000));
    }
}
