//! Where a request comes from, as far as proxies in front may say it.
//!
//! `X-Forwarded-For` grows to the right: whoever forwards a request adds the address that it came from. So the chain is
//! believed from its end, as long as the one who says it is one of ours; the first address that is not is the client's, and
//! what stands before it anybody could have written. `X-Forwarded-Proto` and `-Host` are taken from the same hop.
//! RFC 7239 `Forwarded` is not read: two headers that say the same are two that can disagree.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::domain::network::Networks;

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Most proxies in a row. A longer chain of nothing but ours is no chain that anybody built.
const MAX_HOPS: usize = 16;
/// Longest address in a chain: an IPv6 one in brackets, with a port.
const MAX_ADDRESS: usize = 54;

/// Where a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The client, by everything that can be believed.
    pub(super) client: IpAddr,
    /// The proxies between the client and the other end of the connection, in the order of the way.
    between: Vec<IpAddr>,
    /// The other end of the connection.
    peer: IpAddr,
    /// The host that the client asked for, if a proxy of ours says it.
    pub(super) host: Option<HeaderValue>,
    /// The scheme that it used, likewise.
    pub(super) scheme: Option<Scheme>,
}

/// What a client spoke to the outermost proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// As it is in a URL.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Source {
    /// The source of a request that came in on a connection from `peer`.
    pub(super) fn of(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> Self {
        let peer = peer.to_canonical();
        let direct = Self {
            client: peer,
            between: Vec::new(),
            peer,
            host: None,
            scheme: None,
        };
        if trusted.is_empty() || !trusted.contain(peer) {
            return direct;
        }
        let (client, between) = match believed(headers, trusted) {
            Some(mut chain) => (chain.pop().unwrap_or(peer), chain),
            None => (peer, Vec::new()),
        };
        // The hop that named the client: without a chain, the peer itself.
        let hops = between.len();
        Self {
            client,
            host: said(headers, &FORWARDED_HOST, hops).and_then(host),
            scheme: said(headers, &FORWARDED_PROTO, hops).and_then(scheme),
            between: between.into_iter().rev().collect(),
            ..direct
        }
    }

    /// Host and scheme, as far as a proxy of ours says them.
    pub(super) fn said(&self) -> (Option<&HeaderValue>, Option<&'static str>) {
        (self.host.as_ref(), self.scheme.map(Scheme::as_str))
    }

    /// The chain for the upstream: the client and the proxies that were believed about it, and nothing before.
    pub(super) fn forwarded_for(&self) -> String {
        let mut chain = self.client.to_string();
        if self.client == self.peer && self.between.is_empty() {
            return chain;
        }
        for hop in self.between.iter().chain([&self.peer]) {
            chain.push_str(", ");
            chain.push_str(&hop.to_string());
        }
        chain
    }
}

/// The believed part of the chain from its end: proxies of ours, then the client. `None` if there is nothing to believe: no
/// chain, one that does not read, or one that does not end.
fn believed(headers: &HeaderMap, trusted: &Networks) -> Option<Vec<IpAddr>> {
    let mut chain = Vec::new();
    for entry in from_the_end(headers, &FORWARDED_FOR) {
        if chain.len() == MAX_HOPS {
            return None;
        }
        let address = address(entry?)?;
        chain.push(address);
        if !trusted.contain(address) {
            break;
        }
    }
    Some(chain).filter(|chain| !chain.is_empty())
}

/// What a header says about the hop that is so many before the last one, or about the outermost if it says less.
fn said<'h>(headers: &'h HeaderMap, name: &HeaderName, hops: usize) -> Option<&'h str> {
    let mut found = None;
    for entry in from_the_end(headers, name).take(hops + 1) {
        found = Some(entry?);
    }
    found
}

/// The items of a list header from its end; `None` for a line that is not visible ASCII.
fn from_the_end<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = Option<&'h str>> {
    headers.get_all(name).iter().rev().flat_map(|line| {
        let text = line.to_str().ok();
        let items = text
            .into_iter()
            .flat_map(|text| text.rsplit(',').map(|item| Some(item.trim_matches([' ', '\t']))));
        items.chain(text.is_none().then_some(None))
    })
}

