//! Who is signed in to the operator's pages: in memory, so a restart signs everybody out.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use lru::LruCache;
use subtle::ConstantTimeEq as _;

use crate::domain::clock::Timestamp;
use crate::domain::secret::{Secret, SecretHash, SecretKind};

const COOKIE: &str = "mcpgate_admin";
/// How long somebody stays signed in.
const LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// Most sessions; the one that was not seen for longest makes room.
const MOST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99);

/// The sessions.
#[derive(Debug)]
pub(super) struct Sessions(Mutex<LruCache<SecretHash, Session>>);

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// What the forms of this session have in them.
    pub(super) form_token: String,
    /// The token that it began with: with another one in force it is over.
    began_with: SecretHash,
    expires_at: Timestamp,
}

// === impl Sessions ===

impl Default for Sessions {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MOST)))
    }
}

impl Sessions {
    /// Begins one; what goes to the browser.
    pub(super) fn begin(&self, token: &SecretHash, now: Timestamp) -> Option<HeaderValue> {
        let id = Secret::generate(SecretKind::Session);
        let session = Session {
            form_token: Secret::generate(SecretKind::Authorization).expose().to_owned(),
            began_with: *token,
            expires_at: now.plus(LIFETIME),
        };
        self.all().put(id.hash(), session);
        cookie(id.expose(), LIFETIME.as_secs())
    }

    /// The one that a browser has.
    pub(super) fn find(&self, headers: &HeaderMap, token: &SecretHash, now: Timestamp) -> Option<Session> {
        let id = presented(headers)?;
        let mut all = self.all();
        let session = all.get(&id)?.clone();
        let stands = now < session.expires_at && bool::from(session.began_with.as_bytes().ct_eq(token.as_bytes()));
        if !stands {
            all.pop(&id);
            return None;
        }
        Some(session)
    }

    /// Ends it; what goes to the browser.
    pub(super) fn end(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if let Some(id) = presented(headers) {
            self.all().pop(&id);
        }
        cookie("", 0)
    }

    fn all(&self) -> std::sync::MutexGuard<'_, LruCache<SecretHash, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Session ===

impl Session {
    /// Whether a form was given to this session.
    pub(super) fn gave(&self, form_token: Option<&str>) -> bool {
        form_token.is_some_and(|token| token.as_bytes().ct_eq(self.form_token.as_bytes()).into())
    }
}

/// Not `Secure`: the listener speaks no TLS, and not every browser takes it for safe that it is on this machine.
fn cookie(value: &str, seconds: u64) -> Option<HeaderValue> {
    let text = format!("{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict");
    HeaderValue::from_str(&text).ok()
}

fn presented(headers: &HeaderMap) -> Option<SecretHash> {
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let value = cookies
        .flat_map(|line| line.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
    Secret::parse(SecretKind::Session, value).map(|secret| secret.hash())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(set_cookie: &HeaderValue) -> HeaderMap {
        let pair = set_cookie.to_str().unwrap().split(';').next().unwrap();
        [(header::COOKIE, HeaderValue::from_str(&format!("a=b; {pair}")).unwrap())]
            .into_iter()
            .collect()
    }

    #[test]
    fn a_session_ends_with_its_time_its_token_and_its_sign_out() {
        let (sessions, token) = (Sessions::default(), SecretHash::of("one"));
        let at = |hours: u64| Timestamp::from_millis(hours * 3_600_000);
        let begin = || headers(&sessions.begin(&token, at(0)).unwrap());
        let own = begin();
        let session = sessions.find(&own, &token, at(7)).unwrap();
        assert!(session.gave(Some(&session.form_token)));
        assert!(!session.gave(Some("another")) && !session.gave(None) && !session.gave(Some("")));
        let other = sessions.find(&begin(), &token, at(0)).unwrap();
        assert!(!session.gave(Some(&other.form_token)));
        assert!(sessions.find(&own, &token, at(8)).is_none());
        let own = begin();
        assert!(sessions.find(&own, &SecretHash::of("two"), at(1)).is_none());
        assert!(
            sessions.find(&own, &token, at(1)).is_none(),
            "what ended does not come back"
        );
        let own = begin();
        sessions.end(&own).unwrap();
        assert!(sessions.find(&own, &token, at(1)).is_none());
        assert!(sessions.find(&HeaderMap::new(), &token, at(1)).is_none());
    }

    #[test]
    fn there_are_only_so_many() {
        let (sessions, token) = (Sessions::default(), SecretHash::of("one"));
        let first = headers(&sessions.begin(&token, Timestamp::from_millis(0)).unwrap());
        for _ in 0..MOST.get() {
            sessions.begin(&token, Timestamp::from_millis(0)).unwrap();
        }
        assert_eq!(sessions.all().len(), MOST.get());
        assert!(sessions.find(&first, &token, Timestamp::from_millis(1)).is_none());
    }
}
