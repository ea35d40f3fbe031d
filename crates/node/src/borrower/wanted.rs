//! What users' answers wait for at the gateway, brought to those that ship: they look at once.
//!
//! Enters: the gateway's word of what is wanted. Leaves: instants that copies of a service must reach; whether this gateway knows of
//! services that are kept in step at all. Always holds: a gateway that does not know of them is given no table that has one.

use crate::{Node, clock};
use pumasi_gateway::ControlError;
use std::sync::Arc;
use std::time::Duration;

/// A gateway that is coming up.
const AGAIN: Duration = Duration::from_millis(50);
/// One of an older version: until another one is started.
const OLDER: Duration = Duration::from_secs(1);

pub async fn follow(node: Arc<Node>) {
    let mut stopping = node.stopping.clone();
    let (mut run, mut after) = (0, None);
    while !*stopping.borrow() {
        let told = tokio::select! {
            biased;
            _ = stopping.changed() => return,
            told = node.gateway.wanted(after) => told,
        };
        let rest = match told {
            Ok(report) => {
                node.routes.tell_knows_step(true);
                let is_another = std::mem::replace(&mut run, report.gateway_run) != report.gateway_run;
                after = Some(if is_another { 0 } else { report.last });
                for (service, at) in report.services {
                    // No instant of another boot, or of nobody's, makes anybody hurry for ever.
                    node.datasets.want(service, at.min(clock::boot().after(1)));
                }
                continue;
            }
            Err(ControlError::Refused(_)) => {
                after = None;
                node.routes.tell_knows_step(false);
                OLDER
            }
            Err(_) => {
                after = None;
                AGAIN
            }
        };
        tokio::select! {
            biased;
            _ = stopping.changed() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}
