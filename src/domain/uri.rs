//! The two URIs that decide where things go: redirect URIs (RFC 6749 §3.1.2, RFC 8252 §7) and resources (RFC 8707).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// Longest URI that we read.
pub const MAX_URI_LENGTH: usize = 2048;

/// Private-use schemes of clients that are known to register them (RFC 8252 §7.1). A scheme with a dot in it, the form
/// that the RFC asks for, needs no entry.
pub const DEFAULT_SCHEMES: [&str; 10] = [
    "cursor",
    "vscode",
    "vscode-insiders",
    "windsurf",
    "claude",
    "zed",
    "kiro",
    "goose",
    "raycast",
    "jetbrains",
];

/// Schemes that a browser would run, show or open locally instead of handing them to an app.
const DANGEROUS_SCHEMES: &[&str] = &[
    "javascript",
    "data",
    "file",
    "vbscript",
    "blob",
    "about",
    "filesystem",
    "ws",
    "wss",
    "ftp",
    "view-source",
    "chrome",
    "chrome-extension",
    "ms-browser-extension",
    "intent",
    "mailto",
    "tel",
    "sms",
    "jar",
    "mhtml",
    "res",
];

/// A redirect URI that may be registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RedirectUri(String);

/// Why a redirect URI may not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedirectUri {
    /// Not an absolute URI, too long, or with characters that do not belong in one.
    #[error("it is not an absolute URI of at most 2048 visible ASCII characters")]
    Syntax,
    /// RFC 6749 §3.1.2.
    #[error("it has a fragment")]
    Fragment,
    /// `https://trusted@evil/`.
    #[error("it carries a user name or password")]
    UserInfo,
    /// Wildcards are matched nowhere.
    #[error("it has a wildcard")]
    Wildcard,
    /// `http` off loopback sends the code in clear.
    #[error("http is allowed only for localhost, 127.0.0.1 and [::1]")]
    PlainHttp,
    /// A scheme that is dangerous, or no client's.
    #[error("its scheme is not allowed")]
    Scheme,
    /// The configuration's `allowed_redirect_hosts`.
    #[error("its host is not on this gateway's list of redirect hosts")]
    Host,
}

/// An RFC 8707 resource in canonical form: the public URL of one upstream. The same function makes it from
/// configuration, from `/authorize`, from `/token` and from a token's record, so all of them compare equal or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Resource(String);

/// Why a `resource` parameter cannot name anything (RFC 8707 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a resource is an absolute http or https URI without a fragment")]
pub struct InvalidResource;

/// Which hosts an `https` redirect URI may name: `*`, `*.example.com` or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern(String);

// === impl RedirectUri ===

impl RedirectUri {
    /// Checks a URI that a client wants to register: https anywhere on the list, http on loopback, private-use schemes
    /// (RFC 8252 §7.1) of known shape.
    ///
    /// # Errors
    /// Which rule it breaks.
    pub fn parse(text: &str, allowed_hosts: &[HostPattern]) -> Result<Self, InvalidRedirectUri> {
        Self::parse_with(text, allowed_hosts, &DEFAULT_SCHEMES)
    }

    /// The same with another list of private-use schemes. One with a dot in it needs no entry, a dangerous one is refused
    /// whatever the list says.
    ///
    /// # Errors
    /// Which rule it breaks.
    pub fn parse_with(
        text: &str,
        allowed_hosts: &[HostPattern],
        schemes: &[impl AsRef<str>],
    ) -> Result<Self, InvalidRedirectUri> {
        if text.len() > MAX_URI_LENGTH
            || !text.bytes().all(|b| (0x21..0x7f).contains(&b))
            || text.contains(['<', '>', '"', '\\', '`', '{', '}', '|', '^'])
        {
            return Err(InvalidRedirectUri::Syntax);
        }
        if text.contains('*') {
            return Err(InvalidRedirectUri::Wildcard);
        }
        if text.contains('#') {
            return Err(InvalidRedirectUri::Fragment);
        }
        let url = Url::parse(text).map_err(|_| InvalidRedirectUri::Syntax)?;
        if !url.username().is_empty()
            || url.password().is_some()
            || text
                .split('?')
                .next()
                .is_some_and(|p| p.contains('@') && url.has_host())
        {
            return Err(InvalidRedirectUri::UserInfo);
        }
        match url.scheme() {
            "https" => {
                // The parser forgives `https:host`, `https:///host`; what a browser would make of those is not worth finding out.
                if !text
                    .get(..8)
                    .is_some_and(|start| start.eq_ignore_ascii_case("https://"))
                    || text.as_bytes().get(8) == Some(&b'/')
                {
                    return Err(InvalidRedirectUri::Syntax);
                }
                let host = url.host_str().ok_or(InvalidRedirectUri::Syntax)?;
                let allowed = is_loopback(&url) || allowed_hosts.iter().any(|pattern| pattern.matches(host));
                if allowed {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidRedirectUri::Host)
                }
            }
            "http" if is_loopback(&url) && text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("http://")) => {
                Ok(Self(text.to_owned()))
            }
            "http" => Err(InvalidRedirectUri::PlainHttp),
            scheme if DANGEROUS_SCHEMES.contains(&scheme) => Err(InvalidRedirectUri::Scheme),
            scheme if scheme.contains('.') || schemes.iter().any(|own| own.as_ref() == scheme) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(InvalidRedirectUri::Scheme),
        }
    }

    /// Whether a request's `redirect_uri` is this one: the same string, or the same but for the port where the host is
    /// loopback, because a native app takes the port that is free (RFC 8252 §7.3). `localhost` is treated likewise
    /// (clients register it without a port), and an empty path equals `/` there.
    #[must_use]
    pub fn matches(&self, presented: &str) -> bool {
        if self.0 == presented {
            return true;
        }
        match (Loopback::of(&self.0), Loopback::of(presented)) {
            (Some(own), Some(other)) => own == other,
            _ => false,
        }
    }

    /// The registered text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What must agree between two loopback redirect URIs: everything but the port.
