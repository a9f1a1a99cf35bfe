//! What such programs print: the texts in `samples/`, put together after published examples and the format lsof(8) describes.

use std::fmt::Write as _;

use super::{lsof, netstat, scutil};
use crate::observed::{Listener, SeenResolver, SeenRoute};

fn routes(found: &[SeenRoute]) -> String {
    let mut text = String::new();
    for route in found {
        let SeenRoute {
            destination,
            interface,
            gateway,
            kind,
            ..
        } = route;
        let by = gateway
            .map(|gateway| format!(" by {gateway}"))
            .unwrap_or_default();
        writeln!(text, "{destination} {kind:?} {interface:?}{by}").unwrap();
    }
    text
}

fn resolvers(found: &[SeenResolver]) -> String {
    found
        .iter()
        .map(|rule| format!("{:?} {:?} at {}\n", rule.suffix, rule.servers, rule.place))
        .collect()
}

fn sockets(found: &[Listener]) -> String {
    let line = |listener: &Listener| {
        let program = listener.program.as_ref().unwrap();
        let Listener {
            transport,
            address,
            uid,
            ..
        } = listener;
        format!("{transport:?} {address} {program} of {uid:?}\n")
    };
    found.iter().map(line).collect()
}

#[test]
fn snapshot_of_what_a_mac_tells() {
    let texts = [
        routes(&netstat::routes(include_str!("samples/netstat-macos-13.txt"))),
        routes(&netstat::routes(include_str!("samples/netstat-macos-10.txt"))),
        resolvers(&scutil::rules(include_str!("samples/scutil-dns.txt"))),
        sockets(&lsof::listeners(include_str!("samples/lsof.txt"))),
    ];
    insta::assert_snapshot!(texts.join("\n"));
}

/// Another program's words, a later version's columns, half a line: nothing is made up.
#[test]
fn what_cannot_be_read_is_left_out() {
    for text in [
        "",
        "Internet:\n10/8 1.2.3.4 UGSc en0",
        "Destination Gateway Flags Netif\n10/8 1.2.3.4\n10/33 a U en0\n1.2.3.4.5/8 a U en0\n300/8 a U en0\n10//8 a U en0",
        "Destination Gateway Flags\n10/8 1.2.3.4 U en0",
    ] {
        assert_eq!(netstat::routes(text), [], "{text}");
    }
    assert_eq!(scutil::rules("nameserver[0] : 1.2.3.4\nresolver"), []);
    assert_eq!(lsof::listeners("n*:80\nPTCP\nn*:http\nn80\n\nPSCTP\nn*:1"), []);
}
