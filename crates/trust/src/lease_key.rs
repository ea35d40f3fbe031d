//! Keys of lent leases: what a borrower seals to one opens here, as long as the lease lasts.
//!
//! Enters: leases. Leaves: public keys for their borrowers, and what was sealed to them.
//! Always holds: a private key lies on disk sealed by the vault's key, and is gone when its lease is emptied.

use crate::files::{create, make_private_dir, read_private};
use crate::hpke::{self, Sealed};
use crate::{HpkeError, Secret, Vault, VaultError};
use pumasi_terms::LeaseId;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    public: String,
    /// Hex of the private key, sealed.
    sealed: String,
}

fn purpose(lease: &LeaseId) -> Vec<u8> {
    format!("pumasi-lease-key-v1/{lease}").into_bytes()
}

fn broken(path: &Path, problem: impl ToString) -> VaultError {
    VaultError::Broken { path: path.to_owned(), problem: problem.to_string() }
}

impl Vault {
    fn lease_path(&self, lease: &LeaseId) -> PathBuf {
        self.dir.join("leases").join(lease.as_str())
    }

    fn lease_kept(&self, lease: &LeaseId) -> Result<Option<Kept>, VaultError> {
        let path = self.lease_path(lease);
        let Some(bytes) = read_private(&path)? else { return Ok(None) };
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|e| broken(&path, e))?;
        match kept.format {
            FORMAT => Ok(Some(kept)),
            other => Err(broken(&path, format!("format {other} is not known to this version"))),
        }
    }

    /// The public key of a lease, in hexadecimal digits; made when it is asked for the first time.
    pub fn lease_key(&self, lease: &LeaseId) -> Result<String, VaultError> {
        if let Some(kept) = self.lease_kept(lease)? {
            return Ok(kept.public);
        }
        let (public, private) = hpke::generate()?;
        let sealed = hex::encode(self.sealer.seal(&purpose(lease), private.expose())?);
        let path = self.lease_path(lease);
        let kept = Kept { format: FORMAT, public, sealed };
        let bytes = serde_json::to_vec(&kept).map_err(|e| broken(&path, e))?;
        make_private_dir(&self.dir.join("leases"))?;
        create(&path, &bytes, 0o600)?;
        // Two may have asked at once: the file that stands is the key.
        Ok(self.lease_kept(lease)?.map_or(kept.public, |k| k.public))
    }

    pub fn open_for_lease(
        &self,
        lease: &LeaseId,
        sealed: &Sealed,
        info: &[u8],
        aad: &[u8],
    ) -> Result<Secret<Vec<u8>>, VaultError> {
        let path = self.lease_path(lease);
        let Some(kept) = self.lease_kept(lease)? else { return Err(HpkeError::DoesNotOpen.into()) };
        let private = hex::decode(&kept.sealed).map_err(|e| broken(&path, e))?;
        let private = Secret::new(self.sealer.open(&purpose(lease), &private)?);
        Ok(sealed.open(&private, info, aad)?)
    }

    pub fn has_lease_key(&self, lease: &LeaseId) -> bool {
        self.lease_path(lease).symlink_metadata().is_ok()
    }

    /// What was sealed to it never opens again.
    pub fn forget_lease(&self, lease: &LeaseId) -> Result<(), VaultError> {
        let path = self.lease_path(lease);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(VaultError::Remove { path, source: e }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_to_a_lease_opens_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(dir.path()).unwrap();
        let (lease, other) = (LeaseId::from_entropy(1), LeaseId::from_entropy(2));
        let public = vault.lease_key(&lease).unwrap();
        let value = Secret::new(b"sk_live_4b7e".to_vec());
        let sealed = Sealed::to(&public, b"i", b"a", &value).unwrap();
        let again = Vault::open(dir.path()).unwrap();
        assert_eq!(again.lease_key(&lease).unwrap(), public);
        assert_eq!(again.open_for_lease(&lease, &sealed, b"i", b"a").unwrap(), value);
        assert!(again.open_for_lease(&other, &sealed, b"i", b"a").is_err());
        assert_ne!(vault.lease_key(&other).unwrap(), public);
        // A key in another's place is none.
        std::fs::copy(vault.lease_path(&lease), vault.lease_path(&other)).unwrap();
        assert!(vault.open_for_lease(&other, &sealed, b"i", b"a").is_err());
        vault.forget_lease(&lease).unwrap();
        vault.forget_lease(&lease).unwrap();
        assert!(!vault.has_lease_key(&lease) && vault.open_for_lease(&lease, &sealed, b"i", b"a").is_err());
    }
}
