//! Secrets of customers on disk: each value sealed by a key of this cloud, in a file of its own, outside the store and its backups.
//!
//! Enters: values, by customer and name. Leaves: the same values, to whoever starts an instance; names and versions to everybody else.
//! Always holds: a file opens only as the secret that it was written for, so that none can be put in another's place; no value is logged.

use crate::files::{create, make_private_dir, read_private, replace};
use crate::{FileError, HpkeError, SealError, Sealer, Secret, random_bytes};
use pumasi_terms::{CustomerName, SecretName, WallMs};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub const VALUE_BYTES_MAX: usize = 32 << 10;
const PER_CUSTOMER_MAX: usize = 1_000;
const FORMAT: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{}: {problem}", path.display())]
    Broken { path: PathBuf, problem: String },
    #[error("listing {}: {source}", path.display())]
    List { path: PathBuf, source: std::io::Error },
    #[error("removing {}: {source}", path.display())]
    Remove { path: PathBuf, source: std::io::Error },
    #[error("a secret has 1 to {VALUE_BYTES_MAX} bytes of UTF-8 text without NUL")]
    BadValue,
    #[error("customer {0} has {PER_CUSTOMER_MAX} secrets already")]
    TooMany(CustomerName),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Hpke(#[from] HpkeError),
}

/// What may be told of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub name: SecretName,
    /// Rises with each new value.
    pub version: u64,
    pub set_at: WallMs,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    version: u64,
    set_at: WallMs,
    /// Hex of the sealed value.
    sealed: String,
}

#[derive(Debug)]
pub struct Vault {
    pub(crate) dir: PathBuf,
    pub(crate) sealer: Sealer,
    changes: AtomicU64,
}

impl Vault {
    /// `dir` belongs to the vault alone.
    pub fn open(dir: &Path) -> Result<Self, VaultError> {
        make_private_dir(dir)?;
        let path = dir.join("vault.key");
        if read_private(&path)?.is_none() {
            create(&path, &random_bytes::<32>()?, 0o600)?;
        }
        let key = read_private(&path)?.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let Some(key) = key else {
            return Err(VaultError::Broken { path, problem: "it does not hold a key of 32 bytes".into() });
        };
        Ok(Self { dir: dir.to_owned(), sealer: Sealer::new(&key)?, changes: AtomicU64::new(0) })
    }

