//! A sign-in page of the operator's own: whoever has to sign in is sent there with a challenge, and its server says who
//! they are, or that they may not.
//!
//! ```text
//!  browser ── /authorize ──▶ page?login_challenge=… ── signs in there ──▶ (redirect_to) /login?request=…&login_verifier=… ──▶ consent
//!                                     page's server ── POST /login/accept {login_challenge, subject} ──▶ {redirect_to}
//! ```
//! The challenge is good for one answer and the last that was given out for an authorization. What was answered counts only in
//! the browser that began (its cookie), and only with the verifier, which only the browser that signed in has been given: whoever has
//! somebody else sign in at their challenge, or signs in at somebody else's, gets nowhere.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use form_urlencoded::Serializer;
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use super::interaction::{Interaction, identified};
use super::pages::Problem;
use super::{Answer, Call, Endpoints, consent, not_found, unavailable, web};
use crate::config::LoginPage;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{LoginAnswer, LoginVerdict};
use crate::domain::person::{Person, SessionDetails, Source};
use crate::domain::secret::{Secret, SecretHash, SecretKind, random_bytes};
use crate::domain::user::{Subject, User};
use crate::store::{Admitted, Answered};
use crate::telemetry::audit::{Act, Event};

/// What metrics and sessions call this way to sign in.
pub(super) const PROVIDER: &str = "login_page";
/// Most characters of a name or of a group.
const MAX_NAME: usize = 256;
/// Most groups of one person.
const MAX_GROUPS: usize = 200;
/// Most characters of what a page says about a refusal.
const MAX_DESCRIPTION: usize = 300;

/// What a page's server posts when somebody has signed in.
#[derive(Deserialize)]
struct Accept {
    login_challenge: String,
    subject: String,
    username: Option<String>,
    email: Option<String>,
    name: Option<String>,
    groups: Option<Vec<String>>,
}

/// What it posts when nobody may.
#[derive(Deserialize)]
struct Reject {
    login_challenge: String,
    error: Option<String>,
    error_description: Option<String>,
}

/// An error of these two endpoints, which no client sees.
struct Wrong {
    status: StatusCode,
    error: &'static str,
    description: String,
}

type Outcome<T> = Result<T, Wrong>;

// --- the browser

/// Sends the browser to the page, with a new challenge in place of the one before.
pub(super) async fn send(at: &Endpoints, page: &LoginPage, about: &Interaction<'_>) -> Result<Answer, OAuthError> {
    let nonce = URL_SAFE_NO_PAD.encode(random_bytes::<32>());
    at.store
        .begin_login(&about.id.hash(), &SecretHash::of(&nonce))
        .await
        .map_err(unavailable)?;
    let mut query = Serializer::new(String::new());
    query.append_pair("login_challenge", &format!("{}.{nonce}", about.id.expose()));
    let name = about.client.name.as_deref().unwrap_or_else(|| about.client.id.as_str());
    query.append_pair("client_name", &name.chars().take(MAX_NAME).collect::<String>());
    if about.request.sign_in_again {
        query.append_pair("prompt", "login");
    }
    if let Some(hint) = &about.request.details.login_hint {
        query.append_pair("login_hint", hint);
    }
    let separator = if page.url.contains('?') { '&' } else { '?' };
    Ok(web::redirect(&format!("{}{separator}{}", page.url, query.finish())))
}

