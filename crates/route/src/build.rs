//! The one builder of route tables.
//!
//! Enters: what the store says, and the revision to give. Leaves: the complete table.
//! Always holds: no lease backend without a usable lease at a member, no lease route without a usable lease here; the same
//! input gives the same table.

use crate::share;
use crate::table::{
    Absent, Admission, HomeBackend, IdentityRoute, InStep, LeaseBackend, LeaseRoute, PeerLink, Role, RouteTable,
    ServiceRoute, TABLE_VERSION, Writes,
};
use pumasi_lease::LentLease;
use pumasi_terms::service::Service;
use pumasi_terms::{BootMs, CloudName, DatasetName, Epoch, Generation, LeaseId, Now, Ppm, Protocol};
use std::collections::{BTreeMap, BTreeSet};

/// Everything a table rests on.
#[derive(Debug, Clone)]
pub struct RouteInput {
    pub cloud: CloudName,
    /// Boot id of the kernel, whose clock the instants are of.
    pub boot_id: String,
    pub revision: u64,
    pub now: Now,
    pub services: Vec<ServiceInput>,
    /// Services of others that are kept ready here: their users may come in here.
    pub guests: Vec<ServiceInput>,
    pub lent: Vec<LentInput>,
    /// Members of the pact, without this cloud.
    pub members: BTreeMap<CloudName, PeerLink>,
}

/// A service of this cloud.
#[derive(Debug, Clone)]
pub struct ServiceInput {
    pub service: Service,
    pub epoch: Epoch,
    pub writes: Writes,
    pub role: Role,
    pub absent: Option<Absent>,
    /// Clouds that may send their users here.
    pub entrances: BTreeSet<CloudName>,
    /// Ready instances, and those that drain.
    pub home: Vec<HomeBackend>,
    pub parts: Vec<PartInput>,
    pub admission: Admission,
    pub position_generation: Option<Generation>,
    pub in_step: Option<InStep>,
    /// Its users sign in here.
    pub identity: Option<IdentityRoute>,
    pub position_key: Option<String>,
}

