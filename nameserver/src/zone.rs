//! What belongs to us: suffixes and prefixes, and how long answers about them hold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::name::Name;

/// How long an answer holds unless a zone says otherwise. Short: these names belong to services that come and go.
pub const DEFAULT_TTL: Duration = Duration::from_secs(5);

/// A suffix that is ours: whatever below it is not known does not exist.
///
/// The registry may have its names with the suffix or without: with the zone `devbox.test`, a name `api` in the registry answers
/// `api.devbox.test`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    pub(crate) apex: Name,
    pub(crate) ttl: u32,
    pub(crate) negative_ttl: u32,
    pub(crate) bare: bool,
}

impl Zone {
    /// A zone whose answers hold for [`DEFAULT_TTL`].
    pub fn new(apex: Name) -> Self {
        let ttl = seconds(DEFAULT_TTL);
        Self {
            apex,
            ttl,
            negative_ttl: ttl,
            bare: true,
        }
    }

    /// How long an answer holds, in whole seconds.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self {
            ttl: seconds(ttl),
            ..self
        }
    }

    /// How long it holds that something does not exist, in whole seconds (RFC 2308 §5).
    #[must_use]
    pub fn negative_ttl(self, ttl: Duration) -> Self {
        Self {
            negative_ttl: seconds(ttl),
            ..self
        }
    }

    /// Whether its names are also answered without the suffix: `api` for `api.devbox.test`. Default: they are.
    #[must_use]
    pub fn bare(self, bare: bool) -> Self {
        Self { bare, ..self }
    }
}

/// Whole seconds, with the highest bit clear (RFC 2181 §8).
pub(crate) fn seconds(ttl: Duration) -> u32 {
    const MAX: u32 = i32::MAX.unsigned_abs();
    u32::try_from(ttl.as_secs()).map_or(MAX, |seconds| seconds.min(MAX))
}

/// The names below which the addresses of a prefix are called back (PTR), and no others: the suffixes of a rule for split DNS. A prefix
/// that does not end at a label has several, 128 at most.
///
/// ```
/// let zones = nameserver::reverse_zones(&"127.77.0.0/16".parse().unwrap());
/// assert_eq!(zones, ["77.127.in-addr.arpa".parse()?]);
/// assert_eq!(nameserver::reverse_zones(&"10.32.0.0/14".parse().unwrap()).len(), 4);
/// # Ok::<(), nameserver::Error>(())
/// ```
pub fn reverse_zones(prefix: &IpNet) -> Vec<Name> {
    match prefix.trunc() {
        IpNet::V4(prefix) => {
            let octets = prefix.prefix_len().div_ceil(8);
            let parts = prefix.subnets(8 * octets).into_iter().flatten();
            parts
                .map(|part| {
                    let octets = part.network().octets().into_iter().take(octets.into());
                    reverse_name(octets.map(|octet| octet.to_string()), b"\x07in-addr\x04arpa\x00")
                })
                .collect()
        }
        IpNet::V6(prefix) => {
            let nibbles = prefix.prefix_len().div_ceil(4);
            let parts = prefix.subnets(4 * nibbles).into_iter().flatten();
            parts
                .map(|part| {
                    let octets = part.network().octets().into_iter();
                    let digits = octets
                        .flat_map(|octet| [octet >> 4, octet & 0x0F])
                        .take(nibbles.into());
                    reverse_name(digits.map(|digit| format!("{digit:x}")), b"\x03ip6\x04arpa\x00")
                })
                .collect()
        }
    }
}

/// The labels from last to first, and what they lie below.
fn reverse_name(labels: impl Iterator<Item = String>, apex: &[u8]) -> Name {
    let mut wire = Vec::with_capacity(Name::MAX_LEN);
    let labels: Vec<_> = labels.collect();
    for label in labels.iter().rev() {
        wire.extend(u8::try_from(label.len()));
        wire.extend_from_slice(label.as_bytes());
    }
    wire.extend_from_slice(apex);
    Name::from_lower_wire(&wire)
}

/// What a name under `in-addr.arpa` or `ip6.arpa` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reverse {
    /// An address (RFC 1035 §3.5, RFC 3596 §2.5).
    Address(IpAddr),
    /// The addresses below.
    Prefix(IpNet),
}

impl Reverse {
    /// What a name in lower-case wire form stands for, if it is below one of the two.
    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        if let Some(labels) = name.strip_suffix(b"\x07in-addr\x04arpa\x00") {
            let mut octets = [0; 4];
            let len = digits(labels, &mut octets, decimal)?;
            let address = Ipv4Addr::from(octets);
            return Some(match len {
                4 => Self::Address(address.into()),
                len => Self::Prefix(Ipv4Net::new(address, 8 * u8::try_from(len).ok()?).ok()?.into()),
            });
        }
        let labels = name.strip_suffix(b"\x03ip6\x04arpa\x00")?;
        let mut nibbles = [0; 32];
        let len = digits(labels, &mut nibbles, nibble)?;
        let bits = nibbles
            .iter()
            .fold(0_u128, |bits, nibble| (bits << 4) | u128::from(*nibble));
        let address = Ipv6Addr::from_bits(bits);
        Some(match len {
            32 => Self::Address(address.into()),
            len => Self::Prefix(Ipv6Net::new(address, 4 * u8::try_from(len).ok()?).ok()?.into()),
        })
    }
}

