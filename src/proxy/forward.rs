//! From a permit to the end of a response: connect, send the request, pass on what comes back.
//!
//! pingora's own proxy does this with two tasks and channels between them, for every request; here it is one loop that
//! waits for whichever comes first: a piece from the upstream, the client going away, a deadline.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode, Uri, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::client::HttpSession;
use pingora::{Error, ErrorType, OrErr as _, RetryType};

use super::client_address::Source;
use super::deadline::Deadline;
use super::dial::Line;
use super::headers::{self, Arrival, REQUEST_ID};
use super::reply::KEPT_BODY;
use super::verdict::{BODY_TOO_LARGE, CLIENT_LATE, UPSTREAM_LATE, UPSTREAM_SWITCHED, UPSTREAM_UNAUTHORIZED};
use super::watched::Watched;
use super::wire::Wire;
use super::{Exchange, Gateway, Mount, origin, policy, route, session, stream};
use crate::config::Upstream;
use crate::telemetry::Outcome;

/// A client that takes nothing of an answer for so long is gone, whatever its system says.
const CLIENT_PATIENCE: Duration = Duration::from_secs(60);

/// An upstream, for one exchange.
pub(super) struct Server {
    pub(super) session: HttpSession,
    /// Whether its connection was used before, and may have been closed in the meantime.
    reused: bool,
    /// Whether all of the request is on its way.
    pub(super) complete: bool,
}

