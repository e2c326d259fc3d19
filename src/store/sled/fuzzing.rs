//! Records as they are read back, for `fuzz/`. Not in release builds.

use super::records::{Consent, Record, SigningKey, UsedOnce, decode, encode};
use crate::domain::client::Client;
use crate::domain::device::DeviceAuthorization;
use crate::domain::grant::{
    AccessToken, AuthorizationCode, AuthorizationRequest, Grant, PushedRequest, RefreshToken, Session,
};
use crate::domain::key::KeyRecord;

/// Reads a record of the kind that this number picks, and writes what was read.
#[must_use]
pub fn rewritten(kind: u8, bytes: &[u8]) -> Option<Vec<u8>> {
    fn of<R: Record>(bytes: &[u8]) -> Option<Vec<u8>> {
        encode(&decode::<R>(bytes).ok()?).ok()
    }
    let kinds = [
        of::<Client>,
        of::<AuthorizationRequest>,
        of::<Session>,
        of::<AuthorizationCode>,
        of::<Grant>,
        of::<AccessToken>,
        of::<RefreshToken>,
        of::<Consent>,
        of::<SigningKey>,
        of::<KeyRecord>,
        of::<UsedOnce>,
        of::<PushedRequest>,
        of::<DeviceAuthorization>,
    ];
    let kind = kinds.get(usize::from(kind) % kinds.len())?;
    kind(bytes)
}
