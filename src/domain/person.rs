//! People on record: those who have an account in the store, who signed in elsewhere, or of whom there is something to
//! remember besides what the configuration says.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::user::{Subject, User};

/// Where somebody's account is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In `users` of the configuration, which says who they are; the record says only whether they are disabled.
    Configuration,
    /// In the store, by an administrator.
    Store,
    /// At the identity provider of this id.
    Provider(String),
    /// Behind the operator's own sign-in page.
    LoginPage,
}

/// Somebody on record.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Who it is, as last heard of.
    pub user: User,
    /// Where that was.
    pub source: Source,
    /// Whether they may not sign in, and their tokens are worth nothing.
    #[serde(default)]
    pub disabled: bool,
    /// An argon2 PHC string, of an account in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
    /// Whether that password is one that somebody else chose, and good for nothing but to choose another.
    #[serde(default)]
    pub must_change: bool,
    /// What is known of them at their provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<ProviderLink>,
    /// When they came on record.
    pub created_at: Timestamp,
    /// When they last signed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_in_at: Option<Timestamp>,
}

/// What is kept to ask a provider again whether somebody is still who they were.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderLink {
    /// When the provider last said so.
    pub checked_at: Timestamp,
    /// The provider's token with which it can be asked again, sealed; none if it gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
}

/// Somebody who has shown their password in the course of an authorization, and is not signed in yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Who.
    pub subject: Subject,
    /// When.
    pub at: Timestamp,
}

/// How a browser came to be signed in, for its person to recognize it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionDetails {
    /// By which means: `builtin`, `login_page`, or a provider's id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// Methods of authentication, as `amr` has them (RFC 8176).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// The browser's `User-Agent`, shortened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub browser: Option<String>,
    /// The address that it signed in from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When it was last seen, give or take some minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<Timestamp>,
    /// The provider's own name of the session (`sid`), by which it may end it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_session: Option<String>,
}

// === impl Person ===

impl Person {
    /// Somebody who has just come on record.
    #[must_use]
    pub const fn new(user: User, source: Source, now: Timestamp) -> Self {
        Self {
            user,
            source,
            disabled: false,
            password_hash: None,
            must_change: false,
            link: None,
            created_at: now,
            signed_in_at: None,
        }
    }
}

/// Hashes and tokens are not for logs.
impl fmt::Debug for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Person")
            .field("user", &self.user)
            .field("source", &self.source)
            .field("disabled", &self.disabled)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ProviderLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderLink")
            .field("checked_at", &self.checked_at)
            .finish_non_exhaustive()
    }
}
