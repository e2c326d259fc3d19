//! The events of [`Store`], each one transaction.

use std::sync::atomic::Ordering;
use std::time::Instant;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::records::{
    Kind, StoredClient, client_key, consent_key, decode, encode, expiry_key, grant_key, hash_key, idle_key, order_key,
};
use super::transaction::{GrantChange, Interrupted, Transaction, backend};
use super::{SledStore, lock};
use crate::domain::client::{Client, ClientId};
use crate::domain::clock::Timestamp;
use crate::domain::grant::{
    AccessToken, AuthorizationCode, AuthorizationRequest, ConsentKey, Grant, GrantId, LiveToken, RefreshToken, Session,
    Succession,
};
use crate::domain::scope::Scope;
use crate::domain::secret::{SecretHash, random_bytes};
use crate::store::{Approval, Issued, MAX_CODE_ATTEMPTS, Redemption, Registration, Rotation, Store, StoreError};

/// A grant as it is kept: it may go when its last token has expired, long before its own end.
#[derive(Debug, Serialize, Deserialize)]
struct StoredGrant {
    expires_at: Timestamp,
    grant: Grant,
}

/// When the last of an answer's tokens expires.
fn last_expiry(issued: &Issued) -> Timestamp {
    let access = issued.access.1.expires_at;
    issued
        .refresh
        .as_ref()
        .map_or(access, |(_, token)| token.expires_at.max(access))
}

fn put_issued(t: &Transaction<'_>, issued: &Issued) -> Result<(), Interrupted> {
    let (hash, token) = &issued.access;
    t.put_expiring(
        Kind::AccessToken,
        &hash_key(Kind::AccessToken, hash),
        token,
        token.expires_at,
    )?;
    if let Some((hash, token)) = &issued.refresh {
        t.put_expiring(
            Kind::RefreshToken,
            &hash_key(Kind::RefreshToken, hash),
            token,
            token.expires_at,
        )?;
    }
    Ok(())
}

pub(super) fn end_grant(t: &Transaction<'_>, key: &[u8]) -> Result<bool, Interrupted> {
    let Some(stored) = t.get::<StoredGrant>(Kind::Grant, key)? else {
        return Ok(false);
    };
    t.remove_expiring(key, stored.expires_at)?;
    t.note_grant(&stored.grant.client_id, GrantChange::Ended)?;
    Ok(true)
}

pub(super) fn end_authorization(
    t: &Transaction<'_>,
    id: &SecretHash,
) -> Result<Option<AuthorizationRequest>, Interrupted> {
    let key = hash_key(Kind::Authorization, id);
    let found = t.get::<AuthorizationRequest>(Kind::Authorization, &key)?;
    if let Some(request) = &found {
        t.remove_expiring(&key, request.expires_at)?;
        t.remove(&order_key(request.created_at, id))?;
    }
    Ok(found)
}

