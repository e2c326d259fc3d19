//! Limits of upstreams as metrics: how much of each is in use, where it ends, and how often it was met.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{Metrics, MetricsError, StreamGuard};

/// A limit of an upstream that a request can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of upstreams[].limits")]
pub enum Limit {
    RequestsPerMinute,
    ClientRequestsPerMinute,
    ToolCallsPerMinute,
    ConcurrentRequests,
    ConcurrentStreams,
    TotalConcurrentRequests,
    TotalConcurrentStreams,
}

/// The metrics of all limits.
#[derive(Debug)]
pub(super) struct Budgets {
    rejections: IntCounterVec,
    in_use: IntGaugeVec,
    ceilings: IntGaugeVec,
}

/// Counts what is in use of one limit.
#[derive(Clone, Debug)]
pub struct InUse(IntGauge);

// === impl Limit ===

impl Limit {
    /// The label, which is what the configuration calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests_per_minute",
            Self::ClientRequestsPerMinute => "client_requests_per_minute",
            Self::ToolCallsPerMinute => "tool_calls_per_minute",
            Self::ConcurrentRequests => "concurrent_requests",
            Self::ConcurrentStreams => "concurrent_streams",
            Self::TotalConcurrentRequests => "total_concurrent_requests",
            Self::TotalConcurrentStreams => "total_concurrent_streams",
        }
    }
}

// === impl Budgets ===

impl Budgets {
    pub(super) fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let rejections = IntCounterVec::new(
            Opts::new(
                "limit_rejections_total",
                "Requests to upstreams that were answered 429, by the limit that they met.",
            ),
            &["upstream", "limit"],
        )?;
        registry.register(Box::new(rejections.clone()))?;
        let in_use = IntGaugeVec::new(
            Opts::new(
                "limit_in_use",
                "Requests and event streams, of everybody, that count towards a limit now.",
            ),
            &["upstream", "limit"],
        )?;
        registry.register(Box::new(in_use.clone()))?;
        let ceilings = IntGaugeVec::new(
            Opts::new("limit_ceiling", "Where a limit of the configuration ends."),
            &["upstream", "limit"],
        )?;
        registry.register(Box::new(ceilings.clone()))?;
        Ok(Self {
            rejections,
            in_use,
            ceilings,
        })
    }
}

impl Metrics {
    /// Counts a request that met a limit.
    pub fn limit_met(&self, upstream: &str, limit: Limit) {
        self.budgets
            .rejections
            .with_label_values(&[upstream, limit.as_str()])
            .inc();
    }

    /// What is in use of a limit.
    #[must_use]
    pub fn in_use(&self, upstream: &str, limit: Limit) -> InUse {
        InUse(self.budgets.in_use.with_label_values(&[upstream, limit.as_str()]))
    }

    /// Notes the limits of the configuration in force: upstream, limit, and where it ends.
    pub fn ceilings<'c>(&self, all: impl Iterator<Item = (&'c str, Limit, u32)>) {
        self.budgets.ceilings.reset();
        for (upstream, limit, ceiling) in all {
            self.budgets
                .ceilings
                .with_label_values(&[upstream, limit.as_str()])
                .set(i64::from(ceiling));
        }
    }
}

// === impl InUse ===

impl InUse {
    /// Counts one more until the guard is dropped.
    #[must_use]
    pub fn one(&self) -> StreamGuard {
        StreamGuard::new(self.0.clone())
    }
}
