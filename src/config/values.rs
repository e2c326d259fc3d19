//! Single values: durations, sizes, numbers, names, scopes, secrets.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use super::keys;
use super::read::At;
use crate::domain::scope::{Scope, ScopeToken};

/// Largest file that a secret is read from.
const MAX_SECRET_FILE: u64 = 64 << 10;
/// Most scopes in one list: what one scope parameter may hold.
const MAX_SCOPES: usize = 64;
/// A second, a minute, an hour, a day.
const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)];
/// Multiples of bytes, the longest names first.
const SIZES: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];

impl At<'_> {
    /// `10s 5m 1h 7d`, between two bounds.
    pub(super) fn duration(&self, least: Duration, most: Duration) -> Option<Duration> {
        if self.is_refused() {
            return None;
        }
        let text = self.written().unwrap_or_default();
        let Some(found) = duration(text) else {
            let hint = if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
                format!("has no unit; write {text}s if it is seconds")
            } else {
                "is not a duration; write a whole number and s, m, h or d, such as 10s, 5m, 1h or 7d".to_owned()
            };
            return self.refuse(hint);
        };
        if found < least || found > most {
            return self.refuse(format!("must be between {} and {}", spell(least), spell(most)));
        }
        Some(found)
    }

    /// `64KiB 4MiB`, or a number of bytes; at least one.
    pub(super) fn size(&self, most: u64) -> Option<u64> {
        if self.is_refused() {
            return None;
        }
        match self.written().and_then(size) {
            None => self.refuse("is not a size; write 64KiB or 4MiB"),
            Some(found) if (1..=most).contains(&found) => Some(found),
            Some(_) => self.refuse(format!("must be between 1 and {most} bytes ({}GiB)", most >> 30)),
        }
    }

    /// A whole number from 1.
    pub(super) fn count(&self, most: u32) -> Option<u32> {
        if self.is_refused() {
            return None;
        }
        let found = self.written().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let found = found
            .and_then(|text| text.parse().ok())
            .filter(|found| (1..=most).contains(found));
        found.or_else(|| self.refuse(format!("must be a whole number from 1 to {most}")))
    }

    /// `none`, or what `read` makes of it. The outer `None` is a problem.
    #[expect(
        clippy::option_option,
        reason = "whether there is a limit, and whether it could be read"
    )]
    pub(super) fn unless_none<T>(&self, read: impl FnOnce(&Self) -> Option<T>) -> Option<Option<T>> {
        if self.is_word("none") {
            Some(None)
        } else {
            read(self).map(Some)
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.or_else(|| {
            let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.refuse(format!("{} is not known; write one of {}", shown(text), all.join(", ")))
        })
    }

    /// A name that may stand in a metric and a log line.
    pub(super) fn name(&self) -> Option<String> {
        let text = self.text()?;
        let fine = text.len() <= 63
            && text.bytes().enumerate().all(|(index, b)| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || (index > 0 && matches!(b, b'_' | b'-'))
            });
        if fine {
            return Some(text.to_owned());
        }
        self.refuse(format!(
            "{} is not a name; write up to 63 of a-z, 0-9, - and _, and begin with a letter or a digit",
            shown(text)
        ))
    }

    /// One scope.
    pub(super) fn scope(&self) -> Option<ScopeToken> {
        let text = self.text()?;
        match text.parse() {
            Ok(scope) => Some(scope),
            Err(error) => self.refuse(format!("{} is not a scope: {error}", shown(text))),
        }
    }

    /// A list of scopes, each once.
    pub(super) fn scopes(&self) -> Option<Scope> {
        let mut scope = Scope::empty();
        let items = self.list()?;
        if items.len() > MAX_SCOPES {
            return self.refuse(format!("has more than {MAX_SCOPES} scopes"));
        }
        for item in items {
            let Some(token) = item.scope() else { continue };
            if scope.contains(token.as_str()) {
                item.problem(format!("{token} is in the list twice"));
            }
            scope = scope.union(&std::iter::once(token).collect());
        }
        Some(scope)
    }

    /// A list of groups.
    pub(super) fn groups(&self) -> Option<Vec<String>> {
        let groups = self.texts()?;
        Some(groups.into_iter().map(|(_, text)| text.to_owned()).collect())
    }

    /// A secret: a value, `{env: NAME}` or `{file: PATH}`. No message says what it is.
    pub(super) fn secret(&self) -> Option<Zeroizing<String>> {
        if !self.is_map() {
            return self.text().map(|text| Zeroizing::new(text.to_owned()));
        }
        let source = self.object(keys::SECRET)?;
        let secret = match (source.get("env"), source.get("file")) {
            (Some(name), None) => name.environment_variable()?,
            (None, Some(path)) => path.secret_file()?,
            (None, None) if source.has_strangers => return None,
            _ => return self.refuse("must be a value, {env: NAME} or {file: PATH}"),
        };
        if secret.is_empty() {
            return self.refuse("the secret is empty");
        }
        if secret.len() > 4 << 10 || secret.chars().any(char::is_control) {
            return self.refuse("the secret is longer than 4096 bytes or has a line break in it");
        }
        Some(secret)
    }

    fn environment_variable(&self) -> Option<Zeroizing<String>> {
        let name = self.text()?;
        let found = (self.reader.environment)(name).map(Zeroizing::new);
        found.or_else(|| self.refuse(format!("the environment variable {} is not set", shown(name))))
    }

    fn secret_file(&self) -> Option<Zeroizing<String>> {
        let name = self.text()?;
        match read_regular(&self.file()?, MAX_SECRET_FILE) {
            Ok(text) => Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => self.refuse(format!("the file {} cannot be read: {error}", shown(name))),
        }
    }
}

