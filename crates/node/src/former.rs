//! What this cloud still has of a service that another cloud serves by now, and what it set aside of its own when one came back: kept for
//! a while, then erased.
//!
//! Enters: what was signed about the service, the record of the move that is over, the clock. Leaves: erased directories, and the
//! journal's word of what and how much.
//! Always holds: nothing goes but by the positive record that the other cloud serves, or, of what was set aside, that this one owns it;
//! a record that is missing or cannot be read, and one that says that an heir was given up on, keeps everything; what goes is renamed
//! away first, under the lock that a promotion takes, so that nothing that came since is in it.

use crate::node::Note;
use crate::object::{MOVE, RECLAIM, ServiceRecord};
use crate::{Node, clock, register, tenancy, world};
use pumasi_api::Problem;
use pumasi_api::message::RetiredView;
use pumasi_journey::moving::{Move, Step};
use pumasi_lease::handover::Handover;
use pumasi_lease::reclaim::Reclaim;
use pumasi_terms::{CloudName, Epoch, WallMs};
use pumasi_trust::SignedDocument;
use std::path::PathBuf;

/// Counted at most: what is erased is told, not billed.
const FILES_MAX: u64 = 1_000_000;
const HOUR_MS: u64 = 3_600_000;

/// Where a service is served, as far as there is proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    Here {
        since: WallMs,
    },
    Elsewhere {
        since: WallMs,
    },
    /// Nothing is erased.
    Unproven,
}

fn served(
    own: &CloudName,
    kept_at: Epoch,
    word: Option<&Handover>,
    reclaim: Option<&Reclaim>,
    last: Option<&Move>,
) -> Served {
    // This cloud was given up on: what it has may be the only trace of what it wrote.
    let lost = reclaim.is_some_and(|r| &r.heir == own && r.epoch > kept_at);
    let Some(h) = word.filter(|h| !lost && reclaim.is_none_or(|r| r.epoch < h.epoch)) else { return Served::Unproven };
    if &h.to == own {
        return if h.epoch == kept_at { Served::Here { since: h.created_at } } else { Served::Unproven };
    }
    match last.filter(|m| m.id == h.id && h.epoch > kept_at && (m.wish == h.wish || &h.from != own)) {
        Some(Move { step: Step::Fronted { at }, .. }) => Served::Elsewhere { since: *at },
        _ => Served::Unproven,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// What it served last.
    Data,
    /// What was set aside when it came back.
    Before,
}

impl Part {
    const ALL: [Part; 2] = [Part::Data, Part::Before];

    fn name(self) -> &'static str {
        match self {
            Part::Data => "data",
            Part::Before => "before",
        }
    }

    /// Since when it is nobody's.
    fn useless_since(self, served: Served) -> Option<WallMs> {
        match (self, served) {
            (_, Served::Elsewhere { since }) | (Part::Before, Served::Here { since }) => Some(since),
            _ => None,
        }
    }
}

fn facts(node: &Node, service: &ServiceRecord) -> Result<Served, Problem> {
    if service.taking.is_some() || service.deleting {
        return Ok(Served::Unproven);
    }
    let reclaim = node.item::<SignedDocument>(RECLAIM, service.id.as_str())?;
    let reclaim = reclaim.map(|d| register::read_reclaim(&d)).transpose()?;
    let (word, last) = (register::handover(node, &service.id)?, node.item::<Move>(MOVE, service.name().as_str())?);
    let writers = service.writers();
    let runs = node.instances.lock().iter().any(|i| writers.contains(&i.owner));
    let found = served(node.name(), service.epoch, word.as_ref(), reclaim.as_ref(), last.as_deref());
    Ok(if runs && matches!(found, Served::Elsewhere { .. }) { Served::Unproven } else { found })
}

fn place(node: &Node, service: &ServiceRecord, part: Part) -> PathBuf {
    tenancy::service_dir(node, service).join(part.name())
}

