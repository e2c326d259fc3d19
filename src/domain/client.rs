//! OAuth clients: RFC 6749 §2 and the metadata of RFC 7591 §2.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

use super::clock::Timestamp;
use super::key::Algorithm;
use super::scope::Scope;
use super::secret::{SecretHash, random_bytes};
use super::uri::{RedirectUri, is_loopback};

/// Stands for whatever a personal access token is used by.
const PERSONAL_TOKEN: &str = "personal-access-token";
/// Longest client id that we look up.
const MAX_ID_LENGTH: usize = 512;

/// A client identifier (RFC 6749 §2.2): visible ASCII.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientId(String);

/// How a client shows at the token endpoint that it is itself (RFC 7591 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMethod {
    /// A public client: it cannot keep a secret.
    None,
    /// HTTP Basic.
    ClientSecretBasic,
    /// In the form.
    ClientSecretPost,
    /// An assertion signed with a key of its own (RFC 7523 §2.2).
    PrivateKeyJwt,
}

/// What a client may present at the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// RFC 6749 §4.1.
    AuthorizationCode,
    /// RFC 6749 §6.
    RefreshToken,
    /// RFC 6749 §4.4: for itself.
    ClientCredentials,
    /// RFC 8628.
    DeviceCode,
    /// RFC 7523 §2.1, with an identity assertion of a trusted issuer.
    JwtBearer,
    /// RFC 8693.
    TokenExchange,
}

/// How a client became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientOrigin {
    /// Listed in gateway.yaml.
    Configured,
    /// It registered itself (RFC 7591).
    Registered,
    /// Its id is the address of its metadata document.
    Document,
}

/// A client as the rules see it: everything in it has been checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its identifier.
    pub id: ClientId,
    /// How it became known.
    pub origin: ClientOrigin,
    /// SHA-256 of its secret; none for a public client.
    pub secret: Option<SecretHash>,
    /// The method that it registered; `None` if it never said and may use Basic or the form.
    pub auth_method: Option<ClientAuthMethod>,
    /// The keys that it signs assertions with, if it has any. With a method other than `private_key_jwt` it may
    /// authenticate so and need not: metadata documents may list several methods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<ClientKeys>,
    /// Where codes may be sent.
    pub redirect_uris: Vec<RedirectUri>,
    /// What it may present at the token endpoint.
    pub grant_types: Vec<GrantType>,
    /// The scopes that it registered for; `None` for any.
    pub scope: Option<Scope>,
    /// What it calls itself. Anybody may write anything here: for display only, as text.
    pub name: Option<String>,
    /// Registered metadata that is handed back and never used (RFC 7591 §3.2.1).
    pub display: ClientDisplay,
    /// How its ID tokens are signed; RS256 if it never said (OpenID Connect Registration §2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_token_algorithm: Option<Algorithm>,
    /// Whether all its tokens have to be bound to a key (RFC 9449 §5.2).
    #[serde(default)]
    pub key_bound: bool,
    /// What whoever runs the gateway allows it besides.
    #[serde(default)]
    pub permissions: Permissions,
    /// SHA-256 of the token with which it may change its registration (RFC 7592 §3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_token: Option<SecretHash>,
    /// When it became known.
    pub created_at: Timestamp,
}

/// The public keys of a client (RFC 7591 §2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientKeys {
    /// Where they are.
    pub source: KeySource,
    /// The one algorithm that it signs with (`token_endpoint_auth_signing_alg`); `None` for any that we honour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
}

/// Where public keys are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// Here: a JSON Web Key Set as text (RFC 7517 §5), `jwks`.
    Inline(String),
    /// At this address, `jwks_uri`.
    At(String),
}

/// What the configuration allows a client that nobody could ask for by registering.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Permissions {
    /// The upstreams that it may get tokens for, by name; `None` for all.
    pub upstreams: Option<Vec<String>>,
    /// The upstreams whose tokens it may introspect, by name, besides its own tokens (RFC 7662 §2.1).
    pub introspects: Vec<String>,
}

/// Metadata about a client's makers; handed back, never fetched and never linked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientDisplay {
    /// Home page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_uri: Option<String>,
    /// Logo; never loaded by our pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logo_uri: Option<String>,
    /// Terms of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<String>,
    /// Privacy policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<String>,
    /// E-mail addresses of the makers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<String>,
    /// RFC 7591 §2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software_id: Option<String>,
    /// RFC 7591 §2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software_version: Option<String>,
    /// The scopes that it named and that exist; what it gets is for its person to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// OpenID Connect Registration §2: `web` or `native`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_type: Option<String>,
}

// === impl ClientId ===

impl ClientId {
    /// Whose id personal access tokens have. It is nobody's: ids of registered clients are made here, those of documents
    /// are addresses, and the configuration may not use it.
    #[must_use]
    pub fn personal_token() -> Self {
        Self(PERSONAL_TOKEN.to_owned())
    }

    /// Whether it is that.
    #[must_use]
    pub fn is_personal_token(&self) -> bool {
        self.0 == PERSONAL_TOKEN
    }

