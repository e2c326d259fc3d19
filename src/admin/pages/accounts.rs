//! Accounts in the store: a new one, and another password for one. Passwords are made up here, and shown on the answer alone.

use http::StatusCode;
use maud::{Markup, html};

use super::{Form, Place, encoded, framed, sentence, token_field};
use crate::admin::sessions::Session;
use crate::admin::trouble::Trouble;
use crate::admin::users::{self, NewPassword, NewUser};
use crate::identity::password;
use crate::oauth::pages::words;
use crate::oauth::{Answer, Endpoints};

/// The form for a new account.
pub(super) fn new(session: &Session) -> Answer {
    form(session, None, None)
}

/// Adds one.
pub(super) async fn add(at: &Endpoints, session: &Session, typed: &Form) -> Result<Answer, Trouble> {
    let said = |name: &str| typed.get(name).unwrap_or_default().trim().to_owned();
    let optional = |name: &str| Some(said(name)).filter(|text| !text.is_empty());
    let groups = said("groups");
    let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
    let password = password::generated();
    let new = NewUser {
        username: said("username"),
        password: password.clone(),
        email: optional("email"),
        name: optional("name"),
        groups: groups.map(str::to_owned).collect(),
        must_change: true,
    };
    match users::add(at, new, "page").await {
        Ok(_) => Ok(shown_once(session, "Account added", &said("username"), &password)),
        Err(trouble) if [StatusCode::BAD_REQUEST, StatusCode::CONFLICT].contains(&trouble.status) => {
            Ok(form(session, Some(typed), Some(&trouble)))
        }
        Err(trouble) => Err(trouble),
    }
}

/// Asks before a password is reset: it cannot be taken back.
pub(super) async fn ask_to_reset(at: &Endpoints, session: &Session, subject: &str) -> Result<Answer, Trouble> {
    let user = users::resettable(at, subject).await?;
    let content = html! {
        div .slim {
            p { "The password of " strong { bdi { (words::display(&user.username, 128)) } } " stops working at once, and they are \
                 signed out everywhere. Apps keep their access." }
            p { "The next page shows another one, once. It is good for choosing their own when they sign in, and for nothing else." }
            form method="post" action=(format!("/users/{}/reset", encoded(subject))) {
                (token_field(session))
                div .actions { button .primary type="submit" { "Reset the password" } }
            }
            (way_back(None))
        }
    };
    Ok(framed(Place::Users, session, "Reset a password", &content))
}

/// Does it.
pub(super) async fn reset(at: &Endpoints, session: &Session, subject: &str) -> Result<Answer, Trouble> {
    let password = password::generated();
    let new = NewPassword {
        password: password.clone(),
    };
    users::reset(at, subject, new).await?;
    Ok(shown_once(session, "Password reset", subject, &password))
}

fn form(session: &Session, typed: Option<&Form>, trouble: Option<&Trouble>) -> Answer {
    let said = |name| typed.and_then(|form| form.get(name)).unwrap_or_default();
    let content = html! {
        div .slim {
            p { "They sign in with a username and a password. The next page shows one that is made up, once. It is good for \
                 choosing their own when they sign in, and for nothing else." }
            @if let Some(trouble) = trouble { p #problem .alert role="alert" { (sentence(&trouble.message)) } }
            form method="post" action="/users/add" {
                (token_field(session))
                label for="username" { "Username" }
                input #username type="text" name="username" value=(said("username")) maxlength="128" required autofocus
                    autocomplete="off" autocapitalize="none" spellcheck="false"
                    aria-describedby=[trouble.map(|_| "problem")];
                label for="name" { "Full name, if wanted" }
                input #name type="text" name="name" value=(said("name")) maxlength="200" autocomplete="off";
                label for="email" { "E-mail address, if wanted" }
                input #email type="email" name="email" value=(said("email")) maxlength="254" autocomplete="off";
                label for="groups" { "Groups, if wanted, with commas between them" }
                input #groups type="text" name="groups" value=(said("groups")) maxlength="4096" autocomplete="off"
                    autocapitalize="none" spellcheck="false";
                div .actions { button .primary type="submit" { "Add the account" } }
            }
            (way_back(None))
        }
    };
    let mut answer = framed(Place::Users, session, "Add an account", &content);
    if let Some(trouble) = trouble {
        *answer.status_mut() = trouble.status;
    }
    answer
}

fn shown_once(session: &Session, title: &str, subject: &str, password: &str) -> Answer {
    let content = html! {
        div .slim {
            p .notice role="status" { "Give it to " strong { bdi { (words::display(subject, 128)) } } " where nobody else \
                reads it. They are asked for another one when they sign in with it." }
            label for="made" { "Password: copy it now, it is not shown again" }
            input #made type="text" readonly value=(password) autocomplete="off" spellcheck="false";
            (way_back(Some(subject)))
        }
    };
    framed(Place::Users, session, title, &content)
}

fn way_back(search: Option<&str>) -> Markup {
    let target = match search {
        Some(search) => format!("{}?search={}", Place::Users.path(), encoded(search)),
        None => Place::Users.path().to_owned(),
    };
    html! { p .more { a href=(target) { "Back to the users" } } }
}
