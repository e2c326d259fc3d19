//! How records are written: the first byte of a key says what kind of record it is, the first byte of a value which version
//! of it; the rest of the value is JSON. docs/storage.md lists them all.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::client::{Client, ClientId};
use crate::domain::clock::Timestamp;
use crate::domain::grant::{ConsentKey, GrantId};
use crate::domain::secret::SecretHash;
use crate::store::StoreError;

/// The version byte that we write.
const VERSION: u8 = 1;

/// What a record is about; the byte is the first of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A client that registered itself.
    Client = b'c',
    /// Index: registered clients without a live grant, oldest first.
    IdleClient = b'i',
    /// An unfinished authorization.
    Authorization = b'a',
    /// Index: unfinished authorizations, oldest first.
    AuthorizationOrder = b'o',
    /// A signed-in browser.
    Session = b's',
    /// A remembered consent.
    Consent = b'k',
    /// An authorization code.
    Code = b'd',
    /// A grant.
    Grant = b'g',
    /// An access token.
    AccessToken = b't',
    /// A refresh token.
    RefreshToken = b'r',
    /// Index: what expires when.
    Expiry = b'e',
    /// A signing key, or the format of the whole store.
    Meta = b'm',
}

/// A client as it is kept: with how many live grants it has.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredClient {
    pub(super) client: Client,
    pub(super) live_grants: u32,
}

/// Lets the sweeper see when any record expires.
#[derive(Debug, Deserialize)]
pub(super) struct Expiring {
    pub(super) expires_at: Timestamp,
}

impl Kind {
    /// The name for errors.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::IdleClient => "idle client index",
            Self::Authorization => "authorization",
            Self::AuthorizationOrder => "authorization index",
            Self::Session => "session",
            Self::Consent => "consent",
            Self::Code => "code",
            Self::Grant => "grant",
            Self::AccessToken => "access token",
            Self::RefreshToken => "refresh token",
            Self::Expiry => "expiry index",
            Self::Meta => "meta",
        }
    }

    /// The kinds that expire.
    pub(super) fn expiring(byte: u8) -> Option<Self> {
        [
            Self::Authorization,
            Self::Session,
            Self::Code,
            Self::Grant,
            Self::AccessToken,
            Self::RefreshToken,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }

    /// A key of this kind.
    pub(super) fn key(self, rest: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(1 + rest.len());
        key.push(self as u8);
        key.extend_from_slice(rest);
        key
    }

    /// A key of this kind that sorts by time.
    fn timed(self, at: Timestamp, rest: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(9 + rest.len());
        key.push(self as u8);
        key.extend_from_slice(&at.as_millis().to_be_bytes());
        key.extend_from_slice(rest);
        key
    }
}

pub(super) fn client_key(id: &ClientId) -> Vec<u8> {
    Kind::Client.key(id.as_str().as_bytes())
}

pub(super) fn idle_key(client: &Client) -> Vec<u8> {
    Kind::IdleClient.timed(client.created_at, client.id.as_str().as_bytes())
}

pub(super) fn hash_key(kind: Kind, hash: &SecretHash) -> Vec<u8> {
    kind.key(hash.as_bytes())
}

pub(super) fn grant_key(id: &GrantId) -> Vec<u8> {
    Kind::Grant.key(id.as_bytes())
}

pub(super) fn order_key(created: Timestamp, id: &SecretHash) -> Vec<u8> {
    Kind::AuthorizationOrder.timed(created, id.as_bytes())
}

pub(super) fn expiry_key(expires_at: Timestamp, key: &[u8]) -> Vec<u8> {
    Kind::Expiry.timed(expires_at, key)
}

/// A consent's key is a hash of its parts, each with its length in front so that no two lists of parts look alike.
pub(super) fn consent_key(key: &ConsentKey) -> Vec<u8> {
    let mut digest = Sha256::new();
    for part in [
        key.subject.as_str(),
        key.client_id.as_str(),
        key.redirect.as_str(),
        key.resource.as_str(),
    ] {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part.as_bytes());
    }
    Kind::Consent.key(&digest.finalize())
}

/// A record as bytes.
pub(super) fn encode(kind: Kind, record: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, record).map_err(|error| StoreError::Corrupt {
        kind: kind.name(),
        detail: error.to_string(),
    })?;
    Ok(bytes)
}

/// A record from bytes.
pub(super) fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| {
            // Serde's messages can quote the value; the position alone says enough.
            StoreError::Corrupt {
                kind: kind.name(),
                detail: format!("malformed at column {}", error.column()),
            }
        }),
        Some((version, _)) => Err(StoreError::Corrupt {
            kind: kind.name(),
            detail: format!("version {version} is not known"),
        }),
        None => Err(StoreError::Corrupt {
            kind: kind.name(),
            detail: "it is empty".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_cannot_be_read_is_said_to_be_corrupt_without_its_content() {
        let secretive = b"\x01{\"expires_at\":\"mgat_secret\"}";
        for (bytes, detail) in [
            (&b""[..], "empty"),
            (b"\x07{}", "version 7"),
            (b"\x01{", "malformed"),
            (secretive, "malformed"),
        ] {
            let error = decode::<Expiring>(Kind::Code, bytes).unwrap_err().to_string();
            assert!(
                error.contains(detail) && error.contains("code") && !error.contains("secret"),
                "{error}"
            );
        }
    }

    #[test]
    fn keys_by_time_sort_by_time() {
        let at = |millis| expiry_key(Timestamp::from_millis(millis), b"x");
        assert!(at(1) < at(255) && at(255) < at(256) && at(256) < at(u64::MAX));
    }
}
