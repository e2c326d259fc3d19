//! The configuration: what loads, what does not, and what is said about it.

use std::path::Path;
use std::time::Duration;

use mcpgate::config::{self, Config, Problems, RootResource, StoreConfig};
use proptest::prelude::*;

const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$0WFpWnPIjTzGt7mGlkGOVA";

fn parse(text: &str) -> Result<Config, Problems> {
    config::parse(text, Path::new(""), &|name| {
        (name == "GIVEN").then(|| "a secret from outside".to_owned())
    })
}

/// The contract's smallest file.
fn smallest() -> String {
    format!(
        "public_url: http://127.0.0.1:8080\nupstreams:\n  - name: everything\n    path: /everything/mcp\n    url: http://127.0.0.1:3001/mcp\nusers:\n  - username: ada\n    password_hash: {HASH}\n"
    )
}

#[test]
fn the_smallest_file_has_the_defaults_of_the_contract() {
    let config = parse(&smallest()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.public_url.origin, "http://127.0.0.1:8080");
    assert_eq!(config.listen[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.to_string(), "127.0.0.1:9090");
    assert_eq!(config.store, StoreConfig::Sled { path: "./data".into() });
    let oauth = &config.oauth;
    assert_eq!(oauth.scopes.to_string(), "openid profile email offline_access");
    let seconds = [
        oauth.code_expires_in,
        oauth.access_token_expires_in,
        oauth.refresh_token_expires_in,
        oauth.refresh_grace,
    ]
    .map(|d| d.as_secs());
    assert_eq!(seconds, [600, 3_600, 604_800, 60]);
    assert!(oauth.require_pkce && oauth.issuer_in_response && oauth.dynamic_registration && oauth.clients.is_empty());
    assert_eq!(
        (oauth.endpoint_prefix.as_str(), &oauth.root_resource),
        ("", &RootResource::Auto)
    );
    assert!(
        oauth
            .allowed_redirect_hosts
            .iter()
            .any(|pattern| pattern.matches("anything.example"))
    );
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.resource.as_str(), "http://127.0.0.1:8080/everything/mcp");
    assert_eq!(
        (
            upstream.url.host.as_str(),
            upstream.url.port,
            upstream.url.path.as_str()
        ),
        ("127.0.0.1", 3001, "/mcp")
    );
    assert!(upstream.scopes.is_empty() && upstream.headers.is_empty() && upstream.allowed_origins.is_empty());
    let names: Vec<_> = upstream
        .identity_headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "x-forwarded-user",
            "x-forwarded-preferred-username",
            "x-forwarded-email",
            "x-forwarded-groups",
            "x-forwarded-scope",
            "x-forwarded-client-id"
        ]
    );
    let limits = upstream.limits;
    assert_eq!(
        (limits.body, limits.connect_timeout, limits.response_timeout),
        (4 << 20, Duration::from_secs(5), Duration::from_secs(60))
    );
    assert_eq!((limits.idle_stream, limits.requests_per_minute), (None, None));
}

/// The example at the top level loads as it stands, and its values are the code's defaults.
#[test]
fn the_example_and_the_code_are_in_step() {
    let text = include_str!("../gateway.yaml");
    let example = parse(text).unwrap_or_else(|problems| panic!("{problems}"));
    let plain = parse(&smallest()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        format!("{:?}", example.oauth),
        format!("{:?}", plain.oauth),
        "oauth shows the defaults"
    );
    assert_eq!(
        (&example.listen, example.admin, &example.store),
        (&plain.listen, plain.admin, &plain.store)
    );
    let (own, usual) = (&example.upstreams[0], &plain.upstreams[0]);
    assert_eq!(
        (own.limits, &own.identity_headers, &own.url),
        (usual.limits, &usual.identity_headers, &usual.url)
    );
    for key in config::known_keys() {
        let shown = text.lines().any(|line| line.contains(&format!("{key}:")));
        assert!(shown, "gateway.yaml does not show the key {key}");
    }
}

