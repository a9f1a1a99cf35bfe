//! Whether the program at the other end of a local connection still has it.
//!
//! A program that closes its socket and one that only ends its writing direction send the same FIN. Which of the two
//! it was shows only in the system's table of sockets, where a closed one belongs to nobody.

use std::net::SocketAddr;

/// Whether the socket that a connection comes from, on this machine, has been closed. `false` where the system does
/// not tell.
pub(crate) fn has_closed(listener: SocketAddr, program: SocketAddr) -> bool {
    cfg_if::cfg_if! {
        if #[cfg(target_os = "linux")] {
            ask(&request(listener, program)).is_ok_and(|reply| is_orphan(&reply))
        } else {
            let _unknown = (listener, program);
            false
        }
    }
}

/// Asks the kernel for one socket (sock_diag(7)).
#[cfg(target_os = "linux")]
fn ask(request: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::Read;

    const AF_NETLINK: i32 = 16;
    const NETLINK_SOCK_DIAG: i32 = 4;
    let socket = socket2::Socket::new(
        AF_NETLINK.into(),
        socket2::Type::DGRAM,
        Some(NETLINK_SOCK_DIAG.into()),
    )?;
    // The answer is there when the request has been sent; nobody should wait for one that is not.
    socket.set_nonblocking(true)?;
    socket.send(request)?;
    let mut reply = vec![0; 512];
    let n = (&socket).read(&mut reply)?;
    reply.truncate(n);
    Ok(reply)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2` for the program's own end.
#[cfg_attr(
    not(any(test, target_os = "linux")),
    expect(dead_code, reason = "only Linux answers it")
)]
fn request(listener: SocketAddr, program: SocketAddr) -> Vec<u8> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const IPPROTO_TCP: u8 = 6;
    let (from, to) = (program.ip().to_canonical(), listener.ip().to_canonical());
    let octets = |ip: std::net::IpAddr| {
        let mut all = [0; 16];
        match ip {
            std::net::IpAddr::V4(ip) => all[..4].copy_from_slice(&ip.octets()),
            std::net::IpAddr::V6(ip) => all = ip.octets(),
        }
        all
    };
    let mut bytes = Vec::with_capacity(REQUEST_BYTES as usize);
    bytes.extend_from_slice(&REQUEST_BYTES.to_ne_bytes());
    bytes.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Sequence and port: one request a socket needs neither.
    bytes.extend_from_slice(&[0; 8]);
    let family = if from.is_ipv4() { AF_INET } else { AF_INET6 };
    bytes.extend_from_slice(&[family, IPPROTO_TCP, 0, 0]);
    let any_state = u32::MAX;
    bytes.extend_from_slice(&any_state.to_ne_bytes());
    bytes.extend_from_slice(&program.port().to_be_bytes());
    bytes.extend_from_slice(&listener.port().to_be_bytes());
    bytes.extend_from_slice(&octets(from));
    bytes.extend_from_slice(&octets(to));
    let (any_interface, no_cookie) = ([0; 4], [0xFF; 8]);
    bytes.extend_from_slice(&any_interface);
    bytes.extend_from_slice(&no_cookie);
    bytes
}

/// Whether a reply (`struct nlmsghdr` and `struct inet_diag_msg`) shows a socket without an inode, which is how one is
/// shown that no process holds. "No such socket" is no answer: the system may lack the module that looks.
#[cfg_attr(
    not(any(test, target_os = "linux")),
    expect(dead_code, reason = "only Linux answers it")
)]
fn is_orphan(reply: &[u8]) -> bool {
    const SOCK_DIAG_BY_FAMILY: [u8; 2] = 20u16.to_ne_bytes();
    const INODE_AT: usize = 84;
    reply.get(4..6) == Some(&SOCK_DIAG_BY_FAMILY) && reply.get(INODE_AT..INODE_AT + 4) == Some(&[0; 4])
}

const REQUEST_BYTES: u32 = 72;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_names_the_programs_own_end() {
        let bytes = request(
            "127.1.2.3:80".parse().unwrap(),
            "[::ffff:127.0.0.1]:4242".parse().unwrap(),
        );
        assert_eq!(bytes.len(), REQUEST_BYTES as usize);
        assert_eq!(bytes[16..18], [2, 6]);
        assert_eq!(bytes[24..28], [0x10, 0x92, 0, 80]);
        assert_eq!(bytes[28..32], [127, 0, 0, 1]);
        assert_eq!(bytes[44..48], [127, 1, 2, 3]);
    }

    #[test]
    fn only_a_socket_of_nobody_is_an_orphan() {
        let mut reply = vec![0; 88];
        assert!(!is_orphan(&reply));
        reply[4..6].copy_from_slice(&20u16.to_ne_bytes());
        assert!(is_orphan(&reply));
        reply[85] = 1;
        assert!(!is_orphan(&reply));
        assert!(!is_orphan(&[]));
    }

    /// A half-close and a close look the same on the wire.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_half_closed_program_is_there_and_a_closed_one_is_not() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        let program = std::net::TcpStream::connect(at).unwrap();
        let (accepted, from) = socket.accept().unwrap();
        if ask(&request(at, from)).is_err() {
            return println!(
                "SKIP a_half_closed_program_is_there_and_a_closed_one_is_not: no sock_diag here"
            );
        }
        assert!(!has_closed(at, from));
        program.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!has_closed(at, from));
        drop(program);
        assert!(has_closed(at, from));
        drop(accepted);
    }
}
