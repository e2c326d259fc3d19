//! What a JSON-RPC body asks for: read once from end to end, without a tree, and only as far as rules need it.
//!
//! ```text
//! {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"delete","arguments":{…}}}
//!                      └┬┘          └───┬────┘              └──┬───┘            └ not looked at
//!                       id            method                 names
//! ```
//! Whoever decides by a body has to read it as its receiver will. So what two readers could read in two ways is refused:
//! a key that is there twice, a key that some would take for another (`Method`, `PARAMS`: there are servers that do not
//! look at case), text that is not UTF-8. RFC 8259 §4 and §8.1 leave all of that open.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::rules::Subject;

/// Most messages in one batch.
pub const MAX_BATCH: usize = 100;
/// Most resources that one message may name.
const MAX_NAMES: usize = 1_000;

/// What a body holds.
#[derive(Debug)]
pub struct Body<'a> {
    /// The messages; at least one.
    pub messages: Vec<Message<'a>>,
    /// Whether they came as a batch (MCP 2025-03-26, JSON-RPC 2.0 §6).
    pub is_batch: bool,
}

/// Something that rules may be about, by its kind and its name.
pub type Named<'a> = (Subject, Option<Cow<'a, str>>);

/// One message.
#[derive(Debug)]
pub struct Message<'a> {
    /// Its id as it is written; `None` for notifications.
    pub id: Option<&'a str>,
    /// Its method; `None` for an answer of the client to the server.
    pub method: Option<Cow<'a, str>>,
    /// What it names of the things that rules are about. A name that is none, because it is missing or no text, is `None`.
    pub names: Vec<Named<'a>>,
}

/// Why nothing can be decided by a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not JSON, or not in UTF-8.
    #[error("the body is not JSON in UTF-8")]
    Json,
    /// JSON, but no JSON-RPC message and no batch of them.
    #[error("the body is not a JSON-RPC message or a batch of them")]
    Message,
    /// A key is there twice.
    #[error("the body has a key twice")]
    Repeated,
    /// A key is one of ours but for the case of its letters.
    #[error("the body has a key in a spelling that some take for another")]
    Spelling,
    /// Too many messages, or too many names in one.
    #[error("the body holds too much")]
    TooMany,
}

/// Reads a body.
///
/// # Errors
/// Where it could be read in two ways, or in none.
pub fn read(body: &[u8]) -> Result<Body<'_>, Unreadable> {
    let text = std::str::from_utf8(body).map_err(|_| Unreadable::Json)?;
    if text.trim_ascii_start().starts_with('[') {
        let Batch { elements, flaw } = parse(text)?;
        if let Some(flaw) = flaw {
            return Err(flaw);
        }
        if elements.is_empty() {
            return Err(Unreadable::Message);
        }
        let messages: Result<_, _> = elements.into_iter().map(|element| message(element.get())).collect();
        return Ok(Body {
            messages: messages?,
            is_batch: true,
        });
    }
    Ok(Body {
        messages: vec![message(text)?],
        is_batch: false,
    })
}

/// The tool that a body calls, found in passing: nothing is decided by it, and what comes after the name is not read. `None`
/// if it is no call of a tool.
#[must_use]
pub fn called_tool(body: &[u8]) -> Option<Cow<'_, str>> {
    let mut called = Called::default();
    // To leave an object early is an error, so what is found is noted on the way.
    let _ = serde_json::Deserializer::from_slice(body).deserialize_map(&mut called);
    called.name
}

fn message(text: &str) -> Result<Message<'_>, Unreadable> {
    if !text.trim_ascii_start().starts_with('{') {
        return Err(if serde_json::from_str::<IgnoredAny>(text).is_ok() {
            Unreadable::Message
        } else {
            Unreadable::Json
        });
    }
    let envelope: Envelope<'_> = parse(text)?;
    if let Some(flaw) = envelope.flaw {
        return Err(flaw);
    }
    let method = envelope.method.map(|method| method.0);
    let names = match &method {
        Some(method) => names(method, envelope.params.map(RawValue::get))?,
        None => Vec::new(),
    };
    Ok(Message {
        id: envelope.id.map(RawValue::get),
        method,
        names,
    })
}

