//! What came back from a peer, applied to the journey. An event that no longer fits changes nothing.

use crate::record::{Journey, Part, PartState, Told, TryState};
use crate::rehearsal::{self, Answer};
use pumasi_lease::message::{Emptiness, LeaseStatus, ReservationGrant};
use pumasi_lease::meter::INSTANCE_MS_SLACK;
use pumasi_lease::record::EndedBy;
use pumasi_lease::{LentState, Usage};
use pumasi_plan::{Borrow, Plan};
use pumasi_terms::{BootMs, Digest, LeaseId, Now, Ppm, ReservationId};

/// Reasons of one lender that are told, and what is kept of each.
const TROUBLES_TOLD_MAX: usize = 16;
const TROUBLE_CHARS_MAX: usize = 1_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Granted {
        reservation: ReservationId,
        grant: ReservationGrant,
    },
    NotGranted {
        reservation: ReservationId,
        why: String,
    },
    LetGo {
        reservation: ReservationId,
    },
    Signed {
        lease: LeaseId,
    },
    NotSigned {
        lease: LeaseId,
        why: String,
    },
    Sent {
        lease: LeaseId,
        generation: u64,
    },
    /// `fatal`: trying again cannot help.
    NotSent {
        lease: LeaseId,
        why: String,
        fatal: bool,
    },
    /// A heartbeat's word about a lease; `sent_at` is when the renewal had been sent.
    Heard {
        status: LeaseStatus,
        sent_at: BootMs,
    },
    /// What a rented instance answered to a rehearsal, or why it did not.
    Asked {
        lease: LeaseId,
        answer: Result<Answer, String>,
    },
    /// The lender has what its seat must know.
    Informed {
        lease: LeaseId,
        dossier: Digest,
    },
    Returned {
        lease: LeaseId,
    },
    /// The lender's answer to the release.
    Emptied {
        lease: LeaseId,
        left: Emptiness,
        usage: Usage,
    },
    /// The lender knows no such lease (any more).
    Unknown {
        lease: LeaseId,
    },
    Settled {
        lease: LeaseId,
        agreed: bool,
    },
}

/// Applies `event`; what is told goes into the journal in the same transaction.
pub fn apply(journey: &Journey, plan: &Plan, event: Event, now: Now) -> (Journey, Vec<Told>) {
    let mut next = journey.clone();
    let mut told = Vec::new();
    match event {
        Event::Granted { reservation, grant } => granted(&mut next, plan, &reservation, grant, &mut told),
        Event::NotGranted { reservation, why } => not_granted(&mut next, &reservation, why, &mut told),
        Event::LetGo { reservation } => {
            if let Some(state) = try_state(&mut next, &reservation)
                && matches!(state, TryState::LettingGo { .. })
            {
                *state = TryState::Over;
            }
        }
        Event::Signed { lease } => signed(&mut next, &lease, now, &mut told),
        Event::NotSigned { lease, why } => {
            if let Some(part) = next.part_mut(&lease)
                && part.state == PartState::Signing
            {
                told.push(Told::lease(part, "lease_refused", format!("{}: {why}", part.lender)));
                let lender = part.lender.clone();
                enter(part, PartState::Ended { why, proven: true, settled: true }, now);
                next.failed.push(lender);
            }
        }
        Event::Sent { lease, generation } => {
            if let Some(part) = next.part_mut(&lease)
                && part.is_hopeful()
            {
                part.generation_sent = part.generation_sent.max(generation);
                part.trouble = None;
                told.push(Told::lease(
                    part,
                    "transferred",
                    format!(
                        "application generation {generation} and first copies are complete and verified at {}",
                        part.lender
                    ),
                ));
                if part.state == PartState::Sending {
                    let next = if part.standby.is_some() { PartState::Kept } else { PartState::Starting };
                    enter(part, next, now);
                }
            }
        }
        Event::NotSent { lease, why, fatal } => not_sent(&mut next, &lease, why, fatal, now, &mut told),
        Event::Heard { status, sent_at } => heard(&mut next, status, sent_at, now, &mut told),
        Event::Asked { lease, answer } => rehearsal::asked(&mut next, &lease, answer, now, &mut told),
        Event::Informed { lease, dossier } => {
            if let Some(part) = next.part_mut(&lease) {
                part.dossier = Some(dossier);
            }
        }
        Event::Returned { lease } => on_release(&mut next, &lease, |r| r.returned = true),
        Event::Emptied { lease, left, usage } => {
            if let Some(part) = next.part_mut(&lease) {
                hear(part, 0, now);
                part.lender_usage = usage;
            }
            on_release(&mut next, &lease, |r| r.emptiness = Some(left));
        }
        Event::Unknown { lease } => unknown_there(&mut next, &lease, now),
        Event::Settled { lease, agreed } => {
            on_release(&mut next, &lease, |r| r.settled = true);
            if let Some(part) = next.part(&lease) {
                let (here, there) = (part.usage, part.lender_usage);
                let text = format!(
                    "instance time {} ms here, {} ms there; requests {} here, {} there: the ledgers {}",
                    here.instance_ms,
                    there.instance_ms,
                    here.requests,
                    there.requests,
                    if agreed { "agree" } else { "differ" }
                );
                told.push(Told::lease(part, "settled", text));
            }
        }
    }
    (next, told)
}

