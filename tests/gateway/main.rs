//! The whole gateway, black box: a real listener, a real store, a real upstream, a clock that the test moves. Only what
//! HTTP shows is asserted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    unreachable_pub,
    reason = "a test that cannot go on should stop; nobody imports a test"
)]

mod advertised;
mod edges;
mod generations;
mod guards;
mod hostile;
mod http1;
mod person;
mod proxying;
mod setup;
mod step_up;
mod stories;
