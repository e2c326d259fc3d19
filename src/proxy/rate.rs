//! `limits.requests_per_minute`: how many requests of one subject an upstream gets.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;

use crate::domain::clock::Timestamp;

/// Callers that are remembered; the one that was quiet for longest is forgotten first, which can only favour it.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(20_000).expect("it is not zero");

/// Counts by the generic cell rate algorithm: one number for each caller, the time at which its debt is paid. A whole
/// minute's requests may come at once.
pub(super) struct Rates(Mutex<LruCache<(usize, String), u64>>);

impl Rates {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }

    /// Counts a request of a subject to an upstream; how long to wait if it is one too many.
    pub(super) fn admit(
        &self,
        upstream: usize,
        subject: &str,
        per_minute: u32,
        now: Timestamp,
    ) -> Result<(), Duration> {
        const MINUTE: u64 = 60_000_000;
        let (now, cost) = (
            now.as_millis().saturating_mul(1_000),
            MINUTE / u64::from(per_minute.max(1)),
        );
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let paid_at = rates.get_or_insert_mut((upstream, subject.to_owned()), || now);
        let owed = (*paid_at).max(now) + cost;
        if owed > now + MINUTE {
            return Err(Duration::from_micros(owed - now - MINUTE));
        }
        *paid_at = owed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_s_requests_may_come_at_once_and_then_one_at_a_time() {
        let rates = Rates::new();
        let at = Timestamp::from_millis;
        for _ in 0..3 {
            assert_eq!(rates.admit(0, "ada", 3, at(1_000)), Ok(()));
        }
        assert_eq!(rates.admit(0, "ada", 3, at(1_000)), Err(Duration::from_secs(20)));
        assert_eq!(
            rates.admit(0, "bob", 3, at(1_000)),
            Ok(()),
            "another's requests are another's"
        );
        assert_eq!(rates.admit(1, "ada", 3, at(1_000)), Ok(()), "so are another upstream's");
        assert_eq!(rates.admit(0, "ada", 3, at(21_000)), Ok(()));
        assert!(rates.admit(0, "ada", 3, at(21_000)).is_err());
    }
}
