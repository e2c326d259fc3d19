//! Clients that sign to authenticate (`private_key_jwt`), and everything that is not their signature.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod support {
    pub(crate) mod endpoints;
    pub(crate) mod memory;
    pub(crate) mod site;
}

use std::sync::Arc;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use mcpgate::domain::client::{
    Client, ClientAuthMethod, ClientId, ClientKeys, ClientOrigin, GrantType, KeySource, Permissions,
};
use mcpgate::domain::clock::Timestamp;
use mcpgate::domain::key::{Algorithm, KeyRecord, PrivateKey};
use mcpgate::domain::uri::{HostPattern, RedirectUri};
use mcpgate::fetch::Network;
use mcpgate::jose::SigningKey;
use serde_json::{Value, json};
use sha2::Sha256;
use support::endpoints::{Gateway, REDIRECT, Reply, VERIFIER, config};
use support::memory::Memory;
use support::site::{Names, Page, Site};

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const CHATGPT: &str = "https://chatgpt.com/oauth/abc123/client.json";
const ISSUER: &str = "https://gw.example";

static RSA: LazyLock<SigningKey> = LazyLock::new(|| key(Algorithm::Rs256));
static EC: LazyLock<SigningKey> = LazyLock::new(|| key(Algorithm::Es256));
static OTHER: LazyLock<SigningKey> = LazyLock::new(|| key(Algorithm::Es256));

fn key(algorithm: Algorithm) -> SigningKey {
    SigningKey::generate(algorithm, Timestamp::from_millis(0)).unwrap()
}

/// The same RSA key for PSS.
fn with_pss(key: &SigningKey) -> SigningKey {
    let record = KeyRecord {
        algorithm: Algorithm::Ps256,
        private: PrivateKey::new(key.record().private.expose().to_vec()),
        ..key.record().clone()
    };
    SigningKey::from_record(record).unwrap()
}

/// A public key that says nothing of algorithms, as most do.
fn bare(key: &SigningKey) -> Value {
    let mut public = key.public();
    public.as_object_mut().unwrap().remove("alg");
    public
}

struct World {
    gateway: Gateway,
    site: Site,
}

impl World {
    async fn new() -> Self {
        let site = Site::start().await;
        let mut config = config();
        config.outbound_roots = vec![site.root.clone()];
        let hosts = vec![HostPattern::parse("*").unwrap()];
        let inline = json!({ "keys": [bare(&EC), bare(&RSA)] }).to_string();
        config.oauth.clients.push(Client {
            id: ClientId::parse("signer").unwrap(),
            origin: ClientOrigin::Configured,
            registration_token: None,
            secret: None,
            auth_method: Some(ClientAuthMethod::PrivateKeyJwt),
            keys: Some(ClientKeys {
                source: KeySource::Inline(inline),
                algorithm: None,
            }),
            redirect_uris: vec![RedirectUri::parse(REDIRECT, &hosts).unwrap()],
            grant_types: vec![
                GrantType::AuthorizationCode,
                GrantType::RefreshToken,
                GrantType::ClientCredentials,
            ],
            scope: None,
            name: None,
            display: mcpgate::domain::client::ClientDisplay::default(),
            id_token_algorithm: None,
            key_bound: false,
            permissions: Permissions::default(),
            created_at: Timestamp::from_millis(0),
        });
        let network: Arc<dyn Network> = Names::of(&site);
        let gateway = Gateway::in_network(config, Arc::new(Memory::default()), &network);
        let world = Self { gateway, site };
        world.document(&json!(["private_key_jwt"]));
        world.publish(&[RSA.public()]);
        world
    }

    /// ChatGPT's document, with these methods listed.
    fn document(&self, methods: &Value) {
        self.site.put_json(
            "chatgpt.com/oauth/abc123/client.json",
            &json!({
                "client_id": CHATGPT,
                "client_name": "ChatGPT",
                "redirect_uris": [REDIRECT],
                "grant_types": ["authorization_code", "refresh_token"],
                "response_types": ["code"],
                "token_endpoint_auth_method": "private_key_jwt",
                "token_endpoint_auth_methods_supported": methods,
                "token_endpoint_auth_signing_alg": "RS256",
                "jwks_uri": "https://chatgpt.com/oauth/jwks.json",
            }),
        );
    }

