//! Stub.

use super::{Answer, Call, Endpoints};

/// Stub.
pub async fn authorize(_at: &Endpoints, _call: &Call<'_>) -> Answer {
    super::not_found()
}
