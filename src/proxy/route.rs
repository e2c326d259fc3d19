//! What a request's head must be before anything is decided by it, and which upstream it is for.
//!
//! Two programs that read one request differently are the root of smuggling and of walking around a policy, so whatever could
//! be read in two ways is refused, and the path that is matched is the path that is forwarded.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};

use super::reply::Refusal;
use crate::config::{Config, Upstream};

/// Largest head, request line included.
const MAX_HEAD: usize = 64 << 10;
/// Most headers.
const MAX_HEADERS: usize = 100;

/// Refuses a head that is not plainly what it seems. `raw` is the head as it came over the wire, where there is one.
pub(super) fn check_head(method: &Method, uri: &Uri, headers: &HeaderMap, raw: Option<&[u8]>) -> Result<(), Refusal> {
    let bad = |description: &str| {
        Err(Refusal::closing(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            description,
        ))
    };
    if raw.is_some_and(|raw| raw.len() > MAX_HEAD) || headers.len() > MAX_HEADERS {
        return Err(Refusal::closing(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "invalid_request",
            "the request's head is too large",
        ));
    }
    if *method == Method::TRACE || *method == Method::CONNECT {
        return Err(Refusal::closing(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request",
            "this method is not allowed",
        ));
    }
    if raw.is_some_and(has_bare_line_feed) {
        return bad("a line of the head ends without CR");
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return bad("the only transfer coding here is chunked");
        }
        // The engine has dropped Content-Length by now where there were both, so the wire is asked.
        if raw.is_some_and(|raw| names(raw, b"content-length")) || headers.contains_key(header::CONTENT_LENGTH) {
            return bad("there are both Content-Length and Transfer-Encoding");
        }
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = !length.is_empty() && length.len() < 19 && length.as_bytes().iter().all(u8::is_ascii_digit);
        if lengths.next().is_some() || !digits {
            return bad("Content-Length is not one number");
        }
    }
    if !options_are_plain(headers) {
        return bad("Connection names what it may not");
    }
    if let Some(authority) = uri.authority()
        && host(headers)? != authority.as_str().to_ascii_lowercase()
    {
        return bad("the request line and Host name different hosts");
    }
    check_path(uri.path())
        .map_err(|description| Refusal::closing(StatusCode::BAD_REQUEST, "invalid_request", description))
}

/// Whether `Connection` holds names only, and none of a header that the request cannot do without (RFC 9110 §7.6.1).
fn options_are_plain(headers: &HeaderMap) -> bool {
    let needed = ["host", "content-length", "transfer-encoding"];
    headers.get_all(header::CONNECTION).iter().all(|value| {
        value.to_str().is_ok_and(|options| {
            options.split(',').map(str::trim).all(|option| {
                let token = option
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
                token && !needed.iter().any(|name| option.eq_ignore_ascii_case(name))
            })
        })
    })
}

/// Whether some line of the head ends in LF alone.
fn has_bare_line_feed(raw: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', raw).any(|at| at.checked_sub(1).and_then(|before| raw.get(before)) != Some(&b'\r'))
}

/// Whether the head has a header of this name, which is given in lower case.
fn names(raw: &[u8], name: &[u8]) -> bool {
    raw.split(|byte| *byte == b'\n').skip(1).any(|line| {
        line.get(..name.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(name))
            && line.get(name.len()).is_some_and(|b| matches!(b, b':' | b' ' | b'\t'))
    })
}

/// The one `Host`, in lower case.
pub(super) fn host(headers: &HeaderMap) -> Result<Cow<'_, str>, Refusal> {
    let mut values = headers.get_all(header::HOST).iter();
    match (values.next(), values.next()) {
        (Some(host), None) => host_of(host),
        _ => Err(no_host()),
    }
}

fn no_host() -> Refusal {
    Refusal::closing(
        StatusCode::BAD_REQUEST,
        "invalid_request",
        "there must be one proper Host header",
    )
}

/// What a `Host` header, or `X-Forwarded-Host`, names, in lower case.
pub(super) fn host_of(host: &HeaderValue) -> Result<Cow<'_, str>, Refusal> {
    let bad = no_host;
    let host = host.to_str().map_err(|_| bad())?;
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest
            .split_once(']')
            .filter(|(_, port)| port.is_empty() || port.starts_with(':'))
            .map(|(name, port)| (name, port.strip_prefix(':')))
            .filter(|(name, _)| name.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.'))
            .ok_or_else(bad)?,
        None => host
            .split_once(':')
            .map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let plain = !name.is_empty()
        && (host.starts_with('[') || name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)));
    let port_is_one =
        port.is_none_or(|port| !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()));
    if plain && port_is_one {
        Ok(if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            host.to_ascii_lowercase().into()
        } else {
            host.into()
        })
    } else {
        Err(bad())
    }
}

/// Refuses a path that some server behind us could resolve to another: dots, empty segments, encoded separators, anything
/// that is not plain ASCII.
pub(super) fn check_path(path: &str) -> Result<(), &'static str> {
    if path != "/"
        && path
            .bytes()
            .any(|b| !(0x21..0x7f).contains(&b) || b"\\\"<>^`{|}#".contains(&b))
    {
        return Err("the path has characters that belong encoded");
    }
    let mut rest = path.as_bytes();
    while let Some(at) = rest.iter().position(|b| *b == b'%') {
        let digits = rest
            .get(at + 1..at + 3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .ok_or("the path has a broken escape")?;
        let decoded = Some(digits)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match decoded.ok_or("the path has a broken escape")? {
            b'.' | b'/' | b'\\' => return Err("the path has an encoded dot or slash"),
            0..0x20 | 0x7f => return Err("the path has an encoded control character"),
            _ => {}
        }
        rest = rest.get(at + 3..).unwrap_or_default();
    }
    let mut segments = path
        .strip_prefix('/')
        .ok_or("the path does not begin with a slash")?
        .split('/')
        .peekable();
    while let Some(segment) = segments.next() {
        if matches!(segment, "." | "..") {
            return Err("the path has a dot segment");
        }
        if segment.is_empty() && segments.peek().is_some() {
            return Err("the path has an empty segment");
        }
    }
    Ok(())
}