/// What a request names, by its method.
fn names<'a>(method: &str, params: Option<&'a str>) -> Result<Vec<Named<'a>>, Unreadable> {
    let subject = match method {
        "tools/call" => Subject::Tool,
        "prompts/get" => Subject::Prompt,
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Subject::Resource,
        "completion/complete" | "subscriptions/listen" => Subject::Method,
        _ => return Ok(Vec::new()),
    };
    // Parameters by position are not MCP's, so what they name is not known.
    let params: Params<'a> = match params {
        Some(text) if text.starts_with('{') => parse(text)?,
        _ => Params::default(),
    };
    if let Some(flaw) = params.flaw {
        return Err(flaw);
    }
    Ok(match (subject, method) {
        (Subject::Tool | Subject::Prompt, _) => vec![(subject, params.name.flatten())],
        (Subject::Resource, _) => vec![(subject, params.uri.flatten())],
        (Subject::Method, "completion/complete") => referred(params.reference)?,
        (Subject::Method, _) => watched(params.notifications)?,
    })
}

/// What `ref` of completion/complete is about: a prompt by name, a resource by URI.
fn referred(reference: Option<&RawValue>) -> Result<Vec<Named<'_>>, Unreadable> {
    let unclear = || vec![(Subject::Prompt, None), (Subject::Resource, None)];
    let Some(text) = reference.map(RawValue::get).filter(|text| text.starts_with('{')) else {
        return Ok(unclear());
    };
    let reference: Params<'_> = parse(text)?;
    if let Some(flaw) = reference.flaw {
        return Err(flaw);
    }
    let names: Vec<_> = [(Subject::Prompt, reference.name), (Subject::Resource, reference.uri)]
        .into_iter()
        .filter_map(|(subject, name)| Some((subject, name?)))
        .collect();
    Ok(if names.is_empty() { unclear() } else { names })
}

/// The resources that subscriptions/listen asks to hear of.
fn watched(notifications: Option<&RawValue>) -> Result<Vec<Named<'_>>, Unreadable> {
    let Some(text) = notifications.map(RawValue::get).filter(|text| text.starts_with('{')) else {
        return Ok(Vec::new());
    };
    let wanted: Params<'_> = parse(text)?;
    if let Some(flaw) = wanted.flaw {
        return Err(flaw);
    }
    let Some(list) = wanted.resources else {
        return Ok(Vec::new());
    };
    if !list.get().starts_with('[') {
        return Ok(vec![(Subject::Resource, None)]);
    }
    let Names { names, flaw } = parse(list.get())?;
    match flaw {
        Some(flaw) => Err(flaw),
        None => Ok(names.into_iter().map(|name| (Subject::Resource, name)).collect()),
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Unreadable> {
    serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            Unreadable::Message
        } else {
            Unreadable::Json
        }
    })
}

/// Text, not copied where it has no escapes in it.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// The keys of a message that matter.
#[derive(Default)]
struct Envelope<'a> {
    id: Option<&'a RawValue>,
    method: Option<Text<'a>>,
    params: Option<&'a RawValue>,
    version: Option<()>,
    flaw: Option<Unreadable>,
}

/// The keys that matter in parameters, in `ref` and in `notifications`. The inner `None` is something that is no text.
#[derive(Default)]
#[expect(clippy::option_option, reason = "whether it is there, and whether it is text")]
struct Params<'a> {
    name: Option<Option<Cow<'a, str>>>,
    uri: Option<Option<Cow<'a, str>>>,
    reference: Option<&'a RawValue>,
    notifications: Option<&'a RawValue>,
    resources: Option<&'a RawValue>,
    flaw: Option<Unreadable>,
}

/// The messages of a batch.
struct Batch<'a> {
    elements: Vec<&'a RawValue>,
    flaw: Option<Unreadable>,
}

/// A list of names.
struct Names<'a> {
    names: Vec<Option<Cow<'a, str>>>,
    flaw: Option<Unreadable>,
}

/// Which of some keys a key is.
///
/// # Errors
/// If it is one of them only for readers that do not look at case.
fn which(known: &[&'static str], key: &str) -> Result<Option<&'static str>, Unreadable> {
    if let Some(exact) = known.iter().find(|known| **known == key) {
        return Ok(Some(exact));
    }
    // The two characters beyond ASCII that become ASCII letters when case is ignored.
    let folded = key.chars().map(|c| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    });
    let same = |known: &str| folded.clone().eq(known.chars().map(|c| c.to_ascii_lowercase()));
    if known.iter().any(|known| same(known)) {
        return Err(Unreadable::Spelling);
    }
    Ok(None)
}

/// Puts a value where there is none yet.
fn once<T>(place: &mut Option<T>, value: T, flaw: &mut Option<Unreadable>) {
    if place.replace(value).is_some() {
        *flaw = Some(Unreadable::Repeated);
    }
}

/// Text, or `None` for any other value.
fn text_of(value: &RawValue) -> Option<Cow<'_, str>> {
    let text: Option<Text<'_>> = serde_json::from_str(value.get()).ok();
    text.map(|text| text.0)
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Envelope<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Envelope<'de>, A::Error> {
                let mut found = Envelope::default();
                while let Some(Text(key)) = map.next_key()? {
                    match which(&["jsonrpc", "id", "method", "params"], &key) {
                        Ok(Some("id")) => once(&mut found.id, map.next_value()?, &mut found.flaw),
                        Ok(Some("method")) => once(&mut found.method, map.next_value()?, &mut found.flaw),
                        Ok(Some("params")) => once(&mut found.params, map.next_value()?, &mut found.flaw),
                        other => {
                            map.next_value::<IgnoredAny>()?;
                            match other {
                                Ok(Some(_)) => once(&mut found.version, (), &mut found.flaw),
                                Ok(None) => {}
                                Err(flaw) => found.flaw = Some(flaw),
                            }
                        }
                    }
                }
                Ok(found)
            }
        }

        deserializer.deserialize_map(Keys)
    }
}

