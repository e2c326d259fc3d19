//! Attacks on the authorization server itself, and what must hold whoever asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::http1::{find, request, send};
use crate::person::{
    Browser, REDIRECT, Tokens, VERIFIER, authorize_target, challenge, redeem, refresh, register, tokens, walk,
};
use crate::setup::{Gateway, PASSWORD};

/// Documents are there before any token is, may be cached for a while, and are never an upstream's, though one has all of
/// the origin.
///
/// Spec: A14, A16, A17, B7, B11
#[tokio::test]
async fn well_known_documents_are_open_and_never_an_upstream_s() {
    let (server, resource) = ("oauth-authorization-server", "oauth-protected-resource");
    let usual = Gateway::start().await;
    let (origin, own) = (usual.origin(), usual.resource("one"));
    let documents = [
        (format!("/.well-known/{server}"), "issuer", &origin),
        (format!("/.well-known/{server}/one/mcp"), "issuer", &origin),
        (format!("/one/mcp/.well-known/{server}"), "issuer", &origin),
        (format!("/.well-known/{resource}/one/mcp"), "resource", &own),
        (format!("/one/mcp/.well-known/{resource}"), "resource", &own),
    ];
    for (target, member, value) in &documents {
        open_document(&usual, target, member, value).await;
    }
    let alone = Gateway::start_with(|yaml| {
        let lines = yaml.lines().filter(|line| !line.contains("name: one, path"));
        lines
            .collect::<Vec<_>>()
            .join("\n")
            .replace("path: /two/mcp", "path: /")
    })
    .await;
    open_document(&alone, &format!("/.well-known/{server}"), "issuer", &alone.origin()).await;
    let reply = alone.get(&format!("/.well-known/{resource}"), &[]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    for (gateway, target) in [
        (&usual, "/.well-known/unheard-of"),
        (&usual, "/one/mcp/.well-known/unheard-of"),
        (&alone, "/.well-known/unheard-of"),
        (&alone, "/below/.well-known/unheard-of"),
    ] {
        let reply = gateway.get(target, &[]).await;
        let kind = reply.header("content-type");
        assert_eq!((reply.status, kind), (404, Some("application/json")), "{target}");
    }
    assert_eq!((usual.upstream.count(), alone.upstream.count()), (0, 0));
}

async fn open_document(gateway: &Gateway, target: &str, member: &str, value: &str) {
    // A token that is none changes nothing: nobody looks.
    for headers in [vec![], vec![("Authorization", "Bearer of nothing")]] {
        let reply = gateway.get(target, &headers).await;
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        assert_eq!(reply.json()[member], value, "{target}");
        let cached = reply.header("cache-control").unwrap();
        let (_, seconds) = cached
            .split_once("max-age=")
            .unwrap_or_else(|| panic!("{target}: {cached}"));
        assert!(
            (1..=3600).contains(&seconds.parse::<u32>().unwrap()),
            "{target}: {cached}"
        );
    }
    let head = send(gateway.address, &request("HEAD", target, &gateway.host, &[], b"")).await;
    assert_eq!((head.status, head.body.len()), (200, 0), "{target}");
}

/// Clients knock without a token though they have one, and every few minutes in the background: any number of times, with
/// any method, and nothing follows from it.
///
/// Spec: H1, H2, H9, H10, H13, H15, K11
#[tokio::test]
async fn requests_without_a_token_are_refused_and_have_no_consequences() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "ada", "one").await;
    assert_eq!(gateway.call("one", Some(&own.access)).await.status, 200);
    let before = gateway.upstream.count();
    let metadata = format!(
        "resource_metadata=\"{}/.well-known/oauth-protected-resource/one/mcp\"",
        gateway.origin()
    );
    for _ in 0..20 {
        for (method, message) in [
            ("POST", "initialize"),
            ("POST", "server/discover"),
            ("POST", "tools/list"),
            ("POST", "ping"),
            ("GET", ""),
            ("DELETE", ""),
        ] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{message}"}}"#);
            let body = if method == "POST" { body.as_bytes() } else { b"" };
            // A session's id opens nothing.
            let headers = [
                ("Mcp-Session-Id", "a-session-of-ada"),
                ("Content-Type", "application/json"),
            ];
            let reply = send(
                gateway.address,
                &request(method, "/one/mcp", &gateway.host, &headers, body),
            )
            .await;
            let challenge = reply.header("www-authenticate").unwrap();
            assert_eq!(reply.status, 401, "{method} {message}");
            assert!(
                challenge.starts_with("Bearer ") && challenge.contains(&metadata),
                "{challenge}"
            );
            assert!(!challenge.contains("error"), "{challenge}");
            assert_eq!(reply.header("cache-control"), Some("no-store"));
        }
    }
    assert_eq!(gateway.upstream.count(), before, "the upstream heard of it");
    assert_eq!(gateway.call("one", Some(&own.access)).await.status, 200);
}

