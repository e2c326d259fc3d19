//! OpenID Connect: the authorization code flow with PKCE, state and nonce.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::Url;
use zeroize::Zeroizing;

use super::metadata::{Metadata, check_claims};
use super::said::{Said, find};
use super::{Failure, Heard, Providers, Trip};
use crate::config::{IdentityProvider, Manners};
use crate::domain::clock::Timestamp;
use crate::fetch::Question;
use crate::jose::{Claims, Token};

/// The longest that an ID token may be good for: longer than any provider's, but some end is a sign of sense.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// How far clocks may differ.
const SKEW: Duration = Duration::from_secs(60);
/// Longest name of a session.
const MAX_SESSION: usize = 256;

/// What came of a refresh, before anything of it is believed.
pub(super) struct Refreshed {
    metadata: Arc<Metadata>,
    answer: Map<String, Value>,
}

impl Refreshed {
    /// The token that takes the place of the one before.
    pub(super) fn token(&self) -> Option<&str> {
        text(&self.answer, "refresh_token")
    }
}

impl Providers {
    pub(super) async fn openid_way(
        &self,
        provider: &IdentityProvider,
        issuer: &str,
        manners: Manners,
        trip: Trip<'_>,
    ) -> Result<Url, Failure> {
        let metadata = self.metadata(issuer).await?;
        let mut url = metadata.authorization_endpoint.clone();
        let mut query = url.query_pairs_mut();
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &provider.client_id)
            .append_pair("redirect_uri", trip.redirect_uri)
            .append_pair("scope", &scope(provider, &metadata, manners))
            .append_pair("state", trip.state)
            .append_pair("nonce", trip.nonce)
            .append_pair("code_challenge", &challenge(trip.verifier))
            .append_pair("code_challenge_method", "S256");
        if manners.offline_by_parameter {
            query.append_pair("access_type", "offline");
        }
        if let Some(hint) = trip.login_hint {
            query.append_pair("login_hint", hint);
        }
        if let ([only], Some(claim)) = (provider.allowed.organizations.as_slice(), manners.organization_claim) {
            query.append_pair(claim, only);
        }
        match (trip.again, manners.chooses_account_only) {
            (true, true) => drop(query.append_pair("prompt", "select_account")),
            // With max_age it has to say when they signed in.
            (true, false) => drop(query.append_pair("prompt", "login").append_pair("max_age", "0")),
            (false, _) if trip.choose => drop(query.append_pair("prompt", "select_account")),
            (false, false) => {
                if let Some(seconds) = trip.max_age {
                    query.append_pair("max_age", &seconds.to_string());
                }
            }
            (false, true) => {}
        }
        drop(query);
        Ok(url)
    }

    pub(super) async fn openid_arrival(
        &self,
        provider: &IdentityProvider,
        issuer: &str,
        manners: Manners,
        (code, iss): (&str, Option<&str>),
        trip: Trip<'_>,
        now: Timestamp,
    ) -> Result<Heard, Failure> {
        let metadata = self.metadata(issuer).await?;
        // RFC 9207 §2.4: an answer of another provider, or one that should say whose it is and does not.
        if iss.map_or(metadata.iss_in_answers, |iss| iss != issuer) {
            return Err(Failure::wrong(
                "the answer is not this provider's: iss is another issuer",
            ));
        }
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", trip.redirect_uri),
            ("code_verifier", trip.verifier),
        ];
        let answer = self.tokens(provider, &metadata, &form).await?;
        let id_token = text(&answer, "id_token").ok_or_else(|| Failure::wrong("it gave no ID token"))?;
        let claims = self.id_claims(provider, issuer, &metadata, id_token, now).await?;
        let nonce = claims.text("nonce").unwrap_or_default();
        if !bool::from(nonce.as_bytes().ct_eq(trip.nonce.as_bytes())) {
            return Err(Failure::wrong(
                "its token does not hold: nonce is that of another sign-in",
            ));
        }
        check_freshness(&claims, manners, trip, now)?;
        self.heard(provider, manners, &metadata, &answer, Some(&claims)).await
    }

    /// What it gives for the refresh token that it gave before: tokens, and perhaps another such token in its place.
    pub(super) async fn openid_refresh(
        &self,
        provider: &IdentityProvider,
        issuer: &str,
        token: &str,
    ) -> Result<Refreshed, Failure> {
        let metadata = self.metadata(issuer).await?;
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        let answer = self.tokens(provider, &metadata, &form).await?;
        Ok(Refreshed { metadata, answer })
    }

    /// What it says of somebody now; `None` if it says nothing more than that the token is good.
    pub(super) async fn openid_again(
        &self,
        provider: &IdentityProvider,
        issuer: &str,
        manners: Manners,
        refreshed: &Refreshed,
        now: Timestamp,
    ) -> Result<Option<Heard>, Failure> {
        let Refreshed { metadata, answer } = refreshed;
        let claims = match text(answer, "id_token") {
            Some(id_token) => Some(self.id_claims(provider, issuer, metadata, id_token, now).await?),
            None => None,
        };
        if claims.is_none() && metadata.userinfo_endpoint.is_none() {
            return Ok(None);
        }
        self.heard(provider, manners, metadata, answer, claims.as_ref())
            .await
            .map(Some)
    }

    async fn id_claims(
        &self,
        provider: &IdentityProvider,
        issuer: &str,
        metadata: &Metadata,
        id_token: &str,
        now: Timestamp,
    ) -> Result<Claims, Failure> {
        let token = Token::parse(id_token).map_err(|error| Failure::wrong(format!("its ID token: {error}")))?;
        // RFC 8725 §3.11: a logout token or an access token is no ID token.
        if token.has_type() && !token.is_of_type("jwt") {
            return Err(Failure::wrong("its ID token has the type of another kind of token"));
        }
        let claims = self.verified(metadata, &token).await?;
        check_claims(&claims, issuer, &provider.client_id, now, LONGEST)?;
        if claims.get("events").is_some() {
            return Err(Failure::wrong("its ID token is a logout token"));
        }
        Ok(claims)
    }

    /// Puts together what the ID token says and, where something is missing there, what the userinfo endpoint does.
    async fn heard(
        &self,
        provider: &IdentityProvider,
        manners: Manners,
        metadata: &Metadata,
        answer: &Map<String, Value>,
        claims: Option<&Claims>,
    ) -> Result<Heard, Failure> {
        let mut all = claims.map(|claims| claims.all().clone()).unwrap_or_default();
        let names = &provider.claims;
        let has = |name: &String| find(&all, name).is_some();
        let complete = names.username.iter().any(has) && has(&names.email) && has(&names.name) && has(&names.groups);
        if let Some(url) = metadata.userinfo_endpoint.as_ref().filter(|_| !complete) {
            let access = text(answer, "access_token").ok_or_else(|| Failure::wrong("it gave no access token"))?;
            let more = self.userinfo(url, access).await?;
            let sub = more.get("sub").and_then(Value::as_str).unwrap_or_default();
            // OpenID Connect Core §5.3.2: else it may be about anybody.
            if claims.is_some_and(|claims| claims.text("sub") != Some(sub)) {
                return Err(Failure::wrong("its userinfo is about somebody else"));
            }
            for (name, value) in more {
                all.entry(name).or_insert(value);
            }
        }
        let said = Said::of_claims(&all, names, manners.organization_claim)?;
        Ok(Heard {
            said,
            token: text(answer, "refresh_token").map(|token| Zeroizing::new(token.to_owned())),
            session: text(&all, "sid")
                .filter(|sid| sid.len() <= MAX_SESSION)
                .map(str::to_owned),
            methods: methods(&all),
        })
    }

    async fn userinfo(&self, url: &Url, access: &str) -> Result<Map<String, Value>, Failure> {
        let authorization = Zeroizing::new(format!("Bearer {access}"));
        let question = Question {
            url,
            form: None,
            authorization: Some(&authorization),
        };
        let reply = self
            .fetcher
            .call(question)
            .await
            .map_err(Failure::unreachable("its userinfo endpoint"))?;
        match (reply.status, reply.json) {
            (200, Some(Value::Object(claims))) => Ok(claims),
            (200, _) => Err(Failure::wrong(
                "its userinfo endpoint does not answer with a JSON object",
            )),
            // The token is fresh, so it is the account that is not good.
            (401 | 403, _) => Err(Failure::Refused("that there is no such account (userinfo)".to_owned())),
            (status, _) => Err(Failure::status("its userinfo endpoint", status)),
        }
    }

    /// Asks the token endpoint.
    async fn tokens(
        &self,
        provider: &IdentityProvider,
        metadata: &Metadata,
        form: &[(&str, &str)],
    ) -> Result<Map<String, Value>, Failure> {
        let mut form = form.to_vec();
        let secret = provider.client_secret.as_deref();
        let authorization = match secret {
            Some(secret) if !metadata.secret_in_body => Some(basic(&provider.client_id, secret)),
            Some(secret) => {
                form.push(("client_secret", secret));
                None
            }
            None => None,
        };
        if authorization.is_none() {
            form.push(("client_id", &provider.client_id));
        }
        let question = Question {
            url: &metadata.token_endpoint,
            form: Some(&form),
            authorization: authorization.as_deref().map(String::as_str),
        };
        let reply = self
            .fetcher
            .call(question)
            .await
            .map_err(Failure::unreachable("its token endpoint"))?;
        match (reply.status, reply.json) {
            (200, Some(Value::Object(answer))) => Ok(answer),
            (200, _) => Err(Failure::wrong("its token endpoint does not answer with a JSON object")),
            (400..=428 | 430..=499, Some(error)) => Err(refusal(&error)),
            (status, _) => Err(Failure::status("its token endpoint", status)),
        }
    }
}

