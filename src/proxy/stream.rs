//! An event stream on its way to the client: as it comes, with a comment in long silences (K4), the address in a legacy
//! stream's first event rewritten (K7), and not for longer than its token is good (H11).

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Version};
use pingora::Error;
use pingora::protocols::http::ServerSession;

use super::deadline::Deadline;
use super::forward::{Server, client_gone, hold, pass, read_on};
use super::policy::{self, ListFilter};
use super::tenure::Tenure;
use super::verdict::{BAD_ENDPOINT, TOKEN_OVER, UPSTREAM_LATE};
use super::{Exchange, Gateway, route, session};
use crate::config::Upstream;
use crate::mcp::endpoint::{self, Between, Opened, Opening};
use crate::mcp::events::{BYTE_ORDER_MARK, Boundary, KEEP_ALIVE};

/// A stream that is open for so long is one whose token is looked after; most answers are shorter.
const SETTLED: Duration = Duration::from_millis(500);

/// A stream while it passes.
struct Passing<'a> {
    gateway: &'a Gateway,
    exchange: &'a Exchange,
    upstream: &'a Upstream,
    began: Instant,
    /// When the upstream last said something, and when the client was last told something.
    heard: Instant,
    told: Instant,
    keep_alive: Option<Duration>,
    boundary: Boundary,
    /// Whether nothing came from the upstream yet.
    untouched: bool,
    /// While the first event may be one that is rewritten. Boxed, because it is rare.
    opening: Option<Box<Opening>>,
    /// Where lists are filtered.
    lists: Option<Box<ListFilter>>,
    tenure: Option<Tenure>,
}

/// What happened next.
enum Happened {
    Chunk(Option<Bytes>),
    Due,
    Over,
}

impl Gateway {
    /// Passes an event stream on.
    pub(super) async fn relay_events(
        &self,
        client: &mut ServerSession,
        exchange: &Exchange,
        deadline: &mut Deadline,
        upstream: &Upstream,
        server: &mut Server,
    ) -> pingora::Result<()> {
        let now = Instant::now();
        let headers = server.session.response_header().map(|head| &head.headers);
        // What is compressed cannot be looked into, and nothing can be put between.
        let plain = headers.is_some_and(policy::is_plain);
        // Streams of the newer transport belong to a session, or answer a message.
        let may_be_legacy = client.req_header().method == Method::GET && exchange.session.is_none();
        let passing = Passing {
            gateway: self,
            exchange,
            upstream,
            began: now,
            heard: now,
            told: now,
            keep_alive: upstream.keep_alive.filter(|_| plain),
            boundary: Boundary::new(),
            untouched: true,
            opening: (plain && may_be_legacy).then(Box::default),
            lists: exchange.filters_lists().then(|| Box::new(ListFilter::new(upstream))),
            tenure: None,
        };
        passing.pass_on(client, deadline, server).await
    }
}

