//! Whose session is whose, without a table: the id that a client sees is the upstream's own and a tag that only the gateway
//! can make, for one upstream, person and client.
//!
//! ```text
//! Mcp-Session-Id: 1868a90c-7e2f….BB3mH0…      what the client sees and sends back
//!                 └─────┬──────┘ └──┬──┘
//!           the upstream's id       base64url of HMAC-SHA256(key; kind, upstream, subject, client, id)
//! ```
//! An id that somebody else presents, or that nobody was given, is like one that has ended: 404, and the client begins anew.
//! The upstream never hears of it. The key is in the store, so a tag outlives the process, and is good at every replica.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::percent_decode_str;
use sha2::Sha256;

/// Longest id of an upstream: servers may keep all that they know of a session in it.
pub const MAX_ID: usize = 4 << 10;
/// Between an id and its tag.
const SEPARATOR: u8 = b'.';
/// Length of a tag.
const TAG: usize = 43;
/// The block of SHA-256, up to which HMAC fills its key with zeros (RFC 2104 §2).
const BLOCK: usize = 64;
/// How often a name may be percent-encoded over and over.
const LAYERS: usize = 3;

/// Makes and verifies tags.
#[derive(Clone)]
pub struct Sessions {
    mac: Hmac<Sha256>,
}

/// To whom something is given: one person with one client at one upstream. A client that acts for itself is its own person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party<'a> {
    /// The upstream's name.
    pub upstream: &'a str,
    /// For whom the token speaks.
    pub subject: &'a str,
    /// Who holds it.
    pub client: &'a str,
}

/// What a tag is for, so that none can be used for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The id of a session.
    Session,
    /// Where the messages of a legacy stream go.
    Endpoint,
    /// The same where sessions are not bound to anybody.
    OpenEndpoint,
}

// === impl Sessions ===

impl Sessions {
    /// With a key of the store.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        let mut block = [0; BLOCK];
        for (to, from) in block.iter_mut().zip(key) {
            *to = *from;
        }
        Self {
            mac: Hmac::new(&block.into()),
        }
    }

    /// What a client gets to see of an upstream's session id; `None` for one that is too long, or none at all.
    #[must_use]
    pub fn bind(&self, party: Party<'_>, id: &[u8]) -> Option<Vec<u8>> {
        if id.is_empty() || id.len() > MAX_ID {
            return None;
        }
        let tag = self.tag(Kind::Session, party, &[id]);
        Some([id, &[SEPARATOR], tag.as_bytes()].concat())
    }

    /// The upstream's id in what a client presents; `None` if it was not given to this party.
    #[must_use]
    pub fn unbind<'v>(&self, party: Party<'_>, presented: &'v [u8]) -> Option<&'v [u8]> {
        let at = presented.len().checked_sub(TAG + 1)?;
        let (id, tag) = presented.split_at_checked(at)?;
        let tag = tag.strip_prefix(&[SEPARATOR])?;
        let fine = !id.is_empty() && id.len() <= MAX_ID && self.verifies(Kind::Session, party, &[id], tag);
        fine.then_some(id)
    }

    /// The tag of these words.
    pub(super) fn tag(&self, kind: Kind, party: Party<'_>, words: &[&[u8]]) -> String {
        URL_SAFE_NO_PAD.encode(self.over(kind, party, words).finalize().into_bytes())
    }

    /// Whether this is their tag; how long that takes says nothing about the right one.
    pub(super) fn verifies(&self, kind: Kind, party: Party<'_>, words: &[&[u8]], tag: &[u8]) -> bool {
        let mut bytes = [0; 32];
        tag.len() == TAG
            && URL_SAFE_NO_PAD.decode_slice(tag, &mut bytes) == Ok(bytes.len())
            && self.over(kind, party, words).verify_slice(&bytes).is_ok()
    }

    /// Each word with its length in front, so that no two lists of words look alike.
    fn over(&self, kind: Kind, party: Party<'_>, words: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        let party = [kind.label(), party.upstream, party.subject, party.client].map(str::as_bytes);
        for word in party.iter().chain(words) {
            mac.update(&u64::try_from(word.len()).unwrap_or(u64::MAX).to_be_bytes());
            mac.update(word);
        }
        mac
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions(…)")
    }
}

// === impl Kind ===

impl Kind {
    const fn label(self) -> &'static str {
        match self {
            Self::Session => "mcpgate session 1",
            Self::Endpoint => "mcpgate endpoint 1",
            Self::OpenEndpoint => "mcpgate open endpoint 1",
        }
    }
}

