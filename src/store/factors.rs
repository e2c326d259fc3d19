//! What is kept of people's second factors.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::factors::{Factor, FactorName, Factors, Passkey};
use crate::domain::secret::SecretHash;
use crate::domain::user::Subject;

/// What became of a factor that was to be put on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is the first one, and the recovery codes are those that came with it.
    First,
    /// It stands beside others, and the recovery codes are those of before.
    Another,
    /// It is not on record: there is an app already, or this passkey is somebody's, or it was to be the first one and is not.
    Refused,
}

/// Second factors. One of those who race with one code gets in.
#[async_trait]
pub trait SecondFactors: Send + Sync + 'static {
    /// What somebody has set up.
    async fn factors(&self, subject: &Subject) -> Result<Option<Factors>, StoreError>;
    /// Puts a factor on record, with recovery codes if it is the first; only if it is, where `first` says so.
    async fn add_factor(
        &self,
        subject: &Subject,
        factor: &Factor,
        recovery: &[SecretHash],
        first: bool,
    ) -> Result<Added, StoreError>;
    /// Uses a step of the app with this sealed key: it has to be later than every one before. Whether it was.
    async fn use_step(&self, subject: &Subject, sealed: &str, step: u64) -> Result<bool, StoreError>;
    /// Notes that a passkey was used, and what is known of it from then on; its name and its age stay. Whether it is on record, and
    /// its count may follow the one of before.
    async fn use_passkey(&self, subject: &Subject, used: &Passkey) -> Result<bool, StoreError>;
    /// Uses a recovery code. Whether there was one.
    async fn use_recovery_code(&self, subject: &Subject, code: &SecretHash) -> Result<bool, StoreError>;
    /// Puts other recovery codes in place of all. Whether there is a factor that they stand in for.
    async fn replace_recovery(&self, subject: &Subject, codes: &[SecretHash]) -> Result<bool, StoreError>;
    /// Forgets one factor, and with the last one the recovery codes too. Whether it was there.
    async fn remove_factor(&self, subject: &Subject, which: &FactorName) -> Result<bool, StoreError>;
    /// Forgets all second factors of somebody. Whether there were any.
    async fn reset_factors(&self, subject: &Subject) -> Result<bool, StoreError>;
}
