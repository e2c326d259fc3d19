//! Lists that are longer than an answer: where to go on, how many, and what they have to have in them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::trouble::Trouble;
use crate::domain::clock::Timestamp;
use crate::telemetry::access::push_time;

/// Most entries of an answer.
const MAX_LIMIT: usize = 200;
/// Entries of an answer if nothing is said.
const DEFAULT_LIMIT: usize = 50;
/// Longest text that is searched for.
const MAX_SEARCH: usize = 128;
/// Longest name of an entry.
const MAX_NAME: usize = 1024;
/// Records that are read at a time.
pub(super) const BATCH: usize = 200;
/// Records that one answer looks at: the next one goes on from there, even if nothing was found.
const MOST_LOOKED_AT: usize = 5_000;

/// What somebody wants to see.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// From behind this entry.
    pub(super) after: Option<String>,
    /// At most so many.
    pub(super) limit: usize,
    /// With this text in them, in lower case.
    pub(super) search: Option<String>,
    /// With exactly these values.
    exactly: Vec<(String, String)>,
}

/// Part of a list.
#[derive(Debug)]
pub(super) struct Page {
    /// The entries.
    pub(super) entries: Vec<Value>,
    /// From behind which entry the next part goes on, if there may be one.
    pub(super) next: Option<String>,
}

/// A walk through records in their order.
pub(super) struct Walk<'a, K> {
    wanted: &'a Wanted,
    entries: Vec<Value>,
    /// The last record that was looked at.
    last: Option<K>,
    looked_at: usize,
    is_over: bool,
    has_more: bool,
}

// === impl Wanted ===

impl Wanted {
    /// As many as an answer may have.
    pub(super) fn everything() -> Self {
        Self {
            limit: MAX_LIMIT,
            ..Self::default()
        }
    }

    /// Reads a query; `known` are the names of values that can be asked for exactly.
    pub(super) fn read(query: &str, known: &[&str]) -> Result<Self, Trouble> {
        let mut wanted = Self {
            limit: DEFAULT_LIMIT,
            ..Self::default()
        };
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&name) {
                return Err(Trouble::malformed(format!("{} is there twice", shown(&name))));
            }
            let too_long = value.len() > MAX_NAME || name == "search" && value.len() > MAX_SEARCH;
            if too_long {
                return Err(Trouble::malformed(format!("{} is too long", shown(&name))));
            }
            let text = Some(value.trim()).filter(|text| !text.is_empty());
            match name.as_ref() {
                "limit" => {
                    let number = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    wanted.limit = number.ok_or_else(|| Trouble::malformed("limit is a number from 1 to 200"))?;
                }
                "after" => wanted.after = text.map(str::to_owned),
                "search" => wanted.search = text.map(str::to_lowercase),
                other if known.contains(&other) => {
                    wanted
                        .exactly
                        .extend(text.map(|text| (other.to_owned(), text.to_owned())));
                }
                other => return Err(Trouble::malformed(format!("{} means nothing here", shown(other)))),
            }
            seen.push(name);
        }
        Ok(wanted)
    }

    /// What a value has to be, if that was said.
    pub(super) fn exactly(&self, name: &str) -> Option<&str> {
        let mut values = self.exactly.iter();
        values.find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Whether an entry has what was searched for in it.
    pub(super) fn fits(&self, entry: &Value) -> bool {
        let exactly = self.exactly.iter().all(|(name, value)| {
            // A grant may be for several upstreams.
            let several = entry[format!("{name}s")].as_array();
            entry[name] == value.as_str() || several.is_some_and(|all| all.iter().any(|one| one == value.as_str()))
        });
        !entry.is_null() && exactly && self.search.as_ref().is_none_or(|search| contains(entry, search))
    }
}

