//! The lender's ledger: pure decisions over what it has promised. Oracle 3: it never sells more than it offered.
//!
//! Enters: the [`Book`] as stored, the [`Capacity`] as it is now, a request, now. Leaves: a new record or a [`Refused`].
//! Always holds: live holds and binding leases fit into the terms and into the cloud when they are granted; a lease that
//! ended never comes back; the same request twice is one request. The caller stores the record in the transaction that answers.

use crate::authority::not_older;
use crate::book::{Book, Transition};
use crate::document::{KIND, Lease};
use crate::message::{Emptiness, Renewal, ReservationGrant, ReservationRequest};
use crate::record::{EndedBy, Hold, LentLease, LentState, Renewed, Silence, Usage};
use crate::refused::{Code, Refused};
use pumasi_terms::egress::{DESTINATIONS_MAX, EgressRule, check_lent};
use pumasi_terms::offer::{Offer, Requirement};
use pumasi_terms::pact::Terms;
use pumasi_terms::service::Platform;
use pumasi_terms::{API_VERSION, BootMs, CloudName, Money, Now, Resources, Standby, WallMs};
use std::net::IpAddr;
use std::sync::Arc;

/// Longest text kept of a recall's reason, characters.
const WHY_CHARS_MAX: usize = 400;
/// The least that an instance may ask for: smaller ones would make counting them meaningless.
const INSTANCE_MIN: Resources = Resources { cpu_millis: 10, memory_mib: 8 };
/// The longest that a standby is kept for a borrower that is silent: a year.
const RETAIN_MS_MAX: u64 = 8_784 * 3_600_000;
/// Of a silence so much is written down at a time; a reboot of this cloud loses no more of it.
const SILENCE_COUNTED_MS: u64 = 3_600_000;
/// The most instances in one lease.
const INSTANCES_MAX: u32 = 1_000;

/// What this cloud has for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// Its own terms in the pact.
    pub terms: Terms,
    /// What the cloud really has, all of it.
    pub physical: Resources,
    /// Of that, kept for its own services.
    pub home_use: Resources,
    /// The part of it that makes way once something that is kept ready here must run.
    pub gives_way: Resources,
    pub platforms: Vec<Platform>,
    /// Free on disk now. What leases and holds may still write is taken off here.
    pub storage_free_bytes: u64,
    /// All that lent instances may call.
    pub egress: Vec<EgressRule>,
    /// Addresses of this cloud itself, which they never call.
    pub own_addresses: Vec<IpAddr>,
    /// What room costs that is kept for a standby, in percent of its price in use; none: nothing is kept.
    pub standby_percent: Option<u32>,
}

impl Capacity {
    /// The most that may be lent now, over all borrowers.
    pub fn lendable(&self) -> Resources {
        self.lendable_beside(self.home_use)
    }
    /// The same for standbys of which nothing runs: what makes way for them is in use until then.
    fn lendable_idle(&self) -> Resources {
        self.lendable_beside(self.home_use.minus(self.gives_way))
    }
    fn lendable_beside(&self, home_use: Resources) -> Resources {
        lesser(self.terms.lends, self.physical.minus(home_use))
    }
    /// The most that one borrower may hold.
    pub fn share(&self) -> Resources {
        let part = |whole: u32| {
            let part = u64::from(whole) * u64::from(self.terms.share_per_borrower_percent.min(100)) / 100;
            u32::try_from(part).unwrap_or(u32::MAX)
        };
        Resources { cpu_millis: part(self.terms.lends.cpu_millis), memory_mib: part(self.terms.lends.memory_mib) }
    }
}

fn lesser(a: Resources, b: Resources) -> Resources {
    Resources { cpu_millis: a.cpu_millis.min(b.cpu_millis), memory_mib: a.memory_mib.min(b.memory_mib) }
}

/// Room for one borrower: the lesser of what is left and what is left of its share.
struct Room {
    free: Resources,
    /// For standbys of which nothing runs.
    idle: Resources,
    share_left: Resources,
    storage_bytes: u64,
}

fn room(book: &Book, capacity: &Capacity, borrower: &CloudName, now: Now) -> Room {
    let all = book.bound(None, now);
    let own = book.bound(Some(borrower), now);
    Room {
        free: capacity.lendable().minus(all.resources),
        idle: capacity.lendable_idle().minus(all.resources),
        share_left: capacity.share().minus(own.resources),
        storage_bytes: capacity.terms.storage_bytes.min(capacity.storage_free_bytes).saturating_sub(all.storage_bytes),
    }
}

