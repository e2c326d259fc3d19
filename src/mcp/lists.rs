//! What a server offers, less what this caller may not use: the results of `tools/list`, `resources/list`,
//! `resources/templates/list` and `prompts/list`.
//!
//! A result is known by its shape, so that it makes no difference on which stream it comes. Whatever is kept stays byte for
//! byte what it was: fields that nobody knows yet, their order, how a number is written. A result that was the same for
//! everybody (`"cacheScope": "public"`) is this caller's own now.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::events::BYTE_ORDER_MARK;
use super::message::Text;
use super::rules::{Verdict, judge};
use crate::domain::rules::{Rules, Subject};
use crate::domain::scope::Scope;

/// Each list: its key in a result, what is in it, and by which of their keys rules know them.
const LISTS: [(&str, Subject, &str); 4] = [
    ("tools", Subject::Tool, "name"),
    ("resources", Subject::Resource, "uri"),
    ("resourceTemplates", Subject::Resource, "uriTemplate"),
    ("prompts", Subject::Prompt, "name"),
];

/// What may hold a list is not JSON, so nobody can say what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a list cannot be read")]
pub struct Unreadable;

/// Whether what a method lists is subject to rules.
#[must_use]
pub fn is_listed_by(rules: &Rules, method: &str) -> bool {
    let subject = match method {
        "tools/list" => Subject::Tool,
        "resources/list" | "resources/templates/list" => Subject::Resource,
        "prompts/list" => Subject::Prompt,
        _ => return false,
    };
    !rules.about(subject).is_empty()
}

/// Whether anything that can be listed is subject to rules.
#[must_use]
pub fn are_filtered(rules: &Rules) -> bool {
    LISTS.iter().any(|(_, subject, _)| !rules.about(*subject).is_empty())
}

/// A message from the server, or a batch of them, without what somebody with these scopes may not use.
///
/// # Errors
/// If it is not JSON.
pub fn filter<'a>(body: &'a [u8], rules: &Rules, held: &Scope) -> Result<Cow<'a, [u8]>, Unreadable> {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let text = std::str::from_utf8(text).map_err(|_| Unreadable)?;
    let mut edits = Edits {
        body,
        rules,
        held,
        found: Vec::new(),
    };
    let whole: &RawValue = parse(text)?;
    if whole.get().starts_with('[') {
        for message in parse::<Vec<&RawValue>>(whole.get())? {
            edits.message(message)?;
        }
    } else {
        edits.message(whole)?;
    }
    Ok(edits.apply())
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Unreadable> {
    serde_json::from_str(text).map_err(|_| Unreadable)
}

/// The entries of an object as they are written, also where a key is there twice.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// What is to be changed.
struct Edits<'a, 'r> {
    body: &'a [u8],
    rules: &'r Rules,
    held: &'r Scope,
    found: Vec<(Range<usize>, Vec<u8>)>,
}

