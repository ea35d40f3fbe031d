//! A wide-area network without root: TCP relays that delay, limit and break what passes between sites.
//!
//! Enters: sites (a city and an IPv4 /24 of the loopback net each), relays (listen address, site and address behind it), faults.
//! Leaves: connections whose bytes arrive one way-time later, in order, unchanged; counts a directed link.
//! Always holds: bytes are late or the connection is reset, never lost, doubled or changed, as TCP does it; a relay buffers at
//! most `connections_max * 2 * buffer_bytes`; delays are pipelined, so that latency costs no throughput below buffer/delay.
//!
//! A source is known by its address, so each cloud binds its outgoing connections to its own address. An unknown source counts
//! as one at the target's own site and meets no delay. Healing resumes at once, kinder than the back-off of real TCP.

mod line;
mod link;

pub use link::{CutThen, LinkStats};

use crate::cities::City;
use link::{Link, Shape};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot, watch};

/// A fault of the lab's network; none of them is worth a retry as it stands.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("starting the relay's thread: {0}")]
    Start(#[source] io::Error),
    #[error("listening on {listen} for {site}: {source}; is another lab running on these addresses?")]
    Listen { listen: SocketAddr, site: String, source: io::Error },
    #[error("no site {name:?} in this network; known: {known}")]
    UnknownSite { name: String, known: String },
    #[error("site {name:?}: its name or its net {net} is taken by {by:?}")]
    Taken { name: String, net: Ipv4Addr, by: String },
}

#[derive(Debug, Clone)]
pub struct WanConfig {
    /// Of the jitter.
    pub seed: u64,
    /// Each chunk is late by a uniform part of this; order is kept.
    pub jitter: Duration,
    /// Held at one time for one direction of one connection; it bounds throughput to this over the one-way delay.
    pub buffer_bytes: usize,
    /// At one time through one relay; more wait in the kernel's backlog.
    pub connections_max: usize,
}

impl Default for WanConfig {
    fn default() -> Self {
        Self { seed: 1, jitter: Duration::ZERO, buffer_bytes: 8 << 20, connections_max: 1024 }
    }
}

#[derive(Debug, Clone)]
struct Site {
    name: String,
    city: City,
    net: [u8; 3],
}

struct Map {
    sites: Vec<Site>,
    links: BTreeMap<(usize, usize), Arc<Link>>,
}

/// What connection tasks share; it does not keep the network alive.
struct Shared {
    config: WanConfig,
    map: Mutex<Map>,
    /// Rises when a fault begins or ends.
    changed: watch::Sender<u64>,
}

