//! Real handshakes over in-memory pipes: who gets through, and what changes while serving.

#![allow(clippy::unwrap_used)] // a test helper fails loudly

use pumasi_terms::{CloudName, WallMs};
use pumasi_trust::{
    Authority, Bundle, ExpectPeer, PeerRefusal, SharedIdentity, SharedTrust, SpiffeId, TrustStore, client_config,
    client_config_anonymous, client_config_pinned, peer_identity, refusal, server_config, server_config_open,
};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const HOUR_MS: u64 = 3_600_000;

fn now() -> WallMs {
    WallMs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64)
}

fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

struct Party {
    _dir: tempfile::TempDir,
    authority: Authority,
    identity: SharedIdentity,
}

fn party(name: &str) -> Party {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path(), &cloud(name), now()).unwrap();
    let svid = authority.issue(&SpiffeId::daemon(&cloud(name)), HOUR_MS, now(), &[]).unwrap();
    Party { _dir: dir, identity: SharedIdentity::new(&svid).unwrap(), authority }
}

fn trusting(bundles: &[(&str, Bundle)], allow: &[SpiffeId]) -> SharedTrust {
    let bundles: BTreeMap<_, _> = bundles.iter().map(|(n, b)| (cloud(n), b.clone())).collect();
    SharedTrust::new(TrustStore::new(bundles, allow.iter().cloned().collect()).unwrap())
}

fn pact_of(a: &Party, b: &Party) -> SharedTrust {
    let (a, b) = (&a.authority, &b.authority);
    trusting(
        &[(a.cloud().as_str(), a.bundle().unwrap()), (b.cloud().as_str(), b.bundle().unwrap())],
        &[SpiffeId::daemon(a.cloud()), SpiffeId::daemon(b.cloud())],
    )
}

fn to(name: &str) -> ExpectPeer {
    ExpectPeer::Exactly(SpiffeId::daemon(&cloud(name)))
}

struct Outcome {
    /// The server's view: principal of the client (none if it has none), or its error.
    server: Result<Option<SpiffeId>, String>,
    server_reason: Option<PeerRefusal>,
    client: Result<(), String>,
    client_reason: Option<PeerRefusal>,
}

fn reason(error: &std::io::Error) -> Option<PeerRefusal> {
    error.get_ref()?.downcast_ref::<rustls::Error>().and_then(refusal).cloned()
}

/// One byte each way, since a TLS 1.3 client learns of its refusal only when it reads.
async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Outcome {
    let (near, far) = tokio::io::duplex(64 << 10);
    let serve = async move {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        let id = stream.get_ref().1.peer_certificates().map(|certs| peer_identity(certs).unwrap());
        stream.write_all(b"!").await?;
        let _ = stream.read_u8().await;
        Ok::<_, std::io::Error>(id)
    };
    let call = async move {
        let name = ServerName::try_from("peer.invalid").unwrap();
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(b"?").await?;
        Ok::<_, std::io::Error>(())
    };
    let (server, client) = tokio::join!(serve, call);
    Outcome {
        server_reason: server.as_ref().err().and_then(reason),
        client_reason: client.as_ref().err().and_then(reason),
        server: server.map_err(|e| e.to_string()),
        client: client.map_err(|e| e.to_string()),
    }
}

#[tokio::test]
async fn members_meet_and_know_each_other() {
    let (a, b) = (party("city-a"), party("city-b"));
    let trust = pact_of(&a, &b);
    let server = server_config(b.identity.clone(), trust.clone(), &[b"h2"]).unwrap();
    let client = client_config(a.identity.clone(), trust, to("city-b"), &[b"h2"]).unwrap();
    let met = meet(server, client).await;
    assert_eq!(met.server, Ok(Some(SpiffeId::daemon(&cloud("city-a")))));
    assert_eq!(met.client, Ok(()));
}

#[tokio::test]
async fn another_domains_ca_cannot_mint_our_name() {
    let (a, b, mallory) = (party("city-a"), party("city-b"), party("city-m"));
    // Mallory's authority says that it is city-a; its root is even held, as that of city-m.
    let false_a = party("city-a");
    let trust = pact_of(&a, &b);
    trust
        .update(|t| {
            let allow = t.allowed().iter().cloned().chain([SpiffeId::daemon(&cloud("city-m"))]).collect();
            t.with_bundle(&cloud("city-m"), mallory.authority.bundle().unwrap()).map(|t| t.with_allowed(allow))
        })
        .unwrap();
    let server = server_config(b.identity.clone(), trust.clone(), &[]).unwrap();
    let client = client_config(false_a.identity.clone(), trust.clone(), to("city-b"), &[]).unwrap();
    let met = meet(server, client).await;
    assert!(matches!(met.server_reason, Some(PeerRefusal::Untrusted { .. })), "{:?}", met.server);
    assert!(met.client.is_err());

    // The same the other way round: the server is the liar.
    let server = server_config(false_a.identity.clone(), trust.clone(), &[]).unwrap();
    let client = client_config(b.identity.clone(), trust.clone(), to("city-a"), &[]).unwrap();
    let met = meet(server, client).await;
    assert!(matches!(met.client_reason, Some(PeerRefusal::Untrusted { .. })), "{:?}", met.client);

    // A root that names city-a is not taken into the bundle of city-m.
    let wrong = trust.update(|t| t.with_bundle(&cloud("city-n"), false_a.authority.bundle().unwrap()));
    assert!(wrong.is_err());
}

