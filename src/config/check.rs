//! From text to [`Config`]: all sections, and what they have to agree on.

use std::net::SocketAddr;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::files::ReadFile;
use super::problems::Problems;
use super::read::{At, Object, Reader};
use super::upstreams::Surroundings;
use super::values::{read_bounded, shown};
use super::{
    Config, PublicUrl, RootResource, SecondFactor, StoreConfig, audit, grants, keys, listen, oauth, people, providers,
    tls, upstreams, yaml,
};
use crate::domain::scope::Scope;

/// Largest configuration that is read.
const MAX_FILE: usize = 1 << 20;
/// Where the state goes if nothing is said.
const DEFAULT_STORE: &str = "./data";

/// Reads and checks a configuration file. Relative file names in it are relative to the working directory.
///
/// # Errors
/// Every problem that it has.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let file = path.display().to_string();
    let most = u64::try_from(MAX_FILE).unwrap_or(u64::MAX);
    let itself = ReadFile::look(path);
    let text = read_bounded(path, most).map_err(|error| {
        Problems::whole(format!("cannot be read: {error}"))
            .in_file(&file)
            .among(vec![itself.clone()])
    })?;
    #[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
    let environment = |name: &str| std::env::var(name).ok();
    // The file itself is among those to watch.
    let with_itself = |files: &[ReadFile]| [std::slice::from_ref(&itself), files].concat();
    match parse(&text, Path::new(""), &environment) {
        Ok(config) => Ok(Config {
            files: with_itself(&config.files),
            ..config
        }),
        Err(problems) => {
            let files = with_itself(problems.files());
            Err(problems.in_file(&file).among(files))
        }
    }
}

/// Where a gateway is administered, and with what.
#[derive(Debug)]
pub struct Administration {
    /// `admin.listen`.
    pub listen: SocketAddr,
    /// `admin.token`, if there is one.
    pub token: Option<Zeroizing<String>>,
}

/// Reads only what whoever administers a running gateway needs of its configuration: neither its certificates nor its
/// secrets have to be there.
///
/// # Errors
/// What is wrong with that part.
pub fn administration(path: &Path) -> Result<Administration, Problems> {
    let file = path.display().to_string();
    let most = u64::try_from(MAX_FILE).unwrap_or(u64::MAX);
    let unreadable = |error| Problems::whole(format!("cannot be read: {error}")).in_file(&file);
    let text = read_bounded(path, most).map_err(unreadable)?;
    let (node, remarks) = yaml::read(&text).map_err(|problem| Problems::new(vec![problem]).in_file(&file))?;
    #[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
    let environment = |name: &str| std::env::var(name).ok();
    let reader = Reader::new(Path::new(""), &environment, remarks);
    let read = reader.root(&node).document(keys::TOP).map(|top| {
        let section = top.section("admin", keys::ADMIN);
        Administration {
            listen: section.or("listen", listen::DEFAULT_ADMIN, At::address),
            token: section.optional("token", At::secret),
        }
    });
    let (problems, _) = reader.into_parts();
    match read {
        Some(read) if problems.is_empty() => Ok(read),
        _ if problems.is_empty() => Err(Problems::whole("is incomplete").in_file(&file)),
        _ => Err(Problems::new(problems).in_file(&file)),
    }
}

/// Checks the text of a configuration, with relative file names below `directory` and variables from `environment`.
///
/// # Errors
/// Every problem that it has.
pub fn parse(text: &str, directory: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    if text.len() > MAX_FILE {
        return Err(Problems::whole("is larger than 1 MiB"));
    }
    let (node, remarks) = yaml::read(text).map_err(|problem| Problems::new(vec![problem]))?;
    let reader = Reader::new(directory, environment, remarks);
    let config = config(&reader.root(&node));
    let (problems, files) = reader.into_parts();
    match config {
        Some(config) if problems.is_empty() => Ok(Config { files, ..config }),
        // Nothing is left out without a word; should that ever happen, nothing is let through either.
        _ if problems.is_empty() => Err(Problems::whole("is incomplete")),
        _ => Err(Problems::new(problems).among(files)),
    }
}

