//! Aliases of `lo0` by ifconfig(8), which takes the same words on macOS and FreeBSD.

use ipnet::IpNet;

/// The words that add an alias.
pub(crate) fn add(address: IpNet) -> Vec<String> {
    let words = match address {
        IpNet::V4(v4) => vec![
            "lo0".to_owned(),
            "inet".to_owned(),
            v4.addr().to_string(),
            "netmask".to_owned(),
            v4.netmask().to_string(),
        ],
        IpNet::V6(v6) => vec![
            "lo0".to_owned(),
            "inet6".to_owned(),
            v6.addr().to_string(),
            "prefixlen".to_owned(),
            v6.prefix_len().to_string(),
        ],
    };
    words.into_iter().chain(["alias".to_owned()]).collect()
}

/// The words that remove an alias.
pub(crate) fn remove(address: IpNet) -> Vec<String> {
    let family = if address.addr().is_ipv4() { "inet" } else { "inet6" };
    ["lo0", family, &address.addr().to_string(), "-alias"]
        .map(str::to_owned)
        .into()
}
