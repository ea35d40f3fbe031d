//! Oracle 1: no two clouds write for a service. And in the end one of them does.
//!
//! Judged at the instant of each write and of each answer to one: under which ownership it was let in, and what all clouds have
//! written down about who owns the service.

use super::Seen;
use crate::cloud::Host;
use crate::gateway::Write;
use pumasi_route::table::Role;
use pumasi_terms::{CloudName, Epoch, ServiceName};
use std::collections::BTreeMap;
use std::sync::Arc;

const ORACLE: &str = "1 no two writers";

/// Who wrote for a service last, and under which ownership.
#[derive(Debug, Default)]
pub struct Writers(BTreeMap<ServiceName, (Epoch, CloudName)>);

/// The newest ownership that any cloud has written down.
fn newest(seen: &Seen, service: &ServiceName) -> Option<(Epoch, CloudName)> {
    let own = |(cloud, disk): (&CloudName, &super::Disk)| {
        let record = disk.services().find(|s| s.name() == service)?;
        Some((disk.owned_at(cloud, record)?, cloud.clone()))
    };
    seen.disks.iter().filter_map(own).max()
}

pub(super) fn check(seen: &mut Seen, now_ms: u64, at: &CloudName, service: &ServiceName, write: &Write) {
    let mine = (write.epoch, at.clone());
    let mut wrong = Vec::new();
    match newest(seen, service) {
        Some(owner) if owner != mine => wrong.push(format!(
            "{at} writes for {service} at epoch {}; {} owns it at epoch {}",
            write.epoch, owner.1, owner.0
        )),
        _ => {}
    }
    match seen.writers.0.get(service) {
        Some(last) if last.0 > mine.0 || (last.0 == mine.0 && last.1 != mine.1) => wrong.push(format!(
            "{at} writes for {service} at epoch {} after {} did at epoch {}",
            write.epoch, last.1, last.0
        )),
        _ => drop(seen.writers.0.insert(service.clone(), mine)),
    }
    for what in wrong {
        seen.breaks(ORACLE, now_ms, what);
    }
}

/// Each service has one owner; the owner's gateway leads to an instance, every other one's that was an owner leads to it.
pub(super) fn unfinished(seen: &Seen, hosts: &[Arc<Host>]) -> Option<String> {
    for (cloud, disk) in &seen.disks {
        if let Some(open) = disk.moves().find(|m| m.is_open()) {
            return Some(format!(
                "{cloud}: the move of {} to {} is still open: {:?}: {:?}",
                open.service, open.to, open.step, open.trouble
            ));
        }
        if let Some(taken) = disk.services().find(|s| s.taking.is_some()) {
            return Some(format!("{cloud}: {} is still being made its own", taken.name()));
        }
    }
    if let Some(wrong) = astray(seen, hosts) {
        return Some(wrong);
    }
    let names = seen.disks.values().flat_map(super::Disk::services).map(|s| s.name().clone());
    names.collect::<std::collections::BTreeSet<_>>().iter().find_map(|name| no_owner(seen, hosts, name))
}

/// Who keeps a service ready is an entrance too, and leads to its owner.
fn astray(seen: &Seen, hosts: &[Arc<Host>]) -> Option<String> {
    hosts.iter().filter_map(|h| Some((h, seen.disks.get(&h.name)?, h.gateway.table()?))).find_map(
        |(host, disk, table)| {
            let guests = table.services.iter().filter(|(name, _)| !disk.services().any(|s| s.name() == *name));
            let mut wrong = guests.filter(|(name, route)| {
                let owner = newest(seen, name).map(|(_, owner)| owner);
                !matches!(&route.role, Role::Front { owner: o } if Some(o) == owner.as_ref()) || route.absent.is_some()
            });
            wrong.next().map(|(name, route)| {
                format!("{}: as an entrance it does not lead {name} to its owner: {route:?}", host.name)
            })
        },
    )
}

fn no_owner(seen: &Seen, hosts: &[Arc<Host>], name: &ServiceName) -> Option<String> {
    let mut owners = Vec::new();
    for (host, disk) in hosts.iter().filter_map(|h| Some((h, seen.disks.get(&h.name)?))) {
        let Some(record) = disk.services().find(|s| s.name() == name) else { continue };
        let route = host.gateway.table().and_then(|t| t.services.get(name).cloned());
        let owned_at = disk.owned_at(&host.name, record);
        owners.extend(owned_at.map(|epoch| (epoch, host.name.clone())));
        let leads = |role: &Role| match role {
            Role::Owner => owned_at.is_some(),
            Role::Front { owner } => owned_at.is_none() && disk.handover(record).is_some_and(|h| &h.to == owner),
        };
        let serves = route.as_ref().is_some_and(|r| leads(&r.role) && (!r.role.is_owner() || !r.home.is_empty()));
        if !serves {
            return Some(format!("{}: the gateway does not lead {name} to its owner: {route:?}", host.name));
        }
    }
    (owners.len() != 1).then(|| format!("{name} has the owners {owners:?}"))
}
