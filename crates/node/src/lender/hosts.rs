//! Under which names a borrower's service may be answered for here.
//!
//! Enters: a lease to be signed, an application to be taken. Leaves: nothing, or why not.
//! Always holds: a borrower gets no name that a service of this cloud or another borrower's lease has; what it asks for later is
//! what both sides signed.

use crate::object::ServiceRecord;
use crate::wire::SendApplication;
use crate::{Node, routes};
use pumasi_api::{Fault, Problem};
use pumasi_lease::{Lease, LentLease};
use pumasi_terms::CloudName;
use std::collections::BTreeSet;

const HOSTS_MAX: usize = 64;

fn lower(host: &str) -> String {
    host.to_ascii_lowercase()
}

/// Names that the lease brings to its lender: the service's own, and the aliases below them.
pub fn names(lease: &Lease, lender: &CloudName) -> BTreeSet<String> {
    lease.hosts.iter().flat_map(|h| [lower(h), lower(&routes::alias(h, lender))]).collect()
}

/// The hosts of a lease that is to be signed, beside what this cloud and its other borrowers answer for. `is_owner`: the pact's register
/// names the borrower as the owner of that service, whoever had it before.
pub(super) fn check_agreed<'a>(
    lease: &Lease,
    is_owner: bool,
    mut services: impl Iterator<Item = &'a ServiceRecord>,
    mut lents: impl Iterator<Item = &'a LentLease>,
) -> Result<(), Problem> {
    let refuse = |text: String| Err(Problem::new(409, "host_claimed", Fault::Peer, text));
    if lease.hosts.len() > HOSTS_MAX || lease.hosts.iter().any(|h| !pumasi_terms::service::is_host(h)) {
        return Err(Problem::bad_request(format!("the lease names more than {HOSTS_MAX} hosts, or one that is none")));
    }
    let wanted = names(lease, &lease.lender);
    let claimed = |hosts: &[String]| hosts.iter().find(|h| wanted.contains(&lower(h))).cloned();
    if let Some((host, service)) = services.find_map(|s| Some((claimed(&s.document.spec.hosts)?, s.name()))) {
        return refuse(format!("{host} is a host of this cloud's own service {service}; nobody else answers for it"));
    }
    let same = |l: &LentLease| l.lease.service == lease.service && (is_owner || l.lease.borrower == lease.borrower);
    let other = |l: &&LentLease| l.binds() && !same(l);
    match lents.by_ref().filter(other).find_map(|l| Some((claimed(&l.lease.hosts)?, &l.lease))) {
        Some((host, of)) => refuse(format!("{host} is claimed by {} of {} here already", of.service, of.borrower)),
        None => Ok(()),
    }
}

/// The hosts and aliases of an application that is sent under a signed lease.
pub fn check_sent(node: &Node, lease: &Lease, sent: &SendApplication) -> Result<(), Problem> {
    let refuse = |host: &str| {
        let text = format!("the signed lease does not let {} answer for {host:.200} here", lease.borrower);
        Err(Problem::new(403, "host_not_agreed", Fault::Peer, text))
    };
    let agreed = |host: &str| lease.hosts.iter().any(|h| h.eq_ignore_ascii_case(host));
    // Leases of before name no hosts: they are served by way of the home only.
    if let Some(host) = sent.hosts.iter().find(|h| !lease.hosts.is_empty() && !agreed(h)) {
        return refuse(host);
    }
    let alias = |a: &str| lease.hosts.iter().any(|h| routes::alias(h, node.name()).eq_ignore_ascii_case(a));
    match sent.aliases.iter().find(|a| !alias(a)) {
        Some(host) => refuse(host),
        None => Ok(()),
    }
}
