//! A cloud's own certificate authority.
//!
//! Everything it must not lose is one file, `authority.json` (version 1, mode 0600), replaced atomically, so that a crash
//! never parts a root from its key. `ca.pem` beside it is a copy of the public roots for people.
//!
//! A root changes in three steps, since peers must hold the new one before a leaf of it reaches them:
//! `prepare` publishes it in the bundle, `rotate` signs with it, `prune` forgets the old one once its leaves have expired.

use crate::bundle::{self, Bundle, BundleError};
use crate::files::{self, FileError};
use crate::x509::{self, pem_block};
use crate::{Secret, SpiffeId, Svid, SvidError};
use pumasi_terms::{CloudName, Digest, WallMs};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const SVID_TTL_MS_MAX: u64 = 24 * 3_600_000;
const SVID_TTL_MS_MIN: u64 = 1_000;
pub const CA_LIFETIME_MS: u64 = 3 * 365 * 24 * 3_600_000;
/// Clocks of peers may be behind ours by this much.
const BACKDATE_MS: i64 = 60_000;
const NAMES_MAX: usize = 16;
/// How often peers are asked to fetch the bundle.
const REFRESH_HINT_S: u64 = 300;
const VERSION: u32 = 1;
const STATE_FILE: &str = "authority.json";
const PUBLIC_FILE: &str = "ca.pem";

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("there is no authority in {}", .0.display())]
    Missing(PathBuf),
    #[error("there is an authority in {} already; it is not overwritten", .0.display())]
    Exists(PathBuf),
    #[error("the authority in {} does not read: {problem}; restore it from a backup, or remove it and join anew", path.display())]
    Corrupt { path: PathBuf, problem: String },
    #[error("the authority in {} is of version {found}, this program writes {VERSION}: use a newer program", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("the authority is that of {found}, but this cloud is {expected}")]
    WrongCloud { expected: CloudName, found: CloudName },
    #[error("{id} is not in the trust domain {domain}, or names no member of it")]
    ForeignId { id: SpiffeId, domain: CloudName },
    #[error("an SVID lives {SVID_TTL_MS_MIN} to {SVID_TTL_MS_MAX} ms, not {0}")]
    BadTtl(u64),
    #[error("an SVID carries at most {NAMES_MAX} names, and {0:?} is no DNS name or IP address, or one too many")]
    BadName(String),
    #[error("the root of {0} has expired: rotate it")]
    Expired(CloudName),
    #[error("there are too many roots at once: wait until the leaves of the old ones have expired")]
    TooManyRoots,
    #[error("no new root was prepared: prepare one, and let the peers fetch the bundle before rotating")]
    NothingPrepared,
    #[error("the clock says {0}, which no certificate can")]
    BadClock(WallMs),
    #[error("making a certificate failed; this is a fault of this machine: {0}")]
    Crypto(#[from] rcgen::Error),
    #[error(transparent)]
    Svid(#[from] SvidError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Key(#[from] crate::KeyError),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredState {
    version: u32,
    cloud: CloudName,
    sequence: u64,
    roots: Vec<StoredRoot>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRoot {
    state: RootState,
    certificate: String,
    /// A retired root has none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retired_at: Option<WallMs>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RootState {
    Next,
    Active,
    Retired,
}

#[derive(Clone)]
struct Root {
    state: RootState,
    certificate: CertificateDer<'static>,
    key: Option<Secret<Vec<u8>>>,
    not_after: WallMs,
    retired_at: Option<WallMs>,
}

/// There is always exactly one active root, and at most one prepared.
pub struct Authority {
    cloud: CloudName,
    dir: PathBuf,
    sequence: u64,
    roots: Vec<Root>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let roots = self.roots.iter().map(|r| (r.state, r.not_after)).collect::<Vec<_>>();
        f.debug_struct("Authority").field("cloud", &self.cloud).field("roots", &roots).finish()
    }
}

impl Authority {
    /// Makes the authority of a cloud and keeps it in `dir`; refuses where there is one.
    pub fn create(dir: &Path, cloud: &CloudName, now: WallMs) -> Result<Self, AuthorityError> {
        files::make_private_dir(dir)?;
        let authority = Self {
            cloud: cloud.clone(),
            dir: dir.to_owned(),
            sequence: 1,
            roots: vec![new_root(cloud, RootState::Active, now)?],
        };
        let text = state_text(&authority.cloud, authority.sequence, &authority.roots)?;
        if !files::create(&dir.join(STATE_FILE), text.as_bytes(), 0o600)? {
            return Err(AuthorityError::Exists(dir.to_owned()));
        }
        authority.publish()?;
        Ok(authority)
    }

    pub fn load(dir: &Path) -> Result<Self, AuthorityError> {
        let path = dir.join(STATE_FILE);
        let bytes = files::read_private(&path)?.ok_or_else(|| AuthorityError::Missing(dir.to_owned()))?;
        let (cloud, sequence, roots) = read_state(&path, &bytes)?;
        let authority = Self { cloud, dir: dir.to_owned(), sequence, roots };
        // A crash may have come between the two files.
        if std::fs::read_to_string(dir.join(PUBLIC_FILE)).ok().as_deref() != Some(&authority.roots_pem()) {
            authority.publish()?;
        }
        Ok(authority)
    }

    pub fn load_or_create(dir: &Path, cloud: &CloudName, now: WallMs) -> Result<Self, AuthorityError> {
        let found = match Self::load(dir) {
            Err(AuthorityError::Missing(_)) => Self::create(dir, cloud, now)?,
            other => other?,
        };
        if &found.cloud != cloud {
            return Err(AuthorityError::WrongCloud { expected: cloud.clone(), found: found.cloud });
        }
        Ok(found)
    }

    pub fn cloud(&self) -> &CloudName {
        &self.cloud
    }

    /// What peers need to verify this cloud's leaves. Its sequence rises with every change.
    pub fn bundle(&self) -> Result<Bundle, AuthorityError> {
        let roots = self.roots.iter().map(|r| r.certificate.clone()).collect();
        Ok(Bundle::new(roots, self.sequence, REFRESH_HINT_S)?)
    }

    /// Fingerprint of the root that signs now: what an invitation pins. It ends with the next rotation.
    pub fn fingerprint(&self) -> Result<Digest, AuthorityError> {
        Ok(bundle::fingerprint(&self.active()?.certificate))
    }

    /// When the active root ends; prepare the next well before (see `rotation_due`).
    pub fn not_after(&self) -> Result<WallMs, AuthorityError> {
        Ok(self.active()?.not_after)
    }

    /// The last third of the active root's life has begun.
    pub fn rotation_due(&self, now: WallMs) -> bool {
        self.active().map(|r| r.not_after.since(now) < CA_LIFETIME_MS / 3).unwrap_or(true)
    }

    /// A fresh key and a leaf for it, in this trust domain only. `names` are DNS names or IP addresses for clients that
    /// know no SPIFFE; peers ignore them.
    pub fn issue(&self, id: &SpiffeId, ttl_ms: u64, now: WallMs, names: &[String]) -> Result<Svid, AuthorityError> {
        if id.trust_domain() != &self.cloud || id.path().is_empty() {
            return Err(AuthorityError::ForeignId { id: id.clone(), domain: self.cloud.clone() });
        }
        if !(SVID_TTL_MS_MIN..=SVID_TTL_MS_MAX).contains(&ttl_ms) {
            return Err(AuthorityError::BadTtl(ttl_ms));
        }
        if names.len() > NAMES_MAX {
            return Err(AuthorityError::BadName(names[NAMES_MAX].clone()));
        }
        let root = self.active()?;
        let Some(root_key) = &root.key else { return Err(AuthorityError::NothingPrepared) };
        // A leaf never outlives the root that vouches for it.
        let not_after = now.after(ttl_ms).min(root.not_after);
        if not_after <= now {
            return Err(AuthorityError::Expired(self.cloud.clone()));
        }
        let mut params = params(now, not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name = name(&format!("{}{}", self.cloud, id.path()));
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) if pumasi_terms::service::is_host(name) => SanType::DnsName(name.clone().try_into()?),
                Err(_) => return Err(AuthorityError::BadName(name.clone())),
            });
        }
        let root_key = key_pair(root_key.expose())?;
        let issuer = Issuer::from_ca_cert_der(&root.certificate, root_key)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let leaf = params.signed_by(&key, &issuer)?;
        let chain = vec![leaf.der().clone(), root.certificate.clone()];
        Ok(Svid::new(chain, PrivatePkcs8KeyDer::from(key.serialize_der()))?)
    }

    /// The active root's own signature over something that is no certificate, hex: what the document key alone may not do.
    /// Peers ask `Bundle::vouched`.
    pub fn vouch(&self, purpose: &str, bytes: &[u8]) -> Result<String, AuthorityError> {
        let Some(key) = &self.active()?.key else { return Err(AuthorityError::NothingPrepared) };
        Ok(hex::encode(crate::jwk::sign_once(key.expose(), &bundle::vouched_bytes(purpose, bytes))?))
    }

    /// Makes the next root and puts it into the bundle; leaves are still signed by the active one. Once is enough.
    pub fn prepare(&mut self, now: WallMs) -> Result<(), AuthorityError> {
        if self.roots.iter().any(|r| r.state == RootState::Next) {
            return Ok(());
        }
        if self.roots.len() >= bundle::BUNDLE_KEYS_MAX {
            return Err(AuthorityError::TooManyRoots);
        }
        let mut roots = self.roots.clone();
        roots.push(new_root(&self.cloud, RootState::Next, now)?);
        self.commit(roots)
    }

    /// Signs with the prepared root from now on. The old one stays in the bundle, without its key, until `prune`.
    pub fn rotate(&mut self, now: WallMs) -> Result<(), AuthorityError> {
        if !self.roots.iter().any(|r| r.state == RootState::Next) {
            return Err(AuthorityError::NothingPrepared);
        }
        let mut roots = self.roots.clone();
        for root in &mut roots {
            match root.state {
                RootState::Next => root.state = RootState::Active,
                RootState::Active => {
                    root.state = RootState::Retired;
                    root.key = None;
                    root.retired_at = Some(now);
                }
                RootState::Retired => {}
            }
        }
        self.commit(roots)
    }

    /// Drops retired roots whose last leaf has expired; true if the bundle changed.
    pub fn prune(&mut self, now: WallMs) -> Result<bool, AuthorityError> {
        let over = |root: &Root| {
            root.retired_at.is_some_and(|at| now.since(at) > SVID_TTL_MS_MAX + BACKDATE_MS.unsigned_abs())
        };
        let roots: Vec<Root> = self.roots.iter().filter(|r| !over(r)).cloned().collect();
        if roots.len() == self.roots.len() {
            return Ok(false);
        }
        self.commit(roots).map(|()| true)
    }

    fn active(&self) -> Result<&Root, AuthorityError> {
        self.roots.iter().find(|r| r.state == RootState::Active).ok_or(AuthorityError::NothingPrepared)
    }

    /// The file first: what was not written did not happen.
    fn commit(&mut self, roots: Vec<Root>) -> Result<(), AuthorityError> {
        let sequence = self.sequence.saturating_add(1);
        let text = state_text(&self.cloud, sequence, &roots)?;
        files::replace(&self.dir.join(STATE_FILE), text.as_bytes(), 0o600)?;
        self.sequence = sequence;
        self.roots = roots;
        self.publish()
    }

    fn roots_pem(&self) -> String {
        self.roots.iter().map(|r| pem_block("CERTIFICATE", &r.certificate)).collect()
    }

    fn publish(&self) -> Result<(), AuthorityError> {
        Ok(files::replace(&self.dir.join(PUBLIC_FILE), self.roots_pem().as_bytes(), 0o644)?)
    }
}

