//! Tenants: which customer owns what on this cloud, and what a principal may therefore see and change.
//!
//! Enters: principals, records, rows of the journal. Leaves: an [`Estate`], which answers "is it theirs?", and refusals.
//! Always holds: what belongs to somebody else does not exist for a viewer or a customer, in every list, stream and answer; ownership
//! hangs on a service's id, so that a later service of the same name inherits neither data nor history.

use crate::Node;
use crate::node::{Note, TxError};
use crate::object::{CUSTOMER, CustomerRecord, PLAN, PlanRecord, RETIRED, Retired, SERVICE, ServiceRecord};
use crate::{clock, generations, secrets, stray, world};
use pumasi_api::message::CustomerGrant;
use pumasi_api::{Principal, Problem, Role};
use pumasi_journey::Journey;
use pumasi_store::{Entry, Expect, Tx};
use pumasi_terms::service::{Service, is_host};
use pumasi_terms::{CustomerName, FieldError, LeaseId, Resources, ServiceId, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// What stands in the place of a value that is not shown. It is refused as a value, so that a redacted manifest cannot be applied by mistake.
pub const NOT_SHOWN: &str = "(not shown)";

/// A service's directory: data, logs that came home, scratch.
pub fn service_dir(node: &Node, service: &ServiceRecord) -> PathBuf {
    node.dir("services").join(service.place())
}

/// Who looks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Eyes {
    Operator,
    Tenant(CustomerName),
}

/// What a principal may see and change, as of one read of the store.
#[derive(Debug)]
pub struct Estate {
    eyes: Eyes,
    live: BTreeMap<ServiceName, Arc<ServiceRecord>>,
    retired: Vec<Arc<Retired>>,
    plans: pumasi_store::Items<PlanRecord>,
    journeys: pumasi_store::Items<Journey>,
}

impl Estate {
    pub fn of(node: &Node, who: &Principal) -> Result<Self, Problem> {
        let eyes = match who {
            Principal::Person { role: Role::Operator, .. } | Principal::Daemon => Eyes::Operator,
            Principal::Person { customer: Some(customer), .. } => Eyes::Tenant(customer.clone()),
            _ => return Err(Problem::forbidden(format!("{who} acts for no customer of this cloud"))),
        };
        let live = node.services()?.iter().map(|s| (s.name().clone(), s.clone())).collect();
        let retired = node.items::<Retired>(RETIRED)?.iter().cloned().collect();
        Ok(Self { eyes, live, retired, plans: node.items(PLAN)?, journeys: node.journeys()? })
    }

    pub fn is_operator(&self) -> bool {
        self.eyes == Eyes::Operator
    }

    pub fn owned_by(&self, customer: &CustomerName) -> bool {
        match &self.eyes {
            Eyes::Operator => true,
            Eyes::Tenant(own) => own == customer,
        }
    }

    pub fn record(&self, service: &ServiceRecord) -> bool {
        self.owned_by(&service.customer)
    }

    /// The service that bears this name now.
    pub fn service(&self, name: &ServiceName) -> bool {
        self.is_operator() || self.live.get(name).is_some_and(|s| self.record(s))
    }

    fn customer_of(&self, id: &ServiceId) -> Option<&CustomerName> {
        let live = self.live.values().find(|s| &s.id == id).map(|s| &s.customer);
        live.or_else(|| self.retired.iter().find(|r| &r.id == id).map(|r| &r.customer))
    }

    pub fn plan(&self, plan: &PlanRecord) -> bool {
        match &plan.service_id {
            _ if self.is_operator() => true,
            Some(id) => self.customer_of(id).is_some_and(|c| self.owned_by(c)),
            // Of before services had ids: it is for the service that bears the name since then.
            None => self.live.get(&plan.plan.service).is_some_and(|s| s.kept_by_name && self.record(s)),
        }
    }

    pub fn journey(&self, journey: &Journey) -> bool {
        self.is_operator() || self.plans.iter().any(|p| p.plan.id == journey.plan && self.plan(p))
    }

