//! The audit log: who was let in, what they allowed, what was refused, which tools were called. One line of JSON for each act,
//! chained by hashes ([`super::chain`]), to a file or to standard output. docs/audit.md is the same for its readers.
//!
//! A line is queued by whoever does the act, and numbered, chained and written by one thread, so that there is one order. The queue is
//! bounded. Where it is full, calls of tools are left out at once and everything else after a wait; how many lines are missing
//! is a line of its own.

#![expect(
    clippy::ref_option_ref,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls what writes a field so"
)]

mod file;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::access::push_time;
use super::chain::{Head, MAX_LINE, Seal};
use crate::domain::grant::GrantId;
use crate::domain::scope::Scope;
use writer::Writer;

/// Most lines that wait to be written.
const MAX_WAITING: usize = 8_192;
/// How long an act waits for room.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often what was written is made to survive a power loss.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Most characters of one value.
const MAX_VALUE: usize = 512;

/// What happened. The names are what the log and docs/audit.md have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "docs/audit.md explains each, and a test holds the two together"
)]
pub enum Event {
    Started,
    Stopped,
    Reloaded,
    LinesLost,
    LineTorn,
    ClientRegistered,
    ClientChanged,
    ClientRemoved,
    SignIn,
    SecondFactor,
    SignOut,
    Consent,
    TokenIssued,
    TokenRefreshed,
    ReuseDetected,
    Revoked,
    AccessDenied,
    ToolCall,
    AccountChanged,
    Administration,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Started,
        Self::Stopped,
        Self::Reloaded,
        Self::LinesLost,
        Self::LineTorn,
        Self::ClientRegistered,
        Self::ClientChanged,
        Self::ClientRemoved,
        Self::SignIn,
        Self::SecondFactor,
        Self::SignOut,
        Self::Consent,
        Self::TokenIssued,
        Self::TokenRefreshed,
        Self::ReuseDetected,
        Self::Revoked,
        Self::AccessDenied,
        Self::ToolCall,
        Self::AccountChanged,
        Self::Administration,
    ];
}

/// One act. What is not known of it is not in its line.
#[derive(Clone, Copy, Serialize)]
pub struct Act<'a> {
    /// What it was.
    pub event: Event,
    /// What came of it: one of a closed set of words for each event.
    pub outcome: &'static str,
    /// The person, or the client that acts for itself.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub subject: Option<&'a str>,
    /// The OAuth client.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub client_id: Option<&'a str>,
    /// The server that it was about.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub upstream: Option<&'a str>,
    /// The tool, without what it was called with.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub tool: Option<&'a str>,
    /// The scopes.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    pub scope: Option<&'a Scope>,
    /// The grant, by the id that the administration has.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    pub grant: Option<&'a GrantId>,
    /// By which means: a provider's id, a grant type, an error.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub by: Option<&'a str>,
    /// Where it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// `X-Request-Id`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub request_id: Option<&'a str>,
    /// A number of what the event says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// A text, cut where a line could not bear it.
fn text<S: Serializer>(value: &Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    let value = value.unwrap_or_default();
    let end = value.char_indices().nth(MAX_VALUE).map_or(value.len(), |(end, _)| end);
    serializer.serialize_str(value.get(..end).unwrap_or_default())
}

fn shown<T: std::fmt::Display, S: Serializer>(value: &Option<&T>, serializer: S) -> Result<S::Ok, S::Error> {
    let value = value.map(ToString::to_string);
    text(&value.as_deref(), serializer)
}

impl Act<'_> {
    /// An act of which nothing else is known yet.
    #[must_use]
    pub const fn new(event: Event, outcome: &'static str) -> Self {
        Self {
            event,
            outcome,
            subject: None,
            client_id: None,
            upstream: None,
            tool: None,
            scope: None,
            grant: None,
            by: None,
            address: None,
            request_id: None,
            count: None,
        }
    }
}

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A file, which is made with mode 0600 if it is missing.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// Why the log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be had.
    #[error("the audit log {path} cannot be used: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It is not one of ours, or was made with another key.
    #[error(
        "{path} does not end with a line of this audit log (or its key is another one): move it away, and see docs/audit.md"
    )]
    Foreign {
        /// Which.
        path: String,
    },
    /// There is no thread for it.
    #[error("the audit log cannot be started: {0}")]
    Thread(io::Error),
}

