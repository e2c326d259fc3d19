//! Hostile input: what each bad request gets, exactly. None may be forwarded, none may hang, none may be a 5xx, and the
//! gateway must serve as before afterwards.

#![allow(clippy::too_many_lines, reason = "a table is as long as it has rows")]

use serde_json::json;

use crate::http1::{Reply, form, request, send};
use crate::person::{Browser, Client, REDIRECT, VERIFIER, authorize_target, challenge, redeem, register, tokens, walk};
use crate::setup::{Gateway, PASSWORD};

/// What a bad request gets: a status, and text that is in the `error` of a JSON body, in the challenge, in the redirect or
/// on the page.
type Expected = (u16, &'static str);
/// A request by name, its headers, and what it gets.
type HeaderRow<'a> = (&'a str, Vec<(&'a str, String)>, Expected);

/// Where a reply says what was wrong.
fn says(reply: &Reply, what: &str) -> bool {
    let location = reply.header("location").unwrap_or_default();
    what.is_empty()
        || reply.text().contains(what)
        || reply
            .header("www-authenticate")
            .is_some_and(|challenge| challenge.contains(what))
        || location.contains(&format!("error={what}"))
}

struct Table<'a> {
    gateway: &'a Gateway,
    wrong: Vec<String>,
    rows: usize,
}

impl<'a> Table<'a> {
    fn new(gateway: &'a Gateway) -> Self {
        Self {
            gateway,
            wrong: Vec::new(),
            rows: 0,
        }
    }

    async fn row(&mut self, name: &str, bytes: &[u8], expected: Expected) {
        let before = self.gateway.upstream.count();
        let reply = send(self.gateway.address, bytes).await;
        self.judge(name, &reply, expected);
        if self.gateway.upstream.count() != before {
            self.wrong.push(format!("{name}: it was FORWARDED"));
        }
    }

    fn judge(&mut self, name: &str, reply: &Reply, (status, what): Expected) {
        self.rows += 1;
        if reply.status != status || !says(reply, what) {
            let text: String = reply.text().chars().take(160).collect();
            self.wrong.push(format!(
                "{name}: expected {status} {what:?}, got {} {:?} {:?} {text}",
                reply.status,
                reply.header("location"),
                reply.header("www-authenticate")
            ));
        }
    }

    fn finish(self, at_least: usize) {
        assert!(
            self.wrong.is_empty(),
            "{} of {}:\n{}",
            self.wrong.len(),
            self.rows,
            self.wrong.join("\n")
        );
        assert!(self.rows >= at_least, "{} rows", self.rows);
    }
}

const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;

/// Framing, heads and hosts: all of them carry a good token, so only the head is at fault.
/// Spec: K13, K22
#[tokio::test]
async fn heads_that_could_be_read_in_two_ways() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let token = tokens(&gateway, &client, "ada", "one").await.access;
    let host = gateway.host.clone();
    let auth = format!("Authorization: Bearer {token}\r\n");
    let length = CALL.len();
    let mut table = Table::new(&gateway);
    let post = |head: &str| format!("POST /one/mcp HTTP/1.1\r\n{auth}{head}\r\n\r\n{CALL}").into_bytes();
    let rows: Vec<(&str, Vec<u8>, Expected)> = vec![
        (
            "CL and TE",
            post(&format!(
                "Host: {host}\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked"
            )),
            (400, ""),
        ),
        (
            "TE and CL",
            post(&format!(
                "Host: {host}\r\nTransfer-Encoding: chunked\r\nContent-Length: {length}"
            )),
            (400, ""),
        ),
        (
            "TE xchunked",
            post(&format!("Host: {host}\r\nTransfer-Encoding: xchunked")),
            (400, ""),
        ),
        (
            "TE identity",
            post(&format!("Host: {host}\r\nTransfer-Encoding: identity")),
            (400, ""),
        ),
        (
            "TE gzip, chunked",
            post(&format!("Host: {host}\r\nTransfer-Encoding: gzip, chunked")),
            (400, ""),
        ),
        (
            "TE chunked twice",
            post(&format!(
                "Host: {host}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked"
            )),
            (400, ""),
        ),
        (
            "TE chunked, identity",
            post(&format!("Host: {host}\r\nTransfer-Encoding: chunked, identity")),
            (400, ""),
        ),
        (
            "two lengths",
            post(&format!(
                "Host: {host}\r\nContent-Length: {length}\r\nContent-Length: 1"
            )),
            (400, ""),
        ),
        (
            "two equal lengths in one",
            post(&format!("Host: {host}\r\nContent-Length: {length}, {length}")),
            (400, ""),
        ),
        (
            "negative length",
            post(&format!("Host: {host}\r\nContent-Length: -1")),
            (400, ""),
        ),
        (
            "length with a plus",
            post(&format!("Host: {host}\r\nContent-Length: +{length}")),
            (400, ""),
        ),
        (
            "length in hex",
            post(&format!("Host: {host}\r\nContent-Length: 0x10")),
            (400, ""),
        ),
        (
            "length beyond numbers",
            post(&format!("Host: {host}\r\nContent-Length: 99999999999999999999999")),
            (400, ""),
        ),
        ("no Host", post(&format!("Content-Length: {length}")), (400, "")),
        (
            "two Hosts",
            post(&format!("Host: {host}\r\nHost: {host}\r\nContent-Length: {length}")),
            (400, ""),
        ),
        (
            "two different Hosts",
            post(&format!(
                "Host: {host}\r\nHost: evil.example\r\nContent-Length: {length}"
            )),
            (400, ""),
        ),
        (
            "Host with a space",
            post(&format!("Host: {host} evil\r\nContent-Length: {length}")),
            (400, ""),
        ),
        (
            "Host with userinfo",
            post(&format!("Host: user@{host}\r\nContent-Length: {length}")),
            (400, ""),
        ),
        (
            "Host with a path",
            post(&format!("Host: {host}/x\r\nContent-Length: {length}")),
            (400, ""),
        ),
        (
            "space before the colon",
            post(&format!("Host : {host}\r\nContent-Length: {length}")),
            (400, ""),
        ),
        (
            "foreign Host",
            post(&format!("Host: evil.example\r\nContent-Length: {length}")),
            (421, ""),
        ),
        (
            "Host of another port",
            post(&format!("Host: 127.0.0.1:1\r\nContent-Length: {length}")),
            (421, ""),
        ),
        (
            "Host with our name in front",
            post(&format!("Host: {host}.evil.example\r\nContent-Length: {length}")),
            (400, ""),
        ),
        (
            "empty Host",
            post(&format!("Host: \r\nContent-Length: {length}")),
            (400, ""),
        ),
        (
            "folded header",
            post(&format!("Host: {host}\r\nX-A: b\r\n c\r\nContent-Length: {length}")),
            (400, ""),
        ),
        (
            "bare LF after the request line",
            format!("POST /one/mcp HTTP/1.1\nHost: {host}\r\n{auth}Content-Length: 0\r\n\r\n").into_bytes(),
            (400, ""),
        ),
        (
            "bare LF in the head",
            format!("POST /one/mcp HTTP/1.1\r\nHost: {host}\n{auth}Content-Length: 0\r\n\r\n").into_bytes(),
            (400, ""),
        ),
        (
            "header name with a space",
            post(&format!("Host: {host}\r\nX A: b\r\nContent-Length: {length}")),
            (400, ""),
        ),
        (
            "header without a name",
            post(&format!("Host: {host}\r\n: b\r\nContent-Length: {length}")),
            (400, ""),
        ),
        (
            "NUL in a header",
            post(&format!("Host: {host}\r\nX-A: a\0b\r\nContent-Length: {length}")),
            (400, ""),
        ),
        (
            "a header of 100 KB",
            post(&format!(
                "Host: {host}\r\nX-A: {}\r\nContent-Length: {length}",
                "a".repeat(100_000)
            )),
            (431, ""),
        ),
        (
            "200 headers",
            post(&format!(
                "Host: {host}\r\n{}Content-Length: {length}",
                "X-A: b\r\n".repeat(200)
            )),
            (431, ""),
        ),
        (
            "absolute form of another host",
            format!("POST http://evil.example/one/mcp HTTP/1.1\r\nHost: {host}\r\n{auth}Content-Length: 0\r\n\r\n")
                .into_bytes(),
            (400, ""),
        ),
        (
            "CONNECT",
            format!("CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n{auth}\r\n").into_bytes(),
            (405, ""),
        ),
        (
            "TRACE",
            format!("TRACE /one/mcp HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n").into_bytes(),
            (405, ""),
        ),
        (
            "PUT",
            format!("PUT /one/mcp HTTP/1.1\r\nHost: {host}\r\n{auth}Content-Length: 0\r\n\r\n").into_bytes(),
            (405, ""),
        ),
        (
            "PATCH",
            format!("PATCH /one/mcp HTTP/1.1\r\nHost: {host}\r\n{auth}Content-Length: 0\r\n\r\n").into_bytes(),
            (405, ""),
        ),
        (
            "an invented method",
            format!("BREW /one/mcp HTTP/1.1\r\nHost: {host}\r\n{auth}Content-Length: 0\r\n\r\n").into_bytes(),
            (405, ""),
        ),
        (
            "a body over the limit",
            format!("POST /one/mcp HTTP/1.1\r\nHost: {host}\r\n{auth}Content-Length: 4194305\r\n\r\n").into_bytes(),
            (413, ""),
        ),
        (
            "a body far over the limit",
            format!("POST /one/mcp HTTP/1.1\r\nHost: {host}\r\n{auth}Content-Length: 99999999999\r\n\r\n").into_bytes(),
            (413, ""),
        ),
        (
            "HTTP/2 preface on h1",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            (400, ""),
        ),
        ("not HTTP at all", b"hello there\r\n\r\n".to_vec(), (400, "")),
        (
            "TLS to a plain port",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
            (400, ""),
        ),
    ];
    for (name, bytes, expected) in rows {
        table.row(name, &bytes, expected).await;
    }
    let still = gateway.call("one", Some(&token)).await;
    table.judge("a good request afterwards", &still, (200, "result"));
    table.finish(44);
}