fn config(root: &At<'_>) -> Option<Config> {
    let top = root.document(keys::TOP)?;
    let public_url = top
        .required("public_url", "https://mcp.example.com")
        .and_then(At::public_url);
    let trusted_proxies = listen::trusted_proxies(&top);
    let administration = top.section("admin", keys::ADMIN);
    let (listen, admin) = listen::read(&top, &administration, &trusted_proxies);
    let object = top.section("oauth", keys::OAUTH);
    let (oauth, mut mentions) = oauth::read(&object);
    let scopes = oauth::scopes(&top, &mut mentions);
    let admin_token = administration.optional("token", At::client_secret);
    let has_providers = top.get("identity_providers").is_some_and(|at| !at.list_is_empty());
    let elsewhere = admin_token.is_some() || oauth.login_page.is_some() || has_providers;
    let users = people::read(&top, elsewhere);
    let stand_in = stand_in();
    let identity_providers = providers::read(&top, public_url.as_ref().unwrap_or(&stand_in));
    let around = Surroundings {
        public_url: public_url.as_ref().unwrap_or(&stand_in),
        endpoint_prefix: &oauth.endpoint_prefix,
        listen: &listen,
    };
    let upstreams = upstreams::read(&top, &around);
    let config = Config {
        store: store(&top, root.reader.directory),
        public_url: public_url.clone().unwrap_or(stand_in),
        listen,
        trusted_proxies,
        watch_files: top.or("watch_files", false, At::boolean),
        admin,
        admin_token,
        audit: audit::read(&top),
        oauth,
        scopes,
        users,
        second_factor: second_factor(&top),
        identity_providers,
        upstreams,
        outbound_roots: outbound_roots(&top),
        files: Vec::new(),
    };
    root_resource(&object, &config);
    grants::client_upstreams(&object, &config);
    let known = scopes_of(&config);
    for (at, scope) in mentions {
        if !known.contains(scope.as_str()) {
            at.problem(format!(
                "{scope} is no scope of this gateway; name it in oauth.scopes, in scopes or at an upstream"
            ));
        }
    }
    public_url.is_some().then_some(config)
}

/// `accounts.second_factor`.
fn second_factor(top: &Object<'_>) -> SecondFactor {
    let accounts = top.section("accounts", keys::ACCOUNTS);
    accounts.or("second_factor", SecondFactor::default(), |at| match at.text()? {
        "off" => Some(SecondFactor::Off),
        "optional" => Some(SecondFactor::Optional),
        "required" => Some(SecondFactor::Required),
        other => at.refuse(format!("{} is none of off, optional and required", shown(other))),
    })
}

/// `store`: a directory.
fn store(top: &Object<'_>, directory: &Path) -> StoreConfig {
    let path = top
        .section("store", keys::STORE)
        .section("sled", keys::SLED)
        .or("path", DEFAULT_STORE, At::text);
    StoreConfig::Sled {
        path: directory.join(path),
    }
}

/// `outbound.ca`: certificates of authorities.
fn outbound_roots(top: &Object<'_>) -> Vec<CertificateDer<'static>> {
    let section = top.section("outbound", keys::OUTBOUND);
    section.optional("ca", At::authorities).unwrap_or_default()
}

impl At<'_> {
    /// A file with certificates of authorities.
    pub(super) fn authorities(&self) -> Option<Vec<CertificateDer<'static>>> {
        let found = tls::authorities(&self.file()?);
        found.map_err(|error| self.problem(error)).ok()
    }
}

/// Every scope that is defined anywhere.
fn scopes_of(config: &Config) -> Scope {
    let described = config.scopes.iter().map(|info| info.name.clone()).collect();
    config
        .upstreams
        .iter()
        .fold(config.oauth.scopes.union(&described), |all, upstream| {
            all.union(&upstream.all_scopes())
        })
}

/// A name in `root_resource` has to be an upstream's.
fn root_resource(oauth: &Object<'_>, config: &Config) {
    if let (RootResource::Named(name), Some(at)) = (&config.oauth.root_resource, oauth.get("root_resource"))
        && !config.upstreams.iter().any(|upstream| upstream.name == *name)
    {
        at.problem(format!(
            "no upstream is named {}; write auto, none or an upstream's name",
            shown(name)
        ));
    }
}

/// Takes the place of a `public_url` that was refused while the rest is checked.
fn stand_in() -> PublicUrl {
    PublicUrl {
        origin: "https://gateway.invalid".to_owned(),
        scheme: "https",
        host: "gateway.invalid".to_owned(),
        port: None,
        loopback: false,
    }
}
