//! Where the messages of a legacy HTTP+SSE stream go (revision 2024-11-05): the first event of the stream names an address of
//! the upstream, and clients get one below the gateway's own path instead.
//!
//! ```text
//! upstream   GET http://10.0.0.7:3001/sse     event: endpoint   data: /messages/?session_id=5f1c…
//! client     GET https://mcp.example.com/old  event: endpoint   data: /old/messages/?session_id=5f1c…&mcpgate=Zm9v…
//!                                                                     └┬─┘└─────────────┬───────────┘ └─────┬─────┘
//!                                                                  the mount      the upstream's address   tag
//! ```
//! That address need not be below the one that is configured (here `/sse`), where requests go that have no tag. The tag is
//! over the upstream's path and query as a whole, and over the party that heard of it, so nobody can reach another path, or
//! another's session; and there is no table.

use bytes::Bytes;
use url::Url;

use super::events::{Event, Events};
use super::session::{Kind, Party, Sessions, names_a_session};

/// Longest address, and longest first event of a stream that may turn out to have one.
const MAX_EVENT: usize = 16 << 10;
/// Most characters of an address.
const MAX_ADDRESS: usize = 4 << 10;
/// The parameter with the tag.
const TAG: &str = "mcpgate";

/// Where a stream comes from, and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Between<'a> {
    /// The upstream's origin: scheme and authority.
    pub upstream: &'a str,
    /// The path that is configured for it.
    pub own: &'a str,
    /// Path and query that were asked of it.
    pub asked: &'a str,
    /// The origin at which the client asked.
    pub public: &'a str,
    /// The upstream's public path.
    pub mount: &'a str,
}

/// An endpoint event that no client may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// It leads to somebody else.
    #[error("its endpoint event leads to another server")]
    Elsewhere,
    /// It is no address, or a very long one.
    #[error("its endpoint event has no address")]
    NoAddress,
}

/// What a request's path and query are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Not one of ours: it is for the upstream's own path.
    Plain,
    /// One that was given out: path and query at the upstream.
    Known(String),
    /// One that was never given out, or not to this party, or a session's that nobody vouches for.
    Unknown,
}

/// Looks for an endpoint event at the beginning of a stream.
#[derive(Debug)]
pub struct Opening {
    events: Events,
}

/// What came of more of a stream's beginning.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// The first event is not here yet; this may go on.
    NotYet(Bytes),
    /// There is none: all may go on.
    Never(Bytes),
    /// This is it, between what came before and what came after.
    Endpoint {
        /// Comments and the like.
        before: Bytes,
        /// The event.
        event: Event,
        /// The beginning of what comes then.
        after: Bytes,
    },
    /// It is too long to be one that is good for anything.
    TooLong,
}

// === impl Opening ===

impl Opening {
    /// The beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            events: Events::new(MAX_EVENT),
        }
    }

    /// More of the stream.
    #[must_use]
    pub fn push(&mut self, chunk: Bytes) -> Opened {
        self.events.push(chunk);
        let mut before = Vec::new();
        loop {
            match self.events.next() {
                // Nobody is told of an event without data.
                Ok(Some(event)) if event.data().is_none() => before.push(event),
                Ok(Some(event)) => {
                    let before = joined(&before);
                    let after = self.rest();
                    if event.name() == b"endpoint" {
                        return Opened::Endpoint { before, event, after };
                    }
                    return Opened::Never([before, event.raw().clone(), after].concat().into());
                }
                Ok(None) => return Opened::NotYet(joined(&before)),
                Err(_) => {
                    let (before, after) = (joined(&before), self.rest());
                    // A long event of another kind is none of our business.
                    let mut beginning = Events::new(usize::MAX);
                    beginning.push(after.slice(..after.len().min(MAX_EVENT)));
                    let named = beginning.next().ok().flatten().or_else(|| beginning.finish());
                    if named.is_some_and(|event| event.name() == b"endpoint") {
                        return Opened::TooLong;
                    }
                    return Opened::Never([before, after].concat().into());
                }
            }
        }
    }

    /// The stream has ended before its first event: what was held of it, unless that is half an endpoint event, which some
    /// client might take for a whole one.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.events
            .finish()
            .filter(|event| event.name() != b"endpoint")
            .map_or_else(Bytes::new, |event| event.raw().clone())
    }

    fn rest(&mut self) -> Bytes {
        std::mem::replace(&mut self.events, Events::new(0)).into_rest()
    }
}

