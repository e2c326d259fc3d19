//! From gateway.yaml as written to a [`Config`] that makes sense: the top level, `oauth`, `users` and `scopes`, and what has to
//! agree between sections. Every default is written once, here or in `upstreams`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use argon2::PasswordHash;

use super::reader::{Document, Node};
use super::{
    Account, Config, Listener, OAuthConfig, PublicUrl, RootResource, ScopeInfo, StoreConfig, TlsFiles, Upstream,
    upstreams,
};
use crate::domain::client::{Client, ClientAuthMethod, ClientDisplay, ClientId, ClientOrigin, GrantType};
use crate::domain::clock::Timestamp;
use crate::domain::scope::{Scope, ScopeToken};
use crate::domain::secret::SecretHash;
use crate::domain::uri::{HostPattern, RedirectUri};
use crate::domain::user::{Subject, User};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// A client secret shorter than this can be guessed.
const LEAST_SECRET: usize = 16;
/// Argon2 memory, in KiB, that a sign-in may cost at most.
const MOST_ARGON2_MEMORY: u32 = 256 << 10;

pub(super) const TOP: &[&str] = &[
    "public_url",
    "listen",
    "admin",
    "store",
    "oauth",
    "scopes",
    "users",
    "upstreams",
];
pub(super) const LISTENER: &[&str] = &["address", "tls"];
pub(super) const TLS: &[&str] = &["cert", "key"];
pub(super) const ADMIN: &[&str] = &["listen"];
pub(super) const STORE: &[&str] = &["sled"];
pub(super) const SLED: &[&str] = &["path"];
pub(super) const OAUTH: &[&str] = &[
    "scopes",
    "code_expires_in",
    "access_token_expires_in",
    "refresh_token_expires_in",
    "require_pkce",
    "refresh_grace",
    "issuer_in_response",
    "endpoint_prefix",
    "root_resource",
    "registration",
    "clients",
];
pub(super) const REGISTRATION: &[&str] = &["dynamic", "allowed_redirect_hosts"];
pub(super) const CLIENT: &[&str] = &[
    "client_id",
    "client_secret",
    "client_name",
    "redirect_uris",
    "token_endpoint_auth_method",
    "grant_types",
    "scope",
];
pub(super) const SCOPE: &[&str] = &["name", "description", "groups"];
pub(super) const USER: &[&str] = &["username", "password_hash", "email", "name", "groups"];

/// Reads a whole document. `None` only if a problem was written down.
pub(super) fn config(document: &Document<'_>) -> Option<Config> {
    let root = document.node();
    root.object(TOP);
    let public_url = root
        .required("public_url", "https://mcp.example.com")
        .and_then(|node| node.public_url());
    let listen = listeners(&root);
    let admin = admin(&root, &listen);
    let store = store(&root);
    let oauth = oauth(&root);
    let users = users(&root);
    let scopes = scopes(&root);
    // Routes are judged even where public_url is wrong, so that nobody has to come back for them.
    let stand_in = PublicUrl {
        origin: "http://127.0.0.1:8080".to_owned(),
        scheme: "http",
        host: "127.0.0.1".to_owned(),
        port: Some(8080),
        loopback: true,
    };
    let prefix = oauth.as_ref().map_or("", |oauth| oauth.endpoint_prefix.as_str());
    let upstreams = upstreams::upstreams(&root, public_url.as_ref().unwrap_or(&stand_in), prefix);
    let oauth = oauth?;
    check_root_resource(&root, &oauth, &upstreams);
    Some(Config {
        public_url: public_url?,
        listen,
        admin: admin?,
        store,
        oauth,
        scopes,
        users,
        upstreams,
    })
}

fn listeners(root: &Node<'_>) -> Vec<Listener> {
    let Some(node) = root.get("listen") else {
        return vec![Listener {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            tls: None,
        }];
    };
    let nodes = if node.value.is_sequence() {
        node.list()
    } else {
        vec![node.clone()]
    };
    if nodes.is_empty() {
        node.problem("must name at least one address");
    }
    let mut all: Vec<Listener> = Vec::new();
    for node in nodes {
        let Some(listener) = listener(&node) else { continue };
        if listener.address.port() != 0 && all.iter().any(|other| other.address == listener.address) {
            node.problem(format!("{} is there twice", listener.address));
        }
        all.push(listener);
    }
    all
}

