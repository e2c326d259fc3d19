//! The endpoints' parsers of outside text, for `fuzz/`. Not in release builds.

use bytes::Bytes;
use http::Request;
use http::header::{self, HeaderValue};
use serde_json::{Map, Value, json};

use super::metadata::Metadata;
use super::web::Parameters;
use super::{client_auth, cookie};
use crate::config::Config;
use crate::domain::client::KeySource;

/// The readings of an HTTP Basic header, as id and secret.
#[must_use]
pub fn basic(value: &HeaderValue) -> Option<Vec<(String, Option<String>)>> {
    client_auth::basic(value).map(|readings| {
        readings
            .into_iter()
            .map(|reading| (reading.id, reading.secret.map(|secret| secret.to_string())))
            .collect()
    })
}

/// The values of a cookie.
#[must_use]
pub fn cookies(value: HeaderValue, name: &str) -> Vec<String> {
    let mut request = Request::new(Bytes::new());
    request.headers_mut().insert(header::COOKIE, value);
    cookie::values(&request, name).map(str::to_owned).collect()
}

/// The parameters of a query or a form.
#[must_use]
pub fn parameters(encoded: &[u8]) -> Option<Vec<(String, String)>> {
    let parameters = Parameters::parse(encoded).ok()?;
    Some(
        parameters
            .pairs()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    )
}

/// What a client gets that registers with this document, as a document.
#[must_use]
pub fn registration(document: &Map<String, Value>, config: &Config) -> Option<Map<String, Value>> {
    let metadata = Metadata::read(document, config).ok()?;
    let Value::Object(mut got) = json!(metadata.display) else {
        return None;
    };
    got.insert("redirect_uris".to_owned(), json!(metadata.redirect_uris));
    got.insert(
        "token_endpoint_auth_method".to_owned(),
        json!(metadata.auth_method.as_str()),
    );
    let grants: Vec<_> = metadata.grant_types.iter().map(|grant| grant.as_str()).collect();
    got.insert("grant_types".to_owned(), json!(grants));
    got.insert("client_name".to_owned(), json!(metadata.name));
    got.insert("dpop_bound_access_tokens".to_owned(), json!(metadata.key_bound));
    match metadata.keys.map(|keys| (keys.source, keys.algorithm)) {
        None => {}
        Some((source, algorithm)) => {
            match source {
                KeySource::Inline(text) => got.insert("jwks".to_owned(), serde_json::from_str(&text).ok()?),
                KeySource::At(address) => got.insert("jwks_uri".to_owned(), json!(address)),
            };
            if let Some(algorithm) = algorithm {
                let name = json!(algorithm.as_str());
                got.insert("token_endpoint_auth_signing_alg".to_owned(), name);
            }
        }
    }
    Some(got)
}
