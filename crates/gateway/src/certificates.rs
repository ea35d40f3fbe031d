//! Certificates that are read again: when their files change, at SIGHUP, and when the daemon says so.
//!
//! Those of listeners alone: what services have of their own is in `keys`.
//! Always holds: what was in force stays so until what replaces it reads whole.

use crate::config::Listener;
use crate::gateway::Gateway;
use crate::listen::{self, Speaks};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

const LOOK: Duration = Duration::from_secs(2);

/// Public listeners with what they speak.
pub type Reloadable = Vec<(Listener, Speaks)>;

/// What came of reading certificates again, a line each for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// By whose files another certificate is shown from now on. A gateway of before does not say.
    #[serde(default)]
    pub changed: Vec<String>,
    /// By whose files it is the one from before.
    #[serde(default)]
    pub same: Vec<String>,
}

/// Reads all of them again: this gateway's SVID, and the certificates of public listeners.
pub fn reload(gateway: &Gateway, public: &Reloadable) -> Result<Reloaded, String> {
    gateway.peers.reload().map_err(|e| e.to_string())?;
    let mut read = Vec::new();
    for (listener, speaks) in public {
        if let (Some(files), Speaks::Tls { shown }) = (&listener.tls, speaks) {
            read.push((listener, files, shown, listen::public_tls(files, listener.http2, &gateway.keys)?));
        }
    }
    let mut told = Reloaded::default();
    for (listener, files, shown, new) in read {
        let mut shown = shown.write().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{} at {}", files.cert_path.display(), listener.address);
        if shown.own == new.own {
            told.same.push(line)
        } else {
            told.changed.push(line)
        }
        *shown = new;
    }
    Ok(told)
}

type Stamp = Option<(SystemTime, u64)>;

fn stamp(path: &Path) -> Stamp {
    let file = std::fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len()))
}

fn stamps(public: &Reloadable) -> Vec<Stamp> {
    let files = public.iter().filter_map(|(listener, _)| listener.tls.as_ref());
    files.flat_map(|tls| [stamp(&tls.cert_path), stamp(&tls.key_path)]).collect()
}

/// Looks at the files of public listeners for ever.
pub async fn watch(gateway: Arc<Gateway>, public: Arc<Reloadable>) {
    let mut in_force = stamps(&public);
    if in_force.is_empty() {
        return;
    }
    let mut refused = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = stamps(&public);
        if now == in_force || refused.as_ref() == Some(&now) {
            continue;
        }
        match reload(&gateway, &public) {
            Ok(_) => {
                tracing::info!("certificates have changed and were read again");
                (in_force, refused) = (now, None);
            }
            Err(problem) => {
                // Key and certificate are seldom exchanged at one moment.
                tracing::warn!(problem, "certificates have changed and are of no use; those from before stay in force");
                refused = Some(now);
            }
        }
    }
}