fn listener(node: &Node<'_>) -> Option<Listener> {
    if !node.value.is_mapping() {
        return node.address().map(|address| Listener { address, tls: None });
    }
    node.object(LISTENER);
    let address = node.required("address", "0.0.0.0:8443").and_then(|node| node.address());
    let Some(tls) = node.get("tls") else {
        return address.map(|address| Listener { address, tls: None });
    };
    tls.object(TLS);
    let file = |key: &str, example: &str| {
        let node = tls.required(key, example)?;
        node.text().map(|text| node.document.directory.join(text))
    };
    let (cert, key) = (
        file("cert", "/etc/mcpgate/cert.pem"),
        file("key", "/etc/mcpgate/key.pem"),
    );
    let files = TlsFiles { cert: cert?, key: key? };
    tls.check(files.server_config().map(|_| ()))?;
    address.map(|address| Listener {
        address,
        tls: Some(files),
    })
}

fn admin(root: &Node<'_>, listen: &[Listener]) -> Option<SocketAddr> {
    let Some(node) = root.get("admin") else {
        return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)));
    };
    node.object(ADMIN);
    let node = node.required("listen", "127.0.0.1:9090")?;
    let address = node.address()?;
    if address.port() != 0 && listen.iter().any(|other| other.address == address) {
        node.problem("must not be the public listener: metrics are nobody else's business");
    }
    Some(address)
}

fn store(root: &Node<'_>) -> StoreConfig {
    let path = root.get("store").and_then(|node| {
        node.object(STORE);
        let sled = node.required("sled", "{ path: ./data }")?;
        sled.object(SLED);
        let path = sled.required("path", "./data")?;
        path.text().map(|text| path.document.directory.join(text))
    });
    StoreConfig::Sled {
        path: path.unwrap_or_else(|| PathBuf::from("./data")),
    }
}

fn oauth(root: &Node<'_>) -> Option<OAuthConfig> {
    let node = root.get("oauth");
    if let Some(node) = &node {
        node.object(OAUTH);
    }
    let get = |key: &str| node.as_ref().and_then(|node| node.get(key));
    let duration = |key: &str, default: Duration, least: Duration, most: Duration| match get(key) {
        Some(node) => node.duration(least, most),
        None => Some(default),
    };
    let boolean = |key: &str| get(key).map_or(Some(true), |node| node.boolean());
    let registration = get("registration");
    if let Some(node) = &registration {
        node.object(REGISTRATION);
    }
    let in_registration = |key: &str| registration.as_ref().and_then(|node| node.get(key));
    let default_scopes = || {
        ["openid", "profile", "email", "offline_access"]
            .iter()
            .filter_map(|name| name.parse::<ScopeToken>().ok())
            .collect()
    };
    // Each is read before the first `?`, so that one mistake does not hide the next.
    let scopes = get("scopes").map_or_else(default_scopes, |node| node.scope_list());
    let code = duration(
        "code_expires_in",
        Duration::from_secs(600),
        SECOND,
        Duration::from_secs(600),
    );
    let access = duration("access_token_expires_in", Duration::from_secs(3_600), SECOND, DAY * 30);
    let refresh = duration("refresh_token_expires_in", DAY * 7, SECOND, DAY * 366);
    let grace = duration(
        "refresh_grace",
        Duration::from_secs(60),
        Duration::ZERO,
        Duration::from_secs(600),
    );
    let (require_pkce, issuer) = (boolean("require_pkce"), boolean("issuer_in_response"));
    let prefix = get("endpoint_prefix").map_or_else(|| Some(String::new()), |node| endpoint_prefix(&node));
    let root_resource = match get("root_resource") {
        None => Some(RootResource::Auto),
        Some(node) => node.text().map(|text| match text {
            "auto" => RootResource::Auto,
            "none" => RootResource::None,
            name => RootResource::Named(name.to_owned()),
        }),
    };
    let dynamic = in_registration("dynamic").map_or(Some(true), |node| node.boolean());
    let hosts = in_registration("allowed_redirect_hosts").map_or_else(
        || HostPattern::parse("*").into_iter().collect(),
        |node| redirect_hosts(&node),
    );
    let clients = get("clients").map(|node| clients(&node)).unwrap_or_default();
    if let (Some(access), Some(refresh)) = (access, refresh)
        && refresh < access
        && let Some(node) = get("refresh_token_expires_in").or_else(|| get("access_token_expires_in"))
    {
        node.problem("refresh tokens must live at least as long as access tokens");
    }
    Some(OAuthConfig {
        scopes,
        code_expires_in: code?,
        access_token_expires_in: access?,
        refresh_token_expires_in: refresh?,
        require_pkce: require_pkce?,
        refresh_grace: grace?,
        issuer_in_response: issuer?,
        endpoint_prefix: prefix?,
        root_resource: root_resource?,
        dynamic_registration: dynamic?,
        allowed_redirect_hosts: hosts,
        clients,
    })
}

