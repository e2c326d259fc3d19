//! Clients with a metadata document, before the whole gateway: on a developer's machine, where documents may be too.

use serde_json::{Value, json};

use crate::person::{Browser, Client, authorize_target, refresh, tokens};
use crate::setup::Gateway;
use crate::site::Site;

const REDIRECT: &str = "http://localhost:63785/callback";

fn document(id: &str) -> Value {
    json!({
        "client_id": id,
        "client_name": "Claude Code",
        "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    })
}

fn client(id: &str) -> Client {
    Client {
        id: id.to_owned(),
        secret: None,
        redirect: REDIRECT.to_owned(),
    }
}

/// Spec: C17, C18, C19
#[tokio::test]
async fn a_client_with_a_document_uses_an_upstream_and_a_restart_signs_nobody_out() {
    let site = Site::start().await;
    let id = format!("https://localhost:{}/oauth/client", site.address.port());
    site.put_json("localhost/oauth/client", &document(&id));
    let directory = tempfile::TempDir::new().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, &site.root_pem).unwrap();
    let gateway = Gateway::start_with(|yaml| format!("{yaml}outbound: {{ ca: {ca:?} }}\n")).await;
    let client = client(&id);
    let issued = tokens(&gateway, &client, "ada", "one").await;
    let reply = gateway.call("one", Some(&issued.access)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = gateway.upstream.last();
    assert_eq!(seen.header("x-forwarded-client-id"), Some(id.as_str()));
    assert_eq!(site.count("/oauth/client"), 1);

    // After a restart nothing is cached; tokens need no look at the site, a refresh does.
    let gateway = gateway.restart().await;
    assert_eq!(gateway.call("one", Some(&issued.access)).await.status, 200);
    assert_eq!(site.count("/oauth/client"), 1);
    let reply = refresh(&gateway, &client, &issued.refresh).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(site.count("/oauth/client"), 2);
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains("mcpgate_document_fetches_total{kind=\"document\",result=\"ok\"} 1"),
        "{metrics}"
    );
}

/// Spec: C16, C18
#[tokio::test]
async fn a_developer_s_document_may_come_without_tls_from_this_machine_alone() {
    let site = Site::start_plain().await;
    let gateway = Gateway::start().await;
    for host in ["127.0.0.1", "localhost"] {
        let id = format!("http://{host}:{}/client.json", site.address.port());
        site.put_json(&format!("{host}/client.json"), &document(&id));
        let issued = tokens(&gateway, &client(&id), "ada", "two").await;
        assert_eq!(gateway.call("two", Some(&issued.access)).await.status, 200);
    }
    for id in [
        format!("http://10.0.0.1:{}/client.json", site.address.port()),
        format!("http://0.0.0.0:{}/client.json", site.address.port()),
        "https://169.254.169.254/client.json".to_owned(),
    ] {
        let target = authorize_target(&client(&id), Some(&gateway.resource("two")), None, &[]);
        let reply = Browser::default().get(&gateway, &target).await;
        assert_eq!(reply.status, 400, "{id}");
        assert!(reply.text().contains("<code>invalid_client</code>"), "{}", reply.text());
    }
}
