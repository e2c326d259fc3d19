//! The access check: from an `Authorization` header to a [`Permit`], or to the challenge that tells a client what to do.
//!
//! ```text
//! Authorization: Bearer mgat_Q0xJ…          RFC 6750 §2.1; the only place where a token is looked for
//!                └─┬──┘ └───┬────┘
//!     any case, one space   SHA-256 → cache → store → alive? → for this upstream? → client, person known? → scopes?
//! ```
//! A permit cannot be made anywhere else, and without one there is no peer to forward to.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use quick_cache::sync::Cache;

use super::headers;
use super::refused::{About, Dead};
use super::reply::{Refusal, plain, with};
use super::session::Latest;
use crate::config::Upstream;
use crate::domain::clock::Timestamp;
use crate::domain::grant::{Grant, LiveToken};
use crate::domain::scope::{OFFLINE_ACCESS, Scope};
use crate::domain::secret::{Secret, SecretHash, SecretKind};
use crate::domain::uri::Resource;
use crate::domain::user::Subject;
use crate::oauth::dpop::{self, ProofError};
use crate::oauth::protected::{NoToken, Scheme, presented};
use crate::oauth::{Answer, Endpoints, PROTECTED_RESOURCE, identity_assertion, standing};
use crate::store::StoreError;
use crate::telemetry::AuthDecision;

/// Decisions kept in memory; the least used make room.
const CACHED: usize = 20_000;

/// Proof that a caller may use one upstream, and what the upstream is told about it.
#[derive(Debug)]
pub(super) struct Permit {
    upstream: usize,
    /// What that is called, whatever its place is after a reload.
    pub(super) resource: Resource,
    /// What was granted.
    scope: Scope,
    /// The same with everything that it implies.
    effective: Scope,
    pub(super) token: SecretHash,
    pub(super) expires_at: Timestamp,
    /// The store's count of revocations before it was asked: the permit holds while that stands.
    pub(super) revocations: u64,
    /// What the token is bound to.
    key: Option<String>,
    /// With a signed one, where the upstream wants that: then the permit is good only while that one is fresh.
    pub(super) identity: Vec<(HeaderName, HeaderValue)>,
    signed: Option<(Timestamp, Timestamp)>,
    /// When to look again whether its person is still who they were, for a token that nobody refreshes.
    look_again_at: Option<Timestamp>,
    pub(super) subject: String,
    pub(super) client_id: String,
    /// Its session.
    pub(super) session: Latest,
}

/// How long the use of a personal access token is no news.
const NEWS: Duration = Duration::from_secs(3600);

/// Decides who may pass.
pub(super) struct Bearer {
    /// By token and upstream.
    cache: Cache<(SecretHash, usize), Arc<Permit>>,
}

/// A request that may not pass: what it gets, and what is counted.
#[derive(Debug)]
pub(super) struct Denial {
    pub(super) answer: Box<Answer>,
    /// `None` where the fault is ours.
    pub(super) decision: Option<AuthDecision>,
    /// What only whoever runs the gateway is told.
    pub(super) about: About,
}

// === impl Denial ===

impl Denial {
    fn about(self, about: About) -> Self {
        Self { about, ..self }
    }
}

impl Permit {
    /// Which upstream it is for.
    pub(super) const fn upstream(&self) -> usize {
        self.upstream
    }

    /// Adds the signed statement of who is calling, where the upstream wants one. Without it nobody passes.
    async fn sign(&mut self, at: &Endpoints, grant: &Grant) -> Result<(), Denial> {
        let upstream = at.config.upstreams.get(self.upstream);
        let Some((upstream, settings)) =
            upstream.and_then(|upstream| Some((upstream, upstream.identity_jwt.as_ref()?)))
        else {
            return Ok(());
        };
        let stated = identity_assertion::state(at, upstream, settings, grant, &self.effective, self.expires_at).await;
        let stated = stated.map_err(|error| {
            tracing::error!(
                upstream = upstream.name,
                error = &error as &dyn std::error::Error,
                "who is calling could not be signed"
            );
            unavailable(None)
        })?;
        let mut value = HeaderValue::try_from(stated.text).map_err(|_| unavailable(None))?;
        value.set_sensitive(true);
        self.identity.push((settings.header.clone(), value));
        self.signed = Some((stated.made_at, stated.fresh_until));
        Ok(())
    }

