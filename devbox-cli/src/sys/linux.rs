//! Linux: who holds a port, and which ports everybody may bind.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The first port that needs no right (`ip(7)`, `ip_unprivileged_port_start`).
pub(crate) fn first_free_port() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

/// The program that listens on a port of this address or of every address, as far as this user may see it.
pub(crate) fn port_holder(address: SocketAddr) -> Option<String> {
    let (inode, uid) = listening_inode(address)?;
    let name = process_of(inode);
    Some(name.unwrap_or_else(|| format!("a program of user {uid}")))
}

/// The inode and owner of the listening socket (proc(5), /proc/net/tcp).
fn listening_inode(address: SocketAddr) -> Option<(u64, u32)> {
    const LISTEN: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    for table in tables {
        for line in table.lines().skip(1) {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let (Some(local), Some(&LISTEN)) = (fields.get(1), fields.get(3)) else {
                continue;
            };
            let Some((host, port)) = local.split_once(':') else {
                continue;
            };
            if u16::from_str_radix(port, 16) != Ok(address.port()) {
                continue;
            }
            let anywhere = host.bytes().all(|digit| digit == b'0');
            if anywhere || host == hex(address.ip()) {
                return Some((fields.get(9)?.parse().ok()?, fields.get(7)?.parse().ok()?));
            }
        }
    }
    None
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

/// `name (pid n)` of a process that has this socket open.
fn process_of(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.filter_map(Result::ok) {
        let pid = process.file_name().to_string_lossy().parse::<u32>().ok();
        let Some((pid, open)) =
            pid.and_then(|pid| Some((pid, fs::read_dir(process.path().join("fd")).ok()?)))
        else {
            continue;
        };
        let holds = open
            .filter_map(Result::ok)
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link == Path::new(&wanted)));
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_holder_of_a_port_is_this_process() {
        for any in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let port = listener.local_addr().unwrap().port();
            let holder = port_holder(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
            assert!(
                holder.contains(&format!("pid {}", std::process::id())),
                "{holder}"
            );
        }
    }
}
