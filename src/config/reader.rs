//! Walking a YAML document with every problem written down: what it is, where (path and line), and what to write instead.
//! serde stops at the first error; whoever edits a configuration wants all of them at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser};
use serde_yaml::Value;

/// Longest configuration that is read.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Most entries of any list or map.
const MAX_ENTRIES: usize = 1_000;
/// Longest text anywhere in it.
const MAX_TEXT: usize = 4 << 10;
/// Problems after which the rest is left out.
const MAX_PROBLEMS: usize = 200;

/// Everything that is wrong with a configuration, in the order of its lines. Prints as one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `upstreams[1].url`; empty for the document as a whole.
    pub path: String,
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// A document being read.
pub(super) struct Document<'a> {
    pub(super) root: Value,
    lines: HashMap<String, usize>,
    problems: RefCell<Vec<Problem>>,
    /// Where `{ env: NAME }` is looked up.
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
    /// What relative file names are relative to.
    pub(super) directory: &'a std::path::Path,
}

/// A value in it.
#[derive(Clone)]
pub(super) struct Node<'a> {
    pub(super) document: &'a Document<'a>,
    pub(super) path: String,
    pub(super) value: &'a Value,
}

// === impl Problems ===

impl Problems {
    /// A problem with the file as a whole.
    pub(super) fn whole(message: impl Into<String>, line: usize) -> Self {
        let problem = Problem {
            path: String::new(),
            line,
            message: message.into(),
        };
        Self {
            file: "gateway.yaml".to_owned(),
            list: vec![problem],
        }
    }

    /// The problems.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// The same, said of this file.
    pub(super) fn of(mut self, file: &str) -> Self {
        file.clone_into(&mut self.file);
        self
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Problem { path, line, message } in &self.list {
            let separator = if path.is_empty() { "" } else { ": " };
            writeln!(f, "{}:{line}: {path}{separator}{message}", self.file)?;
        }
        let count = self.list.len();
        writeln!(f, "{count} problem{}", if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Problems {}

// === impl Document ===

impl<'a> Document<'a> {
    /// Reads YAML text.
    ///
    /// # Errors
    /// If it is too long or not YAML at all; that is one problem, since nothing after it can be trusted.
    pub(super) fn read(
        text: &str,
        directory: &'a std::path::Path,
        environment: &'a dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Problems> {
        if text.len() > MAX_BYTES {
            return Err(Problems::whole("the file is larger than 1 MiB", 1));
        }
        // Anchors are refused before anything resolves them: what they save here is not worth what they can do.
        let lines = lines(text)?;
        let root = serde_yaml::from_str(text).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            Problems::whole(format!("this is not YAML: {error}"), line)
        })?;
        Ok(Self {
            root,
            lines,
            problems: RefCell::default(),
            environment,
            directory,
        })
    }

    pub(super) fn node(&'a self) -> Node<'a> {
        Node {
            document: self,
            path: String::new(),
            value: &self.root,
        }
    }

    /// The problems found so far.
    pub(super) fn problems(&self) -> Option<Problems> {
        let mut list = self.problems.borrow().clone();
        list.sort_by(|a, b| (a.line, &a.path).cmp(&(b.line, &b.path)));
        list.dedup();
        (!list.is_empty()).then(|| Problems {
            file: "gateway.yaml".to_owned(),
            list,
        })
    }

    fn line(&self, path: &str) -> usize {
        // What is missing is said where it is missing: at the nearest parent.
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(at) => path = &path[..at],
                None => return self.lines.get("").copied().unwrap_or(1),
            }
        }
    }
}

// === impl Node ===

impl<'a> Node<'a> {
    /// Writes down what is wrong with this value.
    pub(super) fn problem(&self, message: impl Into<String>) {
        self.problem_at(&self.path, message);
    }

