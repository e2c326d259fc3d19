//! What has to hold for every parser of outside text, whatever it is given: not only that it survives. One function for
//! each target of `fuzz_targets/`; `tests/fuzz.rs` runs the same functions over the corpora, so that neither rots.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use mcpgate::config::{self, Config};
use mcpgate::domain::client::ClientId;
use mcpgate::domain::clock::Timestamp;
use mcpgate::domain::device::UserCode;
use mcpgate::domain::key::Algorithm;
use mcpgate::domain::network::{Network, Networks};
use mcpgate::domain::pkce::CodeChallenge;
use mcpgate::domain::scope::Scope;
use mcpgate::domain::secret::{Secret, SecretHash, SecretKind};
use mcpgate::domain::uri::{HostPattern, MAX_URI_LENGTH, RedirectUri, Resource};
use mcpgate::domain::user::Subject;
use mcpgate::jose::{KeySet, PublicKey, Token};
use mcpgate::mcp::endpoint::{self as endpoints, Address, Between, Opened, Opening};
use mcpgate::mcp::events::{BYTE_ORDER_MARK, Boundary, Event, Events, KEEP_ALIVE};
use mcpgate::mcp::session::{MAX_ID, Party, Sessions, names_a_session};
use mcpgate::oauth::dpop::Proofs;
use mcpgate::oauth::protected;
use mcpgate::{oauth, proxy, store};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use url::Url;

/// One target: what it is called, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
#[allow(dead_code)]
pub const TARGETS: &[Target] = &[
    ("basic_header", basic_header),
    ("bearer_header", bearer_header),
    ("called", called),
    ("cookies", cookies),
    ("endpoint", endpoint),
    ("events", events),
    ("forwarded", forwarded),
    ("gateway_yaml", gateway_yaml),
    ("keys", keys),
    ("lists", lists),
    ("message", message),
    ("parameters", parameters),
    ("path", path),
    ("pkce", pkce),
    ("proxy_header", proxy_header),
    ("record", record),
    ("redirect_uri", redirect_uri),
    ("registration", registration),
    ("resource", resource),
    ("scope", scope),
    ("secrets", secrets),
    ("session", session),
    ("tokens", tokens),
];

/// A small configuration with every kind of scope in it.
static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let hash = mcpgate::identity::local::hash_password("correct horse battery staple").expect("a hash");
    let yaml = format!(
        "public_url: https://mcp.example.com\n\
         store: {{ sled: {{ path: ./data }} }}\n\
         scopes:\n  - {{ name: \"one:use\", description: Use it }}\n\
         users:\n  - {{ username: ada, password_hash: \"{hash}\" }}\n\
         upstreams:\n  - {{ name: one, path: /one/mcp, url: \"http://127.0.0.1:3001/mcp\", scopes: [\"one:use\"] }}\n"
    );
    config::parse(&yaml, Path::new("."), &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
});

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// Two texts in one input.
fn two(data: &[u8]) -> Option<(&str, &str)> {
    text(data).map(|all| all.split_once('\n').unwrap_or((all, "")))
}

/// RFC 6749 §3.3.
pub fn scope(data: &[u8]) {
    let Some((one, other)) = two(data) else { return };
    let Ok(scope) = one.parse::<Scope>() else { return };
    let printed = scope.to_string();
    assert_eq!(printed.parse::<Scope>().as_ref(), Ok(&scope), "{printed:?}");
    assert!(scope.covers(&scope) && scope.covers(&Scope::empty()));
    let mut seen = Vec::new();
    for token in scope.iter() {
        let visible = |b: u8| (0x21..0x7f).contains(&b) && b != b'"' && b != b'\\';
        assert!(token.as_str().bytes().all(visible), "{token}");
        assert!(!seen.contains(&token), "{token} is there twice");
        seen.push(token);
    }
    if let Ok(other) = other.parse::<Scope>() {
        let both = scope.union(&other);
        assert!(both.covers(&scope) && both.covers(&other));
        assert_eq!(
            scope.covers(&other),
            other.iter().all(|token| scope.contains(token.as_str()))
        );
    }
}

