//! The keys that sign tokens: which of them signs, which are published, when one is replaced.
//!
//! ```text
//!   made ──a day──▶ signs ──90 days──▶ its successor is made ──a day──▶ successor signs ──two days──▶ forgotten
//!   └──────────────────────────── published at /jwks.json ────────────────────────────────────┘
//! ```
//! A key is published a day before it signs, so that whoever keeps the key set for hours has it by then, and for longer
//! after than anything that it signed is good.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::unavailable;
use crate::domain::clock::Timestamp;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::key::Algorithm;
use crate::jose::{KeyError, KeySet, SigningKey};
use crate::store::{Store, StoreError};

const DAY: Duration = Duration::from_secs(86_400);
/// A key is published this long before it signs.
const PUBLISHED_BEFORE: Duration = DAY;
/// A key this old gets a successor.
const REPLACED_AFTER: Duration = Duration::from_secs(90 * 86_400);
/// A key is published this long after its successor signs.
const PUBLISHED_AFTER: Duration = Duration::from_secs(2 * 86_400);

/// The keys, as they were read last.
#[derive(Default)]
pub struct Keyring {
    known: RwLock<Arc<Vec<SigningKey>>>,
}

/// What is to be done about the keys of one algorithm.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// The one that signs, by its place.
    signs: Option<usize>,
    /// Whether one has to be made, and the newest that there is was made then.
    make_unless_since: Option<Timestamp>,
    /// Those that have done their work.
    forget: Vec<usize>,
}

// === impl Keyring ===

impl Keyring {
    /// Signs claims as a token of this `typ`.
    ///
    /// # Errors
    /// If the store fails, or a key cannot be made or used.
    pub async fn sign(
        &self,
        store: &dyn Store,
        now: Timestamp,
        algorithm: Algorithm,
        media_type: &str,
        claims: &(impl Serialize + Sync),
    ) -> Result<String, OAuthError> {
        let keys = self.current(store, now, &[algorithm]).await?;
        let made = made_at(&keys, algorithm);
        let key = plan(&made, now).signs.and_then(|place| of(&keys, algorithm).nth(place));
        let key = key.ok_or_else(|| broken(KeyError::Generate))?;
        key.sign(media_type, claims).map_err(broken)
    }

    /// The public halves, as `/jwks.json` shows them.
    ///
    /// # Errors
    /// If the store fails or a key cannot be made.
    pub async fn public(&self, store: &dyn Store, now: Timestamp) -> Result<Value, OAuthError> {
        let keys = self.current(store, now, &Algorithm::OURS).await?;
        Ok(json!({ "keys": keys.iter().map(SigningKey::public).collect::<Vec<_>>() }))
    }

    /// The public halves, to verify with what was signed here.
    ///
    /// # Errors
    /// If the store fails or a key cannot be made.
    pub async fn verifying(&self, store: &dyn Store, now: Timestamp) -> Result<KeySet, OAuthError> {
        let keys = self.public(store, now).await?;
        KeySet::parse(&keys).map_err(|error| OAuthError::new(ErrorCode::ServerError, "no keys").because(error))
    }

    /// The keys, with one that signs for each of these algorithms; what is due to be made or forgotten is.
    async fn current(
        &self,
        store: &dyn Store,
        now: Timestamp,
        algorithms: &[Algorithm],
    ) -> Result<Arc<Vec<SigningKey>>, OAuthError> {
        let mut keys = self.known();
        if keys.is_empty() {
            keys = self.read(store).await.map_err(unavailable)?;
        }
        for algorithm in algorithms {
            let plan = plan(&made_at(&keys, *algorithm), now);
            if plan.make_unless_since.is_none() && plan.forget.is_empty() {
                continue;
            }
            if let Some(newest) = plan.make_unless_since {
                let fresh = make(*algorithm, now).await?;
                store.add_key(fresh.record(), newest).await.map_err(unavailable)?;
                tracing::info!(
                    algorithm = algorithm.as_str(),
                    key = fresh.record().id,
                    "a signing key was made"
                );
            }
            for key in plan.forget.iter().filter_map(|place| of(&keys, *algorithm).nth(*place)) {
                store.remove_key(&key.record().id).await.map_err(unavailable)?;
                tracing::info!(
                    algorithm = algorithm.as_str(),
                    key = key.record().id,
                    "a signing key has done its work"
                );
            }
            keys = self.read(store).await.map_err(unavailable)?;
        }
        Ok(keys)
    }