impl<'de> Deserialize<'de> for Params<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Params<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("parameters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Params<'de>, A::Error> {
                const KNOWN: [&str; 5] = ["name", "uri", "ref", "notifications", "resourceSubscriptions"];
                let mut found = Params::default();
                while let Some(Text(key)) = map.next_key()? {
                    let flaw = &mut found.flaw;
                    match which(&KNOWN, &key) {
                        Ok(Some("name")) => once(&mut found.name, text_of(map.next_value()?), flaw),
                        Ok(Some("uri")) => once(&mut found.uri, text_of(map.next_value()?), flaw),
                        Ok(Some("ref")) => once(&mut found.reference, map.next_value()?, flaw),
                        Ok(Some("notifications")) => once(&mut found.notifications, map.next_value()?, flaw),
                        Ok(Some(_)) => once(&mut found.resources, map.next_value()?, flaw),
                        other => {
                            map.next_value::<IgnoredAny>()?;
                            *flaw = other.err().or(*flaw);
                        }
                    }
                }
                Ok(found)
            }
        }

        deserializer.deserialize_map(Keys)
    }
}

/// Looks for a call of a tool.
#[derive(Default)]
struct Called<'a> {
    is_call: bool,
    name: Option<Cow<'a, str>>,
}

/// Looks for a name in parameters.
struct Name<'n, 'a>(&'n mut Option<Cow<'a, str>>);

impl<'de> Visitor<'de> for &mut Called<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut before: Option<&RawValue> = None;
        while let Some(Text(key)) = map.next_key()? {
            match key.as_ref() {
                "method" => {
                    let Text(method) = map.next_value()?;
                    self.is_call = method == "tools/call";
                    if !self.is_call {
                        return Ok(());
                    }
                    if let Some(params) = before {
                        let _ = Name(&mut self.name).deserialize(&mut serde_json::Deserializer::from_str(params.get()));
                        return Ok(());
                    }
                }
                "params" if self.is_call => return map.next_value_seed(Name(&mut self.name)),
                "params" => before = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Name<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Name<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            if key == "name" {
                let Text(name) = map.next_value()?;
                *self.0 = Some(name);
                break;
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Batch<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (elements, flaw) = deserializer.deserialize_seq(Bounded::<&RawValue>::of(MAX_BATCH))?;
        Ok(Self { elements, flaw })
    }
}

impl<'de> Deserialize<'de> for Names<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (names, flaw) = deserializer.deserialize_seq(Bounded::<&RawValue>::of(MAX_NAMES))?;
        let names = names.into_iter().map(text_of).collect();
        Ok(Self { names, flaw })
    }
}

/// A list of no more than so many.
struct Bounded<T> {
    most: usize,
    items: std::marker::PhantomData<T>,
}