fn key_pair(pkcs8: &[u8]) -> Result<KeyPair, rcgen::Error> {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ECDSA_P256_SHA256)
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Pumasi");
    // RFC 5280 gives a common name 64 characters.
    name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    name
}

/// Certificates count whole seconds, and no further than the year 9999.
fn params(now: WallMs, not_after: WallMs) -> Result<CertificateParams, AuthorityError> {
    let at = |ms: i64| match u64::try_from(ms.div_euclid(1000)) {
        Ok(s) if s < 253_402_300_800 => Ok(rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(s)),
        _ => Err(AuthorityError::BadClock(WallMs(ms))),
    };
    let mut params = CertificateParams::default();
    params.not_before = at(now.0.saturating_sub(BACKDATE_MS))?;
    params.not_after = at(not_after.0)?;
    Ok(params)
}

fn new_root(cloud: &CloudName, state: RootState, now: WallMs) -> Result<Root, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = params(now, now.after(CA_LIFETIME_MS))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Roots of one cloud have distinct names, so that a leaf's issuer is never ambiguous.
    let mark = crate::fingerprint(&CertificateDer::from(key.public_key_raw()));
    let mark = mark.0.iter().take(4).map(|b| format!("{b:02x}")).collect::<String>();
    let short = cloud.as_str().chars().take(48).collect::<String>();
    params.distinguished_name = name(&format!("{short} CA {mark}"));
    params.subject_alt_names = vec![SanType::URI(SpiffeId::of_domain(cloud).to_string().try_into()?)];
    let certificate = params.self_signed(&key)?.der().clone();
    let key = Some(Secret::new(key.serialize_der()));
    root(state, certificate, key, None).map_err(|problem| BundleError::BadKey { index: 0, problem }.into())
}

