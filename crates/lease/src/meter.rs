//! Metering and settlement: both sides count, the ledgers are compared, the lesser is paid (oracle 9).

use crate::document::{Lease, SETTLEMENT_KIND, Settlement};
use crate::record::Usage;
use pumasi_terms::{API_VERSION, Money, WallMs};

/// Two gateways see an instance get ready and stop through heartbeats, so each granted instance may differ by so much, ms.
pub const INSTANCE_MS_SLACK: u64 = 2_000;
/// ... or by this part of the greater reading, percent.
pub const INSTANCE_MS_PERCENT: u64 = 2;
/// A request whose connection broke between the gateways is counted by one of them only.
pub const REQUESTS_SLACK: u64 = 8;
pub const REQUESTS_PER_MILLE: u64 = 1;
/// What was on the wire when a connection broke, bytes.
pub const BYTES_SLACK: u64 = 1 << 20;
pub const BYTES_PER_MILLE: u64 = 10;

impl Usage {
    /// With so much more.
    #[must_use]
    pub fn plus(self, instance_ms: u64, requests: u64, bytes_out: u64) -> Self {
        Self {
            instance_ms: self.instance_ms.saturating_add(instance_ms),
            requests: self.requests.saturating_add(requests),
            bytes_out: self.bytes_out.saturating_add(bytes_out),
            ..self
        }
    }
    /// With `instances` ready for `span_ms` more.
    #[must_use]
    pub fn ran(self, instances: u32, span_ms: u64) -> Self {
        self.plus(u64::from(instances).saturating_mul(span_ms), 0, 0)
    }
}

fn within(a: u64, b: u64, slack: u64, per_mille: u64) -> bool {
    let allowed = u128::from(a.max(b)) * u128::from(per_mille) / 1_000;
    u128::from(a.abs_diff(b)) <= allowed.max(u128::from(slack))
}

/// Whether two readings of what is paid for agree: instance time within 2 s an instance or 2 %. What only one side counted of requests, as of
/// users who went before their answer, costs nobody anything.
pub fn same_time(instances: u32, lender: &Usage, borrower: &Usage) -> bool {
    let slack_ms = INSTANCE_MS_SLACK.saturating_mul(u64::from(instances.max(1)));
    let same = |a, b| within(a, b, slack_ms, INSTANCE_MS_PERCENT * 10);
    same(lender.instance_ms, borrower.instance_ms) && same(lender.reserved_instance_ms, borrower.reserved_instance_ms)
}

/// Whether two readings of one lease of `instances` agree: instance time within 2 s an instance or 2 %, requests within
/// 0.1 % and 8, bytes within 1 % or 1 MiB.
pub fn agree(instances: u32, lender: &Usage, borrower: &Usage) -> bool {
    let requests_slack =
        REQUESTS_SLACK.saturating_add(lender.requests.max(borrower.requests) / 1_000 * REQUESTS_PER_MILLE);
    same_time(instances, lender, borrower)
        && lender.requests.abs_diff(borrower.requests) <= requests_slack
        && within(lender.bytes_out, borrower.bytes_out, BYTES_SLACK, BYTES_PER_MILLE)
}

/// A borrower's own reading of a lease. Of `unmetered_ms` of instance time, for which it heard nothing, it knows nothing, and takes the
/// lender's word for as much. What it ordered of a standby went on while it was away, and bounds that word too.
#[must_use]
pub fn claim(own: Usage, lender: &Usage, unmetered_ms: u64, ordered: Ordered) -> Usage {
    let most = own.instance_ms.saturating_add(unmetered_ms).max(ordered.warm_ms);
    Usage {
        instance_ms: lender.instance_ms.clamp(own.instance_ms, most),
        reserved_instance_ms: lender.reserved_instance_ms.min(ordered.kept_ms),
        ..own
    }
}

/// Of a standby: room that was to be kept, and instances that were to run whether anybody is heard or not, in instance milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ordered {
    pub kept_ms: u64,
    pub warm_ms: u64,
}

impl Ordered {
    /// From when the lease was written until now.
    pub fn of(lease: &Lease, now: WallMs) -> Self {
        let Some(standby) = lease.requirement.standby else { return Self::default() };
        let age_ms = now.since(lease.created_at);
        let all = |instances: u32| age_ms.saturating_mul(instances.into());
        Self { kept_ms: all(lease.instances), warm_ms: all(standby.warm.min(lease.instances)) }
    }
}

/// Whether the borrower's reading would pay the lender less than its own, beyond the tolerance. A lender that reads less itself (it was away,
/// and what it served meanwhile is lost to it) loses nothing by signing, nor does anybody by requests that only one side counted.
pub fn falls_short(instances: u32, lender: &Usage, borrower: &Usage) -> bool {
    let less = borrower.instance_ms < lender.instance_ms || borrower.reserved_instance_ms < lender.reserved_instance_ms;
    less && !same_time(instances, lender, borrower)
}