fn on_release(journey: &mut Journey, lease: &LeaseId, change: impl FnOnce(&mut pumasi_release::Heard)) {
    if let Some(Part { state: PartState::Ending { release, .. }, .. }) = journey.part_mut(lease) {
        change(&mut release.heard);
    }
}

/// Believed once no signature under way can make it known there: a standby that was signed late would be kept there by nobody's wish.
fn unknown_there(journey: &mut Journey, lease: &LeaseId, now: Now) {
    let unsure = journey.part(lease).and_then(|p| p.unsure_until).is_some_and(|until| now.boot < until);
    if !unsure {
        on_release(journey, lease, |r| r.unknown_there = true);
    }
}

fn try_state<'a>(journey: &'a mut Journey, reservation: &ReservationId) -> Option<&'a mut TryState> {
    let tries = &mut journey.seeking.as_mut()?.tries;
    tries.iter_mut().find(|t| &t.candidate.reservation == reservation).map(|t| &mut t.state)
}

fn granted(
    journey: &mut Journey,
    plan: &Plan,
    reservation: &ReservationId,
    grant: ReservationGrant,
    told: &mut Vec<Told>,
) {
    let Some(Borrow { requirement, .. }) = &plan.borrow else { return };
    let Some(seeking) = &mut journey.seeking else { return };
    let Some(t) = seeking.tries.iter_mut().find(|t| &t.candidate.reservation == reservation) else { return };
    if t.state != TryState::Asking {
        return;
    }
    let (action, why, state) = match pumasi_lease::choose::unsound(requirement, &t.candidate, &grant) {
        None => {
            let why = format!(
                "{} holds {} instances for {} ms at {} an hour each",
                t.candidate.cloud, grant.instances, grant.expires_in_ms, grant.price_per_instance_hour
            );
            ("hold_granted", why, TryState::Granted { grant })
        }
        Some(lie) => ("hold_distrusted", lie.clone(), TryState::Refused { why: lie }),
    };
    t.state = state;
    told.push(Told {
        action,
        subject_kind: "reservation",
        subject: reservation.to_string(),
        reasons: vec![why],
        last_line: String::new(),
    });
}

fn signed(journey: &mut Journey, lease: &LeaseId, now: Now, told: &mut Vec<Told>) {
    let Some(part) = journey.part_mut(lease).filter(|p| p.state == PartState::Signing) else { return };
    // From the first time that it may have been signed there: what was answered may have been a repetition.
    part.expires_at = part.since.after(part.ttl_ms);
    part.heard_at = now.boot;
    enter(part, PartState::Sending, now);
    let why = format!(
        "{} instances at {}, {} an hour each; signed by both",
        part.granted, part.lender, part.price_per_instance_hour
    );
    told.push(Told::lease(part, "lease_signed", why));
}

