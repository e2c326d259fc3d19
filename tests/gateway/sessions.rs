//! Sessions are good for those who began them: two people, two clients, two servers, a restart, and every way to lie.

use std::fmt::Write as _;

use serde_json::json;

use crate::http1::{Reply, request, send};
use crate::mcp_server::{McpServer, header};
use crate::person::{Client, register, tokens};
use crate::setup::Gateway;

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;

/// A gateway in front of one server, mounted twice.
pub struct Bound {
    pub gateway: Gateway,
    pub server: McpServer,
    pub client: Client,
    pub ada: String,
    pub bob: String,
}

/// What the administration is opened with.
pub const ADMIN_TOKEN: &str = "the token of whoever administers";

impl Bound {
    pub async fn start(path: &str, more: &str) -> Self {
        Self::before(McpServer::start().await, path, more).await
    }

    /// Mounts a path of the server as `one` (with these keys more) and as `two`.
    pub async fn before(server: McpServer, path: &str, more: &str) -> Self {
        let url = format!("http://{}{path}", server.address);
        let more = more.to_owned();
        let gateway = Gateway::start_with(move |yaml| {
            let (before, _) = yaml.split_once("upstreams:").unwrap();
            let redirects = "redirect_uris: [https://ci.example.com/callback]";
            let grants = "grant_types: [authorization_code, refresh_token, client_credentials]";
            let before = before.replace(redirects, &format!("{redirects}\n      {grants}"));
            let before = before.replace("admin: {", &format!("admin: {{ token: \"{ADMIN_TOKEN}\","));
            let mut yaml = format!("{before}upstreams:\n");
            writeln!(yaml, "  - {{ name: one, path: /one/mcp, url: \"{url}\"{more} }}").unwrap();
            writeln!(yaml, "  - {{ name: two, path: /two/mcp, url: \"{url}\"{more} }}").unwrap();
            yaml
        })
        .await;
        let client = register(&gateway, json!({})).await;
        let bearer = async |username| format!("Bearer {}", tokens(&gateway, &client, username, "one").await.access);
        let (ada, bob) = (bearer("ada").await, bearer("bob").await);
        Self {
            gateway,
            server,
            client,
            ada,
            bob,
        }
    }

    pub async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let bytes = request(method, target, &self.gateway.host, headers, body.as_bytes());
        send(self.gateway.address, &bytes).await
    }

    async fn post(&self, bearer: &str, session: Option<&str>, body: &str) -> Reply {
        let mut headers = vec![("Authorization", bearer), ("Content-Type", "application/json")];
        headers.extend(session.map(|id| ("Mcp-Session-Id", id)));
        self.send("POST", "/one/mcp", &headers, body).await
    }

    /// The id of a session that this token's holder begins.
    async fn begin(&self, bearer: &str) -> String {
        let begun = self.post(bearer, None, INITIALIZE).await;
        assert_eq!(begun.status, 200, "{}", begun.text());
        begun.header("mcp-session-id").unwrap().to_owned()
    }
}

/// What a client needs to begin anew: 404, like a session that has ended.
fn is_unknown(reply: &Reply) {
    assert_eq!(
        (reply.status, reply.json()["error"]["code"].as_i64()),
        (404, Some(-32001)),
        "{}",
        reply.text()
    );
    assert_eq!(reply.json()["error"]["message"], "Session not found");
    assert!(reply.header("mcp-session-id").is_none() && reply.header("www-authenticate").is_none());
}

