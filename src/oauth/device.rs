//! The device flow, RFC 8628: `/device_authorization` for the program without a browser, `/device` for its person.
//!
//! ```text
//!  device ──▶ /device_authorization ──▶ user code ┄┄ read aloud, typed ┄┄▶ /device ──▶ sign-in, consent ──▶ decided
//!     └──────▶ /token, every few seconds: pending … ──────────────────────────────────────────────▶ tokens
//! ```
//! A person can be talked into typing somebody else's code (RFC 10027), so the pages say what that would do, consent is
//! asked every time, and the whole flow is off unless switched on.

use std::time::Duration;

use http::{Method, StatusCode};
use serde::Serialize;

use super::authorize::{self, Asked};
use super::browser::{self, Browser, Purpose};
use super::interaction::{self, Interaction};
use super::pages::{self, Problem};
use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints, client_auth, not_found, unavailable};
use crate::domain::client::{GrantType, RedirectTarget};
use crate::domain::device::{DeviceAuthorization, INTERVAL, UserCode};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{AuthorizationRequest, RequestDetails};
use crate::domain::secret::{Secret, SecretKind};
use crate::store::Room;

/// How long a person has.
const LIFETIME: Duration = Duration::from_secs(600);

/// RFC 8628 §3.2.
#[derive(Serialize)]
struct DeviceResponse<'a> {
    device_code: &'a str,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: String,
    expires_in: u64,
    interval: u64,
}

/// Answers `/device_authorization`.
pub async fn begin(at: &Endpoints, call: &Call<'_>) -> Answer {
    if !at.config.oauth.grants.device_code {
        return not_found();
    }
    match handle(at, call).await {
        Ok(answer) => answer,
        Err(error) => client_auth::refuse(call, &error),
    }
}

async fn handle(at: &Endpoints, call: &Call<'_>) -> Result<Answer, OAuthError> {
    let form = Parameters::of_form(call.request)?;
    let client = client_auth::authenticate(at, call, &form).await?;
    if !client.may_use(GrantType::DeviceCode) {
        return Err(OAuthError::new(
            ErrorCode::UnauthorizedClient,
            "this client is not registered for the device flow",
        )
        .because(format!("client {} may not use the device flow", client.id)));
    }
    let Asked { upstream, scope } = authorize::asked(at, &client, &form)?;
    let (device, user_code) = (Secret::generate(SecretKind::DeviceCode), UserCode::generate());
    let request = DeviceAuthorization {
        client_id: client.id.clone(),
        scope,
        resource: upstream.resource.clone(),
        user_code: user_code.hash(),
        decision: None,
        polled_at: None,
        interval: INTERVAL,
        redeemed: None,
        expires_at: at.now().plus(LIFETIME),
    };
    match at
        .store
        .begin_device(&device.hash(), &request)
        .await
        .map_err(unavailable)?
    {
        Room::Kept => {}
        Room::Full => {
            return Err(
                OAuthError::new(ErrorCode::TemporarilyUnavailable, "too many devices wait at present")
                    .because("the store is full of devices that wait"),
            );
        }
    }
    tracing::info!(client = %client.id, upstream = upstream.name, "a device asks");
    let page = at.config.endpoint("/device");
    Ok(web::json_no_store(
        StatusCode::OK,
        &DeviceResponse {
            device_code: device.expose(),
            verification_uri_complete: format!("{page}?user_code={}", user_code.shown()),
            user_code: user_code.shown(),
            verification_uri: page,
            expires_in: LIFETIME.as_secs(),
            interval: INTERVAL.as_secs(),
        },
    ))
}

// --- /device

/// Answers `/device`.
pub async fn page(at: &Endpoints, call: &Call<'_>) -> Answer {
    if !at.config.oauth.grants.device_code {
        return not_found();
    }
    let answer = if *call.request.method() == Method::POST {
        enter(at, call).await
    } else {
        show(at, call)
    };
    answer.unwrap_or_else(|problem| problem.answer(at))
}

/// The form, with the code in it if the address has one; after an answer, what was answered.
fn show(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let parameters = Parameters::of_query(call.request)?;
    if let Some(outcome) = parameters.get("outcome") {
        return Ok(pages::device_done(at, outcome == "allowed"));
    }
    let code = parameters.get("user_code").and_then(UserCode::parse);
    Ok(form(at, call, code.as_ref().map(UserCode::shown).as_deref(), false))
}

fn form(at: &Endpoints, call: &Call<'_>, code: Option<&str>, wrong: bool) -> Answer {
    let browser = Browser::of_or_new(at, call);
    let token = browser.page_token(at, Purpose::Device);
    let mut answer = pages::device(at, &token, code.unwrap_or_default(), wrong);
    browser.remember(at, answer.headers_mut());
    answer
}

/// A code that was typed: from here on it is an authorization like any other, but for where its answer goes.
async fn enter(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let parameters = interaction::own_form(at, call)?;
    let browser = Browser::of(at, call).ok_or_else(Problem::other_browser)?;
    interaction::check_form_token(
        &parameters,
        interaction::FORM_TOKEN,
        &browser.page_token(at, Purpose::Device),
    )?;
    let typed = parameters.get("user_code").unwrap_or_default();
    let found = match UserCode::parse(typed) {
        Some(code) => at.store.device_by_user_code(&code.hash()).await?,
        None => None,
    };
    let now = at.now();
    let waiting = found.filter(|(_, request)| request.decision.is_none() && now < request.expires_at);
    let Some((device, request)) = waiting else {
        tracing::info!(address = %call.address, "a device's code was typed that nobody waits with");
        return Ok(form(at, call, Some(typed), true));
    };
    let client = at.client(&request.client_id).await?;
    let upstream = at.config.upstream_for(&request.resource);
    let (Some(client), Some(upstream)) = (client, upstream) else {
        return Ok(form(at, call, Some(typed), true));
    };
    let interaction = Interaction {
        id: Secret::generate(SecretKind::Authorization),
        request: AuthorizationRequest {
            client_id: request.client_id,
            redirect: RedirectTarget::page_of_ours(at.config.endpoint("/device")),
            state: None,
            code_challenge: None,
            scope: request.scope,
            resource: request.resource,
            browser: browser.hash(),
            sign_in_again: false,
            ask_again: true,
            details: RequestDetails {
                device: Some(device),
                source: Some(browser::source(at, call)),
                ..RequestDetails::default()
            },
            created_at: now,
            expires_at: now.plus(Duration::from_secs(browser::LIFETIME)).min(request.expires_at),
        },
        browser,
        client,
        upstream,
    };
    at.store
        .begin_authorization(&interaction.id.hash(), &interaction.request)
        .await?;
    let mut answer = interaction.redirect_to(at, "/consent");
    interaction.browser.remember(at, answer.headers_mut());
    Ok(answer)
}

/// Sends the browser to what it reads after an answer.
pub(super) fn done(at: &Endpoints, allowed: bool) -> Answer {
    let outcome = if allowed { "allowed" } else { "denied" };
    web::redirect(&format!("{}?outcome={outcome}", interaction::path(at, "/device")))
}
