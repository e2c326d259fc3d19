//! Floor 1: the configuration after checking. Whoever holds a [`Config`] holds one that makes sense: every secret was
//! read, every name is unique, every route is distinct. [`load`] is the only way to one.

mod audit;
mod check;
mod client_keys;
mod difference;
mod endpoint_limits;
mod files;
mod grants;
mod headers;
mod keys;
mod limits;
mod listen;
mod login_page;
mod oauth;
mod people;
mod presets;
mod problems;
mod providers;
mod read;
mod rules;
mod tls;
mod upstreams;
mod urls;
mod values;
mod yaml;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::domain::client::Client;
use crate::domain::network::Networks;
use crate::domain::rules::Rules;
use crate::domain::scope::{OFFLINE_ACCESS, Scope, ScopeToken};
use crate::domain::secret::SecretHash;
use crate::domain::uri::{HostPattern, Resource};
use crate::domain::user::User;

pub use check::{Administration, administration, load, parse};
pub use endpoint_limits::{Counted, EndpointLimit, EndpointLimits, LIMITS};
pub use files::ReadFile;
pub use keys::known_keys;
pub use limits::Limits;
pub use problems::{Problem, Problems};
pub use providers::{Allowed, ClaimNames, IdentityProvider, Manners, Protocol};
pub use tls::{Certificate, ListenerTls, UpstreamTls};

/// The whole of gateway.yaml.
#[derive(Clone, Debug)]
pub struct Config {
    /// The issuer, and the base of every URL that the gateway hands out.
    pub public_url: PublicUrl,
    /// Where it accepts connections; at least one.
    pub listen: Vec<Listener>,
    /// Proxies in front, whose word on where a request comes from counts.
    pub trusted_proxies: Networks,
    /// Whether changes of the files are taken without being asked to.
    pub watch_files: bool,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub admin: SocketAddr,
    /// What whoever administers the gateway shows there; without one, nothing can be seen of people and nothing changed.
    pub admin_token: Option<SecretHash>,
    /// Where what matters for security is written down, if anywhere.
    pub audit: Option<AuditConfig>,
    /// Where the state lives.
    pub store: StoreConfig,
    /// The authorization server's rules.
    pub oauth: OAuthConfig,
    /// What the consent page says about scopes, and who may have them.
    pub scopes: Vec<ScopeInfo>,
    /// The built-in accounts that are written down; others may be in the store.
    pub users: Vec<Account>,
    /// Whether those who sign in with a password here show something besides it.
    pub second_factor: SecondFactor,
    /// Where people sign in who have their account elsewhere.
    pub identity_providers: Vec<IdentityProvider>,
    /// The MCP servers behind the gateway; at least one.
    pub upstreams: Vec<Upstream>,
    /// Certificates of authorities that are trusted besides the system's, where the gateway itself asks others.
    pub outbound_roots: Vec<CertificateDer<'static>>,
    /// The files that all of this was read from: gateway.yaml, certificates, keys, secrets.
    pub files: Vec<ReadFile>,
}

/// `audit`.
#[derive(Clone, PartialEq, Eq)]
pub struct AuditConfig {
    /// Where the lines go.
    pub to: AuditTo,
    /// What their hashes are made with, so that nobody without it can make them anew.
    pub key: Option<Zeroizing<String>>,
}

/// Where an audit log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditTo {
    /// In this file.
    File(PathBuf),
    /// On standard output.
    Stdout,
}

/// `accounts.second_factor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecondFactor {
    /// Nobody is asked for one.
    Off,
    /// Whoever has set one up is asked for it.
    #[default]
    Optional,
    /// Whoever has none sets one up when signing in.
    Required,
}

/// `public_url`: an origin without a path or a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    /// `https://mcp.example.com`: the issuer identifier, byte for byte, wherever one is wanted (RFC 8414 §2).
    pub origin: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host name or address, IPv6 in brackets, lower case.
    pub host: String,
    /// The port, if it is not the scheme's own.
    pub port: Option<u16>,
    /// Whether the host is this machine: only then may the scheme be http, and do cookies go without `Secure`.
    pub loopback: bool,
}

/// One public listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// Certificates and protocols, for TLS.
    pub tls: Option<ListenerTls>,
    /// Whether every connection begins with a PROXY header, from one of [`Config::trusted_proxies`].
    pub proxy_protocol: bool,
}

