//! What an error of the engine means: for the client, for the metrics.

use http::StatusCode;
use pingora::{Error, ErrorSource, ErrorType};

use super::reply::{self, RpcError};
use crate::telemetry::{Outcome, UpstreamFailure};

/// Marks an upstream that refused the gateway's own credentials.
pub(super) const UPSTREAM_UNAUTHORIZED: ErrorType = ErrorType::new("upstream answered 401");
/// Marks an upstream that would speak another protocol, which nobody asked for.
pub(super) const UPSTREAM_SWITCHED: ErrorType = ErrorType::new("upstream switched protocols");
/// Marks an upstream whose session id cannot be bound.
pub(super) const BAD_SESSION: ErrorType = ErrorType::new("upstream's session id is none");
/// Marks an upstream whose endpoint event leads elsewhere.
pub(super) const BAD_ENDPOINT: ErrorType = ErrorType::new("upstream's endpoint is none of its own");
/// Marks an upstream whose lists cannot be filtered.
pub(super) const BAD_LIST: ErrorType = ErrorType::new("upstream's list cannot be read");
/// Marks a stream whose token is over.
pub(super) const TOKEN_OVER: ErrorType = ErrorType::new("the token is over");
/// Marks a body that grew over its limit.
pub(super) const BODY_TOO_LARGE: ErrorType = ErrorType::new("request body over the limit");

/// A deadline passed, and it was the client that had more of its body to send.
pub(super) const CLIENT_LATE: ErrorType = ErrorType::new("the client took too long");
/// A deadline passed, and it was the upstream's turn.
pub(super) const UPSTREAM_LATE: ErrorType = ErrorType::new("the upstream took too long");

/// What is said of an error, if anybody is there to be told.
pub(super) type Said = Option<(StatusCode, RpcError, &'static str)>;

/// What an error of the engine means: status, what to say, what to count. `None` if nobody is there to be told.
pub(super) fn of(error: &Error) -> (Said, Outcome, Option<UpstreamFailure>) {
    use ErrorType as E;
    let rejected = |status, code, message| (Some((status, code, message)), Outcome::Rejected, None);
    let stalled = rejected(
        StatusCode::REQUEST_TIMEOUT,
        RpcError::BadRequest,
        "the body did not arrive in time",
    );
    let failed = |message, failure| {
        (
            Some((StatusCode::BAD_GATEWAY, RpcError::UpstreamFailed, message)),
            Outcome::UpstreamFailed,
            Some(failure),
        )
    };
    let too_slow = (
        Some((
            StatusCode::GATEWAY_TIMEOUT,
            RpcError::UpstreamTimeout,
            "the server did not answer in time",
        )),
        Outcome::UpstreamFailed,
        Some(UpstreamFailure::Timeout),
    );
    match (error.etype(), error.esource()) {
        (kind, _) if *kind == CLIENT_LATE => stalled,
        (kind, _) if *kind == UPSTREAM_LATE => too_slow,
        (kind, _) if *kind == BODY_TOO_LARGE => rejected(
            StatusCode::PAYLOAD_TOO_LARGE,
            RpcError::BadRequest,
            reply::BODY_TOO_LARGE,
        ),
        (kind, _) if *kind == UPSTREAM_UNAUTHORIZED => failed(
            "the server refused the gateway's credentials",
            UpstreamFailure::Unauthorized,
        ),
        (kind, _) if *kind == UPSTREAM_SWITCHED => failed("the server's answer is not HTTP", UpstreamFailure::Protocol),
        (kind, _) if *kind == BAD_SESSION => {
            failed("the server's session id cannot be used", UpstreamFailure::Protocol)
        }
        (kind, _) if *kind == BAD_ENDPOINT => failed("the server's endpoint cannot be used", UpstreamFailure::Protocol),
        (kind, _) if *kind == BAD_LIST => failed("the server's list cannot be used", UpstreamFailure::Protocol),
        (kind, _) if *kind == TOKEN_OVER => (None, Outcome::Ok, None),
        (E::ReadTimedout, ErrorSource::Downstream) => stalled,
        (
            E::ConnectionClosed | E::ReadError | E::WriteError | E::WriteTimedout | E::ConnectError | E::SocketError,
            ErrorSource::Downstream,
        ) => (None, Outcome::ClientGone, None),
        // Broken chunks, or a header that means nothing on the way: the client is still there, and at fault.
        (_, ErrorSource::Downstream) => rejected(
            StatusCode::BAD_REQUEST,
            RpcError::BadRequest,
            "the request cannot be read",
        ),
        (E::ConnectTimedout | E::TLSHandshakeTimedout | E::ReadTimedout | E::WriteTimedout, _) => too_slow,
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
        // With TLS 1.3 a server says only after the handshake that it does not take our certificate.
        (_, ErrorSource::Upstream) if is_alert(error) => {
            failed("the server refused the encrypted connection", UpstreamFailure::Tls)
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

/// Whether the other end ended TLS with a complaint.
fn is_alert(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    let cause = cause.and_then(std::io::Error::get_ref);
    cause
        .and_then(|cause| cause.downcast_ref::<rustls::Error>())
        .is_some_and(|error| matches!(error, rustls::Error::AlertReceived(_)))
}