/// Spec: H10, K10, K11, K12
#[tokio::test]
async fn a_session_is_good_for_the_one_who_began_it() {
    let at = Bound::start("/mcp", "").await;
    let id = at.begin(&at.ada).await;
    assert!(
        id.starts_with("new-1.") && id.bytes().all(|byte| byte.is_ascii_graphic()),
        "{id}"
    );

    let mine = at.post(&at.ada, Some(&id), LIST).await;
    assert_eq!((mine.status, mine.header("mcp-session-id")), (200, Some(id.as_str())));
    assert_eq!(header(&at.server.last(), "mcp-session-id").as_deref(), Some("new-1"));
    assert_eq!(mine.json()["heard"], LIST, "the body is as it was");

    let before = at.server.count();
    let other = register(&at.gateway, json!({})).await;
    let other_client = format!("Bearer {}", tokens(&at.gateway, &other, "ada", "one").await.access);
    let other_upstream = format!("Bearer {}", tokens(&at.gateway, &at.client, "ada", "two").await.access);
    for bearer in [&at.bob, &other_client] {
        for method in ["POST", "GET", "DELETE"] {
            let headers = [("Authorization", bearer.as_str()), ("Mcp-Session-Id", &id)];
            let body = if method == "POST" { LIST } else { "" };
            is_unknown(&at.send(method, "/one/mcp", &headers, body).await);
        }
    }
    let headers = [("Authorization", other_upstream.as_str()), ("Mcp-Session-Id", &id)];
    is_unknown(&at.send("POST", "/two/mcp", &headers, LIST).await);
    // The upstream's own id, which bob may have seen in a log.
    for guess in [
        "new-1",
        "new-1.",
        ".",
        "x",
        "",
        "new-1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        is_unknown(&at.post(&at.bob, Some(guess), LIST).await);
        is_unknown(&at.post(&at.ada, Some(guess), LIST).await);
    }
    let long = "x".repeat(8 << 10);
    is_unknown(&at.post(&at.ada, Some(&long), LIST).await);
    assert_eq!(at.server.count(), before, "the upstream heard of it");
    // A session is no credential.
    assert_eq!(
        at.send("POST", "/one/mcp", &[("Mcp-Session-Id", &id)], LIST)
            .await
            .status,
        401
    );
    // And it goes on for her.
    assert_eq!(at.post(&at.ada, Some(&id), LIST).await.status, 200);
}

/// Spec: K10, K11
#[tokio::test]
async fn a_session_that_was_ended_is_unknown_to_the_upstream_itself() {
    let at = Bound::start("/mcp", "").await;
    let id = at.begin(&at.ada).await;
    let headers = [("Authorization", at.ada.as_str()), ("Mcp-Session-Id", &id)];
    assert_eq!(at.send("DELETE", "/one/mcp", &headers, "").await.status, 204);
    let before = at.server.count();
    is_unknown(&at.post(&at.ada, Some(&id), LIST).await);
    assert_eq!(at.server.count(), before + 1, "it is the upstream that says so");
    let again = at.begin(&at.ada).await;
    assert_eq!(at.post(&at.ada, Some(&again), LIST).await.status, 200);
}

/// Nothing of a session is kept here, and yet it outlives the process; and a new token, which belongs to the same person and
/// client, goes on with it.
///
/// Spec: K10
#[tokio::test]
async fn a_session_outlives_the_gateway_and_the_token() {
    let at = Bound::start("/mcp", "").await;
    let id = at.begin(&at.ada).await;
    let Bound {
        gateway,
        server,
        client,
        ada,
        bob,
    } = at;
    let gateway = gateway.restart().await;
    let at = Bound {
        gateway,
        server,
        client,
        ada,
        bob,
    };
    assert_eq!(at.post(&at.ada, Some(&id), LIST).await.status, 200);
    is_unknown(&at.post(&at.bob, Some(&id), LIST).await);
    let fresh = format!("Bearer {}", tokens(&at.gateway, &at.client, "ada", "one").await.access);
    assert_eq!(at.post(&fresh, Some(&id), LIST).await.status, 200);
    // With another store there is another key.
    let Bound { gateway, server, .. } = at;
    let gateway = gateway
        .restart_after(|directory| std::fs::remove_dir_all(directory.join("data")).unwrap())
        .await;
    let client = register(&gateway, json!({})).await;
    let ada = format!("Bearer {}", tokens(&gateway, &client, "ada", "one").await.access);
    let before = server.count();
    let bytes = [("Authorization", ada.as_str()), ("Mcp-Session-Id", &id)];
    let reply = gateway.post("/one/mcp", &bytes, LIST).await;
    is_unknown(&reply);
    assert_eq!(server.count(), before);
}

/// Spec: K10
#[tokio::test]
async fn a_client_that_acts_for_itself_has_sessions_of_its_own() {
    let server = McpServer::start().await;
    let at = Bound::before(server, "/mcp", "").await;
    let asked = [
        ("grant_type", "client_credentials"),
        ("client_id", "ci-runner"),
        ("client_secret", "a secret of the ci runner"),
        ("resource", &at.gateway.resource("one")),
    ];
    let answer = at.gateway.post_form("/token", &[], &asked).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let runner = format!("Bearer {}", answer.json()["access_token"].as_str().unwrap());
    let id = at.begin(&runner).await;
    assert_eq!(at.post(&runner, Some(&id), LIST).await.status, 200);
    is_unknown(&at.post(&at.ada, Some(&id), LIST).await);
}

