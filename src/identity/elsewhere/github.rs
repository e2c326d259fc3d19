//! GitHub, which speaks OAuth and no OpenID Connect: who somebody is, is asked for with their access token.

use serde_json::{Map, Value};
use url::Url;
use zeroize::Zeroizing;

use super::openid::{challenge, refusal, text};
use super::said::{self, Said, bounded};
use super::{Failure, Heard, Providers, Trip};
use crate::config::IdentityProvider;
use crate::fetch::Question;

/// Entries of one page of a list.
const PER_PAGE: usize = 100;
/// Most pages of a list that are asked for.
const MAX_PAGES: usize = 10;

/// Where a browser goes to sign in.
pub(super) fn way(provider: &IdentityProvider, url: &str, trip: Trip<'_>) -> Result<Url, Failure> {
    let mut way = address(url, "/login/oauth/authorize")?;
    let mut query = way.query_pairs_mut();
    query
        .append_pair("client_id", &provider.client_id)
        .append_pair("redirect_uri", trip.redirect_uri)
        .append_pair("scope", &scope(provider))
        .append_pair("state", trip.state)
        .append_pair("code_challenge", &challenge(trip.verifier))
        .append_pair("code_challenge_method", "S256")
        .append_pair("allow_signup", "false");
    if let Some(hint) = trip.login_hint {
        query.append_pair("login", hint);
    }
    if trip.again || trip.choose {
        query.append_pair("prompt", "select_account");
    }
    drop(query);
    Ok(way)
}

impl Providers {
    pub(super) async fn github_arrival(
        &self,
        provider: &IdentityProvider,
        (url, api_url): (&str, &str),
        code: &str,
        trip: Trip<'_>,
    ) -> Result<Heard, Failure> {
        let url = address(url, "/login/oauth/access_token")?;
        let mut form = vec![
            ("client_id", provider.client_id.as_str()),
            ("code", code),
            ("redirect_uri", trip.redirect_uri),
            ("code_verifier", trip.verifier),
        ];
        if let Some(secret) = &provider.client_secret {
            form.push(("client_secret", secret));
        }
        let question = Question {
            url: &url,
            form: Some(&form),
            authorization: None,
        };
        let what = "its token endpoint";
        let reply = self.fetcher.call(question).await.map_err(Failure::unreachable(what))?;
        // Errors come with status 200 as well.
        let answer = match (reply.status, reply.json) {
            (200..=428 | 430..=499, Some(Value::Object(answer))) => answer,
            (status, _) => return Err(Failure::status(what, status)),
        };
        let token = text(&answer, "access_token").ok_or_else(|| refusal(&Value::Object(answer.clone())))?;
        self.github_person(provider, api_url, Zeroizing::new(token.to_owned()))
            .await
    }

    /// Whom an access token is of, what they are called, and where they belong.
    pub(super) async fn github_person(
        &self,
        provider: &IdentityProvider,
        api_url: &str,
        token: Zeroizing<String>,
    ) -> Result<Heard, Failure> {
        let Value::Object(user) = self.ask(api_url, "/user", &token).await? else {
            return Err(Failure::wrong("its API does not answer with a user"));
        };
        let id = user.get("id").and_then(Value::as_u64);
        let id = id.ok_or_else(|| Failure::wrong("its API names a user without a number"))?;
        let email = self.verified_email(api_url, &token).await?;
        let organizations = if belongs(provider) {
            let entries = self.list(api_url, "/user/orgs", &token).await?;
            bounded(
                entries
                    .iter()
                    .filter_map(|entry| text(entry, "login"))
                    .map(str::to_owned)
                    .collect(),
            )?
        } else {
            Vec::new()
        };
        let mut groups = organizations.clone();
        if has_teams(provider) {
            groups.extend(self.list(api_url, "/user/teams", &token).await?.iter().filter_map(team));
        }
        Ok(Heard {
            said: Said {
                sub: id.to_string(),
                username: text(&user, "login").and_then(said::username),
                email_verified: email.is_some(),
                email,
                name: text(&user, "name").and_then(said::full_name),
                groups: bounded(groups)?,
                organizations,
            },
            token: Some(token),
            session: None,
            methods: Vec::new(),
        })
    }

