//! Grants: what somebody allowed a client, with every token that followed from it. A token itself is nowhere to be shown, so
//! the living tokens of a gateway are its grants of which some can still be used.

use std::collections::BTreeMap;
use std::collections::HashMap;

use serde_json::{Value, json};

use super::listing::{BATCH, Page, Walk, Wanted, shown, time};
use super::trouble::Trouble;
use super::{clients, users};
use crate::domain::client::ClientId;
use crate::domain::clock::Timestamp;
use crate::domain::grant::GrantId;
use crate::oauth::Endpoints;
use crate::oauth::account::upstream_names;
use crate::store::Listed;

/// What can be asked for exactly.
pub(super) const FILTERS: &[&str] = &["subject", "client", "upstream"];
/// Most grants of one person that are looked at.
const MOST_OF_ONE: usize = 10_000;

/// Which grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Those that are on record and not over.
    All,
    /// Those with a token that can still be used.
    WithTokens,
}

/// Grants in the order of their ids.
pub(super) async fn list(at: &Endpoints, wanted: &Wanted, which: Which) -> Result<Page, Trouble> {
    let after = wanted.after.as_deref().map(id).transpose()?;
    let mut walk = Walk::new(wanted, after);
    let mut names = HashMap::new();
    let of_one = wanted.exactly("subject").map(str::to_owned);
    while walk.goes_on() {
        let (batch, is_all) = if let Some(subject) = &of_one {
            (
                at.store
                    .grants_of(&users::subject_or_client(subject)?, MOST_OF_ONE)
                    .await?,
                true,
            )
        } else {
            let batch = at.store.grants(walk.last(), BATCH).await?;
            let is_all = batch.len() < BATCH;
            (batch, is_all)
        };
        let now = at.now();
        let mut entries = BTreeMap::new();
        for listed in batch {
            let usable = usable_until(at, &listed);
            let counts = now < listed.grant.expires_at && (which == Which::All || now < usable);
            if walk.covers(&listed.id, None) && (counts || of_one.is_none()) {
                let entry = if counts {
                    entry(
                        at,
                        &listed,
                        name(at, &mut names, &listed.grant.client_id).await?.as_deref(),
                        usable,
                    )
                } else {
                    Value::Null
                };
                entries.insert(listed.id, entry);
            }
        }
        walk.take(entries, is_all);
    }
    Ok(walk.page())
}

/// Ends one, and every token of it.
pub(super) async fn revoke(at: &Endpoints, text: &str) -> Result<Value, Trouble> {
    let id = id(text)?;
    let unknown = || Trouble::unknown(format!("there is no grant {}; perhaps it is over", shown(text)));
    let listed = at.store.grant(&id).await?.ok_or_else(unknown)?;
    at.store.revoke_grant(&id).await?;
    tracing::info!(grant = %id, subject = %listed.grant.subject, client_id = %listed.grant.client_id,
        "administration: a grant was revoked");
    Ok(json!({ "revoked": 1 }))
}

/// Ends the grants of somebody, with one client or with all, and forgets what they allowed it.
pub(super) async fn revoke_of(at: &Endpoints, subject: &str, client: Option<&str>) -> Result<Value, Trouble> {
    let subject = users::subject_or_client(subject)?;
    let client = client.map(clients::id).transpose()?;
    let revoked = at.store.revoke_grants_of(&subject, client.as_ref()).await?;
    tracing::info!(%subject, revoked, "administration: the grants of somebody were revoked");
    Ok(json!({ "revoked": revoked }))
}

async fn name(
    at: &Endpoints,
    names: &mut HashMap<ClientId, Option<String>>,
    client: &ClientId,
) -> Result<Option<String>, Trouble> {
    if let Some(known) = names.get(client) {
        return Ok(known.clone());
    }
    let name = clients::name(at, client).await?;
    names.insert(client.clone(), name.clone());
    Ok(name)
}

/// What is shown of a grant.
fn entry(at: &Endpoints, listed: &Listed, client_name: Option<&str>, usable_until: Timestamp) -> Value {
    let grant = &listed.grant;
    let mut named = grant
        .resources()
        .filter_map(|resource| at.config.upstream_for(resource));
    json!({
        "id": listed.id.to_string(),
        "kind": if grant.name.is_some() { "personal" } else { "oauth" },
        "token_name": grant.name,
        "subject": grant.subject,
        "client": grant.client_id,
        "client_name": client_name,
        "upstream": named.next().map(|upstream| &upstream.name),
        "upstreams": upstream_names(at, grant),
        "resource": grant.resource.to_string(),
        "scope": grant.whole_scope().to_string(),
        "allowed_at": time(grant.created_at),
        "used_at": grant.used_at.map(time),
        "tokens_issued_at": time(listed.used_at.unwrap_or(grant.created_at)),
        "usable_until": time(usable_until),
        "expires_at": time(grant.expires_at),
    })
}

/// When the last token of a grant will have expired, at the latest.
fn usable_until(at: &Endpoints, listed: &Listed) -> Timestamp {
    if listed.grant.name.is_some() {
        return listed.grant.expires_at;
    }
    let oauth = &at.config.oauth;
    let longest = oauth.access_token_expires_in.max(oauth.refresh_token_expires_in);
    let since = listed.used_at.unwrap_or(listed.grant.created_at);
    since.plus(longest).min(listed.grant.expires_at)
}

/// Takes an id from outside.
fn id(text: &str) -> Result<GrantId, Trouble> {
    let number = (text.len() == 32)
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten();
    number
        .map(|number| GrantId::from_bytes(number.to_be_bytes()))
        .ok_or_else(|| Trouble::malformed(format!("{} is no grant's id", shown(text))))
}
