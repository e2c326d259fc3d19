//! A new configuration while the gateway runs.

use std::time::Duration;

use mcpgate::app::ReloadError;
use mcpgate::config::{self, Config};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::person::{register, tokens};
use crate::setup::{Gateway, Upstream};

impl Gateway {
    /// Puts the configuration in force that `change` makes of the one at the start.
    fn reload(&self, change: impl FnOnce(String) -> String) -> Result<Vec<String>, ReloadError> {
        self.running.put_in_force(parsed(&change(self.yaml.clone())))
    }
}

fn parsed(yaml: &str) -> Config {
    config::parse(yaml, std::path::Path::new("."), &|_| None).unwrap_or_else(|problems| panic!("{problems}\n{yaml}"))
}

fn without_line(yaml: &str, part: &str) -> String {
    let left: Vec<&str> = yaml.lines().filter(|line| !line.contains(part)).collect();
    assert!(left.len() + 1 == yaml.lines().count(), "{part} is on one line");
    left.join("\n") + "\n"
}

/// Spec: L22
#[tokio::test]
async fn people_and_servers_come_and_go() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let ada = tokens(&gateway, &client, "ada", "two").await.access;
    let bob = tokens(&gateway, &client, "bob", "two").await.access;
    assert_eq!(gateway.call("two", Some(&ada)).await.status, 200);
    assert_eq!(gateway.call("two", Some(&bob)).await.status, 200);

    // Bob leaves; another server comes.
    let third = Upstream::default();
    let address = third.start().await;
    let kept = gateway.reload(|yaml| {
        without_line(&yaml, "username: bob")
            + &format!("  - {{ name: three, path: /three/mcp, url: \"http://{address}/mcp\" }}\n")
    });
    assert_eq!(kept.unwrap(), Vec::<String>::new());
    let refused = gateway.call("two", Some(&bob)).await;
    assert_eq!((refused.status, refused.error().as_str()), (401, "invalid_token"));
    assert_eq!(gateway.call("two", Some(&ada)).await.status, 200);
    let own = tokens(&gateway, &client, "ada", "three").await.access;
    assert_eq!(gateway.call("three", Some(&own)).await.status, 200);
    assert_eq!(third.count(), 1);

    // The old server goes, and bob is back: what was allowed to him still is.
    let kept = gateway.reload(|yaml| without_line(&yaml, "name: two"));
    assert_eq!(kept.unwrap(), Vec::<String>::new());
    assert_eq!(gateway.call("two", Some(&bob)).await.status, 404);
    gateway.reload(|yaml| yaml).unwrap();
    assert_eq!(gateway.call("two", Some(&bob)).await.status, 200);
    assert_eq!(gateway.call("three", Some(&own)).await.status, 404);
}

/// Spec: L13, L22
#[tokio::test]
async fn what_was_counted_still_counts() {
    let limited = |yaml: String| yaml.replace("requests_per_minute: 1000", "requests_per_minute: 3");
    let gateway = Gateway::start_with(limited).await;
    let client = register(&gateway, json!({})).await;
    let token = tokens(&gateway, &client, "ada", "two").await.access;
    for _ in 0..3 {
        assert_eq!(gateway.call("two", Some(&token)).await.status, 200);
    }
    // Another place in the list, the same name.
    gateway
        .reload(|yaml| {
            yaml.replace(
                "upstreams:\n",
                "upstreams:\n  - { name: zero, path: /zero, url: \"http://127.0.0.1:9\" }\n",
            )
        })
        .unwrap();
    assert_eq!(gateway.call("two", Some(&token)).await.status, 429);
}

/// Spec: L22
#[tokio::test]
async fn what_cannot_change_is_said_and_the_rest_changes() {
    let gateway = Gateway::start().await;
    let admin = gateway.running.admin;
    let kept = gateway
        .reload(|yaml| {
            let yaml = yaml.replace(&format!("listen: {}", gateway.host), "listen: 127.0.0.1:4");
            let yaml = yaml.replace(&format!("listen: \"{admin}\""), "listen: \"127.0.0.1:5\"");
            let yaml = yaml.replace("/data\"", "/elsewhere\"");
            without_line(&yaml, "name: one, path")
        })
        .unwrap();
    assert_eq!(
        kept,
        [
            format!("listen: {} is listened on until a restart", gateway.host),
            "listen: 127.0.0.1:4 is listened on after a restart".to_owned(),
            format!("admin.listen: {admin} stays until a restart"),
            "store: the old one stays until a restart".to_owned(),
        ]
    );
    assert_eq!(gateway.call("one", None).await.status, 404);
    assert_eq!(gateway.call("two", None).await.status, 401);
    assert!(!gateway.directory.path().join("elsewhere").exists());
    // Back to what it was: nothing is kept from it.
    assert_eq!(gateway.reload(|yaml| yaml).unwrap(), Vec::<String>::new());
    assert_eq!(gateway.call("one", None).await.status, 401);
}

/// An open event stream, which hears something every 20 ms.
async fn stream(gateway: &Gateway, token: &str) -> TcpStream {
    let authorization = format!("Bearer {token}");
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Accept", "text/event-stream"),
    ];
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let request = crate::http1::request("GET", "/two/mcp/events", &gateway.host, &headers, b"");
    stream.write_all(&request).await.unwrap();
    let mut head = vec![0; 4 << 10];
    let read = stream.read(&mut head).await.unwrap();
    assert!(
        head[..read].starts_with(b"HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(&head[..read])
    );
    stream
}

/// Whether a stream comes to its end in a while.
async fn ends(stream: &mut TcpStream) -> bool {
    let read = async {
        let mut all = Vec::new();
        let is_over = |all: &[u8]| all.ends_with(b"0\r\n\r\n");
        while !is_over(&all) && stream.read_buf(&mut all).await.is_ok_and(|read| read > 0) {}
    };
    tokio::time::timeout(Duration::from_secs(5), read).await.is_ok()
}

/// Spec: H11, L22
#[tokio::test]
async fn streams_go_on_except_those_of_people_who_are_gone() {
    let events = crate::signals::upstream().await;
    let gateway = Gateway::start_with(|yaml| {
        let (before, _) = yaml.split_once("  - { name: two").unwrap();
        format!("{before}  - {{ name: two, path: /two/mcp, url: \"http://{events}/mcp\" }}\n")
    })
    .await;
    let client = register(&gateway, json!({})).await;
    let ada = tokens(&gateway, &client, "ada", "two").await.access;
    let bob = tokens(&gateway, &client, "bob", "two").await.access;
    let (mut hers, mut his) = (stream(&gateway, &ada).await, stream(&gateway, &bob).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // One that has just begun when the configuration changes.
    let mut late = stream(&gateway, &bob).await;
    // The servers change places as well.
    let zero = "\nupstreams:\n  - { name: zero, path: /zero/mcp, url: \"http://127.0.0.1:1/mcp\" }\n";
    gateway
        .reload(|yaml| without_line(&yaml, "username: bob").replace("\nupstreams:\n", zero))
        .unwrap();
    assert!(ends(&mut his).await, "an old stream");
    assert!(ends(&mut late).await, "a new stream");
    assert!(!ends(&mut hers).await, "somebody else's stream");
    // The server itself goes, and its streams with it.
    gateway.reload(|yaml| without_line(&yaml, "name: two")).unwrap();
    assert!(ends(&mut hers).await, "a stream of a server that is gone");
}
