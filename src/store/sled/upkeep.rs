//! Keeping the store bounded: making room where a cap is reached, and removing what has expired.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::SledStore;
use super::events::{end_authorization, end_grant};
use super::records::{Expiring, Kind, StoredClient, expiry_key};
use super::transaction::backend;
use crate::domain::clock::Timestamp;
use crate::domain::secret::SecretHash;
use crate::store::StoreError;

impl SledStore {
    /// Makes room for one client. Whether there is any.
    pub(super) fn admit_client(&self) -> Result<bool, StoreError> {
        while self.clients.load(Ordering::SeqCst) >= self.limits.clients {
            let oldest = self
                .shared
                .active()
                .db
                .scan_prefix([Kind::IdleClient as u8])
                .keys()
                .next();
            let Some(index) = oldest.transpose().map_err(backend("looking for an idle client"))? else {
                return Ok(false);
            };
            let id = index.get(9..).unwrap_or_default().to_vec();
            let removed = self.transact("evict_client", |t| {
                let key = Kind::Client.key(&id);
                let idle = t
                    .get::<StoredClient>(Kind::Client, &key)?
                    .is_some_and(|stored| stored.live_grants == 0);
                t.remove(&index)?;
                if idle { t.remove(&key) } else { Ok(false) }
            })?;
            if removed {
                self.clients.fetch_sub(1, Ordering::SeqCst);
            }
        }
        Ok(true)
    }

    /// Makes room for one unfinished authorization.
    pub(super) fn admit_authorization(&self) -> Result<(), StoreError> {
        while self.authorizations.load(Ordering::SeqCst) >= self.limits.authorizations {
            let oldest = self
                .shared
                .active()
                .db
                .scan_prefix([Kind::AuthorizationOrder as u8])
                .keys()
                .next();
            let Some(index) = oldest
                .transpose()
                .map_err(backend("looking for an old authorization"))?
            else {
                return Ok(());
            };
            let id = index
                .get(9..)
                .and_then(|bytes| bytes.try_into().ok())
                .map(SecretHash::from_bytes);
            let removed = self.transact("evict_authorization", |t| {
                t.remove(&index)?;
                id.map_or(Ok(None), |id| end_authorization(t, &id))
            })?;
            if removed.is_some() {
                self.authorizations.fetch_sub(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// Removes one expired record if its own time has come, with all that hangs on it.
    fn expire(&self, index: &[u8], now: Timestamp) -> Result<bool, StoreError> {
        let key = index.get(9..).unwrap_or_default();
        let Some(kind) = key.first().and_then(|byte| Kind::expiring(*byte)) else {
            return self.transact("sweep", |t| t.remove(index));
        };
        let removed = self.transact("sweep", |t| {
            t.remove(index)?;
            // A record that was prolonged has another entry in the index.
            if t.get::<Expiring>(kind, key)?
                .is_none_or(|record| record.expires_at > now)
            {
                return Ok(false);
            }
            match kind {
                Kind::Grant => end_grant(t, key),
                Kind::Authorization => {
                    let id = key
                        .get(1..)
                        .and_then(|bytes| bytes.try_into().ok())
                        .map(SecretHash::from_bytes);
                    Ok(id.map_or(Ok(None), |id| end_authorization(t, &id))?.is_some())
                }
                _ => t.remove(key),
            }
        })?;
        if removed && kind == Kind::Authorization {
            self.authorizations.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(removed)
    }

    /// Removes what has expired, a batch at a time.
    pub(super) async fn sweep_expired(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.writable()?;
        let started = Instant::now();
        // The end is exclusive, and a record counts as expired in the very millisecond.
        let end = expiry_key(Timestamp::from_millis(now.as_millis().saturating_add(1)), b"");
        let due: Vec<_> = {
            let active = self.shared.active();
            active
                .db
                .range([Kind::Expiry as u8].to_vec()..end)
                .keys()
                .take(limit)
                .collect::<Result<_, _>>()
                .map_err(backend("sweeping"))?
        };
        let mut removed = 0;
        for index in &due {
            removed += usize::from(self.expire(index, now)?);
            tokio::task::yield_now().await;
        }
        if !due.is_empty() {
            self.flusher.flushed().await?;
            self.observer.operation("sweep", started.elapsed());
        }
        Ok(removed)
    }
}
