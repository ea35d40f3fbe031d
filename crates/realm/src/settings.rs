//! What the daemon tells a sign-in process when it starts it, in the environment. Format version 1.

use pumasi_terms::identity::{Hashes, SignUp};
use pumasi_terms::{CloudName, Epoch, ServiceName};
use serde::{Deserialize, Serialize};

pub const SETTINGS_VERSION: u32 = 1;
/// The variable that holds the settings, as JSON.
pub const SETTINGS: &str = "PUMASI_REALM";
/// The directory of what goes along with the service: who its users are, and what they are signed in by.
pub const DATA: &str = "DATA_PUMASI_REALM";
/// The directory of what never leaves this cloud: password hashes that are withheld, private keys.
pub const OWN: &str = "DATA_PUMASI_OWN";
/// The database within [`DATA`].
pub use pumasi_terms::identity::DATABASE;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub version: u32,
    pub cloud: CloudName,
    pub service: ServiceName,
    /// Ownership under which it serves: only one cloud has it.
    pub epoch: Epoch,
    /// The service's hosts. Passkeys are bound to the first (the relying party's id, WebAuthn 5.1.2).
    pub hosts: Vec<String>,
    pub sign_up: SignUp,
    /// Whether users may have passwords beside passkeys.
    pub passwords: bool,
    pub hashes: Hashes,
    /// Whether users may make app passwords for clients that are no browsers.
    pub basic: bool,
    /// What the gateway proves itself by ([`crate::gate::KEY`]), 32 bytes in hex.
    pub gate_key: String,
    /// What the daemon proves itself by ([`crate::admin::KEY`]), 32 bytes in hex.
    pub admin_key: String,
}
