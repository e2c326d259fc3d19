//! Passkeys as second factors (Web Authentication Level 3). What is asked and what is verified is webauthn-rs's; who may ask, what
//! is kept, and that every answer counts once, is ours.
//!
//! The library's state of a ceremony comes back with the form. It is sealed for one person in one place, it lapses, and it is
//! marked as used before the answer is looked at.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use webauthn_rs::prelude::{
    CredentialID, Passkey as Credential, PasskeyAuthentication, PasskeyRegistration, PublicKeyCredential,
    RegisterPublicKeyCredential, Url, Uuid, Webauthn, WebauthnBuilder,
};

use super::Identity;
use super::second::{Second, SecondError};
use crate::config::PublicUrl;
use crate::domain::clock::Timestamp;
use crate::domain::factors::{Factor, Factors, MAX_PASSKEYS, Passkey};
use crate::domain::secret::SecretHash;
use crate::domain::user::{Subject, User};
use crate::store::{Added, Once};

/// How long somebody may take.
const LIFETIME: Duration = Duration::from_secs(10 * 60);
/// Most bytes of what is kept of one.
const MAX_CREDENTIAL: usize = 2 << 10;
/// Most characters of its name.
const MAX_NAME: usize = 60;
/// How somebody got in who showed one, as `amr` has it (RFC 8176 section 2): with a key, and nobody says where that is kept.
pub const METHOD: &str = "pop";

/// What the browser is asked, and what has to come back with its answer.
pub struct Ceremony {
    /// The options, as `navigator.credentials` takes them but for the encoding of bytes.
    pub options: String,
    /// Our state, sealed.
    pub sealed: String,
}

/// What became of a passkey that was to be put on record.
pub enum NewPasskey {
    /// It is the first factor; the recovery codes, which are shown this once.
    First(Vec<String>),
    /// It stands beside others.
    Another,
    /// It is not on record, and why.
    Refused(PasskeyRefused),
}

/// Why a passkey was not put on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasskeyRefused {
    /// What the browser sent is not the answer to what it was asked.
    NotValid,
    /// It is on record already, or other factors are that were not shown.
    Taken,
    /// There are too many.
    TooMany,
}

/// A ceremony under way.
#[derive(Serialize, Deserialize)]
struct Pending<S> {
    state: S,
    until: Timestamp,
}

/// The library, for this gateway's host; none where browsers know no passkeys: at addresses without a name.
pub(super) fn library(public: &PublicUrl) -> Option<Webauthn> {
    let origin = Url::parse(&public.origin).ok()?;
    origin.domain()?;
    let builder = WebauthnBuilder::new(&public.host, &origin).ok()?;
    builder.timeout(LIFETIME).build().ok()
}