    /// Rises with each change that was made through this value: what was read at the same number is as it was.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    fn of(&self, customer: &CustomerName) -> PathBuf {
        self.dir.join("of").join(customer.as_str())
    }

    fn path(&self, customer: &CustomerName, name: &SecretName) -> PathBuf {
        self.of(customer).join(name.as_str())
    }

    fn purpose(customer: &CustomerName, name: &SecretName, version: u64) -> Vec<u8> {
        format!("pumasi-secret-v1/{customer}/{name}/{version}").into_bytes()
    }

    fn kept(&self, customer: &CustomerName, name: &SecretName) -> Result<Option<Kept>, VaultError> {
        let path = self.path(customer, name);
        let Some(bytes) = read_private(&path)? else { return Ok(None) };
        let kept: Kept = serde_json::from_slice(&bytes)
            .map_err(|e| VaultError::Broken { path: path.clone(), problem: e.to_string() })?;
        if kept.format != FORMAT {
            let problem = format!("format {} is not known to this version", kept.format);
            return Err(VaultError::Broken { path, problem });
        }
        Ok(Some(kept))
    }

    /// Sets a value; the version that it became.
    pub fn set(
        &self,
        customer: &CustomerName,
        name: &SecretName,
        value: &Secret<String>,
        now: WallMs,
    ) -> Result<Label, VaultError> {
        let text = value.expose();
        if text.is_empty() || text.len() > VALUE_BYTES_MAX || text.contains('\0') {
            return Err(VaultError::BadValue);
        }
        let old = self.kept(customer, name)?;
        if old.is_none() && self.list(customer)?.len() >= PER_CUSTOMER_MAX {
            return Err(VaultError::TooMany(customer.clone()));
        }
        let version = old.map_or(1, |o| o.version.saturating_add(1));
        let sealed = self.sealer.seal(&Self::purpose(customer, name, version), text.as_bytes())?;
        let kept = Kept { format: FORMAT, version, set_at: now, sealed: hex::encode(sealed) };
        let path = self.path(customer, name);
        let bytes =
            serde_json::to_vec(&kept).map_err(|e| VaultError::Broken { path: path.clone(), problem: e.to_string() })?;
        make_private_dir(&self.of(customer))?;
        replace(&path, &bytes, 0o600)?;
        self.changed();
        Ok(Label { name: name.clone(), version, set_at: now })
    }

    pub fn get(&self, customer: &CustomerName, name: &SecretName) -> Result<Option<Secret<String>>, VaultError> {
        let Some(kept) = self.kept(customer, name)? else { return Ok(None) };
        let path = self.path(customer, name);
        let broken = |problem: String| VaultError::Broken { path: path.clone(), problem };
        let sealed = hex::decode(&kept.sealed).map_err(|e| broken(e.to_string()))?;
        let bytes = self.sealer.open(&Self::purpose(customer, name, kept.version), &sealed)?;
        String::from_utf8(bytes).map(|text| Some(Secret::new(text))).map_err(|_| broken("it is not text".into()))
    }

    /// In order of name. Temporary files of a write that was cut off are none.
    pub fn list(&self, customer: &CustomerName) -> Result<Vec<Label>, VaultError> {
        let dir = self.of(customer);
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(VaultError::List { path: dir, source }),
        };
        let mut labels = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| VaultError::List { path: dir.clone(), source })?;
            let name = entry.file_name().to_str().and_then(|n| SecretName::parse(n).ok());
            let Some(name) = name else { continue };
            if let Some(kept) = self.kept(customer, &name)? {
                labels.push(Label { name, version: kept.version, set_at: kept.set_at });
            }
        }
        labels.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(labels)
    }

    /// Sets aside what a customer of this name had: nobody gets it by the name, and an operator who restored a store has it still.
    pub fn set_aside(&self, customer: &CustomerName, now: WallMs) -> Result<(), VaultError> {
        let path = self.of(customer);
        let aside = self.dir.join("aside");
        make_private_dir(&aside)?;
        match std::fs::rename(&path, aside.join(format!("{customer}-{}", now.0))) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(VaultError::Remove { path, source }),
            _ => {
                self.changed();
                Ok(())
            }
        }
    }

    /// False where there was none.
    pub fn delete(&self, customer: &CustomerName, name: &SecretName) -> Result<bool, VaultError> {
        let path = self.path(customer, name);
        match std::fs::remove_file(&path) {
            Ok(()) => {
                self.changed();
                Ok(true)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(VaultError::Remove { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(name: &str) -> CustomerName {
        name.parse().unwrap()
    }

    fn name(name: &str) -> SecretName {
        name.parse().unwrap()
    }

    #[test]
    fn values_come_back_with_rising_versions_and_are_nowhere_in_clear() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(dir.path()).unwrap();
        let (acme, stripe) = (customer("acme"), name("stripe"));
        assert!(vault.get(&acme, &stripe).unwrap().is_none());
        for (version, value) in [(1, "sk_live_first"), (2, "sk_live_second")] {
            let label = vault.set(&acme, &stripe, &Secret::new(value.into()), WallMs(5)).unwrap();
            assert_eq!(label.version, version);
            let reopened = Vault::open(dir.path()).unwrap();
            assert_eq!(reopened.get(&acme, &stripe).unwrap().unwrap().expose(), value);
            let bytes = std::fs::read(vault.path(&acme, &stripe)).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains("sk_live"));
            assert!(!String::from_utf8_lossy(&bytes).contains(&hex::encode(value)));
        }
        assert!(vault.get(&customer("evil"), &stripe).unwrap().is_none());
        assert_eq!(vault.list(&acme).unwrap(), [Label { name: stripe.clone(), version: 2, set_at: WallMs(5) }]);
        assert!(vault.delete(&acme, &stripe).unwrap() && !vault.delete(&acme, &stripe).unwrap());
        assert!(vault.list(&acme).unwrap().is_empty());
    }

    #[test]
    fn a_file_in_anothers_place_does_not_open() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(dir.path()).unwrap();
        let (acme, evil, stripe, mail) = (customer("acme"), customer("evil"), name("stripe"), name("mail"));
        vault.set(&acme, &stripe, &Secret::new("one".into()), WallMs(1)).unwrap();
        let old = std::fs::read(vault.path(&acme, &stripe)).unwrap();
        vault.set(&evil, &stripe, &Secret::new("two".into()), WallMs(1)).unwrap();
        vault.set(&acme, &mail, &Secret::new("three".into()), WallMs(1)).unwrap();
        for place in [vault.path(&evil, &stripe), vault.path(&acme, &mail)] {
            std::fs::write(&place, &old).unwrap();
        }
        assert!(vault.get(&evil, &stripe).is_err() && vault.get(&acme, &mail).is_err());
        // Nor does an older value with the number of a newer one.
        vault.set(&acme, &stripe, &Secret::new("new".into()), WallMs(1)).unwrap();
        let forged = String::from_utf8(old).unwrap().replace("\"version\":1", "\"version\":2");
        std::fs::write(vault.path(&acme, &stripe), forged).unwrap();
        assert!(vault.get(&acme, &stripe).is_err());
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(dir.path()).unwrap();
        for bad in [String::new(), "a\0b".into(), "x".repeat(VALUE_BYTES_MAX + 1)] {
            assert!(vault.set(&customer("acme"), &name("a"), &Secret::new(bad), WallMs(1)).is_err());
        }
    }
}
