//! Public listeners with TLS: certificates that change on disk are shown to the next user.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::*;
use pumasi_gateway::TlsFiles;
use pumasi_route::keys::{KEYS_VERSION, Keys, Pair, ServiceKeys};
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

/// Writes a new certificate and its key; the certificate, to be trusted.
fn renew(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    std::fs::write(dir.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.join("tls.crt"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

/// What is answered to one who trusts only this certificate.
async fn ask(gateway: &Running, trusted: &CertificateDer<'static>, text: &str) -> Option<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let name = ServerName::try_from(HOST).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    Some(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_changed_is_shown_and_one_of_no_use_is_not() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let files = tempfile::tempdir().unwrap();
    let first = renew(files.path());
    let mut config = config("city-a");
    config.listeners[0].tls =
        Some(TlsFiles { cert_path: files.path().join("tls.crt"), key_path: files.path().join("tls.key") });
    let gateway = Running::start(config).await;
    let mut route = service(&[backend.address]);
    route.position_generation = Some(pumasi_terms::Generation(1));
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    let write = "POST / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx";
    let answer = ask(&gateway, &first, write).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("set-cookie: pumasi_pos=") && answer.contains("; Secure\r\n"), "{answer}");
    // Half of it is there: the one before stays in force.
    std::fs::write(files.path().join("tls.crt"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    assert!(gateway.control.reload_identity().await.is_err());
    assert!(ask(&gateway, &first, write).await.is_some());
    let second = renew(files.path());
    until("the new one is shown", || async { ask(&gateway, &second, write).await.is_some() }).await;
    assert!(ask(&gateway, &first, write).await.is_none());
    // At SIGHUP as well, which ends nobody.
    let third = renew(files.path());
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
    until("the third one is shown", || async { ask(&gateway, &third, write).await.is_some() }).await;
}

fn pair(host: &str) -> (CertificateDer<'static>, Keys) {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    let pem = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
    let of = ServiceKeys { positions: Vec::new(), tls: Some(Pair { hosts: vec![host.to_owned()], pem }) };
    let keys = Keys { version: KEYS_VERSION, services: [(shop(), of)].into(), unknown: Default::default() };
    (made.cert.der().clone(), keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_a_certificate_of_its_own_shows_it_to_who_asks_for_its_host() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let files = tempfile::tempdir().unwrap();
    let listeners = renew(files.path());
    let mut config = config("city-a");
    config.listeners[0].tls =
        Some(TlsFiles { cert_path: files.path().join("tls.crt"), key_path: files.path().join("tls.key") });
    let gateway = Running::start(config).await;
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    let read = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let shows = async |trusted: &CertificateDer<'static>| ask(&gateway, trusted, &read).await.is_some();
    let (first, told) = pair(HOST);
    gateway.control.put_keys(&told).await.unwrap();
    assert!(shows(&first).await && !shows(&listeners).await);
    // The listener's own files change, and nothing else does.
    renew(files.path());
    gateway.control.reload_identity().await.unwrap();
    assert!(shows(&first).await);
    let (second, told) = pair(HOST);
    gateway.control.put_keys(&told).await.unwrap();
    assert!(shows(&second).await && !shows(&first).await);
    let (_, elsewhere) = pair("other.example");
    let listeners = renew(files.path());
    gateway.control.reload_identity().await.unwrap();
    gateway.control.put_keys(&elsewhere).await.unwrap();
    assert!(shows(&listeners).await && !shows(&second).await);
}
