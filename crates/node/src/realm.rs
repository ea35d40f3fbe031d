//! The users of a service that sign in: their sign-in process, beside the service's instances, and what this daemon asks it.
//!
//! Enters: services with `identity` that this cloud owns. Leaves: one sign-in process for each, as an instance of its own owner; what the
//! gateway needs to ask it; its answers to people who look after users.
//! Always holds: it runs where the service may be written, and nowhere else; its database is a dataset of the service
//! ([`Dataset::realm`](pumasi_terms::service::Dataset::realm)), its own directory never leaves this cloud; no instance of the application sees either.

pub(crate) mod ask;

use crate::fleet::{self, Desired};
use crate::home;
use crate::object::{OWNER_OF_REALMS, ServiceRecord};
use crate::{Node, clock, register, stray, tenancy, world};
use pumasi_api::Problem;
use pumasi_engine::{Access, DataMount, InstanceSpec, InstanceState, Secrets};
use pumasi_realm::Settings;
use pumasi_realm::settings::{OWN, SETTINGS, SETTINGS_VERSION};
use pumasi_route::table::{HomeBackend, IdentityRoute};
use pumasi_terms::service::Probe;
use pumasi_terms::template::data_suffix;
use pumasi_terms::{DatasetName, InstanceId, Protocol, Resources};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The program, within the bundle of a sign-in process.
const PROGRAM: &str = "pumasi";
/// Four passwords are checked at one time, each with 19 MiB.
const RESOURCES: Resources = Resources { cpu_millis: 250, memory_mib: 192 };
const STOP_GRACE_MS: u64 = 2_000;

/// The bundle of sign-in processes: this very program, where instances can see it.
#[derive(Debug, Clone)]
pub struct Program {
    executable: PathBuf,
    /// That of another version is another one.
    dir: PathBuf,
}

/// The program that runs, also once its file was exchanged for another version's.
const SELF: &str = "/proc/self/exe";

impl Program {
    /// # Errors
    /// If the program that runs cannot be looked at.
    pub fn new(data: &Path, executable: PathBuf) -> io::Result<Self> {
        let of = std::fs::metadata(SELF)?;
        let tag = format!("{:x}-{:x}-{:x}-{:x}", of.ino(), of.len(), of.mtime(), of.mtime_nsec());
        Ok(Self { executable, dir: data.join("signin").join(tag) })
    }

    /// Puts it there, for the first service that needs it. What another version needed goes.
    fn lay(&self) -> io::Result<()> {
        let program = self.dir.join(PROGRAM);
        if program.exists() {
            return Ok(());
        }
        let all = self.dir.parent().unwrap_or(&self.dir);
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.dir)?;
        let partial = self.dir.join("partial");
        let _ = std::fs::remove_file(&partial);
        let inode = |path: &Path| std::fs::metadata(path).map(|of| of.ino()).ok();
        // On another file system it can have no name.
        if inode(&self.executable) != inode(Path::new(SELF)) || std::fs::hard_link(&self.executable, &partial).is_err()
        {
            std::fs::copy(SELF, &partial)?;
        }
        std::fs::rename(&partial, &program)?;
        for other in std::fs::read_dir(all)?.filter_map(Result::ok).map(|e| e.path()).filter(|p| *p != self.dir) {
            let _ = std::fs::remove_dir_all(other);
        }
        Ok(())
    }
}

fn own_dir(node: &Node, service: &ServiceRecord) -> PathBuf {
    tenancy::service_dir(node, service).join("realm-own")
}

fn settings(node: &Node, service: &ServiceRecord) -> Option<Settings> {
    let spec = &service.document.spec;
    let identity = spec.identity.as_ref()?;
    Some(Settings {
        version: SETTINGS_VERSION,
        cloud: node.name().clone(),
        service: service.name().clone(),
        epoch: service.epoch,
        hosts: spec.hosts.clone(),
        sign_up: identity.sign_up,
        passwords: identity.passwords,
        hashes: identity.hashes,
        basic: identity.basic,
        gate_key: node.identity.realm_key(&service.id, "gate"),
        admin_key: node.identity.realm_key(&service.id, "admin"),
    })
}

/// What is to run, and by which settings; none where no users sign in, or not here.
fn wanted(node: &Node, service: &ServiceRecord) -> Option<(Desired, String)> {
    let program = node.signin.as_ref()?;
    let settings = serde_json::to_string(&settings(node, service)?).ok()?;
    if service.deleting || !register::runs_here(node, service).unwrap_or(false) {
        return None;
    }
    // Other settings, or another program, are another generation.
    let digest = blake3::hash(format!("{settings}{}", program.dir.display()).as_bytes());
    let generation = digest.as_bytes().iter().take(6).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    Some((Desired { owner: service.realm_owner(), count: 1, generation }, settings))
}

