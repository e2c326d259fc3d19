//! The two cookies of this gateway: how they are read, and the attributes that both are set with.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Request};

use super::Endpoints;

/// Most characters of a `Cookie` header's value that are looked at.
const MAX_HEADER: usize = 16 << 10;

/// Every value that a request has for a cookie. There can be several of one name, set for other paths or by a neighbouring
/// host: whoever reads them takes the first that proves to be ours.
pub(super) fn values<'a>(request: &'a Request<Bytes>, name: &'a str) -> impl Iterator<Item = &'a str> {
    request
        .headers()
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter(|text| text.len() <= MAX_HEADER)
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.split_once('='))
        .filter(move |(own, _)| own.trim() == name)
        .map(|(_, value)| value.trim())
}

/// Sets a cookie for the whole gateway that no script reads, that goes along when a client's link leads here, but not with
/// a foreign form (SameSite=Lax), and that travels encrypted wherever the gateway does.
pub(super) fn set(at: &Endpoints, headers: &mut HeaderMap, name: &str, value: &str, max_age: u64) {
    let secure = if is_secure(at) { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}");
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        cookie.set_sensitive(true);
        headers.append(header::SET_COOKIE, cookie);
    }
}

/// Takes a cookie back.
pub(super) fn clear(at: &Endpoints, headers: &mut HeaderMap, name: &str) {
    set(at, headers, name, "", 0);
}

/// Whether the gateway is known by https; else it is on loopback, where browsers would not send `Secure` cookies back.
pub(super) fn is_secure(at: &Endpoints) -> bool {
    at.config.public_url.scheme == "https"
}
