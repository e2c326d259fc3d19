//! Opening: the lock, the current database, and what a crash left behind.

use std::fs::OpenOptions;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use ::sled::{Config, Db};

use super::change::Counts;
use super::directory::{self, Database, Directory, SwitchError, locked};
use super::flusher::Flusher;
use super::{Active, Observer, Options, Shared, SledStore, Writer, backend};
use crate::store::StoreError;

/// What opening a damaged database fails with.
const OPENING: &str = "opening the database; if it is damaged, put back a backup of the directory, or move the directory \
                       away and start with an empty one (everybody signs in again): docs/storage.md";

impl SledStore {
    /// Opens the store in this directory, which is made if it is missing.
    ///
    /// # Errors
    /// If another process has it, if it was written by a later version, or if it cannot be read.
    pub fn open(path: &Path, observer: Arc<dyn Observer>) -> Result<Self, StoreError> {
        Self::open_with(
            path,
            Options {
                observer,
                ..Options::default()
            },
        )
    }

    /// Opens the store with other limits.
    ///
    /// # Errors
    /// As [`SledStore::open`].
    pub fn open_with(path: &Path, options: Options) -> Result<Self, StoreError> {
        let deadline = Instant::now() + options.lock_wait;
        let directory = Directory::lock(path, deadline)?;
        let database = match directory.current()? {
            Some(database) => existing(&directory, database)?,
            None => first(&directory, &options, deadline)?,
        };
        let tree = open_database(&directory, database, options.cache_bytes, deadline)?;
        super::people::index_grants(&tree)?;
        let active = Active::new(&directory, database, tree)?;
        let shared = Arc::new(Shared {
            writer: tokio::sync::Mutex::new(Writer {
                counts: Counts::of(&active.tree)?,
                touched: None,
            }),
            active: RwLock::new(Arc::new(active)),
            written: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            revocations: AtomicU64::new(0),
            limits: options.limits,
            cache_bytes: options.cache_bytes,
            compact_above: options.compact_above,
            observer: options.observer,
            hook: options.hook,
            directory,
        });
        Ok(Self {
            flusher: Flusher::start(Arc::clone(&shared))?,
            shared,
        })
    }
}

impl Active {
    pub(super) fn new(directory: &Directory, database: Database, tree: Db) -> Result<Self, StoreError> {
        let log = directory.path_of(database).join("db");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(log)
            .map_err(backend("opening the log"))?;
        Ok(Self { tree, file, database })
    }
}

/// The current database; what a compaction left behind when it was interrupted is removed.
fn existing(directory: &Directory, current: Database) -> Result<Database, StoreError> {
    if !directory.path_of(current).join("db").exists() {
        return Err(StoreError::Corrupt {
            kind: "CURRENT",
            detail: "it names a database that is not there; put back a backup of the whole directory".to_owned(),
        });
    }
    let databases = directory.databases().map_err(backend("listing the store directory"))?;
    for other in databases.into_iter().filter(|database| *database != current) {
        directory
            .remove(other)
            .map_err(backend("removing what an interrupted compaction left"))?;
    }
    Ok(current)
}

/// Makes the first database. A crash may have interrupted that before; data without CURRENT is another matter.
fn first(directory: &Directory, options: &Options, deadline: Instant) -> Result<Database, StoreError> {
    let database = Database::FIRST;
    let found = directory.databases().map_err(backend("listing the store directory"))?;
    if found.iter().any(|found| *found != database) {
        return Err(lost());
    }
    let path = directory.make(database).map_err(backend("making the first database"))?;
    let tree = open_database(directory, database, options.cache_bytes, deadline)?;
    if !tree.is_empty() {
        return Err(lost());
    }
    tree.flush().map_err(backend("flushing the first database"))?;
    drop(tree);
    directory::sync_all(&path).map_err(backend("flushing the first database"))?;
    directory
        .set_current(database, None)
        .map_err(|(SwitchError::Before(error) | SwitchError::After(error))| {
            backend("writing the file CURRENT")(error)
        })?;
    Ok(database)
}

fn lost() -> StoreError {
    StoreError::Corrupt {
        kind: "CURRENT",
        detail: "it is missing although there is a database; docs/storage.md says how to write it".to_owned(),
    }
}

/// Opens a database. Nobody else has the store, but a process that was killed gives its files free one by one.
pub(super) fn open_database(
    directory: &Directory,
    database: Database,
    cache_bytes: u64,
    deadline: Instant,
) -> Result<Db, StoreError> {
    let config = Config::new()
        .path(directory.path_of(database))
        .cache_capacity(cache_bytes)
        // Only our own thread flushes.
        .flush_every_ms(None);
    loop {
        // sled asserts what it expects of its files.
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(tree)) => return Ok(tree),
            Ok(Err(error)) if is_lock(&error) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(50));
            }
            Ok(Err(error)) if is_lock(&error) => return Err(locked(directory.path())),
            Ok(Err(error)) => return Err(backend(OPENING)(error)),
            Err(_) => return Err(backend(OPENING)("its files are not what they should be")),
        }
    }
}

fn is_lock(error: &::sled::Error) -> bool {
    matches!(error, ::sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock"))
}
