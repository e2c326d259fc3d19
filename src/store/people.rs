//! What is kept of people: who they are, where they are signed in, and what they allowed.

use async_trait::async_trait;

use super::{Room, StoreError};
use crate::domain::client::{Client, ClientId};
use crate::domain::clock::Timestamp;
use crate::domain::grant::{Grant, GrantId, Session};
use crate::domain::person::{Person, ProviderLink};
use crate::domain::secret::SecretHash;
use crate::domain::user::Subject;

/// Most people on record: nobody is evicted for a newcomer.
pub const MAX_PEOPLE: usize = 100_000;

/// What became of a new account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// It is on record.
    Done,
    /// Somebody has that name.
    Taken,
    /// There are too many.
    Full,
}

/// What became of somebody who signed in elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// They are on record.
    Kept,
    /// Somebody with a password here is, under that name: who that is, is not for others to say.
    Taken,
    /// There are too many.
    Full,
}

/// Who chose a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen<'a> {
    /// Its person; in this session, if they were signed in.
    ByThem(Option<&'a SecretHash>),
    /// Somebody else: they have to choose another before it lets them in.
    ForThem,
}

/// A grant as people see it in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub id: GrantId,
    /// What it is.
    pub grant: Grant,
    /// When tokens of it were last issued, as far as that is kept.
    pub used_at: Option<Timestamp>,
}

/// People, their sessions and their grants.
#[async_trait]
pub trait People: Send + Sync + 'static {
    /// Somebody on record.
    async fn person(&self, subject: &Subject) -> Result<Option<Person>, StoreError>;
    /// People in the order of their subjects, from behind the one named; at most `limit`.
    async fn people(&self, after: Option<&Subject>, limit: usize) -> Result<Vec<Person>, StoreError>;
    /// Puts somebody on record who signed in elsewhere, or what is new about them. Whether they are disabled and since when
    /// they are known stays as it was. What they are told to upstreams may have changed, so this counts as a revocation where
    /// they were known as somebody else. An account of the store is nobody else's, and stays as it is.
    async fn admit_person(&self, person: &Person) -> Result<Admitted, StoreError>;
    /// Puts what a provider said of somebody in place of what it said before; nothing happens if they are not on record.
    async fn note_link(&self, subject: &Subject, link: &ProviderLink) -> Result<(), StoreError>;
    /// Puts a new account on record.
    async fn add_person(&self, person: &Person) -> Result<Addition, StoreError>;
    /// Gives an account of the store another password, and ends its sessions, but for one that it was chosen in. Whether there
    /// is such an account.
    async fn set_password(&self, subject: &Subject, hash: &str, chosen: Chosen<'_>) -> Result<bool, StoreError>;
    /// Disables somebody, which ends their sessions and grants, or enables them again. Whoever is not on record comes on
    /// record with it.
    async fn set_disabled(&self, person: &Person, disabled: bool) -> Result<Room, StoreError>;
    /// Forgets somebody, and ends their sessions and grants. Whether they were on record.
    async fn remove_person(&self, subject: &Subject) -> Result<bool, StoreError>;

    /// Where somebody is signed in, the longest first.
    async fn sessions_of(&self, subject: &Subject) -> Result<Vec<(SecretHash, Session)>, StoreError>;
    /// Ends the sessions of somebody, but for the one named. How many.
    async fn end_sessions_of(&self, subject: &Subject, keep: Option<&SecretHash>) -> Result<usize, StoreError>;

    /// What somebody allowed: at most `limit` grants.
    async fn grants_of(&self, subject: &Subject, limit: usize) -> Result<Vec<Listed>, StoreError>;
    /// One grant.
    async fn grant(&self, id: &GrantId) -> Result<Option<Listed>, StoreError>;
    /// Grants in the order of their ids, from behind the one named; at most `limit`.
    async fn grants(&self, after: Option<&GrantId>, limit: usize) -> Result<Vec<Listed>, StoreError>;
    /// Notes that a token of a grant was used, where nobody else does: a personal access token.
    async fn note_used(&self, id: &GrantId, at: Timestamp) -> Result<(), StoreError>;
    /// Ends the grants of somebody, with one client or with all, and forgets what they allowed it. How many.
    async fn revoke_grants_of(&self, subject: &Subject, client: Option<&ClientId>) -> Result<usize, StoreError>;
    /// Ends the grants of a client, whoever made them. How many.
    async fn revoke_grants_for(&self, client: &ClientId) -> Result<usize, StoreError>;
    /// Clients that registered themselves in the order of their ids, from behind the one named; at most `limit`.
    async fn clients(&self, after: Option<&ClientId>, limit: usize) -> Result<Vec<Client>, StoreError>;
}
