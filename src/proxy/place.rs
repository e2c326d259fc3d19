//! Where an upstream is. The engine would look its name up with a call that blocks a whole thread, and would panic where
//! there is no such name.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pingora::{Error, ErrorType};

use crate::config::UpstreamUrl;

/// How long an answer is good for. No longer: the address of a container that is gone may be somebody else's soon, and
/// what we send carries credentials.
const FRESH: Duration = Duration::from_secs(5);

/// The addresses of one upstream.
#[derive(Debug)]
pub(super) struct Place {
    host: String,
    port: u16,
    /// An address in the configuration needs no looking up.
    fixed: Option<SocketAddr>,
    known: Mutex<Known>,
    /// Held while somebody asks, so that the others wait for that answer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    until: Option<Instant>,
    /// Moves on when an address does not answer.
    turn: usize,
}

impl Place {
    /// The place of an upstream.
    pub(super) fn of(url: &UpstreamUrl) -> Self {
        Self {
            host: url.host.clone(),
            port: url.port,
            fixed: url.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, url.port)),
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// An address to connect to.
    pub(super) async fn find(&self, within: Duration) -> pingora::Result<SocketAddr> {
        if let Some(address) = self.fixed.or_else(|| self.remembered()) {
            return Ok(address);
        }
        let ask = async {
            let _turn = self.asking.lock().await;
            if let Some(address) = self.remembered() {
                return Ok(address);
            }
            let addresses: Vec<_> = tokio::net::lookup_host((self.host.as_str(), self.port))
                .await?
                .collect();
            self.change(|known| {
                known.addresses = addresses;
                known.until = Some(Instant::now() + FRESH);
            });
            self.remembered()
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
        };
        match tokio::time::timeout(within, ask).await {
            Ok(found) => found.map_err(|error| {
                Error::because(
                    ErrorType::ConnectNoRoute,
                    "an upstream's name cannot be looked up",
                    error,
                )
            }),
            Err(_) => Err(Error::explain(
                ErrorType::ConnectTimedout,
                "an upstream's name was not looked up in time",
            )),
        }
        .map_err(Error::into_up)
    }

    /// The address that was found last does not answer: the next one, if there are several.
    pub(super) fn try_next(&self) {
        self.change(|known| known.turn = known.turn.wrapping_add(1));
    }

    fn remembered(&self) -> Option<SocketAddr> {
        self.change(|known| {
            known.until.filter(|until| Instant::now() < *until)?;
            let turn = known.turn.checked_rem(known.addresses.len())?;
            known.addresses.get(turn).copied()
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str) -> Place {
        Place::of(&UpstreamUrl {
            tls: false,
            host: host.to_owned(),
            port: 3001,
            authority: host.to_owned(),
            path: "/".to_owned(),
        })
    }

    #[tokio::test]
    async fn addresses_are_themselves_and_names_are_asked_for() {
        let within = Duration::from_secs(5);
        assert_eq!(
            place("::1").find(within).await.unwrap(),
            "[::1]:3001".parse::<SocketAddr>().unwrap()
        );
        let local = place("localhost");
        assert!(local.find(within).await.unwrap().ip().is_loopback());
        let gone = place("no-such-host.invalid").find(within).await.unwrap_err();
        assert_eq!(*gone.etype(), ErrorType::ConnectNoRoute);
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_gives_way_to_the_next() {
        let place = place("two.example");
        let both: Vec<SocketAddr> = vec!["192.0.2.1:1".parse().unwrap(), "192.0.2.2:1".parse().unwrap()];
        place.change(|known| {
            known.addresses.clone_from(&both);
            known.until = Some(Instant::now() + FRESH);
        });
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(place.find(Duration::ZERO).await.unwrap());
            place.try_next();
        }
        assert_eq!(seen, [both[0], both[1], both[0]]);
    }
}
