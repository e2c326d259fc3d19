//! Clients whose id is the address of a metadata document that says who they are (OAuth Client ID Metadata Document, as
//! MCP 2026-07-28 wants it): nothing is registered and nothing is kept but a copy for a while.
//!
//! What the site says is believed of its own client and no further: the document names its own address, has no secret in
//! it, and its redirect URIs fall under the same rules as everybody's.

use serde_json::{Map, Value};

use super::Endpoints;
use super::client_keys;
use super::metadata;
use crate::config::Config;
use crate::domain::client::{Client, ClientAuthMethod, ClientId, ClientKeys, ClientOrigin, Permissions};
use crate::domain::client_url::{ClientUrl, InvalidClientUrl};
use crate::domain::clock::Timestamp;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::fetch::{Failure, FetchError, Patience};

/// Most authentication methods that a document may list.
const MAX_METHODS: usize = 16;

/// Why a client id that is an address stands for no client. The text is for people: it says nothing of what the site sent
/// nor of addresses inside a network.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("this client_id cannot be the address of a metadata document: {0}")]
    Url(InvalidClientUrl),
    #[error("this gateway takes no apps from {0}")]
    Host(String),
    #[error("the metadata document of this app cannot be used: {}", in_words(.host, .failure))]
    Failure { host: String, failure: Failure },
}

/// Whether a client id is the address of a document here.
pub(super) fn is_document(config: &Config, id: &ClientId) -> bool {
    config.oauth.client_documents.is_some() && ClientUrl::looks_like_one(id, config.public_url.loopback)
}

/// Whether such an id may be that of a client, without asking its site.
pub(super) fn is_acceptable(config: &Config, id: &ClientId) -> bool {
    ClientUrl::parse(id, config.public_url.loopback).is_ok_and(|url| is_welcome(config, &url))
}

/// The site that vouches for a client, if its id is an address: the host, and the port if it is not the usual one.
pub(super) fn site(client: &Client) -> Option<String> {
    let url = ClientUrl::parse(&client.id, true).ok()?;
    let port = url.as_url().port().map(|port| format!(":{port}")).unwrap_or_default();
    (client.origin == ClientOrigin::Document).then(|| format!("{}{port}", url.host()))
}

/// The client at an address.
///
/// # Errors
/// `invalid_client` with what is wrong in words; `temporarily_unavailable` if too much is being fetched at present.
pub(super) async fn find(at: &Endpoints, id: &ClientId, patience: Patience) -> Result<Client, OAuthError> {
    let config = &at.config;
    let url = ClientUrl::parse(id, config.public_url.loopback).map_err(|error| refused(DocumentError::Url(error)))?;
    if !is_welcome(config, &url) {
        return Err(refused(DocumentError::Host(url.host().to_owned())));
    }
    let read = |body: &[u8]| client(id, body, config).map_err(|error| error.description.into_owned());
    match at.remote.documents.get(url.as_url(), patience, read).await {
        Ok(found) => {
            if found.first {
                at.metrics.registration("document");
                tracing::info!(client = %id, "a client became known by its metadata document");
            }
            Ok(Client::clone(&found.value))
        }
        Err(failure) => Err(refused(DocumentError::Failure {
            host: url.host().to_owned(),
            failure,
        })),
    }
}

/// The operator's lists, and never this gateway itself: its own pages are no documents, and asking for them from here
/// would be a way to go round.
fn is_welcome(config: &Config, url: &ClientUrl) -> bool {
    let host = url.host().trim_end_matches('.');
    let own = url.as_url().origin().ascii_serialization() == config.public_url.origin;
    let hosts = config.oauth.client_documents.as_ref();
    !own && hosts.is_some_and(|hosts| hosts.welcome(host))
}

fn refused(error: DocumentError) -> OAuthError {
    let busy = matches!(
        error,
        DocumentError::Failure {
            failure: Failure::Fetch(FetchError::Busy),
            ..
        }
    );
    let code = if busy {
        ErrorCode::TemporarilyUnavailable
    } else {
        ErrorCode::InvalidClient
    };
    OAuthError::new(code, error.to_string()).because(error)
}