fn may_ask(terms: &Terms, borrower: &CloudName) -> bool {
    terms.borrowers.is_empty() || terms.borrowers.contains(borrower)
}

/// What the lender offers to one member now. It promises nothing.
pub fn offer(book: &Book, capacity: &Capacity, borrower: &CloudName, cloud: &CloudName, now: Now) -> Offer {
    let room = room(book, capacity, borrower, now);
    let (free, idle, storage_free_bytes) = if may_ask(&capacity.terms, borrower) {
        (lesser(room.free, room.share_left), lesser(room.idle, room.share_left), room.storage_bytes)
    } else {
        (Resources::default(), Resources::default(), 0)
    };
    let standby_free = (capacity.standby_percent.is_some() && idle != free).then_some(idle);
    Offer {
        cloud: cloud.clone(),
        at: now.wall,
        free,
        standby_free,
        storage_free_bytes,
        price_per_cpu_hour: capacity.terms.price_per_cpu_hour,
        standby_percent: capacity.standby_percent,
        platforms: capacity.platforms.clone(),
        recall_notice_ms: capacity.terms.recall_notice_ms,
        lease_ttl_ms_max: capacity.terms.lease_ttl_ms_max,
        egress: capacity.egress.clone(),
    }
}

fn check_egress(need: &Requirement, capacity: &Capacity) -> Result<(), Refused> {
    if need.egress.len() > DESTINATIONS_MAX {
        let text = format!("egress names {} addresses; at most {DESTINATIONS_MAX}", need.egress.len());
        return Err(Refused::no(Code::BadRequest, text));
    }
    let allowed = need.egress.iter().try_for_each(|to| check_lent(*to, &capacity.egress, &capacity.own_addresses));
    allowed.map_err(|why| Refused::no(Code::Egress, why))
}

fn check_standby(need: &Requirement, capacity: &Capacity) -> Result<(), Refused> {
    let Some(standby) = need.standby else { return Ok(()) };
    if capacity.standby_percent.is_none() {
        return Err(Refused::no(Code::NoStandby, "this cloud keeps nothing ready for others; ask another one"));
    }
    if standby.warm > need.instances || standby.retain_ms == 0 || standby.retain_ms > RETAIN_MS_MAX {
        let text = format!(
            "a standby of {} instances keeps {} warm and its data for {} ms; warm is at most instances, and the time 1 to {RETAIN_MS_MAX} ms",
            need.instances, standby.warm, standby.retain_ms
        );
        return Err(Refused::no(Code::BadRequest, text));
    }
    Ok(())
}

fn check_requirement(need: &Requirement) -> Result<(), Refused> {
    let bad = |text: String| Err(Refused::no(Code::BadRequest, text));
    if need.instances == 0 || need.instances > INSTANCES_MAX {
        return bad(format!("instances is {}; ask for 1 to {INSTANCES_MAX}", need.instances));
    }
    if need.instances_min == 0 || need.instances_min > need.instances {
        return bad(format!("instances_min is {}; it must be 1 to instances ({})", need.instances_min, need.instances));
    }
    if !INSTANCE_MIN.fits_in(need.resources) {
        return bad(format!(
            "an instance of {} cpu_millis and {} MiB is too small; ask for {} and {} at least",
            need.resources.cpu_millis, need.resources.memory_mib, INSTANCE_MIN.cpu_millis, INSTANCE_MIN.memory_mib
        ));
    }
    Ok(())
}

