//! Compaction: sled 0.34 never gives disk space back, so the live records move into a new database.
//!
//! ```text
//! copy everything, while writers go on and their keys are noted
//! copy what was noted, until little is left          ── until here the old database is current, whatever happens
//! writers wait: copy the rest, sync, switch CURRENT  ── from here the new one is
//! writers go on with the new database; the old one is removed
//! ```
//! Lookups go on all the time. A directory that an interrupted compaction leaves is removed when the store is next opened.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ::sled::Db;

use super::directory::{self, SwitchError};
use super::open::open_database;
use super::{Active, Shared, SledStore, Step, Writer, at, backend};
use crate::store::StoreError;

/// How many times larger than its live records a database must be.
const WORTH_IT: u64 = 3;
/// Records between two flushes of the copy, so that no flush is long.
const FLUSH_EVERY: usize = 1000;
/// So few keys are copied while writers wait.
const FEW: usize = 500;
/// If writers are faster than the copying, they wait after so many rounds.
const ROUNDS: usize = 8;
/// How long lookups that began before the switch may take.
const READERS_LEAVE_WITHIN: Duration = Duration::from_secs(5);

impl SledStore {
    pub(super) async fn compact_if_worth_it(&self) -> Result<bool, StoreError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || compact(&shared))
            .await
            .map_err(backend("compacting"))?
    }
}

fn compact(shared: &Shared) -> Result<bool, StoreError> {
    if shared.has_failed() {
        return Err(super::flusher::failed());
    }
    let Some(_claim) = Claim::take(shared) else {
        return Ok(false);
    };
    let old = shared.active();
    if !worth_it(shared, &old)? {
        return Ok(false);
    }
    rewrite(shared, &old)?;
    remove(shared, old);
    Ok(true)
}

/// The right to compact; one at a time has it. While it is held, writers note the keys that they touch.
struct Claim<'a>(&'a Shared);

impl<'a> Claim<'a> {
    fn take(shared: &'a Shared) -> Option<Self> {
        let mut writer = shared.writer.blocking_lock();
        if writer.touched.is_some() {
            return None;
        }
        writer.touched = Some(HashSet::new());
        Some(Self(shared))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.writer.blocking_lock().touched = None;
    }
}

fn worth_it(shared: &Shared, active: &Active) -> Result<bool, StoreError> {
    let path = shared.directory.path_of(active.database);
    let size = directory::size(&path).map_err(backend("measuring the database"))?;
    if size < shared.compact_above {
        return Ok(false);
    }
    let mut live: u64 = 0;
    for entry in active.tree.iter() {
        let (key, value) = entry.map_err(backend("measuring the database"))?;
        live += (key.len() + value.len()) as u64;
        if live.saturating_mul(WORTH_IT) >= size {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Everything up to the switch. If it fails before CURRENT is written, the old database stays and the new one goes.
fn rewrite(shared: &Shared, old: &Active) -> Result<(), StoreError> {
    let database = old.database.next();
    let path = shared.directory.path_of(database);
    if path.exists() {
        shared
            .directory
            .remove(database)
            .map_err(backend("removing an earlier attempt"))?;
    }
    shared.directory.make(database).map_err(backend("making a database"))?;
    let outcome = fill_and_switch(shared, old, database);
    if outcome.is_err() && shared.active().database != database && shared.directory.remove(database).is_err() {
        tracing::warn!("what a failed compaction left cannot be removed; the next start tries again");
    }
    outcome
}

fn fill_and_switch(shared: &Shared, old: &Active, database: directory::Database) -> Result<(), StoreError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let tree = open_database(&shared.directory, database, shared.cache_bytes, deadline)?;
    for (count, entry) in old.tree.iter().enumerate() {
        let (key, value) = entry.map_err(backend("copying a record"))?;
        tree.insert(key, value).map_err(backend("copying a record"))?;
        if count % FLUSH_EVERY == FLUSH_EVERY - 1 {
            flush(shared, &tree)?;
        }
    }
    hook(shared, Step::Copied)?;
    for _ in 0..ROUNDS {
        let touched = {
            let mut writer = shared.writer.blocking_lock();
            match &mut writer.touched {
                Some(touched) if touched.len() > FEW => std::mem::take(touched),
                Some(_) | None => break,
            }
        };
        catch_up(&old.tree, &tree, &touched)?;
        flush(shared, &tree)?;
    }
    let mut writer = shared.writer.blocking_lock();
    switch(shared, old, &mut writer, tree, database)
}

/// The part for which writers wait.
fn switch(
    shared: &Shared,
    old: &Active,
    writer: &mut Writer,
    tree: Db,
    database: directory::Database,
) -> Result<(), StoreError> {
    let touched = writer.touched.as_mut().map(std::mem::take).unwrap_or_default();
    catch_up(&old.tree, &tree, &touched)?;
    hook(shared, Step::CaughtUp)?;
    tree.flush().map_err(backend("flushing the new database"))?;
    directory::sync_all(&shared.directory.path_of(database)).map_err(backend("flushing the new database"))?;
    let new = Arc::new(Active::new(&shared.directory, database, tree)?);
    if shared.has_failed() {
        return Err(super::flusher::failed());
    }
    let switched = shared.directory.set_current(database, shared.hook.as_ref());
    if let Err(SwitchError::Before(error)) = switched {
        return Err(backend("switching to the new database")(error));
    }
    *shared.active.write().unwrap_or_else(PoisonError::into_inner) = new;
    if let Err(SwitchError::After(error)) = switched {
        // A power loss may bring the old database back, which would not have what is written from now on.
        shared.fail();
        return Err(backend("switching to the new database")(error));
    }
    // All that was ever written is in the new database, and that is on disk.
    shared
        .flushed
        .fetch_max(shared.written.load(Ordering::Acquire), Ordering::AcqRel);
    Ok(())
}

/// Makes the copy agree with the original on these keys.
fn catch_up(old: &Db, new: &Db, keys: &HashSet<Vec<u8>>) -> Result<(), StoreError> {
    for key in keys {
        match old.get(key).map_err(backend("copying a record"))? {
            Some(value) => new.insert(key.as_slice(), value),
            None => new.remove(key),
        }
        .map_err(backend("copying a record"))?;
    }
    Ok(())
}

/// Flushes the copy with writers waiting for their own lock; see [`super::flusher`].
fn flush(shared: &Shared, tree: &Db) -> Result<(), StoreError> {
    let _writer = shared.writer.blocking_lock();
    tree.flush().map(drop).map_err(backend("flushing the new database"))
}

fn hook(shared: &Shared, step: Step) -> Result<(), StoreError> {
    at(shared.hook.as_ref(), step).map_err(backend("compacting"))
}

/// Closes and removes the old database, once the last lookup has left it.
fn remove(shared: &Shared, mut old: Arc<Active>) {
    let database = old.database;
    let deadline = Instant::now() + READERS_LEAVE_WITHIN;
    let closed = loop {
        match Arc::try_unwrap(old) {
            Ok(active) => {
                drop(active);
                break true;
            }
            Err(_) if Instant::now() >= deadline => break false,
            Err(shared_still) => old = shared_still,
        }
        thread::sleep(Duration::from_millis(5));
    };
    let removed = closed
        && at(shared.hook.as_ref(), Step::BeforeRemoval)
            .and_then(|()| shared.directory.remove(database))
            .is_ok();
    if !removed {
        tracing::warn!("the old database cannot be removed; the next start tries again");
    }
}