/// RFC 6749 §3.1.2, RFC 8252 §7.
pub fn redirect_uri(data: &[u8]) {
    let Some((registered, presented)) = two(data) else {
        return;
    };
    let anywhere: Vec<_> = HostPattern::parse("*").into_iter().collect();
    let Ok(uri) = RedirectUri::parse(registered, &anywhere) else {
        return;
    };
    assert_eq!(uri.as_str(), registered);
    assert!(uri.matches(registered));
    let url = Url::parse(registered).expect("what may be registered is a URL");
    assert!(url.fragment().is_none() && url.username().is_empty() && url.password().is_none());
    assert!(!["javascript", "data", "file", "vbscript", "blob"].contains(&url.scheme()));
    let local = |url: &Url| {
        matches!(url.host_str(), Some("localhost" | "localhost." | "127.0.0.1" | "[::1]"))
            || url.host_str().is_some_and(|host| host.starts_with("127."))
    };
    assert!(url.scheme() != "http" || local(&url), "{registered}");
    // Nowhere else is allowed, and the list is kept to.
    if RedirectUri::parse(registered, &[]).is_ok() {
        assert!(local(&url) || !matches!(url.scheme(), "http" | "https"), "{registered}");
    }
    // Whatever else is accepted at /authorize leads to the same place but for the port of this machine.
    for other in [
        presented.to_owned(),
        format!("{registered}{presented}"),
        with_inserted(registered, presented),
    ] {
        if other == registered || !uri.matches(&other) {
            continue;
        }
        let [mut own, mut asked] =
            [registered, &other].map(|text| Url::parse(text).expect("it matched, so it is a URL"));
        assert!(own.scheme() == "http" && local(&own), "{registered} matched {other}");
        assert!(own.set_port(None).is_ok() && asked.set_port(None).is_ok());
        assert_eq!(own, asked, "{registered} matched {other}");
    }
}

/// `inserted` after the first host that looks local: where a port would be.
fn with_inserted(registered: &str, inserted: &str) -> String {
    for host in ["//localhost", "//127.0.0.1", "//[::1]"] {
        if let Some((before, after)) = registered.split_once(host) {
            return format!("{before}{host}{inserted}{after}");
        }
    }
    format!("{inserted}{registered}")
}

/// RFC 8707 §2.
pub fn resource(data: &[u8]) {
    let Some(given) = text(data) else { return };
    let Ok(resource) = Resource::parse(given) else { return };
    let canonical = resource.as_str();
    assert!(canonical.len() <= MAX_URI_LENGTH, "{canonical}");
    assert_eq!(Resource::parse(canonical).as_ref(), Ok(&resource), "{given}");
    assert!(!canonical.contains('#') && !canonical.contains('\\'));
    let (url, meant) = (
        Url::parse(canonical).expect("a resource is a URL"),
        Url::parse(given).expect("so was what was given"),
    );
    assert!(matches!(url.scheme(), "http" | "https"));
    assert_eq!(
        (url.scheme(), url.host(), url.port()),
        (meant.scheme(), meant.host(), meant.port()),
        "{given}"
    );
    assert_eq!(url.query(), meant.query(), "{given}");
    assert!(url.username().is_empty() && url.password().is_none());
}

/// RFC 6749 §2.3.1, RFC 7617.
pub fn basic_header(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let Some(readings) = oauth::fuzzing::basic(&value) else {
        return;
    };
    assert!(matches!(readings.len(), 1 | 2));
    for (_, secret) in &readings {
        assert_ne!(secret.as_deref(), Some(""), "an empty password is none");
    }
    // The reading as it stands, written again, reads the same.
    let (id, secret) = readings.last().expect("there is one");
    assert!(!id.contains(':'));
    let again = format!(
        "Basic {}",
        STANDARD.encode(format!("{id}:{}", secret.as_deref().unwrap_or_default()))
    );
    let again = HeaderValue::from_str(&again).expect("base64 is ASCII");
    if again.len() <= 8 << 10 {
        let read = oauth::fuzzing::basic(&again).expect("what was read can be written");
        assert_eq!(read.last(), readings.last());
    }
}

