//! Stub.

use super::{Answer, Call, Endpoints};

/// Stub.
pub async fn register(_at: &Endpoints, _call: &Call<'_>) -> Answer {
    super::not_found()
}
