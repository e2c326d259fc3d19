//! What happens between a person and a client: the authorization request, the code, the grant and its tokens.
//!
//! ```text
//!  AuthorizationRequest ──approve──▶ AuthorizationCode ──redeem──▶ Grant ─┬─ AccessToken …
//!        │ deny / expire                 │ replay: the grant is revoked   └─ RefreshToken ──rotate──▶ RefreshToken …
//!        ▼                               ▼                                      │ replay after the grace: revoked
//!       gone                           invalid_grant                            ▼
//! ```
//! A grant is the family that every token of one authorization belongs to. Tokens name their grant; a token whose grant
//! is gone is worth nothing, so revoking is the removal of one record.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::{Client, ClientId, GrantType, RedirectTarget};
use super::clock::Timestamp;
use super::person::{Passed, SessionDetails};
use super::pkce::CodeChallenge;
use super::scope::{OFFLINE_ACCESS, Scope};
use super::secret::{Nonce, SecretHash, random_bytes};
use super::uri::Resource;
use super::user::{Subject, User};

/// The longest that a refresh token's family lives, however often it is rotated, as a multiple of the refresh lifetime.
pub const FAMILY_LIFETIMES: u32 = 52;

/// An authorization request that passed every check of `/authorize` and waits for its person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationRequest {
    /// Who asks.
    pub client_id: ClientId,
    /// Where the answer goes.
    pub redirect: RedirectTarget,
    /// The client's `state`, given back as it came.
    pub state: Option<String>,
    /// Missing only where `require_pkce` is off and the client is confidential.
    pub code_challenge: Option<CodeChallenge>,
    /// Scopes asked for that exist for this resource.
    pub scope: Scope,
    /// The upstream that the token will be for.
    pub resource: Resource,
    /// Hash of the browser secret in the cookie `oidc_login_prompt`: nobody else may go on with it.
    pub browser: SecretHash,
    /// Whether the client wants the person to sign in again (`prompt=login`).
    pub sign_in_again: bool,
    /// Whether the client wants the person to be asked again (`prompt=consent`).
    pub ask_again: bool,
    /// What else it brought.
    #[serde(default)]
    pub details: RequestDetails,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it lapses.
    pub expires_at: Timestamp,
}

/// What an authorization request brings besides, most of it for the tokens that it ends in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestDetails {
    /// Goes into the ID token as it came (OpenID Connect Core §3.1.2.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Whom the sign-in form suggests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_hint: Option<String>,
    /// How long ago the person may have signed in, in seconds (OpenID Connect Core §3.1.2.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// The thumbprint of the key that the code is bound to (`dpop_jkt`, RFC 9449 §10).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A hash of the address that it came from, for as long as it is unfinished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SecretHash>,
    /// The device that waits for the answer, in place of a client behind a redirect (RFC 8628).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<SecretHash>,
    /// The page of ours that waits for the answer, in place of a client: all that it needs is somebody signed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<OwnPage>,
    /// How far it is with the operator's own sign-in page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<LoginStep>,
    /// Who has shown a password, where that is not enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed: Option<Passed>,
}

/// An authorization that waits for the operator's own sign-in page, or has come back from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginStep {
    /// The challenge that was last given out, hashed.
    pub challenge: SecretHash,
    /// What was said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<LoginAnswer>,
}

/// What the operator's own sign-in page said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginAnswer {
    /// What the browser has to show that comes back with it, hashed.
    pub verifier: SecretHash,
    /// What it said.
    pub verdict: LoginVerdict,
}

/// Who has signed in there, or why nobody has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginVerdict {
    /// This person.
    Accepted(User),
    /// Nobody; the client hears of it.
    Rejected {
        /// Its error code.
        error: String,
        /// In words.
        description: String,
    },
}

/// A page of ours that somebody has to be signed in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnPage {
    /// What they allowed, and where they are signed in.
    Account,
    /// Where they choose another password.
    Password,
    /// Where they set up a second factor.
    Security,
}

/// An authorization request that its client pushed beforehand (RFC 9126), and that waits for its browser.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedRequest {
    /// Who pushed it; nobody else may use it.
    pub client_id: ClientId,
    /// The parameters as they came.
    pub parameters: Vec<(String, String)>,
    /// When it lapses.
    pub expires_at: Timestamp,
}

