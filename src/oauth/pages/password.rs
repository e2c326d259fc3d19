//! The pages on which a password is chosen.

use std::time::Duration;

use http::StatusCode;
use maud::{Markup, html};

use super::second::{Proof, proof};
use super::{page, path, words};
use crate::identity::password::{SHORTEST, Unfit};
use crate::oauth::browser::Purpose;
use crate::oauth::interaction::{FORM_TOKEN, Interaction};
use crate::oauth::{Answer, Endpoints};

/// Why a page is shown again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::oauth) enum Wrong {
    /// The two are not the same.
    Differ,
    /// It is the one before.
    Same,
    /// It will not do.
    Unfit(Unfit),
    /// The one that they have is another.
    Current,
    /// What they show is not their second factor.
    Second,
    /// Too many guesses at it.
    Throttled(Duration),
}

/// What the page of an account asks for.
pub(in crate::oauth) enum Asks {
    /// The password is not kept here.
    Nothing,
    /// The one that they have.
    Password,
    /// That, and a second factor.
    PasswordAndSecond(Proof),
}

/// At sign-in.
pub(in crate::oauth) fn at_sign_in(at: &Endpoints, about: &Interaction<'_>, wrong: Option<Wrong>) -> Answer {
    let body = html! {
        h1 { "Choose a password" }
        p .lead { "The one that you have was chosen by somebody else." }
        (alert(wrong))
        form method="post" action=(path(at, "/login/password")) {
            input type="hidden" name="request" value=(about.id.expose());
            input type="hidden" name=(FORM_TOKEN) value=(about.form_token(at, Purpose::Password, None));
            (fields(wrong, true))
            div .actions { button .primary type="submit" { "Go on" } }
        }
    };
    page(at, status(wrong), "Choose a password", &body)
}

/// On the page of one's account; without a form where the password is not kept here.
pub(in crate::oauth) fn of_account(at: &Endpoints, token: &str, asks: &Asks, wrong: Option<Wrong>) -> Answer {
    let body = html! {
        h1 { "Change your password" }
        @if !matches!(asks, Asks::Nothing) {
            (alert(wrong))
            form method="post" action=(path(at, "/account/password")) {
                input type="hidden" name=(FORM_TOKEN) value=(token);
                label for="password" { "Your password now" }
                input #password type="password" name="password" autocomplete="current-password" maxlength="1024" required autofocus
                    aria-describedby=[wrong.map(|_| "problem")];
                (fields(wrong, false))
                @if let Asks::PasswordAndSecond(asked) = asks {
                    (proof(asked, "Change it", false, false))
                } @else {
                    div .actions { button .primary type="submit" { "Change it" } }
                }
            }
            p .fine { "You are signed out everywhere else." }
        } @else {
            p .lead { "Your password is not kept here. Whoever runs this gateway, or the place where you sign in, can change it." }
        }
        p .other { a href=(path(at, "/account")) { "Back to your account" } }
    };
    let title = "Change your password";
    match asks {
        Asks::PasswordAndSecond(asked) => asked.page(at, status(wrong), title, &body),
        _ => page(at, status(wrong), title, &body),
    }
}

fn fields(wrong: Option<Wrong>, first: bool) -> Markup {
    html! {
        label for="new_password" { "New password" }
        input #new_password type="password" name="new_password" autocomplete="new-password" minlength=(SHORTEST) maxlength="1024"
            required autofocus[first] aria-describedby=(if wrong.is_some() { "problem rule" } else { "rule" });
        small #rule { "At least " (SHORTEST) " characters. Several words are a good one." }
        label for="again" { "The same again" }
        input #again type="password" name="again" autocomplete="new-password" maxlength="1024" required;
    }
}

fn alert(wrong: Option<Wrong>) -> Markup {
    html! { @if let Some(wrong) = wrong { p #problem .alert role="alert" { (wrong.message()) } } }
}

const fn status(wrong: Option<Wrong>) -> StatusCode {
    match wrong {
        None => StatusCode::OK,
        Some(Wrong::Throttled(_)) => StatusCode::TOO_MANY_REQUESTS,
        Some(_) => StatusCode::BAD_REQUEST,
    }
}

impl Wrong {
    fn message(self) -> String {
        match self {
            Self::Differ => "The two new passwords are not the same.".to_owned(),
            Self::Same => "That is the password that you have.".to_owned(),
            Self::Unfit(unfit) => unfit.to_string(),
            Self::Second => "The code or the passkey is not right, or was used before.".to_owned(),
            Self::Current => "Your password now is another one.".to_owned(),
            Self::Throttled(wait) => format!("Too many attempts. Try again in {}.", words::duration(wait)),
        }
    }
}
