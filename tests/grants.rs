//! The grants besides codes and refresh tokens, and what tokens are good for at our own endpoints: rule by rule, with the
//! attacks that each rule is there for.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod support {
    pub(crate) mod endpoints;
    pub(crate) mod memory;
}

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use mcpgate::config::{Config, IssuerKeys, ScopeInfo, TrustedIssuer, UsersBy};
use mcpgate::domain::client::{Client, ClientDisplay, ClientId, ClientOrigin, GrantType, Permissions};
use mcpgate::domain::clock::{Clock as _, Timestamp};
use mcpgate::domain::key::Algorithm;
use mcpgate::domain::secret::SecretHash;
use mcpgate::domain::uri::RedirectUri;
use mcpgate::jose::{KeySet, SigningKey, Token};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::endpoints::{Allowed, FILES, Gateway, NOTES, ORIGIN, REDIRECT, Reply};

const SECRET: &str = "a secret of many letters";
const ROBOT: &str = "robot";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

fn robot(grants: &[GrantType]) -> Client {
    Client {
        id: ClientId::parse(ROBOT).unwrap(),
        origin: ClientOrigin::Configured,
        secret: Some(SecretHash::of(SECRET)),
        registration_token: None,
        auth_method: None,
        keys: None,
        redirect_uris: vec![RedirectUri::parse(REDIRECT, &[]).unwrap()],
        grant_types: grants.to_vec(),
        scope: None,
        name: None,
        display: ClientDisplay::default(),
        id_token_algorithm: None,
        key_bound: false,
        permissions: Permissions::default(),
        created_at: Timestamp::from_millis(0),
    }
}

/// A gateway that knows the robot.
fn gateway(grants: &[GrantType], change: impl FnOnce(&mut Config, &mut Client)) -> Gateway {
    Gateway::with(|config| {
        let mut client = robot(grants);
        change(config, &mut client);
        config.oauth.clients.push(client);
    })
}

fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("{ROBOT}:{SECRET}")))
}

async fn ask(gateway: &Gateway, parameters: &[(&str, &str)]) -> Reply {
    gateway.post("/token", Some(&basic()), parameters).await
}

async fn introspect(gateway: &Gateway, token: &str) -> Value {
    let reply = gateway
        .post("/introspect", Some(&basic()), &[("token", token)])
        .await
        .fine();
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    reply.json()
}

// --- client credentials

/// Spec: J1, L10, A12
#[tokio::test]
async fn a_client_of_the_file_gets_a_token_for_itself() {
    let gateway = gateway(&[GrantType::ClientCredentials], |_, _| {});
    let reply = ask(&gateway, &[("grant_type", "client_credentials"), ("resource", FILES)])
        .await
        .fine();
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let answer = reply.json();
    assert_eq!(
        (
            answer["token_type"].as_str(),
            answer["expires_in"].as_u64(),
            answer["scope"].as_str()
        ),
        (Some("Bearer"), Some(3600), Some("files:read"))
    );
    assert!(answer.get("refresh_token").is_none(), "RFC 6749 §4.4.3");
    assert!(answer.get("id_token").is_none(), "there is no person");
    let seen = introspect(&gateway, answer["access_token"].as_str().unwrap()).await;
    assert_eq!(
        (
            seen["sub"].as_str(),
            seen["client_id"].as_str(),
            seen["aud"].as_str(),
            seen.get("username")
        ),
        (Some("client:robot"), Some(ROBOT), Some(FILES), None)
    );
    assert!(gateway.metric("mcpgate_tokens_issued_total{grant=\"client_credentials\"} 1"));
    gateway.later(3601);
    assert_eq!(
        introspect(&gateway, answer["access_token"].as_str().unwrap()).await,
        json!({"active": false})
    );
}

/// Spec: J1, C15, I4, L23
#[tokio::test]
async fn a_client_gets_no_more_than_the_file_says() {
    let narrow = |config: &mut Config, client: &mut Client| {
        config.scopes.push(ScopeInfo {
            name: "files:secret".parse().unwrap(),
            description: None,
            groups: Some(vec!["admins".to_owned()]),
            implies: mcpgate::domain::scope::Scope::empty(),
        });
        client.permissions.upstreams = Some(vec!["files".to_owned()]);
    };
    let gateway = gateway(&[GrantType::ClientCredentials], narrow);
    let with = async |more: &[(&str, &str)]| {
        let mut all = vec![("grant_type", "client_credentials")];
        all.extend_from_slice(more);
        ask(&gateway, &all).await
    };
    with(&[("resource", NOTES)]).await.refused(400, "invalid_target");
    with(&[("resource", "https://elsewhere.example/mcp")])
        .await
        .refused(400, "invalid_target");
    with(&[]).await.refused(400, "invalid_target");
    for scope in [
        "files:admin",
        "files:secret",
        "openid",
        "profile",
        "offline_access",
        "nothing",
    ] {
        with(&[("resource", FILES), ("scope", scope)])
            .await
            .refused(400, "invalid_scope");
    }
    let reply = with(&[("resource", FILES), ("scope", "files:write")]).await.fine();
    assert_eq!(reply.text_of("scope"), "files:write");
}

