//! `/account`: who is signed in, where, what they allowed, and tokens of their own making. What is revoked here counts at
//! once, for streams that are open too.

use std::collections::BTreeMap;
use std::time::Duration;

use super::browser::{self, Purpose};
use super::interaction::{FORM_TOKEN, check_form_token, get_or_post, own_form, path, sign_in_for};
use super::pages::account::{self as page, Connected, Place};
use super::pages::{self, Problem};
use super::session::{self, SignedIn};
use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints, authorize};
use crate::config::Upstream;
use crate::domain::client::{Client, ClientId};
use crate::domain::clock::Timestamp;
use crate::domain::error::OAuthError;
use crate::domain::grant::{AccessToken, Grant, GrantId, More, OwnPage};
use crate::domain::scope::{OFFLINE_ACCESS, Scope};
use crate::domain::secret::{Secret, SecretHash, SecretKind};
use crate::domain::uri::Resource;
use crate::store::{Issued, Listed};
use crate::telemetry::audit::{Act, Event};

/// Most grants that are looked at for one page.
const MAX_GRANTS: usize = 2_000;
/// Most personal access tokens of one person.
const MAX_TOKENS: usize = 50;
/// Most characters of a token's name.
const MAX_NAME: usize = 80;
/// Whoever makes a token signed in no longer ago than this: a browser that was left open makes none.
pub(super) const RECENT: Duration = Duration::from_secs(10 * 60);
/// What the name of a ticked scope's input begins with: a name that is there twice is refused.
pub(super) const TICKED: &str = "scope.";
/// What the name of a ticked upstream's input begins with.
pub(super) const FOR: &str = "for.";
/// How many days a token may last.
pub(super) const DAYS: [u64; 4] = [7, 30, 90, 365];
const DAY: u64 = 86_400;

/// Answers `/account`.
pub async fn account(at: &Endpoints, call: &Call<'_>) -> Answer {
    get_or_post(at, call, show, change).await
}

async fn show(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let Some(signed_in) = session::signed_in(at, call).await? else {
        return sign_in_for(at, call, OwnPage::Account).await;
    };
    let done = Parameters::of_query(call.request)?;
    let done = done.get("done").and_then(page::Done::parse);
    view(at, &signed_in, done, None).await
}

/// The page; with the token that was just made, which is shown this once.
async fn view(
    at: &Endpoints,
    signed_in: &SignedIn,
    done: Option<page::Done>,
    made: Option<&Secret>,
) -> Result<Answer, Problem> {
    let subject = &signed_in.user.subject;
    let mut places: Vec<Place> = at
        .store
        .sessions_of(subject)
        .await?
        .into_iter()
        .filter(|(_, session)| at.now() < session.expires_at)
        .map(|(id, session)| Place {
            name: name_of(at, &id),
            is_this: id == signed_in.id,
            session,
        })
        .collect();
    places.reverse();
    let (tokens, granted): (Vec<Listed>, Vec<Listed>) = at
        .store
        .grants_of(subject, MAX_GRANTS)
        .await?
        .into_iter()
        .filter(|listed| at.now() < listed.grant.expires_at)
        .partition(|listed| listed.grant.name.is_some());
    let about = page::About {
        signed_in,
        places: &places,
        connected: &connected(at, &granted).await?,
        tokens: &tokens,
        token: &browser::session_token(at, Purpose::Account, &signed_in.id),
        has_password: super::password::account(at, subject).await?.is_some(),
        has_security: super::security::is_ours(at, signed_in).await?,
        may_make: at.config.oauth.personal_access_tokens,
        done,
        made,
        now: at.now(),
    };
    Ok(pages::account::account(at, &about))
}

/// The clients of some grants, each once, the one that was used last before the others.
async fn connected(at: &Endpoints, granted: &[Listed]) -> Result<Vec<Connected>, Problem> {
    let mut by_client: BTreeMap<ClientId, Vec<&Listed>> = BTreeMap::new();
    for listed in granted {
        by_client
            .entry(listed.grant.client_id.clone())
            .or_default()
            .push(listed);
    }
    let mut all = Vec::with_capacity(by_client.len());
    for (id, grants) in by_client {
        // No document is fetched to draw a page.
        let client = match at.configured(&id) {
            Some(client) => Some(client.clone()),
            None => at.store.client(&id).await?,
        };
        let mut upstreams: BTreeMap<String, Scope> = BTreeMap::new();
        for listed in &grants {
            let scope = upstreams
                .entry(upstream_names(at, &listed.grant).join(", "))
                .or_default();
            *scope = scope.union(&listed.grant.scope);
        }
        all.push(Connected {
            since: grants.iter().map(|listed| listed.grant.created_at).min(),
            used_at: grants.iter().filter_map(|listed| listed.used_at).max(),
            name: client.and_then(|client| client.name),
            id,
            upstreams: upstreams.into_iter().collect(),
        });
    }
    all.sort_by_key(|client| std::cmp::Reverse(client.used_at));
    Ok(all)
}