fn has_any(dir: &std::path::Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

fn kept_ms(node: &Node) -> u64 {
    u64::from(node.config.store.moved_data_kept_hours) * HOUR_MS
}

async fn bytes_of(dirs: Vec<PathBuf>) -> Result<(u64, u64), Problem> {
    let measure = move || {
        let all = dirs.iter().filter_map(|dir| pumasi_engine::measure(dir, FILES_MAX).ok());
        all.fold((0u64, 0u64), |(bytes, files), m| (bytes.saturating_add(m.bytes), files.saturating_add(m.files)))
    };
    world::blocking(measure).await.map_err(|e| Problem::ours(e.to_string()))
}

/// What is kept of a service though nobody here needs it; none: nothing is.
pub async fn kept(node: &Node, service: &ServiceRecord) -> Result<Option<RetiredView>, Problem> {
    let found = facts(node, service)?;
    let parts: Vec<Part> = Part::ALL.into_iter().filter(|p| has_any(&place(node, service, *p))).collect();
    let since = parts.iter().filter_map(|p| p.useless_since(found)).min();
    let Some(since) = since else { return Ok(None) };
    let due = parts.iter().filter(|p| p.useless_since(found).is_some());
    let (bytes, _) = bytes_of(due.map(|p| place(node, service, *p)).collect()).await?;
    Ok(Some(RetiredView {
        id: service.id.clone(),
        name: service.name().clone(),
        customer: service.customer.clone(),
        retired_at: since,
        erase_after: since.after(kept_ms(node)),
        bytes: Some(bytes),
    }))
}

/// Erases what has been kept for its time.
pub async fn erase_due(node: &Node) -> Result<(), Problem> {
    node.may_act().map_err(Problem::unavailable)?;
    let mut done = Ok(());
    for service in node.services()?.iter() {
        // One that does not go, or cannot be read, stands in nobody else's way.
        done = done.and(erase(node, "daemon", service, Some(kept_ms(node))).await);
    }
    done
}

/// Its owner need not wait. Whether there was anything.
pub async fn erase_now(node: &Node, who: &str, service: &ServiceRecord) -> Result<bool, Problem> {
    node.may_act().map_err(Problem::unavailable)?;
    let any = kept(node, service).await?.is_some();
    erase(node, who, service, None).await?;
    Ok(any)
}

async fn erase(node: &Node, who: &str, service: &ServiceRecord, kept_ms: Option<u64>) -> Result<(), Problem> {
    let now = clock::wall();
    for part in Part::ALL {
        let (dir, gone) = (place(node, service, part), place(node, service, part).with_extension("erasing"));
        if !gone.exists() {
            let _promotion = node.moves.files.lock().await;
            let found = facts(node, service)?;
            let due = part.useless_since(found).filter(|since| kept_ms.is_none_or(|ms| since.after(ms) <= now));
            if due.is_none() || !has_any(&dir) {
                continue;
            }
            std::fs::rename(&dir, &gone).map_err(|e| Problem::ours(format!("{}: {e}", dir.display())))?;
        }
        // Also what was renamed before this daemon ended: that it may go was decided then.
        let (bytes, files) = bytes_of(vec![gone.clone()]).await?;
        let erased = world::blocking(move || world::erase(&gone)).await.map_err(|e| Problem::ours(e.to_string()))?;
        erased.map_err(|e| Problem::ours(e.to_string()))?;
        let owner = register::known(node, &service.id)?.map_or_else(|| "nobody".into(), |t| t.owner.to_string());
        let text = format!("{}: {files} files, {bytes} bytes; {owner} owns it", part.name());
        node.note(who, Note::new("former_data_erased", "service", service.name()).because(text)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_lease::handover::KIND;
    use pumasi_lease::reclaim;
    use pumasi_terms::{API_VERSION, BootMs, Digest, LeaseId, MoveId, Now, ServiceId, ServiceName};

    fn cloud(n: &str) -> CloudName {
        CloudName::parse(n).unwrap()
    }

    fn handover(from: &str, to: &str, epoch: u64, wish: u128) -> Handover {
        Handover {
            api_version: API_VERSION.into(),
            kind: KIND.into(),
            wish: MoveId::from_entropy(wish),
            id: ServiceId::from_entropy(1),
            service: ServiceName::parse("notes").unwrap(),
            from: cloud(from),
            from_epoch: Epoch(epoch - 1),
            to: cloud(to),
            epoch: Epoch(epoch),
            lease: LeaseId::from_entropy(1),
            dossier: Digest([1; 32]),
            positions: Default::default(),
            asked_by: "root".into(),
            created_at: WallMs(50),
        }
    }

    fn moved(step: Step, wish: u128) -> Move {
        let service = (ServiceId::from_entropy(1), ServiceName::parse("notes").unwrap());
        let now = Now { boot: BootMs(1), wall: WallMs(1) };
        Move { step, ..Move::new(MoveId::from_entropy(wish), service, cloud("city-b"), "root".into(), now) }
    }

    fn reclaimed(owner: &str, heir: &str, from_epoch: u64) -> Reclaim {
        Reclaim {
            api_version: API_VERSION.into(),
            kind: reclaim::KIND.into(),
            wish: MoveId::from_entropy(1),
            id: ServiceId::from_entropy(1),
            service: ServiceName::parse("notes").unwrap(),
            owner: cloud(owner),
            from_epoch: Epoch(from_epoch),
            heir: cloud(heir),
            epoch: Reclaim::epoch_after(Epoch(from_epoch)),
            asked_by: "root".into(),
            why: String::new(),
            created_at: WallMs(0),
        }
    }

    #[test]
    fn only_a_move_that_was_signed_and_opened_proves_that_another_cloud_serves() {
        let (a, fronted) = (cloud("city-a"), moved(Step::Fronted { at: WallMs(70) }, 1));
        let (given, onward) = (handover("city-a", "city-b", 2, 1), handover("city-b", "city-c", 3, 9));
        let elsewhere = Served::Elsewhere { since: WallMs(70) };
        assert_eq!(served(&a, Epoch(1), Some(&given), None, Some(&fronted)), elsewhere);
        assert_eq!(served(&a, Epoch(1), Some(&onward), None, Some(&fronted)), elsewhere, "it moved on since");
        for (word, last) in [
            (None, Some(&fronted)),
            (Some(&given), None),
            (Some(&given), Some(&moved(Step::Opening, 1))),
            (Some(&given), Some(&moved(Step::Committing, 1))),
            (Some(&given), Some(&moved(Step::Cancelled { at: WallMs(70), why: String::new() }, 1))),
            // Of an earlier departure.
            (Some(&given), Some(&moved(Step::Fronted { at: WallMs(1) }, 2))),
        ] {
            assert_eq!(served(&a, Epoch(1), word, None, last), Served::Unproven, "{word:?} {last:?}");
        }
        // What is here is as new as what was signed: it is the present owner's.
        assert_eq!(served(&a, Epoch(2), Some(&given), None, Some(&fronted)), Served::Unproven);
    }

    #[test]
    fn where_somebody_was_given_up_on_everything_is_kept() {
        let fronted = moved(Step::Fronted { at: WallMs(70) }, 1);
        let (given, back) = (handover("city-a", "city-b", 2, 1), handover("city-b", "city-a", 3, 2));
        let (a, b) = (cloud("city-a"), cloud("city-b"));
        let lost = reclaimed("city-a", "city-b", 1);
        assert_eq!(served(&b, Epoch(2), Some(&given), Some(&lost), Some(&fronted)), Served::Unproven);
        let later = handover("city-a", "city-c", 1_002, 5);
        assert_eq!(served(&b, Epoch(2), Some(&later), Some(&lost), Some(&fronted)), Served::Unproven);
        assert_eq!(served(&a, Epoch(1_001), Some(&given), Some(&lost), Some(&fronted)), Served::Unproven);
        // It came back for good: what was set aside then may go, what it serves never.
        let here = served(&a, Epoch(3), Some(&back), None, Some(&fronted));
        assert_eq!(here, Served::Here { since: WallMs(50) });
        assert_eq!((Part::Data.useless_since(here), Part::Before.useless_since(here)), (None, Some(WallMs(50))));
        assert_eq!(
            served(&a, Epoch(1), Some(&back), None, Some(&fronted)),
            Served::Unproven,
            "it is not taken over yet"
        );
        for part in Part::ALL {
            assert_eq!(part.useless_since(Served::Unproven), None);
        }
    }
}
