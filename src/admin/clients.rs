//! Clients: those of the configuration, and those that registered themselves. One whose id is the address of a document is
//! nowhere on record; it shows in its grants.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::listing::{BATCH, Page, Walk, Wanted, shown, time};
use super::trouble::Trouble;
use crate::domain::client::{Client, ClientAuthMethod, ClientId, ClientOrigin, GrantType};
use crate::oauth::Endpoints;

/// Clients in the order of their ids.
pub(super) async fn list(at: &Endpoints, wanted: &Wanted) -> Result<Page, Trouble> {
    let after = wanted.after.as_deref().map(id).transpose()?;
    let mut walk = Walk::new(wanted, after);
    while walk.goes_on() {
        let batch = at.store.clients(walk.last(), BATCH).await?;
        let is_all = batch.len() < BATCH;
        let end = batch.last().map(|client| client.id.clone()).filter(|_| !is_all);
        let registered = batch.iter().map(|client| (client.id.clone(), entry(client)));
        let mut entries: BTreeMap<ClientId, Value> = registered.collect();
        // Who is written down is who is written down.
        let configured = at.config.oauth.clients.iter();
        let configured = configured.filter(|client| walk.covers(&client.id, end.as_ref()));
        entries.extend(configured.map(|client| (client.id.clone(), entry(client))));
        walk.take(entries, is_all);
    }
    Ok(walk.page())
}

/// One of them.
pub(super) async fn show(at: &Endpoints, text: &str) -> Result<Value, Trouble> {
    let id = id(text)?;
    if let Some(client) = at.config.oauth.clients.iter().find(|client| client.id == id) {
        return Ok(entry(client));
    }
    at.store
        .client(&id)
        .await?
        .as_ref()
        .map(entry)
        .ok_or_else(|| nobody(text))
}

/// Ends all grants of a client, whoever made them; it may ask again.
pub(super) async fn revoke(at: &Endpoints, text: &str) -> Result<Value, Trouble> {
    let id = id(text)?;
    let revoked = at.store.revoke_grants_for(&id).await?;
    if revoked == 0 {
        // One that is known by its document alone has nothing else to be known by.
        show(at, text).await?;
    }
    tracing::info!(client_id = %id, revoked, "administration: the grants of a client were revoked");
    Ok(json!({ "revoked": revoked }))
}

/// Forgets a client that registered itself, and ends its grants.
pub(super) async fn remove(at: &Endpoints, text: &str) -> Result<Value, Trouble> {
    let id = id(text)?;
    if at.config.oauth.clients.iter().any(|client| client.id == id) {
        return Err(Trouble::conflict(
            "configured",
            format!(
                "{} is in `oauth.clients` of the configuration; remove it there",
                shown(text)
            ),
        ));
    }
    if !at.store.remove_client(&id).await? {
        return Err(nobody(text));
    }
    tracing::info!(client_id = %id, "administration: a client was removed");
    Ok(json!({ "removed": id }))
}

/// What a client calls itself, if it is on record.
pub(super) async fn name(at: &Endpoints, id: &ClientId) -> Result<Option<String>, Trouble> {
    if let Some(client) = at.config.oauth.clients.iter().find(|client| client.id == *id) {
        return Ok(client.name.clone());
    }
    Ok(at.store.client(id).await?.and_then(|client| client.name))
}

/// What is shown of a client: nothing that it proves itself with.
fn entry(client: &Client) -> Value {
    let redirect_uris: Vec<&str> = client
        .redirect_uris
        .iter()
        .map(crate::domain::uri::RedirectUri::as_str)
        .collect();
    let grant_types: Vec<&str> = client.grant_types.iter().copied().map(GrantType::as_str).collect();
    json!({
        "client_id": client.id,
        "name": client.name,
        "origin": match client.origin {
            ClientOrigin::Configured => "configured",
            ClientOrigin::Registered => "registered",
            ClientOrigin::Document => "document",
        },
        "authentication": client.auth_method.map(ClientAuthMethod::as_str),
        "redirect_uris": redirect_uris,
        "grant_types": grant_types,
        "scope": client.scope.as_ref().map(ToString::to_string),
        "client_uri": client.display.client_uri,
        "known_since": (client.origin != ClientOrigin::Configured).then(|| time(client.created_at)),
    })
}

/// Takes an id from outside.
pub(super) fn id(text: &str) -> Result<ClientId, Trouble> {
    ClientId::parse(text).ok_or_else(|| Trouble::malformed(format!("{} is no client's id", shown(text))))
}

fn nobody(text: &str) -> Trouble {
    Trouble::unknown(format!("there is no client {} on record", shown(text)))
}
