//! The built-in accounts: argon2id, the same work whether a username exists or not, and a limit on guessing.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use super::SignIn;
use super::throttle::{Target, Throttle};
use crate::config::Config;
use crate::domain::clock::Timestamp;
use crate::domain::secret::random_bytes;

/// Longest password that is looked at.
const MAX_PASSWORD: usize = 1024;
/// Most characters of a username.
const MAX_USERNAME: usize = 128;
/// Passwords checked at the same time: each takes a core and some 20 MiB for a while, and the proxy needs both too.
const AT_ONCE: usize = 2;
/// Sign-ins that may wait for their turn.
const WAITING: usize = 128;
/// What somebody who found the queue full is told to wait.
const QUEUE_FULL: Duration = Duration::from_secs(2);

/// Why a password could not be hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// Nothing, or more than we read at sign-in.
    #[error("a password has 1 to {MAX_PASSWORD} bytes")]
    Length,
    /// The hash function refused.
    #[error("the password could not be hashed: {0}")]
    Hash(String),
}

/// The accounts of a configuration.
pub(super) struct Accounts {
    config: Arc<Config>,
    throttle: Throttle,
    /// Keys the choice of an account to stand in for one that is not there, anew in each process.
    stand_in: RandomState,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    #[cfg(test)]
    verifications: AtomicUsize,
}

/// A place in the queue; given up when dropped.
struct Place<'a>(&'a AtomicUsize);

/// The PHC string of a password: argon2id with the parameters that OWASP recommends (19 MiB, two passes, one lane).
///
/// # Errors
/// If the password is empty or too long to be accepted at sign-in.
pub fn hash_password(password: &str) -> Result<String, HashError> {
    if password.is_empty() || password.len() > MAX_PASSWORD {
        return Err(HashError::Length);
    }
    let parameters = Params::new(19 * 1024, 2, 1, None).map_err(|error| HashError::Hash(error.to_string()))?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password_with_salt(password.as_bytes(), &random_bytes::<16>())
        .map(|hash| hash.to_string())
        .map_err(|error| HashError::Hash(error.to_string()))
}

// === impl Accounts ===

impl Accounts {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self {
            throttle: Throttle::new(config.users.len()),
            config,
            stand_in: RandomState::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: AtomicUsize::new(0),
            #[cfg(test)]
            verifications: AtomicUsize::new(0),
        }
    }

    /// Tries a username and password. A throttled attempt ends before the password is looked at, so that it tells nothing,
    /// not even by taking its time.
    pub(super) async fn sign_in(
        &self,
        username: &str,
        password: Zeroizing<String>,
        from: IpAddr,
        now: Timestamp,
    ) -> SignIn {
        let own = self
            .config
            .users
            .iter()
            .position(|account| account.user.username == username);
        let target = own.map_or_else(|| Target::Nobody(self.stand_in.hash_one(username)), Target::Account);
        if let Err(retry_after) = self.throttle.check(&target, from, now) {
            return SignIn::Throttled { retry_after };
        }
        if password.len() > MAX_PASSWORD || username.chars().count() > MAX_USERNAME {
            self.throttle.failed(&target, from, now);
            return SignIn::Failure;
        }
        let Some(_place) = Place::take(&self.waiting) else {
            return SignIn::Throttled {
                retry_after: QUEUE_FULL,
            };
        };
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else {
            return SignIn::Throttled {
                retry_after: QUEUE_FULL,
            };
        };
        // Again, since others may have failed while this one waited: or a burst would get as many guesses as it has members.
        if let Err(retry_after) = self.throttle.check(&target, from, now) {
            return SignIn::Throttled { retry_after };
        }
        let fits = self.verify(username, own, password, turn).await;
        if let Some(account) = own.and_then(|place| self.config.users.get(place)).filter(|_| fits) {
            self.throttle.succeeded(&target);
            SignIn::Success(account.user.clone())
        } else {
            self.throttle.failed(&target, from, now);
            SignIn::Failure
        }
    }

    /// Whether the password is this account's. For an account that is not there the same work is done on one that is, always
    /// the same one for the same name, and its result thrown away by the caller.
    async fn verify(
        &self,
        username: &str,
        own: Option<usize>,
        password: Zeroizing<String>,
        turn: OwnedSemaphorePermit,
    ) -> bool {
        let count = u64::try_from(self.config.users.len()).unwrap_or(u64::MAX);
        let stand_in = self.stand_in.hash_one(username).checked_rem(count);
        let place = own.or_else(|| stand_in.and_then(|place| usize::try_from(place).ok()));
        let Some(account) = place.and_then(|place| self.config.users.get(place)) else {
            return false;
        };
        let hash = account.password_hash.clone();
        #[cfg(test)]
        self.verifications.fetch_add(1, Ordering::Relaxed);
        let work = move || {
            // The turn ends with the work: somebody who hangs up meanwhile does not stop it.
            let _turn = turn;
            Argon2::default()
                .verify_password(password.as_bytes(), hash.as_str())
                .is_ok()
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(false)
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts")
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

// === impl Place ===

impl<'a> Place<'a> {
    /// A place, unless all are taken.
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < WAITING + AT_ONCE).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
