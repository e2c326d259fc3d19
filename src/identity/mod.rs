//! Floor 2: who can sign in.

pub mod local;
mod throttle;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::config::Config;
use crate::domain::clock::Timestamp;
use crate::domain::user::{Subject, User};
use local::Accounts;

/// What became of a sign-in.
#[derive(Debug)]
pub enum SignIn {
    /// It is this person.
    Success(User),
    /// Wrong username or password; which of the two is nobody's business.
    Failure,
    /// Not tried: too many attempts on this account or from this address, or too many sign-ins at once.
    Throttled {
        /// When to come back.
        retry_after: Duration,
    },
}

/// Everybody who can sign in.
#[derive(Debug)]
pub struct Identity {
    config: Arc<Config>,
    accounts: Accounts,
}

impl Identity {
    /// The accounts of this configuration.
    #[must_use]
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            accounts: Accounts::new(Arc::clone(&config)),
            config,
        }
    }

    /// The accounts of another configuration; failures on those that both have still count.
    #[must_use]
    pub fn with(&self, config: Arc<Config>) -> Self {
        Self {
            accounts: self.accounts.with(Arc::clone(&config)),
            config,
        }
    }

    /// Tries a username and password.
    pub async fn sign_in(&self, username: &str, password: Zeroizing<String>, from: IpAddr, now: Timestamp) -> SignIn {
        self.accounts.sign_in(username, password, from, now).await
    }

    /// The person behind a subject; `None` if the account is gone, and then its tokens count no longer.
    #[must_use]
    pub fn user(&self, subject: &Subject) -> Option<&User> {
        self.config
            .users
            .iter()
            .map(|account| &account.user)
            .find(|user| user.subject == *subject)
    }
}
