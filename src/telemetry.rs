//! Floor 1: metrics and logs.
//!
//! A label is an enum or an upstream's configured name, never anything that a caller can choose, but for the names of tools,
//! of which there are only so many. The log never holds a token, a code, a cookie, a query string or a body.

pub mod access;
pub mod audit;
mod budgets;
pub mod chain;
pub mod decisions;
pub mod lines;
mod tools;

use std::time::Duration;

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

pub use budgets::{InUse, Limit};
pub use tools::ToolOutcome;

use crate::domain::clock::Timestamp;

/// Why metrics cannot be set up or written.
pub use prometheus::Error as MetricsError;

/// How the gateway judged a request to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the labels of contract §7")]
pub enum AuthDecision {
    Allowed,
    NoToken,
    InvalidToken,
    WrongResource,
    InsufficientScope,
    ToolDenied,
    OriginDenied,
}

/// How a request to an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The upstream answered below 400.
    Ok,
    /// The upstream answered 4xx.
    UpstreamClientError,
    /// The upstream answered 5xx, or its answer broke off.
    UpstreamServerError,
    /// We answered 401 or 403.
    Denied,
    /// We answered another 4xx: the request was malformed, too large or too frequent.
    Rejected,
    /// The upstream could not be reached or was too slow.
    UpstreamFailed,
    /// Our own fault: the store failed.
    Unavailable,
    /// The client went away.
    ClientGone,
}

/// What went wrong with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamFailure {
    /// No connection.
    Connect,
    /// No response in time.
    Timeout,
    /// The TLS handshake failed.
    Tls,
    /// The connection broke before the response was complete.
    Broken,
    /// What it sent is not HTTP.
    Protocol,
    /// It refused the gateway's own credentials.
    Unauthorized,
}

/// How a sign-in ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoginOutcome {
    /// Signed in.
    Success,
    /// Wrong username or password.
    Failure,
    /// Not even tried: too many attempts.
    Throttled,
    /// It is somebody, but not one of those who may sign in.
    Denied,
    /// The identity provider did not answer, or not as it should.
    Error,
}

/// What came of reading the configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reload {
    /// All of it is in force.
    Applied,
    /// It is in force, except for what cannot change without a restart.
    NeedsRestart,
    /// The old one stays.
    Refused,
}

/// How tokens came to be issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IssuedBy {
    /// A code was redeemed.
    AuthorizationCode,
    /// A refresh token was rotated.
    RefreshToken,
    /// A client acts for itself.
    ClientCredentials,
    /// A person allowed a device.
    DeviceCode,
    /// A trusted issuer vouched for a person.
    JwtBearer,
    /// A token was exchanged.
    TokenExchange,
}

/// Every metric, with a registry of its own. The doc comment of a field is its help text.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    refusals: decisions::Decisions,
    audit: std::sync::OnceLock<audit::Audit>,
    requests: IntCounterVec,
    tools: tools::Tools,
    request_duration: HistogramVec,
    overhead: Histogram,
    decisions: IntCounterVec,
    tokens_issued: IntCounterVec,
    registrations: IntCounterVec,
    limited: IntCounterVec,
    fetches: IntCounterVec,
    logins: IntCounterVec,
    open_streams: IntGaugeVec,
    store_operations: HistogramVec,
    upstream_errors: IntCounterVec,
    open_connections: IntGauge,
    reloads: IntCounterVec,
    last_reload: IntGauge,
    last_reload_successful: IntGauge,
    certificates: IntGaugeVec,
    budgets: budgets::Budgets,
}

/// Counts an open event stream until it is dropped.
#[derive(Debug)]
pub struct StreamGuard(prometheus::IntGauge);

/// The metrics of one upstream, looked up once so that a request costs no label lookup.
#[derive(Debug, Clone)]
pub struct UpstreamMetrics {
    duration: Histogram,
    allowed: prometheus::IntCounter,
    streams: IntGauge,
}

// === impl labels ===

impl AuthDecision {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::NoToken => "no_token",
            Self::InvalidToken => "invalid_token",
            Self::WrongResource => "wrong_resource",
            Self::InsufficientScope => "insufficient_scope",
            Self::ToolDenied => "tool_denied",
            Self::OriginDenied => "origin_denied",
        }
    }
}

impl Outcome {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::UpstreamClientError => "upstream_4xx",
            Self::UpstreamServerError => "upstream_5xx",
            Self::Denied => "denied",
            Self::Rejected => "rejected",
            Self::UpstreamFailed => "upstream_failed",
            Self::Unavailable => "unavailable",
            Self::ClientGone => "client_gone",
        }
    }
}

