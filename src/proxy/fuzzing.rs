//! The proxy's parsers of outside text, for `fuzz/`. Not in release builds.

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderValue};

use super::client_address::{self, Source};
use super::{reply, route};
use crate::domain::network::Networks;

/// Whether a path may be matched and forwarded.
#[must_use]
pub fn path_is_plain(path: &str) -> bool {
    route::check_path(path).is_ok()
}

/// What a `Host` header names.
#[must_use]
pub fn host(value: HeaderValue) -> Option<String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, value);
    route::host(&headers).ok().map(std::borrow::Cow::into_owned)
}

/// The metric label for a message.
#[must_use]
pub fn method_label(message: &[u8]) -> &'static str {
    reply::method_of(message)
}

/// The error that answers a message.
#[must_use]
pub fn error_for(message: &[u8]) -> Vec<u8> {
    let answer = reply::rpc(
        http::StatusCode::BAD_GATEWAY,
        reply::RpcError::UpstreamFailed,
        "failed",
        Some(message),
    );
    answer.into_body().to_vec()
}

/// Where a request comes from by its `X-Forwarded-For` lines, and the chain for the upstream.
#[must_use]
pub fn forwarded(peer: IpAddr, lines: &[HeaderValue], trusted: &Networks) -> (IpAddr, String) {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(client_address::FORWARDED_FOR, line.clone());
        headers.append(client_address::FORWARDED_HOST, line.clone());
        headers.append(client_address::FORWARDED_PROTO, line.clone());
    }
    let source = Source::of(peer, &headers, trusted);
    (source.client, source.forwarded_for())
}

/// What a header of the PROXY protocol says; the outer `None` if it is none.
#[must_use]
pub fn proxy_header(header: &[u8]) -> Option<Option<SocketAddr>> {
    super::proxy_header::source(header).ok()
}