/// Decides on a hold. The same id and requirement again gives the same hold.
pub fn reserve(
    book: &Book,
    capacity: &Capacity,
    borrower: &CloudName,
    request: &ReservationRequest,
    now: Now,
) -> Result<Hold, Refused> {
    let (need, terms) = (&request.requirement, &capacity.terms);
    if let Some(hold) = book.holds.get(&request.id) {
        return again(hold, borrower, request, now);
    }
    if book.leases().any(|l| l.lease.reservation == request.id) {
        return Err(Refused::no(Code::IdConflict, format!("hold {} became a lease; use a new id", request.id)));
    }
    if !may_ask(terms, borrower) {
        return Err(Refused::no(
            Code::NotABorrower,
            format!("{borrower} is not among the borrowers of this cloud's terms"),
        ));
    }
    check_requirement(need)?;
    if request.ttl_ms == 0 {
        return Err(Refused::no(Code::BadRequest, "ttl_ms is 0; a hold lasts at least 1 ms"));
    }
    let offer = offer(book, capacity, borrower, borrower, now);
    if !offer.can_run(&need.platform) {
        let text = format!("nothing here runs {}", need.platform);
        return Err(Refused::no(Code::Platform, text));
    }
    check_egress(need, capacity)?;
    check_standby(need, capacity)?;
    let price = offer.price_per_instance_hour(need.resources);
    if price > need.price_per_instance_hour_max {
        let text =
            format!("an instance-hour costs {price}; the borrower pays {} at most", need.price_per_instance_hour_max);
        return Err(Refused::no(Code::Price, text));
    }
    let own: Vec<&Hold> = book.live_holds(now).filter(|h| &h.borrower == borrower).collect();
    if own.len() >= terms.holds_per_borrower as usize {
        let wait = own.iter().map(|h| h.expires_at.since(now.boot)).min().unwrap_or(terms.hold_ttl_ms_max);
        let text = format!("{borrower} has {} holds open, the most there may be; confirm or release one", own.len());
        return Err(Refused::later(Code::HoldsQuota, text, wait));
    }
    let room = room(book, capacity, borrower, now);
    let retry_ms = book.live_holds(now).map(|h| h.expires_at.since(now.boot)).min().unwrap_or(terms.lease_ttl_ms_max);
    if need.storage_bytes > room.storage_bytes {
        let text = format!("{} bytes of storage are free, {} are asked for", room.storage_bytes, need.storage_bytes);
        return Err(Refused::later(Code::NoStorage, text, retry_ms));
    }
    let free = if need.standby.is_some_and(|s| s.warm == 0) { room.idle } else { room.free };
    let (free, share) = (need.resources.count_in(free), need.resources.count_in(room.share_left));
    if free < need.instances_min {
        let text = format!("room for {free} instances, {} are of use", need.instances_min);
        return Err(Refused::later(Code::NoRoom, text, retry_ms));
    }
    if share < need.instances_min {
        let percent = terms.share_per_borrower_percent;
        let text = format!(
            "the share of one borrower ({percent} %) leaves {share} instances, {} are of use",
            need.instances_min
        );
        return Err(Refused::later(Code::ShareQuota, text, retry_ms));
    }
    Ok(Hold {
        id: request.id.clone(),
        borrower: borrower.clone(),
        requirement: need.clone(),
        instances: need.instances.min(free).min(share),
        price_per_instance_hour: price,
        standby_percent: need.standby.and(capacity.standby_percent),
        expires_at: now.boot.after(request.ttl_ms.min(terms.hold_ttl_ms_max)),
        created_at: now.wall,
    })
}

fn again(hold: &Hold, borrower: &CloudName, request: &ReservationRequest, now: Now) -> Result<Hold, Refused> {
    if &hold.borrower != borrower {
        return Err(Refused::no(Code::IdConflict, format!("hold id {} is in use; choose another", hold.id)));
    }
    if hold.requirement != request.requirement {
        return Err(Refused::no(Code::IdConflict, format!("hold {} has another requirement; use a new id", hold.id)));
    }
    if hold.expires_at <= now.boot {
        return Err(Refused::no(
            Code::HoldExpired,
            format!("hold {} has expired; reserve anew with a new id", hold.id),
        ));
    }
    Ok(hold.clone())
}

/// The hold in the words of the protocol.
pub fn grant(hold: &Hold, terms: &Terms, estimated_start_ms: u64, now: Now) -> ReservationGrant {
    ReservationGrant {
        id: hold.id.clone(),
        instances: hold.instances,
        price_per_instance_hour: hold.price_per_instance_hour,
        expires_in_ms: hold.expires_at.since(now.boot),
        lease_ttl_ms_max: terms.lease_ttl_ms_max,
        recall_notice_ms: terms.recall_notice_ms,
        standby_percent: hold.standby_percent,
        estimated_start_ms,
    }
}

