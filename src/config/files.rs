//! The files that a configuration was read from, each as it was just before: whoever watches them sees every change since.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A file that was read or should have been.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadFile {
    /// Its name.
    pub path: PathBuf,
    /// `None` if it was not there.
    stamp: Option<Stamp>,
}

/// What changes if a file does: where it is, its size and its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    place: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl ReadFile {
    /// The file as it is now. Through links: what counts is the file that would be read.
    #[must_use]
    pub fn look(path: &Path) -> Self {
        let found = fs::metadata(path).ok();
        let stamp = found.map(|found| Stamp {
            place: (found.dev(), found.ino()),
            size: found.size(),
            written: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        });
        Self {
            path: path.to_owned(),
            stamp,
        }
    }
}
