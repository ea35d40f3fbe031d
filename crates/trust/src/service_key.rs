//! Keys of services: what the positions that users carry are signed with, whichever cloud owns the service.
//!
//! Enters: services and the epochs at which this cloud owns them, keys of their owners before. Leaves: keys, the newest first.
//! Always holds: they lie on disk sealed by the vault's key; each ownership signs with a key of its own, and what those before it signed
//! is read for a day after that; never more than a few are kept.

use crate::files::{make_private_dir, read_private, replace};
use crate::{Vault, VaultError, random_bytes};
use pumasi_terms::{Epoch, ServiceId, WallMs};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;
/// Of one service so many are kept.
pub const POSITION_KEYS_MAX: usize = 4;
/// So long after its end what a key has signed is read. A position is of use while some copy is behind it: seconds.
pub const POSITION_KEY_READ_MS: u64 = 24 * 3_600_000;
const KEY_BYTES: usize = 32;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionKey {
    /// The ownership under which it was made, which is its version.
    pub epoch: Epoch,
    /// In hexadecimal digits.
    pub key: String,
    /// What it signed is read until then; None: it signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<WallMs>,
}

impl std::fmt::Debug for PositionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PositionKey({}, [secret])", self.epoch)
    }
}

impl PositionKey {
    fn new(epoch: Epoch) -> Result<Self, VaultError> {
        Ok(Self { epoch, key: hex::encode(random_bytes::<KEY_BYTES>()?), until: None })
    }

    pub fn is_well_formed(&self) -> bool {
        self.key.len() == 2 * KEY_BYTES && hex::decode(&self.key).is_ok()
    }
}

/// The keys of a new ownership.
fn renewed(before: Vec<PositionKey>, fresh: PositionKey, now: WallMs) -> Vec<PositionKey> {
    let ended =
        before.into_iter().map(|k| PositionKey { until: k.until.or(Some(now.after(POSITION_KEY_READ_MS))), ..k });
    let read = ended.filter(|k| k.until.is_some_and(|until| now < until));
    std::iter::once(fresh).chain(read).take(POSITION_KEYS_MAX).collect()
}

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    /// Hex of the keys as JSON, sealed.
    sealed: String,
}

fn purpose(service: &ServiceId) -> Vec<u8> {
    format!("pumasi-position-keys-v1/{service}").into_bytes()
}

fn broken(path: &Path, problem: impl ToString) -> VaultError {
    VaultError::Broken { path: path.to_owned(), problem: problem.to_string() }
}

impl Vault {
    fn service_path(&self, service: &ServiceId) -> PathBuf {
        self.dir.join("services").join(service.as_str())
    }

    /// As they are kept; none is made.
    pub fn kept_position_keys(&self, service: &ServiceId) -> Result<Vec<PositionKey>, VaultError> {
        let path = self.service_path(service);
        let Some(bytes) = read_private(&path)? else { return Ok(Vec::new()) };
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|e| broken(&path, e))?;
        if kept.format != FORMAT {
            return Err(broken(&path, format!("format {} is not known to this version", kept.format)));
        }
        let sealed = hex::decode(&kept.sealed).map_err(|e| broken(&path, e))?;
        let opened = self.sealer.open(&purpose(service), &sealed)?;
        serde_json::from_slice(&opened).map_err(|_| broken(&path, "it does not hold keys"))
    }

    /// Those of a service that this cloud owns at this epoch; the first signs, and is made when it is asked for the first time. One
    /// caller at a time: two would make two.
    pub fn position_keys(
        &self,
        service: &ServiceId,
        epoch: Epoch,
        now: WallMs,
    ) -> Result<Vec<PositionKey>, VaultError> {
        let kept = self.kept_position_keys(service)?;
        if kept.first().is_some_and(|k| k.epoch >= epoch) {
            return Ok(kept);
        }
        let keys = renewed(kept, PositionKey::new(epoch)?, now);
        self.keep_position_keys(service, &keys)?;
        Ok(keys)
    }

    /// Keys as an owner has them, in place of what is known here.
    pub fn keep_position_keys(&self, service: &ServiceId, keys: &[PositionKey]) -> Result<(), VaultError> {
        let path = self.service_path(service);
        let text = serde_json::to_vec(&keys).map_err(|e| broken(&path, e))?;
        let sealed = hex::encode(self.sealer.seal(&purpose(service), &text)?);
        let bytes = serde_json::to_vec(&Kept { format: FORMAT, sealed }).map_err(|e| broken(&path, e))?;
        make_private_dir(&self.dir.join("services"))?;
        replace(&path, &bytes, 0o600)?;
        self.changed();
        Ok(())
    }

    /// The service is no more.
    pub fn forget_service(&self, service: &ServiceId) -> Result<(), VaultError> {
        let path = self.service_path(service);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(VaultError::Remove { path, source: e }),
            _ => {
                self.changed();
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(keys: &[PositionKey]) -> Vec<u64> {
        keys.iter().map(|k| k.epoch.0).collect()
    }

    #[test]
    fn an_ownership_has_one_key_and_reads_those_before_it_for_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let (vault, service) = (Vault::open(dir.path()).unwrap(), ServiceId::from_entropy(1));
        let now = WallMs(1_000);
        let first = vault.position_keys(&service, Epoch(1), now).unwrap();
        assert!(first.len() == 1 && first[0].is_well_formed() && first[0].until.is_none());
        let again = Vault::open(dir.path()).unwrap();
        assert_eq!(again.position_keys(&service, Epoch(1), now.after(1)).unwrap(), first);
        assert_ne!(again.position_keys(&ServiceId::from_entropy(2), Epoch(1), now).unwrap(), first);
        let second = vault.position_keys(&service, Epoch(2), now).unwrap();
        assert_eq!(epochs(&second), [2, 1]);
        assert_eq!((&second[1].key, second[1].until), (&first[0].key, Some(now.after(POSITION_KEY_READ_MS))));
        // What has ended is not kept over the next one; and of many in a short time a few.
        assert_eq!(epochs(&vault.position_keys(&service, Epoch(3), now.after(POSITION_KEY_READ_MS)).unwrap()), [3, 2]);
        for epoch in 4..20 {
            vault.position_keys(&service, Epoch(epoch), now).unwrap();
        }
        assert_eq!(vault.position_keys(&service, Epoch(19), now).unwrap().len(), POSITION_KEYS_MAX);
        vault.forget_service(&service).unwrap();
        vault.forget_service(&service).unwrap();
        assert_eq!(epochs(&vault.position_keys(&service, Epoch(19), now).unwrap()), [19]);
    }

    #[test]
    fn keys_are_nowhere_in_clear_and_open_for_their_service_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (vault, one, other) =
            (Vault::open(dir.path()).unwrap(), ServiceId::from_entropy(1), ServiceId::from_entropy(2));
        let keys = vault.position_keys(&one, Epoch(1), WallMs(1)).unwrap();
        let file = std::fs::read(vault.service_path(&one)).unwrap();
        assert!(!String::from_utf8_lossy(&file).contains(&keys[0].key));
        assert!(!format!("{keys:?}").contains(&keys[0].key));
        std::fs::copy(vault.service_path(&one), vault.service_path(&other)).unwrap();
        assert!(vault.position_keys(&other, Epoch(1), WallMs(1)).is_err());
        let changes = vault.changes();
        vault.keep_position_keys(&other, &keys).unwrap();
        assert_eq!(vault.position_keys(&other, Epoch(1), WallMs(1)).unwrap(), keys);
        assert!(vault.changes() > changes);
    }
}
