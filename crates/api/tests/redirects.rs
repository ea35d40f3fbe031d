//! A member that lies about where things are: its redirects lead nowhere, whatever they name.

#![allow(clippy::unwrap_used)] // a test helper fails loudly

use pumasi_api::{CallError, Client, Way};
use pumasi_terms::{CloudName, WallMs};
use pumasi_trust::{
    Authority, ExpectPeer, SharedIdentity, SharedTrust, SpiffeId, TrustStore, client_config_anonymous,
    server_config_open,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const CALL: Duration = Duration::from_secs(5);

/// What only this host should reach: counts who comes.
async fn secret_place() -> (SocketAddr, Arc<AtomicUsize>) {
    let (listener, visits) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::new(AtomicUsize::new(0)));
    let (at, counted) = (listener.local_addr().unwrap(), visits.clone());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n\"secret\"").await;
        }
    });
    (at, visits)
}

async fn liar(tls: Arc<rustls::ServerConfig>, answer: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    at
}

#[tokio::test]
async fn a_redirect_of_a_lying_member_is_not_followed() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let now = WallMs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64);
    let cloud = CloudName::parse("city-b").unwrap();
    let authority = Authority::create(dir.path(), &cloud, now).unwrap();
    let id = SpiffeId::daemon(&cloud);
    let identity = SharedIdentity::new(&authority.issue(&id, 3_600_000, now, &[]).unwrap()).unwrap();
    let bundles = BTreeMap::from([(cloud, authority.bundle().unwrap())]);
    let trust = SharedTrust::new(TrustStore::new(bundles, BTreeSet::from([id.clone()])).unwrap());
    let alpn: &[&[u8]] = &[b"http/1.1"];
    let server = server_config_open(identity, trust.clone(), alpn).unwrap();
    let (secrets, visits) = secret_place().await;
    let way = Way { loopback: true, ..Way::default() };

    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        for scheme in ["http", "https"] {
            let to = format!("location: {scheme}://{secrets}/latest/meta-data\r\ncontent-length: 0\r\n");
            let at = liar(server.clone(), format!("HTTP/1.1 {status}\r\n{to}\r\n")).await;
            let tls = client_config_anonymous(trust.clone(), ExpectPeer::Exactly(id.clone()), alpn).unwrap();
            let client = Client::with_tls(&format!("https://{at}"), (*tls).clone(), way, CALL).unwrap();
            let read = client.text("/v1/leases/x/logs").await;
            assert!(matches!(read, Err(CallError::Garbled { .. })), "{status}: {read:?}");
            let sent = client.post::<serde_json::Value>("/v1/heartbeat", &1).await;
            assert!(matches!(sent, Err(CallError::Garbled { .. })), "{status}: {sent:?}");
        }
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0, "the daemon was led to a place of its own host");

    // Nor is anything but HTTPS spoken to a member at all.
    let tls = client_config_anonymous(trust, ExpectPeer::Exactly(id), alpn).unwrap();
    let plain = Client::with_tls(&format!("http://{secrets}"), (*tls).clone(), way, CALL).unwrap();
    assert!(plain.text("/").await.is_err());
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}
