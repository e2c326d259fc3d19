//! Stories: what people, clients and upstreams live through, from one end to the other.

use serde_json::json;

use crate::http1::{request, send};
use crate::person::{Browser, REDIRECT, Tokens, authorize_target, redeem, refresh, register, tokens, walk};
use crate::setup::Gateway;

/// The main job: a client that knows nothing but the MCP URL ends up with a tool call, and the server knows who calls.
/// Spec: H1, H2, A2, B2, F12
#[tokio::test]
async fn a_client_signs_in_and_the_server_sees_who_calls() {
    let gateway = Gateway::start().await;

    let refused = gateway.call("one", None).await;
    assert_eq!(refused.status, 401);
    let challenge = refused.header("www-authenticate").unwrap().to_owned();
    assert!(
        challenge.starts_with("Bearer ") && !challenge.contains("error"),
        "{challenge}"
    );
    let document = challenge
        .split("resource_metadata=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    assert_eq!(
        document,
        format!("{}/.well-known/oauth-protected-resource/one/mcp", gateway.origin())
    );
    assert!(challenge.contains("scope=\"one:use\""), "{challenge}");

    let resource = gateway
        .get(document.strip_prefix(&gateway.origin()).unwrap(), &[])
        .await
        .json();
    assert_eq!(resource["resource"], gateway.resource("one"));
    assert_eq!(resource["authorization_servers"], json!([gateway.origin()]));
    let server = gateway.get("/.well-known/oauth-authorization-server", &[]).await.json();
    assert_eq!(server["issuer"], gateway.origin());
    assert_eq!(
        server["registration_endpoint"],
        format!("{}/register", gateway.origin())
    );

    let client = register(&gateway, json!({})).await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), Some("one:use"), &[]);
    let answer = walk(&gateway, &mut Browser::default(), &target, "ada").await;
    assert!([302, 303].contains(&answer.status), "{}", answer.text());
    assert!(answer.location().as_str().starts_with(REDIRECT));
    assert_eq!(answer.redirected("state").as_deref(), Some("a state, äß& %2F"));
    assert_eq!(answer.redirected("iss"), Some(gateway.origin()));
    let code = answer.redirected("code").unwrap();
    assert!(code.len() >= 32);

    let reply = redeem(&gateway, &client, &code, &[]).await;
    let answer = reply.json();
    assert_eq!(
        (
            answer["token_type"].as_str(),
            answer["expires_in"].as_u64(),
            answer["scope"].as_str()
        ),
        (Some("Bearer"), Some(3600), Some("one:use"))
    );
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let own = Tokens::of(&reply);

    let called = gateway.call("one", Some(&own.access)).await;
    assert_eq!(called.status, 200, "{}", called.text());
    let seen = gateway.upstream.last();
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/mcp"));
    assert_eq!(seen.body, br#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#);
    assert_eq!(seen.header("x-forwarded-user"), Some("ada"));
    assert_eq!(seen.header("x-forwarded-preferred-username"), Some("ada"));
    assert_eq!(seen.header("x-forwarded-email"), Some("ada@example.com"));
    assert_eq!(seen.header("x-forwarded-groups"), Some("engineering,a%2Cb"));
    assert_eq!(seen.header("x-forwarded-scope"), Some("one:use"));
    assert_eq!(seen.header("x-forwarded-client-id"), Some(client.id.as_str()));
    assert_eq!(seen.header("x-api-key"), Some("upstream-key"));
    assert_eq!(seen.header("x-request-id"), called.header("x-request-id"));
    assert!(called.header("x-request-id").is_some_and(|id| id.len() >= 16));
    for absent in ["authorization", "cookie", "origin"] {
        assert_eq!(seen.header(absent), None, "{absent}");
    }
    assert!(
        !seen.header("host").unwrap().contains(&gateway.host),
        "the upstream gets its own Host"
    );

    let again = refresh(&gateway, &client, &own.refresh).await;
    let next = Tokens::of(&again);
    assert_ne!(next.access, own.access);
    assert_eq!(gateway.call("one", Some(&next.access)).await.status, 200);
}

