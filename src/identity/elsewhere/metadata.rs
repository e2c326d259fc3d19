//! What a provider says of itself: OpenID Connect Discovery 1.0.

use serde::Deserialize;
use url::Url;

use super::{Failure, Providers};
use crate::domain::clock::Timestamp;
use crate::fetch::{self, Patience};
use crate::jose::{Claims, KeySet, Token};

/// A provider's own description, as far as it is used.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub(super) authorization_endpoint: Url,
    pub(super) token_endpoint: Url,
    pub(super) userinfo_endpoint: Option<Url>,
    jwks_uri: Url,
    /// Whether every answer has `iss` (RFC 9207 §3).
    pub(super) iss_in_answers: bool,
    /// Whether the client's secret goes into the body, since it takes it no other way.
    pub(super) secret_in_body: bool,
    /// Whether `offline_access` is one of its scopes.
    pub(super) has_offline_scope: bool,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    userinfo_endpoint: Option<String>,
    jwks_uri: String,
    #[serde(default)]
    scopes_supported: Vec<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    code_challenge_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl Providers {
    /// What the provider behind an issuer says of itself. An outage of its document stops nobody who came before.
    pub(super) async fn metadata(&self, issuer: &str) -> Result<std::sync::Arc<Metadata>, Failure> {
        let address = format!(
            "{}/.well-known/openid-configuration",
            issuer.strip_suffix('/').unwrap_or(issuer)
        );
        let url = Url::parse(&address).map_err(|_| Failure::wrong("the issuer is not a URL"))?;
        let found = self
            .metadata
            .get(&url, Patience::LENIENT, |body| read(issuer, body))
            .await;
        found
            .map(|found| found.value)
            .map_err(|failure| of_fetch("its configuration", &failure))
    }

    /// The claims of a token that the provider signed.
    pub(super) async fn verified(&self, metadata: &Metadata, token: &Token<'_>) -> Result<Claims, Failure> {
        let keys = self.keys_of(metadata, token.key_id()).await?;
        token
            .verify(&keys, &crate::jose::Algorithm::ALL)
            .map_err(|error| Failure::wrong(format!("its token does not hold: {error}")))
    }

    /// Its keys. Where the one is missing that a token names they are fetched once more, at most once in a minute.
    async fn keys_of(&self, metadata: &Metadata, id: Option<&str>) -> Result<std::sync::Arc<KeySet>, Failure> {
        let url = &metadata.jwks_uri;
        let failed = |failure: fetch::Failure| of_fetch("its keys", &failure);
        let keys = self
            .keys
            .get(url, Patience::STRICT, read_keys)
            .await
            .map_err(failed)?
            .value;
        if id.is_none_or(|id| keys.names(id)) {
            return Ok(keys);
        }
        let again = self.keys.get(url, Patience::STRICT.but_new(), read_keys).await;
        Ok(again.map_err(failed)?.value)
    }
}