/// What the page has said of the browser that comes back from it, once.
pub(super) async fn come_back(
    at: &Endpoints,
    call: &Call<'_>,
    about: &Interaction<'_>,
    verifier: &str,
) -> Result<Answer, Problem> {
    let said = at.store.take_login(&about.id.hash(), &SecretHash::of(verifier)).await?;
    match said {
        None => Err(Problem::lapsed()),
        Some(LoginVerdict::Rejected { error, description }) => {
            at.metrics.audit().note(|| Act {
                by: Some(PROVIDER),
                address: Some(call.address),
                ..Act::new(Event::SignIn, "denied")
            });
            let code = ErrorCode::of_authorization(&error).unwrap_or(ErrorCode::AccessDenied);
            let error = OAuthError::new(code, description);
            Ok(consent::refuse(at, about, &error).await?)
        }
        Some(LoginVerdict::Accepted(user)) => {
            let now = at.now();
            let person = Person {
                signed_in_at: Some(now),
                ..Person::new(user.clone(), Source::LoginPage, now)
            };
            let refusal = || OAuthError::new(ErrorCode::AccessDenied, "this account may not sign in");
            match at.store.admit_person(&person).await? {
                Admitted::Kept => {}
                Admitted::Taken => {
                    let why = "the page named somebody who has an account with a password here: \
                               remove that one (mcpgate users remove), or have the page use another subject";
                    tracing::warn!(subject = %user.subject, "{why}");
                    at.metrics.audit().note(|| Act {
                        subject: Some(user.subject.as_str()),
                        by: Some(PROVIDER),
                        address: Some(call.address),
                        ..Act::new(Event::SignIn, "denied")
                    });
                    return Ok(consent::refuse(at, about, &refusal()).await?);
                }
                Admitted::Full => {
                    let full = OAuthError::new(ErrorCode::TemporarilyUnavailable, "nobody new can sign in at present");
                    return Err(full.because("the store is full of people").into());
                }
            }
            // An administrator may have disabled them.
            let Some(user) = at.identity.user(&user.subject).await? else {
                return Ok(consent::refuse(at, about, &refusal()).await?);
            };
            let details = SessionDetails {
                provider: PROVIDER.to_owned(),
                ..SessionDetails::default()
            };
            identified(at, call, about, user, details).await
        }
    }
}

// --- the page's server

/// Answers `/login/accept`.
pub async fn accept(at: &Endpoints, call: &Call<'_>) -> Answer {
    let Some(page) = &at.config.oauth.login_page else {
        return not_found();
    };
    finish(accepted(at, page, call).await)
}

/// Answers `/login/reject`.
pub async fn reject(at: &Endpoints, call: &Call<'_>) -> Answer {
    let Some(page) = &at.config.oauth.login_page else {
        return not_found();
    };
    finish(rejected(at, page, call).await)
}

async fn accepted(at: &Endpoints, page: &LoginPage, call: &Call<'_>) -> Outcome<String> {
    authenticate(page, call)?;
    let posted: Accept = body(call)?;
    let user = user(&posted)?;
    // Whoever is disabled hears of it in their browser, not whoever asks here.
    answer(at, &posted.login_challenge, LoginVerdict::Accepted(user)).await
}

async fn rejected(at: &Endpoints, page: &LoginPage, call: &Call<'_>) -> Outcome<String> {
    authenticate(page, call)?;
    let posted: Reject = body(call)?;
    // A name that clients would not know is none; its words are passed on.
    let named = posted.error.as_deref().and_then(ErrorCode::of_authorization);
    let error = named.unwrap_or(ErrorCode::AccessDenied).as_str().to_owned();
    let description = posted.error_description.as_deref();
    let description = description
        .or(posted.error.as_deref())
        .unwrap_or("the sign-in was refused");
    // RFC 6749 §4.1.2.1 has no other characters in it.
    let description: String = description
        .chars()
        .filter(|c| (' '..='~').contains(c) && *c != '"' && *c != '\\')
        .take(MAX_DESCRIPTION)
        .collect();
    answer(
        at,
        &posted.login_challenge,
        LoginVerdict::Rejected { error, description },
    )
    .await
}

/// Whether it is the page's server that asks.
fn authenticate(page: &LoginPage, call: &Call<'_>) -> Outcome<()> {
    // A secret may have characters in it that no token of ours has.
    let header = call.request.headers().get(header::AUTHORIZATION);
    let text = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = text
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map_or("", |(_, token)| token.trim());
    let fits: bool = SecretHash::of(token).as_bytes().ct_eq(page.secret.as_bytes()).into();
    if fits {
        return Ok(());
    }
    tracing::warn!(address = %call.address, "an answer of the sign-in page came without its secret");
    Err(Wrong {
        status: StatusCode::UNAUTHORIZED,
        error: "unauthorized",
        description: "the secret of oauth.login_page belongs into the Authorization header, as Bearer".to_owned(),
    })
}

