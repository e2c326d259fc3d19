//! `/logout/backchannel/<id>`: a provider says that somebody signed out there (OpenID Connect Back-Channel Logout 1.0).
//!
//! A token with `sid` ends the sessions that came of that session. One with `sub` alone means the person: all of their
//! sessions and grants end.

use http::StatusCode;

use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints, not_found, unavailable};
use crate::config::IdentityProvider;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::person::Source;
use crate::domain::secret::SecretHash;
use crate::domain::user::Subject;
use crate::identity::elsewhere::{Failure, Logout};
use crate::store::{Once, StoreError};
use crate::telemetry::audit::{Act, Event};

/// What the addresses begin with.
pub const BACKCHANNEL: &str = "/logout/backchannel/";
/// People that are looked through at a time for a session whose person is not named.
const BATCH: usize = 256;

/// Answers `/logout/backchannel/<id>`.
pub async fn logout(at: &Endpoints, call: &Call<'_>) -> Answer {
    let Some(provider) = at.config.identity_provider(call.about) else {
        return not_found();
    };
    match sign_out(at, call, provider).await {
        Ok(()) => {
            let mut answer = web::empty(StatusCode::OK);
            web::no_store(&mut answer);
            answer
        }
        Err(error) => web::error(&error),
    }
}

async fn sign_out(at: &Endpoints, call: &Call<'_>, provider: &IdentityProvider) -> Result<(), OAuthError> {
    let form = Parameters::of_form(call.request)?;
    let token = form.require("logout_token")?;
    let logout = at.remote.providers.logout(provider, token, at.now()).await;
    let logout = logout.map_err(|failure| match failure {
        Failure::Unreachable { .. } => OAuthError::new(
            ErrorCode::TemporarilyUnavailable,
            "the provider's keys cannot be fetched; try again shortly",
        )
        .because(failure),
        other => OAuthError::invalid_request("the logout token is not good").because(other),
    })?;
    if at.store.was_used(&logout.once).await.map_err(unavailable)? {
        return Err(OAuthError::invalid_request("the logout token was used before"));
    }
    // Ended first and remembered then: if either fails, the provider comes again with the same token, and it counts.
    end(at, provider, &logout).await.map_err(unavailable)?;
    let remembered = at.store.use_once(&logout.once, logout.forgotten_at).await;
    if remembered.map_err(unavailable)? == Once::Full {
        tracing::warn!(
            provider = provider.id,
            "a logout token cannot be remembered: there are too many identifiers"
        );
    }
    Ok(())
}

async fn end(at: &Endpoints, provider: &IdentityProvider, logout: &Logout) -> Result<(), StoreError> {
    match (&logout.subject, &logout.session) {
        (Some(subject), None) => {
            let sessions = at.store.end_sessions_of(subject, None).await?;
            let grants = at.store.revoke_grants_of(subject, None).await?;
            tracing::info!(provider = provider.id, %subject, sessions, grants, "signed out by the provider");
            at.metrics.audit().note(|| Act {
                subject: Some(subject.as_str()),
                by: Some(&provider.id),
                ..Act::new(Event::SignOut, "by_provider")
            });
        }
        (Some(subject), Some(session)) => end_session(at, provider, subject, session).await?,
        (None, Some(session)) => {
            let mut last: Option<Subject> = None;
            loop {
                let people = at.store.people(last.as_ref(), BATCH).await?;
                let Some(end) = people.last() else { break };
                last = Some(end.user.subject.clone());
                for person in &people {
                    if person.source == Source::Provider(provider.id.clone()) {
                        end_session(at, provider, &person.user.subject, session).await?;
                    }
                }
                tokio::task::yield_now().await;
            }
        }
        (None, None) => {}
    }
    Ok(())
}

/// Ends what came of one session at the provider.
async fn end_session(
    at: &Endpoints,
    provider: &IdentityProvider,
    subject: &Subject,
    session: &str,
) -> Result<(), StoreError> {
    let ours = at.store.sessions_of(subject).await?.into_iter().filter(|(_, own)| {
        own.details.provider == provider.id && own.details.provider_session.as_deref() == Some(session)
    });
    let ids: Vec<SecretHash> = ours.map(|(id, _)| id).collect();
    for id in &ids {
        at.store.end_session(id).await?;
    }
    if !ids.is_empty() {
        tracing::info!(provider = provider.id, %subject, sessions = ids.len(), "signed out by the provider");
        at.metrics.audit().note(|| Act {
            subject: Some(subject.as_str()),
            by: Some(&provider.id),
            ..Act::new(Event::SignOut, "by_provider")
        });
    }
    Ok(())
}
