//! Each row of the table of quirks: what such a client does, and that it gets through.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod support {
    pub(crate) mod endpoints;
    pub(crate) mod memory;
    pub(crate) mod people;
}

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use mcpgate::config::RootResource;
use mcpgate::oauth::quirks::{QUIRKS, Tolerance};
use serde_json::{Value, json};
use support::endpoints::{Allowed, FILES, Gateway, ORIGIN, REDIRECT, VERIFIER};
use support::people::{People, WEB, pairs, request, web};

/// What every client in these stories registers, and more.
fn document(more: &Value) -> Value {
    let mut document = json!({ "redirect_uris": [REDIRECT], "grant_types": ["authorization_code", "refresh_token"] });
    for (member, value) in more.as_object().unwrap() {
        document[member] = value.clone();
    }
    document
}

async fn registered(gateway: &Gateway, more: &Value) -> (String, Option<String>) {
    let answer = gateway.register(&document(more)).await.fine().json();
    let text = |member: &str| answer[member].as_str().map(str::to_owned);
    (text("client_id").unwrap(), text("client_secret"))
}

/// Whether a registered client with these URIs may be answered at this one.
async fn answered_at(uris: &[&str], presented: &str) -> bool {
    let gateway = Gateway::new();
    let (id, _) = registered(&gateway, &json!({ "redirect_uris": uris })).await;
    gateway.client(&id).await.redirect_target(presented).is_some()
}

/// What a remembered person's client gets for these parameters, as far as the scope.
async fn scope_for(people: &People, changes: &[(&str, &str)]) -> String {
    let done = people.browser().allow(&web(changes), "ada").await;
    people.code(&done).await.scope.to_string()
}

/// The token request of a code.
async fn redeem(gateway: &Gateway, client: &str, more: &[(&str, &str)], authorization: Option<&str>) -> u16 {
    let code = gateway.code(client, Allowed::default()).await;
    let usual = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("code_verifier", VERIFIER),
    ];
    let pairs = [&usual[..], more].concat();
    gateway.post("/token", authorization, &pairs).await.status.as_u16()
}

fn only_files(config: &mut mcpgate::config::Config) {
    config.oauth.root_resource = RootResource::Named("files".to_owned());
}