/// Whether any text in an entry contains this one.
fn contains(entry: &Value, search: &str) -> bool {
    match entry {
        Value::String(text) => text.to_lowercase().contains(search),
        Value::Array(list) => list.iter().any(|one| contains(one, search)),
        Value::Object(map) => map.values().any(|one| contains(one, search)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A text from outside, as part of a sentence.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    format!("{short:?}")
}

// === impl Page ===

impl Page {
    /// With a name for the list.
    pub(super) fn to_json(&self, name: &str) -> Value {
        json!({ name: self.entries, "next": self.next })
    }
}

// === impl Walk ===

impl<'a, K: Ord + Clone + ToString> Walk<'a, K> {
    /// From behind a record.
    pub(super) const fn new(wanted: &'a Wanted, after: Option<K>) -> Self {
        Self {
            wanted,
            entries: Vec::new(),
            last: after,
            looked_at: 0,
            is_over: false,
            has_more: false,
        }
    }

    /// Whether there is more to look at.
    pub(super) const fn goes_on(&self) -> bool {
        !self.is_over
    }

    /// From behind which record.
    pub(super) const fn last(&self) -> Option<&K> {
        self.last.as_ref()
    }

    /// Whether a record that is known anyway belongs to the records that come next, which end with `end`.
    pub(super) fn covers(&self, key: &K, end: Option<&K>) -> bool {
        self.last.as_ref().is_none_or(|last| key > last) && end.is_none_or(|end| key <= end)
    }

    /// Looks at the next records; `is_all` if there are no others behind them.
    pub(super) fn take(&mut self, records: BTreeMap<K, Value>, is_all: bool) {
        for (key, entry) in records {
            if self.entries.len() >= self.wanted.limit {
                (self.is_over, self.has_more) = (true, true);
                return;
            }
            self.last = Some(key);
            self.looked_at += 1;
            if self.wanted.fits(&entry) {
                self.entries.push(entry);
            }
        }
        self.is_over = is_all || self.looked_at >= MOST_LOOKED_AT;
        self.has_more = self.is_over && !is_all;
    }

    /// What was found.
    pub(super) fn page(self) -> Page {
        Page {
            next: self.last.filter(|_| self.has_more).map(|last| last.to_string()),
            entries: self.entries,
        }
    }
}

/// `2026-11-23T13:20:00Z`.
pub(super) fn time(at: Timestamp) -> String {
    let mut text = String::new();
    push_time(
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(at.as_seconds()),
        &mut text,
    );
    text.truncate(19);
    text.push('Z');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(query: &str) -> Option<String> {
        Wanted::read(query, &["subject"]).err().map(|trouble| trouble.message)
    }

    #[test]
    fn what_is_asked_for_is_bounded() {
        assert_eq!(codes("limit=200&after=x&search=y&subject=ada"), None);
        for wrong in [
            "limit=0",
            "limit=201",
            "limit=-1",
            "limit=x",
            "after=a&after=b",
            "colour=red",
            "client=x",
        ] {
            assert!(codes(wrong).is_some(), "{wrong}");
        }
        assert!(codes(&format!("search={}", "x".repeat(129))).is_some());
        assert!(codes(&format!("after={}", "x".repeat(1025))).is_some());
    }

    #[test]
    fn a_walk_ends_where_the_next_goes_on() {
        let records = |range: std::ops::Range<u32>| -> BTreeMap<u32, Value> {
            range.map(|n| (n, json!({ "name": format!("n{n}") }))).collect()
        };
        let wanted = |query: &str| Wanted::read(query, &[]).unwrap();
        let three = wanted("limit=3");
        let mut walk = Walk::new(&three, None);
        walk.take(records(0..3), false);
        assert!(walk.goes_on());
        walk.take(records(3..5), true);
        let page = walk.page();
        assert_eq!((page.entries.len(), page.next.as_deref()), (3, Some("2")));
        // Exactly as many as there are: nothing comes behind them.
        let mut walk = Walk::new(&three, Some(2));
        walk.take(records(3..6), true);
        assert_eq!(walk.page().next, None);
        // A search that finds nothing ends all the same, and says where it stopped.
        let nobody = wanted("search=nobody");
        let mut walk = Walk::new(&nobody, None);
        let mut from = 0;
        while walk.goes_on() {
            walk.take(records(from..from + 200), false);
            from += 200;
        }
        let page = walk.page();
        assert_eq!((page.entries.len(), page.next.as_deref()), (0, Some("4999")));
    }

    #[test]
    fn a_time_is_readable() {
        assert_eq!(time(Timestamp::from_millis(1_800_000_000_123)), "2027-01-15T08:00:00Z");
    }
}
