//! Endpoints of ours that want an access token: what they take for one, and how they refuse (RFC 6750 §3, RFC 9449 §7.1).

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};

use super::dpop::{self, ProofError};
use super::{Answer, Call, Endpoints, unavailable, web};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::LiveToken;
use crate::domain::secret::{Secret, SecretKind};

/// How a token is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RFC 6750 §2.1.
    Bearer,
    /// RFC 9449 §7.1, with a proof beside it.
    Dpop,
}

/// Why there is no token in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoToken {
    /// There is none: not an error, but the beginning of a conversation (RFC 6750 §3.1).
    Absent,
    /// The header could be read in two ways.
    Malformed,
}

/// Why a request to an endpoint of ours is refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is no token.
    NoToken,
    /// The token is nothing, or for somebody else.
    Token,
    /// The token lacks a scope.
    Scope(&'static str),
    /// The token is bound to a key, and possession of it was not proved.
    Proof(ProofError),
    /// Something else.
    Other(OAuthError),
}

/// The token of a request. Another scheme is no token; a header of ours that has none in it is an error (RFC 6750 §3.1).
///
/// # Errors
/// See [`NoToken`].
pub fn presented(headers: &HeaderMap) -> Result<(Scheme, &str), NoToken> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(NoToken::Malformed);
    }
    let text = first.ok_or(NoToken::Absent)?.to_str().map_err(|_| NoToken::Malformed)?;
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    let scheme = if scheme.eq_ignore_ascii_case("bearer") {
        Scheme::Bearer
    } else if scheme.eq_ignore_ascii_case("dpop") {
        Scheme::Dpop
    } else {
        return Err(NoToken::Absent);
    };
    let token = rest.trim_matches(' ');
    if token.is_empty() || token.contains([' ', '\t']) {
        Err(NoToken::Malformed)
    } else {
        Ok((scheme, token))
    }
}

/// The living token that a request presents, proved where it is bound to a key.
pub(super) async fn token(at: &Endpoints, call: &Call<'_>) -> Result<LiveToken, Refused> {
    let headers = call.request.headers();
    let (scheme, text) = presented(headers).map_err(|no_token| match no_token {
        NoToken::Absent => Refused::NoToken,
        NoToken::Malformed => OAuthError::invalid_request("the Authorization header is malformed").into(),
    })?;
    let secret = Secret::parse(SecretKind::AccessToken, text).ok_or(Refused::Token)?;
    let found = at.store.access_token(&secret.hash()).await.map_err(unavailable)?;
    let live = found.filter(|live| live.is_alive(at.now())).ok_or(Refused::Token)?;
    let target = at.config.public_url.join(call.request.uri().path());
    dpop::check_bound(
        at,
        headers,
        &dpop::Use {
            scheme,
            key: live.token.key.as_deref(),
            method: call.request.method(),
            target: &target,
            token: text,
        },
    )
    .map_err(Refused::Proof)?;
    Ok(live)
}

// === impl Refused ===

impl Refused {
    /// The answer, with its challenge.
    pub(super) fn answer(self, at: &Endpoints) -> Answer {
        let (status, scheme, error, description, extra) = match self {
            Self::NoToken => (
                StatusCode::UNAUTHORIZED,
                "Bearer",
                None,
                "a token is needed",
                String::new(),
            ),
            Self::Token => (
                StatusCode::UNAUTHORIZED,
                "Bearer",
                Some("invalid_token"),
                "the token is expired, revoked or was never issued",
                String::new(),
            ),
            Self::Scope(scope) => (
                StatusCode::FORBIDDEN,
                "Bearer",
                Some("insufficient_scope"),
                "the token lacks a scope",
                format!("scope=\"{scope}\""),
            ),
            Self::Proof(error) => (
                StatusCode::UNAUTHORIZED,
                "DPoP",
                Some(error.code()),
                error.description(),
                format!("algs=\"{}\"", dpop::algorithms().join(" ")),
            ),
            Self::Other(error) => return web::error(&error),
        };
        let mut attributes: Vec<String> = error.map(|error| format!("error=\"{error}\"")).into_iter().collect();
        attributes.extend((!extra.is_empty()).then_some(extra));
        let challenge = if attributes.is_empty() {
            format!("{scheme} realm=\"mcpgate\"")
        } else {
            format!("{scheme} {}", attributes.join(", "))
        };
        let body = serde_json::json!({ "error": error.unwrap_or("unauthorized"), "error_description": description });
        let mut answer = web::json_no_store(status, &body);
        if let Ok(challenge) = HeaderValue::try_from(challenge) {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        match error {
            Some(code) if code == ErrorCode::UseDpopNonce.as_str() => {
                dpop::with_nonce(at, &OAuthError::new(ErrorCode::UseDpopNonce, description), answer)
            }
            _ => answer,
        }
    }
}

impl From<OAuthError> for Refused {
    fn from(error: OAuthError) -> Self {
        Self::Other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_header_with_one_token() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            presented(&headers).map(|(scheme, token)| (scheme, token.to_owned()))
        };
        assert_eq!(of(&["Bearer abc"]), Ok((Scheme::Bearer, "abc".to_owned())));
        assert_eq!(of(&["bEARER  abc "]), Ok((Scheme::Bearer, "abc".to_owned())));
        assert_eq!(of(&["dpop abc"]), Ok((Scheme::Dpop, "abc".to_owned())));
        for none in [&[][..], &["Basic abc"], &["abc"], &[""], &["BearerX abc"]] {
            assert_eq!(of(none), Err(NoToken::Absent), "{none:?}");
        }
        for malformed in [
            &["Bearer"][..],
            &["Bearer "],
            &["Bearer a b"],
            &["DPoP"],
            &["Bearer a", "Bearer a"],
            &["Basic x", "Bearer a"],
        ] {
            assert_eq!(of(malformed), Err(NoToken::Malformed), "{malformed:?}");
        }
    }
}
