//! Every answer that the proxy makes itself: small, JSON, never cached, with nothing of the engine's in it.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::json;
use serde_json::value::RawValue;

use crate::oauth::Answer;

/// Most of a request's body that is kept to find its JSON-RPC id in, should an error have to name it.
pub(super) const KEPT_BODY: usize = 64 << 10;

/// JSON-RPC 2.0 error codes from the range that is left to servers; none that MCP gives a meaning to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum RpcError {
    /// There is no such session: what the servers of the official SDK say.
    SessionNotFound = -32001,
    /// The upstream cannot be reached, or what it said is no answer.
    UpstreamFailed = -32010,
    /// The upstream did not answer in time.
    UpstreamTimeout = -32011,
    /// Too many requests.
    TooMany = -32012,
    /// The gateway itself has trouble.
    Unavailable = -32013,
    /// The request cannot be forwarded as it is.
    BadRequest = -32014,
    /// A rule needs the body, and it is no JSON: JSON-RPC's own code, like the next two.
    ParseError = -32700,
    /// It is JSON, and no message.
    InvalidRequest = -32600,
    /// It does not name what it is about.
    InvalidParams = -32602,
    /// A rule forbids it.
    Denied = -32015,
    /// What headers say of the body is not what it says: MCP's own code, for MCP's own case.
    HeaderMismatch = crate::mcp::headers::MISMATCH,
}

/// What a 413 says, whether the length was declared or found out.
pub(super) const BODY_TOO_LARGE: &str = "the body is too large";

/// A refusal on the way of a request, with whether its connection can go on afterwards.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) answer: Box<Answer>,
    pub(super) close: bool,
}

/// What is read of a JSON-RPC message where nothing depends on the rest.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

impl From<Answer> for Refusal {
    fn from(answer: Answer) -> Self {
        Self {
            answer: Box::new(answer),
            close: false,
        }
    }
}

impl Refusal {
    /// A refusal after which the connection cannot go on, because part of the request was not read.
    pub(super) fn final_answer(answer: Answer) -> Self {
        Self {
            answer: Box::new(answer),
            close: true,
        }
    }

    /// A refusal of a request whose framing is doubtful: what follows on the connection cannot be trusted either.
    pub(super) fn closing(status: StatusCode, error: &str, description: &str) -> Self {
        Self {
            answer: Box::new(plain(status, error, description)),
            close: true,
        }
    }
}

/// An error in the form of OAuth's, which MCP clients read as text.
pub(super) fn plain(status: StatusCode, error: &str, description: &str) -> Answer {
    let mut answer = Response::new(Bytes::from(
        json!({ "error": error, "error_description": description }).to_string(),
    ));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Reads what is there of a message; a batch has no method and no id of its own.
fn envelope(body: &[u8]) -> Option<Envelope<'_>> {
    body.trim_ascii_start()
        .starts_with(b"{")
        .then(|| serde_json::from_slice(body).ok())
        .flatten()
}

/// An error in JSON-RPC form, with the request's id where that is known.
pub(super) fn rpc(status: StatusCode, code: RpcError, message: &str, request: Option<&[u8]>) -> Answer {
    let id = request
        .and_then(envelope)
        .and_then(|envelope| envelope.id)
        .map_or("null", RawValue::get);
    // Only what JSON-RPC allows as an id is given back.
    let id = if id.starts_with(['"', '-']) || id.starts_with(|c: char| c.is_ascii_digit()) {
        id
    } else {
        "null"
    };
    let error = json!({ "code": code as i32, "message": message });
    let mut answer = Response::new(Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The same with a header.
pub(super) fn with(mut answer: Answer, name: HeaderName, value: HeaderValue) -> Answer {
    answer.headers_mut().insert(name, value);
    answer
}

/// The methods of MCP, all revisions: whatever else a request names is `other` in the metrics.
const METHODS: &[&str] = &[
    "initialize",
    "ping",
    "server/discover",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "subscriptions/listen",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/cancel",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "roots/list",
    "sampling/createMessage",
    "elicitation/create",
];

/// The metric label for a JSON-RPC method.
pub(super) fn method_label(method: &str) -> &'static str {
    METHODS
        .iter()
        .find(|known| **known == method)
        .copied()
        .unwrap_or("other")
}

/// The metric label for a body: of its `method`, wherever in the outermost object that is. What comes after it is not read,
/// and nothing is decided by this.
pub(super) fn method_of(body: &[u8]) -> &'static str {
    if !body.trim_ascii_start().starts_with(b"{") {
        return "other";
    }
    if let Some(method) = plainly_said(body) {
        return method_label(method);
    }
    let mut found = "other";
    // To leave an object early is an error, so what is found is noted on the way.
    let _ = serde_json::Deserializer::from_slice(body).deserialize_map(Method(&mut found));
    found
}

