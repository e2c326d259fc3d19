//! The one who writes an audit log: numbers the lines, chains them, and sees to it that they reach the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::PoisonError;
use std::time::Instant;

use super::{Act, AuditError, Destination, Event, Queue, SYNC_EVERY, Timed, Waiting, file, time};
use crate::telemetry::chain::{self, Head, Seal};

/// Who writes.
pub(super) struct Writer {
    pub(super) to: Destination,
    pub(super) file: Option<File>,
    pub(super) head: Head,
    pub(super) seal: Seal,
    pub(super) synced: Instant,
    pub(super) failing: bool,
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
            let (batch, lost, closed) = {
                let mut state = queue.state();
                while state.waiting.is_empty() && state.lost == 0 && !state.closed {
                    (state, _) = queue
                        .came
                        .wait_timeout(state, SYNC_EVERY)
                        .unwrap_or_else(PoisonError::into_inner);
                    if state.waiting.is_empty() && self.synced.elapsed() >= SYNC_EVERY {
                        break;
                    }
                }
                let batch = std::mem::take(&mut state.waiting);
                queue.went.notify_all();
                (batch, std::mem::take(&mut state.lost), state.closed)
            };
            let done = closed && batch.is_empty() && lost == 0;
            let mut text = String::new();
            let mut lines = 0;
            for one in batch {
                match one {
                    Waiting::Line(line) => {
                        lines += u64::from(
                            self.head
                                .append(&line, &self.seal)
                                .map(|line| text.push_str(&line))
                                .is_ok(),
                        );
                    }
                    Waiting::Reopen => {
                        self.write(&std::mem::take(&mut text), std::mem::take(&mut lines), queue);
                        self.reopen();
                    }
                }
            }
            if lost > 0 {
                let act = Act {
                    count: Some(lost),
                    ..Act::new(Event::LinesLost, "queue_full")
                };
                let time = time();
                if let Ok(line) = self.head.append(&Timed { time, act }, &self.seal) {
                    text.push_str(&line);
                }
            }
            self.write(&text, lines, queue);
            self.sync(done);
            if done {
                return;
            }
        }
    }

    /// Writes lines; what cannot be written counts as lost, and the chain goes on without it.
    fn write(&mut self, text: &str, lines: u64, queue: &Queue) {
        if text.is_empty() {
            return;
        }
        let written = match &mut self.file {
            Some(file) => file.write_all(text.as_bytes()),
            None => io::stdout().lock().write_all(text.as_bytes()),
        };
        match written {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "the audit log cannot be written: acts are lost until it can");
                }
                queue.state().lost += lines;
                // A part of it may have been written: the chain is taken up where the file ends.
                self.head = Head::beginning();
                self.reopen();
            }
        }
    }

    fn reopen(&mut self) {
        let before = self.head.clone();
        match self.open() {
            // An empty file goes on with the chain of the one before.
            Ok(_) if self.head == before || self.head.seq == 0 => self.head = before,
            Ok(_) => {}
            Err(error) => {
                self.head = before;
                tracing::error!(%error, "the audit log could not be opened anew: the old one goes on");
            }
        }
    }

    fn sync(&mut self, now: bool) {
        if now || self.synced.elapsed() >= SYNC_EVERY {
            if let Some(file) = &self.file
                && let Err(error) = file.sync_data()
            {
                tracing::error!(%error, "the audit log could not be flushed");
            }
            self.synced = Instant::now();
        }
    }
}