/// A browser in which somebody is signed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Who.
    pub subject: Subject,
    /// When they typed their password.
    pub authenticated_at: Timestamp,
    /// When it ends; later, each time it is used.
    pub expires_at: Timestamp,
    /// How and where.
    #[serde(default)]
    pub details: SessionDetails,
}

/// What a remembered consent is for: a person, a client at one redirect URI, a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConsentKey {
    /// Who allowed it.
    pub subject: Subject,
    /// To whom.
    pub client_id: ClientId,
    /// At which address, as it was registered: without the port that a loopback client happened to get.
    pub redirect: RedirectTarget,
    /// For which upstream.
    pub resource: Resource,
    /// Which edition of its metadata document, if it has one (see `Client::edition`).
    pub edition: Option<SecretHash>,
}

/// Identifies a grant; random, never shown outside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId([u8; 16]);

/// What a person allowed a client: the family that tokens belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Whom the tokens speak for.
    pub subject: Subject,
    /// Who holds them.
    pub client_id: ClientId,
    /// Which upstream they are for.
    pub resource: Resource,
    /// Which others, if their person made them for several: a personal access token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<More>,
    /// All that was allowed.
    pub scope: Scope,
    /// When the person signed in.
    pub authenticated_at: Timestamp,
    /// The thumbprint of the key that its refresh tokens are bound to: that of a public client which proved possession of
    /// one (RFC 9449 §5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What its person calls it, if they made it themselves: a personal access token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When such a token was last used, give or take an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the last token of it can have expired.
    pub expires_at: Timestamp,
}

/// One more upstream that a personal access token is for, and what it allows there: a scope that two upstreams have may mean
/// another thing at each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct More {
    /// Which.
    pub resource: Resource,
    /// What was allowed there.
    pub scope: Scope,
}

impl Grant {
    /// All that its tokens are for.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        std::iter::once(&self.resource).chain(self.more.iter().map(|more| &more.resource))
    }

    /// What one of its tokens allows at an upstream, if `own` is what it allows at the first.
    #[must_use]
    pub fn scope_at<'a>(&'a self, resource: &Resource, own: &'a Scope) -> &'a Scope {
        let mut more = self.more.iter();
        more.find(|more| more.resource == *resource)
            .map_or(own, |more| &more.scope)
    }

    /// All that was allowed anywhere.
    #[must_use]
    pub fn whole_scope(&self) -> Scope {
        let more = self.more.iter();
        more.fold(self.scope.clone(), |all, more| all.union(&more.scope))
    }
}

/// An authorization code on record (RFC 6749 §4.1.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationCode {
    /// Who may redeem it.
    pub client_id: ClientId,
    /// What `/authorize` was told.
    pub redirect: RedirectTarget,
    /// What the verifier must match.
    pub code_challenge: Option<CodeChallenge>,
    /// What the person allowed.
    pub scope: Scope,
    /// For which upstream.
    pub resource: Resource,
    /// Who allowed it.
    pub subject: Subject,
    /// When they signed in.
    pub authenticated_at: Timestamp,
    /// What else the request brought.
    #[serde(default)]
    pub details: RequestDetails,
    /// When it lapses.
    pub expires_at: Timestamp,
    /// The grant that it became. Used codes stay on record until they lapse, so that a replay is known for one.
    pub redeemed: Option<GrantId>,
    /// Attempts with a wrong verifier or redirect URI so far.
    pub failed_attempts: u8,
}

/// An access token on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    /// Its family.
    pub grant: GrantId,
    /// What it may do; at most what the grant allows.
    pub scope: Scope,
    /// The thumbprint of the key whose possession has to be proved with it (RFC 9449 §6.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it lapses.
    pub expires_at: Timestamp,
}

/// A refresh token on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshToken {
    /// Its family.
    pub grant: GrantId,
    /// What its access tokens may do.
    pub scope: Scope,
    /// When it lapses.
    pub expires_at: Timestamp,
    /// Its successor, once it was used. Rotated tokens stay on record until they lapse.
    pub rotated: Option<Succession>,
}

