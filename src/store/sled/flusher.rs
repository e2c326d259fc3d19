//! Group commit: one thread flushes for everybody.
//!
//! A writer applies its change and waits here. The thread takes everybody who waits, flushes once and wakes them all, so
//! the more wait, the less each flush costs. `Tree::flush_async` would flush on the threads that also have to write the
//! log, and stops for good with eight waiters.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tokio::sync::oneshot;

use super::{Shared, Step, backend};
use crate::store::StoreError;

/// The thread, and the way to it.
pub(super) struct Flusher {
    /// Taken when the store is dropped, which ends the thread.
    waiters: Option<Sender<Waiter>>,
    thread: Option<JoinHandle<()>>,
}

/// Somebody who waits until the change of this number is on disk.
struct Waiter {
    change: u64,
    done: oneshot::Sender<bool>,
}

impl Flusher {
    pub(super) fn start(shared: Arc<Shared>) -> Result<Self, StoreError> {
        let (sender, receiver) = channel();
        let thread = thread::Builder::new()
            .name("store-flusher".to_owned())
            .spawn(move || run(&shared, &receiver))
            .map_err(backend("starting the flusher"))?;
        Ok(Self {
            waiters: Some(sender),
            thread: Some(thread),
        })
    }

    /// Returns when the change of this number is on disk.
    pub(super) async fn flushed(&self, shared: &Shared, change: u64) -> Result<(), StoreError> {
        if shared.flushed.load(Ordering::Acquire) >= change {
            return Ok(());
        }
        let (done, flushed) = oneshot::channel();
        let sent = match &self.waiters {
            Some(waiters) => waiters.send(Waiter { change, done }).is_ok(),
            None => false,
        };
        if sent && flushed.await.unwrap_or(false) {
            Ok(())
        } else {
            // Also when the thread is gone: what was written since may never reach the disk.
            shared.fail();
            Err(failed())
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.waiters = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; a panic in it has failed every waiter already.
            let _ = thread.join();
        }
    }
}

/// What a writer hears after a flush has failed, until the process is started again.
pub(super) fn failed() -> StoreError {
    StoreError::Backend {
        operation: "flushing",
        source: "a flush failed; nothing more is written until the gateway is restarted".into(),
    }
}

fn run(shared: &Shared, receiver: &Receiver<Waiter>) {
    while let Ok(first) = receiver.recv() {
        let mut waiters = vec![first];
        waiters.extend(receiver.try_iter());
        let needed = waiters.iter().map(|waiter| waiter.change).max().unwrap_or_default();
        let fine = shared.flushed.load(Ordering::Acquire) >= needed || flush(shared);
        for waiter in waiters {
            // Whoever has stopped waiting does not want to know.
            let _ = waiter.done.send(fine);
        }
    }
    if shared.flushed.load(Ordering::Acquire) < shared.written.load(Ordering::Acquire) {
        flush(shared);
    }
}

/// Puts everything written so far on disk. After a failure nobody knows what is there, so it is the last flush.
fn flush(shared: &Shared) -> bool {
    let started = Instant::now();
    let outcome = try_flush(shared);
    shared.observer.operation("flush", started.elapsed());
    match outcome {
        Ok(change) => {
            shared.flushed.fetch_max(change, Ordering::AcqRel);
            true
        }
        Err(error) => {
            shared.fail();
            tracing::error!(error = %error, "the store cannot be flushed and takes no more writes");
            false
        }
    }
}

fn try_flush(shared: &Shared) -> Result<u64, Box<dyn std::error::Error>> {
    if shared.has_failed() {
        return Err("it failed before".into());
    }
    let (active, change) = {
        // sled lets no change in while it flushes, and no lookup past a waiting change. With the changes waiting here
        // instead, lookups go on.
        let _writer = shared.writer.blocking_lock();
        let active = shared.active();
        let change = shared.written.load(Ordering::Acquire);
        super::at(shared.hook.as_ref(), Step::Flush)?;
        active.tree.flush()?;
        (active, change)
    };
    active.file.sync_data()?;
    Ok(change)
}
