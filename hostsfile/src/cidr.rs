//! A network in CIDR notation.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::error::Error;

/// A network such as `10.0.0.0/8` or `2001:db8::/32`. Bits beyond the prefix may be set; they are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Makes a network from an address and the length of its prefix in bits.
    ///
    /// # Errors
    /// [`Error::InvalidCidr`] if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, Error> {
        if prefix > if address.is_ipv4() { 32 } else { 128 } {
            return Err(Error::InvalidCidr {
                text: format!("{address}/{prefix}"),
                reason: "the prefix is longer than the address",
            });
        }
        Ok(Cidr { address, prefix })
    }

    /// Whether the address is in the network; never true for an address of the other family.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(a)) => {
                (net.to_bits() ^ a.to_bits())
                    .checked_shr(32 - u32::from(self.prefix))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(net), IpAddr::V6(a)) => {
                (net.to_bits() ^ a.to_bits())
                    .checked_shr(128 - u32::from(self.prefix))
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason| Error::InvalidCidr {
            text: text.to_owned(),
            reason,
        };
        let (address, prefix) = text.split_once('/').ok_or_else(|| refuse("there is no slash"))?;
        let address = address.parse().map_err(|_| refuse("the address is invalid"))?;
        if prefix.is_empty() || prefix.len() > 3 || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refuse("the prefix is no number"));
        }
        let prefix = prefix
            .parse()
            .map_err(|_| refuse("the prefix is longer than the address"))?;
        Cidr::new(address, prefix).map_err(|_| refuse("the prefix is longer than the address"))
    }
}

impl TryFrom<&str> for Cidr {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        text.parse()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}