/// Decides on a lease document whose signatures the caller has verified. A new one consumes its hold; the same one again
/// is the record as it is; a newer serial may change the application, the datasets and the epoch, nothing else.
pub fn confirm(book: &Book, capacity: &Capacity, lease: &Lease, now: Now) -> Result<LentLease, Refused> {
    if lease.api_version != API_VERSION || lease.kind != KIND {
        let text = format!("{} {} is not a {API_VERSION} {KIND}", lease.api_version, lease.kind);
        return Err(Refused::no(Code::BadRequest, text));
    }
    if let Some(known) = book.lease(&lease.id) {
        return amend(known, lease, now);
    }
    if let Some(other) = book.leases().find(|l| l.lease.reservation == lease.reservation) {
        let text = format!("hold {} became {}; it serves one lease only", lease.reservation, other.id());
        return Err(Refused::no(Code::NoHold, text));
    }
    let Some(hold) = book.holds.get(&lease.reservation) else {
        let text = format!("no hold {}; it expired or was let go: reserve anew", lease.reservation);
        return Err(Refused::no(Code::NoHold, text));
    };
    if hold.borrower != lease.borrower {
        return Err(Refused::no(Code::NotYours, format!("hold {} belongs to another borrower", hold.id)));
    }
    if hold.expires_at <= now.boot {
        return Err(Refused::no(Code::HoldExpired, format!("hold {} has expired; reserve anew", hold.id)));
    }
    let same = [
        ("requirement", hold.requirement == lease.requirement),
        ("instances", hold.instances == lease.instances),
        ("price_per_instance_hour", hold.price_per_instance_hour == lease.price_per_instance_hour),
        ("standby_percent", hold.standby_percent == lease.standby_percent),
        ("service", hold.requirement.service == lease.service),
        ("recall_notice_ms", capacity.terms.recall_notice_ms == lease.recall_notice_ms),
    ];
    if let Some((field, _)) = same.iter().find(|(_, fine)| !fine) {
        let text = format!("{field} of {} is not what hold {} was granted with", lease.id, hold.id);
        return Err(Refused::no(Code::Mismatch, text));
    }
    if lease.ttl_ms == 0 || lease.ttl_ms > capacity.terms.lease_ttl_ms_max {
        let text = format!("ttl_ms is {}; it must be 1 to {}", lease.ttl_ms, capacity.terms.lease_ttl_ms_max);
        return Err(Refused::no(Code::Mismatch, text));
    }
    Ok(LentLease {
        lease: lease.clone(),
        state: LentState::Active,
        expires_at: now.boot.after(lease.ttl_ms),
        instances_wanted: lease.instances,
        usage: Usage::default(),
        since: now.wall,
        epoch: lease.epoch,
        kept_since: lease.requirement.standby.map(|_| now.wall),
        silence: None,
    })
}

fn amend(known: &LentLease, lease: &Lease, now: Now) -> Result<LentLease, Refused> {
    let old = &known.lease;
    if old.borrower != lease.borrower {
        return Err(Refused::no(Code::NotYours, format!("{} belongs to another borrower", lease.id)));
    }
    if lease.serial < old.serial {
        let text = format!("{} has serial {}; {} is older", lease.id, old.serial, lease.serial);
        return Err(Refused::no(Code::OlderSerial, text));
    }
    if lease.serial == old.serial {
        if lease == old {
            return Ok(known.clone());
        }
        let text = format!("serial {} of {} says something else; raise the serial", lease.serial, lease.id);
        return Err(Refused::no(Code::IdConflict, text));
    }
    still_usable(known, now)?;
    not_older(known, lease.epoch)?;
    let comparable = Lease {
        serial: old.serial,
        epoch: old.epoch,
        application: old.application,
        datasets: old.datasets.clone(),
        created_at: old.created_at,
        pact_serial: old.pact_serial,
        ..lease.clone()
    };
    if &comparable != old {
        let text = format!("a newer serial of {} may change its application, datasets and epoch only", lease.id);
        return Err(Refused::no(Code::Mismatch, text));
    }
    Ok(LentLease { lease: lease.clone(), epoch: known.epoch.max(lease.epoch), ..known.clone() })
}

fn still_usable(lent: &LentLease, now: Now) -> Result<(), Refused> {
    let over = |what: &str| Err(Refused::no(Code::LeaseEnded, format!("{} {what}; lease anew", lent.id())));
    let late = lent.is_late(now) && lent.standby().is_none();
    match &lent.state {
        LentState::Active if late => over("ran out of time"),
        LentState::Recalled { deadline, .. } if *deadline <= now.boot || late => over("was recalled"),
        LentState::Active | LentState::Recalled { .. } => Ok(()),
        LentState::Ending { .. } => over("is being emptied"),
        LentState::Ended { .. } | LentState::Settled { .. } => over("is over"),
    }
}

