//! mcpgate puts OAuth in front of MCP servers that know nothing of it.
//!
//! Floors, each importing only from those below it (a test holds them to it):
//!
//! ```text
//! main → app → proxy → oauth → identity → { config, store, telemetry } → domain
//! ```

pub mod config;
pub mod domain;
pub mod identity;
pub mod oauth;
pub mod store;
pub mod telemetry;
