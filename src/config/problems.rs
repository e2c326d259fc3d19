//! What is wrong with a configuration: every problem, where it is, and what to write instead.

use std::fmt;

use super::files::ReadFile;

/// Problems after which the rest is only counted.
const MAX_SHOWN: usize = 200;

/// Everything that is wrong with a configuration, in the order of its lines. Prints one line for each, the last one ended too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
    left_out: usize,
    files: Vec<ReadFile>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `upstreams[1].url`; empty for the file as a whole.
    pub path: String,
    /// Counted from 1; 0 if there is no line to point at.
    pub line: usize,
    /// What is wrong and what to write instead. Never holds a secret.
    pub message: String,
}

// === impl Problems ===

impl Problems {
    /// Puts them in order.
    pub(super) fn new(mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.line);
        let left_out = list.len().saturating_sub(MAX_SHOWN);
        list.truncate(MAX_SHOWN);
        Self {
            file: "gateway.yaml".to_owned(),
            list,
            left_out,
            files: Vec::new(),
        }
    }

    /// A problem with the file as a whole.
    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self::new(vec![Problem {
            path: String::new(),
            line: 0,
            message: message.into(),
        }])
    }

    /// The same, said of this file.
    pub(super) fn in_file(mut self, file: impl Into<String>) -> Self {
        self.file = file.into();
        self
    }

    /// The same, found while these files were read.
    pub(super) fn among(mut self, files: Vec<ReadFile>) -> Self {
        self.files = files;
        self
    }

    /// The files that the configuration names: a change of one of them may be what mends it.
    #[must_use]
    pub fn files(&self) -> &[ReadFile] {
        &self.files
    }

    /// The problems, in the order of their lines.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Problem { path, line, message } in &self.list {
            f.write_str(&self.file)?;
            if *line > 0 {
                write!(f, ":{line}")?;
            }
            if !path.is_empty() {
                write!(f, ": {path}")?;
            }
            writeln!(f, ": {message}")?;
        }
        if self.left_out > 0 {
            writeln!(f, "{}: and {} problems more", self.file, self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
