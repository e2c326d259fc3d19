//! The second factor: at sign-in, where nobody is signed in and no code is given before it was shown, and on the page on which
//! it is set up.

use http::Method;

use super::account::RECENT;
use super::browser::{self, Purpose};
use super::interaction::{
    FORM_TOKEN, Interaction, PROVIDER, begin, check_form_token, identified, own_form, path, sign_in_again_for,
    sign_in_for,
};
use super::pages::{Problem, second as page};
use super::session::{self, SignedIn};
use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints};
use crate::config::SecondFactor;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::OwnPage;
use crate::domain::person::{Passed, SessionDetails};
use crate::domain::user::User;
use crate::identity::second::{Second, SecondError};
use crate::telemetry::LoginOutcome;
use crate::telemetry::audit::{Act, Event};

/// What follows a right password: the second factor, if there is one or has to be, else a session.
pub(super) async fn after_password(
    at: &Endpoints,
    call: &Call<'_>,
    about: &Interaction<'_>,
    user: User,
) -> Result<Answer, Problem> {
    let wanted = match at.config.second_factor {
        SecondFactor::Off => false,
        SecondFactor::Optional => at.store.factors(&user.subject).await?.is_some(),
        SecondFactor::Required => true,
    };
    if !wanted {
        return identified(at, call, about, user, details(&["pwd"])).await;
    }
    let passed = Passed {
        subject: user.subject,
        at: at.now(),
    };
    at.store.note_passed(&about.id.hash(), &passed).await?;
    Ok(about.redirect_to(at, "/login/second"))
}

fn details(methods: &[&str]) -> SessionDetails {
    SessionDetails {
        provider: PROVIDER.to_owned(),
        methods: methods.iter().map(|&method| method.to_owned()).collect(),
        ..SessionDetails::default()
    }
}

// --- at sign-in

/// Answers `/login/second`.
pub async fn at_sign_in(at: &Endpoints, call: &Call<'_>) -> Answer {
    let answer = if *call.request.method() == Method::POST {
        try_it(at, call).await
    } else {
        ask(at, call).await
    };
    answer.unwrap_or_else(|problem| problem.answer(at))
}

/// Who has shown their password for an authorization, in the browser that began it, and may sign in with a second factor.
async fn passed<'a>(
    at: &'a Endpoints,
    call: &Call<'_>,
    parameters: &Parameters,
) -> Result<(Interaction<'a>, Passed, User), Problem> {
    let about = Interaction::resume(at, call, parameters).await?;
    let passed = about.request.details.passed.clone().ok_or_else(Problem::lapsed)?;
    // A password that somebody else chose is changed first.
    let account = super::password::account(at, &passed.subject).await?;
    if account.is_some_and(|person| person.must_change) {
        return Err(Problem::lapsed());
    }
    let user = at.identity.user(&passed.subject).await?.ok_or_else(Problem::lapsed)?;
    Ok((about, passed, user))
}

async fn ask(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let (about, passed, user) = passed(at, call, &Parameters::of_query(call.request)?).await?;
    if at.store.factors(&passed.subject).await?.is_some() {
        return Ok(page::ask(at, &about, None));
    }
    if at.config.second_factor != SecondFactor::Required {
        return Err(Problem::lapsed());
    }
    let offer = at.identity.offer(&user.subject, about.id.expose()).await;
    let offer = offer.map_err(|error| failed(&error))?;
    let token = about.form_token(at, Purpose::Second, None);
    Ok(page::set_up(
        at,
        &page::Setting {
            token: &token,
            about: Some(&about),
            user: &user,
            offer: &offer,
        },
        None,
    ))
}