/// The attributes of a challenge, which must be of the scheme Bearer and say nothing twice (RFC 6750 §3).
fn attributes(challenge: &str) -> BTreeMap<String, String> {
    let mut rest = challenge
        .strip_prefix("Bearer ")
        .unwrap_or_else(|| panic!("{challenge}"));
    let mut found = BTreeMap::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{challenge}"));
        let (value, after) = after.split_once('"').unwrap_or_else(|| panic!("{challenge}"));
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{challenge}");
        assert!(
            value.bytes().all(|b| matches!(b, 0x20..=0x7e) && b != b'\\'),
            "{challenge}"
        );
        assert!(
            found.insert(name.to_owned(), value.to_owned()).is_none(),
            "{name} twice: {challenge}"
        );
        rest = after.strip_prefix(", ").unwrap_or(after);
        assert!(after.is_empty() || after.len() > rest.len(), "{challenge}");
    }
    found
}

/// Clients take the first challenge apart with a pattern, and read the body as text or as JSON-RPC: neither may surprise
/// them, whatever was presented.
///
/// Spec: B5, H3, H5, H7, H8, H9
#[tokio::test]
async fn refusals_are_well_formed_whatever_was_presented() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let target = authorize_target(
        &client,
        Some(&gateway.resource("one")),
        Some("profile offline_access"),
        &[],
    );
    let answer = walk(&gateway, &mut Browser::default(), &target, "ada").await;
    let poor = Tokens::of(&redeem(&gateway, &client, &answer.redirected("code").unwrap(), &[]).await);
    let poor = format!("Bearer {}", poor.access);
    for (presented, status, error) in [
        (None, 401, None),
        (Some("Basic YTpi"), 401, None),
        (Some("Bearer x\", scope=\"all"), 400, Some("invalid_request")),
        (Some("Bearer x\",error=\"none"), 401, Some("invalid_token")),
        (Some("Bearer \\"), 401, Some("invalid_token")),
        (Some("Bearer"), 400, Some("invalid_request")),
        (Some("Bearer mgat_x"), 401, Some("invalid_token")),
        (Some(poor.as_str()), 403, Some("insufficient_scope")),
    ] {
        for method in ["POST", "GET", "DELETE"] {
            let headers: Vec<(&str, &str)> = presented.map(|value| ("Authorization", value)).into_iter().collect();
            let body: &[u8] = if method == "POST" {
                br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#
            } else {
                b""
            };
            let reply = send(
                gateway.address,
                &request(method, "/one/mcp", &gateway.host, &headers, body),
            )
            .await;
            assert_eq!(reply.status, status, "{method} {presented:?}: {reply:?}");
            let said = attributes(reply.header("www-authenticate").unwrap());
            assert_eq!(said.get("error").map(String::as_str), error, "{presented:?}");
            let document = format!("{}/.well-known/oauth-protected-resource/one/mcp", gateway.origin());
            assert_eq!(said["resource_metadata"], document);
            // One challenge names everything that is needed, and nothing that only a client can want.
            let scope = said.get("scope").map_or("", String::as_str);
            assert!(
                scope.is_empty() && status == 400 || scope.split(' ').any(|own| own == "one:use"),
                "{said:?}"
            );
            assert!(!scope.contains("offline_access"), "{said:?}");
            assert_eq!(reply.header("cache-control"), Some("no-store"));
            assert_eq!(reply.header("content-type"), Some("application/json"));
            let body = reply.json();
            assert!(
                body["error"].is_string() && body.get("jsonrpc").is_none() && reply.body.len() < 1_000,
                "{body}"
            );
        }
    }
    assert_eq!(gateway.upstream.count(), 0);
}