impl<T> Bounded<T> {
    const fn of(most: usize) -> Self {
        Self {
            most,
            items: std::marker::PhantomData,
        }
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
    type Value = (Vec<T>, Option<Unreadable>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < self.most {
            match list.next_element()? {
                Some(item) => items.push(item),
                None => return Ok((items, None)),
            }
        }
        let mut flaw = None;
        while list.next_element::<IgnoredAny>()?.is_some() {
            flaw = Some(Unreadable::TooMany);
        }
        Ok((items, flaw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn one(body: &str) -> Message<'_> {
        let mut body = read(body.as_bytes()).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert!(!body.is_batch);
        body.messages.remove(0)
    }

    fn said<'a>(message: &'a Message<'_>) -> Vec<(Subject, Option<&'a str>)> {
        message
            .names
            .iter()
            .map(|(subject, name)| (*subject, name.as_deref()))
            .collect()
    }

    /// Spec: H16
    #[test]
    fn what_each_method_names() {
        use Subject::{Prompt, Resource, Tool};
        for (method, params, names) in [
            (
                "tools/call",
                json!({ "name": "a", "arguments": { "name": "b" } }),
                vec![(Tool, Some("a"))],
            ),
            ("tools/call", json!({ "name": 5 }), vec![(Tool, None)]),
            ("tools/call", json!(["a"]), vec![(Tool, None)]),
            ("prompts/get", json!({ "name": "p" }), vec![(Prompt, Some("p"))]),
            (
                "resources/read",
                json!({ "uri": "file:///a" }),
                vec![(Resource, Some("file:///a"))],
            ),
            (
                "resources/subscribe",
                json!({ "uri": "x:y" }),
                vec![(Resource, Some("x:y"))],
            ),
            ("resources/unsubscribe", json!({}), vec![(Resource, None)]),
            (
                "completion/complete",
                json!({ "ref": { "type": "ref/prompt", "name": "p" }, "argument": { "name": "a" } }),
                vec![(Prompt, Some("p"))],
            ),
            (
                "completion/complete",
                json!({ "ref": { "type": "ref/resource", "uri": "x:{y}" } }),
                vec![(Resource, Some("x:{y}"))],
            ),
            (
                "completion/complete",
                json!({ "ref": { "name": "p", "uri": "x:y" } }),
                vec![(Prompt, Some("p")), (Resource, Some("x:y"))],
            ),
            ("completion/complete", json!({}), vec![(Prompt, None), (Resource, None)]),
            (
                "subscriptions/listen",
                json!({ "notifications": { "toolsListChanged": true, "resourceSubscriptions": ["x:y", 5] } }),
                vec![(Resource, Some("x:y")), (Resource, None)],
            ),
            ("subscriptions/listen", json!({ "notifications": {} }), vec![]),
            ("tools/list", json!({ "cursor": "c" }), vec![]),
            (
                "initialize",
                json!({ "clientInfo": { "name": "n", "NAME": "n" } }),
                vec![],
            ),
        ] {
            let body = json!({ "params": params, "jsonrpc": "2.0", "id": "7\"", "method": method }).to_string();
            let message = one(&body);
            assert_eq!(message.method.as_deref(), Some(method));
            assert_eq!(message.id, Some(r#""7\"""#));
            assert_eq!(said(&message), names, "{body}");
        }
        let answer = one(r#"{"jsonrpc":"2.0","id":1,"result":{"method":"tools/call"}}"#);
        assert!(answer.method.is_none() && answer.names.is_empty());
    }

    /// Spec: H16
    #[test]
    fn escapes_hide_nothing() {
        let body = r#"{"id":1,"\u006dethod":"tools\u002fcall","p\u0061rams":{"n\u0061me":"d\u0065lete"}}"#;
        assert_eq!(said(&one(body)), [(Subject::Tool, Some("delete"))]);
        assert_eq!(called_tool(body.as_bytes()).as_deref(), Some("delete"));
        assert_eq!(called_tool(br#"{"method":"tools/list","params":{"name":"x"}}"#), None);
        assert_eq!(called_tool(b"{"), None);
        for call in [
            r#"{"params":{"x":{"name":"b"},"name":"a"},"method":"tools/call"}"#,
            r#"{"method":"tools/call","params":{"name":"a","arguments":nonsense"#,
        ] {
            assert_eq!(called_tool(call.as_bytes()).as_deref(), Some("a"), "{call}");
        }
        for other in [
            r#"{"params":{"name":"a"},"method":"ping"}"#,
            r#"{"params":{"name":"a"}}"#,
            r#"{"method":"tools/call","params":["a"]}"#,
        ] {
            assert_eq!(called_tool(other.as_bytes()), None, "{other}");
        }
    }

    /// Spec: H16
    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let nested = format!(
            r#"{{"method":"tools/call","params":{}1{}}}"#,
            "[".repeat(9),
            "]".repeat(8)
        );
        let many = format!("[{}]", vec![r#"{"method":"ping"}"#; MAX_BATCH + 1].join(","));
        for (body, why) in [
            (r#"{"method":"ping","method":"tools/call"}"#, Unreadable::Repeated),
            (r#"{"method":"ping","\u006dethod":"tools/call"}"#, Unreadable::Repeated),
            (r#"{"id":1,"id":2,"method":"ping"}"#, Unreadable::Repeated),
            (
                r#"{"jsonrpc":"2.0","jsonrpc":"2.0","method":"ping"}"#,
                Unreadable::Repeated,
            ),
            (
                r#"{"method":"tools/call","params":{},"params":{"name":"a"}}"#,
                Unreadable::Repeated,
            ),
            (
                r#"{"method":"tools/call","params":{"name":"a","name":"b"}}"#,
                Unreadable::Repeated,
            ),
            (
                r#"{"method":"tools/call","params":{"name":1,"name":"b"}}"#,
                Unreadable::Repeated,
            ),
            (
                r#"{"method":"resources/read","params":{"uri":"a:","u\u0072i":"b:"}}"#,
                Unreadable::Repeated,
            ),
            (r#"{"method":"ping","Method":"tools/call"}"#, Unreadable::Spelling),
            (r#"{"id":1,"result":{},"METHOD":"tools/call"}"#, Unreadable::Spelling),
            (
                r#"{"method":"tools/call","paramſ":{},"params":{"name":"a"}}"#,
                Unreadable::Spelling,
            ),
            (
                r#"{"method":"tools/call","params":{"name":"a","Name":"b"}}"#,
                Unreadable::Spelling,
            ),
            (r#"{"method":7}"#, Unreadable::Message),
            (r#"{"method":null}"#, Unreadable::Message),
            ("", Unreadable::Json),
            ("[", Unreadable::Json),
            ("{}{}", Unreadable::Json),
            ("{'method':1}", Unreadable::Json),
            (r#"{"method":"ping",}"#, Unreadable::Json),
            (r#"{"method":"ping"} // comment"#, Unreadable::Json),
            ("\u{feff}{\"method\":\"ping\"}", Unreadable::Json),
            (r#"{"method":"\ud800"}"#, Unreadable::Json),
            (&nested, Unreadable::Json),
            ("[]", Unreadable::Message),
            ("7", Unreadable::Message),
            ("\"x\"", Unreadable::Message),
            ("null", Unreadable::Message),
            (r#"[[{"method":"tools/call"}]]"#, Unreadable::Message),
            (r#"[{"method":"ping"},7]"#, Unreadable::Message),
            (
                r#"[{"method":"ping"},{"method":"ping","method":"x"}]"#,
                Unreadable::Repeated,
            ),
            (&many, Unreadable::TooMany),
        ] {
            assert_eq!(read(body.as_bytes()).map(|_| ()), Err(why), "{body}");
        }
        let sixteen: Vec<u8> = r#"{"method":"ping"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [&b"{\"method\":\"\xff\"}"[..], &sixteen] {
            assert_eq!(read(bytes).map(|_| ()), Err(Unreadable::Json));
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!(
            r#"{{"method":"tools/call","params":{{"name":"a","arguments":{}{}}}}}"#,
            "[".repeat(1 << 20),
            "]".repeat(1 << 20)
        );
        match read(deep.as_bytes()) {
            Ok(body) => assert_eq!(said(&body.messages[0]), [(Subject::Tool, Some("a"))]),
            Err(why) => assert_eq!(why, Unreadable::Json),
        }
        let batches = "[".repeat(1 << 20);
        assert!(read(batches.as_bytes()).is_err());
    }

    /// Spec: H16
    #[test]
    fn a_batch_is_read_element_by_element() {
        let body = r#" [ {"method":"ping","id":1} , {"method":"tools/call","params":{"name":"a"}} ] "#;
        let body = read(body.as_bytes()).unwrap();
        assert!(body.is_batch);
        assert_eq!(body.messages.len(), 2);
        assert_eq!(said(&body.messages[1]), [(Subject::Tool, Some("a"))]);
        let most = format!("[{}]", vec![r#"{"method":"ping"}"#; MAX_BATCH].join(","));
        assert_eq!(read(most.as_bytes()).unwrap().messages.len(), MAX_BATCH);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let key = prop_oneof!["[a-z]{1,6}", Just("name".to_owned()), Just("method".to_owned())];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body);
            let _ = called_tool(&body);
        }

        #[test]
        fn a_message_is_read_as_a_tree_of_it_would_be(name in ".{0,12}", more in any_json(), method in "[a-z/]{1,12}") {
            for method in [method.as_str(), "tools/call"] {
                let body = json!({ "x": more, "params": { "arguments": more, "name": name }, "method": method });
                let text = body.to_string();
                let message = one(&text);
                prop_assert_eq!(message.method.as_deref(), Some(method));
                if method == "tools/call" {
                    prop_assert_eq!(said(&message), [(Subject::Tool, Some(name.as_str()))]);
                }
            }
        }
    }
}
