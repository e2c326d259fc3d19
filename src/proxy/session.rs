//! Sessions at the gateway's door: an upstream hears only of those that were begun by who asks (K10 to K12).

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use pingora::Error;
use pingora::http::RequestHeader;
use subtle::ConstantTimeEq as _;

use super::bearer::Permit;
use super::reply::{self, Refusal, RpcError};
use super::verdict::BAD_SESSION;
use super::{Exchange, Gateway};
use crate::config::Upstream;
use crate::mcp::endpoint::{self, Address};
use crate::mcp::session::Party;

/// The header of the transport.
pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// The session of a request: as the client says it, and as the upstream knows it.
#[derive(Debug)]
pub(super) struct Known {
    visible: HeaderValue,
    own: HeaderValue,
}

/// The session that was last seen with a permit: most tokens are used with one, and to verify an id again and again would
/// cost more than all else that is done for it. A permit is one party's, so what is good for it once is good for it.
#[derive(Debug, Default)]
pub(super) struct Latest(ArcSwapOption<Known>);

impl Latest {
    fn get(&self, visible: &HeaderValue) -> Option<Arc<Known>> {
        let latest = self.0.load();
        let known = latest.as_ref()?;
        let same: bool = known.visible.as_bytes().ct_eq(visible.as_bytes()).into();
        same.then(|| Arc::clone(known))
    }

    fn put(&self, visible: HeaderValue, own: HeaderValue) -> Arc<Known> {
        let known = Arc::new(Known { visible, own });
        self.0.store(Some(Arc::clone(&known)));
        known
    }
}

/// Whom the sessions of an upstream are bound to, where they are bound.
pub(super) fn party<'a>(upstream: &'a Upstream, permit: &'a Permit) -> Option<Party<'a>> {
    upstream.bind_sessions.then_some(Party {
        upstream: &upstream.name,
        subject: &permit.subject,
        client: &permit.client_id,
    })
}

impl Gateway {
    /// Whether the session and the address that a request names were given to whom it comes from. Both are noted as the
    /// upstream knows them.
    pub(super) fn recognise(
        &self,
        head: &Parts,
        upstream: &Upstream,
        permit: &Permit,
        exchange: &mut Exchange,
    ) -> Result<(), Refusal> {
        let party = party(upstream, permit);
        let sessions = &self.endpoints.sessions;
        if head.uri.query().is_some() {
            let below = head.uri.path().strip_prefix(upstream.path.as_str()).unwrap_or_default();
            match endpoint::read(
                sessions,
                party,
                &upstream.name,
                &upstream.url.path,
                below,
                head.uri.query(),
            ) {
                Address::Plain => {}
                Address::Known(target) => exchange.target = Some(target),
                Address::Unknown => return Err(unknown()),
            }
        }
        let Some(party) = party else { return Ok(()) };
        let mut presented = head.headers.get_all(SESSION_ID).iter();
        let Some(visible) = presented.next() else {
            return Ok(());
        };
        if presented.next().is_some() {
            return Err(reply::plain(
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "Mcp-Session-Id is there twice",
            )
            .into());
        }
        let known = if let Some(known) = permit.session.get(visible) {
            known
        } else {
            let own = sessions.unbind(party, visible.as_bytes()).ok_or_else(unknown)?;
            // A part of a header's value is one.
            let own = HeaderValue::from_bytes(own).map_err(|_| unknown())?;
            permit.session.put(visible.clone(), own)
        };
        exchange.session = Some(known);
        Ok(())
    }

    /// Puts what the client gets to see in the place of an upstream's session id.
    pub(super) fn bind_session(
        &self,
        exchange: &Exchange,
        upstream: &Upstream,
        response: &mut HeaderMap,
    ) -> pingora::Result<()> {
        let Some(permit) = exchange.permit.as_deref() else {
            return Ok(());
        };
        let Some(party) = party(upstream, permit) else {
            return Ok(());
        };
        let mut ids = response.get_all(SESSION_ID).iter();
        let Some(id) = ids.next() else { return Ok(()) };
        if ids.next().is_some() {
            return Err(Error::explain(BAD_SESSION, "it has two session ids").into_up());
        }
        if id.is_empty() {
            response.remove(SESSION_ID);
            return Ok(());
        }
        let visible = match &exchange.session {
            Some(known) if known.own == *id => known.visible.clone(),
            _ => {
                let bound = self.endpoints.sessions.bind(party, id.as_bytes());
                let bound = bound.and_then(|bound| HeaderValue::from_bytes(&bound).ok());
                let bound = bound.ok_or_else(|| Error::explain(BAD_SESSION, "its session id is too long").into_up())?;
                permit.session.put(bound, id.clone()).visible.clone()
            }
        };
        response.insert(SESSION_ID, visible);
        Ok(())
    }
}

impl Exchange {
    /// Says the session as the upstream knows it.
    pub(super) fn name_session(&self, request: &mut RequestHeader) -> pingora::Result<()> {
        match &self.session {
            Some(known) => request.insert_header(SESSION_ID, known.own.clone()),
            None => Ok(()),
        }
    }
}

/// What servers say of a session that has ended: clients begin anew.
fn unknown() -> Refusal {
    reply::rpc(
        StatusCode::NOT_FOUND,
        RpcError::SessionNotFound,
        "Session not found",
        None,
    )
    .into()
}

/// Whether an upstream's answer will be an event stream that is looked into, so that it may not be compressed.
pub(super) fn asks_for_a_stream(request: &RequestHeader) -> bool {
    let accepts = |value: &HeaderValue| {
        value
            .as_bytes()
            .to_ascii_lowercase()
            .windows(17)
            .any(|window| window == b"text/event-stream")
    };
    request.method == Method::GET && request.headers.get_all(http::header::ACCEPT).iter().any(accepts)
}