/// A scope for groups is a client's only if whoever wrote the file named it.
#[tokio::test]
async fn a_scope_for_groups_has_to_be_named() {
    let gateway = gateway(&[GrantType::ClientCredentials], |_, client| {
        client.scope = Some("files:read files:admin".parse().unwrap());
    });
    let with = |scope| {
        [
            ("grant_type", "client_credentials"),
            ("resource", FILES),
            ("scope", scope),
        ]
    };
    let reply = ask(&gateway, &with("files:admin")).await.fine();
    assert_eq!(reply.text_of("scope"), "files:admin");
    ask(&gateway, &with("files:write")).await.refused(400, "invalid_scope");
}

/// Spec: J1, C15
#[tokio::test]
async fn nobody_else_gets_a_token_for_itself() {
    let other = gateway(&[GrantType::AuthorizationCode], |_, _| {});
    let asked = [("grant_type", "client_credentials"), ("resource", FILES)];
    ask(&other, &asked).await.refused(400, "unauthorized_client");
    // Nobody can register for it.
    let gateway = Gateway::new();
    let document = json!({
        "redirect_uris": [REDIRECT],
        "grant_types": ["authorization_code", "client_credentials", JWT_BEARER, EXCHANGE],
    });
    let answer = gateway.register(&document).await.fine().json();
    assert_eq!(answer["grant_types"], json!(["authorization_code"]));
    let only = json!({"grant_types": ["client_credentials"], "token_endpoint_auth_method": "client_secret_basic"});
    gateway.register(&only).await.refused(400, "invalid_client_metadata");
    // Switched off, there is no such grant.
    let off = self::gateway(&[GrantType::ClientCredentials], |config, _| {
        config.oauth.grants.client_credentials = false;
    });
    ask(&off, &asked).await.refused(400, "unsupported_grant_type");
}

// --- introspection

/// Spec: G4
#[tokio::test]
async fn a_token_is_shown_to_its_client_and_to_its_upstream_alone() {
    let server = |config: &mut Config, client: &mut Client| {
        client.permissions.introspects = vec!["files".to_owned()];
        config.users[0].user.name = Some("Ada Lovelace".to_owned());
    };
    let gateway = gateway(&[GrantType::AuthorizationCode], server);
    let client = gateway.usual_client().await;
    let (access, refresh) = gateway.tokens(&client).await;
    let seen = introspect(&gateway, &access).await;
    let now = gateway.clock.now().as_seconds();
    assert_eq!(
        seen,
        json!({
            "active": true, "scope": "files:read files:write", "client_id": client, "username": "ada", "token_type": "Bearer",
            "exp": now + 3600, "iat": now, "nbf": now, "sub": "ada", "aud": FILES, "iss": ORIGIN,
        })
    );
    assert_eq!(introspect(&gateway, &refresh).await["token_type"], "refresh_token");
    // Another upstream's token is none of its business.
    let code = Allowed {
        resource: NOTES,
        scope: "profile",
        ..Allowed::default()
    };
    let code = gateway.code(&client, code).await;
    let notes = gateway.redeem(&client, &code).await.fine();
    assert_eq!(
        introspect(&gateway, &notes.text_of("access_token")).await,
        json!({"active": false})
    );
    // Nor is what was never issued, has a wrong shape, is over or was taken back.
    for token in ["x", "mgat_", "mgat_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        assert_eq!(introspect(&gateway, token).await, json!({"active": false}), "{token}");
    }
    gateway
        .post("/revoke", None, &[("client_id", &client), ("token", &refresh)])
        .await
        .fine();
    for token in [&access, &refresh] {
        assert_eq!(introspect(&gateway, token).await, json!({"active": false}));
    }
}

/// Spec: G4, F5
#[tokio::test]
async fn nobody_introspects_without_authenticating() {
    let gateway = gateway(&[GrantType::AuthorizationCode], |_, _| {});
    let public = gateway.usual_client().await;
    let (access, _) = gateway.tokens(&public).await;
    let reply = gateway
        .post("/introspect", None, &[("client_id", &public), ("token", &access)])
        .await;
    reply.refused(401, "invalid_client");
    gateway
        .post("/introspect", None, &[("token", &access)])
        .await
        .refused(401, "invalid_client");
    gateway
        .post("/introspect", Some(&basic()), &[])
        .await
        .refused(400, "invalid_request");
    // A client that may look into nobody's tokens sees its own.
    assert_eq!(introspect(&gateway, &access).await, json!({"active": false}));
}

