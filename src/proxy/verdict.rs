//! What an error of the engine means: for the client, for the metrics.

use http::StatusCode;
use pingora::{Error, ErrorSource, ErrorType};

use super::reply::RpcError;
use crate::telemetry::{Outcome, UpstreamFailure};

/// Marks an upstream that refused the gateway's own credentials.
pub(super) const UPSTREAM_UNAUTHORIZED: ErrorType = ErrorType::new("upstream answered 401");
/// Marks a body that grew over its limit.
pub(super) const BODY_TOO_LARGE: ErrorType = ErrorType::new("request body over the limit");

/// What is said of an error, if anybody is there to be told.
pub(super) type Said = Option<(StatusCode, RpcError, &'static str)>;

/// What an error of the engine means: status, what to say, what to count. `None` if nobody is there to be told.
pub(super) fn of(error: &Error, late_by_watch: bool) -> (Said, Outcome, Option<UpstreamFailure>) {
    use ErrorType as E;
    let failed = |message, failure| {
        (
            Some((StatusCode::BAD_GATEWAY, RpcError::UpstreamFailed, message)),
            Outcome::UpstreamFailed,
            Some(failure),
        )
    };
    let late = (
        Some((
            StatusCode::GATEWAY_TIMEOUT,
            RpcError::UpstreamTimeout,
            "the server did not answer in time",
        )),
        Outcome::UpstreamFailed,
        Some(UpstreamFailure::Timeout),
    );
    if late_by_watch {
        return late;
    }
    match (error.etype(), error.esource()) {
        (kind, _) if *kind == BODY_TOO_LARGE => (
            Some((
                StatusCode::PAYLOAD_TOO_LARGE,
                RpcError::TooMany,
                "the body is too large",
            )),
            Outcome::Rejected,
            None,
        ),
        (kind, _) if *kind == UPSTREAM_UNAUTHORIZED => failed(
            "the server refused the gateway's credentials",
            UpstreamFailure::Unauthorized,
        ),
        (_, ErrorSource::Downstream) => (None, Outcome::ClientGone, None),
        (E::ConnectTimedout | E::TLSHandshakeTimedout | E::ReadTimedout | E::WriteTimedout, _) => late,
        (
            E::ConnectRefused
            | E::ConnectNoRoute
            | E::ConnectError
            | E::ConnectProxyFailure
            | E::BindError
            | E::SocketError,
            _,
        ) => failed("the server cannot be reached", UpstreamFailure::Connect),
        (E::TLSHandshakeFailure | E::InvalidCert | E::TLSWantX509Lookup, _) => {
            failed("the server's certificate cannot be trusted", UpstreamFailure::Tls)
        }
        (E::InvalidHTTPHeader | E::H1Error | E::H2Error | E::InvalidH2, _) => {
            failed("the server's answer is not HTTP", UpstreamFailure::Protocol)
        }
        (_, ErrorSource::Upstream) => failed("the connection to the server broke", UpstreamFailure::Broken),
        _ => (
            Some((
                StatusCode::SERVICE_UNAVAILABLE,
                RpcError::Unavailable,
                "the gateway cannot serve this request right now",
            )),
            Outcome::Unavailable,
            None,
        ),
    }
}
