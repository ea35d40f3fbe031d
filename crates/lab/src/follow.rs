//! Follows the journals of the clouds: what each did and why becomes the story, and scenarios wait for it.
//!
//! Enters: clients of the public API. Leaves: every journal entry once, in order for each cloud, dated by the cloud itself.
//! Always holds: a daemon that dies or restarts interrupts nothing; entries written meanwhile are told afterwards.

use crate::story::Story;
use pumasi_api::client::{CallError, Client};
use pumasi_api::message::{Event, List};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

const PAGE: usize = 500;
/// Without a change of an object; entries of the journal alone are told this late at most.
const POLL: Duration = Duration::from_millis(500);
/// Changes that come together are read together.
const GATHER: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct Seen {
    pub cloud: String,
    /// Since the story began, by the cloud's wall clock.
    pub at: Duration,
    pub event: Event,
}

/// What all followed clouds have written; clones are the same.
#[derive(Debug, Clone)]
pub struct Chronicle {
    story: Story,
    started_wall_ms: i64,
    seen: Arc<Mutex<Vec<Seen>>>,
    count: watch::Sender<usize>,
}

impl Chronicle {
    pub fn new(story: Story) -> Self {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        let started_wall_ms = now_ms - story.elapsed().as_millis() as i64;
        Self { story, started_wall_ms, seen: Arc::default(), count: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows one cloud on the current runtime until the task is aborted. `told` picks what goes into the story; all is kept.
    pub fn follow(
        &self,
        cloud: &str,
        client: Client,
        told: impl Fn(&Event) -> bool + Send + Sync + 'static,
    ) -> JoinHandle<()> {
        let (chronicle, cloud) = (self.clone(), cloud.to_owned());
        tokio::spawn(async move {
            let changed = Notify::new();
            let watching = async {
                loop {
                    let each = |_| {
                        changed.notify_one();
                        true
                    };
                    let _ = client.watch("/v1/watch", each).await;
                    tokio::time::sleep(RETRY).await;
                }
            };
            let reading = async {
                let mut after = 0;
                loop {
                    // A failure is a daemon that is away: the next look finds what it wrote.
                    let _ = chronicle.read(&cloud, &client, &mut after, &told).await;
                    tokio::time::sleep(GATHER).await;
                    let _ = tokio::time::timeout(POLL, changed.notified()).await;
                }
            };
            tokio::select! { () = watching => {}, () = reading => {} }
        })
    }

    async fn read(
        &self,
        cloud: &str,
        client: &Client,
        after: &mut u64,
        told: &impl Fn(&Event) -> bool,
    ) -> Result<(), CallError> {
        loop {
            let mut page: List<Event> = client.get(&format!("/v1/events?after={after}&limit={PAGE}")).await?;
            page.items.retain(|e| e.seq > *after);
            page.items.sort_by_key(|e| e.seq);
            let full = page.items.len() >= PAGE;
            for event in page.items {
                *after = event.seq;
                let at_ms = u64::try_from(event.at.0 - self.started_wall_ms).unwrap_or(0);
                let at = Duration::from_millis(at_ms);
                if told(&event) {
                    let what = format!("{} {}: {}", event.subject_kind, event.subject, event.reasons.join("; "));
                    self.story.tell_at(at, cloud, &event.action, what);
                }
                self.lock().push(Seen { cloud: cloud.to_owned(), at, event });
                self.count.send_modify(|n| *n += 1);
            }
            if !full {
                return Ok(());
            }
        }
    }

    pub fn all(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    /// The first entry that fits, already there or yet to come.
    pub async fn wait_for(&self, at_most: Duration, fits: impl Fn(&Seen) -> bool) -> Option<Seen> {
        let mut count = self.count.subscribe();
        let mut looked = 0;
        let look = async {
            loop {
                count.mark_unchanged();
                {
                    let seen = self.lock();
                    if let Some(found) = seen.iter().skip(looked).find(|s| fits(s)) {
                        return found.clone();
                    }
                    looked = seen.len();
                }
                if count.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        tokio::time::timeout(at_most, look).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::service::service_fn;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A daemon with `written` entries, whose watch breaks at once.
    async fn daemon(socket: &std::path::Path, written: Arc<AtomicU64>) {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let written = Arc::clone(&written);
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let written = written.load(Ordering::Relaxed);
                    async move {
                        let query = request.uri().query().unwrap_or_default();
                        let after =
                            query.split('&').find_map(|p| p.strip_prefix("after=")).map(|a| a.parse::<u64>().unwrap());
                        let entry = |seq| {
                            serde_json::json!({ "seq": seq, "at": 1, "actor": "judge", "action": "verdict", "subject_kind": "service",
                                "subject": "s", "cause": null, "reasons": [format!("reason {seq}")], "trace_id": null, "data": {} })
                        };
                        let items: Vec<_> =
                            after.map(|a| (a + 1..=written).take(PAGE).map(entry).collect()).unwrap_or_default();
                        let body = serde_json::json!({ "revision": 1, "items": items }).to_string();
                        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(body))))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
                );
            }
        });
    }

    #[tokio::test]
    async fn every_entry_is_told_once_and_can_be_waited_for() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let written = Arc::new(AtomicU64::new(2));
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        daemon(&socket, Arc::clone(&written)).await;
        let chronicle = Chronicle::new(Story::to(Box::new(std::io::sink()), false));
        let client = Client::over_socket(&socket, Some("t"), Duration::from_secs(5)).unwrap();
        let following = chronicle.follow("city-a", client, |_| true);
        let wait = Duration::from_secs(10);
        let second = chronicle.wait_for(wait, |s| s.event.seq == 2).await.unwrap();
        assert_eq!(second.cloud, "city-a");
        assert!(chronicle.wait_for(Duration::from_millis(50), |s| s.event.seq == 3).await.is_none());
        written.store(1200, Ordering::Relaxed);
        assert!(chronicle.wait_for(wait, |s| s.event.seq == 1200).await.is_some());
        following.abort();
        let seqs: Vec<u64> = chronicle.all().iter().map(|s| s.event.seq).collect();
        assert_eq!(seqs, (1..=1200).collect::<Vec<_>>());
        assert_eq!(chronicle.story.events().len(), 1200);
    }
}