/// An address, with or without a port: some balancers write one.
fn address(entry: &str) -> Option<IpAddr> {
    if entry.len() > MAX_ADDRESS {
        return None;
    }
    let bare = || entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let found = entry
        .parse::<IpAddr>()
        .ok()
        .or_else(|| entry.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| bare()?.parse().ok().map(IpAddr::V6))?;
    Some(found.to_canonical())
}

fn host(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok().filter(|host| !host.is_empty())
}

fn scheme(text: &str) -> Option<Scheme> {
    [("https", Scheme::Https), ("http", Scheme::Http)]
        .into_iter()
        .find_map(|(name, scheme)| text.eq_ignore_ascii_case(name).then_some(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trusted() -> Networks {
        ["10.0.0.0/8", "2001:db8::/32"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect()
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn client(peer: &str, chain: &[&str]) -> (String, String) {
        let lines: Vec<_> = chain.iter().map(|line| ("x-forwarded-for", *line)).collect();
        let headers = headers(&lines);
        let source = Source::of(peer.parse().unwrap(), &headers, &trusted());
        (source.client.to_string(), source.forwarded_for())
    }

    fn is(client: &str, chain: &str) -> (String, String) {
        (client.to_owned(), chain.to_owned())
    }

    /// Spec: K19
    #[test]
    fn the_client_is_the_last_address_that_nobody_of_ours_has() {
        for (peer, chain, expected) in [
            // Nobody of ours: not a word counts.
            ("192.0.2.1", vec!["203.0.113.9"], is("192.0.2.1", "192.0.2.1")),
            ("192.0.2.1", vec![], is("192.0.2.1", "192.0.2.1")),
            // One proxy of ours.
            (
                "10.0.0.1",
                vec!["203.0.113.9"],
                is("203.0.113.9", "203.0.113.9, 10.0.0.1"),
            ),
            (
                "::ffff:10.0.0.1",
                vec!["203.0.113.9"],
                is("203.0.113.9", "203.0.113.9, 10.0.0.1"),
            ),
            // What the client wrote itself goes nowhere.
            (
                "10.0.0.1",
                vec!["127.0.0.1, 203.0.113.9"],
                is("203.0.113.9", "203.0.113.9, 10.0.0.1"),
            ),
            (
                "10.0.0.1",
                vec!["10.9.9.9, 203.0.113.9"],
                is("203.0.113.9", "203.0.113.9, 10.0.0.1"),
            ),
            // Two of ours, in one line or two.
            (
                "10.0.0.1",
                vec!["6.6.6.6, 203.0.113.9, 10.0.0.2"],
                is("203.0.113.9", "203.0.113.9, 10.0.0.2, 10.0.0.1"),
            ),
            (
                "10.0.0.1",
                vec!["6.6.6.6, 203.0.113.9", "10.0.0.2"],
                is("203.0.113.9", "203.0.113.9, 10.0.0.2, 10.0.0.1"),
            ),
            // Ports, brackets, the other family.
            (
                "10.0.0.1",
                vec!["203.0.113.9:5432"],
                is("203.0.113.9", "203.0.113.9, 10.0.0.1"),
            ),
            (
                "10.0.0.1",
                vec!["[2001:db9::1]:5432,\t[2001:db8::1]"],
                is("2001:db9::1", "2001:db9::1, 2001:db8::1, 10.0.0.1"),
            ),
            (
                "2001:db8::1",
                vec!["2001:db9::1"],
                is("2001:db9::1", "2001:db9::1, 2001:db8::1"),
            ),
            // Somebody inside: the outermost that is said.
            (
                "10.0.0.1",
                vec!["10.0.0.3, 10.0.0.2"],
                is("10.0.0.3", "10.0.0.3, 10.0.0.2, 10.0.0.1"),
            ),
        ] {
            assert_eq!(client(peer, &chain), expected, "{peer} {chain:?}");
        }
    }

    /// Spec: K19
    #[test]
    fn what_does_not_read_leaves_the_peer() {
        let long = format!("203.0.113.9{}", " ".repeat(60));
        let many = vec!["10.0.0.2"; 10_000].join(", ");
        for garbage in [
            "",
            ",",
            "unknown",
            "_hidden",
            "203.0.113.9,",
            "203.0.113",
            "203.0.113.9:",
            "203.0.113.9:x",
            "[203.0.113.9]",
            "[::1",
            "fe80::1%eth0",
            "203.0.113.9 10.0.0.2",
            "\"203.0.113.9\"",
            "for=203.0.113.9",
            "é",
            &many,
            "0x7f.1",
            "0177.0.0.1",
        ] {
            assert_eq!(client("10.0.0.1", &[garbage]), is("10.0.0.1", "10.0.0.1"), "{garbage}");
        }
        // Spaces around an address are not part of it, and an endless beginning is not looked at.
        assert_eq!(client("10.0.0.1", &[&long]).0, "203.0.113.9");
        let spoofed = format!("{}, 203.0.113.9", vec!["127.0.0.1"; 10_000].join(", "));
        assert_eq!(
            client("10.0.0.1", &[&spoofed]),
            is("203.0.113.9", "203.0.113.9, 10.0.0.1")
        );
    }

    /// Spec: K19
    #[test]
    fn host_and_scheme_are_those_of_the_hop_that_saw_the_client() {
        for (chain, hosts, schemes, host, scheme) in [
            (
                "203.0.113.9",
                "a.example",
                "https",
                Some("a.example"),
                Some(Scheme::Https),
            ),
            (
                "203.0.113.9",
                "evil.example, a.example",
                "http, HTTPS",
                Some("a.example"),
                Some(Scheme::Https),
            ),
            (
                "203.0.113.9, 10.0.0.2",
                "evil.example, a.example, b.internal",
                "x, https, http",
                Some("a.example"),
                Some(Scheme::Https),
            ),
            // The outer proxy said it, the inner one passed it on.
            (
                "203.0.113.9, 10.0.0.2",
                "a.example",
                "https",
                Some("a.example"),
                Some(Scheme::Https),
            ),
            ("unknown", "a.example", "wss", Some("a.example"), None),
            ("203.0.113.9", "", "", None, None),
        ] {
            let headers = headers(&[
                ("x-forwarded-for", chain),
                ("x-forwarded-host", hosts),
                ("x-forwarded-proto", schemes),
            ]);
            let source = Source::of("10.0.0.1".parse().unwrap(), &headers, &trusted());
            let found = source.host.as_ref().map(|host| host.to_str().unwrap());
            assert_eq!((found, source.scheme), (host, scheme), "{chain} {hosts} {schemes}");
            let stranger = Source::of("192.0.2.1".parse().unwrap(), &headers, &trusted());
            assert_eq!((stranger.host, stranger.scheme), (None, None));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_client_writes_changes_what_a_proxy_says(
            written in "[ -~]{0,80}",
            lines in prop::collection::vec("[0-9a-f.:, ]{0,40}", 0..4),
            client: IpAddr,
        ) {
            let trusted = trusted();
            let said = format!("{written}, {client}");
            let mut all: Vec<(&'static str, &str)> = lines.iter().map(|line| ("x-forwarded-for", line.as_str())).collect();
            all.push(("x-forwarded-for", &said));
            let headers = headers(&all);
            let source = Source::of("10.0.0.1".parse().unwrap(), &headers, &trusted);
            let client = client.to_canonical();
            if !trusted.contain(client) {
                prop_assert_eq!(source.client, client);
                prop_assert_eq!(source.forwarded_for(), format!("{client}, 10.0.0.1"));
            }
            prop_assert!(source.forwarded_for().len() < 50 * (MAX_HOPS + 2));
        }

        #[test]
        fn a_stranger_is_itself(peer: IpAddr, chain in "[ -~]{0,80}") {
            let trusted = trusted();
            let headers = headers(&[("x-forwarded-for", &chain), ("x-forwarded-host", &chain), ("x-forwarded-proto", "https")]);
            let source = Source::of(peer, &headers, &trusted);
            if !trusted.contain(peer) {
                prop_assert_eq!(source.client, peer.to_canonical());
                prop_assert_eq!((source.host, source.scheme), (None, None));
            }
        }
    }
}