// --- OpenID Connect

async fn signed_in(gateway: &Gateway, client: &str, scope: &str) -> Reply {
    let allowed = Allowed {
        scope,
        ..Allowed::default()
    };
    let code = gateway.code(client, allowed).await;
    gateway.redeem(client, &code).await.fine()
}

async fn published(gateway: &Gateway) -> KeySet {
    KeySet::parse(&gateway.get("/jwks.json").await.fine().json()).unwrap()
}

/// Spec: A11, G5, G6, F21
#[tokio::test]
async fn openid_yields_an_id_token_that_verifies() {
    for (algorithm, name) in [(Algorithm::Rs256, None), (Algorithm::Es256, Some("ES256"))] {
        let gateway = Gateway::new();
        let mut document = json!({
            "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
        });
        if let Some(name) = name {
            document["id_token_signed_response_alg"] = json!(name);
        }
        let answer = gateway.register(&document).await.fine();
        let client = answer.text_of("client_id");
        let tokens = signed_in(&gateway, &client, "files:read openid profile").await;
        let (text, access) = (tokens.text_of("id_token"), tokens.text_of("access_token"));
        let token = Token::parse(&text).unwrap();
        let claims = token.verify(&published(&gateway).await, &[algorithm]).unwrap();
        let hash = URL_SAFE_NO_PAD.encode(&Sha256::digest(access.as_bytes())[..16]);
        let now = gateway.clock.now().as_seconds();
        for (claim, value) in [
            ("iss", json!(ORIGIN)),
            ("sub", json!("ada")),
            ("aud", json!(client)),
            ("iat", json!(now)),
            ("exp", json!(now + 3600)),
            ("at_hash", json!(hash)),
            ("preferred_username", json!("ada")),
            ("groups", json!(["engineering"])),
        ] {
            assert_eq!(claims.get(claim), Some(&value), "{claim}");
        }
        assert!(claims.get("auth_time").unwrap().is_u64());
        assert!(claims.get("email").is_none() && claims.get("nonce").is_none());
        // A refresh tells it again (Core §12.2).
        let again = gateway.refresh(&client, &tokens.text_of("refresh_token")).await.fine();
        let again = again.text_of("id_token");
        let again = Token::parse(&again).unwrap();
        let again = again.verify(&published(&gateway).await, &[algorithm]).unwrap();
        assert_eq!(again.get("auth_time"), claims.get("auth_time"));
    }
}

#[tokio::test]
async fn without_openid_there_is_no_id_token() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    assert!(
        signed_in(&gateway, &client, "files:read profile")
            .await
            .json()
            .get("id_token")
            .is_none()
    );
}

/// Spec: G6
#[tokio::test]
async fn a_key_set_shows_public_halves_alone_and_outlives_a_rotation() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let keys = gateway.get("/jwks.json").await.fine();
    assert_eq!(keys.header("cache-control"), Some("public, max-age=3600"));
    assert_eq!(keys.header("access-control-allow-origin"), Some("*"));
    for key in keys.json()["keys"].as_array().unwrap() {
        for member in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(key.get(member).is_none(), "{member}");
        }
        assert!(key["kid"].is_string() && key["alg"].is_string() && key["use"] == "sig");
    }
    assert_eq!(keys.json()["keys"].as_array().unwrap().len(), 2);
    let old = signed_in(&gateway, &client, "openid").await.text_of("id_token");
    // Ninety days on, the next key is made; the old one signs until that is known everywhere.
    gateway.later(91 * 86_400);
    signed_in(&gateway, &client, "openid").await;
    assert_eq!(
        gateway.get("/jwks.json").await.json()["keys"].as_array().unwrap().len(),
        4
    );
    gateway.later(2 * 86_400);
    let new = signed_in(&gateway, &client, "openid").await.text_of("id_token");
    let both = published(&gateway).await;
    for text in [&old, &new] {
        assert!(Token::parse(text).unwrap().verify(&both, &[Algorithm::Rs256]).is_ok());
    }
    assert_ne!(
        Token::parse(&old).unwrap().key_id(),
        Token::parse(&new).unwrap().key_id()
    );
    gateway.later(3 * 86_400);
    let later = published(&gateway).await;
    assert!(Token::parse(&old).unwrap().verify(&later, &[Algorithm::Rs256]).is_err());
    assert!(Token::parse(&new).unwrap().verify(&later, &[Algorithm::Rs256]).is_ok());
}