#[tokio::test]
async fn a_stranger_and_another_member_are_refused() {
    let (a, b, c) = (party("city-a"), party("city-b"), party("city-c"));
    let trust = pact_of(&a, &b);
    let server = server_config(b.identity.clone(), trust.clone(), &[]).unwrap();
    let client = client_config(c.identity.clone(), trust.clone(), to("city-b"), &[]).unwrap();
    let met = meet(server.clone(), client).await;
    assert_eq!(met.server_reason, Some(PeerRefusal::UnknownDomain { id: SpiffeId::daemon(&cloud("city-c")) }));

    // A member, but not the one that was called.
    let client = client_config(b.identity.clone(), trust.clone(), to("city-a"), &[]).unwrap();
    let met = meet(server.clone(), client).await;
    assert!(matches!(met.client_reason, Some(PeerRefusal::Unexpected { .. })), "{:?}", met.client);

    // The right domain, but a role that the list does not name.
    let gateway = a.authority.issue(&SpiffeId::gateway(&cloud("city-a")), HOUR_MS, now(), &[]).unwrap();
    let client = client_config(SharedIdentity::new(&gateway).unwrap(), trust, to("city-b"), &[]).unwrap();
    let met = meet(server, client).await;
    assert_eq!(met.server_reason, Some(PeerRefusal::NotAllowed { id: SpiffeId::gateway(&cloud("city-a")) }));
}

#[tokio::test]
async fn an_expired_or_future_leaf_is_refused() {
    let (a, b) = (party("city-a"), party("city-b"));
    let dir = tempfile::tempdir().unwrap();
    let then = WallMs(now().0 - 48 * HOUR_MS as i64);
    let old_a = Authority::create(dir.path(), &cloud("city-a"), then).unwrap();
    let trust = trusting(
        &[("city-a", old_a.bundle().unwrap()), ("city-b", b.authority.bundle().unwrap())],
        &[SpiffeId::daemon(&cloud("city-a")), SpiffeId::daemon(&cloud("city-b"))],
    );
    let server = server_config(b.identity.clone(), trust.clone(), &[]).unwrap();
    let id = SpiffeId::daemon(&cloud("city-a"));
    let expired = SharedIdentity::new(&old_a.issue(&id, HOUR_MS, then, &[]).unwrap()).unwrap();
    let client = client_config(expired.clone(), trust.clone(), to("city-b"), &[]).unwrap();
    let met = meet(server.clone(), client.clone()).await;
    assert!(matches!(met.server_reason, Some(PeerRefusal::Expired { .. })), "{:?}", met.server);

    let future = old_a.issue(&id, HOUR_MS, now().after(HOUR_MS), &[]).unwrap();
    expired.replace(&future).unwrap();
    let met = meet(server.clone(), client.clone()).await;
    assert!(matches!(met.server_reason, Some(PeerRefusal::NotYetValid { .. })), "{:?}", met.server);

    // A peer whose clock is half a minute behind is no stranger.
    expired.replace(&old_a.issue(&id, HOUR_MS, now().after(30_000), &[]).unwrap()).unwrap();
    assert!(meet(server, client).await.client.is_ok());
    drop(a);
}

#[tokio::test]
async fn a_dismissal_counts_from_the_next_handshake() {
    let (a, b) = (party("city-a"), party("city-b"));
    let trust = pact_of(&a, &b);
    let server = server_config(b.identity.clone(), trust.clone(), &[]).unwrap();
    // The client keeps its own view, so that only the server's change is at work.
    let client = client_config(a.identity.clone(), pact_of(&a, &b), to("city-b"), &[]).unwrap();
    assert!(meet(server.clone(), client.clone()).await.client.is_ok());
    let left: BTreeSet<_> = [SpiffeId::daemon(&cloud("city-b"))].into();
    trust.replace(trust.current().with_allowed(left));
    let met = meet(server.clone(), client.clone()).await;
    assert_eq!(met.server_reason, Some(PeerRefusal::NotAllowed { id: SpiffeId::daemon(&cloud("city-a")) }));
    assert!(met.client.is_err());
    assert!(!trust.allows(&SpiffeId::daemon(&cloud("city-a"))));
    trust.replace(pact_of(&a, &b).current());
    assert!(meet(server, client).await.client.is_ok());
}

