//! What is kept of requests that wait, and of what may happen once.

use async_trait::async_trait;

use super::{Issued, Redemption, StoreError};
use crate::domain::clock::Timestamp;
use crate::domain::device::{Decision, DeviceAuthorization};
use crate::domain::grant::{Grant, LoginAnswer, LoginVerdict, PushedRequest};
use crate::domain::key::KeyRecord;
use crate::domain::person::Passed;
use crate::domain::secret::SecretHash;

/// Most pushed authorization requests that wait.
pub const MAX_PUSHED_REQUESTS: usize = 10_000;
/// Most devices that wait.
pub const MAX_DEVICES: usize = 10_000;
/// Most identifiers that are remembered so that nobody uses them again.
pub const MAX_USED_ONCE: usize = 500_000;

/// Whether something happens for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Once {
    /// It does.
    First,
    /// It happened before.
    Again,
    /// There is no room to remember it, so it may not happen.
    Full,
}

/// Whether there was room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It is on record.
    Kept,
    /// It is not: too many wait already.
    Full,
}

/// What became of a decision about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It is on record.
    Done,
    /// The request is gone, or somebody decided before.
    Gone,
}

/// What became of an answer of the operator's own sign-in page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It is on record.
    Done,
    /// The challenge was answered before.
    Before,
    /// There is no such challenge, or it is over.
    Unknown,
}

/// What a device hears when it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Poll {
    /// The request as it stands now, and whether the device asked too soon.
    Waiting(Box<DeviceAuthorization>, bool),
    /// There is none.
    Unknown,
}

/// Keys that sign, and identifiers that are good for one time.
#[async_trait]
pub trait Keys: Send + Sync + 'static {
    /// Remembers an identifier until `expires_at`, unless it is remembered already: assertions and proofs are good once
    /// (RFC 7523 §3, RFC 9449 §11.1). One of those who race is first.
    async fn use_once(&self, id: &SecretHash, expires_at: Timestamp) -> Result<Once, StoreError>;
    /// Whether an identifier is remembered so.
    async fn was_used(&self, id: &SecretHash) -> Result<bool, StoreError>;
    /// Every key that signs tokens.
    async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError>;
    /// Puts a key on record, unless there is by now another of its algorithm made after `unless_since`: of those who rotate
    /// at the same time one wins, and all read [`Keys::keys`] again.
    async fn add_key(&self, key: &KeyRecord, unless_since: Timestamp) -> Result<(), StoreError>;
    /// Forgets a key, by its id.
    async fn remove_key(&self, id: &str) -> Result<(), StoreError>;
}

/// Requests that wait for their person without a browser of their own.
#[async_trait]
pub trait Waiting: Send + Sync + 'static {
    /// Puts a pushed authorization request on record (RFC 9126).
    async fn push_request(&self, id: &SecretHash, request: &PushedRequest) -> Result<Room, StoreError>;
    /// Takes a pushed authorization request: it is good for one time.
    async fn take_pushed_request(&self, id: &SecretHash) -> Result<Option<PushedRequest>, StoreError>;

    /// Notes the challenge with which an unfinished authorization goes to the operator's own sign-in page, in place of any
    /// before. Nothing happens if it is gone.
    async fn begin_login(&self, id: &SecretHash, challenge: &SecretHash) -> Result<(), StoreError>;
    /// Notes what that page said of a challenge. It is asked once.
    async fn answer_login(
        &self,
        id: &SecretHash,
        challenge: &SecretHash,
        answer: &LoginAnswer,
        now: Timestamp,
    ) -> Result<Answered, StoreError>;
    /// Takes what that page said: it is good for one time, and for whoever has the verifier.
    async fn take_login(&self, id: &SecretHash, verifier: &SecretHash) -> Result<Option<LoginVerdict>, StoreError>;

    /// Notes who has shown a password for an unfinished authorization, which is not enough yet. Nothing happens if it is gone.
    async fn note_passed(&self, id: &SecretHash, passed: &Passed) -> Result<(), StoreError>;
    /// Takes that note: it is good for one time. Whether it was there.
    async fn take_passed(&self, id: &SecretHash, passed: &Passed) -> Result<bool, StoreError>;

    /// Puts a device's request on record (RFC 8628).
    async fn begin_device(&self, device: &SecretHash, request: &DeviceAuthorization) -> Result<Room, StoreError>;
    /// The request that a person's code stands for, with what it is called.
    async fn device_by_user_code(
        &self,
        user_code: &SecretHash,
    ) -> Result<Option<(SecretHash, DeviceAuthorization)>, StoreError>;
    /// Puts on record what the person said. They are asked once.
    async fn decide_device(&self, device: &SecretHash, decision: &Decision) -> Result<Decided, StoreError>;
    /// Notes that the device asks, see [`DeviceAuthorization::poll`].
    async fn poll_device(&self, device: &SecretHash, now: Timestamp) -> Result<Poll, StoreError>;
    /// Marks an approved request as used and puts its grant and tokens on record. One winner, however many race.
    async fn redeem_device(
        &self,
        device: &SecretHash,
        grant: &Grant,
        issued: &Issued,
    ) -> Result<Redemption, StoreError>;
}