/// Spec: G5, H1, H4
#[tokio::test]
async fn userinfo_tells_what_the_scope_allows() {
    let gateway = Gateway::with(|config| config.users[0].user.email = Some("ada@example.com".to_owned()));
    let client = gateway.usual_client().await;
    let userinfo = async |method: Method, authorization: Option<&str>| {
        let mut request = Request::builder().method(method).uri("/userinfo");
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        gateway.send(request.body(Bytes::new()).unwrap()).await
    };
    let token = signed_in(&gateway, &client, "openid email")
        .await
        .text_of("access_token");
    let bearer = format!("Bearer {token}");
    for method in [Method::GET, Method::POST] {
        let reply = userinfo(method, Some(&bearer)).await.fine();
        assert_eq!(
            reply.json(),
            json!({"sub": "ada", "email": "ada@example.com", "email_verified": true})
        );
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    let without = userinfo(Method::GET, None).await;
    assert_eq!(without.status, 401);
    assert_eq!(without.header("www-authenticate"), Some("Bearer realm=\"mcpgate\""));
    for wrong in ["Bearer mgat_x", "Bearer x", &format!("DPoP {token}")] {
        let reply = userinfo(Method::GET, Some(wrong)).await;
        reply.refused(401, "invalid_token");
    }
    userinfo(Method::GET, Some("Bearer a b"))
        .await
        .refused(400, "invalid_request");
    let plain = signed_in(&gateway, &client, "files:read").await.text_of("access_token");
    let reply = userinfo(Method::GET, Some(&format!("Bearer {plain}"))).await;
    reply.refused(403, "insufficient_scope");
    assert_eq!(
        reply.header("www-authenticate"),
        Some("Bearer error=\"insufficient_scope\", scope=\"openid\"")
    );
    // A token in a form is none (RFC 6750 §2.2 is not offered).
    let form = Request::post("/userinfo")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Bytes::from(format!("access_token={token}")))
        .unwrap();
    gateway.send(form).await.refused(400, "invalid_request");
    gateway.later(3601);
    userinfo(Method::GET, Some(&bearer)).await.refused(401, "invalid_token");
}

// --- DPoP

/// A client's key, and the proofs that it makes.
struct Key(SigningKey);

impl Key {
    fn new() -> Self {
        Self(SigningKey::generate(Algorithm::Es256, Timestamp::from_millis(0)).unwrap())
    }

    fn jwk(&self) -> Value {
        let public = self.0.public();
        json!({"kty": public["kty"], "crv": public["crv"], "x": public["x"], "y": public["y"]})
    }

    fn thumbprint(&self) -> String {
        mcpgate::jose::PublicKey::parse(&self.jwk())
            .unwrap()
            .thumbprint()
            .unwrap()
    }

    /// A proof with other claims or another header.
    fn proof(&self, header: &Value, claims: &Value) -> String {
        let mut own = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk()});
        merge(&mut own, header);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        self.0.sign_raw(&format!("{}.{}", part(&own), part(claims))).unwrap()
    }
}

fn merge(into: &mut Value, from: &Value) {
    for (name, value) in from.as_object().unwrap() {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            into[name] = value.clone();
        }
    }
}

fn claims(gateway: &Gateway, change: &Value) -> Value {
    let mut claims = json!({
        "jti": URL_SAFE_NO_PAD.encode(mcpgate::domain::secret::random_bytes::<12>()), "htm": "POST",
        "htu": format!("{ORIGIN}/token"), "iat": gateway.clock.now().as_seconds(),
    });
    merge(&mut claims, change);
    claims
}

async fn token_with(gateway: &Gateway, proofs: &[&str], parameters: &[(&str, &str)]) -> Reply {
    let mut request = Request::post("/token").header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    for proof in proofs {
        request = request.header("dpop", *proof);
    }
    gateway
        .send(request.body(Bytes::from(support::endpoints::form(parameters))).unwrap())
        .await
}