fn root(
    state: RootState,
    certificate: CertificateDer<'static>,
    key: Option<Secret<Vec<u8>>>,
    retired_at: Option<WallMs>,
) -> Result<Root, &'static str> {
    let not_after = x509::parse_root(&certificate)?.not_after;
    Ok(Root { state, certificate, key, not_after, retired_at })
}

fn state_text(cloud: &CloudName, sequence: u64, roots: &[Root]) -> Result<String, AuthorityError> {
    let stored = StoredState {
        version: VERSION,
        cloud: cloud.clone(),
        sequence,
        roots: roots
            .iter()
            .map(|r| StoredRoot {
                state: r.state,
                certificate: pem_block("CERTIFICATE", &r.certificate),
                key: r.key.as_ref().map(|k| pem_block("PRIVATE KEY", k.expose())),
                retired_at: r.retired_at,
            })
            .collect(),
    };
    serde_json::to_string_pretty(&stored)
        .map_err(|e| AuthorityError::Corrupt { path: STATE_FILE.into(), problem: e.to_string() })
}

fn read_state(path: &Path, bytes: &[u8]) -> Result<(CloudName, u64, Vec<Root>), AuthorityError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let corrupt = |problem: String| AuthorityError::Corrupt { path: path.to_owned(), problem };
    let versioned: Versioned = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
    if versioned.version > VERSION {
        return Err(AuthorityError::Newer { path: path.to_owned(), found: versioned.version });
    }
    let stored: StoredState = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
    let mut roots = Vec::with_capacity(stored.roots.len());
    for r in &stored.roots {
        let certificate = CertificateDer::from_pem_slice(r.certificate.as_bytes())
            .map_err(|_| corrupt("a certificate is not PEM".to_owned()))?;
        let key = match &r.key {
            None => None,
            Some(pem) => {
                let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
                    .map_err(|_| corrupt("a key is not PEM".to_owned()))?;
                let pair = key_pair(key.secret_pkcs8_der()).map_err(|_| corrupt("a key is no P-256 key".to_owned()))?;
                let point = x509::parse_root(&certificate).map_err(|p| corrupt(format!("a root {p}")))?.point;
                if pair.public_key_raw() != point {
                    return Err(corrupt("a key does not belong to its certificate".to_owned()));
                }
                Some(Secret::new(key.secret_pkcs8_der().to_vec()))
            }
        };
        if key.is_none() != (r.state == RootState::Retired) || r.retired_at.is_some() != (r.state == RootState::Retired)
        {
            return Err(corrupt("a root's key does not suit its state".to_owned()));
        }
        let read = root(r.state, certificate, key, r.retired_at).map_err(|p| corrupt(format!("a root {p}")))?;
        roots.push(read);
    }
    let count = |state| roots.iter().filter(|r| r.state == state).count();
    if count(RootState::Active) != 1 || count(RootState::Next) > 1 || roots.len() > bundle::BUNDLE_KEYS_MAX {
        return Err(corrupt("there must be one active root and at most one prepared".to_owned()));
    }
    Ok((stored.cloud, stored.sequence, roots))
}
