//! Choosing a password: at sign-in, where somebody else chose the one before, and on the page of one's account.

use zeroize::Zeroizing;

use super::browser::{self, Purpose};
use super::interaction::{
    FORM_TOKEN, Interaction, check_form_token, get_or_post, own_form, path, sign_in_again_for, sign_in_for,
};
use super::pages::{self, Problem, password as page};
use super::second::{proof, try_factor};
use super::session::{self, SignedIn};
use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints};
use crate::config::SecondFactor;
use crate::domain::error::OAuthError;
use crate::domain::grant::OwnPage;
use crate::domain::person::{Passed, Person, Source};
use crate::domain::secret::SecretHash;
use crate::identity::local::hash_password;
use crate::identity::{SignIn, password};
use crate::store::Chosen;
use crate::telemetry::audit::{Act, Event};

/// The password that was chosen, if it was typed twice and will do; else why not.
fn chosen(form: &Parameters, person: &Person) -> Result<Zeroizing<String>, page::Wrong> {
    let new = Zeroizing::new(form.get("new_password").unwrap_or_default().to_owned());
    if form.get("again").unwrap_or_default() != new.as_str() {
        return Err(page::Wrong::Differ);
    }
    password::check(&new, &person.user).map_err(page::Wrong::Unfit)?;
    Ok(new)
}

/// The account in the store behind a subject: others have no password here that they could choose.
pub(super) async fn account(at: &Endpoints, subject: &crate::domain::user::Subject) -> Result<Option<Person>, Problem> {
    let person = at.store.person(subject).await?;
    let configured = at.identity.is_configured(subject);
    Ok(person.filter(|person| person.source == Source::Store && !person.disabled && !configured))
}

/// Puts a new password on record. Whether the account is still there.
async fn put(
    at: &Endpoints,
    person: &Person,
    password: Zeroizing<String>,
    keep: Option<&SecretHash>,
) -> Result<bool, Problem> {
    let hashed = tokio::task::spawn_blocking(move || hash_password(&password)).await;
    let hash = hashed.ok().and_then(Result::ok).ok_or_else(|| {
        OAuthError::new(
            crate::domain::error::ErrorCode::ServerError,
            "the password could not be kept",
        )
        .because("it could not be hashed")
    })?;
    let subject = &person.user.subject;
    let known = at.store.set_password(subject, &hash, Chosen::ByThem(keep)).await?;
    if known {
        tracing::info!(%subject, "a password was changed by its person");
        at.metrics.audit().note(|| Act {
            subject: Some(subject.as_str()),
            ..Act::new(Event::AccountChanged, "password")
        });
    }
    Ok(known)
}

// --- at sign-in

/// Answers `/login/password`: who has shown a password that somebody else chose chooses another, and is signed in then.
pub async fn at_sign_in(at: &Endpoints, call: &Call<'_>) -> Answer {
    get_or_post(at, call, ask, choose).await
}

/// Who has shown a password for an authorization, in the browser that began it.
async fn passed<'a>(
    at: &'a Endpoints,
    call: &Call<'_>,
    parameters: &Parameters,
) -> Result<(Interaction<'a>, Passed, Person), Problem> {
    let about = Interaction::resume(at, call, parameters).await?;
    let passed = about.request.details.passed.clone().ok_or_else(Problem::lapsed)?;
    let person = account(at, &passed.subject).await?;
    // Whoever still has to show a second factor cannot get around it here.
    let person = person.filter(|person| person.must_change).ok_or_else(Problem::lapsed)?;
    Ok((about, passed, person))
}

async fn ask(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let (about, ..) = passed(at, call, &Parameters::of_query(call.request)?).await?;
    Ok(pages::password::at_sign_in(at, &about, None))
}

