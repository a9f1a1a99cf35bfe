//! Command lines of ifconfig(8) and route(8): aliases of `lo0` on macOS and FreeBSD, which take the same words, and macOS's utun
//! interfaces.

use std::fmt;

use ipnet::IpNet;

use crate::Interface;

/// The loopback interface.
pub const LOOPBACK: &str = "lo0";

// Root's programs are not looked for in a `PATH`.
const IFCONFIG: &str = "/sbin/ifconfig";
const ROUTE: &str = "/sbin/route";
const NETSTAT: &str = "/usr/sbin/netstat";
const LSOF: &str = "/usr/sbin/lsof";
const SCUTIL: &str = "/usr/sbin/scutil";

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    pub program: &'static str,
    pub words: Vec<String>,
}

impl CommandLine {
    fn new(program: &'static str, words: &[&str]) -> Self {
        Self {
            program,
            words: words.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    /// Whether the program failed: route(8) may say that only on its standard error.
    pub fn has_failed(&self, succeeded: bool, stderr: &str) -> bool {
        !succeeded || (self.program == ROUTE && !stderr.trim().is_empty())
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.program, self.words.join(" "))
    }
}

/// Asks for the routes of both families.
pub fn routes() -> CommandLine {
    CommandLine::new(NETSTAT, &["-rn"])
}

/// Asks for the sockets that wait, with their programs: no names for numbers, nothing that may block, fields for programs.
pub fn sockets() -> CommandLine {
    CommandLine::new(LSOF, &["-nPbw", "-iTCP", "-sTCP:LISTEN", "-iUDP", "-FpcutPn"])
}

/// Asks macOS which servers it asks for which names.
pub fn resolvers() -> CommandLine {
    CommandLine::new(SCUTIL, &["--dns"])
}

/// Adds an alias of the loopback interface.
pub fn add(address: IpNet) -> CommandLine {
    match address {
        IpNet::V4(v4) => CommandLine::new(
            IFCONFIG,
            &[
                LOOPBACK,
                "inet",
                &v4.addr().to_string(),
                "netmask",
                &v4.netmask().to_string(),
                "alias",
            ],
        ),
        IpNet::V6(v6) => add_v6(LOOPBACK, v6),
    }
}

/// Removes an alias of an interface.
pub fn remove(interface: &str, address: IpNet) -> CommandLine {
    let family = if address.addr().is_ipv4() { "inet" } else { "inet6" };
    CommandLine::new(
        IFCONFIG,
        &[interface, family, &address.addr().to_string(), "-alias"],
    )
}

fn add_v6(interface: &str, v6: ipnet::Ipv6Net) -> CommandLine {
    CommandLine::new(
        IFCONFIG,
        &[
            interface,
            "inet6",
            &v6.addr().to_string(),
            "prefixlen",
            &v6.prefix_len().to_string(),
            "alias",
        ],
    )
}

/// Brings a utun up.
pub fn up(utun: &str, interface: &Interface) -> CommandLine {
    match interface.mtu {
        Some(mtu) => CommandLine::new(IFCONFIG, &[utun, "mtu", &mtu.to_string(), "up"]),
        None => CommandLine::new(IFCONFIG, &[utun, "up"]),
    }
}

/// Takes a utun down, so that nothing is sent to whoever has its descriptor still.
pub fn down(utun: &str) -> CommandLine {
    CommandLine::new(IFCONFIG, &[utun, "down"])
}

/// Adds an address of a utun. It is a point-to-point interface, whose IPv4 addresses name the other end too, and make no route of
/// their prefix.
pub fn add_to_utun(utun: &str, address: IpNet) -> CommandLine {
    match address {
        IpNet::V4(v4) => {
            let (text, mask) = (v4.addr().to_string(), v4.netmask().to_string());
            CommandLine::new(IFCONFIG, &[utun, "inet", &text, &text, "netmask", &mask, "alias"])
        }
        IpNet::V6(v6) => add_v6(utun, v6),
    }
}

/// Adds a route that leaves by a utun.
pub fn add_route(utun: &str, destination: IpNet) -> CommandLine {
    route("add", utun, destination)
}

/// Removes it.
pub fn remove_route(utun: &str, destination: IpNet) -> CommandLine {
    route("delete", utun, destination)
}

fn route(verb: &str, utun: &str, destination: IpNet) -> CommandLine {
    let family = if destination.addr().is_ipv4() {
        "-inet"
    } else {
        "-inet6"
    };
    CommandLine::new(
        ROUTE,
        &["-n", verb, family, &destination.to_string(), "-interface", utun],
    )
}