    async fn read(&self, store: &dyn Store) -> Result<Arc<Vec<SigningKey>>, StoreError> {
        let mut keys = Vec::new();
        for record in store.keys().await? {
            keys.push(SigningKey::from_record(record).map_err(|error| StoreError::Corrupt {
                kind: "token signing key",
                detail: error.to_string(),
            })?);
        }
        keys.sort_by_key(|key| (key.record().created_at, key.record().id.clone()));
        let keys = Arc::new(keys);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&keys);
        Ok(keys)
    }

    fn known(&self) -> Arc<Vec<SigningKey>> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Making an RSA key takes a while, so it is done where nobody waits in line behind it.
async fn make(algorithm: Algorithm, now: Timestamp) -> Result<SigningKey, OAuthError> {
    let made = tokio::task::spawn_blocking(move || SigningKey::generate(algorithm, now)).await;
    made.map_err(|_| broken(KeyError::Generate))?.map_err(broken)
}

fn broken(error: KeyError) -> OAuthError {
    OAuthError::new(ErrorCode::ServerError, "a token cannot be signed").because(error)
}

/// The keys of one algorithm, oldest first.
fn of(keys: &[SigningKey], algorithm: Algorithm) -> impl Iterator<Item = &SigningKey> {
    keys.iter().filter(move |key| key.record().algorithm == algorithm)
}

fn made_at(keys: &[SigningKey], algorithm: Algorithm) -> Vec<Timestamp> {
    of(keys, algorithm).map(|key| key.record().created_at).collect()
}

/// What is due, for keys of one algorithm by when they were made, oldest first. The first key of all signs at once: there
/// is nobody yet who could have kept a key set without it.
fn plan(made: &[Timestamp], now: Timestamp) -> Plan {
    let Some(newest) = made.last() else {
        return Plan {
            make_unless_since: Some(Timestamp::from_millis(0)),
            ..Plan::default()
        };
    };
    let signs_since = |made: &Timestamp| made.plus(PUBLISHED_BEFORE);
    let signs = made.iter().rposition(|made| now >= signs_since(made)).unwrap_or(0);
    let successors = made.iter().enumerate().skip(1);
    let forget = successors
        .filter(|(_, successor)| now >= signs_since(successor).plus(PUBLISHED_AFTER))
        .map(|(place, _)| place - 1)
        .collect();
    Plan {
        signs: Some(signs),
        make_unless_since: (now >= newest.plus(REPLACED_AFTER)).then_some(*newest),
        forget,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(days: u64) -> Timestamp {
        Timestamp::from_millis(days * 86_400_000)
    }

    /// Spec: G6, L22
    #[test]
    fn keys_overlap() {
        let zero = Timestamp::from_millis(0);
        assert_eq!(plan(&[], day(1)).make_unless_since, Some(zero));
        let alone = plan(&[day(1)], day(1));
        assert_eq!(
            (alone.signs, alone.make_unless_since),
            (Some(0), None),
            "the first signs at once"
        );
        assert_eq!(plan(&[day(1)], day(90)).make_unless_since, None);
        assert_eq!(plan(&[day(1)], day(91)).make_unless_since, Some(day(1)));
        let two = [day(1), day(91)];
        for (now, signs, forget) in [(91, 0, vec![]), (92, 1, vec![]), (93, 1, vec![]), (94, 1, vec![0])] {
            let plan = plan(&two, day(now));
            assert_eq!((plan.signs, plan.forget), (Some(signs), forget), "day {now}");
        }
        let three = [day(1), day(91), day(181)];
        assert_eq!(
            plan(&three, day(181)).forget,
            [0],
            "one that was missed is forgotten later"
        );
    }
}
