//! Everything that is decided before an upstream hears of a request, in the order in which it is decided. Each step may be
//! the last.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use pingora::protocols::http::ServerSession as Session;

use super::budget::Met;
use super::client_address::Source;
use super::headers::REQUEST_ID;
use super::origin::{self, Origin};
use super::reply::{self, Refusal, RpcError};
use super::{Exchange, Gateway, bridge, route};
use crate::oauth::{Call, Route};
use crate::telemetry::{AuthDecision, Outcome};

/// Where a request is on its way.
pub(super) enum Step {
    /// It was answered.
    Answered,
    /// It may go to its upstream.
    Forward,
    /// It met a limit, and is to be answered.
    Refused(Met),
}

impl Gateway {
    /// Everything that is decided before an upstream hears of a request.
    pub(super) async fn decide(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> pingora::Result<Result<Step, Refusal>> {
        if session.is_http2() {
            bridge::name_host(session)?;
        }
        let head = session.req_header();
        let config = &self.endpoints.config;
        exchange.source =
            bridge::peer_address(session).map(|peer| Source::of(peer, &head.headers, &config.trusted_proxies));
        let raw = raw_head(session);
        if let Err(refusal) = route::check_head(&head.method, &head.uri, &head.headers, raw.as_deref()) {
            return Ok(Err(refusal));
        }
        let (said_host, said_scheme) = exchange.source.as_ref().map_or((None, None), Source::said);
        let host = match said_host.map_or_else(|| route::host(&head.headers), route::host_of) {
            Ok(host) => host,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let misdirected = |description| reply::plain(StatusCode::MISDIRECTED_REQUEST, "invalid_request", description);
        if !self.routes.knows(&host) {
            return Ok(Err(misdirected("this host is not served here").into()));
        }
        // A token that a proxy of ours got in clear is nobody's secret any more.
        if said_scheme.is_some_and(|scheme| scheme != config.public_url.scheme) {
            return Ok(Err(misdirected(
                "this scheme is not served here; use that of the public URL",
            )
            .into()));
        }
        let path = head.uri.path();
        if let Some((route, about)) = self.endpoints.route(path) {
            let about = about.to_owned();
            // Boxed, because it is large and rare: whatever is awaited here is part of every request's own state.
            return Box::pin(self.serve_endpoint(session, exchange, route, &about)).await;
        }
        let Some(index) = self.routes.find(&host, path) else {
            return Ok(Err(crate::oauth::not_found().into()));
        };
        exchange.upstream = Some(index);
        Ok(self.admit(session, exchange, index).await)
    }

    /// Serves a request to an endpoint of ours.
    async fn serve_endpoint(
        &self,
        session: &mut Session,
        exchange: &Exchange,
        route: Route,
        about: &str,
    ) -> pingora::Result<Result<Step, Refusal>> {
        let mut request = match bridge::whole_request(session).await? {
            Ok(request) => request,
            Err(mut refusal) => {
                route.share(&mut refusal.answer);
                return Ok(Err(refusal));
            }
        };
        let Some(source) = &exchange.source else {
            return Ok(Err(reply::plain(
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "the connection has no address",
            )
            .into()));
        };
        if let Some(host) = &source.host {
            request.headers_mut().insert(header::HOST, host.clone());
        }
        let answer = self
            .endpoints
            .handle(
                route,
                &Call {
                    request: &request,
                    about,
                    address: source.client,
                },
            )
            .await;
        bridge::send(
            session,
            reply::with(answer, REQUEST_ID, exchange.request_id.clone()),
            false,
        )
        .await?;
        Ok(Ok(Step::Answered))
    }

    /// Everything between knowing the upstream and forwarding to it.
    async fn admit(&self, session: &Session, exchange: &mut Exchange, index: usize) -> Result<Step, Refusal> {
        let head = session.req_header();
        let Some((upstream, mount)) = self.upstream(exchange) else {
            return Err(crate::oauth::not_found().into());
        };
        let origin = mount.origins.judge(&head.headers);
        if let Origin::Foreign = origin {
            exchange.refused.decision = Some(AuthDecision::OriginDenied);
            self.endpoints
                .metrics
                .decision(&upstream.name, AuthDecision::OriginDenied);
            return Err(reply::plain(
                StatusCode::FORBIDDEN,
                "invalid_request",
                "this origin is not allowed here",
            )
            .into());
        }
        exchange.origin = origin;
        if head.method == Method::OPTIONS {
            return Err(origin::preflight(&head.headers).into());
        }
        if ![Method::GET, Method::POST, Method::DELETE, Method::HEAD].contains(&head.method) {
            let answer = reply::plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request",
                "this method is not allowed here",
            );
            return Err(reply::with(
                answer,
                header::ALLOW,
                HeaderValue::from_static("GET, POST, DELETE, HEAD, OPTIONS"),
            )
            .into());
        }
        let permit = self
            .bearer
            .authorize(&self.endpoints, index, head)
            .await
            .map_err(|denial| {
                exchange.refused.about = denial.about;
                exchange.refused.decision = denial.decision;
                match denial.decision {
                    Some(decision) => self.endpoints.metrics.decision(&upstream.name, decision),
                    None => exchange.outcome = Some(Outcome::Unavailable),
                }
                Refusal {
                    answer: denial.answer,
                    close: false,
                }
            })?;
        if let Some(budget) = &mount.budget {
            match budget.admit(&upstream.limits, &permit, &head.method, self.endpoints.now()) {
                Ok(held) => exchange.held = held,
                Err(met) => {
                    exchange.permit = Some(permit);
                    return Ok(Step::Refused(met));
                }
            }
        }
        if bridge::declared_length(session).is_some_and(|length| length > upstream.limits.body) {
            return Err(Refusal::final_answer(reply::rpc(
                StatusCode::PAYLOAD_TOO_LARGE,
                RpcError::BadRequest,
                reply::BODY_TOO_LARGE,
                None,
            )));
        }
        self.recognise(head, upstream, &permit, exchange)?;
        if upstream.rules.is_empty() {
            mount.metrics.allowed();
        }
        exchange.permit = Some(permit);
        Ok(Step::Forward)
    }

    /// Tells a client that a limit is met: which, when to come back, and for which of its requests (RFC 6585 §4).
    pub(super) async fn refuse_one_too_many(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        met: Met,
    ) -> pingora::Result<()> {
        if let Some((upstream, _)) = self.upstream(exchange) {
            self.endpoints.metrics.limit_met(&upstream.name, met.limit);
        }
        // Somebody who waits for 100 sends nothing.
        let waits = session.req_header().headers.contains_key(header::EXPECT);
        if !waits && !exchange.body_complete {
            exchange.body_complete = bridge::read_kept(session, &mut exchange.body).await;
        }
        let body = exchange.body.concat();
        let request = exchange.body_complete.then_some(body.as_slice());
        let answer = reply::rpc(StatusCode::TOO_MANY_REQUESTS, RpcError::TooMany, met.message(), request);
        let answer = reply::with(answer, header::RETRY_AFTER, HeaderValue::from(met.seconds()));
        self.answer(session, exchange, answer.into()).await
    }

    /// Sends an answer of ours about an exchange, with its id and what browsers need.
    pub(super) async fn answer(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        refusal: Refusal,
    ) -> pingora::Result<()> {
        let Refusal { mut answer, close } = refusal;
        answer.headers_mut().insert(REQUEST_ID, exchange.request_id.clone());
        if exchange.upstream.is_some() {
            origin::cors(&exchange.origin, |name, value| {
                answer.headers_mut().insert(name, value);
            });
        }
        if exchange.outcome.is_none() {
            exchange.outcome = Some(match answer.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Outcome::Denied,
                StatusCode::NO_CONTENT => Outcome::Ok,
                _ => Outcome::Rejected,
            });
        }
        exchange.refused.answer = Some(answer.body().clone());
        bridge::send(session, *answer, close).await
    }
}

/// The head as it came over the wire: HTTP/1 only.
fn raw_head(session: &Session) -> Option<Bytes> {
    match session {
        Session::H1(session) => Some(session.get_headers_raw_bytes()),
        _ => None,
    }
}
