//! `identity_providers`: where people sign in who have their account elsewhere.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use super::presets::{PRESETS, Preset, preset_of_issuer};
use super::read::{At, Object};
use super::values::shown;
use super::{PublicUrl, keys};

/// What the label of other ways to sign in is, in metrics and subjects.
const TAKEN: [&str; 3] = ["client", "builtin", "login_page"];
/// Most providers: each is a button on the sign-in page.
const MOST: usize = 20;
/// How old what is known of a person may be when a token is wanted, if the file does not say.
const RECHECK: Duration = Duration::from_secs(15 * 60);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// An entry of `identity_providers`.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityProvider {
    /// Its label, and what subjects of its people begin with.
    pub id: String,
    /// What its button says.
    pub name: String,
    /// What is spoken there.
    pub protocol: Protocol,
    /// What we are called there.
    pub client_id: String,
    /// How we prove that; a public client has none.
    pub client_secret: Option<Zeroizing<String>>,
    /// Scopes that are asked for; `None` for those that the gateway needs.
    pub scopes: Option<Vec<String>>,
    /// Who may sign in.
    pub allowed: Allowed,
    /// Where in what it says of a person things are.
    pub claims: ClaimNames,
    /// What its groups are called here; groups that are not in it do not count. Empty if they keep their names.
    pub groups_map: Vec<(String, String)>,
    /// Whether an e-mail address is as good as none until the provider says that it was verified.
    pub require_verified_email: bool,
    /// How old what is known of a person may be when a token is wanted.
    pub recheck: Duration,
}

/// What is spoken with a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OpenID Connect, with discovery.
    OpenId {
        /// `iss`, byte for byte.
        issuer: String,
        /// What is particular about it.
        manners: Manners,
    },
    /// GitHub's own.
    GitHub {
        /// Where people sign in, without a slash at the end.
        url: String,
        /// Where programs ask, without a slash at the end.
        api_url: String,
    },
}

/// Where a provider of OpenID Connect has ways of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manners {
    /// It knows no `prompt=login`: people can choose an account, but not be made to sign in again.
    pub chooses_account_only: bool,
    /// It gives a refresh token for `access_type=offline` and not for a scope.
    pub offline_by_parameter: bool,
    /// The claim that says which organisation somebody is of, if it has one.
    pub organization_claim: Option<&'static str>,
}

/// Who may sign in: whoever meets every list that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Domains of e-mail addresses, in lower case. An address of [`Allowed::emails`] will do as well.
    pub domains: Vec<String>,
    /// E-mail addresses, in lower case.
    pub emails: Vec<String>,
    /// Groups as the provider calls them, one of which they are in.
    pub groups: Vec<String>,
    /// Organisations, in lower case, one of which they are in.
    pub organizations: Vec<String>,
}

/// The names of claims; of several, the first that is there counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// The username.
    pub username: Vec<String>,
    /// The e-mail address.
    pub email: String,
    /// The full name.
    pub name: String,
    /// The groups.
    pub groups: String,
}

/// The providers.
pub(super) fn read(top: &Object<'_>, public_url: &PublicUrl) -> Vec<IdentityProvider> {
    let items = top.items("identity_providers");
    if let (true, Some(at)) = (items.len() > MOST, top.get("identity_providers")) {
        at.problem(format!("has more than {MOST} providers"));
    }
    let mut ids = HashSet::new();
    let mut providers = Vec::new();
    for item in items {
        let Some((provider, id)) = item.identity_provider(public_url) else {
            continue;
        };
        if ids.insert(provider.id.clone()) {
            providers.push(provider);
        } else {
            id.problem(format!("{} is taken by an earlier provider", shown(&provider.id)));
        }
    }
    providers
}

impl<'a> At<'a> {
    fn identity_provider(&self, public_url: &PublicUrl) -> Option<(IdentityProvider, At<'a>)> {
        let object = self.object(keys::IDENTITY_PROVIDER)?;
        let at = object.required("id", "google").cloned();
        let id = at.as_ref().and_then(At::provider_id);
        let preset = preset(&object);
        let protocol = protocol(&object, preset, public_url);
        let client_id = object
            .required("client_id", "… with what the provider calls this gateway")
            .and_then(|at| at.text().map(str::to_owned));
        let client_secret = object.optional("client_secret", At::secret);
        let allowed = allowed(&object, protocol.as_ref());
        anyone(&object, &allowed, protocol.as_ref());
        let claims = claims(&object, preset);
        let name = object.optional("name", |at| at.text().map(str::to_owned));
        let provider = IdentityProvider {
            name: name
                .or_else(|| preset.map(|preset| preset.name.to_owned()))
                .or_else(|| id.clone())?,
            id: id?,
            client_id: client_id?,
            client_secret,
            scopes: object.optional("scopes", At::provider_scopes),
            allowed,
            claims,
            groups_map: object.or("groups_map", Vec::new(), At::group_names),
            require_verified_email: object.or("require_verified_email", true, At::boolean),
            recheck: object.or("recheck", RECHECK, |at| at.duration(Duration::ZERO, WEEK)),
            protocol: protocol?,
        };
        Some((provider, at?))
    }

