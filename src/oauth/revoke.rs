//! Stub.

use super::{Answer, Call, Endpoints};

/// Stub.
pub async fn revoke(_at: &Endpoints, _call: &Call<'_>) -> Answer {
    super::not_found()
}
