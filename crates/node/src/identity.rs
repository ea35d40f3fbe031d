//! This cloud's own identity: its authority, the SVIDs of daemon and gateway, the key for documents, and whom it trusts now.

use crate::clock;
use crate::config::Config;
use crate::node::Locked;
use crate::pact::PactView;
use pumasi_lease::message::Receipt;
use pumasi_terms::{CloudName, LeaseId, ServiceId};
use pumasi_trust::{
    Authority, Bundle, DocumentKey, ExpectPeer, Secret, SharedIdentity, SharedTrust, SpiffeId, Svid, TrustStore, Vault,
    client_config, random_bytes,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// SVIDs live a day at most and are renewed at half their life.
const SVID_TTL_MS: u64 = 24 * 3_600_000;

pub struct Identity {
    cloud: CloudName,
    pub authority: Locked<Authority>,
    pub daemon: SharedIdentity,
    pub trust: SharedTrust,
    pub key: DocumentKey,
    /// From which keys are derived that nobody else verifies with: of tickets, one a lease, and of receipts. It lies outside
    /// the store, so that a store put back from a backup still knows its own receipts.
    tickets: Secret<[u8; 32]>,
    /// Secrets of this cloud's customers.
    pub vault: Vault,
    gateway_dir: PathBuf,
    pact: Locked<Option<Arc<PactView>>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.cloud)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("this cloud's identity in {dir}: {problem}", dir = .dir.display())]
pub struct IdentityError {
    dir: PathBuf,
    problem: String,
}

pub fn gateway_svid(gateway_dir: &Path) -> PathBuf {
    gateway_dir.join("svid.pem")
}

fn ticket_secret(path: &Path) -> Result<Secret<[u8; 32]>, String> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Ok(bytes) = std::fs::read(path) {
        return bytes.try_into().map(Secret::new).map_err(|_| format!("{}: not 32 bytes", path.display()));
    }
    let bytes = random_bytes::<32>().map_err(|e| e.to_string())?;
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&bytes)?;
        file.sync_all()
    };
    write().map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Secret::new(bytes))
}

impl Identity {
    pub fn load(config: &Config) -> Result<Self, IdentityError> {
        let dir = config.cloud.data_dir.join("trust");
        let fail = |problem: String| IdentityError { dir: dir.clone(), problem };
        std::fs::create_dir_all(&dir).map_err(|e| fail(e.to_string()))?;
        let cloud = config.cloud.name.clone();
        let now = clock::wall();
        let authority = Authority::load_or_create(&dir, &cloud, now).map_err(|e| fail(e.to_string()))?;
        if authority.cloud() != &cloud {
            return Err(fail(format!("it belongs to {}, the configuration says {cloud}", authority.cloud())));
        }
        let svid =
            authority.issue(&SpiffeId::daemon(&cloud), SVID_TTL_MS, now, &[]).map_err(|e| fail(e.to_string()))?;
        let daemon = SharedIdentity::new(&svid).map_err(|e| fail(e.to_string()))?;
        let key = DocumentKey::load_or_create(&dir.join("document.key")).map_err(|e| fail(e.to_string()))?;
        let tickets = ticket_secret(&dir.join("ticket.secret")).map_err(fail)?;
        let trust = TrustStore::new(BTreeMap::new(), BTreeSet::new()).map_err(|e| fail(e.to_string()))?;
        Ok(Self {
            cloud,
            authority: Locked::new(authority),
            daemon,
            trust: SharedTrust::new(trust),
            key,
            tickets,
            vault: Vault::open(&dir.join("secrets")).map_err(|e| fail(e.to_string()))?,
            gateway_dir: config.cloud.data_dir.join("gateway"),
            pact: Locked::new(None),
        })
    }