/// What an error of RFC 6749 §5.2 means. Only the code is looked at, and only said again if it is one.
pub(super) fn refusal(error: &Value) -> Failure {
    let code = error.get("error").and_then(Value::as_str).unwrap_or_default();
    let fine = !code.is_empty() && code.len() <= 40 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    match code {
        "invalid_grant" | "bad_verification_code" | "bad_refresh_token" => Failure::Refused(code.to_owned()),
        "temporarily_unavailable" | "server_error" | "slow_down" => Failure::Unreachable {
            what: "its token endpoint",
            cause: code.to_owned(),
        },
        _ if fine => Failure::wrong(format!(
            "its token endpoint says {code}: look at client_id, client_secret and scopes"
        )),
        _ => Failure::wrong("its token endpoint answers with an error that has no code"),
    }
}

/// Whether they signed in there as lately as was asked for.
fn check_freshness(claims: &Claims, manners: Manners, trip: Trip<'_>, now: Timestamp) -> Result<(), Failure> {
    // It cannot be made to, and does not say.
    if manners.chooses_account_only || (!trip.again && trip.max_age.is_none()) {
        return Ok(());
    }
    let at = claims.authenticated_at().ok().flatten();
    let at = at.ok_or_else(|| {
        Failure::wrong("it was asked to have them sign in, and does not say when they did (auth_time)")
    })?;
    let latest_by = |at: Timestamp| at.plus(SKEW);
    let too_old = trip
        .max_age
        .is_some_and(|most| latest_by(at).plus(Duration::from_secs(most)) < now);
    if too_old || (trip.again && latest_by(at) < trip.begun_at) {
        return Err(Failure::wrong("it was asked to have them sign in again, and did not"));
    }
    Ok(())
}

