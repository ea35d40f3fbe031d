//! The network between clouds: late, lost, doubled and reordered messages, cut links, and nobody listening.
//!
//! Enters: requests of one daemon to another. Leaves: the other's answers, or nothing, as the weather of the link says.
//! Always holds: a message on its way arrives whether its sender lives on or not; a caller that shows no identity is seen as a stranger.

use crate::liar::Liar;
use crate::life::Life;
use crate::mutant::Mutant;
use crate::steps::Trap;
use crate::story::Story;
use bytes::Bytes;
use http::{Request, Response};
use pumasi_api::Client;
use pumasi_api::client::{Carried, Carry};
use pumasi_node::api::Connection;
use pumasi_node::ground::Wire;
use pumasi_node::world::within;
use pumasi_terms::CloudName;
use pumasi_trust::SpiffeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tower::ServiceExt;

/// Bodies of answers are read up to here.
const BODY_BYTES_MAX: usize = 64 << 20;
/// The weather of a caller that set no time of its own.
const CALL: Duration = Duration::from_secs(30);

/// Chances in ten thousand, for each message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    pub lost: u32,
    pub doubled: u32,
    /// Late by up to `late_ms_max`, so that others overtake it.
    pub late: u32,
    pub late_ms_max: u64,
}

/// Who listens for a cloud now.
#[derive(Clone)]
pub struct Listener {
    pub life: Arc<Life>,
    pub router: axum::Router,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

#[derive(Debug)]
struct Inner {
    rng: StdRng,
    listeners: BTreeMap<CloudName, Listener>,
    /// One way.
    cut: BTreeSet<(CloudName, CloudName)>,
    delay_ms: BTreeMap<(CloudName, CloudName), u64>,
    weather: Weather,
    messages: u64,
    /// The next handover that is to be signed is so late.
    late_handover_ms: Option<u64>,
}

pub struct Net {
    begin: Instant,
    story: Arc<Story>,
    inner: Mutex<Inner>,
    mutant: Option<Mutant>,
    trap: OnceLock<Arc<Trap>>,
    liar: OnceLock<Liar>,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Net")
    }
}

enum Fate {
    Lost,
    Arrives { after_ms: u64, again_after_ms: Option<u64> },
}

impl Net {
    pub fn new(seed: u64, begin: Instant, story: Arc<Story>, mutant: Option<Mutant>) -> Arc<Self> {
        let inner = Inner {
            rng: StdRng::seed_from_u64(seed ^ 0x6e65_7477_6f72_6b21),
            listeners: BTreeMap::new(),
            cut: BTreeSet::new(),
            delay_ms: BTreeMap::new(),
            weather: Weather::default(),
            messages: 0,
            late_handover_ms: None,
        };
        Arc::new(Self { begin, story, inner: Mutex::new(inner), mutant, trap: OnceLock::new(), liar: OnceLock::new() })
    }

    /// One planned fault is done to what passes.
    pub fn set_trap(&self, trap: Arc<Trap>) {
        let _ = self.trap.set(trap);
    }