impl Identity {
    /// Asks somebody for one of their passkeys; `None` if they have none that could be asked for here.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn ask_passkey(
        &self,
        subject: &Subject,
        factors: &Factors,
        place: &str,
        now: Timestamp,
    ) -> Result<Option<Ceremony>, SecondError> {
        let known: Vec<Credential> = factors.passkeys.iter().filter_map(credential).collect();
        let Some(library) = self.webauthn.as_ref().filter(|_| !known.is_empty()) else {
            return Ok(None);
        };
        let (options, state) = library
            .start_passkey_authentication(&known)
            .map_err(SecondError::library)?;
        self.ceremony("ask", &options, state, (subject, place), now)
            .await
            .map(Some)
    }

    /// Looks at the passkey that a browser shows. Nobody guesses a signature, so what is wrong is not counted: a person who mistyped codes
    /// too often still has their passkey.
    ///
    /// # Errors
    /// If the store fails; nobody gets in then.
    pub async fn show_passkey(
        &self,
        subject: &Subject,
        (place, sealed): (&str, &str),
        answer: &str,
        now: Timestamp,
    ) -> Result<Second, SecondError> {
        let Some(library) = &self.webauthn else {
            return Ok(Second::Wrong);
        };
        let pending = self.pending("ask", (subject, place), sealed, now).await?;
        let Some((state, answer)) = pending.zip(parse::<PublicKeyCredential>(answer)) else {
            return Ok(Second::Wrong);
        };
        let state: PasskeyAuthentication = state;
        let Ok(result) = library.finish_passkey_authentication(&answer, &state) else {
            return Ok(Second::Wrong);
        };
        let id = encoded(result.cred_id());
        let factors = self.store.factors(subject).await?.unwrap_or_default();
        let Some(known) = factors.passkeys.into_iter().find(|passkey| passkey.id == id) else {
            return Ok(Second::Wrong);
        };
        let Some(mut credential) = credential(&known) else {
            return Ok(Second::Wrong);
        };
        credential.update_credential(&result);
        let used = Passkey {
            credential: serde_json::to_string(&credential).map_err(SecondError::library)?,
            counter: result.counter(),
            used_at: Some(now),
            ..known
        };
        let counts = self.store.use_passkey(subject, &used).await?;
        if !counts {
            tracing::warn!(%subject, passkey = used.name, "a passkey's count did not grow: its key may have been copied");
        }
        Ok(if counts { Second::Shown(METHOD) } else { Second::Wrong })
    }

    /// Asks somebody to make a passkey; `None` if browsers know none at this gateway's address.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn invite_passkey(
        &self,
        user: &User,
        place: &str,
        now: Timestamp,
    ) -> Result<Option<Ceremony>, SecondError> {
        let Some(library) = &self.webauthn else {
            return Ok(None);
        };
        let factors = self.store.factors(&user.subject).await?.unwrap_or_default();
        if factors.passkeys.len() >= MAX_PASSKEYS {
            return Ok(None);
        }
        let known: Vec<CredentialID> = factors
            .passkeys
            .iter()
            .filter_map(|passkey| URL_SAFE_NO_PAD.decode(&passkey.id).ok())
            .collect();
        let shown = user.name.as_deref().unwrap_or(&user.username);
        let (options, state) = library
            .start_passkey_registration(handle(&user.subject), &user.username, shown, Some(known))
            .map_err(SecondError::library)?;
        self.ceremony("make", &options, state, (&user.subject, place), now)
            .await
            .map(Some)
    }

    /// Puts a passkey on record that a browser made; as the first factor only, where `first` says so.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn add_passkey(
        &self,
        subject: &Subject,
        (place, sealed): (&str, &str),
        (name, answer): (&str, &str),
        first: bool,
        now: Timestamp,
    ) -> Result<NewPasskey, SecondError> {
        let refused = |why| Ok(NewPasskey::Refused(why));
        let Some(library) = &self.webauthn else {
            return refused(PasskeyRefused::NotValid);
        };
        let pending = self.pending("make", (subject, place), sealed, now).await?;
        let Some((state, answer)) = pending.zip(parse::<RegisterPublicKeyCredential>(answer)) else {
            return refused(PasskeyRefused::NotValid);
        };
        let state: PasskeyRegistration = state;
        let Ok(made) = library.finish_passkey_registration(&answer, &state) else {
            return refused(PasskeyRefused::NotValid);
        };
        let credential = serde_json::to_string(&made).map_err(SecondError::library)?;
        if credential.len() > MAX_CREDENTIAL {
            return refused(PasskeyRefused::NotValid);
        }
        let known = self.store.factors(subject).await?.unwrap_or_default();
        if known.passkeys.len() >= MAX_PASSKEYS {
            return refused(PasskeyRefused::TooMany);
        }
        let passkey = Passkey {
            id: encoded(made.cred_id()),
            name: named(name, known.passkeys.len()),
            credential,
            counter: 0,
            created_at: now,
            used_at: None,
        };
        let (codes, hashes) = super::second::recovery_codes(subject);
        let factor = Factor::Passkey(passkey);
        Ok(match self.store.add_factor(subject, &factor, &hashes, first).await? {
            Added::First => NewPasskey::First(codes),
            Added::Another => NewPasskey::Another,
            Added::Refused => NewPasskey::Refused(PasskeyRefused::Taken),
        })
    }

    async fn ceremony<S: Serialize + Send>(
        &self,
        kind: &str,
        options: &(impl Serialize + Sync),
        state: S,
        (subject, place): (&Subject, &str),
        now: Timestamp,
    ) -> Result<Ceremony, SecondError> {
        let until = now.plus(LIFETIME);
        let options = serde_json::to_string(options).map_err(SecondError::library)?;
        let state = serde_json::to_vec(&Pending { state, until }).map_err(SecondError::library)?;
        let sealed = self.sealer().await?.seal(&state, &owner(kind, subject, place))?;
        Ok(Ceremony { options, sealed })
    }

    /// The state of a ceremony that began in this place, once.
    async fn pending<S: DeserializeOwned + Send>(
        &self,
        kind: &str,
        (subject, place): (&Subject, &str),
        sealed: &str,
        now: Timestamp,
    ) -> Result<Option<S>, SecondError> {
        let opened = self.sealer().await?.open(sealed, &owner(kind, subject, place));
        let pending = opened.and_then(|state| serde_json::from_slice::<Pending<S>>(&state).ok());
        let Some(pending) = pending.filter(|pending| now < pending.until) else {
            return Ok(None);
        };
        let once = SecretHash::of(&format!("passkey ceremony {sealed}"));
        let first = self.store.use_once(&once, pending.until).await? == Once::First;
        Ok(first.then_some(pending.state))
    }
}

fn owner(kind: &str, subject: &Subject, place: &str) -> String {
    format!("{kind} passkey {place} {subject}")
}

/// What is on record, as the library has it.
fn credential(passkey: &Passkey) -> Option<Credential> {
    serde_json::from_str(&passkey.credential).ok()
}

fn parse<T: DeserializeOwned>(answer: &str) -> Option<T> {
    serde_json::from_str(answer).ok()
}

fn encoded(id: &CredentialID) -> String {
    URL_SAFE_NO_PAD.encode(id)
}

/// What devices know a person by: always the same, and nothing that says who it is.
fn handle(subject: &Subject) -> Uuid {
    let hash = SecretHash::of(&format!("passkey handle {subject}"));
    let bytes = hash.as_bytes().first_chunk::<16>().copied();
    Uuid::from_bytes(bytes.unwrap_or_default())
}

/// The name that somebody gave it, or one that tells it from the others.
fn named(name: &str, before: usize) -> String {
    let name: String = name
        .chars()
        .filter(|letter| !letter.is_control())
        .take(MAX_NAME)
        .collect();
    match name.trim() {
        "" => format!("Passkey {}", before.saturating_add(1)),
        name => name.to_owned(),
    }
}
