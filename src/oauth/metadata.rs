//! Client metadata, RFC 7591 §2: from what anybody may write to what a client may be.
//!
//! Unknown members are ignored and `null` counts as absent. Lists lose what is not supported here; one bad redirect URI
//! does not cost the client its good ones (Cursor registers three, of three kinds).

use serde_json::{Map, Value};
use url::Url;

use super::client_keys;
use super::token::GRANTS;
use crate::config::Config;
use crate::domain::client::{ClientAuthMethod, ClientDisplay, ClientKeys, GrantType};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::key::Algorithm;
use crate::domain::scope::{OFFLINE_ACCESS, Scope, ScopeToken};
use crate::domain::uri::{MAX_URI_LENGTH, RedirectUri};

/// Most redirect URIs of one client.
const MAX_REDIRECT_URIS: usize = 20;
/// Most entries of any other list.
const MAX_LIST: usize = 32;
/// Most characters of a text for display.
const MAX_TEXT: usize = 200;
/// Most contacts that are kept.
const MAX_CONTACTS: usize = 10;

/// What a registering client gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) redirect_uris: Vec<RedirectUri>,
    pub(super) auth_method: ClientAuthMethod,
    pub(super) keys: Option<ClientKeys>,
    pub(super) grant_types: Vec<GrantType>,
    pub(super) name: Option<String>,
    pub(super) display: ClientDisplay,
    pub(super) id_token_algorithm: Option<Algorithm>,
    pub(super) key_bound: bool,
}

type Document = Map<String, Value>;

/// `invalid_client_metadata`, RFC 7591 §3.2.2.
pub(super) fn invalid(description: impl Into<std::borrow::Cow<'static, str>>) -> OAuthError {
    let description = description.into();
    let cause = format!("a registration was refused: {description}");
    OAuthError::new(ErrorCode::InvalidClientMetadata, description).because(cause)
}

// === impl Metadata ===

impl Metadata {
    /// Judges a registration.
    ///
    /// # Errors
    /// `invalid_redirect_uri` or `invalid_client_metadata`, naming the member and the rule.
    pub(super) fn read(document: &Document, config: &Config) -> Result<Self, OAuthError> {
        let grant_types = grant_types(document, config)?;
        let redirect_uris = redirect_uris(document, config, &grant_types)?;
        let display = display(document, config)?;
        response_types(document)?;
        let signs = text(document, "token_endpoint_auth_method")? == Some(ClientAuthMethod::PrivateKeyJwt.as_str());
        let keys = client_keys::read(document, config.public_url.loopback, signs)?.filter(|_| signs);
        Ok(Self {
            auth_method: auth_method(document, &display, &redirect_uris, keys.is_some())?,
            keys,
            grant_types,
            name: text(document, "client_name")?.and_then(for_display),
            redirect_uris,
            display,
            id_token_algorithm: id_token_algorithm(document)?,
            key_bound: key_bound(document, config)?,
        })
    }
}

/// The redirect URIs that may be used. If none of those sent may, the error says what is wrong with the first. A client
/// without the code grant needs none.
pub(super) fn redirect_uris(
    document: &Document,
    config: &Config,
    grant_types: &[GrantType],
) -> Result<Vec<RedirectUri>, OAuthError> {
    let refuse = |description: String| {
        let cause = format!("a registration was refused: {description}");
        OAuthError::new(ErrorCode::InvalidRedirectUri, description).because(cause)
    };
    let sent = list(document, "redirect_uris", MAX_REDIRECT_URIS)
        .map_err(|error| refuse(error.description.into_owned()))?
        .filter(|sent| !sent.is_empty());
    let sent = match sent {
        Some(sent) => sent,
        None if !grant_types.contains(&GrantType::AuthorizationCode) => return Ok(Vec::new()),
        None => return Err(refuse("redirect_uris must name at least one URI".to_owned())),
    };
    let mut accepted: Vec<RedirectUri> = Vec::new();
    let mut first_problem = None;
    for text in sent {
        match RedirectUri::parse_with(
            text,
            &config.oauth.allowed_redirect_hosts,
            &config.oauth.allowed_redirect_schemes,
        ) {
            Ok(uri) if accepted.contains(&uri) => {}
            Ok(uri) => accepted.push(uri),
            Err(problem) => {
                first_problem.get_or_insert(problem);
            }
        }
    }
    match first_problem {
        Some(problem) if accepted.is_empty() => {
            Err(refuse(format!("no redirect URI can be used; the first: {problem}")))
        }
        _ => Ok(accepted),
    }
}

/// How the client will authenticate: as it asked, `client_secret_basic` if it did not say (§2), and for a method that we
/// lack whatever suits its kind (§3.2.1): an app on somebody's machine cannot keep a secret.
fn auth_method(
    document: &Document,
    display: &ClientDisplay,
    redirect_uris: &[RedirectUri],
    has_keys: bool,
) -> Result<ClientAuthMethod, OAuthError> {
    let Some(asked) = text(document, "token_endpoint_auth_method")? else {
        return Ok(ClientAuthMethod::ClientSecretBasic);
    };
    let native = display.application_type.as_deref() == Some("native")
        || redirect_uris.iter().all(|uri| {
            let text = uri.as_str().as_bytes();
            !text.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"https:"))
        });
    let usable = ClientAuthMethod::parse(asked).filter(|method| *method != ClientAuthMethod::PrivateKeyJwt || has_keys);
    Ok(usable.unwrap_or(if native {
        ClientAuthMethod::None
    } else {
        ClientAuthMethod::ClientSecretBasic
    }))
}

