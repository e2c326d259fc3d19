//! What the sign-in page has besides, where people can sign in elsewhere.

use maud::{Markup, html};

use super::{LoginError, target, warning, words};
use crate::domain::scope::Scope;
use crate::oauth::Endpoints;
use crate::oauth::browser::Purpose;
use crate::oauth::elsewhere::{CHOOSE, START};
use crate::oauth::interaction::{FORM_TOKEN, Interaction, path};

/// Where the answer will go. To press a button of a provider is to agree to that.
pub(super) fn terms(at: &Endpoints, about: &Interaction<'_>) -> Markup {
    if at.config.identity_providers.is_empty() || about.request.details.page.is_some() {
        return html! {};
    }
    let destination = about.destination();
    let device = about.request.details.device.is_some();
    html! {
        (warning(about, &destination))
        dl {
            dt { @if device { "Access goes to" } @else { "You are sent to" } }
            dd { (target(&destination))
                @if !device { small { (words::shorten(about.request.redirect.as_str(), 300)) } } }
            @if about.request.scope != Scope::empty() {
                dt { "It asks for" }
                dd { (super::described(at, &about.request.scope)) }
            }
        }
    }
}

/// A button for each provider.
pub(super) fn buttons(at: &Endpoints, about: &Interaction<'_>, error: Option<LoginError>) -> Markup {
    let token = about.form_token(at, Purpose::Elsewhere, None);
    // Who is not allowed may have another account there.
    let choose = matches!(error, Some(LoginError::NotAllowed(_) | LoginError::Choose));
    let only = !passwords(at);
    html! {
        @for provider in &at.config.identity_providers {
            form .actions method="post" action=(path(at, &format!("{START}{}", provider.id))) {
                input type="hidden" name="request" value=(about.id.expose());
                input type="hidden" name=(FORM_TOKEN) value=(token);
                @if choose { input type="hidden" name=(CHOOSE) value="1"; }
                button .primary[only] type="submit" { "Continue with " (words::display(&provider.name, 60)) }
            }
        }
    }
}

/// Whether anybody can sign in with a password.
pub(super) fn passwords(at: &Endpoints) -> bool {
    // Accounts of the store are made with the token of the admin listener.
    !at.config.users.is_empty() || at.config.admin_token.is_some()
}
