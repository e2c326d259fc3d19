//! Everything that discovery advertises is there and works: each URL is taken from the document and used.

#![allow(
    clippy::too_many_lines,
    reason = "one walk, from the document to the last endpoint in it"
)]

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use mcpgate::domain::clock::{Clock as _, Timestamp};
use mcpgate::domain::key::Algorithm;
use mcpgate::jose::{KeySet, SigningKey, Token};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::http1::Reply;
use crate::person::{Browser, REDIRECT, VERIFIER, authorize_target, challenge, redeem, register, walk};
use crate::setup::Gateway;

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const RUNNER: &str = "ci-runner:a secret of the ci runner";

/// A gateway with everything switched on that can be.
async fn complete() -> Gateway {
    Gateway::start_with(|yaml| {
        yaml.replace(
            "oauth:\n",
            "oauth:\n  grants: { device_code: true, token_exchange: true }\n",
        )
        .replace(
            "      redirect_uris: [https://ci.example.com/callback]\n",
            "      redirect_uris: [https://ci.example.com/callback]\n      grant_types: [authorization_code, \
             client_credentials, token_exchange]\n      introspects: [one]\n",
        )
    })
    .await
}

/// The path of an advertised URL on this gateway.
fn path<'a>(gateway: &Gateway, metadata: &'a Value, member: &str) -> &'a str {
    let url = metadata[member]
        .as_str()
        .unwrap_or_else(|| panic!("{member} is not advertised"));
    url.strip_prefix(&gateway.origin())
        .unwrap_or_else(|| panic!("{member} is elsewhere: {url}"))
}

fn fine(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    if reply.body.is_empty() {
        Value::Null
    } else {
        reply.json()
    }
}

/// Spec: A1, A3, A5, A7, A9, A11, A13, G5, J5, J6, J8
#[tokio::test]
async fn every_url_that_is_advertised_works() {
    let gateway = complete().await;
    let metadata = gateway.get("/.well-known/openid-configuration", &[]).await.json();
    assert_eq!(
        metadata,
        gateway.get("/.well-known/oauth-authorization-server", &[]).await.json()
    );
    let mut used = BTreeSet::new();
    let mut url = |member: &str| {
        used.insert(member.to_owned());
        path(&gateway, &metadata, member).to_owned()
    };
    let runner = format!("Basic {}", STANDARD.encode(RUNNER));
    let as_runner = [("Authorization", runner.as_str())];

    // registration, a pushed request, authorize, token
    let document = json!({
        "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token", DEVICE_CODE],
    });
    let registered = gateway
        .post(
            &url("registration_endpoint"),
            &[("Content-Type", "application/json")],
            &document.to_string(),
        )
        .await;
    let id = fine(&registered, 201)["client_id"].as_str().unwrap().to_owned();
    let (resource, challenge) = (gateway.resource("one"), challenge());
    let asked = [
        ("client_id", id.as_str()),
        ("response_type", "code"),
        ("redirect_uri", REDIRECT),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
        ("scope", "openid email one:use offline_access"),
        ("nonce", "n"),
        ("resource", resource.as_str()),
    ];
    let pushed = gateway
        .post_form(&url("pushed_authorization_request_endpoint"), &[], &asked)
        .await;
    let reference = fine(&pushed, 201)["request_uri"].as_str().unwrap().to_owned();
    let query = crate::http1::form(&[("client_id", &id), ("request_uri", &reference)]);
    let target = format!("{}?{query}", url("authorization_endpoint"));
    let mut browser = Browser::default();
    let answer = walk(&gateway, &mut browser, &target, "ada").await;
    let code = answer.redirected("code").unwrap();
    let token_endpoint = url("token_endpoint");
    let redeemed = [
        ("grant_type", "authorization_code"),
        ("client_id", id.as_str()),
        ("code", code.as_str()),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ];
    let tokens = fine(&gateway.post_form(&token_endpoint, &[], &redeemed).await, 200);
    let access = tokens["access_token"].as_str().unwrap();

    // the ID token verifies with the published keys; userinfo says the same
    let keys = KeySet::parse(&fine(&gateway.get(&url("jwks_uri"), &[]).await, 200)).unwrap();
    let id_token = Token::parse(tokens["id_token"].as_str().unwrap()).unwrap();
    let claims = id_token.verify(&keys, &[Algorithm::Rs256]).unwrap();
    assert_eq!(
        (claims.text("iss"), claims.text("nonce")),
        (Some(gateway.origin().as_str()), Some("n"))
    );
    let bearer = format!("Bearer {access}");
    let userinfo = gateway
        .get(&url("userinfo_endpoint"), &[("Authorization", &bearer)])
        .await;
    let userinfo = fine(&userinfo, 200);
    assert_eq!(
        (userinfo["sub"].as_str(), userinfo["email"].as_str()),
        (claims.text("sub"), Some("ada@example.com"))
    );

    // introspection by the upstream's own server; revocation ends it
    let introspection = url("introspection_endpoint");
    let seen = fine(
        &gateway
            .post_form(&introspection, &as_runner, &[("token", access)])
            .await,
        200,
    );
    assert_eq!(
        (seen["active"].as_bool(), seen["aud"].as_str()),
        (Some(true), Some(resource.as_str()))
    );
    let revoked = [
        ("client_id", id.as_str()),
        ("token", tokens["refresh_token"].as_str().unwrap()),
    ];
    fine(
        &gateway.post_form(&url("revocation_endpoint"), &[], &revoked).await,
        200,
    );
    let seen = fine(
        &gateway
            .post_form(&introspection, &as_runner, &[("token", access)])
            .await,
        200,
    );
    assert_eq!(seen, json!({"active": false}));

    // a device
    let asked = [("client_id", id.as_str()), ("resource", resource.as_str())];
    let device = fine(
        &gateway
            .post_form(&url("device_authorization_endpoint"), &[], &asked)
            .await,
        200,
    );
    let page = device["verification_uri_complete"].as_str().unwrap().to_owned();
    let page = browser
        .get(&gateway, page.strip_prefix(&gateway.origin()).unwrap())
        .await;
    let typed = [("user_code", device["user_code"].as_str().unwrap())];
    let seen = browser.fill_in(&gateway, &page, &typed).await;
    let consent = browser.follow(&gateway, seen).await;
    let done = browser.fill_in(&gateway, &consent, &[("decision", "approve")]).await;
    assert!(
        browser
            .follow(&gateway, done)
            .await
            .text()
            .contains("Your device is connected")
    );
    let polled = [
        ("grant_type", DEVICE_CODE),
        ("client_id", id.as_str()),
        ("device_code", device["device_code"].as_str().unwrap()),
    ];
    let tokens = fine(&gateway.post_form(&token_endpoint, &[], &polled).await, 200);
    let called = gateway.call("one", tokens["access_token"].as_str()).await;
    assert_eq!(called.status, 200);

    // every resource has its document
    used.insert("protected_resources".to_owned());
    for resource in metadata["protected_resources"].as_array().unwrap() {
        let mount = resource.as_str().unwrap().strip_prefix(&gateway.origin()).unwrap();
        let document = gateway
            .get(&format!("/.well-known/oauth-protected-resource{mount}"), &[])
            .await;
        assert_eq!(fine(&document, 200)["resource"], *resource);
    }

    // Nothing that looks like a URL was left out.
    let origin = gateway.origin();
    let urls: BTreeSet<String> = metadata
        .as_object()
        .unwrap()
        .iter()
        .filter(|(member, value)| *member != "issuer" && value.to_string().contains(&origin))
        .map(|(member, _)| member.clone())
        .collect();
    assert_eq!(urls, used);
    let grants: BTreeSet<&str> = metadata["grant_types_supported"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for grant in grants {
        let reply = gateway
            .post_form(&token_endpoint, &as_runner, &[("grant_type", grant)])
            .await;
        assert_ne!(reply.error(), "unsupported_grant_type", "{grant}");
    }
}