fn not_granted(journey: &mut Journey, reservation: &ReservationId, why: String, told: &mut Vec<Told>) {
    let Some(seeking) = &mut journey.seeking else { return };
    let Some(t) = seeking.tries.iter_mut().find(|t| &t.candidate.reservation == reservation) else { return };
    if t.state != TryState::Asking {
        return;
    }
    let text = format!("{}: {why}", t.candidate.cloud);
    told.push(Told {
        action: "hold_refused",
        subject_kind: "reservation",
        subject: reservation.to_string(),
        reasons: vec![text],
        last_line: String::new(),
    });
    journey.failed.push(t.candidate.cloud.clone());
    t.state = TryState::Refused { why };
}

fn not_sent(journey: &mut Journey, lease: &LeaseId, why: String, fatal: bool, now: Now, told: &mut Vec<Told>) {
    let Some(part) = journey.part_mut(lease).filter(|p| p.is_hopeful()) else { return };
    // Tried again and again: the same trouble is told once.
    if !fatal && part.trouble.as_ref() != Some(&why) {
        told.push(Told::lease(part, "transfer_interrupted", format!("{}: {why}; tried again", part.lender)));
    }
    part.trouble = Some(why.clone());
    if fatal {
        give_back(journey, lease, why, now, told);
    }
}

/// Another cloud's words are kept in a record and in the journal.
pub(crate) fn bounded(text: &str) -> String {
    text.chars().take(TROUBLE_CHARS_MAX).collect()
}

/// Why rented instances are not ready stands here as well, within a heartbeat of when it was found there.
fn not_ready(part: &mut Part, last_line: &str, told: &mut Vec<Told>) {
    let Some(why) = part.trouble.clone().filter(|why| !part.troubles_told.contains(why)) else { return };
    if part.troubles_told.len() < TROUBLES_TOLD_MAX {
        let text = format!("{}: {why}", part.lender);
        told.push(Told { last_line: bounded(last_line), ..Told::lease(part, "rented_not_ready", text) });
        part.troubles_told.insert(why);
    }
}

/// Instances that are ready at a silence's end may have been so from its beginning, where our own reading counts what was ready then.
/// A silence that is longer than readings may differ is written down: for the instances that ran at one of its ends, and for all that were
/// granted (the lender may have started and stopped them meanwhile) until a lease's silences are as long as one that a lender outlasts.
fn hear(part: &mut Part, ready: u32, now: Now) {
    // A lender that hears nothing holds it for a time to live after the last renewal, which may have been sent since we heard.
    let outlasts_ms = part.ttl_ms.saturating_mul(2);
    let silent_ms = now.boot.since(part.heard_at).min(outlasts_ms);
    if silent_ms > INSTANCE_MS_SLACK {
        let known = part.ready.max(ready).min(part.granted);
        let blind_ms = silent_ms.min(outlasts_ms.saturating_sub(part.blind_ms));
        part.blind_ms = part.blind_ms.saturating_add(blind_ms);
        part.lose_sight(known, silent_ms);
        part.lose_sight(part.granted.saturating_sub(known), blind_ms);
    } else {
        part.lose_sight(ready.min(part.granted).saturating_sub(part.ready), silent_ms);
    }
    part.heard_at = now.boot;
}

