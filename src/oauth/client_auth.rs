//! Who calls `/token` and `/revoke`: RFC 6749 §2.3.
//!
//! Three ways: nothing but its id, a secret, or an assertion (`client_assertion.rs`). A confidential client may send its secret in the header or in the form, whichever of the two it registered: claude.ai
//! always uses the form, others always the header, whatever discovery and their registration say, and both carry the same
//! secret over the same connection. What stays strict: one method in a request, and no secret from a public client.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::{self, HeaderValue};
use zeroize::Zeroizing;

use super::client_assertion::Assertion;
use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints};
use crate::domain::client::{Client, ClientId};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::secret::SecretHash;
use crate::fetch::Patience;

/// Compared with where there is no client, so that an unknown one costs what a wrong secret costs.
const NOBODY: SecretHash = SecretHash::from_bytes([0; 32]);
/// The longest `Authorization` header that is looked at.
const MAX_HEADER: usize = 8 << 10;
/// The standard alphabet; some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a request says about its client. No `Debug`: there are secrets in it.
struct Credentials {
    /// The readings of the id and the secret, the one that RFC 6749 §2.3.1 prescribes first. The other one is for clients
    /// that put both into the header without encoding them (the TypeScript SDK).
    readings: Vec<Reading>,
}

pub(super) struct Reading {
    pub(super) id: String,
    pub(super) secret: Option<Zeroizing<String>>,
}

/// The client behind a request, if it shows that it is that client.
///
/// # Errors
/// `invalid_client` for an unknown client and for a wrong secret alike; `invalid_request` if it uses two methods at once.
pub async fn authenticate(at: &Endpoints, call: &Call<'_>, form: &Parameters) -> Result<Client, OAuthError> {
    if let Some(assertion) = Assertion::of(form)? {
        if call.request.headers().contains_key(header::AUTHORIZATION) || form.get("client_secret").is_some() {
            return Err(two_ways());
        }
        let found = at.find_client(&assertion.client_id, Patience::LENIENT).await?;
        let client = found.ok_or_else(|| refused("the client is not known"))?;
        assertion.verify(at, call, &client).await?;
        return Ok(client);
    }
    let credentials = Credentials::of(call.request.headers(), form)?;
    let mut found = None;
    for reading in &credentials.readings {
        if let Some(id) = ClientId::parse(&reading.id) {
            found = at.find_client(&id, Patience::LENIENT).await?;
        }
        if found.is_some() {
            break;
        }
    }
    let expected = found.as_ref().and_then(|client| client.secret).unwrap_or(NOBODY);
    // Every reading is compared, so that time tells nothing about which of them was close.
    let mut right = false;
    for reading in &credentials.readings {
        let presented = reading.secret.as_ref().map_or("", |secret| secret.as_str());
        right |= expected.matches(presented);
    }
    let presented = credentials.readings.iter().any(|reading| reading.secret.is_some());
    match found {
        None => Err(refused("the client is not known")),
        Some(client) if client.signs() => Err(refused(format!("client {} presented no assertion", client.id))),
        Some(client) if client.is_confidential() => match (presented, right) {
            (true, true) => Ok(client),
            (true, false) => Err(refused(format!("client {} presented a wrong secret", client.id))),
            (false, _) => Err(refused(format!("client {} presented no secret", client.id))),
        },
        Some(client) if presented => Err(refused(format!("public client {} presented a secret", client.id))),
        Some(client) => Ok(client),
    }
}

/// The answer to a request that failed: with a challenge if its client used the header (RFC 6749 §5.2).
#[must_use]
pub fn refuse(call: &Call<'_>, error: &OAuthError) -> Answer {
    let mut answer = web::error(error);
    if error.code == ErrorCode::InvalidClient && call.request.headers().contains_key(header::AUTHORIZATION) {
        answer.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"mcpgate\""),
        );
    }
    answer
}

fn two_ways() -> OAuthError {
    OAuthError::invalid_request("the client authenticates in more than one way")
}

/// One answer for all of them; SDKs forget the client and register again when they read it.
pub(super) fn refused(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OAuthError {
    OAuthError::new(
        ErrorCode::InvalidClient,
        "the client is not known here or did not authenticate; register again",
    )
    .because(cause)
}

// === impl Credentials ===

impl Credentials {
    /// Reads header and form. A `client_id` in the form beside the header is fine if both name the same client; a second
    /// secret is not.
    fn of(headers: &HeaderMap, form: &Parameters) -> Result<Self, OAuthError> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), second) = (values.next(), values.next()) else {
            let id = form.get("client_id").ok_or_else(|| refused("there is no client_id"))?;
            let secret = form
                .get("client_secret")
                .map(|secret| Zeroizing::new(secret.to_owned()));
            return Ok(Self {
                readings: vec![Reading {
                    id: id.to_owned(),
                    secret,
                }],
            });
        };
        if second.is_some() || form.get("client_secret").is_some() {
            return Err(two_ways());
        }
        let mut readings = basic(value).ok_or_else(|| refused("the Authorization header is not HTTP Basic"))?;
        if let Some(id) = form.get("client_id") {
            readings.retain(|reading| reading.id == id);
            if readings.is_empty() {
                return Err(OAuthError::invalid_request(
                    "the Authorization header and client_id name different clients",
                ));
            }
        }
        Ok(Self { readings })
    }
}

/// The ways to read an HTTP Basic header: decoded as a form (RFC 6749 §2.3.1), and as it is (RFC 7617). An empty password
/// is none.
pub(super) fn basic(value: &HeaderValue) -> Option<Vec<Reading>> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > MAX_HEADER {
        return None;
    }
    let bytes = Zeroizing::new(BASE64.decode(encoded.trim()).ok()?);
    let (id, secret) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
    let some = |secret: Zeroizing<String>| Some(secret).filter(|secret| !secret.is_empty());
    let mut readings = Vec::with_capacity(2);
    if let (Ok(id), Ok(secret)) = (web::decode(id.as_bytes()), web::decode(secret.as_bytes())) {
        readings.push(Reading {
            id,
            secret: some(Zeroizing::new(secret)),
        });
    }
    readings.push(Reading {
        id: id.to_owned(),
        secret: some(Zeroizing::new(secret.to_owned())),
    });
    Some(readings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(text: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Basic {}", BASE64.encode(text))).unwrap()
    }

    fn encode(text: &str) -> String {
        form_urlencoded::byte_serialize(text.as_bytes()).collect()
    }

    proptest! {
        /// Spec: F5
        #[test]
        fn an_encoded_header_is_read_first(id in "[!-~]{1,30}", secret in "[^\\x00]{1,30}") {
            let readings = basic(&header(&format!("{}:{}", encode(&id), encode(&secret)))).unwrap();
            prop_assert_eq!(&readings[0].id, &id);
            prop_assert_eq!(readings[0].secret.as_ref().unwrap().as_str(), secret.as_str());
        }

        /// Spec: F5
        #[test]
        fn a_header_that_was_not_encoded_is_read_too(id in "[!-9;-~]{1,30}", secret in "[^\\x00]{1,30}") {
            let readings = basic(&header(&format!("{id}:{secret}"))).unwrap();
            let last = readings.last().unwrap();
            prop_assert_eq!(&last.id, &id);
            prop_assert_eq!(last.secret.as_ref().unwrap().as_str(), secret.as_str());
        }

        #[test]
        fn no_header_whatever_breaks_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..100), raw in any::<bool>()) {
            let value = if raw { bytes } else { format!("Basic {}", BASE64.encode(&bytes)).into_bytes() };
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let _ = basic(&value);
            }
        }
    }
}
