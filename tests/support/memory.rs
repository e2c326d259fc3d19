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

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use mcpgate::domain::client::{Client, ClientId};
use mcpgate::domain::clock::Timestamp;
use mcpgate::domain::device::{Decision, DeviceAuthorization};
use mcpgate::domain::factors::{Factor, FactorName, Factors, Passkey};
use mcpgate::domain::grant::{
    AccessToken, AuthorizationCode, AuthorizationRequest, ConsentKey, Grant, GrantId, LiveToken, LoginAnswer,
    LoginStep, LoginVerdict, PushedRequest, RefreshToken, Session, Succession,
};
use mcpgate::domain::key::KeyRecord;
use mcpgate::domain::person::{Passed, Person, ProviderLink, Source};
use mcpgate::domain::scope::Scope;
use mcpgate::domain::secret::SecretHash;
use mcpgate::domain::user::Subject;
use mcpgate::store::{
    Added, Addition, Admitted, Answered, Approval, Chosen, Decided, Issued, Keys, Listed, MAX_CODE_ATTEMPTS, Once,
    People, Poll, Redemption, Registration, Room, Rotation, SecondFactors, Store, StoreError, Waiting,
};

#[derive(Default)]
pub struct Memory {
    records: Mutex<Records>,
    revocations: AtomicU64,
    /// Every call fails.
    pub broken: AtomicBool,
    /// Every call that ends sessions fails.
    pub keeps_sessions: AtomicBool,
    /// Every call waits until this is over.
    pub stalled: AtomicBool,
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
    used_once: HashSet<SecretHash>,
    keys: Vec<KeyRecord>,
    people: BTreeMap<Subject, Person>,
    factors: HashMap<Subject, Factors>,
    pushed: HashMap<SecretHash, PushedRequest>,
    devices: HashMap<SecretHash, DeviceAuthorization>,
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
        while self.stalled.load(Ordering::SeqCst) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(told());
        }
        Ok(work(&mut self.records.lock().unwrap()))
    }
}