async fn redeem_with(gateway: &Gateway, proofs: &[&str], client: &str, code: &str) -> Reply {
    let parameters = [
        ("grant_type", "authorization_code"),
        ("client_id", client),
        ("code", code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", support::endpoints::VERIFIER),
    ];
    token_with(gateway, proofs, &parameters).await
}

async fn userinfo_with(gateway: &Gateway, scheme: &str, token: &str, proof: Option<&str>) -> Reply {
    let mut request = Request::get("/userinfo").header(AUTHORIZATION, format!("{scheme} {token}"));
    if let Some(proof) = proof {
        request = request.header("dpop", proof);
    }
    gateway.send(request.body(Bytes::new()).unwrap()).await
}

/// Spec: J7
#[tokio::test]
async fn a_token_is_bound_to_the_key_that_was_proved() {
    let gateway = gateway(&[GrantType::AuthorizationCode], |_, client| {
        client.permissions.introspects = vec!["files".to_owned()];
    });
    let client = gateway.usual_client().await;
    let key = Key::new();
    let allowed = Allowed {
        scope: "openid",
        ..Allowed::default()
    };
    let code = gateway.code(&client, allowed).await;
    let proof = key.proof(&json!({}), &claims(&gateway, &json!({})));
    let tokens = redeem_with(&gateway, &[&proof], &client, &code).await.fine();
    assert_eq!(tokens.text_of("token_type"), "DPoP");
    let (access, refresh) = (tokens.text_of("access_token"), tokens.text_of("refresh_token"));
    let seen = introspect(&gateway, &access).await;
    assert_eq!(
        (seen["token_type"].as_str(), seen["cnf"]["jkt"].as_str()),
        (Some("DPoP"), Some(key.thumbprint().as_str()))
    );
    let ath = URL_SAFE_NO_PAD.encode(Sha256::digest(access.as_bytes()));
    let at_userinfo = |change: Value| {
        let mut all = json!({"htm": "GET", "htu": format!("{ORIGIN}/userinfo"), "ath": ath});
        merge(&mut all, &change);
        claims(&gateway, &all)
    };
    let good = key.proof(&json!({}), &at_userinfo(json!({})));
    userinfo_with(&gateway, "DPoP", &access, Some(&good)).await.fine();
    let replayed = userinfo_with(&gateway, "DPoP", &access, Some(&good)).await;
    replayed.refused(401, "invalid_dpop_proof");
    assert!(
        replayed
            .header("www-authenticate")
            .unwrap()
            .starts_with("DPoP error=\"invalid_dpop_proof\"")
    );
    // Without the proof, or with another's, the token is worth nothing.
    userinfo_with(&gateway, "Bearer", &access, None)
        .await
        .refused(401, "invalid_token");
    userinfo_with(&gateway, "DPoP", &access, None)
        .await
        .refused(401, "invalid_dpop_proof");
    let thief = Key::new().proof(&json!({}), &at_userinfo(json!({})));
    userinfo_with(&gateway, "DPoP", &access, Some(&thief))
        .await
        .refused(401, "invalid_token");
    let other_token = key.proof(&json!({}), &at_userinfo(json!({"ath": "x"})));
    userinfo_with(&gateway, "DPoP", &access, Some(&other_token))
        .await
        .refused(401, "invalid_dpop_proof");
    // A public client's refresh token is bound as well.
    let refresh_as = async |proofs: &[&str]| {
        let parameters = [
            ("grant_type", "refresh_token"),
            ("client_id", &client),
            ("refresh_token", &refresh),
        ];
        token_with(&gateway, proofs, &parameters).await
    };
    refresh_as(&[]).await.refused(400, "invalid_grant");
    let thief = Key::new().proof(&json!({}), &claims(&gateway, &json!({})));
    refresh_as(&[&thief]).await.refused(400, "invalid_grant");
    let own = key.proof(&json!({}), &claims(&gateway, &json!({})));
    assert_eq!(refresh_as(&[&own]).await.fine().text_of("token_type"), "DPoP");
    // The retry of a lost answer needs the key again.
    refresh_as(&[]).await.refused(400, "invalid_grant");
    let again = key.proof(&json!({}), &claims(&gateway, &json!({})));
    refresh_as(&[&again]).await.fine();
}

/// Spec: J7, F21
#[tokio::test]
async fn a_proof_that_is_wrong_in_any_way_proves_nothing() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let (key, other) = (Key::new(), Key::new());
    let now = gateway.clock.now().as_seconds();
    let mut with_private = key.jwk();
    with_private["d"] = json!("AAAA");
    let good = || claims(&gateway, &json!({}));
    let none = json!({});
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!(
        "{}.{}.",
        part(&json!({"typ": "dpop+jwt", "alg": "none", "jwk": key.jwk()})),
        part(&good())
    );
    let cases: Vec<(&str, String)> = vec![
        ("not a token", "x".to_owned()),
        ("alg none", unsigned),
        ("HMAC", key.proof(&json!({"alg": "HS256"}), &good())),
        ("another typ", key.proof(&json!({"typ": "JWT"}), &good())),
        ("no typ", key.proof(&json!({"typ": null}), &good())),
        ("another key in it", key.proof(&json!({"jwk": other.jwk()}), &good())),
        ("no key in it", key.proof(&json!({"jwk": null}), &good())),
        ("a private key in it", key.proof(&json!({"jwk": with_private}), &good())),
        (
            "a symmetric key in it",
            key.proof(&json!({"jwk": {"kty": "oct", "k": "AAAA"}}), &good()),
        ),
        ("critical", key.proof(&json!({"crit": ["x"]}), &good())),
        (
            "another method",
            key.proof(&none, &claims(&gateway, &json!({"htm": "GET"}))),
        ),
        ("no method", key.proof(&none, &claims(&gateway, &json!({"htm": null})))),
        (
            "another URL",
            key.proof(&none, &claims(&gateway, &json!({"htu": format!("{ORIGIN}/par")}))),
        ),
        (
            "another host",
            key.proof(&none, &claims(&gateway, &json!({"htu": "https://evil.example/token"}))),
        ),
        ("no URL", key.proof(&none, &claims(&gateway, &json!({"htu": null})))),
        ("no jti", key.proof(&none, &claims(&gateway, &json!({"jti": null})))),
        (
            "a long jti",
            key.proof(&none, &claims(&gateway, &json!({"jti": "x".repeat(257)}))),
        ),
        ("no iat", key.proof(&none, &claims(&gateway, &json!({"iat": null})))),
        (
            "iat as text",
            key.proof(&none, &claims(&gateway, &json!({"iat": now.to_string()}))),
        ),
    ];
    for (what, proof) in cases {
        let code = gateway.code(&client, Allowed::default()).await;
        let reply = redeem_with(&gateway, &[&proof], &client, &code).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["error"].as_str()),
            (400, Some("invalid_dpop_proof")),
            "{what}"
        );
        // The code is not burnt by it.
        gateway.redeem(&client, &code).await.fine();
    }
    let code = gateway.code(&client, Allowed::default()).await;
    let twice = [key.proof(&none, &good()), key.proof(&none, &good())];
    let reply = redeem_with(&gateway, &[&twice[0], &twice[1]], &client, &code).await;
    reply.refused(400, "invalid_dpop_proof");
}