/// Reads a text file up to a size. A pipe will do, for a configuration that another program writes.
pub(super) fn read_bounded(path: &Path, most: u64) -> std::io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > most) {
        return Err(std::io::Error::other(format!("it is larger than {} KiB", most >> 10)));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| std::io::Error::other("it is not UTF-8 text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The same for a file that the configuration names: reading it never waits for anybody.
pub(super) fn read_regular(path: &Path, most: u64) -> std::io::Result<Zeroizing<String>> {
    if std::fs::metadata(path)?.is_file() {
        read_bounded(path, most)
    } else {
        Err(std::io::Error::other("it is not a regular file"))
    }
}

/// Text from the file inside a message: quoted, escaped and cut.
pub(super) fn shown(text: &str) -> String {
    let mut start: String = text.chars().take(80).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{start:?}")
}

fn duration(text: &str) -> Option<Duration> {
    let (unit, seconds) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
    let number = text.strip_suffix(unit).filter(|number| is_digits(number))?;
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(seconds)
        .map(Duration::from_secs)
}

fn size(text: &str) -> Option<u64> {
    let (number, factor) = SIZES
        .into_iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, factor)))
        .unwrap_or((text, 1));
    Some(number)
        .filter(|number| is_digits(number))?
        .parse::<u64>()
        .ok()?
        .checked_mul(factor)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A duration in the largest unit that it is a multiple of.
fn spell(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (unit, size) = UNITS
        .into_iter()
        .rev()
        .find(|(_, size)| seconds > 0 && seconds.is_multiple_of(*size))
        .unwrap_or(('s', 1));
    format!("{}{unit}", seconds / size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_sizes_have_units() {
        for (text, seconds) in [("0s", 0), ("10s", 10), ("5m", 300), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "s",
            "10",
            "1.5h",
            "-1s",
            "+1s",
            "1 s",
            "1S",
            "500ms",
            "1w",
            "99999999999999999999s",
            "18446744073709551615d",
            "１s",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        for (text, bytes) in [
            ("1", 1),
            ("10B", 10),
            ("64KiB", 65_536),
            ("4MiB", 4 << 20),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for bad in [
            "",
            "KiB",
            "4MB",
            "4M",
            "4 MiB",
            "4mib",
            "-1",
            "1.5MiB",
            "18446744073709551615GiB",
        ] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_spelled_duration_reads_as_itself(seconds in 0u64..100_000_000) {
            let found = Duration::from_secs(seconds);
            prop_assert_eq!(duration(&spell(found)), Some(found));
        }
    }
}
