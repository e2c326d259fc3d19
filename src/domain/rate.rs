//! How often something may happen: the generic cell rate algorithm, with one number for each party that is counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;

use super::clock::Timestamp;

/// Parties that are remembered; the one that was quiet for longest is forgotten first, which can only favour it.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(19_999);
/// Names that are told apart for each party.
const NAMES: usize = 64;
/// What all others are.
const OTHERS: u64 = 0;
/// In microseconds.
const MINUTE: u64 = 60_000_000;

/// Remembers for each party the time at which its debt is paid. A whole minute's allowance may be used at once.
#[derive(Debug)]
pub struct Rates<K: Hash + Eq>(Mutex<LruCache<K, u64>>);

// === impl Rates ===

impl<K: Hash + Eq> Rates<K> {
    /// Nobody owes anything.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }

    /// Counts one more.
    ///
    /// # Errors
    /// How long to wait, if it is one too many; then it is not counted.
    pub fn admit(&self, party: K, per_minute: u32, now: Timestamp) -> Result<(), Duration> {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let paid_at = rates.get_or_insert_mut(party, || 0);
        *paid_at = owed(*paid_at, per_minute, now)?;
        Ok(())
    }

    /// Whether one more would be admitted; counts nothing, and remembers nobody.
    ///
    /// # Errors
    /// How long to wait, if not.
    pub fn check(&self, party: &K, per_minute: u32, now: Timestamp) -> Result<(), Duration> {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match rates.get(party) {
            Some(paid_at) => owed(*paid_at, per_minute, now).map(drop),
            None => Ok(()),
        }
    }

    /// How many parties are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nobody is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The same for what a party does under many names, of which it can invent more: as many as owe something are told apart, and
/// the others count as one. So nobody is forgotten for a name that somebody made up, not even by themselves.
#[derive(Debug)]
pub struct NamedRates<K: Hash + Eq>(Mutex<LruCache<K, HashMap<u64, u64>>>);

// === impl NamedRates ===

impl<K: Hash + Eq> NamedRates<K> {
    /// Nobody owes anything.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }

    /// Counts one more of this name, which is a hash.
    ///
    /// # Errors
    /// How long to wait, if it is one too many; then it is not counted.
    pub fn admit(&self, party: K, name: u64, per_minute: u32, now: Timestamp) -> Result<(), Duration> {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let names = rates.get_or_insert_mut(party, HashMap::new);
        let mut name = name;
        if !names.contains_key(&name) && names.len() >= NAMES {
            let micros = now.as_millis().saturating_mul(1_000);
            names.retain(|_, paid_at| *paid_at > micros);
            if names.len() >= NAMES {
                name = OTHERS;
            }
        }
        let paid_at = names.entry(name).or_insert(0);
        *paid_at = owed(*paid_at, per_minute, now)?;
        Ok(())
    }
}

impl<K: Hash + Eq> Default for NamedRates<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Hash + Eq> Default for Rates<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// When the debt is paid after one more; how long to wait if that is more than a minute ahead.
fn owed(paid_at: u64, per_minute: u32, now: Timestamp) -> Result<u64, Duration> {
    let now = now.as_millis().saturating_mul(1_000);
    let most = now.saturating_add(MINUTE);
    // Nobody can owe more: the clock was put back, and nobody is locked out until it has caught up.
    let paid_at = if paid_at > most { now } else { paid_at.max(now) };
    let owed = paid_at.saturating_add(MINUTE / u64::from(per_minute.max(1)));
    if owed > most {
        Err(Duration::from_micros(owed - most))
    } else {
        Ok(owed)
    }
}

/// What counts as one address: an IPv6 customer has at least a /64 to choose from.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_made_up_forgive_nothing() {
        let rates = NamedRates::new();
        let at = Timestamp::from_millis;
        let now = at(1_000_000);
        assert!(rates.admit("ada", 1, 1, now).is_ok());
        let admitted = (2..100_000)
            .filter(|name| rates.admit("ada", *name, 1, now).is_ok())
            .count();
        assert_eq!(admitted, NAMES, "63 names more, and one for all others");
        assert!(rates.admit("ada", 1, 1, now).is_err(), "the first is not forgotten");
        assert!(rates.admit("bob", 1, 1, now).is_ok());
        // What is paid makes room.
        let later = at(1_000_000 + 60_000);
        assert!(rates.admit("ada", 99_999, 1, later).is_ok());
        assert!(rates.admit("ada", 99_999, 1, later).is_err());
        assert!(rates.admit("ada", 99_998, 1, later).is_ok());
    }

    #[test]
    fn a_minute_s_requests_may_come_at_once_and_then_one_at_a_time() {
        let rates = Rates::new();
        let at = Timestamp::from_millis;
        for _ in 0..3 {
            assert_eq!(rates.admit((0, "ada"), 3, at(1_000)), Ok(()));
        }
        let wait = Err(Duration::from_secs(20));
        assert_eq!(rates.admit((0, "ada"), 3, at(1_000)), wait);
        assert_eq!(rates.check(&(0, "ada"), 3, at(1_000)), wait);
        assert_eq!(
            rates.admit((0, "bob"), 3, at(1_000)),
            Ok(()),
            "another's requests are another's"
        );
        assert_eq!(
            rates.admit((1, "ada"), 3, at(1_000)),
            Ok(()),
            "so are those for something else"
        );
        assert_eq!(
            rates.check(&(0, "ada"), 3, at(21_000)),
            Ok(()),
            "to check is not to count"
        );
        assert_eq!(rates.admit((0, "ada"), 3, at(21_000)), Ok(()));
        assert!(rates.admit((0, "ada"), 3, at(21_000)).is_err());
    }

    #[test]
    fn a_clock_that_is_put_back_locks_nobody_out() {
        let rates = Rates::new();
        let at = Timestamp::from_millis;
        for _ in 0..3 {
            assert_eq!(rates.admit("ada", 3, at(86_400_000)), Ok(()));
        }
        assert!(rates.admit("ada", 3, at(86_400_000)).is_err());
        for _ in 0..3 {
            assert_eq!(rates.admit("ada", 3, at(1_000)), Ok(()));
        }
        assert_eq!(rates.admit("ada", 3, at(1_000)), Err(Duration::from_secs(20)));
    }

    /// Spec: L15
    #[test]
    fn what_is_remembered_is_bounded() {
        let rates = Rates::new();
        for n in 0..50_000u32 {
            assert!(rates.admit(n, 1, Timestamp::from_millis(0)).is_ok());
        }
        assert_eq!(rates.len(), REMEMBERED.get());
        for n in 0..1000 {
            assert!(rates.check(&(100_000 + n), 1, Timestamp::from_millis(0)).is_ok());
        }
        assert!(rates.check(&49_999, 1, Timestamp::from_millis(0)).is_err());
    }

    #[test]
    fn an_ipv6_customer_is_one_address() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2:ffff::1"), network("2001:db8:1:2::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.2"), network("192.0.2.1"));
    }
}