    fn problem_at(&self, path: &str, message: impl Into<String>) {
        let mut problems = self.document.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            problems.push(Problem {
                path: path.to_owned(),
                line: self.document.line(path),
                message: message.into(),
            });
        }
    }

    /// A value that comes of this one, or a problem.
    pub(super) fn check<T, E: fmt::Display>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problem(error.to_string())).ok()
    }

    /// A map with these keys and no others. Whether it is one.
    pub(super) fn object(&self, known: &[&str]) -> bool {
        let Value::Mapping(map) = self.value else {
            self.problem(format!("must be a map with the keys {}", known.join(", ")));
            return false;
        };
        for key in map.keys() {
            let name = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
            if !known.contains(&name.as_str()) {
                let near = known
                    .iter()
                    .map(|other| (distance(&name, other), other))
                    .min()
                    .filter(|(far, _)| *far <= 2);
                let hint = near.map_or_else(
                    || format!("known here: {}", known.join(", ")),
                    |(_, other)| format!("did you mean `{other}`?"),
                );
                self.problem_at(
                    &child(&self.path, &name),
                    format!("unknown key in this version; {hint}"),
                );
            }
        }
        true
    }

    /// The value of a key; one that is not there and one that is null are the same.
    pub(super) fn get(&self, key: &str) -> Option<Node<'a>> {
        let value = self.value.as_mapping()?.get(key).filter(|value| !value.is_null())?;
        Some(Node {
            document: self.document,
            path: child(&self.path, key),
            value,
        })
    }

    /// The value of a key that has to be there.
    pub(super) fn required(&self, key: &str, example: &str) -> Option<Node<'a>> {
        let found = self.get(key);
        if found.is_none() && self.value.is_mapping() {
            self.problem_at(&child(&self.path, key), format!("is missing; write {example}"));
        }
        found
    }

    /// The entries of a map, in order.
    pub(super) fn entries(&self) -> Vec<(String, Node<'a>)> {
        let Value::Mapping(map) = self.value else {
            self.problem("must be a map");
            return Vec::new();
        };
        if map.len() > MAX_ENTRIES {
            self.problem(format!("has more than {MAX_ENTRIES} entries"));
            return Vec::new();
        }
        map.iter()
            .filter_map(|(key, value)| {
                let name = key.as_str().map(str::to_owned);
                if name.is_none() {
                    self.problem("has a key that is not text");
                }
                name.map(|name| {
                    (
                        name.clone(),
                        Node {
                            document: self.document,
                            path: child(&self.path, &name),
                            value,
                        },
                    )
                })
            })
            .collect()
    }

    /// The items of a list.
    pub(super) fn list(&self) -> Vec<Node<'a>> {
        match self.value {
            Value::Sequence(items) if items.len() > MAX_ENTRIES => {
                self.problem(format!("has more than {MAX_ENTRIES} items"));
            }
            Value::Sequence(items) => {
                let node = |(index, value)| Node {
                    document: self.document,
                    path: format!("{}[{index}]", self.path),
                    value,
                };
                return items.iter().enumerate().map(node).collect();
            }
            _ => self.problem("must be a list: [a, b]"),
        }
        Vec::new()
    }

    /// Text.
    pub(super) fn text(&self) -> Option<&'a str> {
        match self.value {
            Value::String(text) if text.len() > MAX_TEXT => self.problem("is longer than 4096 bytes"),
            Value::String(text) if text.chars().any(char::is_control) => {
                self.problem("has a line break or another control character in it");
            }
            Value::String(text) if text.is_empty() => self.problem("is empty"),
            Value::String(text) => return Some(text),
            Value::Number(_) | Value::Bool(_) => self.problem("must be text; put it in quotes"),
            _ => self.problem("must be text"),
        }
        None
    }

    /// Items that are text.
    pub(super) fn texts(&self) -> Vec<(Node<'a>, &'a str)> {
        self.list()
            .into_iter()
            .filter_map(|item| item.text().map(|text| (item.clone(), text)))
            .collect()
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        let found = self.value.as_bool();
        if found.is_none() {
            self.problem("must be true or false");
        }
        found
    }

    /// A whole number.
    pub(super) fn number(&self) -> Option<u64> {
        self.value.as_u64()
    }
}

