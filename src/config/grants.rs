//! `oauth.grants`, `oauth.trusted_issuers`, and what clients of the file may do besides.

use std::collections::HashSet;

use super::read::{At, Object};
use super::values::{read_bounded, shown};
use super::{Config, Grants, IssuerKeys, TrustedIssuer, UsersBy, keys};
use crate::domain::client::GrantType;
use crate::domain::key::Algorithm;

/// Largest file of public keys.
const MAX_KEYS_FILE: u64 = 64 << 10;

/// What `grant_types` may say: the registered names, and short ones for those that are URNs.
pub(super) const WORDS: [(&str, GrantType); 9] = [
    ("authorization_code", GrantType::AuthorizationCode),
    ("refresh_token", GrantType::RefreshToken),
    ("client_credentials", GrantType::ClientCredentials),
    ("device_code", GrantType::DeviceCode),
    ("jwt_bearer", GrantType::JwtBearer),
    ("token_exchange", GrantType::TokenExchange),
    (GrantType::DeviceCode.as_str(), GrantType::DeviceCode),
    (GrantType::JwtBearer.as_str(), GrantType::JwtBearer),
    (GrantType::TokenExchange.as_str(), GrantType::TokenExchange),
];

/// The grants that are for clients with a credential alone.
pub(super) const NEEDS_CREDENTIAL: [GrantType; 3] = [
    GrantType::ClientCredentials,
    GrantType::JwtBearer,
    GrantType::TokenExchange,
];

/// `oauth.grants`.
pub(super) fn read(oauth: &Object<'_>, default: Grants) -> Grants {
    let section = oauth.section("grants", keys::GRANTS);
    Grants {
        client_credentials: section.or("client_credentials", default.client_credentials, At::boolean),
        device_code: section.or("device_code", default.device_code, At::boolean),
        token_exchange: section.or("token_exchange", default.token_exchange, At::boolean),
    }
}

/// `oauth.trusted_issuers`.
pub(super) fn trusted_issuers(oauth: &Object<'_>) -> Vec<TrustedIssuer> {
    let mut names = HashSet::new();
    let mut issuers = Vec::new();
    for item in oauth.items("trusted_issuers") {
        let Some(object) = item.object(keys::TRUSTED_ISSUER) else {
            continue;
        };
        let at = object.required("issuer", "https://idp.example.com");
        let issuer = at.and_then(At::https_url);
        if let (Some(at), Some(issuer)) = (at, &issuer)
            && !names.insert(issuer.clone())
        {
            at.problem("is trusted by an earlier entry");
        }
        let users_by = object.or("users_by", UsersBy::Email, |at| {
            at.word(&[("email", UsersBy::Email), ("subject", UsersBy::Subject)])
        });
        let keys = match (object.get("jwks_file"), object.get("jwks_uri")) {
            (Some(file), None) => file.key_file(),
            (None, Some(uri)) => uri.https_url().map(IssuerKeys::Uri),
            (Some(file), Some(_)) => file.refuse("is there beside jwks_uri; keep one of them"),
            (None, None) => {
                object.missing("jwks_uri", "https://idp.example.com/jwks.json");
                None
            }
        };
        if let (Some(issuer), Some(keys)) = (issuer, keys) {
            issuers.push(TrustedIssuer { issuer, keys, users_by });
        }
    }
    issuers
}

/// The upstreams that clients name have to be there.
pub(super) fn client_upstreams(oauth: &Object<'_>, config: &Config) {
    let known = |name: &str| config.upstreams.iter().any(|upstream| upstream.name == name);
    for item in oauth.items("clients") {
        let Some(entries) = item.peek() else { continue };
        for (key, value) in entries {
            if !matches!(key, "upstreams" | "introspects") {
                continue;
            }
            for (at, name) in value.peek_texts() {
                if !known(name) {
                    at.problem(format!("no upstream is named {}", shown(name)));
                }
            }
        }
    }
}

impl At<'_> {
    /// A list of names.
    pub(super) fn names(&self) -> Option<Vec<String>> {
        let texts = self.texts()?;
        Some(texts.into_iter().map(|(_, text)| text.to_owned()).collect())
    }

    /// An algorithm that we sign with.
    pub(super) fn signing_algorithm(&self) -> Option<Algorithm> {
        self.word(&Algorithm::OURS.map(|algorithm| (algorithm.as_str(), algorithm)))
    }

    /// An https URL without a fragment, as it is written.
    fn https_url(&self) -> Option<String> {
        let text = self.text()?;
        let url = url::Url::parse(text).ok();
        match url {
            Some(url) if url.scheme() == "https" && url.has_host() && url.fragment().is_none() => Some(text.to_owned()),
            _ => self.refuse(format!("{} is not an https URL", shown(text))),
        }
    }

    /// A file with a JSON Web Key Set (RFC 7517 §5). What is in it is judged by whoever verifies with it.
    fn key_file(&self) -> Option<IssuerKeys> {
        let path = self.file()?;
        let text = match read_bounded(&path, MAX_KEYS_FILE) {
            Ok(text) => text,
            Err(error) => return self.refuse(format!("{} cannot be read: {error}", path.display())),
        };
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(value) if value.get("keys").is_some_and(serde_json::Value::is_array) => Some(IssuerKeys::Inline(value)),
            _ => self.refuse("is not a JSON Web Key Set: an object with a list `keys`"),
        }
    }
}
