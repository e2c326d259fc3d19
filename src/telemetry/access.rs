//! The access log: a line for every request, and so written by hand. Through the general machinery of logging the line costs
//! more than the access check that it tells of. Text and JSON are what that machinery would have written, byte for byte.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Stderr;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::Level;

use super::lines::{ACCESS, Lines};

/// Where lines go without a detour, once that is known.
static DIRECT: OnceLock<(Lines<Stderr>, Form)> = OnceLock::new();

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A request that has ended. Never a query, a body, a token or an e-mail address.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// Its id.
    pub request_id: &'a str,
    /// Who sent it.
    pub client_address: Option<IpAddr>,
    /// HTTP's method.
    pub method: &'a str,
    /// The path, without its query.
    pub path: &'a str,
    /// The answer's status; 0 if there was none.
    pub status: u16,
    /// How long it took in all.
    pub took: Duration,
    /// The upstream's name.
    pub upstream: Option<&'a str>,
    /// JSON-RPC's method, from a closed set.
    pub rpc_method: Option<&'a str>,
    /// Who it was for.
    pub subject: Option<&'a str>,
    /// With which client.
    pub client_id: Option<&'a str>,
}

/// From now on lines go here, without colours.
pub fn write_to(lines: Lines<Stderr>, form: Form) {
    // Set twice means the same twice.
    let _ = DIRECT.set((lines, form));
}

impl Access<'_> {
    /// Writes the line, unless nobody wants it.
    #[expect(
        clippy::disallowed_methods,
        reason = "a log has the machine's time, whatever the tests' clock says"
    )]
    pub fn log(&self) {
        thread_local! {
            static LINE: RefCell<String> = const { RefCell::new(String::new()) };
        }
        if !tracing::enabled!(target: ACCESS, Level::INFO) {
            return;
        }
        let Some((lines, form)) = DIRECT.get() else {
            return self.trace();
        };
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.write(*form, SystemTime::now(), line);
            lines.append(line.as_bytes());
        });
    }

    /// The same through the general machinery.
    fn trace(&self) {
        tracing::info!(
            target: ACCESS,
            request_id = self.request_id,
            client_address = self.client_address.map(tracing::field::display),
            method = self.method,
            path = self.path,
            status = self.status,
            duration_ms = (self.took.as_secs_f64() * 1_000_000.0).round() / 1000.0,
            upstream = self.upstream,
            rpc_method = self.rpc_method,
            subject = self.subject,
            client_id = self.client_id,
            "request"
        );
    }

    fn write(&self, form: Form, now: SystemTime, line: &mut String) {
        match form {
            Form::Text => {
                push_time(now, line);
                line.push_str("  INFO request");
            }
            Form::Json => {
                line.push_str("{\"timestamp\":\"");
                push_time(now, line);
                line.push_str("\",\"level\":\"INFO\",\"message\":\"request\"");
            }
        }
        let mut out = Fields { form, line };
        out.text("request_id", Some(self.request_id));
        if let Some(address) = self.client_address {
            out.name("client_address");
            out.shown(address);
        }
        out.text("method", Some(self.method));
        out.text("path", Some(self.path));
        out.name("status");
        out.number(self.status.into());
        out.name("duration_ms");
        out.milliseconds(self.took);
        out.text("upstream", self.upstream);
        out.text("rpc_method", self.rpc_method);
        out.text("subject", self.subject);
        out.text("client_id", self.client_id);
        line.push_str(match form {
            Form::Text => "\n",
            Form::Json => ",\"target\":\"mcpgate::access\"}\n",
        });
    }
}

/// Writes fields in one form.
struct Fields<'a> {
    form: Form,
    line: &'a mut String,
}

