//! The world that a daemon's code runs in: the real one, or one that a simulator makes, a cloud and a life of it at a time.
//!
//! Enters: futures and blocking work. Leaves: the same, run by tokio.
//! Always holds: in the real world nothing is added but a look at a thread-local; in a made one all work of a daemon runs on the thread
//! that made it, under that world's clock and entropy, and stands still for ever once that life of the daemon is over.

use pumasi_terms::Now;
use pumasi_transfer::EraseError;
use std::cell::RefCell;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::{AbortHandle, JoinHandle};

/// One life of one simulated daemon, from its start to its crash.
pub trait World: Send + Sync {
    fn now(&self) -> Now;
    fn boot_id(&self) -> String;
    fn entropy(&self) -> u128;
    /// A task that ends with this life.
    fn spawned(&self, task: AbortHandle);
    /// The process is dead: nothing of it runs any more.
    fn is_over(&self) -> bool;
    /// Erases what is left of a lease; a simulator may let it fail.
    fn erase(&self, dir: &Path) -> Result<(), EraseError> {
        pumasi_transfer::erase(dir)
    }
    /// Writes a few bytes through to the disk of the store; a simulator's disk is not in files.
    fn probe(&self, _file: &Path) -> std::io::Result<()> {
        Ok(())
    }
}

thread_local! {
    static HERE: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
}

/// `None` in the real world.
pub(crate) fn with<T>(f: impl FnOnce(&dyn World) -> T) -> Option<T> {
    here().map(|world| f(&*world))
}

fn here() -> Option<Arc<dyn World>> {
    HERE.with_borrow(Clone::clone)
}

/// Puts the world before back, also when what runs inside panics.
struct Inside(Option<Arc<dyn World>>);

impl Inside {
    fn of(world: &Arc<dyn World>) -> Self {
        Self(HERE.with_borrow_mut(|here| here.replace(world.clone())))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        HERE.with_borrow_mut(|here| *here = self.0.take());
    }
}

/// A future that runs in a made world.
pub struct Within<F> {
    world: Arc<dyn World>,
    inner: Pin<Box<F>>,
}

impl<F> std::fmt::Debug for Within<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Within")
    }
}

pub fn within<F: Future>(world: Arc<dyn World>, inner: F) -> Within<F> {
    Within { world, inner: Box::pin(inner) }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        if this.world.is_over() {
            return Poll::Pending;
        }
        let _inside = Inside::of(&this.world);
        let polled = this.inner.as_mut().poll(cx);
        // It may have died of what it just did: then nobody learns of its result.
        if this.world.is_over() { Poll::Pending } else { polled }
    }
}

pub fn erase(dir: &Path) -> Result<(), EraseError> {
    with(|world| world.erase(dir)).unwrap_or_else(|| pumasi_transfer::erase(dir))
}

/// Returns once a few bytes are on the disk that this file is on.
pub fn probe(file: &Path) -> std::io::Result<()> {
    with(|world| world.probe(file)).unwrap_or_else(|| write_through(file))
}

fn write_through(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file)?;
    file.write_all_at(&[0x70; 64], 0)?;
    file.sync_data()
}

pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let Some(world) = here() else { return tokio::spawn(future) };
    let task = tokio::spawn(within(world.clone(), future));
    world.spawned(task.abort_handle());
    task
}

/// Work that was begun and not finished: it panicked, or the runtime is being shut down.
#[derive(Debug, thiserror::Error)]
#[error("blocking work was cut off: {0}")]
pub struct CutOff(String);

/// Work that waits for disks, beside the tasks; in a made world on the spot.
pub async fn blocking<T, F>(f: F) -> Result<T, CutOff>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    if here().is_some() {
        return Ok(f());
    }
    tokio::task::spawn_blocking(f).await.map_err(|e| CutOff(e.to_string()))
}