fn heard(journey: &mut Journey, status: LeaseStatus, sent_at: BootMs, now: Now, told: &mut Vec<Told>) {
    let lease = status.lease.clone();
    let Some(part) = journey.part_mut(&lease) else { return };
    if part.is_over() || part.state == PartState::Signing {
        return;
    }
    hear(part, status.instances_ready, now);
    // While it is sent to, the lender knows of no trouble, and its word must not hide ours.
    if part.state != PartState::Sending || status.trouble.is_some() {
        part.trouble = status.trouble.map(|why| bounded(&why));
        not_ready(part, &status.last_line, told);
    }
    match status.state {
        Some(LentState::Active) => {
            // Only as long as the lender says: the heartbeat may have been sent before there was a lease to renew.
            part.expires_at = part.expires_at.max(sent_at.after(status.expires_in_ms.min(part.ttl_ms)));
            part.ready = status.instances_ready.min(part.granted);
            part.lender_usage = status.usage;
        }
        Some(LentState::Recalled { why, .. }) => {
            // The notice counts from when the renewal was sent: the answer cannot be younger than that.
            let deadline = sent_at.after(status.recall_in_ms.unwrap_or(0));
            part.expires_at = part.expires_at.min(deadline);
            part.ready = status.instances_ready.min(part.granted);
            part.lender_usage = status.usage;
            if part.recalled.is_none() {
                part.recalled = Some(deadline);
                told.push(Told::lease(
                    part,
                    "recall_heard",
                    format!("{} wants it back in {} ms: {why}", part.lender, deadline.since(now.boot)),
                ));
            }
        }
        Some(LentState::Ending { why: EndedBy::Handover } | LentState::Ended { why: EndedBy::Handover, .. }) => {
            part.ready = 0;
            part.lender_usage = status.usage;
            end(journey, &lease, "the service is its lender's own now".into(), now, told);
        }
        Some(LentState::Ending { .. } | LentState::Ended { .. } | LentState::Settled { .. }) => {
            part.ready = 0;
            part.lender_usage = status.usage;
            if part.is_hopeful() {
                give_back(journey, &lease, "the lender ended it".into(), now, told);
            }
        }
        None => {
            part.ready = 0;
            match part.is_hopeful() {
                true => give_back(journey, &lease, "the lender does not know it".into(), now, told),
                false => unknown_there(journey, &lease, now),
            }
        }
    }
}

/// Begins to end a part for a fault of the lender: it is not asked again in this journey.
pub(crate) fn give_back(journey: &mut Journey, lease: &LeaseId, why: String, now: Now, told: &mut Vec<Told>) {
    if let Some(part) = journey.part(lease) {
        let lender = part.lender.clone();
        if !journey.failed.contains(&lender) {
            journey.failed.push(lender);
        }
    }
    end(journey, lease, why, now, told);
}

/// Begins to end a part in order.
pub(crate) fn end(journey: &mut Journey, lease: &LeaseId, why: String, now: Now, told: &mut Vec<Told>) {
    let Some(part) = journey.part_mut(lease) else { return };
    if !part.is_hopeful() {
        return;
    }
    if part.state == PartState::Signing {
        // Not known whether the lender signed: the release below finds out, or its time to live does.
        part.unsure_until = Some(part.expires_at);
        part.expires_at = now.boot.after(part.ttl_ms);
    }
    part.wanted = 0;
    part.weight = Ppm(0);
    told.push(Told::lease(part, "switchback", format!("no new requests go to {}: {why}", part.lender)));
    enter(part, PartState::Ending { why, release: pumasi_release::ReleaseState::begin(now) }, now);
}

