//! Requests that wait, identifiers that are good once, and keys that sign tokens.

use async_trait::async_trait;

use super::change::Change;
use super::events::{find, put_tokens};
use super::records::{UsedOnce, key, prefix, user_code_key};
use super::{SledStore, backend};
use crate::domain::clock::Timestamp;
use crate::domain::device::{Decision, DeviceAuthorization};
use crate::domain::grant::{AuthorizationRequest, Grant, LoginAnswer, LoginStep, LoginVerdict, PushedRequest};
use crate::domain::key::KeyRecord;
use crate::domain::person::Passed;
use crate::domain::secret::SecretHash;
use crate::store::{Answered, Decided, Issued, Keys, Once, Poll, Redemption, Room, StoreError, Waiting};

type Outcome<T> = Result<T, StoreError>;

#[async_trait]
impl Keys for SledStore {
    async fn use_once(&self, id: &SecretHash, expires_at: Timestamp) -> Outcome<Once> {
        self.write("use_once", |change| {
            if change.get::<UsedOnce>(id)?.is_some() {
                return Ok(Once::Again);
            }
            if change.counts().used_once >= change.limits().used_once {
                return Ok(Once::Full);
            }
            change.put_expiring(id, &UsedOnce { expires_at })?;
            Ok(Once::First)
        })
        .await
    }

    async fn was_used(&self, id: &SecretHash) -> Outcome<bool> {
        self.look("was_used", |tree| find::<UsedOnce>(tree, id))
            .map(|known| known.is_some())
    }

    async fn keys(&self) -> Outcome<Vec<KeyRecord>> {
        self.look("keys", |tree| {
            let mut keys = Vec::new();
            for entry in tree.scan_prefix([prefix::KEY]).values() {
                keys.push(super::records::decode(&entry.map_err(backend("reading a record"))?)?);
            }
            Ok(Some(keys))
        })
        .map(Option::unwrap_or_default)
    }

    async fn add_key(&self, record: &KeyRecord, unless_since: Timestamp) -> Outcome<()> {
        self.write("add_key", |change| {
            let newer = |own: &KeyRecord| own.algorithm == record.algorithm && own.created_at > unless_since;
            if change.keys()?.iter().any(newer) {
                return Ok(());
            }
            change.put(record.id.as_str(), record)
        })
        .await
    }

    async fn remove_key(&self, id: &str) -> Outcome<()> {
        self.write("remove_key", |change| change.remove(key::<KeyRecord>(id)))
            .await
    }
}

#[async_trait]
impl Waiting for SledStore {
    async fn push_request(&self, id: &SecretHash, request: &PushedRequest) -> Outcome<Room> {
        self.write("push_request", |change| {
            if change.counts().pushed_requests >= change.limits().pushed_requests {
                return Ok(Room::Full);
            }
            change.put_expiring(id, request)?;
            change.hold(&request.client_id, id.as_bytes())?;
            Ok(Room::Kept)
        })
        .await
    }

    async fn take_pushed_request(&self, id: &SecretHash) -> Outcome<Option<PushedRequest>> {
        self.write("take_pushed_request", |change| change.remove_pushed_request(id))
            .await
    }

    async fn begin_login(&self, id: &SecretHash, challenge: &SecretHash) -> Outcome<()> {
        self.write("begin_login", |change| {
            let Some(mut request) = change.get::<AuthorizationRequest>(id)? else {
                return Ok(());
            };
            request.details.login = Some(LoginStep {
                challenge: *challenge,
                answer: None,
            });
            change.put(id, &request)
        })
        .await
    }

    async fn answer_login(
        &self,
        id: &SecretHash,
        challenge: &SecretHash,
        answer: &LoginAnswer,
        now: Timestamp,
    ) -> Outcome<Answered> {
        self.write("answer_login", |change| {
            let request = change.get::<AuthorizationRequest>(id)?;
            let Some(mut request) = request.filter(|request| now < request.expires_at) else {
                return Ok(Answered::Unknown);
            };
            let known = request
                .details
                .login
                .take()
                .filter(|login| login.challenge == *challenge);
            let Some(login) = known else {
                return Ok(Answered::Unknown);
            };
            if login.answer.is_some() {
                return Ok(Answered::Before);
            }
            request.details.login = Some(LoginStep {
                answer: Some(answer.clone()),
                ..login
            });
            change.put(id, &request)?;
            Ok(Answered::Done)
        })
        .await
    }

