//! The lists: who and what there is, with what can be done about it beside each entry.

use http::StatusCode;
use maud::{Markup, html};
use serde_json::Value;

use super::{Place, encoded, framed, token_field};
use crate::admin::grants::{self, Which};
use crate::admin::listing::{Page, Wanted};
use crate::admin::sessions::Session;
use crate::admin::trouble::Trouble;
use crate::admin::{clients, refusals, users};
use crate::oauth::pages::words;
use crate::oauth::{Answer, Endpoints};

/// Entries of a page.
const ENTRIES: usize = 50;

/// Shows a page.
pub(super) async fn show(at: &Endpoints, session: &Session, place: Place, query: &str) -> Result<Answer, Trouble> {
    let mut wanted = Wanted::read(query, &[])?;
    wanted.limit = ENTRIES;
    let content = match place {
        Place::Overview => overview(at).await?,
        Place::Users => {
            let page = users::list(at, &wanted).await?;
            let list = listed(place, &wanted, &page, "Name, e-mail address or group", |entry| {
                user(session, &wanted, entry)
            });
            html! { form .begin method="get" action="/users/add" { button type="submit" { "Add an account" } } (list) }
        }
        Place::Clients => {
            let page = clients::list(at, &wanted).await?;
            listed(place, &wanted, &page, "Name, id or address", |entry| {
                client(session, &wanted, entry)
            })
        }
        Place::Grants => {
            let page = grants::list(at, &wanted, Which::All).await?;
            listed(place, &wanted, &page, "Person, client, server or scope", |entry| {
                grant(session, &wanted, entry)
            })
        }
        Place::Decisions => {
            let page = refusals::list(at, &wanted)?;
            listed(
                place,
                &wanted,
                &page,
                "Request id, person, client, server or tool",
                refusal,
            )
        }
    };
    let mut answer = framed(place, session, place.title(), &content);
    *answer.status_mut() = StatusCode::OK;
    Ok(answer)
}

async fn overview(at: &Endpoints) -> Result<Markup, Trouble> {
    let all = Wanted::everything();
    let counted = |page: &Page| {
        let more = if page.next.is_some() { "+" } else { "" };
        format!("{}{more}", page.entries.len())
    };
    let numbers = [
        (Place::Users, counted(&users::list(at, &all).await?), "people on record"),
        (
            Place::Clients,
            counted(&clients::list(at, &all).await?),
            "clients on record",
        ),
        (
            Place::Grants,
            counted(&grants::list(at, &all, Which::WithTokens).await?),
            "grants with tokens that can be used",
        ),
        (
            Place::Decisions,
            counted(&refusals::list(at, &all)?),
            "refused calls that are remembered",
        ),
    ];
    Ok(html! {
        p { "The gateway at " strong { (at.config.public_url.authority()) } ", version " (env!("CARGO_PKG_VERSION")) "." }
        div .numbers {
            @for (place, number, what) in numbers {
                a href=(place.path()) { strong { (number) } (what) }
            }
        }
        h2 { "Servers" }
        ul .entries {
            @for upstream in &at.config.upstreams {
                li {
                    div .what { h2 { (upstream.name) } small { (upstream.resource) } }
                    dl {
                        dt { "Scopes" } dd { (or_dash(&upstream.scopes.to_string())) }
                    }
                }
            }
        }
    })
}

fn listed(place: Place, wanted: &Wanted, page: &Page, by_what: &str, entry: impl Fn(&Value) -> Markup) -> Markup {
    let search = wanted.search.as_deref().unwrap_or_default();
    html! {
        form .find method="get" action=(place.path()) role="search" {
            label for="search" { (by_what) }
            input #search type="search" name="search" value=(search) maxlength="128" autocomplete="off" spellcheck="false";
            button type="submit" { "Search" }
        }
        @if page.entries.is_empty() {
            p .lead { @if search.is_empty() && wanted.after.is_none() { "There are none." } @else { "Nothing was found." } }
        } @else {
            ul .entries { @for one in &page.entries { li { (entry(one)) } } }
        }
        @if let Some(next) = &page.next {
            p .more {
                @let search = if search.is_empty() { String::new() } else { format!("&search={}", encoded(search)) };
                a href=(format!("{}?after={}{search}", place.path(), encoded(next))) { "More" }
            }
        }
    }
}

