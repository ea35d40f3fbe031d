//! Beyond the pace that a pact allows by itself, operators of a majority of voters agree before services move.
//!
//! Enters: an operator's word. Leaves: this cloud's `Approve` in the register.
//! Always holds: it is for the loss that the register has now, and for no later one of that cloud.

use crate::node::Note;
use crate::{Node, voting};
use pumasi_api::Problem;
use pumasi_ownership::{Command, Told, refusal};
use pumasi_terms::CloudName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub cloud: CloudName,
    pub approved_by: BTreeSet<CloudName>,
    /// A majority has agreed: its services are taken over.
    pub carried_out: bool,
}

pub async fn approve(node: &Node, who: &str, cloud: &CloudName, why: &str) -> Result<Approval, Problem> {
    node.may_act().map_err(Problem::unavailable)?;
    let state = node.voting.state().ok_or_else(|| Problem::conflict("the pact does not vote: nobody is lost by it"))?;
    let Some(recovering) = state.recovery.get(cloud) else {
        return Err(Problem::conflict(format!("{cloud} is not lost; pumasi pact show tells how each cloud stands")));
    };
    if !recovering.asked {
        return Err(Problem::conflict(format!(
            "nothing waits for an approval: the takeover from {cloud} was carried out"
        )));
    }
    let lost_rev = recovering.at_rev;
    let told = voting::propose(node, Command::Approve { cloud: cloud.clone(), lost_rev }).await?;
    if let Some(refused) = refusal(&told) {
        return Err(Problem::conflict(refused.to_string()));
    }
    let carried_out = told.iter().any(|t| matches!(t, Told::Approved { carried_out: true, .. }));
    let note =
        Note::new("takeover_agreed", "cloud", cloud).because(if why.is_empty() { "no reason was given" } else { why });
    node.note(who, note).await;
    let now = node.voting.state();
    let by = now.and_then(|s| s.recovery.get(cloud).map(|r| r.approved.clone())).unwrap_or_default();
    Ok(Approval { cloud: cloud.clone(), approved_by: by, carried_out })
}
