//! How often a password may be guessed: per account, so that many addresses together get no further than one, and per
//! address, so that one address cannot go through all accounts. What is remembered is bounded.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;

use crate::domain::clock::Timestamp;
use crate::domain::rate::network;

/// Failures on an account before it is locked for a while.
const FREE_ON_ACCOUNT: u32 = 5;
/// The first lock of an account; each failure after it doubles the time.
const FIRST_LOCK: Duration = Duration::from_secs(30);
/// The longest lock of an account: whoever locks somebody else out on purpose cannot do so for long.
const LONGEST_LOCK: Duration = Duration::from_secs(15 * 60);
/// Without a failure for so long, an account starts afresh.
const ACCOUNT_MEMORY: Duration = Duration::from_secs(24 * 3600);
/// Failures from an address within a window.
const FREE_FROM_ADDRESS: u32 = 20;
/// The window.
const ADDRESS_WINDOW: Duration = Duration::from_secs(10 * 60);
/// Most addresses, and most unknown usernames, that are remembered; the least recently seen one is forgotten.
const MOST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);

/// Whom failures are counted against.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// A configured account, by its username. Strangers' names cannot push it out of memory.
    Account(String),
    /// An account in the store.
    Stored(String),
    /// The second factor of somebody who has shown their password.
    Second(String),
    /// The hash of a username that nobody has: treated the same, or the difference would tell who has an account.
    Nobody(u64),
}

/// Failures: on an account in a row, or from an address in a window.
#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    /// When the last was on an account; when the window of an address began.
    at: Timestamp,
}

/// The memory of failed sign-ins.
#[derive(Debug)]
pub(super) struct Throttle(Mutex<Memory>);

#[derive(Debug)]
struct Memory {
    accounts: LruCache<Target, Failures>,
    stored: LruCache<Target, Failures>,
    strangers: LruCache<Target, Failures>,
    addresses: LruCache<IpAddr, Failures>,
}

// === impl Throttle ===

impl Throttle {
    /// For so many accounts.
    pub(super) fn new(accounts: usize) -> Self {
        Self(Mutex::new(Memory {
            accounts: LruCache::new(NonZeroUsize::new(accounts).unwrap_or(NonZeroUsize::MIN)),
            stored: LruCache::new(MOST),
            strangers: LruCache::new(MOST),
            addresses: LruCache::new(MOST),
        }))
    }

    /// From now on these are the accounts. What is known of those that were there stays.
    pub(super) fn keep(&self, usernames: &[&str]) {
        let mut memory = self.memory();
        let gone: Vec<Target> = memory
            .accounts
            .iter()
            .map(|(target, _)| target)
            .filter(|target| !matches!(target, Target::Account(name) if usernames.contains(&name.as_str())))
            .cloned()
            .collect();
        for target in gone {
            memory.accounts.pop(&target);
        }
        memory
            .accounts
            .resize(NonZeroUsize::new(usernames.len()).unwrap_or(NonZeroUsize::MIN));
    }

    /// Whether an attempt may be made now.
    ///
    /// # Errors
    /// How long to wait, if not.
    pub(super) fn check(&self, target: &Target, from: IpAddr, now: Timestamp) -> Result<(), Duration> {
        let mut memory = self.memory();
        let account = recall(memory.failures(target), target, now);
        let account = account.map_or(Duration::ZERO, |failures| locked_for(failures, now));
        let window = recall(&mut memory.addresses, &network(from), now);
        let window = window.filter(|window| window.count >= FREE_FROM_ADDRESS);
        let address = window.map_or(Duration::ZERO, |window| window.at.plus(ADDRESS_WINDOW).since(now));
        match account.max(address) {
            Duration::ZERO => Ok(()),
            wait => Err(wait),
        }
    }

    /// Counts a failure.
    pub(super) fn failed(&self, target: &Target, from: IpAddr, now: Timestamp) {
        let mut memory = self.memory();
        let failures = memory.failures(target);
        let before = recall(failures, target, now).filter(|known| now.since(known.at) < ACCOUNT_MEMORY);
        let count = before.map_or(0, |known| known.count).saturating_add(1);
        failures.put(target.clone(), Failures { count, at: now });

        let network = network(from);
        let window = recall(&mut memory.addresses, &network, now)
            .filter(|known| now.since(known.at) < ADDRESS_WINDOW)
            .unwrap_or(Failures { count: 0, at: now });
        let window = Failures {
            count: window.count.saturating_add(1),
            ..window
        };
        memory.addresses.put(network, window);
    }

