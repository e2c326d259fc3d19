//! What happens between `/authorize` and the answer to the client: `/login`, `/consent`, and `/logout`.
//!
//! Every step looks up the unfinished authorization by its id and holds it against the browser's cookie. A GET changes
//! nothing. A POST needs the token of the form that we gave to this browser for this step.

use std::time::Duration;

use http::{Method, StatusCode};
use zeroize::Zeroizing;

use super::browser::{self, Browser, Purpose};
use super::consent::{self, Ends, Permission, Question};
use super::elsewhere::CHOOSE;
use super::login_page;
use super::pages::{self, Problem};
use super::session::{self, SignedIn};
use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints, unavailable};
use crate::config::Upstream;
use crate::domain::client::{Client, RedirectTarget};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{AuthorizationRequest, OwnPage, RequestDetails};
use crate::domain::person::{Passed, SessionDetails};
use crate::domain::scope::Scope;
use crate::domain::secret::{Secret, SecretKind};
use crate::domain::user::User;
use crate::fetch::Patience;
use crate::identity::SignIn;
use crate::store::StoreError;
use crate::telemetry::LoginOutcome;
use crate::telemetry::audit::{Act, Event};

/// What the built-in accounts are called in metrics.
pub(super) const PROVIDER: &str = "builtin";
/// The input that holds a form's token.
pub(super) const FORM_TOKEN: &str = "csrf";
/// The same in forms that sign out: the consent page has one of each.
pub(super) const SIGN_OUT_TOKEN: &str = "sign_out";

/// An unfinished authorization in the browser that began it.
pub(super) struct Interaction<'a> {
    /// Its id, as the pages' addresses have it.
    pub(super) id: Secret,
    /// What the client asked for.
    pub(super) request: AuthorizationRequest,
    /// The browser.
    pub(super) browser: Browser,
    /// Who asks.
    pub(super) client: Client,
    /// For which server.
    pub(super) upstream: &'a Upstream,
}

/// Answers `/login`.
pub async fn login(at: &Endpoints, call: &Call<'_>) -> Answer {
    get_or_post(at, call, show_login, sign_in).await
}

/// Answers `/consent`.
pub async fn consent(at: &Endpoints, call: &Call<'_>) -> Answer {
    get_or_post(at, call, show_consent, decide).await
}

/// Answers `/logout`.
pub async fn logout(at: &Endpoints, call: &Call<'_>) -> Answer {
    get_or_post(at, call, show_logout, sign_out).await
}

// --- /login

async fn show_login(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let parameters = Parameters::of_query(call.request)?;
    let interaction = Interaction::resume(at, call, &parameters).await?;
    if let (Some(_), Some(verifier)) = (&at.config.oauth.login_page, parameters.get("login_verifier")) {
        return login_page::come_back(at, call, &interaction, verifier).await;
    }
    if signed_in_for(at, call, &interaction).await?.is_some() {
        return Ok(interaction.redirect_to(at, "/consent"));
    }
    if at.config.oauth.login_page.is_some() {
        return Ok(interaction.ask_to_sign_in(at).await?);
    }
    let suggested = interaction.request.details.login_hint.as_deref();
    let choose = parameters.get(CHOOSE).map(|_| pages::LoginError::Choose);
    Ok(pages::login(at, &interaction, suggested.unwrap_or_default(), choose))
}

async fn sign_in(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let parameters = own_form(at, call)?;
    let interaction = Interaction::resume(at, call, &parameters).await?;
    if at.config.oauth.login_page.is_some() {
        return Ok(interaction.ask_to_sign_in(at).await?);
    }
    let expected = interaction.form_token(at, Purpose::SignIn, None);
    check_form_token(&parameters, FORM_TOKEN, &expected)?;

    // Phones like to add a space after a name.
    let username = parameters.get("username").unwrap_or_default().trim();
    let password = Zeroizing::new(parameters.get("password").unwrap_or_default().to_owned());
    if username.is_empty() || password.is_empty() {
        return Ok(pages::login(
            at,
            &interaction,
            username,
            Some(pages::LoginError::Incomplete),
        ));
    }
    match at.identity.sign_in(username, password, call.address, at.now()).await {
        SignIn::Success(user) => super::second::after_password(at, call, &interaction, user).await,
        SignIn::MustChange(user) => {
            let passed = Passed {
                subject: user.subject,
                at: at.now(),
            };
            at.store.note_passed(&interaction.id.hash(), &passed).await?;
            tracing::info!(subject = %passed.subject, "a password has to be changed");
            Ok(interaction.redirect_to(at, "/login/password"))
        }
        SignIn::Unavailable(error) => Err(error.into()),
        SignIn::Failure => {
            at.metrics.login(PROVIDER, LoginOutcome::Failure);
            tracing::info!(provider = PROVIDER, address = %call.address, "a sign-in failed");
            at.metrics.audit().note(|| Act {
                by: Some(PROVIDER),
                address: Some(call.address),
                ..Act::new(Event::SignIn, "failure")
            });
            Ok(pages::login(at, &interaction, username, Some(pages::LoginError::Wrong)))
        }
        SignIn::Throttled { retry_after } => {
            at.metrics.login(PROVIDER, LoginOutcome::Throttled);
            tracing::warn!(provider = PROVIDER, address = %call.address, "a sign-in was not tried: too many failures");
            at.metrics.audit().note(|| Act {
                by: Some(PROVIDER),
                address: Some(call.address),
                ..Act::new(Event::SignIn, "throttled")
            });
            let error = pages::LoginError::Throttled(retry_after);
            Ok(pages::login(at, &interaction, username, Some(error)))
        }
    }
}

