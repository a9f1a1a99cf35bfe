//! /proc/net/tcp and its kin, proc_net(5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::observed::{Listener, Transport};

/// TCP_LISTEN and, for a UDP socket without a peer, TCP_CLOSE of net/tcp_states.h.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

/// The sockets of a file that wait for connections or datagrams, each with its inode.
pub fn listeners(transport: Transport, text: &str) -> impl Iterator<Item = (Listener, Option<u64>)> + '_ {
    let waiting = match transport {
        Transport::Tcp => TCP_LISTEN,
        Transport::Udp => UDP_UNCONNECTED,
    };
    // The first line names the columns: number, local address, remote address, state, queues, timer, retransmissions, user, timeout,
    // inode.
    text.lines().skip(1).filter_map(move |line| {
        let mut columns = line.split_ascii_whitespace();
        let local = columns.nth(1)?;
        let state = columns.nth(1)?;
        let uid = columns.nth(3)?;
        (state == waiting).then_some(())?;
        let inode = columns.nth(1).and_then(|inode| inode.parse().ok());
        let listener = Listener {
            transport,
            address: address(local)?,
            uid: uid.parse().ok(),
            program: None,
        };
        Some((listener, inode))
    })
}

/// `0100007F:1538`: the address in words of this machine's byte order, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| {
        let digits = address.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen_are_read_and_no_others() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000   105        0 15211 1 0 100 0 0 10 0\n   \
            1: 0100007F:1538 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 15212 1 0 100 0 0 10 0\n   \
            2: torn\n";
        let found: Vec<_> = listeners(Transport::Tcp, text).collect();
        if cfg!(target_endian = "little") {
            assert_eq!(
                found,
                [(
                    Listener {
                        transport: Transport::Tcp,
                        address: "127.0.0.1:5432".parse().unwrap(),
                        uid: Some(105),
                        program: None,
                    },
                    Some(15211)
                )]
            );
        }
    }

    #[test]
    fn an_ipv6_address_is_four_words() {
        if cfg!(target_endian = "little") {
            let address = address("00000000000000000000000001000000:0035").unwrap();
            assert_eq!(address, "[::1]:53".parse().unwrap());
        }
        assert_eq!(address("0100007F:15381"), None);
        assert_eq!(address("é100007F:1538"), None);
    }
}
