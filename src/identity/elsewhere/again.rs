//! Whether somebody who signed in elsewhere is still who they were: asked before a token is given, if the last answer is
//! older than the configuration allows.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use zeroize::Zeroizing;

use super::{Failure, Heard, Providers, rules};
use crate::config::{IdentityProvider, Protocol};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::person::{Person, ProviderLink};
use crate::domain::user::{Subject, User};
use crate::jose::seal::Sealer;
use crate::store::{Admitted, Store, StoreError};

/// How long an answer is believed where no newer one can be had.
const BELIEVED: Duration = Duration::from_secs(3600);
/// How long a provider that did not answer is not asked again.
const REST: Duration = Duration::from_secs(10);

/// What came of asking.
#[derive(Debug)]
pub enum Standing {
    /// They may go on, as this person.
    Good(Box<User>),
    /// The provider says that its token, or the account, is worth nothing; or the token cannot be read any more. What they
    /// are signed in to is over, and they may sign in again.
    Gone(String),
    /// They are somebody still, but none of those who may sign in.
    Barred(String),
    /// Nobody could be asked for too long.
    Unknown(String),
}

/// The link of somebody who has just arrived: sealed is the token that the provider gave, else the one that it gave before.
#[must_use]
pub fn link(
    provider: &IdentityProvider,
    subject: &Subject,
    token: Option<&str>,
    before: Option<&Person>,
    now: Timestamp,
) -> ProviderLink {
    let sealed = token.and_then(|token| sealer(provider)?.seal(token.as_bytes(), subject.as_str()).ok());
    let earlier = || before?.link.as_ref()?.sealed.clone();
    ProviderLink {
        checked_at: now,
        sealed: sealed.or_else(earlier),
    }
}

/// What is kept is worth nothing without the secret that only the configuration has. Without one nothing is kept.
fn sealer(provider: &IdentityProvider) -> Option<Sealer> {
    let secret = provider.client_secret.as_ref()?;
    Sealer::new(secret.as_bytes(), &format!("provider token of {}", provider.id)).ok()
}

/// Finds out how somebody stands. It goes on to its end even if nobody waits any more: a provider that replaces its token
/// with every use would leave us with one that is used up.
///
/// # Errors
/// If the store fails.
pub async fn ask(
    providers: &Arc<Providers>,
    provider: &IdentityProvider,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    person: Person,
) -> Result<Standing, StoreError> {
    let fresh = |person: &Person| match &person.link {
        Some(link) => clock.now().since(link.checked_at) < provider.recheck,
        None => false,
    };
    if fresh(&person) {
        return Ok(Standing::Good(Box::new(person.user)));
    }
    let asking = Asking {
        providers: Arc::clone(providers),
        provider: provider.clone(),
        store: Arc::clone(store),
        clock: Arc::clone(clock),
    };
    match tokio::spawn(asking.go(person)).await {
        Ok(standing) => standing,
        Err(error) => Ok(Standing::Unknown(error.to_string())),
    }
}

struct Asking {
    providers: Arc<Providers>,
    provider: IdentityProvider,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
}

impl Asking {
    async fn go(self, person: Person) -> Result<Standing, StoreError> {
        let subject = person.user.subject.clone();
        let turn = self.providers.turn(&subject);
        let guard = turn.lock().await;
        let standing = self.in_turn(&subject).await;
        drop(guard);
        self.providers.leave(&subject, turn);
        standing
    }

    async fn in_turn(&self, subject: &Subject) -> Result<Standing, StoreError> {
        // Whoever was here first has asked meanwhile.
        let Some(mut person) = self.store.person(subject).await?.filter(|person| !person.disabled) else {
            return Ok(Standing::Gone("nobody of that name is on record".to_owned()));
        };
        let now = self.clock.now();
        let good = |person: Person| Ok(Standing::Good(Box::new(person.user)));
        let checked_at = person.link.as_ref().map_or(person.created_at, |link| link.checked_at);
        if person.link.is_some() && now.since(checked_at) < self.provider.recheck {
            return good(person);
        }
        let Some(sealed) = person.link.as_ref().and_then(|link| link.sealed.as_deref()) else {
            // It gave nothing to ask it with: docs/providers.md says what that means.
            return good(person);
        };
        let opened = sealer(&self.provider).and_then(|sealer| sealer.open(sealed, subject.as_str()));
        let token = opened.and_then(|bytes| {
            std::str::from_utf8(&bytes)
                .ok()
                .map(|text| Zeroizing::new(text.to_owned()))
        });
        let Some(token) = token else {
            return Ok(Standing::Gone(
                "the token that was kept cannot be read: client_secret is another one".to_owned(),
            ));
        };
        if self.providers.is_silent(&self.provider.id, now) {
            return Ok(self.unanswered(person, checked_at, "it did not answer a moment ago"));
        }
        match self.heard(&mut person, token, now).await? {
            Ok(None) => {
                self.store.note_link(subject, &self.link(&person, None)).await?;
                good(person)
            }
            Ok(Some(heard)) => self.judge(person, &heard).await,
            Err(Failure::Refused(why)) => Ok(Standing::Gone(why)),
            Err(Failure::NotAllowed(why)) => Ok(Standing::Barred(why.to_string())),
            Err(error @ (Failure::Unreachable { .. } | Failure::Wrong(_))) => {
                self.providers.note_silence(&self.provider.id, now);
                Ok(self.unanswered(person, checked_at, &error.to_string()))
            }
        }
    }

