//! Floor 4: the proxy, and the only floor that knows the engine.
//!
//! ```text
//! listener   a connection → requests
//! serve      decide:   head in order? → host ours? → endpoint of ours? → upstream? → origin? → token? → limits?
//!               │ each may answer  (route)                (oauth)          (route)    (origin)  (bearer)  (rate)
//!            forward:  where the permit says; without a permit, nowhere
//!               request    credentials and claims of the client out, ours in (headers); the body is counted
//!               response   what the upstream may not tell a client out, CORS in; the body passes as it comes
//!            fail:     502, 504, 503 in JSON-RPC form (verdict, reply)
//!            note_end: one metric, one access line, and why it was refused (refused)
//! ```

mod access_log;
mod admission;
mod bearer;
mod bridge;
mod budget;
mod calls;
mod client_address;
mod deadline;
mod dial;
mod entrance;
mod forward;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
mod headers;
pub mod listener;
mod origin;
mod place;
mod policy;
mod pool;
mod proxy_header;
mod refused;
mod reply;
mod route;
mod session;
mod stream;
mod tenure;
mod verdict;
mod watched;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::header::HeaderValue;
use pingora::Error;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use tokio::net::TcpStream;

use self::bearer::{Bearer, Permit};
use self::budget::{Budget, Budgets, Held};
use self::calls::Stopped;
use self::client_address::Source;
use self::deadline::Deadline;
use self::dial::Dialer;
use self::entrance::Entrance;
use self::headers::{Guarded, Hidden};
use self::listener::{InFlight, InFlightGuard};
use self::origin::{Origin, Origins};
use self::policy::Ruled;
use self::reply::Refusal;
use self::route::Routes;
use self::session::Known;
use self::tenure::Tenures;
use self::watched::Watched;
use crate::config::Upstream;
use crate::oauth::Endpoints;
use crate::telemetry::{Outcome, StreamGuard, UpstreamMetrics};

/// The gateway: every request goes through [`Gateway::serve`].
pub struct Gateway {
    endpoints: Arc<Endpoints>,
    routes: Routes,
    bearer: Bearer,
    /// By the listener's place in the configuration.
    entrances: Vec<Entrance>,
    /// By the upstream's place in the configuration.
    mounts: Vec<Mount>,
    lasting: Lasting,
    /// Whether another one is in force.
    retired: AtomicBool,
}

/// What outlives a configuration.
#[derive(Clone, Default)]
struct Lasting {
    budgets: Budgets,
    in_flight: InFlight,
    tenures: Tenures,
}

/// What is worked out once for each upstream.
struct Mount {
    guarded: Guarded,
    hidden: Hidden,
    origins: Origins,
    authority: HeaderValue,
    dialer: Dialer,
    /// Where it has limits that count.
    budget: Option<Arc<Budget>>,
    metrics: UpstreamMetrics,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client has the whole of an answer.
    InOrder,
    /// The client has less, and must not take it for the whole.
    Broken,
}

/// What is remembered while a request is served.
struct Exchange {
    started: Instant,
    request_id: HeaderValue,
    /// Where it comes from, once its head is in order.
    source: Option<Source>,
    upstream: Option<usize>,
    permit: Option<Arc<Permit>>,
    origin: Origin,
    /// Its session, where sessions are bound.
    session: Option<Arc<Known>>,
    /// Where at the upstream it goes, if that is not said by its path.
    target: Option<String>,
    /// The beginning of the body, and whether it is the whole of it.
    body: Vec<Bytes>,
    body_length: u64,
    body_complete: bool,
    /// The places that it takes, where they are counted.
    held: Option<Box<Held>>,
    /// The whole body, where it was read before the upstream hears of it.
    whole: Option<Bytes>,
    /// What rules made of it, where there are any. Boxed, because most servers have none.
    ruled: Option<Box<Ruled>>,
    outcome: Option<Outcome>,
    /// Why it is refused, where it is.
    refused: refused::Notes,
    stream: Option<StreamGuard>,
    _in_flight: InFlightGuard,
}

impl Gateway {
    /// A gateway over these parts.
    ///
    /// # Errors
    /// A sentence on what of the configuration cannot be put into practice.
    pub fn new(endpoints: Arc<Endpoints>) -> Result<Self, String> {
        Self::over(endpoints, Lasting::default())
    }

    /// The same under another configuration: what is counted goes on being counted.
    ///
    /// # Errors
    /// A sentence on what of the configuration cannot be put into practice.
    pub fn with(&self, endpoints: Arc<Endpoints>) -> Result<Self, String> {
        Self::over(endpoints, self.lasting.clone())
    }

    fn over(endpoints: Arc<Endpoints>, lasting: Lasting) -> Result<Self, String> {
        let config = Arc::clone(&endpoints.config);
        let routes = Routes::new(&config);
        let own = routes.own_origins(config.public_url.scheme);
        let mount = |upstream: &Upstream| {
            Ok::<_, String>(Mount {
                guarded: Guarded::of(upstream),
                hidden: Hidden::of(upstream),
                origins: Origins::of(upstream, &own, config.public_url.scheme),
                // The configuration took it from a parsed URL, which holds nothing that a header may not.
                authority: HeaderValue::from_str(&upstream.url.authority)
                    .unwrap_or_else(|_| HeaderValue::from_static("upstream")),
                dialer: Dialer::of(upstream)?,
                budget: lasting.budgets.of(upstream, &endpoints.metrics),
                metrics: endpoints.metrics.upstream(&upstream.name),
            })
        };
        let mounts = config.upstreams.iter().map(mount).collect::<Result<_, _>>()?;
        let entrances: Result<_, _> = config.listen.iter().map(Entrance::of).collect();
        let entrances = entrances?;
        lasting.budgets.settle(&config, &endpoints.metrics);
        Ok(Self {
            entrances,
            endpoints,
            routes,
            bearer: Bearer::new(),
            mounts,
            lasting,
            retired: AtomicBool::new(false),
        })
    }