impl Fields<'_> {
    fn name(&mut self, name: &str) {
        let (before, after) = match self.form {
            Form::Text => (" ", "="),
            Form::Json => (",\"", "\":"),
        };
        self.line.push_str(before);
        self.line.push_str(name);
        self.line.push_str(after);
    }

    fn text(&mut self, name: &str, text: Option<&str>) {
        let Some(text) = text else {
            return;
        };
        self.name(name);
        if text
            .bytes()
            .all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\')
        {
            self.line.push('"');
            self.line.push_str(text);
            self.line.push('"');
            return;
        }
        // Writing to a string does not fail.
        let _ = match self.form {
            Form::Text => write!(self.line, "{text:?}"),
            Form::Json => write!(self.line, "{}", serde_json::Value::from(text)),
        };
    }

    fn shown(&mut self, address: IpAddr) {
        let quote = if self.form == Form::Json { "\"" } else { "" };
        self.line.push_str(quote);
        match address {
            // What nearly all are, without the detour over padding that is not asked for.
            IpAddr::V4(address) => {
                for (at, octet) in address.octets().into_iter().enumerate() {
                    if at > 0 {
                        self.line.push('.');
                    }
                    self.number(octet.into());
                }
            }
            IpAddr::V6(address) => {
                let _ = write!(self.line, "{address}");
            }
        }
        self.line.push_str(quote);
    }

    fn number(&mut self, number: u64) {
        push_number(number, 1, self.line);
    }

    /// Milliseconds with as many digits as there are, and three at most.
    fn milliseconds(&mut self, took: Duration) {
        let micros = u64::try_from((took.as_nanos() + 500) / 1000).unwrap_or(u64::MAX);
        self.number(micros / 1000);
        self.line.push('.');
        let (digits, width) = match micros % 1000 {
            rest if rest % 100 == 0 => (rest / 100, 1),
            rest if rest % 10 == 0 => (rest / 10, 2),
            rest => (rest, 3),
        };
        push_number(digits, width, self.line);
    }
}

/// Writes a number with at least so many digits.
fn push_number(number: u64, width: usize, line: &mut String) {
    let mut digits = [b'0'; 20];
    let (mut rest, mut at) = (number, digits.len());
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        if rest == 0 && 20 - at >= width {
            break;
        }
        // A digit is below ten.
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        at = index;
    }
    line.extend(digits.get(at..).unwrap_or_default().iter().copied().map(char::from));
}

/// Writes a time as RFC 3339 does, to the microsecond.
pub fn push_time(now: SystemTime, line: &mut String) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years that begin in March have their odd day at the end; eras of 400 years are all alike.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (year + era * 400, month + 3);
    let (year, month) = if month > 12 {
        (year + 1, month - 12)
    } else {
        (year, month)
    };
    for (number, width, end) in [
        (year, 4, '-'),
        (month, 2, '-'),
        (day, 2, 'T'),
        (second / 3_600, 2, ':'),
        (second / 60 % 60, 2, ':'),
        (second % 60, 2, '.'),
        (since.subsec_micros().into(), 6, 'Z'),
    ] {
        push_number(number, width, line);
        line.push(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Place(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Place {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the general machinery writes, without the time.
    fn traced(access: &Access<'_>, form: Form) -> String {
        let place = Place::default();
        let to = place.clone();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || to.clone());
        match form {
            Form::Text => tracing::subscriber::with_default(log.with_target(false).finish(), || access.trace()),
            Form::Json => {
                tracing::subscriber::with_default(log.json().flatten_event(true).finish(), || access.trace());
            }
        }
        let text = String::from_utf8(place.0.lock().unwrap().clone()).unwrap();
        without_time(&text)
    }

    fn without_time(line: &str) -> String {
        let at = line.find('Z').unwrap();
        let year = line.find("20").unwrap();
        format!("{}{}", &line[..year], &line[at..])
    }

    proptest! {
        #[test]
        fn a_line_is_what_the_general_machinery_would_have_written(
            path in any::<String>(),
            subject in proptest::option::of(any::<String>()),
            address in proptest::option::of(any::<IpAddr>()),
            status in any::<u16>(),
            micros in prop_oneof![0..10_000u64, any::<u32>().prop_map(u64::from)],
        ) {
            let access = Access {
                request_id: "0a8e5d89670beaab06ce7324e5f9f4ae",
                client_address: address,
                method: "POST",
                path: &path,
                status,
                took: Duration::from_micros(micros),
                upstream: Some("everything"),
                rpc_method: None,
                subject: subject.as_deref(),
                client_id: Some("https://client.example.com/me"),
            };
            for form in [Form::Text, Form::Json] {
                let mut line = String::new();
                access.write(form, UNIX_EPOCH + Duration::from_secs(1_800_000_000), &mut line);
                prop_assert_eq!(without_time(&line), traced(&access, form));
            }
        }

        #[test]
        fn times_are_those_of_the_calendar(seconds in 0..4_102_444_800u64) {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            let mut line = String::new();
            push_time(now, &mut line);
            let known = httpdate::HttpDate::from(now).to_string();
            let (day, year) = (&known[5..7], &known[12..16]);
            let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
                .iter().position(|name| *name == &known[8..11]).unwrap() + 1;
            prop_assert_eq!(line, format!("{year}-{month:02}-{day}T{}.000000Z", &known[17..25]));
        }
    }
}
