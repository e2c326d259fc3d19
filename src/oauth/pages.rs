//! The pages that people see. Templates escape by construction; there is nothing from elsewhere, one inline stylesheet that the
//! content security policy knows by its hash, and no script but where passkeys are used, known by its hash as well.
//!
//! There is no `form-action` in the policy, on purpose: Chromium applies it to every redirect that follows a form, and the
//! consent form's answer leads to the client.

pub(super) mod account;
mod elsewhere;
pub(super) mod passkey;
pub(super) mod password;
mod problem;
mod qr;
pub(super) mod second;
pub(super) mod security;
pub(crate) mod style;
pub(crate) mod words;

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use super::browser::Purpose;
use super::client_document;
use super::consent::{Destination, Question};
use super::cookie;
use super::interaction::{FORM_TOKEN, Interaction, SIGN_OUT_TOKEN, path, sign_out_token};
use super::session::SignedIn;
use super::web;
use super::{Answer, Endpoints};
use crate::domain::client::ClientOrigin;
use crate::domain::scope::Scope;
use crate::identity::elsewhere::NotAllowed;
pub(super) use problem::Problem;
use style::{ICON, STYLE};

/// Why the sign-in page is shown again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginError {
    /// A field was empty.
    Incomplete,
    /// Username or password.
    Wrong,
    /// Too many attempts.
    Throttled(Duration),
    /// Their provider knows them, but they may not sign in here; why, if it is said.
    NotAllowed(Option<NotAllowed>),
    /// Nothing is wrong: they want to use another account.
    Choose,
    /// They changed their mind at the provider.
    Cancelled,
    /// What the provider says does not hold.
    ProviderFailed,
    /// The provider does not answer.
    ProviderSilent,
}

/// `default-src 'none'` and the one exception that each page needs. `img-src data:` is for the icon.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; frame-ancestors 'none'")
});

/// The same, and the script for passkeys.
static SCRIPTED: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(passkey::SCRIPT));
    format!("{}; script-src 'sha256-{hash}'", *POLICY)
});

