//! mcpgate puts OAuth in front of MCP servers that know nothing of it.
//!
//! Floors, each importing only from those below it (tests/architecture.rs holds them to it):
//!
//! ```text
//! main → demo → app → proxy → oauth → identity → { config, store, telemetry, jose, fetch, mcp } → domain
//! ```

pub mod admin;
pub mod app;
pub mod commands;
pub mod config;
pub mod demo;
pub mod domain;
pub mod fetch;
pub mod identity;
pub mod jose;
pub mod mcp;
pub mod oauth;
pub mod proxy;
pub mod store;
pub mod telemetry;
