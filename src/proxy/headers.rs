//! Headers on their way through: what is taken away, what is put in, and how values are written.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http::{Request, Response, Version};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType};

use super::client_address::{FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO};
use super::session::SESSION_ID;
use crate::config::{Claim, Config, DEFAULT_IDENTITY_HEADERS, Upstream};
use crate::domain::grant::Grant;
use crate::domain::scope::Scope;
use crate::domain::user::User;

/// The id of a request: in the log, at the upstream, in the response.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What no client may tell an upstream, besides the identity headers: credentials, cookies, who forwarded what, and what
/// belongs to one connection only.
const STRIPPED: &[&str] = &[
    "authorization",
    "cookie",
    "dpop",
    "origin",
    "forwarded",
    "x-real-ip",
    "x-request-id",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-connection",
    "http2-settings",
];

/// What no upstream may tell a client.
const HIDDEN: &[&str] = &[
    "set-cookie",
    "set-cookie2",
    "www-authenticate",
    "proxy-authenticate",
    "server",
    "x-powered-by",
    "connection",
    "keep-alive",
    "upgrade",
    "trailer",
    "proxy-connection",
    "alt-svc",
    "clear-site-data",
    "strict-transport-security",
    "public-key-pins",
    "x-request-id",
];

/// Visible ASCII and spaces stay, except `%`.
const VALUE: &AsciiSet = &CONTROLS.add(b'%');
/// The same where commas separate.
const ITEM: &AsciiSet = &VALUE.add(b',');

/// A name for a request: random, since it is compared with those of other gateways and of other days.
pub(super) fn request_id() -> HeaderValue {
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(rand::random::<[u8; 16]>()) {
        let digit = |value: u8| match value {
            0..10 => b'0' + value,
            _ => b'a' + value - 10,
        };
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// Header names, with a quick no for nearly all that are none of them: every header of every request is asked for.
#[derive(Debug)]
struct Names {
    sorted: Vec<String>,
    /// By the first byte, which lengths there are.
    lengths: [u64; 128],
}

impl Names {
    fn of(fixed: &[&str], ours: impl Iterator<Item = String>) -> Self {
        let mut sorted: Vec<String> = fixed.iter().map(|name| (*name).to_owned()).chain(ours).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut lengths = [0; 128];
        for name in &sorted {
            if let Some(of_first) = lengths.get_mut(Self::first(name)) {
                *of_first |= Self::length(name);
            }
        }
        Self { sorted, lengths }
    }

    fn contains(&self, name: &str) -> bool {
        let of_first = self.lengths.get(Self::first(name)).copied().unwrap_or_default();
        of_first & Self::length(name) != 0 && self.sorted.binary_search_by(|own| own.as_str().cmp(name)).is_ok()
    }

    fn first(name: &str) -> usize {
        name.bytes().next().map_or(0, usize::from)
    }

    fn length(name: &str) -> u64 {
        1 << name.len().min(63)
    }
}

/// Which request headers an upstream never gets from a client.
#[derive(Debug)]
pub(super) struct Guarded(Names);

impl Guarded {
    /// The names for one upstream: the fixed ones, every identity header, and the static headers that we set.
    pub(super) fn of(upstream: &Upstream) -> Self {
        Self(Names::of(STRIPPED, ours(upstream)))
    }

    /// Whether a header is one of them, in any spelling: servers that hand headers to programs as variables take `_` and `-`
    /// for the same.
    pub(super) fn contains(&self, name: &str) -> bool {
        let dashed: Cow<'_, str> = if name.contains('_') {
            name.replace('_', "-").into()
        } else {
            name.into()
        };
        // As it is spelt properly it is looked at elsewhere.
        if dashed == SESSION_ID.as_str() && dashed != name {
            return true;
        }
        // Whatever comes after it, proxies say it of a caller: a certificate, a token, a role.
        let said_by_proxies = dashed.starts_with("proxy-") || dashed.starts_with("x-forwarded-");
        said_by_proxies || self.0.contains(&dashed)
    }
}

/// Which response headers a client never gets from an upstream.
#[derive(Debug)]
pub(super) struct Hidden(Names);

impl Hidden {
    /// The names for one upstream: the fixed ones, every identity header, and the static headers that we set.
    pub(super) fn of(upstream: &Upstream) -> Self {
        Self(Names::of(HIDDEN, ours(upstream)))
    }

    fn contains(&self, name: &str) -> bool {
        name.starts_with("access-control-") || self.0.contains(name)
    }
}

/// The names of what is said in our name: who is calling, and the static headers.
fn ours(upstream: &Upstream) -> impl Iterator<Item = String> {
    let usual = DEFAULT_IDENTITY_HEADERS.into_iter().map(|(name, _)| name);
    let identity = upstream.identity_headers.iter().map(|(name, _)| name.clone());
    let signed = upstream.identity_jwt.iter().map(|signed| signed.header.clone());
    let fixed = upstream.headers.iter().map(|(name, _)| name.clone());
    usual
        .chain(identity)
        .chain(signed)
        .chain(fixed)
        .map(|name| name.as_str().to_owned())
}

/// What the headers of one caller say, made once and used for every request.
pub(super) fn identity(
    upstream: &Upstream,
    grant: &Grant,
    scope: &Scope,
    user: Option<&User>,
) -> Vec<(HeaderName, HeaderValue)> {
    let value = |claim: Claim| -> Option<String> {
        match claim {
            Claim::Subject => Some(encode(grant.subject.as_str())),
            Claim::Username => user.map(|user| encode(&user.username)),
            Claim::Email => user.and_then(|user| user.email.as_deref()).map(encode),
            Claim::Name => user.and_then(|user| user.name.as_deref()).map(encode),
            Claim::Groups => user.filter(|user| !user.groups.is_empty()).map(|user| {
                user.groups
                    .iter()
                    .map(|group| trim_encoded(utf8_percent_encode(group, ITEM).to_string()))
                    .collect::<Vec<_>>()
                    .join(",")
            }),
            Claim::Scope => Some(scope.to_string())
                .filter(|scope| !scope.is_empty())
                .map(|scope| encode(&scope)),
            Claim::ClientId => Some(encode(grant.client_id.as_str())),
        }
    };
    let header = |(name, claim): &(HeaderName, Claim)| {
        let value = HeaderValue::from_str(&value(*claim)?).ok()?;
        Some((name.clone(), value))
    };
    upstream.identity_headers.iter().filter_map(header).collect()
}

/// Contract §4: anything but visible ASCII and spaces is percent-encoded, and so is `%`.
fn encode(text: &str) -> String {
    trim_encoded(utf8_percent_encode(text, VALUE).to_string())
}

/// Outer spaces would be lost on the way.
fn trim_encoded(text: String) -> String {
    if text.trim_matches(' ').len() == text.len() {
        return text;
    }
    let inner = text.trim_matches(' ');
    let lead = text.len() - text.trim_start_matches(' ').len();
    let trail = text.len() - lead - inner.len();
    format!("{}{inner}{}", "%20".repeat(lead), "%20".repeat(trail))
}

/// Who the request came from and under which name.
pub(super) struct Arrival<'a> {
    pub(super) forwarded_for: Option<String>,
    pub(super) host: &'a HeaderValue,
    pub(super) scheme: &'static str,
    pub(super) request_id: &'a HeaderValue,
}

