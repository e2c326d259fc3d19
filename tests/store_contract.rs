//! What every store backend must do, as one suite; and below it what is particular to one.

#![expect(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::any::Any;
use std::sync::Arc;

use mcpgate::domain::client::ClientId;
use mcpgate::domain::device::{Decision, DeviceAuthorization, INTERVAL, UserCode};
use mcpgate::domain::grant::{GrantId, PushedRequest};
use mcpgate::domain::key::{Algorithm, KeyRecord, PrivateKey};
use mcpgate::store::sled::{Limits, Options, SledStore};
use mcpgate::store::{
    Approval, Decided, MAX_CODE_ATTEMPTS, Once, Poll, Redemption, Registration, Room, Rotation, Store,
};
use store_support::*;
use tokio::task::JoinSet;

/// A fresh store, and what has to live as long as it does.
struct Fixture {
    store: Arc<dyn Store>,
    _home: Box<dyn Any + Send>,
}

fn sled(limits: Limits) -> Fixture {
    let home = tempfile::tempdir().unwrap();
    let options = Options {
        limits,
        ..Options::default()
    };
    Fixture {
        store: Arc::new(SledStore::open_with(&home.path().join("store"), options).unwrap()),
        _home: Box::new(home),
    }
}

macro_rules! contract {
    ($($backend:ident),+: $cases:tt) => {
        $(mod $backend { contract!(@ $backend $cases); })+
    };
    (@ $backend:ident { $($case:ident),+ $(,)? }) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            super::$case(super::super::$backend).await;
        }
    )+};
}

/// The backends, and the cases that each must pass.
mod suite {
    use super::*;

    contract! { sled: {
        clients_are_kept,
        a_full_store_evicts_the_longest_registered_client_without_a_live_grant,
        eviction_takes_the_consents_along,
        a_client_may_be_evicted_once_its_last_grant_is_gone,
        authorizations_begin_and_end,
        the_oldest_authorization_makes_room,
        an_approval_happens_once,
        consents_grow_and_stay_apart,
        sessions_begin_replace_and_end,
        a_code_is_redeemed_once_and_remembered,
        a_code_is_worth_nothing_after_too_many_attempts,
        one_redeem_wins_however_many_race,
        a_refresh_token_is_rotated_once_and_remembered,
        one_rotation_wins_however_many_race,
        a_rotation_never_brings_a_revoked_family_back,
        a_rotation_into_another_family_is_refused,
        a_revoked_access_token_is_gone_alone,
        a_revoked_grant_takes_all_its_tokens,
        revocations_are_counted_before_they_return,
        signing_keys_are_made_once,
        an_identifier_is_used_once_however_many_race,
        token_keys_are_kept_and_one_rotation_wins,
        a_pushed_request_is_taken_once,
        a_device_waits_is_decided_and_redeemed_once,
        a_grant_without_a_code_is_like_any_other,
        sweeping_removes_what_expired_and_nothing_else,
        sweeping_keeps_to_its_limit,
        check_and_close_answer,
    }}

    type Open = fn(Limits) -> Fixture;

    const PLENTY: Limits = Limits {
        registered_clients: 10_000,
        authorizations: 10_000,
        pushed_requests: 10_000,
        devices: 10_000,
        used_once: 10_000,
    };

    fn limits(registered_clients: usize, authorizations: usize) -> Limits {
        Limits {
            registered_clients,
            authorizations,
            ..PLENTY
        }
    }

    /// Spec: C10
    async fn clients_are_kept(open: Open) {
        let fixture = open(PLENTY);
        let client = client(1);
        assert_eq!(fixture.store.client(&client.id).await.unwrap(), None);
        assert_eq!(
            fixture.store.register_client(&client).await.unwrap(),
            Registration::Done
        );
        assert_eq!(fixture.store.client(&client.id).await.unwrap(), Some(client));
    }

