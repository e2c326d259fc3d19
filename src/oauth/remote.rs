//! What others publish and we read: metadata documents of clients, and key sets.

use std::sync::Arc;

use serde_json::Value;
use url::Url;

use crate::domain::client::Client;
use crate::fetch::{Cache, Failure, Fetcher, Found, Kind, Patience};
use crate::jose::KeySet;

/// What was read lately.
pub struct Remote {
    /// Clients by the address of their document.
    pub(super) documents: Cache<Client>,
    /// Public keys by their address.
    keys: Cache<KeySet>,
}

impl Remote {
    /// Nothing yet.
    #[must_use]
    pub fn new(fetcher: Arc<Fetcher>) -> Self {
        Self {
            documents: Cache::new(Arc::clone(&fetcher), Kind::Document),
            keys: Cache::new(fetcher, Kind::Keys),
        }
    }

    /// The key set at an address. Where it lacks the key that a signature names it is fetched once more, for the signer may
    /// have changed keys; at most once in a minute.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn keys(&self, url: &Url, key_id: Option<&str>) -> Result<Arc<KeySet>, Failure> {
        let Found { value: keys, .. } = self.keys.get(url, Patience::STRICT, read_keys).await?;
        if key_id.is_none_or(|id| keys.names(id)) {
            return Ok(keys);
        }
        let again = self.keys.get(url, Patience::STRICT.but_new(), read_keys).await?;
        Ok(again.value)
    }
}

fn read_keys(body: &[u8]) -> Result<KeySet, String> {
    let value: Value = serde_json::from_slice(body).map_err(|_| "it is not JSON".to_owned())?;
    KeySet::parse(&value).map_err(|error| error.to_string())
}