    fn publish(&self, keys: &[Value]) {
        self.site
            .put_json("chatgpt.com/oauth/jwks.json", &json!({ "keys": keys }));
    }

    fn now(&self) -> u64 {
        self.gateway.at.now().as_seconds()
    }

    /// The claims of a good assertion, changed like this; `null` takes a claim away.
    fn claims(&self, client: &str, changes: &[(&str, Value)]) -> Value {
        let id = mcpgate::domain::client::ClientId::generate();
        let mut claims = json!({
            "iss": client, "sub": client, "aud": ISSUER, "jti": id.as_str(),
            "iat": self.now(), "exp": self.now() + 300,
        });
        for (claim, value) in changes {
            claims[claim] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        claims
    }

    fn assertion(&self, key: &SigningKey, client: &str) -> String {
        key.sign("JWT", &self.claims(client, &[])).unwrap()
    }

    /// Redeems a fresh code with this assertion.
    async fn redeem(&self, client: &str, assertion: &str) -> Reply {
        let code = self.gateway.code(client, support::endpoints::Allowed::default()).await;
        self.gateway
            .token(&[
                ("grant_type", "authorization_code"),
                ("code", &code),
                ("redirect_uri", REDIRECT),
                ("code_verifier", VERIFIER),
                ("client_assertion_type", TYPE),
                ("client_assertion", assertion),
            ])
            .await
    }

    /// Whether an assertion says who somebody is: a token that is not there can be revoked by its client alone.
    async fn revoke(&self, more: &[(&str, &str)]) -> Reply {
        let usual = [("token", "mgat_nothing")];
        self.gateway.post("/revoke", None, &[&usual[..], more].concat()).await
    }

    async fn presents(&self, assertion: &str) -> Reply {
        self.revoke(&[("client_assertion_type", TYPE), ("client_assertion", assertion)])
            .await
    }
}

/// A token with any header at all.
fn forged(header: &Value, claims: &Value, sign: impl Fn(&str) -> Vec<u8>) -> String {
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = URL_SAFE_NO_PAD.encode(sign(&message));
    format!("{message}.{signature}")
}

/// Spec: J2, C22, F5
/// Plays: 2025-11-25, ChatGPT (document, `private_key_jwt`)
#[tokio::test]
async fn a_client_with_a_document_signs_with_its_published_key() {
    let world = World::new().await;
    let reply = world.redeem(CHATGPT, &world.assertion(&RSA, CHATGPT)).await.fine();
    let refresh = reply.text_of("refresh_token");
    let assertion = world.assertion(&RSA, CHATGPT);
    let signed = [("client_assertion_type", TYPE), ("client_assertion", &assertion)];
    let reply = world.gateway.refresh_with(CHATGPT, &refresh, &signed).await.fine();
    assert!(reply.json()["access_token"].is_string());
    assert_eq!(world.site.count("/oauth/jwks.json"), 1);
    // Nothing less will do.
    let refresh = reply.text_of("refresh_token");
    world
        .gateway
        .refresh(CHATGPT, &refresh)
        .await
        .refused(401, "invalid_client");
    let secret = [("client_secret", "a guess at a secret")];
    world
        .gateway
        .refresh_with(CHATGPT, &refresh, &secret)
        .await
        .refused(401, "invalid_client");
    // RS256 is what its document says.
    world
        .presents(&world.assertion(&with_pss(&RSA), CHATGPT))
        .await
        .refused(401, "invalid_client");
}

/// Spec: C22
#[tokio::test]
async fn a_client_that_lists_none_besides_need_not_sign() {
    let world = World::new().await;
    world.document(&json!(["none", "private_key_jwt"]));
    let (_, refresh) = world.gateway.tokens(CHATGPT).await;
    let assertion = world.assertion(&RSA, CHATGPT);
    let signed = [("client_assertion_type", TYPE), ("client_assertion", &assertion)];
    world.gateway.refresh_with(CHATGPT, &refresh, &signed).await.fine();
    // But if it does, it counts.
    let wrong = world.assertion(&OTHER, CHATGPT);
    world.presents(&wrong).await.refused(401, "invalid_client");
}

/// Spec: J2, C28
#[tokio::test]
async fn configured_clients_sign_with_any_algorithm_that_is_honoured() {
    let world = World::new().await;
    for key in [&*EC, &*RSA, &with_pss(&RSA)] {
        world.redeem("signer", &world.assertion(key, "signer")).await.fine();
    }
    for (claim, value) in [
        ("aud", json!([ISSUER])),
        ("aud", json!("https://gw.example/token")),
        ("iat", Value::Null),
        ("nbf", json!(world.now())),
        ("exp", json!(world.now() + 3600)),
        ("exp", json!(world.now() - 30)),
        ("iat", json!(world.now() + 30)),
    ] {
        let claims = world.claims("signer", &[(claim, value)]);
        world.presents(&EC.sign("JWT", &claims).unwrap()).await.fine();
    }
    for media_type in [
        "jwt",
        "client-authentication+jwt",
        "application/client-authentication+jwt",
    ] {
        let claims = world.claims("signer", &[]);
        world.presents(&EC.sign(media_type, &claims).unwrap()).await.fine();
    }
}

/// Spec: J2, C1, C28
#[tokio::test]
async fn a_registered_client_signs_with_the_keys_that_it_handed_in() {
    let world = World::new().await;
    let document = |member: &str, keys: Value| {
        let mut document = json!({
            "redirect_uris": [REDIRECT],
            "token_endpoint_auth_method": "private_key_jwt",
            "grant_types": ["authorization_code", "refresh_token"],
        });
        document[member] = keys;
        document
    };
    for (member, keys, key) in [
        ("jwks", json!({ "keys": [EC.public()] }), &*EC),
        ("jwks_uri", json!("https://chatgpt.com/oauth/jwks.json"), &*RSA),
    ] {
        let reply = world.gateway.register(&document(member, keys.clone())).await.fine();
        assert_eq!(reply.text_of("token_endpoint_auth_method"), "private_key_jwt");
        assert_eq!(
            (&reply.json()[member], reply.json().get("client_secret")),
            (&keys, None)
        );
        let id = reply.text_of("client_id");
        world.redeem(&id, &world.assertion(key, &id)).await.fine();
        world
            .presents(&world.assertion(&OTHER, &id))
            .await
            .refused(401, "invalid_client");
        world.revoke(&[("client_id", &id)]).await.refused(401, "invalid_client");
    }
    for (member, keys) in [
        ("jwks", json!({ "keys": [{ "kty": "oct", "k": "AAAA" }] })),
        (
            "jwks",
            json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": "a", "y": "b", "d": "c" }] }),
        ),
        ("jwks", json!([])),
        ("jwks_uri", json!("http://chatgpt.com/oauth/jwks.json")),
        ("jwks_uri", json!("file:///etc/passwd")),
    ] {
        let reply = world.gateway.register(&document(member, keys)).await;
        reply.refused(400, "invalid_client_metadata");
    }
    let both = document("jwks_uri", json!("https://chatgpt.com/oauth/jwks.json"));
    let both = {
        let mut both = both;
        both["jwks"] = json!({ "keys": [EC.public()] });
        both
    };
    world
        .gateway
        .register(&both)
        .await
        .refused(400, "invalid_client_metadata");
    // Without keys it gets another method, as with any that we lack.
    let reply = world
        .gateway
        .register(&document("client_name", json!("x")))
        .await
        .fine();
    assert_eq!(reply.text_of("token_endpoint_auth_method"), "none");
}

/// Spec: J2, L16, C18
#[tokio::test]
async fn keys_are_not_fetched_from_inside() {
    let world = World::new().await;
    for address in [
        "https://127.0.0.1/jwks.json",
        "https://[::1]/jwks.json",
        "https://169.254.169.254/latest",
        "https://nowhere.example/jwks.json",
    ] {
        let document = json!({
            "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": address,
        });
        let id = world.gateway.register(&document).await.fine().text_of("client_id");
        world
            .presents(&world.assertion(&EC, &id))
            .await
            .refused(401, "invalid_client");
    }
    assert_eq!(world.site.requests().len(), 0);
}

/// Spec: J2, F21
#[tokio::test]
async fn whatever_is_not_the_client_s_signature_is_refused() {
    let world = World::new().await;
    let claims = world.claims("signer", &[]);
    let header = |algorithm: &str| json!({ "alg": algorithm, "typ": "JWT" });
    let hmac = |secret: Vec<u8>| {
        move |message: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
            mac.update(message.as_bytes());
            mac.finalize().into_bytes().to_vec()
        }
    };
    let nothing = |_: &str| Vec::new();
    let public = RSA.public();
    let modulus = URL_SAFE_NO_PAD.decode(public["n"].as_str().unwrap()).unwrap();
    let good = EC.sign("JWT", &claims).unwrap();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, _) = message.split_once('.').unwrap();
    let other_claims = URL_SAFE_NO_PAD.encode(world.claims("signer", &[("admin", json!(true))]).to_string());
    // A key in the header signs for whoever put it there.
    let mut carried = header("ES256");
    carried["jwk"] = OTHER.public();
    let signed_by_other = |message: &str| {
        let record = OTHER.record();
        let key = raw_signature(record, message);
        URL_SAFE_NO_PAD.decode(key).unwrap()
    };
    let mut pointing = header("ES256");
    pointing["jku"] = json!("https://chatgpt.com/oauth/jwks.json");
    let mut critical = header("ES256");
    critical["crit"] = json!(["exp"]);
    let tokens = [
        forged(&header("none"), &claims, nothing),
        forged(&header("None"), &claims, nothing),
        forged(&header("nOnE"), &claims, nothing),
        forged(&json!({ "typ": "JWT" }), &claims, nothing),
        format!("{message}."),
        message.to_owned(),
        format!("{head}.{other_claims}.{signature}"),
        // The public key as an HMAC secret, in whatever form somebody might have it.
        forged(&header("HS256"), &claims, hmac(public.to_string().into_bytes())),
        forged(&header("HS256"), &claims, hmac(modulus)),
        forged(&header("HS256"), &claims, hmac(Vec::from(b"a secret"))),
        forged(&header("RS256"), &claims, hmac(public.to_string().into_bytes())),
        // Another client's key, and its own key under another algorithm.
        OTHER.sign("JWT", &claims).unwrap(),
        forged(&carried, &claims, signed_by_other),
        forged(&pointing, &claims, signed_by_other),
        forged(&critical, &claims, signed_by_other),
        forged(&header("RS384"), &claims, nothing),
        // Tokens of other kinds.
        EC.sign("at+jwt", &claims).unwrap(),
        EC.sign("oauth-id-jag+jwt", &claims).unwrap(),
        EC.sign("dpop+jwt", &claims).unwrap(),
        // No tokens at all.
        "x".to_owned(),
        "..".to_owned(),
        "a.b.c.d".to_owned(),
        "x".repeat(4000),
        STANDARD.encode(good.as_bytes()),
    ];
    for token in tokens {
        world.presents(&token).await.refused(401, "invalid_client");
    }
    world.presents(&good).await.fine();
}

