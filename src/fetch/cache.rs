//! What was fetched and found good, for as long as its site allows. Errors and bad documents are never kept as answers;
//! that there was one is remembered for a moment, so that nobody can make us ask again and again.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use url::Url;

use super::freshness::{Freshness, MOST};
use super::limits::{REST, Standing};
use super::{FetchError, Fetcher, Kind};
use crate::domain::clock::Timestamp;

/// Good answers that are kept.
const KEPT: usize = 1000;
/// Failures that are remembered.
const FAILURES: usize = 4096;

/// Good answers of one kind, as what they say.
pub struct Cache<T> {
    fetcher: Arc<Fetcher>,
    kind: Kind,
    good: Mutex<LruCache<String, Good<T>>>,
    failures: Mutex<LruCache<String, (Timestamp, Failure)>>,
    /// One lock for each address that is being fetched: of many who want it, one asks.
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

struct Good<T> {
    value: Arc<T>,
    fetched_at: Timestamp,
    freshness: Freshness,
}

impl<T> Clone for Good<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            ..*self
        }
    }
}

/// Which answers will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How old an answer may be that its site still calls fresh.
    pub fresh: Duration,
    /// How old one may be where no newer one can be had.
    pub stale: Duration,
    /// Whether an old one will do even where its site has no good one any more.
    pub withdrawn: bool,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// What it says.
    pub value: Arc<T>,
    /// Whether its address gave a good one for the first time, as far as is remembered.
    pub first: bool,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What was fetched is not what it should be; a sentence in our own words.
    #[error("{0}")]
    Invalid(String),
}

impl Failure {
    const fn outcome(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.as_str(),
            Self::Invalid(_) => "invalid",
        }
    }
}

// === impl Patience ===

impl Patience {
    /// What a site calls fresh, and nothing that is a day old.
    pub const STRICT: Self = Self {
        fresh: MOST,
        stale: MOST,
        withdrawn: false,
    };
    /// The same, but for a while what was good before will do: an outage elsewhere signs nobody out here.
    pub const LENIENT: Self = Self {
        fresh: MOST,
        stale: Duration::from_secs(7 * 24 * 60 * 60),
        withdrawn: true,
    };

    /// Only an answer of the last minute is new enough to go without asking again.
    #[must_use]
    pub const fn but_new(self) -> Self {
        Self {
            fresh: Duration::from_secs(60),
            ..self
        }
    }
}

// === impl Cache ===

impl<T: Send + Sync> Cache<T> {
    /// An empty cache.
    #[must_use]
    pub fn new(fetcher: Arc<Fetcher>, kind: Kind) -> Self {
        let capacity = |most| NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Self {
            fetcher,
            kind,
            good: Mutex::new(LruCache::new(capacity(KEPT))),
            failures: Mutex::new(LruCache::new(capacity(FAILURES))),
            flights: Mutex::new(HashMap::new()),
        }
    }

    /// What an address says: from here if that is new enough, else fetched and read.
    ///
    /// # Errors
    /// If it cannot be had, and what was good before is too old.
    pub async fn get(
        &self,
        url: &Url,
        patience: Patience,
        read: impl Fn(&[u8]) -> Result<T, String> + Send,
    ) -> Result<Found<T>, Failure> {
        if let Some(answer) = self.without_asking(url, patience) {
            return answer;
        }
        let flight = Flight::board(self, url.as_str());
        let guard = flight.lock().await;
        // Whoever was here first has asked meanwhile.
        if let Some(answer) = self.without_asking(url, patience) {
            return answer;
        }
        let before = lock(&self.good).contains(url.as_str());
        let standing = if before { Standing::Known } else { Standing::New };
        let result = self.ask(url, standing, read).await;
        drop(guard);
        match result {
            Ok(value) => Ok(Found { value, first: !before }),
            Err(failure) => self.stale(url, patience, failure),
        }
    }