/// RFC 6750 §2.1, RFC 9449 §7.1.
pub fn bearer_header(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, value.clone());
    if let Ok((_, token)) = protected::presented(&headers) {
        assert!(!token.is_empty() && !token.contains([' ', '\t']));
        assert!(data.windows(token.len()).any(|part| part == token.as_bytes()));
        if let Some(secret) = Secret::parse(SecretKind::AccessToken, token) {
            assert_eq!(secret.expose(), token);
        }
    }
    headers.append(header::AUTHORIZATION, value);
    assert!(protected::presented(&headers).is_err(), "two headers are none");
}

/// Queries and forms: RFC 6749 §3.1, §3.2.
pub fn parameters(data: &[u8]) {
    let Some(pairs) = oauth::fuzzing::parameters(data) else {
        return;
    };
    for (at, (name, _)) in pairs.iter().enumerate() {
        let again = pairs.iter().skip(at + 1).any(|(other, _)| other == name);
        assert!(!again || name == "resource", "{name:?} is there twice");
    }
    assert!(
        pairs
            .iter()
            .all(|(name, value)| !name.contains('\0') && !value.contains('\0'))
    );
    let written = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(&pairs)
        .finish();
    assert_eq!(oauth::fuzzing::parameters(written.as_bytes()).as_ref(), Some(&pairs));
    // Whoever else reads it as a form reads the same, wherever that one need not guess.
    let lenient: Vec<_> = form_urlencoded::parse(data).into_owned().collect();
    assert_eq!(lenient, pairs);
}

/// RFC 7591 §2.
pub fn registration(data: &[u8]) {
    let Ok(Value::Object(document)) = serde_json::from_slice(data) else {
        return;
    };
    let Some(got) = oauth::fuzzing::registration(&document, &CONFIG) else {
        return;
    };
    let uris = got["redirect_uris"].as_array().expect("a list");
    let sent: &[Value] = document
        .get("redirect_uris")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice);
    for uri in uris {
        assert!(sent.contains(uri), "{uri} was not asked for");
        let uri = uri.as_str().expect("a text");
        assert!(RedirectUri::parse(uri, &CONFIG.oauth.allowed_redirect_hosts).is_ok());
    }
    assert!(uris.len() <= 20);
    assert!(serde_json::to_vec(&got).is_ok_and(|bytes| bytes.len() <= 4 * data.len() + 4096));
    // A client that registers with what it got gets that.
    let again: Map<_, _> = got
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    assert_eq!(
        oauth::fuzzing::registration(&again, &CONFIG),
        Some(got),
        "{}",
        String::from_utf8_lossy(data)
    );
}

/// RFC 6265 §4.2.
pub fn cookies(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    for name in ["mcpgate_session", "a", ""] {
        for found in oauth::fuzzing::cookies(value.clone(), name) {
            assert!(!found.contains(';') && found.trim() == found);
            assert!(
                data.windows(found.len() + 1)
                    .any(|part| part.ends_with(found.as_bytes()))
            );
            let alone = HeaderValue::from_str(&format!("x=y; {name}={found}")).expect("it came from a header");
            assert!(oauth::fuzzing::cookies(alone, name).contains(&found));
        }
    }
}

