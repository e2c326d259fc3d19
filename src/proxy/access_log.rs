//! The end of a request: one metric, one line. Never a query, a body, a token or an e-mail address.

use std::net::IpAddr;

use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession as Session;
use pingora::{Error, ErrorSource};

use super::reply::{self, KEPT_BODY};
use super::{Exchange, Gateway, bridge, policy};
use crate::telemetry::Outcome;
use crate::telemetry::access::Access;

impl Gateway {
    /// Counts and logs a request that has ended.
    pub(super) fn note_end(&self, session: &Session, error: Option<&Error>, exchange: &Exchange) {
        let took = exchange.started.elapsed();
        let head = session.req_header();
        let status = session
            .response_written()
            .map_or(0, |response| response.status.as_u16());
        let upstream = self.upstream(exchange);
        let method = rpc_method(head, exchange);
        if let Some((upstream, mount)) = upstream {
            let broken = error.is_some_and(|error| *error.esource() == ErrorSource::Downstream);
            let outcome = match exchange.outcome {
                Some(outcome @ (Outcome::Rejected | Outcome::UpstreamFailed)) => outcome,
                _ if broken => Outcome::ClientGone,
                Some(outcome) => outcome,
                None => Outcome::ClientGone,
            };
            let metrics = &self.endpoints.metrics;
            metrics.request(&upstream.name, method, outcome);
            policy::count_calls(metrics, &upstream.name, exchange, method, outcome);
            mount.metrics.duration(took);
            if matches!(outcome, Outcome::Denied | Outcome::Rejected | Outcome::Unavailable) {
                self.note_refusal(session, exchange, upstream, method, outcome, status);
            }
        }
        let address = client_address(session, exchange);
        Access {
            request_id: exchange.request_id.to_str().unwrap_or_default(),
            client_address: address,
            method: head.method.as_str(),
            path: head.uri.path(),
            status,
            took,
            upstream: upstream.map(|(upstream, _)| upstream.name.as_str()),
            rpc_method: upstream.map(|_| method),
            subject: exchange.permit.as_ref().map(|permit| permit.subject.as_str()),
            client_id: exchange.permit.as_ref().map(|permit| permit.client_id.as_str()),
        }
        .log();
    }
}

/// Where a request comes from: as far as the proxies in front may say it, else the other end of the connection.
pub(super) fn client_address(session: &Session, exchange: &Exchange) -> Option<IpAddr> {
    let address = exchange.source.as_ref().map(|source| source.client);
    address.or_else(|| bridge::peer_address(session))
}

/// The JSON-RPC method for metrics: from its header, else from the body if all of it was kept.
fn rpc_method(head: &RequestHeader, exchange: &Exchange) -> &'static str {
    if let Some(method) = head.headers.get("mcp-method").and_then(|value| value.to_str().ok()) {
        return reply::method_label(method);
    }
    if !exchange.body_complete || exchange.body_length > KEPT_BODY as u64 {
        return "other";
    }
    match exchange.body.as_slice() {
        [] => "other",
        [whole] => reply::method_of(whole),
        // It came in pieces: slow clients, chunked bodies.
        pieces => reply::method_of(&pieces.concat()),
    }
}