    /// Spec: C9, L15
    async fn a_full_store_evicts_the_longest_registered_client_without_a_live_grant(open: Open) {
        let fixture = open(limits(3, 10));
        let store = &*fixture.store;
        // Registered in another order than by age: age is what counts.
        let (second, first, third) = (client(20), client(10), client(30));
        for client in [&second, &first, &third] {
            assert_eq!(store.register_client(client).await.unwrap(), Registration::Done);
        }
        family(store, &first.id).await;
        let fourth = client(40);
        assert_eq!(store.register_client(&fourth).await.unwrap(), Registration::Done);
        assert!(
            store.client(&first.id).await.unwrap().is_some(),
            "the oldest has a live grant"
        );
        assert!(
            store.client(&second.id).await.unwrap().is_none(),
            "the next oldest made room"
        );
        assert!(store.client(&third.id).await.unwrap().is_some());
        for busy in [&third, &fourth] {
            family(store, &busy.id).await;
        }
        let fifth = client(50);
        assert_eq!(store.register_client(&fifth).await.unwrap(), Registration::Full);
        assert!(store.client(&fifth.id).await.unwrap().is_none());
    }

    async fn eviction_takes_the_consents_along(open: Open) {
        let fixture = open(limits(1, 10));
        let store = &*fixture.store;
        let (old, new) = (client(1), client(2));
        store.register_client(&old).await.unwrap();
        let key = consent_key(&old.id, REDIRECT);
        let id = hash();
        store.begin_authorization(&id, &request(&old.id, 1)).await.unwrap();
        let remember = Some((&key, &scope("read")));
        store
            .approve(&id, (&hash(), &code(&old.id, 9)), remember)
            .await
            .unwrap();
        assert!(store.consent(&key).await.unwrap().is_some());
        store.register_client(&new).await.unwrap();
        assert!(store.client(&old.id).await.unwrap().is_none());
        assert!(store.consent(&key).await.unwrap().is_none());
    }

    async fn a_client_may_be_evicted_once_its_last_grant_is_gone(open: Open) {
        let fixture = open(limits(2, 10));
        let store = &*fixture.store;
        let (revoked, lapsed) = (client(1), client(2));
        store.register_client(&revoked).await.unwrap();
        store.register_client(&lapsed).await.unwrap();
        let (one, two) = (family(store, &revoked.id).await, family(store, &revoked.id).await);
        family(store, &lapsed.id).await;
        store.revoke_grant(&one.grant_id).await.unwrap();
        assert_eq!(store.register_client(&client(3)).await.unwrap(), Registration::Full);
        store.revoke_grant(&two.grant_id).await.unwrap();
        assert_eq!(store.register_client(&client(4)).await.unwrap(), Registration::Done);
        assert!(store.client(&revoked.id).await.unwrap().is_none());

        let third = client(5);
        store.sweep(at(1_000_001), usize::MAX).await.unwrap();
        assert_eq!(store.register_client(&third).await.unwrap(), Registration::Done);
        assert!(
            store.client(&lapsed.id).await.unwrap().is_none(),
            "its grant was swept, and it is the oldest"
        );
    }

    async fn authorizations_begin_and_end(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let (id, client_id) = (hash(), ClientId::generate());
        assert_eq!(store.authorization(&id).await.unwrap(), None);
        store.note_sign_in(&id).await.unwrap();
        assert_eq!(store.authorization(&id).await.unwrap(), None);
        let request = request(&client_id, 1);
        store.begin_authorization(&id, &request).await.unwrap();
        assert_eq!(store.authorization(&id).await.unwrap(), Some(request.clone()));
        store.note_sign_in(&id).await.unwrap();
        let after = store.authorization(&id).await.unwrap().unwrap();
        assert!(!after.sign_in_again);
        assert_eq!(after.expires_at, request.expires_at);
        assert!(store.end_authorization(&id).await.unwrap());
        assert!(!store.end_authorization(&id).await.unwrap());
        assert_eq!(store.authorization(&id).await.unwrap(), None);
    }

    /// Spec: D21, L15
    async fn the_oldest_authorization_makes_room(open: Open) {
        let fixture = open(limits(10, 3));
        let store = &*fixture.store;
        let client_id = ClientId::generate();
        let ids = [hash(), hash(), hash(), hash(), hash()];
        for (id, created) in ids.iter().zip([2, 1, 3]) {
            store
                .begin_authorization(id, &request(&client_id, created))
                .await
                .unwrap();
        }
        // Ending one leaves room for one more.
        assert!(store.end_authorization(&ids[2]).await.unwrap());
        store
            .begin_authorization(&ids[3], &request(&client_id, 4))
            .await
            .unwrap();
        assert!(store.authorization(&ids[1]).await.unwrap().is_some());
        store
            .begin_authorization(&ids[4], &request(&client_id, 5))
            .await
            .unwrap();
        let mut left = Vec::new();
        for id in &ids {
            left.push(store.authorization(id).await.unwrap().is_some());
        }
        assert_eq!(left, [true, false, false, true, true]);
    }

