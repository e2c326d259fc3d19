//! How often an address may call an endpoint. The numbers are the configuration's ([`crate::config::LIMITS`]); here is
//! what counts against them, and what whoever asked too often hears (RFC 6585 §4).
//!
//! An address is a customer: an IPv6 one has a whole /64. Addresses are remembered in bounded memory. Where a proxy stands
//! in front that is not among `trusted_proxies`, all of its users are one address: docs/configuration.md says so.

use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use http::header::{self, HeaderValue};
use serde_json::json;

use super::pages::Problem;
use super::{Answer, Audience, Call, Endpoints, ROUTES, Route, authorize, web};
use crate::config::Counted;
use crate::domain::error::ErrorCode;
use crate::domain::rate::{Rates, network};

/// What addresses have used up, by endpoint.
pub type Memory = Rates<(usize, IpAddr)>;

/// Leave to answer a request; says what to count when the answer is known.
pub(super) struct Admission {
    /// If failures are counted here: against whom, and how many there may be.
    on_failure: Option<((usize, IpAddr), u32)>,
}

/// Lets a request through to its endpoint, or says why not.
pub(super) fn admit(at: &Endpoints, route: Route, call: &Call<'_>) -> Result<Admission, Box<Answer>> {
    let free = Admission { on_failure: None };
    let Some((place, counted, per_minute)) = name(route).and_then(|name| at.config.oauth.limits.of(name)) else {
        return Ok(free);
    };
    let party = (place, network(call.address));
    let outcome = match counted {
        Counted::Requests => at.limits.admit(party, per_minute, at.now()),
        Counted::Failures => at.limits.check(&party, per_minute, at.now()),
    };
    match (outcome, counted) {
        (Ok(()), Counted::Requests) => Ok(free),
        (Ok(()), Counted::Failures) => Ok(Admission {
            on_failure: Some((party, per_minute)),
        }),
        (Err(wait), _) => {
            at.metrics.limited(name(route).unwrap_or_default());
            Err(Box::new(too_often(at, route, call, wait)))
        }
    }
}

/// What an endpoint is called in the table of limits: its path, without the slash.
fn name(route: Route) -> Option<&'static str> {
    match route {
        Route::ClientConfiguration => return Some("client_configuration"),
        Route::ProviderStart | Route::ProviderCallback => return Some("login"),
        Route::BackchannelLogout => return Some("backchannel_logout"),
        _ => {}
    }
    if matches!(route, Route::LoginAccept | Route::LoginReject) {
        return Some("login_page");
    }
    match route {
        Route::LoginPassword | Route::LoginSecond => return Some("login"),
        Route::AccountPassword | Route::AccountSecurity => return Some("account"),
        _ => {}
    }
    let (path, _) = ROUTES.iter().find(|(_, own)| *own == route)?;
    path.strip_prefix('/')
}

// === impl Admission ===

impl Admission {
    /// Counts the answer, if it is one that counts. Requests that are answered at the same time may all pass before the
    /// first of them is counted: what is guessed here is 256 bits long, and a few more guesses get nobody anywhere.
    pub(super) fn settle(self, at: &Endpoints, answer: &Answer) {
        if let Some((party, per_minute)) = self.on_failure
            && is_failure(answer)
        {
            // One too many is not counted, and the next request hears of it.
            let _ = at.limits.admit(party, per_minute, at.now());
        }
    }
}

/// Whether the one who asked did something wrong. To ask a device's code again is how the device flow works, a proof
/// without a nonce is how a nonce is had, and what fails here is not their fault.
fn is_failure(answer: &Answer) -> bool {
    let innocent = matches!(
        answer.extensions().get::<ErrorCode>(),
        Some(ErrorCode::AuthorizationPending | ErrorCode::SlowDown | ErrorCode::UseDpopNonce)
    );
    answer.status().is_client_error() && !innocent
}

/// 429: JSON for programs, a page for people, and for both when to come back.
fn too_often(at: &Endpoints, route: Route, call: &Call<'_>, wait: Duration) -> Answer {
    let mut answer = if route.audience() == Audience::Programs || authorize::wants_json(call) {
        web::json_no_store(
            StatusCode::TOO_MANY_REQUESTS,
            &json!({
                "error": ErrorCode::TemporarilyUnavailable.as_str(),
                "error_description": "too many requests from this address; come back after the time in Retry-After",
            }),
        )
    } else {
        Problem::too_often(wait).answer(at)
    };
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    answer
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    answer
}
