//! Group commit: many writers, one flush.
//!
//! A writer finishes its transaction in memory and then waits for a flush that began afterwards. One thread does nothing
//! but flush: it takes everybody who waits, flushes once, and wakes them. `flush_async` is never used: with eight waiters it
//! deadlocks in sled 0.34.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::Shared;
use crate::store::StoreError;

type Waiter = oneshot::Sender<Result<(), String>>;

/// The thread that flushes.
#[derive(Debug)]
pub(super) struct Flusher {
    queue: Option<Sender<Waiter>>,
    thread: Option<JoinHandle<()>>,
    failed: Arc<AtomicBool>,
}

impl Flusher {
    pub(super) fn start(shared: Arc<Shared>) -> Result<Self, StoreError> {
        let (queue, waiters) = channel();
        let failed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&failed);
        let thread = std::thread::Builder::new()
            .name("store-flush".to_owned())
            .spawn(move || flush_for(&shared, &waiters, &flag))
            .map_err(super::directory::failed("starting the flusher"))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            failed,
        })
    }

    /// Whether a flush failed: what memory holds may not be on disk, so nothing is written any more.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Waits until everything that was written before this call survives a crash.
    pub(super) async fn flushed(&self) -> Result<(), StoreError> {
        let (waiter, done) = oneshot::channel();
        let gone = |detail: &str| StoreError::Backend {
            operation: "flush",
            source: detail.to_owned().into(),
        };
        self.queue
            .as_ref()
            .and_then(|queue| queue.send(waiter).ok())
            .ok_or_else(|| gone("the store is closed"))?;
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(detail)) => Err(gone(&detail)),
            Err(_) => Err(gone("the store is closed")),
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has already failed everybody who waited.
            let _ = thread.join();
        }
    }
}

fn flush_for(shared: &Shared, waiters: &Receiver<Waiter>, failed: &AtomicBool) {
    while let Ok(first) = waiters.recv() {
        let mut all = vec![first];
        all.extend(waiters.try_iter());
        let outcome = if failed.load(Ordering::SeqCst) {
            Err("an earlier flush failed".to_owned())
        } else {
            shared.flush()
        };
        if outcome.is_err() {
            failed.store(true, Ordering::SeqCst);
        }
        for waiter in all {
            // Whoever stopped waiting does not need to know.
            let _ = waiter.send(outcome.clone());
        }
    }
}