impl Gateway {
    /// Sends a request to the upstream of its permit and passes the response on.
    pub(super) async fn forward(
        &self,
        session: &mut ServerSession,
        exchange: &mut Exchange,
        deadline: &mut Deadline,
    ) -> pingora::Result<()> {
        let permitted = exchange.permit.as_ref().map(|permit| permit.upstream());
        let known =
            permitted.and_then(|index| Some((self.endpoints.config.upstreams.get(index)?, self.mounts.get(index)?)));
        let (upstream, mount) =
            known.ok_or_else(|| Error::explain(ErrorType::InternalError, "a request without a permit"))?;
        let mut server = Server::of(mount.dialer.open(upstream, true).await?);
        let begun = match self
            .begin(session, exchange, deadline, upstream, mount, &mut server)
            .await
        {
            // The connection was closed just when it was taken. Nothing was heard, and to ask again changes nothing.
            Err(error) if server.reused && was_closed(&error) && may_be_repeated(session) => {
                server = Server::of(Box::pin(mount.dialer.open(upstream, false)).await?);
                self.begin(session, exchange, deadline, upstream, mount, &mut server)
                    .await
            }
            begun => begun,
        };
        begun?;
        let answered = server
            .session
            .response_header()
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "a response without a head"))?;
        let mut response = self.response(session, exchange, answered, upstream, mount)?;
        if server.is_http2() {
            frame(session, &mut response)?;
        }
        let held_back = if policy::is_held_back(exchange, &response) {
            let answer = policy::filtered_answer(session, exchange, deadline, upstream, &mut server, &mut response);
            Some(Box::pin(answer).await?)
        } else {
            None
        };
        // A head that is followed at once by what it announces goes out with it.
        hold(session, true);
        session
            .write_response_header(Box::new(response))
            .await
            .map_err(Error::into_down)?;
        if let Some(answer) = held_back {
            hold(session, false);
            pass(session, deadline, answer, true).await?;
        } else if exchange.stream.is_some() {
            // Boxed, because most answers are none.
            Box::pin(self.relay_events(session, exchange, deadline, upstream, &mut server)).await?;
        } else {
            relay(session, exchange, deadline, upstream, &mut server).await?;
        }
        if let (HttpSession::H1(mut used), true) = (server.session, server.complete) {
            used.respect_keepalive();
            if let Some(stream) = used.reuse().await {
                mount.dialer.keep(stream);
            }
        }
        Ok(())
    }

    /// Sends the request and waits for the head of the response.
    async fn begin(
        &self,
        session: &mut ServerSession,
        exchange: &mut Exchange,
        deadline: &mut Deadline,
        upstream: &Upstream,
        mount: &Mount,
        server: &mut Server,
    ) -> pingora::Result<()> {
        let request = self.request(session, exchange, upstream, mount, server)?;
        let body_follows = exchange.whole.is_some() || !session.is_body_done();
        if let Some(wire) = server.session.stream().and_then(Wire::under) {
            wire.hold(body_follows);
        }
        deadline.expect_within(upstream.limits.response_timeout);
        // An upstream that takes nothing of a request is as late as one that says nothing.
        tokio::select! {
            biased;
            sent = server.session.write_request_header(Box::new(request)) => sent.map_err(Error::into_up)?,
            () = deadline.passed() => return Err(Error::new(UPSTREAM_LATE)),
        }
        if let Some(wire) = server.session.stream().and_then(Wire::under) {
            wire.hold(false);
        }
        if let Some(whole) = exchange.whole.clone()
            && !send_whole(server, deadline, whole).await?
        {
            return Ok(());
        }
        let mut answered = false;
        while !answered && !session.is_body_done() {
            tokio::select! {
                biased;
                chunk = session.read_body_or_idle(false) => {
                    // Nothing yet is no end: to pass it on would be one.
                    let Some(chunk) = chunk.map_err(Error::into_down)?.filter(|chunk| !chunk.is_empty()) else { continue };
                    exchange.keep(&chunk);
                    if exchange.body_length > upstream.limits.body {
                        return Err(Error::new(BODY_TOO_LARGE).into_down());
                    }
                    let last = session.is_body_done();
                    let sent = tokio::select! {
                        biased;
                        sent = server.session.write_request_body(chunk, last) => sent,
                        () = deadline.passed() => return Err(Error::new(UPSTREAM_LATE)),
                    };
                    if let Err(error) = sent {
                        // It may have answered before it closed.
                        tracing::debug!(%error, "an upstream takes no more of a body");
                        return head_of(server, deadline).await.map_err(|_| error.into_up());
                    }
                    // Time that the client takes to send is not the upstream's.
                    deadline.expect_within(upstream.limits.response_timeout);
                }
                head = server.session.read_response_header() => {
                    head.map_err(Error::into_up)?;
                    answered = is_final(server)?;
                }
                () = deadline.passed() => return Err(Error::new(CLIENT_LATE)),
            }
        }
        if session.is_body_done() {
            exchange.body_complete = true;
            if let Some(connection) = Watched::under(session) {
                connection.is_whole();
            }
            if !answered {
                tokio::select! {
                    biased;
                    sent = server.session.finish_request_body() => sent.map_err(Error::into_up)?,
                    () = deadline.passed() => return Err(Error::new(UPSTREAM_LATE)),
                }
                server.complete = true;
            }
        }
        while !answered {
            tokio::select! {
                biased;
                head = server.session.read_response_header() => {
                    head.map_err(Error::into_up)?;
                    answered = is_final(server)?;
                }
                gone = session.read_body_or_idle(true) => return Err(client_gone(gone)),
                () = deadline.passed() => return Err(Error::new(UPSTREAM_LATE)),
            }
        }
        Ok(())
    }

    /// The request as the upstream gets it.
    fn request(
        &self,
        session: &mut ServerSession,
        exchange: &Exchange,
        upstream: &Upstream,
        mount: &Mount,
        server: &Server,
    ) -> pingora::Result<RequestHeader> {
        let Some(permit) = &exchange.permit else {
            return Err(Error::explain(ErrorType::InternalError, "a request without a permit"));
        };
        let asked = session.req_header();
        let known = exchange.target.clone();
        let target = known.unwrap_or_else(|| route::forwarded(upstream, &asked.uri));
        let source = exchange.source.as_ref();
        let none = HeaderValue::from_static("");
        let host = source
            .and_then(|source| source.host.as_ref())
            .or_else(|| asked.headers.get(header::HOST));
        let arrival = Arrival {
            forwarded_for: source.map(Source::forwarded_for),
            host: host.unwrap_or(&none),
            scheme: self.endpoints.config.public_url.scheme,
            request_id: &exchange.request_id,
        };
        let mut request = headers::request(
            asked,
            target.as_bytes(),
            &mount.guarded,
            &permit.identity,
            upstream,
            &mount.authority,
            &arrival,
        )?;
        exchange.name_session(&mut request)?;
        if session::asks_for_a_stream(&request) || exchange.filters_lists() {
            request.remove_header(&header::ACCEPT_ENCODING);
        }
        if server.is_http2() {
            request.remove_header(&header::TRANSFER_ENCODING);
            // The target names it; some servers refuse both together, as RFC 9113 §8.3.1 lets them.
            request.remove_header(&header::HOST);
            request.set_uri(absolute(upstream, &target)?);
            return Ok(request);
        }
        // HTTP/2 needs neither a length nor chunks to frame a body.
        if session.is_http2() && !session.is_body_empty() && !request.headers.contains_key(header::CONTENT_LENGTH) {
            request.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        Ok(request)
    }

    /// The head of the response as the client gets it.
    fn response(
        &self,
        session: &mut ServerSession,
        exchange: &mut Exchange,
        answered: &ResponseHeader,
        upstream: &Upstream,
        mount: &Mount,
    ) -> pingora::Result<ResponseHeader> {
        if answered.status == StatusCode::UNAUTHORIZED {
            return Err(Error::new(UPSTREAM_UNAUTHORIZED).into_up());
        }
        if exchange.filters_lists() && !policy::is_plain(&answered.headers) {
            return Err(policy::unusable("it is encoded, though nobody asked for that"));
        }
        let (mut response, is_stream) = headers::response(answered, &mount.hidden, &self.endpoints.config, upstream)?;
        // HTTP/1.0 knows no chunks: the end of the connection is the end of the body (RFC 9112 §6.3).
        if session.req_header().version < Version::HTTP_11
            && response.headers.remove(header::TRANSFER_ENCODING).is_some()
        {
            session.set_keepalive(None);
        }
        self.bind_session(exchange, upstream, &mut response.headers)?;
        if is_stream {
            stream::without_length(session, &mut response.headers);
        }
        response.headers.insert(REQUEST_ID, exchange.request_id.clone());
        origin::cors(&exchange.origin, |name, value| {
            if name == header::VARY {
                response.headers.append(name, value);
            } else {
                response.headers.insert(name, value);
            }
        });
        exchange.outcome = Some(match response.status.as_u16() {
            0..400 => Outcome::Ok,
            400..500 => Outcome::UpstreamClientError,
            _ => Outcome::UpstreamServerError,
        });
        exchange.stream = is_stream.then(|| mount.metrics.stream());
        if let Some(held) = &mut exchange.held {
            held.becomes(is_stream);
        }
        let mut response = ResponseHeader::from(response);
        response.set_reason_phrase(answered.get_reason_phrase())?;
        Ok(response)
    }
}

