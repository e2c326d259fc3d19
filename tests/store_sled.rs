//! What is particular to the embedded store: its directory, its records on disk, its compaction.

#![expect(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mcpgate::domain::client::ClientId;
use mcpgate::store::sled::{Limits, Options, SledStore, Step};
use mcpgate::store::{Issued, Registration, Store, StoreError};
use store_support::*;

fn open(directory: &Path) -> SledStore {
    SledStore::open(directory, Arc::new(())).unwrap()
}

fn quick() -> Options {
    Options {
        lock_wait: Duration::from_millis(150),
        ..Options::default()
    }
}

fn current(directory: &Path) -> String {
    fs::read_to_string(directory.join("CURRENT")).unwrap()
}

fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.metadata().unwrap() {
            metadata if metadata.is_dir() => size(&entry.path()),
            metadata => metadata.len(),
        })
        .sum()
}

/// Spec: C10
#[tokio::test]
async fn everything_is_there_after_reopening() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("deep/store");
    let client = client(1);
    let (issued, key) = {
        let store = open(&directory);
        store.register_client(&client).await.unwrap();
        let issued = family(&store, &client.id).await;
        (issued, store.signing_key("cookies").await.unwrap())
    };
    let store = open(&directory);
    assert_eq!(store.client(&client.id).await.unwrap(), Some(client));
    assert!(store.access_token(&access_of(&issued)).await.unwrap().is_some());
    assert_eq!(store.signing_key("cookies").await.unwrap(), key);
    for path in [directory.clone(), directory.join("db-000001")] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[tokio::test]
async fn caps_are_counted_anew_after_reopening() {
    let home = tempfile::tempdir().unwrap();
    let options = Options {
        limits: Limits {
            registered_clients: 2,
            authorizations: 1,
            ..Limits::default()
        },
        ..Options::default()
    };
    let (busy, idle, id) = (client(1), client(2), hash());
    {
        let store = SledStore::open_with(home.path(), options.clone()).unwrap();
        store.register_client(&busy).await.unwrap();
        store.register_client(&idle).await.unwrap();
        family(&store, &busy.id).await;
        store.begin_authorization(&id, &request(&busy.id, 1)).await.unwrap();
    }
    let store = SledStore::open_with(home.path(), options).unwrap();
    assert_eq!(store.register_client(&client(3)).await.unwrap(), Registration::Done);
    assert!(store.client(&busy.id).await.unwrap().is_some());
    assert!(store.client(&idle.id).await.unwrap().is_none());
    store.begin_authorization(&hash(), &request(&busy.id, 2)).await.unwrap();
    assert_eq!(store.authorization(&id).await.unwrap(), None);
}

#[tokio::test]
async fn a_second_opener_is_told_and_a_released_lock_is_waited_for() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let error = SledStore::open_with(home.path(), quick()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("in use by another mcpgate process"));
    let releasing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(400));
        drop(store);
    });
    let started = Instant::now();
    open(home.path()).check().await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(300));
    releasing.join().unwrap();
}