    async fn an_approval_happens_once(open: Open) {
        let fixture = open(PLENTY);
        let client_id = ClientId::generate();
        for _ in 0..50 {
            let id = hash();
            fixture
                .store
                .begin_authorization(&id, &request(&client_id, 1))
                .await
                .unwrap();
            let mut tasks = JoinSet::new();
            for _ in 0..8 {
                let (store, client_id) = (Arc::clone(&fixture.store), client_id.clone());
                tasks.spawn(async move {
                    let code_id = hash();
                    let done = store
                        .approve(&id, (&code_id, &code(&client_id, 9)), None)
                        .await
                        .unwrap();
                    (done, store.code(&code_id).await.unwrap().is_some())
                });
            }
            let outcomes = tasks.join_all().await;
            assert_eq!(
                outcomes
                    .iter()
                    .filter(|outcome| **outcome == (Approval::Done, true))
                    .count(),
                1
            );
            assert_eq!(
                outcomes
                    .iter()
                    .filter(|outcome| **outcome == (Approval::Gone, false))
                    .count(),
                7
            );
        }
    }

    async fn consents_grow_and_stay_apart(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let client_id = ClientId::generate();
        let key = consent_key(&client_id, REDIRECT);
        for allowed in ["read", "write read"] {
            let id = hash();
            store.begin_authorization(&id, &request(&client_id, 1)).await.unwrap();
            let remember = Some((&key, &scope(allowed)));
            store
                .approve(&id, (&hash(), &code(&client_id, 9)), remember)
                .await
                .unwrap();
            // A second approval of what is gone must not widen the consent.
            let wide = scope("admin");
            let again = store
                .approve(&id, (&hash(), &code(&client_id, 9)), Some((&key, &wide)))
                .await;
            assert_eq!(again.unwrap(), Approval::Gone);
        }
        assert_eq!(
            store.consent(&key).await.unwrap().unwrap().sorted(),
            scope("read write")
        );
        for other in [
            consent_key(&client_id, "http://127.0.0.1:7777/other"),
            consent_key(&ClientId::generate(), REDIRECT),
        ] {
            assert_eq!(store.consent(&other).await.unwrap(), None);
        }
    }

    async fn sessions_begin_replace_and_end(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let (one, two) = (hash(), hash());
        store.begin_session(&one, &session(100), None).await.unwrap();
        assert_eq!(store.session(&one).await.unwrap(), Some(session(100)));
        store.begin_session(&two, &session(200), Some(&one)).await.unwrap();
        assert_eq!(store.session(&one).await.unwrap(), None);
        assert_eq!(store.session(&two).await.unwrap(), Some(session(200)));
        store.begin_session(&two, &session(300), Some(&two)).await.unwrap();
        assert_eq!(store.session(&two).await.unwrap(), Some(session(300)));
        store.end_session(&two).await.unwrap();
        store.end_session(&two).await.unwrap();
        assert_eq!(store.session(&two).await.unwrap(), None);
    }

