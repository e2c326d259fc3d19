//! The one who writes an audit log: numbers the lines, chains them, and sees to it that they reach the disk.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::PoisonError;
use std::time::Instant;

use serde::Serialize;

use super::{Act, AuditError, Destination, Event, Queue, SYNC_EVERY, Timed, Waiting, file, time};
use crate::telemetry::chain::{self, Head, Seal};

/// Who writes.
pub(super) struct Writer {
    pub(super) to: Destination,
    pub(super) file: Option<File>,
    pub(super) head: Head,
    pub(super) seal: Seal,
    pub(super) synced: Instant,
    /// Whether something was written since.
    pub(super) unsynced: bool,
    pub(super) failing: bool,
}

/// Lines that are chained and not written yet.
struct Draft {
    text: String,
    head: Head,
    /// How many acts the lines stand for.
    acts: u64,
    /// Acts that could not become lines.
    left_out: u64,
}

// === impl Draft ===

impl Draft {
    fn after(head: &Head) -> Self {
        Self {
            text: String::new(),
            head: head.clone(),
            acts: 0,
            left_out: 0,
        }
    }

    fn add(&mut self, line: &impl Serialize, acts: u64, seal: &Seal) {
        match self.head.append(line, seal) {
            Ok(line) => {
                self.text.push_str(&line);
                self.acts += acts;
            }
            Err(_) => self.left_out += acts,
        }
    }
}

// === impl Writer ===

impl Writer {
    /// Opens the file and finds where its chain ends; how many bytes of a line that was never finished were put aside.
    pub(super) fn open(&mut self) -> Result<u64, AuditError> {
        let Destination::File(path) = &self.to else {
            return Ok(0);
        };
        let failed = |source| AuditError::File {
            path: path.display().to_string(),
            source,
        };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let torn = file::put_aside(&mut file, path).map_err(failed)?;
        let tail = file::tail(&mut file).map_err(failed)?;
        if let Some(line) = file::last_line(&tail) {
            let found = chain::head_of(line, &self.seal).map_err(|_| AuditError::Foreign {
                path: path.display().to_string(),
            })?;
            self.head = found;
        }
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        self.file = Some(file);
        Ok(torn)
    }

    /// Writes what comes, until there is nothing more to come.
    pub(super) fn work(mut self, queue: &Queue) {
        loop {
            let (batch, lost, closed) = self.wait(queue);
            let done = closed && batch.is_empty() && lost == 0;
            let mut draft = Draft::after(&self.head);
            if lost > 0 {
                let act = Act {
                    count: Some(lost),
                    ..Act::new(Event::LinesLost, "missing")
                };
                draft.add(&Timed { time: time(), act }, lost, &self.seal);
            }
            let mut written = true;
            for one in batch {
                match one {
                    Waiting::Line(line) => draft.add(&line, 1, &self.seal),
                    Waiting::Reopen => {
                        written &= self.write(draft, queue);
                        self.reopen();
                        draft = Draft::after(&self.head);
                    }
                }
            }
            written &= self.write(draft, queue);
            self.sync(done);
            if done || closed && !written {
                return;
            }
            if !written {
                // It will not be better at once.
                std::thread::sleep(SYNC_EVERY);
            }
        }
    }

    /// What waits, how many lines are missing, and whether there is an end: as soon as there is anything, or something to flush.
    fn wait(&self, queue: &Queue) -> (VecDeque<Waiting>, u64, bool) {
        let mut state = queue.state();
        while state.waiting.is_empty() && state.lost == 0 && !state.closed {
            let left = SYNC_EVERY.saturating_sub(self.synced.elapsed());
            state = if !self.unsynced {
                queue.came.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else if left.is_zero() {
                break;
            } else {
                let waited = queue.came.wait_timeout(state, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
        }
        let batch = std::mem::take(&mut state.waiting);
        queue.went.notify_all();
        (batch, std::mem::take(&mut state.lost), state.closed)
    }

    /// Writes lines; whether they are written. If not, all that they stand for is missing, and the chain goes on from where the
    /// file ends.
    fn write(&mut self, draft: Draft, queue: &Queue) -> bool {
        if draft.text.is_empty() {
            queue.state().lost += draft.left_out;
            return true;
        }
        let written = match &mut self.file {
            Some(file) => file.write_all(draft.text.as_bytes()),
            None => io::stdout().lock().write_all(draft.text.as_bytes()),
        };
        let mut state = queue.state();
        state.failing = written.is_err();
        state.lost += draft.left_out;
        match written {
            Ok(()) => {
                self.failing = false;
                self.unsynced = true;
                self.head = draft.head;
                true
            }
            Err(error) => {
                state.lost += draft.acts;
                drop(state);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "the audit log cannot be written: acts are missing in it until it can");
                }
                self.reopen();
                false
            }
        }
    }

    fn reopen(&mut self) {
        let before = self.head.clone();
        // An empty file leaves the head as it is: the chain goes on in it.
        if let Err(error) = self.open() {
            self.head = before;
            tracing::error!(%error, "the audit log could not be opened anew: the old one goes on");
        }
    }

    fn sync(&mut self, now: bool) {
        if self.unsynced && (now || self.synced.elapsed() >= SYNC_EVERY) {
            if let Some(file) = &self.file
                && let Err(error) = file.sync_data()
            {
                tracing::error!(%error, "the audit log could not be flushed");
            }
            self.synced = Instant::now();
            self.unsynced = false;
        }
    }
}
