//! What all requests share.

use crate::clock::{self, DAY_MS};
use crate::db::{Db, DbError, Tx, View, invitations, passwords, sessions};
use crate::ended::Ring;
use crate::password::HashGate;
use crate::start::Start;
use crate::throttle::Throttle;
use crate::web::PAGES_MAX;
use crate::webauthn::Challenges;
use pumasi_realm::{Login, Settings};
use pumasi_terms::identity::Hashes;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// Tries without a wait: for one login, and from one address, behind which many may be.
const FREE_OF_LOGIN: u32 = 5;
const FREE_OF_ADDRESS: u32 = 30;
const FREE_SIGN_UPS: u32 = 10;
/// Rows that are looked at in one go.
const AT_A_TIME: u32 = 1_000;
/// Longer than any standby is behind.
const TOMBSTONE_MS: u64 = 400 * DAY_MS;

#[derive(Debug)]
pub struct Realm {
    pub settings: Settings,
    pub db: Db,
    pub ring: Arc<Ring>,
    pub hashes: HashGate,
    pub challenges: Challenges,
    /// Places for pages.
    pub pages: Semaphore,
    /// Whether a password can be set and checked at this cloud.
    pub passwords: bool,
    /// Whether somebody has a password whose hash stayed at another cloud.
    passwords_elsewhere: AtomicBool,
    throttles: Mutex<Throttles>,
}

#[derive(Debug)]
pub struct Throttles {
    pub login: Throttle<Login>,
    pub address: Throttle<IpAddr>,
    pub sign_up: Throttle<IpAddr>,
}

impl Realm {
    pub fn open(start: Start) -> Result<Self, String> {
        let Start { settings, data, own, .. } = start;
        let ring = Arc::new(Ring::new(clock::now_ms()));
        let hashes = settings.hashes;
        let settle = move |tx: &mut Tx<'_>| {
            passwords::settle(tx, hashes)?;
            sweep(tx).map(|_| ())
        };
        let db = Db::open(&data, own.as_deref(), settings.epoch.0, ring.clone(), settle)?;
        // The first of them say it at once where the realm has just come to another cloud; the others are looked at later.
        let first = |view: &View| passwords::elsewhere(view, "", AT_A_TIME);
        let (elsewhere, _) = db.read(first).map_err(|e| format!("reading the realm: {e}"))?;
        let throttles = Throttles {
            login: Throttle::new(FREE_OF_LOGIN),
            address: Throttle::new(FREE_OF_ADDRESS),
            sign_up: Throttle::new(FREE_SIGN_UPS),
        };
        Ok(Self {
            passwords: settings.passwords && (hashes == Hashes::Hot || own.is_some()),
            passwords_elsewhere: AtomicBool::new(settings.passwords && elsewhere),
            challenges: Challenges::new(settings.hosts.first().map(String::as_str).unwrap_or_default()),
            settings,
            db,
            ring,
            hashes: HashGate::new()?,
            pages: Semaphore::new(PAGES_MAX),
            throttles: Mutex::new(throttles),
        })
    }

    pub fn throttles(&self) -> MutexGuard<'_, Throttles> {
        self.throttles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_gate(&self, key: &[u8]) -> bool {
        crate::secret::same(key, self.settings.gate_key.as_bytes())
    }

    pub fn is_admin(&self, key: &[u8]) -> bool {
        crate::secret::same(key, self.settings.admin_key.as_bytes())
    }

    pub fn passwords_elsewhere(&self) -> bool {
        self.passwords_elsewhere.load(Ordering::Relaxed)
    }

    /// After the start: which hashes belong to nobody, and which are not here.
    pub async fn look_over_passwords(&self) -> Result<(), DbError> {
        let mut next = Some(String::new());
        while let Some(after) = next {
            next = self.db.write(move |tx| passwords::tidy(tx, &after, AT_A_TIME)).await?;
        }
        let mut next = Some(String::new()).filter(|_| self.settings.passwords);
        while let Some(after) = next {
            let (elsewhere, then) = self.db.read(|view| passwords::elsewhere(view, &after, AT_A_TIME))?;
            if elsewhere {
                self.passwords_elsewhere.store(true, Ordering::Relaxed);
            }
            next = then;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Erases some of what time has ended.
    pub async fn sweep(&self) {
        loop {
            match self.db.write(sweep).await {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => return,
                Err(e) => return tracing::warn!("erasing what has ended: {e}"),
            }
        }
    }
}

fn sweep(tx: &mut Tx<'_>) -> Result<bool, DbError> {
    invitations::sweep(tx)?;
    tx.realm.execute("DELETE FROM tombstone WHERE at_ms <= ?1", [tx.at_ms.saturating_sub(TOMBSTONE_MS)])?;
    sessions::sweep(tx)
}
