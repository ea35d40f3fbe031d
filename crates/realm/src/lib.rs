//! A realm: the users of one service, and what its gateway, its daemon and its sign-in process say to each other about them.
//!
//! Enters: what a service says of its users' identity, logins, secrets. Leaves: the settings of a sign-in process, the messages of the
//! gate, header fields. Always holds: what a user proves itself by is told and kept as a digest; a login is written in one way only.

pub mod admin;
pub mod gate;
pub mod login;
pub mod merge;
pub mod percent;
pub mod settings;

pub use login::{Login, LoginError};
pub use settings::Settings;

/// Below it, on each host of the service, are the pages for its users. No application is asked for it.
pub const PAGES: &str = "/.pumasi/";
/// The host must be reached over TLS, and nobody but this host sees the cookie (RFC 6265bis, 4.1.3.2).
pub const SESSION_COOKIE: &str = "__Host-pumasi_session";
/// Random bits of what a user is known by: a session, an app password, an invitation.
pub const SECRET_BITS: usize = 256;