/// `store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// The embedded database in this directory.
    Sled {
        /// Made if it is missing.
        path: PathBuf,
    },
}

/// `oauth`.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the file")]
pub struct OAuthConfig {
    /// Scopes that exist for every upstream.
    pub scopes: Scope,
    /// Lifetime of an authorization code.
    pub code_expires_in: Duration,
    /// Lifetime of an access token.
    pub access_token_expires_in: Duration,
    /// Lifetime of a refresh token; each rotation begins a new one.
    pub refresh_token_expires_in: Duration,
    /// Whether confidential clients need PKCE too. Public clients always do.
    pub require_pkce: bool,
    /// How long a rotated refresh token gets its successor again.
    pub refresh_grace: Duration,
    /// Whether `iss` is sent and announced (RFC 9207).
    pub issuer_in_response: bool,
    /// A path under which the endpoints answer too and are advertised; empty, or `/…` without a trailing slash.
    pub endpoint_prefix: String,
    /// Which upstream the path-less protected-resource document names.
    pub root_resource: RootResource,
    /// The page where people sign in, if it is not ours.
    pub login_page: Option<LoginPage>,
    /// Whether clients may register themselves (RFC 7591).
    pub dynamic_registration: bool,
    /// Where metadata documents of clients may be; `None` if no client id is the address of one.
    pub client_documents: Option<ClientHosts>,
    /// Hosts that https redirect URIs of clients may name which nobody wrote down here.
    pub allowed_redirect_hosts: Vec<HostPattern>,
    /// Private-use schemes that they may have.
    pub allowed_redirect_schemes: Vec<String>,
    /// Tokens of which a registration needs one; nobody needs any if there are none.
    pub initial_access_tokens: Vec<SecretHash>,
    /// Clients known in advance.
    pub clients: Vec<Client>,
    /// The grants that can be switched.
    pub grants: Grants,
    /// Whether clients may push authorization requests (RFC 9126).
    pub pushed_authorization_requests: bool,
    /// Whether people may make access tokens for programs of theirs.
    pub personal_access_tokens: bool,
    /// Whether tokens may be bound to keys (RFC 9449).
    pub dpop: bool,
    /// Whose identity assertions are taken (ID-JAG); without any, that grant is off.
    pub trusted_issuers: Vec<TrustedIssuer>,
    /// How often one address may call each endpoint.
    pub limits: EndpointLimits,
}

/// `oauth.login_page`, where it is not `builtin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginPage {
    /// Where browsers are sent.
    pub url: String,
    /// What its server shows when it says who has signed in.
    pub secret: SecretHash,
}

/// `oauth.grants`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grants {
    /// RFC 6749 §4.4, for clients of this file that have a credential.
    pub client_credentials: bool,
    /// RFC 8628.
    pub device_code: bool,
    /// RFC 8693, for clients of this file that name it.
    pub token_exchange: bool,
}

/// An entry of `oauth.trusted_issuers`: an identity provider whose assertions stand for a sign-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedIssuer {
    /// `iss`, byte for byte.
    pub issuer: String,
    /// Its public keys.
    pub keys: IssuerKeys,
    /// How its people are found among ours.
    pub users_by: UsersBy,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerKeys {
    /// In a file, read when the configuration was.
    Inline(serde_json::Value),
    /// Behind an https URL.
    Uri(String),
}

/// How a person of another issuer is found among the accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsersBy {
    /// The claim `email` is the account's e-mail address.
    Email,
    /// The claim `sub` is the account's username.
    Subject,
}

/// Whose metadata documents count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHosts {
    /// Hosts that their addresses may name.
    pub allowed: Vec<HostPattern>,
    /// Hosts that they may not name, even if they are on the other list.
    pub denied: Vec<HostPattern>,
}

/// `oauth.root_resource`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootResource {
    /// The only upstream; none if there are several.
    Auto,
    /// None.
    None,
    /// The upstream of this name.
    Named(String),
}