fn child(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// How many letters have to change to get from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut before = i;
        let mut next = vec![i + 1];
        for (y, &above) in b.iter().zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or_default();
            next.push((before + usize::from(x != *y)).min(above + 1).min(left + 1));
            before = above;
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// What a collection that is being read needs to know: the path of its next child.
enum Place {
    List {
        path: String,
        next: usize,
    },
    Map {
        path: String,
        key: Option<(String, usize)>,
        seen: Vec<String>,
    },
}

/// The line of every path in the document. Refuses what makes a document say more than it shows.
fn lines(text: &str) -> Result<HashMap<String, usize>, Problems> {
    let mut found = HashMap::new();
    let mut places: Vec<Place> = Vec::new();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event
            .map_err(|error| Problems::whole(format!("this is not YAML: {}", error.info()), error.marker().line()))?;
        let line = span.start.line();
        match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(Problems::whole("there is more than one document in the file", line));
                }
            }
            Event::Alias(_) => {
                return Err(Problems::whole(
                    "aliases (*name) are not supported; write the value out",
                    line,
                ));
            }
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor > 0 =>
            {
                return Err(Problems::whole(
                    "anchors (&name) are not supported; write the value out where it is needed",
                    line,
                ));
            }
            Event::Scalar(text, ..) => {
                if let Some(Place::Map {
                    key: key @ None,
                    seen,
                    path,
                }) = places.last_mut()
                {
                    if seen.iter().any(|other| *other == *text) {
                        let path = child(path, &text);
                        return Err(Problems::whole(format!("{path} is there twice"), line));
                    }
                    seen.push(text.to_string());
                    *key = Some((text.into_owned(), line));
                } else {
                    note(&mut found, &mut places, line);
                }
            }
            Event::SequenceStart(..) => {
                let path = note(&mut found, &mut places, line);
                places.push(Place::List { path, next: 0 });
            }
            Event::MappingStart(..) => {
                if let Some(Place::Map { key: None, .. }) = places.last() {
                    return Err(Problems::whole("a key must be text", line));
                }
                let path = note(&mut found, &mut places, line);
                places.push(Place::Map {
                    path,
                    key: None,
                    seen: Vec::new(),
                });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                places.pop();
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        if places.len() > 16 {
            return Err(Problems::whole("it is nested too deeply", line));
        }
    }
    Ok(found)
}

/// Notes the line of the value that comes now, and says its path.
fn note(found: &mut HashMap<String, usize>, places: &mut [Place], line: usize) -> String {
    let (path, line) = match places.last_mut() {
        None => (String::new(), line),
        Some(Place::List { path, next }) => {
            let item = format!("{path}[{next}]");
            *next += 1;
            (item, line)
        }
        // A key's line is where its value is looked for.
        Some(Place::Map { path, key, .. }) => key
            .take()
            .map_or((path.clone(), line), |(key, line)| (child(path, &key), line)),
    };
    found.insert(path.clone(), line);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_line() {
        let lines = lines("a: 1\nb:\n  c: [x, y]\n  d:\n    - e: 1\n      f: 2\n    - g\n").unwrap();
        for (path, line) in [
            ("a", 1),
            ("b", 2),
            ("b.c", 3),
            ("b.c[1]", 3),
            ("b.d", 4),
            ("b.d[0]", 5),
            ("b.d[0].f", 6),
            ("b.d[1]", 7),
        ] {
            assert_eq!(lines.get(path), Some(&line), "{path}");
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        assert_eq!(distance("lissten", "listen"), 1);
        assert_eq!(distance("url", "url"), 0);
        assert!(distance("completely", "other") > 2);
    }
}
