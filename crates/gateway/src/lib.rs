//! The data plane of one cloud: a process of its own that serves by a route table, admits, and meters.
//!
//! Enters: users' requests, peers' requests over mutual TLS, route tables, positions, tenures and keys from the daemon. Leaves: requests
//! to instances at home and to the gateways of lenders, answers, meter windows.
//!
//! Always holds:
//! - It needs no daemon: the last complete table is on disk and in force, also after a restart.
//! - A request goes only where the table of its arrival says; a table change loses none.
//! - An unsafe request is served at home only, by a cloud that may write when it enters and still when its answer leaves;
//!   an entrance sends it there.
//! - An answer of a service that is kept in step leaves when its copies have what was written ([`commit`]).
//! - Who a user is, an application hears from the gateway alone ([`identity`]).
//! - A request is executed twice only if its method is safe.
//! - One hop between clouds at most. Every queue, body, retry, wait and connection count is bounded.
//!
//! A request meets, in this order: [`listen`], [`public`] or [`peer`], [`identity`], [`forward`], [`admission`] (with [`queue`], [`choose`] and
//! [`limiter`]), [`permit`], [`plain`] or [`upstream`] (with [`multiplex`]), [`release`], [`body`]. [`upload`] and [`link`] bound what users owe.

mod access;
pub mod admission;
mod ages;
mod alias;
mod answer;
mod ask;
mod body;
mod certificates;
pub mod choose;
mod chunks;
mod client;
mod clock;
pub mod commit;
mod config;
mod control;
mod ended;
mod entrance;
mod forward;
mod front;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod gateway;
mod handover;
mod headers;
mod identity;
mod io;
mod keys;
mod known;
pub mod limiter;
mod link;
mod listen;
mod meter;
mod metrics;
mod multiplex;
mod peer;
mod peers;
mod permit;
mod plain;
mod position;
mod proxied;
mod public;
mod queue;
mod release;
pub mod right;
mod run;
mod slot;
mod strict;
mod table;
mod tcp;
mod ticket;
mod timer;
mod tunnel;
mod upgrade;
mod upload;
mod upstream;
mod wanted;
mod websocket;

pub use admission::BackendStatus;
pub use ask::{Question, Reply};
pub use certificates::Reloaded;
pub use client::{ControlClient, ControlError};
pub use config::{
    CONFIG_FILE, CONFIG_VERSION, ConfigError, GatewayConfig, Limits, Listener, TRUSTED_PROXIES_MAX, TlsFiles,
};
pub use control::{CONTROL_SOCKET, GatewayStatus, HeldStatus, PlaceStatus};
pub use ended::{TAKEN, is_served, last_words};
pub use listen::probe;
pub use meter::MeterReport;
pub use run::{GatewayError, gateway_main};
pub use table::TABLE_FILE;
pub use wanted::{Wanted, WantedReport};
