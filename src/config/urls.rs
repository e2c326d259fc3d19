//! URLs, origins, hosts and paths.

use url::{Host, Url};

use super::read::At;
use super::values::shown;
use super::{PublicUrl, UpstreamUrl};
use crate::domain::uri::{MAX_URI_LENGTH, is_loopback};

/// Paths that the gateway itself answers, or that belong to its admin listener, with what is below them.
const OWN_PATHS: &[&str] = &[
    "authorize",
    "token",
    "register",
    "revoke",
    "introspect",
    "userinfo",
    "jwks.json",
    "login",
    "consent",
    "account",
    "logout",
    "metrics",
    "healthz",
    "readyz",
];
/// By themselves: a server may well be called `device`.
const OWN_PATHS_ALONE: &[&str] = &["/par", "/device", "/device_authorization"];
const PUBLIC_EXAMPLE: &str = "write https://mcp.example.com, or http://127.0.0.1:8080 for this machine alone";

/// An absolute http or https URL without anything that a parser would forgive.
fn absolute(text: &str) -> Option<Url> {
    let strict = text.len() <= MAX_URI_LENGTH
        && text
            .bytes()
            .all(|b| (0x21..0x7f).contains(&b) && !b"\\\"<>^`{|}".contains(&b));
    let after = text.split_once("://").map(|(_, after)| after)?;
    if !strict || after.starts_with('/') {
        return None;
    }
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.port() != Some(0))
}

/// Whether the authority carries a user name or a password, even an empty one.
fn has_user(text: &str) -> bool {
    let authority = text.split_once("://").map_or(text, |(_, after)| after);
    authority
        .split(['/', '?', '#'])
        .next()
        .is_some_and(|authority| authority.contains('@'))
}

