//! `/account/security`: the second factors of somebody with a password here. To set the first one up takes a sign-in of a moment
//! ago; to change anything from then on, a second factor.

use std::time::Duration;

use super::account::RECENT;
use super::browser::{self, Purpose};
use super::interaction::{
    FORM_TOKEN, PROVIDER, check_form_token, get_or_post, own_form, path, sign_in_again_for, sign_in_for,
};
use super::pages::security::{self as page, Deed, Kept};
use super::pages::{self, Problem};
use super::second::{Place, SetUp, failed, proof, try_factor};
use super::session::{self, SignedIn};
use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints};
use crate::config::SecondFactor;
use crate::domain::clock::Timestamp;
use crate::domain::error::OAuthError;
use crate::domain::factors::{FactorName, Factors};
use crate::domain::grant::OwnPage;
use crate::telemetry::audit::{Act, Event};

/// How long a second factor that was shown opens the page.
const OPEN: Duration = Duration::from_secs(10 * 60);

/// Answers `/account/security`.
pub async fn of_account(at: &Endpoints, call: &Call<'_>) -> Answer {
    get_or_post(at, call, look, change).await
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

async fn look(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let signed_in = match recent(at, call).await? {
        Ok(signed_in) => signed_in,
        Err(answer) => return Ok(answer),
    };
    if !is_ours(at, &signed_in).await? {
        return Ok(page::elsewhere(at));
    }
    let token = token(at, &signed_in);
    match at.store.factors(&signed_in.user.subject).await? {
        Some(factors) => locked(at, &signed_in, &factors, None).await,
        None => {
            Place::of_account(&token, None)
                .page(at, &signed_in.user, None, None)
                .await
        }
    }
}

/// What there is, and the question for a factor.
async fn locked(
    at: &Endpoints,
    signed_in: &SignedIn,
    factors: &Factors,
    wrong: Option<pages::second::Wrong>,
) -> Result<Answer, Problem> {
    let token = token(at, signed_in);
    let asked = proof(at, &signed_in.user.subject, factors, &token).await?;
    Ok(page::locked(at, &kept(&token, factors, at.now()), &asked, wrong))
}

const fn kept<'a>(token: &'a str, factors: &'a Factors, now: Timestamp) -> Kept<'a> {
    Kept { token, factors, now }
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
    let Some(factors) = at.store.factors(&user.subject).await? else {
        return set_up(at, &signed_in, &form, None).await;
    };
    let Some(shown) = form.get("shown").filter(|shown| is_open(at, &signed_in, shown)) else {
        return match try_factor(at, call, &user.subject, &form, &token).await? {
            Ok(_) => view(at, &signed_in, Some(&opened(at, &signed_in))).await,
            Err(wrong) => locked(at, &signed_in, &factors, Some(wrong)).await,
        };
    };
    match form.get("deed") {
        None => set_up(at, &signed_in, &form, Some(shown)).await,
        Some(deed) => {
            let deed = Deed::parse(deed).ok_or_else(|| OAuthError::invalid_request("there is no such deed"))?;
            act(at, &signed_in, deed, &form, shown).await
        }
    }
}

/// Takes what a form sets up: the first factor, or another, if one was shown.
async fn set_up(
    at: &Endpoints,
    signed_in: &SignedIn,
    form: &Parameters,
    shown: Option<&str>,
) -> Result<Answer, Problem> {
    let (token, user) = (token(at, signed_in), &signed_in.user);
    let place = Place::of_account(&token, shown);
    match place.take(at, user, form).await? {
        SetUp::Wrong(wrong) => place.page(at, user, form.get("offer"), Some(wrong)).await,
        SetUp::First(codes, _) => {
            // Whoever is signed in elsewhere has not shown it.
            at.store.end_sessions_of(&user.subject, Some(&signed_in.id)).await?;
            Ok(pages::second::codes(at, &codes, &path(at, "/account")))
        }
        SetUp::Another => view(at, signed_in, shown).await,
    }
}

/// The page as it is after a change.
async fn view(at: &Endpoints, signed_in: &SignedIn, shown: Option<&str>) -> Result<Answer, Problem> {
    let factors = at.store.factors(&signed_in.user.subject).await?;
    Ok(match factors.zip(shown) {
        Some((factors, shown)) => page::open(at, &kept(&token(at, signed_in), &factors, at.now()), shown),
        None => web::redirect(&path(at, OwnPage::Security.path())),
    })
}

async fn act(
    at: &Endpoints,
    signed_in: &SignedIn,
    deed: Deed,
    form: &Parameters,
    shown: &str,
) -> Result<Answer, Problem> {
    let user = &signed_in.user;
    let subject = &user.subject;
    let which = match deed {
        Deed::Add => {
            let token = token(at, signed_in);
            return Place::of_account(&token, Some(shown)).page(at, user, None, None).await;
        }
        Deed::Renew => {
            let codes = at.identity.renew_recovery(subject).await;
            let codes = codes.map_err(|error| failed(&error))?.ok_or_else(Problem::stale_form)?;
            note(at, signed_in, "recovery_codes_renewed");
            return Ok(pages::second::codes(at, &codes, &path(at, "/account")));
        }
        Deed::RemoveApp => FactorName::Authenticator,
        Deed::RemovePasskey => FactorName::Passkey(form.get("id").unwrap_or_default().to_owned()),
    };
    if at.store.remove_factor(subject, &which).await? {
        tracing::info!(%subject, "a second factor was removed by its person");
        note(at, signed_in, "second_factor_removed");
    }
    view(at, signed_in, Some(shown)).await
}

fn note(at: &Endpoints, signed_in: &SignedIn, outcome: &'static str) {
    at.metrics.audit().note(|| Act {
        subject: Some(signed_in.user.subject.as_str()),
        ..Act::new(Event::AccountChanged, outcome)
    });
}

// --- that a factor was shown

/// Says, to forms of this session only, that a factor was shown now.
fn opened(at: &Endpoints, signed_in: &SignedIn) -> String {
    let now = at.now().as_millis();
    format!("{now}.{}", signature(at, signed_in, now))
}

fn is_open(at: &Endpoints, signed_in: &SignedIn, shown: &str) -> bool {
    let parts = shown
        .split_once('.')
        .and_then(|(since, tag)| Some((since.parse().ok()?, tag)));
    let Some((since, tag)) = parts else {
        return false;
    };
    let lapsed = at.now().since(Timestamp::from_millis(since)) > OPEN;
    browser::equal(tag, &signature(at, signed_in, since)) && !lapsed
}

fn signature(at: &Endpoints, signed_in: &SignedIn, since: u64) -> String {
    browser::sign(
        at,
        &[b"second factor shown", signed_in.id.as_bytes(), &since.to_be_bytes()],
    )
}