/// Does what a client with this habit does. No `_`: a new tolerance needs its story.
#[expect(clippy::too_many_lines, reason = "the stories are read side by side with the table")]
async fn exercise(tolerance: Tolerance) {
    match tolerance {
        Tolerance::SecretInEitherPlace => {
            let gateway = Gateway::new();
            for method in ["client_secret_basic", "client_secret_post"] {
                let (id, secret) = registered(&gateway, &json!({ "token_endpoint_auth_method": method })).await;
                let secret = secret.unwrap();
                let header = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
                let form = [("client_id", id.as_str()), ("client_secret", &secret)];
                assert_eq!(redeem(&gateway, &id, &form, None).await, 200, "{method} in the form");
                assert_eq!(
                    redeem(&gateway, &id, &[], Some(&header)).await,
                    200,
                    "{method} in the header"
                );
            }
        }
        Tolerance::BasicAsItIs => {
            let (id, secret) = ("a+b", "per%cent+and more");
            let gateway = Gateway::with(|config| {
                let mut client = support::people::client(id, &[REDIRECT], true);
                client.secret = Some(mcpgate::domain::secret::SecretHash::of(secret));
                config.oauth.clients = vec![client];
            });
            let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            for text in [format!("{id}:{secret}"), format!("{}:{}", encode(id), encode(secret))] {
                let header = format!("Basic {}", STANDARD.encode(&text));
                assert_eq!(redeem(&gateway, id, &[], Some(&header)).await, 200, "{text}");
            }
        }
        Tolerance::AnyLoopbackPort => {
            for host in ["127.0.0.1", "[::1]", "localhost"] {
                let own = format!("http://{host}/callback");
                assert!(
                    answered_at(&[&own], &format!("http://{host}:63785/callback")).await,
                    "{host}"
                );
                assert!(!answered_at(&[&own], &format!("http://{host}:63785/other")).await);
            }
            assert!(!answered_at(&["https://app.example/cb"], "https://app.example:8443/cb").await);
        }
        Tolerance::LoopbackSlash => {
            assert!(answered_at(&["http://127.0.0.1"], "http://127.0.0.1:33418/").await);
            assert!(answered_at(&["http://127.0.0.1/"], "http://127.0.0.1:33418").await);
            assert!(!answered_at(&["https://app.example"], "https://app.example/").await);
        }
        Tolerance::OneBadRedirectUri => {
            let gateway = Gateway::with(|config| config.oauth.allowed_redirect_hosts.clear());
            let cursor = [
                "cursor://anysphere.cursor-mcp/oauth/callback",
                "https://www.cursor.com/agents/mcp/oauth/callback",
                "http://localhost:8787/callback",
            ];
            let answer = gateway
                .register(&document(&json!({ "redirect_uris": cursor })))
                .await
                .fine();
            assert_eq!(answer.json()["redirect_uris"], json!([cursor[0], cursor[2]]));
        }
        Tolerance::PrivateUseScheme => {
            for uri in [
                "cursor://anysphere.cursor-mcp/oauth/callback",
                "vscode://some.extension/cb",
                "windsurf://cb",
            ] {
                assert!(answered_at(&[uri], uri).await, "{uri}");
            }
            let gateway = Gateway::new();
            let reply = gateway.register(&json!({ "redirect_uris": ["unheard-of://cb"] })).await;
            reply.refused(400, "invalid_redirect_uri");
        }
        Tolerance::ExtraTypes => {
            let gateway = Gateway::new();
            let extra = json!({
                "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code", "x"],
                "response_types": ["code", "id_token"],
            });
            let answer = gateway.register(&document(&extra)).await.fine().json();
            assert_eq!(answer["grant_types"], json!(["authorization_code", "refresh_token"]));
            assert_eq!(answer["response_types"], json!(["code"]));
        }
        Tolerance::OtherAuthMethod => {
            let gateway = Gateway::new();
            let (id, secret) = registered(&gateway, &json!({ "token_endpoint_auth_method": "tls_client_auth" })).await;
            assert!(secret.is_none() && !gateway.client(&id).await.is_confidential());
            let site =
                json!({ "token_endpoint_auth_method": "tls_client_auth", "redirect_uris": ["https://a.example/"] });
            assert!(registered(&gateway, &site).await.1.is_some());
        }
        Tolerance::NullMembers => {
            let gateway = Gateway::new();
            let nulls = json!({ "client_name": null, "logo_uri": null, "scope": null, "contacts": null });
            registered(&gateway, &nulls).await;
        }
        Tolerance::RegistersTwice => {
            let gateway = Gateway::new();
            let public = json!({ "token_endpoint_auth_method": "none" });
            let (one, two) = (
                registered(&gateway, &public).await.0,
                registered(&gateway, &public).await.0,
            );
            for id in [&one, &two] {
                assert_eq!(redeem(&gateway, id, &[("client_id", id)], None).await, 200);
            }
        }
        Tolerance::UnregisteredScopes => {
            let people = People::new();
            let (id, _) = registered(&people.gateway, &json!({ "scope": "files:read" })).await;
            let target = request(&id, REDIRECT, &[("scope", "files:read files:write")]);
            let done = people.browser().allow(&target, "ada").await;
            assert_eq!(people.code(&done).await.scope.to_string(), "files:read files:write");
        }
        Tolerance::UnknownScopes => {
            let people = People::new();
            assert_eq!(
                scope_for(&people, &[("scope", "claudeai files:read")]).await,
                "files:read"
            );
        }
        Tolerance::OfflineAccessUnlisted => {
            let people = People::with(|config| config.oauth.scopes = "profile".parse().unwrap());
            let scope = scope_for(&people, &[("scope", "files:read offline_access")]).await;
            assert_eq!(scope, "files:read offline_access");
            let gateway = Gateway::new();
            let client = gateway.usual_client().await;
            gateway.tokens(&client).await;
        }
        Tolerance::NoResource => {
            let people = People::with(only_files);
            let done = people.browser().allow(&web(&[("resource", "")]), "ada").await;
            assert_eq!(people.code(&done).await.resource.as_str(), FILES);
            // With several and none of them meant, nothing is guessed.
            let several = People::new();
            let seen = several.browser().open(&web(&[("resource", "")])).await;
            seen.refused(WEB, "invalid_target");
            let gateway = Gateway::new();
            let client = gateway.usual_client().await;
            let (_, refresh) = gateway.tokens(&client).await;
            gateway.refresh(&client, &refresh).await.fine();
        }
        Tolerance::OriginAsResource => {
            let people = People::with(only_files);
            for origin in [ORIGIN.to_owned(), format!("{ORIGIN}/")] {
                let done = people.browser().allow(&web(&[("resource", &origin)]), "ada").await;
                assert_eq!(people.code(&done).await.resource.as_str(), FILES);
            }
        }
        Tolerance::ResourceSlash => {
            let people = People::new();
            let done = people
                .browser()
                .allow(&web(&[("resource", &format!("{FILES}/"))]), "ada")
                .await;
            assert_eq!(people.code(&done).await.resource.as_str(), FILES);
        }
        Tolerance::EndpointsAtRoot => {
            let people = People::with(|config| config.oauth.endpoint_prefix = String::from("/api/auth"));
            let (id, _) = registered(&people.gateway, &json!({ "token_endpoint_auth_method": "none" })).await;
            assert_eq!(redeem(&people.gateway, &id, &[("client_id", &id)], None).await, 200);
            let mut browser = people.browser();
            let seen = browser.post("/authorize", &pairs("web", WEB, &[])).await;
            browser.follow(seen).await.asks_for_password();
        }
        Tolerance::MetadataUnderPath => {
            let gateway = Gateway::new();
            let inserted = "/.well-known/oauth-authorization-server/files/mcp";
            for path in [inserted, "/files/mcp/.well-known/oauth-authorization-server"] {
                assert_eq!(gateway.get(path).await.fine().json()["issuer"], ORIGIN, "{path}");
            }
            let elsewhere = gateway.get("/.well-known/oauth-authorization-server/nowhere").await;
            assert_eq!(elsewhere.status, 404);
        }
        Tolerance::VersionHeaderOnDiscovery => {
            let gateway = Gateway::new();
            let preflight = Request::options("/.well-known/oauth-authorization-server")
                .header("origin", "http://localhost:6274")
                .header("access-control-request-method", "GET")
                .header("access-control-request-headers", "mcp-protocol-version")
                .body(Bytes::new())
                .unwrap();
            let reply = gateway.send(preflight).await;
            let allowed = reply.header("access-control-allow-headers").unwrap();
            assert!(
                allowed.to_ascii_lowercase().contains("mcp-protocol-version"),
                "{allowed}"
            );
        }
        Tolerance::NoRedirectUriAtToken => {
            let gateway = Gateway::new();
            let client = gateway.usual_client().await;
            assert_eq!(redeem(&gateway, &client, &[("client_id", &client)], None).await, 200);
            let wrong = [
                ("client_id", client.as_str()),
                ("redirect_uri", "http://127.0.0.1:1/cb"),
            ];
            assert_eq!(redeem(&gateway, &client, &wrong, None).await, 400);
        }
        Tolerance::RefreshRetried => {
            let gateway = Gateway::new();
            let client = gateway.usual_client().await;
            let (_, refresh) = gateway.tokens(&client).await;
            let first = gateway.refresh(&client, &refresh).await.fine();
            gateway.later(59);
            let second = gateway.refresh(&client, &refresh).await.fine();
            assert_eq!(first.text_of("refresh_token"), second.text_of("refresh_token"));
            gateway.later(2);
            gateway.refresh(&client, &refresh).await.refused(400, "invalid_grant");
        }
        Tolerance::RefreshWithoutScope => {
            let gateway = Gateway::new();
            let client = gateway.usual_client().await;
            let (_, refresh) = gateway.tokens(&client).await;
            let reply = gateway.refresh(&client, &refresh).await.fine();
            assert_eq!(reply.text_of("scope"), "files:read files:write");
        }
        Tolerance::AuthorizePreflight => {
            let gateway = Gateway::new();
            let look = Request::get("/authorize?client_id=mgc_forgotten&response_type=code")
                .header("accept", "application/json")
                .body(Bytes::new())
                .unwrap();
            let reply = gateway.send(look).await;
            assert_eq!(
                (reply.status.as_u16(), reply.text_of("error").as_str()),
                (400, "invalid_client")
            );
        }
        Tolerance::StepUpAsksForLess => {
            let people = People::new();
            assert_eq!(scope_for(&people, &[("scope", "files:read")]).await, "files:read");
            let scope = scope_for(&people, &[("scope", "files:write")]).await;
            assert_eq!(scope, "files:write files:read");
        }
        Tolerance::LosesIssuer => {
            let people = People::with(|config| config.oauth.issuer_in_response = false);
            let done = people.browser().allow(&web(&[]), "ada").await;
            assert_eq!(done.answer("iss"), None);
            let metadata = people
                .gateway
                .get("/.well-known/oauth-authorization-server")
                .await
                .json();
            assert!(metadata.get("authorization_response_iss_parameter_supported").is_none());
        }
    }
}