    /// One cloud lies in its heartbeats.
    pub fn set_liar(&self, liar: Liar) {
        let _ = self.liar.set(liar);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn listen(&self, cloud: &CloudName, listener: Option<Listener>) {
        let mut inner = self.lock();
        match listener {
            Some(listener) => inner.listeners.insert(cloud.clone(), listener),
            None => inner.listeners.remove(cloud),
        };
    }

    /// One way; both clouds live on.
    pub fn cut(&self, from: &CloudName, to: &CloudName, is_cut: bool) {
        let link = (from.clone(), to.clone());
        let mut inner = self.lock();
        if is_cut {
            inner.cut.insert(link)
        } else {
            inner.cut.remove(&link)
        };
    }

    pub fn is_cut(&self, from: &CloudName, to: &CloudName) -> bool {
        self.lock().cut.contains(&(from.clone(), to.clone()))
    }

    pub fn set_delay(&self, a: &CloudName, b: &CloudName, one_way_ms: u64) {
        let mut inner = self.lock();
        inner.delay_ms.insert((a.clone(), b.clone()), one_way_ms);
        inner.delay_ms.insert((b.clone(), a.clone()), one_way_ms);
    }

    pub fn delay_ms(&self, from: &CloudName, to: &CloudName) -> u64 {
        self.lock().delay_ms.get(&(from.clone(), to.clone())).copied().unwrap_or(1)
    }

    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    pub fn set_late_handover(&self, late_ms: Option<u64>) {
        self.lock().late_handover_ms = late_ms;
    }

    pub fn messages(&self) -> u64 {
        self.lock().messages
    }

    fn fate(&self, from: &CloudName, to: &CloudName) -> Fate {
        let mut inner = self.lock();
        inner.messages += 1;
        let weather = inner.weather;
        let base = inner.delay_ms.get(&(from.clone(), to.clone())).copied().unwrap_or(1);
        if inner.cut.contains(&(from.clone(), to.clone())) {
            return Fate::Lost;
        }
        let mut chance = |of: u32| of > 0 && inner.rng.random_range(0..10_000) < of;
        if chance(weather.lost) {
            return Fate::Lost;
        }
        let (late, doubled) = (chance(weather.late), chance(weather.doubled));
        let jitter = inner.rng.random_range(0..=base / 4 + 1);
        let more = if late { inner.rng.random_range(0..=weather.late_ms_max) } else { 0 };
        let again = inner.rng.random_range(0..=weather.late_ms_max.max(50));
        let after_ms = base + jitter + more;
        Fate::Arrives { after_ms, again_after_ms: doubled.then_some(after_ms + again) }
    }

    fn tell(&self, who: &CloudName, what: String) {
        let at_ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.story.tell(at_ms, who.as_str(), what);
    }

    async fn carry(
        self: Arc<Self>,
        from: CloudName,
        to: CloudName,
        known: bool,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, String> {
        let what = format!("{} {}", request.method(), request.uri().path());
        // Heartbeats and words about the vote are told only where they are refused: there are too many.
        let is_beat = what.ends_with("/heartbeat");
        let of_vote = what.contains("/v1/pacts/");
        let quiet = is_beat || of_vote;
        if is_beat && let Some(liar) = self.liar.get() {
            liar.overhear(&from, &to, &request);
        }
        let (answered, answer) = oneshot::channel();
        match self.fate(&from, &to) {
            Fate::Lost => {
                if !of_vote {
                    self.tell(&from, format!("-> {to}: {what}, lost on its way"));
                }
                return pending().await;
            }
            Fate::Arrives { after_ms, again_after_ms } => {
                if !quiet {
                    self.tell(&from, format!("-> {to}: {what}"));
                }
                if let Some(again_ms) = again_after_ms {
                    let (net, from, to, copy) = (self.clone(), from.clone(), to.clone(), copy_of(&request));
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(again_ms)).await;
                        net.tell(&to, format!("<- {from}: the same once more"));
                        let _ = net.deliver(&from, &to, known, copy).await;
                    });
                }
                let is_handover = request.method() == http::Method::PUT && what.ends_with("/handover");
                let late_ms = if is_handover { self.lock().late_handover_ms.take().unwrap_or(0) } else { 0 };
                let (net, from, to) = (self.clone(), from.clone(), to.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(after_ms + late_ms)).await;
                    let _ = answered.send(net.deliver(&from, &to, known, request).await);
                });
            }
        }
        let mut answer = answer.await.map_err(|_| "the connection broke".to_owned())??;
        if let Some(mutant) = self.mutant {
            mutant.on_answer(&what, &mut answer);
        }
        if is_beat && let Some(liar) = self.liar.get().filter(|l| l.cloud == to) {
            liar.lie(&from, &mut answer);
        }
        match self.fate(&to, &from) {
            Fate::Lost => {
                if !of_vote {
                    self.tell(&to, format!("-> {from}: {} to {what}, lost on its way", answer.status().as_u16()));
                }
                pending().await
            }
            Fate::Arrives { after_ms, .. } => {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                if !quiet || !answer.status().is_success() {
                    let status = answer.status();
                    let why = if status.is_success() { String::new() } else { text_of(answer.body()) };
                    self.tell(&from, format!("<- {to}: {} to {what}{why}", status.as_u16()));
                }
                Ok(answer)
            }
        }
    }

    async fn deliver(
        &self,
        from: &CloudName,
        to: &CloudName,
        known: bool,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, String> {
        let listener = self.lock().listeners.get(to).cloned();
        let Some(listener) = listener else { return Err("connection refused".into()) };
        let mut request = request.map(axum::body::Body::from);
        let peer = known.then(|| SpiffeId::daemon(from));
        request.extensions_mut().insert(Connection::of_peer(peer));
        let life = listener.life.clone();
        let handled = within(life.clone(), async move {
            let answer = listener.router.oneshot(request).await.map_err(|e| e.to_string())?;
            let (head, body) = answer.into_parts();
            let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|e| e.to_string())?;
            Ok(Response::from_parts(head, body))
        });
        // A task of that life: when it dies, the connection breaks.
        let task = tokio::spawn(handled);
        pumasi_node::world::World::spawned(&*life, task.abort_handle());
        task.await.map_err(|_| "the connection broke".to_owned())?
    }
}

pub(crate) fn copy_of(request: &Request<Bytes>) -> Request<Bytes> {
    let mut copy = Request::new(request.body().clone());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// The detail of a refusal.
fn text_of(body: &[u8]) -> String {
    serde_json::from_slice::<pumasi_api::Problem>(body).map_or_else(|_| String::new(), |p| format!(": {}", p.detail))
}

impl Wire for NetWire {
    fn client(&self, from: &CloudName, to: &CloudName, known: bool) -> Client {
        let (net, from, to) = (self.0.clone(), from.clone(), to.clone());
        let base = format!("https://{to}");
        let carry: Arc<Carry> = Arc::new(move |request| -> Carried {
            let (net, from, to) = (net.clone(), from.clone(), to.clone());
            let Some(trap) = net.trap.get().cloned() else { return Box::pin(net.carry(from, to, known, request)) };
            let (a, b) = (from.clone(), to.clone());
            Box::pin(trap.pass(from, to, request, move |r| net.clone().carry(a.clone(), b.clone(), known, r)))
        });
        Client::carried(&base, carry, CALL)
    }
}

#[derive(Debug, Clone)]
pub struct NetWire(pub Arc<Net>);