/// The audit log; one that is off costs a look at whether it is.
pub struct Audit {
    queue: Option<Arc<Queue>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Queue {
    state: Mutex<State>,
    came: Condvar,
    went: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    lost: u64,
    /// Nothing can be written at present, so nobody waits for room.
    failing: bool,
    closed: bool,
}

enum Waiting {
    Line(Box<RawValue>),
    Reopen,
}

// === impl Metrics ===

impl super::Metrics {
    /// Where what matters for security is written down.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        static OFF: Audit = Audit::off();
        self.audit.get().unwrap_or(&OFF)
    }

    /// Has it written down from here on; the first time counts.
    pub fn audit_with(&self, audit: Audit) {
        let _ = self.audit.set(audit);
    }
}

// === impl Audit ===

impl Audit {
    /// One that writes nothing.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            queue: None,
            writer: Mutex::new(None),
        }
    }

    /// One that goes on where the file ends.
    ///
    /// # Errors
    /// If the file cannot be written, or does not end with a line of this log.
    pub fn start(to: Destination, seal: Seal) -> Result<Self, AuditError> {
        let mut writer = Writer {
            file: None,
            head: Head::beginning(),
            seal,
            synced: Instant::now(),
            unsynced: false,
            failing: false,
            to,
        };
        let torn = writer.open()?;
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            came: Condvar::new(),
            went: Condvar::new(),
        });
        let shared = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.work(&shared))
            .map_err(AuditError::Thread)?;
        let audit = Self {
            queue: Some(queue),
            writer: Mutex::new(Some(thread)),
        };
        if torn > 0 {
            audit.note(|| Act {
                count: Some(torn),
                ..Act::new(Event::LineTorn, "kept_apart")
            });
        }
        audit.note(|| Act {
            by: Some(env!("CARGO_PKG_VERSION")),
            ..Act::new(Event::Started, "done")
        });
        Ok(audit)
    }

    /// Whether anything is written: for those to whom an act costs something to describe.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Writes an act down.
    pub fn note<'a>(&self, act: impl FnOnce() -> Act<'a>) {
        if let Some(queue) = &self.queue {
            queue.add(&act());
        }
    }

    /// Opens the file anew: somebody has moved it away. The chain goes on in the new one.
    pub fn reopen(&self) {
        if let Some(queue) = &self.queue {
            let mut state = queue.state();
            state.waiting.push_back(Waiting::Reopen);
            queue.came.notify_one();
        }
    }

    /// Writes what waits, and ends. Blocks until it is on the disk.
    pub fn close(&self) {
        let Some(queue) = &self.queue else {
            return;
        };
        queue.add(&Act::new(Event::Stopped, "done"));
        queue.state().closed = true;
        queue.came.notify_one();
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // One that panicked has written what it could.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit")
            .field("on", &self.is_on())
            .finish_non_exhaustive()
    }
}

/// When it is written down.
#[expect(
    clippy::disallowed_methods,
    reason = "logs have the machine's time, whatever the gateway is told it is"
)]
fn time() -> String {
    let mut time = String::with_capacity(32);
    push_time(SystemTime::now(), &mut time);
    time
}

/// A line as it is queued: the time stands first.
#[derive(Serialize)]
struct Timed<'a> {
    time: String,
    #[serde(flatten)]
    act: Act<'a>,
}

