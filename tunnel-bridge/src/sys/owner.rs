//! Which user owns the program at the other end of a local connection, and whether it still has its socket.
//!
//! The answer is in the system's table of sockets: sock_diag(7) looks one up by its addresses, whatever else is open. Where
//! that is missing the same table is read as text (proc(5), net/tcp), which costs time for each socket of the machine.

use std::io;
use std::net::{IpAddr, SocketAddr};

/// What a program speaks to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A connection.
    Tcp,
    /// Datagrams.
    Udp,
}

/// What the system says of the program's own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A socket of this user.
    User(u32),
    /// There is none any more, or it was closed and the system has forgotten whose it was.
    Gone,
}

/// Whose socket sends from `program` to `listener`, both on this machine.
///
/// # Errors
/// [`Unsupported`](io::ErrorKind::Unsupported) where the system does not tell; what the system says where it should.
pub(crate) fn owner_of(transport: Transport, listener: SocketAddr, program: SocketAddr) -> io::Result<Owner> {
    cfg_if::cfg_if! {
        if #[cfg(target_os = "linux")] {
            match linux::look_up(transport, listener, program) {
                Ok(Some(socket)) => Ok(socket.owner()),
                Ok(None) => Ok(Owner::Gone),
                Err(error) => {
                    tracing::debug!(%error, "no sock_diag: reading the table of sockets as text");
                    Ok(linux::read_table(transport, listener, program)?.map_or(Owner::Gone, Socket::owner))
                }
            }
        } else {
            let _unknown = (transport, listener, program);
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}

/// Whether the socket that a connection comes from, on this machine, has been closed. `false` where the system does
/// not tell.
///
/// A program that closes its socket and one that only ends its writing direction send the same FIN; but a closed socket
/// belongs to no file.
pub(crate) fn has_closed(listener: SocketAddr, program: SocketAddr) -> bool {
    cfg_if::cfg_if! {
        if #[cfg(target_os = "linux")] {
            let found = linux::look_up(Transport::Tcp, listener, program);
            // "No such socket" is no answer: the program may be on another machine.
            matches!(found, Ok(Some(socket)) if socket.inode == 0)
        } else {
            let _unknown = (listener, program);
            false
        }
    }
}

/// A row of the system's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    uid: u32,
    /// Zero once no file is left.
    inode: u32,
}

