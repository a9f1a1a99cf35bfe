//! How a system is pointed at a server for one suffix, so that nothing else ever comes to it.

use std::net::SocketAddr;

use nameserver::Name;

/// What to do on each system. All of them leave every other name where it is.
pub(crate) fn instructions(server: SocketAddr, suffix: &Name) -> String {
    let (address, port) = (server.ip(), server.port());
    let mut text = format!("to have this system ask it for names under {suffix}:\n");
    let mut way = |system: &str, how: &str| text.push_str(&format!("  {system}\n    {how}\n"));
    way(
        "systemd-resolved: for as long as a session lives, by its helper",
        "sudo devbox up --naming dns",
    );
    way(
        "NetworkManager with dnsmasq: /etc/NetworkManager/dnsmasq.d/devbox.conf, then `nmcli general reload`",
        &format!("server=/{suffix}/{address}#{port}"),
    );
    way(
        "systemd-resolved from version 258: /run/systemd/dns-delegate.d/devbox.dns-delegate, then `systemctl reload systemd-resolved`",
        &format!("[Delegate] DNS={server} Domains={suffix}"),
    );
    way(
        &format!("macOS: /etc/resolver/{suffix}"),
        &format!("nameserver {address}, and on a line of its own: port {port}"),
    );
    way(
        "Windows, whose rules name no port: have it listen on port 53, then as administrator",
        &format!("Add-DnsClientNrptRule -Namespace .{suffix} -NameServers {address}"),
    );
    way(
        "a plain /etc/resolv.conf, which can name no port and no suffix: listen on port 53 and forward the rest",
        "devbox dns serve --listen 127.0.0.1:53 --registry FILE --forward ADDR, then `nameserver 127.0.0.1` as its first line",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_names_the_suffix_and_the_port() {
        let text = instructions("127.0.0.1:5453".parse().unwrap(), &"devbox.test".parse().unwrap());
        insta::assert_snapshot!(text);
    }
}