/// The sign-in page.
pub(super) fn login(at: &Endpoints, about: &Interaction<'_>, username: &str, error: Option<LoginError>) -> Answer {
    let message = error.and_then(LoginError::message);
    let has_name = !username.is_empty();
    let body = html! {
        h1 { "Sign in" }
        @if about.request.details.page.is_some() {
            p .lead { "To see your account." }
        } @else {
            p .lead { (who(about)) " wants to use " strong { (about.upstream.name) } "." }
        }
        @if let Some(message) = &message {
            p #problem .alert role="alert" { (message) }
        }
        (elsewhere::terms(at, about))
        (elsewhere::buttons(at, about, error))
        @if !elsewhere::passwords(at) {
            (elsewhere_only(at))
        } @else {
        form method="post" action=(path(at, "/login")) {
            input type="hidden" name="request" value=(about.id.expose());
            input type="hidden" name=(FORM_TOKEN) value=(about.form_token(at, Purpose::SignIn, None));
            label for="username" { "Username" }
            input #username type="text" name="username" value=(username) autocomplete="username" autocapitalize="none"
                autocorrect="off" spellcheck="false" maxlength="128" required autofocus[!has_name]
                aria-describedby=[message.as_ref().map(|_| "problem")];
            label for="password" { "Password" }
            input #password type="password" name="password" autocomplete="current-password" maxlength="1024" required
                autofocus[has_name] aria-describedby=[message.as_ref().map(|_| "problem")];
            div .actions { button .primary type="submit" { "Sign in" } }
        }
        p .fine { "You sign in to " (at.config.public_url.authority()) ". The app does not see your password." }
        }
    };
    let mut answer = page(at, error.map_or(StatusCode::OK, LoginError::status), "Sign in", &body);
    if let Some(LoginError::Throttled(wait)) = error {
        let seconds = words::whole_seconds(wait);
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// What is said where no password is asked for.
fn elsewhere_only(at: &Endpoints) -> Markup {
    html! {
        p .fine { "You sign in there, and come back to " (at.config.public_url.authority()) ". The app does not see your password." }
    }
}

/// The consent page: who asks for what, where the answer goes, and as whom.
pub(super) fn consent(at: &Endpoints, about: &Interaction<'_>, signed_in: &SignedIn, question: &Question) -> Answer {
    let destination = about.destination();
    let redirect = about.request.redirect.as_str();
    let user = &signed_in.user;
    let token = about.form_token(at, Purpose::Consent, Some(signed_in));
    let body = html! {
        h1 { "Allow access?" }
        p .lead { (who(about)) " wants to use " strong { (about.upstream.name) } " as you." }
        (warning(about, &destination))
        h2 { @if question.already.is_empty() { "It would be able to" } @else { "It would newly be able to" } }
        ul .scopes {
            @if question.already.is_empty() {
                li { "Use " (about.upstream.name) " on your behalf" small { (about.upstream.resource) } }
            }
            @for token in question.fresh().iter() {
                @let description = at.config.describe(token);
                li { (words::display(&description, 200))
                    @if description != token.as_str() { small { (token) } } }
            }
        }
        @if !question.already.is_empty() {
            p #already .fine { "You allowed before, and it keeps: " (described(at, &question.already)) "." }
        }
        dl {
            @if let Some(site) = client_document::site(&about.client) {
                dt { "Says who it is at" }
                dd { strong { (words::shorten(&site, 253)) } small { (words::shorten(about.client.id.as_str(), 300)) } }
            }
            @if destination == Destination::Device {
                dt { "Access goes to" }
                dd { (target(&destination)) }
            } @else {
                dt { "You are sent to" }
                dd { (target(&destination)) small { (words::shorten(redirect, 300)) } }
            }
            dt { "Signed in as" }
            dd { (words::display(user.name.as_deref().unwrap_or(&user.username), 80))
                @if user.name.is_some() { small { (words::display(&user.username, 128)) } } }
        }
        form method="post" action=(path(at, "/consent")) {
            input type="hidden" name="request" value=(about.id.expose());
            input type="hidden" name=(FORM_TOKEN) value=(token);
            div .actions {
                button .primary type="submit" name="decision" value="approve" { "Allow" }
                button type="submit" name="decision" value="deny" { "Deny" }
            }
        }
        form .other method="post" action=(path(at, "/logout")) {
            input type="hidden" name="request" value=(about.id.expose());
            // Another name than above: who reads the page's hidden inputs as one list still sends the right one.
            input type="hidden" name=(SIGN_OUT_TOKEN) value=(sign_out_token(at, signed_in));
            span { "Not you?" } " "
            button .link type="submit" { "Use another account" }
        }
    };
    page(at, StatusCode::OK, "Allow access?", &body)
}

/// What scopes allow, in one line.
fn described(at: &Endpoints, scope: &Scope) -> String {
    let all: Vec<String> = scope
        .iter()
        .map(|token| words::display(&at.config.describe(token), 200))
        .collect();
    all.join("; ")
}

/// Where a person types the code that a device shows them.
pub(super) fn device(at: &Endpoints, token: &str, code: &str, wrong: bool) -> Answer {
    let body = html! {
        h1 { "Connect a device" }
        p .lead { "Enter the code that your device shows." }
        @if wrong {
            p #problem .alert role="alert" { "No device waits with this code. Check it, or start again on the device." }
        }
        form method="post" action=(path(at, "/device")) {
            input type="hidden" name=(FORM_TOKEN) value=(token);
            label for="user_code" { "Code" }
            input #user_code type="text" name="user_code" value=(words::shorten(code, 32)) autocomplete="off"
                autocapitalize="characters" autocorrect="off" spellcheck="false" maxlength="32" required autofocus
                aria-describedby=[wrong.then_some("problem")];
            div .actions { button .primary type="submit" { "Continue" } }
        }
        p .fine { "Never enter a code that somebody sent you: it would give them access in your name." }
    };
    let status = if wrong { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    page(at, status, "Connect a device", &body)
}

/// What a person reads when they have answered a device.
pub(super) fn device_done(at: &Endpoints, allowed: bool) -> Answer {
    let (title, lead) = if allowed {
        (
            "Your device is connected",
            "It notices within a few seconds. You can close this window.",
        )
    } else {
        (
            "Access was denied",
            "The device gets nothing. You can close this window.",
        )
    };
    let body = html! {
        h1 { (title) }
        p .lead { (lead) }
    };
    page(at, StatusCode::OK, title, &body)
}

/// The sign-out page.
pub(super) fn logout(at: &Endpoints, signed_in: &SignedIn) -> Answer {
    let body = html! {
        h1 { "Sign out?" }
        p .lead { "You are signed in as " strong { (words::display(&signed_in.user.username, 128)) } "." }
        p { "Apps that you allowed keep their access." }
        form method="post" action=(path(at, "/logout")) {
            input type="hidden" name=(SIGN_OUT_TOKEN) value=(sign_out_token(at, signed_in));
            div .actions { button .primary type="submit" { "Sign out" } }
        }
    };
    page(at, StatusCode::OK, "Sign out", &body)
}

/// What follows it.
pub(super) fn signed_out(at: &Endpoints) -> Answer {
    let body = html! {
        h1 { "You are signed out" }
        p .lead { "You can close this window." }
    };
    page(at, StatusCode::OK, "Signed out", &body)
}

/// A client by the name that it gave itself: as text, and as a claim unless the operator wrote it down.
fn who(about: &Interaction<'_>) -> Markup {
    let name = about.client.name.as_deref().map(|name| words::display(name, 80));
    let name = name.filter(|name| !name.is_empty());
    let configured = about.client.origin == ClientOrigin::Configured;
    html! {
        @match name {
            Some(name) if configured => bdi { strong { (name) } },
            Some(name) => { "An app that calls itself " bdi { strong { (name) } } },
            None if configured => bdi { strong { (words::shorten(about.client.id.as_str(), 80)) } },
            None => { "An app that gives no name" },
        }
    }
}

/// RFC 8252 §8.6: what listens on this computer may be any program. The site of a metadata document cannot vouch for it
/// either: where all its redirect URIs are on this computer, whoever runs a program here can use its name.
fn warning(about: &Interaction<'_>, destination: &Destination) -> Markup {
    let question = match destination {
        Destination::Site(_) => return html! {},
        Destination::ThisComputer => {
            "This request comes from an app on this computer, and any program could use that name."
        }
        Destination::Device => {
            return html! {
                p .notice role="note" {
                    strong { "Did you start this yourself, on a device in front of you?" }
                    " If somebody sent you the code or the link, deny: they would get access in your name."
                }
            };
        }
        Destination::App(_) => "The answer goes to an app on this device, and any program could use that name.",
    };
    let site = client_document::site(&about.client).filter(|_| about.client.is_loopback_only());
    html! {
        p .notice role="note" {
            (question)
            @if let Some(site) = site { " " (words::shorten(&site, 253)) " cannot tell whether it is its own app." }
            " Allow it only if you have just started connecting an app yourself."
        }
    }
}

fn target(destination: &Destination) -> Markup {
    html! {
        @match destination {
            Destination::Site(host) => strong { (words::shorten(host, 253)) },
            Destination::ThisComputer => strong { "an app on this computer" },
            Destination::App(scheme) => strong { "the app for " (words::shorten(scheme, 80)) " links" },
            Destination::Device => strong { "the device that shows the code" },
        }
    }
}

/// A whole page on which passkeys are used: with the script for them.
fn scripted(at: &Endpoints, status: StatusCode, title: &str, body: &Markup) -> Answer {
    let mut answer = page(at, status, title, &html! { (body) (passkey::script()) });
    if let Ok(policy) = HeaderValue::from_str(&SCRIPTED) {
        answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

/// A whole page with everything that keeps it from being framed, cached, scripted or read over a shoulder of the wire.
fn page(at: &Endpoints, status: StatusCode, title: &str, body: &Markup) -> Answer {
    let host = at.config.public_url.authority();
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " · " (host) }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    header { span .mark aria-hidden="true" {} span .host { (host) } }
                    (body)
                }
            }
        }
    };
    let mut answer = Response::new(Bytes::from(markup.into_string()));
    *answer.status_mut() = status;
    web::no_store(&mut answer);
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    if cookie::is_secure(at) {
        headers.insert(
            header::STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static("max-age=31536000"),
        );
    }
    answer
}

