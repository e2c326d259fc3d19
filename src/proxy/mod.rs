//! Floor 4: the proxy, and the only floor that knows the engine.
//!
//! ```text
//! request_filter           head in order? → host ours? → endpoint of ours? → upstream? → origin? → token? → limits?
//!    │ each may answer       (route)                     (oauth)            (route)     (origin)  (bearer)  (rate)
//! upstream_peer            where the permit says; without a permit, nowhere
//! upstream_request_filter  credentials and claims of the client out, ours in (headers)
//! request_body_filter      counts; keeps the beginning for error answers
//! response_filter          what the upstream may not tell a client out, CORS in
//! response_body_filter     passes
//! fail_to_proxy            502, 504, 503 in JSON-RPC form (reply)
//! logging                  one metric, one access line
//! ```

mod access_log;
mod admission;
mod bearer;
mod bridge;
mod client_address;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
mod headers;
pub mod listener;
mod origin;
mod place;
mod proxy_header;
mod reply;
mod route;
mod verdict;
mod watchdog;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::HttpPeer;
use pingora::protocols::TcpKeepalive;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::{Error, ErrorType};

use self::bearer::{Bearer, Permit};
use self::headers::{Arrival, Guarded, Hidden, REQUEST_ID};
use self::listener::{InFlight, InFlightGuard};
use self::origin::{Origin, Origins};
use self::place::Place;
use self::reply::{KEPT_BODY, Refusal};
use self::route::Routes;
use self::verdict::{BODY_TOO_LARGE, Late, UPSTREAM_SWITCHED, UPSTREAM_UNAUTHORIZED};
use self::watchdog::Watchdog;
use crate::config::Upstream;
use crate::domain::rate::Rates;
use crate::domain::secret::random_bytes;
use crate::oauth::Endpoints;
use crate::telemetry::{Outcome, StreamGuard, UpstreamMetrics};

/// Idle connections to upstreams are let go before the upstream does it: Node closes after five seconds, and a request that
/// meets a closing connection fails.
const UPSTREAM_IDLE: Duration = Duration::from_secs(4);
/// A silent connection to an upstream is probed this often, so that a host that vanished does not keep streams for ever.
const UPSTREAM_PROBE: Duration = Duration::from_secs(30);

/// The gateway as the engine sees it.
pub struct Gateway {
    endpoints: Arc<Endpoints>,
    routes: Routes,
    bearer: Bearer,
    rates: Rates<(usize, String)>,
    /// By the upstream's place in the configuration.
    mounts: Vec<Mount>,
    in_flight: InFlight,
}

/// What is worked out once for each upstream.
struct Mount {
    guarded: Guarded,
    hidden: Hidden,
    origins: Origins,
    authority: HeaderValue,
    place: Place,
    metrics: UpstreamMetrics,
}

/// What is remembered while a request is served.
pub struct Exchange {
    started: Instant,
    request_id: HeaderValue,
    upstream: Option<usize>,
    permit: Option<Arc<Permit>>,
    origin: Origin,
    watchdog: Watchdog,
    /// The beginning of the body, and whether it is the whole of it.
    body: Vec<Bytes>,
    body_length: u64,
    body_complete: bool,
    outcome: Option<Outcome>,
    stream: Option<StreamGuard>,
    _in_flight: InFlightGuard,
}

impl Gateway {
    /// A gateway over these parts.
    #[must_use]
    pub fn new(endpoints: Arc<Endpoints>) -> Self {
        let config = Arc::clone(&endpoints.config);
        let routes = Routes::new(&config);
        let own = routes.own_origins(config.public_url.scheme);
        let mount = |upstream: &Upstream| Mount {
            guarded: Guarded::of(upstream),
            hidden: Hidden::of(upstream),
            origins: Origins::of(upstream, &own, config.public_url.scheme),
            // The configuration took it from a parsed URL, which holds nothing that a header may not.
            authority: HeaderValue::from_str(&upstream.url.authority)
                .unwrap_or_else(|_| HeaderValue::from_static("upstream")),
            place: Place::of(&upstream.url),
            metrics: endpoints.metrics.upstream(&upstream.name),
        };
        let mounts = config.upstreams.iter().map(mount).collect();
        Self {
            endpoints,
            routes,
            bearer: Bearer::new(),
            rates: Rates::new(),
            mounts,
            in_flight: InFlight::default(),
        }
    }

