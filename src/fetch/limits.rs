//! How much may be fetched: in all, from one host, and from one that has just failed. Whoever names addresses to us
//! decides what we fetch, and must not be able to turn us on somebody: a denial of service by reflection.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::FetchError;
use crate::domain::clock::Timestamp;

/// Fetches at a time, of addresses that are new to us.
const NEW: usize = 48;
/// Fetches at a time, of those that were good before: strangers cannot take their places.
const KNOWN: usize = 16;
/// Fetches at a time from one host.
const PER_HOST: usize = 4;
/// Fetches of new addresses from one host in a [`WINDOW`].
const NEW_PER_HOST: u32 = 30;
/// Fetches of known ones.
const KNOWN_PER_HOST: u32 = 120;
const WINDOW: Duration = Duration::from_secs(60);
/// How long a host rests after it could not be reached.
pub(super) const REST: Duration = Duration::from_secs(10);
/// Hosts that are remembered.
const HOSTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// Whether there is reason to believe in an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Anybody may have made it up.
    New,
    /// What it gave before was good.
    Known,
}

pub(super) struct Limits {
    new: Arc<Semaphore>,
    known: Arc<Semaphore>,
    hosts: Mutex<LruCache<String, Host>>,
}

struct Host {
    running: Arc<Semaphore>,
    since: Timestamp,
    new: u32,
    known: u32,
    rests_until: Timestamp,
}

/// A fetch that may happen now.
pub(super) struct Turn {
    _any: OwnedSemaphorePermit,
    _host: OwnedSemaphorePermit,
}

impl Limits {
    pub(super) fn new() -> Self {
        Self {
            new: Arc::new(Semaphore::new(NEW)),
            known: Arc::new(Semaphore::new(KNOWN)),
            hosts: Mutex::new(LruCache::new(HOSTS)),
        }
    }

    /// Takes a turn, or says why there is none.
    pub(super) fn begin(&self, host: &str, standing: Standing, now: Timestamp) -> Result<Turn, FetchError> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = hosts.get_or_insert_mut(host.to_owned(), || Host::new(now));
        if now < entry.rests_until {
            return Err(FetchError::Resting);
        }
        if now.since(entry.since) >= WINDOW {
            (entry.since, entry.new, entry.known) = (now, 0, 0);
        }
        let (count, most, semaphore) = match standing {
            Standing::New => (&mut entry.new, NEW_PER_HOST, &self.new),
            Standing::Known => (&mut entry.known, KNOWN_PER_HOST, &self.known),
        };
        if *count >= most {
            return Err(FetchError::Busy);
        }
        let turn = |semaphore: &Arc<Semaphore>| {
            let permit = Arc::clone(semaphore).try_acquire_owned();
            permit.map_err(|_| FetchError::Busy)
        };
        let turn = Turn {
            _host: turn(&entry.running)?,
            _any: turn(semaphore)?,
        };
        *count += 1;
        Ok(turn)
    }

    /// Lets a host rest that could not be reached. An error or a silence of one address is no reason: others
    /// may use the same host with other addresses.
    pub(super) fn failed(&self, host: &str, error: FetchError, now: Timestamp) {
        let reached = match error {
            FetchError::Unreachable | FetchError::Tls | FetchError::Unresolved => false,
            FetchError::Forbidden
            | FetchError::Timeout
            | FetchError::Status(_)
            | FetchError::MediaType
            | FetchError::TooLarge
            | FetchError::Broken
            | FetchError::Busy
            | FetchError::Resting => true,
        };
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = hosts.get_mut(host).filter(|_| !reached) {
            entry.rests_until = now.plus(REST);
        }
    }
}

impl Host {
    fn new(now: Timestamp) -> Self {
        Self {
            running: Arc::new(Semaphore::new(PER_HOST)),
            since: now,
            new: 0,
            known: 0,
            rests_until: Timestamp::from_millis(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    /// Spec: C27
    #[test]
    fn a_host_is_asked_so_often_and_known_addresses_keep_their_places() {
        let limits = Limits::new();
        for _ in 0..NEW_PER_HOST {
            assert!(limits.begin("a.example", Standing::New, at(0)).is_ok());
        }
        let refused = limits.begin("a.example", Standing::New, at(59)).err();
        assert_eq!(refused, Some(FetchError::Busy));
        assert!(limits.begin("a.example", Standing::Known, at(59)).is_ok());
        assert!(limits.begin("b.example", Standing::New, at(59)).is_ok());
        assert!(limits.begin("a.example", Standing::New, at(60)).is_ok());
    }

    /// Spec: C27
    #[test]
    fn fetches_at_a_time_are_counted() {
        let limits = Limits::new();
        let running: Vec<_> = (0..PER_HOST)
            .map(|_| limits.begin("a.example", Standing::New, at(0)).ok().unwrap())
            .collect();
        assert!(limits.begin("a.example", Standing::New, at(0)).is_err());
        drop(running);
        assert!(limits.begin("a.example", Standing::New, at(0)).is_ok());
        let many: Vec<_> = (0..NEW)
            .map(|index| {
                limits
                    .begin(&format!("h{index}.example"), Standing::New, at(0))
                    .ok()
                    .unwrap()
            })
            .collect();
        assert!(limits.begin("c.example", Standing::New, at(0)).is_err());
        assert!(limits.begin("c.example", Standing::Known, at(0)).is_ok());
        drop(many);
    }

    /// Spec: C27
    #[test]
    fn a_host_that_cannot_be_reached_rests_and_one_that_answers_does_not() {
        let limits = Limits::new();
        for error in [FetchError::Status(404), FetchError::Timeout, FetchError::TooLarge] {
            assert!(limits.begin("a.example", Standing::New, at(0)).is_ok());
            limits.failed("a.example", error, at(0));
        }
        assert!(limits.begin("a.example", Standing::New, at(0)).is_ok());
        limits.failed("a.example", FetchError::Unreachable, at(0));
        let refused = limits.begin("a.example", Standing::New, at(9)).err();
        assert_eq!(refused, Some(FetchError::Resting));
        assert!(limits.begin("a.example", Standing::New, at(10)).is_ok());
    }
}
