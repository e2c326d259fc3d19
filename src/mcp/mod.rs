//! What MCP traffic says, without any input or output: messages, rules about them, lists, events, session ids. The proxy
//! reads bytes and acts; what the bytes mean is decided here.

pub mod endpoint;
pub mod events;
pub mod headers;
pub mod lists;
pub mod message;
pub mod rules;
pub mod session;
