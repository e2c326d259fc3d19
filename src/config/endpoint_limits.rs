//! `oauth.limits`: how often one address may call each endpoint, the one table of it.

use super::keys;
use super::read::{At, Object};

/// Most of anything in a minute.
const MAX_PER_MINUTE: u32 = 1_000_000;

/// What of an endpoint's traffic is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Every request: each costs us a record, a password hash or a page.
    Requests,
    /// Those that failed: a program that does its work is never slowed down, one that guesses is.
    Failures,
}

/// A row of [`LIMITS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointLimit {
    /// The key below `oauth.limits`; the endpoint's path without its slash.
    pub endpoint: &'static str,
    /// What is counted.
    pub counted: Counted,
    /// How many of them an address has in a minute, unless the file says otherwise. Offices share one address, so each is
    /// many times what one person needs.
    pub per_minute: u32,
}

/// Every endpoint that anybody can call without having shown who they are.
pub const LIMITS: [EndpointLimit; 14] = [
    requests("register", 300),
    failures("client_configuration", 60),
    requests("authorize", 600),
    requests("login", 600),
    failures("login_page", 60),
    failures("token", 300),
    failures("revoke", 300),
    failures("introspect", 300),
    failures("userinfo", 300),
    requests("par", 600),
    requests("device_authorization", 120),
    failures("device", 10),
    failures("backchannel_logout", 60),
    requests("account", 600),
];

/// `oauth.limits` as it was read: in the order of [`LIMITS`], `None` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointLimits([Option<u32>; LIMITS.len()]);

const fn requests(endpoint: &'static str, per_minute: u32) -> EndpointLimit {
    EndpointLimit {
        endpoint,
        counted: Counted::Requests,
        per_minute,
    }
}

const fn failures(endpoint: &'static str, per_minute: u32) -> EndpointLimit {
    EndpointLimit {
        endpoint,
        counted: Counted::Failures,
        per_minute,
    }
}

/// `oauth.limits`.
pub(super) fn read(oauth: &Object<'_>) -> EndpointLimits {
    let section = oauth.section("limits", keys::ENDPOINT_LIMITS);
    EndpointLimits(LIMITS.map(|limit| {
        section.or(limit.endpoint, Some(limit.per_minute), |at: &At<'_>| {
            at.unless_none(|at| at.count(MAX_PER_MINUTE))
        })
    }))
}

// === impl EndpointLimits ===

impl EndpointLimits {
    /// The limit of an endpoint: its place in the table, what is counted, and how many in a minute.
    #[must_use]
    pub fn of(&self, endpoint: &str) -> Option<(usize, Counted, u32)> {
        let mut rows = LIMITS.iter().zip(self.0).enumerate();
        let (place, (row, per_minute)) = rows.find(|(_, (row, _))| row.endpoint == endpoint)?;
        Some((place, row.counted, per_minute?))
    }

    /// The same limits with another one for an endpoint; `None` turns it off.
    #[must_use]
    pub fn with(mut self, endpoint: &str, per_minute: Option<u32>) -> Self {
        for (row, own) in LIMITS.iter().zip(&mut self.0) {
            if row.endpoint == endpoint {
                *own = per_minute;
            }
        }
        self
    }

    /// No limit anywhere.
    #[must_use]
    pub const fn none() -> Self {
        Self([None; LIMITS.len()])
    }
}

impl Default for EndpointLimits {
    fn default() -> Self {
        Self(LIMITS.map(|limit| Some(limit.per_minute)))
    }
}
