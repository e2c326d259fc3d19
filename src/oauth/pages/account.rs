//! The page `/account`.

use http::StatusCode;
use maud::{Markup, html};

use super::{page, path, words};
use crate::domain::client::ClientId;
use crate::domain::clock::Timestamp;
use crate::domain::grant::Session;
use crate::domain::scope::{OFFLINE_ACCESS, Scope};
use crate::domain::secret::Secret;
use crate::oauth::account::{DAYS, FOR, TICKED, ago, upstream_names};
use crate::oauth::interaction::{FORM_TOKEN, SIGN_OUT_TOKEN, sign_out_token};
use crate::oauth::session::SignedIn;
use crate::oauth::{Answer, Endpoints};
use crate::store::Listed;

/// A browser in which the person is signed in.
pub(in crate::oauth) struct Place {
    /// What stands for it in the form.
    pub(in crate::oauth) name: String,
    /// Whether it is the one that shows the page.
    pub(in crate::oauth) is_this: bool,
    /// When and how.
    pub(in crate::oauth) session: Session,
}

/// A client that the person allowed something.
pub(in crate::oauth) struct Connected {
    /// Which.
    pub(in crate::oauth) id: ClientId,
    /// What it calls itself.
    pub(in crate::oauth) name: Option<String>,
    /// What it may use, and how much of it.
    pub(in crate::oauth) upstreams: Vec<(String, Scope)>,
    /// Since when.
    pub(in crate::oauth) since: Option<Timestamp>,
    /// When it last got tokens.
    pub(in crate::oauth) used_at: Option<Timestamp>,
}

/// What has just happened, or what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::oauth) enum Done {
    SessionEnded,
    OthersEnded,
    Revoked,
    TokenRevoked,
    PasswordChanged,
    TokenMade,
    NoName,
    NoUpstream,
    NotGranted,
    TooMany,
}

/// All that the page shows.
pub(in crate::oauth) struct About<'a> {
    pub(in crate::oauth) signed_in: &'a SignedIn,
    pub(in crate::oauth) places: &'a [Place],
    pub(in crate::oauth) connected: &'a [Connected],
    pub(in crate::oauth) tokens: &'a [Listed],
    /// Of every form but the one that signs out.
    pub(in crate::oauth) token: &'a str,
    /// Whether it is an account with a password that is kept here.
    pub(in crate::oauth) has_password: bool,
    /// Whether a second factor can be set up.
    pub(in crate::oauth) has_security: bool,
    /// Whether tokens can be made.
    pub(in crate::oauth) may_make: bool,
    pub(in crate::oauth) done: Option<Done>,
    /// The token that was just made.
    pub(in crate::oauth) made: Option<&'a Secret>,
    pub(in crate::oauth) now: Timestamp,
}

/// The page.
pub(in crate::oauth) fn account(at: &Endpoints, about: &About<'_>) -> Answer {
    let user = &about.signed_in.user;
    let body = html! {
        h1 { "Your account" }
        @if let Some(done) = about.done {
            p class=(if done.is_problem() { "alert" } else { "notice" }) role=(if done.is_problem() { "alert" } else { "status" }) {
                (done.message())
            }
        }
        @if let Some(secret) = about.made {
            label for="made" { "Your new token: copy it now, it is not shown again" }
            input #made type="text" readonly value=(secret.expose()) autocomplete="off" spellcheck="false";
        }
        dl {
            dt { "Signed in as" }
            dd { (words::display(user.name.as_deref().unwrap_or(&user.username), 80))
                @if user.name.is_some() { small { (words::display(&user.username, 128)) } }
                @if let Some(provider) = at.config.identity_provider(&about.signed_in.session.details.provider) {
                    small { "by " (provider.name) }
                } }
            @if let Some(email) = &user.email {
                dt { "E-mail" }
                dd { (words::display(email, 254)) }
            }
            @if !user.groups.is_empty() {
                dt { "Groups" }
                dd { (words::display(&user.groups.join(", "), 500)) }
            }
        }
        (connected(at, about))
        (places(at, about))
        @if about.may_make || !about.tokens.is_empty() { (tokens(at, about)) }
        @if about.has_security { p .other { a href=(path(at, "/account/security")) { "Second factor" } } }
        @if about.has_password { p .other { a href=(path(at, "/account/password")) { "Change your password" } } }
        form .other method="post" action=(path(at, "/logout")) {
            input type="hidden" name=(SIGN_OUT_TOKEN) value=(sign_out_token(at, about.signed_in));
            button type="submit" { "Sign out" }
        }
    };
    page(at, StatusCode::OK, "Your account", &body)
}