/// Renews a lease from now on; a recalled one not past its deadline. What ended stays ended.
pub fn renew(lent: &LentLease, renewal: &Renewal, now: Now) -> Result<LentLease, Refused> {
    Ok(LentLease::with(lent.clone(), renewed(lent, renewal, now)?))
}

/// What a renewal makes of a lease. It changes nothing else, so that many can be written down in little room.
pub fn renewed(lent: &LentLease, renewal: &Renewal, now: Now) -> Result<Renewed, Refused> {
    if &renewal.lease != lent.id() {
        return Err(Refused::no(Code::BadRequest, format!("the renewal is for {}, not {}", renewal.lease, lent.id())));
    }
    not_older(lent, renewal.epoch)?;
    still_usable(lent, now)?;
    let until = now.boot.after(lent.lease.ttl_ms).max(lent.expires_at);
    let expires_at = match &lent.state {
        LentState::Recalled { deadline, .. } => until.min(*deadline),
        _ => until,
    };
    let instances_wanted = renewal.instances.min(lent.lease.instances);
    Ok(Renewed { expires_at, instances_wanted, epoch: lent.epoch.max(renewal.epoch) })
}

/// Calls a lease back with its agreed notice. A second recall does not move the deadline.
pub fn recall(lent: &LentLease, why: &str, now: Now) -> Result<LentLease, Refused> {
    match &lent.state {
        LentState::Active => {
            let deadline = now.boot.after(lent.lease.recall_notice_ms);
            let why = why.chars().take(WHY_CHARS_MAX).collect();
            let state = LentState::Recalled { deadline, why };
            Ok(LentLease { state, expires_at: lent.expires_at.min(deadline), since: now.wall, ..lent.clone() })
        }
        LentState::Recalled { .. } => Ok(lent.clone()),
        _ => Err(Refused::no(Code::LeaseEnded, format!("{} is over or ending already", lent.id()))),
    }
}

/// The borrower gives it back. Of no effect on a lease that ends or ended already.
pub fn release(lent: &LentLease, now: Now) -> LentLease {
    if lent.usable() { ending(lent, EndedBy::Release, now) } else { lent.clone() }
}

/// The service is the lender's own from now on.
pub fn hand_over(lent: &LentLease, now: Now) -> Result<LentLease, Refused> {
    still_usable(lent, now)?;
    Ok(ending(lent, EndedBy::Handover, now))
}

fn ending(lent: &LentLease, why: EndedBy, now: Now) -> LentLease {
    let usage = lent.used(now);
    LentLease { state: LentState::Ending { why }, instances_wanted: 0, since: now.wall, usage, ..lent.clone() }
}

/// What time alone has brought about: expired holds, leases past their end or past their recall's notice, silences of standbys.
pub fn expire(book: &Book, now: Now) -> Vec<Transition> {
    let holds = book.holds.values().filter(|h| h.expires_at <= now.boot).map(|h| Transition::DropHold(h.id.clone()));
    let leases = book.leases().filter_map(|lent| match lent.standby() {
        Some(standby) => silence(lent, standby, now),
        None => over(lent, now),
    });
    holds.chain(leases.map(|lent| Transition::Lease(Box::new(lent)))).collect()
}

fn over(lent: &LentLease, now: Now) -> Option<LentLease> {
    let why = match &lent.state {
        LentState::Recalled { deadline, .. } if *deadline <= now.boot || lent.is_late(now) => EndedBy::Recall,
        LentState::Active if lent.is_late(now) => EndedBy::Expiry,
        _ => return None,
    };
    Some(ending(lent, why, now))
}

