//! Rules about the tools, resources, prompts and methods of a server: the first whose pattern matches says what its use
//! needs, and what no rule matches is free to everybody who may use the server at all.

use std::fmt;

use super::scope::Scope;

/// Text with `*` for any run of characters, also none, and `?` for any one character. Case counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

/// What the first matching rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// All of these are needed; nothing, if there are none.
    Scopes(Scope),
    /// Nobody may.
    Deny,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whom it is about.
    pub pattern: Pattern,
    /// What it says.
    pub demand: Demand,
}

/// What rules can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A tool's name.
    Tool,
    /// A resource's URI, or the template of one.
    Resource,
    /// A prompt's name.
    Prompt,
    /// A JSON-RPC method, of requests and of notifications.
    Method,
}

/// The rules of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// By name.
    pub tools: Vec<Rule>,
    /// By URI.
    pub resources: Vec<Rule>,
    /// By name.
    pub prompts: Vec<Rule>,
    /// By JSON-RPC method.
    pub methods: Vec<Rule>,
}

// === impl Pattern ===

impl Pattern {
    /// A pattern of this text; any text is one.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether it matches everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|byte| byte == b'*')
    }

    /// Whether this is the whole of a text. Takes time in proportion to both, whatever the pattern.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.chars(), text.chars());
        // Where to go on if what follows the last `*` does not fit: after it, one character further on.
        let mut again = None;
        loop {
            let at = rest.clone();
            match (pattern.next(), rest.next()) {
                (Some('*'), _) => {
                    rest = at;
                    again = Some((pattern.clone(), rest.clone()));
                    continue;
                }
                (None, None) => return true,
                (Some('?'), Some(_)) => continue,
                (Some(wanted), Some(found)) if wanted == found => continue,
                _ => {}
            }
            let Some((after, from)) = &mut again else { return false };
            if from.next().is_none() {
                return false;
            }
            pattern = after.clone();
            rest = from.clone();
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Rules ===

impl Rules {
    /// The rules about one kind of thing.
    #[must_use]
    pub fn about(&self, subject: Subject) -> &[Rule] {
        match subject {
            Subject::Tool => &self.tools,
            Subject::Resource => &self.resources,
            Subject::Prompt => &self.prompts,
            Subject::Method => &self.methods,
        }
    }

    /// Whether there are none at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// Whether they let everybody do everything, so that there is nothing to look at.
    #[must_use]
    pub fn allow_everything(&self) -> bool {
        self.all()
            .all(|rule| matches!(&rule.demand, Demand::Scopes(scopes) if scopes.is_empty()))
    }

    /// Every scope that a rule names.
    #[must_use]
    pub fn scopes(&self) -> Scope {
        let named = self.all().filter_map(|rule| match &rule.demand {
            Demand::Scopes(scopes) => Some(scopes),
            Demand::Deny => None,
        });
        named.flat_map(Scope::iter).cloned().collect()
    }

    fn all(&self) -> impl Iterator<Item = &Rule> {
        [&self.tools, &self.resources, &self.prompts, &self.methods]
            .into_iter()
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text, matches) in [
            ("get-*", "get-sum", true),
            ("get-*", "get-", true),
            ("get-*", "Get-sum", false),
            ("*-write", "file-write", true),
            ("*-write", "file-write ", false),
            ("*-write", "-write-write", true),
            ("a?c", "abc", true),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "ab a", false),
            ("file:///pub/*", "file:///pub/a/b", true),
            ("[a]", "a", false),
            ("a\\*", "ab", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), matches, "{pattern} {text}");
        }
        assert!(Pattern::new("**").is_everything());
        assert!(!Pattern::new("").is_everything() && !Pattern::new("*a").is_everything());
    }

    /// What the definition says, in the slowest way.
    fn slow(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', after)), None) => slow(after, text),
            (Some(('*', after)), Some((_, rest))) => slow(after, text) || slow(pattern, rest),
            (Some(('?', after)), Some((_, rest))) => slow(after, rest),
            (Some((wanted, after)), Some((found, rest))) => wanted == found && slow(after, rest),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_is_what_its_definition_says(pattern in "[ab*?é]{0,8}", text in "[abé]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(Pattern::new(&pattern).matches(&text), slow(&chars(&pattern), &chars(&text)));
        }
    }
}