    async fn take_login(&self, id: &SecretHash, verifier: &SecretHash) -> Outcome<Option<LoginVerdict>> {
        self.write("take_login", |change| {
            let Some(mut request) = change.get::<AuthorizationRequest>(id)? else {
                return Ok(None);
            };
            let answer = request.details.login.as_ref().and_then(|login| login.answer.clone());
            let Some(answer) = answer.filter(|answer| answer.verifier == *verifier) else {
                return Ok(None);
            };
            request.details.login = None;
            change.put(id, &request)?;
            Ok(Some(answer.verdict))
        })
        .await
    }

    async fn note_passed(&self, id: &SecretHash, passed: &Passed) -> Outcome<()> {
        self.write("note_passed", |change| {
            let Some(mut request) = change.get::<AuthorizationRequest>(id)? else {
                return Ok(());
            };
            request.details.passed = Some(passed.clone());
            change.put(id, &request)
        })
        .await
    }

    async fn take_passed(&self, id: &SecretHash, passed: &Passed) -> Outcome<bool> {
        self.write("take_passed", |change| {
            let request = change.get::<AuthorizationRequest>(id)?;
            let Some(mut request) = request.filter(|request| request.details.passed.as_ref() == Some(passed)) else {
                return Ok(false);
            };
            request.details.passed = None;
            change.put(id, &request)?;
            Ok(true)
        })
        .await
    }

    async fn begin_device(&self, device: &SecretHash, request: &DeviceAuthorization) -> Outcome<Room> {
        self.write("begin_device", |change| {
            if change.counts().devices >= change.limits().devices {
                return Ok(Room::Full);
            }
            change.put_expiring(device, request)?;
            change.point(user_code_key(&request.user_code), device.as_bytes());
            change.hold(&request.client_id, device.as_bytes())?;
            Ok(Room::Kept)
        })
        .await
    }

    async fn device_by_user_code(&self, user_code: &SecretHash) -> Outcome<Option<(SecretHash, DeviceAuthorization)>> {
        self.look("device_by_user_code", |tree| {
            let entry = tree
                .get(user_code_key(user_code))
                .map_err(backend("reading an index"))?;
            let Some(id) = entry.and_then(|id| <[u8; 32]>::try_from(id.as_ref()).ok()) else {
                return Ok(None);
            };
            let id = SecretHash::from_bytes(id);
            Ok(find::<DeviceAuthorization>(tree, &id)?.map(|request| (id, request)))
        })
    }

    async fn decide_device(&self, device: &SecretHash, decision: &Decision) -> Outcome<Decided> {
        self.write("decide_device", |change| decide(change, device, decision))
            .await
    }

    async fn poll_device(&self, device: &SecretHash, now: Timestamp) -> Outcome<Poll> {
        self.write("poll_device", |change| {
            let Some(mut request) = change.get::<DeviceAuthorization>(device)? else {
                return Ok(Poll::Unknown);
            };
            let too_soon = request.poll(now);
            change.put(device, &request)?;
            Ok(Poll::Waiting(Box::new(request), too_soon))
        })
        .await
    }

    async fn redeem_device(&self, device: &SecretHash, grant: &Grant, issued: &Issued) -> Outcome<Redemption> {
        self.write("redeem_device", |change| redeem(change, device, grant, issued))
            .await
    }
}

fn decide(change: &mut Change<'_>, device: &SecretHash, decision: &Decision) -> Outcome<Decided> {
    match change.get::<DeviceAuthorization>(device)? {
        Some(request) if request.decision.is_none() => {
            let decided = DeviceAuthorization {
                decision: Some(decision.clone()),
                ..request
            };
            change.put(device, &decided)?;
            Ok(Decided::Done)
        }
        Some(_) | None => Ok(Decided::Gone),
    }
}

/// A used request stays until it lapses, so that a replay is known for one.
fn redeem(change: &mut Change<'_>, device: &SecretHash, grant: &Grant, issued: &Issued) -> Outcome<Redemption> {
    let Some(request) = change.get::<DeviceAuthorization>(device)? else {
        return Ok(Redemption::Unknown);
    };
    if let Some(earlier) = request.redeemed {
        return Ok(Redemption::AlreadyUsed(earlier));
    }
    if !matches!(request.decision, Some(Decision::Approved { .. })) {
        return Ok(Redemption::Unknown);
    }
    let redeemed = DeviceAuthorization {
        redeemed: Some(issued.grant_id),
        ..request
    };
    change.put(device, &redeemed)?;
    change.put_grant(&issued.grant_id, grant, Some(issued.access.1.issued_at))?;
    put_tokens(change, issued)?;
    Ok(Redemption::Done)
}