/// Paths that mean one thing here and another thing behind us.
/// Spec: I1, K9, K22
#[tokio::test]
async fn paths_that_try_to_leave_their_mount() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let token = tokens(&gateway, &client, "ada", "one").await.access;
    let bearer = format!("Bearer {token}");
    let mut table = Table::new(&gateway);
    for (path, expected) in [
        ("/one/mcp/../../two/mcp", (400, "")),
        ("/one/mcp/..", (400, "")),
        ("/one/mcp/.", (400, "")),
        ("/one/./mcp", (400, "")),
        ("/one/mcp/%2e%2e/x", (400, "")),
        ("/one/mcp/%2E%2e/x", (400, "")),
        ("/one/mcp/.%2e/x", (400, "")),
        ("/one/mcp/%2e", (400, "")),
        ("/one%2fmcp", (400, "")),
        ("/one/mcp%2f..%2ftwo", (400, "")),
        ("/one/mcp/%2F", (400, "")),
        ("/one/mcp/a%5cb", (400, "")),
        ("/one/mcp/a%5Cb", (400, "")),
        ("/one/mcp\\x", (400, "")),
        ("/one//mcp", (400, "")),
        ("//one/mcp", (400, "")),
        ("/one/mcp//x", (400, "")),
        ("/one/mcp/%", (400, "")),
        ("/one/mcp/%4", (400, "")),
        ("/one/mcp/%zz", (400, "")),
        ("/one/mcp/%00", (400, "")),
        ("/one/mcp/%0a", (400, "")),
        ("/one/mcp/\u{e4}", (400, "")),
        ("/one/mcpx", (404, "not_found")),
        ("/one/mcp-other", (404, "not_found")),
        ("/one/mcp;x=1", (404, "not_found")),
        ("/one", (404, "not_found")),
        ("/ONE/mcp", (404, "not_found")),
        ("/%6fne/mcp", (404, "not_found")),
        ("/", (404, "not_found")),
        ("/one/mcp/.well-known/oauth-protected-resource/x", (404, "not_found")),
        ("/one/mcp/.well-known/anything", (404, "not_found")),
        ("/.well-known/openid-configuration/nothing", (404, "not_found")),
        ("/.well-known/oauth-protected-resource/nothing", (404, "not_found")),
        ("/.well-known/oauth-authorization-server/nothing", (404, "not_found")),
        ("/.well-known/oauth-protected-resourceX", (404, "not_found")),
        ("/.well-known/../one/mcp", (400, "")),
        ("/introspect", (405, "invalid_request")),
        ("/userinfo", (403, "insufficient_scope")),
        ("/device", (404, "not_found")),
        ("/metrics", (404, "not_found")),
    ] {
        table
            .row(
                path,
                &request("GET", path, &gateway.host, &[("Authorization", &bearer)], b""),
                expected,
            )
            .await;
    }
    table.finish(41);
}

