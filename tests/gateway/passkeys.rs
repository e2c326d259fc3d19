//! Passkeys, with an authenticator made of software: what counts, and everything that looks like it and does not.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mcpgate::domain::person::{Person, Source};
use mcpgate::domain::user::Subject;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::http1::Reply;
use crate::person::{Browser, Client, attribute, authorize_target, register};
use crate::setup::{Gateway, PASSWORD};

type Lie<'a> = Box<dyn Fn(&Value) -> String + 'a>;

/// User present, user verified.
const SHOWN: u8 = 0x05;

/// A device that keeps one key pair, and does what it is told, lies too.
struct Device {
    key: EcdsaKeyPair,
    id: Vec<u8>,
    counter: u32,
    flags: u8,
}

impl Device {
    fn new(id: &str) -> Self {
        Self {
            key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap(),
            id: id.as_bytes().to_vec(),
            counter: 0,
            flags: SHOWN,
        }
    }

    fn data(&self, party: &str, flags: u8) -> Vec<u8> {
        let mut data = Sha256::digest(party).to_vec();
        data.push(flags);
        data.extend(self.counter.to_be_bytes());
        data
    }

    /// What `navigator.credentials.create` yields.
    fn make(&self, options: &Value, origin: &str) -> String {
        let party = options["publicKey"]["rp"]["id"].as_str().unwrap();
        let client = client_data("webauthn.create", options, origin);
        let mut data = self.data(party, self.flags | 0x40);
        data.extend([0; 16]);
        data.extend(u16::try_from(self.id.len()).unwrap().to_be_bytes());
        data.extend(&self.id);
        let point = &self.key.public_key().as_ref()[1..];
        data.extend([0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32]);
        data.extend(&point[..32]);
        data.extend([0x22, 0x58, 32]);
        data.extend(&point[32..]);
        let mut attestation = b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x59".to_vec();
        attestation.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        attestation.extend(data);
        self.credential(&json!({
            "clientDataJSON": URL_SAFE_NO_PAD.encode(client),
            "attestationObject": URL_SAFE_NO_PAD.encode(attestation),
            "transports": ["internal", "of-tomorrow"],
        }))
    }

    /// What `navigator.credentials.get` yields.
    fn show(&self, options: &Value, origin: &str) -> String {
        let party = options["publicKey"]["rpId"].as_str().unwrap().to_owned();
        self.show_to(&party, &client_data("webauthn.get", options, origin))
    }

    fn show_to(&self, party: &str, client: &str) -> String {
        let data = self.data(party, self.flags);
        let signed = [data.as_slice(), &Sha256::digest(client)].concat();
        let signature = self.key.sign(&SystemRandom::new(), &signed).unwrap();
        self.credential(&json!({
            "clientDataJSON": URL_SAFE_NO_PAD.encode(client),
            "authenticatorData": URL_SAFE_NO_PAD.encode(data),
            "signature": URL_SAFE_NO_PAD.encode(signature.as_ref()),
        }))
    }

    fn credential(&self, response: &Value) -> String {
        let id = URL_SAFE_NO_PAD.encode(&self.id);
        json!({ "id": id, "rawId": id, "type": "public-key", "response": response }).to_string()
    }
}

fn client_data(kind: &str, options: &Value, origin: &str) -> String {
    json!({ "type": kind, "challenge": options["publicKey"]["challenge"], "origin": origin, "crossOrigin": false })
        .to_string()
}

/// A gateway with a name: browsers know no passkeys at addresses.
async fn start(more: &str) -> Gateway {
    let named = |yaml: String| format!("{}\n{more}\n", yaml.replacen("http://127.0.0.1", "http://localhost", 1));
    let mut gateway = Gateway::start_with(named).await;
    gateway.host = gateway.host.replace("127.0.0.1", "localhost");
    gateway
}

