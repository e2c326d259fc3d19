//! Lines of which none can be changed, removed, added or moved unnoticed: each carries the hash of the one before, and its own.
//!
//! ```text
//! {"seq":7,"prev":"<hash of line 6>", …what happened… ,"hash":"<hash of every byte of this line before `,"hash"`>"}
//! ```
//! The hash is SHA-256, which whoever may write the file can compute anew for all lines that follow; or HMAC-SHA-256, for which
//! they need the key as well. That lines are missing at the end shows only to who knows the last hash.

use std::fmt::Write as _;
use std::io::{self, BufRead, Read as _};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Most bytes of one line.
pub const MAX_LINE: usize = 16 << 10;
/// The `prev` of the very first line.
const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What the hashes are made with.
#[derive(Clone)]
pub enum Seal {
    /// SHA-256: shows changes, except by those who may write the file.
    Plain,
    /// HMAC-SHA-256 under a key: shows theirs, too.
    Keyed(Box<Hmac<Sha256>>),
}

/// Where a chain has come to: what the next line continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of the last line; 0 before the first.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
}

/// What has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What the first line continues; the chain's beginning, or what another file ended with.
    pub from: Head,
    /// What the last line leads to.
    pub to: Head,
}

/// The first line that does not hold.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Broken {
    /// Counted from 1.
    pub line: u64,
    /// What is wrong with it.
    pub why: Flaw,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum Flaw {
    #[error("it has not the form of such a line")]
    Form,
    #[error("it has no end: writing was interrupted, or the end was cut off")]
    Torn,
    #[error("it was changed, or sealed with another key")]
    Changed,
    #[error("it does not follow the line before: lines were removed, added or moved")]
    Order,
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// Why something was not made a line.
#[derive(Debug, thiserror::Error)]
#[error("it is no object, or too long for a line")]
pub struct NoLine;

// === impl Seal ===

impl Seal {
    /// One that only this key makes.
    ///
    /// # Errors
    /// If the key cannot be used.
    pub fn keyed(key: &[u8]) -> Result<Self, hmac::digest::InvalidLength> {
        Ok(Self::Keyed(Box::new(Hmac::new_from_slice(key)?)))
    }

    fn over(&self, bytes: &[u8]) -> String {
        match self {
            Self::Plain => hexadecimal(&Sha256::digest(bytes)),
            Self::Keyed(mac) => {
                let mut mac = mac.clone();
                mac.update(bytes);
                hexadecimal(&mac.finalize().into_bytes())
            }
        }
    }
}

// === impl Head ===

impl Head {
    /// The head of a chain without lines.
    #[must_use]
    pub fn beginning() -> Self {
        Self {
            seq: 0,
            hash: BEGINNING.to_owned(),
        }
    }

    /// The next line, its end included; the chain goes on from it.
    ///
    /// # Errors
    /// If `fields` is not an object with something in it, or too much. The chain is where it was.
    pub fn append(&mut self, fields: &impl Serialize, seal: &Seal) -> Result<String, NoLine> {
        let object = serde_json::to_string(fields).map_err(|_| NoLine)?;
        let members = object.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let members = members.filter(|members| !members.is_empty()).ok_or(NoLine)?;
        let seq = self.seq + 1;
        let mut line = format!(r#"{{"seq":{seq},"prev":"{}",{members}"#, self.hash);
        let hash = seal.over(line.as_bytes());
        let _ = writeln!(line, r#","hash":"{hash}"}}"#);
        if line.len() > MAX_LINE {
            return Err(NoLine);
        }
        *self = Self { seq, hash };
        Ok(line)
    }
}

/// Checks every line, up to the first that does not hold. With `after`, the first has to continue that.
///
/// # Errors
/// The first line that does not hold.
pub fn verify(mut lines: impl BufRead, seal: &Seal, after: Option<&Head>) -> Result<Verified, Broken> {
    let mut from = after.cloned();
    let mut head = from.clone();
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        number += 1;
        let broken = |why| Broken { line: number, why };
        line.clear();
        let limit = MAX_LINE as u64 + 1;
        (&mut lines)
            .take(limit)
            .read_until(b'\n', &mut line)
            .map_err(|error| broken(error.into()))?;
        if line.is_empty() {
            let from = from.unwrap_or_else(Head::beginning);
            let to = head.unwrap_or_else(|| from.clone());
            return Ok(Verified { from, to });
        }
        let (before, now) = check(&line, seal).map_err(broken)?;
        if *head.get_or_insert_with(|| before.clone()) != before {
            return Err(broken(Flaw::Order));
        }
        from.get_or_insert(before);
        head = Some(now);
    }
}

/// What a line leads to: what the next one continues.
///
/// # Errors
/// What is wrong with it.
pub fn head_of(line: &[u8], seal: &Seal) -> Result<Head, Flaw> {
    check(line, seal).map(|(_, now)| now)
}

/// What one line continues, and what it leads to.
fn check(line: &[u8], seal: &Seal) -> Result<(Head, Head), Flaw> {
    let whole = line.strip_suffix(b"\n");
    let whole = whole.ok_or(if line.len() > MAX_LINE { Flaw::Form } else { Flaw::Torn })?;
    let text = std::str::from_utf8(whole).map_err(|_| Flaw::Form)?;
    let text = text.strip_suffix(r#""}"#).ok_or(Flaw::Form)?;
    let (sealed, hash) = text.rsplit_once(r#","hash":""#).ok_or(Flaw::Form)?;
    if !bool::from(seal.over(sealed.as_bytes()).as_bytes().ct_eq(hash.as_bytes())) {
        return Err(Flaw::Changed);
    }
    let rest = sealed.strip_prefix(r#"{"seq":"#).ok_or(Flaw::Form)?;
    let (seq, rest) = rest.split_once(r#","prev":""#).ok_or(Flaw::Form)?;
    let (prev, _) = rest.split_once(r#"","#).ok_or(Flaw::Form)?;
    let seq: u64 = seq.parse().map_err(|_| Flaw::Form)?;
    let before = Head {
        seq: seq.checked_sub(1).ok_or(Flaw::Form)?,
        hash: prev.to_owned(),
    };
    // The number 1 belongs to the first line of all, and to no other.
    if (before.seq == 0) != (prev == BEGINNING) {
        return Err(Flaw::Order);
    }
    let now = Head {
        seq,
        hash: hash.to_owned(),
    };
    Ok((before, now))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chain(seal: &Seal, count: usize) -> String {
        let mut head = Head::beginning();
        (0..count)
            .map(|n| {
                head.append(&json!({ "event": "x", "n": n, "text": "a\n\"b" }), seal)
                    .unwrap()
            })
            .collect()
    }

    fn broken_at(text: &[u8], seal: &Seal) -> u64 {
        verify(text, seal, Some(&Head::beginning())).unwrap_err().line
    }

    #[test]
    fn a_chain_holds_and_goes_on_in_another_file() {
        for seal in [Seal::Plain, Seal::keyed(b"a key of the operator").unwrap()] {
            let text = chain(&seal, 5);
            let whole = verify(text.as_bytes(), &seal, None).unwrap();
            assert_eq!((whole.from, whole.to.seq), (Head::beginning(), 5));
            let at = text.match_indices('\n').nth(1).unwrap().0 + 1;
            let first = verify(&text.as_bytes()[..at], &seal, None).unwrap();
            let second = verify(&text.as_bytes()[at..], &seal, Some(&first.to)).unwrap();
            assert_eq!(second.to, whole.to);
            assert!(
                text.lines()
                    .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
            );
        }
    }

    #[test]
    fn any_changed_byte_is_found_where_it_is() {
        let text = chain(&Seal::Plain, 3).into_bytes();
        let mut line = 1;
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert_eq!(broken_at(&changed, &Seal::Plain), line, "byte {at}");
            line += u64::from(text[at] == b'\n');
        }
    }

    #[test]
    fn lines_that_are_gone_moved_repeated_or_torn_are_found() {
        let text = chain(&Seal::Plain, 4);
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let of = |order: &[usize]| order.iter().map(|&at| lines[at]).collect::<String>();
        for (order, line) in [
            (&[0, 2, 3][..], 2),
            (&[0, 2, 1, 3], 2),
            (&[0, 1, 1, 2], 3),
            (&[1, 2, 3], 1),
        ] {
            assert_eq!(broken_at(of(order).as_bytes(), &Seal::Plain), line, "{order:?}");
        }
        assert_eq!(broken_at(&text.as_bytes()[..text.len() - 1], &Seal::Plain), 4);
        // What is missing at the end shows only in where the chain ends.
        let short = verify(of(&[0, 1, 2]).as_bytes(), &Seal::Plain, None).unwrap();
        assert_eq!(short.to.seq, 3);
    }

    #[test]
    fn who_has_not_the_key_cannot_chain_anew() {
        let seal = Seal::keyed(b"a key of the operator").unwrap();
        assert_eq!(broken_at(chain(&Seal::Plain, 2).as_bytes(), &seal), 1);
        let other = Seal::keyed(b"a key of somebody else").unwrap();
        assert_eq!(broken_at(chain(&other, 2).as_bytes(), &seal), 1);
    }

    #[test]
    fn what_is_no_object_or_too_long_leaves_the_chain_where_it_was() {
        let mut head = Head::beginning();
        for fields in [json!({}), json!([1]), json!({ "text": "x".repeat(MAX_LINE) })] {
            assert!(head.append(&fields, &Seal::Plain).is_err());
        }
        assert_eq!(head, Head::beginning());
        assert_eq!(broken_at("x".repeat(3 * MAX_LINE).as_bytes(), &Seal::Plain), 1);
    }
}
