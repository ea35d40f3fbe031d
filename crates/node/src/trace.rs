//! The trace id of what is being done (W3C Trace Context): from a caller's header, or of the journey itself. It goes into the journal.

use pumasi_terms::JourneyId;
use std::cell::RefCell;

tokio::task_local! {
    static OF_TASK: String;
}

thread_local! {
    /// Set while a transaction of a traced task runs on the store's thread.
    static OF_THREAD: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work` as part of a trace.
pub async fn within<F: Future>(id: String, work: F) -> F::Output {
    OF_TASK.scope(id, work).await
}

pub fn current() -> Option<String> {
    OF_TASK.try_with(Clone::clone).ok().or_else(|| OF_THREAD.with_borrow(Clone::clone))
}

/// Carries the task's trace onto the thread that runs `work`.
pub fn carried<T>(id: Option<String>, work: impl FnOnce() -> T) -> T {
    let before = OF_THREAD.replace(id);
    let result = work();
    OF_THREAD.set(before);
    result
}

/// A journey is a trace of its own: its id has as many digits as a trace id.
pub fn of_journey(id: &JourneyId) -> String {
    id.as_str().trim_start_matches("jrn-").to_owned()
}