fn endpoint_prefix(node: &Node<'_>) -> Option<String> {
    if node.value.as_str() == Some("") {
        return Some(String::new());
    }
    let text = node.text()?;
    let text = text.strip_suffix('/').unwrap_or(text);
    let taken = upstreams::OWN_PATHS.contains(&text) || text.starts_with("/.well-known");
    if taken || !upstreams::is_plain_path(text) {
        node.problem(format!(
            "{text:?} is not a path for endpoints; write /api/auth/mcp, or \"\" for none"
        ));
        return None;
    }
    Some(text.to_owned())
}

fn redirect_hosts(node: &Node<'_>) -> Vec<HostPattern> {
    let pattern = |(item, text): (Node<'_>, &str)| {
        let found = HostPattern::parse(text);
        if found.is_none() {
            item.problem(format!(
                "{text:?} is not a host; write claude.ai, \"*.example.com\" or \"*\""
            ));
        }
        found
    };
    node.texts().into_iter().filter_map(pattern).collect()
}

fn clients(node: &Node<'_>) -> Vec<Client> {
    let mut all: Vec<Client> = Vec::new();
    for node in node.list() {
        let Some(client) = client(&node) else { continue };
        if all.iter().any(|other| other.id == client.id) {
            node.problem(format!("the client {} is there twice", client.id));
        }
        all.push(client);
    }
    all
}

fn client(node: &Node<'_>) -> Option<Client> {
    if !node.object(CLIENT) {
        return None;
    }
    let id = node.required("client_id", "ci-runner").and_then(|node| {
        let text = node.text()?;
        let id = ClientId::parse(text).filter(|_| !text.starts_with("https://") && !text.starts_with("mgc_"));
        if id.is_none() {
            node.problem(
                "must be visible ASCII, and begin neither with https:// nor with mgc_, which are other clients'",
            );
        }
        id
    });
    let secret = node.get("client_secret").map(|node| {
        let text = node.secret()?;
        if text.len() < LEAST_SECRET {
            node.problem("a client secret needs at least 16 characters; make one with: openssl rand -base64 32");
        }
        Some(SecretHash::of(&text))
    });
    let any_host: Vec<HostPattern> = HostPattern::parse("*").into_iter().collect();
    let redirect_uris: Vec<RedirectUri> = node
        .required("redirect_uris", "[https://app.example.com/callback]")
        .map(|node| {
            node.texts()
                .into_iter()
                .filter_map(|(item, text)| item.check(RedirectUri::parse(text, &any_host)))
                .collect()
        })
        .unwrap_or_default();
    let auth_method = node.get("token_endpoint_auth_method").and_then(|node| {
        let found = node.text().and_then(ClientAuthMethod::parse);
        if found.is_none_or(|method| (method == ClientAuthMethod::None) == secret.is_some()) {
            node.problem("must be client_secret_basic or client_secret_post with a client_secret, none without");
        }
        found
    });
    let grant_types = node.get("grant_types").map_or_else(
        || GrantType::ALL.to_vec(),
        |node| {
            let one = |(item, text): (Node<'_>, &str)| {
                let found = GrantType::parse(text);
                if found.is_none() {
                    item.problem(format!(
                        "{text:?} is not a grant type; write authorization_code or refresh_token"
                    ));
                }
                found
            };
            node.texts().into_iter().filter_map(one).collect()
        },
    );
    let scope = node
        .get("scope")
        .and_then(|node| node.text().and_then(|text| node.check(text.parse::<Scope>())));
    let name = node.get("client_name").and_then(|node| node.text()).map(str::to_owned);
    let secret = match secret {
        Some(found) => Some(found?),
        None => None,
    };
    Some(Client {
        id: id?,
        origin: ClientOrigin::Configured,
        auth_method: if secret.is_none() {
            Some(ClientAuthMethod::None)
        } else {
            auth_method
        },
        secret,
        redirect_uris,
        grant_types,
        scope,
        name,
        display: ClientDisplay::default(),
        created_at: Timestamp::from_millis(0),
    })
}

