//! Stub.

use crate::oauth::{Answer, Call, Endpoints};

/// Stub.
pub async fn token(_at: &Endpoints, _call: &Call<'_>) -> Answer {
    crate::oauth::not_found()
}