    /// What it says. The outer error is the store's. A token that takes the place of the one before is kept at once.
    async fn heard(
        &self,
        person: &mut Person,
        token: Zeroizing<String>,
        now: Timestamp,
    ) -> Result<Result<Option<Heard>, Failure>, StoreError> {
        let (providers, provider) = (&self.providers, &self.provider);
        match &provider.protocol {
            Protocol::OpenId { issuer, manners } => {
                let refreshed = match providers.openid_refresh(provider, issuer, &token).await {
                    Ok(refreshed) => refreshed,
                    Err(failure) => return Ok(Err(failure)),
                };
                // The token before it may be worth nothing from now on, whatever else comes of this.
                if let (Some(next), Some(link)) = (refreshed.token(), &person.link) {
                    let link = ProviderLink {
                        checked_at: link.checked_at,
                        ..self.link(person, Some(next))
                    };
                    self.store.note_link(&person.user.subject, &link).await?;
                    person.link = Some(link);
                }
                Ok(providers
                    .openid_again(provider, issuer, *manners, &refreshed, now)
                    .await)
            }
            Protocol::GitHub { api_url, .. } => Ok(providers.github_person(provider, api_url, token).await.map(Some)),
        }
    }

    /// What it says now in place of what it said before.
    async fn judge(&self, person: Person, heard: &Heard) -> Result<Standing, StoreError> {
        let subject = person.user.subject.clone();
        // A token that was used up is replaced whatever else comes of this.
        let link = self.link(&person, heard.token.as_deref().map(String::as_str));
        if Subject::at_provider(&self.provider.id, &heard.said.sub).as_ref() != Some(&subject) {
            return Ok(Standing::Gone("it answers with somebody else".to_owned()));
        }
        match rules::admit(&self.provider, &heard.said) {
            Ok(user) => {
                let user = User {
                    // Whether another name is free is found out when they sign in.
                    username: person.user.username.clone(),
                    ..user
                };
                let person = Person {
                    user,
                    link: Some(link),
                    ..person
                };
                Ok(match self.store.admit_person(&person).await? {
                    Admitted::Kept => Standing::Good(Box::new(person.user)),
                    Admitted::Taken | Admitted::Full => Standing::Gone("somebody else has the name now".to_owned()),
                })
            }
            Err(why) => {
                self.store
                    .note_link(
                        &subject,
                        &ProviderLink {
                            checked_at: Timestamp::from_millis(0),
                            ..link
                        },
                    )
                    .await?;
                Ok(Standing::Barred(why.to_string()))
            }
        }
    }

    /// What is known is believed for a while.
    fn unanswered(&self, person: Person, checked_at: Timestamp, why: &str) -> Standing {
        let believed = if self.provider.recheck < BELIEVED {
            BELIEVED
        } else {
            self.provider.recheck.saturating_add(BELIEVED)
        };
        if self.clock.now().since(checked_at) < believed {
            tracing::warn!(provider = self.provider.id, subject = %person.user.subject, reason = why, "a provider could not be asked about somebody; what it said before is believed for now");
            Standing::Good(Box::new(person.user))
        } else {
            Standing::Unknown(why.to_owned())
        }
    }

    fn link(&self, person: &Person, token: Option<&str>) -> ProviderLink {
        link(
            &self.provider,
            &person.user.subject,
            token,
            Some(person),
            self.clock.now(),
        )
    }
}

impl Providers {
    fn turn(&self, subject: &Subject) -> Arc<tokio::sync::Mutex<()>> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(asking.entry(subject.clone()).or_default())
    }

    /// Whoever leaves last takes the lock away.
    fn leave(&self, subject: &Subject, turn: Arc<tokio::sync::Mutex<()>>) {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        drop(turn);
        if asking.get(subject).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            asking.remove(subject);
        }
    }

    fn is_silent(&self, provider: &str, now: Timestamp) -> bool {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.get(provider).is_some_and(|at| now.since(*at) < REST)
    }

    fn note_silence(&self, provider: &str, now: Timestamp) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.insert(provider.to_owned(), now);
    }
}
