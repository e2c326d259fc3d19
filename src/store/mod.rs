//! Floor 1: what is kept, as a trait whose methods are OAuth events.
//!
//! Each method is atomic by itself; there is no get-and-put and no transaction object, so that a rule about races is
//! written once, in the backend. A method that changes something returns when the change would survive the process being
//! killed. Tokens, codes, session ids and secrets arrive as [`SecretHash`]: the store never sees one in clear.
//!
//! Records carry their own expiry. A lookup may return an expired record: whether it still counts is decided above, with
//! the caller's clock. Expired records are removed by [`Store::sweep`].

mod factors;
mod people;
mod requests;
pub mod sled;

pub use factors::{Added, SecondFactors};
pub use people::{Addition, Admitted, Chosen, Listed, MAX_PEOPLE, People};
pub use requests::{
    Answered, Decided, Keys, MAX_DEVICES, MAX_PUSHED_REQUESTS, MAX_USED_ONCE, Once, Poll, Room, Waiting,
};

use async_trait::async_trait;

use crate::domain::client::{Client, ClientId};
use crate::domain::clock::Timestamp;
use crate::domain::grant::{
    AccessToken, AuthorizationCode, AuthorizationRequest, ConsentKey, Grant, GrantId, LiveToken, RefreshToken, Session,
    Succession,
};
use crate::domain::scope::Scope;
use crate::domain::secret::SecretHash;

/// Most clients that may have registered themselves.
pub const MAX_REGISTERED_CLIENTS: usize = 10_000;
/// Most unfinished authorizations.
pub const MAX_AUTHORIZATIONS: usize = 10_000;
/// Most unfinished authorizations of one browser.
pub const MAX_AUTHORIZATIONS_OF_BROWSER: usize = 20;
/// Most unfinished authorizations from one address: an office has one.
pub const MAX_AUTHORIZATIONS_OF_ADDRESS: usize = 500;
/// Most browsers in which one person is signed in.
pub const MAX_SESSIONS: usize = 20;
/// Most grants that one person has with one client for one resource: one for each place where they use it.
pub const MAX_GRANTS: usize = 100;
/// Most refreshes of one grant whose tokens are kept: more than an hourly client does before they expire.
pub const MAX_REFRESHES: u32 = 256;
/// Wrong attempts after which a code is worth nothing.
pub const MAX_CODE_ATTEMPTS: u8 = 5;

/// Why the store could not do what it was asked. Callers answer 503 and let nothing through.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The backend failed.
    #[error("the store failed: {operation}")]
    Backend {
        /// What it was doing.
        operation: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record cannot be read.
    #[error("a {kind} record cannot be read: {detail}")]
    Corrupt {
        /// Which kind.
        kind: &'static str,
        /// What is wrong with it; no content.
        detail: String,
    },
    /// Another process has it open.
    #[error("{path} is in use by another mcpgate process; stop that one first, or give each its own store.sled.path")]
    Locked {
        /// The directory.
        path: String,
    },
    /// It was written by a version that this one does not know.
    #[error("{path} has store format {found}, and this version reads format {known}; use the version that wrote it")]
    Format {
        /// The directory.
        path: String,
        /// The format found.
        found: u32,
        /// The format that we know.
        known: u32,
    },
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// It is on record. If the store was full, an idle client made room: one that never had a grant before any other, the
    /// longest-registered first.
    Done,
    /// The store is full of clients with live grants or something unfinished: nobody is evicted for a newcomer.
    Full,
}

/// What became of an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// The code is on record and the authorization request is gone.
    Done,
    /// The authorization request was gone already: approved, denied or evicted.
    Gone,
}

/// The tokens of one answer, to be put on record together.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The family.
    pub grant_id: GrantId,
    /// The access token.
    pub access: (SecretHash, AccessToken),
    /// The refresh token, if there is one.
    pub refresh: Option<(SecretHash, RefreshToken)>,
}

/// What became of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redemption {
    /// It is marked as used, and the grant and its tokens are on record.
    Done,
    /// It became this grant earlier.
    AlreadyUsed(GrantId),
    /// There is none, or too many wrong attempts were made with it.
    Unknown,
}

/// What became of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The old token is marked as rotated and its successors are on record.
    Done,
    /// It was rotated before, in this way.
    AlreadyRotated(Succession),
    /// There is none, or its grant is gone.
    Unknown,
}