impl UpstreamFailure {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Broken => "broken",
            Self::Protocol => "protocol",
            Self::Unauthorized => "unauthorized",
        }
    }
}

impl LoginOutcome {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Throttled => "throttled",
            Self::Denied => "denied",
            Self::Error => "error",
        }
    }
}

impl Reload {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::NeedsRestart => "needs_restart",
            Self::Refused => "refused",
        }
    }
}

impl IssuedBy {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::ClientCredentials => "client_credentials",
            Self::DeviceCode => "device_code",
            Self::JwtBearer => "jwt_bearer",
            Self::TokenExchange => "token_exchange",
        }
    }
}

// === impl Metrics ===

/// From a tenth of a millisecond to a minute: a proxied call takes what the upstream takes.
const REQUEST_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// What the gateway itself adds is a matter of microseconds.
const OVERHEAD_BUCKETS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1,
];
/// A lookup takes microseconds, a flushed write milliseconds.
const STORE_BUCKETS: &[f64] = &[
    0.000_005, 0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0,
];

impl Metrics {
    /// Fresh metrics for this version of the program.
    ///
    /// # Errors
    /// Only if two metrics here had one name.
    pub fn new(version: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("mcpgate".to_owned()), None)?;
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let histogram =
            |name: &str, help: &str, buckets: &[f64], labels: &[&str]| -> Result<HistogramVec, prometheus::Error> {
                let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            };
        let open_streams = IntGaugeVec::new(
            Opts::new("open_streams", "Event streams that are open now."),
            &["upstream"],
        )?;
        registry.register(Box::new(open_streams.clone()))?;
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let open_connections = gauge("open_connections", "Client connections that are open now.")?;
        let last_reload = gauge(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration in force was put in force.",
        )?;
        let last_reload_successful = gauge(
            "config_last_reload_successful",
            "1 if the configuration that was read last is in force, 0 if it was refused.",
        )?;
        let certificates = IntGaugeVec::new(
            Opts::new(
                "certificate_expires_timestamp_seconds",
                "When a certificate of the gateway expires, by the first name that it is for.",
            ),
            &["name"],
        )?;
        registry.register(Box::new(certificates.clone()))?;
        let overhead = Histogram::with_opts(
            HistogramOpts::new(
                "gateway_overhead_seconds",
                "Time that the gateway spent on a request before it went to the upstream.",
            )
            .buckets(OVERHEAD_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(overhead.clone()))?;
        let build_info = IntGaugeVec::new(Opts::new("build_info", "1; the version is in the label."), &["version"])?;
        registry.register(Box::new(build_info.clone()))?;
        build_info.with_label_values(&[version]).set(1);
        Ok(Self {
            refusals: decisions::Decisions::default(),
            audit: std::sync::OnceLock::new(),
            requests: counter(
                "requests_total",
                "Requests to upstreams by JSON-RPC method (a closed set, else other) and how they ended.",
                &["upstream", "method", "outcome"],
            )?,
            tools: tools::Tools::new(&registry)?,
            request_duration: histogram(
                "request_duration_seconds",
                "Time from a request's head to the end of its response.",
                REQUEST_BUCKETS,
                &["upstream"],
            )?,
            overhead,
            decisions: counter("auth_decisions_total", "Access decisions.", &["upstream", "decision"])?,
            tokens_issued: counter("tokens_issued_total", "Access tokens issued.", &["grant"])?,
            limited: counter(
                "limited_requests_total",
                "Requests to endpoints that were answered 429, because their address had used up its allowance.",
                &["endpoint"],
            )?,
            registrations: counter("registrations_total", "Clients that became known.", &["kind"])?,
            fetches: counter(
                "document_fetches_total",
                "Client metadata documents and key sets that were asked for elsewhere, and what came of it.",
                &["kind", "result"],
            )?,
            logins: counter("logins_total", "Sign-ins.", &["provider", "outcome"])?,
            open_streams,
            open_connections,
            reloads: counter(
                "config_reloads_total",
                "How often the configuration was read again, and what came of it.",
                &["outcome"],
            )?,
            last_reload,
            last_reload_successful,
            certificates,
            store_operations: histogram(
                "store_operation_seconds",
                "Time that the store took.",
                STORE_BUCKETS,
                &["operation"],
            )?,
            budgets: budgets::Budgets::new(&registry)?,
            upstream_errors: counter("upstream_errors_total", "Upstreams that failed.", &["upstream", "kind"])?,
            registry,
        })
    }

