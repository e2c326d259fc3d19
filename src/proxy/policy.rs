//! Rules at the gateway's door (H16, H17): what a message may ask for, and what its caller gets to see of lists.
//!
//! Only where an upstream has rules is a body read before the upstream hears of the request: the whole of it, for it is
//! judged as a whole and passed on as it came.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType};

use super::deadline::Deadline;
use super::forward::{Server, client_gone, read_on};
use super::reply::{self, KEPT_BODY, Refusal, RpcError};
use super::verdict::{BAD_LIST, BODY_TOO_LARGE, CLIENT_LATE, UPSTREAM_LATE};
use super::{Exchange, Gateway, bearer};
use crate::config::Upstream;
use crate::domain::rules::{Rules, Subject};
use crate::domain::scope::Scope;
use crate::mcp::events::{Event, Events};
use crate::mcp::headers::{self, Claims};
use crate::mcp::lists;
use crate::mcp::message::{self, Body, Unreadable};
use crate::mcp::rules::{self, Unclear, Verdict};
use crate::telemetry::audit::{self, Act};
use crate::telemetry::{AuthDecision, Metrics, Outcome, ToolOutcome};

/// Least that a list, or an event that may hold one, can be long.
const ANSWER: u64 = 4 << 20;

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// What rules made of a request.
#[derive(Debug, Default)]
pub(super) struct Ruled {
    /// Whether the answer may hold lists that are not for everybody.
    pub(super) filters: bool,
    /// The tools that it calls.
    pub(super) calls: Vec<Box<str>>,
    /// What became of them, if they were not let through.
    refused: Option<ToolOutcome>,
}

impl Gateway {
    /// Whether what a request asks for has to be looked at.
    pub(super) fn is_ruled(&self, exchange: &Exchange) -> bool {
        let upstream = self.upstream(exchange);
        upstream.is_some_and(|(upstream, _)| !upstream.rules.allow_everything())
    }

    /// Whether the rules let a request through. Its body is read for that.
    pub(super) async fn enforce(
        &self,
        session: &mut ServerSession,
        exchange: &mut Exchange,
        deadline: &mut Deadline,
    ) -> pingora::Result<Result<(), Refusal>> {
        let (Some((upstream, mount)), Some(permit)) = (self.upstream(exchange), exchange.permit.clone()) else {
            return Err(Error::explain(ErrorType::InternalError, "a request without a permit"));
        };
        let rules = &upstream.rules;
        let method = session.req_header().method.clone();
        let mut whole = Bytes::new();
        let mut ruled = Ruled {
            filters: upstream.filter_lists && method == Method::GET && lists::are_filtered(rules),
            ..Ruled::default()
        };
        // A body that comes with another method is one all the same.
        let verdict = if method == Method::POST || !session.is_body_empty() {
            whole = read_whole(session, exchange, deadline, upstream).await?;
            judge(
                &session.req_header().headers,
                upstream,
                permit.effective(),
                &whole,
                &mut ruled,
            )
        } else {
            Ok(Verdict::Allowed)
        };
        let answer = match verdict {
            Ok(Verdict::Allowed) => {
                mount.metrics.allowed();
                exchange.ruled = Some(Box::new(ruled));
                return Ok(Ok(()));
            }
            Ok(Verdict::Needs(scopes)) => {
                ruled.refused = Some(ToolOutcome::InsufficientScope);
                exchange.refused.decision = Some(AuthDecision::InsufficientScope);
                let metrics = &self.endpoints.metrics;
                metrics.decision(&upstream.name, AuthDecision::InsufficientScope);
                bearer::lacks(&self.endpoints, upstream, &permit, &scopes)
            }
            Ok(Verdict::Denied) => {
                ruled.refused = Some(ToolOutcome::Denied);
                exchange.refused.decision = Some(AuthDecision::ToolDenied);
                let metrics = &self.endpoints.metrics;
                metrics.decision(&upstream.name, AuthDecision::ToolDenied);
                rpc(
                    StatusCode::FORBIDDEN,
                    RpcError::Denied,
                    "this is not allowed here",
                    &whole,
                )
            }
            Err((code, message)) => {
                ruled.refused = Some(ToolOutcome::Rejected);
                rpc(StatusCode::BAD_REQUEST, code, &message, &whole)
            }
        };
        exchange.ruled = Some(Box::new(ruled));
        Ok(Err(answer))
    }
}

