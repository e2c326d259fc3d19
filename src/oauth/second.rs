//! The second factor at sign-in, where nobody is signed in and no code is given before it was shown; and what this has in common
//! with the pages of an account: asking for one, and setting one up.

use super::browser::Purpose;
use super::interaction::{
    FORM_TOKEN, Interaction, PROVIDER, begin, check_form_token, get_or_post, identified, own_form, path,
};
use super::pages::passkey::{ANSWER, CEREMONY};
use super::pages::{Problem, second as page};
use super::web::Parameters;
use super::{Answer, Call, Endpoints};
use crate::config::SecondFactor;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::factors::Factors;
use crate::domain::person::{Passed, SessionDetails};
use crate::domain::user::{Subject, User};
use crate::identity::passkey::{METHOD, NewPasskey};
use crate::identity::second::{Accepted, Second, SecondError};
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
    get_or_post(at, call, ask, try_it).await
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
    if let Some(factors) = at.store.factors(&passed.subject).await? {
        let proof = proof(at, &passed.subject, &factors, about.id.expose()).await?;
        return Ok(page::ask(at, &about, &proof, None));
    }
    if at.config.second_factor != SecondFactor::Required {
        return Err(Problem::lapsed());
    }
    let token = about.form_token(at, Purpose::Second, None);
    Place::at_sign_in(&about, &token).page(at, &user, None, None).await
}

async fn try_it(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let form = own_form(at, call)?;
    let (about, passed, user) = passed(at, call, &form).await?;
    let token = about.form_token(at, Purpose::Second, None);
    check_form_token(&form, FORM_TOKEN, &token)?;
    let subject = &passed.subject;
    let Some(factors) = at.store.factors(subject).await? else {
        return set_up_first(at, call, &form, (&about, &passed, user)).await;
    };
    let wrong = match try_factor(at, call, subject, &form, about.id.expose()).await? {
        Ok(method) => {
            if !at.store.take_passed(&about.id.hash(), &passed).await? {
                return Err(Problem::lapsed());
            }
            return identified(at, call, &about, user, details(&["pwd", method])).await;
        }
        Err(wrong) => wrong,
    };
    let outcome = match wrong {
        page::Wrong::Throttled(_) => LoginOutcome::Throttled,
        _ => LoginOutcome::Failure,
    };
    at.metrics.login(PROVIDER, outcome);
    let proof = proof(at, subject, &factors, about.id.expose()).await?;
    Ok(page::ask(at, &about, &proof, Some(wrong)))
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
    let token = about.form_token(at, Purpose::Second, None);
    let place = Place::at_sign_in(about, &token);
    let (codes, method) = match place.take(at, &user, form).await? {
        SetUp::First(codes, method) => (codes, method),
        SetUp::Another => return Err(Problem::lapsed()),
        SetUp::Wrong(wrong) => return place.page(at, &user, form.get("offer"), Some(wrong)).await,
    };
    if !at.store.take_passed(&about.id.hash(), passed).await? {
        return Err(Problem::lapsed());
    }
    let (_, headers) = begin(at, call, about, user, details(&["pwd", method])).await?;
    let next = format!("{}?request={}", path(at, "/consent"), about.id.expose());
    let mut answer = page::codes(at, &codes, &next);
    answer.headers_mut().extend(headers);
    Ok(answer)
}

// --- to show one

/// What somebody can show in a place: what is asked in one form is worth nothing in another.
pub(super) async fn proof(
    at: &Endpoints,
    subject: &Subject,
    factors: &Factors,
    place: &str,
) -> Result<page::Proof, Problem> {
    let ceremony = at.identity.ask_passkey(subject, factors, place, at.now()).await;
    Ok(page::Proof {
        ceremony: ceremony.map_err(|error| failed(&error))?,
        has_app: factors.authenticator.is_some(),
    })
}

/// Tries the second factor that a form has: by which method it was shown, or what was wrong with it.
pub(super) async fn try_factor(
    at: &Endpoints,
    call: &Call<'_>,
    subject: &Subject,
    form: &Parameters,
    place: &str,
) -> Result<Result<&'static str, page::Wrong>, Problem> {
    let now = at.now();
    let (tried, wrong) = if let Some(answer) = form.get(ANSWER) {
        let place = (place, form.get(CEREMONY).unwrap_or_default());
        let tried = Box::pin(at.identity.show_passkey(subject, place, answer, now)).await;
        (tried, page::Wrong::Passkey)
    } else {
        let typed = form.get("code").unwrap_or_default();
        let tried = at.identity.second(subject, typed, call.address, now).await;
        (tried, page::Wrong::Code)
    };
    let (outcome, method, shown) = match tried.map_err(|error| failed(&error))? {
        Second::Shown(method) => ("shown", Some(method), Ok(method)),
        Second::Wrong => {
            tracing::info!(%subject, address = %call.address, "a second factor was wrong");
            ("wrong", None, Err(wrong))
        }
        Second::Throttled(wait) => ("throttled", None, Err(page::Wrong::Throttled(wait))),
    };
    at.metrics.audit().note(|| Act {
        subject: Some(subject.as_str()),
        by: method,
        address: Some(call.address),
        ..Act::new(Event::SecondFactor, outcome)
    });
    Ok(shown)
}

