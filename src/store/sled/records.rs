//! What a key and a value look like; docs/storage.md is the same in prose, and changes with this file.
//!
//! One tree holds everything. The first byte of a key says what it is. Records are a version byte and JSON; index entries
//! have no value. Times in keys are big-endian, so that the order of keys is the order of time.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::clients::Past;
use crate::domain::client::{Client, ClientId};
use crate::domain::clock::Timestamp;
use crate::domain::device::DeviceAuthorization;
use crate::domain::factors::Factors;
use crate::domain::grant::{
    AccessToken, AuthorizationCode, AuthorizationRequest, ConsentKey, Grant, GrantId, PushedRequest, RefreshToken,
    Session,
};
use crate::domain::key::KeyRecord;
use crate::domain::person::Person;
use crate::domain::scope::Scope;
use crate::domain::secret::SecretHash;
use crate::domain::user::Subject;
use crate::store::StoreError;

/// The version that every record begins with.
const RECORD_VERSION: u8 = 1;
/// Stands between a client id, which is visible ASCII, and what follows it.
const SEPARATOR: u8 = 0;

/// What the first byte of a key says.
pub(super) mod prefix {
    pub(in crate::store::sled) const CLIENT: u8 = b'c';
    pub(in crate::store::sled) const AUTHORIZATION: u8 = b'a';
    pub(in crate::store::sled) const SESSION: u8 = b's';
    pub(in crate::store::sled) const CODE: u8 = b'k';
    pub(in crate::store::sled) const GRANT: u8 = b'g';
    pub(in crate::store::sled) const ACCESS_TOKEN: u8 = b't';
    pub(in crate::store::sled) const REFRESH_TOKEN: u8 = b'r';
    pub(in crate::store::sled) const CONSENT: u8 = b'n';
    pub(in crate::store::sled) const SIGNING_KEY: u8 = b'y';
    pub(in crate::store::sled) const KEY: u8 = b'j';
    pub(in crate::store::sled) const USED_ONCE: u8 = b'u';
    pub(in crate::store::sled) const PUSHED_REQUEST: u8 = b'p';
    pub(in crate::store::sled) const DEVICE: u8 = b'd';
    /// Index: devices by the code that the person types.
    pub(in crate::store::sled) const USER_CODE: u8 = b'U';
    /// Index: expiry, then the key of the record.
    pub(in crate::store::sled) const EXPIRY: u8 = b'X';
    /// Index: unfinished authorizations by age.
    pub(in crate::store::sled) const AUTHORIZATION_AGE: u8 = b'A';
    /// Index: registered clients that nothing needs, in the order in which they make room.
    pub(in crate::store::sled) const IDLE_CLIENT: u8 = b'I';
    /// Index: where in that order a client is, or was.
    pub(in crate::store::sled) const IDLE_PLACE: u8 = b'i';
    /// Index: the grants of a client, by subject.
    pub(in crate::store::sled) const CLIENT_GRANT: u8 = b'G';
    /// Index: what is unfinished and needs a client.
    pub(in crate::store::sled) const CLIENT_HOLD: u8 = b'H';
    /// Index: the unfinished authorizations of a browser or an address by age.
    pub(in crate::store::sled) const PARTY: u8 = b'B';
    /// Index: what the last refreshes of a grant yielded.
    pub(in crate::store::sled) const REFRESH: u8 = b'W';
    pub(in crate::store::sled) const PERSON: u8 = b'e';
    pub(in crate::store::sled) const FACTORS: u8 = b'f';
    pub(in crate::store::sled) const PASSKEY_OWNER: u8 = b'F';
    /// Index: the grants of a subject.
    pub(in crate::store::sled) const SUBJECT_GRANT: u8 = b'V';
    /// What was done to the store as a whole.
    pub(in crate::store::sled) const DONE: u8 = b'M';
    /// Index: the sessions of a subject by age.
    pub(in crate::store::sled) const SUBJECT_SESSION: u8 = b'S';
}

/// Something that is kept under one key.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// The first byte of its key.
    const PREFIX: u8;
    /// What errors call it.
    const KIND: &'static str;
}

/// A record that ends by itself; it has an entry in the expiry index.
pub(super) trait Expiring: Record {
    /// When it lapses.
    fn expires_at(&self) -> Timestamp;
}

macro_rules! records {
    ($($record:ty: $prefix:ident, $kind:literal $(, $expiring:ident)?;)*) => {$(
        impl Record for $record {
            const PREFIX: u8 = prefix::$prefix;
            const KIND: &'static str = $kind;
        }
        $(impl Expiring for $record {
            fn expires_at(&self) -> Timestamp {
                self.$expiring
            }
        })?
    )*};
}

