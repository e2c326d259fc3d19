//! Sign-in elsewhere: what is spoken with identity providers, and what of it is believed.
//!
//! ```text
//! way_to ──▶ the provider's page ──▶ arrived(code) ──▶ Said ──rules──▶ Arrival: who it is, and what is kept to ask again
//! ```
//! Nothing that a provider gives goes any further: its tokens are used here, for this one sign-in and to ask again whether
//! somebody is still who they were (`again.rs`), and are otherwise dropped.

pub mod again;
mod github;
mod logout;
mod metadata;
mod openid;
mod rules;
mod said;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use url::Url;
use zeroize::Zeroizing;

use crate::config::{IdentityProvider, Protocol};
use crate::domain::clock::Timestamp;
use crate::domain::user::{Subject, User};
use crate::fetch::{Cache, FetchError, Fetcher, Kind};
use crate::jose::KeySet;
use metadata::Metadata;

pub use logout::Logout;
pub use rules::NotAllowed;

/// Everything that identity providers are asked with, and what they published.
pub struct Providers {
    fetcher: Arc<Fetcher>,
    metadata: Cache<Metadata>,
    keys: Cache<KeySet>,
    /// Who is being asked about: of many refreshes of one person, one asks.
    asking: Mutex<HashMap<Subject, Arc<tokio::sync::Mutex<()>>>>,
    /// Providers that did not answer lately, and when that was.
    silent: Mutex<HashMap<String, Timestamp>>,
}

/// A trip to a provider: what was sent there, and what has to come back.
#[derive(Clone, Copy)]
pub struct Trip<'a> {
    /// Where the provider sends the browser.
    pub redirect_uri: &'a str,
    /// Ours, in the address.
    pub state: &'a str,
    /// In the ID token.
    pub nonce: &'a str,
    /// RFC 7636; only its hash goes through the browser.
    pub verifier: &'a str,
    /// Whether they have to sign in there again.
    pub again: bool,
    /// Whether they want to choose with which of their accounts.
    pub choose: bool,
    /// How long ago they may have signed in there, in seconds.
    pub max_age: Option<u64>,
    /// Whom the client expects.
    pub login_hint: Option<&'a str>,
    /// When the authorization began that this is for: who has to sign in again does so after that.
    pub begun_at: Timestamp,
}

/// Somebody who signed in elsewhere, and may sign in here.
pub struct Arrival {
    /// Who.
    pub user: User,
    /// The token with which the provider can be asked again, if it gave one.
    pub token: Option<Zeroizing<String>>,
    /// What the provider calls the session, if it says.
    pub session: Option<String>,
    /// How they signed in there, if it says (`amr`).
    pub methods: Vec<String>,
}

/// Why nobody arrived. Nothing that is secret is in it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The provider gave no answer that could be read: it may be better in a while.
    #[error("{what}: {cause}")]
    Unreachable {
        /// What was asked for.
        what: &'static str,
        /// Why there is nothing.
        cause: String,
    },
    /// What it said does not hold. For the log; people hear that something is wrong with the provider.
    #[error("{0}")]
    Wrong(String),
    /// It says that the code or token is worth nothing, or that the account is not there.
    #[error("the provider says {0}")]
    Refused(String),
    /// It is somebody, but not one of those who may sign in.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
}

impl Providers {
    /// Nobody was asked yet.
    #[must_use]
    pub fn new(fetcher: Arc<Fetcher>) -> Self {
        Self {
            metadata: Cache::new(Arc::clone(&fetcher), Kind::Provider),
            keys: Cache::new(Arc::clone(&fetcher), Kind::Keys),
            fetcher,
            asking: Mutex::default(),
            silent: Mutex::default(),
        }
    }

    /// Where a browser goes to sign in.
    ///
    /// # Errors
    /// If the provider does not say where that is.
    pub async fn way_to(&self, provider: &IdentityProvider, trip: Trip<'_>) -> Result<Url, Failure> {
        match &provider.protocol {
            Protocol::OpenId { issuer, manners } => self.openid_way(provider, issuer, *manners, trip).await,
            Protocol::GitHub { url, .. } => github::way(provider, url, trip),
        }
    }

    /// Who has come back with a code. `iss` is the parameter of RFC 9207.
    ///
    /// # Errors
    /// Why nobody has.
    pub async fn arrived(
        &self,
        provider: &IdentityProvider,
        code: &str,
        iss: Option<&str>,
        trip: Trip<'_>,
        now: Timestamp,
    ) -> Result<Arrival, Failure> {
        let heard = match &provider.protocol {
            Protocol::OpenId { issuer, manners } => {
                self.openid_arrival(provider, issuer, *manners, (code, iss), trip, now)
                    .await?
            }
            Protocol::GitHub { url, api_url } => self.github_arrival(provider, (url, api_url), code, trip).await?,
        };
        Ok(Arrival {
            user: rules::admit(provider, &heard.said)?,
            token: heard.token,
            session: heard.session,
            methods: heard.methods,
        })
    }
}

/// What came of one conversation with a provider, before it is judged.
struct Heard {
    said: said::Said,
    token: Option<Zeroizing<String>>,
    session: Option<String>,
    methods: Vec<String>,
}

impl Failure {
    fn wrong(what: impl Into<String>) -> Self {
        Self::Wrong(what.into())
    }

    fn unreachable(what: &'static str) -> impl Fn(FetchError) -> Self {
        move |error| Self::Unreachable {
            what,
            cause: error.to_string(),
        }
    }

    fn status(what: &'static str, status: u16) -> Self {
        Self::Unreachable {
            what,
            cause: format!("the answer has the status {status}"),
        }
    }
}
