//! Clouds with an authority of their own, whose gateways prove themselves to each other.

use super::{Running, config};
use pumasi_gateway::{Listener, TlsFiles};
use pumasi_route::table::PeerLink;
use pumasi_terms::{CloudName, WallMs};
use pumasi_trust::{Authority, SpiffeId};
use std::time::{SystemTime, UNIX_EPOCH};

pub fn now() -> WallMs {
    WallMs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64)
}

/// A cloud with its own authority and a gateway.
pub struct Cloud {
    pub name: CloudName,
    pub bundle: String,
    pub gateway: Running,
    pub authority: tempfile::TempDir,
}

impl Cloud {
    pub async fn start(name: &str) -> Self {
        let authority_dir = tempfile::tempdir().unwrap();
        let cloud = CloudName::parse(name).unwrap();
        let authority = Authority::create(&authority_dir.path().join("ca"), &cloud, now()).unwrap();
        let svid = authority.issue(&SpiffeId::gateway(&cloud), 3_600_000, now(), &[]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("svid.pem");
        svid.save(&path).unwrap();
        let mut config = config(name);
        config.peer_listen = Some("127.0.0.1:0".parse().unwrap());
        config.svid_path = Some(path.clone());
        let tls = Some(TlsFiles { cert_path: path.clone(), key_path: path });
        config.listeners.push(Listener { address: "127.0.0.1:0".parse().unwrap(), tls, http2: true });
        let bundle = authority.bundle().unwrap().to_json();
        Self { name: cloud, bundle, gateway: Running::start_in(dir, config).await, authority: authority_dir }
    }
    pub fn link(&self) -> PeerLink {
        PeerLink { gateway_address: self.gateway.peer_address.unwrap().to_string(), bundle: self.bundle.clone() }
    }
}