/// What is asked for: what the file says, else what is needed to know somebody, and a refresh token to ask again with.
fn scope(provider: &IdentityProvider, metadata: &Metadata, manners: Manners) -> String {
    if let Some(scopes) = &provider.scopes {
        let all = std::iter::once("openid").chain(scopes.iter().map(String::as_str).filter(|scope| *scope != "openid"));
        return all.collect::<Vec<_>>().join(" ");
    }
    let offline = metadata.has_offline_scope && !manners.offline_by_parameter && provider.client_secret.is_some();
    let more = if offline { " offline_access" } else { "" };
    format!("openid profile email{more}")
}

/// RFC 7636 §4.2.
pub(super) fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))
}

/// RFC 6749 §2.3.1: both parts are encoded as in a form.
fn basic(id: &str, secret: &str) -> Zeroizing<String> {
    let part = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", part(id), part(secret)));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
}

/// `amr` (RFC 8176), as far as it is a list of short words.
fn methods(claims: &Map<String, Value>) -> Vec<String> {
    let list = claims.get("amr").and_then(Value::as_array);
    let words = list.into_iter().flatten().filter_map(Value::as_str);
    words
        .filter(|word| word.len() <= 32 && word.bytes().all(|b| b.is_ascii_graphic()))
        .take(8)
        .map(str::to_owned)
        .collect()
}

pub(super) fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_encoded_before_it_is_joined() {
        assert_eq!(
            *basic("us:all", "p+ä %"),
            format!("Basic {}", STANDARD.encode("us%3Aall:p%2B%C3%A4+%25"))
        );
    }

    /// RFC 7636, Appendix B.
    #[test]
    fn a_challenge_is_the_verifiers_hash() {
        assert_eq!(
            challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }
}
