//! The lab's own ends of connections between clouds: whoever answers is taken as it is, and any identity may be shown.

use pumasi_trust::{Authority, SharedIdentity, SpiffeId, Svid};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The daemon's identity of a cloud whose keys the lab holds.
pub fn daemon_of(trust_dir: &Path, cloud: &str) -> anyhow::Result<Svid> {
    let cloud = pumasi_terms::CloudName::parse(cloud)?;
    let now = pumasi_terms::WallMs(jiff::Timestamp::now().as_millisecond());
    let authority = Authority::load_or_create(trust_dir, &cloud, now)?;
    Ok(authority.issue(&SpiffeId::daemon(&cloud), 3_600_000, now, &[])?)
}

pub async fn tls(peer: SocketAddr, identity: Option<&Svid>) -> Option<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(peer).await.ok()?;
    let builder = rustls::ClientConfig::builder_with_provider(pumasi_trust::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(svid) => builder.with_client_cert_resolver(Arc::new(SharedIdentity::new(svid).ok()?)),
    };
    let name = ServerName::IpAddress(peer.ip().into());
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
}

/// One request as this cloud; status line, fields and body as text. None: it was not answered.
pub async fn call(peer: SocketAddr, identity: Option<&Svid>, method: &str, path: &str, body: &str) -> Option<String> {
    let ask = async {
        let mut stream = tls(peer, identity).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        Some(String::from_utf8_lossy(&answer).into_owned()).filter(|a| !a.is_empty())
    };
    tokio::time::timeout(Duration::from_secs(10), ask).await.ok().flatten()
}

pub fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// A stranger does not mind who answers.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        pumasi_trust::provider().signature_verification_algorithms.supported_schemes()
    }
}
