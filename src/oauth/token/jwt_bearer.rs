//! ID-JAG: an identity assertion of a trusted issuer stands for a sign-in (RFC 7523 §2.1; MCP's enterprise-managed
//! authorization). The company's identity provider decides who may use what, and nobody sees a page of ours.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Grant, Issue, TokenRequest, Tokens, must_be_named, narrowed, refused};
use crate::config::{Config, IssuerKeys, TrustedIssuer, Upstream, UsersBy};
use crate::domain::client::GrantType;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{Grant as Family, GrantId};
use crate::domain::key::Algorithm;
use crate::domain::scope::Scope;
use crate::domain::secret::{Secret, SecretHash, SecretKind};
use crate::domain::uri::Resource;
use crate::domain::user::User;
use crate::fetch::Failure;
use crate::jose::{Claims, KeySet, Token};
use crate::oauth::remote::Named;
use crate::oauth::{Endpoints, unavailable};
use crate::store::Once;
use crate::telemetry::IssuedBy;

/// `typ` of the assertion.
const MEDIA_TYPE: &str = "oauth-id-jag+jwt";
/// The longest that an assertion may be good.
const LONGEST: Duration = Duration::from_secs(3600);

/// Takes an identity assertion.
pub(super) struct JwtBearerGrant;

/// What an assertion that holds says.
struct Assertion<'a> {
    user: &'a User,
    upstream: &'a Upstream,
    /// `None` if it does not say, which is anything.
    scope: Option<Scope>,
}

#[async_trait]
impl Grant for JwtBearerGrant {
    fn grant_type(&self) -> GrantType {
        GrantType::JwtBearer
    }

    fn is_on(&self, config: &Config) -> bool {
        !config.oauth.trusted_issuers.is_empty()
    }

    async fn exchange(&self, at: &Endpoints, request: &TokenRequest<'_>) -> Result<Tokens, OAuthError> {
        let client = request.client;
        must_be_named(client, GrantType::JwtBearer)?;
        let assertion = read(at, request).await?;
        let known = at.config.scopes_of(assertion.upstream);
        let most = assertion
            .scope
            .unwrap_or_else(|| at.config.default_scope(assertion.upstream))
            .filtered(|token| known.contains(token.as_str()) && at.config.may_be_granted(assertion.user, token));
        let scope = narrowed(&at.config, request, &most)?;
        let now = at.now();
        let grant = Family {
            subject: assertion.user.subject.clone(),
            client_id: client.id.clone(),
            resource: assertion.upstream.resource.clone(),
            scope: scope.clone(),
            authenticated_at: now,
            key: None,
            name: None,
            used_at: None,
            more: Vec::new(),
            created_at: now,
            expires_at: now.plus(at.config.oauth.access_token_expires_in),
        };
        let access = Secret::generate(SecretKind::AccessToken);
        let issue = Issue {
            grant_id: GrantId::generate(),
            grant: &grant,
            scope: &scope,
            refresh_scope: &scope,
            key: request.key.clone(),
            now,
        };
        // No refresh token: the identity provider is asked again each time.
        let issued = issue.records(&at.config, access.hash(), None);
        at.store.issue(&grant, &issued).await.map_err(unavailable)?;
        at.metrics.token_issued(IssuedBy::JwtBearer);
        tracing::info!(
            client = %client.id, subject = %grant.subject, resource = %grant.resource, scope = %grant.scope,
            "an identity assertion became a token"
        );
        Ok(Tokens::new(access, &issued, scope))
    }
}

