//! Where the running gateway is, how to prove oneself there, and what it answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde_json::Value;
use zeroize::Zeroizing;

use super::{At, Stop};
use crate::config;
use crate::fetch::operator::{Method, Operator, Request};
use crate::oauth::pages::words;

/// Where the token may be, besides the file and the configuration.
const VARIABLE: &str = "MCPGATE_ADMIN_TOKEN";
/// Longest token that is read.
const MAX_TOKEN: u64 = 4 << 10;
/// Entries that are asked for at a time.
const PART: usize = 200;

/// What is asked of a gateway.
pub(super) type Question<'a> = Request<'a>;

/// A running gateway.
pub(super) struct Gateway(Operator);

impl<'a> Question<'a> {
    /// A change.
    pub(super) const fn post(path: &'a [&'a str], body: Option<&'a Value>) -> Self {
        Self {
            method: Method::Post,
            path,
            query: &[],
            body,
        }
    }

    /// The end of something.
    pub(super) const fn delete(path: &'a [&'a str]) -> Self {
        Self {
            method: Method::Delete,
            ..Self::post(path, None)
        }
    }
}

// === impl Gateway ===

impl Gateway {
    /// The one that the arguments name.
    pub(super) fn of(at: &At, configuration: Option<PathBuf>) -> Result<Self, Stop> {
        let given = token(at)?;
        let (address, token) = match (&at.admin, given) {
            (Some(address), Some(token)) => (address.clone(), token),
            (Some(_), None) => {
                return Err(Stop::Wrong(format!(
                    "--admin needs a token too: --token-file FILE, or {VARIABLE} in the environment"
                )));
            }
            (None, given) => {
                let path = at.config.clone().or(configuration);
                let path = path.unwrap_or_else(|| PathBuf::from("gateway.yaml"));
                let written = config::administration(&path).map_err(|problems| Stop::Wrong(problems.to_string()))?;
                let token = given.or(written.token).ok_or_else(|| {
                    Stop::Wrong(format!(
                        "{} has no admin.token, so its gateway cannot be administered",
                        path.display()
                    ))
                })?;
                (format!("http://{}", reachable(written.listen)), token)
            }
        };
        Operator::new(&address, &token)
            .map(Self)
            .map_err(|error| Stop::Wrong(error.to_string()))
    }

    /// Asks, and takes what is not a yes for what stopped it.
    pub(super) async fn ask(&self, question: Question<'_>) -> Result<Value, Stop> {
        let answer = self.0.ask(question).await;
        let (status, body) = answer.map_err(|error| Stop::Failed(error.to_string()))?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let message = body["message"].as_str().map(|text| words::display(text, 500));
        Err(Stop::Failed(message.unwrap_or_else(|| {
            format!("the admin listener answered with the status {status}")
        })))
    }

    /// A whole list, or its beginning and that there is more.
    pub(super) async fn list(
        &self,
        kind: &str,
        query: &[(&str, &str)],
        most: usize,
    ) -> Result<(Vec<Value>, bool), Stop> {
        let mut entries = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let wanted = (most - entries.len()).clamp(1, PART).to_string();
            let mut query = query.to_vec();
            query.push(("limit", &wanted));
            query.extend(after.as_deref().map(|after| ("after", after)));
            let question = Question {
                method: Method::Get,
                path: &[kind],
                query: &query,
                body: None,
            };
            let mut page = self.ask(question).await?;
            if let Some(Value::Array(part)) = page.get_mut(kind).map(Value::take) {
                entries.extend(part);
            }
            let next = page["next"].as_str().map(str::to_owned);
            let is_stuck = next.is_some() && next == after;
            if next.is_none() || is_stuck || entries.len() >= most {
                return Ok((entries, next.is_some()));
            }
            after = next;
        }
    }
}

/// The token from the file that is named, or from the environment.
fn token(at: &At) -> Result<Option<Zeroizing<String>>, Stop> {
    use std::io::Read as _;
    let Some(path) = &at.token_file else {
        #[expect(clippy::disallowed_methods, reason = "a token may come this way, and no other")]
        let found = std::env::var(VARIABLE).ok();
        return Ok(found.filter(|token| !token.is_empty()).map(Zeroizing::new));
    };
    let unreadable = |error: std::io::Error| Stop::Wrong(format!("{} cannot be read: {error}", path.display()));
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_TOKEN + 2).read_to_string(&mut text).map_err(unreadable)?;
    let token = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if token.is_empty() || token.chars().any(char::is_control) {
        return Err(Stop::Wrong(format!("{} has no token on its one line", path.display())));
    }
    Ok(Some(token))
}

/// Who listens everywhere listens here.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let here = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(here, listen.port())
}
