//! An event stream on its way to the client: as it comes, with a comment in long silences (K4), the address in a legacy
//! stream's first event rewritten (K7), and not for longer than its token is good (H11).

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Version};
use pingora::Error;
use pingora::protocols::http::ServerSession;

use super::deadline::Deadline;
use super::forward::{Server, client_gone, hold, read_on};
use super::policy::{self, ListFilter};
use super::tenure::Tenure;
use super::verdict::{BAD_ENDPOINT, TOKEN_OVER, UPSTREAM_LATE};
use super::{Exchange, Gateway, route, session};
use crate::config::Upstream;
use crate::mcp::endpoint::{self, Between, Opened, Opening};
use crate::mcp::events::{BYTE_ORDER_MARK, Boundary, KEEP_ALIVE};

/// A stream that is open for so long is one whose token is looked after; most answers are shorter.
const SETTLED: Duration = Duration::from_millis(500);

/// What is known of a stream while it passes.
struct Passing {
    began: Instant,
    /// When the upstream last said something, and when the client was last told something.
    heard: Instant,
    told: Instant,
    idle: Option<Duration>,
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
        let mut passing = Passing::new(client, exchange, upstream, server);
        let mut done = server.is_done()?;
        while !done {
            passing.set(deadline);
            let happened = tokio::select! {
                biased;
                chunk = server.session.read_response_body() => Happened::Chunk(chunk.map_err(Error::into_up)?),
                // Nothing more is here now, so that what is there goes out.
                gone = read_on(client) => return Err(client_gone(gone)),
                () = passing.over() => Happened::Over,
                () = deadline.passed() => Happened::Due,
            };
            match happened {
                Happened::Chunk(chunk) => {
                    done = chunk.is_none() || server.is_done()?;
                    if let Some(chunk) = chunk.filter(|chunk| !chunk.is_empty()) {
                        let chunk = passing.hear(chunk);
                        let chunk = self.look_for_endpoint(&mut passing, client, exchange, upstream, chunk)?;
                        let chunk = passing.filter(chunk, exchange, upstream)?;
                        passing.tell(client, chunk).await?;
                    }
                }
                Happened::Due => self.attend(&mut passing, client, exchange).await?,
                Happened::Over => {
                    tracing::debug!(upstream = upstream.name, "a stream ended with its token");
                    // What the upstream still has to say is for nobody.
                    server.complete = false;
                    if !passing.boundary.is_between() {
                        return Err(Error::new(TOKEN_OVER).into_in());
                    }
                    done = true;
                }
            }
        }
        deadline.rest();
        if let Some(opening) = passing.opening.take() {
            let rest = passing.filter(opening.finish(), exchange, upstream)?;
            passing.tell(client, rest).await?;
        }
        if let Some(lists) = passing.lists.take() {
            passing.tell(client, lists.finish(exchange, upstream)?).await?;
        }
        hold(client, false);
        client
            .write_response_body(Bytes::new(), true)
            .await
            .map_err(Error::into_down)
    }

    /// What is due has come: silence that is too long, a stream that stays, a comment.
    async fn attend(
        &self,
        passing: &mut Passing,
        client: &mut ServerSession,
        exchange: &Exchange,
    ) -> pingora::Result<()> {
        let now = Instant::now();
        if passing.idle.is_some_and(|idle| now >= passing.heard + idle) {
            return Err(Error::new(UPSTREAM_LATE));
        }
        if passing.tenure.is_none()
            && now >= passing.began + SETTLED
            && let Some(permit) = &exchange.permit
        {
            passing.tenure = Some(self.lasting.tenures.begin(permit, &*self.endpoints.store));
        }
        if passing.keep_alive.is_some_and(|silence| now >= passing.told + silence) {
            if passing.boundary.is_between() {
                passing.tell(client, Bytes::from_static(KEEP_ALIVE)).await?;
            }
            passing.told = now;
        }
        Ok(())
    }

    /// Looks for an endpoint event at the beginning of a stream, and rewrites it.
    fn look_for_endpoint(
        &self,
        passing: &mut Passing,
        client: &ServerSession,
        exchange: &Exchange,
        upstream: &Upstream,
        chunk: Bytes,
    ) -> pingora::Result<Bytes> {
        let Some(opening) = &mut passing.opening else {
            return Ok(chunk);
        };
        let (before, event, after) = match opening.push(chunk) {
            Opened::NotYet(bytes) => return Ok(bytes),
            Opened::Never(bytes) => {
                passing.opening = None;
                return Ok(bytes);
            }
            Opened::Endpoint { before, event, after } => (before, event, after),
            Opened::TooLong => return Err(Error::explain(BAD_ENDPOINT, "its endpoint event is too long").into_up()),
        };
        passing.opening = None;
        let address = self.public_address(client, exchange, upstream, &event.data().unwrap_or_default())?;
        let event = event.with_data(address.as_bytes());
        Ok([before, event, after].concat().into())
    }

    /// The address below the gateway's path for one that an upstream announced.
    fn public_address(
        &self,
        client: &ServerSession,
        exchange: &Exchange,
        upstream: &Upstream,
        announced: &[u8],
    ) -> pingora::Result<String> {
        let bad = |why: String| Error::explain(BAD_ENDPOINT, why).into_up();
        let head = client.req_header();
        let host = route::host(&head.headers).map_err(|_| bad("the request has no host".to_owned()))?;
        let permit = exchange.permit.as_deref();
        let scheme = if upstream.url.tls { "https" } else { "http" };
        let between = Between {
            upstream: &format!("{scheme}://{}", upstream.url.authority),
            own: &upstream.url.path,
            asked: &route::forwarded(upstream, &head.uri),
            public: &format!("{}://{host}", self.endpoints.config.public_url.scheme),
            mount: &upstream.path,
        };
        let party = permit.and_then(|permit| session::party(upstream, permit));
        let sessions = &self.endpoints.sessions;
        let address = endpoint::rewrite(sessions, party, &upstream.name, between, announced)
            .map_err(|error| bad(error.to_string()))?;
        // A client that followed it would be refused.
        let path = address.strip_prefix(between.public).unwrap_or(&address);
        let path = path.split('?').next().unwrap_or_default();
        route::check_path(path).map_err(|error| bad(error.to_owned()))?;
        Ok(address)
    }
}

