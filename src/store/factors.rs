//! What is kept of people's second factors.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::person::{Authenticator, Factors};
use crate::domain::secret::SecretHash;
use crate::domain::user::Subject;

/// Second factors. One of those who race with one code gets in.
#[async_trait]
pub trait SecondFactors: Send + Sync + 'static {
    /// What somebody has set up.
    async fn factors(&self, subject: &Subject) -> Result<Option<Factors>, StoreError>;
    /// Puts an app and recovery codes on record, unless there is an app already. Whether it did.
    async fn add_authenticator(
        &self,
        subject: &Subject,
        authenticator: &Authenticator,
        recovery: &[SecretHash],
    ) -> Result<bool, StoreError>;
    /// Uses a step of the app with this sealed key: it has to be later than every one before. Whether it was.
    async fn use_step(&self, subject: &Subject, sealed: &str, step: u64) -> Result<bool, StoreError>;
    /// Uses a recovery code. Whether there was one.
    async fn use_recovery_code(&self, subject: &Subject, code: &SecretHash) -> Result<bool, StoreError>;
    /// Forgets all second factors of somebody. Whether there were any.
    async fn reset_factors(&self, subject: &Subject) -> Result<bool, StoreError>;
}