    /// An identifier for a client that registers itself; never begins with `https://`, which would make it a metadata
    /// document's address.
    #[must_use]
    pub fn generate() -> Self {
        use base64::Engine as _;
        Self(format!(
            "mgc_{}",
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random_bytes::<16>())
        ))
    }

    /// Takes an identifier from outside; `None` if it could not be anybody's.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fine = (1..=MAX_ID_LENGTH).contains(&text.len()) && text.bytes().all(|b| (0x21..0x7f).contains(&b));
        fine.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ClientAuthMethod ===

impl ClientAuthMethod {
    /// Every method that we know, in the order in which discovery names them.
    pub const ALL: [Self; 4] = [
        Self::None,
        Self::ClientSecretPost,
        Self::ClientSecretBasic,
        Self::PrivateKeyJwt,
    ];

    /// The registered name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretPost => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
        }
    }

    /// Reads the registered name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == text)
    }
}

// === impl GrantType ===

impl GrantType {
    /// Every grant type that we know.
    pub const ALL: [Self; 6] = [
        Self::AuthorizationCode,
        Self::RefreshToken,
        Self::ClientCredentials,
        Self::DeviceCode,
        Self::JwtBearer,
        Self::TokenExchange,
    ];

    /// The registered name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::ClientCredentials => "client_credentials",
            Self::DeviceCode => "urn:ietf:params:oauth:grant-type:device_code",
            Self::JwtBearer => "urn:ietf:params:oauth:grant-type:jwt-bearer",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
        }
    }

    /// Reads the registered name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant| grant.as_str() == text)
    }
}

// === impl Client ===

impl Client {
    /// Stands where a client stands while a page of ours asks somebody to sign in. No such client is on record, so it can
    /// get no code and no token.
    #[must_use]
    pub fn own_page() -> Self {
        Self {
            id: ClientId("mcpgate".to_owned()),
            origin: ClientOrigin::Configured,
            secret: None,
            auth_method: Some(ClientAuthMethod::None),
            keys: None,
            redirect_uris: Vec::new(),
            grant_types: Vec::new(),
            scope: None,
            name: None,
            display: ClientDisplay::default(),
            id_token_algorithm: None,
            key_bound: false,
            permissions: Permissions::default(),
            registration_token: None,
            created_at: Timestamp::from_millis(0),
        }
    }

    /// Whether it can keep a secret, and has to show that it does.
    #[must_use]
    pub const fn is_confidential(&self) -> bool {
        self.secret.is_some() || self.signs()
    }

    /// Whether it has to sign to authenticate.
    #[must_use]
    pub const fn signs(&self) -> bool {
        matches!(self.auth_method, Some(ClientAuthMethod::PrivateKeyJwt))
    }

    /// What stands for the redirect URIs and keys of a metadata document: its site may change them at any time, and a
    /// person who allowed the one has not allowed the other. `None` for clients that cannot change by themselves.
    #[must_use]
    pub fn edition(&self) -> Option<SecretHash> {
        if self.origin != ClientOrigin::Document {
            return None;
        }
        let mut uris: Vec<&str> = self.redirect_uris.iter().map(RedirectUri::as_str).collect();
        uris.sort_unstable();
        let keys = match self.keys.as_ref().map(|keys| &keys.source) {
            None => "",
            Some(KeySource::Inline(text) | KeySource::At(text)) => text,
        };
        // Neither has a line break in it: URIs are visible ASCII, and JSON escapes it.
        Some(SecretHash::of(&format!("{}\n\n{keys}", uris.join("\n"))))
    }

    /// Whether every redirect URI of it leads to the computer that the browser is on.
    #[must_use]
    pub fn is_loopback_only(&self) -> bool {
        let loopback = |uri: &RedirectUri| Url::parse(uri.as_str()).is_ok_and(|url| is_loopback(&url));
        self.redirect_uris.iter().all(loopback)
    }

    /// Whether it may present this grant.
    #[must_use]
    pub fn may_use(&self, grant: GrantType) -> bool {
        self.grant_types.contains(&grant)
    }

    /// The redirect target for a presented `redirect_uri`, if a registered one matches (RFC 6749 §3.1.2.3). The result
    /// is proof that errors may be sent there.
    #[must_use]
    pub fn redirect_target(&self, presented: &str) -> Option<RedirectTarget> {
        self.redirect_uris
            .iter()
            .any(|registered| registered.matches(presented))
            .then(|| RedirectTarget(presented.to_owned()))
    }
}

impl Client {
    /// The registered redirect URI that a target was matched by: the same for every loopback port.
    #[must_use]
    pub fn registered_for(&self, target: &RedirectTarget) -> RedirectTarget {
        let registered = self
            .redirect_uris
            .iter()
            .find(|registered| registered.matches(&target.0));
        registered.map_or_else(|| target.clone(), |uri| RedirectTarget(uri.as_str().to_owned()))
    }
}

/// A redirect URI that was matched against its client's registration: only then may anything be sent to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RedirectTarget(String);

impl RedirectTarget {
    /// A page of this gateway: where requests lead that have no client to be sent back to (RFC 8628 §3.3).
    #[must_use]
    pub const fn page_of_ours(url: String) -> Self {
        Self(url)
    }

    /// The URI exactly as the request had it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