    /// Forgets the failures on an account whose person has just signed in. The address keeps its count: or an attacker
    /// with one account of his own could reset it as often as he likes.
    pub(super) fn succeeded(&self, target: &Target) {
        self.memory().failures(target).pop(target);
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn failures(&mut self, target: &Target) -> &mut LruCache<Target, Failures> {
        match target {
            Target::Account(_) => &mut self.accounts,
            Target::Stored(_) | Target::Second(_) => &mut self.stored,
            Target::Nobody(_) => &mut self.strangers,
        }
    }
}

/// What is remembered. What lies ahead of a clock that was put back happened just now: nobody stays locked out until the
/// clock is there again.
fn recall<K: Hash + Eq>(cache: &mut LruCache<K, Failures>, key: &K, now: Timestamp) -> Option<Failures> {
    let known = cache.get_mut(key)?;
    known.at = known.at.min(now);
    Some(*known)
}

/// How much longer an account is locked.
fn locked_for(Failures { count, at }: Failures, now: Timestamp) -> Duration {
    let Some(beyond) = count.checked_sub(FREE_ON_ACCOUNT) else {
        return Duration::ZERO;
    };
    let lock = FIRST_LOCK.saturating_mul(1 << beyond.min(16)).min(LONGEST_LOCK);
    at.plus(lock).since(now)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    static ADA: LazyLock<Target> = LazyLock::new(|| Target::Account("ada".to_owned()));

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Spec: E8, L13
    #[test]
    fn an_account_is_locked_after_five_failures_for_longer_and_longer() {
        let throttle = Throttle::new(1);
        let mut now = 0;
        for n in 0..5 {
            let from = address(&format!("10.0.0.{n}"));
            assert_eq!(throttle.check(&ADA, from, at(now)), Ok(()));
            throttle.failed(&ADA, from, at(now));
        }
        for lock in [30, 60, 120, 240, 480, 900, 900] {
            let from = address("10.0.1.1");
            assert_eq!(throttle.check(&ADA, from, at(now)), Err(Duration::from_secs(lock)));
            assert_eq!(
                throttle.check(&ADA, from, at(now + lock - 1)),
                Err(Duration::from_secs(1))
            );
            now += lock;
            assert_eq!(throttle.check(&ADA, from, at(now)), Ok(()));
            throttle.failed(&ADA, from, at(now));
        }
        throttle.succeeded(&ADA);
        assert_eq!(throttle.check(&ADA, address("10.0.1.1"), at(now)), Ok(()));
    }

    #[test]
    fn an_account_that_was_left_alone_for_a_day_starts_afresh() {
        let throttle = Throttle::new(1);
        for _ in 0..8 {
            throttle.failed(&ADA, address("10.0.0.1"), at(0));
        }
        throttle.failed(&ADA, address("10.0.0.1"), at(24 * 3600));
        assert_eq!(throttle.check(&ADA, address("10.0.0.2"), at(24 * 3600)), Ok(()));
    }

    /// Spec: E8, L13
    #[test]
    fn an_address_has_twenty_failures_in_ten_minutes_whoever_it_tries() {
        let throttle = Throttle::new(1);
        let (from, other) = (address("192.0.2.1"), address("192.0.2.2"));
        for n in 0..20 {
            assert_eq!(throttle.check(&Target::Nobody(n), from, at(n)), Ok(()));
            throttle.failed(&Target::Nobody(n), from, at(n));
        }
        assert_eq!(throttle.check(&ADA, from, at(20)), Err(Duration::from_secs(580)));
        assert_eq!(
            throttle.check(&ADA, address("::ffff:192.0.2.1"), at(20)),
            Err(Duration::from_secs(580))
        );
        throttle.succeeded(&ADA);
        assert_eq!(throttle.check(&ADA, from, at(20)), Err(Duration::from_secs(580)));
        assert_eq!(throttle.check(&ADA, other, at(20)), Ok(()));
        assert_eq!(throttle.check(&ADA, from, at(600)), Ok(()));
    }

    #[test]
    fn a_clock_that_is_put_back_locks_nobody_out_for_longer() {
        let throttle = Throttle::new(1);
        let (from, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let ahead = 3 * 365 * 86_400;
        for n in 0..15 {
            throttle.failed(&Target::Nobody(n), from, at(ahead));
        }
        for _ in 0..5 {
            throttle.failed(&ADA, from, at(ahead));
        }
        // What was locked stays so, for as long as if it had happened now.
        assert_eq!(throttle.check(&ADA, other, at(100)), Err(Duration::from_secs(30)));
        assert_eq!(
            throttle.check(&Target::Nobody(99), from, at(100)),
            Err(Duration::from_secs(600))
        );
        assert_eq!(throttle.check(&ADA, other, at(129)), Err(Duration::from_secs(1)));
        assert_eq!(throttle.check(&ADA, other, at(130)), Ok(()));
        assert_eq!(throttle.check(&Target::Nobody(99), from, at(700)), Ok(()));
        // Nor does a failure meanwhile begin a window that lies ahead.
        let again = Throttle::new(1);
        again.failed(&ADA, from, at(ahead));
        for n in 0..19 {
            again.failed(&Target::Nobody(n), from, at(0));
        }
        assert_eq!(again.check(&ADA, from, at(1)), Err(Duration::from_secs(599)));
        assert_eq!(again.check(&ADA, from, at(600)), Ok(()));
    }

    #[test]
    fn an_ipv6_customer_is_one_address() {
        let throttle = Throttle::new(1);
        for n in 0..20 {
            throttle.failed(&Target::Nobody(n), address(&format!("2001:db8:1:2::{n:x}")), at(0));
        }
        assert!(throttle.check(&ADA, address("2001:db8:1:2:ffff::1"), at(0)).is_err());
        assert!(throttle.check(&ADA, address("2001:db8:1:3::1"), at(0)).is_ok());
    }

    #[test]
    fn strangers_names_do_not_push_an_account_out_of_memory() {
        let throttle = Throttle::new(1);
        for _ in 0..5 {
            throttle.failed(&ADA, address("10.0.0.1"), at(0));
        }
        for n in 0..u64::try_from(MOST.get()).unwrap() + 10 {
            throttle.failed(&Target::Nobody(n), address("10.0.0.2"), at(0));
        }
        assert!(throttle.check(&ADA, address("10.0.0.3"), at(0)).is_err());
        assert!(throttle.0.lock().unwrap().strangers.len() <= MOST.get());
    }
}
