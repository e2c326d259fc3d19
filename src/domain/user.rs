//! People, and what the gateway tells an upstream about them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::client::ClientId;

/// A stable identifier of whoever a token speaks for. A built-in account's subject is its username; a client without a
/// user is `client:` and its id, which no username can be (RFC 9700 §4.15: the two may never collide).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subject(String);

/// Somebody who can sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
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

    /// The subject of a client that acts for itself.
    #[must_use]
    pub fn of_client(client: &ClientId) -> Self {
        Self(format!("client:{client}"))
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