/// The request that the upstream gets, from the client's. Everything not named above passes as it is.
pub(super) fn request(
    asked: &RequestHeader,
    target: &[u8],
    guarded: &Guarded,
    identity: &[(HeaderName, HeaderValue)],
    upstream: &Upstream,
    authority: &HeaderValue,
    arrival: &Arrival<'_>,
) -> pingora::Result<RequestHeader> {
    // A new one, which costs less than to copy the client's and to take things away; names are written as they are known.
    let (mut request, ()) = Request::new(()).into_parts();
    request.method = asked.method.clone();
    request.version = Version::HTTP_11;
    let headers = &mut request.headers;
    headers.reserve(asked.headers.len() + identity.len() + upstream.headers.len() + 6);
    headers.append(header::HOST, authority.clone());
    // What the client calls hop-by-hop goes as well.
    let dropped = connection_options(&asked.headers);
    for (name, value) in &asked.headers {
        if *name != header::HOST && !guarded.contains(name.as_str()) && !dropped.contains(name) {
            headers.append(name, value.clone());
        }
    }
    for (name, value) in identity.iter().chain(&upstream.headers) {
        headers.insert(name, value.clone());
    }
    headers.insert(REQUEST_ID, arrival.request_id.clone());
    // Addresses and commas are proper text for a header.
    let chain = arrival.forwarded_for.as_ref();
    if let Some(chain) = chain.and_then(|chain| HeaderValue::from_str(chain).ok()) {
        headers.insert(FORWARDED_FOR, chain);
    }
    headers.insert(FORWARDED_HOST, arrival.host.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(arrival.scheme));
    let mut request = RequestHeader::from(request);
    request.set_raw_path(target)?;
    Ok(request)
}

