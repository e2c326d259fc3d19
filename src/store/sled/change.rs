//! A change under way: what one event reads and writes. All of it is applied at once, or nothing.
//!
//! Only the holder of the writers' lock has one, so what it reads stays true until it is applied.

use std::collections::BTreeMap;

use ::sled::{Db, IVec};

use super::records::{
    Expiring, Id, Record, age_key, aged_id, client_grant_key, consents_for, decode, encode, expiry_key, grants_of,
    idle_key, key, prefix, user_code_key,
};
use super::{Limits, backend};
use crate::domain::client::{Client, ClientId};
use crate::domain::device::DeviceAuthorization;
use crate::domain::grant::{AuthorizationRequest, Grant, GrantId};
use crate::domain::key::KeyRecord;
use crate::domain::secret::SecretHash;
use crate::store::StoreError;

/// How many there are of what is capped; kept in memory, counted when the store is opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) clients: usize,
    pub(super) authorizations: usize,
    pub(super) pushed_requests: usize,
    pub(super) devices: usize,
    pub(super) used_once: usize,
}

/// See the module.
pub(super) struct Change<'a> {
    tree: &'a Db,
    limits: Limits,
    counts: Counts,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Counts {
    /// Counts what is there.
    pub(super) fn of(tree: &Db) -> Result<Self, StoreError> {
        let count = |prefix: u8| {
            tree.scan_prefix([prefix]).try_fold(0, |count, entry| {
                entry.map(|_| count + 1).map_err(backend("counting records"))
            })
        };
        Ok(Self {
            clients: count(prefix::CLIENT)?,
            authorizations: count(prefix::AUTHORIZATION)?,
            pushed_requests: count(prefix::PUSHED_REQUEST)?,
            devices: count(prefix::DEVICE)?,
            used_once: count(prefix::USED_ONCE)?,
        })
    }

    fn of_prefix(&mut self, prefix: u8) -> Option<&mut usize> {
        match prefix {
            prefix::CLIENT => Some(&mut self.clients),
            prefix::AUTHORIZATION => Some(&mut self.authorizations),
            prefix::PUSHED_REQUEST => Some(&mut self.pushed_requests),
            prefix::DEVICE => Some(&mut self.devices),
            prefix::USED_ONCE => Some(&mut self.used_once),
            _ => None,
        }
    }
}

impl<'a> Change<'a> {
    pub(super) fn new(tree: &'a Db, limits: Limits, counts: Counts) -> Self {
        Self {
            tree,
            limits,
            counts,
            writes: BTreeMap::new(),
        }
    }

    /// What is to be written, and the counts after it.
    pub(super) fn finish(self) -> (BTreeMap<Vec<u8>, Option<Vec<u8>>>, Counts) {
        (self.writes, self.counts)
    }

    /// The caps.
    pub(super) const fn limits(&self) -> Limits {
        self.limits
    }