/// A standby that hears nothing goes on. It may hold the last copy there is: only its owner's release ends it, or what it promised is over;
/// a recall's notice only stops what runs.
fn silence(lent: &LentLease, standby: Standby, now: Now) -> Option<LentLease> {
    if !lent.usable() {
        return None;
    }
    let recalled = matches!(lent.state, LentState::Recalled { deadline, .. } if deadline <= now.boot);
    let still = if recalled { 0 } else { lent.instances_wanted.min(standby.warm) };
    match &lent.silence {
        None if lent.is_late(now) => {
            let since = WallMs(now.wall.0.saturating_sub_unsigned(lent.lease.ttl_ms));
            let silence = Silence { since, counted_ms: 0, counted_at: now.boot, behind_ms: None };
            Some(LentLease { silence: Some(silence), instances_wanted: still, ..lent.clone() })
        }
        Some(_) if !lent.is_late(now) => Some(LentLease { silence: None, ..lent.clone() }),
        Some(silence) if silence.lasted_ms(now) >= standby.retain_ms => Some(ending(lent, EndedBy::Retention, now)),
        Some(silence) if now.boot.since(silence.counted_at) >= SILENCE_COUNTED_MS => {
            let counted = Silence { counted_ms: silence.lasted_ms(now), counted_at: now.boot, ..silence.clone() };
            Some(LentLease { silence: Some(counted), ..lent.clone() })
        }
        _ if lent.instances_wanted > still && (recalled || lent.silence.is_some()) => {
            Some(LentLease { instances_wanted: still, ..lent.clone() })
        }
        _ => None,
    }
}

/// After a reboot (or under another boot id) the stored boot times mean nothing: holds are dropped, and the use of every lease is
/// forfeit. A standby is kept, and waits to be renewed. What is being emptied goes on being emptied.
pub fn after_reboot(book: &Book, now: Now) -> Vec<Transition> {
    let holds = book.holds.keys().map(|id| Transition::DropHold(id.clone()));
    let leases = book.leases().filter(|l| l.usable()).map(|lent| {
        if lent.standby().is_some() {
            return Transition::Lease(Box::new(kept_over_reboot(lent, now)));
        }
        let why = if matches!(lent.state, LentState::Recalled { .. }) { EndedBy::Recall } else { EndedBy::Expiry };
        Transition::Lease(Box::new(LentLease { expires_at: BootMs(0), ..ending(lent, why, now) }))
    });
    holds.chain(leases).collect()
}

fn kept_over_reboot(lent: &LentLease, now: Now) -> LentLease {
    let silence = lent.silence.clone().map(|s| Silence { counted_at: now.boot, ..s });
    let state = match &lent.state {
        LentState::Recalled { why, .. } => LentState::Recalled { deadline: now.boot, why: why.clone() },
        state => state.clone(),
    };
    LentLease { state, silence, expires_at: BootMs(0), ..lent.clone() }
}

/// Closes a lease that is proven empty.
pub fn ended(lent: &LentLease, left: &Emptiness, now: Now) -> Result<LentLease, Refused> {
    match &lent.state {
        LentState::Ending { why } if left.is_empty() => {
            Ok(LentLease { state: LentState::Ended { why: *why, at: now.wall }, since: now.wall, ..lent.clone() })
        }
        LentState::Ending { .. } => {
            let Emptiness { processes, routes, files, bytes, keys, holds, others: _ } = left;
            let text = format!(
                "{} still has {processes} processes, {routes} routes, {files} files ({bytes} bytes), {keys} keys, {holds} holds",
                lent.id()
            );
            Err(Refused::later(Code::NotEmpty, text, 1_000))
        }
        LentState::Active | LentState::Recalled { .. } => {
            Err(Refused::no(Code::StillInUse, format!("{} is in use; release it first", lent.id())))
        }
        LentState::Ended { .. } | LentState::Settled { .. } => Ok(lent.clone()),
    }
}

/// Both sides have signed the settlement, or the lender closed it alone.
pub fn settle(lent: &LentLease, now: Now) -> Result<LentLease, Refused> {
    match &lent.state {
        LentState::Ended { .. } => {
            Ok(LentLease { state: LentState::Settled { at: now.wall }, since: now.wall, ..lent.clone() })
        }
        LentState::Settled { .. } => Ok(lent.clone()),
        _ => Err(Refused::later(Code::NotEnded, format!("{} is not proven empty yet", lent.id()), 1_000)),
    }
}

/// Rent that the lender may expect an hour of what is lent now.
pub fn rent_per_hour(book: &Book) -> Money {
    let of = |l: &Arc<LentLease>| l.lease.price_per_instance_hour.0.saturating_mul(u64::from(l.instances_wanted));
    Money(book.leases().filter(|l| l.usable()).map(of).fold(0, u64::saturating_add))
}