async fn try_it(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let form = own_form(at, call)?;
    let (about, passed, user) = passed(at, call, &form).await?;
    let token = about.form_token(at, Purpose::Second, None);
    check_form_token(&form, FORM_TOKEN, &token)?;
    let typed = form.get("code").unwrap_or_default();
    if at.store.factors(&passed.subject).await?.is_none() {
        return set_up_first(at, call, &form, (&about, &passed, user)).await;
    }
    match at.identity.second(&passed.subject, typed, call.address, at.now()).await {
        Ok(Second::Shown(method)) => {
            if !at.store.take_passed(&about.id.hash(), &passed).await? {
                return Err(Problem::lapsed());
            }
            identified(at, call, &about, user, details(&["pwd", method])).await
        }
        Ok(Second::Wrong) => {
            at.metrics.login(PROVIDER, LoginOutcome::Failure);
            tracing::info!(subject = %passed.subject, address = %call.address, "a second factor was wrong");
            at.metrics.audit().note(|| Act {
                subject: Some(passed.subject.as_str()),
                address: Some(call.address),
                ..Act::new(Event::SecondFactor, "wrong")
            });
            Ok(page::ask(at, &about, Some(page::Wrong::Code)))
        }
        Ok(Second::Throttled(wait)) => {
            at.metrics.login(PROVIDER, LoginOutcome::Throttled);
            Ok(page::ask(at, &about, Some(page::Wrong::Throttled(wait))))
        }
        Err(error) => Err(failed(&error)),
    }
}