/// What an `Authorization` header can get wrong.
/// Spec: H3, H4, I5
#[tokio::test]
async fn tokens_that_are_none() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "ada", "one").await;
    let other = tokens(&gateway, &client, "ada", "two").await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), None, &[]);
    let code = walk(&gateway, &mut Browser::default(), &target, "ada")
        .await
        .redirected("code")
        .unwrap();
    let mut table = Table::new(&gateway);
    let good = own.access.as_str();
    let mut rows: Vec<HeaderRow<'_>> = vec![
        ("none", vec![], (401, "Bearer resource_metadata")),
        ("empty", vec![("Authorization", String::new())], (401, "")),
        (
            "Basic",
            vec![("Authorization", "Basic YTpi".to_owned())],
            (401, "resource_metadata"),
        ),
        (
            "Digest",
            vec![("Authorization", "Digest username=x".to_owned())],
            (401, "resource_metadata"),
        ),
        (
            "DPoP",
            vec![("Authorization", format!("DPoP {good}"))],
            (401, "resource_metadata"),
        ),
        (
            "no scheme",
            vec![("Authorization", good.to_owned())],
            (401, "resource_metadata"),
        ),
        (
            "two headers",
            vec![
                ("Authorization", format!("Bearer {good}")),
                ("Authorization", format!("Bearer {good}")),
            ],
            (400, "invalid_request"),
        ),
        (
            "good and bad header",
            vec![
                ("Authorization", format!("Bearer {good}")),
                ("authorization", "Bearer x".to_owned()),
            ],
            (400, "invalid_request"),
        ),
        (
            "two tokens",
            vec![("Authorization", format!("Bearer {good} {good}"))],
            (400, "invalid_request"),
        ),
        (
            "scheme alone",
            vec![("Authorization", "Bearer".to_owned())],
            (400, "invalid_request"),
        ),
        (
            "scheme and spaces",
            vec![("Authorization", "Bearer   ".to_owned())],
            (400, "invalid_request"),
        ),
        (
            "comma",
            vec![("Authorization", format!("Bearer {good},{good}"))],
            (401, "invalid_token"),
        ),
        (
            "quotes",
            vec![("Authorization", format!("Bearer \"{good}\""))],
            (401, "invalid_token"),
        ),
        (
            "garbage",
            vec![("Authorization", "Bearer x".to_owned())],
            (401, "invalid_token"),
        ),
        (
            "null",
            vec![("Authorization", "Bearer null".to_owned())],
            (401, "invalid_token"),
        ),
        (
            "well-formed, never issued",
            vec![("Authorization", format!("Bearer mgat_{}", "A".repeat(43)))],
            (401, "invalid_token"),
        ),
        (
            "one character off",
            vec![("Authorization", format!("Bearer {}x", &good[..good.len() - 1]))],
            (401, "invalid_token"),
        ),
        (
            "upper case",
            vec![("Authorization", format!("Bearer {}", good.to_ascii_uppercase()))],
            (401, "invalid_token"),
        ),
        (
            "a refresh token",
            vec![("Authorization", format!("Bearer {}", own.refresh))],
            (401, "invalid_token"),
        ),
        (
            "a code",
            vec![("Authorization", format!("Bearer {code}"))],
            (401, "invalid_token"),
        ),
        (
            "of another upstream",
            vec![("Authorization", format!("Bearer {}", other.access))],
            (401, "invalid_token"),
        ),
        (
            "a JWT",
            vec![(
                "Authorization",
                "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ.".to_owned(),
            )],
            (401, "invalid_token"),
        ),
        (
            "10 KB",
            vec![("Authorization", format!("Bearer {}", "a".repeat(10_000)))],
            (401, "invalid_token"),
        ),
    ];
    if good.ends_with('x') {
        rows.retain(|(name, ..)| *name != "one character off");
    }
    for (name, headers, expected) in &rows {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        for method in ["POST", "GET", "DELETE"] {
            table
                .row(
                    &format!("{method} {name}"),
                    &request(method, "/one/mcp", &gateway.host, &headers, b""),
                    *expected,
                )
                .await;
        }
    }
    // Tokens elsewhere than in the header are never looked at (RFC 6750 §2.2, §2.3).
    let query = format!("/one/mcp?access_token={good}");
    table
        .row(
            "in the query",
            &request("POST", &query, &gateway.host, &[], CALL.as_bytes()),
            (401, "resource_metadata"),
        )
        .await;
    let body = form(&[("access_token", good)]);
    let typed = [("Content-Type", "application/x-www-form-urlencoded")];
    table
        .row(
            "in the body",
            &request("POST", "/one/mcp", &gateway.host, &typed, body.as_bytes()),
            (401, "resource_metadata"),
        )
        .await;
    let cookie = format!("access_token={good}");
    table
        .row(
            "in a cookie",
            &request(
                "POST",
                "/one/mcp",
                &gateway.host,
                &[("Cookie", &cookie)],
                CALL.as_bytes(),
            ),
            (401, "resource_metadata"),
        )
        .await;
    table.finish(60);
    // The scheme is case-insensitive (RFC 9110 §11.1).
    for scheme in ["bearer", "BEARER", "bEaReR"] {
        let value = format!("{scheme} {good}");
        assert_eq!(
            gateway
                .post("/one/mcp", &[("Authorization", &value)], CALL)
                .await
                .status,
            200,
            "{scheme}"
        );
    }
}

