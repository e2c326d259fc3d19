//! The well-known documents, as clients meet them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod support {
    pub(crate) mod endpoints;
    pub(crate) mod memory;
}

use bytes::Bytes;
use http::Request;
use mcpgate::config::{IssuerKeys, RootResource, TrustedIssuer, UsersBy};
use mcpgate::domain::uri::Resource;
use serde_json::json;
use support::endpoints::{FILES, Gateway, NOTES, ORIGIN};

const SERVER: &str = "/.well-known/oauth-authorization-server";
const OPENID: &str = "/.well-known/openid-configuration";
const RESOURCE: &str = "/.well-known/oauth-protected-resource";

/// Spec: A1, A2, A3, A4, A5, A6, A7, A8, A9, A11, A12, A13, A14, A18
#[tokio::test]
async fn the_server_says_what_it_can_do_and_nothing_else() {
    let gateway = Gateway::new();
    let reply = gateway.get(SERVER).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("cache-control"), Some("public, max-age=300"));
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    let methods = json!(["none", "client_secret_post", "client_secret_basic", "private_key_jwt"]);
    let algorithms = json!(["RS256", "ES256", "PS256", "EdDSA", "Ed25519"]);
    let proofs = json!(["ES256", "RS256", "PS256", "EdDSA", "Ed25519"]);
    let expected = json!({
        "issuer": "https://gw.example",
        "authorization_endpoint": "https://gw.example/authorize",
        "token_endpoint": "https://gw.example/token",
        "registration_endpoint": "https://gw.example/register",
        "revocation_endpoint": "https://gw.example/revoke",
        "revocation_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "scopes_supported": [
            "openid", "profile", "email", "offline_access", "files:read", "files:write", "files:admin"
        ],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": true,
        "client_id_metadata_document_supported": true,
        "introspection_endpoint": "https://gw.example/introspect",
        "introspection_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic", "private_key_jwt"],
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        "pushed_authorization_request_endpoint": "https://gw.example/par",
        "dpop_signing_alg_values_supported": proofs,
        "protected_resources": [FILES, NOTES],
        "jwks_uri": "https://gw.example/jwks.json",
        "userinfo_endpoint": "https://gw.example/userinfo",
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "ES256"],
        "claims_supported": [
            "iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "azp", "name", "preferred_username", "email",
            "email_verified", "groups"
        ],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "claims_parameter_supported": false,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
    });
    assert_eq!(reply.json(), expected);
    // OpenID Connect Discovery wants the same under its own name.
    for path in [
        OPENID.to_owned(),
        format!("{OPENID}/files/mcp"),
        format!("/files/mcp{OPENID}"),
    ] {
        assert_eq!(gateway.get(&path).await.fine().json(), expected, "{path}");
    }
}

