//! gateway.yaml: the example, the defaults, every way to get it wrong, and text that nobody would write.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use mcpgate::config::{self, Claim, Config, Limits, Problems, RootResource, StoreConfig};
use mcpgate::domain::client::{ClientAuthMethod, GrantType};
use mcpgate::domain::uri::HostPattern;
use proptest::prelude::*;
use serde_yaml::Value;
use tempfile::TempDir;

const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$saSKtCUxgrqI1gLOKTbpOA$9kajQeEbOji1LH6rngH5QHWmslik9+Y4s9wKyAK4wm8";
const EXAMPLE: &str = include_str!("../gateway.yaml");
const REFERENCE: &str = include_str!("../docs/configuration.md");

/// Eight lines that are fine; what a test adds begins on line 9.
fn base() -> String {
    format!(
        "public_url: https://mcp.example.com\n\
         users:\n  - username: ada\n    password_hash: {HASH}\n\
         upstreams:\n  - name: one\n    path: /one/mcp\n    url: http://127.0.0.1:3001/mcp\n"
    )
}

fn parse(text: &str) -> Result<Config, Problems> {
    config::parse(text, Path::new("tests/fixtures"), &|name| match name {
        "A_SECRET" => Some("a secret of many letters".to_owned()),
        "SHORT" => Some("short".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    })
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// The base with more lines.
fn with(lines: &str) -> Config {
    good(&format!("{}{lines}\n", base()))
}

fn problems(text: &str) -> Vec<(String, usize, String)> {
    let found = parse(text)
        .err()
        .unwrap_or_else(|| panic!("this was accepted:\n{text}"));
    found
        .iter()
        .map(|problem| (problem.path.clone(), problem.line, problem.message.clone()))
        .collect()
}

// === the example and the reference ===

/// The example with all its examples switched on: a `#` before anything but a space goes away.
fn switched_on() -> String {
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let bare = line.trim_start();
        let indent = &line[..line.len() - bare.len()];
        match bare.strip_prefix('#') {
            Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => writeln!(text, "{indent}{rest}").unwrap(),
            _ => writeln!(text, "{line}").unwrap(),
        }
    }
    text
}

/// The keys of a document as paths; what is below a map with free keys is not looked at.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map {
                let key = key.as_str().unwrap();
                let path = if path.is_empty() {
                    key.to_owned()
                } else {
                    format!("{path}.{key}")
                };
                if !path.ends_with("].headers") && !path.ends_with(".password_hash") {
                    keys(value, &path, found);
                }
                found.insert(path);
            }
        }
        Value::Sequence(items) => items.iter().for_each(|item| keys(item, &format!("{path}[]"), found)),
        _ => {}
    }
}

fn keys_of(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(&serde_yaml::from_str(text).unwrap(), "", &mut found);
    found
}

#[test]
fn the_example_loads_as_it_stands() {
    let loaded = config::load(Path::new("gateway.yaml")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.users[0].user.username, "ada");
    let hash = argon2::PasswordHash::new(&loaded.users[0].password_hash).unwrap();
    argon2::PasswordVerifier::<argon2::PasswordHash>::verify_password(
        &argon2::Argon2::default(),
        b"change-me-please",
        &hash,
    )
    .expect("the password that the example names");
    assert!(EXAMPLE.contains("change-me-please") && EXAMPLE.contains("CHANGE THIS"));
}

#[test]
fn the_example_shows_the_defaults() {
    let smallest = format!(
        "public_url: http://127.0.0.1:8080\nusers: [{{username: ada, password_hash: {HASH:?}}}]\n\
         upstreams: [{{name: everything, path: /everything/mcp, url: 'http://127.0.0.1:3001/mcp'}}]\n"
    );
    let (smallest, example) = (good(&smallest), good(EXAMPLE));
    assert_eq!(format!("{smallest:#?}"), format!("{example:#?}"));
    // What has no default is an example and is switched off; everything else has to be written out.
    let examples = [
        "listen[].",
        "oauth.clients[].",
        "scopes[].",
        "users[].email",
        "users[].name",
        "users[].groups",
        "upstreams[].host",
    ];
    let shown = keys_of(EXAMPLE);
    for key in config::known_keys() {
        let is_example = examples.iter().any(|example| key.starts_with(example));
        assert_eq!(shown.contains(&key), !is_example, "{key} in gateway.yaml");
    }
}

