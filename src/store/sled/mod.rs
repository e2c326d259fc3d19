//! The embedded backend: sled 0.34.
//!
//! ```text
//!  event ──▶ writers' lock: read, decide, apply as one batch ──▶ wait for the shared flush ──▶ answer
//!                                                                      ▲
//!                             one thread: flush, fdatasync, wake all ──┘
//! ```
//! Changes are made one after another under one lock: sled's transactions would take turns as well, and this way an event
//! is plain code that may scan. Lookups take no lock. docs/storage.md has the layout and the promise.

mod change;
mod clients;
mod compact;
mod directory;
mod events;
mod factors;
mod flusher;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
mod open;
mod people;
mod records;
mod requests;
mod shared;
mod sweep;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::sled::Db;
use async_trait::async_trait;

use self::change::Change;
use self::events::find;
use self::flusher::Flusher;
use self::shared::{Active, Shared, Writer};
use crate::domain::client::{Client, ClientId};
use crate::domain::clock::Timestamp;
use crate::domain::grant::{
    AccessToken, AuthorizationCode, AuthorizationRequest, ConsentKey, Grant, GrantId, LiveToken, RefreshToken, Session,
    Succession,
};
use crate::domain::scope::Scope;
use crate::domain::secret::SecretHash;
use crate::store::{
    Approval, Issued, MAX_AUTHORIZATIONS, MAX_AUTHORIZATIONS_OF_ADDRESS, MAX_AUTHORIZATIONS_OF_BROWSER, MAX_DEVICES,
    MAX_GRANTS, MAX_PEOPLE, MAX_PUSHED_REQUESTS, MAX_REFRESHES, MAX_REGISTERED_CLIENTS, MAX_SESSIONS, MAX_USED_ONCE,
    Redemption, Registration, Rotation, Store, StoreError,
};

/// Is told how long each operation took. The names are those of the [`Store`]'s methods, and `flush`.
pub trait Observer: Send + Sync + 'static {
    /// An operation is over, well or not.
    fn operation(&self, name: &'static str, took: Duration);
}

impl Observer for () {
    fn operation(&self, _: &'static str, _: Duration) {}
}

/// A moment at which a test may let the store fail, or die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Before changes are flushed.
    Flush,
    /// Compaction: the new database has what the old one had at the start.
    Copied,
    /// Compaction: the new database has everything, and writers wait.
    CaughtUp,
    /// Compaction: the new database is on disk, and the old one is current.
    BeforeSwitch,
    /// Compaction: the new one is current.
    AfterSwitch,
    /// Compaction: writers go on with the new database, and the old one is still there.
    BeforeRemoval,
}

/// Is called at each [`Step`]; an error makes the step fail.
pub type Hook = Arc<dyn Fn(Step) -> io::Result<()> + Send + Sync>;

/// Most records of the kinds that anybody can make us write.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients that registered themselves.
    pub registered_clients: usize,
    /// Unfinished authorizations.
    pub authorizations: usize,
    /// Unfinished authorizations of one browser.
    pub per_browser: usize,
    /// Unfinished authorizations from one address.
    pub per_address: usize,
    /// Sessions of one person.
    pub sessions: usize,
    /// Grants that one person has with one client for one resource.
    pub grants: usize,
    /// Refreshes of one grant whose tokens are kept.
    pub refreshes: u32,
    /// Pushed authorization requests that wait.
    pub pushed_requests: usize,
    /// Devices that wait.
    pub devices: usize,
    /// Identifiers that may not be used again.
    pub used_once: usize,
    /// People on record.
    pub people: usize,
}

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// Caps.
    pub limits: Limits,
    /// The size on disk in bytes under which compaction is never worth it.
    pub compact_above: u64,
    /// How long to wait for a lock that another process holds: it may have been killed a moment ago.
    pub lock_wait: Duration,
    /// Bytes of memory for pages.
    pub cache_bytes: u64,
    /// Is told how long operations take.
    pub observer: Arc<dyn Observer>,
    /// For tests of failures.
    pub hook: Option<Hook>,
}

/// The embedded store. Dropping it writes everything out and gives the directory free.
pub struct SledStore {
    /// Before `shared`: its thread must be gone before the lock is.
    flusher: Flusher,
    shared: Arc<Shared>,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            registered_clients: MAX_REGISTERED_CLIENTS,
            authorizations: MAX_AUTHORIZATIONS,
            per_browser: MAX_AUTHORIZATIONS_OF_BROWSER,
            per_address: MAX_AUTHORIZATIONS_OF_ADDRESS,
            sessions: MAX_SESSIONS,
            grants: MAX_GRANTS,
            refreshes: MAX_REFRESHES,
            pushed_requests: MAX_PUSHED_REQUESTS,
            devices: MAX_DEVICES,
            used_once: MAX_USED_ONCE,
            people: MAX_PEOPLE,
        }
    }
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            compact_above: 64 << 20,
            lock_wait: Duration::from_secs(5),
            cache_bytes: 64 << 20,
            observer: Arc::new(()),
            hook: None,
        }
    }
}