fn body<'a, T: Deserialize<'a>>(call: &Call<'a>) -> Outcome<T> {
    let types = call.request.headers().get(header::CONTENT_TYPE);
    let essence = types.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = essence.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(wrong("the body must be application/json"));
    }
    // The parser's words may quote what is in it.
    serde_json::from_slice(call.request.body()).map_err(|error| {
        wrong(&format!(
            "the body is not what it should be: line {}, column {}",
            error.line(),
            error.column()
        ))
    })
}

/// Who has signed in.
fn user(posted: &Accept) -> Outcome<User> {
    let subject = Subject::named(&posted.subject).ok_or_else(|| {
        wrong("subject must be 1 to 320 bytes without control characters or space around them, and not begin with `client:`")
    })?;
    let username = plain("username", posted.username.as_deref())?.unwrap_or_else(|| subject.to_string());
    let groups = posted.groups.as_deref().unwrap_or_default();
    if groups.len() > MAX_GROUPS {
        return Err(wrong("groups are more than 200"));
    }
    let mut known = Vec::with_capacity(groups.len());
    for group in groups {
        known.extend(plain("groups", Some(group))?);
    }
    Ok(User {
        subject,
        username,
        email: plain("email", posted.email.as_deref())?,
        name: plain("name", posted.name.as_deref())?,
        groups: known,
    })
}

/// A text about somebody; nothing if it is empty.
fn plain(what: &str, text: Option<&str>) -> Outcome<Option<String>> {
    let text = text.map(str::trim).filter(|text| !text.is_empty());
    if text.is_some_and(|text| text.chars().count() > MAX_NAME || text.chars().any(char::is_control)) {
        return Err(wrong(&format!(
            "{what} is longer than 256 characters, or has control characters"
        )));
    }
    Ok(text.map(str::to_owned))
}

/// Puts an answer on record, and says where the browser goes with it.
async fn answer(at: &Endpoints, challenge: &str, verdict: LoginVerdict) -> Outcome<String> {
    let unknown = || Wrong {
        status: StatusCode::NOT_FOUND,
        error: "unknown_challenge",
        description: "the login_challenge is not known, has lapsed, or was replaced by a newer one".to_owned(),
    };
    let (id, nonce) = challenge.split_once('.').ok_or_else(unknown)?;
    let id = Secret::parse(SecretKind::Authorization, id).ok_or_else(unknown)?;
    let verifier = Secret::generate(SecretKind::LoginVerifier);
    let answer = LoginAnswer {
        verifier: verifier.hash(),
        verdict,
    };
    let done = at
        .store
        .answer_login(&id.hash(), &SecretHash::of(nonce), &answer, at.now())
        .await;
    match done.map_err(|error| {
        tracing::error!(%error, "an answer of the sign-in page could not be kept");
        Wrong {
            status: StatusCode::SERVICE_UNAVAILABLE,
            error: "temporarily_unavailable",
            description: "the gateway cannot reach its store; try again shortly".to_owned(),
        }
    })? {
        Answered::Done => Ok(format!(
            "{}?request={}&login_verifier={}",
            at.config.endpoint("/login"),
            id.expose(),
            verifier.expose()
        )),
        Answered::Before => Err(Wrong {
            status: StatusCode::CONFLICT,
            error: "challenge_used",
            description: "the login_challenge was answered before".to_owned(),
        }),
        Answered::Unknown => Err(unknown()),
    }
}

fn finish(outcome: Outcome<String>) -> Answer {
    match outcome {
        Ok(redirect_to) => web::json_no_store(StatusCode::OK, &json!({ "redirect_to": redirect_to })),
        Err(wrong) => {
            let body = json!({ "error": wrong.error, "error_description": wrong.description });
            let mut answer = web::json_no_store(wrong.status, &body);
            if wrong.status == StatusCode::SERVICE_UNAVAILABLE {
                answer
                    .headers_mut()
                    .insert(header::RETRY_AFTER, http::HeaderValue::from_static("5"));
            }
            if wrong.status == StatusCode::UNAUTHORIZED {
                answer
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
            }
            answer
        }
    }
}

fn wrong(description: &str) -> Wrong {
    Wrong {
        status: StatusCode::BAD_REQUEST,
        error: "invalid_request",
        description: description.to_owned(),
    }
}
