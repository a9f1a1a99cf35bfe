//! Messages for people and from them: what a command that asks a server needs.

use domain::base::Message;
use domain::base::iana::Rtype;
use std::str::FromStr;

use crate::error::Error;
use crate::name::Name;
use crate::wire::opt_record;

/// A query with RD and EDNS for a name and a type by its name: `A`, `HTTPS`, `TYPE65`.
///
/// ```
/// let packet = nameserver::query(0x1234, &"api.devbox.test".parse()?, "HTTPS")?;
/// assert!(packet.starts_with(&[0x12, 0x34, 1, 0, 0, 1]));
/// # Ok::<(), nameserver::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnknownType`]
pub fn query(id: u16, name: &Name, rtype: &str) -> Result<Vec<u8>, Error> {
    let rtype = Rtype::from_str(&rtype.to_ascii_uppercase()).map_err(|_| Error::UnknownType {
        rtype: rtype.to_owned(),
    })?;
    let [high, low] = id.to_be_bytes();
    let mut packet = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    packet.extend_from_slice(name.as_wire());
    packet.extend_from_slice(&rtype.to_int().to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet.extend_from_slice(&opt_record(1232, 0, false));
    Ok(packet)
}

/// A message as dig(1) would show it; `None` if it cannot be read.
pub fn to_text(packet: &[u8]) -> Option<String> {
    let message = Message::from_octets(packet).ok()?;
    Some(message.display_dig_style().to_string())
}