fn told() -> StoreError {
    StoreError::Backend {
        operation: "test",
        source: "it was told to".into(),
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

    async fn update_client(&self, client: &Client) -> Result<bool, StoreError> {
        self.with(|records| match records.clients.get_mut(&client.id) {
            Some(own) => {
                *own = client.clone();
                true
            }
            None => false,
        })
        .await
    }

    async fn remove_client(&self, id: &ClientId) -> Result<bool, StoreError> {
        self.revocations.fetch_add(1, Ordering::SeqCst);
        self.with(|records| {
            records.grants.retain(|_, grant| grant.client_id != *id);
            records.clients.remove(id).is_some()
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
        id: Option<&SecretHash>,
        code: (&SecretHash, &AuthorizationCode),
        remember: Option<(&ConsentKey, &Scope)>,
    ) -> Result<Approval, StoreError> {
        self.with(|records| {
            if id.is_some_and(|id| records.authorizations.remove(id).is_none()) {
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

    async fn extend_session(
        &self,
        id: &SecretHash,
        expires_at: Timestamp,
        seen_at: Timestamp,
    ) -> Result<(), StoreError> {
        self.with(|records| {
            if let Some(session) = records.sessions.get_mut(id) {
                session.expires_at = expires_at;
                session.details.seen_at = Some(seen_at);
            }
        })
        .await
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

    async fn issue(&self, grant: &Grant, issued: &Issued) -> Result<(), StoreError> {
        self.with(|records| {
            records.grants.insert(issued.grant_id, grant.clone());
            records.issue(issued);
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

#[async_trait]
impl Keys for Memory {
    async fn use_once(&self, id: &SecretHash, _expires_at: Timestamp) -> Result<Once, StoreError> {
        self.with(|records| {
            if records.used_once.insert(*id) {
                Once::First
            } else {
                Once::Again
            }
        })
        .await
    }

    async fn was_used(&self, id: &SecretHash) -> Result<bool, StoreError> {
        self.with(|records| records.used_once.contains(id)).await
    }

    async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.with(|records| records.keys.clone()).await
    }

    async fn add_key(&self, key: &KeyRecord, unless_since: Timestamp) -> Result<(), StoreError> {
        self.with(|records| {
            let newer = |own: &KeyRecord| own.algorithm == key.algorithm && own.created_at > unless_since;
            if !records.keys.iter().any(newer) {
                records.keys.push(key.clone());
            }
        })
        .await
    }

    async fn remove_key(&self, id: &str) -> Result<(), StoreError> {
        self.with(|records| records.keys.retain(|key| key.id != id)).await
    }
}

#[async_trait]
impl Waiting for Memory {
    async fn note_passed(&self, id: &SecretHash, passed: &Passed) -> Result<(), StoreError> {
        self.with(|records| {
            if let Some(request) = records.authorizations.get_mut(id) {
                request.details.passed = Some(passed.clone());
            }
        })
        .await
    }

    async fn take_passed(&self, id: &SecretHash, passed: &Passed) -> Result<bool, StoreError> {
        self.with(|records| {
            let request = records.authorizations.get_mut(id);
            let mut known = request.filter(|request| request.details.passed.as_ref() == Some(passed));
            if let Some(request) = &mut known {
                request.details.passed = None;
            }
            known.is_some()
        })
        .await
    }

    async fn begin_login(&self, id: &SecretHash, challenge: &SecretHash) -> Result<(), StoreError> {
        self.with(|records| {
            if let Some(request) = records.authorizations.get_mut(id) {
                request.details.login = Some(LoginStep {
                    challenge: *challenge,
                    answer: None,
                });
            }
        })
        .await
    }

    async fn answer_login(
        &self,
        id: &SecretHash,
        challenge: &SecretHash,
        answer: &LoginAnswer,
        now: Timestamp,
    ) -> Result<Answered, StoreError> {
        self.with(|records| {
            let request = records
                .authorizations
                .get_mut(id)
                .filter(|request| now < request.expires_at);
            let login = request.and_then(|request| request.details.login.as_mut());
            match login.filter(|login| login.challenge == *challenge) {
                None => Answered::Unknown,
                Some(login) if login.answer.is_some() => Answered::Before,
                Some(login) => {
                    login.answer = Some(answer.clone());
                    Answered::Done
                }
            }
        })
        .await
    }

    async fn take_login(&self, id: &SecretHash, verifier: &SecretHash) -> Result<Option<LoginVerdict>, StoreError> {
        self.with(|records| {
            let details = &mut records.authorizations.get_mut(id)?.details;
            let answer = details.login.as_ref().and_then(|login| login.answer.clone());
            let answer = answer.filter(|answer| answer.verifier == *verifier)?;
            details.login = None;
            Some(answer.verdict)
        })
        .await
    }

    async fn push_request(&self, id: &SecretHash, request: &PushedRequest) -> Result<Room, StoreError> {
        let full = self.full.load(Ordering::SeqCst);
        self.with(|records| {
            if full {
                return Room::Full;
            }
            records.pushed.insert(*id, request.clone());
            Room::Kept
        })
        .await
    }

    async fn take_pushed_request(&self, id: &SecretHash) -> Result<Option<PushedRequest>, StoreError> {
        self.with(|records| records.pushed.remove(id)).await
    }

    async fn begin_device(&self, device: &SecretHash, request: &DeviceAuthorization) -> Result<Room, StoreError> {
        let full = self.full.load(Ordering::SeqCst);
        self.with(|records| {
            if full {
                return Room::Full;
            }
            records.devices.insert(*device, request.clone());
            Room::Kept
        })
        .await
    }

    async fn device_by_user_code(
        &self,
        user_code: &SecretHash,
    ) -> Result<Option<(SecretHash, DeviceAuthorization)>, StoreError> {
        self.with(|records| {
            let mut devices = records.devices.iter();
            devices
                .find(|(_, request)| request.user_code == *user_code)
                .map(|(id, request)| (*id, request.clone()))
        })
        .await
    }

    async fn decide_device(&self, device: &SecretHash, decision: &Decision) -> Result<Decided, StoreError> {
        self.with(|records| match records.devices.get_mut(device) {
            Some(request) if request.decision.is_none() => {
                request.decision = Some(decision.clone());
                Decided::Done
            }
            _ => Decided::Gone,
        })
        .await
    }

    async fn poll_device(&self, device: &SecretHash, now: Timestamp) -> Result<Poll, StoreError> {
        self.with(|records| match records.devices.get_mut(device) {
            Some(request) => {
                let too_soon = request.poll(now);
                Poll::Waiting(Box::new(request.clone()), too_soon)
            }
            None => Poll::Unknown,
        })
        .await
    }

    async fn redeem_device(
        &self,
        device: &SecretHash,
        grant: &Grant,
        issued: &Issued,
    ) -> Result<Redemption, StoreError> {
        self.with(|records| {
            let Some(request) = records.devices.get_mut(device) else {
                return Redemption::Unknown;
            };
            if let Some(earlier) = request.redeemed {
                return Redemption::AlreadyUsed(earlier);
            }
            request.redeemed = Some(issued.grant_id);
            records.grants.insert(issued.grant_id, grant.clone());
            records.issue(issued);
            Redemption::Done
        })
        .await
    }
}

impl Records {
    fn end_sessions(&mut self, subject: &Subject, keep: Option<&SecretHash>) -> usize {
        let before = self.sessions.len();
        self.sessions
            .retain(|id, session| session.subject != *subject || keep == Some(id));
        before - self.sessions.len()
    }

    fn end_grants(&mut self, ends: impl Fn(&Grant) -> bool) -> usize {
        let before = self.grants.len();
        self.grants.retain(|_, grant| !ends(grant));
        before - self.grants.len()
    }

    fn listed(&self, pick: impl Fn(&Grant) -> bool) -> Vec<Listed> {
        let mut found: Vec<Listed> = self
            .grants
            .iter()
            .filter(|(_, grant)| pick(grant))
            .map(|(id, grant)| Listed {
                id: *id,
                grant: grant.clone(),
                used_at: None,
            })
            .collect();
        found.sort_by_key(|listed| listed.id);
        found
    }
}

impl Memory {
    async fn of_factors(
        &self,
        subject: &Subject,
        what: impl FnOnce(&mut Factors) -> bool + Send,
    ) -> Result<bool, StoreError> {
        self.with(|records| records.factors.get_mut(subject).is_some_and(what))
            .await
    }

    async fn revoking<T>(&self, work: impl FnOnce(&mut Records) -> T + Send) -> Result<T, StoreError> {
        let done = self.with(work).await;
        self.revocations.fetch_add(1, Ordering::SeqCst);
        done
    }
}

#[async_trait]
impl SecondFactors for Memory {
    async fn factors(&self, subject: &Subject) -> Result<Option<Factors>, StoreError> {
        self.with(|records| records.factors.get(subject).cloned()).await
    }

    async fn add_factor(
        &self,
        subject: &Subject,
        factor: &Factor,
        recovery: &[SecretHash],
        first: bool,
    ) -> Result<Added, StoreError> {
        self.with(|records| {
            let known = records.factors.get(subject).cloned();
            let taken = |passkey: &Passkey| {
                let mut all = records.factors.values().flat_map(|factors| &factors.passkeys);
                all.any(|other| other.id == passkey.id)
            };
            let refused = match factor {
                Factor::Passkey(passkey) => taken(passkey),
                Factor::Authenticator(_) => false,
            };
            if refused || first && known.is_some() {
                return Added::Refused;
            }
            let added = known.as_ref().map_or(Added::First, |_| Added::Another);
            let mut factors = known.unwrap_or_else(|| Factors::with_recovery(recovery));
            if !factors.add(factor) {
                return Added::Refused;
            }
            records.factors.insert(subject.clone(), factors);
            added
        })
        .await
    }

    async fn use_step(&self, subject: &Subject, sealed: &str, step: u64) -> Result<bool, StoreError> {
        self.of_factors(subject, |factors| factors.use_step(sealed, step)).await
    }

    async fn use_passkey(&self, subject: &Subject, used: &Passkey) -> Result<bool, StoreError> {
        self.of_factors(subject, |factors| factors.use_passkey(used)).await
    }

    async fn use_recovery_code(&self, subject: &Subject, code: &SecretHash) -> Result<bool, StoreError> {
        self.of_factors(subject, |factors| factors.use_recovery_code(code))
            .await
    }

    async fn replace_recovery(&self, subject: &Subject, codes: &[SecretHash]) -> Result<bool, StoreError> {
        self.of_factors(subject, |factors| {
            factors.recovery = codes.to_vec();
            true
        })
        .await
    }

    async fn remove_factor(&self, subject: &Subject, which: &FactorName) -> Result<bool, StoreError> {
        let done = self.of_factors(subject, |factors| factors.remove(which)).await?;
        self.with(|records| records.factors.retain(|_, factors| !factors.is_empty()))
            .await?;
        Ok(done)
    }

    async fn reset_factors(&self, subject: &Subject) -> Result<bool, StoreError> {
        self.with(|records| records.factors.remove(subject).is_some()).await
    }
}

#[async_trait]
impl People for Memory {
    async fn person(&self, subject: &Subject) -> Result<Option<Person>, StoreError> {
        self.with(|records| records.people.get(subject).cloned()).await
    }

    async fn people(&self, after: Option<&Subject>, limit: usize) -> Result<Vec<Person>, StoreError> {
        self.with(|records| {
            let behind = records.people.values();
            behind
                .filter(|person| after.is_none_or(|after| person.user.subject > *after))
                .take(limit)
                .cloned()
                .collect()
        })
        .await
    }

    async fn admit_person(&self, person: &Person) -> Result<Admitted, StoreError> {
        self.revoking(|records| {
            let known = records.people.get(&person.user.subject);
            if known.is_some_and(|known| known.source == Source::Store && person.source != Source::Store) {
                return Admitted::Taken;
            }
            let admitted = Person {
                disabled: known.is_some_and(|known| known.disabled),
                created_at: known.map_or(person.created_at, |known| known.created_at),
                ..person.clone()
            };
            records.people.insert(person.user.subject.clone(), admitted);
            Admitted::Kept
        })
        .await
    }

    async fn note_link(&self, subject: &Subject, link: &ProviderLink) -> Result<(), StoreError> {
        self.with(|records| {
            if let Some(person) = records.people.get_mut(subject) {
                person.link = Some(link.clone());
            }
        })
        .await
    }

    async fn add_person(&self, person: &Person) -> Result<Addition, StoreError> {
        self.with(|records| {
            if records.people.contains_key(&person.user.subject) {
                return Addition::Taken;
            }
            records.people.insert(person.user.subject.clone(), person.clone());
            Addition::Done
        })
        .await
    }

    async fn set_password(&self, subject: &Subject, hash: &str, chosen: Chosen<'_>) -> Result<bool, StoreError> {
        let keep = match chosen {
            Chosen::ByThem(keep) => keep,
            Chosen::ForThem => None,
        };
        self.revoking(|records| {
            let Some(person) = records.people.get_mut(subject) else {
                return false;
            };
            person.password_hash = Some(hash.to_owned());
            person.must_change = chosen == Chosen::ForThem;
            records.end_sessions(subject, keep);
            true
        })
        .await
    }

    async fn set_disabled(&self, person: &Person, disabled: bool) -> Result<Room, StoreError> {
        self.revoking(|records| {
            let subject = &person.user.subject;
            let known = records.people.entry(subject.clone()).or_insert_with(|| person.clone());
            known.disabled = disabled;
            if disabled {
                records.end_sessions(subject, None);
                records.end_grants(|grant| grant.subject == *subject);
            }
            Room::Kept
        })
        .await
    }

    async fn remove_person(&self, subject: &Subject) -> Result<bool, StoreError> {
        self.revoking(|records| {
            records.end_sessions(subject, None);
            records.end_grants(|grant| grant.subject == *subject);
            records.factors.remove(subject);
            records.people.remove(subject).is_some()
        })
        .await
    }

    async fn sessions_of(&self, subject: &Subject) -> Result<Vec<(SecretHash, Session)>, StoreError> {
        self.with(|records| {
            let own = records
                .sessions
                .iter()
                .filter(|(_, session)| session.subject == *subject);
            own.map(|(id, session)| (*id, session.clone())).collect()
        })
        .await
    }

    async fn end_sessions_of(&self, subject: &Subject, keep: Option<&SecretHash>) -> Result<usize, StoreError> {
        if self.keeps_sessions.load(Ordering::SeqCst) {
            return Err(told());
        }
        self.revoking(|records| records.end_sessions(subject, keep)).await
    }

    async fn grants_of(&self, subject: &Subject, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.with(|records| {
            let mut found = records.listed(|grant| grant.subject == *subject);
            found.truncate(limit);
            found
        })
        .await
    }

    async fn grant(&self, id: &GrantId) -> Result<Option<Listed>, StoreError> {
        self.with(|records| records.listed(|_| true).into_iter().find(|listed| listed.id == *id))
            .await
    }

    async fn note_used(&self, id: &GrantId, at: Timestamp) -> Result<(), StoreError> {
        self.with(|records| {
            if let Some(grant) = records.grants.get_mut(id) {
                grant.used_at = Some(at);
            }
        })
        .await
    }

    async fn grants(&self, after: Option<&GrantId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.with(|records| {
            let mut found = records.listed(|_| true);
            found.retain(|listed| after.is_none_or(|after| listed.id > *after));
            found.truncate(limit);
            found
        })
        .await
    }

    async fn revoke_grants_of(&self, subject: &Subject, client: Option<&ClientId>) -> Result<usize, StoreError> {
        self.revoking(|records| {
            let theirs = |own: &ClientId| client.is_none_or(|client| own == client);
            records
                .consents
                .retain(|key, _| key.subject != *subject || !theirs(&key.client_id));
            records.end_grants(|grant| grant.subject == *subject && theirs(&grant.client_id))
        })
        .await
    }

    async fn revoke_grants_for(&self, client: &ClientId) -> Result<usize, StoreError> {
        self.revoking(|records| {
            records.consents.retain(|key, _| key.client_id != *client);
            records.end_grants(|grant| grant.client_id == *client)
        })
        .await
    }

    async fn clients(&self, after: Option<&ClientId>, limit: usize) -> Result<Vec<Client>, StoreError> {
        self.with(|records| {
            let mut found: Vec<Client> = records.clients.values().cloned().collect();
            found.sort_by(|a, b| a.id.cmp(&b.id));
            found.retain(|client| after.is_none_or(|after| client.id > *after));
            found.truncate(limit);
            found
        })
        .await
    }
}
