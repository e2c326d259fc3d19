//! The pages of the second factor.

use std::time::Duration;

use http::StatusCode;
use maud::{Markup, html};

use super::{page, path, words};
use crate::domain::user::User;
use crate::identity::second::Offer;
use crate::jose::otp;
use crate::oauth::browser::Purpose;
use crate::oauth::interaction::{FORM_TOKEN, Interaction};
use crate::oauth::{Answer, Endpoints};

/// Why a page is shown again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::oauth) enum Wrong {
    /// The code is none, or was used.
    Code,
    /// Too many attempts.
    Throttled(Duration),
}

/// Who sets up an app, and where.
pub(in crate::oauth) struct Setting<'a> {
    /// The form's token.
    pub(in crate::oauth) token: &'a str,
    /// The authorization that waits for it, at sign-in.
    pub(in crate::oauth) about: Option<&'a Interaction<'a>>,
    /// Who.
    pub(in crate::oauth) user: &'a User,
    /// The key.
    pub(in crate::oauth) offer: &'a Offer,
}

/// At sign-in.
pub(in crate::oauth) fn ask(at: &Endpoints, about: &Interaction<'_>, wrong: Option<Wrong>) -> Answer {
    let body = html! {
        h1 { "One more step" }
        p .lead { "Type the code that your authenticator app shows, or one of your recovery codes." }
        (alert(wrong))
        form method="post" action=(path(at, "/login/second")) {
            input type="hidden" name="request" value=(about.id.expose());
            input type="hidden" name=(FORM_TOKEN) value=(about.form_token(at, Purpose::Second, None));
            (code(wrong))
            div .actions { button .primary type="submit" { "Sign in" } }
        }
    };
    page(at, status(wrong), "One more step", &body)
}

/// An app is set up.
pub(in crate::oauth) fn set_up(at: &Endpoints, setting: &Setting<'_>, wrong: Option<Wrong>) -> Answer {
    let key = otp::readable(&setting.offer.key);
    let target = setting.about.map_or("/account/security", |_| "/login/second");
    let body = html! {
        h1 { "Set up a second factor" }
        p .lead { "Add this key to an authenticator app, as a time-based one. From then on you type a code of that app when you sign in." }
        (alert(wrong))
        label for="key" { "Key for your app" }
        input #key type="text" readonly value=(key) autocomplete="off" spellcheck="false";
        p .other { a href=(address(at, setting.user, &key)) { "Open it in an app on this device" } }
        form method="post" action=(path(at, target)) {
            @if let Some(about) = setting.about { input type="hidden" name="request" value=(about.id.expose()); }
            input type="hidden" name=(FORM_TOKEN) value=(setting.token);
            input type="hidden" name="offer" value=(setting.offer.sealed);
            (code(wrong))
            div .actions { button .primary type="submit" { "Set it up" } }
        }
        @if setting.about.is_none() { (back(at)) }
    };
    page(at, status(wrong), "Set up a second factor", &body)
}

/// One is there: it can be removed.
pub(in crate::oauth) fn is_set_up(at: &Endpoints, token: &str, left: usize, wrong: Option<Wrong>) -> Answer {
    let body = html! {
        h1 { "Second factor" }
        p .lead { "You type a code of your authenticator app when you sign in. Recovery codes left: " (left) "." }
        (alert(wrong))
        form method="post" action=(path(at, "/account/security")) {
            input type="hidden" name=(FORM_TOKEN) value=(token);
            (code(wrong))
            div .actions { button type="submit" { "Remove it" } }
        }
        p .fine { "To get new recovery codes or use another app, remove it and set it up again." }
        (back(at))
    };
    page(at, status(wrong), "Second factor", &body)
}

/// The recovery codes, this once.
pub(in crate::oauth) fn codes(at: &Endpoints, codes: &[String], next: &str) -> Answer {
    let body = html! {
        h1 { "Your recovery codes" }
        p .lead { "Keep them where you find them without your app: each is good for one sign-in. They are not shown again." }
        ul .entries { @for code in codes { li { code { (grouped(code)) } } } }
        p .other { a href=(next) { "I have kept them: go on" } }
    };
    page(at, StatusCode::OK, "Your recovery codes", &body)
}

/// Nothing to set up here.
pub(in crate::oauth) fn elsewhere(at: &Endpoints) -> Answer {
    let body = html! {
        h1 { "Second factor" }
        p .lead { "There is none to set up here. If you sign in somewhere else, that place may ask for one." }
        (back(at))
    };
    page(at, StatusCode::OK, "Second factor", &body)
}

fn back(at: &Endpoints) -> Markup {
    html! { p .other { a href=(path(at, "/account")) { "Back to your account" } } }
}

fn code(wrong: Option<Wrong>) -> Markup {
    html! {
        label for="code" { "Code" }
        input #code type="text" name="code" autocomplete="one-time-code" autocapitalize="none" autocorrect="off" spellcheck="false"
            maxlength="40" required autofocus aria-describedby=[wrong.map(|_| "problem")];
    }
}

fn alert(wrong: Option<Wrong>) -> Markup {
    html! { @if let Some(wrong) = wrong { p #problem .alert role="alert" { (wrong.message()) } } }
}

const fn status(wrong: Option<Wrong>) -> StatusCode {
    match wrong {
        None => StatusCode::OK,
        Some(Wrong::Code) => StatusCode::UNAUTHORIZED,
        Some(Wrong::Throttled(_)) => StatusCode::TOO_MANY_REQUESTS,
    }
}

/// What apps open: the key, and what they call it.
fn address(at: &Endpoints, user: &User, key: &str) -> String {
    let issuer = encoded(&at.config.public_url.host);
    let name = encoded(&user.username);
    format!("otpauth://totp/{issuer}:{name}?secret={key}&issuer={issuer}")
}

fn encoded(text: &str) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if unreserved(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn grouped(code: &str) -> String {
    let letters: Vec<char> = code.chars().collect();
    let groups: Vec<String> = letters.chunks(4).map(|group| group.iter().collect()).collect();
    groups.join("-")
}

impl Wrong {
    fn message(self) -> String {
        match self {
            Self::Code => "That code is not right, or it was used before.".to_owned(),
            Self::Throttled(wait) => format!("Too many attempts. Try again in {}.", words::duration(wait)),
        }
    }
}
