//! What a name has: the data of records.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::iana::Rtype;
use domain::base::rdata::ComposeRecordData;
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{Entry, Zonefile};

use crate::error::Error;
use crate::name::Name;

/// The most bytes that the data of one record may have, so that a record with the longest name fits into a message over TCP.
pub(crate) const MAX_RDATA: usize = 60_000;

/// The data of one record.
///
/// ```
/// use nameserver::Data;
/// let address = Data::from(std::net::IpAddr::from([127, 77, 0, 2]));
/// let port = Data::srv(0, 0, 5432, &"orders.backend".parse()?);
/// let text = Data::txt(["version=3"])?;
/// let web = Data::https("1 . alpn=h2,http/1.1 port=8443")?;
/// # let _ = (address, port, text, web);
/// # Ok::<(), nameserver::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Data(Kind);

/// IPv4 addresses lie in place: nearly all records are such, and there may be a million.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    A(Ipv4Addr),
    Aaaa(Box<Ipv6Addr>),
    Other(Box<(u16, Vec<u8>)>),
}

impl Data {
    /// Where a service is (RFC 2782).
    pub fn srv(priority: u16, weight: u16, port: u16, target: &Name) -> Self {
        let mut wire = Vec::with_capacity(6 + target.as_wire().len());
        for number in [priority, weight, port] {
            wire.extend_from_slice(&number.to_be_bytes());
        }
        // Never compressed (RFC 2782, "Target").
        wire.extend_from_slice(target.as_wire());
        Self::other(Rtype::SRV, wire)
    }

    /// The strings of a TXT record.
    ///
    /// # Errors
    /// [`Error::LongText`] for a string of more than 255 bytes, [`Error::LongData`] if all of them are too long.
    pub fn txt<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let mut wire = Vec::new();
        for string in strings {
            let string = string.as_ref();
            let len = u8::try_from(string.len()).map_err(|_| Error::LongText { len: string.len() })?;
            wire.push(len);
            wire.extend_from_slice(string);
        }
        if wire.is_empty() {
            // One or more strings (RFC 1035 §3.3.14): nothing to say is one empty string.
            wire.push(0);
        }
        Self::raw(Rtype::TXT.to_int(), wire)
    }

    /// Where a web service is and what it speaks (RFC 9460), as in a zone file: priority, target and parameters.
    ///
    /// # Errors
    /// [`Error::InvalidHttps`], [`Error::LongData`].
    pub fn https(text: &str) -> Result<Self, Error> {
        let invalid = |reason: String| Error::InvalidHttps {
            text: text.to_owned(),
            reason,
        };
        let mut zone = Zonefile::new().allow_invalid();
        zone.set_origin(domain::base::Name::root());
        zone.extend_from_slice(format!(". 0 IN HTTPS {text}\n").as_bytes());
        let entry = zone.next_entry().map_err(|error| invalid(error.to_string()))?;
        let mut wire = Vec::new();
        match entry {
            Some(Entry::Record(record)) if matches!(record.data(), ZoneRecordData::Https(_)) => {
                let Ok(()) = record.data().compose_rdata(&mut wire);
            }
            _ => return Err(invalid("it is something else".to_owned())),
        }
        // A second line would be another record.
        if !matches!(zone.next_entry(), Ok(None)) {
            return Err(invalid("it has several lines".to_owned()));
        }
        Self::raw(Rtype::HTTPS.to_int(), wire)
    }

    /// The name of an address.
    pub fn ptr(target: &Name) -> Self {
        Self::other(Rtype::PTR, target.as_wire().to_vec())
    }

    /// Data of any type, as on the wire and without compressed names: CAA, MX.
    ///
    /// # Errors
    /// [`Error::LongData`].
    pub fn raw(rtype: u16, wire: Vec<u8>) -> Result<Self, Error> {
        if wire.len() > MAX_RDATA {
            return Err(Error::LongData { len: wire.len() });
        }
        match (Rtype::from_int(rtype), wire.as_slice()) {
            (Rtype::A, &[a, b, c, d]) => Ok(IpAddr::from([a, b, c, d]).into()),
            (Rtype::AAAA, bytes) if bytes.len() == 16 => {
                let mut address = [0; 16];
                address.copy_from_slice(bytes);
                Ok(IpAddr::from(address).into())
            }
            (rtype, _) => Ok(Self::other(rtype, wire)),
        }
    }

    fn other(rtype: Rtype, wire: Vec<u8>) -> Self {
        Self(Kind::Other(Box::new((rtype.to_int(), wire))))
    }

    /// The type of the record.
    pub fn rtype(&self) -> u16 {
        match &self.0 {
            Kind::A(_) => Rtype::A.to_int(),
            Kind::Aaaa(_) => Rtype::AAAA.to_int(),
            Kind::Other(other) => other.0,
        }
    }

    /// The address, if it is one.
    pub fn address(&self) -> Option<IpAddr> {
        match &self.0 {
            Kind::A(address) => Some((*address).into()),
            Kind::Aaaa(address) => Some((**address).into()),
            Kind::Other(_) => None,
        }
    }

    /// Calls back with the data in wire form.
    pub(crate) fn with_wire<T>(&self, use_it: impl FnOnce(&[u8]) -> T) -> T {
        match &self.0 {
            Kind::A(address) => use_it(&address.octets()),
            Kind::Aaaa(address) => use_it(&address.octets()),
            Kind::Other(other) => use_it(&other.1),
        }
    }
}

impl From<IpAddr> for Data {
    fn from(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(address) => Kind::A(address),
            IpAddr::V6(address) => Kind::Aaaa(Box::new(address)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_256_bytes_is_refused_and_none_is_one_empty_string() {
        assert_eq!(Data::txt(["x".repeat(256)]), Err(Error::LongText { len: 256 }));
        let empty = Data::txt(Vec::<&str>::new()).unwrap();
        empty.with_wire(|wire| assert_eq!(wire, [0]));
    }

    #[test]
    fn an_https_record_is_read_as_in_a_zone_file() {
        let wire = |text: &str| Data::https(text).unwrap().with_wire(<[u8]>::to_vec);
        // The parameters of RFC 9460, appendix D.2: in the order of their keys, whatever the text's.
        assert_eq!(
            wire("16 foo.example.org. port=53"),
            b"\x00\x10\x03foo\x07example\x03org\x00\x00\x03\x00\x02\x00\x35"
        );
        assert_eq!(
            wire("1 . port=8443 alpn=\"h2\" ipv4hint=10.0.0.1"),
            b"\x00\x01\x00\x00\x01\x00\x03\x02h2\x00\x03\x00\x02\x20\xFB\x00\x04\x00\x04\x0A\x00\x00\x01"
        );
        assert_eq!(wire("0 web.shop"), b"\x00\x00\x03web\x04shop\x00");
        for text in [
            "",
            "1",
            "x .",
            "1 . port=http",
            "1 . alpn=h2 alpn=h3",
            "1 . colour=red",
            "1 .\n$INCLUDE /etc/passwd",
        ] {
            assert!(
                matches!(Data::https(text), Err(Error::InvalidHttps { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn data_of_an_address_is_small() {
        assert!(size_of::<Data>() <= 16);
    }
}
