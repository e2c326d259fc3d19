//! `upstreams[].limits`: how much of everything, how often, and how many at a time.

use std::time::Duration;

use super::keys;
use super::read::{At, Object};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Largest request body that can be allowed.
const MAX_BODY: u64 = 1 << 30;
/// Largest number that is worth counting to.
const MAX_COUNT: u32 = 1_000_000;

/// `upstreams[].limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a request body.
    pub body: u64,
    /// Time to reach the upstream.
    pub connect_timeout: Duration,
    /// Time until its response begins.
    pub response_timeout: Duration,
    /// Silence after which a response is cut; `None` for never.
    pub idle_stream: Option<Duration>,
    /// Requests of one subject in a minute; `None` for any number.
    pub requests_per_minute: Option<u32>,
    /// Requests of one client in a minute, whoever uses it; `None` for any number.
    pub client_requests_per_minute: Option<u32>,
    /// Calls of one tool by one subject in a minute; `None` for any number.
    pub tool_calls_per_minute: Option<u32>,
    /// Requests of one subject that are not answered yet; `None` for any number.
    pub concurrent_requests: Option<u32>,
    /// Event streams that one subject has open; `None` for any number.
    pub concurrent_streams: Option<u32>,
    /// Requests of all that are not answered yet; `None` for any number.
    pub total_concurrent_requests: Option<u32>,
    /// Event streams that are open in all; `None` for any number.
    pub total_concurrent_streams: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 4 << 20,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            idle_stream: None,
            requests_per_minute: None,
            client_requests_per_minute: None,
            tool_calls_per_minute: None,
            concurrent_requests: None,
            concurrent_streams: None,
            total_concurrent_requests: None,
            total_concurrent_streams: None,
        }
    }
}

impl At<'_> {
    /// `limits` of an upstream.
    pub(super) fn limits(&self) -> Option<Limits> {
        let object = self.object(keys::LIMITS)?;
        let default = Limits::default();
        Some(Limits {
            body: object.or("body", default.body, |at| at.size(MAX_BODY)),
            connect_timeout: object.or("connect_timeout", default.connect_timeout, |at| {
                at.duration(SECOND, 5 * MINUTE)
            }),
            response_timeout: object.or("response_timeout", default.response_timeout, |at| {
                at.duration(SECOND, 60 * MINUTE)
            }),
            idle_stream: object.or("idle_stream", default.idle_stream, |at| {
                at.unless_none(|at| at.duration(SECOND, 7 * DAY))
            }),
            requests_per_minute: count(&object, "requests_per_minute"),
            client_requests_per_minute: count(&object, "client_requests_per_minute"),
            tool_calls_per_minute: count(&object, "tool_calls_per_minute"),
            concurrent_requests: count(&object, "concurrent_requests"),
            concurrent_streams: streams(&object, "concurrent_streams"),
            total_concurrent_requests: count(&object, "total_concurrent_requests"),
            total_concurrent_streams: streams(&object, "total_concurrent_streams"),
        })
    }
}

/// A number from 1, or `none`.
fn count(object: &Object<'_>, key: &'static str) -> Option<u32> {
    object.or(key, None, |at| at.unless_none(|at| at.count(MAX_COUNT)))
}

/// A number of streams. A request counts until it is known that its answer is no stream, so one alone would leave no room
/// for a call beside the stream of a session.
fn streams(object: &Object<'_>, key: &'static str) -> Option<u32> {
    object.or(key, None, |at| {
        at.unless_none(|at| match at.count(MAX_COUNT)? {
            1 => at.refuse("leaves no room for a call beside a session's own stream; write 2 or more"),
            streams => Some(streams),
        })
    })
}