// === impl LoginError ===

impl LoginError {
    fn message(self) -> Option<String> {
        Some(match self {
            Self::Choose => return None,
            Self::Incomplete => "Enter your username and your password.".to_owned(),
            Self::Wrong => "Username or password is wrong.".to_owned(),
            Self::Throttled(wait) => format!("Too many attempts. Try again in {}.", words::duration(wait)),
            Self::NotAllowed(why) => {
                let because = match why {
                    Some(NotAllowed::Email) => {
                        "Your e-mail address has to be verified there before you can sign in here."
                    }
                    Some(NotAllowed::Domain) => "Your e-mail address is not one of those that may sign in here.",
                    Some(NotAllowed::Group) => "You are in none of the groups that may sign in here.",
                    Some(NotAllowed::Organization) => "You are in none of the organisations that may sign in here.",
                    Some(NotAllowed::Nameless) | None => "Your account may not sign in here.",
                };
                format!("{because} Use another account, or ask whoever runs this gateway.")
            }
            Self::Cancelled => "You were not signed in there. Try again, or go back to the app.".to_owned(),
            Self::ProviderFailed => {
                "The sign-in there did not come to a good end, and nobody was signed in. Try again; if it stays this way, \
                 tell whoever runs this gateway."
                    .to_owned()
            }
            Self::ProviderSilent => {
                "The place where you sign in does not answer at the moment. Try again in a minute.".to_owned()
            }
        })
    }
}