/// K13: browsers from elsewhere, with a good token.
/// Spec: K13, K14, K15
#[tokio::test]
async fn origins_that_are_not_ours() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let token = tokens(&gateway, &client, "ada", "one").await.access;
    let bearer = format!("Bearer {token}");
    let mut table = Table::new(&gateway);
    let own = gateway.origin();
    let (prefixed, suffixed) = (format!("{own}.evil.example"), format!("{own}0"));
    for origin in [
        "https://evil.example",
        "null",
        "https://app.example.com.evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "file://",
        "garbage",
        "",
        &prefixed,
        &suffixed,
    ] {
        for method in ["POST", "GET", "DELETE", "OPTIONS"] {
            let headers = [
                ("Authorization", bearer.as_str()),
                ("Origin", origin),
                ("Access-Control-Request-Method", "POST"),
            ];
            table
                .row(
                    &format!("{method} {origin}"),
                    &request(method, "/one/mcp", &gateway.host, &headers, b""),
                    (403, ""),
                )
                .await;
        }
    }
    let twice = [
        ("Authorization", bearer.as_str()),
        ("Origin", own.as_str()),
        ("Origin", "https://evil.example"),
    ];
    table
        .row(
            "two origins",
            &request("POST", "/one/mcp", &gateway.host, &twice, b""),
            (403, ""),
        )
        .await;
    // Allowed at the other upstream only.
    let elsewhere = [
        ("Authorization", bearer.as_str()),
        ("Origin", "https://app.example.com"),
    ];
    table
        .row(
            "the other upstream's origin",
            &request("POST", "/two/mcp", &gateway.host, &elsewhere, b""),
            (403, ""),
        )
        .await;
    table.finish(42);
    for origin in [own.as_str(), "https://app.example.com"] {
        let reply = gateway
            .post("/one/mcp", &[("Authorization", &bearer), ("Origin", origin)], CALL)
            .await;
        assert_eq!(
            (reply.status, reply.header("access-control-allow-origin")),
            (200, Some(origin))
        );
    }
}

/// RFC 9700 §4.13: nobody but the gateway says who calls, however they spell it.
/// Spec: K18, K19, L8
#[tokio::test]
async fn identity_headers_from_outside_never_arrive() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let token = tokens(&gateway, &client, "bob", "two").await.access;
    let bearer = format!("Bearer {token}");
    for name in [
        "X-Forwarded-User",
        "x-forwarded-user",
        "X-FORWARDED-USER",
        "X_Forwarded_User",
        "X-Forwarded_User",
        "x_forwarded-user",
        "X-Forwarded-Preferred-Username",
        "X_Forwarded_Preferred_Username",
        "X-Forwarded-Email",
        "X-Forwarded_Email",
        "X-Forwarded-Groups",
        "X_FORWARDED_GROUPS",
        "X-Forwarded-Scope",
        "x_forwarded_scope",
        "X-Forwarded-Client-Id",
        "X-Forwarded-Client_Id",
        "X-Forwarded-For",
        "X_Forwarded_For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "Forwarded",
        "X-Request-Id",
        "X_Request_Id",
        "X-Real-Ip",
        "X-Api-Key",
        "Cookie",
        "Proxy-Authorization",
    ] {
        let path = if name.eq_ignore_ascii_case("x-api-key") {
            continue;
        } else {
            "/two/mcp"
        };
        let reply = gateway
            .post(
                path,
                &[
                    ("Authorization", &bearer),
                    (name, "mallory"),
                    ("Connection", "keep-alive"),
                ],
                CALL,
            )
            .await;
        assert_eq!(reply.status, 200, "{name}");
        let seen = gateway.upstream.last();
        assert!(
            !seen
                .headers
                .iter()
                .any(|(_, value)| value.to_str().is_ok_and(|text| text.contains("mallory"))),
            "{name}: {:?}",
            seen.headers
        );
        assert_eq!(seen.header("x-forwarded-user"), Some("bob"), "{name}");
        assert_eq!(
            seen.header("x-forwarded-email"),
            None,
            "bob has no e-mail, so nobody may claim one"
        );
        assert!(
            seen.headers.keys().all(|key| !key.as_str().contains('_')),
            "{:?}",
            seen.headers
        );
    }
    // Nor may a client make us drop one by naming it hop-by-hop.
    let reply = gateway
        .post(
            "/two/mcp",
            &[
                ("Authorization", &bearer),
                ("Connection", "X-Forwarded-User, X-Request-Id"),
            ],
            CALL,
        )
        .await;
    assert_eq!(reply.status, 200);
    assert_eq!(gateway.upstream.last().header("x-forwarded-user"), Some("bob"));
    assert!(gateway.upstream.last().header("x-request-id").is_some());
}