impl Default for Opening {
    fn default() -> Self {
        Self::new()
    }
}

fn joined(events: &[Event]) -> Bytes {
    match events {
        [] => Bytes::new(),
        [only] => only.raw().clone(),
        several => several.iter().flat_map(|event| event.raw().iter().copied()).collect(),
    }
}

// === rewriting

/// The address that a client gets for the one that its upstream announced: below the mount, at the client's own origin, and
/// without an origin where there was none. `party` is `None` where sessions are not bound.
///
/// # Errors
/// If it is none of the upstream's.
pub fn rewrite(
    sessions: &Sessions,
    party: Option<Party<'_>>,
    upstream_name: &str,
    between: Between<'_>,
    announced: &[u8],
) -> Result<String, BadEndpoint> {
    let announced = std::str::from_utf8(announced).map_err(|_| BadEndpoint::NoAddress)?;
    let strange = |letter: char| letter.is_control() || letter == '\\';
    if announced.trim().is_empty() || announced.len() > MAX_ADDRESS || announced.contains(strange) {
        return Err(BadEndpoint::NoAddress);
    }
    let base = Url::parse(&format!("{}{}", between.upstream, between.asked)).map_err(|_| BadEndpoint::NoAddress)?;
    let url = base.join(announced).map_err(|_| BadEndpoint::NoAddress)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BadEndpoint::Elsewhere);
    }
    // A server that believes X-Forwarded-Host names the gateway, and means itself.
    let public = Url::parse(between.public).ok();
    if !same_server(&url, &base) && !public.is_some_and(|public| same_server(&url, &public)) {
        return Err(BadEndpoint::Elsewhere);
    }
    let (path, query) = (url.path(), url.query());
    let tag = tag(sessions, party, upstream_name, path, query);
    // Where it can be reached the usual way, that is its address, else its own path is.
    let own = between.own.strip_suffix('/').unwrap_or(between.own);
    let usual = path
        .strip_prefix(own)
        .filter(|below| below.starts_with('/') && forwarded(between.own, below) == path);
    let below = usual.unwrap_or(path);
    let has_origin = announced.trim_start().starts_with("//") || Url::parse(announced).is_ok();
    let origin = if has_origin { between.public } else { "" };
    let query = query
        .filter(|query| !query.is_empty())
        .map_or_else(String::new, |query| format!("{query}&"));
    Ok(format!("{origin}{}{below}?{query}{TAG}={tag}", between.mount))
}

/// Whether two addresses are of one server. This machine has several names.
fn same_server(one: &Url, other: &Url) -> bool {
    let is_here = |url: &Url| match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    one.scheme() == other.scheme()
        && one.port_or_known_default() == other.port_or_known_default()
        && (one.host() == other.host() || is_here(one) && is_here(other))
}

fn tag(sessions: &Sessions, party: Option<Party<'_>>, upstream_name: &str, path: &str, query: Option<&str>) -> String {
    let (kind, party) = of(party, upstream_name);
    sessions.tag(kind, party, &[path.as_bytes(), query.unwrap_or_default().as_bytes()])
}

fn of<'a>(party: Option<Party<'a>>, upstream: &'a str) -> (Kind, Party<'a>) {
    match party {
        Some(party) => (Kind::Endpoint, party),
        None => (
            Kind::OpenEndpoint,
            Party {
                upstream,
                subject: "",
                client: "",
            },
        ),
    }
}

