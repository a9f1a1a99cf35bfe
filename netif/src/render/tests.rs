use std::fmt::Write as _;

use super::netlink::{Everything, Request, alias, read_alias};
use super::{ifconfig, ip_helper, nrpt, resolvectl, resolver_file};
use crate::{Device, Interface, InterfaceName, Kind, Owner, ResolverRule, Route, RouteKind, Suffix};

fn owner() -> Owner {
    Owner::new("devbox").unwrap()
}

fn interface(metric: Option<u32>) -> Interface {
    let name = InterfaceName::new("devbox0").unwrap();
    Interface {
        mtu: Some(1400),
        metric,
        ..Interface::new(name, Kind::Dummy)
    }
}

fn rule() -> ResolverRule {
    ResolverRule {
        interface: InterfaceName::new("devbox0").unwrap(),
        suffixes: ["cluster.local", "test"]
            .map(|suffix| Suffix::new(suffix).unwrap())
            .into(),
        servers: ["127.77.0.1:5353", "[fd77::1]:5353"]
            .map(|server| server.parse().unwrap())
            .into(),
    }
}

fn route(destination: &str, kind: RouteKind, metric: Option<u32>) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        device: Device::Loopback,
        kind,
        metric,
    }
}

/// Sixteen bytes a line: the header, then what it is about.
fn bytes(requests: &[(&str, Request)]) -> String {
    let mut text = String::new();
    for (name, request) in requests {
        writeln!(text, "{name}").unwrap();
        for line in request.clone().finish(1, true).chunks(16) {
            let line: Vec<_> = line
                .chunks(4)
                .map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
                .collect();
            writeln!(text, "  {}", line.join(" ")).unwrap();
        }
    }
    text
}

fn requests() -> Vec<(&'static str, Request)> {
    let mark = owner().mark();
    let metric = Some(77);
    let (local, unicast) = (RouteKind::Local, RouteKind::Unicast);
    vec![
        ("all addresses", Request::dump(Everything::Addresses)),
        ("new dummy devbox0", Request::new_dummy(&interface(metric))),
        ("is there dummy", Request::probe_dummy()),
        (
            "mark devbox0 of metric 77",
            Request::mark_up(&interface(metric), &owner()),
        ),
        ("remove interface 5", Request::remove_link(5)),
        (
            "add 10.107.3.4/16 to 5",
            Request::add_address(5, "10.107.3.4/16".parse().unwrap(), None, mark),
        ),
        (
            "add fd77::4/64 to 5, metric 77",
            Request::add_address(5, "fd77::4/64".parse().unwrap(), metric, mark),
        ),
        (
            "remove 10.107.3.4/16 from 5",
            Request::remove_address(5, "10.107.3.4/16".parse().unwrap()),
        ),
        (
            "add local 10.107.0.0/16 to 1",
            Request::add_route(1, &route("10.107.0.0/16", local, None), mark),
        ),
        (
            "add fd77::/64 to 5, metric 77",
            Request::add_route(5, &route("fd77::/64", unicast, metric), mark),
        ),
        (
            "remove local 10.107.0.0/16 from 1",
            Request::remove_route(1, &route("10.107.0.0/16", local, None), mark),
        ),
    ]
}

#[test]
fn snapshot_of_netlink_requests() {
    if cfg!(target_endian = "little") {
        insta::assert_snapshot!(bytes(&requests()));
    }
}

#[test]
fn snapshot_of_command_lines_and_files() {
    let mut text = String::new();
    let lines = resolvectl::add(&rule())
        .into_iter()
        .chain([resolvectl::remove(&rule().interface)]);
    for line in lines {
        writeln!(text, "resolvectl {}", line.join(" ")).unwrap();
    }
    for address in ["127.77.3.4/32", "10.107.3.4/16", "fd77::4/128"].map(|address| address.parse().unwrap()) {
        writeln!(text, "{}", ifconfig::add(address)).unwrap();
        writeln!(text, "{}", ifconfig::remove(ifconfig::LOOPBACK, address)).unwrap();
    }
    writeln!(
        text,
        "/etc/resolver/test:\n{}",
        resolver_file::text(&owner(), &rule())
    )
    .unwrap();
    insta::assert_snapshot!(text);
}

#[test]
fn route_tells_failures_on_its_standard_error_and_ifconfig_by_its_status() {
    let address = "10.107.0.0/16".parse().unwrap();
    let (route, alias) = (ifconfig::add_route("utun7", address), ifconfig::add(address));
    assert!(route.has_failed(true, "route: writing to routing socket: File exists\n"));
    assert!(route.has_failed(false, "") && alias.has_failed(false, ""));
    assert!(!route.has_failed(true, "\n") && !alias.has_failed(true, "ifconfig: a warning\n"));
}