/// Spec: J7
#[tokio::test]
async fn a_proof_of_another_time_needs_a_nonce() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let key = Key::new();
    let now = gateway.clock.now().as_seconds();
    let code = gateway.code(&client, Allowed::default()).await;
    // Too old, too new, or from before the gateway started: whether it was used before, nobody knows.
    for made in [now - 301, now + 301, 1_799_999_000] {
        let proof = key.proof(&json!({}), &claims(&gateway, &json!({"iat": made})));
        let reply = redeem_with(&gateway, &[&proof], &client, &code).await;
        reply.refused(400, "use_dpop_nonce");
        let nonce = reply.header("dpop-nonce").unwrap().to_owned();
        assert!(
            reply
                .header("access-control-expose-headers")
                .unwrap()
                .contains("DPoP-Nonce")
        );
        let wrong = key.proof(&json!({}), &claims(&gateway, &json!({"iat": made, "nonce": "x"})));
        redeem_with(&gateway, &[&wrong], &client, &code)
            .await
            .refused(400, "use_dpop_nonce");
        let stale = key.proof(&json!({}), &claims(&gateway, &json!({"iat": made, "nonce": nonce})));
        let fresh = gateway.code(&client, Allowed::default()).await;
        redeem_with(&gateway, &[&stale], &client, &fresh).await.fine();
    }
    let nonce = gateway.at.proofs.nonce(gateway.clock.now());
    gateway.later(601);
    let old = key.proof(&json!({}), &claims(&gateway, &json!({"nonce": nonce})));
    let code = gateway.code(&client, Allowed::default()).await;
    redeem_with(&gateway, &[&old], &client, &code)
        .await
        .refused(400, "use_dpop_nonce");
}

/// Spec: J7
#[tokio::test]
async fn a_client_all_of_whose_tokens_are_bound_has_to_prove() {
    let gateway = Gateway::new();
    let document = json!({
        "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none", "dpop_bound_access_tokens": true,
    });
    let answer = gateway.register(&document).await.fine();
    assert_eq!(answer.json()["dpop_bound_access_tokens"], true);
    let client = answer.text_of("client_id");
    let code = gateway.code(&client, Allowed::default()).await;
    redeem_with(&gateway, &[], &client, &code)
        .await
        .refused(400, "invalid_dpop_proof");
    let proof = Key::new().proof(&json!({}), &claims(&gateway, &json!({})));
    redeem_with(&gateway, &[&proof], &client, &code).await.fine();
}

// --- token exchange