/// Whether a token is for us: `aud` has our client id and, where others are in it too, `azp` names us (OpenID Connect Core
/// §3.1.3.7); and it is its time.
pub(super) fn check_claims(
    claims: &Claims,
    issuer: &str,
    client_id: &str,
    now: Timestamp,
    longest: std::time::Duration,
) -> Result<(), Failure> {
    let wrong = |what: &str| Err(Failure::wrong(format!("its token does not hold: {what}")));
    if claims.text("iss") != Some(issuer) {
        return wrong("iss is another issuer");
    }
    let audiences: Vec<&str> = match claims.get("aud") {
        Some(serde_json::Value::String(one)) => vec![one],
        Some(serde_json::Value::Array(many)) => many.iter().filter_map(serde_json::Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !audiences.contains(&client_id) {
        return wrong("aud is somebody else");
    }
    let party = claims.get("azp");
    if (audiences.len() > 1 || party.is_some()) && party.and_then(serde_json::Value::as_str) != Some(client_id) {
        return wrong("azp is somebody else");
    }
    if !matches!(claims.issued_at(), Ok(Some(_))) {
        return wrong("iat is missing");
    }
    match claims.check_life(now, longest) {
        Ok(_) => Ok(()),
        Err(error) => wrong(&error.to_string()),
    }
}

fn read_keys(body: &[u8]) -> Result<KeySet, String> {
    let value = serde_json::from_slice(body).map_err(|_| "it is not JSON".to_owned())?;
    KeySet::parse(&value).map_err(|error| error.to_string())
}

/// A document that is about this issuer and names everything that is needed, none of it less protected than the issuer.
fn read(issuer: &str, body: &[u8]) -> Result<Metadata, String> {
    let document: Document = serde_json::from_slice(body).map_err(|_| {
        "it is not a provider's configuration with issuer, authorization_endpoint, token_endpoint and jwks_uri"
            .to_owned()
    })?;
    // §4.3: a document that is about another issuer is that of somebody who wants to be taken for this one.
    if document.issuer != issuer {
        return Err("it is about another issuer than the one that is configured".to_owned());
    }
    let plain = issuer.starts_with("http://");
    let endpoint = |name: &str, text: &str| {
        Url::parse(text)
            .ok()
            .filter(|url| url.has_host() && (url.scheme() == "https" || (plain && url.scheme() == "http")))
            .filter(|url| url.fragment().is_none() && url.username().is_empty() && url.password().is_none())
            .ok_or_else(|| format!("its {name} is not an https URL"))
    };
    if let Some(methods) = &document.code_challenge_methods_supported
        && !methods.iter().any(|method| method == "S256")
    {
        return Err("it has PKCE, but not with S256".to_owned());
    }
    let methods = document.token_endpoint_auth_methods_supported.unwrap_or_default();
    let takes = |name: &str| methods.iter().any(|method| method == name);
    Ok(Metadata {
        authorization_endpoint: endpoint("authorization_endpoint", &document.authorization_endpoint)?,
        token_endpoint: endpoint("token_endpoint", &document.token_endpoint)?,
        userinfo_endpoint: document
            .userinfo_endpoint
            .map(|text| endpoint("userinfo_endpoint", &text))
            .transpose()?,
        jwks_uri: endpoint("jwks_uri", &document.jwks_uri)?,
        iss_in_answers: document.authorization_response_iss_parameter_supported,
        secret_in_body: takes("client_secret_post") && !takes("client_secret_basic"),
        has_offline_scope: document.scopes_supported.iter().any(|scope| scope == "offline_access"),
    })
}

fn of_fetch(what: &'static str, failure: &fetch::Failure) -> Failure {
    match failure {
        fetch::Failure::Fetch(error) => Failure::unreachable(what)(*error),
        fetch::Failure::Invalid(why) => Failure::wrong(format!("{what}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ISSUER: &str = "https://idp.example";

    fn document(change: impl Fn(&mut Value)) -> Result<Metadata, String> {
        let mut document = json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://idp.example/authorize",
            "token_endpoint": "https://idp.example/token",
            "jwks_uri": "https://keys.idp.example/jwks",
        });
        change(&mut document);
        read(ISSUER, document.to_string().as_bytes())
    }

    /// Spec: E9
    #[test]
    fn a_configuration_is_about_its_issuer_and_protects_as_it_does() {
        let plain = document(|_| {}).unwrap();
        assert!(!plain.iss_in_answers && !plain.secret_in_body && plain.userinfo_endpoint.is_none());
        for (member, value) in [
            ("issuer", json!("https://idp.example/")),
            ("issuer", json!("https://IDP.example")),
            ("token_endpoint", json!("http://127.0.0.1/token")),
            ("jwks_uri", json!("file:///etc/passwd")),
            ("authorization_endpoint", json!("javascript:alert(1)")),
            ("authorization_endpoint", json!("https://idp.example/a#b")),
            ("userinfo_endpoint", json!("http://idp.example/me")),
            ("code_challenge_methods_supported", json!(["plain"])),
            ("jwks_uri", Value::Null),
        ] {
            let changed = document(|document| document[member] = value.clone());
            assert!(changed.is_err(), "{member} {value}");
        }
        let post =
            document(|document| document["token_endpoint_auth_methods_supported"] = json!(["client_secret_post"]));
        assert!(post.unwrap().secret_in_body);
        assert!(read(ISSUER, b"{").is_err());
    }
}