    /// A lease that this cloud rents.
    pub fn rented(&self, lease: &LeaseId) -> bool {
        self.is_operator() || self.journeys.iter().any(|j| j.part(lease).is_some() && self.journey(j))
    }

    /// Values of the environment are their owner's. Operators can read them on the host and may ask for one service; lists leave them out.
    pub fn shows_values(&self, who: &Principal, service: &ServiceRecord, listing: bool) -> bool {
        match who.role() {
            Some(Role::Operator) => !listing,
            Some(Role::Customer) => self.record(service),
            _ => false,
        }
    }

    /// Names of services that the principal has or had, with the rows of the journal that are about them: after, and up to.
    fn spans(&self) -> Vec<(&ServiceName, u64, u64)> {
        let live = self.live.values().filter(|s| self.record(s)).map(|s| (s.name(), s.born_seq, u64::MAX));
        let gone = self.retired.iter().filter(|r| self.owned_by(&r.customer));
        live.chain(gone.map(|r| (&r.name, r.born_seq, r.ended_seq))).collect()
    }

    /// What the journal may speak of to this principal; `None`: of everything.
    pub fn subjects(&self) -> Option<Subjects> {
        if self.is_operator() {
            return None;
        }
        let mut names: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for (name, after, to) in self.spans() {
            names.entry(name.to_string()).or_default().push((after, to));
        }
        let mut ids: BTreeSet<(&'static str, String)> = BTreeSet::new();
        ids.extend(self.plans.iter().filter(|p| self.plan(p)).map(|p| ("plan", p.plan.id.to_string())));
        for journey in self.journeys.iter().filter(|j| self.journey(j)) {
            ids.insert(("journey", journey.id.to_string()));
            ids.extend(journey.parts.iter().map(|p| ("lease", p.lease.to_string())));
        }
        Some(Subjects { names, ids })
    }
}

/// Subjects of the journal that are one customer's.
#[derive(Debug, Clone)]
pub struct Subjects {
    names: BTreeMap<String, Vec<(u64, u64)>>,
    ids: BTreeSet<(&'static str, String)>,
}

impl Subjects {
    pub fn shows(&self, seq: u64, entry: &Entry) -> bool {
        match entry.subject_kind.as_str() {
            "service" => self.names.get(&entry.subject).is_some_and(|s| s.iter().any(|(a, to)| *a < seq && seq <= *to)),
            kind => self.ids.iter().any(|(k, id)| *k == kind && *id == entry.subject),
        }
    }

    /// Each subject, to be looked up by the journal's index.
    pub fn each(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self.names.keys().map(|n| ("service", n.as_str()));
        names.chain(self.ids.iter().map(|(kind, id)| (*kind, id.as_str())))
    }

    pub fn has_name(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }
}

/// The document without the values of its environment.
pub fn redact(service: &mut Service) {
    for value in service.spec.application.env.values_mut() {
        NOT_SHOWN.clone_into(value);
    }
}

pub fn refuse_redacted(service: &Service) -> Result<(), Problem> {
    let hidden = service.spec.application.env.iter().find(|(_, value)| value.as_str() == NOT_SHOWN);
    match hidden {
        None => Ok(()),
        Some((key, _)) => Err(Problem::fields(
            format!("service {} is not valid", service.metadata.name),
            vec![FieldError {
                field: format!("spec.application.env.{key}"),
                problem: format!(
                    "{NOT_SHOWN:?} stands for a value that was not shown to whoever printed this manifest"
                ),
            }],
        )),
    }
}

/// Whom a write is for: a customer for itself; an operator for whom it names, or for the default customer.
pub fn named(who: &Principal, asked: Option<CustomerName>) -> Result<CustomerName, Problem> {
    match who {
        Principal::Person { role: Role::Operator, .. } | Principal::Daemon => {
            Ok(asked.unwrap_or_else(CustomerName::default_customer))
        }
        Principal::Person { customer: Some(own), .. } => match asked {
            Some(other) if other != *own => Err(Problem::not_found("customer", other)),
            _ => Ok(own.clone()),
        },
        _ => Err(Problem::forbidden(format!("{who} acts for no customer of this cloud"))),
    }
}

/// The same, of a customer that this cloud has.
pub fn named_here(node: &Node, who: &Principal, asked: Option<CustomerName>) -> Result<CustomerName, Problem> {
    let customer = named(who, asked)?;
    if is_known(node, &customer)? { Ok(customer) } else { Err(Problem::not_found("customer", customer)) }
}

pub fn is_known(node: &Node, customer: &CustomerName) -> Result<bool, Problem> {
    let is_default = *customer == CustomerName::default_customer();
    Ok(is_default || node.item::<CustomerRecord>(CUSTOMER, customer.as_str())?.is_some())
}

/// `*.shop.example` covers what is below it, not itself.
fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(zone) => host.strip_suffix(zone).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => pattern == host,
    }
}