impl Passing {
    fn new(client: &ServerSession, exchange: &Exchange, upstream: &Upstream, server: &Server) -> Self {
        let now = Instant::now();
        let headers = server.session.response_header().map(|head| &head.headers);
        // What is compressed cannot be looked into, and nothing can be put between.
        let plain = headers.is_some_and(policy::is_plain);
        // Streams of the newer transport belong to a session, or answer a message.
        let request = client.req_header();
        let may_be_legacy = request.method == Method::GET && exchange.session.is_none();
        Self {
            began: now,
            heard: now,
            told: now,
            idle: upstream.limits.idle_stream,
            keep_alive: upstream.keep_alive.filter(|_| plain),
            boundary: Boundary::new(),
            untouched: true,
            opening: (plain && may_be_legacy).then(Box::default),
            lists: exchange.filters_lists().then(|| Box::new(ListFilter::new(upstream))),
            tenure: None,
        }
    }

    /// Sets the deadline to what is due next.
    fn set(&self, deadline: &mut Deadline) {
        let settled = self.tenure.is_none().then(|| self.began + SETTLED);
        let idle = self.idle.and_then(|idle| self.heard.checked_add(idle));
        let comment = self.keep_alive.and_then(|silence| self.told.checked_add(silence));
        match [settled, idle, comment].into_iter().flatten().min() {
            Some(due) => deadline.expect_by(due),
            None => deadline.rest(),
        }
    }

    /// Ends when the token has.
    async fn over(&self) {
        match &self.tenure {
            Some(tenure) => tenure.over().await,
            None => std::future::pending().await,
        }
    }

    /// The upstream says something. A byte order mark is one only at the very beginning, so it goes if a comment went before.
    fn hear(&mut self, chunk: Bytes) -> Bytes {
        self.heard = Instant::now();
        let commented = std::mem::take(&mut self.untouched) && self.told > self.began;
        if commented && chunk.starts_with(BYTE_ORDER_MARK) {
            return chunk.slice(BYTE_ORDER_MARK.len()..);
        }
        chunk
    }

    /// What its caller may see of it.
    fn filter(&mut self, chunk: Bytes, exchange: &Exchange, upstream: &Upstream) -> pingora::Result<Bytes> {
        match &mut self.lists {
            Some(lists) => lists.pass(chunk, exchange, upstream),
            None => Ok(chunk),
        }
    }

    /// Tells the client.
    async fn tell(&mut self, client: &mut ServerSession, chunk: Bytes) -> pingora::Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.told = Instant::now();
        self.boundary.pass(&chunk);
        client.write_response_body(chunk, false).await.map_err(Error::into_down)
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