fn rpc(status: StatusCode, code: RpcError, message: &str, request: &[u8]) -> Refusal {
    reply::rpc(status, code, message, Some(request)).into()
}

/// Reads all of a request's body, as long as its client goes on sending. It is kept, for whoever asks next and for the
/// upstream.
pub(super) async fn read_whole(
    session: &mut ServerSession,
    exchange: &mut Exchange,
    deadline: &mut Deadline,
    upstream: &Upstream,
) -> pingora::Result<Bytes> {
    if let Some(whole) = &exchange.whole {
        return Ok(whole.clone());
    }
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while !session.is_body_done() {
        deadline.expect_within(upstream.limits.response_timeout);
        let chunk = tokio::select! {
            biased;
            chunk = session.read_body_or_idle(false) => chunk.map_err(Error::into_down)?,
            () = deadline.passed() => return Err(Error::new(CLIENT_LATE)),
        };
        let Some(chunk) = chunk.filter(|chunk| !chunk.is_empty()) else {
            continue;
        };
        exchange.keep(&chunk);
        if exchange.body_length > upstream.limits.body {
            return Err(Error::new(BODY_TOO_LARGE).into_down());
        }
        // Most bodies come in one piece, which is not copied.
        if first.is_empty() {
            first = chunk;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&chunk);
        }
    }
    deadline.rest();
    exchange.body_complete = true;
    let whole = if more.is_empty() { first } else { more.freeze() };
    exchange.whole = Some(whole.clone()).filter(|whole| !whole.is_empty());
    Ok(whole)
}

/// What the rules say about a body, or why nothing can be said.
fn judge(
    head: &HeaderMap,
    upstream: &Upstream,
    held: &Scope,
    whole: &[u8],
    ruled: &mut Ruled,
) -> Result<Verdict, (RpcError, Cow<'static, str>)> {
    check_form(head).map_err(|why| (RpcError::BadRequest, why.into()))?;
    let claims = claims(head).map_err(|why| (RpcError::HeaderMismatch, why.into()))?;
    let body = message::read(whole).map_err(|error| {
        let code = match error {
            Unreadable::Json => RpcError::ParseError,
            _ => RpcError::InvalidRequest,
        };
        (code, error.to_string().into())
    })?;
    let rules = &upstream.rules;
    ruled.calls = calls(&body);
    let methods = || body.messages.iter().filter_map(|message| message.method.as_deref());
    ruled.filters =
        ruled.filters || upstream.filter_lists && methods().any(|method| lists::is_listed_by(rules, method));
    headers::check(claims, &body).map_err(|error| (RpcError::HeaderMismatch, error.to_string().into()))?;
    let unclear = |error: Unclear| (RpcError::InvalidParams, error.to_string().into());
    let verdict = body.messages.iter().try_fold(Verdict::Allowed, |verdict, message| {
        Ok(verdict.and(rules::decide(rules, message, held).map_err(unclear)?))
    })?;
    // Where the headers are those of the body, this has been judged; where nobody asks that of them, somebody may act by
    // them all the same.
    headers::named(claims)
        .into_iter()
        .try_fold(verdict, |verdict, (subject, name)| {
            Ok(verdict.and(rules::judge(rules, subject, name.as_deref(), held).map_err(unclear)?))
        })
}

/// Whether a body is what it looks like: an encoding or a charset would make something else of it.
fn check_form(head: &HeaderMap) -> Result<(), &'static str> {
    if !is_plain(head) {
        return Err("the body is encoded, and cannot be judged");
    }
    let mut types = head.get_all(header::CONTENT_TYPE).iter();
    let Some(one) = types.next() else { return Ok(()) };
    if types.next().is_some() {
        return Err("Content-Type is there twice");
    }
    let text = one.to_str().map_err(|_| "Content-Type is not text")?;
    let charsets = text.split(';').skip(1).filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        name.trim().to_ascii_lowercase().starts_with("charset").then_some(value)
    });
    let known = |charset: &str| {
        ["utf-8", "utf8", "us-ascii"]
            .iter()
            .any(|known| charset.eq_ignore_ascii_case(known))
    };
    if charsets.into_iter().all(known) {
        Ok(())
    } else {
        Err("the body is not in UTF-8, and cannot be judged")
    }
}

