//! Reading single values: durations, sizes, secrets, names, addresses.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use url::Url;
use zeroize::Zeroizing;

use super::reader::Node;
use super::{Claim, PublicUrl};
use crate::domain::scope::{Scope, ScopeToken};
use crate::domain::uri::is_loopback;

/// Largest secret file.
const MAX_SECRET: u64 = 64 << 10;

/// The headers that a client's request must keep as they are, or that only the proxy sets.
const RESERVED_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "expect",
    "accept",
    "origin",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "forwarded",
    "last-event-id",
    "proxy-authorization",
    "proxy-connection",
];

impl Node<'_> {
    /// `10s 5m 1h 7d` between two bounds.
    pub(super) fn duration(&self, least: Duration, most: Duration) -> Option<Duration> {
        let text = self.text()?;
        let read = || {
            let (number, unit) = text.split_at_checked(text.len() - 1)?;
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3_600,
                "d" => 86_400,
                _ => return None,
            };
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            digits
                .then(|| number.parse::<u64>().ok()?.checked_mul(seconds))
                .flatten()
                .map(Duration::from_secs)
        };
        match read() {
            None => self.problem(format!("{text:?} is not a duration; write 10s, 5m, 1h or 7d")),
            Some(found) if found < least || found > most => {
                self.problem(format!("must be between {}s and {}s", least.as_secs(), most.as_secs()));
            }
            Some(found) => return Some(found),
        }
        None
    }

    /// `64KiB 4MiB`, or a number of bytes.
    pub(super) fn size(&self, most: u64) -> Option<u64> {
        let read = |text: &str| {
            let (number, factor) = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)]
                .into_iter()
                .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, factor)))?;
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            digits
                .then(|| number.parse::<u64>().ok()?.checked_mul(factor))
                .flatten()
        };
        let found = self.number().or_else(|| self.value.as_str().and_then(read));
        match found {
            None => self.problem("is not a size; write 64KiB or 4MiB"),
            Some(0) => self.problem("must be more than nothing"),
            Some(found) if found > most => self.problem(format!("must be at most {most} bytes")),
            Some(found) => return Some(found),
        }
        None
    }

    /// A whole number from 1.
    pub(super) fn count(&self) -> Option<u32> {
        let found = self
            .number()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| *number > 0);
        if found.is_none() {
            self.problem("must be a whole number from 1, or none");
        }
        found
    }

    /// Whether it says `none`.
    pub(super) fn is_none(&self) -> bool {
        self.value.as_str() == Some("none")
    }

    /// A secret: a value, `{ env: NAME }` or `{ file: PATH }`. What it is appears in no problem.
    pub(super) fn secret(&self) -> Option<Zeroizing<String>> {
        let found = if self.value.is_mapping() {
            if !self.object(&["env", "file"]) {
                return None;
            }
            match (self.get("env"), self.get("file")) {
                (Some(name), None) => {
                    let name = name.text()?;
                    let value = (self.document.environment)(name);
                    if value.is_none() {
                        self.problem(format!("the environment variable {name} is not set"));
                    }
                    Zeroizing::new(value?)
                }
                (None, Some(path)) => {
                    let path = path.text()?;
                    let read = || -> std::io::Result<String> {
                        let path = self.document.directory.join(path);
                        if std::fs::metadata(&path)?.len() > MAX_SECRET {
                            return Err(std::io::Error::other("it is larger than 64 KiB"));
                        }
                        std::fs::read_to_string(path)
                    };
                    let text =
                        Zeroizing::new(self.check(read().map_err(|error| format!("cannot read {path}: {error}")))?);
                    Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())
                }
                _ => {
                    self.problem("must be a value, { env: NAME } or { file: PATH }");
                    return None;
                }
            }
        } else {
            Zeroizing::new(self.text()?.to_owned())
        };
        if found.is_empty() {
            self.problem("the secret is empty");
            return None;
        }
        Some(found)
    }

    /// Scopes in a list.
    pub(super) fn scope_list(&self) -> Scope {
        self.texts()
            .into_iter()
            .filter_map(|(item, text)| item.check(text.parse::<ScopeToken>()))
            .collect()
    }

    /// An address with a port.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let text = self.text()?;
        let localhost = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        let found = localhost.as_deref().unwrap_or(text).parse().ok();
        if found.is_none() {
            self.problem(format!(
                "{text:?} is not an address with a port; write 127.0.0.1:8080 or 0.0.0.0:8080"
            ));
        }
        found
    }

    /// `public_url`.
    pub(super) fn public_url(&self) -> Option<PublicUrl> {
        const EXAMPLE: &str = "write https://mcp.example.com, or http://127.0.0.1:8080 for this machine alone";
        let text = self.text()?;
        let Some(url) = Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        else {
            self.problem(format!("{text:?} is not an absolute http or https URL; {EXAMPLE}"));
            return None;
        };
        let bare = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !bare || text.contains(['?', '#', '@', '\\']) {
            self.problem(format!("must be an origin: no path, query or user; {EXAMPLE}"));
            return None;
        }
        let loopback = is_loopback(&url);
        if url.scheme() == "http" && !loopback {
            self.problem(format!(
                "http is allowed on loopback only, since tokens and passwords would travel in clear; {EXAMPLE}"
            ));
            return None;
        }
        Some(PublicUrl {
            origin: url.origin().ascii_serialization(),
            scheme: if url.scheme() == "https" { "https" } else { "http" },
            host: url.host_str()?.to_owned(),
            port: url.port(),
            loopback,
        })
    }

    /// A header that the gateway may set on requests to an upstream.
    pub(super) fn header_name(&self, text: &str) -> Option<HeaderName> {
        let Ok(name) = HeaderName::try_from(text) else {
            self.problem(format!("{text:?} is not a header name"));
            return None;
        };
        if RESERVED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("mcp-") || name.as_str().contains('_')
        {
            self.problem(format!("{text} cannot be set here"));
            return None;
        }
        Some(name)
    }

    /// A header's value from a secret, marked so that no log shows it.
    pub(super) fn header_value(&self) -> Option<HeaderValue> {
        let text = self.secret()?;
        let mut value =
            self.check(HeaderValue::from_str(&text).map_err(|_| "is not a header value: visible ASCII on one line"))?;
        value.set_sensitive(true);
        Some(value)
    }

    /// What an identity header carries.
    pub(super) fn claim(&self) -> Option<Claim> {
        let text = self.text()?;
        let found = Claim::ALL.into_iter().find(|claim| claim.name() == text);
        if found.is_none() {
            let names: Vec<_> = Claim::ALL.into_iter().map(Claim::name).collect();
            self.problem(format!("{text:?} is not a claim; write one of {}", names.join(", ")));
        }
        found
    }

    /// A browser origin, or `*`.
    pub(super) fn origin(&self) -> Option<String> {
        let text = self.text()?;
        let is_origin =
            |url: &Url| matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text;
        if text == "*" || Url::parse(text).is_ok_and(|url| is_origin(&url)) {
            return Some(text.to_owned());
        }
        self.problem(format!(
            "{text:?} is not an origin; write https://app.example.com, without a path, or \"*\""
        ));
        None
    }
}

impl Claim {
    const ALL: [Self; 7] = [
        Self::Subject,
        Self::Username,
        Self::Email,
        Self::Name,
        Self::Groups,
        Self::Scope,
        Self::ClientId,
    ];

    /// What the configuration calls it.
    const fn name(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Username => "username",
            Self::Email => "email",
            Self::Name => "name",
            Self::Groups => "groups",
            Self::Scope => "scope",
            Self::ClientId => "client_id",
        }
    }
}