    /// Whether what was signed with it can be sent on: half of its time is left, and the clock was not put back.
    fn is_fresh(&self, now: Timestamp) -> bool {
        self.signed.is_none_or(|(made_at, until)| made_at <= now && now < until)
            && self.look_again_at.is_none_or(|at| now < at)
    }

    /// What its holder may do: what was granted, and everything that this implies.
    pub(super) const fn effective(&self) -> &Scope {
        &self.effective
    }
}

impl Bearer {
    pub(super) fn new() -> Self {
        Self {
            cache: Cache::new(CACHED),
        }
    }

    /// The access check for an upstream, given by its place in the configuration.
    pub(super) async fn authorize(&self, at: &Endpoints, index: usize, head: &Parts) -> Result<Arc<Permit>, Denial> {
        let Some(upstream) = at.config.upstreams.get(index) else {
            return Err(unavailable(None));
        };
        let challenge = Challenge { at, upstream };
        let (scheme, text) = presented(&head.headers).map_err(|no_token| {
            challenge.refuse(match no_token {
                NoToken::Absent => Refused::NoToken,
                NoToken::Malformed => Refused::Malformed,
            })
        })?;
        let token = Secret::parse(SecretKind::AccessToken, text);
        let Some(token) = token.or_else(|| Secret::parse(SecretKind::PersonalToken, text)) else {
            return Err(challenge.refuse(Refused::InvalidToken));
        };
        let hash = token.hash();
        let now = at.now();
        let revocations = at.store.revocations();
        let cached = self
            .cache
            .get(&(hash, index))
            .filter(|permit| permit.revocations == revocations && now < permit.expires_at && permit.is_fresh(now));
        let permit = if let Some(permit) = cached {
            permit
        } else {
            // Boxed, because it is rare: only a token that was not seen before is looked up.
            let found = Box::pin(look_up(at, (&hash, index), now, revocations))
                .await
                .map_err(|error| unavailable(Some(&error)))?;
            let (mut permit, grant) =
                found.map_err(|dead| challenge.refuse(Refused::InvalidToken).about(dead.into()))?;
            if permit.upstream == index {
                Box::pin(permit.sign(at, &grant)).await?;
            }
            let permit = Arc::new(permit);
            self.cache.insert((hash, index), Arc::clone(&permit));
            permit
        };
        if permit.upstream != index {
            return Err(challenge
                .refuse(Refused::OtherResource)
                .about(About::of(&permit.subject, &permit.client_id)));
        }
        if permit.key.is_some() || scheme == Scheme::Dpop {
            let bound = challenge.check_bound(scheme, permit.key.as_deref(), head, text);
            bound.map_err(|denial| denial.about(About::of(&permit.subject, &permit.client_id)))?;
        }
        if !permit.effective.covers(&upstream.scopes) {
            let denial = challenge.insufficient(&upstream.scopes, &permit.scope);
            return Err(denial.about(About::of(&permit.subject, &permit.client_id)));
        }
        Ok(permit)
    }
}

/// What the store knows of a token: alive, for an upstream that there is, which is the one at hand if it is for that too, of a
/// client and a person that there are.
async fn look_up(
    at: &Endpoints,
    (hash, wanted): (&SecretHash, usize),
    now: Timestamp,
    revocations: u64,
) -> Result<Result<(Permit, Grant), Dead>, StoreError> {
    let Some(live) = at.store.access_token(hash).await? else {
        return Ok(Err(Dead::Unknown));
    };
    if !live.is_alive(now) {
        return Ok(Err(Dead::Expired(live.grant)));
    }
    let mut own = at.config.upstreams.iter().enumerate().filter(|(_, upstream)| {
        let mut resources = live.grant.resources();
        resources.any(|resource| *resource == upstream.resource)
    });
    let first = own.next();
    let Some((index, upstream)) = first
        .into_iter()
        .chain(own)
        .find(|(index, _)| *index == wanted)
        .or(first)
    else {
        return Ok(Err(Dead::NoUpstream(live.grant)));
    };
    if !at.knows_client(&live.grant.client_id).await? {
        return Ok(Err(Dead::NoClient(live.grant)));
    }
    let mut user = at.identity.user(&live.grant.subject).await?;
    let mut look_again_at = None;
    if live.grant.client_id.is_personal_token()
        && let Some(known) = user.take()
        && let Some((now_known, until)) = standing::of_holder(at, known, &live.token.grant).await?
    {
        (user, look_again_at) = (Some(now_known), until);
    }
    if user.is_none() && live.grant.subject != Subject::of_client(&live.grant.client_id) {
        return Ok(Err(Dead::NoPerson(live.grant)));
    }
    if live.grant.client_id.is_personal_token() {
        let again_at = note_use(at, &live, now).await;
        look_again_at = Some(look_again_at.map_or(again_at, |at: Timestamp| at.min(again_at)));
    }
    let scope = live.grant.scope_at(&upstream.resource, &live.token.scope).clone();
    let scope = standing::scope_now(at, &live.grant, scope, user.as_ref());
    let effective = at.config.with_implied(&scope);
    let permit = Permit {
        upstream: index,
        resource: upstream.resource.clone(),
        token: *hash,
        identity: headers::identity(upstream, &live.grant, &effective, user.as_ref()),
        signed: None,
        look_again_at,
        key: live.token.key,
        expires_at: live.token.expires_at.min(live.grant.expires_at),
        revocations,
        subject: live.grant.subject.as_str().to_owned(),
        client_id: live.grant.client_id.as_str().to_owned(),
        scope,
        effective,
        session: Latest::default(),
    };
    Ok(Ok((permit, live.grant)))
}