/// Spec: J1, L10, K19
#[tokio::test]
async fn an_upstream_is_told_that_a_client_acts_for_itself() {
    let gateway = complete().await;
    let resource = gateway.resource("one");
    let asked = [("grant_type", "client_credentials"), ("resource", resource.as_str())];
    let runner = format!("Basic {}", STANDARD.encode(RUNNER));
    let tokens = fine(
        &gateway.post_form("/token", &[("Authorization", &runner)], &asked).await,
        200,
    );
    let called = gateway.call("one", tokens["access_token"].as_str()).await;
    assert_eq!(called.status, 200, "{}", called.text());
    let seen = gateway.upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some("client:ci-runner"));
    assert_eq!(seen.header("x-forwarded-client-id"), Some("ci-runner"));
    assert_eq!(seen.header("x-forwarded-scope"), Some("one:use"));
    for name in [
        "x-forwarded-preferred-username",
        "x-forwarded-email",
        "x-forwarded-groups",
        "authorization",
    ] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(gateway.call("two", tokens["access_token"].as_str()).await.status, 401);
}

/// A client's key, and a proof for one request.
struct Key(SigningKey);

impl Key {
    fn proof(&self, gateway: &Gateway, method: &str, url: &str, token: Option<&str>, nonce: Option<&str>) -> String {
        let public = self.0.public();
        let jwk = json!({"kty": public["kty"], "crv": public["crv"], "x": public["x"], "y": public["y"]});
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk});
        let mut claims = json!({
            "jti": URL_SAFE_NO_PAD.encode(mcpgate::domain::secret::random_bytes::<12>()),
            "htm": method, "htu": url, "iat": gateway.clock.now().as_seconds(),
        });
        if let Some(token) = token {
            claims["ath"] = json!(URL_SAFE_NO_PAD.encode(Sha256::digest(token.as_bytes())));
        }
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        self.0
            .sign_raw(&format!("{}.{}", part(&header), part(&claims)))
            .unwrap()
    }
}

