//! Clients that registered themselves: what keeps one on record, and who makes room for a newcomer.
//!
//! A client that is *in use* stays: one with a grant, or with something unfinished, be it an authorization, a code, a
//! pushed request or a device that waits. The others are *idle*, and are in an index in the order in which they have to go:
//! those that never had a grant first, the longest-registered of them before all; so a flood of registrations pushes out
//! nothing but itself.

use super::backend;
use super::change::Change;
use super::records::{
    client_grant_key, client_hold_key, consents_for, grants_for, grants_of, holds_of, idle_key, idle_place_key,
    idle_target, key, prefix, refresh_slot_key, refresh_slots_of, subject_grant_key,
};
use crate::domain::client::{Client, ClientId};
use crate::domain::clock::Timestamp;
use crate::domain::grant::{AccessToken, Grant, GrantId, RefreshToken};
use crate::domain::secret::SecretHash;
use crate::store::{Issued, Registration, StoreError};

/// Whether an idle client ever had a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// It registered, and that was all.
    Unused,
    /// It had one, which ended.
    Used,
}

impl Change<'_> {
    // --- registration

    /// Puts a client on record, if there is room or somebody idle makes some.
    pub(super) fn register_client(&mut self, client: &Client) -> Result<Registration, StoreError> {
        if !self.make_room_for_client()? {
            return Ok(Registration::Full);
        }
        self.put(&client.id, client)?;
        self.become_idle(&client.id, Past::Unused, client.created_at);
        Ok(Registration::Done)
    }

    /// Replaces a client's registration. What was allowed at its addresses has to be allowed again.
    pub(super) fn update_client(&mut self, client: &Client) -> Result<bool, StoreError> {
        if self.get::<Client>(&client.id)?.is_none() {
            return Ok(false);
        }
        self.put(&client.id, client)?;
        self.forget_consents(&client.id)?;
        Ok(true)
    }

    /// Forgets a client, and ends its grants.
    pub(super) fn remove_client(&mut self, id: &ClientId) -> Result<bool, StoreError> {
        if self.get::<Client>(id)?.is_none() {
            return Ok(false);
        }
        for entry in self.keys_under(&grants_of(id), usize::MAX)? {
            if let Some(grant) = grant_of(&entry) {
                self.remove_grant(&grant)?;
            }
        }
        self.forget_client(id)?;
        Ok(true)
    }

    /// Whether another client may register; removes idle ones until it may.
    fn make_room_for_client(&mut self) -> Result<bool, StoreError> {
        while self.counts().clients >= self.limits().registered_clients {
            let Some(entry) = self.keys_under(&[prefix::IDLE_CLIENT], 1)?.pop() else {
                return Ok(false);
            };
            self.erase(entry.clone());
            if let Some(client) = idle_target(&entry) {
                self.forget_client(&client)?;
            }
        }
        Ok(true)
    }

    fn forget_client(&mut self, id: &ClientId) -> Result<(), StoreError> {
        self.be_busy(id)?;
        self.erase(idle_place_key(id));
        self.remove(key::<Client>(id))?;
        self.forget_consents(id)
    }

    fn forget_consents(&mut self, id: &ClientId) -> Result<(), StoreError> {
        for consent in self.keys_under(&consents_for(id), usize::MAX)? {
            self.erase(consent);
        }
        Ok(())
    }

    // --- in use, or idle

    /// Something unfinished needs this client.
    pub(super) fn hold(&mut self, client: &ClientId, by: &[u8]) -> Result<(), StoreError> {
        self.mark(client_hold_key(client, by));
        self.be_busy(client)
    }

    /// That is over. `since` is when it began.
    pub(super) fn release(&mut self, client: &ClientId, by: &[u8], since: Timestamp) -> Result<(), StoreError> {
        let entry = client_hold_key(client, by);
        if !self.has(&entry)? {
            return Ok(());
        }
        self.erase(entry);
        self.rest(client, Past::Unused, since)
    }

    /// Puts a client among the idle ones, if it is on record and nothing needs it any more.
    fn rest(&mut self, client: &ClientId, past: Past, since: Timestamp) -> Result<(), StoreError> {
        let in_use =
            !self.keys_under(&holds_of(client), 1)?.is_empty() || !self.keys_under(&grants_of(client), 1)?.is_empty();
        if in_use || self.get::<Client>(client)?.is_none() {
            return Ok(());
        }
        // One that had a grant keeps its rank, whatever it began and left unfinished since.
        let (past, since) = match self.value(&idle_place_key(client))? {
            Some(place) if place.first() == Some(&1) => (Past::Used, since),
            _ => (past, since),
        };
        self.become_idle(client, past, since);
        Ok(())
    }

    fn become_idle(&mut self, client: &ClientId, past: Past, since: Timestamp) {
        let entry = idle_key(past, since, client);
        let place = [u8::from(past == Past::Used)]
            .into_iter()
            .chain(since.as_millis().to_be_bytes())
            .collect::<Vec<u8>>();
        self.mark(entry);
        self.point(idle_place_key(client), &place);
    }

    /// Takes a client from among the idle ones. Its rank is remembered.
    fn be_busy(&mut self, client: &ClientId) -> Result<(), StoreError> {
        let place_key = idle_place_key(client);
        let Some(place) = self.value(&place_key)? else {
            return Ok(());
        };
        let time = place.get(1..).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        let past = if place.first() == Some(&1) {
            Past::Used
        } else {
            Past::Unused
        };
        if let Some(time) = time {
            let since = Timestamp::from_millis(u64::from_be_bytes(time));
            self.erase(idle_key(past, since, client));
        }
        Ok(())
    }

    // --- grants

    /// Puts a grant on record; its client is not idle any more. `used_at` counts it among the grants that a person has with
    /// this client for this resource, of which the one that was quiet for longest makes room; one without is short-lived and made by a client
    /// that authenticates.
    pub(super) fn put_grant(
        &mut self,
        id: &GrantId,
        grant: &Grant,
        used_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.put_expiring(id, grant)?;
        self.mark(subject_grant_key(grant, id));
        if used_at.is_some() {
            self.make_room_for_grant(grant)?;
        }
        self.note_use(id, grant, used_at)?;
        self.be_busy(&grant.client_id)?;
        if self.get::<Client>(&grant.client_id)?.is_some() {
            self.point(idle_place_key(&grant.client_id), &[1]);
        }
        Ok(())
    }

    /// Notes that tokens of a grant were issued, and how often they were before.
    fn note_use(&mut self, id: &GrantId, grant: &Grant, used_at: Option<Timestamp>) -> Result<u32, StoreError> {
        let entry = client_grant_key(grant, id);
        let Some(used_at) = used_at else {
            self.mark(entry);
            return Ok(0);
        };
        let before = self.value(&entry)?;
        let before = before.and_then(|value| <[u8; 4]>::try_from(value.get(8..)?).ok());
        let times = before.map_or(0, |times| u32::from_be_bytes(times).wrapping_add(1));
        let value = [&used_at.as_millis().to_be_bytes()[..], &times.to_be_bytes()].concat();
        self.point(entry, &value);
        Ok(times)
    }

    /// Notes the tokens that a refresh yielded. A grant has room for so many refreshes; the tokens of the oldest go. Its
    /// refresh token was replaced long ago, and from now on is refused like one that never was.
    pub(super) fn note_refresh(&mut self, grant: &Grant, issued: &Issued) -> Result<(), StoreError> {
        let (access, token) = &issued.access;
        let times = self.note_use(&issued.grant_id, grant, Some(token.issued_at))?;
        let Some((refresh, _)) = &issued.refresh else {
            return Ok(());
        };
        let slot = refresh_slot_key(&issued.grant_id, times % self.limits().refreshes.max(1));
        if let Some(old) = self.value(&slot)? {
            let hash = |part: Option<&[u8]>| {
                let bytes = part.and_then(|part| <[u8; 32]>::try_from(part).ok());
                bytes.map(SecretHash::from_bytes)
            };
            if let Some(access) = hash(old.get(..32)) {
                self.remove_expiring::<AccessToken>(&access)?;
            }
            if let Some(refresh) = hash(old.get(32..)) {
                self.remove_expiring::<RefreshToken>(&refresh)?;
            }
        }
        self.point(slot, &[&access.as_bytes()[..], refresh.as_bytes()].concat());
        Ok(())
    }

    fn make_room_for_grant(&mut self, grant: &Grant) -> Result<(), StoreError> {
        let entries = self.keys_under(&grants_for(grant), usize::MAX)?;
        let most = self.limits().grants;
        if entries.len() < most {
            return Ok(());
        }
        let mut known = Vec::new();
        for entry in entries {
            let used_at = self.value(&entry)?.filter(|value| !value.is_empty());
            known.extend(used_at.zip(grant_of(&entry)));
        }
        known.sort();
        // A few at a time, so that somebody who has all that they may have is not sorted at every sign-in.
        let surplus = if known.len() < most {
            0
        } else {
            known.len() + 1 - most + most / 10
        };
        for (_, id) in known.iter().take(surplus) {
            self.remove_grant(id)?;
        }
        Ok(())
    }

    /// Ends a grant. If its client has nothing else, it may have to make room from now on.
    pub(super) fn remove_grant(&mut self, id: &GrantId) -> Result<(), StoreError> {
        let Some(grant) = self.remove_expiring::<Grant>(id)? else {
            return Ok(());
        };
        self.erase(client_grant_key(&grant, id));
        self.erase(subject_grant_key(&grant, id));
        for slot in self.keys_under(&refresh_slots_of(id), usize::MAX)? {
            self.erase(slot);
        }
        self.rest(&grant.client_id, Past::Used, grant.created_at)
    }
}

/// The grant that an entry of a client's index is for.
fn grant_of(entry: &[u8]) -> Option<GrantId> {
    let start = entry.len().checked_sub(16)?;
    let id = entry.get(start..).and_then(|id| <[u8; 16]>::try_from(id).ok())?;
    Some(GrantId::from_bytes(id))
}

impl Change<'_> {
    /// The keys that begin with this, as this change has left them: at most so many.
    pub(super) fn keys_under(&self, start: &[u8], most: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut keys = Vec::new();
        for entry in self.tree().scan_prefix(start).keys() {
            if keys.len() >= most {
                return Ok(keys);
            }
            let entry = entry.map_err(backend("reading an index"))?;
            if !self.removes(&entry) {
                keys.push(entry.to_vec());
            }
        }
        for fresh in self.written_under(start) {
            if keys.len() >= most {
                break;
            }
            if !keys.contains(fresh) {
                keys.push(fresh.clone());
            }
        }
        Ok(keys)
    }
}
