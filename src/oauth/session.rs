//! Browsers in which somebody is signed in. The cookie holds a random id, the store its hash. Every sign-in makes a new
//! id, so that one that was planted before is worth nothing after (session fixation). A session ends when it was not used
//! for two hours, after twelve whatever happens, and with its account.

use std::time::Duration;

use http::{HeaderMap, header};

use super::{Call, Endpoints, cookie};
use crate::domain::clock::Timestamp;
use crate::domain::grant::Session;
use crate::domain::person::SessionDetails;
use crate::domain::secret::{Secret, SecretHash, SecretKind};
use crate::domain::user::User;
use crate::store::StoreError;

/// The longest that a browser stays signed in.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// How long it may go unused.
const IDLE: Duration = Duration::from_secs(2 * 3600);
/// Most characters of a browser's name for itself.
const MAX_AGENT: usize = 256;
/// A session is not written down again for less: a page more or less is no news.
const NEWS: Duration = Duration::from_secs(5 * 60);

/// Proof that somebody is signed in in the browser that a request comes from.
pub(super) struct SignedIn {
    /// The session's id, hashed.
    pub(super) id: SecretHash,
    /// When they signed in.
    pub(super) session: Session,
    /// Who, as the configuration knows them now.
    pub(super) user: User,
}

/// Who is signed in in the browser that a request comes from.
pub(super) async fn signed_in(at: &Endpoints, call: &Call<'_>) -> Result<Option<SignedIn>, StoreError> {
    let Some(id) = presented(at, call) else {
        return Ok(None);
    };
    let session = at
        .store
        .session(&id)
        .await?
        .filter(|session| at.now() < session.expires_at);
    let user = match &session {
        Some(session) => at.identity.user(&session.subject).await?,
        None => None,
    };
    let Some((session, user)) = session.zip(user) else {
        return Ok(None);
    };
    let until = end(&session, at.now());
    if until.since(session.expires_at) >= NEWS {
        at.store.extend_session(&id, until, at.now()).await?;
    }
    Ok(Some(SignedIn { id, session, user }))
}

/// Signs somebody in: a new session in place of the one that the browser had.
pub(super) async fn sign_in(
    at: &Endpoints,
    call: &Call<'_>,
    user: User,
    details: SessionDetails,
    headers: &mut HeaderMap,
) -> Result<SignedIn, StoreError> {
    let secret = Secret::generate(SecretKind::Session);
    let session = Session {
        subject: user.subject.clone(),
        authenticated_at: at.now(),
        expires_at: at.now().plus(IDLE),
        details: SessionDetails {
            browser: agent(call),
            address: Some(call.address.to_string()),
            seen_at: Some(at.now()),
            ..details
        },
    };
    let (id, previous) = (secret.hash(), presented(at, call));
    at.store.begin_session(&id, &session, previous.as_ref()).await?;
    cookie::set(at, headers, cookie_name(at), secret.expose(), LIFETIME.as_secs());
    Ok(SignedIn { id, session, user })
}

/// What the browser calls itself, as far as that is worth keeping.
fn agent(call: &Call<'_>) -> Option<String> {
    let text = call.request.headers().get(header::USER_AGENT)?.to_str().ok()?;
    Some(text.chars().take(MAX_AGENT).collect())
}

/// When a session ends if it is not used from now on.
fn end(session: &Session, now: Timestamp) -> Timestamp {
    now.plus(IDLE).min(session.authenticated_at.plus(LIFETIME))
}

/// Signs the browser out.
pub(super) async fn sign_out(at: &Endpoints, signed_in: &SignedIn, headers: &mut HeaderMap) -> Result<(), StoreError> {
    at.store.end_session(&signed_in.id).await?;
    cookie::clear(at, headers, cookie_name(at));
    Ok(())
}

fn presented(at: &Endpoints, call: &Call<'_>) -> Option<SecretHash> {
    cookie::values(call.request, cookie_name(at))
        .find_map(|value| Secret::parse(SecretKind::Session, value))
        .map(|secret| secret.hash())
}

/// `__Host-` keeps neighbouring hosts from planting the cookie; browsers want https for it.
fn cookie_name(at: &Endpoints) -> &'static str {
    if cookie::is_secure(at) {
        "__Host-mcpgate_session"
    } else {
        "mcpgate_session"
    }
}