/// The configuration: every problem has words and lies within the file.
pub fn gateway_yaml(data: &[u8]) {
    let Some(yaml) = text(data) else { return };
    // Files of the machine that this runs on are nobody's business here.
    if yaml.contains("file") || yaml.contains("cert") {
        return;
    }
    match config::parse(yaml, Path::new("/nowhere"), &|_| None) {
        Ok(config) => {
            assert!(config.public_url.scheme == "https" || config.public_url.loopback);
            for (at, upstream) in config.upstreams.iter().enumerate() {
                assert!(upstream.path.starts_with('/') && upstream.url.port > 0);
                assert!(
                    config
                        .upstreams
                        .iter()
                        .skip(at + 1)
                        .all(|other| other.name != upstream.name)
                );
                assert!(config.upstream_for(&upstream.resource).is_some());
            }
        }
        Err(problems) => {
            assert!(problems.iter().count() > 0, "{yaml}");
            // YAML ends lines in more ways than one.
            let lines = yaml.matches(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() + 1;
            for problem in problems.iter() {
                assert!(!problem.message.is_empty());
                assert!(problem.line <= lines + 1, "line {} of {lines}", problem.line);
            }
            assert!(!problems.to_string().is_empty());
        }
    }
}

/// Everything of ours that comes back from outside: secrets, codes that people type, identifiers.
pub fn secrets(data: &[u8]) {
    let Some(given) = text(data) else { return };
    let kinds = [
        SecretKind::AccessToken,
        SecretKind::RefreshToken,
        SecretKind::AuthorizationCode,
        SecretKind::ClientSecret,
        SecretKind::Session,
        SecretKind::Authorization,
        SecretKind::Browser,
        SecretKind::DeviceCode,
        SecretKind::PushedRequest,
    ];
    let parsed: Vec<_> = kinds.iter().filter_map(|kind| Secret::parse(*kind, given)).collect();
    assert!(parsed.len() <= 1, "one text is a secret of one kind");
    for secret in parsed {
        assert_eq!(secret.expose(), given);
        assert_eq!(secret.hash(), SecretHash::of(given));
        assert!(secret.hash().matches(given) && !secret.hash().matches(&format!("{given} ")));
    }
    if let Some(code) = UserCode::parse(given) {
        assert_eq!(UserCode::parse(&code.shown()), Some(code));
    }
    if let Some(id) = ClientId::parse(given) {
        assert_eq!(ClientId::parse(id.as_str()).as_ref().map(ClientId::as_str), Some(given));
        // A client's own subject is nobody's username.
        assert_eq!(Subject::of_username(Subject::of_client(&id).as_str()), None);
    }
    if let Some(subject) = Subject::of_username(given) {
        assert!(subject.as_str() == given && !given.starts_with("client:"));
    }
    if let Some(pattern) = HostPattern::parse(given) {
        assert!(given.starts_with('*') || pattern.matches(given));
        assert!(given == "*" || !pattern.matches("evil.invalid") || given.to_ascii_lowercase().ends_with("invalid"));
    }
}

/// RFC 7636 §4.
pub fn pkce(data: &[u8]) {
    let Some((challenge, verifier)) = two(data) else { return };
    let parsed = CodeChallenge::parse(challenge);
    if let Ok(made) = CodeChallenge::of(verifier) {
        assert_eq!(made.verified_by(verifier), Ok(true));
        let first = if verifier.starts_with('x') { "y" } else { "x" };
        assert_ne!(made.verified_by(&format!("{first}{}", &verifier[1..])), Ok(true));
    } else if let Ok(parsed) = &parsed {
        assert!(parsed.verified_by(verifier).is_err());
    }
    if let Ok(parsed) = parsed {
        assert_eq!(challenge.len(), 43);
        assert_ne!(
            parsed.verified_by(challenge),
            Ok(true),
            "a challenge is not its own verifier"
        );
    }
}

/// Tokens that others signed: RFC 7515, RFC 9449. Nobody has the private key that belongs to these.
pub fn tokens(data: &[u8]) {
    static STRANGERS: LazyLock<KeySet> = LazyLock::new(|| {
        let key = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        });
        KeySet::parse(&json!({ "keys": [key] })).expect("a key")
    });
    let Some(given) = text(data) else { return };
    if let Ok(token) = Token::parse(given) {
        assert!(Algorithm::ALL.contains(&token.algorithm()));
        assert_eq!(given.matches('.').count(), 2);
        let issuer = token.claimed_issuer();
        if let Ok(claims) = token.verify(&STRANGERS, &Algorithm::ALL) {
            assert_eq!(claims.text("iss"), issuer.as_deref());
        }
        assert!(token.verify(&STRANGERS, &[]).is_err());
        if let Ok(key) = token.embedded_key() {
            assert_eq!(key.thumbprint().map(|thumbprint| thumbprint.len()), Ok(43));
        }
    }
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(given) {
        headers.insert("dpop", value);
        let proofs = Proofs::new([7; 32], Timestamp::from_millis(0));
        let now = Timestamp::from_millis(1_700_000_000_000);
        let target = "https://mcp.example.com/token";
        if let Ok(Some(key)) = proofs.check(&headers, &http::Method::POST, target, None, now) {
            assert_eq!(key.len(), 43);
            assert!(
                proofs.check(&headers, &http::Method::POST, target, None, now).is_err(),
                "a proof counts once"
            );
        }
    }
}