pub(crate) fn enter(part: &mut Part, state: PartState, now: Now) {
    part.state = state;
    part.since = now.boot;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{JOURNEY_VERSION, Phase};
    use pumasi_judge::Cause;
    use pumasi_terms::{CloudName, Epoch, JourneyId, Money, PlanId, ServiceName, WallMs};

    fn now(ms: u64) -> Now {
        Now { boot: BootMs(ms), wall: WallMs(0) }
    }

    fn sending() -> (Journey, LeaseId) {
        let lease = LeaseId::from_entropy(1);
        let part = Part {
            lease: lease.clone(),
            lender: CloudName::parse("city-b").unwrap(),
            reservation: ReservationId::from_entropy(1),
            plan: PlanId::from_entropy(1),
            granted: 2,
            wanted: 2,
            price_per_instance_hour: Money(1),
            ttl_ms: 4_000,
            recall_notice_ms: 5_000,
            state: PartState::Sending,
            since: BootMs(0),
            expires_at: BootMs(4_000),
            heard_at: BootMs(0),
            ready: 0,
            generation_sent: 0,
            weight: Ppm(0),
            stepped_at: BootMs(0),
            unsure_until: None,
            recalled: None,
            trouble: None,
            troubles_told: Default::default(),
            usage: Usage::default(),
            unmetered_ms: 0,
            blind_ms: 0,
            lender_usage: Usage::default(),
            standby: None,
            standby_percent: None,
            dossier: None,
        };
        let journey = Journey {
            version: JOURNEY_VERSION,
            id: JourneyId::from_entropy(1),
            service: ServiceName::parse("notes").unwrap(),
            cause: Cause::Overload,
            epoch: Epoch(1),
            opened_at: WallMs(0),
            phase: Phase::Running,
            plan: PlanId::from_entropy(1),
            plan_number: 1,
            seeking: None,
            parts: vec![part],
            failed: Vec::new(),
            failed_until: Default::default(),
            helped_by: Default::default(),
            away: Default::default(),
            rehearsal: None,
        };
        (journey, lease)
    }

    fn active(lease: &LeaseId, expires_in_ms: u64) -> LeaseStatus {
        LeaseStatus {
            lease: lease.clone(),
            state: Some(LentState::Active),
            expires_in_ms,
            recall_in_ms: None,
            instances_ready: 0,
            instances_starting: 0,
            trouble: None,
            last_line: String::new(),
            generation: 0,
            usage: Usage::default(),
            standby: false,
        }
    }

    #[test]
    fn a_heartbeat_that_did_not_renew_makes_no_lease_longer() {
        let (mut journey, lease) = sending();
        // Sent before the lease was signed, answered late: the lender has the lease and its own time for it.
        heard(&mut journey, active(&lease, 2_500), BootMs(1_000), now(2_000), &mut Vec::new());
        assert_eq!(journey.part(&lease).unwrap().expires_at, BootMs(4_000));
        heard(&mut journey, active(&lease, 4_000), BootMs(1_500), now(2_500), &mut Vec::new());
        assert_eq!(journey.part(&lease).unwrap().expires_at, BootMs(5_500));
        heard(&mut journey, active(&lease, 3_600_000), BootMs(2_000), now(2_500), &mut Vec::new());
        assert_eq!(
            journey.part(&lease).unwrap().expires_at,
            BootMs(6_000),
            "nobody is believed beyond what was signed"
        );
    }

    #[test]
    fn a_lease_that_was_signed_at_the_second_asking_counts_from_the_first() {
        let (mut journey, lease) = sending();
        let part = journey.part_mut(&lease).unwrap();
        (part.state, part.since) = (PartState::Signing, BootMs(1_000));
        // The lender may have signed at once; its answer was lost, and the repetition renews nothing there.
        signed(&mut journey, &lease, now(3_000), &mut Vec::new());
        let part = journey.part(&lease).unwrap();
        assert_eq!((&part.state, part.expires_at), (&PartState::Sending, BootMs(5_000)));
    }

    #[test]
    fn a_lender_that_answers_seldom_is_believed_for_what_it_said_was_ready_and_no_more_than_once_for_all() {
        let (mut journey, lease) = sending();
        journey.part_mut(&lease).unwrap().state = PartState::Serving;
        let ask = |journey: &mut Journey, ms, ready| {
            let status = LeaseStatus { instances_ready: ready, ..active(&lease, 4_000) };
            heard(journey, status, BootMs(ms), now(ms), &mut Vec::new());
            journey.part(&lease).unwrap().unmetered_ms
        };
        assert_eq!(ask(&mut journey, 1_000, 0), 0);
        // Two granted, each silence 3 s, time to live 4 s: 8 s for both, whatever it says, and then what was ready.
        assert_eq!([4_000, 7_000, 10_000, 13_000].map(|ms| ask(&mut journey, ms, 0)), [6_000, 12_000, 16_000, 16_000]);
        assert_eq!([16_000, 19_000, 22_000].map(|ms| ask(&mut journey, ms, 1)), [19_000, 22_000, 25_000]);
        assert_eq!(ask(&mut journey, 25_000, 0), 28_000);
        assert_eq!(ask(&mut journey, 28_000, 0), 28_000);
    }

    #[test]
    fn instances_that_are_ready_at_the_end_of_a_short_silence_may_have_been_so_at_its_beginning() {
        let (mut journey, lease) = sending();
        journey.part_mut(&lease).unwrap().state = PartState::Starting;
        let mut ms = 0;
        let mut ask = |ready| {
            ms += 1_500;
            let status = LeaseStatus { instances_ready: ready, ..active(&lease, 4_000) };
            heard(&mut journey, status, BootMs(ms), now(ms), &mut Vec::new());
            journey.part(&lease).unwrap().unmetered_ms
        };
        // Two granted; what stays and what stops is in our own reading.
        assert_eq!([0, 1, 1, 2, 2, 0, 9].map(&mut ask), [0, 1_500, 1_500, 3_000, 3_000, 3_000, 6_000]);
    }

    #[test]
    fn why_rented_instances_are_not_ready_stands_here_as_well_each_reason_once() {
        let (mut journey, lease) = sending();
        journey.part_mut(&lease).unwrap().state = PartState::Starting;
        let mut say = |trouble: Option<&str>, last_line: &str| {
            let mut told = Vec::new();
            let status = LeaseStatus {
                trouble: trouble.map(str::to_owned),
                last_line: last_line.into(),
                ..active(&lease, 4_000)
            };
            heard(&mut journey, status, BootMs(1_000), now(1_000), &mut told);
            (told, journey.part(&lease).unwrap().trouble.clone())
        };
        let (told, trouble) = say(Some("exited with code 1"), "no key");
        assert_eq!(trouble.as_deref(), Some("exited with code 1"));
        assert_eq!((told.len(), told[0].action, told[0].last_line.as_str()), (1, "rented_not_ready", "no key"));
        assert_eq!(told[0].reasons, ["city-b: exited with code 1"]);
        // However often it comes and goes.
        for why in [None, Some("exited with code 1"), Some("GET / answered 503"), Some("exited with code 1")] {
            let (told, trouble) = say(why, "");
            assert_eq!(told.len(), usize::from(why == Some("GET / answered 503")), "{why:?}");
            assert_eq!(trouble.as_deref(), why);
        }
        // A lender that invents reasons fills neither the record nor the journal.
        let invented: usize = (0..1_000).map(|n| say(Some(&format!("{n}{}", "x".repeat(9_000))), "").0.len()).sum();
        assert!(invented < TROUBLES_TOLD_MAX);
        let part = journey.part(&lease).unwrap();
        assert!(
            part.trouble.as_ref().unwrap().len() <= TROUBLE_CHARS_MAX && part.troubles_told.len() <= TROUBLES_TOLD_MAX
        );
    }

    #[test]
    fn a_transfer_that_breaks_off_is_told_once_and_a_heartbeat_does_not_hide_it() {
        let (mut journey, lease) = sending();
        let mut told = Vec::new();
        for ms in [100, 200] {
            not_sent(&mut journey, &lease, "connection reset".into(), false, now(ms), &mut told);
            let status = active(&lease, 4_000);
            heard(&mut journey, status, BootMs(ms), now(ms), &mut told);
        }
        let actions: Vec<&str> = told.iter().map(|t| t.action).collect();
        assert_eq!(actions, ["transfer_interrupted"]);
        let part = journey.part(&lease).unwrap();
        assert_eq!((part.trouble.as_deref(), &part.state), (Some("connection reset"), &PartState::Sending));
        not_sent(&mut journey, &lease, "timed out".into(), false, now(300), &mut told);
        assert_eq!(told.len(), 2, "another trouble is news");
        not_sent(&mut journey, &lease, "no room".into(), true, now(400), &mut told);
        assert!(matches!(journey.part(&lease).unwrap().state, PartState::Ending { .. }));
        assert_eq!(journey.failed.len(), 1);
    }
}
