//! A store that keeps everything in memory and can be told to fail: for tests of what the endpoints make of its answers.
//! What a store must do is tested elsewhere, on the real one.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "for tests, each of which is a crate of its own and uses its part of this"
)]

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use mcpgate::domain::client::{Client, ClientId};
use mcpgate::domain::clock::Timestamp;
use mcpgate::domain::grant::{
    AccessToken, AuthorizationCode, AuthorizationRequest, ConsentKey, Grant, GrantId, LiveToken, RefreshToken, Session,
    Succession,
};
use mcpgate::domain::scope::Scope;
use mcpgate::domain::secret::SecretHash;
use mcpgate::store::{Approval, Issued, MAX_CODE_ATTEMPTS, Redemption, Registration, Rotation, Store, StoreError};

#[derive(Default)]
pub struct Memory {
    records: Mutex<Records>,
    revocations: AtomicU64,
    /// Every call fails.
    pub broken: AtomicBool,
    /// Nobody may register any more.
    pub full: AtomicBool,
}

#[derive(Default)]
struct Records {
    clients: HashMap<ClientId, Client>,
    authorizations: HashMap<SecretHash, AuthorizationRequest>,
    consents: HashMap<ConsentKey, Scope>,
    sessions: HashMap<SecretHash, Session>,
    codes: HashMap<SecretHash, AuthorizationCode>,
    grants: HashMap<GrantId, Grant>,
    access: HashMap<SecretHash, AccessToken>,
    refresh: HashMap<SecretHash, RefreshToken>,
}

impl Records {
    fn issue(&mut self, issued: &Issued) {
        self.access.insert(issued.access.0, issued.access.1.clone());
        if let Some((hash, token)) = &issued.refresh {
            self.refresh.insert(*hash, token.clone());
        }
    }
}

impl Memory {
    /// Does one operation, after everybody else had a turn: two requests that run side by side meet at every call.
    async fn with<T>(&self, work: impl FnOnce(&mut Records) -> T + Send) -> Result<T, StoreError> {
        tokio::task::yield_now().await;
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreError::Backend {
                operation: "test",
                source: "it was told to".into(),
            });
        }
        Ok(work(&mut self.records.lock().unwrap()))
    }
}

#[async_trait]
impl Store for Memory {
    async fn register_client(&self, client: &Client) -> Result<Registration, StoreError> {
        let full = self.full.load(Ordering::SeqCst);
        self.with(|records| {
            if full {
                return Registration::Full;
            }
            records.clients.insert(client.id.clone(), client.clone());
            Registration::Done
        })
        .await
    }

    async fn client(&self, id: &ClientId) -> Result<Option<Client>, StoreError> {
        self.with(|records| records.clients.get(id).cloned()).await
    }

    async fn begin_authorization(&self, id: &SecretHash, request: &AuthorizationRequest) -> Result<(), StoreError> {
        self.with(|records| records.authorizations.insert(*id, request.clone()))
            .await
            .map(drop)
    }

    async fn authorization(&self, id: &SecretHash) -> Result<Option<AuthorizationRequest>, StoreError> {
        self.with(|records| records.authorizations.get(id).cloned()).await
    }

    async fn note_sign_in(&self, id: &SecretHash) -> Result<(), StoreError> {
        self.with(|records| {
            if let Some(request) = records.authorizations.get_mut(id) {
                request.sign_in_again = false;
            }
        })
        .await
    }

    async fn end_authorization(&self, id: &SecretHash) -> Result<bool, StoreError> {
        self.with(|records| records.authorizations.remove(id).is_some()).await
    }

    async fn approve(
        &self,
        id: &SecretHash,
        code: (&SecretHash, &AuthorizationCode),
        remember: Option<(&ConsentKey, &Scope)>,
    ) -> Result<Approval, StoreError> {
        self.with(|records| {
            if records.authorizations.remove(id).is_none() {
                return Approval::Gone;
            }
            records.codes.insert(*code.0, code.1.clone());
            if let Some((key, scope)) = remember {
                let all = records.consents.get(key).map_or(scope.clone(), |old| old.union(scope));
                records.consents.insert(key.clone(), all);
            }
            Approval::Done
        })
        .await
    }

