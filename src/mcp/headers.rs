//! The headers in which a request says what is in its body (MCP 2026-07-28, SEP-2243): `Mcp-Method` and `Mcp-Name`.
//!
//! Somebody on the way may act by them and the server by the body, so they have to say the same. From that revision on they
//! have to be there; before it they mean nothing, and where they are there all the same what they name is judged as well.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::message::{Body, Named};
use crate::domain::rules::Subject;

/// The code of the error that says so.
pub const MISMATCH: i32 = -32020;

/// The first revision that has the headers.
const FIRST: &[u8] = b"2026-07-28";
/// Longest name that is read.
const MAX_NAME: usize = 8 << 10;

/// What the headers of a request say, as they came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Claims<'a> {
    /// `MCP-Protocol-Version`.
    pub version: Option<&'a [u8]>,
    /// `Mcp-Method`.
    pub method: Option<&'a [u8]>,
    /// `Mcp-Name`.
    pub name: Option<&'a [u8]>,
}

/// Why headers are not those of a body. The message names no value, for what is wrong may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A batch has no one method.
    #[error("Header mismatch: a batch has no one Mcp-Method, and this revision has no batches")]
    Batch,
    /// No method.
    #[error("Header mismatch: the Mcp-Method header is missing")]
    NoMethod,
    /// Another method.
    #[error("Header mismatch: the Mcp-Method header is not the method of the body")]
    Method,
    /// No name.
    #[error("Header mismatch: the Mcp-Name header is missing")]
    NoName,
    /// Another name, or one that cannot be read.
    #[error("Header mismatch: the Mcp-Name header is not what the body names")]
    Name,
}

/// Whether a revision has the headers.
#[must_use]
pub fn has_headers(version: &[u8]) -> bool {
    let is_date = version.len() == FIRST.len()
        && version.iter().enumerate().all(|(index, byte)| {
            if matches!(index, 4 | 7) {
                *byte == b'-'
            } else {
                byte.is_ascii_digit()
            }
        });
    is_date && version >= FIRST
}