impl Server {
    fn of(line: Line) -> Self {
        Self {
            session: line.session,
            reused: line.reused,
            complete: false,
        }
    }

    const fn is_http2(&self) -> bool {
        matches!(self.session, HttpSession::H2(_))
    }

    /// Whether the response is at its end, and not merely broken off.
    pub(super) fn is_done(&mut self) -> pingora::Result<bool> {
        match &mut self.session {
            HttpSession::H2(session) => session.check_response_end_or_error().map_err(Error::into_up),
            other => Ok(other.response_done()),
        }
    }
}

impl Exchange {
    /// Keeps the beginning of the body.
    pub(super) fn keep(&mut self, chunk: &Bytes) {
        if !chunk.is_empty() && self.body_length <= KEPT_BODY as u64 {
            self.body.push(chunk.clone());
        }
        self.body_length += chunk.len() as u64;
    }
}

/// The target of a request in HTTP/2, which names its host and scheme (RFC 9113 §8.3.1).
fn absolute(upstream: &Upstream, target: &str) -> pingora::Result<Uri> {
    let scheme = if upstream.url.tls { "https" } else { "http" };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(upstream.url.authority.as_str())
        .path_and_query(target);
    uri.build().or_err(ErrorType::InternalError, "the target of a request")
}

/// HTTP/2 frames bodies by itself; a client of HTTP/1.1 needs a length or chunks (RFC 9112 §6.3).
fn frame(session: &mut ServerSession, response: &mut ResponseHeader) -> pingora::Result<()> {
    response.set_version(Version::HTTP_11);
    let has_body = session.req_header().method != Method::HEAD
        && !matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !has_body || session.is_http2() || response.headers.contains_key(header::CONTENT_LENGTH) {
        return Ok(());
    }
    if session.req_header().version < Version::HTTP_11 {
        session.set_keepalive(None);
        return Ok(());
    }
    response.insert_header(header::TRANSFER_ENCODING, "chunked")
}

