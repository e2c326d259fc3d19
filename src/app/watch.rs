//! Whether files have changed. They are looked at every few seconds: that sees what was replaced by rename, behind a symbolic
//! link (as Kubernetes does) and on network disks, where the system tells nobody of changes, and costs next to nothing.

use std::time::Duration;

use crate::config::ReadFile;

/// How often. A change is taken once it has stood for as long: somebody may still be writing.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// Files that are looked at.
#[derive(Debug)]
pub(super) struct Watch {
    /// As they were when they were read.
    read: Vec<ReadFile>,
    /// As they were at the last look.
    seen: Vec<ReadFile>,
}

impl Watch {
    /// Looks at these files.
    pub(super) fn of(read: Vec<ReadFile>) -> Self {
        Self {
            seen: read.clone(),
            read,
        }
    }

    /// Looks at all of them: whether something has changed since they were read, and nothing since the last look.
    pub(super) fn has_changed(&mut self) -> bool {
        let now: Vec<ReadFile> = self.read.iter().map(|file| ReadFile::look(&file.path)).collect();
        let stands = now == self.seen;
        let changed = now != self.read;
        self.seen = now;
        changed && stands
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// Begins to look at a file that is read now.
    fn watch(path: &Path) -> Watch {
        Watch::of(vec![ReadFile::look(path)])
    }

    /// What is seen of a change, look by look.
    fn looks(watch: &mut Watch) -> [bool; 3] {
        [watch.has_changed(), watch.has_changed(), watch.has_changed()]
    }

    #[test]
    fn a_change_counts_once_it_stands() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.yaml");
        fs::write(&file, "one").unwrap();
        let mut watch = self::watch(&file);
        assert_eq!(looks(&mut watch), [false; 3]);
        fs::write(&file, "two").unwrap();
        assert!(!watch.has_changed());
        fs::write(&file, "three").unwrap();
        assert_eq!(looks(&mut watch), [false, true, true]);
        let mut watch = self::watch(&file);
        assert_eq!(looks(&mut watch), [false; 3]);
        // Gone, and back again.
        fs::remove_file(&file).unwrap();
        assert_eq!(looks(&mut watch), [false, true, true]);
        let mut watch = self::watch(&file);
        fs::write(&file, "three").unwrap();
        assert_eq!(looks(&mut watch), [false, true, true]);
    }

    #[test]
    fn a_file_that_takes_anothers_place_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let (file, other) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&file, "same").unwrap();
        let mut watch = self::watch(&file);
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
        let mut watch = self::watch(&at("gateway.yaml"));
        assert_eq!(looks(&mut watch), [false; 3]);
        symlink("two", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(looks(&mut watch), [false, true, true]);
    }
}
