//! What happens inside the gateway's own house: a store that fails or stalls, a clock that jumps. Nobody gets in who should
//! not, nothing hangs that need not, and it is over when it is over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mcpgate::store::Store;
use serde_json::json;

use crate::http1::{request, send};
use crate::memory::Memory;
use crate::person::{refresh, register, tokens};
use crate::setup::Gateway;

async fn on_memory() -> (Gateway, Arc<Memory>) {
    let store = Arc::new(Memory::default());
    let gateway = Gateway::start_on(Some(Arc::clone(&store) as Arc<dyn Store>), |yaml| yaml).await;
    (gateway, store)
}

/// The status of `/readyz`, and of `/healthz`.
async fn health(gateway: &Gateway) -> (u16, u16) {
    let admin = gateway.running.admin;
    let ask = async |path| {
        send(admin, &request("GET", path, &admin.to_string(), &[], b""))
            .await
            .status
    };
    (ask("/readyz").await, ask("/healthz").await)
}

/// Contract §6: 503 with `Retry-After`; never an open door. Whoever was let in a moment ago may stay, as the store need not
/// be asked; whoever is unknown, or known only to the store, is not let in.
/// Spec: H12
#[tokio::test]
async fn a_store_that_fails_lets_nobody_in_who_was_not() {
    let (gateway, store) = on_memory().await;
    let client = register(&gateway, json!({})).await;
    let (used, unused) = (
        tokens(&gateway, &client, "ada", "two").await,
        tokens(&gateway, &client, "bob", "two").await,
    );
    assert_eq!(gateway.call("two", Some(&used.access)).await.status, 200);
    assert_eq!(health(&gateway).await, (200, 200));
    let seen = gateway.upstream.count();
    store.broken.store(true, Ordering::SeqCst);
    for token in [unused.access.as_str(), "mgat_of-nobody"] {
        let reply = gateway.call("two", Some(token)).await;
        // What does not even look like a token need not be looked up.
        assert!([401, 503].contains(&reply.status), "{reply:?}");
        if token == unused.access {
            assert_eq!(reply.status, 503, "{reply:?}");
            let wait = reply.header("retry-after").and_then(|value| value.parse::<u64>().ok());
            assert!(wait.is_some_and(|seconds| (1..=60).contains(&seconds)), "{reply:?}");
            assert!(
                !reply.text().contains("told to"),
                "the cause is nobody's business: {reply:?}"
            );
        }
    }
    assert_eq!(gateway.call("two", None).await.status, 401, "that needs no store");
    assert_eq!(gateway.upstream.count(), seen, "something was forwarded");
    let late = refresh(&gateway, &client, &used.refresh).await;
    assert_eq!(late.status, 503, "{late:?}");
    assert_eq!(health(&gateway).await, (503, 200));
    let document = gateway.get("/.well-known/oauth-authorization-server", &[]).await;
    assert_eq!(document.status, 200, "discovery needs no store");
    // It is over when it is over: the very same tokens are good.
    store.broken.store(false, Ordering::SeqCst);
    assert_eq!(gateway.call("two", Some(&unused.access)).await.status, 200);
    assert_eq!(refresh(&gateway, &client, &used.refresh).await.status, 200);
    assert_eq!(health(&gateway).await, (200, 200));
}

/// A revocation that cannot be put on record must not be reported as done, and a cached permit does not outlive it.
/// Spec: H12
#[tokio::test]
async fn a_store_that_fails_revokes_nothing_in_silence() {
    let (gateway, store) = on_memory().await;
    let client = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "ada", "two").await;
    assert_eq!(gateway.call("two", Some(&own.access)).await.status, 200);
    store.broken.store(true, Ordering::SeqCst);
    let form = [("token", own.refresh.as_str()), ("client_id", client.id.as_str())];
    let reply = gateway.post_form("/revoke", &[], &form).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    store.broken.store(false, Ordering::SeqCst);
    let reply = gateway.post_form("/revoke", &[], &form).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(gateway.call("two", Some(&own.access)).await.status, 401);
}

/// While the store stalls those wait who need it, and nobody else; they get their answer when it goes on.
#[tokio::test]
async fn a_store_that_stalls_holds_up_only_who_needs_it() {
    let (gateway, store) = on_memory().await;
    let client = register(&gateway, json!({})).await;
    let used = tokens(&gateway, &client, "ada", "two").await;
    let waiting: Vec<_> = {
        let mut all = Vec::new();
        for _ in 0..20 {
            all.push(tokens(&gateway, &client, "bob", "two").await.access);
        }
        all
    };
    assert_eq!(gateway.call("two", Some(&used.access)).await.status, 200);
    store.stalled.store(true, Ordering::SeqCst);
    let calls = waiting.iter().map(|token| gateway.call("two", Some(token)));
    let calls = join_all(calls);
    let others = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let seen = gateway.upstream.count();
        for _ in 0..20 {
            let since = Instant::now();
            assert_eq!(gateway.call("two", Some(&used.access)).await.status, 200);
            assert_eq!(gateway.call("two", None).await.status, 401);
            assert_eq!(
                gateway.get("/.well-known/oauth-authorization-server", &[]).await.status,
                200
            );
            assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
        }
        assert_eq!(gateway.upstream.count(), seen + 20, "one that waits was forwarded");
        store.stalled.store(false, Ordering::SeqCst);
    };
    let (replies, ()) = tokio::join!(calls, others);
    assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
}

/// All of them at once, in their order.
async fn join_all<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = all.map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|context| {
        for (one, done) in &mut waiting {
            if done.is_none()
                && let std::task::Poll::Ready(value) = one.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if waiting.iter().all(|(_, done)| done.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}

/// A clock that jumps ahead ends what has expired and nothing else; one that jumps back revives nothing that was revoked,
/// and locks nobody out.
/// Spec: H12, L20
#[tokio::test]
async fn a_clock_that_jumps() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "ada", "two").await;
    let revoked = tokens(&gateway, &client, "bob", "two").await;
    let form = [("token", revoked.refresh.as_str()), ("client_id", client.id.as_str())];
    assert_eq!(gateway.post_form("/revoke", &[], &form).await.status, 200);
    let beginning = gateway.clock_now();
    // Back by a day: an hour's token is still an hour's token of the future.
    gateway.set_clock(beginning - 86_400_000);
    assert_eq!(gateway.call("two", Some(&own.access)).await.status, 200);
    assert_eq!(gateway.call("two", Some(&revoked.access)).await.status, 401);
    let while_back = tokens(&gateway, &client, "ada", "two").await;
    assert_eq!(gateway.call("two", Some(&while_back.access)).await.status, 200);
    // Right again: what was issued in the past has expired, what was issued here has not.
    gateway.set_clock(beginning);
    assert_eq!(gateway.call("two", Some(&own.access)).await.status, 200);
    assert_eq!(gateway.call("two", Some(&while_back.access)).await.status, 401);
    // Ahead by two hours, and by a year: expired, though it was let through a moment ago.
    gateway.set_clock(beginning + 7_200_000);
    assert_eq!(gateway.call("two", Some(&own.access)).await.status, 401);
    let renewed = refresh(&gateway, &client, &own.refresh).await;
    assert_eq!(renewed.status, 200, "{renewed:?}");
    let access = renewed.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(gateway.call("two", Some(&access)).await.status, 200);
    gateway.set_clock(beginning + 365 * 86_400_000);
    assert_eq!(gateway.call("two", Some(&access)).await.status, 401);
    // And the service goes on.
    let later = tokens(&gateway, &client, "ada", "two").await;
    assert_eq!(gateway.call("two", Some(&later.access)).await.status, 200);
}
