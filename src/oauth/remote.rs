//! What others publish and we read: metadata documents of clients, key sets, and what identity providers say.

use std::sync::Arc;

use serde_json::Value;
use url::Url;

use crate::domain::client::Client;
use crate::fetch::{Cache, Failure, Fetcher, Found, Kind, Patience};
use crate::identity::elsewhere::Providers;
use crate::jose::KeySet;

/// What was read lately.
pub struct Remote {
    /// Clients by the address of their document.
    pub(super) documents: Cache<Client>,
    /// Public keys by their address.
    keys: Cache<KeySet>,
    /// The same for addresses that the configuration names.
    configured_keys: Cache<KeySet>,
    /// Where people sign in who have their account elsewhere.
    pub(super) providers: Arc<Providers>,
}

/// Who wrote down where keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A client, which may be anybody.
    ByStranger,
    /// Whoever runs the gateway: the keys may be inside their own network.
    ByOperator,
}

impl Remote {
    /// Nothing yet. What strangers name is asked for through the first, what the configuration names through the second.
    #[must_use]
    pub fn new(public: Arc<Fetcher>, anywhere: Arc<Fetcher>) -> Self {
        Self {
            documents: Cache::new(Arc::clone(&public), Kind::Document),
            keys: Cache::new(public, Kind::Keys),
            configured_keys: Cache::new(Arc::clone(&anywhere), Kind::Keys),
            providers: Arc::new(Providers::new(anywhere)),
        }
    }

    /// The key set at an address. Where it lacks the key that a signature names it is fetched once more, for the signer may
    /// have changed keys; at most once in a minute.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn keys(&self, url: &str, named: Named, key_id: Option<&str>) -> Result<Arc<KeySet>, Failure> {
        let url = Url::parse(url).map_err(|_| Failure::Invalid("the address of the keys is not a URL".to_owned()))?;
        let cache = match named {
            Named::ByStranger => &self.keys,
            Named::ByOperator => &self.configured_keys,
        };
        let Found { value: keys, .. } = cache.get(&url, Patience::STRICT, read_keys).await?;
        if key_id.is_none_or(|id| keys.names(id)) {
            return Ok(keys);
        }
        let again = cache.get(&url, Patience::STRICT.but_new(), read_keys).await?;
        Ok(again.value)
    }
}

fn read_keys(body: &[u8]) -> Result<KeySet, String> {
    let value: Value = serde_json::from_slice(body).map_err(|_| "it is not JSON".to_owned())?;
    KeySet::parse(&value).map_err(|error| error.to_string())
}