impl Passing<'_> {
    async fn pass_on(
        mut self,
        client: &mut ServerSession,
        deadline: &mut Deadline,
        server: &mut Server,
    ) -> pingora::Result<()> {
        let mut done = server.is_done()?;
        while !done {
            self.set(deadline);
            let happened = tokio::select! {
                biased;
                // First of all: an upstream that never stops talking must not keep it from being heard.
                () = over(self.tenure.as_ref()) => Happened::Over,
                chunk = server.session.read_response_body() => Happened::Chunk(chunk.map_err(Error::into_up)?),
                // Nothing more is here now, so that what is there goes out.
                gone = read_on(client) => return Err(client_gone(gone)),
                () = deadline.passed() => Happened::Due,
            };
            match happened {
                Happened::Chunk(chunk) => {
                    done = chunk.is_none() || server.is_done()?;
                    if let Some(chunk) = chunk.filter(|chunk| !chunk.is_empty()) {
                        let chunk = self.hear(chunk);
                        let chunk = self.look_for_endpoint(client, chunk)?;
                        let chunk = self.filter(chunk)?;
                        self.tell(client, deadline, chunk).await?;
                    }
                }
                Happened::Due => self.attend(client, deadline).await?,
                Happened::Over => {
                    tracing::debug!(upstream = self.upstream.name, "a stream ended with its token");
                    // What the upstream still has to say is for nobody.
                    server.complete = false;
                    (self.opening, self.lists) = (None, None);
                    if !self.boundary.is_between() {
                        return Err(Error::new(TOKEN_OVER).into_in());
                    }
                    done = true;
                }
            }
        }
        if let Some(opening) = self.opening.take() {
            let rest = self.filter(opening.finish())?;
            self.tell(client, deadline, rest).await?;
        }
        if let Some(lists) = self.lists.take() {
            let rest = lists.finish(self.exchange, self.upstream)?;
            self.tell(client, deadline, rest).await?;
        }
        hold(client, false);
        pass(client, deadline, Bytes::new(), true).await
    }

    /// What its caller may see of it.
    fn filter(&mut self, chunk: Bytes) -> pingora::Result<Bytes> {
        match &mut self.lists {
            Some(lists) => lists.pass(chunk, self.exchange, self.upstream),
            None => Ok(chunk),
        }
    }

    /// Sets the deadline to what is due next.
    fn set(&self, deadline: &mut Deadline) {
        let settled = self.tenure.is_none().then(|| self.began + SETTLED);
        let idle = self.upstream.limits.idle_stream;
        let idle = idle.and_then(|idle| self.heard.checked_add(idle));
        let comment = self.keep_alive.and_then(|silence| self.told.checked_add(silence));
        match [settled, idle, comment].into_iter().flatten().min() {
            Some(due) => deadline.expect_by(due),
            None => deadline.rest(),
        }
    }

    /// What is due has come: silence that is too long, a stream that stays, a comment.
    async fn attend(&mut self, client: &mut ServerSession, deadline: &mut Deadline) -> pingora::Result<()> {
        let now = Instant::now();
        let idle = self.upstream.limits.idle_stream;
        if idle.is_some_and(|idle| now >= self.heard + idle) {
            return Err(Error::new(UPSTREAM_LATE));
        }
        self.settle(now);
        if self.keep_alive.is_some_and(|silence| now >= self.told + silence) {
            if self.boundary.is_between() {
                self.tell(client, deadline, Bytes::from_static(KEEP_ALIVE)).await?;
            }
            self.told = now;
        }
        Ok(())
    }

    /// A stream that stays goes by its token from now on.
    fn settle(&mut self, now: Instant) {
        if self.tenure.is_none() && now >= self.began + SETTLED {
            self.tenure = self.begin_tenure();
        }
    }

    fn begin_tenure(&self) -> Option<Tenure> {
        let permit = self.exchange.permit.as_ref()?;
        let gateway = self.gateway;
        let tenure = gateway.lasting.tenures.begin(permit, &*gateway.endpoints.store);
        // It began under another configuration, and what was looked at when that changed was not this one.
        if gateway.retired.load(Ordering::SeqCst) {
            gateway.lasting.tenures.unsettle();
        }
        Some(tenure)
    }

    /// The upstream says something. A byte order mark is one only at the very beginning, so it goes if a comment went before.
    fn hear(&mut self, chunk: Bytes) -> Bytes {
        self.heard = Instant::now();
        self.settle(self.heard);
        let commented = std::mem::take(&mut self.untouched) && self.told > self.began;
        if commented && chunk.starts_with(BYTE_ORDER_MARK) {
            return chunk.slice(BYTE_ORDER_MARK.len()..);
        }
        chunk
    }

    /// Tells the client, and does not wait for one that takes nothing while its token ends.
    async fn tell(&mut self, client: &mut ServerSession, deadline: &mut Deadline, chunk: Bytes) -> pingora::Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.told = Instant::now();
        self.boundary.pass(&chunk);
        tokio::select! {
            biased;
            passed = pass(client, deadline, chunk, false) => passed,
            () = self.outlasted() => Err(Error::new(TOKEN_OVER).into_in()),
        }
    }

    /// Ends when the token has, which is looked after from when the stream has stayed for a while.
    async fn outlasted(&mut self) {
        if self.tenure.is_none() {
            tokio::time::sleep_until((self.began + SETTLED).into()).await;
            self.tenure = self.begin_tenure();
        }
        over(self.tenure.as_ref()).await;
    }

    /// Looks for an endpoint event at the beginning of a stream, and rewrites it.
    fn look_for_endpoint(&mut self, client: &ServerSession, chunk: Bytes) -> pingora::Result<Bytes> {
        let Some(opening) = &mut self.opening else {
            return Ok(chunk);
        };
        let (before, event, after) = match opening.push(chunk) {
            Opened::NotYet(bytes) => return Ok(bytes),
            Opened::Never(bytes) => {
                self.opening = None;
                return Ok(bytes);
            }
            Opened::Endpoint { before, event, after } => (before, event, after),
            Opened::TooLong => return Err(Error::explain(BAD_ENDPOINT, "its endpoint event is too long").into_up()),
        };
        self.opening = None;
        let address = self.public_address(client, &event.data().unwrap_or_default())?;
        let event = event.with_data(address.as_bytes());
        Ok([before, event, after].concat().into())
    }

    /// The address below the gateway's path for one that an upstream announced.
    fn public_address(&self, client: &ServerSession, announced: &[u8]) -> pingora::Result<String> {
        let bad = |why: String| Error::explain(BAD_ENDPOINT, why).into_up();
        let (exchange, upstream, endpoints) = (self.exchange, self.upstream, &self.gateway.endpoints);
        let head = client.req_header();
        let said = exchange.source.as_ref().and_then(|source| source.host.as_ref());
        let host = said.map_or_else(|| route::host(&head.headers), route::host_of);
        let host = host.map_err(|_| bad("the request has no host".to_owned()))?;
        let scheme = if upstream.url.tls { "https" } else { "http" };
        let between = Between {
            upstream: &format!("{scheme}://{}", upstream.url.authority),
            own: &upstream.url.path,
            asked: &route::forwarded(upstream, &head.uri),
            public: &format!("{}://{host}", endpoints.config.public_url.scheme),
            mount: &upstream.path,
        };
        let permit = exchange.permit.as_deref();
        let party = permit.and_then(|permit| session::party(upstream, permit));
        let address = endpoint::rewrite(&endpoints.sessions, party, &upstream.name, between, announced)
            .map_err(|error| bad(error.to_string()))?;
        // A client that followed it would be refused.
        let path = address.strip_prefix(between.public).unwrap_or(&address);
        let path = path.split('?').next().unwrap_or_default();
        route::check_path(path).map_err(|error| bad(error.to_owned()))?;
        Ok(address)
    }
}

/// Ends when the token has.
async fn over(tenure: Option<&Tenure>) {
    match tenure {
        Some(tenure) => tenure.over().await,
        None => std::future::pending().await,
    }
}

/// A stream may become longer than its upstream says: chunks instead of a length.
pub(super) fn without_length(client: &ServerSession, response: &mut HeaderMap) {
    let head = client.req_header();
    if head.method != Method::HEAD
        && response.remove(header::CONTENT_LENGTH).is_some()
        && head.version == Version::HTTP_11
    {
        response.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}