/// Signs with a key on record as the library does, for headers that our own signer does not make.
fn raw_signature(record: &KeyRecord, message: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_ec_der(record.private.expose());
    jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::ES256).unwrap()
}

/// Spec: J2, L20
#[tokio::test]
async fn whatever_an_assertion_should_not_say_is_refused() {
    let world = World::new().await;
    let now = world.now();
    for changes in [
        &[("iss", json!("somebody"))][..],
        &[("iss", json!(ISSUER))],
        &[("iss", Value::Null)],
        &[("sub", json!("somebody"))],
        &[("sub", Value::Null)],
        &[("iss", json!(CHATGPT)), ("sub", json!(CHATGPT))],
        &[("aud", json!("https://evil.example"))],
        &[("aud", json!("https://gw.example/"))],
        &[("aud", json!("https://gw.example/authorize"))],
        &[("aud", json!("https://gw.example/files/mcp"))],
        &[("aud", json!([ISSUER, "https://evil.example"]))],
        &[("aud", json!([ISSUER, "https://gw.example/token"]))],
        &[("aud", json!([]))],
        &[("aud", Value::Null)],
        &[("exp", Value::Null)],
        &[("exp", json!(now - 61))],
        &[("exp", json!(now + 3700))],
        &[("exp", json!("soon"))],
        &[("nbf", json!(now + 120))],
        &[("iat", json!(now + 120))],
        &[("jti", Value::Null)],
        &[("jti", json!(""))],
        &[("jti", json!(7))],
        &[("jti", json!("x".repeat(513)))],
    ] {
        let claims = world.claims("signer", changes);
        let reply = world.presents(&EC.sign("JWT", &claims).unwrap()).await;
        reply.refused(401, "invalid_client");
        assert!(!reply.text.contains("evil.example"), "{}", reply.text);
    }
}

