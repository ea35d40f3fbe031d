//! The tasks of the daemon, and what their end means.
//!
//! Enters: tasks by name. Leaves: the same, restarted where they panic or end; the word that the process must end.
//! Always holds: no task of the daemon ends unseen. One that does not run is told, leases are not renewed while it is down
//! (`Health::problem` says so to whoever renews), and one that cannot be kept running takes the process down: a supervisor such as
//! systemd starts it again.

use crate::node::Note;
use crate::{Node, clock, world};
use std::any::Any;
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Restarts of one task within `WITHIN_MS`; one more ends the process.
const RESTARTS_MAX: usize = 5;
const WITHIN_MS: u64 = 60_000;
/// Before the first restart, doubled with each.
const PAUSE_MS: u64 = 100;

type Body = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task of the daemon: what it is called, and how it is begun.
pub struct Task {
    pub name: &'static str,
    begin: Box<dyn Fn(Arc<Node>) -> Body + Send + Sync>,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Task({})", self.name)
    }
}

impl Task {
    pub fn new<F>(name: &'static str, begin: impl Fn(Arc<Node>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { name, begin: Box::new(move |node| Box::pin(begin(node))) }
    }
}

/// Keeps a task running until the daemon stops.
pub fn keep(node: &Arc<Node>, task: Task) -> JoinHandle<()> {
    let node = node.clone();
    world::spawn(async move {
        let mut ends: Vec<u64> = Vec::new();
        loop {
            let ended = world::spawn((task.begin)(node.clone())).await;
            if *node.stopping.borrow() {
                return;
            }
            let why = match ended {
                Ok(()) => "it ended by itself".to_owned(),
                Err(e) => {
                    e.try_into_panic().map_or_else(|e| e.to_string(), |panic| format!("it panicked: {}", said(&*panic)))
                }
            };
            let now_ms = clock::boot().0;
            ends.retain(|at| now_ms.saturating_sub(*at) < WITHIN_MS);
            ends.push(now_ms);
            node.health.down.lock().insert(task.name, why.clone());
            tell(&node, task.name, &why, ends.len()).await;
            if ends.len() > RESTARTS_MAX {
                node.health.fail(format!("{} ended {} times within a minute; last: {why}", task.name, ends.len()));
                return;
            }
            let pause_ms = PAUSE_MS << (ends.len() - 1);
            let mut stopping = node.stopping.clone();
            tokio::select! {
                biased;
                () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
                _ = stopping.changed() => return,
            }
            // What it does first may panic again: it counts as running once it is begun, and as down again at the next end.
            node.health.down.lock().remove(task.name);
        }
    })
}

async fn tell(node: &Node, task: &'static str, why: &str, times: usize) {
    tracing::error!(%task, %why, times, "a task of the daemon ended");
    let text = match times > RESTARTS_MAX {
        true => format!("{why}; too often: the daemon ends, so that its supervisor starts it anew"),
        false => format!("{why}; it is started again, no lease is renewed meanwhile"),
    };
    node.note("daemon", Note::new("task_ended", "task", task).because(text)).await;
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

/// A panic anywhere is in the log, with its place, in the log's own form.
pub fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(%place, thread = std::thread::current().name(), "a bug of this program: {}", said(info.payload()));
            before(info);
        }));
    });
}