/// What was allowed for one server opens no other.
/// Spec: H3, I1
#[tokio::test]
async fn a_token_for_one_upstream_is_worth_nothing_at_another() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    for (own, other) in [("one", "two"), ("two", "one")] {
        let tokens = tokens(&gateway, &client, "ada", own).await;
        assert_eq!(gateway.call(own, Some(&tokens.access)).await.status, 200);
        let before = gateway.upstream.count();
        let refused = gateway.call(other, Some(&tokens.access)).await;
        assert_eq!(refused.status, 401);
        let challenge = refused.header("www-authenticate").unwrap();
        assert!(
            challenge.contains("error=\"invalid_token\"")
                && challenge.contains(&format!("/oauth-protected-resource/{other}/mcp")),
            "{challenge}"
        );
        assert_eq!(gateway.upstream.count(), before);
    }
}

/// Contract §6: scopes that the upstream needs and the token lacks are named in a 403.
/// Spec: H5, H7
#[tokio::test]
async fn a_token_without_the_upstream_s_scope_is_told_which_one_it_needs() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), Some("profile"), &[]);
    let answer = walk(&gateway, &mut Browser::default(), &target, "ada").await;
    let tokens = Tokens::of(&redeem(&gateway, &client, &answer.redirected("code").unwrap(), &[]).await);
    let refused = gateway.call("one", Some(&tokens.access)).await;
    assert_eq!(refused.status, 403);
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(
        challenge.contains("error=\"insufficient_scope\"")
            && challenge.contains("one:use")
            && challenge.contains("resource_metadata="),
        "{challenge}"
    );
    assert_eq!(gateway.upstream.count(), 0);
}

/// H12, F19: time, revocation and a vanished account all close the door, on the very next request.
/// Spec: H3, H10, H12
#[tokio::test]
async fn expiry_and_revocation_close_the_door_at_once() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;

    let short = tokens(&gateway, &client, "ada", "one").await;
    assert_eq!(gateway.call("one", Some(&short.access)).await.status, 200);
    gateway.advance(3_601);
    let refused = gateway.call("one", Some(&short.access)).await;
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"));

    let own = Tokens::of(&refresh(&gateway, &client, &short.refresh).await);
    assert_eq!(gateway.call("one", Some(&own.access)).await.status, 200);
    let revoked = gateway
        .post_form("/revoke", &[], &[("token", &own.refresh), ("client_id", &client.id)])
        .await;
    assert_eq!((revoked.status, revoked.body.len()), (200, 0));
    assert_eq!(gateway.call("one", Some(&own.access)).await.status, 401);
    let reply = refresh(&gateway, &client, &own.refresh).await;
    assert_eq!((reply.status, reply.error()), (400, "invalid_grant".to_owned()));
}

/// Nobody has to sign in again because the gateway was restarted.
/// Spec: C10
#[tokio::test]
async fn everything_survives_a_restart() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "ada", "one").await;
    let gateway = gateway.restart().await;
    assert_eq!(gateway.call("one", Some(&own.access)).await.status, 200);
    let next = Tokens::of(&refresh(&gateway, &client, &own.refresh).await);
    assert_eq!(gateway.call("one", Some(&next.access)).await.status, 200);
}

/// An account that is taken out of the configuration takes its tokens with it.
/// Spec: F19, H12
#[tokio::test]
async fn the_tokens_of_a_removed_account_are_worth_nothing() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "bob", "two").await;
    assert_eq!(gateway.call("two", Some(&own.access)).await.status, 200);
    let mut gateway = gateway;
    gateway.yaml = gateway
        .yaml
        .lines()
        .filter(|line| !line.contains("username: bob"))
        .collect::<Vec<_>>()
        .join("\n");
    let gateway = gateway.restart().await;
    assert_eq!(gateway.call("two", Some(&own.access)).await.status, 401);
    assert_eq!(refresh(&gateway, &client, &own.refresh).await.error(), "invalid_grant");
}