/// The name in an `Mcp-Name` header: as it stands, or in base64 where the text is no header's. `None` if it cannot be read.
#[must_use]
pub fn name(value: &[u8]) -> Option<Cow<'_, str>> {
    if value.len() > MAX_NAME {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    let Some(coded) = text.strip_prefix("=?base64?").and_then(|text| text.strip_suffix("?=")) else {
        return Some(Cow::Borrowed(text));
    };
    let bytes = STANDARD.decode(coded).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Whether the headers say what the body says, in the revisions that have them.
///
/// # Errors
/// Where they do not.
pub fn check(claims: Claims<'_>, body: &Body<'_>) -> Result<(), Mismatch> {
    if !claims.version.is_some_and(has_headers) {
        return Ok(());
    }
    let [message] = body.messages.as_slice() else {
        return Err(Mismatch::Batch);
    };
    if body.is_batch {
        return Err(Mismatch::Batch);
    }
    let Some(method) = &message.method else {
        // An answer to the server has no method to name.
        return if claims.method.is_none() && claims.name.is_none() {
            Ok(())
        } else {
            Err(Mismatch::Method)
        };
    };
    match claims.method {
        None => return Err(Mismatch::NoMethod),
        Some(claimed) if claimed != method.as_bytes() => return Err(Mismatch::Method),
        Some(_) => {}
    }
    let named = matches!(method.as_ref(), "tools/call" | "prompts/get" | "resources/read");
    if !named {
        // Other methods have no such header: what it says means nothing to anybody.
        return Ok(());
    }
    let claimed = claims.name.ok_or(Mismatch::NoName)?;
    let wanted = message.names.first().and_then(|(_, wanted)| wanted.as_ref());
    match (name(claimed), wanted) {
        (Some(claimed), Some(wanted)) if claimed == *wanted => Ok(()),
        _ => Err(Mismatch::Name),
    }
}

/// What the headers name, for rules to judge besides the body. The inner `None` is what cannot be read.
#[must_use]
pub fn named(claims: Claims<'_>) -> Vec<Named<'_>> {
    let method = claims.method.map(|method| std::str::from_utf8(method).ok());
    let subject = match method.flatten() {
        Some("tools/call") => Some(Subject::Tool),
        Some("prompts/get") => Some(Subject::Prompt),
        Some("resources/read" | "resources/subscribe" | "resources/unsubscribe") => Some(Subject::Resource),
        _ => None,
    };
    let method = method.map(|method| (Subject::Method, method.map(Cow::Borrowed)));
    let name = subject.zip(claims.name.map(name));
    method.into_iter().chain(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::message::read;
    use proptest::prelude::*;

    fn claims<'a>(version: &'a str, method: Option<&'a str>, name: Option<&'a str>) -> Claims<'a> {
        Claims {
            version: Some(version.as_bytes()),
            method: method.map(str::as_bytes),
            name: name.map(str::as_bytes),
        }
    }

    /// Spec: H16
    #[test]
    fn from_2026_07_28_on_headers_have_to_be_those_of_the_body() {
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"añb"}}"#;
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        let batch = format!("[{call}]");
        let coded = "=?base64?YcOxYg==?=";
        for (body, method, name, says) in [
            (call, Some("tools/call"), Some(coded), Ok(())),
            (call, Some("tools/call"), Some("añb"), Ok(())),
            (call, None, Some(coded), Err(Mismatch::NoMethod)),
            (call, Some("tools/list"), Some(coded), Err(Mismatch::Method)),
            (call, Some("Tools/call"), Some(coded), Err(Mismatch::Method)),
            (call, Some("tools/call"), None, Err(Mismatch::NoName)),
            (call, Some("tools/call"), Some("echo"), Err(Mismatch::Name)),
            (call, Some("tools/call"), Some("=?base64?YcOxYg?="), Err(Mismatch::Name)),
            (call, Some("tools/call"), Some("=?base64?!?="), Err(Mismatch::Name)),
            (
                call,
                Some("tools/call"),
                Some("=?BASE64?YcOxYg==?="),
                Err(Mismatch::Name),
            ),
            (list, Some("tools/list"), None, Ok(())),
            (list, Some("tools/list"), Some("x"), Ok(())),
            (list, None, None, Err(Mismatch::NoMethod)),
            (answer, None, None, Ok(())),
            (answer, Some("tools/list"), None, Err(Mismatch::Method)),
            (&batch, Some("tools/call"), Some(coded), Err(Mismatch::Batch)),
        ] {
            let read = read(body.as_bytes()).unwrap();
            for version in ["2026-07-28", "2027-01-01"] {
                assert_eq!(
                    check(claims(version, method, name), &read),
                    says,
                    "{body} {method:?} {name:?}"
                );
            }
            for version in ["2025-11-25", "2026-07-27", "", "draft", "2026-07-288", "9999/99/99"] {
                assert_eq!(check(claims(version, method, name), &read), Ok(()), "{version}");
            }
            assert_eq!(
                check(
                    Claims {
                        version: None,
                        ..claims("", method, name)
                    },
                    &read
                ),
                Ok(())
            );
        }
    }

    #[test]
    fn what_headers_name_is_known_without_a_body() {
        let said = named(claims("2025-06-18", Some("tools/call"), Some("=?base64?YQ==?=")));
        let expected = [(Subject::Method, "tools/call"), (Subject::Tool, "a")];
        assert_eq!(
            said,
            expected.map(|(subject, name)| (subject, Some(Cow::Borrowed(name))))
        );
        assert!(named(claims("", None, Some("a"))).is_empty());
        assert_eq!(
            named(claims("", Some("prompts/get"), Some("=?base64?!?=")))[1],
            (Subject::Prompt, None)
        );
    }

    proptest! {
        #[test]
        fn every_name_can_be_said(text in ".{0,40}") {
            let coded = format!("=?base64?{}?=", STANDARD.encode(&text));
            let decoded = name(coded.as_bytes());
            prop_assert_eq!(decoded.as_deref(), Some(text.as_str()));
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = name(&bytes);
            let _ = has_headers(&bytes);
        }
    }
}
