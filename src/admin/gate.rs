//! Who gets to the administration at all. It often listens where every page in a browser on the same machine can send
//! requests to, so a request has to name the listener by a name that no stranger can have (DNS rebinding), to come from one of
//! our own pages (CSRF), and to bring the token.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use lru::LruCache;

use super::trouble::Trouble;
use crate::domain::clock::Timestamp;
use crate::domain::rate::network;
use crate::domain::secret::SecretHash;

/// Wrong tokens from one network within a window.
const FREE: u32 = 10;
/// The window.
const WINDOW: Duration = Duration::from_secs(60);
/// Most networks that are remembered.
const MOST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);
/// Longest token that is looked at.
const MAX_TOKEN: usize = 4 << 10;
/// Names of these kinds lead to nowhere on the public internet.
const PRIVATE_ENDS: &[&str] = &[
    ".localhost",
    ".local",
    ".internal",
    ".svc",
    ".svc.cluster.local",
    ".test",
];

/// How often a wrong token was shown, and from where.
#[derive(Debug)]
pub(super) struct Throttle(Mutex<LruCache<IpAddr, (u32, Timestamp)>>);

/// The listener is named by an address, or by a name that nobody can register: a page that made a name of its own lead here
/// gets nothing.
pub(super) fn check_host(headers: &HeaderMap) -> Result<(), Trouble> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    match (host, hosts.next()) {
        (Some(host), None) if is_private(name_of(host)) => Ok(()),
        _ => Err(Trouble::new(
            StatusCode::MISDIRECTED_REQUEST,
            "wrong_host",
            "the admin listener answers to an address, such as http://127.0.0.1:9090, to localhost, and to names within a private network",
        )),
    }
}

/// The name without the port.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_private(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let letters = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_');
    // A name without a dot is one of this machine or of this network.
    let is_short = !name.is_empty() && !name.contains('.') && letters;
    name.parse::<IpAddr>().is_ok()
        || is_short
        || letters
            && PRIVATE_ENDS
                .iter()
                .any(|end| name.len() > end.len() && name.ends_with(end))
}

/// Whether a browser says that a request comes from a page of ours or from nobody's; programs say nothing. `Origin: null` is
/// what our own forms send, since they forbid the referrer, and is believed only with `Sec-Fetch-Site`.
pub(super) fn check_source(headers: &HeaderMap) -> Result<(), Trouble> {
    let all = |name: header::HeaderName| headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
    let host = all(header::HOST).next().unwrap_or_default();
    let sites: Vec<&[u8]> = all(header::HeaderName::from_static("sec-fetch-site")).collect();
    let fine_site = sites.iter().all(|site| *site == b"same-origin" || *site == b"none");
    let fine_origin = all(header::ORIGIN).all(|origin| {
        let own = [&b"http://"[..], b"https://"]
            .iter()
            .any(|scheme| origin.strip_prefix(*scheme) == Some(host));
        own || origin == b"null" && !sites.is_empty()
    });
    if fine_site && fine_origin {
        Ok(())
    } else {
        Err(Trouble::new(
            StatusCode::FORBIDDEN,
            "foreign_origin",
            "this comes from another page; open the administration by its own address",
        ))
    }
}

/// The token of a program.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (values.next().is_none() && scheme.eq_ignore_ascii_case("bearer")).then_some(token)
}

// === impl Throttle ===

impl Default for Throttle {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MOST)))
    }
}

impl Throttle {
    /// Whether this is the token. Whoever showed too many wrong ones has to wait, even with the right one: or waiting would
    /// keep nobody from guessing.
    pub(super) fn check(
        &self,
        expected: &SecretHash,
        presented: Option<&str>,
        from: IpAddr,
        now: Timestamp,
    ) -> Result<(), Trouble> {
        let from = network(from);
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = memory.get(&from).filter(|(_, since)| now.since(*since) < WINDOW);
        let (count, since) = known.copied().unwrap_or((0, now));
        if count >= FREE {
            let wait = since.plus(WINDOW).since(now).as_secs() + 1;
            return Err(Trouble {
                retry_after: Some(wait),
                ..Trouble::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too_many_attempts",
                    format!("too many wrong tokens came from this address; try again in {wait} seconds"),
                )
            });
        }
        let Some(presented) = presented else {
            return Err(Trouble::new(
                StatusCode::UNAUTHORIZED,
                "token_needed",
                "admin.token of the configuration is needed here, as a bearer token",
            ));
        };
        if presented.len() <= MAX_TOKEN && expected.matches(presented) {
            return Ok(());
        }
        memory.put(from, (count + 1, since));
        tracing::warn!(address = %from, "a wrong token was shown to the administration");
        Err(Trouble::new(
            StatusCode::UNAUTHORIZED,
            "wrong_token",
            "this is not the token that admin.token says",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    header::HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn only_names_that_no_stranger_can_have_are_answered() {
        for fine in [
            "127.0.0.1:9090",
            "[::1]:9090",
            "localhost:9090",
            "10.0.0.7",
            "mcpgate:9090",
            "gw.prod.svc:1",
            "LocalHost",
        ] {
            assert!(check_host(&headers(&[("host", fine)])).is_ok(), "{fine}");
        }
        for foreign in [
            "rebind.example:9090",
            "127.0.0.1.evil.example",
            "",
            ":9090",
            "evil.com",
            "local host",
            ".svc",
            "a@127.0.0.1",
        ] {
            assert!(check_host(&headers(&[("host", foreign)])).is_err(), "{foreign}");
        }
        assert!(check_host(&headers(&[])).is_err());
        assert!(check_host(&headers(&[("host", "localhost"), ("host", "localhost")])).is_err());
    }

    #[test]
    fn only_our_own_pages_and_programs_may_send_requests() {
        let with = |more: &[(&'static str, &'static str)]| {
            check_source(&headers(&[&[("host", "localhost:9090")], more].concat())).is_ok()
        };
        assert!(with(&[]));
        assert!(with(&[
            ("origin", "http://localhost:9090"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(with(&[("origin", "null"), ("sec-fetch-site", "same-origin")]));
        for (origin, site) in [
            ("http://localhost:3000", "same-site"),
            ("https://evil.example", "cross-site"),
            ("null", "cross-site"),
            ("http://localhost:9090", "same-site"),
        ] {
            assert!(
                !with(&[("origin", origin), ("sec-fetch-site", site)]),
                "{origin} {site}"
            );
        }
        assert!(!with(&[("origin", "null")]));
        assert!(!with(&[("origin", "http://localhost:3000")]));
    }

    #[test]
    fn guessing_has_an_end_and_the_right_token_waits_too() {
        let throttle = Throttle::default();
        let token = SecretHash::of("the right token");
        let (here, there) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let check = |presented, from, seconds| throttle.check(&token, presented, from, at(seconds)).map_err(|t| t.code);
        for _ in 0..FREE {
            assert_eq!(check(Some("wrong"), here, 5), Err("wrong_token"));
        }
        assert_eq!(check(Some("the right token"), here, 5), Err("too_many_attempts"));
        assert_eq!(check(Some("the right token"), there, 5), Ok(()));
        assert_eq!(check(Some("the right token"), here, 65), Ok(()));
        assert_eq!(check(None, there, 65), Err("token_needed"));
    }
}