fn connected(at: &Endpoints, about: &About<'_>) -> Markup {
    html! {
        h2 #apps { "Apps that you allowed" }
        @if about.connected.is_empty() { p .fine { "None. An app appears here when you allow it something." } }
        ul .entries aria-labelledby="apps" {
            @for client in about.connected {
                @let name = client.name.as_deref().map(|name| words::display(name, 80)).filter(|name| !name.is_empty());
                @let name = name.unwrap_or_else(|| words::shorten(client.id.as_str(), 80));
                li {
                    strong { bdi { (name) } }
                    @for (upstream, scope) in &client.upstreams {
                        small { "Uses " (words::display(upstream, 128)) @if !scope.is_empty() { ": " (described(at, scope)) } }
                    }
                    small { @if let Some(since) = client.since { "Allowed " (ago(about.now, since)) }
                        @if let Some(used) = client.used_at { ", last used " (ago(about.now, used)) } }
                    (button(at, about, "revoke", ("client", client.id.as_str()), "Revoke", &format!("Revoke {name}")))
                }
            }
        }
    }
}

fn places(at: &Endpoints, about: &About<'_>) -> Markup {
    html! {
        h2 #places { "Where you are signed in" }
        ul .entries aria-labelledby="places" {
            @for place in about.places {
                @let details = &place.session.details;
                @let browser = words::browser(details.browser.as_deref().unwrap_or_default());
                li {
                    strong { (browser) } @if place.is_this { " (this browser)" }
                    small { "Signed in " (ago(about.now, place.session.authenticated_at))
                        @if let Some(address) = &details.address { " from " (address) }
                        @if let Some(seen) = details.seen_at { ", last seen " (ago(about.now, seen)) } }
                    @if !place.is_this {
                        (button(at, about, "end_session", ("session", &place.name), "Sign out there", &format!("Sign out {browser}")))
                    }
                }
            }
        }
        @if about.places.len() > 1 { (button(at, about, "end_others", ("all", "1"), "Sign out everywhere else", "Sign out everywhere else")) }
    }
}

fn tokens(at: &Endpoints, about: &About<'_>) -> Markup {
    html! {
        h2 #tokens { "Personal access tokens" }
        p .fine { "For programs that cannot have you sign in. Whoever has one is you." }
        ul .entries aria-labelledby="tokens" {
            @for listed in about.tokens {
                @let name = words::display(listed.grant.name.as_deref().unwrap_or_default(), 80);
                li {
                    strong { bdi { (name) } }
                    small { "For " (words::display(&upstream_names(at, &listed.grant).join(", "), 128))
                        @let scope = listed.grant.whole_scope();
                        @if !scope.is_empty() { ": " (described(at, &scope)) } }
                    small { "Made " (ago(about.now, listed.grant.created_at)) ", "
                        @match listed.grant.used_at {
                            Some(used) => { "last used " (ago(about.now, used)) }
                            None => { "not used yet" }
                        }
                        ", good for " (listed.grant.expires_at.since(about.now).as_secs().div_ceil(86_400)) " days more" }
                    (button(at, about, "revoke_token", ("token", &listed.id.to_string()), "Revoke", &format!("Revoke {name}")))
                }
            }
        }
        @if about.may_make {
            form method="post" action=(path(at, "/account")) {
                input type="hidden" name=(FORM_TOKEN) value=(about.token);
                input type="hidden" name="action" value="make_token";
                label for="name" { "Name of a new token" }
                input #name type="text" name="name" maxlength="80" required autocomplete="off";
                (upstreams(at))
                @let scopes = scopes(at, about);
                @if !scopes.is_empty() {
                    fieldset {
                        legend { "It may also" }
                        @for token in scopes.iter() {
                            label .tick { input type="checkbox" name={ (TICKED) (token) } value="1"; " " (words::display(&at.config.describe(token), 200)) }
                        }
                    }
                }
                label for="days" { "Good for" }
                select #days name="days" {
                    @for days in DAYS { option value=(days) selected[days == 30] { (days) " days" } }
                }
                div .actions { button type="submit" { "Make a token" } }
            }
        }
    }
}