    async fn consent(&self, key: &ConsentKey) -> Result<Option<Scope>, StoreError> {
        self.with(|records| records.consents.get(key).cloned()).await
    }

    async fn begin_session(
        &self,
        id: &SecretHash,
        session: &Session,
        previous: Option<&SecretHash>,
    ) -> Result<(), StoreError> {
        self.with(|records| {
            previous.map(|previous| records.sessions.remove(previous));
            records.sessions.insert(*id, session.clone());
        })
        .await
    }

    async fn session(&self, id: &SecretHash) -> Result<Option<Session>, StoreError> {
        self.with(|records| records.sessions.get(id).cloned()).await
    }

    async fn end_session(&self, id: &SecretHash) -> Result<(), StoreError> {
        self.with(|records| records.sessions.remove(id)).await.map(drop)
    }

    async fn code(&self, code: &SecretHash) -> Result<Option<AuthorizationCode>, StoreError> {
        self.with(|records| records.codes.get(code).cloned()).await
    }

    async fn note_failed_attempt(&self, code: &SecretHash) -> Result<(), StoreError> {
        self.with(|records| {
            if let Some(code) = records.codes.get_mut(code) {
                code.failed_attempts = code.failed_attempts.saturating_add(1);
            }
        })
        .await
    }

    async fn redeem_code(&self, code: &SecretHash, grant: &Grant, issued: &Issued) -> Result<Redemption, StoreError> {
        self.with(|records| {
            let Some(code) = records.codes.get_mut(code) else {
                return Redemption::Unknown;
            };
            if let Some(earlier) = code.redeemed {
                return Redemption::AlreadyUsed(earlier);
            }
            if code.failed_attempts >= MAX_CODE_ATTEMPTS {
                return Redemption::Unknown;
            }
            code.redeemed = Some(issued.grant_id);
            records.grants.insert(issued.grant_id, grant.clone());
            records.issue(issued);
            Redemption::Done
        })
        .await
    }

    async fn refresh_token(&self, token: &SecretHash) -> Result<Option<(RefreshToken, Grant)>, StoreError> {
        self.with(|records| {
            let token = records.refresh.get(token)?;
            Some((token.clone(), records.grants.get(&token.grant)?.clone()))
        })
        .await
    }

    async fn rotate(
        &self,
        token: &SecretHash,
        succession: &Succession,
        issued: &Issued,
    ) -> Result<Rotation, StoreError> {
        self.with(|records| {
            let Some(old) = records.refresh.get_mut(token) else {
                return Rotation::Unknown;
            };
            if !records.grants.contains_key(&old.grant) {
                return Rotation::Unknown;
            }
            if let Some(earlier) = &old.rotated {
                return Rotation::AlreadyRotated(earlier.clone());
            }
            old.rotated = Some(succession.clone());
            records.issue(issued);
            Rotation::Done
        })
        .await
    }

    async fn access_token(&self, token: &SecretHash) -> Result<Option<LiveToken>, StoreError> {
        self.with(|records| {
            let token = records.access.get(token)?.clone();
            let grant = records.grants.get(&token.grant)?.clone();
            Some(LiveToken { token, grant })
        })
        .await
    }

    async fn revoke_access_token(&self, token: &SecretHash) -> Result<(), StoreError> {
        self.revocations.fetch_add(1, Ordering::SeqCst);
        self.with(|records| records.access.remove(token)).await.map(drop)
    }

    async fn revoke_grant(&self, grant: &GrantId) -> Result<(), StoreError> {
        self.revocations.fetch_add(1, Ordering::SeqCst);
        self.with(|records| records.grants.remove(grant)).await.map(drop)
    }

    fn revocations(&self) -> u64 {
        self.revocations.load(Ordering::SeqCst)
    }

    async fn signing_key(&self, _name: &'static str) -> Result<[u8; 32], StoreError> {
        self.with(|_| [7; 32]).await
    }

    async fn sweep(&self, _now: Timestamp, _limit: usize) -> Result<usize, StoreError> {
        self.with(|_| 0).await
    }

    async fn compact(&self) -> Result<bool, StoreError> {
        self.with(|_| false).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.with(|_| ()).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.with(|_| ()).await
    }
}
