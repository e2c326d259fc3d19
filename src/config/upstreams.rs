//! `upstreams`: where MCP traffic goes, under which public path, with which headers and limits.

use std::time::Duration;

use http::HeaderName;
use url::{Host, Url};

use super::reader::Node;
use super::{DEFAULT_IDENTITY_HEADERS, Limits, PublicUrl, Upstream, UpstreamUrl};
use crate::domain::uri::Resource;

pub(super) const UPSTREAM: &[&str] = &[
    "name",
    "path",
    "host",
    "url",
    "scopes",
    "identity_headers",
    "headers",
    "allowed_origins",
    "limits",
];
pub(super) const LIMITS: &[&str] = &[
    "body",
    "connect_timeout",
    "response_timeout",
    "idle_stream",
    "requests_per_minute",
];

/// Paths that are the gateway's own.
pub(super) const OWN_PATHS: &[&str] = &[
    "/authorize",
    "/token",
    "/register",
    "/revoke",
    "/introspect",
    "/userinfo",
    "/jwks.json",
    "/login",
    "/consent",
    "/account",
    "/logout",
    "/metrics",
    "/healthz",
    "/readyz",
    "/.well-known",
];

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// A body larger than this is no JSON-RPC message.
const MOST_BODY: u64 = 1 << 30;

/// Every upstream; problems between them are written down as well.
pub(super) fn upstreams(root: &Node<'_>, public_url: &PublicUrl, endpoint_prefix: &str) -> Vec<Upstream> {
    let Some(list) = root.required("upstreams", "a list with a name, a path and a url") else {
        return Vec::new();
    };
    let nodes = list.list();
    if nodes.is_empty() && list.value.is_sequence() {
        list.problem("must have at least one upstream");
    }
    let mut all: Vec<Upstream> = Vec::new();
    for node in nodes {
        let Some(upstream) = upstream(&node, public_url, endpoint_prefix) else {
            continue;
        };
        for other in &all {
            if other.name == upstream.name {
                node.problem(format!("the name {} is there twice", upstream.name));
            }
            if other.host == upstream.host
                && (is_within(&other.path, &upstream.path) || is_within(&upstream.path, &other.path))
            {
                let (own, taken) = (shown(&upstream.path), shown(&other.path));
                node.problem(format!(
                    "the path {own} overlaps {taken} of the upstream {}; give each a path of its own",
                    other.name
                ));
            }
        }
        all.push(upstream);
    }
    all
}

fn upstream(node: &Node<'_>, public_url: &PublicUrl, endpoint_prefix: &str) -> Option<Upstream> {
    if !node.object(UPSTREAM) {
        return None;
    }
    let name = node.required("name", "everything").and_then(|node| name(&node));
    let path = node
        .required("path", "/everything/mcp")
        .and_then(|node| path(&node, endpoint_prefix));
    let host = node.get("host").map(|node| host(&node, public_url));
    let url = node
        .required("url", "http://127.0.0.1:3001/mcp")
        .and_then(|node| url(&node));
    let scopes = node.get("scopes").map(|node| node.scope_list()).unwrap_or_default();
    let identity_headers = node
        .get("identity_headers")
        .map_or_else(|| DEFAULT_IDENTITY_HEADERS.to_vec(), |node| identity_headers(&node));
    let headers = node
        .get("headers")
        .map(|node| headers(&node, &identity_headers))
        .unwrap_or_default();
    let allowed_origins = node
        .get("allowed_origins")
        .map(|node| node.list().iter().filter_map(Node::origin).collect())
        .unwrap_or_default();
    let limits = node
        .get("limits")
        .map_or_else(|| Some(Limits::default()), |node| limits(&node));
    let host = match host {
        Some(found) => Some(found?),
        None => None,
    };
    let (path, authority) = (path?, host.clone().unwrap_or_else(|| public_url.authority()));
    let resource = node.check(Resource::parse(&format!("{}://{authority}{path}", public_url.scheme)))?;
    Some(Upstream {
        name: name?,
        path,
        host,
        resource,
        url: url?,
        scopes,
        identity_headers,
        headers,
        allowed_origins,
        limits: limits?,
    })
}

fn name(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let fine = text.len() <= 63
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|b| plain(b) || b == b'-' || b == b'_');
    if !fine {
        node.problem(format!(
            "{text:?} is not a name; write up to 63 lower-case letters, digits, - and _"
        ));
    }
    fine.then(|| text.to_owned())
}

fn path(node: &Node<'_>, endpoint_prefix: &str) -> Option<String> {
    let text = node.text()?;
    let path = text.strip_suffix('/').unwrap_or(text);
    if !text.starts_with('/') || !(path.is_empty() || is_plain_path(path)) {
        node.problem(format!(
            "{text:?} is not a path; write /everything/mcp: plain segments, nothing encoded"
        ));
        return None;
    }
    let prefix = Some(endpoint_prefix).filter(|prefix| !prefix.is_empty());
    let own = OWN_PATHS.iter().copied().chain(prefix).find(|own| is_within(path, own));
    if let Some(own) = own.filter(|_| !path.is_empty()) {
        node.problem(format!("{own} is the gateway's own; give the upstream another path"));
        return None;
    }
    Some(path.to_owned())
}

