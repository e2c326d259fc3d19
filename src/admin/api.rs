//! `/api/…`: the administration for programs, `mcpgate users` and its like among them. Every request has the token.

use http::{Method, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::grants::Which;
use super::listing::Wanted;
use super::trouble::{Trouble, json_answer};
use super::{Admin, Call, clients, gate, grants, refusals, users};
use crate::oauth::{Answer, Endpoints};
use crate::telemetry::audit::{Act, Event};

/// Whose grants are to be ended.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whose {
    subject: String,
    #[serde(default)]
    client: Option<String>,
}

/// Answers a program.
pub(super) async fn answer(admin: &Admin, at: &Endpoints, call: &Call) -> Answer {
    let result = match admit(admin, at, call) {
        Ok(()) => act(at, call).await,
        Err(trouble) => Err(trouble),
    };
    match result {
        Ok((status, body)) => json_answer(status, &body),
        Err(trouble) => trouble.to_json(),
    }
}

fn admit(admin: &Admin, at: &Endpoints, call: &Call) -> Result<(), Trouble> {
    gate::check_source(&call.headers)?;
    let expected = at.config.admin_token.as_ref().ok_or_else(Trouble::not_set_up)?;
    let presented = gate::bearer(&call.headers);
    admin.throttle.check(expected, presented, call.address, at.now())
}

async fn act(at: &Endpoints, call: &Call) -> Result<(StatusCode, Value), Trouble> {
    let segments = call.segments(1);
    let method = match call.method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => return Err(Trouble::method()),
    };
    let wanted = |known: &[&str]| Wanted::read(&call.query, known);
    let done = match (method, segments.as_slice()) {
        ("GET", ["users"]) => users::list(at, &wanted(&[])?).await?.to_json("users"),
        ("POST", ["users"]) => return Ok((StatusCode::CREATED, users::add(at, body(call)?, "api").await?)),
        ("GET", ["users", subject]) => users::show(at, subject).await?,
        ("DELETE", ["users", subject]) => users::remove(at, subject).await?,
        ("POST", ["users", subject, "disable"]) => users::set_disabled(at, subject, true).await?,
        ("POST", ["users", subject, "enable"]) => users::set_disabled(at, subject, false).await?,
        ("POST", ["users", subject, "reset"]) => users::reset(at, subject, body(call)?).await?,
        ("POST", ["users", subject, "forget-factor"]) => users::forget_factor(at, subject).await?,
        ("GET", ["users", subject, "sessions"]) => users::sessions(at, subject).await?,
        ("DELETE", ["users", subject, "sessions"]) => users::end_sessions(at, subject).await?,
        ("GET", ["clients"]) => clients::list(at, &wanted(&[])?).await?.to_json("clients"),
        ("GET", ["clients", id]) => clients::show(at, id).await?,
        ("DELETE", ["clients", id]) => clients::remove(at, id).await?,
        ("POST", ["clients", id, "revoke"]) => clients::revoke(at, id).await?,
        ("GET", ["grants"]) => {
            let page = grants::list(at, &wanted(grants::FILTERS)?, Which::All).await?;
            page.to_json("grants")
        }
        ("GET", ["tokens"]) => {
            let page = grants::list(at, &wanted(grants::FILTERS)?, Which::WithTokens).await?;
            page.to_json("tokens")
        }
        ("POST", ["grants" | "tokens", id, "revoke"]) => grants::revoke(at, id).await?,
        ("POST", ["grants" | "tokens", "revoke"]) => {
            let whose: Whose = body(call)?;
            grants::revoke_of(at, &whose.subject, whose.client.as_deref()).await?
        }
        ("GET", ["decisions"]) => refusals::list(at, &wanted(refusals::FILTERS)?)?.to_json("decisions"),
        (_, ["users" | "clients" | "grants" | "tokens" | "decisions", ..]) => return Err(Trouble::method()),
        _ => return Err(Trouble::no_page()),
    };
    if method != "GET" {
        note(at, &segments, "api");
    }
    Ok((StatusCode::OK, done))
}

/// Writes down what an administrator did: to what, and how.
pub(super) fn note(at: &Endpoints, segments: &[&str], by: &str) {
    let (subject, client_id) = match segments {
        ["users", subject, ..] => (Some(*subject), None),
        ["clients", id, ..] => (None, Some(*id)),
        _ => (None, None),
    };
    at.metrics.audit().note(|| Act {
        subject,
        client_id,
        by: Some(by),
        ..Act::new(Event::Administration, acts(segments))
    });
}

/// A word for each act.
fn acts(segments: &[&str]) -> &'static str {
    match segments {
        ["users", _, "disable"] => "user_disabled",
        ["users", _, "enable"] => "user_enabled",
        ["users", _, "reset"] => "password_reset",
        ["users", _, "forget-factor"] => "second_factor_forgotten",
        ["users", _, "sessions" | "sign-out"] => "sessions_ended",
        ["users", _] => "user_removed",
        ["clients", _, "revoke"] => "client_revoked",
        ["clients", _] => "client_removed",
        ["grants" | "tokens", ..] => "grants_revoked",
        _ => "other",
    }
}

/// The body, which has to say what it is: no form of a browser can.
fn body<T: DeserializeOwned>(call: &Call) -> Result<T, Trouble> {
    let kind = call
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        return Err(Trouble::malformed("the body has to be application/json"));
    }
    serde_json::from_slice(&call.body).map_err(|error| {
        // What serde says may quote the body, and a password with it.
        let place = format!("line {}, column {}", error.line(), error.column());
        Trouble::malformed(match error.classify() {
            serde_json::error::Category::Data => format!("the body has other members than are wanted here ({place})"),
            _ => format!("the body is not JSON ({place})"),
        })
    })
}
