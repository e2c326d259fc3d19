//! Walking the tree. A value that is wrong is written down and the walk goes on, because whoever edits a configuration
//! wants to hear of everything at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::files::ReadFile;
use super::keys;
use super::problems::Problem;
use super::yaml::{Data, Node};

/// Most entries of any list or map.
const MAX_ENTRIES: usize = 1_000;
/// Longest text of one value, in bytes.
const MAX_TEXT: usize = 4 << 10;
/// Problems after which no more are kept.
const MAX_PROBLEMS: usize = 10_000;

/// What every value can reach: the outside world, and the list of problems.
pub(super) struct Reader<'a> {
    /// What relative file names are relative to.
    pub(super) directory: &'a Path,
    /// Looks up an environment variable.
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
    problems: RefCell<Vec<Problem>>,
    files: RefCell<BTreeMap<PathBuf, ReadFile>>,
}

/// A value, its path and its line.
#[derive(Clone)]
pub(super) struct At<'a> {
    pub(super) reader: &'a Reader<'a>,
    pub(super) path: String,
    pub(super) line: usize,
    node: &'a Node,
}

/// A map whose keys are known.
pub(super) struct Object<'a> {
    reader: &'a Reader<'a>,
    path: String,
    line: usize,
    known: &'static [&'static str],
    entries: Vec<(&'a str, At<'a>)>,
    /// Whether there were keys that are not known; they were reported.
    pub(super) has_strangers: bool,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(super) fn new(
        directory: &'a Path,
        environment: &'a dyn Fn(&str) -> Option<String>,
        problems: Vec<Problem>,
    ) -> Self {
        Self {
            directory,
            environment,
            problems: RefCell::new(problems),
            files: RefCell::default(),
        }
    }

    /// The document itself.
    pub(super) fn root(&'a self, node: &'a Node) -> At<'a> {
        At {
            reader: self,
            path: String::new(),
            line: node.line,
            node,
        }
    }

    /// Writes down a problem.
    pub(super) fn problem(&self, path: &str, line: usize, message: impl Into<String>) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            problems.push(Problem {
                path: path.to_owned(),
                line,
                message: message.into(),
            });
        }
    }

    /// All that were written down, and every file that was named.
    pub(super) fn into_parts(self) -> (Vec<Problem>, Vec<ReadFile>) {
        (
            self.problems.into_inner(),
            self.files.into_inner().into_values().collect(),
        )
    }
}

// === impl At ===

impl<'a> At<'a> {
    /// Writes down what is wrong with this value.
    pub(super) fn problem(&self, message: impl Into<String>) {
        self.reader.problem(&self.path, self.line, message);
    }

    /// The same, with nothing to go on with.
    pub(super) fn refuse<T>(&self, message: impl Into<String>) -> Option<T> {
        self.problem(message);
        None
    }

