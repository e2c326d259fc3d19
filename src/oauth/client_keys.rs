//! The public keys of clients: as they are registered (RFC 7591 §2), and as they are used.

use std::sync::Arc;

use serde_json::{Map, Value};
use url::Url;

use super::Endpoints;
use super::metadata::{invalid, text};
use super::remote::Named;
use crate::domain::client::{Client, ClientKeys, ClientOrigin, KeySource};
use crate::domain::error::OAuthError;
use crate::domain::key::Algorithm;
use crate::domain::uri::{MAX_URI_LENGTH, is_loopback};
use crate::fetch::Failure;
use crate::jose::{InvalidKeys, KeySet};

/// Most bytes of a key set that a client hands in.
const MAX_INLINE: usize = 16 << 10;

/// The keys that a document names: `jwks` or `jwks_uri`, never both (RFC 7591 §2). Where they are not `needed`, because the
/// client authenticates in another way, keys of a kind that we lack are as good as none.
///
/// # Errors
/// `invalid_client_metadata` if they are not public keys that we could use; always if a private key is among them.
pub(super) fn read(
    document: &Map<String, Value>,
    loopback: bool,
    needed: bool,
) -> Result<Option<ClientKeys>, OAuthError> {
    let inline = document.get("jwks").filter(|value| !value.is_null());
    let parsed = inline.map(KeySet::parse).transpose();
    if matches!(parsed, Err(InvalidKeys::Private)) {
        return Err(invalid(format!("jwks cannot be used: {}", InvalidKeys::Private)));
    }
    let source = parsed
        .map_err(|error| invalid(format!("jwks cannot be used: {error}")))
        .and_then(|_| source(document, inline, loopback));
    let algorithm = algorithm(document);
    match (source, algorithm) {
        (Ok(source), Ok(algorithm)) => Ok(source.map(|source| ClientKeys { source, algorithm })),
        (Err(error), _) | (_, Err(error)) if needed => Err(error),
        _ => Ok(None),
    }
}

fn source(
    document: &Map<String, Value>,
    inline: Option<&Value>,
    loopback: bool,
) -> Result<Option<KeySource>, OAuthError> {
    match (inline, text(document, "jwks_uri")?) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(invalid("jwks and jwks_uri cannot both be there")),
        (Some(value), None) => {
            let text = value.to_string();
            if text.len() > MAX_INLINE {
                return Err(invalid("jwks is longer than 16 KiB"));
            }
            Ok(Some(KeySource::Inline(text)))
        }
        (None, Some(address)) if is_address(address, loopback) => Ok(Some(KeySource::At(address.to_owned()))),
        (None, Some(_)) => Err(invalid("jwks_uri must be an https URL")),
    }
}

fn algorithm(document: &Map<String, Value>) -> Result<Option<Algorithm>, OAuthError> {
    let Some(name) = text(document, "token_endpoint_auth_signing_alg")? else {
        return Ok(None);
    };
    let found = Algorithm::parse(name);
    found
        .map(Some)
        .ok_or_else(|| invalid("token_endpoint_auth_signing_alg is not supported here"))
}

fn is_address(text: &str, loopback: bool) -> bool {
    text.len() <= MAX_URI_LENGTH
        && Url::parse(text).is_ok_and(|url| {
            let secure = url.scheme() == "https" || (loopback && url.scheme() == "http" && is_loopback(&url));
            secure && url.has_host() && url.username().is_empty() && url.password().is_none()
        })
}

/// The keys themselves; those at an address are fetched anew where they lack the one that is asked for.
///
/// # Errors
/// If the client has none, or they cannot be had.
pub(super) async fn resolve(at: &Endpoints, client: &Client, key_id: Option<&str>) -> Result<Arc<KeySet>, Failure> {
    let unreadable = |what: &str| Failure::Invalid(what.to_owned());
    let source = client.keys.as_ref().map(|keys| &keys.source);
    match source.ok_or_else(|| unreadable("the client has no keys"))? {
        KeySource::Inline(text) => {
            let value: Value = serde_json::from_str(text).map_err(|_| unreadable("jwks is not JSON"))?;
            let keys = KeySet::parse(&value).map_err(|error| unreadable(&error.to_string()))?;
            Ok(Arc::new(keys))
        }
        KeySource::At(address) => {
            let named = match client.origin {
                ClientOrigin::Configured => Named::ByOperator,
                ClientOrigin::Registered | ClientOrigin::Document => Named::ByStranger,
            };
            at.remote.keys(address, named, key_id).await
        }
    }
}