/// A path that begins like another is another.
///
/// Spec: H3, I1, I3
#[tokio::test]
async fn a_token_is_worth_nothing_at_a_path_that_begins_alike() {
    let gateway = Gateway::start_with(|yaml| yaml.replace("path: /two/mcp", "path: /one/mcp-two")).await;
    let client = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "ada", "one").await;
    let bearer = format!("Bearer {}", own.access);
    let before = gateway.upstream.count();
    for target in ["/one/mcp-two", "/one/mcp-two/", "/one/mcp-two/below"] {
        let reply = gateway.post(target, &[("Authorization", &bearer)], "{}").await;
        let challenge = reply.header("www-authenticate").unwrap_or_default();
        assert_eq!(reply.status, 401, "{target}: {}", reply.text());
        assert!(challenge.contains("error=\"invalid_token\""), "{target}: {challenge}");
        assert!(
            challenge.contains("/.well-known/oauth-protected-resource/one/mcp-two\""),
            "{target}: {challenge}"
        );
    }
    assert_eq!(gateway.upstream.count(), before);
    // Who asks under another name is not told of a resource there.
    let stranger = request("POST", "/one/mcp", "evil.example", &[("Authorization", &bearer)], b"{}");
    let reply = send(gateway.address, &stranger).await;
    assert!([400, 403, 404, 421].contains(&reply.status), "{reply:?}");
    assert!(
        !reply.text().contains("evil.example") && reply.header("www-authenticate").is_none(),
        "{reply:?}"
    );
    assert_eq!(gateway.upstream.count(), before);
}

/// A code that somebody else obtained does not fit the verifier of the client that it is slipped to, and one that was
/// overheard is worth nothing without its verifier.
///
/// Spec: D18, F7, F8, L2
#[tokio::test]
async fn an_injected_code_fits_nobody() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let resource = gateway.resource("one");
    let refused = |code: String, more: Vec<(&'static str, String)>| {
        let (gateway, client) = (&gateway, &client);
        async move {
            let more: Vec<(&str, &str)> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let reply = redeem(gateway, client, &code, &more).await;
            assert_eq!(reply.status, 400, "{}", reply.text());
            reply.error()
        }
    };
    // The attacker's own code, bound to a challenge of the attacker's, in the victim's hands.
    let attacker = [("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cN")];
    assert_ne!(attacker[0].1, challenge());
    let target = authorize_target(&client, Some(&resource), None, &attacker);
    let injected = walk(&gateway, &mut Browser::default(), &target, "bob")
        .await
        .redirected("code")
        .unwrap();
    assert_eq!(refused(injected, vec![]).await, "invalid_grant");
    // The victim's code, overheard: no verifier, a guessed one, the challenge itself.
    let target = authorize_target(&client, Some(&resource), None, &[]);
    let code = walk(&gateway, &mut Browser::default(), &target, "ada")
        .await
        .redirected("code")
        .unwrap();
    for verifier in [String::new(), "x".repeat(43), challenge()] {
        let error = refused(code.clone(), vec![("code_verifier", verifier)]).await;
        assert!(
            ["invalid_grant", "invalid_request"].contains(&error.as_str()),
            "{error}"
        );
    }
    // At another client of the same person's.
    let other = register(&gateway, json!({})).await;
    let reply = redeem(&gateway, &other, &code, &[]).await;
    assert_eq!((reply.status, reply.error().as_str()), (400, "invalid_grant"));
    // None of that cost the victim the code.
    Tokens::of(&redeem(&gateway, &client, &code, &[]).await);
}

/// Whoever takes the challenge out of a request on its way, or weakens it, gets an error sent to the client.
///
/// Spec: A4, D7, D9, L1, L3
#[tokio::test]
async fn pkce_cannot_be_downgraded() {
    let gateway = Gateway::start().await;
    let long = "a".repeat(129);
    for metadata in [
        json!({}),
        json!({ "token_endpoint_auth_method": "client_secret_basic" }),
    ] {
        let client = register(&gateway, metadata).await;
        for change in [
            vec![("code_challenge", ""), ("code_challenge_method", "")],
            vec![("code_challenge", "")],
            vec![("code_challenge_method", "")],
            vec![("code_challenge_method", "plain")],
            vec![("code_challenge_method", "s256")],
            vec![("code_challenge_method", "S512")],
            vec![("code_challenge_method", "none")],
            vec![("code_challenge", "short")],
            vec![("code_challenge", long.as_str())],
            vec![("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM=")],
        ] {
            let target = authorize_target(&client, Some(&gateway.resource("one")), None, &change);
            let reply = walk(&gateway, &mut Browser::default(), &target, "ada").await;
            assert!(reply.location().as_str().starts_with(REDIRECT), "{change:?}");
            assert_eq!(
                reply.redirected("error").as_deref(),
                Some("invalid_request"),
                "{change:?}"
            );
            assert_eq!(reply.redirected("code"), None, "{change:?}");
            // What tells a client which server answered is there in errors, too.
            assert_eq!(reply.redirected("iss"), Some(gateway.origin()), "{change:?}");
        }
    }
}

