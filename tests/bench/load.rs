//! The load that `wrk` cannot make: a fixed rate, event streams, and a given number of requests.
//!
//! ```text
//! bench-load rate   ADDRESS PATH BODY RATE SECONDS   open loop over 64 connections
//! bench-load hold   ADDRESS PATH                     holds as many idle streams as each line on stdin says
//! bench-load events ADDRESS PATH STREAMS             first events of silent streams, then paced ones side by side
//! bench-load repeat ADDRESS PATH BODY COUNT          one request after the other on one connection
//! ```
//! ADDRESS is `host:port`. The bearer token is the first line of stdin. Prints one JSON object, or one for each line.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const CONNECTIONS: u32 = 64;
/// Streams whose first event is timed, one after the other.
const FIRSTS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["rate", address, path, body, rate, seconds] => at_rate(&Target::post(address, path, body), rate, seconds),
        ["hold", address, path] => hold(&Target::get(address, path)),
        ["events", address, path, streams] => events(address, path, streams),
        ["repeat", address, path, body, count] => repeat(&Target::post(address, path, body), count),
        _ => Err("usage: bench-load rate|hold|events|repeat ADDRESS PATH …; see the source".into()),
    };
    match outcome.and_then(|line| say(&line)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// What is asked, of whom.
struct Target {
    address: String,
    request: Vec<u8>,
}

// --- a fixed rate

/// Each connection has its own times to send at. Latency is counted from that time if the connection was still waiting for an
/// answer then: whoever stalls pays for all the requests that should have been sent meanwhile. If the connection was free it
/// is counted from the moment of sending, since oversleeping is the load's fault and nobody else's.
fn at_rate(target: &Target, rate: &str, seconds: &str) -> Result<String, Failure> {
    let rate: u32 = rate.parse()?;
    let seconds: u32 = seconds.parse()?;
    let each = rate.saturating_mul(seconds) / CONNECTIONS;
    let apart = Duration::from_secs(1) * CONNECTIONS / rate.max(1);
    let ready = Arc::new(Barrier::new(CONNECTIONS.try_into()?));
    let mut threads: Vec<JoinHandle<Result<Vec<u64>, Failure>>> = Vec::new();
    for number in 0..CONNECTIONS {
        let ready = Arc::clone(&ready);
        let mut stream = target.connect()?;
        let request = target.request.clone();
        threads.push(std::thread::spawn(move || {
            let mut buffer = vec![0; 16 * 1024];
            ready.wait();
            let mut due = Instant::now() + Duration::from_millis(50) + apart * number / CONNECTIONS;
            let mut latencies = Vec::with_capacity(each as usize);
            for _ in 0..each {
                let now = Instant::now();
                let started = match due.checked_duration_since(now) {
                    Some(rest) => {
                        std::thread::sleep(rest);
                        Instant::now()
                    }
                    None => due,
                };
                exchange(&mut stream, &request, &mut buffer)?;
                latencies.push(nanos(started.elapsed()));
                due += apart;
            }
            Ok(latencies)
        }));
    }
    let started = Instant::now();
    let mut latencies = Vec::new();
    for thread in threads {
        latencies.extend(thread.join().map_err(|_| "a thread of the load ended early")??);
    }
    let seconds = started.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a count of some seconds fits")]
    let achieved = latencies.len() as f64 / seconds;
    Ok(format!("{{\"rate\": {achieved:.0}, {}}}", summary(&mut latencies)))
}

fn repeat(target: &Target, count: &str) -> Result<String, Failure> {
    let count: usize = count.parse()?;
    let mut stream = target.connect()?;
    let mut buffer = vec![0; 16 * 1024];
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        exchange(&mut stream, &target.request, &mut buffer)?;
        latencies.push(nanos(started.elapsed()));
    }
    Ok(format!("{{{}}}", summary(&mut latencies)))
}

/// One request and its whole answer.
fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> Result<(), Failure> {
    stream.write_all(request)?;
    let mut have = 0;
    let mut whole = None;
    while whole.is_none_or(|whole| have < whole) {
        let room = buffer.get_mut(have..).unwrap_or_default();
        match stream.read(room)? {
            0 => return Err("the connection was closed before the answer was there".into()),
            more => have += more,
        }
        let answer = buffer.get(..have).unwrap_or_default();
        if whole.is_none() {
            whole = end_of(answer)?;
        }
    }
    Ok(())
}

/// How long an answer is, once its head is there.
fn end_of(answer: &[u8]) -> Result<Option<usize>, Failure> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(answer.get(..end).unwrap_or_default())?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("no success: {head}").into());
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value.trim())
    });
    let length: usize = length.ok_or("an answer without a length")?.parse()?;
    Ok(Some(end + 4 + length))
}

// --- event streams