    fn provider_id(&self) -> Option<String> {
        let text = self.text()?;
        let fine = text.len() <= 32
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fine {
            return self.refuse(format!(
                "{} is not an id; write up to 32 of a-z, 0-9 and -",
                shown(text)
            ));
        }
        if TAKEN.contains(&text) {
            return self.refuse(format!("{text} means something else; write another id"));
        }
        Some(text.to_owned())
    }

    /// Scopes as the provider spells them.
    fn provider_scopes(&self) -> Option<Vec<String>> {
        let mut scopes = Vec::new();
        for (item, text) in self.texts()? {
            let fine = text.len() <= 128 && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
            if fine {
                scopes.push(text.to_owned());
            } else {
                item.problem(format!("{} is not a scope; write one for each entry", shown(text)));
            }
        }
        Some(scopes)
    }

    /// `groups_map`: the provider's name of a group, and ours.
    fn group_names(&self) -> Option<Vec<(String, String)>> {
        let entries = self.entries(|| "must be a map; write {their-group: our-group}".to_owned())?;
        let entry = |(theirs, at): (&str, At<'_>)| Some((theirs.to_owned(), at.text()?.to_owned()));
        Some(entries.into_iter().filter_map(entry).collect())
    }

    fn domains(&self) -> Option<Vec<String>> {
        let mut domains = Vec::new();
        for (item, text) in self.texts()? {
            let lower = text.trim_start_matches('@').to_ascii_lowercase();
            let fine = lower.len() <= 253
                && lower
                    .split('.')
                    .all(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
            if fine && lower == text.to_ascii_lowercase() {
                domains.push(lower);
            } else {
                item.problem(format!("{} is not a domain; write example.com", shown(text)));
            }
        }
        Some(domains)
    }

    fn emails(&self) -> Option<Vec<String>> {
        let mut emails = Vec::new();
        for (item, text) in self.texts()? {
            if text
                .split_once('@')
                .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
            {
                emails.push(text.to_lowercase());
            } else {
                item.problem(format!(
                    "{} is not an e-mail address; write ada@example.com",
                    shown(text)
                ));
            }
        }
        Some(emails)
    }

    /// A claim's name.
    fn claim(&self) -> Option<String> {
        let text = self.text()?;
        if text.len() > 256 {
            return self.refuse("is longer than 256 bytes");
        }
        Some(text.to_owned())
    }
}

/// The preset that is named, or that the issuer is known for.
fn preset(object: &Object<'_>) -> Option<&'static Preset> {
    let words: Vec<(&str, &'static Preset)> = PRESETS.iter().map(|preset| (preset.word, preset)).collect();
    if object.get("preset").is_some() {
        return object.optional("preset", |at| at.word(&words));
    }
    if object.get("kind").is_some_and(|at| at.is_word("github")) {
        return PRESETS.iter().find(|preset| preset.github);
    }
    let issuer = object.get("issuer").and_then(At::written)?;
    preset_of_issuer(issuer)
}

fn protocol(object: &Object<'_>, preset: Option<&'static Preset>, public_url: &PublicUrl) -> Option<Protocol> {
    let by_preset = preset.is_some_and(|preset| preset.github);
    let github = object.or("kind", by_preset, |at| at.word(&[("oidc", false), ("github", true)]));
    if let (true, Some(at)) = (github != by_preset, object.get("kind")) {
        at.problem("does not go with the preset; leave one of them out");
        return None;
    }
    if github {
        for key in ["issuer", "tenant"] {
            if let Some(at) = object.get(key) {
                at.problem("is for OpenID Connect; GitHub Enterprise is github: {url: …, api_url: …}");
            }
        }
        let section = object.section("github", keys::GITHUB);
        let url = section.or("url", "https://github.com".to_owned(), At::provider_base);
        // GitHub Enterprise Server has its API below the same host.
        let of_server = if url == "https://github.com" {
            "https://api.github.com".to_owned()
        } else {
            format!("{url}/api/v3")
        };
        let api_url = section.or("api_url", of_server, At::provider_base);
        return Some(Protocol::GitHub { url, api_url });
    }
    if let Some(at) = object.get("github") {
        at.problem("is for kind: github");
    }
    let manners = preset.map(|preset| preset.manners).unwrap_or_default();
    let issuer = issuer(object, preset)?;
    if issuer == public_url.origin {
        object.get("issuer")?.problem("is this gateway itself");
        return None;
    }
    Some(Protocol::OpenId { issuer, manners })
}

/// The issuer: as it is written, or as the preset makes it.
fn issuer(object: &Object<'_>, preset: Option<&'static Preset>) -> Option<String> {
    let tenant = object.get("tenant");
    match (preset.and_then(|preset| preset.issuer), object.get("issuer")) {
        (Some(pattern), None) if pattern.contains("{tenant}") => {
            let at = object.required("tenant", "8f3c… with the directory (tenant) id")?;
            let text = at.text()?;
            let fine = text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
            if !fine || ["common", "organizations", "consumers"].contains(&text) {
                return at.refuse("must be one directory (tenant): its id or its domain's id; people of others could sign in otherwise");
            }
            Some(pattern.replace("{tenant}", text))
        }
        (pattern, written) => {
            if let Some(at) = tenant {
                at.problem("is for `preset: microsoft` without an issuer");
            }
            if let (Some(pattern), None) = (pattern, written) {
                return Some(pattern.to_owned());
            }
            let at = object.required("issuer", "https://idp.example.com")?;
            let issuer = at.issuer()?;
            if preset.is_some_and(|preset| preset.slash_at_end) && !issuer.ends_with('/') {
                return at.refuse(format!("needs a slash at its end here; write {issuer}/"));
            }
            Some(issuer)
        }
    }
}

fn allowed(object: &Object<'_>, protocol: Option<&Protocol>) -> Allowed {
    let organizations = object.or("allowed_organizations", Vec::new(), At::groups);
    let has_some = match protocol {
        None | Some(Protocol::GitHub { .. }) => true,
        Some(Protocol::OpenId { manners, .. }) => manners.organization_claim.is_some(),
    };
    if let (Some(at), false) = (object.get("allowed_organizations"), has_some) {
        at.problem("only GitHub and Google have organisations; write allowed_groups or allowed_domains");
    }
    for key in [
        "allowed_domains",
        "allowed_emails",
        "allowed_groups",
        "allowed_organizations",
    ] {
        // A list without entries would let everybody in, and looks as if it let nobody in.
        if let Some(at) = object.get(key).filter(|at| at.list_is_empty()) {
            at.problem("is empty; name somebody or leave it out");
        }
    }
    Allowed {
        domains: object.or("allowed_domains", Vec::new(), At::domains),
        emails: object.or("allowed_emails", Vec::new(), At::emails),
        groups: object.or("allowed_groups", Vec::new(), At::groups),
        organizations: organizations.iter().map(|name| name.to_lowercase()).collect(),
    }
}

/// Where anybody in the world can have an account, letting in everybody has to be said.
fn anyone(object: &Object<'_>, allowed: &Allowed, protocol: Option<&Protocol>) {
    let everybody = object.or("allow_anyone", false, At::boolean);
    let is_open = *allowed == Allowed::default();
    let public = match protocol {
        Some(Protocol::GitHub { url, .. }) => url == "https://github.com",
        Some(Protocol::OpenId { issuer, .. }) => {
            ["https://accounts.google.com", "https://gitlab.com"].contains(&issuer.as_str())
        }
        None => false,
    };
    let lists = [
        "allowed_domains",
        "allowed_emails",
        "allowed_groups",
        "allowed_organizations",
    ];
    let written = lists.iter().any(|key| object.get(key).is_some());
    match object.get("allow_anyone") {
        Some(at) if everybody && written => at.problem("is there beside a list of who is allowed; keep one of them"),
        _ if public && is_open && !everybody && !written => object.missing(
            "allowed_domains",
            "[example.com], or another list of who is allowed; anybody can have an account there. If anybody may sign in, \
             write `allow_anyone: true`",
        ),
        _ => {}
    }
}

fn claims(object: &Object<'_>, preset: Option<&'static Preset>) -> ClaimNames {
    let section = object.section("claims", keys::PROVIDER_CLAIMS);
    let usual = preset.map_or(&["preferred_username", "nickname", "email"][..], |preset| {
        preset.usernames
    });
    let usual = usual.iter().map(|name| (*name).to_owned()).collect();
    ClaimNames {
        username: section.or("username", usual, |at| at.claim().map(|name| vec![name])),
        email: section.or("email", "email".to_owned(), At::claim),
        name: section.or("name", "name".to_owned(), At::claim),
        groups: section.or("groups", "groups".to_owned(), At::claim),
    }
}

/// Secrets are not for logs.
impl fmt::Debug for IdentityProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityProvider")
            .field("id", &self.id)
            .field("protocol", &self.protocol)
            .field("client_id", &self.client_id)
            .field("allowed", &self.allowed)
            .finish_non_exhaustive()
    }
}