/// An entry of `scopes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeInfo {
    /// The scope.
    pub name: ScopeToken,
    /// What the consent page says it allows.
    pub description: Option<String>,
    /// Only members of these may be granted it; `None` for everyone.
    pub groups: Option<Vec<String>>,
    /// The scopes that it comes with, and those that they come with: a closure, made when the file is read.
    pub implies: Scope,
}

/// An entry of `users`.
#[derive(Clone)]
pub struct Account {
    /// Who it is.
    pub user: User,
    /// An argon2 PHC string.
    pub password_hash: Zeroizing<String>,
}

/// An entry of `upstreams`.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Label in metrics and logs.
    pub name: String,
    /// The public path: begins with `/`, has no trailing slash; empty for the root.
    pub path: String,
    /// `host` or `host:port` in lower case, if it is routed by Host as well.
    pub host: Option<String>,
    /// What clients know it as: the public URL of the path.
    pub resource: Resource,
    /// Where it really is.
    pub url: UpstreamUrl,
    /// Needed, all of them, for any use of it.
    pub scopes: Scope,
    /// What the use of some of its tools, resources, prompts and methods needs besides.
    pub rules: Rules,
    /// Whether its lists are without what their reader may not use.
    pub filter_lists: bool,
    /// What it is told about the caller.
    pub identity_headers: Vec<(HeaderName, Claim)>,
    /// The same in a form that it can verify.
    pub identity_jwt: Option<IdentityJwt>,
    /// Sent on every request; values are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Browser origins besides our own; `*` for any.
    pub allowed_origins: Vec<String>,
    /// Whether a session is good only for the person and the client that began it.
    pub bind_sessions: bool,
    /// After how much silence an event stream gets a comment; `None` for never.
    pub keep_alive: Option<Duration>,
    /// Its limits.
    pub limits: Limits,
    /// How it is known, and how we are known there, where it is https.
    pub tls: UpstreamTls,
    /// Whether it is spoken to in HTTP/2, if it can.
    pub http2: bool,
}

/// The MCP endpoint of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// Whether it is https.
    pub tls: bool,
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What its `Host` header says: with the port where it is not the scheme's own.
    pub authority: String,
    /// Path of the MCP endpoint, at least `/`.
    pub path: String,
}

/// What an identity header can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// The stable identifier.
    Subject,
    /// The username.
    Username,
    /// The e-mail address.
    Email,
    /// The full name.
    Name,
    /// The groups, comma-separated.
    Groups,
    /// The granted scopes, space-separated.
    Scope,
    /// The OAuth client's id.
    ClientId,
}

/// `upstreams[].identity_jwt`: a signed statement of who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityJwt {
    /// The header that carries it.
    pub header: HeaderName,
    /// Whom it is for, if not the upstream by its public URL.
    pub audience: Option<String>,
    /// How long it is good.
    pub lifetime: Duration,
}

/// The default map of contract §4: header and claim.
pub const DEFAULT_IDENTITY_HEADERS: [(HeaderName, Claim); 6] = [
    (HeaderName::from_static("x-forwarded-user"), Claim::Subject),
    (
        HeaderName::from_static("x-forwarded-preferred-username"),
        Claim::Username,
    ),
    (HeaderName::from_static("x-forwarded-email"), Claim::Email),
    (HeaderName::from_static("x-forwarded-groups"), Claim::Groups),
    (HeaderName::from_static("x-forwarded-scope"), Claim::Scope),
    (HeaderName::from_static("x-forwarded-client-id"), Claim::ClientId),
];

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl ClientHosts {
    /// Whether a host is on the one list and not on the other.
    #[must_use]
    pub fn welcome(&self, host: &str) -> bool {
        let among = |list: &[HostPattern]| list.iter().any(|pattern| pattern.matches(host));
        among(&self.allowed) && !among(&self.denied)
    }
}

impl Upstream {
    /// The scopes that it needs for any use, and those that its rules name.
    #[must_use]
    pub fn all_scopes(&self) -> Scope {
        self.scopes.union(&self.rules.scopes())
    }
}

impl PublicUrl {
    /// An absolute URL below the public one.
    #[must_use]
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// `host` or `host:port`, as a `Host` header has it.
    #[must_use]
    pub fn authority(&self) -> String {
        self.port
            .map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host))
    }
}

