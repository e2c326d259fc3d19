//! Stub.

use super::{Answer, Call, Endpoints};

/// Stub.
pub async fn login(_at: &Endpoints, _call: &Call<'_>) -> Answer {
    super::not_found()
}

/// Stub.
pub async fn consent(_at: &Endpoints, _call: &Call<'_>) -> Answer {
    super::not_found()
}

/// Stub.
pub async fn logout(_at: &Endpoints, _call: &Call<'_>) -> Answer {
    super::not_found()
}
