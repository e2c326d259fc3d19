//! `oauth` and `scopes`.

use std::collections::HashSet;
use std::time::Duration;

use super::read::{At, Object};
use super::values::shown;
use super::{
    ClientHosts, EndpointLimits, Grants, OAuthConfig, RootResource, ScopeInfo, client_keys, endpoint_limits, grants,
    keys,
};
use crate::domain::client::{Client, ClientAuthMethod, ClientDisplay, ClientId, ClientOrigin, GrantType, Permissions};
use crate::domain::clock::Timestamp;
use crate::domain::scope::{Scope, ScopeToken};
use crate::domain::secret::SecretHash;
use crate::domain::uri::{DEFAULT_SCHEMES, HostPattern, RedirectUri, is_private_use_scheme};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Shortest secret of a client: anything shorter can be guessed at the token endpoint.
const MIN_SECRET: usize = 16;
/// Most redirect URIs of one client.
const MAX_REDIRECT_URIS: usize = 100;
/// What a client may use if its entry does not say.
const DEFAULT_GRANTS: [GrantType; 2] = [GrantType::AuthorizationCode, GrantType::RefreshToken];

/// What holds where nothing is said (contract of the configuration file).
impl Default for OAuthConfig {
    fn default() -> Self {
        Self {
            scopes: "openid profile email offline_access".parse().unwrap_or_default(),
            code_expires_in: 10 * MINUTE,
            access_token_expires_in: 60 * MINUTE,
            refresh_token_expires_in: 7 * DAY,
            require_pkce: true,
            refresh_grace: MINUTE,
            issuer_in_response: true,
            endpoint_prefix: String::new(),
            root_resource: RootResource::Auto,
            login_page: None,
            dynamic_registration: true,
            client_documents: Some(ClientHosts {
                allowed: HostPattern::parse("*").into_iter().collect(),
                denied: Vec::new(),
            }),
            allowed_redirect_hosts: HostPattern::parse("*").into_iter().collect(),
            allowed_redirect_schemes: DEFAULT_SCHEMES.map(str::to_owned).to_vec(),
            initial_access_tokens: Vec::new(),
            clients: Vec::new(),
            grants: Grants {
                client_credentials: true,
                device_code: false,
                token_exchange: false,
            },
            pushed_authorization_requests: true,
            personal_access_tokens: false,
            dpop: true,
            trusted_issuers: Vec::new(),
            limits: EndpointLimits::default(),
        }
    }
}

/// A scope that is named where none is defined.
pub(super) type Mention<'a> = (At<'a>, ScopeToken);

/// `oauth`, and the scopes that its clients mention.
pub(super) fn read<'a>(object: &Object<'a>) -> (OAuthConfig, Vec<Mention<'a>>) {
    let registration = object.section("registration", keys::REGISTRATION);
    let default = OAuthConfig::default();
    let (access_token_expires_in, refresh_token_expires_in) = lifetimes(object, &default);
    let (clients, mentions) = clients(object);
    let config = OAuthConfig {
        scopes: object.or("scopes", default.scopes, At::scopes),
        code_expires_in: object.or("code_expires_in", default.code_expires_in, |at| {
            at.duration(SECOND, 10 * MINUTE)
        }),
        access_token_expires_in,
        refresh_token_expires_in,
        require_pkce: object.or("require_pkce", default.require_pkce, At::boolean),
        refresh_grace: object.or("refresh_grace", default.refresh_grace, |at| {
            at.duration(Duration::ZERO, 10 * MINUTE)
        }),
        issuer_in_response: object.or("issuer_in_response", default.issuer_in_response, At::boolean),
        endpoint_prefix: object.or("endpoint_prefix", default.endpoint_prefix, At::endpoint_prefix),
        root_resource: object.or("root_resource", default.root_resource, At::root_resource),
        login_page: object.optional("login_page", At::login_page),
        dynamic_registration: registration.or("dynamic", default.dynamic_registration, At::boolean),
        client_documents: client_documents(&registration),
        allowed_redirect_hosts: registration.or(
            "allowed_redirect_hosts",
            default.allowed_redirect_hosts,
            At::host_patterns,
        ),
        allowed_redirect_schemes: registration.or(
            "allowed_redirect_schemes",
            default.allowed_redirect_schemes,
            At::schemes,
        ),
        initial_access_tokens: registration.or("initial_access_tokens", Vec::new(), At::initial_access_tokens),
        clients,
        grants: grants::read(object, default.grants),
        pushed_authorization_requests: object.or(
            "pushed_authorization_requests",
            default.pushed_authorization_requests,
            At::boolean,
        ),
        personal_access_tokens: object.or("personal_access_tokens", default.personal_access_tokens, At::boolean),
        dpop: object.or("dpop", default.dpop, At::boolean),
        trusted_issuers: grants::trusted_issuers(object),
        limits: endpoint_limits::read(object),
    };
    (config, mentions)
}

