//! Between the engine's session and the `http` types that the endpoints speak.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderValue};
use http::{Request, StatusCode};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession as Session;

use super::reply::{KEPT_BODY, Refusal};
use crate::oauth::{Answer, MAX_BODY};

/// A small body has to be there in this time, or its sender is holding a place for nothing.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// How much of a refused request's body is read and thrown away, and for how long, so that the client gets to read the
/// answer before the connection goes.
const DRAIN_BYTES: usize = 1 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer waits for the rest of a small body, so that the connection can go on.
const PATIENCE: Duration = Duration::from_millis(500);

/// Writes the host of a request in HTTP/2 where everybody looks for it (RFC 9113 §8.3.1). One that has both keeps both, and
/// is refused if they differ.
pub(super) fn name_host(session: &mut Session) -> pingora::Result<()> {
    let head = session.req_header_mut();
    let authority = head
        .uri
        .authority()
        .map(|authority| HeaderValue::from_str(authority.as_str()));
    match authority {
        Some(Ok(authority)) if !head.headers.contains_key(header::HOST) => head.insert_header(header::HOST, authority),
        _ => Ok(()),
    }
}

/// Reads a request to an endpoint in full.
pub(super) async fn whole_request(session: &mut Session) -> pingora::Result<Result<Request<Bytes>, Refusal>> {
    let too_large = || {
        Refusal::closing(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request",
            "the body is too large",
        )
    };
    if declared_length(session).is_some_and(|length| length > MAX_BODY as u64) {
        return Ok(Err(too_large()));
    }
    continue_if_expected(session).await?;
    let mut body = BytesMut::new();
    let read = async {
        while let Some(chunk) = session.read_request_body().await? {
            if body.len() + chunk.len() > MAX_BODY {
                return Ok(Err(too_large()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok::<_, Box<pingora::Error>>(Ok(()))
    };
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(refusal))) => return Ok(Err(refusal)),
        Ok(Err(error)) => {
            // Broken chunks, or a client that went away in the middle: theirs, not ours.
            tracing::debug!(%error, "a body could not be read");
            return Ok(Err(Refusal::closing(
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "the body cannot be read",
            )));
        }
        Err(_) => {
            return Ok(Err(Refusal::closing(
                StatusCode::REQUEST_TIMEOUT,
                "invalid_request",
                "the body did not arrive in time",
            )));
        }
    }
    let head = session.req_header();
    let mut request = Request::new(body.freeze());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.headers_mut() = head.headers.clone();
    Ok(Ok(request))
}

/// Reads the body of a request that failed, as far as it is kept at all. Whether that was the whole of it.
pub(super) async fn read_kept(session: &mut Session, into: &mut Vec<Bytes>) -> bool {
    if declared_length(session).is_some_and(|length| length > KEPT_BODY as u64) {
        return false;
    }
    let read = async {
        let mut length = 0;
        while let Ok(Some(chunk)) = session.read_request_body().await {
            length += chunk.len();
            if length > KEPT_BODY {
                return false;
            }
            into.push(chunk);
        }
        session.is_body_done()
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or(false)
}

/// What `Content-Length` says; the head was checked before.
pub(super) fn declared_length(session: &Session) -> Option<u64> {
    session
        .req_header()
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
}

/// Says 100 to a client that waits for it; the engine does not when a body is read by a filter.
pub(super) async fn continue_if_expected(session: &mut Session) -> pingora::Result<()> {
    let expects = session
        .req_header()
        .headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expects {
        session.req_header_mut().remove_header(&header::EXPECT);
        session.write_continue_response().await?;
    }
    Ok(())
}

/// Sends an answer of our own. Its body is left out for HEAD; the connection goes on only if the request was read in full.
pub(super) async fn send(session: &mut Session, answer: Answer, close: bool) -> pingora::Result<()> {
    let (parts, body) = answer.into_parts();
    let mut head = ResponseHeader::build(parts.status, Some(parts.headers.len() + 2))?;
    let mut last = None;
    for (name, value) in parts.headers {
        // A repeated header comes without its name.
        last = name.or(last);
        if let Some(name) = &last {
            head.append_header(name.clone(), value)?;
        }
    }
    if parts.status != StatusCode::NO_CONTENT {
        head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    }
    // A small body is on its way or here already; for a large one nobody waits.
    let small = session.is_body_empty() || declared_length(session).is_none_or(|length| length <= MAX_BODY as u64);
    let drained = !close && small && drain(session, PATIENCE).await;
    if !drained {
        session.set_keepalive(None);
    }
    let without_body = body.is_empty() || session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(head)).await?;
    let body = if without_body { Bytes::new() } else { body };
    session.write_response_body(body, true).await?;
    if !drained {
        drain(session, DRAIN_TIMEOUT).await;
    }
    Ok(())
}

/// Reads what is left of a request's body. Whether that was all.
async fn drain(session: &mut Session, patience: Duration) -> bool {
    // Somebody who waits for 100 sends nothing, and must not be waited for.
    if session.req_header().headers.contains_key(header::EXPECT) {
        return false;
    }
    let read = async {
        let mut left = DRAIN_BYTES;
        loop {
            match session.read_request_body().await {
                Ok(None) => return true,
                Ok(Some(chunk)) if chunk.len() < left => left -= chunk.len(),
                Ok(Some(_)) | Err(_) => return false,
            }
        }
    };
    tokio::time::timeout(patience, read).await.unwrap_or(false)
}

/// The address of whoever is at the other end.
pub(super) fn peer_address(session: &Session) -> Option<IpAddr> {
    session
        .client_addr()
        .and_then(|address| address.as_inet())
        .map(|address| address.ip().to_canonical())
}
