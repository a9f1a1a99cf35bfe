//! Rules of Windows' name resolution policy table, [MS-GPNRPT]: a registry key for each rule.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::{Owner, ResolverRule, Suffix};

/// Where an administrator's own rules are, below `HKEY_LOCAL_MACHINE`.
pub const LOCAL: &str = r"SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig";
/// Where those of a group policy are. As long as there is one, Windows ignores the others.
pub const GROUP_POLICY: &str = r"SOFTWARE\Policies\Microsoft\Windows NT\DNSClient\DnsPolicyConfig";
/// The value that lists the suffixes, each with a dot before it.
pub const NAME: &str = "Name";
/// The value that lists the servers.
pub const SERVERS: &str = "GenericDNSServers";
/// A value for people, which says whose a rule is.
const COMMENT: &str = "Comment";

/// The values that a rule of ours has.
pub const NAMES: [&str; 5] = ["Version", COMMENT, NAME, "ConfigOptions", SERVERS];

/// What makes the DNS client read its rules again: `sc.exe`'s words.
pub const READ_AGAIN: [&str; 3] = ["control", "Dnscache", "paramchange"];

/// A value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `REG_DWORD`
    Number(u32),
    /// `REG_SZ`
    Text(String),
    /// `REG_MULTI_SZ`
    List(Vec<String>),
}

/// The key of a suffix, whose name says whose it is.
pub fn key(owner: &Owner, suffix: &Suffix) -> String {
    format!("{}{suffix}", prefix(owner))
}

/// How the names of this owner's keys begin.
pub fn prefix(owner: &Owner) -> String {
    format!("netif-{owner}-")
}

/// The values of a suffix's key, in the order in which they are written: as long as there are no servers, there is no rule.
pub fn values(owner: &Owner, suffix: &Suffix, rule: &ResolverRule) -> Vec<(&'static str, Value)> {
    let servers: Vec<String> = rule
        .servers
        .iter()
        .map(|server| server.ip().to_string())
        .collect();
    vec![
        // 2.2.2.1: the version of rules since Windows 8.
        ("Version", Value::Number(2)),
        (
            COMMENT,
            Value::Text(format!("Made by {owner} (netif), which removes it again.")),
        ),
        (NAME, Value::List(vec![format!(".{suffix}")])),
        // 2.2.2.13: servers are named, and nothing else is asked for.
        ("ConfigOptions", Value::Number(8)),
        (SERVERS, Value::Text(servers.join(";"))),
    ]
}

/// The values as text, to be compared and shown.
pub fn text(values: &[(&str, Value)]) -> String {
    let mut lines: Vec<String> = values
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    // The registry has an order of its own.
    lines.sort();
    lines.concat()
}

/// The servers in a key.
pub fn servers(text: &str) -> Vec<SocketAddr> {
    let addresses = text
        .split(';')
        .filter_map(|address| address.trim().parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, 53)).collect()
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number}"),
            Value::Text(text) => f.write_str(text),
            Value::List(list) => f.write_str(&list.join(";")),
        }
    }
}