#[test]
fn the_example_has_every_key_and_no_other() {
    let text = switched_on();
    let known: BTreeSet<String> = config::known_keys().collect();
    assert_eq!(keys_of(&text), known);
    let directory = TempDir::new().unwrap();
    for (to, from) in [("tls/cert.pem", "cert.pem"), ("tls/key.pem", "key.pem")] {
        std::fs::create_dir_all(directory.path().join("tls")).unwrap();
        std::fs::copy(Path::new("tests/fixtures/tls").join(from), directory.path().join(to)).unwrap();
    }
    std::fs::create_dir(directory.path().join("secrets")).unwrap();
    std::fs::write(
        directory.path().join("secrets/nightly"),
        "the secret of the nightly job\n",
    )
    .unwrap();
    let environment = |name: &str| {
        ["CI_RUNNER_SECRET", "EVERYTHING_KEY"]
            .contains(&name)
            .then(|| format!("the value of {name}"))
    };
    let config = config::parse(&text, directory.path(), &environment).unwrap_or_else(|p| panic!("{p}\n{text}"));
    assert_eq!(config.listen.len(), 2);
    assert!(config.listen[1].tls.is_some());
    assert_eq!(config.oauth.clients.len(), 2);
    assert!(
        config.oauth.clients[0]
            .secret
            .unwrap()
            .matches("the value of CI_RUNNER_SECRET")
    );
    assert!(
        config.oauth.clients[1]
            .secret
            .unwrap()
            .matches("the secret of the nightly job")
    );
    let upstream = &config.upstreams[0];
    assert_eq!(
        upstream.resource.as_str(),
        "http://tools.example.com:8080/everything/mcp"
    );
    assert_eq!(upstream.headers[0].1, "the value of EVERYTHING_KEY");
}

#[test]
fn the_reference_explains_every_key() {
    for key in config::known_keys() {
        assert!(
            REFERENCE.contains(&format!("`{key}`")),
            "{key} is missing in docs/configuration.md"
        );
    }
    // And no other: a row of its tables begins with a key.
    let known: BTreeSet<String> = config::known_keys().collect();
    for row in REFERENCE.lines().filter_map(|line| line.strip_prefix("| `")) {
        let key = row.split('`').next().unwrap();
        assert!(known.contains(key), "{key} in docs/configuration.md is no key");
    }
}

// === what is right ===

