//! The page of one's account about second factors: what there is, and once one was shown, what can be done with it.

use http::StatusCode;
use maud::{Markup, html};

use super::second::{Proof, Wrong, alert, back, proof, status};
use super::{page, path, words};
use crate::config::SecondFactor;
use crate::domain::clock::Timestamp;
use crate::domain::factors::Factors;
use crate::oauth::account::ago;
use crate::oauth::interaction::FORM_TOKEN;
use crate::oauth::{Answer, Endpoints};

/// What somebody does to their factors; the value of the button that they press.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::oauth) enum Deed {
    /// Add one.
    Add,
    /// Remove the app.
    RemoveApp,
    /// Remove the passkey that the form names.
    RemovePasskey,
    /// Make other recovery codes.
    Renew,
}

/// What is shown of somebody's factors.
pub(in crate::oauth) struct Kept<'a> {
    /// The form's token.
    pub(in crate::oauth) token: &'a str,
    /// The factors.
    pub(in crate::oauth) factors: &'a Factors,
    /// What time it is.
    pub(in crate::oauth) now: Timestamp,
}

/// What there is. To change it takes a second factor, not only a browser that somebody left open.
pub(in crate::oauth) fn locked(at: &Endpoints, kept: &Kept<'_>, asked: &Proof, wrong: Option<Wrong>) -> Answer {
    let body = html! {
        h1 { "Second factor" }
        (list(at, kept, None))
        h2 { "Change something" }
        p { (asked.lead()) }
        (alert(wrong))
        form method="post" action=(path(at, "/account/security")) {
            input type="hidden" name=(FORM_TOKEN) value=(kept.token);
            (proof(asked, "Continue", false, wrong.is_some()))
        }
        (back(at))
    };
    asked.page(at, status(wrong), "Second factor", &body)
}

/// The same for somebody who has shown one.
pub(in crate::oauth) fn open(at: &Endpoints, kept: &Kept<'_>, shown: &str) -> Answer {
    let body = html! {
        h1 { "Second factor" }
        (list(at, kept, Some(shown)))
        (deed(at, kept, shown, Deed::Add, "Add an app or a passkey"))
        (deed(at, kept, shown, Deed::Renew, "New recovery codes"))
        p .fine {
            "If you remove the last one, the recovery codes go with it, and "
            @if at.config.second_factor == SecondFactor::Required { "you set one up anew when you next sign in." }
            @else { "your password alone signs you in." }
        }
        (back(at))
    };
    page(at, StatusCode::OK, "Second factor", &body)
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

fn list(at: &Endpoints, kept: &Kept<'_>, shown: Option<&str>) -> Markup {
    html! {
        ul .entries {
            @if kept.factors.authenticator.is_some() {
                li .row {
                    div { strong { "Authenticator app" } }
                    @if let Some(shown) = shown { (removal(at, kept, shown, Deed::RemoveApp, "")) }
                }
            }
            @for passkey in &kept.factors.passkeys {
                li .row {
                    div {
                        strong { (words::display(&passkey.name, 60)) }
                        small { "Passkey, made " (ago(kept.now, passkey.created_at)) ", "
                            @match passkey.used_at {
                                Some(at) => { "used " (ago(kept.now, at)) }
                                None => { "not used yet" }
                            }
                        }
                    }
                    @if let Some(shown) = shown { (removal(at, kept, shown, Deed::RemovePasskey, &passkey.id)) }
                }
            }
            li { "Recovery codes left: " (kept.factors.recovery.len()) }
        }
    }
}

fn removal(at: &Endpoints, kept: &Kept<'_>, shown: &str, deed: Deed, id: &str) -> Markup {
    let name = kept.factors.passkeys.iter().find(|passkey| passkey.id == id);
    let name = name.map_or("the authenticator app", |passkey| &passkey.name);
    html! {
        form method="post" action=(path(at, "/account/security")) {
            (hidden(kept, shown))
            @if !id.is_empty() { input type="hidden" name="id" value=(id); }
            button .small type="submit" name="deed" value=(deed.as_str()) aria-label=(format!("Remove {name}")) { "Remove" }
        }
    }
}

fn deed(at: &Endpoints, kept: &Kept<'_>, shown: &str, deed: Deed, label: &str) -> Markup {
    html! {
        form method="post" action=(path(at, "/account/security")) {
            (hidden(kept, shown))
            div .actions { button type="submit" name="deed" value=(deed.as_str()) { (label) } }
        }
    }
}

fn hidden(kept: &Kept<'_>, shown: &str) -> Markup {
    html! {
        input type="hidden" name=(FORM_TOKEN) value=(kept.token);
        input type="hidden" name="shown" value=(shown);
    }
}

// === impl Deed ===

impl Deed {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::RemoveApp => "remove_app",
            Self::RemovePasskey => "remove_passkey",
            Self::Renew => "renew",
        }
    }

    /// What a form wants.
    pub(in crate::oauth) fn parse(text: &str) -> Option<Self> {
        [Self::Add, Self::RemoveApp, Self::RemovePasskey, Self::Renew]
            .into_iter()
            .find(|deed| deed.as_str() == text)
    }
}
