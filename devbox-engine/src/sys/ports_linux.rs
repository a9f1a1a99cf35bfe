//! Linux: which program holds a port, and which ports everybody may bind.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use devbox_helper_client::{Endpoint, Protocol};
use devbox_session::Holder;
use nix::unistd::Uid;

/// The first port that needs no right (`ip(7)`, `ip_unprivileged_port_start`).
pub(crate) fn first_free_port() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

/// The network that this process is in: addresses of another one are others, loopback included (network_namespaces(7)).
pub(crate) fn network() -> PathBuf {
    fs::read_link("/proc/self/ns/net").unwrap_or_default()
}

/// The listening sockets of this machine and the programs that hold them, as far as this user may see them.
#[derive(Debug, Default)]
pub(crate) struct PortHolders {
    /// By port: there are far fewer sockets on one port than on all.
    by_port: HashMap<(u16, Protocol), Vec<Socket>>,
    programs: HashMap<u64, String>,
}

/// Where the kernel lists its sockets (proc(5)).
const TABLES: [(&str, Protocol); 4] = [
    ("/proc/net/tcp", Protocol::Tcp),
    ("/proc/net/tcp6", Protocol::Tcp),
    ("/proc/net/udp", Protocol::Udp),
    ("/proc/net/udp6", Protocol::Udp),
];

#[derive(Debug)]
struct Socket {
    /// As the kernel prints it: each 32-bit word in this machine's byte order.
    address: String,
    inode: u64,
    uid: u32,
}

impl PortHolders {
    /// Reads the tables of sockets and walks over every process's descriptors, which can take a second on a machine with
    /// many: not for an async thread.
    pub(crate) fn read() -> Self {
        let mut holders = Self::read_users();
        holders.find_programs();
        holders
    }

    /// Reads the tables of sockets alone, which takes milliseconds: the users are known, and no program.
    pub(crate) fn read_users() -> Self {
        let mut holders = Self::default();
        for (path, protocol) in TABLES {
            // A kernel without IPv6 has half of them.
            if let Ok(table) = fs::read_to_string(path) {
                holders.add_table(&table, protocol);
            }
        }
        holders
    }

    /// Who listens on this endpoint, or on its port of every address.
    pub(crate) fn of(&self, endpoint: Endpoint) -> Option<Holder> {
        let wanted = hex(endpoint.address);
        let is_everywhere = |socket: &&Socket| socket.address.bytes().all(|digit| digit == b'0');
        let sockets = self.by_port.get(&(endpoint.port, endpoint.protocol))?;
        let exact = sockets.iter().find(|socket| socket.address == wanted);
        let socket = exact.or_else(|| sockets.iter().find(is_everywhere))?;
        let program = self.programs.get(&socket.inode).cloned();
        Some(Holder {
            program: program.unwrap_or_else(|| format!("a program of user {}", socket.uid)),
            own: !is_everywhere(&socket) && socket.uid == Uid::effective().as_raw(),
        })
    }

    /// `/proc/net/tcp` (proc(5)).
    fn add_table(&mut self, table: &str, protocol: Protocol) {
        // LISTEN, and what a UDP socket is that is bound and not connected (CLOSE).
        let wanted = match protocol {
            Protocol::Tcp => "0A",
            Protocol::Udp => "07",
        };
        for line in table.lines().skip(1) {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let (Some(local), true) = (fields.get(1), fields.get(3) == Some(&wanted)) else {
                continue;
            };
            let parsed = || {
                let (address, port) = local.split_once(':')?;
                let socket = Socket {
                    address: address.to_owned(),
                    inode: fields.get(9)?.parse().ok()?,
                    uid: fields.get(7)?.parse().ok()?,
                };
                Some((u16::from_str_radix(port, 16).ok()?, socket))
            };
            if let Some((port, socket)) = parsed() {
                self.by_port.entry((port, protocol)).or_default().push(socket);
            }
        }
    }

    /// Looks for the listening sockets among the descriptors of every process.
    fn find_programs(&mut self) {
        let wanted: HashMap<String, u64> = self
            .by_port
            .values()
            .flatten()
            .map(|socket| (format!("socket:[{}]", socket.inode), socket.inode))
            .collect();
        let Ok(processes) = fs::read_dir("/proc") else {
            return;
        };
        for process in processes.filter_map(Result::ok) {
            let pid = process.file_name().to_string_lossy().parse::<u32>().ok();
            // Another user's descriptors cannot be read.
            let Some((pid, open)) =
                pid.and_then(|pid| Some((pid, fs::read_dir(process.path().join("fd")).ok()?)))
            else {
                continue;
            };
            for entry in open.filter_map(Result::ok) {
                let Ok(link) = fs::read_link(entry.path()) else {
                    continue;
                };
                if let Some(inode) = link.to_str().and_then(|link| wanted.get(link)) {
                    self.programs
                        .entry(*inode)
                        .or_insert_with(|| format!("{} (pid {pid})", command_of(&process.path())));
                }
            }
        }
    }
}

fn command_of(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    name.trim().to_owned()
}

/// The kernel prints each 32-bit word of an address in this machine's byte order.
fn hex(address: IpAddr) -> String {
    let words = |bytes: &[u8]| -> String {
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| format!("{:08X}", u32::from_ne_bytes(*word)))
            .collect()
    };
    match address {
        IpAddr::V4(address) => words(&address.octets()),
        IpAddr::V6(address) => words(&address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    #[test]
    fn the_holder_of_a_port_is_this_process() {
        for any in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let port = listener.local_addr().unwrap().port();
            let endpoint = Endpoint::tcp(SocketAddr::from(([127, 0, 0, 1], port)));
            let holder = PortHolders::read().of(endpoint).unwrap();
            assert!(
                holder.program.contains(&format!("pid {}", std::process::id())),
                "{holder:?}"
            );
            assert_eq!(holder.own, any != "0.0.0.0:0", "{holder:?}");
            assert_eq!(PortHolders::read_users().of(endpoint).unwrap().own, holder.own);
        }
    }

    #[test]
    fn udp_ports_have_holders_of_their_own() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let holders = PortHolders::read();
        let holder = holders.of(Endpoint::udp(socket.local_addr().unwrap())).unwrap();
        assert!(holder.program.contains(&format!("pid {}", std::process::id())));
        assert!(holder.own);
    }

    #[test]
    fn a_port_that_nobody_listens_on_has_no_holder() {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let endpoint = Endpoint::tcp(SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(PortHolders::read().of(endpoint), None);
    }
}