    /// The whole document; one without anything in it is a map without keys, so that what is missing can be said.
    pub(super) fn document(&self, known: &'static [&'static str]) -> Option<Object<'a>> {
        if !matches!(self.node.data, Data::Null) {
            return self.object(known);
        }
        Some(Object {
            reader: self.reader,
            path: String::new(),
            line: self.line,
            known,
            entries: Vec::new(),
            has_strangers: false,
        })
    }

    /// Whether it is a map.
    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.data, Data::Map(_))
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.data, Data::List(_))
    }

    /// Whether it is a list without items.
    pub(super) fn list_is_empty(&self) -> bool {
        matches!(&self.node.data, Data::List(items) if items.is_empty())
    }

    /// Whether it is this bare word.
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(&self.node.data, Data::Text(text) if text == word)
    }

    /// A map with these keys and no others.
    pub(super) fn object(&self, known: &'static [&'static str]) -> Option<Object<'a>> {
        let all = self.entries(|| format!("must be a map with the keys {}", known.join(", ")))?;
        let mut entries: Vec<(&str, At<'a>)> = Vec::new();
        let mut has_strangers = false;
        for (key, value) in all {
            if known.contains(&key) {
                entries.push((key, value));
            } else {
                has_strangers = true;
                let hint = keys::meant(known, key).map_or_else(
                    || format!("known here: {}", known.join(", ")),
                    |meant| format!("did you mean `{meant}`?"),
                );
                value.problem(format!("this key is not known in this version; {hint}"));
            }
        }
        Some(Object {
            reader: self.reader,
            path: self.path.clone(),
            line: self.line,
            known,
            entries,
            has_strangers,
        })
    }

    /// The entries of a map whose keys are free. Each key once.
    pub(super) fn entries(&self, otherwise: impl Fn() -> String) -> Option<Vec<(&'a str, At<'a>)>> {
        let map = match &self.node.data {
            Data::Map(map) if map.len() > MAX_ENTRIES => {
                return self.refuse(format!("has more than {MAX_ENTRIES} keys"));
            }
            Data::Map(map) => map,
            Data::Refused => return None,
            _ => return self.refuse(otherwise()),
        };
        let mut found: Vec<(&str, At<'a>)> = Vec::new();
        for entry in map {
            let value = At {
                reader: self.reader,
                path: child(&self.path, &entry.key),
                line: entry.line,
                node: &entry.value,
            };
            if let Some((_, first)) = found.iter().find(|(key, _)| *key == entry.key) {
                value.problem(format!(
                    "is there twice; the first is on line {}, keep one of them",
                    first.line
                ));
            } else {
                found.push((&entry.key, value));
            }
        }
        Some(found)
    }

    /// The items of a list.
    pub(super) fn list(&self) -> Option<Vec<At<'a>>> {
        let items = match &self.node.data {
            Data::List(items) if items.len() > MAX_ENTRIES => {
                return self.refuse(format!("has more than {MAX_ENTRIES} items"));
            }
            Data::List(items) => items,
            Data::Refused => return None,
            _ => return self.refuse("must be a list; write [one, two] or a line with `- ` for each"),
        };
        let item = |(index, node): (usize, &'a Node)| At {
            reader: self.reader,
            path: format!("{}[{index}]", self.path),
            line: node.line,
            node,
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// Text: not empty, of bounded length, on one line.
    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.node.data {
            Data::Text(text) if text.is_empty() => self.refuse("is empty"),
            Data::Text(text) if text.len() > MAX_TEXT => self.refuse(format!("is longer than {MAX_TEXT} bytes")),
            Data::Text(text) if text.chars().any(char::is_control) => {
                self.refuse("has a line break or another control character in it")
            }
            Data::Text(text) => Some(text),
            Data::Number(_) | Data::Bool(_) => self.refuse("must be text; put it in quotes"),
            Data::Null => self.refuse("is empty; write text"),
            Data::List(_) => self.refuse("must be text, not a list"),
            Data::Map(_) => self.refuse("must be text, not a map"),
            Data::Refused => None,
        }
    }

    /// A file that is to be read: remembered, so that somebody can watch it.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let path = self.reader.directory.join(self.text()?);
        let mut files = self.reader.files.borrow_mut();
        files.entry(path.clone()).or_insert_with(|| ReadFile::look(&path));
        Some(path)
    }

    /// Items that are text.
    pub(super) fn texts(&self) -> Option<Vec<(At<'a>, &'a str)>> {
        let items = self.list()?;
        Some(
            items
                .into_iter()
                .filter_map(|item| item.text().map(|text| (item, text)))
                .collect(),
        )
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.node.data {
            Data::Bool(value) => Some(value),
            Data::Refused => None,
            _ => self.refuse("must be true or false"),
        }
    }

    /// The entries of a map that is read elsewhere, without a word about what is wrong with it.
    pub(super) fn peek(&self) -> Option<Vec<(&'a str, At<'a>)>> {
        let Data::Map(map) = &self.node.data else { return None };
        let entry = |entry: &'a super::yaml::Entry| {
            let value = At {
                reader: self.reader,
                path: child(&self.path, &entry.key),
                line: entry.line,
                node: &entry.value,
            };
            (entry.key.as_str(), value)
        };
        Some(map.iter().take(MAX_ENTRIES).map(entry).collect())
    }

    /// The items of a list that are text, likewise.
    pub(super) fn peek_texts(&self) -> Vec<(At<'a>, &'a str)> {
        let Data::List(items) = &self.node.data else {
            return Vec::new();
        };
        let item = |(index, node): (usize, &'a Node)| {
            let Data::Text(text) = &node.data else { return None };
            let at = At {
                reader: self.reader,
                path: format!("{}[{index}]", self.path),
                line: node.line,
                node,
            };
            Some((at, text.as_str()))
        };
        items.iter().take(MAX_ENTRIES).enumerate().filter_map(item).collect()
    }

    /// A number or a word, as it is written: for values with a unit, which may lack it.
    pub(super) fn written(&self) -> Option<&'a str> {
        match &self.node.data {
            Data::Number(text) | Data::Text(text) if text.len() <= MAX_TEXT => Some(text),
            _ => None,
        }
    }

    /// Whether it was reported while the file was read.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.node.data, Data::Refused)
    }
}

// === impl Object ===

impl<'a> Object<'a> {
    /// The value of a key. One that is not there and one that has no value are the same: a section whose lines are all
    /// commented out is one without a value.
    pub(super) fn get(&self, key: &str) -> Option<&At<'a>> {
        debug_assert!(self.known.contains(&key), "{key} is in the table of keys");
        let found = self.entries.iter().find(|(name, _)| *name == key);
        found.map(|(_, at)| at).filter(|at| !matches!(at.node.data, Data::Null))
    }

    /// The value of a key that has to be there.
    pub(super) fn required(&self, key: &str, example: &str) -> Option<&At<'a>> {
        let found = self.get(key);
        if found.is_none() {
            self.missing(key, example);
        }
        found
    }

    /// Says that a key is missing.
    pub(super) fn missing(&self, key: &str, example: &str) {
        let line = self
            .entries
            .iter()
            .find(|(name, _)| *name == key)
            .map_or(self.line, |(_, at)| at.line);
        self.reader.problem(
            &child(&self.path, key),
            line,
            format!("is missing; write `{key}: {example}`"),
        );
    }

    /// What a key says, else the default.
    pub(super) fn or<T>(&self, key: &str, default: T, read: impl FnOnce(&At<'a>) -> Option<T>) -> T {
        self.get(key).and_then(read).unwrap_or(default)
    }

    /// What an optional key says.
    pub(super) fn optional<T>(&self, key: &str, read: impl FnOnce(&At<'a>) -> Option<T>) -> Option<T> {
        self.get(key).and_then(read)
    }

    /// The map below a key; one without entries if it is not there.
    pub(super) fn section(&self, key: &str, known: &'static [&'static str]) -> Self {
        self.get(key).and_then(|at| at.object(known)).unwrap_or_else(|| Object {
            reader: self.reader,
            path: child(&self.path, key),
            line: self.line,
            known,
            entries: Vec::new(),
            has_strangers: false,
        })
    }

    /// The items of the list below a key; none if it is not there.
    pub(super) fn items(&self, key: &str) -> Vec<At<'a>> {
        self.get(key).and_then(At::list).unwrap_or_default()
    }
}

/// The path of a value below a map. A key may be anything, so what cannot be shown is escaped and a long one cut.
fn child(path: &str, key: &str) -> String {
    let key: String = key.chars().take(64).flat_map(char::escape_debug).collect();
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