/// Spec: A5, A11, A18, G5
#[tokio::test]
async fn what_is_turned_on_or_off_is_announced_or_not() {
    let gateway = Gateway::with(|config| {
        config.oauth.scopes = "profile".parse().unwrap();
        config.oauth.dpop = false;
        config.oauth.pushed_authorization_requests = false;
        config.oauth.grants.client_credentials = false;
    });
    let answer = gateway.get(SERVER).await.fine().json();
    for member in [
        "userinfo_endpoint",
        "id_token_signing_alg_values_supported",
        "dpop_signing_alg_values_supported",
        "pushed_authorization_request_endpoint",
        "device_authorization_endpoint",
        "authorization_grant_profiles_supported",
    ] {
        assert!(answer.get(member).is_none(), "{member}");
    }
    assert_eq!(
        answer["grant_types_supported"],
        json!(["authorization_code", "refresh_token"])
    );
    for path in [OPENID, "/userinfo"] {
        assert_eq!(gateway.get(path).await.status, 404, "{path}");
    }
    for path in ["/par", "/device_authorization"] {
        assert_eq!(
            gateway.post(path, None, &[("client_id", "x")]).await.status,
            404,
            "{path}"
        );
    }
    let gateway = Gateway::with(|config| {
        config.oauth.grants.device_code = true;
        config.oauth.grants.token_exchange = true;
        config.oauth.trusted_issuers = vec![TrustedIssuer {
            issuer: "https://idp.example".to_owned(),
            keys: IssuerKeys::Inline(json!({"keys": []})),
            users_by: UsersBy::Email,
        }];
    });
    let answer = gateway.get(SERVER).await.fine().json();
    assert_eq!(
        answer["device_authorization_endpoint"],
        "https://gw.example/device_authorization"
    );
    assert_eq!(
        answer["authorization_grant_profiles_supported"],
        json!(["urn:ietf:params:oauth:grant-profile:id-jag"])
    );
    assert_eq!(
        answer["grant_types_supported"],
        json!([
            "authorization_code",
            "refresh_token",
            "client_credentials",
            "urn:ietf:params:oauth:grant-type:device_code",
            "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ])
    );
}

/// Spec: A5, A7, A8
#[tokio::test]
async fn what_is_turned_off_is_not_announced() {
    let gateway = Gateway::with(|config| {
        config.oauth.dynamic_registration = false;
        config.oauth.issuer_in_response = false;
        config.oauth.client_documents = None;
        config.oauth.endpoint_prefix = "/api/auth/mcp".to_owned();
    });
    let answer = gateway.get(SERVER).await.fine().json();
    assert!(answer.get("registration_endpoint").is_none());
    assert!(answer.get("authorization_response_iss_parameter_supported").is_none());
    assert!(answer.get("client_id_metadata_document_supported").is_none());
    assert_eq!(answer["issuer"], ORIGIN);
    assert_eq!(answer["token_endpoint"], "https://gw.example/api/auth/mcp/token");
    assert_eq!(
        answer["authorization_endpoint"],
        "https://gw.example/api/auth/mcp/authorize"
    );
    for path in ["/token", "/api/auth/mcp/token"] {
        gateway
            .post(path, None, &[("client_id", "x")])
            .await
            .refused(401, "invalid_client");
    }
}

/// Spec: A10, B7
#[tokio::test]
async fn the_server_s_document_is_found_under_every_upstream_and_nowhere_else() {
    let gateway = Gateway::new();
    let at_root = gateway.get(SERVER).await.json();
    for path in [
        format!("{SERVER}/files/mcp"),
        format!("{SERVER}/files/mcp/"),
        format!("{SERVER}/notes"),
        format!("/notes{SERVER}"),
        format!("/files/mcp{SERVER}"),
        format!("/files/mcp{SERVER}/"),
        format!("{SERVER}/"),
        format!("{SERVER}?x=y"),
    ] {
        assert_eq!(gateway.get(&path).await.fine().json(), at_root, "{path}");
    }
    for path in [
        format!("{SERVER}/files"),
        format!("{SERVER}/files/mcp/deeper"),
        format!("{SERVER}/NOTES"),
        format!("{SERVER}/notes//"),
        format!("/nothing{SERVER}"),
        "/.well-known/openid-configuration/nothing".to_owned(),
        "/nothing/.well-known/openid-configuration".to_owned(),
        "/.well-known/jwks.json".to_owned(),
    ] {
        let reply = gateway.get(&path).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["error"].as_str()),
            (404, Some("not_found")),
            "{path}"
        );
    }
}

/// What is reserved for later does not exist, whatever it is asked with.
#[tokio::test]
async fn a_reserved_path_is_not_found_by_any_method() {
    let gateway = Gateway::new();
    for method in [http::Method::GET, http::Method::POST, http::Method::PUT] {
        for path in ["/mcp/.well-known/anything", "/.well-known/anything"] {
            let request = Request::builder().method(method.clone()).uri(path);
            let reply = gateway.send(request.body(Bytes::new()).unwrap()).await;
            assert_eq!(reply.status.as_u16(), 404, "{method} {path}");
        }
    }
}

/// Spec: A14, A18, B1, B2, B3, B4, B7, B8, B10
#[tokio::test]
async fn each_upstream_has_a_document_of_its_own() {
    let gateway = Gateway::new();
    let files = json!({
        "resource": FILES,
        "authorization_servers": [ORIGIN],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ["ES256", "RS256", "PS256", "EdDSA", "Ed25519"],
        "scopes_supported": ["files:read"],
        "resource_name": "files",
    });
    for path in [
        format!("{RESOURCE}/files/mcp"),
        format!("/files/mcp{RESOURCE}"),
        format!("{RESOURCE}/files/mcp?x=y"),
    ] {
        let reply = gateway.get(&path).await.fine();
        assert_eq!(reply.json(), files, "{path}");
        assert_eq!(reply.header("cache-control"), Some("public, max-age=300"));
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    }
    let notes = gateway.get(&format!("{RESOURCE}/notes")).await.fine().json();
    assert_eq!(notes["resource"], NOTES);
    assert!(notes.get("scopes_supported").is_none());
    // Whoever was given the URL with a slash compares with that.
    let slash = gateway.get(&format!("{RESOURCE}/notes/")).await.fine().json();
    assert_eq!(slash["resource"], "https://gw.example/notes/");
}

/// Spec: B9
#[tokio::test]
async fn an_unknown_upstream_has_no_document() {
    let gateway = Gateway::new();
    for path in [
        "/nothing",
        "/files",
        "/files/mcp/x",
        "/notes//",
        "/Notes",
        "/notes%2f",
        "//notes",
    ] {
        let reply = gateway.get(&format!("{RESOURCE}{path}")).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["error"].as_str()),
            (404, Some("not_found")),
            "{path}"
        );
    }
}

/// Spec: B5
#[tokio::test]
async fn offline_access_is_no_business_of_a_resource() {
    let gateway = Gateway::with(|config| {
        config.upstreams[1].scopes = "offline_access notes".parse().unwrap();
    });
    let notes = gateway.get(&format!("{RESOURCE}/notes")).await.fine().json();
    assert_eq!(notes["scopes_supported"], json!(["notes"]));
}

