//! The pages of the second factor: where it is shown at sign-in, and where the first one is set up.

use std::time::Duration;

use http::StatusCode;
use maud::{Markup, html};

use super::{page, passkey, path, qr, scripted, words};
use crate::domain::user::User;
use crate::identity::passkey::{Ceremony, PasskeyRefused};
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
    /// The passkey is not theirs, or the page was too old.
    Passkey,
    /// The passkey that was made is not taken.
    Refused(PasskeyRefused),
    /// Too many attempts.
    Throttled(Duration),
}

/// What somebody can show.
pub(in crate::oauth) struct Proof {
    /// A passkey.
    pub(in crate::oauth) ceremony: Option<Ceremony>,
    /// A code of an app; else there are recovery codes alone to type.
    pub(in crate::oauth) has_app: bool,
}

/// Who sets a factor up, and where.
pub(in crate::oauth) struct Setting<'a> {
    /// The form's token.
    pub(in crate::oauth) token: &'a str,
    /// The authorization that waits for it, at sign-in.
    pub(in crate::oauth) about: Option<&'a Interaction<'a>>,
    /// That they have shown one before, on the page of their account.
    pub(in crate::oauth) shown: Option<&'a str>,
    /// Who.
    pub(in crate::oauth) user: &'a User,
    /// The key of an app, where there is none yet.
    pub(in crate::oauth) offer: Option<&'a Offer>,
    /// A passkey, where browsers know them.
    pub(in crate::oauth) ceremony: Option<&'a Ceremony>,
}

/// At sign-in.
pub(in crate::oauth) fn ask(at: &Endpoints, about: &Interaction<'_>, asked: &Proof, wrong: Option<Wrong>) -> Answer {
    let body = html! {
        h1 { "One more step" }
        p .lead { (asked.lead()) }
        (alert(wrong))
        form method="post" action=(path(at, "/login/second")) {
            input type="hidden" name="request" value=(about.id.expose());
            input type="hidden" name=(FORM_TOKEN) value=(about.form_token(at, Purpose::Second, None));
            (proof(asked, "Sign in", true, wrong.is_some()))
        }
    };
    asked.page(at, status(wrong), "One more step", &body)
}

/// The part of a form in which a second factor is shown, and its button.
pub(super) fn proof(asked: &Proof, button: &str, focus: bool, wrong: bool) -> Markup {
    let label = if asked.has_app { "Code" } else { "Recovery code" };
    html! {
        @if let Some(ceremony) = &asked.ceremony { (passkey::part_to_show(ceremony)) }
        (code(label, focus && asked.ceremony.is_none(), wrong))
        div .actions { button .primary[asked.ceremony.is_none()] type="submit" { (button) } }
    }
}

/// An app or a passkey is set up.
pub(in crate::oauth) fn set_up(at: &Endpoints, setting: &Setting<'_>, wrong: Option<Wrong>) -> Answer {
    let title = if setting.shown.is_some() {
        "Add a second factor"
    } else {
        "Set up a second factor"
    };
    let target = setting.about.map_or("/account/security", |_| "/login/second");
    let hidden = html! {
        @if let Some(about) = setting.about { input type="hidden" name="request" value=(about.id.expose()); }
        @if let Some(shown) = setting.shown { input type="hidden" name="shown" value=(shown); }
        @if let Some(offer) = setting.offer { input type="hidden" name="offer" value=(offer.sealed); }
        input type="hidden" name=(FORM_TOKEN) value=(setting.token);
    };
    let body = html! {
        h1 { (title) }
        p .lead { "From then on you show it after your password when you sign in." }
        (alert(wrong))
        @if let Some(ceremony) = setting.ceremony {
            form method="post" action=(path(at, target)) {
                (hidden)
                (passkey::part_to_make(ceremony))
            }
        }
        @if let Some(offer) = setting.offer {
            (app(at, setting, offer))
            form method="post" action=(path(at, target)) {
                (hidden)
                (code("Code of the app", setting.ceremony.is_none(), wrong.is_some()))
                div .actions { button .primary type="submit" { "Set it up" } }
            }
        }
        @if setting.about.is_none() { (back(at)) }
    };
    match setting.ceremony {
        Some(_) => scripted(at, status(wrong), title, &body),
        None => page(at, status(wrong), title, &body),
    }
}

