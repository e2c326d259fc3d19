//! Where log lines go. The access log has a line for every request, and a system call for each would cost as much as a tenth
//! of the request: those lines are gathered and written together, a few times a second. Any other line is written at once,
//! after those that came before it.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// The target of the access log's lines.
pub const ACCESS: &str = "mcpgate::access";
/// Lines wait no longer than this.
const PATIENCE: Duration = Duration::from_millis(100);
/// Nor are more bytes gathered.
const GATHERED: usize = 64 << 10;

/// Log lines on their way to one place.
#[derive(Debug)]
pub struct Lines<W>(Arc<(Mutex<Sink<W>>, Condvar)>);

#[derive(Debug)]
struct Sink<W> {
    gathered: Vec<u8>,
    to: W,
}

/// Takes one line.
#[derive(Debug)]
pub struct Line<'a, W: Write> {
    lines: &'a Lines<W>,
    at_once: bool,
}

impl<W> Clone for Lines<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Write + Send + 'static> Lines<W> {
    /// Lines to this place, with a thread that sees to it that none waits for long.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn to(to: W) -> io::Result<Self> {
        let sink = Sink {
            gathered: Vec::new(),
            to,
        };
        let lines = Self(Arc::new((Mutex::new(sink), Condvar::new())));
        let shared = Arc::clone(&lines.0);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_now_and_then(&shared))?;
        Ok(lines)
    }

    /// Adds a line of the access log.
    pub fn append(&self, line: &[u8]) {
        let mut sink = lock(&self.0.0);
        if sink.gathered.is_empty() {
            self.0.1.notify_one();
        }
        sink.gathered.extend_from_slice(line);
        if sink.gathered.len() > GATHERED {
            // Where a log cannot be written there is nobody to tell.
            let _ = sink.write_out();
        }
    }

    /// Writes what is gathered: before the program ends.
    pub fn flush(&self) {
        let _ = lock(&self.0.0).write_out();
    }
}

/// Writes what has waited long enough, for as long as the program runs.
fn write_now_and_then<W: Write>((sink, came): &(Mutex<Sink<W>>, Condvar)) {
    loop {
        let waiting = came.wait_while(lock(sink), |sink| sink.gathered.is_empty());
        drop(waiting);
        std::thread::sleep(PATIENCE);
        // Where a log cannot be written there is nobody to tell.
        let _ = lock(sink).write_out();
    }
}

impl<W: Write> Sink<W> {
    fn write_out(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let written = self.to.write_all(&self.gathered).and_then(|()| self.to.flush());
        // What could not be written is not tried for ever: memory is bounded, whoever reads the log.
        self.gathered.clear();
        written
    }
}

fn lock<W>(sink: &Mutex<Sink<W>>) -> std::sync::MutexGuard<'_, Sink<W>> {
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a, W: Write + Send + 'static> MakeWriter<'a> for Lines<W> {
    type Writer = Line<'a, W>;

    fn make_writer(&'a self) -> Line<'a, W> {
        Line {
            lines: self,
            at_once: true,
        }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line<'a, W> {
        Line {
            lines: self,
            at_once: about.target() != ACCESS,
        }
    }
}

impl<W: Write> Write for Line<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sink = lock(&self.lines.0.0);
        if sink.gathered.is_empty() && !self.at_once {
            self.lines.0.1.notify_one();
        }
        sink.gathered.extend_from_slice(bytes);
        if self.at_once || sink.gathered.len() > GATHERED {
            sink.write_out()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        lock(&self.lines.0.0).write_out()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place that several can look into.
    #[derive(Clone, Debug, Default)]
    struct Place(Arc<Mutex<Vec<u8>>>);

    impl Write for Place {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Place {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn lines_keep_their_order_and_none_waits_for_long() {
        let place = Place::default();
        let lines = Lines::to(place.clone()).unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(lines.clone())
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: ACCESS, "first");
            tracing::warn!("second");
            let text = place.text();
            assert!(
                text.find("first").unwrap() < text.find("second").unwrap(),
                "both are there: {text}"
            );
            tracing::info!(target: ACCESS, "third");
            lines.flush();
            assert!(place.text().contains("third"));
            tracing::info!(target: ACCESS, "fourth");
            for _ in 0..100 {
                if place.text().contains("fourth") {
                    return;
                }
                std::thread::sleep(PATIENCE / 5);
            }
            panic!("the fourth line was never written");
        });
    }

    #[test]
    fn memory_is_bounded_where_nobody_reads() {
        struct Nowhere;
        impl Write for Nowhere {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::to(Nowhere).unwrap();
        let mut line = Line {
            lines: &lines,
            at_once: false,
        };
        for _ in 0..1_000 {
            let _ = line.write(&[b'x'; 1_000]);
        }
        assert!(lock(&lines.0.0).gathered.capacity() < 4 * GATHERED);
    }
}
