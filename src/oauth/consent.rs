//! Whether a person has to be asked, and what follows from their answer. Nobody gets a code without a consent for this
//! person, client, redirect URI and resource (MCP security best practices: the confused deputy).

use super::interaction::Interaction;
use super::response::ReturnAddress;
use super::session::SignedIn;
use super::{Answer, Endpoints, authorize, device, unavailable};
use crate::domain::client::RedirectTarget;
use crate::domain::device::Decision;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{AuthorizationCode, ConsentKey, RequestDetails};
use crate::domain::scope::Scope;
use crate::domain::secret::{Secret, SecretHash, SecretKind};
use crate::domain::uri::is_loopback;
use crate::store::{Approval, Decided};
use crate::telemetry::audit::{Act, Event};

/// What a request may get without another word.
pub(super) enum Permission {
    /// This scope: the person allowed as much before.
    Remembered(Scope),
    /// The person has to be asked.
    Ask(Question),
    /// The account may not have what the client wants, whoever is asked.
    Denied(OAuthError),
}

/// Who receives what is sent to a redirect URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// A site, by its host.
    Site(String),
    /// Whatever program on this computer listens on the port.
    ThisComputer,
    /// Whatever program on this computer has claimed the scheme.
    App(String),
    /// A device that waits somewhere else.
    Device,
}

/// What a person is asked.
pub(super) struct Question {
    /// What the client gets if they agree.
    pub(super) scope: Scope,
    /// How much of it they allowed before; nothing, if nothing is new and they are asked all the same.
    pub(super) already: Scope,
}

/// What may be granted, and whether without asking. Where something is new, what was allowed before comes along: clients
/// that step up ask for what they lack and expect to keep what they have.
pub(super) async fn permission(
    at: &Endpoints,
    interaction: &Interaction<'_>,
    signed_in: &SignedIn,
) -> Result<Permission, OAuthError> {
    let scope = match grantable(at, interaction, signed_in) {
        Ok(scope) => scope,
        Err(error) => return Ok(Permission::Denied(error)),
    };
    let already = allowed_before(at, interaction, signed_in).await?;
    if !at.config.covers(&already, &scope) {
        return Ok(Permission::Ask(Question {
            scope: scope.union(&already),
            already,
        }));
    }
    if interaction.request.ask_again || !can_be_skipped(interaction) {
        return Ok(Permission::Ask(Question {
            scope,
            already: Scope::empty(),
        }));
    }
    Ok(Permission::Remembered(scope))
}

/// What this person allowed this client here, as far as it could be granted today.
async fn allowed_before(
    at: &Endpoints,
    interaction: &Interaction<'_>,
    signed_in: &SignedIn,
) -> Result<Scope, OAuthError> {
    if interaction.request.details.device.is_some() {
        return Ok(Scope::empty());
    }
    let remembered = at
        .store
        .consent(&key(interaction, signed_in))
        .await
        .map_err(unavailable)?;
    let usable = authorize::usable(
        at,
        &interaction.client,
        interaction.upstream,
        &remembered.unwrap_or_default(),
    );
    Ok(usable.filtered(|token| at.config.may_be_granted(&signed_in.user, token)))
}

/// The scopes of a request that this person may be granted. If that leaves out one that the server needs for any use of
/// it, or all of them, a token would be of no use.
fn grantable(at: &Endpoints, interaction: &Interaction<'_>, signed_in: &SignedIn) -> Result<Scope, OAuthError> {
    let asked = &interaction.request.scope;
    let scope = asked.filtered(|token| at.config.may_be_granted(&signed_in.user, token));
    let all = at.config.with_implied(&scope);
    let missing = asked
        .iter()
        .filter(|token| !all.contains(token.as_str()))
        .find(|token| scope.is_empty() || interaction.upstream.scopes.contains(token.as_str()));
    missing.map_or(Ok(scope), |token| {
        Err(OAuthError::new(
            ErrorCode::AccessDenied,
            format!("this account may not be granted the scope {token}"),
        ))
    })
}

/// RFC 8252 §8.6: behind a loopback port or a private-use scheme a public client can be any program on the computer, so
/// having allowed one says nothing about the next: the person is asked each time.
fn can_be_skipped(interaction: &Interaction<'_>) -> bool {
    if interaction.request.details.device.is_some() {
        return false;
    }
    interaction.client.is_confidential()
        || matches!(Destination::of(&interaction.request.redirect), Destination::Site(_))
}

/// Answered in another window, or pushed out by newer requests of the same browser or address.
const GONE: &str = "the request is no longer open: it was answered before, or newer ones took its place";

/// What an approval ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// The unfinished authorization on record. Whoever answers it second finds it gone.
    Unfinished,
    /// Nothing: it was answered as it came, from what is remembered.
    Nothing,
}

