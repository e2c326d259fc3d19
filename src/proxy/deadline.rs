//! A point in time by which something has to have happened. One sleep serves a whole connection: to register one with every
//! request would cost more than to wake once for nothing.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// A deadline that may be moved, or be none.
#[derive(Debug, Default)]
pub(super) struct Deadline {
    at: Option<Instant>,
    /// Sleeps until some deadline; it may be one that was moved on since.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Something has to happen within this time.
    pub(super) fn expect_within(&mut self, time: Duration) {
        self.at = Instant::now().checked_add(time);
    }

    /// Something has to happen until then.
    pub(super) const fn expect_by(&mut self, at: Instant) {
        self.at = Some(at);
    }

    /// Nothing is waited for.
    pub(super) const fn rest(&mut self) {
        self.at = None;
    }

    /// Ends when the deadline has passed; never, if there is none.
    pub(super) async fn passed(&mut self) {
        poll_fn(|context| self.poll_passed(context)).await;
    }

    /// The same for those who poll.
    pub(super) fn poll_passed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.at else {
            return Poll::Pending;
        };
        let wake_at = tokio::time::Instant::from_std(deadline);
        loop {
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(wake_at)));
            if sleep.deadline() > wake_at {
                sleep.as_mut().reset(wake_at);
            }
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                (self.sleep, self.at) = (None, None);
                return Poll::Ready(());
            }
            sleep.as_mut().reset(wake_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_passes_when_it_was_last_moved_to() {
        let started = Instant::now();
        let mut deadline = Deadline::default();
        deadline.expect_within(Duration::from_millis(20));
        assert!(
            tokio::time::timeout(Duration::from_millis(5), deadline.passed())
                .await
                .is_err()
        );
        deadline.expect_within(Duration::from_millis(60));
        deadline.passed().await;
        assert!(started.elapsed() >= Duration::from_millis(60));
        // Earlier than the sleep that is there.
        deadline.expect_within(Duration::from_secs(600));
        assert!(
            tokio::time::timeout(Duration::from_millis(5), deadline.passed())
                .await
                .is_err()
        );
        deadline.expect_within(Duration::from_millis(1));
        deadline.passed().await;
        deadline.rest();
        assert!(
            tokio::time::timeout(Duration::from_millis(5), deadline.passed())
                .await
                .is_err()
        );
    }
}