/// Whether a query names a session, as the legacy transport does: `sessionId`, `session_id`, and what servers take for them.
/// Some read `sessionId[]=x` and `[sessionId]=x` as lists or maps that work like the plain word, some part pairs at `;`,
/// some do not mind the case.
#[must_use]
pub fn names_a_session(query: &str) -> bool {
    query.split(['&', ';']).any(|pair| {
        let mut name = pair.split('=').next().unwrap_or_default().to_owned();
        for _ in 0..LAYERS {
            let decoded = percent_decode_str(&name).decode_utf8_lossy().into_owned();
            if decoded == name {
                break;
            }
            name = decoded;
        }
        let letters = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        let name = letters(&name).to_ascii_lowercase();
        name.starts_with("sessionid") || name.starts_with("mcpsessionid")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ADA: Party<'_> = Party {
        upstream: "one",
        subject: "ada",
        client: "desktop",
    };

    fn sessions() -> Sessions {
        Sessions::new(&[7; 32])
    }

    /// Spec: K10, K12
    #[test]
    fn an_id_is_good_for_its_own_party_alone() {
        let bound = sessions().bind(ADA, b"1868a90c").unwrap();
        assert!(bound.starts_with(b"1868a90c.") && bound.len() == 8 + 1 + TAG);
        assert_eq!(sessions().unbind(ADA, &bound), Some(&b"1868a90c"[..]));
        for other in [
            Party { upstream: "two", ..ADA },
            Party { subject: "bob", ..ADA },
            Party { client: "phone", ..ADA },
            // The same letters, parted elsewhere.
            Party {
                subject: "adad",
                client: "esktop",
                ..ADA
            },
            Party {
                upstream: "onea",
                subject: "da",
                ..ADA
            },
            Party {
                subject: "client:desktop",
                ..ADA
            },
        ] {
            assert_eq!(sessions().unbind(other, &bound), None, "{other:?}");
        }
        assert_eq!(Sessions::new(&[8; 32]).unbind(ADA, &bound), None, "another store");
        assert_eq!(sessions().unbind(ADA, b"1868a90c"), None, "as the upstream gave it out");
    }

    /// Spec: K10, L21
    #[test]
    fn a_tag_is_taken_as_it_was_made_and_not_otherwise() {
        let bound = sessions().bind(ADA, b"id").unwrap();
        let other = sessions().bind(ADA, b"di").unwrap();
        let swapped = [&b"id"[..], &other[2..]].concat();
        let doubled = [&bound[..], &bound[2..]].concat();
        let endpoint = format!("id.{}", sessions().tag(Kind::Endpoint, ADA, &[b"id"]));
        let upper = [&b"ID"[..], &bound[2..]].concat();
        let padded = [&bound[..], b"="].concat();
        for bad in [
            &b""[..],
            b".",
            &bound[..bound.len() - 1],
            &bound[1..],
            &bound[2..],
            &swapped,
            &doubled,
            endpoint.as_bytes(),
            &upper,
            &padded,
            &[&bound[..], b"A"].concat(),
            &[&bound[..], b" "].concat(),
            &[&b"x"[..], &bound].concat(),
        ] {
            assert_eq!(sessions().unbind(ADA, bad), None, "{}", String::from_utf8_lossy(bad));
        }
        for at in 0..bound.len() {
            for bit in 0..8 {
                let mut turned = bound.clone();
                turned[at] ^= 1 << bit;
                assert_eq!(sessions().unbind(ADA, &turned), None, "byte {at}, bit {bit}");
            }
        }
    }

    /// Spec: K10
    #[test]
    fn ids_of_every_kind_pass_but_only_so_long() {
        for id in [
            &b"a"[..],
            b"a.b",
            b".",
            b"a b",
            b"\xff\xfe",
            b"eyJ.eyJ.sig",
            &[b'x'; MAX_ID],
        ] {
            let bound = sessions().bind(ADA, id).unwrap();
            assert_eq!(sessions().unbind(ADA, &bound), Some(id));
        }
        assert_eq!(sessions().bind(ADA, b""), None);
        assert_eq!(sessions().bind(ADA, &[b'x'; MAX_ID + 1]), None);
    }

    /// Spec: K10
    #[test]
    fn a_session_in_a_query_is_seen_however_it_is_spelt() {
        for query in [
            "sessionId=x",
            "session_id=x",
            "a=b&sessionId=x",
            "a=b;session_id=x",
            "SESSIONID=x",
            "session%49d=x",
            "session%2549d=x",
            "session-id",
            "sessionId[]=x",
            "sessionId%5B0%5D=x",
            "[sessionId]=x",
            "session+id=x",
            "session.id=x",
            "mcp-session-id=x",
            "%00sessionId=x",
        ] {
            assert!(names_a_session(query), "{query}");
        }
        for query in [
            "",
            "session=x",
            "id=x",
            "q=sessionId",
            "q=a%26sessionId%3Dx",
            "mysessionId=x",
        ] {
            assert!(!names_a_session(query), "{query}");
        }
    }

    #[test]
    fn nothing_of_the_key_is_printed() {
        assert_eq!(format!("{:?}", sessions()), "Sessions(…)");
    }

    proptest! {
        /// Spec: K10
        #[test]
        fn ids_verify_for_their_own_party_alone(
            id in proptest::collection::vec(any::<u8>(), 1..80),
            own in ("[ab.:]{0,3}", "[ab.:]{0,3}", "[ab.:]{0,3}"),
            other in ("[ab.:]{0,3}", "[ab.:]{0,3}", "[ab.:]{0,3}"),
        ) {
            let party = |(upstream, subject, client): &(String, String, String)| -> (String, String, String) {
                (upstream.clone(), subject.clone(), client.clone())
            };
            let (own, other) = (party(&own), party(&other));
            let of = |words: &'_ (String, String, String)| -> Option<Vec<u8>> {
                let (upstream, subject, client) = words;
                sessions().bind(Party { upstream, subject, client }, &id)
            };
            let bound = of(&own).unwrap();
            let (upstream, subject, client) = &other;
            let read = sessions().unbind(Party { upstream, subject, client }, &bound).map(<[u8]>::to_vec);
            prop_assert_eq!(read.is_some(), own == other);
            if let Some(read) = read {
                prop_assert_eq!(read, id);
            }
        }

        #[test]
        fn nothing_that_was_not_given_out_is_taken(presented in proptest::collection::vec(any::<u8>(), 0..120)) {
            prop_assert_eq!(sessions().unbind(ADA, &presented), None);
        }
    }
}