// === impl Queue ===

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, act: &Act<'_>) {
        let time = time();
        let line = serde_json::value::to_raw_value(&Timed { time, act: *act });
        let mut state = self.state();
        let until = Instant::now() + PATIENCE;
        while state.waiting.len() >= MAX_WAITING && act.event != Event::ToolCall && !state.closed && !state.failing {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self
                .went
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        match line {
            Ok(line) if state.waiting.len() < MAX_WAITING && !state.closed => {
                state.waiting.push_back(Waiting::Line(line));
                self.came.notify_one();
            }
            _ => state.lost += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::{BufReader, Write as _};
    use std::path::Path;

    use super::super::chain;
    use super::*;

    fn verified(path: &Path, seal: &Seal) -> chain::Verified {
        chain::verify(BufReader::new(File::open(path).unwrap()), seal, None).unwrap()
    }

    #[test]
    fn a_chain_goes_on_over_restarts_torn_lines_and_new_files() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("audit.jsonl");
        let start = || Audit::start(Destination::File(path.clone()), Seal::Plain).unwrap();
        let audit = start();
        audit.note(|| Act {
            subject: Some("ada"),
            ..Act::new(Event::SignIn, "success")
        });
        audit.close();
        assert_eq!(verified(&path, &Seal::Plain).to.seq, 3);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"seq\":4,\"prev").unwrap();
        let audit = start();
        audit.close();
        let whole = std::fs::read_to_string(&path).unwrap();
        assert!(
            whole.contains("\"event\":\"line_torn\",\"outcome\":\"kept_apart\",\"count\":14"),
            "{whole}"
        );
        assert_eq!(verified(&path, &Seal::Plain).to.seq, 6);
        assert_eq!(
            std::fs::read(home.path().join("audit.jsonl.torn")).unwrap(),
            b"{\"seq\":4,\"prev\n"
        );
        // Somebody moves the file away.
        let audit = start();
        audit.note(|| Act::new(Event::Consent, "given"));
        std::thread::sleep(Duration::from_millis(100));
        let moved = home.path().join("audit.1");
        std::fs::rename(&path, &moved).unwrap();
        audit.reopen();
        audit.note(|| Act::new(Event::Consent, "denied"));
        audit.close();
        let first = verified(&moved, &Seal::Plain);
        let second = chain::verify(
            BufReader::new(File::open(&path).unwrap()),
            &Seal::Plain,
            Some(&first.to),
        );
        assert_eq!(second.unwrap().to.seq, first.to.seq + 2);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_said_when_it_can() {
        let home = tempfile::tempdir().unwrap();
        let read_only = home.path().join("other");
        std::fs::write(&read_only, "").unwrap();
        let path = home.path().join("missing/audit.jsonl");
        let start = |path: &Path| {
            let queue = Arc::new(Queue {
                state: Mutex::default(),
                came: Condvar::new(),
                went: Condvar::new(),
            });
            let writer = Writer {
                to: Destination::File(path.to_owned()),
                file: Some(File::open(&read_only).unwrap()),
                head: Head::beginning(),
                seal: Seal::Plain,
                synced: Instant::now(),
                unsynced: false,
                failing: false,
            };
            let shared = Arc::clone(&queue);
            let thread = std::thread::spawn(move || writer.work(&shared));
            Audit {
                queue: Some(queue),
                writer: Mutex::new(Some(thread)),
            }
        };
        let audit = start(&path);
        for _ in 0..3 {
            audit.note(|| Act::new(Event::Consent, "given"));
        }
        std::thread::sleep(Duration::from_millis(200));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !std::fs::read_to_string(&path)
            .unwrap_or_default()
            .contains("lines_lost")
        {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(20));
        }
        audit.close();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"outcome\":\"missing\",\"count\":3"), "{text}");
        assert_eq!(verified(&path, &Seal::Plain).to.seq, 2);
        // Where nothing can ever be written, it ends all the same.
        let audit = start(&home.path().join("never/audit.jsonl"));
        audit.note(|| Act::new(Event::Consent, "given"));
        audit.close();
    }

    #[test]
    fn a_file_of_another_key_or_of_something_else_is_not_continued() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("audit.jsonl");
        let keyed = |key: &[u8]| Seal::keyed(key).unwrap();
        Audit::start(Destination::File(path.clone()), keyed(b"one"))
            .unwrap()
            .close();
        let other = Audit::start(Destination::File(path.clone()), keyed(b"two"));
        assert!(matches!(other, Err(AuditError::Foreign { .. })));
        std::fs::write(&path, "something else\n").unwrap();
        let other = Audit::start(Destination::File(path), Seal::Plain);
        assert!(matches!(other, Err(AuditError::Foreign { .. })));
    }

    #[test]
    fn values_are_bounded_and_an_audit_that_is_off_asks_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("audit.jsonl");
        let audit = Audit::start(Destination::File(path.clone()), Seal::Plain).unwrap();
        let long = "\u{1}".repeat(100_000);
        audit.note(|| Act {
            tool: Some(&long),
            subject: Some(&long),
            ..Act::new(Event::ToolCall, "allowed")
        });
        audit.close();
        assert_eq!(verified(&path, &Seal::Plain).to.seq, 3);
        Audit::off().note(|| unreachable!("nobody wants to know"));
    }
}
