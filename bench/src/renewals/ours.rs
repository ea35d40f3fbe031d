//! A lender's daemon, brought up and joined by commands, and its borrowers: members with real identities and real leases.

use super::{BORROWERS, LEASES_EACH};
use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use pumasi_api::Client;
use pumasi_lab::cluster::{CloudPlan, Cluster};
use pumasi_lease::message::{Heartbeat, Renewal, ReservationGrant, ReservationRequest};
use pumasi_lease::{Lease, LentState, document};
use pumasi_terms::offer::Requirement;
use pumasi_terms::pact::Pact;
use pumasi_terms::service::Platform;
use pumasi_terms::{
    API_VERSION, CloudName, Digest, Epoch, LeaseId, Money, ReservationId, Resources, Serial, ServiceName, WallMs,
};
use pumasi_trust::{
    Authority, Bundle, DocumentKey, ExpectPeer, SharedIdentity, SharedTrust, SignedDocument, SpiffeId, TrustStore,
    client_config,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const LENDER: &str = "city-a";
const NAMES: [&str; BORROWERS] = ["city-b", "city-c", "city-d", "city-e", "city-f", "city-g", "city-h", "city-i"];
const LEASE_TTL_MS: u64 = 30_000;
/// Since a renewal was decided until its answer is looked at, at most.
const LATE_MS: u64 = 10_000;
/// While leases are signed they are renewed each time so many have come.
const RENEW_EACH: usize = 250;
const CALL: Duration = Duration::from_secs(20);
const SVID_TTL_MS: u64 = 3_600_000;
const INSTANCE: Resources = Resources { cpu_millis: 10, memory_mib: 8 };

/// Of an answer to a heartbeat what a borrower needs to go on.
#[derive(Deserialize)]
struct Heard {
    leases: Vec<Status>,
}

#[derive(Deserialize)]
struct Status {
    state: Option<LentState>,
    expires_in_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    document: SignedDocument,
}

#[derive(Deserialize)]
struct Shown {
    pact: Pact,
}

struct Borrower {
    name: CloudName,
    key: DocumentKey,
    client: Client,
    heartbeat: Heartbeat,
}

pub struct Federation {
    cluster: Cluster,
    borrowers: Vec<Borrower>,
}

fn wall() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The product's own program, built beside this one.
fn executable() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = std::process::Command::new(cargo);
    build.args(["build", "--release", "--quiet", "-p", "pumasi", "--bin", "pumasi"]);
    build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    ensure!(build.status().context("running cargo")?.success(), "the pumasi program could not be built");
    let path = std::env::current_exe()?.with_file_name("pumasi");
    ensure!(path.exists(), "{} is not there; run the benchmarks by cargo run --release", path.display());
    Ok(path)
}

impl Federation {
    pub async fn start() -> anyhow::Result<Self> {
        let lots = Resources { cpu_millis: 1_000_000, memory_mib: 1_000_000 };
        let none = Resources { cpu_millis: 0, memory_mib: 0 };
        let cloud = |name, lends| CloudPlan::new(name, "Seoul", lots, lends, "0.05");
        let mut plans = vec![cloud(LENDER, lots)];
        plans.extend(NAMES.map(|name| cloud(name, none)));
        // A member that renews as fast as it is answered is what is measured here.
        let limits = "[limits]\nacts_per_second = 100000\nheartbeats_per_second = 100000\n";
        let cluster = Cluster::start(&executable()?, &plans, limits).await?;
        // The benchmark speaks for the borrowers from here on: their daemons would give back leases that they do not know.
        for name in NAMES {
            cluster.supervisor.stop(name, Duration::from_secs(20)).await?;
        }
        let Shown { pact } = cluster.client(LENDER)?.get("/v1/pact").await?;
        let borrowers =
            NAMES.iter().map(|name| Borrower::open(&cluster, name, &pact)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut federation = Self { cluster, borrowers };
        eprintln!("   {BORROWERS} borrowers sign {LEASES_EACH} leases each");
        try_join_all(federation.borrowers.iter_mut().map(|b| b.borrow_all(&pact))).await?;
        Ok(federation)
    }

    pub fn pid(&self) -> anyhow::Result<u32> {
        self.cluster.supervisor.pid(LENDER).context("the lender's daemon is not running")
    }

    /// Every borrower sends its next heartbeat when the last one is answered. How many renewals were answered.
    pub async fn renew_for(&self, time: Duration) -> anyhow::Result<u64> {
        let until = Instant::now() + time;
        let one = async |b: &Borrower| -> anyhow::Result<u64> {
            let mut renewed = 0;
            while Instant::now() < until {
                renewed += b.renew().await?;
            }
            Ok(renewed)
        };
        Ok(try_join_all(self.borrowers.iter().map(one)).await?.into_iter().sum())
    }

    pub async fn renew_once(&self) -> anyhow::Result<()> {
        try_join_all(self.borrowers.iter().map(Borrower::renew)).await.map(|_| ())
    }

    /// Every renewal that was answered is there when the daemon has come back.
    pub async fn survives_a_kill(&self) -> anyhow::Result<()> {
        let sent = Instant::now();
        self.renew_once().await?;
        self.cluster.supervisor.kill9(LENDER)?;
        self.cluster.supervisor.wait_exit(LENDER, Duration::from_secs(10)).await?;
        self.cluster.start_daemon(LENDER)?;
        self.cluster.wait_up(LENDER).await?;
        let leases = self.cluster.leases(LENDER).await?;
        let gone_ms = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX);
        let kept = leases.iter().filter(|l| l.state == "active" && l.expires_in_ms + gone_ms >= LEASE_TTL_MS).count();
        ensure!(kept == BORROWERS * LEASES_EACH, "{kept} of {} renewals were kept", BORROWERS * LEASES_EACH);
        eprintln!("   kill -9 and back: all {kept} renewals were kept");
        Ok(())
    }
}

