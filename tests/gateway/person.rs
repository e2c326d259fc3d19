//! A client and the person in front of it: registration, the pages as a browser would walk them, tokens.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::http1::Reply;
use crate::setup::{Gateway, PASSWORD};

pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub const REDIRECT: &str = "http://127.0.0.1:33418/callback";

pub fn challenge() -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER))
}

/// A browser: it keeps cookies and fills in forms.
#[derive(Default)]
pub struct Browser {
    pub cookies: BTreeMap<String, String>,
}

impl Browser {
    fn cookie_header(&self) -> String {
        self.cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn keep(&mut self, reply: &Reply) {
        for (_, value) in reply
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
        {
            let (pair, attributes) = value.split_once(';').unwrap_or((value, ""));
            let (name, content) = pair.split_once('=').unwrap();
            if content.is_empty() || attributes.to_ascii_lowercase().contains("max-age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), content.to_owned());
            }
        }
    }

    pub async fn get(&mut self, gateway: &Gateway, target: &str) -> Reply {
        let cookies = self.cookie_header();
        let headers: Vec<(&str, &str)> = if cookies.is_empty() {
            vec![]
        } else {
            vec![("Cookie", &cookies)]
        };
        let reply = gateway.get(target, &headers).await;
        self.keep(&reply);
        reply
    }

    pub async fn submit(&mut self, gateway: &Gateway, target: &str, pairs: &[(&str, &str)]) -> Reply {
        let cookies = self.cookie_header();
        let reply = gateway
            .post_form(target, &[("Cookie", &cookies), ("Origin", "null")], pairs)
            .await;
        self.keep(&reply);
        reply
    }

    /// Follows redirects for as long as they stay on the gateway.
    pub async fn follow(&mut self, gateway: &Gateway, mut reply: Reply) -> Reply {
        for _ in 0..5 {
            let Some(location) = reply.header("location").map(str::to_owned) else {
                return reply;
            };
            let inside = location
                .strip_prefix(&gateway.origin())
                .map(str::to_owned)
                .or_else(|| location.starts_with('/').then(|| location.clone()));
            match inside {
                Some(target) => reply = self.get(gateway, &target).await,
                None => return reply,
            }
        }
        panic!("too many redirects");
    }

    /// Fills in the form on a page: hidden inputs as they are, and what the person adds.
    pub async fn fill_in(&mut self, gateway: &Gateway, page: &Reply, add: &[(&str, &str)]) -> Reply {
        let html = page.text();
        let form = html
            .split("<form")
            .find(|form| {
                form.contains("type=\"hidden\"")
                    && add.iter().all(|(name, _)| form.contains(&format!("name=\"{name}\"")))
            })
            .unwrap_or_else(|| panic!("no form for {add:?} on {} {html}", page.status));
        let action = attribute(form.split('>').next().unwrap(), "action").expect("a form has an action");
        let mut pairs: Vec<(String, String)> = form
            .split("<input")
            .skip(1)
            .map(|input| input.split('>').next().unwrap())
            .filter(|input| attribute(input, "type").as_deref() == Some("hidden"))
            .map(|input| (attribute(input, "name").unwrap(), attribute(input, "value").unwrap()))
            // A script puts something into some of them.
            .filter(|(name, _)| add.iter().all(|(other, _)| other != name))
            .collect();
        pairs.extend(
            add.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let borrowed: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let target = action.strip_prefix(&gateway.origin()).unwrap_or(&action).to_owned();
        self.submit(gateway, &target, &borrowed).await
    }
}

pub fn attribute(tag: &str, name: &str) -> Option<String> {
    let value = tag.split(&format!("{name}=\"")).nth(1)?.split('"').next()?;
    Some(
        value
            .replace("&amp;", "&")
            .replace("&quot;", "\"")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&#39;", "'"),
    )
}

/// A registered client.
pub struct Client {
    pub id: String,
    pub secret: Option<String>,
    pub redirect: String,
}

/// Registers a client; `more` overrides or adds metadata.
pub async fn register(gateway: &Gateway, more: Value) -> Client {
    let mut metadata = json!({
        "client_name": "A test", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
    });
    for (name, value) in more.as_object().unwrap() {
        metadata[name] = value.clone();
    }
    let reply = gateway
        .post(
            "/register",
            &[("Content-Type", "application/json")],
            &metadata.to_string(),
        )
        .await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let answer = reply.json();
    Client {
        id: answer["client_id"].as_str().unwrap().to_owned(),
        secret: answer["client_secret"].as_str().map(str::to_owned),
        redirect: answer["redirect_uris"][0].as_str().unwrap().to_owned(),
    }
}

/// An authorization request's query.
pub fn authorize_target(client: &Client, resource: Option<&str>, scope: Option<&str>, more: &[(&str, &str)]) -> String {
    let challenge = challenge();
    let mut pairs = vec![
        ("response_type", "code"),
        ("client_id", &client.id),
        ("redirect_uri", &client.redirect),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
        ("state", "a state, äß& %2F"),
    ];
    pairs.extend(resource.map(|resource| ("resource", resource)));
    pairs.extend(scope.map(|scope| ("scope", scope)));
    pairs.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    pairs.extend(more.iter().filter(|(_, value)| !value.is_empty()));
    format!("/authorize?{}", crate::http1::form(&pairs))
}

/// Walks from `/authorize` through sign-in and consent to the redirect to the client.
pub async fn walk(gateway: &Gateway, browser: &mut Browser, target: &str, username: &str) -> Reply {
    let reply = browser.get(gateway, target).await;
    let mut reply = browser.follow(gateway, reply).await;
    if reply.status == 200 && reply.text().contains("name=\"password\"") {
        reply = browser
            .fill_in(gateway, &reply, &[("username", username), ("password", PASSWORD)])
            .await;
        reply = browser.follow(gateway, reply).await;
    }
    if reply.status == 200 && reply.text().contains("name=\"decision\"") {
        reply = browser.fill_in(gateway, &reply, &[("decision", "approve")]).await;
    }
    reply
}

/// Redeems a code.
pub async fn redeem(gateway: &Gateway, client: &Client, code: &str, more: &[(&str, &str)]) -> Reply {
    let mut pairs = vec![
        ("grant_type", "authorization_code"),
        ("client_id", client.id.as_str()),
        ("code", code),
        ("redirect_uri", client.redirect.as_str()),
        ("code_verifier", VERIFIER),
    ];
    pairs.extend(client.secret.as_deref().map(|secret| ("client_secret", secret)));
    pairs.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    pairs.extend(more.iter().filter(|(_, value)| !value.is_empty()));
    gateway.post_form("/token", &[], &pairs).await
}

/// Presents a refresh token.
pub async fn refresh(gateway: &Gateway, client: &Client, token: &str) -> Reply {
    let mut pairs = vec![
        ("grant_type", "refresh_token"),
        ("client_id", client.id.as_str()),
        ("refresh_token", token),
    ];
    pairs.extend(client.secret.as_deref().map(|secret| ("client_secret", secret)));
    gateway.post_form("/token", &[], &pairs).await
}

/// The tokens of a whole flow.
pub struct Tokens {
    pub access: String,
    pub refresh: String,
}

impl Tokens {
    pub fn of(reply: &Reply) -> Self {
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answer = reply.json();
        Self {
            access: answer["access_token"].as_str().unwrap().to_owned(),
            refresh: answer["refresh_token"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// Signs in, allows and redeems: tokens for an upstream.
pub async fn tokens(gateway: &Gateway, client: &Client, username: &str, upstream: &str) -> Tokens {
    let resource = gateway.resource(upstream);
    let reply = walk(
        gateway,
        &mut Browser::default(),
        &authorize_target(client, Some(&resource), None, &[]),
        username,
    )
    .await;
    let code = reply
        .redirected("code")
        .unwrap_or_else(|| panic!("no code: {}", reply.location()));
    Tokens::of(&redeem(gateway, client, &code, &[]).await)
}