#[tokio::test]
async fn certificates_and_roots_rotate_while_serving() {
    let (mut a, b) = (party("city-a"), party("city-b"));
    let trust = pact_of(&a, &b);
    let server = server_config(a.identity.clone(), trust.clone(), &[]).unwrap();
    let client = client_config(b.identity.clone(), trust.clone(), to("city-a"), &[]).unwrap();
    let id = SpiffeId::daemon(&cloud("city-a"));
    let old_leaf = a.authority.issue(&id, HOUR_MS, now(), &[]).unwrap();
    a.identity.replace(&old_leaf).unwrap();
    assert!(meet(server.clone(), client.clone()).await.client.is_ok());

    // A leaf of a root that the peers do not hold yet is refused: hence `prepare` first.
    assert!(a.authority.rotate(now()).is_err(), "there is nothing prepared");
    a.authority.prepare(now()).unwrap();
    let prepared = a.authority.bundle().unwrap();
    assert_eq!(prepared.fingerprints().len(), 2);
    a.authority.rotate(now()).unwrap();
    a.identity.replace(&a.authority.issue(&id, HOUR_MS, now(), &[]).unwrap()).unwrap();
    let met = meet(server.clone(), client.clone()).await;
    assert!(matches!(met.client_reason, Some(PeerRefusal::Untrusted { .. })), "{:?}", met.client);

    // The bundle arrives; no listener was rebuilt, and leaves of both roots are good.
    trust.update(|t| t.with_bundle(&cloud("city-a"), prepared)).unwrap();
    assert!(meet(server.clone(), client.clone()).await.client.is_ok());
    a.identity.replace(&old_leaf).unwrap();
    assert!(meet(server.clone(), client.clone()).await.client.is_ok());

    // After the old leaves are gone the old root goes, and with it their welcome.
    assert!(!a.authority.prune(now()).unwrap());
    assert!(a.authority.prune(now().after(25 * HOUR_MS)).unwrap());
    trust.update(|t| t.with_bundle(&cloud("city-a"), a.authority.bundle().unwrap())).unwrap();
    assert!(meet(server.clone(), client.clone()).await.client.is_err());
    a.identity.replace(&a.authority.issue(&id, HOUR_MS, now(), &[]).unwrap()).unwrap();
    assert!(meet(server, client).await.client.is_ok());
    let other = b.authority.issue(&SpiffeId::daemon(&cloud("city-b")), HOUR_MS, now(), &[]).unwrap();
    assert!(a.identity.replace(&other).is_err(), "an identity keeps its id");
}

#[tokio::test]
async fn a_newcomer_reaches_the_inviter_by_its_pinned_root_only() {
    let (a, b, other) = (party("city-a"), party("city-b"), party("city-a"));
    let trust = pact_of(&a, &b);
    let open = server_config_open(a.identity.clone(), trust.clone(), &[]).unwrap();
    let closed = server_config(a.identity.clone(), trust.clone(), &[]).unwrap();
    let pin = a.authority.fingerprint().unwrap();
    let client = client_config_pinned(&cloud("city-a"), pin, &[]).unwrap();
    let met = meet(open.clone(), client.clone()).await;
    assert_eq!((met.client, met.server), (Ok(()), Ok(None)));
    // Peers' listeners want a certificate all the same.
    assert!(meet(closed, client.clone()).await.server.is_err());

    // Another city-a; the root of city-a behind another name; the right root behind a gateway.
    let false_server = server_config_open(other.identity.clone(), trust.clone(), &[]).unwrap();
    let met = meet(false_server, client.clone()).await;
    assert!(matches!(met.client_reason, Some(PeerRefusal::NotPinned { .. })), "{:?}", met.client);
    let wrong_name = client_config_pinned(&cloud("city-b"), pin, &[]).unwrap();
    let met = meet(open, wrong_name).await;
    assert!(matches!(met.client_reason, Some(PeerRefusal::Unexpected { .. })), "{:?}", met.client);
    let gateway = a.authority.issue(&SpiffeId::gateway(&cloud("city-a")), HOUR_MS, now(), &[]).unwrap();
    let gateway = server_config_open(SharedIdentity::new(&gateway).unwrap(), trust, &[]).unwrap();
    let met = meet(gateway, client).await;
    assert!(matches!(met.client_reason, Some(PeerRefusal::Unexpected { .. })), "{:?}", met.client);
}

