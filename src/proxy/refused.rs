//! Why a request was refused, for whoever runs the gateway: the client is told less, and the log says only that it was.

use std::borrow::Cow;

use bytes::Bytes;
use pingora::protocols::http::ServerSession as Session;
use serde::Deserialize;

use super::access_log::client_address;
use super::{Exchange, Gateway};
use crate::config::Upstream;
use crate::domain::grant::Grant;
use crate::mcp::message;
use crate::telemetry::audit::{Act, Event};
use crate::telemetry::decisions::Refused;
use crate::telemetry::{AuthDecision, Outcome};

/// What is remembered of a refusal until the request has ended.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Where it was about who may do what.
    pub(super) decision: Option<AuthDecision>,
    /// What is known of the token.
    pub(super) about: About,
    /// What the client was told.
    pub(super) answer: Option<Bytes>,
}

/// What is known of a token that does not do.
#[derive(Debug, Default)]
pub(super) struct About {
    /// Whom it speaks for, and the client that has it.
    caller: Option<(String, String)>,
    /// More than the answer says.
    reason: Option<&'static str>,
}

/// Why a token is worth nothing. Its holder is not told which it is.
#[derive(Debug)]
pub(super) enum Dead {
    /// There is none.
    Unknown,
    /// Its time is over.
    Expired(Grant),
    /// What it is for is not served.
    NoUpstream(Grant),
    /// Its client is gone.
    NoClient(Grant),
    /// Its person is gone or disabled.
    NoPerson(Grant),
}

/// An answer of ours, in either form.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow, default)]
    error_description: Option<Cow<'a, str>>,
    #[serde(default)]
    error: serde_json::Value,
}

impl Gateway {
    /// Notes a request to an upstream that we refused.
    pub(super) fn note_refusal(
        &self,
        session: &Session,
        exchange: &Exchange,
        upstream: &Upstream,
        rpc_method: &'static str,
        outcome: Outcome,
        status: u16,
    ) {
        let notes = &exchange.refused;
        let permit = exchange.permit.as_ref();
        let caller = permit.map(|permit| (permit.subject.clone(), permit.client_id.clone()));
        let (subject, client) = caller.or_else(|| notes.about.caller.clone()).unzip();
        let address = client_address(session, exchange);
        let decision = notes.decision.map_or(outcome.as_str(), AuthDecision::as_str);
        // To ask without a token is how every client begins.
        if notes.decision != Some(AuthDecision::NoToken) {
            self.endpoints.metrics.audit().note(|| Act {
                subject: subject.as_deref(),
                client_id: client.as_deref(),
                upstream: Some(&upstream.name),
                address,
                request_id: exchange.request_id.to_str().ok(),
                count: Some(status.into()),
                ..Act::new(Event::AccessDenied, decision)
            });
        }
        self.endpoints.metrics.refusals().note(Refused {
            number: 0,
            at: Some(self.endpoints.now()),
            request_id: exchange.request_id.to_str().unwrap_or_default().to_owned(),
            address: address.map(|address| address.to_string()),
            upstream: upstream.name.clone(),
            method: session.req_header().method.as_str().to_owned(),
            rpc_method: Some(rpc_method).filter(|method| *method != "other"),
            tool: tool(exchange),
            subject,
            client,
            status,
            decision,
            reason: notes.reason(),
        });
    }
}

/// The tool that a request would have called, where its body was read.
fn tool(exchange: &Exchange) -> Option<String> {
    if let Some(ruled) = &exchange.ruled {
        return ruled.calls.first().map(|tool| tool.as_ref().to_owned());
    }
    let whole = exchange.body_complete.then(|| exchange.body.concat())?;
    message::called_tool(&whole).map(|tool| tool.to_string())
}

// === impl Notes ===

impl Notes {
    fn reason(&self) -> String {
        if let Some(reason) = self.about.reason {
            return reason.to_owned();
        }
        let told = self
            .answer
            .as_deref()
            .and_then(|body| serde_json::from_slice::<Told<'_>>(body).ok());
        told.and_then(|told| {
            let message = told.error.get("message").and_then(serde_json::Value::as_str);
            told.error_description
                .map(Cow::into_owned)
                .or(message.map(str::to_owned))
        })
        .unwrap_or_default()
    }
}

// === impl About ===

impl About {
    /// A living token of this person, in the hands of this client.
    pub(super) fn of(subject: &str, client: &str) -> Self {
        Self {
            caller: Some((subject.to_owned(), client.to_owned())),
            reason: None,
        }
    }
}

impl From<Dead> for About {
    fn from(dead: Dead) -> Self {
        let (grant, reason) = match dead {
            Dead::Unknown => (
                None,
                "there is no such token: it was revoked, expired a while ago, or was never issued",
            ),
            Dead::Expired(grant) => (Some(grant), "the token has expired"),
            Dead::NoUpstream(grant) => (Some(grant), "the server that the token is for is not served any more"),
            Dead::NoClient(grant) => (Some(grant), "the client is not known any more"),
            Dead::NoPerson(grant) => (Some(grant), "the person is disabled, or not known any more"),
        };
        Self {
            caller: grant.map(|grant| (grant.subject.to_string(), grant.client_id.to_string())),
            reason: Some(reason),
        }
    }
}