/// The `method` of a message as most clients write it: no spaces, and before it nothing but strings and numbers.
fn plainly_said(body: &[u8]) -> Option<&str> {
    let mut rest = body.strip_prefix(b"{")?;
    loop {
        let (key, after) = string(rest)?;
        let value = after.strip_prefix(b":")?;
        if key == "method" {
            return string(value).map(|(method, _)| method);
        }
        let end = string(value).map_or_else(
            || {
                let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
                value.get(digits..).unwrap_or_default()
            },
            |(_, after)| after,
        );
        rest = end.strip_prefix(b",")?;
    }
}

/// A string without escapes, and what comes after it.
fn string(text: &[u8]) -> Option<(&str, &[u8])> {
    let inner = text.strip_prefix(b"\"")?;
    let end = memchr::memchr2(b'"', b'\\', inner)?;
    let after = inner.get(end..)?.strip_prefix(b"\"")?;
    Some((std::str::from_utf8(inner.get(..end)?).ok()?, after))
}

/// Looks for `method`.
struct Method<'a>(&'a mut &'static str);

impl<'de> Visitor<'de> for Method<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

        while let Some(Text(key)) = map.next_key()? {
            if key == "method" {
                let Text(method) = map.next_value()?;
                *self.0 = method_label(&method);
                break;
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_carries_the_request_s_id_as_it_was() {
        for (body, id) in [
            (r#"{"id":7,"method":"x"}"#, "7"),
            (r#"{"method":"x","id":"a\"b"}"#, r#""a\"b""#),
            (r#"{"id":-1.5}"#, "-1.5"),
            (r#"{"id":{"a":1}}"#, "null"),
            (r#"{"id":[1]}"#, "null"),
            (r#"{"id":true}"#, "null"),
            (r#"{"id":null}"#, "null"),
            (r"[1]", "null"),
            ("nonsense", "null"),
        ] {
            let answer = rpc(
                StatusCode::BAD_GATEWAY,
                RpcError::UpstreamFailed,
                "m",
                Some(body.as_bytes()),
            );
            let text = std::str::from_utf8(answer.body()).unwrap();
            assert_eq!(
                text,
                format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32010,"message":"m"}}}}"#),
                "{body}"
            );
        }
    }

    #[test]
    fn methods_outside_the_closed_set_have_no_label_of_their_own() {
        assert_eq!(method_of(br#"{"method":"tools/call","params":{}}"#), "tools/call");
        assert_eq!(method_of(br#"{"method":"tools\/call"}"#), "tools/call");
        for said in [
            &br#"{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"method":"ping"}}"#[..],
            br#" { "params" : {"method":"ping"}, "id":"a\"b", "method" : "tools/call" }"#,
            br#"{"id":-1,"jsonrpc":"2.0","method":"tools/call"}"#,
            br#"{"id":1,"m\u0065thod":"tools/call"}"#,
        ] {
            assert_eq!(method_of(said), "tools/call", "{}", String::from_utf8_lossy(said));
        }
        for other in [&br#"{"method":"evil/label"}"#[..], b"{}", b"[]", b"", b"{"] {
            assert_eq!(method_of(other), "other");
        }
    }
}
