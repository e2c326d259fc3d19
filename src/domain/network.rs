//! Networks: which addresses belong to somebody who is believed.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// A block of addresses: `10.0.0.0/8`, or one address. A network of IPv4 is never written as one of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

/// Several of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

/// Why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It reads as nothing.
    #[error("is not an address or a network; write 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")]
    Unreadable,
    /// An address inside the network stands where its first address belongs.
    #[error("has address bits after its prefix; write {0}")]
    HostBits(Network),
    /// Every address there is.
    #[error("is everybody; write the addresses of the proxies, or nothing")]
    Everybody,
}

// === impl Network ===

impl Network {
    /// Whether an address belongs to it, in whichever family it is written.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(IpNet::from(address.to_canonical())));
        }
        let network: IpNet = text.parse().map_err(|_| NetworkError::Unreadable)?;
        if network.prefix_len() == 0 {
            return Err(NetworkError::Everybody);
        }
        let network = match network {
            // ::ffff:10.0.0.0/104 is 10.0.0.0/8.
            IpNet::V6(mapped) if mapped.prefix_len() >= 96 && is_mapped(mapped.network()) => {
                let address = IpAddr::V6(mapped.addr()).to_canonical();
                IpNet::new(address, mapped.prefix_len() - 96).map_err(|_| NetworkError::Unreadable)?
            }
            other => other,
        };
        match network.prefix_len() {
            0 => Err(NetworkError::Everybody),
            _ if network.trunc() != network => Err(NetworkError::HostBits(Self(network.trunc()))),
            _ => Ok(Self(network)),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

fn is_mapped(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some()
}

// === impl Networks ===

impl Networks {
    /// Whether an address belongs to one of them.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_looked_for_in_its_own_family() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("2001:db8::/32", "2001:db8:1::5", "2001:db9::"),
            ("::1", "::1", "127.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "::a01:203"),
            ("::ffff:192.0.2.7", "192.0.2.7", "::c000:207"),
        ] {
            let network = network(text);
            assert!(network.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{text} {outside}");
        }
        assert!(network("10.0.0.0/8").contains("::ffff:10.1.1.1".parse().unwrap()));
    }

    #[test]
    fn everybody_and_unclear_networks_are_refused() {
        for text in ["0.0.0.0/0", "::/0", "::ffff:0.0.0.0/96"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Everybody), "{text}");
        }
        assert_eq!(
            "10.0.0.1/8".parse::<Network>(),
            Err(NetworkError::HostBits(network("10.0.0.0/8")))
        );
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "proxy.example",
            "10.0.0.0/",
            "/8",
            "fe80::1%eth0",
            "10.0.0.0/8 ",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Unreadable), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_network_is_written_as_it_is_read(address in any::<IpAddr>(), length in 1u8..=128) {
            let address = address.to_canonical();
            let length = length.min(if address.is_ipv4() { 32 } else { 128 });
            let whole = IpNet::new(address, length).unwrap().trunc();
            let Ok(network) = whole.to_string().parse::<Network>() else { return Ok(()) };
            prop_assert!(network.contains(address));
            prop_assert_eq!(network.to_string().parse::<Network>(), Ok(network));
        }
    }
}