    async fn a_code_is_redeemed_once_and_remembered(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let client_id = ClientId::generate();
        let code = approved(store, &client_id).await;
        let (first, second) = (issued(GrantId::generate()), issued(GrantId::generate()));
        let grant = grant(&client_id, 1_000_000);
        assert_eq!(
            store.redeem_code(&hash(), &grant, &first).await.unwrap(),
            Redemption::Unknown
        );
        assert_eq!(store.access_token(&access_of(&first)).await.unwrap(), None);
        assert_eq!(
            store.redeem_code(&code, &grant, &first).await.unwrap(),
            Redemption::Done
        );
        let used = Redemption::AlreadyUsed(first.grant_id);
        assert_eq!(store.redeem_code(&code, &grant, &second).await.unwrap(), used);
        assert_eq!(
            store.access_token(&access_of(&second)).await.unwrap(),
            None,
            "the loser leaves nothing"
        );
        assert_eq!(store.refresh_token(&refresh_of(&second)).await.unwrap(), None);
        let live = store.access_token(&access_of(&first)).await.unwrap().unwrap();
        assert_eq!(live.token, first.access.1);
        assert_eq!(live.grant, grant);
        let (token, its_grant) = store.refresh_token(&refresh_of(&first)).await.unwrap().unwrap();
        assert_eq!(
            (Some(token), its_grant),
            (first.refresh.clone().map(|(_, t)| t), grant.clone())
        );
        // Also when the grant is gone: a replay after a revocation is still a replay.
        store.revoke_grant(&first.grant_id).await.unwrap();
        assert_eq!(store.redeem_code(&code, &grant, &second).await.unwrap(), used);
        assert_eq!(store.code(&code).await.unwrap().unwrap().redeemed, Some(first.grant_id));
    }

    /// Spec: F7
    async fn a_code_is_worth_nothing_after_too_many_attempts(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let client_id = ClientId::generate();
        let grant = grant(&client_id, 1_000_000);
        for (attempts, expected) in [
            (MAX_CODE_ATTEMPTS - 1, Redemption::Done),
            (MAX_CODE_ATTEMPTS, Redemption::Unknown),
            (MAX_CODE_ATTEMPTS + 3, Redemption::Unknown),
        ] {
            let code = approved(store, &client_id).await;
            for _ in 0..attempts {
                store.note_failed_attempt(&code).await.unwrap();
            }
            let redeemed = store.redeem_code(&code, &grant, &issued(GrantId::generate())).await;
            assert_eq!(redeemed.unwrap(), expected, "{attempts}");
        }
        store.note_failed_attempt(&hash()).await.unwrap();
    }

    /// Spec: F10, L11
    async fn one_redeem_wins_however_many_race(open: Open) {
        let fixture = open(PLENTY);
        let client_id = ClientId::generate();
        each_in_parallel(1000, |_| {
            let (store, client_id) = (Arc::clone(&fixture.store), client_id.clone());
            async move {
                let code = approved(&*store, &client_id).await;
                let mut racers = JoinSet::new();
                for _ in 0..8 {
                    let (store, grant) = (Arc::clone(&store), grant(&client_id, 1_000_000));
                    racers.spawn(async move {
                        let issued = issued(GrantId::generate());
                        let outcome = store.redeem_code(&code, &grant, &issued).await.unwrap();
                        let live = store.access_token(&access_of(&issued)).await.unwrap().is_some();
                        (issued.grant_id, outcome, live)
                    });
                }
                let outcomes = racers.join_all().await;
                let winners: Vec<_> = outcomes.iter().filter(|(_, o, _)| *o == Redemption::Done).collect();
                assert_eq!(winners.len(), 1);
                for (id, outcome, live) in &outcomes {
                    assert_eq!(*live, *id == winners[0].0);
                    assert!(*live || *outcome == Redemption::AlreadyUsed(winners[0].0));
                }
            }
        })
        .await;
    }

    async fn a_refresh_token_is_rotated_once_and_remembered(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let first = family(store, &ClientId::generate()).await;
        let (second, third) = (issued(first.grant_id), issued(first.grant_id));
        let (way, other) = (succession(), succession());
        let token = refresh_of(&first);
        assert_eq!(store.rotate(&hash(), &way, &second).await.unwrap(), Rotation::Unknown);
        assert_eq!(store.rotate(&token, &way, &second).await.unwrap(), Rotation::Done);
        let earlier = Rotation::AlreadyRotated(way.clone());
        assert_eq!(store.rotate(&token, &other, &third).await.unwrap(), earlier);
        assert_eq!(store.access_token(&access_of(&third)).await.unwrap(), None);
        assert_eq!(store.refresh_token(&refresh_of(&third)).await.unwrap(), None);
        let (kept, _) = store.refresh_token(&token).await.unwrap().unwrap();
        assert_eq!(kept.rotated, Some(way));
        // Both generations of access tokens live until they lapse; the new refresh token works.
        assert!(store.access_token(&access_of(&first)).await.unwrap().is_some());
        assert!(store.access_token(&access_of(&second)).await.unwrap().is_some());
        let next = store.rotate(&refresh_of(&second), &other, &third).await.unwrap();
        assert_eq!(next, Rotation::Done);
    }

