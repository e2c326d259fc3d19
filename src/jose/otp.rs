//! One-time passwords that an app computes from a shared key and the time (RFC 6238: SHA-1, six digits, thirty seconds, which
//! is what every app does).

use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};
use subtle::ConstantTimeEq as _;

use crate::domain::clock::Timestamp;

/// Bytes of a key (RFC 4226 §4, R6).
pub const KEY_BYTES: usize = 20;
/// Milliseconds of a step.
const STEP: u64 = 30_000;
/// Six digits.
const MODULUS: u32 = 1_000_000;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The password of a step.
#[must_use]
pub fn password(key: &[u8], step: u64) -> String {
    let tag = sign(&Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, key), &step.to_be_bytes());
    let bytes = tag.as_ref();
    let offset = usize::from(bytes.last().copied().unwrap_or_default() & 0x0f);
    let chosen = bytes.get(offset..).and_then(|rest| rest.first_chunk::<4>());
    let number = u32::from_be_bytes(chosen.copied().unwrap_or_default()) & 0x7fff_ffff;
    format!("{:06}", number.checked_rem(MODULUS).unwrap_or_default())
}

/// The step that a typed password belongs to: the one that it is now, the one before, or the next. Compared in constant time.
#[must_use]
pub fn step_of(key: &[u8], typed: &str, now: Timestamp) -> Option<u64> {
    let step = now.as_millis().checked_div(STEP)?;
    let steps = [step.saturating_sub(1), step, step.saturating_add(1)];
    let mut found = None;
    for step in steps {
        if bool::from(password(key, step).as_bytes().ct_eq(typed.as_bytes())) {
            found = Some(step);
        }
    }
    found
}

/// A key as people copy it (RFC 4648 §6, without padding).
#[must_use]
pub fn readable(key: &[u8]) -> String {
    let mut text = String::new();
    for group in key.chunks(5) {
        let mut bits = [0; 8];
        for (place, byte) in bits.iter_mut().skip(3).zip(group) {
            *place = *byte;
        }
        let bits = u64::from_be_bytes(bits);
        let letters = (group.len() * 8).div_ceil(5);
        for place in 0..letters {
            let index = usize::try_from(bits >> (35 - 5 * place) & 31).unwrap_or_default();
            text.push(BASE32.get(index).copied().map_or('A', char::from));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"12345678901234567890";

    /// RFC 6238, appendix B; the last six of its eight digits.
    #[test]
    fn the_vectors_of_the_rfc() {
        for (seconds, expected) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(password(KEY, seconds / 30), expected);
            let now = Timestamp::from_millis(seconds * 1000);
            assert_eq!(step_of(KEY, expected, now), Some(seconds / 30));
        }
    }

    #[test]
    fn a_password_is_good_one_step_early_and_one_late_and_no_further() {
        let now = |step: u64| Timestamp::from_millis(step * STEP + 1);
        let typed = password(KEY, 1000);
        for step in 999..=1001 {
            assert_eq!(step_of(KEY, &typed, now(step)), Some(1000));
        }
        assert_eq!(step_of(KEY, &typed, now(998)), None);
        assert_eq!(step_of(KEY, &typed, now(1002)), None);
        for wrong in ["", "0", "1234567", &format!("{typed} "), "𝟏𝟐𝟑𝟒𝟓𝟔"] {
            assert_eq!(step_of(KEY, wrong, now(1000)), None);
        }
        assert_eq!(step_of(b"another key", &typed, now(1000)), None);
    }

    /// RFC 4648 §10.
    #[test]
    fn a_key_is_written_in_base32() {
        for (plain, expected) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(readable(plain.as_bytes()), expected);
        }
        assert_eq!(readable(KEY), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
    }
}
