//! What a console asks beside the objects.
//!
//! Enters: who asks, the text of a manifest. Leaves: name, role and customer; the last hour; services, or every fault.
//! Always holds: nothing is changed; of a service only its owner and operators are told, and of a later one of the same name nothing that was
//! before it.

use super::body::{Answer, Json};
use super::params::Query;
use crate::sensing::history;
use crate::tenancy::Estate;
use crate::{Node, clock};
use axum::Extension;
use axum::extract::State;
use pumasi_api::console::{ManifestFault, ManifestRead, ReadManifest, TrafficHistory, WhoAmI};
use pumasi_api::{Principal, Problem};
use pumasi_terms::ServiceName;
use pumasi_terms::faults::FAULTS_MAX;
use pumasi_terms::manifest;
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::Semaphore;

pub async fn who_am_i(Extension(who): Extension<Principal>) -> Answer<WhoAmI> {
    match who {
        Principal::Person { name, role, customer } => Ok(axum::Json(WhoAmI { name, role, customer })),
        other => Err(Problem::forbidden(format!("{other} is no person")).into()),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Of {
    /// Unsaid: every service that may be seen.
    service: Option<ServiceName>,
}

pub async fn history(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Query(of): Query<Of>,
) -> Answer<TrafficHistory> {
    let (services, estate, at) = (node.services()?, Estate::of(&node, &who)?, clock::wall());
    let wanted = services.iter().filter(|s| estate.record(s) && of.service.as_ref().is_none_or(|n| n == s.name()));
    let services = wanted.map(|s| (s.name().clone(), node.sensing.history(&s.owner(), at))).collect();
    Ok(axum::Json(TrafficHistory { at, every_ms: history::EVERY_MS, services }))
}

/// Finding every fault reads a text again and again: one text at a time, so that nobody takes a daemon's cores by it.
static READS: Semaphore = Semaphore::const_new(1);

/// The same reader as the command line's.
pub async fn read_manifest(Json(asked): Json<ReadManifest>) -> Answer<ManifestRead> {
    let _turn = READS.acquire().await.map_err(|e| Problem::ours(e.to_string()))?;
    let read = super::body::blocking(move || Ok(manifest::services("", &asked.text))).await?;
    Ok(axum::Json(match read {
        Ok(services) => ManifestRead { services, ..ManifestRead::default() },
        Err(wrong) => {
            let more = wrong.faults.len() > FAULTS_MAX;
            let told = wrong.faults.into_iter().take(FAULTS_MAX).map(|f| ManifestFault {
                line: f.line,
                column: f.column,
                field: f.field,
                problem: f.problem,
            });
            ManifestRead { faults: told.collect(), more, ..ManifestRead::default() }
        }
    }))
}