/// Spec: C5, C6, C8, C11, D5, D12, F5, F15, F16, F17
#[tokio::test]
async fn every_quirk_in_the_table_gets_through() {
    for quirk in QUIRKS {
        Box::pin(exercise(quirk.tolerance)).await;
    }
}

#[test]
fn each_quirk_is_there_once_with_its_source_and_its_place() {
    let mut seen = HashSet::new();
    for quirk in QUIRKS {
        assert!(seen.insert(quirk.tolerance), "{:?} is there twice", quirk.tolerance);
        assert!(!quirk.sources.is_empty() && !quirk.who.is_empty() && !quirk.recognised.is_empty());
        for place in quirk.applied_in.split(", ") {
            let found = ["src/oauth", "src"].iter().any(|folder| {
                std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join(folder)
                    .join(place)
                    .is_file()
            });
            assert!(found, "{place} of {:?}", quirk.tolerance);
        }
    }
    // As many as the last one's place says: none was left out of the table.
    assert_eq!(seen.len(), Tolerance::LosesIssuer as usize + 1);
}

/// What a client calls itself changes nothing: names are free.
#[tokio::test]
async fn a_famous_name_opens_no_door() {
    let gateway = Gateway::new();
    for name in ["Claude", "Cursor", "Visual Studio Code", "ChatGPT", "mcp-remote"] {
        let document =
            document(&json!({ "client_name": name, "software_id": name, "redirect_uris": ["unheard-of://cb"] }));
        gateway.register(&document).await.refused(400, "invalid_redirect_uri");
    }
}