impl<'a> Edits<'a, '_> {
    fn message(&mut self, message: &'a RawValue) -> Result<(), Unreadable> {
        for (_, result) in entries(message)?.iter().filter(|(key, _)| is(key, "result")) {
            self.result(result)?;
        }
        Ok(())
    }

    fn result(&mut self, result: &'a RawValue) -> Result<(), Unreadable> {
        let entries = entries(result)?;
        let mut is_own = false;
        for (key, value) in &entries {
            let list = LISTS.iter().find(|(name, ..)| is(key, name));
            let Some((_, subject, by)) = list.filter(|(_, subject, _)| !self.rules.about(*subject).is_empty()) else {
                continue;
            };
            is_own = true;
            self.list(value, *subject, by)?;
        }
        for (key, value) in entries {
            let is_public = || serde_json::from_str::<Text<'_>>(value.get()).is_ok_and(|Text(text)| text == "public");
            if is_own && is(&key, "cacheScope") && is_public() {
                self.replace(value, br#""private""#.to_vec())?;
            }
        }
        Ok(())
    }

    fn list(&mut self, list: &'a RawValue, subject: Subject, by: &str) -> Result<(), Unreadable> {
        if !list.get().starts_with('[') {
            return Ok(());
        }
        let all: Vec<&RawValue> = parse(list.get())?;
        let kept: Vec<_> = all
            .iter()
            .filter(|entry| self.may_be_seen(entry, subject, by))
            .collect();
        if kept.len() == all.len() {
            return Ok(());
        }
        let kept: Vec<_> = kept.into_iter().map(|entry| entry.get()).collect();
        self.replace(list, format!("[{}]", kept.join(",")).into_bytes())
    }

    /// An entry that has no name, or two, is for nobody.
    fn may_be_seen(&self, entry: &RawValue, subject: Subject, by: &str) -> bool {
        let Ok(entries) = entries(entry) else { return false };
        let mut names = entries.iter().filter(|(key, _)| is(key, by));
        let (Some((_, name)), None) = (names.next(), names.next()) else {
            return false;
        };
        let Ok(Text(name)) = parse(name.get()) else {
            return false;
        };
        judge(self.rules, subject, Some(&name), self.held) == Ok(Verdict::Allowed)
    }

    fn replace(&mut self, value: &RawValue, by: Vec<u8>) -> Result<(), Unreadable> {
        let value = value.get();
        // What was read is a part of the body, so its place is known.
        let start = value.as_ptr().addr().checked_sub(self.body.as_ptr().addr());
        let start = start.filter(|start| start + value.len() <= self.body.len());
        let start = start.ok_or(Unreadable)?;
        self.found.push((start..start + value.len(), by));
        Ok(())
    }

    fn apply(mut self) -> Cow<'a, [u8]> {
        if self.found.is_empty() {
            return Cow::Borrowed(self.body);
        }
        self.found.sort_by_key(|(range, _)| range.start);
        let mut new = Vec::with_capacity(self.body.len());
        let mut done = 0;
        for (range, by) in self.found {
            new.extend_from_slice(self.body.get(done..range.start).unwrap_or_default());
            new.extend_from_slice(&by);
            done = range.end;
        }
        new.extend_from_slice(self.body.get(done..).unwrap_or_default());
        Cow::Owned(new)
    }
}

/// The entries of an object; none of anything else.
fn entries(value: &RawValue) -> Result<Vec<(Cow<'_, str>, &RawValue)>, Unreadable> {
    if !value.get().starts_with('{') {
        return Ok(Vec::new());
    }
    parse(value.get()).map(|Entries(entries)| entries)
}