/// Spec: F5
#[tokio::test]
async fn a_client_authenticates_in_one_way_at_a_time() {
    let world = World::new().await;
    let assertion = world.assertion(&EC, "signer");
    let signed = [
        ("client_assertion_type", TYPE),
        ("client_assertion", assertion.as_str()),
    ];
    let secret = [&signed[..], &[("client_secret", "a secret")]].concat();
    world.revoke(&secret).await.refused(400, "invalid_request");
    let basic = format!("Basic {}", STANDARD.encode("signer:a secret"));
    let form = [&signed[..], &[("token", "x")]].concat();
    let reply = world.gateway.post("/revoke", Some(&basic), &form).await;
    reply.refused(400, "invalid_request");
    world.revoke(&signed[..1]).await.refused(400, "invalid_request");
    world.revoke(&signed[1..]).await.refused(400, "invalid_request");
    let saml = [
        (
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:saml2-bearer",
        ),
        ("client_assertion", &assertion),
    ];
    world.revoke(&saml).await.refused(400, "invalid_request");
    // client_id need not be there, and is not another's.
    let other = [&signed[..], &[("client_id", CHATGPT)]].concat();
    world.revoke(&other).await.refused(401, "invalid_client");
    let unknown = [&signed[..], &[("client_id", "nobody")]].concat();
    world.revoke(&unknown).await.refused(401, "invalid_client");
    let own = [&signed[..], &[("client_id", "signer")]].concat();
    world.revoke(&own).await.fine();
    // A client that has no keys cannot begin to sign.
    let id = world.gateway.usual_client().await;
    world
        .presents(&world.assertion(&EC, &id))
        .await
        .refused(401, "invalid_client");
    world
        .presents(&world.assertion(&EC, "nobody"))
        .await
        .refused(401, "invalid_client");
}