/// What public hosts there are, and who is behind them.
#[derive(Debug)]
pub(super) struct Routes {
    /// The authorities of `public_url`: its own, and the other names of this machine if it is loopback.
    own_hosts: Vec<String>,
    /// Upstreams by host (`None` for `own_hosts`) and path; a path is nobody else's.
    mounts: Vec<(Option<String>, String)>,
}

impl Routes {
    pub(super) fn new(config: &Config) -> Self {
        let public = &config.public_url;
        let names: &[&str] = if public.loopback {
            &["localhost", "127.0.0.1", "[::1]"]
        } else {
            &[]
        };
        let port = public.port.map(|port| format!(":{port}")).unwrap_or_default();
        let mut own_hosts = vec![public.authority()];
        own_hosts.extend(
            names
                .iter()
                .map(|name| format!("{name}{port}"))
                .filter(|host| *host != public.authority()),
        );
        // Clients may name the port that goes without saying.
        let usual = if public.scheme == "https" { ":443" } else { ":80" };
        if public.port.is_none() {
            own_hosts.extend(own_hosts.clone().iter().map(|host| format!("{host}{usual}")));
        }
        let mounts = config
            .upstreams
            .iter()
            .map(|upstream| (upstream.host.clone(), upstream.path.clone()))
            .collect();
        Self { own_hosts, mounts }
    }

    /// Whether this is a host of ours.
    pub(super) fn knows(&self, host: &str) -> bool {
        self.is_own(host) || self.mounts.iter().any(|(own, _)| own.as_deref() == Some(host))
    }

    fn is_own(&self, host: &str) -> bool {
        self.own_hosts.iter().any(|own| own == host)
    }

    /// The origins of the gateway's own pages.
    pub(super) fn own_origins(&self, scheme: &str) -> Vec<String> {
        self.own_hosts.iter().map(|host| format!("{scheme}://{host}")).collect()
    }

    /// The upstream that a path belongs to, as its place in the configuration.
    pub(super) fn find(&self, host: &str, path: &str) -> Option<usize> {
        let below = |mount: &str| {
            path.strip_prefix(mount)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let here = |own: Option<&str>| own.map_or_else(|| self.is_own(host), |own| own == host);
        self.mounts
            .iter()
            .position(|(own, mount)| here(own.as_deref()) && below(mount))
    }
}

/// Where a request to an upstream's public path goes: the mount itself, with or without a slash, is the MCP endpoint.
pub(super) fn forwarded(upstream: &Upstream, uri: &Uri) -> String {
    let below = uri.path().strip_prefix(upstream.path.as_str()).unwrap_or_default();
    let mut target = upstream.url.path.clone();
    if !below.is_empty() && below != "/" {
        if target.ends_with('/') {
            target.pop();
        }
        target.push_str(below);
    }
    if let Some(query) = uri.query() {
        target.push('?');
        target.push_str(query);
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Spec: K22
    #[test]
    fn paths_that_mean_two_things_are_refused() {
        for bad in [
            "/a/..",
            "/./a",
            "/a/%2e%2E/b",
            "/a%2fb",
            "/a%5Cb",
            "/a//b",
            "//a",
            "/a/%",
            "/a/%4",
            "/a/%g0",
            "/a%00",
            "/a%0d",
            "/a\\b",
            "/ä",
            "a",
        ] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
        for fine in [
            "/",
            "/a",
            "/a/",
            "/a/b.c",
            "/a/..b",
            "/a/b..",
            "/a;b",
            "/a%20b",
            "/a/%C3%A4",
            "/.well-known/x",
        ] {
            assert_eq!(check_path(fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn a_host_is_a_name_and_perhaps_a_port() {
        let of = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            super::host(&headers).ok().map(Cow::into_owned)
        };
        for (host, read) in [
            ("A.example", "a.example"),
            ("a.example:8080", "a.example:8080"),
            ("[::1]:80", "[::1]:80"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(of(host).as_deref(), Some(read));
        }
        for bad in [
            "", "a b", "u@a", "a/b", "a:", "a:b", "a:1:2", "a:999999", "[::1", "[::1]x", "[x]", "a,b", "a?b",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bare_line_feed_and_a_hidden_length_are_seen() {
        assert!(has_bare_line_feed(b"GET / HTTP/1.1\nHost: a\r\n\r\n") && has_bare_line_feed(b"\nGET"));
        assert!(!has_bare_line_feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(names(b"GET / HTTP/1.1\r\nContent-LENGTH: 3\r\n\r\n", b"content-length"));
        assert!(!names(
            b"GET / HTTP/1.1\r\nX-Content-Length: 3\r\n\r\n",
            b"content-length"
        ));
    }

    proptest! {
        #[test]
        fn no_path_breaks_the_check(path in "[ -~]{0,60}") {
            if check_path(&path).is_ok() {
                let decoded = percent_encoding::percent_decode_str(&path).decode_utf8_lossy().into_owned();
                prop_assert!(!decoded.split('/').any(|segment| matches!(segment, "." | "..")));
                prop_assert_eq!(decoded.matches('/').count(), path.matches('/').count());
            }
        }
    }
}