/// F10: whoever replays a code ends what the code became.
/// Spec: F10
#[tokio::test]
async fn a_replayed_code_revokes_what_it_became() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), None, &[]);
    let code = walk(&gateway, &mut Browser::default(), &target, "ada")
        .await
        .redirected("code")
        .unwrap();
    let own = Tokens::of(&redeem(&gateway, &client, &code, &[]).await);
    assert_eq!(gateway.call("one", Some(&own.access)).await.status, 200);
    assert_eq!(redeem(&gateway, &client, &code, &[]).await.error(), "invalid_grant");
    assert_eq!(gateway.call("one", Some(&own.access)).await.status, 401);
}

/// F14, F15: a retry gets the same answer, a thief ends the family.
/// Spec: F14, F15, L9
#[tokio::test]
async fn a_refresh_may_be_retried_but_not_stolen() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "ada", "one").await;
    let first = Tokens::of(&refresh(&gateway, &client, &own.refresh).await);
    gateway.advance(59);
    let retried = Tokens::of(&refresh(&gateway, &client, &own.refresh).await);
    assert_eq!((&first.access, &first.refresh), (&retried.access, &retried.refresh));
    gateway.advance(2);
    assert_eq!(refresh(&gateway, &client, &own.refresh).await.error(), "invalid_grant");
    assert_eq!(gateway.call("one", Some(&first.access)).await.status, 401);
    assert_eq!(
        refresh(&gateway, &client, &first.refresh).await.error(),
        "invalid_grant"
    );
}

/// F10 under a race: one code, many hands, one winner.
/// Spec: F10, L11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_many_redeem_at_once_has_one_winner() {
    let gateway = std::sync::Arc::new(Gateway::start().await);
    let client = std::sync::Arc::new(register(&gateway, json!({})).await);
    let target = authorize_target(&client, Some(&gateway.resource("one")), None, &[]);
    let code = walk(&gateway, &mut Browser::default(), &target, "ada")
        .await
        .redirected("code")
        .unwrap();
    let hands: Vec<_> = (0..16)
        .map(|_| {
            let (gateway, client, code) = (gateway.clone(), client.clone(), code.clone());
            tokio::spawn(async move { redeem(&gateway, &client, &code, &[]).await.status })
        })
        .collect();
    let mut winners = 0;
    for hand in hands {
        winners += usize::from(hand.await.unwrap() == 200);
    }
    assert_eq!(winners, 1);
}

/// Scopes with `groups`: only members are granted them.
/// Spec: D13
#[tokio::test]
async fn a_scope_for_a_group_goes_to_its_members_only() {
    let gateway =
        Gateway::start_with(|yaml| yaml.replace("scopes: [\"one:use\"]", "scopes: [\"one:use\", \"one:admin\"]")).await;
    let client = register(&gateway, json!({})).await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), Some("one:use one:admin"), &[]);
    let bob = walk(&gateway, &mut Browser::default(), &target, "bob").await;
    let granted = redeem(&gateway, &client, &bob.redirected("code").unwrap(), &[])
        .await
        .json();
    assert_eq!(granted["scope"], "one:use one:admin");
    let ada = walk(&gateway, &mut Browser::default(), &target, "ada").await;
    assert_eq!(ada.redirected("error").as_deref(), Some("access_denied"));
    assert_eq!(ada.redirected("code"), None);
}