/// What a grant is for, by the names that people know.
pub(crate) fn upstream_names<'a>(at: &'a Endpoints, grant: &'a Grant) -> Vec<&'a str> {
    let name = |resource: &'a Resource| match at.config.upstream_for(resource) {
        Some(upstream) => upstream.name.as_str(),
        None => resource.as_str(),
    };
    grant.resources().map(name).collect()
}

/// What a session is called on the page: nobody can tell its id from it.
fn name_of(at: &Endpoints, id: &SecretHash) -> String {
    browser::session_token(at, Purpose::SessionName, id)
}

// --- changes

async fn change(at: &Endpoints, call: &Call<'_>) -> Result<Answer, Problem> {
    let form = own_form(at, call)?;
    let Some(signed_in) = session::signed_in(at, call).await? else {
        return sign_in_for(at, call, OwnPage::Account).await;
    };
    let expected = browser::session_token(at, Purpose::Account, &signed_in.id);
    check_form_token(&form, FORM_TOKEN, &expected)?;
    let subject = &signed_in.user.subject;
    let done = match form.get("action") {
        Some("end_session") => {
            let wanted = form.require("session")?;
            let own = at.store.sessions_of(subject).await?;
            let found = own.iter().find(|(id, _)| browser::equal(wanted, &name_of(at, id)));
            if let Some((id, _)) = found {
                at.store.end_session(id).await?;
                tracing::info!(%subject, "a session was ended by its person");
                at.metrics.audit().note(|| Act {
                    subject: Some(subject.as_str()),
                    ..Act::new(Event::SignOut, "another_session")
                });
            }
            page::Done::SessionEnded
        }
        Some("end_others") => {
            let ended = at.store.end_sessions_of(subject, Some(&signed_in.id)).await?;
            tracing::info!(%subject, ended, "other sessions were ended by their person");
            at.metrics.audit().note(|| Act {
                subject: Some(subject.as_str()),
                ..Act::new(Event::SignOut, "other_sessions")
            });
            page::Done::OthersEnded
        }
        Some("revoke") => {
            let client = ClientId::parse(form.require("client")?).ok_or_else(unknown)?;
            let ended = at.store.revoke_grants_of(subject, Some(&client)).await?;
            tracing::info!(%subject, client.id = %client, ended, "access was taken back by its person");
            at.metrics.audit().note(|| Act {
                subject: Some(subject.as_str()),
                client_id: Some(client.as_str()),
                ..Act::new(Event::Revoked, "by_person")
            });
            page::Done::Revoked
        }
        Some("revoke_token") => {
            let wanted = form.require("token")?;
            let own = at.store.grants_of(subject, MAX_GRANTS).await?;
            let mut tokens = own.iter().filter(|listed| listed.grant.name.is_some());
            if let Some(listed) = tokens.find(|listed| listed.id.to_string() == wanted) {
                at.store.revoke_grant(&listed.id).await?;
                tracing::info!(%subject, "a personal access token was revoked by its person");
                at.metrics.audit().note(|| Act {
                    subject: Some(subject.as_str()),
                    ..Act::new(Event::Revoked, "personal_token")
                });
            }
            page::Done::TokenRevoked
        }
        Some("make_token") if at.config.oauth.personal_access_tokens => {
            return make_token(at, call, &form, &signed_in).await;
        }
        _ => return Err(OAuthError::invalid_request("there is no such action").into()),
    };
    let location = format!("{}?done={}", path(at, OwnPage::Account.path()), done.as_str());
    Ok(web::redirect(&location))
}

fn unknown() -> OAuthError {
    OAuthError::invalid_request("there is no such client")
}

