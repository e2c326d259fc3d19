//! The client of our own admin listener, for the commands that administer a running gateway.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde_json::Value;
use url::Url;
use zeroize::Zeroizing;

/// Longest answer that is read: 200 entries of the longest kind.
const MAX_ANSWER: usize = 8 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks an admin listener.
pub struct Operator {
    client: reqwest::Client,
    base: Url,
    authorization: HeaderValue,
}

/// A request to it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`, `POST` or `DELETE`.
    pub method: Method,
    /// The path below `/api`, in segments that are not encoded.
    pub path: &'a [&'a str],
    /// What stands behind the `?`.
    pub query: &'a [(&'a str, &'a str)],
    /// What it says.
    pub body: Option<&'a Value>,
}

/// What is done with what the path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Shown.
    Get,
    /// Changed.
    Post,
    /// Removed.
    Delete,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The address is none.
    #[error("{0} is no address of an admin listener; write http://127.0.0.1:9090")]
    Address(String),
    /// The token has characters that no header may have.
    #[error("the admin token has characters that cannot be sent")]
    Token,
    /// The client cannot be made.
    #[error("cannot set up the client: {0}")]
    SetUp(String),
    /// Nobody is there.
    #[error("nobody answers at {0}; is the gateway running, and is this its admin.listen?")]
    Unreachable(Url),
    /// Something went wrong on the way.
    #[error("{0} does not answer as an admin listener does: {1}")]
    Broken(Url, String),
}

// === impl Operator ===

impl Operator {
    /// For an admin listener at this address.
    ///
    /// # Errors
    /// If the address or the token cannot be one.
    pub fn new(address: &str, token: &Zeroizing<String>) -> Result<Self, OperatorError> {
        let wrong = || OperatorError::Address(address.to_owned());
        let base = Url::parse(address).map_err(|_| wrong())?;
        let fine = ["http", "https"].contains(&base.scheme())
            && base.has_host()
            && base.username().is_empty()
            && base.password().is_none()
            && base.query().is_none()
            && base.fragment().is_none();
        if !fine {
            return Err(wrong());
        }
        let text = Zeroizing::new(format!("Bearer {}", token.as_str()));
        let mut authorization = HeaderValue::from_str(&text).map_err(|_| OperatorError::Token)?;
        authorization.set_sensitive(true);
        let tls = super::tls(Vec::new()).map_err(|error| OperatorError::SetUp(error.to_string()))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            // The token goes nowhere else, whatever the answer says.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .user_agent(concat!("mcpgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| OperatorError::SetUp(error.to_string()))?;
        Ok(Self {
            client,
            base,
            authorization,
        })
    }

    /// Asks: the status, and the JSON that came with it.
    ///
    /// # Errors
    /// If nobody answers, or nobody who is an admin listener.
    pub async fn ask(&self, asked: Request<'_>) -> Result<(u16, Value), OperatorError> {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("api").extend(asked.path);
        }
        if !asked.query.is_empty() {
            url.query_pairs_mut().extend_pairs(asked.query);
        }
        let method = match asked.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut request = self
            .client
            .request(method, url)
            .header(AUTHORIZATION, self.authorization.clone());
        if let Some(body) = asked.body {
            let json = HeaderValue::from_static("application/json");
            request = request
                .header(reqwest::header::CONTENT_TYPE, json)
                .body(body.to_string());
        }
        let broken = |why: String| OperatorError::Broken(self.base.clone(), why);
        let mut response = request.send().await.map_err(|error| {
            if error.is_connect() {
                OperatorError::Unreachable(self.base.clone())
            } else if error.is_timeout() {
                broken("it took too long".to_owned())
            } else {
                broken("the connection broke".to_owned())
            }
        })?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|_| broken("the answer broke off".to_owned()))?
        {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(broken("the answer is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        let answer = serde_json::from_slice(&body).map_err(|_| broken(format!("status {status}, and no JSON")))?;
        Ok((status, answer))
    }
}