/// Spec: B6
#[tokio::test]
async fn the_path_less_document_is_the_only_upstream_s_or_the_named_one_s() {
    let several = Gateway::new();
    assert_eq!(several.get(RESOURCE).await.status, 404);
    let only = Gateway::with(|config| config.upstreams.truncate(1));
    assert_eq!(only.get(RESOURCE).await.fine().json()["resource"], FILES);
    assert_eq!(only.get(&format!("{RESOURCE}/")).await.fine().json()["resource"], FILES);
    let none = Gateway::with(|config| {
        config.upstreams.truncate(1);
        config.oauth.root_resource = RootResource::None;
    });
    assert_eq!(none.get(RESOURCE).await.status, 404);
    assert_eq!(none.get(&format!("{RESOURCE}/files/mcp")).await.status, 200);
    let named = Gateway::with(|config| config.oauth.root_resource = RootResource::Named("notes".to_owned()));
    assert_eq!(named.get(RESOURCE).await.fine().json()["resource"], NOTES);
}

/// Spec: B6, B6a
#[tokio::test]
async fn the_path_less_document_of_an_upstream_with_a_host_is_served_there_alone() {
    for root in [RootResource::Auto, RootResource::Named("files".to_owned())] {
        let gateway = Gateway::with(|config| {
            config.upstreams.truncate(1);
            config.upstreams[0].host = Some("tools.example".to_owned());
            config.oauth.root_resource = root;
        });
        assert_eq!(gateway.get_on("tools.example", RESOURCE).await.status, 200);
        for path in [RESOURCE.to_owned(), format!("{RESOURCE}/files/mcp")] {
            assert_eq!(gateway.get_on("gw.example", &path).await.status, 404, "{path}");
        }
    }
}

/// Spec: B2
#[tokio::test]
async fn an_upstream_at_the_root_is_known_by_the_bare_origin() {
    let gateway = Gateway::with(|config| {
        config.upstreams[1].path = String::new();
        config.upstreams[1].resource = Resource::parse(ORIGIN).unwrap();
    });
    assert_eq!(gateway.get(RESOURCE).await.fine().json()["resource"], ORIGIN);
    assert_eq!(
        gateway.get(&format!("{RESOURCE}/files/mcp")).await.fine().json()["resource"],
        FILES
    );
}

/// Spec: B6a, B9
#[tokio::test]
async fn an_upstream_with_a_host_is_described_there_alone() {
    let on_tools = "https://tools.example/files/mcp";
    let gateway = Gateway::with(|config| {
        let mut tools = config.upstreams[0].clone();
        tools.name = "tools".to_owned();
        tools.host = Some("tools.example".to_owned());
        tools.resource = Resource::parse(on_tools).unwrap();
        let mut alone = tools.clone();
        alone.name = "alone".to_owned();
        alone.path = String::new();
        alone.host = Some("alone.example:8443".to_owned());
        alone.resource = Resource::parse("https://alone.example:8443").unwrap();
        config.upstreams.extend([tools, alone]);
    });
    let path = format!("{RESOURCE}/files/mcp");
    for (host, resource) in [
        ("tools.example", on_tools),
        ("TOOLS.example:443", on_tools),
        ("gw.example", FILES),
        ("tools.example.evil", FILES),
        ("evil.tools.example", FILES),
    ] {
        assert_eq!(
            gateway.get_on(host, &path).await.fine().json()["resource"],
            resource,
            "{host}"
        );
    }
    let alone = gateway.get_on("alone.example:8443", RESOURCE).await.fine().json();
    assert_eq!(alone["resource"], "https://alone.example:8443");
    assert_eq!(alone["authorization_servers"], json!([ORIGIN]));
    assert_eq!(gateway.get_on("alone.example:8444", RESOURCE).await.status, 404);
    assert_eq!(gateway.get_on("gw.example", RESOURCE).await.status, 404);
    assert_eq!(
        gateway.get_on("alone.example:8443", SERVER).await.fine().json()["issuer"],
        ORIGIN
    );
}

/// Spec: A15, A17
#[tokio::test]
async fn head_is_answered_and_other_methods_are_not() {
    let gateway = Gateway::new();
    for path in [SERVER.to_owned(), format!("{RESOURCE}/notes")] {
        let send = async |method: &str| {
            let request = Request::builder().method(method).uri(&path).body(Bytes::new()).unwrap();
            gateway.send(request).await
        };
        assert_eq!(send("HEAD").await.status, 200);
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let reply = send(method).await;
            reply.refused(405, "invalid_request");
            assert_eq!(reply.header("allow"), Some("GET, HEAD, OPTIONS"));
        }
        let preflight = send("OPTIONS").await;
        assert_eq!(preflight.status, 204);
        assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
        assert!(
            preflight
                .header("access-control-allow-headers")
                .unwrap()
                .contains("MCP-Protocol-Version")
        );
    }
}
