//! TLS and HTTP/2, towards clients and towards upstreams.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use mcpgate::config;
use rcgen::date_time_ymd;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Authority, shown};
use crate::http1::{PATIENCE, request};
use crate::person::{register, tokens};
use crate::setup::Gateway;

/// A gateway whose second listener has these lines.
async fn with_listener(lines: &str) -> Gateway {
    Gateway::start_with(|yaml| {
        let listen = yaml
            .lines()
            .find(|line| line.starts_with("listen: "))
            .unwrap()
            .to_owned();
        let address = listen.strip_prefix("listen: ").unwrap();
        let both = format!("listen: [{address}, {{address: '127.0.0.1:0', {lines}}}]\n");
        yaml.replace(&listen, &both)
    })
    .await
}

fn reload(gateway: &Gateway, yaml: &str) -> Result<Vec<String>, String> {
    let config = config::parse(yaml, Path::new("."), &|_| None).map_err(|problems| problems.to_string())?;
    gateway.running.put_in_force(config).map_err(|error| error.to_string())
}

/// What a server answers to a GET in HTTP/1.1 on this connection.
async fn get(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), host: &str, target: &str) -> String {
    stream.write_all(&request("GET", target, host, &[], b"")).await.unwrap();
    let mut answer = vec![0; 16 << 10];
    let length = tokio::time::timeout(PATIENCE, stream.read(&mut answer))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// Spec: L12
#[tokio::test]
async fn clients_see_the_certificate_for_the_name_that_they_ask_for() {
    let (authority, files) = (Authority::new(), tempfile::tempdir().unwrap());
    let first = authority.sign(&["a.example"]);
    let second = authority.sign(&["b.example", "*.B.example", "127.0.0.1"]);
    let list = format!(
        "tls: [{}, {}]",
        first.write(files.path(), "a"),
        second.write(files.path(), "b")
    );
    let gateway = with_listener(&list).await;
    let address = gateway.running.addresses[1];
    for (name, expected) in [
        ("a.example", &first),
        ("A.EXAMPLE", &first),
        ("b.example", &second),
        ("x.b.example", &second),
    ] {
        let mut stream = authority.connect(address, name, &["http/1.1"]).await.unwrap();
        assert_eq!(shown(&stream), expected.certificate, "{name}");
        let answer = get(&mut stream, &gateway.host, "/.well-known/oauth-authorization-server").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    // A name that nobody has, two labels where one may be, and no name at all: the first, and the client turns away.
    for name in ["c.example", "x.y.b.example", "192.0.2.1"] {
        let error = authority.connect(address, name, &[]).await.unwrap_err().to_string();
        assert!(
            error.contains("not valid for name") && error.contains("a.example"),
            "{error}"
        );
    }
    // What is no TLS at all ends without harm.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
}

#[tokio::test]
async fn a_client_that_knows_one_kind_of_key_gets_that_kind() {
    let (authority, files) = (Authority::new(), tempfile::tempdir().unwrap());
    let own = authority.sign(&["a.example"]);
    // A key that our client cannot judge by comes first: it still gets what it asks for by name.
    let list = format!(
        "tls: [{{cert: tests/fixtures/tls/site-cert.pem, key: tests/fixtures/tls/site-key.pem}}, {}]",
        own.write(files.path(), "a")
    );
    let gateway = with_listener(&list).await;
    let stream = authority
        .connect(gateway.running.addresses[1], "a.example", &[])
        .await
        .unwrap();
    assert_eq!(shown(&stream), own.certificate);
}

/// Spec: L22
#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let (authority, files) = (Authority::new(), tempfile::tempdir().unwrap());
    let old = authority.sign(&["a.example"]);
    let gateway = with_listener(&format!("tls: {}", old.write(files.path(), "a"))).await;
    let address = gateway.running.addresses[1];
    let document = "/.well-known/oauth-authorization-server";
    let mut before = authority.connect(address, "a.example", &["http/1.1"]).await.unwrap();
    assert!(
        get(&mut before, &gateway.host, document)
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    let expiry = "mcpgate_certificate_expires_timestamp_seconds{name=\"a.example\"} ";
    assert!(gateway.metrics().await.contains(expiry));

    let new = authority.sign(&["a.example"]);
    new.write(files.path(), "a");
    assert_eq!(
        shown(&authority.connect(address, "a.example", &[]).await.unwrap()),
        old.certificate
    );
    reload(&gateway, &gateway.yaml).unwrap();
    assert_eq!(
        shown(&authority.connect(address, "a.example", &[]).await.unwrap()),
        new.certificate
    );
    assert!(
        get(&mut before, &gateway.host, document)
            .await
            .starts_with("HTTP/1.1 200 ")
    );

    // A key that belongs to another certificate, and a certificate that is over: the one that is there stays.
    std::fs::write(files.path().join("a-key.pem"), &old.key_pem).unwrap();
    let refused = reload(&gateway, &gateway.yaml).unwrap_err();
    assert!(refused.contains("cannot be used together"), "{refused}");
    let over = authority.sign_with(&["a.example"], |params| params.not_after = date_time_ymd(2020, 1, 1));
    over.write(files.path(), "a");
    let refused = reload(&gateway, &gateway.yaml).unwrap_err();
    assert_eq!(
        refused,
        "the certificate for a.example is valid until Wed, 01 Jan 2020 00:00:00 GMT and not now"
    );
    assert_eq!(
        shown(&authority.connect(address, "a.example", &[]).await.unwrap()),
        new.certificate
    );

    // TLS goes from one listener, and the connections of before go on.
    new.write(files.path(), "a");
    let at = gateway.yaml.find(", tls: ").unwrap();
    let end = gateway.yaml[at..].find("]\n").unwrap() + at;
    let plain = format!("{}}}{}", &gateway.yaml[..at], &gateway.yaml[end..]);
    assert_eq!(reload(&gateway, &plain).unwrap(), Vec::<String>::new());
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(
        get(&mut stream, &gateway.host, document)
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    assert!(
        get(&mut before, &gateway.host, document)
            .await
            .starts_with("HTTP/1.1 200 ")
    );
}

/// A connection of HTTP/2 to a listener.
async fn http2(authority: &Authority, address: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = authority
        .connect(address, "a.example", &["h2", "http/1.1"])
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A whole exchange in HTTP/2.
async fn exchange(
    client: &h2::client::SendRequest<Bytes>,
    request: Request<()>,
    body: &'static [u8],
) -> (http::response::Parts, Vec<u8>) {
    let exchange = async {
        let mut client = client.clone().ready().await.unwrap();
        let (response, mut sending) = client.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            sending.send_data(Bytes::from_static(body), true).unwrap();
        }
        let (parts, mut body) = response.await.unwrap().into_parts();
        let mut all = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            let _ = body.flow_control().release_capacity(piece.len());
            all.extend_from_slice(&piece);
        }
        (parts, all)
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap()
}

#[tokio::test]
async fn clients_may_speak_http2_unless_it_is_switched_off() {
    let (authority, files) = (Authority::new(), tempfile::tempdir().unwrap());
    let tls = format!("tls: {}", authority.sign(&["a.example"]).write(files.path(), "a"));
    let gateway = with_listener(&tls).await;
    let address = gateway.running.addresses[1];
    let person = register(&gateway, json!({})).await;
    let token = tokens(&gateway, &person, "ada", "two").await.access;
    let client = http2(&authority, address).await;
    let call = |host: &str, token: Option<&str>| {
        let mut request = Request::post(format!("https://{host}/two/mcp")).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(()).unwrap()
    };
    let ping = br#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
    let many = (0..20).map(|_| exchange(&client, call(&gateway.host, Some(&token)), ping));
    for one in many {
        let (parts, body) = one.await;
        assert_eq!(parts.status, 200);
        assert!(body.starts_with(b"{"), "{body:?}");
        assert_eq!(gateway.upstream.last().body, ping);
    }
    let (parts, _) = exchange(&client, call(&gateway.host, None), ping).await;
    assert!(parts.status == 401 && parts.headers.contains_key("www-authenticate"));
    let (parts, _) = exchange(&client, call("evil.example", Some(&token)), ping).await;
    assert_eq!(parts.status, 421);
    let document = format!("https://{}/.well-known/oauth-authorization-server", gateway.host);
    let (parts, body) = exchange(&client, Request::get(document).body(()).unwrap(), b"").await;
    assert_eq!(parts.status, 200);
    let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(document["issuer"], gateway.origin());

    // A reload leaves the connection, and takes the offer from new ones.
    reload(&gateway, &gateway.yaml.replace(", tls: ", ", http2: false, tls: ")).unwrap();
    let (parts, _) = exchange(&client, call(&gateway.host, Some(&token)), ping).await;
    assert_eq!(parts.status, 200);
    let stream = authority
        .connect(address, "a.example", &["h2", "http/1.1"])
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(authority.connect(address, "a.example", &["h2"]).await.is_err());
}

// === upstreams ===

/// An MCP server of a kind, which counts its connections and says in which protocol it was asked.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// `tls`: what it shows, and whose certificates it wants to see. `protocols` by ALPN, or HTTP/2 at once without TLS.
    async fn start(tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, tls) = (
            Arc::clone(&connections),
            tls.map(|config| TlsAcceptor::from(Arc::new(config))),
        );
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let tls = tls.clone();
                tokio::spawn(async move {
                    let Some(tls) = tls else {
                        return serve_http2(socket).await;
                    };
                    let Ok(stream) = tls.accept(socket).await else { return };
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        serve_http2(stream).await;
                    } else {
                        serve_http1(stream).await;
                    }
                });
            }
        });
        Self { address, connections }
    }

    fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// What a TLS server shows, whom it wants to see, and what it speaks.