#[cfg_attr(
    not(any(test, target_os = "linux")),
    expect(dead_code, reason = "only Linux answers it")
)]
impl Socket {
    fn owner(self) -> Owner {
        // What is left of a closed connection is shown as root's (tcp_diag: inet_twsk_diag_fill), and before Linux 6.16 so
        // is every socket without a file.
        if (self.uid, self.inode) == (0, 0) {
            Owner::Gone
        } else {
            Owner::User(self.uid)
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::cell::RefCell;
    use std::fs::File;
    use std::io::{self, BufRead, BufReader, Read};
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{Answer, Socket, Transport, answer, request, row};

    thread_local! {
        /// The socket that the questions of this thread go through.
        static DIAG: RefCell<Option<socket2::Socket>> = const { RefCell::new(None) };
    }

    /// Whether the system has ever answered: "no such socket" is also what a kernel without the module says.
    static ANSWERS: AtomicBool = AtomicBool::new(false);

    pub(super) fn look_up(
        transport: Transport,
        listener: SocketAddr,
        program: SocketAddr,
    ) -> io::Result<Option<Socket>> {
        let found = ask(&request(transport, listener, program));
        match &found {
            Ok(Some(_)) => ANSWERS.store(true, Ordering::Relaxed),
            // Our own end of it is there if anything is: it shows whether questions are answered at all.
            Ok(None) if !ANSWERS.load(Ordering::Relaxed) => {
                if ask(&request(transport, program, listener))?.is_none() {
                    return Err(io::ErrorKind::NotFound.into());
                }
                ANSWERS.store(true, Ordering::Relaxed);
            }
            _ => {}
        }
        found
    }

    /// Asks the kernel for one socket (sock_diag(7)); by a socket that is kept, unless it fails.
    fn ask(request: &[u8]) -> io::Result<Option<Socket>> {
        DIAG.with_borrow_mut(|kept| {
            let socket = match kept.take() {
                Some(socket) => socket,
                None => connect()?,
            };
            let found = exchange(&socket, request);
            if found.is_ok() {
                *kept = Some(socket);
            }
            found
        })
    }

    fn connect() -> io::Result<socket2::Socket> {
        const AF_NETLINK: i32 = 16;
        const NETLINK_SOCK_DIAG: i32 = 4;
        let socket = socket2::Socket::new(
            AF_NETLINK.into(),
            socket2::Type::DGRAM,
            Some(NETLINK_SOCK_DIAG.into()),
        )?;
        // The answer is there when the request has been sent; nobody should wait for one that is not.
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    fn exchange(mut socket: &socket2::Socket, request: &[u8]) -> io::Result<Option<Socket>> {
        socket.send(request)?;
        let mut reply = [0; 512];
        let n = socket.read(&mut reply)?;
        match answer(&reply[..n]) {
            Some(Answer::Found(socket)) => Ok(Some(socket)),
            Some(Answer::NoSuchSocket) => Ok(None),
            Some(Answer::Error(number)) => Err(io::Error::from_raw_os_error(number)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The same from the tables as text.
    pub(super) fn read_table(
        transport: Transport,
        listener: SocketAddr,
        program: SocketAddr,
    ) -> io::Result<Option<Socket>> {
        let files = match transport {
            Transport::Tcp => ["tcp", "tcp6"],
            Transport::Udp => ["udp", "udp6"],
        };
        for (number, name) in files.into_iter().enumerate() {
            let file = match File::open(format!("/proc/self/net/{name}")) {
                Ok(file) => file,
                // A kernel without IPv6 has no second table.
                Err(error) if number > 0 && error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in BufReader::with_capacity(64 * 1024, file).lines() {
                if let Some(socket) = row(&line?, transport, listener, program) {
                    return Ok(Some(socket));
                }
            }
        }
        Ok(None)
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2` for the program's own end.
#[cfg_attr(
    not(any(test, target_os = "linux")),
    expect(dead_code, reason = "only Linux answers it")
)]
fn request(transport: Transport, listener: SocketAddr, program: SocketAddr) -> Vec<u8> {
    const NLM_F_REQUEST: u16 = 1;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const IPPROTO_TCP: u8 = 6;
    const IPPROTO_UDP: u8 = 17;
    // Of datagrams the kernel looks for the end that is named second (udp_diag: udp_dump_one).
    let (protocol, source, destination) = match transport {
        Transport::Tcp => (IPPROTO_TCP, program, listener),
        Transport::Udp => (IPPROTO_UDP, listener, program),
    };
    let octets = |ip: IpAddr| {
        let mut all = [0; 16];
        match ip {
            IpAddr::V4(ip) => all[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => all = ip.octets(),
        }
        all
    };
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let mut bytes = Vec::with_capacity(REQUEST_BYTES as usize);
    bytes.extend_from_slice(&REQUEST_BYTES.to_ne_bytes());
    bytes.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Sequence and port: a socket has one question under way, and drops out when it fails.
    bytes.extend_from_slice(&[0; 8]);
    let family = if from.is_ipv4() { AF_INET } else { AF_INET6 };
    bytes.extend_from_slice(&[family, protocol, 0, 0]);
    let any_state = u32::MAX;
    bytes.extend_from_slice(&any_state.to_ne_bytes());
    bytes.extend_from_slice(&source.port().to_be_bytes());
    bytes.extend_from_slice(&destination.port().to_be_bytes());
    bytes.extend_from_slice(&octets(from));
    bytes.extend_from_slice(&octets(to));
    let (any_interface, no_cookie) = ([0; 4], [0xFF; 8]);
    bytes.extend_from_slice(&any_interface);
    bytes.extend_from_slice(&no_cookie);
    bytes
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Found(Socket),
    NoSuchSocket,
    Error(i32),
}

/// Reads a reply: `struct nlmsghdr` and `struct inet_diag_msg`, or `struct nlmsgerr`.
#[cfg_attr(
    not(any(test, target_os = "linux")),
    expect(dead_code, reason = "only Linux answers it")
)]
fn answer(reply: &[u8]) -> Option<Answer> {
    const NLMSG_ERROR: u16 = 2;
    const ENOENT: i32 = 2;
    const ERROR_AT: usize = 16;
    const STATE_AT: usize = 17;
    const TCP_LISTEN: u8 = 10;
    const UID_AT: usize = 80;
    const INODE_AT: usize = 84;
    let word = |at: usize| {
        let bytes = reply.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let kind = u16::from_ne_bytes(reply.get(4..6)?.try_into().ok()?);
    match kind {
        // Where there is no such connection, the kernel shows whoever listens on the port that the program had.
        SOCK_DIAG_BY_FAMILY if reply.get(STATE_AT) == Some(&TCP_LISTEN) => Some(Answer::NoSuchSocket),
        SOCK_DIAG_BY_FAMILY => Some(Answer::Found(Socket {
            uid: word(UID_AT)?,
            inode: word(INODE_AT)?,
        })),
        NLMSG_ERROR => match word(ERROR_AT)?.cast_signed().wrapping_neg() {
            ENOENT => Some(Answer::NoSuchSocket),
            number => Some(Answer::Error(number)),
        },
        _ => None,
    }
}

/// A line of the table as text (proc(5), net/tcp), if it is the program's own end.
#[cfg_attr(
    not(any(test, target_os = "linux")),
    expect(dead_code, reason = "only Linux answers it")
)]
fn row(line: &str, transport: Transport, listener: SocketAddr, program: SocketAddr) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (address(fields.next()?)?, address(fields.next()?)?);
    let is = |found: SocketAddr, wanted: SocketAddr| {
        found.port() == wanted.port() && found.ip() == wanted.ip().to_canonical()
    };
    let unset = |found: SocketAddr| found.ip().is_unspecified();
    let matches = match transport {
        Transport::Tcp => is(local, program) && is(remote, listener),
        // It need be neither bound to one address nor connected.
        Transport::Udp => {
            local.port() == program.port()
                && (is(local, program) || unset(local))
                && (is(remote, listener) || unset(remote))
        }
    };
    // State, queues, timer, retransmits; then uid, timeout, inode.
    let uid = fields.nth(4)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    matches.then_some(Socket { uid, inode })
}

/// `0100007F:1F90`: words of the host's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = Vec::with_capacity(16);
    for word in ip.as_bytes().chunks(8) {
        let word = u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?;
        octets.extend_from_slice(&word.to_ne_bytes());
    }
    let ip = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_BYTES: u32 = 72;

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: &str = "127.1.2.3:80";
    const PROGRAM: &str = "[::ffff:127.0.0.1]:4242";

    fn ends() -> (SocketAddr, SocketAddr) {
        (LISTENER.parse().unwrap(), PROGRAM.parse().unwrap())
    }

    #[test]
    fn the_request_names_the_programs_own_end() {
        let (listener, program) = ends();
        let bytes = request(Transport::Tcp, listener, program);
        assert_eq!(bytes.len(), REQUEST_BYTES as usize);
        assert_eq!(bytes[16..18], [2, 6]);
        assert_eq!(bytes[24..28], [0x10, 0x92, 0, 80]);
        assert_eq!(bytes[28..32], [127, 0, 0, 1]);
        assert_eq!(bytes[44..48], [127, 1, 2, 3]);
        let bytes = request(Transport::Udp, listener, program);
        assert_eq!(bytes[16..18], [2, 17]);
        assert_eq!(bytes[44..48], [127, 0, 0, 1]);
    }

    #[test]
    fn replies_are_read_however_they_end() {
        let mut reply = vec![0; 88];
        assert_eq!(answer(&reply), None);
        reply[4..6].copy_from_slice(&20u16.to_ne_bytes());
        reply[80..84].copy_from_slice(&1000u32.to_ne_bytes());
        let found = |uid, inode| Some(Answer::Found(Socket { uid, inode }));
        assert_eq!(answer(&reply), found(1000, 0));
        reply[84..88].copy_from_slice(&7u32.to_ne_bytes());
        assert_eq!(answer(&reply), found(1000, 7));
        for len in 0..88 {
            assert_eq!(answer(&reply[..len]), None);
        }
        reply[17] = 10;
        assert_eq!(answer(&reply), Some(Answer::NoSuchSocket));
        let mut reply = vec![0; 36];
        reply[4..6].copy_from_slice(&2u16.to_ne_bytes());
        reply[16..20].copy_from_slice(&(-2i32).to_ne_bytes());
        assert_eq!(answer(&reply), Some(Answer::NoSuchSocket));
        reply[16..20].copy_from_slice(&(-13i32).to_ne_bytes());
        assert_eq!(answer(&reply), Some(Answer::Error(13)));
        reply[16..20].copy_from_slice(&i32::MIN.to_ne_bytes());
        assert_eq!(answer(&reply), Some(Answer::Error(i32::MIN)));
    }

    #[test]
    fn a_closed_socket_that_is_shown_as_roots_is_nobodys() {
        let owner = |uid, inode| Socket { uid, inode }.owner();
        assert_eq!(owner(0, 0), Owner::Gone);
        assert_eq!(owner(0, 9), Owner::User(0));
        assert_eq!(owner(1000, 0), Owner::User(1000));
    }

    /// The bytes of an address are in the order of this machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn rows_of_the_table_are_found_by_both_ends() {
        let (listener, program) = ends();
        let tcp = "  12: 0100007F:1092 0302017F:0050 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1";
        let found = Some(Socket {
            uid: 1000,
            inode: 4711,
        });
        assert_eq!(row(tcp, Transport::Tcp, listener, program), found);
        assert_eq!(row(tcp, Transport::Tcp, program, listener), None);
        let mapped = tcp
            .replace("0100007F:", "0000000000000000FFFF00000100007F:")
            .replace("0302017F:", "0000000000000000FFFF00000302017F:");
        assert_eq!(row(&mapped, Transport::Tcp, listener, program), found);
        let loose = tcp
            .replace("0100007F:", "00000000:")
            .replace("0302017F:0050", "00000000:0000");
        assert_eq!(row(&loose, Transport::Udp, listener, program), found);
        assert_eq!(row(&loose, Transport::Tcp, listener, program), None);
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(row(heading, Transport::Tcp, listener, program), None);
        for len in 0..70 {
            assert_eq!(row(&tcp[..len], Transport::Tcp, listener, program), None, "{len}");
        }
    }

    #[cfg(target_os = "linux")]
    mod on_linux {
        use std::net::{TcpListener, TcpStream, UdpSocket};
        use std::os::unix::fs::MetadataExt;

        use super::*;

        fn own_uid() -> u32 {
            std::fs::metadata("/proc/self").unwrap().uid()
        }

        /// A half-close and a close look the same on the wire.
        #[test]
        fn a_half_closed_program_is_there_and_a_closed_one_is_not() {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let at = socket.local_addr().unwrap();
            let program = TcpStream::connect(at).unwrap();
            let (accepted, from) = socket.accept().unwrap();
            if linux::look_up(Transport::Tcp, at, from).is_err() {
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
            // What remains is in TIME_WAIT, which is shown as root's.
            assert_eq!(owner_of(Transport::Tcp, at, from).unwrap(), Owner::Gone);
        }

        #[test]
        fn both_ways_of_looking_find_the_owner_of_each_kind_of_socket() {
            for at in ["127.0.0.1:0", "[::1]:0"] {
                let Ok(socket) = TcpListener::bind(at) else {
                    println!("SKIP both_ways_of_looking_find_the_owner_of_each_kind_of_socket: no {at} here");
                    continue;
                };
                let at = socket.local_addr().unwrap();
                let _program = TcpStream::connect(at).unwrap();
                let (_accepted, from) = socket.accept().unwrap();
                assert_eq!(
                    owner_of(Transport::Tcp, at, from).unwrap(),
                    Owner::User(own_uid())
                );
                let read = linux::read_table(Transport::Tcp, at, from).unwrap().unwrap();
                assert_eq!(read.owner(), Owner::User(own_uid()));
                if let Ok(asked) = linux::look_up(Transport::Tcp, at, from) {
                    assert_eq!(asked, Some(read));
                }
                let none = SocketAddr::new(from.ip(), at.port());
                assert_eq!(owner_of(Transport::Tcp, at, none).unwrap(), Owner::Gone);

                let socket = UdpSocket::bind(SocketAddr::new(at.ip(), 0)).unwrap();
                let at = socket.local_addr().unwrap();
                let anywhere = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let program = UdpSocket::bind(anywhere).unwrap();
                program.send_to(b"x", at).unwrap();
                let (_, from) = socket.recv_from(&mut [0]).unwrap();
                assert_eq!(
                    owner_of(Transport::Udp, at, from).unwrap(),
                    Owner::User(own_uid())
                );
                let read = linux::read_table(Transport::Udp, at, from).unwrap().unwrap();
                assert_eq!(read.owner(), Owner::User(own_uid()));
                drop(program);
                assert_eq!(owner_of(Transport::Udp, at, from).unwrap(), Owner::Gone);
            }
        }

        /// A socket for both families shows IPv4 addresses inside IPv6 ones.
        #[test]
        fn a_program_with_a_socket_for_both_families_is_found() {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let at = socket.local_addr().unwrap();
            let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), at.port());
            let Ok(_program) = TcpStream::connect(mapped) else {
                return println!("SKIP a_program_with_a_socket_for_both_families_is_found: no IPv6 here");
            };
            let (_accepted, from) = socket.accept().unwrap();
            assert_eq!(
                owner_of(Transport::Tcp, at, from).unwrap(),
                Owner::User(own_uid())
            );
            let read = linux::read_table(Transport::Tcp, at, from).unwrap().unwrap();
            assert_eq!(read.owner(), Owner::User(own_uid()));
        }
    }
}