struct Inner {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(lock(&self.stop).take());
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

/// Handle of the network; the last one dropped ends every relay and connection. It runs on a thread of its own.
#[derive(Clone)]
pub struct Wan(Arc<Inner>);

impl std::fmt::Debug for Wan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wan").field("sites", &lock(&self.0.shared.map).sites).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wan {
    pub fn start(config: WanConfig) -> Result<Self, RelayError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RelayError::Start)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("lab-wan".into())
            .spawn(move || {
                let _ = runtime.block_on(stopped);
            })
            .map_err(RelayError::Start)?;
        let map = Mutex::new(Map { sites: Vec::new(), links: BTreeMap::new() });
        Ok(Self(Arc::new(Inner {
            shared: Arc::new(Shared { config, map, changed: watch::Sender::new(0) }),
            runtime: handle,
            stop: Mutex::new(Some(stop)),
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Every address of the /24 around `address` belongs to the site.
    pub fn add_site(&self, name: &str, city: City, address: Ipv4Addr) -> Result<(), RelayError> {
        let [a, b, c, _] = address.octets();
        let mut map = lock(&self.0.shared.map);
        if let Some(other) = map.sites.iter().find(|s| s.name == name || s.net == [a, b, c]) {
            return Err(RelayError::Taken {
                name: name.into(),
                net: Ipv4Addr::new(a, b, c, 0),
                by: other.name.clone(),
            });
        }
        map.sites.push(Site { name: name.into(), city, net: [a, b, c] });
        Ok(())
    }

    /// Listens on `listen` (port 0: any) and forwards to `target`, which lies at `site`. Returns the address it listens on.
    pub fn relay(&self, site: &str, listen: SocketAddr, target: SocketAddr) -> Result<SocketAddr, RelayError> {
        let index = self.0.shared.site(site)?;
        let fault = |source| RelayError::Listen { listen, site: site.into(), source };
        let socket = std::net::TcpListener::bind(listen).map_err(fault)?;
        socket.set_nonblocking(true).map_err(fault)?;
        let address = socket.local_addr().map_err(fault)?;
        let _inside = self.0.runtime.enter();
        let listener = TcpListener::from_std(socket).map_err(fault)?;
        self.0.runtime.spawn(serve(Arc::downgrade(&self.0.shared), listener, index, target));
        Ok(address)
    }

    fn link(&self, from: &str, to: &str) -> Result<Arc<Link>, RelayError> {
        let shared = &self.0.shared;
        Ok(shared.link(shared.site(from)?, shared.site(to)?))
    }

    fn change(&self, from: &str, to: &str, change: impl FnOnce(&Link)) -> Result<(), RelayError> {
        change(&*self.link(from, to)?);
        self.0.shared.changed.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Nothing passes between the two, in either direction, until healed. Connections stay open and wait, as with lost packets.
    pub fn partition(&self, a: &str, b: &str) -> Result<(), RelayError> {
        self.drop_one_way(a, b)?;
        self.drop_one_way(b, a)
    }

    /// Nothing passes from `from` to `to`. What flows the other way stalls once its window is full, for want of acknowledgements.
    pub fn drop_one_way(&self, from: &str, to: &str) -> Result<(), RelayError> {
        self.change(from, to, |link| link.shape(|s| s.blackhole = true))
    }

    /// Ends partition, drop, pending cut, added latency and rate limit between the two.
    pub fn heal(&self, a: &str, b: &str) -> Result<(), RelayError> {
        self.change(a, b, |link| link.shape(|s| *s = Shape::default()))?;
        self.change(b, a, |link| link.shape(|s| *s = Shape::default()))
    }

    pub fn heal_all(&self) {
        for link in lock(&self.0.shared.map).links.values() {
            link.shape(|s| *s = Shape::default());
        }
        self.0.shared.changed.send_modify(|n| *n += 1);
    }

    /// Cuts the site off from every other one, both ways.
    pub fn isolate(&self, site: &str) -> Result<(), RelayError> {
        let index = self.0.shared.site(site)?;
        let others: Vec<String> = {
            let map = lock(&self.0.shared.map);
            map.sites.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, s)| s.name.clone()).collect()
        };
        others.iter().try_for_each(|other| self.partition(site, other))
    }

    /// After `bytes` more from `from` to `to` the connection that carries the next byte is reset, at both ends. Once.
    pub fn cut_after(&self, from: &str, to: &str, bytes: u64, then: CutThen) -> Result<(), RelayError> {
        self.change(from, to, |link| link.cut_after(bytes, then))
    }

    /// Resets every open connection between the two.
    pub fn sever(&self, a: &str, b: &str) -> Result<(), RelayError> {
        self.change(a, b, |link| link.shape_generation())?;
        self.change(b, a, |link| link.shape_generation())
    }

    /// On top of the distance, one way. Replaces what was added before; bytes under way keep their time.
    pub fn add_latency(&self, from: &str, to: &str, extra: Duration) -> Result<(), RelayError> {
        self.change(from, to, |link| link.shape(|s| s.extra = extra))
    }

    /// Bytes a second from `from` to `to`, over all connections; `None` lifts the limit.
    pub fn limit_rate(&self, from: &str, to: &str, bytes_per_s: Option<u64>) -> Result<(), RelayError> {
        self.change(from, to, |link| link.shape(|s| s.bytes_per_s = bytes_per_s.filter(|&b| b > 0)))
    }

    pub fn stats(&self, from: &str, to: &str) -> Result<LinkStats, RelayError> {
        Ok(self.link(from, to)?.stats())
    }

    pub fn rtt(&self, a: &str, b: &str) -> Result<Duration, RelayError> {
        Ok(self.link(a, b)?.one_way() + self.link(b, a)?.one_way())
    }
}

impl Shared {
    fn site(&self, name: &str) -> Result<usize, RelayError> {
        let map = lock(&self.map);
        map.sites.iter().position(|s| s.name == name).ok_or_else(|| RelayError::UnknownSite {
            name: name.into(),
            known: map.sites.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    fn site_of(&self, address: IpAddr) -> Option<usize> {
        let IpAddr::V4(v4) = address.to_canonical() else { return None };
        let [a, b, c, _] = v4.octets();
        lock(&self.map).sites.iter().position(|s| s.net == [a, b, c])
    }

    fn link(&self, from: usize, to: usize) -> Arc<Link> {
        let mut guard = lock(&self.map);
        let map = &mut *guard;
        let one_way = match (map.sites.get(from), map.sites.get(to)) {
            (Some(a), Some(b)) if from != to => a.city.rtt(b.city) / 2,
            _ => Duration::ZERO,
        };
        let seed = self.config.seed ^ ((from as u64) << 32 | to as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let link = || Arc::new(Link::new(one_way, self.config.jitter, seed));
        Arc::clone(map.links.entry((from, to)).or_insert_with(link))
    }
}

async fn serve(shared: Weak<Shared>, listener: TcpListener, site: usize, target: SocketAddr) {
    let Some(limit) = shared.upgrade().map(|s| s.config.connections_max.max(1)) else { return };
    let places = Arc::new(Semaphore::new(limit));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: others must end before the next can come.
                tracing::warn!(%error, "relay cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(shared) = shared.upgrade() else { return };
        let from = shared.site_of(peer.ip()).unwrap_or(site);
        let there = line::Lane { link: shared.link(from, site), changed: shared.changed.subscribe() };
        let back = line::Lane { link: shared.link(site, from), changed: shared.changed.subscribe() };
        let buffer_bytes = shared.config.buffer_bytes.max(line::CHUNK_BYTES);
        tokio::spawn(async move {
            line::carry(stream, peer, target, there, back, buffer_bytes).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests;
