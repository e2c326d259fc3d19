//! The directory of a store: its lock, and which database in it is the current one.
//!
//! ```text
//! <path>/LOCK        held while a process uses the store
//! <path>/CURRENT     the name of the current database
//! <path>/db-000001/  a sled database
//! ```
//! A database is replaced (see `compact`) by writing a new one beside it and then changing CURRENT, which a rename does
//! atomically; whatever CURRENT does not name is debris of a crash.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::store::StoreError;

/// How often and how long the lock is waited for: a killed process is gone within a second, but not at once.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(100);
const PREFIX: &str = "db-";

/// A store's directory, locked.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Unlocked when closed.
    _lock: File,
}

pub(super) fn failed(operation: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Backend {
        operation,
        source: Box::new(source),
    }
}

impl Directory {
    /// Makes the directory if it is missing, and locks it; waits for a process that is just ending.
    pub(super) fn lock(path: &Path) -> Result<Self, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("making the store's directory"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("LOCK"))
            .map_err(failed("opening the store's lock"))?;
        for attempt in 0..LOCK_ATTEMPTS {
            match lock.try_lock() {
                Ok(()) => {
                    return Ok(Self {
                        path: path.to_owned(),
                        _lock: lock,
                    });
                }
                Err(TryLockError::WouldBlock) if attempt + 1 < LOCK_ATTEMPTS => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Error(error)) => return Err(failed("locking the store")(error)),
            }
        }
        Err(StoreError::Locked {
            path: path.display().to_string(),
        })
    }

    /// The current database's directory; the debris of a crash is removed.
    pub(super) fn current(&self) -> Result<PathBuf, StoreError> {
        let name = match fs::read_to_string(self.path.join("CURRENT")) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let first = format!("{PREFIX}{:06}", 1);
                self.switch_to(&first)?;
                first
            }
            Err(error) => return Err(failed("reading the store's CURRENT file")(error)),
        };
        if number(&name).is_none() {
            return Err(StoreError::Corrupt {
                kind: "CURRENT file",
                detail: "it does not name a database; restore it from a backup".to_owned(),
            });
        }
        for entry in fs::read_dir(&self.path).map_err(failed("listing the store's directory"))? {
            let entry = entry.map_err(failed("listing the store's directory"))?;
            let other = entry.file_name().to_string_lossy().into_owned();
            if other != name && number(&other).is_some() {
                fs::remove_dir_all(entry.path()).map_err(failed("removing an unfinished copy of the store"))?;
            }
        }
        Ok(self.path.join(name))
    }

    /// Where the database after `current` goes.
    pub(super) fn successor(&self, current: &Path) -> Result<PathBuf, StoreError> {
        let number = current
            .file_name()
            .and_then(|name| number(&name.to_string_lossy()))
            .unwrap_or(0);
        let next = self.path.join(format!("{PREFIX}{:06}", number + 1));
        if next.exists() {
            fs::remove_dir_all(&next).map_err(failed("removing an unfinished copy of the store"))?;
        }
        Ok(next)
    }

    /// Makes a database the current one, for good before this returns.
    pub(super) fn switch_to(&self, name: &str) -> Result<(), StoreError> {
        let write = || -> io::Result<()> {
            let fresh = self.path.join("CURRENT.new");
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&fresh)?;
            writeln!(file, "{name}")?;
            file.sync_all()?;
            fs::rename(&fresh, self.path.join("CURRENT"))?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(failed("switching to another database"))
    }
}

/// The number in a database's name.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    (digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

/// Bytes of all files below a directory.
pub(super) fn size(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => size(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}