#[test]
fn the_smallest_file_has_the_defaults_of_the_contract() {
    let config = good(&format!(
        "public_url: http://127.0.0.1:8080\nupstreams:\n  - name: everything\n    path: /everything/mcp\n    \
         url: http://127.0.0.1:3001/mcp\nusers:\n  - username: ada\n    password_hash: {HASH}\n"
    ));
    assert_eq!(config.public_url.origin, "http://127.0.0.1:8080");
    assert_eq!(
        (config.public_url.scheme, config.public_url.host.as_str()),
        ("http", "127.0.0.1")
    );
    assert_eq!((config.public_url.port, config.public_url.loopback), (Some(8080), true));
    assert_eq!(config.listen.len(), 1);
    assert_eq!(config.listen[0].address, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(config.listen[0].tls, None);
    assert_eq!(config.admin, "127.0.0.1:9090".parse().unwrap());
    let StoreConfig::Sled { path } = &config.store;
    assert_eq!(path, Path::new("tests/fixtures/./data"));
    let oauth = &config.oauth;
    assert_eq!(oauth.scopes.to_string(), "openid profile email offline_access");
    assert_eq!(oauth.code_expires_in, Duration::from_secs(600));
    assert_eq!(oauth.access_token_expires_in, Duration::from_secs(3_600));
    assert_eq!(oauth.refresh_token_expires_in, Duration::from_secs(604_800));
    assert_eq!(oauth.refresh_grace, Duration::from_secs(60));
    assert!(oauth.require_pkce && oauth.issuer_in_response && oauth.dynamic_registration);
    assert_eq!(
        (oauth.endpoint_prefix.as_str(), &oauth.root_resource),
        ("", &RootResource::Auto)
    );
    assert_eq!(oauth.allowed_redirect_hosts, [HostPattern::parse("*").unwrap()]);
    assert!(oauth.clients.is_empty() && config.scopes.is_empty());
    let account = &config.users[0];
    assert_eq!(
        (account.user.username.as_str(), account.password_hash.as_str()),
        ("ada", HASH)
    );
    assert_eq!(account.user.subject.as_str(), "ada");
    assert!(account.user.email.is_none() && account.user.name.is_none() && account.user.groups.is_empty());
    let upstream = &config.upstreams[0];
    assert_eq!(
        (upstream.name.as_str(), upstream.path.as_str()),
        ("everything", "/everything/mcp")
    );
    assert_eq!(
        (&upstream.host, upstream.resource.as_str()),
        (&None, "http://127.0.0.1:8080/everything/mcp")
    );
    let url = &upstream.url;
    assert_eq!((url.tls, url.host.as_str(), url.port), (false, "127.0.0.1", 3001));
    assert_eq!((url.authority.as_str(), url.path.as_str()), ("127.0.0.1:3001", "/mcp"));
    assert!(upstream.scopes.is_empty() && upstream.headers.is_empty() && upstream.allowed_origins.is_empty());
    let names: Vec<_> = upstream
        .identity_headers
        .iter()
        .map(|(name, claim)| (name.as_str(), *claim))
        .collect();
    assert_eq!(
        names,
        [
            ("x-forwarded-user", Claim::Subject),
            ("x-forwarded-preferred-username", Claim::Username),
            ("x-forwarded-email", Claim::Email),
            ("x-forwarded-groups", Claim::Groups),
            ("x-forwarded-scope", Claim::Scope),
            ("x-forwarded-client-id", Claim::ClientId),
        ]
    );
    assert_eq!(upstream.limits, Limits::default());
    assert_eq!((upstream.limits.body, upstream.limits.idle_stream), (4 << 20, None));
    assert_eq!(upstream.limits.connect_timeout, Duration::from_secs(5));
    assert_eq!(upstream.limits.response_timeout, Duration::from_secs(60));
    assert_eq!(upstream.limits.requests_per_minute, None);
}

#[test]
fn a_public_url_is_canonical() {
    for (text, origin, loopback) in [
        ("https://mcp.example.com/", "https://mcp.example.com", false),
        ("HTTPS://MCP.Example.COM:443", "https://mcp.example.com", false),
        ("https://mcp.example.com:8443", "https://mcp.example.com:8443", false),
        ("http://localhost", "http://localhost", true),
        ("http://localhost:80/", "http://localhost", true),
        ("http://127.9.9.9:1", "http://127.9.9.9:1", true),
        ("http://[::1]:8080", "http://[::1]:8080", true),
        ("https://localhost:1", "https://localhost:1", true),
    ] {
        let config = good(&base().replace("https://mcp.example.com", text));
        assert_eq!(config.public_url.origin, origin);
        assert_eq!(config.public_url.loopback, loopback, "{text}");
        assert_eq!(config.upstreams[0].resource.as_str(), format!("{origin}/one/mcp"));
    }
}

#[test]
fn everything_that_may_be_said_is_read() {
    let config = with(
        "    scopes: [one:read]
    host: Tools.Example.com
    headers: { Authorization: Bearer xyz, X-Key: {env: A_SECRET}, Cookie: a=b }
    identity_headers: { X-User: subject, X-Mail: email, X-Client: client_id, X-Name: name, X-Who: username, X-Groups: groups, X-Scope: scope }
    allowed_origins: ['https://claude.ai', 'http://localhost:6274', '*']
    limits: { body: 65536, connect_timeout: 1s, response_timeout: 1h, idle_stream: 1d, requests_per_minute: 60 }
  - { name: root, path: /, host: 'root.example.com:8443', url: 'https://[::1]/x' }
  - { name: two, path: /one/mcp/, url: 'https://mcp.internal:9/' }
  - { name: three, path: /one/mcp-other, url: 'http://example.com' }
listen: [ '127.0.0.1:1', {address: '[::1]:1'}, {address: 0.0.0.0:8443, tls: {cert: tls/cert.pem, key: tls/key.pem}} ]
admin: {listen: '127.0.0.1:2'}
store: {sled: {path: /var/lib/mcpgate}}
oauth:
  scopes: []
  code_expires_in: 30s
  access_token_expires_in: 5m
  refresh_token_expires_in: 30d
  require_pkce: false
  refresh_grace: 0s
  issuer_in_response: false
  endpoint_prefix: /api/auth/mcp/
  root_resource: two
  registration: { dynamic: false, allowed_redirect_hosts: [claude.ai, '*.example.com'] }
  clients:
    - { client_id: public, redirect_uris: ['http://127.0.0.1/cb', 'com.example.app:/cb'], scope: 'one:read  extra' }
    - { client_id: secret, client_secret: {env: A_SECRET}, redirect_uris: ['https://x.example/cb'], scope: [one:read], client_name: Secret, grant_types: [authorization_code], token_endpoint_auth_method: client_secret_post }
    - { client_id: either, client_secret: {file: secret.txt}, redirect_uris: ['https://x.example/cb'] }
scopes:
  - { name: extra, description: More, groups: [a, b] }
  - { name: 'one:read' }",
    );
    let one = &config.upstreams[0];
    assert_eq!(one.resource.as_str(), "https://tools.example.com/one/mcp");
    assert_eq!(one.host.as_deref(), Some("tools.example.com"));
    assert_eq!(one.headers.len(), 3);
    assert!(one.headers.iter().all(|(_, value)| value.is_sensitive()));
    assert_eq!(one.identity_headers.len(), 7);
    assert_eq!(one.allowed_origins, ["https://claude.ai", "http://localhost:6274", "*"]);
    assert_eq!((one.limits.body, one.limits.requests_per_minute), (65_536, Some(60)));
    assert_eq!(one.limits.idle_stream, Some(Duration::from_secs(86_400)));
    let root = &config.upstreams[1];
    assert_eq!(
        (root.path.as_str(), root.resource.as_str()),
        ("", "https://root.example.com:8443")
    );
    assert_eq!(
        (root.url.tls, root.url.host.as_str(), root.url.port),
        (true, "::1", 443)
    );
    assert_eq!(root.url.authority, "[::1]");
    assert_eq!(
        (config.upstreams[2].path.as_str(), config.upstreams[2].url.path.as_str()),
        ("/one/mcp", "/")
    );
    assert_eq!(config.upstreams[2].url.authority, "mcp.internal:9");
    assert_eq!(
        (config.upstreams[3].url.port, config.upstreams[3].url.path.as_str()),
        (80, "/")
    );
    assert_eq!(config.listen.len(), 3);
    assert_eq!(
        config.store,
        StoreConfig::Sled {
            path: "/var/lib/mcpgate".into()
        }
    );
    let oauth = &config.oauth;
    assert!(oauth.scopes.is_empty() && !oauth.require_pkce && !oauth.issuer_in_response && !oauth.dynamic_registration);
    assert_eq!(
        (oauth.refresh_grace, oauth.endpoint_prefix.as_str()),
        (Duration::ZERO, "/api/auth/mcp")
    );
    assert_eq!(config.root_upstream().unwrap().name, "two");
    assert!(oauth.allowed_redirect_hosts[1].matches("a.example.com"));
    let [public, secret, either] = oauth.clients.as_slice() else {
        panic!("three clients")
    };
    assert_eq!(
        (public.auth_method, public.is_confidential()),
        (Some(ClientAuthMethod::None), false)
    );
    assert_eq!(public.scope.as_ref().unwrap().to_string(), "one:read extra");
    assert_eq!(public.grant_types, GrantType::ALL);
    assert_eq!(secret.auth_method, Some(ClientAuthMethod::ClientSecretPost));
    assert!(secret.secret.unwrap().matches("a secret of many letters"));
    assert_eq!(
        (secret.grant_types.as_slice(), secret.name.as_deref()),
        (&[GrantType::AuthorizationCode][..], Some("Secret"))
    );
    assert!(either.secret.unwrap().matches("a secret in a file"));
    assert_eq!(either.auth_method, None);
    assert_eq!(
        config.scopes[0].groups.as_deref(),
        Some(&["a".to_owned(), "b".to_owned()][..])
    );
    assert_eq!(config.scopes[1].groups, None);
}

#[test]
fn sections_without_a_value_are_as_good_as_none() {
    with("listen:\nadmin:\nstore:\n  sled:\noauth:\n  clients:\n  registration:\nscopes: ~");
}

#[test]
fn no_secret_is_printed() {
    let config = with(
        "    headers: { X-Key: the key of the upstream }
oauth: { clients: [ { client_id: c, client_secret: the secret of the client, redirect_uris: ['https://x.example/'] } ] }",
    );
    let printed = format!("{config:?} {config:#?}");
    for secret in [
        "the key of",
        "the secret of",
        "saSKtCUxgrqI1gLOKTbpOA",
        "9kajQeEb",
        "argon2",
    ] {
        assert!(!printed.contains(secret), "{secret} is in {printed}");
    }
    // Nor when it is wrong.
    let text = base().replace(HASH, "$argon2i$v=19$m=19456,t=2,p=1$c2VjcmV0$hunter2hunter2")
        + "    headers: { X-Key: \"hunter2\\n\", X-Other: 'hunter2 ' }\n"
        + "  - { name: b, path: /b, url: 'http://ada:hunter2@example.com/' }\n"
        + "oauth: { clients: [ { client_id: c, client_secret: hunter2, redirect_uris: ['https://x.example/'] } ] }\n";
    let found = parse(&text).unwrap_err();
    assert_eq!(found.iter().count(), 5, "{found}");
    assert!(!format!("{found} {found:?}").contains("hunter2"), "{found}");
}