/// The headers that speak of the body, each once.
fn claims(head: &HeaderMap) -> Result<Claims<'_>, &'static str> {
    let one = |name: &HeaderName| {
        let mut values = head.get_all(name).iter();
        let value = values.next().map(http::HeaderValue::as_bytes);
        match values.next() {
            None => Ok(value),
            Some(_) => Err("Header mismatch: a header that speaks of the body is there twice"),
        }
    };
    Ok(Claims {
        version: one(&PROTOCOL_VERSION)?,
        method: one(&METHOD)?,
        name: one(&NAME)?,
    })
}

/// The tools that a body calls.
fn calls(body: &Body<'_>) -> Vec<Box<str>> {
    let names = body.messages.iter().flat_map(|message| &message.names);
    names
        .filter(|(subject, _)| *subject == Subject::Tool)
        .filter_map(|(_, name)| name.as_deref().map(Into::into))
        .collect()
}

/// Counts the tools that a request called, by what became of it.
pub(super) fn count_calls(metrics: &Metrics, upstream: &str, exchange: &Exchange, method: &str, outcome: Outcome) {
    let Some(permit) = &exchange.permit else {
        return;
    };
    let ended = match outcome {
        Outcome::UpstreamServerError | Outcome::UpstreamFailed | Outcome::Unavailable => ToolOutcome::Failed,
        Outcome::Rejected => ToolOutcome::Rejected,
        Outcome::Ok | Outcome::UpstreamClientError | Outcome::Denied | Outcome::ClientGone => ToolOutcome::Allowed,
    };
    if let Some(ruled) = &exchange.ruled {
        for tool in &ruled.calls {
            note_call(
                metrics,
                upstream,
                exchange,
                permit,
                tool,
                ruled.refused.unwrap_or(ended),
            );
        }
    } else if method == "tools/call" && exchange.body_complete && exchange.body_length <= KEPT_BODY as u64 {
        let body = match exchange.body.as_slice() {
            [whole] => Cow::Borrowed(whole.as_ref()),
            pieces => Cow::Owned(pieces.concat()),
        };
        if let Some(tool) = message::called_tool(&body) {
            note_call(metrics, upstream, exchange, permit, &tool, ended);
        }
    }
}

/// Counts a call of a tool, and writes it down where that is wanted: without what the tool was called with.
fn note_call(
    metrics: &Metrics,
    upstream: &str,
    exchange: &Exchange,
    permit: &bearer::Permit,
    tool: &str,
    outcome: ToolOutcome,
) {
    metrics.tool_call(upstream, tool, outcome);
    metrics.audit().note(|| Act {
        subject: Some(&permit.subject),
        client_id: Some(&permit.client_id),
        upstream: Some(upstream),
        tool: Some(tool),
        request_id: exchange.request_id.to_str().ok(),
        ..Act::new(audit::Event::ToolCall, outcome.as_str())
    });
}

