//! What the embedded store keeps when its process is killed, when its files are damaged, and when its disk fails.
//!
//! The child is this test binary again, with `child` as its only test. It says what was acknowledged on its standard
//! output, after the call has returned; the parent kills it and then looks for all of it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing test may panic")]

mod store_support;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mcpgate::domain::client::ClientId;
use mcpgate::domain::grant::GrantId;
use mcpgate::domain::secret::{SecretHash, random_bytes};
use mcpgate::store::sled::{Limits, Options, SledStore, Step};
use mcpgate::store::{Issued, Redemption, Rotation, Store, StoreError};
use store_support::*;

const DIRECTORY: &str = "MCPGATE_CRASH_DIRECTORY";
const DIE_AT: &str = "MCPGATE_CRASH_DIE_AT";
const ROUNDS: usize = 32;
const TASKS: usize = 64;

// --- the child

#[test]
#[ignore = "it runs until it is killed; the other tests start it"]
fn child() {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("the parent says where"));
    let die_at = std::env::var_os(DIE_AT);
    let options = Options {
        // One client and one person do all of it.
        limits: Limits {
            grants: usize::MAX,
            ..Limits::default()
        },
        // Every compaction is worth it, so that many kills come in the middle of one.
        compact_above: 1,
        hook: Some(Arc::new(move |step| {
            if die_at.as_ref().is_some_and(|name| *name == *format!("{step:?}")) {
                std::process::abort();
            }
            Ok(())
        })),
        ..Options::default()
    };
    let store = Arc::new(SledStore::open_with(&directory, options).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        say(&format!("key {:?}", store.signing_key("cookies").await.unwrap()));
        for task in 0..TASKS {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                loop {
                    issue(&*store, task % 4 == 0).await;
                }
            });
        }
        // A record that dies at once, over and over, makes the database mostly dead.
        loop {
            for _ in 0..20 {
                let id = hash();
                store.begin_session(&id, &session(1), None).await.unwrap();
                store.end_session(&id).await.unwrap();
            }
            store.compact().await.unwrap();
        }
    });
}

