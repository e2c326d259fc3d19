//! Whether somebody who signed in elsewhere may still have a token: their provider is asked, if what is known of them is too
//! old (`identity/elsewhere/again.rs`).

use super::{Endpoints, unavailable};
use crate::domain::client::Client;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::GrantId;
use crate::domain::person::Source;
use crate::domain::user::User;
use crate::identity::elsewhere::again::{self, Standing};

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
    let person = at.store.person(&user.subject).await.map_err(unavailable)?;
    let Some(person) = person else { return Ok(user) };
    let Source::Provider(id) = &person.source.clone() else {
        return Ok(user);
    };
    let refused = |why: &str| OAuthError::invalid_grant().because(format!("client {}: {why}", client.id));
    let Some(provider) = at.config.identity_provider(id) else {
        return Err(refused("the identity provider is not configured any more"));
    };
    let standing = again::ask(&at.remote.providers, provider, &at.store, &at.clock, person).await;
    let (why, barred) = match standing.map_err(unavailable)? {
        Standing::Good(user) => return Ok(*user),
        Standing::Unknown(why) => {
            return Err(OAuthError::new(
                ErrorCode::TemporarilyUnavailable,
                "the identity provider cannot be reached; try again shortly",
            )
            .because(format!(
                "provider {id} could not be asked about {}: {why}",
                user.subject
            )));
        }
        Standing::Gone(why) => (why, false),
        Standing::Barred(why) => (why, true),
    };
    tracing::warn!(provider = id, subject = %user.subject, reason = why, "somebody is not who they were: they are signed out and get no token");
    at.store
        .end_sessions_of(&user.subject, None)
        .await
        .map_err(unavailable)?;
    if barred {
        at.store
            .revoke_grants_of(&user.subject, None)
            .await
            .map_err(unavailable)?;
    } else if let Some(grant) = grant {
        at.store.revoke_grant(grant).await.map_err(unavailable)?;
    }
    Err(refused("the identity provider does not know the person any more"))
}