/// RFC 7517: sets of keys that others publish.
pub fn keys(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    if let Ok(key) = PublicKey::parse(&value) {
        for private in ["d", "p", "q", "k"] {
            assert!(value.get(private).is_none(), "a private key was accepted");
        }
        assert_eq!(key.thumbprint().map(|thumbprint| thumbprint.len()), Ok(43));
        assert!(KeySet::parse(&json!({ "keys": [value] })).is_ok());
    }
    // Never for a signature that is none.
    if let Ok(set) = KeySet::parse(&value) {
        for header in ["eyJhbGciOiJFUzI1NiJ9", "eyJhbGciOiJSUzI1NiJ9", "eyJhbGciOiJFZERTQSJ9"] {
            let forged = format!("{header}.e30.AAAA");
            let token = Token::parse(&forged).expect("it has the form of one");
            assert!(token.verify(&set, &Algorithm::ALL).is_err());
        }
    }
}

/// The envelope of a JSON-RPC message.
pub fn message(data: &[u8]) {
    let label = proxy::fuzzing::method_label(data);
    assert!(!label.is_empty() && label.len() <= 40);
    let error = proxy::fuzzing::error_for(data);
    let fields: std::collections::BTreeMap<String, &RawValue> = serde_json::from_slice(&error)
        .unwrap_or_else(|problem| panic!("{problem}: {}", String::from_utf8_lossy(&error)));
    assert_eq!(
        fields.keys().map(String::as_str).collect::<Vec<_>>(),
        ["error", "id", "jsonrpc"]
    );
    let id = fields["id"].get();
    assert!(id == "null" || id.starts_with('"') || id.parse::<f64>().is_ok(), "{id}");
    if let Ok(Value::Object(request)) = serde_json::from_slice(data) {
        let method = request.get("method").and_then(Value::as_str);
        assert!(label == "other" || method == Some(label));
        assert!(id == "null" || serde_json::from_str::<Value>(id).ok().as_ref() == request.get("id"));
    }
}

/// `X-Forwarded-For`, each line of the input one line of it; whoever sends it is believed.
pub fn forwarded(data: &[u8]) {
    let trusted: Networks = "10.0.0.0/8".parse::<Network>().into_iter().collect();
    let peer = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let mut lines: Vec<HeaderValue> = data
        .split(|b| *b == b'\n')
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .take(64)
        .collect();
    let (client, chain) = proxy::fuzzing::forwarded(peer, &lines, &trusted);
    let hops: Vec<IpAddr> = chain.split(", ").map(|hop| hop.parse().expect("an address")).collect();
    assert_eq!(hops.first(), Some(&client), "{chain}");
    assert_eq!(hops.last(), Some(&peer), "{chain}");
    assert!(
        hops.len() <= 20 && hops.iter().skip(1).all(|hop| trusted.contain(*hop)),
        "{chain}"
    );
    // A stranger is itself, and what a proxy of ours adds outdoes all that was there.
    let stranger = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let alone = proxy::fuzzing::forwarded(stranger, &lines, &trusted);
    assert_eq!(alone, (stranger, "192.0.2.1".to_owned()));
    lines.push(HeaderValue::from_static("203.0.113.9"));
    let (client, chain) = proxy::fuzzing::forwarded(peer, &lines, &trusted);
    assert_eq!(
        (client.to_string(), chain.as_str()),
        ("203.0.113.9".to_owned(), "203.0.113.9, 10.0.0.1")
    );
}