/// Notes that a personal access token is in use; when to do so again. Its person sees it, and nothing depends on it.
async fn note_use(at: &Endpoints, live: &LiveToken, now: Timestamp) -> Timestamp {
    let known = live.grant.used_at.filter(|used| now < used.plus(NEWS));
    if known.is_none()
        && let Err(error) = at.store.note_used(&live.token.grant, now).await
    {
        tracing::warn!(%error, "the use of a personal access token could not be noted");
    }
    known.unwrap_or(now).plus(NEWS)
}

/// Whether a token that was good for a stream of an upstream still is: by the store and the configuration as they are now.
pub(super) async fn stands(at: &Endpoints, token: &SecretHash, at_what: &Resource) -> Result<bool, StoreError> {
    let mut upstreams = at.config.upstreams.iter();
    let Some(index) = upstreams.position(|upstream| upstream.resource == *at_what) else {
        return Ok(false);
    };
    let found = look_up(at, (token, index), at.now(), 0).await?;
    Ok(found.is_ok_and(|(permit, _)| {
        let upstream = at.config.upstreams.get(index).filter(|_| permit.upstream == index);
        upstream.is_some_and(|upstream| permit.effective.covers(&upstream.scopes))
    }))
}

/// The answer to a caller whose permit is good, but not for what a rule says.
pub(super) fn lacks(at: &Endpoints, upstream: &Upstream, permit: &Permit, needed: &Scope) -> Refusal {
    let denial = Challenge { at, upstream }.insufficient(&upstream.scopes.union(needed), &permit.scope);
    Refusal {
        answer: denial.answer,
        close: false,
    }
}

/// Why a token does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// There is none: not an error, but the beginning of a conversation (RFC 6750 §3.1).
    NoToken,
    /// The header could be read in two ways.
    Malformed,
    /// Expired, revoked, never issued: one answer for all.
    InvalidToken,
    /// It is for another upstream.
    OtherResource,
}

/// Writes challenges for one upstream. Scope and URL come from the configuration, never from the request, so nothing in
/// them can end the quoted string.
struct Challenge<'a> {
    at: &'a Endpoints,
    upstream: &'a Upstream,
}

