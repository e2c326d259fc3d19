//! How long a fetched document may be used without asking again: RFC 9111 §4.2, between bounds of our own.

use std::time::Duration;

use http::HeaderMap;
use http::header::{AGE, CACHE_CONTROL, DATE, EXPIRES};

/// The shortest time, whatever the site says: nobody can make us fetch with every request.
pub(super) const LEAST: Duration = Duration::from_secs(5 * 60);
/// The longest time, whatever the site says: a change arrives within a day.
pub(super) const MOST: Duration = Duration::from_secs(24 * 60 * 60);

/// What a response allows a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freshness {
    /// How long it is fresh.
    pub(super) lasts: Duration,
    /// Whether it may be used after that, while no newer one can be had.
    pub(super) keeps: bool,
}

impl Freshness {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let directives = headers
            .get_all(CACHE_CONTROL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','))
            .map(|directive| directive.trim().to_ascii_lowercase());
        let (mut max_age, mut never, mut keeps) = (None, false, true);
        for directive in directives {
            let (name, value) = directive.split_once('=').unwrap_or((&directive, ""));
            match name.trim() {
                "max-age" => max_age = seconds(value),
                "no-cache" | "private" => never = true,
                "no-store" => (never, keeps) = (true, false),
                "must-revalidate" | "proxy-revalidate" => keeps = false,
                _ => {}
            }
        }
        let lasts = if never {
            Duration::ZERO
        } else {
            let age = header(headers, &AGE).and_then(seconds).unwrap_or_default();
            max_age
                .or_else(|| expires(headers))
                .unwrap_or_default()
                .saturating_sub(age)
        };
        Self {
            lasts: lasts.clamp(LEAST, MOST),
            keeps,
        }
    }
}

/// The time from `Date` to `Expires`; without both there is nothing to go by, since clocks differ.
fn expires(headers: &HeaderMap) -> Option<Duration> {
    let date = |name| httpdate::parse_http_date(header(headers, name)?).ok();
    date(&EXPIRES)?.duration_since(date(&DATE)?).ok()
}

fn header<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn seconds(text: &str) -> Option<Duration> {
    let digits = text.trim().trim_matches('"');
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // RFC 9111 §1.2.2: what is too large for us is simply long.
    plain.then(|| digits.parse().map_or(MOST, Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    /// Spec: C21
    #[test]
    fn a_site_says_how_long_within_bounds() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (headers, lasts, keeps) in [
            (&[][..], minutes(5), true),
            (&[("cache-control", "max-age=3600")], minutes(60), true),
            (&[("cache-control", "public, Max-Age=\"3600\"")], minutes(60), true),
            (&[("cache-control", "max-age=3600"), ("age", "600")], minutes(50), true),
            (&[("cache-control", "max-age=10")], minutes(5), true),
            (
                &[("cache-control", "max-age=99999999999999999999999")],
                minutes(1440),
                true,
            ),
            (&[("cache-control", "max-age=604800")], minutes(1440), true),
            (&[("cache-control", "max-age=-1")], minutes(5), true),
            (&[("cache-control", "max-age=3600, no-store")], minutes(5), false),
            (
                &[("cache-control", "max-age=3600"), ("cache-control", "no-cache")],
                minutes(5),
                true,
            ),
            (
                &[("cache-control", "max-age=3600, must-revalidate")],
                minutes(60),
                false,
            ),
            (
                &[
                    ("date", "Sun, 06 Nov 1994 08:00:00 GMT"),
                    ("expires", "Sun, 06 Nov 1994 09:00:00 GMT"),
                ],
                minutes(60),
                true,
            ),
            (
                &[("date", "Sun, 06 Nov 1994 08:00:00 GMT"), ("expires", "0")],
                minutes(5),
                true,
            ),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(Freshness::of(&map), Freshness { lasts, keeps }, "{headers:?}");
        }
    }
}
