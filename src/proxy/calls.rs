//! Which tools a request calls, where their calls are counted: only there is a body read before the upstream hears of it.

use http::{Method, StatusCode};
use pingora::protocols::http::ServerSession;

use super::budget::Met;
use super::deadline::Deadline;
use super::reply::{self, Refusal, RpcError};
use super::{Exchange, Gateway, policy};
use crate::domain::rules::Subject;
use crate::mcp::message::{self, Unreadable};

/// Why a request does not go on.
pub(super) enum Stopped {
    ByLimit(Met),
    ByForm(Refusal),
}

impl Gateway {
    /// Whether the tools that a request calls are counted.
    pub(super) fn counts_calls(&self, exchange: &Exchange) -> bool {
        let upstream = self.upstream(exchange);
        upstream.is_some_and(|(upstream, _)| upstream.limits.tool_calls_per_minute.is_some())
    }

    /// Counts the tools that a request calls, where that is done; then the whole of its body is kept to be sent on.
    pub(super) async fn count_calls(
        &self,
        session: &mut ServerSession,
        exchange: &mut Exchange,
        deadline: &mut Deadline,
    ) -> pingora::Result<Result<(), Stopped>> {
        let Some((upstream, mount)) = self.upstream(exchange) else {
            return Ok(Ok(()));
        };
        let (Some(budget), Some(per_minute)) = (&mount.budget, upstream.limits.tool_calls_per_minute) else {
            return Ok(Ok(()));
        };
        if session.req_header().method != Method::POST {
            return Ok(Ok(()));
        }
        let whole = policy::read_whole(session, exchange, deadline, upstream).await?;
        let Some(permit) = &exchange.permit else {
            return Ok(Ok(()));
        };
        let counted = each_tool(&whole, |tool| {
            budget.call(per_minute, permit, tool, self.endpoints.now())
        });
        Ok(match counted {
            Ok(Ok(())) => Ok(()),
            Ok(Err(met)) => Err(Stopped::ByLimit(met)),
            Err(_) => Err(Stopped::ByForm(
                reply::rpc(
                    StatusCode::BAD_REQUEST,
                    RpcError::BadRequest,
                    "the body is no JSON-RPC message",
                    None,
                )
                .into(),
            )),
        })
    }
}

/// Tells of each tool that a message, or one of a batch, calls; until that is refused.
fn each_tool<E>(body: &[u8], mut tell: impl FnMut(&str) -> Result<(), E>) -> Result<Result<(), E>, Unreadable> {
    let body = message::read(body)?;
    let named = body.messages.iter().flat_map(|message| &message.names);
    for (_, name) in named.filter(|(subject, _)| *subject == Subject::Tool) {
        // What has no name is one tool: no server knows it.
        if let Err(refused) = tell(name.as_deref().unwrap_or_default()) {
            return Ok(Err(refused));
        }
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(body: &str) -> Option<Vec<String>> {
        let mut found = Vec::new();
        let told = each_tool(body.as_bytes(), |tool| {
            found.push(tool.to_owned());
            Ok::<_, ()>(())
        });
        told.ok().map(|_| found)
    }

    #[test]
    fn every_call_of_a_tool_is_seen() {
        for (body, expected) in [
            (r#"{"method":"tools/call","params":{"name":"a"}}"#, vec!["a"]),
            (
                r#"{"params":{"arguments":{},"name":"a\u0062"},"method":"tools\/call"}"#,
                vec!["ab"],
            ),
            (
                r#" [{"method":"tools/call","params":{"name":"a"}},{"method":"ping"},{"method":"tools/call","params":{"name":"b"}}]"#,
                vec!["a", "b"],
            ),
            (r#"{"method":"tools/call"}"#, vec![""]),
            (r#"{"method":"tools/call","params":{"name":7}}"#, vec![""]),
            (r#"{"method":"tools/list"}"#, vec![]),
            (r#"{"id":1,"result":{}}"#, vec![]),
        ] {
            assert_eq!(tools(body).unwrap(), expected, "{body}");
        }
        // Two readers could see two things in these.
        for refused in [
            "",
            "x",
            "7",
            r#"{"method":"tools/call","method":"ping"}"#,
            r#"{"method":"tools/call","params":{"name":"a"}} {}"#,
            r#"{"method":7}"#,
            "[[]]",
        ] {
            assert!(tools(refused).is_none(), "{refused}");
        }
    }
}
