//! gateway.yaml: the example, the defaults, every way to get it wrong, and text that nobody would write.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use mcpgate::config::{self, Claim, Config, Limits, Problems, RootResource, StoreConfig};
use mcpgate::domain::client::{ClientAuthMethod, GrantType, KeySource};
use mcpgate::domain::rules::Demand;
use mcpgate::domain::scope::Scope;
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
                if !path.ends_with("].headers")
                    && !path.ends_with(".password_hash")
                    && !path.ends_with("].jwks")
                    && !path.ends_with("].groups_map")
                {
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
        "oauth.registration.initial_access_tokens[].",
        "oauth.clients[].",
        "oauth.trusted_issuers[].",
        "scopes[].",
        "users[].email",
        "users[].name",
        "users[].groups",
        "identity_providers[].",
        "upstreams[].host",
        "upstreams[].identity_jwt.",
        "upstreams[].tools[].",
        "upstreams[].resources[].",
        "upstreams[].prompts[].",
        "upstreams[].methods[].",
        "upstreams[].tls",
        "admin.token",
        "audit",
        "oauth.login_page",
        "outbound.ca",
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
    for (to, from) in [
        ("tls/cert.pem", "cert.pem"),
        ("tls/key.pem", "key.pem"),
        ("tls/company-ca.pem", "cert.pem"),
    ] {
        std::fs::create_dir_all(directory.path().join("tls")).unwrap();
        std::fs::copy(Path::new("tests/fixtures/tls").join(from), directory.path().join(to)).unwrap();
    }
    std::fs::create_dir(directory.path().join("secrets")).unwrap();
    std::fs::write(
        directory.path().join("secrets/nightly"),
        "the secret of the nightly job\n",
    )
    .unwrap();
    std::fs::write(
        directory.path().join("secrets/registration"),
        "a token for registration\n",
    )
    .unwrap();
    std::fs::write(directory.path().join("secrets/entra"), "the secret at Entra\n").unwrap();
    std::fs::write(directory.path().join("keys.json"), "{\"keys\": []}").unwrap();
    let environment = |name: &str| {
        [
            "CI_RUNNER_SECRET",
            "EVERYTHING_KEY",
            "REGISTRATION_TOKEN",
            "GOOGLE_SECRET",
            "COMPANY_SECRET",
            "GITHUB_SECRET",
        ]
        .contains(&name)
        .then(|| format!("the value of {name}"))
    };
    let config = config::parse(&text, directory.path(), &environment).unwrap_or_else(|p| panic!("{p}\n{text}"));
    assert_eq!(config.listen.len(), 2);
    assert!(config.listen[1].tls.is_some());
    assert_eq!(config.oauth.clients.len(), 4);
    assert_eq!(config.outbound_roots.len(), 1);
    assert!(
        config.oauth.clients[0]
            .secret
            .unwrap()
            .matches("the value of CI_RUNNER_SECRET")
    );
    assert!(
        config.oauth.clients[3]
            .secret
            .unwrap()
            .matches("the secret of the nightly job")
    );
    let tokens = &config.oauth.initial_access_tokens;
    assert!(tokens[0].matches("the value of REGISTRATION_TOKEN") && tokens[1].matches("a token for registration"));
    assert_eq!(config.scopes[0].implies.to_string(), "profile");
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
    assert!(upstream.bind_sessions && upstream.filter_lists && upstream.rules.is_empty());
    assert_eq!(upstream.keep_alive, Some(Duration::from_secs(25)));
    assert_eq!(upstream.limits, Limits::default());
    assert_eq!((upstream.limits.body, upstream.limits.idle_stream), (4 << 20, None));
    assert_eq!(upstream.limits.connect_timeout, Duration::from_secs(5));
    assert_eq!(upstream.limits.response_timeout, Duration::from_secs(60));
    assert_eq!(upstream.limits.requests_per_minute, None);
    assert_eq!(upstream.limits, mcpgate::config::Limits::default());
    assert_eq!(upstream.identity_jwt, None);
}

/// Spec: A2, A13, L12
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

/// Spec: K4, K10
#[test]
fn sessions_and_silence_can_be_left_alone() {
    let upstream = &with("    bind_sessions: false\n    keep_alive: none").upstreams[0];
    assert_eq!((upstream.bind_sessions, upstream.keep_alive), (false, None));
    let upstream = &with("    keep_alive: 5m").upstreams[0];
    assert_eq!(upstream.keep_alive, Some(Duration::from_secs(300)));
}

#[test]
fn encryption_and_proxies_are_read() {
    let config = with(
        "    http2: true
  - { name: two, path: /two, url: 'https://mcp.internal:9/', tls: {ca: tls/cert.pem, cert: tls/site-cert.pem, key: tls/site-key.pem, server_name: MCP.internal} }
listen:
  - { address: 0.0.0.0:8443, tls: {cert: tls/cert.pem, key: tls/key.pem} }
  - address: 0.0.0.0:8444
    http2: false
    proxy_protocol: true
    tls: [{cert: tls/cert.pem, key: tls/key.pem}, {cert: tls/site-cert.pem, key: tls/site-key.pem}]
trusted_proxies: [10.0.0.0/8, 192.0.2.7, '2001:db8::/32']
watch_files: true
oauth: { clients: [{ client_id: a, client_secret: {file: secret.txt}, redirect_uris: ['https://x.example/cb'] }] }",
    );
    let tls = config.listen[0].tls.as_ref().unwrap();
    assert!(tls.http2 && !config.listen[0].proxy_protocol);
    assert_eq!(tls.server_config().unwrap().alpn_protocols, [&b"h2"[..], b"http/1.1"]);
    let tls = config.listen[1].tls.as_ref().unwrap();
    assert!(!tls.http2 && config.listen[1].proxy_protocol);
    assert_eq!(tls.server_config().unwrap().alpn_protocols, [b"http/1.1"]);
    assert_eq!(tls.certificates[0].names(), ["localhost"]);
    assert_eq!(tls.certificates[1].names(), ["localhost"]);
    assert!(config.trusted_proxies.contain("10.9.9.9".parse().unwrap()) && config.watch_files);
    assert!(!config.trusted_proxies.contain("192.0.2.8".parse().unwrap()));
    let upstream = &config.upstreams[1].tls;
    assert_eq!(upstream.server_name.as_deref(), Some("mcp.internal"));
    assert_eq!(upstream.authorities.as_ref().map(Vec::len), Some(1));
    assert_eq!(upstream.certificate.as_ref().unwrap().title(), "localhost");
    upstream.client_config(true).unwrap();
    assert!(config.upstreams[0].http2 && !config.upstreams[1].http2);
    let files: Vec<_> = config
        .files
        .iter()
        .map(|file| file.path.strip_prefix("tests/fixtures").unwrap())
        .collect();
    let read = [
        "secret.txt",
        "tls/cert.pem",
        "tls/key.pem",
        "tls/site-cert.pem",
        "tls/site-key.pem",
    ];
    assert_eq!(files, read.map(Path::new));
}

#[test]
fn limits_and_signed_identity_are_read() {
    let config = with(
        "    identity_jwt: { header: X-Signed, audience: tools, lifetime: 30s }
    limits: { client_requests_per_minute: 61, tool_calls_per_minute: 62, concurrent_requests: 1, concurrent_streams: 2, total_concurrent_requests: 1000000, total_concurrent_streams: 3 }",
    );
    let one = &config.upstreams[0];
    let limits = &one.limits;
    assert_eq!(
        [
            limits.client_requests_per_minute,
            limits.tool_calls_per_minute,
            limits.concurrent_requests
        ],
        [Some(61), Some(62), Some(1)]
    );
    assert_eq!(
        [
            limits.concurrent_streams,
            limits.total_concurrent_requests,
            limits.total_concurrent_streams
        ],
        [Some(2), Some(1_000_000), Some(3)]
    );
    let signed = one.identity_jwt.as_ref().unwrap();
    assert_eq!(
        (signed.header.as_str(), signed.audience.as_deref(), signed.lifetime),
        ("x-signed", Some("tools"), Duration::from_secs(30))
    );
    assert!(with("    identity_jwt: true").upstreams[0].identity_jwt.is_some());
    assert!(with("    identity_jwt: false").upstreams[0].identity_jwt.is_none());
}

