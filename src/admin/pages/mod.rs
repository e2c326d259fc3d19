//! The operator's pages: what the API has, for people, in a browser. No script; every change is a form with the session's
//! token in it.

mod accounts;
mod lists;
mod style;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use super::sessions::Session;
use super::trouble::Trouble;
use super::{Admin, Call, api, clients, gate, grants, users};
use crate::oauth::pages::style::{ICON, STYLE};
use crate::oauth::{Answer, Endpoints};

/// Where in the pages somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Overview,
    Users,
    Clients,
    Grants,
    Decisions,
}

/// What is shown at an address.
enum Shown<'a> {
    Place(Place),
    /// The form for a new account.
    NewAccount,
    /// The question whether the password of this subject is to be reset.
    Reset(&'a str),
}

/// The whole stylesheet.
static SHEET: LazyLock<String> = LazyLock::new(|| format!("{STYLE}{}", style::MORE));

/// The pages are their own: nothing from elsewhere, no script.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(SHEET.as_bytes()));
    format!("default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; frame-ancestors 'none'")
});

/// Answers a browser.
pub(super) async fn answer(admin: &Admin, at: &Endpoints, call: &Call) -> Answer {
    match act(admin, at, call).await {
        Ok(answer) => answer,
        Err(trouble) => problem(&trouble),
    }
}

