//! Whether somebody who signed in elsewhere may still have a token, or use one that lives long: their provider is asked, if
//! what is known of them is too old (`identity/elsewhere/again.rs`).

use std::time::Duration;

use super::{Endpoints, unavailable};
use crate::domain::client::Client;
use crate::domain::clock::Timestamp;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{Grant, GrantId};
use crate::domain::person::Source;
use crate::domain::scope::Scope;
use crate::domain::user::User;
use crate::identity::elsewhere::again::{self, Standing};
use crate::store::StoreError;

/// How long nobody looks again, however short the time is that the configuration gives.
const PAUSE: Duration = Duration::from_secs(5);

/// What is known of somebody now.
enum Verdict {
    /// They may go on, as this person.
    Good(User),
    /// They may not, and what they had has ended.
    Ended(&'static str),
    /// Nobody could be asked for too long.
    Unknown(String),
}

/// The person as they are now.
///
/// # Errors
/// `invalid_grant` if they are not there any more, which ends the grant and what they are signed in to; and all of their
/// grants, if the provider still knows them, but not as one of those who may sign in. `temporarily_unavailable` if that
/// could not be found out for too long, which ends nothing.
pub(super) async fn confirm(
    at: &Endpoints,
    client: &Client,
    user: User,
    grant: Option<&GrantId>,
) -> Result<User, OAuthError> {
    match judge(at, user, grant).await.map_err(unavailable)? {
        Verdict::Good(user) => Ok(user),
        Verdict::Ended(why) => Err(OAuthError::invalid_grant().because(format!("client {}: {why}", client.id))),
        Verdict::Unknown(why) => Err(OAuthError::new(
            ErrorCode::TemporarilyUnavailable,
            "the identity provider cannot be reached; try again shortly",
        )
        .because(why)),
    }
}

/// The same for whoever uses a token that nobody refreshes: the person, and when to look again, if that is
/// ever needed. `None` if they are not there any more.
///
/// # Errors
/// If that could not be found out for too long, or the store fails.
pub(crate) async fn of_holder(
    at: &Endpoints,
    user: User,
    grant: &GrantId,
) -> Result<Option<(User, Option<Timestamp>)>, StoreError> {
    let user = match judge(at, user, Some(grant)).await? {
        Verdict::Good(user) => user,
        Verdict::Ended(_) => return Ok(None),
        Verdict::Unknown(why) => {
            return Err(StoreError::Backend {
                operation: "asking an identity provider about somebody",
                source: why.into(),
            });
        }
    };
    let soon = at.now().plus(PAUSE);
    let until = at.store.person(&user.subject).await?.and_then(|person| {
        let Source::Provider(id) = &person.source else {
            return None;
        };
        let recheck = at.config.identity_provider(id)?.recheck;
        let next = person.link.map(|link| link.checked_at.plus(recheck));
        Some(next.map_or(soon, |next| next.max(soon)))
    });
    Ok(Some((user, until)))
}

/// What a token's holder may do now. Most tokens hear of a lost group when they are refreshed; a personal one never is, so it
/// does at every use.
pub(crate) fn scope_now(at: &Endpoints, grant: &Grant, scope: Scope, user: Option<&User>) -> Scope {
    match user {
        Some(user) if grant.client_id.is_personal_token() => {
            scope.filtered(|token| at.config.may_be_granted(user, token))
        }
        _ => scope,
    }
}

async fn judge(at: &Endpoints, user: User, grant: Option<&GrantId>) -> Result<Verdict, StoreError> {
    let Some(person) = at.store.person(&user.subject).await? else {
        return Ok(Verdict::Good(user));
    };
    let Source::Provider(id) = &person.source.clone() else {
        return Ok(Verdict::Good(user));
    };
    let Some(provider) = at.config.identity_provider(id) else {
        return Ok(Verdict::Ended("the identity provider is not configured any more"));
    };
    let (why, barred) = match again::ask(&at.remote.providers, provider, &at.store, &at.clock, person).await? {
        Standing::Good(user) => return Ok(Verdict::Good(*user)),
        Standing::Unknown(why) => {
            let subject = &user.subject;
            return Ok(Verdict::Unknown(format!(
                "provider {id} could not be asked about {subject}: {why}"
            )));
        }
        Standing::Gone(why) => (why, false),
        Standing::Barred(why) => (why, true),
    };
    tracing::warn!(provider = id, subject = %user.subject, reason = why, "somebody is not who they were: they are signed out and get no token");
    at.store.end_sessions_of(&user.subject, None).await?;
    if barred {
        at.store.revoke_grants_of(&user.subject, None).await?;
    } else if let Some(grant) = grant {
        at.store.revoke_grant(grant).await?;
    }
    Ok(Verdict::Ended(
        "the identity provider does not know the person any more",
    ))
}
