//! The gateways of the pact's members: whom to call, whom to let in, and as whom we appear.

use pumasi_route::table::PeerLink;
use pumasi_terms::{CloudName, Protocol};
use pumasi_trust::{Bundle, ExpectPeer, SharedIdentity, SharedTrust, SpiffeId, Svid, TrustStore};
use rustls::ServerConfig;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::TlsConnector;

#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    #[error("the SVID at {path} is of no use: {problem}; the daemon must write a new one")]
    Svid { path: PathBuf, problem: String },
    #[error("the bundle of {cloud} is of no use: {problem}; the daemon must send a table without it")]
    Bundle { cloud: CloudName, problem: String },
    #[error(transparent)]
    Tls(#[from] pumasi_trust::TlsError),
}

struct Link {
    authority: String,
    http1: TlsConnector,
    http2: TlsConnector,
}

/// Shared by all workers.
pub struct Peers {
    svid_path: Option<PathBuf>,
    identity: Option<SharedIdentity>,
    trust: SharedTrust,
    links: RwLock<HashMap<CloudName, Link>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peers({:?})", self.identity)
    }
}

const HTTP1: &[u8] = b"http/1.1";
pub const HTTP2: &[u8] = b"h2";

fn load(path: &Path) -> Result<Svid, PeersError> {
    Svid::load(path).map_err(|e| PeersError::Svid { path: path.to_owned(), problem: e.to_string() })
}

impl Peers {
    pub fn new(svid_path: Option<PathBuf>) -> Result<Arc<Self>, PeersError> {
        let identity = match &svid_path {
            None => None,
            Some(path) => Some(
                SharedIdentity::new(&load(path)?)
                    .map_err(|e| PeersError::Svid { path: path.clone(), problem: e.to_string() })?,
            ),
        };
        let trust = SharedTrust::new(TrustStore::default());
        Ok(Arc::new(Self { svid_path, identity, trust, links: RwLock::default() }))
    }

    /// The next handshake shows the certificate that is in the file now.
    pub fn reload(&self) -> Result<(), PeersError> {
        let (Some(path), Some(identity)) = (&self.svid_path, &self.identity) else { return Ok(()) };
        let svid = load(path)?;
        identity.replace(&svid).map_err(|e| PeersError::Svid { path: path.clone(), problem: e.to_string() })
    }

    /// Reads the bundles of a table without putting them in force. A member whose bundle is of no use is nobody's peer; the
    /// others stay.
    pub fn check(links: &BTreeMap<CloudName, PeerLink>) -> Result<TrustStore, PeersError> {
        let bad = |cloud: &CloudName, problem: String| PeersError::Bundle { cloud: cloud.clone(), problem };
        let mut bundles = BTreeMap::new();
        let mut allow = BTreeSet::new();
        for (cloud, link) in links {
            let bundle = Bundle::from_json(&link.bundle).and_then(|b| b.check_domain(cloud).map(|()| b));
            let bundle = match bundle {
                Ok(bundle) => bundle,
                Err(problem) => {
                    tracing::warn!(%cloud, %problem, "the gateway of a member is passed over: its bundle is of no use");
                    continue;
                }
            };
            bundles.insert(cloud.clone(), bundle);
            allow.insert(SpiffeId::gateway(cloud));
        }
        let any = links.keys().next().cloned();
        TrustStore::new(bundles, allow).map_err(|e| match any {
            Some(cloud) => bad(&cloud, e.to_string()),
            None => PeersError::Svid { path: PathBuf::new(), problem: e.to_string() },
        })
    }

    pub fn update(&self, store: TrustStore, links: &BTreeMap<CloudName, PeerLink>) -> Result<(), PeersError> {
        self.trust.replace(store);
        let mut held = self.links.write().unwrap_or_else(PoisonError::into_inner);
        held.retain(|cloud, _| links.contains_key(cloud));
        let Some(identity) = &self.identity else { return Ok(()) };
        for (cloud, link) in links {
            if let Some(known) = held.get_mut(cloud) {
                known.authority.clone_from(&link.gateway_address);
                continue;
            }
            let speaking = |protocol| {
                let expect = ExpectPeer::Exactly(SpiffeId::gateway(cloud));
                pumasi_trust::client_config(identity.clone(), self.trust.clone(), expect, &[protocol])
            };
            let [http1, http2] = [speaking(HTTP1)?, speaking(HTTP2)?].map(TlsConnector::from);
            held.insert(cloud.clone(), Link { authority: link.gateway_address.clone(), http1, http2 });
        }
        Ok(())
    }

    /// How to call a peer's gateway: in HTTP/2 for a service whose application speaks it.
    pub fn to(&self, cloud: &CloudName, protocol: Protocol) -> Result<(String, TlsConnector), String> {
        let held = self.links.read().unwrap_or_else(PoisonError::into_inner);
        match held.get(cloud) {
            Some(link) => {
                let connector = if protocol.is_http1() { &link.http1 } else { &link.http2 };
                Ok((link.authority.clone(), connector.clone()))
            }
            None if self.identity.is_none() => Err("this gateway has no SVID to show to peers".to_owned()),
            None => Err(format!("the route table names no gateway of {cloud}")),
        }
    }

    /// For the listener of peers. None: this gateway has no identity.
    pub fn server_config(&self) -> Result<Option<Arc<ServerConfig>>, PeersError> {
        let Some(identity) = &self.identity else { return Ok(None) };
        Ok(Some(pumasi_trust::server_config(identity.clone(), self.trust.clone(), &[HTTP2, HTTP1])?))
    }

    /// Whether a peer that came in earlier is still welcome.
    pub fn allows(&self, id: &SpiffeId) -> bool {
        self.trust.allows(id)
    }
}
