//! The proxy's parsers of outside text, for `fuzz/`. Not in release builds.

use http::header::{self, HeaderMap, HeaderValue};

use super::{reply, route};

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