impl At<'_> {
    /// `public_url`: an origin, https or on loopback.
    pub(super) fn public_url(&self) -> Option<PublicUrl> {
        let text = self.text()?;
        if has_user(text) {
            return self.refuse(format!("must not carry a user name or password; {PUBLIC_EXAMPLE}"));
        }
        let Some(url) = absolute(text) else {
            return self.refuse(format!(
                "{} is not an absolute http or https URL; {PUBLIC_EXAMPLE}",
                shown(text)
            ));
        };
        let origin = url.origin().ascii_serialization();
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return self.refuse(format!(
                "must be an origin without path, query and fragment; write {origin}"
            ));
        }
        if let Some(Host::Domain(name)) = url.host()
            && (name.ends_with('.') || name.contains(".."))
        {
            return self.refuse("its host name has an empty label; leave out the dot");
        }
        let loopback = is_loopback(&url);
        if url.scheme() == "http" && !loopback {
            let secure = origin.replacen("http://", "https://", 1);
            return self.refuse(format!(
                "http is allowed only on localhost, 127.0.0.1 and [::1], because tokens and passwords would travel in clear; write {secure}"
            ));
        }
        Some(PublicUrl {
            origin,
            scheme: if url.scheme() == "https" { "https" } else { "http" },
            host: url.host_str()?.to_owned(),
            port: url.port(),
            loopback,
        })
    }

    /// `upstreams[].url`.
    pub(super) fn upstream_url(&self) -> Option<UpstreamUrl> {
        let text = self.text()?;
        // Said first, and without the text: the password would be in it.
        if has_user(text) {
            return self
                .refuse("carries a user name or password; send them with `headers: { Authorization: … }` instead");
        }
        let Some(url) = absolute(text) else {
            let suggestion = Some(format!("http://{text}"))
                .filter(|_| !text.contains("://") && !text.starts_with('/'))
                .and_then(|text| absolute(&text))
                .map_or_else(
                    || "http://127.0.0.1:3001/mcp".to_owned(),
                    |url| {
                        if url.path() == "/" {
                            format!("{url}mcp")
                        } else {
                            url.to_string()
                        }
                    },
                );
            return self.refuse(format!(
                "{} is not an absolute http or https URL; write {suggestion}",
                shown(text)
            ));
        };
        if url.query().is_some() || url.fragment().is_some() {
            let bare = text.split(['?', '#']).next().unwrap_or_default();
            return self.refuse(format!(
                "must not have a query or a fragment; write {}, and keys for the server under `headers`",
                shown(bare)
            ));
        }
        let authority = url.host_str()?;
        Some(UpstreamUrl {
            tls: url.scheme() == "https",
            host: authority.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: url.port_or_known_default()?,
            authority: url
                .port()
                .map_or_else(|| authority.to_owned(), |port| format!("{authority}:{port}")),
            path: url.path().to_owned(),
        })
    }

    /// The issuer of an identity provider, byte for byte: https, or http on this machine.
    pub(super) fn issuer(&self) -> Option<String> {
        let text = self.text()?;
        let url = absolute(text).filter(|url| !has_user(text) && url.query().is_none() && url.fragment().is_none());
        match url {
            Some(url) if url.scheme() == "https" || is_loopback(&url) => Some(text.to_owned()),
            Some(_) => self.refuse("must be https: who people are would travel in clear"),
            None => self.refuse("is not an issuer; write https://idp.example.com, without query and fragment"),
        }
    }

    /// The same as the beginning of other addresses: without a slash at its end.
    pub(super) fn provider_base(&self) -> Option<String> {
        self.issuer().map(|url| url.trim_end_matches('/').to_owned())
    }

    /// A browser origin, or `*`.
    pub(super) fn origin(&self) -> Option<String> {
        let text = self.text()?;
        if text == "*" {
            return Some(text.to_owned());
        }
        let Some(url) = absolute(text).filter(|_| !has_user(text)) else {
            return self.refuse("is not an origin; write https://app.example.com, http://localhost:6274 or \"*\"");
        };
        // A browser writes an origin in exactly one way; anything else would never match.
        let origin = url.origin().ascii_serialization();
        if origin == text {
            return Some(origin);
        }
        self.refuse(format!("{} is not an origin; write {origin}", shown(text)))
    }

    /// `upstreams[].host`: a name, with a port or without, in lower case.
    pub(super) fn host(&self) -> Option<String> {
        let text = self.text()?;
        let lower = text.to_ascii_lowercase();
        let (name, port) = split_port(&lower);
        // What the parser has to change was not a host to begin with; a port is written in one way.
        let fine = absolute(&format!("https://{name}/")).is_some_and(|url| url.host_str() == Some(name))
            && !name.contains("..")
            && !name.ends_with('.')
            && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|n| n > 0 && n.to_string() == port));
        let found = Some(lower.clone()).filter(|_| fine);
        found.or_else(|| {
            self.refuse(format!(
                "{} is not a host; write tools.example.com or tools.example.com:8443",
                shown(text)
            ))
        })
    }

    /// A public path in canonical form: no trailing slash, empty for the root.
    pub(super) fn path(&self) -> Option<String> {
        let text = self.text()?;
        let Some(rest) = text.strip_prefix('/') else {
            return self.refuse(format!("must begin with `/`; write {}", shown(&format!("/{text}"))));
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return if text == "/" {
                Some(String::new())
            } else {
                self.refuse("has an empty segment; write / for the root")
            };
        }
        if text.len() > 512 {
            return self.refuse("is longer than 512 bytes");
        }
        if let Some(odd) = rest.chars().find(|c| !is_path_character(*c)) {
            return self.refuse(format!(
                "has {odd:?} in it; write letters, digits and - . _ ~ ! $ & ' ( ) * + , = : @ between the slashes"
            ));
        }
        if rest.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return self.refuse("has an empty segment, `.` or `..` in it; write it without");
        }
        Some(format!("/{rest}"))
    }

    /// Refuses a path that the gateway answers itself, or that has one of those below it.
    pub(super) fn not_ours(&self, path: &str, endpoint_prefix: &str) -> Option<()> {
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        if path.split('/').any(|segment| segment == ".well-known") {
            return self.refuse("`.well-known` belongs to the gateway; write another path");
        }
        if OWN_PATHS.contains(&first) || OWN_PATHS_ALONE.contains(&path) {
            return self.refuse(format!("/{first} belongs to the gateway; write another path"));
        }
        if !endpoint_prefix.is_empty() && !path.is_empty() && overlap(path, endpoint_prefix) {
            return self.refuse(format!(
                "overlaps oauth.endpoint_prefix, which is {endpoint_prefix}; write another path"
            ));
        }
        Some(())
    }
}

/// RFC 3986 `pchar` and `/`, without `%` (one path, one spelling) and `;` (which some servers cut off).
fn is_path_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/-._~!$&'()*+,=:@".contains(c)
}

/// A host's name and port.
pub(super) fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// Whether one path is the other or lies below it, by whole segments. The root, which is empty, overlaps all.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let below = |path: &str, base: &str| {
        path.strip_prefix(base)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    below(one, other) || below(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec: B12, I1
    #[test]
    fn paths_overlap_by_whole_segments() {
        for (one, other, found) in [
            ("/mcp", "/mcp", true),
            ("/mcp", "/mcp/a", true),
            ("/mcp", "/mcp-other", false),
            ("/a/mcp", "/b/mcp", false),
            ("", "/a", true),
            ("", "", true),
        ] {
            assert_eq!(overlap(one, other), found, "{one} {other}");
            assert_eq!(overlap(other, one), found, "{other} {one}");
        }
    }
}