/// Metadata documents: on for all hosts unless something else is said. The lists are read even where they are off, so that
/// mistakes in them are found.
fn client_documents(registration: &Object<'_>) -> Option<ClientHosts> {
    let any = HostPattern::parse("*").into_iter().collect();
    let hosts = ClientHosts {
        allowed: registration.or("allowed_client_hosts", any, At::host_patterns),
        denied: registration.or("denied_client_hosts", Vec::new(), At::host_patterns),
    };
    let on = registration.or("client_id_metadata_documents", true, At::boolean);
    on.then_some(hosts)
}

/// Lifetimes of access and refresh tokens: what refreshes may not end before what it refreshes.
fn lifetimes(object: &Object<'_>, default: &OAuthConfig) -> (Duration, Duration) {
    let (access, refresh) = ("access_token_expires_in", "refresh_token_expires_in");
    let access_token = object.or(access, default.access_token_expires_in, |at| {
        at.duration(SECOND, 30 * DAY)
    });
    let refresh_token = object.or(refresh, default.refresh_token_expires_in, |at| {
        at.duration(SECOND, 365 * DAY)
    });
    if refresh_token < access_token
        && let Some(at) = object.get(refresh).or_else(|| object.get(access))
    {
        at.problem("a refresh token must live at least as long as an access token, which is 1h unless set");
    }
    (access_token, refresh_token)
}

/// `scopes`: what people are told about scopes.
pub(super) fn scopes<'a>(top: &Object<'a>, mentions: &mut Vec<Mention<'a>>) -> Vec<ScopeInfo> {
    let mut names = HashSet::new();
    let (mut infos, mut places): (Vec<ScopeInfo>, Vec<At<'_>>) = (Vec::new(), Vec::new());
    for item in top.items("scopes") {
        let Some(object) = item.object(keys::SCOPE) else {
            continue;
        };
        let at = object.required("name", "everything:read").cloned();
        let name = at.as_ref().and_then(At::scope);
        let description = object.optional("description", |at| at.text().map(str::to_owned));
        let groups = object.optional("groups", At::groups);
        let implies = object.or("implies", Scope::empty(), |at| at.client_scope(mentions));
        let (Some(at), Some(name)) = (at, name) else { continue };
        if names.insert(name.clone()) {
            infos.push(ScopeInfo {
                name,
                description,
                groups,
                implies,
            });
            places.push(at);
        } else {
            at.problem(format!("{name} is described by an earlier entry"));
        }
    }
    close(&mut infos, &places);
    infos
}

/// Makes what each scope implies complete: with what those imply, and so on. One that comes round to itself is a problem.
fn close(infos: &mut [ScopeInfo], places: &[At<'_>]) {
    let direct: Vec<(ScopeToken, Scope)> = infos
        .iter()
        .map(|info| (info.name.clone(), info.implies.clone()))
        .collect();
    for (info, at) in infos.iter_mut().zip(places) {
        let mut all = info.implies.clone();
        loop {
            let more = direct
                .iter()
                .filter(|(name, _)| all.contains(name.as_str()))
                .fold(all.clone(), |all, (_, implied)| all.union(implied));
            if more.len() == all.len() {
                break;
            }
            all = more;
        }
        if all.contains(info.name.as_str()) {
            at.problem(format!(
                "{} implies itself; take one of the scopes on the way round out of `implies`",
                info.name
            ));
        }
        info.implies = all;
    }
}

/// `oauth.clients`.
fn clients<'a>(object: &Object<'a>) -> (Vec<Client>, Vec<Mention<'a>>) {
    let (mut ids, mut clients, mut mentions) = (HashSet::new(), Vec::new(), Vec::new());
    for item in object.items("clients") {
        let Some(object) = item.object(keys::CLIENT) else {
            continue;
        };
        let id_at = object.required("client_id", "ci-runner");
        let id = id_at.and_then(At::client_id);
        if let (Some(at), Some(id)) = (id_at, &id)
            && !ids.insert(id.clone())
        {
            at.problem(format!("{} is the id of an earlier client", shown(id.as_str())));
        }
        let client = client(&object, id, &mut mentions);
        clients.extend(client);
    }
    (clients, mentions)
}

