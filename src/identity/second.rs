//! Second factors of those who sign in with a password here: one-time passwords of an app, and recovery codes. Passkeys are in
//! `passkey.rs`.

use std::net::IpAddr;
use std::time::Duration;

use zeroize::Zeroizing;

use super::Identity;
use crate::domain::clock::Timestamp;
use crate::domain::factors::{Authenticator, Factor};
use crate::domain::secret::{SecretHash, random_bytes};
use crate::domain::user::Subject;
use crate::jose::otp;
use crate::jose::seal::{NotSealed, Sealer};
use crate::store::{Added, StoreError};

/// How many recovery codes somebody gets.
const RECOVERY_CODES: usize = 10;
/// Bytes of one: no guessing, not even by whoever has the store.
const RECOVERY_BYTES: usize = 10;
/// Most bytes of what is typed.
const MAX_TYPED: usize = 64;

/// What became of a second factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// It is theirs; by which method, as `amr` has it (RFC 8176).
    Shown(&'static str),
    /// It is not, or it was used.
    Wrong,
    /// Not tried: too many attempts.
    Throttled(Duration),
}

/// Why nothing could be said of a second factor.
#[derive(Debug, thiserror::Error)]
pub enum SecondError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key cannot be sealed.
    #[error(transparent)]
    Seal(#[from] NotSealed),
    /// The library for passkeys failed at something that no answer of a browser's can cause.
    #[error("passkeys: {0}")]
    Library(String),
}

// === impl SecondError ===

impl SecondError {
    pub(super) fn library(error: impl std::fmt::Display) -> Self {
        Self::Library(error.to_string())
    }
}

/// What became of an app that was to be put on record.
pub enum Accepted {
    /// It is the first factor; the recovery codes, which are shown this once.
    First(Vec<String>),
    /// It stands beside others.
    Another,
    /// It is not: the password is wrong, there is an app already, or other factors that were not shown.
    No,
}

/// The key of an app that is about to be set up.
pub struct Offer {
    /// The key in clear, for the person to copy.
    pub key: Zeroizing<Vec<u8>>,
    /// The same, sealed: it comes back with the form.
    pub sealed: String,
}

impl Identity {
    /// Tries what somebody typed who has shown their password.
    ///
    /// # Errors
    /// If the store fails; nobody gets in then.
    pub async fn second(
        &self,
        subject: &Subject,
        typed: &str,
        from: IpAddr,
        now: Timestamp,
    ) -> Result<Second, SecondError> {
        let attempt = self.try_second(subject, typed, now);
        match self.accounts.try_second(subject.as_str(), from, now, attempt).await {
            Err(wait) => Ok(Second::Throttled(wait)),
            Ok(outcome) => Ok(outcome?.map_or(Second::Wrong, Second::Shown)),
        }
    }

    async fn try_second(
        &self,
        subject: &Subject,
        typed: &str,
        now: Timestamp,
    ) -> Result<Option<&'static str>, SecondError> {
        let typed = normal(typed);
        let Some(factors) = self.store.factors(subject).await? else {
            return Ok(None);
        };
        if let Some(Authenticator { sealed, .. }) = factors.authenticator {
            let key = self.sealer().await?.open(&sealed, subject.as_str());
            if let Some(step) = key.and_then(|key| otp::step_of(&key, &typed, now)) {
                let is_new = self.store.use_step(subject, &sealed, step).await?;
                return Ok(is_new.then_some("otp"));
            }
        }
        let recovered = self
            .store
            .use_recovery_code(subject, &recovery_hash(subject, &typed))
            .await?;
        Ok(recovered.then_some("kba"))
    }

    /// A key for an app. It is on record once [`Identity::accept`] has it; `place` is where it is offered, and nowhere else does
    /// it count.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn offer(&self, subject: &Subject, place: &str) -> Result<Offer, SecondError> {
        let key = Zeroizing::new(random_bytes::<{ otp::KEY_BYTES }>().to_vec());
        let sealed = self.sealer().await?.seal(&key, &offered(subject, place))?;
        Ok(Offer { key, sealed })
    }

    /// The key of an offer that was made to this person in this place.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn offered(&self, subject: &Subject, place: &str, sealed: &str) -> Result<Option<Offer>, SecondError> {
        let key = self.sealer().await?.open(sealed, &offered(subject, place));
        Ok(key.map(|key| Offer {
            key,
            sealed: sealed.to_owned(),
        }))
    }

    /// Puts the app on record that shows the right password for an offer; as the first factor only, where `first` says so.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn accept(
        &self,
        subject: &Subject,
        offer: &Offer,
        typed: &str,
        first: bool,
        now: Timestamp,
    ) -> Result<Accepted, SecondError> {
        let Some(step) = otp::step_of(&offer.key, &normal(typed), now) else {
            return Ok(Accepted::No);
        };
        let authenticator = Authenticator {
            sealed: self.sealer().await?.seal(&offer.key, subject.as_str())?,
            last_step: step,
        };
        let (codes, hashes) = recovery_codes(subject);
        let factor = Factor::Authenticator(authenticator);
        Ok(match self.store.add_factor(subject, &factor, &hashes, first).await? {
            Added::First => Accepted::First(codes),
            Added::Another => Accepted::Another,
            Added::Refused => Accepted::No,
        })
    }

    /// Other recovery codes in place of all; `None` if there is no factor that they stand in for.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn renew_recovery(&self, subject: &Subject) -> Result<Option<Vec<String>>, SecondError> {
        let (codes, hashes) = recovery_codes(subject);
        let done = self.store.replace_recovery(subject, &hashes).await?;
        Ok(done.then_some(codes))
    }

    pub(super) async fn sealer(&self) -> Result<Sealer, SecondError> {
        let key = Zeroizing::new(self.store.signing_key("factors").await?);
        Ok(Sealer::new(&*key, "second factors")?)
    }
}

/// Recovery codes, and what is kept of them.
pub(super) fn recovery_codes(subject: &Subject) -> (Vec<String>, Vec<SecretHash>) {
    let codes: Vec<String> = (0..RECOVERY_CODES)
        .map(|_| otp::readable(&random_bytes::<RECOVERY_BYTES>()).to_lowercase())
        .collect();
    let hashes = codes.iter().map(|code| recovery_hash(subject, code)).collect();
    (codes, hashes)
}

/// What was typed, without what people put between groups.
fn normal(typed: &str) -> String {
    typed
        .chars()
        .filter(|letter| !letter.is_whitespace() && *letter != '-')
        .take(MAX_TYPED)
        .collect::<String>()
        .to_lowercase()
}

fn offered(subject: &Subject, place: &str) -> String {
    format!("offer {place} {subject}")
}

fn recovery_hash(subject: &Subject, code: &str) -> SecretHash {
    SecretHash::of(&format!("recovery {code} {subject}"))
}
