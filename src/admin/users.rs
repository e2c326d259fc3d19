//! People: those of the configuration, those with an account in the store, and those who signed in elsewhere.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::listing::{BATCH, Page, Walk, Wanted, shown, time};
use super::trouble::Trouble;
use crate::domain::client::ClientId;
use crate::domain::person::{Person, Source};
use crate::domain::user::{Subject, User};
use crate::identity::local::hash_password;
use crate::identity::password;
use crate::oauth::Endpoints;
use crate::store::{Addition, Chosen, Room};
use crate::telemetry::audit::{Act, Event};

/// Longest full name.
const MAX_NAME: usize = 200;
/// Longest e-mail address (RFC 5321 §4.5.3.1.3).
const MAX_EMAIL: usize = 254;
/// Most groups of an account, and the longest name of one.
const MAX_GROUPS: usize = 100;
const MAX_GROUP: usize = 128;

/// A new account.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUser {
    pub(super) username: String,
    #[serde(deserialize_with = "secret")]
    pub(super) password: Zeroizing<String>,
    #[serde(default)]
    pub(super) email: Option<String>,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) groups: Vec<String>,
    /// Whether the password is only good for choosing another.
    #[serde(default)]
    pub(super) must_change: bool,
}

/// A password in place of one that was lost.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    #[serde(deserialize_with = "secret")]
    pub(super) password: Zeroizing<String>,
}

/// People in the order of their subjects.
pub(super) async fn list(at: &Endpoints, wanted: &Wanted) -> Result<Page, Trouble> {
    let after = wanted.after.as_deref().map(subject).transpose()?;
    let mut walk = Walk::new(wanted, after);
    while walk.goes_on() {
        let batch = at.store.people(walk.last(), BATCH).await?;
        let is_all = batch.len() < BATCH;
        let end = batch
            .last()
            .map(|person| person.user.subject.clone())
            .filter(|_| !is_all);
        let configured = at.config.users.iter().map(|account| &account.user);
        let mut entries = BTreeMap::new();
        for user in configured.filter(|user| walk.covers(&user.subject, end.as_ref())) {
            entries.insert(user.subject.clone(), entry(at, user, None).await?);
        }
        for person in batch {
            let written = configured_user(at, &person.user.subject);
            if written.is_some() || person.source != Source::Configuration {
                let shown = entry(at, written.unwrap_or(&person.user), Some(&person)).await?;
                entries.insert(person.user.subject.clone(), shown);
            }
        }
        walk.take(entries, is_all);
    }
    Ok(walk.page())
}

/// One of them.
pub(super) async fn show(at: &Endpoints, name: &str) -> Result<Value, Trouble> {
    let subject = subject(name)?;
    let person = at.store.person(&subject).await?;
    match (configured_user(at, &subject), &person) {
        (Some(user), _) => entry(at, user, person.as_ref()).await,
        (None, Some(known)) if known.source != Source::Configuration => entry(at, &known.user, person.as_ref()).await,
        (None, _) => Err(nobody(name)),
    }
}

/// A new account in the store. `by` is what the audit log says.
pub(super) async fn add(at: &Endpoints, new: NewUser, by: &str) -> Result<Value, Trouble> {
    let subject = Subject::of_username(&new.username).ok_or_else(|| {
        Trouble::malformed("a username has 1 to 128 characters without `:`, control characters, or space around them")
    })?;
    check_details(&new)?;
    if configured_user(at, &subject).is_some() {
        return Err(Trouble::conflict(
            "taken",
            format!("{} is in `users` of the configuration", shown(&new.username)),
        ));
    }
    let user = User {
        subject: subject.clone(),
        username: new.username,
        email: new.email,
        name: new.name,
        groups: new.groups,
    };
    let person = Person {
        password_hash: Some(hashed(new.password, &user).await?),
        must_change: new.must_change,
        ..Person::new(user, Source::Store, at.now())
    };
    match at.store.add_person(&person).await? {
        Addition::Done => {
            tracing::info!(%subject, "administration: an account was added");
            at.metrics.audit().note(|| Act {
                subject: Some(subject.as_str()),
                by: Some(by),
                ..Act::new(Event::Administration, "user_added")
            });
            show(at, subject.as_str()).await
        }
        Addition::Taken => Err(Trouble::conflict(
            "taken",
            format!("{} is taken by an account that there is", shown(subject.as_str())),
        )),
        Addition::Full => Err(full()),
    }
}