#[derive(PartialEq, Eq)]
struct Loopback<'a> {
    host: &'a str,
    path_and_query: &'a str,
}

impl<'a> Loopback<'a> {
    /// Takes the text apart by hand: a URL parser would forgive and rewrite, and a match must not.
    fn of(text: &'a str) -> Option<Self> {
        if text.len() > MAX_URI_LENGTH
            || !text
                .bytes()
                .all(|b| (0x21..0x7f).contains(&b) && b != b'#' && b != b'\\')
        {
            return None;
        }
        let rest = text.strip_prefix("http://")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path_and_query) = rest.split_at(end);
        let host = ["127.0.0.1", "[::1]", "localhost"]
            .into_iter()
            .find(|host| authority.starts_with(host))?;
        let port = authority.strip_prefix(host)?;
        let port_is_one = port.is_empty()
            || port.strip_prefix(':').is_some_and(|digits| {
                digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok_and(|p| p > 0)
            });
        port_is_one.then_some(Self {
            host,
            path_and_query: if path_and_query.is_empty() { "/" } else { path_and_query },
        })
    }
}

impl fmt::Display for RedirectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a scheme can be an app's own: in lower case, of the form of RFC 3986 §3.1, and not one that browsers or systems
/// know what to do with.
#[must_use]
pub fn is_private_use_scheme(scheme: &str) -> bool {
    scheme.len() <= 64
        && scheme.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'))
        && !matches!(scheme, "http" | "https")
        && !DANGEROUS_SCHEMES.contains(&scheme)
}

/// Whether a URL's host is this machine.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name == "localhost.",
        Some(Host::Ipv4(address)) => address.is_loopback() && address != Ipv4Addr::UNSPECIFIED,
        Some(Host::Ipv6(address)) => address == Ipv6Addr::LOCALHOST,
        None => false,
    }
}

// === impl HostPattern ===

impl HostPattern {
    /// Reads `*`, `*.example.com` or `app.example.com`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let fine = text == "*"
            || (!name.is_empty()
                && name.len() <= 253
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.'));
        fine.then(|| Self(text.to_ascii_lowercase()))
    }

    /// Whether a host name falls under the pattern; `*.example.com` means names below it, on a label boundary.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        match self.0.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == self.0,
        }
    }
}

// === impl Resource ===