async fn choose(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let form = own_form(at, call)?;
    let (about, passed, person) = passed(at, call, &form).await?;
    check_form_token(&form, FORM_TOKEN, &about.form_token(at, Purpose::Password, None))?;
    let new = match chosen(&form, &person) {
        Ok(new) => new,
        Err(wrong) => return Ok(pages::password::at_sign_in(at, &about, Some(wrong))),
    };
    // The one that somebody else knows is no new one.
    if at.identity.fits(&person, new.clone()).await {
        return Ok(pages::password::at_sign_in(at, &about, Some(page::Wrong::Same)));
    }
    // Once: what was shown before is worth nothing from here on.
    if !at.store.take_passed(&about.id.hash(), &passed).await? || !put(at, &person, new, None).await? {
        return Err(Problem::lapsed());
    }
    let Some(user) = at.identity.user(&passed.subject).await? else {
        return Err(Problem::lapsed());
    };
    super::second::after_password(at, call, &about, user).await
}

// --- on the account's page

/// Answers `/account/password`.
pub async fn of_account(at: &Endpoints, call: &Call<'_>) -> Answer {
    get_or_post(at, call, show, change).await
}

async fn show(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let Some(signed_in) = session::signed_in(at, call).await? else {
        return sign_in_for(at, call, OwnPage::Password).await;
    };
    let asks = asks(at, &signed_in).await?;
    Ok(pages::password::of_account(at, &token(at, &signed_in), &asks, None))
}

/// What the page asks for: nothing, where the password is not kept here; a second factor too, where one is set up.
async fn asks(at: &Endpoints, signed_in: &SignedIn) -> Result<page::Asks, Problem> {
    let subject = &signed_in.user.subject;
    if account(at, subject).await?.is_none() {
        return Ok(page::Asks::Nothing);
    }
    if at.config.second_factor == SecondFactor::Off {
        return Ok(page::Asks::Password);
    }
    Ok(match at.store.factors(subject).await? {
        None => page::Asks::Password,
        Some(factors) => page::Asks::PasswordAndSecond(proof(at, subject, &factors, &token(at, signed_in)).await?),
    })
}

fn token(at: &Endpoints, signed_in: &SignedIn) -> String {
    browser::session_token(at, Purpose::Password, &signed_in.id)
}

async fn change(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let form = own_form(at, call)?;
    let Some(signed_in) = session::signed_in(at, call).await? else {
        return sign_in_again_for(at, call, OwnPage::Password).await;
    };
    let token = token(at, &signed_in);
    check_form_token(&form, FORM_TOKEN, &token)?;
    let Some(person) = account(at, &signed_in.user.subject).await? else {
        return Ok(pages::password::of_account(at, &token, &page::Asks::Nothing, None));
    };
    let asks = asks(at, &signed_in).await?;
    let wrong = |wrong| Ok(pages::password::of_account(at, &token, &asks, Some(wrong)));
    let new = match chosen(&form, &person) {
        Ok(new) => new,
        Err(why) => return wrong(why),
    };
    // Guesses count like those at sign-in: whoever sits at somebody's open browser has no more of them.
    let current = Zeroizing::new(form.get("password").unwrap_or_default().to_owned());
    let username = &person.user.username;
    match at.identity.sign_in(username, current, call.address, at.now()).await {
        SignIn::Success(user) if user.subject == person.user.subject => {}
        SignIn::Throttled { retry_after } => return wrong(page::Wrong::Throttled(retry_after)),
        SignIn::Unavailable(error) => return Err(error.into()),
        _ => return wrong(page::Wrong::Current),
    }
    if at.identity.fits(&person, new.clone()).await {
        return wrong(page::Wrong::Same);
    }
    if matches!(asks, page::Asks::PasswordAndSecond(_)) {
        match try_factor(at, call, &person.user.subject, &form, &token).await? {
            Ok(_) => {}
            Err(pages::second::Wrong::Throttled(wait)) => return wrong(page::Wrong::Throttled(wait)),
            Err(_) => return wrong(page::Wrong::Second),
        }
    }
    if !put(at, &person, new, Some(&signed_in.id)).await? {
        return Err(Problem::lapsed());
    }
    let done = pages::account::Done::PasswordChanged.as_str();
    Ok(web::redirect(&format!("{}?done={done}", path(at, "/account"))))
}