/// Clients of revision 2025-03-26 look at the root without asking; a prefix moves what is advertised, not what answers.
/// Spec: A10, A13
#[tokio::test]
async fn endpoints_answer_at_the_root_and_under_the_prefix() {
    let gateway =
        Gateway::start_with(|yaml| yaml.replace("oauth:\n", "oauth:\n  endpoint_prefix: /api/auth/mcp\n")).await;
    let server = gateway.get("/.well-known/oauth-authorization-server", &[]).await.json();
    assert_eq!(server["issuer"], gateway.origin());
    for (member, path) in [
        ("authorization_endpoint", "/authorize"),
        ("token_endpoint", "/token"),
        ("registration_endpoint", "/register"),
        ("revocation_endpoint", "/revoke"),
    ] {
        assert_eq!(server[member], format!("{}/api/auth/mcp{path}", gateway.origin()));
    }
    for prefix in ["", "/api/auth/mcp"] {
        assert_eq!(
            gateway
                .post_form(&format!("{prefix}/token"), &[], &[("grant_type", "x")])
                .await
                .status
                % 100
                / 10,
            0
        );
        let registered = gateway
            .post(
                &format!("{prefix}/register"),
                &[("Content-Type", "application/json")],
                &json!({ "redirect_uris": [REDIRECT] }).to_string(),
            )
            .await;
        assert_eq!(registered.status, 201);
        assert_eq!(gateway.get(&format!("{prefix}/authorize"), &[]).await.status, 400);
    }
}

/// B6: with one upstream the path-less document is its own; with several there is none unless one is named.
/// Spec: B6
#[tokio::test]
async fn the_root_resource_document_follows_the_configuration() {
    let several = Gateway::start().await;
    assert_eq!(
        several.get("/.well-known/oauth-protected-resource", &[]).await.status,
        404
    );
    let named = Gateway::start_with(|yaml| yaml.replace("oauth:\n", "oauth:\n  root_resource: two\n")).await;
    assert_eq!(
        named.get("/.well-known/oauth-protected-resource", &[]).await.json()["resource"],
        named.resource("two")
    );
    let single = Gateway::start_with(|yaml| {
        yaml.lines()
            .filter(|line| !line.contains("name: two"))
            .collect::<Vec<_>>()
            .join("\n")
    })
    .await;
    assert_eq!(
        single.get("/.well-known/oauth-protected-resource", &[]).await.json()["resource"],
        single.resource("one")
    );
    // D11: and a client that names no resource gets a token for it.
    let client = register(&single, json!({})).await;
    let answer = walk(
        &single,
        &mut Browser::default(),
        &authorize_target(&client, None, None, &[]),
        "ada",
    )
    .await;
    let own = Tokens::of(&redeem(&single, &client, &answer.redirected("code").unwrap(), &[]).await);
    assert_eq!(single.call("one", Some(&own.access)).await.status, 200);
}

/// RFC 9207 off: neither announced nor sent, for clients that drop `iss`.
/// Spec: A8
#[tokio::test]
async fn the_issuer_in_the_response_can_be_switched_off_entirely() {
    let gateway = Gateway::start_with(|yaml| yaml.replace("oauth:\n", "oauth:\n  issuer_in_response: false\n")).await;
    let server = gateway.get("/.well-known/oauth-authorization-server", &[]).await.json();
    assert_ne!(server["authorization_response_iss_parameter_supported"], true);
    let client = register(&gateway, json!({})).await;
    let answer = walk(
        &gateway,
        &mut Browser::default(),
        &authorize_target(&client, Some(&gateway.resource("one")), None, &[]),
        "ada",
    )
    .await;
    assert!(answer.redirected("code").is_some() && answer.redirected("iss").is_none());
}

/// Registration off: the endpoint is not advertised and refuses; configured clients go on.
/// Spec: A7, C28
#[tokio::test]
async fn a_closed_gateway_serves_the_clients_that_it_knows() {
    let gateway =
        Gateway::start_with(|yaml| yaml.replace("oauth:\n", "oauth:\n  registration: { dynamic: false }\n")).await;
    assert!(
        gateway
            .get("/.well-known/oauth-authorization-server", &[])
            .await
            .json()
            .get("registration_endpoint")
            .is_none()
    );
    let refused = gateway
        .post(
            "/register",
            &[("Content-Type", "application/json")],
            &json!({ "redirect_uris": [REDIRECT] }).to_string(),
        )
        .await;
    assert!(refused.status >= 400 && refused.status < 500 && !refused.error().is_empty());
    let client = crate::person::Client {
        id: "ci-runner".to_owned(),
        secret: Some("a secret of the ci runner".to_owned()),
        redirect: "https://ci.example.com/callback".to_owned(),
    };
    let own = tokens(&gateway, &client, "ada", "two").await;
    assert_eq!(gateway.call("two", Some(&own.access)).await.status, 200);
}