fn exchanger(introspects: &[&str]) -> Gateway {
    gateway(&[GrantType::TokenExchange], |config, client| {
        config.oauth.grants.token_exchange = true;
        client.permissions.introspects = introspects.iter().map(|name| (*name).to_owned()).collect();
    })
}

async fn exchange(gateway: &Gateway, token: &str, more: &[(&str, &str)]) -> Reply {
    let mut all = vec![
        ("grant_type", EXCHANGE),
        ("subject_token", token),
        ("subject_token_type", ACCESS_TOKEN),
        ("resource", NOTES),
    ];
    all.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    all.extend(more.iter().filter(|(_, value)| !value.is_empty()));
    ask(gateway, &all).await
}

/// Spec: J5
#[tokio::test]
async fn a_token_is_exchanged_for_less() {
    let gateway = exchanger(&["files"]);
    let client = gateway.usual_client().await;
    let tokens = signed_in(&gateway, &client, "files:read profile").await;
    let access = tokens.text_of("access_token");
    gateway.later(600);
    let reply = exchange(&gateway, &access, &[]).await.fine();
    let answer = reply.json();
    // What one upstream calls files:read is nothing at another.
    assert_eq!(
        (
            answer["issued_token_type"].as_str(),
            answer["scope"].as_str(),
            answer["expires_in"].as_u64()
        ),
        (Some(ACCESS_TOKEN), Some("profile"), Some(3000))
    );
    assert!(answer.get("refresh_token").is_none());
    let live = gateway.live(answer["access_token"].as_str().unwrap()).await.unwrap();
    assert_eq!(
        (
            live.grant.subject.as_str(),
            live.grant.client_id.as_str(),
            live.grant.resource.as_str()
        ),
        ("ada", ROBOT, NOTES)
    );
    // The same upstream, with less.
    let same = exchange(&gateway, &access, &[("resource", FILES), ("scope", "files:read")])
        .await
        .fine();
    assert_eq!(same.text_of("scope"), "files:read");
    for (more, error) in [
        (&[("scope", "files:read")][..], "invalid_scope"),
        (&[("resource", FILES), ("scope", "files:write")], "invalid_scope"),
        (&[("resource", "https://elsewhere.example/")], "invalid_target"),
        (
            &[("subject_token_type", "urn:ietf:params:oauth:token-type:jwt")],
            "invalid_request",
        ),
        (&[("subject_token_type", "")], "invalid_request"),
        (
            &[("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")],
            "invalid_request",
        ),
        (&[("actor_token", "x")], "invalid_request"),
        (&[("subject_token", "mgat_x")], "invalid_request"),
    ] {
        exchange(&gateway, &access, more).await.refused(400, error);
    }
    gateway
        .post("/revoke", None, &[("client_id", &client), ("token", &access)])
        .await
        .fine();
    exchange(&gateway, &access, &[]).await.refused(400, "invalid_request");
}

/// Spec: J5
#[tokio::test]
async fn a_stolen_or_bound_token_is_not_exchanged() {
    let gateway = exchanger(&[]);
    let client = gateway.usual_client().await;
    let (access, _) = gateway.tokens(&client).await;
    exchange(&gateway, &access, &[]).await.refused(400, "invalid_request");
    let gateway = exchanger(&["files"]);
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    let proof = Key::new().proof(&json!({}), &claims(&gateway, &json!({})));
    let bound = redeem_with(&gateway, &[&proof], &client, &code).await.fine();
    exchange(&gateway, &bound.text_of("access_token"), &[])
        .await
        .refused(400, "invalid_request");
    // A public client never exchanges, whatever it calls itself.
    let parameters = [("grant_type", EXCHANGE), ("client_id", client.as_str())];
    gateway.token(&parameters).await.refused(400, "unauthorized_client");
}

// --- ID-JAG

const ISSUER: &str = "https://idp.example";

struct Provider {
    key: SigningKey,
    gateway: Gateway,
}

impl Provider {
    fn new(users_by: UsersBy) -> Self {
        let key = SigningKey::generate(Algorithm::Es256, Timestamp::from_millis(0)).unwrap();
        let keys = json!({"keys": [key.public()]});
        let gateway = gateway(&[GrantType::JwtBearer], |config, _| {
            config.users[0].user.email = Some("ada@example.com".to_owned());
            config.oauth.trusted_issuers.push(TrustedIssuer {
                issuer: ISSUER.to_owned(),
                keys: IssuerKeys::Inline(keys),
                users_by,
            });
        });
        Self { key, gateway }
    }