/// The key of an app: to be read, followed or copied.
fn app(at: &Endpoints, setting: &Setting<'_>, offer: &Offer) -> Markup {
    let key = otp::readable(&offer.key);
    let address = address(at, setting.user, &key);
    html! {
        h2 { "Authenticator app" }
        p { "Scan this with an app that shows codes, and type the code that it shows." }
        (qr::code(&address, "QR code with the key for your app"))
        p .other { a href=(address) { "Open it in an app on this device" } }
        label for="key" { "Or copy the key, as a time-based one" }
        input #key type="text" readonly value=(key) autocomplete="off" spellcheck="false";
    }
}

/// The recovery codes, this once.
pub(in crate::oauth) fn codes(at: &Endpoints, codes: &[String], next: &str) -> Answer {
    let body = html! {
        h1 { "Your recovery codes" }
        p .lead { "Keep them where you find them when you have nothing else: each is good for one sign-in. They are not shown again." }
        ul .entries { @for code in codes { li { code { (grouped(code)) } } } }
        p .other { a href=(next) { "I have kept them: go on" } }
    };
    page(at, StatusCode::OK, "Your recovery codes", &body)
}

pub(super) fn back(at: &Endpoints) -> Markup {
    html! { p .other { a href=(path(at, "/account")) { "Back to your account" } } }
}

fn code(label: &str, focus: bool, wrong: bool) -> Markup {
    html! {
        label for="code" { (label) }
        input #code type="text" name="code" autocomplete="one-time-code" autocapitalize="none" autocorrect="off" spellcheck="false"
            maxlength="64" required autofocus[focus] aria-describedby=[wrong.then_some("problem")];
    }
}

pub(super) fn alert(wrong: Option<Wrong>) -> Markup {
    html! { @if let Some(wrong) = wrong { p #problem .alert role="alert" { (wrong.message()) } } }
}

pub(super) const fn status(wrong: Option<Wrong>) -> StatusCode {
    match wrong {
        None => StatusCode::OK,
        Some(Wrong::Code | Wrong::Passkey) => StatusCode::UNAUTHORIZED,
        Some(Wrong::Refused(_)) => StatusCode::BAD_REQUEST,
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

// === impl Proof ===

impl Proof {
    /// What people are told that they can show.
    pub(super) const fn lead(&self) -> &'static str {
        match (self.has_app, self.ceremony.is_some()) {
            (true, false) => "Type the code that your authenticator app shows, or one of your recovery codes.",
            (true, true) => "Use your passkey, or type the code that your authenticator app shows, or a recovery code.",
            (false, true) => "Use your passkey, or type one of your recovery codes.",
            (false, false) => "Type one of your recovery codes.",
        }
    }

    /// A page that asks for it: with the script, if there is a passkey.
    pub(super) fn page(&self, at: &Endpoints, status: StatusCode, title: &str, body: &Markup) -> Answer {
        match self.ceremony {
            Some(_) => scripted(at, status, title, body),
            None => page(at, status, title, body),
        }
    }
}

// === impl Wrong ===

impl Wrong {
    fn message(self) -> String {
        match self {
            Self::Code => "That code is not right, or it was used before.".to_owned(),
            Self::Passkey => "That passkey did not count. Try again.".to_owned(),
            Self::Refused(PasskeyRefused::NotValid) => "The passkey could not be made. Try again.".to_owned(),
            Self::Refused(PasskeyRefused::Taken) => "That passkey is in use already.".to_owned(),
            Self::Refused(PasskeyRefused::TooMany) => {
                "You have as many passkeys as there may be. Remove one first.".to_owned()
            }
            Self::Throttled(wait) => format!("Too many attempts. Try again in {}.", words::duration(wait)),
        }
    }
}
