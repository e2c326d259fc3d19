//! The directory that the store lives in: who may use it, and which database in it is the current one.
//!
//! ```text
//! <path>/LOCK        held with flock for as long as the process lives
//! <path>/CURRENT     the format, and the name of the current database
//! <path>/db-000001/  that database; after a compaction db-000002, and so on
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Hook, Step, backend};
use crate::store::StoreError;

/// The store format that this version writes, and the only one that it reads.
const FORMAT: u32 = 1;
/// How long to wait between two tries for a lock.
const RETRY_EVERY: Duration = Duration::from_millis(50);
/// What the name of every database begins with.
const DATABASE_PREFIX: &str = "db-";

/// The locked directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Dropped with the store, and only then unlocked.
    _lock: File,
}

/// The number of a database: `db-` and at least six digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Database(u64);

impl Database {
    /// The first of a new store.
    pub(super) const FIRST: Self = Self(1);

    /// The one that a compaction writes.
    pub(super) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    fn name(self) -> String {
        format!("{DATABASE_PREFIX}{:06}", self.0)
    }

    fn parse(name: &str) -> Option<Self> {
        let database = Self(name.strip_prefix(DATABASE_PREFIX)?.parse().ok()?);
        // Only what we would write ourselves: anything else in the directory is none of our business.
        (database.name() == name).then_some(database)
    }
}

impl Directory {
    /// Takes the directory for this process. A process that was killed may hold its lock a little longer, so a taken
    /// lock is tried again until `deadline`.
    pub(super) fn lock(path: &Path, deadline: Instant) -> Result<Self, StoreError> {
        make(path).map_err(backend("making the store directory"))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("LOCK"))
            .map_err(backend("opening the file LOCK"))?;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    return Ok(Self {
                        path: path.to_owned(),
                        _lock: file,
                    });
                }
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(RETRY_EVERY),
                Err(TryLockError::WouldBlock) => return Err(locked(path)),
                Err(TryLockError::Error(error)) => return Err(backend("locking the file LOCK")(error)),
            }
        }
    }

    /// The current database, if the store has ever been opened.
    pub(super) fn current(&self) -> Result<Option<Database>, StoreError> {
        let text = match fs::read_to_string(self.path.join("CURRENT")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(backend("reading the file CURRENT")(error)),
        };
        let mut words = text.split_ascii_whitespace();
        let format = words.next().and_then(|word| word.strip_prefix("format=")?.parse().ok());
        match format {
            Some(FORMAT) => {}
            Some(found) => {
                return Err(StoreError::Format {
                    path: self.path.display().to_string(),
                    found,
                    known: FORMAT,
                });
            }
            None => return Err(unreadable()),
        }
        let database = words
            .next()
            .and_then(|word| Database::parse(word.strip_prefix("database=")?));
        database.map(Some).ok_or_else(unreadable)
    }

    /// Makes a database the current one. Once this has returned, it stays so whatever happens; while it runs, either one
    /// may be found after a crash.
    pub(super) fn set_current(&self, database: Database, hook: Option<&Hook>) -> Result<(), SwitchError> {
        let draft = self.path.join("CURRENT.new");
        let written = || {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&draft)?;
            writeln!(file, "format={FORMAT}\ndatabase={}", database.name())?;
            file.sync_all()?;
            super::at(hook, Step::BeforeSwitch)?;
            fs::rename(&draft, self.path.join("CURRENT"))
        };
        written().map_err(SwitchError::Before)?;
        super::at(hook, Step::AfterSwitch)
            .and_then(|()| sync(&self.path))
            .map_err(SwitchError::After)
    }

    /// Where a database is.
    pub(super) fn path_of(&self, database: Database) -> PathBuf {
        self.path.join(database.name())
    }

    /// Makes the directory of a database.
    pub(super) fn make(&self, database: Database) -> io::Result<PathBuf> {
        let path = self.path_of(database);
        make(&path)?;
        sync(&self.path)?;
        Ok(path)
    }

    /// Every database that is there.
    pub(super) fn databases(&self) -> io::Result<Vec<Database>> {
        let mut databases = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let database = entry.file_name().to_str().and_then(Database::parse);
            if let Some(database) = database.filter(|_| entry.path().is_dir()) {
                databases.push(database);
            }
        }
        Ok(databases)
    }

    /// Removes a database that is not the current one.
    pub(super) fn remove(&self, database: Database) -> io::Result<()> {
        fs::remove_dir_all(self.path_of(database))
    }

    /// How this directory is named in errors.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// How far a switch of the current database came.
#[derive(Debug)]
pub(super) enum SwitchError {
    /// The old one is current, as before.
    Before(io::Error),
    /// The new one is current, but after a power loss it may be the old one.
    After(io::Error),
}

/// Another process is here.
pub(super) fn locked(path: &Path) -> StoreError {
    StoreError::Locked {
        path: path.display().to_string(),
    }
}

/// Bytes of the files in a directory and the directories in it.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // A file may go while we look: the database removes its own old snapshots.
        total += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path())?,
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(total)
}

/// Makes every file in a directory, and the directory itself, survive a power loss.
pub(super) fn sync_all(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        match if path.is_dir() { sync_all(&path) } else { sync(&path) } {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    sync(path)
}

/// Makes one file or directory survive a power loss.
fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory that nobody else can look into; one that is there already keeps its mode.
fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn unreadable() -> StoreError {
    StoreError::Corrupt {
        kind: "CURRENT",
        detail: "expected format=… and database=db-…; docs/storage.md says how to repair it".to_owned(),
    }
}