    fn claims(&self, change: &Value) -> Value {
        let now = self.gateway.clock.now().as_seconds();
        let mut claims = json!({
            "iss": ISSUER, "sub": "u-1", "aud": ORIGIN, "client_id": ROBOT, "resource": FILES,
            "scope": "files:read files:write", "email": "ada@example.com", "iat": now, "exp": now + 300,
            "jti": URL_SAFE_NO_PAD.encode(mcpgate::domain::secret::random_bytes::<12>()),
        });
        merge(&mut claims, change);
        claims
    }

    fn assertion(&self, change: &Value) -> String {
        self.key.sign("oauth-id-jag+jwt", &self.claims(change)).unwrap()
    }

    async fn present(&self, assertion: &str, more: &[(&str, &str)]) -> Reply {
        let mut all = vec![("grant_type", JWT_BEARER), ("assertion", assertion)];
        all.extend_from_slice(more);
        ask(&self.gateway, &all).await
    }
}

/// Spec: J3, A18
#[tokio::test]
async fn an_identity_assertion_stands_for_a_sign_in() {
    let provider = Provider::new(UsersBy::Email);
    let reply = provider
        .present(&provider.assertion(&json!({})), &[("scope", "files:read")])
        .await
        .fine();
    let answer = reply.json();
    assert_eq!(answer["scope"], "files:read");
    assert!(answer.get("refresh_token").is_none() && answer.get("id_token").is_none());
    let live = provider
        .gateway
        .live(answer["access_token"].as_str().unwrap())
        .await
        .unwrap();
    assert_eq!(
        (live.grant.subject.as_str(), live.grant.resource.as_str()),
        ("ada", FILES)
    );
    // By the subject, where the issuer uses our usernames.
    let by_subject = Provider::new(UsersBy::Subject);
    by_subject
        .present(&by_subject.assertion(&json!({"sub": "ada", "email": null})), &[])
        .await
        .fine();
    by_subject
        .present(&by_subject.assertion(&json!({"sub": "u-1"})), &[])
        .await
        .refused(400, "invalid_grant");
    // A list of one audience is one audience.
    provider
        .present(&provider.assertion(&json!({"aud": [ORIGIN]})), &[])
        .await
        .fine();
}

/// Spec: J3, I5
#[tokio::test]
async fn an_assertion_that_is_wrong_in_any_way_is_refused() {
    let provider = Provider::new(UsersBy::Email);
    let now = provider.gateway.clock.now().as_seconds();
    for change in [
        json!({"iss": "https://evil.example"}),
        json!({"iss": null}),
        json!({"aud": "https://other.example"}),
        json!({"aud": format!("{ORIGIN}/")}),
        json!({"aud": format!("{ORIGIN}/token")}),
        json!({"aud": [ORIGIN, "https://other.example"]}),
        json!({"aud": null}),
        json!({"client_id": "another"}),
        json!({"client_id": null}),
        json!({"resource": "https://other.example/mcp"}),
        json!({"resource": ORIGIN}),
        json!({"resource": null}),
        json!({"email": "eve@example.com"}),
        json!({"email": null}),
        json!({"email": ""}),
        json!({"email_verified": false}),
        json!({"exp": now - 61}),
        json!({"exp": now + 7200}),
        json!({"exp": null}),
        json!({"nbf": now + 120}),
        json!({"iat": now + 120}),
        json!({"jti": null}),
        json!({"scope": "a\"b"}),
    ] {
        let reply = provider.present(&provider.assertion(&change), &[]).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["error"].as_str()),
            (400, Some("invalid_grant")),
            "{change}: {}",
            reply.text
        );
    }
    // Another kind of token, another key, and the same one twice.
    let id_token = provider.key.sign("JWT", &provider.claims(&json!({}))).unwrap();
    provider.present(&id_token, &[]).await.refused(400, "invalid_grant");
    let stranger = Provider::new(UsersBy::Email).assertion(&json!({}));
    provider.present(&stranger, &[]).await.refused(400, "invalid_grant");
    let once = provider.assertion(&json!({}));
    provider.present(&once, &[]).await.fine();
    provider.present(&once, &[]).await.refused(400, "invalid_grant");
    provider.present("x", &[]).await.refused(400, "invalid_grant");
    // More than was asserted, for another resource than was asserted.
    let more = provider.assertion(&json!({"scope": "files:read"}));
    provider
        .present(&more, &[("scope", "files:write")])
        .await
        .refused(400, "invalid_scope");
    let elsewhere = provider.assertion(&json!({}));
    provider
        .present(&elsewhere, &[("resource", NOTES)])
        .await
        .refused(400, "invalid_target");
    // An assertion is no access token.
    let reply = userinfo_with(&provider.gateway, "Bearer", &provider.assertion(&json!({})), None).await;
    reply.refused(401, "invalid_token");
}