// --- to set one up

/// Where a factor is set up.
pub(super) struct Place<'a> {
    /// The authorization that waits for it, at sign-in.
    about: Option<&'a Interaction<'a>>,
    /// The token of the form.
    token: &'a str,
    /// That another was shown, on the page of an account: it may stand beside that one.
    shown: Option<&'a str>,
}

/// What became of a factor that was set up.
pub(super) enum SetUp {
    /// It is the first one: its recovery codes, and how it counts.
    First(Vec<String>, &'static str),
    /// It stands beside others.
    Another,
    /// It is not on record.
    Wrong(page::Wrong),
}

// === impl Place ===

impl<'a> Place<'a> {
    const fn at_sign_in(about: &'a Interaction<'a>, token: &'a str) -> Self {
        Self {
            about: Some(about),
            token,
            shown: None,
        }
    }

    /// On the page of an account.
    pub(super) const fn of_account(token: &'a str, shown: Option<&'a str>) -> Self {
        Self {
            about: None,
            token,
            shown,
        }
    }

    /// What an offer is bound to.
    fn name(&self) -> &str {
        self.about.map_or(self.token, |about| about.id.expose())
    }

    /// The page; with the key that was offered before, if there was one: the app may have it by now.
    pub(super) async fn page(
        &self,
        at: &Endpoints,
        user: &User,
        sealed: Option<&str>,
        wrong: Option<page::Wrong>,
    ) -> Result<Answer, Problem> {
        let unable = |error| failed(&error);
        let subject = &user.subject;
        let known = match sealed {
            Some(sealed) => at
                .identity
                .offered(subject, self.name(), sealed)
                .await
                .map_err(unable)?,
            None => None,
        };
        let factors = at.store.factors(subject).await?.unwrap_or_default();
        let offer = match known {
            Some(known) => Some(known),
            None if factors.authenticator.is_some() => None,
            None => Some(at.identity.offer(subject, self.name()).await.map_err(unable)?),
        };
        let ceremony = at.identity.invite_passkey(user, self.name(), at.now()).await;
        let ceremony = ceremony.map_err(unable)?;
        let setting = page::Setting {
            token: self.token,
            about: self.about,
            shown: self.shown,
            user,
            offer: offer.as_ref(),
            ceremony: ceremony.as_ref(),
        };
        Ok(page::set_up(at, &setting, wrong))
    }

    /// Takes the app or the passkey that a form has.
    pub(super) async fn take(&self, at: &Endpoints, user: &User, form: &Parameters) -> Result<SetUp, Problem> {
        let unable = |error| failed(&error);
        let (subject, first, now) = (&user.subject, self.shown.is_none(), at.now());
        let done = if let Some(answer) = form.get(ANSWER) {
            let sealed = form.get(CEREMONY).unwrap_or_default();
            let name = form.get("name").unwrap_or_default();
            let place = (self.name(), sealed);
            let added = at
                .identity
                .add_passkey(subject, place, (name, answer), first, now)
                .await;
            match added.map_err(unable)? {
                NewPasskey::First(codes) => SetUp::First(codes, METHOD),
                NewPasskey::Another => SetUp::Another,
                NewPasskey::Refused(why) => SetUp::Wrong(page::Wrong::Refused(why)),
            }
        } else {
            let sealed = form.get("offer").unwrap_or_default();
            let offer = at
                .identity
                .offered(subject, self.name(), sealed)
                .await
                .map_err(unable)?;
            let offer = offer.ok_or_else(Problem::stale_form)?;
            let typed = form.get("code").unwrap_or_default();
            let accepted = at.identity.accept(subject, &offer, typed, first, now).await;
            match accepted.map_err(unable)? {
                Accepted::First(codes) => SetUp::First(codes, "otp"),
                Accepted::Another => SetUp::Another,
                Accepted::No => SetUp::Wrong(page::Wrong::Code),
            }
        };
        if !matches!(done, SetUp::Wrong(_)) {
            tracing::info!(%subject, "a second factor was set up");
            at.metrics.audit().note(|| Act {
                subject: Some(subject.as_str()),
                ..Act::new(Event::AccountChanged, "second_factor_set_up")
            });
        }
        Ok(done)
    }
}

pub(super) fn failed(error: &SecondError) -> Problem {
    tracing::error!(%error, "a second factor could not be looked at");
    OAuthError::new(
        ErrorCode::TemporarilyUnavailable,
        "the gateway cannot reach its store; try again shortly",
    )
    .into()
}