/// One issuance from the code on. What begins is said before, what is acknowledged after.
async fn issue(store: &dyn Store, revoke: bool) {
    let client_id = ClientId::parse("crash").unwrap();
    let code = approved(store, &client_id).await;
    say(&format!("code {}", hex(&code)));
    let first = issued(GrantId::generate());
    let tokens = |issued: &Issued| format!("{} {}", hex(&access_of(issued)), hex(&refresh_of(issued)));
    say(&format!(
        "redeeming {} {} {}",
        hex(&code),
        first.grant_id,
        tokens(&first)
    ));
    let outcome = store.redeem_code(&code, &grant(&client_id, 1_000_000), &first).await;
    assert_eq!(outcome.unwrap(), Redemption::Done);
    say(&format!("redeemed {}", hex(&code)));

    let next = issued(first.grant_id);
    let outcome = store.rotate(&refresh_of(&first), &succession(), &next).await;
    assert_eq!(outcome.unwrap(), Rotation::Done);
    say(&format!("rotated {} {}", hex(&code), tokens(&next)));
    if revoke {
        say(&format!("revoking {}", hex(&code)));
        store.revoke_grant(&first.grant_id).await.unwrap();
        say(&format!("revoked {}", hex(&code)));
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn hex(hash: &SecretHash) -> String {
    use std::fmt::Write as _;
    hash.as_bytes().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> SecretHash {
    let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
    SecretHash::from_bytes(std::array::from_fn(byte))
}

// --- the parent

/// What the parent knows about one code and what came of it.
#[derive(Clone, Debug, Default)]
struct Issuance {
    grant: Option<GrantId>,
    first: Option<(SecretHash, SecretHash)>,
    next: Option<(SecretHash, SecretHash)>,
    redeemed: bool,
    revoking: bool,
    revoked: bool,
}

#[derive(Default)]
struct Known {
    key: Option<String>,
    issuances: HashMap<String, Issuance>,
}

impl Known {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let pair = |at: usize| Some((unhex(words[at]), unhex(words[at + 1])));
        if words[0] == "key" {
            let key = self.key.get_or_insert_with(|| line.to_owned());
            assert_eq!(*key, line, "the signing key has changed");
            return;
        }
        let issuance = self.issuances.entry(words[1].to_owned()).or_default();
        match words[0] {
            "code" => {}
            "redeeming" => {
                issuance.grant = Some(serde_json::from_value(words[2].into()).unwrap());
                issuance.first = pair(3);
            }
            "redeemed" => issuance.redeemed = true,
            "rotated" => issuance.next = pair(2),
            "revoking" => issuance.revoking = true,
            "revoked" => issuance.revoked = true,
            other => unreachable!("{other}"),
        }
    }

    /// Everything acknowledged is there, nothing revoked is, and what was not acknowledged happened whole or not at all.
    async fn check(&self, store: &dyn Store, fresh: &HashSet<String>) {
        for (text, issuance) in &self.issuances {
            let code = store
                .code(&unhex(text))
                .await
                .unwrap()
                .expect("an acknowledged code is lost");
            let (Some(grant_id), Some(first)) = (issuance.grant, issuance.first) else {
                assert_eq!(code.redeemed, None);
                continue;
            };
            if issuance.redeemed {
                assert_eq!(code.redeemed, Some(grant_id), "an acknowledged redemption is lost");
            }
            let live = store.access_token(&first.0).await.unwrap().is_some();
            let refresh = store.refresh_token(&first.1).await.unwrap();
            assert_eq!(live, refresh.is_some(), "half a redemption");
            if issuance.revoked {
                assert!(!live, "an acknowledged revocation is undone");
            } else if !issuance.revoking {
                assert_eq!(
                    live,
                    code.redeemed.is_some(),
                    "an acknowledged token is lost, or half a redemption"
                );
            }
            if let Some(next) = issuance.next {
                let live = store.access_token(&next.0).await.unwrap().is_some();
                assert_eq!(live, store.refresh_token(&next.1).await.unwrap().is_some());
                if issuance.revoked {
                    assert!(!live, "an acknowledged revocation is undone");
                } else if !issuance.revoking {
                    assert!(live, "an acknowledged token is lost");
                    let (old, _) = refresh.expect("a rotated token is lost");
                    assert!(old.rotated.is_some(), "an acknowledged rotation is lost");
                }
            }
            if issuance.redeemed && fresh.contains(text) {
                let grant = grant(&ClientId::parse("crash").unwrap(), 1_000_000);
                let again = store
                    .redeem_code(&unhex(text), &grant, &issued(GrantId::generate()))
                    .await;
                assert_eq!(
                    again.unwrap(),
                    Redemption::AlreadyUsed(grant_id),
                    "a code is redeemed twice"
                );
            }
        }
    }
}

fn start(directory: &Path, die_at: Option<Step>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped());
    if let Some(step) = die_at {
        command.env(DIE_AT, format!("{step:?}")).stderr(Stdio::null());
    }
    command.spawn().unwrap()
}

/// What the child says until it is dead.
fn listen(child: &mut Child) -> std::thread::JoinHandle<Vec<String>> {
    let out = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        // A line without its end was cut off by the kill.
        out.split(b'\n')
            .map_while(Result::ok)
            .filter_map(|line| String::from_utf8(line).ok()?.strip_prefix('@').map(str::to_owned))
            .collect()
    })
}

fn databases(directory: &Path) -> usize {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("db-")).count()
}

/// Spec: C10, L11
#[test]
fn nothing_acknowledged_is_lost_and_nothing_revoked_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("store");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut known = Known::default();
    let mut revoked = 0;
    for round in 0..ROUNDS {
        let mut child = start(&directory, None);
        let lines = listen(&mut child);
        let [low, high] = random_bytes::<2>();
        std::thread::sleep(Duration::from_millis(
            u64::from(u16::from_be_bytes([low, high])) * 900 / 65_536,
        ));
        child.kill().unwrap();
        // Not waited for: the lock of a process that is on its way out must not be in the way.
        let store = SledStore::open(&directory, Arc::new(()));
        child.wait().unwrap();
        let lines = lines.join().unwrap();
        let store = store.unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        assert_eq!(databases(&directory), 1);
        let mut fresh = HashSet::new();
        for line in &lines {
            known.hear(line);
            fresh.extend(line.split(' ').nth(1).map(str::to_owned));
        }
        runtime.block_on(known.check(&store, &fresh));
        revoked = known.issuances.values().filter(|issuance| issuance.revoked).count();
    }
    let redeemed = known.issuances.values().filter(|issuance| issuance.redeemed).count();
    assert!(
        redeemed > ROUNDS && revoked > 0,
        "the child did too little: {redeemed}, {revoked}"
    );
}