/// `/authorize`: before client and redirect URI are verified nothing is sent anywhere; afterwards errors go to the client.
/// Spec: D2, D3, D5, D6, D7, D10, L1, L4
#[tokio::test]
async fn authorization_requests_that_are_wrong() {
    let gateway = Gateway::start().await;
    let client = register(
        &gateway,
        json!({ "redirect_uris": ["http://127.0.0.1:33418/callback", "https://app.example/cb"] }),
    )
    .await;
    let resource = gateway.resource("one");
    let mut table = Table::new(&gateway);
    let long = "x".repeat(9_000);
    // On a page, never redirected.
    for (name, more) in [
        ("no client", vec![("client_id", "")]),
        ("unknown client", vec![("client_id", "mgc_unknown")]),
        ("client with controls", vec![("client_id", "a\u{1}b")]),
        ("client of 9 KB", vec![("client_id", long.as_str())]),
        ("no redirect_uri, two registered", vec![("redirect_uri", "")]),
        (
            "unregistered redirect_uri",
            vec![("redirect_uri", "https://evil.example/cb")],
        ),
        (
            "redirect_uri one character longer",
            vec![("redirect_uri", "https://app.example/cbx")],
        ),
        (
            "redirect_uri with a trailing slash",
            vec![("redirect_uri", "https://app.example/cb/")],
        ),
        (
            "redirect_uri with a query",
            vec![("redirect_uri", "https://app.example/cb?x=1")],
        ),
        (
            "redirect_uri with a fragment",
            vec![("redirect_uri", "https://app.example/cb#x")],
        ),
        (
            "redirect_uri with userinfo",
            vec![("redirect_uri", "https://app.example@evil.example/cb")],
        ),
        (
            "redirect_uri with dots",
            vec![("redirect_uri", "https://app.example/x/../cb")],
        ),
        (
            "redirect_uri encoded twice",
            vec![("redirect_uri", "https%3A%2F%2Fapp.example%2Fcb")],
        ),
        (
            "redirect_uri in another case",
            vec![("redirect_uri", "https://APP.example/cb")],
        ),
        (
            "redirect_uri with a port",
            vec![("redirect_uri", "https://app.example:443/cb")],
        ),
        (
            "loopback of another path",
            vec![("redirect_uri", "http://127.0.0.1:33418/other")],
        ),
        (
            "loopback by another name",
            vec![("redirect_uri", "http://localhost:33418/callback")],
        ),
        (
            "loopback with userinfo",
            vec![("redirect_uri", "http://127.0.0.1:33418@evil.example/callback")],
        ),
        ("javascript", vec![("redirect_uri", "javascript:alert(1)")]),
        ("data", vec![("redirect_uri", "data:text/html,x")]),
        ("protocol-relative", vec![("redirect_uri", "//evil.example/cb")]),
        (
            "line break in redirect_uri",
            vec![("redirect_uri", "https://app.example/cb\r\nX: y")],
        ),
    ] {
        let target = authorize_target(&client, Some(&resource), None, &more);
        let reply = gateway.get(&target, &[]).await;
        table.judge(name, &reply, (400, ""));
        if reply.header("location").is_some() {
            table.wrong.push(format!("{name}: it was redirected"));
        }
    }
    // Sent to the client, with state and exactly one iss.
    let second = gateway.resource("two");
    let good = challenge();
    for (name, more, error) in [
        ("no response_type", vec![("response_type", "")], "invalid_request"),
        (
            "response_type token",
            vec![("response_type", "token")],
            "unsupported_response_type",
        ),
        (
            "response_type code token",
            vec![("response_type", "code token")],
            "unsupported_response_type",
        ),
        (
            "response_type id_token",
            vec![("response_type", "id_token")],
            "unsupported_response_type",
        ),
        ("no challenge", vec![("code_challenge", "")], "invalid_request"),
        (
            "no challenge at all",
            vec![("code_challenge", ""), ("code_challenge_method", "")],
            "invalid_request",
        ),
        ("no method", vec![("code_challenge_method", "")], "invalid_request"),
        ("plain", vec![("code_challenge_method", "plain")], "invalid_request"),
        (
            "s256 in lower case",
            vec![("code_challenge_method", "s256")],
            "invalid_request",
        ),
        ("short challenge", vec![("code_challenge", "short")], "invalid_request"),
        (
            "long challenge",
            vec![("code_challenge", &long[..129])],
            "invalid_request",
        ),
        (
            "challenge of other characters",
            vec![("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM")],
            "invalid_request",
        ),
        ("request object", vec![("request", "eyJ")], "request_not_supported"),
        (
            "request by reference",
            vec![("request_uri", "https://evil.example/r")],
            "request_uri_not_supported",
        ),
        (
            "unknown resource",
            vec![("resource", "https://evil.example/mcp")],
            "invalid_target",
        ),
        (
            "resource with a fragment",
            vec![("resource", "http://127.0.0.1/one/mcp#x")],
            "invalid_target",
        ),
        ("resource that is no URI", vec![("resource", "one")], "invalid_target"),
        (
            "a resource's twin",
            vec![("resource", "http://127.0.0.1/one/mcpx")],
            "invalid_target",
        ),
        (
            "no resource where there are two",
            vec![("resource", "")],
            "invalid_target",
        ),
        (
            "malformed scope",
            vec![("scope", "one:use \"quoted\"")],
            "invalid_scope",
        ),
        (
            "scope with a line break",
            vec![("scope", "one:use\u{a}x")],
            "invalid_scope",
        ),
        ("silent sign-in", vec![("prompt", "none")], "login_required"),
        ("fragment mode", vec![("response_mode", "fragment")], "invalid_request"),
    ] {
        let reply = gateway
            .get(&authorize_target(&client, Some(&resource), None, &more), &[])
            .await;
        table.judge(name, &reply, (303, error));
        if reply.header("location").is_some() {
            let sent = (
                reply.redirected("state"),
                reply.redirected("iss"),
                reply.location().as_str().starts_with(REDIRECT),
            );
            if sent != (Some("a state, äß& %2F".to_owned()), Some(gateway.origin()), true) {
                table.wrong.push(format!("{name}: {sent:?}"));
            }
        }
    }
    // RFC 8707 §2.2 allows several; a token of ours is for one.
    let two = format!(
        "{}&resource={}",
        authorize_target(&client, Some(&resource), None, &[]),
        form_urlencoded::byte_serialize(second.as_bytes()).collect::<String>()
    );
    table.judge("two resources", &gateway.get(&two, &[]).await, (303, "invalid_target"));
    // Said twice: nobody can know which was meant.
    let base = authorize_target(&client, Some(&resource), None, &[]);
    for name in [
        "client_id",
        "redirect_uri",
        "response_type",
        "state",
        "scope",
        "code_challenge",
        "code_challenge_method",
    ] {
        let first = if base.contains(&format!("{name}=")) {
            ""
        } else {
            "&scope=a"
        };
        let reply = gateway.get(&format!("{base}{first}&{name}={good}"), &[]).await;
        table.judge(&format!("{name} twice"), &reply, (400, ""));
    }
    for (name, target) in [
        ("broken escape", "/authorize?client_id=%zz"),
        ("not UTF-8", "/authorize?client_id=%ff"),
        ("nothing", "/authorize"),
    ] {
        table.judge(name, &gateway.get(target, &[]).await, (400, ""));
    }
    for method in ["PUT", "DELETE", "OPTIONS"] {
        table
            .row(method, &request(method, &base, &gateway.host, &[], b""), (405, ""))
            .await;
    }
    table.finish(58);
}

