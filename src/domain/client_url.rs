//! Client ids that are the address of a metadata document (OAuth Client ID Metadata Document, §3).

use url::Url;

use super::client::ClientId;
use super::uri::is_loopback;

/// The address of a client metadata document, in its one spelling: it is compared as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientUrl(Url);

/// Why a client id that looks like an address cannot be that of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClientUrl {
    /// Not a URL, or spelled in a way that browsers and we would correct.
    #[error("it is not a URL in its usual spelling")]
    Spelling,
    /// Somebody's home page is no client.
    #[error("it has no path")]
    Path,
    /// A fragment never reaches a server.
    #[error("it has a fragment")]
    Fragment,
    /// `https://trusted@evil/`.
    #[error("it carries a user name or password")]
    UserInfo,
    /// `.` or `..`, plain or encoded.
    #[error("it has dot segments")]
    DotSegments,
}

impl ClientUrl {
    /// Whether a client id is meant to be an address: it begins with `https://`, or with `http://` on this machine, which
    /// counts only where the gateway is on this machine itself.
    #[must_use]
    pub fn looks_like_one(id: &ClientId, loopback: bool) -> bool {
        let starts = |scheme: &str| {
            id.as_str()
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        };
        starts("https://") || (loopback && starts("http://"))
    }

    /// Reads a client id; `loopback` as above.
    ///
    /// # Errors
    /// Which rule it breaks.
    pub fn parse(id: &ClientId, loopback: bool) -> Result<Self, InvalidClientUrl> {
        let text = id.as_str();
        if text.contains('#') {
            return Err(InvalidClientUrl::Fragment);
        }
        let url = Url::parse(text).map_err(|_| InvalidClientUrl::Spelling)?;
        let authority = text.split('/').nth(2).unwrap_or_default();
        if authority.contains('@') || !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidClientUrl::UserInfo);
        }
        let scheme_fits = url.scheme() == "https" || (loopback && url.scheme() == "http" && is_loopback(&url));
        if !scheme_fits || !url.has_host() {
            return Err(InvalidClientUrl::Spelling);
        }
        // Read from the text: the parser resolves dot segments.
        let after_scheme = text.split_once("://").map_or("", |(_, rest)| rest);
        let path = after_scheme
            .find(['/', '?'])
            .and_then(|start| after_scheme.get(start..));
        let path = path.unwrap_or_default().split('?').next().unwrap_or_default();
        if path.is_empty() || path == "/" {
            return Err(InvalidClientUrl::Path);
        }
        if path.split('/').any(is_dot_segment) {
            return Err(InvalidClientUrl::DotSegments);
        }
        if url.as_str() != text || text.contains('\\') {
            return Err(InvalidClientUrl::Spelling);
        }
        Ok(Self(url))
    }

    /// The URL.
    #[must_use]
    pub const fn as_url(&self) -> &Url {
        &self.0
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

/// `.` and `..`, with any of the dots encoded.
fn is_dot_segment(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str, loopback: bool) -> Result<ClientUrl, InvalidClientUrl> {
        ClientUrl::parse(&ClientId::parse(text).unwrap(), loopback)
    }

    /// Spec: C16
    #[test]
    fn what_real_clients_use_is_an_address() {
        for text in [
            "https://claude.ai/oauth/claude-code-client-metadata",
            "https://chatgpt.com/oauth/abc_123/client.json",
            "https://vscode.dev/oauth/client-metadata.json",
            "https://opencode.ai/oauth/opencode/client.json",
            "https://client.example:8443/a",
            "https://client.example/a?b=c",
            "https://client.example/a/",
        ] {
            assert!(parse(text, false).is_ok(), "{text}");
        }
    }

    /// Spec: C16
    #[test]
    fn what_is_no_address_of_a_document_is_refused() {
        use InvalidClientUrl as E;
        for (text, why) in [
            ("https://client.example", E::Path),
            ("https://client.example/", E::Path),
            ("https://client.example/?a=b", E::Path),
            ("https://client.example?a=b", E::Path),
            ("https://client.example/a#b", E::Fragment),
            ("https://client.example/a#", E::Fragment),
            ("https://u@client.example/a", E::UserInfo),
            ("https://u:p@client.example/a", E::UserInfo),
            ("https://@client.example/a", E::UserInfo),
            ("https://client.example/./a", E::DotSegments),
            ("https://client.example/a/..", E::DotSegments),
            ("https://client.example/a/%2e%2E/b", E::DotSegments),
            ("https://client.example/a/.%2e", E::DotSegments),
            ("HTTPS://client.example/a", E::Spelling),
            ("https://CLIENT.example/a", E::Spelling),
            ("https://client.example:443/a", E::Spelling),
            ("https:///client.example/a", E::Spelling),
            ("https://2130706433/a", E::Spelling),
            ("https://0x7f.1/a", E::Spelling),
            ("https://0177.0.0.1/a", E::Spelling),
            ("https://127.1/a", E::Spelling),
            ("https://client.example\\@evil.example/a", E::UserInfo),
            ("https://client.example\\a/b", E::Spelling),
            ("http://client.example/a", E::Spelling),
            ("http://localhost/a", E::Spelling),
        ] {
            assert_eq!(parse(text, false), Err(why), "{text}");
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_alone() {
        for fine in [
            "http://localhost:3000/client.json",
            "http://127.0.0.1:3000/c",
            "http://[::1]:3000/c",
        ] {
            assert!(parse(fine, true).is_ok(), "{fine}");
            assert!(parse(fine, false).is_err(), "{fine}");
            let id = ClientId::parse(fine).unwrap();
            assert!(ClientUrl::looks_like_one(&id, true) && !ClientUrl::looks_like_one(&id, false));
        }
        assert!(parse("http://client.example/a", true).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_an_address_is_spelled_as_it_is_asked_for(text in "https://[!-~]{0,60}") {
            if let Ok(url) = parse(&text, false) {
                prop_assert_eq!(url.as_url().as_str(), text);
                prop_assert!(url.as_url().path().len() > 1);
            }
        }
    }
}