/// The assertion of a request, every rule of the profile held against it. Which of them it broke is for the log.
async fn read<'a>(at: &'a Endpoints, request: &TokenRequest<'_>) -> Result<Assertion<'a>, OAuthError> {
    let client = request.client;
    let presented = request.form.require("assertion")?;
    let token = Token::parse(presented).map_err(|error| refused(client, error))?;
    if !token.is_of_type(MEDIA_TYPE) {
        return Err(refused(client, "the assertion is not an ID-JAG"));
    }
    let issuer = token.claimed_issuer();
    let issuer = at
        .config
        .oauth
        .trusted_issuers
        .iter()
        .find(|trusted| Some(&trusted.issuer) == issuer.as_ref())
        .ok_or_else(|| refused(client, "the assertion's issuer is not trusted"))?;
    let keys = keys(at, issuer, token.key_id())
        .await
        .map_err(|error| refused(client, error))?;
    let claims = token
        .verify(&keys, &Algorithm::ALL)
        .map_err(|error| refused(client, error))?;
    let require = |name| claims.require(name).map_err(|error| refused(client, error));
    if claims.sole_audience() != Some(&at.config.public_url.origin) {
        return Err(refused(client, "the assertion is for somebody else"));
    }
    if require("client_id")? != client.id.as_str() {
        return Err(refused(client, "the assertion was given to another client"));
    }
    let upstream = resource(at, request, &claims)?;
    let user =
        user(at, issuer, &claims).ok_or_else(|| refused(client, "the assertion's person has no account here"))?;
    let scope = claims
        .text("scope")
        .map(str::parse)
        .transpose()
        .map_err(|_| refused(client, "the assertion's scope is malformed"))?;
    // Last, so that an assertion which is refused for another reason can be used when that is mended.
    let forgotten_at = claims
        .check_life(at.now(), LONGEST)
        .map_err(|error| refused(client, error))?;
    let id = SecretHash::of(&format!("id-jag\0{}\0{}", issuer.issuer, require("jti")?));
    match at.store.use_once(&id, forgotten_at).await.map_err(unavailable)? {
        Once::First => Ok(Assertion { user, upstream, scope }),
        Once::Again => Err(refused(client, "the assertion was used before")),
        Once::Full => Err(OAuthError::new(
            ErrorCode::TemporarilyUnavailable,
            "no more assertions can be taken at present",
        )),
    }
}

/// The upstream that the assertion names; the request may name it too, but no other.
fn resource<'a>(at: &'a Endpoints, request: &TokenRequest<'_>, claims: &Claims) -> Result<&'a Upstream, OAuthError> {
    let client = request.client;
    let text = claims.require("resource").map_err(|error| refused(client, error))?;
    let named = Resource::parse(text).map_err(|_| refused(client, "the assertion's resource is malformed"))?;
    if request.resource.as_ref().is_some_and(|asked| *asked != named) {
        return Err(super::wrong_target(client, "resource is not the one of the assertion"));
    }
    let upstream = at
        .config
        .upstream_for(&named)
        .ok_or_else(|| refused(client, "the assertion is for a resource that is not here"))?;
    super::may_reach(client, upstream)?;
    Ok(upstream)
}

/// The account of the person that an assertion is about.
fn user<'a>(at: &'a Endpoints, issuer: &TrustedIssuer, claims: &Claims) -> Option<&'a User> {
    let mut accounts = at.config.users.iter().map(|account| &account.user);
    match issuer.users_by {
        UsersBy::Subject => {
            let subject = claims.text("sub")?;
            accounts.find(|user| user.username == subject)
        }
        UsersBy::Email => {
            let email = claims.text("email").filter(|email| !email.is_empty())?;
            // An address that the issuer itself does not vouch for is anybody's.
            if claims
                .get("email_verified")
                .is_some_and(|verified| verified != &serde_json::Value::Bool(true))
            {
                return None;
            }
            let mut own =
                accounts.filter(|user| user.email.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(email)));
            // An address that two accounts share says nothing about whose it is.
            own.next().filter(|_| own.next().is_none())
        }
    }
}

async fn keys(at: &Endpoints, issuer: &TrustedIssuer, key_id: Option<&str>) -> Result<Arc<KeySet>, Failure> {
    match &issuer.keys {
        IssuerKeys::Inline(keys) => {
            let keys = KeySet::parse(keys).map_err(|error| Failure::Invalid(error.to_string()))?;
            Ok(Arc::new(keys))
        }
        IssuerKeys::Uri(address) => at.remote.keys(address, Named::ByOperator, key_id).await,
    }
}