pub fn check_grant(grant: &CustomerGrant) -> Result<(), Problem> {
    let fine = |p: &String| is_host(p.strip_prefix("*.").unwrap_or(p));
    let mut faults: Vec<FieldError> = Vec::new();
    if grant.hosts.len() > 64 {
        faults.push(FieldError { field: "hosts".into(), problem: "at most 64".into() });
    }
    for bad in grant.hosts.iter().filter(|p| !fine(p)) {
        let problem = format!(
            "{:?} is neither a lower-case DNS name nor one after '*.'",
            bad.chars().take(80).collect::<String>()
        );
        faults.push(FieldError { field: "hosts".into(), problem });
    }
    if faults.is_empty() { Ok(()) } else { Err(Problem::fields("the grant is not valid", faults)) }
}

/// What a customer was granted; the default one exists without a record and has no limits.
pub fn grant(tx: &Tx<'_>, customer: &CustomerName) -> Result<CustomerGrant, TxError> {
    match tx.get::<CustomerRecord>(CUSTOMER, customer.as_str())? {
        Some(stored) => Ok(stored.body.grant),
        None if *customer == CustomerName::default_customer() => Ok(CustomerGrant::default()),
        None => Err(Problem::not_found("customer", customer).into()),
    }
}

fn asks(service: &Service) -> Resources {
    service.spec.application.resources.times(service.spec.instances.home.max)
}

pub fn used<'a>(services: impl Iterator<Item = &'a ServiceRecord>) -> Resources {
    services.map(|s| asks(&s.document)).fold(Resources::default(), Resources::plus)
}

/// Refuses what the customer was not granted, and hosts that another service has. `others`: every service but this one.
pub fn admit(
    grant: &CustomerGrant,
    customer: &CustomerName,
    service: &Service,
    old: Option<&Service>,
    others: &[ServiceRecord],
) -> Result<(), Problem> {
    // What it has already may stay when less is granted later.
    let held = |host: &String| old.is_some_and(|o| o.spec.hosts.contains(host));
    for host in &service.spec.hosts {
        if let Some(holder) = others.iter().find(|o| o.document.spec.hosts.contains(host)) {
            // Whose it is, is told to its owner only.
            let whose = match holder.customer == *customer {
                true => format!("service {}", holder.name()),
                false => {
                    "another service of this cloud: host names are given to whom claims them first; ask the operator"
                        .into()
                }
            };
            return Err(Problem::conflict(format!("spec.hosts: {host} belongs to {whose}")));
        }
        if !held(host) && !grant.hosts.is_empty() && !grant.hosts.iter().any(|p| covers(p, host)) {
            let granted = grant.hosts.join(", ");
            return Err(Problem::forbidden(format!(
                "spec.hosts: customer {customer} may claim {granted}, not {host}; an operator grants more by 'pumasi customer set'"
            )));
        }
    }
    let own: Vec<&ServiceRecord> = others.iter().filter(|o| o.customer == *customer).collect();
    if old.is_none() && grant.services_max > 0 && own.len() >= grant.services_max as usize {
        return Err(Problem::forbidden(format!("customer {customer} may have {} services", grant.services_max)));
    }
    let total = used(own.into_iter()).plus(asks(service));
    let (max, before) = (grant.resources_max, old.map(asks).unwrap_or_default());
    let over = |max: u32, total: u32, asked: u32, before: u32| max > 0 && total > max && asked > before;
    if over(max.cpu_millis, total.cpu_millis, asks(service).cpu_millis, before.cpu_millis)
        || over(max.memory_mib, total.memory_mib, asks(service).memory_mib, before.memory_mib)
    {
        return Err(Problem::forbidden(format!(
            "customer {customer} may use {} m CPU and {} MiB at home (0: no limit); with this service it were {} m and {} MiB",
            max.cpu_millis, max.memory_mib, total.cpu_millis, total.memory_mib
        )));
    }
    Ok(())
}

