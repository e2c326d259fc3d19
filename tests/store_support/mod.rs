//! Records to put into a store.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of it")]

use mcpgate::domain::client::{Client, ClientDisplay, ClientId, ClientOrigin, GrantType, Permissions, RedirectTarget};
use mcpgate::domain::clock::Timestamp;
use mcpgate::domain::grant::{
    AccessToken, AuthorizationCode, AuthorizationRequest, ConsentKey, Grant, GrantId, RefreshToken, RequestDetails,
    Session, Succession,
};
use mcpgate::domain::person::{Person, SessionDetails, Source};
use mcpgate::domain::scope::Scope;
use mcpgate::domain::secret::{Nonce, SecretHash, random_bytes};
use mcpgate::domain::uri::Resource;
use mcpgate::domain::user::{Subject, User};
use mcpgate::store::{Approval, Issued, Store};

pub const REDIRECT: &str = "http://127.0.0.1:7777/callback";

pub fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

pub fn hash() -> SecretHash {
    SecretHash::from_bytes(random_bytes())
}

pub fn scope(text: &str) -> Scope {
    text.parse().unwrap()
}

pub fn redirect(uri: &str) -> RedirectTarget {
    serde_json::from_value(uri.into()).unwrap()
}

pub fn resource() -> Resource {
    Resource::parse("https://gateway.example/mcp").unwrap()
}

pub fn ada() -> Subject {
    Subject::of_username("ada").unwrap()
}

pub fn client(created_at: u64) -> Client {
    Client {
        id: ClientId::generate(),
        origin: ClientOrigin::Registered,
        secret: None,
        auth_method: None,
        keys: None,
        redirect_uris: Vec::new(),
        grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
        scope: Some(scope("read write")),
        name: Some("Inspector \u{1f50d}".to_owned()),
        display: ClientDisplay::default(),
        id_token_algorithm: None,
        key_bound: false,
        permissions: Permissions::default(),
        registration_token: None,
        created_at: at(created_at),
    }
}

pub fn request(client_id: &ClientId, created_at: u64) -> AuthorizationRequest {
    AuthorizationRequest {
        client_id: client_id.clone(),
        redirect: redirect(REDIRECT),
        state: Some("s".to_owned()),
        code_challenge: None,
        scope: scope("read"),
        resource: resource(),
        browser: hash(),
        sign_in_again: true,
        ask_again: false,
        details: RequestDetails::default(),
        created_at: at(created_at),
        expires_at: at(created_at + 600_000),
    }
}

pub fn code(client_id: &ClientId, expires_at: u64) -> AuthorizationCode {
    AuthorizationCode {
        client_id: client_id.clone(),
        redirect: redirect(REDIRECT),
        code_challenge: None,
        scope: scope("read"),
        resource: resource(),
        subject: ada(),
        authenticated_at: at(1),
        details: RequestDetails::default(),
        expires_at: at(expires_at),
        redeemed: None,
        failed_attempts: 0,
    }
}

pub fn session(expires_at: u64) -> Session {
    Session {
        subject: ada(),
        authenticated_at: at(1),
        expires_at: at(expires_at),
        details: SessionDetails::default(),
    }
}

pub fn person(subject: &str, source: Source) -> Person {
    let user = User {
        subject: Subject::named(subject).unwrap(),
        username: subject.to_owned(),
        email: None,
        name: None,
        groups: Vec::new(),
    };
    Person::new(user, source, at(1))
}

pub fn consent_key(client_id: &ClientId, uri: &str) -> ConsentKey {
    ConsentKey {
        subject: ada(),
        client_id: client_id.clone(),
        redirect: redirect(uri),
        resource: resource(),
        edition: None,
    }
}

pub fn grant(client_id: &ClientId, expires_at: u64) -> Grant {
    Grant {
        subject: ada(),
        client_id: client_id.clone(),
        resource: resource(),
        scope: scope("read"),
        authenticated_at: at(1),
        key: None,
        name: None,
        used_at: None,
        more: Vec::new(),
        created_at: at(2),
        expires_at: at(expires_at),
    }
}

pub fn access(grant: GrantId, expires_at: u64) -> AccessToken {
    AccessToken {
        grant,
        scope: scope("read"),
        key: None,
        issued_at: at(2),
        expires_at: at(expires_at),
    }
}

pub fn refresh(grant: GrantId, expires_at: u64) -> RefreshToken {
    RefreshToken {
        grant,
        scope: scope("read"),
        expires_at: at(expires_at),
        rotated: None,
    }
}

pub fn issued(grant_id: GrantId) -> Issued {
    Issued {
        grant_id,
        access: (hash(), access(grant_id, 10_000)),
        refresh: Some((hash(), refresh(grant_id, 100_000))),
    }
}

pub fn succession() -> Succession {
    Succession {
        at: at(5),
        nonce: Nonce::generate(),
        scope: scope("read"),
        access_expires_at: at(10_000),
        key: None,
    }
}

/// An approved authorization: its code.
pub async fn approved(store: &dyn Store, client_id: &ClientId) -> SecretHash {
    let (id, code_id) = (hash(), hash());
    store.begin_authorization(&id, &request(client_id, 1)).await.unwrap();
    let done = store
        .approve(Some(&id), (&code_id, &code(client_id, 60_000)), None)
        .await;
    assert_eq!(done.unwrap(), Approval::Done);
    code_id
}

/// A living grant with its tokens.
pub async fn family(store: &dyn Store, client_id: &ClientId) -> Issued {
    let code = approved(store, client_id).await;
    let issued = issued(GrantId::generate());
    let redeemed = store.redeem_code(&code, &grant(client_id, 1_000_000), &issued).await;
    assert_eq!(redeemed.unwrap(), mcpgate::store::Redemption::Done);
    issued
}

/// The access token's hash.
pub fn access_of(issued: &Issued) -> SecretHash {
    issued.access.0
}

/// The refresh token's hash.
pub fn refresh_of(issued: &Issued) -> SecretHash {
    issued.refresh.as_ref().unwrap().0
}
