//! The embedded backend, on sled 0.34.
//!
//! One tree, one record per key, one transaction per event. Transactions are serialised by sled, so that of many who redeem
//! one code exactly one finds it unused. No method answers before a flush and an `fdatasync` that began after its change
//! have ended; all who wait share one.

mod compact;
mod directory;
mod events;
mod flusher;
mod open;
mod records;
mod transaction;
mod upkeep;

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use self::directory::Directory;
use self::flusher::Flusher;
use super::{MAX_AUTHORIZATIONS, MAX_REGISTERED_CLIENTS, Observer};

/// How much the store may hold, and when it is rewritten.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most clients that registered themselves.
    pub clients: usize,
    /// Most unfinished authorizations.
    pub authorizations: usize,
    /// Size on disk, in bytes, from which a rewrite is thought about.
    pub compact_from: u64,
}

/// The store.
pub struct SledStore {
    shared: Arc<Shared>,
    flusher: Flusher,
    observer: Arc<dyn Observer>,
    limits: Limits,
    revocations: AtomicU64,
    clients: AtomicUsize,
    authorizations: AtomicUsize,
    /// Held while a capped kind is counted and added to.
    admission: Mutex<()>,
    /// Held while the store is rewritten.
    rewriting: tokio::sync::Mutex<()>,
}

/// What the flusher needs as well.
#[derive(Debug)]
struct Shared {
    directory: Directory,
    /// Readers and writers hold it to read; only the end of a rewrite holds it to write.
    active: RwLock<Active>,
    /// While the store is rewritten: the keys that were written to since it began.
    touched: Mutex<Option<HashSet<Vec<u8>>>>,
}

/// The current database.
#[derive(Debug)]
struct Active {
    db: ::sled::Db,
    /// sled's main file, opened again to make it durable.
    file: File,
    path: PathBuf,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: MAX_REGISTERED_CLIENTS,
            authorizations: MAX_AUTHORIZATIONS,
            compact_from: 64 << 20,
        }
    }
}

/// A lock whose holder panicked guards data that is still whole: every change is one transaction.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn active(&self) -> RwLockReadGuard<'_, Active> {
        self.active.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everything written so far durable: sled's own flush hands it to the system, `fdatasync` to the disk.
    fn flush(&self) -> Result<(), String> {
        let active = self.active();
        active.db.flush().map_err(|error| error.to_string())?;
        active.file.sync_data().map_err(|error| error.to_string())
    }
}