/// Every commented line of the example is one that would load, too.
#[test]
fn the_commented_keys_of_the_example_load() {
    let text = include_str!("../gateway.yaml");
    let text = text
        .replace("  clients: []\n  #  - client_id", "  clients:\n  #  - client_id")
        .replace("  #  - client_id", "    - client_id")
        .replace("  #    ", "      ");
    let text = text
        .replace("    # groups:", "    groups:")
        .replace("    # host:", "    host:")
        .replace("{ env: CI_RUNNER_SECRET }", "{ env: GIVEN }");
    let config = parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.oauth.clients[0].name.as_deref(), Some("CI runner"));
    assert_eq!(
        config.upstreams[0].resource.as_str(),
        "http://tools.example.com:8080/everything/mcp"
    );
}

#[test]
fn the_reference_describes_every_key() {
    let reference = include_str!("../docs/configuration.md");
    for key in config::known_keys() {
        assert!(
            reference.contains(&format!("`{key}`")) || reference.contains(&format!(".{key}`")),
            "docs/configuration.md says nothing of {key}"
        );
    }
}

/// A file with one thing wrong: what replaces what, the path, the line, and a phrase of what is said.
const WRONG: &[(&str, &str, &str, usize, &str)] = &[
    (
        "public_url: http://127.0.0.1:8080",
        "public_url: http://mcp.example.com",
        "public_url",
        1,
        "loopback",
    ),
    (
        "public_url: http://127.0.0.1:8080",
        "public_url: mcp.example.com",
        "public_url",
        1,
        "not an absolute",
    ),
    (
        "public_url: http://127.0.0.1:8080",
        "public_url: https://mcp.example.com/path",
        "public_url",
        1,
        "origin",
    ),
    (
        "public_url: http://127.0.0.1:8080",
        "public_url: https://u:p@mcp.example.com",
        "public_url",
        1,
        "origin",
    ),
    (
        "public_url: http://127.0.0.1:8080",
        "public_url: https://mcp.example.com?x",
        "public_url",
        1,
        "origin",
    ),
    (
        "public_url: http://127.0.0.1:8080",
        "public_url: ftp://mcp.example.com",
        "public_url",
        1,
        "http",
    ),
    (
        "public_url: http://127.0.0.1:8080",
        "public_url: 1",
        "public_url",
        1,
        "text",
    ),
    (
        "public_url: http://127.0.0.1:8080\n",
        "listen: 127.0.0.1:1\n",
        "public_url",
        1,
        "is missing",
    ),
    (
        "public_url:",
        "publicurl: x\npublic_url:",
        "publicurl",
        1,
        "did you mean `public_url`",
    ),
    (
        "users:",
        "trusted_proxies: []\nusers:",
        "trusted_proxies",
        6,
        "unknown key",
    ),
    (
        "users:",
        "identity_providers: []\nusers:",
        "identity_providers",
        6,
        "unknown key",
    ),
    ("users:", "listen: 8080\nusers:", "listen", 6, "text"),
    ("users:", "listen: localhost\nusers:", "listen", 6, "127.0.0.1:8080"),
    ("users:", "listen: []\nusers:", "listen", 6, "at least one"),
    (
        "users:",
        "listen: [127.0.0.1:1, 127.0.0.1:1]\nusers:",
        "listen[1]",
        6,
        "twice",
    ),
    (
        "users:",
        "listen:\n  - address: 127.0.0.1:1\n    tsl: {}\nusers:",
        "listen[0].tsl",
        8,
        "did you mean `tls`",
    ),
    (
        "users:",
        "listen:\n  - address: 127.0.0.1:1\n    tls: { cert: /nonexistent/c, key: /nonexistent/k }\nusers:",
        "listen[0].tls",
        8,
        "cannot read certificates",
    ),
    (
        "users:",
        "listen: [{ address: 127.0.0.1:1, tls: { cert: x } }]\nusers:",
        "listen[0].tls.key",
        6,
        "is missing",
    ),
    (
        "users:",
        "admin: { listen: 127.0.0.1:8080 }\nusers:",
        "admin.listen",
        6,
        "public listener",
    ),
    ("users:", "admin: 1\nusers:", "admin", 6, "must be a map"),
    (
        "users:",
        "store: { postgres: { url: x } }\nusers:",
        "store.postgres",
        6,
        "unknown key",
    ),
    (
        "users:",
        "store: { sled: {} }\nusers:",
        "store.sled.path",
        6,
        "is missing",
    ),
    ("users:", "oauth: []\nusers:", "oauth", 6, "must be a map"),
    (
        "users:",
        "oauth: { login_page: builtin }\nusers:",
        "oauth.login_page",
        6,
        "unknown key",
    ),
    (
        "users:",
        "oauth: { code_expires_in: 10 }\nusers:",
        "oauth.code_expires_in",
        6,
        "text",
    ),
    (
        "users:",
        "oauth: { code_expires_in: 1h }\nusers:",
        "oauth.code_expires_in",
        6,
        "between",
    ),
    (
        "users:",
        "oauth: { code_expires_in: 0s }\nusers:",
        "oauth.code_expires_in",
        6,
        "between",
    ),
    (
        "users:",
        "oauth: { access_token_expires_in: 5 minutes }\nusers:",
        "oauth.access_token_expires_in",
        6,
        "duration",
    ),
    (
        "users:",
        "oauth: { access_token_expires_in: ä }\nusers:",
        "oauth.access_token_expires_in",
        6,
        "duration",
    ),
    (
        "users:",
        "oauth: { refresh_token_expires_in: 99999999999999999999d }\nusers:",
        "oauth.refresh_token_expires_in",
        6,
        "duration",
    ),
    (
        "users:",
        "oauth: { refresh_token_expires_in: 1m }\nusers:",
        "oauth.refresh_token_expires_in",
        6,
        "at least as long",
    ),
    (
        "users:",
        "oauth: { refresh_grace: 1h }\nusers:",
        "oauth.refresh_grace",
        6,
        "between",
    ),
    (
        "users:",
        "oauth: { require_pkce: maybe }\nusers:",
        "oauth.require_pkce",
        6,
        "true or false",
    ),
    (
        "users:",
        "oauth: { endpoint_prefix: api }\nusers:",
        "oauth.endpoint_prefix",
        6,
        "not a path",
    ),
    (
        "users:",
        "oauth: { endpoint_prefix: /token }\nusers:",
        "oauth.endpoint_prefix",
        6,
        "not a path",
    ),
    (
        "users:",
        "oauth: { root_resource: nobody }\nusers:",
        "oauth.root_resource",
        6,
        "no upstream has the name",
    ),
    (
        "users:",
        "oauth: { scopes: [\"a b\"] }\nusers:",
        "oauth.scopes[0]",
        6,
        "scope",
    ),
    (
        "users:",
        "oauth: { scopes: openid }\nusers:",
        "oauth.scopes",
        6,
        "must be a list",
    ),
    (
        "users:",
        "oauth: { registration: { client_id_metadata_documents: true } }\nusers:",
        "oauth.registration.client_id_metadata_documents",
        6,
        "unknown key",
    ),
    (
        "users:",
        "oauth: { registration: { allowed_redirect_hosts: [\"https://claude.ai\"] } }\nusers:",
        "oauth.registration.allowed_redirect_hosts[0]",
        6,
        "not a host",
    ),
    (
        "users:",
        "oauth:\n  clients:\n    - { client_id: a, redirect_uris: [http://evil.example/] }\nusers:",
        "oauth.clients[0].redirect_uris[0]",
        8,
        "http is allowed only",
    ),
    (
        "users:",
        "oauth: { clients: [{ redirect_uris: [https://a.example/] }] }\nusers:",
        "oauth.clients[0].client_id",
        6,
        "is missing",
    ),
    (
        "users:",
        "oauth: { clients: [{ client_id: a }] }\nusers:",
        "oauth.clients[0].redirect_uris",
        6,
        "is missing",
    ),
    (
        "users:",
        "oauth: { clients: [{ client_id: https://a, redirect_uris: [https://a.example/] }] }\nusers:",
        "oauth.clients[0].client_id",
        6,
        "https://",
    ),
    (
        "users:",
        "oauth: { clients: [{ client_id: a, client_secret: short, redirect_uris: [https://a.example/] }] }\nusers:",
        "oauth.clients[0].client_secret",
        6,
        "16 characters",
    ),
    (
        "users:",
        "oauth: { clients: [{ client_id: a, client_secret: { env: MISSING }, redirect_uris: [https://a.example/] }] }\nusers:",
        "oauth.clients[0].client_secret",
        6,
        "MISSING is not set",
    ),
    (
        "users:",
        "oauth: { clients: [{ client_id: a, client_secret: { file: /nonexistent }, redirect_uris: [https://a.example/] }] }\nusers:",
        "oauth.clients[0].client_secret",
        6,
        "cannot read",
    ),
    (
        "users:",
        "oauth: { clients: [{ client_id: a, client_secret: { env: A, file: B }, redirect_uris: [https://a.example/] }] }\nusers:",
        "oauth.clients[0].client_secret",
        6,
        "{ env: NAME } or { file: PATH }",
    ),
    (
        "users:",
        "oauth: { clients: [{ client_id: a, token_endpoint_auth_method: client_secret_post, redirect_uris: [https://a.example/] }] }\nusers:",
        "oauth.clients[0].token_endpoint_auth_method",
        6,
        "none without",
    ),
    (
        "users:",
        "oauth: { clients: [{ client_id: a, grant_types: [implicit], redirect_uris: [https://a.example/] }] }\nusers:",
        "oauth.clients[0].grant_types[0]",
        6,
        "grant type",
    ),
    (
        "users:",
        "oauth: { clients: [{ client_id: a, redirect_uris: [https://a.example/] }, { client_id: a, redirect_uris: [https://a.example/] }] }\nusers:",
        "oauth.clients[1]",
        6,
        "twice",
    ),
    (
        "users:",
        "scopes: [{ description: x }]\nusers:",
        "scopes[0].name",
        6,
        "is missing",
    ),
    (
        "users:",
        "scopes: [{ name: a }, { name: a }]\nusers:",
        "scopes[1]",
        6,
        "twice",
    ),
    ("users:", "scopes: [a]\nusers:", "scopes[0]", 6, "must be a map"),
    (
        "  - username: ada",
        "  - username: \"a:b\"",
        "users[0].username",
        7,
        "colon",
    ),
    (
        "  - username: ada\n    password_hash:",
        "  - username: ada\n    password:",
        "users[0].password_hash",
        7,
        "is missing",
    ),
    (HASH, "secret", "users[0].password_hash", 8, "argon2id"),
    (
        HASH,
        "$2y$05$abcdefghijklmnopqrstuu",
        "users[0].password_hash",
        8,
        "argon2id",
    ),
    (
        HASH,
        "$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHQ$0WFpWnPIjTzGt7mGlkGOVA",
        "users[0].password_hash",
        8,
        "costs too much",
    ),
    ("    name: everything\n", "", "", 0, ""),
    (
        "  - name: everything",
        "  - name: Every thing",
        "upstreams[0].name",
        3,
        "not a name",
    ),
    (
        "  - name: everything\n    path: /everything/mcp",
        "  - name: everything\n    pfad: /x",
        "upstreams[0].path",
        3,
        "is missing",
    ),
    (
        "path: /everything/mcp",
        "path: everything",
        "upstreams[0].path",
        4,
        "not a path",
    ),
    (
        "path: /everything/mcp",
        "path: /a/../b",
        "upstreams[0].path",
        4,
        "not a path",
    ),
    (
        "path: /everything/mcp",
        "path: /a//b",
        "upstreams[0].path",
        4,
        "not a path",
    ),
    (
        "path: /everything/mcp",
        "path: /a%2fb",
        "upstreams[0].path",
        4,
        "not a path",
    ),
    (
        "path: /everything/mcp",
        "path: /a?b",
        "upstreams[0].path",
        4,
        "not a path",
    ),
    (
        "path: /everything/mcp",
        "path: /token",
        "upstreams[0].path",
        4,
        "gateway's own",
    ),
    (
        "path: /everything/mcp",
        "path: /login/x",
        "upstreams[0].path",
        4,
        "gateway's own",
    ),
    (
        "path: /everything/mcp",
        "path: /.well-known/x",
        "upstreams[0].path",
        4,
        "gateway's own",
    ),
    (
        "path: /everything/mcp",
        "path: /everything/mcp\n    host: 127.0.0.1:8080",
        "upstreams[0].host",
        5,
        "own host",
    ),
    (
        "path: /everything/mcp",
        "path: /everything/mcp\n    host: https://x",
        "upstreams[0].host",
        5,
        "not a host",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: localhost:3001",
        "upstreams[0].url",
        5,
        "not an absolute",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://u:p@127.0.0.1/",
        "upstreams[0].url",
        5,
        "headers",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1/?x",
        "upstreams[0].url",
        5,
        "query",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: unix:/run/x",
        "upstreams[0].url",
        5,
        "not an absolute",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    tools: []",
        "upstreams[0].tools",
        6,
        "unknown key",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    headers: { Host: x }",
        "upstreams[0].headers.Host",
        6,
        "cannot be set",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    headers: { X-Forwarded-User: x }",
        "upstreams[0].headers.X-Forwarded-User",
        6,
        "who the caller is",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    headers: { \"X A\": x }",
        "upstreams[0].headers.X A",
        6,
        "not a header name",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    headers: { Mcp-Method: x }",
        "upstreams[0].headers.Mcp-Method",
        6,
        "cannot be set",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    headers: { X-A: { env: MISSING } }",
        "upstreams[0].headers.X-A",
        6,
        "not set",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    identity_headers: none",
        "upstreams[0].identity_headers",
        6,
        "must be default",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    identity_headers: { X-A: password }",
        "upstreams[0].identity_headers.X-A",
        6,
        "not a claim",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    identity_headers: { Authorization: subject }",
        "upstreams[0].identity_headers.Authorization",
        6,
        "cannot be",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    allowed_origins: [https://a.example/]",
        "upstreams[0].allowed_origins[0]",
        6,
        "not an origin",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    limits: { body: 4 MB }",
        "upstreams[0].limits.body",
        6,
        "not a size",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    limits: { body: 0 }",
        "upstreams[0].limits.body",
        6,
        "more than nothing",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    limits: { requests_per_minute: 0 }",
        "upstreams[0].limits.requests_per_minute",
        6,
        "from 1",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n    limits: { idle_stream: never }",
        "upstreams[0].limits.idle_stream",
        6,
        "duration",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n  - { name: b, path: /everything/mcp, url: \"http://a/\" }",
        "upstreams[1]",
        6,
        "overlaps",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n  - { name: b, path: /everything, url: \"http://a/\" }",
        "upstreams[1]",
        6,
        "overlaps",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n  - { name: b, path: /, url: \"http://a/\" }",
        "upstreams[1]",
        6,
        "overlaps",
    ),
    (
        "url: http://127.0.0.1:3001/mcp",
        "url: http://127.0.0.1:3001/mcp\n  - { name: everything, path: /b, url: \"http://a/\" }",
        "upstreams[1]",
        6,
        "twice",
    ),
    ("public_url:", "public_url: x\npublic_url:", "", 2, "twice"),
    ("public_url:", "a: &x 1\npublic_url:", "", 1, "anchors"),
    ("public_url:", "a: *x\npublic_url:", "", 1, "not YAML"),
    ("public_url:", "  bad indent\n: [\npublic_url:", "", 0, "not YAML"),
    ("users:", "---\nusers:", "", 6, "more than one document"),
];

#[test]
fn every_problem_has_a_path_a_line_and_a_way_out() {
    let mut wrong = Vec::new();
    for (from, to, path, line, phrase) in WRONG.iter().filter(|(.., phrase)| !phrase.is_empty()) {
        let text = smallest().replacen(from, to, 1);
        assert_ne!(text, smallest(), "{from} is not there");
        match parse(&text) {
            Ok(_) => wrong.push(format!("{to:?} was accepted")),
            Err(problems) => {
                let fits = |p: &config::Problem| {
                    p.path == *path && (*line == 0 || p.line == *line) && p.message.contains(phrase)
                };
                if !problems.iter().any(fits) {
                    wrong.push(format!("{to:?}: expected {path}:{line} {phrase:?}, got\n{problems}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(WRONG.len() > 90);
}

#[test]
fn ten_mistakes_are_ten_problems() {
    let text = "public_url: http://example.com\nlissten: x\nlisten: nowhere\nadmin: { port: 1 }\noauth:\n  code_expires_in: 1y\n  require_pkce: 3\nscopes: [{}]\nusers:\n  - { username: \"\", password_hash: x }\nupstreams:\n  - { name: A, path: b, url: c }\n";
    let problems = parse(text).unwrap_err();
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    for path in [
        "public_url",
        "lissten",
        "listen",
        "admin.port",
        "admin.listen",
        "oauth.code_expires_in",
        "oauth.require_pkce",
        "scopes[0].name",
        "users[0].username",
        "users[0].password_hash",
        "upstreams[0].name",
        "upstreams[0].path",
        "upstreams[0].url",
    ] {
        assert!(paths.contains(&path), "{path} is missing in\n{problems}");
    }
    let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
    assert!(lines.is_sorted(), "{problems}");
}

#[test]
fn bounds_hold_against_large_files() {
    assert!(parse(&"x".repeat(2 << 20)).unwrap_err().to_string().contains("1 MiB"));
    assert!(
        parse(&format!("public_url: {}", "[".repeat(10_000)))
            .unwrap_err()
            .to_string()
            .contains("nested")
    );
    let many: String = (0..1_001)
        .map(|n| format!("  - {{ username: u{n}, password_hash: \"{HASH}\" }}\n"))
        .collect();
    assert!(
        parse(&smallest().replace(&format!("  - username: ada\n    password_hash: {HASH}\n"), &many))
            .unwrap_err()
            .to_string()
            .contains("1000")
    );
    assert!(
        parse(&smallest().replace("name: everything", &format!("name: {}", "x".repeat(5_000))))
            .unwrap_err()
            .to_string()
            .contains("4096")
    );
}

#[test]
fn secrets_come_from_outside_and_debug_shows_none() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    std::fs::write(&file, "a key from a file\n").unwrap();
    let text = smallest().replace("url: http://127.0.0.1:3001/mcp", &format!("url: http://127.0.0.1:3001/mcp\n    headers: {{ X-A: {{ env: GIVEN }}, X-B: {{ file: {} }}, Authorization: \"Bearer written down\" }}", file.display()));
    let config = parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
    let value = |name: &str| {
        config.upstreams[0]
            .headers
            .iter()
            .find(|(own, _)| own == name)
            .unwrap()
            .1
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        (
            value("x-a").as_str(),
            value("x-b").as_str(),
            value("authorization").as_str()
        ),
        ("a secret from outside", "a key from a file", "Bearer written down")
    );
    let shown = format!("{config:?}");
    for secret in ["a secret from outside", "a key from a file", "written down", "argon2id"] {
        assert!(!shown.contains(secret), "{secret}");
    }
}

#[test]
fn hosts_and_the_root_are_mounts_too() {
    let root =
        parse(&smallest().replace("path: /everything/mcp", "path: /")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        (root.upstreams[0].path.as_str(), root.upstreams[0].resource.as_str()),
        ("", "http://127.0.0.1:8080")
    );
    let hosted = smallest().replace("url: http://127.0.0.1:3001/mcp", "url: http://127.0.0.1:3001/mcp\n  - { name: b, path: /everything/mcp, host: tools.localhost, url: \"https://a.example/b\" }");
    let hosted = parse(&hosted).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        hosted.upstreams[1].resource.as_str(),
        "http://tools.localhost:8080/everything/mcp"
    );
    assert_eq!(
        (
            hosted.upstreams[1].url.tls,
            hosted.upstreams[1].url.port,
            hosted.upstreams[1].url.authority.as_str()
        ),
        (true, 443, "a.example")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// No text whatever makes the reader panic.
    #[test]
    fn no_text_breaks_the_reader(text in "[ -~\\n]{0,300}") {
        let _ = parse(&text);
    }

    /// Nor does any damage to a good file: it loads or it is refused, with a line that exists.
    #[test]
    fn damage_is_refused_with_a_line(at in 0usize..3_000, what in "[ -~\\n]{0,6}", gone in 0usize..40) {
        let good = include_str!("../gateway.yaml");
        let (start, end) = (good.floor_char_boundary(at.min(good.len())), good.floor_char_boundary((at + gone).min(good.len())));
        let text = format!("{}{what}{}", &good[..start], &good[end.max(start)..]);
        if let Err(problems) = parse(&text) {
            prop_assert!(problems.iter().count() > 0);
            prop_assert!(problems.iter().all(|problem| problem.line >= 1 && problem.line <= text.lines().count() + 1));
        }
    }
}