/// Whether nothing but `identity` was done to a body.
pub(super) fn is_plain(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

impl Exchange {
    /// Whether what is answered may hold lists that are not for everybody.
    pub(super) fn filters_lists(&self) -> bool {
        self.ruled.as_ref().is_some_and(|ruled| ruled.filters)
    }

    /// The caller's scopes.
    fn held(&self) -> pingora::Result<&Scope> {
        let permit = self.permit.as_deref();
        let held = permit.map(bearer::Permit::effective);
        held.ok_or_else(|| Error::explain(ErrorType::InternalError, "a request without a permit"))
    }
}

/// Whether an answer has to be read as a whole before it is passed on: JSON, or what should be, where lists are filtered.
pub(super) fn is_held_back(exchange: &Exchange, head: &ResponseHeader) -> bool {
    let text = head
        .headers
        .get(header::CONTENT_TYPE)
        .map(|kind| kind.as_bytes().to_ascii_lowercase());
    let is_json = text.is_none_or(|text| memchr::memmem::find(&text, b"json").is_some());
    // What is no JSON is no list either; but whoever reads it may take it for one all the same.
    exchange.filters_lists() && exchange.stream.is_none() && (is_json || head.status.is_success())
}

/// Reads the whole of an answer and leaves out what its caller may not use. The head says how long the rest is.
pub(super) async fn filtered_answer(
    session: &mut ServerSession,
    exchange: &Exchange,
    deadline: &mut Deadline,
    upstream: &Upstream,
    server: &mut Server,
    head: &mut ResponseHeader,
) -> pingora::Result<Bytes> {
    let mut whole = BytesMut::new();
    let mut done = server.is_done()?;
    deadline.rest();
    while !done {
        if let Some(idle) = upstream.limits.idle_stream {
            deadline.expect_within(idle);
        }
        let chunk = tokio::select! {
            biased;
            chunk = server.session.read_response_body() => chunk.map_err(Error::into_up)?,
            gone = read_on(session) => return Err(client_gone(gone)),
            () = deadline.passed() => return Err(Error::new(UPSTREAM_LATE)),
        };
        done = chunk.is_none() || server.is_done()?;
        whole.extend_from_slice(&chunk.unwrap_or_default());
        if whole.len() as u64 > upstream.limits.body.max(ANSWER) {
            return Err(unusable("it is too long"));
        }
    }
    deadline.rest();
    if whole.is_empty() {
        return Ok(Bytes::new());
    }
    let whole = whole.freeze();
    let whole = match lists::filter(&whole, &upstream.rules, exchange.held()?) {
        Ok(Cow::Borrowed(_)) => whole,
        Ok(Cow::Owned(filtered)) => filtered.into(),
        Err(error) => return Err(unusable(&error.to_string())),
    };
    head.remove_header(&header::TRANSFER_ENCODING);
    head.insert_header(header::CONTENT_LENGTH, whole.len())?;
    Ok(whole)
}

#[expect(clippy::unnecessary_box_returns, reason = "the engine's errors are boxed")]
pub(super) fn unusable(why: &str) -> Box<Error> {
    Error::explain(BAD_LIST, why.to_owned()).into_up()
}

/// Leaves out of the events of a stream what its caller may not use.
pub(super) struct ListFilter {
    events: Events,
}

impl ListFilter {
    pub(super) fn new(upstream: &Upstream) -> Self {
        let most = upstream.limits.body.max(ANSWER);
        Self {
            events: Events::new(usize::try_from(most).unwrap_or(usize::MAX)),
        }
    }

    /// More of the stream: all events that are whole by now.
    pub(super) fn pass(&mut self, chunk: Bytes, exchange: &Exchange, upstream: &Upstream) -> pingora::Result<Bytes> {
        let held = exchange.held()?;
        self.events.push(chunk);
        let mut whole: Vec<Bytes> = Vec::new();
        while let Some(event) = self.events.next().map_err(|error| unusable(&error.to_string()))? {
            whole.push(filtered_event(&event, &upstream.rules, held)?);
        }
        Ok(match whole.as_mut_slice() {
            [one] => std::mem::take(one),
            several => several.concat().into(),
        })
    }

    /// The stream has ended, maybe in an event.
    pub(super) fn finish(self, exchange: &Exchange, upstream: &Upstream) -> pingora::Result<Bytes> {
        let held = exchange.held()?;
        match self.events.finish() {
            Some(event) => filtered_event(&event, &upstream.rules, held),
            None => Ok(Bytes::new()),
        }
    }
}

fn filtered_event(event: &Event, rules: &Rules, held: &Scope) -> pingora::Result<Bytes> {
    let Some(data) = event
        .data()
        .filter(|data| data.trim_ascii_start().starts_with(b"{") || data.trim_ascii_start().starts_with(b"["))
    else {
        return Ok(event.raw().clone());
    };
    match lists::filter(&data, rules, held) {
        Ok(Cow::Borrowed(_)) => Ok(event.raw().clone()),
        Ok(Cow::Owned(filtered)) => Ok(event.with_data(&filtered)),
        Err(error) => Err(unusable(&error.to_string())),
    }
}