/// Spec: J2
#[tokio::test]
async fn an_assertion_counts_once() {
    let world = Arc::new(World::new().await);
    let assertion = world.assertion(&EC, "signer");
    world.presents(&assertion).await.fine();
    world.presents(&assertion).await.refused(401, "invalid_client");
    world.gateway.later(299);
    world.presents(&assertion).await.refused(401, "invalid_client");
    // Of many at once, one.
    let assertion = Arc::new(world.assertion(&EC, "signer"));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (world, assertion) = (Arc::clone(&world), Arc::clone(&assertion));
        tasks.spawn(async move { world.presents(&assertion).await.status.as_u16() });
    }
    let mut statuses = tasks.join_all().await;
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (200, &[401; 19][..]));
    // What one client used is free for another, and its signature has to hold before it is used up.
    let claims = |client: &str| world.claims(client, &[("jti", json!("the same"))]);
    world
        .presents(&OTHER.sign("JWT", &claims("signer")).unwrap())
        .await
        .refused(401, "invalid_client");
    world.presents(&RSA.sign("JWT", &claims(CHATGPT)).unwrap()).await.fine();
    world.presents(&EC.sign("JWT", &claims("signer")).unwrap()).await.fine();
}

/// Spec: J2, C18
#[tokio::test]
async fn a_changed_key_is_found_and_nobody_can_make_us_look_for_it_all_the_time() {
    let world = World::new().await;
    let page = json!({ "keys": [RSA.public()] });
    let page = Page::json(&page).header("cache-control", "max-age=86400");
    world.site.put("chatgpt.com/oauth/jwks.json", page);
    let path = "/oauth/jwks.json";
    world.presents(&world.assertion(&RSA, CHATGPT)).await.fine();
    let next = key(Algorithm::Rs256);
    world.publish(&[RSA.public(), next.public()]);
    // Within a minute of the last look there is no other.
    world
        .presents(&world.assertion(&next, CHATGPT))
        .await
        .refused(401, "invalid_client");
    assert_eq!(world.site.count(path), 1);
    world.gateway.later(60);
    world.presents(&world.assertion(&next, CHATGPT)).await.fine();
    assert_eq!(world.site.count(path), 2);
    world.presents(&world.assertion(&RSA, CHATGPT)).await.fine();
    for _ in 0..20 {
        world
            .presents(&world.assertion(&OTHER, CHATGPT))
            .await
            .refused(401, "invalid_client");
    }
    assert_eq!(world.site.count(path), 2);
    // A key that was taken back is gone with the next look.
    world.publish(&[next.public()]);
    world.gateway.later(301);
    world
        .presents(&world.assertion(&RSA, CHATGPT))
        .await
        .refused(401, "invalid_client");
}

