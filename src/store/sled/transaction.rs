//! One event, one transaction: typed access to the records inside one, and the indexes that go with them.

use std::cell::RefCell;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sled::transaction::{ConflictableTransactionError, TransactionError, TransactionalTree};

use super::records::{Kind, StoredClient, client_key, decode, encode, expiry_key, idle_key};
use super::{SledStore, lock};
use crate::domain::client::ClientId;
use crate::domain::clock::Timestamp;
use crate::store::StoreError;

/// What ends a transaction early: sled's wish to run it again, or an error of ours.
pub(super) type Interrupted = ConflictableTransactionError<StoreError>;

/// A transaction under way. sled may run it several times; only the last run counts.
pub(super) struct Transaction<'a> {
    tree: &'a TransactionalTree,
    touched: RefCell<Vec<Vec<u8>>>,
}

/// What follows from a change to how many live grants a client has.
#[derive(Clone, Copy)]
pub(super) enum GrantChange {
    Begun,
    Ended,
}

pub(super) fn backend(operation: &'static str) -> impl Fn(sled::Error) -> StoreError {
    move |source| StoreError::Backend {
        operation,
        source: Box::new(source),
    }
}

fn abort(error: StoreError) -> Interrupted {
    ConflictableTransactionError::Abort(error)
}

impl Transaction<'_> {
    pub(super) fn get<T: DeserializeOwned>(&self, kind: Kind, key: &[u8]) -> Result<Option<T>, Interrupted> {
        self.tree
            .get(key)?
            .map(|bytes| decode(kind, &bytes))
            .transpose()
            .map_err(abort)
    }

    pub(super) fn put(&self, kind: Kind, key: &[u8], record: &impl Serialize) -> Result<(), Interrupted> {
        self.tree.insert(key, encode(kind, record).map_err(abort)?)?;
        self.touched.borrow_mut().push(key.to_vec());
        Ok(())
    }

    /// Adds an entry to an index.
    pub(super) fn mark(&self, key: &[u8]) -> Result<(), Interrupted> {
        self.tree.insert(key, &[])?;
        self.touched.borrow_mut().push(key.to_vec());
        Ok(())
    }

    pub(super) fn remove(&self, key: &[u8]) -> Result<bool, Interrupted> {
        let was_there = self.tree.remove(key)?.is_some();
        self.touched.borrow_mut().push(key.to_vec());
        Ok(was_there)
    }

    /// Puts a record that the sweeper is to find.
    pub(super) fn put_expiring(
        &self,
        kind: Kind,
        key: &[u8],
        record: &impl Serialize,
        expires_at: Timestamp,
    ) -> Result<(), Interrupted> {
        self.put(kind, key, record)?;
        self.mark(&expiry_key(expires_at, key))
    }

    pub(super) fn remove_expiring(&self, key: &[u8], expires_at: Timestamp) -> Result<bool, Interrupted> {
        self.remove(&expiry_key(expires_at, key))?;
        self.remove(key)
    }

    /// Counts a client's live grants, and keeps the index of those that have none. Configured clients are not on record.
    pub(super) fn note_grant(&self, id: &ClientId, change: GrantChange) -> Result<(), Interrupted> {
        let key = client_key(id);
        let Some(mut stored) = self.get::<StoredClient>(Kind::Client, &key)? else {
            return Ok(());
        };
        stored.live_grants = match change {
            GrantChange::Begun => stored.live_grants.saturating_add(1),
            GrantChange::Ended => stored.live_grants.saturating_sub(1),
        };
        if stored.live_grants == 0 {
            self.mark(&idle_key(&stored.client))?;
        } else {
            self.remove(&idle_key(&stored.client))?;
        }
        self.put(Kind::Client, &key, &stored)
    }
}

impl SledStore {
    /// Runs an event in memory. The caller waits for a flush before it answers.
    pub(super) fn transact<T>(
        &self,
        operation: &'static str,
        event: impl Fn(&Transaction<'_>) -> Result<T, Interrupted>,
    ) -> Result<T, StoreError> {
        let active = self.shared.active();
        let result = active.db.transaction(|tree| {
            let transaction = Transaction {
                tree,
                touched: RefCell::default(),
            };
            let value = event(&transaction)?;
            Ok((value, transaction.touched.into_inner()))
        });
        let (value, touched) = result.map_err(|error| match error {
            TransactionError::Abort(error) => error,
            TransactionError::Storage(error) => backend(operation)(error),
        })?;
        if let Some(noted) = lock(&self.shared.touched).as_mut() {
            noted.extend(touched);
        }
        // Held until here: the end of a rewrite sees every key that was written before it.
        drop(active);
        Ok(value)
    }

    /// One record.
    pub(super) fn read<T: DeserializeOwned>(&self, kind: Kind, key: &[u8]) -> Result<Option<T>, StoreError> {
        let bytes = self.shared.active().db.get(key).map_err(backend("a lookup"))?;
        bytes.map(|bytes| decode(kind, &bytes)).transpose()
    }

    /// Nothing is written once a flush has failed: what memory holds might not be what the disk holds.
    pub(super) fn writable(&self) -> Result<(), StoreError> {
        if self.flusher.has_failed() {
            return Err(StoreError::Backend {
                operation: "writing",
                source: "an earlier flush failed; restart the gateway when the disk is well".into(),
            });
        }
        Ok(())
    }
}