    /// Fetches and reads, and keeps what came of it.
    async fn ask(
        &self,
        url: &Url,
        standing: Standing,
        read: impl Fn(&[u8]) -> Result<T, String> + Send,
    ) -> Result<Arc<T>, Failure> {
        let fetched = self.fetcher.fetch(url, self.kind, standing).await;
        let now = self.fetcher.clock.now();
        let result = fetched.map_err(Failure::Fetch).and_then(|response| {
            let value = read(&response.body).map_err(Failure::Invalid)?;
            Ok((Arc::new(value), response.freshness))
        });
        let outcome = result.as_ref().map_or_else(Failure::outcome, |_| "ok");
        self.fetcher.observer.fetched(self.kind, outcome);
        match result {
            Ok((value, freshness)) => {
                let good = Good {
                    value: Arc::clone(&value),
                    fetched_at: now,
                    freshness,
                };
                lock(&self.good).put(url.as_str().to_owned(), good);
                lock(&self.failures).pop(url.as_str());
                Ok(value)
            }
            Err(failure) => {
                tracing::info!(
                    kind = self.kind.as_str(),
                    host = url.host_str(),
                    reason = %failure,
                    "a fetch brought nothing"
                );
                if !matches!(failure, Failure::Fetch(FetchError::Busy)) {
                    lock(&self.failures).put(url.as_str().to_owned(), (now, failure.clone()));
                }
                Err(failure)
            }
        }
    }

    /// An answer that needs no fetch: a good one that is new enough, or the failure of a moment ago.
    fn without_asking(&self, url: &Url, patience: Patience) -> Option<Result<Found<T>, Failure>> {
        let now = self.fetcher.clock.now();
        if let Some(good) = lock(&self.good).get(url.as_str()) {
            let age = now.since(good.fetched_at);
            if age < good.freshness.lasts.min(patience.fresh) {
                return Some(Ok(good.found()));
            }
        }
        let failed = lock(&self.failures)
            .get(url.as_str())
            .filter(|(at, _)| now.since(*at) < REST)
            .map(|(_, failure)| failure.clone())?;
        Some(self.stale(url, patience, failed))
    }

    /// What was good before, if that will do after this failure.
    fn stale(&self, url: &Url, patience: Patience, failure: Failure) -> Result<Found<T>, Failure> {
        let now = self.fetcher.clock.now();
        let mut all = lock(&self.good);
        let good = all.get(url.as_str()).filter(|good| {
            let age = now.since(good.fetched_at);
            let usable = age < good.freshness.lasts || good.freshness.keeps;
            usable && age < patience.stale && (patience.withdrawn || !is_final(&failure))
        });
        good.map(Good::found).ok_or(failure)
    }
}

/// Whether a failure is the site's own word and not an accident on the way to it.
const fn is_final(failure: &Failure) -> bool {
    match failure {
        Failure::Invalid(_) => true,
        Failure::Fetch(error) => matches!(error, FetchError::Status(404 | 410) | FetchError::Forbidden),
    }
}

impl<T> Good<T> {
    fn found(&self) -> Found<T> {
        Found {
            value: Arc::clone(&self.value),
            first: false,
        }
    }
}

/// Somebody who wants an address, alone or with others. Whoever leaves last takes the lock away.
struct Flight<'a, T> {
    cache: &'a Cache<T>,
    url: &'a str,
    lock: Option<Arc<tokio::sync::Mutex<()>>>,
}

impl<'a, T> Flight<'a, T> {
    fn board(cache: &'a Cache<T>, url: &'a str) -> Self {
        let lock = Arc::clone(lock(&cache.flights).entry(url.to_owned()).or_default());
        Self {
            cache,
            url,
            lock: Some(lock),
        }
    }

    async fn lock(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match &self.lock {
            Some(lock) => Some(lock.lock().await),
            None => None,
        }
    }
}

impl<T> Drop for Flight<'_, T> {
    fn drop(&mut self) {
        let mut flights = lock(&self.cache.flights);
        drop(self.lock.take());
        if flights.get(self.url).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            flights.remove(self.url);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