/// Disables somebody, which ends their sessions and grants, or enables them again.
pub(super) async fn set_disabled(at: &Endpoints, name: &str, disabled: bool) -> Result<Value, Trouble> {
    let subject = subject(name)?;
    let known = at.store.person(&subject).await?;
    let person = match (configured_user(at, &subject), known) {
        (Some(user), _) => Person::new(user.clone(), Source::Configuration, at.now()),
        (None, Some(known)) if known.source != Source::Configuration => known,
        (None, _) => return Err(nobody(name)),
    };
    match at.store.set_disabled(&person, disabled).await? {
        Room::Kept => {
            tracing::info!(%subject, disabled, "administration: an account was disabled or enabled");
            show(at, name).await
        }
        Room::Full => Err(full()),
    }
}

/// Gives an account of the store a password that its person has to change.
pub(super) async fn reset(at: &Endpoints, name: &str, new: NewPassword) -> Result<Value, Trouble> {
    let user = resettable(at, name).await?;
    let hash = hashed(new.password, &user).await?;
    let subject = user.subject;
    if !at.store.set_password(&subject, &hash, Chosen::ForThem).await? {
        return Err(nobody(name));
    }
    tracing::info!(%subject, "administration: a password was reset");
    show(at, name).await
}

/// Somebody whose password can be reset here.
pub(super) async fn resettable(at: &Endpoints, name: &str) -> Result<User, Trouble> {
    of_the_store(at, name, "its password is the one that the file says").await
}

/// Forgets the second factor of somebody who has lost it: until they set up another, their password is enough, unless one is
/// required; then they set it up at the next sign-in.
pub(super) async fn forget_factor(at: &Endpoints, name: &str) -> Result<Value, Trouble> {
    let subject = subject(name)?;
    if !at.store.reset_factors(&subject).await? {
        show(at, name).await?;
        return Err(Trouble::conflict(
            "no_second_factor",
            format!("{} has no second factor", shown(name)),
        ));
    }
    at.store.end_sessions_of(&subject, None).await?;
    tracing::info!(%subject, "administration: a second factor was forgotten");
    show(at, name).await
}

/// Forgets somebody, and ends their sessions and grants.
pub(super) async fn remove(at: &Endpoints, name: &str) -> Result<Value, Trouble> {
    let subject = subject(name)?;
    if configured_user(at, &subject).is_some() {
        return Err(in_the_file(name, "remove it there, or disable it here"));
    }
    if !at.store.remove_person(&subject).await? {
        return Err(nobody(name));
    }
    tracing::info!(%subject, "administration: an account was removed");
    Ok(json!({ "removed": subject }))
}

/// Where somebody is signed in.
pub(super) async fn sessions(at: &Endpoints, name: &str) -> Result<Value, Trouble> {
    show(at, name).await?;
    let now = at.now();
    let sessions = at.store.sessions_of(&subject(name)?).await?;
    let living = sessions.into_iter().filter(|(_, session)| now < session.expires_at);
    // Their ids are what browsers prove themselves with, so not even their hashes are shown.
    let sessions: Vec<Value> = living
        .map(|(_, session)| {
            json!({
                "provider": session.details.provider,
                "methods": session.details.methods,
                "browser": session.details.browser,
                "address": session.details.address,
                "signed_in_at": time(session.authenticated_at),
                "seen_at": session.details.seen_at.map(time),
                "expires_at": time(session.expires_at),
            })
        })
        .collect();
    Ok(json!({ "sessions": sessions }))
}

/// Signs somebody out everywhere. What apps were allowed stays.
pub(super) async fn end_sessions(at: &Endpoints, name: &str) -> Result<Value, Trouble> {
    show(at, name).await?;
    let subject = subject(name)?;
    let ended = at.store.end_sessions_of(&subject, None).await?;
    tracing::info!(%subject, ended, "administration: sessions were ended");
    Ok(json!({ "ended": ended }))
}