    /// Lets a connection in at a listener, given by its place in the configuration.
    async fn admit_connection(&self, place: usize, socket: TcpStream, peer: SocketAddr) -> Option<Stream> {
        let trusted = &self.endpoints.config.trusted_proxies;
        self.entrances.get(place)?.admit(socket, peer, trusted).await
    }

    fn upstream(&self, exchange: &Exchange) -> Option<(&Upstream, &Mount)> {
        let index = exchange.upstream?;
        Some((self.endpoints.config.upstreams.get(index)?, self.mounts.get(index)?))
    }
}

impl Gateway {
    /// Serves one request, whose head was read.
    async fn serve(&self, session: &mut ServerSession, deadline: &mut Deadline) -> End {
        if let Some(connection) = Watched::under(session) {
            connection.begin();
        }
        deadline.rest();
        let mut exchange = Exchange::new(self.lasting.in_flight.enter());
        let result = self.answer_or_forward(session, &mut exchange, deadline).await;
        let end = match &result {
            Ok(()) => End::InOrder,
            // Boxed, because it is rare: whatever is awaited here is part of every request's own state.
            Err(error) => Box::pin(self.fail(session, error, &mut exchange)).await,
        };
        if let Some(connection) = Watched::under(session) {
            connection.end();
        }
        self.note_end(session, result.err().as_deref(), &exchange);
        end
    }

    async fn answer_or_forward(
        &self,
        session: &mut ServerSession,
        exchange: &mut Exchange,
        deadline: &mut Deadline,
    ) -> pingora::Result<()> {
        match self.decide(session, exchange).await? {
            Ok(admission::Step::Answered) => Ok(()),
            Ok(admission::Step::Refused(met)) => Box::pin(self.refuse_one_too_many(session, exchange, met)).await,
            Ok(admission::Step::Forward) => {
                // Before the upstream is connected to: that time is not the gateway's.
                self.endpoints.metrics.overhead(exchange.started.elapsed());
                bridge::continue_if_expected(session).await?;
                // Boxed, like all that most requests do without.
                if self.is_ruled(exchange)
                    && let Err(refusal) = Box::pin(self.enforce(session, exchange, deadline)).await?
                {
                    return Box::pin(self.answer(session, exchange, refusal)).await;
                }
                if self.counts_calls(exchange) {
                    // Boxed, because it is rare.
                    match Box::pin(self.count_calls(session, exchange, deadline)).await? {
                        Ok(()) => {}
                        Err(Stopped::ByLimit(met)) => {
                            return Box::pin(self.refuse_one_too_many(session, exchange, met)).await;
                        }
                        Err(Stopped::ByForm(refusal)) => {
                            return Box::pin(self.answer(session, exchange, refusal)).await;
                        }
                    }
                }
                self.forward(session, exchange, deadline).await
            }
            Err(refusal) => Box::pin(self.answer(session, exchange, refusal)).await,
        }
    }

    /// Tells the client of an error, if it is there and has heard nothing else yet.
    async fn fail(&self, session: &mut ServerSession, error: &Error, exchange: &mut Exchange) -> End {
        let (answer, outcome, failure) = verdict::of(error);
        exchange.outcome = Some(outcome);
        if let (Some(failure), Some((upstream, _))) = (failure, self.upstream(exchange)) {
            self.endpoints.metrics.upstream_error(&upstream.name, failure);
            tracing::warn!(upstream = upstream.name, kind = failure.as_str(), error = %error, "an upstream failed");
        }
        let began = session
            .response_written()
            .is_some_and(|head| head.status.as_u16() >= 200);
        let Some((status, code, message)) = answer.filter(|_| !began) else {
            return End::Broken;
        };
        // Where the upstream was never reached the body is still to be read, and the request's id is in it.
        if failure.is_some() && !exchange.body_complete && exchange.body.is_empty() {
            exchange.body_complete = bridge::read_kept(session, &mut exchange.body).await;
        }
        let body = exchange.body.concat();
        let request = exchange.body_complete.then_some(body.as_slice());
        let refusal = Refusal::final_answer(reply::rpc(status, code, message, request));
        match self.answer(session, exchange, refusal).await {
            Ok(()) => End::InOrder,
            Err(error) => {
                tracing::debug!(%error, "an error could not be sent");
                End::Broken
            }
        }
    }

    /// Closes idle connections to upstreams, for there will be no more requests.
    fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        for mount in &self.mounts {
            mount.dialer.retire();
        }
    }

    /// Closes connections to upstreams that have been idle for too long.
    fn tidy(&self) {
        for mount in &self.mounts {
            mount.dialer.tidy();
        }
    }
}

impl Exchange {
    fn new(in_flight: InFlightGuard) -> Self {
        Self {
            started: Instant::now(),
            request_id: headers::request_id(),
            source: None,
            upstream: None,
            permit: None,
            origin: Origin::None,
            session: None,
            target: None,
            body: Vec::new(),
            body_length: 0,
            body_complete: false,
            held: None,
            whole: None,
            ruled: None,
            outcome: None,
            refused: refused::Notes::default(),
            stream: None,
            _in_flight: in_flight,
        }
    }
}