/// What a token may be for; with one upstream there is nothing to choose.
fn upstreams(at: &Endpoints) -> Markup {
    let all = &at.config.upstreams;
    html! {
        @if let [only] = all.as_slice() {
            input type="hidden" name={ (FOR) (only.name) } value="1";
        } @else {
            fieldset {
                legend { "For" }
                @for upstream in all {
                    label .tick { input type="checkbox" name={ (FOR) (upstream.name) } value="1"; " " (upstream.name) }
                }
            }
        }
    }
}

/// What the person may be granted anywhere, besides what a server needs for any use of it.
fn scopes(at: &Endpoints, about: &About<'_>) -> Scope {
    let all = at.config.upstreams.iter().fold(Scope::empty(), |all, upstream| {
        let needed = &upstream.scopes;
        all.union(
            &at.config
                .scopes_of(upstream)
                .filtered(|token| !needed.contains(token.as_str())),
        )
    });
    all.filtered(|token| token.as_str() != OFFLINE_ACCESS && at.config.may_be_granted(&about.signed_in.user, token))
}

/// A form with one button.
fn button(
    at: &Endpoints,
    about: &About<'_>,
    action: &str,
    (name, value): (&str, &str),
    text: &str,
    says: &str,
) -> Markup {
    html! {
        form method="post" action=(path(at, "/account")) {
            input type="hidden" name=(FORM_TOKEN) value=(about.token);
            input type="hidden" name="action" value=(action);
            input type="hidden" name=(name) value=(value);
            button .small type="submit" aria-label=(says) { (text) }
        }
    }
}

fn described(at: &Endpoints, scope: &Scope) -> String {
    super::described(at, scope)
}

// === impl Done ===

impl Done {
    const REDIRECTED: [Self; 5] = [
        Self::SessionEnded,
        Self::OthersEnded,
        Self::Revoked,
        Self::TokenRevoked,
        Self::PasswordChanged,
    ];

    /// What an address says.
    pub(in crate::oauth) fn parse(text: &str) -> Option<Self> {
        Self::REDIRECTED.into_iter().find(|done| done.as_str() == text)
    }

    /// What stands for it in an address.
    pub(in crate::oauth) const fn as_str(self) -> &'static str {
        match self {
            Self::SessionEnded => "session_ended",
            Self::OthersEnded => "others_ended",
            Self::Revoked => "revoked",
            Self::TokenRevoked => "token_revoked",
            Self::PasswordChanged => "password_changed",
            Self::TokenMade => "token_made",
            Self::NoName => "no_name",
            Self::NoUpstream => "no_upstream",
            Self::NotGranted => "not_granted",
            Self::TooMany => "too_many",
        }
    }

    const fn is_problem(self) -> bool {
        matches!(self, Self::NoName | Self::NoUpstream | Self::NotGranted | Self::TooMany)
    }

    const fn message(self) -> &'static str {
        match self {
            Self::SessionEnded => "That browser is signed out.",
            Self::OthersEnded => "All other browsers are signed out.",
            Self::Revoked => "The app has no access any more.",
            Self::TokenRevoked => "The token is worth nothing any more.",
            Self::PasswordChanged => "Your password is changed, and you are signed out everywhere else.",
            Self::TokenMade => "The token is ready.",
            Self::NoName => "Give the token a name of at most 80 characters.",
            Self::NoUpstream => "Choose what the token is for.",
            Self::NotGranted => "Your account may not be granted what this server needs.",
            Self::TooMany => "You have 50 tokens. Revoke one first.",
        }
    }
}
