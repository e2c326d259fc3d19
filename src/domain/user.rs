//! People, and what the gateway tells an upstream about them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::client::ClientId;

/// What the subject of a client without a user begins with; no other may.
const CLIENT: &str = "client:";
/// Most bytes of a subject that others name (OpenID Connect Core §2 allows 255, and a provider's name stands before it).
const MAX_SUBJECT: usize = 320;

/// A stable identifier of whoever a token speaks for. A built-in account's subject is its username; that of somebody who
/// signs in elsewhere is the provider's name, `:` and what the provider calls them; with a sign-in page of the operator's own
/// it is what that page says. A client without a user is `client:` and its id, which nobody else can be (RFC 9700 §4.15:
/// the two may never collide).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subject(String);

/// Somebody who can sign in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The stable identifier.
    pub subject: Subject,
    /// What is typed into the sign-in form.
    pub username: String,
    /// E-mail address, if known.
    pub email: Option<String>,
    /// The full name, if known.
    pub name: Option<String>,
    /// Groups, for scopes that only their members may be granted.
    pub groups: Vec<String>,
}

// === impl Subject ===

impl Subject {
    /// The subject of a built-in account; `None` for a username that could be taken for something else: empty, over 128
    /// characters, with `:` or control characters.
    #[must_use]
    pub fn of_username(username: &str) -> Option<Self> {
        let fine = !username.is_empty()
            && username.chars().count() <= 128
            && username.trim() == username
            && !username.chars().any(|c| c == ':' || c.is_control());
        fine.then(|| Self(username.to_owned()))
    }

    /// The subject of somebody whom an identity provider calls `sub`; `None` if that is empty, too long, or not printable.
    /// The provider's name is one of the configuration, and never `client`.
    #[must_use]
    pub fn at_provider(provider: &str, sub: &str) -> Option<Self> {
        let named = Self::named(&format!("{provider}:{sub}"))?;
        (!provider.is_empty() && !sub.is_empty()).then_some(named)
    }

    /// A subject that the operator's own sign-in page names; `None` if it is empty, too long, not printable, or that of a
    /// client.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        let fine = !text.is_empty()
            && text.len() <= MAX_SUBJECT
            && text.trim() == text
            && !text.starts_with(CLIENT)
            && !text.chars().any(char::is_control);
        fine.then(|| Self(text.to_owned()))
    }

    /// The subject of a client that acts for itself.
    #[must_use]
    pub fn of_client(client: &ClientId) -> Self {
        Self(format!("{CLIENT}{client}"))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl User {
    /// Whether this person is in any of the groups; no list means everyone.
    #[must_use]
    pub fn in_any_group(&self, groups: Option<&[String]>) -> bool {
        groups.is_none_or(|groups| groups.iter().any(|group| self.groups.contains(group)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_from_elsewhere_is_a_client_or_two_people() {
        let named = |text: &str| Subject::named(text).map(|subject| subject.to_string());
        assert_eq!(named("auth0|5f7c").as_deref(), Some("auth0|5f7c"));
        for wrong in ["", " ", "client:ci", "a\nb", "a ", &"x".repeat(321)] {
            assert_eq!(named(wrong), None, "{wrong:?}");
        }
        let at = |provider, sub| Subject::at_provider(provider, sub).map(|subject| subject.to_string());
        assert_eq!(
            at("google", "10769150350006150715113082367").as_deref(),
            Some("google:10769150350006150715113082367")
        );
        for (provider, sub) in [("google", ""), ("", "1"), ("client", "ci"), ("google", "1\u{0}")] {
            assert_eq!(at(provider, sub), None, "{provider} {sub:?}");
        }
        // What a provider says can be no built-in account: usernames have no `:`.
        assert!(Subject::of_username("google:1").is_none());
    }
}
