//! Headers that upstreams get: who is calling, and what the configuration adds.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::read::At;
use super::values::shown;
use super::{Claim, DEFAULT_IDENTITY_HEADERS, IdentityJwt, keys};

/// Headers that say how a message is framed or where it goes, that MCP gives a meaning, or that the gateway sets itself.
const RESERVED: &[&str] = &[
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "last-event-id",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];
/// Headers that carry a credential: the upstream's own may be in them, a claim may not.
const CREDENTIALS: &[&str] = &["authorization", "cookie"];
/// What the file calls the claims.
const CLAIMS: [(&str, Claim); 7] = [
    ("subject", Claim::Subject),
    ("username", Claim::Username),
    ("email", Claim::Email),
    ("name", Claim::Name),
    ("groups", Claim::Groups),
    ("scope", Claim::Scope),
    ("client_id", Claim::ClientId),
];

/// What carries the signed statement of who is calling, if nothing else is said.
const IDENTITY_JWT: HeaderName = HeaderName::from_static("x-forwarded-identity");
/// How long such a statement is good at most, and if nothing else is said.
const IDENTITY_JWT_LIFETIME: Duration = Duration::from_secs(300);
/// The longest text that can be an audience.
const MAX_AUDIENCE: usize = 512;

/// Headers and what they carry.
type IdentityHeaders = Vec<(HeaderName, Claim)>;

/// The map of contract §4.
pub(super) fn default_identity() -> IdentityHeaders {
    DEFAULT_IDENTITY_HEADERS.to_vec()
}

/// One spelling for all: some servers take `_` for `-`.
fn same(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

impl At<'_> {
    /// `identity_headers`: `default`, or header names and claims.
    pub(super) fn identity_headers(&self) -> Option<IdentityHeaders> {
        if self.is_word("default") {
            return Some(default_identity());
        }
        let entries = self.entries(|| {
            "must be `default` or a map from header names to claims; write { X-User: subject }".to_owned()
        })?;
        let mut found: IdentityHeaders = Vec::new();
        for (key, at) in entries {
            let name = at.header_name(key, &found);
            let Some(claim) = at.word(&CLAIMS) else { continue };
            let Some(name) = name else { continue };
            if CREDENTIALS.contains(&name.as_str()) {
                at.problem("carries a credential and no claim; write another name");
            } else if name.as_str().contains('_') {
                at.problem("has `_` in it, which some servers take for `-`; write `-`");
            } else {
                found.push((name, claim));
            }
        }
        Some(found)
    }

    /// `identity_jwt`: `true`, `false`, or a map of what is different.
    #[expect(clippy::option_option, reason = "none is a value, and a problem is none")]
    pub(super) fn identity_jwt(
        &self,
        identity: &IdentityHeaders,
        fixed: &[(HeaderName, HeaderValue)],
        issuer: &str,
    ) -> Option<Option<IdentityJwt>> {
        let (mut header, mut audience, mut lifetime) = (Some(IDENTITY_JWT), None, IDENTITY_JWT_LIFETIME);
        if self.is_map() {
            let object = self.object(keys::IDENTITY_JWT)?;
            if object.get("header").is_some() {
                header = object.optional("header", |at| {
                    let name = at.header_name::<()>(at.text()?, &[])?;
                    if CREDENTIALS.contains(&name.as_str()) || name.as_str().contains('_') {
                        return at.refuse("is for a credential, or has `_` in it, which some servers take for `-`; write another name");
                    }
                    Some(name)
                });
            }
            audience = object.optional("audience", |at| {
                let text = at.text()?;
                if text.len() > MAX_AUDIENCE {
                    return at.refuse(format!("is longer than {MAX_AUDIENCE} bytes"));
                }
                // What is for the gateway itself could be presented to it.
                if text.starts_with(issuer)
                    && text
                        .get(issuer.len()..)
                        .is_none_or(|rest| rest.trim_matches('/').is_empty())
                {
                    return at.refuse("is this gateway itself; write a name of the MCP server");
                }
                Some(text.to_owned())
            });
            lifetime = object.or("lifetime", lifetime, |at| {
                at.duration(Duration::from_secs(30), IDENTITY_JWT_LIFETIME)
            });
        } else if !self.boolean()? {
            return Some(None);
        }
        let header = header?;
        let spelled = same(&header);
        let usual = DEFAULT_IDENTITY_HEADERS;
        let mut others = usual.iter().chain(identity).map(|(name, _)| name);
        if others.any(|name| same(name) == spelled) || fixed.iter().any(|(name, _)| same(name) == spelled) {
            return self.refuse(format!(
                "{header} carries something else already; write another `header`"
            ));
        }
        Some(Some(IdentityJwt {
            header,
            audience,
            lifetime,
        }))
    }

    /// `headers`: names and values, which may be secrets.
    pub(super) fn static_headers(&self, identity: &IdentityHeaders) -> Option<Vec<(HeaderName, HeaderValue)>> {
        let entries = self.entries(|| {
            "must be a map from header names to values; write { X-Api-Key: { env: API_KEY } }".to_owned()
        })?;
        let mut found: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (key, at) in entries {
            let name = at.header_name(key, &found);
            let Some(value) = at.header_value() else { continue };
            let Some(name) = name else { continue };
            let spelled = same(&name);
            if DEFAULT_IDENTITY_HEADERS
                .iter()
                .chain(identity)
                .any(|(other, _)| same(other) == spelled)
            {
                at.problem("says who is calling; only `identity_headers` may set it");
            } else {
                found.push((name, value));
            }
        }
        Some(found)
    }

    /// A name that may be set at all and is not in the list yet, in whatever spelling.
    fn header_name<T>(&self, key: &str, earlier: &[(HeaderName, T)]) -> Option<HeaderName> {
        let Some(name) = HeaderName::try_from(key).ok().filter(|name| name.as_str().len() <= 128) else {
            return self.refuse(format!("{} is not a header name", shown(key)));
        };
        let spelled = same(&name);
        if RESERVED.contains(&spelled.as_str()) || spelled.starts_with("mcp-") {
            return self.refuse(format!(
                "{name} belongs to the transport and cannot be set; leave it out"
            ));
        }
        if earlier.iter().any(|(other, _)| same(other) == spelled) {
            return self.refuse(format!(
                "{name} is there twice; header names differ in more than case and `_`"
            ));
        }
        Some(name)
    }

    fn header_value(&self) -> Option<HeaderValue> {
        let text = self.secret()?;
        // The type lets bytes above 127 through, which nobody reads the same way.
        let fine = text.is_ascii() && text.trim() == *text;
        let Some(mut value) = HeaderValue::from_str(&text).ok().filter(|_| fine) else {
            return self.refuse("must be visible ASCII on one line, without space around it");
        };
        value.set_sensitive(true);
        Some(value)
    }
}
