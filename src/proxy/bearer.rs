//! The access check: from an `Authorization` header to a [`Permit`], or to the challenge that tells a client what to do.
//!
//! ```text
//! Authorization: Bearer mgat_Q0xJ…          RFC 6750 §2.1; the only place where a token is looked for
//!                └─┬──┘ └───┬────┘
//!     any case, one space   SHA-256 → cache → store → alive? → for this upstream? → client, person known? → scopes?
//! ```
//! A permit cannot be made anywhere else, and without one there is no peer to forward to.

use std::sync::Arc;

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use quick_cache::sync::Cache;

use super::headers;
use super::reply::{plain, with};
use crate::config::Upstream;
use crate::domain::clock::Timestamp;
use crate::domain::scope::Scope;
use crate::domain::secret::{Secret, SecretHash, SecretKind};
use crate::oauth::{Answer, Endpoints, PROTECTED_RESOURCE};
use crate::store::StoreError;
use crate::telemetry::AuthDecision;

/// Decisions kept in memory; the least used make room.
const CACHED: usize = 20_000;

/// Proof that a caller may use one upstream, and what the upstream is told about it.
#[derive(Debug)]
pub(super) struct Permit {
    upstream: usize,
    scope: Scope,
    expires_at: Timestamp,
    /// The store's count of revocations before it was asked: the permit holds while that stands.
    revocations: u64,
    pub(super) identity: Vec<(HeaderName, HeaderValue)>,
    pub(super) subject: String,
    pub(super) client_id: String,
}

/// Decides who may pass.
pub(super) struct Bearer {
    cache: Cache<SecretHash, Arc<Permit>>,
}

/// A request that may not pass: what it gets, and what is counted.
#[derive(Debug)]
pub(super) struct Denial {
    pub(super) answer: Box<Answer>,
    /// `None` where the fault is ours.
    pub(super) decision: Option<AuthDecision>,
}

impl Permit {
    /// Which upstream it is for.
    pub(super) const fn upstream(&self) -> usize {
        self.upstream
    }
}

impl Bearer {
    pub(super) fn new() -> Self {
        Self {
            cache: Cache::new(CACHED),
        }
    }

    /// The access check for an upstream, given by its place in the configuration.
    pub(super) async fn authorize(
        &self,
        at: &Endpoints,
        index: usize,
        headers: &HeaderMap,
    ) -> Result<Arc<Permit>, Denial> {
        let Some(upstream) = at.config.upstreams.get(index) else {
            return Err(unavailable(None));
        };
        let challenge = Challenge { at, upstream };
        let token = presented(headers).map_err(|refused| challenge.refuse(refused))?;
        let Some(token) = Secret::parse(SecretKind::AccessToken, token) else {
            return Err(challenge.refuse(Refused::InvalidToken));
        };
        let hash = token.hash();
        let now = at.now();
        let revocations = at.store.revocations();
        let cached = self
            .cache
            .get(&hash)
            .filter(|permit| permit.revocations == revocations && now < permit.expires_at);
        let permit = if let Some(permit) = cached {
            permit
        } else {
            // Boxed, because it is rare: only a token that was not seen before is looked up.
            let permit = Box::pin(look_up(at, &hash, now, revocations))
                .await
                .map_err(|error| unavailable(Some(&error)))?;
            let permit = Arc::new(permit.ok_or_else(|| challenge.refuse(Refused::InvalidToken))?);
            self.cache.insert(hash, Arc::clone(&permit));
            permit
        };
        if permit.upstream != index {
            return Err(challenge.refuse(Refused::OtherResource));
        }
        if !permit.scope.covers(&upstream.scopes) {
            return Err(challenge.insufficient(&permit.scope));
        }
        Ok(permit)
    }
}

/// What the store knows of a token: alive, for an upstream that there is, of a client and a person that there are.
async fn look_up(
    at: &Endpoints,
    hash: &SecretHash,
    now: Timestamp,
    revocations: u64,
) -> Result<Option<Permit>, StoreError> {
    let Some(live) = at.store.access_token(hash).await?.filter(|live| live.is_alive(now)) else {
        return Ok(None);
    };
    let Some(index) = at
        .config
        .upstreams
        .iter()
        .position(|upstream| upstream.resource == live.grant.resource)
    else {
        return Ok(None);
    };
    let Some(upstream) = at.config.upstreams.get(index) else {
        return Ok(None);
    };
    if !at.knows_client(&live.grant.client_id).await? {
        return Ok(None);
    }
    let Some(user) = at.identity.user(&live.grant.subject) else {
        return Ok(None);
    };
    Ok(Some(Permit {
        upstream: index,
        identity: headers::identity(upstream, &live.grant, &live.token.scope, Some(user)),
        expires_at: live.token.expires_at.min(live.grant.expires_at),
        revocations,
        subject: live.grant.subject.as_str().to_owned(),
        client_id: live.grant.client_id.as_str().to_owned(),
        scope: live.token.scope,
    }))
}

