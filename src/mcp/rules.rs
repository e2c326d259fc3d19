//! From what a message names to what its caller may do.
//!
//! Names are compared as they are; a name that servers could clean up before they look for it (blanks around it, control
//! characters in it) is not judged but refused. A resource's URI may be written in many ways, so it is judged twice, as it
//! came and in its simplest form (RFC 3986 §6.2), and has to be allowed both times.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use url::Url;

use super::message::Message;
use crate::domain::rules::{Demand, Pattern, Rule, Rules, Subject};
use crate::domain::scope::Scope;

/// Longest name or URI that is judged, in bytes.
const MAX_NAME: usize = 8 << 10;
/// How often a URI may be encoded and still be found out.
const MAX_LAYERS: usize = 4;

/// What rules say to a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allowed,
    /// Not without these scopes, of which at least one is missing.
    Needs(Scope),
    /// Never.
    Denied,
}

/// A rule needs a name, and there is none that everybody would read alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what the request names cannot be judged")]
pub struct Unclear;

impl Verdict {
    /// Both have to agree; what they need adds up.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Denied, _) | (_, Self::Denied) => Self::Denied,
            (Self::Needs(one), Self::Needs(other)) => Self::Needs(one.union(&other)),
            (Self::Needs(scopes), Self::Allowed) | (Self::Allowed, Self::Needs(scopes)) => Self::Needs(scopes),
            (Self::Allowed, Self::Allowed) => Self::Allowed,
        }
    }
}

/// What the rules say about a message of somebody who holds these scopes (with all that they imply).
///
/// # Errors
/// If a rule needs a name that the message does not have.
pub fn decide(rules: &Rules, message: &Message<'_>, held: &Scope) -> Result<Verdict, Unclear> {
    let Some(method) = &message.method else {
        return Ok(Verdict::Allowed);
    };
    let method = judge(rules, Subject::Method, Some(method), held)?;
    message.names.iter().try_fold(method, |verdict, (subject, name)| {
        Ok(verdict.and(judge(rules, *subject, name.as_deref(), held)?))
    })
}

/// What the rules say about one thing.
///
/// # Errors
/// If there are rules about such things, and no name to judge by.
pub fn judge(rules: &Rules, subject: Subject, name: Option<&str>, held: &Scope) -> Result<Verdict, Unclear> {
    let rules = rules.about(subject);
    if rules.is_empty() {
        return Ok(Verdict::Allowed);
    }
    let name = name.filter(|name| is_clear(name)).ok_or(Unclear)?;
    if subject == Subject::Resource && !leads_one_way(name) {
        return Err(Unclear);
    }
    let verdict = first(rules, held, |pattern| pattern.matches(name));
    if subject != Subject::Resource {
        return Ok(verdict);
    }
    let simple = simplest(name);
    Ok(verdict.and(first(rules, held, |pattern| simplest_pattern(pattern).matches(&simple))))
}

/// Whether nobody would take it for another name.
fn is_clear(name: &str) -> bool {
    let blank = |c: char| c.is_whitespace() || c == '\u{feff}';
    name.len() <= MAX_NAME && !name.starts_with(blank) && !name.ends_with(blank) && !name.chars().any(char::is_control)
}

