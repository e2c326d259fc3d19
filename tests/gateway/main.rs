//! The whole gateway, black box: a real listener, a real store, a real upstream, a clock that the test moves. Only what
//! HTTP shows is asserted.

mod hostile;
mod http1;
mod person;
mod proxying;
mod setup;
mod stories;