/// The PROXY protocol, both versions.
pub fn proxy_header(data: &[u8]) {
    let Some(found) = proxy::fuzzing::proxy_header(data) else {
        return;
    };
    let version_1 = data.starts_with(b"PROXY ");
    assert!(version_1 || data.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
    assert!(!version_1 || data.ends_with(b"\r\n"));
    // Nothing follows a header, and nothing is missing from it.
    assert_eq!(proxy::fuzzing::proxy_header(&[data, b"x"].concat()), None);
    assert_eq!(
        proxy::fuzzing::proxy_header(data.split_last().map_or(data, |(_, rest)| rest)),
        None
    );
    if let (true, Some(source), Some(line)) = (version_1, found, text(data)) {
        let said = line.split(' ').nth(2).and_then(|said| said.parse::<IpAddr>().ok());
        assert_eq!(said, Some(source.ip()), "{line}");
    }
}

/// What a request is routed by.
pub fn path(data: &[u8]) {
    // Where a path ends and the query begins was decided before.
    let plain = |path: &&str| !path.contains('?') && proxy::fuzzing::path_is_plain(path);
    if let Some(path) = text(data).filter(plain) {
        assert!(path.starts_with('/') && path.is_ascii());
        let once: Vec<u8> = percent(path);
        assert!(
            !once
                .split(|b| *b == b'/')
                .any(|segment| segment == b"." || segment == b".."),
            "{path}"
        );
        assert_eq!(once.split(|b| *b == b'/').count(), path.split('/').count(), "{path}");
        assert!(!once.iter().any(|b| *b < 0x20 || *b == 0x7f || *b == b'\\'), "{path}");
        let base = Url::parse("http://a.example/").expect("a URL");
        if path != "/" {
            let resolved = base.join(path).expect("a path is a reference");
            assert_eq!(
                (resolved.path(), resolved.host_str()),
                (path, Some("a.example")),
                "{path}"
            );
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(data)
        && let Some(host) = proxy::fuzzing::host(value)
    {
        assert_eq!(host.as_bytes(), data.to_ascii_lowercase());
        assert!(!host.contains(['/', '@', '?', '#', ' ', '\\', ',']), "{host}");
    }
}

/// Percent-decoding of what is well-formed.
fn percent(path: &str) -> Vec<u8> {
    let mut rest = path.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = rest.next() {
        let mut digit = || {
            rest.next()
                .and_then(|b| char::from(b).to_digit(16))
                .and_then(|d| u8::try_from(d).ok())
        };
        decoded.push(match byte {
            b'%' => digit().expect("a digit") << 4 | digit().expect("a digit"),
            other => other,
        });
    }
    decoded
}

/// Records of the store: what is read can be written, and reads the same then.
pub fn record(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    if let Some(written) = store::sled::fuzzing::rewritten(*kind, bytes) {
        assert_eq!(
            store::sled::fuzzing::rewritten(*kind, &written).as_ref(),
            Some(&written)
        );
    }
}

/// The first byte says how a stream is cut into pieces.
fn in_pieces(data: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let Some((size, stream)) = data.split_first() else {
        return (&[], Vec::new());
    };
    (stream, stream.chunks(usize::from(*size % 32).max(1)).collect())
}

/// The events of a stream, what is left of it, and what a client is told.
type Read = (Vec<Event>, Vec<u8>);

fn read_events(pieces: &[&[u8]]) -> Read {
    let mut reader = Events::new(usize::MAX);
    let mut found = Vec::new();
    for piece in pieces {
        reader.push(Bytes::copy_from_slice(piece));
        while let Some(event) = reader.next().expect("no limit") {
            found.push(event);
        }
    }
    (found, reader.into_rest().to_vec())
}

fn told(events: &[Event]) -> Vec<(Vec<u8>, Vec<u8>, Option<Vec<u8>>)> {
    let told = |event: &Event| {
        let data = event.data()?.into_owned();
        Some((event.name().to_vec(), data, event.id().map(<[u8]>::to_vec)))
    };
    events.iter().filter_map(told).collect()
}

/// Event streams: however they are cut, the same is told, nothing is lost, and comments go between.
pub fn events(data: &[u8]) {
    let (stream, pieces) = in_pieces(data);
    let (whole, rest) = read_events(&[stream]);
    let (cut, cut_rest) = read_events(&pieces);
    assert_eq!(told(&whole), told(&cut));
    for (events, rest) in [(&whole, &rest), (&cut, &cut_rest)] {
        let mut all: Vec<u8> = events.iter().flat_map(|event| event.raw().to_vec()).collect();
        all.extend_from_slice(rest);
        assert_eq!(all, stream);
    }
    let mut boundary = Boundary::new();
    let mut commented = Vec::new();
    for piece in pieces {
        boundary.pass(piece);
        commented.extend_from_slice(piece);
        if boundary.is_between() {
            commented.extend_from_slice(KEEP_ALIVE);
        }
    }
    assert_eq!(told(&read_events(&[&commented]).0), told(&whole));
    for event in whole.iter().filter(|event| event.data().is_some()) {
        let (again, rest) = read_events(&[&event.with_data(b"other")]);
        assert!(rest.is_empty());
        let mut expected = told(std::slice::from_ref(event));
        expected[0].1 = b"other".to_vec();
        // A mark that is not at the beginning any more is a letter like others.
        if !event.raw().starts_with(BYTE_ORDER_MARK) {
            assert_eq!(told(&again), expected);
        }
    }
}

/// The parties of these checks; the first one owns what is given out.
const PARTIES: [Party<'static>; 4] = [
    Party {
        upstream: "one",
        subject: "ada",
        client: "desktop",
    },
    Party {
        upstream: "two",
        subject: "ada",
        client: "desktop",
    },
    Party {
        upstream: "one",
        subject: "bob",
        client: "desktop",
    },
    Party {
        upstream: "one",
        subject: "ada",
        client: "phone",
    },
];

/// Session ids: any id comes back to its own party and to no other, and nothing that was not given out is taken.
pub fn session(data: &[u8]) {
    let sessions = Sessions::new(&[7; 32]);
    let [owner, others @ ..] = PARTIES;
    assert_eq!(sessions.unbind(owner, data), None, "a key that nobody knows");
    if let Some(bound) = sessions.bind(owner, data) {
        assert_eq!(sessions.unbind(owner, &bound), Some(data));
        for other in others {
            assert_eq!(sessions.unbind(other, &bound), None);
        }
        assert!(bound.starts_with(data));
    } else {
        assert!(data.is_empty() || data.len() > MAX_ID);
    }
    if let Some(query) = text(data) {
        let wrapped = format!("a=b&{query}&c=d");
        assert!(!names_a_session(query) || names_a_session(&wrapped));
        assert!(names_a_session(&format!("{query}&sessionId=x")));
    }
}

/// Endpoint events: whatever a server announces, what a client gets is below the mount, at the gateway's origin, leads back to
/// the server's own path, and is good for one party.
pub fn endpoint(data: &[u8]) {
    let sessions = Sessions::new(&[7; 32]);
    let [owner, others @ ..] = PARTIES;
    let between = Between {
        upstream: "http://10.0.0.7:3001",
        own: "/mcp",
        asked: "/mcp",
        public: "https://mcp.example.com",
        mount: "/old",
    };
    let follow = |party: Party<'_>, path: &str, query: Option<&str>| {
        let below = path.strip_prefix("/old").expect("below the mount");
        endpoints::read(&sessions, Some(party), party.upstream, between.own, below, query)
    };
    if let Ok(given) = endpoints::rewrite(&sessions, Some(owner), owner.upstream, between, data) {
        let public = Url::parse("https://mcp.example.com/old").expect("a URL");
        let seen = public.join(&given).expect("a URL");
        assert_eq!(seen.origin(), public.origin());
        assert!(seen.path().starts_with("/old/"), "{given}");
        assert!(
            seen.fragment().is_none() && !given.contains(['\r', '\n', ' ', '\\']),
            "{given}"
        );
        let Address::Known(target) = follow(owner, seen.path(), seen.query()) else {
            panic!("{given} leads nowhere");
        };
        let base = Url::parse("http://10.0.0.7:3001/mcp").expect("a URL");
        let mut meant = base.join(text(data).expect("text")).expect("a URL");
        meant.set_fragment(None);
        assert_eq!(
            target.trim_end_matches('?'),
            meant[url::Position::BeforePath..].trim_end_matches('?'),
            "{given}"
        );
        for other in others {
            assert_eq!(follow(other, seen.path(), seen.query()), Address::Unknown, "{given}");
        }
    }
    if let Some((path, query)) = text(data).and_then(|text| text.split_once('?')) {
        let read = follow(owner, &format!("/old{path}"), Some(query));
        assert!(!matches!(read, Address::Known(_)), "nobody gave it out: {path}?{query}");
        assert!(read == Address::Unknown || !names_a_session(query));
    }
    let (stream, pieces) = in_pieces(data);
    let open = |pieces: &[&[u8]]| {
        let mut opening = Opening::new();
        let mut passed = Vec::new();
        for piece in pieces {
            match opening.push(Bytes::copy_from_slice(piece)) {
                Opened::NotYet(bytes) => passed.extend_from_slice(&bytes),
                Opened::Never(bytes) => return (stream.starts_with(&[&passed[..], &bytes].concat()), None),
                Opened::Endpoint { before, event, after } => {
                    passed.extend_from_slice(&[&before[..], event.raw(), &after].concat());
                    return (
                        stream.starts_with(&passed),
                        event.data().map(std::borrow::Cow::into_owned),
                    );
                }
                Opened::TooLong => return (true, None),
            }
        }
        (stream.starts_with(&passed), None)
    };
    let (whole, cut) = (open(&[stream]), open(&pieces));
    assert_eq!((whole.0, &whole.1), (true, &cut.1));
    assert!(cut.0);
}

/// What a reader that builds a tree, and takes the last of two keys, sees of a message: its method and the tool that it
/// calls.
fn seen(message: &Value) -> (Option<&str>, Option<&str>) {
    let method = message["method"].as_str();
    let tool = message["params"]["name"].as_str();
    (method, tool.filter(|_| method == Some("tools/call")))
}

/// A body is refused, or read as everybody reads it.
pub fn called(data: &[u8]) {
    use mcpgate::domain::rules::Subject;

    let _ = mcpgate::mcp::message::called_tool(data);
    let Ok(body) = mcpgate::mcp::message::read(data) else {
        return;
    };
    // What is too deep for a tree is for nobody who builds one.
    let Ok(tree) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let trees = match &tree {
        Value::Array(messages) => messages.as_slice(),
        other => std::slice::from_ref(other),
    };
    assert_eq!((body.messages.len(), body.is_batch), (trees.len(), tree.is_array()));
    for (message, tree) in body.messages.iter().zip(trees) {
        let (method, tool) = seen(tree);
        assert_eq!(message.method.as_deref(), method);
        let named = message.names.iter().find(|(subject, _)| *subject == Subject::Tool);
        assert_eq!(named.and_then(|(_, name)| name.as_deref()), tool);
        let folded = |key: &str| {
            tree.as_object()
                .into_iter()
                .flatten()
                .filter(|(own, _)| own.eq_ignore_ascii_case(key))
                .count()
        };
        assert!(["method", "params", "id"].iter().all(|key| folded(key) <= 1));
    }
}

/// No reader of a list finds in it what is not for it, and everything else in it.
pub fn lists(data: &[u8]) {
    use mcpgate::domain::rules::{Demand, Pattern, Rule, Rules};
    use mcpgate::domain::scope::Scope;

    let deny = || Rule {
        pattern: Pattern::new("d*"),
        demand: Demand::Deny,
    };
    let rules = Rules {
        tools: vec![deny()],
        resources: vec![deny()],
        ..Rules::default()
    };
    let Ok(filtered) = mcpgate::mcp::lists::filter(data, &rules, &Scope::empty()) else {
        return;
    };
    assert_eq!(
        mcpgate::mcp::lists::filter(&filtered, &rules, &Scope::empty()).as_deref(),
        Ok(filtered.as_ref()),
        "what was filtered stays"
    );
    let Ok(tree) = serde_json::from_slice::<Value>(&filtered) else {
        return;
    };
    let messages = match &tree {
        Value::Array(messages) => messages.as_slice(),
        other => std::slice::from_ref(other),
    };
    for message in messages {
        let result = &message["result"];
        for (list, by) in [
            ("tools", "name"),
            ("resources", "uri"),
            ("resourceTemplates", "uriTemplate"),
        ] {
            let Some(entries) = result[list].as_array() else {
                continue;
            };
            // Some readers do not mind the case of keys.
            let named = |entry: &Value| {
                let own = entry.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(by));
                own.and_then(|(_, name)| Some(name.as_str()?.to_owned()))
            };
            assert!(
                entries
                    .iter()
                    .all(|entry| named(entry).is_some_and(|name| !name.starts_with('d')))
            );
            assert_ne!(result["cacheScope"], "public");
        }
    }
}
