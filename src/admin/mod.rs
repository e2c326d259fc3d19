//! Floor 4: the admin listener, which is never a public one: metrics and health for machines, and the administration of
//! people, clients and grants for whoever has the token.
//!
//! ```text
//! /metrics /healthz /readyz    open, as the machines want it
//! everything else              own name? own page? (gate)  →  /api/…  token   (api)
//!                                                          →  /…      session (pages, sessions)
//!                              both do the same acts: users, clients, grants, refusals
//! ```

mod api;

mod clients;
mod gate;
mod grants;
mod listing;
mod pages;
mod refusals;
mod sessions;
mod trouble;
mod users;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::oauth::{Answer, Endpoints};
use crate::store::Store;
use crate::telemetry::Metrics;
use gate::Throttle;
use sessions::Sessions;
use trouble::Trouble;

/// Most bytes of a body.
const MAX_BODY: usize = 16 << 10;
/// Most bytes of a path and of a query.
const MAX_TARGET: usize = 8 << 10;

/// Says which endpoints are in force.
pub type InForce = Box<dyn Fn() -> Arc<Endpoints> + Send + Sync>;

/// What the admin listener shows and does.
pub struct Admin {
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
    stopping: watch::Receiver<bool>,
    in_force: InForce,
    throttle: Throttle,
    sessions: Sessions,
}

/// A request to the administration, read in full.
struct Call {
    method: Method,
    /// The path's segments, decoded.
    path: Vec<String>,
    query: String,
    headers: HeaderMap,
    body: Bytes,
    address: IpAddr,
}

// === impl Admin ===

impl Admin {
    /// An admin listener's parts.
    #[must_use]
    pub fn new(
        metrics: Arc<Metrics>,
        store: Arc<dyn Store>,
        stopping: watch::Receiver<bool>,
        in_force: InForce,
    ) -> Self {
        Self {
            metrics,
            store,
            stopping,
            in_force,
            throttle: Throttle::default(),
            sessions: Sessions::default(),
        }
    }
}

/// Serves it, for ever.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(show_readiness))
        .fallback(administer)
        .with_state(admin)
        .into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the admin listener stopped");
    }
}

async fn show_metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.render() {
        Ok(text) => (
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Ready while the store answers and nobody has asked to stop.
async fn show_readiness(State(admin): State<Arc<Admin>>) -> Response {
    if *admin.stopping.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    match admin.store.check().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => {
            tracing::error!(%error, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n").into_response()
        }
    }
}

/// Everything but metrics and health.
async fn administer(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: axum::extract::Request,
) -> Response {
    let at = (admin.in_force)();
    let (head, body) = request.into_parts();
    let target_length = head.uri.path().len().max(head.uri.query().map_or(0, str::len));
    let answer = if at.config.admin_token.is_none() {
        Err(Trouble::not_set_up())
    } else if target_length > MAX_TARGET {
        Err(Trouble::malformed("the address is too long"))
    } else {
        read(head, body, peer.ip()).await
    };
    let answer = match answer {
        Err(trouble) => trouble.to_json(),
        Ok(call) if call.is_for_programs() => api::answer(&admin, &at, &call).await,
        Ok(call) => pages::answer(&admin, &at, &call).await,
    };
    sealed(answer).map(Body::from)
}

/// Reads all of a request that may be meant for us.
async fn read(head: axum::http::request::Parts, body: Body, address: IpAddr) -> Result<Call, Trouble> {
    gate::check_host(&head.headers)?;
    let too_long = |_| Trouble::malformed("the body is longer than 16 KiB, or broke off");
    let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(too_long)?;
    let segments = head.uri.path().trim_start_matches('/').split('/');
    let decoded = segments.map(|segment| {
        percent_decode_str(segment)
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
    });
    let path = decoded
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Trouble::malformed("the address is not UTF-8"))?;
    Ok(Call {
        method: head.method,
        path,
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body,
        address,
    })
}

/// What every answer has: nobody keeps it, nobody guesses what it is.
fn sealed(mut answer: Answer) -> Answer {
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    answer
}

// === impl Call ===

impl Call {
    fn is_for_programs(&self) -> bool {
        self.path.first().is_some_and(|first| first == "api")
    }

    /// The path from behind so many segments.
    fn segments(&self, skip: usize) -> Vec<&str> {
        self.path.iter().skip(skip).map(String::as_str).collect()
    }
}