#[test]
fn a_later_format_is_refused() {
    let home = tempfile::tempdir().unwrap();
    drop(open(home.path()));
    fs::write(home.path().join("CURRENT"), "format=2\nwhatever=there is\n").unwrap();
    let error = SledStore::open_with(home.path(), quick()).unwrap_err();
    assert!(
        matches!(error, StoreError::Format { found: 2, known: 1, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_lost_or_broken_current_never_means_an_empty_store() {
    let home = tempfile::tempdir().unwrap();
    let issued = family(&open(home.path()), &ClientId::generate()).await;
    let file = home.path().join("CURRENT");
    let good = current(home.path());
    for bad in [
        None,
        Some(""),
        Some("format=1\n"),
        Some("format=1\ndatabase=../x\n"),
        Some("format=1\ndatabase=db-000009\n"),
    ] {
        match bad {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let error = SledStore::open_with(home.path(), quick()).unwrap_err();
        assert!(
            matches!(error, StoreError::Corrupt { kind: "CURRENT", .. }),
            "{bad:?}: {error:?}"
        );
    }
    fs::write(&file, good).unwrap();
    assert!(
        open(home.path())
            .access_token(&access_of(&issued))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn an_interrupted_first_start_and_strangers_do_no_harm() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("db-000001")).unwrap();
    fs::create_dir(home.path().join("db-backup")).unwrap();
    fs::write(home.path().join("notes.txt"), "mine").unwrap();
    drop(open(home.path()));
    // What an interrupted compaction would leave:
    fs::create_dir(home.path().join("db-000002")).unwrap();
    drop(open(home.path()));
    assert!(!home.path().join("db-000002").exists());
    assert!(home.path().join("db-backup").exists() && home.path().join("notes.txt").exists());
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_an_error_and_never_a_panic() {
    let home = tempfile::tempdir().unwrap();
    let issued = family(&open(home.path()), &ClientId::generate()).await;
    let key = |prefix: u8, id: &[u8]| [&[prefix], id].concat();
    let (access, refresh) = (access_of(&issued), refresh_of(&issued));
    {
        let raw = sled::open(home.path().join("db-000001")).unwrap();
        raw.insert(key(b't', access.as_bytes()), &b"\x01{\"grant\":\"secret"[..])
            .unwrap()
            .unwrap();
        raw.insert(key(b'r', refresh.as_bytes()), &b"\x09{}"[..])
            .unwrap()
            .unwrap();
        raw.insert(key(b'g', issued.grant_id.as_bytes()), &b""[..])
            .unwrap()
            .unwrap();
    }
    let store = open(home.path());
    let error = store.access_token(&access).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Corrupt {
                kind: "access token",
                ..
            }
        ),
        "{error:?}"
    );
    assert!(!error.to_string().contains("secret"), "errors quote no content");
    let error = store.refresh_token(&refresh).await.unwrap_err();
    assert!(error.to_string().contains("version 9"), "{error}");
    assert!(
        store
            .rotate(&refresh, &succession(), &issued_in(&issued))
            .await
            .is_err()
    );
    // Revoking and sweeping get rid of it all the same.
    store.revoke_access_token(&access).await.unwrap();
    assert_eq!(store.access_token(&access).await.unwrap(), None);
    store.revoke_grant(&issued.grant_id).await.unwrap();
    store.sweep(at(u64::MAX), 100).await.unwrap();
    assert_eq!(store.refresh_token(&refresh).await.unwrap(), None);
}

fn issued_in(family: &Issued) -> Issued {
    issued(family.grant_id)
}

/// Many records come and go, so that the database is mostly dead.
async fn fill_with_dead_records(store: &Arc<SledStore>, records: usize) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            for _ in 0..records / 64 {
                store.begin_session(&hash(), &session(1), None).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    store.sweep(at(2), usize::MAX).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_gives_space_back_and_loses_nothing_while_work_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let options = Options {
        compact_above: 1 << 20,
        ..Options::default()
    };
    let store = Arc::new(SledStore::open_with(home.path(), options).unwrap());
    assert!(!store.compact().await.unwrap(), "there is nothing to gain yet");
    let client_id = ClientId::generate();
    let early = family(&*store, &client_id).await;
    fill_with_dead_records(&store, 20_000).await;
    let before = size(home.path());

    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, stop, client_id) = (Arc::clone(&store), Arc::clone(&stop), client_id.clone());
        writers.spawn(async move {
            let (mut live, mut dead) = (Vec::new(), Vec::new());
            // Bounded, or a slow machine would write more meanwhile than compaction gives back.
            while !stop.load(Ordering::SeqCst) && live.len() < 200 {
                let (kept, ended) = (family(&*store, &client_id).await, family(&*store, &client_id).await);
                store.revoke_grant(&ended.grant_id).await.unwrap();
                assert!(store.access_token(&access_of(&kept)).await.unwrap().is_some());
                live.push(kept);
                dead.push(ended);
            }
            (live, dead)
        });
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (one, two) = tokio::join!(store.compact(), store.compact());
    assert!(one.unwrap() || two.unwrap(), "a mostly dead database is worth it");
    stop.store(true, Ordering::SeqCst);
    let written = writers.join_all().await;

    let after = size(home.path());
    assert!(after < before / 2, "{before} bytes became {after}");
    assert!(!home.path().join("db-000001").exists());
    drop_last(store);
    let store = open(home.path());
    assert!(store.access_token(&access_of(&early)).await.unwrap().is_some());
    let (mut live, mut dead) = (0, 0);
    for (kept, ended) in written {
        for issued in kept {
            live += 1;
            assert!(store.access_token(&access_of(&issued)).await.unwrap().is_some());
        }
        for issued in ended {
            dead += 1;
            assert_eq!(store.access_token(&access_of(&issued)).await.unwrap(), None);
        }
    }
    assert!(live > 8 && dead > 8, "{live} {dead}");
}

fn drop_last(store: Arc<SledStore>) {
    drop(Arc::into_inner(store).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_that_fails_at_any_step_loses_nothing() {
    for step in [
        Step::Copied,
        Step::CaughtUp,
        Step::BeforeSwitch,
        Step::AfterSwitch,
        Step::BeforeRemoval,
    ] {
        let home = tempfile::tempdir().unwrap();
        let options = Options {
            compact_above: 1,
            hook: Some(Arc::new(move |now| {
                if now == step {
                    Err(std::io::Error::other("no"))
                } else {
                    Ok(())
                }
            })),
            ..Options::default()
        };
        let store = Arc::new(SledStore::open_with(home.path(), options).unwrap());
        let early = family(&*store, &ClientId::generate()).await;
        fill_with_dead_records(&store, 640).await;
        let outcome = store.compact().await;
        assert_eq!(outcome.is_ok(), step == Step::BeforeRemoval, "{step:?}: {outcome:?}");
        assert!(store.access_token(&access_of(&early)).await.unwrap().is_some());
        // Which database a power loss would bring back is unknown in one case only, and then nothing more is written.
        let late = hash();
        let written = store.begin_session(&late, &session(9), None).await;
        assert_eq!(written.is_err(), step == Step::AfterSwitch, "{step:?}");
        drop_last(store);
        let store = open(home.path());
        assert!(store.access_token(&access_of(&early)).await.unwrap().is_some());
        assert_eq!(store.session(&late).await.unwrap().is_some(), step != Step::AfterSwitch);
    }
}
