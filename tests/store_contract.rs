//! What every store backend must do, as one suite; and below it what is particular to one.

#![expect(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::any::Any;
use std::sync::Arc;

use mcpgate::domain::client::{Client, ClientId};
use mcpgate::domain::device::{Decision, DeviceAuthorization, INTERVAL, UserCode};
use mcpgate::domain::factors::{Authenticator, Factor, FactorName, Passkey};
use mcpgate::domain::grant::{GrantId, PushedRequest, Session, Succession};
use mcpgate::domain::key::{Algorithm, KeyRecord, PrivateKey};
use mcpgate::domain::person::{Person, ProviderLink, Source};
use mcpgate::domain::secret::{Nonce, SecretHash};
use mcpgate::domain::user::Subject;
use mcpgate::store::sled::{Limits, Options, SledStore};
use mcpgate::store::{
    Added, Addition, Admitted, Approval, Chosen, Decided, Issued, MAX_CODE_ATTEMPTS, Once, Poll, Redemption,
    Registration, Room, Rotation, Store,
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
        a_client_that_had_a_grant_outlives_those_that_never_did,
        a_client_in_the_middle_of_something_is_never_evicted,
        a_client_that_lets_everything_lapse_is_idle_again,
        a_changed_client_has_to_be_allowed_again,
        a_deleted_client_takes_its_grants_along,
        a_browser_and_an_address_push_out_their_own,
        a_person_has_so_many_sessions_and_no_more,
        the_grant_that_was_quiet_for_longest_makes_room,
        a_grant_has_room_for_so_many_refreshes,
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
        people_come_change_and_go,
        accounts_are_taken_disabled_and_get_passwords,
        nobody_elsewhere_takes_an_account_of_the_store,
        what_somebody_allowed_is_listed_and_ends,
        sessions_of_somebody_end_but_for_one,
        an_approval_from_memory_ends_nothing,
        factors_are_kept_used_and_forgotten,
        a_factor_is_used_once_however_many_race,
        a_passkey_is_nobody_elses,
        check_and_close_answer,
    }}

    type Open = fn(Limits) -> Fixture;

    const PLENTY: Limits = Limits {
        registered_clients: 10_000,
        authorizations: 10_000,
        per_browser: 10_000,
        per_address: 10_000,
        sessions: 10_000,
        grants: 10_000,
        refreshes: 10_000,
        pushed_requests: 10_000,
        devices: 10_000,
        used_once: 10_000,
        people: 10_000,
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
            .approve(Some(&id), (&hash(), &code(&old.id, 9)), remember)
            .await
            .unwrap();
        assert!(store.consent(&key).await.unwrap().is_some());
        // The code has to lapse: until then the client is in the middle of something.
        assert_eq!(store.register_client(&new).await.unwrap(), Registration::Full);
        store.sweep(at(10), 100).await.unwrap();
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
        let second = client(4);
        assert_eq!(store.register_client(&second).await.unwrap(), Registration::Done);
        assert!(store.client(&revoked.id).await.unwrap().is_none());

        store.sweep(at(1_000_001), usize::MAX).await.unwrap();
        family(store, &second.id).await;
        assert_eq!(store.register_client(&client(5)).await.unwrap(), Registration::Done);
        assert!(
            store.client(&lapsed.id).await.unwrap().is_none(),
            "its grant was swept, and the other has one"
        );
    }

    /// Spec: C9
    async fn a_client_that_had_a_grant_outlives_those_that_never_did(open: Open) {
        let fixture = open(limits(3, 10));
        let store = &*fixture.store;
        let used = client(1);
        store.register_client(&used).await.unwrap();
        let grant = family(store, &used.id).await;
        store.revoke_grant(&grant.grant_id).await.unwrap();
        for n in 2..50 {
            assert_eq!(store.register_client(&client(n)).await.unwrap(), Registration::Done);
            assert!(store.client(&used.id).await.unwrap().is_some(), "after {n} newcomers");
        }
        // What it begins and leaves unfinished does not cost it its place.
        let id = hash();
        store.begin_authorization(&id, &request(&used.id, 60)).await.unwrap();
        store.end_authorization(&id).await.unwrap();
        for n in 50..60 {
            store.register_client(&client(n)).await.unwrap();
        }
        assert!(store.client(&used.id).await.unwrap().is_some());
    }

    /// Spec: C9
    async fn a_client_in_the_middle_of_something_is_never_evicted(open: Open) {
        let fixture = open(limits(1, 10));
        let store = &*fixture.store;
        let busy = client(1);
        store.register_client(&busy).await.unwrap();
        let full = async || store.register_client(&client(100)).await.unwrap() == Registration::Full;
        // An authorization, then a code, then a grant, and nothing in between.
        let (one, two) = (hash(), hash());
        for id in [&one, &two] {
            store.begin_authorization(id, &request(&busy.id, 2)).await.unwrap();
        }
        assert!(full().await);
        store.end_authorization(&one).await.unwrap();
        assert!(full().await, "one of two is over");
        let code_id = hash();
        let approval = store
            .approve(Some(&two), (&code_id, &code(&busy.id, 500)), None)
            .await
            .unwrap();
        assert_eq!(approval, Approval::Done);
        assert!(full().await, "a code waits");
        let issued = issued(GrantId::generate());
        store
            .redeem_code(&code_id, &grant(&busy.id, 1_000_000), &issued)
            .await
            .unwrap();
        assert!(full().await, "a grant lives");
        store.revoke_grant(&issued.grant_id).await.unwrap();
        assert_eq!(store.register_client(&client(100)).await.unwrap(), Registration::Done);
        assert!(store.client(&busy.id).await.unwrap().is_none());
    }

    async fn a_client_that_lets_everything_lapse_is_idle_again(open: Open) {
        let fixture = open(limits(1, 10));
        let store = &*fixture.store;
        let idle = client(1);
        store.register_client(&idle).await.unwrap();
        let (left, approved) = (hash(), hash());
        for id in [&left, &approved] {
            store.begin_authorization(id, &request(&idle.id, 2)).await.unwrap();
        }
        store
            .approve(Some(&approved), (&hash(), &code(&idle.id, 500)), None)
            .await
            .unwrap();
        let pushed = PushedRequest {
            client_id: idle.id.clone(),
            parameters: Vec::new(),
            expires_at: at(600),
        };
        store.push_request(&hash(), &pushed).await.unwrap();
        store.sweep(at(501), usize::MAX).await.unwrap();
        assert_eq!(store.register_client(&client(2)).await.unwrap(), Registration::Full);
        store.sweep(at(700_000), usize::MAX).await.unwrap();
        assert_eq!(store.register_client(&client(2)).await.unwrap(), Registration::Done);
    }

    async fn a_changed_client_has_to_be_allowed_again(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let (own, other) = (client(1), client(1));
        store.register_client(&own).await.unwrap();
        store.register_client(&other).await.unwrap();
        for client in [&own, &other] {
            let id = hash();
            store.begin_authorization(&id, &request(&client.id, 1)).await.unwrap();
            let remember = Some((&consent_key(&client.id, REDIRECT), &scope("read")));
            store
                .approve(Some(&id), (&hash(), &code(&client.id, 9)), remember)
                .await
                .unwrap();
        }
        let changed = Client {
            name: Some("Another".to_owned()),
            ..own.clone()
        };
        assert!(store.update_client(&changed).await.unwrap());
        assert_eq!(store.client(&own.id).await.unwrap(), Some(changed.clone()));
        assert_eq!(store.consent(&consent_key(&own.id, REDIRECT)).await.unwrap(), None);
        assert!(
            store
                .consent(&consent_key(&other.id, REDIRECT))
                .await
                .unwrap()
                .is_some()
        );
        assert!(
            !store.update_client(&client(3)).await.unwrap(),
            "who is not there is not made"
        );
    }

    async fn a_deleted_client_takes_its_grants_along(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let (own, other) = (client(1), client(1));
        store.register_client(&own).await.unwrap();
        store.register_client(&other).await.unwrap();
        let (one, two, stays) = (
            family(store, &own.id).await,
            family(store, &own.id).await,
            family(store, &other.id).await,
        );
        let before = store.revocations();
        assert!(store.remove_client(&own.id).await.unwrap());
        assert!(store.revocations() > before, "caches hear of it");
        assert!(!store.remove_client(&own.id).await.unwrap());
        assert_eq!(store.client(&own.id).await.unwrap(), None);
        for (issued, lives) in [(&one, false), (&two, false), (&stays, true)] {
            assert_eq!(store.access_token(&issued.access.0).await.unwrap().is_some(), lives);
        }
    }

    /// Spec: L15, D21
    async fn a_browser_and_an_address_push_out_their_own(open: Open) {
        let fixture = open(Limits {
            per_browser: 2,
            per_address: 3,
            ..PLENTY
        });
        let store = &*fixture.store;
        let id = ClientId::generate();
        let (browser, address) = (hash(), hash());
        let from = |browser: Option<SecretHash>, address: SecretHash, created: u64| {
            let mut request = request(&id, created);
            request.browser = browser.unwrap_or_else(hash);
            request.details.source = Some(address);
            request
        };
        let bystander = hash();
        store
            .begin_authorization(&bystander, &from(None, hash(), 1))
            .await
            .unwrap();
        let of_browser = [hash(), hash(), hash()];
        for (place, id) in (2..).zip(&of_browser) {
            store
                .begin_authorization(id, &from(Some(browser), hash(), place))
                .await
                .unwrap();
        }
        let of_address = [hash(), hash(), hash(), hash(), hash()];
        for (place, id) in (10..).zip(&of_address) {
            store
                .begin_authorization(id, &from(None, address, place))
                .await
                .unwrap();
        }
        let mut left = Vec::new();
        for id in [bystander].iter().chain(&of_browser).chain(&of_address) {
            left.push(store.authorization(id).await.unwrap().is_some());
        }
        assert_eq!(left, [true, false, true, true, false, false, true, true, true]);
    }

    /// Spec: E6, L15
    async fn a_person_has_so_many_sessions_and_no_more(open: Open) {
        let fixture = open(Limits { sessions: 2, ..PLENTY });
        let store = &*fixture.store;
        let ids = [hash(), hash(), hash()];
        for (n, id) in (1..).zip(&ids) {
            let session = Session {
                authenticated_at: at(n),
                ..session(1_000)
            };
            store.begin_session(id, &session, None).await.unwrap();
        }
        let mut left = Vec::new();
        for id in &ids {
            left.push(store.session(id).await.unwrap().is_some());
        }
        assert_eq!(left, [false, true, true]);
        // One that is used ends later, and is swept then.
        store.extend_session(&ids[1], at(5_000), at(900)).await.unwrap();
        store.extend_session(&ids[0], at(5_000), at(900)).await.unwrap();
        store.sweep(at(4_000), usize::MAX).await.unwrap();
        assert!(
            store.session(&ids[0]).await.unwrap().is_none(),
            "what is over stays over"
        );
        let used = store.session(&ids[1]).await.unwrap().unwrap();
        assert_eq!((used.expires_at, used.details.seen_at), (at(5_000), Some(at(900))));
        assert!(store.session(&ids[2]).await.unwrap().is_none());
        store.sweep(at(5_001), usize::MAX).await.unwrap();
        assert!(store.session(&ids[1]).await.unwrap().is_none());
    }

    /// Spec: L15
    ///
    /// Whoever refreshes without end fills nothing but their own room; the last tokens and the last replays are known.
    async fn a_grant_has_room_for_so_many_refreshes(open: Open) {
        let fixture = open(Limits { refreshes: 4, ..PLENTY });
        let store = &*fixture.store;
        let own = client(1);
        store.register_client(&own).await.unwrap();
        let mut all = vec![family(store, &own.id).await];
        for n in 3..20 {
            let last = all.last().unwrap();
            let next = issued(last.grant_id);
            let succession = Succession {
                at: at(n),
                nonce: Nonce::generate(),
                scope: scope("read"),
                access_expires_at: at(1_000),
                key: None,
            };
            let refresh = last.refresh.as_ref().unwrap().0;
            assert_eq!(
                store.rotate(&refresh, &succession, &next).await.unwrap(),
                Rotation::Done
            );
            all.push(next);
        }
        let mut kept = Vec::new();
        for issued in &all[1..] {
            let access = store.access_token(&issued.access.0).await.unwrap().is_some();
            let refresh = store.refresh_token(&issued.refresh.as_ref().unwrap().0).await.unwrap();
            assert_eq!(access, refresh.is_some());
            kept.push(access);
        }
        assert_eq!(kept.iter().filter(|kept| **kept).count(), 4, "{kept:?}");
        assert!(kept.ends_with(&[true; 4]));
    }

    /// Spec: L15
    async fn the_grant_that_was_quiet_for_longest_makes_room(open: Open) {
        let fixture = open(Limits { grants: 2, ..PLENTY });
        let store = &*fixture.store;
        let own = client(1);
        store.register_client(&own).await.unwrap();
        let issue_at = async |millis: u64| {
            let code = approved(store, &own.id).await;
            let mut issued = issued(GrantId::generate());
            issued.access.1.issued_at = at(millis);
            store
                .redeem_code(&code, &grant(&own.id, 1_000_000), &issued)
                .await
                .unwrap();
            issued
        };
        let (first, second) = (issue_at(10).await, issue_at(20).await);
        // The first is used again.
        let mut next = issued(first.grant_id);
        next.access.1.issued_at = at(30);
        let succession = Succession {
            at: at(30),
            nonce: Nonce::generate(),
            scope: scope("read"),
            access_expires_at: at(1_000),
            key: None,
        };
        let refresh = first.refresh.as_ref().unwrap().0;
        assert_eq!(
            store.rotate(&refresh, &succession, &next).await.unwrap(),
            Rotation::Done
        );
        let third = issue_at(40).await;
        for (issued, lives) in [(&first, true), (&second, false), (&third, true)] {
            assert_eq!(store.access_token(&issued.access.0).await.unwrap().is_some(), lives);
        }
        // Grants without a code behind them are short-lived, and push nobody out.
        let plain = issued(GrantId::generate());
        store.issue(&grant(&own.id, 1_000_000), &plain).await.unwrap();
        assert!(store.access_token(&first.access.0).await.unwrap().is_some());
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
                        .approve(Some(&id), (&code_id, &code(&client_id, 9)), None)
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

    /// Spec: E7
    async fn an_approval_from_memory_ends_nothing(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let client_id = ClientId::generate();
        let (other, code_id) = (hash(), hash());
        store
            .begin_authorization(&other, &request(&client_id, 1))
            .await
            .unwrap();
        let done = store.approve(None, (&code_id, &code(&client_id, 9)), None).await;
        assert_eq!(done.unwrap(), Approval::Done);
        assert!(store.code(&code_id).await.unwrap().is_some());
        assert!(store.authorization(&other).await.unwrap().is_some());
    }

    async fn people_come_change_and_go(open: Open) {
        let fixture = open(Limits { people: 2, ..PLENTY });
        let store = &*fixture.store;
        let person = |name: &str| person(name, Source::Provider("google".to_owned()));
        let before = store.revocations();
        for name in ["google:2", "google:1"] {
            assert_eq!(store.admit_person(&person(name)).await.unwrap(), Admitted::Kept);
        }
        assert_eq!(store.admit_person(&person("google:3")).await.unwrap(), Admitted::Full);
        assert_eq!(store.add_person(&person("google:3")).await.unwrap(), Addition::Full);
        assert_eq!(store.set_disabled(&person("google:3"), true).await.unwrap(), Room::Full);
        assert_eq!(store.revocations(), before + 1, "only what takes something away counts");
        // The same again is no news; another e-mail address is.
        assert_eq!(store.admit_person(&person("google:1")).await.unwrap(), Admitted::Kept);
        assert_eq!(store.revocations(), before + 1);
        store.set_disabled(&person("google:1"), true).await.unwrap();
        let counted = store.revocations();
        let mut renamed = person("google:1");
        renamed.user.email = Some("new@example.com".to_owned());
        renamed.created_at = at(99);
        store.admit_person(&renamed).await.unwrap();
        assert!(store.revocations() > counted);
        let known = store.person(&renamed.user.subject).await.unwrap().unwrap();
        assert_eq!(known.user.email.as_deref(), Some("new@example.com"));
        assert!(known.disabled, "whoever signs in again is no less disabled");
        assert_eq!(known.created_at, at(1));
        let link = ProviderLink {
            checked_at: at(7),
            sealed: Some("sealed".to_owned()),
        };
        store.note_link(&renamed.user.subject, &link).await.unwrap();
        store.note_link(&person("google:9").user.subject, &link).await.unwrap();
        let names = async |after: Option<&Person>, limit| {
            let people = store
                .people(after.map(|person| &person.user.subject), limit)
                .await
                .unwrap();
            people
                .iter()
                .map(|person| person.user.subject.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(None, 9).await, ["google:1", "google:2"]);
        assert_eq!(names(None, 1).await, ["google:1"]);
        assert_eq!(names(Some(&renamed), 9).await, ["google:2"]);
        let known = store.person(&renamed.user.subject).await.unwrap().unwrap();
        assert_eq!(known.link, Some(link));
        assert!(store.remove_person(&renamed.user.subject).await.unwrap());
        assert!(!store.remove_person(&renamed.user.subject).await.unwrap());
        assert_eq!(store.admit_person(&person("google:3")).await.unwrap(), Admitted::Kept);
    }

    async fn accounts_are_taken_disabled_and_get_passwords(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let (own, elsewhere) = (
            person("bob", Source::Store),
            person("google:1", Source::Provider("google".to_owned())),
        );
        assert_eq!(store.add_person(&own).await.unwrap(), Addition::Done);
        assert_eq!(store.add_person(&own).await.unwrap(), Addition::Taken);
        store.admit_person(&elsewhere).await.unwrap();
        let (kept, ended) = (hash(), hash());
        for id in [&kept, &ended] {
            let session = Session {
                subject: own.user.subject.clone(),
                ..session(1_000)
            };
            store.begin_session(id, &session, None).await.unwrap();
        }
        assert!(
            store
                .set_password(&own.user.subject, "$new", Chosen::ByThem(Some(&kept)))
                .await
                .unwrap()
        );
        assert!(store.session(&kept).await.unwrap().is_some());
        assert!(store.session(&ended).await.unwrap().is_none());
        assert!(
            !store
                .set_password(&elsewhere.user.subject, "$new", Chosen::ForThem)
                .await
                .unwrap(),
            "who signs in elsewhere has no password here"
        );
        let known = store.person(&own.user.subject).await.unwrap().unwrap();
        assert_eq!(
            (known.password_hash.as_deref(), known.must_change),
            (Some("$new"), false)
        );
        // Nobody of theirs is kept: it was somebody else who chose it.
        assert!(
            store
                .set_password(&own.user.subject, "$new", Chosen::ForThem)
                .await
                .unwrap()
        );
        assert!(store.session(&kept).await.unwrap().is_none());
        let known = store.person(&own.user.subject).await.unwrap().unwrap();
        assert!(known.must_change);
        let again = Session {
            subject: own.user.subject.clone(),
            ..session(1_000)
        };
        store.begin_session(&kept, &again, None).await.unwrap();
        assert_eq!(store.set_disabled(&own, true).await.unwrap(), Room::Kept);
        let known = store.person(&own.user.subject).await.unwrap().unwrap();
        assert!(known.disabled && known.password_hash.as_deref() == Some("$new"));
        assert!(store.session(&kept).await.unwrap().is_none());
        store.set_disabled(&own, false).await.unwrap();
        assert!(!store.person(&own.user.subject).await.unwrap().unwrap().disabled);
    }

    /// Spec: E10
    async fn nobody_elsewhere_takes_an_account_of_the_store(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let ada = person("ada", Source::Store);
        store.add_person(&ada).await.unwrap();
        store
            .set_password(&ada.user.subject, "a hash", Chosen::ByThem(None))
            .await
            .unwrap();
        let before = store.person(&ada.user.subject).await.unwrap();
        for source in [Source::LoginPage, Source::Provider("google".to_owned())] {
            let other = person("ada", source);
            assert_eq!(store.admit_person(&other).await.unwrap(), Admitted::Taken);
            assert_eq!(store.person(&ada.user.subject).await.unwrap(), before);
        }
        // Who is known from elsewhere may come from elsewhere still.
        let bob = person("bob", Source::Provider("google".to_owned()));
        assert_eq!(store.admit_person(&bob).await.unwrap(), Admitted::Kept);
        let bob = person("bob", Source::LoginPage);
        assert_eq!(store.admit_person(&bob).await.unwrap(), Admitted::Kept);
    }

    async fn what_somebody_allowed_is_listed_and_ends(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let (one, two) = (ClientId::generate(), ClientId::generate());
        let families = [
            family(store, &one).await,
            family(store, &one).await,
            family(store, &two).await,
        ];
        let key = consent_key(&one, REDIRECT);
        let id = hash();
        store.begin_authorization(&id, &request(&one, 1)).await.unwrap();
        let remember = Some((&key, &scope("read")));
        store
            .approve(Some(&id), (&hash(), &code(&one, 9)), remember)
            .await
            .unwrap();
        let listed = store.grants_of(&ada(), 10).await.unwrap();
        assert_eq!(listed.len(), 3);
        assert!(listed.iter().all(|listed| listed.used_at == Some(at(2))), "{listed:?}");
        assert_eq!(store.grants_of(&ada(), 2).await.unwrap().len(), 2);
        let bob = Subject::of_username("bob").unwrap();
        assert!(store.grants_of(&bob, 10).await.unwrap().is_empty());
        let all = store.grants(None, 10).await.unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(store.grants(Some(&all[0].id), 10).await.unwrap(), all[1..]);
        assert_eq!(store.grant(&all[1].id).await.unwrap().as_ref(), Some(&all[1]));
        assert_eq!(store.revoke_grants_of(&bob, None).await.unwrap(), 0);
        let before = store.revocations();
        assert_eq!(store.revoke_grants_of(&ada(), Some(&one)).await.unwrap(), 2);
        assert!(store.revocations() > before);
        assert!(store.consent(&key).await.unwrap().is_none());
        let alive = async |family: &Issued| store.access_token(&access_of(family)).await.unwrap().is_some();
        assert!(!alive(&families[0]).await && !alive(&families[1]).await && alive(&families[2]).await);
        assert_eq!(store.revoke_grants_for(&two).await.unwrap(), 1);
        assert!(!alive(&families[2]).await);
        assert!(store.grants_of(&ada(), 10).await.unwrap().is_empty());
        // And with the account.
        let last = family(store, &one).await;
        store.remove_person(&ada()).await.unwrap();
        assert!(!alive(&last).await);
    }

    fn app(sealed: &str) -> Factor {
        Factor::Authenticator(Authenticator {
            sealed: sealed.to_owned(),
            last_step: 7,
        })
    }

    fn passkey(id: &str) -> Passkey {
        Passkey {
            id: id.to_owned(),
            name: format!("the {id}"),
            credential: "{}".to_owned(),
            counter: 0,
            created_at: at(1),
            used_at: None,
        }
    }

    async fn factors_are_kept_used_and_forgotten(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let ada = Subject::of_username("ada").unwrap();
        let codes = ["one", "two", "three"].map(SecretHash::of);
        assert_eq!(store.factors(&ada).await.unwrap(), None);
        assert!(!store.use_step(&ada, "sealed", 8).await.unwrap());
        assert!(!store.use_passkey(&ada, &passkey("phone")).await.unwrap());
        assert!(!store.use_recovery_code(&ada, &codes[0]).await.unwrap());
        assert!(!store.replace_recovery(&ada, &codes).await.unwrap());
        assert!(!store.remove_factor(&ada, &FactorName::Authenticator).await.unwrap());
        assert!(!store.reset_factors(&ada).await.unwrap());

        let add = async |factor: &Factor, first| store.add_factor(&ada, factor, &codes[..2], first).await.unwrap();
        assert_eq!(add(&app("sealed"), true).await, Added::First);
        assert_eq!(add(&app("other"), false).await, Added::Refused, "there is one app");
        let phone = Factor::Passkey(passkey("phone"));
        assert_eq!(add(&phone, true).await, Added::Refused, "it is not the first any more");
        assert_eq!(add(&phone, false).await, Added::Another);
        assert_eq!(add(&phone, false).await, Added::Refused);

        // A step and a count never go back; a code is good once.
        for (sealed, step, counts) in [
            ("other", 8, false),
            ("sealed", 7, false),
            ("sealed", 8, true),
            ("sealed", 8, false),
        ] {
            assert_eq!(
                store.use_step(&ada, sealed, step).await.unwrap(),
                counts,
                "{sealed} {step}"
            );
        }
        for (counter, counts) in [
            (0, true),
            (0, true),
            (5, true),
            (5, false),
            (4, false),
            (0, false),
            (6, true),
        ] {
            let used = Passkey {
                name: "another name".to_owned(),
                credential: "{\"new\":1}".to_owned(),
                counter,
                used_at: Some(at(9)),
                ..passkey("phone")
            };
            assert_eq!(store.use_passkey(&ada, &used).await.unwrap(), counts, "{counter}");
        }
        assert!(!store.use_passkey(&ada, &passkey("unknown")).await.unwrap());
        assert!(store.use_recovery_code(&ada, &codes[0]).await.unwrap());
        assert!(!store.use_recovery_code(&ada, &codes[0]).await.unwrap());
        assert!(!store.use_recovery_code(&ada, &codes[2]).await.unwrap());
        let known = store.factors(&ada).await.unwrap().unwrap();
        assert_eq!(known.recovery, codes[1..2], "those of the first factor");
        let kept = &known.passkeys[0];
        assert_eq!(
            (kept.name.as_str(), kept.counter, kept.used_at),
            ("the phone", 6, Some(at(9)))
        );
        assert_eq!(kept.credential, "{\"new\":1}");
        assert!(store.replace_recovery(&ada, &codes[2..]).await.unwrap());
        assert!(!store.use_recovery_code(&ada, &codes[1]).await.unwrap());

        // The last one takes the recovery codes along.
        let name = FactorName::Passkey("phone".to_owned());
        assert!(store.remove_factor(&ada, &name).await.unwrap());
        assert!(!store.remove_factor(&ada, &name).await.unwrap());
        assert!(store.factors(&ada).await.unwrap().is_some());
        assert!(store.remove_factor(&ada, &FactorName::Authenticator).await.unwrap());
        assert_eq!(store.factors(&ada).await.unwrap(), None);
        assert_eq!(add(&app("third"), true).await, Added::First);
        assert!(store.reset_factors(&ada).await.unwrap());
        assert_eq!(store.factors(&ada).await.unwrap(), None);
    }

    async fn a_factor_is_used_once_however_many_race(open: Open) {
        let fixture = open(PLENTY);
        let ada = Subject::of_username("ada").unwrap();
        let codes = [SecretHash::of("code")];
        let mut first = JoinSet::new();
        for number in 0..8 {
            let (store, ada) = (Arc::clone(&fixture.store), ada.clone());
            first.spawn(async move {
                let factor = Factor::Passkey(passkey(&format!("device {number}")));
                store.add_factor(&ada, &factor, &codes, true).await.unwrap() == Added::First
            });
        }
        let won = first.join_all().await;
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
        let known = fixture.store.factors(&ada).await.unwrap().unwrap().passkeys.remove(0);
        fixture
            .store
            .add_factor(&ada, &app("sealed"), &[], false)
            .await
            .unwrap();
        let mut used = JoinSet::new();
        for number in 0..24 {
            let (store, ada) = (Arc::clone(&fixture.store), ada.clone());
            let known = Passkey {
                counter: 1,
                ..known.clone()
            };
            used.spawn(async move {
                let won = match number % 3 {
                    0 => store.use_passkey(&ada, &known).await,
                    1 => store.use_step(&ada, "sealed", 8).await,
                    _ => store.use_recovery_code(&ada, &codes[0]).await,
                };
                (number % 3, won.unwrap())
            });
        }
        let used = used.join_all().await;
        for kind in 0..3 {
            let won = used.iter().filter(|(of, won)| *of == kind && *won);
            assert_eq!(won.count(), 1, "{kind}");
        }
    }

    /// Web Authentication Level 3, section 7.1, step 27.
    async fn a_passkey_is_nobody_elses(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let [ada, bob] = ["ada", "bob"].map(|name| Subject::of_username(name).unwrap());
        let phone = Factor::Passkey(passkey("phone"));
        let add = async |subject: &Subject| store.add_factor(subject, &phone, &[], false).await.unwrap();
        assert_eq!(add(&ada).await, Added::First);
        assert_eq!(add(&bob).await, Added::Refused);
        assert_eq!(store.factors(&bob).await.unwrap(), None);
        // It is free again when its person let go of it, an administrator did, or the person is gone.
        store
            .remove_factor(&ada, &FactorName::Passkey("phone".to_owned()))
            .await
            .unwrap();
        assert_eq!(add(&bob).await, Added::First);
        store.reset_factors(&bob).await.unwrap();
        assert_eq!(add(&ada).await, Added::First);
        store.add_person(&person("ada", Source::Store)).await.unwrap();
        store.set_disabled(&person("ada", Source::Store), true).await.unwrap();
        assert!(
            store.factors(&ada).await.unwrap().is_some(),
            "who is enabled again has it still"
        );
        store.remove_person(&ada).await.unwrap();
        assert_eq!(store.factors(&ada).await.unwrap(), None);
        assert_eq!(add(&bob).await, Added::First);
    }

    async fn sessions_of_somebody_end_but_for_one(open: Open) {
        let fixture = open(PLENTY);
        let store = &*fixture.store;
        let ids = [hash(), hash(), hash()];
        for (n, id) in (1..).zip(&ids) {
            let session = Session {
                authenticated_at: at(n),
                ..session(1_000)
            };
            store.begin_session(id, &session, None).await.unwrap();
        }
        let of = async || {
            let sessions = store.sessions_of(&ada()).await.unwrap();
            sessions.iter().map(|(id, _)| *id).collect::<Vec<_>>()
        };
        assert_eq!(of().await, ids);
        assert_eq!(store.end_sessions_of(&ada(), Some(&ids[1])).await.unwrap(), 2);
        assert_eq!(of().await, [ids[1]]);
        assert_eq!(store.end_sessions_of(&ada(), None).await.unwrap(), 1);
        assert!(of().await.is_empty());
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
                .approve(Some(&id), (&hash(), &code(&client_id, 9)), remember)
                .await
                .unwrap();
            // A second approval of what is gone must not widen the consent.
            let wide = scope("admin");
            let again = store
                .approve(Some(&id), (&hash(), &code(&client_id, 9)), Some((&key, &wide)))
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