    /// Renews what is past half its life. True where the gateway's certificate changed and it must be told.
    pub fn renew(&self) -> Result<bool, String> {
        let now = clock::wall();
        let authority = self.authority.lock();
        if now >= self.daemon.renew_at() {
            let svid =
                authority.issue(&SpiffeId::daemon(&self.cloud), SVID_TTL_MS, now, &[]).map_err(|e| e.to_string())?;
            self.daemon.replace(&svid).map_err(|e| e.to_string())?;
        }
        let path = gateway_svid(&self.gateway_dir);
        if Svid::load(&path).is_ok_and(|s| now < s.renew_at()) {
            return Ok(false);
        }
        std::fs::create_dir_all(&self.gateway_dir).map_err(|e| e.to_string())?;
        let svid =
            authority.issue(&SpiffeId::gateway(&self.cloud), SVID_TTL_MS, now, &[]).map_err(|e| e.to_string())?;
        svid.save(&path).map_err(|e| e.to_string())?;
        Ok(true)
    }

    pub fn bundle(&self) -> Result<Bundle, String> {
        self.authority.lock().bundle().map_err(|e| e.to_string())
    }

    pub fn pact(&self) -> Option<Arc<PactView>> {
        self.pact.get()
    }

    /// Trusts the members of this pact and nobody else.
    pub fn adopt(&self, view: Option<Arc<PactView>>) -> Result<(), String> {
        let mut bundles = BTreeMap::new();
        let mut allow = BTreeSet::new();
        for member in view.iter().flat_map(|v| &v.pact.members).filter(|m| m.cloud != self.cloud) {
            let bundle = Bundle::from_json(&member.bundle).map_err(|e| format!("bundle of {}: {e}", member.cloud))?;
            bundle.check_domain(&member.cloud).map_err(|e| format!("bundle of {}: {e}", member.cloud))?;
            bundles.insert(member.cloud.clone(), bundle);
            allow.insert(SpiffeId::daemon(&member.cloud));
        }
        self.trust.replace(TrustStore::new(bundles, allow).map_err(|e| e.to_string())?);
        self.pact.set(view);
        Ok(())
    }

    /// Seals the tickets of `redirect` mode for this lease, hex. It goes to the lender and nowhere else.
    pub fn ticket_key(&self, lease: &LeaseId) -> String {
        let mut hasher = blake3::Hasher::new_keyed(self.tickets.expose());
        hasher.update(b"pumasi redirect ticket v1 ").update(lease.as_str().as_bytes());
        hex::encode(hasher.finalize().as_bytes())
    }

    /// What `who` proves itself by to the sign-in process of a service here, hex. It leaves this cloud never.
    pub fn realm_key(&self, service: &ServiceId, who: &str) -> String {
        let mut hasher = blake3::Hasher::new_keyed(self.tickets.expose());
        hasher.update(b"pumasi realm key v1 ").update(who.as_bytes()).update(b" ").update(service.as_str().as_bytes());
        hex::encode(hasher.finalize().as_bytes())
    }

    fn receipt_mac(&self, member: &CloudName, incarnation: u64, revision: u64) -> blake3::Hash {
        let key = blake3::derive_key("pumasi store receipt v1", self.tickets.expose());
        let mut hasher = blake3::Hasher::new_keyed(&key);
        for name in [&self.cloud, member] {
            hasher.update(&(name.as_str().len() as u64).to_le_bytes()).update(name.as_str().as_bytes());
        }
        hasher.update(&incarnation.to_le_bytes()).update(&revision.to_le_bytes()).finalize()
    }

    /// For a member to keep: where this cloud's store stands.
    pub fn receipt(&self, member: &CloudName, incarnation: u64, revision: u64) -> Receipt {
        let mac = self.receipt_mac(member, incarnation, revision).to_hex().to_string();
        Receipt { incarnation, revision, mac }
    }

    /// Whether this cloud gave that member this receipt. The comparison takes the same time for every wrong one.
    pub fn gave(&self, member: &CloudName, receipt: &Receipt) -> bool {
        blake3::Hash::from_hex(&receipt.mac)
            .is_ok_and(|mac| mac == self.receipt_mac(member, receipt.incarnation, receipt.revision))
    }

    /// To call the daemon of a member.
    pub fn client_tls(&self, peer: &CloudName) -> Result<rustls::ClientConfig, String> {
        let expect = ExpectPeer::Exactly(SpiffeId::daemon(peer));
        // HTTP/2 carries the heartbeat beside a long transfer on one connection.
        client_config(self.daemon.clone(), self.trust.clone(), expect, &[b"h2", b"http/1.1"])
            .map(|c| (*c).clone())
            .map_err(|e| e.to_string())
    }
}
