//! Acts of other clouds on leases that are lent here: who may, by one rule, before anything of the request is looked at.
//!
//! Enters: the head of a request below `/v1/leases/{id}`. Leaves: the lease, or a refusal.
//! Always holds: [`pumasi_lease::authority()`] was asked; no endpoint for members acts on a lease in another way.

use super::body::ApiError;
use super::params::Path;
use crate::{Node, lender};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use pumasi_api::client::EPOCH_FIELD;
use pumasi_api::{Principal, Problem};
use pumasi_lease::LentLease;
use pumasi_terms::{CloudName, Epoch, LeaseId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A lease that the caller may act on, also when it is over.
pub struct OnLease {
    pub lent: Arc<LentLease>,
    pub borrower: CloudName,
    /// Under which it acts; none is named by older daemons.
    pub epoch: Option<Epoch>,
}

/// One that may still be used as well.
pub struct OnUsable(pub OnLease);

pub fn peer(who: Principal) -> Result<CloudName, Problem> {
    match who {
        Principal::Peer(cloud) => Ok(cloud),
        other => Err(Problem::forbidden(format!("{other} is no member of the pact"))),
    }
}

fn epoch(parts: &Parts) -> Result<Option<Epoch>, Problem> {
    let Some(said) = parts.headers.get(EPOCH_FIELD) else { return Ok(None) };
    let read = said.to_str().ok().and_then(|text| text.parse().ok());
    read.map(|n| Some(Epoch(n))).ok_or_else(|| Problem::bad_request(format!("{EPOCH_FIELD}: must be a number")))
}

impl FromRequestParts<Arc<Node>> for OnLease {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, ApiError> {
        let who = parts.extensions.get::<Principal>().cloned();
        let who = who.ok_or_else(|| Problem::ours("an act on a lease came past the authorisation"))?;
        let borrower = peer(who)?;
        let Path(named) = Path::<BTreeMap<String, String>>::from_request_parts(parts, node).await?;
        let id = named.get("id").map(String::as_str).unwrap_or_default();
        let id = LeaseId::parse(id).map_err(|e| Problem::bad_request(e.to_string()))?;
        let epoch = epoch(parts)?;
        let lent = lender::owned(node, &borrower, epoch, &id)?;
        Ok(Self { lent, borrower, epoch })
    }
}

impl FromRequestParts<Arc<Node>> for OnUsable {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, ApiError> {
        let on = OnLease::from_request_parts(parts, node).await?;
        lender::still_usable(&on.lent)?;
        lender::still_its_owners(node, &on.lent)?;
        Ok(Self(on))
    }
}