/// What a person can do something about. Where a name leads is nobody's business: a host that may not be asked and one that
/// is not there sound the same.
fn in_words(host: &str, failure: &Failure) -> String {
    let error = match failure {
        Failure::Invalid(why) => return format!("{host} has one, but {why}"),
        Failure::Fetch(error) => error,
    };
    match error {
        FetchError::Forbidden | FetchError::Unresolved | FetchError::Unreachable | FetchError::Resting => {
            format!("{host} cannot be reached from here")
        }
        FetchError::Tls => format!("{host} does not show a certificate that is trusted here"),
        FetchError::Timeout => format!("{host} took too long to answer"),
        FetchError::Status(status) => format!("{host} answered with status {status} where 200 is needed"),
        FetchError::MediaType => format!("{host} did not answer with application/json"),
        FetchError::TooLarge => format!("{host} sent more than 16 KiB"),
        FetchError::Broken => format!("the answer of {host} broke off"),
        FetchError::Busy => "too many are being fetched at present".to_owned(),
    }
}

// --- reading

/// The client that a document describes.
fn client(id: &ClientId, body: &[u8], config: &Config) -> Result<Client, OAuthError> {
    // serde_json goes no deeper than 128 levels.
    let document: Map<String, Value> =
        serde_json::from_slice(body).map_err(|_| metadata::invalid("it is not a JSON object"))?;
    if document.get("client_id").and_then(Value::as_str) != Some(id.as_str()) {
        return Err(metadata::invalid("the client_id in it is not its own address"));
    }
    for member in ["client_secret", "client_secret_expires_at"] {
        if document.get(member).is_some_and(|value| !value.is_null()) {
            return Err(metadata::invalid(format!("there is a {member} in it, for all to read")));
        }
    }
    let (auth_method, keys) = authentication(&document, config)?;
    let name = metadata::text(&document, "client_name")?.and_then(metadata::for_display);
    metadata::response_types(&document)?;
    let grant_types = metadata::grant_types(&document, config)?;
    let redirect_uris = metadata::redirect_uris(&document, config, &grant_types)?;
    if redirect_uris.is_empty() {
        return Err(metadata::invalid("redirect_uris must name at least one URI"));
    }
    Ok(Client {
        id: id.clone(),
        origin: ClientOrigin::Document,
        secret: None,
        registration_token: None,
        auth_method: Some(auth_method),
        keys,
        redirect_uris,
        grant_types,
        scope: None,
        name: Some(name.ok_or_else(|| metadata::invalid("it has no client_name"))?),
        display: metadata::display(&document, config)?,
        id_token_algorithm: metadata::id_token_algorithm(&document)?,
        key_bound: metadata::key_bound(&document, config)?,
        permissions: Permissions::default(),
        created_at: Timestamp::from_millis(0),
    })
}

/// How the client authenticates: by any method that it says it uses or supports and that can be used here. ChatGPT names
/// `private_key_jwt` and lists `none` besides.
fn authentication(
    document: &Map<String, Value>,
    config: &Config,
) -> Result<(ClientAuthMethod, Option<ClientKeys>), OAuthError> {
    let asked = metadata::text(document, "token_endpoint_auth_method")?;
    let listed = metadata::list(document, "token_endpoint_auth_methods_supported", MAX_METHODS)?.unwrap_or_default();
    let shares_a_secret = |method: &str| method.starts_with("client_secret_");
    if asked.is_some_and(shares_a_secret) {
        return Err(metadata::invalid(
            "its token_endpoint_auth_method needs a secret, which a document for all to read cannot have",
        ));
    }
    let names = |method: ClientAuthMethod| asked == Some(method.as_str()) || listed.contains(&method.as_str());
    let signs = names(ClientAuthMethod::PrivateKeyJwt);
    let public = names(ClientAuthMethod::None) || (asked.is_none() && !signs);
    let keys = client_keys::read(document, config.public_url.loopback, signs && !public)?;
    match (signs, public, keys) {
        (true, true, keys) => Ok((ClientAuthMethod::None, keys)),
        (false, true, _) => Ok((ClientAuthMethod::None, None)),
        (true, false, Some(keys)) => Ok((ClientAuthMethod::PrivateKeyJwt, Some(keys))),
        (true, false, None) => Err(metadata::invalid("private_key_jwt needs jwks or jwks_uri")),
        (false, false, _) => Err(metadata::invalid(
            "its token_endpoint_auth_method is not supported here",
        )),
    }
}