impl Borrower {
    fn open(cluster: &Cluster, name: &str, pact: &Pact) -> anyhow::Result<Self> {
        let (name, lender) = (CloudName::parse(name)?, CloudName::parse(LENDER)?);
        let trust_dir = cluster.dir(name.as_str()).join("data/trust");
        let svid = Authority::load(&trust_dir)?.issue(&SpiffeId::daemon(&name), SVID_TTL_MS, wall(), &[])?;
        let member = pact.member(&lender).context("the lender is in no pact")?;
        let bundles = BTreeMap::from([(lender.clone(), Bundle::from_json(&member.bundle)?)]);
        let trust = TrustStore::new(bundles, BTreeSet::from([SpiffeId::daemon(&lender)]))?;
        let expect = ExpectPeer::Exactly(SpiffeId::daemon(&lender));
        let tls = client_config(SharedIdentity::new(&svid)?, SharedTrust::new(trust), expect, &[b"h2"])?;
        // Past the relay that stands for the distance: this is about the daemon.
        let address = format!("https://{}", cluster.place(LENDER)?.peer_listen);
        Ok(Self {
            key: DocumentKey::load_or_create(&trust_dir.join("document.key"))?,
            client: Client::with_tls(
                &address,
                (*tls).clone(),
                pumasi_api::Way { loopback: true, ..Default::default() },
                CALL,
            )?,
            heartbeat: Heartbeat {
                protocol: 1,
                pact_serial: pact.serial,
                incarnation: 0,
                revision: 0,
                receipt: None,
                pact_digest: None,
                renew: Vec::new(),
                fronts: Default::default(),
                wants_back: Default::default(),
            },
            name,
        })
    }

    async fn borrow_all(&mut self, pact: &Pact) -> anyhow::Result<()> {
        while self.heartbeat.renew.len() < LEASES_EACH {
            let lease = self.borrow(pact).await?;
            self.heartbeat.renew.push(Renewal { lease, epoch: Epoch(1), instances: 1, behind_ms: None });
            if self.heartbeat.renew.len().is_multiple_of(RENEW_EACH) {
                self.renew().await?;
            }
        }
        Ok(())
    }

    /// Reserves and signs one lease, as a daemon does.
    async fn borrow(&self, pact: &Pact) -> anyhow::Result<LeaseId> {
        let service = ServiceName::parse("shop")?;
        let requirement = Requirement {
            service: service.clone(),
            platform: Platform::default(),
            resources: INSTANCE,
            instances: 1,
            instances_min: 1,
            storage_bytes: 0,
            price_per_instance_hour_max: Money(1_000_000_000),
            egress: Vec::new(),
            standby: None,
        };
        let id = ReservationId::from_entropy(rand::random());
        let ask = ReservationRequest { id: id.clone(), requirement: requirement.clone(), ttl_ms: 10_000 };
        let grant: ReservationGrant = self.client.post("/v1/reservations", &ask).await?;
        let lease = Lease {
            api_version: API_VERSION.into(),
            kind: document::KIND.into(),
            id: LeaseId::from_entropy(rand::random()),
            serial: Serial(1),
            pact: pact.id.clone(),
            pact_serial: pact.serial,
            reservation: id,
            borrower: self.name.clone(),
            lender: CloudName::parse(LENDER)?,
            service,
            epoch: Epoch(1),
            requirement,
            instances: grant.instances,
            price_per_instance_hour: grant.price_per_instance_hour,
            ttl_ms: LEASE_TTL_MS.min(grant.lease_ttl_ms_max),
            recall_notice_ms: grant.recall_notice_ms,
            application: Digest([7; 32]),
            hosts: Vec::new(),
            datasets: Vec::new(),
            created_at: wall(),
            standby_percent: None,
        };
        let payload = serde_json::to_vec(&lease)?;
        let document = SignedDocument::sign_new(&payload, "lease", &self.name, lease.serial, &self.key)?;
        let signed: Signed = self.client.post("/v1/leases", &Signed { document }).await?;
        ensure!(signed.document.signers().len() == 2, "the lender did not sign {}", lease.id);
        Ok(lease.id)
    }

    /// One heartbeat for all leases; every one must come back renewed.
    async fn renew(&self) -> anyhow::Result<u64> {
        let heard: Heard = self.client.post("/v1/heartbeat", &self.heartbeat).await?;
        let fresh =
            |s: &&Status| matches!(s.state, Some(LentState::Active)) && s.expires_in_ms + LATE_MS >= LEASE_TTL_MS;
        let renewed = heard.leases.iter().filter(fresh).count();
        ensure!(
            renewed >= self.heartbeat.renew.len(),
            "{renewed} of {} leases of {} were renewed",
            self.heartbeat.renew.len(),
            self.name
        );
        Ok(self.heartbeat.renew.len() as u64)
    }
}
