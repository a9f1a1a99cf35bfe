//! Whatever a kernel or a program tells of the network: it is read or left out, and what is whole is read the same beside anything else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netif::observed::Transport;
use netif::parse::{lsof, netlink, netstat, proc_net, resolvectl, scutil};

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (cut, bytes) = input;
    let whole: Vec<_> = netlink::answers(&bytes).collect();
    // A message takes at least its header.
    assert!(whole.len() <= bytes.len() / 16);
    // What stands before a cut and ends there is read alike.
    let cut = (usize::from(cut) * 4).min(bytes.len());
    let before: Vec<_> = netlink::answers(&bytes[..cut]).collect();
    assert_eq!(whole[..before.len()], before[..]);

    let text = String::from_utf8_lossy(&bytes);
    for transport in [Transport::Tcp, Transport::Udp] {
        assert!(proc_net::listeners(transport, &text).count() <= text.lines().count());
    }
    let lines = text.lines().count();
    assert!(lsof::listeners(&text).len() <= lines);
    assert!(scutil::rules(&text).len() <= lines);
    for route in netstat::routes(&text) {
        assert!(!route.ours && route.destination == route.destination.trunc());
    }
    let (dns, domains) = text.split_once('\0').unwrap_or((&text, &text));
    for rule in resolvectl::rules(dns, domains) {
        assert!(!rule.ours && !rule.suffix.ends_with('.'));
    }
});
