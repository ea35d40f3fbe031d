//! The sign-in process of one realm: the users of one service, their sessions, and the pages on which they sign in.
//!
//! Enters: settings in the environment, two directories, requests of the service's gateway and of the daemon. Leaves: pages, answers
//! about who somebody is, and what ended. Always holds: nothing is acknowledged that is not on disk; killed at any moment it goes on
//! from there, and there is no half user; it calls nobody; whatever it holds for strangers is bounded.

mod admin;
mod clock;
mod db;
mod ended;
mod fields;
mod gate;
mod pages;
mod password;
mod realm;
mod secret;
mod start;
mod text;
mod throttle;
mod web;
mod webauthn;

pub use start::Start;
/// What reads bytes from outside, for fuzz targets.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::web::parse::{Form, Origin, cookie, return_path, segment};
    pub use crate::webauthn::cbor;
    pub use crate::webauthn::data::{AuthenticatorData, ClientData};
    pub use crate::webauthn::key::Key;
}

use realm::Realm;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

const SWEEP_EACH: Duration = Duration::from_secs(600);
/// Hashes of passwords are the only long work.
const BLOCKING_THREADS_MAX: usize = 8;

/// Serves until it is told to end (SIGTERM). `Err`: why it could not begin, in one line.
pub fn run() -> Result<(), String> {
    let start = Start::read(|name| std::env::var(name).ok())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .map_err(|e| format!("starting: {e}"))?;
    runtime.block_on(serve(start))
}

async fn serve(start: Start) -> Result<(), String> {
    let listen = start.listen;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| format!("waiting for SIGTERM: {e}"))?;
    let realm = Arc::new(Realm::open(start)?);
    let listener = TcpListener::bind(listen).await.map_err(|e| format!("listening on {listen}: {e}"))?;
    let (stop, stopping) = watch::channel(false);
    let sweeping = tokio::spawn({
        let realm = realm.clone();
        async move {
            if let Err(e) = realm.look_over_passwords().await {
                tracing::warn!("looking over the passwords of this cloud: {e}");
            }
            loop {
                tokio::time::sleep(SWEEP_EACH).await;
                realm.sweep().await;
            }
        }
    });
    let serving = tokio::spawn(web::serve(realm, listener, stopping));
    terminate.recv().await;
    let _ = stop.send(true);
    let _ = serving.await;
    sweeping.abort();
    Ok(())
}