/// `/token`: every fault is JSON with the right code, and no fault of another burns a code.
/// Spec: F1, F3, F4, F5, F7, F11
#[tokio::test]
async fn token_requests_that_are_wrong() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let other = register(&gateway, json!({})).await;
    let secretive = register(&gateway, json!({ "token_endpoint_auth_method": "client_secret_post" })).await;
    let secret = secretive.secret.clone().unwrap();
    let browser = &mut Browser::default();
    let resource = gateway.resource("one");
    let second = gateway.resource("two");
    let code = walk(
        &gateway,
        browser,
        &authorize_target(&client, Some(&resource), None, &[]),
        "ada",
    )
    .await
    .redirected("code")
    .unwrap();
    let secret_code = walk(
        &gateway,
        browser,
        &authorize_target(&secretive, Some(&resource), None, &[]),
        "ada",
    )
    .await
    .redirected("code")
    .unwrap();
    let own = tokens(&gateway, &client, "ada", "two").await;
    let mut table = Table::new(&gateway);
    let (wrong_verifier, never) = ("x".repeat(43), format!("mgac_{}", "A".repeat(43)));
    let never_refresh = format!("mgrt_{}", "A".repeat(43));
    for (name, who, more, expected) in [
        (
            "unknown client",
            &client,
            vec![("client_id", "mgc_unknown")],
            (401, "invalid_client"),
        ),
        ("no client", &client, vec![("client_id", "")], (401, "invalid_client")),
        (
            "client with controls",
            &client,
            vec![("client_id", "\u{1}")],
            (401, "invalid_client"),
        ),
        (
            "public client with a secret",
            &client,
            vec![("client_secret", "guess")],
            (401, "invalid_client"),
        ),
        ("another client's code", &other, vec![], (400, "invalid_grant")),
        (
            "no grant_type",
            &client,
            vec![("grant_type", "")],
            (400, "invalid_request"),
        ),
        (
            "password grant",
            &client,
            vec![("grant_type", "password")],
            (400, "unsupported_grant_type"),
        ),
        (
            "implicit grant",
            &client,
            vec![("grant_type", "implicit")],
            (400, "unsupported_grant_type"),
        ),
        (
            "client_credentials grant",
            &client,
            vec![("grant_type", "client_credentials")],
            (400, "unauthorized_client"),
        ),
        (
            "invented grant",
            &client,
            vec![("grant_type", "urn:x")],
            (400, "unsupported_grant_type"),
        ),
        ("no code", &client, vec![("code", "")], (400, "invalid_request")),
        ("garbage code", &client, vec![("code", "x")], (400, "invalid_grant")),
        (
            "a code never issued",
            &client,
            vec![("code", never.as_str())],
            (400, "invalid_grant"),
        ),
        (
            "no verifier",
            &client,
            vec![("code_verifier", "")],
            (400, "invalid_grant"),
        ),
        (
            "wrong verifier",
            &client,
            vec![("code_verifier", wrong_verifier.as_str())],
            (400, "invalid_grant"),
        ),
        (
            "short verifier",
            &client,
            vec![("code_verifier", "short")],
            (400, "invalid_grant"),
        ),
        (
            "another redirect_uri",
            &client,
            vec![("redirect_uri", "http://127.0.0.1:1/callback")],
            (400, "invalid_grant"),
        ),
        (
            "another resource",
            &client,
            vec![("resource", second.as_str())],
            (400, "invalid_target"),
        ),
        (
            "a resource that is no URI",
            &client,
            vec![("resource", "one")],
            (400, "invalid_target"),
        ),
    ] {
        let reply = redeem(&gateway, who, &code, &more).await;
        table.judge(name, &reply, expected);
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{name}");
    }
    for (name, more, expected) in [
        ("no secret", vec![("client_secret", "")], (401, "invalid_client")),
        (
            "wrong secret",
            vec![("client_secret", "mgcs_wrong")],
            (401, "invalid_client"),
        ),
        (
            "another's secret",
            vec![("client_id", client.id.as_str())],
            (401, "invalid_client"),
        ),
    ] {
        table.judge(name, &redeem(&gateway, &secretive, &secret_code, &more).await, expected);
    }
    let basic = |id: &str, secret: &str| {
        use base64::Engine as _;
        format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(format!("{id}:{secret}"))
        )
    };
    let form_of = |pairs: &[(&str, &str)]| form(pairs);
    let typed = ("Content-Type", "application/x-www-form-urlencoded");
    let right = form_of(&[
        ("grant_type", "authorization_code"),
        ("code", &secret_code),
        ("code_verifier", VERIFIER),
    ]);
    let both = form_of(&[
        ("grant_type", "authorization_code"),
        ("code", &secret_code),
        ("client_id", &secretive.id),
        ("client_secret", &secret),
    ]);
    for (name, headers, body, expected) in [
        (
            "wrong secret by Basic",
            vec![typed, ("Authorization", &*basic(&secretive.id, "wrong"))],
            &right,
            (401, "invalid_client"),
        ),
        (
            "unknown client by Basic",
            vec![typed, ("Authorization", &*basic("mgc_unknown", "wrong"))],
            &right,
            (401, "invalid_client"),
        ),
        (
            "garbage Basic",
            vec![typed, ("Authorization", "Basic !!!")],
            &right,
            (401, "invalid_client"),
        ),
        (
            "Basic without a colon",
            vec![typed, ("Authorization", "Basic YWJj")],
            &right,
            (401, "invalid_client"),
        ),
        (
            "Basic and form",
            vec![typed, ("Authorization", &*basic(&secretive.id, &secret))],
            &both,
            (400, "invalid_request"),
        ),
        (
            "JSON",
            vec![("Content-Type", "application/json")],
            &"{\"grant_type\":\"authorization_code\"}".to_owned(),
            (400, "invalid_request"),
        ),
        ("no type", vec![], &right, (400, "invalid_request")),
        (
            "multipart",
            vec![("Content-Type", "multipart/form-data; boundary=x")],
            &right,
            (400, "invalid_request"),
        ),
        (
            "twice the same",
            vec![typed],
            &format!("{right}&code=x"),
            (400, "invalid_request"),
        ),
        (
            "broken escape",
            vec![typed],
            &"grant_type=%zz".to_owned(),
            (400, "invalid_request"),
        ),
        (
            "not UTF-8",
            vec![typed],
            &"grant_type=%ff".to_owned(),
            (400, "invalid_request"),
        ),
        (
            "NUL",
            vec![typed],
            &"grant_type=a%00".to_owned(),
            (400, "invalid_request"),
        ),
        (
            "a parameter of 9 KB",
            vec![typed],
            &format!("grant_type={}", "x".repeat(9_000)),
            (400, "invalid_request"),
        ),
        (
            "a hundred parameters",
            vec![typed],
            &(0..100).map(|n| format!("p{n}=1")).collect::<Vec<_>>().join("&"),
            (400, "invalid_request"),
        ),
        ("100 KB", vec![typed], &"x".repeat(100_000), (413, "")),
        ("nothing", vec![typed], &String::new(), (401, "invalid_client")),
    ] {
        let reply = gateway.post("/token", &headers, body).await;
        table.judge(name, &reply, expected);
        let challenged = reply.header("www-authenticate").is_some();
        assert_eq!(
            challenged,
            reply.status == 401 && headers.iter().any(|(name, _)| *name == "Authorization"),
            "{name}: a challenge answers a header"
        );
    }
    for (name, pairs, expected) in [
        ("no refresh token", vec![], (400, "invalid_request")),
        (
            "garbage refresh token",
            vec![("refresh_token", "x")],
            (400, "invalid_grant"),
        ),
        (
            "a refresh token never issued",
            vec![("refresh_token", never_refresh.as_str())],
            (400, "invalid_grant"),
        ),
        (
            "an access token",
            vec![("refresh_token", own.access.as_str())],
            (400, "invalid_grant"),
        ),
        (
            "a wider scope",
            vec![("refresh_token", own.refresh.as_str()), ("scope", "one:use")],
            (400, "invalid_scope"),
        ),
        (
            "another resource",
            vec![("refresh_token", own.refresh.as_str()), ("resource", resource.as_str())],
            (400, "invalid_target"),
        ),
    ] {
        let mut all = vec![("grant_type", "refresh_token"), ("client_id", client.id.as_str())];
        all.extend(pairs);
        table.judge(name, &gateway.post_form("/token", &[], &all).await, expected);
    }
    let stolen = gateway
        .post_form(
            "/token",
            &[],
            &[
                ("grant_type", "refresh_token"),
                ("client_id", &other.id),
                ("refresh_token", &own.refresh),
            ],
        )
        .await;
    table.judge("another client's refresh token", &stolen, (400, "invalid_grant"));
    for method in ["GET", "PUT", "DELETE"] {
        table
            .row(method, &request(method, "/token", &gateway.host, &[], b""), (405, ""))
            .await;
    }
    table.finish(48);
    // Nothing of the above hurt whoever owns the refresh token.
    assert_eq!(
        crate::person::refresh(&gateway, &client, &own.refresh).await.status,
        200
    );
    assert_eq!(gateway.call("two", Some(&own.access)).await.status, 200);
}

