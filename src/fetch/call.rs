//! Questions to services that whoever runs the gateway wrote down: with a body and credentials, and an answer that is for
//! this one question. Nothing is kept. How often they may be asked is a matter of who asks; here is how many at a time.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method};
use lru::LruCache;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use super::{FetchError, Fetcher, Kind, is_json, read};

/// Questions to one host at a time.
const PER_HOST: usize = 32;
/// Hosts that are remembered; the configuration names fewer.
const HOSTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);
/// How long a question waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// A question.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Whom.
    pub url: &'a Url,
    /// What is posted; nothing makes it a GET.
    pub form: Option<&'a [(&'a str, &'a str)]>,
    /// `Authorization`.
    pub authorization: Option<&'a str>,
}

/// An answer, whatever its status.
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body, if it is JSON.
    pub json: Option<Value>,
}

/// How many ask each host.
pub(super) struct Places(Mutex<LruCache<String, Arc<Semaphore>>>);

impl Places {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(HOSTS)))
    }

    /// Waits for a place, so that a host that stalls holds up nobody but its own.
    async fn take(&self, host: &str) -> Result<OwnedSemaphorePermit, FetchError> {
        let places = {
            let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let place = hosts.get_or_insert_mut(host.to_owned(), || Arc::new(Semaphore::new(PER_HOST)));
            Arc::clone(place)
        };
        match tokio::time::timeout(TURN, places.acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(FetchError::Busy),
        }
    }
}

impl Fetcher {
    /// Asks once.
    ///
    /// # Errors
    /// If there is no answer that could be read. A status is an answer.
    pub async fn call(&self, question: Question<'_>) -> Result<Reply, FetchError> {
        let host = self.admit(question.url)?;
        let place = self.calls.take(&host).await?;
        let result = self.put(question).await;
        drop(place);
        let outcome = match &result {
            Ok(reply) if reply.status < 500 => "ok",
            Ok(_) => "status",
            Err(error) => error.as_str(),
        };
        self.observer.fetched(Kind::Provider, outcome);
        if let Err(error) = &result {
            tracing::info!(host, reason = %error, "a question brought no answer");
        }
        result
    }

    async fn put(&self, question: Question<'_>) -> Result<Reply, FetchError> {
        let method = if question.form.is_some() {
            Method::POST
        } else {
            Method::GET
        };
        let mut request = self
            .client
            .request(method, question.url.clone())
            .header(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(text) = question.authorization {
            let mut value = HeaderValue::from_str(text).map_err(|_| FetchError::Forbidden)?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(pairs) = question.form {
            let body = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(pairs)
                .finish();
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            request = request.header(CONTENT_TYPE, form).body(body);
        }
        let mut response = request.send().await.map_err(|error| FetchError::of(&error))?;
        let status = response.status().as_u16();
        if !is_json(response.headers()) {
            return Ok(Reply { status, json: None });
        }
        let body = read(&mut response, Kind::Provider.most()).await?;
        Ok(Reply {
            status,
            json: serde_json::from_slice(&body).ok(),
        })
    }
}