#[test]
fn a_compaction_may_die_at_every_step() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for step in [
        Step::Copied,
        Step::CaughtUp,
        Step::BeforeSwitch,
        Step::AfterSwitch,
        Step::BeforeRemoval,
    ] {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("store");
        let mut known = Known::default();
        for _ in 0..2 {
            let mut child = start(&directory, Some(step));
            let lines = listen(&mut child);
            let started = Instant::now();
            while child.try_wait().unwrap().is_none() {
                assert!(
                    started.elapsed() < Duration::from_secs(30),
                    "{step:?} was never reached"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            let mut fresh = HashSet::new();
            for line in lines.join().unwrap() {
                known.hear(&line);
                fresh.extend(line.split(' ').nth(1).map(str::to_owned));
            }
            let store = SledStore::open(&directory, Arc::new(())).unwrap();
            assert_eq!(databases(&directory), 1, "{step:?} leaves a database behind");
            runtime.block_on(known.check(&store, &fresh));
        }
        assert!(known.issuances.values().any(|issuance| issuance.redeemed), "{step:?}");
    }
}

// --- damage

/// A store with some families in it, closed.
async fn filled(directory: &Path) -> Vec<Issued> {
    let store = SledStore::open(directory, Arc::new(())).unwrap();
    let client_id = ClientId::generate();
    let mut families = Vec::new();
    for _ in 0..40 {
        families.push(family(&store, &client_id).await);
    }
    families
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_torn_log_opens_or_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let original = home.path().join("original");
    let families = filled(&original).await;
    let log = fs::read(original.join("db-000001/db")).unwrap();
    let end = log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut opened = 0;
    for (number, torn) in [1, 7, 64, 500, 3000, 20_000].into_iter().enumerate() {
        for garbled in [false, true] {
            let directory = home.path().join(format!("torn-{number}-{garbled}"));
            copy(&original, &directory);
            let mut damaged = log.clone();
            if garbled {
                damaged[end - torn..end].fill(0xA5);
            } else {
                damaged.truncate(end - torn);
            }
            fs::write(directory.join("db-000001/db"), damaged).unwrap();
            match SledStore::open(&directory, Arc::new(())) {
                Ok(store) => {
                    opened += 1;
                    store.check().await.unwrap();
                    // Whatever survived is whole, and the store takes new records.
                    for issued in &families {
                        store.access_token(&access_of(issued)).await.unwrap();
                    }
                    let issued = family(&store, &ClientId::generate()).await;
                    drop(store);
                    let store = SledStore::open(&directory, Arc::new(())).unwrap();
                    assert!(store.access_token(&access_of(&issued)).await.unwrap().is_some());
                }
                Err(error) => {
                    assert!(error.to_string().contains("docs/storage.md"), "{error}");
                }
            }
        }
    }
    assert!(opened > 0, "no torn log at all can be opened");
}

#[tokio::test]
async fn a_failed_flush_fails_its_writer_and_every_later_one() {
    let home = tempfile::tempdir().unwrap();
    let broken = Arc::new(Mutex::new(false));
    let breaks = Arc::clone(&broken);
    let options = Options {
        // One client and one person do all of it.
        limits: Limits {
            grants: usize::MAX,
            ..Limits::default()
        },
        hook: Some(Arc::new(move |step| match (step, *breaks.lock().unwrap()) {
            (Step::Flush, true) => Err(std::io::Error::other("the disk is gone")),
            _ => Ok(()),
        })),
        ..Options::default()
    };
    let store = SledStore::open_with(&home.path().join("store"), options).unwrap();
    let client_id = ClientId::generate();
    let (one, two) = (family(&store, &client_id).await, family(&store, &client_id).await);
    *broken.lock().unwrap() = true;
    let backend = |outcome: Result<(), StoreError>| matches!(outcome, Err(StoreError::Backend { .. }));
    let before = store.revocations();
    assert!(backend(store.revoke_grant(&one.grant_id).await));
    assert_ne!(store.revocations(), before);
    assert_eq!(
        store.access_token(&access_of(&one)).await.unwrap(),
        None,
        "it is revoked in memory all the same"
    );
    *broken.lock().unwrap() = false;
    assert!(backend(store.begin_session(&hash(), &session(9), None).await));
    assert!(backend(store.check().await));
    assert!(
        store
            .rotate(&refresh_of(&two), &succession(), &issued(two.grant_id))
            .await
            .is_err()
    );
    assert!(backend(store.revoke_access_token(&access_of(&two)).await));
    assert_eq!(store.access_token(&access_of(&two)).await.unwrap(), None);
}