fn scopes(root: &Node<'_>) -> Vec<ScopeInfo> {
    let mut all: Vec<ScopeInfo> = Vec::new();
    for node in root.get("scopes").map(|node| node.list()).unwrap_or_default() {
        if !node.object(SCOPE) {
            continue;
        }
        let name = node
            .required("name", "everything:read")
            .and_then(|node| node.text().and_then(|text| node.check(text.parse::<ScopeToken>())));
        let description = node.get("description").and_then(|node| node.text()).map(str::to_owned);
        let groups = node.get("groups").map(|node| groups(&node));
        let Some(name) = name else { continue };
        if all.iter().any(|other| other.name == name) {
            node.problem(format!("the scope {name} is there twice"));
        }
        all.push(ScopeInfo {
            name,
            description,
            groups,
        });
    }
    all
}

fn groups(node: &Node<'_>) -> Vec<String> {
    node.texts().into_iter().map(|(_, text)| text.to_owned()).collect()
}

fn users(root: &Node<'_>) -> Vec<Account> {
    let Some(list) = root.required(
        "users",
        "a list with a username and a password_hash (mcpgate hash-password makes one)",
    ) else {
        return Vec::new();
    };
    let nodes = list.list();
    if nodes.is_empty() && list.value.is_sequence() {
        list.problem("must have at least one account, or nobody can sign in");
    }
    let mut all: Vec<Account> = Vec::new();
    for node in nodes {
        let Some(account) = account(&node) else { continue };
        if all.iter().any(|other| other.user.username == account.user.username) {
            node.problem(format!("the username {} is there twice", account.user.username));
        }
        all.push(account);
    }
    all
}

fn account(node: &Node<'_>) -> Option<Account> {
    if !node.object(USER) {
        return None;
    }
    let subject = node.required("username", "ada").and_then(|node| {
        let found = node.text().and_then(Subject::of_username);
        if found.is_none() {
            node.problem("must be 1 to 128 characters without a colon, control characters and outer spaces");
        }
        found
    });
    let hash = node
        .required("password_hash", "what mcpgate hash-password prints")
        .and_then(|node| {
            let text = node.secret()?;
            node.check(check_password_hash(&text))?;
            Some(text)
        });
    let text = |key: &str| node.get(key).and_then(|node| node.text()).map(str::to_owned);
    let (email, name) = (text("email"), text("name"));
    let groups = node.get("groups").map(|node| groups(&node)).unwrap_or_default();
    let subject = subject?;
    let user = User {
        username: subject.as_str().to_owned(),
        subject,
        email,
        name,
        groups,
    };
    Some(Account {
        user,
        password_hash: hash?,
    })
}

/// A hash that can be verified at a bearable price.
fn check_password_hash(text: &str) -> Result<(), &'static str> {
    const WRONG: &str = "is not an argon2id PHC string; make one with: mcpgate hash-password";
    let hash = PasswordHash::new(text).map_err(|_| WRONG)?;
    if hash.algorithm.as_str() != "argon2id" || hash.hash.is_none() || hash.salt.is_none() {
        return Err(WRONG);
    }
    let parameters = argon2::Params::try_from(&hash).map_err(|_| WRONG)?;
    if parameters.m_cost() > MOST_ARGON2_MEMORY || parameters.t_cost() > 16 || parameters.p_cost() > 16 {
        return Err("costs too much to verify: at most m=262144, t=16, p=16");
    }
    Ok(())
}

fn check_root_resource(root: &Node<'_>, oauth: &OAuthConfig, upstreams: &[Upstream]) {
    if let RootResource::Named(name) = &oauth.root_resource
        && !upstreams.iter().any(|upstream| upstream.name == *name)
        && let Some(node) = root.get("oauth").and_then(|node| node.get("root_resource"))
    {
        node.problem(format!(
            "no upstream has the name {name}; write auto, none or an upstream's name"
        ));
    }
}
