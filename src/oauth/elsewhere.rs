//! The way to an identity provider and back: `/login/provider/<id>` and `/login/callback/<id>`.
//!
//! ```text
//! sign-in page ──POST, form token──▶ provider ──GET code, state──▶ callback ──▶ session, and the next step
//! ```
//! Pressing the button is the consent to the client that has to come before any such trip: the page names the client, the
//! server and where the answer goes. `state` is the id of the unfinished authorization, sealed for this browser and this
//! provider; nonce and PKCE verifier are computed from it, so that nothing has to be kept and all of it survives a restart.
//! It is good for one return.

use http::Method;

use super::browser::{self, Browser, Purpose};
use super::interaction::{self, Interaction, check_form_token, identified, own_form};
use super::pages::{self, LoginError, Problem};
use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints};
use crate::config::IdentityProvider;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::person::{Person, SessionDetails, Source};
use crate::domain::secret::{Secret, SecretHash, SecretKind};
use crate::domain::user::{Subject, User};
use crate::identity::elsewhere::{Arrival, Failure, Trip, again};
use crate::jose::seal::Sealer;
use crate::store::{Admitted, Once, StoreError};
use crate::telemetry::LoginOutcome;
use crate::telemetry::audit::{Act, Event};

/// Where the way to a provider begins.
pub const START: &str = "/login/provider/";
/// Where it ends.
pub const CALLBACK: &str = "/login/callback/";
/// The input that says that somebody wants to choose another account.
pub(super) const CHOOSE: &str = "choose";
/// Longest `code` and `state` that are looked at.
const MAX_PARAMETER: usize = 8 << 10;

/// What goes along to the provider and comes back.
struct State(String);

/// Answers `/login/provider/<id>`.
pub async fn start(at: &Endpoints, call: &Call<'_>) -> Answer {
    let answer = if *call.request.method() == Method::POST {
        leave(at, call).await
    } else {
        Err(Problem::no_request())
    };
    answer.unwrap_or_else(|problem| problem.answer(at))
}

/// Answers `/login/callback/<id>`.
pub async fn callback(at: &Endpoints, call: &Call<'_>) -> Answer {
    arrive(at, call).await.unwrap_or_else(|problem| problem.answer(at))
}

/// Sends the browser to the provider.
async fn leave(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let provider = provider(at, call)?;
    let parameters = own_form(at, call)?;
    let interaction = Interaction::resume(at, call, &parameters).await?;
    let expected = interaction.form_token(at, Purpose::Elsewhere, None);
    check_form_token(&parameters, interaction::FORM_TOKEN, &expected)?;
    let state = State::new(at, provider, &interaction).ok_or_else(Problem::lapsed)?;
    let (nonce, verifier) = state.derived(at);
    let redirect_uri = redirect_uri(at, provider);
    let trip = Trip {
        choose: parameters.get(CHOOSE).is_some(),
        ..trip(&interaction, &redirect_uri, &state, (&nonce, &verifier))
    };
    match at.remote.providers.way_to(provider, trip).await {
        Ok(url) => {
            let mut answer = web::redirect(url.as_str());
            // Another ten minutes, for those who have to look for their second factor there.
            interaction.browser.remember(at, answer.headers_mut());
            Ok(answer)
        }
        Err(failure) => Ok(failed(at, call, provider, &interaction, &failure)),
    }
}

