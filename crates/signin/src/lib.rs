//! The sign-in process of one realm.

/// Serves until it is told to end (SIGTERM). `Err`: why it could not begin, in one line.
pub fn run() -> Result<(), String> {
    Err("not built yet".into())
}
