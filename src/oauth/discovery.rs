//! What clients read before anything else: the authorization server's metadata (RFC 8414) and one document per protected
//! resource (RFC 9728). Both say what is true of this configuration and nothing else: a member without a value is left
//! out, because clients refuse `null` and take an empty list for an answer.

use http::header::{self, HeaderValue};
use http::{Request, StatusCode};
use serde::Serialize;

use super::token::GRANTS;
use super::{Answer, Call, Endpoints, dpop, not_found, openid, web};
use crate::config::{Config, RootResource, Upstream};
use crate::domain::client::ClientAuthMethod;
use crate::domain::key::Algorithm;
use crate::domain::scope::{OFFLINE_ACCESS, Scope};

/// Short enough that a changed configuration is soon known, long enough for one connection's repeated look-ups.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// The grant profile of identity assertions.
const ID_JAG: &str = "urn:ietf:params:oauth:grant-profile:id-jag";

/// RFC 8414 §2.
#[derive(Serialize)]
struct AuthorizationServer<'a> {
    issuer: &'a str,
    authorization_endpoint: String,
    token_endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    registration_endpoint: Option<String>,
    revocation_endpoint: String,
    revocation_endpoint_auth_methods_supported: Vec<&'static str>,
    revocation_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes_supported: Vec<String>,
    response_types_supported: [&'static str; 1],
    response_modes_supported: [&'static str; 1],
    grant_types_supported: Vec<&'static str>,
    token_endpoint_auth_methods_supported: Vec<&'static str>,
    token_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    code_challenge_methods_supported: [&'static str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization_response_iss_parameter_supported: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id_metadata_document_supported: Option<bool>,
    introspection_endpoint: String,
    introspection_endpoint_auth_methods_supported: Vec<&'static str>,
    introspection_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    /// RFC 8628 §4.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_authorization_endpoint: Option<String>,
    /// RFC 9126 §5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pushed_authorization_request_endpoint: Option<String>,
    /// RFC 9449 §5.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    dpop_signing_alg_values_supported: Option<[&'static str; 5]>,
    /// MCP's enterprise-managed authorization.
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization_grant_profiles_supported: Option<[&'static str; 1]>,
    /// RFC 9728 §4.
    protected_resources: Vec<&'a str>,
    jwks_uri: String,
    #[serde(flatten)]
    openid: Option<OpenId>,
}

/// OpenID Connect Discovery §3.
#[derive(Serialize)]
struct OpenId {
    userinfo_endpoint: String,
    subject_types_supported: [&'static str; 1],
    id_token_signing_alg_values_supported: [&'static str; 2],
    claims_supported: [&'static str; 14],
    prompt_values_supported: [&'static str; 4],
    claims_parameter_supported: bool,
    request_parameter_supported: bool,
    request_uri_parameter_supported: bool,
}

/// RFC 9728 §2.
#[derive(Serialize)]
struct ProtectedResource<'a> {
    resource: String,
    authorization_servers: [&'a str; 1],
    bearer_methods_supported: [&'static str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    dpop_signing_alg_values_supported: Option<[&'static str; 5]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes_supported: Vec<String>,
    resource_name: &'a str,
}

/// RFC 8414 §3: the one issuer's metadata, also under the path of any upstream, where clients that insert or append the
/// MCP path look for it. Nowhere else: a document for a path that is nothing would send a client the wrong way.
#[must_use]
pub fn authorization_server(at: &Endpoints, call: &Call<'_>) -> Answer {
    if is_ours(&at.config, call.about) {
        metadata(&at.config)
    } else {
        not_found()
    }
}

/// OpenID Connect Discovery §4: the same document, where OpenID Connect is offered. Clients look for it when they do not
/// find the other, and some even when they do.
#[must_use]
pub fn openid_configuration(at: &Endpoints, call: &Call<'_>) -> Answer {
    if openid::is_on(&at.config) && is_ours(&at.config, call.about) {
        metadata(&at.config)
    } else {
        not_found()
    }
}

/// Whether a document about this path is the issuer's: the bare path, or that of an upstream.
fn is_ours(config: &Config, about: &str) -> bool {
    let about = without_slash(about);
    about.is_empty() || config.upstreams.iter().any(|upstream| upstream.path == about)
}

fn metadata(config: &Config) -> Answer {
    let methods = ClientAuthMethod::ALL.map(ClientAuthMethod::as_str);
    let algorithms = Algorithm::ALL.map(Algorithm::as_str);
    let authenticated: Vec<_> = methods.iter().copied().filter(|method| *method != "none").collect();
    let openid = openid::is_on(config);
    let device = config.oauth.grants.device_code;
    let pushed = config.oauth.pushed_authorization_requests;
    document(&AuthorizationServer {
        issuer: &config.public_url.origin,
        authorization_endpoint: config.endpoint("/authorize"),
        token_endpoint: config.endpoint("/token"),
        registration_endpoint: config.oauth.dynamic_registration.then(|| config.endpoint("/register")),
        revocation_endpoint: config.endpoint("/revoke"),
        revocation_endpoint_auth_methods_supported: methods.to_vec(),
        revocation_endpoint_auth_signing_alg_values_supported: algorithms.to_vec(),
        scopes_supported: names(&config.all_scopes()),
        response_types_supported: ["code"],
        response_modes_supported: ["query"],
        grant_types_supported: GRANTS
            .iter()
            .filter(|grant| grant.is_on(config))
            .map(|grant| grant.grant_type().as_str())
            .collect(),
        token_endpoint_auth_methods_supported: methods.to_vec(),
        token_endpoint_auth_signing_alg_values_supported: algorithms.to_vec(),
        code_challenge_methods_supported: ["S256"],
        authorization_response_iss_parameter_supported: config.oauth.issuer_in_response.then_some(true),
        client_id_metadata_document_supported: config.oauth.client_documents.as_ref().map(|_| true),
        introspection_endpoint: config.endpoint("/introspect"),
        introspection_endpoint_auth_methods_supported: authenticated,
        introspection_endpoint_auth_signing_alg_values_supported: algorithms.to_vec(),
        device_authorization_endpoint: device.then(|| config.endpoint("/device_authorization")),
        pushed_authorization_request_endpoint: pushed.then(|| config.endpoint("/par")),
        dpop_signing_alg_values_supported: config.oauth.dpop.then(dpop::algorithms),
        authorization_grant_profiles_supported: (!config.oauth.trusted_issuers.is_empty()).then_some([ID_JAG]),
        protected_resources: config
            .upstreams
            .iter()
            .map(|upstream| upstream.resource.as_str())
            .collect(),
        jwks_uri: config.endpoint("/jwks.json"),
        openid: openid.then(|| OpenId {
            userinfo_endpoint: config.endpoint("/userinfo"),
            subject_types_supported: ["public"],
            id_token_signing_alg_values_supported: Algorithm::OURS.map(Algorithm::as_str),
            claims_supported: openid::CLAIMS,
            prompt_values_supported: ["none", "login", "consent", "select_account"],
            claims_parameter_supported: false,
            request_parameter_supported: false,
            request_uri_parameter_supported: false,
        }),
    })
}

/// RFC 9728 §3: the document of one upstream.
#[must_use]
pub fn protected_resource(at: &Endpoints, call: &Call<'_>) -> Answer {
    let config = &at.config;
    let Some(upstream) = described(config, without_slash(call.about), host(call.request).as_deref()) else {
        return not_found();
    };
    // A client that was given the URL with a slash at its end compares with that (§3.3); tokens canonicalise anyway.
    let slash = call.about.strip_suffix('/').is_some_and(|path| path == upstream.path);
    document(&ProtectedResource {
        resource: format!("{}{}", upstream.resource, if slash { "/" } else { "" }),
        authorization_servers: [&config.public_url.origin],
        bearer_methods_supported: ["header"],
        dpop_signing_alg_values_supported: config.oauth.dpop.then(dpop::algorithms),
        // How to stay connected is between client and authorization server; the resource never needs it.
        scopes_supported: names(&upstream.scopes.filtered(|token| token.as_str() != OFFLINE_ACCESS)),
        resource_name: &upstream.name,
    })
}

/// The upstream that a path stands for. Of several with one path, `Host` decides; an upstream with a host of its own is
/// described there alone. The bare path is an upstream mounted at the root, else whatever `oauth.root_resource` names.
fn described<'a>(config: &'a Config, path: &str, host: Option<&str>) -> Option<&'a Upstream> {
    let named = matches!(config.oauth.root_resource, RootResource::Named(_));
    let root = || {
        config
            .root_upstream()
            .filter(|upstream| path.is_empty() && (upstream.host.is_none() || is_on(upstream, host)))
    };
    let here = config.upstreams.iter().filter(|upstream| upstream.path == path);
    here.clone()
        .find(|upstream| is_on(upstream, host))
        .or_else(|| root().filter(|_| named))
        .or_else(|| here.clone().find(|upstream| upstream.host.is_none()))
        .or_else(root)
}

/// Whether an upstream has a host of its own and this is it. A configured host without a port means any port.
fn is_on(upstream: &Upstream, host: Option<&str>) -> bool {
    let (Some(own), Some(host)) = (upstream.host.as_deref(), host) else {
        return false;
    };
    let bare = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    own == host || bare.is_some_and(|(name, _)| own == name)
}

/// The host that a request names, in lower case: `Host`, or the target's authority in HTTP/2.
fn host<T>(request: &Request<T>) -> Option<String> {
    let named = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    named
        .or_else(|| request.uri().authority().map(http::uri::Authority::as_str))
        .map(str::to_ascii_lowercase)
}

fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

fn names(scope: &Scope) -> Vec<String> {
    scope.iter().map(ToString::to_string).collect()
}

fn document(body: &impl Serialize) -> Answer {
    let mut answer = web::json(StatusCode::OK, body);
    answer.headers_mut().insert(header::CACHE_CONTROL, CACHE_CONTROL);
    answer
}