/// Spec: J2
#[tokio::test]
async fn keys_that_cannot_be_had_are_no_open_door() {
    let world = World::new().await;
    for page in [
        Page::typed("text/html", "<p>").status(404),
        Page::json(&json!({ "keys": [] })),
        Page::json(&json!({ "keys": [{ "kty": "oct", "k": "AAAA" }] })),
        Page::typed("application/json", " ".repeat((64 << 10) + 1)),
        Page::json(&json!({ "keys": [RSA.public()] })).status(302),
    ] {
        world.site.put("chatgpt.com/oauth/jwks.json", page);
        world
            .presents(&world.assertion(&RSA, CHATGPT))
            .await
            .refused(401, "invalid_client");
        world.gateway.later(61);
    }
    // More than a document may have, and less than 64 KiB.
    let mut many: Vec<Value> = (0..20).map(|_| OTHER.public()).collect();
    for key in &mut many {
        key["x5c"] = json!(["A".repeat(1000)]);
    }
    many.push(RSA.public());
    world.publish(&many);
    world.presents(&world.assertion(&RSA, CHATGPT)).await.fine();
}

/// Spec: A6
#[tokio::test]
async fn discovery_says_how_to_sign() {
    let world = World::new().await;
    let metadata = world
        .gateway
        .get("/.well-known/oauth-authorization-server")
        .await
        .fine()
        .json();
    for endpoint in ["token", "revocation"] {
        let methods = metadata[format!("{endpoint}_endpoint_auth_methods_supported")]
            .as_array()
            .unwrap();
        assert!(methods.contains(&json!("private_key_jwt")) && methods.contains(&json!("none")));
        let algorithms = &metadata[format!("{endpoint}_endpoint_auth_signing_alg_values_supported")];
        assert_eq!(*algorithms, json!(["RS256", "ES256", "PS256", "EdDSA", "Ed25519"]));
    }
}
