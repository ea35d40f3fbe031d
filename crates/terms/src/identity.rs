//! What a service says of its users' identity: who must be signed in, and how its application is told who it is.

use crate::document::{FieldError, fault};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Whether a user must be signed in to reach the application.
    pub gate: Gate,
    /// Who may become a user.
    #[serde(default)]
    pub sign_up: SignUp,
    /// Whether users may have passwords beside passkeys.
    #[serde(default = "yes")]
    pub passwords: bool,
    /// Whether the hashes of passwords go along to other clouds.
    #[serde(default)]
    pub hashes: Hashes,
    /// Whether clients that are no browsers may sign in by `Authorization: Basic` with an app password. The field is then taken off.
    #[serde(default)]
    pub basic: bool,
    /// Header fields by which the application is told who it is, on every request, empty for nobody; nobody else can set them.
    #[serde(default = "default_headers")]
    pub headers: BTreeMap<Claim, String>,
    /// Path prefixes that nobody need be signed in for, with `gate: required`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public: Vec<String>,
}

fn yes() -> bool {
    true
}

fn default_headers() -> BTreeMap<Claim, String> {
    BTreeMap::from([(Claim::Login, "Remote-User".to_owned())])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Whoever is not signed in reaches the application as nobody.
    Optional,
    Required,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignUp {
    /// Anybody.
    Open,
    /// Whoever has an invitation (`pumasi user invite`).
    #[default]
    Invited,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hashes {
    /// They stay at the cloud where they were set: elsewhere users sign in by passkeys.
    #[default]
    Withheld,
    /// They go wherever the realm goes.
    Hot,
}

/// What an application may be told of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    Login,
    /// An id that never becomes another user's.
    Subject,
    Name,
    Email,
    /// Separated by commas.
    Groups,
}

/// The dataset in which the users of a service go along. It is there without being written down; whoever writes it says how it is kept.
pub const DATASET: &str = "pumasi-realm";
/// Its database.
pub const DATABASE: &str = "realm.sqlite";
/// Other names of datasets that begin so are not for manifests.
pub const RESERVED: &str = "pumasi-";
/// Prefixes of paths in [`Identity::public`].
pub const PUBLIC_MAX: usize = 32;

/// Fields that frame or route a message, carry proofs, or are told by gateways.
const TAKEN: [&str; 16] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "cookie",
    "set-cookie",
    "authorization",
    "proxy-authorization",
    "via",
    "traceparent",
    "tracestate",
    "expect",
];

/// A token (RFC 9110, 5.6.2) that CGI and WSGI applications read as no other field: without underscores.
fn header_problem(name: &str) -> Option<String> {
    let low = name.to_ascii_lowercase();
    let fine = !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !fine {
        return Some(format!("{name:?} is not 1 to 64 of A-Z, a-z, 0-9 and '-'"));
    }
    let told = low.starts_with("pumasi-") || low.starts_with("x-forwarded") || low == "forwarded" || low == "x-real-ip";
    (told || TAKEN.contains(&low.as_str())).then(|| format!("{name} means something else already"))
}

impl Identity {
    pub fn validate(&self, at: &str, e: &mut Vec<FieldError>) {
        if self.headers.is_empty() {
            fault(e, at, "headers", "name at least one, as {login: Remote-User}");
        }
        for (claim, name) in &self.headers {
            let field = format!("headers.{}", claim.as_str());
            if let Some(problem) = header_problem(name) {
                fault(e, at, &field, problem);
            }
            let twice = self.headers.iter().any(|(other, n)| other < claim && n.eq_ignore_ascii_case(name));
            if twice {
                fault(e, at, &field, format!("{name} stands twice"));
            }
        }
        if self.public.len() > PUBLIC_MAX {
            fault(e, at, "public", format!("at most {PUBLIC_MAX}"));
        }
        for (i, prefix) in self.public.iter().enumerate().filter(|(_, p)| !p.starts_with('/')) {
            fault(e, at, &format!("public[{i}]"), format!("{prefix:?} must begin with '/', as every path prefix"));
        }
    }
}

impl Claim {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Subject => "subject",
            Self::Name => "name",
            Self::Email => "email",
            Self::Groups => "groups",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(json: &str) -> Vec<String> {
        let identity: Identity = serde_json::from_str(json).unwrap();
        let mut e = Vec::new();
        identity.validate("spec.identity", &mut e);
        e.into_iter().map(|f| format!("{}: {}", f.field, f.problem)).collect()
    }

    #[test]
    fn what_is_left_out_is_the_careful_choice() {
        let identity: Identity = serde_json::from_str(r#"{"gate": "required"}"#).unwrap();
        assert_eq!((identity.sign_up, identity.hashes), (SignUp::Invited, Hashes::Withheld));
        assert!(identity.passwords && !identity.basic);
        assert_eq!(identity.headers, BTreeMap::from([(Claim::Login, "Remote-User".to_owned())]));
    }

    #[test]
    fn a_field_that_means_something_else_is_refused() {
        for name in ["Host", "COOKIE", "authorization", "X-Forwarded-User", "Pumasi-User", "X_Remote_User", "a b", ""] {
            let found = faults(&format!(r#"{{"gate": "optional", "headers": {{"login": {name:?}}}}}"#));
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            assert!(found[0].starts_with("spec.identity.headers.login: "), "{found:?}");
        }
        let twice = faults(r#"{"gate": "optional", "headers": {"login": "X-User", "name": "x-user"}}"#);
        assert_eq!(twice, ["spec.identity.headers.name: x-user stands twice"]);
        assert_eq!(faults(r#"{"gate": "optional", "headers": {}, "public": ["static"]}"#).len(), 2);
    }
}