/// One service, as `home` runs its instances.
pub async fn run(node: &Node, service: &ServiceRecord) {
    let Some((want, settings)) = wanted(node, service) else {
        // Whose it is cannot be read: what runs goes on.
        if service.deleting || register::runs_here(node, service).is_ok() {
            fleet::reconcile_to_nothing(node, &service.realm_owner(), false).await;
        }
        return;
    };
    let own = own_dir(node, service);
    let Some(program) = node.signin.clone() else { return };
    let laid = world::blocking(move || {
        std::fs::DirBuilder::new().recursive(true).mode(0o770).create(&own)?;
        program.lay()
    });
    if let Err(e) = laid.await.unwrap_or_else(|e| Err(io::Error::other(e.to_string()))) {
        let why = format!("its directory and its program could not be laid out: {e}");
        return node.troubles.refused(&want.owner, want.generation, why, clock::boot());
    }
    fleet::reconcile(node, &want, spec(node, service, want.generation, settings)).await;
}

fn spec(
    node: &Node,
    service: &ServiceRecord,
    generation: u64,
    settings: String,
) -> impl Fn(InstanceId) -> InstanceSpec {
    let realm = DatasetName::realm();
    let mount = |path| DataMount { path, access: Access::ReadWrite };
    // In the environment of one process, and in no file: it holds keys.
    let secrets = Secrets::new(BTreeMap::from([(SETTINGS.to_owned(), settings)]));
    let made = InstanceSpec {
        id: InstanceId::from_entropy(0),
        owner: service.realm_owner(),
        generation,
        bundle_dir: node.signin.as_ref().map(|program| program.dir.clone()).unwrap_or_default(),
        command: vec![format!("${{BUNDLE}}/{PROGRAM}"), "signin".to_owned()],
        env: BTreeMap::new(),
        resources: RESOURCES,
        protocol: Protocol::Http1,
        readiness: Probe { path: "/ready".to_owned(), ..Probe::default() },
        liveness: None,
        stop_grace_ms: STOP_GRACE_MS,
        egress: Vec::new(),
        data: BTreeMap::from([
            (data_suffix(realm.as_str()), mount(home::data_dir(node, service, &realm))),
            (OWN.trim_start_matches("DATA_").to_owned(), mount(own_dir(node, service))),
        ]),
        listen_ip: node.config.engine.instance_ip,
        lent: false,
        secrets,
    };
    move |id| InstanceSpec { id, ..made.clone() }
}

/// Those that run for no service any more end.
pub async fn end_strays(node: &Node, services: &[std::sync::Arc<ServiceRecord>]) -> Result<(), Problem> {
    let owners: BTreeSet<String> = node.instances.lock().iter().map(|i| i.owner.clone()).collect();
    for owner in owners.into_iter().filter(|o| o.starts_with(OWNER_OF_REALMS)) {
        if services.iter().any(|s| s.realm_owner() == owner) {
            continue;
        }
        let of_service = owner.replacen(OWNER_OF_REALMS, crate::object::OWNER_OF_SERVICES, 1);
        if stray::is_over(node, &of_service)? && node.may_act().is_ok() {
            fleet::reconcile_to_nothing(node, &owner, false).await;
        }
    }
    Ok(())
}

/// For the gateway's table.
pub fn route(node: &Node, service: &ServiceRecord) -> Option<IdentityRoute> {
    let identity = service.document.spec.identity.as_ref()?;
    Some(IdentityRoute {
        gate: identity.gate,
        basic: identity.basic,
        headers: identity.headers.clone(),
        public: identity.public.clone(),
        signin: process(node, service),
        key: node.identity.realm_key(&service.id, "gate"),
    })
}

/// Why users of a service cannot sign in now.
pub fn trouble(node: &Node, service: &ServiceRecord) -> Option<String> {
    wanted(node, service)?;
    if process(node, service).is_some() {
        return None;
    }
    let why = node.troubles.of(&service.realm_owner(), &node.instances.lock());
    Some(format!(
        "users cannot sign in: {}",
        why.map_or_else(|| "the sign-in process is starting".to_owned(), |t| t.why)
    ))
}

/// The sign-in process that is ready: the newest, where one takes over from another.
fn process(node: &Node, service: &ServiceRecord) -> Option<HomeBackend> {
    let (want, _) = wanted(node, service)?;
    let instances = node.instances.lock();
    let ready =
        |i: &&pumasi_engine::InstanceStatus| i.owner == want.owner && i.state == InstanceState::Ready && !i.frozen;
    let newest = instances.iter().filter(ready).max_by_key(|i| (i.generation == want.generation, i.id.clone()))?;
    crate::routes::backend(newest, false)
}