impl SledStore {
    /// Runs an event, waits for its flush, and says how long both took.
    async fn event<T>(
        &self,
        operation: &'static str,
        event: impl Fn(&Transaction<'_>) -> Result<T, Interrupted>,
    ) -> Result<T, StoreError> {
        self.writable()?;
        let started = Instant::now();
        let value = self.transact(operation, event)?;
        self.flusher.flushed().await?;
        self.observer.operation(operation, started.elapsed());
        Ok(value)
    }

    /// An event that takes something away: it counts in memory even if it cannot be written down, and whoever cached what it
    /// takes away is told before anybody else can ask.
    async fn revocation<T>(
        &self,
        operation: &'static str,
        event: impl Fn(&Transaction<'_>) -> Result<T, Interrupted>,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let value = self.transact(operation, event)?;
        self.revocations.fetch_add(1, Ordering::SeqCst);
        self.flusher.flushed().await?;
        self.observer.operation(operation, started.elapsed());
        Ok(value)
    }

    fn lookup<T: serde::de::DeserializeOwned>(
        &self,
        operation: &'static str,
        kind: Kind,
        key: &[u8],
    ) -> Result<Option<T>, StoreError> {
        let started = Instant::now();
        let found = self.read(kind, key);
        self.observer.operation(operation, started.elapsed());
        found
    }

    fn living_grant(&self, id: &GrantId) -> Result<Option<Grant>, StoreError> {
        Ok(self
            .read::<StoredGrant>(Kind::Grant, &grant_key(id))?
            .map(|stored| stored.grant))
    }
}

#[async_trait]
impl Store for SledStore {
    async fn register_client(&self, client: &Client) -> Result<Registration, StoreError> {
        self.writable()?;
        let started = Instant::now();
        {
            let _one_at_a_time = lock(&self.admission);
            if !self.admit_client()? {
                return Ok(Registration::Full);
            }
            self.transact("register_client", |t| {
                t.put(
                    Kind::Client,
                    &client_key(&client.id),
                    &StoredClient {
                        client: client.clone(),
                        live_grants: 0,
                    },
                )?;
                t.mark(&idle_key(client))
            })?;
            self.clients.fetch_add(1, Ordering::SeqCst);
        }
        self.flusher.flushed().await?;
        self.observer.operation("register_client", started.elapsed());
        Ok(Registration::Done)
    }

    async fn client(&self, id: &ClientId) -> Result<Option<Client>, StoreError> {
        Ok(self
            .lookup::<StoredClient>("client", Kind::Client, &client_key(id))?
            .map(|stored| stored.client))
    }

    async fn begin_authorization(&self, id: &SecretHash, request: &AuthorizationRequest) -> Result<(), StoreError> {
        self.writable()?;
        let started = Instant::now();
        {
            let _one_at_a_time = lock(&self.admission);
            self.admit_authorization()?;
            self.transact("begin_authorization", |t| {
                t.put_expiring(
                    Kind::Authorization,
                    &hash_key(Kind::Authorization, id),
                    request,
                    request.expires_at,
                )?;
                t.mark(&order_key(request.created_at, id))
            })?;
            self.authorizations.fetch_add(1, Ordering::SeqCst);
        }
        self.flusher.flushed().await?;
        self.observer.operation("begin_authorization", started.elapsed());
        Ok(())
    }

    async fn authorization(&self, id: &SecretHash) -> Result<Option<AuthorizationRequest>, StoreError> {
        self.lookup("authorization", Kind::Authorization, &hash_key(Kind::Authorization, id))
    }

    async fn note_sign_in(&self, id: &SecretHash) -> Result<(), StoreError> {
        let key = hash_key(Kind::Authorization, id);
        self.event("note_sign_in", |t| {
            match t.get::<AuthorizationRequest>(Kind::Authorization, &key)? {
                Some(request) => t.put(
                    Kind::Authorization,
                    &key,
                    &AuthorizationRequest {
                        sign_in_again: false,
                        ..request
                    },
                ),
                None => Ok(()),
            }
        })
        .await
    }

    async fn end_authorization(&self, id: &SecretHash) -> Result<bool, StoreError> {
        let ended = self
            .event("end_authorization", |t| end_authorization(t, id))
            .await?
            .is_some();
        if ended {
            self.authorizations.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(ended)
    }

    async fn approve(
        &self,
        id: &SecretHash,
        (hash, code): (&SecretHash, &AuthorizationCode),
        remember: Option<(&ConsentKey, &Scope)>,
    ) -> Result<Approval, StoreError> {
        let approval = self
            .event("approve", |t| {
                if end_authorization(t, id)?.is_none() {
                    return Ok(Approval::Gone);
                }
                t.put_expiring(Kind::Code, &hash_key(Kind::Code, hash), code, code.expires_at)?;
                if let Some((key, scope)) = remember {
                    let key = consent_key(key);
                    let before = t.get::<Scope>(Kind::Consent, &key)?.unwrap_or_default();
                    t.put(Kind::Consent, &key, &before.union(scope))?;
                }
                Ok(Approval::Done)
            })
            .await?;
        if approval == Approval::Done {
            self.authorizations.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(approval)
    }

    async fn consent(&self, key: &ConsentKey) -> Result<Option<Scope>, StoreError> {
        self.lookup("consent", Kind::Consent, &consent_key(key))
    }

    async fn begin_session(
        &self,
        id: &SecretHash,
        session: &Session,
        previous: Option<&SecretHash>,
    ) -> Result<(), StoreError> {
        self.event("begin_session", |t| {
            if let Some(previous) = previous {
                t.remove(&hash_key(Kind::Session, previous))?;
            }
            t.put_expiring(Kind::Session, &hash_key(Kind::Session, id), session, session.expires_at)
        })
        .await
    }

    async fn session(&self, id: &SecretHash) -> Result<Option<Session>, StoreError> {
        self.lookup("session", Kind::Session, &hash_key(Kind::Session, id))
    }

    async fn end_session(&self, id: &SecretHash) -> Result<(), StoreError> {
        self.revocation("end_session", |t| t.remove(&hash_key(Kind::Session, id)))
            .await?;
        Ok(())
    }

    async fn code(&self, code: &SecretHash) -> Result<Option<AuthorizationCode>, StoreError> {
        self.lookup("code", Kind::Code, &hash_key(Kind::Code, code))
    }

    async fn note_failed_attempt(&self, code: &SecretHash) -> Result<(), StoreError> {
        let key = hash_key(Kind::Code, code);
        self.event("note_failed_attempt", |t| {
            match t.get::<AuthorizationCode>(Kind::Code, &key)? {
                Some(code) => t.put(
                    Kind::Code,
                    &key,
                    &AuthorizationCode {
                        failed_attempts: code.failed_attempts.saturating_add(1),
                        ..code
                    },
                ),
                None => Ok(()),
            }
        })
        .await
    }

    async fn redeem_code(&self, code: &SecretHash, grant: &Grant, issued: &Issued) -> Result<Redemption, StoreError> {
        let key = hash_key(Kind::Code, code);
        self.event("redeem_code", |t| {
            let Some(code) = t.get::<AuthorizationCode>(Kind::Code, &key)? else {
                return Ok(Redemption::Unknown);
            };
            if let Some(earlier) = code.redeemed {
                return Ok(Redemption::AlreadyUsed(earlier));
            }
            if code.failed_attempts >= MAX_CODE_ATTEMPTS {
                return Ok(Redemption::Unknown);
            }
            t.put(
                Kind::Code,
                &key,
                &AuthorizationCode {
                    redeemed: Some(issued.grant_id),
                    ..code
                },
            )?;
            let stored = StoredGrant {
                expires_at: last_expiry(issued),
                grant: grant.clone(),
            };
            t.put_expiring(Kind::Grant, &grant_key(&issued.grant_id), &stored, stored.expires_at)?;
            t.note_grant(&grant.client_id, GrantChange::Begun)?;
            put_issued(t, issued)?;
            Ok(Redemption::Done)
        })
        .await
    }

    async fn refresh_token(&self, token: &SecretHash) -> Result<Option<(RefreshToken, Grant)>, StoreError> {
        let found: Option<RefreshToken> = self.lookup(
            "refresh_token",
            Kind::RefreshToken,
            &hash_key(Kind::RefreshToken, token),
        )?;
        let Some(token) = found else { return Ok(None) };
        Ok(self.living_grant(&token.grant)?.map(|grant| (token, grant)))
    }

    async fn rotate(
        &self,
        token: &SecretHash,
        succession: &Succession,
        issued: &Issued,
    ) -> Result<Rotation, StoreError> {
        let key = hash_key(Kind::RefreshToken, token);
        self.event("rotate", |t| {
            let Some(token) = t.get::<RefreshToken>(Kind::RefreshToken, &key)? else {
                return Ok(Rotation::Unknown);
            };
            // Read inside: a revocation that came first is not undone.
            let grant_key = grant_key(&token.grant);
            let Some(stored) = t.get::<StoredGrant>(Kind::Grant, &grant_key)? else {
                return Ok(Rotation::Unknown);
            };
            if let Some(earlier) = token.rotated {
                return Ok(Rotation::AlreadyRotated(earlier));
            }
            t.put(
                Kind::RefreshToken,
                &key,
                &RefreshToken {
                    rotated: Some(succession.clone()),
                    ..token
                },
            )?;
            put_issued(t, issued)?;
            let expires_at = last_expiry(issued).max(stored.expires_at);
            t.remove(&expiry_key(stored.expires_at, &grant_key))?;
            t.put_expiring(
                Kind::Grant,
                &grant_key,
                &StoredGrant { expires_at, ..stored },
                expires_at,
            )?;
            Ok(Rotation::Done)
        })
        .await
    }

    async fn access_token(&self, token: &SecretHash) -> Result<Option<LiveToken>, StoreError> {
        let found: Option<AccessToken> =
            self.lookup("access_token", Kind::AccessToken, &hash_key(Kind::AccessToken, token))?;
        let Some(token) = found else { return Ok(None) };
        Ok(self.living_grant(&token.grant)?.map(|grant| LiveToken { token, grant }))
    }

    async fn revoke_access_token(&self, token: &SecretHash) -> Result<(), StoreError> {
        let key = hash_key(Kind::AccessToken, token);
        self.revocation("revoke_access_token", |t| {
            match t.get::<AccessToken>(Kind::AccessToken, &key)? {
                Some(token) => t.remove_expiring(&key, token.expires_at),
                None => Ok(false),
            }
        })
        .await?;
        Ok(())
    }

    async fn revoke_grant(&self, grant: &GrantId) -> Result<(), StoreError> {
        self.revocation("revoke_grant", |t| end_grant(t, &grant_key(grant)))
            .await?;
        Ok(())
    }

    fn revocations(&self) -> u64 {
        self.revocations.load(Ordering::SeqCst)
    }

    async fn signing_key(&self, name: &'static str) -> Result<[u8; 32], StoreError> {
        let fresh = random_bytes::<32>();
        let key = Kind::Meta.key(format!("key:{name}").as_bytes());
        self.event("signing_key", |t| match t.get::<[u8; 32]>(Kind::Meta, &key)? {
            Some(known) => Ok(known),
            None => t.put(Kind::Meta, &key, &fresh).map(|()| fresh),
        })
        .await
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.sweep_expired(now, limit).await
    }

    async fn compact(&self) -> Result<bool, StoreError> {
        self.compact_if_worthwhile().await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.writable()?;
        let bytes = self
            .shared
            .active()
            .db
            .get(Kind::Meta.key(b"format"))
            .map_err(backend("the check"))?;
        let bytes = bytes.ok_or(StoreError::Corrupt {
            kind: Kind::Meta.name(),
            detail: "the format is missing".to_owned(),
        })?;
        decode::<u32>(Kind::Meta, &bytes)
            .and_then(|format| encode(Kind::Meta, &format))
            .map(|_| ())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.flusher.flushed().await
    }
}
