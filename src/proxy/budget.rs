//! How often and how many at a time: what one subject, one client, one tool and all together may have of an upstream (K25).
//!
//! ```text
//! concurrent   a place is taken before the upstream hears of a request, and given back when its holder is dropped,
//!              however that comes about; what counts is held in a map that has entries only for those inside
//! rates        counted when there was a place; those that were quiet for longest are forgotten (domain::rate)
//! ```
//! A request takes a place among the requests and one among the streams, because nobody knows yet which its answer will
//! be. When the answer begins one of the two is given back. So nothing is refused that the upstream has done already, and
//! no limit is exceeded.
//!
//! Parties are remembered by a keyed hash: nothing that a caller sends is kept, whatever its length, and nobody can choose
//! whom to share a number with.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;

use super::bearer::Permit;
use crate::config::{Config, Limits, Upstream};
use crate::domain::clock::Timestamp;
use crate::domain::rate::{NamedRates, Rates};
use crate::telemetry::{InUse, Limit, Metrics, StreamGuard};

/// When to come back if a place has to become free, of which nobody knows when.
const PLACE_WAIT: Duration = Duration::from_secs(1);

/// What is counted at all upstreams, by name. It outlives a configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Budgets(Arc<Mutex<HashMap<String, Arc<Budget>>>>);

/// What is counted at one upstream.
#[derive(Debug)]
pub(super) struct Budget {
    hasher: RandomState,
    subjects: Rates<u64>,
    clients: Rates<u64>,
    tools: NamedRates<u64>,
    requests: Arc<Places>,
    streams: Arc<Places>,
}

/// A limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) limit: Limit,
    pub(super) wait: Duration,
}

/// The places that a request holds until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    request: Option<Place>,
    stream: Option<Place>,
}

/// Who is inside.
#[derive(Debug)]
struct Places {
    inside: Mutex<HashMap<u64, u32>>,
    all: AtomicU32,
    in_use: InUse,
}

/// One place, given back on drop.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    /// Where places are counted for each.
    party: Option<u64>,
    _in_use: StreamGuard,
}

/// Whose places are all taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    OfOne,
    OfAll,
}

// === impl Budgets ===

impl Budgets {
    /// What is counted at an upstream, if it has a limit that counts.
    pub(super) fn of(&self, upstream: &Upstream, metrics: &Metrics) -> Option<Arc<Budget>> {
        ceilings(&upstream.limits).next()?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let budget = all
            .entry(upstream.name.clone())
            .or_insert_with(|| Arc::new(Budget::new(&upstream.name, metrics)));
        Some(Arc::clone(budget))
    }

    /// Forgets the upstreams that there are no more, and shows where the limits of the others end.
    pub(super) fn settle(&self, config: &Config, metrics: &Metrics) {
        let limited = |name: &str| {
            let upstream = config.upstreams.iter().find(|upstream| upstream.name == name);
            upstream.is_some_and(|upstream| ceilings(&upstream.limits).next().is_some())
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|name, _| limited(name));
        metrics.ceilings(config.upstreams.iter().flat_map(|upstream| {
            ceilings(&upstream.limits).map(|(limit, ceiling)| (upstream.name.as_str(), limit, ceiling))
        }));
    }
}

/// The limits that count something, and where they end.
fn ceilings(limits: &Limits) -> impl Iterator<Item = (Limit, u32)> + use<> {
    [
        (Limit::RequestsPerMinute, limits.requests_per_minute),
        (Limit::ClientRequestsPerMinute, limits.client_requests_per_minute),
        (Limit::ToolCallsPerMinute, limits.tool_calls_per_minute),
        (Limit::ConcurrentRequests, limits.concurrent_requests),
        (Limit::ConcurrentStreams, limits.concurrent_streams),
        (Limit::TotalConcurrentRequests, limits.total_concurrent_requests),
        (Limit::TotalConcurrentStreams, limits.total_concurrent_streams),
    ]
    .into_iter()
    .filter_map(|(limit, ceiling)| Some((limit, ceiling?)))
}

// === impl Budget ===

impl Budget {
    fn new(upstream: &str, metrics: &Metrics) -> Self {
        let places = |limit| {
            Arc::new(Places {
                inside: Mutex::default(),
                all: AtomicU32::new(0),
                in_use: metrics.in_use(upstream, limit),
            })
        };
        Self {
            hasher: RandomState::new(),
            subjects: Rates::new(),
            clients: Rates::new(),
            tools: NamedRates::new(),
            requests: places(Limit::TotalConcurrentRequests),
            streams: places(Limit::TotalConcurrentStreams),
        }
    }

    /// Lets a request in, with the places that it takes.
    pub(super) fn admit(
        &self,
        limits: &Limits,
        permit: &Permit,
        method: &Method,
        now: Timestamp,
    ) -> Result<Option<Box<Held>>, Met> {
        let subject = self.hasher.hash_one(&permit.subject);
        let request = Places::enter(
            &self.requests,
            subject,
            limits.concurrent_requests,
            limits.total_concurrent_requests,
        )
        .map_err(|full| full.met(Limit::ConcurrentRequests, Limit::TotalConcurrentRequests))?;
        let stream = if matches!(*method, Method::GET | Method::POST) {
            Places::enter(
                &self.streams,
                subject,
                limits.concurrent_streams,
                limits.total_concurrent_streams,
            )
            .map_err(|full| full.met(Limit::ConcurrentStreams, Limit::TotalConcurrentStreams))?
        } else {
            None
        };
        if let Some(per_minute) = limits.requests_per_minute {
            let counted = self.subjects.admit(subject, per_minute, now);
            counted.map_err(|wait| Met {
                limit: Limit::RequestsPerMinute,
                wait,
            })?;
        }
        if let Some(per_minute) = limits.client_requests_per_minute {
            let client = self.hasher.hash_one(&permit.client_id);
            let counted = self.clients.admit(client, per_minute, now);
            counted.map_err(|wait| Met {
                limit: Limit::ClientRequestsPerMinute,
                wait,
            })?;
        }
        let holds = request.is_some() || stream.is_some();
        Ok(holds.then(|| Box::new(Held { request, stream })))
    }

