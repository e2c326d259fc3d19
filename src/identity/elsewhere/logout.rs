//! A provider says that somebody signed out there: OpenID Connect Back-Channel Logout 1.0.

use std::time::Duration;

use serde_json::Value;

use super::metadata::check_claims;
use super::{Failure, Providers};
use crate::config::{IdentityProvider, Protocol};
use crate::domain::clock::Timestamp;
use crate::domain::secret::SecretHash;
use crate::domain::user::Subject;
use crate::jose::Token;

/// What the event is called.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// The longest that a logout token may be good for, and how old one may be: it is sent as soon as it is made.
const LONGEST: Duration = Duration::from_secs(3600);
/// Longest `jti` and `sid`.
const MAX_ID: usize = 512;

/// Whom a provider says has signed out.
#[derive(Debug)]
pub struct Logout {
    /// Who, if it says.
    pub subject: Option<Subject>,
    /// Which session, if it says.
    pub session: Option<String>,
    /// What this token is called for its one use.
    pub once: SecretHash,
    /// Until when that is to be remembered.
    pub forgotten_at: Timestamp,
}

impl Providers {
    /// What a logout token says.
    ///
    /// # Errors
    /// Why it does not count.
    pub async fn logout(&self, provider: &IdentityProvider, text: &str, now: Timestamp) -> Result<Logout, Failure> {
        let Protocol::OpenId { issuer, .. } = &provider.protocol else {
            return Err(Failure::wrong("this provider has no logout tokens"));
        };
        let wrong = |what: &str| Failure::wrong(format!("the logout token does not hold: {what}"));
        let token = Token::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if token.has_type() && !token.is_of_type("logout+jwt") && !token.is_of_type("jwt") {
            return Err(wrong("typ is that of another kind of token"));
        }
        let metadata = self.metadata(issuer).await?;
        let claims = self.verified(&metadata, &token).await?;
        // §2.4 has had exp since its final edition; tokens of before are as old as they may be.
        let mut aged = claims.clone();
        let issued_at = claims
            .issued_at()
            .ok()
            .flatten()
            .ok_or_else(|| wrong("iat is missing"))?;
        aged.expire_by(issued_at.plus(LONGEST));
        check_claims(&aged, issuer, &provider.client_id, now, LONGEST)?;
        let event = claims.get("events").and_then(|events| events.get(EVENT));
        if !event.is_some_and(Value::is_object) {
            return Err(wrong("it is about another event"));
        }
        // §2.6: an ID token can never pass for one.
        if claims.get("nonce").is_some() {
            return Err(wrong("it has a nonce"));
        }
        let id = claims.require("jti").map_err(|error| wrong(&error.to_string()))?;
        let member = |name| {
            claims
                .get(name)
                .map(|value| value.as_str().filter(|text| text.len() <= MAX_ID))
        };
        let (sub, session) = match (member("sub"), member("sid")) {
            (None, None) => return Err(wrong("it names neither sub nor sid")),
            (Some(None), _) | (_, Some(None)) => return Err(wrong("sub or sid is malformed")),
            (sub, session) => (sub.flatten(), session.flatten()),
        };
        let subject = sub.map(|sub| Subject::at_provider(&provider.id, sub).ok_or_else(|| wrong("sub is malformed")));
        if id.len() > MAX_ID {
            return Err(wrong("jti is too long"));
        }
        Ok(Logout {
            subject: subject.transpose()?,
            session: session.map(str::to_owned),
            once: SecretHash::of(&format!("logout token\0{}\0{id}", provider.id)),
            forgotten_at: issued_at.plus(2 * LONGEST),
        })
    }
}
