//! What the store, its flusher and a running compaction have in common, and how one change is made.

use std::collections::HashSet;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ::sled::{Batch, Db};

use super::change::{Change, Counts};
use super::directory::{Database, Directory};
use super::{Hook, Limits, Observer, backend, flusher};
use crate::store::StoreError;

/// What the store, its flusher and a running compaction have in common.
pub(super) struct Shared {
    pub(super) active: RwLock<Arc<Active>>,
    /// The writers' lock.
    pub(super) writer: tokio::sync::Mutex<Writer>,
    /// The number of the last change; it counts before the change can be seen.
    pub(super) written: AtomicU64,
    /// The number of the last change that is on disk.
    pub(super) flushed: AtomicU64,
    /// A write has failed: what is on disk is unknown, so nothing more is written.
    pub(super) failed: AtomicBool,
    pub(super) revocations: AtomicU64,
    pub(super) limits: Limits,
    pub(super) cache_bytes: u64,
    pub(super) compact_above: u64,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) hook: Option<Hook>,
    /// Last, so that it is unlocked after everything else is closed.
    pub(super) directory: Directory,
}

/// The database in use.
pub(super) struct Active {
    pub(super) tree: Db,
    /// Its log, for `fdatasync`.
    pub(super) file: File,
    pub(super) database: Database,
}

/// What only the holder of the writers' lock may touch.
pub(super) struct Writer {
    pub(super) counts: Counts,
    /// While a compaction copies: the keys that were written since.
    pub(super) touched: Option<HashSet<Vec<u8>>>,
}

// === impl Shared ===

impl Shared {
    pub(super) fn active(&self) -> Arc<Active> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whoever caches what the store said asks again.
    pub(super) fn count_revocation(&self) {
        self.revocations.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Makes one change; its outcome and its number, with which to wait for the flush.
    pub(super) async fn apply<T>(
        &self,
        event: impl FnOnce(&mut Change<'_>) -> Result<T, StoreError>,
    ) -> Result<(T, u64), StoreError> {
        let mut writer = self.writer.lock().await;
        if self.has_failed() {
            return Err(flusher::failed());
        }
        self.apply_now(&mut writer, event)
    }

    /// Makes one change, even if it cannot reach the disk any more.
    pub(super) fn apply_now<T>(
        &self,
        writer: &mut Writer,
        event: impl FnOnce(&mut Change<'_>) -> Result<T, StoreError>,
    ) -> Result<(T, u64), StoreError> {
        let active = self.active();
        let mut change = Change::new(&active.tree, self.limits, writer.counts);
        let outcome = event(&mut change)?;
        let (writes, counts) = change.finish();
        if writes.is_empty() {
            // It may rest on a change that is not on disk yet, so there is something to wait for all the same.
            return Ok((outcome, self.written.load(Ordering::Acquire)));
        }
        if let Some(touched) = &mut writer.touched {
            touched.extend(writes.keys().cloned());
        }
        let mut batch = Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        let number = self.written.fetch_add(1, Ordering::AcqRel) + 1;
        active.tree.apply_batch(batch).map_err(|error| {
            self.fail();
            backend("writing")(error)
        })?;
        writer.counts = counts;
        Ok((outcome, number))
    }
}