fn showing(authority: &Authority, name: &str, clients: Option<&Authority>, protocols: &[&str]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let own = authority.sign(&[name]);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.root.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder.with_single_cert(vec![own.certificate], own.key).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

async fn serve_http1(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = vec![0; 16 << 10];
    let mut read = 0;
    loop {
        match stream.read(&mut buffer[read..]).await {
            Ok(length) if length > 0 => read += length,
            _ => return,
        }
        // Heads and bodies of these tests come together.
        if buffer[..read].windows(4).any(|bytes| bytes == b"\r\n\r\n") && buffer[..read].ends_with(b"}") {
            let body = r#"{"protocol":"http/1.1"}"#;
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            read = 0;
        }
    }
}

async fn serve_http2(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, responder))) = connection.accept().await {
        tokio::spawn(answer_http2(request, responder));
    }
}

async fn answer_http2(mut request: Request<h2::RecvStream>, mut responder: h2::server::SendResponse<Bytes>) {
    let mut body = Vec::new();
    while let Some(Ok(piece)) = request.body_mut().data().await {
        let _ = request.body_mut().flow_control().release_capacity(piece.len());
        body.extend_from_slice(&piece);
    }
    // What nginx does where a request names its host twice.
    if request.headers().contains_key("host") {
        let refusal = Response::builder().status(400).body(()).unwrap();
        responder.send_response(refusal, true).unwrap();
        return;
    }
    let response = |kind: &str| Response::builder().header("content-type", kind).body(()).unwrap();
    match request.uri().path() {
        "/mcp/events" => {
            let mut sending = responder.send_response(response("text/event-stream"), false).unwrap();
            for event in 0..3 {
                sending
                    .send_data(Bytes::from(format!("data: {event}\n\n")), false)
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            sending.send_data(Bytes::new(), true).unwrap();
        }
        "/mcp/broken" => {
            let mut sending = responder.send_response(response("application/json"), false).unwrap();
            sending.send_data(Bytes::from_static(b"{\"half\":"), false).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            sending.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        "/mcp/never" => std::future::pending().await,
        _ => {
            let said = json!({
                "protocol": "h2",
                "authority": request.uri().authority().map(ToString::to_string),
                "scheme": request.uri().scheme_str(),
                "user": request.headers().get("x-forwarded-user").map(|value| value.to_str().unwrap()),
                "te": request.headers().contains_key("transfer-encoding") || request.headers().contains_key("connection"),
                "length": body.len(),
            });
            let mut sending = responder.send_response(response("application/json"), false).unwrap();
            sending.send_data(Bytes::from(said.to_string()), true).unwrap();
        }
    }
}

/// A gateway whose server `two` is somewhere else.
async fn in_front_of(scheme: &str, server: &Server, more: &str) -> (Gateway, String) {
    let url = format!("{scheme}://{}/mcp", server.address);
    let gateway = Gateway::start_with(|yaml| {
        let (before, _) = yaml.split_once("  - { name: two").unwrap();
        format!("{before}  - {{ name: two, path: /two/mcp, url: \"{url}\", {more} }}\n")
    })
    .await;
    let client = register(&gateway, json!({})).await;
    let token = tokens(&gateway, &client, "ada", "two").await.access;
    (gateway, token)
}

/// Spec: K24
#[tokio::test]
async fn an_upstream_may_have_an_authority_of_its_own_and_want_to_see_a_certificate() {
    let (servers, clients, files) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let ca = files.path().join("ca.pem");
    std::fs::write(&ca, &servers.root_pem).unwrap();
    let own = clients.sign(&["gateway.internal"]).write(files.path(), "own");
    let own = own.trim_start_matches('{').trim_end_matches('}').to_owned();
    let stranger = servers.sign(&["gateway.internal"]).write(files.path(), "stranger");
    let stranger = stranger.trim_start_matches('{').trim_end_matches('}');
    let ca = ca.display();
    for (tls, status) in [
        (format!("ca: '{ca}', server_name: mcp.internal, {own}"), 200),
        // The wrong name, no certificate of ours, one that nobody there knows, an authority that nobody here knows.
        (format!("ca: '{ca}', {own}"), 502),
        (format!("ca: '{ca}', server_name: mcp.internal"), 502),
        (format!("ca: '{ca}', server_name: mcp.internal, {stranger}"), 502),
        (format!("server_name: mcp.internal, {own}"), 502),
    ] {
        let server = Server::start(Some(showing(&servers, "mcp.internal", Some(&clients), &[]))).await;
        let (gateway, token) = in_front_of("https", &server, &format!("tls: {{ {tls} }}")).await;
        for _ in 0..3 {
            let reply = gateway.call("two", Some(&token)).await;
            assert_eq!(reply.status, status, "{tls}: {}", reply.text());
        }
        if status == 200 {
            assert_eq!(server.count(), 1, "connections are used again");
        } else {
            let metrics = gateway.metrics().await;
            let counted = "mcpgate_upstream_errors_total{kind=\"tls\",upstream=\"two\"} 3";
            assert!(metrics.contains(counted), "{tls}: {metrics}");
        }
    }
}

/// Spec: K24
#[tokio::test]
async fn an_upstream_is_spoken_to_in_http2_where_it_can_and_we_want() {
    let (authority, files) = (Authority::new(), tempfile::tempdir().unwrap());
    let ca = files.path().join("ca.pem");
    std::fs::write(&ca, &authority.root_pem).unwrap();
    let tls = format!("tls: {{ ca: '{}' }}", ca.display());
    for (protocols, wanted, spoken) in [
        (vec!["h2", "http/1.1"], true, "h2"),
        (vec!["h2", "http/1.1"], false, "http/1.1"),
        (vec!["http/1.1"], true, "http/1.1"),
        (vec![], true, "http/1.1"),
    ] {
        let server = Server::start(Some(showing(&authority, "127.0.0.1", None, &protocols))).await;
        let (gateway, token) = in_front_of("https", &server, &format!("{tls}, http2: {wanted}")).await;
        for _ in 0..4 {
            let reply = gateway.call("two", Some(&token)).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(reply.json()["protocol"], spoken, "{protocols:?} {wanted}");
            if spoken == "h2" {
                assert_eq!(reply.json()["authority"], server.address.to_string());
                assert_eq!(
                    (&reply.json()["scheme"], &reply.json()["user"]),
                    (&json!("https"), &json!("ada"))
                );
                assert_eq!(
                    (&reply.json()["te"], &reply.json()["length"]),
                    (&json!(false), &json!(46))
                );
            }
        }
        assert_eq!(server.count(), 1, "{protocols:?} {wanted}");
    }
}

/// Spec: K24
#[tokio::test]
async fn http2_without_tls_carries_many_exchanges_on_one_connection() {
    let server = Server::start(None).await;
    let (gateway, token) = in_front_of("http", &server, "http2: true, limits: { response_timeout: 1s }").await;
    let authorization = format!("Bearer {token}");
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", "application/json"),
    ];
    let body = "x".repeat(600_000);
    let calls: Vec<_> = (0..30).map(|_| gateway.post("/two/mcp", &headers, &body)).collect();
    for reply in futures_join(calls).await {
        assert_eq!((reply.status, &reply.json()["length"]), (200, &json!(600_000)));
    }
    assert_eq!(server.count(), 1);
    // Events come as they are sent, in chunks for a client of HTTP/1.1.
    let events = gateway.get("/two/mcp/events", &headers).await;
    assert_eq!(
        (events.status, events.text().as_str()),
        (200, "data: 0\n\ndata: 1\n\ndata: 2\n\n")
    );
    assert_eq!(events.header("transfer-encoding"), Some("chunked"));
    assert!(!events.closed);
    // An answer that breaks off is not passed for a whole one.
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let target = request("GET", "/two/mcp/broken", &gateway.host, &headers, b"");
    stream.write_all(&target).await.unwrap();
    let mut broken = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut broken))
        .await
        .unwrap();
    let broken = String::from_utf8_lossy(&broken);
    assert!(
        broken.contains("{\"half\":") && !broken.contains("\r\n0\r\n"),
        "{broken}"
    );
    // One that does not come is late, and the connection is good for others.
    assert_eq!(gateway.post("/two/mcp/never", &headers, "{}").await.status, 504);
    assert_eq!(gateway.post("/two/mcp", &headers, "{}").await.status, 200);
    assert_eq!(server.count(), 1);
}

async fn futures_join<T>(all: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}