// === impl SledStore ===

impl SledStore {
    /// How many entries there are, by the first byte of their keys: records, and entries of indexes.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn inventory(&self) -> Result<BTreeMap<char, usize>, StoreError> {
        let mut found = BTreeMap::new();
        for key in self.shared.active().tree.iter().keys() {
            let key = key.map_err(backend("counting records"))?;
            let kind = key.first().copied().map_or('?', char::from);
            *found.entry(kind).or_insert(0) += 1;
        }
        Ok(found)
    }

    /// Makes one change and waits until it is on disk.
    async fn write<T>(
        &self,
        name: &'static str,
        event: impl FnOnce(&mut Change<'_>) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        self.timed(name, async {
            let (outcome, number) = self.shared.apply(event).await?;
            self.flusher.flushed(&self.shared, number).await?;
            Ok(outcome)
        })
        .await
    }

    /// Makes a change that takes something away from somebody. It counts in memory even when it cannot reach the disk.
    async fn revoke<T>(
        &self,
        name: &'static str,
        event: impl FnOnce(&mut Change<'_>) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        self.timed(name, async {
            let (outcome, number) = {
                let mut writer = self.shared.writer.lock().await;
                let applied = self.shared.apply_now(&mut writer, event);
                self.shared.count_revocation();
                applied?
            };
            self.flusher.flushed(&self.shared, number).await?;
            Ok(outcome)
        })
        .await
    }

    async fn timed<T>(&self, name: &'static str, work: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let outcome = work.await;
        self.shared.observer.operation(name, started.elapsed());
        outcome
    }

    fn look<T>(
        &self,
        name: &'static str,
        lookup: impl FnOnce(&Db) -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let started = Instant::now();
        let found = lookup(&self.shared.active().tree);
        self.shared.observer.operation(name, started.elapsed());
        found
    }
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore")
            .field("directory", &self.shared.directory.path())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for SledStore {
    async fn register_client(&self, client: &Client) -> Result<Registration, StoreError> {
        self.write("register_client", |change| change.register_client(client))
            .await
    }

    async fn update_client(&self, client: &Client) -> Result<bool, StoreError> {
        self.write("update_client", |change| change.update_client(client)).await
    }

    async fn remove_client(&self, id: &ClientId) -> Result<bool, StoreError> {
        self.revoke("remove_client", |change| change.remove_client(id)).await
    }

    async fn client(&self, id: &ClientId) -> Result<Option<Client>, StoreError> {
        self.look("client", |tree| find(tree, id))
    }

    async fn begin_authorization(&self, id: &SecretHash, request: &AuthorizationRequest) -> Result<(), StoreError> {
        self.write("begin_authorization", |change| change.begin_authorization(id, request))
            .await
    }

    async fn authorization(&self, id: &SecretHash) -> Result<Option<AuthorizationRequest>, StoreError> {
        self.look("authorization", |tree| find(tree, id))
    }

    async fn note_sign_in(&self, id: &SecretHash) -> Result<(), StoreError> {
        self.write("note_sign_in", |change| events::note_sign_in(change, id))
            .await
    }

    async fn end_authorization(&self, id: &SecretHash) -> Result<bool, StoreError> {
        self.write("end_authorization", |change| change.remove_authorization(id))
            .await
    }

    async fn approve(
        &self,
        id: Option<&SecretHash>,
        code: (&SecretHash, &AuthorizationCode),
        remember: Option<(&ConsentKey, &Scope)>,
    ) -> Result<Approval, StoreError> {
        self.write("approve", |change| events::approve(change, id, code, remember))
            .await
    }

    async fn consent(&self, key: &ConsentKey) -> Result<Option<Scope>, StoreError> {
        self.look("consent", |tree| {
            Ok(find::<records::Consent>(tree, key)?.map(|consent| consent.scope))
        })
    }

    async fn begin_session(
        &self,
        id: &SecretHash,
        session: &Session,
        previous: Option<&SecretHash>,
    ) -> Result<(), StoreError> {
        self.write("begin_session", |change| {
            events::begin_session(change, id, session, previous)
        })
        .await
    }

    async fn session(&self, id: &SecretHash) -> Result<Option<Session>, StoreError> {
        self.look("session", |tree| find(tree, id))
    }

    async fn extend_session(
        &self,
        id: &SecretHash,
        expires_at: Timestamp,
        seen_at: Timestamp,
    ) -> Result<(), StoreError> {
        self.write("extend_session", |change| {
            events::extend_session(change, id, expires_at, seen_at)
        })
        .await
    }

    async fn end_session(&self, id: &SecretHash) -> Result<(), StoreError> {
        self.revoke("end_session", |change| change.remove_session(id)).await
    }

    async fn code(&self, code: &SecretHash) -> Result<Option<AuthorizationCode>, StoreError> {
        self.look("code", |tree| find(tree, code))
    }

    async fn note_failed_attempt(&self, code: &SecretHash) -> Result<(), StoreError> {
        self.write("note_failed_attempt", |change| {
            events::note_failed_attempt(change, code)
        })
        .await
    }

    async fn redeem_code(&self, code: &SecretHash, grant: &Grant, issued: &Issued) -> Result<Redemption, StoreError> {
        self.write("redeem_code", |change| events::redeem_code(change, code, grant, issued))
            .await
    }

    async fn issue(&self, grant: &Grant, issued: &Issued) -> Result<(), StoreError> {
        self.write("issue", |change| events::issue(change, grant, issued)).await
    }

    async fn refresh_token(&self, token: &SecretHash) -> Result<Option<(RefreshToken, Grant)>, StoreError> {
        let found = self.look("refresh_token", |tree| {
            let Some(token) = find::<RefreshToken>(tree, token)? else {
                return Ok(None);
            };
            Ok(find::<Grant>(tree, &token.grant)?.map(|grant| (token, grant)))
        })?;
        if found.as_ref().is_some_and(|(token, _)| token.rotated.is_some()) {
            // A retry is answered from this, and what is answered must be on disk.
            let number = self.shared.written.load(Ordering::Acquire);
            self.flusher.flushed(&self.shared, number).await?;
        }
        Ok(found)
    }

    async fn rotate(
        &self,
        token: &SecretHash,
        succession: &Succession,
        issued: &Issued,
    ) -> Result<Rotation, StoreError> {
        self.write("rotate", |change| events::rotate(change, token, succession, issued))
            .await
    }

    async fn access_token(&self, token: &SecretHash) -> Result<Option<LiveToken>, StoreError> {
        self.look("access_token", |tree| {
            let Some(token) = find::<AccessToken>(tree, token)? else {
                return Ok(None);
            };
            Ok(find::<Grant>(tree, &token.grant)?.map(|grant| LiveToken { token, grant }))
        })
    }

    async fn revoke_access_token(&self, token: &SecretHash) -> Result<(), StoreError> {
        self.revoke("revoke_access_token", |change| {
            events::revoke_access_token(change, token)
        })
        .await
    }

    async fn revoke_grant(&self, grant: &GrantId) -> Result<(), StoreError> {
        self.revoke("revoke_grant", |change| events::revoke_grant(change, grant))
            .await
    }

    fn revocations(&self) -> u64 {
        self.shared.revocations.load(Ordering::SeqCst)
    }

    async fn signing_key(&self, name: &'static str) -> Result<[u8; 32], StoreError> {
        self.write("signing_key", |change| events::signing_key(change, name))
            .await
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.timed("sweep", self.sweep_expired(now, limit)).await
    }

    async fn compact(&self) -> Result<bool, StoreError> {
        self.timed("compact", self.compact_if_worth_it()).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        if self.shared.has_failed() {
            return Err(flusher::failed());
        }
        self.look("check", |tree| {
            tree.contains_key([records::prefix::SIGNING_KEY])
                .map(|_| None::<()>)
                .map_err(backend("reading a record"))
        })
        .map(drop)
    }

    async fn close(&self) -> Result<(), StoreError> {
        let number = self.shared.written.load(Ordering::Acquire);
        self.timed("close", self.flusher.flushed(&self.shared, number)).await
    }
}

/// Lets a test fail or die here.
fn at(hook: Option<&Hook>, step: Step) -> io::Result<()> {
    hook.map_or(Ok(()), |hook| hook(step))
}

/// What the store says when sled or the file system fails.
fn backend<E: Into<Box<dyn std::error::Error + Send + Sync>>>(operation: &'static str) -> impl FnOnce(E) -> StoreError {
    move |error| StoreError::Backend {
        operation,
        source: error.into(),
    }
}
