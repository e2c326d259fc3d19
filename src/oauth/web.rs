//! Reading parameters and writing answers, once for every endpoint: duplicate parameters are refused, errors become JSON
//! in one function, nothing that matters is cached.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::Answer;
use crate::domain::error::{ErrorCode, OAuthError};

/// Most parameters in one request.
const MAX_PARAMETERS: usize = 64;
/// Longest value of a parameter. A `state` may be long (VS Code's is), so this is generous.
const MAX_VALUE: usize = 8 << 10;
/// The same in forms of our own pages: what is sealed in them knows somebody's passkeys.
const MAX_OWN_VALUE: usize = 40 << 10;

/// The parameters of a query or a form. Empty ones count as missing, unknown ones are ignored (RFC 6749 §3.1, §3.2).
/// No `Debug`: there may be secrets among them.
pub struct Parameters(Vec<(String, Zeroizing<String>)>);

// === impl Parameters ===

impl Parameters {
    /// Reads `application/x-www-form-urlencoded` text. A parameter may be there once; `resource` may repeat (RFC 8707 §2).
    ///
    /// # Errors
    /// `invalid_request` for duplicates, too many or too long parameters, and text that is not UTF-8 when decoded.
    pub fn parse(encoded: &[u8]) -> Result<Self, OAuthError> {
        Self::parse_up_to(MAX_VALUE, encoded)
    }

    fn parse_up_to(longest: usize, encoded: &[u8]) -> Result<Self, OAuthError> {
        let mut parameters: Vec<(String, Zeroizing<String>)> = Vec::new();
        for pair in encoded.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.iter().position(|b| *b == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &[][..]),
            };
            let (name, value) = (decode(name)?, Zeroizing::new(decode(value)?));
            if parameters.len() == MAX_PARAMETERS {
                return Err(OAuthError::invalid_request("too many parameters"));
            }
            if value.len() > longest || name.len() > 256 {
                return Err(OAuthError::invalid_request("a parameter is too long"));
            }
            if name != "resource" && parameters.iter().any(|(other, _)| *other == name) {
                return Err(OAuthError::invalid_request("a parameter is there twice"));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// The parameters of a request's query.
    ///
    /// # Errors
    /// See [`Parameters::parse`].
    pub fn of_query(request: &Request<Bytes>) -> Result<Self, OAuthError> {
        Self::parse(request.uri().query().unwrap_or_default().as_bytes())
    }

    /// The parameters of a form that was posted.
    ///
    /// # Errors
    /// See [`Parameters::parse`]; also if the body is of another type.
    pub fn of_form(request: &Request<Bytes>) -> Result<Self, OAuthError> {
        Self::of_form_up_to(MAX_VALUE, request)
    }

    /// The same of a form of our own, whose values may be longer.
    ///
    /// # Errors
    /// See [`Parameters::of_form`].
    pub fn of_own_form(request: &Request<Bytes>) -> Result<Self, OAuthError> {
        Self::of_form_up_to(MAX_OWN_VALUE, request)
    }

    fn of_form_up_to(longest: usize, request: &Request<Bytes>) -> Result<Self, OAuthError> {
        let mut types = request.headers().get_all(header::CONTENT_TYPE).iter();
        let (first, second) = (types.next(), types.next());
        let essence = first
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.split(';').next())
            .unwrap_or_default();
        if second.is_some() || !essence.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(OAuthError::invalid_request(
                "the body must be application/x-www-form-urlencoded",
            ));
        }
        Self::parse_up_to(longest, request.body())
    }

    /// A parameter's value, if it is there and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// A parameter that has to be there.
    ///
    /// # Errors
    /// `invalid_request` that names it.
    pub fn require(&self, name: &'static str) -> Result<&str, OAuthError> {
        self.get(name)
            .ok_or_else(|| OAuthError::invalid_request(format!("{name} is missing")))
    }

    /// Parameters that were read before.
    #[must_use]
    pub(super) fn of_pairs(pairs: Vec<(String, String)>) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name, Zeroizing::new(value)))
                .collect(),
        )
    }

    /// All of them, in order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Every value of a parameter that may repeat.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(other, value)| other == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }
}

