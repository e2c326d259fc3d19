//! Proxies in front: who is believed about where a request comes from, and who is not.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::http1::{PATIENCE, Reply, read_reply, request};
use crate::person::{register, tokens};
use crate::setup::Gateway;

/// A gateway that believes whoever comes from 127.0.0.1, and has a second listener with PROXY headers.
async fn believing() -> Gateway {
    Gateway::start_with(|yaml| {
        let listen = yaml.lines().find(|line| line.starts_with("listen: ")).unwrap().to_owned();
        let address = listen.strip_prefix("listen: ").unwrap();
        yaml.replace(
            &listen,
            &format!(
                "listen: [{address}, {{address: '127.0.0.1:0', proxy_protocol: true}}]\ntrusted_proxies: [127.0.0.1, 10.0.0.0/8]\n"
            ),
        )
    })
    .await
}

async fn access_token(gateway: &Gateway) -> String {
    let client = register(gateway, serde_json::json!({})).await;
    tokens(gateway, &client, "ada", "two").await.access
}

async fn call(gateway: &Gateway, token: &str, more: &[(&str, &str)]) -> Reply {
    let authorization = format!("Bearer {token}");
    let mut headers = vec![
        ("Content-Type", "application/json"),
        ("Authorization", authorization.as_str()),
    ];
    headers.extend_from_slice(more);
    gateway
        .post("/two/mcp", &headers, r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#)
        .await
}

/// Spec: K19, L8
#[tokio::test]
async fn a_trusted_proxy_is_believed_and_the_upstream_hears_the_chain() {
    let gateway = believing().await;
    let token = access_token(&gateway).await;
    let host = gateway.host.clone();
    for (chain, forwarded) in [
        ("203.0.113.9", "203.0.113.9, 127.0.0.1"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9, 127.0.0.1"),
        ("6.6.6.6, 203.0.113.9, 10.1.1.1", "203.0.113.9, 10.1.1.1, 127.0.0.1"),
        ("nonsense", "127.0.0.1"),
    ] {
        let headers = [
            ("X-Forwarded-For", chain),
            ("X-Forwarded-Host", host.as_str()),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Port", "443"),
            ("Forwarded", "for=6.6.6.6"),
        ];
        let reply = call(&gateway, &token, &headers).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = gateway.upstream.last();
        assert_eq!(seen.header("x-forwarded-for"), Some(forwarded), "{chain}");
        assert_eq!(seen.header("x-forwarded-host"), Some(host.as_str()));
        assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
        assert_eq!(
            (seen.header("x-forwarded-port"), seen.header("forwarded")),
            (None, None)
        );
    }
}

/// Spec: K13, K19, L12
#[tokio::test]
async fn host_and_scheme_that_a_proxy_says_have_to_be_ours() {
    let gateway = believing().await;
    let token = access_token(&gateway).await;
    let before = gateway.upstream.count();
    for (name, value, status) in [
        ("X-Forwarded-Host", "evil.example", 421),
        ("X-Forwarded-Host", "a b", 400),
        ("X-Forwarded-Proto", "https", 421),
    ] {
        let reply = call(&gateway, &token, &[(name, value)]).await;
        assert_eq!(reply.status, status, "{name}: {value}: {}", reply.text());
        assert_eq!(
            gateway
                .get("/.well-known/oauth-authorization-server", &[(name, value)])
                .await
                .status,
            status
        );
    }
    assert_eq!(gateway.upstream.count(), before);
    // A proxy that asks for us by an inner name says what the client asked for.
    let own = gateway.host.clone();
    let headers = [
        ("X-Forwarded-Host", own.as_str()),
        ("Authorization", &format!("Bearer {token}")),
    ];
    let inner = request("POST", "/two/mcp", "gateway.internal:8080", &headers, b"{}");
    assert_eq!(crate::http1::send(gateway.address, &inner).await.status, 200);
    assert_eq!(gateway.upstream.last().header("x-forwarded-host"), Some(own.as_str()));
}

/// Spec: K19, L8, L13
#[tokio::test]
async fn a_stranger_says_nothing_about_where_it_comes_from() {
    let gateway = Gateway::start_with(|yaml| format!("{yaml}trusted_proxies: [10.0.0.0/8]\n")).await;
    let token = access_token(&gateway).await;
    let long = vec!["10.0.0.1"; 5_000].join(", ");
    for chain in ["203.0.113.9", "10.0.0.1", &long] {
        let headers = [
            ("X-Forwarded-For", chain),
            ("X-Forwarded-Host", "evil.example"),
            ("X-Forwarded-Proto", "https"),
        ];
        let reply = call(&gateway, &token, &headers).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = gateway.upstream.last();
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(seen.header("x-forwarded-host"), Some(gateway.host.as_str()));
        assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    }
}

/// Each client has its own allowance, and none can use up another's or borrow a new one.
/// Spec: L13, K19
#[tokio::test]
async fn limits_count_the_client_and_not_the_proxy() {
    let gateway = Gateway::start_with(|yaml| {
        let yaml = yaml.replace("oauth:\n", "oauth:\n  limits: { register: 3 }\n");
        format!("{yaml}trusted_proxies: [127.0.0.1]\n")
    })
    .await;
    let register = async |chain: &str| {
        let headers = [("Content-Type", "application/json"), ("X-Forwarded-For", chain)];
        let body = r#"{"redirect_uris":["https://a.example/cb"],"token_endpoint_auth_method":"none"}"#;
        gateway.post("/register", &headers, body).await.status
    };
    for turn in 0..6 {
        let expected = if turn < 3 { 201 } else { 429 };
        // What it writes before its address changes nothing.
        assert_eq!(
            register(&format!("198.51.100.{turn}, 203.0.113.9")).await,
            expected,
            "{turn}"
        );
    }
    assert_eq!(register("203.0.113.10").await, 201);
}

/// Spec: K19
#[tokio::test]
async fn a_balancer_says_in_a_proxy_header_who_connects() {
    let gateway = believing().await;
    let token = access_token(&gateway).await;
    let authorization = format!("Bearer {token}");
    let headers = [
        ("Authorization", authorization.as_str()),
        ("X-Forwarded-For", "6.6.6.6"),
    ];
    let request = request("POST", "/two/mcp", &gateway.host, &headers, b"{}");
    let version_2 = [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(),
        &[203, 0, 113, 9, 10, 0, 0, 1, 0x15, 0x38, 0x01, 0xbb],
    ]
    .concat();
    for (header, chain) in [
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 5432 443\r\n".to_vec(), "203.0.113.9"),
        (version_2, "203.0.113.9"),
        (b"PROXY TCP6 2001:db9::1 ::1 1 2\r\n".to_vec(), "2001:db9::1"),
        // The address that the balancer says is believed about nothing, unless it is a proxy of ours itself.
        (
            b"PROXY TCP4 10.0.0.9 10.0.0.1 5432 443\r\n".to_vec(),
            "6.6.6.6, 10.0.0.9",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "6.6.6.6, 127.0.0.1"),
    ] {
        let mut stream = TcpStream::connect(gateway.running.addresses[1]).await.unwrap();
        stream
            .write_all(&[header.clone(), request.clone()].concat())
            .await
            .unwrap();
        let reply = tokio::time::timeout(PATIENCE, read_reply(&mut stream, false))
            .await
            .unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(gateway.upstream.last().header("x-forwarded-for"), Some(chain));
    }
}

/// What a listener with PROXY headers answers to these bytes; `None` if it closes the connection.
async fn answer_to(address: SocketAddr, bytes: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may be closed before all is written.
    let _ = stream.write_all(bytes).await;
    let reply = tokio::time::timeout(Duration::from_secs(8), read_reply(&mut stream, false)).await;
    Some(reply.expect("the connection was closed or answered").status).filter(|status| *status > 0)
}

/// Spec: K19, L8
#[tokio::test]
async fn a_connection_without_a_header_and_one_of_a_stranger_are_closed() {
    let gateway = believing().await;
    let request = request(
        "GET",
        "/.well-known/oauth-authorization-server",
        &gateway.host,
        &[],
        b"",
    );
    let own = gateway.running.addresses[1];
    let with = |header: &[u8]| [header, &request].concat();
    assert_eq!(
        answer_to(own, &with(b"PROXY TCP4 203.0.113.9 10.0.0.1 5432 443\r\n")).await,
        Some(200)
    );
    let endless = [b"PROXY TCP4 ".as_slice(), &vec![b'1'; 100_000]].concat();
    for bad in [
        request.clone(),
        with(b"PROXY TCP4 203.0.113.9 10.0.0.1 5432\r\n"),
        with(b"PROXY TCP4 203.0.113.9 10.0.0.1 5432 443\n"),
        with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"),
        endless,
        // Half of one, and then nothing: it is not waited for.
        b"PROXY TCP4 203.0.1".to_vec(),
    ] {
        assert_eq!(
            answer_to(own, &bad).await,
            None,
            "{}",
            String::from_utf8_lossy(&bad[..bad.len().min(80)])
        );
    }
    // Nothing was taken for a header on a listener without.
    assert_eq!(
        answer_to(gateway.address, &with(b"PROXY TCP4 203.0.113.9 10.0.0.1 5432 443\r\n")).await,
        Some(400)
    );

    let stranger = Gateway::start_with(|yaml| {
        let listen = yaml
            .lines()
            .find(|line| line.starts_with("listen: "))
            .unwrap()
            .to_owned();
        let address = listen.strip_prefix("listen: ").unwrap();
        let both = format!("listen: [{address}, {{address: '127.0.0.1:0', proxy_protocol: true}}]\n");
        format!("{}trusted_proxies: [10.0.0.0/8]\n", yaml.replace(&listen, &both))
    })
    .await;
    let from_stranger = with(b"PROXY TCP4 10.0.0.1 10.0.0.1 5432 443\r\n");
    assert_eq!(answer_to(stranger.running.addresses[1], &from_stranger).await, None);
}