/// How a refresh token was replaced, so that a retry within the grace gets the very same answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    /// When.
    pub at: Timestamp,
    /// Both successors follow from the old token and this.
    pub nonce: Nonce,
    /// The scope of the access token that was issued with it.
    pub scope: Scope,
    /// When that access token lapses.
    pub access_expires_at: Timestamp,
    /// What it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// An access token together with the grant that it belongs to: all that a decision needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveToken {
    /// The token.
    pub token: AccessToken,
    /// Its living grant.
    pub grant: Grant,
}

/// Why a code cannot be redeemed by whoever presents it. Clients hear `invalid_grant` for all of them (or
/// `invalid_target`); the log tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeRefusal {
    /// RFC 6749 §4.1.2: it is past its lifetime.
    #[error("the code has expired")]
    Expired,
    /// It was issued to somebody else.
    #[error("the code belongs to another client")]
    OtherClient,
    /// RFC 6749 §4.1.3.
    #[error("redirect_uri is not the one that the code was asked with")]
    RedirectUri,
    /// RFC 7636 §4.6, or a verifier where no challenge was (RFC 9700 §4.8.2), or none where one was.
    #[error("the code_verifier does not fit")]
    Verifier,
    /// RFC 8707 §2.2.
    #[error("the code is for another resource")]
    Resource,
}

/// What a token request says about a code.
#[derive(Clone, Copy, Debug)]
pub struct CodePresentation<'a> {
    /// The authenticated client.
    pub client_id: &'a ClientId,
    /// If sent.
    pub redirect_uri: Option<&'a str>,
    /// If sent, and of the right form.
    pub verifier: Option<&'a str>,
    /// If sent.
    pub resource: Option<&'a Resource>,
}

// === impl GrantId ===

impl GrantId {
    /// A fresh identifier.
    #[must_use]
    pub fn generate() -> Self {
        Self(random_bytes())
    }

    /// The bytes to use as a key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From a key.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for GrantId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GrantId({self})")
    }
}

impl std::fmt::Display for GrantId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for GrantId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GrantId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)?;
        Ok(Self(number.to_be_bytes()))
    }
}

// === impl OwnPage ===

impl OwnPage {
    /// Its path.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Account => "/account",
            Self::Password => "/account/password",
            Self::Security => "/account/security",
        }
    }
}

// === impl AuthorizationCode ===

impl AuthorizationCode {
    /// Whether this code may be redeemed in this way now: RFC 6749 §4.1.3, RFC 7636 §4.6, RFC 8707 §2.2.
    /// Whether it was used before is for the store to say, in the moment of redeeming.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn redeemable_by(&self, presented: &CodePresentation<'_>, now: Timestamp) -> Result<(), CodeRefusal> {
        if *presented.client_id != self.client_id {
            return Err(CodeRefusal::OtherClient);
        }
        if now >= self.expires_at {
            return Err(CodeRefusal::Expired);
        }
        // OAuth 2.1 dropped the parameter, so it may be missing; where it is present it must be the same string.
        if presented.redirect_uri.is_some_and(|uri| uri != self.redirect.as_str()) {
            return Err(CodeRefusal::RedirectUri);
        }
        let proven = match (&self.code_challenge, presented.verifier) {
            (Some(challenge), Some(verifier)) => challenge.verified_by(verifier).unwrap_or(false),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !proven {
            return Err(CodeRefusal::Verifier);
        }
        if presented.resource.is_some_and(|resource| *resource != self.resource) {
            return Err(CodeRefusal::Resource);
        }
        Ok(())
    }

    /// The grant that redeeming this code makes.
    #[must_use]
    pub fn grant(&self, now: Timestamp, refresh_lifetime: Duration) -> Grant {
        Grant {
            subject: self.subject.clone(),
            client_id: self.client_id.clone(),
            resource: self.resource.clone(),
            scope: self.scope.clone(),
            authenticated_at: self.authenticated_at,
            key: None,
            name: None,
            used_at: None,
            more: Vec::new(),
            created_at: now,
            expires_at: now.plus(refresh_lifetime.saturating_mul(FAMILY_LIFETIMES)),
        }
    }
}

// === impl AccessToken ===

impl LiveToken {
    /// Whether the token can still be used.
    #[must_use]
    pub fn is_alive(&self, now: Timestamp) -> bool {
        now < self.token.expires_at && now < self.grant.expires_at
    }
}