/// By the lesser readings. Room that was kept costs its part of the price, and what ran in it costs the price beside that.
fn amount(lease: &Lease, lender: Usage, borrower: Usage) -> Money {
    let ran = lease.price_per_instance_hour.for_instance_ms(lender.instance_ms.min(borrower.instance_ms));
    let kept_ms = lender.reserved_instance_ms.min(borrower.reserved_instance_ms);
    let kept = lease.price_per_instance_hour.percent(lease.standby_percent.unwrap_or(0)).for_instance_ms(kept_ms);
    Money(ran.0.saturating_add(kept.0))
}

/// What both sides sign. It is paid by the lesser reading of instance time, agreed or not.
pub fn settlement(lease: &Lease, lender: Usage, borrower: Usage, at: WallMs) -> Settlement {
    Settlement {
        api_version: API_VERSION.to_owned(),
        kind: SETTLEMENT_KIND.to_owned(),
        lease: lease.id.clone(),
        borrower: lease.borrower.clone(),
        lender: lease.lender.clone(),
        lender_usage: lender,
        borrower_usage: borrower,
        agreed: agree(lease.instances, &lender, &borrower),
        amount: amount(lease, lender, borrower),
        created_at: at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_agree_within_the_stated_tolerance() {
        let a = Usage { instance_ms: 100_000, requests: 10_000, bytes_out: 1 << 30, ..Usage::default() };
        assert!(agree(1, &a, &a));
        assert!(agree(1, &a, &Usage { instance_ms: 98_000, requests: 9_982, ..a }));
        assert!(!agree(1, &a, &Usage { instance_ms: 97_000, ..a }));
        assert!(agree(2, &a, &Usage { instance_ms: 96_500, ..a }));
        assert!(!agree(1, &a, &Usage { requests: 9_981, ..a }));
        assert!(!agree(1, &a, &Usage { bytes_out: 1 << 29, ..a }));
        assert!(agree(1, &Usage { requests: 3, ..Usage::default() }, &Usage::default()));
    }

    #[test]
    fn a_borrower_that_was_away_believes_the_lender_for_that_time_and_no_further() {
        let own = Usage { instance_ms: 10_000, requests: 5, bytes_out: 9, ..Usage::default() };
        let there = |instance_ms| Usage { instance_ms, ..Usage::default() };
        for (lender, away_ms, claimed) in
            [(13_000, 0, 10_000), (13_000, 3_000, 13_000), (19_000, 3_000, 13_000), (4_000, 3_000, 10_000)]
        {
            assert_eq!(claim(own, &there(lender), away_ms, Ordered::default()), Usage { instance_ms: claimed, ..own });
        }
        assert_eq!(claim(own, &there(u64::MAX), u64::MAX, Ordered::default()).instance_ms, u64::MAX);
    }

    #[test]
    fn only_time_that_is_not_paid_falls_short() {
        let a = Usage { instance_ms: 100_000, requests: 10_000, bytes_out: 1 << 30, ..Usage::default() };
        let less = |instance_ms| Usage { instance_ms, ..a };
        assert!(falls_short(1, &a, &less(97_000)) && falls_short(1, &a, &less(0)));
        assert!(!falls_short(1, &a, &less(98_000)) && !falls_short(2, &a, &less(97_000)));
        assert!(!falls_short(1, &less(0), &a) && !falls_short(1, &a, &Usage { requests: 0, bytes_out: 0, ..a }));
    }

    #[test]
    fn kept_room_is_paid_for_as_long_as_there_was_a_lease_and_not_for_longer() {
        let there = Usage { reserved_instance_ms: 7_200_000, ..Usage::default() };
        let claimed = |kept_ms| {
            let ordered = Ordered { kept_ms, warm_ms: 0 };
            claim(Usage::default(), &there, 0, ordered).reserved_instance_ms
        };
        assert_eq!((claimed(9_000_000), claimed(3_600_000)), (7_200_000, 3_600_000));
        // What was to run all the time did so while nobody looked, and not longer.
        let ran = Usage { instance_ms: 5_000, ..there };
        let warm = |warm_ms| claim(Usage::default(), &ran, 0, Ordered { kept_ms: 0, warm_ms }).instance_ms;
        assert_eq!((warm(6_000), warm(4_000)), (5_000, 4_000));
        let half = Usage { reserved_instance_ms: 3_600_000, ..there };
        assert!(falls_short(1, &there, &half) && !agree(1, &there, &half) && !falls_short(1, &half, &there));
    }

    #[test]
    fn usage_adds_up() {
        let used = Usage::default().ran(3, 1_500).plus(0, 7, 70);
        assert_eq!(used, Usage { instance_ms: 4_500, requests: 7, bytes_out: 70, ..Usage::default() });
    }
}