impl Resource {
    /// Canonical form: scheme and host in lower case, no default port, no trailing slash, path and query as they are.
    ///
    /// # Errors
    /// If it is not an absolute http(s) URI, or has a fragment (RFC 8707 §2).
    pub fn parse(text: &str) -> Result<Self, InvalidResource> {
        if text.len() > MAX_URI_LENGTH
            || text.contains('#')
            || !text.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'\\')
        {
            return Err(InvalidResource);
        }
        let url = Url::parse(text).map_err(|_| InvalidResource)?;
        let host = url
            .host_str()
            .filter(|_| matches!(url.scheme(), "http" | "https"))
            .ok_or(InvalidResource)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidResource);
        }
        // The path is taken from the text, not from the parser, which resolves `..` and would let two spellings meet.
        // The parser also forgives `https:host` and `https:///host`, in which the path would be looked for in the wrong place.
        let after_scheme = text
            .get(url.scheme().len()..)
            .and_then(|rest| rest.strip_prefix("://"))
            .filter(|rest| !rest.starts_with(['/', '?']))
            .ok_or(InvalidResource)?;
        let tail = after_scheme.find(['/', '?']).map_or("", |at| &after_scheme[at..]);
        let (path, query) = tail
            .split_once('?')
            .map_or((tail, None), |(path, query)| (path, Some(query)));
        let path = path
            .strip_suffix('/')
            .filter(|path| !path.ends_with('/'))
            .unwrap_or(path);
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        // An address may be longer in full than it was in hexadecimal.
        let canonical = format!("{}://{host}{port}{path}{query}", url.scheme());
        if canonical.len() > MAX_URI_LENGTH {
            return Err(InvalidResource);
        }
        Ok(Self(canonical))
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any() -> Vec<HostPattern> {
        vec![HostPattern::parse("*").unwrap()]
    }

    /// Spec: C7
    #[test]
    fn what_real_clients_register_is_accepted() {
        for uri in [
            "https://claude.ai/api/mcp/auth_callback",
            "https://chatgpt.com/connector/oauth/abc",
            "http://localhost/callback",
            "http://127.0.0.1/",
            "http://127.0.0.1:33418",
            "http://[::1]:9/x?y=z",
            "cursor://anysphere.cursor-mcp/oauth/callback",
            "com.example.app:/oauth",
            "https://vscode.dev/redirect",
        ] {
            assert!(RedirectUri::parse(uri, &any()).is_ok(), "{uri}");
        }
    }

    /// Spec: C7
    #[test]
    fn what_could_carry_a_code_elsewhere_is_refused() {
        use InvalidRedirectUri as E;
        for (uri, why) in [
            ("", E::Syntax),
            ("/callback", E::Syntax),
            ("https:example.com", E::Syntax),
            ("https:///example.com", E::Syntax),
            ("https://a b/", E::Syntax),
            ("https://exämple.com/", E::Syntax),
            ("https://example.com/\\evil.com", E::Syntax),
            ("https://example.com/#f", E::Fragment),
            ("https://example.com/#", E::Fragment),
            ("https://u@example.com/", E::UserInfo),
            ("https://u:p@example.com/", E::UserInfo),
            ("https://@example.com/", E::UserInfo),
            ("https://*.example.com/", E::Wildcard),
            ("http://example.com/", E::PlainHttp),
            ("http://localhost.evil.com/", E::PlainHttp),
            ("http://127.0.0.1.evil.com/", E::PlainHttp),
            ("http://0.0.0.0/", E::PlainHttp),
            ("javascript:alert(1)", E::Scheme),
            ("JavaScript:alert(1)", E::Scheme),
            ("data:text/html,x", E::Scheme),
            ("file:///etc/passwd", E::Scheme),
            ("vbscript:x", E::Scheme),
            ("blob:https://example.com/x", E::Scheme),
            ("foo:bar", E::Scheme),
            ("ftp://example.com/", E::Scheme),
        ] {
            assert_eq!(RedirectUri::parse(uri, &any()), Err(why), "{uri}");
        }
        assert_eq!(
            RedirectUri::parse(&format!("https://example.com/{}", "a".repeat(2048)), &any()),
            Err(E::Syntax)
        );
    }

    #[test]
    fn the_list_of_hosts_binds_https_and_spares_loopback() {
        let hosts = [
            HostPattern::parse("claude.ai").unwrap(),
            HostPattern::parse("*.example.com").unwrap(),
        ];
        for fine in [
            "https://claude.ai/x",
            "https://CLAUDE.ai/x",
            "https://a.example.com/",
            "https://a.b.example.com/",
            "http://localhost/cb",
            "https://localhost/cb",
        ] {
            assert!(RedirectUri::parse(fine, &hosts).is_ok(), "{fine}");
        }
        for bad in [
            "https://example.com/",
            "https://notexample.com/",
            "https://claude.ai.evil.com/",
            "https://xclaude.ai/",
        ] {
            assert_eq!(RedirectUri::parse(bad, &hosts), Err(InvalidRedirectUri::Host), "{bad}");
        }
    }

    /// Spec: D4, D5
    #[test]
    fn a_redirect_uri_matches_exactly_but_for_a_loopback_port() {
        let registered = |uri: &str| RedirectUri::parse(uri, &any()).unwrap();
        for (own, presented, matches) in [
            ("https://a.example/cb", "https://a.example/cb", true),
            ("https://a.example/cb", "https://a.example/cb/", false),
            ("https://a.example/cb", "https://a.example:443/cb", false),
            ("https://a.example/cb", "https://A.example/cb", false),
            ("https://a.example/cb", "https://a.example/cb?x=1", false),
            ("http://localhost/callback", "http://localhost:63785/callback", true),
            ("http://localhost:1/callback", "http://localhost:2/callback", true),
            ("http://localhost/callback", "http://127.0.0.1:2/callback", false),
            ("http://127.0.0.1/", "http://127.0.0.1:59656/", true),
            ("http://127.0.0.1", "http://127.0.0.1:59656/", true),
            ("http://127.0.0.1/a", "http://127.0.0.1:1/b", false),
            ("http://127.0.0.1/a", "http://127.0.0.1:1/a?x", false),
            ("http://127.0.0.1/a", "https://127.0.0.1:1/a", false),
            ("http://127.0.0.1/a", "http://127.0.0.1:1@evil.com/a", false),
            ("http://127.0.0.1/a", "http://127.0.0.1.evil.com/a", false),
            ("http://127.0.0.1/a", "http://127.0.0.1:/a", false),
            ("http://127.0.0.1/a", "http://127.0.0.1:0/a", false),
            ("http://127.0.0.1/a", "http://127.0.0.1:99999/a", false),
            ("http://127.0.0.1/a", "http://127.0.0.1:1/x/../a", false),
            ("http://127.0.0.1/a", "http://127.0.0.1:1/a#f", false),
            ("http://[::1]/a", "http://[::1]:8/a", true),
            (
                "cursor://anysphere.cursor-mcp/oauth/callback",
                "cursor://anysphere.cursor-mcp/oauth/callback",
                true,
            ),
            (
                "cursor://anysphere.cursor-mcp/oauth/callback",
                "cursor://anysphere.cursor-mcp:1/oauth/callback",
                false,
            ),
        ] {
            assert_eq!(registered(own).matches(presented), matches, "{own} and {presented}");
        }
    }

    /// Spec: D10, I3
    #[test]
    fn a_resource_has_one_canonical_form() {
        for (text, canonical) in [
            ("https://GW.example/notion", "https://gw.example/notion"),
            ("HTTPS://gw.example:443/notion/", "https://gw.example/notion"),
            ("https://gw.example/", "https://gw.example"),
            ("https://gw.example", "https://gw.example"),
            ("http://127.0.0.1:8080/a?x=1", "http://127.0.0.1:8080/a?x=1"),
            ("https://gw.example/A/b", "https://gw.example/A/b"),
            ("https://gw.example/a/../b", "https://gw.example/a/../b"),
            ("https://gw.example/a//", "https://gw.example/a//"),
        ] {
            assert_eq!(Resource::parse(text).unwrap().as_str(), canonical, "{text}");
        }
        for bad in [
            "",
            "notion",
            "/notion",
            "ftp://gw.example/",
            "https://gw.example/#x",
            "https://u@gw.example/",
            "https://",
            "mailto:a@b",
            "https://gw.example/ä",
            "https://gw.example/\\x",
            "https:///gw.example/notion",
            "https:gw.example?x://gw.example/notion",
        ] {
            assert_eq!(Resource::parse(bad), Err(InvalidResource), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn canonicalisation_is_idempotent(text in "https?://[a-zA-Z0-9.-]{1,20}(:[0-9]{1,4})?(/[a-zA-Z0-9._~%/-]{0,20})?") {
            if let Ok(resource) = Resource::parse(&text) {
                prop_assert_eq!(Resource::parse(resource.as_str()).unwrap(), resource);
            }
        }

        /// Spec: D4
        #[test]
        fn no_redirect_uri_matches_another_host(host in "[a-z]{1,8}\\.[a-z]{2,4}", text in "[ -~]{0,60}") {
            let own = RedirectUri::parse(&format!("https://{host}/cb"), &any()).unwrap();
            prop_assert!(own.matches(own.as_str()));
            prop_assert!(!own.matches(&text) || text == own.as_str());
        }

        /// Spec: D5
        #[test]
        fn a_loopback_match_differs_in_the_port_alone(port in 1u16.., path in "(/[a-z0-9]{1,6}){0,3}") {
            let own = RedirectUri::parse(&format!("http://127.0.0.1{path}"), &any()).unwrap();
            let presented = format!("http://127.0.0.1:{port}{path}");
            prop_assert!(own.matches(&presented));
            let (other_path, other_host) = (format!("{presented}x"), presented.replace("127.0.0.1", "localhost"));
            prop_assert!(!own.matches(&other_path));
            prop_assert!(!own.matches(&other_host));
        }
    }
}