    /// The address that they have chosen as theirs, if GitHub has verified it. The one of their profile may be missing, and
    /// nothing says that it was verified.
    async fn verified_email(&self, api_url: &str, token: &str) -> Result<Option<String>, Failure> {
        let entries = match self.list(api_url, "/user/emails", token).await {
            // The scope was not given.
            Err(Failure::Wrong(_)) => return Ok(None),
            other => other?,
        };
        let is = |entry: &Map<String, Value>, what: &str| entry.get(what).and_then(Value::as_bool) == Some(true);
        let primary = entries
            .iter()
            .find(|entry| is(entry, "primary") && is(entry, "verified"));
        Ok(primary.and_then(|entry| text(entry, "email")).and_then(said::email))
    }

    /// The entries of a list, page by page.
    async fn list(&self, api_url: &str, path: &str, token: &str) -> Result<Vec<Map<String, Value>>, Failure> {
        let mut all = Vec::new();
        for page in 1..=MAX_PAGES {
            let target = format!("{path}?per_page={PER_PAGE}&page={page}");
            let Value::Array(entries) = self.ask(api_url, &target, token).await? else {
                return Err(Failure::wrong("its API does not answer with a list"));
            };
            let last = entries.len() < PER_PAGE;
            all.extend(entries.into_iter().filter_map(|entry| match entry {
                Value::Object(entry) => Some(entry),
                _ => None,
            }));
            if last {
                return Ok(all);
            }
        }
        Err(Failure::wrong("its API names more than 1000 of something"))
    }

    async fn ask(&self, api_url: &str, target: &str, token: &str) -> Result<Value, Failure> {
        let what = "its API";
        let url = address(api_url, target)?;
        let authorization = Zeroizing::new(format!("Bearer {token}"));
        let question = Question {
            url: &url,
            form: None,
            authorization: Some(&authorization),
        };
        let reply = self.fetcher.call(question).await.map_err(Failure::unreachable(what))?;
        match (reply.status, reply.json) {
            (200, Some(value)) => Ok(value),
            (200, None) => Err(Failure::wrong("its API does not answer in JSON")),
            (401, _) => Err(Failure::Refused("that the token is not good".to_owned())),
            (404, _) => Err(Failure::wrong(
                "its API has no such list, or the scope for it is missing",
            )),
            // Too many requests are told with 403 as well.
            (status, _) => Err(Failure::status(what, status)),
        }
    }
}

/// `organisation/team`.
fn team(entry: &Map<String, Value>) -> Option<String> {
    let organization = entry.get("organization")?.as_object()?;
    Some(format!("{}/{}", text(organization, "login")?, text(entry, "slug")?))
}

/// Whether the configuration minds where somebody belongs.
fn belongs(provider: &IdentityProvider) -> bool {
    let allowed = &provider.allowed;
    !allowed.organizations.is_empty() || !allowed.groups.is_empty() || !provider.groups_map.is_empty()
}

/// Whether it names teams.
fn has_teams(provider: &IdentityProvider) -> bool {
    let mapped = provider.groups_map.iter().map(|(name, _)| name);
    provider
        .allowed
        .groups
        .iter()
        .chain(mapped)
        .any(|name| name.contains('/'))
}

fn scope(provider: &IdentityProvider) -> String {
    if let Some(scopes) = &provider.scopes {
        return scopes.join(" ");
    }
    let more = if belongs(provider) { " read:org" } else { "" };
    format!("read:user user:email{more}")
}

fn address(base: &str, target: &str) -> Result<Url, Failure> {
    Url::parse(&format!("{base}{target}")).map_err(|_| Failure::wrong("its address is not a URL"))
}
