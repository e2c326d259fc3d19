//! A stream ends when its token does: when it lapses, is revoked, or its person, client or grant is gone (H11).
//!
//! Streams do not look for themselves. Each token that keeps some open is written down here once, and once a second one task
//! looks at the clock and at the store's count of revocations, which are both in memory. Only when that count has moved, or
//! the configuration has changed, are the tokens looked up again, a few at a time: ten thousand streams cost the store
//! nothing while nothing is revoked, and no storm when something is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::Gateway;
use super::bearer::{self, Permit};
use super::listener::Live;
use crate::domain::clock::Timestamp;
use crate::domain::secret::SecretHash;
use crate::domain::uri::Resource;
use crate::store::Store;

/// How often tokens of open streams are looked at.
const REVIEW: Duration = Duration::from_secs(1);
/// How many tokens are looked up side by side.
const SIDE_BY_SIDE: usize = 8;
/// After so many reviews in which the store could not say anything of a token its streams end: an open door is none.
const MAX_DOUBTS: u8 = 3;

/// The tokens of all open streams.
#[derive(Clone, Debug, Default)]
pub(super) struct Tenures(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    held: Mutex<HashMap<Token, Held>>,
    /// Whether something may have changed that the store's count does not tell.
    unsettled: AtomicBool,
}

/// A token, and what it is used at: by its name, since places change with the configuration.
type Token = (SecretHash, Resource);

/// A token that keeps streams open.
#[derive(Debug)]
struct Held {
    streams: usize,
    expires_at: Timestamp,
    doubts: u8,
    end: Arc<End>,
}

/// Tells the streams of one token that it is over.
#[derive(Debug, Default)]
struct End {
    over: AtomicBool,
    told: Notify,
}

/// Keeps one stream among those of its token until it is dropped.
#[derive(Debug)]
pub(super) struct Tenure {
    tenures: Tenures,
    token: Token,
    end: Arc<End>,
}

// === impl Tenures ===

impl Tenures {
    /// A stream is open with this permit.
    pub(super) fn begin(&self, permit: &Permit, store: &dyn Store) -> Tenure {
        let token = (permit.token, permit.resource.clone());
        let end = {
            let mut held = self.held();
            let held = held.entry(token.clone()).or_insert_with(|| Held {
                streams: 0,
                expires_at: permit.expires_at,
                doubts: 0,
                end: Arc::default(),
            });
            held.streams += 1;
            Arc::clone(&held.end)
        };
        // Something was revoked since the permit was made, and the review of that may be over already. Written down first,
        // looked at then: what happens from now on changes the count.
        if store.revocations() != permit.revocations {
            self.unsettle();
        }
        Tenure {
            tenures: self.clone(),
            token,
            end,
        }
    }

    /// Every token is to be looked at again, such as after a change of the configuration.
    pub(super) fn unsettle(&self) {
        self.0.unsettled.store(true, Ordering::SeqCst);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Token, Held>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_expired(&self, now: Timestamp) {
        self.held().retain(|_, held| {
            let lasts = now < held.expires_at;
            if !lasts {
                held.end.tell();
            }
            lasts
        });
    }

    /// Looks every token up.
    async fn review(&self, gateway: &Arc<Gateway>) {
        let tokens: Vec<Token> = self.held().keys().cloned().collect();
        let mut waiting = tokens.into_iter();
        let mut looking = JoinSet::new();
        loop {
            while looking.len() < SIDE_BY_SIDE
                && let Some(token) = waiting.next()
            {
                let gateway = Arc::clone(gateway);
                looking.spawn(async move {
                    let stands = bearer::stands(&gateway.endpoints, &token.0, &token.1).await;
                    (token, stands)
                });
            }
            match looking.join_next().await {
                None => return,
                Some(Ok((_, Ok(true)))) => {}
                Some(Ok((token, Ok(false)))) => self.end(&token),
                Some(Ok((token, Err(error)))) => {
                    tracing::error!(%error, "the token of a stream could not be checked");
                    self.doubt(&token);
                }
                Some(Err(error)) => {
                    tracing::error!(%error, "the token of a stream could not be checked");
                    self.unsettle();
                }
            }
        }
    }

    fn end(&self, token: &Token) {
        if let Some(held) = self.held().remove(token) {
            held.end.tell();
        }
    }

    fn doubt(&self, token: &Token) {
        let mut all = self.held();
        let Some(held) = all.get_mut(token) else { return };
        held.doubts += 1;
        if held.doubts < MAX_DOUBTS {
            self.unsettle();
        } else if let Some(held) = all.remove(token) {
            held.end.tell();
        }
    }
}

/// Looks after the streams of whichever gateway is in force, for ever.
pub(super) async fn keep(live: Arc<Live>) {
    let mut every = tokio::time::interval(REVIEW);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut settled_at = None;
    loop {
        every.tick().await;
        let gateway = live.now();
        let tenures = &gateway.lasting.tenures;
        if tenures.held().is_empty() {
            continue;
        }
        tenures.end_expired(gateway.endpoints.now());
        // Read before the tokens are: what is revoked meanwhile changes it again.
        let revocations = gateway.endpoints.store.revocations();
        let unsettled = tenures.0.unsettled.swap(false, Ordering::SeqCst);
        if unsettled || settled_at != Some(revocations) {
            tenures.review(&gateway).await;
            settled_at = Some(revocations);
        }
    }
}

// === impl End ===

impl End {
    fn tell(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.told.notify_waiters();
    }
}

// === impl Tenure ===

impl Tenure {
    /// Ends when the token does.
    pub(super) async fn over(&self) {
        loop {
            let told = self.end.told.notified();
            if self.end.over.load(Ordering::SeqCst) {
                return;
            }
            told.await;
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        let mut all = self.tenures.held();
        let Some(held) = all
            .get_mut(&self.token)
            .filter(|held| Arc::ptr_eq(&held.end, &self.end))
        else {
            return;
        };
        held.streams -= 1;
        if held.streams == 0 {
            all.remove(&self.token);
        }
    }
}