async fn type_password(gateway: &Gateway, browser: &mut Browser, client: &Client, name: &str) -> Reply {
    let target = authorize_target(client, Some(&gateway.resource("two")), None, &[("prompt", "login")]);
    let reply = browser.get(gateway, &target).await;
    let page = browser.follow(gateway, reply).await;
    let reply = browser
        .fill_in(gateway, &page, &[("username", name), ("password", PASSWORD)])
        .await;
    browser.follow(gateway, reply).await
}

/// What the page has the script ask for.
fn options(page: &Reply) -> Value {
    let html = page.text();
    let tag = html.split("data-options=").nth(1).unwrap_or_else(|| panic!("{html}"));
    let text = attribute(&format!("data-options={tag}"), "data-options").unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn recovery_codes(page: &Reply) -> Vec<String> {
    let text = page.text();
    let codes = text.split("<code>").skip(1);
    codes.map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
}

/// Somebody who has made a passkey on the page of their account.
async fn with_passkey(gateway: &Gateway, client: &Client, name: &str, device: &Device) -> (Browser, Vec<String>) {
    let mut browser = Browser::default();
    type_password(gateway, &mut browser, client, name).await;
    let page = browser.get(gateway, "/account/security").await;
    let answer = device.make(&options(&page), &gateway.origin());
    let pairs = [("passkey", answer.as_str()), ("name", "Ada's <laptop>")];
    let done = browser.fill_in(gateway, &page, &pairs).await;
    let codes = recovery_codes(&done);
    assert_eq!(codes.len(), 10, "{}", done.text());
    (browser, codes)
}

async fn records(gateway: &Gateway, name: &str) -> mcpgate::domain::factors::Factors {
    let subject = Subject::of_username(name).unwrap();
    let store = &gateway.running.endpoints().store;
    store.factors(&subject).await.unwrap().unwrap_or_default()
}

#[tokio::test]
async fn a_passkey_is_made_and_asked_for_after_the_password() {
    let gateway = start("").await;
    let client = register(&gateway, json!({})).await;
    let mut device = Device::new("laptop");
    let (mut browser, codes) = with_passkey(&gateway, &client, "ada", &device).await;

    let mut other = Browser::default();
    let page = type_password(&gateway, &mut other, &client, "ada").await;
    assert!(page.text().contains("One more step"), "{}", page.text());
    assert!(!other.cookies.contains_key("mcpgate_session"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("script-src 'sha256-") && !policy.contains("unsafe"),
        "{policy}"
    );
    let asked = options(&page);
    assert_eq!(asked["publicKey"]["rpId"], "localhost");
    assert_eq!(asked["publicKey"]["userVerification"], "required");
    device.counter = 7;
    let answer = device.show(&asked, &gateway.origin());
    let done = other.fill_in(&gateway, &page, &[("passkey", &answer)]).await;
    assert_eq!(done.status, 303, "{}", done.text());
    assert!(other.cookies.contains_key("mcpgate_session"));
    assert!(other.follow(&gateway, done).await.text().contains("name=\"decision\""));
    let kept = records(&gateway, "ada").await;
    assert_eq!((kept.passkeys.len(), kept.passkeys[0].counter), (1, 7));
    assert!(kept.passkeys[0].used_at.is_some());

    // The page says what there is, and a passkey opens it; then another is added, and the first removed.
    let page = browser.get(&gateway, "/account/security").await;
    assert!(page.text().contains("Ada's &lt;laptop&gt;"), "{}", page.text());
    device.counter = 8;
    let answer = device.show(&options(&page), &gateway.origin());
    let open = browser.fill_in(&gateway, &page, &[("passkey", &answer)]).await;
    assert!(open.text().contains("remove_passkey"), "{}", open.text());
    let phone = Device::new("phone");
    let hidden = |name: &str| {
        let text = open.text();
        let tag = text.split(&format!("name=\"{name}\"")).nth(1).unwrap().to_owned();
        attribute(&tag, "value").unwrap()
    };
    let (token, shown) = (hidden("csrf"), hidden("shown"));
    let press = [("csrf", token.as_str()), ("shown", shown.as_str()), ("deed", "add")];
    let add = browser.submit(&gateway, "/account/security", &press).await;
    let asked = options(&add);
    assert_eq!(
        asked["publicKey"]["excludeCredentials"][0]["id"],
        URL_SAFE_NO_PAD.encode("laptop")
    );
    let answer = phone.make(&asked, &gateway.origin());
    let open = browser
        .fill_in(&gateway, &add, &[("passkey", &answer), ("name", "")])
        .await;
    assert!(open.text().contains("Passkey 2"), "{}", open.text());
    let first = URL_SAFE_NO_PAD.encode("laptop");
    let press = [
        ("csrf", token.as_str()),
        ("shown", shown.as_str()),
        ("deed", "remove_passkey"),
        ("id", first.as_str()),
    ];
    let open = browser.submit(&gateway, "/account/security", &press).await;
    assert!(!open.text().contains("laptop"), "{}", open.text());
    assert_eq!(records(&gateway, "ada").await.passkeys.len(), 1);

    // Who has lost them all has the recovery codes.
    let mut third = Browser::default();
    let page = type_password(&gateway, &mut third, &client, "ada").await;
    assert_eq!(third.fill_in(&gateway, &page, &[("code", &codes[0])]).await.status, 303);
}

/// Whoever is disabled between the password and the passkey is out; a restart forgets neither passkeys nor what is under way.
#[tokio::test]
async fn a_passkey_outlives_a_restart_but_not_its_person() {
    let gateway = start("").await;
    let client = register(&gateway, json!({})).await;
    let mut device = Device::new("laptop");
    with_passkey(&gateway, &client, "ada", &device).await;
    let mut browser = Browser::default();
    let page = type_password(&gateway, &mut browser, &client, "ada").await;
    let gateway = gateway.restart().await;
    device.counter = 1;
    let answer = device.show(&options(&page), &gateway.origin());
    assert_eq!(
        browser.fill_in(&gateway, &page, &[("passkey", &answer)]).await.status,
        303
    );
    let page = type_password(&gateway, &mut browser, &client, "ada").await;
    device.counter = 2;
    let answer = device.show(&options(&page), &gateway.origin());
    let endpoints = gateway.running.endpoints();
    let ada = Subject::of_username("ada").unwrap();
    let user = endpoints.identity.user(&ada).await.unwrap().unwrap();
    let person = Person::new(user, Source::Configuration, endpoints.now());
    endpoints.store.set_disabled(&person, true).await.unwrap();
    let reply = browser.fill_in(&gateway, &page, &[("passkey", &answer)]).await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    endpoints.store.set_disabled(&person, false).await.unwrap();
    // Forgotten by an administrator, it is asked for no more, and opens nothing that was begun before.
    let page = type_password(&gateway, &mut browser, &client, "ada").await;
    let answer = device.show(&options(&page), &gateway.origin());
    endpoints.store.reset_factors(&ada).await.unwrap();
    let reply = browser.fill_in(&gateway, &page, &[("passkey", &answer)]).await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    let page = type_password(&gateway, &mut browser, &client, "ada").await;
    assert!(page.text().contains("name=\"decision\""), "{}", page.text());
}

/// Whatever is wrong with an answer, nobody is signed in, and what is right is good once and in its own place.
#[tokio::test]
async fn what_looks_like_a_passkey_is_none() {
    let gateway = start("").await;
    let client = register(&gateway, json!({})).await;
    let mut device = Device::new("laptop");
    device.counter = 10;
    with_passkey(&gateway, &client, "ada", &device).await;
    let bobs = Device::new("bobs");
    with_passkey(&gateway, &client, "bob", &bobs).await;
    device.counter = 11;
    let origin = gateway.origin();

    let mut browser = Browser::default();
    let pkcs8 = device.key.to_pkcs8v1().unwrap();
    let with = |flags: u8| Device {
        key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap(),
        id: b"laptop".to_vec(),
        counter: 60,
        flags,
    };
    let twin = |id: &str| Device {
        counter: 60,
        ..Device::new(id)
    };
    let other = json!({ "publicKey": { "challenge": URL_SAFE_NO_PAD.encode([7; 32]) } });
    let lies: [(&str, Lie); 13] = [
        ("nothing", Box::new(|_| "x".to_owned())),
        ("an empty object", Box::new(|_| "{}".to_owned())),
        ("deep nesting", Box::new(|_| "[".repeat(15_000))),
        ("another key", Box::new(|asked| twin("laptop").show(asked, &origin))),
        (
            "an unknown passkey",
            Box::new(|asked| twin("unknown").show(asked, &origin)),
        ),
        ("somebody else's", Box::new(|asked| bobs.show(asked, &origin))),
        ("nobody there", Box::new(|asked| with(0x04).show(asked, &origin))),
        ("nobody verified", Box::new(|asked| with(0x01).show(asked, &origin))),
        (
            "another site",
            Box::new(|asked| with(SHOWN).show(asked, "http://evil.example")),
        ),
        (
            "a site below",
            Box::new(|asked| with(SHOWN).show(asked, "http://a.localhost")),
        ),
        (
            "another party",
            Box::new(|asked| with(SHOWN).show_to("evil.example", &client_data("webauthn.get", asked, &origin))),
        ),
        (
            "another challenge",
            Box::new(|_| with(SHOWN).show_to("localhost", &client_data("webauthn.get", &other, &origin))),
        ),
        (
            "another ceremony",
            Box::new(|asked| with(SHOWN).show_to("localhost", &client_data("webauthn.create", asked, &origin))),
        ),
    ];
    for (what, lie) in &lies {
        let page = type_password(&gateway, &mut browser, &client, "ada").await;
        let reply = browser
            .fill_in(&gateway, &page, &[("passkey", &lie(&options(&page)))])
            .await;
        assert_eq!(reply.status, 401, "{what}: {}", reply.text());
        assert!(reply.text().contains("did not count"), "{what}");
        assert!(!browser.cookies.contains_key("mcpgate_session"), "{what}");
    }

    // What bob was asked is nothing that ada can answer, and the other way round.
    let mut bob = Browser::default();
    let his = type_password(&gateway, &mut bob, &client, "bob").await;
    let hers = type_password(&gateway, &mut browser, &client, "ada").await;
    let value = |page: &Reply, name: &str| {
        let text = page.text();
        attribute(text.split(&format!("name=\"{name}\"")).nth(1).unwrap(), "value").unwrap()
    };
    let answer = device.show(&options(&hers), &origin);
    let taken = value(&hers, "ceremony");
    let pairs = [("passkey", answer.as_str()), ("ceremony", taken.as_str())];
    assert_eq!(bob.fill_in(&gateway, &his, &pairs).await.status, 401);
    // Nor in another browser of her own.
    let mut second = Browser::default();
    let elsewhere = type_password(&gateway, &mut second, &client, "ada").await;
    assert_eq!(second.fill_in(&gateway, &elsewhere, &pairs).await.status, 401);

    // Too late.
    let late = type_password(&gateway, &mut browser, &client, "ada").await;
    let answer = device.show(&options(&late), &origin);
    gateway.advance(601);
    assert_eq!(
        browser.fill_in(&gateway, &late, &[("passkey", &answer)]).await.status,
        400
    );

    // Once, however often it is sent.
    let page = type_password(&gateway, &mut browser, &client, "ada").await;
    let answer = device.show(&options(&page), &origin);
    let pairs = [("passkey", answer.as_str())];
    assert_eq!(browser.fill_in(&gateway, &page, &pairs).await.status, 303);
    assert_eq!(browser.fill_in(&gateway, &page, &pairs).await.status, 400);

    // A device whose count stands still or goes back was copied.
    for counter in [11, 10, 0] {
        device.counter = counter;
        let mut thief = Browser::default();
        let page = type_password(&gateway, &mut thief, &client, "ada").await;
        let answer = device.show(&options(&page), &origin);
        assert_eq!(
            thief.fill_in(&gateway, &page, &[("passkey", &answer)]).await.status,
            401,
            "{counter}"
        );
    }
    assert_eq!(records(&gateway, "ada").await.passkeys[0].counter, 11);
}

#[tokio::test]
async fn what_is_no_new_passkey_is_not_kept() {
    let gateway = start("").await;
    let client = register(&gateway, json!({})).await;
    let device = Device::new("laptop");
    with_passkey(&gateway, &client, "ada", &device).await;
    let mut bob = Browser::default();
    type_password(&gateway, &mut bob, &client, "bob").await;
    let origin = gateway.origin();
    let unverified = Device {
        flags: 0x01,
        ..Device::new("silent")
    };
    let other = json!({ "publicKey": { "challenge": URL_SAFE_NO_PAD.encode([7; 32]), "rp": { "id": "localhost" } } });
    let lies: [(&str, Lie); 6] = [
        ("nothing", Box::new(|_| "null".to_owned())),
        (
            "another site",
            Box::new(|asked| Device::new("a").make(asked, "http://evil.example")),
        ),
        (
            "another challenge",
            Box::new(|_| Device::new("b").make(&other, &origin)),
        ),
        ("nobody verified", Box::new(|asked| unverified.make(asked, &origin))),
        ("ada's", Box::new(|asked| device.make(asked, &origin))),
        ("an assertion", Box::new(|_| device.show_to("localhost", "{}"))),
    ];
    for (what, lie) in &lies {
        let page = bob.get(&gateway, "/account/security").await;
        let answer = lie(&options(&page));
        let reply = bob
            .fill_in(&gateway, &page, &[("passkey", &answer), ("name", "x")])
            .await;
        assert_eq!(reply.status, 400, "{what}: {}", reply.text());
        assert!(records(&gateway, "bob").await.is_empty(), "{what}");
    }
    // Twice the same answer; and a page from before there was a factor adds none to it.
    let page = bob.get(&gateway, "/account/security").await;
    let stale = bob.get(&gateway, "/account/security").await;
    let answer = Device::new("bobs").make(&options(&page), &origin);
    let pairs = [("passkey", answer.as_str()), ("name", "x")];
    assert_eq!(recovery_codes(&bob.fill_in(&gateway, &page, &pairs).await).len(), 10);
    bob.fill_in(&gateway, &page, &pairs).await;
    let more = Device::new("more").make(&options(&stale), &origin);
    bob.fill_in(&gateway, &stale, &[("passkey", &more), ("name", "x")])
        .await;
    assert_eq!(records(&gateway, "bob").await.passkeys.len(), 1);
}

#[tokio::test]
async fn where_one_is_required_a_passkey_will_do() {
    let gateway = start("accounts: { second_factor: required }").await;
    let client = register(&gateway, json!({})).await;
    let device = Device::new("laptop");
    let mut browser = Browser::default();
    let page = type_password(&gateway, &mut browser, &client, "ada").await;
    assert!(page.text().contains("Set up a second factor"), "{}", page.text());
    let answer = device.make(&options(&page), &gateway.origin());
    let pairs = [("passkey", answer.as_str()), ("name", "Laptop")];
    let done = browser.fill_in(&gateway, &page, &pairs).await;
    assert_eq!(recovery_codes(&done).len(), 10, "{}", done.text());
    assert!(browser.cookies.contains_key("mcpgate_session"));
    let consent = done
        .text()
        .split("href=\"")
        .last()
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    assert!(
        browser
            .get(&gateway, &consent)
            .await
            .text()
            .contains("name=\"decision\"")
    );
    // Switched off, nobody is asked; at an address nobody is offered one.
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let mut browser = Browser::default();
    type_password(&gateway, &mut browser, &client, "ada").await;
    let page = browser.get(&gateway, "/account/security").await;
    assert!(page.text().contains("Authenticator app") && !page.text().contains("data-passkey"));
    assert!(!page.header("content-security-policy").unwrap().contains("script-src"));
}

/// Whoever has the password and a browser that somebody left open does not have the passkey.
#[tokio::test]
async fn a_password_is_changed_with_a_passkey_where_that_is_the_factor() {
    let gateway = start("").await;
    let client = register(&gateway, json!({})).await;
    crate::passwords::add(&gateway, "carol", false).await;
    let mut device = Device::new("laptop");
    let (mut browser, _) = with_passkey(&gateway, &client, "carol", &device).await;
    device.counter = 1;
    let new = "a new one that is long";
    let with = |answer: &str| {
        [
            ("password", PASSWORD),
            ("new_password", new),
            ("again", new),
            ("passkey", answer),
        ]
        .map(|(name, value)| (name, value.to_owned()))
    };
    let page = browser.get(&gateway, "/account/password").await;
    // What she was asked on another page does not count here.
    let other = browser.get(&gateway, "/account/security").await;
    for wrong in [
        String::new(),
        "{}".to_owned(),
        device.show(&options(&other), &gateway.origin()),
    ] {
        let pairs = with(&wrong);
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reply = browser.fill_in(&gateway, &page, &pairs).await;
        assert_eq!(reply.status, 400);
        assert!(
            reply.text().contains("The code or the passkey is not right"),
            "{}",
            reply.text()
        );
    }
    let page = browser.get(&gateway, "/account/password").await;
    let pairs = with(&device.show(&options(&page), &gateway.origin()));
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let done = browser.fill_in(&gateway, &page, &pairs).await;
    assert_eq!(
        done.header("location"),
        Some("/account?done=password_changed"),
        "{}",
        done.text()
    );
}

/// Ten is enough for anybody.
#[tokio::test]
async fn there_are_so_many_passkeys_and_no_more() {
    let gateway = start("").await;
    let client = register(&gateway, json!({})).await;
    let (mut browser, codes) = with_passkey(&gateway, &client, "ada", &Device::new("0")).await;
    let page = browser.get(&gateway, "/account/security").await;
    let open = browser.fill_in(&gateway, &page, &[("code", &codes[0])]).await;
    let value = |name: &str| {
        let text = open.text();
        attribute(text.split(&format!("name=\"{name}\"")).nth(1).unwrap(), "value").unwrap()
    };
    let (token, shown) = (value("csrf"), value("shown"));
    let press = [("csrf", token.as_str()), ("shown", shown.as_str()), ("deed", "add")];
    let early = browser.submit(&gateway, "/account/security", &press).await;
    for number in 1..10 {
        let add = browser.submit(&gateway, "/account/security", &press).await;
        let answer = Device::new(&"long".repeat(number * 25)).make(&options(&add), &gateway.origin());
        let reply = browser
            .fill_in(&gateway, &add, &[("passkey", &answer), ("name", "x")])
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(records(&gateway, "ada").await.passkeys.len(), 10);
    let full = browser.submit(&gateway, "/account/security", &press).await;
    assert!(!full.text().contains("data-passkey"), "{}", full.text());
    let answer = Device::new("late").make(&options(&early), &gateway.origin());
    let reply = browser
        .fill_in(&gateway, &early, &[("passkey", &answer), ("name", "x")])
        .await;
    assert_eq!(reply.status, 400);
    assert_eq!(records(&gateway, "ada").await.passkeys.len(), 10);
    // Asked for all of them, with ids as long as they may be, the form still fits.
    let mut other = Browser::default();
    let page = type_password(&gateway, &mut other, &client, "ada").await;
    let asked = options(&page);
    assert_eq!(asked["publicKey"]["allowCredentials"].as_array().unwrap().len(), 10);
    assert_eq!(other.fill_in(&gateway, &page, &[("code", &codes[1])]).await.status, 303);
}