/// Takes back a browser that comes from the provider.
async fn arrive(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let provider = provider(at, call)?;
    let parameters = Parameters::of_query(call.request)?;
    let state = parameters.get("state").ok_or_else(Problem::no_request)?;
    let state = State(state.to_owned());
    let browser = Browser::of(at, call).ok_or_else(Problem::other_browser)?;
    let id = state.open(at, provider, &browser).ok_or_else(Problem::other_browser)?;
    let interaction = Interaction::resume_id(at, call, id).await?;
    let Some(code) = parameters.get("code").filter(|_| parameters.get("error").is_none()) else {
        let error = parameters.get("error").unwrap_or_default();
        let failure = if error == "access_denied" {
            LoginError::Cancelled
        } else {
            LoginError::ProviderFailed
        };
        at.metrics.login(&provider.id, LoginOutcome::Failure);
        tracing::info!(provider = provider.id, address = %call.address, code = known_code(error), "a provider sent somebody back without a code");
        return Ok(pages::login(at, &interaction, "", Some(failure)));
    };
    if code.len() > MAX_PARAMETER {
        return Err(OAuthError::invalid_request("code is too long").into());
    }
    let once = SecretHash::of(&format!("trip\0{}", state.0));
    match at.store.use_once(&once, interaction.request.expires_at).await? {
        Once::First => {}
        Once::Again => return Err(Problem::lapsed()),
        Once::Full => {
            let full = OAuthError::new(ErrorCode::TemporarilyUnavailable, "too many people sign in at present");
            return Err(full.into());
        }
    }
    let (nonce, verifier) = state.derived(at);
    let redirect_uri = redirect_uri(at, provider);
    let trip = trip(&interaction, &redirect_uri, &state, (&nonce, &verifier));
    let iss = parameters.get("iss");
    let arrived = at.remote.providers.arrived(provider, code, iss, trip, at.now()).await;
    match arrived {
        Ok(arrival) => admit(at, call, provider, &interaction, arrival).await,
        Err(failure) => Ok(failed(at, call, provider, &interaction, &failure)),
    }
}

/// Puts somebody on record who has arrived, and signs them in.
async fn admit(
    at: &Endpoints,
    call: &Call<'_>,
    provider: &IdentityProvider,
    interaction: &Interaction<'_>,
    arrival: Arrival,
) -> Result<Answer, Problem> {
    let now = at.now();
    let user = with_own_name(at, arrival.user).await?;
    let before = at.store.person(&user.subject).await?;
    if before.as_ref().is_some_and(|person| person.disabled) {
        note(at, call, provider, LoginOutcome::Denied, Some(&user.subject));
        tracing::warn!(subject = %user.subject, "somebody who is disabled wanted to sign in");
        return Ok(pages::login(at, interaction, "", Some(LoginError::NotAllowed(None))));
    }
    let token = arrival.token.as_deref().map(String::as_str);
    let person = Person {
        link: Some(again::link(provider, &user.subject, token, before.as_ref(), now)),
        signed_in_at: Some(now),
        ..Person::new(user.clone(), Source::Provider(provider.id.clone()), now)
    };
    match at.store.admit_person(&person).await? {
        Admitted::Kept => {}
        Admitted::Taken => {
            note(at, call, provider, LoginOutcome::Denied, Some(&user.subject));
            tracing::warn!(subject = %user.subject, "somebody wanted to sign in under the name of an account with a password here");
            return Ok(pages::login(at, interaction, "", Some(LoginError::NotAllowed(None))));
        }
        Admitted::Full => {
            let full = OAuthError::new(ErrorCode::TemporarilyUnavailable, "too many people are known here");
            return Err(full.because("no more people can be put on record").into());
        }
    }
    let details = SessionDetails {
        provider: provider.id.clone(),
        methods: arrival.methods,
        provider_session: arrival.session,
        ..SessionDetails::default()
    };
    identified(at, call, interaction, user, details).await
}

/// The person without a username that an account of ours has: upstreams may go by it.
async fn with_own_name(at: &Endpoints, user: User) -> Result<User, StoreError> {
    let Some(local) = Subject::of_username(&user.username) else {
        return Ok(user);
    };
    let configured = at.config.users.iter().any(|account| account.user.subject == local);
    if configured || at.store.person(&local).await?.is_some() {
        let username = user.subject.to_string();
        return Ok(User { username, ..user });
    }
    Ok(user)
}

