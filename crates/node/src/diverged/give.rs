//! A divergence is given out whole, as an archive, or erased by somebody's word.
//!
//! Always holds: a piece of it at a time is in memory; the word stands in the journal before anything is erased.

use super::{dir_of, erasing, hand, key};
use crate::hands::{Hand, Trouble};
use crate::node::Note;
use crate::object::{DIVERGENCE, Divergence, SERVICE, ServiceRecord};
use crate::{Node, clock, world};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use pumasi_api::Problem;
use pumasi_store::Expect;
use pumasi_terms::{DatasetName, Epoch, ServiceId};
use pumasi_transfer::aside::tar;
use pumasi_transfer::helper::{Reply, Request, Why};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// `divergence.json`: what is known of it.
pub(super) fn told(found: &Divergence) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec_pretty(found).map_err(|e| Problem::ours(e.to_string()))
}

/// What is still to come, and what it comes by.
struct Coming {
    ready: VecDeque<Bytes>,
    hand: Arc<Hand>,
    last: bool,
    _place: OwnedSemaphorePermit,
}

/// All of it: `divergence.json`, then the datasets.
pub async fn archive(
    node: &Node,
    found: &Divergence,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, Problem> {
    let busy = || Problem::unavailable("as many divergences as may be are being downloaded; try again in a while");
    let place = node.diverged.archives.clone().try_acquire_owned().map_err(|_| busy())?;
    let service = node.item::<ServiceRecord>(SERVICE, found.service.as_str())?.filter(|s| s.id == found.id);
    let service = service.ok_or_else(|| Problem::not_found("service", &found.service))?;
    let hand = hand(node, &service, found);
    let sets: Vec<DatasetName> = found.sets.iter().map(|s| s.name.clone()).collect();
    // Files that instances made may be closed to the group.
    for (dir, _) in &hand.spec().rooms {
        if let Err(e) = node.hands.give(&service.owner(), dir).await {
            tracing::warn!(error = %e, "the group got no right to what is given out");
        }
    }
    hand.ask(Request::Archive { sets }, Vec::new()).await.map_err(|e| refused(&e))?;
    let first = Bytes::from(tar::entry("divergence.json", &told(found)?));
    let coming = Coming { ready: VecDeque::from([first]), hand, last: false, _place: place };
    Ok(stream::try_unfold(coming, next))
}

async fn next(mut coming: Coming) -> io::Result<Option<(Bytes, Coming)>> {
    loop {
        if let Some(piece) = coming.ready.pop_front() {
            return Ok(Some((piece, coming)));
        }
        if coming.last {
            coming.hand.end().await;
            return Ok(None);
        }
        match coming.hand.ask(Request::Piece, Vec::new()).await {
            Ok((Reply::Piece { last }, bytes)) => {
                coming.last = last;
                coming.ready.extend((!bytes.is_empty()).then(|| Bytes::from(bytes)));
            }
            Ok(_) => return Err(io::Error::other("its helper gave an answer that does not fit the question")),
            Err(e) => return Err(io::Error::other(e.to_string())),
        }
    }
}

fn refused(e: &Trouble) -> Problem {
    match e {
        Trouble::Refused(refusal) if refusal.why == Why::Unasked => Problem::ours(refusal.to_string()),
        e => Problem::unavailable(format!("the helper that reads it: {e}")),
    }
}

/// Erases it, for good.
pub async fn discard(node: &Node, who: &str, found: &Divergence, why: &str) -> Result<(), Problem> {
    node.may_act().map_err(Problem::unavailable)?;
    let (id, epoch): (ServiceId, Epoch) = (found.id.clone(), found.epoch);
    let (dir, known) = (dir_of(node, &found.place, epoch), key(&id, epoch));
    let gone = erasing(&dir);
    match std::fs::rename(&dir, &gone) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Problem::ours(format!("{}: {e}", dir.display()))),
        _ => {}
    }
    let text = format!("epoch {epoch}, {} files, {} bytes: {why}", found.files, found.bytes);
    let note = Note::new("divergence_discarded", "service", &found.service).because(text);
    let entry = note.entry(who, clock::wall());
    node.transact(move |tx| {
        if tx.delete(DIVERGENCE, &known, Expect::Any)?.is_none() {
            return Err(Problem::not_found("divergence", &known).into());
        }
        tx.journal(entry)?;
        Ok(())
    })
    .await?;
    // What stays of it is erased at the next look.
    let erased = world::blocking(move || world::erase(&gone)).await.map_err(|e| Problem::ours(e.to_string()))?;
    erased.map_err(|e| Problem::ours(format!("it is discarded, and not all of it is erased yet: {e}")))
}
