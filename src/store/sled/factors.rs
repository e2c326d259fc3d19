//! Second factors.

use async_trait::async_trait;

use super::SledStore;
use super::events::find;
use super::records::key;
use crate::domain::person::{Authenticator, Factors};
use crate::domain::secret::SecretHash;
use crate::domain::user::Subject;
use crate::store::{SecondFactors, StoreError};

type Outcome<T> = Result<T, StoreError>;

#[async_trait]
impl SecondFactors for SledStore {
    async fn factors(&self, subject: &Subject) -> Outcome<Option<Factors>> {
        self.look("factors", |tree| find(tree, subject))
    }

    async fn add_authenticator(
        &self,
        subject: &Subject,
        authenticator: &Authenticator,
        recovery: &[SecretHash],
    ) -> Outcome<bool> {
        self.write("add_authenticator", |change| {
            if change.get::<Factors>(subject)?.is_some() {
                return Ok(false);
            }
            let factors = Factors {
                authenticator: authenticator.clone(),
                recovery: recovery.to_vec(),
            };
            change.put(subject, &factors)?;
            Ok(true)
        })
        .await
    }

    async fn use_step(&self, subject: &Subject, sealed: &str, step: u64) -> Outcome<bool> {
        self.write("use_step", |change| {
            let known = change.get::<Factors>(subject)?;
            let Some(mut factors) = known.filter(|factors| factors.authenticator.may_use(sealed, step)) else {
                return Ok(false);
            };
            factors.authenticator.last_step = step;
            change.put(subject, &factors)?;
            Ok(true)
        })
        .await
    }

    async fn use_recovery_code(&self, subject: &Subject, code: &SecretHash) -> Outcome<bool> {
        self.write("use_recovery_code", |change| {
            let Some(mut factors) = change.get::<Factors>(subject)? else {
                return Ok(false);
            };
            let before = factors.recovery.len();
            factors.recovery.retain(|known| known != code);
            let was_there = factors.recovery.len() < before;
            if was_there {
                change.put(subject, &factors)?;
            }
            Ok(was_there)
        })
        .await
    }

    async fn reset_factors(&self, subject: &Subject) -> Outcome<bool> {
        self.write("reset_factors", |change| {
            let key = key::<Factors>(subject);
            let known = change.has(&key)?;
            change.remove(key)?;
            Ok(known)
        })
        .await
    }
}
