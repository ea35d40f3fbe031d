//! Keys, certificates, SPIFFE identities and bundles, mutual TLS, and signed documents.
//!
//! Enters: keys and certificates from this cloud's own directory, bundles and documents from peers, the wall clock as an
//! argument. Leaves: rustls configurations, principals of connections, verified documents.
//!
//! Always holds:
//! - Every cloud is a SPIFFE trust domain with its own roots. The trust domain that a certificate names selects the only
//!   roots that may have signed it; roots of different domains are never pooled.
//! - A proven identity is not yet a welcome one: an exact allow-list decides, and it is read at every handshake. TLS
//!   sessions are never resumed, since a resumed one would skip both checks.
//! - A document is verified over its bytes as stored, never over bytes made again.
//! - A value that exists is well formed; a private key is written only to files that nobody else can read.
//! - No sockets here: callers open them. The crypto provider is passed explicitly; no process-wide default is needed.

mod authority;
mod bundle;
mod files;
mod hpke;
mod identity;
mod jwk;
mod jws;
mod lease_key;
mod pair;
mod seal;
mod secret;
mod seldom;
mod service_key;
mod spiffe;
mod store;
mod svid;
mod tls;
mod vault;
mod x509;

pub use authority::{Authority, AuthorityError, CA_LIFETIME_MS, SVID_TTL_MS_MAX};
pub use bundle::{BUNDLE_BYTES_MAX, BUNDLE_KEYS_MAX, Bundle, BundleError, fingerprint};
pub use files::FileError;
pub use hpke::{HpkeError, Sealed};
pub use identity::{IdentityError, SharedIdentity};
pub use jwk::{DocumentKey, KeyError, PublicKey};
pub use jws::{DOCUMENT_BYTES_MAX, SIGNATURES_MAX, SignError, SignedDocument, Verified, VerifyError};
pub use pair::{FilesFault, PairError, check_certificate, check_files, check_pair};
pub use seal::{SealError, Sealer, constant_time_eq, random_bytes};
pub use secret::Secret;
pub use service_key::{POSITION_KEY_READ_MS, POSITION_KEYS_MAX, PositionKey};
pub use spiffe::{BadSpiffeId, Role, SpiffeId};
pub use store::{PeerRefusal, Purpose, SharedTrust, TrustStore};
pub use svid::{Svid, SvidError};
pub use tls::{
    ExpectPeer, TlsError, client_config, client_config_anonymous, client_config_pinned, provider, refusal,
    server_config, server_config_open, server_config_public,
};
pub use vault::{Label, VALUE_BYTES_MAX, Vault, VaultError};
pub use x509::{peer_identity, peer_leaf};

/// BLAKE3 of some bytes.
pub fn digest(bytes: &[u8]) -> pumasi_terms::Digest {
    pumasi_terms::Digest(*blake3::hash(bytes).as_bytes())
}