    /// Spec: F15, L11
    async fn one_rotation_wins_however_many_race(open: Open) {
        let fixture = open(PLENTY);
        let client_id = ClientId::generate();
        each_in_parallel(1000, |_| {
            let (store, client_id) = (Arc::clone(&fixture.store), client_id.clone());
            async move {
                let first = family(&*store, &client_id).await;
                let mut racers = JoinSet::new();
                for _ in 0..8 {
                    let (store, first) = (Arc::clone(&store), first.clone());
                    racers.spawn(async move {
                        let (way, next) = (succession(), issued(first.grant_id));
                        let outcome = store.rotate(&refresh_of(&first), &way, &next).await.unwrap();
                        let live = store.refresh_token(&refresh_of(&next)).await.unwrap().is_some();
                        (way, outcome, live)
                    });
                }
                let outcomes = racers.join_all().await;
                let winners: Vec<_> = outcomes.iter().filter(|(_, o, _)| *o == Rotation::Done).collect();
                assert_eq!(winners.len(), 1);
                for (way, outcome, live) in &outcomes {
                    assert_eq!(*live, *way == winners[0].0);
                    assert!(*live || *outcome == Rotation::AlreadyRotated(winners[0].0.clone()));
                }
            }
        })
        .await;
    }

    /// Spec: F14, L11
    async fn a_rotation_never_brings_a_revoked_family_back(open: Open) {
        let fixture = open(PLENTY);
        let client_id = ClientId::generate();
        each_in_parallel(300, |round| {
            let (store, client_id) = (Arc::clone(&fixture.store), client_id.clone());
            async move {
                let first = family(&*store, &client_id).await;
                let next = issued(first.grant_id);
                let (rotating, revoking) = (Arc::clone(&store), Arc::clone(&store));
                let (token, successor, grant_id) = (refresh_of(&first), next.clone(), first.grant_id);
                let mut racers = JoinSet::new();
                let rotate = async move {
                    rotating.rotate(&token, &succession(), &successor).await.unwrap();
                };
                let revoke = async move {
                    revoking.revoke_grant(&grant_id).await.unwrap();
                };
                if round % 2 == 0 {
                    racers.spawn(rotate);
                    racers.spawn(revoke);
                } else {
                    racers.spawn(revoke);
                    racers.spawn(rotate);
                }
                racers.join_all().await;
                for issued in [&first, &next] {
                    assert_eq!(store.access_token(&access_of(issued)).await.unwrap(), None);
                    assert_eq!(store.refresh_token(&refresh_of(issued)).await.unwrap(), None);
                    let again = store
                        .rotate(&refresh_of(issued), &succession(), &super::issued(grant_id))
                        .await;
                    assert_eq!(again.unwrap(), Rotation::Unknown);
                }
            }
        })
        .await;
    }

    async fn a_rotation_into_another_family_is_refused(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let client_id = ClientId::generate();
        let (one, two) = (family(store, &client_id).await, family(store, &client_id).await);
        let crossed = issued(two.grant_id);
        let outcome = store.rotate(&refresh_of(&one), &succession(), &crossed).await.unwrap();
        assert_eq!(outcome, Rotation::Unknown);
        assert_eq!(store.access_token(&access_of(&crossed)).await.unwrap(), None);
    }

    async fn a_revoked_access_token_is_gone_alone(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let issued = family(store, &ClientId::generate()).await;
        store.revoke_access_token(&access_of(&issued)).await.unwrap();
        store.revoke_access_token(&access_of(&issued)).await.unwrap();
        assert_eq!(store.access_token(&access_of(&issued)).await.unwrap(), None);
        assert!(store.refresh_token(&refresh_of(&issued)).await.unwrap().is_some());
    }

