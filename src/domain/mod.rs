//! Floor 0: the vocabulary and the rules. No I/O, no async, no framework: everything here can be read and tested alone.
//!
//! A *client* asks on behalf of a *subject* for access to a *resource* (one upstream) with a *scope*. What the subject
//! allowed is a *grant*; every code and token belongs to one.

pub mod client;
pub mod client_url;
pub mod clock;
pub mod device;
pub mod error;
pub mod factors;
pub mod grant;
pub mod key;
pub mod network;
pub mod person;
pub mod pkce;
pub mod rate;
pub mod rules;
pub mod scope;
pub mod secret;
pub mod uri;
pub mod user;