/// `/register` and `/revoke`.
/// Spec: C4, C7, G1
#[tokio::test]
async fn registrations_and_revocations_that_are_wrong() {
    let gateway = Gateway::start().await;
    let mut table = Table::new(&gateway);
    let typed = [("Content-Type", "application/json")];
    let with = |uri: &str| json!({ "redirect_uris": [uri] }).to_string();
    for (name, body, expected) in [
        ("nothing", String::new(), (400, "invalid_client_metadata")),
        ("not JSON", "{".to_owned(), (400, "invalid_client_metadata")),
        ("an array", "[]".to_owned(), (400, "invalid_client_metadata")),
        ("a string", "\"x\"".to_owned(), (400, "invalid_client_metadata")),
        (
            "deep nesting",
            format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)),
            (400, "invalid_client_metadata"),
        ),
        ("no redirect URIs", "{}".to_owned(), (400, "invalid_redirect_uri")),
        (
            "an empty list",
            json!({ "redirect_uris": [] }).to_string(),
            (400, "invalid_redirect_uri"),
        ),
        (
            "not a list",
            json!({ "redirect_uris": "https://a.example/" }).to_string(),
            (400, ""),
        ),
        ("not text", json!({ "redirect_uris": [1] }).to_string(), (400, "")),
        (
            "a thousand URIs",
            json!({ "redirect_uris": vec!["https://a.example/"; 1_000] }).to_string(),
            (400, "invalid_client_metadata"),
        ),
        ("javascript", with("javascript:alert(1)"), (400, "invalid_redirect_uri")),
        ("data", with("data:text/html,x"), (400, "invalid_redirect_uri")),
        ("file", with("file:///etc/passwd"), (400, "invalid_redirect_uri")),
        ("vbscript", with("vbscript:x"), (400, "invalid_redirect_uri")),
        ("blob", with("blob:https://a.example/x"), (400, "invalid_redirect_uri")),
        ("about", with("about:blank"), (400, "invalid_redirect_uri")),
        (
            "http elsewhere",
            with("http://a.example/cb"),
            (400, "invalid_redirect_uri"),
        ),
        (
            "http to nearly loopback",
            with("http://127.0.0.1.evil.example/cb"),
            (400, "invalid_redirect_uri"),
        ),
        (
            "a fragment",
            with("https://a.example/cb#x"),
            (400, "invalid_redirect_uri"),
        ),
        (
            "userinfo",
            with("https://u:p@a.example/cb"),
            (400, "invalid_redirect_uri"),
        ),
        (
            "a wildcard",
            with("https://*.example/cb"),
            (400, "invalid_redirect_uri"),
        ),
        ("relative", with("/cb"), (400, "invalid_redirect_uri")),
        (
            "a line break",
            with("https://a.example/\r\nx"),
            (400, "invalid_redirect_uri"),
        ),
        ("an unknown scheme", with("foo:bar"), (400, "invalid_redirect_uri")),
        (
            "only implicit",
            json!({ "redirect_uris": [REDIRECT], "grant_types": ["implicit"] }).to_string(),
            (400, "invalid_client_metadata"),
        ),
        (
            "only tokens",
            json!({ "redirect_uris": [REDIRECT], "response_types": ["token"] }).to_string(),
            (400, "invalid_client_metadata"),
        ),
        (
            "a name that is a number",
            json!({ "redirect_uris": [REDIRECT], "client_name": 1 }).to_string(),
            (400, "invalid_client_metadata"),
        ),
        ("100 KB", format!("{{\"x\":\"{}\"}}", "y".repeat(100_000)), (413, "")),
    ] {
        table.judge(name, &gateway.post("/register", &typed, &body).await, expected);
    }
    let good = with(REDIRECT);
    table.judge(
        "a form",
        &gateway
            .post(
                "/register",
                &[("Content-Type", "application/x-www-form-urlencoded")],
                &good,
            )
            .await,
        (400, "invalid_client_metadata"),
    );
    for method in ["GET", "PUT", "DELETE"] {
        table
            .row(
                method,
                &request(method, "/register", &gateway.host, &[], b""),
                (405, ""),
            )
            .await;
    }

    let client = register(&gateway, json!({})).await;
    let other = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "ada", "one").await;
    for (name, pairs, expected) in [
        (
            "no client",
            vec![("token", own.access.as_str())],
            (401, "invalid_client"),
        ),
        (
            "unknown client",
            vec![("token", own.access.as_str()), ("client_id", "mgc_unknown")],
            (401, "invalid_client"),
        ),
        (
            "no token",
            vec![("client_id", client.id.as_str())],
            (400, "invalid_request"),
        ),
        (
            "garbage",
            vec![("token", "x"), ("client_id", client.id.as_str())],
            (200, ""),
        ),
        (
            "another client's token",
            vec![("token", own.access.as_str()), ("client_id", other.id.as_str())],
            (200, ""),
        ),
        (
            "another client's refresh token",
            vec![("token", own.refresh.as_str()), ("client_id", other.id.as_str())],
            (200, ""),
        ),
    ] {
        table.judge(
            &format!("revoke: {name}"),
            &gateway.post_form("/revoke", &[], &pairs).await,
            expected,
        );
    }
    table
        .row(
            "revoke by GET",
            &request("GET", "/revoke", &gateway.host, &[], b""),
            (405, ""),
        )
        .await;
    table.finish(38);
    assert_eq!(
        gateway.call("one", Some(&own.access)).await.status,
        200,
        "only its own client may revoke a token"
    );
}