/// Whether tokens of this grant come with a refresh token: the client registered for it, or asked for `offline_access`.
/// Many clients ask only for what the resource lists, which never has `offline_access` in it.
#[must_use]
pub fn wants_refresh_token(client: &Client, scope: &Scope) -> bool {
    client.may_use(GrantType::RefreshToken) || scope.contains(OFFLINE_ACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

    fn code() -> AuthorizationCode {
        let redirect = serde_json::from_str("\"http://127.0.0.1:5/cb\"").unwrap();
        AuthorizationCode {
            client_id: ClientId::parse("c").unwrap(),
            redirect,
            code_challenge: Some(CodeChallenge::of(VERIFIER).unwrap()),
            scope: "a b".parse().unwrap(),
            resource: Resource::parse("https://gw.example/mcp").unwrap(),
            subject: Subject::of_username("ada").unwrap(),
            authenticated_at: Timestamp::from_millis(0),
            details: RequestDetails::default(),
            expires_at: Timestamp::from_millis(1000),
            redeemed: None,
            failed_attempts: 0,
        }
    }

    #[test]
    fn a_code_is_redeemable_by_its_client_with_its_verifier_in_its_time() {
        let (code, own, other) = (code(), ClientId::parse("c").unwrap(), ClientId::parse("d").unwrap());
        let here = Resource::parse("https://gw.example/mcp/").unwrap();
        let elsewhere = Resource::parse("https://gw.example/other").unwrap();
        let right = CodePresentation {
            client_id: &own,
            redirect_uri: Some("http://127.0.0.1:5/cb"),
            verifier: Some(VERIFIER),
            resource: Some(&here),
        };
        let at = Timestamp::from_millis;
        assert_eq!(code.redeemable_by(&right, at(999)), Ok(()));
        assert_eq!(code.redeemable_by(&right, at(1000)), Err(CodeRefusal::Expired));
        assert_eq!(
            code.redeemable_by(
                &CodePresentation {
                    redirect_uri: None,
                    resource: None,
                    ..right
                },
                at(1)
            ),
            Ok(())
        );
        assert_eq!(
            code.redeemable_by(
                &CodePresentation {
                    client_id: &other,
                    ..right
                },
                at(1)
            ),
            Err(CodeRefusal::OtherClient)
        );
        assert_eq!(
            code.redeemable_by(
                &CodePresentation {
                    redirect_uri: Some("http://127.0.0.1:6/cb"),
                    ..right
                },
                at(1)
            ),
            Err(CodeRefusal::RedirectUri)
        );
        assert_eq!(
            code.redeemable_by(
                &CodePresentation {
                    verifier: None,
                    ..right
                },
                at(1)
            ),
            Err(CodeRefusal::Verifier)
        );
        assert_eq!(
            code.redeemable_by(
                &CodePresentation {
                    verifier: Some("x"),
                    ..right
                },
                at(1)
            ),
            Err(CodeRefusal::Verifier)
        );
        assert_eq!(
            code.redeemable_by(
                &CodePresentation {
                    resource: Some(&elsewhere),
                    ..right
                },
                at(1)
            ),
            Err(CodeRefusal::Resource)
        );
    }

    /// RFC 9700 §4.8.2: a verifier for a code that was asked for without a challenge is an attack on PKCE.
    /// Spec: F8, L3
    #[test]
    fn a_verifier_without_a_challenge_is_refused() {
        let bare = AuthorizationCode {
            code_challenge: None,
            ..code()
        };
        let own = ClientId::parse("c").unwrap();
        let presented = CodePresentation {
            client_id: &own,
            redirect_uri: None,
            verifier: Some(VERIFIER),
            resource: None,
        };
        assert_eq!(
            bare.redeemable_by(&presented, Timestamp::from_millis(1)),
            Err(CodeRefusal::Verifier)
        );
        assert_eq!(
            bare.redeemable_by(
                &CodePresentation {
                    verifier: None,
                    ..presented
                },
                Timestamp::from_millis(1)
            ),
            Ok(())
        );
    }

    #[test]
    fn a_grant_id_survives_serialisation() {
        let id = GrantId::generate();
        assert_eq!(
            serde_json::from_str::<GrantId>(&serde_json::to_string(&id).unwrap()).unwrap(),
            id
        );
    }
}