/// The grants that it may use: those it asked for that exist here. VS Code asks for one that does not.
/// Nor is there one for strangers that whoever runs the gateway has to allow.
pub(super) fn grant_types(document: &Document, config: &Config) -> Result<Vec<GrantType>, OAuthError> {
    let Some(sent) = list(document, "grant_types", MAX_LIST)? else {
        return Ok(vec![GrantType::AuthorizationCode]);
    };
    let supported = GRANTS
        .iter()
        .filter(|grant| grant.is_on(config) && grant.is_for_strangers())
        .map(|grant| grant.grant_type());
    let grants: Vec<_> = supported.filter(|grant| sent.contains(&grant.as_str())).collect();
    if grants.iter().any(|grant| *grant != GrantType::RefreshToken) {
        Ok(grants)
    } else {
        Err(invalid("grant_types must have authorization_code among them"))
    }
}

/// How its ID tokens are to be signed, if it says, and if we can (OpenID Connect Registration §2).
pub(super) fn id_token_algorithm(document: &Document) -> Result<Option<Algorithm>, OAuthError> {
    let asked = text(document, "id_token_signed_response_alg")?.and_then(Algorithm::parse);
    Ok(asked.filter(|algorithm| Algorithm::OURS.contains(algorithm)))
}

/// Whether its tokens have to be bound to a key (RFC 9449 §5.2).
pub(super) fn key_bound(document: &Document, config: &Config) -> Result<bool, OAuthError> {
    Ok(config.oauth.dpop && boolean(document, "dpop_bound_access_tokens")?)
}

/// `code` is the only response type; others may be asked for besides it.
pub(super) fn response_types(document: &Document) -> Result<(), OAuthError> {
    match list(document, "response_types", MAX_LIST)? {
        Some(sent) if !sent.contains(&"code") => Err(invalid("response_types must have code among them")),
        _ => Ok(()),
    }
}

/// The scopes that exist, of those it asked for.
fn scope(document: &Document, config: &Config) -> Result<Scope, OAuthError> {
    let known = config.all_scopes();
    let asked = text(document, "scope")?.unwrap_or_default();
    Ok(asked
        .split(' ')
        .filter(|word| known.contains(word) || *word == OFFLINE_ACCESS)
        .filter_map(|word| word.parse::<ScopeToken>().ok())
        .collect())
}

pub(super) fn display(document: &Document, config: &Config) -> Result<ClientDisplay, OAuthError> {
    let uri = |member| -> Result<_, OAuthError> {
        Ok(text(document, member)?
            .filter(|text| is_web_address(text))
            .map(str::to_owned))
    };
    let label = |member| -> Result<_, OAuthError> { Ok(text(document, member)?.and_then(for_display)) };
    let contacts = list(document, "contacts", MAX_LIST)?.unwrap_or_default();
    Ok(ClientDisplay {
        client_uri: uri("client_uri")?,
        logo_uri: uri("logo_uri")?,
        tos_uri: uri("tos_uri")?,
        policy_uri: uri("policy_uri")?,
        contacts: contacts
            .into_iter()
            .filter_map(for_display)
            .take(MAX_CONTACTS)
            .collect(),
        scope: Some(scope(document, config)?).filter(|scope| !scope.is_empty()),
        software_id: label("software_id")?,
        software_version: label("software_version")?,
        application_type: text(document, "application_type")?
            .filter(|kind| matches!(*kind, "web" | "native"))
            .map(str::to_owned),
    })
}

fn is_web_address(text: &str) -> bool {
    text.len() <= MAX_URI_LENGTH
        && text
            .bytes()
            .all(|b| (0x21..0x7f).contains(&b) && !matches!(b, b'<' | b'>' | b'"' | b'\\'))
        && Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Text that can be shown: without characters that are not seen or that turn the text around them, and cut to length.
pub(super) fn for_display(text: &str) -> Option<String> {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}')
            || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
            || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    let seen: String = text.chars().filter(|c| !hidden(*c)).take(MAX_TEXT).collect();
    let seen = seen.trim();
    (!seen.is_empty()).then(|| seen.to_owned())
}

/// A member that is text. Missing, `null` and empty are the same.
pub(super) fn text<'a>(document: &'a Document, member: &'static str) -> Result<Option<&'a str>, OAuthError> {
    match document.get(member) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(invalid(format!("{member} must be a string"))),
    }
}

/// A member that is true or false; missing and `null` are false.
fn boolean(document: &Document, member: &'static str) -> Result<bool, OAuthError> {
    match document.get(member) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(invalid(format!("{member} must be true or false"))),
    }
}

/// A member that is a list of text. Missing and `null` are the same.
pub(super) fn list<'a>(
    document: &'a Document,
    member: &'static str,
    most: usize,
) -> Result<Option<Vec<&'a str>>, OAuthError> {
    let entries = match document.get(member) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(entries)) if entries.len() > most => {
            return Err(invalid(format!("{member} has more than {most} entries")));
        }
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(invalid(format!("{member} must be a list of strings"))),
    };
    let texts: Option<Vec<_>> = entries.iter().map(Value::as_str).collect();
    texts
        .map(Some)
        .ok_or_else(|| invalid(format!("{member} must be a list of strings")))
}