/// The record of a deleted service goes, and what remains of it is kept aside for its owner.
pub fn retire(tx: &mut Tx<'_>, service: &ServiceRecord, kept_ms: u64) -> Result<(), TxError> {
    let now = clock::wall();
    tx.delete(SERVICE, service.name().as_str(), Expect::Any)?;
    generations::forget(tx, service)?;
    stray::bury(tx, &service.owner(), "the service was deleted")?;
    let text = format!("its data are kept in services/{} for {} h, then erased", service.place(), kept_ms / 3_600_000);
    let note = Note::new("service_deleted", "service", service.name()).because(text);
    let ended_seq = tx.journal(note.entry("daemon", now))?;
    let retired = Retired {
        version: 1,
        id: service.id.clone(),
        name: service.name().clone(),
        customer: service.customer.clone(),
        place: service.place().to_owned(),
        born_seq: service.born_seq,
        ended_seq,
        retired_at: now,
        erase_after: now.after(kept_ms),
    };
    tx.put(RETIRED, service.id.as_str(), &retired, Expect::Any)?;
    Ok(())
}

/// Erases what was kept of services whose time is over: only by their own record, and only where no living service has the directory.
pub async fn erase_retired(node: &Node) -> Result<(), Problem> {
    node.may_act().map_err(Problem::unavailable)?;
    let now = clock::wall();
    let due: Vec<Arc<Retired>> =
        node.items::<Retired>(RETIRED)?.iter().filter(|r| r.erase_after <= now).cloned().collect();
    let mut done = Ok(());
    for retired in due {
        let services = node.services()?;
        if !services.unreadable().is_empty() || services.iter().any(|s| s.place() == retired.place) {
            let text = format!("the data of the ended service {} are in use, or may be; they are kept", retired.id);
            done = done.and(Err(Problem::ours(text)));
            continue;
        }
        let dir = node.dir("services").join(&retired.place);
        let erased = world::blocking(move || world::erase(&dir)).await.map_err(|e| Problem::ours(e.to_string()))?;
        // One that does not go stands in nobody else's way.
        if let Err(e) = erased {
            done = done.and(Err(Problem::ours(e.to_string())));
            continue;
        }
        node.identity.vault.forget_service(&retired.id).map_err(|e| secrets::problem(&e))?;
        node.transact(move |tx| {
            tx.delete(RETIRED, retired.id.as_str(), Expect::Any)?;
            let note = Note::new("service_erased", "service", &retired.name).because(retired.id.to_string());
            tx.journal(note.entry("daemon", clock::wall()))?;
            Ok(())
        })
        .await?;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_is_below_it_and_nothing_beside_it() {
        for (pattern, host, good) in [
            ("shop.example", "shop.example", true),
            ("shop.example", "a.shop.example", false),
            ("*.shop.example", "a.shop.example", true),
            ("*.shop.example", "b.a.shop.example", true),
            ("*.shop.example", "shop.example", false),
            ("*.shop.example", ".shop.example", false),
            ("*.shop.example", "evilshop.example", false),
            ("*.shop.example", "a.shop.example.evil", false),
        ] {
            assert_eq!(covers(pattern, host), good, "{pattern} {host}");
        }
    }
}
