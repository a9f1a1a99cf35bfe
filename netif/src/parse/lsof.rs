//! The sockets of macOS that wait, from what `lsof -F pcutPn` prints: a line for each field, its letter first (lsof(8), OUTPUT FOR OTHER
//! PROGRAMS).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::observed::{Listener, Program, Transport};

/// The sockets of all processes, as far as this user may see them.
pub fn listeners(text: &str) -> Vec<Listener> {
    let mut found = Vec::new();
    let mut process = (None, String::new(), None);
    let mut file = (false, None);
    for line in text.lines() {
        let Some((field, value)) = line.split_at_checked(1) else {
            continue;
        };
        match field {
            "p" => process = (value.parse().ok(), String::new(), None),
            "c" => value.clone_into(&mut process.1),
            "u" => process.2 = value.parse().ok(),
            "f" => file = (false, None),
            "t" => file.0 = value == "IPv6",
            "P" => {
                file.1 = match value {
                    "TCP" => Some(Transport::Tcp),
                    "UDP" => Some(Transport::Udp),
                    _ => None,
                }
            }
            "n" => {
                let (pid, name, uid) = &process;
                let (v6, transport) = file;
                let listener = || {
                    Some(Listener {
                        transport: transport?,
                        address: address(value, v6)?,
                        uid: *uid,
                        program: pid.map(|pid| Program {
                            name: name.clone(),
                            pid,
                        }),
                    })
                };
                found.extend(listener());
            }
            _ => {}
        }
    }
    found
}

/// `*:5432`, `127.0.0.1:5432`, `[::1]:5432`. A socket with a peer (`->`) waits for nobody else, and `*:*` is bound nowhere.
fn address(text: &str, v6: bool) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let address = match (address, v6) {
        ("*", false) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ("*", true) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        (address, _) => address
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .ok()?,
    };
    Some(SocketAddr::new(address, port))
}
