//! The messages of macOS's routing socket, route(4), as bytes: `struct rt_msghdr` and its kin of net/route.h and net/if.h.

use crate::watch::Change;

const RTM_VERSION: u8 = 5;
const RTM_ADD: u8 = 0x1;
const RTM_DELETE: u8 = 0x2;
const RTM_CHANGE: u8 = 0x3;
const RTM_NEWADDR: u8 = 0xc;
const RTM_DELADDR: u8 = 0xd;
const RTM_IFINFO: u8 = 0xe;

const IFF_LOOPBACK: u32 = 0x8;
/// RTF_LLINFO: a neighbour. RTF_WASCLONED: made for one destination. RTF_LOCAL, RTF_BROADCAST, RTF_MULTICAST: each address has those.
const PASSING: u32 = 0x400 | 0x2_0000 | 0x20_0000 | 0x40_0000 | 0x80_0000;

/// Takes the messages of one read. `loopback` is the index of `lo0`.
pub(crate) fn handle_messages(mut bytes: &[u8], loopback: Option<u16>, change: &mut Change) {
    while let Some(length) = u16_at(bytes, 0).map(usize::from).filter(|length| *length >= 4) {
        let Some(message) = bytes.get(..length) else {
            break;
        };
        // Of a version that this does not know anything may have been said.
        if handle_message(message, loopback, change).is_none() {
            change.missed = true;
        }
        bytes = bytes.get(length..).unwrap_or_default();
    }
    change.missed |= !bytes.is_empty();
}

/// `None` where it cannot be read.
fn handle_message(message: &[u8], loopback: Option<u16>, change: &mut Change) -> Option<()> {
    if *message.get(2)? != RTM_VERSION {
        return None;
    }
    match *message.get(3)? {
        RTM_ADD | RTM_DELETE | RTM_CHANGE => {
            let passing = u32_at(message, 8)? & PASSING != 0;
            change.routes |= !passing && u16_at(message, 4) != loopback;
        }
        RTM_NEWADDR | RTM_DELADDR => change.addresses |= u16_at(message, 12) != loopback,
        RTM_IFINFO => change.links |= u32_at(message, 8)? & IFF_LOOPBACK == 0,
        _ => {}
    }
    Some(())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let found = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(found.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let found = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(found.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LO0: Option<u16> = Some(1);

    fn message(kind: u8, fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut message = vec![0; 92];
        message[..2].copy_from_slice(&92_u16.to_ne_bytes());
        message[2] = RTM_VERSION;
        message[3] = kind;
        for (at, bytes) in fields {
            message[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        message
    }

    fn read(bytes: &[u8]) -> Change {
        let mut change = Change::default();
        handle_messages(bytes, LO0, &mut change);
        change
    }

    fn index(number: u16) -> [u8; 2] {
        number.to_ne_bytes()
    }

    #[test]
    fn several_messages_of_a_read_are_told_together() {
        let gateway = 0x3_u32.to_ne_bytes();
        let mut bytes = message(RTM_NEWADDR, &[(12, &index(4))]);
        bytes.extend(message(RTM_ADD, &[(4, &index(4)), (8, &gateway)]));
        let change = read(&bytes);
        assert_eq!(change.to_string(), "addresses, routes");
        assert_eq!(read(&message(RTM_IFINFO, &[])).to_string(), "links");
    }

    #[test]
    fn neighbours_clones_and_the_loopback_interface_are_noise() {
        for flags in [0x400_u32, 0x2_0001] {
            let noise = message(RTM_ADD, &[(4, &index(4)), (8, &flags.to_ne_bytes())]);
            assert!(read(&noise).is_empty(), "{flags:x}");
        }
        assert!(read(&message(RTM_ADD, &[(4, &index(1))])).is_empty());
        assert!(read(&message(RTM_NEWADDR, &[(12, &index(1))])).is_empty());
        assert!(read(&message(RTM_IFINFO, &[(8, &IFF_LOOPBACK.to_ne_bytes())])).is_empty());
        // RTM_GET, RTM_MISS and whatever else a routing socket carries.
        assert!(read(&message(0x7, &[])).is_empty());
    }

    #[test]
    fn what_cannot_be_read_may_be_anything_and_ends() {
        let mut other = message(RTM_ADD, &[]);
        other[2] = 6;
        assert!(read(&other).missed);
        for length in [0_u16, 3, 93] {
            let mut bytes = message(RTM_ADD, &[]);
            bytes[..2].copy_from_slice(&length.to_ne_bytes());
            assert!(read(&bytes).missed, "{length}");
        }
        assert!(read(&[1]).missed);
        let short = [4, 0, RTM_VERSION, RTM_IFINFO];
        assert!(read(&short).missed);
    }
}
