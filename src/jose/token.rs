//! A token from outside, before and after its signature is believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::keys::{KeySet, PublicKey};
use super::{Algorithm, Claims, MAX_TOKEN, library};

/// Longest key id that is looked for.
const MAX_KEY_ID: usize = 512;

/// A token in compact form (RFC 7515 §7.1) of which nothing is believed yet.
#[derive(Debug)]
pub struct Token<'a> {
    message: &'a str,
    signature: &'a str,
    payload: &'a str,
    algorithm: Algorithm,
    key_id: Option<String>,
    media_type: Option<String>,
    key: Option<Value>,
}

/// Why a token does not count. Nothing of the token is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Longer than any token that we need.
    #[error("it is longer than 16 KiB")]
    TooLong,
    /// Not three parts of base64url with JSON objects in the first two.
    #[error("it is not a signed token in compact form")]
    Form,
    /// An algorithm that is not honoured, or not for this purpose.
    #[error("its algorithm is not accepted")]
    Algorithm,
    /// Header parameters that would have to be understood (RFC 7515 §4.1.11).
    #[error("it has critical header parameters")]
    Critical,
    /// `typ` is not what it must be (RFC 8725 §3.11).
    #[error("its typ is not the one of this purpose")]
    MediaType,
    /// No key of the signer fits.
    #[error("none of the signer's keys fits")]
    Key,
    /// The signature does not hold.
    #[error("the signature does not hold")]
    Signature,
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// See [`InvalidToken`].
    pub fn parse(text: &'a str) -> Result<Self, InvalidToken> {
        if text.len() > MAX_TOKEN {
            return Err(InvalidToken::TooLong);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(InvalidToken::Form)?;
        let (header, payload) = message.split_once('.').ok_or(InvalidToken::Form)?;
        if signature.is_empty() || payload.contains('.') {
            return Err(InvalidToken::Form);
        }
        let header = object(header)?;
        if header.contains_key("crit") {
            return Err(InvalidToken::Critical);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(InvalidToken::Form)?;
        Ok(Self {
            message,
            signature,
            payload,
            algorithm: Algorithm::parse(algorithm).ok_or(InvalidToken::Algorithm)?,
            key_id: member(&header, "kid")?.filter(|id| id.len() <= MAX_KEY_ID),
            media_type: member(&header, "typ")?,
            key: header.get("jwk").cloned(),
        })
    }

    /// Whether its `typ` is this; a leading `application/` may be left out, and case does not matter (RFC 7515 §4.1.9).
    #[must_use]
    pub fn is_of_type(&self, wanted: &str) -> bool {
        self.media_type.as_deref().is_some_and(|own| {
            let own = own.to_ascii_lowercase();
            own.strip_prefix("application/").unwrap_or(&own) == wanted
        })
    }

    /// Whether it says what type it is.
    #[must_use]
    pub const fn has_type(&self) -> bool {
        self.media_type.is_some()
    }

    /// The name of the key that it says it is signed with.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// The algorithm that it says it is signed with.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key in its own header, which only a proof of possession may use (RFC 9449 §4.2).
    ///
    /// # Errors
    /// If there is none, or none that we could use.
    pub fn embedded_key(&self) -> Result<PublicKey, InvalidToken> {
        let key = self.key.as_ref().ok_or(InvalidToken::Key)?;
        PublicKey::parse(key).map_err(|_| InvalidToken::Key)
    }

    /// What it says about its issuer, unverified: to find out whose keys to verify it with, and for nothing else.
    #[must_use]
    pub fn claimed_issuer(&self) -> Option<String> {
        let claims = object(self.payload).ok()?;
        member(&claims, "iss").ok().flatten()
    }

    /// The claims, if one of these keys made the signature with one of these algorithms.
    ///
    /// # Errors
    /// See [`InvalidToken`].
    pub fn verify(&self, keys: &KeySet, accepted: &[Algorithm]) -> Result<Claims, InvalidToken> {
        if !accepted.contains(&self.algorithm) {
            return Err(InvalidToken::Algorithm);
        }
        let mut error = InvalidToken::Key;
        for key in keys.candidates(self.algorithm, self.key_id()) {
            let verified = jsonwebtoken::crypto::verify(
                self.signature,
                self.message.as_bytes(),
                key.key(),
                library(self.algorithm),
            );
            if matches!(verified, Ok(true)) {
                return object(self.payload).map(Claims::new);
            }
            error = InvalidToken::Signature;
        }
        Err(error)
    }
}

/// One part that is a JSON object.
fn object(part: &str) -> Result<Map<String, Value>, InvalidToken> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| InvalidToken::Form)?;
    serde_json::from_slice(&bytes).map_err(|_| InvalidToken::Form)
}

/// A member that is text, if it is there.
fn member(object: &Map<String, Value>, name: &str) -> Result<Option<String>, InvalidToken> {
    match object.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(InvalidToken::Form),
    }
}

#[cfg(test)]
mod tests {
    use super::super::SigningKey;
    use super::*;
    use crate::domain::clock::Timestamp;
    use proptest::prelude::*;
    use serde_json::json;

    fn key(algorithm: Algorithm) -> SigningKey {
        SigningKey::generate(algorithm, Timestamp::from_millis(0)).unwrap()
    }