fn user(session: &Session, wanted: &Wanted, entry: &Value) -> Markup {
    let subject = text(entry, "subject");
    let disabled = entry["disabled"] == true;
    html! {
        div .what {
            h2 { bdi { (shown(entry, "username")) } }
            @if !text(entry, "name").is_empty() { small { bdi { (shown(entry, "name")) } } }
            @if disabled { span .tag .bad { "disabled" } }
            @if entry["must_change_password"] == true { span .tag { "has to change the password" } }
        }
        dl {
            (row("Subject", &shown(entry, "subject")))
            (row("E-mail", &shown(entry, "email")))
            (row("Groups", &joined(entry, "groups")))
            (row("Account", &shown(entry, "source")))
            (row("Second factor", &joined(entry, "second_factors")))
            (row("Signed in", &when(entry, "signed_in_at")))
        }
        div .does {
            @let path = format!("/users/{}", encoded(subject));
            @if entry["second_factors"].as_array().is_some_and(|all| !all.is_empty()) {
                (button(session, wanted, &format!("{path}/forget-factor"), "Forget second factor", subject))
            }
            (button(session, wanted, &format!("{path}/sign-out"), "Sign out", subject))
            @if entry["source"] == "store" {
                form method="get" action=(format!("{path}/reset")) {
                    button type="submit" aria-label=(format!("Reset password: {}", words::display(subject, 120))) { "Reset password" }
                }
            }
            @if disabled {
                (button(session, wanted, &format!("{path}/enable"), "Enable", subject))
            } @else {
                (button(session, wanted, &format!("{path}/disable"), "Disable", subject))
            }
        }
    }
}

fn client(session: &Session, wanted: &Wanted, entry: &Value) -> Markup {
    let id = text(entry, "client_id");
    html! {
        div .what {
            h2 { bdi { @if text(entry, "name").is_empty() { "No name" } @else { (shown(entry, "name")) } } }
            span .tag { (shown(entry, "origin")) }
        }
        dl {
            (row("Id", &shown(entry, "client_id")))
            (row("Redirects to", &joined(entry, "redirect_uris")))
            (row("Authenticates", &shown(entry, "authentication")))
            (row("Known since", &when(entry, "known_since")))
        }
        div .does { (button(session, wanted, &format!("/clients/{}/revoke", encoded(id)), "Revoke all grants", id)) }
    }
}

fn grant(session: &Session, wanted: &Wanted, entry: &Value) -> Markup {
    let id = text(entry, "id");
    html! {
        div .what {
            h2 { bdi { (shown(entry, "subject")) } }
            small { bdi { @if entry["kind"] == "personal" { "Personal token " (shown(entry, "token_name")) }
                @else if text(entry, "client_name").is_empty() { (shown(entry, "client")) } @else { (shown(entry, "client_name")) } } }
        }
        dl {
            (row("Client", &shown(entry, "client")))
            (row("Server", &joined(entry, "upstreams")))
            (row("Scope", &shown(entry, "scope")))
            (row("Allowed", &when(entry, "allowed_at")))
            @if entry["kind"] == "personal" { (row("Last used", &when(entry, "used_at"))) }
            @else { (row("Last tokens", &when(entry, "tokens_issued_at"))) }
        }
        div .does { (button(session, wanted, &format!("/grants/{}/revoke", encoded(id)), "Revoke", id)) }
    }
}

fn refusal(entry: &Value) -> Markup {
    let called = match (text(entry, "rpc_method"), text(entry, "tool")) {
        ("", "") => shown(entry, "method"),
        (method, "") => method.to_owned(),
        (method, _) => format!("{method} {}", shown(entry, "tool")),
    };
    html! {
        div .what {
            h2 { (super::sentence(&shown(entry, "reason"))) }
            span .tag .bad { (entry["status"]) " " (shown(entry, "decision")) }
        }
        dl {
            (row("When", &when(entry, "at")))
            (row("Request", &shown(entry, "request_id")))
            (row("Person", &shown(entry, "subject")))
            (row("Client", &shown(entry, "client")))
            (row("Server", &shown(entry, "upstream")))
            (row("Called", &called))
            (row("From", &shown(entry, "address")))
        }
    }
}

/// A button that is a form of its own; `about` tells those apart who hear nothing but the button.
fn button(session: &Session, wanted: &Wanted, action: &str, title: &str, about: &str) -> Markup {
    html! {
        form method="post" action=(action) {
            (token_field(session))
            input type="hidden" name="search" value=(wanted.search.as_deref().unwrap_or_default());
            button type="submit" aria-label=(format!("{title}: {}", words::display(about, 120))) { (title) }
        }
    }
}

fn row(title: &str, value: &str) -> Markup {
    html! { dt { (title) } dd { bdi { (or_dash(value)) } } }
}

fn or_dash(value: &str) -> &str {
    if value.is_empty() { "–" } else { value }
}

fn text<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry[name].as_str().unwrap_or_default()
}

/// Made fit to be shown: anybody may have written it.
fn shown(entry: &Value, name: &str) -> String {
    words::display(text(entry, name), 300)
}

fn joined(entry: &Value, name: &str) -> String {
    let all = entry[name].as_array().into_iter().flatten().filter_map(Value::as_str);
    words::display(&all.collect::<Vec<_>>().join(", "), 500)
}

/// `2026-11-23 13:20 UTC`.
fn when(entry: &Value, name: &str) -> String {
    match text(entry, name).get(..16) {
        Some(time) => format!("{} UTC", time.replace('T', " ")),
        None => String::new(),
    }
}