/// What was found out for one session is no answer for another.
///
/// Spec: K10
#[tokio::test]
async fn sessions_of_one_token_do_not_get_mixed_up() {
    let at = Bound::start("/mcp", "").await;
    let ids = [at.begin(&at.ada).await, at.begin(&at.ada).await];
    for turn in [0, 1, 1, 0, 0, 1] {
        let reply = at.post(&at.ada, Some(&ids[turn]), LIST).await;
        assert_eq!(
            (reply.status, reply.header("mcp-session-id")),
            (200, Some(ids[turn].as_str()))
        );
        let own = format!("new-{}", turn + 1);
        assert_eq!(header(&at.server.last(), "mcp-session-id"), Some(own));
        // Neither half of the one with a half of the other.
        let (id, tag) = (
            ids[turn].split('.').next().unwrap(),
            ids[1 - turn].split('.').nth(1).unwrap(),
        );
        is_unknown(&at.post(&at.ada, Some(&format!("{id}.{tag}")), LIST).await);
        is_unknown(&at.post(&at.bob, Some(&ids[turn]), LIST).await);
    }
}

/// Servers read headers and queries in their own ways; an id that is not looked at here does not get there.
///
/// Spec: K10, K18
#[tokio::test]
async fn an_id_does_not_get_around_the_gateway() {
    let at = Bound::start("/mcp", "").await;
    let own = at.begin(&at.bob).await;
    let id = at.begin(&at.ada).await;
    let before = at.server.count();
    let twice = [
        ("Authorization", at.bob.as_str()),
        ("Mcp-Session-Id", &own),
        ("Mcp-Session-Id", "new-2"),
    ];
    assert_eq!(at.send("POST", "/one/mcp", &twice, LIST).await.status, 400);
    let list = format!("{own}, new-2");
    is_unknown(&at.post(&at.bob, Some(&list), LIST).await);
    for query in [
        "sessionId=new-2",
        "session_id=new-2",
        "a=b&sessionid=new-2",
        "sessionId[]=new-2",
        "%73essionId=new-2",
        "mcp-session-id=new-2",
        "a=b;session_id=new-2",
    ] {
        let headers = [("Authorization", at.bob.as_str()), ("Mcp-Session-Id", &own)];
        is_unknown(&at.send("POST", &format!("/one/mcp?{query}"), &headers, LIST).await);
    }
    assert_eq!(at.server.count(), before, "the upstream heard of it");
    // Another spelling, for servers that take `_` for `-`, stays here.
    for name in ["Mcp_Session_Id", "mcp_session-id", "MCP-SESSION_ID"] {
        let headers = [
            ("Authorization", at.bob.as_str()),
            (name, "new-2"),
            ("Mcp-Session-Id", &own),
        ];
        assert_eq!(at.send("POST", "/one/mcp", &headers, LIST).await.status, 200, "{name}");
        let head = at.server.last().to_ascii_lowercase();
        assert!(
            !head.contains("new-2") && head.contains("mcp-session-id: new-1\r\n"),
            "{head}"
        );
    }
    // Every bit of an id counts.
    for at_byte in 0..id.len() {
        let mut turned = id.clone().into_bytes();
        turned[at_byte] = if turned[at_byte] == b'A' { b'B' } else { b'A' };
        let turned = String::from_utf8(turned).unwrap();
        is_unknown(&at.post(&at.ada, Some(&turned), LIST).await);
    }
}

/// Spec: K10
#[tokio::test]
async fn sessions_are_the_upstream_s_own_business_where_they_are_not_bound() {
    let at = Bound::start("/mcp", ", bind_sessions: false").await;
    assert_eq!(at.begin(&at.ada).await, "new-1");
    assert_eq!(at.post(&at.bob, Some("new-1"), LIST).await.status, 200);
    assert_eq!(at.post(&at.bob, Some("other"), LIST).await.status, 404);
    assert_eq!(header(&at.server.last(), "mcp-session-id").as_deref(), Some("other"));
}

/// A session from before binding was switched on is one that nobody began: its client begins anew.
///
/// Spec: K12
#[tokio::test]
async fn a_session_from_before_is_unknown() {
    let open = Bound::start("/mcp", ", bind_sessions: false").await;
    let id = open.begin(&open.ada).await;
    let at = Bound::before(open.server.clone(), "/mcp", "").await;
    is_unknown(&at.post(&at.ada, Some(&id), LIST).await);
    let id = at.begin(&at.ada).await;
    assert_eq!(at.post(&at.ada, Some(&id), LIST).await.status, 200);
}