/// Every way to write an address that is not quite the registered one.
///
/// Spec: D3, D4, D5, E11, L4
#[tokio::test]
async fn nothing_is_sent_to_an_address_that_is_not_registered() {
    let gateway = Gateway::start().await;
    let registered = json!({ "redirect_uris": ["https://app.example.com/cb?x=1", "http://127.0.0.1:5000/cb"] });
    let client = register(&gateway, registered).await;
    for redirect in [
        "https://app.example.com/cb",
        "https://app.example.com/cb?x=1&y=2",
        "https://app.example.com/cb?x=2",
        "https://app.example.com/cb/?x=1",
        "https://app.example.com/CB?x=1",
        "https://app.example.com/cb/../cb?x=1",
        "https://app.example.com/%63b?x=1",
        "https://app.example.com/cb?x=1#",
        "https://app.example.com/cb?x=1#@evil.example",
        "https://app.example.com:8443/cb?x=1",
        "https://app.example.com:443/cb?x=1",
        "https://app.example.com./cb?x=1",
        "https://app.example.com.evil.example/cb?x=1",
        "https://evil.example/https://app.example.com/cb?x=1",
        "https://app.example.com@evil.example/cb?x=1",
        "https://evil.example\\@app.example.com/cb?x=1",
        "https://app.example.com\u{0}.evil.example/cb?x=1",
        "https://app.example.com\n.evil.example/cb?x=1",
        " https://app.example.com/cb?x=1",
        "HTTPS://app.example.com/cb?x=1",
        "http://app.example.com/cb?x=1",
        "//app.example.com/cb?x=1",
        "//evil.example/cb",
        "/cb?x=1",
        "cb?x=1",
        "http://localhost:5000/cb",
        "http://127.0.0.2:5000/cb",
        "http://0.0.0.0:5000/cb",
        "http://[::1]:5000/cb",
        "http://127.1:5000/cb",
        "http://2130706433:5000/cb",
        "http://127.0.0.1.evil.example:5000/cb",
        "http://127.0.0.1:5000@evil.example/cb",
        "http://127.0.0.1:5000/cb/",
        "http://127.0.0.1:5000/cb?code=mine",
        "http://127.0.0.1:99999/cb",
        "https://127.0.0.1:5000/cb",
        "javascript:alert(1)//https://app.example.com/cb?x=1",
        "data:text/html,x",
        "about:blank",
        "urn:ietf:wg:oauth:2.0:oob",
    ] {
        // With everything else in order, and with an error that would be sent there.
        for change in [vec![], vec![("response_type", "token")], vec![("prompt", "none")]] {
            let all = [&[("redirect_uri", redirect)], &change[..]].concat();
            let target = authorize_target(&client, Some(&gateway.resource("one")), None, &all);
            let reply = gateway.get(&target, &[]).await;
            assert_eq!(
                (reply.status, reply.header("location")),
                (400, None),
                "{redirect:?} {change:?}"
            );
            assert_eq!(reply.header("refresh"), None, "{redirect:?}");
            assert!(!reply.text().contains("http-equiv"), "{redirect:?}");
        }
    }
    let more = "next=https://evil.example&return_to=//evil.example&redirect=https://evil.example&url=//evil.example";
    for path in ["/login", "/consent", "/logout", "/authorize"] {
        for query in [
            more.to_owned(),
            format!("{more}&post_logout_redirect_uri=https://evil.example"),
        ] {
            let reply = gateway.get(&format!("{path}?{query}"), &[]).await;
            let location = reply.header("location").unwrap_or_default();
            assert!(!location.contains("evil.example"), "{path}: {location}");
            let posted = gateway
                .post_form(&format!("{path}?{query}"), &[], &[("next", "https://evil.example")])
                .await;
            let location = posted.header("location").unwrap_or_default();
            assert!(!location.contains("evil.example"), "{path}: {location}");
        }
    }
}