/// Why a token does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// There is none: not an error, but the beginning of a conversation (RFC 6750 §3.1).
    NoToken,
    /// The header could be read in two ways.
    Malformed,
    /// Expired, revoked, never issued: one answer for all.
    InvalidToken,
    /// It is for another upstream.
    OtherResource,
}

/// The token of a request. Another scheme is no token; a Bearer header that is not one is an error (RFC 6750 §3.1).
fn presented(headers: &HeaderMap) -> Result<&str, Refused> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(Refused::Malformed);
    }
    let text = first
        .ok_or(Refused::NoToken)?
        .to_str()
        .map_err(|_| Refused::Malformed)?;
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refused::NoToken);
    }
    let token = rest.trim_matches(' ');
    if token.is_empty() || token.contains([' ', '\t']) {
        Err(Refused::Malformed)
    } else {
        Ok(token)
    }
}

/// Writes challenges for one upstream. Scope and URL come from the configuration, never from the request, so nothing in
/// them can end the quoted string.
struct Challenge<'a> {
    at: &'a Endpoints,
    upstream: &'a Upstream,
}

impl Challenge<'_> {
    fn refuse(&self, refused: Refused) -> Denial {
        let (status, error, description, decision) = match refused {
            Refused::NoToken => (
                StatusCode::UNAUTHORIZED,
                None,
                "a token is needed",
                AuthDecision::NoToken,
            ),
            Refused::Malformed => (
                StatusCode::BAD_REQUEST,
                Some("invalid_request"),
                "the Authorization header is malformed",
                AuthDecision::InvalidToken,
            ),
            Refused::InvalidToken => (
                StatusCode::UNAUTHORIZED,
                Some("invalid_token"),
                "the token is expired, revoked or was never issued",
                AuthDecision::InvalidToken,
            ),
            Refused::OtherResource => (
                StatusCode::UNAUTHORIZED,
                Some("invalid_token"),
                "the token is for another resource",
                AuthDecision::WrongResource,
            ),
        };
        let answer = plain(status, error.unwrap_or("unauthorized"), description);
        Denial {
            answer: Box::new(self.challenged(answer, error, &self.upstream.scopes)),
            decision: Some(decision),
        }
    }

    /// 403 that names every scope needed, and those that the caller has already, for clients that ask for just what they read
    /// (H5).
    fn insufficient(&self, own: &Scope) -> Denial {
        let known = self.at.config.scopes_of(self.upstream);
        let all = self
            .upstream
            .scopes
            .union(&own.filtered(|token| known.contains(token.as_str())));
        let answer = plain(
            StatusCode::FORBIDDEN,
            "insufficient_scope",
            "the token lacks a scope that this server needs",
        );
        Denial {
            answer: Box::new(self.challenged(answer, Some("insufficient_scope"), &all)),
            decision: Some(AuthDecision::InsufficientScope),
        }
    }

    fn challenged(&self, answer: Answer, error: Option<&str>, scope: &Scope) -> Answer {
        let error = error.map(|error| format!("error=\"{error}\", ")).unwrap_or_default();
        let scope = if scope.is_empty() {
            String::new()
        } else {
            format!(", scope=\"{scope}\"")
        };
        let text = format!(
            "Bearer {error}resource_metadata=\"{}\"{scope}",
            metadata_url(self.at, self.upstream)
        );
        match HeaderValue::try_from(text) {
            Ok(value) => with(answer, header::WWW_AUTHENTICATE, value),
            Err(_) => answer,
        }
    }
}

/// Where the upstream's RFC 9728 document is: path-inserted, on the host that clients know it by.
fn metadata_url(at: &Endpoints, upstream: &Upstream) -> String {
    let public = &at.config.public_url;
    let host = upstream.host.clone().unwrap_or_else(|| public.authority());
    format!("{}://{host}{PROTECTED_RESOURCE}{}", public.scheme, upstream.path)
}

/// The store did not answer, so nobody passes.
fn unavailable(error: Option<&StoreError>) -> Denial {
    if let Some(error) = error {
        tracing::error!(%error, "a token could not be checked");
    }
    let answer = plain(
        StatusCode::SERVICE_UNAVAILABLE,
        "temporarily_unavailable",
        "the gateway cannot check tokens right now",
    );
    Denial {
        answer: Box::new(with(answer, header::RETRY_AFTER, HeaderValue::from_static("5"))),
        decision: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_header_with_one_token() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            presented(&headers).map(str::to_owned)
        };
        assert_eq!(of(&["Bearer abc"]), Ok("abc".to_owned()));
        assert_eq!(of(&["bEARER  abc "]), Ok("abc".to_owned()));
        for none in [
            &[][..],
            &["Basic abc"],
            &["abc"],
            &[""],
            &["DPoP abc"],
            &["BearerX abc"],
        ] {
            assert_eq!(of(none), Err(Refused::NoToken), "{none:?}");
        }
        for malformed in [
            &["Bearer"][..],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a", "Bearer a"],
            &["Basic x", "Bearer a"],
        ] {
            assert_eq!(of(malformed), Err(Refused::Malformed), "{malformed:?}");
        }
    }
}