impl Config {
    /// Every certificate that the gateway shows, to clients and to upstreams.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        let listeners = self.listen.iter().filter_map(|listener| listener.tls.as_ref());
        let upstreams = self
            .upstreams
            .iter()
            .filter_map(|upstream| upstream.tls.certificate.as_ref());
        listeners.flat_map(|tls| &tls.certificates).chain(upstreams)
    }

    /// The upstream that this resource is the public URL of.
    #[must_use]
    pub fn upstream_for(&self, resource: &Resource) -> Option<&Upstream> {
        self.upstreams.iter().find(|upstream| upstream.resource == *resource)
    }

    /// The upstream that the path-less protected-resource document names, and that a request without `resource` means.
    #[must_use]
    pub fn root_upstream(&self) -> Option<&Upstream> {
        match (&self.oauth.root_resource, self.upstreams.as_slice()) {
            (RootResource::Auto, [only]) => Some(only),
            (RootResource::Auto | RootResource::None, _) => None,
            (RootResource::Named(name), all) => all.iter().find(|upstream| upstream.name == *name),
        }
    }

    /// The absolute URL of an endpoint as discovery advertises it.
    #[must_use]
    pub fn endpoint(&self, path: &str) -> String {
        format!("{}{}{path}", self.public_url.origin, self.oauth.endpoint_prefix)
    }

    /// Every scope that exists for an upstream: the general ones, its own, and described ones that no upstream names.
    #[must_use]
    pub fn scopes_of(&self, upstream: &Upstream) -> Scope {
        let unclaimed: Scope = self
            .scopes
            .iter()
            .map(|info| info.name.clone())
            .filter(|name| {
                !self
                    .upstreams
                    .iter()
                    .any(|any| any.all_scopes().contains(name.as_str()))
            })
            .collect();
        upstream.all_scopes().union(&self.oauth.scopes).union(&unclaimed)
    }

    /// What a client that names no scope gets (RFC 6749 §3.3): what the upstream needs, else `profile` where that exists.
    #[must_use]
    pub fn default_scope(&self, upstream: &Upstream) -> Scope {
        if upstream.scopes.is_empty() {
            self.oauth.scopes.filtered(|token| token.as_str() == "profile")
        } else {
            upstream.scopes.clone()
        }
    }

    /// Every scope there is, for discovery's `scopes_supported`.
    #[must_use]
    pub fn all_scopes(&self) -> Scope {
        self.upstreams.iter().fold(self.oauth.scopes.clone(), |all, upstream| {
            all.union(&self.scopes_of(upstream))
        })
    }

    /// The identity provider of this id.
    #[must_use]
    pub fn identity_provider(&self, id: &str) -> Option<&IdentityProvider> {
        self.identity_providers.iter().find(|provider| provider.id == id)
    }

    /// Whether a person may be granted a scope.
    #[must_use]
    pub fn may_be_granted(&self, user: &User, scope: &ScopeToken) -> bool {
        let info = self.scopes.iter().find(|info| info.name == *scope);
        info.is_none_or(|info| user.in_any_group(info.groups.as_deref()))
    }

    /// A scope with everything that it implies (`scopes[].implies`).
    #[must_use]
    pub fn with_implied(&self, scope: &Scope) -> Scope {
        self.scopes
            .iter()
            .filter(|info| !info.implies.is_empty() && scope.contains(info.name.as_str()))
            .fold(scope.clone(), |all, info| all.union(&info.implies))
    }

    /// Whether what is held covers what is needed, by itself or by what it implies.
    #[must_use]
    pub fn covers(&self, held: &Scope, needed: &Scope) -> bool {
        held.covers(needed) || self.with_implied(held).covers(needed)
    }

    /// What the consent page says a scope allows.
    #[must_use]
    pub fn describe(&self, scope: &ScopeToken) -> String {
        let configured = self
            .scopes
            .iter()
            .find(|info| info.name == *scope)
            .and_then(|info| info.description.clone());
        configured.unwrap_or_else(|| match scope.as_str() {
            "openid" => "Know who you are".to_owned(),
            "profile" => "See your name and username".to_owned(),
            "email" => "See your e-mail address".to_owned(),
            OFFLINE_ACCESS => "Stay connected while you are away".to_owned(),
            other => other.to_owned(),
        })
    }
}

impl fmt::Debug for AuditConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditConfig")
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}