async fn act(admin: &Admin, at: &Endpoints, call: &Call) -> Result<Answer, Trouble> {
    let token = at.config.admin_token.as_ref().ok_or_else(Trouble::not_set_up)?;
    let session = admin.sessions.find(&call.headers, token, at.now());
    let segments = call.segments(0);
    match (&call.method, segments.as_slice()) {
        (&Method::GET | &Method::HEAD, path) => {
            let page = Shown::of(path).ok_or_else(Trouble::no_page)?;
            let Some(session) = session else {
                return Ok(sign_in_page(None, StatusCode::OK));
            };
            match page {
                Shown::Place(place) => lists::show(at, &session, place, &call.query).await,
                Shown::NewAccount => Ok(accounts::new(&session)),
                Shown::Reset(subject) => accounts::ask_to_reset(at, &session, subject).await,
            }
        }
        (&Method::POST, path) => {
            gate::check_source(&call.headers)?;
            let form = Form::read(call)?;
            if path == ["sign-in"] {
                return sign_in(admin, at, call, &form);
            }
            let Some(session) = session else {
                return Ok(sign_in_page(
                    Some("Your session is over. Sign in again."),
                    StatusCode::FORBIDDEN,
                ));
            };
            if !session.gave(form.get("form_token")) {
                return Err(Trouble::new(
                    StatusCode::FORBIDDEN,
                    "stale_form",
                    "this form is not one of your session; load the page again",
                ));
            }
            match path {
                ["users", "add"] => return accounts::add(at, &session, &form).await,
                ["users", subject, "reset"] => {
                    let answer = accounts::reset(at, &session, subject).await?;
                    api::note(at, path, "page");
                    return Ok(answer);
                }
                _ => change(at, path).await?,
            }
            let mut answer = back(path, &form);
            if path == ["sign-out"]
                && let Some(cookie) = admin.sessions.end(&call.headers)
            {
                answer.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            Ok(answer)
        }
        _ => Err(Trouble::method()),
    }
}

/// Does what a button says.
async fn change(at: &Endpoints, path: &[&str]) -> Result<(), Trouble> {
    match path {
        ["sign-out"] => return Ok(()),
        ["users", subject, "disable"] => users::set_disabled(at, subject, true).await?,
        ["users", subject, "forget-factor"] => users::forget_factor(at, subject).await?,
        ["users", subject, "enable"] => users::set_disabled(at, subject, false).await?,
        ["users", subject, "sign-out"] => users::end_sessions(at, subject).await?,
        ["clients", id, "revoke"] => clients::revoke(at, id).await?,
        ["grants", id, "revoke"] => grants::revoke(at, id).await?,
        _ => return Err(Trouble::no_page()),
    };
    api::note(at, path, "page");
    Ok(())
}

/// Takes the token once. Nobody who does not know it can sign somebody else in, so this form needs no token of its own.
fn sign_in(admin: &Admin, at: &Endpoints, call: &Call, form: &Form) -> Result<Answer, Trouble> {
    let expected = at.config.admin_token.as_ref().ok_or_else(Trouble::not_set_up)?;
    let presented = form.get("token").filter(|token| !token.is_empty());
    if let Err(trouble) = admin.throttle.check(expected, presented, call.address, at.now()) {
        let mut answer = sign_in_page(Some(&sentence(&trouble.message)), trouble.status);
        if let Some(seconds) = trouble.retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        return Ok(answer);
    }
    tracing::info!(address = %call.address, "administration: somebody signed in");
    let mut answer = see_other("/");
    if let Some(cookie) = admin.sessions.begin(expected, at.now()) {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(answer)
}

/// Where a form leads when it is done: the list that it was in.
fn back(path: &[&str], form: &Form) -> Answer {
    let place = path
        .first()
        .and_then(|first| Place::of(&[first]))
        .unwrap_or(Place::Overview);
    match form.get("search").filter(|search| !search.is_empty()) {
        Some(search) => see_other(&format!("{}?search={}", place.path(), encoded(search))),
        None => see_other(place.path()),
    }
}

fn see_other(target: &str) -> Answer {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::SEE_OTHER;
    if let Ok(target) = HeaderValue::from_str(target) {
        answer.headers_mut().insert(header::LOCATION, target);
    }
    answer
}

fn sign_in_page(message: Option<&str>, status: StatusCode) -> Answer {
    let body = html! {
        main {
            (mark())
            h1 { "Administration" }
            p .lead { "Sign in with the token that " code { "admin.token" } " of the configuration says." }
            @if let Some(message) = message {
                p #problem .alert role="alert" { (message) }
            }
            form method="post" action="/sign-in" {
                label for="token" { "Token" }
                input #token type="password" name="token" autocomplete="current-password" maxlength="4096" required autofocus
                    aria-describedby=[message.map(|_| "problem")];
                div .actions { button .primary type="submit" { "Sign in" } }
            }
        }
    };
    whole(status, "Administration", "", &body)
}

fn problem(trouble: &Trouble) -> Answer {
    let body = html! {
        main {
            (mark())
            h1 { "That was not done" }
            p .alert role="alert" { (sentence(&trouble.message)) }
            p { a href="/" { "Back to the overview" } }
        }
    };
    whole(trouble.status, "That was not done", "", &body)
}

/// With a capital and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}

fn mark() -> Markup {
    html! { header { span .mark aria-hidden="true" {} span .host { "mcpgate" } } }
}

/// A page with the ways to all others.
fn framed(place: Place, session: &Session, title: &str, content: &Markup) -> Answer {
    let body = html! {
        div .bar {
            (mark())
            nav aria-label="Administration" {
                @for other in Place::ALL {
                    a href=(other.path()) aria-current=[(other == place).then_some("page")] { (other.title()) }
                }
            }
            form method="post" action="/sign-out" {
                (token_field(session))
                button .link type="submit" { "Sign out" }
            }
        }
        main { h1 { (title) } (content) }
    };
    whole(StatusCode::OK, title, "wide", &body)
}

fn token_field(session: &Session) -> Markup {
    html! { input type="hidden" name="form_token" value=(session.form_token); }
}

fn whole(status: StatusCode, title: &str, class: &str, body: &Markup) -> Answer {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " · mcpgate" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(SHEET.as_str())) }
            }
            body class=(class) { (body) }
        }
    };
    let mut answer = Response::new(Bytes::from(markup.into_string()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(), geolocation=(), microphone=(), payment=()"),
    );
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

/// As part of an address.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

// === impl Shown ===

impl<'a> Shown<'a> {
    fn of(path: &[&'a str]) -> Option<Self> {
        match path {
            ["users", "add"] => Some(Self::NewAccount),
            ["users", subject, "reset"] => Some(Self::Reset(subject)),
            _ => Place::of(path).map(Self::Place),
        }
    }
}

/// What a form says.
struct Form(Vec<(String, String)>);

impl Form {
    fn read(call: &Call) -> Result<Self, Trouble> {
        let kind = call
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded")) {
            return Err(Trouble::malformed("this is no form"));
        }
        Ok(Self(form_urlencoded::parse(&call.body).into_owned().collect()))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
    }
}

// === impl Place ===

impl Place {
    const ALL: [Self; 5] = [
        Self::Overview,
        Self::Users,
        Self::Clients,
        Self::Grants,
        Self::Decisions,
    ];

    fn of(path: &[&str]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|place| place.path().trim_start_matches('/') == path.join("/"))
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Users => "/users",
            Self::Clients => "/clients",
            Self::Grants => "/grants",
            Self::Decisions => "/decisions",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Users => "Users",
            Self::Clients => "Clients",
            Self::Grants => "Grants",
            Self::Decisions => "Refused calls",
        }
    }
}
