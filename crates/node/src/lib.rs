//! Node: composes one cloud from the rooms of the journey.
//!
//! Enters: a configuration, requests of people and peers, meter windows, the state of instances. Leaves: acts on engine, gateway and peers.
//! Always holds: decisions are made by the pure crates; a transition and its journal entry commit in one transaction, and acts follow it;
//! reconcilers take no hints, read the store, and may be run twice or be cut off anywhere.

pub mod api;
pub mod borrower;
pub mod bundles;
pub mod certificates;
pub mod clock;
pub mod config;
pub mod disk;
pub mod diverged;
pub mod entrances;
pub mod fleet;
pub mod former;
pub mod gateway;
pub mod generations;
pub mod ground;
pub mod growth;
pub mod hands;
mod health;
pub mod home;
pub mod identity;
pub mod keys;
pub mod lendable;
pub mod lender;
pub mod metrics;
pub mod moves;
pub mod node;
pub mod object;
pub mod pact;
pub mod peers;
pub mod quarantine;
pub mod quiet;
pub mod realm;
pub mod register;
pub mod reload;
pub mod rollout;
pub mod routes;
pub mod secrets;
pub mod sensing;
pub mod serve;
pub mod starts;
pub mod stray;
pub mod supervise;
pub mod takeover;
pub mod tenancy;
#[cfg(test)]
mod testing;
pub mod trace;
pub mod trouble;
mod uploads;
pub mod voting;
pub mod wire;
pub mod witness;
pub mod world;

pub use config::{Config, ConfigError, ConfigFault, page as config_page, shown as config_shown};
pub use node::Node;
pub use serve::{ServeError, serve};

/// The role of a process that handles the bytes of one dataset or lease. Call it from the only thread.
pub fn data_helper_main() -> std::process::ExitCode {
    let served = pumasi_engine::enter_cell().and_then(|mut line| {
        pumasi_transfer::helper::serve(&mut line).map_err(|e| format!("the line to the daemon: {e}"))
    });
    match served {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("data-helper: {why}");
            std::process::ExitCode::from(70)
        }
    }
}
