//! The answer to an authorization request, RFC 6749 §4.1.2: one function writes every redirect to a client, so that each
//! carries `state` as it came and exactly one `iss` (RFC 9207 §2).

use form_urlencoded::byte_serialize;

use super::{Answer, Endpoints, web};
use crate::domain::client::RedirectTarget;
use crate::domain::error::OAuthError;
use crate::domain::secret::Secret;

/// The parameters that we add; a redirect URI that brings one of them along could say something else than we do.
pub(super) const PARAMETERS: [&str; 5] = ["code", "error", "error_description", "state", "iss"];

/// Where an answer goes, and the `state` that goes with it.
#[derive(Clone, Debug)]
pub(super) struct ReturnAddress {
    /// Matched against the client's registration.
    pub(super) redirect: RedirectTarget,
    /// The client's, byte for byte.
    pub(super) state: Option<String>,
}

impl ReturnAddress {
    /// Hands the code to the client.
    pub(super) fn code(&self, at: &Endpoints, code: &Secret) -> Answer {
        self.answer(at, &[("code", code.expose())])
    }

    /// Tells the client what went wrong (RFC 6749 §4.1.2.1).
    pub(super) fn error(&self, at: &Endpoints, error: &OAuthError) -> Answer {
        web::log_cause(error);
        self.answer(
            at,
            &[
                ("error", error.code.as_str()),
                ("error_description", &error.description),
            ],
        )
    }

    /// The registered text stays as it is, whatever a URL parser would make of it; parameters come after it.
    fn answer(&self, at: &Endpoints, parameters: &[(&str, &str)]) -> Answer {
        let issuer = at
            .config
            .oauth
            .issuer_in_response
            .then_some(at.config.public_url.origin.as_str());
        let state = self.state.as_deref().map(|state| ("state", state));
        let all = parameters
            .iter()
            .copied()
            .chain(state)
            .chain(issuer.map(|issuer| ("iss", issuer)));
        let mut location = self.redirect.as_str().to_owned();
        for (name, value) in all {
            if !location.contains('?') {
                location.push('?');
            } else if !location.ends_with(['?', '&']) {
                location.push('&');
            }
            location.push_str(name);
            location.push('=');
            location.extend(byte_serialize(value.as_bytes()));
        }
        web::redirect(&location)
    }
}
