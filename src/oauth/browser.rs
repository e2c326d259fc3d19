//! Which browser began an authorization, and whether a form that comes back is one that we gave to it.
//!
//! The cookie `oidc_login_prompt` holds a random secret and our signature. An unfinished authorization is tied to its
//! hash, so the address of a sign-in or consent page is worth nothing in another browser. Form tokens are computed from
//! the same secret and never stored.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, header};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::{Call, Endpoints, cookie};
use crate::domain::rate::network;
use crate::domain::secret::{Secret, SecretHash, SecretKind};

/// The cookie's name; clients of Better Auth's plugin know it.
const COOKIE: &str = "oidc_login_prompt";
/// How long an unfinished authorization and its cookie live, in seconds.
pub(super) const LIFETIME: u64 = 600;

/// What a form is for: a token for one purpose is worth nothing for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Username and password.
    SignIn,
    /// Approve or deny.
    Consent,
    /// Sign out.
    SignOut,
    /// Type the code of a device.
    Device,
    /// Go to an identity provider.
    Elsewhere,
    /// Change something on the page of one's account.
    Account,
    /// Choose a password.
    Password,
    /// Show a second factor, or change it.
    Second,
    /// Stand for a session on that page.
    SessionName,
}

/// A browser that began an authorization.
pub(super) struct Browser(Secret);

// === impl Browser ===

impl Browser {
    /// The browser that a request comes from, if its cookie bears our signature.
    pub(super) fn of(at: &Endpoints, call: &Call<'_>) -> Option<Self> {
        cookie::values(call.request, COOKIE).find_map(|value| {
            let (secret, signature) = value.rsplit_once('.')?;
            let genuine = equal(signature, &sign(at, &[COOKIE.as_bytes(), secret.as_bytes()]));
            Secret::parse(SecretKind::Browser, secret).filter(|_| genuine).map(Self)
        })
    }

    /// The same, or a new one. A known browser keeps its secret, so that authorizations in two tabs do not end each other.
    pub(super) fn of_or_new(at: &Endpoints, call: &Call<'_>) -> Self {
        Self::of(at, call).unwrap_or_else(|| Self(Secret::generate(SecretKind::Browser)))
    }

    /// What authorizations are tied to.
    pub(super) fn hash(&self) -> SecretHash {
        self.0.hash()
    }

    /// Gives the browser its cookie, for ten minutes from now.
    pub(super) fn remember(&self, at: &Endpoints, headers: &mut HeaderMap) {
        let secret = self.0.expose();
        let value = format!("{secret}.{}", sign(at, &[COOKIE.as_bytes(), secret.as_bytes()]));
        cookie::set(at, headers, COOKIE, &value, LIFETIME);
    }

    /// The token of a form that is given to this browser, apart from any authorization.
    pub(super) fn page_token(&self, at: &Endpoints, purpose: Purpose) -> String {
        sign(at, &[purpose.name(), self.hash().as_bytes()])
    }

    /// The token of a form that is given to this browser for one authorization, and to one session if there is one: a
    /// consent page that was shown to one person cannot be sent off by the next.
    pub(super) fn form_token(
        &self,
        at: &Endpoints,
        purpose: Purpose,
        authorization: &SecretHash,
        session: Option<&SecretHash>,
    ) -> String {
        let session = session.map_or(&[][..], |hash| hash.as_bytes());
        let browser = self.hash();
        sign(
            at,
            &[purpose.name(), browser.as_bytes(), authorization.as_bytes(), session],
        )
    }
}

/// The token of a form that is given to a session, apart from any authorization.
pub(super) fn session_token(at: &Endpoints, purpose: Purpose, session: &SecretHash) -> String {
    sign(at, &[purpose.name(), session.as_bytes()])
}

/// Forgets the browser.
pub(super) fn forget(at: &Endpoints, headers: &mut HeaderMap) {
    cookie::clear(at, headers, COOKIE);
}

/// Whether two tokens are the same, in constant time.
pub(super) fn equal(presented: &str, expected: &str) -> bool {
    presented.as_bytes().ct_eq(expected.as_bytes()).into()
}

/// Whether a form can come from a page of ours, as far as the browser says: the second layer behind the form token.
/// `Origin: null` is what our own pages send, since they forbid the referrer.
pub(super) fn is_own_form(at: &Endpoints, headers: &HeaderMap) -> bool {
    let all = |name| headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
    let own = at.config.public_url.origin.as_bytes();
    all(header::ORIGIN).all(|origin| origin == b"null" || origin == own)
        && all(header::HeaderName::from_static("sec-fetch-site")).all(|site| site == b"same-origin" || site == b"none")
}

/// What an address is called in records: nobody can tell from it which address it was.
pub(super) fn source(at: &Endpoints, call: &Call<'_>) -> SecretHash {
    let network = network(call.address).to_string();
    SecretHash::of(&sign(at, &[b"address", network.as_bytes()]))
}

/// HMAC-SHA256 over the parts; each with its length in front, so that no two lists of parts look alike.
pub(super) fn sign(at: &Endpoints, parts: &[&[u8]]) -> String {
    // HMAC takes keys of every length. If it did not, a signature that nobody can foresee fails closed.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&at.signing_key) else {
        return URL_SAFE_NO_PAD.encode(crate::domain::secret::random_bytes::<32>());
    };
    for part in parts {
        mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        mac.update(part);
    }
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

// === impl Purpose ===

impl Purpose {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::SignIn => b"sign in",
            Self::Consent => b"consent",
            Self::SignOut => b"sign out",
            Self::Device => b"device",
            Self::Elsewhere => b"elsewhere",
            Self::Account => b"account",
            Self::Password => b"password",
            Self::Second => b"second factor",
            Self::SessionName => b"session name",
        }
    }
}
