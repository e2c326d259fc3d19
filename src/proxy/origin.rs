//! Browsers: which origins may talk to an upstream, and the CORS headers that let them read the answers.
//!
//! A foreign `Origin` is refused on every MCP request, whatever token it carries: MCP asks for it against DNS rebinding. No
//! `Origin` is fine, since programs send none.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::config::Upstream;
use crate::oauth::Answer;

/// What a page may read of an answer (K16).
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "WWW-Authenticate, Mcp-Session-Id, MCP-Protocol-Version, X-Request-Id, Retry-After, DPoP-Nonce",
);
/// What a page may send (K15); `*` would not cover Authorization.
const ALLOWED: &str = "Authorization, Content-Type, Accept, MCP-Protocol-Version, Mcp-Session-Id, Mcp-Method, Mcp-Name, Last-Event-ID, DPoP";
/// Most names of `Mcp-Param-…` headers that a preflight gets back.
const MAX_PARAMETERS: usize = 32;
const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");

/// Where a request came from, as far as browsers say.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// Not from a page.
    None,
    /// From a page that may.
    Allowed(HeaderValue),
    /// From a page that may not.
    Foreign,
}

/// The origins that may reach one upstream.
#[derive(Debug)]
pub(super) struct Origins {
    any: bool,
    list: Vec<String>,
}

impl Origins {
    /// The gateway's own origins, the upstream's host, and what is configured.
    pub(super) fn of(upstream: &Upstream, own: &[String], scheme: &str) -> Self {
        let any = upstream.allowed_origins.iter().any(|origin| origin == "*");
        let host = upstream.host.iter().map(|host| format!("{scheme}://{host}"));
        Self {
            any,
            list: own
                .iter()
                .cloned()
                .chain(host)
                .chain(upstream.allowed_origins.iter().cloned())
                .collect(),
        }
    }

    /// Judges a request.
    pub(super) fn judge(&self, headers: &HeaderMap) -> Origin {
        let mut values = headers.get_all(header::ORIGIN).iter();
        match (values.next(), values.next()) {
            (None, _) => Origin::None,
            (Some(origin), None) => {
                let listed = |text: &str| self.list.iter().any(|own| own == text);
                match origin.to_str() {
                    // `null` is every sandboxed page there is.
                    Ok(text) if listed(text) || (self.any && !text.is_empty() && text != "null") => {
                        Origin::Allowed(origin.clone())
                    }
                    _ => Origin::Foreign,
                }
            }
            (Some(_), Some(_)) => Origin::Foreign,
        }
    }
}

/// Puts the CORS headers on any answer, ours or the upstream's. All but the origin itself are there even without one, so
/// that a cache does not give a page what was answered to a program.
pub(super) fn cors(origin: &Origin, mut insert: impl FnMut(HeaderName, HeaderValue)) {
    if let Origin::Allowed(origin) = origin {
        insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
    insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    insert(header::VARY, HeaderValue::from_static("Origin"));
}

/// Answers a preflight: without a token, since browsers send none.
pub(super) fn preflight(headers: &HeaderMap) -> Answer {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let asked = headers
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut allowed = ALLOWED.to_owned();
    let parameter = |name: &&str| {
        name.len() <= 128 && name.to_ascii_lowercase().starts_with("mcp-param-") && HeaderName::try_from(*name).is_ok()
    };
    for name in asked.split(',').map(str::trim).filter(parameter).take(MAX_PARAMETERS) {
        allowed.push_str(", ");
        allowed.push_str(name);
    }
    let out = answer.headers_mut();
    out.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, DELETE, OPTIONS"),
    );
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    out.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
    if headers.contains_key(PRIVATE_NETWORK) {
        out.insert(
            HeaderName::from_static("access-control-allow-private-network"),
            HeaderValue::from_static("true"),
        );
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec: K15
    #[test]
    fn a_preflight_names_the_parameters_that_were_asked_for_and_nothing_else() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCESS_CONTROL_REQUEST_HEADERS,
            HeaderValue::from_static("authorization, Mcp-Param-Region, x-evil, mcp-param-a b"),
        );
        let answer = preflight(&headers);
        let allowed = answer.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
        assert!(allowed.ends_with("DPoP, Mcp-Param-Region"), "{allowed}");
    }
}