/// The headers that `Connection` names (RFC 9110 §7.6.1), but none that we or the framing need.
fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    let listed = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    listed
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| {
            ![
                header::HOST,
                header::CONTENT_LENGTH,
                header::TRANSFER_ENCODING,
                header::CONTENT_TYPE,
            ]
            .contains(name)
        })
        .collect()
}

/// The response that the client gets, from the upstream's: without what is not for the client, and with word on how streams
/// are to be treated on the way. Whether it is an event stream.
pub(super) fn response(
    answered: &ResponseHeader,
    hidden: &Hidden,
    config: &Config,
    upstream: &Upstream,
) -> pingora::Result<(Parts, bool)> {
    if !is_framed_plainly(&answered.headers) {
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, "a response without a clear end").into_up());
    }
    let (mut response, ()) = Response::new(()).into_parts();
    (response.status, response.version) = (answered.status, answered.version);
    let headers = &mut response.headers;
    headers.reserve(answered.headers.len() + 6);
    for (name, value) in &answered.headers {
        // The engine has seen that several lengths are the same one.
        let again = *name == header::CONTENT_LENGTH && headers.contains_key(name);
        if !again && *name != header::LOCATION && !hidden.contains(name.as_str()) {
            headers.append(name, value.clone());
        }
    }
    let location = answered.headers.get(header::LOCATION);
    if let Some(public) = location
        .and_then(|location| location.to_str().ok())
        .and_then(|location| public_location(location, config, upstream))
        .and_then(|location| HeaderValue::try_from(location).ok())
    {
        headers.insert(header::LOCATION, public);
    }
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let is_stream = content_type
        .get(..17)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"));
    if is_stream {
        headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-cache, no-transform"));
    }
    Ok((response, is_stream))
}

/// Whether the only coding, if there is one, is the one that says where a body ends (RFC 9112 §6.1).
fn is_framed_plainly(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings
        .next()
        .is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none())
}

/// A redirect that stays within the upstream's endpoint, as the client would reach it; none that leads elsewhere, where the
/// client would take its token along or lose it.
fn public_location(location: &str, config: &Config, upstream: &Upstream) -> Option<String> {
    let scheme = if upstream.url.tls { "https" } else { "http" };
    let path = match location.strip_prefix(&format!("{scheme}://{}", upstream.url.authority)) {
        Some(path) => path,
        None if location.starts_with('/') && !location.starts_with("//") => location,
        None => return None,
    };
    let base = upstream.url.path.strip_suffix('/').unwrap_or(&upstream.url.path);
    let below = path
        .strip_prefix(base)
        .filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']))?;
    let host = upstream
        .host
        .as_ref()
        .map_or_else(|| config.public_url.authority(), Clone::clone);
    Some(format!("{}://{host}{}{below}", config.public_url.scheme, upstream.path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Spec: K19
    #[test]
    fn values_are_visible_ascii_and_say_what_they_said() {
        for (text, encoded) in [
            ("ada", "ada"),
            ("Zoë", "Zo%C3%AB"),
            ("100%", "100%25"),
            ("a b", "a b"),
            (" a ", "%20a%20"),
            ("a\r\nb", "a%0D%0Ab"),
            ("  ", "%20%20"),
        ] {
            assert_eq!(encode(text), encoded, "{text:?}");
        }
    }

    /// Spec: K18, L8
    #[test]
    fn every_spelling_of_a_guarded_name_is_guarded() {
        let guarded = Guarded(Names::of(&["authorization", "x-forwarded-user"], std::iter::empty()));
        for name in [
            "x-forwarded-user",
            "x_forwarded_user",
            "x-forwarded_user",
            "authorization",
            "proxy-anything",
            "proxy_anything",
        ] {
            assert!(guarded.contains(name), "{name}");
        }
        assert!(
            !guarded.contains("x-forward-users")
                && guarded.contains("X_Forwarded_Role".to_ascii_lowercase().as_str())
                && !guarded.contains("accept")
        );
    }

    proptest! {
        #[test]
        fn any_text_becomes_a_header_value_and_comes_back(text in any::<String>()) {
            for encoded in [encode(&text), trim_encoded(utf8_percent_encode(&text, ITEM).to_string())] {
                prop_assert!(encoded.bytes().all(|b| (0x20..0x7f).contains(&b)));
                prop_assert_eq!(encoded.trim(), &encoded);
                prop_assert!(HeaderValue::from_str(&encoded).is_ok());
                prop_assert_eq!(percent_encoding::percent_decode_str(&encoded).decode_utf8().unwrap(), text.as_str());
            }
        }
    }
}