/// Opens streams until as many are held as the last line asked for; stdin's end is the end.
fn hold(target: &Target) -> Result<String, Failure> {
    let mut held = Vec::new();
    let mut line = String::new();
    while std::io::stdin().lock().read_line(&mut line)? > 0 {
        let wanted: usize = line.trim().parse()?;
        line.clear();
        while held.len() < wanted {
            // Some at a time, so that nobody's queue of connections overflows.
            let some = (wanted - held.len()).min(64);
            let mut opened = Vec::with_capacity(some);
            for _ in 0..some {
                let mut stream = target.connect()?;
                stream.write_all(&target.request)?;
                opened.push(stream);
            }
            for mut stream in opened {
                Events::default().next(&mut stream)?;
                held.push(stream);
            }
        }
        say(&format!("{{\"held\": {}}}", held.len()))?;
    }
    Ok(format!("{{\"closed\": {}}}", held.len()))
}

fn events(address: &str, path: &str, streams: &str) -> Result<String, Failure> {
    let streams: usize = streams.parse()?;
    let token = token()?;
    let target = Target::get_as(address, path, &token);
    let mut firsts = Vec::with_capacity(FIRSTS);
    for _ in 0..FIRSTS {
        let mut stream = target.connect()?;
        let started = Instant::now();
        stream.write_all(&target.request)?;
        Events::default().next(&mut stream)?;
        firsts.push(nanos(started.elapsed()));
    }
    let target = Target::get_as(address, &format!("{path}/paced"), &token);
    let mut threads: Vec<JoinHandle<Result<Vec<Arrival>, Failure>>> = Vec::new();
    for _ in 0..streams {
        let mut stream = target.connect()?;
        let request = target.request.clone();
        threads.push(std::thread::spawn(move || {
            stream.write_all(&request)?;
            let mut events = Events::default();
            let mut arrivals = Vec::new();
            while let Some(event) = events.next(&mut stream)? {
                arrivals.push((event.parse()?, now()));
            }
            Ok(arrivals)
        }));
    }
    let (mut delays, mut unevenness) = (Vec::new(), Vec::new());
    for thread in threads {
        let arrivals = thread.join().map_err(|_| "a thread of the load ended early")??;
        delays.extend(arrivals.iter().map(|(sent, arrived)| arrived.saturating_sub(*sent)));
        unevenness.extend(arrivals.windows(2).filter_map(|pair| match pair {
            [(sent, arrived), (next_sent, next_arrived)] => {
                let (sent, arrived) = (next_sent.saturating_sub(*sent), next_arrived.saturating_sub(*arrived));
                Some(sent.abs_diff(arrived))
            }
            _ => None,
        }));
    }
    Ok(format!(
        "{{\"first\": {{{}}}, \"delay\": {{{}}}, \"unevenness\": {{{}}}}}",
        summary(&mut firsts),
        summary(&mut delays),
        summary(&mut unevenness)
    ))
}

/// When an event was sent, and when it was here.
type Arrival = (u64, u64);

/// The events of one stream, whatever pieces it arrives in.
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
}

impl Events {
    /// What the next event says; `None` at the end of the stream.
    fn next(&mut self, stream: &mut TcpStream) -> Result<Option<String>, Failure> {
        loop {
            if let Some(end) = find(&self.rest, b"\n\n") {
                let text = String::from_utf8_lossy(self.rest.get(..end).unwrap_or_default()).into_owned();
                self.rest.drain(..end + 2);
                if let Some((_, data)) = text.rsplit_once("data: ") {
                    return Ok(Some(data.to_owned()));
                }
                continue;
            }
            if find(&self.rest, b"\r\n0\r\n\r\n").is_some() {
                return Ok(None);
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer)? {
                0 => return Err("a stream ended early".into()),
                more => self.rest.extend_from_slice(buffer.get(..more).unwrap_or_default()),
            }
            if self.rest.starts_with(b"HTTP/1.1 ") && !self.rest.starts_with(b"HTTP/1.1 200") {
                return Err(format!("no stream: {}", String::from_utf8_lossy(&self.rest)).into());
            }
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[expect(
    clippy::disallowed_methods,
    reason = "two programs on one machine compare their clocks, and no test moves them"
)]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanos)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Percentiles, in milliseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "latencies are below the precision of a double"
)]
fn summary(values: &mut [u64]) -> String {
    values.sort_unstable();
    let at = |thousandths: usize| {
        let index = values.len().saturating_sub(1) * thousandths / 1000;
        values.get(index).copied().unwrap_or_default() as f64 / 1e6
    };
    format!(
        "\"count\": {}, \"p50\": {:.4}, \"p90\": {:.4}, \"p99\": {:.4}, \"p999\": {:.4}, \"max\": {:.4}",
        values.len(),
        at(500),
        at(900),
        at(990),
        at(999),
        at(1000)
    )
}

fn token() -> Result<String, Failure> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

// === impl Target ===

impl Target {
    fn post(address: &str, path: &str, body: &str) -> Self {
        let token = token().unwrap_or_default();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Self {
            address: address.to_owned(),
            request: request.into_bytes(),
        }
    }

    fn get(address: &str, path: &str) -> Self {
        Self::get_as(address, path, &token().unwrap_or_default())
    }

    fn get_as(address: &str, path: &str, token: &str) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
        );
        Self {
            address: address.to_owned(),
            request: request.into_bytes(),
        }
    }

    fn connect(&self) -> Result<TcpStream, Failure> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}