/// Whether a path is a list of segments that mean the same to everybody: no dots, nothing encoded, nothing empty.
pub(super) fn is_plain_path(path: &str) -> bool {
    let plain = |segment: &str| {
        !segment.is_empty()
            && !matches!(segment, "." | "..")
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&b))
    };
    path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain))
}

/// Whether `path` is `root` or below it, segment by segment.
pub(super) fn is_within(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

fn host(node: &Node<'_>, public_url: &PublicUrl) -> Option<String> {
    let text = node.text()?.to_ascii_lowercase();
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse::<u16>().ok().filter(|port| *port > 0)),
        None => (text.as_str(), public_url.port),
    };
    let plain = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if !plain
        || (text.contains(':') && port.is_none())
        || !matches!(Host::parse(name), Ok(Host::Domain(_) | Host::Ipv4(_)))
    {
        node.problem(format!(
            "{text:?} is not a host; write tools.example.com or tools.example.com:8443"
        ));
        return None;
    }
    let usual = if public_url.scheme == "https" { 443 } else { 80 };
    let host = port
        .filter(|port| *port != usual)
        .map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    if host == public_url.authority() {
        node.problem("is public_url's own host; leave it out");
        return None;
    }
    Some(host)
}

fn url(node: &Node<'_>) -> Option<UpstreamUrl> {
    const EXAMPLE: &str = "write http://127.0.0.1:3001/mcp";
    let text = node.text()?;
    let Some(url) = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && text.contains("://"))
    else {
        node.problem(format!("{text:?} is not an absolute http or https URL; {EXAMPLE}"));
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        node.problem("has a user or password in it; put the upstream's credential into `headers`");
        return None;
    }
    if url.query().is_some() || url.fragment().is_some() {
        node.problem(format!("has a query or fragment; {EXAMPLE}"));
        return None;
    }
    let host = match url.host()? {
        Host::Ipv6(address) => address.to_string(),
        other => other.to_string(),
    };
    let authority = url.port().map_or_else(
        || url.host_str().unwrap_or_default().to_owned(),
        |port| format!("{}:{port}", url.host_str().unwrap_or_default()),
    );
    Some(UpstreamUrl {
        tls: url.scheme() == "https",
        host,
        port: url.port_or_known_default()?,
        authority,
        path: url.path().to_owned(),
    })
}

fn identity_headers(node: &Node<'_>) -> Vec<(HeaderName, super::Claim)> {
    if node.value.as_str() == Some("default") {
        return DEFAULT_IDENTITY_HEADERS.to_vec();
    }
    if !node.value.is_mapping() {
        node.problem("must be default, or a map from a header name to a claim: { X-User: subject }");
        return Vec::new();
    }
    let mut all: Vec<(HeaderName, super::Claim)> = Vec::new();
    for (text, node) in node.entries() {
        let (Some(name), Some(claim)) = (node.header_name(&text), node.claim()) else {
            continue;
        };
        if matches!(name.as_str(), "authorization" | "cookie") {
            node.problem("an identity header cannot be Authorization or Cookie");
        }
        if all.iter().any(|(other, _)| *other == name) {
            node.problem(format!("{text} is there twice"));
        }
        all.push((name, claim));
    }
    all
}

fn headers(node: &Node<'_>, identity: &[(HeaderName, super::Claim)]) -> Vec<(HeaderName, http::HeaderValue)> {
    let mut all: Vec<(HeaderName, http::HeaderValue)> = Vec::new();
    for (text, node) in node.entries() {
        let (Some(name), Some(value)) = (node.header_name(&text), node.header_value()) else {
            continue;
        };
        let taken = identity
            .iter()
            .chain(&DEFAULT_IDENTITY_HEADERS)
            .any(|(other, _)| *other == name);
        if taken || all.iter().any(|(other, _)| *other == name) {
            node.problem(format!(
                "{text} is there twice, or says who the caller is, which only the gateway does"
            ));
        }
        all.push((name, value));
    }
    all
}

fn limits(node: &Node<'_>) -> Option<Limits> {
    let usual = Limits::default();
    if !node.object(LIMITS) {
        return None;
    }
    let duration = |key: &str, default: Duration, most: Duration| {
        node.get(key).map_or(Some(default), |node| node.duration(SECOND, most))
    };
    let body = node.get("body").map_or(Some(usual.body), |node| node.size(MOST_BODY));
    let connect = duration("connect_timeout", usual.connect_timeout, Duration::from_secs(300));
    let response = duration("response_timeout", usual.response_timeout, DAY);
    let idle = match node.get("idle_stream").filter(|node| !node.is_none()) {
        None => Some(None),
        Some(node) => node.duration(SECOND, DAY).map(Some),
    };
    let rate = match node.get("requests_per_minute").filter(|node| !node.is_none()) {
        None => Some(None),
        Some(node) => node.count().map(Some),
    };
    Some(Limits {
        body: body?,
        connect_timeout: connect?,
        response_timeout: response?,
        idle_stream: idle?,
        requests_per_minute: rate?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_overlap_segment_by_segment() {
        for (path, root, within) in [
            ("/mcp", "/mcp", true),
            ("/mcp/a", "/mcp", true),
            ("/mcp-other", "/mcp", false),
            ("/mcp", "/mcp/a", false),
            ("/anything", "", true),
        ] {
            assert_eq!(is_within(path, root), within, "{path} in {root}");
        }
    }
}