/// Percent-decoding with `+` for a space; refuses what is not UTF-8 and broken escapes rather than guess.
pub(super) fn decode(encoded: &[u8]) -> Result<String, OAuthError> {
    let malformed = || OAuthError::invalid_request("a parameter is not properly encoded");
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |b: Option<&u8>| {
                    b.and_then(|b| char::from(*b).to_digit(16))
                        .and_then(|d| u8::try_from(d).ok())
                };
                let (high, low) = (
                    digit(rest.next()).ok_or_else(malformed)?,
                    digit(rest.next()).ok_or_else(malformed)?,
                );
                high << 4 | low
            }
            other => other,
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| malformed())?;
    if text.contains('\0') {
        Err(malformed())
    } else {
        Ok(text)
    }
}

/// A JSON answer that must not be kept by anybody (RFC 6749 §5.1).
#[must_use]
pub fn json_no_store(status: StatusCode, body: &impl Serialize) -> Answer {
    let mut answer = json(status, body);
    no_store(&mut answer);
    answer
}

/// A JSON answer without a word on caching.
#[must_use]
pub fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let (status, text) = match serde_json::to_vec(body) {
        Ok(text) => (status, text),
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            b"{\"error\":\"server_error\"}".to_vec(),
        ),
    };
    let mut answer = Response::new(Bytes::from(text));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// The JSON form of an error, RFC 6749 §5.2: the only function that writes one. The cause is logged here.
#[must_use]
pub fn error(error: &OAuthError) -> Answer {
    log_cause(error);
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let mut answer = json_no_store(
        status,
        &json!({ "error": error.code.as_str(), "error_description": error.description }),
    );
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    // For whoever counts failures; it stays inside.
    answer.extensions_mut().insert(error.code);
    answer
}

/// Writes down why, once, wherever an error becomes an answer: JSON, a page or a redirect.
pub(super) fn log_cause(error: &OAuthError) {
    if let Some(cause) = &error.cause {
        let cause = cause.as_ref();
        match error.code {
            ErrorCode::ServerError | ErrorCode::TemporarilyUnavailable => {
                tracing::error!(error = error.code.as_str(), cause, "an endpoint failed");
            }
            _ => tracing::info!(error = error.code.as_str(), cause, "an endpoint refused a request"),
        }
    }
}

/// Nothing, with a status.
#[must_use]
pub fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = status;
    answer
}

/// 303: the only redirect that we send, since it never repeats a POST with a password in it (RFC 9700 §4.12).
#[must_use]
pub fn redirect(location: &str) -> Answer {
    let Ok(location) = HeaderValue::from_str(location) else {
        return error(&OAuthError::invalid_request("the redirect URI cannot be sent"));
    };
    let mut answer = empty(StatusCode::SEE_OTHER);
    answer.headers_mut().insert(header::LOCATION, location);
    no_store(&mut answer);
    answer
        .headers_mut()
        .insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

/// Keeps an answer out of every cache.
pub fn no_store(answer: &mut Answer) {
    answer
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
        .headers_mut()
        .insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_decode_and_empty_ones_are_missing() {
        let p =
            Parameters::parse(b"a=1&b=x+y%20z&c=&d&resource=1&resource=2&%65=%C3%A4").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            (p.get("a"), p.get("b"), p.get("c"), p.get("d"), p.get("e")),
            (Some("1"), Some("x y z"), None, None, Some("ä"))
        );
        assert_eq!(p.all("resource").collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let long = format!("a={}", "x".repeat(MAX_VALUE + 1));
        let many = (0..65).map(|n| format!("p{n}=1")).collect::<Vec<_>>().join("&");
        for bad in [
            "a=1&a=1",
            "a=1&%61=2",
            "a=&a=1",
            "a=%",
            "a=%4",
            "a=%zz",
            "a=%ff",
            "a=%00",
            long.as_str(),
            many.as_str(),
        ] {
            let code = Parameters::parse(bad.as_bytes()).map(|_| ()).unwrap_err().code;
            assert_eq!(code, ErrorCode::InvalidRequest, "{bad:.40}");
        }
    }

    proptest! {
        #[test]
        fn whatever_was_encoded_is_decoded(value in "[^\\x00]{0,100}") {
            let encoded: String = form_urlencoded::Serializer::new(String::new()).append_pair("v", &value).finish();
            let parameters = Parameters::parse(encoded.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
            prop_assert_eq!(parameters.get("v").unwrap_or_default(), value);
        }

        #[test]
        fn no_bytes_whatever_break_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Parameters::parse(&bytes);
        }
    }
}