/// What every way to sign in ends with, once it is certain who it is: a session in this browser, and the next step.
pub(super) async fn identified(
    at: &Endpoints,
    call: &Call<'_>,
    interaction: &Interaction<'_>,
    user: User,
    details: SessionDetails,
) -> Result<Answer, Problem> {
    let (signed_in, headers) = begin(at, call, interaction, user, details).await?;
    let mut answer = go_on(at, interaction, &signed_in).await?;
    answer.headers_mut().extend(headers);
    Ok(answer)
}

/// The session alone, where a page is shown before the next step; with the headers that the page needs.
pub(super) async fn begin(
    at: &Endpoints,
    call: &Call<'_>,
    interaction: &Interaction<'_>,
    user: User,
    details: SessionDetails,
) -> Result<(SignedIn, http::HeaderMap), Problem> {
    at.metrics.login(&details.provider, LoginOutcome::Success);
    tracing::info!(subject = %user.subject, provider = details.provider, "signed in");
    at.metrics.audit().note(|| Act {
        subject: Some(user.subject.as_str()),
        by: Some(&details.provider),
        address: Some(call.address),
        ..Act::new(Event::SignIn, "success")
    });
    let mut headers = http::HeaderMap::new();
    let signed_in = session::sign_in(at, call, user, details, &mut headers).await?;
    at.store.note_sign_in(&interaction.id.hash()).await?;
    Ok((signed_in, headers))
}

/// After a sign-in: the page of ours that waits for it, or a code where this was allowed before, an end where the account may not have it, else the question.
async fn go_on(at: &Endpoints, interaction: &Interaction<'_>, signed_in: &SignedIn) -> Result<Answer, Problem> {
    if let Some(page) = interaction.request.details.page {
        at.store.end_authorization(&interaction.id.hash()).await?;
        return Ok(web::redirect(&path(at, page.path())));
    }
    Ok(match consent::permission(at, interaction, signed_in).await? {
        Permission::Remembered(scope) => consent::approve(at, interaction, signed_in, scope, Ends::Unfinished).await?,
        Permission::Denied(error) => consent::refuse(at, interaction, &error).await?,
        Permission::Ask(_) => interaction.redirect_to(at, "/consent"),
    })
}

// --- /consent

async fn show_consent(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let parameters = Parameters::of_query(call.request)?;
    let interaction = Interaction::resume(at, call, &parameters).await?;
    let Some(signed_in) = signed_in_for(at, call, &interaction).await? else {
        return Ok(interaction.redirect_to(at, "/login"));
    };
    if interaction.request.details.page.is_some() {
        return go_on(at, &interaction, &signed_in).await;
    }
    Ok(match consent::permission(at, &interaction, &signed_in).await? {
        Permission::Ask(question) => pages::consent(at, &interaction, &signed_in, &question),
        Permission::Remembered(scope) => {
            let question = Question {
                scope,
                already: Scope::empty(),
            };
            pages::consent(at, &interaction, &signed_in, &question)
        }
        Permission::Denied(error) => consent::refuse(at, &interaction, &error).await?,
    })
}

async fn decide(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let parameters = own_form(at, call)?;
    let interaction = Interaction::resume(at, call, &parameters).await?;
    let Some(signed_in) = signed_in_for(at, call, &interaction).await? else {
        return Ok(interaction.redirect_to(at, "/login"));
    };
    let expected = interaction.form_token(at, Purpose::Consent, Some(&signed_in));
    check_form_token(&parameters, FORM_TOKEN, &expected)?;
    if interaction.request.details.page.is_some() {
        return go_on(at, &interaction, &signed_in).await;
    }
    match parameters.get("decision") {
        Some("approve") => {}
        Some("deny") => {
            let error = OAuthError::new(ErrorCode::AccessDenied, "the person denied the request");
            return Ok(consent::refuse(at, &interaction, &error).await?);
        }
        _ => return Err(OAuthError::invalid_request("decision must be approve or deny").into()),
    }
    Ok(match consent::permission(at, &interaction, &signed_in).await? {
        Permission::Ask(Question { scope, .. }) | Permission::Remembered(scope) => {
            consent::approve(at, &interaction, &signed_in, scope, Ends::Unfinished).await?
        }
        Permission::Denied(error) => consent::refuse(at, &interaction, &error).await?,
    })
}