/// Turns an authorization into a code and hands it to the client.
pub(super) async fn approve(
    at: &Endpoints,
    interaction: &Interaction<'_>,
    signed_in: &SignedIn,
    scope: Scope,
    ends: Ends,
) -> Result<Answer, OAuthError> {
    let request = &interaction.request;
    if let Some(device) = &request.details.device {
        return approve_device(at, interaction, signed_in, device, scope).await;
    }
    let code = Secret::generate(SecretKind::AuthorizationCode);
    let key = key(interaction, signed_in);
    let record = AuthorizationCode {
        client_id: request.client_id.clone(),
        redirect: request.redirect.clone(),
        code_challenge: request.code_challenge.clone(),
        scope,
        resource: request.resource.clone(),
        subject: signed_in.user.subject.clone(),
        authenticated_at: signed_in.session.authenticated_at,
        details: RequestDetails {
            source: None,
            ..request.details.clone()
        },
        expires_at: at.now().plus(at.config.oauth.code_expires_in),
        redeemed: None,
        failed_attempts: 0,
    };
    let remember = Some((&key, &record.scope));
    let id = interaction.id.hash();
    let approval = at
        .store
        .approve(
            (ends == Ends::Unfinished).then_some(&id),
            (&code.hash(), &record),
            remember,
        )
        .await;
    match approval.map_err(unavailable)? {
        Approval::Done => {
            tracing::info!(
                client.id = %record.client_id,
                subject = %record.subject,
                upstream = interaction.upstream.name,
                scope = %record.scope,
                "access allowed"
            );
            at.metrics.audit().note(|| Act {
                subject: Some(record.subject.as_str()),
                client_id: Some(record.client_id.as_str()),
                upstream: Some(&interaction.upstream.name),
                scope: Some(&record.scope),
                ..Act::new(Event::Consent, "given")
            });
            Ok(interaction.return_address().code(at, &code))
        }
        Approval::Gone => Err(OAuthError::new(ErrorCode::AccessDenied, GONE)),
    }
}

/// Lets a device have what it waits for.
async fn approve_device(
    at: &Endpoints,
    interaction: &Interaction<'_>,
    signed_in: &SignedIn,
    device: &SecretHash,
    scope: Scope,
) -> Result<Answer, OAuthError> {
    let over = || OAuthError::new(ErrorCode::AccessDenied, GONE);
    if !at
        .store
        .end_authorization(&interaction.id.hash())
        .await
        .map_err(unavailable)?
    {
        return Err(over());
    }
    let decision = Decision::Approved {
        subject: signed_in.user.subject.clone(),
        scope,
        authenticated_at: signed_in.session.authenticated_at,
    };
    match at.store.decide_device(device, &decision).await.map_err(unavailable)? {
        Decided::Done => {
            tracing::info!(
                client.id = %interaction.client.id, subject = %signed_in.user.subject,
                upstream = interaction.upstream.name, "a device was allowed"
            );
            at.metrics.audit().note(|| Act {
                subject: Some(signed_in.user.subject.as_str()),
                client_id: Some(interaction.client.id.as_str()),
                upstream: Some(&interaction.upstream.name),
                by: Some("device_code"),
                ..Act::new(Event::Consent, "given")
            });
            Ok(device::done(at, true))
        }
        Decided::Gone => Err(over()),
    }
}

/// Ends an unfinished authorization and tells the client why (RFC 6749 §4.1.2.1).
pub(super) async fn refuse(
    at: &Endpoints,
    interaction: &Interaction<'_>,
    error: &OAuthError,
) -> Result<Answer, OAuthError> {
    at.store
        .end_authorization(&interaction.id.hash())
        .await
        .map_err(unavailable)?;
    tracing::info!(
        client.id = %interaction.client.id,
        upstream = interaction.upstream.name,
        error = error.code.as_str(),
        "access refused"
    );
    at.metrics.audit().note(|| Act {
        client_id: Some(interaction.client.id.as_str()),
        upstream: Some(&interaction.upstream.name),
        by: Some(error.code.as_str()),
        ..Act::new(Event::Consent, "denied")
    });
    if let Some(device) = &interaction.request.details.device {
        at.store
            .decide_device(device, &Decision::Denied)
            .await
            .map_err(unavailable)?;
        return Ok(device::done(at, false));
    }
    Ok(interaction.return_address().error(at, error))
}

fn key(interaction: &Interaction<'_>, signed_in: &SignedIn) -> ConsentKey {
    ConsentKey {
        subject: signed_in.user.subject.clone(),
        client_id: interaction.request.client_id.clone(),
        redirect: interaction.client.registered_for(&interaction.request.redirect),
        resource: interaction.request.resource.clone(),
        edition: interaction.client.edition(),
    }
}

// === impl Question ===

impl Question {
    /// What they have not allowed yet.
    pub(super) fn fresh(&self) -> Scope {
        self.scope.filtered(|token| !self.already.contains(token.as_str()))
    }
}

// === impl Destination ===

impl Destination {
    /// Where a redirect URI leads.
    pub(super) fn of(redirect: &RedirectTarget) -> Self {
        let unknown = || Self::App(redirect.as_str().to_owned());
        let Ok(url) = url::Url::parse(redirect.as_str()) else {
            return unknown();
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Self::App(url.scheme().to_owned());
        }
        if is_loopback(&url) {
            return Self::ThisComputer;
        }
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        url.host_str()
            .map_or_else(unknown, |host| Self::Site(format!("{host}{port}")))
    }
}

impl Interaction<'_> {
    /// Who receives the answer.
    pub(super) fn destination(&self) -> Destination {
        if self.request.details.device.is_some() {
            Destination::Device
        } else {
            Destination::of(&self.request.redirect)
        }
    }

    /// Where the client waits for the answer.
    pub(super) fn return_address(&self) -> ReturnAddress {
        ReturnAddress {
            redirect: self.request.redirect.clone(),
            state: self.request.state.clone(),
        }
    }
}