#[test]
fn snapshot_of_the_ip_helper() {
    let mut text = String::new();
    let luid = 0x0035_0000_0700_0000;
    for address in ["10.107.3.4/16", "fd77::4/128"].map(|address| address.parse().unwrap()) {
        for place in [ip_helper::Place::Loopback, ip_helper::Place::Luid(luid)] {
            writeln!(text, "{:?}", ip_helper::address(place, address)).unwrap();
        }
    }
    for (destination, metric) in [("10.107.0.0/16", None), ("fd77::/64", Some(77))] {
        let row = ip_helper::route(luid, destination.parse().unwrap(), metric);
        writeln!(text, "{row:?}").unwrap();
    }
    for wanted in [
        interface(Some(77)),
        interface(None),
        Interface::new(interface(None).name, Kind::Tun),
    ] {
        writeln!(text, "{:?}", ip_helper::adapter(&owner(), &wanted)).unwrap();
        for row in ip_helper::settings(&wanted) {
            writeln!(text, "  {row:?}").unwrap();
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn an_adapter_has_an_identifier_of_its_own_which_is_always_the_same() {
    let guid = |name: &str| {
        let name = InterfaceName::new(name).unwrap();
        ip_helper::adapter(&owner(), &Interface::new(name, Kind::Tun)).guid
    };
    assert_eq!(guid("devbox0"), guid("devbox0"));
    assert_ne!(guid("devbox0"), guid("devbox1"));
    // Version 8, variant 10 (RFC 9562 §4).
    assert_eq!(
        (guid("devbox0") >> 76 & 0xf, guid("devbox0") >> 62 & 0b11),
        (8, 0b10)
    );
}

#[test]
fn snapshot_of_name_resolution_policies() {
    let mut text = String::new();
    for suffix in &rule().suffixes {
        writeln!(text, "HKLM\\{}\\{}", nrpt::LOCAL, nrpt::key(&owner(), suffix)).unwrap();
        for (name, value) in nrpt::values(&owner(), suffix, &rule()) {
            writeln!(text, "  {name}: {value:?}").unwrap();
        }
    }
    writeln!(text, "sc.exe {}", nrpt::READ_AGAIN.join(" ")).unwrap();
    insta::assert_snapshot!(text);
}

#[test]
fn servers_of_a_policy_are_those_of_its_rule() {
    let values = nrpt::values(&owner(), &rule().suffixes[0], &rule());
    let written = values
        .iter()
        .find(|(name, _)| *name == nrpt::SERVERS)
        .unwrap()
        .1
        .to_string();
    let asked: Vec<_> = nrpt::servers(&written)
        .into_iter()
        .map(|server| (server.ip(), server.port()))
        .collect();
    let wanted: Vec<_> = rule().servers.iter().map(|server| (server.ip(), 53)).collect();
    assert_eq!(asked, wanted);
    assert_eq!(
        nrpt::servers("10.0.0.1; ;dns.example"),
        ["10.0.0.1:53".parse().unwrap()]
    );
}

#[test]
fn an_alias_is_the_owners_and_keeps_the_metric() {
    let other = Owner::new("dev").unwrap();
    for metric in [None, Some(77)] {
        assert_eq!(read_alias(&owner(), &alias(&owner(), metric)), Some(metric));
        assert_eq!(read_alias(&other, &alias(&owner(), metric)), None);
    }
    for text in [
        "",
        "vpn",
        "devbox:netif ",
        "devbox:netif metric x",
        "devbox:netif2",
    ] {
        assert_eq!(read_alias(&owner(), text), None, "{text:?}");
    }
}

/// Another implementation reads every request to its last attribute: what it writes of it is as long, and means the same to it.
#[cfg(target_os = "linux")]
#[test]
fn another_implementation_reads_every_request() {
    use netlink_packet_core::NetlinkMessage;
    use netlink_packet_route::RouteNetlinkMessage;

    // It takes the rest of a dump's header, which is longer than its kind's, for attributes.
    let is_dump = |name: &str| name.starts_with("all ");
    for (name, request) in requests().into_iter().filter(|(name, _)| !is_dump(name)) {
        let bytes = request.finish(1, true);
        let read = |bytes: &[u8]| {
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
                .unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let message = read(&bytes);
        let mut written = vec![0; message.buffer_len()];
        message.serialize(&mut written);
        assert_eq!(written.len(), bytes.len(), "{name}: {message:?}");
        assert_eq!(read(&written), message, "{name}");
    }
}