/// Passes the body of a response on, piece by piece as it comes.
async fn relay(
    session: &mut ServerSession,
    exchange: &mut Exchange,
    deadline: &mut Deadline,
    upstream: &Upstream,
    server: &mut Server,
) -> pingora::Result<()> {
    let idle = upstream.limits.idle_stream;
    let mut done = server.is_done()?;
    deadline.rest();
    while !done {
        if let Some(idle) = idle {
            deadline.expect_within(idle);
        }
        let chunk = tokio::select! {
            biased;
            chunk = server.session.read_response_body() => chunk.map_err(Error::into_up)?,
            // Nothing more is here now, so that what is there goes out.
            gone = read_on(session) => return Err(client_gone(gone)),
            () = deadline.passed() => return Err(Error::new(UPSTREAM_LATE)),
        };
        done = chunk.is_none() || server.is_done()?;
        // Before the client knows: it may ask the next thing at once.
        if let (true, Some(held)) = (done, &mut exchange.held) {
            held.is_answered();
        }
        if let Some(chunk) = chunk.filter(|chunk| !chunk.is_empty()) {
            pass(session, deadline, chunk, false).await?;
        }
    }
    hold(session, false);
    pass(session, deadline, Bytes::new(), true).await
}

/// Gives a piece of the answer to a client that takes it.
pub(super) async fn pass(
    session: &mut ServerSession,
    deadline: &mut Deadline,
    chunk: Bytes,
    last: bool,
) -> pingora::Result<()> {
    deadline.expect_within(CLIENT_PATIENCE);
    let passed = tokio::select! {
        biased;
        passed = session.write_response_body(chunk, last) => passed.map_err(Error::into_down),
        () = deadline.passed() => Err(Error::explain(ErrorType::WriteTimedout, "the client takes nothing").into_down()),
    };
    deadline.rest();
    passed
}

/// Waits for the client to go away, and lets go of what was held back for it.
pub(super) async fn read_on(session: &mut ServerSession) -> pingora::Result<Option<Bytes>> {
    hold(session, false);
    session.read_body_or_idle(true).await
}

pub(super) fn hold(session: &ServerSession, held: bool) {
    if let Some(connection) = Watched::under(session) {
        connection.hold(held);
    }
}

/// Sends a body that is all here. Whether the upstream took it; if not, it has answered already.
async fn send_whole(server: &mut Server, deadline: &mut Deadline, whole: Bytes) -> pingora::Result<bool> {
    let sent = tokio::select! {
        biased;
        sent = server.session.write_request_body(whole, true) => sent,
        () = deadline.passed() => return Err(Error::new(UPSTREAM_LATE)),
    };
    let Err(error) = sent else { return Ok(true) };
    tracing::debug!(%error, "an upstream takes no more of a body");
    let answered = head_of(server, deadline).await;
    answered.map(|()| false).map_err(|_| error.into_up())
}

/// What is said by an upstream that takes no more of a request.
async fn head_of(server: &mut Server, deadline: &mut Deadline) -> pingora::Result<()> {
    loop {
        tokio::select! {
            head = server.session.read_response_header() => head.map_err(Error::into_up)?,
            () = deadline.passed() => return Err(Error::new(UPSTREAM_LATE)),
        }
        if is_final(server)? {
            return Ok(());
        }
    }
}

/// Whether the head that was read is the answer; interim ones are not passed on.
fn is_final(server: &Server) -> pingora::Result<bool> {
    match server.session.response_header().map(|response| response.status) {
        Some(StatusCode::SWITCHING_PROTOCOLS) => Err(Error::new(UPSTREAM_SWITCHED).into_up()),
        Some(status) => Ok(!status.is_informational()),
        None => Ok(false),
    }
}

/// The client has gone, or does what it may not.
#[expect(clippy::unnecessary_box_returns, reason = "the engine's errors are boxed")]
pub(super) fn client_gone(heard: pingora::Result<Option<Bytes>>) -> Box<Error> {
    match heard {
        Err(error) => error.into_down(),
        Ok(_) => Error::new(ErrorType::ConnectionClosed).into_down(),
    }
}

/// Whether the connection was closed before the upstream did anything.
fn was_closed(error: &Error) -> bool {
    matches!(error.retry, RetryType::ReusedOnly | RetryType::Decided(true))
}

/// Whether to ask twice is the same as to ask once (RFC 9110 §9.2.2), and nothing of the request is gone.
fn may_be_repeated(session: &mut ServerSession) -> bool {
    matches!(session.req_header().method, Method::GET | Method::HEAD) && session.is_body_empty()
}