/// Spec: J7, H3, H7, K16, K18
#[tokio::test]
async fn a_bound_token_needs_its_proof_at_every_upstream_request() {
    let gateway = Gateway::start().await;
    gateway.advance(10);
    let key = Key(SigningKey::generate(Algorithm::Es256, Timestamp::from_millis(0)).unwrap());
    let client = register(&gateway, json!({})).await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), None, &[]);
    let code = walk(&gateway, &mut Browser::default(), &target, "ada")
        .await
        .redirected("code")
        .unwrap();
    let proof = key.proof(&gateway, "POST", &format!("{}/token", gateway.origin()), None, None);
    let pairs = [
        ("grant_type", "authorization_code"),
        ("client_id", client.id.as_str()),
        ("code", code.as_str()),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ];
    let tokens = fine(&gateway.post_form("/token", &[("DPoP", &proof)], &pairs).await, 200);
    assert_eq!(tokens["token_type"], "DPoP");
    let access = tokens["access_token"].as_str().unwrap();
    let call = async |scheme: &str, proof: Option<&str>, query: &str| {
        let authorization = format!("{scheme} {access}");
        let mut headers = vec![
            ("Authorization", authorization.as_str()),
            ("Content-Type", "application/json"),
        ];
        headers.extend(proof.map(|proof| ("DPoP", proof)));
        gateway.post(&format!("/one/mcp{query}"), &headers, "{}").await
    };
    let url = gateway.resource("one");
    let good = key.proof(&gateway, "POST", &url, Some(access), None);
    assert_eq!(call("DPoP", Some(&good), "?session=1").await.status, 200);
    let seen = gateway.upstream.last();
    assert_eq!(
        (seen.header("dpop"), seen.header("authorization")),
        (None, None),
        "proofs are credentials"
    );
    let count = gateway.upstream.count();
    let thief = Key(SigningKey::generate(Algorithm::Es256, Timestamp::from_millis(0)).unwrap());
    for (what, scheme, proof, error) in [
        ("as a bearer token", "Bearer", None, "invalid_token"),
        ("without a proof", "DPoP", None, "invalid_dpop_proof"),
        ("the proof again", "DPoP", Some(good.clone()), "invalid_dpop_proof"),
        (
            "a proof of another key",
            "DPoP",
            Some(thief.proof(&gateway, "POST", &url, Some(access), None)),
            "invalid_token",
        ),
        (
            "for another method",
            "DPoP",
            Some(key.proof(&gateway, "GET", &url, Some(access), None)),
            "invalid_dpop_proof",
        ),
        (
            "for another server",
            "DPoP",
            Some(key.proof(&gateway, "POST", &gateway.resource("two"), Some(access), None)),
            "invalid_dpop_proof",
        ),
        (
            "for another token",
            "DPoP",
            Some(key.proof(&gateway, "POST", &url, Some("x"), None)),
            "invalid_dpop_proof",
        ),
        (
            "for no token",
            "DPoP",
            Some(key.proof(&gateway, "POST", &url, None, None)),
            "invalid_dpop_proof",
        ),
    ] {
        let reply = call(scheme, proof.as_deref(), "").await;
        assert_eq!(reply.status, 401, "{what}");
        let challenges: Vec<&str> = reply
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate"))
            .map(|(_, value)| value.as_str())
            .collect();
        assert!(
            challenges[0].starts_with("Bearer "),
            "{what}: clients read the first: {challenges:?}"
        );
        assert!(
            challenges[1].starts_with(&format!("DPoP error=\"{error}\", algs=")),
            "{what}: {challenges:?}"
        );
    }
    // A clock that is off gets a nonce to go on with.
    gateway.advance(400);
    let stale = {
        gateway.clock.now();
        let made = key.proof(&gateway, "POST", &url, Some(access), None);
        gateway.advance(400);
        made
    };
    let reply = call("DPoP", Some(&stale), "").await;
    let nonce = reply.header("dpop-nonce").unwrap().to_owned();
    assert!(
        reply
            .header("access-control-expose-headers")
            .is_none_or(|names| names.contains("DPoP-Nonce"))
    );
    assert_eq!(gateway.upstream.count(), count, "none of these was forwarded");
    let fresh = key.proof(&gateway, "POST", &url, Some(access), Some(&nonce));
    assert_eq!(call("DPoP", Some(&fresh), "").await.status, 200);
    // Another client's unbound token goes on as it did.
    let other = register(&gateway, json!({})).await;
    let code = walk(
        &gateway,
        &mut Browser::default(),
        &authorize_target(&other, Some(&url), None, &[]),
        "bob",
    )
    .await
    .redirected("code")
    .unwrap();
    let plain = fine(&redeem(&gateway, &other, &code, &[]).await, 200);
    assert_eq!(gateway.call("one", plain["access_token"].as_str()).await.status, 200);
}
