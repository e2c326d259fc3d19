//! `oauth.clients[].jwks` and `.jwks_uri`: the public keys of clients that sign instead of keeping a secret.

use serde_json::{Map, Value, json};
use url::Url;

use super::read::{At, Object};
use super::values::shown;
use crate::domain::client::{ClientKeys, KeySource};
use crate::domain::uri::is_loopback;

/// What a key has besides `kty`, by kind (RFC 7518 §6, RFC 8037 §2); only kinds that we can verify with.
const KINDS: &[(&str, &[&str])] = &[("RSA", &["n", "e"]), ("EC", &["crv", "x", "y"]), ("OKP", &["crv", "x"])];
/// Members that only the owner of a key may have.
const PRIVATE: &[&str] = &["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The keys of an entry of `clients`, if it has any.
pub(super) fn read(object: &Object<'_>) -> Option<ClientKeys> {
    let source = match (object.get("jwks"), object.get("jwks_uri")) {
        (None, None) => return None,
        (Some(_), Some(at)) => return at.refuse("jwks and jwks_uri cannot both be there; keep one of them"),
        (Some(at), None) => KeySource::Inline(at.key_set()?),
        (None, Some(at)) => KeySource::At(at.key_address()?),
    };
    Some(ClientKeys {
        source,
        algorithm: None,
    })
}

impl At<'_> {
    fn key_address(&self) -> Option<String> {
        let text = self.text()?;
        let fine = Url::parse(text).is_ok_and(|url| {
            let secure = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
            secure && url.has_host() && url.username().is_empty() && url.password().is_none()
        });
        if fine {
            return Some(text.to_owned());
        }
        self.refuse(format!(
            "{} is not the address of a key set; write https://ci.example.com/jwks.json",
            shown(text)
        ))
    }

    /// A JSON Web Key Set, written as YAML.
    fn key_set(&self) -> Option<String> {
        const SHAPE: &str = "must be a key set; write {keys: [{kty: EC, crv: P-256, x: ..., y: ...}]}";
        let entries = self.entries(|| SHAPE.to_owned())?;
        let Some((_, list)) = entries.into_iter().find(|(key, _)| *key == "keys") else {
            return self.refuse(SHAPE);
        };
        let items = list.list()?;
        if items.is_empty() {
            return list.refuse("is an empty list; write at least one key");
        }
        let keys: Option<Vec<Value>> = items.iter().map(At::public_key).collect();
        Some(json!({ "keys": keys? }).to_string())
    }

    fn public_key(&self) -> Option<Value> {
        let mut key = Map::new();
        for (name, value) in
            self.entries(|| "must be a map such as {kty: EC, crv: P-256, x: ..., y: ...}".to_owned())?
        {
            if PRIVATE.contains(&name) {
                return value.refuse("belongs to a private or a symmetric key; write the public key alone");
            }
            let member = if value.is_list() {
                value.texts()?.into_iter().map(|(_, text)| Value::from(text)).collect()
            } else {
                Value::from(value.text()?)
            };
            key.insert(name.to_owned(), member);
        }
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let kind = KINDS.iter().find(|(kind, _)| text("kty") == Some(kind));
        let Some((kind, members)) = kind else {
            return self.refuse("needs a kty of RSA, EC or OKP");
        };
        if let Some(missing) = members.iter().find(|member| text(member).is_none()) {
            return self.refuse(format!("is a key of kind {kind} without {missing}"));
        }
        match (*kind, text("crv")) {
            ("EC", Some(curve)) if curve != "P-256" => self.refuse("is on another curve than P-256"),
            ("OKP", Some(curve)) if curve != "Ed25519" => self.refuse("is on another curve than Ed25519"),
            _ => Some(Value::Object(key)),
        }
    }
}