/// Whether all servers would take a URI to the same place: no segment that leads elsewhere and none that is empty, which some
/// leave out and some do not; no backslash; however it is encoded.
fn leads_one_way(uri: &str) -> bool {
    let mut text = uri.to_owned();
    for layer in 0.. {
        let next = decoded(&text).into_owned();
        if next == text {
            break;
        }
        if layer == MAX_LAYERS {
            return false;
        }
        text = next;
    }
    let rest = text
        .split_once(':')
        .filter(|(scheme, _)| !scheme.contains('/'))
        .map_or(text.as_str(), |(_, rest)| rest);
    let path = match rest.strip_prefix("//") {
        Some(authority) => authority.split_once('/').map_or("", |(_, path)| path),
        None => rest.strip_prefix('/').unwrap_or(rest),
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let inner = path.strip_suffix('/').unwrap_or(path);
    let fine = |segment: &str| !matches!(segment, "" | "." | "..");
    !text.contains('\\') && (inner.is_empty() && path.is_empty() || inner.split('/').all(fine))
}

/// The first rule that matches decides.
fn first(rules: &[Rule], held: &Scope, matches: impl Fn(&Pattern) -> bool) -> Verdict {
    match rules
        .iter()
        .find(|rule| matches(&rule.pattern))
        .map(|rule| &rule.demand)
    {
        None => Verdict::Allowed,
        Some(Demand::Deny) => Verdict::Denied,
        Some(Demand::Scopes(needed)) if held.covers(needed) => Verdict::Allowed,
        Some(Demand::Scopes(needed)) => Verdict::Needs(needed.clone()),
    }
}

/// A URI in its simplest form: scheme and host in lower case, without `.` and `..`, and nothing encoded.
fn simplest(uri: &str) -> String {
    let mut simple = uri.to_owned();
    for _ in 0..MAX_LAYERS {
        let parsed = Url::parse(&simple).map_or_else(
            |_| simple.clone(),
            |mut url| {
                // Not for the server, and nothing.
                url.set_fragment(None);
                if url.query() == Some("") {
                    url.set_query(None);
                }
                url.into()
            },
        );
        let decoded = decoded(&parsed).into_owned();
        if decoded == simple {
            break;
        }
        simple = decoded;
    }
    simple
}

/// A pattern for the same comparison. One with wildcards is no URI, so only what is encoded in it is decoded.
fn simplest_pattern(pattern: &Pattern) -> Pattern {
    let text = pattern.to_string();
    if text.contains(['*', '?']) {
        Pattern::new(&decoded(&text))
    } else {
        Pattern::new(&simplest(&text))
    }
}

/// Decoded once, but for `*` and `?`, which mean something in patterns.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let kept = text
        .replace("%2A", "%252A")
        .replace("%2a", "%252A")
        .replace("%3F", "%253F")
        .replace("%3f", "%253F");
    Cow::Owned(percent_decode_str(&kept).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::message::read;
    use proptest::prelude::*;
    use serde_json::json;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    /// `pattern` alone is free, `pattern!` denied, `pattern a b` needs scopes.
    fn rules(lines: &[&str]) -> Vec<Rule> {
        let rule = |line: &&str| {
            let (pattern, scopes) = line.split_once(' ').unwrap_or((line, ""));
            let demand = Demand::Scopes(scope(scopes));
            match pattern.strip_suffix('!') {
                Some(denied) => (Pattern::new(denied), Demand::Deny),
                None => (Pattern::new(pattern), demand),
            }
        };
        let rule = |line| {
            let (pattern, demand) = rule(line);
            Rule { pattern, demand }
        };
        lines.iter().map(rule).collect()
    }

    fn of_tools(lines: &[&str]) -> Rules {
        Rules {
            tools: rules(lines),
            ..Rules::default()
        }
    }

    fn call(name: &str) -> String {
        json!({ "id": 1, "method": "tools/call", "params": { "name": name } }).to_string()
    }

    fn said(rules: &Rules, body: &str, held: &str) -> Result<Verdict, Unclear> {
        let body = read(body.as_bytes()).unwrap();
        let held = scope(held);
        body.messages.iter().try_fold(Verdict::Allowed, |verdict, message| {
            Ok(verdict.and(decide(rules, message, &held)?))
        })
    }

    /// Spec: H16
    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = of_tools(&[
            "get-secret s:secret",
            "get-*",
            "*-write s:write s:use",
            "danger*!",
            "*-2 s:two",
        ]);
        for (name, held, verdict) in [
            ("get-a", "", Verdict::Allowed),
            ("get-2", "", Verdict::Allowed),
            ("get-secret", "", Verdict::Needs(scope("s:secret"))),
            ("get-secret", "s:secret", Verdict::Allowed),
            ("a-write", "s:write", Verdict::Needs(scope("s:write s:use"))),
            ("a-write", "s:use s:write x", Verdict::Allowed),
            ("danger-write", "s:write s:use", Verdict::Allowed),
            ("danger", "s:write s:use", Verdict::Denied),
            ("anything else", "", Verdict::Allowed),
            ("Danger", "", Verdict::Allowed),
        ] {
            assert_eq!(said(&rules, &call(name), held), Ok(verdict), "{name} {held}");
        }
        for unclear in [
            "danger ",
            " danger",
            "\u{feff}a",
            "a\0",
            "a\n",
            "get-\u{85}",
            &"x".repeat(9_000),
        ] {
            assert_eq!(said(&rules, &call(unclear), ""), Err(Unclear), "{unclear:?}");
        }
        assert_eq!(said(&rules, r#"{"method":"tools/call"}"#, ""), Err(Unclear));
        // No rule is about prompts or resources.
        assert_eq!(said(&rules, r#"{"method":"resources/read"}"#, ""), Ok(Verdict::Allowed));
    }

    /// Spec: H16
    #[test]
    fn every_message_of_a_batch_counts() {
        let rules = of_tools(&["a s:a", "b s:b", "c!"]);
        let batch = |names: &[&str]| {
            format!(
                "[{}]",
                names.iter().map(|name| call(name)).collect::<Vec<_>>().join(",")
            )
        };
        assert_eq!(said(&rules, &batch(&["x", "y"]), ""), Ok(Verdict::Allowed));
        assert_eq!(
            said(&rules, &batch(&["x", "a", "b"]), ""),
            Ok(Verdict::Needs(scope("s:a s:b")))
        );
        assert_eq!(
            said(&rules, &batch(&["x", "a", "b"]), "s:a"),
            Ok(Verdict::Needs(scope("s:b")))
        );
        assert_eq!(said(&rules, &batch(&["a", "c"]), "s:a"), Ok(Verdict::Denied));
    }

    #[test]
    fn methods_are_judged_besides_what_they_name() {
        let rules = Rules {
            tools: rules(&["a s:a"]),
            methods: rules(&["tools/call s:call", "logging/*!", "notifications/roots/*!"]),
            ..Rules::default()
        };
        assert_eq!(said(&rules, &call("a"), ""), Ok(Verdict::Needs(scope("s:call s:a"))));
        assert_eq!(
            said(&rules, r#"{"method":"logging/setLevel"}"#, ""),
            Ok(Verdict::Denied)
        );
        assert_eq!(
            said(&rules, r#"{"method":"notifications/roots/list_changed"}"#, ""),
            Ok(Verdict::Denied)
        );
        assert_eq!(said(&rules, r#"{"id":1,"result":{}}"#, ""), Ok(Verdict::Allowed));
    }

    /// Spec: H16
    #[test]
    fn no_spelling_of_a_uri_gets_around_a_rule() {
        let rules = Rules {
            resources: rules(&[
                "file:///secret/*!",
                "note://a%20b s:n",
                "file:///pub/*",
                "http://h",
                "x:{y}",
                "*!",
            ]),
            ..Rules::default()
        };
        let read = |uri: &str| {
            let body = json!({ "method": "resources/read", "params": { "uri": uri } }).to_string();
            said(&rules, &body, "")
        };
        for allowed in [
            "file:///pub/a",
            "file:///pub/a%20b",
            "file:///pub/a%3Fb",
            "http://h",
            "http://h/",
            "x:{y}",
        ] {
            let verdict = read(allowed);
            let slash = allowed == "http://h/";
            assert_eq!(
                verdict,
                Ok(if slash { Verdict::Denied } else { Verdict::Allowed }),
                "{allowed}"
            );
        }
        assert_eq!(read("note://a%20b"), Ok(Verdict::Needs(scope("s:n"))));
        for denied in [
            "file:///secret/x",
            "file:///%73ecret/x",
            "file:///%2573ecret/x",
            "file:///pub/../secret/x",
            "file:///pub/%2e%2e/secret/x",
            "file:///pub/..%2fsecret/x",
            "file:///pub/%252e%252e%252fsecret/x",
            "FILE:///secret/x",
            "file:/secret/x",
            "file://localhost/secret/x",
            "file:///pub\\..\\secret\\x",
            "other:thing",
        ] {
            assert!(matches!(read(denied), Ok(Verdict::Denied) | Err(Unclear)), "{denied}");
        }
        for unclear in [
            "file:///sec\tret/x",
            "file:///pub//../secret/x",
            "file:///pub/%2f../secret/x",
            "file:////secret/x",
            "file:///pub/./a",
            "http://h//secret/x",
            "x:pub/../secret/x",
            "pub/../secret/x",
            "file:///pub/%25252525252525252525252e%2e/x",
        ] {
            assert_eq!(read(unclear), Err(Unclear), "{unclear}");
        }
        let exact = Rules {
            resources: super::tests::rules(&["file:///secret/x!"]),
            ..Rules::default()
        };
        for spelt in [
            "file:///secret/x",
            "file:///secret/x?",
            "file:///secret/x#a",
            "file:///secret/%78?#",
        ] {
            let body = json!({ "method": "resources/read", "params": { "uri": spelt } }).to_string();
            assert_eq!(said(&exact, &body, ""), Ok(Verdict::Denied), "{spelt}");
        }
    }

    proptest! {
        #[test]
        fn more_scopes_never_allow_less(name in "[ab]{1,3}", held in prop::collection::vec("[xyz]", 0..3), more in "[xyz]") {
            let rules = of_tools(&["a? x", "b* y z", "aab!", "*a x y"]);
            let held = scope(&held.join(" "));
            let verdict = judge(&rules, Subject::Tool, Some(&name), &held).unwrap();
            let wider = judge(&rules, Subject::Tool, Some(&name), &held.union(&scope(&more))).unwrap();
            prop_assert!(verdict != Verdict::Allowed || wider == Verdict::Allowed);
            prop_assert_eq!(verdict == Verdict::Denied, wider == Verdict::Denied);
            if let Verdict::Needs(needed) = verdict {
                prop_assert!(!held.covers(&needed));
            }
        }

        #[test]
        fn any_uri_has_a_simplest_form(uri in "(file|x|HTTP):(//)?[a-z./%2eE5*?]{0,24}") {
            let simple = simplest(&uri);
            prop_assert!(simple.len() <= 4 * uri.len() + 16);
        }
    }
}