/// Whatever is a page, whoever asks for it and however: it cannot be framed, and other sites cannot read it.
///
/// Spec: D1, D19, E4, L6
#[tokio::test]
async fn no_page_can_be_framed() {
    let gateway = Gateway::start().await;
    let mut pages = 0;
    for path in [
        "/authorize",
        "/login",
        "/consent",
        "/logout",
        "/device",
        "/one/mcp",
        "/two/mcp",
        "/",
        "/unheard-of",
    ] {
        for method in ["GET", "POST", "PUT", "HEAD"] {
            for query in [
                "",
                "?request=x",
                "?client_id=nobody&response_type=code",
                "?user_code=BCDF-GHJK",
            ] {
                let headers = [
                    ("Accept", "text/html"),
                    ("Origin", "https://evil.example"),
                    ("Content-Type", "application/x-www-form-urlencoded"),
                ];
                let target = format!("{path}{query}");
                let reply = send(gateway.address, &request(method, &target, &gateway.host, &headers, b"")).await;
                if !reply
                    .header("content-type")
                    .is_some_and(|kind| kind.starts_with("text/html"))
                {
                    continue;
                }
                pages += 1;
                let policy = reply.header("content-security-policy").unwrap_or_default();
                assert!(policy.contains("frame-ancestors 'none'"), "{method} {target}: {policy}");
                assert!(policy.contains("default-src 'none'"), "{method} {target}: {policy}");
                assert_eq!(reply.header("x-frame-options"), Some("DENY"), "{method} {target}");
                assert_eq!(reply.header("cache-control"), Some("no-store"), "{method} {target}");
                assert_eq!(
                    reply.header("referrer-policy"),
                    Some("no-referrer"),
                    "{method} {target}"
                );
                assert_eq!(reply.header("access-control-allow-origin"), None, "{method} {target}");
            }
        }
    }
    assert!(pages > 10, "only {pages} pages");
}

/// A thief who is quick enough to use a refresh token within the grace gets nothing of their own: the same successors, so
/// that the first of the two to go on exposes the other.
///
/// Spec: F13, F14, F15, L9
#[tokio::test]
async fn a_thief_within_the_grace_is_found_out_by_the_next_refresh() {
    for thief_goes_on in [false, true] {
        let gateway = Gateway::start().await;
        let client = register(&gateway, json!({})).await;
        let stolen = tokens(&gateway, &client, "ada", "one").await;
        let owner = Tokens::of(&refresh(&gateway, &client, &stolen.refresh).await);
        gateway.advance(10);
        let thief = Tokens::of(&refresh(&gateway, &client, &stolen.refresh).await);
        assert_eq!(thief.refresh, owner.refresh, "a second branch of the family");
        // Whoever goes on: the other then comes, after the grace, with what is used up.
        gateway.advance(1_800);
        let next = Tokens::of(&refresh(&gateway, &client, &owner.refresh).await);
        assert_eq!(gateway.call("one", Some(&next.access)).await.status, 200);
        gateway.advance(120);
        let late = if thief_goes_on { &owner.refresh } else { &thief.refresh };
        let reply = refresh(&gateway, &client, late).await;
        assert_eq!((reply.status, reply.error().as_str()), (400, "invalid_grant"));
        for access in [&next.access, &owner.access, &thief.access] {
            assert_eq!(gateway.call("one", Some(access)).await.status, 401);
        }
        assert_eq!(refresh(&gateway, &client, &next.refresh).await.error(), "invalid_grant");
    }
}

/// Old refresh tokens, from any generation and at any time after the grace, end the family.
///
/// Spec: F14, L9
#[tokio::test]
async fn a_refresh_token_of_any_generation_ends_the_family() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let mut all = vec![tokens(&gateway, &client, "ada", "one").await];
    for _ in 0..3 {
        gateway.advance(300);
        let last = &all[all.len() - 1];
        all.push(Tokens::of(&refresh(&gateway, &client, &last.refresh).await));
    }
    assert_eq!(
        refresh(&gateway, &client, &all[0].refresh).await.error(),
        "invalid_grant"
    );
    for tokens in &all {
        assert_eq!(gateway.call("one", Some(&tokens.access)).await.status, 401);
        assert_eq!(
            refresh(&gateway, &client, &tokens.refresh).await.error(),
            "invalid_grant"
        );
    }
}