records! {
    Client: CLIENT, "client";
    AuthorizationRequest: AUTHORIZATION, "authorization request", expires_at;
    Session: SESSION, "session", expires_at;
    AuthorizationCode: CODE, "authorization code", expires_at;
    Grant: GRANT, "grant", expires_at;
    AccessToken: ACCESS_TOKEN, "access token", expires_at;
    RefreshToken: REFRESH_TOKEN, "refresh token", expires_at;
    Consent: CONSENT, "consent";
    SigningKey: SIGNING_KEY, "signing key";
    KeyRecord: KEY, "token signing key";
    UsedOnce: USED_ONCE, "used identifier", expires_at;
    PushedRequest: PUSHED_REQUEST, "pushed request", expires_at;
    DeviceAuthorization: DEVICE, "device authorization", expires_at;
    Person: PERSON, "person";
    Factors: FACTORS, "second factor";
    PasskeyOwner: PASSKEY_OWNER, "owner of a passkey";
}

/// What somebody allowed a client, with the key that it is remembered under in full: the record's own key has its hash.
#[derive(Serialize, Deserialize)]
pub(super) struct Consent {
    pub(super) subject: String,
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    pub(super) resource: String,
    pub(super) scope: Scope,
}

/// A key for signing cookies. [`SecretHash`] lends it its encoding; it is 32 bytes like any other.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct SigningKey(pub(super) SecretHash);

/// Whose a passkey is: none is two people's (Web Authentication Level 3, section 7.1, step 27).
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct PasskeyOwner(pub(super) String);

/// An identifier that was used and may not be used again.
#[derive(Serialize, Deserialize)]
pub(super) struct UsedOnce {
    pub(super) expires_at: Timestamp,
}

/// What a record is called by: the rest of its key.
pub(super) trait Id {
    /// The bytes.
    fn bytes(&self) -> Vec<u8>;
}

