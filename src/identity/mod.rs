//! Floor 2: who can sign in.

pub mod elsewhere;
pub mod local;
pub mod passkey;
pub mod password;
pub mod second;
mod throttle;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use webauthn_rs::Webauthn;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::domain::clock::Timestamp;
use crate::domain::person::{Person, Source};
use crate::domain::user::{Subject, User};
use crate::store::{Store, StoreError};
use local::Accounts;

/// What became of a sign-in.
#[derive(Debug)]
pub enum SignIn {
    /// It is this person.
    Success(User),
    /// It is this person, with a password that somebody else chose: it lets them choose another, and nothing else.
    MustChange(User),
    /// The store failed.
    Unavailable(StoreError),
    /// Wrong username or password; which of the two is nobody's business.
    Failure,
    /// Not tried: too many attempts on this account or from this address, or too many sign-ins at once.
    Throttled {
        /// When to come back.
        retry_after: Duration,
    },
}

/// Everybody who can sign in.
pub struct Identity {
    config: Arc<Config>,
    store: Arc<dyn Store>,
    accounts: Accounts,
    /// None where browsers know no passkeys.
    webauthn: Option<Webauthn>,
}

impl Identity {
    /// The accounts of this configuration and of this store.
    #[must_use]
    pub fn new(config: Arc<Config>, store: Arc<dyn Store>) -> Self {
        Self {
            accounts: Accounts::new(Arc::clone(&config)),
            webauthn: passkey::library(&config.public_url),
            config,
            store,
        }
    }

    /// The accounts of another configuration; failures on those that both have still count.
    #[must_use]
    pub fn with(&self, config: Arc<Config>) -> Self {
        Self {
            accounts: self.accounts.with(Arc::clone(&config)),
            webauthn: passkey::library(&config.public_url),
            config,
            store: Arc::clone(&self.store),
        }
    }

    /// Tries a username and password: of an account that is written down, or of one in the store.
    pub async fn sign_in(&self, username: &str, password: Zeroizing<String>, from: IpAddr, now: Timestamp) -> SignIn {
        // Looked up for every name, or the time would tell whose account is where.
        let known = match Subject::of_username(username) {
            Some(subject) => self.store.person(&subject).await,
            None => Ok(None),
        };
        let known = match known {
            Ok(known) => known,
            Err(error) => return SignIn::Unavailable(error),
        };
        let disabled = known.as_ref().is_some_and(|person| person.disabled);
        let stored = known.filter(|person| self.counts(person) && person.source == Source::Store);
        let must_change = stored.as_ref().is_some_and(|person| person.must_change);
        let outcome = self
            .accounts
            .sign_in(username, stored, disabled, password, from, now)
            .await;
        match outcome {
            SignIn::Success(user) if must_change => SignIn::MustChange(user),
            outcome => outcome,
        }
    }

    /// Whether a password is the one that an account of the store has. Not for guesses: nothing is counted.
    pub async fn fits(&self, person: &Person, password: Zeroizing<String>) -> bool {
        self.accounts.fits(person, password).await
    }

    /// Whether somebody is written down in the configuration.
    #[must_use]
    pub fn is_configured(&self, subject: &Subject) -> bool {
        self.configured(subject).is_some()
    }

    /// The person behind a subject; `None` if the account is gone or disabled, and then its tokens count no longer.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn user(&self, subject: &Subject) -> Result<Option<User>, StoreError> {
        let known = self.store.person(subject).await?;
        if known.as_ref().is_some_and(|person| person.disabled) {
            return Ok(None);
        }
        Ok(known
            .filter(|person| self.counts(person))
            .map(|person| person.user)
            .or_else(|| self.configured(subject).cloned()))
    }

    /// Whether what is on record of somebody is true: whoever said so is still believed, and says more than the configuration.
    fn counts(&self, person: &Person) -> bool {
        match &person.source {
            Source::Configuration => false,
            // Who is written down by name is who is written down.
            Source::Store => self.configured(&person.user.subject).is_none(),
            Source::Provider(id) => self.config.identity_provider(id).is_some(),
            // It may say more of somebody who is written down.
            Source::LoginPage => self.config.oauth.login_page.is_some(),
        }
    }

    fn configured(&self, subject: &Subject) -> Option<&User> {
        self.config
            .users
            .iter()
            .map(|account| &account.user)
            .find(|user| user.subject == *subject)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("accounts", &self.accounts)
            .finish_non_exhaustive()
    }
}