    fn upstream(&self, exchange: &Exchange) -> Option<(&Upstream, &Mount)> {
        let index = exchange.upstream?;
        Some((self.endpoints.config.upstreams.get(index)?, self.mounts.get(index)?))
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        let id: String = random_bytes::<16>()
            .iter()
            .fold(String::with_capacity(32), |mut text, byte| {
                text.extend(
                    [byte >> 4, byte & 15]
                        .into_iter()
                        .filter_map(|digit| char::from_digit(digit.into(), 16)),
                );
                text
            });
        Exchange {
            started: Instant::now(),
            request_id: HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("0")),
            upstream: None,
            permit: None,
            origin: Origin::None,
            watchdog: Watchdog::default(),
            body: Vec::new(),
            body_length: 0,
            body_complete: false,
            outcome: None,
            stream: None,
            _in_flight: self.in_flight.enter(),
        }
    }

    // No modules: nothing may compress, buffer or rewrite on the way.
    fn init_downstream_modules(&self, _modules: &mut pingora::modules::http::HttpModules) {}

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<bool> {
        exchange.watchdog = Watchdog::of(session.as_downstream().digest());
        exchange.watchdog.begin();
        // A second request in the same packet is served after the first (RFC 9112 §9.3.2).
        session.as_downstream_mut().set_pipelining_enabled(true);
        match self.decide(session, exchange).await? {
            Ok(admission::Step::Answered) => Ok(true),
            Ok(admission::Step::Forward) => {
                // Before the upstream is connected to: that time is not the gateway's.
                self.endpoints.metrics.overhead(exchange.started.elapsed());
                bridge::continue_if_expected(session).await?;
                // An upstream's own interim answers are for the gateway.
                session.as_downstream_mut().set_ignore_info_resp(true);
                Ok(false)
            }
            Err(refusal) => {
                Box::pin(self.answer(session, exchange, refusal)).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, exchange: &mut Exchange) -> pingora::Result<Box<HttpPeer>> {
        let permitted = exchange.permit.as_ref().map(|permit| permit.upstream());
        let known =
            permitted.and_then(|index| Some((self.endpoints.config.upstreams.get(index)?, self.mounts.get(index)?)));
        let (upstream, mount) =
            known.ok_or_else(|| Error::explain(ErrorType::InternalError, "a request without a permit"))?;
        let url = &upstream.url;
        let address = mount.place.find(upstream.limits.connect_timeout).await?;
        let mut peer = HttpPeer::new(address, url.tls, url.host.clone());
        let options = &mut peer.options;
        options.connection_timeout = Some(upstream.limits.connect_timeout);
        options.total_connection_timeout = Some(upstream.limits.connect_timeout);
        options.idle_timeout = Some(UPSTREAM_IDLE);
        // An upstream that takes nothing of a body is as late as one that says nothing, and only the system sees it: the
        // client is not listened to meanwhile, so that the watchdog sleeps.
        options.write_timeout = Some(upstream.limits.response_timeout);
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: UPSTREAM_PROBE,
            interval: UPSTREAM_PROBE,
            count: 4,
            user_timeout: upstream.limits.response_timeout,
        });
        Ok(Box::new(peer))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        exchange: &mut Exchange,
        error: Box<Error>,
    ) -> Box<Error> {
        if let Some((_, mount)) = self.upstream(exchange) {
            mount.place.try_next();
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> pingora::Result<()> {
        let (Some(permit), Some((upstream, mount))) = (exchange.permit.clone(), self.upstream(exchange)) else {
            return Err(Error::explain(ErrorType::InternalError, "a request without a permit"));
        };
        let target = route::forwarded(upstream, &request.uri);
        request.set_raw_path(target.as_bytes())?;
        let host = request
            .headers
            .get(header::HOST)
            .cloned()
            .unwrap_or_else(|| HeaderValue::from_static(""));
        let arrival = Arrival {
            address: bridge::peer_address(session),
            host: &host,
            scheme: self.endpoints.config.public_url.scheme,
            request_id: &exchange.request_id,
        };
        headers::prepare(
            request,
            &mount.guarded,
            &permit.identity,
            upstream,
            &mount.authority,
            &arrival,
        )?;
        exchange.watchdog.expect_within(upstream.limits.response_timeout);
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Exchange,
    ) -> pingora::Result<()> {
        // Time that the client takes to send is not the upstream's.
        if let Some((upstream, _)) = self.upstream(exchange) {
            exchange.watchdog.expect_within(upstream.limits.response_timeout);
        }
        if end {
            exchange.body_complete = true;
            exchange.watchdog.is_whole();
        }
        let Some(chunk) = body.as_ref().filter(|chunk| !chunk.is_empty()) else {
            return Ok(());
        };
        if exchange.body_length <= KEPT_BODY as u64 {
            exchange.body.push(chunk.clone());
        }
        exchange.body_length += chunk.len() as u64;
        if self
            .upstream(exchange)
            .is_none_or(|(upstream, _)| exchange.body_length > upstream.limits.body)
        {
            return Err(Error::new(BODY_TOO_LARGE).into_down());
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> pingora::Result<()> {
        let Some((upstream, mount)) = self.upstream(exchange) else {
            return Err(Error::explain(
                ErrorType::InternalError,
                "a response without an upstream",
            ));
        };
        match response.status {
            StatusCode::UNAUTHORIZED => return Err(Error::new(UPSTREAM_UNAUTHORIZED).into_up()),
            StatusCode::SWITCHING_PROTOCOLS => return Err(Error::new(UPSTREAM_SWITCHED).into_up()),
            // Not the answer yet, and not passed on.
            status if status.is_informational() => return Ok(()),
            _ => {}
        }
        // HTTP/1.0 knows no chunks: the end of the connection is the end of the body (RFC 9112 §6.3).
        if session.req_header().version < Version::HTTP_11
            && response.remove_header(&header::TRANSFER_ENCODING).is_some()
        {
            session.set_keepalive(None);
        }
        let is_stream = headers::clean_response(response, &mount.hidden, &self.endpoints.config, upstream)?;
        let stream = is_stream.then(|| mount.metrics.stream());
        response.insert_header(REQUEST_ID, exchange.request_id.clone())?;
        let mut failed = None;
        origin::cors(&exchange.origin, |name, value| {
            failed = if name == header::VARY {
                response.append_header(name, value).err()
            } else {
                response.insert_header(name, value).err()
            };
        });
        if let Some(error) = failed {
            return Err(error);
        }
        exchange.outcome = Some(match response.status.as_u16() {
            0..400 => Outcome::Ok,
            400..500 => Outcome::UpstreamClientError,
            _ => Outcome::UpstreamServerError,
        });
        match upstream.limits.idle_stream {
            Some(idle) => exchange.watchdog.expect_within(idle),
            None => exchange.watchdog.rest(),
        }
        exchange.stream = stream;
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Exchange,
    ) -> pingora::Result<Option<Duration>> {
        match self
            .upstream(exchange)
            .and_then(|(upstream, _)| upstream.limits.idle_stream)
        {
            Some(idle) if !end => exchange.watchdog.expect_within(idle),
            _ => exchange.watchdog.rest(),
        }
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, exchange: &mut Exchange) -> FailToProxy {
        let late = match (exchange.watchdog.has_barked(), exchange.body_complete) {
            (false, _) => Late::Nobody,
            (true, false) => Late::Client,
            (true, true) => Late::Upstream,
        };
        let (answer, outcome, failure) = verdict::of(error, late);
        exchange.outcome = Some(outcome);
        if let (Some(failure), Some((upstream, _))) = (failure, self.upstream(exchange)) {
            self.endpoints.metrics.upstream_error(&upstream.name, failure);
            tracing::warn!(upstream = upstream.name, kind = failure.as_str(), error = %error, "an upstream failed");
        }
        let began = session
            .response_written()
            .is_some_and(|head| head.status.as_u16() >= 200);
        let status = answer.as_ref().map_or(0, |(status, ..)| status.as_u16());
        if let (Some((status, code, message)), false) = (answer, began) {
            // Where the upstream was never reached the body is still to be read, and the request's id is in it.
            if failure.is_some() && !exchange.body_complete && exchange.body.is_empty() {
                exchange.body_complete = bridge::read_kept(session, &mut exchange.body).await;
            }
            let body = exchange.body.concat();
            let request = exchange.body_complete.then_some(body.as_slice());
            let refusal = Refusal::final_answer(reply::rpc(status, code, message, request));
            if let Err(error) = Box::pin(self.answer(session, exchange, refusal)).await {
                tracing::debug!(%error, "an error could not be sent");
            }
        }
        exchange.watchdog.rest();
        FailToProxy {
            error_code: status,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        exchange.watchdog.end();
        self.note_end(session, error, exchange);
    }

    fn suppress_error_log(&self, _session: &Session, _exchange: &Exchange, _error: &Error) -> bool {
        // Errors are logged here, once, in our words.
        true
    }
}