impl Id for SecretHash {
    fn bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl Id for GrantId {
    fn bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl Id for ClientId {
    fn bytes(&self) -> Vec<u8> {
        self.as_str().as_bytes().to_vec()
    }
}

impl Id for Subject {
    fn bytes(&self) -> Vec<u8> {
        self.as_str().as_bytes().to_vec()
    }
}

impl Id for str {
    fn bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl Id for ConsentKey {
    /// Begins with the client, so that a client's consents can go with it; the hash keeps it short.
    fn bytes(&self) -> Vec<u8> {
        let mut digest = Sha256::new();
        for part in [self.subject.as_str(), self.redirect.as_str(), self.resource.as_str()] {
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(part.as_bytes());
        }
        if let Some(edition) = &self.edition {
            digest.update(edition.as_bytes());
        }
        let mut bytes = self.client_id.bytes();
        bytes.push(SEPARATOR);
        bytes.extend_from_slice(&digest.finalize());
        bytes
    }
}

impl Consent {
    /// Nothing allowed yet.
    pub(super) fn none(key: &ConsentKey) -> Self {
        Self {
            subject: key.subject.as_str().to_owned(),
            client_id: key.client_id.as_str().to_owned(),
            redirect_uri: key.redirect.as_str().to_owned(),
            resource: key.resource.as_str().to_owned(),
            scope: Scope::empty(),
        }
    }
}

/// The key of a record.
pub(super) fn key<R: Record>(id: &(impl Id + ?Sized)) -> Vec<u8> {
    joined(R::PREFIX, &[&id.bytes()])
}

/// The entry of a record in the expiry index.
pub(super) fn expiry_key(at: Timestamp, record: &[u8]) -> Vec<u8> {
    joined(prefix::EXPIRY, &[&at.as_millis().to_be_bytes(), record])
}

/// Where an entry of the expiry index points to.
pub(super) fn expiry_target(entry: &[u8]) -> Option<&[u8]> {
    entry.get(1 + size_of::<u64>()..).filter(|record| !record.is_empty())
}

/// The entry of an unfinished authorization in the index by age.
pub(super) fn age_key(created_at: Timestamp, id: &[u8]) -> Vec<u8> {
    joined(prefix::AUTHORIZATION_AGE, &[&created_at.as_millis().to_be_bytes(), id])
}

/// The entry of a client in the index of idle ones: those that never had a grant first.
pub(super) fn idle_key(past: Past, since: Timestamp, client: &ClientId) -> Vec<u8> {
    let rank = [u8::from(past == Past::Used)];
    let since = since.as_millis().to_be_bytes();
    joined(prefix::IDLE_CLIENT, &[&rank, &since, client.as_str().as_bytes()])
}

/// The client of such an entry.
pub(super) fn idle_target(entry: &[u8]) -> Option<ClientId> {
    let id = entry.get(2 + size_of::<u64>()..)?;
    std::str::from_utf8(id).ok().and_then(ClientId::parse)
}

/// Where it is kept which of those entries is a client's.
pub(super) fn idle_place_key(client: &ClientId) -> Vec<u8> {
    joined(prefix::IDLE_PLACE, &[client.as_str().as_bytes()])
}

/// What every entry in the index of this client's grants begins with.
pub(super) fn grants_of(client: &ClientId) -> Vec<u8> {
    joined(prefix::CLIENT_GRANT, &[client.as_str().as_bytes(), &[SEPARATOR]])
}

/// The same for those of one subject and resource.
pub(super) fn grants_for(grant: &Grant) -> Vec<u8> {
    let mut digest = Sha256::new();
    digest.update(grant.subject.as_str());
    digest.update([SEPARATOR]);
    digest.update(grant.resource.as_str());
    let mut entry = grants_of(&grant.client_id);
    entry.extend_from_slice(&digest.finalize());
    entry
}

/// The entry of one grant in that index.
pub(super) fn client_grant_key(grant: &Grant, id: &GrantId) -> Vec<u8> {
    let mut entry = grants_for(grant);
    entry.extend_from_slice(id.as_bytes());
    entry
}

/// What the key of everything that the refreshes of a grant yielded begins with.
pub(super) fn refresh_slots_of(grant: &GrantId) -> Vec<u8> {
    joined(prefix::REFRESH, &[grant.as_bytes()])
}

/// Where the tokens of one of its refreshes are noted.
pub(super) fn refresh_slot_key(grant: &GrantId, slot: u32) -> Vec<u8> {
    joined(prefix::REFRESH, &[grant.as_bytes(), &slot.to_be_bytes()])
}

/// What every entry in the index of what needs this client begins with.
pub(super) fn holds_of(client: &ClientId) -> Vec<u8> {
    joined(prefix::CLIENT_HOLD, &[client.as_str().as_bytes(), &[SEPARATOR]])
}

/// The entry of something unfinished in that index.
pub(super) fn client_hold_key(client: &ClientId, by: &[u8]) -> Vec<u8> {
    let mut entry = holds_of(client);
    entry.extend_from_slice(by);
    entry
}

/// What every entry in the index of a browser's or an address's unfinished authorizations begins with.
pub(super) fn authorizations_of(party: &SecretHash) -> Vec<u8> {
    joined(prefix::PARTY, &[party.as_bytes()])
}

/// What every entry in the index of somebody's sessions begins with.
pub(super) fn sessions_of(subject: &Subject) -> Vec<u8> {
    joined(prefix::SUBJECT_SESSION, &[&Sha256::digest(subject.as_str())])
}

/// What every entry in the index of somebody's grants begins with.
pub(super) fn grants_of_subject(subject: &Subject) -> Vec<u8> {
    joined(prefix::SUBJECT_GRANT, &[&Sha256::digest(subject.as_str())])
}

/// The entry of one grant in that index.
pub(super) fn subject_grant_key(grant: &Grant, id: &GrantId) -> Vec<u8> {
    let mut entry = grants_of_subject(&grant.subject);
    entry.extend_from_slice(id.as_bytes());
    entry
}

/// Says that this index is complete: stores of before did not have it.
pub(super) fn subject_grants_built_key() -> Vec<u8> {
    joined(prefix::DONE, &[b"grants by subject"])
}

/// An entry of either index, by age.
pub(super) fn party_entry(index: &[u8], since: Timestamp, id: &SecretHash) -> Vec<u8> {
    let mut entry = index.to_vec();
    entry.extend_from_slice(&since.as_millis().to_be_bytes());
    entry.extend_from_slice(id.as_bytes());
    entry
}

/// What the key of every consent for this client begins with.
pub(super) fn consents_for(client: &ClientId) -> Vec<u8> {
    joined(prefix::CONSENT, &[client.as_str().as_bytes(), &[SEPARATOR]])
}

/// The entry of a device in the index by user code.
pub(super) fn user_code_key(user_code: &SecretHash) -> Vec<u8> {
    joined(prefix::USER_CODE, &[user_code.as_bytes()])
}

fn joined(prefix: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![prefix];
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// A record as it is written.
pub(super) fn encode<R: Record>(record: &R) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![RECORD_VERSION];
    serde_json::to_writer(&mut bytes, record).map_err(|error| StoreError::Backend {
        operation: "writing a record",
        source: Box::new(error),
    })?;
    Ok(bytes)
}

/// A record as it was written.
pub(super) fn decode<R: Record>(bytes: &[u8]) -> Result<R, StoreError> {
    let corrupt = |detail: String| StoreError::Corrupt { kind: R::KIND, detail };
    match bytes.split_first() {
        None => Err(corrupt("it is empty".to_owned())),
        Some((&RECORD_VERSION, json)) => serde_json::from_slice(json)
            // The parser's own words may quote the record.
            .map_err(|error| corrupt(format!("its JSON breaks at column {}", error.column()))),
        Some((version, _)) => Err(corrupt(format!("it has version {version}, and version 1 is known"))),
    }
}