// --- /logout

async fn show_logout(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    Ok(match session::signed_in(at, call).await? {
        Some(signed_in) => pages::logout(at, &signed_in),
        None => pages::signed_out(at),
    })
}

/// Ends the session. With an unfinished authorization it goes back to the sign-in page: "use another account".
async fn sign_out(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let parameters = own_form(at, call)?;
    let unfinished = parameters
        .get("request")
        .and_then(|id| Secret::parse(SecretKind::Authorization, id));
    let Some(signed_in) = session::signed_in(at, call).await? else {
        return Ok(unfinished.map_or_else(|| pages::signed_out(at), |id| choose_another(at, &id)));
    };
    check_form_token(&parameters, SIGN_OUT_TOKEN, &sign_out_token(at, &signed_in))?;
    let mut answer = unfinished
        .as_ref()
        .map_or_else(|| pages::signed_out(at), |id| choose_another(at, id));
    session::sign_out(at, &signed_in, answer.headers_mut()).await?;
    if unfinished.is_none() {
        browser::forget(at, answer.headers_mut());
    }
    tracing::info!(subject = %signed_in.user.subject, "signed out");
    at.metrics.audit().note(|| Act {
        subject: Some(signed_in.user.subject.as_str()),
        ..Act::new(Event::SignOut, "done")
    });
    Ok(answer)
}

/// Has somebody sign in for a page of ours: an authorization like any other, but that no client hears of it.
pub(super) async fn sign_in_for(at: &Endpoints, call: &Call<'_>, page: OwnPage) -> Result<Answer, Problem> {
    begin_for(at, call, page, false).await
}

/// The same for somebody who is signed in, but not recently enough for what they want to do.
pub(super) async fn sign_in_again_for(at: &Endpoints, call: &Call<'_>, page: OwnPage) -> Result<Answer, Problem> {
    begin_for(at, call, page, true).await
}

async fn begin_for(at: &Endpoints, call: &Call<'_>, page: OwnPage, again: bool) -> Result<Answer, Problem> {
    let upstream = at.config.upstreams.first().ok_or_else(Problem::lapsed)?;
    let browser = Browser::of_or_new(at, call);
    let client = Client::own_page();
    let now = at.now();
    let interaction = Interaction {
        id: Secret::generate(SecretKind::Authorization),
        request: AuthorizationRequest {
            client_id: client.id.clone(),
            redirect: RedirectTarget::page_of_ours(at.config.endpoint(page.path())),
            state: None,
            code_challenge: None,
            scope: Scope::empty(),
            resource: upstream.resource.clone(),
            browser: browser.hash(),
            sign_in_again: again,
            ask_again: false,
            details: RequestDetails {
                page: Some(page),
                source: Some(browser::source(at, call)),
                ..RequestDetails::default()
            },
            created_at: now,
            expires_at: now.plus(Duration::from_secs(browser::LIFETIME)),
        },
        browser,
        client,
        upstream,
    };
    at.store
        .begin_authorization(&interaction.id.hash(), &interaction.request)
        .await?;
    let mut answer = interaction.ask_to_sign_in(at).await?;
    interaction.browser.remember(at, answer.headers_mut());
    Ok(answer)
}

/// The token of a form that signs out.
pub(super) fn sign_out_token(at: &Endpoints, signed_in: &SignedIn) -> String {
    browser::session_token(at, Purpose::SignOut, &signed_in.id)
}

// --- common to all

