//! The PROXY protocol, version 2: tells a target who connected (<https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>).

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

/// The header for a connection of `program` to `listener`. Where the two have different families it says that the addresses are not
/// known, as §2.2 asks for.
pub(super) fn header(program: SocketAddr, listener: SocketAddr) -> Bytes {
    const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
    const VERSION_2_PROXY: u8 = 0x21;
    const UNSPECIFIED: u8 = 0x00;
    const TCP_OVER_IPV4: u8 = 0x11;
    const TCP_OVER_IPV6: u8 = 0x21;
    let mut bytes = Vec::with_capacity(52);
    bytes.extend_from_slice(SIGNATURE);
    bytes.push(VERSION_2_PROXY);
    match (program.ip().to_canonical(), listener.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend_from_slice(&[TCP_OVER_IPV4, 0, 12]);
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            bytes.extend_from_slice(&[TCP_OVER_IPV6, 0, 36]);
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
        }
        _ => {
            bytes.extend_from_slice(&[UNSPECIFIED, 0, 0]);
            return bytes.into();
        }
    }
    bytes.extend_from_slice(&program.port().to_be_bytes());
    bytes.extend_from_slice(&listener.port().to_be_bytes());
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(program: &str, listener: &str) -> Vec<u8> {
        header(program.parse().unwrap(), listener.parse().unwrap()).to_vec()
    }

    #[test]
    fn the_header_is_the_one_of_the_specification() {
        let start = b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A\x21";
        let v4 = of("127.0.0.1:4242", "127.77.1.2:80");
        assert_eq!(v4[..13], *start);
        assert_eq!(
            v4[13..],
            [0x11, 0, 12, 127, 0, 0, 1, 127, 77, 1, 2, 0x10, 0x92, 0, 80]
        );
        assert_eq!(of("[::ffff:127.0.0.1]:4242", "127.77.1.2:80"), v4);
        let v6 = of("[::1]:1", "[fd00::2]:2");
        assert_eq!(v6[13..16], [0x21, 0, 36]);
        assert_eq!((v6.len(), v6[31], v6[47]), (52, 1, 2));
        assert_eq!(v6[48..], [0, 1, 0, 2]);
        assert_eq!(of("[::1]:1", "127.0.0.1:2")[13..], [0, 0, 0]);
    }
}