/// Makes a personal access token: a grant with one access token and nothing to refresh it with.
async fn make_token(
    at: &Endpoints,
    call: &Call<'_>,
    form: &Parameters,
    signed_in: &SignedIn,
) -> Result<Answer, Problem> {
    let now = at.now();
    if now.since(signed_in.session.authenticated_at) > RECENT {
        return super::interaction::sign_in_again_for(at, call, OwnPage::Account).await;
    }
    let name = form.get("name").unwrap_or_default().trim();
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return view(at, signed_in, Some(page::Done::NoName), None).await;
    }
    let chosen: Vec<&Upstream> = at
        .config
        .upstreams
        .iter()
        .filter(|upstream| form.get(&format!("{FOR}{}", upstream.name)).is_some())
        .collect();
    if chosen.is_empty() {
        return view(at, signed_in, Some(page::Done::NoUpstream), None).await;
    }
    let days = form.get("days").and_then(|days| days.parse().ok());
    let days = days.filter(|days| DAYS.contains(days));
    let days = days.ok_or_else(|| OAuthError::invalid_request("a token lasts 7, 30, 90 or 365 days"))?;
    let own = at.store.grants_of(&signed_in.user.subject, MAX_GRANTS).await?;
    let living = own
        .iter()
        .filter(|listed| listed.grant.name.is_some() && now < listed.grant.expires_at);
    if living.count() >= MAX_TOKENS {
        return view(at, signed_in, Some(page::Done::TooMany), None).await;
    }
    // What a server needs for any use of it comes along; the rest is what was ticked.
    let ticked: Vec<&str> = form.pairs().filter_map(|(name, _)| name.strip_prefix(TICKED)).collect();
    let mut allowed = Vec::with_capacity(chosen.len());
    for upstream in &chosen {
        let everything = authorize::usable(at, &Client::own_page(), upstream, &at.config.scopes_of(upstream));
        let own = everything.filtered(|token| {
            let wanted = upstream.scopes.contains(token.as_str()) || ticked.contains(&token.as_str());
            wanted && token.as_str() != OFFLINE_ACCESS && at.config.may_be_granted(&signed_in.user, token)
        });
        if !at.config.with_implied(&own).covers(&upstream.scopes) {
            return view(at, signed_in, Some(page::Done::NotGranted), None).await;
        }
        allowed.push(More {
            resource: upstream.resource.clone(),
            scope: own,
        });
    }
    let More { resource, scope } = allowed.remove(0);
    let expires_at = now.plus(Duration::from_secs(days * DAY));
    let token = Secret::generate(SecretKind::PersonalToken);
    let grant_id = GrantId::generate();
    let grant = Grant {
        subject: signed_in.user.subject.clone(),
        client_id: ClientId::personal_token(),
        resource,
        more: allowed,
        scope: scope.clone(),
        authenticated_at: signed_in.session.authenticated_at,
        key: None,
        name: Some(name.to_owned()),
        used_at: None,
        created_at: now,
        expires_at,
    };
    let issued = Issued {
        grant_id,
        access: (
            token.hash(),
            AccessToken {
                grant: grant_id,
                scope,
                key: None,
                issued_at: now,
                expires_at,
            },
        ),
        refresh: None,
    };
    at.store.issue(&grant, &issued).await?;
    let (names, whole) = (upstream_names(at, &grant).join(", "), grant.whole_scope());
    tracing::info!(subject = %grant.subject, upstream = names, days, "a personal access token was made");
    at.metrics.audit().note(|| Act {
        subject: Some(grant.subject.as_str()),
        upstream: Some(&names),
        scope: Some(&whole),
        by: Some("personal_access_token"),
        ..Act::new(Event::TokenIssued, "done")
    });
    view(at, signed_in, Some(page::Done::TokenMade), Some(&token)).await
}

/// How long ago something was, for people.
pub(super) fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.since(then).as_secs();
    let (count, unit) = match seconds {
        0..=90 => return "just now".to_owned(),
        91..=5_399 => (seconds / 60, "minute"),
        5_400..=129_599 => (seconds.div_ceil(3_600), "hour"),
        _ => (seconds / DAY, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        let now = Timestamp::from_millis(10_000_000_000);
        for (seconds, text) in [
            (0, "just now"),
            (90, "just now"),
            (120, "2 minutes ago"),
            (5_399, "89 minutes ago"),
            (7_200, "2 hours ago"),
            (129_600, "1 day ago"),
            (864_000, "10 days ago"),
        ] {
            let then = Timestamp::from_millis(10_000_000_000 - seconds * 1_000);
            assert_eq!(ago(now, then), text);
        }
        assert_eq!(ago(now, Timestamp::from_millis(10_000_000_001)), "just now");
    }
}