/// The answer of a page: what is shown, or what becomes of its form.
pub(super) async fn get_or_post(
    at: &Endpoints,
    call: &Call<'_>,
    shown: impl AsyncFnOnce(&Endpoints, &Call<'_>) -> Result<Answer, Problem>,
    posted: impl AsyncFnOnce(&Endpoints, &Call<'_>) -> Result<Answer, Problem>,
) -> Answer {
    let answer = if *call.request.method() == Method::POST {
        posted(at, call).await
    } else {
        shown(at, call).await
    };
    answer.unwrap_or_else(|problem| problem.answer(at))
}

/// The parameters of a form that a page of ours can have sent.
pub(super) fn own_form(at: &Endpoints, call: &Call<'_>) -> Result<Parameters, Problem> {
    if !browser::is_own_form(at, call.request.headers()) {
        return Err(Problem::foreign_form(at));
    }
    Ok(Parameters::of_own_form(call.request)?)
}

pub(super) fn check_form_token(parameters: &Parameters, name: &str, expected: &str) -> Result<(), Problem> {
    match parameters.get(name) {
        Some(presented) if browser::equal(presented, expected) => Ok(()),
        _ => Err(Problem::stale_form()),
    }
}

/// Who is signed in, as far as that serves this request: the client may want them to sign in again.
async fn signed_in_for(
    at: &Endpoints,
    call: &Call<'_>,
    interaction: &Interaction<'_>,
) -> Result<Option<SignedIn>, StoreError> {
    if interaction.request.sign_in_again {
        return Ok(None);
    }
    session::signed_in(at, call).await
}

/// The address of a step, on this gateway: the id is made of letters that need no encoding.
fn step(at: &Endpoints, page: &str, id: &Secret) -> Answer {
    web::redirect(&format!("{}?request={}", path(at, page), id.expose()))
}

/// The sign-in page for somebody who wants to be somebody else: a provider would take the account that they have there open.
fn choose_another(at: &Endpoints, id: &Secret) -> Answer {
    web::redirect(&format!("{}?request={}&{CHOOSE}=1", path(at, "/login"), id.expose()))
}

/// The path of a page of ours.
pub(super) fn path(at: &Endpoints, page: &str) -> String {
    format!("{}{page}", at.config.oauth.endpoint_prefix)
}

// === impl Interaction ===

impl<'a> Interaction<'a> {
    /// The unfinished authorization that a request names, if its browser began it and it still stands.
    pub(super) async fn resume(at: &'a Endpoints, call: &Call<'_>, parameters: &Parameters) -> Result<Self, Problem> {
        let id = parameters.get("request").ok_or_else(Problem::no_request)?;
        let id = Secret::parse(SecretKind::Authorization, id).ok_or_else(Problem::no_request)?;
        Self::resume_id(at, call, id).await
    }

    /// The same by its id.
    pub(super) async fn resume_id(at: &'a Endpoints, call: &Call<'_>, id: Secret) -> Result<Self, Problem> {
        let browser = Browser::of(at, call).ok_or_else(Problem::other_browser)?;
        let request = at
            .store
            .authorization(&id.hash())
            .await?
            .filter(|request| at.now() < request.expires_at)
            .ok_or_else(Problem::lapsed)?;
        if request.browser != browser.hash() {
            return Err(Problem::other_browser());
        }
        if request.details.page.is_some() {
            let upstream = at.config.upstreams.first().ok_or_else(Problem::lapsed)?;
            let client = Client::own_page();
            return Ok(Self {
                id,
                request,
                browser,
                client,
                upstream,
            });
        }
        let gone = |what| Problem::of_request(&OAuthError::new(ErrorCode::InvalidClient, what));
        let client = at.find_client(&request.client_id, Patience::LENIENT).await?;
        let client = client.ok_or_else(|| gone("the client is not registered here any more"))?;
        // A document may have changed meanwhile. A device is not redirected to.
        if request.details.device.is_none() && client.redirect_target(request.redirect.as_str()).is_none() {
            return Err(gone("the redirect URI is not one of this client any more"));
        }
        let upstream = at.config.upstream_for(&request.resource).ok_or_else(Problem::lapsed)?;
        Ok(Self {
            id,
            request,
            browser,
            client,
            upstream,
        })
    }

    /// Sends the browser to the next step.
    pub(super) fn redirect_to(&self, at: &Endpoints, page: &str) -> Answer {
        step(at, page, &self.id)
    }

    /// Sends the browser to where its person signs in.
    pub(super) async fn ask_to_sign_in(&self, at: &Endpoints) -> Result<Answer, OAuthError> {
        match &at.config.oauth.login_page {
            Some(page) => login_page::send(at, page, self).await,
            None => Ok(self.redirect_to(at, "/login")),
        }
    }

    /// The token of a form for this authorization in this browser, and for this session if there is one.
    pub(super) fn form_token(&self, at: &Endpoints, purpose: Purpose, signed_in: Option<&SignedIn>) -> String {
        self.browser
            .form_token(at, purpose, &self.id.hash(), signed_in.map(|signed_in| &signed_in.id))
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        unavailable(error).into()
    }
}

impl From<OAuthError> for Problem {
    fn from(error: OAuthError) -> Self {
        web::log_cause(&error);
        Self::of_request(&error)
    }
}

impl pages::LoginError {
    /// RFC 9110 §15.5.2, without a challenge: browsers would open a dialogue of their own.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Incomplete | Self::Wrong => StatusCode::UNAUTHORIZED,
            Self::Throttled(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NotAllowed(_) => StatusCode::FORBIDDEN,
            Self::Cancelled | Self::Choose => StatusCode::OK,
            Self::ProviderFailed => StatusCode::BAD_GATEWAY,
            Self::ProviderSilent => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}
