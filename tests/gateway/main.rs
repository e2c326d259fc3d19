//! The whole gateway, black box: a real listener, a real store, a real upstream, a clock that the test moves. Only what
//! HTTP shows is asserted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    clippy::too_many_lines,
    clippy::format_collect,
    clippy::doc_markdown,
    unreachable_pub,
    reason = "a test that cannot go on should stop; nobody imports a test; a story is as long as it is, and names products"
)]

mod account;
mod administration;
mod advertised;
mod auditing;
mod behind_proxies;
mod budgets;
mod certificates;
mod commands;
mod documents;
mod edges;
mod elsewhere;
mod encryption;
mod faults;
mod footprint;
mod generations;
mod github;
mod guards;
mod hostile;
mod http1;
mod login_page;
mod mcp_server;
#[path = "../support/memory.rs"]
mod memory;
mod misfortune;
mod passkeys;
mod passwords;
mod person;
mod policy;
mod provider;
mod proxying;
mod reloading;
mod rudeness;
mod second;
mod sessions;
mod setup;
mod signals;
mod signed_identity;
#[path = "../support/site.rs"]
mod site;
mod step_up;
mod stories;
mod streams;
