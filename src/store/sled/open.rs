//! Opening a store: lock, format, counts.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock};

use super::directory::{Directory, failed};
use super::flusher::Flusher;
use super::records::{Kind, decode, encode};
use super::transaction::backend;
use super::{Active, Limits, Shared, SledStore};
use crate::store::{Observer, StoreError};

/// The format of the store as a whole; a version that changes what records mean counts it up.
const FORMAT: u32 = 1;
/// sled's page cache.
const CACHE_BYTES: u64 = 64 << 20;

impl SledStore {
    /// Opens the store in a directory, which is made if it is missing. Waits some seconds for a process that is just ending.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it, [`StoreError::Format`] if a later version wrote it.
    pub async fn open(path: &Path, observer: Arc<dyn Observer>) -> Result<Self, StoreError> {
        Self::open_with(path, observer, Limits::default()).await
    }

    /// The same with limits of one's own.
    ///
    /// # Errors
    /// As for [`SledStore::open`].
    pub async fn open_with(path: &Path, observer: Arc<dyn Observer>, limits: Limits) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || open(&path)).await;
        let shared = Arc::new(opened.map_err(|error| StoreError::Backend {
            operation: "opening",
            source: Box::new(error),
        })??);
        let count = |kind: Kind| shared.active().db.scan_prefix([kind as u8]).keys().count();
        let (clients, authorizations) = (
            AtomicUsize::new(count(Kind::Client)),
            AtomicUsize::new(count(Kind::Authorization)),
        );
        Ok(Self {
            flusher: Flusher::start(Arc::clone(&shared))?,
            shared,
            observer,
            limits,
            revocations: AtomicU64::new(0),
            clients,
            authorizations,
            admission: Mutex::new(()),
            rewriting: tokio::sync::Mutex::new(()),
        })
    }
}

fn open(path: &Path) -> Result<Shared, StoreError> {
    let directory = Directory::lock(path)?;
    let active = open_database(directory.current()?)?;
    let format_key = Kind::Meta.key(b"format");
    match active.db.get(&format_key).map_err(backend("reading the format"))? {
        Some(bytes) => {
            let found: u32 = decode(Kind::Meta, &bytes)?;
            if found != FORMAT {
                return Err(StoreError::Format {
                    path: path.display().to_string(),
                    found,
                    known: FORMAT,
                });
            }
        }
        None => {
            active
                .db
                .insert(format_key, encode(Kind::Meta, &FORMAT)?)
                .map_err(backend("writing the format"))?;
        }
    }
    let shared = Shared {
        directory,
        active: RwLock::new(active),
        touched: Mutex::new(None),
    };
    shared.flush().map_err(|detail| StoreError::Backend {
        operation: "the first flush",
        source: detail.into(),
    })?;
    Ok(shared)
}

pub(super) fn open_database(path: PathBuf) -> Result<Active, StoreError> {
    // Nothing is flushed behind our back: who needs a flush waits for one.
    let config = ::sled::Config::new()
        .path(&path)
        .flush_every_ms(None)
        .cache_capacity(CACHE_BYTES);
    let db = config.open().map_err(|source| StoreError::Backend {
        operation: "opening the database; if its files were damaged, restore the directory from a backup, or move it away to begin anew (everybody then signs in again)",
        source: Box::new(source),
    })?;
    let file = File::open(path.join("db")).map_err(failed("opening the database's file"))?;
    Ok(Active { db, file, path })
}