/// How long it takes to be turned away says nothing about whether there is such an account. Attempts alternate, so that
/// whatever else the machine does burdens both; an account that is not looked for would answer a hundred times faster.
///
/// Spec: E8
#[tokio::test]
async fn the_time_of_a_refusal_does_not_tell_who_exists() {
    const PEOPLE: usize = 15;
    let gateway = Gateway::start_with(|yaml| {
        let hash = yaml
            .split("password_hash: \"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap();
        let person = |number| format!("  - {{ username: person{number}, password_hash: \"{hash}\" }}\n");
        let people = (0..PEOPLE).map(person).collect::<Vec<_>>().concat();
        yaml.replace("users:\n", &format!("users:\n{people}"))
    })
    .await;
    let client = register(&gateway, json!({})).await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), None, &[]);
    let attempt = |username: String| {
        let (gateway, target) = (&gateway, &target);
        async move {
            let mut browser = Browser::default();
            let reply = browser.get(gateway, target).await;
            let page = browser.follow(gateway, reply).await;
            let password = format!("not {PASSWORD}");
            let since = Instant::now();
            let reply = browser
                .fill_in(gateway, &page, &[("username", &username), ("password", &password)])
                .await;
            let took = since.elapsed();
            assert_eq!(reply.status, 401, "{username}: {}", reply.text());
            took
        }
    };
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for number in 0..PEOPLE {
        known.push(attempt(format!("person{number}")).await);
        unknown.push(attempt(format!("nobody{number}")).await);
        // So that the address is not locked.
        gateway.advance(601);
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    let (known, unknown) = (median(known), median(unknown));
    let ratio = known / unknown;
    assert!(
        (1.0 / 3.0..3.0).contains(&ratio),
        "{known} s for accounts that exist, {unknown} s for others"
    );
}

/// An upstream that would like its answers to be kept.
async fn cacheable() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 100.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            let mut chunk = [0; 4096];
            while find(&seen, b"\r\n\r\n").is_none() {
                let n = stream.read(&mut chunk).await.unwrap();
                seen.extend_from_slice(&chunk[..n]);
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\nCache-Control: public, max-age=600\r\nETag: \"1\"\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{number}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

/// An answer is for who asked, whatever the upstream says of keeping it.
///
/// Spec: K23
#[tokio::test]
async fn no_answer_of_an_upstream_is_kept() {
    let server = cacheable().await;
    let gateway = Gateway::start_with(move |yaml| {
        let (before, rest) = yaml.split_once("name: two, path: /two/mcp, url: \"").unwrap();
        let (_, after) = rest.split_once('"').unwrap();
        format!("{before}name: two, path: /two/mcp, url: \"http://{server}/two\"{after}")
    })
    .await;
    let client = register(&gateway, json!({})).await;
    let mut answers = Vec::new();
    for username in ["ada", "bob", "ada"] {
        let own = tokens(&gateway, &client, username, "two").await;
        let bearer = format!("Bearer {}", own.access);
        for _ in 0..2 {
            let reply = gateway.get("/two/mcp", &[("Authorization", &bearer)]).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            answers.push(reply.text());
        }
    }
    assert_eq!(answers, ["100", "101", "102", "103", "104", "105"]);
}

fn files(folder: &Path, into: &mut Vec<u8>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else {
            into.extend(std::fs::read(path).unwrap());
        }
    }
}

/// Who takes the store's files away has nothing to sign in with.
///
/// Spec: C13, D18, F6, F21, L14
#[tokio::test]
async fn the_files_hold_no_secret() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({ "token_endpoint_auth_method": "client_secret_post" })).await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), None, &[]);
    let mut browser = Browser::default();
    let answer = walk(&gateway, &mut browser, &target, "ada").await;
    let pending = walk(&gateway, &mut browser, &target, "ada")
        .await
        .redirected("code")
        .unwrap();
    let code = answer.redirected("code").unwrap();
    let first = Tokens::of(&redeem(&gateway, &client, &code, &[]).await);
    let second = Tokens::of(&refresh(&gateway, &client, &first.refresh).await);
    let gateway = gateway.restart().await;
    let mut all = Vec::new();
    files(gateway.directory.path(), &mut all);
    assert!(find(&all, client.id.as_bytes()).is_some(), "what is there can be found");
    let session = browser
        .cookies
        .values()
        .find(|value| value.starts_with("mgss_"))
        .unwrap();
    for secret in [
        client.secret.as_ref().unwrap(),
        &pending,
        &code,
        &first.access,
        &first.refresh,
        &second.access,
        &second.refresh,
        session,
        &VERIFIER.to_owned(),
        &PASSWORD.to_owned(),
    ] {
        let random = secret.split_once('_').map_or(secret.as_str(), |(_, random)| random);
        assert!(find(&all, random.as_bytes()).is_none(), "{}…", &secret[..5]);
    }
    // 256 random bits, in base64url.
    for secret in [client.secret.as_ref().unwrap(), &code, &second.access, &second.refresh] {
        assert!(secret.len() >= 43, "{secret}");
    }
}
