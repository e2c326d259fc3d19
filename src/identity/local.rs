//! The built-in accounts: argon2id, the same work whether a username exists or not, and a limit on guessing.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use super::SignIn;
use super::throttle::{Target, Throttle};
use crate::config::Config;
use crate::domain::clock::Timestamp;
use crate::domain::person::Person;
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

/// The hash of a password that nobody has, made as those in the store are.
static STAND_IN: LazyLock<Zeroizing<String>> = LazyLock::new(|| {
    let nobodys = URL_SAFE_NO_PAD.encode(random_bytes::<32>());
    Zeroizing::new(hash_password(&nobodys).unwrap_or_default())
});

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
    memory: Arc<Memory>,
}

/// What outlives a configuration.
struct Memory {
    throttle: Throttle,
    /// Keys the choice of an account to stand in for one that is not there, anew in each process.
    stand_in: RandomState,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Second factors are tried one after the other: of many guesses at once, each sees the failures before it.
    second: tokio::sync::Mutex<()>,
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
        let memory = Memory {
            throttle: Throttle::new(config.users.len()),
            stand_in: RandomState::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: AtomicUsize::new(0),
            second: tokio::sync::Mutex::new(()),
            #[cfg(test)]
            verifications: AtomicUsize::new(0),
        };
        Self {
            config,
            memory: Arc::new(memory),
        }
    }

    /// The accounts of another configuration, with the same memory.
    pub(super) fn with(&self, config: Arc<Config>) -> Self {
        let names = config.users.iter().map(|account| account.user.username.as_str());
        self.memory.throttle.keep(&names.collect::<Vec<_>>());
        Self {
            config,
            memory: Arc::clone(&self.memory),
        }
    }

    /// Tries a username and password. A throttled attempt ends before the password is looked at, so that it tells nothing,
    /// not even by taking its time.
    pub(super) async fn sign_in(
        &self,
        username: &str,
        stored: Option<Person>,
        disabled: bool,
        password: Zeroizing<String>,
        from: IpAddr,
        now: Timestamp,
    ) -> SignIn {
        let written = self
            .config
            .users
            .iter()
            .find(|account| account.user.username == username);
        let own = match (written, stored) {
            (Some(account), _) => Some((account.user.clone(), account.password_hash.clone())),
            (None, Some(person)) => person.password_hash.map(|hash| (person.user, Zeroizing::new(hash))),
            (None, None) => None,
        };
        let target = match (written, &own) {
            (Some(_), _) => Target::Account(username.to_owned()),
            (None, Some(_)) => Target::Stored(username.to_owned()),
            (None, None) => Target::Nobody(self.memory.stand_in.hash_one(username)),
        };
        if let Err(retry_after) = self.memory.throttle.check(&target, from, now) {
            return SignIn::Throttled { retry_after };
        }
        if password.len() > MAX_PASSWORD || username.chars().count() > MAX_USERNAME {
            self.memory.throttle.failed(&target, from, now);
            return SignIn::Failure;
        }
        let Some(_place) = Place::take(&self.memory.waiting) else {
            return SignIn::Throttled {
                retry_after: QUEUE_FULL,
            };
        };
        let Ok(turn) = Arc::clone(&self.memory.turns).acquire_owned().await else {
            return SignIn::Throttled {
                retry_after: QUEUE_FULL,
            };
        };
        // Again, since others may have failed while this one waited: or a burst would get as many guesses as it has members.
        if let Err(retry_after) = self.memory.throttle.check(&target, from, now) {
            return SignIn::Throttled { retry_after };
        }
        // The turn is kept until the failure is noted: whoever comes next must see it.
        let (user, hash) = own.unzip();
        let hash = hash.unwrap_or_else(|| self.stand_in(username));
        let (fits, _turn) = self.verify(hash, password, turn).await;
        // Whoever is disabled hears what everybody hears, and it counts: or the right password could be told by that.
        if let Some(user) = user.filter(|_| fits && !disabled) {
            self.memory.throttle.succeeded(&target);
            SignIn::Success(user)
        } else {
            self.memory.throttle.failed(&target, from, now);
            SignIn::Failure
        }
    }

    /// The hash that a password for an account which is not there is held against, so that it costs the same work: always the
    /// same one for the same name. The caller throws the result away.
    fn stand_in(&self, username: &str) -> Zeroizing<String> {
        let count = u64::try_from(self.config.users.len())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let place = self.memory.stand_in.hash_one(username).checked_rem(count);
        let account = place
            .and_then(|place| usize::try_from(place).ok())
            .and_then(|place| self.config.users.get(place));
        account.map_or_else(|| STAND_IN.clone(), |account| account.password_hash.clone())
    }

    /// Whether a password is the one of this account in the store.
    pub(super) async fn fits(&self, person: &Person, password: Zeroizing<String>) -> bool {
        let Some(hash) = person.password_hash.clone() else {
            return false;
        };
        match Arc::clone(&self.memory.turns).acquire_owned().await {
            Ok(turn) => self.verify(Zeroizing::new(hash), password, turn).await.0,
            Err(_) => false,
        }
    }

    /// Tries a second factor, under the limit on guessing of its own account.
    pub(super) async fn try_second<T, E>(
        &self,
        subject: &str,
        from: IpAddr,
        now: Timestamp,
        attempt: impl Future<Output = Result<Option<T>, E>>,
    ) -> Result<Result<Option<T>, E>, Duration> {
        let _turn = self.memory.second.lock().await;
        let target = Target::Second(subject.to_owned());
        self.memory.throttle.check(&target, from, now)?;
        let outcome = attempt.await;
        match &outcome {
            Ok(Some(_)) => self.memory.throttle.succeeded(&target),
            Ok(None) => self.memory.throttle.failed(&target, from, now),
            Err(_) => {}
        }
        Ok(outcome)
    }

    /// Whether a password is the one of this hash.
    async fn verify(
        &self,
        hash: Zeroizing<String>,
        password: Zeroizing<String>,
        turn: OwnedSemaphorePermit,
    ) -> (bool, Option<OwnedSemaphorePermit>) {
        #[cfg(test)]
        self.memory.verifications.fetch_add(1, Ordering::Relaxed);
        let work = move || {
            let fits = Argon2::default()
                .verify_password(password.as_bytes(), hash.as_str())
                .is_ok();
            // The turn travels with the work: somebody who hangs up meanwhile does not end it early.
            (fits, Some(turn))
        };
        tokio::task::spawn_blocking(work).await.unwrap_or((false, None))
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts")
            .field("waiting", &self.memory.waiting)
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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const PASSWORD: &str = "correct horse battery staple";
    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    /// Spec: E8
    #[test]
    fn a_hash_is_argon2id_with_its_own_salt_and_fits_its_password() {
        let (one, two) = (hash_password(PASSWORD).unwrap(), hash_password(PASSWORD).unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two);
        let fits = |password: &str| {
            Argon2::default()
                .verify_password(password.as_bytes(), one.as_str())
                .is_ok()
        };
        assert!(fits(PASSWORD) && !fits("correct horse battery stapl") && !fits(""));
        assert!(hash_password("").is_err() && hash_password(&"x".repeat(1025)).is_err());
    }

    fn accounts(users: &[&str]) -> Accounts {
        let cheap = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        let hash = cheap
            .hash_password_with_salt(PASSWORD.as_bytes(), &[1; 16])
            .unwrap()
            .to_string();
        let mut yaml = "public_url: http://127.0.0.1:8080\n".to_owned();
        yaml.push_str("upstreams: [{ name: a, path: /a, url: http://127.0.0.1:1/ }]\nusers:\n");
        for user in users {
            writeln!(yaml, "  - {{ username: {user}, password_hash: \"{hash}\" }}").unwrap();
        }
        Accounts::new(Arc::new(
            crate::config::parse(&yaml, std::path::Path::new(""), &|_| None).unwrap(),
        ))
    }

    async fn attempt(accounts: &Accounts, username: &str, password: &str) -> SignIn {
        let from = IpAddr::from([10, 0, 0, 1]);
        accounts
            .sign_in(username, None, false, Zeroizing::new(password.to_owned()), from, NOW)
            .await
    }

    /// How many times a password was hashed.
    fn work(accounts: &Accounts) -> usize {
        accounts.memory.verifications.load(Ordering::Relaxed)
    }

    /// Spec: E8
    #[tokio::test]
    async fn an_unknown_name_costs_as_much_work_as_a_wrong_password() {
        let accounts = accounts(&["ada", "bob"]);
        assert!(matches!(attempt(&accounts, "ada", PASSWORD).await, SignIn::Success(user) if user.username == "ada"));
        assert_eq!(work(&accounts), 1);
        assert!(matches!(attempt(&accounts, "ada", "wrong").await, SignIn::Failure));
        assert_eq!(work(&accounts), 2);
        // The password of whoever stands in for nobody opens nothing.
        for name in ["nobody", "Ada", "ada ", ""] {
            let before = work(&accounts);
            assert!(
                matches!(attempt(&accounts, name, PASSWORD).await, SignIn::Failure),
                "{name:?}"
            );
            assert_eq!(work(&accounts), before + 1);
        }
    }

    #[tokio::test]
    async fn a_throttled_attempt_costs_no_work_and_tells_nothing() {
        let accounts = accounts(&["ada"]);
        for _ in 0..5 {
            attempt(&accounts, "ada", "wrong").await;
        }
        let before = work(&accounts);
        for password in [PASSWORD, "wrong"] {
            assert!(matches!(
                attempt(&accounts, "ada", password).await,
                SignIn::Throttled { .. }
            ));
        }
        assert_eq!(work(&accounts), before);
    }

    #[tokio::test]
    async fn a_burst_gets_no_more_guesses_than_its_members_one_by_one() {
        let accounts = Arc::new(accounts(&["ada"]));
        let burst: Vec<_> = (0..40)
            .map(|_| {
                let accounts = Arc::clone(&accounts);
                tokio::spawn(async move { attempt(&accounts, "ada", "wrong").await })
            })
            .collect();
        for one in burst {
            one.await.unwrap();
        }
        // Those that run at the same time cannot know of each other.
        assert!((5..5 + AT_ONCE).contains(&work(&accounts)), "{}", work(&accounts));
    }

    /// Spec: E8, L13, L22
    #[tokio::test]
    async fn another_configuration_forgives_nobody() {
        let before = accounts(&["ada", "bob"]);
        for _ in 0..5 {
            attempt(&before, "bob", "wrong").await;
        }
        // Another place in the list, and one account more.
        let after = before.with(Arc::clone(&accounts(&["eve", "ada", "bob"]).config));
        assert!(matches!(
            attempt(&after, "bob", PASSWORD).await,
            SignIn::Throttled { .. }
        ));
        assert!(matches!(attempt(&after, "ada", PASSWORD).await, SignIn::Success(_)));
        // Gone, and back: what was counted went with the account.
        let without = after.with(Arc::clone(&accounts(&["ada"]).config));
        let again = without.with(Arc::clone(&before.config));
        assert!(matches!(attempt(&again, "bob", PASSWORD).await, SignIn::Success(_)));
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_places_are_given_back() {
        let accounts = Arc::new(accounts(&["ada"]));
        let all = accounts
            .memory
            .turns
            .clone()
            .acquire_many_owned(u32::try_from(AT_ONCE).unwrap())
            .await
            .unwrap();
        let waiting: Vec<_> = (0..WAITING + AT_ONCE)
            .map(|_| {
                let accounts = Arc::clone(&accounts);
                tokio::spawn(async move { attempt(&accounts, "ada", PASSWORD).await })
            })
            .collect();
        while accounts.memory.waiting.load(Ordering::Relaxed) < WAITING + AT_ONCE {
            tokio::task::yield_now().await;
        }
        assert!(
            matches!(attempt(&accounts, "ada", PASSWORD).await, SignIn::Throttled { retry_after } if retry_after == QUEUE_FULL)
        );
        drop(all);
        for one in waiting {
            assert!(matches!(one.await.unwrap(), SignIn::Success(_)));
        }
        assert_eq!(accounts.memory.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_looked_at() {
        let accounts = accounts(&["ada"]);
        assert!(matches!(
            attempt(&accounts, "ada", &"x".repeat(1025)).await,
            SignIn::Failure
        ));
        assert!(matches!(
            attempt(&accounts, &"x".repeat(129), PASSWORD).await,
            SignIn::Failure
        ));
        assert_eq!(work(&accounts), 0);
    }

    #[tokio::test]
    async fn without_accounts_nobody_signs_in() {
        let mut config = (*accounts(&["ada"]).config).clone();
        config.users.clear();
        let nobody = Accounts::new(Arc::new(config));
        assert!(matches!(attempt(&nobody, "ada", PASSWORD).await, SignIn::Failure));
    }
}
