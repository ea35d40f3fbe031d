//! What of a divergence is not in what was gone on with: asked once the service is back, so that both are here.
//!
//! Always holds: the service runs meanwhile; what cannot be compared is said, and given out all the same.

use super::{dir_of, hand, key};
use crate::hands::Trouble;
use crate::node::Note;
use crate::object::{DIVERGENCE, Divergence, SERVICE, ServiceRecord};
use crate::{Node, clock, register, tenancy, world};
use pumasi_api::Problem;
use pumasi_store::Expect;
use pumasi_terms::DatasetName;
use pumasi_transfer::Compared;
use pumasi_transfer::helper::{Reply, Request, Why};
use std::collections::BTreeMap;

const GIVEN_MAX: u32 = 4;

pub(super) async fn look(node: &Node, found: &Divergence) -> Result<(), Problem> {
    if found.compared.is_some() {
        return Ok(());
    }
    let Some(service) = node.item::<ServiceRecord>(SERVICE, found.service.as_str())? else { return Ok(()) };
    let is_here = service.id == found.id && service.taking.is_none() && register::is_ours(node, &service);
    let data = tenancy::service_dir(node, &service).join("data");
    if !is_here || found.sets.iter().any(|s| !data.join(s.name.as_str()).is_dir()) {
        return Ok(());
    }
    let compared = match compared(node, &service, found).await {
        Ok(compared) => compared,
        Err(why) => {
            if !super::has_failed(node, &key(&found.id, found.epoch)) {
                return Err(Problem::unavailable(why));
            }
            let remark = Compared { version: 1, remarks: vec![why], ..Compared::default() };
            found.sets.iter().map(|s| (s.name.clone(), remark.clone())).collect()
        }
    };
    keep(node, found, compared).await
}

async fn compared(
    node: &Node,
    service: &ServiceRecord,
    found: &Divergence,
) -> Result<BTreeMap<DatasetName, Compared>, String> {
    let hand = hand(node, service, found);
    let mut all = BTreeMap::new();
    let mut failed = None;
    for set in &found.sets {
        let mut given = 0;
        let answer = loop {
            match hand.ask(Request::Compare { set: set.clone() }, Vec::new()).await {
                Err(Trouble::Refused(refusal)) if refusal.why == Why::Denied && given < GIVEN_MAX => {
                    given += 1;
                    for (dir, _) in &hand.spec().rooms {
                        if let Err(e) = node.hands.give(&service.owner(), dir).await {
                            tracing::warn!(dataset = %set.name, error = %e, "the group got no right to what is compared");
                        }
                    }
                }
                answer => break answer,
            }
        };
        match answer {
            Ok((Reply::Compared(compared), _)) => drop(all.insert(set.name.clone(), *compared)),
            Ok(_) => failed = Some("its helper gave an answer that does not fit the question".to_owned()),
            Err(Trouble::Refused(refusal)) => {
                let remarks = vec![refusal.detail];
                all.insert(set.name.clone(), Compared { version: 1, remarks, ..Compared::default() });
            }
            Err(e) => failed = Some(e.to_string()),
        }
    }
    hand.end().await;
    failed.map_or(Ok(all), Err)
}

/// In the store, and beside what it is about for whoever looks at the disk.
async fn keep(node: &Node, found: &Divergence, compared: BTreeMap<DatasetName, Compared>) -> Result<(), Problem> {
    let whole = Divergence { compared: Some(compared), compared_at: Some(clock::wall()), ..found.clone() };
    let (path, text) = (dir_of(node, &found.place, found.epoch).join("divergence.json"), super::give::told(&whole)?);
    if let Err(e) = world::blocking(move || std::fs::write(path, text)).await.map_err(|e| e.to_string()) {
        tracing::warn!(error = %e, "what diverged was not written down beside it; it stands in the store");
    }
    node.transact(move |tx| {
        let known = key(&whole.id, whole.epoch);
        let Some(stored) = tx.get::<Divergence>(DIVERGENCE, &known)? else { return Ok(()) };
        tx.put(DIVERGENCE, &known, &whole, Expect::Revision(stored.revision))?;
        let text = format!("epoch {}: {}", whole.epoch, whole.summary());
        let note = Note::new("divergence_compared", "service", &whole.service).because(text);
        tx.journal(note.entry("daemon", clock::wall()))?;
        Ok(())
    })
    .await
}