    /// Counts the call of a tool.
    pub(super) fn call(&self, per_minute: u32, permit: &Permit, tool: &str, now: Timestamp) -> Result<(), Met> {
        let (party, name) = (self.hasher.hash_one(&permit.subject), self.hasher.hash_one(tool));
        self.tools.admit(party, name, per_minute, now).map_err(|wait| Met {
            limit: Limit::ToolCallsPerMinute,
            wait,
        })
    }
}

// === impl Met ===

impl Met {
    /// What the client is told.
    pub(super) const fn message(self) -> &'static str {
        match self.limit {
            Limit::RequestsPerMinute => "too many requests in a minute",
            Limit::ClientRequestsPerMinute => "too many requests of this client in a minute",
            Limit::ToolCallsPerMinute => "too many calls of this tool in a minute",
            Limit::ConcurrentRequests => "too many requests at a time",
            Limit::ConcurrentStreams => "too many streams at a time",
            Limit::TotalConcurrentRequests | Limit::TotalConcurrentStreams => "the server is busy",
        }
    }

    /// For `Retry-After`.
    pub(super) fn seconds(self) -> u64 {
        let part = u64::from(self.wait.subsec_nanos() > 0);
        (self.wait.as_secs() + part).max(1)
    }
}

// === impl Held ===

impl Held {
    /// The answer begins: it is a stream or it is none.
    pub(super) fn becomes(&mut self, stream: bool) {
        if stream {
            self.request = None;
        } else {
            self.stream = None;
        }
    }

    /// The whole of the answer is there.
    pub(super) fn is_answered(&mut self) {
        self.request = None;
    }
}

// === impl Places ===

impl Places {
    /// Takes a place, if anything is counted here.
    fn enter(places: &Arc<Self>, party: u64, each: Option<u32>, total: Option<u32>) -> Result<Option<Place>, Full> {
        if each.is_none() && total.is_none() {
            return Ok(None);
        }
        let most = total.unwrap_or(u32::MAX);
        let taken = places
            .all
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |all| (all < most).then(|| all + 1));
        taken.map_err(|_| Full::OfAll)?;
        // From here on it is given back on drop.
        let mut place = Place {
            places: Arc::clone(places),
            party: None,
            _in_use: places.in_use.one(),
        };
        if let Some(each) = each {
            let mut inside = places.inside.lock().unwrap_or_else(PoisonError::into_inner);
            let own = inside.entry(party).or_insert(0);
            if *own < each {
                *own += 1;
                place.party = Some(party);
            } else {
                drop(inside);
                return Err(Full::OfOne);
            }
        }
        Ok(Some(place))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.all.fetch_sub(1, Ordering::AcqRel);
        let Some(party) = self.party else { return };
        let mut inside = self.places.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut own) = inside.entry(party) {
            if *own.get() > 1 {
                *own.get_mut() -= 1;
            } else {
                own.remove();
            }
        }
    }
}

impl Full {
    const fn met(self, of_one: Limit, of_all: Limit) -> Met {
        let limit = match self {
            Self::OfOne => of_one,
            Self::OfAll => of_all,
        };
        Met {
            limit,
            wait: PLACE_WAIT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Arc<Places> {
        let metrics = Metrics::new("0").unwrap();
        Arc::new(Places {
            inside: Mutex::default(),
            all: AtomicU32::new(0),
            in_use: metrics.in_use("one", Limit::TotalConcurrentRequests),
        })
    }

    /// Spec: K25
    #[test]
    fn places_are_given_back_and_nobody_is_remembered() {
        let places = places();
        let first = Places::enter(&places, 1, Some(2), Some(3)).unwrap();
        let second = Places::enter(&places, 1, Some(2), Some(3)).unwrap();
        assert_eq!(Places::enter(&places, 1, Some(2), Some(3)).unwrap_err(), Full::OfOne);
        let other = Places::enter(&places, 2, Some(2), Some(3)).unwrap();
        assert_eq!(Places::enter(&places, 3, Some(2), Some(3)).unwrap_err(), Full::OfAll);
        drop(first);
        assert!(Places::enter(&places, 3, Some(2), Some(3)).is_ok());
        drop((second, other));
        assert!(places.inside.lock().unwrap().is_empty());
        assert_eq!(places.all.load(Ordering::SeqCst), 0);
        assert!(
            Places::enter(&places, 1, None, None).unwrap().is_none(),
            "nothing is counted"
        );
    }

    /// Spec: K25, L15
    #[test]
    fn many_at_once_never_exceed_a_limit() {
        let places = places();
        let most = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for party in 0..8u64 {
                let (places, most) = (&places, &most);
                scope.spawn(move || {
                    for turn in 0..5_000u64 {
                        let held = Places::enter(places, (party + turn) % 3, Some(2), Some(4));
                        most.fetch_max(places.all.load(Ordering::SeqCst), Ordering::SeqCst);
                        let inside = places.inside.lock().unwrap();
                        assert!(inside.values().all(|own| *own <= 2) && inside.len() <= 3);
                        drop(inside);
                        drop(held);
                    }
                });
            }
        });
        assert!((1..=4).contains(&most.load(Ordering::SeqCst)));
        assert!(places.inside.lock().unwrap().is_empty());
        assert_eq!(places.all.load(Ordering::SeqCst), 0);
    }
}
