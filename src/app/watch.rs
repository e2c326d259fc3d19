//! Whether files have changed. They are looked at every few seconds: that sees what was replaced by rename, behind a symbolic
//! link (as Kubernetes does) and on network disks, where the system tells nobody of changes, and costs next to nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// How often. A change is taken once it has stood for as long: somebody may still be writing.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// What changes if a file does: where it is, its size and its times. `None` if it is not there.
type Look = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

/// Files that are looked at.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// As they were when they were read last.
    read: BTreeMap<PathBuf, Look>,
    /// As they were at the last look.
    seen: BTreeMap<PathBuf, Look>,
}

impl Watch {
    /// These files were just read. Those that were looked at before are as they were then; for others it begins now.
    pub(super) fn have_read(&mut self, files: &[PathBuf]) {
        let known = std::mem::take(&mut self.seen);
        let look_of = |file: &PathBuf| (file.clone(), known.get(file).copied().unwrap_or_else(|| look(file)));
        self.read = files.iter().map(look_of).collect();
        self.seen = self.read.clone();
    }

    /// Looks at all of them: whether something has changed since they were read, and nothing since the last look.
    pub(super) fn has_changed(&mut self) -> bool {
        let now: BTreeMap<PathBuf, Look> = self.read.keys().map(|file| (file.clone(), look(file))).collect();
        let stands = now == self.seen;
        let changed = now != self.read;
        self.seen = now;
        changed && stands
    }
}

fn look(file: &PathBuf) -> Look {
    // Through links: what counts is the file that would be read.
    let found = fs::metadata(file).ok()?;
    Some((
        found.dev(),
        found.ino(),
        found.size(),
        (found.mtime(), found.mtime_nsec()),
        (found.ctime(), found.ctime_nsec()),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// What is seen of a change, look by look.
    fn looks(watch: &mut Watch) -> [bool; 3] {
        [watch.has_changed(), watch.has_changed(), watch.has_changed()]
    }

    #[test]
    fn a_change_counts_once_it_stands() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.yaml");
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::default();
        watch.have_read(&[file.clone()]);
        assert_eq!(looks(&mut watch), [false; 3]);
        fs::write(&file, "two").unwrap();
        assert!(!watch.has_changed());
        fs::write(&file, "three").unwrap();
        assert_eq!(looks(&mut watch), [false, true, true]);
        watch.have_read(&[file.clone()]);
        assert_eq!(looks(&mut watch), [false; 3]);
        // Gone, and back again.
        fs::remove_file(&file).unwrap();
        assert_eq!(looks(&mut watch), [false, true, true]);
        watch.have_read(&[file.clone()]);
        fs::write(&file, "three").unwrap();
        assert_eq!(looks(&mut watch), [false, true, true]);
    }

    #[test]
    fn a_file_that_takes_anothers_place_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let (file, other) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&file, "same").unwrap();
        let mut watch = Watch::default();
        watch.have_read(&[file.clone()]);
        fs::write(&other, "same").unwrap();
        fs::rename(&other, &file).unwrap();
        assert_eq!(looks(&mut watch), [false, true, true]);
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for version in ["one", "two"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("gateway.yaml"), version).unwrap();
        }
        // As Kubernetes lays out a ConfigMap.
        symlink("one", at("..data")).unwrap();
        symlink("..data/gateway.yaml", at("gateway.yaml")).unwrap();
        let mut watch = Watch::default();
        watch.have_read(&[at("gateway.yaml")]);
        assert_eq!(looks(&mut watch), [false; 3]);
        symlink("two", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(looks(&mut watch), [false, true, true]);
    }

    #[test]
    fn what_changed_while_it_was_read_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::default();
        watch.have_read(&[file.clone()]);
        fs::write(&file, "two").unwrap();
        assert_eq!(looks(&mut watch), [false, true, true]);
        // Between the look and the end of reading.
        fs::write(&file, "three").unwrap();
        watch.have_read(&[file.clone()]);
        assert_eq!(looks(&mut watch), [false, true, true]);
    }
}