/// An entry of `clients` (RFC 7591 §2 has the words).
fn client<'a>(object: &Object<'a>, id: Option<ClientId>, mentions: &mut Vec<Mention<'a>>) -> Option<Client> {
    let secret_at = object.get("client_secret");
    let secret = secret_at.and_then(At::client_secret);
    let keys_at = object.get("jwks").or_else(|| object.get("jwks_uri"));
    let keys = client_keys::read(object);
    if let (Some(_), Some(at)) = (secret_at, keys_at) {
        at.problem("a client has a client_secret or keys; keep one of them");
    }
    let auth_method = object.optional("token_endpoint_auth_method", |at| {
        let method = at.word(&ClientAuthMethod::ALL.map(|method| (method.as_str(), method)))?;
        match (method, secret_at.is_some()) {
            (ClientAuthMethod::None, true) => {
                at.refuse("a client with a client_secret must use it; write client_secret_basic or client_secret_post")
            }
            (ClientAuthMethod::PrivateKeyJwt, _) if keys_at.is_none() => {
                at.refuse("needs keys; write jwks or jwks_uri, or another method here")
            }
            (ClientAuthMethod::None, false) if keys_at.is_some() => {
                at.refuse("a client with keys must use them; write private_key_jwt")
            }
            (ClientAuthMethod::ClientSecretBasic | ClientAuthMethod::ClientSecretPost, false) => {
                at.refuse("needs a client_secret; write one, or none here")
            }
            _ => Some(method),
        }
    });
    let grant_types = object.or("grant_types", DEFAULT_GRANTS.to_vec(), At::grant_types);
    let redirect_uris = match object.get("redirect_uris") {
        None if !grant_types.contains(&GrantType::AuthorizationCode) => Some(Vec::new()),
        _ => object
            .required("redirect_uris", "[https://ci.example.com/callback]")
            .and_then(At::redirect_uris),
    };
    if grant_types.iter().any(|grant| grants::NEEDS_CREDENTIAL.contains(grant))
        && secret_at.is_none()
        && let Some(at) = object.get("grant_types")
    {
        at.problem("has a grant for which a client must authenticate; give it a client_secret");
    }
    let scope = object.optional("scope", |at| at.client_scope(mentions));
    let name = object.optional("client_name", |at| at.text().map(str::to_owned));
    Some(Client {
        id: id?,
        origin: ClientOrigin::Configured,
        auth_method: match (secret_at, keys_at) {
            (Some(_), _) => auth_method,
            (None, Some(_)) => Some(ClientAuthMethod::PrivateKeyJwt),
            (None, None) => Some(ClientAuthMethod::None),
        },
        keys,
        secret,
        redirect_uris: redirect_uris?,
        grant_types,
        scope,
        name,
        display: ClientDisplay::default(),
        id_token_algorithm: object.optional("id_token_signed_response_alg", At::signing_algorithm),
        key_bound: object.or("dpop_bound_access_tokens", false, At::boolean),
        permissions: Permissions {
            upstreams: object.optional("upstreams", At::names),
            introspects: object.or("introspects", Vec::new(), At::names),
        },
        registration_token: None,
        created_at: Timestamp::from_millis(0),
    })
}

impl<'a> At<'a> {
    fn client_id(&self) -> Option<ClientId> {
        let text = self.text()?;
        let parsed = ClientId::parse(text);
        if parsed
            .as_ref()
            .is_some_and(|id| *id == Client::own_page().id || id.is_personal_token())
        {
            return self.refuse(format!(
                "{} is what the gateway calls itself; write another id",
                shown(text)
            ));
        }
        parsed.or_else(|| {
            self.refuse(format!(
                "{} is not a client id; write up to 512 visible ASCII characters without spaces",
                shown(text)
            ))
        })
    }

