//! YAML text as a tree in which every value knows its line, and duplicate keys are still there to be reported.
//!
//! `saphyr_parser` gives events with positions; what a bare word is (`true`, `12`, nothing) is what `serde_yaml` takes it
//! for. Anchors, aliases and tags are refused where they stand: what they save in a file of this kind is little, and what
//! an alias can grow into has no bound.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_yaml::Value;

use super::problems::Problem;

/// Deepest nesting; the configuration itself needs six.
const MAX_DEPTH: usize = 16;
/// Most values in one file.
const MAX_NODES: usize = 100_000;
/// Why there are no anchors.
const NO_ANCHORS: &str =
    "anchors (&name) and aliases (*name) are not read here; write the value out where it is needed";

/// A value and where it begins.
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) data: Data,
}

/// What a value is.
pub(super) enum Data {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    /// Any other scalar.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in order and with its duplicates.
    Map(Vec<Entry>),
    /// Something that was reported already.
    Refused,
}

/// A key and its value.
pub(super) struct Entry {
    pub(super) key: String,
    /// The key's line, which is where people look for the value.
    pub(super) line: usize,
    pub(super) value: Node,
}

/// A collection whose end has not come yet.
enum Open {
    List {
        line: usize,
        items: Vec<Node>,
    },
    Map {
        line: usize,
        entries: Vec<Entry>,
        key: Option<(String, usize)>,
    },
}

/// The tree while it grows.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    documents: usize,
    remarks: Vec<Problem>,
}

/// Reads a document. The problems are those that leave the rest readable.
///
/// # Errors
/// The one problem after which nothing that follows can be trusted.
pub(super) fn read(text: &str) -> Result<(Node, Vec<Problem>), Problem> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let (info, column) = (error.info(), error.marker().col() + 1);
            whole(
                error.marker().line(),
                format!("this is not YAML: {info} (column {column})"),
            )
        })?;
        builder.take(event, span.start.line().max(1))?;
    }
    let root = builder.root.unwrap_or(Node {
        line: 1,
        data: Data::Null,
    });
    Ok((root, builder.remarks))
}

fn whole(line: usize, message: impl Into<String>) -> Problem {
    Problem {
        path: String::new(),
        line,
        message: message.into(),
    }
}

/// What a scalar without quotes is.
fn plain(text: &str) -> Data {
    match serde_yaml::from_str(text) {
        Ok(Value::Null) => Data::Null,
        Ok(Value::Bool(value)) => Data::Bool(value),
        Ok(Value::Number(_)) => Data::Number(text.to_owned()),
        _ => Data::Text(text.to_owned()),
    }
}

// === impl Builder ===

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), Problem> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(whole(
                        line,
                        "a second document begins here; write one document without `---`",
                    ));
                }
            }
            Event::Alias(_) => {
                self.remarks.push(whole(line, NO_ANCHORS));
                self.add(line, Data::Refused)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.properties(line, anchor, tag.is_some());
                if matches!(self.open.last(), Some(Open::Map { key: None, .. })) {
                    self.key(line, &text);
                } else if style == ScalarStyle::Plain {
                    self.add(line, plain(&text))?;
                } else {
                    self.add(line, Data::Text(text.into_owned()))?;
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.properties(line, anchor, tag.is_some());
                self.begin(Open::List {
                    line,
                    items: Vec::new(),
                })?;
            }
            Event::MappingStart(anchor, tag) => {
                self.properties(line, anchor, tag.is_some());
                self.begin(Open::Map {
                    line,
                    entries: Vec::new(),
                    key: None,
                })?;
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { line, items }) => self.add(line, Data::List(items))?,
                Some(Open::Map { line, entries, .. }) => self.add(line, Data::Map(entries))?,
                None => {}
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn properties(&mut self, line: usize, anchor: usize, tagged: bool) {
        if anchor > 0 {
            self.remarks.push(whole(line, NO_ANCHORS));
        }
        if tagged {
            self.remarks
                .push(whole(line, "tags (!name) are not read here; leave it out"));
        }
    }

    fn key(&mut self, line: usize, text: &str) {
        if let Some(Open::Map { key, .. }) = self.open.last_mut() {
            *key = Some((text.to_owned(), line));
        }
    }

    fn begin(&mut self, open: Open) -> Result<(), Problem> {
        let (Open::List { line, .. } | Open::Map { line, .. }) = open;
        if matches!(self.open.last(), Some(Open::Map { key: None, .. })) {
            return Err(whole(line, "a list or a map cannot be a key; write `key: value`"));
        }
        if self.open.len() == MAX_DEPTH {
            return Err(whole(line, format!("this is nested more than {MAX_DEPTH} levels deep")));
        }
        self.open.push(open);
        Ok(())
    }

    /// Puts a finished value where it belongs.
    fn add(&mut self, line: usize, data: Data) -> Result<(), Problem> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(whole(line, format!("the file has more than {MAX_NODES} values")));
        }
        let value = Node { line, data };
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some(Open::List { items, .. }) => items.push(value),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                Some((key, line)) => entries.push(Entry { key, line, value }),
                // Only an alias comes here: it stands where a key should, and was reported.
                None => *key = Some(("*".to_owned(), line)),
            },
        }
        Ok(())
    }
}
