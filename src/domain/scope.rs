//! Scopes: RFC 6749 §3.3.
//!
//! `scope-token = 1*( %x21 / %x23-5B / %x5D-7E )`, several of them separated by spaces. The grammar keeps quotes and
//! line breaks out, so a scope may stand in a challenge header as it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The scope that asks for a refresh token (OpenID Connect Core §11).
pub const OFFLINE_ACCESS: &str = "offline_access";
/// Longest scope token that we read.
const MAX_TOKEN_LENGTH: usize = 128;
/// Most scope tokens in one parameter.
const MAX_TOKENS: usize = 64;

/// One scope token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeToken(Box<str>);

/// A set of scope tokens, in the order in which they were first named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(Vec<ScopeToken>);

/// Why text is not a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScope {
    /// A token is empty or too long, or holds something that RFC 6749 §3.3 keeps out.
    #[error("a scope is 1 to 128 visible ASCII characters without quotes and backslashes")]
    Token,
    /// Too many of them.
    #[error("at most 64 scopes")]
    Count,
}

// === impl ScopeToken ===

impl ScopeToken {
    /// The token's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ScopeToken {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let allowed = |b: u8| matches!(b, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
        if text.is_empty() || text.len() > MAX_TOKEN_LENGTH || !text.bytes().all(allowed) {
            return Err(InvalidScope::Token);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ScopeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Scope ===

impl Scope {
    /// No scope at all.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Vec::new())
    }

    /// The tokens, in order.
    pub fn iter(&self) -> impl Iterator<Item = &ScopeToken> {
        self.0.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this token is in it.
    #[must_use]
    pub fn contains(&self, token: &str) -> bool {
        self.0.iter().any(|own| own.as_str() == token)
    }

    /// Whether every token of `needed` is in it.
    #[must_use]
    pub fn covers(&self, needed: &Self) -> bool {
        needed.iter().all(|token| self.contains(token.as_str()))
    }

    /// The tokens for which `keep` holds.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&ScopeToken) -> bool) -> Self {
        Self(self.0.iter().filter(|token| keep(token)).cloned().collect())
    }

    /// The tokens of both, those of `self` first.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).cloned().collect()
    }

    /// Sorted, for comparing sets and for keys.
    #[must_use]
    pub fn sorted(&self) -> Self {
        let mut tokens = self.0.clone();
        tokens.sort();
        Self(tokens)
    }
}

impl FromIterator<ScopeToken> for Scope {
    fn from_iter<I: IntoIterator<Item = ScopeToken>>(tokens: I) -> Self {
        let mut scope = Self::empty();
        for token in tokens {
            if !scope.contains(token.as_str()) {
                scope.0.push(token);
            }
        }
        scope
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let mut scope = Self::empty();
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            let token: ScopeToken = word.parse()?;
            if scope.contains(token.as_str()) {
                continue;
            }
            if scope.len() == MAX_TOKENS {
                return Err(InvalidScope::Count);
            }
            scope.0.push(token);
        }
        Ok(scope)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, token) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(token.as_str())?;
        }
        Ok(())
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Spec: D13
    #[test]
    fn the_grammar_of_rfc_6749_3_3() {
        assert_eq!("a b a  c".parse::<Scope>().unwrap().to_string(), "a b c");
        assert!("".parse::<Scope>().unwrap().is_empty());
        for bad in ["a\"b", "a\\b", "a\tb", "ä", "a\nb", "a\u{7f}", &"x".repeat(129)] {
            assert_eq!(bad.parse::<Scope>(), Err(InvalidScope::Token), "{bad:?}");
        }
        let many = (0..65).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(many.parse::<Scope>(), Err(InvalidScope::Count));
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(words in prop::collection::vec("[!#-\\[\\]-~]{1,12}", 0..12)) {
            let scope: Scope = words.join(" ").parse().unwrap();
            prop_assert_eq!(scope.to_string().parse::<Scope>().unwrap(), scope.clone());
            prop_assert!(scope.covers(&scope) && scope.covers(&Scope::empty()));
            prop_assert!(words.iter().all(|word| scope.contains(word)));
        }

        #[test]
        fn no_text_whatever_breaks_the_parser(text in ".{0,200}") {
            if let Ok(scope) = text.parse::<Scope>() {
                prop_assert!(scope.iter().all(|t| t.as_str().bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'"' && b != b'\\')));
            }
        }

        #[test]
        fn a_narrowed_scope_is_covered(words in prop::collection::vec("[a-z]{1,3}", 0..12), keep in "[a-z]") {
            let scope: Scope = words.join(" ").parse().unwrap();
            let narrow = scope.filtered(|t| t.as_str().starts_with(&keep));
            prop_assert!(scope.covers(&narrow));
            prop_assert_eq!(narrow.union(&scope).sorted(), scope.sorted());
        }
    }
}