/// The pages' forms, posted by somebody who should not.
/// Spec: E3
#[tokio::test]
async fn forms_that_nobody_filled_in() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), None, &[]);
    let mut table = Table::new(&gateway);
    let mut browser = Browser::default();
    let begun = browser.get(&gateway, &target).await;
    let page = browser.follow(&gateway, begun).await;
    let html = page.text();
    let hidden: Vec<(String, String)> = html
        .split("<input")
        .filter(|input| input.contains("type=\"hidden\""))
        .map(|input| {
            let value = |name: &str| {
                input
                    .split(&format!("{name}=\""))
                    .nth(1)
                    .unwrap()
                    .split('"')
                    .next()
                    .unwrap()
                    .to_owned()
            };
            (value("name"), value("value"))
        })
        .collect();
    assert!(hidden.len() >= 2, "{html}");
    let mut pairs: Vec<(&str, &str)> = hidden
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    pairs.extend([("username", "ada"), ("password", PASSWORD)]);
    // Every hidden input matters: without it, or with it changed, nothing happens.
    for index in 0..hidden.len() {
        let missing: Vec<_> = pairs
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != index)
            .map(|(_, pair)| *pair)
            .collect();
        let mut changed = pairs.clone();
        changed[index].1 = "mgar_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        for (how, form) in [("without", missing), ("another", changed)] {
            let reply = browser.submit(&gateway, "/login", &form).await;
            assert!(
                [400, 403, 404, 410].contains(&reply.status),
                "{how} {}: {} {}",
                pairs[index].0,
                reply.status,
                reply.text()
            );
            table.rows += 1;
        }
    }
    table.judge(
        "another browser",
        &Browser::default().submit(&gateway, "/login", &pairs).await,
        (403, ""),
    );
    let foreign = [("Cookie", "x=y"), ("Origin", "https://evil.example")];
    table.judge(
        "another site",
        &gateway.post_form("/login", &foreign, &pairs).await,
        (403, ""),
    );
    table.judge(
        "consent without a session",
        &browser
            .submit(
                &gateway,
                "/consent",
                &[("request", pairs[0].1), ("decision", "approve")],
            )
            .await,
        (303, ""),
    );
    table.judge(
        "login without anything",
        &gateway.post_form("/login", &[], &[]).await,
        (400, ""),
    );
    table.judge(
        "consent without anything",
        &gateway.post_form("/consent", &[], &[]).await,
        (400, ""),
    );
    table.judge("login page of nothing", &gateway.get("/login", &[]).await, (400, ""));
    table.judge(
        "consent page of nothing",
        &gateway.get("/consent", &[]).await,
        (400, ""),
    );
    table.judge(
        "wrong password",
        &{
            let mut wrong = pairs.clone();
            wrong.last_mut().unwrap().1 = "wrong";
            browser.submit(&gateway, "/login", &wrong).await
        },
        (401, ""),
    );
    table.judge(
        "long password",
        &{
            let long = "x".repeat(5_000);
            let mut wrong = pairs.clone();
            wrong.last_mut().unwrap().1 = &long;
            browser.submit(&gateway, "/login", &wrong).await
        },
        (401, ""),
    );
    table.finish(12);
    assert_eq!(gateway.upstream.count(), 0);
    // After all that the right person in the right browser still gets in.
    let page = browser
        .fill_in(&gateway, &page, &[("username", "ada"), ("password", PASSWORD)])
        .await;
    let page = browser.follow(&gateway, page).await;
    assert!(
        page.text().contains("name=\"decision\""),
        "{} {}",
        page.status,
        page.text()
    );
    let _: &Client = &client;
}