/// Everything that the gateway remembers.
#[async_trait]
pub trait Store: Keys + Waiting + People + SecondFactors + Send + Sync + 'static {
    // --- clients

    /// Puts a client that registered itself on record; see [`Registration`] for the cap of [`MAX_REGISTERED_CLIENTS`].
    async fn register_client(&self, client: &Client) -> Result<Registration, StoreError>;
    /// Puts a changed registration in the place of the client's own, and forgets the consents for it. Whether there is such
    /// a client.
    async fn update_client(&self, client: &Client) -> Result<bool, StoreError>;
    /// Forgets a client that registered itself, with its consents, and ends its grants. Whether there was one.
    async fn remove_client(&self, id: &ClientId) -> Result<bool, StoreError>;
    /// A client that registered itself.
    async fn client(&self, id: &ClientId) -> Result<Option<Client>, StoreError>;

    // --- the browser

    /// Puts an unfinished authorization on record. Over [`MAX_AUTHORIZATIONS_OF_BROWSER`] or
    /// [`MAX_AUTHORIZATIONS_OF_ADDRESS`] the oldest of that browser or address makes room, over [`MAX_AUTHORIZATIONS`] the
    /// oldest of all.
    async fn begin_authorization(&self, id: &SecretHash, request: &AuthorizationRequest) -> Result<(), StoreError>;
    /// An unfinished authorization.
    async fn authorization(&self, id: &SecretHash) -> Result<Option<AuthorizationRequest>, StoreError>;
    /// Notes that its person has just signed in: `sign_in_again` has been honoured. Nothing happens if it is gone.
    async fn note_sign_in(&self, id: &SecretHash) -> Result<(), StoreError>;
    /// Ends an unfinished authorization without a code. Whether it was there.
    async fn end_authorization(&self, id: &SecretHash) -> Result<bool, StoreError>;
    /// Turns an unfinished authorization into a code, and remembers what was allowed, if a key is given: united with what
    /// this key already stands for. One event: a second approval of the same request finds it gone. Without an id it is an
    /// answer that nobody had to wait for, since consent was remembered.
    async fn approve(
        &self,
        id: Option<&SecretHash>,
        code: (&SecretHash, &AuthorizationCode),
        remember: Option<(&ConsentKey, &Scope)>,
    ) -> Result<Approval, StoreError>;
    /// What was allowed for this key so far.
    async fn consent(&self, key: &ConsentKey) -> Result<Option<Scope>, StoreError>;
    /// Puts a signed-in browser on record, and ends the session that it had before; over [`MAX_SESSIONS`] the oldest of that
    /// person too.
    async fn begin_session(
        &self,
        id: &SecretHash,
        session: &Session,
        previous: Option<&SecretHash>,
    ) -> Result<(), StoreError>;
    /// A signed-in browser.
    async fn session(&self, id: &SecretHash) -> Result<Option<Session>, StoreError>;
    /// Moves the end of a session that is there: somebody was seen, and when.
    async fn extend_session(
        &self,
        id: &SecretHash,
        expires_at: Timestamp,
        seen_at: Timestamp,
    ) -> Result<(), StoreError>;
    /// Signs a browser out.
    async fn end_session(&self, id: &SecretHash) -> Result<(), StoreError>;

    // --- tokens

    /// A code, used or not.
    async fn code(&self, code: &SecretHash) -> Result<Option<AuthorizationCode>, StoreError>;
    /// Counts a wrong attempt with a code; from [`MAX_CODE_ATTEMPTS`] on, [`Store::redeem_code`] says `Unknown`.
    async fn note_failed_attempt(&self, code: &SecretHash) -> Result<(), StoreError>;
    /// Marks a code as used and puts its grant and tokens on record (RFC 6749 §4.1.2). One winner, however many race.
    async fn redeem_code(&self, code: &SecretHash, grant: &Grant, issued: &Issued) -> Result<Redemption, StoreError>;
    /// Puts a grant that came about without a code on record, with its tokens.
    async fn issue(&self, grant: &Grant, issued: &Issued) -> Result<(), StoreError>;
    /// A refresh token, rotated or not, together with its living grant; `None` if the grant is gone.
    async fn refresh_token(&self, token: &SecretHash) -> Result<Option<(RefreshToken, Grant)>, StoreError>;
    /// Marks a refresh token as rotated and puts its successors on record. One winner, however many race.
    async fn rotate(
        &self,
        token: &SecretHash,
        succession: &Succession,
        issued: &Issued,
    ) -> Result<Rotation, StoreError>;
    /// An access token with its living grant; `None` if either is gone.
    async fn access_token(&self, token: &SecretHash) -> Result<Option<LiveToken>, StoreError>;
    /// Forgets one access token.
    async fn revoke_access_token(&self, token: &SecretHash) -> Result<(), StoreError>;
    /// Ends a grant, and with it every token of its family.
    async fn revoke_grant(&self, grant: &GrantId) -> Result<(), StoreError>;

    // --- upkeep

    /// Counts revocations: whoever caches what [`Store::access_token`] said may believe it while this number stands. It
    /// changes before the revoking call returns. Read it *before* the lookup whose answer is cached.
    fn revocations(&self) -> u64;
    /// A key of 32 random bytes for signing cookies, made when it is first asked for and the same ever after.
    async fn signing_key(&self, name: &'static str) -> Result<[u8; 32], StoreError>;
    /// Removes at most `limit` records that expired before `now`; how many it removed.
    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError>;
    /// Gives back the space of dead records where that is worth the work. Whether it did.
    async fn compact(&self) -> Result<bool, StoreError>;
    /// Whether it answers.
    async fn check(&self) -> Result<(), StoreError>;
    /// Writes everything out, before the process leaves.
    async fn close(&self) -> Result<(), StoreError>;
}