/// A lease that this cloud rents.
#[derive(Debug, Clone)]
pub struct PartInput {
    pub lease: LeaseId,
    pub cloud: CloudName,
    /// Ready there, as the lender last said.
    pub instances_ready: u32,
    pub state: PartState,
    /// As the ramp has it ([`share::next_weight`]).
    pub weight: Ppm,
    /// The lease's end by this cloud's boot clock, less the time to drain.
    pub usable_until: BootMs,
    pub alias: Option<String>,
    pub datasets: Vec<DatasetName>,
    pub ticket_key: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartState {
    Serving,
    /// Takes nobody new; what is in flight ends.
    Draining,
}

/// A lease that this cloud lends.
#[derive(Debug, Clone)]
pub struct LentInput {
    pub lent: LentLease,
    /// Ready instances, and those that drain.
    pub instances: Vec<HomeBackend>,
    pub hosts: Vec<String>,
    pub aliases: Vec<String>,
    pub home_only: Vec<String>,
    pub safe_methods: Vec<String>,
    pub protocol: Protocol,
    pub admission: Admission,
    pub ticket_key: Option<String>,
}

/// One entry must not take the others with it: a host that is claimed twice stays with whoever comes first, this cloud's own
/// services before what it lends. What was dropped, for people.
pub fn without_doubles(table: &mut RouteTable) -> Vec<String> {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mut dropped = Vec::new();
    let mut claim = |hosts: &mut Vec<String>, who: String| {
        hosts.retain(|host| {
            let owner = owners.entry(host.to_ascii_lowercase()).or_insert_with(|| who.clone());
            // Own hosts twice in one entry are one.
            let stays = *owner == who;
            if !stays {
                dropped.push(format!("{host} is not served for {who}: {owner} has it"));
            }
            stays
        });
    };
    for (name, service) in &mut table.services {
        claim(&mut service.hosts, format!("service {name}"));
    }
    for (id, lease) in &mut table.leases {
        claim(&mut lease.aliases, format!("{id} of {}", lease.borrower));
    }
    dropped
}

/// Builds the table.
pub fn build(input: &RouteInput) -> RouteTable {
    build_told(input).0
}

/// Builds the table, and tells what it left out.
pub fn build_told(input: &RouteInput) -> (RouteTable, Vec<String>) {
    let mut table = whole(input);
    let mut dropped = admit_guests(&mut table, input);
    dropped.extend(without_doubles(&mut table));
    (table, dropped)
}

/// This cloud's own services come first, whatever their names: nobody's standby takes a name or a host from them.
fn admit_guests(table: &mut RouteTable, input: &RouteInput) -> Vec<String> {
    let own: BTreeSet<String> =
        table.services.values().flat_map(|s| &s.hosts).map(|h| h.to_ascii_lowercase()).collect();
    let mut dropped = Vec::new();
    for guest in &input.guests {
        let (name, owner) = (&guest.service.metadata.name, owner_of(&guest.role));
        if table.services.contains_key(name) {
            dropped
                .push(format!("users of {name} of {owner} cannot come in here: this cloud has a service of that name"));
            continue;
        }
        let mut route = service_route(guest, input);
        route.hosts.retain(|host| {
            let free = !own.contains(&host.to_ascii_lowercase());
            if !free {
                dropped.push(format!("{host} is not served for {name} of {owner}: a service of this cloud has it"));
            }
            free
        });
        if !route.hosts.is_empty() {
            table.services.insert(name.clone(), route);
        }
    }
    dropped
}

fn owner_of(role: &Role) -> &str {
    match role {
        Role::Front { owner } => owner.as_str(),
        Role::Owner => "this cloud",
    }
}

fn whole(input: &RouteInput) -> RouteTable {
    let services = input.services.iter().map(|s| (s.service.metadata.name.clone(), service_route(s, input))).collect();
    let usable = |l: &&LentInput| l.lent.usable() && l.lent.expires_at > input.now.boot;
    let leases = input.lent.iter().filter(usable).map(|l| (l.lent.id().clone(), lease_route(l))).collect();
    RouteTable {
        version: TABLE_VERSION,
        cloud: input.cloud.clone(),
        boot_id: input.boot_id.clone(),
        revision: input.revision,
        services,
        leases,
        peers: input.members.clone(),
    }
}

fn service_route(s: &ServiceInput, input: &RouteInput) -> ServiceRoute {
    let spec = &s.service.spec;
    // An entrance serves nobody itself.
    let serves = s.role.is_owner();
    let mut home = if serves { s.home.clone() } else { Vec::new() };
    home.sort_by(|a, b| a.instance.cmp(&b.instance));
    let usable = |p: &&PartInput| p.usable_until > input.now.boot && input.members.contains_key(&p.cloud);
    // A part without ready instances serves nobody; one that drains still ends what is in flight.
    let useful = |p: &&PartInput| p.instances_ready > 0 || p.state == PartState::Draining;
    let mut parts: Vec<&PartInput> = s.parts.iter().filter(|_| serves).filter(usable).filter(useful).collect();
    parts.sort_by(|a, b| (&a.lease, &a.cloud).cmp(&(&b.lease, &b.cloud)));
    parts.dedup_by(|a, b| a.lease == b.lease);
    let ready = home.iter().filter(|h| !h.draining).count();
    let ready = u32::try_from(ready).unwrap_or(u32::MAX);
    ServiceRoute {
        hosts: spec.hosts.clone(),
        epoch: s.epoch,
        writes: s.writes,
        role: s.role.clone(),
        absent: s.absent.clone().filter(|_| !serves),
        entrances: s.entrances.iter().filter(|c| input.members.contains_key(*c)).cloned().collect(),
        mode: spec.routing.mode,
        home_only: spec.routing.home_only.clone(),
        safe_methods: spec.routing.safe_methods.clone(),
        user_cookie: spec.routing.user_cookie.clone(),
        protocol: spec.application.protocol,
        underscored_fields: spec.routing.underscored_fields,
        home_weight: share::home(ready),
        home,
        leases: parts.into_iter().map(lease_backend).collect(),
        admission: s.admission.clone(),
        position_generation: s.position_generation,
        in_step: s.in_step.clone().filter(|_| serves),
        identity: s.identity.clone().filter(|_| serves),
        position_key: s.position_key.clone(),
    }
}

fn lease_backend(p: &PartInput) -> LeaseBackend {
    let draining = p.state == PartState::Draining;
    LeaseBackend {
        lease: p.lease.clone(),
        cloud: p.cloud.clone(),
        instances: p.instances_ready,
        weight: if draining { Ppm(0) } else { p.weight },
        draining,
        usable_until: p.usable_until,
        alias: p.alias.clone(),
        datasets: p.datasets.clone(),
        ticket_key: p.ticket_key.clone(),
    }
}

fn lease_route(l: &LentInput) -> LeaseRoute {
    let lease = &l.lent.lease;
    let mut instances = l.instances.clone();
    instances.sort_by(|a, b| a.instance.cmp(&b.instance));
    LeaseRoute {
        borrower: lease.borrower.clone(),
        service: lease.service.clone(),
        epoch: l.lent.epoch.max(lease.epoch),
        hosts: l.hosts.clone(),
        aliases: l.aliases.clone(),
        instances,
        expires_at: l.lent.expires_at,
        home_only: l.home_only.clone(),
        safe_methods: l.safe_methods.clone(),
        protocol: l.protocol,
        admission: l.admission.clone(),
        ticket_key: l.ticket_key.clone(),
        datasets: lease.datasets.clone(),
    }
}

/// Whether two tables differ in more than their revision: only then is the newer one written.
pub fn table_differs(a: &RouteTable, b: &RouteTable) -> bool {
    let RouteTable { version, cloud, boot_id, revision: _, services, leases, peers } = a;
    (version, cloud, boot_id, services, leases, peers)
        != (&b.version, &b.cloud, &b.boot_id, &b.services, &b.leases, &b.peers)
}