#[test]
fn rules_are_read_and_their_scopes_are_the_server_s() {
    let config = with(
        "    filter_lists: false\n    tools:\n    - { match: \"get-*\", scopes: [] }\n    - { match: \"*\", scopes: [one:x, one:y] }\n    \
         prompts: [{ match: p, deny: true }]\n    methods: [{ match: \"tasks/*\", deny: false, scopes: [one:z] }]",
    );
    let upstream = &config.upstreams[0];
    assert!(!upstream.filter_lists && upstream.scopes.is_empty());
    assert_eq!((upstream.rules.tools.len(), upstream.rules.resources.len()), (2, 0));
    assert_eq!(upstream.rules.tools[0].demand, Demand::Scopes(Scope::empty()));
    assert_eq!(upstream.rules.prompts[0].demand, Demand::Deny);
    assert_eq!(upstream.rules.scopes().to_string(), "one:x one:y one:z");
    for scope in ["one:x", "one:y", "one:z"] {
        assert!(
            config.scopes_of(upstream).contains(scope) && config.all_scopes().contains(scope),
            "{scope}"
        );
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
    limits: { body: 65536, connect_timeout: 1s, response_timeout: 1h, idle_stream: 1d, requests_per_minute: 60, client_requests_per_minute: 61, tool_calls_per_minute: 62, concurrent_requests: 1, concurrent_streams: 2, total_concurrent_requests: 1000000, total_concurrent_streams: 3 }
    identity_jwt: { header: X-Signed, audience: tools, lifetime: 30s }
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
    let default = [GrantType::AuthorizationCode, GrantType::RefreshToken];
    assert_eq!(public.grant_types, default);
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

/// Spec: B6a
#[test]
fn documents_and_keys_of_clients_are_read() {
    let config = good(&format!(
        "{}outbound: {{ca: tls/cert.pem}}\noauth:\n  registration: {{ allowed_client_hosts: [claude.ai], denied_client_hosts: ['*.evil.example'] }}\n  clients:
    - {{ client_id: 'https://client.example/document', jwks: {{keys: [{{kty: OKP, crv: Ed25519, x: AAAA, key_ops: [verify]}}]}}, redirect_uris: ['https://x.example/cb'] }}
    - {{ client_id: remote, jwks_uri: 'https://x.example/keys', token_endpoint_auth_method: private_key_jwt, redirect_uris: ['https://x.example/cb'] }}
",
        base()
    ));
    let oauth = &config.oauth;
    let hosts = oauth.client_documents.as_ref().unwrap();
    assert!(hosts.welcome("claude.ai") && !hosts.welcome("x.claude.ai") && !hosts.welcome("a.evil.example"));
    assert_eq!(config.outbound_roots.len(), 1);
    let [signs, remote] = oauth.clients.as_slice() else {
        panic!("two clients")
    };
    assert_eq!(signs.auth_method, Some(ClientAuthMethod::PrivateKeyJwt));
    let inline = r#"{"keys":[{"crv":"Ed25519","key_ops":["verify"],"kty":"OKP","x":"AAAA"}]}"#;
    assert_eq!(
        signs.keys.as_ref().unwrap().source,
        KeySource::Inline(inline.to_owned())
    );
    assert_eq!(
        remote.keys.as_ref().unwrap().source,
        KeySource::At("https://x.example/keys".to_owned())
    );
    assert!(signs.is_confidential() && remote.is_confidential());
    let open = good(&base()).oauth.client_documents.unwrap();
    assert!(open.welcome("claude.ai") && open.denied.is_empty());
    let closed = "oauth: { registration: { client_id_metadata_documents: false } }\n";
    assert_eq!(good(&format!("{}{closed}", base())).oauth.client_documents, None);
}

#[test]
fn a_host_of_its_own_makes_the_resource() {
    for (public, host, stored, resource) in [
        (
            "https://mcp.example.com",
            "a.example",
            "a.example",
            "https://a.example/one/mcp",
        ),
        (
            "https://mcp.example.com",
            "A.example:443",
            "a.example",
            "https://a.example/one/mcp",
        ),
        (
            "https://mcp.example.com",
            "a.example:80",
            "a.example:80",
            "https://a.example:80/one/mcp",
        ),
        (
            "https://mcp.example.com:8443",
            "a.example",
            "a.example",
            "https://a.example:8443/one/mcp",
        ),
        (
            "https://mcp.example.com:8443",
            "a.example:443",
            "a.example",
            "https://a.example/one/mcp",
        ),
        (
            "https://mcp.example.com:8443",
            "mcp.example.com:9443",
            "mcp.example.com:9443",
            "https://mcp.example.com:9443/one/mcp",
        ),
        ("http://127.0.0.1:8080", "'[::1]'", "[::1]", "http://[::1]:8080/one/mcp"),
        ("http://127.0.0.1:8080", "'[::1]:80'", "[::1]", "http://[::1]/one/mcp"),
    ] {
        let text = base().replace("https://mcp.example.com", public) + &format!("    host: {host}\n");
        let upstream = &good(&text).upstreams[0];
        assert_eq!(
            (upstream.host.as_deref(), upstream.resource.as_str()),
            (Some(stored), resource)
        );
    }
}

#[test]
fn line_ends_and_a_byte_order_mark_do_not_matter() {
    good(&base().replace('\n', "\r\n"));
    good(&format!("\u{feff}{}", base()));
}

#[test]
fn sections_without_a_value_are_as_good_as_none() {
    with("listen:\nadmin:\nstore:\n  sled:\noauth:\n  clients:\n  registration:\nscopes: ~");
}

/// Spec: L14
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

// === what is wrong ===

/// Lines added to the base (from line 9), and where and why they are refused.
#[rustfmt::skip]
const WRONG: &[(&str, &str, usize, &str)] = &[
    // keys
    ("lissten: 127.0.0.1:1", "lissten", 9, "did you mean `listen`?"),
    ("identity_provider: []", "identity_provider", 9, "did you mean `identity_providers`"),
    ("\"a\\nb\": 1", "a\\nb", 9, "not known"),
    ("store: { postgres: { url: x } }", "store.postgres", 9, "not known in this version; known here: sled"),
    ("oauth: { login_page: mine }", "oauth.login_page", 9, "must be builtin, or a page"),
    ("oauth: { login_page: { url: \"https://a.example/\" } }", "oauth.login_page.secret", 9, "is missing"),
    ("oauth: { login_page: { secret: 0123456789abcdef } }", "oauth.login_page.url", 9, "is missing"),
    ("oauth: { login_page: { url: \"http://a.example/\", secret: 0123456789abcdef } }", "oauth.login_page.url", 9, "is no https URL"),
    ("oauth: { login_page: { url: \"https://a.example/#x\", secret: 0123456789abcdef } }", "oauth.login_page.url", 9, "without a fragment"),
    ("oauth: { login_page: { url: \"https://a.example/\", secret: short } }", "oauth.login_page.secret", 9, "shorter than 16"),
    ("oauth:\n  registration:\n    client_id_metadata_document: true", "oauth.registration.client_id_metadata_document", 11, "did you mean `client_id_metadata_documents`?"),
    ("    toolz: []", "upstreams[0].toolz", 9, "not known in this version"),
    ("    limits: { bodi: 1 }", "upstreams[0].limits.bodi", 9, "did you mean `body`?"),
    ("admin: { listen: 127.0.0.1:1, metrics: true }", "admin.metrics", 9, "known here: listen, token"),
    ("    path: /two", "upstreams[0].path", 9, "is there twice; the first is on line 7"),
    ("public_url: https://other.example.com", "public_url", 9, "is there twice; the first is on line 1"),
    ("<<: { listen: 127.0.0.1:1 }", "<<", 9, "not known"),
    // types
    ("oauth: true", "oauth", 9, "must be a map with the keys scopes,"),
    ("oauth: []", "oauth", 9, "must be a map"),
    ("store: ./data", "store", 9, "must be a map with the keys sled"),
    ("store: { sled: { path: [a] } }", "store.sled.path", 9, "must be text, not a list"),
    ("store: { sled: { path: 12 } }", "store.sled.path", 9, "must be text; put it in quotes"),
    ("store: { sled: { path: '' } }", "store.sled.path", 9, "is empty"),
    ("store: { sled: { path: \"a\\nb\" } }", "store.sled.path", 9, "control character"),
    ("scopes: everything", "scopes", 9, "must be a list"),
    ("scopes: [{name: {}}]", "scopes[0].name", 9, "must be text, not a map"),
    ("oauth: { require_pkce: yes }", "oauth.require_pkce", 9, "must be true or false"),
    ("oauth: { require_pkce: \"true\" }", "oauth.require_pkce", 9, "must be true or false"),
    ("oauth: { registration: { dynamic: 1 } }", "oauth.registration.dynamic", 9, "must be true or false"),
    // anchors, aliases, tags
    ("scopes: &all []", "", 9, "anchors (&name) and aliases (*name) are not read"),
    ("scopes: !!seq []", "", 9, "tags (!name) are not read"),
    // listen
    ("listen: 8080", "listen", 9, "must be text"),
    ("listen: localhost:8081", "listen", 9, "write 127.0.0.1:8081"),
    ("listen: 127.0.0.1", "listen", 9, "is not an IP address with a port"),
    ("listen: 127.0.0.1:70000", "listen", 9, "is not an IP address with a port"),
    ("listen: []", "listen", 9, "is an empty list"),
    ("listen: { address: 127.0.0.1:1 }", "listen", 9, "write `- ` before `address`"),
    ("listen: [127.0.0.1:1, 127.0.0.1:1]", "listen[1]", 9, "taken by an earlier entry"),
    ("listen:\n  - 127.0.0.1:1\n  - 0.0.0.0:1", "listen[1]", 11, "taken by an earlier entry"),
    ("listen: [{}]", "listen[0].address", 9, "is missing; write `address: 127.0.0.1:8443`"),
    ("listen: 0.0.0.0:9090", "listen", 9, "is where admin.listen listens"),
    ("listen: 127.0.0.1:5\nadmin: { listen: 127.0.0.1:5 }", "listen", 9, "is where admin.listen listens"),
    ("admin: { listen: 127.0.0.1:8080 }", "admin.listen", 9, "is where the gateway itself listens"),
    ("admin: { listen: metrics }", "admin.listen", 9, "is not an IP address with a port"),
    ("listen: [{address: 127.0.0.1:1, tls: {cert: tls/cert.pem}}]", "listen[0].tls.key", 9, "is missing"),
    ("listen: [{address: 127.0.0.1:1, tls: {cert: no.pem, key: tls/key.pem}}]", "listen[0].tls.cert", 9, "cannot be read: No such file"),
    ("listen: [{address: 127.0.0.1:1, tls: {cert: tls, key: tls/key.pem}}]", "listen[0].tls.cert", 9, "not a regular file"),
    ("listen: [{address: 127.0.0.1:1, tls: {cert: tls/key.pem, key: tls/key.pem}}]", "listen[0].tls.cert", 9, "holds no certificate"),
    ("listen: [{address: 127.0.0.1:1, tls: {cert: tls/cert.pem, key: tls/cert.pem}}]", "listen[0].tls.key", 9, "holds no private key"),
    ("listen: [{address: 127.0.0.1:1, tls: {cert: tls/cert.pem, key: tls/other-key.pem}}]", "listen[0].tls", 9, "cannot be used together"),
    ("listen: [{address: 127.0.0.1:1, tls: [{cert: tls/cert.pem, key: tls/key.pem}, {cert: tls/cert.pem, key: tls/site-key.pem}]}]", "listen[0].tls[1]", 9, "cannot be used together"),
    ("listen: [{address: 127.0.0.1:1, tls: []}]", "listen[0].tls", 9, "must have 1 to 64 certificates"),
    ("listen: [{address: 127.0.0.1:1, tls: [{cert: tls/cert.pem}]}]", "listen[0].tls[0].key", 9, "is missing"),
    ("listen: [{address: 127.0.0.1:1, http2: true}]", "listen[0].http2", 9, "is for listeners with `tls`"),
    ("listen: [{address: 127.0.0.1:1, proxy_protocol: true}]", "listen[0].proxy_protocol", 9, "needs trusted_proxies"),
    ("trusted_proxies: 10.0.0.0/8", "trusted_proxies", 9, "must be a list"),
    ("trusted_proxies: [10.0.0.1/8]", "trusted_proxies[0]", 9, "write 10.0.0.0/8"),
    ("trusted_proxies: [0.0.0.0/0]", "trusted_proxies[0]", 9, "is everybody"),
    ("trusted_proxies: ['::/0']", "trusted_proxies[0]", 9, "is everybody"),
    ("trusted_proxies: [proxy.internal]", "trusted_proxies[0]", 9, "is not an address or a network"),
    ("watch_files: yes please", "watch_files", 9, "must be true or false"),
    // oauth
    ("oauth: { code_expires_in: 600 }", "oauth.code_expires_in", 9, "has no unit; write 600s"),
    ("oauth: { code_expires_in: 10 minutes }", "oauth.code_expires_in", 9, "is not a duration"),
    ("oauth: { code_expires_in: 11m }", "oauth.code_expires_in", 9, "must be between 1s and 10m"),
    ("oauth: { code_expires_in: 0s }", "oauth.code_expires_in", 9, "must be between 1s and 10m"),
    ("oauth: { access_token_expires_in: 31d }", "oauth.access_token_expires_in", 9, "must be between 1s and 30d"),
    ("oauth: { access_token_expires_in: [1h] }", "oauth.access_token_expires_in", 9, "is not a duration"),
    ("oauth: { refresh_token_expires_in: 366d }", "oauth.refresh_token_expires_in", 9, "must be between 1s and 365d"),
    ("oauth: { refresh_token_expires_in: 30m }", "oauth.refresh_token_expires_in", 9, "at least as long as an access token"),
    ("oauth: { access_token_expires_in: 8d }", "oauth.access_token_expires_in", 9, "at least as long as an access token"),
    ("oauth: { refresh_grace: 11m }", "oauth.refresh_grace", 9, "must be between 0s and 10m"),
    ("oauth: { scopes: [a, a] }", "oauth.scopes[1]", 9, "twice"),
    ("oauth: { scopes: ['a b'] }", "oauth.scopes[0]", 9, "is not a scope"),
    ("oauth: { endpoint_prefix: api }", "oauth.endpoint_prefix", 9, "must begin with `/`"),
    ("oauth: { endpoint_prefix: /.well-known/x }", "oauth.endpoint_prefix", 9, "belongs to the gateway"),
    ("oauth: { endpoint_prefix: /token }", "oauth.endpoint_prefix", 9, "/token belongs to the gateway"),
    ("oauth: { endpoint_prefix: /one }", "upstreams[0].path", 7, "overlaps oauth.endpoint_prefix, which is /one"),
    ("oauth: { root_resource: two }", "oauth.root_resource", 9, "no upstream is named \"two\""),
    ("oauth: { registration: { allowed_redirect_hosts: ['https://claude.ai'] } }", "oauth.registration.allowed_redirect_hosts[0]", 9, "is not a host"),
    ("oauth: { clients: [{redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].client_id", 9, "is missing"),
    ("oauth: { clients: [{client_id: a}] }", "oauth.clients[0].redirect_uris", 9, "is missing"),
    ("oauth: { clients: [{client_id: a, redirect_uris: []}] }", "oauth.clients[0].redirect_uris", 9, "empty list"),
    ("oauth: { clients: [{client_id: a, redirect_uris: ['http://x.example/']}] }", "oauth.clients[0].redirect_uris[0]", 9, "http is allowed only for localhost"),
    ("oauth: { clients: [{client_id: a, redirect_uris: ['https://x.example/', 'https://x.example/']}] }", "oauth.clients[0].redirect_uris[1]", 9, "twice"),
    ("oauth: { clients: [{client_id: a b, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].client_id", 9, "is not a client id"),
    ("oauth:\n  clients:\n    - { client_id: a, redirect_uris: ['https://x.example/'] }\n    - { client_id: a, redirect_uris: ['https://x.example/'] }", "oauth.clients[1].client_id", 12, "earlier client"),
    ("oauth: { clients: [{client_id: a, client_secret: short, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].client_secret", 9, "shorter than 16"),
    ("oauth: { clients: [{client_id: a, client_secret: {env: SHORT}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].client_secret", 9, "shorter than 16"),
    ("oauth: { clients: [{client_id: a, client_secret: {env: NOT_SET}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].client_secret.env", 9, "variable \"NOT_SET\" is not set"),
    ("oauth: { clients: [{client_id: a, client_secret: {env: EMPTY}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].client_secret", 9, "the secret is empty"),
    ("oauth: { clients: [{client_id: a, client_secret: {file: empty.txt}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].client_secret", 9, "the secret is empty"),
    ("oauth: { clients: [{client_id: a, client_secret: {file: none.txt}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].client_secret.file", 9, "cannot be read: No such file"),
    ("oauth: { clients: [{client_id: a, client_secret: {file: /dev/zero}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].client_secret.file", 9, "not a regular file"),
    ("oauth: { clients: [{client_id: a, client_secret: {env: A_SECRET, file: secret.txt}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].client_secret", 9, "{env: NAME} or {file: PATH}"),
    ("oauth: { clients: [{client_id: a, client_secret: {environment: A}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].client_secret.environment", 9, "not known"),
    ("oauth: { clients: [{client_id: a, token_endpoint_auth_method: none, client_secret: {env: A_SECRET}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].token_endpoint_auth_method", 9, "must use it"),
    ("oauth: { clients: [{client_id: a, token_endpoint_auth_method: client_secret_basic, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].token_endpoint_auth_method", 9, "needs a client_secret"),
    ("oauth: { clients: [{client_id: a, token_endpoint_auth_method: private_key_jwt, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].token_endpoint_auth_method", 9, "needs keys"),
    ("oauth: { clients: [{client_id: a, token_endpoint_auth_method: tls_client_auth, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].token_endpoint_auth_method", 9, "write one of none, client_secret_post"),
    ("oauth: { clients: [{client_id: a, token_endpoint_auth_method: none, jwks_uri: 'https://x.example/k', redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].token_endpoint_auth_method", 9, "must use them"),
    ("oauth: { clients: [{client_id: a, client_secret: {env: A_SECRET}, jwks_uri: 'https://x.example/k', redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].jwks_uri", 9, "keep one of them"),
    ("oauth: { clients: [{client_id: a, jwks: {keys: []}, jwks_uri: 'https://x.example/k', redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].jwks_uri", 9, "cannot both be there"),
    ("oauth: { clients: [{client_id: a, jwks_uri: 'http://x.example/k', redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].jwks_uri", 9, "is not the address of a key set"),
    ("oauth: { clients: [{client_id: a, jwks: {}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].jwks", 9, "must be a key set"),
    ("oauth: { clients: [{client_id: a, jwks: {keys: []}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].jwks.keys", 9, "empty list"),
    ("oauth: { clients: [{client_id: a, jwks: {keys: [{kty: oct, k: aaaa}]}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].jwks.keys[0].k", 9, "private or a symmetric key"),
    ("oauth: { clients: [{client_id: a, jwks: {keys: [{kty: EC, crv: P-384, x: a, y: b}]}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].jwks.keys[0]", 9, "another curve"),
    ("oauth: { clients: [{client_id: a, jwks: {keys: [{kty: RSA, n: a}]}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].jwks.keys[0]", 9, "without e"),
    ("oauth: { clients: [{client_id: a, jwks: {keys: [{x: a}]}, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].jwks.keys[0]", 9, "needs a kty"),
    ("oauth: { registration: { client_id_metadata_documents: maybe } }", "oauth.registration.client_id_metadata_documents", 9, "must be true or false"),
    ("oauth: { registration: { allowed_client_hosts: ['https://claude.ai'] } }", "oauth.registration.allowed_client_hosts[0]", 9, "is not a host"),
    ("oauth: { registration: { denied_client_hosts: ['a b'] } }", "oauth.registration.denied_client_hosts[0]", 9, "is not a host"),
    ("outbound: { ca: none.pem }", "outbound.ca", 9, "cannot be read"),
    ("outbound: { ca: secret.txt }", "outbound.ca", 9, "holds no certificate"),
    ("outbound: { proxy: 'http://127.0.0.1:1' }", "outbound.proxy", 9, "not known"),
    ("oauth: { clients: [{client_id: a, grant_types: [refresh_token], redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].grant_types", 9, "lacks authorization_code"),
    ("oauth: { clients: [{client_id: a, grant_types: [authorization_code, implicit], redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].grant_types[1]", 9, "\"implicit\" is not known"),
    ("oauth: { clients: [{client_id: a, scope: nowhere, redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].scope", 9, "nowhere is no scope of this gateway"),
    ("oauth: { clients: [{client_id: a, scope: [openid, nowhere], redirect_uris: ['https://x.example/']}] }", "oauth.clients[0].scope[1]", 9, "nowhere is no scope of this gateway"),
    // scopes
    ("scopes: [{description: x}]", "scopes[0].name", 9, "is missing"),
    ("scopes: [{name: a}, {name: a}]", "scopes[1].name", 9, "described by an earlier entry"),
    ("scopes: [{name: a, groups: ['']}]", "scopes[0].groups[0]", 9, "is empty"),
    ("scopes: [{name: a, groups: engineering}]", "scopes[0].groups", 9, "must be a list"),
    // upstreams
    ("  - { name: two, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "is missing; write `path: /everything/mcp`"),
    ("  - { path: /two, url: 'http://127.0.0.1:1/' }", "upstreams[1].name", 9, "is missing"),
    ("  - { name: two, path: /two }", "upstreams[1].url", 9, "is missing; write `url: http://127.0.0.1:3001/mcp`"),
    ("  - { name: one, path: /two, url: 'http://127.0.0.1:1/' }", "upstreams[1].name", 9, "is the name of an earlier upstream"),
    ("  - { name: Two, path: /two, url: 'http://127.0.0.1:1/' }", "upstreams[1].name", 9, "is not a name"),
    ("  - { name: auto, path: /two, url: 'http://127.0.0.1:1/' }", "upstreams[1].name", 9, "has a meaning in oauth.root_resource"),
    ("  - { name: two, path: /one/mcp/, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "overlaps the path of one (/one/mcp)"),
    ("  - { name: two, path: /one, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "overlaps"),
    ("  - { name: two, path: /one/mcp/sub, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "overlaps"),
    ("  - { name: two, path: /, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "overlaps"),
    ("    host: a.example\n  - { name: two, host: 'A.example:1', path: /one, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 10, "overlaps"),
    ("  - { name: two, path: two, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "must begin with `/`; write \"/two\""),
    ("  - { name: two, path: //, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "empty segment"),
    ("  - { name: two, path: /a//b, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "empty segment"),
    ("  - { name: two, path: /a/../b, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "`..`"),
    ("  - { name: two, path: /a%2fb, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "has '%' in it"),
    ("  - { name: two, path: /a;b, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "has ';' in it"),
    ("  - { name: two, path: '/a?b', url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "has '?' in it"),
    ("  - { name: two, path: /ä, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "has 'ä' in it"),
    ("  - { name: two, path: /device, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "/device belongs to the gateway"),
    ("  - { name: two, path: /token, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "/token belongs to the gateway"),
    ("  - { name: two, path: /login/mcp, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "/login belongs to the gateway"),
    ("  - { name: two, path: /x/.well-known, url: 'http://127.0.0.1:1/' }", "upstreams[1].path", 9, "`.well-known` belongs to the gateway"),
    ("  - { name: two, path: /two, url: 'localhost:3001' }", "upstreams[1].url", 9, "\"localhost:3001\" is not an absolute http or https URL; write http://localhost:3001/mcp"),
    ("  - { name: two, path: /two, url: /mcp }", "upstreams[1].url", 9, "write http://127.0.0.1:3001/mcp"),
    ("  - { name: two, path: /two, url: 'ftp://x/' }", "upstreams[1].url", 9, "is not an absolute http or https URL"),
    ("  - { name: two, path: /two, url: 'http:///x' }", "upstreams[1].url", 9, "is not an absolute http or https URL"),
    ("  - { name: two, path: /two, url: 'http://x:0/' }", "upstreams[1].url", 9, "is not an absolute http or https URL"),
    ("  - { name: two, path: /two, url: 'http://x y/' }", "upstreams[1].url", 9, "is not an absolute http or https URL"),
    ("  - { name: two, path: /two, url: 'http://u:p@x/' }", "upstreams[1].url", 9, "carries a user name or password"),
    ("  - { name: two, path: /two, url: 'http://x/?key=1' }", "upstreams[1].url", 9, "query or a fragment"),
    ("  - { name: two, path: /two, url: 'http://x/#f' }", "upstreams[1].url", 9, "query or a fragment"),
    ("  - { name: two, path: /two, url: 'http://127.0.0.1:8080/mcp' }", "upstreams[1].url", 9, "is this gateway itself"),
    ("  - { name: two, path: /two, url: 'https://mcp.example.com/one/mcp' }", "upstreams[1].url", 9, "is this gateway itself"),
    ("    host: mcp.example.com", "upstreams[0].host", 9, "is the host of public_url"),
    ("    host: mcp.example.com:443", "upstreams[0].host", 9, "is the host of public_url"),
    ("    host: https://a.example", "upstreams[0].host", 9, "is not a host"),
    ("    host: a.example/x", "upstreams[0].host", 9, "is not a host"),
    ("    host: a..example", "upstreams[0].host", 9, "is not a host"),
    ("    host: 'a.example:'", "upstreams[0].host", 9, "is not a host"),
    ("    host: a.example:080", "upstreams[0].host", 9, "is not a host"),
    ("    host: a.example.", "upstreams[0].host", 9, "is not a host"),
    ("    host: '127.1'", "upstreams[0].host", 9, "is not a host"),
    ("    host: ada@a.example", "upstreams[0].host", 9, "is not a host"),
    ("    host: a.example:99999", "upstreams[0].host", 9, "is not a host"),
    ("    scopes: one", "upstreams[0].scopes", 9, "must be a list"),
    ("    identity_headers: none", "upstreams[0].identity_headers", 9, "must be `default` or a map"),
    ("    identity_headers: { X-User: password }", "upstreams[0].identity_headers.X-User", 9, "write one of subject, username"),
    ("    identity_headers: { X_User: subject }", "upstreams[0].identity_headers.X_User", 9, "has `_` in it"),
    ("    identity_headers: { X-User: subject, x-user: email }", "upstreams[0].identity_headers.x-user", 9, "is there twice"),
    ("    identity_headers: { Authorization: subject }", "upstreams[0].identity_headers.Authorization", 9, "carries a credential"),
    ("    identity_headers: { X-Forwarded-For: subject }", "upstreams[0].identity_headers.X-Forwarded-For", 9, "belongs to the transport"),
    ("    identity_headers: { 'X User': subject }", "upstreams[0].identity_headers.X User", 9, "is not a header name"),
    ("    headers: [a]", "upstreams[0].headers", 9, "must be a map"),
    ("    headers: { Host: x }", "upstreams[0].headers.Host", 9, "belongs to the transport"),
    ("    headers: { Mcp-Session-Id: x }", "upstreams[0].headers.Mcp-Session-Id", 9, "belongs to the transport"),
    ("    headers: { transfer_encoding: x }", "upstreams[0].headers.transfer_encoding", 9, "belongs to the transport"),
    ("    headers: { X_Forwarded_User: ada }", "upstreams[0].headers.X_Forwarded_User", 9, "says who is calling"),
    ("    identity_headers: { X-Who: subject }\n    headers: { x-who: ada }", "upstreams[0].headers.x-who", 10, "says who is calling"),
    ("    headers: { X-Key: {env: NOT_SET} }", "upstreams[0].headers.X-Key.env", 9, "is not set"),
    ("    headers: { X-Key: clé }", "upstreams[0].headers.X-Key", 9, "visible ASCII"),
    ("    headers: { X-Key: 12 }", "upstreams[0].headers.X-Key", 9, "put it in quotes"),
    ("    allowed_origins: ['https://claude.ai/']", "upstreams[0].allowed_origins[0]", 9, "is not an origin; write https://claude.ai"),
    ("    allowed_origins: [claude.ai]", "upstreams[0].allowed_origins[0]", 9, "is not an origin"),
    ("    allowed_origins: ['null']", "upstreams[0].allowed_origins[0]", 9, "is not an origin"),
    ("    allowed_origins: ['*', '*']", "upstreams[0].allowed_origins[1]", 9, "twice"),
    ("    filter_lists: maybe", "upstreams[0].filter_lists", 9, "true or false"),
    ("    tools: all", "upstreams[0].tools", 9, "must be a list"),
    ("    tools: [get]", "upstreams[0].tools[0]", 9, "must be a map with the keys match, scopes, deny"),
    ("    tools: [{ scopes: [] }]", "upstreams[0].tools[0].match", 9, "is missing"),
    ("    tools: [{ match: \"\", deny: true }]", "upstreams[0].tools[0].match", 9, "is empty"),
    ("    tools: [{ match: \"a \", deny: true }]", "upstreams[0].tools[0].match", 9, "ends with a blank"),
    ("    resources: [{ match: 'https://Example.com:443/*', deny: true }]", "upstreams[0].resources[0]", 9, "write \"https://example.com/*\""),
    ("    resources: [{ match: 'file:/secret/*', deny: true }]", "upstreams[0].resources[0]", 9, "write \"file:///secret/*\""),
    ("    tools: [{ match: a }]", "upstreams[0].tools[0].scopes", 9, "or `deny: true`"),
    ("    tools: [{ match: a, scope: [b] }]", "upstreams[0].tools[0].scope", 9, "did you mean `scopes`?"),
    ("    prompts: [{ match: a, deny: yes please }]", "upstreams[0].prompts[0].deny", 9, "true or false"),
    ("    resources: [{ match: a, scopes: [\"a b\"] }]", "upstreams[0].resources[0].scopes[0]", 9, "is not a scope"),
    ("    methods: [{ match: a, scopes: [b], deny: true }]", "upstreams[0].methods[0].scopes", 9, "keep one of them"),
    ("    tools:\n    - { match: \"*\", deny: true }\n    - { match: a, scopes: [] }", "upstreams[0].tools[1]", 11, "\"*\" on line 10 matches first"),
    ("    tools:\n    - { match: a, deny: true }\n    - { match: a, scopes: [] }", "upstreams[0].tools[1]", 11, "can never decide anything"),
    ("    bind_sessions: maybe", "upstreams[0].bind_sessions", 9, "true or false"),
    ("    keep_alive: 25", "upstreams[0].keep_alive", 9, "has no unit; write 25s"),
    ("    keep_alive: 0s", "upstreams[0].keep_alive", 9, "must be between 1s and 1h"),
    ("    limits: { body: 4MB }", "upstreams[0].limits.body", 9, "is not a size; write 64KiB or 4MiB"),
    ("    tls: { ca: tls/cert.pem }", "upstreams[0].tls", 9, "is for an https URL"),
    ("  - { name: b, path: /b, url: 'https://b.example', tls: { ca: secret.txt } }", "upstreams[1].tls.ca", 9, "holds no certificate"),
    ("  - { name: b, path: /b, url: 'https://b.example', tls: { cert: tls/cert.pem } }", "upstreams[1].tls.key", 9, "is missing"),
    ("  - { name: b, path: /b, url: 'https://b.example', tls: { key: tls/key.pem } }", "upstreams[1].tls.cert", 9, "is missing"),
    ("  - { name: b, path: /b, url: 'https://b.example', tls: { cert: tls/cert.pem, key: tls/other-key.pem } }", "upstreams[1].tls", 9, "cannot be used together"),
    ("  - { name: b, path: /b, url: 'https://b.example', tls: { server_name: 'a b' } }", "upstreams[1].tls.server_name", 9, "is not the name of a server"),
    ("    http2: maybe", "upstreams[0].http2", 9, "must be true or false"),
    ("    limits: { body: 0 }", "upstreams[0].limits.body", 9, "must be between 1 and"),
    ("    limits: { body: 2GiB }", "upstreams[0].limits.body", 9, "must be between 1 and"),
    ("    limits: { connect_timeout: none }", "upstreams[0].limits.connect_timeout", 9, "is not a duration"),
    ("    limits: { response_timeout: 0s }", "upstreams[0].limits.response_timeout", 9, "must be between 1s and 1h"),
    ("    limits: { idle_stream: never }", "upstreams[0].limits.idle_stream", 9, "is not a duration"),
    ("    limits: { requests_per_minute: 0 }", "upstreams[0].limits.requests_per_minute", 9, "whole number from 1"),
    ("    limits: { client_requests_per_minute: 0 }", "upstreams[0].limits.client_requests_per_minute", 9, "whole number from 1"),
    ("    limits: { tool_calls_per_minute: all }", "upstreams[0].limits.tool_calls_per_minute", 9, "whole number from 1"),
    ("    limits: { concurrent_requests: -1 }", "upstreams[0].limits.concurrent_requests", 9, "whole number from 1"),
    ("    limits: { concurrent_streams: 1 }", "upstreams[0].limits.concurrent_streams", 9, "write 2 or more"),
    ("    limits: { total_concurrent_requests: 2000000 }", "upstreams[0].limits.total_concurrent_requests", 9, "whole number from 1"),
    ("    limits: { total_concurrent_streams: 1 }", "upstreams[0].limits.total_concurrent_streams", 9, "write 2 or more"),
    ("    identity_jwt: yes please", "upstreams[0].identity_jwt", 9, "must be true or false"),
    ("    identity_jwt: { key: x }", "upstreams[0].identity_jwt.key", 9, "not known"),
    ("    identity_jwt: { header: X-Forwarded-User }", "upstreams[0].identity_jwt", 9, "carries something else already"),
    ("    headers: { X-Key: a }\n    identity_jwt: { header: x-key }", "upstreams[0].identity_jwt", 10, "carries something else already"),
    ("    identity_jwt: { header: Authorization }", "upstreams[0].identity_jwt.header", 9, "is for a credential"),
    ("    identity_jwt: { header: X_Who }", "upstreams[0].identity_jwt.header", 9, "has `_` in it"),
    ("    identity_jwt: { header: Host }", "upstreams[0].identity_jwt.header", 9, "belongs to the transport"),
    ("    identity_jwt: { audience: 'https://mcp.example.com/' }", "upstreams[0].identity_jwt.audience", 9, "is this gateway itself"),
    ("    identity_jwt: { audience: '' }", "upstreams[0].identity_jwt.audience", 9, "is empty"),
    ("    identity_jwt: { lifetime: 6m }", "upstreams[0].identity_jwt.lifetime", 9, "must be between 30s and 5m"),
    ("    limits: { requests_per_minute: 1.5 }", "upstreams[0].limits.requests_per_minute", 9, "whole number from 1"),
];

/// Spec: B12
#[test]
fn each_wrong_line_is_one_problem_with_its_place() {
    assert!(WRONG.len() > 60);
    let mut failures = String::new();
    for (lines, path, line, phrase) in WRONG {
        let found = problems(&format!("{}{lines}\n", base()));
        let fits = matches!(found.as_slice(), [(at, on, why)] if at == path && on == line && why.contains(phrase));
        if !fits {
            writeln!(failures, "{lines}\n  not {path}:{line} {phrase}\n  {found:?}").unwrap();
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn each_wrong_value_in_the_base_is_one_problem_with_its_place() {
    let hash = |text: &str| format!("    password_hash: {text}");
    let salted = |start: &str| {
        hash(&format!(
            "{start}$saSKtCUxgrqI1gLOKTbpOA$9kajQeEbOji1LH6rngH5QHWmslik9+Y4s9wKyAK4wm8"
        ))
    };
    #[rustfmt::skip]
    let table = [
        (1, "public_url: mcp.example.com".to_owned(), "public_url", "is not an absolute http or https URL"),
        (1, "public_url: https://".to_owned(), "public_url", "is not an absolute http or https URL"),
        (1, "public_url: https:mcp.example.com".to_owned(), "public_url", "is not an absolute http or https URL"),
        (1, "public_url: ftp://mcp.example.com".to_owned(), "public_url", "is not an absolute http or https URL"),
        (1, "public_url: http://mcp.example.com".to_owned(), "public_url", "http is allowed only on localhost, 127.0.0.1 and [::1]"),
        (1, "public_url: http://localhost.example.com:80".to_owned(), "public_url", "write https://localhost.example.com"),
        (1, "public_url: http://0.0.0.0:8080".to_owned(), "public_url", "http is allowed only"),
        (1, "public_url: https://mcp.example.com/mcp".to_owned(), "public_url", "must be an origin without path, query and fragment; write https://mcp.example.com"),
        (1, "public_url: https://mcp.example.com?".to_owned(), "public_url", "must be an origin"),
        (1, "public_url: https://mcp.example.com/#".to_owned(), "public_url", "must be an origin"),
        (1, "public_url: https://ada@mcp.example.com".to_owned(), "public_url", "must not carry a user name"),
        (1, "public_url: https://mcp.example.com.".to_owned(), "public_url", "empty label"),
        (1, "public_url: [https://mcp.example.com]".to_owned(), "public_url", "must be text, not a list"),
        (1, "public_url:".to_owned(), "public_url", "is missing; write `public_url: https://mcp.example.com`"),
        (3, "  - username: ''".to_owned(), "users[0].username", "is empty"),
        (3, "  - username: a:b".to_owned(), "users[0].username", "is not a username"),
        (3, "  - username: ' ada'".to_owned(), "users[0].username", "is not a username"),
        (3, "  - username: 7".to_owned(), "users[0].username", "put it in quotes"),
        (3, "  - user: ada\n    username: ada".to_owned(), "users[0].user", "not known"),
        (3, "  - username: ada\n    email: ada".to_owned(), "users[0].email", "is not an e-mail address"),
        (4, hash("secret"), "users[0].password_hash", "is not a password hash in PHC format"),
        (4, hash("$argon2id$v=19$m=19456,t=2,p=1"), "users[0].password_hash", "has no salt"),
        (4, hash("$argon2id$v=19$m=19456,t=2,p=1$saSKtCUxgrqI1gLOKTbpOA$9kajQeEbOji1LH6r"), "users[0].password_hash", "no hash of 16 bytes"),
        (4, hash("$2b$12$abcdefghijklmnopqrstuv"), "users[0].password_hash", "hash-password"),
        (4, salted("$argon2i$v=19$m=19456,t=2,p=1"), "users[0].password_hash", "is not an argon2id hash"),
        (4, salted("$argon2id$v=16$m=19456,t=2,p=1"), "users[0].password_hash", "is not of argon2 version 19"),
        (4, salted("$argon2id$m=19456,t=2,p=1"), "users[0].password_hash", "is not of argon2 version 19"),
        (4, salted("$argon2id$v=19$m=262145,t=2,p=1"), "users[0].password_hash", "more than 256 MiB of memory"),
        (4, salted("$argon2id$v=19$m=19456,t=4000000000,p=1"), "users[0].password_hash", "too much time"),
        (4, salted("$argon2id$v=19$m=19456,t=2,p=64"), "users[0].password_hash", "too much time"),
        (4, salted("$argon2id$v=19$m=1,t=2,p=1"), "users[0].password_hash", "parameters that do not work"),
        (4, String::new(), "users[0].password_hash", "is missing"),
        (4, hash(HASH) + "\n  - { username: ada, password_hash: '" + HASH + "' }", "users[1].username", "taken by an earlier account"),
        (4, hash(HASH) + "\n  - nobody", "users[1]", "must be a map with the keys username"),
    ];
    for (line, text, path, phrase) in table {
        let whole = base();
        let lines: Vec<&str> = whole
            .lines()
            .enumerate()
            .map(|(n, old)| if n + 1 == line { text.as_str() } else { old })
            .collect();
        let found = problems(&lines.join("\n"));
        assert_eq!(found.len(), 1, "{text}\n{found:#?}");
        assert_eq!(found[0].0, path, "{text}\n{found:#?}");
        // Where something is missing, its parent's line is said; an added line follows.
        assert!(
            (line.saturating_sub(1)..=line + 1).contains(&found[0].1),
            "{text}\n{found:#?}"
        );
        assert!(found[0].2.contains(phrase), "{text}\n{found:#?}");
    }
}

#[test]
fn what_is_missing_altogether_is_said_at_once() {
    for empty in ["", "\n\n", "# nothing\n", "~", "{}", "---\n"] {
        let paths: Vec<_> = problems(empty).into_iter().map(|(path, ..)| path).collect();
        assert_eq!(paths, ["public_url", "users", "upstreams"], "{empty:?}");
    }
    let found = problems("public_url: https://mcp.example.com\nusers: []\nupstreams: []\n");
    assert_eq!((found[0].0.as_str(), found[0].1), ("users", 2));
    assert!(found[0].2.contains("add at least one account"), "{found:?}");
    assert_eq!((found[1].0.as_str(), found[1].1, found.len()), ("upstreams", 3, 2));
}

#[test]
fn what_cannot_be_read_at_all_is_one_problem() {
    for (text, line, phrase) in [
        ("public_url: [", 1, "this is not YAML"),
        ("a: b\n\tc: d\n", 2, "this is not YAML"),
        ("a: 'b\n", 1, "this is not YAML"),
        ("a: b\n---\nc: d\n", 2, "a second document"),
        ("? [a]\n: b\n", 1, "cannot be a key"),
        (&format!("a: {}", "[".repeat(100_000)), 1, ""),
        (&format!("a: {}{}", "[".repeat(20), "]".repeat(20)), 1, "levels deep"),
        (&"x".repeat((1 << 20) + 1), 0, "larger than 1 MiB"),
        (&format!("a: [{}]", "1,".repeat(200_000)), 1, "more than 100000 values"),
        ("just text", 1, "must be a map with the keys public_url"),
        ("- a\n", 1, "must be a map"),
    ] {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].2.contains(phrase) && found[0].1.abs_diff(line) <= 1,
            "{phrase} {found:?}"
        );
    }
}

#[test]
fn aliases_never_grow() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let last = level - 1;
        let items = vec![format!("*a{last}"); 9].join(", ");
        writeln!(text, "a{level}: &a{level} [{items}]").unwrap();
    }
    let found = problems(&(base() + &text));
    assert!(
        found
            .iter()
            .any(|(.., message)| message.contains("aliases (*name) are not read")),
        "{found:?}"
    );
    assert!(problems("public_url: *nowhere").len() == 1);
}

#[test]
fn counts_and_lengths_are_bounded() {
    let many = |count: usize| {
        let user = |n| format!("  - {{ username: u{n}, password_hash: '{HASH}' }}\n");
        let users = (0..count).map(user).collect::<Vec<_>>().concat();
        base().replacen("users:\n", &format!("users:\n{users}"), 1)
    };
    good(&many(999));
    let found = problems(&many(1_000));
    assert!(
        found
            .iter()
            .any(|(path, _, message)| path == "users" && message.contains("more than 1000 items")),
        "{found:?}"
    );
    let long = "x".repeat(5_000);
    let found = problems(&format!("{}store: {{ sled: {{ path: {long} }} }}\n", base()));
    assert!(found[0].2.contains("longer than 4096 bytes"), "{found:?}");
    // A file full of mistakes does not become a flood.
    let wrong = (0..900).map(|n| format!("x{n}: 1")).collect::<Vec<_>>().join("\n");
    let found = parse(&(base() + &wrong)).unwrap_err();
    assert_eq!(found.iter().count(), 200);
    assert!(found.to_string().ends_with("and 700 problems more\n"), "{found}");
}

#[test]
fn ten_problems_are_ten_lines() {
    let text = format!(
        "public_url: http://mcp.example.com\n\
         lissten: 127.0.0.1:8080\n\
         oauth:\n  code_expires_in: 1d\n  root_resource: two\n\
         users:\n  - username: ada\n    password_hash: {HASH}\n    e-mail: x\n  - username: ada\n    password_hash: plain\n\
         upstreams:\n  - name: one\n    path: one\n    url: localhost:3001\n    limits: {{ body: lots }}\n    headers: {{ Host: x }}\n  \
         - name: one\n    path: /x\n    url: http://127.0.0.1:1/\n"
    );
    let found = problems(&text);
    let places: Vec<_> = found.iter().map(|(path, line, _)| (path.as_str(), *line)).collect();
    assert_eq!(
        places,
        [
            ("public_url", 1),
            ("lissten", 2),
            ("oauth.code_expires_in", 4),
            ("oauth.root_resource", 5),
            ("users[0].e-mail", 9),
            ("users[1].password_hash", 11),
            ("upstreams[0].path", 14),
            ("upstreams[0].url", 15),
            ("upstreams[0].limits.body", 16),
            ("upstreams[0].headers.Host", 17),
            ("upstreams[1].name", 18),
        ]
    );
    let printed = parse(&text).unwrap_err().to_string();
    assert_eq!(printed.lines().count(), found.len());
    assert!(
        printed.contains(
            "gateway.yaml:15: upstreams[0].url: \"localhost:3001\" is not an absolute http or https URL; write http://localhost:3001/mcp"
        ),
        "{printed}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("gateway.yaml");
    let found = config::load(&missing).unwrap_err().to_string();
    assert!(
        found.starts_with(&format!("{}: cannot be read: ", missing.display())),
        "{found}"
    );
    std::fs::write(&missing, b"public_url: \xff\n").unwrap();
    assert!(config::load(&missing).unwrap_err().to_string().contains("not UTF-8"));
    std::fs::write(&missing, "x: 1\n".repeat(300_000)).unwrap();
    assert!(
        config::load(&missing)
            .unwrap_err()
            .to_string()
            .contains("larger than 1024 KiB")
    );
    assert!(
        config::load(directory.path())
            .unwrap_err()
            .to_string()
            .contains("directory")
    );
    std::fs::write(&missing, format!("{}x: 1\n", base())).unwrap();
    let found = config::load(&missing).unwrap_err().to_string();
    assert!(found.starts_with(&format!("{}:9: x: ", missing.display())), "{found}");
}

// === what nobody would write ===

/// A piece of text that means something to a YAML reader.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "public_url",
            "listen",
            "upstreams",
            "users",
            "oauth",
            "clients",
            "headers",
            "limits",
            "tls",
            ": ",
            ":\n",
            "- ",
            "\n",
            "\n  ",
            "\n    ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "'",
            "\"",
            "#",
            " #",
            "|",
            ">",
            "&a ",
            "*a",
            "!",
            "!!str ",
            "? ",
            "---\n",
            "...\n",
            "%YAML 1.2\n",
            "<<: ",
            "~",
            "null",
            "true",
            "0x1F",
            ".inf",
            "\t",
            "\\",
            "\u{feff}",
            "\u{85}",
            "\u{2028}",
            "\r",
            "\0",
            "ä",
            "https://",
            "http://[::1]:0/",
            "http://%",
            "@",
            "::",
            "/..",
            "$argon2id$v=19$m=1,t=1,p=1$",
            "7d",
            "4MiB",
            "99999999999999999999d",
            "127.0.0.1:1",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ]
}

fn all_is_in_order(text: &str) -> Result<(), TestCaseError> {
    if let Err(found) = parse(text) {
        let lines: Vec<_> = found.iter().map(|problem| problem.line).collect();
        prop_assert!(!lines.is_empty() && lines.is_sorted());
        prop_assert!(found.iter().all(|problem| !problem.message.is_empty()));
        prop_assert!(found.to_string().lines().count() >= lines.len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_breaks_the_reader(pieces in prop::collection::vec(piece(), 0..60)) {
        all_is_in_order(&pieces.concat())?;
    }

    #[test]
    fn no_change_to_the_example_breaks_the_reader(
        changes in prop::collection::vec((0usize..8_000, 0usize..12, piece()), 1..6),
        on in any::<bool>(),
    ) {
        let mut text: Vec<char> = if on { switched_on() } else { EXAMPLE.to_owned() }.chars().collect();
        for (at, length, piece) in changes {
            let at = at % text.len();
            let end = (at + length).min(text.len());
            text.splice(at..end, piece.chars());
        }
        all_is_in_order(&text.into_iter().collect::<String>())?;
    }

    #[test]
    fn no_value_breaks_a_key(value in ".{0,40}", line in 0usize..200) {
        let text = switched_on();
        let lines: Vec<String> = text
            .lines()
            .enumerate()
            .map(|(n, old)| match old.split_once(": ") {
                Some((key, _)) if n == line && !old.trim_start().starts_with('#') => format!("{key}: {}", serde_json::to_string(&value).unwrap()),
                _ => old.to_owned(),
            })
            .collect();
        all_is_in_order(&lines.join("\n"))?;
    }

    /// The reader and an independent one take a document for the same keys.
    #[test]
    fn what_is_loaded_is_what_another_reader_sees(name in "[a-z0-9][a-z0-9_-]{0,20}", text in "[ -~äöü€]{0,60}") {
        let quoted = serde_json::to_string(&text).unwrap();
        let yaml = format!("{}scopes: [{{ name: x, description: {quoted} }}]\n", base().replace("name: one", &format!("name: {name:?}")));
        let value: Value = serde_yaml::from_str(&yaml).unwrap();
        if let Ok(config) = parse(&yaml) {
            prop_assert_eq!(value["scopes"][0]["description"].as_str(), config.scopes[0].description.as_deref());
            prop_assert_eq!(value["upstreams"][0]["name"].as_str(), Some(config.upstreams[0].name.as_str()));
        } else {
            prop_assert!(text.is_empty() || name == "auto" || name == "none");
        }
    }
}

// === limits, registration, and scopes that imply others

/// Spec: L13
#[test]
fn limits_of_endpoints_have_defaults_and_can_be_moved_or_turned_off() {
    let config = with("oauth: { limits: { register: 5, token: none } }");
    let limits = config.oauth.limits;
    assert_eq!(limits.of("register").map(|(_, _, n)| n), Some(5));
    assert!(limits.of("token").is_none());
    for row in config::LIMITS {
        if !matches!(row.endpoint, "register" | "token") {
            assert_eq!(limits.of(row.endpoint).map(|(_, _, n)| n), Some(row.per_minute));
        }
    }
    for (wrong, path) in [
        ("limits: { register: 0 }", "oauth.limits.register"),
        ("limits: { register: off }", "oauth.limits.register"),
        ("limits: { par: 1.5 }", "oauth.limits.par"),
        ("limits: { consent: 5 }", "oauth.limits.consent"),
        ("limits: none", "oauth.limits"),
    ] {
        let found = problems(&format!("{}oauth: {{ {wrong} }}\n", base()));
        assert_eq!(found.len(), 1, "{wrong}: {found:?}");
        assert_eq!(found[0].0, path, "{wrong}");
    }
}

/// Spec: C7, C12
#[test]
fn registration_takes_tokens_and_schemes() {
    let config = with(
        "oauth: { registration: { initial_access_tokens: [0123456789abcdef], allowed_redirect_schemes: [acme, com.example] } }",
    );
    assert!(config.oauth.initial_access_tokens[0].matches("0123456789abcdef"));
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
    assert_eq!(config.oauth.allowed_redirect_schemes, ["acme", "com.example"]);
    for (wrong, path) in [
        ("initial_access_tokens: []", "oauth.registration.initial_access_tokens"),
        (
            "initial_access_tokens: [short]",
            "oauth.registration.initial_access_tokens[0]",
        ),
        (
            "allowed_redirect_schemes: [javascript]",
            "oauth.registration.allowed_redirect_schemes[0]",
        ),
        (
            "allowed_redirect_schemes: [acme, https]",
            "oauth.registration.allowed_redirect_schemes[1]",
        ),
        (
            "allowed_redirect_schemes: ['cursor://']",
            "oauth.registration.allowed_redirect_schemes[0]",
        ),
        (
            "allowed_redirect_schemes: [Cursor]",
            "oauth.registration.allowed_redirect_schemes[0]",
        ),
    ] {
        let found = problems(&format!("{}oauth: {{ registration: {{ {wrong} }} }}\n", base()));
        assert_eq!(found.len(), 1, "{wrong}: {found:?}");
        assert_eq!(found[0].0, path, "{wrong}");
    }
}

/// Spec: H6
#[test]
fn scopes_imply_others_and_those_others_again() {
    let config = with(
        "scopes:\n- { name: all, implies: [write, share] }\n- { name: write, implies: read }\n- { name: read }\n- { name: share }",
    );
    let implied = |name: &str| {
        let scope = name.parse().unwrap();
        config.with_implied(&scope).sorted().to_string()
    };
    assert_eq!(implied("all"), "all read share write");
    assert_eq!(implied("write"), "read write");
    assert_eq!(implied("read"), "read");
    assert_eq!(implied("share write"), "read share write");
    assert!(config.covers(&"all".parse().unwrap(), &"read share".parse().unwrap()));
    assert!(!config.covers(&"write".parse().unwrap(), &"share".parse().unwrap()));

    for (wrong, paths) in [
        ("- { name: a, implies: [a] }", vec!["scopes[0].name"]),
        (
            "- { name: a, implies: [b] }\n- { name: b, implies: [c] }\n- { name: c, implies: [a] }",
            vec!["scopes[0].name", "scopes[1].name", "scopes[2].name"],
        ),
        ("- { name: a, implies: [nothing] }", vec!["scopes[0].implies[0]"]),
        ("- { name: a, implies: 7 }", vec!["scopes[0].implies"]),
    ] {
        let found = problems(&format!("{}scopes:\n{wrong}\n", base()));
        let found: Vec<&str> = found.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(found, paths, "{wrong}");
    }
}

// === identity providers ===

fn provider_problems(lines: &str) -> Vec<(String, String)> {
    let text = format!("{}identity_providers:\n{lines}\n", base());
    problems(&text)
        .into_iter()
        .map(|(path, _, message)| (path, message))
        .collect()
}

#[test]
fn providers_know_what_is_known_of_them() {
    use mcpgate::config::Protocol;
    let config = good(
        "public_url: https://mcp.example.com\nupstreams: [{name: one, path: /one/mcp, url: 'http://127.0.0.1:3001/mcp'}]\n\
         identity_providers:\n\
         \x20 - {id: google, issuer: 'https://accounts.google.com', client_id: a, client_secret: {env: A_SECRET}, allowed_domains: [Example.com]}\n\
         \x20 - {id: ms, preset: microsoft, tenant: 1111-22, client_id: b, groups_map: {x: y}}\n\
         \x20 - {id: hub, kind: github, client_id: c, allowed_organizations: [Acme], recheck: 1h}\n\
         \x20 - {id: own-hub, preset: github, client_id: c, github: {url: 'https://git.example.com/'}}\n\
         \x20 - {id: local, issuer: 'http://127.0.0.1:9000/realms/x', client_id: d, name: Here}\n",
    );
    let [google, ms, hub, own_hub, local] = config.identity_providers.as_slice() else {
        panic!("five providers")
    };
    assert_eq!(google.name, "Google");
    assert_eq!(google.allowed.domains, ["example.com"]);
    assert_eq!(google.claims.username, ["email"]);
    let Protocol::OpenId { issuer, manners } = &google.protocol else {
        panic!()
    };
    assert!(issuer == "https://accounts.google.com" && manners.offline_by_parameter);
    let Protocol::OpenId { issuer, .. } = &ms.protocol else {
        panic!()
    };
    assert_eq!(issuer, "https://login.microsoftonline.com/1111-22/v2.0");
    assert!(ms.require_verified_email && ms.recheck == Duration::from_secs(900));
    assert_eq!(
        (hub.allowed.organizations.as_slice(), hub.recheck),
        (&["acme".to_owned()][..], Duration::from_secs(3600))
    );
    let Protocol::GitHub { url, api_url } = &own_hub.protocol else {
        panic!()
    };
    assert_eq!(
        (url.as_str(), api_url.as_str()),
        ("https://git.example.com", "https://git.example.com/api/v3")
    );
    assert_eq!(local.name, "Here");
    // No secret is shown, and nobody needs a password of ours.
    assert!(config.users.is_empty());
    assert!(!format!("{config:?}").contains("a secret of many letters"));
}

/// An entry, where it is wrong, and what is said of it.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("{client_id: a, issuer: 'https://idp.example.com'}", "id", "is missing"),
    ("{id: client, KNOWN}", "id", "means something else"),
    ("{id: builtin, KNOWN}", "id", "means something else"),
    ("{id: login_page, KNOWN}", "id", "is not an id"),
    ("{id: Big, KNOWN}", "id", "is not an id"),
    ("{id: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx, KNOWN}", "id", "is not an id"),
    ("{id: x, issuer: 'https://idp.example.com'}", "client_id", "is missing"),
    ("{id: x, client_id: a}", "issuer", "is missing"),
    (
        "{id: x, client_id: a, issuer: idp.example.com}",
        "issuer",
        "is not an issuer",
    ),
    (
        "{id: x, client_id: a, issuer: 'https://u:p@idp.example.com'}",
        "issuer",
        "is not an issuer",
    ),
    (
        "{id: x, client_id: a, issuer: 'https://idp.example.com/?a=b'}",
        "issuer",
        "is not an issuer",
    ),
    (
        "{id: x, client_id: a, issuer: 'http://idp.example.com'}",
        "issuer",
        "must be https",
    ),
    (
        "{id: x, client_id: a, issuer: 'https://mcp.example.com'}",
        "issuer",
        "is this gateway itself",
    ),
    (
        "{id: x, client_id: a, preset: auth0, issuer: 'https://x.auth0.com'}",
        "issuer",
        "needs a slash",
    ),
    (
        "{id: x, client_id: a, preset: nobody}",
        "preset",
        "is not known; write one of google, microsoft",
    ),
    ("{id: x, client_id: a, preset: microsoft}", "tenant", "is missing"),
    (
        "{id: x, client_id: a, preset: microsoft, tenant: common}",
        "tenant",
        "must be one directory",
    ),
    (
        "{id: x, client_id: a, preset: microsoft, tenant: 'a/b'}",
        "tenant",
        "must be one directory",
    ),
    ("{id: x, KNOWN, tenant: t}", "tenant", "is for `preset: microsoft`"),
    (
        "{id: x, client_id: a, preset: google}",
        "allowed_domains",
        "allow_anyone",
    ),
    (
        "{id: x, client_id: a, preset: github}",
        "allowed_domains",
        "allow_anyone",
    ),
    (
        "{id: x, client_id: a, issuer: 'https://gitlab.com'}",
        "allowed_domains",
        "allow_anyone",
    ),
    (
        "{id: x, KNOWN, allow_anyone: true, allowed_groups: [a]}",
        "allow_anyone",
        "keep one of them",
    ),
    ("{id: x, KNOWN, allowed_groups: []}", "allowed_groups", "is empty"),
    (
        "{id: x, KNOWN, allowed_domains: ['*.com']}",
        "allowed_domains[0]",
        "is not a domain",
    ),
    (
        "{id: x, KNOWN, allowed_emails: [ada]}",
        "allowed_emails[0]",
        "is not an e-mail address",
    ),
    (
        "{id: x, KNOWN, allowed_organizations: [a]}",
        "allowed_organizations",
        "only GitHub and Google",
    ),
    ("{id: x, KNOWN, kind: saml}", "kind", "write one of oidc, github"),
    (
        "{id: x, KNOWN, preset: okta, kind: github}",
        "kind",
        "does not go with the preset",
    ),
    (
        "{id: x, KNOWN, github: {url: 'https://x.example'}}",
        "github",
        "is for kind: github",
    ),
    (
        "{id: x, client_id: a, preset: github, issuer: 'https://x.example', allow_anyone: true}",
        "issuer",
        "is for OpenID Connect",
    ),
    ("{id: x, KNOWN, scopes: ['a b']}", "scopes[0]", "is not a scope"),
    ("{id: x, KNOWN, recheck: 8d}", "recheck", "must be between 0s and 7d"),
    ("{id: x, KNOWN, groups_map: [a]}", "groups_map", "must be a map"),
    (
        "{id: x, KNOWN, client_secret: {env: NOPE}}",
        "client_secret.env",
        "is not set",
    ),
    ("{id: x, KNOWN, claims: {mail: a}}", "claims.mail", "is not known"),
    (
        "{id: x, KNOWN, require_verified_email: maybe}",
        "require_verified_email",
        "must be true or false",
    ),
];

#[test]
fn every_mistake_with_a_provider_has_its_path() {
    let known = "client_id: a, issuer: 'https://idp.example.com'";
    for (entry, path, says) in MISTAKES {
        let entry = entry.replace("KNOWN", known);
        let found = provider_problems(&format!("  - {entry}"));
        let wanted = format!("identity_providers[0].{path}");
        assert!(
            found
                .iter()
                .any(|(path, message)| *path == wanted && message.contains(says)),
            "{entry}: {found:?}"
        );
        assert!(found.iter().all(|(_, message)| !message.contains(":p@")), "{found:?}");
    }
    let twice = provider_problems(&format!("  - {{id: x, {known}}}\n  - {{id: x, {known}}}"));
    assert_eq!(twice.len(), 1);
    assert!(twice[0].1.contains("is taken by an earlier provider"));
    // Nobody could sign in with none.
    let none = base().replace(
        &format!("users:\n  - username: ada\n    password_hash: {HASH}\n"),
        "identity_providers: []\n",
    );
    assert!(problems(&none).iter().any(|(path, _, _)| path == "users"));
}