/// What is shown of somebody.
async fn entry(at: &Endpoints, user: &User, person: Option<&Person>) -> Result<Value, Trouble> {
    let is_configured = configured_user(at, &user.subject).is_some();
    let source = match person.map(|person| &person.source) {
        _ if is_configured => "configuration".to_owned(),
        None | Some(Source::Configuration) => "configuration".to_owned(),
        Some(Source::Store) => "store".to_owned(),
        Some(Source::Provider(id)) => format!("provider:{id}"),
        Some(Source::LoginPage) => "login_page".to_owned(),
    };
    let factors = at.store.factors(&user.subject).await?.unwrap_or_default();
    let app = factors.authenticator.map(|_| "authenticator");
    let second_factors: Vec<&str> = app
        .into_iter()
        .chain(factors.passkeys.iter().map(|_| "passkey"))
        .collect();
    Ok(json!({
        "subject": user.subject,
        "username": user.username,
        "name": user.name,
        "email": user.email,
        "groups": user.groups,
        "source": source,
        "disabled": person.is_some_and(|person| person.disabled),
        "second_factors": second_factors,
        "must_change_password": !is_configured && person.is_some_and(|person| person.must_change),
        "known_since": person.map(|person| time(person.created_at)),
        "signed_in_at": person.and_then(|person| person.signed_in_at).map(time),
    }))
}

/// Somebody whose account is in the store, and not in the file or elsewhere.
async fn of_the_store(at: &Endpoints, name: &str, otherwise: &str) -> Result<User, Trouble> {
    let subject = subject(name)?;
    if configured_user(at, &subject).is_some() {
        return Err(in_the_file(name, otherwise));
    }
    match at.store.person(&subject).await? {
        Some(person) if person.source == Source::Store => Ok(person.user),
        Some(person) if person.source != Source::Configuration => Err(Trouble::conflict(
            "elsewhere",
            format!("{} signs in elsewhere, and has no password here", shown(name)),
        )),
        _ => Err(nobody(name)),
    }
}

fn configured_user<'a>(at: &'a Endpoints, subject: &Subject) -> Option<&'a User> {
    let mut users = at.config.users.iter().map(|account| &account.user);
    users.find(|user| user.subject == *subject)
}

/// Takes a subject from outside.
pub(super) fn subject(text: &str) -> Result<Subject, Trouble> {
    Subject::named(text).ok_or_else(|| Trouble::malformed(format!("{} is nobody's subject", shown(text))))
}

/// The same, or that of a client that acts for itself.
pub(super) fn subject_or_client(text: &str) -> Result<Subject, Trouble> {
    match text.strip_prefix("client:").and_then(ClientId::parse) {
        Some(client) => Ok(Subject::of_client(&client)),
        None => subject(text),
    }
}

/// What the file would have refused, and what nobody could read in a list.
fn check_details(new: &NewUser) -> Result<(), Trouble> {
    let plain = |text: &str, most: usize| {
        !text.is_empty() && text.trim() == text && text.chars().count() <= most && !text.chars().any(char::is_control)
    };
    let is_address = |text: &str| {
        let halves = text.split_once('@');
        text.len() <= MAX_EMAIL
            && !text.contains(char::is_whitespace)
            && !text.chars().any(char::is_control)
            && halves.is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@'))
    };
    if new.email.as_deref().is_some_and(|email| !is_address(email)) {
        return Err(Trouble::malformed("email is not an e-mail address"));
    }
    if new.name.as_deref().is_some_and(|name| !plain(name, MAX_NAME)) {
        return Err(Trouble::malformed("name has 1 to 200 characters on one line"));
    }
    if new.groups.len() > MAX_GROUPS || new.groups.iter().any(|group| !plain(group, MAX_GROUP)) {
        return Err(Trouble::malformed(
            "groups are at most 100, of 1 to 128 characters each",
        ));
    }
    Ok(())
}

/// The hash of a password that this person may have: the same rules as where they choose one themselves.
async fn hashed(password: Zeroizing<String>, user: &User) -> Result<String, Trouble> {
    password::check(&password, user).map_err(|unfit| Trouble::malformed(unfit.to_string()))?;
    let failed = |error: String| {
        tracing::error!(error, "a password could not be hashed");
        Trouble::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the password could not be hashed",
        )
    };
    let hashed = tokio::task::spawn_blocking(move || hash_password(&password)).await;
    hashed
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| Trouble::malformed(error.to_string()))
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

fn nobody(name: &str) -> Trouble {
    Trouble::unknown(format!("there is nobody with the subject {}", shown(name)))
}

fn in_the_file(name: &str, what: &str) -> Trouble {
    Trouble::conflict(
        "configured",
        format!("{} is in `users` of the configuration; {what}", shown(name)),
    )
}

fn full() -> Trouble {
    Trouble::conflict("full", "there are as many people on record as there may be")
}
