//! Removal of what has expired.

use super::change::Change;
use super::records::{Expiring, UsedOnce, expiry_key, expiry_target, prefix};
use super::{SledStore, backend};
use crate::domain::clock::Timestamp;
use crate::domain::device::DeviceAuthorization;
use crate::domain::grant::{
    AccessToken, AuthorizationCode, AuthorizationRequest, Grant, GrantId, PushedRequest, RefreshToken, Session,
};
use crate::domain::secret::SecretHash;
use crate::store::StoreError;

impl SledStore {
    /// Goes through the expiry index up to `now`. Each record goes in a change of its own, so that nobody waits for all
    /// of them; one flush is for all.
    pub(super) async fn sweep_expired(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let entries = self
            .shared
            .active()
            .tree
            .range(vec![prefix::EXPIRY]..expiry_key(now, &[]))
            .keys()
            .take(limit)
            .collect::<Result<Vec<_>, _>>()
            .map_err(backend("reading the expiry index"))?;
        let (mut removed, mut last) = (0, 0);
        for entry in entries {
            let (gone, number) = self.shared.apply(|change| expire(change, &entry, now)).await?;
            removed += usize::from(gone);
            last = number;
        }
        self.flusher.flushed(&self.shared, last).await?;
        Ok(removed)
    }
}

/// Removes what one entry of the expiry index points to, unless the record itself says otherwise.
fn expire(change: &mut Change<'_>, entry: &[u8], now: Timestamp) -> Result<bool, StoreError> {
    change.erase(entry.to_vec());
    let Some(target) = expiry_target(entry) else {
        return Ok(false);
    };
    let Some((kind, id)) = target.split_first() else {
        return Ok(false);
    };
    match *kind {
        prefix::AUTHORIZATION => {
            let lapsed = lapsed::<AuthorizationRequest>(change, target, now)?;
            if let (true, Ok(id)) = (lapsed, <[u8; 32]>::try_from(id)) {
                change.remove_authorization(&SecretHash::from_bytes(id))?;
            }
            Ok(lapsed)
        }
        prefix::GRANT => {
            let lapsed = lapsed::<Grant>(change, target, now)?;
            if let (true, Ok(id)) = (lapsed, <[u8; 16]>::try_from(id)) {
                change.remove_grant(&GrantId::from_bytes(id))?;
            }
            Ok(lapsed)
        }
        prefix::DEVICE => {
            let lapsed = lapsed::<DeviceAuthorization>(change, target, now)?;
            if let (true, Ok(id)) = (lapsed, <[u8; 32]>::try_from(id)) {
                change.remove_device(&SecretHash::from_bytes(id))?;
            }
            Ok(lapsed)
        }
        prefix::USED_ONCE => expire_plain::<UsedOnce>(change, target, now),
        prefix::PUSHED_REQUEST => {
            let lapsed = lapsed::<PushedRequest>(change, target, now)?;
            if let (true, Ok(id)) = (lapsed, <[u8; 32]>::try_from(id)) {
                change.remove_pushed_request(&SecretHash::from_bytes(id))?;
            }
            Ok(lapsed)
        }
        prefix::SESSION => {
            let lapsed = lapsed::<Session>(change, target, now)?;
            if let (true, Ok(id)) = (lapsed, <[u8; 32]>::try_from(id)) {
                change.remove_session(&SecretHash::from_bytes(id))?;
            }
            Ok(lapsed)
        }
        prefix::CODE => {
            let lapsed = lapsed::<AuthorizationCode>(change, target, now)?;
            if let (true, Ok(id)) = (lapsed, <[u8; 32]>::try_from(id)) {
                change.remove_code(&SecretHash::from_bytes(id))?;
            }
            Ok(lapsed)
        }
        prefix::ACCESS_TOKEN => expire_plain::<AccessToken>(change, target, now),
        prefix::REFRESH_TOKEN => expire_plain::<RefreshToken>(change, target, now),
        _ => Ok(false),
    }
}

fn expire_plain<R: Expiring>(change: &mut Change<'_>, key: &[u8], now: Timestamp) -> Result<bool, StoreError> {
    let lapsed = lapsed::<R>(change, key, now)?;
    if lapsed {
        change.remove(key.to_vec())?;
    }
    Ok(lapsed)
}

/// Whether the record itself has expired. If not, it is put back into the index where it belongs. One that cannot be read
/// goes by the index, or it would stand in the way for ever.
fn lapsed<R: Expiring>(change: &mut Change<'_>, key: &[u8], now: Timestamp) -> Result<bool, StoreError> {
    match change.read::<R>(key) {
        Ok(Some(record)) if record.expires_at() < now => Ok(true),
        Ok(Some(record)) => {
            change.mark(expiry_key(record.expires_at(), key));
            Ok(false)
        }
        Ok(None) => Ok(false),
        Err(StoreError::Corrupt { kind, detail }) => {
            tracing::warn!(
                record.kind = kind,
                detail,
                "an expired record cannot be read and is removed"
            );
            change.remove(key.to_vec())?;
            Ok(true)
        }
        Err(error) => Err(error),
    }
}
