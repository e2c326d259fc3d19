//! `private_key_jwt`: a client shows who it is with a token signed by a key of its own (RFC 7523 §2.2 and §3, tightened as
//! rfc7523bis has it: one audience, and that is us).

use std::time::Duration;

use super::client_keys;
use super::web::Parameters;
use super::{Call, Endpoints, unavailable};
use crate::domain::client::{Client, ClientId};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::key::Algorithm;
use crate::domain::secret::SecretHash;
use crate::jose::{Claims, Token};
use crate::store::Once;

/// RFC 7523 §2.2.
const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The longest that an assertion may be good for.
const LONGEST: Duration = Duration::from_secs(3600);
/// Longest `jti`.
const MAX_ID: usize = 512;

/// An assertion of which nothing is believed yet.
pub(super) struct Assertion<'a> {
    token: Token<'a>,
    /// Who it says it is from.
    pub(super) client_id: ClientId,
}

/// Why an assertion does not count. Nothing of the assertion is in it.
type Refused = Box<dyn std::error::Error + Send + Sync>;

impl<'a> Assertion<'a> {
    /// The assertion of a request, if there is one.
    ///
    /// # Errors
    /// `invalid_request` if it is of a type that we lack, or only half there; `invalid_client` if it is not one.
    pub(super) fn of(form: &'a Parameters) -> Result<Option<Self>, OAuthError> {
        let text = match (form.get("client_assertion_type"), form.get("client_assertion")) {
            (None, None) => return Ok(None),
            (Some(TYPE), Some(text)) => text,
            (Some(_), Some(_)) => {
                return Err(OAuthError::invalid_request(
                    "client_assertion_type must be the one of RFC 7523",
                ));
            }
            _ => {
                return Err(OAuthError::invalid_request(
                    "client_assertion and client_assertion_type belong together",
                ));
            }
        };
        let token = Token::parse(text).map_err(refused)?;
        // RFC 7521 §4.2: client_id need not be sent, and names the same client if it is.
        let client_id = match form.get("client_id") {
            Some(id) => id.to_owned(),
            None => token
                .claimed_issuer()
                .ok_or_else(|| refused("the assertion names nobody"))?,
        };
        let client_id = ClientId::parse(&client_id).ok_or_else(|| refused("the client is not known"))?;
        Ok(Some(Self { token, client_id }))
    }

    /// Whether this client made it, for us, now, and for the first time.
    ///
    /// # Errors
    /// `invalid_client` whatever is wrong with it; `temporarily_unavailable` if that cannot be found out.
    pub(super) async fn verify(&self, at: &Endpoints, call: &Call<'_>, client: &Client) -> Result<(), OAuthError> {
        let because = |cause: Refused| refused(format!("an assertion of client {} does not count: {cause}", client.id));
        let claims = self.claims(at, client).await.map_err(because)?;
        let (id, forgotten_at) = check(at, call, client, &claims).map_err(because)?;
        match at.store.use_once(&id, forgotten_at).await.map_err(unavailable)? {
            Once::First => Ok(()),
            Once::Again => Err(because("it was used before".into())),
            Once::Full => Err(OAuthError::new(
                ErrorCode::TemporarilyUnavailable,
                "too many clients authenticate at present; try again shortly",
            )
            .because("no more identifiers of assertions can be remembered")),
        }
    }

    /// What it says, if a key of the client signed it.
    async fn claims(&self, at: &Endpoints, client: &Client) -> Result<Claims, Refused> {
        // RFC 8725 §3.11: a token that says it is for something else is.
        let usual = self.token.is_of_type("jwt") || self.token.is_of_type("client-authentication+jwt");
        if self.token.has_type() && !usual {
            return Err("its typ is that of another kind of token".into());
        }
        let known = client_keys::resolve(at, client, self.token.key_id()).await?;
        let own = client.keys.as_ref().and_then(|keys| keys.algorithm.as_ref());
        let accepted = own.map_or(&Algorithm::ALL[..], std::slice::from_ref);
        Ok(self.token.verify(&known, accepted)?)
    }
}

/// RFC 7523 §3: what it is called for its one use, and until when that has to be remembered.
fn check(
    at: &Endpoints,
    call: &Call<'_>,
    client: &Client,
    claims: &Claims,
) -> Result<(SecretHash, crate::domain::clock::Timestamp), Refused> {
    let own = client.id.as_str();
    if claims.require("iss")? != own || claims.require("sub")? != own {
        return Err("iss and sub are not both the client".into());
    }
    let audience = claims.sole_audience().ok_or("aud is not a single audience")?;
    let config = &at.config;
    let issuer = config.public_url.origin.as_str();
    // RFC 9126 §2 wants the address of the endpoint that is called accepted besides.
    let called = config.public_url.join(call.request.uri().path());
    let us = [config.endpoint("/token"), config.public_url.join("/token"), called];
    if audience != issuer && !us.iter().any(|own| own == audience) {
        return Err("aud is neither the issuer nor the endpoint".into());
    }
    let forgotten_at = claims.check_life(at.now(), LONGEST)?;
    let id = claims.require("jti")?;
    if id.len() > MAX_ID {
        return Err("jti is too long".into());
    }
    let once = SecretHash::of(&format!("client assertion\n{own}\n{id}"));
    Ok((once, forgotten_at))
}

/// One answer for all of them, as for a wrong secret.
fn refused(cause: impl Into<Refused>) -> OAuthError {
    super::client_auth::refused(cause)
}