    async fn a_revoked_grant_takes_all_its_tokens(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let client_id = ClientId::generate();
        let (ended, other) = (family(store, &client_id).await, family(store, &client_id).await);
        let next = issued(ended.grant_id);
        store.rotate(&refresh_of(&ended), &succession(), &next).await.unwrap();
        store.revoke_grant(&ended.grant_id).await.unwrap();
        store.revoke_grant(&ended.grant_id).await.unwrap();
        for gone in [&ended, &next] {
            assert_eq!(store.access_token(&access_of(gone)).await.unwrap(), None);
            assert_eq!(store.refresh_token(&refresh_of(gone)).await.unwrap(), None);
        }
        assert!(store.access_token(&access_of(&other)).await.unwrap().is_some());
    }

    /// Whoever sees the count of after a revocation must not see the token any more.
    async fn revocations_are_counted_before_they_return(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let client_id = ClientId::generate();
        for by_grant in [true, false] {
            let issued = family(store, &client_id).await;
            let (token, before) = (access_of(&issued), store.revocations());
            let (watcher, stop) = (
                Arc::clone(&fixture.store),
                Arc::new(std::sync::atomic::AtomicBool::new(false)),
            );
            let stopped = Arc::clone(&stop);
            let watching = tokio::spawn(async move {
                while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
                    let count = watcher.revocations();
                    let live = watcher.access_token(&token).await.unwrap().is_some();
                    assert!(count == before || !live, "a cached answer would outlive the revocation");
                    tokio::task::yield_now().await;
                }
            });
            if by_grant {
                store.revoke_grant(&issued.grant_id).await.unwrap();
            } else {
                store.revoke_access_token(&token).await.unwrap();
            }
            assert_ne!(store.revocations(), before);
            assert_eq!(store.access_token(&token).await.unwrap(), None);
            stop.store(true, std::sync::atomic::Ordering::SeqCst);
            watching.await.unwrap();
        }
    }

    async fn signing_keys_are_made_once(open: Open) {
        let fixture = open(PLENTY);
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let store = Arc::clone(&fixture.store);
            tasks.spawn(async move { store.signing_key("cookies").await.unwrap() });
        }
        let keys = tasks.join_all().await;
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_ne!(keys[0], [0; 32]);
        assert_ne!(fixture.store.signing_key("other").await.unwrap(), keys[0]);
    }

    /// Spec: J2, J7
    async fn an_identifier_is_used_once_however_many_race(open: Open) {
        let fixture = open(Limits {
            used_once: 20,
            ..PLENTY
        });
        let id = hash();
        let mut tasks = JoinSet::new();
        for _ in 0..16 {
            let store = Arc::clone(&fixture.store);
            tasks.spawn(async move { store.use_once(&id, at(100)).await.unwrap() });
        }
        let outcomes = tasks.join_all().await;
        assert_eq!(outcomes.iter().filter(|once| **once == Once::First).count(), 1);
        assert_eq!(outcomes.iter().filter(|once| **once == Once::Again).count(), 15);
        for _ in 1..20 {
            assert_eq!(fixture.store.use_once(&hash(), at(100)).await.unwrap(), Once::First);
        }
        assert_eq!(fixture.store.use_once(&hash(), at(100)).await.unwrap(), Once::Full);
        assert_eq!(fixture.store.use_once(&id, at(100)).await.unwrap(), Once::Again);
        assert_eq!(fixture.store.sweep(at(101), 100).await.unwrap(), 20);
        assert_eq!(fixture.store.use_once(&id, at(200)).await.unwrap(), Once::First);
    }

    async fn token_keys_are_kept_and_one_rotation_wins(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let record = |id: &str, algorithm, created_at| KeyRecord {
            id: id.to_owned(),
            algorithm,
            private: PrivateKey::new(vec![1, 2, 3]),
            created_at: at(created_at),
        };
        let names = async || -> Vec<String> {
            let mut names: Vec<_> = store.keys().await.unwrap().into_iter().map(|key| key.id).collect();
            names.sort();
            names
        };
        store.add_key(&record("a", Algorithm::Es256, 10), at(0)).await.unwrap();
        store
            .add_key(&record("late", Algorithm::Es256, 11), at(0))
            .await
            .unwrap();
        assert_eq!(names().await, ["a"], "one that saw no key before comes too late");
        store.add_key(&record("r", Algorithm::Rs256, 11), at(0)).await.unwrap();
        store.add_key(&record("b", Algorithm::Es256, 20), at(10)).await.unwrap();
        assert_eq!(names().await, ["a", "b", "r"]);
        let kept = store.keys().await.unwrap();
        assert!(kept.iter().all(|key| key.private.expose() == [1, 2, 3]));
        store.remove_key("a").await.unwrap();
        store.remove_key("never").await.unwrap();
        assert_eq!(names().await, ["b", "r"]);
    }

    /// Spec: J8
    async fn a_pushed_request_is_taken_once(open: Open) {
        let fixture = open(Limits {
            pushed_requests: 2,
            ..PLENTY
        });
        let store = &*fixture.store;
        let request = PushedRequest {
            client_id: ClientId::generate(),
            parameters: vec![
                ("scope".to_owned(), "a b".to_owned()),
                ("resource".to_owned(), "x".to_owned()),
            ],
            expires_at: at(60),
        };
        let (first, second) = (hash(), hash());
        assert_eq!(store.push_request(&first, &request).await.unwrap(), Room::Kept);
        assert_eq!(store.push_request(&second, &request).await.unwrap(), Room::Kept);
        assert_eq!(store.push_request(&hash(), &request).await.unwrap(), Room::Full);
        assert_eq!(
            store.take_pushed_request(&first).await.unwrap().as_ref(),
            Some(&request)
        );
        assert_eq!(store.take_pushed_request(&first).await.unwrap(), None);
        assert_eq!(store.push_request(&hash(), &request).await.unwrap(), Room::Kept);
        assert_eq!(store.sweep(at(61), 10).await.unwrap(), 2);
        assert_eq!(store.take_pushed_request(&second).await.unwrap(), None);
    }

    /// Spec: J6
    async fn a_device_waits_is_decided_and_redeemed_once(open: Open) {
        let fixture = open(Limits { devices: 1, ..PLENTY });
        let store = &*fixture.store;
        let (device, user_code, client_id) = (hash(), UserCode::generate(), ClientId::generate());
        let request = DeviceAuthorization {
            client_id: client_id.clone(),
            scope: scope("read"),
            resource: resource(),
            user_code: user_code.hash(),
            decision: None,
            polled_at: None,
            interval: INTERVAL,
            redeemed: None,
            expires_at: at(600_000),
        };
        assert_eq!(store.begin_device(&device, &request).await.unwrap(), Room::Kept);
        assert_eq!(store.begin_device(&hash(), &request).await.unwrap(), Room::Full);
        let found = store.device_by_user_code(&user_code.hash()).await.unwrap();
        assert_eq!(found, Some((device, request)));
        assert_eq!(store.device_by_user_code(&hash()).await.unwrap(), None);
        assert!(matches!(
            store.poll_device(&device, at(1)).await.unwrap(),
            Poll::Waiting(_, false)
        ));
        assert!(matches!(
            store.poll_device(&device, at(2)).await.unwrap(),
            Poll::Waiting(_, true)
        ));
        assert_eq!(store.poll_device(&hash(), at(2)).await.unwrap(), Poll::Unknown);

        let (family, grant) = (issued(GrantId::generate()), grant(&client_id, 1_000_000));
        let early = store.redeem_device(&device, &grant, &family).await.unwrap();
        assert_eq!(early, Redemption::Unknown, "nobody has approved it");
        let yes = Decision::Approved {
            subject: ada(),
            scope: scope("read"),
            authenticated_at: at(5),
        };
        assert_eq!(store.decide_device(&device, &yes).await.unwrap(), Decided::Done);
        let changed = store.decide_device(&device, &Decision::Denied).await.unwrap();
        assert_eq!(changed, Decided::Gone, "a person is asked once");
        assert_eq!(store.decide_device(&hash(), &yes).await.unwrap(), Decided::Gone);
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let (store, grant, family) = (Arc::clone(&fixture.store), grant.clone(), issued(GrantId::generate()));
            tasks.spawn(async move { store.redeem_device(&device, &grant, &family).await.unwrap() });
        }
        let outcomes = tasks.join_all().await;
        assert_eq!(outcomes.iter().filter(|one| **one == Redemption::Done).count(), 1);
        assert!(store.sweep(at(600_001), 100).await.unwrap() >= 1);
        assert_eq!(store.poll_device(&device, at(600_002)).await.unwrap(), Poll::Unknown);
        assert_eq!(store.device_by_user_code(&user_code.hash()).await.unwrap(), None);
    }

    async fn a_grant_without_a_code_is_like_any_other(open: Open) {
        let fixture = open(PLENTY);
        let client = ClientId::generate();
        let issued = issued(GrantId::generate());
        fixture.store.issue(&grant(&client, 1_000_000), &issued).await.unwrap();
        assert!(fixture.store.access_token(&access_of(&issued)).await.unwrap().is_some());
        fixture.store.revoke_grant(&issued.grant_id).await.unwrap();
        assert_eq!(fixture.store.access_token(&access_of(&issued)).await.unwrap(), None);
    }

    async fn sweeping_removes_what_expired_and_nothing_else(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let client = client(1);
        store.register_client(&client).await.unwrap();
        let (request_id, session_id) = (hash(), hash());
        // Expire at: access 10,000; code 60,000; refresh 100,000; request 600,001; grant 1,000,000.
        let issued = family(store, &client.id).await;
        let code = approved(store, &client.id).await;
        store
            .begin_authorization(&request_id, &request(&client.id, 1))
            .await
            .unwrap();
        store
            .begin_session(&session_id, &session(2_000_000), None)
            .await
            .unwrap();

        assert_eq!(
            store.sweep(at(10_000), 100).await.unwrap(),
            0,
            "expires at that moment, not before"
        );
        assert_eq!(store.sweep(at(10_001), 100).await.unwrap(), 1);
        assert_eq!(store.access_token(&access_of(&issued)).await.unwrap(), None);
        assert!(store.refresh_token(&refresh_of(&issued)).await.unwrap().is_some());
        assert_eq!(
            store.sweep(at(60_001), 100).await.unwrap(),
            2,
            "the used and the unused code"
        );
        assert_eq!(store.code(&code).await.unwrap(), None);
        assert_eq!(store.sweep(at(100_001), 100).await.unwrap(), 1);
        assert_eq!(store.refresh_token(&refresh_of(&issued)).await.unwrap(), None);
        assert!(store.authorization(&request_id).await.unwrap().is_some());
        assert_eq!(store.sweep(at(600_002), 100).await.unwrap(), 1);
        assert_eq!(store.authorization(&request_id).await.unwrap(), None);
        assert_eq!(store.sweep(at(1_000_001), 100).await.unwrap(), 1, "the grant");
        assert!(store.session(&session_id).await.unwrap().is_some());
        assert_eq!(store.sweep(at(2_000_001), 100).await.unwrap(), 1);
        assert_eq!(store.session(&session_id).await.unwrap(), None);
        assert_eq!(store.sweep(at(u64::MAX), 100).await.unwrap(), 0);
        assert!(
            store.client(&client.id).await.unwrap().is_some(),
            "clients do not expire"
        );
    }

    async fn sweeping_keeps_to_its_limit(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        for _ in 0..10 {
            store.begin_session(&hash(), &session(5), None).await.unwrap();
        }
        // A record that is removed earlier leaves nothing to sweep.
        let ended = hash();
        store.begin_session(&ended, &session(5), None).await.unwrap();
        store.end_session(&ended).await.unwrap();
        assert_eq!(store.sweep(at(6), 0).await.unwrap(), 0);
        assert_eq!(store.sweep(at(6), 4).await.unwrap(), 4);
        assert_eq!(store.sweep(at(6), 100).await.unwrap(), 6);
        assert_eq!(store.sweep(at(6), 100).await.unwrap(), 0);
    }

    async fn check_and_close_answer(open: Open) {
        let fixture = open(PLENTY);
        fixture.store.check().await.unwrap();
        family(&*fixture.store, &ClientId::generate()).await;
        fixture.store.close().await.unwrap();
    }

    /// Runs so many rounds, a few dozen at a time: they share flushes.
    async fn each_in_parallel<F: Future<Output = ()> + Send + 'static>(rounds: usize, round: impl Fn(usize) -> F) {
        let mut running = JoinSet::new();
        for number in 0..rounds {
            running.spawn(round(number));
            if running.len() >= 32 {
                running.join_next().await.unwrap().unwrap();
            }
        }
        running.join_all().await;
    }
}
