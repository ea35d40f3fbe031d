//! rustls configurations between clouds: TLS 1.3, both sides proven by SVIDs.
//!
//! Sessions are not resumed: a resumed one would keep a peer that the pact has dismissed.

use crate::seldom::Seldom;
use crate::store::{PeerRefusal, Purpose, SharedTrust, verify_pinned, wall};
use crate::{SharedIdentity, SpiffeId};
use pumasi_terms::{CloudName, Digest};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::{Arc, OnceLock};

#[derive(Debug, thiserror::Error)]
#[error("TLS could not be configured; this is a fault of this program: {0}")]
pub struct TlsError(#[from] Error);

/// The crypto provider of the whole product.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// Whom a client means to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectPeer {
    Exactly(SpiffeId),
}

/// Our own reason inside a handshake error, if it was ours.
pub fn refusal(error: &Error) -> Option<&PeerRefusal> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
        _ => None,
    }
}

fn refused(why: PeerRefusal) -> Error {
    static TOLD: Seldom = Seldom::new();
    // Anybody on the network can be refused as often as it likes; the log is not for it to fill.
    if let Some(untold) = TOLD.may_tell() {
        tracing::warn!(reason = %why, untold, "a peer was refused at the TLS handshake");
    }
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

fn signature(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
}

fn no_tls12() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
}

fn schemes() -> Vec<SignatureScheme> {
    provider().signature_verification_algorithms.supported_schemes()
}

fn chain<'a>(leaf: &CertificateDer<'a>, rest: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(rest).cloned().collect()
}

#[derive(Debug)]
struct PeerClients {
    trust: SharedTrust,
    mandatory: bool,
}

impl ClientCertVerifier for PeerClients {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: a list of our roots would tell strangers who the members are.
        &[]
    }
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.trust.current().verify(&chain(leaf, rest), Purpose::Client, wall(now));
        verified.map(|_| ClientCertVerified::assertion()).map_err(refused)
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

#[derive(Debug)]
enum Servers {
    Member { trust: SharedTrust, expect: ExpectPeer },
    Pinned { expected: SpiffeId, pin: Digest },
}

impl ServerCertVerifier for Servers {
    /// The host name is ignored: addresses in a pact say where a cloud is, certificates say who.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = chain(leaf, rest);
        let verified = match self {
            Servers::Member { trust, expect: ExpectPeer::Exactly(expected) } => {
                trust.current().verify(&chain, Purpose::Server, wall(now)).and_then(|found| {
                    if &found == expected {
                        Ok(())
                    } else {
                        Err(PeerRefusal::Unexpected { expected: expected.clone(), found })
                    }
                })
            }
            Servers::Pinned { expected, pin } => verify_pinned(expected, *pin, &chain, wall(now)),
        };
        verified.map(|()| ServerCertVerified::assertion()).map_err(refused)
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

fn server(
    identity: SharedIdentity,
    clients: Option<PeerClients>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(Arc::new(clients)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(identity));
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For peers only: a client without a welcome SVID does not get through the handshake.
pub fn server_config(
    identity: SharedIdentity,
    trust: SharedTrust,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let clients = PeerClients { trust, mandatory: true };
    server(identity, Some(clients), &[&rustls::version::TLS13], alpn)
}

/// For peers, and for clients that prove themselves otherwise (a token, an invitation): a certificate is asked for and,
/// where one is presented, verified as above. No certificate means no principal from TLS.
pub fn server_config_open(
    identity: SharedIdentity,
    trust: SharedTrust,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let clients = PeerClients { trust, mandatory: false };
    server(identity, Some(clients), &[&rustls::version::TLS13], alpn)
}

/// For users with a browser, who have no certificates and may speak TLS 1.2.
pub fn server_config_public(identity: SharedIdentity, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    server(identity, None, rustls::DEFAULT_VERSIONS, alpn)
}

fn client(identity: Option<SharedIdentity>, servers: Servers, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.resumption = Resumption::disabled();
    // The name in the handshake proves nothing here, and would tell the wire who is called.
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// To one peer, as ourselves. The name that rustls asks for is ignored; any valid one will do.
pub fn client_config(
    identity: SharedIdentity,
    trust: SharedTrust,
    expect: ExpectPeer,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    client(Some(identity), Servers::Member { trust, expect }, alpn)
}

/// To a server that is verified as above, without a certificate of our own (the CLI with its token).
pub fn client_config_anonymous(
    trust: SharedTrust,
    expect: ExpectPeer,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    client(None, Servers::Member { trust, expect }, alpn)
}

/// To the daemon of a cloud whose bundle is not held yet, by the fingerprint of its root in an invitation. Without a
/// certificate of our own, since that cloud holds none of our roots yet: the invitation's secret speaks for us.
pub fn client_config_pinned(cloud: &CloudName, root: Digest, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    client(None, Servers::Pinned { expected: SpiffeId::daemon(cloud), pin: root }, alpn)
}
