//! Stub.

use super::{Answer, Call, Endpoints};

/// Stub.
pub fn authorization_server(_at: &Endpoints, _call: &Call<'_>) -> Answer {
    super::not_found()
}

/// Stub.
pub fn protected_resource(_at: &Endpoints, _call: &Call<'_>) -> Answer {
    super::not_found()
}