impl Challenge<'_> {
    fn refuse(&self, refused: Refused) -> Denial {
        let (status, error, description, decision) = match refused {
            Refused::NoToken => (
                StatusCode::UNAUTHORIZED,
                None,
                "a token is needed",
                AuthDecision::NoToken,
            ),
            Refused::Malformed => (
                StatusCode::BAD_REQUEST,
                Some("invalid_request"),
                "the Authorization header is malformed",
                AuthDecision::InvalidToken,
            ),
            Refused::InvalidToken => (
                StatusCode::UNAUTHORIZED,
                Some("invalid_token"),
                "the token is expired, revoked or was never issued",
                AuthDecision::InvalidToken,
            ),
            Refused::OtherResource => (
                StatusCode::UNAUTHORIZED,
                Some("invalid_token"),
                "the token is for another resource",
                AuthDecision::WrongResource,
            ),
        };
        let answer = plain(status, error.unwrap_or("unauthorized"), description);
        Denial {
            answer: Box::new(self.challenged(answer, error, &self.upstream.scopes)),
            decision: Some(decision),
            about: About::default(),
        }
    }

    /// A token that is bound to a key comes with a proof, and no other does (RFC 9449 §7.1).
    fn check_bound(&self, scheme: Scheme, key: Option<&str>, head: &Parts, token: &str) -> Result<(), Denial> {
        let target = format!("{}{}", public_origin(self.at, self.upstream), head.uri.path());
        let used = dpop::Use {
            scheme,
            key,
            method: &head.method,
            target: &target,
            token,
        };
        dpop::check_bound(self.at, &head.headers, &used).map_err(|error| match error {
            // A token that is not bound is no token of the other scheme, and no proof would make it one.
            ProofError::Token(_) if key.is_none() => self.refuse(Refused::InvalidToken),
            error => self.unproved(error),
        })
    }

    /// 401 with the other scheme's challenge, on a line of its own behind the one that clients of bearer tokens read.
    fn unproved(&self, error: ProofError) -> Denial {
        let answer = plain(StatusCode::UNAUTHORIZED, error.code(), error.description());
        let mut answer = self.challenged(answer, Some("invalid_token"), &self.upstream.scopes);
        let text = format!(
            "DPoP error=\"{}\", algs=\"{}\", resource_metadata=\"{}\"",
            error.code(),
            dpop::algorithms().join(" "),
            metadata_url(self.at, self.upstream)
        );
        if let Ok(value) = HeaderValue::try_from(text) {
            answer.headers_mut().append(header::WWW_AUTHENTICATE, value);
        }
        if error == ProofError::Nonce
            && let Ok(nonce) = HeaderValue::try_from(self.at.proofs.nonce(self.at.now()))
        {
            answer.headers_mut().insert(dpop::NONCE, nonce);
        }
        Denial {
            answer: Box::new(answer),
            decision: Some(AuthDecision::InvalidToken),
            about: About::default(),
        }
    }

    /// 403 that names every scope needed, and those that the caller has already, for clients that ask for just what they read
    /// (H5). `offline_access` is no business of a resource (B5).
    fn insufficient(&self, needed: &Scope, own: &Scope) -> Denial {
        let known = self.at.config.scopes_of(self.upstream);
        let all =
            needed.union(&own.filtered(|token| known.contains(token.as_str()) && token.as_str() != OFFLINE_ACCESS));
        let answer = plain(
            StatusCode::FORBIDDEN,
            "insufficient_scope",
            "the token lacks a scope that is needed here",
        );
        Denial {
            answer: Box::new(self.challenged(answer, Some("insufficient_scope"), &all)),
            decision: Some(AuthDecision::InsufficientScope),
            about: About::default(),
        }
    }

    fn challenged(&self, answer: Answer, error: Option<&str>, scope: &Scope) -> Answer {
        let error = error.map(|error| format!("error=\"{error}\", ")).unwrap_or_default();
        let scope = if scope.is_empty() {
            String::new()
        } else {
            format!(", scope=\"{scope}\"")
        };
        let text = format!(
            "Bearer {error}resource_metadata=\"{}\"{scope}",
            metadata_url(self.at, self.upstream)
        );
        match HeaderValue::try_from(text) {
            Ok(value) => with(answer, header::WWW_AUTHENTICATE, value),
            Err(_) => answer,
        }
    }
}

/// Where the upstream's RFC 9728 document is: path-inserted, on the host that clients know it by.
fn metadata_url(at: &Endpoints, upstream: &Upstream) -> String {
    format!("{}{PROTECTED_RESOURCE}{}", public_origin(at, upstream), upstream.path)
}

/// The origin that clients know an upstream at.
fn public_origin(at: &Endpoints, upstream: &Upstream) -> String {
    let public = &at.config.public_url;
    let host = upstream.host.clone().unwrap_or_else(|| public.authority());
    format!("{}://{host}", public.scheme)
}

/// The store did not answer, so nobody passes.
fn unavailable(error: Option<&StoreError>) -> Denial {
    if let Some(error) = error {
        tracing::error!(%error, "a token could not be checked");
    }
    let answer = plain(
        StatusCode::SERVICE_UNAVAILABLE,
        "temporarily_unavailable",
        "the gateway cannot check tokens right now",
    );
    Denial {
        answer: Box::new(with(answer, header::RETRY_AFTER, HeaderValue::from_static("5"))),
        decision: None,
        about: About::default(),
    }
}