    /// Every key that signs tokens.
    pub(super) fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        let entries = self.tree.scan_prefix([prefix::KEY]).values();
        entries
            .map(|entry| decode(&entry.map_err(backend("reading a record"))?))
            .collect()
    }

    /// How many there are of what is capped.
    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }

    // --- records

    /// A record, as this change has left it.
    pub(super) fn get<R: Record>(&self, id: &(impl Id + ?Sized)) -> Result<Option<R>, StoreError> {
        self.read(&key::<R>(id))
    }

    /// Writes a record that does not end by itself, or one whose end does not change.
    pub(super) fn put<R: Record>(&mut self, id: &(impl Id + ?Sized), record: &R) -> Result<(), StoreError> {
        let (key, value) = (key::<R>(id), encode(record)?);
        if !self.has(&key)?
            && let Some(count) = self.counts.of_prefix(R::PREFIX)
        {
            *count += 1;
        }
        self.writes.insert(key, Some(value));
        Ok(())
    }

    /// Writes a new record that ends by itself.
    pub(super) fn put_expiring<R: Expiring>(&mut self, id: &(impl Id + ?Sized), record: &R) -> Result<(), StoreError> {
        self.mark(expiry_key(record.expires_at(), &key::<R>(id)));
        self.put(id, record)
    }

    /// Removes a record that ends by itself. One that cannot be read goes as well: its entry in the expiry index is found
    /// to point nowhere in its time.
    pub(super) fn remove_expiring<R: Expiring>(&mut self, id: &(impl Id + ?Sized)) -> Result<Option<R>, StoreError> {
        let key = key::<R>(id);
        let record = match self.read::<R>(&key) {
            Ok(record) => record,
            Err(StoreError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(record) = &record {
            self.erase(expiry_key(record.expires_at(), &key));
        }
        self.remove(key)?;
        Ok(record)
    }

    /// Removes whatever is under the key of a record.
    pub(super) fn remove(&mut self, key: Vec<u8>) -> Result<(), StoreError> {
        if !self.has(&key)? {
            return Ok(());
        }
        if let Some(count) = key.first().and_then(|prefix| self.counts.of_prefix(*prefix)) {
            *count = count.saturating_sub(1);
        }
        self.erase(key);
        Ok(())
    }

    /// A record by its whole key.
    pub(super) fn read<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        if let Some(written) = self.writes.get(key) {
            return written.as_deref().map(decode).transpose();
        }
        let found = self.tree.get(key).map_err(backend("reading a record"))?;
        found.map(|bytes| decode(&bytes)).transpose()
    }

    /// Writes an index entry.
    pub(super) fn mark(&mut self, entry: Vec<u8>) {
        self.writes.insert(entry, Some(Vec::new()));
    }

    /// Writes an index entry that says where something is.
    pub(super) fn point(&mut self, entry: Vec<u8>, id: &[u8]) {
        self.writes.insert(entry, Some(id.to_vec()));
    }

    /// Removes an index entry, or a record that is not counted.
    pub(super) fn erase(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    fn has(&self, key: &[u8]) -> Result<bool, StoreError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.is_some()),
            None => self.tree.contains_key(key).map_err(backend("reading a record")),
        }
    }

    // --- grants and their clients

    /// Puts a grant on record; its client is not idle any more.
    pub(super) fn put_grant(&mut self, id: &GrantId, grant: &Grant) -> Result<(), StoreError> {
        self.put_expiring(id, grant)?;
        self.mark(client_grant_key(&grant.client_id, id));
        if let Some(client) = self.get::<Client>(&grant.client_id)? {
            self.erase(idle_key(client.created_at, &client.id));
        }
        Ok(())
    }

    /// Ends a grant. If its client has no other, it may have to make room from now on.
    pub(super) fn remove_grant(&mut self, id: &GrantId) -> Result<(), StoreError> {
        let Some(grant) = self.remove_expiring::<Grant>(id)? else {
            return Ok(());
        };
        let own = client_grant_key(&grant.client_id, id);
        self.erase(own.clone());
        for entry in self.tree.scan_prefix(grants_of(&grant.client_id)).keys() {
            if entry.map_err(backend("reading an index"))? != own {
                return Ok(());
            }
        }
        if let Some(client) = self.get::<Client>(&grant.client_id)? {
            self.mark(idle_key(client.created_at, &client.id));
        }
        Ok(())
    }

    /// Whether another client may register; removes the longest-registered ones without a grant until it may.
    pub(super) fn make_room_for_client(&mut self) -> Result<bool, StoreError> {
        let mut idle = self.tree.scan_prefix([prefix::IDLE_CLIENT]).keys();
        while self.counts.clients >= self.limits.registered_clients {
            let Some(entry) = idle.next().transpose().map_err(backend("reading an index"))? else {
                return Ok(false);
            };
            self.evict_client(&entry)?;
        }
        Ok(true)
    }

    fn evict_client(&mut self, entry: &IVec) -> Result<(), StoreError> {
        self.erase(entry.to_vec());
        let client = std::str::from_utf8(aged_id(entry)).ok().and_then(ClientId::parse);
        let Some(client) = client else {
            return Ok(());
        };
        self.remove(key::<Client>(&client))?;
        for consent in self.tree.scan_prefix(consents_for(&client)).keys() {
            self.erase(consent.map_err(backend("reading an index"))?.to_vec());
        }
        Ok(())
    }

    /// Removes a device's request, and the person's code with it.
    pub(super) fn remove_device(&mut self, id: &SecretHash) -> Result<(), StoreError> {
        if let Some(request) = self.remove_expiring::<DeviceAuthorization>(id)? {
            self.erase(user_code_key(&request.user_code));
        }
        Ok(())
    }

    // --- unfinished authorizations

    /// Removes the oldest unfinished authorizations until there is room for one more.
    pub(super) fn make_room_for_authorization(&mut self) -> Result<(), StoreError> {
        let mut oldest = self.tree.scan_prefix([prefix::AUTHORIZATION_AGE]).keys();
        while self.counts.authorizations >= self.limits.authorizations {
            let Some(entry) = oldest.next().transpose().map_err(backend("reading an index"))? else {
                return Ok(());
            };
            self.erase(entry.to_vec());
            if let Ok(id) = <[u8; 32]>::try_from(aged_id(&entry)) {
                self.remove_authorization(&SecretHash::from_bytes(id))?;
            }
        }
        Ok(())
    }

    /// Removes an unfinished authorization.
    pub(super) fn remove_authorization(&mut self, id: &SecretHash) -> Result<bool, StoreError> {
        let request = self.remove_expiring::<AuthorizationRequest>(id)?;
        if let Some(request) = &request {
            self.erase(age_key(request.created_at, id.as_bytes()));
        }
        Ok(request.is_some())
    }
}
