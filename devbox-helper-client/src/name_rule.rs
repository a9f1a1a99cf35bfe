//! Which names a session may publish. Both ends apply the rule: the caller leaves other names out, and the helper refuses them.

use std::net::IpAddr;

/// What Debian, Red Hat and macOS call the machine itself in their hosts files (and RFC 6761 §6.3).
const THE_MACHINE: [&str; 7] = [
    "localhost",
    "localhost4",
    "localhost6",
    "localdomain",
    "localdomain4",
    "localdomain6",
    "broadcasthost",
];

/// Why no session may publish this name, or `None` if it may. This is stricter than what a hosts file can hold: it excludes
/// names that programs take for the machine itself and names that they look up unasked.
///
/// ```
/// assert_eq!(devbox_helper_client::name_refusal("orders.backend"), None);
/// assert!(devbox_helper_client::name_refusal("localhost").is_some());
/// assert!(devbox_helper_client::name_refusal("10.2").is_some());
/// ```
#[must_use]
pub fn name_refusal(name: &str) -> Option<&'static str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some("names are given in lower case");
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
    {
        return Some("names hold letters, digits, hyphens and dots only");
    }
    let first = name.split('.').next().unwrap_or_default();
    let last = name.rsplit('.').next().unwrap_or_default();
    if THE_MACHINE.contains(&first) || THE_MACHINE.contains(&last) || name.starts_with("ip6-") {
        return Some("it is a name of the machine itself");
    }
    // RFC 8880 for ipv4only.arpa; the others redirect a browser's or a system's traffic when they resolve.
    if matches!(first, "wpad" | "isatap") || name == "ipv4only.arpa" || name == "use-application-dns.net" {
        return Some("programs look it up by themselves");
    }
    if name.parse::<IpAddr>().is_ok() || is_number(last) {
        return Some("it looks like an address");
    }
    None
}

/// Whether a name that ends in this label is taken for an IPv4 address: inet_aton(3) reads `1.2` as 1.0.0.2, and browsers
/// refuse it (WHATWG URL §3.5, "ends in a number").
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}