/// Where a request without a tag goes: below the configured path.
fn forwarded(own: &str, below: &str) -> String {
    match below {
        "" | "/" => own.to_owned(),
        below => format!("{}{below}", own.strip_suffix('/').unwrap_or(own)),
    }
}

/// What a request's address is: `below` is its path without the mount, `own` the path that is configured for the upstream.
#[must_use]
pub fn read(
    sessions: &Sessions,
    party: Option<Party<'_>>,
    upstream_name: &str,
    own: &str,
    below: &str,
    query: Option<&str>,
) -> Address {
    let Some(query) = query else {
        return Address::Plain;
    };
    let (rest, last) = query.rsplit_once('&').unwrap_or(("", query));
    let Some(tag) = last.strip_prefix(TAG).and_then(|value| value.strip_prefix('=')) else {
        let refused = party.is_some() && names_a_session(query);
        return if refused { Address::Unknown } else { Address::Plain };
    };
    let (kind, party) = of(party, upstream_name);
    let given = |path: &String| sessions.verifies(kind, party, &[path.as_bytes(), rest.as_bytes()], tag.as_bytes());
    let paths = [forwarded(own, below), below.to_owned()];
    match paths.into_iter().find(given) {
        None => Address::Unknown,
        Some(path) if rest.is_empty() => Address::Known(path),
        Some(path) => Address::Known(format!("{path}?{rest}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BETWEEN: Between<'_> = Between {
        upstream: "http://10.0.0.7:3001",
        own: "/sse",
        asked: "/sse",
        public: "https://mcp.example.com",
        mount: "/old",
    };
    const ADA: Party<'_> = Party {
        upstream: "one",
        subject: "ada",
        client: "desktop",
    };

    fn sessions() -> Sessions {
        Sessions::new(&[7; 32])
    }

    fn rewritten(announced: &str) -> Result<String, BadEndpoint> {
        rewrite(&sessions(), Some(ADA), ADA.upstream, BETWEEN, announced.as_bytes())
    }

    /// What becomes of a request to an address that was given out.
    fn followed(party: Party<'_>, given: &str) -> Address {
        let given = given.strip_prefix(BETWEEN.public).unwrap_or(given);
        let (path, query) = given
            .split_once('?')
            .map_or((given, None), |(path, query)| (path, Some(query)));
        let below = path.strip_prefix(BETWEEN.mount).expect("it is below the mount");
        read(&sessions(), Some(party), party.upstream, BETWEEN.own, below, query)
    }

    /// Spec: K7
    #[test]
    fn an_address_of_the_upstream_becomes_one_of_the_gateway_and_back() {
        for (announced, public, target) in [
            (
                "/messages?sessionId=x",
                "/old/messages?sessionId=x&mcpgate=",
                "/messages?sessionId=x",
            ),
            (
                "/messages/?session_id=x",
                "/old/messages/?session_id=x&mcpgate=",
                "/messages/?session_id=x",
            ),
            (
                "messages?sessionId=x",
                "/old/messages?sessionId=x&mcpgate=",
                "/messages?sessionId=x",
            ),
            ("?x", "/old/sse?x&mcpgate=", "/sse?x"),
            ("/sse/messages?x", "/old/messages?x&mcpgate=", "/sse/messages?x"),
            ("/sse/", "/old/sse/?mcpgate=", "/sse/"),
            ("/ssemessages", "/old/ssemessages?mcpgate=", "/ssemessages"),
            ("/messages", "/old/messages?mcpgate=", "/messages"),
            ("/messages?", "/old/messages?mcpgate=", "/messages"),
            ("/messages?a#b", "/old/messages?a&mcpgate=", "/messages?a"),
            ("/a/../b?q=a b", "/old/b?q=a%20b&mcpgate=", "/b?q=a%20b"),
            (
                "http://10.0.0.7:3001/messages?sessionId=x",
                "https://mcp.example.com/old/messages?sessionId=x&mcpgate=",
                "/messages?sessionId=x",
            ),
            ("HTTP://10.0.0.7:3001/m", "https://mcp.example.com/old/m?mcpgate=", "/m"),
            ("//10.0.0.7:3001/m", "https://mcp.example.com/old/m?mcpgate=", "/m"),
            (
                "https://mcp.example.com/m",
                "https://mcp.example.com/old/m?mcpgate=",
                "/m",
            ),
        ] {
            let given = rewritten(announced).unwrap();
            assert!(given.starts_with(public), "{announced}: {given}");
            assert_eq!(given.len(), public.len() + 43, "{announced}: {given}");
            assert_eq!(followed(ADA, &given), Address::Known(target.to_owned()), "{announced}");
        }
    }

    /// Spec: K7
    #[test]
    fn an_address_of_somebody_else_is_refused() {
        for evil in [
            "//evil.example/messages",
            "http://evil.example/messages",
            "https://10.0.0.7:3001/messages",
            "http://10.0.0.7/messages",
            "http://10.0.0.7:3002/messages",
            "http://10.0.0.7:3001@evil.example/messages",
            "http://10.0.0.7:3001:x@evil.example/messages",
            "http://user@10.0.0.7:3001/messages",
            "http://user:pass@10.0.0.7:3001/messages",
            "//10.0.0.7:3001@evil.example",
            "http://10.0.0.7:3001.evil.example/",
            "http://[::1]:3001/",
            "http://mcp.example.com/m",
            "https://mcp.example.com:8443/m",
            "javascript:alert(1)",
            "data:text/plain,x",
            "file:///etc/passwd",
            "ws://10.0.0.7:3001/messages",
            "blob:http://10.0.0.7:3001/x",
            " //evil.example",
        ] {
            assert!(rewritten(evil).is_err(), "{evil}");
        }
        for no in [
            "",
            " ",
            "///evil.example/messages",
            "\\\\evil.example/messages",
            "/\\evil.example/messages",
            "http:\\\\evil.example",
            "/messages\r\nX: y",
            "/a\tb",
            "http://",
            "http://[::1",
            "/\u{0}",
            &format!("/{}", "x".repeat(MAX_ADDRESS)),
        ] {
            assert_eq!(rewritten(no), Err(BadEndpoint::NoAddress), "{no}");
        }
        let not_text = rewrite(&sessions(), Some(ADA), "one", BETWEEN, b"/\xff");
        assert_eq!(not_text, Err(BadEndpoint::NoAddress));
    }

    /// Spec: K7
    #[test]
    fn an_address_is_short_where_it_can_be() {
        for (own, mount, announced, public) in [
            ("/mcp", "/old", "mcp/messages?x", "/old/messages?x&"),
            ("/mcp/", "/old", "messages?x", "/old/messages?x&"),
            ("/", "/old", "/messages?x", "/old/messages?x&"),
            ("/mcp", "", "/mcp/messages?x", "/messages?x&"),
            ("/mcp", "", "/mcp?x", "/mcp?x&"),
            ("/mcp", "", "/?x", "/?x&"),
        ] {
            let between = Between {
                own,
                mount,
                asked: own,
                ..BETWEEN
            };
            let given = rewrite(&sessions(), Some(ADA), "one", between, announced.as_bytes()).unwrap();
            assert!(given.starts_with(public), "{own} {announced}: {given}");
            let (path, query) = given.split_once('?').unwrap();
            let below = path.strip_prefix(mount).unwrap();
            let meant = Url::parse("http://x")
                .unwrap()
                .join(own)
                .unwrap()
                .join(announced)
                .unwrap();
            assert_eq!(
                read(&sessions(), Some(ADA), "one", own, below, Some(query)),
                Address::Known(meant[url::Position::BeforePath..].to_owned()),
                "{own} {announced}"
            );
        }
    }

    /// Spec: K7
    #[test]
    fn this_machine_has_several_names() {
        let here = Between {
            upstream: "http://127.0.0.1:3001",
            ..BETWEEN
        };
        let rewritten = |announced: &str| rewrite(&sessions(), Some(ADA), "one", here, announced.as_bytes());
        assert!(rewritten("http://localhost:3001/m").is_ok() && rewritten("http://[::1]:3001/m").is_ok());
        assert!(rewritten("http://localhost:3002/m").is_err() && rewritten("http://localhost.evil:3001/m").is_err());
    }

    /// Spec: K7, K10
    #[test]
    fn an_address_is_followed_as_it_was_given_and_by_whom_it_was_given_to() {
        let given = rewritten("/messages?sessionId=x").unwrap();
        for other in [
            Party { upstream: "two", ..ADA },
            Party { subject: "bob", ..ADA },
            Party { client: "phone", ..ADA },
        ] {
            assert_eq!(followed(other, &given), Address::Unknown, "{other:?}");
        }
        let (plain, tag) = given.split_once("&mcpgate=").unwrap();
        for turned in [
            plain.to_owned(),
            format!("{plain}&mcpgate="),
            format!("{plain}&mcpgate={}", &tag[1..]),
            format!("{plain}&mcpgate={tag}A"),
            format!("{plain}&mcpgate={tag}="),
            format!("{plain}&mcpgate={tag}&sessionId=y"),
            format!("{plain}&mcpgate={tag}&mcpgate={tag}"),
            format!("/old/messages?sessionId=y&mcpgate={tag}"),
            format!("/old/messages?sessionId=x&sessionId=y&mcpgate={tag}"),
            format!("/old/messages?sessionId=y&sessionId=x&mcpgate={tag}"),
            format!("/old/messages/?sessionId=x&mcpgate={tag}"),
            format!("/old/admin?sessionId=x&mcpgate={tag}"),
            format!("/old?sessionId=x&mcpgate={tag}"),
            format!("/old/messages?mcpgate={tag}&sessionId=x"),
            format!("/old/messages?mcpgate={tag}"),
            "/old/messages?session_id=x".to_owned(),
            format!("{plain};mcpgate={tag}"),
        ] {
            assert_eq!(followed(ADA, &turned), Address::Unknown, "{turned}");
        }
        for plain in ["/old", "/old/messages", "/old?", "/old?a=b", "/old?mcpgatex=1"] {
            assert_eq!(followed(ADA, plain), Address::Plain, "{plain}");
        }
    }

    /// Spec: K7
    #[test]
    fn an_address_leads_to_its_path_where_sessions_are_open_to_all_too() {
        let given = rewrite(&sessions(), None, "one", BETWEEN, b"/messages?sessionId=x").unwrap();
        let query = given.strip_prefix("/old/messages?").unwrap();
        let read = |name, below, query| read(&sessions(), None, name, "/sse", below, Some(query));
        assert_eq!(
            read("one", "/messages", query),
            Address::Known("/messages?sessionId=x".to_owned())
        );
        assert_eq!(read("one", "/admin", query), Address::Unknown);
        assert_eq!(read("two", "/messages", query), Address::Unknown);
        assert_eq!(
            read("one", "/messages", "sessionId=x"),
            Address::Plain,
            "as the upstream will have it"
        );
        let nobody = Party {
            upstream: "one",
            subject: "",
            client: "",
        };
        assert_eq!(
            super::read(&sessions(), Some(nobody), "one", "/sse", "/messages", Some(query)),
            Address::Unknown,
            "a tag of the one kind is none of the other"
        );
    }

    fn opened(pieces: &[&[u8]]) -> (Vec<u8>, Option<Opened>) {
        let mut opening = Opening::new();
        let mut passed = Vec::new();
        for piece in pieces {
            match opening.push(Bytes::copy_from_slice(piece)) {
                Opened::NotYet(bytes) => passed.extend_from_slice(&bytes),
                done => return (passed, Some(done)),
            }
        }
        passed.extend_from_slice(&opening.finish());
        (passed, None)
    }

    /// Spec: K7
    #[test]
    fn the_first_event_decides() {
        let stream = b": hi\n\nretry: 5\n\nevent: endpoint\ndata: /m\n\ndata: 1\n\n";
        let (passed, done) = opened(&[stream]);
        let Some(Opened::Endpoint { before, event, after }) = done else {
            panic!("{done:?}")
        };
        assert_eq!(
            (passed, &before[..], &after[..]),
            (vec![], &b": hi\n\nretry: 5\n\n"[..], &b"data: 1\n\n"[..])
        );
        assert_eq!(event.data().as_deref(), Some(&b"/m"[..]));
        assert_eq!(event.with_data(b"/old/m"), &b"event: endpoint\ndata: /old/m\n\n"[..]);

        let later = b"data: 1\n\nevent: endpoint\ndata: /m\n\n";
        assert_eq!(
            opened(&[later]),
            (vec![], Some(Opened::Never(Bytes::from_static(later))))
        );
        assert_eq!(
            opened(&[b": hi\n\nda", b"ta: 1\n"]),
            (b": hi\n\ndata: 1\n".to_vec(), None)
        );
        assert_eq!(
            opened(&[b": hi\n\nev", b"ent: endpoint\nda"]),
            (b": hi\n\n".to_vec(), None),
            "half an address is none"
        );
    }

    /// Spec: K7
    #[test]
    fn a_first_event_without_an_end_is_held_for_so_long() {
        let long = [b"data: ".to_vec(), vec![b'x'; MAX_EVENT]].concat();
        assert_eq!(opened(&[&long]).1, Some(Opened::Never(long.into())));
        for begin in [&b"event: endpoint\ndata: "[..], b"data: x\nevent: endpoint\ndata: "] {
            let endpoint = [begin, &vec![b'x'; MAX_EVENT]].concat();
            assert_eq!(opened(&[&endpoint]).1, Some(Opened::TooLong));
            let pieces: Vec<&[u8]> = endpoint.chunks(100).collect();
            assert_eq!(opened(&pieces).1, Some(Opened::TooLong));
        }
    }

    proptest! {
        /// Spec: K7
        #[test]
        fn whatever_is_announced_stays_below_the_mount(announced in "(http:|https:|)[/\\\\]{0,3}[a-z0-9.:@/?#%&=\\[\\]\\\\ -]{0,40}") {
            if let Ok(given) = rewritten(&announced) {
                let public = Url::parse("https://mcp.example.com/old").unwrap();
                let seen = public.join(&given).unwrap();
                prop_assert_eq!(seen.origin(), public.origin());
                prop_assert!(seen.path().starts_with("/old/"), "{}", given);
                prop_assert!(matches!(followed(ADA, &given), Address::Known(_)), "{}", given);
                // A client that reads and writes addresses by the standard sends it as it is.
                prop_assert_eq!(seen.as_str().strip_prefix("https://mcp.example.com").unwrap(),
                    given.strip_prefix("https://mcp.example.com").unwrap_or(&given));
            }
        }

        /// Spec: K7
        #[test]
        fn any_split_finds_the_same(cuts in proptest::collection::vec(0_usize..60, 0..8), end in "(\n|\r\n|\r)") {
            let stream = format!(": a{end}{end}event: endpoint{end}data: /m?s=x{end}{end}data: 1{end}{end}").into_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= stream.len()).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            let (passed, done) = opened(&pieces);
            let Some(Opened::Endpoint { before, event, after }) = done else {
                return Err(TestCaseError::fail("not found"));
            };
            let data = event.data();
            prop_assert_eq!(data.as_deref(), Some(&b"/m?s=x"[..]));
            let seen = [&passed[..], &before, event.raw(), &after].concat();
            prop_assert!(stream.starts_with(&seen));
        }
    }
}