    fn set(keys: &[&SigningKey]) -> KeySet {
        KeySet::parse(&json!({ "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>() })).unwrap()
    }

    fn forge(header: &Value, claims: &Value, signature: &str) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.{signature}", part(header), part(claims))
    }

    #[test]
    fn what_we_sign_verifies() {
        for algorithm in Algorithm::OURS {
            let own = key(algorithm);
            let text = own.sign("at+jwt", &json!({"sub": "ada"})).unwrap();
            let token = Token::parse(&text).unwrap();
            assert!(token.is_of_type("at+jwt") && token.algorithm() == algorithm);
            assert_eq!(
                token.verify(&set(&[&own]), &[algorithm]).unwrap().text("sub"),
                Some("ada")
            );
            assert_eq!(token.verify(&set(&[&own]), &[]), Err(InvalidToken::Algorithm));
            assert_eq!(
                token.verify(&set(&[&key(algorithm)]), &[algorithm]),
                Err(InvalidToken::Key)
            );
        }
    }

    /// Spec: J2, F21
    #[test]
    fn a_token_cannot_choose_how_it_is_verified() {
        let (own, other) = (key(Algorithm::Es256), key(Algorithm::Es256));
        let keys = set(&[&own]);
        let id = own.public()["kid"].clone();
        let text = own.sign("x", &json!({"sub": "ada"})).unwrap();
        let signature = text.rsplit_once('.').unwrap().1;
        for algorithm in ["none", "None", "HS256", "RS512", "ES384", ""] {
            let forged = forge(&json!({"alg": algorithm, "kid": id}), &json!({"sub": "eve"}), signature);
            assert_eq!(
                Token::parse(&forged).unwrap_err(),
                InvalidToken::Algorithm,
                "{algorithm}"
            );
        }
        let claims = json!({"sub": "eve"});
        for header in [
            json!({"alg": "ES256", "kid": id}),
            json!({"alg": "ES256"}),
            json!({"alg": "RS256", "kid": id}),
            json!({"alg": "EdDSA", "kid": id}),
            json!({"alg": "ES256", "kid": id, "jwk": other.public()}),
        ] {
            let forged = forge(&header, &claims, signature);
            let verified = Token::parse(&forged).unwrap().verify(&keys, &Algorithm::ALL);
            assert!(
                matches!(verified, Err(InvalidToken::Signature | InvalidToken::Key)),
                "{header}: {verified:?}"
            );
        }
        let critical = forge(&json!({"alg": "ES256", "crit": ["exp"]}), &claims, signature);
        assert_eq!(Token::parse(&critical).unwrap_err(), InvalidToken::Critical);
        let (message, _) = text.rsplit_once('.').unwrap();
        assert_eq!(Token::parse(&format!("{message}.")).unwrap_err(), InvalidToken::Form);
    }

    #[test]
    fn a_key_says_what_it_is_for() {
        let own = key(Algorithm::Rs256);
        let text = own.sign("x", &json!({})).unwrap();
        let token = Token::parse(&text).unwrap();
        let with = |change: &dyn Fn(&mut Map<String, Value>)| {
            let mut public = own.public();
            change(public.as_object_mut().unwrap());
            KeySet::parse(&json!({ "keys": [public] }))
        };
        assert!(token.verify(&with(&|_| {}).unwrap(), &Algorithm::ALL).is_ok());
        let pss = with(&|key| drop(key.insert("alg".into(), "PS256".into()))).unwrap();
        assert_eq!(token.verify(&pss, &Algorithm::ALL), Err(InvalidToken::Key));
        assert!(with(&|key| drop(key.insert("use".into(), "enc".into()))).is_err());
        for member in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            let private = with(&|key| drop(key.insert(member.into(), "x".into())));
            assert_eq!(private.unwrap_err(), super::super::InvalidKeys::Private, "{member}");
        }
        assert!(
            with(&|key| drop(key.insert("n".into(), "AQAB".into()))).is_err(),
            "a modulus of 24 bits"
        );
        let unnamed = with(&|key| drop(key.remove("kid"))).unwrap();
        assert!(token.verify(&unnamed, &Algorithm::ALL).is_ok());
    }

    /// RFC 8037, Appendix A, under both names of the algorithm.
    #[test]
    fn ed25519_has_two_names() {
        let key = |alg: &str| {
            let key =
                json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "alg": alg});
            KeySet::parse(&json!({ "keys": [key] })).unwrap()
        };
        // A.4 signs a payload that is no JSON, so the signature is all that can be looked at.
        let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
                      hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let token = Token::parse(signed).unwrap();
        for name in ["EdDSA", "Ed25519"] {
            assert_eq!(
                token.verify(&key(name), &Algorithm::ALL),
                Err(InvalidToken::Form),
                "{name}"
            );
        }
        assert_eq!(token.verify(&key("ES256"), &Algorithm::ALL), Err(InvalidToken::Key));
        let renamed = format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode("{\"alg\":\"Ed25519\"}"));
        let renamed = Token::parse(&renamed).unwrap();
        assert_eq!(
            renamed.verify(&key("EdDSA"), &Algorithm::ALL),
            Err(InvalidToken::Signature)
        );
    }

    proptest! {
        #[test]
        fn no_text_whatever_breaks_the_parser(text in ".{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,40}", 0..5)) {
            let _ = Token::parse(&text);
            let _ = Token::parse(&parts.join("."));
        }

        #[test]
        fn no_header_whatever_breaks_the_parser(header in "\\{.{0,80}\\}", alg in "[A-Z0-9]{0,6}") {
            let _ = Token::parse(&format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(&header)));
            let _ = Token::parse(&forge(&json!({"alg": alg}), &json!({}), "AA"));
        }
    }
}
