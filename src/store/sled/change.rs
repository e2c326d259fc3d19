//! A change under way: what one event reads and writes. All of it is applied at once, or nothing.
//!
//! Only the holder of the writers' lock has one, so what it reads stays true until it is applied.

use std::collections::BTreeMap;

use ::sled::Db;

use super::records::{
    Expiring, Id, Record, age_key, authorizations_of, decode, encode, expiry_key, key, party_entry, prefix,
    sessions_of, user_code_key,
};
use super::{Limits, backend};
use crate::domain::device::DeviceAuthorization;
use crate::domain::grant::{AuthorizationCode, AuthorizationRequest, PushedRequest, Session};
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
    pub(super) people: usize,
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
            people: count(prefix::PERSON)?,
        })
    }

    fn of_prefix(&mut self, prefix: u8) -> Option<&mut usize> {
        match prefix {
            prefix::CLIENT => Some(&mut self.clients),
            prefix::AUTHORIZATION => Some(&mut self.authorizations),
            prefix::PUSHED_REQUEST => Some(&mut self.pushed_requests),
            prefix::DEVICE => Some(&mut self.devices),
            prefix::USED_ONCE => Some(&mut self.used_once),
            prefix::PERSON => Some(&mut self.people),
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

    pub(super) fn has(&self, key: &[u8]) -> Result<bool, StoreError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.is_some()),
            None => self.tree.contains_key(key).map_err(backend("reading a record")),
        }
    }

    /// What is under a key, as this change has left it.
    pub(super) fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(written) = self.writes.get(key) {
            return Ok(written.clone());
        }
        let found = self.tree.get(key).map_err(backend("reading an index"))?;
        Ok(found.map(|bytes| bytes.to_vec()))
    }

    /// Whether this change removes what is under a key.
    pub(super) fn removes(&self, key: &[u8]) -> bool {
        self.writes.get(key).is_some_and(Option::is_none)
    }

    /// The keys that begin with this and that this change writes.
    pub(super) fn written_under<'b>(&'b self, start: &'b [u8]) -> impl Iterator<Item = &'b Vec<u8>> {
        self.writes
            .range(start.to_vec()..)
            .take_while(move |(key, _)| key.starts_with(start))
            .filter(|(_, value)| value.is_some())
            .map(|(key, _)| key)
    }

    /// The database as it was before this change.
    pub(super) const fn tree(&self) -> &'a Db {
        self.tree
    }

    // --- what waits

    /// Removes a device's request, and the person's code with it.
    pub(super) fn remove_device(&mut self, id: &SecretHash) -> Result<(), StoreError> {
        if let Some(request) = self.remove_expiring::<DeviceAuthorization>(id)? {
            self.erase(user_code_key(&request.user_code));
            self.release(&request.client_id, id.as_bytes(), request.expires_at)?;
        }
        Ok(())
    }

    /// Removes a pushed request.
    pub(super) fn remove_pushed_request(&mut self, id: &SecretHash) -> Result<Option<PushedRequest>, StoreError> {
        let request = self.remove_expiring::<PushedRequest>(id)?;
        if let Some(request) = &request {
            self.release(&request.client_id, id.as_bytes(), request.expires_at)?;
        }
        Ok(request)
    }

    /// Removes a code.
    pub(super) fn remove_code(&mut self, id: &SecretHash) -> Result<(), StoreError> {
        if let Some(code) = self.remove_expiring::<AuthorizationCode>(id)? {
            self.release(&code.client_id, id.as_bytes(), code.authenticated_at)?;
        }
        Ok(())
    }

    // --- unfinished authorizations

    /// Puts an unfinished authorization on record. Its browser has room for a few, its address for some, all together for
    /// many; the oldest of whoever has too many makes room.
    pub(super) fn begin_authorization(
        &mut self,
        id: &SecretHash,
        request: &AuthorizationRequest,
    ) -> Result<(), StoreError> {
        let limits = self.limits;
        for (index, most) in parties(request, limits) {
            let own = self.keys_under(&index, usize::MAX)?;
            let surplus = (own.len() + 1).saturating_sub(most);
            for entry in own.iter().take(surplus) {
                self.evict_authorization(entry)?;
            }
        }
        while self.counts.authorizations >= limits.authorizations {
            let Some(oldest) = self.keys_under(&[prefix::AUTHORIZATION_AGE], 1)?.pop() else {
                break;
            };
            self.erase(oldest.clone());
            self.evict_authorization(&oldest)?;
        }
        self.put_expiring(id, request)?;
        self.mark(age_key(request.created_at, id.as_bytes()));
        for (index, _) in parties(request, limits) {
            self.mark(party_entry(&index, request.created_at, id));
        }
        self.hold(&request.client_id, id.as_bytes())
    }

    /// Removes the authorization that an entry of an index is for.
    fn evict_authorization(&mut self, entry: &[u8]) -> Result<(), StoreError> {
        self.erase(entry.to_vec());
        let start = entry.len().saturating_sub(32);
        if let Some(Ok(id)) = entry.get(start..).map(<[u8; 32]>::try_from) {
            self.remove_authorization(&SecretHash::from_bytes(id))?;
        }
        Ok(())
    }

    /// Removes an unfinished authorization.
    pub(super) fn remove_authorization(&mut self, id: &SecretHash) -> Result<bool, StoreError> {
        let request = self.remove_expiring::<AuthorizationRequest>(id)?;
        if let Some(request) = &request {
            self.erase(age_key(request.created_at, id.as_bytes()));
            for (index, _) in parties(request, self.limits) {
                self.erase(party_entry(&index, request.created_at, id));
            }
            self.release(&request.client_id, id.as_bytes(), request.created_at)?;
        }
        Ok(request.is_some())
    }

    // --- sessions

    /// Puts a session on record; the longest-lasting one of somebody who has too many ends.
    pub(super) fn begin_session(&mut self, id: &SecretHash, session: &Session) -> Result<(), StoreError> {
        let index = sessions_of(&session.subject);
        let own = self.keys_under(&index, usize::MAX)?;
        let surplus = (own.len() + 1).saturating_sub(self.limits.sessions);
        for entry in own.iter().take(surplus) {
            self.erase(entry.clone());
            let start = entry.len().saturating_sub(32);
            if let Some(Ok(id)) = entry.get(start..).map(<[u8; 32]>::try_from) {
                self.remove_session(&SecretHash::from_bytes(id))?;
            }
        }
        self.put_expiring(id, session)?;
        self.mark(party_entry(&index, session.authenticated_at, id));
        Ok(())
    }

    /// Ends a session.
    pub(super) fn remove_session(&mut self, id: &SecretHash) -> Result<(), StoreError> {
        if let Some(session) = self.remove_expiring::<Session>(id)? {
            let index = sessions_of(&session.subject);
            self.erase(party_entry(&index, session.authenticated_at, id));
        }
        Ok(())
    }
}

/// The indexes that an unfinished authorization is in, and how many each may have.
fn parties(request: &AuthorizationRequest, limits: Limits) -> Vec<(Vec<u8>, usize)> {
    let mut parties = vec![(authorizations_of(&request.browser), limits.per_browser)];
    parties.extend(
        request
            .details
            .source
            .map(|source| (authorizations_of(&source), limits.per_address)),
    );
    parties
}