    pub(super) fn client_secret(&self) -> Option<SecretHash> {
        let secret = self.secret()?;
        if secret.len() < MIN_SECRET {
            return self.refuse(format!(
                "the secret is shorter than {MIN_SECRET} characters and could be guessed; write a random one, such as `openssl rand -hex 32` makes"
            ));
        }
        Some(SecretHash::of(&secret))
    }

    fn redirect_uris(&self) -> Option<Vec<RedirectUri>> {
        let items = self.texts()?;
        if self.list()?.is_empty() {
            return self.refuse("is an empty list; write at least one URI");
        }
        if items.len() > MAX_REDIRECT_URIS {
            return self.refuse(format!("has more than {MAX_REDIRECT_URIS} URIs"));
        }
        // The list of hosts is for clients that register themselves; whoever writes this file decides on his own.
        let any: Vec<_> = HostPattern::parse("*").into_iter().collect();
        let mut found: Vec<RedirectUri> = Vec::new();
        for (item, text) in items {
            match RedirectUri::parse(text, &any) {
                Ok(uri) if found.contains(&uri) => item.problem("is in the list twice"),
                Ok(uri) => found.push(uri),
                Err(error) => item.problem(format!(
                    "cannot be a redirect URI: {error}; write https://ci.example.com/callback or http://127.0.0.1/callback"
                )),
            }
        }
        Some(found)
    }

    /// A list of scopes, or one text with spaces between them as in RFC 7591 §2.
    fn client_scope(&self, mentions: &mut Vec<Mention<'a>>) -> Option<Scope> {
        if self.is_list() {
            let mut scope = Scope::empty();
            for item in self.list()? {
                let Some(token) = item.scope() else { continue };
                scope = scope.union(&std::iter::once(token.clone()).collect());
                mentions.push((item, token));
            }
            return Some(scope);
        }
        match self.text()?.parse::<Scope>() {
            Ok(scope) => {
                mentions.extend(scope.iter().map(|token| (self.clone(), token.clone())));
                Some(scope)
            }
            Err(error) => self.refuse(error.to_string()),
        }
    }

    fn grant_types(&self) -> Option<Vec<GrantType>> {
        let mut found = Vec::new();
        for item in self.list()? {
            if let Some(grant) = item.word(&grants::WORDS)
                && !found.contains(&grant)
            {
                found.push(grant);
            }
        }
        if found.iter().any(|grant| *grant != GrantType::RefreshToken) {
            return Some(found);
        }
        self.refuse("lacks authorization_code, without which a client gets nothing to refresh")
    }

    fn host_patterns(&self) -> Option<Vec<HostPattern>> {
        let patterns = self.texts()?.into_iter().filter_map(|(item, text)| {
            HostPattern::parse(text).or_else(|| {
                item.refuse(format!(
                    "{} is not a host; write app.example.com, \"*.example.com\" or \"*\"",
                    shown(text)
                ))
            })
        });
        Some(patterns.collect())
    }

    /// Private-use schemes. Those with a dot, which RFC 8252 §7.1 asks for, need no entry; those that a browser would run or
    /// show never get one.
    fn schemes(&self) -> Option<Vec<String>> {
        let schemes = self.texts()?.into_iter().filter_map(|(item, text)| {
            if is_private_use_scheme(text) {
                return Some(text.to_owned());
            }
            item.refuse(format!(
                "{} is not a scheme that only an app has; write one in lower case such as cursor or com.example.app",
                shown(text)
            ))
        });
        Some(schemes.collect())
    }

    /// A list of secrets.
    fn initial_access_tokens(&self) -> Option<Vec<SecretHash>> {
        let items = self.list()?;
        if items.is_empty() {
            return self.refuse("is an empty list; write at least one token, or leave the key out");
        }
        Some(items.iter().filter_map(At::client_secret).collect())
    }

    fn endpoint_prefix(&self) -> Option<String> {
        if self.is_word("") {
            return Some(String::new());
        }
        let path = self.path()?;
        self.not_ours(&path, "")?;
        Some(path)
    }

    fn root_resource(&self) -> Option<RootResource> {
        Some(match self.text()? {
            "auto" => RootResource::Auto,
            "none" => RootResource::None,
            name => RootResource::Named(name.to_owned()),
        })
    }
}