#[tokio::test]
async fn a_chain_with_the_pinned_root_only_appended_is_refused() {
    let (a, other) = (party("city-a"), party("city-a"));
    // Anyone can append the true root, which is public, to a chain of its own making.
    let svid = other.authority.issue(&SpiffeId::daemon(&cloud("city-a")), HOUR_MS, now(), &[]).unwrap();
    let true_root = a.authority.issue(&SpiffeId::daemon(&cloud("city-a")), HOUR_MS, now(), &[]).unwrap();
    let pem = svid.to_pem().expose().clone() + &true_root.chain_pem();
    let forged = pumasi_trust::Svid::from_pem(pem.as_bytes()).unwrap();
    assert_eq!(forged.chain().len(), 4);
    let server = server_config_open(SharedIdentity::new(&forged).unwrap(), SharedTrust::default(), &[]).unwrap();
    let client = client_config_pinned(&cloud("city-a"), a.authority.fingerprint().unwrap(), &[]).unwrap();
    let met = meet(server, client).await;
    assert!(matches!(met.client_reason, Some(PeerRefusal::Untrusted { .. })), "{:?}", met.client);
}

#[tokio::test]
async fn the_cli_verifies_its_server_and_shows_no_certificate() {
    let (a, b) = (party("city-a"), party("city-b"));
    let trust = pact_of(&a, &b);
    let open = server_config_open(a.identity.clone(), trust.clone(), &[]).unwrap();
    let client = client_config_anonymous(trust.clone(), to("city-a"), &[]).unwrap();
    let met = meet(open.clone(), client).await;
    assert_eq!((met.client, met.server), (Ok(()), Ok(None)));
    // A certificate that is shown must be a good one, also where none is demanded.
    let stranger = party("city-c");
    let client = client_config(stranger.identity, trust, to("city-a"), &[]).unwrap();
    assert!(meet(open, client).await.server.is_err());
}

#[tokio::test]
async fn tls_1_2_is_not_spoken_between_clouds() {
    let (a, b) = (party("city-a"), party("city-b"));
    let trust = pact_of(&a, &b);
    let server = server_config(b.identity.clone(), trust.clone(), &[]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let svid = b.authority.issue(&SpiffeId::daemon(&cloud("city-b")), HOUR_MS, now(), &[]).unwrap();
    roots.add(svid.chain()[1].clone()).unwrap();
    let client = ClientConfig::builder_with_provider(pumasi_trust::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(a.identity.clone()));
    let met = meet(server, Arc::new(client)).await;
    assert!(met.server.is_err() && met.client.is_err());
}

/// A leaf of this authority that lives as long as `life` says; the authority itself would not sign it.
fn forged(party: &Party, life: std::time::Duration) -> SharedIdentity {
    let state = std::fs::read_to_string(party._dir.path().join("authority.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let root = &state["roots"][0];
    let key = rcgen::KeyPair::from_pem(root["key"].as_str().unwrap()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(root["certificate"].as_str().unwrap(), key).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.not_before = (SystemTime::now() - std::time::Duration::from_secs(60)).into();
    params.not_after = (SystemTime::now() + life).into();
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    let id = SpiffeId::daemon(party.authority.cloud()).to_string();
    params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let pem = format!("{}{}{}", key.serialize_pem(), leaf.pem(), root["certificate"].as_str().unwrap());
    SharedIdentity::new(&pumasi_trust::Svid::from_pem(pem.as_bytes()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_leaf_that_lives_longer_than_a_day_is_refused_on_both_sides() {
    let (a, b) = (party("city-a"), party("city-b"));
    let trust = pact_of(&a, &b);
    let hours = |n: u64| std::time::Duration::from_secs(n * 3_600);
    let (day, long) = (forged(&a, hours(24)), forged(&a, hours(900 * 24)));
    let server = server_config(b.identity.clone(), trust.clone(), &[]).unwrap();
    let client = |identity| client_config(identity, trust.clone(), to("city-b"), &[]).unwrap();
    assert!(meet(server.clone(), client(day)).await.server.is_ok());
    let met = meet(server, client(long.clone())).await;
    assert!(matches!(met.server_reason, Some(PeerRefusal::LongLived { .. })), "{:?}", met.server);
    // As a server, too.
    let server = server_config(long, trust.clone(), &[]).unwrap();
    let met = meet(server, client_config(b.identity.clone(), trust, to("city-a"), &[]).unwrap()).await;
    assert!(matches!(met.client_reason, Some(PeerRefusal::LongLived { .. })), "{:?}", met.client);
}