/// Who has none and needs one sets it up, and is signed in then.
async fn set_up_first(
    at: &Endpoints,
    call: &Call<'_>,
    form: &Parameters,
    (about, passed, user): (&Interaction<'_>, &Passed, User),
) -> Result<Answer, Problem> {
    // Whoever knows one of several: the page was shown when a factor was there, and it is not any more.
    if at.config.second_factor != SecondFactor::Required {
        return Err(Problem::lapsed());
    }
    let sealed = form.get("offer").unwrap_or_default();
    let offer = at.identity.offered(&user.subject, about.id.expose(), sealed).await;
    let offer = offer.map_err(|error| failed(&error))?.ok_or_else(Problem::lapsed)?;
    let typed = form.get("code").unwrap_or_default();
    let accepted = at.identity.accept(&user.subject, &offer, typed, at.now()).await;
    let Some(codes) = accepted.map_err(|error| failed(&error))? else {
        let token = about.form_token(at, Purpose::Second, None);
        let setting = page::Setting {
            token: &token,
            about: Some(about),
            user: &user,
            offer: &offer,
        };
        return Ok(page::set_up(at, &setting, Some(page::Wrong::Code)));
    };
    if !at.store.take_passed(&about.id.hash(), passed).await? {
        return Err(Problem::lapsed());
    }
    tracing::info!(subject = %user.subject, "a second factor was set up");
    at.metrics.audit().note(|| Act {
        subject: Some(user.subject.as_str()),
        ..Act::new(Event::AccountChanged, "second_factor_set_up")
    });
    let (_, headers) = begin(at, call, about, user, details(&["pwd", "otp"])).await?;
    let next = format!("{}?request={}", path(at, "/consent"), about.id.expose());
    let mut answer = page::codes(at, &codes, &next);
    answer.headers_mut().extend(headers);
    Ok(answer)
}

// --- on the account's page

/// Answers `/account/security`.
pub async fn of_account(at: &Endpoints, call: &Call<'_>) -> Answer {
    let answer = if *call.request.method() == Method::POST {
        change(at, call).await
    } else {
        show(at, call).await
    };
    answer.unwrap_or_else(|problem| problem.answer(at))
}

/// Whether a second factor of this gateway's is asked of somebody: of those with a password here.
pub(super) async fn is_ours(at: &Endpoints, signed_in: &SignedIn) -> Result<bool, Problem> {
    let subject = &signed_in.user.subject;
    let has_password = signed_in.session.details.provider == PROVIDER
        && (at.identity.is_configured(subject) || super::password::account(at, subject).await?.is_some());
    Ok(has_password && at.config.second_factor != SecondFactor::Off)
}

fn token(at: &Endpoints, signed_in: &SignedIn) -> String {
    browser::session_token(at, Purpose::Second, &signed_in.id)
}

/// Somebody who signed in a moment ago; else the way there.
async fn recent(at: &Endpoints, call: &Call<'_>) -> Result<Result<SignedIn, Answer>, Problem> {
    let Some(signed_in) = session::signed_in(at, call).await? else {
        return sign_in_for(at, call, OwnPage::Security).await.map(Err);
    };
    if at.now().since(signed_in.session.authenticated_at) > RECENT {
        return sign_in_again_for(at, call, OwnPage::Security).await.map(Err);
    }
    Ok(Ok(signed_in))
}

async fn show(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let signed_in = match recent(at, call).await? {
        Ok(signed_in) => signed_in,
        Err(answer) => return Ok(answer),
    };
    if !is_ours(at, &signed_in).await? {
        return Ok(page::elsewhere(at));
    }
    let token = token(at, &signed_in);
    let user = &signed_in.user;
    if let Some(factors) = at.store.factors(&user.subject).await? {
        return Ok(page::is_set_up(at, &token, factors.recovery.len(), None));
    }
    let offer = at.identity.offer(&user.subject, &token).await;
    let offer = offer.map_err(|error| failed(&error))?;
    Ok(page::set_up(
        at,
        &page::Setting {
            token: &token,
            about: None,
            user,
            offer: &offer,
        },
        None,
    ))
}

async fn change(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let form = own_form(at, call)?;
    let signed_in = match recent(at, call).await? {
        Ok(signed_in) => signed_in,
        Err(answer) => return Ok(answer),
    };
    let token = token(at, &signed_in);
    check_form_token(&form, FORM_TOKEN, &token)?;
    if !is_ours(at, &signed_in).await? {
        return Ok(page::elsewhere(at));
    }
    let user = &signed_in.user;
    let typed = form.get("code").unwrap_or_default();
    if let Some(factors) = at.store.factors(&user.subject).await? {
        let left = factors.recovery.len();
        return match at.identity.second(&user.subject, typed, call.address, at.now()).await {
            Ok(Second::Shown(_)) => {
                at.store.reset_factors(&user.subject).await?;
                tracing::info!(subject = %user.subject, "a second factor was removed by its person");
                at.metrics.audit().note(|| Act {
                    subject: Some(user.subject.as_str()),
                    ..Act::new(Event::AccountChanged, "second_factor_removed")
                });
                Ok(web::redirect(&path(at, OwnPage::Security.path())))
            }
            Ok(Second::Wrong) => Ok(page::is_set_up(at, &token, left, Some(page::Wrong::Code))),
            Ok(Second::Throttled(wait)) => Ok(page::is_set_up(at, &token, left, Some(page::Wrong::Throttled(wait)))),
            Err(error) => Err(failed(&error)),
        };
    }
    let offer = at
        .identity
        .offered(&user.subject, &token, form.get("offer").unwrap_or_default())
        .await;
    let offer = offer.map_err(|error| failed(&error))?.ok_or_else(Problem::stale_form)?;
    let accepted = at.identity.accept(&user.subject, &offer, typed, at.now()).await;
    let Some(codes) = accepted.map_err(|error| failed(&error))? else {
        let setting = page::Setting {
            token: &token,
            about: None,
            user,
            offer: &offer,
        };
        return Ok(page::set_up(at, &setting, Some(page::Wrong::Code)));
    };
    // Whoever is signed in elsewhere has not shown it.
    at.store.end_sessions_of(&user.subject, Some(&signed_in.id)).await?;
    tracing::info!(subject = %user.subject, "a second factor was set up");
    at.metrics.audit().note(|| Act {
        subject: Some(user.subject.as_str()),
        ..Act::new(Event::AccountChanged, "second_factor_set_up")
    });
    Ok(page::codes(at, &codes, &path(at, "/account")))
}

pub(super) fn failed(error: &SecondError) -> Problem {
    tracing::error!(%error, "a second factor could not be looked at");
    OAuthError::new(
        ErrorCode::TemporarilyUnavailable,
        "the gateway cannot reach its store; try again shortly",
    )
    .into()
}