/// Contract §4: the metrics tell what happened, and nothing else listens where they are.
/// Spec: F22, G7, L18
#[tokio::test]
async fn metrics_count_what_happened_without_a_name_in_them() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "ada", "one").await;
    gateway.call("one", Some(&own.access)).await;
    gateway.call("one", None).await;
    gateway.call("two", Some(&own.access)).await;
    gateway.call("one", Some("mgat_nonsense")).await;
    let admin = gateway.running.admin;
    let text = send(admin, &request("GET", "/metrics", &admin.to_string(), &[], b""))
        .await
        .text();
    for line in [
        "mcpgate_auth_decisions_total{decision=\"allowed\",upstream=\"one\"} 1",
        "mcpgate_auth_decisions_total{decision=\"no_token\",upstream=\"one\"} 1",
        "mcpgate_auth_decisions_total{decision=\"invalid_token\",upstream=\"one\"} 1",
        "mcpgate_auth_decisions_total{decision=\"wrong_resource\",upstream=\"two\"} 1",
        "mcpgate_requests_total{method=\"tools/list\",outcome=\"ok\",upstream=\"one\"} 1",
        "mcpgate_tokens_issued_total{grant=\"authorization_code\"} 1",
        "mcpgate_registrations_total{kind=\"dynamic\"} 1",
        "mcpgate_logins_total{outcome=\"success\",provider=\"builtin\"} 1",
        "mcpgate_build_info{version=",
        "mcpgate_request_duration_seconds_count{upstream=\"one\"}",
        "mcpgate_gateway_overhead_seconds_count",
        "mcpgate_store_operation_seconds_count{operation=",
        "mcpgate_open_streams{upstream=\"one\"} 0",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    for secret in [&own.access, &own.refresh, &client.id, "ada"] {
        assert!(!text.contains(secret), "{secret}");
    }
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/nothing", 404)] {
        assert_eq!(
            send(admin, &request("GET", path, &admin.to_string(), &[], b""))
                .await
                .status,
            status
        );
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(gateway.get(path, &[]).await.status, 404, "{path} is not public");
    }
}

/// Contract §6: what cannot be read lets nobody in, and says when to come back.
/// Spec: H12
#[tokio::test]
async fn a_store_that_cannot_be_read_lets_nobody_in() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "ada", "one").await;
    let gateway = gateway
        .restart_after(|directory| {
            // Every access token and grant on record is overwritten with something that is neither.
            let current = std::fs::read_dir(directory.join("data"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .find(|path| path.is_dir())
                .expect("there is a database");
            let database = sled::open(current).unwrap();
            for prefix in [b"t", b"g"] {
                for key in database
                    .scan_prefix(prefix)
                    .keys()
                    .map(Result::unwrap)
                    .collect::<Vec<_>>()
                {
                    database.insert(key, &b"\x01{"[..]).unwrap();
                }
            }
            database.flush().unwrap();
        })
        .await;
    let refused = gateway.call("one", Some(&own.access)).await;
    assert_eq!(
        (refused.status, refused.header("retry-after").is_some()),
        (503, true),
        "{}",
        refused.text()
    );
    assert_eq!(gateway.upstream.count(), 0);
    let reply = refresh(&gateway, &client, &own.refresh).await;
    assert_eq!(
        (reply.status, reply.header("retry-after").is_some()),
        (503, true),
        "{}",
        reply.text()
    );
    // Everybody else is served.
    let other = tokens(&gateway, &client, "bob", "two").await;
    assert_eq!(gateway.call("two", Some(&other.access)).await.status, 200);
}