/// How many bytes of an address' name are its part that lies in the prefix: the zone that the prefix would be.
pub(crate) fn reverse_apex_len(name: &[u8], prefix: &IpNet) -> usize {
    let skipped = match prefix {
        IpNet::V4(prefix) => 4 - usize::from(prefix.prefix_len().div_ceil(8)),
        IpNet::V6(prefix) => 32 - usize::from(prefix.prefix_len().div_ceil(4)),
    };
    let apex = (0..skipped).try_fold(name, |name, _| crate::name::parent(name));
    apex.map_or(name.len(), <[u8]>::len)
}

/// Reads the digits of labels from last to first; how many there are.
fn digits(labels: &[u8], into: &mut [u8], digit: fn(&[u8]) -> Option<u8>) -> Option<usize> {
    let mut found = 0;
    let mut rest = labels;
    let mut read = [0; 32];
    while let [len, more @ ..] = rest {
        let (label, after) = more.split_at_checked(usize::from(*len))?;
        *read.get_mut(found)? = digit(label)?;
        found += 1;
        rest = after;
    }
    for (place, value) in into.iter_mut().zip(read.get(..found)?.iter().rev()) {
        *place = *value;
    }
    (found <= into.len()).then_some(found)
}

fn decimal(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let number: u8 = text.parse().ok()?;
    // `01` and `+1` are other names than `1`.
    (number.to_string() == text).then_some(number)
}

fn nibble(label: &[u8]) -> Option<u8> {
    let &[digit] = label else { return None };
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reverse(text: &str) -> Option<Reverse> {
        Reverse::of(text.parse::<Name>().unwrap().as_wire())
    }

    #[test]
    fn reverse_names_are_addresses_and_prefixes() {
        let v4 = Reverse::Address("127.77.0.2".parse().unwrap());
        assert_eq!(reverse("2.0.77.127.in-addr.arpa"), Some(v4));
        assert_eq!(
            reverse("77.127.in-addr.arpa"),
            Some(Reverse::Prefix("127.77.0.0/16".parse().unwrap()))
        );
        let v6 = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
        assert_eq!(
            reverse(&v6),
            Some(Reverse::Address("2001:db8::1".parse().unwrap()))
        );
        for other in [
            "x.0.77.127.in-addr.arpa",
            "01.0.77.127.in-addr.arpa",
            "256.0.77.127.in-addr.arpa",
            "1.2.0.77.127.in-addr.arpa",
            "12.ip6.arpa",
            "example.com",
        ] {
            assert_eq!(reverse(other), None, "{other}");
        }
    }

    #[test]
    fn the_zones_of_a_prefix_hold_all_of_its_addresses_and_no_others() {
        let zones = |prefix: &str| {
            let zones = reverse_zones(&prefix.parse().unwrap());
            zones.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(zones("127.77.0.0/16"), ["77.127.in-addr.arpa"]);
        assert_eq!(zones("0.0.0.0/0"), ["in-addr.arpa"]);
        assert_eq!(
            zones("100.64.0.0/15"),
            ["64.100.in-addr.arpa", "65.100.in-addr.arpa"]
        );
        assert_eq!(
            zones("192.0.2.4/31"),
            ["4.2.0.192.in-addr.arpa", "5.2.0.192.in-addr.arpa"]
        );
        assert_eq!(zones("fd77::/16"), ["7.7.d.f.ip6.arpa"]);
        assert_eq!(zones("fd77:8000::/17").len(), 8);
        assert_eq!(zones("fd77::2/128")[0].len(), "ip6.arpa".len() + 64);
        for zone in zones("10.0.0.0/12") {
            let Some(Reverse::Prefix(part)) = reverse(&zone) else {
                panic!("{zone}")
            };
            assert!("10.0.0.0/12".parse::<IpNet>().unwrap().contains(&part));
        }
    }

    #[test]
    fn the_zone_of_a_prefix_ends_at_a_label() {
        let name: Name = "2.0.77.127.in-addr.arpa".parse().unwrap();
        let apex = |prefix: &str| {
            let len = reverse_apex_len(name.as_wire(), &prefix.parse().unwrap());
            Name::from_lower_wire(&name.as_wire()[name.as_wire().len() - len..]).to_string()
        };
        assert_eq!(apex("127.77.0.0/16"), "77.127.in-addr.arpa");
        assert_eq!(apex("127.77.0.0/25"), "2.0.77.127.in-addr.arpa");
        assert_eq!(apex("127.0.0.0/8"), "127.in-addr.arpa");
    }
}