/// Whether a key is this one. There are clients that do not look at case.
fn is(key: &str, name: &str) -> bool {
    key.eq_ignore_ascii_case(name)
}

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut found = Vec::new();
                while let Some((Text(key), value)) = map.next_entry()? {
                    found.push((key, value));
                }
                Ok(Entries(found))
            }
        }

        deserializer.deserialize_map(All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rules::{Demand, Pattern, Rule};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// `b…` needs the scope `s`, `c…` is denied.
    fn rules() -> Rules {
        let rule = |pattern: &str, demand| Rule {
            pattern: Pattern::new(pattern),
            demand,
        };
        let all = || {
            vec![
                rule("b*", Demand::Scopes("s".parse().unwrap())),
                rule("c*", Demand::Deny),
            ]
        };
        Rules {
            tools: all(),
            resources: all(),
            prompts: all(),
            methods: Vec::new(),
        }
    }

    fn filtered(body: &str, held: &str) -> String {
        let rules = rules();
        let held = held.parse().unwrap();
        let out = filter(body.as_bytes(), &rules, &held).unwrap().into_owned();
        String::from_utf8(out).unwrap()
    }

    /// Spec: H17
    #[test]
    fn what_may_not_be_used_is_not_listed_and_the_rest_is_as_it_was() {
        let body = r#" {"jsonrpc":"2.0", "id":1.0e0,"result":{"cacheScope" : "public","tools":[ {"name":"a","x":1e400,"y":{"tools":["c"]}} , {"name":"b1"},{"name":"c"}, {"x":2, "name":"\u0061\u00e9"}],"nextCursor":"n","future":[0.10]}} "#;
        assert_eq!(
            filtered(body, ""),
            r#" {"jsonrpc":"2.0", "id":1.0e0,"result":{"cacheScope" : "private","tools":[{"name":"a","x":1e400,"y":{"tools":["c"]}},{"x":2, "name":"\u0061\u00e9"}],"nextCursor":"n","future":[0.10]}} "#
        );
        assert!(filtered(body, "s").contains("b1") && !filtered(body, "s").contains(r#""name":"c""#));
        for (list, by) in [
            ("resources", "uri"),
            ("resourceTemplates", "uriTemplate"),
            ("prompts", "name"),
        ] {
            let entry = |name: &str| json!({ by: name, "title": "c" });
            let body = json!({ "result": { list: [entry("c:1"), entry("a:1"), entry("b:1")], "ttlMs": 5 } });
            let out: Value = serde_json::from_str(&filtered(&body.to_string(), "")).unwrap();
            assert_eq!(out, json!({ "result": { list: [entry("a:1")], "ttlMs": 5 } }));
        }
    }

    /// Spec: H17
    #[test]
    fn entries_that_cannot_be_judged_are_left_out() {
        let body = r#"{"result":{"tools":[{"name":"a","name":"c"},{"NAME":"c"},{"title":"c"},7,null,{"name":5},{"name":"a\ud800"},{"name":"a "},{"name":"a"}]}}"#;
        assert_eq!(filtered(body, ""), r#"{"result":{"tools":[{"name":"a"}]}}"#);
        // Keys in disguise, and twice.
        for body in [
            r#"{"r\u0065sult":{"tool\u0073":[{"n\u0061me":"\u0063"}]}}"#,
            r#"{"result":{"tools":[{"name":"a"}],"tools":[{"name":"c"}]}}"#,
            r#"{"result":{},"result":{"tools":[{"name":"c"}]}}"#,
            r#"[{"result":{"Tools":[{"name":"c"}]}}]"#,
        ] {
            let out = filtered(body, "s");
            assert!(!out.contains(r#""c""#) && !out.contains("0063"), "{out}");
        }
    }

    #[test]
    fn everything_else_passes_as_it_is() {
        for body in [
            r#"{"result":{"content":[{"type":"text","text":"tools"}],"cacheScope":"public"}}"#,
            r#"{"params":{"tools":[{"name":"c"}]}}"#,
            r#"{"result":{"tools":null}}"#,
            r#"{"result":[{"tools":[{"name":"c"}]}]}"#,
            r#"{"result":{"tools":[ {"name":"a"} ]}}"#,
            "[]",
            "7",
        ] {
            let rules = rules();
            let out = filter(body.as_bytes(), &rules, &Scope::empty()).unwrap();
            assert!(matches!(out, Cow::Borrowed(_)), "{body}");
            assert_eq!(out, body.as_bytes());
        }
        for bad in [&b"{"[..], b"", b"{\"result\":{\"tools\":[\"\xff\"]}}", b"{} {}"] {
            assert_eq!(filter(bad, &rules(), &Scope::empty()), Err(Unreadable));
        }
        let marked = [BYTE_ORDER_MARK, br#"{"result":{"tools":[{"name":"c"}]}}"#].concat();
        let out = filter(&marked, &rules(), &Scope::empty()).unwrap().into_owned();
        assert_eq!(out, [BYTE_ORDER_MARK, br#"{"result":{"tools":[]}}"#].concat());
    }

    proptest! {
        #[test]
        fn exactly_the_allowed_are_kept(names in prop::collection::vec("[abc]{1,3}", 0..8), with_scope: bool, number in any::<i64>()) {
            let entry = |name: &String| json!({ "name": name, "n": number });
            let body = json!({ "id": number, "result": { "tools": names.iter().map(entry).collect::<Vec<_>>() } });
            let out: Value = serde_json::from_str(&filtered(&body.to_string(), if with_scope { "s" } else { "" })).unwrap();
            let kept: Vec<_> = names.iter().filter(|name| name.starts_with('a') || (with_scope && name.starts_with('b'))).collect();
            let expected = json!({ "id": number, "result": { "tools": kept.into_iter().map(entry).collect::<Vec<_>>() } });
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn any_bytes_pass_or_are_refused(body in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = filter(&body, &rules(), &Scope::empty());
        }
    }
}