/// Says that nobody has arrived: to the person in a sentence, to the operator with the reason.
fn failed(
    at: &Endpoints,
    call: &Call<'_>,
    provider: &IdentityProvider,
    interaction: &Interaction<'_>,
    failure: &Failure,
) -> Answer {
    let (error, outcome) = match failure {
        Failure::Unreachable { .. } => (LoginError::ProviderSilent, LoginOutcome::Error),
        Failure::Wrong(_) => (LoginError::ProviderFailed, LoginOutcome::Error),
        Failure::Refused(_) => (LoginError::ProviderFailed, LoginOutcome::Failure),
        Failure::NotAllowed(why) => (LoginError::NotAllowed(Some(*why)), LoginOutcome::Denied),
    };
    note(at, call, provider, outcome, None);
    tracing::warn!(provider = provider.id, address = %call.address, reason = %failure, "nobody was signed in by a provider");
    pages::login(at, interaction, "", Some(error))
}

/// Counts a sign-in that nobody came of, and writes it down.
fn note(
    at: &Endpoints,
    call: &Call<'_>,
    provider: &IdentityProvider,
    outcome: LoginOutcome,
    subject: Option<&Subject>,
) {
    at.metrics.login(&provider.id, outcome);
    at.metrics.audit().note(|| Act {
        subject: subject.map(Subject::as_str),
        by: Some(&provider.id),
        address: Some(call.address),
        ..Act::new(Event::SignIn, outcome.as_str())
    });
}

fn trip<'a>(
    interaction: &'a Interaction<'_>,
    redirect_uri: &'a str,
    state: &'a State,
    (nonce, verifier): (&'a str, &'a str),
) -> Trip<'a> {
    let request = &interaction.request;
    Trip {
        redirect_uri,
        state: &state.0,
        nonce,
        verifier,
        again: request.sign_in_again,
        choose: false,
        max_age: request.details.max_age,
        login_hint: request.details.login_hint.as_deref(),
        begun_at: request.created_at,
    }
}

fn provider<'a>(at: &'a Endpoints, call: &Call<'_>) -> Result<&'a IdentityProvider, Problem> {
    at.config
        .identity_provider(call.about)
        .ok_or_else(Problem::no_such_provider)
}

/// What operators register at the provider.
fn redirect_uri(at: &Endpoints, provider: &IdentityProvider) -> String {
    at.config.endpoint(&format!("{CALLBACK}{}", provider.id))
}

/// An error code of the provider's, if it is one that somebody could have registered.
fn known_code(text: &str) -> &str {
    let fine = !text.is_empty() && text.len() <= 40 && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if fine { text } else { "none" }
}

// === impl State ===

impl State {
    /// A new one for every trip. `None` if it cannot be sealed.
    fn new(at: &Endpoints, provider: &IdentityProvider, interaction: &Interaction<'_>) -> Option<Self> {
        let owner = owner(at, provider, &interaction.browser);
        let sealed = sealer(at)?.seal(interaction.id.expose().as_bytes(), &owner).ok()?;
        Some(Self(sealed))
    }

    /// The unfinished authorization, if this browser went to this provider with it.
    fn open(&self, at: &Endpoints, provider: &IdentityProvider, browser: &Browser) -> Option<Secret> {
        if self.0.len() > MAX_PARAMETER {
            return None;
        }
        let opened = sealer(at)?.open(&self.0, &owner(at, provider, browser))?;
        Secret::parse(SecretKind::Authorization, std::str::from_utf8(&opened).ok()?)
    }

    /// Nonce and PKCE verifier of this trip.
    fn derived(&self, at: &Endpoints) -> (String, String) {
        let part = |name: &[u8]| browser::sign(at, &[name, self.0.as_bytes()]);
        (part(b"trip nonce"), part(b"trip verifier"))
    }
}

fn sealer(at: &Endpoints) -> Option<Sealer> {
    Sealer::new(&at.signing_key, "trip to a provider").ok()
}

fn owner(at: &Endpoints, provider: &IdentityProvider, browser: &Browser) -> String {
    browser::sign(at, &[b"trip owner", provider.id.as_bytes(), browser.hash().as_bytes()])
}