    /// Counts a finished request to an upstream. `method` comes from a closed set.
    pub fn request(&self, upstream: &str, method: &'static str, outcome: Outcome) {
        self.requests
            .with_label_values(&[upstream, method, outcome.as_str()])
            .inc();
    }

    /// Counts a call of a tool. The name is a caller's, so it becomes a label only as long as there are few.
    pub fn tool_call(&self, upstream: &str, tool: &str, outcome: ToolOutcome) {
        self.tools.count(upstream, tool, outcome);
    }

    /// Notes what a request cost before it went to the upstream.
    pub fn overhead(&self, spent: Duration) {
        self.overhead.observe(spent.as_secs_f64());
    }

    /// Counts a decision against a request.
    pub fn decision(&self, upstream: &str, decision: AuthDecision) {
        self.decisions.with_label_values(&[upstream, decision.as_str()]).inc();
    }

    /// Counts an access token.
    pub fn token_issued(&self, by: IssuedBy) {
        self.tokens_issued.with_label_values(&[by.as_str()]).inc();
    }

    /// Counts a registration; `kind` is `dynamic`, `document` or `refused`.
    pub fn registration(&self, kind: &'static str) {
        self.registrations.with_label_values(&[kind]).inc();
    }

    /// Counts a request to an endpoint that was one too many.
    pub fn limited(&self, endpoint: &'static str) {
        self.limited.with_label_values(&[endpoint]).inc();
    }

    /// Counts a fetch; both words come from closed sets.
    pub fn fetch(&self, kind: &'static str, result: &'static str) {
        self.fetches.with_label_values(&[kind, result]).inc();
    }

    /// Counts a sign-in; `provider` is `builtin` or a configured provider's id.
    pub fn login(&self, provider: &str, outcome: LoginOutcome) {
        self.logins.with_label_values(&[provider, outcome.as_str()]).inc();
    }

    /// Counts a failure of an upstream.
    pub fn upstream_error(&self, upstream: &str, failure: UpstreamFailure) {
        self.upstream_errors
            .with_label_values(&[upstream, failure.as_str()])
            .inc();
    }

    /// Notes how long a store operation took.
    pub fn store_operation(&self, operation: &'static str, took: Duration) {
        self.store_operations
            .with_label_values(&[operation])
            .observe(took.as_secs_f64());
    }

    /// Counts a configuration that was read again.
    pub fn reloaded(&self, outcome: Reload) {
        self.reloads.with_label_values(&[outcome.as_str()]).inc();
        self.last_reload_successful.set(i64::from(outcome != Reload::Refused));
    }

    /// Notes when the configuration in force was put in force.
    pub fn in_force_since(&self, now: Timestamp) {
        self.last_reload.set(seconds(now));
        self.last_reload_successful.set(1);
    }

    /// Notes which certificates there are: names of the configuration, and when they expire. Of two for one name the first
    /// to expire counts.
    pub fn certificates<'c>(&self, all: impl Iterator<Item = (&'c str, Timestamp)>) {
        self.certificates.reset();
        for (name, expires) in all {
            let gauge = self.certificates.with_label_values(&[name]);
            let expires = seconds(expires);
            gauge.set(if gauge.get() == 0 {
                expires
            } else {
                gauge.get().min(expires)
            });
        }
    }

    /// Counts one open connection until the guard is dropped.
    #[must_use]
    pub fn connection(&self) -> StreamGuard {
        StreamGuard::new(self.open_connections.clone())
    }

    /// The handles of one upstream.
    #[must_use]
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            duration: self.request_duration.with_label_values(&[name]),
            allowed: self
                .decisions
                .with_label_values(&[name, AuthDecision::Allowed.as_str()]),
            streams: self.open_streams.with_label_values(&[name]),
        }
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// If a metric cannot be written as text.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

fn seconds(moment: Timestamp) -> i64 {
    i64::try_from(moment.as_seconds()).unwrap_or(i64::MAX)
}

// === impl UpstreamMetrics ===

impl UpstreamMetrics {
    /// Notes how long a request took in all.
    pub fn duration(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts a request that was let through.
    pub fn allowed(&self) {
        self.allowed.inc();
    }

    /// Counts an open event stream until the guard is dropped.
    #[must_use]
    pub fn stream(&self) -> StreamGuard {
        StreamGuard::new(self.streams.clone())
    }
}

// === impl StreamGuard ===

impl StreamGuard {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
