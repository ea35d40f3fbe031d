//! HTTPS of a service's hosts, where the service brings its own certificate.

use crate::SecretName;
use serde::{Deserialize, Serialize};

/// Without it the gateway shows the certificate of its cloud's operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// A secret of the customer: the certificate with its chain, and its private key, as one PEM text. One value and not two, so that a
    /// renewed certificate never meets the key of the one before.
    pub secret: SecretName,
    /// It goes sealed to each cloud that keeps the service ready, which shows it once it owns the service.
    #[serde(default)]
    pub travels: bool,
}
