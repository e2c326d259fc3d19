//! Giving disk space back. sled 0.34 never shrinks its file, so when most of it is dead the live records are written into a
//! fresh database beside it, and that one becomes the current one.
//!
//! First everything is copied while readers and writers go on; what writers touch meanwhile is noted. Then writers wait for
//! the moment that it takes to copy those keys again, make the copy durable, and change CURRENT. A crash before the change
//! leaves the old database in force, one after it the new; the other is removed at the next start.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::Instant;

use super::directory::{failed, size};
use super::open::open_database;
use super::transaction::backend;
use super::{Active, SledStore, lock};
use crate::store::StoreError;

/// The part of the disk space that live records must fall below, as 1 in so many.
const WORTHWHILE: u64 = 3;
/// Records copied before others get their turn.
const BATCH: usize = 1_000;

/// Where a rewrite is; tests stop it at each of them, as a crash would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Copied,
    CaughtUp,
    Durable,
    Switched,
}

impl SledStore {
    /// Rewrites the store if most of it is dead. Whether it did.
    pub(super) async fn compact_if_worthwhile(&self) -> Result<bool, StoreError> {
        self.compact_until(|_| Ok(())).await
    }

    async fn compact_until(&self, at: impl Fn(Step) -> Result<(), StoreError>) -> Result<bool, StoreError> {
        let _one_at_a_time = self.rewriting.lock().await;
        if !self.is_worthwhile().await? {
            return Ok(false);
        }
        let started = Instant::now();
        *lock(&self.shared.touched) = Some(HashSet::new());
        let outcome = self.rewrite(&at).await;
        *lock(&self.shared.touched) = None;
        outcome?;
        self.observer.operation("compact", started.elapsed());
        Ok(true)
    }

    async fn is_worthwhile(&self) -> Result<bool, StoreError> {
        let (db, path) = {
            let active = self.shared.active();
            (active.db.clone(), active.path.clone())
        };
        let on_disk = size(&path);
        if on_disk < self.limits.compact_from {
            return Ok(false);
        }
        let mut live = 0u64;
        for (index, entry) in db.iter().enumerate() {
            let (key, value) = entry.map_err(backend("measuring the store"))?;
            live = live.saturating_add(u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX));
            if index % BATCH == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(live < on_disk / WORTHWHILE)
    }

    async fn rewrite(&self, at: &impl Fn(Step) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let (old, old_path) = {
            let active = self.shared.active();
            (active.db.clone(), active.path.clone())
        };
        let path = self.shared.directory.successor(&old_path)?;
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let fresh = open_database(path)?;
        for (index, entry) in old.iter().enumerate() {
            let (key, value) = entry.map_err(backend("reading the old database"))?;
            fresh
                .db
                .insert(key, value)
                .map_err(backend("writing the new database"))?;
            if index % BATCH == 0 {
                tokio::task::yield_now().await;
            }
        }
        // The bulk is made durable now, so that the flush while writers wait is a short one.
        make_durable(&fresh)?;
        at(Step::Copied)?;
        {
            let mut active = self.shared.active.write().unwrap_or_else(PoisonError::into_inner);
            for key in lock(&self.shared.touched).take().unwrap_or_default() {
                match old.get(&key).map_err(backend("reading the old database"))? {
                    Some(value) => fresh.db.insert(key, value),
                    None => fresh.db.remove(key),
                }
                .map_err(backend("writing the new database"))?;
            }
            at(Step::CaughtUp)?;
            make_durable(&fresh)?;
            at(Step::Durable)?;
            self.shared.directory.switch_to(&name)?;
            *active = fresh;
        }
        at(Step::Switched)?;
        drop(old);
        std::fs::remove_dir_all(old_path).map_err(failed("removing the old database"))
    }
}

fn make_durable(database: &Active) -> Result<(), StoreError> {
    database.db.flush().map_err(backend("flushing the new database"))?;
    database.file.sync_all().map_err(failed("flushing the new database"))?;
    std::fs::File::open(&database.path)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("flushing the new database"))
}
