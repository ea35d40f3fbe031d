//! What an application speaks on its port.

use serde::{Deserialize, Serialize};

#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Http1,
    /// HTTP/2 without TLS, from the first byte on (RFC 9113, 3.3), as gRPC servers speak it.
    H2c,
}

impl Protocol {
    /// What is not written, so that documents of before stay what they were.
    pub fn is_http1(&self) -> bool {
        *self == Self::Http1
    }
}
